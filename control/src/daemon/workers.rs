//! The control thread's dealings with the workers: snapshots out and back, and
//! listings of connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::conn::{Entry4, Table};
use dataplane::counters::Counters;
use dataplane::director::rehearsal::Inquiry;
use dataplane::observe::Observer;
use dataplane::snapshot::Snapshot;
use dataplane::update::{ControlEnd, Dump, Filter, Missing, Reply, Update};

use super::templates;
use crate::api::ConnectionCursor;

/// A worker that has not answered by then is stalled. It answers within a loop,
/// which is microseconds, or half a millisecond when it sleeps.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// The workers as the control thread sees them.
#[derive(Debug)]
pub(super) struct Workers {
    ends: Vec<ControlEnd>,
    /// A snapshot that a worker's queue had no room for; only the newest one
    /// matters.
    unsent: Vec<Option<Arc<Snapshot>>>,
    /// The worker that was last asked what it misses.
    asked: usize,
    listing: Option<Listing>,
    next_ticket: u64,
    /// Answers to inquiries.
    told: Vec<Inquiry>,
}

#[derive(Debug)]
struct Listing {
    ticket: u64,
    worker: usize,
    since: Instant,
}

/// How a listing ended.
#[derive(Debug)]
pub(super) enum Listed {
    /// Rows, and where to go on.
    Rows(Box<Dump>, Option<ConnectionCursor>),
    /// The worker did not answer.
    Stalled,
}

impl Workers {
    pub(super) fn new(ends: Vec<ControlEnd>) -> Self {
        let unsent = ends.iter().map(|_| None).collect();
        Self { ends, unsent, asked: 0, listing: None, next_ticket: 0, told: Vec::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.ends.len()
    }

    /// Sends a snapshot to every worker, now or as soon as there is room.
    pub(super) fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        for unsent in &mut self.unsent {
            *unsent = Some(Arc::clone(snapshot));
        }
        self.send_unsent();
    }

    fn send_unsent(&mut self) {
        for (end, unsent) in self.ends.iter_mut().zip(&mut self.unsent) {
            let Some(snapshot) = unsent.take() else { continue };
            if let Err(Update::Snapshot(snapshot)) = end.send(Update::Snapshot(snapshot)) {
                *unsent = Some(snapshot);
            }
        }
    }

    /// The epoch that every worker has reached.
    pub(super) fn running(&self) -> u64 {
        self.ends.iter().map(|end| end.shared().epoch()).min().unwrap_or(u64::MAX)
    }

    /// The indexes of the workers that have not reached an epoch.
    pub(super) fn behind(&self, epoch: u64) -> Vec<usize> {
        let ends = self.ends.iter().enumerate();
        ends.filter(|(_, end)| end.shared().epoch() < epoch).map(|(index, _)| index).collect()
    }

    /// The counters of each worker.
    pub(super) fn counters(&self) -> Vec<Counters> {
        self.ends.iter().map(|end| end.shared().counters.read()).collect()
    }

    /// The loops that each worker has gone through.
    pub(super) fn rounds(&self) -> Vec<u64> {
        self.ends.iter().map(|end| end.shared().counters.rounds()).collect()
    }

    /// A neighbour that a worker misses, of each worker in turn.
    pub(super) fn missing(&mut self) -> Option<Missing> {
        let count = self.ends.len();
        (0..count).find_map(|_| {
            self.asked = (self.asked + 1) % count;
            self.ends[self.asked].missing()
        })
    }

    /// Gives each worker its observer. False when one takes none.
    pub(super) fn observe(&mut self, observers: Vec<Observer>) -> bool {
        let mut all = self.ends.iter_mut().zip(observers);
        all.all(|(end, observer)| end.send(Update::Observe(Box::new(observer))).is_ok())
    }

    /// Asks a worker. False when it takes no more.
    pub(super) fn inquire(&mut self, worker: usize, inquiry: Inquiry) -> bool {
        let Some(end) = self.ends.get_mut(worker) else { return false };
        end.send(Update::Inquire(Box::new(inquiry))).is_ok()
    }

    /// The next answer to an inquiry.
    pub(super) fn told(&mut self) -> Option<Inquiry> {
        self.told.pop()
    }

    /// Begins a listing at a cursor. `false` when the cursor names no worker.
    pub(super) fn list(
        &mut self,
        cursor: ConnectionCursor,
        rows: usize,
        filter: Filter,
        count: bool,
        now: Instant,
    ) -> bool {
        let worker = cursor.worker as usize;
        let Some(end) = self.ends.get_mut(worker) else { return false };
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let group = usize::try_from(cursor.group).unwrap_or(usize::MAX);
        // The worker stops when a group may not fit any more.
        let rows = Vec::with_capacity(rows.max(Table::<Entry4>::GROUP_SLOTS));
        let dump = Dump { filter, count, ..Dump::new(ticket, cursor.ipv6, group, rows) };
        // Without room the worker is not answering: it times out as such.
        let _ = end.send(Update::Dump(Box::new(dump)));
        self.listing = Some(Listing { ticket, worker, since: now });
        true
    }

    /// Takes back what workers are done with. The end of a listing, if it has
    /// come.
    pub(super) fn collect(&mut self, now: Instant) -> Option<Listed> {
        let mut listed = None;
        for end in &mut self.ends {
            while let Some(reply) = end.receive() {
                match reply {
                    // Freed here, where it may take its time.
                    Reply::Retired(snapshot) => drop(snapshot),
                    Reply::Observed(observer) => drop(observer),
                    Reply::Told(inquiry) => self.told.push(*inquiry),
                    Reply::Dump(dump) => {
                        if self.listing.as_ref().is_some_and(|l| l.ticket == dump.ticket) {
                            listed = Some(dump);
                        }
                    }
                }
            }
        }
        self.send_unsent();
        let listing = self.listing.as_ref()?;
        if let Some(dump) = listed {
            let next = self.next_cursor(listing.worker, &dump);
            self.listing = None;
            return Some(Listed::Rows(dump, next));
        }
        if now - listing.since > PATIENCE {
            self.listing = None;
            return Some(Listed::Stalled);
        }
        None
    }

    /// After the IPv4 table the IPv6 one, after that the next worker, and after
    /// the last one the templates.
    fn next_cursor(&self, worker: usize, dump: &Dump) -> Option<ConnectionCursor> {
        let at = |worker: usize, ipv6, group: usize| {
            Some(ConnectionCursor { worker: worker as u32, ipv6, group: group as u64 })
        };
        match (dump.finished, dump.ipv6) {
            (false, ipv6) => at(worker, ipv6, dump.group),
            (true, false) => at(worker, true, 0),
            (true, true) if worker + 1 < self.ends.len() => at(worker + 1, false, 0),
            (true, true) => Some(templates::START),
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane::time::Tick;
    use dataplane::update::channel;

    use super::*;

    #[test]
    fn the_worker_that_stalls_is_named() {
        let (ends, links): (Vec<_>, Vec<_>) = (0..3).map(|_| channel()).unzip();
        let workers = Workers::new(ends);
        for (link, epoch) in links.iter().zip([5, 4, 6]) {
            link.running(epoch);
        }
        assert_eq!(workers.running(), 4);
        assert_eq!(workers.behind(5), [1]);
        assert!(workers.behind(4).is_empty());
    }

    #[test]
    fn a_worker_that_misses_much_does_not_hide_another() {
        let (ends, mut links): (Vec<_>, Vec<_>) = (0..2).map(|_| channel()).unzip();
        let mut workers = Workers::new(ends);
        for n in [1, 2, 3] {
            links[0].missing(Tick(0), 0, [10, 0, 0, n].into());
        }
        links[1].missing(Tick(0), 1, [10, 0, 0, 9].into());
        let ports: Vec<_> = std::iter::from_fn(|| workers.missing()).map(|m| m.port).collect();
        assert_eq!(ports, [1, 0, 0, 0]);
    }
}
