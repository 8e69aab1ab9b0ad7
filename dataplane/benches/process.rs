//! Time per packet of `Director::process`, with housekeeping once a burst as
//! the worker does it: direct routing of established connections in random
//! order, and connections that open. Thread CPU time, the harness's own cost
//! (preparing the packets) measured beside it and taken off.
//!
//! `cargo bench -p dataplane --no-default-features --bench process`

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::director::{BURST, Director, DirectorConfig, Source, Verdict};
use dataplane::icmp::IcmpLimits;
use dataplane::packet::{Frame, Protocol, checksum};
use dataplane::punt::PuntLimits;
use dataplane::scheduler::{self, Candidate, Candidates, Scheduler};
use dataplane::service::{
    ClientAddress, Hop, Method, PortHop, Server, ServerCounts, Service, ServiceKey, Services,
};
use dataplane::shard::Shard;
use dataplane::snapshot::{Port, Snapshot};
use dataplane::time::Tick;
use dataplane::update::{Update, channel};
use nix::time::{ClockId, clock_gettime};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const VIP: u32 = 0xc0a8_0164;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const NOW: Tick = Tick::from_secs(1000);

/// As many buffers as a busy port has in flight, spaced as the pool does.
const BUFFERS: usize = 2048;
const SPACING: usize = 2368;
const LINE: usize = 64;
const HEADROOM: usize = 128;
const LEN: usize = 54;

/// Packets of a measured round, and rounds; the median counts.
const PACKETS: usize = 4_000_000;
const ROUNDS: usize = 5;

fn main() {
    println!("ns/packet, harness taken off; in brackets the harness");
    for servers in [2, 1000] {
        for flows in [1_000, 64_000, 1_000_000] {
            let mut bench = Bench::new(flows, servers);
            bench.open_all();
            let (net, harness) = bench.measure_hits();
            println!("DR  hit   {flows:>9} flows {servers:>4} servers {net:6.1} ({harness:.1})");
        }
    }
    let mut bench = Bench::new(1_000_000, 2);
    let (net, harness) = bench.measure_new();
    println!("DR  open  {:>9} flows {:>4} servers {net:6.1} ({harness:.1})", 1_000_000, 2);
}

struct Bench {
    director: Director,
    memory: Vec<u8>,
    next: usize,
    /// Client address and port, in random order.
    flows: Vec<(u32, u16)>,
}

impl Bench {
    fn new(flows: usize, servers: u32) -> Self {
        let (mut control, link) = channel();
        let config = DirectorConfig {
            worker: 0,
            shard: Arc::new(Shard::new(0x6d5a, 1, 128)),
            connections: flows.max(1024),
            hash_key: HashKey::random(),
            punt_limits: PuntLimits::default(),
            icmp_limits: IcmpLimits::default(),
            templates: Arc::new(Templates::new(1, HashKey::random()).expect("memory")),
            random: 0,
        };
        let mut director = Director::new(config, link).expect("memory for the tables");
        assert!(control.send(Update::Snapshot(Arc::new(snapshot(servers)))).is_ok());
        director.housekeeping(NOW);
        let mut random = 1u64;
        let mut list: Vec<_> = (0..flows as u32)
            .map(|i| (0x0a00_0000 | (i / 50_000), 1024 + (i % 50_000) as u16))
            .collect();
        for i in (1..list.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            list.swap(i, (random >> 33) as usize % (i + 1));
        }
        Self { director, memory: vec![0; BUFFERS * SPACING + LINE], next: 0, flows: list }
    }

    fn open_all(&mut self) {
        for flags in [SYN, ACK] {
            self.run(NOW, flags, self.flows.len(), true);
        }
    }

    fn measure_hits(&mut self) -> (f64, f64) {
        median(|| {
            let harness = self.run(NOW, ACK, PACKETS, false);
            (self.run(NOW, ACK, PACKETS, true) - harness, harness)
        })
    }

    /// Opens every flow, in a table whose pages are there from a first round.
    fn measure_new(&mut self) -> (f64, f64) {
        let flows = self.flows.len();
        let mut now = NOW;
        self.run(now, SYN, flows, true);
        median(|| {
            now = self.age(now);
            let harness = self.run(now, SYN, flows, false);
            (self.run(now, SYN, flows, true) - harness, harness)
        })
    }

    /// Lets all connections expire.
    fn age(&mut self, mut now: Tick) -> Tick {
        while self.director.counters_mut().connections > 0 {
            now = now.plus(1);
            for _ in 0..64 {
                self.director.housekeeping(now);
            }
        }
        now
    }

    /// ns/packet of so many packets, one a flow in turn; without `process` the
    /// harness's own.
    fn run(&mut self, now: Tick, flags: u8, packets: usize, process: bool) -> f64 {
        let Self { director, memory, next, flows } = self;
        let align = memory.as_ptr().align_offset(LINE);
        let mut verdicts = [Verdict::Punt; BURST];
        let mut flow = 0;
        let start = thread_time();
        let mut done = 0;
        while done < packets {
            let count = BURST.min(packets - done);
            let base = align + *next * SPACING;
            *next = (*next + BURST) % BUFFERS;
            let mut frames: arrayvec::ArrayVec<Frame<'_>, BURST> = memory[base..]
                .chunks_exact_mut(SPACING)
                .take(count)
                .map(|buffer| {
                    prepare(&mut buffer[HEADROOM..HEADROOM + LEN], flows[flow], flags);
                    flow = if flow + 1 == flows.len() { 0 } else { flow + 1 };
                    Frame::new(buffer, HEADROOM, LEN, LEN, 0)
                })
                .collect();
            if process {
                director.process(now, Source::Port, &mut frames, &mut verdicts);
                let sent = verdicts[..count].iter().all(|v| matches!(v, Verdict::Send { .. }));
                assert!(sent, "every packet is forwarded");
                director.housekeeping(now);
            }
            std::hint::black_box(&mut frames);
            done += count;
        }
        (thread_time() - start) * 1e9 / packets as f64
    }
}

fn snapshot(servers: u32) -> Snapshot {
    let key =
        ServiceKey::Address { protocol: Protocol::Tcp, vip: IpAddr::V4(VIP.into()), vport: 80 };
    let hop = PortHop { port: 0, dst_mac: [2, 0, 0, 0, 0, 2], src_mac: MAC, mtu: 1500, vlan: 0 };
    let servers: Vec<Server> = (0..servers)
        .map(|i| Server {
            address: SocketAddr::from((std::net::Ipv4Addr::from(0xc0a9_0000 + i), 80)),
            hop: Hop::Port(hop),
            method: Method::Dr,
            weight: 1,
            deleted: false,
            client_address: ClientAddress::None,
            mss: None,
            counts: Arc::new(ServerCounts::new(1)),
        })
        .collect();
    let list = (0..).zip(&servers).map(|(number, server)| Candidate {
        server: number,
        address: server.address,
        weight: 1,
        fresh: false,
        counts: Arc::clone(&server.counts),
    });
    Snapshot {
        epoch: 1,
        services: Services::new(
            [Arc::new(Service {
                key,
                scheduler: Scheduler::Rr,
                state: Arc::new(scheduler::State::new(Scheduler::Rr)),
                candidates: Candidates::new(Scheduler::Rr, list.collect()),
                number: 0,
                persistence: None,
                one_packet: false,
                locals: Arc::default(),
            })],
            Arc::default(),
        ),
        servers: servers.into_iter().map(|server| Some(Arc::new(server))).collect(),
        ports: vec![Port::new(MAC, 1500)],
        ..Default::default()
    }
}

/// A packet from a client to the service, as it would arrive.
fn prepare(bytes: &mut [u8], (address, port): (u32, u16), flags: u8) {
    let mut template = [0; LEN];
    template[..6].copy_from_slice(&MAC);
    template[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 3]);
    template[12] = 8;
    template[14..18].copy_from_slice(&[0x45, 0, 0, 40]);
    template[22..24].copy_from_slice(&[64, 6]);
    template[26..30].copy_from_slice(&address.to_be_bytes());
    template[30..34].copy_from_slice(&VIP.to_be_bytes());
    template[34..36].copy_from_slice(&port.to_be_bytes());
    template[36..38].copy_from_slice(&80u16.to_be_bytes());
    template[46] = 0x50;
    template[47] = flags;
    let sum = !checksum::fold(
        0x4500
            + 40
            + 0x4006
            + u64::from(address >> 16)
            + u64::from(address & 0xffff)
            + u64::from(VIP >> 16)
            + u64::from(VIP & 0xffff),
    );
    template[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes.copy_from_slice(&template);
}

fn median(mut round: impl FnMut() -> (f64, f64)) -> (f64, f64) {
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| round()).collect();
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    rounds[ROUNDS / 2]
}

fn thread_time() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of Linux");
    now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9
}
