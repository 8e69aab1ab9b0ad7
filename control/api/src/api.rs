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

mod counters;
mod error;
mod health;
mod listings;
mod observe;
mod origins;
mod specs;

use std::net::{IpAddr, SocketAddr};

pub use counters::{
    BondCounters, BondMember, Drop, KernelPathCounters, MemberState, PortCounters, VlanPort,
    WorkerCounters,
};
pub use error::{Error, ErrorCode};
pub use health::{HealthChange, HealthCheck, HealthProbe};
pub use listings::{
    Connection, ConnectionCursor, ConnectionFilter, MethodName, Neighbour, NeighbourCursor,
    NextHop, Route, RouteCursor, RouteHop, ServerHealth, ServerStatus, ServiceStatus, Side, Stats,
};
pub use observe::{
    AbsorbedWhy, Choice, Explanation, FrameSeen, IpSeen, MAX_OBSERVATIONS, MAX_OBSERVED, MadeFrame,
    ObserveEnd, ObserveFilter, ObservedConnection, ObservedPacket, OuterSeen, PacketKind,
    PacketSpec, PacketVerdict, WayOut,
};
pub use origins::{Origin, ServerOrigin, ServiceOrigin};
use serde::{Deserialize, Serialize};
pub use specs::{
    ClientAddress, Method, Persistence, Protocol, ServerSpec, ServiceId, ServiceSpec, Settings,
    Timeouts, Tunnel, TunnelChecksum,
};

/// The protocol version that a [`Request::Hello`] must name.
pub const VERSION: u32 = 1;

/// The longest request that the daemon reads, in bytes without the length.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The longest request of a client that may change things: a
/// [`Request::Restore`] of a hundred thousand servers.
pub const MAX_RESTORE: usize = 64 * 1024 * 1024;

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
    /// Changes what the daemon logs, until it ends.
    SetLog {
        /// Levels, of all or by module: `info`, `dataplane=debug,info`.
        filter: String,
    },
    /// Lists connections, at most `limit` a reply, in no particular order.
    /// Connections that come or go between two replies may be missed.
    ListConnections {
        /// Where to go on, from [`Response::Connections::next`].
        cursor: Option<ConnectionCursor>,
        /// Most rows wanted, 1 to [`MAX_ROWS`]. Rows come in groups of up to
        /// 15, so fewer than 15 may be exceeded.
        limit: usize,
        /// Which are wanted; all when absent.
        #[serde(default)]
        filter: Option<Box<ConnectionFilter>>,
        /// Only count them: [`Response::Connections::count`] of all replies
        /// together.
        #[serde(default)]
        count: bool,
    },
    /// Reads the counters of every worker and port.
    Counters {},
    /// Lists the next hop that each server's packets take, in the order of
    /// [`Request::ListServices`].
    NextHops {
        /// Where to go on, from [`Response::NextHops::next`].
        cursor: Option<u64>,
    },
    /// Lists the kernel's neighbours on ports, by port and address.
    Neighbours {
        /// Where to go on, from [`Response::Neighbours::next`].
        cursor: Option<NeighbourCursor>,
    },
    /// Lists the kernel's routes that rvsd follows: IPv4 first, then by the
    /// length of the prefix and the address.
    Routes {
        /// Where to go on, from [`Response::Routes::next`].
        cursor: Option<RouteCursor>,
    },
    /// Reads the configuration file again and carries out what is different in
    /// it. Answered by [`Response::Difference`].
    Reload {
        /// Only says what would be done.
        #[serde(default)]
        dry_run: bool,
        /// Makes all as the file says, also what was changed at run time.
        #[serde(default)]
        exact: bool,
    },
    /// Makes services, timeouts and settings what these requests make of none:
    /// all of them are carried out, or none. Timeouts and settings that they
    /// leave out stay as they are. Answered by [`Response::Difference`].
    Restore {
        /// What may be changed one by one, from `add_service` to `undrain`.
        requests: Vec<Request>,
        /// Only says what would be done.
        #[serde(default)]
        dry_run: bool,
    },
    /// Lists the requests that [`Request::Restore`] takes to make all as it is.
    Save {
        /// Where to go on, from [`Response::Saved::next`].
        cursor: Option<u64>,
    },
    /// Reads what of the configuration is in force.
    Config {},
    /// Lists where services come from, in the order of
    /// [`Request::ListServices`].
    Origins {
        /// Where to go on, from [`Response::Origins::next`].
        cursor: Option<u64>,
    },
    /// Gives a real server weight 0 in every service that has it, and remembers
    /// the weights; [`ErrorCode::NoSuchServer`] when none has it.
    Drain {
        /// The server.
        server: IpAddr,
        /// Only on this port.
        #[serde(default)]
        port: Option<u16>,
        /// Only in this service.
        #[serde(default)]
        service: Option<ServiceId>,
    },
    /// Gives a drained server its weights again; [`ErrorCode::NoSuchServer`]
    /// when none is remembered.
    Undrain {
        /// The server.
        server: IpAddr,
        /// Only on this port.
        #[serde(default)]
        port: Option<u16>,
        /// Only in this service.
        #[serde(default)]
        service: Option<ServiceId>,
    },
    /// Lists the health checks, in the order in which they began.
    Health {
        /// Where to go on, from [`Response::Health::next`].
        cursor: Option<u64>,
    },
    /// Lists the servers that became good or failed, the last one first.
    HealthChanges {},
    /// Begins to observe packets. Shows what is in them, so it needs the
    /// permission to change things. Answered by [`Response::Observing`] when all
    /// workers observe; [`ErrorCode::TooManyObservations`] beyond [`MAX_OBSERVATIONS`].
    ObserveStart {
        /// Which packets.
        #[serde(default)]
        filter: ObserveFilter,
        /// How many of them, at least 1; those that are handed over count once.
        count: u64,
        /// Most bytes of each: 0 to 9,728.
        snaplen: u32,
        /// Most packets a second of each worker, 1 to 100,000. The rest are
        /// counted.
        rate: u32,
        /// It ends after so many seconds, 1 to 86,400.
        seconds: u32,
    },
    /// Takes the packets observed since the last time, in their order. Answered
    /// by [`Response::Observed`]. Who does not ask for five seconds has their
    /// observation ended.
    ObserveNext {
        /// From [`Response::Observing`].
        id: u64,
    },
    /// Ends an observation. Answered as [`Request::ObserveNext`].
    ObserveStop {
        /// From [`Response::Observing`].
        id: u64,
    },
    /// Asks what would happen to a packet now. Changes nothing.
    Explain {
        /// The packet.
        packet: PacketSpec,
    },
}

impl Request {
    /// Whether the request changes anything, or shows what is in packets: both
    /// need the permission to change things.
    #[must_use]
    pub fn changes(&self) -> bool {
        match self {
            Self::Hello { .. }
            | Self::ListServices { .. }
            | Self::Timeouts {}
            | Self::Settings {}
            | Self::ListConnections { .. }
            | Self::Counters {}
            | Self::NextHops { .. }
            | Self::Neighbours { .. }
            | Self::Routes { .. }
            | Self::Save { .. }
            | Self::Config {}
            | Self::Origins { .. }
            | Self::Health { .. }
            | Self::HealthChanges {}
            | Self::Explain { .. } => false,
            Self::AddService { .. }
            | Self::EditService { .. }
            | Self::DeleteService { .. }
            | Self::Flush {}
            | Self::AddServer { .. }
            | Self::EditServer { .. }
            | Self::DeleteServer { .. }
            | Self::Zero { .. }
            | Self::SetTimeouts { .. }
            | Self::SetSetting { .. }
            | Self::SetLog { .. }
            | Self::Reload { .. }
            | Self::Restore { .. }
            | Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::ObserveStart { .. }
            | Self::ObserveNext { .. }
            | Self::ObserveStop { .. } => true,
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
        /// What the daemon logs; see [`Request::SetLog`].
        #[serde(default)]
        log: String,
    },
    /// To [`Request::ListConnections`].
    Connections {
        /// The rows.
        connections: Vec<Connection>,
        /// Present when there are more.
        next: Option<ConnectionCursor>,
        /// How many there are in what this reply covers, if they were to be
        /// counted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count: Option<u64>,
    },
    /// To [`Request::Counters`].
    Counters {
        /// One per worker, by index.
        workers: Vec<WorkerCounters>,
        /// One per port, by index.
        ports: Vec<PortCounters>,
        /// The kernel path's own.
        kernel_path: KernelPathCounters,
        /// Ticks a second of what `busy_cycles` counts.
        #[serde(default)]
        tsc_hz: u64,
        /// Places in each worker's table of one address family.
        #[serde(default)]
        table_places: u64,
    },
    /// To [`Request::NextHops`].
    NextHops {
        /// One per server.
        next_hops: Vec<NextHop>,
        /// Present when there are more.
        next: Option<u64>,
    },
    /// To [`Request::Neighbours`].
    Neighbours {
        /// The rows.
        neighbours: Vec<Neighbour>,
        /// Present when there are more.
        next: Option<NeighbourCursor>,
    },
    /// To [`Request::Routes`].
    Routes {
        /// The rows.
        routes: Vec<Route>,
        /// Present when there are more.
        next: Option<RouteCursor>,
    },
    /// To [`Request::Reload`] and [`Request::Restore`]: what was done, and every
    /// worker runs it, or what would be.
    Difference {
        /// A line each in ipvsadm's words, in this order.
        changes: Vec<String>,
        /// Keys of the file that `rvsd` has to be started anew for.
        restart: Vec<String>,
    },
    /// To [`Request::Save`].
    Saved {
        /// In the order in which they are to be carried out.
        requests: Vec<Request>,
        /// Present when there are more.
        next: Option<u64>,
    },
    /// To [`Request::Config`].
    Config {
        /// The path of the file; absent when the daemon has none.
        file: Option<String>,
        /// What was changed since, and not through the file: a line each in
        /// ipvsadm's words.
        changes: Vec<String>,
        /// Keys that the last reload found changed and could not carry out.
        restart: Vec<String>,
    },
    /// To [`Request::Origins`].
    Origins {
        /// One per service.
        services: Vec<ServiceOrigin>,
        /// Present when there are more.
        next: Option<u64>,
    },
    /// To [`Request::Health`].
    Health {
        /// One per server that is checked.
        checks: Vec<HealthCheck>,
        /// Present when there are more.
        next: Option<u64>,
    },
    /// To [`Request::HealthChanges`].
    HealthChanges {
        /// The last ones, a few hundred at most.
        changes: Vec<HealthChange>,
        /// vips that are withdrawn now.
        withdrawn: Vec<IpAddr>,
    },
    /// To [`Request::ObserveStart`].
    Observing {
        /// What it is known by, to this client only.
        id: u64,
    },
    /// To [`Request::ObserveNext`] and [`Request::ObserveStop`].
    Observed {
        /// The packets, at most [`MAX_OBSERVED`].
        packets: Vec<ObservedPacket>,
        /// Packets so far that matched and are not shown: beyond the rate, or
        /// more than the client took.
        left_out: u64,
        /// Packets so far that nobody looked at, because there were too many
        /// that might have matched.
        passed_by: u64,
        /// Why there are no more; absent while there may be.
        #[serde(skip_serializing_if = "Option::is_none")]
        ended: Option<ObserveEnd>,
    },
    /// To [`Request::Explain`].
    Explained {
        /// What would happen.
        explanation: Box<Explanation>,
    },
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
