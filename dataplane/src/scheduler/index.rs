//! The least loaded of many servers, without a look at each of them: loads by
//! server, and the least of each block of servers. A worker has its own copy,
//! brought up to date before it chooses with what [`Changes`] says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use hashbrown::HashMap;

use super::Candidate;
use crate::service::{Changes, Seen};

/// With fewer servers a look at each is as fast.
const FEWEST: usize = 16;

/// The load of a server that takes no connections: more than any other.
const NONE: u64 = f64::INFINITY.to_bits();

/// The loads of a service's servers.
#[derive(Debug)]
pub(super) struct Index {
    changes: Arc<Changes>,
    /// The place in the list by the server's number.
    places: HashMap<u32, u32>,
    /// Servers in a block: about the square root of their number.
    block: usize,
    workers: Box<[CachePadded<Loads>]>,
}

/// What one worker knows. It is written by that worker alone.
#[derive(Debug)]
struct Loads {
    changes: AtomicU64,
    thresholds: AtomicU64,
    /// Of each server: positive numbers of floating point, which compare as
    /// their bits do.
    servers: Box<[AtomicU64]>,
    /// The least of each block.
    blocks: Box<[AtomicU64]>,
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
        let block = list.len().isqrt().next_multiple_of(8);
        let numbers = |n| (0..n).map(|_| AtomicU64::new(NONE)).collect();
        let loads = || {
            CachePadded::new(Loads {
                // Nobody has seen so much: the first choice looks at all.
                changes: AtomicU64::new(u64::MAX),
                thresholds: AtomicU64::new(u64::MAX),
                servers: numbers(list.len()),
                blocks: numbers(list.len().div_ceil(block)),
            })
        };
        Some(Arc::new(Self {
            changes,
            places: list.iter().map(|c| c.server).zip(0..).collect(),
            block,
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
                loads.set(self.block, place as usize, now(place as usize));
            }
        });
        let seen = seen.unwrap_or_else(|| {
            let seen = self.changes.now();
            loads.set_all(self.block, now);
            seen
        });
        set(&loads.changes, seen.changes());
        set(&loads.thresholds, seen.thresholds());
        let (block, least) = first_least(&loads.blocks);
        if least == NONE {
            return None;
        }
        let (place, _) = first_least(loads.block(self.block, block));
        list.get(block * self.block + place)
    }
}

impl Loads {
    fn block(&self, size: usize, block: usize) -> &[AtomicU64] {
        self.servers.chunks(size).nth(block).unwrap_or_default()
    }

    fn set(&self, size: usize, place: usize, load: u64) {
        let block = place / size;
        let (Some(server), Some(least)) = (self.servers.get(place), self.blocks.get(block)) else {
            return;
        };
        let before = get(server);
        set(server, load);
        if load <= get(least) {
            set(least, load);
        } else if before == get(least) {
            set(least, first_least(self.block(size, block)).1);
        }
    }

    fn set_all(&self, size: usize, now: impl Fn(usize) -> u64) {
        for (place, server) in self.servers.iter().enumerate() {
            set(server, now(place));
        }
        for (servers, least) in self.servers.chunks(size).zip(&self.blocks) {
            set(least, first_least(servers).1);
        }
    }
}

/// The place of the first of the least numbers, and the number.
fn first_least(numbers: &[AtomicU64]) -> (usize, u64) {
    numbers.iter().map(get).enumerate().fold((0, u64::MAX), |least, (place, number)| {
        if number < least.1 { (place, number) } else { least }
    })
}

fn get(number: &AtomicU64) -> u64 {
    number.load(Ordering::Relaxed)
}

fn set(number: &AtomicU64, value: u64) {
    number.store(value, Ordering::Relaxed);
}
