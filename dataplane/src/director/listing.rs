//! Listings of connections, a bounded piece a loop.

use super::Director;
use crate::conn::entry::Body;
use crate::conn::{Entry, Entry4, Entry6, Table};
use crate::update::{ConnectionKey, ConnectionRow, Dump, Reply};

/// Groups that one round of housekeeping reads at most for a listing, 32 KB in
/// order, and rows after which it stops: a burst waits a few microseconds only.
const DUMP_GROUPS: usize = 1024;
const DUMP_ROWS: usize = 512;
/// Rounds after which a listing is answered as far as it came. A worker that
/// has nothing to do sleeps between rounds, and control takes one that does not
/// answer for stalled.
const DUMP_ROUNDS: usize = 256;

impl Director {
    /// Adds rows to a listing until it is full, finished, or has had its share
    /// of this loop.
    pub(super) fn go_on_with(&mut self, mut dump: Box<Dump>, rounds: usize) {
        let timeouts = &self.snapshot.timeouts;
        let tables = &self.tables;
        let rows = &mut dump.rows;
        let share = rows.len() + DUMP_ROWS;
        let mut full = false;
        for _ in 0..DUMP_GROUPS {
            full = rows.capacity() - rows.len() < Table::<Entry4>::GROUP_SLOTS;
            let groups = if dump.ipv6 { tables.v6.group_count() } else { tables.v4.group_count() };
            dump.finished = dump.group >= groups;
            if full || dump.finished || rows.len() >= share {
                break;
            }
            // A connection is listed by its client's entry.
            let mut show = |key, body: &Body, twin: Option<_>| {
                if body.is_reply() {
                    return;
                }
                let (server, state) = (body.server, body.state());
                let last =
                    twin.map_or(body.last(), |twin| tables.body(twin).last().max(body.last()));
                let expiry = timeouts.expiry(state, last);
                rows.push(ConnectionRow { key, server, state, expiry });
            };
            if dump.ipv6 {
                tables.v6.scan(dump.group, |e| {
                    show(ConnectionKey::V6(e.key()), e.body(), e.body().twin(Entry6::FAMILY));
                });
            } else {
                tables.v4.scan(dump.group, |e| {
                    show(ConnectionKey::V4(e.key()), e.body(), e.body().twin(Entry4::FAMILY));
                });
            }
            dump.group += 1;
        }
        if full || dump.finished || rounds == DUMP_ROUNDS {
            self.core.link.reply(Reply::Dump(dump));
        } else {
            self.dump = Some((dump, rounds));
        }
    }
}
