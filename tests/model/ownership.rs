//! Four workers: where the packets of many connections go.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use dataplane::packet::{Family, Protocol};
use dataplane::scheduler::Scheduler;
use dataplane::service::{MarkRule, Method, Persistence, ServiceKey};
use dataplane::time::{TICKS_PER_SECOND, Tick};

use crate::packet::{ACK, Packet, RST, SYN, Seen};
use crate::random::Random;
use crate::world::{Outcome, PORT_MAC, ROUTER_MAC, Size, World, ip, key, server_mac, socket};
use crate::{alongside, nic};

const WORKERS: usize = 4;
const START: Tick = Tick::from_secs(1000);
/// Life of a template, s.
const LIFE: u32 = 300;

/// `hints`: for how many connections of each worker there is room for them.
fn world(hints: usize) -> World {
    let size = Size { workers: WORKERS, connections: 10_000, hints, templates: 1000 };
    World::new(size, &["10.0.3.1", "10.0.3.2", "fd00:3::1", "fd00:3::2"].map(ip))
}

/// Has the NIC choose the worker.
fn arrive(world: &mut World, port: u8, packet: &Packet) -> Outcome {
    let from = if port == 0 { ROUTER_MAC } else { server_mac(packet.src.ip()) };
    let bytes = packet.frame(from, PORT_MAC[usize::from(port)]);
    let (worker, hash) = nic::receiver(&world.shard, &bytes);
    world.deliver(START, worker, Some(hash), port, &bytes)
}

/// Opens connections, and has the server answer each. Handovers of requests
/// and of answers, and how many connections each worker has.
fn answer_all(world: &mut World, vips: &[&str], count: usize) -> ([usize; 2], Vec<usize>) {
    let mut random = Random::new(11);
    let (mut handovers, mut owned) = ([0; 2], vec![0; WORKERS]);
    for number in 0..count {
        let vip = socket(vips[number % vips.len()]);
        let client = client(&mut random, number, vip);
        let (asked, answer) = open(world, client, vip);
        let answered = arrive(world, 1, &answer);
        let seen = Seen::read(answered.sent()).packet;
        assert_eq!((seen.src, seen.dst), (vip, client));
        assert_eq!(asked.last(), answered.workers.last(), "one owner");
        handovers[0] += asked.len() - 1;
        let of_answer = answered.workers.len() - 1;
        assert!(of_answer <= 1, "{:?}", answered.workers);
        handovers[1] += of_answer;
        owned[*asked.last().unwrap()] += 1;
    }
    (handovers, owned)
}

/// A client of a service, each another one, by its port at least.
fn client(random: &mut Random, number: usize, vip: SocketAddr) -> SocketAddr {
    let host = random.next() as u16;
    let address = match vip {
        SocketAddr::V4(_) => ip(&format!("10.9.{}.{}", host >> 8, host & 0xff)),
        SocketAddr::V6(_) => ip(&format!("fd00:9::{host:x}")),
    };
    SocketAddr::new(address, 1024 + number as u16)
}

/// Opens a connection. The workers that its first packet went to, and what the
/// server answers.
fn open(world: &mut World, client: SocketAddr, vip: SocketAddr) -> (Vec<usize>, Packet) {
    let asked = arrive(world, 0, &Packet::tcp(client, vip, SYN));
    let answer = Seen::read(asked.sent()).packet.answer(SYN | ACK);
    (asked.workers, answer)
}

#[test]
fn answers_to_fullnat_arrive_where_they_belong() {
    let _quiet = alongside();
    let mut world = world(0);
    let services = [
        ("10.0.1.100:80", "10.0.2.1:80"),
        ("10.0.1.100:81", "[fd00:2::1]:80"),
        ("[fd00:1::100]:80", "[fd00:2::2]:80"),
        ("[fd00:1::100]:81", "10.0.2.2:80"),
    ];
    for (vip, server) in services {
        let key = key(Protocol::Tcp, vip);
        world.add_service(key, Scheduler::Rr, None, false);
        world.add_server(&key, socket(server), Method::Fullnat, 1);
    }
    // The servers are under NAT, too.
    for (vip, server) in [
        ("10.0.1.101:80", "10.0.2.1:80"),
        ("10.0.1.101:81", "10.0.2.1:80"),
        ("10.0.1.101:82", "10.0.2.2:80"),
        ("[fd00:1::101]:80", "[fd00:2::1]:80"),
        ("[fd00:1::101]:81", "[fd00:2::2]:80"),
    ] {
        let key = key(Protocol::Tcp, vip);
        world.add_service(key, Scheduler::Rr, None, false);
        world.add_server(&key, socket(server), Method::Nat, 1);
    }
    world.publish(START);
    let (handovers, owned) = answer_all(&mut world, &services.map(|(vip, _)| vip), 4000);
    assert_eq!(handovers, [0, 0]);
    assert!(owned.iter().all(|&n| (800..1200).contains(&n)), "{owned:?}");
}

/// What a server under NAT says arrives at any worker, which knows the owner.
#[test]
fn answers_under_nat_are_handed_over_once_at_most() {
    let _quiet = alongside();
    let mut world = world(0);
    let services = [("10.0.1.100:80", "10.0.2.1:8080"), ("[fd00:1::100]:80", "[fd00:2::1]:8080")];
    for (vip, server) in services {
        let key = key(Protocol::Tcp, vip);
        world.add_service(key, Scheduler::Rr, None, false);
        world.add_server(&key, socket(server), Method::Nat, 1);
    }
    world.publish(START);
    let (handovers, owned) = answer_all(&mut world, &services.map(|(vip, _)| vip), 4000);
    assert_eq!(handovers[0], 0);
    assert!(handovers[1] > 0, "some servers' answers belong to others");
    assert!(owned.iter().all(|&n| (800..1200).contains(&n)), "{owned:?}");
}

/// What the services of [`sharing`] are reached by.
const SHARING: [&str; 7] = [
    "10.0.1.100:80",
    "10.0.1.101:80",
    "10.0.1.100:81",
    "[fd00:1::100]:80",
    "[fd00:1::101]:80",
    "10.0.4.7:80",
    "10.0.4.8:80",
];

/// NAT services with a server in common, and one by mark.
fn sharing(hints: usize) -> World {
    let mut world = world(hints);
    for vip in &SHARING[..5] {
        let key = key(Protocol::Tcp, vip);
        world.add_service(key, Scheduler::Rr, None, false);
        let server = if vip.starts_with('[') { "[fd00:2::1]:8080" } else { "10.0.2.1:8080" };
        world.add_server(&key, socket(server), Method::Nat, 1);
    }
    let marked = ServiceKey::Fwmark { mark: 4, family: Family::V4 };
    world.add_service(marked, Scheduler::Rr, None, false);
    world.add_server(&marked, socket("10.0.2.2:8080"), Method::Nat, 1);
    world.rules = vec![MarkRule {
        mark: 4,
        protocol: Some(Protocol::Tcp),
        source: None,
        destination: Some((ip("10.0.4.0"), 24)),
        ports: Some((80, 80)),
        ingress: Some(0),
    }];
    world.publish(START);
    world
}

/// Which of several services a server answers for is not to be seen, but who
/// has the connection has said so.
#[test]
fn answers_of_shared_servers_are_handed_over_once_at_most() {
    let _quiet = alongside();
    let mut world = sharing(10_000);
    let (handovers, owned) = answer_all(&mut world, &SHARING, 4900);
    assert_eq!(handovers[0], 0);
    assert!(handovers[1] > 0, "some servers' answers belong to others");
    assert!(owned.iter().all(|&n| (900..1500).contains(&n)), "{owned:?}");
}

/// A client that uses its port again for another service of the same server is
/// another worker's: what was said of the old connection no longer counts.
#[test]
fn a_port_that_is_used_again_has_a_new_hint() {
    let _quiet = alongside();
    let mut world = sharing(10_000);
    let mut random = Random::new(3);
    let mut moved = 0;
    for number in 0..200 {
        let [first, second] = [0, 1].map(|vip| socket(SHARING[vip]));
        let client = client(&mut random, number, first);
        let (before, answer) = open(&mut world, client, first);
        arrive(&mut world, 1, &answer);
        // The server refuses.
        arrive(&mut world, 1, &Packet { flags: RST, ..answer });
        let (after, answer) = open(&mut world, client, second);
        let answered = arrive(&mut world, 1, &answer);
        assert_eq!(Seen::read(answered.sent()).packet.src, second);
        assert!(answered.workers.len() <= 2, "{:?}", answered.workers);
        moved += usize::from(before.last() != after.last());
    }
    assert!(moved > 100, "{moved}");
}

/// After many others' hints an answer goes round and finds its connection; then
/// its owner is known again.
#[test]
fn answers_whose_hints_are_gone_go_round_once() {
    let _quiet = alongside();
    // Room for 400: a set of seven has two of the connections in use.
    let mut world = sharing(50);
    let mut random = Random::new(8);
    let mut open_one = |world: &mut World, number: usize| {
        let vip = socket(SHARING[number % SHARING.len()]);
        let client = client(&mut random, number, vip);
        (open(world, client, vip), vip, client)
    };
    // Established, so that answers take the short way where they may.
    let in_use: Vec<_> = (0..100)
        .map(|number| {
            let ((asked, answer), vip, client) = open_one(&mut world, number);
            arrive(&mut world, 1, &answer);
            arrive(&mut world, 0, &Packet::tcp(client, vip, ACK));
            ((asked, Packet { flags: ACK, ..answer }), vip, client)
        })
        .collect();
    for number in 100..4000 {
        open_one(&mut world, number);
    }
    let mut rounds = Vec::new();
    for _ in 0..6 {
        let mut handovers = [0; WORKERS + 1];
        for ((asked, answer), vip, client) in &in_use {
            let answered = arrive(&mut world, 1, answer);
            let seen = Seen::read(answered.sent()).packet;
            assert_eq!((seen.src, seen.dst), (*vip, *client));
            assert_eq!(asked.last(), answered.workers.last(), "one owner");
            handovers[answered.workers.len() - 1] += 1;
        }
        rounds.push(handovers);
    }
    let more_than_one = |handovers: &[usize; WORKERS + 1]| handovers[2..].iter().sum::<usize>();
    assert!(more_than_one(&rounds[0]) > 20, "{rounds:?}");
    assert_eq!(more_than_one(&rounds[5]), 0, "{rounds:?}");
}

/// Every connection of a client goes to one server while its template lives,
/// whichever workers have them, and however the weights change.
#[test]
fn persistence_does_not_split_a_client_over_workers() {
    let _quiet = alongside();
    let mut world = world(0);
    let service: ServiceKey = key(Protocol::Tcp, "10.0.1.100:80");
    let persistence = Persistence { timeout: LIFE * TICKS_PER_SECOND, prefix: 24 };
    world.add_service(service, Scheduler::Rr, Some(persistence), false);
    let servers = ["10.0.2.1:80", "10.0.2.2:80", "10.0.2.3:80", "10.0.2.4:80"].map(socket);
    for (server, method) in
        servers.into_iter().zip([Method::Dr, Method::Nat, Method::Fullnat, Method::Fullnat])
    {
        world.add_server(&service, server, method, 1);
    }
    world.publish(START);
    let mut random = Random::new(5);
    let mut now = START;
    // Where a client network went, and when it last opened a connection.
    let mut went: HashMap<usize, (SocketAddr, Tick)> = HashMap::new();
    let (mut workers, mut moved, mut kept) = (HashSet::new(), 0, 0);
    for number in 0..4000_u16 {
        let network = random.below(100);
        let address = format!("10.9.{network}.{}", random.below(250));
        let client = SocketAddr::new(ip(&address), 1024 + number);
        let worker = random.below(WORKERS);
        let syn = Packet::tcp(client, socket("10.0.1.100:80"), SYN);
        let outcome = world.client_sends(now, worker, &syn);
        workers.insert(*outcome.workers.last().unwrap());
        let to = &outcome.sent()[..6];
        let server = *servers.iter().find(|s| server_mac(s.ip()) == to).unwrap();
        match went.insert(network, (server, now)) {
            Some((before, last)) if now < last.plus(LIFE * TICKS_PER_SECOND) => {
                assert_eq!(server, before, "network {network} at {now:?}, last at {last:?}");
                kept += 1;
            }
            Some((before, _)) => moved += usize::from(before != server),
            None => {}
        }
        if number % 50 == 0 {
            // Templates name servers that now take no new clients, too.
            world.server(&service, servers[random.below(4)]).weight = random.below(2) as u32;
            world.server(&service, servers[0]).weight = 1;
            world.publish(now);
            now = now.plus(TICKS_PER_SECOND * (1 + random.below(12) as u32));
            (0..20).for_each(|_| world.housekeeping(now));
        }
        if number % 1000 == 999 {
            // Longer than templates and half-open connections live.
            for _ in 0..20 {
                now = now.plus(30 * TICKS_PER_SECOND);
                (0..20).for_each(|_| world.housekeeping(now));
            }
            assert_eq!(world.template_rows().len(), 0);
        }
    }
    assert_eq!(workers.len(), WORKERS);
    assert!(kept > 3000 && moved > 50, "{kept} kept, {moved} moved");
}
