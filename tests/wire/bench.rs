//! Rows, what they are set up on, and how they are run: frame by frame through
//! [`Director::process`], as a worker does it.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::counters::DropReason;
use dataplane::director::{Director, DirectorConfig, Handed, Source, Verdict};
use dataplane::fib::{Fib, NextHop, RoutesBuilder};
use dataplane::icmp::IcmpLimits;
use dataplane::outbox::To;
use dataplane::packet::{Family, Frame, Protocol};
use dataplane::punt::PuntLimits;
use dataplane::scheduler::{self, Candidate, Candidates, Scheduler};
use dataplane::service::{
    ClientAddress, Hop, Local, MarkRule, Method, NatSource, NatSources, Persistence, PortHop,
    Server, ServerCounts, Service, ServiceKey, Services,
};
use dataplane::shard::Shard;
use dataplane::snapshot::{LocalPorts, Port, Settings, Snapshot};
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::update::{ControlEnd, Update, channel};

use crate::network::{PORT_MACS, ROUTER_MAC, client, local, own, rip, server_mac, vip};
use crate::packet::Packet;

/// When rows begin.
const START: Tick = Tick::from_secs(1000);
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// A server of every service of a row.
#[derive(Clone)]
pub(crate) struct Target {
    /// 1 or 2: its addresses.
    pub(crate) number: u8,
    /// 0: the packet keeps its own.
    pub(crate) port: u16,
    pub(crate) weight: u32,
    pub(crate) deleted: bool,
    /// How it is reached where not by port 1, resolved.
    pub(crate) hop: Option<Hop>,
    pub(crate) thresholds: (u32, u32),
}

/// What a row is set up on: a service for each protocol on the VIP's port 80.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) family: Family,
    /// Of the servers.
    pub(crate) servers: Family,
    pub(crate) method: Method,
    /// In the order in which they are walked.
    pub(crate) targets: Vec<Target>,
    pub(crate) vports: Vec<u16>,
    /// A service by mark instead.
    pub(crate) mark: Option<MarkRule>,
    pub(crate) scheduler: Scheduler,
    pub(crate) persistence: Option<Persistence>,
    pub(crate) one_packet: bool,
    pub(crate) client_address: ClientAddress,
    pub(crate) mss: Option<u16>,
    pub(crate) settings: Settings,
    /// Of port 0 and port 1.
    pub(crate) mtu: [u16; 2],
    /// Where clients are, if not behind the router.
    pub(crate) to_client: Option<NextHop>,
    /// Whether the router's MAC address is known.
    pub(crate) router_known: bool,
    pub(crate) addresses: bool,
    pub(crate) local_ports: LocalPorts,
    pub(crate) workers: usize,
    /// Server and client are both at port 0.
    pub(crate) one_arm: bool,
}

impl Setup {
    /// Server 1 for clients of a family, by a method.
    pub(crate) fn new(method: Method, family: Family) -> Self {
        Self {
            family,
            servers: family,
            method,
            targets: vec![Target::new(1)],
            vports: vec![80],
            mark: None,
            scheduler: Scheduler::Rr,
            persistence: None,
            one_packet: false,
            client_address: ClientAddress::None,
            mss: None,
            settings: Settings::default(),
            mtu: [1500, 1500],
            to_client: None,
            router_known: true,
            addresses: true,
            local_ports: LocalPorts::default(),
            workers: 1,
            one_arm: false,
        }
    }

    /// The same, changed.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn server_port(&self) -> u8 {
        u8::from(!self.one_arm)
    }

    fn hop(&self, target: &Target) -> Hop {
        let port = self.server_port();
        target.hop.unwrap_or(Hop::Port(PortHop {
            port,
            dst_mac: server_mac(target.number),
            src_mac: PORT_MACS[usize::from(port)],
            mtu: self.mtu[usize::from(port)],
        }))
    }

    fn address(&self, target: &Target) -> SocketAddr {
        SocketAddr::new(rip(self.servers, target.number).ip(), target.port)
    }

    fn keys(&self) -> Vec<ServiceKey> {
        if let Some(rule) = self.mark {
            return vec![ServiceKey::Fwmark { mark: rule.mark, family: self.family }];
        }
        let vip = vip(self.family).ip();
        let of = |vport| PROTOCOLS.map(|protocol| ServiceKey::Address { protocol, vip, vport });
        self.vports.iter().flat_map(|&vport| of(vport)).collect()
    }

    fn snapshot(&self, kept: &Kept) -> Snapshot {
        let servers = self.targets.iter().map(|target| {
            let server = Server {
                address: self.address(target),
                method: self.method,
                hop: self.hop(target),
                weight: target.weight,
                deleted: target.deleted,
                client_address: self.client_address,
                mss: self.mss,
                counts: Arc::clone(&kept.counts[usize::from(target.number)]),
            };
            server.counts.connections.set_thresholds(target.thresholds.0, target.thresholds.1);
            (target.number, Arc::new(server))
        });
        let mut by_number = vec![None; 3];
        for (number, server) in servers {
            by_number[usize::from(number)] = Some(server);
        }
        let locals = crate::network::FAMILIES.map(|f| local(f).ip());
        let own_ports = |index: u8| {
            let mut port = Port::new(PORT_MACS[usize::from(index)], self.mtu[usize::from(index)]);
            if self.addresses {
                for address in crate::network::FAMILIES.map(|f| own(f, index)) {
                    match address {
                        IpAddr::V4(address) => port.address4 = Some(address.to_bits()),
                        IpAddr::V6(address) => port.address6 = Some(address.octets()),
                    }
                }
            }
            port
        };
        Snapshot {
            epoch: kept.epoch,
            services: self.services(kept),
            servers: by_number,
            ports: vec![own_ports(0), own_ports(1)],
            fib: Arc::new(self.fib()),
            nat_sources: Arc::new(self.nat_sources()),
            locals: Arc::new(locals),
            local_ports: self.local_ports,
            settings: self.settings,
            ..Default::default()
        }
    }

    fn services(&self, kept: &Kept) -> Services {
        let candidates =
            self.targets.iter().filter(|target| !target.deleted).map(|target| Candidate {
                server: target.number.into(),
                address: self.address(target),
                weight: target.weight,
                fresh: false,
                counts: Arc::clone(&kept.counts[usize::from(target.number)]),
            });
        let candidates = Candidates::new(self.scheduler, candidates.collect());
        let locals = crate::network::FAMILIES
            .map(|f| Local { number: u16::from(f == Family::V6), address: local(f).ip() });
        let service = |(key, number)| {
            Arc::new(Service {
                key,
                number,
                scheduler: self.scheduler,
                state: Arc::clone(&kept.state),
                candidates: candidates.clone(),
                persistence: self.persistence,
                one_packet: self.one_packet,
                locals: Arc::new(locals),
            })
        };
        let rules = self.mark.into_iter().collect();
        Services::new(self.keys().into_iter().zip(0..).map(service), rules)
    }

    fn nat_sources(&self) -> NatSources {
        let mut sources = NatSources::new();
        if self.method != Method::Nat {
            return sources;
        }
        for target in &self.targets {
            for (protocol, vport) in
                PROTOCOLS.into_iter().flat_map(|p| self.vports.iter().map(move |&v| (p, v)))
            {
                let source = match self.mark {
                    Some(_) => NatSource::Marked,
                    None => NatSource::Of(vip(self.family).ip(), vport),
                };
                sources.add(protocol, self.address(target), source);
            }
        }
        sources
    }

    /// Everything is behind the router at port 0 but for the servers' network.
    fn fib(&self) -> Fib {
        let by = |port: u8, gateway| NextHop::Port {
            port,
            src_mac: PORT_MACS[usize::from(port)],
            gateway,
            mtu: self.mtu[usize::from(port)],
        };
        let gateway = IpAddr::from([192, 0, 2, 254]);
        let far = self.to_client.unwrap_or(by(0, Some(gateway)));
        let mut routes = RoutesBuilder::default();
        let bits6 = |net: u128| (0x2001_0db8_0000 + net) << 80;
        routes.add4(0, far);
        routes.add4(0x0a00_0000, by(self.server_port(), None));
        routes.add4(0x0a00_0100, far);
        routes.add6(0, far);
        routes.add6(bits6(2), by(self.server_port(), None));
        routes.add6(bits6(3), far);
        let mut neighbours = Vec::new();
        if self.router_known {
            neighbours.push(((0, gateway), ROUTER_MAC));
        }
        for target in &self.targets {
            for family in crate::network::FAMILIES {
                let key = (self.server_port(), rip(family, target.number).ip());
                neighbours.push((key, server_mac(target.number)));
            }
        }
        Fib::new(Arc::new(routes.build()), Arc::new(neighbours.into_iter().collect()))
    }
}

impl Target {
    pub(crate) const fn new(number: u8) -> Self {
        Self { number, port: 80, weight: 1, deleted: false, hop: None, thresholds: (0, 0) }
    }
}

/// What lives on when the configuration changes.
struct Kept {
    counts: [Arc<ServerCounts>; 3],
    state: Arc<scheduler::State>,
    epoch: u64,
}

/// What becomes of a frame, apart from what is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Sent,
    Punted,
    Absorbed,
    Dropped(DropReason),
    HandedTo(u8, Handed),
}

/// A packet of a row: built, or a frame in hexadecimal digits.
#[derive(Clone)]
pub(crate) enum Shape {
    Built(Box<Packet>, [[u8; 6]; 2]),
    Literal(Vec<u8>),
}

enum Step {
    /// A frame comes in by a port; what becomes of it, and what goes out by
    /// which port. The first of these is the frame itself where it is sent.
    Frame {
        port: u8,
        frame: Vec<u8>,
        fate: Fate,
        out: Vec<(To, Shape)>,
    },
    /// Seconds pass.
    After(u32),
    Change(fn(&mut Setup)),
    /// A server's connections are then so many, active and inactive.
    Connections(u8, (u32, u32)),
}

/// A row: what is set up, what comes in, what is to become of it.
pub(crate) struct Row {
    pub(crate) name: String,
    /// The entry in docs/differences.md, where the kernel does otherwise.
    differs: Option<&'static str>,
    setup: Setup,
    steps: Vec<Step>,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, setup: Setup) -> Self {
        Self { name: name.into(), differs: None, setup, steps: Vec::new() }
    }

    /// The kernel does otherwise: the matter's name in docs/differences.md.
    pub(crate) fn differs(self, matter: &'static str) -> Self {
        Self { differs: Some(matter), ..self }
    }

    fn comes(mut self, port: u8, frame: Vec<u8>) -> Self {
        self.steps.push(Step::Frame { port, frame, fate: Fate::Sent, out: Vec::new() });
        self
    }

    /// A packet comes from the router at port 0.
    pub(crate) fn client(self, packet: Packet) -> Self {
        let frame = packet.frame(PORT_MACS[0], ROUTER_MAC);
        self.comes(0, frame)
    }

    /// A packet comes by port 0 in a frame to this MAC address.
    pub(crate) fn client_to(self, mac: [u8; 6], packet: Packet) -> Self {
        self.comes(0, packet.frame(mac, ROUTER_MAC))
    }

    /// A packet comes from a server.
    pub(crate) fn server(self, number: u8, packet: Packet) -> Self {
        let port = self.setup.server_port();
        let frame = packet.frame(PORT_MACS[usize::from(port)], server_mac(number));
        self.comes(port, frame)
    }

    /// A packet comes by a port from a router there.
    pub(crate) fn router(self, port: u8, packet: Packet) -> Self {
        let frame = packet.frame(PORT_MACS[usize::from(port)], ROUTER_MAC);
        self.comes(port, frame)
    }

    /// A frame comes in by a port.
    pub(crate) fn frame(self, port: u8, digits: &str) -> Self {
        self.comes(port, hex(digits))
    }

    /// The frame comes truncated to so many bytes.
    pub(crate) fn cut(mut self, len: usize) -> Self {
        if let Some(Step::Frame { frame, .. }) = self.steps.last_mut() {
            frame.truncate(len);
        }
        self
    }

    fn out(mut self, port: u8, shape: Shape) -> Self {
        let Some(Step::Frame { out, .. }) = self.steps.last_mut() else { panic!("no frame") };
        out.push((To::Port(port), shape));
        self
    }

    /// A packet goes to a server.
    pub(crate) fn server_gets(self, number: u8, packet: Packet) -> Self {
        let port = self.setup.server_port();
        let macs = [server_mac(number), PORT_MACS[usize::from(port)]];
        self.out(port, Shape::Built(Box::new(packet), macs))
    }

    /// A packet goes to the router at port 0.
    pub(crate) fn client_gets(self, packet: Packet) -> Self {
        self.out(0, Shape::Built(Box::new(packet), [ROUTER_MAC, PORT_MACS[0]]))
    }

    /// A frame goes out by a port.
    pub(crate) fn gives(self, port: u8, digits: &str) -> Self {
        self.out(port, Shape::Literal(hex(digits)))
    }

    fn fate(mut self, new: Fate) -> Self {
        let Some(Step::Frame { fate, .. }) = self.steps.last_mut() else { panic!("no frame") };
        *fate = new;
        self
    }

    pub(crate) fn dropped(self, reason: DropReason) -> Self {
        self.fate(Fate::Dropped(reason))
    }

    pub(crate) fn punted(self) -> Self {
        self.fate(Fate::Punted)
    }

    /// The frame is not sent itself: what follows was made of it.
    pub(crate) fn absorbed(self) -> Self {
        self.fate(Fate::Absorbed)
    }

    pub(crate) fn handed_to(self, worker: u8, handed: Handed) -> Self {
        self.fate(Fate::HandedTo(worker, handed))
    }

    pub(crate) fn after(mut self, seconds: u32) -> Self {
        self.steps.push(Step::After(seconds));
        self
    }

    pub(crate) fn change(mut self, change: fn(&mut Setup)) -> Self {
        self.steps.push(Step::Change(change));
        self
    }

    pub(crate) fn connections(mut self, server: u8, active: u32, inactive: u32) -> Self {
        self.steps.push(Step::Connections(server, (active, inactive)));
        self
    }

    /// Runs it.
    pub(crate) fn run(self) -> Result<(), String> {
        let differs = self.differs.map_or(String::new(), |matter| {
            format!(" (differs from the kernel: see \"{matter}\" in docs/differences.md)")
        });
        let mut bench = Bench::new(self.setup);
        let mut port = None;
        for (number, step) in self.steps.into_iter().enumerate() {
            bench
                .step(step, &mut port)
                .map_err(|error| format!("step {}{differs}: {error}", number + 1))?;
        }
        bench.director.housekeeping(bench.now);
        let counters = bench.director.counters_mut();
        // What is held is neither here nor there until it leaves.
        if !counters.balanced() {
            return Err(format!("the counters do not add up: {counters:?}"));
        }
        Ok(())
    }
}

struct Bench {
    director: Director,
    control: ControlEnd,
    setup: Setup,
    kept: Kept,
    now: Tick,
}

impl Bench {
    fn new(setup: Setup) -> Self {
        let (control, link) = channel();
        let hash_key = HashKey::new([1, 2, 3]);
        let config = DirectorConfig {
            worker: 0,
            shard: Arc::new(shard(setup.workers)),
            connections: 100,
            hash_key,
            punt_limits: PuntLimits::default(),
            icmp_limits: IcmpLimits::default(),
            templates: Arc::new(Templates::new(100, hash_key).unwrap()),
            // Ids begin with 1000, local ports with the 1000th.
            random: 1000,
        };
        let kept = Kept {
            counts: [(); 3].map(|()| Arc::new(ServerCounts::new(setup.workers))),
            state: Arc::new(scheduler::State::new(setup.scheduler)),
            epoch: 0,
        };
        let director = Director::new(config, link).unwrap();
        let mut bench = Self { director, control, setup, kept, now: START };
        bench.publish();
        bench
    }

    fn publish(&mut self) {
        self.kept.epoch += 1;
        let snapshot = Arc::new(self.setup.snapshot(&self.kept));
        self.control.send(Update::Snapshot(snapshot)).unwrap();
        self.director.housekeeping(self.now);
        while self.control.receive().is_some() {}
        assert_eq!(self.control.shared().epoch(), self.kept.epoch);
    }

    fn step(&mut self, step: Step, flow_port: &mut Option<u16>) -> Result<(), String> {
        match step {
            Step::Frame { port, frame, fate, out } => {
                self.frame(port, &frame, fate, out, flow_port)
            }
            Step::After(seconds) => {
                // A worker keeps house far more often; once a second does for
                // tables as small as these.
                for _ in 0..seconds {
                    self.now = self.now.plus(TICKS_PER_SECOND);
                    self.director.housekeeping(self.now);
                }
                Ok(())
            }
            Step::Change(change) => {
                change(&mut self.setup);
                self.publish();
                Ok(())
            }
            Step::Connections(server, expected) => {
                let got = self.kept.counts[usize::from(server)].connections.read();
                if got == expected {
                    return Ok(());
                }
                Err(format!("server {server} has {got:?} connections, not {expected:?}"))
            }
        }
    }

    /// One frame through the director, and all that it sends compared.
    fn frame(
        &mut self,
        port: u8,
        frame: &[u8],
        fate: Fate,
        out: Vec<(To, Shape)>,
        flow_port: &mut Option<u16>,
    ) -> Result<(), String> {
        const HEADROOM: usize = 128;
        let mut buffer = vec![0xee; HEADROOM];
        buffer.extend(frame);
        buffer.extend([0xdd; 64]);
        let mut frames = [Frame::new(&mut buffer, HEADROOM, frame.len(), frame.len(), port)];
        let mut verdicts = [Verdict::Punt];
        self.director.process(self.now, Source::Port, &mut frames, &mut verdicts);
        let mut sent = Vec::new();
        let got = match verdicts[0] {
            Verdict::Send { port } => {
                sent.push((To::Port(port), frames[0].bytes().to_vec()));
                Fate::Sent
            }
            Verdict::Punt => Fate::Punted,
            Verdict::Absorbed => Fate::Absorbed,
            Verdict::Drop(reason) => Fate::Dropped(reason),
            Verdict::Handoff { worker, handed } => Fate::HandedTo(worker, handed),
        };
        let unchanged = matches!(got, Fate::Punted | Fate::HandedTo(..));
        if unchanged && frames[0].bytes() != frame {
            return Err(format!("{got:?}, but changed:\n{}", compare(frame, frames[0].bytes())));
        }
        sent.extend(self.director.outbox().frames().map(|(to, bytes)| (to, bytes.to_vec())));
        self.director.outbox().clear();
        let counters = self.director.counters_mut();
        counters.rx += 1;
        counters.tx += sent.len() as u64;
        counters.punted += u64::from(got == Fate::Punted);
        counters.handed_off += u64::from(matches!(got, Fate::HandedTo(..)));
        if (got, sent.len()) != (fate, out.len()) {
            let mut text = format!("{got:?} with {} frames out", sent.len());
            let _ = write!(text, ", not {fate:?} with {}", out.len());
            for (to, bytes) in sent {
                let _ = write!(text, "\n{to:?}\n{}", compare(&bytes, &bytes));
            }
            return Err(text);
        }
        for (index, ((to, shape), (sent_to, bytes))) in out.into_iter().zip(sent).enumerate() {
            let expected = shape.bytes(&bytes, flow_port)?;
            if (to, &expected) != (sent_to, &bytes) {
                let place = format!("frame {} out, {sent_to:?}, not {to:?}", index + 1);
                return Err(format!("{place}\n{}", compare(&expected, &bytes)));
            }
        }
        Ok(())
    }
}

impl Shape {
    /// The frame that is expected. What cannot be known beforehand is taken
    /// from what was sent: the source port of a flow, the same each time.
    fn bytes(self, sent: &[u8], flow_port: &mut Option<u16>) -> Result<Vec<u8>, String> {
        let (mut packet, [dst, src]) = match self {
            Self::Literal(bytes) => return Ok(bytes),
            Self::Built(packet, macs) => (packet, macs),
        };
        if !packet.take_flow_port(sent) {
            return Err("no source port of a flow".into());
        }
        if let Some(port) = packet.flow_port(flow_port) {
            if *flow_port.get_or_insert(port) != port {
                return Err(format!("source port {port} where it was {flow_port:?} before"));
            }
        }
        Ok(packet.frame(dst, src))
    }
}

/// The ownership function of rows with several workers.
fn shard(workers: usize) -> Shard {
    Shard::new(0x6d5a, workers, 128)
}

/// A client whose packets to the VIP belong to a worker of two.
pub(crate) fn client_of(worker: usize, family: Family) -> SocketAddr {
    let (shard, vip) = (shard(2), vip(family));
    let owner = |port: u16| {
        let tuple = dataplane::packet::Tuple::new(client(family).ip(), port, vip.ip(), vip.port());
        shard.owner(shard.hash(&tuple.unwrap().addresses(), port, vip.port()))
    };
    let port = (40_000..41_000).find(|port| owner(*port) == worker).unwrap();
    SocketAddr::new(client(family).ip(), port)
}

/// Whether fragments between two addresses belong to a worker of two.
pub(crate) fn owns_addresses(worker: usize, src: IpAddr, dst: IpAddr) -> bool {
    let tuple = dataplane::packet::Tuple::new(src, 0, dst, 0).unwrap();
    let shard = shard(2);
    shard.owner(shard.hash(&tuple.addresses(), 0, 0)) == worker
}

fn hex(digits: &str) -> Vec<u8> {
    let digits: String = digits.split_whitespace().collect();
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The lines of 16 bytes in which two frames differ, with marks below.
fn compare(expected: &[u8], got: &[u8]) -> String {
    let line = |bytes: &[u8], at: usize| {
        bytes.iter().skip(at).take(16).map(|byte| format!("{byte:02x} ")).collect::<String>()
    };
    let mut text = String::new();
    for at in (0..expected.len().max(got.len())).step_by(16) {
        let (want, have) = (line(expected, at), line(got, at));
        if want == have {
            // All of a frame where there is nothing to compare it with.
            if expected == got && at < 256 {
                let _ = writeln!(text, "  {at:4}            {have}");
            }
            continue;
        }
        let mark = |i: usize| if expected.get(i) == got.get(i) { "   " } else { "^^ " };
        let marks: String = (at..at + 16).map(mark).collect();
        let _ = writeln!(text, "  {at:4} expected   {want}\n       got        {have}");
        let _ = writeln!(text, "                  {marks}");
    }
    text
}
