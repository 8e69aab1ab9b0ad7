//! Virtual services and real servers as workers see them, and their counters.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crossbeam::utils::CachePadded;
use hashbrown::{HashMap, HashSet};

use crate::packet::headers::Addresses;
use crate::packet::{Family, Headers, Mac, Protocol};
use crate::scheduler::{Candidates, Scheduler, State};
use crate::time::{TICKS_PER_SECOND, Tick};

/// What a service is known by, and what a new connection's first packet is
/// matched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServiceKey {
    /// Protocol, vip and vport.
    Address {
        /// The protocol.
        protocol: Protocol,
        /// The virtual address.
        vip: IpAddr,
        /// The virtual port; 0 is every port that no other service has.
        vport: u16,
    },
    /// A mark that match rules give.
    Fwmark {
        /// The mark, not 0.
        mark: u32,
        /// The family of the packets.
        family: Family,
    },
}

impl ServiceKey {
    /// The virtual port; 0 where the service has packets to many.
    #[must_use]
    pub const fn vport(&self) -> u16 {
        match self {
            Self::Address { vport, .. } => *vport,
            Self::Fwmark { .. } => 0,
        }
    }

    /// The address family of clients.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::Address { vip: IpAddr::V4(_), .. } => Family::V4,
            Self::Address { vip: IpAddr::V6(_), .. } => Family::V6,
            Self::Fwmark { family, .. } => *family,
        }
    }
}

/// A virtual service.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// Its number, by which persistence templates know it. Not used again for
    /// another service.
    pub number: u32,
    /// How it chooses servers.
    pub scheduler: Scheduler,
    /// What the scheduler remembers. Shared by all workers and kept from
    /// snapshot to snapshot, so that rr and wrr are exact however connections
    /// spread over workers. Touched by new connections only.
    pub state: Arc<State>,
    /// Its servers, newest first, the order in which the kernel walks them.
    pub candidates: Candidates,
    /// Whether, and for how long, a client stays with its server.
    pub persistence: Option<Persistence>,
    /// Whether every packet is scheduled on its own and leaves no connection
    /// (UDP).
    pub one_packet: bool,
    /// The director's addresses that FULLNAT connections come from, IPv4 ones
    /// first.
    pub locals: Arc<[Local]>,
}

impl Service {
    /// The local addresses of a family.
    #[must_use]
    pub fn locals_of(&self, ipv4: bool) -> &[Local] {
        let (v4, v6) =
            self.locals.split_at(self.locals.partition_point(|local| local.address.is_ipv4()));
        if ipv4 { v4 } else { v6 }
    }
}

/// Persistence of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persistence {
    /// Life of a template after its last use, ticks.
    pub timeout: u32,
    /// Length of the client prefix that shares a template; 32 or 128 is one
    /// address.
    pub prefix: u8,
}

/// A local address of FULLNAT (dip).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Its number in [`crate::snapshot::Snapshot::locals`], which connections
    /// keep. Not used again for another address.
    pub number: u16,
    /// The address.
    pub address: IpAddr,
}

/// How a FULLNAT server is told the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAddress {
    /// Not at all.
    #[default]
    None,
    /// By a TCP option (TOA, kind 254).
    Toa,
    /// By a PROXY protocol header, version 2, in front of the client's data.
    Proxy,
}

/// The forwarding method of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Direct routing (`-g`, `Route`).
    Dr,
    /// Masquerading (`-m`, `Masq`).
    Nat,
    /// Tunnelling (`-i`, `Tunnel`).
    Tun(Encapsulation),
    /// Source and destination rewrite (`-b`, `FullNat`).
    Fullnat,
}

impl Method {
    /// Whether the server's packets pass the director, too.
    #[must_use]
    #[inline]
    pub const fn is_two_sided(self) -> bool {
        matches!(self, Self::Nat | Self::Fullnat)
    }
}

/// What stands between the outer IP header and the client's packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encapsulation {
    /// Nothing.
    Ipip,
    /// UDP and four bytes of GUE (draft-ietf-intarea-gue, variant 0), to the
    /// server's `port`.
    Gue {
        /// UDP destination port.
        port: u16,
        /// What is summed.
        checksum: GueChecksum,
    },
    /// GRE (RFC 2784), with its checksum or without.
    Gre {
        /// Whether there is a checksum (`--tun-csum`).
        checksum: bool,
    },
}

/// How the payload of GUE is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GueChecksum {
    /// `--tun-nocsum`: the UDP checksum is 0, under IPv6 too (RFC 6935).
    None,
    /// `--tun-csum`: the UDP checksum.
    Full,
    /// `--tun-remcsum`: the UDP checksum, and the server's is the work of
    /// summing the inner packet if the sender has not done it. The kernel
    /// leaves that to the server for packets only whose checksum its own host
    /// left to the NIC. A packet from a wire comes with its checksum, so on the
    /// wire this is the same as [`Self::Full`], in the kernel and here: a plain
    /// GUE header.
    Remote,
}

/// What gives a packet its mark: a packet that has all that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkRule {
    /// The mark, not 0.
    pub mark: u32,
    /// The protocol; any where there is none.
    pub protocol: Option<Protocol>,
    /// Prefix of the source.
    pub source: Option<(IpAddr, u8)>,
    /// Prefix of the destination.
    pub destination: Option<(IpAddr, u8)>,
    /// First and last destination port.
    pub ports: Option<(u16, u16)>,
    /// Index of the port that the packet came in by.
    pub ingress: Option<u8>,
}

impl MarkRule {
    fn matches(&self, headers: &Headers, ingress: u8) -> bool {
        let (source, destination) = endpoints(&headers.addresses);
        self.protocol.is_none_or(|p| p == headers.protocol)
            && self.ports.is_none_or(|(from, to)| (from..=to).contains(&headers.dst_port))
            && self.ingress.is_none_or(|port| port == ingress)
            && self.source.is_none_or(|prefix| contains(prefix, source))
            && self.destination.is_none_or(|prefix| contains(prefix, destination))
    }
}

/// Whether a prefix contains an address.
fn contains((prefix, len): (IpAddr, u8), address: IpAddr) -> bool {
    match (prefix, address) {
        (IpAddr::V4(prefix), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(len.min(32));
            (prefix.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(prefix), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(len.min(128));
            (prefix.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// All services, in the form that packets are matched with.
#[derive(Debug, Clone, Default)]
pub struct Services {
    by_key: HashMap<ServiceKey, Arc<Service>>,
    addresses: HashSet<IpAddr>,
    rules: Arc<[MarkRule]>,
}

impl Services {
    /// The services, and the rules that give packets their marks, the first
    /// that matches counting.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>, rules: Arc<[MarkRule]>) -> Self {
        let by_key: HashMap<_, _> = services.into_iter().map(|s| (s.key, s)).collect();
        let addresses = by_key.keys().filter_map(|key| match key {
            ServiceKey::Address { vip, .. } => Some(*vip),
            ServiceKey::Fwmark { .. } => None,
        });
        Self { addresses: addresses.collect(), by_key, rules }
    }

    /// A service by its name.
    #[must_use]
    pub fn get(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    /// The service of a packet that came in by a port: by its mark, then by
    /// address and port, then by address for every port (the kernel's order).
    #[must_use]
    pub fn find(&self, headers: &Headers, ingress: u8) -> Option<&Arc<Service>> {
        if let Some(rule) = self.rules.iter().find(|rule| rule.matches(headers, ingress)) {
            let key = ServiceKey::Fwmark { mark: rule.mark, family: headers.family() };
            if let Some(service) = self.by_key.get(&key) {
                return Some(service);
            }
        }
        let (_, vip) = endpoints(&headers.addresses);
        let Headers { protocol, dst_port, .. } = *headers;
        let of_port = |vport| self.by_key.get(&ServiceKey::Address { protocol, vip, vport });
        of_port(dst_port).or_else(|| of_port(0))
    }

    /// Whether packets to an address may be a service's, by the address alone.
    #[must_use]
    pub fn may_have(&self, destination: IpAddr) -> bool {
        !self.rules.is_empty() || self.addresses.contains(&destination)
    }
}

/// Source and destination as addresses of the standard library.
#[must_use]
pub fn endpoints(addresses: &Addresses) -> (IpAddr, IpAddr) {
    match addresses {
        Addresses::V4 { src, dst } => (IpAddr::V4((*src).into()), IpAddr::V4((*dst).into())),
        Addresses::V6 { src, dst } => (IpAddr::V6((*src).into()), IpAddr::V6((*dst).into())),
    }
}

/// The NAT services whose servers' packets are replies to be translated, by
/// the source of such packets.
#[derive(Debug, Clone, Default)]
pub struct NatSources {
    by_source: HashMap<(Protocol, IpAddr, u16), Vec<NatSource>>,
    addresses: HashSet<IpAddr>,
}

/// Whose replies packets from a NAT server may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatSource {
    /// Of connections to this address and port. Port 0: the port that the
    /// reply comes from.
    Of(IpAddr, u16),
    /// Of connections of a fwmark service, to any address.
    Marked,
}

impl NatSources {
    /// No servers.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a NAT server of a service. `protocol` is that of its packets: a
    /// fwmark service is added once for each.
    pub fn add(&mut self, protocol: Protocol, server: SocketAddr, source: NatSource) {
        self.addresses.insert(server.ip());
        let list = self.by_source.entry((protocol, server.ip(), server.port())).or_default();
        if !list.contains(&source) {
            list.push(source);
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_source.is_empty()
    }

    /// Whether packets from an address may be replies, whatever their ports.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// The services whose replies packets from this address and port may be.
    pub fn of(
        &self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    ) -> impl Iterator<Item = NatSource> {
        let list =
            |port| self.by_source.get(&(protocol, address, port)).map_or(&[][..], Vec::as_slice);
        list(port).iter().chain(list(0)).copied()
    }
}

/// The source address.
#[must_use]
pub fn source(addresses: &Addresses) -> IpAddr {
    match addresses {
        Addresses::V4 { src, .. } => IpAddr::V4((*src).into()),
        Addresses::V6 { src, .. } => IpAddr::V6((*src).into()),
    }
}

/// A real server of one service.
#[derive(Debug, Clone)]
pub struct Server {
    /// rip and rport. Port 0: the packet keeps its own.
    pub address: SocketAddr,
    /// How it gets its packets.
    pub method: Method,
    /// How its packets leave.
    pub hop: Hop,
    /// Its share of new connections; 0 takes none.
    pub weight: u32,
    /// Whether it was deleted while connections to it exist. Their packets are
    /// dropped (the kernel's `expire_nodest_conn=0`); adding the server again
    /// revives them.
    pub deleted: bool,
    /// How it learns clients' addresses (FULLNAT).
    pub client_address: ClientAddress,
    /// The most that the MSS option of its connections may say, bytes.
    pub mss: Option<u16>,
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
    /// What was learnt of the path MTU to the server (tunnels): bytes in the
    /// upper half, the tick at which it is forgotten in the lower. 0 is nothing.
    path_mtu: AtomicU64,
}

/// How many connections a server has, exact over all workers, and whether they
/// are too many: shared, and touched when a connection opens, closes or changes
/// its state only.
///
/// A server is overloaded from its upper threshold on, until it is below the
/// lower one or, where that is 0, below three quarters of the upper one. The
/// flag keeps what happened in between; workers that open and close at the same
/// time may leave it wrong there, but never below the lower or above the upper
/// threshold, where the counts alone decide.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Active connections in the upper half, inactive ones in the lower.
    counts: AtomicU64,
    /// The upper threshold in the upper half, the lower one in the lower.
    thresholds: AtomicU64,
    overloaded: AtomicBool,
    /// Persistence templates.
    templates: AtomicU32,
}

/// What one worker forwarded to a server. Written by that worker alone, so an
/// addition is a plain load and store.
#[derive(Debug, Default)]
struct Traffic {
    connections: AtomicU64,
    in_packets: AtomicU64,
    in_bytes: AtomicU64,
    out_packets: AtomicU64,
    out_bytes: AtomicU64,
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
    /// Packets from the server that passed the director (NAT, FULLNAT).
    pub out_packets: u64,
    /// Their IP lengths, bytes.
    pub out_bytes: u64,
}

impl ServerCounts {
    /// Counters at zero for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            connections: CachePadded::default(),
            traffic: (0..workers).map(|_| CachePadded::default()).collect(),
            path_mtu: AtomicU64::new(0),
        }
    }

    /// Counts a packet of the server that `worker` forwards.
    #[inline]
    pub fn reply(&self, worker: usize, bytes: u64) {
        let traffic = &self.traffic[worker];
        add(&traffic.out_packets, 1);
        add(&traffic.out_bytes, bytes);
    }

    /// Counts a packet of a client that `worker` forwards.
    #[inline]
    pub fn packet(&self, worker: usize, bytes: u64) {
        let traffic = &self.traffic[worker];
        add(&traffic.in_packets, 1);
        add(&traffic.in_bytes, bytes);
    }

    /// The path MTU to the server as far as it was learnt, bytes.
    #[must_use]
    #[inline]
    pub fn path_mtu(&self, now: Tick) -> Option<u16> {
        let learnt = self.path_mtu.load(Ordering::Relaxed);
        (learnt != 0 && now.0 < learnt as u32).then_some((learnt >> 32) as u16)
    }

    /// Takes note of what a router says about the path MTU to the server, and
    /// gives what is believed of it. Less than the kernel believes
    /// (`net.ipv4.route.min_pmtu`; the least of IPv6) is taken for that: a
    /// forged error would otherwise multiply packets. It is forgotten after
    /// `net.ipv4.route.mtu_expires`, ten minutes.
    pub fn learn_path_mtu(&self, now: Tick, mtu: u32, ipv4: bool) -> u16 {
        const LEAST: (u32, u32) = (552, 1280);
        const SECONDS: u32 = 600;
        let least = if ipv4 { LEAST.0 } else { LEAST.1 };
        let mtu = mtu.clamp(least, u16::MAX.into());
        // As in the kernel, it only ever gets less before it is forgotten.
        let mtu = self.path_mtu(now).map_or(mtu, |known| mtu.min(known.into()));
        let until = now.plus(SECONDS * TICKS_PER_SECOND);
        self.path_mtu.store((u64::from(mtu) << 32) | u64::from(until.0), Ordering::Relaxed);
        mtu as u16
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
            out_packets: sum.out_packets + t.out_packets.load(Ordering::Relaxed),
            out_bytes: sum.out_bytes + t.out_bytes.load(Ordering::Relaxed),
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
        let one = one(active);
        self.judge(self.counts.fetch_add(one, Ordering::Relaxed).wrapping_add(one));
    }

    /// A connection ends.
    pub fn close(&self, active: bool) {
        let one = one(active);
        self.judge(self.counts.fetch_sub(one, Ordering::Relaxed).wrapping_sub(one));
    }

    /// A connection changes its kind.
    pub fn change(&self, from_active: bool, to_active: bool) {
        if from_active != to_active {
            let difference = one(to_active).wrapping_sub(one(from_active));
            self.counts.fetch_add(difference, Ordering::Relaxed);
        }
    }

    /// A persistence template names the server.
    pub fn add_template(&self) {
        self.templates.fetch_add(1, Ordering::Relaxed);
    }

    /// It does no longer.
    pub fn remove_template(&self) {
        self.templates.fetch_sub(1, Ordering::Relaxed);
    }

    /// Persistence templates that name the server.
    #[must_use]
    pub fn templates(&self) -> u32 {
        self.templates.load(Ordering::Relaxed)
    }

    /// Active and inactive connections.
    #[must_use]
    pub fn read(&self) -> (u32, u32) {
        halves(self.counts.load(Ordering::Relaxed))
    }

    /// Sets how many connections are too many, active and inactive ones
    /// together; an upper threshold of 0 is no limit. More room ends an
    /// overload, as in the kernel.
    pub fn set_thresholds(&self, upper: u32, lower: u32) {
        let new = (u64::from(upper) << 32) | u64::from(lower);
        let (old_upper, _) = halves(self.thresholds.swap(new, Ordering::Relaxed));
        if upper == 0 || upper > old_upper {
            self.overloaded.store(false, Ordering::Relaxed);
        }
        self.judge(self.counts.load(Ordering::Relaxed));
    }

    /// Whether the server is to get no more connections.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        match self.verdict(self.counts.load(Ordering::Relaxed)) {
            Some(overloaded) => overloaded,
            None => self.overloaded.load(Ordering::Relaxed),
        }
    }

    /// Keeps what the counts say, for when they will be between the thresholds.
    fn judge(&self, counts: u64) {
        if let Some(overloaded) = self.verdict(counts) {
            if self.overloaded.load(Ordering::Relaxed) != overloaded {
                self.overloaded.store(overloaded, Ordering::Relaxed);
            }
        }
    }

    /// Whether so many connections are too many. `None` between the thresholds.
    fn verdict(&self, counts: u64) -> Option<bool> {
        let (upper, lower) = halves(self.thresholds.load(Ordering::Relaxed));
        if upper == 0 {
            return Some(false);
        }
        let (active, inactive) = halves(counts);
        let total = u64::from(active) + u64::from(inactive);
        if total >= u64::from(upper) {
            return Some(true);
        }
        let is_below = match lower {
            0 => total * 4 < u64::from(upper) * 3,
            lower => total < u64::from(lower),
        };
        is_below.then_some(false)
    }
}

/// One connection in [`ConnectionCounts::counts`].
const fn one(active: bool) -> u64 {
    if active { 1 << 32 } else { 1 }
}

const fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
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
        counts.reply(1, 1500);
        let totals = TrafficTotals {
            connections: 1,
            in_packets: 2,
            in_bytes: 100,
            out_packets: 1,
            out_bytes: 1500,
        };
        assert_eq!(counts.totals(), totals);
    }

    #[test]
    fn a_path_mtu_gets_less_until_it_is_forgotten() {
        let counts = ServerCounts::new(1);
        let learn = |now, mtu| counts.learn_path_mtu(Tick(now), mtu, true);
        assert_eq!([learn(8, 1400), learn(9, 65_535), learn(10, 1300)], [1400, 1400, 1300]);
        assert_eq!(counts.path_mtu(Tick(11)), Some(1300));
        assert_eq!(learn(10 + 600 * TICKS_PER_SECOND, 1450), 1450);
    }

    #[test]
    fn prefixes_contain_their_addresses() {
        let contains = |prefix: &str, len, address: &str| {
            contains((prefix.parse().unwrap(), len), address.parse().unwrap())
        };
        assert!(contains("10.1.2.3", 8, "10.9.9.9") && !contains("10.1.2.3", 8, "11.1.2.3"));
        assert!(contains("0.0.0.0", 0, "255.255.255.255"));
        assert!(contains("10.1.2.3", 32, "10.1.2.3") && !contains("10.1.2.3", 32, "10.1.2.2"));
        assert!(contains("fd00::", 64, "fd00::1") && !contains("fd00::", 64, "fd00:0:0:1::1"));
        assert!(contains("::", 0, "fd00::1") && !contains("::", 0, "10.0.0.1"));
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

    fn set_total(counts: &ConnectionCounts, total: u32) {
        loop {
            let (active, inactive) = counts.read();
            match (active + inactive).cmp(&total) {
                std::cmp::Ordering::Less => counts.open(total % 2 == 0),
                std::cmp::Ordering::Equal => return,
                std::cmp::Ordering::Greater => counts.close(active > 0),
            }
        }
    }

    #[test]
    fn a_server_is_overloaded_from_the_upper_to_the_lower_threshold() {
        let counts = ConnectionCounts::default();
        set_total(&counts, 1_000);
        assert!(!counts.is_overloaded(), "there is no threshold");
        set_total(&counts, 0);
        // Below the lower one, or below 3/4 of 10, which is 7.5, or of 8, 6.
        for (upper, lower, last) in [(10, 4, 4), (10, 0, 8), (8, 0, 6), (5, 5, 5), (1, 0, 1)] {
            counts.set_thresholds(upper, lower);
            for total in 0..upper {
                set_total(&counts, total);
                assert!(!counts.is_overloaded(), "{total} of {upper}, {lower} on the way up");
            }
            for total in (last..=upper + 2).rev() {
                set_total(&counts, upper.max(total));
                set_total(&counts, total);
                assert!(counts.is_overloaded(), "{total} of {upper}, {lower} on the way down");
            }
            set_total(&counts, last - 1);
            assert!(!counts.is_overloaded(), "{upper}, {lower}");
            set_total(&counts, last.min(upper - 1));
            assert!(!counts.is_overloaded(), "{upper}, {lower} on the way up again");
            set_total(&counts, 0);
        }
    }

    #[test]
    fn a_change_of_kind_is_no_new_connection() {
        let counts = ConnectionCounts::default();
        counts.set_thresholds(3, 1);
        counts.open(true);
        counts.open(true);
        counts.change(true, false);
        assert_eq!((counts.read(), counts.is_overloaded()), ((1, 1), false));
        counts.open(true);
        counts.change(true, false);
        assert_eq!((counts.read(), counts.is_overloaded()), ((1, 2), true));
    }

    #[test]
    fn new_thresholds_apply_at_once() {
        let counts = ConnectionCounts::default();
        set_total(&counts, 9);
        counts.set_thresholds(9, 5);
        assert!(counts.is_overloaded());
        counts.set_thresholds(10, 5);
        assert!(!counts.is_overloaded(), "more room");
        counts.open(true);
        assert!(counts.is_overloaded());
        counts.close(true);
        counts.set_thresholds(10, 6);
        assert!(counts.is_overloaded(), "no more room than before");
        counts.set_thresholds(0, 0);
        assert!(!counts.is_overloaded());
        counts.set_thresholds(20, 0);
        assert!(!counts.is_overloaded(), "the overload before is forgotten");
    }

    #[test]
    fn counts_are_exact_over_several_workers() {
        let counts = ConnectionCounts::default();
        counts.set_thresholds(50, 10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..5_000 {
                        counts.open(true);
                        counts.open(false);
                        counts.change(true, false);
                        if i >= 3 {
                            counts.close(false);
                            counts.close(false);
                        }
                    }
                });
            }
        });
        assert_eq!(counts.read(), (0, 24));
        set_total(&counts, 9);
        assert!(!counts.is_overloaded());
        set_total(&counts, 50);
        assert!(counts.is_overloaded());
    }
}
