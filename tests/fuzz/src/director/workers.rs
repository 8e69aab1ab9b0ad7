//! Directors driven as `dpdk::worker` drives them, and what is checked of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::counters::DropReason;
use dataplane::director::{BURST, Director, DirectorConfig, Handed, Reading, Source, Verdict};
use dataplane::icmp::IcmpLimits;
use dataplane::observe::{Filter, MAX_RATE, Observed, Watch, Wish, observer};
use dataplane::outbox::To;
use dataplane::packet::Frame;
use dataplane::punt::PuntLimits;
use dataplane::service::{Encapsulation, GueChecksum, Hop, Method, Server};
use dataplane::shard::Shard;
use dataplane::snapshot::{Settings, Snapshot};
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::update::{ControlEnd, Dump, Reply, Update, channel};

use super::is_two_sided;
use super::world::{self, MACS, MTUS, World};
use crate::packets::{self, ETHERNET, GUE_PORT};

/// Frames of each direction that a program can come back to.
const REMEMBERED: usize = 16;
/// Times that a packet may change workers: fragments go to the owner of their
/// addresses, then to that of their ports; replies of NAT to each candidate.
const HANDOVERS: u8 = 8;
/// In front of a frame in its buffer, as in an mbuf.
const HEADROOM: usize = 128;
const TAILROOM: usize = 256;
const HASH_KEY: HashKey = HashKey::new([1, 2, 3]);

/// A frame that comes in.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    pub(super) port: u8,
    pub(super) bytes: Vec<u8>,
    pub(super) total_len: usize,
    pub(super) headroom: usize,
    /// Whether its checksums are right, and its form is one that hosts send.
    pub(super) good: bool,
    handed: Handed,
    read: Reading,
    handovers: u8,
}

impl Arrival {
    pub(super) fn new(port: u8, bytes: Vec<u8>, good: bool) -> Self {
        let total_len = bytes.len();
        let (handed, read) = (Handed::default(), Reading::default());
        Self { port, bytes, total_len, headroom: HEADROOM, good, handed, read, handovers: 0 }
    }
}

struct Worker {
    director: Director,
    control: ControlEnd,
    handed: VecDeque<Arrival>,
}

pub(super) struct Workers {
    workers: Vec<Worker>,
    snapshot: Snapshot,
    entries: usize,
    now: Tick,
    sent: VecDeque<(u8, Vec<u8>)>,
    received: VecDeque<Arrival>,
    /// What is noted of all packets.
    observed: Vec<Observed>,
}

impl Workers {
    pub(super) fn new(world: World) -> Self {
        let World { snapshot, workers: count, entries, observed } = world;
        let shard = Shard::new(0x6d5a | 1, count, 128).with_hints(entries, HASH_KEY);
        let shard = Arc::new(shard.expect("memory"));
        let templates = Arc::new(Templates::new(16, HASH_KEY).expect("memory"));
        let worker = |worker| {
            let (control, link) = channel();
            let config = DirectorConfig {
                worker,
                shard: Arc::clone(&shard),
                connections: entries,
                hash_key: HASH_KEY,
                punt_limits: PuntLimits { neighbour: 8, routing: 8, tcp: 8, other: 8 },
                icmp_limits: IcmpLimits::default(),
                templates: Arc::clone(&templates),
                random: 0xffff_fff0,
            };
            let director = Director::new(config, link).expect("memory");
            Worker { director, control, handed: VecDeque::new() }
        };
        let mut this = Self {
            workers: (0..count).map(worker).collect(),
            snapshot,
            entries,
            now: Tick::from_secs(1000),
            sent: VecDeque::new(),
            received: VecDeque::new(),
            observed: Vec::new(),
        };
        this.publish();
        if observed {
            this.observe();
        }
        this
    }

    fn observe(&mut self) {
        let watch = Watch::new(u64::MAX, Tick(u32::MAX));
        let wish = Wish { filter: Filter::default(), snaplen: 64, rate: MAX_RATE };
        for worker in &mut self.workers {
            let (observer, observed) = observer(&watch, &wish);
            assert!(worker.control.send(Update::Observe(Box::new(observer))).is_ok());
            self.observed.push(observed);
        }
        self.keep_house();
    }

    /// Takes what was noted of packets: each record has its bytes.
    fn take_records(&mut self) {
        for observed in &mut self.observed {
            while let Some((record, bytes)) = observed.next(Instant::now()) {
                assert_eq!(bytes.len(), record.bytes());
                assert!(usize::from(record.came.kept) <= 64.min(record.came.whole as usize));
            }
        }
    }

    pub(super) fn mac(&self, port: u8) -> [u8; 6] {
        MACS[usize::from(port)]
    }

    /// A frame that was sent, and its port; the last is number 0.
    pub(super) fn sent(&self, index: usize) -> Option<&(u8, Vec<u8>)> {
        self.sent.get(index % self.sent.len().max(1))
    }

    /// A frame that came in.
    pub(super) fn received(&self, index: usize) -> Option<&Arrival> {
        self.received.get(index % self.received.len().max(1))
    }

    /// Has a worker's receive queues deliver these, and every worker finish.
    pub(super) fn receive(&mut self, worker: usize, arrivals: &mut Vec<Arrival>) {
        let worker = worker % self.workers.len();
        for arrival in arrivals.iter() {
            remember(&mut self.received, arrival.clone());
        }
        for port in 0..MACS.len() as u8 {
            let burst: Vec<_> = arrivals.iter().filter(|a| a.port == port).cloned().collect();
            for burst in burst.chunks(BURST) {
                let own = self.share_out(worker, burst);
                self.process(worker, Source::Port, &own);
            }
        }
        arrivals.clear();
        while let Some(worker) = self.workers.iter().position(|w| !w.handed.is_empty()) {
            // Packets of one port, as the worker takes them from the ring.
            let handed = &mut self.workers[worker].handed;
            let port = handed[0].port;
            let same = handed.iter().take_while(|a| a.port == port).count().min(BURST);
            let burst: Vec<_> = handed.drain(..same).collect();
            self.process(worker, Source::Handoff, &burst);
        }
        self.take_records();
    }

    /// Hands over what is others', and gives what is left: where the first
    /// packet's length is odd, and nobody observes. Else the stages do it.
    fn share_out(&mut self, worker: usize, burst: &[Arrival]) -> Vec<Arrival> {
        self.workers[worker].director.counters_mut().rx += burst.len() as u64;
        let mut own = Vec::new();
        for arrival in burst {
            let mut arrival = Arrival { read: Reading::default(), ..arrival.clone() };
            arrival.handed = Handed::default();
            let director = &self.workers[worker].director;
            let sorts = burst[0].total_len % 2 == 1;
            let mut to = worker;
            if let Some(sharing) = director.sharing(arrival.port).filter(|_| sorts) {
                let mut bytes = buffer(&arrival);
                let (len, total_len) = (arrival.bytes.len(), arrival.total_len);
                let frame = Frame::new(&mut bytes, arrival.headroom, len, total_len, arrival.port);
                let (owner, read) = sharing.owner(&frame);
                (to, arrival.read) = (owner.into(), read);
            }
            if to == worker {
                own.push(arrival);
            } else {
                self.workers[worker].director.counters_mut().handed_off += 1;
                self.hand_over(worker, to as u8, arrival);
            }
        }
        own
    }

    fn process(&mut self, worker: usize, source: Source, burst: &[Arrival]) {
        if burst.is_empty() {
            return;
        }
        if source == Source::Handoff {
            let counters = self.workers[worker].director.counters_mut();
            counters.taken_over += burst.len() as u64;
        }
        let mut buffers: Vec<Vec<u8>> = burst.iter().map(buffer).collect();
        let mut frames: Vec<Frame<'_>> = burst
            .iter()
            .zip(&mut buffers)
            .map(|(arrival, buffer)| {
                let Arrival { headroom, bytes, total_len, port, handed, read, .. } = arrival;
                let mut frame = Frame::new(buffer, *headroom, bytes.len(), *total_len, *port);
                (frame.handed, frame.read) = (*handed, *read);
                frame
            })
            .collect();
        let mut verdicts = [Verdict::Punt; BURST];
        let director = &mut self.workers[worker].director;
        director.process(self.now, source, &mut frames, &mut verdicts);
        let results: Vec<_> = frames
            .iter()
            .map(|frame| (frame.bytes().to_vec(), frame.total_len(), frame.read))
            .collect();
        for ((arrival, (bytes, len, read)), verdict) in burst.iter().zip(results).zip(verdicts) {
            let arrival = Arrival { read, ..arrival.clone() };
            self.carry_out(worker, &arrival, bytes, len, verdict);
        }
        let good = burst.iter().all(|arrival| arrival.good);
        let handovers = burst.iter().map(|arrival| arrival.handovers).max().unwrap_or(0);
        self.send_own(worker, good, handovers);
        self.check_counters(worker);
    }

    fn carry_out(
        &mut self,
        worker: usize,
        arrival: &Arrival,
        bytes: Vec<u8>,
        total_len: usize,
        verdict: Verdict,
    ) {
        let counters = self.workers[worker].director.counters_mut();
        match verdict {
            Verdict::Send { port } => {
                counters.tx += 1;
                self.check_sent(port, &bytes, total_len, arrival.good);
                remember(&mut self.sent, (port, bytes));
            }
            Verdict::Punt => counters.punted += 1,
            Verdict::Handoff { worker: to, handed } => {
                counters.handed_off += 1;
                let arrival = Arrival { bytes, total_len, handed, ..arrival.clone() };
                self.hand_over(worker, to, arrival);
            }
            Verdict::Absorbed | Verdict::Drop(_) => {}
        }
    }

    fn hand_over(&mut self, from: usize, to: u8, mut arrival: Arrival) {
        assert_ne!(from, usize::from(to), "handed to itself");
        arrival.handovers += 1;
        assert!(arrival.handovers <= HANDOVERS, "handed over for ever");
        self.workers[usize::from(to)].handed.push_back(arrival);
    }

    /// What the director made itself.
    fn send_own(&mut self, worker: usize, good: bool, handovers: u8) {
        let own: Vec<_> = {
            let outbox = self.workers[worker].director.outbox();
            let own = outbox.frames().map(|(to, bytes)| (to, bytes.to_vec())).collect();
            outbox.clear();
            own
        };
        for (to, bytes) in own {
            let counters = self.workers[worker].director.counters_mut();
            match to {
                To::Port(port) => {
                    counters.tx += 1;
                    self.check_sent(port, &bytes, bytes.len(), good);
                    remember(&mut self.sent, (port, bytes));
                }
                To::Kernel(_) => counters.punted += 1,
                To::Worker { worker: to, port, handed } => {
                    counters.handed_off += 1;
                    let new = Arrival::new(port, bytes, false);
                    self.hand_over(worker, to, Arrival { handed, handovers, ..new });
                }
            }
        }
    }

    fn check_sent(&self, port: u8, bytes: &[u8], total_len: usize, good: bool) {
        let mac = MACS.get(usize::from(port)).expect("a port that exists");
        assert_eq!(bytes[6..12], mac[..], "the port's address");
        let ip = &bytes[ETHERNET..];
        let len = match bytes[12..14] {
            [0x08, 0] => {
                let (header, _) = ip.split_at(usize::from(ip[0] & 0xf) * 4);
                assert!(packets::header_is_good(header), "IPv4 header checksum: {bytes:02x?}");
                usize::from(u16::from_be_bytes([ip[2], ip[3]]))
            }
            [0x86, 0xdd] => 40 + usize::from(u16::from_be_bytes([ip[4], ip[5]])),
            ref other => panic!("ethertype {other:02x?}"),
        };
        assert!(ETHERNET + len <= total_len, "{len} bytes of IP in {total_len}: {bytes:02x?}");
        assert!(len <= MTUS[usize::from(port)].into(), "{len} bytes by port {port}");
        assert!(!good || packets::is_good(bytes), "layer 4 checksum: {bytes:02x?}");
    }

    fn check_counters(&mut self, worker: usize) {
        let counters = self.workers[worker].director.counters_mut();
        assert!(counters.balanced(), "{counters:?}");
    }

    /// Lets ticks pass, and after them as much of a second as a sweep of the
    /// tables takes.
    pub(super) fn pass_time(&mut self, ticks: u32) {
        self.now = self.now.plus(ticks);
        for _ in 0..=TICKS_PER_SECOND {
            self.now = self.now.plus(1);
            self.keep_house();
        }
    }

    fn keep_house(&mut self) {
        for worker in 0..self.workers.len() {
            self.workers[worker].director.housekeeping(self.now);
            self.check_counters(worker);
            while self.workers[worker].control.missing().is_some() {}
        }
        self.check_connections();
    }

    /// The servers count what the tables hold, together.
    fn check_connections(&self) {
        let published = self.workers.iter().map(|worker| {
            let connections = worker.control.shared().counters.read().connections;
            assert!(connections <= 2 * self.entries as u64, "{connections} connections");
            connections
        });
        let counted = self.servers().map(|server| {
            let (active, inactive) = server.counts.connections.read();
            u64::from(active) + u64::from(inactive)
        });
        assert_eq!(counted.sum::<u64>(), published.sum::<u64>(), "connections of servers, tables");
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        self.snapshot.servers.iter().map(|server| &**server)
    }

    fn publish(&mut self) {
        self.snapshot.epoch += 1;
        let snapshot = Arc::new(self.snapshot.clone());
        for worker in &mut self.workers {
            let sent = worker.control.send(Update::Snapshot(Arc::clone(&snapshot)));
            assert!(sent.is_ok(), "the last one was answered");
        }
        self.keep_house();
        for worker in &mut self.workers {
            assert!(matches!(worker.control.receive(), Some(Reply::Retired(_))), "answered");
        }
    }

    pub(super) fn set(&mut self, settings: Settings) {
        self.snapshot.settings = settings;
        self.publish();
    }

    pub(super) fn edit_server(&mut self, number: usize, what: u8, value: u8) {
        let number = (number % self.servers().count()) as u32;
        let Some(server) = self.snapshot.servers.get(number) else { return };
        let mut edited = (**server).clone();
        let server = &mut edited;
        match what % 6 {
            0 => server.weight = value.into(),
            1 => server.deleted = value % 2 == 1,
            2 => {
                server.hop = [
                    Hop::Port(world::hop(1)),
                    Hop::Port(world::hop(0)),
                    Hop::Unresolved,
                    Hop::NoRoute,
                    Hop::Local,
                ][usize::from(value) % 5];
            }
            3 => server.mss = (value > 0).then_some(u16::from(value) * 8),
            4 => server.counts.connections.set_thresholds(value.into(), 0),
            _ => server.method = other_method(server.method, value),
        }
        self.snapshot.servers.set(number, Some(Arc::new(edited)));
        self.publish();
    }

    /// Lists all connections; there are as many as the workers say, and no
    /// table has more rows than it was made for.
    pub(super) fn list(&mut self) {
        self.keep_house();
        for worker in 0..self.workers.len() {
            let rows = self.rows(worker, false) + self.rows(worker, true);
            let connections = self.workers[worker].director.counters_mut().connections;
            assert_eq!(rows as u64, connections, "rows of a listing");
        }
    }

    fn rows(&mut self, worker: usize, ipv6: bool) -> usize {
        let rows = Vec::with_capacity(1024);
        let dump = Dump::new(1, ipv6, 0, rows);
        let Worker { director, control, .. } = &mut self.workers[worker];
        assert!(control.send(Update::Dump(Box::new(dump))).is_ok(), "room for a listing");
        director.housekeeping(self.now);
        let Some(Reply::Dump(dump)) = control.receive() else { panic!("a listing") };
        assert!(dump.finished && dump.rows.len() <= self.entries, "{} rows", dump.rows.len());
        dump.rows.len()
    }

    /// After more time than any connection, template or fragment lasts nothing
    /// is left.
    pub(super) fn wait_for_the_end(&mut self) {
        for _ in 0..6 {
            self.pass_time(300 * TICKS_PER_SECOND);
        }
        for server in self.servers() {
            let counts = &server.counts.connections;
            assert_eq!((counts.read(), counts.templates()), ((0, 0), 0), "{server:?}");
        }
        for worker in &mut self.workers {
            let counters = worker.director.counters_mut();
            let held = counters.dropped(DropReason::FragmentTimeout);
            assert!(held <= counters.generated, "{counters:?}");
        }
    }
}

/// Another method for the servers of a service; NAT and FULLNAT, whose
/// connections have two entries, remain what they are.
fn other_method(method: Method, value: u8) -> Method {
    if is_two_sided(method) {
        return method;
    }
    [
        Method::Dr,
        Method::Tun(Encapsulation::Ipip),
        Method::Tun(Encapsulation::Gre { checksum: true }),
        Method::Tun(Encapsulation::Gue { port: GUE_PORT, checksum: GueChecksum::Remote }),
    ][usize::from(value) % 4]
}

fn buffer(arrival: &Arrival) -> Vec<u8> {
    let mut buffer = vec![0xee; arrival.headroom];
    buffer.extend(&arrival.bytes);
    buffer.extend([0xdd; TAILROOM]);
    buffer
}

fn remember<T>(list: &mut VecDeque<T>, new: T) {
    list.truncate(REMEMBERED - 1);
    list.push_front(new);
}
