//! Changes and listings as the workers see them.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use control::api::{
    Connection, ConnectionCursor, ConnectionFilter, ErrorCode, MAX_ROWS, MethodName, Protocol,
    Request, Response,
};

use crate::Test;
use crate::bench::{
    ACK, Bench, RS1, RS2, Raw, SYN, VIP, address, client_address, connections, counters,
    eventually, id, list_all, refusal, server, service, tcp,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("an answered change is in force on every worker", in_force),
    ("a worker held back delays the answer, and that only", held_back),
    ("a stalled worker is reported and catches up", stalled),
    ("many changes at once are all answered", many_at_once),
    ("20,000 connections are listed while workers run", long_listing),
    ("listings at odd places", odd_places),
    ("listings have what their filter lets pass", filtered),
    ("listings of several clients do not wait for each other", listings_side_by_side),
    ("every frame is accounted for", accounts),
];

/// What was answered holds for the very next frame, whichever worker gets it.
fn in_force() {
    let bench = Bench::with_guide(2);
    let mut client = bench.client();
    let mut expected = BTreeMap::new();
    for n in 0..60 {
        let (on, off) = if n % 2 == 0 { (RS1, RS2) } else { (RS2, RS1) };
        // Weighted first: both at 0 would be no server at all.
        for (address, weight) in [(on, 1), (off, 0)] {
            let server = server(address, weight);
            client.change(&Request::EditServer { service: id(VIP), server }).unwrap();
        }
        bench.receive([tcp(client_address(n), VIP, SYN)]);
        expected.insert(client_address(n).into(), address(on));
    }
    let (listed, _) = connections(&mut client);
    let seen: BTreeMap<_, _> = listed.iter().map(|c| (c.client, c.server)).collect();
    assert_eq!(seen, expected);
    let owners: HashSet<_> = listed.iter().map(|c| c.worker).collect();
    assert_eq!(owners.len(), 2, "both workers own some");
    // A service that is deleted has no connections opened any more.
    client.change(&Request::DeleteService { service: id(VIP) }).unwrap();
    bench.receive((100..110).map(|n| tcp(client_address(n), VIP, SYN)));
    assert_eq!(connections(&mut client).0.len(), 60);
}

fn held_back() {
    const HOLD: Duration = Duration::from_secs(1);
    let bench = Bench::with_guide(2);
    bench.workers[1].hold();
    let mut waits = bench.client();
    let mut other = bench.client();
    std::thread::scope(|scope| {
        let start = Instant::now();
        let change = scope.spawn(move || {
            waits
                .change(&Request::DeleteServer { service: id(VIP), server: address(RS2) })
                .unwrap();
            start.elapsed()
        });
        while start.elapsed() < HOLD {
            let asked = Instant::now();
            other.timeouts().unwrap();
            let took = asked.elapsed();
            assert!(took < HOLD / 2, "another client waited {took:?}");
            assert!(!change.is_finished(), "answered before the second worker ran it");
        }
        bench.workers[1].release();
        let took = change.join().unwrap();
        assert!(took >= HOLD, "{took:?}");
    });
}

fn stalled() {
    let bench = Bench::with_guide(2);
    bench.workers[1].hold();
    let mut client = bench.client();
    let start = Instant::now();
    let request = Request::AddService { service: service("192.168.1.101:80", "rr") };
    assert_eq!(refusal(&mut client, &request), ErrorCode::WorkerStalled);
    let took = start.elapsed();
    // The daemon takes the time once a turn, perhaps before the request came.
    assert!(took >= Duration::from_millis(1_990) && took < Duration::from_secs(10), "{took:?}");
    // Everything that needs no worker goes on, and the change is noted.
    assert_eq!(client.services(None).unwrap().services.len(), 2);
    assert_eq!(counters(&mut client).len(), 2);
    assert_eq!(refusal(&mut client, &request), ErrorCode::ServiceExists);
    let cursor = Some(ConnectionCursor { worker: 1, ipv6: false, group: 0 });
    let list = Request::ListConnections { cursor, limit: 10, filter: None, count: false };
    assert_eq!(refusal(&mut client, &list), ErrorCode::WorkerStalled);
    let ran = bench.adm("-Lnc");
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "rvsd: the worker does not answer\n"));

    bench.workers[1].release();
    let server = server(RS1, 1);
    client.change(&Request::AddServer { service: id("192.168.1.101:80"), server }).unwrap();
    bench.connect((0..20).map(client_address), "192.168.1.101:80");
    assert_eq!(connections(&mut client).0.len(), 20);
}

/// More changes than the queue to a worker holds, from many clients.
fn many_at_once() {
    let bench = Bench::start(2);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=150)
            .map(|port| {
                let mut client = bench.client();
                scope.spawn(move || {
                    let address = format!("192.168.1.100:{port}");
                    client.change(&Request::AddService { service: service(&address, "rr") })
                })
            })
            .collect();
        for _ in 0..10 {
            bench.workers[1].hold();
            std::thread::sleep(Duration::from_millis(3));
            bench.workers[1].release();
            std::thread::sleep(Duration::from_millis(1));
        }
        for thread in threads {
            thread.join().unwrap().unwrap();
        }
    });
    assert_eq!(bench.client().services(None).unwrap().services.len(), 150);
}

fn long_listing() {
    const COUNT: u16 = 20_000;
    let bench = Bench::with_guide(2);
    bench.connect((0..COUNT).map(client_address), VIP);
    let mut client = bench.client();
    std::thread::scope(|scope| {
        // Meanwhile packets and changes go on.
        let traffic = scope.spawn(|| {
            for weight in 1..100 {
                bench.receive((0..50).map(|n| tcp(client_address(n), VIP, ACK)));
                let server = server(RS1, weight);
                let edit = Request::EditServer { service: id(VIP), server };
                bench.client().change(&edit).unwrap();
            }
        });
        let mut rounds = 0;
        while !traffic.is_finished() || rounds == 0 {
            rounds += 1;
            let start = Instant::now();
            let (listed, longest) = connections(&mut client);
            assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
            assert!((1..=MAX_ROWS).contains(&longest), "{longest} rows in a page");
            check_listing(&listed, COUNT);
        }
    });
    let shares = client.services(None).unwrap().services;
    let active: Vec<_> = shares[0].servers.iter().map(|server| server.active).collect();
    assert_eq!(active, [u32::from(COUNT) / 2; 2]);
}

fn check_listing(listed: &[Connection], count: u16) {
    let clients: HashSet<_> = listed.iter().map(|c| c.client).collect();
    assert_eq!((listed.len(), clients.len()), (count.into(), count.into()), "none twice");
    let expected: HashSet<_> = (0..count).map(|n| client_address(n).into()).collect();
    assert!(clients == expected);
    for connection in listed {
        assert_eq!(connection.state, "ESTABLISHED");
        assert_eq!(connection.virtual_address, address(VIP));
        assert!([address(RS1), address(RS2)].contains(&connection.server));
        assert!((800_000..=900_000).contains(&connection.expires_ms), "{connection:?}");
    }
}

fn odd_places() {
    let bench = Bench::with_guide(1);
    bench.connect((0..500).map(client_address), VIP);
    let mut client = bench.client();
    let mut list = |worker, ipv6, group, limit| {
        let cursor = Some(ConnectionCursor { worker, ipv6, group });
        client.call(&Request::ListConnections { cursor, limit, filter: None, count: false })
    };
    for (worker, limit) in [(0, 0), (0, MAX_ROWS + 1), (0, usize::MAX), (1, 10), (u32::MAX - 1, 10)]
    {
        let error = list(worker, false, 0, limit).unwrap_err().to_string();
        assert!(error.contains("limit") || error.contains("no worker"), "{error}");
    }
    // After the last worker come the templates, of which there are none.
    let templates = ConnectionCursor { worker: u32::MAX, ipv6: false, group: 0 };
    let end = Response::Connections { connections: vec![], next: Some(templates), count: None };
    assert_eq!(list(0, true, u64::MAX, 10).unwrap(), end);
    let end = Response::Connections { connections: vec![], next: None, count: None };
    assert_eq!(list(u32::MAX, false, 0, 10).unwrap(), end);
    assert_eq!(list(u32::MAX, false, u64::MAX, 10).unwrap(), end);
    let past = list(0, false, u64::MAX, 10).unwrap();
    let next = Some(ConnectionCursor { worker: 0, ipv6: true, group: 0 });
    assert_eq!(past, Response::Connections { connections: vec![], next, count: None });
    // A page has no more rows than were asked for, or than one group.
    for limit in [1, 7, 15, 16, 100] {
        let (mut cursor, mut seen) = (None, 0);
        loop {
            let request = Request::ListConnections { cursor, limit, filter: None, count: false };
            let Response::Connections { connections, next, .. } = client.call(&request).unwrap()
            else {
                panic!("connections");
            };
            assert!(connections.len() <= limit.max(15), "{} of {limit}", connections.len());
            seen += connections.len();
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, 500, "by {limit}");
    }
    for cursor in [0, 1, 7, u64::MAX] {
        let request = Request::NextHops { cursor: Some(cursor) };
        assert!(matches!(client.call(&request).unwrap(), Response::NextHops { next: None, .. }));
        let request = Request::ListServices { service: None, cursor: Some(cursor) };
        assert!(matches!(client.call(&request).unwrap(), Response::Services { next: None, .. }));
    }
}

fn filtered() {
    let bench = Bench::with_guide(2);
    bench.connect((0..500).map(client_address), VIP);
    let mut client = bench.client();
    let all = ConnectionFilter::default;
    let mut list = |filter: &ConnectionFilter| {
        let (mut listed, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) = client.connections_page(cursor, 100, Some(filter)).unwrap();
            listed.extend(page);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(client.count_connections(filter).unwrap(), listed.len() as u64, "{filter:?}");
        listed
    };
    assert_eq!(list(&all()).len(), 500);
    let only = SocketAddr::from(client_address(7));
    let one = list(&ConnectionFilter { client: only.to_string().parse().ok(), ..all() });
    assert_eq!(one.iter().map(|c| c.client).collect::<Vec<_>>(), [only]);
    assert_eq!(one[0].method, Some(MethodName::Dr));
    let on_rs1 = list(&ConnectionFilter { server: RS1.parse().ok(), ..all() });
    assert_eq!(on_rs1.len(), 250);
    assert!(on_rs1.iter().all(|c| c.server == address(RS1)));
    let mut of_worker = |worker| list(&ConnectionFilter { worker: Some(worker), ..all() });
    let (first, second) = (of_worker(0), of_worker(1));
    assert_eq!(first.len() + second.len(), 500);
    assert!(second.iter().all(|c| c.worker == 1) && !second.is_empty());
    assert!(of_worker(2).is_empty());
    for none in [
        ConnectionFilter { protocol: Some(Protocol::Udp), ..all() },
        ConnectionFilter { method: Some(MethodName::Nat), ..all() },
        ConnectionFilter { states: vec!["TIME_WAIT".into()], ..all() },
        ConnectionFilter { virtual_address: ":81".parse().ok(), ..all() },
        ConnectionFilter { virtual_address: "::/0".parse().ok(), ..all() },
        ConnectionFilter { templates: Some(true), ..all() },
    ] {
        assert!(list(&none).is_empty(), "{none:?}");
    }
    let filter = ConnectionFilter { states: vec!["OPEN".into()], ..all() };
    let error = client.connections_page(None, 10, Some(&filter)).unwrap_err().to_string();
    assert!(error.contains("there is no state \"OPEN\""), "{error}");
}

/// The next listing begins when the one before it ends, not when something
/// else wakes the daemon.
fn listings_side_by_side() {
    let bench = Bench::with_guide(1);
    bench.connect((0..100).map(client_address), VIP);
    let mut raws: Vec<_> = (0..20).map(|_| Raw::greeted(&bench)).collect();
    for raw in &mut raws {
        raw.send(&list_all(10));
    }
    // Nobody reads, so nothing else wakes the daemon.
    std::thread::sleep(Duration::from_millis(300));
    for raw in &mut raws {
        raw.0.set_nonblocking(true).unwrap();
        let reply = raw.reply().unwrap().unwrap();
        assert!(matches!(reply, Response::Connections { next: Some(_), .. }));
    }
}

fn accounts() {
    let bench = Bench::with_guide(2);
    bench.connect((0..300).map(client_address), VIP);
    // No service there: the kernel's.
    bench.receive([tcp(client_address(0), "192.168.1.100:81", SYN)]);
    let mut client = bench.client();
    eventually("the counters settle", || {
        counters(&mut client).iter().map(|w| w.connections).sum::<u64>() == 300
    });
    for worker in counters(&mut client) {
        let (tx, punted, handed_off) = (worker.tx, worker.punted, worker.handed_off);
        assert_eq!(worker.received(), tx + punted + handed_off + worker.dropped(), "{worker:?}");
        assert_eq!(worker.received(), 601);
        assert!(worker.connections > 50, "{worker:?}");
    }
}
