//! What workers and the record are shown.
//!
//! A snapshot shares with the last one all but what changed in between: a change
//! is noted, and [`Registry::snapshot`] builds anew the services and servers
//! that have one. So several changes to a service make one new form of it, and
//! no change costs more where there are more services.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::conn;
use dataplane::scheduler::{Candidate, Scheduler};
use dataplane::service::{MarkRule, NatSources, Servers, Service, ServiceKey, Services};
use dataplane::snapshot::Snapshot;

use super::{Registry, ServerEntry, ServiceEntry, nat, settings};
use crate::api::ServiceSpec;
use crate::daemon::saved;

/// Work of one snapshot on services whose new servers have settled, in servers:
/// about two milliseconds' worth. After a start it may be all services at once.
const SETTLING: usize = 5_000;
/// Work of building a table for mh, a millisecond's.
const TABLE: usize = 2_500;

/// What the last snapshot had, and what is not up to date in it.
#[derive(Debug, Default)]
pub(super) struct View {
    services: Services,
    servers: Servers,
    /// Where replies of NAT servers come from. Always up to date.
    nat_sources: Arc<NatSources>,
    /// Places of services that changed, or whose servers did.
    stale_services: BTreeSet<u64>,
    /// Those for whom that may wait a little: no client asked for it.
    settling: BTreeSet<u64>,
    /// Numbers of servers that changed, came or went.
    stale_servers: Vec<u32>,
}

impl View {
    /// Of no services yet.
    pub(super) fn new(rules: Vec<MarkRule>) -> Self {
        Self { services: Services::new([], rules.into()), ..Self::default() }
    }

    /// Replaces the rules.
    pub(super) fn set_rules(&mut self, rules: Vec<MarkRule>) {
        self.services.set_rules(rules.into());
    }

    /// Notes that a service is to be shown anew.
    pub(super) fn touch_service(&mut self, place: u64) {
        self.stale_services.insert(place);
    }

    /// Notes that new servers of a service have settled.
    pub(super) fn settle(&mut self, place: u64) {
        self.settling.insert(place);
    }

    /// Whether no snapshot yet has what was settled of a service.
    pub(super) fn is_settling(&self, place: u64) -> bool {
        self.settling.contains(&place)
    }

    /// Notes that a server is to be shown anew, or no more.
    pub(super) fn touch_server(&mut self, number: u32) {
        self.stale_servers.push(number);
    }

    /// Shows a service no more.
    pub(super) fn remove_service(&mut self, key: &ServiceKey) {
        self.services.remove(key);
    }

    /// Takes over where replies of a server come from, and came from before.
    pub(super) fn nat_source(
        &mut self,
        service: &ServiceKey,
        before: Option<SocketAddr>,
        after: Option<SocketAddr>,
    ) {
        if before == after {
            return;
        }
        let sources = Arc::make_mut(&mut self.nat_sources);
        if let Some(server) = after {
            nat::add(sources, service, server);
        }
        if let Some(server) = before {
            nat::remove(sources, service, server);
        }
    }
}

impl Registry {
    /// A part of what is to survive a crash: services from a place on, with
    /// about so many servers; and the place to go on with.
    #[must_use]
    pub fn saved(&self, from: u64, rows: usize) -> (saved::Services, Option<u64>) {
        let mut services = Vec::new();
        let mut used = 0;
        let mut next = None;
        for (&place, entry) in self.services.range(from..) {
            if used >= rows {
                next = Some(place);
                break;
            }
            used += 1 + entry.servers.len();
            services.push(self.saved_service(entry));
        }
        let (timeouts, settings) = (self.timeouts, self.settings);
        (saved::Services { timeouts, settings, services }, next)
    }

    /// Services from a cursor on, newest first, until `rows` rows (services and
    /// servers) are reached; and the cursor to go on with.
    #[must_use]
    pub fn described(
        &self,
        cursor: Option<u64>,
        rows: usize,
    ) -> (Vec<saved::Service>, Option<u64>) {
        let mut services = Vec::new();
        let mut used = 0;
        for (&place, entry) in self.services.range(..=cursor.unwrap_or(u64::MAX)).rev() {
            used += 1 + entry.servers.len();
            if used > rows && !services.is_empty() {
                return (services, Some(place));
            }
            services.push(self.saved_service(entry));
        }
        (services, None)
    }

    fn saved_service(&self, entry: &ServiceEntry) -> saved::Service {
        saved::Service {
            spec: (*entry.spec).clone(),
            // Sorry servers are the configuration's.
            servers: entry
                .servers
                .iter()
                .map(|&number| self.server(number))
                .filter(|server| !server.sorry)
                .map(|server| server.spec.clone())
                .collect(),
            drained: self.drained_of(entry),
        }
    }

    /// Builds the snapshot of what there now is, under a new epoch.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        self.epoch += 1;
        self.bring_up_to_date();
        Arc::new(self.assembled())
    }

    /// The snapshot of what was brought up to date last.
    pub(super) fn assembled(&self) -> Snapshot {
        let mut timeouts = conn::Timeouts::default();
        timeouts.set(conn::State::Established, self.timeouts.tcp);
        timeouts.set(conn::State::FinWait, self.timeouts.tcp_fin);
        timeouts.set(conn::State::Udp, self.timeouts.udp);
        Snapshot {
            epoch: self.epoch,
            services: self.view.services.clone(),
            servers: self.view.servers.clone(),
            ports: self.ports.clone(),
            fib: Arc::clone(&self.fib),
            timeouts,
            nat_sources: Arc::clone(&self.view.nat_sources),
            locals: self.locals.by_number(),
            local_ports: self.local_ports,
            settings: settings::for_workers(self.settings),
            ..Snapshot::default()
        }
    }

    fn bring_up_to_date(&mut self) {
        for number in std::mem::take(&mut self.view.stale_servers) {
            let server = self.servers.get_mut(number);
            if let Some(server) = server.filter(|server| server.published.deleted) {
                server.deleted.get_or_insert(self.epoch);
            }
            let published = self.servers.get(number).map(|s| Arc::clone(&s.published));
            self.view.servers.set(number, published);
        }
        for place in std::mem::take(&mut self.view.stale_services) {
            self.rebuild(place);
        }
        let mut work = 0;
        while work < SETTLING {
            let Some(place) = self.view.settling.pop_first() else { break };
            work += self.rebuild(place);
        }
    }

    /// Whether the last snapshot lacks something that the next is to have.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        !self.view.settling.is_empty()
    }

    /// Builds what workers see of a service anew, unless it was deleted since.
    /// The work that it was, in servers.
    fn rebuild(&mut self, place: u64) -> usize {
        self.view.settling.remove(&place);
        let Some(entry) = self.services.get(&place) else { return 0 };
        let table = if matches!(entry.scheduler, Scheduler::Mh(_)) { TABLE } else { 0 };
        let work = 1 + entry.servers.len() + table;
        let candidate = |&number: &u32| {
            let fresh = self.fresh.contains_key(&number);
            let server = self.server(number);
            let ServerEntry { spec, published, .. } = server;
            Candidate {
                server: number,
                address: spec.address,
                weight: if fresh { 0 } else { server.weight() },
                fresh,
                counts: Arc::clone(&published.counts),
            }
        };
        let servers = entry.servers.iter().rev();
        let servers = servers.filter(|&&number| !self.server(number).is_out());
        let candidates = servers.map(candidate).collect();
        let published = Arc::new(Service {
            scheduler: entry.scheduler,
            candidates: entry.published.candidates.followed_by(entry.scheduler, candidates),
            ..(*entry.published).clone()
        });
        self.view.services.put(Arc::clone(&published));
        self.services.get_mut(&place).expect("found above").published = published;
        work
    }

    /// Has workers see a service's present form, whose servers or their weights
    /// changed.
    pub(super) fn show_service(&mut self, place: u64) {
        self.switch_sorry_server(place);
        self.view.touch_service(place);
    }

    /// Has workers see a server's present form under that of its service.
    pub(super) fn show_server(&mut self, number: u32, service: &ServiceSpec) {
        let server = self.servers.get_mut(number).expect("a number in use is in its slot");
        let before = server.nat_source();
        server.publish(service);
        self.view.nat_source(&server.service, before, server.nat_source());
        self.view.touch_server(number);
    }
}
