//! VLANs on the port: which of them a frame came by, and the tag that it leaves
//! with. That a tag changes nothing else is shown by doing everything twice.

use super::*;
use crate::fib::{Fib, NextHop, RoutesBuilder};
use crate::outbox::To;
use crate::service::{Encapsulation, Local, MarkRule};

/// The ids of the ports 1 and 2, on the device of port 0.
const IDS: [u16; 2] = [10, 20];
const ROUTER_MAC: [u8; 6] = [0, 0x50, 0, 0, 9, 0];
const TAG10: [u8; 4] = [0x81, 0, 0, 10];
const TAG20: [u8; 4] = [0x81, 0, 0, 20];

/// A bench whose servers and clients are all in the VLAN of a port, behind a
/// router.
fn bench(port: u8) -> Bench {
    let mut bench = Bench::new(1, 100);
    bench.snapshot.ports[0].address4 = Some(0xc0a8_0115);
    let device = bench.snapshot.ports[0];
    bench.snapshot.ports.extend(IDS.map(|id| Port { vlan: Some(id), ..device }));
    bench.snapshot.locals = [IpAddr::from([192, 168, 1, 77])].into();
    ways_by(&mut bench, port, 1500);
    bench
}

/// Has everything leave by a port.
fn ways_by(bench: &mut Bench, port: u8, mtu: u16) {
    let vlan = bench.snapshot.ports[usize::from(port)].vlan.unwrap_or(0);
    let gateway = IpAddr::from([192, 168, 1, 1]);
    let mut routes = RoutesBuilder::default();
    let hop = NextHop::Port { port, src_mac: PORT_MAC, gateway: Some(gateway), mtu, vlan };
    routes.add4(0, hop);
    let neighbours = [((port, gateway), ROUTER_MAC)].into_iter().collect();
    bench.snapshot.fib = Arc::new(Fib::new(Arc::new(routes.build()), Arc::new(neighbours)));
    for number in [0, 1] {
        bench.change_server(number, |server| {
            let dst_mac = SERVER_MAC[number];
            server.hop = Hop::Port(PortHop { port, dst_mac, src_mac: PORT_MAC, mtu, vlan });
        });
    }
}

fn tagged(mut packet: Vec<u8>, tag: [u8; 4]) -> Vec<u8> {
    packet.splice(12..12, tag);
    packet
}

/// What becomes of a packet and by which port it had come, and all that leaves.
fn sent(bench: &mut Bench, packet: &[u8]) -> (Verdict, u8, Vec<(To, Vec<u8>)>) {
    let mut buffer = vec![0xee; 128];
    buffer.extend(packet);
    let mut frames = [Frame::new(&mut buffer, 128, packet.len(), packet.len(), 0)];
    let mut verdicts = [Verdict::Punt; 1];
    bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
    let [frame] = &frames;
    let mut all = Vec::new();
    if let Verdict::Send { port } = verdicts[0] {
        all.push((To::Port(port), frame.bytes().to_vec()));
    }
    let outbox = bench.director.outbox();
    all.extend(outbox.frames().map(|(to, bytes)| (to, bytes.to_vec())));
    outbox.clear();
    (verdicts[0], frame.port, all)
}

/// Sends packets through two directors, of which only the second one's servers
/// and clients are in VLAN 20: what leaves is the same but for the tag. How
/// many frames that were.
fn assert_only_the_tag_differs(prepare: fn(&mut Bench), mtu: u16, packets: &[Vec<u8>]) -> usize {
    let mut benches = [0, 2].map(|port| {
        let mut bench = bench(port);
        ways_by(&mut bench, port, mtu);
        prepare(&mut bench);
        bench.publish();
        bench
    });
    let mut count = 0;
    for packet in packets {
        let [plain, vlan] = &mut benches;
        let (_, _, plain) = sent(plain, packet);
        // Itself it comes by VLAN 10, with a priority.
        let (_, from, vlan) = sent(vlan, &tagged(packet.clone(), [0x81, 0, 0xe0, 10]));
        assert_eq!(from, 1);
        let expected: Vec<_> = plain
            .into_iter()
            .map(|(to, bytes)| {
                assert_eq!(to, To::Port(0));
                (To::Port(2), tagged(bytes, TAG20))
            })
            .collect();
        assert_eq!(vlan, expected);
        count += vlan.len();
    }
    count
}

fn set_method(bench: &mut Bench, method: Method, client_address: ClientAddress) {
    for number in [0, 1] {
        bench.change_server(number, |server| {
            (server.method, server.client_address) = (method, client_address);
        });
    }
}

/// A UDP datagram to the service, or from its first server to the client.
fn datagram(from_server: bool, len: usize) -> Vec<u8> {
    let ((src, dst), (src_port, dst_port)) =
        if from_server { (([192, 168, 1, 31], CIP), (80, 6000)) } else { ((CIP, VIP), (6000, 80)) };
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4(src, dst, 64)
        .udp(src_port, dst_port)
        .write(&mut bytes, &vec![7; len])
        .unwrap();
    bytes
}

/// Changes the IPv4 header of a packet.
fn with_ip(mut packet: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut packet[14..34]);
    packet[24..26].fill(0);
    let sum = !(crate::packet::checksum::add(0, &packet[14..34]) as u16);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Rows: the tag that a packet comes with, the port of the server, the tag that
/// the packet leaves with.
#[test]
fn the_tag_is_that_of_the_way_out() {
    for (come, port, left) in [
        (&[][..], 0, &[][..]),
        (&[], 1, &TAG10[..]),
        (&TAG10, 0, &[]),
        (&TAG10, 1, &TAG10),
        (&TAG10, 2, &TAG20),
        // Priority 5, drop eligible: neither is passed on.
        (&[0x81, 0, 0xb0, 20], 1, &TAG10),
        (&[0x81, 0, 0xa0, 0], 2, &TAG20),
    ] {
        let mut packet = tcp4(5000, "S");
        let mut expected = packet.clone();
        packet.splice(12..12, come.iter().copied());
        packet.extend([0; 6]);
        expected[..6].copy_from_slice(&SERVER_MAC[0]);
        expected[6..12].copy_from_slice(&PORT_MAC);
        expected[22] -= 1;
        expected[24] += 1;
        expected.splice(12..12, left.iter().copied());
        let (verdict, _, all) = sent(&mut bench(port), &packet);
        assert_eq!(verdict, Verdict::Send { port });
        assert_eq!(all, [(To::Port(port), expected)], "from {come:?} to {port}");
    }
}

#[test]
fn a_frame_of_an_unknown_vlan_is_dropped() {
    let mut bench = bench(1);
    for id in [1, 11, 4095] {
        let [high, low] = u16::to_be_bytes(id);
        let (verdict, ..) = sent(&mut bench, &tagged(tcp4(5000, "S"), [0x81, 0, high, low]));
        assert_eq!(verdict, Verdict::Drop(DropReason::VlanUnknown), "{id}");
    }
    assert_eq!(bench.director.counters_mut().dropped(DropReason::VlanUnknown), 3);
    // Another device's VLAN is not this one's.
    bench.snapshot.ports[1].device = 1;
    bench.publish();
    let (verdict, ..) = sent(&mut bench, &tagged(tcp4(5000, "S"), TAG10));
    assert_eq!(verdict, Verdict::Drop(DropReason::VlanUnknown));
}

/// ARP, to all; ICMP; a port that no service has.
#[test]
fn the_kernel_gets_a_frame_by_the_vlans_port() {
    let mut arp = vec![0xff; 6];
    arp.extend([CLIENT_MAC.as_slice(), &[8, 6], &[0; 46]].concat());
    let echo = with_ip(tcp4(5000, "S"), |ip| ip[9] = 1);
    for packet in [arp, echo, udp4(6000, 53)] {
        for (tag, port) in [(TAG10, 1), (TAG20, 2), ([0x81, 0, 0xe0, 0], 0)] {
            let (verdict, from, _) = sent(&mut bench(0), &tagged(packet.clone(), tag));
            assert_eq!((verdict, from), (Verdict::Punt, port));
        }
        let (verdict, from, _) = sent(&mut bench(0), &packet);
        assert_eq!((verdict, from), (Verdict::Punt, 0));
    }
}

#[test]
fn a_mark_can_be_that_of_a_vlan() {
    let mut bench = bench(0);
    let rule = MarkRule {
        mark: 7,
        protocol: None,
        source: None,
        destination: None,
        ports: None,
        ingress: Some(2),
    };
    let mut marked = (*service(Protocol::Udp, VIP.into(), [1, 0])).clone();
    marked.key = ServiceKey::Fwmark { family: Family::V4, mark: 7 };
    bench.snapshot.services = Services::new([Arc::new(marked)], [rule].into());
    bench.publish();
    assert_eq!(sent(&mut bench, &tagged(udp4(1, 9), TAG10)).0, Verdict::Punt);
    assert_eq!(sent(&mut bench, &tagged(udp4(1, 9), TAG20)).0, Verdict::Send { port: 0 });
}

#[test]
fn nat_both_ways() {
    let nat = |bench: &mut Bench| set_method(bench, Method::Nat, ClientAddress::None);
    let packets = [datagram(false, 100), datagram(true, 99)];
    assert_eq!(assert_only_the_tag_differs(nat, 1500, &packets), 2);
}

/// The reply's way is looked up: here it leaves by another VLAN than the
/// request, byte for byte.
#[test]
fn a_nat_reply_has_the_tag_of_its_client() {
    let mut bench = bench(1);
    set_method(&mut bench, Method::Nat, ClientAddress::None);
    let (_, _, all) = sent(&mut bench, &tagged(datagram(false, 4), TAG20));
    assert_eq!((all[0].0, &all[0].1[12..18]), (To::Port(1), &[0x81, 0, 0, 10, 8, 0][..]));
    ways_by(&mut bench, 2, 1500);
    let (_, _, all) = sent(&mut bench, &tagged(datagram(true, 4), TAG10));
    let mut expected = Vec::new();
    PacketBuilder::ethernet2(PORT_MAC, ROUTER_MAC)
        .ipv4(VIP, CIP, 63)
        .udp(80, 6000)
        .write(&mut expected, &[7; 4])
        .unwrap();
    assert_eq!(all, [(To::Port(2), tagged(expected, TAG20))]);
}

/// Nobody knows the client's MAC address yet: the reply waits, with its tag.
#[test]
fn what_waits_for_a_neighbour_has_the_tag() {
    let mut bench = bench(1);
    set_method(&mut bench, Method::Nat, ClientAddress::None);
    sent(&mut bench, &datagram(false, 4));
    let known = Arc::clone(&bench.snapshot.fib);
    bench.snapshot.fib = Arc::new(Fib::new(Arc::clone(known.routes()), Arc::default()));
    bench.publish();
    assert_eq!(sent(&mut bench, &tagged(datagram(true, 4), TAG20)).0, Verdict::Absorbed);
    bench.snapshot.fib = known;
    bench.publish();
    let frames: Vec<_> = bench.director.outbox().frames().collect();
    let [(To::Port(1), frame)] = frames[..] else { panic!("{frames:?}") };
    assert_eq!(frame[..18], [ROUTER_MAC.as_slice(), &PORT_MAC, &TAG10, &[8, 0]].concat());
}

/// Whole; with its outer packet in pieces, as the client's packets may be cut;
/// and too long for that.
#[test]
fn tunnels() {
    let tunnel = |bench: &mut Bench| {
        set_method(bench, Method::Tun(Encapsulation::Gre { checksum: true }), ClientAddress::None);
    };
    let may_be_cut = with_ip(datagram(false, 1400), |ip| ip[6] = 0);
    assert_eq!(assert_only_the_tag_differs(tunnel, 1500, &[datagram(false, 100)]), 1);
    assert_eq!(assert_only_the_tag_differs(tunnel, 600, &[may_be_cut]), 3);
    assert_eq!(assert_only_the_tag_differs(tunnel, 1400, &[datagram(false, 1400)]), 1);
}

#[test]
fn icmp_errors_of_the_director() {
    let expired = with_ip(datagram(false, 100), |ip| ip[8] = 1);
    let too_big = with_ip(datagram(false, 1400), |ip| ip[6] = 0x40);
    let none = |_: &mut Bench| ();
    assert_eq!(assert_only_the_tag_differs(none, 1300, &[expired.clone(), too_big]), 2);
    let (_, _, all) = sent(&mut bench(1), &tagged(expired, TAG20));
    let [(to, bytes)] = &all[..] else { panic!("{all:?}") };
    assert_eq!((*to, bytes.len()), (To::Port(1), 14 + 4 + 20 + 8 + 128));
    assert_eq!(bytes[..18], [ROUTER_MAC.as_slice(), &PORT_MAC, &TAG10, &[8, 0]].concat());
    assert_eq!((bytes[18], bytes[38]), (0x45, 11));
}

/// A NAT server's error about what it got goes on to the client.
#[test]
fn icmp_errors_that_are_passed_on() {
    let nat = |bench: &mut Bench| set_method(bench, Method::Nat, ClientAddress::None);
    let mut error = vec![3, 3, 0, 0, 0, 0, 0, 0];
    // What the server had got.
    let mut quoted = datagram(false, 100);
    quoted[30..34].copy_from_slice(&[192, 168, 1, 31]);
    error.extend(&with_ip(quoted, |ip| ip[8] = 63)[14..]);
    let sum = !(crate::packet::checksum::add(0, &error) as u16);
    error[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut message = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4([192, 168, 1, 31], CIP, 64)
        .write(&mut message, etherparse::IpNumber::ICMP, &error)
        .unwrap();
    assert_eq!(assert_only_the_tag_differs(nat, 1500, &[datagram(false, 100), message]), 2);
}

#[test]
fn what_is_too_long_is_cut_behind_the_tag() {
    let none = |_: &mut Bench| ();
    let packet = with_ip(datagram(false, 1400), |ip| ip[6] = 0);
    assert_eq!(assert_only_the_tag_differs(none, 600, &[packet]), 3);
}

/// PROXY's header in a packet of its own, where the first data leaves no room
/// for it.
#[test]
fn what_fullnat_tells_the_server() {
    let proxy = |bench: &mut Bench| {
        set_method(bench, Method::Fullnat, ClientAddress::Proxy);
        let mut fullnat = (*service(Protocol::Tcp, VIP.into(), [1, 1])).clone();
        fullnat.locals = [Local { number: 0, address: [192, 168, 1, 77].into() }].into();
        bench.snapshot.services = Services::new([Arc::new(fullnat)], Arc::default());
    };
    let mut data = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4(CIP, VIP, 64)
        .tcp(5000, 80, 2, 1000)
        .ack(1)
        .write(&mut data, &[7; 560])
        .unwrap();
    let packets = [tcp4(5000, "S"), data];
    assert_eq!(assert_only_the_tag_differs(proxy, 600, &packets), 3);
}

/// From IPv4 to IPv6, whole and in pieces.
#[test]
fn fullnat_between_the_families() {
    let translated = |bench: &mut Bench| {
        set_method(bench, Method::Fullnat, ClientAddress::None);
        bench.change_server(0, |server| server.address = "[fd00:1::31]:80".parse().unwrap());
        let local = "fd00:1::77".parse().unwrap();
        bench.snapshot.locals = [local].into();
        let mut fullnat = (*service(Protocol::Udp, VIP.into(), [1, 0])).clone();
        fullnat.locals = [Local { number: 0, address: local }].into();
        bench.snapshot.services = Services::new([Arc::new(fullnat)], Arc::default());
    };
    let packets = [100, 1400].map(|len| with_ip(datagram(false, len), |ip| ip[6] = 0));
    assert_eq!(assert_only_the_tag_differs(translated, 1300, &packets), 3);
}

/// The second piece of a datagram comes first.
#[test]
fn fragments_that_were_held_keep_their_vlan() {
    let none = |_: &mut Bench| ();
    let whole = with_ip(datagram(false, 40), |ip| ip[4..6].copy_from_slice(&[0, 9]));
    let piece = |payload: std::ops::Range<usize>, field: [u8; 2]| {
        let mut bytes = whole[..34].to_vec();
        bytes.extend(&whole[34 + payload.start..34 + payload.end]);
        let len = (20 + payload.len()) as u16;
        with_ip(bytes, |ip| {
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            ip[6..8].copy_from_slice(&field);
        })
    };
    let pieces = [piece(24..48, [0, 3]), piece(0..24, [0x20, 0])];
    assert_eq!(assert_only_the_tag_differs(none, 1500, &pieces), 2);
    // Of no service: the kernel gets it by the VLAN's tap.
    let mut bench = bench(0);
    let punted = pieces.map(|mut piece| {
        if piece[20] & 0x20 != 0 {
            piece[37] = 81;
        }
        sent(&mut bench, &tagged(piece, TAG20))
    });
    assert_eq!(punted[0].0, Verdict::Absorbed);
    let (verdict, from, all) = &punted[1];
    assert_eq!((*verdict, *from), (Verdict::Punt, 2));
    let [(To::Kernel(2), held)] = &all[..] else { panic!("{all:?}") };
    assert_eq!(held[12..16], TAG20);
}

/// What is handed over comes with the device's index, and finds its VLAN again.
#[test]
fn a_frame_of_another_worker_is_known_by_its_tag() {
    let mut bench = bench(2);
    let mut buffer = vec![0xee; 128];
    let packet = tagged(tcp4(5000, "S"), TAG10);
    buffer.extend(&packet);
    let mut frames = [Frame::new(&mut buffer, 128, packet.len(), packet.len(), 0)];
    let mut verdicts = [Verdict::Punt; 1];
    bench.director.process(NOON, Source::Handoff, &mut frames, &mut verdicts);
    assert_eq!((verdicts[0], frames[0].port), (Verdict::Send { port: 2 }, 1));
    assert_eq!(frames[0].bytes()[12..16], TAG20);
}

#[test]
fn a_buffer_without_room_for_a_tag_is_counted() {
    let mut bench = bench(1);
    let mut packet = tcp4(5000, "S");
    let len = packet.len();
    let mut frames = [Frame::new(&mut packet, 0, len, len, 0)];
    let mut verdicts = [Verdict::Punt; 1];
    bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
    assert_eq!(verdicts, [Verdict::Drop(DropReason::NoHeadroom)]);
}
