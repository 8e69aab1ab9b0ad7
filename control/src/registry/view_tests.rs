//! What snapshots share, and what a change touches.

use dataplane::service::{Method as Published, Service};
use dataplane::snapshot::Snapshot;

use super::tests::{NO_ROUTE, VIP, code, id, registry, server, service};
use super::*;
use crate::api::Method;

/// Services enough for several blocks of servers and several in each part.
const SERVICES: u8 = 200;

fn vip(n: u8) -> String {
    format!("10.1.0.{n}:80")
}

fn rip(service: u8, n: u8) -> String {
    format!("10.2.{service}.{n}:80")
}

fn key(n: u8) -> ServiceKey {
    key_of(&id(&vip(n))).unwrap()
}

/// Many services of two servers: 0 and 1 are the first one's, and so on.
fn many(scheduler: &str) -> Registry {
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let mut registry = Registry::new(1, vec![], timeouts);
    for n in 0..SERVICES {
        registry.add_service(service(&vip(n), scheduler)).unwrap();
        for host in [1, 2] {
            registry.add_server(&id(&vip(n)), server(&rip(n, host), 1), NO_ROUTE).unwrap();
        }
    }
    registry
}

/// The services that a snapshot does not have from another, and those in parts
/// that it does not have from it.
fn own_services(snapshot: &Snapshot, last: &Snapshot) -> (Vec<u8>, Vec<u8>) {
    let of = |n: &u8| [snapshot, last].map(|snapshot| snapshot.services.get(&key(*n)));
    let own = |n: &u8| !matches!(of(n), [Some(a), Some(b)] if Arc::ptr_eq(a, b));
    let [now, then] = [snapshot, last].map(|snapshot| snapshot.services.by_key());
    let in_own = |n: &u8| !Arc::ptr_eq(now.shard(&key(*n)), then.shard(&key(*n)));
    ((0..SERVICES).filter(own).collect(), (0..SERVICES).filter(in_own).collect())
}

fn beside(snapshot: &Snapshot, service: u8) -> Vec<u8> {
    let services = snapshot.services.by_key();
    let shard = services.shard(&key(service));
    (0..SERVICES).filter(|n| Arc::ptr_eq(services.shard(&key(*n)), shard)).collect()
}

fn weights(service: &Service) -> Vec<u32> {
    service.candidates.iter().map(|candidate| candidate.weight).collect()
}

#[test]
fn a_change_copies_what_it_is_about() {
    // With mh a service that is built anew for nothing costs a millisecond.
    let mut registry = many("mh");
    let last = registry.snapshot();
    registry.edit_server(&id(&vip(70)), server(&rip(70, 1), 9), NO_ROUTE).unwrap();
    let snapshot = registry.snapshot();
    // Server 140.
    assert_eq!(snapshot.servers.own_blocks(&last.servers).collect::<Vec<_>>(), [140 / 64]);
    assert_eq!(own_services(&snapshot, &last), (vec![70], beside(&snapshot, 70)));
    assert_eq!(weights(snapshot.services.get(&key(70)).unwrap()), [1, 9]);
    assert_eq!(weights(last.services.get(&key(70)).unwrap()), [1, 1]);
    let servers = [&snapshot, &last].map(|snapshot| snapshot.server(140).unwrap().weight);
    assert_eq!(servers, [9, 1]);
    assert!(Arc::ptr_eq(&snapshot.nat_sources, &last.nat_sources));
}

#[test]
fn what_concerns_no_service_shares_all() {
    let mut registry = many("wlc");
    let last = registry.snapshot();
    registry.set_timeouts(Timeouts { tcp: 7, tcp_fin: 0, udp: 0 }).unwrap();
    let refused = registry.add_server(&id(&vip(3)), server(&rip(3, 1), 1), NO_ROUTE);
    assert_eq!(code(refused), ErrorCode::ServerExists);
    assert!(registry.resolve(0..u32::MAX, NO_ROUTE).is_empty());
    let snapshot = registry.snapshot();
    assert_ne!(snapshot.timeouts, last.timeouts);
    assert_eq!(snapshot.servers.own_blocks(&last.servers).count(), 0);
    assert_eq!(own_services(&snapshot, &last), (vec![], vec![]));
}

#[test]
fn a_way_that_changes_touches_the_server_alone() {
    let mut registry = many("wlc");
    let last = registry.snapshot();
    let way = |spec: &ServerSpec| match spec.address.to_string() == rip(100, 2) {
        true => Hop::Local,
        false => Hop::NoRoute,
    };
    assert_eq!(registry.resolve(0..u32::MAX, &way).len(), 1);
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.server(201).unwrap().hop, Hop::Local);
    assert_eq!(snapshot.servers.own_blocks(&last.servers).collect::<Vec<_>>(), [201 / 64]);
    assert_eq!(own_services(&snapshot, &last), (vec![], vec![]));
}

#[test]
fn changes_that_come_together_make_one_snapshot() {
    let mut registry = many("rr");
    let last = registry.snapshot();
    let gone = id(&vip(5));
    registry.add_server(&id(&vip(3)), server(&rip(3, 3), 3), NO_ROUTE).unwrap();
    registry.edit_server(&id(&vip(3)), server(&rip(3, 1), 8), NO_ROUTE).unwrap();
    registry.edit_server(&id(&vip(3)), server(&rip(3, 1), 9), NO_ROUTE).unwrap();
    registry.delete_server(&id(&vip(4)), rip(4, 1).parse().unwrap()).unwrap();
    registry.add_server(&id(&vip(4)), server(&rip(4, 1), 6), NO_ROUTE).unwrap();
    registry.delete_service(&gone).unwrap();
    registry.delete_service(&id(&vip(6))).unwrap();
    registry.add_service(service(&vip(6), "wlc")).unwrap();
    registry.add_service(service(VIP, "rr")).unwrap();
    registry.delete_service(&id(VIP)).unwrap();
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.epoch, last.epoch + 1);
    let of = |n| snapshot.services.get(&key(n)).unwrap();
    assert_eq!((weights(of(3)), weights(of(4))), (vec![3, 1, 9], vec![6, 1]));
    // It came back before anybody heard that it went.
    assert!(!snapshot.server(8).unwrap().deleted);
    assert!(snapshot.services.get(&key(5)).is_none());
    assert!(snapshot.server(10).unwrap().deleted);
    assert_eq!((of(6).scheduler.name(), weights(of(6))), ("wlc", vec![]));
    assert!(snapshot.services.get(&key_of(&id(VIP)).unwrap()).is_none());
    assert_eq!(own_services(&snapshot, &last).0, [3, 4, 5, 6]);
}

#[test]
fn nat_sources_come_and_go_one_by_one() {
    let mut registry = registry();
    let nat = |host: u8| ServerSpec { method: Method::Nat, ..server(&rip(0, host), 1) };
    for host in 0..200 {
        registry.add_server(&id(VIP), nat(host), NO_ROUTE).unwrap();
    }
    let last = registry.snapshot();
    registry.delete_server(&id(VIP), rip(0, 7).parse().unwrap()).unwrap();
    registry.add_server(&id(VIP), nat(201), NO_ROUTE).unwrap();
    let snapshot = registry.snapshot();
    let has =
        |snapshot: &Snapshot, host: u8| snapshot.nat_sources.has_address([10, 2, 0, host].into());
    // Its connections may still be there.
    assert_eq!([7, 8, 201].map(|host| has(&last, host)), [true, true, false]);
    assert_eq!([7, 8, 201].map(|host| has(&snapshot, host)), [true, true, true]);
    assert!(registry.empty_trash(snapshot.epoch));
    let snapshot = registry.snapshot();
    assert_eq!([7, 8, 201].map(|host| has(&snapshot, host)), [false, true, true]);
    assert_eq!(snapshot.server(3).unwrap().method, Published::Nat);
}

#[test]
fn rates_advance_once_a_period_in_pieces() {
    let mut registry = many("rr");
    let snapshot = registry.snapshot();
    for number in 0..u32::from(SERVICES) * 2 {
        snapshot.server(number).unwrap().counts.packet(0, 14_400);
    }
    let rates = |registry: &Registry| {
        let all = registry.statuses(None, usize::MAX).0;
        let rates = |rate: u64| {
            let servers = all.iter().flat_map(|s| &s.servers);
            servers.filter(|s| s.stats.in_byte_rate == rate).count()
        };
        let services = all.iter().filter(|s| s.stats.in_byte_rate == 3600).count();
        (services, rates(0), rates(1800), rates(1350))
    };
    // 400 servers are two pieces, of half of all services each.
    let pause = registry.estimate_rates();
    assert_eq!((pause.as_millis(), rates(&registry)), (1000, (100, 200, 200, 0)));
    registry.estimate_rates();
    assert_eq!(rates(&registry), (200, 0, 400, 0));
    registry.estimate_rates();
    assert_eq!(rates(&registry), (100, 0, 200, 200));
}

/// Requests about one server find it by its address.
#[test]
fn a_service_of_many_servers_is_in_their_order() {
    let mut registry = registry();
    for host in 0..=99 {
        registry.add_server(&id(VIP), server(&rip(1, host), 1), NO_ROUTE).unwrap();
    }
    registry.delete_server(&id(VIP), rip(1, 98).parse().unwrap()).unwrap();
    registry.delete_server(&id(VIP), "10.2.1.0:9".parse().unwrap()).unwrap();
    let servers = registry.service_status(&id(VIP)).unwrap().servers;
    let hosts: Vec<_> = servers.iter().map(|server| server.spec.address.to_string()).collect();
    assert_eq!(hosts.len(), 100);
    assert_eq!(hosts[..2], [rip(1, 99), rip(1, 97)]);
    assert_eq!(hosts[97..], [rip(1, 1), "192.168.1.32:80".into(), "192.168.1.31:80".into()]);
    assert_eq!(registry.saved(0, 1).0.services[0].servers[2].address, rip(1, 1).parse().unwrap());
}

/// mh tables take a millisecond each.
#[test]
fn what_settles_at_once_is_shown_bit_by_bit() {
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let mut registry = Registry::new(1, vec![], timeouts);
    for n in 0..5 {
        registry.add_service(service(&vip(n), "mh")).unwrap();
        registry.add_server(&id(&vip(n)), server(&rip(n, 1), 1), &|_| Hop::Unresolved).unwrap();
    }
    let all = |snapshot: &Snapshot| {
        (0..5).flat_map(|n| weights(snapshot.services.get(&key(n)).unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(all(&registry.snapshot()), [0; 5]);
    assert!(!registry.is_behind());
    assert_eq!(registry.resolve(0..9, &|_| Hop::Local).len(), 5);
    // What a client asks for is not among what waits.
    registry.edit_server(&id(&vip(4)), server(&rip(4, 1), 7), &|_| Hop::Local).unwrap();
    assert_eq!(all(&registry.snapshot()), [1, 1, 0, 0, 7]);
    let address = |n| rip(n, 1).parse().unwrap();
    let waits = [1, 2, 3, 4].map(|n| registry.is_fresh(&id(&vip(n)), address(n)));
    assert_eq!((registry.is_behind(), waits), (true, [false, true, true, false]));
    assert_eq!(all(&registry.snapshot()), [1, 1, 1, 1, 7]);
    assert!(!registry.is_behind() && !registry.is_fresh(&id(&vip(3)), address(3)));
}
