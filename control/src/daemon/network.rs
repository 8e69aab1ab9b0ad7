//! The daemon's side of the kernel: its tables are followed and turned into
//! what workers need, and what rvsd puts into them is kept there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::fib::Fib;
use dataplane::packet::Mac;
use dataplane::service::Hop;
use dataplane::snapshot::Port;
use dataplane::update::Missing;

use super::tables;
use super::ways::{self, Ways};
use crate::api::{self, NeighbourCursor, RouteCursor};
use crate::kernel::{
    Announcements, KeptNeighbours, Mirror, MissingNeighbours, Monitor, NoRoute, OwnedAddress,
    OwnedAddresses, Progress, Requests, announcement,
};

/// How long the first reading of the kernel's tables may take.
const FIRST_READ: Duration = Duration::from_secs(10);
/// Time between two attempts to follow the kernel again after a failure.
const REOPEN: Duration = Duration::from_secs(1);

/// A port, as routes lead to it.
#[derive(Debug, Clone)]
pub struct NetworkPort {
    /// Name of the port and its tap.
    pub name: String,
    /// Its MAC address.
    pub mac: Mac,
    /// Longest IP packet, bytes.
    pub mtu: u16,
    /// Index of the device whose queues carry it.
    pub device: u8,
    /// The VLAN that it is on its device.
    pub vlan: Option<u16>,
}

impl NetworkPort {
    /// What workers know of it before the kernel's addresses are known.
    #[must_use]
    pub fn to_port(&self) -> Port {
        Port { device: self.device, vlan: self.vlan, ..Port::new(self.mac, self.mtu) }
    }

    /// The VLAN id of its frames, 0 for none.
    pub(super) fn vlan_id(&self) -> u16 {
        self.vlan.unwrap_or(0)
    }
}

/// Sends a frame, from the Ethernet header on, by the port of an index.
pub type SendFrame = Box<dyn Fn(u8, Vec<u8>)>;

/// The kernel's addresses, routes and neighbours, and what rvsd keeps there.
pub struct Network {
    monitor: Option<Monitor>,
    reopen: Instant,
    mirror: Mirror,
    requests: Requests,
    kept: KeptNeighbours,
    missing: MissingNeighbours,
    ways: Ways,
    owned: OwnedAddresses,
    announced: Announcements,
    /// Sends a frame by a port. None in tests, where there is no wire.
    send: Option<SendFrame>,
    /// Addresses to own as long as the daemon runs.
    fixed: BTreeSet<OwnedAddress>,
    /// Those among them that are not to be up now.
    withdrawn: BTreeSet<IpAddr>,
    /// Local addresses of FULLNAT and where they are.
    locals: BTreeMap<IpAddr, Place>,
    /// Some address could not be put up or removed, which was said.
    failed: bool,
    /// Local addresses of which it was said that they are nowhere.
    told: BTreeSet<IpAddr>,
    ports: Vec<NetworkPort>,
}

/// A neighbour: index of the link, address.
pub(super) type Neighbour = (u32, IpAddr);

/// Where a local address of FULLNAT is to be put up.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// On the tap of the port in whose network it is.
    Tap(OwnedAddress),
    /// It is an address of this machine in any case.
    There,
    /// In no port's network.
    Nowhere,
}

impl Network {
    /// Reads the kernel's tables and puts up the addresses that rvsd owns. The
    /// ports' taps must exist.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn start(
        ports: Vec<NetworkPort>,
        addresses: &BTreeSet<OwnedAddress>,
        run_dir: &Path,
    ) -> Result<Self, String> {
        ports.iter().for_each(|port| keep_addresses_when_down(&port.name));
        let mut monitor = Monitor::open().map_err(|e| format!("kernel routes: {e}"))?;
        let mut mirror = Mirror::new();
        monitor.fill(&mut mirror, FIRST_READ).map_err(|e| format!("kernel routes: {e}"))?;
        let requests = Requests::open().map_err(|e| format!("kernel requests: {e}"))?;
        let owned = OwnedAddresses::open(run_dir).map_err(|e| e.to_string())?;
        let mut network = Self {
            monitor: Some(monitor),
            reopen: Instant::now(),
            mirror,
            requests,
            kept: KeptNeighbours::new(),
            missing: MissingNeighbours::default(),
            ways: Ways::default(),
            owned,
            announced: Announcements::default(),
            send: None,
            fixed: addresses.clone(),
            withdrawn: BTreeSet::new(),
            locals: BTreeMap::new(),
            failed: false,
            told: BTreeSet::new(),
            ports,
        };
        // On failure the drop removes those that could be added.
        if let Err(errors) = network.owned.sync(addresses, &mut network.requests) {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            return Err(lines.join("; "));
        }
        Ok(network)
    }

    /// Announces the addresses that are up, and from now on each that comes up,
    /// by frames that `send` sends by a port.
    pub fn announce_by(&mut self, send: SendFrame) {
        self.send = Some(send);
        let all = self.owned.iter().cloned().collect();
        self.announce_all(&all);
    }

    /// Announces all addresses that are up once more, by a device of this name and
    /// its VLANs.
    pub fn announce_again(&mut self, name: &str) {
        let port = self.ports.iter().find(|port| port.name == name);
        let Some(device) = port.map(|port| port.device) else { return };
        let all = self.owned.iter().cloned().collect();
        self.announce(&all, |port| port.device == device);
    }

    fn announce_all(&mut self, addresses: &BTreeSet<OwnedAddress>) {
        self.announce(addresses, |_| true);
    }

    /// Announces addresses by some ports, on the segments where they can be asked
    /// for: those of a tap there, those of `lo` by each port in whose network they
    /// are.
    fn announce(&mut self, addresses: &BTreeSet<OwnedAddress>, by: impl Fn(&NetworkPort) -> bool) {
        let now = Instant::now();
        for address in addresses {
            for (index, port) in (0..).zip(&self.ports).filter(|(_, port)| by(port)) {
                let here = if address.link == "lo" {
                    self.has_network(port, address.ip)
                } else {
                    address.link == port.name
                };
                if here {
                    self.announced.add(index, address.ip, now);
                }
            }
        }
        self.send_announcements(now);
    }

    /// Whether an address is in a network of a port's.
    fn has_network(&self, port: &NetworkPort, ip: IpAddr) -> bool {
        // The mirror may not know yet what was just put up.
        let fixed = self.fixed.iter().filter(|owned| owned.link == port.name);
        let link = self.mirror.link_by_name(&port.name).map(|link| link.index);
        let there = self.mirror.addresses().filter(|address| Some(address.link) == link);
        fixed
            .map(|owned| (owned.ip, owned.prefix_len))
            .chain(there.map(|address| (address.ip, address.prefix_len)))
            .any(|(own, prefix_len)| in_network(ip, own, prefix_len))
    }

    /// Sends what is due of announcements.
    fn send_announcements(&mut self, now: Instant) {
        let Some(send) = &self.send else { return };
        for (port, ip) in self.announced.take(now) {
            send(port, announcement(self.ports[usize::from(port)].mac, ip));
        }
    }

    /// The descriptor that is readable when the kernel has news, unless it is
    /// being reopened.
    #[must_use]
    pub fn descriptor(&self) -> Option<RawFd> {
        self.monitor.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Changes when anything did that can matter to a route or next hop.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.mirror.generation()
    }

    /// Takes in what the kernel says, a bounded piece at a time. Whether there
    /// is more.
    pub fn read(&mut self) -> bool {
        let Some(monitor) = &mut self.monitor else { return false };
        match monitor.read(&mut self.mirror) {
            Ok(Progress::Idle) => false,
            Ok(Progress::More) => true,
            Err(error) => {
                log::error!("kernel routes: {error}; last known routes stay in force");
                self.monitor = None;
                self.reopen = Instant::now() + REOPEN;
                false
            }
        }
    }

    /// Opens the monitor again after a failure, when it is time. Whether it was
    /// opened just now.
    pub fn reopen_if_due(&mut self, now: Instant) -> bool {
        if self.monitor.is_some() || now < self.reopen {
            return false;
        }
        self.reopen = now + REOPEN;
        let opened = Monitor::open().and_then(|mut monitor| {
            monitor.fill(&mut self.mirror, REOPEN)?;
            Ok(monitor)
        });
        match opened {
            Ok(monitor) => {
                log::info!("kernel routes: followed again");
                self.monitor = Some(monitor);
                true
            }
            Err(error) => {
                log::error!("kernel routes: {error}; trying again every second");
                false
            }
        }
    }

    /// How packets to a server leave.
    #[must_use]
    pub fn hop(&self, server: IpAddr) -> Hop {
        ways::hop(&self.mirror, &self.ports, server)
    }

    /// The ways to all addresses and the ports' addresses, if they changed
    /// since they were last asked for.
    pub fn changed_ways(&mut self) -> Option<(Arc<Fib>, Vec<Port>)> {
        let changed = self.ways.update(&self.mirror, &self.ports);
        changed.then(|| (Arc::clone(self.ways.fib()), self.ways.ports().to_vec()))
    }

    /// A worker lacks the MAC address of a neighbour: has the kernel ask for
    /// it, unless it is kept resolved anyway.
    pub fn report_missing(&mut self, missing: Missing, now: Instant) {
        let Missing { port, neighbour } = missing;
        let Some(link) = self.link_of(port) else { return };
        if !self.kept.keeps(link, neighbour) {
            self.missing.report(link, neighbour, now, &self.mirror, &mut self.requests);
        }
    }

    fn link_of(&self, port: u8) -> Option<u32> {
        let port = self.ports.get(usize::from(port))?;
        self.mirror.link_by_name(&port.name).map(|link| link.index)
    }

    /// The neighbour that packets to a server go to, and the port's name.
    #[must_use]
    pub fn neighbour(&self, server: IpAddr) -> Option<(&str, IpAddr)> {
        let resolved = self.mirror.resolve(server).ok()?;
        let index = ways::port_of(&self.ports, &resolved.link_name)?;
        Some((&self.ports[index].name, resolved.neighbour))
    }

    /// The ports' names, by index.
    pub(super) fn port_names(&self) -> Vec<String> {
        self.ports.iter().map(|port| port.name.clone()).collect()
    }

    /// The neighbour that packets to a server need, where they leave by a port.
    pub(super) fn neighbour_of(&self, server: IpAddr) -> Option<Neighbour> {
        let resolved = self.mirror.resolve(server).ok()?;
        ways::port_of(&self.ports, &resolved.link_name)?;
        Some((resolved.link, resolved.neighbour))
    }

    /// Has the kernel keep the next hop of one more server resolved, which is
    /// returned.
    pub(super) fn keep_resolved(&mut self, server: IpAddr) -> Option<Neighbour> {
        let neighbour = self.neighbour_of(server)?;
        self.kept.add(neighbour, &mut self.requests);
        Some(neighbour)
    }

    /// Has the kernel keep these neighbours resolved, and all gateways that
    /// routes lead to, and no others.
    pub fn keep_only(&mut self, mut wanted: HashSet<Neighbour>) {
        let gateways = self.ways.fib().routes().gateways();
        wanted.extend(gateways.filter_map(|(port, ip)| Some((self.link_of(port)?, ip))));
        self.kept.sync(&wanted, &mut self.requests);
    }

    /// Owns these addresses from now on, in the place of those that it was
    /// started with.
    pub fn own(&mut self, addresses: &BTreeSet<OwnedAddress>) {
        if self.fixed != *addresses {
            self.fixed.clone_from(addresses);
            self.sync_owned();
        }
    }

    /// Puts up these local addresses of FULLNAT, so that the kernel answers ARP
    /// and neighbour solicitations for them, and removes those of earlier calls
    /// that are not among them.
    pub fn own_locals(&mut self, wanted: &BTreeSet<IpAddr>) {
        let place = |&ip: &IpAddr| match self.locals.get(&ip) {
            // Once there, its route leads to the machine itself.
            Some(Place::Tap(owned)) => (ip, Place::Tap(owned.clone())),
            _ => (ip, self.place(ip)),
        };
        let locals = wanted.iter().map(place).collect();
        if self.locals != locals {
            self.locals = locals;
            self.sync_owned();
        }
    }

    fn place(&self, ip: IpAddr) -> Place {
        // The mirror may not know yet what was just put up.
        if self.fixed.iter().any(|owned| owned.ip == ip) {
            return Place::There;
        }
        match self.mirror.resolve(ip) {
            Err(NoRoute::Local) => Place::There,
            Ok(resolved) if resolved.neighbour == ip => {
                match ways::port_of(&self.ports, &resolved.link_name) {
                    Some(index) => Place::Tap(OwnedAddress {
                        link: self.ports[index].name.clone(),
                        ip,
                        prefix_len: if ip.is_ipv4() { 32 } else { 128 },
                    }),
                    None => Place::Nowhere,
                }
            }
            _ => Place::Nowhere,
        }
    }

    /// Takes these addresses down, so that a routing daemon withdraws their
    /// routes, and puts those of earlier calls up again that are not among them.
    pub fn withdraw(&mut self, addresses: &BTreeSet<IpAddr>) {
        if self.withdrawn != *addresses {
            self.withdrawn.clone_from(addresses);
            self.sync_owned();
        }
    }

    /// A page of the neighbours on ports, and where to go on.
    #[must_use]
    pub fn neighbours(
        &self,
        after: Option<NeighbourCursor>,
        rows: usize,
    ) -> (Vec<api::Neighbour>, Option<NeighbourCursor>) {
        let keeps = |link, ip| self.kept.keeps(link, ip);
        tables::neighbours(&self.mirror, &self.ports, keeps, after, rows)
    }

    /// A page of the kernel's routes, and where to go on.
    #[must_use]
    pub fn routes(
        &self,
        after: Option<RouteCursor>,
        rows: usize,
    ) -> (Vec<api::Route>, Option<RouteCursor>) {
        tables::routes(&self.mirror, &self.ports, after, rows)
    }

    /// Tells the kernel about owned addresses. What fails is said once, and
    /// tried again every second.
    fn sync_owned(&mut self) {
        let locals = self.locals.values().filter_map(|place| match place {
            Place::Tap(owned) => Some(owned.clone()),
            Place::There | Place::Nowhere => None,
        });
        let fixed = self.fixed.iter().filter(|owned| !self.withdrawn.contains(&owned.ip));
        let wanted: BTreeSet<_> = fixed.cloned().chain(locals).collect();
        let before: BTreeSet<_> = self.owned.iter().cloned().collect();
        let synced = self.owned.sync(&wanted, &mut self.requests);
        let after: BTreeSet<_> = self.owned.iter().cloned().collect();
        before.difference(&after).for_each(|gone| self.announced.remove(gone.ip));
        self.announce_all(&after.difference(&before).cloned().collect());
        match synced {
            Ok(()) => self.failed = false,
            Err(errors) => {
                if !self.failed {
                    errors.iter().for_each(|e| log::error!("{e}; it is tried again every second"));
                }
                self.failed = true;
            }
        }
    }

    /// To be called every second.
    pub fn refresh(&mut self, now: Instant) {
        self.send_announcements(now);
        self.kept.refresh(&self.mirror, &mut self.requests);
        self.missing.refresh(now, &self.mirror, &mut self.requests);
        if self.failed {
            self.sync_owned();
        }
        for (ip, place) in &self.locals {
            if *place == Place::Nowhere && self.told.insert(*ip) {
                log::warn!(
                    "local address {ip} is in no port's network and is not put up: servers reach it only by a route to the director"
                );
            }
        }
        self.told.retain(|ip| self.locals.get(ip) == Some(&Place::Nowhere));
    }
}

/// Whether an address is in the network of another.
fn in_network(ip: IpAddr, own: IpAddr, prefix_len: u8) -> bool {
    match (ip, own) {
        (IpAddr::V4(ip), IpAddr::V4(own)) => {
            (ip.to_bits() ^ own.to_bits()).leading_zeros() >= prefix_len.into()
        }
        (IpAddr::V6(ip), IpAddr::V6(own)) => {
            (ip.to_bits() ^ own.to_bits()).leading_zeros() >= prefix_len.into()
        }
        _ => false,
    }
}

/// Without this the kernel deletes a tap's IPv6 addresses, also VIPs, when an
/// operator takes it down, and they stay away when it comes up again; IPv4
/// addresses it keeps.
fn keep_addresses_when_down(link: &str) {
    // Only there when the kernel has IPv6; without it there is nothing to keep.
    let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/keep_addr_on_down"), "1");
}

impl Drop for Network {
    /// Removes what rvsd put into the kernel, however the daemon ends. What a
    /// kill leaves behind, the next start finds in the record.
    fn drop(&mut self) {
        self.kept.sync(&HashSet::new(), &mut self.requests);
        if let Err(errors) = self.owned.sync(&BTreeSet::new(), &mut self.requests) {
            for error in errors {
                log::warn!("{error}");
            }
        }
    }
}
