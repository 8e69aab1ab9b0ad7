//! The rows of listings.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Method, Protocol, ServerSpec, ServiceId, ServiceSpec};

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

/// Which connections are listed: those for which all hold that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionFilter {
    /// The protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// cip and cport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Side>,
    /// vip and vport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_address: Option<Side>,
    /// rip and rport.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Side>,
    /// One of these states, by the names that the listing has; any if empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<String>,
    /// How packets reach the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<MethodName>,
    /// The worker that owns it, which templates have none of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<u32>,
    /// Only templates, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<bool>,
}

/// Forwarding methods by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MethodName {
    /// Direct routing.
    Dr,
    /// Masquerading.
    Nat,
    /// Tunnelling.
    Tun,
    /// Source and destination rewrite.
    Fullnat,
}

impl MethodName {
    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::Tun => "tun",
            Self::Fullnat => "fullnat",
        }
    }
}

impl From<&Method> for MethodName {
    fn from(method: &Method) -> Self {
        match method {
            Method::Dr => Self::Dr,
            Method::Nat => Self::Nat,
            Method::Tun(_) => Self::Tun,
            Method::Fullnat => Self::Fullnat,
        }
    }
}

/// An address or network, a port, or an address and a port, in its text form:
/// `10.0.0.1`, `10.0.0.0/8`, `:80`, `10.0.0.1:80`, `[fd00::1]:80`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Side {
    /// The network: its address, and the length of its prefix.
    pub network: Option<(IpAddr, u8)>,
    /// The port.
    pub port: Option<u16>,
}

impl Side {
    /// Whether an address and port are meant.
    #[must_use]
    pub fn has(&self, address: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == address.port()) && self.has_ip(address.ip())
    }

    /// Whether an address is meant, on whatever port.
    #[must_use]
    pub fn has_ip(&self, ip: IpAddr) -> bool {
        let Some((network, len)) = self.network else { return true };
        let (bits, differs) = match (network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                (32, u128::from(network.to_bits() ^ ip.to_bits()))
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => (128, network.to_bits() ^ ip.to_bits()),
            _ => return false,
        };
        differs.checked_shr(bits - u32::from(len)).unwrap_or(0) == 0
    }
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not an address, network or port such as 10.0.0.1, 10.0.0.0/8, \
                 10.0.0.1:80, [fd00::1]:80 or :80"
            )
        };
        if let Some(port) = text.strip_prefix(':').filter(|port| !port.starts_with(':')) {
            let port = Some(port.parse().map_err(|_| wrong())?);
            return Ok(Self { network: None, port });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let ip = address.ip();
            return Ok(Self { network: Some((ip, bits(ip))), port: Some(address.port()) });
        }
        let (ip, len) = text.split_once('/').map_or((text, None), |(ip, len)| (ip, Some(len)));
        let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
        let ip = match bare {
            Some(ip) => IpAddr::V6(ip.parse::<Ipv6Addr>().map_err(|_| wrong())?),
            None => ip.parse().map_err(|_| wrong())?,
        };
        let len = len.map_or(Ok(bits(ip)), |len| len.parse().map_err(|_| wrong()))?;
        if len > bits(ip) {
            return Err(wrong());
        }
        Ok(Self { network: Some((ip, len)), port: None })
    }
}

fn bits(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.network, self.port) {
            (Some((ip, _)), Some(port)) => SocketAddr::new(ip, port).fmt(f),
            (Some((ip, len)), None) if len == bits(ip) => ip.fmt(f),
            (Some((ip, len)), None) => write!(f, "{ip}/{len}"),
            (None, port) => write!(f, ":{}", port.unwrap_or(0)),
        }
    }
}

impl From<Side> for String {
    fn from(side: Side) -> Self {
        side.to_string()
    }
}

impl TryFrom<String> for Side {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
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
    /// The worker that owns it; 0 for a template.
    pub worker: u32,
    /// How packets reach the server; absent when that was just deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<MethodName>,
    /// Whether it is a persistence template, and no connection.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub template: bool,
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

/// An entry of the kernel's neighbour table on a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// The port's name.
    pub port: String,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address; absent while it is not known.
    pub mac: Option<String>,
    /// The kernel's state in lower case, as `ip neighbour` has it.
    pub state: String,
    /// Whether workers send to it.
    pub usable: bool,
    /// Whether rvsd keeps it resolved, as a server's way leads over it.
    pub kept: bool,
}

/// A place in the listing of neighbours, opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeighbourCursor {
    /// The last port's number.
    pub port: usize,
    /// The last neighbour.
    pub address: IpAddr,
}

/// A route of the kernel as rvsd follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// First address of the network.
    pub destination: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// `unicast`, `local`, `broadcast`, `blackhole`, `unreachable`, `prohibit`,
    /// `throw` or `tunnel`.
    pub kind: String,
    /// The priority; of several to one network the lowest is used.
    pub metric: u32,
    /// The path MTU of the route itself, bytes; 0 for none.
    pub mtu: u32,
    /// The next hops.
    pub hops: Vec<RouteHop>,
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteHop {
    /// The kernel's link.
    pub link: String,
    /// The gateway; absent where the network is on the link.
    pub gateway: Option<IpAddr>,
    /// Whether the link is one of RVS's ports.
    pub port: bool,
}

/// A place in the listing of routes, opaque to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteCursor {
    /// The last network.
    pub destination: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_as_they_are_written() {
        for text in [
            "10.0.0.1",
            "10.0.0.0/8",
            "0.0.0.0/0",
            "::/0",
            "::1",
            ":80",
            "10.0.0.1:80",
            "fd00::/64",
            "[fd00::1]:80",
        ] {
            assert_eq!(text.parse::<Side>().unwrap().to_string(), text);
        }
        assert_eq!("[fd00::1]".parse::<Side>().unwrap().to_string(), "fd00::1");
        for text in ["", "rs1", "10.0.0.1/33", "fd00::/129", ":x", ":65536", "10.0.0.0/8:80", "[::"]
        {
            assert!(text.parse::<Side>().unwrap_err().contains("such as 10.0.0.1"), "{text}");
        }
    }

    #[test]
    fn sides_mean_addresses_and_ports() {
        let has =
            |side: &str, address: &str| side.parse::<Side>().unwrap().has(address.parse().unwrap());
        assert!(has("10.0.0.0/8", "10.255.0.1:80") && !has("10.0.0.0/8", "11.0.0.1:80"));
        assert!(has(":80", "[fd00::1]:80") && !has(":80", "[fd00::1]:81"));
        assert!(has("0.0.0.0/0", "1.2.3.4:1") && !has("0.0.0.0/0", "[::1]:1"));
        assert!(has("fd00:0:0:2::/63", "[fd00:0:0:3::1]:1"));
        assert!(has("::/0", "[ffff::1]:1") && !has("fd00::1", "[fd00::2]:1"));
        assert!(has("10.0.0.1:80", "10.0.0.1:80") && !has("10.0.0.1:80", "10.0.0.1:81"));
    }
}
