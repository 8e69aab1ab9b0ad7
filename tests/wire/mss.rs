//! The limit that a service sets to the TCP MSS, where both directions pass the
//! director: neither side is to send longer segments. Direct routing and tunnels
//! see the client's SYN only; their rows are in `dr` and `tun`.

use crate::bench::Row;
use crate::method::{Case, cases};
use crate::network::{client, vip};
use crate::packet::{Packet, tcp};

/// The limit of the rows.
const LIMIT: u16 = 1000;
/// SACK permitted, and a window scale of 7: options that are not the MSS.
const OTHERS: [u8; 8] = [1, 1, 4, 2, 1, 3, 3, 7];

pub(crate) fn rows() -> Vec<Row> {
    cases().into_iter().filter(Case::is_two_sided).flat_map(|case| of_case(&case)).collect()
}

fn of_case(case: &Case) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, came, left) in [
        ("one above the limit is lowered", 1460, LIMIT),
        ("one byte above", LIMIT + 1, LIMIT),
        ("the limit itself stays", LIMIT, LIMIT),
        ("one below stays", 536, 536),
    ] {
        rows.push(handshake(case, name, &[mss(came), mss(left)]));
        let after = |value| [&OTHERS[..], &mss(value)].concat();
        rows.push(handshake(case, &format!("{name}, after others"), &[after(came), after(left)]));
        // An odd place: the value lies in two words of the checksum.
        let odd = |value| [&[1][..], &mss(value), &[1, 1, 1]].concat();
        rows.push(handshake(case, &format!("{name}, at an odd place"), &[odd(came), odd(left)]));
    }
    for (name, options) in [("no options", vec![]), ("no such option", OTHERS.to_vec())] {
        rows.push(handshake(case, name, &[options.clone(), options]));
    }
    rows.push(wrong(case));
    rows
}

/// The option with a value.
fn mss(value: u16) -> Vec<u8> {
    let [high, low] = value.to_be_bytes();
    vec![2, 4, high, low]
}

fn row(case: &Case, name: &str) -> Row {
    let setup = case.setup.clone().with(|s| s.mss = Some(LIMIT));
    Row::new(format!("{}: {name}", case.name), setup)
}

fn syn(case: &Case, options: &[u8]) -> Packet {
    tcp(client(case.setup.family), vip(case.setup.family), "S").tcp_options(options)
}

fn syn_ack(case: &Case, options: &[u8]) -> Packet {
    tcp(case.server(), case.peer(), "SA").ack(1001).tcp_options(options)
}

/// A SYN and its SYN-ACK, both with the first options, become such with the
/// second ones. In an ACK the option means nothing and stays.
fn handshake(case: &Case, name: &str, [came, left]: &[Vec<u8>; 2]) -> Row {
    let used = case.ids_of(&syn(case, came));
    let ack = tcp(client(case.setup.family), vip(case.setup.family), "A").tcp_options(came);
    row(case, name)
        .client(syn(case, came))
        .server_gets(1, case.forward(syn(case, left), 0))
        .server(1, syn_ack(case, came))
        .client_gets(case.back(syn_ack(case, left), used))
        .client(ack.clone())
        .server_gets(1, case.forward(ack, ids(case)))
}

/// How many ids of its own the director has given in a handshake.
fn ids(case: &Case) -> u16 {
    // Either the SYN or the SYN-ACK becomes one of IPv4.
    u16::from(case.translates())
}

/// What was damaged on its way must not arrive as if it were whole.
fn wrong(case: &Case) -> Row {
    let damaged = |packet: Packet| packet.sum_wrong_by(0x1234);
    let used = case.ids_of(&syn(case, &mss(1460)));
    row(case, "a wrong checksum stays wrong")
        .client(damaged(syn(case, &mss(1460))))
        .server_gets(1, case.forward(damaged(syn(case, &mss(LIMIT))), 0))
        .server(1, damaged(syn_ack(case, &mss(1460))))
        .client_gets(case.back(damaged(syn_ack(case, &mss(LIMIT))), used))
}
