//! Direct routing: what only it has.

use std::net::SocketAddr;

use dataplane::counters::DropReason;
use dataplane::director::Handed;
use dataplane::packet::Family;
use dataplane::service::Method;

use crate::bench::{Row, client_of};
use crate::network::{FAMILIES, V4, client, vip};
use crate::packet::{NO_PORT, Packet, icmp, sctp, tcp, told, udp};
use crate::setup::Setup;

pub(crate) fn rows() -> Vec<Row> {
    FAMILIES
        .into_iter()
        .flat_map(|f| [unchanged(f), states(f), workers(f)].into_iter().flatten())
        .collect()
}

fn setup(f: Family) -> Setup {
    Setup::new(Method::Dr, f)
}

/// Whatever layer 4 says, and whatever is wrong with it.
fn unchanged(f: Family) -> Vec<Row> {
    let (c, v) = (client(f), vip(f));
    let mut wrong_len = udp(c, v).layer4();
    wrong_len[4..6].copy_from_slice(&[0xff, 0xff]);
    let mut offset = tcp(c, v, "S").layer4();
    offset[12] = 0xf0;
    let mut rows: Vec<_> = [
        ("udp without a checksum", udp(c, v).sum(0)),
        ("udp with another length than the packet's", udp(c, v).raw(17, &wrong_len)),
        ("tcp with a data offset beyond the packet", tcp(c, v, "S").raw(6, &offset)),
        ("sctp without a CRC", sctp(c, v, 1).sum(0)),
        ("every flag of tcp but RST", tcp(c, v, "SAFP")),
        ("mss is not touched", tcp(c, v, "S").tcp_options(&[2, 4, 0xff, 0xff])),
        ("id 0 without DF", udp(c, v).id(0).df(false)),
        ("flow label and traffic class", udp(c, v).label(0xf_ffff).tos(0xff)),
    ]
    .into_iter()
    .map(|(name, packet)| {
        let row = Row::new(format!("{f:?}: {name}"), setup(f));
        row.client(packet.clone()).server_gets(1, packet.hop())
    })
    .collect();
    // Its answers go past the director; what comes by it is routed.
    let reply = tcp(SocketAddr::new(v.ip(), 80), c, "SA");
    rows.push(
        Row::new(format!("{f:?}: what a server sends to a client is routed"), setup(f))
            .client(tcp(c, v, "S"))
            .server_gets(1, tcp(c, v, "S").hop())
            .server(1, reply)
            .punted(),
    );
    rows.push(
        Row::new(format!("{f:?}: one arm"), setup(f).with(|s| s.one_arm = true))
            .client(tcp(c, v, "S"))
            .server_gets(1, tcp(c, v, "S").hop()),
    );
    // What a tick of the limit of 1,000 a second brings; the kernel's burst is
    // 50.
    let empty = setup(f).with(|s| s.targets.clear());
    let limited = Row::new(format!("{f:?}: of errors, 125 are sent at once"), empty)
        .differs("ICMP errors at once");
    let refused = |row: Row, _| row.client(udp(c, v)).dropped(DropReason::NoServer);
    let answered = |row: Row, nth: u16| {
        refused(row, nth).client_gets(told(v.ip(), NO_PORT, 0, &udp(c, v)).id(1000 + nth))
    };
    rows.push(refused((0..125).fold(limited, answered), 125));
    rows.push(
        Row::new(format!("{f:?}: ARP is the kernel's"), setup(f))
            .frame(
                0,
                "ffff ffff ffff 0200 0000 0011 0806 0001 0800 0604 0001 0200 0000 0011
                       c000 02fe 0000 0000 0000 c000 0264",
            )
            .punted(),
    );
    let clamped = setup(f).with(|s| s.mss = Some(1000));
    let syn = |mss: u16| {
        let [high, low] = mss.to_be_bytes();
        tcp(c, v, "S").tcp_options(&[2, 4, high, low])
    };
    rows.push(
        Row::new(format!("{f:?}: mss is lowered where the service asks for it"), clamped)
            .client(syn(1460))
            .server_gets(1, syn(1000).hop()),
    );
    rows
}

/// How many connections are active and inactive after each packet. Only the
/// client's packets are seen.
fn states(f: Family) -> Vec<Row> {
    let (c, v) = (client(f), vip(f));
    let life =
        |name: &str, packets: &[(&str, u32)]| {
            packets.iter().fold(
                Row::new(format!("{f:?}: {name}"), setup(f)),
                |row, (letters, active)| {
                    row.client(tcp(c, v, letters))
                        .server_gets(1, tcp(c, v, letters).hop())
                        .connections(1, *active, 1 - active)
                },
            )
        };
    vec![
        life("SYN_RECV, ESTABLISHED, FIN_WAIT", &[("S", 1), ("A", 1), ("FA", 0), ("A", 0)]),
        life("RST closes", &[("S", 1), ("A", 1), ("R", 0)]),
        life("RST before the ACK does not", &[("S", 1), ("R", 1), ("A", 1)]),
        life("SYN in ESTABLISHED changes nothing", &[("S", 1), ("A", 1), ("S", 1)]),
    ]
}

fn workers(f: Family) -> Vec<Row> {
    let v = vip(f);
    let (ours, others) = (client_of(0, f), client_of(1, f));
    let two = || setup(f).with(|s| s.workers = 2);
    let error = |to: SocketAddr| -> Packet {
        let code = if f == V4 { (11, 0) } else { (3, 0) };
        icmp((to.ip(), v.ip()), code, 0, &tcp(v, to, "A").quote(8))
    };
    let fragments = udp(others, v).ip_len(200).fragments(&[64], 9);
    let handed = Handed { ports: Some((others.port(), v.port())), ..Handed::default() };
    let mut rows = vec![
        Row::new(format!("{f:?}: two workers: its own connection"), two())
            .client(tcp(ours, v, "S"))
            .server_gets(1, tcp(ours, v, "S").hop())
            .client(error(ours))
            .server_gets(1, error(ours).hop()),
        Row::new(format!("{f:?}: two workers: another's connection"), two())
            .client(tcp(others, v, "S"))
            .handed_to(1, Handed::default())
            .client(error(others))
            .handed_to(1, Handed::default()),
    ];
    // Fragments go by their addresses first; these are this worker's.
    if crate::bench::owns_addresses(0, others.ip(), v.ip()) {
        rows.push(
            Row::new(format!("{f:?}: two workers: fragments of another's connection"), two())
                .client(fragments[0].clone())
                .handed_to(1, handed)
                .client(fragments[1].clone())
                .handed_to(1, handed),
        );
    } else {
        rows.push(
            Row::new(format!("{f:?}: two workers: fragments of another's addresses"), two())
                .client(fragments[0].clone())
                .handed_to(1, Handed::default()),
        );
    }
    rows
}
