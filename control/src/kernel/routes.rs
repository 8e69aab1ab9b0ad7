//! The routing table: longest prefix match in the kernel's order.
//!
//! One hash map per prefix length: a full BGP table (a million IPv4 routes)
//! takes about 120 MB, a look-up at most one probe per length in use. Look-ups
//! happen when a snapshot is built, never per packet. For packets the table is
//! flattened: see [`RouteTable::sweep4`] and `dataplane::fib`.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use super::event::{NextHop, Placement, Route, RouteKind, Table};

/// The routes of both families.
#[derive(Debug, PartialEq)]
pub(super) struct RouteTable {
    /// `main` and `local` together: the kernel keeps both in one trie until
    /// the first policy rule is added, so a longer prefix in `main` wins over
    /// a shorter one in `local`.
    v4: PrefixMap<u32>,
    /// IPv6 searches `local` first and `main` only if that had nothing.
    v6_local: PrefixMap<u128>,
    v6_main: PrefixMap<u128>,
}

impl RouteTable {
    pub(super) fn new() -> Self {
        Self { v4: PrefixMap::new(32), v6_local: PrefixMap::new(128), v6_main: PrefixMap::new(128) }
    }

    /// Adds or replaces; says whether anything changed.
    pub(super) fn add(&mut self, route: &Route, placement: Placement) -> bool {
        match route.destination {
            IpAddr::V4(ip) => {
                let routes = self.v4.at(route.prefix_len, mask4(ip.to_bits(), route.prefix_len));
                add_v4(routes, Entry::new(route), placement)
            }
            IpAddr::V6(ip) => {
                let key = mask6(ip.to_bits(), route.prefix_len);
                let routes = self.v6(route.table).at(route.prefix_len, key);
                add_v6(routes, route, placement)
            }
        }
    }

    /// Removes; says whether there was anything to remove.
    pub(super) fn remove(&mut self, route: &Route) -> bool {
        match route.destination {
            IpAddr::V4(ip) => {
                let key = mask4(ip.to_bits(), route.prefix_len);
                let gone = Entry::new(route);
                self.v4.retain(route.prefix_len, key, |entry| !entry.same_route(&gone))
            }
            IpAddr::V6(ip) => {
                let key = mask6(ip.to_bits(), route.prefix_len);
                let gone = v6_entries(route);
                self.v6(route.table).retain(route.prefix_len, key, |entry| {
                    !gone.iter().any(|gone| entry.same_route(gone))
                })
            }
        }
    }

    /// Shows `visit` the routes that match, best first, until it decides.
    pub(super) fn find<T>(
        &self,
        destination: IpAddr,
        mut visit: impl FnMut(&Entry) -> Option<T>,
    ) -> Option<T> {
        match destination {
            IpAddr::V4(ip) => self.v4.find(|len| mask4(ip.to_bits(), len), &mut visit),
            IpAddr::V6(ip) => {
                let key = |len| mask6(ip.to_bits(), len);
                self.v6_local.find(key, &mut visit).or_else(|| self.v6_main.find(key, &mut visit))
            }
        }
    }

    /// Shows `visit` all IPv4 addresses, range by range: the first of each
    /// range, and the routes that match in it. `marks` are prefixes that begin
    /// and end a range though no route has them.
    pub(super) fn sweep4(&self, marks: &[(u32, u8)], mut visit: impl FnMut(u32, &Matching<'_>)) {
        let mut prefixes = self.v4.prefixes(32, Table::Main);
        prefixes.extend(marks.iter().map(|&(ip, len)| Prefix::new(ip.into(), len, 32)));
        sweep(prefixes, u32::MAX.into(), |start, matching| visit(start as u32, matching));
    }

    /// The same for IPv6.
    pub(super) fn sweep6(&self, marks: &[(u128, u8)], visit: impl FnMut(u128, &Matching<'_>)) {
        let mut prefixes = self.v6_local.prefixes(128, Table::Local);
        prefixes.extend(self.v6_main.prefixes(128, Table::Main));
        prefixes.extend(marks.iter().map(|&(ip, len)| Prefix::new(ip, len, 128)));
        sweep(prefixes, u128::MAX, visit);
    }

    /// See [`super::Mirror::routes_after`].
    pub(super) fn after(
        &self,
        after: Option<(IpAddr, u8)>,
        prefixes: usize,
    ) -> (Vec<ListedRoute<'_>>, bool) {
        let mut keys = Vec::new();
        let (mut start4, mut start6) = (None, None);
        match after {
            Some((IpAddr::V4(ip), len)) => start4 = Some((len, ip.to_bits())),
            Some((IpAddr::V6(ip), len)) => start6 = Some((len, ip.to_bits())),
            None => {}
        }
        // One more tells whether there are more.
        let wanted = prefixes.saturating_add(1);
        if start6.is_none() {
            let found = self.v4.after(start4, wanted);
            keys.extend(found.into_iter().map(|(len, ip)| (IpAddr::V4(ip.into()), len)));
        }
        let mut found = self.v6_local.after(start6, wanted);
        found.extend(self.v6_main.after(start6, wanted));
        found.sort_unstable();
        found.dedup();
        keys.extend(found.into_iter().map(|(len, ip)| (IpAddr::V6(ip.into()), len)));
        let more = keys.len() > prefixes;
        let rows = keys.into_iter().take(prefixes).flat_map(|(ip, len)| {
            self.at(ip, len).map(move |entry| ListedRoute {
                destination: ip,
                prefix_len: len,
                kind: entry.kind,
                metric: entry.metric,
                mtu: entry.mtu,
                hops: entry.hops(),
            })
        });
        (rows.collect(), more)
    }

    /// The routes of one prefix.
    fn at(&self, ip: IpAddr, len: u8) -> impl Iterator<Item = &Entry> {
        let tables = match ip {
            IpAddr::V4(ip) => [self.v4.get(len, ip.to_bits()), &[]],
            IpAddr::V6(ip) => {
                [self.v6_local.get(len, ip.to_bits()), self.v6_main.get(len, ip.to_bits())]
            }
        };
        tables.into_iter().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6_local.len() + self.v6_main.len()
    }

    fn v6(&mut self, table: Table) -> &mut PrefixMap<u128> {
        match table {
            Table::Local => &mut self.v6_local,
            Table::Main => &mut self.v6_main,
        }
    }
}

/// A route in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedRoute<'a> {
    /// First address of the network.
    pub destination: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
    /// What it does.
    pub kind: RouteKind,
    /// The priority; the lowest wins.
    pub metric: u32,
    /// The path MTU set on the route, 0 for none.
    pub mtu: u32,
    /// The next hops.
    pub hops: &'a [NextHop],
}

/// A route without its prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    hops: Hops,
    metric: u32,
    pub(super) mtu: u32,
    table: Table,
    pub(super) kind: RouteKind,
}

impl Entry {
    fn new(route: &Route) -> Self {
        Self::with_hops(route, Hops::from_slice(&route.hops))
    }

    fn with_hops(route: &Route, hops: Hops) -> Self {
        Self { hops, metric: route.metric, mtu: route.mtu, table: route.table, kind: route.kind }
    }

    pub(super) fn hops(&self) -> &[NextHop] {
        match &self.hops {
            Hops::One(hop) => std::slice::from_ref(hop),
            Hops::Many(hops) => hops,
        }
    }

    /// The order among routes of one prefix.
    fn rank(&self) -> (Table, u32) {
        (self.table, self.metric)
    }

    fn same_route(&self, other: &Self) -> bool {
        self.rank() == other.rank() && self.kind == other.kind && self.hops == other.hops
    }

    /// IPv6 groups next hops with a gateway of one metric into a multipath
    /// route, and keeps those without apart.
    fn joins_multipath(&self) -> bool {
        self.hops().iter().any(|hop| hop.gateway.is_some())
    }
}

/// Nearly every route has one hop, which needs no allocation of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hops {
    One(NextHop),
    Many(Box<[NextHop]>),
}

impl Hops {
    fn from_slice(hops: &[NextHop]) -> Self {
        match hops {
            [hop] => Self::One(*hop),
            hops => Self::Many(hops.into()),
        }
    }
}

/// IPv4 keeps a multipath route as one entry; a replacement takes the place of
/// the first entry of its metric.
fn add_v4(routes: &mut Vec<Entry>, new: Entry, placement: Placement) -> bool {
    let first = routes.partition_point(|entry| entry.rank() < new.rank());
    let end = routes.partition_point(|entry| entry.rank() <= new.rank());
    if placement == Placement::Replace && first < end {
        let changed = routes[first] != new;
        routes[first] = new;
        return changed;
    }
    if let Some(old) = routes[first..end].iter_mut().find(|entry| entry.same_route(&new)) {
        let changed = *old != new;
        *old = new;
        return changed;
    }
    let place = if placement == Placement::First { first } else { end };
    insert(routes, place, new);
    true
}

/// IPv6 keeps each next hop as an entry of its own: the kernel's messages add
/// to and take from a multipath route hop by hop.
fn add_v6(routes: &mut Vec<Entry>, route: &Route, placement: Placement) -> bool {
    let before = (placement == Placement::Replace).then(|| routes.clone());
    if before.is_some() {
        make_room_v6(routes, route);
    }
    let mut changed = false;
    for new in v6_entries(route) {
        changed |= add_v4(routes, new, Placement::Last);
    }
    before.map_or(changed, |before| before != *routes)
}

/// Removes what an IPv6 replacement replaces: the whole multipath route if the
/// new one can be part of one, else one route without a gateway; and where
/// there is none of the same sort, the first of that metric.
fn make_room_v6(routes: &mut Vec<Entry>, route: &Route) {
    let joins = route.hops.iter().any(|hop| hop.gateway.is_some());
    let of_metric = |entry: &Entry| entry.metric == route.metric;
    let same_sort = |entry: &Entry| of_metric(entry) && entry.joins_multipath() == joins;
    let Some(first) =
        routes.iter().position(same_sort).or_else(|| routes.iter().position(of_metric))
    else {
        return;
    };
    let all = joins && routes[first].joins_multipath();
    if all {
        routes.retain(|entry| !same_sort(entry));
    } else {
        routes.remove(first);
    }
}

fn v6_entries(route: &Route) -> Vec<Entry> {
    if route.hops.is_empty() {
        return vec![Entry::new(route)];
    }
    route.hops.iter().map(|hop| Entry::with_hops(route, Hops::One(*hop))).collect()
}

/// A `Vec` starts with room for four; nearly every prefix has one route.
fn insert(routes: &mut Vec<Entry>, place: usize, new: Entry) {
    if routes.is_empty() {
        routes.reserve_exact(1);
    }
    routes.insert(place, new);
}

#[derive(Debug, PartialEq)]
struct PrefixMap<K: Eq + Hash> {
    by_length: Vec<HashMap<K, Vec<Entry>>>,
}

impl<K: Eq + Hash + Copy + Into<u128>> PrefixMap<K> {
    /// All prefixes, in no order; `table` is the one that they are searched
    /// with.
    fn prefixes(&self, bits: u8, table: Table) -> Vec<Prefix<'_>> {
        let mut prefixes = Vec::with_capacity(self.by_length.iter().map(HashMap::len).sum());
        for (len, map) in (0..=bits).zip(&self.by_length) {
            prefixes.extend(map.iter().map(|(key, routes)| Prefix {
                table,
                routes,
                ..Prefix::new((*key).into(), len, bits)
            }));
        }
        prefixes
    }
}

impl<K: Eq + Hash + Copy + Ord> PrefixMap<K> {
    /// The first prefixes after one, by length and address.
    fn after(&self, after: Option<(u8, K)>, wanted: usize) -> Vec<(u8, K)> {
        let mut found = Vec::new();
        for (len, map) in (0..=u8::MAX).zip(&self.by_length) {
            if found.len() >= wanted {
                break;
            }
            let behind = |key: &K| after.is_none_or(|after| (len, *key) > after);
            let mut keys: Vec<K> = map.keys().copied().filter(behind).collect();
            let room = wanted - found.len();
            if keys.len() > room {
                keys.select_nth_unstable(room);
                keys.truncate(room);
            }
            keys.sort_unstable();
            found.extend(keys.into_iter().map(|key| (len, key)));
        }
        found
    }

    fn get(&self, len: u8, key: K) -> &[Entry] {
        self.by_length
            .get(usize::from(len))
            .and_then(|map| map.get(&key))
            .map_or(&[], Vec::as_slice)
    }
}

impl<K: Eq + Hash> PrefixMap<K> {
    fn new(bits: u8) -> Self {
        Self { by_length: (0..=bits).map(|_| HashMap::new()).collect() }
    }

    fn at(&mut self, len: u8, key: K) -> &mut Vec<Entry> {
        self.by_length[usize::from(len)].entry(key).or_default()
    }

    fn retain(&mut self, len: u8, key: K, keep: impl Fn(&Entry) -> bool) -> bool {
        let map = &mut self.by_length[usize::from(len)];
        let Some(routes) = map.get_mut(&key) else { return false };
        let before = routes.len();
        routes.retain(keep);
        let changed = routes.len() != before;
        if routes.is_empty() {
            map.remove(&key);
        }
        changed
    }

    fn find<T>(
        &self,
        key: impl Fn(u8) -> K,
        visit: &mut impl FnMut(&Entry) -> Option<T>,
    ) -> Option<T> {
        let lengths = (0..=u8::MAX).zip(&self.by_length).rev();
        lengths
            .filter(|(_, map)| !map.is_empty())
            .filter_map(|(len, map)| map.get(&key(len)))
            .flatten()
            .find_map(visit)
    }

    fn len(&self) -> usize {
        self.by_length.iter().flat_map(HashMap::values).map(Vec::len).sum()
    }
}

/// A prefix in a sweep. IPv4 addresses are numbers below 2^32.
#[derive(Debug, Clone, Copy)]
struct Prefix<'a> {
    start: u128,
    last: u128,
    table: Table,
    routes: &'a [Entry],
}

impl Prefix<'_> {
    /// One without routes.
    fn new(start: u128, len: u8, bits: u8) -> Self {
        let size = u32::from(bits.saturating_sub(len));
        let last = start | !u128::MAX.checked_shl(size).unwrap_or(0);
        Self { start, last, table: Table::Main, routes: &[] }
    }
}

/// The prefixes that cover a range: each lies within the one before it.
#[derive(Debug)]
pub(super) struct Matching<'a>(Vec<Prefix<'a>>);

impl Matching<'_> {
    /// As [`RouteTable::find`], in the same order.
    pub(super) fn find<T>(&self, mut visit: impl FnMut(&Entry) -> Option<T>) -> Option<T> {
        let of = |table| self.0.iter().rev().filter(move |prefix| prefix.table == table);
        of(Table::Local)
            .chain(of(Table::Main))
            .flat_map(|prefix| prefix.routes)
            .find_map(&mut visit)
    }
}

/// Goes from one place where a prefix begins or ends to the next, from address
/// 0 to the `last`. Prefixes are disjoint or one lies within the other, so that
/// a stack holds those that cover the present place.
fn sweep(mut prefixes: Vec<Prefix<'_>>, last: u128, mut visit: impl FnMut(u128, &Matching<'_>)) {
    // Of those that begin together, the longer ones lie within the shorter.
    prefixes.sort_unstable_by_key(|prefix| (prefix.start, !prefix.last, prefix.table));
    let mut coming = prefixes.into_iter().peekable();
    let mut matching = Matching(Vec::new());
    let mut place = Some(0);
    while let Some(start) = place {
        while matching.0.last().is_some_and(|prefix| prefix.last < start) {
            matching.0.pop();
        }
        while let Some(prefix) = coming.next_if(|prefix| prefix.start == start) {
            matching.0.push(prefix);
        }
        visit(start, &matching);
        let begins = coming.peek().map(|prefix| prefix.start);
        let ends = matching.0.last().map(|prefix| prefix.last).filter(|end| *end < last);
        let ends = ends.map(|end| end + 1);
        place = [begins, ends].into_iter().flatten().min();
    }
}

/// Whether an address is in a prefix.
pub(super) fn covers(prefix: IpAddr, len: u8, ip: IpAddr) -> bool {
    match (prefix, ip) {
        (IpAddr::V4(prefix), IpAddr::V4(ip)) => mask4(ip.to_bits(), len) == prefix.to_bits(),
        (IpAddr::V6(prefix), IpAddr::V6(ip)) => mask6(ip.to_bits(), len) == prefix.to_bits(),
        _ => false,
    }
}

fn mask4(bits: u32, len: u8) -> u32 {
    bits & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn mask6(bits: u128, len: u8) -> u128 {
    bits & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}
