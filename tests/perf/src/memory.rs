//! Part *memory*: what connections take, and how long a director needs to start.

use std::time::Instant;

use dataplane::conn::HashKey;

use crate::bed::flows::random_order;
use crate::bed::setup::{Setup, director};
use crate::bed::{Bed, Family, Method, Protocol};
use crate::report::{Report, Row};
use crate::scale::Scale;
use crate::stats::median;

const PART: &str = "memory";
/// Connections of the table whose start is timed.
const STARTED: usize = 10_000_000;

pub(crate) fn run(scale: &Scale, report: &mut Report) -> Result<(), String> {
    let counts: &[usize] = if scale.quick { &[scale.live] } else { &[scale.live, STARTED] };
    for (method, family) in
        [(Method::Dr, Family::V4), (Method::Dr, Family::V6), (Method::Nat, Family::V4)]
    {
        for &count in counts {
            report.doing(&format!("memory: {} {count} connections", method.name()));
            if let Err(error) = connections(report, method, family, count) {
                report.failure(PART, method.name(), &error)?;
            }
        }
    }
    start(scale, report)
}

/// Memory of a table with so many connections, all that it was made for.
fn connections(
    report: &mut Report,
    method: Method,
    family: Family,
    count: usize,
) -> Result<(), String> {
    // The flows themselves and the first touch of buffers are not the table's.
    let setup = Setup { servers: 10, ..Setup::new(method, family, Protocol::Udp) };
    let mut bed = Bed::unprepared(setup, count)?;
    bed.flows = random_order(count, setup.services);
    bed.warm_up();
    let before = resident()?;
    bed.open_all()?;
    let bytes = resident()?.saturating_sub(before);
    let row = Row {
        family: Some(crate::bed::runner::family_name(family).into()),
        flows: Some(count as u64),
        ..Row::value(PART, method.name(), bytes as f64 / count as f64, "bytes a connection")
    };
    report.row(&row.with_note(format!("{:.0} MiB", bytes as f64 / 1048576.0)))
}

/// Time to make a director for ten million connections.
fn start(scale: &Scale, report: &mut Report) -> Result<(), String> {
    let shard = Setup::new(Method::Dr, Family::V4, Protocol::Tcp).shard();
    let mut times = Vec::new();
    for _ in 0..scale.rounds {
        let start = Instant::now();
        drop(director(0, &shard, HashKey::random(), STARTED)?);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let row = Row {
        flows: Some(STARTED as u64),
        rounds: Some(scale.rounds as u64),
        ..Row::value(PART, "start and end of a director", median(times), "ms")
    };
    report.row(&row)
}

/// Memory of this process, bytes: ordinary pages that it touched, and huge ones.
pub(crate) fn resident() -> Result<usize, String> {
    let path = "/proc/self/status";
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(kib(&text, "VmRSS:") * 1024 + kib(&text, "HugetlbPages:") * 1024)
}

/// A field of /proc/self/status; 0 where there is none.
fn kib(status: &str, field: &str) -> usize {
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let status = "VmPeak:\t  100 kB\nVmRSS:\t   48 kB\nHugetlbPages:\t    2048 kB\n";
        let fields = ["VmRSS:", "HugetlbPages:", "VmSwap:"].map(|field| kib(status, field));
        assert_eq!(fields, [48, 2048, 0]);
        assert!(resident().unwrap() > 100_000);
    }
}
