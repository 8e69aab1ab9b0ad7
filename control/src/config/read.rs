//! Reads TOML with its place: every value knows its dotted path and its line,
//! so that whatever is wrong with it can be told in one line.
//!
//! The `toml` crate does the syntax only. Types, ranges and unknown keys are
//! checked here, because an error must name the values that are allowed.

use std::fmt::{self, Display};
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is wrong with a configuration file: one line,
/// `file:line: key: what is wrong; what is allowed`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    /// About the whole file, for which there is no line.
    pub(super) fn of_file(file: &str, message: impl Display) -> Self {
        Self(format!("{}: {message}", printable(file)))
    }

    fn at(source: Source<'_>, offset: usize, key: &str, message: impl Display) -> Self {
        let line = source.line(offset);
        Self(format!("{}:{line}: {key}: {message}", printable(source.file)))
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// The outcome of reading.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// A file's name and text.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    pub(super) file: &'t str,
    pub(super) text: &'t str,
}

impl<'t> Source<'t> {
    /// Parses the text into TOML, of which [`Table::root`] is the start.
    pub(super) fn parse(self) -> Result<DeTable<'t>> {
        DeTable::parse(self.text).map(Spanned::into_inner).map_err(|error| {
            let span = error.span().unwrap_or(self.text.len()..self.text.len());
            Error::at(self, span.start, "syntax", self.syntax_message(error.message(), span))
        })
    }

    fn syntax_message(self, message: &str, span: Range<usize>) -> String {
        if message == "duplicate key" {
            let key = self.text.get(span).unwrap_or_default();
            return format!("{} is given twice; keep one of them", printable(key));
        }
        let start = span.start.min(self.text.len());
        let line = self.text.lines().nth(self.line(start) - 1).unwrap_or_default();
        let message = match message {
            "string values must be quoted, expected literal string" => {
                "the value is missing, or a string without quotes"
            }
            _ => message.trim_end_matches(", expected nothing"),
        };
        let message = printable(message);
        format!("{message}, in {}; the file must be TOML (https://toml.io)", quoted(line.trim()))
    }

    /// The line of a byte, counted from 1.
    fn line(self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }
}

/// A table whose keys are all known. A section that the file does not have is
/// an empty one.
pub(super) struct Table<'t> {
    source: Source<'t>,
    /// Dotted path, empty for the root.
    path: String,
    table: Option<&'t DeTable<'t>>,
    /// Where the table begins.
    offset: usize,
}

impl<'t> Table<'t> {
    pub(super) fn root(
        source: Source<'t>,
        table: &'t DeTable<'t>,
        allowed: &[&str],
    ) -> Result<Self> {
        let root = Self { source, path: String::new(), table: Some(table), offset: 0 };
        root.refuse_unknown_keys(allowed)?;
        Ok(root)
    }

    /// The section `[key]`.
    pub(super) fn section(&'t self, key: &str, allowed: &[&str]) -> Result<Self> {
        let Some(item) = self.item(key) else {
            let path = join(&self.path, key);
            return Ok(Self { source: self.source, path, table: None, offset: self.offset });
        };
        item.table(allowed, &format!("write it as [{}]", item.path()))
    }

    /// The tables of `[[key]]`, in the order of the file.
    pub(super) fn sections(&'t self, key: &str, allowed: &[&str]) -> Result<Vec<Self>> {
        let Some(item) = self.item(key) else {
            return Ok(Vec::new());
        };
        // Double brackets are needed at each level: [[service.server]].
        let give = format!("write it as [[{}]]", without_indices(&item.path()));
        item.items(&give)?.iter().map(|element| element.table(allowed, &give)).collect()
    }

    pub(super) fn item(&'t self, key: &str) -> Option<Item<'t>> {
        let (key, value) = self.table?.get_key_value(key)?;
        Some(Item { table: self, key: key.get_ref(), index: None, value })
    }

    pub(super) fn required(&'t self, key: &str, give: &str) -> Result<Item<'t>> {
        self.item(key).ok_or_else(|| self.missing(key, give))
    }

    pub(super) fn missing(&self, key: &str, give: &str) -> Error {
        let path = join(&self.path, key);
        Error::at(self.source, self.offset, &path, format!("missing; give {give}"))
    }

    /// An error about `key`, present or not.
    pub(super) fn error(&'t self, key: &str, message: impl Display) -> Error {
        if let Some(item) = self.item(key) {
            return item.error(message);
        }
        Error::at(self.source, self.offset, &join(&self.path, key), message)
    }

    pub(super) fn integer<T: TryFrom<i128> + PartialOrd + Display>(
        &'t self,
        key: &str,
        default: T,
        range: RangeInclusive<T>,
    ) -> Result<T> {
        self.item(key).map_or(Ok(default), |item| item.integer(range))
    }

    pub(super) fn boolean(&'t self, key: &str, default: bool) -> Result<bool> {
        let Some(item) = self.item(key) else {
            return Ok(default);
        };
        item.value.get_ref().as_bool().ok_or_else(|| item.wrong_type("true or false"))
    }

    /// The elements of an array; none when the key is absent.
    pub(super) fn items(&'t self, key: &str, give: &str) -> Result<Vec<Item<'t>>> {
        self.item(key).map_or(Ok(Vec::new()), |item| item.items(&format!("give {give}")))
    }

    fn refuse_unknown_keys(&self, allowed: &[&str]) -> Result<()> {
        let unknown = self
            .table
            .into_iter()
            .flat_map(DeTable::keys)
            .filter(|key| !allowed.contains(&key.get_ref().as_ref()))
            .min_by_key(|key| key.span().start);
        let Some(key) = unknown else {
            return Ok(());
        };
        let name = key.get_ref();
        let hint = nearest(name, allowed)
            .map(|near| format!("; did you mean \"{near}\"?"))
            .unwrap_or_default();
        let what = if self.path.is_empty() { "section" } else { "key" };
        let message = format!("unknown {what}{hint}; allowed are {}", allowed.join(", "));
        Err(Error::at(self.source, key.span().start, &join(&self.path, name), message))
    }
}

/// A value and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Item<'t> {
    table: &'t Table<'t>,
    key: &'t str,
    index: Option<usize>,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Item<'t> {
    fn path(&self) -> String {
        let path = join(&self.table.path, self.key);
        self.index.map_or_else(|| path.clone(), |index| format!("{path}[{index}]"))
    }

    /// An error that names this value.
    pub(super) fn error(&self, message: impl Display) -> Error {
        Error::at(self.table.source, self.offset(), &self.path(), message)
    }

    /// Where the value begins, to name its line should another repeat it.
    pub(super) fn offset(&self) -> usize {
        self.value.span().start
    }

    /// The error of a value that stands already at `first`, an offset.
    pub(super) fn repeats(&self, what: impl Display, first: usize, give: &str) -> Error {
        let line = self.table.source.line(first);
        self.error(format!("{what} is already given in line {line}; {give}"))
    }

    pub(super) fn integer<T: TryFrom<i128> + PartialOrd + Display>(
        &self,
        range: RangeInclusive<T>,
    ) -> Result<T> {
        let give = format!("an integer from {} to {}", range.start(), range.end());
        let Some(integer) = self.value.get_ref().as_integer() else {
            return Err(self.wrong_type(&give));
        };
        i128::from_str_radix(integer.as_str(), integer.radix())
            .ok()
            .and_then(|value| T::try_from(value).ok())
            .filter(|value| range.contains(value))
            .ok_or_else(|| {
                let shown = printable(&integer.to_string());
                self.error(format!("{shown} is out of range; give {give}"))
            })
    }

    pub(super) fn is_integer(&self) -> bool {
        self.value.get_ref().as_integer().is_some()
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        self.value.get_ref().as_bool()
    }

    pub(super) fn string(&self, give: &str) -> Result<&'t str> {
        self.value.get_ref().as_str().ok_or_else(|| self.wrong_type(give))
    }

    /// A string that `parse` understands; its error says what the string is or
    /// has, e.g. `is not an IP address`.
    pub(super) fn parsed<T>(
        &self,
        give: &str,
        parse: impl FnOnce(&str) -> std::result::Result<T, String>,
    ) -> Result<T> {
        let text = self.string(give)?;
        parse(text).map_err(|why| self.error(format!("{} {why}; give {give}", quoted(text))))
    }

    /// One of some names.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T> {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        self.parsed(&names.join(" or "), |text| {
            let found = choices.iter().find(|(name, _)| *name == text);
            found.map(|&(_, value)| value).ok_or_else(|| "is unknown".to_owned())
        })
    }

    fn items(&self, give: &str) -> Result<Vec<Self>> {
        let Some(array) = self.value.get_ref().as_array() else {
            return Err(self.error(format!("is {}; {give}", self.kind())));
        };
        let element = |(index, value)| Self { index: Some(index), value, ..*self };
        Ok(array.iter().enumerate().map(element).collect())
    }

    fn table(&self, allowed: &[&str], give: &str) -> Result<Table<'t>> {
        let Some(table) = self.value.get_ref().as_table() else {
            return Err(self.error(format!("is {}; {give}", self.kind())));
        };
        let table = Table {
            source: self.table.source,
            path: self.path(),
            table: Some(table),
            offset: self.offset(),
        };
        table.refuse_unknown_keys(allowed)?;
        Ok(table)
    }

    fn wrong_type(&self, give: &str) -> Error {
        self.error(format!("is {}; give {give}", self.kind()))
    }

    fn kind(&self) -> &'static str {
        match self.value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        }
    }
}

/// A text of the file as it may stand in a message: on one line, in quotes and
/// not long.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            shown.push_str("...");
            break;
        }
        // U+2028 and U+2029 end a line in some viewers.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = if !key.is_empty() && key.chars().all(bare) { printable(key) } else { quoted(key) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// `service[1].server` as a header is written: `service.server`.
fn without_indices(path: &str) -> String {
    path.split('[').map(|part| part.split_once(']').map_or(part, |(_, rest)| rest)).collect()
}

/// The allowed name that a misspelt one most probably stands for.
fn nearest<'a>(name: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let (distance, near) =
        allowed.iter().map(|&candidate| (edits(name, candidate), candidate)).min()?;
    let tolerable = 1 + near.len() / 4;
    (distance <= tolerable).then_some(near)
}

/// The Levenshtein distance, in bytes. A long name is cut: it is near to none.
fn edits(a: &str, b: &str) -> usize {
    let a = &a.as_bytes()[..a.len().min(64)];
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, &byte_a) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_close() {
        let names = ["device", "mtu", "rx_descriptors", "tx_descriptors"];
        assert_eq!(nearest("devcie", &names), Some("device"));
        assert_eq!(nearest("MTU", &names), None);
        assert_eq!(nearest("mtus", &names), Some("mtu"));
        assert_eq!(nearest("rx_desc", &names), None);
        assert_eq!(nearest("rx-descriptor", &names), Some("rx_descriptors"));
        assert_eq!(nearest(&"x".repeat(1_000_000), &names), None);
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("abc", ""), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("same", "same"), 0);
    }

    #[test]
    fn paths_name_what_a_header_can_hold() {
        assert_eq!(join("port[0]", "mtu"), "port[0].mtu");
        assert_eq!(join("", "a\nb"), "\"a\\nb\"");
        assert_eq!(without_indices("service[12].server"), "service.server");
    }
}
