//! Four workers: where the packets of many connections go.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use dataplane::packet::Protocol;
use dataplane::scheduler::Scheduler;
use dataplane::service::{Method, Persistence, ServiceKey};
use dataplane::time::{TICKS_PER_SECOND, Tick};

use crate::packet::{ACK, Packet, SYN, Seen};
use crate::random::Random;
use crate::world::{Outcome, PORT_MAC, ROUTER_MAC, Size, World, ip, key, server_mac, socket};
use crate::{alongside, nic};

const WORKERS: usize = 4;
const START: Tick = Tick::from_secs(1000);
/// Life of a template, s.
const LIFE: u32 = 300;

fn world() -> World {
    let size = Size { workers: WORKERS, connections: 10_000, templates: 1000 };
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
        let host = random.next() as u16;
        let client = match vip {
            SocketAddr::V4(_) => ip(&format!("10.9.{}.{}", host >> 8, host & 0xff)),
            SocketAddr::V6(_) => ip(&format!("fd00:9::{host:x}")),
        };
        // Each client is another one, by its port at least.
        let client = SocketAddr::new(client, 1024 + number as u16);
        let asked = arrive(world, 0, &Packet::tcp(client, vip, SYN));
        let answer = Seen::read(asked.sent()).packet.answer(SYN | ACK);
        let answered = arrive(world, 1, &answer);
        let seen = Seen::read(answered.sent()).packet;
        assert_eq!((seen.src, seen.dst), (vip, client));
        assert_eq!(asked.workers.last(), answered.workers.last(), "one owner");
        handovers[0] += asked.workers.len() - 1;
        let of_answer = answered.workers.len() - 1;
        assert!(of_answer <= 1, "{:?}", answered.workers);
        handovers[1] += of_answer;
        owned[*asked.workers.last().unwrap()] += 1;
    }
    (handovers, owned)
}

#[test]
fn answers_to_fullnat_arrive_where_they_belong() {
    let _quiet = alongside();
    let mut world = world();
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
    world.publish(START);
    let (handovers, owned) = answer_all(&mut world, &services.map(|(vip, _)| vip), 4000);
    assert_eq!(handovers, [0, 0]);
    assert!(owned.iter().all(|&n| (800..1200).contains(&n)), "{owned:?}");
}

/// What a server under NAT says arrives at any worker, which knows the owner.
#[test]
fn answers_under_nat_are_handed_over_once_at_most() {
    let _quiet = alongside();
    let mut world = world();
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

/// Every connection of a client goes to one server while its template lives,
/// whichever workers have them, and however the weights change.
#[test]
fn persistence_does_not_split_a_client_over_workers() {
    let _quiet = alongside();
    let mut world = world();
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
