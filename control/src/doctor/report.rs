//! What was found, and how it is shown.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// rvsd does not start, or packets are lost.
    Error,
    /// It works, but not as well as it should.
    Warning,
    /// Good to know.
    Note,
}

/// Something to mend, or to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, a word or two.
    pub area: &'static str,
    /// What is the case.
    pub what: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The command that mends it, or what else does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mend: String,
}

impl Finding {
    fn new(severity: Severity, area: &'static str, what: String) -> Self {
        Self { severity, area, what, why: String::new(), mend: String::new() }
    }

    /// An error.
    #[must_use]
    pub fn error(area: &'static str, what: impl Into<String>) -> Self {
        Self::new(Severity::Error, area, what.into())
    }

    /// A warning.
    #[must_use]
    pub fn warning(area: &'static str, what: impl Into<String>) -> Self {
        Self::new(Severity::Warning, area, what.into())
    }

    /// A note.
    #[must_use]
    pub fn note(area: &'static str, what: impl Into<String>) -> Self {
        Self::new(Severity::Note, area, what.into())
    }

    /// The same with why it matters.
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// The same with what mends it.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = mend.into();
        self
    }
}

/// For people.
pub(super) fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { severity, area, what, why, mend } in findings {
        let severity = match severity {
            Severity::Error => "ERROR  ",
            Severity::Warning => "warning",
            Severity::Note => "note   ",
        };
        text += &format!("{severity}  {area}: {what}\n");
        if !why.is_empty() {
            text += &format!("         why:  {why}\n");
        }
        if !mend.is_empty() {
            text += &format!("         mend: {mend}\n");
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    text += &match (errors, warnings) {
        (0, 0) => "Nothing to mend.\n".to_owned(),
        _ => format!("{errors} errors, {warnings} warnings.\n"),
    };
    text
}

/// For programs.
pub(super) fn json(findings: &[Finding]) -> String {
    let findings = serde_json::json!({ "findings": findings });
    format!("{findings:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_why_and_what_to_do() {
        let findings = [
            Finding::error("huge pages", "10 MB free").because("rvsd needs 20").mend("get more"),
            Finding::note("director", "away"),
        ];
        assert_eq!(
            text(&findings),
            "ERROR    huge pages: 10 MB free\n         why:  rvsd needs 20\n         mend: get more\n\
             note     director: away\n1 errors, 0 warnings.\n"
        );
        assert_eq!(text(&findings[1..]), "note     director: away\nNothing to mend.\n");
        let value: serde_json::Value = serde_json::from_str(&json(&findings)).unwrap();
        assert_eq!(value["findings"][0]["severity"], "error");
        assert_eq!(value["findings"][1].get("mend"), None);
    }
}
