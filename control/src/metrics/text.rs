//! Writes the text format of OpenMetrics 1.0.

use std::fmt::{Display, Write};

use super::families::Family;
use super::latency::Latency;

/// A page that grows family by family.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

impl Page {
    /// Begins a family. All its samples have to follow at once; without any
    /// nothing is written, as some parsers want it.
    pub(super) fn family(&mut self, family: &Family) -> Samples<'_> {
        Samples { text: &mut self.text, family: *family, begun: false }
    }

    /// The page, with its end.
    pub(super) fn finish(mut self) -> String {
        self.text.push_str("# EOF\n");
        self.text
    }
}

/// Writes samples of one family.
pub(super) struct Samples<'a> {
    text: &'a mut String,
    family: Family,
    begun: bool,
}

impl Samples<'_> {
    /// A sample with the values of the family's labels, in their order.
    pub(super) fn add(&mut self, labels: &[&dyn Display], value: impl Display) {
        self.sample(self.family.kind.suffix(), labels, &[], value);
    }

    /// The samples of a histogram.
    pub(super) fn add_histogram(&mut self, histogram: &Latency) {
        let mut count = 0;
        for (bound, observed) in histogram.buckets() {
            count += observed;
            self.sample("_bucket", &[], &[("le", bound)], count);
        }
        self.sample("_sum", &[], &[], histogram.sum_seconds());
        self.sample("_count", &[], &[], count);
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let Family { name, kind, help, .. } = self.family;
        put(self.text, format_args!("# TYPE {name} {}\n", kind.name()));
        if let Some(unit) = self.family.unit() {
            put(self.text, format_args!("# UNIT {name} {unit}\n"));
        }
        put(self.text, format_args!("# HELP {name} {help}\n"));
    }

    fn sample(
        &mut self,
        suffix: &str,
        labels: &[&dyn Display],
        more: &[(&str, &str)],
        value: impl Display,
    ) {
        self.begin();
        debug_assert_eq!(labels.len(), self.family.labels.len(), "{}", self.family.name);
        self.text.push_str(self.family.name);
        self.text.push_str(suffix);
        let more = more.iter().map(|&(name, value)| (name, value.to_owned()));
        let own = self.family.labels.iter().zip(labels);
        let mut separator = '{';
        for (name, value) in own.map(|(&name, value)| (name, value.to_string())).chain(more) {
            put(self.text, format_args!("{separator}{name}=\""));
            escape(self.text, &value);
            self.text.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.text.push('}');
        }
        put(self.text, format_args!(" {value}\n"));
    }
}

/// A label's value as the format wants it.
fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

/// Appends to a string, which cannot fail.
fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::families::Kind;
    use super::*;

    const TIMES: Family =
        Family { name: "a_seconds", kind: Kind::Counter, labels: &["name"], help: "Times." };

    #[test]
    fn the_form_is_that_of_the_specification() {
        let mut page = Page::default();
        page.family(&TIMES).add(&[&"q\"b\\n\n"], 1.5);
        assert_eq!(
            page.finish(),
            "# TYPE a_seconds counter\n# UNIT a_seconds seconds\n# HELP a_seconds Times.\n\
             a_seconds_total{name=\"q\\\"b\\\\n\\n\"} 1.5\n# EOF\n"
        );
    }

    #[test]
    fn buckets_of_a_histogram_are_cumulative() {
        let mut latency = Latency::default();
        for micros in [60, 60, 400, 9_000_000] {
            latency.observe(Duration::from_micros(micros));
        }
        let mut page = Page::default();
        let family = Family { labels: &[], kind: Kind::Histogram, ..TIMES };
        page.family(&family).add_histogram(&latency);
        let text = page.finish();
        for line in [
            "a_seconds_bucket{le=\"0.00005\"} 0\n",
            "a_seconds_bucket{le=\"0.0001\"} 2\n",
            "a_seconds_bucket{le=\"0.0005\"} 3\n",
            "a_seconds_bucket{le=\"2.5\"} 3\n",
            "a_seconds_bucket{le=\"+Inf\"} 4\n",
            "a_seconds_sum 9.00052\n",
            "a_seconds_count 4\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
