//! Every listing form, byte for byte: rvsadm and Debian's ipvsadm print what
//! ipvsadm printed on a kernel with the same services and counters.

use std::collections::HashMap;

use control::api::{Connection, Protocol, ServerStatus, ServiceStatus, Stats};
use control::ipvsadm::grammar::{self, Command};
use control::ipvsadm::names::Ports;

use crate::bench::Ran;
use crate::fake::{Fake, State};
use crate::{Row, debian, ours, ran};

pub(crate) const TESTS: &[Row] = &[
    ("the recorded listings, by rvsadm", "sh", by_rvsadm),
    ("the recorded listings, by Debian's ipvsadm", "ipvsadm", by_debian),
    ("the recorded listings with names, by Debian's ipvsadm", "unshare", with_names),
    ("a thousand services, by Debian's ipvsadm", "ipvsadm", thousand),
];

const RECORDED: &str = include_str!("listings.txt");

/// A command of the recording and what it printed.
struct Recording {
    line: &'static str,
    output: &'static str,
    code: u8,
}

fn recordings() -> Vec<Recording> {
    let blocks = RECORDED.split("$ ipvsadm ").skip(1);
    let read = |block: &'static str| {
        let (line, rest) = block.split_once('\n').unwrap();
        let (output, code) = rest.rsplit_once("rc=").unwrap();
        Recording { line, output, code: code.trim().parse().unwrap() }
    };
    blocks.map(read).collect()
}

fn output(line: &str) -> &'static str {
    recordings().into_iter().find(|r| r.line == line).unwrap().output
}

/// The rows of a table of services, servers included, without its title.
fn rows(line: &str) -> impl Iterator<Item = &'static str> {
    output(line).lines().skip(3)
}

/// The services of the recording, with the numbers of all its tables, in the
/// kernel's order.
fn services() -> Vec<ServiceStatus> {
    let mut services: Vec<ServiceStatus> = Vec::new();
    for line in output("-Sn").lines() {
        let words = line.split_whitespace().map(Into::into);
        match grammar::parse(words, "ipvsadm", &Ports::default()) {
            Ok(Command::AddService(spec)) => {
                let servers = Vec::new();
                services.push(ServiceStatus { spec, stats: Stats::default(), servers });
            }
            Ok(Command::AddServer(_, spec)) => {
                let (active, inactive, persistent) = (0, 0, 0);
                let stats = Stats::default();
                let server =
                    ServerStatus { spec, active, inactive, persistent, stats, health: None };
                services.last_mut().unwrap().servers.push(server);
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    // The tables have the same order.
    let mut stats = rows("-Ln --stats").map(last_five).zip(rows("-Ln --rate").map(last_five));
    let mut thresholds = rows("-Ln --thresholds");
    let mut persistent = rows("-Ln --persistent-conn");
    for service in &mut services {
        service.stats = counters(stats.next().unwrap());
        thresholds.next();
        persistent.next();
        for server in &mut service.servers {
            server.stats = counters(stats.next().unwrap());
            let numbers = last_five(thresholds.next().unwrap());
            server.spec.upper_threshold = numbers[1] as u32;
            server.spec.lower_threshold = numbers[2] as u32;
            server.active = numbers[3] as u32;
            server.inactive = numbers[4] as u32;
            server.persistent = last_five(persistent.next().unwrap())[2] as u32;
        }
    }
    let order: Vec<_> = rows("-Ln --nosort").collect();
    let names: HashMap<_, _> =
        services.iter().map(|service| (name(service), service.clone())).collect();
    let newest_first = order.iter().filter_map(|row| {
        let mut words = row.split_whitespace();
        let key = [words.next()?, words.next()?].join(" ");
        let mut service = names.get(&key)?.clone();
        service.servers.reverse();
        Some(service)
    });
    let services: Vec<_> = newest_first.collect();
    assert_eq!(services.len(), 9);
    services
}

/// What a service's row begins with.
fn name(service: &ServiceStatus) -> String {
    match service.spec.id {
        control::api::ServiceId::Address { protocol, address } => {
            let name = match protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
                Protocol::Sctp => "SCTP",
            };
            format!("{name} {address}")
        }
        control::api::ServiceId::Fwmark { mark, .. } => format!("FWM {mark}"),
    }
}

/// The last five words of a row, as far as they are numbers.
fn last_five(row: &str) -> [u64; 5] {
    let mut numbers = [0; 5];
    for (number, word) in numbers.iter_mut().rev().zip(row.split_whitespace().rev()) {
        *number = word.parse().unwrap_or(0);
    }
    numbers
}

fn counters((counts, rates): ([u64; 5], [u64; 5])) -> Stats {
    Stats {
        connections: counts[0],
        in_packets: counts[1],
        out_packets: counts[2],
        in_bytes: counts[3],
        out_bytes: counts[4],
        connection_rate: rates[0],
        in_packet_rate: rates[1],
        out_packet_rate: rates[2],
        in_byte_rate: rates[3],
        out_byte_rate: rates[4],
    }
}

/// The connections of a listing. Their addresses are those of `-Lnc`, as they
/// came in the same order each time, only the time went on.
fn connections(line: &str) -> Vec<Connection> {
    let expires = output(line).lines().skip(2);
    let rows = output("-Lnc").lines().skip(2).zip(expires);
    rows.map(|(row, then)| {
        let words: Vec<_> = row.split_whitespace().collect();
        let (minutes, seconds) = then.split_whitespace().nth(1).unwrap().split_once(':').unwrap();
        let number = |text: &str| text.parse::<u64>().unwrap();
        Connection {
            protocol: Protocol::Tcp,
            state: words[2].into(),
            expires_ms: (number(minutes) * 60 + number(seconds)) * 1000 + 500,
            client: words[3].parse().unwrap(),
            virtual_address: words[4].parse().unwrap(),
            server: words[5].parse().unwrap(),
            worker: 0,
            method: None,
            template: false,
        }
    })
    .collect()
}

/// A daemon in the state in which the recording was made.
fn recorded(line: &str) -> Fake {
    let connections = if line.contains('c') && !line.contains(' ') || line.starts_with("-Lnc") {
        connections(line)
    } else {
        Vec::new()
    };
    Fake::start(State { services: services(), connections })
}

fn check(recording: &Recording, ran: &Ran) {
    let Recording { line, output, code } = recording;
    // Errors went to standard error, which is in the recording too.
    let printed = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(printed, *output, "{line}");
    assert_eq!(ran.code, *code, "{line}");
}

fn is_numeric(recording: &Recording) -> bool {
    recording.line.contains('n')
}

fn by_rvsadm() {
    for recording in recordings().iter().filter(|r| is_numeric(r)) {
        let fake = recorded(recording.line);
        check(recording, &ours(recording.line, "", fake.socket()));
    }
}

fn by_debian() {
    for recording in recordings().iter().filter(|r| is_numeric(r)) {
        let fake = recorded(recording.line);
        check(recording, &debian(recording.line, "", fake.socket()));
    }
}

/// Names of ports come from /etc/services; names of addresses must not come
/// from anywhere, which a network namespace of its own makes sure of.
fn with_names() {
    let mut seen = 0;
    for recording in recordings().iter().filter(|r| !is_numeric(r)) {
        let fake = recorded(recording.line);
        let mut command = crate::preloaded("unshare", fake.socket());
        command.args(["--user", "--map-root-user", "--net", "ipvsadm"]);
        command.args(recording.line.split_whitespace());
        check(recording, &ran(command, ""));
        seen += 1;
    }
    assert_eq!(seen, 3);
}

/// Far more than one datagram holds.
fn thousand() {
    let template = services().remove(0);
    let services: Vec<_> = (0..1000u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            let mut service = template.clone();
            let address = format!("10.7.{high}.{low}:80").parse().unwrap();
            service.spec.id = control::api::ServiceId::Address { protocol: Protocol::Tcp, address };
            service
        })
        .collect();
    let fake = Fake::start(State { services, connections: Vec::new() });
    let theirs = debian("-Sn", "", fake.socket());
    assert_eq!((theirs.code, theirs.stderr.as_str()), (0, ""));
    assert_eq!(theirs.stdout.lines().count(), 3000);
    assert_eq!(theirs.stdout, ours("-Sn", "", fake.socket()).stdout);
}
