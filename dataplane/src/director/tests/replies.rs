//! The way back, under NAT and FULLNAT.

use super::*;
use crate::fib::{Fib, NextHop, RoutesBuilder};
use crate::packet::checksum;
use crate::service::{Local, NatSource, NatSources, Persistence};
use crate::snapshot::LocalPorts;

const RIP: [u8; 4] = [192, 168, 1, 31];
const LIP: [u8; 4] = [192, 168, 1, 50];
const LPORT: u16 = 2000;

impl Bench {
    /// Every address is on the link; these have answered.
    pub(super) fn route(&mut self, neighbours: &[([u8; 4], [u8; 6])]) {
        let mut routes = RoutesBuilder::default();
        routes.add4(
            0,
            NextHop::Port { port: 0, vlan: 0, src_mac: PORT_MAC, gateway: None, mtu: 1500 },
        );
        let neighbours = neighbours.iter().map(|&(ip, mac)| ((0, IpAddr::from(ip)), mac));
        self.snapshot.fib =
            Arc::new(Fib::new(Arc::new(routes.build()), Arc::new(neighbours.collect())));
        self.publish();
    }
}

/// One server under NAT or FULLNAT, by one local address and port.
fn bench(protocol: Protocol, method: Method, persistent: bool) -> Bench {
    let mut bench = Bench::new(1, 100);
    bench.route(&[(CIP, CLIENT_MAC)]);
    bench.snapshot.locals = Arc::new([LIP.into()]);
    bench.snapshot.local_ports = LocalPorts(LPORT, LPORT);
    let mut sources = NatSources::new();
    sources.add(protocol, SocketAddr::from((RIP, 80)), NatSource::Of(VIP.into(), 80));
    bench.snapshot.nat_sources = Arc::new(sources);
    bench.change_server(0, |server| server.method = method);
    bench.change_service(protocol, |service| {
        service.locals = Arc::new([Local { number: 0, address: LIP.into() }]);
        service.persistence = persistent.then_some(Persistence { timeout: 2880, prefix: 32 });
    });
    bench
}

fn assured(bench: &Bench) -> Vec<bool> {
    let templates = &bench.director.core.templates;
    let mut rows = Vec::new();
    (0..templates.bucket_count()).for_each(|b| templates.scan(b, |row| rows.push(row.assured)));
    rows
}

fn udp_reply(dst: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(SERVER_MAC[0], PORT_MAC)
        .ipv4(RIP, dst, 64)
        .udp(80, port)
        .write(&mut bytes, b"hello")
        .unwrap();
    bytes
}

/// A question says nothing of the server; its answer makes the template worth
/// keeping, even in the same tick.
#[test]
fn a_udp_servers_first_packet_assures_the_template() {
    for (method, dst, port) in [(Method::Nat, CIP, 5000), (Method::Fullnat, LIP, LPORT)] {
        let mut bench = bench(Protocol::Udp, method, true);
        for _ in 0..2 {
            assert_eq!(bench.server_of(NOON, &udp4(5000, 80)), 0);
        }
        assert_eq!(assured(&bench), [false]);
        for _ in 0..2 {
            let (verdict, bytes) = bench.send(NOON, &udp_reply(dst, port));
            assert_eq!(verdict, Verdict::Send { port: 0 });
            assert_eq!(bytes[26..34], [VIP, CIP].concat());
            assert_eq!(assured(&bench), [true]);
        }
        // It still knows its connection, and is let go by it once.
        let end = bench.pass_time(NOON, 302);
        assert_eq!(bench.connections(0), (0, 0));
        bench.pass_time(end, 70);
        assert_eq!(assured(&bench), []);
    }
}

#[test]
fn without_the_way_back_udp_assures_nothing() {
    let mut bench = bench(Protocol::Udp, Method::Dr, true);
    bench.server_of(NOON, &udp4(5000, 80));
    bench.server_of(NOON.plus(9), &udp4(5000, 80));
    assert_eq!(assured(&bench), [false]);
}

#[test]
fn tcp_and_sctp_assure_when_both_sides_agree() {
    let rows = [
        (Protocol::Tcp, tcp4(5000, "S"), tcp4(5000, "A")),
        (Protocol::Sctp, sctp4(5000, INIT), sctp4(5000, COOKIE_ECHO)),
    ];
    for (protocol, opens, agrees) in rows {
        let mut bench = bench(protocol, Method::Dr, true);
        bench.server_of(NOON, &opens);
        assert_eq!(assured(&bench), [false]);
        bench.server_of(NOON, &agrees);
        assert_eq!(assured(&bench), [true]);
    }
}

/// A connection that is taken up without its beginning is established at once.
#[test]
fn a_connection_taken_up_assures() {
    let mut bench = bench(Protocol::Tcp, Method::Dr, true);
    bench.snapshot.settings.sloppy_tcp = true;
    bench.publish();
    bench.server_of(NOON, &tcp4(5000, "A"));
    assert_eq!(assured(&bench), [true]);
}

/// A packet of an association under NAT goes through the states of both sides.
#[test]
fn an_association_under_nat() {
    let mut bench = bench(Protocol::Sctp, Method::Nat, false);
    let reply = |chunk: u8| {
        let mut bytes = sctp4(80, &[chunk]);
        bytes[26..34].copy_from_slice(&[RIP, CIP].concat());
        bytes[34..38].copy_from_slice(&[0, 80, 0x13, 0x88]);
        bytes[24..26].fill(0);
        let sum = !(checksum::add(0, &bytes[14..34]) as u16);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let state = |bench: &Bench| {
        let tables = &bench.director.tables;
        let tuple = Tuple4 {
            src: Ipv4Addr::from(CIP).to_bits(),
            dst: Ipv4Addr::from(VIP).to_bits(),
            src_port: 5000,
            dst_port: 80,
        };
        let place = tables.find(Protocol::Sctp, &Tuple::V4(tuple)).unwrap();
        tables.body(place).state().name()
    };
    for (packet, expected) in [
        (sctp4(5000, INIT), "INIT1"),
        (reply(2), "C-SENT"),
        (sctp4(5000, COOKIE_ECHO), "C-REPLIED"),
        (reply(11), "ESTABLISHED"),
        (sctp4(5000, &[7]), "S-RECEIVED"),
        (reply(8), "S-ACK-SENT"),
        (sctp4(5000, &[14]), "CLOSED"),
    ] {
        assert_eq!(bench.send(NOON, &packet).0, Verdict::Send { port: 0 });
        assert_eq!(state(&bench), expected);
    }
}

fn tcp_of(ip: ([u8; 4], [u8; 4]), ports: (u16, u16), seq: u32, flags: &[u8]) -> Vec<u8> {
    let mut header = etherparse::TcpHeader::new(ports.0, ports.1, seq, 8192);
    header.syn = flags.contains(&b'S');
    header.ack = flags.contains(&b'A');
    header.acknowledgment_number = 100;
    if header.syn {
        header.set_options_raw(&[2, 4, 5, 0xb4]).unwrap();
    }
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4(ip.0, ip.1, 64)
        .tcp_header(header)
        .write(&mut bytes, b"")
        .unwrap();
    bytes
}

/// A server that is told the client's address in front of its data: the client
/// leaves room for it, and sees its own numbers in errors.
#[test]
fn a_client_knows_nothing_of_the_proxy_header() {
    let mut bench = bench(Protocol::Tcp, Method::Fullnat, false);
    bench.change_server(0, |server| server.client_address = ClientAddress::Proxy);
    let (_, syn) = bench.send(NOON, &tcp_of((CIP, VIP), (5000, 80), 99, b"S"));
    assert_eq!(syn[54..58], [2, 4, 0x05, 0xb4], "the server adds nothing");
    let (verdict, syn_ack) = bench.send(NOON, &tcp_of((RIP, LIP), (80, LPORT), 7, b"SA"));
    assert_eq!(verdict, Verdict::Send { port: 0 });
    // 1460 less 28.
    assert_eq!(syn_ack[54..58], [2, 4, 0x05, 0x98]);
    assert_eq!(syn_ack[42..46], 100u32.to_be_bytes(), "acknowledges its SYN");
    // What the server was sent with number 1028 the client sent with 1000.
    let quoted = &tcp_of((LIP, RIP), (LPORT, 80), 1028, b"A")[14..];
    let mut message = [&[3, 1, 0, 0, 0, 0, 0, 0], quoted].concat();
    let sum = !(checksum::add(0, &message) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut error = Vec::new();
    PacketBuilder::ethernet2(SERVER_MAC[0], PORT_MAC)
        .ipv4(RIP, LIP, 64)
        .write(&mut error, etherparse::IpNumber::ICMP, &message)
        .unwrap();
    let (verdict, error) = bench.send(NOON, &error);
    assert_eq!(verdict, Verdict::Send { port: 0 });
    assert_eq!(error[26..34], [VIP, CIP].concat());
    assert_eq!(error[54..62], [CIP, VIP].concat());
    assert_eq!(error[62..70], [0x13, 0x88, 0, 80, 0, 0, 0x03, 0xe8]);
    assert_eq!(checksum::add(0, &error[34..]), 0xffff);
}
