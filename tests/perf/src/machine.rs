//! Part *machine*: what a line of memory costs at this hour, whatever RVS does.
//!
//! Lines are asked for as the tables' lines are, a burst at a time, in memory
//! of the same kind: the rows of the part *process* can be reckoned from these.

use dataplane::conn::memory::Region;
use dataplane::director::BURST;

use crate::bed::flows::Random;
use crate::measure::{Sample, Watch};
use crate::report::{Report, Row};
use crate::scale::Scale;
use crate::stats::median;

const PART: &str = "machine";

/// A cache line.
type Line = [u64; 8];

const KIB: usize = 1024 / size_of::<Line>();
const MIB: usize = 1024 * KIB;

/// Lines to choose from: what the second-level cache has, the third, what a
/// million connections take, and ten million.
const SIZES: [(&str, usize); 4] =
    [("64 KiB", 64 * KIB), ("6 MiB", 6 * MIB), ("100 MiB", 100 * MIB), ("1 GiB", 1024 * MIB)];
/// How many of them in tests.
const SMOKE_SIZES: usize = 2;

/// What is done with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    /// Read and changed, so that it is written back one day.
    Written,
}

impl Use {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Written => "written",
        }
    }
}

pub(crate) fn run(scale: &Scale, report: &mut Report) -> Result<(), String> {
    let sizes = if scale.smoke { &SIZES[..SMOKE_SIZES] } else { &SIZES };
    report.doing("machine: lines of memory");
    let mut lines = match memory(sizes.iter().map(|(_, lines)| *lines).max().unwrap_or_default()) {
        Ok(lines) => lines,
        Err(error) => return report.failure(PART, "a random line", &error),
    };
    // On and on: a sequence that comes again finds its lines in the caches.
    let mut random = Random(1);
    for &(name, count) in sizes {
        for how in [Use::Read, Use::Written] {
            let title = format!("a random line of {name}, {}", how.name());
            report.doing(&format!("machine: {title}"));
            // The first ones find other lines in the caches.
            let mut uses = |uses| go_through(&mut lines, (count, how), &mut random, uses);
            uses(scale.packets / 4);
            let samples: Vec<_> = (0..scale.rounds).map(|_| uses(scale.packets)).collect();
            let ns = median(samples.iter().map(Sample::ns));
            report.row(&Row {
                burst: Some(BURST as u64),
                rounds: Some(scale.rounds as u64),
                cpu_share: Some(Sample::sum(&samples).cpu_share()),
                ..Row::value(PART, title, ns, "ns")
            })?;
        }
    }
    Ok(())
}

/// So many lines, all of whose pages are there.
fn memory(lines: usize) -> Result<Region<Line>, String> {
    let no_memory = || "no memory for 1 GiB of lines".to_owned();
    let mut region = Region::new(lines).map_err(|error| format!("{}: {error}", no_memory()))?;
    if !region.extend(lines, false) {
        return Err(no_memory());
    }
    region.fill([1; 8]);
    Ok(region)
}

/// Uses so many lines, at random among the first `count`: a burst of them is
/// asked for, then each is used.
fn go_through(
    lines: &mut Region<Line>,
    (count, how): (usize, Use),
    random: &mut Random,
    uses: usize,
) -> Sample {
    let mut chosen = [0; BURST];
    let mut sum = 0;
    let watch = Watch::start();
    for _ in 0..uses.div_ceil(BURST) {
        for line in &mut chosen {
            *line = random.below(count);
            lines.prefetch(*line, false);
        }
        for &line in &chosen {
            let line = &mut lines[line];
            match how {
                Use::Read => sum ^= line[0],
                Use::Written => line[0] ^= 2,
            }
        }
    }
    std::hint::black_box(sum);
    watch.stop(uses.div_ceil(BURST) * BURST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_used_as_said() {
        let (mut lines, mut random) = (memory(1000).unwrap(), Random(1));
        assert_eq!(size_of::<Line>(), 64);
        assert_eq!(go_through(&mut lines, (500, Use::Read), &mut random, 640).packets, 640);
        assert!(lines.iter().all(|line| *line == [1; 8]));
        assert_eq!(go_through(&mut lines, (500, Use::Written), &mut random, 100).packets, 128);
        let written = |lines: &[Line]| lines.iter().filter(|line| line[0] == 3).count();
        assert!((90..=128).contains(&written(&lines[..500])), "each by chance once or twice");
        assert_eq!(written(&lines[500..]), 0);
    }
}
