use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;

const ROOM: usize = 128;
const OURS: [u8; 6] = [0, 0x50, 0, 0, 4, 0];
const SERVERS: [u8; 6] = [0, 0x50, 0, 0, 1, 0];

/// One of the families' director, server and VIP.
fn hosts(ipv6: bool) -> [IpAddr; 3] {
    let texts = if ipv6 {
        ["fd00:1::21", "fd00:1::31", "fd00:1::100"]
    } else {
        ["192.168.1.21", "192.168.1.31", "192.168.1.100"]
    };
    texts.map(|text| text.parse().unwrap())
}

/// A whole frame with checksums as the kernel makes them.
fn packet(protocol: Protocol, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(OURS, SERVERS);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    match protocol {
        Protocol::Udp => ip.udp(from.port(), to.port()).write(&mut frame, payload).unwrap(),
        _ => ip.tcp(from.port(), to.port(), 7, 1000).write(&mut frame, payload).unwrap(),
    }
    frame
}

fn begin(
    probes: &Arc<Probes>,
    protocol: Protocol,
    ipv6: bool,
    tunnel: Option<Encapsulation>,
) -> Probe {
    let [_, server, vip] = hosts(ipv6);
    let server = SocketAddr::new(server, 80);
    let route = Route { protocol, local_port: 40_000, server, vip, tunnel };
    probes.begin(route, Instant::now())
}

/// What a frame of the kernel becomes.
fn outgoing(probes: &Probes, bytes: &[u8], mtu: u16) -> (Outcome, Vec<u8>) {
    let mut buffer = [&[0xee; ROOM], bytes].concat();
    let mut frame = Frame::new(&mut buffer, ROOM, bytes.len(), bytes.len(), 0);
    let mut leaving = Leaving { mtu, ids: Ids::new(0, 1, 0), outbox: Outbox::default() };
    let outcome = probes.outgoing(&mut frame, &mut leaving);
    assert!(leaving.outbox.is_empty());
    (outcome, frame.bytes().to_vec())
}

fn incoming(probes: &Probes, bytes: &[u8]) -> (Outcome, Vec<u8>) {
    let mut buffer = bytes.to_vec();
    let mut frame = Frame::new(&mut buffer, 0, bytes.len(), bytes.len(), 0);
    let outcome = probes.incoming(&mut frame);
    (outcome, buffer)
}

const KINDS: [(Protocol, bool); 4] =
    [(Protocol::Tcp, false), (Protocol::Tcp, true), (Protocol::Udp, false), (Protocol::Udp, true)];

/// What comes out is, to the byte, what the kernel would have made with the
/// other address.
#[test]
fn the_vip_is_in_the_servers_place_on_the_wire_and_nowhere_else() {
    for (protocol, ipv6) in KINDS {
        let probes = Arc::<Probes>::default();
        let _probe = begin(&probes, protocol, ipv6, None);
        let [director, server, vip] = hosts(ipv6);
        let ours = SocketAddr::new(director, 40_000);
        let (at_server, at_vip) = (SocketAddr::new(server, 80), SocketAddr::new(vip, 80));
        for payload in [&b""[..], b"GET", b"four"] {
            let kernels = packet(protocol, ours, at_server, payload);
            let wires = packet(protocol, ours, at_vip, payload);
            assert_eq!(outgoing(&probes, &kernels, 1500), (Outcome::Changed, wires));
            let wires = packet(protocol, at_vip, ours, payload);
            let kernels = packet(protocol, at_server, ours, payload);
            assert_eq!(incoming(&probes, &wires), (Outcome::Changed, kernels));
        }
    }
}

#[test]
fn other_packets_stay_as_they_are() {
    let probes = Arc::<Probes>::default();
    let [director, server, vip] = hosts(false);
    let at = SocketAddr::new;
    let of_check = packet(Protocol::Tcp, at(director, 40_000), at(server, 80), b"");
    assert_eq!(outgoing(&probes, &of_check, 1500), (Outcome::Untouched, of_check.clone()));
    let _probe = begin(&probes, Protocol::Tcp, false, None);
    let mut fragment = of_check.clone();
    fragment[20] = 0x20;
    let sum = u16::from_be_bytes([fragment[24], fragment[25]]) - 0x2000;
    fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    for frame in [
        packet(Protocol::Udp, at(director, 40_000), at(server, 80), b""),
        packet(Protocol::Tcp, at(director, 40_001), at(server, 80), b""),
        packet(Protocol::Tcp, at(director, 40_000), at(server, 81), b""),
        packet(Protocol::Tcp, at(director, 40_000), at(vip, 80), b""),
        fragment,
        of_check[..33].to_vec(),
        Vec::new(),
    ] {
        assert_eq!(outgoing(&probes, &frame, 1500), (Outcome::Untouched, frame.clone()));
    }
    for frame in [
        packet(Protocol::Udp, at(vip, 80), at(director, 40_000), b""),
        packet(Protocol::Tcp, at(vip, 80), at(director, 40_001), b""),
        packet(Protocol::Tcp, at(vip, 81), at(director, 40_000), b""),
        packet(Protocol::Tcp, at(server, 80), at(director, 40_000), b""),
        Vec::new(),
    ] {
        assert_eq!(incoming(&probes, &frame), (Outcome::Untouched, frame.clone()));
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    let probes = Arc::<Probes>::default();
    let _probe = begin(&probes, Protocol::Udp, false, None);
    let [director, server, vip] = hosts(false);
    let ours = SocketAddr::new(director, 40_000);
    let without = |to| {
        let mut frame = packet(Protocol::Udp, ours, SocketAddr::new(to, 80), b"x");
        frame[40..42].fill(0);
        frame
    };
    assert_eq!(outgoing(&probes, &without(server), 1500), (Outcome::Changed, without(vip)));
}

#[test]
fn through_a_tunnel_it_is_wrapped_for_the_server() {
    for (ipv6, encapsulation, protocol, between) in [
        (false, Encapsulation::Ipip, 4, 0),
        (true, Encapsulation::Ipip, 41, 0),
        (false, Encapsulation::Gre { checksum: false }, 47, 4),
    ] {
        let probes = Arc::<Probes>::default();
        let _probe = begin(&probes, Protocol::Tcp, ipv6, Some(encapsulation));
        let [director, server, vip] = hosts(ipv6);
        let ours = SocketAddr::new(director, 40_000);
        let kernels = packet(Protocol::Tcp, ours, SocketAddr::new(server, 80), b"GET");
        let (outcome, frame) = outgoing(&probes, &kernels, 1500);
        assert_eq!(outcome, Outcome::Changed);
        assert_eq!(frame[..14], kernels[..14], "Ethernet");
        let header = if ipv6 { 40 } else { 20 };
        let outer = &frame[14..14 + header];
        let (number, addresses) =
            if ipv6 { (outer[6], &outer[8..40]) } else { (outer[9], &outer[12..20]) };
        let octets = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        assert_eq!((number, addresses), (protocol, &*[octets(director), octets(server)].concat()));
        let inner = [&frame[..14], &frame[14 + header + between..]].concat();
        let sliced = SlicedPacket::from_ethernet(&inner).unwrap();
        let to = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => IpAddr::V4(ip.header().destination_addr()),
            NetSlice::Ipv6(ip) => IpAddr::V6(ip.header().destination_addr()),
            other => panic!("{other:?}"),
        };
        assert_eq!(to, vip);
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("TCP") };
        assert_eq!(
            (tcp.source_port(), tcp.destination_port(), tcp.payload()),
            (40_000, 80, &b"GET"[..])
        );
        let wanted = packet(Protocol::Tcp, ours, SocketAddr::new(vip, 80), b"GET");
        assert_eq!(inner[inner.len() - 23..], wanted[wanted.len() - 23..], "TCP, to the byte");
    }
}

#[test]
fn what_does_not_fit_into_its_tunnel_is_not_sent() {
    let probes = Arc::<Probes>::default();
    let _probe = begin(&probes, Protocol::Tcp, true, Some(Encapsulation::Ipip));
    let [director, server, _] = hosts(true);
    let frame = |payload: usize| {
        let (from, to) = (SocketAddr::new(director, 40_000), SocketAddr::new(server, 80));
        packet(Protocol::Tcp, from, to, &vec![0; payload])
    };
    // 40 bytes of each IP header and 20 of TCP.
    assert_eq!(outgoing(&probes, &frame(1400), 1500).0, Outcome::Changed);
    assert_eq!(outgoing(&probes, &frame(1401), 1500).0, Outcome::TooLong);
}

#[test]
fn a_check_that_is_over_is_forgotten_in_time_and_never_a_new_one_for_it() {
    let probes = Arc::<Probes>::default();
    let [director, server, _] = hosts(false);
    let (ours, to) = (SocketAddr::new(director, 40_000), SocketAddr::new(server, 80));
    let frame = packet(Protocol::Tcp, ours, to, b"");
    let key = (Protocol::Tcp, 40_000);
    let start = Instant::now();
    drop(begin(&probes, Protocol::Tcp, false, None));
    // The kernel's FIN is still on its way.
    assert_eq!(outgoing(&probes, &frame, 1500).0, Outcome::Changed);
    // The same port again: the end of the first is not the second's.
    let second = begin(&probes, Protocol::Tcp, false, None);
    probes.lock().forget(start + LINGER * 2);
    assert_eq!(outgoing(&probes, &frame, 1500).0, Outcome::Changed);
    std::mem::forget(second);
    probes.end(key, start + LINGER);
    probes.lock().forget(start + LINGER * 3);
    assert!(probes.lock().routes.is_empty() && probes.lock().over.is_empty());
}
