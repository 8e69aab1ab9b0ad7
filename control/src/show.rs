//! What `rvsadm show` prints: RVS's own state, beside what ipvsadm lists.

mod health;

use std::fmt::Write;
use std::io;
use std::path::Path;

use crate::api::{
    KernelPathCounters, NextHop, PortCounters, Protocol, Request, Response, ServiceId, Settings,
    VlanPort, WorkerCounters,
};
use crate::client::{Client, ClientError};
use crate::commands::Failure;

mod configuration;

/// What to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Topic {
    /// Services and servers, and whether they are as the configuration file says.
    Services,
    /// What was changed beside the configuration file, and what of it needs a
    /// restart.
    Config,
    /// Packets and connections of each worker.
    Workers,
    /// Counters of each port, and of the path to the kernel.
    Ports,
    /// Dropped packets by reason.
    Drops,
    /// The way to each real server.
    Nexthops,
    /// The settings that the kernel has as `net.ipv4.vs.*`, and what is logged.
    Settings,
    /// Health checks and what they found last.
    Health,
    /// Servers that became good or failed, the last one first.
    HealthChanges,
}

/// Show RVS's own counters and state
#[derive(Debug, clap::Args)]
pub struct Show {
    /// What to show
    #[arg(value_enum)]
    topic: Topic,
    /// In the form of the control API
    #[arg(long)]
    json: bool,
    /// With drop reasons that never occurred
    #[arg(long)]
    all: bool,
}

impl Show {
    /// Asks rvsd and prints.
    ///
    /// # Errors
    /// For the operator; the exit code is 1.
    pub fn run(self, socket: &Path, stdout: &mut dyn io::Write) -> Result<(), Failure> {
        let mut client = Client::connect(socket)?;
        let text = show(&mut client, self.topic, self.json, self.all)?;
        Ok(stdout.write_all(text.as_bytes())?)
    }
}

/// Asks the daemon and prepares the text. `json` gives the API's own form,
/// `all` shows drop reasons that never occurred.
fn show(client: &mut Client, topic: Topic, json: bool, all: bool) -> Result<String, ClientError> {
    let response = match topic {
        Topic::Services => return configuration::services(client, json),
        Topic::Config => client.call(&Request::Config {})?,
        Topic::Nexthops => Response::NextHops { next_hops: client.next_hops()?, next: None },
        Topic::Settings => client.call(&Request::Settings {})?,
        Topic::Health => Response::Health { checks: client.health()?, next: None },
        Topic::HealthChanges => client.call(&Request::HealthChanges {})?,
        Topic::Workers | Topic::Ports | Topic::Drops => client.call(&Request::Counters {})?,
    };
    if json {
        let text = serde_json::to_string_pretty(&response)
            .map_err(|error| ClientError::BadReply(error.to_string()))?;
        return Ok(text + "\n");
    }
    match (topic, &response) {
        (Topic::Workers, Response::Counters { workers, .. }) => Ok(show_workers(workers)),
        (Topic::Ports, Response::Counters { ports, kernel_path, .. }) => {
            Ok(show_ports(ports, kernel_path))
        }
        (Topic::Drops, Response::Counters { workers, .. }) => Ok(show_drops(workers, all)),
        (Topic::Nexthops, Response::NextHops { next_hops, .. }) => Ok(show_next_hops(next_hops)),
        (Topic::Config, Response::Config { file, changes, restart }) => {
            Ok(configuration::configuration(file.as_deref(), changes, restart))
        }
        (Topic::Settings, Response::Settings { settings, log }) => {
            Ok(show_settings(*settings, log))
        }
        (Topic::Health, Response::Health { checks, .. }) => Ok(health::checks(checks)),
        (Topic::HealthChanges, Response::HealthChanges { changes, withdrawn }) => {
            Ok(health::changes(changes, withdrawn))
        }
        _ => Err(ClientError::BadReply("a response of the wrong kind".to_owned())),
    }
}

/// A block for each worker: a row of eleven counters would not fit 80 columns.
fn show_workers(workers: &[WorkerCounters]) -> String {
    let mut text = String::new();
    for (index, worker) in workers.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let core = worker.core;
        row(&mut text, format_args!("worker {index}, core {core}\n"));
        let left = [
            ("received by ports", worker.rx),
            ("taken over", worker.taken_over),
            ("from the kernel", worker.injected),
            ("made here", worker.generated),
            ("connections", worker.connections),
            ("recycled", worker.recycled),
            ("", 0),
        ];
        let right = [
            ("sent by ports", worker.tx),
            ("handed off", worker.handed_off),
            ("to the kernel", worker.punted),
            ("kept or cut up", worker.held),
            ("dropped", worker.dropped()),
            ("expired", worker.expired),
            ("without entry", worker.stateless),
        ];
        for ((left, a), (right, b)) in left.into_iter().zip(right) {
            if left.is_empty() {
                row(&mut text, format_args!("  {:<38}  {right:<16} {b:>20}\n", ""));
            } else {
                row(&mut text, format_args!("  {left:<17} {a:>20}  {right:<16} {b:>20}\n"));
            }
        }
    }
    text
}

/// A block for each port, for the same reason.
fn show_ports(ports: &[PortCounters], kernel_path: &KernelPathCounters) -> String {
    let mut text = String::new();
    for port in ports {
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
        for VlanPort { name, id, mtu } in &port.vlans {
            row(&mut text, format_args!("  VLAN {id:<4} {name:>20}  MTU {mtu:>24}\n"));
        }
        text.push('\n');
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
fn show_drops(workers: &[WorkerCounters], all: bool) -> String {
    let mut totals: Vec<(&str, u64)> = Vec::new();
    for drop in workers.iter().flat_map(|w| &w.drops) {
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

/// Appends to a string, which cannot fail.
fn row(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Drop;
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
        }
    }

    fn counters() -> Response {
        let ports = vec![PortCounters {
            name: "lan".into(),
            device: "net_tap0,iface=dtap0".into(),
            mac: "00:50:00:00:04:00".into(),
            link_up: true,
            rx_packets: 1,
            rx_bytes: 2,
            rx_missed: 3,
            rx_errors: 4,
            tx_packets: 5,
            tx_bytes: u64::MAX,
            tx_errors: 7,
            mbufs_in_use: 8,
            mbufs: 4095,
            vlans: vec![VlanPort { name: "fifteen-letters".into(), id: 4094, mtu: 9600 }],
        }];
        let workers = vec![
            worker(0, drops(&[("bad_checksum", 1), ("no_neighbour", 0), ("truncated", 20)])),
            worker(1, drops(&[("bad_checksum", 4), ("no_neighbour", 0), ("truncated", 0)])),
        ];
        Response::Counters { workers, ports, kernel_path: KernelPathCounters::default() }
    }

    fn shown(response: Response, topic: Topic, json: bool, all: bool) -> String {
        let server = TestServer::start(vec![hello(), Ok(response)]);
        let mut client = Client::connect(server.path()).unwrap();
        show(&mut client, topic, json, all).unwrap()
    }

    #[test]
    fn every_line_fits_80_columns() {
        for topic in [Topic::Workers, Topic::Ports, Topic::Drops] {
            for line in shown(counters(), topic, false, true).lines() {
                assert!(line.len() <= 80, "{line}");
            }
        }
    }

    #[test]
    fn workers_have_a_block_each() {
        let text = shown(counters(), Topic::Workers, false, false);
        let first = "\
worker 0, core 0
  received by ports 18446744073709551615  sent by ports                       4
  taken over                           2  handed off                          6
  from the kernel                      3  to the kernel                       5
  made here                            9  kept or cut up                     10
  connections                          7  dropped                            21
  recycled                            11  expired                             8
                                          without entry                      12

worker 1, core 1
";
        assert_eq!(text.get(..first.len()), Some(first), "{text}");
    }

    #[test]
    fn ports_have_a_block_each() {
        let text = shown(counters(), Topic::Ports, false, false);
        let expected = "\
lan  link up  00:50:00:00:04:00
  net_tap0,iface=dtap0
  received                     1  sent                       5
  bytes                        2  bytes   18446744073709551615
  errors                       4  errors                     7
  missed                       3  mbufs              8 of 4095
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
            shown(counters(), Topic::Drops, false, false),
            "bad_checksum                     5\ntruncated                       20\n"
        );
        assert!(shown(counters(), Topic::Drops, false, true).contains("no_neighbour"));
        let none = Response::Counters {
            workers: vec![worker(0, drops(&[("truncated", 0)]))],
            ports: Vec::new(),
            kernel_path: KernelPathCounters::default(),
        };
        assert_eq!(shown(none, Topic::Drops, false, false), "No packet was dropped.\n");
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
        let text =
            shown(Response::NextHops { next_hops, next: None }, Topic::Nexthops, false, false);
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
        let text = shown(response, Topic::Settings, false, false);
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
        let text = shown(counters(), Topic::Drops, true, false);
        assert_eq!(serde_json::from_str::<Response>(&text).unwrap(), counters());
    }
}
