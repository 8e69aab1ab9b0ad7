//! rtnetlink messages into [`Event`]s. Only the attributes that the mirror
//! needs are kept.

use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, NLM_F_APPEND, NLM_F_MULTIPART, NLM_F_REPLACE, NlasIterator, Parseable,
    parse_string, parse_u32,
};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkHeader};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState as Nud,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteNextHop, RouteType,
    RouteVia,
};

use super::event::{
    Address, Event, Link, Neighbour, NeighbourState, NextHop, Placement, Route, RouteKind, Table,
};

// Message types, linux/rtnetlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// RT_TABLE_LOCAL; the header knows only `main` by name.
const TABLE_LOCAL: u32 = 255;
/// Bytes of `struct ifinfomsg`, before the attributes of a link message.
const LINK_HEADER_LEN: usize = 16;
/// Bytes of `struct nhmsg`, before the attributes of a next-hop message.
const NEXT_HOP_HEADER_LEN: usize = 8;

/// A message as an event; `None` for what the mirror does not follow.
pub(super) fn event(kind: u16, flags: u16, payload: &[u8]) -> Result<Option<Event>, DecodeError> {
    Ok(match kind {
        RTM_NEWLINK => link(payload)?.map(Event::Link),
        RTM_DELLINK => link(payload)?.map(|link| Event::LinkGone(link.index)),
        RTM_NEWADDR => address(payload)?.map(Event::Address),
        RTM_DELADDR => address(payload)?.map(Event::AddressGone),
        RTM_NEWROUTE => route(payload)?.map(|route| Event::Route(route, placement(flags))),
        RTM_DELROUTE => route(payload)?.map(Event::RouteGone),
        RTM_NEWNEIGH => neighbour(payload)?.map(|(neighbour, _)| Event::Neighbour(neighbour)),
        RTM_DELNEIGH => neighbour(payload)?
            .map(|(gone, _)| Event::NeighbourGone { link: gone.link, ip: gone.ip }),
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => next_hop_object(payload)?.map(Event::NextHopObject),
        _ => None,
    })
}

/// A neighbour entry, and whether the kernel keeps it resolved by itself.
pub(super) fn neighbour(payload: &[u8]) -> Result<Option<(Neighbour, bool)>, DecodeError> {
    let message = NeighbourMessage::parse(payload)?;
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return Ok(None);
    }
    let (mut ip, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            _ => {}
        }
    }
    // Other families share the group: bridges report their FDB here.
    let Some(ip) = ip.filter(|ip: &IpAddr| !ip.is_multicast()) else { return Ok(None) };
    let state = neighbour_state(message.header.state);
    Ok(Some((Neighbour { link: message.header.ifindex, ip, mac, state }, managed)))
}

fn neighbour_state(state: Nud) -> NeighbourState {
    match state {
        Nud::Incomplete => NeighbourState::Incomplete,
        Nud::Reachable => NeighbourState::Reachable,
        Nud::Stale => NeighbourState::Stale,
        Nud::Delay => NeighbourState::Delay,
        Nud::Probe => NeighbourState::Probe,
        Nud::Failed => NeighbourState::Failed,
        Nud::Noarp => NeighbourState::NoArp,
        Nud::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::None,
    }
}

/// Link messages carry dozens of attributes, and newer kernels add more: only
/// three are looked at, so that an unknown one cannot hide a link.
fn link(payload: &[u8]) -> Result<Option<Link>, DecodeError> {
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    let header = LinkHeader::parse(payload)?;
    // A bridge reports its ports as links of family AF_BRIDGE: a DELLINK of
    // that sort means that a link has left the bridge.
    if header.interface_family != AddressFamily::Unspec {
        return Ok(None);
    }
    let (mut name, mut mac, mut mtu) = (None, None, 0);
    for attribute in NlasIterator::new(&payload[LINK_HEADER_LEN..]) {
        let attribute = attribute?;
        match attribute.kind() {
            IFLA_ADDRESS => mac = attribute.value().try_into().ok(),
            IFLA_IFNAME => name = Some(parse_string(attribute.value())?),
            IFLA_MTU => mtu = parse_u32(attribute.value())?,
            _ => {}
        }
    }
    Ok(name.map(|name| Link {
        index: header.index,
        name: name.into(),
        mac,
        mtu,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
    }))
}

fn address(payload: &[u8]) -> Result<Option<Address>, DecodeError> {
    let message = AddressMessage::parse(payload)?;
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            _ => {}
        }
    }
    // IPv6 sends IFA_LOCAL only where there is a peer.
    let header = &message.header;
    Ok(local.or(peer).map(|ip| Address { link: header.index, ip, prefix_len: header.prefix_len }))
}

fn next_hop_object(payload: &[u8]) -> Result<Option<u32>, DecodeError> {
    const NHA_ID: u16 = 1;
    let attributes = payload.get(NEXT_HOP_HEADER_LEN..).unwrap_or_default();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == NHA_ID {
            return Ok(Some(parse_u32(attribute.value())?));
        }
    }
    Ok(None)
}

fn placement(flags: u16) -> Placement {
    // The bit of NLM_F_REPLACE means something else in the parts of a dump.
    if flags & NLM_F_MULTIPART != 0 || flags & NLM_F_APPEND != 0 {
        return Placement::Last;
    }
    if flags & NLM_F_REPLACE != 0 {
        return Placement::Replace;
    }
    Placement::First
}

/// A route of a table that is followed, for packets without a mark: routes for
/// a type of service or a source prefix match only some packets, and are left
/// out.
fn route(payload: &[u8]) -> Result<Option<Route>, DecodeError> {
    let header = RouteHeader::parse(payload)?;
    let (any, bits): (IpAddr, u8) = match header.address_family {
        AddressFamily::Inet => (IpAddr::from([0; 4]), 32),
        AddressFamily::Inet6 => (IpAddr::from([0; 16]), 128),
        _ => return Ok(None),
    };
    if header.tos != 0 || header.source_prefix_length != 0 {
        return Ok(None);
    }
    if header.destination_prefix_length > bits {
        return Err(format!("prefix length {}", header.destination_prefix_length).into());
    }
    let message = RouteMessage::parse(payload)?;
    Ok(followed_table(&message).map(|table| fill_route(any, table, &message)))
}

fn followed_table(message: &RouteMessage) -> Option<Table> {
    let id = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(id) => Some(*id),
        _ => None,
    });
    match id.unwrap_or(u32::from(message.header.table)) {
        TABLE_LOCAL => Some(Table::Local),
        id if id == u32::from(RouteHeader::RT_TABLE_MAIN) => Some(Table::Main),
        _ => None,
    }
}

fn fill_route(any: IpAddr, table: Table, message: &RouteMessage) -> Route {
    let mut route = Route {
        destination: any,
        prefix_len: message.header.destination_prefix_length,
        table,
        metric: 0,
        kind: route_kind(message.header.kind),
        mtu: 0,
        hops: multipath(&message.attributes),
        source: None,
        object: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => route.destination = ip_of(ip).unwrap_or(any),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::PrefSource(ip) => route.source = ip_of(ip),
            RouteAttribute::NhId(id) => route.object = Some(*id),
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            RouteAttribute::Encap(_) | RouteAttribute::EncapType(_) => {
                route.kind = RouteKind::Tunnel;
            }
            _ => {}
        }
    }
    if route.hops.is_empty() {
        route.hops.extend(single_hop(&message.attributes));
    }
    route
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => RouteKind::NotUnicast,
    }
}

fn multipath(attributes: &[RouteAttribute]) -> Vec<NextHop> {
    let paths = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(paths) => Some(paths),
        _ => None,
    });
    paths.into_iter().flatten().map(path).collect()
}

fn path(path: &RouteNextHop) -> NextHop {
    NextHop { link: path.interface_index, gateway: gateway(&path.attributes) }
}

fn single_hop(attributes: &[RouteAttribute]) -> Option<NextHop> {
    let link = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(link) => Some(*link),
        _ => None,
    })?;
    Some(NextHop { link, gateway: gateway(attributes) })
}

/// RTA_GATEWAY, or RTA_VIA where the gateway is of the other family.
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(ip) => ip_of(ip),
        RouteAttribute::Via(RouteVia::Inet(ip)) => Some((*ip).into()),
        RouteAttribute::Via(RouteVia::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn mtu(metrics: &[RouteMetric]) -> u32 {
    metrics
        .iter()
        .find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None })
        .unwrap_or(0)
}
