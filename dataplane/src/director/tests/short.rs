//! The short way does what the long way does, and no more.

use super::*;
use crate::packet::checksum;
use crate::service::{Encapsulation, Local};

/// What becomes of a packet on the short way, if it goes that way.
fn short(bench: &mut Bench, packet: &[u8]) -> Option<(u8, Vec<u8>)> {
    let mut buffer = vec![0xee; 128];
    buffer.extend(packet);
    // As on Ethernet.
    let len = packet.len().max(60);
    buffer.resize(128 + len, 0);
    let mut frames = [Frame::new(&mut buffer, 128, len, len, 0)];
    let mut verdicts = [Verdict::Punt; 1];
    let Director { snapshot, tables, fragments, core, staged, headers, .. } = &mut bench.director;
    let cx = Context { now: NOON, snapshot };
    let burst = &mut Burst {
        source: Source::Port,
        staged: &mut staged[..1],
        headers: &mut headers[..1],
        verdicts: &mut verdicts,
        frames: &mut frames,
    };
    core.read(cx, tables, fragments, burst);
    find_entries(tables, burst);
    let (stage, frame) = (burst.staged[0], &mut burst.frames[0]);
    let port = match stage.kind {
        Kind::Short4 => core.short::<Entry4>(cx, tables, &stage, frame),
        Kind::Short6 => core.short::<Entry6>(cx, tables, &stage, frame),
        _ => None,
    };
    Some((port?, frame.bytes().to_vec()))
}

/// The same packet with a priority tag, which the short way does not know.
fn tagged(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.splice(12..12, [0x81, 0, 0, 0]);
    packet
}

fn fix_checksum(packet: &mut [u8]) {
    packet[24..26].fill(0);
    let sum = checksum::fold(checksum::add(0, &packet[14..34]).into());
    packet[24..26].copy_from_slice(&(!sum).to_be_bytes());
}

/// Variants of a packet: TOS, DF, TTL, padding.
fn variants(packet: &[u8]) -> Vec<Vec<u8>> {
    let ip4 = packet[12] == 8;
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = packet.to_vec();
        change(&mut packet);
        if ip4 {
            fix_checksum(&mut packet);
        }
        packet
    };
    vec![
        packet.to_vec(),
        changed(&|p| p.extend([7; 6])),
        changed(&|p| p[if ip4 { 22 } else { 21 }] = 2),
        changed(&|p| if ip4 { p[15] = 0xff } else { p[14..16].copy_from_slice(&[0x6f, 0xf0]) }),
        changed(&|p| {
            if ip4 {
                p[20] = 0x40;
            }
        }),
        changed(&|p| {
            if ip4 {
                p[18..20].copy_from_slice(&[0xab, 0xcd]);
            }
        }),
    ]
}

/// A bench whose servers have this method, and the port addresses for tunnels.
pub(super) fn bench_of(method: Method, rip: Option<IpAddr>) -> Bench {
    let mut bench = Bench::new(1, 100);
    let local = IpAddr::from([192, 168, 1, 21]);
    let services = [
        (Protocol::Tcp, IpAddr::from(VIP)),
        (Protocol::Udp, VIP.into()),
        (Protocol::Tcp, vip6()),
        (Protocol::Udp, vip6()),
    ]
    .map(|(protocol, vip)| {
        let mut service = (*service(protocol, vip, [1, 0])).clone();
        service.locals = [Local { number: 0, address: local }].into();
        Arc::new(service)
    });
    bench.snapshot.services = Services::new(services, Arc::default());
    bench.snapshot.locals = [local].into();
    bench.snapshot.ports[0].address4 = Some(u32::from_be_bytes([192, 168, 1, 21]));
    bench.snapshot.ports[0].address6 = Some([0xfd; 16]);
    bench.change_server(0, |server| {
        server.method = method;
        if let Some(rip) = rip {
            server.address = SocketAddr::from((rip, 80));
        }
    });
    bench
}

fn packets() -> [Vec<u8>; 4] {
    let IpAddr::V6(vip) = vip6() else { unreachable!() };
    let mut udp6 = Vec::new();
    let client = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC).ipv6(client, vip.octets(), 64);
    builder.udp(5000, 80).write(&mut udp6, b"hello").unwrap();
    [tcp4(5000, "S"), udp4(5000, 80), tcp6(5000), udp6]
}

#[test]
fn the_short_way_does_what_the_long_way_does() {
    let rip6: IpAddr = "fd00:1::31".parse().unwrap();
    let ipip = Method::Tun(Encapsulation::Ipip);
    let mut taken = 0;
    for (method, rip) in [
        (Method::Dr, None),
        (ipip, None),
        (ipip, Some(rip6)),
        (Method::Nat, None),
        (Method::Fullnat, None),
        (Method::Nat, Some(rip6)),
    ] {
        for mut packet in packets() {
            let mut bench = bench_of(method, rip);
            let flags = if packet[12] == 8 { 47 } else { 67 };
            if bench.send(NOON, &packet).0 != (Verdict::Send { port: 0 }) {
                // NAT to the other family is not what this is about.
                continue;
            }
            let is_tcp = packet[if packet[12] == 8 { 23 } else { 20 }] == 6;
            if is_tcp {
                packet[flags] = tcp::ACK;
                bench.send(NOON, &packet);
            }
            let is_pair = method.is_two_sided();
            let same_family = rip.is_some() == (packet[12] == 0x86);
            for packet in variants(&packet) {
                bench.director.core.ids = Ids::new(0, 1, 500);
                let found = short(&mut bench, &packet);
                if is_pair && !same_family {
                    assert_eq!(found, None, "{method:?} {rip:?}");
                    continue;
                }
                let (port, found) = found.expect("the short way");
                bench.director.core.ids = Ids::new(0, 1, 500);
                let (verdict, sent) = bench.send(NOON, &tagged(&packet));
                assert_eq!(
                    (verdict, &sent),
                    (Verdict::Send { port }, &found),
                    "{method:?} {rip:?}"
                );
                taken += 1;
            }
            let totals = bench.snapshot.server(0).unwrap().counts.totals();
            let sent = if is_tcp { 14 } else { 13 };
            if !is_pair || same_family {
                assert_eq!((totals.in_packets, totals.out_packets), (sent, 0));
            }
        }
    }
    assert_eq!(taken, 6 * (4 + 4 + 4 + 2 + 2 + 2));
}

/// What is in the tables: addresses and ports found by, what they become, and
/// the rest of each entry.
fn entries(bench: &Bench) -> Vec<String> {
    let tables = &bench.director.tables;
    let mut all = Vec::new();
    for group in 0..tables.v4.group_count() {
        tables.v4.scan(group, |entry| all.push(format!("{entry:?}")));
    }
    for group in 0..tables.v6.group_count() {
        tables.v6.scan(group, |entry| all.push(format!("{entry:?}")));
    }
    all
}

/// A connection's first packet has a short way of its own. What leaves, what is
/// counted and the entries are as on the long one, also in a burst with packets
/// of connections that the others open.
#[test]
fn a_first_packet_becomes_what_it_does_on_the_long_way() {
    let rip6: IpAddr = "fd00:1::31".parse().unwrap();
    let local6: IpAddr = "fd00:1::21".parse().unwrap();
    let mut plain = 0;
    for (method, rip) in [
        (Method::Dr, None),
        (Method::Tun(Encapsulation::Ipip), None),
        (Method::Nat, None),
        (Method::Nat, Some(rip6)),
        (Method::Fullnat, None),
        (Method::Fullnat, Some(rip6)),
    ] {
        for mut packet in packets() {
            // As on Ethernet.
            packet.resize(packet.len().max(60), 0);
            let benches = [0, 4].map(|tag| {
                let mut bench = bench_of(method, rip);
                if rip.is_some() {
                    let services = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
                        let mut service = (*service(protocol, vip6(), [1, 0])).clone();
                        service.locals = [Local { number: 0, address: local6 }].into();
                        Arc::new(service)
                    });
                    bench.snapshot.services = Services::new(services, Arc::default());
                    bench.snapshot.locals = [local6].into();
                    bench.publish();
                }
                let packet = if tag == 0 { packet.clone() } else { tagged(&packet) };
                let sent = bench.send(NOON, &packet);
                (bench, sent)
            });
            let [(one, sent), (other, sent_long)] = benches;
            assert_eq!(sent.0, sent_long.0, "{method:?} {rip:?}");
            let is_sent = sent.0 == (Verdict::Send { port: 0 });
            assert!(!is_sent || sent.1 == sent_long.1, "{method:?} {rip:?}");
            assert_eq!(entries(&one), entries(&other), "{method:?} {rip:?}");
            let counted = |bench: &Bench| {
                (bench.connections(0), bench.snapshot.server(0).unwrap().counts.totals())
            };
            assert_eq!(counted(&one), counted(&other));
            // Its headers are not put together.
            let same_family = rip.is_some() == (packet[12] == 0x86);
            let is_pair = method.is_two_sided();
            let is_plain = method == Method::Dr || is_pair && same_family;
            if is_sent && is_plain {
                assert_eq!(one.director.headers[0], Headers::NONE, "{method:?} {rip:?}");
                assert_ne!(other.director.headers[0], Headers::NONE);
                plain += 1;
            }
        }
    }
    assert_eq!(plain, 4 + 2 + 2 + 2 + 2);
}

/// Two packets of one client in a burst are of one connection, and a SYN of one
/// that is there finds it.
#[test]
fn a_first_packet_comes_twice_in_a_burst() {
    for method in [Method::Dr, Method::Nat, Method::Fullnat] {
        let mut bench = bench_of(method, None);
        let packets = [tcp4(5000, "S"), tcp4(5001, "S"), tcp4(5000, "S"), udp4(5000, 80)];
        for _ in 0..2 {
            let mut buffers = packets.clone().map(|packet| [packet, vec![0; 20]].concat());
            let mut frames = buffers.each_mut().map(|bytes| {
                let len = bytes.len();
                Frame::new(bytes, 0, len, len, 0)
            });
            let mut verdicts = [Verdict::Punt; 4];
            bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
            assert_eq!(verdicts, [Verdict::Send { port: 0 }; 4], "{method:?}");
            let sent = frames.map(|frame| frame.bytes().to_vec());
            assert_eq!(sent[0], sent[2], "{method:?}");
            bench.director.housekeeping(NOON);
            assert_eq!(bench.director.counters_mut().connections, 3, "{method:?}");
            assert_eq!(bench.connections(0), (2, 1), "{method:?}");
            let totals = bench.snapshot.server(0).unwrap().counts.totals();
            assert_eq!(totals.connections, 3);
        }
        assert!(bench.is_empty_after(NOON, 302), "{method:?}");
    }
}

/// What needs more is left as it came, and not counted.
#[test]
fn the_short_way_leaves_what_it_does_not_do() {
    type Change = fn(&mut Bench, &mut Vec<u8>);
    let changes: [(&str, Change); 9] = [
        ("a FIN", |_, p| p[47] |= tcp::FIN),
        ("no flag", |_, p| p[47] = 0),
        ("no connection", |_, p| p[35] ^= 1),
        ("the last hop", |_, p| p[22] = 1),
        ("a deleted server", |b, _| b.change_server(0, |s| s.deleted = true)),
        ("no neighbour", |b, _| b.change_server(0, |s| s.hop = Hop::Unresolved)),
        ("too long", |b, _| {
            b.change_server(0, |s| {
                let Hop::Port(hop) = &mut s.hop else { return };
                hop.mtu = 39;
            });
        }),
        ("a VLAN", |b, _| {
            b.change_server(0, |s| {
                let Hop::Port(hop) = &mut s.hop else { return };
                hop.vlan = 7;
            });
        }),
        ("another tunnel", |b, _| {
            let gre = Method::Tun(Encapsulation::Gre { checksum: false });
            b.change_server(0, |s| s.method = gre);
        }),
    ];
    for (what, change) in changes {
        let mut bench = bench_of(Method::Dr, None);
        bench.send(NOON, &tcp4(5000, "S"));
        let mut packet = tcp4(5000, "A");
        bench.send(NOON, &packet);
        assert!(short(&mut bench, &packet).is_some());
        change(&mut bench, &mut packet);
        fix_checksum(&mut packet);
        assert_eq!(short(&mut bench, &packet), None, "{what}");
        assert_eq!(bench.snapshot.server(0).unwrap().counts.totals().in_packets, 3, "{what}");
    }
    // A tunnel with a path MTU that was learnt, and no checksum under NAT.
    let mut bench = bench_of(Method::Tun(Encapsulation::Ipip), None);
    bench.send(NOON, &udp4(5000, 80));
    bench.snapshot.server(0).unwrap().counts.learn_path_mtu(0, NOON, 1400, true);
    assert_eq!(short(&mut bench, &udp4(5000, 80)), None);
    let mut bench = bench_of(Method::Nat, None);
    bench.send(NOON, &udp4(5000, 80));
    let mut packet = udp4(5000, 80);
    assert!(short(&mut bench, &packet).is_some());
    packet[40..42].fill(0);
    assert_eq!(short(&mut bench, &packet), None);
}

/// A removed connection's slot is not taken for it.
#[test]
fn a_removed_connection_is_not_found_by_its_slot() {
    let mut bench = bench_of(Method::Dr, None);
    bench.send(NOON, &udp4(5000, 80));
    let Director { tables, .. } = &mut bench.director;
    let key = Key4::new(
        Protocol::Udp,
        Tuple4 {
            src: u32::from_be_bytes(CIP),
            dst: u32::from_be_bytes(VIP),
            src_port: 5000,
            dst_port: 80,
        },
    );
    let slot = tables.v4.prefetch_found(tables.v4.hash(&key)).unwrap();
    assert!(tables.v4.at(slot, &key).is_some());
    tables.remove(Place::V4(slot));
    assert!(tables.v4.at(slot, &key).is_none());
}

/// A connection is kept alive by the short way, by each tick's first packet.
#[test]
fn the_short_way_keeps_connections() {
    let mut bench = bench_of(Method::Dr, None);
    bench.send(NOON, &tcp4(5000, "S"));
    bench.send(NOON, &tcp4(5000, "A"));
    let now = bench.pass_time(NOON, 899);
    bench.send(now, &tcp4(5000, "A"));
    let now = bench.pass_time(now, 899);
    assert_eq!(bench.director.counters_mut().connections, 1);
    bench.pass_time(now, 3);
    assert_eq!(bench.director.counters_mut().connections, 0);
}

/// A server's packet goes the way that its entry knows as long as that is right,
/// and to the byte as on the long way.
#[test]
fn replies_go_the_way_that_there_is_now() {
    let reply = {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ethernet2(SERVER_MAC[0], PORT_MAC);
        let builder = builder.ipv4([192, 168, 1, 31], CIP, 64).udp(80, 5000);
        builder.write(&mut packet, b"hello").unwrap();
        packet
    };
    let number = |bench: &mut Bench| {
        let (src, dst) = (0xc0a8_011f, u32::from_be_bytes(CIP));
        let tuple = Tuple::V4(Tuple4 { src, dst, src_port: 80, dst_port: 5000 });
        let tables = &bench.director.tables;
        tables.body(tables.find(Protocol::Udp, &tuple).unwrap()).way()
    };
    let mut bench = bench_of(Method::Nat, None);
    bench.route(&[(CIP, CLIENT_MAC)]);
    bench.send(NOON, &udp4(5000, 80));
    assert_eq!(number(&mut bench), 0);
    for packet in variants(&reply) {
        let (port, found) = short(&mut bench, &packet).expect("the short way");
        assert_eq!(bench.send(NOON, &tagged(&packet)), (Verdict::Send { port }, found));
    }
    let known = number(&mut bench);
    assert_ne!(known, 0);
    // Other changes leave it as it is.
    bench.change_server(0, |server| server.weight = 7);
    assert!(short(&mut bench, &reply).is_some());
    assert_eq!(number(&mut bench), known);
    // Another neighbour, none, and one again.
    for mac in [Some([2; 6]), None, Some([4; 6])] {
        bench.route(mac.map(|mac| (CIP, mac)).as_slice());
        let found = short(&mut bench, &reply);
        assert_eq!(found.map(|(_, bytes)| *bytes.first_chunk().unwrap()), mac);
    }
}
