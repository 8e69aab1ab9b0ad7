//! The servers of a service as schedulers see them, and what is worked out of
//! them once a change.

use std::net::SocketAddr;
use std::sync::Arc;

use super::index::Index;
use super::{Scheduler, hash, mh};
use crate::service::ServerCounts;

/// A server as a scheduler sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its number in [`crate::snapshot::Snapshot::servers`].
    pub server: u32,
    /// Its name: mh places servers by it.
    pub address: SocketAddr,
    /// Its share of new connections; 0 takes none.
    pub weight: u32,
    /// Whether it is new and cannot be reached yet: the weight is 0 for the
    /// moment, and dh and sh give it no bucket, whose clients would be refused.
    pub fresh: bool,
    /// Its connections and thresholds.
    pub counts: Arc<ServerCounts>,
}

impl Candidate {
    /// Whether it takes new connections: it has a weight and is not overloaded.
    pub(super) fn is_available(&self) -> bool {
        self.weight > 0 && !self.counts.connections.is_overloaded()
    }

    /// Its active connections.
    pub(super) fn active(&self) -> u64 {
        u64::from(self.counts.connections.read().0)
    }

    /// The kernel's measure of load: an active connection is as much work as
    /// 256 inactive ones.
    pub(super) fn load(&self) -> u64 {
        let (active, inactive) = self.counts.connections.read();
        u64::from(active) * 256 + u64::from(inactive)
    }
}

/// The servers of a service, with what its scheduler wants to know of all of
/// them.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    pub(super) list: Vec<Candidate>,
    pub(super) greatest_weight: u32,
    /// Only one worker chooses.
    pub(super) single: bool,
    /// Greatest common divisor of the weights.
    pub(super) divisor: u32,
    /// dh and sh: 256 buckets; mh: its table. Indices into the list. Empty
    /// without servers, and for other schedulers.
    pub(super) table: Arc<[u32]>,
    /// lc, wlc, sed and nq with many servers: their loads.
    pub(super) index: Option<Arc<Index>>,
}

impl Candidates {
    /// Whether there is a server that will take connections in a moment.
    #[must_use]
    pub fn any_fresh(&self) -> bool {
        self.list.iter().any(|candidate| candidate.fresh)
    }

    /// The servers, in the order in which they are walked.
    pub fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.list.iter()
    }

    /// The servers in the order in which they are to be walked, for a
    /// scheduler.
    #[must_use]
    pub fn new(scheduler: Scheduler, list: Vec<Candidate>) -> Self {
        let table = match scheduler {
            Scheduler::Dh => hash::in_turn(&list),
            Scheduler::Sh(_) => hash::by_weight(&list),
            Scheduler::Mh(_) => mh::table(&list),
            _ => Arc::default(),
        };
        let mut candidates = Self::with_table(list, table);
        if let Scheduler::Lc | Scheduler::Wlc | Scheduler::Sed | Scheduler::Nq = scheduler {
            candidates.index = Index::new(&candidates.list);
        }
        candidates
    }

    /// The same for servers that may have changed since these. mh's table,
    /// which takes a millisecond to build, is kept when it would be the same.
    #[must_use]
    pub fn followed_by(&self, scheduler: Scheduler, list: Vec<Candidate>) -> Self {
        let name = |c: &Candidate| (c.server, c.address, c.weight);
        let same = matches!(scheduler, Scheduler::Mh(_))
            && self.table.len() == mh::SIZE
            && self.list.iter().map(name).eq(list.iter().map(name));
        if same {
            return Self::with_table(list, Arc::clone(&self.table));
        }
        Self::new(scheduler, list)
    }

    fn with_table(list: Vec<Candidate>, table: Arc<[u32]>) -> Self {
        let greatest_weight = list.iter().map(|c| c.weight).max().unwrap_or(0);
        let divisor = list.iter().fold(0, |divisor, c| gcd(divisor, c.weight));
        let single = list.iter().all(|c| c.counts.workers() == 1);
        Self { list, greatest_weight, single, divisor, table, index: None }
    }

    /// The server that a number falls to, each by its share: the same one for
    /// the same number, and one after the other for numbers in a row. `None`
    /// when all weights are 0.
    pub(super) fn by_share(&self, number: u64) -> Option<&Candidate> {
        let all = self.list.iter().map(|c| u64::from(c.weight)).sum();
        let mut left = number.checked_rem(all)?;
        self.list.iter().find(|c| match left.checked_sub(u64::from(c.weight)) {
            Some(rest) => {
                left = rest;
                false
            }
            None => true,
        })
    }

    /// The server at a place of the table. `None` when the table is empty.
    pub(super) fn at(&self, place: usize) -> Option<&Candidate> {
        self.list.get(*self.table.get(place)? as usize)
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
