//! The single authority over services and servers.
//!
//! It validates what clients ask, gives servers the numbers that connections
//! keep, and builds the snapshots that workers run. It is a plain data
//! structure: no sockets, no threads, no clock.
//!
//! Deleted servers stay in the *trash* while connections to them exist: their
//! numbers, counters and connections come back when the server is added again
//! (as with the kernel), and no number is given out twice.

mod listing;
mod locals;
mod methods;
mod nat;
mod options;
mod rates;
mod settings;
mod slots;
mod validate;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::conn;
use dataplane::fib::Fib;
use dataplane::scheduler::{self, Candidate, Candidates, Scheduler};
use dataplane::service::{
    ClientAddress, Hop, MarkRule, Method, NatSources, Server, ServerCounts, Service, ServiceKey,
    Services, TrafficTotals,
};
use dataplane::snapshot::{LocalPorts, Port, Snapshot};

use crate::api::{
    Error, ErrorCode, Request, ServerSpec, ServiceId, ServiceSpec, Settings, Timeouts,
};
use crate::daemon::saved;
pub use listing::ServerRow;
use locals::Locals;
pub use options::{MAX_MSS, MIN_MSS};
use rates::Meter;
pub use rates::PERIOD_SECONDS;
use slots::Slots;
pub(crate) use validate::protocol_of;
use validate::{check_server, check_service, key_of};

/// All services and servers.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    ports: Vec<Port>,
    fib: Arc<Fib>,
    timeouts: Timeouts,
    settings: Settings,
    /// What gives packets their marks, in the order of the configuration.
    rules: Arc<[MarkRule]>,
    locals: Locals,
    /// First and last port on local addresses.
    local_ports: LocalPorts,
    /// Where replies of NAT servers come from; `None` when such servers changed.
    nat_sources: Option<Arc<NatSources>>,
    epoch: u64,
    /// By creation: a service keeps its place for as long as it exists.
    services: BTreeMap<u64, ServiceEntry>,
    by_key: HashMap<ServiceKey, u64>,
    next_place: u64,
    servers: Slots<ServerEntry>,
    /// Deleted servers that connections still have, by service.
    trash: HashMap<ServiceKey, HashMap<SocketAddr, u32>>,
    /// New servers whose neighbour the kernel has not resolved yet, with the
    /// seconds that they have waited. They get no connections, whose first
    /// packets would be lost; after [`GRACE_SECONDS`] they are as good as any
    /// server that does not answer.
    fresh: HashMap<u32, u8>,
}

/// Full seconds that a new server is given to be resolved.
const GRACE_SECONDS: u8 = 1;

#[derive(Debug)]
struct ServiceEntry {
    spec: ServiceSpec,
    scheduler: Scheduler,
    /// Numbers of its servers, newest first.
    servers: Vec<u32>,
    /// What servers counted that are gone for good.
    retired: TrafficTotals,
    meter: Meter,
    published: Arc<Service>,
}

#[derive(Debug)]
struct ServerEntry {
    service: ServiceKey,
    /// The service's place: another service of the same name has another.
    place: u64,
    spec: ServerSpec,
    meter: Meter,
    /// The epoch of the snapshot that first had it deleted.
    deleted: Option<u64>,
    /// Whether it ever was a NAT server: connections from that time keep their
    /// method.
    was_nat: bool,
    published: Arc<Server>,
}

/// Finds how packets to a server leave.
pub type Resolve<'a> = &'a dyn Fn(&ServerSpec) -> Hop;

impl Registry {
    /// An empty registry for so many workers.
    #[must_use]
    pub fn new(workers: usize, ports: Vec<Port>, timeouts: Timeouts) -> Self {
        Self {
            workers,
            ports,
            fib: Arc::default(),
            timeouts,
            settings: Settings::default(),
            rules: Arc::default(),
            locals: Locals::default(),
            local_ports: LocalPorts::default(),
            nat_sources: None,
            epoch: 0,
            services: BTreeMap::new(),
            by_key: HashMap::new(),
            next_place: 0,
            servers: Slots::default(),
            trash: HashMap::new(),
            fresh: HashMap::new(),
        }
    }

    /// With rules that give packets their marks.
    #[must_use]
    pub fn with_rules(self, rules: Vec<MarkRule>) -> Self {
        Self { rules: rules.into(), ..self }
    }

    /// With this first and last port on local addresses.
    #[must_use]
    pub fn with_local_ports(self, (first, last): (u16, u16)) -> Self {
        Self { local_ports: LocalPorts(first, last), ..self }
    }

    /// With these settings.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }

    /// Carries a request out. `None` when it is not one that changes services,
    /// servers, timeouts or settings.
    pub fn change(&mut self, request: &Request, resolve: Resolve<'_>) -> Option<Result<(), Error>> {
        Some(match request {
            Request::AddService { service } => self.add_service(service.clone()),
            Request::EditService { service } => self.edit_service(service.clone()),
            Request::DeleteService { service } => self.delete_service(service),
            Request::Flush {} => {
                self.flush();
                Ok(())
            }
            Request::AddServer { service, server } => {
                self.add_server(service, server.clone(), resolve)
            }
            Request::EditServer { service, server } => {
                self.edit_server(service, server.clone(), resolve)
            }
            Request::DeleteServer { service, server } => self.delete_server(service, *server),
            Request::SetTimeouts { timeouts } => self.set_timeouts(*timeouts),
            Request::SetSetting { name, value } => self.settings.set(name, *value),
            _ => return None,
        })
    }

    /// Creates a service.
    ///
    /// # Errors
    /// When it exists, or asks for something impossible or unsupported.
    pub fn add_service(&mut self, spec: ServiceSpec) -> Result<(), Error> {
        let (key, scheduler) = check_service(&spec)?;
        if self.by_key.contains_key(&key) {
            return Err(Error::new(ErrorCode::ServiceExists, "Service already exists"));
        }
        let locals = self.locals.number(&spec.local_addresses)?;
        let place = self.next_place;
        self.next_place += 1;
        let mut published = Service {
            key,
            number: place as u32,
            scheduler,
            state: Arc::new(scheduler::State::new(scheduler)),
            candidates: Candidates::default(),
            persistence: None,
            one_packet: false,
            locals,
        };
        options::publish(&mut published, &spec);
        let mut entry = ServiceEntry {
            spec,
            scheduler,
            servers: Vec::new(),
            retired: TrafficTotals::default(),
            meter: Meter::default(),
            published: Arc::new(published),
        };
        // Servers in the trash from an earlier service of this name count on;
        // this service begins at 0.
        entry.meter.zero(self.totals(key, &entry));
        self.services.insert(place, entry);
        self.by_key.insert(key, place);
        Ok(())
    }

    /// Changes everything of a service but its name and servers.
    ///
    /// # Errors
    /// When it does not exist, or asks for something impossible.
    pub fn edit_service(&mut self, spec: ServiceSpec) -> Result<(), Error> {
        let place = self.place(&spec.id, ErrorCode::NoSuchService)?;
        let (key, scheduler) = check_service(&spec)?;
        for &number in &self.services[&place].servers {
            methods::check(&spec, &key, &self.server(number).spec)?;
        }
        let locals = self.locals.number(&spec.local_addresses)?;
        let entry = self.services.get_mut(&place).expect("a place has a service");
        let mut service = (*entry.published).clone();
        if entry.scheduler != scheduler {
            // Another scheduler begins anew.
            service.state = Arc::new(scheduler::State::new(scheduler));
        }
        service.locals = locals;
        options::publish(&mut service, &spec);
        entry.published = Arc::new(service);
        entry.scheduler = scheduler;
        for number in &entry.servers {
            let server = self.servers.get_mut(*number).expect("a service's server is in its slot");
            if server.publish(&spec) {
                self.nat_sources = None;
            }
        }
        entry.spec = spec;
        self.republish(place);
        Ok(())
    }

    /// Deletes a service; its servers go to the trash.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_service(&mut self, id: &ServiceId) -> Result<(), Error> {
        let place = self.place(id, ErrorCode::NoSuchService)?;
        let entry = self.services.remove(&place).expect("a place has a service");
        let key = entry.published.key;
        self.by_key.remove(&key);
        for number in entry.servers {
            self.discard(number);
        }
        Ok(())
    }

    /// Deletes all services.
    pub fn flush(&mut self) {
        let ids: Vec<_> = self.services.values().map(|s| s.spec.id).collect();
        for id in ids {
            self.delete_service(&id).expect("a listed service exists");
        }
    }

    /// Adds a server to a service, from the trash when it is there.
    ///
    /// # Errors
    /// When there is no such service, the server exists, or it asks for
    /// something impossible or unsupported.
    pub fn add_server(
        &mut self,
        service: &ServiceId,
        spec: ServerSpec,
        resolve: Resolve<'_>,
    ) -> Result<(), Error> {
        let place = self.place(service, ErrorCode::ServiceNotDefined)?;
        let entry = &self.services[&place];
        let key = entry.published.key;
        let service = entry.spec.clone();
        let spec = check_server(&service, &key, spec)?;
        if self.server_of(entry, spec.address).is_some() {
            return Err(Error::new(ErrorCode::ServerExists, "Destination already exists"));
        }
        let hop = resolve(&spec);
        let number = match self.recover(&key, spec.address) {
            Some(number) => {
                let server = self.servers.get_mut(number).expect("trash is in its slot");
                server.deleted = None;
                server.spec = spec;
                if server.place != place {
                    // Another service of that name: it counts from here, as in
                    // the kernel.
                    server.place = place;
                    server.meter.zero(server.published.counts.totals());
                }
                server.republish(|published| {
                    published.hop = hop;
                    published.deleted = false;
                });
                if server.publish(&service) {
                    self.nat_sources = None;
                }
                number
            }
            None => self.new_server(&service, key, place, spec, hop)?,
        };
        if hop == Hop::Unresolved {
            self.fresh.insert(number, 0);
        }
        let entry = self.services.get_mut(&place).expect("found above");
        entry.servers.insert(0, number);
        entry.published.state.server_added();
        self.republish(place);
        Ok(())
    }

    /// Takes a server out of the trash.
    fn recover(&mut self, service: &ServiceKey, address: SocketAddr) -> Option<u32> {
        let servers = self.trash.get_mut(service)?;
        let number = servers.remove(&address)?;
        if servers.is_empty() {
            self.trash.remove(service);
        }
        Some(number)
    }

    fn new_server(
        &mut self,
        service: &ServiceSpec,
        key: ServiceKey,
        place: u64,
        spec: ServerSpec,
        hop: Hop,
    ) -> Result<u32, Error> {
        let published = Arc::new(Server {
            address: spec.address,
            method: Method::Dr,
            hop,
            weight: spec.weight,
            deleted: false,
            client_address: ClientAddress::None,
            mss: None,
            counts: Arc::new(ServerCounts::new(self.workers)),
        });
        let meter = Meter::default();
        let (deleted, was_nat) = (None, false);
        let mut entry =
            ServerEntry { service: key, place, spec, meter, deleted, was_nat, published };
        if entry.publish(service) {
            self.nat_sources = None;
        }
        self.servers
            .insert(entry)
            .ok_or_else(|| Error::new(ErrorCode::NoSpace, "no server number is free"))
    }

    /// Changes everything of a server but its address.
    ///
    /// # Errors
    /// When there is no such service or server, or the new form is impossible.
    pub fn edit_server(
        &mut self,
        service: &ServiceId,
        spec: ServerSpec,
        resolve: Resolve<'_>,
    ) -> Result<(), Error> {
        let place = self.place(service, ErrorCode::ServiceNotDefined)?;
        let entry = &self.services[&place];
        let service = entry.spec.clone();
        let spec = check_server(&service, &entry.published.key, spec)?;
        let (_, number) = self.server_of(entry, spec.address).ok_or_else(no_such_server)?;
        let server = self.servers.get_mut(number).expect("a service's server is in its slot");
        let hop = resolve(&spec);
        server.spec = spec;
        server.republish(|published| published.hop = hop);
        if server.publish(&service) {
            self.nat_sources = None;
        }
        self.republish(place);
        Ok(())
    }

    /// Deletes a server; it goes to the trash.
    ///
    /// # Errors
    /// When there is no such service or server.
    pub fn delete_server(&mut self, service: &ServiceId, address: SocketAddr) -> Result<(), Error> {
        let place = self.place(service, ErrorCode::ServiceNotDefined)?;
        let entry = &self.services[&place];
        let (index, number) = self.server_called(entry, address).ok_or_else(no_such_server)?;
        let entry = self.services.get_mut(&place).expect("found above");
        entry.servers.remove(index);
        entry.published.state.server_removed(index);
        self.republish(place);
        self.discard(number);
        Ok(())
    }

    /// Sets the counters of a service and its servers to zero, or of all.
    ///
    /// # Errors
    /// When the one named does not exist.
    pub fn zero(&mut self, service: Option<&ServiceId>) -> Result<(), Error> {
        let places: Vec<_> = match service {
            Some(id) => vec![self.place(id, ErrorCode::NoSuchService)?],
            None => self.services.keys().copied().collect(),
        };
        for place in places {
            let entry = &self.services[&place];
            let totals = self.totals(entry.published.key, entry);
            let entry = self.services.get_mut(&place).expect("listed above");
            entry.meter.zero(totals);
            for &number in &entry.servers {
                let server = self.servers.get_mut(number).expect("in its slot");
                server.meter.zero(server.published.counts.totals());
            }
        }
        Ok(())
    }

    /// The timeouts in force.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Changes timeouts; zeroes keep the present value.
    ///
    /// # Errors
    /// When a value is out of range.
    pub fn set_timeouts(&mut self, new: Timeouts) -> Result<(), Error> {
        let Timeouts { tcp, tcp_fin, udp } = new;
        for (name, value) in [("tcp", tcp), ("tcp_fin", tcp_fin), ("udp", udp)] {
            validate::check_timeout(name, value)?;
        }
        let keep = |new, old| if new == 0 { old } else { new };
        self.timeouts = Timeouts {
            tcp: keep(tcp, self.timeouts.tcp),
            tcp_fin: keep(tcp_fin, self.timeouts.tcp_fin),
            udp: keep(udp, self.timeouts.udp),
        };
        Ok(())
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The local addresses that services have now.
    #[must_use]
    pub fn local_addresses(&self) -> BTreeSet<IpAddr> {
        let services = self.services.values();
        services.flat_map(|service| service.spec.local_addresses.iter().copied()).collect()
    }

    /// Takes over what the kernel now says of the ways to all addresses and of
    /// the ports. Until the first time nothing leaves by the way to an address.
    pub fn set_ways(&mut self, fib: Arc<Fib>, ports: Vec<Port>) {
        self.fib = fib;
        self.ports = ports;
    }

    /// Finds the way to every server anew. The servers whose way changed.
    pub fn resolve_all(&mut self, resolve: Resolve<'_>) -> Vec<(IpAddr, Hop)> {
        let mut changed = Vec::new();
        for server in self.servers.iter_mut() {
            let hop = resolve(&server.spec);
            if hop != server.published.hop {
                server.republish(|published| published.hop = hop);
                changed.push((server.spec.address.ip(), hop));
            }
        }
        let ready = |number: &u32| self.server(*number).published.hop != Hop::Unresolved;
        let ready: Vec<_> = self.fresh.keys().copied().filter(ready).collect();
        self.settle(&ready);
        changed
    }

    /// Whether a server is new and waits for its neighbour to be resolved.
    #[must_use]
    pub fn is_fresh(&self, service: &ServiceId, address: SocketAddr) -> bool {
        if self.fresh.is_empty() {
            return false;
        }
        let Ok(place) = self.place(service, ErrorCode::NoSuchService) else { return false };
        let entry = &self.services[&place];
        let server = self.server_called(entry, address);
        server.is_some_and(|(_, number)| self.fresh.contains_key(&number))
    }

    /// Lets new servers take connections that have waited long enough. To be
    /// called every second. Whether there were any.
    pub fn end_grace(&mut self) -> bool {
        let mut over = Vec::new();
        for (&number, seconds) in &mut self.fresh {
            if *seconds >= GRACE_SECONDS {
                over.push(number);
            }
            *seconds += 1;
        }
        self.settle(&over);
        !over.is_empty()
    }

    fn settle(&mut self, numbers: &[u32]) {
        for number in numbers {
            self.fresh.remove(number);
            let place = self.by_key[&self.server(*number).service];
            self.republish(place);
        }
    }

    /// What is to survive a crash.
    #[must_use]
    pub fn saved(&self) -> saved::Services {
        let services = self.services.values().map(|entry| saved::Service {
            spec: entry.spec.clone(),
            servers: entry.servers.iter().rev().map(|&n| self.server(n).spec.clone()).collect(),
        });
        let (timeouts, settings) = (self.timeouts, self.settings);
        saved::Services { timeouts, settings, services: services.collect() }
    }

    /// Builds the snapshot of what there now is, under a new epoch.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        self.epoch += 1;
        let mut timeouts = conn::Timeouts::default();
        timeouts.set(conn::State::Established, self.timeouts.tcp);
        timeouts.set(conn::State::FinWait, self.timeouts.tcp_fin);
        timeouts.set(conn::State::Udp, self.timeouts.udp);
        let servers = self.servers.slots().map(|s| s.map(|s| Arc::clone(&s.published))).collect();
        for number in self.trash.values().flat_map(HashMap::values) {
            let server = self.servers.get_mut(*number).expect("trash is in its slot");
            server.deleted.get_or_insert(self.epoch);
        }
        let all = self.servers.slots().flatten();
        let nat_sources =
            Arc::clone(self.nat_sources.get_or_insert_with(|| Arc::new(nat::sources(all))));
        Arc::new(Snapshot {
            epoch: self.epoch,
            services: Services::new(
                self.services.values().map(|s| Arc::clone(&s.published)),
                Arc::clone(&self.rules),
            ),
            servers,
            ports: self.ports.clone(),
            fib: Arc::clone(&self.fib),
            timeouts,
            nat_sources,
            locals: self.locals.by_number(),
            local_ports: self.local_ports,
            settings: settings::for_workers(self.settings),
            ..Snapshot::default()
        })
    }

    /// Forgets deleted servers without connections. `running` is the oldest
    /// epoch that any worker runs: no worker that has heard of the deletion
    /// opens another connection. Whether any was forgotten; the next snapshot
    /// is without them.
    pub fn empty_trash(&mut self, running: u64) -> bool {
        let gone: Vec<_> = self
            .trash
            .values()
            .flat_map(HashMap::values)
            .copied()
            .filter(|&number| {
                let server = self.server(number);
                server.deleted.is_some_and(|epoch| epoch <= running)
                    && server.published.counts.connections.read() == (0, 0)
                    && server.published.counts.connections.templates() == 0
            })
            .collect();
        for &number in &gone {
            let server = self.servers.remove(number).expect("trash is in its slot");
            if server.nat_source().is_some() {
                self.nat_sources = None;
            }
            self.recover(&server.service, server.spec.address);
            if let Some(place) = self.by_key.get(&server.service) {
                let service = self.services.get_mut(place).expect("a place has a service");
                service.retired = rates::sum(service.retired, server.published.counts.totals());
            }
        }
        !gone.is_empty()
    }

    /// Advances the rates. To be called every [`PERIOD_SECONDS`].
    pub fn estimate_rates(&mut self) {
        let totals: Vec<_> =
            self.services.values().map(|entry| self.totals(entry.published.key, entry)).collect();
        for (entry, totals) in self.services.values_mut().zip(totals) {
            entry.meter.estimate(totals);
        }
        for server in self.servers.iter_mut() {
            server.meter.estimate(server.published.counts.totals());
        }
    }

    /// All that was ever counted for a service of this name.
    fn totals(&self, key: ServiceKey, entry: &ServiceEntry) -> TrafficTotals {
        let trash = self.trash.get(&key).into_iter().flat_map(HashMap::values);
        entry.servers.iter().chain(trash).fold(entry.retired, |sum, &number| {
            rates::sum(sum, self.server(number).published.counts.totals())
        })
    }

    /// Puts a server into the trash.
    fn discard(&mut self, number: u32) {
        self.fresh.remove(&number);
        let server = self.servers.get_mut(number).expect("a service's server is in its slot");
        server.republish(|published| published.deleted = true);
        self.trash.entry(server.service).or_default().insert(server.spec.address, number);
    }

    /// Builds what workers see of a service anew.
    fn republish(&mut self, place: u64) {
        let entry = &self.services[&place];
        let candidates = entry
            .servers
            .iter()
            .map(|&number| {
                let fresh = self.fresh.contains_key(&number);
                let ServerEntry { spec, published, .. } = self.server(number);
                Candidate {
                    server: number,
                    address: spec.address,
                    weight: if fresh { 0 } else { spec.weight },
                    fresh,
                    counts: Arc::clone(&published.counts),
                }
            })
            .collect();
        let published = Service {
            scheduler: entry.scheduler,
            candidates: entry.published.candidates.followed_by(entry.scheduler, candidates),
            ..(*entry.published).clone()
        };
        self.services.get_mut(&place).expect("found above").published = Arc::new(published);
    }

    fn place(&self, id: &ServiceId, missing: ErrorCode) -> Result<u64, Error> {
        let found = key_of(id).ok().and_then(|key| self.by_key.get(&key));
        found.copied().ok_or_else(|| {
            let message = match missing {
                ErrorCode::ServiceNotDefined => "Service not defined",
                _ => "No such service",
            };
            Error::new(missing, message)
        })
    }

    fn server_of(&self, entry: &ServiceEntry, address: SocketAddr) -> Option<(usize, u32)> {
        let mut numbers = entry.servers.iter().copied().enumerate();
        numbers.find(|&(_, number)| self.server(number).spec.address == address)
    }

    /// The server that an address stands for in a command: that with its port,
    /// 0 standing for the service's, or one whose port says nothing.
    fn server_called(&self, entry: &ServiceEntry, address: SocketAddr) -> Option<(usize, u32)> {
        let key = &entry.published.key;
        let port = if address.port() == 0 { key.vport() } else { address.port() };
        self.server_of(entry, SocketAddr::new(address.ip(), port)).or_else(|| {
            let mut numbers = entry.servers.iter().copied().enumerate();
            numbers.find(|&(_, number)| {
                let ServerSpec { address: own, method, .. } = &self.server(number).spec;
                own.ip() == address.ip() && methods::goes_by_address(key, method)
            })
        })
    }

    fn server(&self, number: u32) -> &ServerEntry {
        self.servers.get(number).expect("a number in use is in its slot")
    }
}

impl ServerEntry {
    /// Has workers see its present form under that of its service. Thresholds
    /// are in force at once: they are no part of the snapshot. Whether it
    /// changed where replies of NAT servers come from.
    fn publish(&mut self, service: &ServiceSpec) -> bool {
        let before = self.nat_source();
        let mut server = (*self.published).clone();
        methods::publish(&mut server, service, &self.service, &self.spec);
        self.published = Arc::new(server);
        let ServerSpec { upper_threshold, lower_threshold, .. } = self.spec;
        self.published.counts.connections.set_thresholds(upper_threshold, lower_threshold);
        self.was_nat |= self.published.method == Method::Nat;
        before != self.nat_source()
    }

    /// Where its replies come from if it is or was a NAT server.
    fn nat_source(&self) -> Option<SocketAddr> {
        self.was_nat.then_some(self.published.address)
    }

    fn republish(&mut self, change: impl FnOnce(&mut Server)) {
        let mut server = (*self.published).clone();
        change(&mut server);
        self.published = Arc::new(server);
    }
}

fn no_such_server() -> Error {
    Error::new(ErrorCode::NoSuchServer, "No such destination")
}

#[cfg(test)]
mod method_tests;
#[cfg(test)]
mod tests;
