//! The director against the reference: random packets of all methods and both
//! families, time, and edits, compared after every step in what they do, in
//! counts, listings and templates.
//!
//! `RVS_MODEL_CASES=2000 cargo test -p dataplane --test model` makes it longer:
//! each case has up to 400 steps. A failure is shrunk to few steps and printed.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};

use dataplane::conn::State;
use dataplane::counters::DropReason;
use dataplane::packet::Protocol;
use dataplane::scheduler::Scheduler;
use dataplane::service::{Encapsulation, Method, Persistence, ServiceKey};
use dataplane::time::Tick;
use dataplane::update::ConnectionKey;
use proptest::prelude::*;

use crate::alongside;
use crate::packet::{ACK, FIN, Ip, Packet, RST, SYN, Seen};
use crate::reference::{
    Connection, Counts, Expect, Id, Name, Reference, SECOND, Template, Time, is_two_sided, network,
    with_port,
};
use crate::world::{
    End, MTU, Outcome, PORT_MAC, ROUTER_MAC, Size, World, ip, key, server_mac, socket,
};

const SERVERS: usize = 5;
const SERVICES: usize = 8;
/// Client's addresses (IPv4 and IPv6) and ports. Two share a template.
const CLIENTS: [(&str, &str); 3] =
    [("10.9.0.1", "fd00:9::1"), ("10.9.0.2", "fd00:9::2"), ("10.9.1.1", "fd00:9:0:1::1")];
const PORTS: [u16; 2] = [1000, 60_000];
const LOCALS: [&str; 4] = ["10.0.3.1", "10.0.3.2", "fd00:3::1", "fd00:3::2"];
const FLAGS: [u8; 11] = [SYN, SYN, ACK, ACK, ACK, FIN | ACK, RST, SYN | ACK, FIN, 0, SYN | RST];
/// How often housekeeping comes at least.
const ROUND: u32 = 20;
/// Services that the reference does not know, and their server. Connections to
/// them make the tables grow while what is compared goes on; so many open with
/// each step, and there are so many at most.
const CROWD: [(&str, &str); 2] =
    [("10.0.1.200:9", "10.0.2.99:9"), ("[fd00:1::200]:9", "[fd00:2::99]:9")];
const CROWD_STEP: u32 = 5;
const CROWD_MOST: u32 = 250;

/// A step. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Step {
    Client {
        service: usize,
        client: usize,
        port: usize,
        dport: usize,
        flags: usize,
        len: usize,
    },
    /// The client of a connection says something more.
    Again {
        connection: usize,
        flags: usize,
        len: usize,
    },
    /// The server of a connection says something.
    Server {
        connection: usize,
        flags: usize,
        len: usize,
    },
    /// A server says something that it was not asked.
    Stray {
        service: usize,
        server: usize,
        client: usize,
        port: usize,
        flags: usize,
    },
    Wait {
        seconds: u32,
    },
    Weight {
        service: usize,
        server: usize,
        weight: u32,
    },
    Thresholds {
        service: usize,
        server: usize,
        upper: u32,
        lower: u32,
    },
    /// Adds the server, or deletes it if it is there.
    ToggleServer {
        service: usize,
        server: usize,
    },
    /// The server gets another method, connections keep theirs. Not for
    /// tunnels.
    Method {
        service: usize,
        server: usize,
        method: usize,
    },
    ToggleService {
        service: usize,
    },
    Setting {
        which: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (s, n) = (0..SERVICES, 0..SERVERS);
    let step = prop_oneof![
        30 => (s.clone(), 0usize..3, 0..PORTS.len(), 0usize..3, 0..FLAGS.len(), 0usize..40).prop_map(
            |(service, client, port, dport, flags, len)| Step::Client {
                service, client, port, dport, flags, len
            }
        ),
        25 => (0usize..1000, 0..FLAGS.len(), 0usize..40)
            .prop_map(|(connection, flags, len)| Step::Again { connection, flags, len }),
        25 => (0usize..1000, 0..FLAGS.len(), 0usize..40)
            .prop_map(|(connection, flags, len)| Step::Server { connection, flags, len }),
        2 => (s.clone(), n.clone(), 0usize..3, 0..PORTS.len(), 0..FLAGS.len()).prop_map(
            |(service, server, client, port, flags)| Step::Stray {
                service, server, client, port, flags
            }
        ),
        8 => (1u32..70).prop_map(|seconds| Step::Wait { seconds }),
        2 => (70u32..1000).prop_map(|seconds| Step::Wait { seconds }),
        3 => (s.clone(), n.clone(), 0u32..4)
            .prop_map(|(service, server, weight)| Step::Weight { service, server, weight }),
        3 => (s.clone(), n.clone(), 0u32..5, 0u32..4).prop_map(
            |(service, server, upper, lower)| Step::Thresholds { service, server, upper, lower }
        ),
        8 => (s.clone(), n).prop_map(|(service, server)| Step::ToggleServer { service, server }),
        2 => (s.clone(), 0usize..3, 0usize..3)
            .prop_map(|(service, server, method)| Step::Method { service, server, method }),
        1 => s.prop_map(|service| Step::ToggleService { service }),
        2 => (0usize..7).prop_map(|which| Step::Setting { which }),
    ];
    proptest::collection::vec(step, 1..400)
}

/// The servers that each service has in the beginning, as bits; often the NAT
/// server alone, whom several services share.
fn beginnings() -> impl Strategy<Value = [usize; SERVICES]> {
    proptest::array::uniform8(prop_oneof![2 => Just(1 << 1), 3 => 1_usize..1 << SERVERS])
}

/// A service that may be configured.
#[derive(Clone)]
struct Plan {
    key: ServiceKey,
    scheduler: Scheduler,
    persistence: Option<Persistence>,
    one_packet: bool,
}

fn plans() -> [Plan; SERVICES] {
    use Protocol::{Tcp, Udp};
    let plan = |protocol, address, scheduler| Plan {
        key: key(protocol, address),
        scheduler,
        persistence: None,
        one_packet: false,
    };
    let persistent = |plan, timeout, prefix| Plan {
        persistence: Some(Persistence { timeout: timeout * SECOND, prefix }),
        ..plan
    };
    [
        plan(Tcp, "10.0.1.100:80", Scheduler::Wlc),
        persistent(plan(Tcp, "10.0.1.100:81", Scheduler::Rr), 30, 24),
        plan(Udp, "10.0.1.100:53", Scheduler::Rr),
        Plan { one_packet: true, ..plan(Udp, "10.0.1.100:54", Scheduler::Rr) },
        plan(Tcp, "[fd00:1::100]:80", Scheduler::Lc),
        persistent(plan(Tcp, "10.0.1.101:0", Scheduler::Sed), 400, 32),
        persistent(plan(Udp, "[fd00:1::100]:53", Scheduler::Nq), 50, 64),
        plan(Tcp, "10.0.1.100:82", Scheduler::Fo),
    ]
}

/// The servers that a service may have: one of each method.
fn server_of(plan: &Plan, index: usize) -> (SocketAddr, Method) {
    let ServiceKey::Address { vip, vport, .. } = plan.key else { unreachable!() };
    let tun = Method::Tun(Encapsulation::Ipip);
    let other = |method| (method, true);
    let (method, other_family) = match (index, plan.one_packet) {
        (0, _) => (Method::Dr, false),
        (1, _) => (Method::Nat, false),
        (2, _) => (tun, false),
        (3, true) => (Method::Nat, false),
        (3, false) => (Method::Fullnat, false),
        (_, true) => other(tun),
        (_, false) => other(Method::Fullnat),
    };
    let address = if vip.is_ipv4() != other_family {
        format!("10.0.2.{}", index + 1)
    } else {
        format!("fd00:2::{}", index + 1)
    };
    // Direct routing and tunnels keep the port. NAT servers are shared by
    // services, so that their replies may be those of several.
    let port = if vport == 0 || !is_two_sided(method) { vport } else { 443 };
    (SocketAddr::new(ip(&address), port), method)
}

struct Bench {
    world: World,
    reference: Reference,
    plans: [Plan; SERVICES],
    now: Time,
    /// Connections of the crowd, of each family.
    crowd: u32,
}

impl Bench {
    /// `servers` are the servers that each service has, as bits.
    fn new(servers: &[usize; SERVICES]) -> Self {
        // So few groups that a round of housekeeping sees them all.
        let size = Size { workers: 1, connections: 750, hints: 0, templates: 200 };
        let mut bench = Self {
            world: World::new(size, &LOCALS.map(ip)),
            reference: Reference::new(),
            plans: plans(),
            now: 1000 * SECOND,
            crowd: 0,
        };
        for (vip, server) in CROWD {
            let key = key(Protocol::Udp, vip);
            bench.world.add_service(key, Scheduler::Rr, None, false);
            bench.world.add_server(&key, socket(server), Method::Nat, 1);
        }
        for (service, servers) in servers.iter().enumerate() {
            bench.toggle_service(service);
            for server in (0..SERVERS).filter(|server| servers & (1 << server) != 0) {
                bench.toggle_server(service, server);
            }
        }
        bench.publish();
        bench
    }

    fn tick(&self) -> Tick {
        Tick(self.now)
    }

    fn publish(&mut self) {
        self.world.publish(Tick(self.now));
    }

    /// More connections that have two entries each.
    fn grow_crowd(&mut self) {
        let more = CROWD_STEP.min(CROWD_MOST - self.crowd);
        for number in self.crowd..self.crowd + more {
            let [high, low] = (number as u16).to_be_bytes();
            for (client, (vip, server)) in
                [format!("10.8.{high}.{low}"), format!("fd00:8::{number:x}")].iter().zip(CROWD)
            {
                let src = SocketAddr::new(ip(client), 7);
                let packet = packet(Protocol::Udp, src, socket(vip), 0, 0);
                let outcome = self.world.client_sends(self.tick(), 0, &packet);
                let sent = Seen::read(outcome.sent());
                assert_eq!((sent.packet.src, sent.packet.dst), (src, socket(server)));
            }
        }
        self.crowd += more;
    }

    fn run(&mut self, step: &Step) {
        self.grow_crowd();
        match *step {
            Step::Client { service, client, port, dport, flags, len } => {
                let ServiceKey::Address { protocol, vip, vport } = self.plans[service].key else {
                    unreachable!()
                };
                let vport = if vport == 0 { [80, 443, 8443][dport] } else { vport };
                let src = self.client(client, port, vip);
                let packet = packet(protocol, src, SocketAddr::new(vip, vport), flags, len);
                self.client_sends(&packet);
            }
            Step::Again { connection, flags, len } => {
                if let Some((id, _)) = self.nth(connection, |_| true) {
                    self.client_sends(&packet(id.0, id.1, id.2, flags, len));
                }
            }
            Step::Server { connection, flags, len } => {
                let answer = |connection: &Connection| is_two_sided(connection.method);
                if let Some((id, known)) = self.nth(connection, answer) {
                    let src = with_port(known.server.1, id.2.port());
                    let to = known.local.unwrap_or(id.1);
                    self.server_sends(&packet(id.0, src, to, flags, len));
                }
            }
            Step::Stray { service, server, client, port, flags } => {
                let plan = &self.plans[service];
                let ServiceKey::Address { protocol, .. } = plan.key else { unreachable!() };
                let (address, _) = server_of(plan, server);
                let src = with_port(address, 8443);
                let to = self.client(client, port, address.ip());
                self.server_sends(&packet(protocol, src, to, flags, 0));
            }
            Step::Wait { seconds } => {
                let end = self.now + seconds * SECOND;
                while self.now < end {
                    self.now = end.min(self.now + ROUND * SECOND);
                    self.world.housekeeping(self.tick());
                    self.reference.pass(self.now);
                }
            }
            _ => {
                self.edit(step);
                self.publish();
            }
        }
        self.compare();
    }

    fn client(&self, client: usize, port: usize, talks_to: IpAddr) -> SocketAddr {
        let (four, six) = CLIENTS[client];
        SocketAddr::new(ip(if talks_to.is_ipv4() { four } else { six }), PORTS[port])
    }

    fn edit(&mut self, step: &Step) {
        match *step {
            Step::Weight { service, server, weight } => {
                let name = self.name(service, server);
                if let Some(known) = self.reference.servers.get_mut(&name) {
                    known.weight = weight;
                    self.world.server(&name.0, name.1).weight = weight;
                }
            }
            Step::Thresholds { service, server, upper, lower } => {
                let name = self.name(service, server);
                if self.reference.servers.contains_key(&name) {
                    let lower = lower.min(upper);
                    self.reference.set_thresholds(name, upper, lower);
                    let counts = &self.world.server(&name.0, name.1).counts;
                    counts.connections.set_thresholds(upper, lower);
                }
            }
            Step::ToggleServer { service, server } => self.toggle_server(service, server),
            Step::Method { service, server, method } => {
                self.change_method(service, [0, 1, 3][server], method);
            }
            Step::ToggleService { service } => self.toggle_service(service),
            Step::Setting { which } => self.change_setting(which),
            _ => unreachable!(),
        }
    }

    fn change_method(&mut self, service: usize, server: usize, method: usize) {
        let method = [Method::Dr, Method::Nat, Method::Fullnat][method];
        let name = self.name(service, server);
        // What leaves no connection cannot be found again by its answer.
        let fits = method != Method::Fullnat || !self.plans[service].one_packet;
        if let Some(known) = self.reference.servers.get_mut(&name).filter(|_| fits) {
            known.method = method;
            self.world.server(&name.0, name.1).method = method;
        }
    }

    fn change_setting(&mut self, which: usize) {
        let settings = &mut self.reference.settings;
        match which {
            0 => settings.expire_nodest_conn ^= true,
            1 => settings.expire_quiescent_template ^= true,
            2 => settings.conn_reuse_mode ^= 1,
            3 => settings.sloppy_tcp ^= true,
            4 => settings.nat_icmp_send ^= true,
            _ => {
                let state = [State::Established, State::Udp][which - 5];
                let seconds = self.reference.timeouts.get_mut(&state).unwrap();
                *seconds = if *seconds == 40 { 700 } else { 40 };
                self.world.timeouts.set(state, *seconds);
            }
        }
        self.world.settings = self.reference.settings;
    }

    fn name(&self, service: usize, server: usize) -> Name {
        let plan = &self.plans[service];
        (plan.key, server_of(plan, server).0)
    }

    fn toggle_service(&mut self, service: usize) {
        let Plan { key, scheduler, persistence, one_packet } = self.plans[service].clone();
        if self.reference.services.contains_key(&key) {
            self.reference.delete_service(&key);
            self.world.delete_service(&key);
        } else {
            self.world.add_service(key, scheduler, persistence, one_packet);
            let number = self.world.service_number(&key);
            self.reference.add_service(key, number, scheduler, persistence, one_packet);
        }
    }

    fn toggle_server(&mut self, service: usize, server: usize) {
        let (address, method) = server_of(&self.plans[service], server);
        let name = (self.plans[service].key, address);
        let Some(known) = self.reference.services.get(&name.0) else { return };
        if known.servers.contains(&address) {
            self.reference.delete_server(name);
            self.world.delete_server(&name.0, address);
        } else {
            let weight = 1 + server as u32 % 2;
            self.reference.add_server(name, method, weight);
            self.world.add_server(&name.0, address, method, weight);
        }
    }

    fn client_sends(&mut self, packet: &Packet) {
        let outcome = self.world.client_sends(self.tick(), 0, packet);
        let expected = self.reference.client_sends(self.now, packet);
        match &expected {
            Expect::ToServer { server, id } => self.arrives(packet, &outcome, *server, id.as_ref()),
            _ => check_unsent(packet, &outcome, &expected),
        }
    }

    /// A packet goes to a server in the way of the server's method.
    fn arrives(&mut self, packet: &Packet, outcome: &Outcome, server: Name, id: Option<&Id>) {
        let connection = id.map(|id| &self.reference.connections[id]);
        let method = connection.map_or(self.reference.servers[&server].method, |c| c.method);
        let End::Sent { port, bytes } = &outcome.end else {
            panic!("{packet:?} not to {server:?} but {:?}", outcome.end)
        };
        let seen = Seen::read(bytes);
        assert_eq!((*port, seen.to, seen.from), (1, server_mac(server.1.ip()), PORT_MAC[1]));
        assert!(seen.checksum_good, "{packet:?} {seen:?}");
        let rewritten = with_port(server.1, packet.dst.port());
        let (src, dst) = match method {
            Method::Dr | Method::Tun(_) => (packet.src, packet.dst),
            Method::Nat => (packet.src, rewritten),
            Method::Fullnat => {
                self.note_local(id.unwrap(), seen.packet.src, server);
                (seen.packet.src, rewritten)
            }
        };
        assert_eq!(seen.packet, Packet { src, dst, ttl: 63, ..packet.clone() }, "{method:?}");
        let tunnel = matches!(method, Method::Tun(_)).then(|| {
            let own = if server.1.is_ipv4() { "10.0.2.1" } else { "fd00:2::1" };
            (ip(own), server.1.ip())
        });
        assert_eq!(seen.outer, tunnel);
        assert_eq!(outcome.also, [], "{packet:?}");
    }

    /// A FULLNAT connection's local address and port: as before; of a new one
    /// such that no other connection to that server has them.
    fn note_local(&mut self, id: &Id, local: SocketAddr, server: Name) {
        let to = with_port(server.1, id.2.port());
        let connections = &mut self.reference.connections;
        if let Some(known) = connections[id].local {
            assert_eq!(known, local, "{id:?} moved");
            return;
        }
        assert!(LOCALS.map(ip).contains(&local.ip()) && (1024..32_768).contains(&local.port()));
        let same = connections
            .iter()
            .find(|(of, c)| {
                c.local == Some(local) && of.0 == id.0 && with_port(c.server.1, of.2.port()) == to
            })
            .map(|(of, _)| *of);
        assert_eq!(same, None, "{local} is taken");
        connections.get_mut(id).unwrap().local = Some(local);
    }

    /// One of the connections of a kind, by any number.
    fn nth(&self, number: usize, kind: impl Fn(&Connection) -> bool) -> Option<(Id, Connection)> {
        let all: BTreeMap<_, _> = self
            .reference
            .connections
            .iter()
            .filter(|(_, connection)| kind(connection))
            .map(|(id, connection)| ((id.0 as u8, id.1, id.2), (*id, connection)))
            .collect();
        let (id, connection) = all.values().nth(number % all.len().max(1))?;
        Some((*id, (*connection).clone()))
    }

    fn server_sends(&mut self, packet: &Packet) {
        let outcome = self.world.server_sends(self.tick(), 0, packet);
        let expected = self.reference.server_sends(self.now, packet);
        let Expect::ToClient(id) = expected else {
            return check_unsent(packet, &outcome, &expected);
        };
        let End::Sent { port, bytes } = &outcome.end else {
            panic!("{packet:?} not to {id:?} but {:?}", outcome.end)
        };
        let seen = Seen::read(bytes);
        assert_eq!((*port, seen.to, seen.from), (0, ROUTER_MAC, PORT_MAC[0]));
        assert!(seen.checksum_good, "{packet:?} {seen:?}");
        assert_eq!(seen.packet, Packet { src: id.2, dst: id.1, ttl: 63, ..packet.clone() });
        assert_eq!(outcome.also, []);
    }

    fn compare(&mut self) {
        let listed = self.world.rows(Tick(self.now), 0);
        let crowd = CROWD.map(|(vip, _)| socket(vip));
        let listed: Vec<_> =
            listed.into_iter().filter(|row| !crowd.contains(&id_of(&row.key).2)).collect();
        let count = listed.len();
        let listed: HashMap<Id, _> = listed
            .into_iter()
            .map(|row| {
                let name = self.world.server_name(row.server);
                (id_of(&row.key), (name, row.state, row.expiry.0))
            })
            .collect();
        assert_eq!(listed.len(), count, "a connection is listed twice");
        let reference = &self.reference;
        let known: HashMap<_, _> = reference
            .connections
            .iter()
            .map(|(id, c)| (*id, (c.server, c.state, reference.expiry(c))))
            .collect();
        assert_eq!(listed, known);
        for (name, server) in &reference.servers {
            let counts = &self.world.server(&name.0, name.1).counts;
            let ((active, inactive), totals) = (counts.connections.read(), counts.totals());
            let counted = Counts {
                active,
                inactive,
                templates: counts.connections.templates(),
                connections: totals.connections,
                in_packets: totals.in_packets,
                in_bytes: totals.in_bytes,
                out_packets: totals.out_packets,
                out_bytes: totals.out_bytes,
            };
            assert_eq!(counted, server.counts, "{name:?}");
            assert_eq!(counts.connections.is_overloaded(), server.overloaded, "{name:?}");
        }
        let templates: HashMap<_, _> = self
            .world
            .template_rows()
            .iter()
            .map(|row| {
                let template = Template {
                    server: self.world.server_name(row.server),
                    expiry: row.expiry.0,
                    controlled: row.controlled,
                    assured: row.assured,
                };
                let client = IpAddr::from(row.key.client()).to_canonical();
                ((row.key.service(), client), template)
            })
            .collect();
        assert_eq!(templates, reference.templates);
    }
}

/// A packet that is not sent, and what the director says instead.
fn check_unsent(packet: &Packet, outcome: &Outcome, expected: &Expect) {
    let end = match expected {
        Expect::Punt => End::Punted,
        Expect::Drop(reason) => End::Dropped(*reason),
        Expect::ToServer { .. } | Expect::ToClient(_) => unreachable!(),
    };
    assert_eq!(outcome.end, end, "{packet:?}");
    let told = matches!(expected, Expect::Drop(DropReason::NoServer | DropReason::NatNoConnection));
    assert_eq!(outcome.also.len(), usize::from(told), "{packet:?} {outcome:?}");
    if told {
        // Port unreachable: of ICMP 3/3, of ICMPv6 1/4.
        let error = Ip::read(&outcome.also[0].1[14..]);
        let kind = if packet.src.is_ipv4() { [3, 3] } else { [1, 4] };
        assert_eq!((error.dst, &error.body[..2]), (packet.src.ip(), &kind[..]));
        if *expected == Expect::Drop(DropReason::NoServer) {
            assert_eq!(error.src, packet.dst.ip(), "from the VIP");
        }
    }
}

fn packet(
    protocol: Protocol,
    src: SocketAddr,
    dst: SocketAddr,
    flags: usize,
    len: usize,
) -> Packet {
    let flags = if protocol == Protocol::Tcp { FLAGS[flags] } else { 0 };
    let payload = (0..len).map(|i| (i * 7) as u8).collect();
    let packet = Packet { protocol, src, dst, flags, ttl: 64, payload };
    assert!(packet.ip_len() < MTU.into());
    packet
}

fn id_of(key: &ConnectionKey) -> Id {
    let (tuple, protocol) = match key {
        ConnectionKey::V4(key) => (dataplane::packet::Tuple::V4(key.tuple()), key.protocol()),
        ConnectionKey::V6(key) => (dataplane::packet::Tuple::V6(key.tuple()), key.protocol()),
    };
    let protocol = Protocol::from_number(protocol).unwrap();
    (protocol, tuple.source().into(), tuple.destination().into())
}

fn cases() -> u32 {
    std::env::var("RVS_MODEL_CASES").map_or(25, |cases| cases.parse().expect("a number"))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 5000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_director_does_what_the_reference_does(
        beginning in beginnings(),
        steps in steps(),
    ) {
        let _quiet = alongside();
        let mut bench = Bench::new(&beginning);
        for step in &steps {
            bench.run(step);
        }
    }
}

/// The reference itself, at lives that were recorded from the kernel: without
/// it a common mistake of both would not show.
#[test]
fn the_reference_knows_the_recorded_lives() {
    let _quiet = alongside();
    // The NAT servers alone.
    let mut bench = Bench::new(&[1 << 1; SERVICES]);
    let vip = socket("10.0.1.100:82");
    let client = socket("10.9.0.1:1000");
    let id = (Protocol::Tcp, client, vip);
    let server = socket("10.0.2.2:443");
    for (from_client, flags, state) in [
        (true, SYN, State::SynRecv),
        (false, SYN | ACK, State::SynRecv),
        (true, ACK, State::Established),
        (true, FIN | ACK, State::CloseWait),
        (false, ACK, State::CloseWait),
        (false, FIN | ACK, State::TimeWait),
        (true, ACK, State::TimeWait),
    ] {
        if from_client {
            bench.client_sends(&Packet::tcp(client, vip, flags));
        } else {
            bench.server_sends(&Packet::tcp(server, client, flags));
        }
        bench.compare();
        assert_eq!(bench.reference.connections[&id].state, state);
    }
    assert_eq!(network(ip("10.9.1.7"), 24), ip("10.9.1.0"));
    bench.run(&Step::Wait { seconds: 120 });
    assert!(bench.reference.connections.is_empty());
}
