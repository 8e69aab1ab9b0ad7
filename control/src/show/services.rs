//! Services and servers, with where they come from.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::Write;

use serde::{Serialize, Serializer};

use super::listing::{Form, Listing, What};
use super::select::{Method, Protocol, service_is};
use super::service_name;
use super::table::{Column, Kind, column};
use crate::api::{
    MethodName, Origin, ServerStatus, ServiceId, ServiceOrigin, ServiceSpec, ServiceStatus, Side,
    Stats,
};
use crate::client::{Client, ClientError};
use crate::commands::Failure;

/// Virtual services, and whether they are as the configuration file says
///
/// Rates are those of ipvsadm --rate, averages over some seconds.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Services {
    /// Only of this virtual address: 10.0.0.1, 10.0.0.0/8, 10.0.0.1:80, :80
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<Side>,
    /// Only of this protocol
    #[arg(long, value_enum)]
    proto: Option<Protocol>,
    /// In this order, numbers from the largest; else the newest first
    #[arg(long, value_enum, value_name = "KEY")]
    sort: Option<Key>,
    /// So many at most
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
}

/// Real servers of all services
#[derive(Debug, Default, clap::Args)]
pub(super) struct Servers {
    /// Only of services of this virtual address
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<Side>,
    /// Only these servers: 10.0.0.1, 10.0.0.0/8, 10.0.0.1:80, :80
    #[arg(long, value_name = "ADDRESS")]
    server: Option<Side>,
    /// Only of services of this protocol
    #[arg(long, value_enum)]
    proto: Option<Protocol>,
    /// Only with this forwarding method
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// In this order, numbers from the largest; else by service
    #[arg(long, value_enum, value_name = "KEY")]
    sort: Option<Key>,
    /// So many at most
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
}

/// What services and servers are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Key {
    Name,
    /// Connections in an active state
    Active,
    /// Other connections
    Inactive,
    /// New connections a second
    ConnRate,
    /// Packets of clients a second
    PacketRate,
    /// Bytes of clients a second
    ByteRate,
}

const SERVICES: &[Column] = &[
    column("SERVICE", Kind::Long),
    column("SCHED", Kind::Word),
    column("SERVERS", Kind::Number),
    column("ACTIVE", Kind::Number),
    column("INACT", Kind::Number),
    column("CONN/S", Kind::Number),
    column("PKT/S", Kind::Number),
    column("ORIGIN", Kind::Word),
];

const SERVERS: &[Column] = &[
    column("SERVICE", Kind::Long),
    column("SERVER", Kind::Long),
    column("METHOD", Kind::Word),
    column("WEIGHT", Kind::Number),
    column("ACTIVE", Kind::Number),
    column("INACT", Kind::Number),
    column("CONN/S", Kind::Number),
    column("PKT/S", Kind::Number),
    column("HEALTH", Kind::Word),
    column("ORIGIN", Kind::Word),
];

/// A row as both forms need it.
struct Row {
    json: serde_json::Value,
    cells: Vec<String>,
    active: u64,
    inactive: u64,
    stats: Stats,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.json.serialize(serializer)
    }
}

fn arrange(rows: &mut Vec<Row>, sort: Option<Key>, limit: Option<usize>) {
    match sort {
        None => {}
        Some(Key::Name) => rows.sort_by(|a, b| a.cells.cmp(&b.cells)),
        Some(Key::Active) => rows.sort_by_key(|row| Reverse(row.active)),
        Some(Key::Inactive) => rows.sort_by_key(|row| Reverse(row.inactive)),
        Some(Key::ConnRate) => rows.sort_by_key(|row| Reverse(row.stats.connection_rate)),
        Some(Key::PacketRate) => rows.sort_by_key(|row| Reverse(row.stats.in_packet_rate)),
        Some(Key::ByteRate) => rows.sort_by_key(|row| Reverse(row.stats.in_byte_rate)),
    }
    rows.truncate(limit.unwrap_or(usize::MAX));
}

impl Services {
    pub(super) fn show(
        &self,
        client: &mut Client,
        form: Form,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let (services, origins) = read(client)?;
        let mut rows = Vec::new();
        for service in &services {
            if service_is(&service.spec.id, self.vip, self.proto) {
                rows.push(of_service(service, origins.get(&service.spec.id)).map_err(bad)?);
            }
        }
        arrange(&mut rows, self.sort, self.limit);
        let what = What { name: "services", columns: SERVICES, none: "There are no services." };
        print(what, &rows, form, out)
    }
}

impl Servers {
    pub(super) fn show(
        &self,
        client: &mut Client,
        form: Form,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let (services, origins) = read(client)?;
        let mut rows = Vec::new();
        for service in &services {
            if !service_is(&service.spec.id, self.vip, self.proto) {
                continue;
            }
            for server in &service.servers {
                let method = MethodName::from(&server.spec.method);
                if self.server.is_none_or(|side| side.has(server.spec.address))
                    && self.method.is_none_or(|wanted| wanted.api() == method)
                {
                    let origin = origins.get(&service.spec.id);
                    rows.push(of_server(&service.spec.id, server, origin).map_err(bad)?);
                }
            }
        }
        arrange(&mut rows, self.sort, self.limit);
        let what = What { name: "servers", columns: SERVERS, none: "There are no servers." };
        print(what, &rows, form, out)
    }
}

fn print(what: What, rows: &[Row], form: Form, out: &mut dyn Write) -> Result<(), Failure> {
    let mut listing = Listing::begin(what, form, out)?;
    listing.page(rows, |row| row.cells.clone())?;
    Ok(listing.end()?)
}

fn bad(error: serde_json::Error) -> ClientError {
    ClientError::BadReply(error.to_string())
}

type Origins = HashMap<ServiceId, ServiceOrigin>;

fn read(client: &mut Client) -> Result<(Vec<ServiceStatus>, Origins), ClientError> {
    let services = client.services(None)?.services;
    // Services may come and go between the two listings.
    let origins = client.origins()?.into_iter().map(|origin| (origin.service, origin)).collect();
    Ok((services, origins))
}

/// The row of the API's listing with an `origin`, also of each server.
fn of_service(service: &ServiceStatus, origin: Option<&ServiceOrigin>) -> serde_json::Result<Row> {
    let mut json = serde_json::to_value(service)?;
    let own = origin.map(|origin| origin.origin);
    json["origin"] = serde_json::to_value(own)?;
    for (index, server) in service.servers.iter().enumerate() {
        json["servers"][index]["origin"] = serde_json::to_value(server_origin(origin, server))?;
    }
    let sum = |count: fn(&ServerStatus) -> u32| {
        service.servers.iter().map(|server| u64::from(count(server))).sum::<u64>()
    };
    let (active, inactive) = (sum(|server| server.active), sum(|server| server.inactive));
    let cells = vec![
        service_name(&service.spec.id),
        scheduler_of(&service.spec),
        service.servers.len().to_string(),
        active.to_string(),
        inactive.to_string(),
        service.stats.connection_rate.to_string(),
        service.stats.in_packet_rate.to_string(),
        shown(own),
    ];
    Ok(Row { json, cells, active, inactive, stats: service.stats })
}

fn scheduler_of(spec: &ServiceSpec) -> String {
    let take_up = if spec.take_up { ",take-up" } else { "" };
    format!("{}{take_up}", spec.scheduler)
}

/// The row of the API's listing with its `service` and `origin`.
fn of_server(
    service: &ServiceId,
    server: &ServerStatus,
    origin: Option<&ServiceOrigin>,
) -> serde_json::Result<Row> {
    let mut json = serde_json::to_value(server)?;
    let own = server_origin(origin, server);
    json["service"] = serde_json::to_value(service)?;
    json["origin"] = serde_json::to_value(own)?;
    let (active, inactive) = (u64::from(server.active), u64::from(server.inactive));
    let health = match server.health {
        None => "-",
        Some(health) if health.sorry_server => "sorry",
        Some(health) if health.up => "up",
        Some(_) => "DOWN",
    };
    let cells = vec![
        service_name(service),
        server.spec.address.to_string(),
        MethodName::from(&server.spec.method).name().to_owned(),
        server.spec.weight.to_string(),
        active.to_string(),
        inactive.to_string(),
        server.stats.connection_rate.to_string(),
        server.stats.in_packet_rate.to_string(),
        health.to_owned(),
        shown(own),
    ];
    Ok(Row { json, cells, active, inactive, stats: server.stats })
}

fn shown(origin: Option<Origin>) -> String {
    origin.map_or_else(|| "-".to_owned(), |origin| origin.to_string())
}

fn server_origin(service: Option<&ServiceOrigin>, server: &ServerStatus) -> Option<Origin> {
    let own = |origin: &&crate::api::ServerOrigin| origin.server == server.spec.address;
    service?.servers.iter().find(own).map(|origin| origin.origin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{self, Response, ServerHealth, ServerOrigin, ServerSpec};
    use crate::test_server::{TestServer, hello};

    const LONG: &str = "[fd00:1234:5678:9abc:def0:1234:5678:9ab2]:65535";

    fn server(address: &str, active: u32) -> ServerStatus {
        ServerStatus {
            spec: ServerSpec {
                address: address.parse().unwrap(),
                method: api::Method::Fullnat,
                weight: 65_535,
                upper_threshold: 0,
                lower_threshold: 0,
            },
            active,
            inactive: 3,
            persistent: 0,
            stats: Stats { connection_rate: 7, in_packet_rate: 123_456, ..Stats::default() },
            health: (active == 2).then_some(ServerHealth {
                up: false,
                configured_weight: 1,
                sorry_server: false,
            }),
        }
    }

    fn replies() -> Vec<api::Reply> {
        let id = |address: &str| ServiceId::Address {
            protocol: api::Protocol::Tcp,
            address: address.parse().unwrap(),
        };
        let (first, second) =
            (id("[fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535"), id("192.168.1.100:80"));
        let status = |id, scheduler: &str, servers| ServiceStatus {
            spec: ServiceSpec::new(id, scheduler),
            stats: Stats { connection_rate: 7, in_packet_rate: 123_456, ..Stats::default() },
            servers,
        };
        let services = vec![
            status(first, "lblcr", vec![server(LONG, 2), server("10.0.0.1:80", 9)]),
            status(second, "rr", Vec::new()),
        ];
        // The second server has come since the origins were listed.
        let servers = vec![ServerOrigin { server: LONG.parse().unwrap(), origin: Origin::Runtime }];
        let origins = vec![
            ServiceOrigin { service: first, origin: Origin::Changed, servers },
            ServiceOrigin { service: second, origin: Origin::File, servers: Vec::new() },
        ];
        vec![
            hello(),
            Ok(Response::Services { services, next: None, table_size: 1 }),
            Ok(Response::Origins { services: origins, next: None }),
        ]
    }

    fn services(args: &Services, json: bool, width: Option<usize>) -> String {
        let server = TestServer::start(replies());
        let mut client = Client::connect(server.path()).unwrap();
        let mut out = Vec::new();
        args.show(&mut client, Form { json, width }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn servers(args: &Servers, json: bool, width: Option<usize>) -> String {
        let server = TestServer::start(replies());
        let mut client = Client::connect(server.path()).unwrap();
        let mut out = Vec::new();
        args.show(&mut client, Form { json, width }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn services_fit_80_columns() {
        let expected = "\
SERVICE
    SCHED  SERVERS  ACTIVE  INACT  CONN/S   PKT/S  ORIGIN
TCP [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535
    lblcr        2      11      6       7  123456  changed
TCP 192.168.1.100:80
    rr           0       0      0       7  123456  file
";
        assert_eq!(services(&Services::default(), false, Some(80)), expected);
    }

    #[test]
    fn services_have_a_line_each_at_200_columns_and_piped() {
        let expected = "\
SERVICE                                              SCHED  SERVERS  ACTIVE  INACT  CONN/S   PKT/S  ORIGIN
TCP [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535  lblcr        2      11      6       7  123456  changed
TCP 192.168.1.100:80                                 rr           0       0      0       7  123456  file
";
        for width in [Some(200), None] {
            assert_eq!(services(&Services::default(), false, width), expected);
        }
    }

    #[test]
    fn servers_fit_80_columns() {
        let expected = "\
SERVICE
    SERVER
    METHOD   WEIGHT  ACTIVE  INACT  CONN/S   PKT/S  HEALTH  ORIGIN
TCP [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535
    server [fd00:1234:5678:9abc:def0:1234:5678:9ab2]:65535
    fullnat   65535       2      3       7  123456  DOWN    runtime
TCP [fd00:1234:5678:9abc:def0:1234:5678:9abc]:65535
    server 10.0.0.1:80
    fullnat   65535       9      3       7  123456  -       -
";
        assert_eq!(servers(&Servers::default(), false, Some(80)), expected);
    }

    #[test]
    fn rows_are_picked_and_sorted() {
        let args = Services { vip: "192.168.0.0/16".parse().ok(), ..Services::default() };
        assert_eq!(services(&args, false, None).lines().count(), 2);
        let args = Services { proto: Some(Protocol::Udp), ..Services::default() };
        assert_eq!(services(&args, false, None), "There are no services.\n");
        let args = Servers { server: ":80".parse().ok(), ..Servers::default() };
        assert!(servers(&args, false, None).contains("10.0.0.1:80"));
        assert!(!servers(&args, false, None).contains(LONG));
        let args = Servers { method: Some(Method::Nat), ..Servers::default() };
        assert_eq!(servers(&args, false, None), "There are no servers.\n");
        let args = Servers { sort: Some(Key::Active), limit: Some(1), ..Servers::default() };
        let text = servers(&args, false, None);
        assert!(text.contains("10.0.0.1:80") && text.lines().count() == 2, "{text}");
    }

    #[test]
    fn json_is_the_apis_with_origins() {
        let value = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let json = value(services(&Services::default(), true, None));
        assert_eq!(json["services"][0]["origin"], "changed");
        assert_eq!(json["services"][0]["scheduler"], "lblcr");
        assert_eq!(json["services"][0]["servers"][0]["origin"], "runtime");
        assert_eq!(json["services"][0]["servers"][1]["origin"], serde_json::Value::Null);
        let json = value(servers(&Servers::default(), true, None));
        assert_eq!(json["servers"][0]["address"], LONG);
        assert_eq!(json["servers"][0]["service"]["address"]["protocol"], "tcp");
        assert_eq!(json["servers"][0]["origin"], "runtime");
        assert_eq!(json["servers"][0]["weight"], 65_535);
    }
}
