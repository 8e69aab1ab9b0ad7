//! Which connections a listing shows. The worker asks it of every entry, so
//! what takes time (names, addresses of servers) is made into numbers and bits
//! before.

use std::net::IpAddr;

use crate::conn::State;

/// What all listed connections have; an empty one lets all pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The IP protocol number.
    pub protocol: Option<u8>,
    /// cip and cport.
    pub client: Side,
    /// vip and vport.
    pub virtual_address: Side,
    /// The states, a bit for each by its number ([`Filter::bit_of`]).
    pub states: Option<u32>,
    /// The servers.
    pub servers: Option<Servers>,
}

/// Addresses and ports of one side of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Side {
    /// A network: its address, and the length of its prefix.
    pub network: Option<(IpAddr, u8)>,
    /// The port.
    pub port: Option<u16>,
}

/// A set of servers by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Servers {
    /// Those of which every connection is meant.
    any_port: Vec<u64>,
    /// Those that get packets on the port that clients used, if it is this one.
    on_port: Option<(u16, Vec<u64>)>,
}

impl Servers {
    /// An empty set, in which servers without a port of their own are meant for
    /// connections to `port`.
    #[must_use]
    pub fn new(port: Option<u16>) -> Self {
        Self { any_port: Vec::new(), on_port: port.map(|port| (port, Vec::new())) }
    }

    /// Adds a server.
    pub fn add(&mut self, number: u32) {
        set_bit(&mut self.any_port, number);
    }

    /// Adds a server that gets packets on the port that clients used.
    pub fn add_without_port(&mut self, number: u32) {
        match &mut self.on_port {
            Some((_, bits)) => set_bit(bits, number),
            None => self.add(number),
        }
    }

    fn has(&self, number: u32, client_used: u16) -> bool {
        has_bit(&self.any_port, number)
            || self
                .on_port
                .as_ref()
                .is_some_and(|(port, bits)| *port == client_used && has_bit(bits, number))
    }
}

fn set_bit(bits: &mut Vec<u64>, number: u32) {
    let word = number as usize / 64;
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    bits[word] |= 1 << (number % 64);
}

fn has_bit(bits: &[u64], number: u32) -> bool {
    bits.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 != 0)
}

/// What a filter is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The IP protocol number.
    pub protocol: u8,
    /// cip and cport.
    pub client: (IpAddr, u16),
    /// vip and vport.
    pub virtual_address: (IpAddr, u16),
    /// The state.
    pub state: State,
    /// The server's number.
    pub server: u32,
}

impl Filter {
    /// The bit of a state in [`Filter::states`].
    #[must_use]
    pub const fn bit_of(state: State) -> u32 {
        1 << state as u8
    }

    /// Whether all connections pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a connection passes.
    #[must_use]
    #[inline]
    pub fn passes(&self, candidate: &Candidate) -> bool {
        self.protocol.is_none_or(|protocol| protocol == candidate.protocol)
            && self.states.is_none_or(|states| states & Self::bit_of(candidate.state) != 0)
            && self.client.has(candidate.client)
            && self.virtual_address.has(candidate.virtual_address)
            && self
                .servers
                .as_ref()
                .is_none_or(|servers| servers.has(candidate.server, candidate.virtual_address.1))
    }
}

impl Side {
    /// Whether an address and port are meant.
    #[must_use]
    pub fn has(&self, (ip, port): (IpAddr, u16)) -> bool {
        self.port.is_none_or(|wanted| wanted == port)
            && self.network.is_none_or(|network| contains(network, ip))
    }
}

/// A prefix longer than an address is the address.
fn contains(network: (IpAddr, u8), ip: IpAddr) -> bool {
    match (network, ip) {
        ((IpAddr::V4(network), len), IpAddr::V4(ip)) => {
            let differs = network.to_bits() ^ ip.to_bits();
            differs.checked_shr(32u32.saturating_sub(len.into())).unwrap_or(0) == 0
        }
        ((IpAddr::V6(network), len), IpAddr::V6(ip)) => {
            let differs = network.to_bits() ^ ip.to_bits();
            differs.checked_shr(128u32.saturating_sub(len.into())).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate() -> Candidate {
        Candidate {
            protocol: 6,
            client: ("10.1.2.3".parse().unwrap(), 40_000),
            virtual_address: ("192.168.1.100".parse().unwrap(), 80),
            state: State::Established,
            server: 130,
        }
    }

    fn network(ip: &str, len: u8) -> Side {
        Side { network: Some((ip.parse().unwrap(), len)), port: None }
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let passes = |filter: Filter| filter.passes(&candidate());
        let all = Filter::default();
        assert!(all.is_empty() && passes(all.clone()));
        assert!(passes(Filter { protocol: Some(6), ..all.clone() }));
        assert!(!passes(Filter { protocol: Some(17), ..all.clone() }));
        let states = Some(Filter::bit_of(State::Established) | Filter::bit_of(State::SctpClosed));
        assert!(passes(Filter { states, ..all.clone() }));
        let states = Some(Filter::bit_of(State::Close));
        assert!(!passes(Filter { states, ..all.clone() }));
        let client = network("10.0.0.0", 8);
        assert!(passes(Filter { client, ..all.clone() }));
        assert!(!passes(Filter { client, protocol: Some(17), ..all.clone() }));
        let virtual_address = Side { network: None, port: Some(81) };
        assert!(!passes(Filter { virtual_address, ..all }));
    }

    #[test]
    fn networks_have_any_length() {
        let has = |ip: &str, len, of: &str| network(ip, len).has((of.parse().unwrap(), 1));
        for (len, inside) in [(0, true), (15, true), (16, false), (31, false), (32, false)] {
            assert_eq!(has("10.0.0.0", len, "10.1.0.0"), inside, "/{len}");
        }
        assert!(has("10.1.0.0", 32, "10.1.0.0") && has("10.1.0.0", 255, "10.1.0.0"));
        for (len, inside) in [(0, true), (63, true), (64, false), (128, false)] {
            assert_eq!(has("fd00:0:0:2::", len, "fd00:0:0:3::1"), inside, "/{len}");
        }
        assert!(!has("0.0.0.0", 0, "::1") && !has("::", 0, "10.0.0.1"));
    }

    #[test]
    fn servers_are_found_by_number_and_by_the_clients_port() {
        let passes = |servers: Servers| {
            let filter = Filter { servers: Some(servers), ..Filter::default() };
            filter.passes(&candidate())
        };
        let mut servers = Servers::new(Some(80));
        assert!(!passes(servers.clone()));
        servers.add(129);
        assert!(!passes(servers.clone()));
        servers.add_without_port(130);
        assert!(passes(servers));
        let mut servers = Servers::new(Some(81));
        servers.add_without_port(130);
        assert!(!passes(servers));
        let mut servers = Servers::new(None);
        servers.add_without_port(130);
        assert!(passes(servers));
    }
}
