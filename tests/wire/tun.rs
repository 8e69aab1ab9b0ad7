//! Tunnels: what only they have.

use dataplane::counters::DropReason;
use dataplane::service::{Encapsulation, GueChecksum};

use crate::bench::Row;
use crate::method::{Case, cases, header};
use crate::network::{V4, V6, client, far_router, own, vip};
use crate::packet::{Packet, TOO_BIG, icmp, tcp, told, udp};
use crate::setup::Setup;

pub(crate) fn rows() -> Vec<Row> {
    let tunnels = cases().into_iter().filter(|case| case.tunnel().is_some());
    tunnels
        .flat_map(|case| {
            let mut rows = headers(&case);
            rows.extend(pmtu_disc(&case));
            rows.extend(learnt(&case));
            rows
        })
        .collect()
}

fn set(case: &Case, name: &str, change: impl FnOnce(&mut Setup)) -> Row {
    Row::new(format!("{}: {name}", case.name), case.setup.clone().with(change))
}

fn is_gue(case: &Case) -> bool {
    matches!(case.tunnel(), Some(Encapsulation::Gue { .. }))
}

fn datagram(case: &Case) -> Packet {
    udp(client(case.setup.family), vip(case.setup.family))
}

fn headers(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let (c, v) = (client(f), vip(f));
    let none = datagram(case).sum(0);
    let syn = |mss: u8| tcp(c, v, "S").tcp_options(&[2, 4, 5, mss, 1, 1, 1, 1]);
    let mut rows = vec![
        set(case, "udp without a checksum stays without", |_| ())
            .client(none.clone())
            .server_gets(1, case.forward(none, 0)),
        set(case, "the outer source is the port's address: without one, dropped", |s| {
            s.addresses = false;
        })
        .client(datagram(case))
        .dropped(DropReason::NoSource),
        set(case, "mss: a SYN's is lowered", |s| s.mss = Some(0x0500))
            .client(syn(0xb4))
            .server_gets(1, case.forward(syn(0), 0)),
        set(case, "mss: off, it stays", |_| ())
            .client(syn(0xb4))
            .server_gets(1, case.forward(syn(0xb4), 0)),
    ];
    if f == V4 {
        let small = datagram(case).df(false);
        rows.push(
            set(case, "without DF the outer packet has an id, another each time", |_| ())
                .client(small.clone())
                .server_gets(1, case.forward(small.clone(), 0))
                .client(small.clone())
                .server_gets(1, case.forward(small, 1)),
        );
    }
    let sums = case.tunnel().is_some_and(|tunnel| {
        matches!(
            tunnel,
            Encapsulation::Gre { checksum: true }
                | Encapsulation::Gue { checksum: GueChecksum::Full | GueChecksum::Remote, .. }
        )
    });
    if sums {
        let odd = datagram(case).payload(b"an odd payload.");
        rows.push(
            set(case, "the checksum over an odd number of bytes", |_| ())
                .client(odd.clone())
                .server_gets(1, case.forward(odd, 0)),
        );
    }
    rows
}

/// The pieces of an outer packet that is longer than `mtu`.
fn pieces(case: &Case, packet: Packet, mtu: usize, id: u16) -> Vec<Packet> {
    let outer = case.forward(packet, 0).df(false);
    let outer_header = header(case.setup.servers);
    let fragment_header = if case.setup.servers == V6 { 8 } else { 0 };
    outer.fragments(&[(mtu - outer_header - fragment_header) & !7], id.into())
}

fn pmtu_disc(case: &Case) -> Vec<Row> {
    let off = |s: &mut Setup| s.settings.pmtu_disc = false;
    let case = Case { setup: case.setup.clone().with(off), ..case.clone() };
    let f = case.setup.family;
    let fits = datagram(&case).ip_len(case.room());
    let long = datagram(&case).ip_len(case.room() + 1);
    let row = |name: &str| set(&case, &format!("pmtu_disc=0: {name}"), |_| ());
    let oversize = row("one more than the MTU").client(long.clone());
    vec![
        row("the outer packet has no DF")
            .client(fits.clone())
            .server_gets(1, case.forward(fits, 0)),
        if f == V6 {
            oversize.dropped(DropReason::TooBig).client_gets(told(
                vip(f).ip(),
                TOO_BIG,
                case.room() as u32,
                &long.hop(),
            ))
        } else {
            pieces(&case, long, 1500, 1000)
                .into_iter()
                .fold(oversize.absorbed(), |row, piece| row.server_gets(1, piece))
        },
    ]
}

/// What a router behind the next hop says about the MTU, and until when it
/// counts.
fn learnt(case: &Case) -> Vec<Row> {
    // The source port of the outer packet is not known here.
    if is_gue(case) {
        return Vec::new();
    }
    let (f, s) = (case.setup.family, case.setup.servers);
    let big = datagram(case).ip_len(1400);
    let ids = case.ids_of(&big);
    let says = |mtu: u32| {
        let code = if s == V4 { (3, 4) } else { (2, 0) };
        let mut quote = case.forward(big.clone(), 0).ip();
        quote.truncate(200);
        icmp((far_router(s, 1), own(s, 1)), code, mtu, &quote)
    };
    let is_told = |mtu: usize, packet: &Packet, len: usize, id: u16| {
        let mut quote = packet.clone().hop().ip();
        quote.truncate(len);
        let code = if f == V4 { (3, 4) } else { (2, 0) };
        let ends = (vip(f).ip(), client(f).ip());
        let told = icmp(ends, code, mtu as u32, &quote);
        told.tos(if f == V4 { 0xc0 } else { 0 }).df(false).label(0).id(id)
    };
    let quoted = 200 - case.overhead;
    let most = if f == V4 { 548 } else { 1232 };
    let least = |mtu: usize| if f == V6 { mtu.max(1280) } else { mtu };
    let start = |name: &str| {
        set(case, name, |_| ()).client(big.clone()).server_gets(1, case.forward(big.clone(), 0))
    };
    let after = 1000 + ids;
    let inner = least(1300 - case.overhead);
    let mut rows = vec![
        start("a path MTU is forgotten after ten minutes")
            .router(1, says(1300))
            .absorbed()
            .client_gets(is_told(inner, &big, quoted, after))
            .client(big.clone())
            .dropped(DropReason::TooBig)
            .client_gets(is_told(inner, &big, most, after + 1))
            .after(601)
            .client(big.clone())
            .server_gets(1, case.forward(big.clone(), ids + 2)),
    ];
    if inner == 1300 - case.overhead {
        let (fits, beyond) = (datagram(case).ip_len(inner), datagram(case).ip_len(inner + 1));
        rows.push(
            start("a path MTU is kept to, to the byte")
                .router(1, says(1300))
                .absorbed()
                .client_gets(is_told(inner, &big, quoted, after))
                .client(fits.clone())
                .server_gets(1, case.forward(fits, ids + 1))
                .client(beyond.clone())
                .dropped(DropReason::TooBig)
                .client_gets(is_told(inner, &beyond, most, after + 1)),
        );
    }
    let believed = if s == V4 { 552 } else { 1280 };
    let row = start("a path MTU that is too small to believe").router(1, says(68)).absorbed();
    let inner = least(believed - case.overhead);
    rows.push(row.client_gets(is_told(inner, &big, quoted, after)));
    if f == V4 {
        let may = datagram(case).df(false).ip_len(1400);
        let row = start("without DF, outer packets are cut to the path MTU")
            .router(1, says(1300))
            .absorbed()
            .client_gets(is_told(1300 - case.overhead, &big, quoted, after))
            .client(may.clone())
            .absorbed();
        let pieces = pieces(case, may, 1300, after + 1);
        rows.push(pieces.into_iter().fold(row, |row, piece| row.server_gets(1, piece)));
    }
    rows
}
