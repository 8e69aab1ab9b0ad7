//! Packets observed, and packets thought of: what `rvsadm trace`, `capture` and
//! `explain` ask for and get.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Method, Protocol, ServiceId};

/// Most packets that one [`Response::Observed`](super::Response::Observed)
/// brings.
pub const MAX_OBSERVED: usize = 256;

/// Observations at a time.
pub const MAX_OBSERVATIONS: usize = 4;

/// Which packets to observe: those that have all that is asked for. Of a
/// connection's packets, in either direction, client, virtual address and server
/// are those of the connection; of others either end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObserveFilter {
    /// The client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_port: Option<u16>,
    /// The virtual address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip_port: Option<u16>,
    /// The real server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<IpAddr>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_port: Option<u16>,
    /// The protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Only packets that are dropped.
    pub drops: bool,
}

/// Why an observation is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObserveEnd {
    /// It has seen as many packets as it was to.
    Count,
    /// Its time was over.
    Time,
    /// The client asked for it.
    Stopped,
}

/// A packet at a worker: what it was, what was decided, what it became.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedPacket {
    /// Counted from 1. Both parts of a packet that a worker handed over have the
    /// same number.
    pub number: u64,
    /// When, µs since 1970; 0 of a packet that was only thought of.
    pub time_us: u64,
    /// The worker.
    pub worker: u32,
    /// The port that it came in by; of a tagged frame that of its VLAN, if there
    /// is one.
    pub port: String,
    /// The VLAN id of its tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Whether another worker handed it over. If not, the port's queue with this
    /// worker's number brought it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
    /// Which one, if its part was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed_over_by: Option<u32>,
    /// What it is.
    pub kind: PacketKind,
    /// Its protocol; of an ICMP error that of the packet that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// TCP's flags in letters, as `SA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// The service: that of its connection, or that its address and port name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceId>,
    /// The connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ObservedConnection>,
    /// How the server of a new connection was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// The server that it goes to, or comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
    /// The forwarding method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// What became of it.
    pub verdict: PacketVerdict,
    /// As it came.
    pub before: FrameSeen,
    /// As it was when that was decided. Absent where it is as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<FrameSeen>,
    /// Packets that the director made of it or because of it, the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub made: Vec<MadeFrame>,
    /// How many there were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub made_count: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketKind {
    /// TCP, UDP or SCTP.
    Flow,
    /// A fragment of such a packet.
    Fragment,
    /// An ICMP error.
    IcmpError,
    /// ARP or neighbour discovery.
    Neighbour,
    /// VRRP, OSPF, BGP or BFD.
    Routing,
    /// Something else for the kernel.
    Other,
    /// Not a good packet, or not for this host.
    Malformed,
}

/// The connection of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedConnection {
    /// Whether the packet opened it.
    pub opened: bool,
    /// Whether the packet is the server's.
    pub reply: bool,
    /// cip and cport.
    pub client: SocketAddr,
    /// vip and vport.
    pub virtual_address: SocketAddr,
    /// The state before; absent of a new connection, or where a fragment found
    /// it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_before: Option<String>,
    /// The state after; absent when the packet ended the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_after: Option<String>,
    /// Whether it was opened by a persistence template.
    pub persistent: bool,
}

/// How a server was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The scheduler.
    pub scheduler: String,
    /// The server that the client's persistence template named; absent where
    /// there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<SocketAddr>,
    /// Whether the service is persistent.
    pub persistent: bool,
    /// Whether every packet is scheduled on its own.
    pub one_packet: bool,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketVerdict {
    /// It leaves by a port. What the port's queue has no room for is dropped
    /// later (`tx_full`).
    Sent {
        /// The port's name.
        port: String,
    },
    /// The kernel gets it.
    Punted,
    /// Another worker gets it.
    HandedOver {
        /// Its index.
        to: u32,
    },
    /// It is not sent as it is.
    Absorbed {
        /// Why.
        why: AbsorbedWhy,
    },
    /// It is dropped.
    Dropped {
        /// The drop reason's name.
        reason: String,
    },
}

/// Why a packet is not sent as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbsorbedWhy {
    /// It waits for the MAC address of its next hop, a second at most.
    WaitsForNeighbour,
    /// It is a fragment that waits for its datagram's first one.
    WaitsForFirstFragment,
    /// Other packets were made of it: see [`ObservedPacket::made`].
    SentAsOthers,
}

/// A packet that the director made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeFrame {
    /// The port that it leaves by, or where the kernel or another worker gets it
    /// the one that it came in by.
    pub port: String,
    /// Whether it leaves by that port.
    pub sent: bool,
    /// The packet.
    pub frame: FrameSeen,
}

/// A frame: what is in its headers, and its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameSeen {
    /// Bytes on the wire.
    pub length: u32,
    /// Source MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_mac: Option<String>,
    /// Destination MAC address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_mac: Option<String>,
    /// The VLAN id of its tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Its IP header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpSeen>,
    /// The headers of a tunnel around that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outer: Option<OuterSeen>,
    /// Its first bytes, in hexadecimal.
    pub bytes: String,
}

/// An IP header and the ports behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpSeen {
    /// Source, with the port where there is one.
    pub source: String,
    /// Destination, with the port where there is one.
    pub destination: String,
    /// TTL or hop limit.
    pub ttl: u8,
    /// The protocol's name or number.
    pub protocol: String,
}

/// The headers of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterSeen {
    /// `ipip`, `gre` or `gue`.
    pub kind: String,
    /// The outer source.
    pub source: IpAddr,
    /// The outer destination.
    pub destination: IpAddr,
    /// The outer TTL or hop limit.
    pub ttl: u8,
}

/// A packet to be thought of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketSpec {
    /// The protocol.
    pub protocol: Protocol,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes to, of the same family.
    pub destination: SocketAddr,
    /// The port that it comes in by; absent: the one that the way back to its
    /// source leads through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// TCP's flags in letters (`S`, `A`, `F`, `R`, `P`); absent: `S`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
    /// TTL or hop limit; absent: 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// Length of the IP packet; absent: as long as its headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u16>,
}

/// What would become of a packet now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The packet at the worker that decides.
    pub packet: ObservedPacket,
    /// The way to the server or, of a server's packet, to the client; absent
    /// where it goes nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub way: Option<WayOut>,
    /// More that an operator should know, in words.
    pub notes: Vec<String>,
}

/// How packets leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayOut {
    /// The port; absent without a route through one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// The neighbour: the server or client itself, or a gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neighbour: Option<IpAddr>,
    /// The neighbour's MAC address; absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Longest IP packet that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
}
