//! What an operator describes: services, servers, timeouts and settings.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What names a virtual service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ServiceId {
    /// Protocol, vip and vport (0: every port of the vip).
    Address {
        /// The protocol.
        protocol: Protocol,
        /// vip and vport.
        address: SocketAddr,
    },
    /// A firewall mark.
    Fwmark {
        /// The mark, not 0.
        mark: u32,
        /// Whether its servers are IPv6.
        ipv6: bool,
    },
}

/// A virtual service as an operator describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Its name.
    pub id: ServiceId,
    /// The scheduler's name as in ipvsadm: `rr`, `wrr`, ...
    pub scheduler: String,
    /// Scheduler flags as in ipvsadm, e.g. `sh-port`; usually empty.
    #[serde(default)]
    pub scheduler_flags: Vec<String>,
    /// Persistence, when wanted.
    #[serde(default)]
    pub persistence: Option<Persistence>,
    /// One-packet scheduling.
    #[serde(default)]
    pub one_packet: bool,
    /// Whether TCP connections that another director had are taken up in their
    /// middle (`mh`, with servers under DR and TUN).
    #[serde(default, skip_serializing_if = "is_false")]
    pub take_up: bool,
    /// The director's addresses that connections to FULLNAT servers come from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_addresses: Vec<IpAddr>,
    /// How FULLNAT servers are told the client's address (TCP).
    #[serde(default, skip_serializing_if = "ClientAddress::is_none")]
    pub client_address: ClientAddress,
    /// The most that the MSS option of a connection may say, bytes; it is left
    /// alone when absent or 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss: Option<u16>,
}

impl ServiceSpec {
    /// A service without any option.
    #[must_use]
    pub fn new(id: ServiceId, scheduler: impl Into<String>) -> Self {
        Self {
            id,
            scheduler: scheduler.into(),
            scheduler_flags: Vec::new(),
            persistence: None,
            one_packet: false,
            take_up: false,
            local_addresses: Vec::new(),
            client_address: ClientAddress::None,
            mss: None,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How FULLNAT servers are told the client's address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddress {
    /// Not at all.
    #[default]
    None,
    /// By a TCP option (TOA, kind 254).
    Toa,
    /// By a PROXY protocol header, version 2.
    Proxy,
}

impl ClientAddress {
    /// Whether it is [`ClientAddress::None`].
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Persistence of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Persistence {
    /// Life of a template after its last connection, s.
    pub timeout: u32,
    /// Length of the client prefix that shares a template; 32 or 128 is one
    /// address.
    pub prefix: u8,
    /// Persistence engine, e.g. `sip`.
    #[serde(default)]
    pub engine: Option<String>,
}

/// A real server as an operator describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// rip and rport; port 0 stands for the service's port.
    pub address: SocketAddr,
    /// How packets reach it.
    pub method: Method,
    /// Its share of new connections, 0 to 65535; 0 takes none.
    pub weight: u32,
    /// Connections at which it is overloaded; 0 is no limit.
    #[serde(default)]
    pub upper_threshold: u32,
    /// Connections below which it is not overloaded any more; 0 stands for
    /// three quarters of the upper one.
    #[serde(default)]
    pub lower_threshold: u32,
}

/// Forwarding methods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Direct routing (`-g`, listed as `Route`).
    Dr,
    /// Masquerading (`-m`, listed as `Masq`).
    Nat,
    /// Tunnelling (`-i`, listed as `Tunnel`).
    Tun(Tunnel),
    /// Source and destination rewrite (`-b` in RVS, listed as `FullNat`).
    Fullnat,
}

/// The encapsulation of a tunnelled server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Tunnel {
    /// IP in IP.
    Ipip,
    /// Generic UDP encapsulation.
    Gue {
        /// The server's UDP port.
        port: u16,
        /// Checksum mode.
        checksum: TunnelChecksum,
    },
    /// Generic routing encapsulation.
    Gre {
        /// Checksum mode.
        checksum: TunnelChecksum,
    },
}

/// Checksum mode of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunnelChecksum {
    /// None.
    None,
    /// The tunnel header's own.
    Full,
    /// Remote checksum offload (GUE only).
    Remote,
}

/// The timeouts of `ipvsadm --set`, s.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// TCP connections in ESTABLISHED.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP connections.
    pub udp: u32,
}

/// Settings with the names, meanings and defaults of the kernel's
/// `net.ipv4.vs.*`. 0 and 1 are no and yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Connections to a deleted server are removed at once.
    pub expire_nodest_conn: u8,
    /// A persistence template is not used while its server has weight 0.
    pub expire_quiescent_template: u8,
    /// Whether a SYN on a connection in TIME_WAIT or CLOSE is scheduled anew:
    /// 0 never, 1 and 2 always.
    pub conn_reuse_mode: u8,
    /// Any TCP packet but RST opens a connection, not only a SYN.
    pub sloppy_tcp: u8,
    /// Any SCTP packet opens an association, not only INIT.
    pub sloppy_sctp: u8,
    /// A NAT server whose packet has no connection is told so by ICMP.
    pub nat_icmp_send: u8,
    /// ICMP errors about packets of no connection are scheduled.
    pub schedule_icmp: u8,
    /// Tunnels copy DF, and packets too big for them are answered.
    pub pmtu_disc: u8,
}
