//! ICMP errors about connections under direct routing and tunnels.

use super::*;
use crate::packet::checksum;
use crate::service::Encapsulation;

const ROUTER: [u8; 4] = [192, 168, 1, 9];

/// An ICMP error of a router to the VIP about what VIP:80 sent to the client's
/// port: type, code, MTU, and the whole packet so long.
fn error(cport: u16, len: usize, options: &[u8], ttl: u8) -> Vec<u8> {
    let mut quoted = Vec::new();
    PacketBuilder::ipv4(VIP, CIP, 60)
        .tcp(80, cport, 1, 1000)
        .write(&mut quoted, &vec![0; len])
        .unwrap();
    let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
    message.extend(quoted);
    let sum = !(checksum::add(0, &message) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut ip = etherparse::Ipv4Header::new(
        message.len() as u16,
        ttl,
        etherparse::IpNumber::ICMP,
        ROUTER,
        VIP,
    )
    .unwrap();
    ip.dont_fragment = true;
    ip.options = options.try_into().unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
        .write(&mut bytes, etherparse::IpNumber::ICMP, &message)
        .unwrap();
    bytes
}

/// A bench whose first server is reached in this way, with its connection from
/// port 5000.
fn bench(method: Method) -> Bench {
    let mut bench = Bench::new(1, 100);
    bench.snapshot.ports[0].address4 = Some(Ipv4Addr::new(192, 168, 1, 1).to_bits());
    bench.change_server(0, |server| server.method = method);
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "S")), 0);
    bench
}

#[test]
fn dr_relays_an_error_as_it_is() {
    let mut bench = bench(Method::Dr);
    let before = error(5000, 0, &[], 64);
    let (verdict, after) = bench.send(NOON, &before);
    assert_eq!(verdict, Verdict::Send { port: 0 });
    let mut expected = error(5000, 0, &[], 63);
    expected[..6].copy_from_slice(&SERVER_MAC[0]);
    expected[6..12].copy_from_slice(&PORT_MAC);
    assert_eq!(after, expected);
    // It is no packet of the client: no other state, no longer life.
    assert_eq!(bench.connections(0), (1, 0));
}

/// Record route: the director writes its address, as into any packet.
#[test]
fn dr_processes_an_errors_options() {
    let mut bench = bench(Method::Dr);
    let (_, after) = bench.send(NOON, &error(5000, 0, &[7, 7, 4, 0, 0, 0, 0, 0], 64));
    assert_eq!(after[34..42], [7, 7, 8, 192, 168, 1, 1, 0]);
}

#[test]
fn tunnels_carry_errors() {
    let mut bench = bench(Method::Tun(Encapsulation::Ipip));
    let (verdict, after) = bench.send(NOON, &error(5000, 0, &[], 64));
    assert_eq!(verdict, Verdict::Send { port: 0 });
    assert_eq!(after[23], 4, "IPIP");
    assert_eq!(after[34..], error(5000, 0, &[], 63)[14..]);
}

/// Nobody is told about an error that cannot be passed on (RFC 1122, section
/// 3.2.2), whatever is the matter with it.
#[test]
fn an_error_is_not_answered_with_an_error() {
    for method in [Method::Dr, Method::Tun(Encapsulation::Ipip)] {
        let mut bench = bench(method);
        let rows = [
            (error(5000, 0, &[], 1), DropReason::TtlExpired),
            (error(5000, 1460, &[], 64), DropReason::TooBig),
            // A pointer into the option's own head.
            (error(5000, 0, &[7, 7, 2, 0, 0, 0, 0, 0], 64), DropReason::Ip4BadOptions),
        ];
        for (packet, reason) in rows {
            assert_eq!(bench.send(NOON, &packet).0, Verdict::Drop(reason));
        }
        bench.change_server(0, |server| server.hop = Hop::NoRoute);
        let (verdict, _) = bench.send(NOON, &error(5000, 0, &[], 64));
        assert_eq!(verdict, Verdict::Drop(DropReason::NoRoute));
        assert_eq!(bench.director.outbox().len(), 0);
        assert_eq!(bench.director.counters_mut().generated, 0);
    }
}

/// The same packets of the client are answered: the test above is about what it
/// says.
#[test]
fn a_client_is_told() {
    let mut bench = bench(Method::Dr);
    bench.change_server(0, |server| server.hop = Hop::NoRoute);
    bench.route(&[(CIP, CLIENT_MAC)]);
    bench.send(NOON, &tcp4(5000, "A"));
    assert_eq!(bench.director.outbox().len(), 1);
}

#[test]
fn an_error_to_a_one_packet_service_is_about_nothing() {
    let mut bench = Bench::new(1, 100);
    bench.snapshot.settings.schedule_icmp = true;
    bench.change_service(Protocol::Tcp, |_| {});
    assert_eq!(bench.send(NOON, &error(5000, 0, &[], 64)).0, Verdict::Send { port: 0 });
    let mut udp = error(5000, 0, &[], 64);
    // The quoted protocol, and the sums of header and message.
    udp[51] = 17;
    udp[52..54].copy_from_slice(&[0, 0]);
    let sum = !(checksum::add(0, &udp[42..62]) as u16);
    udp[52..54].copy_from_slice(&sum.to_be_bytes());
    udp[36..38].fill(0);
    let sum = !(checksum::add(0, &udp[34..]) as u16);
    udp[36..38].copy_from_slice(&sum.to_be_bytes());
    bench.change_service(Protocol::Udp, |service| service.one_packet = true);
    let (verdict, _) = bench.send(NOON, &udp);
    assert_eq!(verdict, Verdict::Drop(DropReason::IcmpNoConnection));
    bench.change_service(Protocol::Udp, |_| {});
    assert_eq!(bench.send(NOON, &udp).0, Verdict::Send { port: 0 });
}
