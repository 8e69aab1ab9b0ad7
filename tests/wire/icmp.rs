//! ICMP: errors about packets of connections, from both sides, and what is the
//! kernel's.

use std::net::{IpAddr, SocketAddr};

use dataplane::counters::DropReason;
use dataplane::packet::Family;
use dataplane::service::{Encapsulation, Method};

use crate::bench::Row;
use crate::method::{Case, cases};
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
                    .client(came)
                    .server_gets(1, passed),
            );
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

/// Errors about the director's own tunnel packets: what is learnt, and what the
/// client is told.
fn about_tunnels() -> Vec<Row> {
    let tunnels = cases().into_iter().filter(|case| case.tunnel().is_some());
    tunnels.flat_map(|case| about_tunnel(&case)).collect()
}

fn about_tunnel(case: &Case) -> Vec<Row> {
    let (f, s) = (case.setup.family, case.setup.servers);
    let (c, v) = (client(f), vip(f));
    let source = own(s, 1);
    let data = udp(c, v).ip_len(1400);
    let ids = case.ids_of(&data);
    let kinds = errors(s);
    let start = |name: &str| {
        row(case, name).client(data.clone()).server_gets(1, case.forward(data.clone(), 0))
    };
    // As much of the outer packet as routers quote: the client is told as much
    // of its own.
    let outer_quote = |packet: &Packet| {
        let mut quote = packet.ip();
        quote.truncate(400);
        quote
    };
    let inner_len = 400 - case.overhead;
    let client_is_told = |kind: Family4or6, word: u32| {
        let mut quote = data.clone().hop().ip();
        quote.truncate(inner_len);
        let (v4, v6) = kind;
        let told = icmp((v.ip(), c.ip()), if f == V4 { v4 } else { v6 }, word, &quote);
        let told = if f == V4 { told.tos(0xc0) } else { told.tos(0) };
        told.df(false).label(0).id(1000 + ids)
    };
    let mut rows = Vec::new();
    let learnt = 1380;
    let inner = (learnt - case.overhead) as u32;
    let too_big = icmp(
        (far_router(s, 1), source),
        kinds[1].0,
        learnt as u32,
        &outer_quote(&case.forward(data.clone(), 0)),
    );
    let needs_telling = data.clone().ip_len(inner as usize + 1);
    let fits = data.clone().ip_len(inner as usize);
    let told_later = {
        let mut quote = needs_telling.clone().hop().ip();
        quote.truncate(if f == V4 { 548 } else { 1232 });
        let told = icmp(
            (v.ip(), c.ip()),
            if f == V4 { (3, 4) } else { (2, 0) },
            inner.max(if f == V6 { 1280 } else { 0 }),
            &quote,
        );
        let told = if f == V4 { told.tos(0xc0) } else { told.tos(0) };
        told.df(false).label(0).id(1001 + ids)
    };
    // GUE's source port is not known here.
    let is_gue = matches!(case.tunnel(), Some(Encapsulation::Gue { .. }));
    if !is_gue {
        let told_mtu = if f == V6 { inner.max(1280) } else { inner };
        let row = start("a smaller MTU behind the next hop is learnt")
            .router(1, too_big.clone())
            .absorbed()
            .client_gets(client_is_told(((3, 4), (2, 0)), told_mtu));
        let row = if inner >= 1280 || f == V4 {
            row.client(needs_telling)
                .dropped(DropReason::TooBig)
                .client_gets(told_later)
                .client(fits.clone())
                .server_gets(
                    1,
                    case.forward(
                        fits,
                        ids + u16::from(f == V4) * 2 + u16::from(f == V6 && s == V4) * 2,
                    ),
                )
        } else {
            row
        };
        rows.push(row);
        for (kind, tells) in [(kinds[0].0, ((3, 1), (1, 3))), (kinds[2].0, ((11, 0), (3, 0)))] {
            let error = icmp(
                (far_router(s, 1), source),
                kind,
                0,
                &outer_quote(&case.forward(data.clone(), 0)),
            );
            rows.push(
                start(&format!("{kind:?} about the tunnel is told to the client"))
                    .router(1, error)
                    .absorbed()
                    .client_gets(client_is_told(tells, 0)),
            );
        }
    }
    // Of the inner packet too little to say whose it is.
    let mut quote = case.forward(data.clone(), 0).ip();
    quote.truncate(crate::method::header(s) + 8);
    let error = icmp((rip(s, 1).ip(), source), kinds[0].0, 0, &quote);
    let row = start("an error about the tunnel that does not quote the inner packet");
    rows.push(row.router(1, error).punted());
    rows
}

/// Type and code in IPv4 and IPv6.
type Family4or6 = ((u8, u8), (u8, u8));
