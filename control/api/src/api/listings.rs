//! The rows of listings.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Protocol, ServerSpec, ServiceId, ServiceSpec};

/// A service in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// As described.
    #[serde(flatten)]
    pub spec: ServiceSpec,
    /// Its counters.
    pub stats: Stats,
    /// Its servers, newest first.
    pub servers: Vec<ServerStatus>,
}

/// A server in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerStatus {
    /// As described, the port filled in.
    #[serde(flatten)]
    pub spec: ServerSpec,
    /// Connections in an active state (ESTABLISHED, SYN_RECV).
    pub active: u32,
    /// All other connections.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
    /// Its counters.
    pub stats: Stats,
    /// Present when it is checked, or is a sorry server. The weight above is
    /// then the one in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ServerHealth>,
}

/// What health checks make of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerHealth {
    /// Whether it is good.
    pub up: bool,
    /// The weight that it was given, and has again when it is good.
    pub configured_weight: u32,
    /// Whether it is the sorry server, here because no other takes connections.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sorry_server: bool,
}

/// Counters and rates of a service or server. Bytes are IP lengths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Packets from servers (NAT and FULLNAT only).
    pub out_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Bytes from servers.
    pub out_bytes: u64,
    /// Smoothed rate of `connections`, 1/s.
    pub connection_rate: u64,
    /// Smoothed rate of `in_packets`, 1/s.
    pub in_packet_rate: u64,
    /// Smoothed rate of `out_packets`, 1/s.
    pub out_packet_rate: u64,
    /// Smoothed rate of `in_bytes`, B/s.
    pub in_byte_rate: u64,
    /// Smoothed rate of `out_bytes`, B/s.
    pub out_byte_rate: u64,
}

/// A place in the listing of connections, opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionCursor {
    /// The worker's index.
    pub worker: u32,
    /// Whether the IPv6 table is being read.
    pub ipv6: bool,
    /// The next group of the table.
    pub group: u64,
}

/// A connection in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its protocol.
    pub protocol: Protocol,
    /// The state's name as ipvsadm shows it.
    pub state: String,
    /// Time until it is removed unless a packet comes, ms.
    pub expires_ms: u64,
    /// cip and cport.
    pub client: SocketAddr,
    /// vip and vport.
    pub virtual_address: SocketAddr,
    /// rip and rport.
    pub server: SocketAddr,
    /// The worker that owns it.
    pub worker: u32,
}

/// How a server's packets leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The service.
    pub service: ServiceId,
    /// The server.
    pub server: SocketAddr,
    /// The port's name; absent without a route through a port.
    pub port: Option<String>,
    /// The neighbour's address: the server, or the gateway before it.
    pub neighbour: Option<IpAddr>,
    /// The neighbour's MAC; absent while the kernel has not resolved it.
    pub mac: Option<String>,
}
