//! How the daemon follows the kernel's tables: the ways to all addresses, and to
//! each server.
//!
//! A look at all servers takes tens of milliseconds where there are a hundred
//! thousand, so it is done a piece a turn: a client that changes something is
//! answered in between.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::network::Neighbour;
use super::{Daemon, Network, RESOLVE_SHARE};
use crate::api::{Request, ServerSpec};

/// Servers between two looks at the clock.
const PIECE: u32 = 64;
/// Time for them in one turn.
const TIME: Duration = Duration::from_micros(500);

/// What of the kernel's tables has been looked up for what servers.
#[derive(Debug)]
pub(super) struct Resolving {
    /// The look at all servers that is under way.
    pass: Option<Pass>,
    /// Servers went since the last one.
    servers_went: bool,
    /// Local addresses may have come or gone.
    pub(super) locals_changed: bool,
    /// The kernel mirror's generations at the last look at all servers, and at
    /// new ones.
    seen: Option<u64>,
    seen_for_fresh: Option<u64>,
    /// When the next look may begin.
    next: Instant,
}

#[derive(Debug)]
struct Pass {
    /// The number of the next server.
    server: u32,
    /// What the kernel is to keep resolved.
    neighbours: HashSet<Neighbour>,
    /// Time that it has taken.
    spent: Duration,
}

impl Resolving {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            pass: None,
            servers_went: true,
            locals_changed: true,
            seen: None,
            seen_for_fresh: None,
            next: now,
        }
    }

    /// Takes note of a change that was carried out.
    pub(super) fn note(&mut self, change: &Request) {
        match change {
            Request::AddService { .. } | Request::EditService { .. } => self.locals_changed = true,
            Request::DeleteService { .. } | Request::Flush {} => {
                (self.locals_changed, self.servers_went) = (true, true);
            }
            Request::DeleteServer { .. } => self.servers_went = true,
            _ => {}
        }
    }

    /// Takes note that servers may have gone.
    pub(super) fn note_gone(&mut self) {
        self.servers_went = true;
    }

    /// When there is something to do next, if anything is to be done.
    pub(super) fn due(&self, network: Option<&Network>) -> Option<Instant> {
        let network = network?;
        (self.pass.is_some() || self.must_look(network)).then_some(self.next)
    }

    /// Whether a look is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.pass.is_some()
    }

    fn must_look(&self, network: &Network) -> bool {
        self.servers_went || self.seen != Some(network.generation())
    }
}

impl Daemon {
    /// Has the kernel keep the neighbour of a new server resolved.
    pub(super) fn keep_resolved(&mut self, server: IpAddr) {
        let Some(neighbour) = self.network.as_mut().and_then(|n| n.keep_resolved(server)) else {
            return;
        };
        // The look that is under way may be past it.
        if let Some(pass) = &mut self.resolving.pass {
            pass.neighbours.insert(neighbour);
        }
    }

    /// Finds ways and next hops anew when the kernel's tables or the servers
    /// changed, as far as there is time in a turn.
    pub(super) fn resolve(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        if std::mem::take(&mut self.resolving.locals_changed) {
            network.own_locals(&self.registry.local_addresses());
        }
        // A client may be waiting for these.
        let generation = network.generation();
        if self.resolving.seen_for_fresh != Some(generation) {
            self.resolving.seen_for_fresh = Some(generation);
            let network = &*network;
            let resolve = |server: &ServerSpec| network.hop(server.address.ip());
            let changed = self.registry.resolve_fresh(&resolve);
            self.dirty |= !changed.is_empty();
            self.moved.extend(changed);
        }
        if self.resolving.pass.is_none() && !self.begin_pass(now) {
            return;
        }
        self.go_on_with_pass(TIME);
    }

    /// The same at once and to the end.
    pub(super) fn resolve_all(&mut self, now: Instant) {
        self.resolve(now);
        while self.resolving.is_busy() {
            self.go_on_with_pass(TIME);
        }
    }

    /// Whether there is reason to look at all servers, and it is time.
    fn begin_pass(&mut self, now: Instant) -> bool {
        let Some(network) = &mut self.network else { return false };
        if now < self.resolving.next || !self.resolving.must_look(network) {
            return false;
        }
        let start = Instant::now();
        self.resolving.servers_went = false;
        self.resolving.seen = Some(network.generation());
        // Where they are put up is a matter of routes, too.
        network.own_locals(&self.registry.local_addresses());
        if let Some((fib, ports)) = network.changed_ways() {
            self.registry.set_ways(fib, ports);
            self.dirty = true;
        }
        let neighbours = HashSet::new();
        self.resolving.pass = Some(Pass { server: 0, neighbours, spent: start.elapsed() });
        true
    }

    fn go_on_with_pass(&mut self, time: Duration) {
        let (Some(network), Some(mut pass)) = (&mut self.network, self.resolving.pass.take())
        else {
            return;
        };
        let start = Instant::now();
        let end = self.registry.end_of_numbers();
        while pass.server < end && start.elapsed() < time {
            let piece = pass.server..pass.server.saturating_add(PIECE);
            pass.server = piece.end;
            let resolve = |server: &ServerSpec| network.hop(server.address.ip());
            let changed = self.registry.resolve(piece.clone(), &resolve);
            self.dirty |= !changed.is_empty();
            self.moved.extend(changed);
            let addresses = self.registry.addresses(piece);
            pass.neighbours.extend(addresses.filter_map(|ip| network.neighbour_of(ip)));
        }
        if pass.server < end {
            pass.spent += start.elapsed();
            self.resolving.pass = Some(pass);
            return;
        }
        network.keep_only(pass.neighbours);
        self.resolving.next = start + (start.elapsed() + pass.spent) * RESOLVE_SHARE;
    }
}
