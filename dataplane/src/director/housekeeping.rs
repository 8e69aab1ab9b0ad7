//! What a worker does between two bursts.

use std::sync::Arc;

use super::{Context, Director, Listing};
use crate::counters::Counters;
use crate::time::Tick;
use crate::update::{Reply, Update};

impl Director {
    /// What is due once a loop: take up a new configuration, age connections,
    /// go on with a listing, publish the counters.
    pub fn housekeeping(&mut self, now: Tick) {
        while let Some(update) = self.core.link.receive() {
            self.take(update);
        }
        self.age(now);
        let Counters { rx, taken_over, injected, .. } = self.core.counters;
        let packets = rx + taken_over + injected;
        self.go_on_listing(packets == self.packets);
        self.packets = packets;
        if !self.observers.is_empty() {
            self.end_observations(now);
        }
        self.core.counters.connections = self.tables.connections() as u64;
        self.core.counters.entries = [self.tables.v4.len() as u64, self.tables.v6.len() as u64];
        self.core.link.shared().counters.publish(&self.core.counters);
        // Last: what this puts into the outbox leaves in the next loop, and is
        // not to be published as generated before.
        if !self.core.pending.is_empty() {
            self.core.send_pending(Context { now, snapshot: &self.snapshot });
        }
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Snapshot(snapshot) => {
                let epoch = snapshot.epoch;
                let retired = std::mem::replace(&mut self.snapshot, snapshot);
                if retired.timeouts != self.snapshot.timeouts
                    || self.snapshot.settings.expire_nodest_conn
                {
                    self.tables.v4.deadlines_are_outdated();
                    self.tables.v6.deadlines_are_outdated();
                }
                if !Arc::ptr_eq(&retired.fib, &self.snapshot.fib) {
                    self.core.ways.forget();
                }
                self.core.link.running(epoch);
                self.core.link.reply(Reply::Retired(retired));
            }
            Update::Dump(dump) => match self.listing {
                // One listing at a time; control sends the next when it has
                // the last. Answered as it is, it makes control ask again.
                Some(_) => self.core.link.reply(Reply::Dump(dump)),
                None => self.listing = Some(Listing::new(dump)),
            },
            Update::Inquire(mut inquiry) => {
                self.tell(&mut inquiry);
                self.core.link.reply(Reply::Told(inquiry));
            }
            Update::Observe(observer) => {
                if let Some(observer) = self.observers.add(observer) {
                    self.core.link.reply(Reply::Observed(observer));
                }
            }
        }
    }
}
