//! The way to any address: the kernel's routes and neighbours in the form that
//! packets are looked up in.
//!
//! Control builds it (from its mirror of the kernel's tables, which alone knows
//! what routes mean), workers read it. The routes are flattened: prefixes that
//! cover one another become ranges that do not, in order, so that the longest
//! match is one binary search, however many prefixes cover an address. A range
//! has 8 bytes of memory (IPv4) or 20 (IPv6).
//!
//! Routes and neighbours are two parts, each shared from one [`Fib`] to the
//! next: neighbours change far more often, and there are few of them.

use std::collections::HashMap as Index;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use hashbrown::HashMap;

use crate::packet::Mac;
use crate::service::PortHop;

/// How packets to an address leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By a port, to a neighbour.
    Port(PortHop),
    /// By a port, but the kernel does not know the neighbour's MAC address. To
    /// be reported with [`crate::update::WorkerEnd::missing`], so that it is
    /// asked for.
    Unresolved {
        /// The port's index.
        port: u8,
        /// Whose MAC address is missing: a gateway, or the destination.
        neighbour: IpAddr,
    },
    /// No route through any port, or one that refuses.
    NoRoute,
    /// The address is the director's own: its kernel gets the packets.
    Local,
}

/// What a route does with the packets of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// Sends them by a port.
    Port {
        /// The port's index.
        port: u8,
        /// The port's MAC address.
        src_mac: Mac,
        /// To whom, of either family; none where the range is on the link.
        gateway: Option<IpAddr>,
        /// Longest IP packet, bytes.
        mtu: u16,
    },
    /// As [`Way::NoRoute`].
    NoRoute,
    /// As [`Way::Local`].
    Local,
}

/// The way to any address of both families.
#[derive(Debug, Default)]
pub struct Fib {
    routes: Arc<Routes>,
    neighbours: Arc<Neighbours>,
    /// By the numbers of `routes.hops`.
    steps: Box<[Step]>,
}

/// A next hop as far as it is known before the destination is.
#[derive(Debug, Clone, Copy)]
enum Step {
    Decided(Way),
    /// The destination itself is the neighbour.
    OnLink {
        port: u8,
        src_mac: Mac,
        mtu: u16,
    },
}

impl Fib {
    /// The ways that routes and neighbours together give.
    #[must_use]
    pub fn new(routes: Arc<Routes>, neighbours: Arc<Neighbours>) -> Self {
        let step = |hop: &NextHop| match *hop {
            NextHop::NoRoute => Step::Decided(Way::NoRoute),
            NextHop::Local => Step::Decided(Way::Local),
            NextHop::Port { port, src_mac, gateway: None, mtu } => {
                Step::OnLink { port, src_mac, mtu }
            }
            NextHop::Port { port, src_mac, gateway: Some(gateway), mtu } => {
                Step::Decided(neighbours.way(gateway, port, src_mac, mtu))
            }
        };
        let steps = routes.hops.iter().map(step).collect();
        Self { routes, neighbours, steps }
    }

    /// The way to an IPv4 address.
    #[must_use]
    #[inline]
    pub fn lookup4(&self, dst: u32) -> Way {
        self.way(self.routes.v4.find(dst), || Ipv4Addr::from_bits(dst).into())
    }

    /// The way to an IPv6 address.
    #[must_use]
    #[inline]
    pub fn lookup6(&self, dst: &[u8; 16]) -> Way {
        let hop = self.routes.v6.find(u128::from_be_bytes(*dst));
        self.way(hop, || Ipv6Addr::from(*dst).into())
    }

    /// The routes that it was made of.
    #[must_use]
    pub fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// The neighbours that it was made of.
    #[must_use]
    pub fn neighbours(&self) -> &Arc<Neighbours> {
        &self.neighbours
    }

    #[inline]
    fn way(&self, hop: Option<u32>, dst: impl FnOnce() -> IpAddr) -> Way {
        match hop.and_then(|hop| self.steps.get(hop as usize)) {
            Some(Step::Decided(way)) => *way,
            Some(&Step::OnLink { port, src_mac, mtu }) => {
                self.neighbours.way(dst(), port, src_mac, mtu)
            }
            // Before the first routes are known.
            None => Way::NoRoute,
        }
    }
}

/// The neighbours whose MAC addresses are known, by port index and address. One
/// map a family, since plain numbers are cheaper to hash than an [`IpAddr`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    v4: HashMap<u64, Mac>,
    v6: HashMap<(u8, u128), Mac>,
}

impl FromIterator<((u8, IpAddr), Mac)> for Neighbours {
    fn from_iter<T: IntoIterator<Item = ((u8, IpAddr), Mac)>>(neighbours: T) -> Self {
        let mut this = Self::default();
        for ((port, ip), mac) in neighbours {
            match ip {
                IpAddr::V4(ip) => this.v4.insert(key4(port, ip), mac),
                IpAddr::V6(ip) => this.v6.insert((port, ip.to_bits()), mac),
            };
        }
        this
    }
}

impl Neighbours {
    /// The MAC address of a neighbour on a port's link.
    #[must_use]
    #[inline]
    pub fn mac(&self, port: u8, ip: IpAddr) -> Option<Mac> {
        match ip {
            IpAddr::V4(ip) => self.v4.get(&key4(port, ip)).copied(),
            IpAddr::V6(ip) => self.v6.get(&(port, ip.to_bits())).copied(),
        }
    }

    #[inline]
    fn way(&self, neighbour: IpAddr, port: u8, src_mac: Mac, mtu: u16) -> Way {
        match self.mac(port, neighbour) {
            Some(dst_mac) => Way::Port(PortHop { port, dst_mac, src_mac, mtu }),
            None => Way::Unresolved { port, neighbour },
        }
    }
}

fn key4(port: u8, ip: Ipv4Addr) -> u64 {
    u64::from(port) << 32 | u64::from(ip.to_bits())
}

/// The routes of both families, flattened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// Each next hop once.
    hops: Box<[NextHop]>,
}

impl Routes {
    /// The gateways that routes lead to, each with its port's index.
    pub fn gateways(&self) -> impl Iterator<Item = (u8, IpAddr)> {
        self.hops.iter().filter_map(|hop| match *hop {
            NextHop::Port { port, gateway, .. } => Some((port, gateway?)),
            _ => None,
        })
    }

    /// How many ranges there are, IPv4 and IPv6.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.v4.starts.len(), self.v6.starts.len())
    }
}

/// Ranges that follow one another without gaps, by their first addresses.
/// Starts and next hops lie apart: the search touches the starts only.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ranges<K> {
    starts: Vec<K>,
    /// Of each range, the number of its next hop.
    hops: Vec<u32>,
}

impl<K: Copy + Ord> Ranges<K> {
    fn add(&mut self, start: K, hop: u32) {
        if self.hops.last() != Some(&hop) {
            debug_assert!(self.starts.last().is_none_or(|last| *last < start), "out of order");
            self.starts.push(start);
            self.hops.push(hop);
        }
    }

    #[inline]
    fn find(&self, key: K) -> Option<u32> {
        let after = self.starts.partition_point(|start| *start <= key);
        self.hops.get(after.checked_sub(1)?).copied()
    }

    /// A vector grows to up to twice what it holds.
    fn trim(&mut self) {
        self.starts.shrink_to_fit();
        self.hops.shrink_to_fit();
    }
}

/// Makes [`Routes`] of ranges.
#[derive(Debug, Default)]
pub struct RoutesBuilder {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    hops: Vec<NextHop>,
    numbers: Index<NextHop, u32>,
}

impl RoutesBuilder {
    /// The IPv4 addresses from `start` to before the next `start` have this
    /// next hop. The first `start` is 0, each is above the last.
    pub fn add4(&mut self, start: u32, hop: NextHop) {
        let hop = self.number(hop);
        self.v4.add(start, hop);
    }

    /// The same for IPv6; the address as a number, first byte highest.
    pub fn add6(&mut self, start: u128, hop: NextHop) {
        let hop = self.number(hop);
        self.v6.add(start, hop);
    }

    /// The routes.
    #[must_use]
    pub fn build(mut self) -> Routes {
        self.v4.trim();
        self.v6.trim();
        Routes { v4: self.v4, v6: self.v6, hops: self.hops.into() }
    }

    fn number(&mut self, hop: NextHop) -> u32 {
        *self.numbers.entry(hop).or_insert_with(|| {
            self.hops.push(hop);
            self.hops.len() as u32 - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SRC: Mac = [2, 0, 0, 0, 0, 1];
    const GATEWAY_MAC: Mac = [2, 0, 0, 0, 0, 9];
    const HOST_MAC: Mac = [2, 0, 0, 0, 0, 5];

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4(text: &str) -> u32 {
        text.parse::<Ipv4Addr>().unwrap().to_bits()
    }

    fn v6(text: &str) -> [u8; 16] {
        text.parse::<Ipv6Addr>().unwrap().octets()
    }

    fn by(port: u8, gateway: Option<&str>) -> NextHop {
        NextHop::Port { port, src_mac: SRC, gateway: gateway.map(ip), mtu: 1400 }
    }

    fn found(port: u8, dst_mac: Mac) -> Way {
        Way::Port(PortHop { port, dst_mac, src_mac: SRC, mtu: 1400 })
    }

    fn missing(port: u8, neighbour: &str) -> Way {
        Way::Unresolved { port, neighbour: ip(neighbour) }
    }

    fn example() -> Arc<Routes> {
        let mut builder = RoutesBuilder::default();
        for (start, hop) in [
            ("0.0.0.0", by(0, Some("10.0.0.1"))),
            ("10.0.0.0", by(0, None)),
            ("10.0.0.9", NextHop::Local),
            ("10.0.0.10", by(0, None)),
            ("10.0.1.0", by(1, Some("fe80::1"))),
            ("224.0.0.0", NextHop::NoRoute),
        ] {
            builder.add4(v4(start), hop);
        }
        for (start, hop) in [
            ("::", NextHop::NoRoute),
            ("2001:db8::", by(1, None)),
            ("2001:db8:0:1::", by(0, Some("2001:db8::1"))),
        ] {
            builder.add6(u128::from_be_bytes(v6(start)), hop);
        }
        Arc::new(builder.build())
    }

    #[test]
    fn an_address_has_the_way_of_its_range() {
        let neighbours = [
            ((0, ip("10.0.0.1")), GATEWAY_MAC),
            ((0, ip("10.0.0.5")), HOST_MAC),
            // Of another port: it must not be taken for port 0's.
            ((1, ip("10.0.0.6")), HOST_MAC),
            ((1, ip("2001:db8::5")), HOST_MAC),
        ];
        let fib = Fib::new(example(), Arc::new(neighbours.into_iter().collect()));
        for (dst, way) in [
            ("0.0.0.0", found(0, GATEWAY_MAC)),
            ("9.255.255.255", found(0, GATEWAY_MAC)),
            ("10.0.0.5", found(0, HOST_MAC)),
            ("10.0.0.6", missing(0, "10.0.0.6")),
            ("10.0.0.8", missing(0, "10.0.0.8")),
            ("10.0.0.9", Way::Local),
            ("10.0.0.10", missing(0, "10.0.0.10")),
            ("10.0.1.0", missing(1, "fe80::1")),
            ("223.255.255.255", missing(1, "fe80::1")),
            ("224.0.0.0", Way::NoRoute),
            ("255.255.255.255", Way::NoRoute),
        ] {
            assert_eq!(fib.lookup4(v4(dst)), way, "{dst}");
        }
        for (dst, way) in [
            ("::", Way::NoRoute),
            ("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", Way::NoRoute),
            ("2001:db8::5", found(1, HOST_MAC)),
            ("2001:db8::6", missing(1, "2001:db8::6")),
            ("2001:db8:0:1::", missing(0, "2001:db8::1")),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", missing(0, "2001:db8::1")),
        ] {
            assert_eq!(fib.lookup6(&v6(dst)), way, "{dst}");
        }
    }

    #[test]
    fn another_fib_with_other_neighbours_shares_the_routes() {
        let routes = example();
        let without = Fib::new(Arc::clone(&routes), Arc::default());
        assert_eq!(without.lookup4(v4("8.8.8.8")), missing(0, "10.0.0.1"));
        let neighbours = Arc::new([((0, ip("10.0.0.1")), GATEWAY_MAC)].into_iter().collect());
        let with = Fib::new(Arc::clone(without.routes()), neighbours);
        assert_eq!(with.lookup4(v4("8.8.8.8")), found(0, GATEWAY_MAC));
        assert!(Arc::ptr_eq(with.routes(), &routes));
    }

    #[test]
    fn before_the_first_routes_nothing_leaves() {
        let fib = Fib::default();
        assert_eq!(fib.lookup4(v4("10.0.0.1")), Way::NoRoute);
        assert_eq!(fib.lookup6(&v6("2001:db8::1")), Way::NoRoute);
    }

    #[test]
    fn neighbouring_ranges_of_one_way_become_one() {
        let mut builder = RoutesBuilder::default();
        for start in [0, 5, 9] {
            builder.add4(start, by(0, Some("10.0.0.1")));
            builder.add6(u128::from(start), NextHop::Local);
        }
        builder.add4(10, by(0, Some("10.0.0.2")));
        let routes = builder.build();
        assert_eq!(routes.len(), (2, 1));
        let gateways: Vec<_> = routes.gateways().collect();
        assert_eq!(gateways, [(0, ip("10.0.0.1")), (0, ip("10.0.0.2"))]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against the plain way: the last range that begins at or before.
        #[test]
        fn a_lookup_finds_the_last_start_not_above(
            starts in proptest::collection::btree_set(any::<u32>(), 0..40),
            ports in proptest::collection::vec(0..4u8, 41),
            random in proptest::collection::vec(any::<u32>(), 20),
        ) {
            let mut builder = RoutesBuilder::default();
            let ranges: Vec<_> = std::iter::once(0).chain(starts.into_iter().filter(|s| *s > 0))
                .zip(ports).collect();
            for &(start, port) in &ranges {
                builder.add4(start, by(port, Some("10.0.0.1")));
                builder.add6(u128::from(start) << 96, by(port, Some("10.0.0.1")));
            }
            let fib = Fib::new(Arc::new(builder.build()), Arc::default());
            let edges = ranges.iter().flat_map(|(start, _)| [*start, start.wrapping_sub(1)]);
            for dst in edges.chain(random) {
                let (_, port) = ranges.iter().rev().find(|(start, _)| *start <= dst).unwrap();
                let way = missing(*port, "10.0.0.1");
                prop_assert_eq!(fib.lookup4(dst), way);
                let mut dst6 = [0xff; 16];
                dst6[..4].copy_from_slice(&dst.to_be_bytes());
                prop_assert_eq!(fib.lookup6(&dst6), way);
            }
        }
    }
}
