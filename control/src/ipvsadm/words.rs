//! The words of a command line, as popt splits them. What popt and lexopt do
//! differently is settled here: popt's messages quote the whole argument.

use std::ffi::OsString;

use super::grammar::UsageError;

/// An option of the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Short(char),
    Long(String),
}

/// Reads options one by one and puts the loose arguments aside.
pub(super) struct Words {
    parser: lexopt::Parser,
    /// The argument that the latest option is part of.
    current: String,
    /// Arguments that belong to no option, in order.
    pub(super) loose: Vec<String>,
}

impl Words {
    pub(super) fn new(args: impl IntoIterator<Item = OsString>) -> Self {
        let args: Vec<OsString> = args.into_iter().collect();
        Self { parser: lexopt::Parser::from_args(args), current: String::new(), loose: Vec::new() }
    }

    /// The argument that the latest option is part of, for messages.
    pub(super) fn current(&self) -> &str {
        &self.current
    }

    /// The next option, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Word>, UsageError> {
        loop {
            // In the middle of a cluster such as `-Ln` there is no next
            // argument, and the cluster stays the current one.
            let arguments = self.parser.try_raw_args();
            let next = arguments.and_then(|a| a.as_slice().first().cloned());
            if let Some(argument) = next {
                self.current = argument.to_string_lossy().into_owned();
            }
            match self.parser.next() {
                Ok(None) => return Ok(None),
                Ok(Some(lexopt::Arg::Short(letter))) => return Ok(Some(Word::Short(letter))),
                Ok(Some(lexopt::Arg::Long(name))) => return Ok(Some(Word::Long(name.to_owned()))),
                Ok(Some(lexopt::Arg::Value(value))) => {
                    self.loose.push(value.to_string_lossy().into_owned());
                }
                Err(_) => return Err(self.bad("option does not take an argument")),
            }
        }
    }

    /// The argument of the latest option; the next one, whatever it looks like,
    /// when none is attached.
    pub(super) fn value(&mut self) -> Result<String, UsageError> {
        match self.parser.value() {
            Ok(value) => Ok(value.to_string_lossy().into_owned()),
            Err(_) => Err(self.bad("missing argument")),
        }
    }

    /// The argument of the latest option if there is one: attached, or the next
    /// one unless that begins with a dash.
    pub(super) fn optional_value(&mut self) -> Option<String> {
        if let Some(value) = self.parser.optional_value() {
            return Some(value.to_string_lossy().into_owned());
        }
        let mut arguments = self.parser.try_raw_args()?;
        let value = arguments.next_if(|a| !a.to_string_lossy().starts_with('-'))?;
        Some(value.to_string_lossy().into_owned())
    }

    /// An error about the current argument, as popt words it.
    pub(super) fn bad(&self, what: &str) -> UsageError {
        UsageError { message: format!("{}: {what}", self.current), code: 255 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Words {
        Words::new(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn a_cluster_is_quoted_as_a_whole() {
        let mut words = words("x -Ln --list y");
        assert_eq!(words.next().unwrap(), Some(Word::Short('L')));
        assert_eq!(words.next().unwrap(), Some(Word::Short('n')));
        assert_eq!(words.current(), "-Ln");
        assert_eq!(words.next().unwrap(), Some(Word::Long("list".into())));
        assert_eq!(words.current(), "--list");
        assert_eq!(words.next().unwrap(), None);
        assert_eq!(words.loose, ["x", "y"]);
    }

    #[test]
    fn an_optional_value_is_attached_or_next_but_no_option() {
        for (line, expected) in [
            ("-p60", Some("60")),
            ("-p=60", Some("60")),
            ("-p 60", Some("60")),
            ("--p=60", Some("60")),
            ("-p -s", None),
            ("-p", None),
        ] {
            let mut words = words(line);
            words.next().unwrap();
            assert_eq!(words.optional_value().as_deref(), expected, "{line}");
        }
    }
}
