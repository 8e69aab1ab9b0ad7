use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicI64;

use proptest::prelude::*;

use super::*;

const KEY: HashKey = HashKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 42]);
const CLIENT: u32 = 0xc0a8_010c;
/// `-p` alone.
const TIMEOUT: u32 = 360 * TICKS_PER_SECOND;

fn client(i: u32) -> TemplateKey {
    TemplateKey::v4(1, i, u32::MAX)
}

/// A table with the servers' numbers of templates.
struct Bench {
    templates: Templates,
    counts: HashMap<u32, i64>,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        Self { templates: Templates::new(capacity, KEY).unwrap(), counts: HashMap::new() }
    }

    /// Opens with `chosen` for a server that is to be chosen, refusing `bad`.
    fn open_but(
        &mut self,
        now: Tick,
        key: &TemplateKey,
        chosen: Option<u32>,
        bad: u32,
    ) -> Result<(TemplateSlot, u32), Refused> {
        let counts = &mut self.counts;
        let counted = |server, change| count(counts, server, change);
        self.templates.open(now, key, TIMEOUT, |server| server != bad, || chosen, counted)
    }

    fn open(&mut self, now: Tick, key: &TemplateKey, chosen: u32) -> (TemplateSlot, u32) {
        self.open_but(now, key, Some(chosen), u32::MAX).unwrap()
    }

    /// Opens and closes again: the server.
    fn touch(&mut self, now: Tick, key: &TemplateKey, chosen: u32) -> u32 {
        let (slot, server) = self.open(now, key, chosen);
        self.templates.close(slot);
        server
    }

    fn sweep(&mut self, now: Tick) {
        let counts = &mut self.counts;
        let all = self.templates.bucket_count();
        self.templates.sweep(now, all, |server, change| count(counts, server, change));
    }

    fn rows(&self) -> Vec<TemplateRow> {
        rows(&self.templates)
    }

    fn count(&self, server: u32) -> i64 {
        self.counts.get(&server).copied().unwrap_or(0)
    }
}

fn count(counts: &mut HashMap<u32, i64>, server: u32, change: Change) {
    *counts.entry(server).or_default() += if change == Change::Added { 1 } else { -1 };
}

fn rows(templates: &Templates) -> Vec<TemplateRow> {
    let mut rows = Vec::new();
    for bucket in 0..templates.bucket_count() {
        templates.scan(bucket, |row| rows.push(*row));
    }
    rows
}

#[test]
fn a_client_keeps_its_server_until_the_timeout_has_passed() {
    let mut bench = Bench::new(100);
    let key = client(CLIENT);
    assert_eq!(bench.touch(Tick(0), &key, 7), 7);
    assert_eq!(bench.touch(Tick(100), &key, 8), 7);
    // The timeout runs from the last connection that was opened.
    let end = Tick(100 + TIMEOUT);
    bench.sweep(Tick(end.0 - 1));
    let row = TemplateRow { key, server: 7, controlled: 0, assured: false, expiry: end };
    assert_eq!(bench.rows(), [row]);
    assert_eq!((bench.count(7), bench.count(8)), (1, 0));
    bench.sweep(end);
    assert!(bench.rows().is_empty());
    assert_eq!(bench.count(7), 0);
    assert_eq!(bench.touch(end, &key, 9), 9);
}

/// Nobody gets the server of a template that is over, swept or not.
#[test]
fn a_template_that_is_over_is_made_anew() {
    let mut bench = Bench::new(100);
    bench.touch(Tick(0), &client(CLIENT), 7);
    let slot = bench.open(Tick(TIMEOUT - 1), &client(CLIENT), 8);
    assert_eq!(slot.1, 7);
    bench.templates.assure(slot.0);
    bench.templates.close(slot.0);
    assert_eq!(bench.touch(Tick(2 * TIMEOUT - 1), &client(CLIENT), 9), 9);
    assert_eq!((bench.count(7), bench.count(9)), (0, 1));
    assert!(!bench.rows()[0].assured);
}

#[test]
fn connections_keep_a_template_alive() {
    let mut bench = Bench::new(100);
    let key = client(CLIENT);
    let (one, _) = bench.open(Tick(0), &key, 7);
    let (other, server) = bench.open(Tick(0), &key, 8);
    assert_eq!((other, server), (one, 7));
    assert_eq!(bench.rows()[0].controlled, 2);
    // Over, but for its connections: it is looked at again after 60 s.
    let late = Tick(TIMEOUT + 5);
    bench.sweep(late);
    assert_eq!(bench.rows()[0].expiry, late.plus(480));
    bench.templates.close(one);
    bench.sweep(late.plus(479));
    bench.sweep(late.plus(480));
    let row = bench.rows()[0];
    assert_eq!((row.controlled, row.expiry), (1, late.plus(960)));
    // Also without any sweep in between.
    let later = late.plus(10_000);
    let (third, server) = bench.open(later, &key, 9);
    assert_eq!((third, server), (one, 7));
    bench.templates.close(third);
    bench.templates.close(other);
    bench.sweep(later.plus(TIMEOUT - 1));
    assert_eq!(bench.rows().len(), 1);
    bench.sweep(later.plus(TIMEOUT));
    assert!(bench.rows().is_empty());
    assert_eq!(bench.counts, HashMap::from([(7, 0)]));
}

#[test]
fn clients_of_one_network_share_a_template() {
    let mut bench = Bench::new(100);
    let v4 = |client| TemplateKey::v4(1, client, 0xffff_ff00);
    assert_eq!(v4(0xc0a8_010c), v4(0xc0a8_01ff));
    assert_eq!(bench.touch(Tick(0), &v4(0xc0a8_010c), 7), 7);
    assert_eq!(bench.touch(Tick(0), &v4(0xc0a8_01ff), 8), 7);
    assert_eq!(bench.touch(Tick(0), &v4(0xc0a8_020c), 8), 8);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 0];
    assert_eq!(v4(0xc0a8_010c).client(), mapped);

    let address = |byte: usize| {
        let mut address = [0x20; 16];
        address[byte] ^= 1;
        address
    };
    let v6 = |client| TemplateKey::v6(1, client, 64);
    assert_eq!(bench.touch(Tick(0), &v6(address(15)), 11), 11);
    assert_eq!(bench.touch(Tick(0), &v6(address(8)), 12), 11);
    assert_eq!(bench.touch(Tick(0), &v6(address(7)), 12), 12);
    let expected: [u8; 16] = std::array::from_fn(|i| if i < 8 { 0x20 } else { 0 });
    assert_eq!(v6(address(15)).client(), expected);

    for (prefix_len, last) in [(0, 0), (1, 0), (127, 0xfe), (128, 0xff), (255, 0xff)] {
        assert_eq!(TemplateKey::v6(1, [0xff; 16], prefix_len).client()[15], last);
    }
    assert_eq!(TemplateKey::v6(1, [0xff; 16], 0).client(), [0; 16]);
    assert_eq!(TemplateKey::v6(1, [0xff; 16], 1).client()[0], 0x80);
}

#[test]
fn services_and_clients_are_told_apart() {
    let mut bench = Bench::new(100);
    let v6 = |i: usize| TemplateKey::v6(1, std::array::from_fn(|b| u8::from(b == i)), 128);
    let mut keys = vec![client(1), client(2), TemplateKey::v4(2, 1, u32::MAX)];
    keys.extend((0..16).map(v6));
    for (key, server) in keys.iter().zip(0..) {
        assert_eq!(bench.touch(Tick(0), key, server), server);
    }
    for (key, server) in keys.iter().zip(0..) {
        assert_eq!(bench.touch(Tick(1), key, 99), server);
    }
    let mut found: Vec<_> = bench.rows().iter().map(|row| (row.server, row.key)).collect();
    found.sort_unstable_by_key(|row| row.0);
    assert_eq!(found, (0..).zip(keys).collect::<Vec<_>>());
    assert_eq!(found[2].1.service(), 2);
}

/// A deleted server, or one without weight where `expire_quiescent_template` is
/// set.
#[test]
fn a_server_that_takes_no_more_is_replaced() {
    let mut bench = Bench::new(100);
    let key = client(CLIENT);
    let (old, _) = bench.open(Tick(0), &key, 7);
    bench.templates.assure(old);
    assert!(bench.rows()[0].assured);
    // Nothing else to be had: the template stays as it is.
    assert_eq!(bench.open_but(Tick(1), &key, None, 7), Err(Refused::NoServer));
    assert_eq!((bench.rows()[0].server, bench.rows()[0].controlled), (7, 1));
    assert_eq!(bench.touch(Tick(1), &key, 8), 7);

    let (new, server) = bench.open_but(Tick(2), &key, Some(8), 7).unwrap();
    assert_eq!(server, 8);
    assert_eq!((bench.count(7), bench.count(8)), (0, 1));
    let expiry = Tick(2 + TIMEOUT);
    let row = TemplateRow { key, server: 8, controlled: 2, assured: false, expiry };
    assert_eq!(bench.rows(), [row]);
    bench.templates.close(old);
    bench.templates.close(new);
    bench.sweep(expiry);
    assert!(bench.rows().is_empty());
    assert_eq!(bench.counts, HashMap::from([(7, 0), (8, 0)]));
}

#[test]
fn no_server_leaves_nothing_behind() {
    let mut bench = Bench::new(100);
    assert_eq!(bench.open_but(Tick(0), &client(1), None, 0), Err(Refused::NoServer));
    assert!(bench.rows().is_empty());
    assert!(bench.counts.is_empty());
    assert_eq!(bench.touch(Tick(0), &client(1), 3), 3);
}

#[test]
fn holds_its_capacity_and_is_full_soon_after() {
    for capacity in [100, 1_000, 20_000] {
        let mut bench = Bench::new(capacity);
        let mut slots = Vec::new();
        for i in 0..capacity as u32 {
            slots.push(bench.open(Tick(0), &client(i), 7).0);
        }
        let slot_count = bench.templates.bucket_count() * WAYS;
        let refused = (0..2 * capacity as u32)
            .filter(|i| {
                let key = client(0x0a00_0000 + i);
                let opened = bench.open_but(Tick(0), &key, Some(8), u32::MAX);
                opened.is_err_and(|why| why == Refused::Full)
            })
            .count();
        assert_eq!(bench.rows().len(), 3 * capacity - refused);
        assert!(refused >= 3 * capacity - slot_count);
        // Those that were there first are all there still.
        for (i, &slot) in (0..).zip(&slots) {
            assert_eq!(bench.open(Tick(1), &client(i), 9), (slot, 7));
        }
    }
}

#[test]
fn the_smallest_table_works_and_the_impossible_one_is_an_error() {
    let mut bench = Bench::new(0);
    let slots: Vec<_> = (0..14).map(|i| bench.open(Tick(0), &client(i), i)).collect();
    assert!((0..14).all(|i| slots[i as usize].1 == i));
    assert_eq!(bench.open_but(Tick(0), &client(14), Some(1), u32::MAX), Err(Refused::Full));
    bench.templates.close(slots[3].0);
    bench.sweep(Tick(TIMEOUT));
    assert_eq!(bench.touch(Tick(TIMEOUT), &client(14), 1), 1);
    assert!(Templates::new(usize::MAX, KEY).is_err());
}

/// What a flood of SYNs leaves behind makes room; what real clients left stays.
#[test]
fn idle_templates_that_were_never_assured_make_room() {
    let mut bench = Bench::new(0);
    for i in 0..14 {
        let (slot, _) = bench.open(Tick(i), &client(i), i);
        // 0 to 3 are in use, 4 to 7 assured.
        if (4..8).contains(&i) {
            bench.templates.assure(slot);
        }
        if i >= 4 {
            bench.templates.close(slot);
        }
    }
    for i in 8..14 {
        // The one that would end first goes first.
        bench.open(Tick(20), &client(100 + i), 100 + i);
        let left: Vec<_> = bench.rows().iter().map(|row| row.server).collect();
        assert!(!left.contains(&i) && (i + 1..14).all(|other| left.contains(&other)));
        assert_eq!((bench.count(i), bench.count(100 + i)), (0, 1));
    }
    assert_eq!(bench.open_but(Tick(20), &client(200), Some(1), 0), Err(Refused::Full));
    assert!((4..8).all(|i| bench.touch(Tick(20), &client(i), 999) == i));
    // Assured ones make room once they are over.
    let end = Tick(20 + TIMEOUT);
    assert_eq!(bench.open(end, &client(200), 200).1, 200);
    assert_eq!(bench.rows().len(), 14);
}

#[test]
fn a_busy_bucket_refuses_what_is_new_only() {
    let mut bench = Bench::new(0);
    bench.touch(Tick(0), &client(1), 7);
    for bucket in 0..2 {
        let (locked, known, unknown) = (Tick(1), client(1), client(2 + bucket));
        bench.templates.buckets[bucket as usize].lock.store(1, Ordering::Relaxed);
        assert_eq!(bench.touch(locked, &known, 8), 7);
        assert_eq!(bench.open_but(locked, &unknown, Some(8), 0), Err(Refused::Busy));
        assert_eq!(bench.open_but(locked, &known, Some(8), 7), Err(Refused::Busy));
        let held = &bench.templates.buckets[bucket as usize].lock;
        assert_eq!(held.load(Ordering::Relaxed), 1, "who did not get it does not unlock it");
        held.store(0, Ordering::Relaxed);
        // Nor was the other bucket left locked.
        assert_eq!(bench.touch(locked, &unknown, 8), 8);
    }
}

#[test]
fn sweeps_go_on_where_the_last_ended() {
    let mut bench = Bench::new(1_000);
    for i in 0..1_000 {
        bench.touch(Tick(0), &client(i), 7);
    }
    let buckets = bench.templates.bucket_count();
    let mut removed = 0;
    for _ in 0..buckets.div_ceil(10) {
        bench.templates.sweep(Tick(TIMEOUT), 10, |server, change| {
            assert_eq!((server, change), (7, Change::Removed));
            removed += 1;
        });
    }
    assert_eq!(removed, 1_000);
    assert!(bench.rows().is_empty());
}

#[test]
fn a_slot_survives_as_a_number() {
    let mut bench = Bench::new(100);
    let (slot, _) = bench.open(Tick(0), &client(1), 7);
    assert_eq!(TemplateSlot::from_number(slot.number()), Some(slot));
    assert_eq!(TemplateSlot::from_number(0), None);
    assert_eq!(TemplateSlot::of(0, 0).number(), 1);
    assert_eq!(TemplateSlot::of(3, 6).index(), (3, 6));
}

/// xorshift, for threads.
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Workers that see the same clients for the first time at the same time agree
/// on one server for each.
#[test]
fn workers_agree_on_a_clients_server() {
    const CLIENTS: u32 = 500;
    let templates = Templates::new(2 * CLIENTS as usize, KEY).unwrap();
    let next_server = AtomicU32::new(0);
    let balance: Vec<AtomicI64> = (0..10 * CLIENTS).map(|_| AtomicI64::new(0)).collect();
    let counted = |server: u32, change| {
        let amount = if change == Change::Added { 1 } else { -1 };
        balance[server as usize].fetch_add(amount, Ordering::Relaxed);
    };
    let seen: Vec<Vec<u32>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut servers = Vec::new();
                    for client_number in (0..CLIENTS).flat_map(|i| [i; 4]) {
                        let key = client(client_number);
                        let choose = || Some(next_server.fetch_add(1, Ordering::Relaxed));
                        let (slot, server) = loop {
                            let opened =
                                templates.open(Tick(0), &key, 8, |_| true, choose, counted);
                            match opened {
                                Ok(opened) => break opened,
                                Err(why) => assert_eq!(why, Refused::Busy),
                            }
                        };
                        servers.push(server);
                        templates.close(slot);
                    }
                    servers
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert!(seen.iter().all(|servers| *servers == seen[0]));
    assert_eq!(next_server.into_inner(), CLIENTS, "one choice for each client");
    let rows = rows(&templates);
    assert_eq!(rows.len(), CLIENTS as usize);
    assert!(rows.iter().all(|row| row.controlled == 0));
    assert!(rows.iter().all(|r| balance[r.server as usize].load(Ordering::Relaxed) == 1));
    templates.sweep(Tick(8), templates.bucket_count(), counted);
    assert!(balance.iter().all(|count| count.load(Ordering::Relaxed) == 0));
}

/// Templates end, make room and change their servers under the workers' hands;
/// while a worker has a connection open, every other one gets the same server.
#[test]
fn a_template_in_use_has_one_server_while_others_come_and_go() {
    const CLIENTS: u64 = 40;
    const ROUNDS: usize = 15_000;
    // Too small for all clients.
    let templates = Templates::new(0, KEY).unwrap();
    let now = AtomicU32::new(0);
    let counts: Vec<AtomicI64> = (0..64).map(|_| AtomicI64::new(0)).collect();
    let counted = |server: u32, change| {
        let amount = if change == Change::Added { 1 } else { -1 };
        counts[server as usize].fetch_add(amount, Ordering::Relaxed);
    };
    let work = |seed: u64| {
        let mut state = seed;
        let mut opened = 0;
        while opened < ROUNDS {
            let number = random(&mut state);
            let tick = Tick(now.load(Ordering::Relaxed));
            let key = client((number % CLIENTS) as u32);
            let open = |chosen: u64| {
                let choose = || Some((chosen % 64) as u32);
                templates.open(tick, &key, 1, |_| true, choose, counted)
            };
            let Ok((slot, server)) = open(number >> 8) else {
                std::thread::yield_now();
                continue;
            };
            // Held for a while, at times beyond its timeout.
            for _ in 0..number >> 16 & 3 {
                let again = open(number >> 20);
                if let Ok((other_slot, other_server)) = again {
                    assert_eq!((other_slot, other_server), (slot, server));
                    templates.close(other_slot);
                }
            }
            templates.close(slot);
            opened += 1;
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> =
            (1..=3).map(|seed| scope.spawn(move || work(seed * 0x9e37_79b9))).collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let tick = Tick(now.fetch_add(1, Ordering::Relaxed));
            templates.sweep(tick, 2, counted);
            for bucket in 0..templates.bucket_count() {
                templates.scan(bucket, |row| {
                    let client = row.key.client();
                    assert_eq!(client[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                    assert!(u64::from(client[15]) < CLIENTS && row.key.service() == 1);
                    assert!(row.server < 64 && row.controlled <= 6);
                });
            }
            std::thread::yield_now();
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
    assert!(rows(&templates).iter().all(|row| row.controlled == 0));
    let end = Tick(now.load(Ordering::Relaxed)).plus(KEPT_TICKS + 1);
    templates.sweep(end, 2, counted);
    assert!(rows(&templates).is_empty());
    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 0));
}

/// Workers replace a server that takes no more connections: they agree on the
/// one that comes after it.
#[test]
fn workers_agree_on_a_servers_replacement() {
    for round in 0..200 {
        let templates = Templates::new(0, KEY).unwrap();
        let log = Mutex::new(Vec::new());
        let counted = |server, change| log.lock().unwrap().push((server, change));
        templates.open(Tick(0), &client(round), 8, |_| true, || Some(0), counted).unwrap();
        let servers: Vec<u32> = std::thread::scope(|scope| {
            let worker = |mine: u32| {
                let (templates, counted) = (&templates, &counted);
                move || loop {
                    let still_ok = |server| server != 0;
                    let opened = templates.open(
                        Tick(1),
                        &client(round),
                        8,
                        still_ok,
                        || Some(mine),
                        counted,
                    );
                    match opened {
                        Ok((_, server)) => break server,
                        Err(why) => assert_eq!(why, Refused::Busy),
                    }
                }
            };
            let workers: Vec<_> = (1..=2).map(|mine| scope.spawn(worker(mine))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(servers[0], servers[1]);
        let changes = [(0, Change::Added), (servers[0], Change::Added), (0, Change::Removed)];
        assert_eq!(*log.lock().unwrap(), changes);
        assert_eq!(rows(&templates)[0].controlled, 3);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Open {
        client: u8,
        chosen: u32,
        timeout: u32,
    },
    Close {
        nth: usize,
    },
    Wait {
        ticks: u32,
    },
    Sweep,
    /// From now on the server takes no more.
    Refuse {
        server: u32,
    },
    Assure {
        nth: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0..12u8, 0..6u32, 1..400u32)
            .prop_map(|(client, chosen, timeout)| Step::Open { client, chosen, timeout }),
        3 => any::<usize>().prop_map(|nth| Step::Close { nth }),
        2 => (0..300u32).prop_map(|ticks| Step::Wait { ticks }),
        1 => Just(Step::Sweep),
        1 => (0..6u32).prop_map(|server| Step::Refuse { server }),
        1 => any::<usize>().prop_map(|nth| Step::Assure { nth }),
    ];
    proptest::collection::vec(step, 0..120)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Model {
    server: u32,
    controlled: u32,
    assured: bool,
    expiry: Tick,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn behaves_as_a_map_does(steps in steps()) {
        // 12 clients always find room in 14 places.
        let mut bench = Bench::new(0);
        let mut model: HashMap<u8, Model> = HashMap::new();
        let mut open: Vec<(u8, TemplateSlot)> = Vec::new();
        let (mut now, mut refused) = (Tick(0), u32::MAX);
        for step in steps {
            match step {
                Step::Open { client: number, chosen, timeout } => {
                    let counts = &mut bench.counts;
                    let opened = bench.templates.open(
                        now,
                        &client(number.into()),
                        timeout,
                        |server| server != refused,
                        || (chosen != refused).then_some(chosen),
                        |server, change| count(counts, server, change),
                    );
                    if model.get(&number).is_some_and(|m| m.controlled == 0 && m.expiry <= now) {
                        model.remove(&number);
                    }
                    let kept = model.get(&number).copied().filter(|m| m.server != refused);
                    if kept.is_none() && chosen == refused {
                        prop_assert_eq!(opened, Err(Refused::NoServer));
                        continue;
                    }
                    let fresh = Model { server: chosen, assured: false, controlled: 0, expiry: now };
                    let before = model.get(&number).map_or(0, |m| m.controlled);
                    let kept = kept.unwrap_or(Model { controlled: before, ..fresh });
                    let expiry = now.plus(timeout);
                    let after = Model { controlled: kept.controlled + 1, expiry, ..kept };
                    model.insert(number, after);
                    let (slot, server) = opened.unwrap();
                    prop_assert_eq!(server, after.server);
                    open.push((number, slot));
                }
                Step::Close { nth } if !open.is_empty() => {
                    let (number, slot) = open.swap_remove(nth % open.len());
                    bench.templates.close(slot);
                    model.get_mut(&number).unwrap().controlled -= 1;
                }
                Step::Assure { nth } if !open.is_empty() => {
                    let (number, slot) = open[nth % open.len()];
                    bench.templates.assure(slot);
                    model.get_mut(&number).unwrap().assured = true;
                }
                Step::Close { .. } | Step::Assure { .. } => {}
                Step::Wait { ticks } => now = now.plus(ticks),
                Step::Refuse { server } => refused = server,
                Step::Sweep => {
                    bench.sweep(now);
                    model.retain(|_, m| m.controlled > 0 || m.expiry > now);
                    for m in model.values_mut().filter(|m| m.expiry <= now) {
                        m.expiry = now.plus(480);
                    }
                }
            }
            let listed: HashMap<u8, Model> = bench
                .rows()
                .iter()
                .map(|&TemplateRow { key, server, controlled, assured, expiry }| {
                    (key.client()[15], Model { server, controlled, assured, expiry })
                })
                .collect();
            // One that is over may be taken out late, or early by a refusal.
            let lasting = |m: &Model| m.controlled > 0 || m.expiry > now;
            let of = |map: &HashMap<u8, Model>| {
                map.iter().filter(|(_, m)| lasting(m)).map(|(&c, &m)| (c, m)).collect()
            };
            let (left, right): (HashMap<u8, Model>, HashMap<u8, Model>) = (of(&listed), of(&model));
            prop_assert_eq!(left, right);
            for server in 0..6 {
                let templates = listed.values().filter(|m| m.server == server).count() as i64;
                prop_assert_eq!(bench.count(server), templates);
            }
        }
    }
}
