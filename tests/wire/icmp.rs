//! ICMP: errors about packets of connections, from both sides, and what is the
//! kernel's.

use std::net::{IpAddr, SocketAddr};

use dataplane::counters::DropReason;
use dataplane::packet::Family;
use dataplane::service::{Encapsulation, Method};

use crate::bench::Row;
use crate::method::{Case, cases, header};
use crate::network::{V4, V6, client, far_router, own, rip, vip};
use crate::packet::{Packet, icmp, sctp, tcp, udp};

/// Type and code, the second word, and the same in the other family.
type Translation = ((u8, u8), u32, (u8, u8), u32);

const ERRORS4: [Translation; 3] =
    [((3, 3), 0, (1, 4), 0), ((3, 4), 1400, (2, 0), 1420), ((11, 0), 0, (3, 0), 0)];
const ERRORS6: [Translation; 3] =
    [((1, 4), 0, (3, 3), 0), ((2, 0), 1400, (3, 4), 1380), ((3, 0), 0, (11, 0), 0)];

fn errors(family: Family) -> [Translation; 3] {
    match family {
        V4 => ERRORS4,
        V6 => ERRORS6,
    }
}

pub(crate) fn rows() -> Vec<Row> {
    // Tunnels wrap errors as they wrap everything.
    let cases = cases().into_iter().filter(|case| {
        !matches!(
            case.setup.method,
            Method::Tun(Encapsulation::Gue { .. } | Encapsulation::Gre { checksum: false })
        )
    });
    cases
        .flat_map(|case| {
            let mut rows = from_clients(&case);
            rows.extend(that_are_not_passed_on(&case));
            rows.extend(of_no_connection(&case));
            if case.is_two_sided() {
                rows.extend(from_servers(&case));
            }
            rows
        })
        .chain(about_tunnels())
        .collect()
}

type Make = fn(SocketAddr, SocketAddr) -> Packet;
const FLOWS: [(&str, Make); 3] =
    [("tcp", |src, dst| tcp(src, dst, "S")), ("udp", udp), ("sctp", |src, dst| sctp(src, dst, 1))];

fn row(case: &Case, name: &str) -> Row {
    Row::new(format!("{}: {name}", case.name), case.setup.clone())
}

/// A row in which the client has opened a connection, and how many ids of the
/// director's that took.
fn opened(case: &Case, name: &str, make: Make) -> (Row, u16) {
    let packet = make(client(case.setup.family), vip(case.setup.family));
    let ids = case.ids_of(&packet);
    let row = row(case, name);
    (row.client(packet.clone()).server_gets(1, case.forward(packet, 0)), ids)
}

/// How much of the quoted packet's layer 4 there is.
#[derive(Clone, Copy)]
enum Quote {
    Bytes(usize),
    All,
}

impl Quote {
    fn of(self, packet: &Packet) -> Vec<u8> {
        match self {
            Self::Bytes(count) => packet.quote(count),
            Self::All => packet.ip(),
        }
    }
}

/// An error, and what it becomes: addresses around it, the packet it quotes
/// before and after.
struct Passed {
    outer: (IpAddr, IpAddr),
    new_outer: (IpAddr, IpAddr),
    quoted: Packet,
    new_quoted: Packet,
}

impl Passed {
    fn frames(
        self,
        translates: bool,
        error: Translation,
        quote: Quote,
        ids: u16,
    ) -> (Packet, Packet) {
        let (kind, word, new_kind, new_word) = error;
        let came = icmp(self.outer, kind, word, &quote.of(&self.quoted)).df(false);
        if !translates {
            // The quoted checksum stays what it was.
            let new = self.new_quoted.with_sum_of(&self.quoted);
            let new = icmp(self.new_outer, kind, word, &quote.of(&new)).df(false);
            return (came, new.hop());
        }
        // The director's own id; of the quoted packet, the family's other
        // header says neither id nor flow.
        let new = self.new_quoted.label(0).id(0);
        let new = if self.outer.0.is_ipv4() { new } else { new.df(true) };
        let new = icmp(self.new_outer, new_kind, new_word, &quote.of(&new));
        let new = new.df(false).label(0);
        (came, if self.outer.0.is_ipv4() { new } else { new.id(1000 + ids) }.hop())
    }
}

/// What a client, or a router on the way to it, says about the server's
/// packets.
fn from_client(case: &Case, by: IpAddr, make: Make) -> Passed {
    let (c, v) = (client(case.setup.family), vip(case.setup.family));
    let quoted = make(v, c).ttl(60);
    let (new_quoted, to) = match case.setup.method {
        Method::Dr | Method::Tun(_) => (quoted.clone(), v.ip()),
        _ => (make(case.server(), case.peer()).ttl(60), case.server().ip()),
    };
    // No address of the other family stands for the sender.
    let by_new = if case.translates() { case.peer().ip() } else { by };
    Passed { outer: (by, v.ip()), new_outer: (by_new, to), quoted, new_quoted }
}

fn from_clients(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let mut rows = Vec::new();
    let mut add =
        |by: IpAddr, (kind, make): (&str, Make), error: Translation, quote, text: &str| {
            let (code, sub) = error.0;
            let name = format!("{kind}: {code}/{sub} from {by}, {text}");
            let (row, ids) = opened(case, &name, make);
            let (came, passed) =
                from_client(case, by, make).frames(case.translates(), error, quote, ids);
            let passed = match case.setup.method {
                Method::Tun(_) => case.forward(came.clone(), ids),
                _ => passed,
            };
            rows.push(row.client(came).server_gets(1, passed));
        };
    for error in errors(f) {
        for flow in FLOWS {
            add(client(f).ip(), flow, error, Quote::Bytes(8), "8 bytes quoted");
        }
        add(far_router(f, 0), FLOWS[0], error, Quote::Bytes(8), "8 bytes quoted");
        add(far_router(f, 0), FLOWS[0], error, Quote::All, "all quoted");
        add(far_router(f, 0), FLOWS[1], error, Quote::All, "all quoted");
        if !case.translates() {
            add(client(f).ip(), FLOWS[0], error, Quote::Bytes(4), "4 bytes quoted");
        }
    }
    if f == V6 && !case.translates() {
        let bad_header = ((4, 1), 6, (0, 0), 0);
        add(client(f).ip(), FLOWS[1], bad_header, Quote::Bytes(8), "8 bytes quoted");
    }
    rows
}

/// What the server, or a router on the way to it, says about the client's
/// packets.
fn from_servers(case: &Case) -> Vec<Row> {
    let (f, s) = (case.setup.family, case.setup.servers);
    let (c, v) = (client(f), vip(f));
    let mut rows = Vec::new();
    for error in errors(s) {
        for (kind, make) in FLOWS {
            for by in [case.server().ip(), far_router(s, 1)] {
                for (quote, text) in [(Quote::Bytes(8), "8 bytes"), (Quote::All, "all")] {
                    if kind == "sctp" && matches!(quote, Quote::All) {
                        continue;
                    }
                    let name = format!("{kind}: {:?} from {by}, {text} quoted", error.0);
                    let (row, ids) = opened(case, &name, make);
                    let passed = Passed {
                        outer: (by, case.peer().ip()),
                        new_outer: (v.ip(), c.ip()),
                        quoted: make(case.peer(), case.server()).ttl(60),
                        new_quoted: make(c, v).ttl(60),
                    };
                    let (came, passed) = passed.frames(case.translates(), error, quote, ids);
                    rows.push(row.server(1, came).client_gets(passed));
                }
            }
        }
    }
    rows
}

fn that_are_not_passed_on(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let (c, v) = (client(f), vip(f));
    let ends = (c.ip(), v.ip());
    let error = errors(f)[0];
    let quoted = tcp(v, c, "A");
    let message = |kind, body: &[u8]| icmp(ends, kind, 0, body);
    let syn: Make = FLOWS[0].1;
    let after_syn = |name: &str, packet: Packet| opened(case, name, syn).0.client(packet);
    let mut rows = vec![
        after_syn("a wrong ICMP checksum", message(error.0, &quoted.quote(8)).sum_wrong_by(1))
            .dropped(DropReason::IcmpBad),
        after_syn("an error with ttl 1", message(error.0, &quoted.quote(8)).ttl(1))
            .dropped(DropReason::TtlExpired),
        after_syn("3 bytes quoted", message(error.0, &quoted.quote(3)))
            .dropped(DropReason::IcmpBad),
        after_syn("half an IP header quoted", message(error.0, &quoted.ip()[..10]))
            .dropped(DropReason::IcmpBad),
    ];
    let (echo, answer) = if f == V4 { ((8, 0), (0, 0)) } else { ((128, 0), (129, 0)) };
    rows.push(
        row(case, "echo to the VIP is the kernel's").client(message(echo, b"12345")).punted(),
    );
    rows.push(
        row(case, "an echo reply is the kernel's").client(message(answer, b"12345")).punted(),
    );
    let not_relayed: &[(u8, u8)] = if f == V4 { &[(12, 0), (5, 1)] } else { &[(137, 0)] };
    for &kind in not_relayed {
        let name = format!("{}/{} is the kernel's", kind.0, kind.1);
        rows.push(after_syn(&name, message(kind, &quoted.quote(8))).punted());
    }
    if f == V4 {
        let quench = message((4, 0), &quoted.quote(8));
        rows.push(after_syn("source quench", quench).differs("ICMP source quench").punted());
        let long = message(error.0, &quoted.clone().ip_len(200).ip());
        let pieces = long.fragments(&[64], 5);
        rows.push(
            after_syn("an error in fragments is the kernel's", pieces[0].clone())
                .differs("ICMP errors in fragments")
                .punted(),
        );
    }
    if case.translates() {
        rows.push(
            after_syn("4 bytes quoted", message(error.0, &quoted.quote(4)))
                .dropped(DropReason::IcmpBad),
        );
    }
    rows
}

fn of_no_connection(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let (c, v) = (client(f), vip(f));
    let mut rows = Vec::new();
    for error in errors(f) {
        for (kind, make) in FLOWS {
            let name = |what: &str| format!("{kind}: {:?} of no connection{what}", error.0);
            let (came, passed) = from_client(case, c.ip(), make).frames(
                case.translates(),
                error,
                Quote::Bytes(8),
                0,
            );
            let passed = match case.setup.method {
                Method::Tun(_) => case.forward(came.clone(), 0),
                _ => passed,
            };
            rows.push(
                row(case, &name("")).client(came.clone()).dropped(DropReason::IcmpNoConnection),
            );
            let setup = case.setup.clone().with(|s| s.settings.schedule_icmp = true);
            rows.push(
                Row::new(format!("{}: {}", case.name, name(", schedule_icmp")), setup)
                    .client(came.clone())
                    .server_gets(1, passed.clone()),
            );
            if !case.is_two_sided() && kind == "tcp" {
                let setup = case.setup.clone().with(|s| s.take_up = true);
                rows.push(
                    Row::new(format!("{}: {}", case.name, name(", take_up")), setup)
                        .client(came)
                        .server_gets(1, passed),
                );
            }
        }
        let quoted = udp(v, c).from(SocketAddr::new(v.ip(), 81)).quote(8);
        rows.push(
            row(case, &format!("{:?} of no service is the kernel's", error.0))
                .client(icmp((c.ip(), v.ip()), error.0, error.1, &quoted))
                .punted(),
        );
    }
    rows
}

/// Errors about the director's own tunnel packets, and what the client is told.
/// What is learnt of path MTUs is in `tun`.
fn about_tunnels() -> Vec<Row> {
    let tunnels = cases().into_iter().filter(|case| case.tunnel().is_some());
    tunnels.flat_map(|case| about_tunnel(&case)).collect()
}

fn about_tunnel(case: &Case) -> Vec<Row> {
    let (f, s) = (case.setup.family, case.setup.servers);
    let (c, v) = (client(f), vip(f));
    let source = own(s, 1);
    let data = udp(c, v).ip_len(1400);
    let start = |name: &str| {
        row(case, name).client(data.clone()).server_gets(1, case.forward(data.clone(), 0))
    };
    let about = |kind, by: IpAddr, quote: usize| {
        let mut outer = case.forward(data.clone(), 0).ip();
        outer.truncate(quote);
        icmp((by, source), kind, 0, &outer)
    };
    let mut rows = Vec::new();
    // Of the inner packet too little to say whose it is.
    let little = about(errors(s)[0].0, rip(s, 1).ip(), header(s) + 8);
    let name = "an error about the tunnel that does not quote the inner packet";
    rows.push(start(name).router(1, little).punted());
    if matches!(case.tunnel(), Some(Encapsulation::Gue { .. })) {
        // The source port of the outer packet is not known here.
        return rows;
    }
    let quoted = 400;
    for (kind, (v4, v6)) in
        [(errors(s)[0].0, ((3, 1), (1, 3))), (errors(s)[2].0, ((11, 0), (3, 0)))]
    {
        let mut quote = data.clone().hop().ip();
        quote.truncate(quoted - case.overhead);
        // In the family of the error it is said as it was said there.
        let code = match f {
            _ if f == s => kind,
            V4 => v4,
            V6 => v6,
        };
        let tos = if f == V4 { 0xc0 } else { 0 };
        let told = icmp((v.ip(), c.ip()), code, 0, &quote).tos(tos);
        let told = told.df(false).label(0).id(1000 + case.ids_of(&data));
        rows.push(
            start(&format!("{kind:?} about the tunnel is told to the client"))
                .router(1, about(kind, far_router(s, 1), quoted))
                .absorbed()
                .client_gets(told),
        );
    }
    rows
}
