//! The kernel's tables as workers need them: for a server its next hop, and
//! for any address its way. What routes mean, [`Mirror`] knows alone.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use dataplane::fib::{Fib, Neighbours, NextHop, Routes, RoutesBuilder};
use dataplane::service::{Hop, PortHop};
use dataplane::snapshot::Port;

use super::NetworkPort;
use crate::kernel::{Mirror, NoRoute, Path};

/// What the last snapshot had, built anew only where the kernel's tables
/// changed.
#[derive(Debug, Default)]
pub(super) struct Ways {
    fib: Arc<Fib>,
    ports: Vec<Port>,
    /// Generations of the mirror that these are of.
    seen: Option<u64>,
    paths_seen: Option<u64>,
}

impl Ways {
    /// Follows the mirror. Whether anything is different now.
    pub(super) fn update(&mut self, mirror: &Mirror, ports: &[NetworkPort]) -> bool {
        if self.seen == Some(mirror.generation()) {
            return false;
        }
        self.seen = Some(mirror.generation());
        let mut changed = false;
        let mut routes = Arc::clone(self.fib.routes());
        if self.paths_seen != Some(mirror.paths_generation()) {
            self.paths_seen = Some(mirror.paths_generation());
            changed |= replace(&mut self.ports, snapshot_ports(mirror, ports));
            changed |= replace(&mut routes, Arc::new(flatten(mirror, ports)));
        }
        let mut neighbours = Arc::clone(self.fib.neighbours());
        changed |= replace(&mut neighbours, Arc::new(known(mirror, ports)));
        if changed {
            self.fib = Arc::new(Fib::new(routes, neighbours));
        }
        changed
    }

    /// The way to any address.
    pub(super) fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// The ports with the kernel's addresses.
    pub(super) fn ports(&self) -> &[Port] {
        &self.ports
    }
}

/// Keeps the old where the new is the same. Whether it is not.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    if changed {
        *old = new;
    }
    changed
}

/// How packets to a server leave.
pub(super) fn hop(mirror: &Mirror, ports: &[NetworkPort], server: IpAddr) -> Hop {
    let resolved = match mirror.resolve(server) {
        Ok(resolved) => resolved,
        Err(NoRoute::Local) => return Hop::Local,
        Err(_) => return Hop::NoRoute,
    };
    let Some(index) = port_of(ports, &resolved.link_name) else { return Hop::NoRoute };
    match mirror.neighbour(resolved.link, resolved.neighbour) {
        None => Hop::Unresolved,
        Some(dst_mac) => Hop::Port(PortHop {
            port: index as u8,
            dst_mac,
            src_mac: ports[index].mac,
            mtu: port_mtu(&ports[index], resolved.mtu),
            vlan: ports[index].vlan_id(),
        }),
    }
}

/// The index of the port that this link is the tap of.
pub(super) fn port_of(ports: &[NetworkPort], link_name: &str) -> Option<usize> {
    ports.iter().position(|port| port.name == link_name)
}

/// The device's limit, or the kernel's where that is lower.
fn port_mtu(port: &NetworkPort, mtu: u32) -> u16 {
    u16::try_from(mtu).map_or(port.mtu, |mtu| mtu.min(port.mtu))
}

fn flatten(mirror: &Mirror, ports: &[NetworkPort]) -> Routes {
    let mut builder = RoutesBuilder::default();
    mirror.paths4(|start, path| builder.add4(start, next_hop(ports, path)));
    mirror.paths6(|start, path| builder.add6(start, next_hop(ports, path)));
    builder.build()
}

fn next_hop(ports: &[NetworkPort], path: Result<Path<'_>, NoRoute>) -> NextHop {
    let path = match path {
        Ok(path) => path,
        Err(NoRoute::Local) => return NextHop::Local,
        Err(_) => return NextHop::NoRoute,
    };
    let Some(index) = port_of(ports, &path.link.name) else { return NextHop::NoRoute };
    NextHop::Port {
        port: index as u8,
        src_mac: ports[index].mac,
        gateway: path.gateway,
        mtu: port_mtu(&ports[index], path.mtu),
        vlan: ports[index].vlan_id(),
    }
}

fn known(mirror: &Mirror, ports: &[NetworkPort]) -> Neighbours {
    let indexes: HashMap<u32, u8> = mirror
        .links()
        .filter_map(|link| Some((link.index, port_of(ports, &link.name)? as u8)))
        .collect();
    let neighbours = mirror.usable_neighbours();
    neighbours.filter_map(|((link, ip), mac)| Some(((*indexes.get(&link)?, ip), mac))).collect()
}

fn snapshot_ports(mirror: &Mirror, ports: &[NetworkPort]) -> Vec<Port> {
    let addresses4 = mirror.primary_addresses4();
    let port = |port: &NetworkPort| {
        let Some(link) = mirror.link_by_name(&port.name) else {
            return port.to_port();
        };
        Port {
            address4: addresses4.get(&link.index).copied().map(Ipv4Addr::to_bits),
            address6: mirror.primary_address6(link.index).as_ref().map(Ipv6Addr::octets),
            mtu: port_mtu(port, link.mtu),
            ..port.to_port()
        }
    };
    ports.iter().map(port).collect()
}

#[cfg(test)]
#[path = "ways_tests.rs"]
mod tests;
