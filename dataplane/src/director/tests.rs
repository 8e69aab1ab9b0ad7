//! The director driven as the worker drives it: frames in, verdicts and frames
//! out.

mod vlan;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::PacketBuilder;

use super::*;
use crate::conn::{State, Timeouts};
use crate::packet::headers::{Addresses, parse, sctp, tcp};
use crate::packet::{Key4, Protocol, Tuple, Tuple4};
use crate::scheduler::{self, Candidate, Candidates, Scheduler};
use crate::service::{
    ClientAddress, Hop, Method, PortHop, Server, ServerCounts, Service, ServiceKey, Services,
};
use crate::snapshot::Port;
use crate::time::TICKS_PER_SECOND;
use crate::update::{ConnectionKey, ControlEnd, Dump, Filter, Reply, Side, Update, channel};

mod errors;
mod fragments;
mod observed;
mod pairs;
mod replies;
mod short;
mod take_up;

const PORT_MAC: [u8; 6] = [0, 0x50, 0, 0, 4, 0];
const CLIENT_MAC: [u8; 6] = [0, 0x50, 0, 0, 3, 0];
const SERVER_MAC: [[u8; 6]; 2] = [[0, 0x50, 0, 0, 1, 0], [0, 0x50, 0, 0, 2, 0]];
const CIP: [u8; 4] = [192, 168, 1, 12];
const VIP: [u8; 4] = [192, 168, 1, 100];
const NOON: Tick = Tick::from_secs(1000);

struct Bench {
    director: Director,
    control: ControlEnd,
    snapshot: Snapshot,
}

fn server(last_byte: u8, hop: Hop) -> Arc<Server> {
    Arc::new(Server {
        address: SocketAddr::from(([192, 168, 1, last_byte], 80)),
        hop,
        method: Method::Dr,
        weight: 1,
        deleted: false,
        client_address: ClientAddress::None,
        mss: None,
        counts: Arc::new(ServerCounts::new(2)),
    })
}

fn hop(mac: [u8; 6]) -> Hop {
    Hop::Port(PortHop { port: 0, dst_mac: mac, src_mac: PORT_MAC, mtu: 1500, vlan: 0 })
}

fn candidates(scheduler: Scheduler, weights: [u32; 2]) -> Candidates {
    let list = weights.iter().zip(0..).map(|(&weight, server)| Candidate {
        server,
        address: SocketAddr::from(([192, 168, 1, 31 + server as u8], 80)),
        weight,
        fresh: false,
        counts: Arc::new(ServerCounts::new(2)),
    });
    Candidates::new(scheduler, list.collect())
}

fn service(protocol: Protocol, vip: IpAddr, weights: [u32; 2]) -> Arc<Service> {
    Arc::new(Service {
        key: ServiceKey::Address { protocol, vip, vport: 80 },
        number: 0,
        scheduler: Scheduler::Rr,
        state: Arc::new(scheduler::State::new(Scheduler::Rr)),
        candidates: candidates(Scheduler::Rr, weights),
        persistence: None,
        one_packet: false,
        take_up: false,
        locals: Arc::default(),
    })
}

fn vip6() -> IpAddr {
    "fd00:1::100".parse().unwrap()
}

impl Bench {
    /// Worker 0 of `workers`, with TCP, UDP and SCTP services on VIP:80, and
    /// one on an IPv6 address, over two servers.
    fn new(workers: usize, connections: usize) -> Self {
        let (control, link) = channel();
        let hash_key = HashKey::new([1, 2, 3]);
        let shard = Shard::new(0x6d5a, workers, 128).with_hints(connections, hash_key);
        let config = DirectorConfig {
            worker: 0,
            shard: Arc::new(shard.unwrap()),
            connections,
            hash_key,
            punt_limits: PuntLimits::default(),
            icmp_limits: IcmpLimits::default(),
            templates: Arc::new(Templates::new(100, hash_key).unwrap()),
            random: 0,
        };
        let mut bench = Self {
            director: Director::new(config, link).unwrap(),
            control,
            snapshot: Snapshot {
                ports: vec![Port::new(PORT_MAC, 1500)],
                servers: [(31, SERVER_MAC[0]), (32, SERVER_MAC[1])]
                    .map(|(host, mac)| Some(server(host, hop(mac))))
                    .into_iter()
                    .collect(),
                ..Default::default()
            },
        };
        bench.set_weights([1, 1]);
        bench
    }

    fn set_weights(&mut self, weights: [u32; 2]) {
        let vip = IpAddr::from(VIP);
        self.snapshot.services = Services::new(
            [
                service(Protocol::Tcp, vip, weights),
                service(Protocol::Udp, vip, weights),
                service(Protocol::Sctp, vip, weights),
                service(Protocol::Tcp, vip6(), weights),
            ],
            Arc::default(),
        );
        self.publish();
    }

    fn change_server(&mut self, number: usize, change: impl FnOnce(&mut Server)) {
        let mut server = (**self.snapshot.server(number as u32).unwrap()).clone();
        change(&mut server);
        self.snapshot.servers.set(number as u32, Some(Arc::new(server)));
        self.publish();
    }

    fn publish(&mut self) {
        self.snapshot.epoch += 1;
        self.control.send(Update::Snapshot(Arc::new(self.snapshot.clone()))).unwrap();
        self.director.housekeeping(NOON);
        assert!(matches!(self.control.receive(), Some(Reply::Retired(_))));
        assert_eq!(self.control.shared().epoch(), self.snapshot.epoch);
    }

    fn send(&mut self, now: Tick, packet: &[u8]) -> (Verdict, Vec<u8>) {
        let mut buffer = vec![0xee; 128];
        buffer.extend(packet);
        buffer.extend([0xdd; 64]);
        let mut frames = [Frame::new(&mut buffer, 128, packet.len(), packet.len(), 0)];
        let mut verdicts = [Verdict::Punt; 1];
        self.director.process(now, Source::Port, &mut frames, &mut verdicts);
        (verdicts[0], frames[0].bytes().to_vec())
    }

    /// The index of the server that the packet went to, by its MAC.
    fn server_of(&mut self, now: Tick, packet: &[u8]) -> usize {
        let (verdict, bytes) = self.send(now, packet);
        assert_eq!(verdict, Verdict::Send { port: 0 });
        SERVER_MAC.iter().position(|mac| bytes[..6] == *mac).expect("a server's MAC")
    }

    fn connections(&self, number: usize) -> (u32, u32) {
        self.snapshot.server(number as u32).unwrap().counts.connections.read()
    }

    fn pass_time(&mut self, from: Tick, seconds: u32) -> Tick {
        let end = from.plus(seconds * TICKS_PER_SECOND);
        let mut now = from;
        while now < end {
            now = now.plus(1);
            // A loop wakes many times a tick; twice is enough for small tables.
            self.director.housekeeping(now);
            self.director.housekeeping(now);
        }
        now
    }
}

/// A TCP packet with the letters' flags: S, F, R, A, in any order.
fn tcp4(cport: u16, flags: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4(CIP, VIP, 64)
        .tcp(cport, 80, 1, 1000)
        .write(&mut bytes, b"")
        .unwrap();
    bytes[47] = flags.chars().fold(0, |bits, letter| {
        bits | match letter {
            'S' => tcp::SYN,
            'F' => tcp::FIN,
            'R' => tcp::RST,
            'A' => tcp::ACK,
            other => panic!("no flag {other}"),
        }
    });
    bytes
}

fn udp4(cport: u16, dport: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4(CIP, VIP, 64)
        .udp(cport, dport)
        .write(&mut bytes, b"hello")
        .unwrap();
    bytes
}

/// An SCTP packet with chunks of these types, without a body.
fn sctp4(cport: u16, chunks: &[u8]) -> Vec<u8> {
    let ports = [cport.to_be_bytes(), 80u16.to_be_bytes()].concat();
    let mut payload = [&ports[..], &[0, 0, 0, 7, 0, 0, 0, 0]].concat();
    payload.extend(chunks.iter().flat_map(|&chunk| [chunk, 0, 0, 4]));
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4(CIP, VIP, 64)
        .write(&mut bytes, etherparse::IpNumber::SCTP, &payload)
        .unwrap();
    bytes
}

fn tcp6(cport: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let IpAddr::V6(vip) = vip6() else { unreachable!() };
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv6("fd00:1::12".parse::<std::net::Ipv6Addr>().unwrap().octets(), vip.octets(), 64)
        .tcp(cport, 80, 1, 1000)
        .syn()
        .write(&mut bytes, b"data")
        .unwrap();
    bytes
}

#[test]
fn dr_changes_macs_ttl_and_header_checksum_only() {
    let mut bench = Bench::new(1, 100);
    let mut packet = tcp4(5000, "S");
    packet.extend([0; 6]); // Padding of a short frame.
    let (verdict, sent) = bench.send(NOON, &packet);
    assert_eq!(verdict, Verdict::Send { port: 0 });
    let mut expected = packet[..54].to_vec();
    expected[..6].copy_from_slice(&SERVER_MAC[0]);
    expected[6..12].copy_from_slice(&PORT_MAC);
    expected[22] = 63;
    let sum = u16::from_be_bytes([packet[24], packet[25]]) + 0x0100;
    expected[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(sent, expected);
}

#[test]
fn dr_of_ipv6_changes_macs_and_hop_limit_only() {
    let mut bench = Bench::new(1, 100);
    let packet = tcp6(5000);
    let (verdict, sent) = bench.send(NOON, &packet);
    assert_eq!(verdict, Verdict::Send { port: 0 });
    let mut expected = packet;
    expected[..6].copy_from_slice(&SERVER_MAC[0]);
    expected[6..12].copy_from_slice(&PORT_MAC);
    expected[21] = 63;
    assert_eq!(sent, expected);
}

#[test]
fn a_priority_tag_is_taken_off() {
    let mut bench = Bench::new(1, 100);
    let mut packet = tcp4(5000, "S");
    packet.splice(12..12, [0x81, 0, 0xa0, 0]);
    let (_, tagged) = bench.send(NOON, &packet);
    let (_, plain) = Bench::new(1, 100).send(NOON, &tcp4(5000, "S"));
    assert_eq!(tagged, plain);
}

#[test]
fn connections_alternate_and_stay_where_they_are() {
    let mut bench = Bench::new(1, 100);
    let first: Vec<_> = (0..6).map(|i| bench.server_of(NOON, &tcp4(5000 + i, "S"))).collect();
    assert_eq!(first, [0, 1, 0, 1, 0, 1]);
    let later: Vec<_> =
        (0..6).map(|i| bench.server_of(NOON.plus(99), &tcp4(5000 + i, "A"))).collect();
    assert_eq!(later, first);
}

#[test]
fn packets_of_one_new_connection_in_one_burst_share_it() {
    let mut bench = Bench::new(1, 100);
    let mut buffers: Vec<_> = ["S", "A", "FA"].iter().map(|flags| tcp4(5000, flags)).collect();
    let mut frames: Vec<_> = buffers
        .iter_mut()
        .map(|b| {
            let len = b.len();
            Frame::new(b, 0, len, len, 0)
        })
        .collect();
    let mut verdicts = [Verdict::Punt; 3];
    bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
    assert_eq!(verdicts, [Verdict::Send { port: 0 }; 3]);
    assert!(frames.iter().all(|f| f.bytes()[..6] == SERVER_MAC[0]));
    assert_eq!(bench.connections(0), (0, 1));
}

/// A choice knows of those before it in the same burst, and one that comes to
/// nothing is taken back, with the overload that it made.
#[test]
fn a_burst_keeps_to_the_upper_threshold() {
    for (room, opened) in [(1024, 3), (2, 2)] {
        let mut bench = Bench::new(1, room);
        let servers: Vec<_> = bench.snapshot.servers.iter().cloned().collect();
        let list = (0..).zip(&servers).zip([1, 0]).map(|((server, one), weight)| Candidate {
            server,
            address: one.address,
            weight,
            fresh: false,
            counts: Arc::clone(&one.counts),
        });
        let mut only = Service::clone(&service(Protocol::Tcp, VIP.into(), [1, 0]));
        only.candidates = Candidates::new(Scheduler::Rr, list.collect());
        bench.snapshot.services = Services::new([Arc::new(only)], Arc::default());
        bench.publish();
        let connections = &servers[0].counts.connections;
        connections.set_thresholds(3, 0);
        let mut buffers: Vec<_> = (0..40)
            .map(|port| {
                let mut buffer = vec![0; 128];
                buffer.extend(tcp4(5000 + port, if port < 2 { "SA" } else { "S" }));
                buffer
            })
            .collect();
        let mut frames: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| {
                let len = buffer.len() - 128;
                Frame::new(buffer, 128, len, len, 0)
            })
            .collect();
        // Established ones, which nothing may take the place of.
        let mut verdicts = [Verdict::Punt; 40];
        let (first, rest) = frames.split_at_mut(2);
        bench.director.process(NOON, Source::Port, first, &mut verdicts[..2]);
        bench.send(NOON, &tcp4(5000, "A"));
        bench.send(NOON, &tcp4(5001, "A"));
        bench.director.process(NOON, Source::Port, rest, &mut verdicts[2..]);
        let sent = verdicts.iter().filter(|v| matches!(v, Verdict::Send { .. })).count();
        assert_eq!((sent, connections.read().0 + connections.read().1), (opened, opened as u32));
        assert_eq!(connections.is_overloaded(), opened == 3, "with room for {room}");
    }
}

#[test]
fn counts_follow_the_life_of_a_connection() {
    let mut bench = Bench::new(1, 100);
    let mut life = Vec::new();
    for flags in ["S", "A", "FA", "A"] {
        bench.send(NOON, &tcp4(5000, flags));
        life.push(bench.connections(0));
    }
    assert_eq!(life, [(1, 0), (1, 0), (0, 1), (0, 1)]);
    let totals = bench.snapshot.server(0).unwrap().counts.totals();
    assert_eq!((totals.connections, totals.in_packets, totals.in_bytes), (1, 4, 160));
}

#[test]
fn connections_go_after_their_states_timeout() {
    for (packets, timeout) in
        [(&["S"][..], 60), (&["S", "A"], 900), (&["S", "A", "FA"], 120), (&["S", "A", "R"], 10)]
    {
        let mut bench = Bench::new(1, 100);
        for flags in packets {
            bench.send(NOON, &tcp4(5000, flags));
        }
        let now = bench.pass_time(NOON, timeout - 1);
        assert_eq!(bench.director.counters_mut().connections, 1, "{packets:?}");
        bench.pass_time(now, 3);
        assert_eq!(bench.director.counters_mut().connections, 0, "{packets:?}");
        assert_eq!(bench.connections(0), (0, 0), "{packets:?}");
        assert_eq!(bench.director.counters_mut().expired, 1);
    }
}

#[test]
fn udp_connections_live_from_packet_to_packet() {
    let mut bench = Bench::new(1, 100);
    assert_eq!(bench.server_of(NOON, &udp4(6000, 80)), 0);
    assert_eq!(bench.connections(0), (0, 1));
    let now = bench.pass_time(NOON, 299);
    assert_eq!(bench.server_of(now, &udp4(6000, 80)), 0);
    let now = bench.pass_time(now, 299);
    assert_eq!(bench.connections(0), (0, 1));
    bench.pass_time(now, 3);
    assert_eq!(bench.connections(0), (0, 0));
}

#[test]
fn timeouts_of_a_new_snapshot_hold_for_old_connections() {
    let mut bench = Bench::new(1, 100);
    bench.send(NOON, &udp4(6000, 80));
    let mut timeouts = Timeouts::default();
    timeouts.set(State::Udp, 1000);
    bench.snapshot.timeouts = timeouts;
    bench.publish();
    let now = bench.pass_time(NOON, 990);
    assert_eq!(bench.connections(0), (0, 1));
    bench.pass_time(now, 12);
    assert_eq!(bench.connections(0), (0, 0));
}

#[test]
fn shorter_timeouts_end_old_connections() {
    let mut bench = Bench::new(1, 10_000);
    for cport in 1..=3000 {
        bench.send(NOON, &udp4(cport, 80));
    }
    let mut timeouts = Timeouts::default();
    timeouts.set(State::Udp, 20);
    bench.snapshot.timeouts = timeouts;
    bench.publish();
    let now = bench.pass_time(NOON, 19);
    assert_eq!(bench.director.counters_mut().connections, 3000);
    bench.pass_time(now, 12);
    assert_eq!(bench.director.counters_mut().connections, 0);
}

#[test]
fn weight_0_drains() {
    let mut bench = Bench::new(1, 100);
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "S")), 0);
    bench.set_weights([0, 1]);
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "A")), 0);
    assert!((1..5).all(|i| bench.server_of(NOON, &tcp4(5000 + i, "S")) == 1));
    bench.set_weights([0, 0]);
    let (verdict, _) = bench.send(NOON, &tcp4(5999, "S"));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoServer));
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "A")), 0);
}

#[test]
fn a_deleted_servers_connections_wait_for_its_return() {
    let mut bench = Bench::new(1, 100);
    bench.send(NOON, &tcp4(5000, "S"));
    bench.change_server(0, |s| s.deleted = true);
    for flags in ["A", "S"] {
        let (verdict, _) = bench.send(NOON, &tcp4(5000, flags));
        assert_eq!(verdict, Verdict::Drop(DropReason::ServerDeleted));
    }
    bench.change_server(0, |s| s.deleted = false);
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "A")), 0);
}

#[test]
fn without_a_connection_only_a_syn_opens_one() {
    let mut bench = Bench::new(1, 100);
    for (flags, verdict) in [
        ("A", Verdict::Punt),
        ("FA", Verdict::Punt),
        ("", Verdict::Punt),
        ("R", Verdict::Drop(DropReason::TcpRstNoConnection)),
        ("SR", Verdict::Drop(DropReason::TcpRstNoConnection)),
        ("SA", Verdict::Send { port: 0 }),
        ("SF", Verdict::Send { port: 0 }),
    ] {
        let cport = 5000 + flags.len() as u16 * 100 + flags.bytes().map(u16::from).sum::<u16>();
        assert_eq!(bench.send(NOON, &tcp4(cport, flags)).0, verdict, "{flags:?}");
    }
}

#[test]
fn a_syn_on_a_closed_connection_is_scheduled_anew() {
    let mut bench = Bench::new(1, 100);
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "S")), 0);
    // In ESTABLISHED it stays where it is.
    bench.send(NOON, &tcp4(5000, "A"));
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "S")), 0);
    bench.send(NOON, &tcp4(5000, "R"));
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "S")), 1);
    assert_eq!((bench.connections(0), bench.connections(1)), ((0, 0), (1, 0)));
    // In FIN_WAIT it stays, too.
    bench.send(NOON, &tcp4(5000, "A"));
    bench.send(NOON, &tcp4(5000, "FA"));
    assert_eq!(bench.server_of(NOON, &tcp4(5000, "S")), 1);
}

const INIT: &[u8] = &[1];
const SCTP_DATA: &[u8] = &[0];
const ABORT: &[u8] = &[6];
const COOKIE_ECHO: &[u8] = &[10, 0];

#[test]
fn an_association_is_opened_by_init_and_lives_by_its_states() {
    let mut bench = Bench::new(1, 100);
    assert_eq!(bench.send(NOON, &sctp4(5000, SCTP_DATA)).0, Verdict::Punt);
    assert_eq!(bench.server_of(NOON, &sctp4(5000, INIT)), 0);
    assert_eq!(bench.connections(0), (0, 1), "INIT1");
    assert_eq!(bench.server_of(NOON, &sctp4(5000, COOKIE_ECHO)), 0);
    assert_eq!(bench.connections(0), (1, 0), "ESTABLISHED");
    // The cookie came with an ABORT.
    assert_eq!(bench.server_of(NOON, &sctp4(5000, &[11, 6])), 0);
    assert_eq!(bench.connections(0), (0, 1), "CLOSED");
}

#[test]
fn an_init_that_nobody_answers_is_forgotten_soon() {
    let mut bench = Bench::new(1, 100);
    bench.send(NOON, &sctp4(5000, INIT));
    let later = bench.pass_time(NOON, 3);
    assert_eq!(bench.connections(0), (0, 1));
    let later = bench.pass_time(later, 3);
    assert_eq!(bench.connections(0), (0, 0), "INIT1: 4 s");
    bench.send(later, &sctp4(5001, INIT));
    bench.send(later, &sctp4(5001, INIT));
    let later = bench.pass_time(later, 60);
    assert_eq!(bench.connections(1), (0, 1), "INIT: 61 s");
    bench.pass_time(later, 3);
    assert_eq!(bench.connections(1), (0, 0));
}

/// As a SYN in TIME_WAIT; other chunks are not taken for flags of TCP.
#[test]
fn an_init_on_a_closed_association_is_scheduled_anew() {
    let mut bench = Bench::new(1, 100);
    assert_eq!(bench.server_of(NOON, &sctp4(5000, INIT)), 0);
    assert_eq!(bench.server_of(NOON, &sctp4(5000, ABORT)), 0);
    for not_opening in [2, 3, 10, 11, 0x12] {
        assert_eq!(bench.server_of(NOON, &sctp4(5000, &[not_opening])), 0);
    }
    assert_eq!(bench.server_of(NOON, &sctp4(5000, INIT)), 1);
    assert_eq!((bench.connections(0), bench.connections(1)), ((0, 0), (0, 1)));
    // Not where nothing is reused.
    bench.server_of(NOON, &sctp4(5000, ABORT));
    bench.snapshot.settings.conn_reuse_mode = 0;
    bench.publish();
    assert_eq!(bench.server_of(NOON, &sctp4(5000, INIT)), 1);
}

#[test]
fn sloppy_sctp_takes_associations_up() {
    let mut bench = Bench::new(1, 100);
    bench.snapshot.settings.sloppy_sctp = true;
    bench.publish();
    assert_eq!(bench.server_of(NOON, &sctp4(5000, SCTP_DATA)), 0);
    assert_eq!(bench.connections(0), (1, 0));
}

#[test]
fn what_no_service_has_is_the_kernels() {
    let mut bench = Bench::new(1, 100);
    assert_eq!(bench.send(NOON, &udp4(6000, 81)).0, Verdict::Punt);
    let (verdict, bytes) = bench.send(NOON, &udp4(6000, 53));
    assert_eq!((verdict, bytes), (Verdict::Punt, udp4(6000, 53)));
}

#[test]
fn first_fragments_are_forwarded_by_their_ports_and_others_punted() {
    let mut bench = Bench::new(1, 100);
    let fragment = |vip: [u8; 4]| {
        let mut header =
            etherparse::Ipv4Header::new(16, 64, etherparse::IpNumber::UDP, CIP, vip).unwrap();
        header.more_fragments = true;
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
            .ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
            .write(
                &mut bytes,
                etherparse::IpNumber::UDP,
                &[0x13, 0x88, 0, 80, 0, 48, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],
            )
            .unwrap();
        bytes
    };
    assert_eq!(bench.server_of(NOON, &fragment(VIP)), 0);
    assert_eq!(bench.send(NOON, &fragment([192, 168, 1, 21])).0, Verdict::Punt);
}

#[test]
fn every_way_to_a_server_has_its_verdict() {
    let mut bench = Bench::new(1, 100);
    bench.set_weights([1, 0]);
    let small = PortHop { port: 0, dst_mac: SERVER_MAC[0], src_mac: PORT_MAC, mtu: 39, vlan: 0 };
    for (hop, verdict) in [
        (Hop::Unresolved, Verdict::Drop(DropReason::NoNextHop)),
        (Hop::NoRoute, Verdict::Drop(DropReason::NoRoute)),
        (Hop::Local, Verdict::Punt),
        (Hop::Port(small), Verdict::Drop(DropReason::TooBig)),
        (Hop::Port(PortHop { mtu: 40, ..small }), Verdict::Send { port: 0 }),
    ] {
        bench.change_server(0, |s| s.hop = hop);
        assert_eq!(bench.send(NOON, &tcp4(5000, "S")).0, verdict, "{hop:?}");
    }
}

#[test]
fn the_last_hop_is_not_forwarded() {
    let mut bench = Bench::new(1, 100);
    for ttl in [0, 1] {
        let mut packet = tcp4(5000, "S");
        packet[22] = ttl;
        packet[24..26].fill(0);
        let sum = !(crate::packet::checksum::add(0, &packet[14..34]) as u16);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        let (verdict, _) = bench.send(NOON, &packet);
        assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired));
    }
}

#[test]
fn a_full_table_refuses_new_connections_and_keeps_the_old() {
    let mut bench = Bench::new(1, 3);
    for i in 0..3 {
        bench.server_of(NOON, &tcp4(5000 + i, "S"));
        bench.server_of(NOON, &tcp4(5000 + i, "A"));
    }
    let (verdict, _) = bench.send(NOON, &tcp4(6000, "S"));
    assert_eq!(verdict, Verdict::Drop(DropReason::TableFull));
    assert!((0..3).all(|i| bench.send(NOON, &tcp4(5000 + i, "A")).0 != verdict));
}

#[test]
fn others_connections_are_handed_over_once() {
    let mut bench = Bench::new(2, 100);
    let shard = Shard::new(0x6d5a, 2, 128);
    let mut handed = 0;
    for cport in 5000..5050 {
        let addresses = Addresses::V4 {
            src: Ipv4Addr::from(CIP).to_bits(),
            dst: Ipv4Addr::from(VIP).to_bits(),
        };
        let owner = shard.owner(shard.hash(&addresses, cport, 80));
        let mut buffer = tcp4(cport, "S");
        let len = buffer.len();
        let mut frames = [Frame::new(&mut buffer, 0, len, len, 0)];
        let mut verdicts = [Verdict::Punt];
        bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
        if owner == 0 {
            assert_eq!(verdicts[0], Verdict::Send { port: 0 });
            continue;
        }
        handed += 1;
        assert_eq!(verdicts[0], Verdict::Handoff { worker: 1, handed: Handed::default() });
        // The receiver takes it as its own, whatever it would compute.
        bench.director.process(NOON, Source::Handoff, &mut frames, &mut verdicts);
        assert_eq!(verdicts[0], Verdict::Send { port: 0 });
    }
    assert!((10..40).contains(&handed), "{handed}");
}

#[test]
fn the_nics_hash_decides_ownership() {
    let mut bench = Bench::new(2, 100);
    let mut buffer = tcp4(5000, "S");
    let len = buffer.len();
    let mut frames = [Frame::new(&mut buffer, 0, len, len, 0)];
    let mut verdicts = [Verdict::Punt];
    for (hash, verdict) in [
        (3, Verdict::Handoff { worker: 1, handed: Handed::default() }),
        (2, Verdict::Send { port: 0 }),
    ] {
        frames[0].rss_hash = Some(hash);
        bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
        assert_eq!(verdicts[0], verdict);
    }
}

/// A NIC that does not look past options hashes only the addresses.
#[test]
fn the_nics_hash_does_not_count_behind_ip_options() {
    let mut bench = Bench::new(2, 100);
    for cport in 5000..5020 {
        let verdicts = [tcp4(cport, "S"), with_options(tcp4(cport, "A"))].map(|mut bytes| {
            let len = bytes.len();
            let plain = len == 54;
            let mut frames = [Frame::new(&mut bytes, 0, len, len, 0)];
            frames[0].rss_hash = (!plain).then_some(1);
            let mut verdicts = [Verdict::Punt];
            bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
            verdicts[0]
        });
        assert_eq!(verdicts[0], verdicts[1], "one owner for all packets of {cport}");
    }
}

/// The same packet with four bytes of no-operation options.
fn with_options(mut packet: Vec<u8>) -> Vec<u8> {
    packet.splice(34..34, [1; 4]);
    packet[14] = 0x46;
    packet[17] += 4;
    packet[24..26].fill(0);
    let sum = !(crate::packet::checksum::add(0, &packet[14..38]) as u16);
    packet[24..26].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn a_listing_is_complete_and_stays_within_its_room() {
    let mut bench = Bench::new(1, 5_000);
    for cport in 1..=3_000 {
        bench.send(NOON, &tcp4(cport, "S"));
    }
    let mut seen = std::collections::HashSet::new();
    let mut group = 0;
    loop {
        let rows = Vec::with_capacity(100);
        let capacity = rows.capacity();
        let dump = Dump::new(1, false, group, rows);
        bench.control.send(Update::Dump(Box::new(dump))).unwrap();
        let dump = loop {
            bench.director.housekeeping(NOON);
            if let Some(Reply::Dump(dump)) = bench.control.receive() {
                break dump;
            }
        };
        assert_eq!(dump.rows.capacity(), capacity, "the worker must not allocate");
        for row in &dump.rows {
            let ConnectionKey::V4(key) = row.key else { panic!("an IPv4 row") };
            assert!(seen.insert(key.tuple().src_port), "twice: {}", key.tuple().src_port);
            assert_eq!(row.state, State::SynRecv);
            assert_eq!(row.expiry, NOON.plus(60 * TICKS_PER_SECOND));
        }
        if dump.finished {
            break;
        }
        group = dump.group;
    }
    assert_eq!(seen.len(), 3_000);
}

/// What a listing finds from group 0 on, and how many loops it took.
fn listed(bench: &mut Bench, filter: Filter, count: bool, busy: bool) -> (Box<Dump>, usize) {
    let rows = Vec::with_capacity(if count { 15 } else { 4_000 });
    let dump = Dump { filter, count, ..Dump::new(1, false, 0, rows) };
    bench.control.send(Update::Dump(Box::new(dump))).unwrap();
    for loops in 1.. {
        bench.director.counters_mut().rx += u64::from(busy);
        bench.director.housekeeping(NOON);
        if let Some(Reply::Dump(dump)) = bench.control.receive() {
            return (dump, loops);
        }
    }
    unreachable!()
}

#[test]
fn a_listing_has_what_its_filter_lets_pass() {
    let mut bench = Bench::new(1, 5_000);
    for cport in 1..=3_000 {
        bench.send(NOON, &tcp4(cport, "S"));
    }
    for cport in 1..=10 {
        bench.send(NOON, &tcp4(cport, "A"));
    }
    let client = Side { network: None, port: Some(7) };
    let (dump, _) = listed(&mut bench, Filter { client, ..Filter::default() }, false, false);
    assert!(dump.finished && dump.found == 1, "{dump:?}");
    let ConnectionKey::V4(key) = dump.rows[0].key else { panic!("an IPv4 row") };
    assert_eq!(key.tuple().src_port, 7);
    let states = Some(Filter::bit_of(State::Established));
    let opened = Filter { states, ..Filter::default() };
    let (dump, _) = listed(&mut bench, opened.clone(), false, false);
    assert_eq!((dump.rows.len(), dump.found), (10, 10));
    assert!(dump.rows.iter().all(|row| row.state == State::Established));
    // A count needs no room for rows.
    let (dump, _) = listed(&mut bench, opened, true, false);
    assert_eq!((dump.rows.len(), dump.found, dump.finished), (0, 10, true));
    let (dump, _) = listed(&mut bench, Filter::default(), true, false);
    assert_eq!(dump.found, 3_000);
    let udp = Filter { protocol: Some(17), ..Filter::default() };
    assert_eq!(listed(&mut bench, udp, false, false).0.found, 0);
}

/// Packets come first: at full load one loop in 16 reads 256 entries at most.
#[test]
fn a_listing_takes_a_small_share_of_a_busy_worker() {
    let mut bench = Bench::new(1, 5_000);
    for cport in 1..=3_000 {
        bench.send(NOON, &tcp4(cport, "S"));
    }
    let (dump, idle) = listed(&mut bench, Filter::default(), true, false);
    assert!(dump.finished);
    let (dump, busy) = listed(&mut bench, Filter::default(), true, true);
    assert!(dump.finished && dump.found == 3_000, "{dump:?}");
    assert!(busy >= 16 * 3_000 / (256 + 15), "{busy} loops");
    assert!(busy > 16 * idle, "{busy} and {idle} loops");
}

/// While the table doubles entries move to groups further on, so a listing that
/// is under way misses none of the connections that were there all the time.
#[test]
fn a_listing_in_a_growing_table_misses_none() {
    let mut bench = Bench::new(1, 5_000);
    let mut ports = 1..=4_000;
    ports.by_ref().take(300).for_each(|cport| drop(bench.send(NOON, &tcp4(cport, "S"))));
    let first = bench.director.tables.v4.group_count();
    let (mut group, mut seen) = (0, std::collections::HashSet::new());
    loop {
        let dump = Dump::new(1, false, group, Vec::with_capacity(60));
        bench.control.send(Update::Dump(Box::new(dump))).unwrap();
        let dump = loop {
            bench.director.housekeeping(NOON);
            if let Some(Reply::Dump(dump)) = bench.control.receive() {
                break dump;
            }
        };
        for row in &dump.rows {
            let ConnectionKey::V4(key) = row.key else { panic!("an IPv4 row") };
            seen.insert(key.tuple().src_port);
        }
        if dump.finished {
            break;
        }
        group = dump.group;
        ports.by_ref().take(100).for_each(|cport| drop(bench.send(NOON, &tcp4(cport, "S"))));
    }
    assert!(bench.director.tables.v4.group_count() >= 2 * first, "the table did not grow");
    assert!((1..=300).all(|cport| seen.contains(&cport)), "{} seen", seen.len());
}

/// An idle worker makes some 1,800 rounds a second, and is given two seconds.
#[test]
fn a_listing_of_an_empty_table_is_answered_in_time() {
    let mut bench = Bench::new(1, 4_000_000);
    let (mut group, mut rounds) = (0, 0);
    loop {
        let dump = Dump::new(1, false, group, Vec::with_capacity(100));
        bench.control.send(Update::Dump(Box::new(dump))).unwrap();
        let mut waited = 0;
        let dump = loop {
            bench.director.housekeeping(NOON);
            waited += 1;
            assert!(waited < 500, "no answer");
            if let Some(Reply::Dump(dump)) = bench.control.receive() {
                break dump;
            }
        };
        assert!(dump.rows.is_empty());
        rounds += waited;
        if dump.finished {
            break;
        }
        assert!(dump.group > group, "no progress");
        group = dump.group;
    }
    assert!(rounds < 400, "{rounds} rounds");
}

#[test]
fn before_the_first_configuration_all_is_the_kernels() {
    let (_control, link) = channel();
    let config = DirectorConfig {
        worker: 0,
        shard: Arc::new(Shard::new(0x6d5a, 1, 128)),
        connections: 1,
        hash_key: HashKey::new([1, 2, 3]),
        punt_limits: PuntLimits::default(),
        icmp_limits: IcmpLimits::default(),
        templates: Arc::new(Templates::new(1, HashKey::new([1, 2, 3])).unwrap()),
        random: 0,
    };
    let mut director = Director::new(config, link).unwrap();
    let mut buffer = tcp4(5000, "S");
    let len = buffer.len();
    let mut frames = [Frame::new(&mut buffer, 0, len, len, 0)];
    let mut verdicts = [Verdict::Drop(DropReason::EthShort)];
    director.process(NOON, Source::Port, &mut frames, &mut verdicts);
    assert_eq!(verdicts[0], Verdict::Punt);
}

#[test]
fn a_punt_flood_is_limited_and_counted() {
    let mut bench = Bench::new(1, 100);
    let verdicts: Vec<_> = (0..10_000).map(|_| bench.send(NOON, &udp4(1, 9)).0).collect();
    let limited = Verdict::Drop(DropReason::PuntLimitedOther);
    let dropped = verdicts.iter().filter(|&&v| v == limited).count();
    assert_eq!(dropped, 7_499, "a quarter of a second's 10,000 and one pass");
    let counters = bench.director.counters_mut();
    assert_eq!(counters.dropped(DropReason::PuntLimitedOther), 7_499);
}

/// A flood of what clients can send, at services and at the host, leaves BGP
/// and BFD through.
#[test]
fn a_flood_leaves_routing_protocols_alone() {
    let mut bench = Bench::new(1, 100);
    for _ in 0..20_000 {
        bench.send(NOON, &tcp4(5000, "A"));
        bench.send(NOON, &udp4(1, 9));
    }
    assert!(matches!(bench.send(NOON, &tcp4(5000, "A")).0, Verdict::Drop(_)));
    let mut bgp = tcp4(5000, "A");
    for ports in [[0, 179, 200, 0], [200, 0, 0, 179]] {
        bgp[34..38].copy_from_slice(&ports);
        assert_eq!(bench.send(NOON, &bgp).0, Verdict::Punt, "{ports:?}");
    }
    assert_eq!(bench.send(NOON, &udp4(49_152, 3784)).0, Verdict::Punt);
}

proptest::proptest! {
    /// Whatever comes in a burst, nothing panics, and each frame gets a verdict
    /// with its drop counted.
    #[test]
    fn any_burst_is_survived(
        packets in proptest::collection::vec(
            (0usize..4, 0usize..70, proptest::collection::vec(proptest::num::u8::ANY, 0..90)),
            0..BURST,
        ),
    ) {
        let mut bench = Bench::new(2, 20);
        let mut buffers: Vec<Vec<u8>> = packets
            .into_iter()
            .map(|(base, keep, tail)| {
                let good =
                    [tcp4(keep as u16, "S"), tcp6(keep as u16), udp4(1, 80), tcp4(1, "A")];
                let mut bytes = good[base][..keep.min(good[base].len())].to_vec();
                bytes.extend(tail);
                bytes
            })
            .collect();
        let mut frames: Vec<_> = buffers
            .iter_mut()
            .map(|b| {
                let len = b.len();
                Frame::new(b, 0, len, len, 0)
            })
            .collect();
        let mut verdicts = vec![Verdict::Punt; frames.len()];
        bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
        let dropped = verdicts.iter().filter(|v| matches!(v, Verdict::Drop(_))).count() as u64;
        let counted: u64 = bench.director.counters_mut().drops.iter().sum();
        proptest::prop_assert_eq!(dropped, counted);
    }
}
