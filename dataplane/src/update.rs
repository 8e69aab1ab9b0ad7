//! How the control thread and a worker talk: two single-producer,
//! single-consumer queues. The worker never waits and never frees memory: what
//! it is done with goes back to the control thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::utils::CachePadded;

use crate::conn::{Key4, Key6, State};
use crate::counters::Published;
use crate::snapshot::Snapshot;
use crate::time::Tick;

/// Messages that fit each queue.
const QUEUE: usize = 64;

/// From control to a worker.
#[derive(Debug)]
pub enum Update {
    /// Run this configuration from the next burst on.
    Snapshot(Arc<Snapshot>),
    /// List connections.
    Dump(Box<Dump>),
}

/// From a worker to control. There is exactly one for each [`Update`].
#[derive(Debug)]
pub enum Reply {
    /// The configuration that was replaced.
    Retired(Arc<Snapshot>),
    /// The listing, as far as there was room and time.
    Dump(Box<Dump>),
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
    /// Room made by control; the worker fills it up to its capacity and no
    /// further. It must hold at least one group's entries.
    pub rows: Vec<ConnectionRow>,
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
    in_flight: usize,
    shared: Arc<Shared>,
}

/// The worker's end.
#[derive(Debug)]
pub struct WorkerEnd {
    updates: rtrb::Consumer<Update>,
    replies: rtrb::Producer<Reply>,
    shared: Arc<Shared>,
}

/// Connects a worker with the control thread.
#[must_use]
pub fn channel() -> (ControlEnd, WorkerEnd) {
    let (updates, updates_out) = rtrb::RingBuffer::new(QUEUE);
    let (replies_in, replies) = rtrb::RingBuffer::new(QUEUE);
    let shared = Arc::new(Shared::default());
    let control = ControlEnd { updates, replies, in_flight: 0, shared: Arc::clone(&shared) };
    (control, WorkerEnd { updates: updates_out, replies: replies_in, shared })
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
    fn the_epoch_in_force_is_visible() {
        let (control, worker) = channel();
        worker.running(5);
        assert_eq!(control.shared().epoch(), 5);
    }
}
