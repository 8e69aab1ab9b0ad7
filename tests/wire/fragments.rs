//! Fragments: each becomes what the method makes of a packet, wherever it comes
//! in the order, and whatever the ports that only the first one has.

use dataplane::counters::DropReason;
use dataplane::service::Method;

use crate::bench::Row;
use crate::method::{Case, cases};
use crate::network::{V6, client, vip};
use crate::packet::{NO_PORT, Packet, TTL_OVER, sctp, tcp, told, udp};
use crate::setup::Setup;

const IN_TUNNELS: &str = "fragments in tunnels";
const ID: u32 = 0x7777;

pub(crate) fn rows() -> Vec<Row> {
    let of_case = |case: &Case| {
        let mut rows = to_servers(case);
        rows.extend(others(case));
        rows.extend(to_clients(case));
        rows
    };
    cases().iter().flat_map(of_case).collect()
}

fn row(case: &Case, name: &str) -> Row {
    let row = Row::new(format!("{}: {name}", case.name), case.setup.clone());
    // The kernel puts them together and fragments the outer packet.
    if case.tunnel().is_some() { row.differs(IN_TUNNELS) } else { row }
}

fn set(case: &Case, name: &str, change: fn(&mut Setup)) -> Row {
    Row::new(format!("{}: {name}", case.name), case.setup.clone().with(change))
}

/// A fragment as the server gets it; `nth` as in [`Case::forward`].
fn forward(case: &Case, piece: &Packet, nth: u16) -> Packet {
    let packet = case.forward(piece.clone(), nth);
    // A fragment keeps its id, and may be fragmented on.
    if case.translates() { packet.df(false).id(ID as u16) } else { packet }
}

fn back(case: &Case, piece: &Packet) -> Packet {
    let packet = case.back(piece.clone(), 0);
    if case.translates() { packet.df(false).id(ID as u16) } else { packet }
}

/// 100 bytes of layer 4 in pieces of 48, 40 and 12.
fn pieces(packet: &Packet) -> Vec<Packet> {
    let header = if packet.src.is_ipv4() { 20 } else { 40 };
    packet.clone().ip_len(header + 100).fragments(&[48, 40], ID)
}

fn to_servers(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let (c, v) = (client(f), vip(f));
    let syn = tcp(c, v, "S");
    let mut rows = Vec::new();
    for (kind, whole) in [("udp", udp(c, v)), ("tcp", tcp(c, v, "A").seq(1001))] {
        let p = pieces(&whole);
        let start = |name: &str| {
            let row = row(case, &format!("{kind}: {name}"));
            if kind == "udp" {
                return (row, 0);
            }
            let row = row.client(syn.clone()).server_gets(1, case.forward(syn.clone(), 0));
            (row, case.ids_of(&syn))
        };
        let (row, ids) = start("in order");
        let step = case.ids_of(&p[0]);
        rows.push(p.iter().zip(0..).fold(row, |row, (piece, nth)| {
            row.client(piece.clone()).server_gets(1, forward(case, piece, ids + nth * step))
        }));
        let (row, ids) = start("the first one last");
        rows.push(
            row.client(p[2].clone())
                .absorbed()
                .client(p[1].clone())
                .absorbed()
                .client(p[0].clone())
                .server_gets(1, forward(case, &p[0], ids))
                .server_gets(1, forward(case, &p[2], ids + step))
                .server_gets(1, forward(case, &p[1], ids + 2 * step)),
        );
        let (row, ids) = start("the first one in the middle, the others later");
        rows.push(
            row.client(p[1].clone())
                .absorbed()
                .client(p[0].clone())
                .server_gets(1, forward(case, &p[0], ids))
                .server_gets(1, forward(case, &p[1], ids + step))
                .after(20)
                .client(p[2].clone())
                .server_gets(1, forward(case, &p[2], ids + 2 * step)),
        );
        let (row, ids) = start("the first one comes too late");
        rows.push(
            row.client(p[1].clone())
                .absorbed()
                .after(2)
                .client(p[0].clone())
                .server_gets(1, forward(case, &p[0], ids)),
        );
    }
    rows
}

fn others(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let (c, v) = (client(f), vip(f));
    let p = pieces(&udp(c, v));
    let expired = p[0].clone().ttl(1);
    let elsewhere = pieces(&udp(c, std::net::SocketAddr::new(crate::network::own(f, 0), 80)));
    let mut rows = vec![
        row(case, "ttl 1 of the first: time exceeded")
            .client(expired.clone())
            .dropped(DropReason::TtlExpired)
            .client_gets(told(v.ip(), TTL_OVER, 0, &expired)),
        row(case, "ttl 1 of a later one: dropped, nobody is told")
            .client(p[0].clone())
            .server_gets(1, forward(case, &p[0], 0))
            .client(p[1].clone().ttl(1))
            .dropped(DropReason::TtlExpired),
        row(case, "fragments to the director itself are the kernel's")
            .client(elsewhere[1].clone())
            .punted()
            .client(elsewhere[0].clone())
            .punted(),
        row(case, "a first fragment without all of the UDP header")
            .client(udp(c, v).raw(17, &[0; 4]).with_more(ID))
            .dropped(DropReason::L4Truncated),
        set(case, "no server: port unreachable, once", |s| s.targets.clear())
            .client(p[0].clone())
            .dropped(DropReason::NoServer)
            .client_gets(told(v.ip(), NO_PORT, 0, &p[0]))
            .client(p[1].clone())
            .dropped(DropReason::NoServer),
        row(case, "ack without a connection").client(pieces(&tcp(c, v, "A"))[0].clone()).punted(),
    ];
    let sctp = pieces(&sctp(c, v, 1));
    // The CRC is over the whole: a part cannot have other ports.
    let other_ports = matches!(case.setup.method, Method::Fullnat)
        || (case.setup.method == Method::Nat && case.setup.targets[0].port != 80);
    // Which chunk it is, a fragment is not asked: any is the kernel's.
    let setup = case.setup.clone().with(|s| s.settings.sloppy_sctp = true);
    let row = Row::new(format!("{}: sctp", case.name), setup);
    rows.push(if other_ports {
        row.differs("fragments of SCTP").client(sctp[0].clone()).dropped(DropReason::NoTranslation)
    } else {
        let step = case.ids_of(&sctp[0]);
        row.differs("fragments of SCTP")
            .client(sctp[0].clone())
            .server_gets(1, forward(case, &sctp[0], 0))
            .client(sctp[1].clone())
            .server_gets(1, forward(case, &sctp[1], step))
    });
    if f == V6 {
        let atomic = udp(c, v).atomic(ID);
        let becomes = if case.translates() {
            // A fragment header says that it may be fragmented, and its id.
            case.forward(udp(c, v), 0).id(ID as u16)
        } else {
            case.forward(atomic.clone(), 0)
        };
        let name = format!("{}: an atomic fragment is a whole datagram", case.name);
        rows.push(Row::new(name, case.setup.clone()).client(atomic).server_gets(1, becomes));
    }
    rows
}

fn to_clients(case: &Case) -> Vec<Row> {
    if !case.is_two_sided() {
        return Vec::new();
    }
    let f = case.setup.family;
    let syn = tcp(client(f), vip(f), "S");
    let p = pieces(&tcp(case.server(), case.peer(), "A"));
    let start = |name: &str| {
        row(case, name).client(syn.clone()).server_gets(1, case.forward(syn.clone(), 0))
    };
    let in_order = p.iter().fold(start("reply: in order"), |row, piece| {
        row.server(1, piece.clone()).client_gets(back(case, piece))
    });
    let reversed = start("reply: the first one last")
        .server(1, p[2].clone())
        .absorbed()
        .server(1, p[1].clone())
        .absorbed()
        .server(1, p[0].clone())
        .client_gets(back(case, &p[0]))
        .client_gets(back(case, &p[2]))
        .client_gets(back(case, &p[1]));
    vec![in_order, reversed]
}
