//! Several workers: the same packets give the same results as with one, each
//! connection is one worker's alone, and packets go to it directly where they
//! can.
//!
//! Packets come in at any worker, as from a device without RSS, or at the one
//! that the NIC's hash says.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use dataplane::packet::{Family, Protocol};
use dataplane::scheduler::Scheduler;
use dataplane::service::{Encapsulation, MarkRule, Method, Persistence, ServiceKey};
use dataplane::time::Tick;
use dataplane::update::ConnectionRow;

use crate::packet::{
    ACK, FIN, Packet, SYN, Seen, add, checksum_offset, fold, fragments, l4_sum, too_big,
};
use crate::random::Random;
use crate::world::{End, Outcome, PORT_MAC, ROUTER_MAC, Size, World, ip, key, server_mac, socket};
use crate::{alongside, nic};

const LOCALS: [&str; 4] = ["10.0.3.1", "10.0.3.2", "fd00:3::1", "fd00:3::2"];
const ROUTERS: [&str; 2] = ["10.77.0.1", "fd00:77::1"];
const START: Tick = Tick::from_secs(1000);

/// Which worker receives a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Arrival {
    /// Any.
    Anywhere,
    /// The one that the NIC's hash says, and the frame has the hash.
    Hashed,
}

/// A service and its servers, all of one method.
struct Plan {
    protocol: Protocol,
    /// Of a service by mark: where the addresses begin that it has.
    vip: &'static str,
    method: Method,
    servers: &'static [&'static str],
    persistent: bool,
    /// Of a service by mark, which has [`MARKED_HOSTS`] addresses and
    /// [`MARKED_PORTS`] ports.
    mark: Option<u32>,
}

const TUN: Method = Method::Tun(Encapsulation::Ipip);

/// A power of two, as in a prefix.
const MARKED_HOSTS: u8 = 128;
const MARKED_PORTS: u16 = 10;
/// The services by mark: one keeps the port of packets, the other maps it.
const MARKED: [(Protocol, &str, u32, &[&str]); 2] = [
    (Protocol::Tcp, "10.0.4.0:80", 4, &["10.0.2.10:0", "10.0.2.11:0"]),
    (Protocol::Udp, "[fd00:4::]:80", 6, &["[fd00:2::10]:8080", "[fd00:2::11]:8080"]),
];

/// Of the NAT services three share servers.
fn plans() -> Vec<Plan> {
    use Method::{Dr, Fullnat, Nat};
    use Protocol::{Tcp, Udp};
    let shared = &["10.0.2.1:8080", "10.0.2.2:8080"];
    let shared6 = &["[fd00:2::1]:8080", "[fd00:2::2]:8080"];
    let marked = MARKED.map(|(protocol, vip, mark, servers)| Plan {
        protocol,
        vip,
        method: Nat,
        servers,
        persistent: false,
        mark: Some(mark),
    });
    [
        (Tcp, "10.0.1.100:80", Nat, &shared[..], false),
        (Tcp, "10.0.1.100:81", Nat, shared, false),
        (Tcp, "10.0.1.101:80", Nat, shared, true),
        (Udp, "10.0.1.100:53", Nat, &["10.0.2.3:53", "10.0.2.4:5353"], false),
        (Tcp, "10.0.1.100:90", Fullnat, &["10.0.2.5:80", "10.0.2.6:80"], true),
        (Udp, "10.0.1.100:91", Fullnat, &["[fd00:2::7]:91"], false),
        (Udp, "10.0.1.100:94", Fullnat, &["10.0.2.9:94", "10.0.2.9:95"], false),
        (Tcp, "10.0.1.100:92", Dr, &["10.0.2.7:92", "10.0.2.8:92"], true),
        (Udp, "10.0.1.100:93", TUN, &["10.0.2.7:93", "10.0.2.8:93"], false),
        (Tcp, "[fd00:1::100]:80", Nat, shared6, false),
        (Tcp, "[fd00:1::100]:81", Nat, shared6, false),
        (Tcp, "[fd00:1::100]:90", Fullnat, &["[fd00:2::5]:80", "10.0.2.5:80"], true),
        (Udp, "[fd00:1::100]:91", Fullnat, &["10.0.2.7:91"], false),
        (Udp, "[fd00:1::100]:94", Fullnat, &["[fd00:2::9]:94"], false),
        (Udp, "[fd00:1::100]:93", Dr, &["[fd00:2::8]:93", "[fd00:2::9]:93"], false),
    ]
    .into_iter()
    .map(|(protocol, vip, method, servers, persistent)| Plan {
        protocol,
        vip,
        method,
        servers,
        persistent,
        mark: None,
    })
    .chain(marked)
    .collect()
}

/// A client's connection, that may be.
#[derive(Clone)]
struct Conversation {
    plan: usize,
    client: SocketAddr,
    /// What it connects to.
    to: SocketAddr,
}

#[derive(Debug, Clone)]
enum Step {
    Client {
        of: usize,
        flags: u8,
        len: usize,
    },
    Server {
        of: usize,
        flags: u8,
        len: usize,
    },
    /// A datagram in three fragments, in this order.
    Fragments {
        of: usize,
        by_server: bool,
        order: [usize; 3],
        id: u16,
    },
    /// A router beyond the client or the server could not pass on the packet
    /// that was last sent there.
    TooBig {
        of: usize,
        at_server: bool,
    },
    Wait {
        seconds: u32,
    },
}

/// Conversations with ports of their own, and what happens in them: all begin,
/// then things happen at random.
fn script(seed: u64, count: usize, steps: usize) -> (Vec<Conversation>, Vec<Step>) {
    let mut random = Random::new(seed);
    let plans = plans();
    let conversations: Vec<_> = (0..count)
        .map(|number| {
            let plan = random.below(plans.len());
            let host = random.below(40);
            let address = if socket(plans[plan].vip).is_ipv4() {
                format!("10.{}.7.{}", 9 + host % 3, 1 + host)
            } else {
                format!("fd00:9:{}::{:x}", host % 3, 1 + host)
            };
            let client = SocketAddr::new(ip(&address), 10_000 + number as u16);
            let to = plans[plan].destination(&mut random);
            Conversation { plan, client, to }
        })
        .collect();
    let begin = (0..count).map(|of| Step::Client { of, flags: SYN, len: 0 });
    let rest = (0..steps).map(|id| {
        let of = random.below(count);
        let len = random.below(50);
        let flags = [ACK, ACK, ACK, ACK, SYN, SYN | ACK, FIN | ACK][random.below(7)];
        match random.below(200) {
            0..80 => Step::Client { of, flags, len },
            80..160 => Step::Server { of, flags, len },
            160..180 => {
                let order = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]][random.below(4)];
                let by_server = random.below(2) == 0;
                Step::Fragments { of, by_server, order, id: id as u16 }
            }
            180..199 => Step::TooBig { of, at_server: random.below(2) == 0 },
            _ => Step::Wait { seconds: 1 + random.below(40) as u32 },
        }
    });
    (conversations, begin.chain(rest).collect())
}

struct Bench {
    world: World,
    plans: Vec<Plan>,
    arrival: Arrival,
    random: Random,
    now: Tick,
    conversations: Vec<Conversation>,
    /// Of each conversation: the packet that was last sent to the server, and
    /// the one to the client.
    sent: Vec<[Option<Vec<u8>>; 2]>,
    /// The worker that had it to decide.
    owners: Vec<Option<usize>>,
    /// Replies that reached their clients, by method and number of handovers.
    reply_handovers: BTreeMap<(&'static str, usize), usize>,
}

impl Bench {
    /// `hints`: for how many connections of each worker there is room for them.
    fn new(workers: usize, arrival: Arrival, hints: usize, conversations: &[Conversation]) -> Self {
        let size = Size { workers, connections: 6000, hints, templates: 1000 };
        let mut world = World::new(size, &LOCALS.map(ip));
        let plans = plans();
        world.rules = plans.iter().filter_map(Plan::rule).collect();
        for plan in &plans {
            let key = plan.key();
            let persistence =
                plan.persistent.then(|| Persistence { timeout: 1 << 20, prefix: plan.prefix() });
            world.add_service(key, Scheduler::Rr, persistence, false);
            for server in plan.servers {
                world.add_server(&key, socket(server), plan.method, 1);
            }
        }
        world.publish(START);
        Self {
            world,
            plans,
            arrival,
            random: Random::new(7),
            now: START,
            conversations: conversations.to_vec(),
            sent: vec![[None, None]; conversations.len()],
            owners: vec![None; conversations.len()],
            reply_handovers: BTreeMap::new(),
        }
    }

    /// What a step leads to, without what may differ: local addresses and
    /// ports, and the ids that workers give packets.
    fn run(&mut self, step: &Step) -> Vec<String> {
        match *step {
            Step::Client { of, flags, len } => {
                let packet = self.client_packet(of, flags, len);
                let bytes = packet.frame(ROUTER_MAC, PORT_MAC[0]);
                let outcome = self.arrive(of, 0, &bytes);
                if let End::Sent { bytes, .. } = &outcome.end {
                    assert!(Seen::read(bytes).checksum_good);
                    self.sent[of][0] = Some(bytes.clone());
                }
                digest(&outcome)
            }
            Step::Server { of, flags, len } => {
                let Some(packet) = self.server_packet(of, flags, len) else { return vec![] };
                let bytes = packet.frame(server_mac(packet.src.ip()), PORT_MAC[1]);
                let outcome = self.arrive(of, 1, &bytes);
                if let End::Sent { bytes, .. } = &outcome.end {
                    self.count_reply(of, &outcome);
                    let seen = Seen::read(bytes);
                    assert!(seen.checksum_good);
                    let Conversation { plan, client, to } = self.conversations[of];
                    if self.plans[plan].method == Method::Nat {
                        assert_eq!((seen.packet.src, seen.packet.dst), (to, client));
                    }
                    self.sent[of][1] = Some(bytes.clone());
                }
                digest(&outcome)
            }
            Step::Fragments { of, by_server, order, id } => self.datagram(of, by_server, order, id),
            Step::TooBig { of, at_server } => self.too_big(of, at_server),
            Step::Wait { seconds } => {
                self.now = self.now.plus(seconds * 8);
                // 500 groups a table, at least 64 a round.
                for _ in 0..10 {
                    self.world.housekeeping(self.now);
                }
                vec![]
            }
        }
    }

    fn client_packet(&self, of: usize, flags: u8, len: usize) -> Packet {
        let Conversation { plan, client, to } = self.conversations[of];
        let plan = &self.plans[plan];
        let flags = if plan.protocol == Protocol::Tcp { flags } else { 0 };
        let payload = vec![0xa5; len];
        Packet { protocol: plan.protocol, src: client, dst: to, flags, ttl: 64, payload }
    }

    /// The server's answer to what it was last sent, where it passes the
    /// director.
    fn server_packet(&self, of: usize, flags: u8, len: usize) -> Option<Packet> {
        if !self.plans[self.conversations[of].plan].is_two_sided() {
            return None;
        }
        let asked = Seen::read(self.sent[of][0].as_ref()?).packet;
        let flags = if asked.protocol == Protocol::Tcp { flags } else { 0 };
        Some(asked.answer(flags).with_payload(vec![0x5a; len]))
    }

    fn datagram(&mut self, of: usize, by_server: bool, order: [usize; 3], id: u16) -> Vec<String> {
        let (packet, port) = if by_server {
            let Some(packet) = self.server_packet(of, ACK, 100) else { return vec![] };
            (packet, 1)
        } else {
            (self.client_packet(of, ACK, 100), 0)
        };
        let from = if port == 0 { ROUTER_MAC } else { server_mac(packet.src.ip()) };
        let (macs, ips) = ((from, PORT_MAC[port]), (packet.src.ip(), packet.dst.ip()));
        let pieces = fragments(macs, ips, packet.protocol, id, &packet.summed(), 40);
        let mut all = Vec::new();
        for piece in order {
            let bytes = &pieces[piece];
            let (worker, hash) = self.receiver(bytes);
            let outcome = self.world.deliver(self.now, worker, hash, port as u8, bytes);
            all.extend(digest(&outcome));
        }
        all.sort();
        let lost = all.iter().filter(|one| one.contains("Absorbed")).count();
        let sent = all.iter().filter(|one| one.starts_with("port")).count();
        // A datagram is passed on whole or not at all.
        assert!(sent == 0 || (sent == 3 && lost < 3), "{all:?}");
        all
    }

    /// A router's error about the last packet that went to one side, which the
    /// other side gets.
    fn too_big(&mut self, of: usize, at_server: bool) -> Vec<String> {
        let plan = &self.plans[self.conversations[of].plan];
        if matches!(plan.method, Method::Tun(_)) {
            return vec![];
        }
        let about = match (at_server, plan.is_two_sided()) {
            (true, false) => return vec![],
            // What a server sends under direct routing does not pass.
            (false, false) => {
                let packet = self.client_packet(of, ACK, 10).answer(ACK);
                packet.frame(PORT_MAC[0], ROUTER_MAC)
            }
            _ => match &self.sent[of][usize::from(!at_server)] {
                Some(frame) => frame.clone(),
                None => return vec![],
            },
        };
        let port = usize::from(at_server);
        let is_ip4 = about[12..14] == [0x08, 0];
        let router = ip(ROUTERS[usize::from(!is_ip4)]);
        let bytes = too_big(ROUTER_MAC, PORT_MAC[port], router, &about);
        let outcome = self.arrive(of, port as u8, &bytes);
        digest(&outcome)
    }

    /// Delivers a packet of a conversation, and sees that it is decided by the
    /// worker that decides all of them.
    fn arrive(&mut self, of: usize, port: u8, bytes: &[u8]) -> Outcome {
        let (worker, hash) = self.receiver(bytes);
        let outcome = self.world.deliver(self.now, worker, hash, port, bytes);
        let last = *outcome.workers.last().unwrap();
        if let End::Sent { .. } = outcome.end {
            let owner = *self.owners[of].get_or_insert(last);
            assert_eq!(owner, last, "of another worker's connection {of}");
        }
        if self.arrival == Arrival::Hashed && port == 0 && !is_icmp(bytes) {
            assert_eq!(outcome.workers.len(), 1, "a client's packet arrives where it belongs");
        }
        outcome
    }

    fn receiver(&mut self, bytes: &[u8]) -> (usize, Option<u32>) {
        match self.arrival {
            Arrival::Anywhere => (self.random.below(self.world.workers()), None),
            Arrival::Hashed => {
                let (worker, hash) = nic::receiver(&self.world.shard, bytes);
                (worker, Some(hash))
            }
        }
    }

    fn count_reply(&mut self, of: usize, outcome: &Outcome) {
        let plan = &self.plans[self.conversations[of].plan];
        let method = match plan.method {
            Method::Fullnat => "fullnat",
            _ if plan.mark.is_some() => "nat, by mark",
            _ if plan.servers.iter().any(|s| s.ends_with(":8080")) => "nat, shared server",
            _ => "nat",
        };
        let handovers = outcome.workers.len() - 1;
        *self.reply_handovers.entry((method, handovers)).or_default() += 1;
    }

    /// Everything that is left: connections, counts, templates.
    fn remains(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        let mut seen = HashSet::new();
        for worker in 0..self.world.workers() {
            #[cfg(debug_assertions)]
            assert_eq!(self.world.director(worker).foreign_packets(), 0, "worker {worker}");
            for ConnectionRow { key, server, state, expiry } in self.world.rows(self.now, worker) {
                let server = self.world.server_name(server);
                let key = format!("{key:?}");
                assert!(seen.insert(key.clone()), "two workers have {key}");
                all.push(format!("{key} {server:?} {state:?} {expiry:?}"));
            }
        }
        for plan in &self.plans {
            for server in plan.servers {
                let counts = &self.world.server(&plan.key(), socket(server)).counts;
                let connections = &counts.connections;
                let (read, templates) = (connections.read(), connections.templates());
                all.push(format!("{server} {read:?} {templates} {:?}", counts.totals()));
            }
        }
        all.extend(self.world.template_rows().iter().map(|row| format!("{row:?}")));
        all.sort();
        all
    }
}

impl Plan {
    fn key(&self) -> ServiceKey {
        let Some(mark) = self.mark else { return key(self.protocol, self.vip) };
        let family = if socket(self.vip).is_ipv4() { Family::V4 } else { Family::V6 };
        ServiceKey::Fwmark { mark, family }
    }

    /// What gives packets the mark: any address of a prefix, some ports.
    fn rule(&self) -> Option<MarkRule> {
        let first = socket(self.vip);
        Some(MarkRule {
            mark: self.mark?,
            protocol: Some(self.protocol),
            source: None,
            destination: Some((first.ip(), self.prefix() - MARKED_HOSTS.trailing_zeros() as u8)),
            ports: Some((first.port(), first.port() + MARKED_PORTS - 1)),
            ingress: Some(0),
        })
    }

    /// What a client connects to: the VIP, or any address and port of the mark.
    fn destination(&self, random: &mut Random) -> SocketAddr {
        let mut to = socket(self.vip);
        if self.mark.is_some() {
            let host = random.below(MARKED_HOSTS.into()) as u8;
            to.set_ip(match to.ip() {
                IpAddr::V4(first) => (first.to_bits() | u32::from(host)).to_be_bytes().into(),
                IpAddr::V6(first) => (first.to_bits() | u128::from(host)).to_be_bytes().into(),
            });
            to.set_port(to.port() + random.below(MARKED_PORTS.into()) as u16);
        }
        to
    }

    fn prefix(&self) -> u8 {
        if socket(self.vip).is_ipv4() { 32 } else { 128 }
    }

    fn is_two_sided(&self) -> bool {
        matches!(self.method, Method::Nat | Method::Fullnat)
    }
}

fn is_icmp(bytes: &[u8]) -> bool {
    (bytes[12] == 0x08 && bytes[23] == 1) || (bytes[12] == 0x86 && bytes[20] == 58)
}

/// Whether an address is one of [`LOCALS`].
fn is_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == [10, 0, 3],
        IpAddr::V6(address) => address.segments()[..2] == [0xfd00, 3],
    }
}

/// All that came of a packet, without what may differ.
fn digest(outcome: &Outcome) -> Vec<String> {
    let also = outcome.also.iter().map(|(port, bytes)| describe(*port, bytes));
    let end = match &outcome.end {
        End::Sent { port, bytes } => describe(*port, bytes),
        end => format!("{end:?}"),
    };
    std::iter::once(end).chain(also).collect()
}

/// A frame that leaves: MAC addresses, IP addresses, ports, and payload.
fn describe(port: u8, frame: &[u8]) -> String {
    let mut bytes = frame.to_vec();
    let (macs, rest) = bytes.split_at_mut(14);
    format!("port {port} {macs:02x?} {}", describe_ip(rest))
}

fn describe_ip(bytes: &mut [u8]) -> String {
    let (src, dst): (IpAddr, IpAddr);
    let (protocol, ttl, offset, more, l4);
    if bytes[0] == 0x45 {
        let address = |i: usize| <[u8; 4]>::try_from(&bytes[i..i + 4]).unwrap().into();
        (src, dst) = (address(12), address(16));
        let flags = u16::from_be_bytes([bytes[6], bytes[7]]);
        (protocol, ttl, offset, more) =
            (bytes[9], bytes[8], (flags & 0x1fff) * 8, flags & 0x2000 != 0);
        l4 = 20;
    } else {
        let address = |i: usize| <[u8; 16]>::try_from(&bytes[i..i + 16]).unwrap().into();
        (src, dst) = (address(8), address(24));
        ttl = bytes[7];
        if bytes[6] == 44 {
            let field = u16::from_be_bytes([bytes[42], bytes[43]]);
            (protocol, offset, more) = (bytes[40], field & 0xfff8, field & 1 != 0);
            l4 = 48;
        } else {
            (protocol, offset, more) = (bytes[6], 0, false);
            l4 = 40;
        }
    }
    let name = |a: &IpAddr| if is_local(a) { "local".into() } else { a.to_string() };
    let body = &mut bytes[l4..];
    let what = match (protocol, Protocol::from_number(protocol)) {
        (4 | 41, _) => describe_ip(body),
        // The length of what is quoted is up to the director.
        (1 | 58, _) => {
            let good = match src {
                IpAddr::V4(_) => fold(add(0, body)) == 0xffff,
                IpAddr::V6(_) => l4_sum(src, dst, protocol, body) == 0,
            };
            assert!(good, "an ICMP checksum: {body:02x?}");
            let kind = [body[0], body[1]];
            format!("{kind:?} about {}", describe_ip(&mut body[8..]))
        }
        (_, Some(protocol)) if offset == 0 => {
            if is_local(&src) {
                body[..2].fill(0);
            }
            if is_local(&dst) {
                body[2..4].fill(0);
            }
            let sum = checksum_offset(protocol);
            if let Some(sum) = body.get_mut(sum..sum + 2) {
                sum.fill(0);
            }
            format!("{body:02x?}")
        }
        _ => format!("{body:02x?}"),
    };
    format!("{} > {} {protocol} ttl {ttl} {offset} {more}: {what}", name(&src), name(&dst))
}

/// The same packets with one worker and with several.
fn compare_with_one_worker(arrival: Arrival, hints: usize) -> Vec<Bench> {
    let _quiet = alongside();
    let (conversations, steps) = script(1, 1500, 3500);
    let mut one = Bench::new(1, Arrival::Anywhere, 0, &conversations);
    let expected: Vec<_> = steps.iter().map(|step| one.run(step)).collect();
    let sent = expected.iter().filter(|all| all.iter().any(|d| d.starts_with("port"))).count();
    assert!(sent > steps.len() / 2, "{sent} steps sent something");
    let several = [2, 4].map(|workers| {
        let mut several = Bench::new(workers, arrival, hints, &conversations);
        for (step, expected) in steps.iter().zip(&expected) {
            assert_eq!(several.run(step), *expected, "{workers} workers: {step:?}");
        }
        assert_eq!(several.remains(), one.remains());
        let owners: HashSet<_> = several.owners.iter().flatten().collect();
        assert_eq!(owners.len(), workers, "all have something to do");
        several
    });
    several.into()
}

/// Most handovers that a reply took, by method.
fn most_handovers(bench: &Bench) -> Vec<(&'static str, usize)> {
    let mut most = BTreeMap::new();
    for &(method, handovers) in bench.reply_handovers.keys() {
        most.insert(method, handovers);
    }
    most.into_iter().collect()
}

#[test]
fn several_workers_do_what_one_does_wherever_packets_arrive() {
    for bench in compare_with_one_worker(Arrival::Anywhere, 6000) {
        let once = [("fullnat", 1), ("nat", 1), ("nat, by mark", 1), ("nat, shared server", 1)];
        assert_eq!(most_handovers(&bench), once, "{:?}", bench.reply_handovers);
    }
}

#[test]
fn several_workers_do_what_one_does_with_the_nics_hash() {
    for bench in compare_with_one_worker(Arrival::Hashed, 6000) {
        let once = [("fullnat", 0), ("nat", 1), ("nat, by mark", 1), ("nat, shared server", 1)];
        assert_eq!(most_handovers(&bench), once, "{:?}", bench.reply_handovers);
    }
}

/// With room for some hints only nearly every reply without a constant of its own
/// asks in turn. What a client under a mark connected to can be any address, so
/// all workers may be asked, from the first on, whoever received it: once round
/// is `workers` handovers, as the receiver may be among those asked.
#[test]
fn several_workers_do_what_one_does_without_hints() {
    for bench in compare_with_one_worker(Arrival::Hashed, 1) {
        let once_round = bench.world.workers();
        let most = most_handovers(&bench);
        assert_eq!(most[..2], [("fullnat", 0), ("nat", 1)], "{:?}", bench.reply_handovers);
        assert_eq!(most[2], ("nat, by mark", once_round), "{:?}", bench.reply_handovers);
        // One of three services after the other is asked.
        let (shared, handovers) = most[3];
        assert_eq!(shared, "nat, shared server");
        assert!((2..=3).contains(&handovers), "{:?}", bench.reply_handovers);
    }
}
