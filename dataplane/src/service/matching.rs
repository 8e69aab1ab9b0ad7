//! Which service a packet is for, and whose reply it may be.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::{Service, ServiceKey};
use crate::packet::headers::Addresses;
use crate::packet::{Headers, Protocol};

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
    /// A bit for each remainder of an address that a server has ([`bit_of`]);
    /// empty without servers.
    seen: Box<[u64]>,
}

/// Words of [`NatSources::seen`]: 32,768 bits in 4 KB.
const SEEN: usize = 512;

/// The bit of a source address.
#[inline(always)]
const fn bit_of(source: &Addresses) -> (usize, u64) {
    let low = match source {
        Addresses::V4 { src, .. } => *src,
        Addresses::V6 { src: [.., a, b, c, d], .. } => u32::from_be_bytes([*a, *b, *c, *d]),
    };
    let bit = (low ^ (low >> 15)) as usize % (SEEN * 64);
    (bit / 64, 1 << (bit % 64))
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
        if self.seen.is_empty() {
            self.seen = vec![0; SEEN].into();
        }
        let (word, bit) = bit_of(&match server.ip() {
            IpAddr::V4(ip) => Addresses::V4 { src: ip.to_bits(), dst: 0 },
            IpAddr::V6(ip) => Addresses::V6 { src: ip.octets(), dst: [0; 16] },
        });
        self.seen[word] |= bit;
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

    /// Whether a packet may be a reply, as far as one bit tells: true of every
    /// reply, and of few others.
    #[must_use]
    #[inline(always)]
    pub fn may_have(&self, addresses: &Addresses) -> bool {
        let (word, bit) = bit_of(addresses);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
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
}
