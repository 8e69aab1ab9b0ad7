//! The kernel's neighbours and routes as clients are shown them, in pages. Each
//! page walks what there is: some milliseconds of a full routing table.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{NetworkPort, mac_text};
use crate::api::{self, NeighbourCursor, RouteCursor};
use crate::kernel::{Mirror, Neighbour, NextHop};

/// The neighbours on ports after one, by port and address; and where to go on.
pub(super) fn neighbours(
    mirror: &Mirror,
    ports: &[NetworkPort],
    keeps: impl Fn(u32, IpAddr) -> bool,
    after: Option<NeighbourCursor>,
    rows: usize,
) -> (Vec<api::Neighbour>, Option<NeighbourCursor>) {
    let links: HashMap<u32, usize> = ports
        .iter()
        .enumerate()
        .filter_map(|(number, port)| Some((mirror.link_by_name(&port.name)?.index, number)))
        .collect();
    let order = |(port, neighbour): &(usize, &Neighbour)| (*port, neighbour.ip);
    let mut found: Vec<(usize, &Neighbour)> = mirror
        .neighbours()
        .filter_map(|neighbour| Some((*links.get(&neighbour.link)?, neighbour)))
        .filter(|one| after.is_none_or(|after| order(one) > (after.port, after.address)))
        .collect();
    let more = found.len() > rows;
    if more {
        found.select_nth_unstable_by_key(rows, order);
        found.truncate(rows);
    }
    found.sort_unstable_by_key(order);
    let last = found.last().map(|(port, n)| NeighbourCursor { port: *port, address: n.ip });
    let page = found.into_iter().map(|(port, neighbour)| api::Neighbour {
        port: ports[port].name.clone(),
        address: neighbour.ip,
        mac: neighbour.mac.map(mac_text),
        state: neighbour.state.name().into(),
        usable: neighbour.usable_mac().is_some(),
        kept: keeps(neighbour.link, neighbour.ip),
    });
    (page.collect(), last.filter(|_| more))
}

/// The routes to the first `rows` networks after one; and where to go on.
pub(super) fn routes(
    mirror: &Mirror,
    ports: &[NetworkPort],
    after: Option<RouteCursor>,
    rows: usize,
) -> (Vec<api::Route>, Option<RouteCursor>) {
    let after = after.map(|after| (after.destination, after.prefix));
    let (found, more) = mirror.routes_after(after, rows);
    let last = found
        .last()
        .map(|last| RouteCursor { destination: last.destination, prefix: last.prefix_len });
    let hop = |hop: &NextHop| {
        let name = mirror.link(hop.link).map(|link| link.name.to_string());
        let port = name.as_ref().is_some_and(|name| ports.iter().any(|port| port.name == *name));
        let link = name.unwrap_or_else(|| format!("link {}", hop.link));
        api::RouteHop { link, gateway: hop.gateway, port }
    };
    let page = found.iter().map(|route| api::Route {
        destination: route.destination,
        prefix: route.prefix_len,
        kind: route.kind.name().into(),
        metric: route.metric,
        mtu: route.mtu,
        hops: route.hops.iter().map(hop).collect(),
    });
    (page.collect(), last.filter(|_| more))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Event, Link, NeighbourState, Placement, Route, RouteKind, Table};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Ports `lan` and `wan` on links 2 and 3, and a NIC of the kernel's.
    fn mirror() -> (Mirror, Vec<NetworkPort>) {
        let mut mirror = Mirror::new();
        for (index, name) in [(2, "lan"), (3, "wan"), (4, "eth0")] {
            let (name, mac) = (name.into(), Some([0; 6]));
            let link = Link { index, name, mac, mtu: 1500, up: true, carrier: true };
            mirror.apply(&Event::Link(link));
        }
        let port = |name: &str| NetworkPort {
            name: name.into(),
            mac: [0; 6].into(),
            mtu: 1500,
            device: 0,
            vlan: None,
        };
        (mirror, vec![port("lan"), port("wan")])
    }

    #[test]
    fn neighbours_come_by_port_and_address() {
        let (mut mirror, ports) = mirror();
        for (link, address, state) in [
            (3, "10.0.0.9", NeighbourState::Failed),
            (2, "fd00::1", NeighbourState::Stale),
            (2, "10.0.0.2", NeighbourState::Reachable),
            (2, "10.0.0.1", NeighbourState::Reachable),
            (4, "10.0.0.1", NeighbourState::Reachable),
        ] {
            let mac = (state != NeighbourState::Failed).then_some([0, 0x50, 0, 0, 1, 0]);
            mirror.apply(&Event::Neighbour(Neighbour { link, ip: ip(address), mac, state }));
        }
        for rows in [1, 2, 3, 4, 9] {
            let (mut all, mut cursor) = (Vec::new(), None);
            loop {
                let keeps = |link, address| (link, address) == (3, ip("10.0.0.9"));
                let (page, next) = neighbours(&mirror, &ports, keeps, cursor, rows);
                assert!(page.len() <= rows);
                all.extend(page);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            let seen: Vec<_> = all
                .iter()
                .map(|n| format!("{} {} {} {} {}", n.port, n.address, n.state, n.usable, n.kept))
                .collect();
            let expected = [
                "lan 10.0.0.1 reachable true false",
                "lan 10.0.0.2 reachable true false",
                "lan fd00::1 stale true false",
                "wan 10.0.0.9 failed false true",
            ];
            assert_eq!(seen, expected, "by {rows}");
            assert_eq!(all[0].mac.as_deref(), Some("00:50:00:00:01:00"));
        }
    }

    #[test]
    fn routes_come_by_family_length_and_address() {
        let (mut mirror, ports) = mirror();
        for (network, prefix_len, table, metric, link) in [
            ("10.2.0.0", 16, Table::Main, 0, 4),
            ("10.1.0.0", 16, Table::Main, 10, 2),
            ("10.1.0.0", 16, Table::Main, 5, 3),
            ("0.0.0.0", 0, Table::Main, 0, 2),
            ("fd00::1", 128, Table::Local, 0, 2),
            ("fd00::", 64, Table::Main, 0, 2),
        ] {
            let hops = vec![NextHop { link, gateway: None }];
            let kind = if table == Table::Local { RouteKind::Local } else { RouteKind::Unicast };
            let route = Route {
                destination: ip(network),
                prefix_len,
                table,
                metric,
                kind,
                mtu: 0,
                hops,
                source: None,
                object: None,
            };
            mirror.apply(&Event::Route(route, Placement::First));
        }
        for rows in [1, 2, 5, 9] {
            let (mut all, mut cursor) = (Vec::new(), None);
            loop {
                let (page, next) = routes(&mirror, &ports, cursor, rows);
                all.extend(page);
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            let seen: Vec<_> = all
                .iter()
                .map(|r| format!("{}/{} {} {}", r.destination, r.prefix, r.metric, r.hops[0].link))
                .collect();
            let expected = [
                "0.0.0.0/0 0 lan",
                "10.1.0.0/16 5 wan",
                "10.1.0.0/16 10 lan",
                "10.2.0.0/16 0 eth0",
                "fd00::/64 0 lan",
                "fd00::1/128 0 lan",
            ];
            assert_eq!(seen, expected, "by {rows}");
            assert_eq!((all[3].hops[0].port, all[5].kind.as_str()), (false, "local"));
        }
    }
}
