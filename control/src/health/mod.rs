//! Health checks, for directors without keepalived.
//!
//! [`Health`] belongs to the control thread. It knows what the configuration
//! wants checked ([`plan`]), has a thread of its own probe (`runner`, `probe`,
//! `schedule`), which only speaks up when a server became good or failed
//! ([`state`]), and has the registry act on it (`effects`).

mod changes;
mod effects;
pub mod plan;
mod probe;
mod runner;
mod schedule;
pub mod state;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use dataplane::probes::Probes;
use dataplane::service::Method;

use crate::api::{HealthCheck, HealthProbe, ServiceId};
use crate::registry::{Registry, Resolve};
use changes::Changes;
pub(crate) use changes::duration;
use plan::{Check, OnFailure, Plan, Via};
use probe::{ByVip, Target};
pub use runner::Wake;
use runner::{Change, Runner, Running, Status};
use state::State;

/// What is checked, and how it stands.
pub struct Health {
    wake: Wake,
    /// The probes to the VIP.
    probes: Arc<Probes>,
    plans: HashMap<ServiceId, Plan>,
    /// Started with the first check.
    runner: Option<Runner>,
    /// By an id that is never used again.
    checks: BTreeMap<u64, Checked>,
    ids: HashMap<ServiceId, HashMap<SocketAddr, u64>>,
    next_id: u64,
    changes: Changes,
    /// Services with `withdraw_vip`, by vip.
    withdrawing: HashMap<IpAddr, Vec<ServiceId>>,
    withdrawn: BTreeSet<IpAddr>,
    /// Sorry servers that the registry has got and nobody was told of.
    new_sorry_servers: Vec<IpAddr>,
}

/// What a server's check has found so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkup {
    /// The server.
    pub server: SocketAddr,
    /// Whether it is good.
    pub up: bool,
    /// Probes that succeeded.
    pub good: u64,
    /// Probes that failed.
    pub failed: u64,
}

/// A server that is checked.
struct Checked {
    target: Target,
    check: Arc<Check>,
    running: Running,
    /// As the control thread has acted on it.
    state: State,
}

impl Health {
    /// Checks nothing yet. `wake` is called by another thread when
    /// [`Health::take_changes`] has something to do. Who moves packets between
    /// kernel and ports has those of `probes` go to the VIP.
    #[must_use]
    pub fn new(wake: Wake, probes: Arc<Probes>) -> Self {
        Self {
            wake,
            probes,
            plans: HashMap::new(),
            runner: None,
            checks: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: 0,
            changes: Changes::default(),
            withdrawing: HashMap::new(),
            withdrawn: BTreeSet::new(),
            new_sorry_servers: Vec::new(),
        }
    }

    /// Makes these the plans in force: checks that they change begin anew, in
    /// the state in which they are, and the others go on. For the start and for
    /// every reload. Whether the registry was changed.
    pub fn configure(
        &mut self,
        plans: HashMap<ServiceId, Plan>,
        registry: &mut Registry,
        resolve: Resolve<'_>,
    ) -> bool {
        let services: BTreeSet<_> = self.plans.keys().chain(plans.keys()).copied().collect();
        self.plans = plans;
        self.plans.retain(|_, plan| !plan.is_empty());
        self.withdrawing.clear();
        for (&id, _) in self.plans.iter().filter(|(_, plan)| plan.withdraw_vip) {
            if let ServiceId::Address { address, .. } = id {
                self.withdrawing.entry(address.ip()).or_default().push(id);
            }
        }
        if let Some(runner) = &self.runner {
            runner.forget_files();
        }
        let changed = self.follow(&services, registry, resolve);
        // Those of services that have no such option any more.
        self.withdraw(registry, None);
        changed
    }

    /// Services changed, came or went: their checks start and stop with their
    /// servers. Whether the registry was changed.
    pub fn follow<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a ServiceId>,
        registry: &mut Registry,
        resolve: Resolve<'_>,
    ) -> bool {
        let mut changed = false;
        for service in services {
            if !self.plans.contains_key(service) && !self.ids.contains_key(service) {
                continue;
            }
            changed |= self.follow_service(service, registry, resolve);
            self.withdraw(registry, Some(service));
        }
        changed
    }

    /// The same when no more than these servers changed, came or went.
    pub fn follow_servers<'a>(
        &mut self,
        servers: impl IntoIterator<Item = &'a (ServiceId, SocketAddr)>,
        registry: &mut Registry,
    ) -> bool {
        let mut changed = false;
        for (service, server) in servers {
            if self.plans.contains_key(service) {
                changed |= self.follow_server(service, *server, registry);
                self.withdraw(registry, Some(service));
            }
        }
        changed
    }

    /// All services may have come or gone, as after a flush.
    pub fn follow_all(&mut self, registry: &mut Registry, resolve: Resolve<'_>) -> bool {
        let services: Vec<_> = self.plans.keys().chain(self.ids.keys()).copied().collect();
        self.follow(&services, registry, resolve)
    }

    /// The checks from one on, at most so many; and the one to go on with.
    #[must_use]
    pub fn checks(&self, cursor: Option<u64>, rows: usize) -> (Vec<HealthCheck>, Option<u64>) {
        let mut checks = self.checks.range(cursor.unwrap_or(0)..);
        let now = Instant::now();
        let page = checks.by_ref().take(rows).map(|(_, checked)| checked.row(now)).collect();
        (page, checks.next().map(|(&id, _)| id))
    }

    /// What the checks of a service's servers have found, in the order of their
    /// addresses; nothing for a service that is not checked.
    #[must_use]
    pub fn checkups(&self, service: &ServiceId) -> Vec<Checkup> {
        let Some(ids) = self.ids.get(service) else { return Vec::new() };
        let checked = ids.values().filter_map(|id| self.checks.get(id));
        let mut found: Vec<_> = checked.map(Checked::checkup).collect();
        found.sort_unstable_by_key(|checkup| checkup.server);
        found
    }

    /// vips that are to be taken off the director.
    #[must_use]
    pub fn withdrawn(&self) -> &BTreeSet<IpAddr> {
        &self.withdrawn
    }

    /// Sorry servers that are new since the last call: their neighbours should
    /// be known before they are needed.
    pub fn new_sorry_servers(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.new_sorry_servers)
    }

    /// Brings a service's checks and sorry server into the wanted state.
    fn follow_service(
        &mut self,
        service: &ServiceId,
        registry: &mut Registry,
        resolve: Resolve<'_>,
    ) -> bool {
        let mut changed = false;
        let servers = registry.servers_of(service);
        if servers.is_some() {
            let none = Plan::default();
            let plan = self.plans.get(service).map_or(&none, |plan| plan);
            if effects::sorry_server(service, plan, registry, resolve) {
                changed = true;
                let sorry_server = plan.sorry_server.as_ref();
                self.new_sorry_servers.extend(sorry_server.map(|server| server.address.ip()));
            }
        }
        let servers = servers.unwrap_or_default();
        let there: HashSet<_> = servers.iter().collect();
        let checked = self.ids.get(service).into_iter().flat_map(HashMap::keys).copied();
        let gone: Vec<_> = checked.filter(|server| !there.contains(server)).collect();
        for server in servers.into_iter().chain(gone) {
            changed |= self.follow_server(service, server, registry);
        }
        changed
    }

    /// Starts, stops or leaves alone the check of a server, as there is such a
    /// server and a plan for it.
    fn follow_server(
        &mut self,
        service: &ServiceId,
        server: SocketAddr,
        registry: &mut Registry,
    ) -> bool {
        let check = self.plans.get(service).and_then(|plan| plan.check_of(&server));
        let check = check.filter(|_| registry.has_server(service, server));
        let by_vip = check.filter(|check| check.via == Via::Vip).and_then(|_| {
            match registry.method_of(service, server)? {
                Method::Dr => Some(ByVip::Plain),
                Method::Tun(encapsulation) => Some(ByVip::Tunnel(encapsulation)),
                Method::Nat | Method::Fullnat => None,
            }
        });
        let id = self.ids.get(service).and_then(|ids| ids.get(&server)).copied();
        let before = id.and_then(|id| self.checks.remove(&id));
        let (id, checked) = match (check, id, before) {
            (None, id, _) => {
                if id.is_some() {
                    self.forget(service, server);
                }
                return id.is_some() && effects::unchecked(service, server, registry);
            }
            (Some(check), Some(id), Some(checked))
                if *checked.check == *check && checked.target.by_vip == by_vip =>
            {
                (id, checked)
            }
            (Some(check), _, before) => {
                let state = before.map_or(check.initial, |checked| checked.state);
                let target = Target { service: *service, server, by_vip };
                let check = Arc::new(check.clone());
                match self.start(check, target, state) {
                    Some(started) => started,
                    None => return false,
                }
            }
        };
        // Also what was deleted and added again stands as its check says.
        let changed = effects::stand(&checked, registry);
        self.ids.entry(*service).or_default().insert(server, id);
        self.checks.insert(id, checked);
        changed
    }

    fn forget(&mut self, service: &ServiceId, server: SocketAddr) {
        if let Some(ids) = self.ids.get_mut(service) {
            ids.remove(&server);
            if ids.is_empty() {
                self.ids.remove(service);
            }
        }
    }

    fn start(&mut self, check: Arc<Check>, target: Target, state: State) -> Option<(u64, Checked)> {
        if self.runner.is_none() {
            match Runner::start(Arc::clone(&self.wake), Arc::clone(&self.probes)) {
                Ok(runner) => self.runner = Some(runner),
                Err(error) => {
                    log::error!("{error}; servers are not checked");
                    return None;
                }
            }
        }
        let runner = self.runner.as_ref()?;
        let id = self.next_id;
        self.next_id += 1;
        let running = runner.check(id, Arc::clone(&check), target, state);
        Some((id, Checked { target, check, running, state }))
    }

    /// A change of a check that still runs.
    fn next_change(&mut self) -> Option<Change> {
        loop {
            let change = self.runner.as_ref()?.change()?;
            if self.checks.contains_key(&change.id) {
                return Some(change);
            }
        }
    }
}

impl Checked {
    fn checkup(&self) -> Checkup {
        let status = self.running.status();
        Checkup {
            server: self.target.server,
            up: status.state() == State::Up,
            good: status.probes - status.failures,
            failed: status.failures,
        }
    }

    fn row(&self, now: Instant) -> HealthCheck {
        let status = self.running.status();
        let millis = |since: Instant| now.saturating_duration_since(since).as_millis() as u64;
        let Status { since, in_a_row, probes, failures, .. } = status;
        HealthCheck {
            service: self.target.service,
            server: self.target.server,
            kind: self.check.kind.name().to_owned(),
            up: status.state() == State::Up,
            since_ms: millis(since),
            on_failure: match self.check.on_failure {
                OnFailure::Weight0 => "weight0".to_owned(),
                OnFailure::Remove => "remove".to_owned(),
            },
            in_a_row,
            probes,
            failures,
            last: status.last.map(|last| HealthProbe {
                ago_ms: millis(last.at),
                took_us: last.took.as_micros() as u64,
                failure: last.outcome.err(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
