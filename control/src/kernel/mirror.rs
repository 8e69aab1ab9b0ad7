//! The kernel's tables in memory, and the questions asked of them.
//!
//! The mirror is fed with [`Event`]s and knows no socket. While the tables are
//! read anew (at start, and after messages were lost) a second set is filled
//! and takes the place of the first when it is complete, so that nobody sees a
//! half-read table.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::event::{
    Address, Event, Link, Neighbour, NeighbourState, NextHop, Placement, Route, RouteKind, Table,
};
use super::routes::{Entry, ListedRoute, Matching, RouteTable, covers};

/// Where packets to a destination go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Index of the link that they leave by.
    pub link: u32,
    /// Its name.
    pub link_name: Arc<str>,
    /// Whose Ethernet address they need: the gateway (of either family), or
    /// the destination where it is on the link.
    pub neighbour: IpAddr,
    /// Largest IP packet on this way, in bytes.
    pub mtu: u32,
}

/// The way that a route gives to all addresses of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<'a> {
    /// The link that packets leave by.
    pub link: &'a Link,
    /// The gateway, of either family; none where the range is on the link.
    pub gateway: Option<IpAddr>,
    /// Largest IP packet on this way, in bytes.
    pub mtu: u32,
}

/// Why packets to a destination go nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoute {
    /// The destination is an address of this machine.
    Local,
    /// It is a multicast or broadcast address.
    NotUnicast,
    /// It is an IPv6 link-local address, which needs a link as well.
    LinkLocal,
    /// A blackhole, unreachable or prohibit route says so.
    Refused,
    /// The route encapsulates, which the mirror does not follow.
    Tunnel,
    /// No route matches, or the links of those that do are down.
    Missing,
}

impl fmt::Display for NoRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "the address is one of this machine (see `ip addr`)",
            Self::NotUnicast => "the address is a multicast or broadcast address",
            Self::LinkLocal => "the address is link-local; use a routable one",
            Self::Refused => "a blackhole, unreachable or prohibit route covers it",
            Self::Tunnel => "its route encapsulates, which is not supported",
            Self::Missing => "no route, or the route's link is down (see `ip route get`)",
        })
    }
}

/// The kernel's links, addresses, routes and neighbours.
#[derive(Debug)]
pub struct Mirror {
    tables: Tables,
    /// What a running dump has filled so far.
    next: Option<Tables>,
    generation: u64,
    paths_generation: u64,
    stale: bool,
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

impl Mirror {
    /// An empty mirror, of generation 0.
    pub fn new() -> Self {
        Self { tables: Tables::new(), next: None, generation: 0, paths_generation: 0, stale: false }
    }

    /// Where packets to `destination` go, as the kernel would decide for an
    /// unmarked packet: the longest prefix, then the lowest metric, then the
    /// first next hop whose link is up. One difference is meant: a link
    /// without carrier is passed over as if `ignore_routes_with_linkdown`
    /// were set, since a packet sent there is lost.
    pub fn resolve(&self, destination: IpAddr) -> Result<Resolved, NoRoute> {
        if let Some(reason) = exception(destination) {
            return Err(reason);
        }
        let tables = &self.tables;
        let found = tables.routes.find(destination, |route| tables.follow(route));
        let path = found.unwrap_or(Err(NoRoute::Missing))?;
        Ok(Resolved {
            link: path.link.index,
            link_name: path.link.name.clone(),
            neighbour: path.gateway.unwrap_or(destination),
            mtu: path.mtu,
        })
    }

    /// What [`Mirror::resolve`] says of all IPv4 addresses, range by range in
    /// their order: `visit` gets the first address of each range. Ranges that
    /// follow one another may have the same way.
    pub fn paths4(&self, mut visit: impl FnMut(u32, Result<Path<'_>, NoRoute>)) {
        let marks = EXCEPTIONS.iter().filter_map(|(ip, len, _)| match ip {
            IpAddr::V4(ip) => Some((ip.to_bits(), *len)),
            IpAddr::V6(_) => None,
        });
        self.tables.routes.sweep4(&marks.collect::<Vec<_>>(), |start, matching| {
            visit(start, self.path(Ipv4Addr::from_bits(start).into(), matching));
        });
    }

    /// The same for IPv6.
    pub fn paths6(&self, mut visit: impl FnMut(u128, Result<Path<'_>, NoRoute>)) {
        let marks = EXCEPTIONS.iter().filter_map(|(ip, len, _)| match ip {
            IpAddr::V6(ip) => Some((ip.to_bits(), *len)),
            IpAddr::V4(_) => None,
        });
        self.tables.routes.sweep6(&marks.collect::<Vec<_>>(), |start, matching| {
            visit(start, self.path(Ipv6Addr::from_bits(start).into(), matching));
        });
    }

    fn path(&self, start: IpAddr, matching: &Matching<'_>) -> Result<Path<'_>, NoRoute> {
        if let Some(reason) = exception(start) {
            return Err(reason);
        }
        matching.find(|route| self.tables.follow(route)).unwrap_or(Err(NoRoute::Missing))
    }

    /// The neighbours with an Ethernet address that the kernel itself would
    /// send to now, by index of the link and address, in no order. Link-local
    /// ones only where a route leads through them.
    pub fn usable_neighbours(&self) -> impl Iterator<Item = ((u32, IpAddr), [u8; 6])> {
        self.tables.usable_neighbours()
    }

    /// The first IPv4 address of each link, by its index, as the kernel lists
    /// them. One with a prefix of its own comes before host addresses (/32),
    /// which are likely to be VIPs.
    pub fn primary_addresses4(&self) -> HashMap<u32, Ipv4Addr> {
        self.tables.primaries4()
    }

    /// The IPv6 address of a link for traffic of the machine itself: global
    /// before link-local, one with a prefix of its own before host addresses
    /// (/128), the lowest of several.
    pub fn primary_address6(&self, link: u32) -> Option<Ipv6Addr> {
        let of_link = self.tables.addresses.keys().filter(|address| address.link == link);
        let v6 = of_link.filter_map(|address| match address.ip {
            IpAddr::V6(ip) => Some((ip.is_unicast_link_local(), address.prefix_len == 128, ip)),
            IpAddr::V4(_) => None,
        });
        v6.min().map(|(_, _, ip)| ip)
    }

    /// The Ethernet address of a neighbour, if the kernel itself would send
    /// to it now.
    pub fn neighbour(&self, link: u32, ip: IpAddr) -> Option<[u8; 6]> {
        self.tables.neighbours.get(&(link, ip)).and_then(Neighbour::usable_mac)
    }

    /// The state of a neighbour entry; `None` where there is no entry.
    pub fn neighbour_state(&self, link: u32, ip: IpAddr) -> Option<NeighbourState> {
        self.tables.neighbours.get(&(link, ip)).map(|neighbour| neighbour.state)
    }

    /// All neighbour entries, in no order.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.tables.neighbours.values()
    }

    /// The first routes after a prefix, in the order of family, length and
    /// address: all those of `prefixes` prefixes, and whether there are more.
    /// It walks the tables.
    pub fn routes_after(
        &self,
        after: Option<(IpAddr, u8)>,
        prefixes: usize,
    ) -> (Vec<ListedRoute<'_>>, bool) {
        self.tables.routes.after(after, prefixes)
    }

    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.tables.links.get(&index)
    }

    /// The link of this name.
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links().find(|link| &*link.name == name)
    }

    /// All links, in no order.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.tables.links.values()
    }

    /// All addresses, in no order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.tables.addresses.keys()
    }

    /// Counts the routes. It walks the tables: for displays, not for loops.
    pub fn route_count(&self) -> usize {
        self.tables.routes.len()
    }

    /// Grows when, and only when, an answer of [`Mirror::resolve`],
    /// [`Mirror::neighbour`], or the list of links or addresses may have
    /// changed. A neighbour that goes from REACHABLE to STALE, or a link-local
    /// one that is no route's gateway, does not count.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation of the last change that was not of neighbours alone:
    /// while it stays, so do links, addresses and what routes say.
    pub fn paths_generation(&self) -> u64 {
        self.paths_generation
    }

    /// Applies a change that the kernel reported.
    pub fn apply(&mut self, event: &Event) {
        self.stale |= self.tables.loses_routes_silently(event);
        if let Some(next) = &mut self.next {
            next.apply(event);
        }
        if self.tables.apply(event) {
            self.generation += 1;
            if !matches!(event, Event::Neighbour(_) | Event::NeighbourGone { .. }) {
                self.paths_generation = self.generation;
            }
        }
    }

    /// Starts reading all tables anew.
    pub fn begin_dump(&mut self) {
        self.next = Some(Tables::new());
    }

    /// Applies an item of a dump.
    pub fn apply_dumped(&mut self, event: &Event) {
        if let Some(next) = &mut self.next {
            next.apply(event);
        }
    }

    /// All tables are read: what was dumped is valid from now on.
    pub fn finish_dump(&mut self) {
        let Some(next) = self.next.take() else { return };
        if !next.answers_like(&self.tables) {
            self.generation += 1;
            self.paths_generation = self.generation;
        }
        self.tables = next;
    }

    /// Whether the kernel may have dropped routes without a message, so that
    /// they must be read anew; asking resets it.
    pub fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.stale)
    }
}

#[derive(Debug)]
struct Tables {
    links: HashMap<u32, Link>,
    /// With the order in which they came, which is the kernel's.
    addresses: HashMap<Address, u64>,
    addresses_seen: u64,
    routes: RouteTable,
    neighbours: HashMap<(u32, IpAddr), Neighbour>,
    /// Link-local gateways, preferred sources and next-hop objects seen on
    /// routes. These sets only grow until the next dump: what is in them too
    /// long costs a needless snapshot or dump, never a wrong answer.
    gateways: HashSet<(u32, IpAddr)>,
    sources: HashSet<IpAddr>,
    objects: HashSet<u32>,
}

impl Tables {
    fn new() -> Self {
        Self {
            links: HashMap::new(),
            addresses: HashMap::new(),
            addresses_seen: 0,
            routes: RouteTable::new(),
            neighbours: HashMap::new(),
            gateways: HashSet::new(),
            sources: HashSet::new(),
            objects: HashSet::new(),
        }
    }

    /// What a matching route says; `None` to go on with the next best.
    fn follow(&self, route: &Entry) -> Option<Result<Path<'_>, NoRoute>> {
        match route.kind {
            RouteKind::Unicast => {
                let (link, hop) = route.hops().iter().find_map(|hop| self.usable(hop))?;
                let mtu = if route.mtu == 0 { link.mtu } else { route.mtu.min(link.mtu) };
                Some(Ok(Path { link, gateway: hop.gateway, mtu }))
            }
            RouteKind::Local => Some(Err(NoRoute::Local)),
            RouteKind::NotUnicast => Some(Err(NoRoute::NotUnicast)),
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => {
                Some(Err(NoRoute::Refused))
            }
            RouteKind::Throw => Some(Err(NoRoute::Missing)),
            RouteKind::Tunnel => Some(Err(NoRoute::Tunnel)),
        }
    }

    /// The flags RTNH_F_DEAD and RTNH_F_LINKDOWN of a route are a copy of the
    /// link's state at the time of the message, and the kernel sends none when
    /// they change: the link itself is asked.
    fn usable<'a, 'h>(&'a self, hop: &'h NextHop) -> Option<(&'a Link, &'h NextHop)> {
        let link = self.links.get(&hop.link)?;
        link.usable().then_some((link, hop))
    }

    /// Says whether an answer may have changed.
    fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Link(link) => self.links.insert(link.index, link.clone()).as_ref() != Some(link),
            Event::LinkGone(index) => self.remove_link(*index),
            Event::Address(address) => self.add_address(*address),
            Event::AddressGone(address) => self.addresses.remove(address).is_some(),
            Event::Route(route, placement) => self.add_route(route, *placement),
            Event::RouteGone(route) => self.remove_route(route),
            Event::Neighbour(neighbour) => self.set_neighbour(neighbour),
            Event::NeighbourGone { link, ip } => {
                let old = self.neighbours.remove(&(*link, *ip));
                old.is_some_and(|old| old.usable_mac().is_some()) && self.matters(*link, *ip)
            }
            Event::NextHopObject(_) => false,
        }
    }

    /// IPv4 routes vanish without a message when their link goes down or away,
    /// when their source address goes (before Linux 6.3 or so) and when their
    /// next-hop object does.
    fn loses_routes_silently(&self, event: &Event) -> bool {
        match event {
            Event::Link(link) => !link.up && self.links.get(&link.index).is_some_and(|old| old.up),
            Event::LinkGone(index) => self.links.contains_key(index),
            Event::AddressGone(address) => self.sources.contains(&address.ip),
            Event::NextHopObject(id) => self.objects.contains(id),
            _ => false,
        }
    }

    fn remove_link(&mut self, index: u32) -> bool {
        self.addresses.retain(|address, _| address.link != index);
        self.neighbours.retain(|(link, _), _| *link != index);
        self.links.remove(&index).is_some()
    }

    /// One that is there keeps its place: the kernel tells of new lifetimes.
    fn add_address(&mut self, address: Address) -> bool {
        self.addresses_seen += 1;
        let before = self.addresses.len();
        self.addresses.entry(address).or_insert(self.addresses_seen);
        self.addresses.len() != before
    }

    /// The first IPv4 address of each link, with a host address only where
    /// there is no other.
    fn primaries4(&self) -> HashMap<u32, Ipv4Addr> {
        let mut first: HashMap<u32, (bool, u64, Ipv4Addr)> = HashMap::new();
        for (address, place) in &self.addresses {
            let IpAddr::V4(ip) = address.ip else { continue };
            let this = (address.prefix_len == 32, *place, ip);
            first.entry(address.link).and_modify(|least| *least = this.min(*least)).or_insert(this);
        }
        first.into_iter().map(|(link, (_, _, ip))| (link, ip)).collect()
    }

    fn add_route(&mut self, route: &Route, placement: Placement) -> bool {
        if is_noise(route.destination) {
            return false;
        }
        // The local route of every address has that address as its source, and
        // its end is announced: a VIP that is withdrawn costs no dump.
        self.sources.extend(route.source.filter(|_| route.table == Table::Main));
        self.objects.extend(route.object);
        self.gateways.extend(link_local_gateways(route));
        self.routes.add(route, placement)
    }

    fn remove_route(&mut self, route: &Route) -> bool {
        !is_noise(route.destination) && self.routes.remove(route)
    }

    fn set_neighbour(&mut self, neighbour: &Neighbour) -> bool {
        let key = (neighbour.link, neighbour.ip);
        let old = self.neighbours.insert(key, *neighbour).and_then(|old| old.usable_mac());
        old != neighbour.usable_mac() && self.matters(key.0, key.1)
    }

    /// Link-local addresses come and go with every host on the wire; only
    /// those of gateways are ever looked up.
    fn matters(&self, link: u32, ip: IpAddr) -> bool {
        !is_link_local(ip) || self.gateways.contains(&(link, ip))
    }

    fn answers_like(&self, other: &Self) -> bool {
        self.links == other.links
            && self.addresses.len() == other.addresses.len()
            && self.addresses.keys().all(|address| other.addresses.contains_key(address))
            && self.primaries4() == other.primaries4()
            && self.neighbour_map() == other.neighbour_map()
            && self.routes == other.routes
    }

    fn neighbour_map(&self) -> HashMap<(u32, IpAddr), [u8; 6]> {
        self.usable_neighbours().collect()
    }

    fn usable_neighbours(&self) -> impl Iterator<Item = ((u32, IpAddr), [u8; 6])> {
        let usable = self.neighbours.iter().filter(|((link, ip), _)| self.matters(*link, *ip));
        usable.filter_map(|(key, neighbour)| Some((*key, neighbour.usable_mac()?)))
    }
}

fn link_local_gateways(route: &Route) -> impl Iterator<Item = (u32, IpAddr)> {
    let gateways = route.hops.iter().filter_map(|hop| Some((hop.link, hop.gateway?)));
    gateways.filter(|(_, ip)| is_link_local(*ip))
}

/// What no route decides about: multicast (RFC 5771, RFC 4291 section 2.7), the
/// limited broadcast (RFC 919), link-local addresses (RFC 4291 section 2.5.6).
const EXCEPTIONS: [(IpAddr, u8, NoRoute); 4] = [
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, NoRoute::NotUnicast),
    (IpAddr::V4(Ipv4Addr::BROADCAST), 32, NoRoute::NotUnicast),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8, NoRoute::NotUnicast),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10, NoRoute::LinkLocal),
];

fn exception(destination: IpAddr) -> Option<NoRoute> {
    let covering = EXCEPTIONS.iter().find(|(ip, len, _)| covers(*ip, *len, destination));
    covering.map(|(_, _, reason)| *reason)
}

/// Routes to these are not followed; every link has some.
fn is_noise(destination: IpAddr) -> bool {
    destination.is_multicast() || is_link_local(destination)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => Ipv6Addr::is_unicast_link_local(&ip),
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
