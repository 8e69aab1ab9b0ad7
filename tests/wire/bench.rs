//! Rows, and how they are run: frame by frame through [`Director::process`], as
//! a worker does it.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::counters::DropReason;
use dataplane::director::{Director, DirectorConfig, Handed, Source, Verdict};
use dataplane::icmp::IcmpLimits;
use dataplane::outbox::To;
use dataplane::packet::{Family, Frame, Tuple};
use dataplane::punt::PuntLimits;
use dataplane::scheduler;
use dataplane::service::ServerCounts;
use dataplane::shard::Shard;
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::update::{ControlEnd, Update, channel};

use crate::network::{PORT_MACS, ROUTER_MAC, client, server_mac, vip};
use crate::packet::Packet;
use crate::setup::{Kept, Setup};

/// When rows begin.
const START: Tick = Tick::from_secs(1000);

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

    /// What the kernel does otherwise, if it does.
    pub(crate) fn matter(&self) -> Option<&'static str> {
        self.differs
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
        let tuple = Tuple::new(client(family).ip(), port, vip.ip(), vip.port());
        shard.owner(shard.hash(&tuple.unwrap().addresses(), port, vip.port()))
    };
    let port = (40_000..41_000).find(|port| owner(*port) == worker).unwrap();
    SocketAddr::new(client(family).ip(), port)
}

/// Whether fragments between two addresses belong to a worker of two.
pub(crate) fn owns_addresses(worker: usize, src: IpAddr, dst: IpAddr) -> bool {
    let tuple = Tuple::new(src, 0, dst, 0).unwrap();
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
