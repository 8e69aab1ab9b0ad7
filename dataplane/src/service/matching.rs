//! Which service a packet is for, and whose reply it may be.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Service, ServiceKey};
use crate::packet::headers::Addresses;
use crate::packet::{Headers, Protocol};
use crate::shared::Map;

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
    by_key: Map<ServiceKey, Arc<Service>>,
    /// Virtual addresses, with the number of services on each.
    addresses: Map<IpAddr, u32>,
    rules: Arc<[MarkRule]>,
}

impl Services {
    /// The services, and the rules that give packets their marks, the first
    /// that matches counting.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>, rules: Arc<[MarkRule]>) -> Self {
        let mut all = Self { rules, ..Self::default() };
        services.into_iter().for_each(|service| all.put(service));
        all
    }

    /// Replaces the rules.
    pub fn set_rules(&mut self, rules: Arc<[MarkRule]>) {
        self.rules = rules;
    }

    /// Adds a service, in the place of the one of its name if there is one.
    pub fn put(&mut self, service: Arc<Service>) {
        let key = service.key;
        if self.by_key.get(&key).is_none() {
            if let ServiceKey::Address { vip, .. } = key {
                *self.addresses.entry(vip, || 0) += 1;
            }
        }
        self.by_key.insert(key, service);
    }

    /// Removes the service of a name, if there is one.
    pub fn remove(&mut self, key: &ServiceKey) {
        let (Some(_), ServiceKey::Address { vip, .. }) = (self.by_key.remove(key), key) else {
            return;
        };
        let services = self.addresses.entry(*vip, || 1);
        *services -= 1;
        if *services == 0 {
            self.addresses.remove(vip);
        }
    }

    /// The services by name.
    #[must_use]
    pub const fn by_key(&self) -> &Map<ServiceKey, Arc<Service>> {
        &self.by_key
    }

    /// A service by its name.
    #[must_use]
    pub fn get(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.by_key.get(key)
    }

    /// The service of a packet that came in by a port: by its mark, then by
    /// address and port, then by address for every port (the kernel's order).
    #[must_use]
    pub fn find(&self, headers: &Headers, ingress: u8) -> Option<&Service> {
        if let Some(rule) = self.rules.iter().find(|rule| rule.matches(headers, ingress)) {
            let key = ServiceKey::Fwmark { mark: rule.mark, family: headers.family() };
            if let Some(service) = self.by_key.get(&key) {
                return Some(&**service);
            }
        }
        let (_, vip) = endpoints(&headers.addresses);
        self.find_at(headers.protocol, vip, headers.dst_port)
    }

    /// The service at an address and port.
    fn find_at(&self, protocol: Protocol, vip: IpAddr, port: u16) -> Option<&Service> {
        let of_port = |vport| self.by_key.get(&ServiceKey::Address { protocol, vip, vport });
        of_port(port).or_else(|| of_port(0)).map(Arc::as_ref)
    }

    /// The service of plain packets, of one after another, where it takes no
    /// more than a turn of its scheduler to choose a server: no marks, no
    /// templates, a connection for each client's port. `destination` is of the
    /// packet's key; the service of the last one is remembered.
    #[must_use]
    #[inline(always)]
    pub(crate) fn find_plain<'a>(
        &'a self,
        last: &mut LastPlain<'a>,
        destination: [u64; 3],
        of: impl FnOnce() -> (Protocol, IpAddr, u16),
    ) -> Option<&'a Service> {
        // All words at once, as keys are compared.
        let ([a, b, c], [d, e, f]) = (last.destination, destination);
        if (a ^ d) | (b ^ e) | (c ^ f) != 0 {
            let (protocol, vip, port) = of();
            *last = LastPlain { destination, service: self.find_if_plain(protocol, vip, port) };
        }
        last.service
    }

    #[inline(never)]
    fn find_if_plain(&self, protocol: Protocol, vip: IpAddr, port: u16) -> Option<&Service> {
        let service = self.find_at(protocol, vip, port).filter(|_| self.rules.is_empty())?;
        let is_plain = service.persistence.is_none() && !service.one_packet;
        is_plain.then_some(service)
    }

    /// The same for one packet after another, most of them for one service: it
    /// is remembered in `last`.
    #[must_use]
    #[inline(always)]
    pub fn find_after<'a>(
        &'a self,
        last: &mut Option<Last<'a>>,
        headers: &Headers,
        ingress: u8,
    ) -> Option<&'a Service> {
        if !self.rules.is_empty() {
            return self.find(headers, ingress);
        }
        let (vip, family) = match headers.addresses {
            Addresses::V4 { dst, .. } => (dst.into(), 4),
            Addresses::V6 { dst, .. } => (u128::from_ne_bytes(dst), 6),
        };
        let rest = u32::from(headers.dst_port) << 16 | (headers.protocol as u32) << 8 | family;
        match *last {
            Some(last) if last.destination == (vip, rest) => Some(last.service),
            _ => {
                let service = self.find(headers, ingress)?;
                *last = Some(Last { destination: (vip, rest), service });
                Some(service)
            }
        }
    }

    /// Whether packets to an address may be a service's, by the address alone.
    #[must_use]
    pub fn may_have(&self, destination: IpAddr) -> bool {
        !self.rules.is_empty() || self.addresses.get(&destination).is_some()
    }
}

/// What was found last, for [`Services::find_plain`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LastPlain<'a> {
    /// Of no packet to begin with: no protocol is 0.
    destination: [u64; 3],
    service: Option<&'a Service>,
}

/// The service that was found last, for [`Services::find_after`].
#[derive(Debug, Clone, Copy)]
pub struct Last<'a> {
    /// Address, and in one number port, protocol and family.
    destination: (u128, u32),
    service: &'a Service,
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
    by_source: Map<(Protocol, IpAddr, u16), Sources>,
    /// Addresses, with how often each was added.
    addresses: Map<IpAddr, u32>,
    /// A bit for each remainder of an address that a server has or had
    /// ([`bit_of`]); empty without servers.
    seen: Arc<[u64]>,
}

/// Words of [`NatSources::seen`]: 32,768 bits in 4 KB.
const SEEN: usize = 512;

/// The last four bytes of a source address.
#[inline(always)]
const fn end_of(addresses: &Addresses) -> u32 {
    match addresses {
        Addresses::V4 { src, .. } => *src,
        Addresses::V6 { src: [.., a, b, c, d], .. } => u32::from_be_bytes([*a, *b, *c, *d]),
    }
}

/// The bit of a source address that ends so.
#[inline(always)]
const fn bit_of(source: u32) -> (usize, u64) {
    let bit = (source ^ (source >> 15)) as usize % (SEEN * 64);
    (bit / 64, 1 << (bit % 64))
}

/// Those of one address and port, each with how often it was added: two
/// services may have the same. Nearly always there is one, which is found
/// without another step.
#[derive(Debug, Clone)]
struct Sources {
    first: (NatSource, u32),
    more: Vec<(NatSource, u32)>,
}

impl Sources {
    fn all(&self) -> impl Iterator<Item = NatSource> {
        std::iter::once(&self.first).chain(&self.more).map(|&(source, _)| source)
    }

    fn add(&mut self, source: NatSource) {
        let mut all = std::iter::once(&mut self.first).chain(&mut self.more);
        match all.find(|(own, _)| *own == source) {
            Some((_, count)) => *count += 1,
            None => self.more.push((source, 1)),
        }
    }

    /// Whether others are left.
    fn remove(&mut self, source: NatSource) -> bool {
        let mut all = std::iter::once(&mut self.first).chain(&mut self.more);
        if let Some((_, count)) = all.find(|(own, _)| *own == source) {
            *count -= 1;
        }
        self.more.retain(|&(_, count)| count > 0);
        if self.first.1 == 0 {
            if self.more.is_empty() {
                return false;
            }
            self.first = self.more.remove(0);
        }
        true
    }
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
        *self.addresses.entry(server.ip(), || 0) += 1;
        let (word, bit) = bit_of(match server.ip() {
            IpAddr::V4(ip) => ip.to_bits(),
            IpAddr::V6(ip) => ip.to_bits() as u32,
        });
        if self.seen.is_empty() {
            self.seen = [0; SEEN].into();
        }
        if self.seen[word] & bit == 0 {
            Arc::make_mut(&mut self.seen)[word] |= bit;
        }
        let none = || Sources { first: (source, 0), more: Vec::new() };
        self.by_source.entry((protocol, server.ip(), server.port()), none).add(source);
    }

    /// Takes back what was added once.
    pub fn remove(&mut self, protocol: Protocol, server: SocketAddr, source: NatSource) {
        let key = (protocol, server.ip(), server.port());
        if self.by_source.get(&key).is_none_or(|own| own.all().all(|own| own != source)) {
            return;
        }
        let none = || Sources { first: (source, 1), more: Vec::new() };
        if !self.by_source.entry(key, none).remove(source) {
            self.by_source.remove(&key);
        }
        let times = self.addresses.entry(server.ip(), || 1);
        *times -= 1;
        if *times == 0 {
            self.addresses.remove(&server.ip());
            // The bit stays: others may have it, and too many bits cost a
            // look-up, no more.
            if self.is_empty() {
                self.seen = Arc::default();
            }
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_source.is_empty()
    }

    /// Whether a packet may be a reply, as far as one bit tells: true of every
    /// reply, and of few others.
    #[must_use]
    #[inline(always)]
    pub fn may_have(&self, addresses: &Addresses) -> bool {
        self.may_have_end(end_of(addresses))
    }

    /// The same by the last four bytes of the source address.
    #[must_use]
    #[inline(always)]
    pub(crate) fn may_have_end(&self, source: u32) -> bool {
        let (word, bit) = bit_of(source);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Whether packets from an address may be replies, whatever their ports.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.get(&address).is_some()
    }

    /// Whether replies from this address and port may be of several services,
    /// or of connections to any address: what they came from does not tell.
    #[must_use]
    pub fn is_shared(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        let mut sources = self.of(protocol, address, port);
        match (sources.next(), sources.next()) {
            (Some(NatSource::Marked), _) | (_, Some(_)) => true,
            (Some(NatSource::Of(..)) | None, None) => false,
        }
    }

    /// The services whose replies packets from this address and port may be.
    pub fn of(
        &self,
        protocol: Protocol,
        address: IpAddr,
        port: u16,
    ) -> impl Iterator<Item = NatSource> {
        let list = move |port| {
            let sources = self.by_source.get(&(protocol, address, port));
            sources.into_iter().flat_map(Sources::all)
        };
        list(port).chain(list(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_tells_most_packets_from_replies() {
        let from = |text: &str| match text.parse().unwrap() {
            IpAddr::V4(ip) => Addresses::V4 { src: ip.to_bits(), dst: 7 },
            IpAddr::V6(ip) => Addresses::V6 { src: ip.octets(), dst: [7; 16] },
        };
        let mut sources = NatSources::new();
        assert!(!sources.may_have(&from("10.0.0.1")));
        for server in ["10.0.0.1:80", "[fd00::1:2]:80", "192.168.255.254:0"] {
            sources.add(Protocol::Tcp, server.parse().unwrap(), NatSource::Marked);
        }
        for server in ["10.0.0.1", "fd00::1:2", "192.168.255.254"] {
            assert!(sources.may_have(&from(server)), "{server}");
        }
        let others =
            (0..=u16::MAX).map(|n| Addresses::V4 { src: 0x5000_0000 + u32::from(n), dst: 7 });
        assert!(others.filter(|other| sources.may_have(other)).count() < 10);
        for server in ["10.0.0.1:80", "[fd00::1:2]:80", "192.168.255.254:0"] {
            sources.remove(Protocol::Tcp, server.parse().unwrap(), NatSource::Marked);
        }
        assert!(!sources.may_have(&from("10.0.0.1")));
    }

    #[test]
    fn servers_are_shared_by_services_of_their_protocol_and_port() {
        let mut sources = NatSources::new();
        let vip = |last| IpAddr::from([192, 168, 1, last]);
        let mut add = |server: &str, protocol, source| {
            sources.add(protocol, server.parse().unwrap(), source);
        };
        for (server, source) in [
            ("10.0.0.1:80", NatSource::Of(vip(1), 80)),
            ("10.0.0.1:80", NatSource::Of(vip(1), 80)),
            ("10.0.0.2:80", NatSource::Of(vip(1), 80)),
            ("10.0.0.2:80", NatSource::Of(vip(2), 80)),
            ("10.0.0.3:80", NatSource::Of(vip(1), 80)),
            ("10.0.0.3:0", NatSource::Of(vip(2), 0)),
            ("10.0.0.4:80", NatSource::Marked),
        ] {
            add(server, Protocol::Tcp, source);
        }
        add("10.0.0.1:80", Protocol::Udp, NatSource::Of(vip(2), 80));
        for (server, port, shared) in
            [(1, 80, false), (2, 80, true), (3, 80, true), (3, 81, false), (4, 80, true)]
        {
            let address = [10, 0, 0, server].into();
            assert_eq!(sources.is_shared(Protocol::Tcp, address, port), shared, "{server}:{port}");
        }
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
    fn sources_are_there_as_often_as_they_were_added() {
        let mut sources = NatSources::new();
        let server: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let [a, b] = [1, 2].map(|port| NatSource::Of([192, 168, 1, 100].into(), port));
        let of =
            |sources: &NatSources| sources.of(Protocol::Tcp, server.ip(), 80).collect::<Vec<_>>();
        for source in [a, b, a, NatSource::Marked] {
            sources.add(Protocol::Tcp, server, source);
        }
        let before = sources.clone();
        assert_eq!(of(&sources), [a, b, NatSource::Marked]);
        sources.remove(Protocol::Tcp, server, a);
        sources.remove(Protocol::Udp, server, a);
        assert_eq!(of(&sources), [a, b, NatSource::Marked]);
        sources.remove(Protocol::Tcp, server, a);
        sources.remove(Protocol::Tcp, server, a);
        assert_eq!(of(&sources), [b, NatSource::Marked]);
        sources.remove(Protocol::Tcp, server, NatSource::Marked);
        assert!(sources.has_address(server.ip()) && !sources.is_empty());
        sources.remove(Protocol::Tcp, server, b);
        assert!(of(&sources).is_empty() && !sources.has_address(server.ip()) && sources.is_empty());
        assert_eq!(of(&before), [a, b, NatSource::Marked]);
    }

    #[test]
    fn an_address_is_a_services_until_its_last_one_goes() {
        let vip = IpAddr::from([192, 168, 1, 100]);
        let key = |vport| ServiceKey::Address { protocol: Protocol::Tcp, vip, vport };
        let service = |vport| {
            let scheduler = crate::scheduler::Scheduler::Rr;
            Arc::new(Service {
                key: key(vport),
                number: 0,
                scheduler,
                state: Arc::new(crate::scheduler::State::new(scheduler)),
                candidates: Default::default(),
                persistence: None,
                one_packet: false,
                take_up: false,
                locals: Arc::default(),
            })
        };
        let mut services = Services::new([service(80), service(443)], Arc::default());
        services.put(service(80));
        services.remove(&key(80));
        services.remove(&key(80));
        assert!(services.may_have(vip) && services.get(&key(80)).is_none());
        services.remove(&key(443));
        assert!(!services.may_have(vip));
    }
}
