//! The mirror without a socket: rows of routes, then questions.

use super::*;
use crate::kernel::event::Table;

const LAN: u32 = 2;
const WAN: u32 = 3;
const DOWN: u32 = 4;
const UNPLUGGED: u32 = 5;
const MAC: [u8; 6] = [0, 0x50, 0, 0, 3, 0];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(index: u32, name: &str, up: bool, carrier: bool) -> Event {
    Event::Link(Link { index, name: name.into(), mac: Some(MAC), mtu: 1500, up, carrier })
}

/// `prefix` and what `hops` say: `lan`, or `lan>10.0.0.1` for a gateway.
fn route(prefix: &str, metric: u32, hops: &[&str]) -> Route {
    let (address, len) = prefix.split_once('/').expect("address/length");
    Route {
        destination: ip(address),
        prefix_len: len.parse().expect("a length"),
        table: Table::Main,
        metric,
        kind: RouteKind::Unicast,
        mtu: 0,
        hops: hops.iter().map(|text| hop(text)).collect(),
        source: None,
        object: None,
    }
}

fn hop(text: &str) -> NextHop {
    let (name, gateway) = text.split_once('>').map_or((text, None), |(a, b)| (a, Some(ip(b))));
    let link = match name {
        "lan" => LAN,
        "wan" => WAN,
        "down" => DOWN,
        "unplugged" => UNPLUGGED,
        "gone" => 99,
        other => panic!("no link {other}"),
    };
    NextHop { link, gateway }
}

fn of_kind(prefix: &str, kind: RouteKind) -> Route {
    Route { kind, ..route(prefix, 0, &[]) }
}

fn local(prefix: &str) -> Route {
    Route { kind: RouteKind::Local, table: Table::Local, ..route(prefix, 0, &["lan"]) }
}

fn links() -> Mirror {
    let mut mirror = Mirror::new();
    mirror.apply(&link(LAN, "lan", true, true));
    mirror.apply(&link(WAN, "wan", true, true));
    mirror.apply(&link(DOWN, "down", false, false));
    mirror.apply(&link(UNPLUGGED, "unplugged", true, false));
    mirror
}

fn add(mirror: &mut Mirror, route: Route, placement: Placement) {
    mirror.apply(&Event::Route(route, placement));
}

fn with(routes: &[Route]) -> Mirror {
    let mut mirror = links();
    for route in routes {
        add(&mut mirror, route.clone(), Placement::First);
    }
    mirror
}

/// `lan 10.0.0.1` for link and neighbour, or the reason.
fn ask(mirror: &Mirror, destination: &str) -> String {
    match mirror.resolve(ip(destination)) {
        Ok(way) => format!("{} {}", way.link_name, way.neighbour),
        Err(reason) => format!("{reason:?}"),
    }
}

#[test]
fn the_longest_prefix_wins_in_both_families() {
    let mirror = with(&[
        route("0.0.0.0/0", 0, &["wan>192.0.2.1"]),
        route("10.0.0.0/8", 0, &["lan>10.0.0.1"]),
        route("10.1.0.0/16", 0, &["lan"]),
        route("10.1.2.3/32", 0, &["wan>192.0.2.9"]),
        local("10.1.0.1/32"),
        of_kind("10.9.0.0/16", RouteKind::Blackhole),
        of_kind("10.10.0.0/16", RouteKind::Unreachable),
        of_kind("10.11.0.0/16", RouteKind::Prohibit),
        of_kind("10.12.0.0/16", RouteKind::Throw),
        of_kind("10.13.0.0/16", RouteKind::Tunnel),
        of_kind("10.1.255.255/32", RouteKind::NotUnicast),
        route("::/0", 0, &["wan>fe80::1"]),
        route("2001:db8::/32", 0, &["lan>2001:db8::1"]),
        route("2001:db8:1::/64", 0, &["lan"]),
        route("2001:db8:1::7/128", 0, &["wan>fe80::7"]),
        local("2001:db8:1::1/128"),
        of_kind("2001:db8:9::/48", RouteKind::Unreachable),
    ]);
    let rows = [
        ("8.8.8.8", "wan 192.0.2.1"),
        ("255.255.255.254", "wan 192.0.2.1"),
        ("0.0.0.1", "wan 192.0.2.1"),
        ("10.200.0.1", "lan 10.0.0.1"),
        ("10.1.200.1", "lan 10.1.200.1"),
        ("10.1.2.3", "wan 192.0.2.9"),
        ("10.1.2.2", "lan 10.1.2.2"),
        ("10.1.0.1", "Local"),
        ("10.9.1.1", "Refused"),
        ("10.10.1.1", "Refused"),
        ("10.11.1.1", "Refused"),
        ("10.12.1.1", "Missing"),
        ("10.13.1.1", "Tunnel"),
        ("10.1.255.255", "NotUnicast"),
        ("224.0.0.5", "NotUnicast"),
        ("2a00::1", "wan fe80::1"),
        ("2001:db8:2::1", "lan 2001:db8::1"),
        ("2001:db8:1::6", "lan 2001:db8:1::6"),
        ("2001:db8:1::7", "wan fe80::7"),
        ("2001:db8:1::1", "Local"),
        ("2001:db8:9::1", "Refused"),
        ("fe80::1", "LinkLocal"),
        ("ff02::1", "NotUnicast"),
    ];
    for (destination, expected) in rows {
        assert_eq!(ask(&mirror, destination), expected, "{destination}");
    }
}

#[test]
fn within_a_prefix_metric_link_state_and_order_decide() {
    let rows: &[(&str, &[Route], &str)] = &[
        ("no route at all", &[], "Missing"),
        (
            "the lower metric",
            &[route("10.0.0.0/8", 200, &["wan"]), route("10.0.0.0/8", 100, &["lan"])],
            "lan 10.0.0.5",
        ),
        (
            "a link that is down is passed over for a worse metric",
            &[route("10.0.0.0/8", 1, &["down"]), route("10.0.0.0/8", 100, &["lan"])],
            "lan 10.0.0.5",
        ),
        (
            "and for a shorter prefix",
            &[route("10.0.0.0/24", 0, &["unplugged"]), route("10.0.0.0/8", 0, &["lan"])],
            "lan 10.0.0.5",
        ),
        ("and an unknown link", &[route("10.0.0.0/24", 0, &["gone"])], "Missing"),
        (
            "multipath: the first hop that is up",
            &[route("10.0.0.0/8", 0, &["down>10.9.9.9", "wan>10.2.2.2", "lan>10.3.3.3"])],
            "wan 10.2.2.2",
        ),
        ("multipath: none up", &[route("10.0.0.0/8", 0, &["down", "unplugged"])], "Missing"),
        (
            "a refusal is not passed over",
            &[of_kind("10.0.0.0/24", RouteKind::Blackhole), route("10.0.0.0/8", 0, &["lan"])],
            "Refused",
        ),
        (
            "a refusal with the worse metric does not matter",
            &[
                Route { metric: 9, ..of_kind("10.0.0.0/8", RouteKind::Unreachable) },
                route("10.0.0.0/8", 0, &["lan"]),
            ],
            "lan 10.0.0.5",
        ),
        (
            "local before main on the same prefix",
            &[route("10.0.0.5/32", 0, &["lan"]), local("10.0.0.5/32")],
            "Local",
        ),
        (
            "IPv4: a longer prefix of main before local",
            &[local("10.0.0.0/8"), route("10.0.0.0/24", 0, &["lan"])],
            "lan 10.0.0.5",
        ),
        (
            "IPv4 through an IPv6 gateway",
            &[route("10.0.0.0/8", 0, &["lan>fe80::9"])],
            "lan fe80::9",
        ),
        (
            "of equal routes the one added last comes first, as `ip route prepend`",
            &[route("10.0.0.0/8", 0, &["wan"]), route("10.0.0.0/8", 0, &["lan"])],
            "lan 10.0.0.5",
        ),
    ];
    for (what, routes, expected) in rows {
        assert_eq!(ask(&with(routes), "10.0.0.5"), *expected, "{what}");
    }
}

#[test]
fn ipv6_searches_local_before_main() {
    let mirror = with(&[
        Route { kind: RouteKind::Local, ..local("2001:db8::/32") },
        route("2001:db8::/64", 0, &["lan"]),
    ]);
    assert_eq!(ask(&mirror, "2001:db8::5"), "Local");
}

#[test]
fn the_mtu_is_that_of_the_route_but_never_above_the_link() {
    for (route_mtu, expected) in [(0, 1500), (1400, 1400), (9000, 1500)] {
        let mirror = with(&[Route { mtu: route_mtu, ..route("10.0.0.0/8", 0, &["lan"]) }]);
        assert_eq!(mirror.resolve(ip("10.0.0.5")).unwrap().mtu, expected);
    }
}

#[test]
fn ipv4_routes_are_appended_replaced_and_removed() {
    let mut mirror = links();
    let to = |hops: &[&str]| route("10.0.0.0/8", 5, hops);
    add(&mut mirror, to(&["wan>10.0.0.1"]), Placement::First);
    add(&mut mirror, to(&["lan>10.0.0.2"]), Placement::Last);
    assert_eq!(ask(&mirror, "10.0.0.5"), "wan 10.0.0.1");
    add(&mut mirror, to(&["wan>10.0.0.3"]), Placement::Replace);
    assert_eq!((ask(&mirror, "10.0.0.5").as_str(), mirror.route_count()), ("wan 10.0.0.3", 2));
    mirror.apply(&Event::RouteGone(to(&["wan>10.0.0.1"])));
    assert_eq!(mirror.route_count(), 2, "the replaced route is not there to be removed");
    mirror.apply(&Event::RouteGone(to(&["wan>10.0.0.3"])));
    assert_eq!(ask(&mirror, "10.0.0.5"), "lan 10.0.0.2");
    mirror.apply(&Event::RouteGone(to(&["lan>10.0.0.2"])));
    assert_eq!((ask(&mirror, "10.0.0.5").as_str(), mirror.route_count()), ("Missing", 0));
}

#[test]
fn ipv6_multipath_grows_shrinks_and_is_replaced_by_hop() {
    let mut mirror = links();
    let to = |hops: &[&str]| route("2001:db8::/32", 1024, hops);
    add(&mut mirror, to(&["lan>fe80::1"]), Placement::First);
    // The kernel reports the whole route when a hop is appended.
    add(&mut mirror, to(&["lan>fe80::1", "wan>fe80::2"]), Placement::Last);
    assert_eq!(mirror.route_count(), 2);
    mirror.apply(&Event::RouteGone(to(&["lan>fe80::1"])));
    assert_eq!(ask(&mirror, "2001:db8::5"), "wan fe80::2");
    add(&mut mirror, to(&["lan>fe80::3", "lan>fe80::4"]), Placement::Replace);
    assert_eq!((ask(&mirror, "2001:db8::5").as_str(), mirror.route_count()), ("lan fe80::3", 2));
    add(&mut mirror, to(&["wan"]), Placement::Last);
    add(&mut mirror, to(&["lan"]), Placement::Replace);
    assert_eq!(mirror.route_count(), 3, "a route without a gateway replaces only its like");
    mirror.apply(&Event::RouteGone(to(&["lan>fe80::3", "lan>fe80::4"])));
    assert_eq!(ask(&mirror, "2001:db8::5"), "lan 2001:db8::5");
}

fn neighbour(address: &str, state: NeighbourState, mac: Option<[u8; 6]>) -> Event {
    Event::Neighbour(Neighbour { link: LAN, ip: ip(address), mac, state })
}

#[test]
fn a_neighbour_is_usable_in_the_states_in_which_the_kernel_sends() {
    use NeighbourState as S;
    let usable = [S::Reachable, S::Stale, S::Delay, S::Probe, S::Permanent, S::NoArp];
    let all = usable.into_iter().map(|s| (s, Some(MAC)));
    let none = [S::None, S::Incomplete, S::Failed].into_iter().map(|s| (s, None));
    for (state, expected) in all.chain(none) {
        let mut mirror = links();
        // The kernel leaves the old address in a FAILED entry.
        mirror.apply(&neighbour("10.0.0.5", state, Some(MAC)));
        assert_eq!(mirror.neighbour(LAN, ip("10.0.0.5")), expected, "{state:?}");
        assert_eq!(mirror.neighbour(WAN, ip("10.0.0.5")), None);
        assert_eq!(mirror.neighbour_state(LAN, ip("10.0.0.5")), Some(state));
    }
}

#[test]
fn the_generation_counts_what_can_change_an_answer_and_nothing_else() {
    use NeighbourState as S;
    let other = [2, 0, 0, 0, 0, 9];
    let lan_renamed = link(LAN, "lan0", true, true);
    let via_link_local = route("2001:db8::/32", 0, &["lan>fe80::1"]);
    let address = |text| Event::Address(Address { link: LAN, ip: ip(text), prefix_len: 64 });
    let route_event = |route| Event::Route(route, Placement::First);
    let rows = [
        (route_event(route("10.0.0.0/8", 0, &["lan"])), true, "a route"),
        (route_event(route("10.0.0.0/8", 0, &["lan"])), false, "the same route again"),
        (route_event(route("ff00::/8", 256, &["lan"])), false, "a multicast route"),
        (route_event(route("fe80::/64", 256, &["lan"])), false, "a link-local route"),
        (Event::RouteGone(route("10.0.0.0/8", 7, &["lan"])), false, "a route that is not there"),
        (neighbour("10.0.0.5", S::Incomplete, None), false, "being looked for"),
        (neighbour("10.0.0.5", S::Reachable, Some(MAC)), true, "found"),
        (neighbour("10.0.0.5", S::Stale, Some(MAC)), false, "stale"),
        (neighbour("10.0.0.5", S::Reachable, Some(other)), true, "another MAC"),
        (neighbour("10.0.0.5", S::Failed, Some(other)), true, "lost"),
        (Event::NeighbourGone { link: LAN, ip: ip("10.0.0.5") }, false, "a lost one is deleted"),
        (neighbour("fe80::1", S::Reachable, Some(MAC)), false, "a link-local host"),
        (route_event(via_link_local), true, "a route through it"),
        (neighbour("fe80::1", S::Failed, None), true, "and now it matters"),
        (neighbour("fe80::2", S::Reachable, Some(MAC)), false, "another host still does not"),
        (link(LAN, "lan", true, true), false, "a link as it was"),
        (lan_renamed, true, "a new name"),
        (address("fe80::5"), true, "a link-local address"),
        (address("2001:db8::5"), true, "an address"),
        (address("2001:db8::5"), false, "its lifetime"),
        (Event::LinkGone(77), false, "a link that never was"),
        (Event::LinkGone(LAN), true, "a link"),
        (Event::NextHopObject(1), false, "a next-hop object"),
    ];
    let mut mirror = links();
    for (event, counts, what) in rows {
        let before = mirror.generation();
        mirror.apply(&event);
        assert_eq!(mirror.generation() != before, counts, "{what}");
    }
}

#[test]
fn a_link_takes_its_addresses_and_neighbours_along() {
    let mut mirror = links();
    mirror.apply(&Event::Address(Address { link: LAN, ip: ip("10.0.0.1"), prefix_len: 8 }));
    mirror.apply(&neighbour("10.0.0.5", NeighbourState::Reachable, Some(MAC)));
    mirror.apply(&Event::LinkGone(LAN));
    assert_eq!(mirror.addresses().count(), 0);
    assert_eq!(mirror.neighbour(LAN, ip("10.0.0.5")), None);
    assert!(mirror.link_by_name("lan").is_none());
}

#[test]
fn a_dump_shows_all_at_once_and_counts_only_if_it_differs() {
    let mut mirror = with(&[route("10.0.0.0/8", 0, &["lan"])]);
    mirror.apply(&neighbour("10.0.0.5", NeighbourState::Reachable, Some(MAC)));
    let before = mirror.generation();

    let dump = |mirror: &mut Mirror, live: &[Event], route: Route| {
        mirror.begin_dump();
        for event in [link(LAN, "lan", true, true), link(WAN, "wan", true, true)] {
            mirror.apply_dumped(&event);
        }
        for event in [link(DOWN, "down", false, false), link(UNPLUGGED, "unplugged", true, false)] {
            mirror.apply_dumped(&event);
        }
        live.iter().for_each(|event| mirror.apply(event));
        mirror.apply_dumped(&Event::Route(route, Placement::Last));
        mirror.apply_dumped(&neighbour("10.0.0.5", NeighbourState::Stale, Some(MAC)));
        assert_eq!(ask(mirror, "10.0.0.5"), "lan 10.0.0.5", "the old table answers");
        mirror.finish_dump();
    };
    dump(&mut mirror, &[], route("10.0.0.0/8", 0, &["lan"]));
    assert_eq!(mirror.generation(), before, "the same tables");

    dump(&mut mirror, &[], route("10.0.0.0/8", 0, &["wan"]));
    assert_eq!(ask(&mirror, "10.0.0.5"), "wan 10.0.0.5");
    assert_eq!(mirror.generation(), before + 1);
}

#[test]
fn a_change_during_a_dump_is_seen_at_once_and_kept() {
    let mut mirror = with(&[route("10.0.0.0/8", 0, &["lan"])]);
    mirror.begin_dump();
    mirror.apply_dumped(&link(WAN, "wan", true, true));
    add(&mut mirror, route("10.0.0.0/24", 0, &["wan"]), Placement::First);
    assert_eq!(ask(&mirror, "10.0.0.5"), "wan 10.0.0.5");
    mirror.apply_dumped(&Event::Route(route("10.0.0.0/24", 0, &["wan"]), Placement::Last));
    mirror.finish_dump();
    assert_eq!(ask(&mirror, "10.0.0.5"), "wan 10.0.0.5");
    assert_eq!(mirror.route_count(), 1, "once, and the route that the dump lacks is gone");
}

#[test]
fn what_the_kernel_drops_without_a_message_asks_for_a_dump() {
    let from = Route { source: Some(ip("10.0.0.1")), ..route("10.1.0.0/16", 0, &["lan"]) };
    let object = Route { object: Some(7), ..route("10.2.0.0/16", 0, &["lan"]) };
    let gone = |text| Event::AddressGone(Address { link: LAN, ip: ip(text), prefix_len: 8 });
    let rows = [
        (link(LAN, "lan", true, false), false, "the wire is unplugged"),
        (link(LAN, "lan", false, false), true, "switched off"),
        (link(LAN, "lan", true, true), false, "switched on"),
        (Event::LinkGone(WAN), true, "deleted"),
        (gone("10.0.0.8"), false, "an address that only its own local route uses"),
        (gone("10.0.0.9"), false, "an address that no route uses"),
        (gone("10.0.0.1"), true, "the source of a route"),
        (Event::NextHopObject(8), false, "an object that no route uses"),
        (Event::NextHopObject(7), true, "the object of a route"),
    ];
    let own = Route { source: Some(ip("10.0.0.8")), ..local("10.0.0.8/32") };
    let mut mirror = with(&[from, object, own]);
    for (event, expected, what) in rows {
        mirror.apply(&event);
        assert_eq!(mirror.take_stale(), expected, "{what}");
    }
}
