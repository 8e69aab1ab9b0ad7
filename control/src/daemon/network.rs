//! What the kernel knows of the network, turned into what workers need: for
//! each server the port, the next hop's MAC and the MTU.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use dataplane::packet::Mac;
use dataplane::service::{Hop, PortHop};

use crate::kernel::{
    KeptNeighbours, Mirror, Monitor, NoRoute, OwnedAddress, OwnedAddresses, Progress, Requests,
    Resolved,
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
}

/// The kernel's addresses, routes and neighbours, and what rvsd keeps there.
pub struct Network {
    monitor: Option<Monitor>,
    reopen: Instant,
    mirror: Mirror,
    requests: Requests,
    kept: KeptNeighbours,
    owned: OwnedAddresses,
    ports: Vec<NetworkPort>,
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
            owned,
            ports,
        };
        // On failure the drop removes those that could be added.
        if let Err(errors) = network.owned.sync(addresses, &mut network.requests) {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            return Err(lines.join("; "));
        }
        Ok(network)
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
        match self.mirror.resolve(server) {
            Ok(resolved) => match self.port_of(&resolved) {
                Some(index) => self.hop_by(index, &resolved),
                None => Hop::NoRoute,
            },
            Err(NoRoute::Local) => Hop::Local,
            Err(_) => Hop::NoRoute,
        }
    }

    fn hop_by(&self, index: usize, resolved: &Resolved) -> Hop {
        let port = &self.ports[index];
        match self.mirror.neighbour(resolved.link, resolved.neighbour) {
            None => Hop::Unresolved,
            Some(dst_mac) => Hop::Port(PortHop {
                port: index as u8,
                dst_mac,
                src_mac: port.mac,
                mtu: u16::try_from(resolved.mtu).map_or(port.mtu, |mtu| mtu.min(port.mtu)),
            }),
        }
    }

    /// The neighbour that packets to a server go to, and the port's name.
    #[must_use]
    pub fn neighbour(&self, server: IpAddr) -> Option<(&str, IpAddr)> {
        let resolved = self.mirror.resolve(server).ok()?;
        let index = self.port_of(&resolved)?;
        Some((&self.ports[index].name, resolved.neighbour))
    }

    fn port_of(&self, resolved: &Resolved) -> Option<usize> {
        self.ports.iter().position(|port| *port.name == *resolved.link_name)
    }

    /// Has the kernel keep the next hops of these servers resolved.
    pub fn keep_resolved(&mut self, servers: impl Iterator<Item = IpAddr>) {
        let wanted: HashSet<_> = servers
            .filter_map(|server| self.mirror.resolve(server).ok())
            .filter(|resolved| self.port_of(resolved).is_some())
            .map(|resolved| (resolved.link, resolved.neighbour))
            .collect();
        self.kept.sync(&wanted, &mut self.requests);
    }

    /// To be called every second.
    pub fn refresh(&mut self) {
        self.kept.refresh(&self.mirror, &mut self.requests);
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
