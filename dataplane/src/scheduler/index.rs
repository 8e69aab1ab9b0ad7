//! The least loaded of many servers, without a look at each of them: a tree of
//! loads, in which a node has the least of four. A worker has its own copy,
//! brought up to date before it chooses with what [`Changes`] says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use hashbrown::HashMap;

use super::Candidate;
use crate::service::{Changes, Seen};

/// With fewer servers a look at each is as fast.
const FEWEST: usize = 16;

/// Nodes below another one.
const FOUR: usize = 4;

/// The load of a server that takes no connections: more than any other.
const NONE: u64 = f64::INFINITY.to_bits();

/// The loads of a service's servers.
#[derive(Debug)]
pub(super) struct Index {
    changes: Arc<Changes>,
    /// The place in the list by the server's number.
    places: HashMap<u32, u32>,
    workers: Box<[CachePadded<Loads>]>,
}

/// What one worker knows. It is written by that worker alone.
#[derive(Debug)]
struct Loads {
    changes: AtomicU64,
    thresholds: AtomicU64,
    /// Positive numbers of floating point, which compare as their bits do. From
    /// the middle on those of the servers by place, and none behind the last;
    /// node n has the least of nodes 4n to 4n + 3, and node 1 that of all.
    tree: Box<[AtomicU64]>,
}

/// The load of an available server for its weight, not negative. Two servers'
/// are equal where the exact quotients are: the nearest number is the same. Of
/// loads up to 2^37, half a billion active connections, with weights up to
/// 65,535, different quotients are also different numbers.
pub(super) fn quotient(load: u64, weight: u32) -> f64 {
    load as f64 / f64::from(weight)
}

impl Index {
    /// An index of many servers; `None` for few.
    pub(super) fn new(list: &[Candidate]) -> Option<Arc<Self>> {
        if list.len() < FEWEST {
            return None;
        }
        let workers = list.iter().map(|c| c.counts.workers()).max()?;
        let known = list.iter().find_map(|c| c.counts.connections.changes());
        let changes = known.map_or_else(|| Arc::new(Changes::new(workers)), Arc::clone);
        // A server tells one list of changes, that of its service.
        let all_tell = list.iter().all(|c| c.counts.connections.tell_changes(&changes, c.server));
        if !all_tell {
            return None;
        }
        let nodes = 2 * FOUR.pow(list.len().next_power_of_two().ilog2().div_ceil(2));
        let loads = || {
            CachePadded::new(Loads {
                // Nobody has seen so much: the first choice looks at all.
                changes: AtomicU64::new(u64::MAX),
                thresholds: AtomicU64::new(u64::MAX),
                tree: (0..nodes).map(|_| AtomicU64::new(NONE)).collect(),
            })
        };
        Some(Arc::new(Self {
            changes,
            places: list.iter().map(|c| c.server).zip(0..).collect(),
            workers: (0..workers).map(|_| loads()).collect(),
        }))
    }

    /// The first of the servers with the least load, as `load` says now; `None`
    /// from it where a server takes no connections.
    pub(super) fn least<'a>(
        &self,
        worker: usize,
        list: &'a [Candidate],
        load: impl Fn(&Candidate) -> Option<f64>,
    ) -> Option<&'a Candidate> {
        let loads = self.workers.get(worker)?;
        let now = |place: usize| list.get(place).and_then(&load).map_or(NONE, f64::to_bits);
        let seen = Seen::new(get(&loads.changes), get(&loads.thresholds));
        let seen = self.changes.since(seen, |server| {
            if let Some(&place) = self.places.get(&server) {
                loads.set(place as usize, now(place as usize));
            }
        });
        let seen = seen.unwrap_or_else(|| {
            let seen = self.changes.now();
            loads.set_all(list.len(), now);
            seen
        });
        set(&loads.changes, seen.changes());
        set(&loads.thresholds, seen.thresholds());
        list.get(loads.first_least()?)
    }
}

impl Loads {
    /// The first of the places with the least load. `None` when no server takes
    /// connections.
    fn first_least(&self) -> Option<usize> {
        let least = get(self.tree.get(1)?);
        if least == NONE {
            return None;
        }
        let servers = self.tree.len() / 2;
        let mut node = 1;
        while node < servers {
            // The first that has it, found without branches, which would often
            // go another way than thought.
            let below = self.below(node)?;
            let half = 2 * usize::from(get(&below[0]).min(get(&below[1])) != least);
            let odd = usize::from(get(&below[half]) != least);
            node = FOUR * node + half + odd;
        }
        Some(node - servers)
    }

    fn below(&self, node: usize) -> Option<&[AtomicU64; FOUR]> {
        self.tree.get(FOUR * node..)?.first_chunk()
    }

    fn set(&self, place: usize, load: u64) {
        let mut node = self.tree.len() / 2 + place;
        let Some(server) = self.tree.get(node) else { return };
        set(server, load);
        while node >= FOUR {
            node /= FOUR;
            // What is above depends on this alone.
            if !self.update(node) {
                return;
            }
        }
    }

    /// Gives a node the least of those below it. Whether that is new.
    #[inline(always)]
    fn update(&self, node: usize) -> bool {
        let (Some(above), Some(below)) = (self.tree.get(node), self.below(node)) else {
            return false;
        };
        let [one, two, three, four] = below.each_ref().map(get);
        let (before, least) = (get(above), one.min(two).min(three.min(four)));
        set(above, least);
        before != least
    }

    fn set_all(&self, servers: usize, now: impl Fn(usize) -> u64) {
        let first = self.tree.len() / 2;
        for (place, server) in self.tree.iter().skip(first).take(servers).enumerate() {
            set(server, now(place));
        }
        for node in (1..2 * first / FOUR).rev() {
            self.update(node);
        }
    }
}

fn get(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

fn set(number: &AtomicU64, value: u64) {
    number.store(value, Ordering::Relaxed);
}
