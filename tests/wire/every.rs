//! What holds for every method: the rows are the same, what becomes of packets
//! is the method's.

use dataplane::counters::DropReason;
use dataplane::service::{Encapsulation, Hop, PortHop};

use crate::bench::Row;
use crate::method::{Case, cases, header};
use crate::network::{PORT_MACS, V4, V6, client, own, vip};
use crate::packet::{NO_HOST, NO_PORT, Packet, TOO_BIG, TTL_OVER, sctp, tcp, told, udp};

pub(crate) fn rows() -> Vec<Row> {
    let of_case = |case: &Case| {
        let mut rows = flows(case);
        // What happens before the method counts is the same for all tunnels.
        if case.tunnel().is_none_or(|tunnel| tunnel == Encapsulation::Ipip) {
            rows.extend(frames(case));
            rows.extend(openings(case));
        }
        rows.extend(ttl(case));
        rows.extend(checksums(case));
        rows.extend(lengths(case));
        rows.extend(ways(case));
        if case.is_two_sided() {
            rows.extend(replies(case));
            rows.extend(replies_that_do_not_leave(case));
        }
        rows
    };
    cases().iter().flat_map(of_case).collect()
}

fn row(case: &Case, name: &str) -> Row {
    Row::new(format!("{}: {name}", case.name), case.setup.clone())
}

/// A client's SYN, ACK and UDP datagram.
fn syn(case: &Case) -> Packet {
    tcp(client(case.setup.family), vip(case.setup.family), "S")
}

fn ack(case: &Case) -> Packet {
    tcp(client(case.setup.family), vip(case.setup.family), "A").seq(1001)
}

fn datagram(case: &Case) -> Packet {
    udp(client(case.setup.family), vip(case.setup.family))
}

/// SCTP's INIT.
fn init(case: &Case) -> Packet {
    sctp(client(case.setup.family), vip(case.setup.family), 1)
}

fn flows(case: &Case) -> Vec<Row> {
    let (c, v) = (client(case.setup.family), vip(case.setup.family));
    let to_server = |row: Row, packets: Vec<Packet>| {
        packets.into_iter().zip(0..).fold(row, |row, (packet, nth)| {
            row.client(packet.clone()).server_gets(1, case.forward(packet, nth))
        })
    };
    let data = ack(case).payload(b"odd");
    let fin = tcp(c, v, "FA").seq(1004);
    vec![
        to_server(row(case, "tcp"), vec![syn(case), ack(case), data, fin]),
        to_server(row(case, "udp"), vec![datagram(case), datagram(case).payload(b"")]),
        to_server(row(case, "sctp"), vec![init(case), sctp(c, v, 10), sctp(c, v, 0)]),
        // The congestion mark of an inner packet is no matter of the outer one.
        to_server(row(case, "tos"), vec![datagram(case).tos(0xba)]),
    ]
    .into_iter()
    .chain([row(case, "tos, congestion experienced").client(datagram(case).tos(0xbb)).server_gets(
        1,
        {
            let packet = case.forward(datagram(case).tos(0xbb), 0);
            if case.tunnel().is_some() { packet.tos(0xba) } else { packet }
        },
    )])
    .collect()
}

fn frames(case: &Case) -> Vec<Row> {
    let f = case.setup.family;
    let leaves = |row: Row| row.server_gets(1, case.forward(syn(case), 0));
    let mut rows = vec![
        leaves(row(case, "padding is cut").client(syn(case).trailer(&[0; 6]))),
        leaves(row(case, "a trailer is cut").client(syn(case).trailer(b"trailer"))),
        leaves(row(case, "a priority tag goes").client(syn(case).tag(0xe000))),
        row(case, "an unknown VLAN").client(syn(case).tag(5)).dropped(DropReason::VlanUnknown),
        row(case, "to another MAC address")
            .client_to([2, 0, 0, 0, 0, 0x77], syn(case))
            .dropped(DropReason::EthOtherHost),
        row(case, "a packet longer than its frame").client(syn(case)).cut(50).dropped(match f {
            V4 => DropReason::Ip4Truncated,
            V6 => DropReason::Ip6Truncated,
        }),
        row(case, "no room for the TCP header")
            .client(syn(case).raw(6, &[0; 19]))
            .dropped(DropReason::L4Truncated),
        row(case, "a port without a service").client(syn(case).to(port(vip(f), 81))).punted(),
    ];
    if f == V4 {
        rows.push(
            row(case, "a wrong header checksum")
                .client(syn(case).bad_header_sum())
                .dropped(DropReason::Ip4BadChecksum),
        );
    }
    let martians: &[&str] = match f {
        V4 => &["127.0.0.1", "0.1.2.3", "224.0.0.1"],
        V6 => &["::1", "ff02::1", "::ffff:198.51.100.12"],
    };
    rows.extend(martians.iter().map(|source| {
        let source = std::net::SocketAddr::new(source.parse().unwrap(), 40_000);
        row(case, &format!("from {}", source.ip()))
            .client(syn(case).from(source))
            .dropped(DropReason::IpMartian)
    }));
    if f == V4 {
        let source = "240.0.0.1:40000".parse().unwrap();
        rows.push(
            row(case, "from 240.0.0.1")
                .differs("source 240/4")
                .client(syn(case).from(source))
                .dropped(DropReason::IpMartian),
        );
    }
    rows
}

fn port(mut address: std::net::SocketAddr, port: u16) -> std::net::SocketAddr {
    address.set_port(port);
    address
}

fn ttl(case: &Case) -> Vec<Row> {
    let v = vip(case.setup.family).ip();
    let mut rows = vec![
        row(case, "ttl 2")
            .client(syn(case).ttl(2))
            .server_gets(1, case.forward(syn(case).ttl(2), 0)),
    ];
    for (name, ttl) in [("ttl 1", 1), ("ttl 0", 0)] {
        for (kind, packet) in [("tcp", syn(case)), ("udp", datagram(case)), ("sctp", init(case))] {
            let packet = packet.ttl(ttl);
            rows.push(
                row(case, &format!("{name}, {kind}: time exceeded from the VIP"))
                    .client(packet.clone())
                    .dropped(DropReason::TtlExpired)
                    .client_gets(told(v, TTL_OVER, 0, &packet)),
            );
        }
    }
    rows
}

fn checksums(case: &Case) -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, packet) in [("tcp", syn(case)), ("udp", datagram(case)), ("sctp", init(case))] {
        for error in [0x0001, 0x1234, 0xff00] {
            let packet = packet.clone().sum_wrong_by(error);
            let row = row(case, &format!("{kind} checksum wrong by {error:#06x} stays so"));
            rows.push(row.client(packet.clone()).server_gets(1, case.forward(packet, 0)));
        }
    }
    // What the checksum comes out as depends on the addresses.
    let zero = case.seen(udp).payload(b"even").sum_of_zero();
    rows.push(
        row(case, "udp checksum that comes out as 0 leaves as ffff")
            .client(case.sent(zero.clone()))
            .server_gets(1, case.forward(case.sent(zero), 0)),
    );
    let zero = case.seen(|c, v| tcp(c, v, "S")).payload(b"even").sum_of_zero();
    rows.push(
        row(case, "tcp checksum that comes out as 0 leaves as 0")
            .client(case.sent(zero.clone()))
            .server_gets(1, case.forward(case.sent(zero), 0)),
    );
    rows
}

fn lengths(case: &Case) -> Vec<Row> {
    let (f, v) = (case.setup.family, vip(case.setup.family).ip());
    let room = case.room();
    let long = |len| datagram(case).ip_len(len);
    let exact = long(room);
    let mut rows = vec![
        row(case, "as long as the MTU")
            .client(exact.clone())
            .server_gets(1, case.forward(exact, 0)),
    ];
    let more = long(room + 1);
    let word = room as u32;
    // Between the families there is no kernel to follow: the error quotes the
    // packet as it came.
    let quoted = if case.translates() { more.clone() } else { more.clone().hop() };
    rows.push(
        row(case, "one more than the MTU, DF or IPv6")
            .client(more.clone())
            .dropped(DropReason::TooBig)
            .client_gets(told(v, TOO_BIG, word, &quoted)),
    );
    let one_more = ack(case).ip_len(room + 1);
    let quoted = if case.translates() { one_more.clone() } else { one_more.clone().hop() };
    rows.push(
        row(case, "one more than the MTU, DF or IPv6, tcp")
            .client(syn(case))
            .server_gets(1, case.forward(syn(case), 0))
            .client(one_more)
            .dropped(DropReason::TooBig)
            .client_gets(told(v, TOO_BIG, word, &quoted).id(1000 + case.ids_of(&syn(case)))),
    );
    if f == V4 {
        let more = more.df(false);
        let whole = case.forward(more.clone(), 0);
        let id = if whole.src.is_ipv6() && !case.translates() { 1000 } else { whole.own_id() };
        let fragment_header = if whole.src.is_ipv6() { 8 } else { 0 };
        let size = (1500 - header(case.setup.servers) - fragment_header) & !7;
        let pieces = whole.fragments(&[size], id.into());
        let row = row(case, "one more than the MTU, without DF").client(more);
        let row = if case.tunnel().is_some() { row.absorbed() } else { row };
        rows.push(pieces.into_iter().fold(row, |row, piece| row.server_gets(1, piece)));
    }
    rows
}

/// Where servers are, or are not.
fn ways(case: &Case) -> Vec<Row> {
    let v = vip(case.setup.family).ip();
    let gateway = PortHop {
        port: 1,
        dst_mac: crate::network::server_mac(9),
        src_mac: PORT_MACS[1],
        mtu: 1500,
    };
    let set = |name: &str, change: fn(&mut crate::setup::Setup)| {
        Row::new(format!("{}: {name}", case.name), case.setup.clone().with(change))
    };
    let hop = |name: &str, hop| {
        let setup = case.setup.clone().with(|s| s.targets[0].hop = Some(hop));
        Row::new(format!("{}: {name}", case.name), setup)
    };
    let refused = |row: Row, packet: Packet, reason, error| {
        row.client(packet.clone()).dropped(reason).client_gets(told(v, error, 0, &packet))
    };
    let mut rows = Vec::new();
    for (kind, packet) in [("tcp", syn(case)), ("udp", datagram(case)), ("sctp", init(case))] {
        let name = |what: &str| format!("{what}, {kind}");
        let no_server = DropReason::NoServer;
        rows.extend([
            refused(
                set(&name("no server: port unreachable from the VIP"), |s| s.targets.clear()),
                packet.clone(),
                no_server,
                NO_PORT,
            ),
            refused(
                set(&name("weight 0: port unreachable"), |s| s.targets[0].weight = 0),
                packet.clone(),
                no_server,
                NO_PORT,
            ),
            refused(
                hop(&name("no route to the server: host unreachable"), Hop::NoRoute),
                packet,
                DropReason::NoRoute,
                NO_HOST,
            ),
        ]);
    }
    rows.push(
        hop("a server that does not resolve", Hop::Unresolved)
            .differs("neighbour not resolved")
            .client(syn(case))
            .dropped(DropReason::NoNextHop),
    );
    rows.push(
        hop("the server is the director", Hop::Local)
            .differs("a server that is the director itself")
            .client(syn(case))
            .punted(),
    );
    rows.push(
        hop("a server behind a gateway", Hop::Port(gateway))
            .client(syn(case))
            .server_gets(9, case.forward(syn(case), 0)),
    );
    let one_server_at_once = |s: &mut crate::setup::Setup| s.targets[0].thresholds = (1, 0);
    rows.push(
        refused(
            set("over the threshold: port unreachable", one_server_at_once)
                .client(syn(case))
                .server_gets(1, case.forward(syn(case), 0)),
            syn(case).from(port(client(case.setup.family), 40_001)),
            DropReason::NoServer,
            NO_PORT,
        )
        .connections(1, 1, 0),
    );
    rows
}

/// Packets without a connection.
fn openings(case: &Case) -> Vec<Row> {
    let (c, v) = (client(case.setup.family), vip(case.setup.family));
    let mut rows = Vec::new();
    for letters in ["A", "PA", "FA", "", "F"] {
        rows.push(
            row(case, &format!("tcp {letters:?} without a connection is the kernel's, for RST"))
                .client(tcp(c, v, letters))
                .punted(),
        );
        let sloppy = Row::new(
            format!("{}: sloppy_tcp: {letters:?} opens", case.name),
            case.setup.clone().with(|s| s.settings.sloppy_tcp = true),
        );
        let packet = tcp(c, v, letters);
        rows.push(sloppy.client(packet.clone()).server_gets(1, case.forward(packet, 0)));
    }
    for letters in ["R", "RA", "SR"] {
        for sloppy in [false, true] {
            let setup = case.setup.clone().with(|s| s.settings.sloppy_tcp = sloppy);
            let name = format!("tcp {letters:?} without a connection, sloppy_tcp {sloppy}");
            rows.push(
                Row::new(format!("{}: {name}", case.name), setup)
                    .client(tcp(c, v, letters))
                    .dropped(DropReason::TcpRstNoConnection),
            );
        }
    }
    for letters in ["SA", "SF"] {
        let packet = tcp(c, v, letters);
        rows.push(
            row(case, &format!("tcp {letters:?} opens"))
                .client(packet.clone())
                .server_gets(1, case.forward(packet, 0)),
        );
    }
    for chunk in [0, 2, 6, 10] {
        rows.push(
            row(case, &format!("sctp chunk {chunk} without a connection"))
                .client(sctp(c, v, chunk))
                .punted(),
        );
    }
    for chunk in [0, 10] {
        let packet = sctp(c, v, chunk);
        let setup = case.setup.clone().with(|s| s.settings.sloppy_sctp = true);
        let row = Row::new(format!("{}: sloppy_sctp: chunk {chunk} opens", case.name), setup);
        rows.push(row.client(packet.clone()).server_gets(1, case.forward(packet, 0)));
    }
    rows
}

/// The ways back, of the methods that have them.
fn replies(case: &Case) -> Vec<Row> {
    let (server, peer) = (case.server(), case.peer());
    let start = |name: &str, packet: Packet| {
        row(case, name).client(packet.clone()).server_gets(1, case.forward(packet, 0))
    };
    // Ids of the director's that the opening took.
    let used = case.ids_of(&syn(case));
    let answer = |row: Row, packet: Packet| {
        row.server(1, packet.clone()).client_gets(case.back(packet, used))
    };
    let syn_ack = tcp(server, peer, "SA").seq(9000).ack(1001);
    let mut rows = vec![
        answer(start("reply: SYN-ACK", syn(case)), syn_ack.clone()),
        answer(start("reply: udp", datagram(case)), udp(server, peer).payload(b"answer.")),
        answer(start("reply: sctp", init(case)), sctp(server, peer, 2)),
        answer(start("reply: tos", datagram(case)), udp(server, peer).tos(0xbb)),
        answer(start("reply: ttl 2", syn(case)), syn_ack.clone().ttl(2)),
        start("reply: padding is cut", syn(case))
            .server(1, syn_ack.clone().trailer(&[0; 6]))
            .client_gets(case.back(syn_ack.clone(), used)),
        answer(
            start("reply: as long as the MTU", datagram(case)),
            udp(server, peer).ip_len(case.room_back()),
        ),
    ];
    for (kind, open, packet) in [
        ("tcp", syn(case), syn_ack),
        ("udp", datagram(case), udp(server, peer)),
        ("sctp", init(case), sctp(server, peer, 2)),
    ] {
        let name = format!("reply: {kind} checksum that is wrong stays so");
        rows.push(answer(start(&name, open), packet.sum_wrong_by(0x1234)));
    }
    let row = row(case, "reply without a connection is routed by the kernel");
    rows.push(row.server(1, tcp(server, peer, "SA")).punted());
    rows
}

fn replies_that_do_not_leave(case: &Case) -> Vec<Row> {
    let (server, peer) = (case.server(), case.peer());
    let own = own(case.setup.servers, 1);
    let start = |row: Row, packet: Packet| {
        row.client(packet.clone()).server_gets(1, case.forward(packet, 0))
    };
    let used = case.ids_of(&syn(case));
    let error = |what, word, packet: &Packet| told(own, what, word, packet).id(1000 + used);
    let syn_ack = tcp(server, peer, "SA").seq(9000).ack(1001);
    let mut rows = Vec::new();
    for ttl in [0, 1] {
        let packet = syn_ack.clone().ttl(ttl);
        let name = format!("reply: ttl {ttl}: time exceeded from the director");
        rows.push(
            start(row(case, &name), syn(case))
                .server(1, packet.clone())
                .dropped(DropReason::TtlExpired)
                .server_gets(1, error(TTL_OVER, 0, &packet)),
        );
    }
    let long = udp(server, peer).ip_len(case.room_back() + 1);
    let quoted = if case.translates() { long.clone() } else { long.clone().hop() };
    let word = case.room_back() as u32;
    rows.push(
        start(row(case, "reply: one more than the MTU, DF or IPv6"), datagram(case))
            .server(1, long.clone())
            .dropped(DropReason::TooBig)
            .server_gets(1, error(TOO_BIG, word, &quoted)),
    );
    if case.setup.servers == V4 {
        let long = long.df(false);
        let whole = case.back(long.clone(), used);
        let (head, extra) = if case.setup.family == V6 { (40, 8) } else { (20, 0) };
        let pieces = whole.fragments(&[(1500 - head - extra) & !7], whole.own_id().into());
        let row = start(row(case, "reply: one more than the MTU, without DF"), datagram(case));
        rows.push(pieces.into_iter().fold(row.server(1, long), Row::client_gets));
    }
    let no_route =
        case.setup.clone().with(|s| s.to_client = Some(dataplane::fib::NextHop::NoRoute));
    rows.push(
        start(
            Row::new(format!("{}: reply: no route: host unreachable", case.name), no_route),
            syn(case),
        )
        .server(1, syn_ack.clone())
        .dropped(DropReason::NoRoute)
        .server_gets(1, error(NO_HOST, 0, &syn_ack)),
    );
    let unknown = case.setup.clone().with(|s| s.router_known = false);
    rows.push(
        start(
            Row::new(
                format!("{}: reply: the way to the client does not resolve", case.name),
                unknown,
            ),
            syn(case),
        )
        .differs("neighbour not resolved")
        .server(1, syn_ack)
        .dropped(DropReason::NoNextHop),
    );
    rows
}
