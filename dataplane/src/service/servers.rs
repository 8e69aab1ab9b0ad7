//! Servers by number, in the form that packets of connections read.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam::utils::CachePadded;

use super::counts::Traffic;
use super::{ClientAddress, ConnectionCounts, Encapsulation, Hop, Method, Server, ServerCounts};
use crate::conn::memory::prefetch_l1;
use crate::packet::Family;

/// Servers in a block: 4.6 KB.
const BLOCK: usize = 64;

/// Servers by number, the number that connections keep.
///
/// They lie in blocks that a copy shares with the original until it changes one
/// of their servers, so that a snapshot is made from the last one at the cost
/// of what is new in it.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    blocks: Vec<Arc<Block>>,
}

/// Servers in a row, twice: what packets of connections read apart from the
/// rest, a pointer.
#[derive(Debug, Clone)]
struct Block {
    records: [Option<Record>; BLOCK],
    servers: [Option<Arc<Server>>; BLOCK],
}

impl Block {
    const EMPTY: Self = Self { records: [const { None }; BLOCK], servers: [const { None }; BLOCK] };
}

/// What established connections' packets need of a server: one cache line,
/// whatever the server. The rest is behind it.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct Record {
    /// The neighbour's MAC address and the port's, as a frame begins.
    pub(crate) macs: [u8; 12],
    /// The longest IP packet that goes the short way, bytes: with a tunnel's
    /// header the hop's MTU. 0 where none does: a deleted server, one without
    /// neighbour or route, one behind a VLAN or a tunnel of a rare kind.
    pub(crate) short_mtu: u16,
    /// Index of the hop's port.
    pub(crate) port: u8,
    /// The method, as far as the short way knows it.
    pub(crate) method: ShortMethod,
    /// rip in wire order; of IPv4 the first four bytes.
    pub(crate) address: [u8; 16],
    /// rport; 0: the packet keeps its own.
    pub(crate) rport: u16,
    /// What a plain packet that opens a connection needs.
    pub(crate) first: First,
    traffic: Arc<[CachePadded<Traffic>]>,
    counts: Arc<ServerCounts>,
}

/// How connections with one entry are forwarded on the short way. Those with
/// two are NAT's or FULLNAT's, whatever the server has become since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShortMethod {
    /// As they are.
    Dr,
    /// In an IPv4 header.
    Ipip4,
    /// In an IPv6 header.
    Ipip6,
}

/// What becomes of a plain packet that opens a connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// More than is done for plain ones: its MSS is changed, or the server is
    /// told the client's address.
    Any,
    /// The connection has one entry (direct routing, tunnels).
    Alone,
    /// It has two under NAT, to a server of this family.
    Nat(Family),
    /// It has two under FULLNAT.
    Fullnat(Family),
}

const _: () = assert!(size_of::<Option<Record>>() == 64);

impl First {
    fn of(server: &Server) -> Self {
        let family = if server.address.is_ipv4() { Family::V4 } else { Family::V6 };
        if server.mss.is_some() || server.client_address != ClientAddress::None {
            return Self::Any;
        }
        match server.method {
            Method::Dr | Method::Tun(_) => Self::Alone,
            Method::Nat => Self::Nat(family),
            Method::Fullnat => Self::Fullnat(family),
        }
    }
}

impl Record {
    fn new(server: &Server) -> Self {
        let traffic = Arc::clone(server.counts.traffic());
        let mut address = [0; 16];
        match server.address.ip() {
            IpAddr::V4(ip) => address[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => address = ip.octets(),
        }
        let (method, overhead) = match (server.method, server.address.ip()) {
            (Method::Tun(Encapsulation::Ipip), IpAddr::V4(_)) => (ShortMethod::Ipip4, 20),
            (Method::Tun(Encapsulation::Ipip), IpAddr::V6(_)) => (ShortMethod::Ipip6, 40),
            // Nothing is short enough.
            (Method::Tun(_), _) => (ShortMethod::Dr, u16::MAX),
            _ => (ShortMethod::Dr, 0),
        };
        let mut this = Self {
            macs: [0; 12],
            short_mtu: 0,
            port: 0,
            method,
            address,
            rport: server.address.port(),
            first: First::of(server),
            traffic,
            counts: Arc::clone(&server.counts),
        };
        if let (Hop::Port(hop), false) = (server.hop, server.deleted) {
            this.macs[..6].copy_from_slice(&hop.dst_mac);
            this.macs[6..].copy_from_slice(&hop.src_mac);
            this.port = hop.port;
            if hop.vlan == 0 {
                // Below what the director notes of a packet that is not plain.
                this.short_mtu = hop.mtu.saturating_sub(overhead).min(u16::MAX - 1);
            }
        }
        this
    }

    /// The server's port for packets to this one.
    #[inline(always)]
    pub(crate) const fn port_for(&self, dst_port: u16) -> u16 {
        if self.rport == 0 { dst_port } else { self.rport }
    }

    /// What a worker counts of the server's packets.
    #[inline(always)]
    pub(crate) fn traffic(&self, worker: usize) -> &Traffic {
        &self.traffic[worker]
    }

    /// Its connections over all workers.
    #[inline(always)]
    pub(crate) fn connections(&self) -> &ConnectionCounts {
        &self.counts.connections
    }
}

impl Servers {
    /// A server.
    #[must_use]
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Arc<Server>> {
        let number = number as usize;
        self.blocks.get(number / BLOCK)?.servers[number % BLOCK].as_ref()
    }

    /// What packets need of a server.
    #[must_use]
    #[inline(always)]
    pub fn record(&self, number: u32) -> Option<&Record> {
        let number = number as usize;
        self.blocks.get(number / BLOCK)?.records[number % BLOCK].as_ref()
    }

    /// How many servers there are at most: places for them.
    #[must_use]
    #[inline]
    pub fn capacity(&self) -> usize {
        self.blocks.len() * BLOCK
    }

    /// Asks for a server's record.
    #[inline(always)]
    pub fn prefetch(&self, number: u32) {
        let number = number as usize;
        if let Some(block) = self.blocks.get(number / BLOCK) {
            prefetch_l1(&block.records[number % BLOCK]);
        }
    }

    /// All servers, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Server>> {
        self.blocks.iter().flat_map(|block| block.servers.iter().flatten())
    }

    /// Puts a server, or none, in the place of another.
    pub fn set(&mut self, number: u32, server: Option<Arc<Server>>) {
        let number = number as usize;
        let record = server.as_deref().map(Record::new);
        while self.blocks.len() <= number / BLOCK {
            self.blocks.push(Arc::new(Block::EMPTY));
        }
        let block = Arc::make_mut(&mut self.blocks[number / BLOCK]);
        block.records[number % BLOCK] = record;
        block.servers[number % BLOCK] = server;
    }

    /// The indexes of the blocks that it does not share with another.
    pub fn own_blocks(&self, other: &Self) -> impl Iterator<Item = usize> {
        let shared = |index: usize, block| {
            other.blocks.get(index).is_some_and(|other| Arc::ptr_eq(block, other))
        };
        let own = self.blocks.iter().enumerate().filter(move |&(i, block)| !shared(i, block));
        own.map(|(index, _)| index)
    }
}

impl FromIterator<Option<Arc<Server>>> for Servers {
    /// The servers numbered from 0 on.
    fn from_iter<T: IntoIterator<Item = Option<Arc<Server>>>>(servers: T) -> Self {
        let mut this = Self::default();
        for (number, server) in (0..).zip(servers) {
            this.set(number, server);
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::PortHop;
    use super::*;

    const HOP: PortHop = PortHop { port: 1, dst_mac: [1; 6], src_mac: [2; 6], mtu: 1500, vlan: 0 };

    fn server(address: &str, method: Method) -> Server {
        let address: SocketAddr = address.parse().unwrap();
        Server {
            address,
            method,
            hop: Hop::Port(HOP),
            weight: 1,
            deleted: false,
            client_address: ClientAddress::None,
            mss: None,
            counts: Arc::new(ServerCounts::new(1)),
        }
    }

    #[test]
    fn a_copy_shares_what_is_not_changed() {
        let one = Arc::new(server("10.0.0.1:80", Method::Dr));
        let servers: Servers =
            (0..3 * BLOCK as u32).map(|n| (n % 2 == 0).then(|| Arc::clone(&one))).collect();
        let mut copy = servers.clone();
        copy.set(BLOCK as u32, None);
        copy.set(4 * BLOCK as u32 + 1, Some(Arc::clone(&one)));
        assert!(servers.get(BLOCK as u32).is_some() && copy.get(BLOCK as u32).is_none());
        assert!(servers.get(1).is_none() && servers.get(4 * BLOCK as u32 + 1).is_none());
        assert!(copy.get(4 * BLOCK as u32).is_none() && copy.get(4 * BLOCK as u32 + 1).is_some());
        assert!(copy.get(u32::MAX).is_none());
        assert_eq!(copy.own_blocks(&servers).collect::<Vec<_>>(), [1, 3, 4]);
    }

    #[test]
    fn a_record_says_what_a_first_packet_needs() {
        let first = |server: &Server| Record::new(server).first;
        let mut four = server("10.0.0.1:80", Method::Fullnat);
        assert_eq!(first(&four), First::Fullnat(Family::V4));
        assert_eq!(first(&server("10.0.0.1:80", Method::Nat)), First::Nat(Family::V4));
        assert_eq!(first(&server("[fd00::1]:80", Method::Nat)), First::Nat(Family::V6));
        let tunnel = Method::Tun(Encapsulation::Gre { checksum: true });
        for method in [Method::Dr, tunnel] {
            assert_eq!(first(&server("10.0.0.1:80", method)), First::Alone);
        }
        four.client_address = ClientAddress::Toa;
        assert_eq!(first(&four), First::Any);
        four.client_address = ClientAddress::None;
        four.mss = Some(1400);
        assert_eq!(first(&four), First::Any);
    }

    #[test]
    fn a_record_says_who_goes_the_short_way() {
        let short = |server: &Server| {
            let record = Record::new(server);
            (record.method, record.short_mtu)
        };
        let gre = Method::Tun(Encapsulation::Gre { checksum: false });
        let ipip = Method::Tun(Encapsulation::Ipip);
        let mut dr = server("10.0.0.1:80", Method::Dr);
        assert_eq!(short(&dr), (ShortMethod::Dr, 1500));
        assert_eq!(short(&server("10.0.0.1:80", Method::Nat)), (ShortMethod::Dr, 1500));
        assert_eq!(short(&server("10.0.0.1:80", ipip)), (ShortMethod::Ipip4, 1480));
        assert_eq!(short(&server("[fd00::1]:80", ipip)), (ShortMethod::Ipip6, 1460));
        assert_eq!(short(&server("10.0.0.1:80", gre)).1, 0);
        dr.deleted = true;
        assert_eq!(short(&dr).1, 0);
        dr.deleted = false;
        for hop in
            [Hop::Unresolved, Hop::NoRoute, Hop::Local, Hop::Port(PortHop { vlan: 5, ..HOP })]
        {
            dr.hop = hop;
            assert_eq!(short(&dr).1, 0, "{hop:?}");
        }
        let record = Record::new(&server("[fd00::1]:8080", Method::Nat));
        assert_eq!((record.macs[5], record.macs[6], record.port), (1, 2, 1));
        assert_eq!((record.address[0], record.address[15], record.rport), (0xfd, 1, 8080));
    }
}
