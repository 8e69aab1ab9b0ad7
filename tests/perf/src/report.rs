//! Rows of results: a table as they come, JSON lines, and beside them those of
//! an earlier run.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::measure::Sample;
use crate::stats::median;

/// Less of a CPU than this is said beside a figure.
const FULL_SHARE: f64 = 0.9;

/// A result. What does not apply is left out of the JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The part of the run.
    pub(crate) part: String,
    /// The forwarding method and direction, or what else was measured.
    pub(crate) method: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) family: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) servers: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flows: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) burst: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workers: Option<u64>,
    /// Where packets come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) harness: Option<String>,
    /// CPU time of a packet with the harness, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ns_per_packet: Option<f64>,
    /// That of the harness alone, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) baseline_ns: Option<f64>,
    /// The difference, ns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) net_ns: Option<f64>,
    /// Million packets a second, all workers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mpps: Option<f64>,
    /// To what the row's note says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    /// A figure that is not a packet's cost, and its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    /// The figure is a median of so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rounds: Option<u64>,
    /// The share of a CPU that the measured thread got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_share: Option<f64>,
    /// Why there is no figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
    /// What else is to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Row {
    pub(crate) fn new(part: &str, method: impl Into<String>) -> Self {
        Self { part: part.into(), method: method.into(), ..Self::default() }
    }

    /// A part or row without a figure.
    pub(crate) fn skipped(part: &str, method: &str, reason: impl Into<String>) -> Self {
        Self { skipped: Some(reason.into()), ..Self::new(part, method) }
    }

    /// A figure that is not a packet's cost.
    pub(crate) fn value(part: &str, method: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { value: Some(value), unit: Some(unit.into()), ..Self::new(part, method) }
    }

    /// Fills in what pairs of samples, with the director and of the harness
    /// alone, say.
    pub(crate) fn measured(mut self, samples: &[(Sample, Sample)]) -> Self {
        let net = median(samples.iter().map(|(all, harness)| all.ns() - harness.ns()));
        self.ns_per_packet = Some(median(samples.iter().map(|(all, _)| all.ns())));
        self.baseline_ns = Some(median(samples.iter().map(|(_, harness)| harness.ns())));
        self.net_ns = Some(net);
        self.mpps = (net > 0.0).then(|| 1000.0 / net);
        self.rounds = Some(samples.len() as u64);
        let all: Vec<_> = samples.iter().flat_map(|(all, harness)| [*all, *harness]).collect();
        self.cpu_share = Some(Sample::sum(&all).cpu_share());
        self
    }

    pub(crate) fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }

    /// What tells rows of one run apart, and finds the same one in another.
    fn name(&self) -> String {
        let Self { part, method, family, protocol, scheduler, servers, flows, burst, .. } = self;
        let Self { workers, harness, .. } = self;
        format!(
            "{part} {method} {family:?} {protocol:?} {scheduler:?} {servers:?} {flows:?} {burst:?} {workers:?} {harness:?}"
        )
    }

    /// The figure that two runs are compared by, and whether it is one.
    fn figure(&self) -> Option<f64> {
        self.net_ns.or(self.value).or(self.ratio)
    }
}

/// The rows of an earlier run.
#[derive(Debug, Default)]
pub(crate) struct Earlier(HashMap<String, Row>);

impl Earlier {
    /// Reads JSON lines that [`Report`] wrote.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut rows = HashMap::new();
        for (line, number) in text.lines().zip(1..) {
            let row: Row = serde_json::from_str(line).map_err(|error| {
                let path = path.display();
                format!("{path}:{number}: {error}; give a file that scripts/perf --json wrote")
            })?;
            rows.insert(row.name(), row);
        }
        Ok(Self(rows))
    }

    /// What a row's figure was, and by how many per cent it changed.
    fn of(&self, row: &Row) -> Option<(f64, f64)> {
        let before = self.0.get(&row.name())?.figure()?;
        let now = row.figure()?;
        (before != 0.0).then(|| (before, (now - before) / before * 100.0))
    }
}

/// Where results go.
pub(crate) struct Report {
    json: Option<BufWriter<File>>,
    earlier: Option<Earlier>,
    /// The part whose heading was printed.
    part: String,
    progress: Option<Instant>,
    is_terminal: bool,
    /// Rows without a figure because something was wrong.
    pub(crate) failed: usize,
}

impl Report {
    pub(crate) fn new(json: Option<&Path>, compare: Option<&Path>) -> Result<Self, String> {
        let earlier = compare.map(Earlier::read).transpose()?;
        let create = |path: &Path| {
            File::create(path).map(BufWriter::new).map_err(|e| format!("{}: {e}", path.display()))
        };
        Ok(Self {
            json: json.map(create).transpose()?,
            earlier,
            part: String::new(),
            progress: None,
            is_terminal: std::io::stderr().is_terminal(),
            failed: 0,
        })
    }

    /// Says what is being done, on a terminal, in a line that the next one
    /// takes the place of.
    pub(crate) fn doing(&mut self, what: &str) {
        const OFTEN: Duration = Duration::from_millis(50);
        if !self.is_terminal || self.progress.is_some_and(|last| last.elapsed() < OFTEN) {
            return;
        }
        self.progress = Some(Instant::now());
        eprint!("\r\x1b[K... {what}");
    }

    /// Prints a line.
    pub(crate) fn say(&self, text: &str) -> Result<(), String> {
        writeln!(std::io::stdout(), "{text}").map_err(|error| format!("standard output: {error}"))
    }

    /// Prints and records a row.
    pub(crate) fn row(&mut self, row: &Row) -> Result<(), String> {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
        if row.part != self.part {
            self.say(&format!(
                "{}{}",
                if self.part.is_empty() { "" } else { "\n" },
                heading(&row.part)
            ))?;
            self.part.clone_from(&row.part);
        }
        let compared = self.earlier.as_ref().and_then(|earlier| earlier.of(row));
        self.say(&line(row, compared))?;
        if let Some(json) = &mut self.json {
            let written = serde_json::to_writer(&mut *json, row).map_err(std::io::Error::from);
            written
                .and_then(|()| json.write_all(b"\n"))
                .and_then(|()| json.flush())
                .map_err(|error| format!("the --json file: {error}"))?;
        }
        Ok(())
    }

    /// A row that could not be measured.
    pub(crate) fn failure(&mut self, part: &str, method: &str, why: &str) -> Result<(), String> {
        self.failed += 1;
        self.row(&Row::skipped(part, method, format!("FAILED: {why}")))
    }
}

const METHOD: usize = 36;

fn heading(part: &str) -> String {
    format!(
        "{part:<METHOD$} {:>6} {:>5} {:>9} {:>8} {:>8} {:>8} {:>6}",
        "flows", "burst", "ns/packet", "harness", "net ns", "Mpps", "CPU"
    )
}

/// A row of the table.
fn line(row: &Row, compared: Option<(f64, f64)>) -> String {
    let mut what = row.method.clone();
    for word in [&row.family, &row.protocol, &row.scheduler].into_iter().flatten() {
        what = format!("{what} {word}");
    }
    if let Some(harness) = row.harness.as_ref().filter(|harness| *harness != "recirculate") {
        what = format!("{what} ({harness})");
    }
    if let Some(reason) = &row.skipped {
        let word = if reason.starts_with("FAILED") { "" } else { "skipped: " };
        return format!("{what:<METHOD$} {word}{reason}");
    }
    let number = |value: Option<f64>, digits: usize| {
        value.map_or(String::new(), |value| format!("{value:.digits$}"))
    };
    let mut text = match (row.value, &row.unit) {
        (Some(value), Some(unit)) => {
            let digits = if value.abs() < 10.0 { 2 } else { 1 };
            format!("{what:<METHOD$} {:>6} {value:>15.digits$} {unit}", short(row.flows))
        }
        _ => format!(
            "{what:<METHOD$} {:>6} {:>5} {:>9} {:>8} {:>8} {:>8} {:>6}",
            short(row.flows),
            row.burst.map_or(String::new(), |burst| burst.to_string()),
            number(row.ns_per_packet, 1),
            number(row.baseline_ns, 1),
            number(row.net_ns, 1),
            number(row.mpps, 2),
            number(row.cpu_share, 2),
        ),
    };
    if let Some(ratio) = row.ratio {
        text += &format!("  ratio {ratio:.2}");
    }
    if let Some(note) = &row.note {
        text += &format!("  {note}");
    }
    if let Some(share) = row.cpu_share.filter(|share| *share < FULL_SHARE) {
        text += &format!("  got {share:.2} of a CPU");
    }
    if let Some((before, change)) = compared {
        text += &format!("  before {before:.1} ({change:+.1} %)");
    }
    text.trim_end().to_string()
}

/// 64K for 65536, and so on.
pub(crate) fn short(count: Option<u64>) -> String {
    match count {
        None => String::new(),
        Some(n) if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        Some(n) if n >= 1_000 && n % 1_000 == 0 => format!("{}K", n / 1_000),
        Some(n) => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu: u64, wall: u64, packets: u64) -> Sample {
        Sample { cpu: Duration::from_nanos(cpu), wall: Duration::from_nanos(wall), packets }
    }

    fn row() -> Row {
        let pairs = [
            (sample(3000, 3000, 100), sample(500, 500, 100)),
            (sample(2000, 4000, 100), sample(400, 1000, 100)),
            (sample(9000, 9000, 100), sample(600, 600, 100)),
        ];
        let row = Row { flows: Some(64_000), burst: Some(64), ..Row::new("process", "DR") };
        row.measured(&pairs)
    }

    #[test]
    fn a_row_has_the_medians_and_the_share_that_was_got() {
        let row = row();
        assert_eq!((row.ns_per_packet, row.baseline_ns), (Some(30.0), Some(5.0)));
        assert_eq!((row.net_ns, row.mpps, row.rounds), (Some(25.0), Some(40.0), Some(3)));
        assert!((row.cpu_share.unwrap() - 15_500.0 / 18_100.0).abs() < 1e-9);
        let line = line(&row, None);
        assert!(line.contains("64K    64      30.0      5.0     25.0    40.00"), "{line}");
        assert!(line.ends_with("got 0.86 of a CPU"), "{line}");
    }

    #[test]
    fn json_lines_have_what_applies_and_come_back() {
        let row = row();
        let text = serde_json::to_string(&row).unwrap();
        assert!(text.contains(r#""net_ns":25.0"#) && !text.contains("skipped"), "{text}");
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
        let skipped = Row::skipped("daemon", "rvsd", "no dpdk-testpmd");
        let text = serde_json::to_string(&skipped).unwrap();
        assert_eq!(text, r#"{"part":"daemon","method":"rvsd","skipped":"no dpdk-testpmd"}"#);
        assert_eq!(line(&skipped, None), format!("{:<METHOD$} skipped: no dpdk-testpmd", "rvsd"));
    }

    #[test]
    fn an_earlier_run_stands_beside_the_same_rows_only() {
        let path = std::env::temp_dir().join(format!("rvs-perf-{}.json", std::process::id()));
        let before = Row { net_ns: Some(20.0), ..row() };
        let value = Row::value("memory", "start", 8.0, "ms");
        let lines = [before, value].map(|row| serde_json::to_string(&row).unwrap());
        std::fs::write(&path, lines.join("\n")).unwrap();
        let earlier = Earlier::read(&path).unwrap();
        assert_eq!(earlier.of(&row()), Some((20.0, 25.0)));
        assert_eq!(earlier.of(&Row { burst: Some(32), ..row() }), None);
        let now = Row::value("memory", "start", 4.0, "ms");
        let compared = earlier.of(&now);
        assert_eq!(compared, Some((8.0, -50.0)));
        assert!(line(&now, compared).ends_with("4.00 ms  before 8.0 (-50.0 %)"));
        std::fs::write(&path, "{\"part\":1}\n").unwrap();
        let error = Earlier::read(&path).unwrap_err();
        assert!(error.contains(":1: ") && error.contains("--json"), "{error}");
        std::fs::remove_file(&path).unwrap();
        assert!(Earlier::read(&path).is_err());
    }

    #[test]
    fn counts_are_short() {
        let all = [1, 1_000, 64_000, 1_000_000, 1_500_000].map(|n| short(Some(n)));
        assert_eq!(all, ["1", "1K", "64K", "1M", "1500K"]);
    }
}
