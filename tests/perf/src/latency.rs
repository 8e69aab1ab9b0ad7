//! Part *latency*: the time that a packet spends from its arrival to its
//! departure when the worker is half busy.
//!
//! Packets arrive at random (a Poisson process) in a time that is simulated:
//! it goes on by what each turn of the worker's loop really took, so that the
//! scheduler of a busy machine has no part in it.

use std::time::{Duration, Instant};

use dataplane::director::BURST;

use crate::bed::buffers::{HEADROOM, Ring};
use crate::bed::flows::Random;
use crate::bed::frames::{ACK, Frames, Side};
use crate::bed::runner::{Job, burst, family_name, not_sent};
use crate::bed::{Bed, Family, Harness, Method, Protocol, Setup};
use crate::measure::thread_time;
use crate::report::{Report, Row};
use crate::scale::Scale;
use crate::stats::{median, percentile};

const PART: &str = "latency";
const LOAD: f64 = 0.5;
const FLOWS: usize = 64_000;

pub(crate) fn run(scale: &Scale, report: &mut Report) -> Result<(), String> {
    for method in Method::ALL {
        report.doing(&format!("latency: {}", method.name()));
        if let Err(error) = one(scale, report, method) {
            report.failure(PART, method.name(), &error)?;
        }
    }
    Ok(())
}

fn one(scale: &Scale, report: &mut Report, method: Method) -> Result<(), String> {
    let flows = FLOWS.min(scale.live);
    let setup = Setup { servers: scale.servers, ..Setup::new(method, Family::V4, Protocol::Tcp) };
    let mut bed = Bed::new(setup, flows)?;
    bed.open_all()?;
    let frames = bed.frames(Side::ToServer, ACK);
    let (packets, harness) = (scale.packets, Harness::Recirculate);
    let job = Job { packets, burst: BURST, harness, process: true };
    let mut rounds = Vec::new();
    for _ in 0..scale.rounds {
        // The rate of this moment: a busy machine has slower ones.
        let samples = bed.rounds(&frames, job, 1)?;
        let full = median(samples.iter().map(|(all, harness)| all.ns() - harness.ns())).max(1.0);
        rounds.push(half_loaded(&mut bed, &frames, full, packets)?);
    }
    let middle = |pick: fn(&Round) -> f64| median(rounds.iter().map(pick));
    let note = format!(
        "at {:.1} Mpps, half of the full rate; {:.1} packets a turn",
        middle(|round| round.mpps),
        middle(|round| round.burst)
    );
    for (index, name) in ["p50", "p99", "p99.9", "longest"].into_iter().enumerate() {
        let value = median(rounds.iter().map(|round| round.times[index]));
        let row = Row {
            family: Some(family_name(Family::V4).into()),
            protocol: Some("TCP".into()),
            flows: Some(flows as u64),
            rounds: Some(rounds.len() as u64),
            note: (index == 0).then(|| note.clone()),
            ..Row::value(PART, format!("{} {name}", method.name()), value, "ns")
        };
        report.row(&row)?;
    }
    Ok(())
}

/// Times from arrival to departure: median, 99 %, 99.9 %, longest.
struct Round {
    times: [f64; 4],
    mpps: f64,
    burst: f64,
}

/// So many packets at half the rate of one in `full` ns.
fn half_loaded(bed: &mut Bed, frames: &Frames, full: f64, packets: usize) -> Result<Round, String> {
    let Bed { director, clock, flows, .. } = bed;
    let clock_cost = cost_of_clock();
    let mut arrivals = Arrivals::new(full / LOAD);
    let (mut ring, mut next, mut refused) = (Ring::new(), 0, None);
    let (mut now, mut turns) = (0.0, 0);
    let mut times = Vec::with_capacity(packets + BURST);
    while times.len() < packets {
        let came = arrivals.until(now);
        let buffers = &mut ring.take(BURST)[..came.len()];
        for buffer in buffers.iter_mut() {
            frames.write(&mut buffer.0[HEADROOM..], &flows[next]);
            next = (next + 1) % flows.len();
        }
        let cpu = thread_time();
        let start = Instant::now();
        burst(Some(director), clock, buffers.iter_mut(), frames.len(), &mut refused);
        let took = start.elapsed().min(thread_time().saturating_sub(cpu));
        now += (took.as_nanos() as f64 - clock_cost).max(1.0);
        turns += usize::from(!came.is_empty());
        times.extend(came.iter().map(|arrived| now - arrived));
    }
    if let Some(verdict) = refused {
        return Err(not_sent(verdict, [director]));
    }
    times.sort_by(f64::total_cmp);
    Ok(Round {
        times: [0.5, 0.99, 0.999, 1.0].map(|share| percentile(&times, share)),
        mpps: 1000.0 * LOAD / full,
        burst: times.len() as f64 / turns as f64,
    })
}

/// What measuring a turn that does nothing says that it took, ns.
fn cost_of_clock() -> f64 {
    let times = (0..1001).map(|_| {
        let start = Instant::now();
        let took: Duration = std::hint::black_box(start).elapsed();
        took.as_nanos() as f64
    });
    median(times)
}

/// When packets arrive, ns.
struct Arrivals {
    random: Random,
    between: f64,
    next: f64,
}

impl Arrivals {
    /// At random, on average so many nanoseconds apart.
    fn new(between: f64) -> Self {
        Self { random: Random(99), between, next: 0.0 }
    }

    /// The next burst of those that came until now.
    fn until(&mut self, now: f64) -> arrayvec::ArrayVec<f64, BURST> {
        let mut came = arrayvec::ArrayVec::new();
        while self.next <= now && !came.is_full() {
            came.push(self.next);
            self.next -= self.random.fraction().ln() * self.between;
        }
        came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_random_and_keep_the_rate() {
        let mut arrivals = Arrivals::new(100.0);
        let times: Vec<f64> =
            std::iter::from_fn(|| Some(arrivals.until(1e6))).take(300).flatten().collect();
        assert!((9_600..10_400).contains(&times.len()), "{}", times.len());
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]) && times[times.len() - 1] <= 1e6);
        // Of exponential gaps 63 % are shorter than the mean.
        let short = times.windows(2).filter(|pair| pair[1] - pair[0] < 100.0).count();
        assert!((6_000..6_650).contains(&short), "{short}");
        assert_eq!(arrivals.until(0.0).len(), 0);
    }
}
