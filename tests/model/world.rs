//! Directors in process: the services that a test configures, the workers that
//! run them, and a fabric that carries packets between workers as the rings of
//! the daemon do.
//!
//! Two ports: clients are behind a router on port 0, servers on the link of
//! port 1.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::conn::persistence::{TemplateRow, Templates};
use dataplane::conn::{HashKey, Timeouts};
use dataplane::counters::DropReason;
use dataplane::director::{Director, DirectorConfig, Handed, Reading, Source, Verdict};
use dataplane::fib::{Fib, Neighbours, NextHop, RoutesBuilder};
use dataplane::icmp::IcmpLimits;
use dataplane::outbox::To;
use dataplane::packet::{Frame, Mac, Protocol};
use dataplane::punt::PuntLimits;
use dataplane::scheduler::{self, Candidate, Candidates, Scheduler};
use dataplane::service::{
    ClientAddress, Hop, Local, MarkRule, Method, NatSource, NatSources, Persistence, PortHop,
    Server, ServerCounts, Service, ServiceKey, Services,
};
use dataplane::shard::Shard;
use dataplane::snapshot::{Port, Settings, Snapshot};
use dataplane::time::Tick;
use dataplane::update::{ConnectionRow, ControlEnd, Dump, Reply, Update, channel};

use crate::packet::Packet;

/// The MAC addresses of the two ports.
pub(crate) const PORT_MAC: [Mac; 2] = [[2, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 1]];
/// The router that clients are behind.
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 1, 0];
pub(crate) const MTU: u16 = 1500;
/// The ownership function's pattern.
const PATTERN: u16 = 0x6d5b;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn socket(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A service on an address.
pub(crate) fn key(protocol: Protocol, address: &str) -> ServiceKey {
    let address = socket(address);
    ServiceKey::Address { protocol, vip: address.ip(), vport: address.port() }
}

/// The MAC address of a server: its IPv4 address, or the end of its IPv6 one.
pub(crate) fn server_mac(address: IpAddr) -> Mac {
    let end: [u8; 4] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => address.octets()[12..].try_into().unwrap(),
    };
    let family = if address.is_ipv4() { 4 } else { 6 };
    [2, family, end[0], end[1], end[2], end[3]]
}

/// What a worker did with a packet in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Sent { port: u8, bytes: Vec<u8> },
    Punted,
    Dropped(DropReason),
    Absorbed,
}

/// What became of a packet that came in by a port.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) end: End,
    /// The workers that had it, in order.
    pub(crate) workers: Vec<usize>,
    /// Other frames that left because of it, and their ports.
    pub(crate) also: Vec<(u8, Vec<u8>)>,
}

impl Outcome {
    /// The frame that was sent.
    pub(crate) fn sent(&self) -> &[u8] {
        match &self.end {
            End::Sent { bytes, .. } => bytes,
            end => panic!("not sent: {end:?}"),
        }
    }
}

#[derive(Debug)]
struct Configured {
    published: Service,
    /// Numbers of its servers, newest first.
    servers: Vec<u32>,
}

/// What a world is made with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) workers: usize,
    /// Entries of a table.
    pub(crate) connections: usize,
    /// Of each worker: connections that there is room for hints about.
    pub(crate) hints: usize,
    pub(crate) templates: usize,
}

/// All workers, and what control knows.
pub(crate) struct World {
    pub(crate) shard: Arc<Shard>,
    pub(crate) templates: Arc<Templates>,
    pub(crate) settings: Settings,
    pub(crate) timeouts: Timeouts,
    /// What gives packets their marks.
    pub(crate) rules: Vec<MarkRule>,
    directors: Vec<Director>,
    controls: Vec<ControlEnd>,
    services: HashMap<ServiceKey, Configured>,
    servers: Vec<(ServiceKey, Server)>,
    locals: Vec<Local>,
    fib: Arc<Fib>,
    epoch: u64,
    next_service: u32,
    buffer: Vec<u8>,
}

impl World {
    /// Workers without services. `locals` are the local addresses of FULLNAT.
    pub(crate) fn new(size: Size, locals: &[IpAddr]) -> Self {
        let hash_key = HashKey::new([0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321, 77]);
        let shard = Shard::new(PATTERN, size.workers, 128);
        let shard = Arc::new(shard.with_hints(size.hints, hash_key).unwrap());
        let templates = Arc::new(Templates::new(size.templates, hash_key).unwrap());
        let (mut directors, mut controls) = (Vec::new(), Vec::new());
        for worker in 0..size.workers {
            let (control, link) = channel();
            let config = DirectorConfig {
                worker,
                shard: Arc::clone(&shard),
                connections: size.connections,
                hash_key,
                punt_limits: PuntLimits {
                    neighbour: 1 << 24,
                    routing: 1 << 24,
                    tcp: 1 << 24,
                    other: 1 << 24,
                },
                icmp_limits: IcmpLimits { rate: 1 << 24, burst: 1 << 24 },
                templates: Arc::clone(&templates),
                random: 12_345 + worker as u32,
            };
            directors.push(Director::new(config, link).unwrap());
            controls.push(control);
        }
        let locals = (0..).zip(locals).map(|(number, &address)| Local { number, address });
        Self {
            shard,
            templates,
            settings: Settings::default(),
            timeouts: Timeouts::default(),
            rules: Vec::new(),
            directors,
            controls,
            services: HashMap::new(),
            servers: Vec::new(),
            locals: locals.collect(),
            fib: fib(),
            epoch: 0,
            next_service: 0,
            buffer: vec![0; 4096],
        }
    }

    pub(crate) fn workers(&self) -> usize {
        self.directors.len()
    }

    pub(crate) fn director(&mut self, worker: usize) -> &mut Director {
        &mut self.directors[worker]
    }

    /// Adds a service without servers. In force with the next
    /// [`World::publish`], as all changes.
    pub(crate) fn add_service(
        &mut self,
        key: ServiceKey,
        scheduler: Scheduler,
        persistence: Option<Persistence>,
        one_packet: bool,
    ) {
        let published = Service {
            key,
            number: self.next_service,
            scheduler,
            state: Arc::new(scheduler::State::new(scheduler)),
            candidates: Candidates::default(),
            persistence,
            one_packet,
            take_up: false,
            locals: self.locals.clone().into(),
        };
        self.next_service += 1;
        self.services.insert(key, Configured { published, servers: Vec::new() });
    }

    /// The number by which templates know a service.
    pub(crate) fn service_number(&self, key: &ServiceKey) -> u32 {
        self.services[key].published.number
    }

    /// Deletes a service; its servers are kept for its return.
    pub(crate) fn delete_service(&mut self, key: &ServiceKey) {
        for number in self.services.remove(key).unwrap().servers {
            self.servers[number as usize].1.deleted = true;
        }
    }

    /// Adds a server, or brings a deleted one of that name back. Its number.
    pub(crate) fn add_server(
        &mut self,
        key: &ServiceKey,
        address: SocketAddr,
        method: Method,
        weight: u32,
    ) -> u32 {
        let known = self.find_server(key, address);
        let number = known.unwrap_or_else(|| {
            let hop = PortHop {
                vlan: 0,
                port: 1,
                dst_mac: server_mac(address.ip()),
                src_mac: PORT_MAC[1],
                mtu: MTU,
            };
            let server = Server {
                address,
                method,
                hop: Hop::Port(hop),
                weight,
                deleted: false,
                client_address: ClientAddress::None,
                mss: None,
                counts: Arc::new(ServerCounts::new(self.directors.len())),
            };
            self.servers.push((*key, server));
            self.servers.len() as u32 - 1
        });
        let server = &mut self.servers[number as usize].1;
        (server.deleted, server.weight) = (false, weight);
        server.counts.connections.set_thresholds(0, 0);
        let service = self.services.get_mut(key).unwrap();
        service.servers.insert(0, number);
        service.published.state.server_added();
        number
    }

    pub(crate) fn delete_server(&mut self, key: &ServiceKey, address: SocketAddr) {
        let number = self.find_server(key, address).unwrap();
        self.servers[number as usize].1.deleted = true;
        let service = self.services.get_mut(key).unwrap();
        let index = service.servers.iter().position(|&n| n == number).unwrap();
        service.servers.remove(index);
        service.published.state.server_removed(index);
    }

    /// A server, deleted or not.
    pub(crate) fn server(&mut self, key: &ServiceKey, address: SocketAddr) -> &mut Server {
        let number = self.find_server(key, address).unwrap();
        &mut self.servers[number as usize].1
    }

    /// The name of a server by its number.
    pub(crate) fn server_name(&self, number: u32) -> (ServiceKey, SocketAddr) {
        let (key, server) = &self.servers[number as usize];
        (*key, server.address)
    }

    fn find_server(&self, key: &ServiceKey, address: SocketAddr) -> Option<u32> {
        let is_it = |(of, server): &(ServiceKey, Server)| of == key && server.address == address;
        self.servers.iter().position(is_it).map(|number| number as u32)
    }

    /// Has all workers run what is now configured.
    pub(crate) fn publish(&mut self, now: Tick) {
        self.epoch += 1;
        let mut nat_sources = NatSources::new();
        for (key, server) in &self.servers {
            if server.method != Method::Nat {
                continue;
            }
            match *key {
                ServiceKey::Address { protocol, vip, vport } => {
                    nat_sources.add(protocol, server.address, NatSource::Of(vip, vport));
                }
                ServiceKey::Fwmark { .. } => {
                    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                        nat_sources.add(protocol, server.address, NatSource::Marked);
                    }
                }
            }
        }
        let services = self.services.values().map(|service| {
            let list = service.servers.iter().map(|&number| {
                let server = &self.servers[number as usize].1;
                Candidate {
                    server: number,
                    address: server.address,
                    weight: server.weight,
                    fresh: false,
                    counts: Arc::clone(&server.counts),
                }
            });
            let mut published = service.published.clone();
            published.candidates = Candidates::new(published.scheduler, list.collect());
            Arc::new(published)
        });
        let addresses = [("10.0.0.1", "fd00::1"), ("10.0.2.1", "fd00:2::1")];
        let ports = addresses.iter().zip(PORT_MAC).map(|((four, six), mac)| Port {
            address4: Some(four.parse::<std::net::Ipv4Addr>().unwrap().to_bits()),
            address6: Some(six.parse::<std::net::Ipv6Addr>().unwrap().octets()),
            ..Port::new(mac, MTU)
        });
        let snapshot = Arc::new(Snapshot {
            epoch: self.epoch,
            services: Services::new(services, self.rules.clone().into()),
            servers: self.servers.iter().map(|(_, s)| Some(Arc::new(s.clone()))).collect(),
            ports: ports.collect(),
            fib: Arc::clone(&self.fib),
            timeouts: self.timeouts,
            nat_sources: Arc::new(nat_sources),
            locals: self.locals.iter().map(|local| local.address).collect(),
            settings: self.settings,
            ..Snapshot::default()
        });
        for (director, control) in self.directors.iter_mut().zip(&mut self.controls) {
            control.send(Update::Snapshot(Arc::clone(&snapshot))).unwrap();
            director.housekeeping(now);
            assert!(matches!(control.receive(), Some(Reply::Retired(_))));
            assert_eq!(control.shared().epoch(), self.epoch);
        }
    }

    /// A client's packet that `worker` receives.
    pub(crate) fn client_sends(&mut self, now: Tick, worker: usize, packet: &Packet) -> Outcome {
        self.deliver(now, worker, None, 0, &packet.frame(ROUTER_MAC, PORT_MAC[0]))
    }

    /// A server's packet that `worker` receives.
    pub(crate) fn server_sends(&mut self, now: Tick, worker: usize, packet: &Packet) -> Outcome {
        let mac = server_mac(packet.src.ip());
        self.deliver(now, worker, None, 1, &packet.frame(mac, PORT_MAC[1]))
    }

    /// A frame that a worker receives by a port, with the NIC's hash where it
    /// gives one. It goes from worker to worker until one has decided, and so
    /// does all that the workers send one another because of it.
    pub(crate) fn deliver(
        &mut self,
        now: Tick,
        worker: usize,
        rss_hash: Option<u32>,
        port: u8,
        bytes: &[u8],
    ) -> Outcome {
        let mut waiting = VecDeque::from([Waiting {
            worker,
            source: Source::Port,
            port,
            handed: Handed::default(),
            read: Reading::default(),
            bytes: bytes.to_vec(),
            original: true,
        }]);
        let (mut end, mut workers, mut also) = (None, Vec::new(), Vec::new());
        while let Some(next) = waiting.pop_front() {
            if next.original {
                workers.push(next.worker);
                assert!(workers.len() < 300, "it goes round in circles: {workers:?}");
            }
            let rss_hash = rss_hash.filter(|_| next.source == Source::Port);
            let ended = self.process(now, &next, rss_hash, &mut waiting, &mut also);
            match ended {
                Some(ended) if next.original => end = Some(ended),
                Some(End::Sent { port, bytes }) => also.push((port, bytes)),
                _ => {}
            }
        }
        for director in &mut self.directors {
            let counters = director.counters_mut();
            assert!(counters.balanced(), "{counters:?}");
        }
        Outcome { end: end.expect("a packet ends somewhere"), workers, also }
    }

    /// One worker's part. `None` when another one is to go on.
    fn process(
        &mut self,
        now: Tick,
        packet: &Waiting,
        rss_hash: Option<u32>,
        waiting: &mut VecDeque<Waiting>,
        also: &mut Vec<(u8, Vec<u8>)>,
    ) -> Option<End> {
        const HEADROOM: usize = 128;
        let len = packet.bytes.len();
        self.buffer[HEADROOM..HEADROOM + len].copy_from_slice(&packet.bytes);
        let mut frames = [Frame::new(&mut self.buffer, HEADROOM, len, len, packet.port)];
        frames[0].rss_hash = rss_hash;
        (frames[0].handed, frames[0].read) = (packet.handed, packet.read);
        let mut verdicts = [Verdict::Punt];
        let director = &mut self.directors[packet.worker];
        match packet.source {
            Source::Port => director.counters_mut().rx += 1,
            Source::Handoff => director.counters_mut().taken_over += 1,
        }
        if packet.source == Source::Port && rss_hash.is_none() {
            // As a worker does whose device knows no owners.
            let sharing = director.sharing(packet.port).expect("nobody observes");
            let (owner, read) = sharing.owner(&frames[0]);
            if usize::from(owner) != packet.worker {
                director.counters_mut().handed_off += 1;
                waiting.push_front(packet.to(owner, Handed::default(), read, frames[0].bytes()));
                return None;
            }
            frames[0].read = read;
        }
        director.process(now, packet.source, &mut frames, &mut verdicts);
        let bytes = || frames[0].bytes().to_vec();
        let (mut tx, mut punted, mut handed_off) = (0, 0, 0);
        let end = match verdicts[0] {
            Verdict::Send { port } => {
                tx += 1;
                Some(End::Sent { port, bytes: bytes() })
            }
            Verdict::Punt => {
                punted += 1;
                Some(End::Punted)
            }
            Verdict::Handoff { worker, handed } => {
                handed_off += 1;
                waiting.push_front(packet.to(worker, handed, frames[0].read, &bytes()));
                None
            }
            Verdict::Absorbed => Some(End::Absorbed),
            Verdict::Drop(reason) => Some(End::Dropped(reason)),
        };
        for (to, bytes) in director.outbox().frames() {
            match to {
                To::Port(port) => {
                    tx += 1;
                    also.push((port, bytes.to_vec()));
                }
                To::Kernel(_) => punted += 1,
                To::Worker { worker, port, handed } => {
                    handed_off += 1;
                    waiting.push_back(Waiting {
                        worker: worker.into(),
                        source: Source::Handoff,
                        port,
                        handed,
                        read: Reading::default(),
                        bytes: bytes.to_vec(),
                        original: false,
                    });
                }
            }
        }
        director.outbox().clear();
        let counters = director.counters_mut();
        counters.tx += tx;
        counters.punted += punted;
        counters.handed_off += handed_off;
        end
    }

    /// Housekeeping of all workers.
    pub(crate) fn housekeeping(&mut self, now: Tick) {
        for director in &mut self.directors {
            director.housekeeping(now);
        }
    }

    /// The connections of a worker, both families.
    pub(crate) fn rows(&mut self, now: Tick, worker: usize) -> Vec<ConnectionRow> {
        let mut all = Vec::new();
        for ipv6 in [false, true] {
            let mut group = 0;
            loop {
                let rows = Vec::with_capacity(1024);
                let dump = Dump::new(1, ipv6, group, rows);
                let (director, control) = (&mut self.directors[worker], &mut self.controls[worker]);
                control.send(Update::Dump(Box::new(dump))).unwrap();
                let dump = loop {
                    director.housekeeping(now);
                    if let Some(Reply::Dump(dump)) = control.receive() {
                        break dump;
                    }
                };
                all.extend(&dump.rows);
                if dump.finished {
                    break;
                }
                group = dump.group;
            }
        }
        all
    }

    /// All persistence templates.
    pub(crate) fn template_rows(&self) -> Vec<TemplateRow> {
        let mut rows = Vec::new();
        for bucket in 0..self.templates.bucket_count() {
            self.templates.scan(bucket, |row| rows.push(*row));
        }
        rows
    }

    /// A counter, over all workers.
    pub(crate) fn dropped(&mut self, reason: DropReason) -> u64 {
        self.directors.iter_mut().map(|d| d.counters_mut().dropped(reason)).sum()
    }
}

/// A frame on its way to a worker.
struct Waiting {
    worker: usize,
    source: Source,
    port: u8,
    handed: Handed,
    read: Reading,
    bytes: Vec<u8>,
    /// Whether it is the frame that came in by a port.
    original: bool,
}

impl Waiting {
    /// The same packet, handed over.
    fn to(&self, worker: u8, handed: Handed, read: Reading, bytes: &[u8]) -> Self {
        let (source, bytes) = (Source::Handoff, bytes.to_vec());
        Self { worker: worker.into(), source, handed, read, bytes, ..*self }
    }
}

/// All addresses are behind a router on port 0.
fn fib() -> Arc<Fib> {
    let hop = |gateway| NextHop::Port {
        port: 0,
        vlan: 0,
        src_mac: PORT_MAC[0],
        gateway: Some(gateway),
        mtu: MTU,
    };
    let gateways = [ip("10.0.0.254"), ip("fd00::fe")];
    let mut routes = RoutesBuilder::default();
    routes.add4(0, hop(gateways[0]));
    routes.add6(0, hop(gateways[1]));
    let neighbours: Neighbours = gateways.iter().map(|&g| ((0, g), ROUTER_MAC)).collect();
    Arc::new(Fib::new(Arc::new(routes.build()), Arc::new(neighbours)))
}
