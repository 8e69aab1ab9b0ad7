//! The single authority over services and servers.
//!
//! It validates what clients ask, gives servers the numbers that connections
//! keep, and builds the snapshots that workers run. It is a plain data
//! structure: no sockets, no threads, no clock.

mod counts;
mod drain;
mod fresh;
mod health;
mod listing;
mod locals;
mod methods;
mod nat;
mod observed;
mod options;
mod rates;
mod servers;
mod services;
mod settings;
mod slots;
mod trash;
mod validate;
mod view;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::fib::Fib;
use dataplane::scheduler::Scheduler;
use dataplane::service::{Hop, MarkRule, Server, Service, ServiceKey, TrafficTotals};
use dataplane::snapshot::{LocalPorts, Port};

use crate::api::{
    Error, ErrorCode, Request, ServerSpec, ServiceId, ServiceSpec, Settings, Timeouts,
};
use counts::Rating;
use drain::Drain;
pub use health::Standing;
pub use listing::ServerRow;
use locals::Locals;
pub use options::{MAX_MSS, MIN_MSS};
use rates::Meter;
pub use rates::PERIOD_SECONDS;
use slots::Slots;
use validate::key_of;
pub(crate) use validate::protocol_of;
use view::View;

/// All services and servers.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    ports: Vec<Port>,
    fib: Arc<Fib>,
    timeouts: Timeouts,
    settings: Settings,
    locals: Locals,
    /// First and last port on local addresses.
    local_ports: LocalPorts,
    epoch: u64,
    /// By creation: a service keeps its place for as long as it exists.
    services: BTreeMap<u64, ServiceEntry>,
    by_key: HashMap<ServiceKey, u64>,
    next_place: u64,
    servers: Slots<ServerEntry>,
    /// Numbers of the servers of services, by the service's place.
    by_address: HashMap<(u64, SocketAddr), u32>,
    /// Deleted servers that connections still have, by service.
    trash: HashMap<ServiceKey, HashMap<SocketAddr, u32>>,
    /// New servers whose neighbour the kernel has not resolved yet, with the
    /// seconds that they have waited. They get no connections, whose first
    /// packets would be lost; after a second they are as good as any server
    /// that does not answer.
    fresh: HashMap<u32, u8>,
    /// Drained servers by number, with the weights that they had.
    drained: HashMap<u32, u32>,
    view: View,
    rating: Rating,
}

#[derive(Debug)]
struct ServiceEntry {
    spec: Arc<ServiceSpec>,
    scheduler: Scheduler,
    /// Numbers of its servers, oldest first.
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
    standing: Standing,
    /// Whether it is the service's sorry server, the first of its servers.
    sorry: bool,
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
            locals: Locals::default(),
            local_ports: LocalPorts::default(),
            epoch: 0,
            services: BTreeMap::new(),
            by_key: HashMap::new(),
            next_place: 0,
            servers: Slots::default(),
            by_address: HashMap::new(),
            trash: HashMap::new(),
            fresh: HashMap::new(),
            drained: HashMap::new(),
            view: View::default(),
            rating: Rating::default(),
        }
    }

    /// With rules that give packets their marks.
    #[must_use]
    pub fn with_rules(self, rules: Vec<MarkRule>) -> Self {
        Self { view: View::new(rules), ..self }
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
            Request::Drain { server, port, service } => {
                self.drain(&Drain { server: *server, port: *port, service: *service }, resolve)
            }
            Request::Undrain { server, port, service } => {
                self.undrain(&Drain { server: *server, port: *port, service: *service }, resolve)
            }
            _ => return None,
        })
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

    /// Replaces the rules that give packets their marks. With the next snapshot.
    pub fn set_rules(&mut self, rules: Vec<MarkRule>) {
        self.view.set_rules(rules);
    }

    /// Replaces first and last port on local addresses, for connections that
    /// are opened from the next snapshot on.
    pub fn set_local_ports(&mut self, (first, last): (u16, u16)) {
        self.local_ports = LocalPorts(first, last);
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

    fn server(&self, number: u32) -> &ServerEntry {
        self.servers.get(number).expect("a number in use is in its slot")
    }
}

#[cfg(test)]
mod method_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod view_tests;
