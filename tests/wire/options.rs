//! IPv4 options and IPv6 extension headers.

use dataplane::counters::DropReason;
use dataplane::service::{Encapsulation, Method};

use crate::bench::Row;
use crate::method::{Case, cases};
use crate::network::{V4, V6, client, own, vip};
use crate::packet::{BAD_HEADER, Packet, TOO_BIG, octets, tcp, told, udp};

pub(crate) fn rows() -> Vec<Row> {
    let cases = cases()
        .into_iter()
        .filter(|case| !matches!(case.setup.method, Method::Tun(e) if e != Encapsulation::Ipip));
    let of_case = |case: Case| {
        let mut rows = match case.setup.family {
            V4 => ip4(&case),
            V6 => ip6(&case),
        };
        if case.is_two_sided() && case.setup.servers == V4 {
            rows.extend(ip4_replies(&case));
        }
        rows
    };
    cases.flat_map(of_case).collect()
}

fn row(case: &Case, name: &str) -> Row {
    Row::new(format!("{}: {name}", case.name), case.setup.clone())
}

/// A client's SYN.
fn syn(case: &Case) -> Packet {
    tcp(client(case.setup.family), vip(case.setup.family), "S")
}

/// What comes, and what the director makes of it with this address of its own
/// and 1,000 s after midnight.
fn processed(address: &[u8]) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let time = 1_000_000_u32.to_be_bytes();
    let same = |name, options: &[u8]| (name, options.to_vec(), options.to_vec());
    vec![
        same("no operation", &[1, 1, 1, 0]),
        same("router alert", &[148, 4, 0, 0]),
        same("an unknown option", &[130, 4, 7, 7]),
        same("a full record route", &[7, 7, 8, 9, 9, 9, 9, 0]),
        (
            "record route",
            vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [&[7, 11, 8], address, &[0; 5]].concat(),
        ),
        ("timestamp", vec![68, 8, 5, 0, 0, 0, 0, 0], [&[68, 8, 9, 0], &time[..]].concat()),
        (
            "timestamp with address",
            vec![68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            [&[68, 12, 13, 1], address, &time].concat(),
        ),
        ("a full timestamp counts", vec![68, 8, 9, 0, 1, 2, 3, 4], vec![68, 8, 9, 16, 1, 2, 3, 4]),
    ]
}

/// Options that make no sense, and the byte that is wrong.
const MALFORMED: [(&str, [u8; 8], u8); 4] = [
    ("record route that is too long", [7, 12, 4, 0, 0, 0, 0, 0], 20),
    ("record route with a pointer of 3", [7, 7, 3, 0, 0, 0, 0, 0], 22),
    ("timestamp that overflowed", [68, 8, 9, 0xf0, 1, 2, 3, 4], 23),
    ("an option of length 1", [130, 1, 0, 0, 0, 0, 0, 0], 20),
];

fn ip4(case: &Case) -> Vec<Row> {
    let v = vip(V4).ip();
    let mut rows = Vec::new();
    for (name, came, left) in processed(&octets(own(V4, 1))) {
        let left = if case.translates() {
            case.forward(syn(case), 0)
        } else {
            case.forward(syn(case).ip_options(&left), 0)
        };
        rows.push(row(case, name).client(syn(case).ip_options(&came)).server_gets(1, left));
    }
    for source_route in [131, 137] {
        let options = [source_route, 7, 4, 10, 0, 0, 9, 0];
        rows.push(
            row(case, &format!("source route {source_route}"))
                .client(syn(case).ip_options(&options))
                .dropped(DropReason::Ip4SourceRoute),
        );
    }
    if case.translates() {
        // What says nothing that IPv6 has is left out unread.
        let broken = [130, 1, 0, 0];
        rows.push(
            row(case, "options that end past the header")
                .client(syn(case).ip_options(&broken))
                .dropped(DropReason::Ip4BadOptions),
        );
        return rows;
    }
    for (name, options, pointer) in MALFORMED {
        let packet = syn(case).ip_options(&options);
        rows.push(
            row(case, &format!("{name}: parameter problem from the VIP"))
                .client(packet.clone())
                .dropped(DropReason::Ip4BadOptions)
                .client_gets(told(v, BAD_HEADER, u32::from(pointer) << 24, &packet)),
        );
    }
    if case.tunnel().is_none() {
        rows.push(in_pieces(case));
    }
    rows
}

/// Fragments after the first have the options that say so (RFC 791, section
/// 3.1); no operation stands for others, as in the kernel.
fn in_pieces(case: &Case) -> Row {
    let options = [68, 4, 5, 0, 148, 4, 0, 0, 1, 130, 3, 9];
    let left = [68, 4, 5, 16, 148, 4, 0, 0, 1, 130, 3, 9];
    let later = [1, 1, 1, 1, 148, 4, 0, 0, 1, 130, 3, 9];
    let long = udp(client(V4), vip(V4)).df(false).ip_options(&options).ip_len(1501);
    let whole = case.forward(long.clone().ip_options(&left), 0);
    let pieces = whole.fragments(&[1464], whole.own_id().into());
    row(case, "too long, with options: in pieces that have them")
        .client(long)
        .server_gets(1, pieces[0].clone())
        .server_gets(1, pieces[1].clone().ip_options(&later))
}

fn ip4_replies(case: &Case) -> Vec<Row> {
    let (server, peer) = (case.server(), case.peer());
    let used = case.ids_of(&syn(case));
    let start =
        |name: &str| row(case, name).client(syn(case)).server_gets(1, case.forward(syn(case), 0));
    let syn_ack = tcp(server, peer, "SA").ack(1001);
    let mut rows = Vec::new();
    for (name, came, left) in processed(&octets(own(V4, 0))) {
        let left = if case.translates() {
            case.back(syn_ack.clone(), used)
        } else {
            case.back(syn_ack.clone().ip_options(&left), used)
        };
        rows.push(
            start(&format!("reply: {name}"))
                .server(1, syn_ack.clone().ip_options(&came))
                .client_gets(left),
        );
    }
    if case.translates() {
        return rows;
    }
    for (name, options, pointer) in MALFORMED {
        let packet = syn_ack.clone().ip_options(&options);
        let error = told(own(V4, 1), BAD_HEADER, u32::from(pointer) << 24, &packet);
        rows.push(
            start(&format!("reply: {name}: parameter problem from the director"))
                .server(1, packet)
                .dropped(DropReason::Ip4BadOptions)
                .server_gets(1, error.id(1000 + used)),
        );
    }
    rows
}

/// Hop-by-hop options, routing header (used up), destination options: each 8
/// bytes of padding, and the next header to be filled in.
const EXTENSIONS: [(u8, [u8; 8]); 3] =
    [(0, [0, 0, 1, 4, 0, 0, 0, 0]), (43, [0, 0, 0, 0, 0, 0, 0, 0]), (60, [0, 0, 1, 4, 0, 0, 0, 0])];

fn ip6(case: &Case) -> Vec<Row> {
    let v = vip(V6).ip();
    let with = |packet: Packet, extensions: &[(u8, [u8; 8])]| {
        extensions.iter().fold(packet, |packet, (number, bytes)| packet.extension(*number, bytes))
    };
    let becomes = |packet: Packet| {
        let packet = if case.translates() { packet.without_extensions() } else { packet };
        case.forward(packet, 0)
    };
    let mut rows = Vec::new();
    for (number, bytes) in EXTENSIONS {
        let packet = with(syn(case), &[(number, bytes)]);
        rows.push(
            row(case, &format!("extension header {number}"))
                .client(packet.clone())
                .server_gets(1, becomes(packet)),
        );
    }
    let packet = with(syn(case), &EXTENSIONS);
    rows.push(row(case, "all of them").client(packet.clone()).server_gets(1, becomes(packet)));
    let packet = (0..8).fold(syn(case), |packet, _| with(packet, &EXTENSIONS[2..]));
    rows.push(
        row(case, "eight of them").client(packet.clone()).server_gets(1, becomes(packet.clone())),
    );
    rows.push(
        row(case, "nine of them")
            .differs("IPv6 extension headers")
            .client(with(packet, &EXTENSIONS[2..]))
            .dropped(DropReason::Ip6TooManyHeaders),
    );
    let mut past = EXTENSIONS[2];
    past.1[1] = 200;
    rows.push(
        row(case, "one that ends past the packet")
            .client(with(syn(case), &[past]))
            .dropped(DropReason::Ip6BadHeader),
    );
    let mut left = EXTENSIONS[1];
    left.1[3] = 1;
    let packet = with(syn(case), &[left]);
    let row_left = row(case, "a routing header with segments left").client(packet.clone());
    rows.push(if case.translates() {
        row_left.dropped(DropReason::NoTranslation)
    } else {
        row_left.differs("IPv6 extension headers").server_gets(1, becomes(packet))
    });
    let authenticated = syn(case).extension(51, &[0, 1, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    let row_ah = row(case, "an authentication header").client(authenticated.clone());
    rows.push(match case.setup.method {
        Method::Dr | Method::Tun(_) => row_ah.server_gets(1, becomes(authenticated)),
        _ if case.translates() => row_ah.dropped(DropReason::NoTranslation),
        // Its addresses are covered: the server will not believe it.
        _ => row_ah.server_gets(1, becomes(authenticated)),
    });
    if !case.translates() {
        let long = with(udp(client(V6), vip(V6)), &EXTENSIONS).ip_len(case.room() + 1);
        rows.push(
            row(case, "too long, with extension headers")
                .client(long.clone())
                .dropped(DropReason::TooBig)
                .client_gets(told(v, TOO_BIG, case.room() as u32, &long.hop())),
        );
    }
    rows
}
