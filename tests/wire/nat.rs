//! NAT: what only it has. What it has in common with the other methods is in
//! `every`, `fragments`, `icmp`, `options` and `policy`.

use std::net::SocketAddr;

use dataplane::director::Handed;
use dataplane::packet::Family;
use dataplane::service::Method;

use crate::bench::{Row, client_of};
use crate::network::{FAMILIES, V4, client, rip, vip};
use crate::packet::{Packet, sctp, tcp, udp};
use crate::setup::Setup;

pub(crate) fn rows() -> Vec<Row> {
    FAMILIES
        .into_iter()
        .flat_map(|f| [checksums(f), arms(f), workers(f), lives(f)].into_iter().flatten())
        .collect()
}

fn setup(f: Family) -> Setup {
    Setup::new(Method::Nat, f)
}

fn row(f: Family, name: &str) -> Row {
    Row::new(format!("{f:?}: {name}"), setup(f))
}

fn checksums(f: Family) -> Vec<Row> {
    let (c, v, s) = (client(f), vip(f), rip(f, 1));
    // 0 is no checksum.
    let none = udp(c, v).sum(0);
    let reply = udp(s, c).sum(0);
    let odd = udp(c, v).payload(b"six by").sum(0);
    let first = none.clone().ip_len(100).sum(0).fragments(&[24], 5);
    let crc_0 = sctp(c, v, 1).sum(0);
    let mapped = |name: &str| {
        let setup = setup(f).with(|s| s.targets[0].port = 8080);
        Row::new(format!("{f:?}: {name}"), setup)
    };
    let s8080 = SocketAddr::new(s.ip(), 8080);
    let mut wrong_len = udp(c, v).sum(0).ip();
    let at = wrong_len.len() - 9;
    wrong_len[at] = 200;
    vec![
        row(f, "udp without a checksum gets one")
            .client(none.clone())
            .server_gets(1, udp(c, s).hop())
            .client(odd)
            .server_gets(1, udp(c, s).payload(b"six by").hop())
            .server(1, reply)
            .client_gets(udp(v, c).hop()),
        row(f, "udp without a checksum, in fragments: none can be computed")
            .differs("UDP fragments without a checksum")
            .client(first[0].clone())
            .server_gets(1, first[0].clone().to(s).hop())
            .client(first[1].clone())
            .server_gets(1, first[1].clone().to(s).hop()),
        row(f, "sctp keeps its ports, and a CRC of 0")
            .client(crc_0.clone())
            .server_gets(1, crc_0.to(s).hop()),
        mapped("sctp with another port: a CRC of 0 is one as any other")
            .differs("checksums of SCTP")
            .client(sctp(c, v, 1).sum(0))
            .server_gets(1, sctp(c, s8080, 1).crc_as_wrong_as_0_is_for(&sctp(c, v, 1)).hop()),
        mapped("sctp with another port: a wrong CRC stays wrong")
            .differs("checksums of SCTP")
            .client(sctp(c, v, 1).sum_wrong_by(0x0101))
            .server_gets(1, sctp(c, s8080, 1).sum_wrong_by(0x0101).hop()),
        mapped("replies from the other port come from the VIP's")
            .client(tcp(c, v, "S"))
            .server_gets(1, tcp(c, s8080, "S").hop())
            .server(1, tcp(s8080, c, "SA"))
            .client_gets(tcp(v, c, "SA").hop())
            .server(1, tcp(s, c, "SA"))
            .punted(),
    ]
}

/// One port for both sides.
fn arms(f: Family) -> Vec<Row> {
    let (c, v, s) = (client(f), vip(f), rip(f, 1));
    let one_arm = setup(f).with(|s| s.one_arm = true);
    vec![
        Row::new(format!("{f:?}: one arm"), one_arm)
            .client(tcp(c, v, "S"))
            .server_gets(1, tcp(c, s, "S").hop())
            .server(1, tcp(s, c, "SA"))
            .client_gets(tcp(v, c, "SA").hop())
            .client(tcp(c, v, "A"))
            .server_gets(1, tcp(c, s, "A").hop()),
    ]
}

/// Both directions belong to the worker that the client's packets belong to.
fn workers(f: Family) -> Vec<Row> {
    let (v, s) = (vip(f), rip(f, 1));
    let (ours, others) = (client_of(0, f), client_of(1, f));
    let two = || setup(f).with(|s| s.workers = 2);
    let name = |name: &str| format!("{f:?}: two workers: {name}");
    vec![
        Row::new(name("its own connection, both ways"), two())
            .client(tcp(ours, v, "S"))
            .server_gets(1, tcp(ours, s, "S").hop())
            .server(1, tcp(s, ours, "SA"))
            .client_gets(tcp(v, ours, "SA").hop()),
        Row::new(name("another's connection, both ways"), two())
            .client(tcp(others, v, "S"))
            .handed_to(1, Handed::default())
            .server(1, tcp(s, others, "SA"))
            .handed_to(1, Handed::default()),
        Row::new(name("errors go where the connection is"), two())
            .client(error(f, v, others))
            .handed_to(1, Handed::default())
            .server(1, error(f, others, s))
            .handed_to(1, Handed::default()),
    ]
}

/// An error about a packet from `src` to `dst`, from there.
fn error(f: Family, src: SocketAddr, dst: SocketAddr) -> Packet {
    let code = if f == V4 { (3, 3) } else { (1, 4) };
    crate::packet::icmp((dst.ip(), src.ip()), code, 0, &tcp(src, dst, "A").quote(8))
}

/// Connections of which both sides are seen: how many are active and inactive
/// after each packet, and how long they live.
fn lives(f: Family) -> Vec<Row> {
    let (c, v, s) = (client(f), vip(f), rip(f, 1));
    let life = |name: &str, packets: &str, seconds: u32| {
        let row = packets.split(' ').fold(row(f, name), |row, packet| {
            let (side, letters) = packet.split_at(1);
            match side {
                "c" => row.client(tcp(c, v, letters)).server_gets(1, tcp(c, s, letters).hop()),
                _ => row.server(1, tcp(s, c, letters)).client_gets(tcp(v, c, letters).hop()),
            }
        });
        let row = row.connections(1, 0, 1).after(seconds - 1).connections(1, 0, 1);
        row.after(3).connections(1, 0, 0)
    };
    vec![
        life("the client closes: CLOSE_WAIT", "cS sSA cA cFA", 60),
        life("the server closes: FIN_WAIT", "cS sSA cA sFA", 120),
        life("both close: TIME_WAIT", "cS sSA cA cFA sFA cA", 120),
        life("the client resets: CLOSE", "cS sSA cA cR", 10),
        life("the server refuses: CLOSE", "cS sRA", 10),
    ]
}
