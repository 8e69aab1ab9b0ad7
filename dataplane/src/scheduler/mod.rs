//! Schedulers: which server a new connection goes to.
//!
//! A scheduler is a function of the service's [`Candidates`], of what it
//! remembers ([`State`]), and of the connection ([`Request`]). It runs for new
//! connections only, and what it changes are atomics that all workers share:
//! with a state of its own for each worker, two connections in a row could get
//! the same server when they belong to different workers.
//!
//! Servers are walked newest first, as the kernel does: rr over four servers
//! added in the order 1, 2, 3, 4 gives 4, 3, 2, 1. A server of weight 0 or
//! beyond its upper threshold takes no connections.

mod candidates;
mod failover;
mod hash;
mod index;
mod least;
mod locality;
mod mh;
mod position;
mod rr;
mod twos;
mod wrr;

use std::net::IpAddr;

pub use candidates::{Candidate, Candidates};
use locality::Cache;
use position::Position;
use twos::Draws;

use crate::time::Tick;

/// The schedulers, with their flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Least connections.
    Lc,
    /// Weighted least connections.
    Wlc,
    /// Shortest expected delay.
    Sed,
    /// Never queue.
    Nq,
    /// Destination hashing.
    Dh,
    /// Source hashing.
    Sh(HashFlags),
    /// Maglev hashing.
    Mh(HashFlags),
    /// Weighted failover.
    Fo,
    /// Overflow.
    Ovf,
    /// Locality-based least connections.
    Lblc,
    /// The same with several servers for a destination.
    Lblcr,
    /// The better of two at random.
    Twos,
}

/// The flags of sh and mh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HashFlags {
    /// A client whose server takes no connections gets another one
    /// (`sh-fallback`, `mh-fallback`).
    pub fallback: bool,
    /// The client's port counts as well as its address (`sh-port`, `mh-port`).
    pub port: bool,
}

impl HashFlags {
    const NONE: Self = Self { fallback: false, port: false };

    const fn port_of(self, request: &Request) -> u16 {
        if self.port { request.client_port } else { 0 }
    }
}

impl Scheduler {
    /// All schedulers, without flags.
    pub const ALL: [Self; 14] = [
        Self::Rr,
        Self::Wrr,
        Self::Lc,
        Self::Wlc,
        Self::Sed,
        Self::Nq,
        Self::Dh,
        Self::Sh(HashFlags::NONE),
        Self::Mh(HashFlags::NONE),
        Self::Fo,
        Self::Ovf,
        Self::Lblc,
        Self::Lblcr,
        Self::Twos,
    ];

    /// The name that ipvsadm uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Dh => "dh",
            Self::Sh(_) => "sh",
            Self::Mh(_) => "mh",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Twos => "twos",
        }
    }

    /// The scheduler of a name, without flags.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The scheduler with one more flag, by ipvsadm's name for it. `flag-1` to
    /// `flag-3` are the bits of any scheduler; those without a meaning are
    /// taken and do nothing, as in the kernel. `None` when there is no such
    /// flag.
    #[must_use]
    pub fn with_flag(mut self, flag: &str) -> Option<Self> {
        match (&mut self, flag) {
            (Self::Sh(flags), "sh-fallback" | "flag-1")
            | (Self::Mh(flags), "mh-fallback" | "flag-1") => flags.fallback = true,
            (Self::Sh(flags), "sh-port" | "flag-2") | (Self::Mh(flags), "mh-port" | "flag-2") => {
                flags.port = true;
            }
            (_, "flag-1" | "flag-2" | "flag-3") => {}
            _ => return None,
        }
        Some(self)
    }

    /// Chooses a server's number for a new connection. `None` when no server
    /// may take it.
    #[must_use]
    pub fn choose(self, state: &State, candidates: &Candidates, request: &Request) -> Option<u32> {
        let list = &candidates.list[..];
        let chosen = match self {
            Self::Dh => hash::dh(candidates, request),
            Self::Sh(flags) => hash::sh(flags, candidates, request),
            Self::Mh(flags) => mh::choose(flags, candidates, request),
            Self::Lblc => locality::lblc(state.cache.as_ref()?, list, request),
            Self::Lblcr => locality::lblcr(state.cache.as_ref()?, list, request),
            _ => return self.choose_for_any(state, candidates, request.worker),
        };
        chosen.map(|candidate| candidate.server)
    }

    /// The server that will have its turn so many choices ahead, as far as that
    /// can be told without looking at any: a guess.
    #[must_use]
    #[inline]
    pub fn soon(self, state: &State, candidates: &Candidates, ahead: usize) -> Option<u32> {
        match self {
            Self::Rr | Self::Wrr => {
                let candidate = candidates.list.get(state.position.next() + ahead)?;
                Some(candidate.server)
            }
            _ => None,
        }
    }

    /// Whether the choice goes by who asks for what.
    #[must_use]
    #[inline]
    pub const fn goes_by_request(self) -> bool {
        matches!(self, Self::Dh | Self::Sh(_) | Self::Mh(_) | Self::Lblc | Self::Lblcr)
    }

    /// [`Scheduler::choose`] where it does not, without a request. `None` where
    /// it does.
    #[must_use]
    #[inline(always)]
    pub fn choose_for_any(
        self,
        state: &State,
        candidates: &Candidates,
        worker: usize,
    ) -> Option<u32> {
        let list = &candidates.list[..];
        let chosen = match self {
            Self::Rr => rr::choose(&state.position, candidates),
            Self::Wrr => wrr::choose(&state.position, candidates),
            Self::Lc => least::lc(candidates, worker),
            Self::Wlc => least::wlc(candidates, worker),
            Self::Sed => least::sed(candidates, worker),
            Self::Nq => least::nq(candidates, worker),
            Self::Fo => failover::fo(list),
            Self::Ovf => failover::ovf(list),
            Self::Twos => twos::choose(&state.draws, list),
            Self::Dh | Self::Sh(_) | Self::Mh(_) | Self::Lblc | Self::Lblcr => None,
        };
        chosen.map(|candidate| candidate.server)
    }

    /// The same for what must get one server whenever `number` is the same: the
    /// fragments of a datagram of which nothing is remembered. Schedulers that
    /// give every connection another server go by the number and the weights;
    /// connections and thresholds do not count, as they may change in between.
    /// The others have reasons of their own for their choice, and seldom change
    /// it.
    #[must_use]
    pub fn choose_by_number(
        self,
        state: &State,
        candidates: &Candidates,
        request: &Request,
        number: u64,
    ) -> Option<u32> {
        match self {
            Self::Rr | Self::Wrr | Self::Lc | Self::Wlc | Self::Sed | Self::Nq | Self::Twos => {
                candidates.by_share(number).map(|candidate| candidate.server)
            }
            Self::Dh
            | Self::Sh(_)
            | Self::Mh(_)
            | Self::Fo
            | Self::Ovf
            | Self::Lblc
            | Self::Lblcr => self.choose(state, candidates, request),
        }
    }
}

/// The connection that wants a server.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Who asks.
    pub client: IpAddr,
    /// Its port; 0 where there is none.
    pub client_port: u16,
    /// What it asks for: the virtual address or, for a service by mark, any.
    pub destination: IpAddr,
    /// The present.
    pub now: Tick,
    /// The index of the worker that asks.
    pub worker: usize,
}

/// What a service's scheduler remembers. All workers share it, and it is kept
/// from snapshot to snapshot for as long as the service has this scheduler.
#[derive(Debug)]
pub struct State {
    /// rr and wrr.
    position: Position,
    /// twos.
    draws: Draws,
    /// lblc and lblcr: 1 MB, so others have none.
    cache: Option<Cache>,
}

impl State {
    /// The state in which a scheduler begins.
    #[must_use]
    pub fn new(scheduler: Scheduler) -> Self {
        Self {
            position: Position::default(),
            draws: Draws::default(),
            cache: matches!(scheduler, Scheduler::Lblc | Scheduler::Lblcr).then(Cache::new),
        }
    }

    /// A state of its own that is the same now.
    #[must_use]
    pub fn copied(&self) -> Self {
        let Self { position, draws, cache } = self;
        Self {
            position: position.copied(),
            draws: draws.copied(),
            cache: cache.as_ref().map(Cache::copied),
        }
    }

    /// A server was put in front of the others.
    pub fn server_added(&self) {
        self.position.server_added();
    }

    /// The server at `index` was taken out.
    pub fn server_removed(&self, index: usize) {
        self.position.server_removed(index);
    }
}

#[cfg(test)]
mod tests;
