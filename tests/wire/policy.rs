//! Settings, states, persistence, and what becomes of connections when servers
//! change. The kernel's sysctls of the same names.

use std::net::SocketAddr;

use dataplane::counters::DropReason;
use dataplane::scheduler::{HashFlags, Scheduler};
use dataplane::service::{Encapsulation, MarkRule, Method, Persistence};
use dataplane::snapshot::LocalPorts;

use crate::bench::Row;
use crate::method::{Case, cases};
use crate::network::{V4, client, own, rip, vip};
use crate::packet::{NO_PORT, Packet, sctp, tcp, told, udp};
use crate::setup::{Setup, Target};

pub(crate) fn rows() -> Vec<Row> {
    let cases = cases()
        .into_iter()
        .filter(|case| !matches!(case.setup.method, Method::Tun(e) if e != Encapsulation::Ipip));
    let of_case = |case: Case| {
        let mut rows = deleted_servers(&case);
        rows.extend(drained_servers(&case));
        rows.extend(reuse(&case));
        // Thousands of ticks each; the family is no matter.
        if (case.setup.family, case.setup.servers) == (V4, V4) {
            rows.extend(timeouts(&case));
        }
        rows.extend(persistence(&case));
        rows.extend(kinds_of_services(&case));
        if !case.is_two_sided() {
            rows.extend(take_up(&case));
        }
        if case.setup.method == Method::Nat {
            rows.extend(nat_icmp_send(&case));
            rows.extend(several_services(&case));
        }
        if case.setup.method == Method::Fullnat {
            rows.extend(local_ports(&case));
        }
        rows
    };
    cases.flat_map(of_case).collect()
}

fn set(case: &Case, name: &str, change: impl FnOnce(&mut Setup)) -> Row {
    Row::new(format!("{}: {name}", case.name), case.setup.clone().with(change))
}

/// Server 2 comes first.
fn two(setup: &mut Setup) {
    let port = setup.targets[0].port;
    setup.targets = [2, 1].map(|number| Target { port, ..Target::new(number) }).to_vec();
}

/// A client's segment, from its usual port or so many above it.
fn segment(case: &Case, letters: &str, more: u16) -> Packet {
    let c = client(case.setup.family);
    tcp(SocketAddr::new(c.ip(), c.port() + more), vip(case.setup.family), letters)
}

/// What server `number` gets as the director's `nth` packet of connection
/// `connection`.
fn forward(case: &Case, packet: Packet, number: u8, connection: u16, nth: u16) -> Packet {
    let step = case.ids_of(&packet);
    let s = case.setup.servers;
    let sent = case.forward(packet.clone(), nth * step);
    let server = SocketAddr::new(rip(s, number).ip(), case.server().port());
    match case.setup.method {
        Method::Dr => sent,
        Method::Tun(_) => sent.at_address(server.ip()),
        Method::Nat => sent.to(server),
        Method::Fullnat => {
            let peer = SocketAddr::new(case.peer().ip(), case.peer().port() + connection);
            sent.from(peer).to(server)
        }
    }
}

/// A row that has packets go to servers, counting what the director numbers.
struct Talk<'a> {
    case: &'a Case,
    row: Row,
    nth: u16,
}

impl<'a> Talk<'a> {
    fn new(case: &'a Case, row: Row) -> Self {
        Self { case, row, nth: 0 }
    }

    /// A client's packet goes to a server, of connection `connection`.
    fn to(mut self, number: u8, connection: u16, packet: Packet) -> Self {
        let sent = forward(self.case, packet.clone(), number, connection, self.nth);
        self.row = self.row.client(packet).server_gets(number, sent);
        self.nth += 1;
        self
    }

    fn then(mut self, rest: impl FnOnce(Row) -> Row) -> Self {
        self.row = rest(self.row);
        self
    }
}

fn deleted_servers(case: &Case) -> Vec<Row> {
    let deleted = |s: &mut Setup| s.targets[0].deleted = true;
    let returned = |s: &mut Setup| s.targets[0].deleted = false;
    let first = || segment(case, "S", 0);
    let gone = DropReason::ServerDeleted;
    let kept = Talk::new(
        case,
        set(case, "deleted server: packets, also a SYN, are dropped until it is back", two),
    )
    .to(2, 0, first())
    .to(2, 0, segment(case, "A", 0))
    .then(|row| {
        row.change(deleted)
            .client(segment(case, "A", 0))
            .dropped(gone)
            .client(first())
            .dropped(gone)
            .connections(2, 1, 0)
            .change(returned)
    })
    .to(2, 0, segment(case, "A", 0));
    let closed = Talk::new(
        case,
        set(case, "deleted server: a SYN on a closed connection goes elsewhere", two),
    )
    .to(2, 0, first())
    .to(2, 0, segment(case, "A", 0))
    .to(2, 0, segment(case, "R", 0))
    .then(|row| row.change(deleted).client(segment(case, "A", 0)).dropped(gone))
    .to(1, 1, first());
    let expire = |name: &str| {
        set(case, name, |s| {
            two(s);
            s.settings.expire_nodest_conn = true;
        })
    };
    let unknown =
        Talk::new(case, expire("expire_nodest_conn: of a deleted server, packets are unknown"))
            .to(2, 0, first())
            .to(2, 0, segment(case, "A", 0))
            .then(|row| {
                row.change(deleted).client(segment(case, "A", 0)).punted().connections(2, 0, 0)
            });
    let anew = Talk::new(case, expire("expire_nodest_conn: a SYN gets another server"))
        .to(2, 0, first())
        .then(|row| row.change(deleted))
        .to(1, 1, first());
    let swept = Talk::new(case, expire("expire_nodest_conn: connections go without a packet"))
        .to(2, 0, first())
        .then(|row| row.change(deleted).after(2).connections(2, 0, 0));
    let mut rows = vec![kept.row, closed.row, unknown.row, anew.row, swept.row];
    if case.is_two_sided() {
        let (server, peer) = (case.server(), case.peer());
        let reply = tcp(server, peer, "SA").ack(1001);
        let used = case.ids_of(&first());
        rows.push(
            Talk::new(case, set(case, "deleted server: its replies are translated", |_| ()))
                .to(1, 0, first())
                .then(|row| {
                    row.change(deleted).server(1, reply.clone()).client_gets(case.back(reply, used))
                })
                .row,
        );
    }
    rows
}

fn drained_servers(case: &Case) -> Vec<Row> {
    let drained = |s: &mut Setup| s.targets[0].weight = 0;
    let row = |name: &str, expire: bool| {
        set(case, name, |s| {
            two(s);
            s.settings.expire_nodest_conn = expire;
        })
    };
    let established = |row: Row| {
        Talk::new(case, row)
            .to(2, 0, segment(case, "S", 0))
            .to(2, 0, segment(case, "A", 0))
            .then(|row| row.change(drained))
    };
    vec![
        established(row("weight 0: connections go on, new ones go elsewhere", false))
            .to(2, 0, segment(case, "A", 0))
            .to(2, 0, segment(case, "S", 0))
            .to(1, 1, segment(case, "S", 1))
            .row,
        established(row("weight 0, expire_nodest_conn: a SYN goes elsewhere", true))
            .to(2, 0, segment(case, "A", 0))
            .to(1, 1, segment(case, "S", 0))
            .row,
    ]
}

fn reuse(case: &Case) -> Vec<Row> {
    let mut rows = Vec::new();
    for mode in [0, 1, 2] {
        let row = |state: &str| {
            set(case, &format!("conn_reuse_mode {mode}: a SYN in {state}"), |s| {
                two(s);
                s.settings.conn_reuse_mode = mode;
            })
        };
        let open = |row| {
            Talk::new(case, row).to(2, 0, segment(case, "S", 0)).to(2, 0, segment(case, "A", 0))
        };
        let syn = || segment(case, "S", 0);
        rows.push(open(row("ESTABLISHED")).to(2, 0, syn()).row);
        let reset = open(row("CLOSE")).to(2, 0, segment(case, "R", 0));
        rows.push(if mode == 0 { reset.to(2, 0, syn()).row } else { reset.to(1, 1, syn()).row });
        // One-sided: FIN_WAIT; two-sided: CLOSE_WAIT.
        rows.push(
            open(row("FIN_WAIT or CLOSE_WAIT"))
                .to(2, 0, segment(case, "FA", 0))
                .to(2, 0, syn())
                .row,
        );
        // A FIN that follows the SYN.
        let over =
            Talk::new(case, row("TIME_WAIT")).to(2, 0, syn()).to(2, 0, segment(case, "FA", 0));
        rows.push(if mode == 0 { over.to(2, 0, syn()).row } else { over.to(1, 1, syn()).row });
    }
    rows
}

/// How long connections live, s, by what came.
fn timeouts(case: &Case) -> Vec<Row> {
    let fin = if case.is_two_sided() { 60 } else { 120 };
    [
        (&["S"][..], 60, 1),
        (&["S", "A"], 900, 1),
        (&["S", "A", "FA"], fin, 0),
        (&["S", "A", "R"], 10, 0),
    ]
    .into_iter()
    .map(|(packets, seconds, active)| {
        let row = set(case, &format!("{packets:?} lives for {seconds} s"), |_| ());
        let talk = packets
            .iter()
            .fold(Talk::new(case, row), |talk, letters| talk.to(1, 0, segment(case, letters, 0)));
        talk.row
            .connections(1, active, 1 - active)
            .after(seconds - 1)
            .connections(1, active, 1 - active)
            .after(3)
            .connections(1, 0, 0)
    })
    .collect()
}

fn persistence(case: &Case) -> Vec<Row> {
    let family = case.setup.family;
    let prefix = if family == V4 { 24 } else { 64 };
    let whole = if family == V4 { 32 } else { 128 };
    let persistent = |name: &str, prefix: u8, change: fn(&mut Setup)| {
        set(case, name, |s| {
            two(s);
            s.persistence = Some(Persistence { timeout: 300 * 8, prefix });
            change(s);
        })
    };
    let drained = |s: &mut Setup| s.targets[0].weight = 0;
    let syn = |more| segment(case, "S", more);
    let neighbour: SocketAddr = match family {
        V4 => "198.51.100.77:40000".parse().unwrap(),
        _ => "[2001:db8:c::77]:40000".parse().unwrap(),
    };
    let stranger: SocketAddr = match family {
        V4 => "198.51.101.12:40000".parse().unwrap(),
        _ => "[2001:db8:d::12]:40000".parse().unwrap(),
    };
    let quiescent = |s: &mut Setup| s.settings.expire_quiescent_template = true;
    let open = |row: Row| Talk::new(case, row).to(2, 0, syn(0));
    vec![
        open(persistent("persistence: a client stays", whole, |_| ()))
            .to(2, 1, syn(1))
            .to(2, 2, syn(2))
            .to(1, 3, syn(0).from(neighbour))
            .row,
        open(persistent("persistence: a network stays", prefix, |_| ()))
            .to(2, 1, syn(0).from(neighbour))
            .to(1, 2, syn(0).from(stranger))
            .row,
        open(persistent("persistence: a drained server keeps its clients", whole, |_| ()))
            .then(|row| row.change(drained))
            .to(2, 1, syn(1))
            .row,
        open(persistent("expire_quiescent_template: a drained server does not", whole, quiescent))
            .then(|row| row.change(drained))
            .to(1, 1, syn(1))
            .row,
        open(persistent("persistence: port 0 is every port", whole, |s| {
            s.vports = vec![0];
            s.targets.iter_mut().for_each(|target| target.port = 0);
        }))
        .then(|row| {
            let port = |address: SocketAddr| SocketAddr::new(address.ip(), 8443);
            let packet = syn(1).to(port(vip(family)));
            let sent = forward(case, packet.clone(), 2, 1, 1);
            let sent = match case.setup.method {
                Method::Dr | Method::Tun(_) => sent,
                _ => sent.to(port(rip(case.setup.servers, 2))),
            };
            row.client(packet).server_gets(2, sent)
        })
        .row,
    ]
    .into_iter()
    // Port mapping and port 0 exclude each other.
    .filter(|row| !(row.name.contains("port 0") && case.server().port() != 80))
    .collect()
}

/// Packets in the middle of connections that another director had.
fn take_up(case: &Case) -> Vec<Row> {
    let row = |what: &str| {
        set(case, &format!("take_up: {what}"), |s| {
            s.scheduler = Scheduler::Mh(HashFlags::default());
            s.take_up = true;
        })
    };
    let start =
        |what: &str, letters: &str| Talk::new(case, row(what)).to(1, 0, segment(case, letters, 0));
    let ack = || segment(case, "A", 0);
    let mut rows = vec![
        start("an ACK is taken up, half-open", "A")
            .then(|row| row.connections(1, 1, 0).after(61).connections(1, 0, 0))
            .row,
        start("ESTABLISHED with the next packet", "PA")
            .to(1, 0, ack())
            .then(|row| row.connections(1, 1, 0).after(890).connections(1, 1, 0))
            .row,
        start("a FIN, and the ACK after it, are a connection in CLOSE", "FA")
            .to(1, 0, ack())
            .then(|row| row.connections(1, 0, 1).after(12).connections(1, 0, 0))
            .row,
    ];
    for letters in ["R", "RA"] {
        let what = format!("{letters:?} goes to the server and leaves no connection");
        rows.push(start(&what, letters).then(|row| row.connections(1, 0, 0)).row);
    }
    for letters in ["", "F", "P"] {
        rows.push(
            row(&format!("tcp {letters:?} is the kernel's"))
                .client(segment(case, letters, 0))
                .punted(),
        );
    }
    rows
}

/// By mark, one packet at a time, hashing.
fn kinds_of_services(case: &Case) -> Vec<Row> {
    let family = case.setup.family;
    let (c, v) = (client(family), vip(family));
    let rule = MarkRule {
        mark: 7,
        protocol: None,
        source: None,
        destination: Some((v.ip(), if family == V4 { 32 } else { 128 })),
        ports: Some((80, 81)),
        ingress: Some(0),
    };
    let marked = |name: &str, change: fn(&mut Setup)| {
        set(case, name, |s| {
            two(s);
            s.mark = Some(rule);
            change(s);
        })
    };
    let datagram = || udp(c, v);
    let sctp_init = || sctp(c, v, 1);
    let mut rows = vec![
        Talk::new(case, marked("mark: tcp, udp and sctp are one service", |_| ()))
            .to(2, 0, segment(case, "S", 0))
            .to(1, 1, datagram())
            .to(2, 2, sctp_init())
            .row,
        marked("mark: what the rule does not match is not its", |_| ())
            .client(segment(case, "S", 0).to(SocketAddr::new(v.ip(), 82)))
            .punted(),
        Talk::new(case, set(case, "rr: newest first, and each connection stays", two))
            .to(2, 0, segment(case, "S", 0))
            .to(1, 1, segment(case, "S", 1))
            .to(2, 2, segment(case, "S", 2))
            .to(1, 1, segment(case, "A", 1))
            .to(2, 0, segment(case, "A", 0))
            .row,
        set(case, "sh without fallback refuses clients of a server of weight 0", |s| {
            s.scheduler = Scheduler::Sh(HashFlags::default());
            s.targets[0].weight = 0;
        })
        .client(datagram())
        .dropped(DropReason::NoServer)
        .client_gets(told(v.ip(), NO_PORT, 0, &datagram())),
    ];
    // One packet: under FULLNAT a reply could not find its client.
    if case.setup.method != Method::Fullnat {
        let one_packet = |s: &mut Setup| s.one_packet = true;
        rows.push(
            Talk::new(
                case,
                set(case, "one packet: udp is scheduled each time", |s| {
                    two(s);
                    one_packet(s);
                }),
            )
            .to(2, 0, datagram())
            .to(1, 0, datagram())
            .to(2, 0, datagram())
            .then(|row| row.connections(2, 0, 0).connections(1, 0, 0))
            .row,
        );
        rows.push(
            Talk::new(
                case,
                marked("one packet: of a mark, tcp and sctp are connections", one_packet),
            )
            .to(2, 0, datagram())
            .to(1, 0, segment(case, "S", 0))
            .to(1, 0, segment(case, "A", 0))
            .to(2, 0, sctp_init())
            .to(2, 0, sctp(c, v, 10))
            .row,
        );
    }
    rows
}

/// A server's packets that belong to no connection.
fn nat_icmp_send(case: &Case) -> Vec<Row> {
    let (server, peer) = (case.server(), case.peer());
    let family = case.setup.family;
    let on = |name: &str| set(case, name, |s| s.settings.nat_icmp_send = true);
    let mut rows = Vec::new();
    for (kind, packet) in [
        ("tcp", tcp(server, peer, "A")),
        ("udp", udp(server, peer)),
        ("sctp", sctp(server, peer, 0)),
    ] {
        rows.push(
            set(case, &format!("{kind} of a server without a connection is routed"), |_| ())
                .server(1, packet.clone())
                .punted(),
        );
        rows.push(
            on(&format!("nat_icmp_send: {kind} without a connection is told so"))
                .server(1, packet.clone())
                .dropped(DropReason::NatNoConnection)
                .server_gets(1, told(own(family, 1), NO_PORT, 0, &packet)),
        );
    }
    for (kind, packet) in [("RST", tcp(server, peer, "R")), ("ABORT", sctp(server, peer, 6))] {
        let row = on(&format!("nat_icmp_send: {kind} is no reason to tell, and routed"));
        rows.push(row.server(1, packet).punted());
    }
    let other = SocketAddr::new(server.ip(), 9999);
    let row = on("nat_icmp_send: what no server sends is routed");
    rows.push(row.server(1, tcp(other, peer, "A")).punted());
    rows
}

/// Two services, one server: under NAT a client's port can have one of them
/// only at a time.
fn several_services(case: &Case) -> Vec<Row> {
    let family = case.setup.family;
    let (c, v) = (client(family), vip(family));
    let second = SocketAddr::new(v.ip(), 81);
    let both = |name: &str| set(case, name, |s| s.vports = vec![80, 81]);
    let reply = |row: Row, to: SocketAddr, from: SocketAddr| {
        let packet = udp(case.server(), to);
        row.server(1, packet.clone()).client_gets(packet.hop().from(from).to(to))
    };
    let other = SocketAddr::new(c.ip(), c.port() + 1);
    let row = both("two services on one server: replies go by the client's port")
        .client(udp(c, v))
        .server_gets(1, udp(c, case.server()).hop())
        .client(udp(other, second))
        .server_gets(1, udp(other, case.server()).hop());
    let row = reply(row, other, second);
    vec![
        reply(row, c, v),
        both("two services on one server: one port of a client to both")
            .differs("two services on one NAT server")
            .client(udp(c, v))
            .server_gets(1, udp(c, case.server()).hop())
            .client(udp(c, second))
            .dropped(DropReason::NatAmbiguous),
        both("two services on one server: a closed connection makes room")
            .client(tcp(c, v, "S"))
            .server_gets(1, tcp(c, case.server(), "S").hop())
            .client(tcp(c, v, "FA"))
            .server_gets(1, tcp(c, case.server(), "FA").hop())
            .client(tcp(c, second, "S"))
            .server_gets(1, tcp(c, case.server(), "S").hop())
            .server(1, tcp(case.server(), c, "SA"))
            .client_gets(tcp(second, c, "SA").hop()),
    ]
}

fn local_ports(case: &Case) -> Vec<Row> {
    let row = |name: &str| {
        set(case, name, |s| {
            two(s);
            s.local_ports = LocalPorts(2024, 2024);
        })
    };
    vec![
        Talk::new(case, row("one local port does for one connection to each server"))
            .to(2, 0, segment(case, "S", 0))
            .to(1, 0, segment(case, "S", 1))
            .then(|row| {
                row.client(segment(case, "S", 2))
                    .dropped(DropReason::NoLocalPort)
                    .connections(2, 1, 0)
            })
            .row,
        Talk::new(case, row("a local port whose connection is closed is used again"))
            .to(2, 0, segment(case, "S", 0))
            .to(1, 0, segment(case, "S", 1))
            .to(2, 0, segment(case, "A", 0))
            .to(2, 0, segment(case, "R", 0))
            .to(2, 0, segment(case, "S", 2))
            .row,
    ]
}
