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
    /// Those at IPv4 addresses, by [`packed`]: every new connection looks here.
    by_ipv4: HashMap<u64, Arc<Service>>,
    /// The others.
    by_key: HashMap<ServiceKey, Arc<Service>>,
    addresses: HashSet<IpAddr>,
    rules: Arc<[MarkRule]>,
}

impl Services {
    /// The services, and the rules that give packets their marks, the first
    /// that matches counting.
    #[must_use]
    pub fn new(services: impl IntoIterator<Item = Arc<Service>>, rules: Arc<[MarkRule]>) -> Self {
        let mut all = Self { rules, ..Self::default() };
        for service in services {
            if let ServiceKey::Address { vip, .. } = service.key {
                all.addresses.insert(vip);
            }
            match ipv4(&service.key) {
                Some(key) => all.by_ipv4.insert(key, service),
                None => all.by_key.insert(service.key, service),
            };
        }
        all
    }

    /// A service by its name.
    #[must_use]
    pub fn get(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        match ipv4(key) {
            Some(key) => self.by_ipv4.get(&key),
            None => self.by_key.get(key),
        }
    }

    /// The service of a packet that came in by a port: by its mark, then by
    /// address and port, then by address for every port (the kernel's order).
    #[must_use]
    pub fn find(&self, headers: &Headers, ingress: u8) -> Option<&Arc<Service>> {
        if !self.rules.is_empty() {
            let marked = self.find_marked(headers, ingress);
            if marked.is_some() {
                return marked;
            }
        }
        let Headers { protocol, dst_port, .. } = *headers;
        match headers.addresses {
            Addresses::V4 { dst, .. } => {
                let of_port = |port| self.by_ipv4.get(&packed(protocol, dst, port));
                of_port(dst_port).or_else(|| of_port(0))
            }
            Addresses::V6 { dst, .. } => {
                let vip = IpAddr::V6(dst.into());
                let of_port =
                    |vport| self.by_key.get(&ServiceKey::Address { protocol, vip, vport });
                of_port(dst_port).or_else(|| of_port(0))
            }
        }
    }

    #[inline(never)]
    fn find_marked(&self, headers: &Headers, ingress: u8) -> Option<&Arc<Service>> {
        let rule = self.rules.iter().find(|rule| rule.matches(headers, ingress))?;
        let key = ServiceKey::Fwmark { mark: rule.mark, family: headers.family() };
        self.by_key.get(&key)
    }

    /// Whether packets to an address may be a service's, by the address alone.
    #[must_use]
    pub fn may_have(&self, destination: IpAddr) -> bool {
        !self.rules.is_empty() || self.addresses.contains(&destination)
    }
}

/// An IPv4 service's protocol, address and port as one number.
#[inline]
fn packed(protocol: Protocol, vip: u32, vport: u16) -> u64 {
    ((protocol as u64) << 48) | (u64::from(vport) << 32) | u64::from(vip)
}

fn ipv4(key: &ServiceKey) -> Option<u64> {
    match *key {
        ServiceKey::Address { protocol, vip: IpAddr::V4(vip), vport } => {
            Some(packed(protocol, vip.to_bits(), vport))
        }
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

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
