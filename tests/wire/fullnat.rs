//! FULLNAT: what only it has: the client's address for the server, and the
//! other address family. There is no FULLNAT in kernel IPVS; TOA and PROXY are
//! as those who read them expect, translation is RFC 7915.

use std::net::{IpAddr, SocketAddr};

use dataplane::counters::DropReason;
use dataplane::packet::Family;
use dataplane::service::{ClientAddress, Method};

use crate::bench::Row;
use crate::method::Case;
use crate::network::{FAMILIES, V4, V6, client, own, vip};
use crate::packet::{Packet, TOO_BIG, octets, sctp, tcp, told, udp};
use crate::setup::Setup;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for family in FAMILIES {
        for servers in FAMILIES {
            let setup = Setup::new(Method::Fullnat, family).with(|s| s.servers = servers);
            let overhead = if (family, servers) == (V4, V6) { 20 } else { 0 };
            let case = Case { name: format!("{family:?}->{servers:?}"), setup, overhead };
            rows.extend(toa(&case));
            rows.extend(proxy(&case));
            rows.extend(both_ways(&case));
            if case.translates() {
                rows.extend(translation(&case));
            } else {
                rows.extend(checksums(&case));
            }
        }
    }
    rows
}

fn set(case: &Case, name: &str, change: impl FnOnce(&mut Setup)) -> Row {
    Row::new(format!("{}: {name}", case.name), case.setup.clone().with(change))
}

fn segment(case: &Case, letters: &str) -> Packet {
    tcp(client(case.setup.family), vip(case.setup.family), letters)
}

/// Packets of the client with what the server gets, in order.
fn talk(case: &Case, row: Row, packets: Vec<(Packet, Packet)>) -> Row {
    packets.into_iter().zip(0..).fold(row, |row, ((packet, becomes), nth)| {
        row.client(packet).server_gets(1, case.forward(becomes, nth))
    })
}

/// The option: kind 254, its length, port, address.
fn toa_option(client: SocketAddr) -> Vec<u8> {
    let address = octets(client.ip());
    [&[254, 4 + address.len() as u8][..], &client.port().to_be_bytes(), &address].concat()
}

fn toa(case: &Case) -> Vec<Row> {
    let c = client(case.setup.family);
    let option = toa_option(c);
    let with = |options: &[u8]| [&option[..], options].concat();
    let row =
        |name: &str| set(case, &format!("toa: {name}"), |s| s.client_address = ClientAddress::Toa);
    let mss = [2, 4, 5, 0xb4];
    let times = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let syn = |options: &[u8]| segment(case, "S").tcp_options(options);
    let ack = |options: &[u8]| segment(case, "A").seq(1001).tcp_options(options);
    let data = |options: &[u8]| segment(case, "PA").seq(1001).payload(b"odd").tcp_options(options);
    let later =
        |options: &[u8]| segment(case, "PA").seq(1004).payload(b"more").tcp_options(options);
    let own_option = toa_option(SocketAddr::new([9, 9, 9, 9].into(), 9));
    let blank = [1; 8];
    let full = [1; 40];
    let (server, peer) = (case.server(), case.peer());
    let reply = tcp(server, peer, "SA").ack(1001).tcp_options(&mss);
    let (room, longer) = (case.room() - option.len(), case.room() - option.len() + 1);
    let first = |options: &[u8], payload: &[u8]| data(options).payload(payload);
    let exact = data(&[]).ip_len(room).take_payload();
    let beyond = data(&[]).ip_len(longer).take_payload();
    vec![
        talk(
            case,
            row("as long as the MTU with it"),
            vec![(syn(&mss), syn(&with(&mss))), (first(&[], &exact), first(&option, &exact))],
        ),
        talk(
            case,
            row("not where it would be longer than the MTU"),
            vec![(syn(&mss), syn(&with(&mss))), (first(&[], &beyond), first(&[], &beyond))],
        ),
        talk(
            case,
            row("in the handshake and the first data"),
            vec![
                (syn(&mss), syn(&with(&mss))),
                (ack(&times), ack(&with(&times))),
                (data(&times), data(&with(&times))),
                (later(&times), later(&times)),
            ],
        ),
        talk(
            case,
            row("the client's own is blanked"),
            vec![
                (syn(&own_option), syn(&with(&blank))),
                (ack(&own_option), ack(&with(&blank))),
                (later(&own_option), later(&blank)),
            ],
        ),
        talk(case, row("no room for it"), vec![(syn(&full), syn(&full)), (ack(&full), ack(&full))]),
        talk(
            case,
            row("a wrong checksum stays wrong"),
            vec![(syn(&mss).sum_wrong_by(0x1234), syn(&with(&mss)).sum_wrong_by(0x1234))],
        ),
        talk(
            case,
            row("udp has none"),
            vec![(udp(c, vip(case.setup.family)), udp(c, vip(case.setup.family)))],
        ),
        talk(case, row("replies are left alone"), vec![(syn(&mss), syn(&with(&mss)))])
            .server(1, reply.clone())
            .client_gets(case.back(reply, case.ids_of(&syn(&mss)))),
    ]
}

/// The header of the PROXY protocol, version 2.
fn proxy_header(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let (family, len) = if client.is_ipv4() { (0x11, 12) } else { (0x21, 36) };
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x21, family, 0, len]);
    bytes.extend(octets(client.ip()));
    bytes.extend(octets(vip.ip()));
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(vip.port().to_be_bytes());
    bytes
}

fn proxy(case: &Case) -> Vec<Row> {
    let (c, v) = (client(case.setup.family), vip(case.setup.family));
    let (server, peer) = (case.server(), case.peer());
    let header = proxy_header(c, v);
    let len = header.len() as u32;
    let row = |name: &str| {
        set(case, &format!("proxy: {name}"), |s| s.client_address = ClientAddress::Proxy)
    };
    let syn = || segment(case, "S");
    let at = |seq: u32, payload: &[u8]| segment(case, "A").seq(seq).payload(payload);
    let reply = |ack: u32| tcp(server, peer, "A").seq(5001).ack(ack);
    // The director's ids so far, where packets become IPv4.
    let one = case.ids_of(&syn());
    let back_id = u16::from(case.translates() && case.setup.family == V4);
    let with_header = |payload: &[u8]| at(1001, &[&header, payload].concat());
    let syn_ack = tcp(server, peer, "SA").seq(5000).ack(1001);
    vec![
        row("in front of the first data; numbers are shifted from then on")
            .client(syn())
            .server_gets(1, case.forward(syn(), 0))
            .server(1, syn_ack.clone())
            .client_gets(case.back(syn_ack.clone(), 0))
            .client(at(1001, b""))
            .server_gets(1, case.forward(with_header(b""), one))
            .client(at(1001, b"data"))
            .server_gets(1, case.forward(with_header(b"data"), 2 * one))
            .server(1, reply(1001 + len - 5))
            .client_gets(case.back(reply(1001), back_id))
            .server(1, reply(1005 + len))
            .client_gets(case.back(reply(1005), 2 * back_id))
            .client(at(1005, b"more"))
            .server_gets(1, case.forward(at(1005 + len, b"more"), 3 * one))
            .client(at(1001, b"data"))
            .server_gets(1, case.forward(at(1001 + len, b"data"), 4 * one)),
        row("data in a SYN is cut off")
            .client(syn().payload(b"early"))
            .server_gets(1, case.forward(syn(), 0)),
        {
            let long = at(1001, b"").ip_len(case.room()).take_payload();
            row("first data as long as the MTU: the header goes by itself")
                .client(syn())
                .server_gets(1, case.forward(syn(), 0))
                .client(at(1001, &long))
                .server_gets(1, case.forward(at(1001 + len, &long), one))
                .server_gets(1, {
                    let apart = case.forward(with_header(b""), one);
                    // It takes DF from the segment that it precedes.
                    if case.translates() && case.setup.servers == V4 {
                        apart.df(true)
                    } else {
                        apart
                    }
                })
        },
        row("RST has none")
            .client(syn())
            .server_gets(1, case.forward(syn(), 0))
            .client(segment(case, "R").seq(1001))
            .server_gets(1, case.forward(segment(case, "R").seq(1001), one)),
        row("SACK blocks are shifted")
            .client(syn())
            .server_gets(1, case.forward(syn(), 0))
            .server(1, reply(1001 + len).tcp_options(&sack(1101 + len, 1201 + len)))
            .client_gets(case.back(reply(1001).tcp_options(&sack(1101, 1201)), 0)),
    ]
}

fn sack(left: u32, right: u32) -> Vec<u8> {
    [&[1, 1, 5, 10][..], &left.to_be_bytes(), &right.to_be_bytes()].concat()
}

/// Whole connections.
fn both_ways(case: &Case) -> Vec<Row> {
    let (server, peer) = (case.server(), case.peer());
    let mut row = set(case, "tcp from SYN to TIME_WAIT", |_| ());
    let (mut to_server, mut to_client) = (0, 0);
    // Only one direction's packets get ids.
    let ids = |packet: &Packet| u16::from(case.translates() && packet.src.is_ipv6());
    for step in ["cS", "sSA", "cA", "cPA", "sA", "sPA", "cFA", "sFA", "cA"] {
        let (side, letters) = step.split_at(1);
        if side == "c" {
            let packet = segment(case, letters);
            row =
                row.client(packet.clone()).server_gets(1, case.forward(packet.clone(), to_server));
            to_server += ids(&packet);
        } else {
            let packet = tcp(server, peer, letters);
            row = row.server(1, packet.clone()).client_gets(case.back(packet.clone(), to_client));
            to_client += ids(&packet);
        }
    }
    vec![row.connections(1, 0, 1).after(119).connections(1, 0, 1).after(3).connections(1, 0, 0)]
}

fn checksums(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let none = || udp(client(f), vip(f)).sum(0);
    vec![
        set(case, "udp without a checksum gets one", |_| ())
            .client(none())
            .server_gets(1, case.forward(udp(client(f), vip(f)), 0)),
        crc_of_0(case),
    ]
}

/// SCTP has no "no checksum": what was wrong stays wrong by as much.
fn crc_of_0(case: &Case) -> Row {
    let (c, v) = (client(case.setup.family), vip(case.setup.family));
    let wrong = sctp(c, v, 1).crc_as_wrong_as_0_is_for(&sctp(c, v, 1));
    set(case, "sctp: a CRC of 0 is one as any other", |_| ())
        .client(sctp(c, v, 1).sum(0))
        .server_gets(1, case.forward(wrong, 0))
}

/// Between the families.
fn translation(case: &Case) -> Vec<Row> {
    let f: Family = case.setup.family;
    let (c, v) = (client(f), vip(f));
    let (server, peer) = (case.server(), case.peer());
    let datagram = || udp(c, v);
    let low_mtu = |s: &mut Setup| s.mtu[1] = 1000;
    let mut rows = vec![
        crc_of_0(case),
        set(case, "nat to a server of the other family", |s| {
            s.method = Method::Nat;
        })
        .client(datagram())
        .dropped(DropReason::NoTranslation),
    ];
    let opened = |name: &str, change: fn(&mut Setup)| {
        set(case, name, change).client(datagram()).server_gets(1, case.forward(datagram(), 0))
    };
    let used = case.ids_of(&datagram());
    match f {
        V4 => {
            rows.push(
                set(case, "udp without a checksum gets the one that IPv6 needs", |_| ())
                    .client(datagram().sum(0))
                    .server_gets(1, case.forward(datagram(), 0)),
            );
            let pieces = datagram().ip_len(1400).df(false).id(0x99);
            let whole = case.forward(pieces.clone(), 0);
            let row = set(case, "without DF, in pieces as long as the MTU", low_mtu).client(pieces);
            rows.push(
                whole
                    .fragments(&[952], 0x99)
                    .into_iter()
                    .fold(row, |row, piece| row.server_gets(1, piece)),
            );
            let reply = udp(server, peer).sum(0);
            rows.push(
                opened("a reply without a checksum, which IPv6 forbids", |_| ())
                    .server(1, reply)
                    .dropped(DropReason::NoTranslation),
            );
            for (len, name) in [(1280, "of 1280 bytes: no DF"), (1281, "of 1281 bytes: DF")] {
                let reply = udp(server, peer).ip_len(len);
                rows.push(
                    opened(&format!("a reply {name}"), |_| ())
                        .server(1, reply.clone())
                        .client_gets(case.back(reply, used)),
                );
            }
        }
        V6 => {
            rows.push(
                set(case, "udp without a checksum, which IPv6 forbids", |_| ())
                    .client(datagram().sum(0))
                    .dropped(DropReason::NoTranslation),
            );
            for (len, name) in [(1280, "1280 bytes: no DF"), (1281, "1281 bytes: DF")] {
                let packet = datagram().ip_len(len);
                rows.push(
                    set(case, name, |_| ())
                        .client(packet.clone())
                        .server_gets(1, case.forward(packet, 0)),
                );
            }
            // 1280 bytes are in order whatever is behind: in pieces.
            let packet = datagram().ip_len(1280);
            let row = set(case, "1280 bytes, and a smaller MTU", low_mtu).client(packet.clone());
            let whole = case.forward(packet, 0);
            rows.push(
                whole
                    .fragments(&[976], 1000)
                    .into_iter()
                    .fold(row, |row, piece| row.server_gets(1, piece)),
            );
            let packet = datagram().ip_len(1281);
            rows.push(
                set(case, "1281 bytes, and a smaller MTU: no less than 1280 is told", low_mtu)
                    .client(packet.clone())
                    .dropped(DropReason::TooBig)
                    .client_gets(told(v.ip(), TOO_BIG, 1280, &packet)),
            );
            let reply = udp(server, peer).sum(0);
            let with_sum = case.back(udp(server, peer), 0);
            rows.push(
                opened("a reply without a checksum gets one", |_| ())
                    .server(1, reply)
                    .client_gets(with_sum),
            );
            let long = udp(server, peer).ip_len(1481);
            let from: IpAddr = own(V4, 1);
            rows.push(
                opened("a reply one longer than fits, with DF", |_| ())
                    .server(1, long.clone())
                    .dropped(DropReason::TooBig)
                    .server_gets(1, told(from, TOO_BIG, 1480, &long).id(1000 + used)),
            );
        }
    }
    rows
}
