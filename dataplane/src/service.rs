//! Virtual services and real servers as workers see them, and their counters.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use hashbrown::{HashMap, HashSet};

use crate::packet::headers::Addresses;
use crate::packet::{Mac, Protocol};
use crate::scheduler::{Candidates, Position, Scheduler};

/// What a packet is matched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// The protocol.
    pub protocol: Protocol,
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub vport: u16,
}

/// A virtual service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// How it chooses servers.
    pub scheduler: Scheduler,
    /// Where the scheduler is in its round. Shared by all workers and kept from
    /// snapshot to snapshot, so that rr and wrr are exact however connections
    /// spread over workers. Touched by new connections only.
    pub position: Arc<Position>,
    /// Its servers, newest first, the order in which the kernel walks them.
    pub candidates: Candidates,
}

/// All services, by key.
#[derive(Debug, Clone, Default)]
pub struct Services {
    by_key: HashMap<ServiceKey, Arc<Service>>,
    addresses: HashSet<(Protocol, IpAddr)>,
}

impl Services {
    /// The services in a form that packets can be matched with.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>) -> Self {
        let by_key: HashMap<_, _> = services.into_iter().map(|s| (s.key, s)).collect();
        let addresses = by_key.keys().map(|k| (k.protocol, k.vip)).collect();
        Self { by_key, addresses }
    }

    /// The service for packets to an address and port.
    #[must_use]
    pub fn find(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    /// Whether any service of the protocol has the destination address. Its
    /// fragments cannot be told apart by port.
    #[must_use]
    pub fn has_address(&self, protocol: Protocol, addresses: &Addresses) -> bool {
        self.addresses.contains(&(protocol, destination(addresses)))
    }
}

/// The destination as a service has it.
#[must_use]
pub fn destination(addresses: &Addresses) -> IpAddr {
    match addresses {
        Addresses::V4 { dst, .. } => IpAddr::V4((*dst).into()),
        Addresses::V6 { dst, .. } => IpAddr::V6((*dst).into()),
    }
}

/// A real server of one service.
#[derive(Debug, Clone)]
pub struct Server {
    /// rip and rport.
    pub address: SocketAddr,
    /// How its packets leave.
    pub hop: Hop,
    /// Whether it was deleted while connections to it exist. Their packets are
    /// dropped (the kernel's `expire_nodest_conn=0`); adding the server again
    /// revives them.
    pub deleted: bool,
    /// Its counters.
    pub counts: Arc<ServerCounts>,
}

/// How packets to a server leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// By a port, to a neighbour.
    Port(PortHop),
    /// A route through a port exists, but the neighbour is not resolved.
    Unresolved,
    /// No route through any port.
    NoRoute,
    /// The server is the director itself: its kernel gets the packets.
    Local,
}

/// A resolved next hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortHop {
    /// The port's index.
    pub port: u8,
    /// The neighbour's MAC.
    pub dst_mac: Mac,
    /// The port's own.
    pub src_mac: Mac,
    /// Longest IP packet that fits, bytes.
    pub mtu: u16,
}

/// Counters of a server.
#[derive(Debug)]
pub struct ServerCounts {
    /// Its connections.
    pub connections: CachePadded<ConnectionCounts>,
    /// One per worker, by index.
    traffic: Box<[CachePadded<Traffic>]>,
}

/// How many connections a server has, exact over all workers: shared, and
/// touched when a connection opens, closes or changes its state only.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    active: AtomicU32,
    inactive: AtomicU32,
}

/// What one worker forwarded to a server. Written by that worker alone, so an
/// addition is a plain load and store.
#[derive(Debug, Default)]
struct Traffic {
    connections: AtomicU64,
    in_packets: AtomicU64,
    in_bytes: AtomicU64,
}

/// Totals of a server's traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficTotals {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Their IP lengths, bytes.
    pub in_bytes: u64,
}

impl ServerCounts {
    /// Counters at zero for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            connections: CachePadded::default(),
            traffic: (0..workers).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Counts a packet that `worker` forwards.
    #[inline]
    pub fn packet(&self, worker: usize, bytes: u64) {
        let traffic = &self.traffic[worker];
        add(&traffic.in_packets, 1);
        add(&traffic.in_bytes, bytes);
    }

    /// Counts a connection that `worker` schedules.
    pub fn scheduled(&self, worker: usize) {
        add(&self.traffic[worker].connections, 1);
    }

    /// The totals over all workers.
    #[must_use]
    pub fn totals(&self) -> TrafficTotals {
        self.traffic.iter().fold(TrafficTotals::default(), |sum, t| TrafficTotals {
            connections: sum.connections + t.connections.load(Ordering::Relaxed),
            in_packets: sum.in_packets + t.in_packets.load(Ordering::Relaxed),
            in_bytes: sum.in_bytes + t.in_bytes.load(Ordering::Relaxed),
        })
    }
}

#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl ConnectionCounts {
    /// A connection begins, active or not.
    pub fn open(&self, active: bool) {
        self.of(active).fetch_add(1, Ordering::Relaxed);
    }

    /// A connection ends.
    pub fn close(&self, active: bool) {
        self.of(active).fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection changes its kind.
    pub fn change(&self, from_active: bool, to_active: bool) {
        if from_active != to_active {
            self.open(to_active);
            self.close(from_active);
        }
    }

    /// Active and inactive connections.
    #[must_use]
    pub fn read(&self) -> (u32, u32) {
        (self.active.load(Ordering::Relaxed), self.inactive.load(Ordering::Relaxed))
    }

    fn of(&self, active: bool) -> &AtomicU32 {
        if active { &self.active } else { &self.inactive }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_over_all_workers() {
        let counts = ServerCounts::new(2);
        counts.packet(0, 60);
        counts.packet(1, 40);
        counts.scheduled(1);
        let totals = TrafficTotals { connections: 1, in_packets: 2, in_bytes: 100 };
        assert_eq!(counts.totals(), totals);
    }

    #[test]
    fn changing_kind_moves_a_connection() {
        let counts = ConnectionCounts::default();
        counts.open(true);
        counts.open(false);
        counts.change(true, false);
        counts.change(false, false);
        assert_eq!(counts.read(), (0, 2));
        counts.close(false);
        assert_eq!(counts.read(), (0, 1));
    }
}
