//! What parts are measured on: a director with services, the flows to it, and
//! their packets in buffers like those of a port.
//!
//! Configuration comes out of control's registry, as the daemon's does.

pub(crate) mod buffers;
pub(crate) mod flows;
pub(crate) mod frames;
pub(crate) mod runner;
pub(crate) mod setup;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) use dataplane::packet::{Family, Protocol};
pub(crate) use runner::{Bed, Harness};
pub(crate) use setup::{Method, Setup};

/// The addresses of a kind: in IPv4 they count up from `v4`, in IPv6 the same
/// number is the end of an address in `v6`, a /96.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub(crate) v4: u32,
    pub(crate) v6: u128,
}

/// Clients, which are behind the router.
pub(crate) const CLIENTS: Block = Block { v4: 0x1000_0000, v6: 0xfd00_000c << 96 };
/// Virtual addresses, one for each service.
pub(crate) const VIPS: Block = Block { v4: 0xac10_0000, v6: 0xfd00_0001 << 96 };
/// Real servers.
pub(crate) const SERVERS: Block = Block { v4: 0x0a40_0000, v6: 0xfd00_0005 << 96 };
/// Local addresses of FULLNAT.
pub(crate) const LOCALS: Block = Block { v4: 0x0a80_0000, v6: 0xfd00_0007 << 96 };
/// The director's own address, which tunnels begin at.
pub(crate) const OWN: Block = Block { v4: 0x0a00_0001, v6: 0xfd00_0009 << 96 };
/// The port of all services and servers.
pub(crate) const PORT: u16 = 80;

impl Block {
    /// The address of this number.
    pub(crate) fn address(self, family: Family, number: u32) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::from_bits(self.v4 + number)),
            Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(self.v6 | u128::from(self.v4 + number))),
        }
    }
}
