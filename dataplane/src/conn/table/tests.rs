use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::conn::entry::{Body, Entry4, Entry6, Key4, Key6};
use crate::conn::state::State;
use crate::packet::{Protocol, Tuple4, Tuple6};

const KEY: HashKey = HashKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 42]);

fn key(i: u32) -> Key4 {
    let (src, src_port) = (0x0a00_0000 + i / 1000, (i % 1000) as u16);
    Key4::new(Protocol::Tcp, Tuple4 { src, dst: 0xc0a8_0164, src_port, dst_port: 80 })
}

fn entry(i: u32, now: Tick) -> Entry4 {
    Entry4::new(key(i), Body::new(i, State::SynRecv, now))
}

fn insert(table: &mut Table<Entry4>, i: u32, now: Tick, expiry: Tick) -> Result<Slot, TableFull> {
    let hash = table.hash(&key(i));
    table.insert(hash, now, expiry, || entry(i, now))
}

fn find(table: &Table<Entry4>, i: u32) -> Option<u32> {
    table.find(table.hash(&key(i)), &key(i)).map(|slot| table.entry(slot).body().server)
}

/// Tags and overflow counts are exactly those of the entries that are there.
fn check_invariants(table: &Table<Entry4>) {
    let mut overflow = vec![0u8; table.groups.len()];
    let mut live = 0;
    for group in 0..table.groups.len() {
        table.scan(group, |entry| {
            live += 1;
            let mut passed = table.home(table.hash(&entry.key()));
            while passed != group {
                overflow[passed] += 1;
                passed = table.next(passed);
            }
        });
    }
    let stored: Vec<_> = table.groups.iter().map(Group::overflow).collect();
    assert_eq!((live, overflow), (table.len(), stored));
}

#[test]
fn fills_to_its_limit_and_refuses_beyond() {
    let limit = 20_000;
    let mut table = Table::new(limit, KEY).unwrap();
    for i in 0..limit as u32 {
        insert(&mut table, i, Tick(0), Tick(100)).expect("room up to the limit");
    }
    assert_eq!(insert(&mut table, 9_999_999, Tick(0), Tick(100)), Err(TableFull));
    assert!((0..limit as u32).all(|i| find(&table, i) == Some(i)));
    assert_eq!(find(&table, 9_999_999), None);
    check_invariants(&table);
}

#[test]
fn a_table_for_one_connection_works() {
    let mut table = Table::new(0, KEY).unwrap();
    let slot = insert(&mut table, 1, Tick(0), Tick(1)).unwrap();
    assert_eq!(insert(&mut table, 2, Tick(0), Tick(1)), Err(TableFull));
    table.remove(slot);
    assert!(table.is_empty());
    insert(&mut table, 2, Tick(0), Tick(1)).unwrap();
}

#[test]
fn keys_that_differ_in_any_field_are_other_connections() {
    let mut table = Table::<Entry6>::new(100, KEY).unwrap();
    let key6 = |protocol, src, src_port, dst, dst_port| {
        Key6::new(protocol, Tuple6 { src, dst, src_port, dst_port })
    };
    let base = key6(Protocol::Tcp, [1; 16], 5, [2; 16], 80);
    let mut others = vec![
        key6(Protocol::Udp, [1; 16], 5, [2; 16], 80),
        key6(Protocol::Tcp, [1; 16], 6, [2; 16], 80),
        key6(Protocol::Tcp, [1; 16], 5, [2; 16], 81),
    ];
    for i in 0..16 {
        let mut address = [1; 16];
        address[i] = 9;
        others.push(key6(Protocol::Tcp, address, 5, [2; 16], 80));
        let mut address = [2; 16];
        address[i] = 9;
        others.push(key6(Protocol::Tcp, [1; 16], 5, address, 80));
    }
    let hash = table.hash(&base);
    let body = Body::new(0, State::Udp, Tick(0));
    table.insert(hash, Tick(0), Tick(9), || Entry6::new(base, body)).unwrap();
    for other in others {
        assert_ne!(table.hash(&other), hash, "{other:?}");
        assert_eq!(table.find(table.hash(&other), &other), None);
        // Not even when all of the hash is the same.
        assert_eq!(table.find(hash, &other), None);
    }
    assert!(table.find(hash, &base).is_some());
}

/// Sweeps a whole table, with an entry's own rule as the worker's. How many
/// entries were looked at.
fn sweep_all(table: &mut Table<Entry4>, now: Tick, timeout: u32) -> usize {
    let mut looked_at = 0;
    for _ in 0..table.group_count() {
        for slot in table.sweep(now) {
            looked_at += 1;
            let expiry = table.entry(slot).body().last().plus(timeout);
            if expiry <= now {
                table.remove(slot);
            } else {
                table.set_expiry(slot, now, expiry);
            }
        }
    }
    looked_at
}

#[test]
fn the_sweep_removes_what_is_over_and_nothing_else() {
    for timeout in [1, 80, 480, 7200, 500_000] {
        let mut table = Table::new(1000, KEY).unwrap();
        let born = Tick(1_000_000);
        for i in 0..1000 {
            insert(&mut table, i, born, born.plus(timeout)).unwrap();
        }
        // Once a second, as the worker does, up to the tick before.
        let mut now = born;
        while now.plus(8) < born.plus(timeout) {
            now = now.plus(8);
            sweep_all(&mut table, now, timeout);
        }
        sweep_all(&mut table, Tick(born.0 + timeout - 1), timeout);
        assert_eq!(table.len(), 1000, "timeout {timeout}");
        sweep_all(&mut table, born.plus(timeout), timeout);
        assert_eq!(table.len(), 0, "timeout {timeout}");
        check_invariants(&table);
    }
}

#[test]
fn the_sweep_touches_no_entry_before_its_deadline() {
    let mut table = Table::new(1000, KEY).unwrap();
    for i in 0..1000 {
        insert(&mut table, i, Tick(0), Tick::from_secs(900)).unwrap();
    }
    let touched: usize =
        (1..890).map(|second| sweep_all(&mut table, Tick::from_secs(second), 7200)).sum();
    assert_eq!(touched, 0);
}

#[test]
fn a_packet_moves_the_deadline() {
    let mut table = Table::new(10, KEY).unwrap();
    let slot = insert(&mut table, 1, Tick(0), Tick(80)).unwrap();
    table.entry_mut(slot).body_mut().set_last(Tick(79));
    table.set_expiry(slot, Tick(79), Tick(159));
    sweep_all(&mut table, Tick(158), 80);
    assert_eq!(table.len(), 1);
    sweep_all(&mut table, Tick(159), 80);
    assert_eq!(table.len(), 0);
}

proptest! {
    /// Any sequence of insertions and removals leaves the table agreeing with
    /// a map, in a table so small that groups overflow all the time.
    #[test]
    fn agrees_with_a_map(operations in prop::collection::vec((0u32..120, any::<bool>()), 1..600)) {
        let mut table = Table::new(60, KEY).unwrap();
        let mut model = HashMap::new();
        for (i, add) in operations {
            if add {
                if model.contains_key(&i) {
                    continue;
                }
                match insert(&mut table, i, Tick(0), Tick(1)) {
                    Ok(_) => { model.insert(i, i); }
                    Err(TableFull) => prop_assert_eq!(model.len(), 60),
                }
            } else if let Some(slot) = table.find(table.hash(&key(i)), &key(i)) {
                table.remove(slot);
                prop_assert!(model.remove(&i).is_some());
            } else {
                prop_assert!(!model.contains_key(&i));
            }
        }
        prop_assert_eq!(table.len(), model.len());
        for i in 0..120 {
            prop_assert_eq!(find(&table, i), model.get(&i).copied());
        }
        check_invariants(&table);
    }
}

/// Room is made by the one of the lowest rank in the home group, without a look
/// at those that expire later than asked for.
#[test]
fn a_victim_is_found_by_its_deadline() {
    let now = Tick::from_secs(5_000);
    let mut table = Table::new(12, KEY).unwrap();
    for i in 0..12 {
        let expiry = if i % 2 == 0 { 60 } else { 900 };
        insert(&mut table, i, now.plus(i), now.plus(expiry * 8)).unwrap();
    }
    let hash = table.hash(&key(99));
    let victim = |latest: u32| {
        let mut looked_at = Vec::new();
        let slot = table.victim(hash, (now, now.plus(latest * 8)), |_, entry| {
            looked_at.push(entry.body().server);
            Some(u32::MAX - entry.body().last().0)
        });
        (slot.map(|slot| table.entry(slot).body().server), looked_at)
    };
    let home = table.home(hash);
    let mut near = Vec::new();
    table.scan(home, |entry| near.push(entry.body().server));
    let early: Vec<_> = near.iter().copied().filter(|i| i % 2 == 0).collect();
    assert!(!early.is_empty() && early.len() < near.len());
    assert_eq!(victim(60), (early.iter().copied().max(), early));
    assert_eq!(victim(1_000_000), (near.iter().copied().max(), near));
    assert_eq!(victim(0), (None, vec![]));
}
