//! The flattened tables against the mirror that they were made of.

use dataplane::fib::Way;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::kernel::{
    Address, Event, Link, Neighbour, NeighbourState, Placement, Route, RouteKind, Table,
};

const LAN: u32 = 2;
const WAN: u32 = 3;
/// Up, but no port.
const OTHER: u32 = 4;
const DOWN: u32 = 5;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn ports() -> Vec<NetworkPort> {
    let port = |name: &str, last, mtu| {
        let mac = [2, 0, 0, 0, 0, last];
        NetworkPort { name: name.into(), mac, mtu, device: last - 1, vlan: None }
    };
    let wan = NetworkPort { device: 1, vlan: Some(7), ..port("wan", 3, 9000) };
    vec![port("lan", 1, 1500), port("down", 2, 1500), wan]
}

fn links() -> Mirror {
    let mut mirror = Mirror::new();
    for (index, name, mtu, up) in
        [(LAN, "lan", 1500, true), (WAN, "wan", 1400, true), (OTHER, "other", 1500, true)]
    {
        mirror.apply(&link(index, name, mtu, up));
    }
    mirror.apply(&link(DOWN, "down", 1500, false));
    mirror
}

fn link(index: u32, name: &str, mtu: u32, up: bool) -> Event {
    Event::Link(Link { index, name: name.into(), mac: Some(MAC), mtu, up, carrier: up })
}

fn route(destination: IpAddr, prefix_len: u8, hop: Option<(u32, Option<IpAddr>)>) -> Route {
    Route {
        destination,
        prefix_len,
        table: Table::Main,
        metric: 0,
        kind: RouteKind::Unicast,
        mtu: 0,
        hops: hop
            .map(|(link, gateway)| crate::kernel::NextHop { link, gateway })
            .into_iter()
            .collect(),
        source: None,
        object: None,
    }
}

fn add(mirror: &mut Mirror, route: Route) {
    mirror.apply(&Event::Route(route, Placement::First));
}

fn neighbour(link: u32, ip: IpAddr, state: NeighbourState) -> Event {
    Event::Neighbour(Neighbour { link, ip, mac: Some(MAC), state })
}

fn lookup(fib: &Fib, ip: IpAddr) -> Way {
    match ip {
        IpAddr::V4(ip) => fib.lookup4(ip.to_bits()),
        IpAddr::V6(ip) => fib.lookup6(&ip.octets()),
    }
}

/// The same from the mirror itself.
fn expected(mirror: &Mirror, ip: IpAddr) -> Way {
    match hop(mirror, &ports(), ip) {
        Hop::Port(hop) => Way::Port(hop),
        Hop::NoRoute => Way::NoRoute,
        Hop::Local => Way::Local,
        Hop::Unresolved => {
            let resolved = mirror.resolve(ip).unwrap();
            let port = port_of(&ports(), &resolved.link_name).unwrap() as u8;
            Way::Unresolved { port, neighbour: resolved.neighbour }
        }
    }
}

fn updated(mirror: &Mirror) -> Ways {
    let mut ways = Ways::default();
    assert!(ways.update(mirror, &ports()));
    ways
}

/// Few different bits, so that prefixes often cover one another and gateways
/// are often neighbours.
fn any_v4() -> impl Strategy<Value = IpAddr> {
    (select(vec![0, 10, 127, 224, 255u8]), 0..3u8, 0..3u8, select(vec![0, 1, 2, 128, 255u8]))
        .prop_map(|(a, b, c, d)| IpAddr::from([a, b, c, d]))
}

fn any_v6() -> impl Strategy<Value = IpAddr> {
    let first = select(vec![0u16, 0x2001, 0xfe80, 0xfec0, 0xff02, 0xffff]);
    (first, 0..3u16, 0..2u16, select(vec![0u16, 1, 2, 0x8000, 0xffff]))
        .prop_map(|(a, b, c, d)| IpAddr::from([a, b, 0, c, 0, 0, 0, d]))
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any_v4(), any_v6()]
}

/// As the kernel sends them: with the bits beyond the prefix clear.
fn any_prefix() -> impl Strategy<Value = (IpAddr, u8)> {
    let v4 = (any_v4(), prop_oneof![0..=32u8, 29..=32u8]).prop_map(|(ip, len)| match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            (Ipv4Addr::from_bits(ip.to_bits() & mask).into(), len)
        }
        IpAddr::V6(_) => unreachable!(),
    });
    let v6 = (any_v6(), prop_oneof![0..=128u8, 125..=128u8]).prop_map(|(ip, len)| match ip {
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            (Ipv6Addr::from_bits(ip.to_bits() & mask).into(), len)
        }
        IpAddr::V4(_) => unreachable!(),
    });
    prop_oneof![v4, v6]
}

fn any_route() -> impl Strategy<Value = Route> {
    use RouteKind as K;
    let kinds = vec![
        K::Unicast,
        K::Unicast,
        K::Unicast,
        K::Unicast,
        K::Local,
        K::NotUnicast,
        K::Blackhole,
        K::Throw,
        K::Tunnel,
    ];
    let hop = (select(vec![LAN, WAN, OTHER, DOWN, 99]), option::of(any_ip()))
        .prop_map(|(link, gateway)| crate::kernel::NextHop { link, gateway });
    let table = select(vec![Table::Main, Table::Main, Table::Local]);
    let rest = (select(kinds), 0..3u32, select(vec![0, 1300, 9000u32]), vec(hop, 1..3));
    (any_prefix(), table, rest).prop_map(|(prefix, table, (kind, metric, mtu, hops))| Route {
        table,
        kind,
        metric,
        mtu,
        hops,
        ..route(prefix.0, prefix.1, None)
    })
}

/// First and last of a prefix, and their neighbours.
fn edges(route: &Route) -> Vec<IpAddr> {
    match route.destination {
        IpAddr::V4(ip) => {
            let (first, len) = (ip.to_bits(), u32::from(route.prefix_len));
            let last = first | u32::MAX.checked_shr(len).unwrap_or(0);
            let edges = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            edges.map(|bits| Ipv4Addr::from_bits(bits).into()).into()
        }
        IpAddr::V6(ip) => {
            let (first, len) = (ip.to_bits(), u32::from(route.prefix_len));
            let last = first | u128::MAX.checked_shr(len).unwrap_or(0);
            let edges = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            edges.map(|bits| Ipv6Addr::from_bits(bits).into()).into()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_fib_says_what_the_mirror_says(
        routes in vec(any_route(), 0..25),
        neighbours in vec((select(vec![LAN, WAN, OTHER]), any_ip(), any::<bool>()), 0..30),
        random in vec(any_ip(), 20),
    ) {
        let mut mirror = links();
        for route in &routes {
            add(&mut mirror, route.clone());
        }
        for (link, ip, answers) in neighbours {
            let state = if answers { NeighbourState::Stale } else { NeighbourState::Failed };
            mirror.apply(&neighbour(link, ip, state));
        }
        let ways = updated(&mirror);
        let exceptions = ["223.255.255.255", "224.0.0.0", "239.255.255.255", "240.0.0.0",
            "255.255.255.254", "255.255.255.255", "fe7f:ffff::", "fe80::", "febf:ffff::",
            "fec0::", "feff::", "ff00::", "ffff::1"].map(ip);
        for dst in routes.iter().flat_map(edges).chain(random).chain(exceptions) {
            prop_assert_eq!(lookup(ways.fib(), dst), expected(&mirror, dst), "{}", dst);
        }
    }
}

#[test]
fn at_the_last_address_of_a_prefix_it_still_matches() {
    let mut mirror = links();
    add(&mut mirror, route(ip("10.0.0.0"), 31, Some((LAN, None))));
    // Passed over, so that the shorter prefix decides.
    add(&mut mirror, route(ip("10.0.0.1"), 32, Some((DOWN, None))));
    add(&mut mirror, route(ip("10.0.0.0"), 8, Some((WAN, None))));
    let ways = updated(&mirror);
    for (dst, port) in [("10.0.0.0", 0), ("10.0.0.1", 0), ("10.0.0.2", 2)] {
        let way = Way::Unresolved { port, neighbour: ip(dst) };
        assert_eq!(lookup(ways.fib(), ip(dst)), way, "{dst}");
    }
}

#[test]
fn a_neighbour_replaces_its_map_and_a_route_its_ranges() {
    let mut mirror = links();
    add(&mut mirror, route(ip("0.0.0.0"), 0, Some((WAN, Some(ip("192.0.2.1"))))));
    add(&mut mirror, route(ip("10.0.0.0"), 8, Some((LAN, None))));
    let mut ways = updated(&mirror);
    let first = Arc::clone(ways.fib());
    assert!(!ways.update(&mirror, &ports()), "nothing happened");

    let gateway = neighbour(WAN, ip("192.0.2.1"), NeighbourState::Reachable);
    mirror.apply(&gateway);
    assert!(ways.update(&mirror, &ports()));
    let second = Arc::clone(ways.fib());
    assert!(Arc::ptr_eq(first.routes(), second.routes()));
    assert_eq!(
        lookup(&first, ip("8.8.8.8")),
        Way::Unresolved { port: 2, neighbour: ip("192.0.2.1") }
    );
    // The port takes 9000 bytes, its tap was given 1400.
    let hop = PortHop { port: 2, dst_mac: MAC, src_mac: [2, 0, 0, 0, 0, 3], mtu: 1400, vlan: 7 };
    assert_eq!(lookup(&second, ip("8.8.8.8")), Way::Port(hop));

    add(&mut mirror, route(ip("10.1.0.0"), 16, Some((OTHER, None))));
    assert!(ways.update(&mirror, &ports()));
    assert!(Arc::ptr_eq(second.neighbours(), ways.fib().neighbours()));
    assert_eq!(lookup(ways.fib(), ip("10.1.0.1")), Way::NoRoute, "by a link that is no port");

    // A container's link, its routes and neighbours, are nothing to workers.
    let before = Arc::clone(ways.fib());
    mirror.apply(&link(77, "veth77", 1500, true));
    mirror.apply(&neighbour(77, ip("172.17.0.2"), NeighbourState::Reachable));
    assert!(!ways.update(&mirror, &ports()));
    assert!(Arc::ptr_eq(&before, ways.fib()));
}

#[test]
fn the_ports_have_the_kernels_addresses_and_mtu() {
    let mut mirror = links();
    let mut apply = |text: &str, link, added: bool| {
        let (text, len) = text.split_once('/').unwrap();
        let address = Address { link, ip: ip(text), prefix_len: len.parse().unwrap() };
        let event = if added { Event::Address(address) } else { Event::AddressGone(address) };
        mirror.apply(&event);
        let ports = snapshot_ports(&mirror, &ports());
        let v4 = ports[0].address4.map_or_else(String::new, |ip| Ipv4Addr::from(ip).to_string());
        let v6 = ports[0].address6.map_or_else(String::new, |ip| Ipv6Addr::from(ip).to_string());
        assert_eq!((ports[1].address4, ports[1].address6), (None, None));
        let places: Vec<_> = ports.iter().map(|port| (port.device, port.vlan)).collect();
        assert_eq!(places, [(0, None), (1, None), (1, Some(7))]);
        format!("{v4} {v6} {}", ports[2].mtu)
    };
    let rows = [
        ("10.0.0.9/32", LAN, true, "10.0.0.9  1400", "a host address where there is no other"),
        ("10.0.0.7/24", LAN, true, "10.0.0.7  1400", "the port's own before a VIP"),
        ("10.0.0.5/24", LAN, true, "10.0.0.7  1400", "the first"),
        ("10.0.0.1/24", WAN, true, "10.0.0.7  1400", "another port's"),
        ("fe80::1/64", LAN, true, "10.0.0.7 fe80::1 1400", "link-local where there is no other"),
        ("2001:db8::100/128", LAN, true, "10.0.0.7 2001:db8::100 1400", "a VIP before that"),
        ("2001:db8::7/64", LAN, true, "10.0.0.7 2001:db8::7 1400", "the port's own before both"),
        ("2001:db8::8/64", LAN, true, "10.0.0.7 2001:db8::7 1400", "the lowest"),
        ("10.0.0.7/24", LAN, true, "10.0.0.7 2001:db8::7 1400", "its lifetime: it stays first"),
        ("10.0.0.7/24", LAN, false, "10.0.0.5 2001:db8::7 1400", "the next when it goes"),
        ("2001:db8::7/64", LAN, false, "10.0.0.5 2001:db8::8 1400", "the next"),
    ];
    for (address, link, added, expected, what) in rows {
        assert_eq!(apply(address, link, added), expected, "{what}");
    }
}
