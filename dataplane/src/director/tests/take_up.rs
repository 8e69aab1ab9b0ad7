//! Connections that another director had (`take_up`).

use super::fragments::{TCP, first, later};
use super::*;

/// A bench whose TCP service takes connections up.
fn bench(connections: usize) -> Bench {
    let mut bench = Bench::new(1, connections);
    let flags = scheduler::HashFlags { fallback: false, port: true };
    bench.change_service(Protocol::Tcp, |service| {
        service.scheduler = Scheduler::Mh(flags);
        service.candidates = candidates(service.scheduler, [1, 1]);
        service.take_up = true;
    });
    bench
}

fn taken_up(bench: &mut Bench) -> u64 {
    bench.director.counters_mut().taken_up
}

#[test]
fn another_director_finds_the_same_servers() {
    let (mut first, mut other) = (bench(1000), bench(1000));
    let mut servers = [0; 2];
    for port in 5000..5200 {
        let server = first.server_of(NOON, &tcp4(port, "S"));
        servers[server] += 1;
        assert_eq!(first.server_of(NOON, &tcp4(port, "A")), server);
        for flags in ["A", "A", "FA", "A"] {
            assert_eq!(other.server_of(NOON, &tcp4(port, flags)), server, "{flags}");
        }
    }
    assert!(servers[0] > 50 && servers[1] > 50, "{servers:?}");
    assert_eq!((taken_up(&mut first), taken_up(&mut other)), (0, 200));
}

/// Client packets, the server's connections after them, and how long these live
/// without another, s.
#[test]
fn what_is_taken_up_is_half_open_until_the_next_packet() {
    for (packets, (active, inactive), seconds, ups) in [
        (&["A"][..], (1, 0), 60, 1),
        (&["A", "A"], (1, 0), 900, 1),
        (&["A", "A", "FA"], (0, 1), 120, 1),
        (&["A", "FA"], (0, 1), 120, 1),
        (&["A", "A", "RA"], (0, 1), 10, 1),
        (&["FA"], (0, 1), 10, 0),
        // The client's last ACK opens nothing.
        (&["FA", "A"], (0, 1), 10, 0),
        (&["S"], (1, 0), 60, 0),
    ] {
        let mut bench = bench(100);
        let server = bench.server_of(NOON, &tcp4(5000, packets[0]));
        for flags in &packets[1..] {
            assert_eq!(bench.server_of(NOON, &tcp4(5000, flags)), server);
        }
        assert_eq!(bench.connections(server), (active, inactive), "{packets:?}");
        assert_eq!(taken_up(&mut bench), ups, "{packets:?}");
        let now = bench.pass_time(NOON, seconds - 1);
        assert_eq!(bench.connections(server), (active, inactive), "{packets:?}");
        bench.pass_time(now, 3);
        assert_eq!(bench.connections(server), (0, 0), "{packets:?}");
    }
}

/// A reset is for the server to know. What is no segment of a connection is the
/// kernel's, as without the setting.
#[test]
fn what_opens_nothing() {
    let server = bench(100).server_of(NOON, &tcp4(5000, "A"));
    let mut fresh = bench(100);
    for flags in ["R", "RA"] {
        assert_eq!(fresh.server_of(NOON, &tcp4(5000, flags)), server);
    }
    for flags in ["", "F"] {
        assert_eq!(fresh.send(NOON, &tcp4(5000, flags)).0, Verdict::Punt, "{flags:?}");
    }
    assert_eq!(fresh.director.tables.connections(), 0);
    let counters = fresh.director.counters_mut();
    assert_eq!((counters.taken_up, counters.stateless), (0, 0));
}

/// The later fragments of a reset, which opened nothing.
#[test]
fn later_fragments_go_where_the_first_went() {
    let mut bench = bench(100);
    let server = bench.server_of(NOON, &first(TCP, 7, 5000, tcp::RST));
    assert_eq!(bench.server_of(NOON, &later(TCP, 7, 3)), server);
    assert_eq!(bench.director.tables.connections(), 0);
}

/// A flood of ACKs is one of half-open connections: it takes no place from
/// others, and others find a place.
#[test]
fn a_flood_of_acks_makes_room_as_one_of_syns_does() {
    let mut bench = bench(600);
    let real: Vec<_> = (1000..1100)
        .map(|port| {
            bench.server_of(NOON, &tcp4(port, "S"));
            bench.server_of(NOON, &tcp4(port, "A"))
        })
        .collect();
    let flood = |bench: &mut Bench, ports: std::ops::Range<u16>| {
        for port in ports {
            bench.server_of(NOON.plus(8), &tcp4(port, "A"));
        }
    };
    flood(&mut bench, 10_000..14_000);
    let counters = bench.director.counters_mut();
    assert!(counters.recycled > 3000, "{}", counters.recycled);
    assert_eq!(counters.taken_up + counters.stateless, 4000);
    let before = bench.director.tables.connections();
    for port in 2000..2050 {
        let server = bench.server_of(NOON.plus(16), &tcp4(port, "S"));
        assert_eq!(bench.server_of(NOON.plus(16), &tcp4(port, "A")), server);
    }
    assert_eq!(bench.director.tables.connections(), before, "in the places of others");
    for (port, server) in (1000..1100).zip(real) {
        assert_eq!(bench.server_of(NOON.plus(16), &tcp4(port, "A")), server);
    }
    // What is half-open is over first.
    bench.pass_time(NOON.plus(16), 62);
    let left = bench.director.tables.connections();
    assert!((140..=150).contains(&left), "{left}");
}
