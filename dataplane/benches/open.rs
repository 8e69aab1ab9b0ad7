//! Time per connection that opens, from its SYN to the forwarded packet, and
//! that expires, in a table with a million others, by forwarding method and
//! scheduler. Thread CPU time, the harness's own cost (preparing the packets)
//! taken off.
//!
//! `cargo bench -p dataplane --no-default-features --bench open [-- WORD...]`:
//! only the rows whose names contain one of the words.

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
    ClientAddress, Encapsulation, Hop, Local, Method, PortHop, Server, ServerCounts, Service,
    ServiceKey, Services,
};
use dataplane::shard::Shard;
use dataplane::snapshot::{Port, Snapshot};
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::update::{ControlEnd, Update, channel};
use nix::time::{ClockId, clock_gettime};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const VIP: u32 = 0xc0a8_0164;
const LOCALS: u32 = 64;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const NOW: Tick = Tick::from_secs(1000);

/// As many buffers as a busy port has in flight, spaced as the pool does.
const BUFFERS: usize = 2048;
const SPACING: usize = 2368;
const LINE: usize = 64;
const HEADROOM: usize = 128;
const LEN: usize = 54;

/// Connections that stay, and those that come and go in a round.
const LIVE: usize = 1_000_000;
const CHURN: usize = 250_000;
const ROUNDS: usize = 9;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with('-')).collect();
    println!("ns/connection with {LIVE} live, harness taken off; in brackets the harness; medians");
    for (method_name, method) in [
        ("dr", Method::Dr),
        ("tun", Method::Tun(Encapsulation::Ipip)),
        ("nat", Method::Nat),
        ("fullnat", Method::Fullnat),
    ] {
        for scheduler in ["rr", "wrr", "lc", "wlc", "sed", "mh", "sh", "twos"] {
            for servers in [2, 1000] {
                let name = format!("{method_name}-{scheduler}-{servers}");
                let is_wanted = |word: &String| name.contains(word.as_str());
                if !words.is_empty() && !words.iter().any(is_wanted) {
                    continue;
                }
                let scheduler = Scheduler::from_name(scheduler).expect("a name");
                let row = Bench::new(method, scheduler, servers).measure();
                let Row { open, expire, harness, best } = row;
                let sum = open + expire;
                println!(
                    "{name:<18} {sum:6.1} = open {open:6.1} + expire {expire:5.1} ({harness:.1}), least {best:.1}"
                );
            }
        }
    }
    for (name, method) in
        [("flood-dr", Method::Dr), ("flood-nat", Method::Nat), ("flood-fullnat", Method::Fullnat)]
    {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            let flood = Bench::new(method, Scheduler::Rr, 2).measure_flood();
            println!("{name:<18} {flood:6.1} a SYN into a full table of half-open connections");
        }
    }
}

#[derive(Clone, Copy)]
struct Row {
    open: f64,
    expire: f64,
    harness: f64,
    best: f64,
}

struct Bench {
    director: Director,
    /// Kept, as a worker stops without it.
    _control: ControlEnd,
    memory: Vec<u8>,
    next: usize,
    now: Tick,
    /// Client address and port, in random order.
    flows: Vec<(u32, u16)>,
}

impl Bench {
    fn new(method: Method, scheduler: Scheduler, servers: u32) -> Self {
        let (mut control, link) = channel();
        let connections = (LIVE + CHURN) * if method.is_two_sided() { 2 } else { 1 };
        let config = DirectorConfig {
            worker: 0,
            shard: Arc::new(Shard::new(0x6d5a, 1, 128)),
            connections,
            hash_key: HashKey::random(),
            punt_limits: PuntLimits::default(),
            icmp_limits: IcmpLimits::default(),
            templates: Arc::new(Templates::new(1, HashKey::random()).expect("memory")),
            random: 0,
        };
        let mut director = Director::new(config, link).expect("memory for the tables");
        let snapshot = snapshot(method, scheduler, servers);
        assert!(control.send(Update::Snapshot(Arc::new(snapshot))).is_ok());
        director.housekeeping(NOW);
        let mut random = 1u64;
        let mut list: Vec<_> = (0..(LIVE + CHURN) as u32)
            .map(|i| (0x0a00_0000 | (i / 50_000), 1024 + (i % 50_000) as u16))
            .collect();
        for i in (1..list.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            list.swap(i, (random >> 33) as usize % (i + 1));
        }
        let memory = vec![0; BUFFERS * SPACING + LINE];
        Self { director, _control: control, memory, next: 0, now: NOW, flows: list }
    }

    fn measure(&mut self) -> Row {
        for flags in [SYN, ACK] {
            self.run(flags, 0, LIVE, true);
        }
        // The first round makes the pages of what it needs.
        let mut rows: Vec<Row> = (0..=ROUNDS).map(|_| self.round()).collect();
        rows.remove(0);
        rows.sort_by(|a, b| (a.open + a.expire).total_cmp(&(b.open + b.expire)));
        Row { best: rows[0].open + rows[0].expire, ..rows[ROUNDS / 2] }
    }

    fn round(&mut self) -> Row {
        let harness = self.run(SYN, LIVE, CHURN, false);
        let open = self.run(SYN, LIVE, CHURN, true) - harness;
        // A few may have found no room near their home.
        let live = self.director.counters_mut().connections;
        assert!(live > (LIVE + CHURN - 100) as u64, "{live} connections");
        // Past the time of half-open connections, within that of those that
        // stay.
        self.now = self.now.plus(70 * TICKS_PER_SECOND);
        let start = thread_time();
        let mut loops = 0;
        while self.director.counters_mut().connections > LIVE as u64 {
            self.director.housekeeping(self.now);
            loops += 1;
            if loops % 2000 == 0 {
                self.now = self.now.plus(1);
            }
        }
        let expire = (thread_time() - start) * 1e9 / CHURN as f64;
        // The sweep comes to rest.
        for _ in 0..2000 {
            self.director.housekeeping(self.now);
        }
        Row { open, expire, harness, best: 0.0 }
    }

    /// Opens more connections than there is room for.
    fn measure_flood(&mut self) -> f64 {
        self.run(SYN, 0, LIVE + CHURN, true);
        // Others than those in the table.
        for flow in &mut self.flows {
            flow.0 |= 0x0080_0000;
        }
        let mut rounds: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                self.now = self.now.plus(1);
                let from = (self.now.0 as usize * CHURN) % LIVE;
                let harness = self.run(SYN, from, CHURN, false);
                self.run(SYN, from, CHURN, true) - harness
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        rounds[ROUNDS / 2]
    }

    /// ns/packet, a packet for each of the flows; without `process` the
    /// harness's own.
    fn run(&mut self, flags: u8, from: usize, packets: usize, process: bool) -> f64 {
        let Self { director, memory, next, flows, now, .. } = self;
        let align = memory.as_ptr().align_offset(LINE);
        let mut verdicts = [Verdict::Punt; BURST];
        let start = thread_time();
        for flows in flows[from..from + packets].chunks(BURST) {
            let count = flows.len();
            let base = align + *next * SPACING;
            *next = (*next + BURST) % BUFFERS;
            let mut frames: arrayvec::ArrayVec<Frame<'_>, BURST> = memory[base..]
                .chunks_exact_mut(SPACING)
                .zip(flows)
                .map(|(buffer, &flow)| {
                    prepare(&mut buffer[HEADROOM..HEADROOM + LEN], flow, flags);
                    Frame::new(buffer, HEADROOM, LEN, LEN, 0)
                })
                .collect();
            if process {
                director.process(*now, Source::Port, &mut frames, &mut verdicts);
                let sent = verdicts[..count].iter().all(|v| matches!(v, Verdict::Send { .. }));
                assert!(sent, "every packet is forwarded");
                director.housekeeping(*now);
            }
            std::hint::black_box(&mut frames);
        }
        (thread_time() - start) * 1e9 / packets as f64
    }
}

fn snapshot(method: Method, scheduler: Scheduler, servers: u32) -> Snapshot {
    let key =
        ServiceKey::Address { protocol: Protocol::Tcp, vip: IpAddr::V4(VIP.into()), vport: 80 };
    let hop = PortHop { port: 0, dst_mac: [2, 0, 0, 0, 0, 2], src_mac: MAC, mtu: 1500, vlan: 0 };
    let servers: Vec<Server> = (0..servers)
        .map(|i| Server {
            address: SocketAddr::from((std::net::Ipv4Addr::from(0xc0a9_0000 + i), 80)),
            hop: Hop::Port(hop),
            method,
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
    let locals: Vec<Local> = (0..LOCALS)
        .map(|i| Local { number: i as u16, address: IpAddr::V4((0xc0a9_ff00 + i).into()) })
        .collect();
    let candidates = Candidates::new(scheduler, list.collect());
    let mut port = Port::new(MAC, 1500);
    port.address4 = Some(0xc0a9_fe01);
    Snapshot {
        epoch: 1,
        locals: locals.iter().map(|local| local.address).collect(),
        services: Services::new(
            [Arc::new(Service {
                key,
                scheduler,
                state: Arc::new(scheduler::State::new(scheduler)),
                candidates,
                number: 0,
                persistence: None,
                one_packet: false,
                locals: locals.into(),
            })],
            Arc::default(),
        ),
        servers: servers.into_iter().map(|server| Some(Arc::new(server))).collect(),
        ports: vec![port],
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

fn thread_time() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of Linux");
    now.tv_sec() as f64 + now.tv_nsec() as f64 / 1e9
}
