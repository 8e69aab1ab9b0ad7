//! A flood of SYNs from spoofed addresses into a small table, while real
//! connections transfer data.
//!
//! 10 million SYNs in a release build, 200,000 in a debug one:
//! `cargo test --release -p dataplane --no-default-features --test model flood`.

use std::net::{IpAddr, SocketAddr};

use dataplane::conn::State;
use dataplane::counters::{Counters, DropReason};
use dataplane::director::{BURST, Source, Verdict};
use dataplane::packet::{Frame, Protocol};
use dataplane::scheduler::{HashFlags, Scheduler};
use dataplane::service::Method;
use dataplane::time::Tick;

use crate::packet::{ACK, Packet, SYN, Seen, seal_ip4};
use crate::random::Random;
use crate::world::{PORT_MAC, ROUTER_MAC, Size, World, key, server_mac, socket};
use crate::{alone, alongside};

const SYNS: usize = if cfg!(debug_assertions) { 200_000 } else { 10_000_000 };
/// Connections that transfer data.
const REAL: usize = 1000;
/// Packets of each of them while the flood lasts.
const TRANSFERS: usize = if cfg!(debug_assertions) { 10 } else { 100 };
/// Entries of the table.
const LIMIT: usize = 4000;
const VIP: &str = "10.0.1.100:80";
const SERVERS: [&str; 3] = ["10.0.2.1:80", "10.0.2.2:80", "10.0.2.3:80"];
const START: Tick = Tick::from_secs(1000);
const HEADROOM: usize = 128;
const PAYLOAD: usize = 512;

/// A connection that transfers data: its next frame, from a template.
struct Real {
    frame: Vec<u8>,
    /// Where it goes.
    server: SocketAddr,
    received: usize,
}

struct Flood {
    world: World,
    now: Tick,
    method: Method,
    real: Vec<Real>,
    buffers: Vec<Vec<u8>>,
    /// SYNs by what became of them.
    forwarded: u64,
    refused: u64,
}

impl Flood {
    fn new(scheduler: Scheduler, method: Method) -> Self {
        let size = Size { workers: 1, connections: LIMIT, hints: 0, templates: 1 };
        let mut world = World::new(size, &[]);
        let service = key(Protocol::Tcp, VIP);
        world.add_service(service, scheduler, None, false);
        for server in SERVERS {
            world.add_server(&service, socket(server), method, 1);
        }
        world.publish(START);
        let buffers = vec![vec![0; HEADROOM + 1514 + 64]; BURST];
        let (forwarded, refused) = (0, 0);
        let mut flood =
            Self { world, now: START, method, real: vec![], buffers, forwarded, refused };
        flood.real = (0..REAL).map(|number| flood.connect(number)).collect();
        flood
    }

    /// The handshake of a real connection.
    fn connect(&mut self, number: usize) -> Real {
        let client = SocketAddr::from(([172, 16, 0, 1], 10_000 + number as u16));
        let vip = socket(VIP);
        let outcome = self.world.client_sends(self.now, 0, &Packet::tcp(client, vip, SYN));
        let to = Seen::read(outcome.sent());
        let server = SERVERS.map(socket).into_iter().find(|s| server_mac(s.ip()) == to.to);
        if self.method == Method::Nat {
            let answer = to.packet.answer(SYN | ACK);
            self.world.server_sends(self.now, 0, &answer).sent();
        }
        self.world.client_sends(self.now, 0, &Packet::tcp(client, vip, ACK)).sent();
        let data = Packet::tcp(client, vip, ACK).with_payload(vec![number as u8; PAYLOAD]);
        let frame = data.frame(ROUTER_MAC, PORT_MAC[0]);
        Real { frame, server: server.expect("one of the servers"), received: 0 }
    }

    /// SYNs of spoofed addresses, with a few data packets of real connections
    /// among them.
    fn run(&mut self, syns: usize, transfers: usize, random: &mut Random) {
        let bursts = syns.div_ceil(BURST);
        let data = REAL * transfers;
        let (mut sent_syns, mut sent_data) = (0, 0);
        let syn = Packet::tcp(socket("1.2.3.4:5"), socket(VIP), SYN).frame(ROUTER_MAC, PORT_MAC[0]);
        for burst in 0..bursts {
            let real = (data * (burst + 1)) / bursts - sent_data;
            let spoofed = (syns - sent_syns).min(BURST - real.min(BURST - 1));
            let mut which: Vec<Option<usize>> = vec![None; spoofed];
            which.extend((sent_data..sent_data + real).map(|n| Some(n % REAL)));
            sent_syns += spoofed;
            sent_data += real;
            for part in which.chunks(BURST) {
                self.burst(part, &syn, random);
            }
            // A million SYNs a second.
            if burst % 2000 == 0 {
                self.now = self.now.plus(1);
            }
            self.world.housekeeping(self.now);
        }
        // What did not fit beside the data.
        while sent_syns < syns {
            let part = vec![None; BURST.min(syns - sent_syns)];
            self.burst(&part, &syn, random);
            sent_syns += part.len();
        }
        assert_eq!((sent_syns, sent_data), (syns, data));
    }

    /// A burst of SYNs (`None`) and of data of real connections.
    fn burst(&mut self, which: &[Option<usize>], syn: &[u8], random: &mut Random) {
        let mut lengths = [0; BURST];
        for ((buffer, who), len) in self.buffers.iter_mut().zip(which).zip(&mut lengths) {
            let frame = who.map_or(syn, |number| &self.real[number].frame);
            *len = frame.len();
            let bytes = &mut buffer[HEADROOM..HEADROOM + *len];
            bytes.copy_from_slice(frame);
            if who.is_none() {
                let number = random.next().to_be_bytes();
                // 1.0.0.0 to 126.255.255.255; the TCP checksum is nobody's
                // business here.
                bytes[26] = number[0] % 126 + 1;
                bytes[27..30].copy_from_slice(&number[1..4]);
                bytes[34..36].copy_from_slice(&number[4..6]);
                seal_ip4(&mut bytes[14..34]);
            }
        }
        let mut frames: Vec<_> = self
            .buffers
            .iter_mut()
            .zip(&lengths[..which.len()])
            .map(|(buffer, &len)| Frame::new(buffer, HEADROOM, len, len, 0))
            .collect();
        let mut verdicts = [Verdict::Punt; BURST];
        let director = self.world.director(0);
        director.counters_mut().rx += which.len() as u64;
        director.process(self.now, Source::Port, &mut frames, &mut verdicts);
        let mut tx = 0;
        for ((who, verdict), frame) in which.iter().zip(verdicts).zip(&frames) {
            tx += u64::from(matches!(verdict, Verdict::Send { .. }));
            match (who, verdict) {
                (None, Verdict::Send { .. }) => self.forwarded += 1,
                (None, Verdict::Drop(DropReason::TableFull)) => self.refused += 1,
                (None, other) => panic!("a SYN: {other:?}"),
                (Some(number), verdict) => {
                    assert_eq!(verdict, Verdict::Send { port: 1 }, "data of connection {number}");
                    let real = &mut self.real[*number];
                    let bytes = frame.bytes();
                    assert_eq!(bytes[..6], server_mac(real.server.ip()), "to its server");
                    let payload = &bytes[bytes.len() - PAYLOAD..];
                    assert!(payload.iter().all(|&byte| byte == *number as u8));
                    real.received += payload.len();
                }
            }
        }
        let counters = director.counters_mut();
        counters.tx += tx;
        assert!(counters.balanced());
    }

    fn counters(&mut self) -> Counters {
        self.world.director(0).counters_mut().clone()
    }
}

/// The process's memory, bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

fn flood(scheduler: Scheduler, method: Method) {
    let _measuring = alone();
    let mut random = Random::new(3);
    let mut flood = Flood::new(scheduler, method);
    // Until the table is full: its pages are touched then.
    let warm_up = 4 * LIMIT;
    flood.run(warm_up, 1, &mut random);
    let before = resident();
    flood.run(SYNS, TRANSFERS, &mut random);
    let grown = resident().saturating_sub(before);
    // Eight bytes for each SYN would be more, also in a debug build.
    assert!(grown < 1 << 20, "{grown} bytes more");

    let sent = (TRANSFERS + 1) * PAYLOAD;
    assert!(flood.real.iter().all(|real| real.received == sent), "no byte is lost");
    let counters = flood.counters();
    let syns = (SYNS + warm_up) as u64;
    assert_eq!(flood.forwarded + flood.refused, syns);
    assert_eq!(counters.dropped(DropReason::TableFull), flood.refused);
    assert_eq!(counters.drops.iter().sum::<u64>(), flood.refused, "for no other reason");
    // Each SYN that was forwarded is in the table, or was, or had no place.
    let rows = flood.world.rows(flood.now, 0);
    let counters = Counters { connections: rows.len() as u64, ..counters };
    let gone = counters.recycled + counters.expired + counters.stateless;
    assert_eq!(flood.forwarded + REAL as u64, counters.connections + gone);
    assert!(counters.recycled > syns / 2, "{counters:?}");
    let entries = if method == Method::Nat { 2 } else { 1 };
    assert!(rows.len() * entries <= LIMIT, "{} connections", rows.len());
    assert!(rows.len() * entries > LIMIT * 9 / 10, "{} connections", rows.len());
    let real = rows.iter().filter(|row| row.state == State::Established).count();
    assert_eq!(real, REAL);
    assert_counted(&mut flood, rows.len());
    let stateless = matches!(scheduler, Scheduler::Mh(_));
    assert!(stateless || counters.stateless == 0);
}

/// The servers' counts are those of the connections that there are.
fn assert_counted(flood: &mut Flood, connections: usize) {
    let service = key(Protocol::Tcp, VIP);
    let counts = SERVERS.map(|server| {
        let counts = &flood.world.server(&service, socket(server)).counts;
        (counts.connections.read(), counts.totals())
    });
    let active: u32 = counts.iter().map(|((active, _), _)| active).sum();
    assert!(counts.iter().all(|((_, inactive), _)| *inactive == 0));
    assert_eq!(active as usize, connections);
    let packets: u64 = counts.iter().map(|(_, totals)| totals.in_packets).sum();
    let data = REAL * (TRANSFERS + 1 + 2);
    assert_eq!(packets, flood.forwarded + data as u64);
}

#[test]
fn flood_of_10_million_syns_or_200_thousand_in_debug_under_dr() {
    flood(Scheduler::Wlc, Method::Dr);
}

#[test]
fn flood_of_10_million_syns_or_200_thousand_in_debug_under_nat() {
    flood(Scheduler::Wlc, Method::Nat);
}

#[test]
fn flood_of_10_million_syns_or_200_thousand_in_debug_under_mh() {
    flood(Scheduler::Mh(HashFlags::default()), Method::Dr);
}

/// Where nothing is half-open there is no room to make: mh goes on without
/// entries, and each client keeps its server; others refuse.
#[test]
fn a_table_full_of_established_connections() {
    let _quiet = alongside();
    for scheduler in [Scheduler::Mh(HashFlags::default()), Scheduler::Wlc] {
        let size = Size { workers: 1, connections: 200, hints: 0, templates: 1 };
        let mut world = World::new(size, &[]);
        let service = key(Protocol::Tcp, VIP);
        world.add_service(service, scheduler, None, false);
        for server in SERVERS {
            world.add_server(&service, socket(server), Method::Dr, 1);
        }
        world.publish(START);
        let packet = |client: u32, flags| {
            let client = SocketAddr::new(IpAddr::from(client.to_be_bytes()), 7);
            Packet::tcp(client, socket(VIP), flags)
        };
        for client in 0..200 {
            let syn = packet(0x0b00_0000 + client, SYN);
            let first = world.client_sends(START, 0, &syn);
            let then = world.client_sends(START, 0, &packet(0x0b00_0000 + client, ACK));
            assert_eq!(first.sent()[..6], then.sent()[..6]);
        }
        let is_mh = matches!(scheduler, Scheduler::Mh(_));
        let (mut full, mut stateless) = (0, 0);
        for client in 0..500 {
            let outcome = world.client_sends(START, 0, &packet(0x0c00_0000 + client, SYN));
            if is_mh {
                let again = world.client_sends(START, 0, &packet(0x0c00_0000 + client, SYN));
                assert_eq!(outcome.sent()[..6], again.sent()[..6], "the same server");
                stateless += 2;
            } else {
                full += 1;
            }
        }
        let counters = world.director(0).counters_mut().clone();
        assert_eq!((counters.stateless, counters.recycled), (stateless, 0));
        assert_eq!(world.dropped(DropReason::TableFull), full);
        assert_eq!(world.rows(START, 0).len(), 200);
    }
}
