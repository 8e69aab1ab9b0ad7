//! Listings of connections, a bounded piece a loop.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Director;
use crate::conn::entry::Body;
use crate::conn::{Entry, Entry4, Entry6, Table};
use crate::packet::{Tuple4, Tuple6};
use crate::update::{Candidate, ConnectionKey, ConnectionRow, Dump, Reply};

/// What is read for a listing in one loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    /// Groups at most, 32 bytes each in order.
    groups: usize,
    /// Entries after which it ends, 64 bytes each in order.
    entries: usize,
}

/// In a loop without packets: a burst that comes meanwhile waits some
/// microseconds.
const IDLE: Share = Share { groups: 1024, entries: 1024 };
/// In a loop with packets, and of these in one of [`BUSY_EVERY`] only. This
/// takes some 2 microseconds, as much as 20 packets, and 16 loops at full load
/// some 100: whoever lists all the time takes about 2 % of a worker (1.3 % measured).
const BUSY: Share = Share { groups: 256, entries: 256 };
const BUSY_EVERY: usize = 16;
/// Shares after which a listing is answered as far as it came. A worker that
/// has nothing to do sleeps between rounds, and control takes one that does not
/// answer for stalled.
const SHARES: usize = 256;

/// A listing under way.
#[derive(Debug)]
pub(super) struct Listing {
    dump: Box<Dump>,
    shares: usize,
    /// Loops with packets since the last share.
    passed: usize,
}

impl Listing {
    pub(super) fn new(dump: Box<Dump>) -> Self {
        Self { dump, shares: 0, passed: 0 }
    }
}

impl Director {
    /// Goes on with a listing, if it is time. `idle` says that this loop had no
    /// packets.
    pub(super) fn go_on_listing(&mut self, idle: bool) {
        let Some(mut listing) = self.listing.take() else { return };
        listing.passed += 1;
        if !idle && listing.passed < BUSY_EVERY {
            self.listing = Some(listing);
            return;
        }
        listing.passed = 0;
        listing.shares += 1;
        let full = self.list(&mut listing.dump, if idle { IDLE } else { BUSY });
        if full || listing.dump.finished || listing.shares == SHARES {
            self.core.link.reply(Reply::Dump(listing.dump));
        } else {
            self.listing = Some(listing);
        }
    }

    /// Adds rows to a listing until it is full or finished, or this share is
    /// used up. Whether it is full.
    fn list(&self, dump: &mut Dump, share: Share) -> bool {
        let timeouts = &self.snapshot.timeouts;
        let tables = &self.tables;
        let Dump { ipv6, group, finished, filter, count, found, rows, .. } = dump;
        let all = filter.is_empty();
        let mut seen = 0;
        for _ in 0..share.groups {
            let full = rows.capacity() - rows.len() < Table::<Entry4>::GROUP_SLOTS;
            let groups = if *ipv6 { tables.v6.group_count() } else { tables.v4.group_count() };
            *finished = *group >= groups;
            if full || *finished || seen >= share.entries {
                return full;
            }
            // A connection is listed by its client's entry.
            let mut show = |key: ConnectionKey, body: &Body, twin: Option<_>| {
                seen += 1;
                if body.is_reply() || (!all && !filter.passes(&candidate(&key, body))) {
                    return;
                }
                *found += 1;
                if *count {
                    return;
                }
                let (server, state) = (body.server, body.state());
                let last =
                    twin.map_or(body.last(), |twin| tables.body(twin).last().max(body.last()));
                let expiry = timeouts.expiry(state, last);
                rows.push(ConnectionRow { key, server, state, expiry });
            };
            if *ipv6 {
                tables.v6.scan(*group, |e| {
                    show(ConnectionKey::V6(e.key()), e.body(), e.body().twin(Entry6::FAMILY));
                });
            } else {
                tables.v4.scan(*group, |e| {
                    show(ConnectionKey::V4(e.key()), e.body(), e.body().twin(Entry4::FAMILY));
                });
            }
            *group += 1;
        }
        false
    }
}

fn candidate(key: &ConnectionKey, body: &Body) -> Candidate {
    let (protocol, client, virtual_address) = match key {
        ConnectionKey::V4(key) => {
            let Tuple4 { src, dst, src_port, dst_port } = key.tuple();
            let ip = |ip: u32| IpAddr::V4(Ipv4Addr::from_bits(ip));
            (key.protocol(), (ip(src), src_port), (ip(dst), dst_port))
        }
        ConnectionKey::V6(key) => {
            let Tuple6 { src, dst, src_port, dst_port } = key.tuple();
            let ip = |ip: [u8; 16]| IpAddr::V6(Ipv6Addr::from(ip));
            (key.protocol(), (ip(src), src_port), (ip(dst), dst_port))
        }
    };
    Candidate { protocol, client, virtual_address, state: body.state(), server: body.server }
}
