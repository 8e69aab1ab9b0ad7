//! What a machine's cores do beside each other, without a director: two workers
//! cannot forward twice as much as one on cores that are two threads of one.

use std::sync::Barrier;

use crate::measure::{Sample, Watch, pin};
use crate::report::{Report, Row};
use crate::stats::median;

/// Numbers that are reckoned with at once: as many chains as a core's units
/// take, so that a second thread on the same core finds none idle.
const CHAINS: usize = 8;

/// How much two cores reckon, as ratio to one; nothing leaves their registers.
pub(crate) fn run(
    part: &str,
    cores: [usize; 2],
    rounds: usize,
    turns: usize,
    report: &mut Report,
) -> Result<(), String> {
    let mut ratios = Vec::new();
    let mut alone = Vec::new();
    for round in 0..=rounds {
        report.doing(&format!("{part}: cores, round {round} of {rounds}"));
        let one = at_once(&cores[..1], turns);
        let two = at_once(&cores, turns);
        if round > 0 {
            ratios.push(rate(&two) / rate(&one));
            alone.push(Sample::sum(&one).ns());
        }
    }
    let row = Row::value(part, "2 cores, arithmetic", median(alone), "ns a step of 1 core");
    let note = "as much as 1 core: what 2 workers can come to; 2.00 of cores that share nothing";
    report.row(&Row { ratio: Some(median(ratios)), ..row.with_note(note) })
}

/// Steps a nanosecond of CPU time, of all.
fn rate(samples: &[Sample]) -> f64 {
    samples.iter().map(|sample| 1.0 / sample.ns().max(1e-9)).sum()
}

/// Has each of these cores reckon so many steps, all at once.
fn at_once(cores: &[usize], turns: usize) -> Vec<Sample> {
    let start = Barrier::new(cores.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = cores
            .iter()
            .map(|&core| {
                let start = &start;
                scope.spawn(move || {
                    pin(core);
                    start.wait();
                    let watch = Watch::start();
                    std::hint::black_box(steps(std::hint::black_box(turns)));
                    watch.stop(turns)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

/// A step each turn in all chains.
fn steps(turns: usize) -> u64 {
    let mut chains: [u64; CHAINS] = std::array::from_fn(|n| n as u64 + 1);
    for turn in 0..turns as u64 {
        for chain in &mut chains {
            *chain = (*chain ^ turn).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }
    chains.iter().fold(0, |all, &chain| all ^ chain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_takes_all_steps() {
        let samples = at_once(&[0, 0], 100_000);
        assert_eq!(samples.iter().map(|sample| sample.packets).collect::<Vec<_>>(), [100_000; 2]);
        assert!(samples.iter().all(|sample| sample.cpu > std::time::Duration::ZERO));
        assert!(rate(&samples) > rate(&samples[..1]));
        assert_ne!(steps(3), steps(4));
    }
}
