//! Virtual services and real servers as workers see them, and their counters.

mod changes;
mod counts;
mod matching;
mod servers;

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use changes::{Changes, Seen};
pub use counts::{ConnectionCounts, ServerCounts, TrafficTotals};
pub use matching::{MarkRule, NatSource, NatSources, Services, endpoints};
pub(crate) use servers::ShortMethod;
pub use servers::{Record, Servers};

use crate::packet::headers::{ETHERNET, VLAN_TAG};
use crate::packet::{Family, Mac, Protocol};
use crate::scheduler::{Candidates, Scheduler, State};

/// What a service is known by, and what a new connection's first packet is
/// matched with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

impl Hash for ServiceKey {
    /// By one or two numbers: field by field each would be a step.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Address { protocol, vip, vport } => {
                let rest = u64::from(vport) << 8 | protocol as u64;
                match vip {
                    IpAddr::V4(vip) => state.write_u64(u64::from(vip.to_bits()) << 32 | rest),
                    IpAddr::V6(vip) => {
                        state.write_u128(vip.to_bits());
                        state.write_u64(rest);
                    }
                }
            }
            Self::Fwmark { mark, family } => {
                state.write_u64(u64::from(mark) << 32 | 1 << 24 | family as u64);
            }
        }
    }
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
    /// Whether TCP packets without a connection are of one that another
    /// director had, whose server the scheduler finds again. With mh and servers
    /// that answer past the director only.
    pub take_up: bool,
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
    /// The VLAN id of the tag that its frames have; 0 for none.
    pub vlan: u16,
}

impl PortHop {
    /// Length of its frames' Ethernet header, bytes.
    #[must_use]
    #[inline]
    pub const fn ethernet_len(&self) -> usize {
        if self.vlan == 0 { ETHERNET } else { ETHERNET + VLAN_TAG }
    }
}
