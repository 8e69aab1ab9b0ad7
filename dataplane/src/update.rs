//! How the control thread and a worker talk: two single-producer,
//! single-consumer queues. The worker never waits and never frees memory: what
//! it is done with goes back to the control thread.

mod filter;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::conn::State;
use crate::counters::Published;
use crate::director::rehearsal::Inquiry;
use crate::observe::Observer;
use crate::packet::{Key4, Key6};
use crate::snapshot::Snapshot;
use crate::time::Tick;
pub use filter::{Candidate, Filter, Servers, Side};

/// Messages that fit each queue.
const QUEUE: usize = 64;
/// Missing neighbours that fit their queue. Control empties it ten times a
/// second or more.
const MISSING: usize = 256;
/// Missing neighbours that a worker remembers as reported, one for each value
/// of the address's last four bits: a few dead hosts with much traffic do not
/// fill the queue.
const REMEMBERED: usize = 16;

/// From control to a worker.
#[derive(Debug)]
pub enum Update {
    /// Run this configuration from the next burst on.
    Snapshot(Arc<Snapshot>),
    /// List connections.
    Dump(Box<Dump>),
    /// Say what the tables have about packets.
    Inquire(Box<Inquiry>),
    /// Note what becomes of packets, until the observation ends.
    Observe(Box<Observer>),
}

/// From a worker to control. There is exactly one for each [`Update`].
#[derive(Debug)]
pub enum Reply {
    /// The configuration that was replaced.
    Retired(Arc<Snapshot>),
    /// The listing, as far as there was room and time.
    Dump(Box<Dump>),
    /// The inquiry, answered.
    Told(Box<Inquiry>),
    /// The observation ended, or there were too many.
    Observed(Box<Observer>),
}

/// A listing of connections of one table, filled by the worker a few groups a
/// loop.
#[derive(Debug)]
pub struct Dump {
    /// Control's name for it.
    pub ticket: u64,
    /// Whether the IPv6 table is listed, or the IPv4 one.
    pub ipv6: bool,
    /// The group to go on with.
    pub group: usize,
    /// Whether the last group was reached.
    pub finished: bool,
    /// Which connections are wanted.
    pub filter: Filter,
    /// Whether they are to be counted only.
    pub count: bool,
    /// How many there were.
    pub found: u64,
    /// Room made by control; the worker fills it up to its capacity and no
    /// further. It must hold at least one group's entries.
    pub rows: Vec<ConnectionRow>,
}

impl Dump {
    /// A listing of all connections from a group on, into the room that `rows`
    /// has.
    #[must_use]
    pub fn new(ticket: u64, ipv6: bool, group: usize, rows: Vec<ConnectionRow>) -> Self {
        let filter = Filter::default();
        Self { ticket, ipv6, group, finished: false, filter, count: false, found: 0, rows }
    }
}

/// A connection in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionRow {
    /// Who talks to whom.
    pub key: ConnectionKey,
    /// The server's number.
    pub server: u32,
    /// The state.
    pub state: State,
    /// When it is over unless a packet comes.
    pub expiry: Tick,
}

/// The key of a connection of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKey {
    /// IPv4.
    V4(Key4),
    /// IPv6.
    V6(Key6),
}

/// A neighbour that packets need and whose MAC address the kernel does not
/// know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// The port's index.
    pub port: u8,
    /// The neighbour's address.
    pub neighbour: IpAddr,
}

/// What a worker shows of itself at any time.
#[derive(Debug, Default)]
pub struct Shared {
    /// Its counters.
    pub counters: CachePadded<Published>,
    /// The epoch of the snapshot that it runs.
    epoch: AtomicU64,
}

impl Shared {
    /// The epoch of the snapshot that the worker runs. What it did under older
    /// ones is visible to the caller.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

/// The control thread's end.
#[derive(Debug)]
pub struct ControlEnd {
    updates: rtrb::Producer<Update>,
    replies: rtrb::Consumer<Reply>,
    missing: rtrb::Consumer<Missing>,
    in_flight: usize,
    shared: Arc<Shared>,
}

/// The worker's end.
#[derive(Debug)]
pub struct WorkerEnd {
    updates: rtrb::Consumer<Update>,
    replies: rtrb::Producer<Reply>,
    missing: rtrb::Producer<Missing>,
    /// What was reported last, and when.
    reported: [Option<(Tick, Missing)>; REMEMBERED],
    shared: Arc<Shared>,
}

/// Connects a worker with the control thread.
#[must_use]
pub fn channel() -> (ControlEnd, WorkerEnd) {
    let (updates, updates_out) = rtrb::RingBuffer::new(QUEUE);
    let (replies_in, replies) = rtrb::RingBuffer::new(QUEUE);
    let (missing_in, missing) = rtrb::RingBuffer::new(MISSING);
    let shared = Arc::new(Shared::default());
    let control =
        ControlEnd { updates, replies, missing, in_flight: 0, shared: Arc::clone(&shared) };
    let worker = WorkerEnd {
        updates: updates_out,
        replies: replies_in,
        missing: missing_in,
        reported: [None; REMEMBERED],
        shared,
    };
    (control, worker)
}

impl ControlEnd {
    /// Sends an update.
    ///
    /// # Errors
    /// Gives it back when as many are unanswered as the queues hold; the worker
    /// has to answer some first. So a reply always finds room.
    pub fn send(&mut self, update: Update) -> Result<(), Update> {
        if self.in_flight == QUEUE {
            return Err(update);
        }
        self.updates.push(update).map_err(|rtrb::PushError::Full(update)| update)?;
        self.in_flight += 1;
        Ok(())
    }

    /// The next reply, when there is one.
    pub fn receive(&mut self) -> Option<Reply> {
        let reply = self.replies.pop().ok()?;
        self.in_flight -= 1;
        Some(reply)
    }

    /// The next neighbour that the worker misses, when there is one.
    pub fn missing(&mut self) -> Option<Missing> {
        self.missing.pop().ok()
    }

    /// What the worker shows of itself.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl WorkerEnd {
    /// The next update, when there is one: one acquire load when there is none.
    #[inline]
    pub fn receive(&mut self) -> Option<Update> {
        self.updates.pop().ok()
    }

    /// Answers an update.
    pub fn reply(&mut self, reply: Reply) {
        // Control leaves room for one reply an update, see ControlEnd::send.
        let sent = self.replies.push(reply);
        debug_assert!(sent.is_ok(), "a reply without an update");
    }

    /// Reports a neighbour that a packet needs and whose MAC address is not
    /// known ([`crate::fib::Way::Unresolved`]), so that control has the kernel
    /// ask for it. Every packet may report: what was reported lately is not
    /// repeated within a tick, and what finds no room is dropped, since a later
    /// packet reports it again.
    #[inline]
    pub fn missing(&mut self, now: Tick, port: u8, neighbour: IpAddr) {
        let missing = Missing { port, neighbour };
        let last_byte = match neighbour {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        let reported = &mut self.reported[usize::from(last_byte) % REMEMBERED];
        if *reported != Some((now, missing)) && self.missing.push(missing).is_ok() {
            *reported = Some((now, missing));
        }
    }

    /// Says that the snapshot of this epoch is in force.
    pub fn running(&self, epoch: u64) {
        self.shared.epoch.store(epoch, Ordering::Release);
    }

    /// What this worker shows of itself.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(epoch: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot { epoch, ..Default::default() })
    }

    #[test]
    fn a_worker_that_does_not_answer_stops_the_flow_and_loses_nothing() {
        let (mut control, mut worker) = channel();
        for epoch in 0..QUEUE as u64 {
            control.send(Update::Snapshot(snapshot(epoch))).unwrap();
        }
        assert!(control.send(Update::Snapshot(snapshot(99))).is_err());
        // Taken, but not answered yet: still no room for another reply.
        let Some(Update::Snapshot(first)) = worker.receive() else { panic!("an update") };
        assert!(control.send(Update::Snapshot(snapshot(99))).is_err());
        worker.reply(Reply::Retired(first));
        let Some(Reply::Retired(retired)) = control.receive() else { panic!("a reply") };
        assert_eq!(retired.epoch, 0);
        control.send(Update::Snapshot(snapshot(99))).unwrap();
    }

    #[test]
    fn a_missing_neighbour_is_reported_once_a_tick() {
        let (mut control, mut worker) = channel();
        let [a, b] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let reports = [(1, 0, a), (1, 0, b), (1, 0, a), (1, 0, b), (1, 1, b), (2, 0, b)];
        for (tick, port, neighbour) in reports {
            worker.missing(Tick(tick), port, neighbour);
        }
        let seen: Vec<_> =
            std::iter::from_fn(|| control.missing()).map(|m| (m.port, m.neighbour)).collect();
        assert_eq!(seen, [(0, a), (0, b), (1, b), (0, b)]);
    }

    #[test]
    fn missing_neighbours_without_room_are_dropped_and_reported_later() {
        let (mut control, mut worker) = channel();
        let neighbour = |n: usize| IpAddr::from((0x0a00_0000 + n as u32).to_be_bytes());
        for n in 0..=MISSING {
            worker.missing(Tick(1), 0, neighbour(n));
        }
        let taken = std::iter::from_fn(|| control.missing()).last();
        assert_eq!(taken, Some(Missing { port: 0, neighbour: neighbour(MISSING - 1) }));
        // It found no room, so it is not one that was reported in this tick.
        worker.missing(Tick(1), 0, neighbour(MISSING));
        assert_eq!(control.missing().map(|m| m.neighbour), Some(neighbour(MISSING)));
    }

    #[test]
    fn the_epoch_in_force_is_visible() {
        let (control, worker) = channel();
        worker.running(5);
        assert_eq!(control.shared().epoch(), 5);
    }
}
