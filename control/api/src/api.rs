//! The control API: one typed request and one typed response, shared by
//! `rvsd`, `rvsadm` and the tests.
//!
//! Transport: a `SOCK_STREAM` Unix socket. Each message is a frame: a length
//! of four bytes, big endian, then that many bytes of JSON. A client sends one
//! [`Request`] a frame and reads one [`Reply`] for each, in order. The first
//! request must be [`Request::Hello`]; any other gets [`ErrorCode::BadRequest`]
//! and the connection is closed.
//!
//! Addresses and ports are in their text or number form, never in network
//! byte order.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The protocol version that a [`Request::Hello`] must name.
pub const VERSION: u32 = 1;

/// The longest request that the daemon reads, in bytes without the length.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The longest reply that a client should accept, in bytes without the length.
pub const MAX_REPLY: usize = 64 * 1024 * 1024;

/// Most rows that one reply of a listing carries; the rest follows by cursor.
pub const MAX_ROWS: usize = 1024;

/// What a client asks of the daemon.
///
/// Variants without fields have braces: serde lets a unit variant have any
/// field, and a `flush` with a `service` must not flush all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Opens the conversation. Answered by [`Response::Hello`].
    Hello {
        /// Must equal [`VERSION`].
        version: u32,
    },
    /// Lists services with their servers, in the order of creation, newest
    /// first (the kernel's own order, which `ipvsadm --nosort` shows).
    ListServices {
        /// Only this one; [`ErrorCode::NoSuchService`] when there is none.
        service: Option<ServiceId>,
        /// Where to go on, from [`Response::Services::next`].
        cursor: Option<u64>,
    },
    /// Creates a service without servers.
    AddService {
        /// The new service.
        service: ServiceSpec,
    },
    /// Replaces everything of a service but its identity and servers.
    EditService {
        /// The service as it is to be.
        service: ServiceSpec,
    },
    /// Deletes a service and its servers. Its connections live on until they
    /// time out, unable to forward.
    DeleteService {
        /// Which one.
        service: ServiceId,
    },
    /// Deletes all services (`ipvsadm -C`).
    Flush {},
    /// Adds a server to a service.
    AddServer {
        /// The service.
        service: ServiceId,
        /// The new server.
        server: ServerSpec,
    },
    /// Replaces weight, method and thresholds of a server.
    EditServer {
        /// The service.
        service: ServiceId,
        /// The server as it is to be; its address names it.
        server: ServerSpec,
    },
    /// Deletes a server from a service.
    DeleteServer {
        /// The service.
        service: ServiceId,
        /// The server's address; port 0 stands for the service's port.
        server: SocketAddr,
    },
    /// Sets the counters of one service, or of all, to zero.
    Zero {
        /// Which one; all when absent.
        service: Option<ServiceId>,
    },
    /// Reads the timeouts that `ipvsadm --set` changes.
    Timeouts {},
    /// Changes them; a zero keeps the present value.
    SetTimeouts {
        /// The new values.
        timeouts: Timeouts,
    },
    /// Reads the settings that the kernel has as `net.ipv4.vs.*`.
    Settings {},
    /// Changes one of them.
    SetSetting {
        /// Its name, as in [`Settings`].
        name: String,
        /// Its value.
        value: u8,
    },
    /// Lists connections, at most `limit` a reply, in no particular order.
    /// Connections that come or go between two replies may be missed.
    ListConnections {
        /// Where to go on, from [`Response::Connections::next`].
        cursor: Option<ConnectionCursor>,
        /// Most rows wanted, 1 to [`MAX_ROWS`]. Rows come in groups of up to
        /// 15, so fewer than 15 may be exceeded.
        limit: usize,
    },
    /// Reads the counters of every worker and port.
    Counters {},
    /// Lists the next hop that each server's packets take, in the order of
    /// [`Request::ListServices`].
    NextHops {
        /// Where to go on, from [`Response::NextHops::next`].
        cursor: Option<u64>,
    },
}

impl Request {
    /// Whether the request changes anything, which needs the permission to.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Self::Hello { .. }
            | Self::ListServices { .. }
            | Self::Timeouts {}
            | Self::Settings {}
            | Self::ListConnections { .. }
            | Self::Counters {}
            | Self::NextHops { .. } => false,
            Self::AddService { .. }
            | Self::EditService { .. }
            | Self::DeleteService { .. }
            | Self::Flush {}
            | Self::AddServer { .. }
            | Self::EditServer { .. }
            | Self::DeleteServer { .. }
            | Self::Zero { .. }
            | Self::SetTimeouts { .. }
            | Self::SetSetting { .. } => true,
        }
    }
}

/// What the daemon answers: a response, or a typed error. The connection stays
/// usable after an error unless the error's code says otherwise.
pub type Reply = Result<Response, Error>;

/// The answer to a [`Request`] that succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "re", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Hello`].
    Hello {
        /// The daemon's [`VERSION`].
        version: u32,
        /// The daemon's package version, for people.
        daemon: String,
        /// Whether this client may change things.
        may_change: bool,
    },
    /// A change was made, and every worker runs it.
    Done,
    /// To [`Request::ListServices`].
    Services {
        /// The rows.
        services: Vec<ServiceStatus>,
        /// Present when there are more.
        next: Option<u64>,
        /// Most connections that the tables of all workers hold together.
        table_size: u64,
    },
    /// To [`Request::Timeouts`].
    Timeouts {
        /// The values in force.
        timeouts: Timeouts,
    },
    /// To [`Request::Settings`].
    Settings {
        /// The values in force.
        settings: Settings,
    },
    /// To [`Request::ListConnections`].
    Connections {
        /// The rows.
        connections: Vec<Connection>,
        /// Present when there are more.
        next: Option<ConnectionCursor>,
    },
    /// To [`Request::Counters`].
    Counters {
        /// One per worker, by index.
        workers: Vec<WorkerCounters>,
        /// One per port, by index.
        ports: Vec<PortCounters>,
        /// The kernel path's own.
        kernel_path: KernelPathCounters,
    },
    /// To [`Request::NextHops`].
    NextHops {
        /// One per server.
        next_hops: Vec<NextHop>,
        /// Present when there are more.
        next: Option<u64>,
    },
}

/// A typed failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What kind, for programs.
    pub code: ErrorCode,
    /// What and why, in one line, for people.
    pub message: String,
}

impl Error {
    /// An error of `code` that says `message`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The kinds of failure. The first group mirrors the kernel's answers to
/// `ipvsadm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// `-A` of a service that exists (the kernel's EEXIST).
    ServiceExists,
    /// `-E`, `-D`, `-L`, `-Z` of a service that does not exist (ESRCH).
    NoSuchService,
    /// A server command for a service that does not exist (ESRCH).
    ServiceNotDefined,
    /// `-a` of a server that exists (EEXIST).
    ServerExists,
    /// `-e`, `-d` of a server that does not exist (ENOENT).
    NoSuchServer,
    /// A scheduler or persistence engine that does not exist (ENOENT).
    NoSuchScheduler,
    /// A value out of range, a server address that is not unicast (EINVAL).
    InvalidArgument,
    /// Known to IPVS, but not built into this version of RVS.
    Unsupported,
    /// No memory or no free id for one more.
    NoSpace,
    /// The client may look but not change.
    Permission,
    /// Not JSON, not a known request, or no hello first. After a frame whose
    /// JSON is wrong the connection stays usable.
    BadRequest,
    /// A hello with another version; the connection is closed.
    Version,
    /// A frame longer than [`MAX_REQUEST`]; the connection is closed.
    TooLong,
    /// A frame that was begun but not finished in time; the connection is
    /// closed.
    TimedOut,
    /// Too many clients; the connection is closed.
    Busy,
    /// A worker did not take the change up in time. It is in force as soon as
    /// the worker runs again.
    WorkerStalled,
}

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
            local_addresses: Vec::new(),
            client_address: ClientAddress::None,
            mss: None,
        }
    }
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

/// Counters of one worker. At all times
/// `received() == tx + punted + handed_off + held + dropped()`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCounters {
    /// The core that it is pinned to.
    pub core: u32,
    /// Packets from its receive queues.
    pub rx: u64,
    /// Packets that other workers handed to it.
    pub taken_over: u64,
    /// Packets from the kernel's taps.
    pub injected: u64,
    /// Packets that the director made: ICMP errors, fragments.
    pub generated: u64,
    /// Packets given to a port's transmit queue.
    pub tx: u64,
    /// Packets given to the kernel.
    pub punted: u64,
    /// Packets handed to the worker that owns their connection.
    pub handed_off: u64,
    /// Packets whose bytes go on as others: held fragments, packets sent in
    /// fragments, ICMP errors about tunnels.
    pub held: u64,
    /// Packets dropped, by reason; reasons that never occurred are present
    /// with 0.
    pub drops: Vec<Drop>,
    /// Connections in its tables, IPv4 and IPv6.
    pub connections: u64,
    /// Connections that aged out.
    pub expired: u64,
    /// Half-open connections that made room for others in a full table.
    pub recycled: u64,
    /// Packets forwarded without a connection because the table was full (mh).
    pub stateless: u64,
}

impl WorkerCounters {
    /// All packets that the worker got or made.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.rx + self.taken_over + self.injected + self.generated
    }

    /// All packets that the worker dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|d| d.count).sum()
    }
}

/// A drop counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The reason's name, stable across versions.
    pub reason: String,
    /// Packets dropped for it.
    pub count: u64,
}

/// Counters of one port, as its driver keeps them, and of its mbuf pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Name of the port and of its tap.
    pub name: String,
    /// The device as given in the configuration.
    pub device: String,
    /// Its MAC address.
    pub mac: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets that the device had no room for.
    pub rx_missed: u64,
    /// Packets received in error.
    pub rx_errors: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets not sent in error.
    pub tx_errors: u64,
    /// mbufs of the port's pool that are in use. At rest this is what the
    /// device's queues hold.
    pub mbufs_in_use: u32,
    /// mbufs of the pool.
    pub mbufs: u32,
    /// The VLANs on the port. Its counters are those of all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanPort>,
}

/// A VLAN on a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanPort {
    /// Name of its tap.
    pub name: String,
    /// Its id.
    pub id: u16,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// Counters of the kernel path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelPathCounters {
    /// Packets written into a tap.
    pub to_kernel: u64,
    /// Packets that a tap did not take.
    pub to_kernel_failed: u64,
    /// Packets read from a tap and given to a worker.
    pub from_kernel: u64,
    /// Packets read from a tap and dropped: no mbuf, or the worker's ring was
    /// full.
    pub from_kernel_dropped: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_a_stable_json_form() {
        let request = Request::AddServer {
            service: ServiceId::Address {
                protocol: Protocol::Tcp,
                address: "192.168.1.100:80".parse().unwrap(),
            },
            server: ServerSpec {
                address: "192.168.1.31:80".parse().unwrap(),
                method: Method::Dr,
                weight: 1,
                upper_threshold: 0,
                lower_threshold: 0,
            },
        };
        let json = serde_json::to_string(&request).unwrap();
        assert_eq!(
            json,
            r#"{"op":"add_server","service":{"address":{"protocol":"tcp","address":"192.168.1.100:80"}},"server":{"address":"192.168.1.31:80","method":"dr","weight":1,"upper_threshold":0,"lower_threshold":0}}"#
        );
        assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), request);
    }

    #[test]
    fn unknown_fields_are_refused() {
        let service = r#"{"address":{"protocol":"tcp","address":"1.2.3.4:80"}}"#;
        let odd = r#"{"address":{"protocol":"tcp","address":"1.2.3.4:80","port":81}}"#;
        let flush = r#"{"op":"flush"}"#;
        assert_eq!(serde_json::from_str::<Request>(flush).unwrap(), Request::Flush {});
        for json in [
            r#"{"op":"hello","version":1,"surprise":2}"#.to_owned(),
            format!(r#"{{"op":"flush","service":{service}}}"#),
            r#"{"op":"timeouts","surprise":2}"#.to_owned(),
            r#"{"op":"counters","surprise":2}"#.to_owned(),
            r#"{"op":"next_hops","surprise":2}"#.to_owned(),
            format!(r#"{{"op":"delete_service","service":{odd}}}"#),
        ] {
            assert!(serde_json::from_str::<Request>(&json).is_err(), "{json}");
        }
    }

    #[test]
    fn errors_round_trip() {
        let reply: Reply = Err(Error::new(ErrorCode::NoSuchService, "No such service"));
        let json = serde_json::to_string(&reply).unwrap();
        assert_eq!(json, r#"{"Err":{"code":"no_such_service","message":"No such service"}}"#);
        assert_eq!(serde_json::from_str::<Reply>(&json).unwrap(), reply);
    }
}
