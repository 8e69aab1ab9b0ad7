//! Connections with an entry for each direction.

use super::*;
use crate::fib::{Fib, NextHop, RoutesBuilder};

use crate::packet::checksum;
use crate::service::{Local, NatSource, NatSources};

const LOCAL: [u8; 4] = [192, 168, 1, 21];
const RIP: [[u8; 4]; 2] = [[192, 168, 1, 31], [192, 168, 1, 32]];

impl Bench {
    fn use_method(&mut self, method: Method, client_address: ClientAddress) {
        let mut list = Vec::new();
        for (protocol, vip) in [(Protocol::Tcp, IpAddr::from(VIP)), (Protocol::Udp, VIP.into())] {
            let mut service = (*service(protocol, vip, [1, 1])).clone();
            service.locals = [Local { number: 0, address: LOCAL.into() }].into();
            list.push(Arc::new(service));
        }
        self.snapshot.services = Services::new(list, Arc::default());
        self.snapshot.locals = [IpAddr::from(LOCAL)].into();
        for number in 0..2 {
            self.change_server(number, |server| {
                server.method = method;
                server.client_address = client_address;
            });
        }
    }

    /// Whether nothing is left of any connection after so long.
    pub(super) fn is_empty_after(&mut self, now: Tick, seconds: u32) -> bool {
        self.pass_time(now, seconds);
        (0..2).all(|n| self.connections(n) == (0, 0))
            && self.director.counters_mut().connections == 0
    }
}

/// A full table whose only half-open connection is the one being made.
#[test]
fn a_new_pair_does_not_take_its_own_place() {
    let mut bench = Bench::new(1, 3);
    bench.use_method(Method::Nat, ClientAddress::None);
    bench.send(NOON, &tcp4(5000, "S"));
    bench.send(NOON, &tcp4(5000, "A"));
    let (verdict, _) = bench.send(NOON, &tcp4(5001, "S"));
    assert_eq!(verdict, Verdict::Drop(DropReason::TableFull));
    assert_eq!((bench.connections(0), bench.connections(1)), ((1, 0), (0, 0)));
    assert_eq!(bench.director.counters_mut().recycled, 0);
    assert!(bench.is_empty_after(NOON, 902));
}

/// A client's segment; what leaves of it.
fn segment(bench: &mut Bench, cport: u16, flags: &str, seq: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let tcp =
        PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC).ipv4(CIP, VIP, 64).tcp(cport, 80, seq, 1000);
    let tcp = if flags.contains('S') { tcp.syn() } else { tcp };
    let tcp = if flags.contains('A') { tcp.ack(77) } else { tcp };
    let tcp = if flags.contains('F') { tcp.fin() } else { tcp };
    tcp.write(&mut bytes, data).unwrap();
    let (verdict, sent) = bench.send(NOON, &bytes);
    assert_eq!(verdict, Verdict::Send { port: 0 });
    sent
}

fn sequence(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[38], frame[39], frame[40], frame[41]])
}

/// Of a fragmented TCP segment only the first fragment has a TCP header. The
/// others are the user's bytes, whatever they look like.
#[test]
fn later_fragments_of_a_told_stream_keep_their_bytes() {
    for client_address in [ClientAddress::Toa, ClientAddress::Proxy] {
        let mut bench = Bench::new(1, 100);
        bench.use_method(Method::Fullnat, client_address);
        segment(&mut bench, 5000, "S", 1, b"");
        segment(&mut bench, 5000, "A", 2, b"GET /");
        // As a TCP header: sequence number 7, length 32, ACK, options of TOA.
        let mut payload = [0; 40];
        payload[7] = 7;
        payload[12..14].copy_from_slice(&[0x80, tcp::ACK]);
        payload[20..28].copy_from_slice(&[254, 8, 0, 80, 10, 0, 0, 1]);
        let mut later = tcp4(5000, "A")[..34].to_vec();
        later.extend(payload);
        let mut first = tcp4(5000, "A");
        first[38..42].copy_from_slice(&7u32.to_be_bytes());
        first.extend([0; 20]);
        for (bytes, flags) in [(&mut first, 0x2000_u16), (&mut later, 5)] {
            let len = (bytes.len() - 14) as u16;
            bytes[16..18].copy_from_slice(&len.to_be_bytes());
            bytes[20..22].copy_from_slice(&flags.to_be_bytes());
            bytes[24..26].fill(0);
            let sum = checksum::fold(checksum::add(0, &bytes[14..34]).into());
            bytes[24..26].copy_from_slice(&(!sum).to_be_bytes());
        }
        let (verdict, _) = bench.send(NOON, &first);
        assert_eq!(verdict, Verdict::Send { port: 0 }, "{client_address:?}");
        let (verdict, sent) = bench.send(NOON, &later);
        assert_eq!(verdict, Verdict::Send { port: 0 }, "{client_address:?}");
        assert_eq!(sent[30..34], RIP[0]);
        assert_eq!(sent[34..], payload, "{client_address:?}");
    }
}

/// A client tries again with another initial sequence number, or uses its port
/// again, while the first handshake's connection is still there.
#[test]
fn a_second_handshake_begins_a_stream_of_its_own() {
    const PROXY_HEADER: usize = 28;
    for before in [&[][..], &["A", "AF"]] {
        let mut bench = Bench::new(1, 100);
        bench.use_method(Method::Fullnat, ClientAddress::Proxy);
        segment(&mut bench, 5000, "S", 1_000, b"");
        for flags in before {
            segment(&mut bench, 5000, flags, 1_001, b"");
        }
        for isn in [500_u32, 9_000] {
            segment(&mut bench, 5000, "S", isn, b"");
            let sent = segment(&mut bench, 5000, "A", isn + 1, b"GET /");
            assert_eq!((sequence(&sent), sent.len()), (isn + 1, 54 + PROXY_HEADER + 5));
            let sent = segment(&mut bench, 5000, "AF", isn + 6, b"rest");
            assert_eq!((sequence(&sent), sent.len()), (isn + 6 + PROXY_HEADER as u32, 58));
        }
    }
}

/// What a server sends is asked for at each worker once, however many services
/// it is of; last at the one that owns it by its own hash. First, and so perhaps
/// twice, at the one that a hint names.
#[test]
fn no_packet_goes_round_longer_than_there_are_workers() {
    const WORKERS: usize = 4;
    let mut bench = Bench::new(WORKERS, 100);
    bench.use_method(Method::Nat, ClientAddress::None);
    let mut sources = NatSources::new();
    for vport in 1..=300 {
        let source = NatSource::Of(VIP.into(), vport);
        sources.add(Protocol::Tcp, SocketAddr::from((RIP[0], 80)), source);
    }
    bench.snapshot.nat_sources = Arc::new(sources);
    bench.publish();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(SERVER_MAC[0], PORT_MAC)
        .ipv4(RIP[0], CIP, 64)
        .tcp(80, 5000, 1, 1000)
        .ack(1)
        .write(&mut bytes, b"")
        .unwrap();
    let core = &mut bench.director.core;
    let mut headers = Headers::NONE;
    let len = bytes.len();
    parse(&Frame::new(&mut bytes, 0, len, len, 0), PORT_MAC, &mut headers).unwrap();
    let mut firsts = Vec::new();
    for hint in [None, Some(0), Some(1), Some(2), Some(3)] {
        if let Some(worker) = hint {
            core.worker = worker;
            core.give_hint(&bench.snapshot, Protocol::Tcp, &headers.tuple());
        }
        core.worker = core.owner(&bench.snapshot, &headers, None);
        firsts.push(core.worker);
        let mut asked = vec![core.worker];
        let mut handed = Handed::default();
        while let Some(verdict) = core.elsewhere(&bench.snapshot, &headers, handed) {
            let Verdict::Handoff { worker, handed: next } = verdict else { panic!("{verdict:?}") };
            assert_ne!(core.worker, usize::from(worker));
            (core.worker, handed) = (worker.into(), next);
            asked.push(core.worker);
        }
        assert_eq!(core.worker, core.natural_owner(&headers.tuple()));
        let most = WORKERS + 1 + usize::from(hint.is_some());
        assert!(asked.len() <= most, "{hint:?}: {asked:?}");
        asked.sort_unstable();
        asked.dedup();
        assert_eq!(asked, [0, 1, 2, 3]);
    }
    assert_eq!(firsts[1..], [0, 1, 2, 3]);
}

/// A connection without an entry lives as long as the hash finds its server.
#[test]
fn mh_serves_whole_tcp_connections_in_a_full_table() {
    let mut bench = Bench::new(1, 1);
    let scheduler = Scheduler::Mh(scheduler::HashFlags::default());
    let mut mh = (*service(Protocol::Tcp, VIP.into(), [1, 1])).clone();
    (mh.scheduler, mh.candidates) = (scheduler, mh.candidates.followed_by(scheduler, list()));
    bench.snapshot.services = Services::new([Arc::new(mh)], Arc::default());
    bench.publish();
    assert_eq!(bench.send(NOON, &tcp4(5001, "A")).0, Verdict::Punt, "no connection had to");
    bench.send(NOON, &tcp4(5000, "S"));
    bench.send(NOON, &tcp4(5000, "A"));
    let server = bench.server_of(NOON, &tcp4(5001, "S"));
    for flags in ["A", "FA", "A", "RA"] {
        assert_eq!(bench.server_of(NOON, &tcp4(5001, flags)), server, "{flags}");
    }
    assert_eq!(bench.director.counters_mut().stateless, 5);
    let later = NOON.plus(901 * TICKS_PER_SECOND);
    assert_eq!(bench.send(later, &tcp4(5001, "A")).0, Verdict::Punt, "long over");
}

fn list() -> Vec<Candidate> {
    let candidate = |server: u32| Candidate {
        server,
        address: SocketAddr::from((RIP[server as usize], 80)),
        weight: 1,
        fresh: false,
        counts: Arc::new(ServerCounts::new(2)),
    };
    (0..2).map(candidate).collect()
}

/// As in the kernel, a new method or way of telling the client's address is for
/// new connections; those that exist go on as they began.
#[test]
fn a_connection_keeps_the_method_that_it_began_with() {
    use ClientAddress::{None, Proxy};
    let methods = [
        (Method::Dr, None),
        (Method::Nat, None),
        (Method::Fullnat, None),
        (Method::Fullnat, Proxy),
    ];
    for (before, after) in methods.iter().flat_map(|b| methods.map(|a| (*b, a))) {
        let mut bench = Bench::new(1, 100);
        bench.use_method(before.0, before.1);
        segment(&mut bench, 5000, "S", 1, b"");
        let sent = segment(&mut bench, 5000, "A", 2, b"");
        bench.use_method(after.0, after.1);
        assert_eq!(segment(&mut bench, 5000, "A", 2, b""), sent, "{before:?} to {after:?}");
    }
}

/// A server that sends options that make no sense hears of it from the
/// director, not from its client.
#[test]
fn a_malformed_option_is_answered_in_the_right_name() {
    const DIRECTOR: [u8; 4] = [192, 168, 1, 21];
    let mut bench = Bench::new(1, 100);
    bench.use_method(Method::Nat, ClientAddress::None);
    let mut routes = RoutesBuilder::default();
    routes.add4(0, NextHop::Port { port: 0, vlan: 0, src_mac: PORT_MAC, gateway: None, mtu: 1500 });
    let hosts = [(CIP, CLIENT_MAC), (RIP[0], SERVER_MAC[0])];
    let neighbours = hosts.map(|(ip, mac)| ((0, IpAddr::from(ip)), mac)).into_iter().collect();
    bench.snapshot.fib = Arc::new(Fib::new(Arc::new(routes.build()), Arc::new(neighbours)));
    bench.snapshot.ports[0].address4 = Some(u32::from_be_bytes(DIRECTOR));
    bench.publish();
    bench.send(NOON, &tcp4(5000, "S"));
    let packet = |src: [u8; 4], dst: [u8; 4], ports: (u16, u16)| {
        let mut ip =
            etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, src, dst).unwrap();
        // Record route that is shorter than its pointer.
        ip.options = [7, 2, 0, 0].into();
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
            .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
            .tcp(ports.0, ports.1, 1, 1000)
            .write(&mut bytes, b"")
            .unwrap();
        bytes
    };
    for (bytes, from, to) in [
        (packet(CIP, VIP, (5000, 80)), VIP, CIP),
        (packet(RIP[0], CIP, (80, 5000)), DIRECTOR, RIP[0]),
    ] {
        let (verdict, _) = bench.send(NOON, &bytes);
        assert_eq!(verdict, Verdict::Drop(DropReason::Ip4BadOptions));
        let answers: Vec<_> = bench.director.outbox().frames().map(|(_, f)| f.to_vec()).collect();
        let [answer] = &answers[..] else { panic!("{} answers", answers.len()) };
        assert_eq!((&answer[26..30], &answer[30..34], answer[34]), (&from[..], &to[..], 12));
        bench.director.outbox().clear();
    }
}

/// A segment that leaves in pieces has the server's numbers, too.
#[test]
fn a_translated_segment_in_pieces_is_renumbered() {
    const PROXY_HEADER: u32 = 28;
    let mut bench = Bench::new(1, 100);
    bench.use_method(Method::Fullnat, ClientAddress::Proxy);
    let local: IpAddr = "fd00::21".parse().unwrap();
    let mut service = (*service(Protocol::Tcp, VIP.into(), [1, 1])).clone();
    service.locals = [Local { number: 0, address: local }].into();
    bench.snapshot.services = Services::new([Arc::new(service)], Arc::default());
    bench.snapshot.locals = [local].into();
    bench.change_server(0, |server| server.address = "[fd00::31]:80".parse().unwrap());
    segment(&mut bench, 5000, "S", 1, b"");
    segment(&mut bench, 5000, "A", 2, b"GET /");
    let mut bytes = tcp4(5000, "A");
    bytes[38..42].copy_from_slice(&7u32.to_be_bytes());
    bytes.extend([0; 1460]);
    bytes[16..18].copy_from_slice(&1500_u16.to_be_bytes());
    bytes[20] = 0;
    bytes[24..26].fill(0);
    let sum = checksum::fold(checksum::add(0, &bytes[14..34]).into());
    bytes[24..26].copy_from_slice(&(!sum).to_be_bytes());
    let (verdict, sent) = bench.send(NOON, &bytes);
    assert_eq!((verdict, bench.director.outbox().len()), (Verdict::Send { port: 0 }, 1));
    // IPv6 and fragment header are in front of it.
    let sequence = u32::from_be_bytes([sent[66], sent[67], sent[68], sent[69]]);
    assert_eq!((sent[20], sequence), (44, 7 + PROXY_HEADER));
}
