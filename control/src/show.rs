//! What `rvsadm show` prints: RVS's own state, beside what ipvsadm lists.

mod configuration;
mod connections;
mod health;
mod listing;
mod network;
mod select;
mod services;
mod table;

use std::io;
use std::path::Path;

use crate::api::{
    BondCounters, BondMember, KernelPathCounters, NextHop, PortCounters, Protocol, Request,
    Response, ServiceId, Settings, VlanPort, WorkerCounters,
};
use crate::client::{Client, ClientError};
use crate::commands::Failure;
use listing::Form;
pub use listing::stdout_width;
use table::row;

/// Show RVS's own counters and state
///
/// Tables fit the terminal. Into a file or pipe they have one line for each row.
/// With --json each is a document with the fields of the control API
/// (docs/control-api.md).
#[derive(Debug, clap::Args)]
pub struct Show {
    #[command(subcommand)]
    topic: Topic,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Topic {
    Services(services::Services),
    Servers(services::Servers),
    Connections(connections::Connections),
    /// Packets, connections and work of each worker
    Workers {
        /// Only of this worker
        #[arg(long, value_name = "NUMBER")]
        worker: Option<usize>,
    },
    /// Counters of each port, and of the path to the kernel
    Ports {
        /// Only of this port
        #[arg(long, value_name = "NAME")]
        port: Option<String>,
    },
    /// Dropped packets by reason
    Drops {
        /// With reasons that never occurred
        #[arg(long)]
        all: bool,
        /// Only of this worker
        #[arg(long, value_name = "NUMBER")]
        worker: Option<usize>,
    },
    /// The way to each real server
    Nexthops,
    Neighbours(network::Neighbours),
    Routes(network::Routes),
    /// What was changed beside the configuration file, and what of it needs a
    /// restart
    Config,
    /// The settings that the kernel has as net.ipv4.vs.*, and what is logged
    Settings,
    /// Health checks and what they found last
    Health,
    /// Servers that became good or failed, the last one first
    HealthChanges,
}

impl Show {
    /// Asks rvsd and prints, into a terminal of this width, or a file or pipe.
    ///
    /// # Errors
    /// For the operator; the exit code is 1.
    pub fn run(
        self,
        socket: &Path,
        width: Option<usize>,
        out: &mut dyn io::Write,
    ) -> Result<(), Failure> {
        let mut client = Client::connect(socket)?;
        self.topic.show(&mut client, Form { json: self.json, width }, out)
    }
}

impl Topic {
    fn show(
        &self,
        client: &mut Client,
        form: Form,
        out: &mut dyn io::Write,
    ) -> Result<(), Failure> {
        match self {
            Self::Services(services) => services.show(client, form, out),
            Self::Servers(servers) => servers.show(client, form, out),
            Self::Connections(connections) => connections.show(client, form, out),
            Self::Neighbours(neighbours) => neighbours.show(client, form, out),
            Self::Routes(routes) => routes.show(client, form, out),
            other => Ok(out.write_all(other.text(client, form.json)?.as_bytes())?),
        }
    }

    /// Topics of one response each.
    fn text(&self, client: &mut Client, json: bool) -> Result<String, ClientError> {
        let mut response = match self {
            Self::Config => client.call(&Request::Config {})?,
            Self::Nexthops => Response::NextHops { next_hops: client.next_hops()?, next: None },
            Self::Settings => client.call(&Request::Settings {})?,
            Self::Health => Response::Health { checks: client.health()?, next: None },
            Self::HealthChanges => client.call(&Request::HealthChanges {})?,
            _ => client.call(&Request::Counters {})?,
        };
        if json {
            self.narrow(&mut response);
            let text = serde_json::to_string_pretty(&response)
                .map_err(|error| ClientError::BadReply(error.to_string()))?;
            return Ok(text + "\n");
        }
        match (self, &response) {
            (Self::Workers { worker }, Response::Counters { workers, .. }) => {
                Ok(show_workers(workers, *worker))
            }
            (Self::Ports { port }, Response::Counters { ports, kernel_path, .. }) => {
                Ok(show_ports(ports, kernel_path, port.as_deref()))
            }
            (Self::Drops { all, worker }, Response::Counters { workers, .. }) => {
                let of = workers.iter().enumerate();
                Ok(show_drops(of.filter(|(n, _)| worker.is_none_or(|w| w == *n)), *all))
            }
            (Self::Nexthops, Response::NextHops { next_hops, .. }) => Ok(show_next_hops(next_hops)),
            (Self::Config, Response::Config { file, changes, restart }) => {
                Ok(configuration::configuration(file.as_deref(), changes, restart))
            }
            (Self::Settings, Response::Settings { settings, log }) => {
                Ok(show_settings(*settings, log))
            }
            (Self::Health, Response::Health { checks, .. }) => Ok(health::checks(checks)),
            (Self::HealthChanges, Response::HealthChanges { changes, withdrawn }) => {
                Ok(health::changes(changes, withdrawn))
            }
            _ => Err(ClientError::BadReply("a response of the wrong kind".to_owned())),
        }
    }

    /// Leaves in a response what was asked for.
    fn narrow(&self, response: &mut Response) {
        let Response::Counters { workers, ports, .. } = response else { return };
        match self {
            Self::Workers { worker: Some(worker) } | Self::Drops { worker: Some(worker), .. } => {
                let kept = workers.get(*worker).cloned();
                *workers = kept.into_iter().collect();
            }
            Self::Ports { port: Some(name) } => ports.retain(|port| port.name == *name),
            _ => {}
        }
    }
}

/// A block for each worker: a row of eleven counters would not fit 80 columns.
fn show_workers(workers: &[WorkerCounters], only: Option<usize>) -> String {
    let mut text = String::new();
    let wanted = |(index, _): &(usize, _)| only.is_none_or(|only| only == *index);
    for (index, worker) in workers.iter().enumerate().filter(wanted) {
        if !text.is_empty() {
            text.push('\n');
        }
        let core = worker.core;
        let packets = worker.rx.saturating_add(worker.taken_over).saturating_add(worker.injected);
        row(&mut text, format_args!("worker {index}, core {core}\n"));
        let left = [
            ("received by ports", worker.rx),
            ("taken over", worker.taken_over),
            ("from the kernel", worker.injected),
            ("made here", worker.generated),
            ("connections", worker.connections),
            ("recycled", worker.recycled),
            ("rounds of work", worker.busy_rounds),
            ("IPv4 places taken", worker.entries[0]),
            ("cycles a packet", per(worker.busy_cycles, packets)),
        ];
        let right = [
            ("sent by ports", worker.tx),
            ("handed off", worker.handed_off),
            ("to the kernel", worker.punted),
            ("kept or cut up", worker.held),
            ("dropped", worker.dropped()),
            ("expired", worker.expired),
            ("without entry", worker.stateless),
            ("IPv6 places", worker.entries[1]),
            ("packets a round", per(packets, worker.busy_rounds)),
        ];
        for ((left, a), (right, b)) in left.into_iter().zip(right) {
            row(&mut text, format_args!("  {left:<17} {a:>20}  {right:<16} {b:>20}\n"));
        }
        row(&mut text, format_args!("  {:<17} {:>20}\n", "taken up", worker.taken_up));
    }
    if text.is_empty() {
        text.push_str("There is no such worker.\n");
    }
    text
}

/// A mean since the start, rounded down; 0 of nothing.
fn per(sum: u64, count: u64) -> u64 {
    sum.checked_div(count).unwrap_or(0)
}

/// A block for each port, for the same reason.
fn show_ports(
    ports: &[PortCounters],
    kernel_path: &KernelPathCounters,
    only: Option<&str>,
) -> String {
    let mut text = String::new();
    for port in ports.iter().filter(|port| only.is_none_or(|only| only == port.name)) {
        let PortCounters { name, device, mac, .. } = port;
        let link = if port.link_up { "up" } else { "down" };
        row(&mut text, format_args!("{name}  link {link}  {mac}\n  {device}\n"));
        row(
            &mut text,
            format_args!(
                "  {:<9} {:>20}  sent {:>23}\n",
                "received", port.rx_packets, port.tx_packets
            ),
        );
        row(
            &mut text,
            format_args!("  {:<9} {:>20}  bytes {:>22}\n", "bytes", port.rx_bytes, port.tx_bytes),
        );
        row(
            &mut text,
            format_args!(
                "  {:<9} {:>20}  errors {:>21}\n",
                "errors", port.rx_errors, port.tx_errors
            ),
        );
        let mbufs = format!("{} of {}", port.mbufs_in_use, port.mbufs);
        row(
            &mut text,
            format_args!("  {:<9} {:>20}  mbufs {mbufs:>22}\n", "missed", port.rx_missed),
        );
        if let Some(BondCounters { mode, members }) = &port.bond {
            row(&mut text, format_args!("  bond      {mode:>20}\n"));
            for BondMember { device, state } in members {
                row(&mut text, format_args!("  member    {device:>20}  {}\n", state.name()));
            }
        }
        for VlanPort { name, id, mtu } in &port.vlans {
            row(&mut text, format_args!("  VLAN {id:<4} {name:>20}  MTU {mtu:>24}\n"));
        }
        text.push('\n');
    }
    if only.is_some() {
        if text.pop().is_none() {
            text.push_str("There is no such port.\n");
        }
        return text;
    }
    let KernelPathCounters { to_kernel, to_kernel_failed, from_kernel, from_kernel_dropped } =
        kernel_path;
    text.push_str("kernel path\n");
    row(&mut text, format_args!("  {:<9} {to_kernel:>20}  failed {to_kernel_failed:>21}\n", "to"));
    row(
        &mut text,
        format_args!("  {:<9} {from_kernel:>20}  dropped {from_kernel_dropped:>20}\n", "from"),
    );
    text
}

/// A row for each reason, over all workers.
fn show_drops<'a>(workers: impl Iterator<Item = (usize, &'a WorkerCounters)>, all: bool) -> String {
    let mut totals: Vec<(&str, u64)> = Vec::new();
    for drop in workers.flat_map(|(_, worker)| &worker.drops) {
        match totals.iter_mut().find(|(reason, _)| *reason == drop.reason) {
            Some((_, count)) => *count += drop.count,
            None => totals.push((&drop.reason, drop.count)),
        }
    }
    totals.retain(|(_, count)| all || *count > 0);
    if totals.is_empty() {
        return "No packet was dropped.\n".to_owned();
    }
    let width = totals.iter().map(|(reason, _)| reason.len()).max().unwrap_or_default();
    let mut text = String::new();
    for (reason, count) in totals {
        row(&mut text, format_args!("{reason:<width$}  {count:>20}\n"));
    }
    text
}

/// A line for each service and one, indented, for each of its servers.
fn show_next_hops(next_hops: &[NextHop]) -> String {
    let mut text = String::new();
    let mut service = None;
    for hop in next_hops {
        if service != Some(hop.service) {
            service = Some(hop.service);
            row(&mut text, format_args!("{}\n", service_name(&hop.service)));
        }
        let server = hop.server.to_string();
        let port = hop.port.as_deref().unwrap_or("no route");
        row(&mut text, format_args!("  -> {server}\n       {port}"));
        match hop.neighbour {
            Some(neighbour) if neighbour != hop.server.ip() => {
                row(&mut text, format_args!(" via {neighbour}"));
            }
            _ => {}
        }
        if hop.neighbour.is_some() {
            row(&mut text, format_args!(" {}", hop.mac.as_deref().unwrap_or("unresolved")));
        }
        text.push('\n');
    }
    if text.is_empty() {
        return "There are no servers.\n".to_owned();
    }
    text
}

/// A line for each, with the name that `rvsadm set` takes.
fn show_settings(settings: Settings, log: &str) -> String {
    let mut text = String::new();
    for (name, value) in settings.rows() {
        row(&mut text, format_args!("{name} = {value}\n"));
    }
    row(&mut text, format_args!("log = {log}\n"));
    text
}

pub(crate) fn service_name(service: &ServiceId) -> String {
    match service {
        ServiceId::Address { protocol, address } => {
            let protocol = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            format!("{protocol} {address}")
        }
        ServiceId::Fwmark { mark, ipv6: false } => format!("FWM {mark}"),
        ServiceId::Fwmark { mark, ipv6: true } => format!("FWM {mark} IPv6"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Drop, MemberState};
    use crate::test_server::{TestServer, hello};

    fn drops(counts: &[(&str, u64)]) -> Vec<Drop> {
        counts.iter().map(|(r, c)| Drop { reason: (*r).to_owned(), count: *c }).collect()
    }

    fn worker(core: u32, drops: Vec<Drop>) -> WorkerCounters {
        WorkerCounters {
            core,
            rx: u64::MAX,
            taken_over: 2,
            injected: 3,
            generated: 9,
            tx: 4,
            punted: 5,
            handed_off: 6,
            held: 10,
            drops,
            connections: 7,
            expired: 8,
            recycled: 11,
            stateless: 12,
            taken_up: 15,
            entries: [13, 14],
            busy_cycles: 0,
            busy_rounds: 0,
        }
    }

    fn counters() -> Response {
        let ports = vec![PortCounters {
            name: "lan".into(),
            device: "net_tap0,iface=dtap0".into(),
            mac: "00:50:00:00:04:00".into(),
            link_up: true,
            link_known: true,
            queues: 1,
            max_queues: 16,
            rx_packets: 1,
            rx_bytes: 2,
            rx_missed: 3,
            rx_errors: 4,
            tx_packets: 5,
            tx_bytes: u64::MAX,
            tx_errors: 7,
            mbufs_in_use: 8,
            mbufs: 4095,
            bond: Some(BondCounters {
                mode: "active-backup".into(),
                members: vec![
                    BondMember { device: "0000:01:00.0".into(), state: MemberState::Down },
                    BondMember { device: "net_af_packet12".into(), state: MemberState::Active },
                ],
            }),
            vlans: vec![VlanPort { name: "fifteen-letters".into(), id: 4094, mtu: 9600 }],
        }];
        let workers = vec![
            worker(0, drops(&[("bad_checksum", 1), ("no_neighbour", 0), ("truncated", 20)])),
            worker(1, drops(&[("bad_checksum", 4), ("no_neighbour", 0), ("truncated", 0)])),
        ];
        let kernel_path = KernelPathCounters::default();
        Response::Counters { workers, ports, kernel_path, tsc_hz: 1, table_places: 2 }
    }

    const WORKERS: Topic = Topic::Workers { worker: None };
    const PORTS: Topic = Topic::Ports { port: None };
    const DROPS: Topic = Topic::Drops { all: false, worker: None };

    fn shown(response: Response, topic: &Topic, json: bool) -> String {
        let server = TestServer::start(vec![hello(), Ok(response)]);
        let mut client = Client::connect(server.path()).unwrap();
        let mut out = Vec::new();
        topic.show(&mut client, Form { json, width: Some(80) }, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_line_fits_80_columns() {
        for topic in [WORKERS, PORTS, Topic::Drops { all: true, worker: None }] {
            for line in shown(counters(), &topic, false).lines() {
                assert!(line.len() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn workers_have_a_block_each() {
        let text = shown(counters(), &WORKERS, false);
        let first = "\
worker 0, core 0
  received by ports 18446744073709551615  sent by ports                       4
  taken over                           2  handed off                          6
  from the kernel                      3  to the kernel                       5
  made here                            9  kept or cut up                     10
  connections                          7  dropped                            21
  recycled                            11  expired                             8
  rounds of work                       0  without entry                      12
  IPv4 places taken                   13  IPv6 places                        14
  cycles a packet                      0  packets a round                     0
  taken up                            15

worker 1, core 1
";
        assert_eq!(text.get(..first.len()), Some(first), "{text}");
    }

    #[test]
    fn ports_have_a_block_each() {
        let text = shown(counters(), &PORTS, false);
        let expected = "\
lan  link up  00:50:00:00:04:00
  net_tap0,iface=dtap0
  received                     1  sent                       5
  bytes                        2  bytes   18446744073709551615
  errors                       4  errors                     7
  missed                       3  mbufs              8 of 4095
  bond             active-backup
  member            0000:01:00.0  down
  member         net_af_packet12  active
  VLAN 4094      fifteen-letters  MTU                     9600

kernel path
  to                           0  failed                     0
  from                         0  dropped                    0
";
        assert_eq!(text, expected);
    }

    #[test]
    fn drops_are_summed_and_zeros_left_out() {
        assert_eq!(
            shown(counters(), &DROPS, false),
            "bad_checksum                     5\ntruncated                       20\n"
        );
        assert!(
            shown(counters(), &Topic::Drops { all: true, worker: None }, false)
                .contains("no_neighbour")
        );
        let none = Response::Counters {
            workers: vec![worker(0, drops(&[("truncated", 0)]))],
            ports: Vec::new(),
            kernel_path: KernelPathCounters::default(),
            tsc_hz: 1,
            table_places: 2,
        };
        assert_eq!(shown(none, &DROPS, false), "No packet was dropped.\n");
    }

    #[test]
    fn next_hops_tell_how_servers_are_reached() {
        let service = ServiceId::Address {
            protocol: Protocol::Tcp,
            address: "192.168.1.100:80".parse().unwrap(),
        };
        let hop = |server: &str, port: Option<&str>, neighbour: Option<&str>, mac: Option<&str>| {
            NextHop {
                service,
                server: server.parse().unwrap(),
                port: port.map(str::to_owned),
                neighbour: neighbour.map(|n| n.parse().unwrap()),
                mac: mac.map(str::to_owned),
            }
        };
        let next_hops = vec![
            hop("192.168.1.31:80", Some("lan"), Some("192.168.1.31"), Some("00:50:00:00:01:00")),
            hop("10.0.0.9:80", Some("lan"), Some("192.168.1.1"), None),
            hop("10.9.0.9:80", None, None, None),
        ];
        let text = shown(Response::NextHops { next_hops, next: None }, &Topic::Nexthops, false);
        let expected = "\
TCP 192.168.1.100:80
  -> 192.168.1.31:80
       lan 00:50:00:00:01:00
  -> 10.0.0.9:80
       lan via 192.168.1.1 unresolved
  -> 10.9.0.9:80
       no route
";
        assert_eq!(text, expected);
    }

    #[test]
    fn settings_have_a_line_each() {
        let settings = Settings { sloppy_tcp: 1, ..Settings::default() };
        let response = Response::Settings { settings, log: "dataplane=debug,info".to_owned() };
        let text = shown(response, &Topic::Settings, false);
        let expected = "\
expire_nodest_conn = 0
expire_quiescent_template = 0
conn_reuse_mode = 1
sloppy_tcp = 1
sloppy_sctp = 0
nat_icmp_send = 0
schedule_icmp = 0
pmtu_disc = 1
log = dataplane=debug,info
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_is_the_response_of_the_api() {
        let text = shown(counters(), &DROPS, true);
        assert_eq!(serde_json::from_str::<Response>(&text).unwrap(), counters());
    }
}
