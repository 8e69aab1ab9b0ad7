//! Schedulers: which server a new connection goes to.
//!
//! A scheduler is a function of the service's candidates and a position in its
//! round. The position is one atomic word that all workers share and that only
//! new connections touch: with one position a worker, two connections in a row
//! could get the same server when they belong to different workers.
//!
//! Servers are walked newest first, as the kernel does: rr over four servers
//! added in the order 1, 2, 3, 4 gives 4, 3, 2, 1.

mod rr;
mod wrr;

use std::sync::atomic::{AtomicU64, Ordering};

/// The schedulers that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
}

impl Scheduler {
    /// All schedulers.
    pub const ALL: [Self; 2] = [Self::Rr, Self::Wrr];

    /// The name that ipvsadm uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
        }
    }

    /// The scheduler of a name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Chooses among `candidates` and moves the position on. `None` when no
    /// candidate has a weight.
    #[must_use]
    pub fn choose(self, position: &Position, candidates: &Candidates) -> Option<u32> {
        match self {
            Self::Rr => rr::choose(position, &candidates.list),
            Self::Wrr => wrr::choose(position, candidates),
        }
    }
}

/// A server as a scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its number in [`crate::snapshot::Snapshot::servers`].
    pub server: u32,
    /// Its share of new connections; 0 takes none.
    pub weight: u32,
}

/// The servers of a service, with what schedulers want to know of all of them.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    list: Vec<Candidate>,
    greatest_weight: u32,
    /// Greatest common divisor of the weights.
    divisor: u32,
}

impl Candidates {
    /// The servers in the order in which they are to be walked.
    #[must_use]
    pub fn new(list: Vec<Candidate>) -> Self {
        let greatest_weight = list.iter().map(|c| c.weight).max().unwrap_or(0);
        let divisor = list.iter().fold(0, |divisor, c| gcd(divisor, c.weight));
        Self { list, greatest_weight, divisor }
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Where a scheduler is in its round: the index of the server to look at next
/// and, for wrr, the weight that a server needs at present.
#[derive(Debug, Default)]
pub struct Position(AtomicU64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// May equal the number of servers: the round begins anew.
    next: u32,
    /// 0: not begun.
    weight: u32,
}

impl Position {
    /// A server was put in front of the others. The round goes on where it
    /// was; one that had not begun begins with the new server.
    pub fn server_added(&self) {
        self.step(|place| {
            let next = if place.next == 0 { 0 } else { place.next + 1 };
            Some((Place { next, ..place }, ()))
        });
    }

    /// The server at `index` was taken out.
    pub fn server_removed(&self, index: usize) {
        self.step(|place| {
            let next = place.next - u32::from((index as u64) < u64::from(place.next));
            Some((Place { next, ..place }, ()))
        });
    }

    /// Moves on atomically: `f` may run several times. `None` from it leaves
    /// the position alone.
    fn step<R>(&self, mut f: impl FnMut(Place) -> Option<(Place, R)>) -> Option<R> {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            let place = Place { next: (current >> 32) as u32, weight: current as u32 };
            let (Place { next, weight }, result) = f(place)?;
            let new = (u64::from(next) << 32) | u64::from(weight);
            let swap =
                self.0.compare_exchange_weak(current, new, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => return Some(result),
                Err(actual) => current = actual,
            }
        }
    }
}

#[cfg(test)]
fn candidates(weights: &[u32]) -> Candidates {
    Candidates::new(
        weights.iter().zip(0..).map(|(&weight, server)| Candidate { server, weight }).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for scheduler in Scheduler::ALL {
            assert_eq!(Scheduler::from_name(scheduler.name()), Some(scheduler));
        }
        assert_eq!(Scheduler::from_name("wlcx"), None);
    }

    /// Threads that share a position share out connections exactly.
    #[test]
    fn shares_are_exact_over_several_workers() {
        let position = Position::default();
        let servers = candidates(&[3, 1, 0, 2]);
        let picks = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut picks = [0u32; 4];
                        for _ in 0..6_000 {
                            let server = Scheduler::Wrr.choose(&position, &servers).unwrap();
                            picks[server as usize] += 1;
                        }
                        picks
                    })
                })
                .collect();
            workers.into_iter().fold([0; 4], |sum: [u32; 4], worker| {
                let picks = worker.join().unwrap();
                std::array::from_fn(|i| sum[i] + picks[i])
            })
        });
        assert_eq!(picks, [12_000, 4_000, 0, 8_000]);
    }
}
