use std::collections::HashMap;

use proptest::prelude::*;

use super::growth::DONE;
use super::*;
use crate::conn::entry::{Body, Entry4, Entry6};
use crate::conn::state::State;
use crate::packet::{Key4, Key6, Protocol, Tuple4, Tuple6};

const KEY: HashKey = HashKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 42]);

fn key(i: u32) -> Key4 {
    let (src, src_port) = (0x0a00_0000 + i / 1000, (i % 1000) as u16);
    Key4::new(Protocol::Tcp, Tuple4 { src, dst: 0xc0a8_0164, src_port, dst_port: 80 })
}

fn entry(i: u32, now: Tick) -> Entry4 {
    Entry4::new(key(i), Body::new(i, State::SynRecv, now))
}

/// Splits the next group.
fn grow(table: &mut Table<Entry4>) -> bool {
    let Some(mut split) = table.grow() else { return false };
    let before: Vec<_> = (0..MAX_PROBES * SLOTS)
        .map(|slot| Slot((split.from * SLOTS + slot) as u32))
        .map(|slot| (slot, table.entry(slot).key()))
        .collect();
    let mut moved = std::collections::HashSet::new();
    while let Some(slot) = table.move_next(&mut split) {
        moved.insert(table.entry(slot).body().server);
        assert!((split.to..split.to + MAX_PROBES).contains(&slot.group()));
    }
    // Where they were they are not any more.
    for i in moved {
        assert!(before.iter().all(|(slot, was)| *was != key(i) || table.at(*slot, was).is_none()));
    }
    true
}

fn insert(table: &mut Table<Entry4>, i: u32, now: Tick, expiry: Tick) -> Result<Slot, TableFull> {
    while table.is_growth_due() && grow(table) {}
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
            let home = table.home(table.hash(&entry.key()));
            overflow[home..group].iter_mut().for_each(|count| *count += 1);
        });
    }
    let stored: Vec<_> = table.groups.iter().map(Group::overflow).collect();
    assert_eq!((live, overflow), (table.len(), stored));
}

#[test]
fn grows_to_its_limit_and_refuses_beyond() {
    for (limit, first) in [(300, 64), (20_000, 64), (20_000, 1300), (20_000, 5000)] {
        let mut table = Table::beginning_with(first, limit, KEY).unwrap();
        let smallest = table.homes.count();
        assert!(smallest <= 2 * first && smallest <= limit * 7 / 5 / SLOTS + 2);
        for i in 0..limit as u32 {
            insert(&mut table, i, Tick(0), Tick(100)).expect("room up to the limit");
            let slots = table.homes.count() * SLOTS;
            assert!(table.len() <= slots * DONE / 16 + 1, "{} in {slots}", table.len());
            if i % 997 == 0 {
                check_invariants(&table);
            }
        }
        assert_eq!(insert(&mut table, 9_999_999, Tick(0), Tick(100)), Err(TableFull));
        assert!((0..limit as u32).all(|i| find(&table, i) == Some(i)));
        assert_eq!(find(&table, 9_999_999), None);
        check_invariants(&table);
        assert!(!table.is_doubling());
        let slots = table.homes.count() * SLOTS;
        assert!(slots >= limit * 7 / 5 && slots <= limit * 7 / 5 * 33 / 32 + 2 * SLOTS, "{slots}");
    }
}

/// A connection is refused below the limit only where 64 groups in a row are full.
#[test]
fn a_connection_finds_room_behind_many_full_groups() {
    for full in [32, 63, 64] {
        let mut table = Table::new(1_350, KEY).unwrap();
        let first = 10;
        assert!(!table.is_growth_due() && table.homes.count() > first + 64);
        // Each group is full of connections that are at home there.
        let mut free = vec![SLOTS; full];
        let mut at_home = |table: &Table<Entry4>, i: u32| {
            let home = table.home(table.hash(&key(i)));
            let free = home.checked_sub(first).and_then(|group| free.get_mut(group));
            free.filter(|free| **free > 0).is_some_and(|free| {
                *free -= 1;
                true
            })
        };
        for i in 0..20_000 {
            if at_home(&table, i) {
                insert(&mut table, i, Tick(0), Tick(9)).expect("room at home");
            }
        }
        assert_eq!(table.len(), full * SLOTS);
        let late = (20_000..).find(|&i| table.home(table.hash(&key(i))) == first).unwrap();
        let slot = insert(&mut table, late, Tick(0), Tick(9));
        if full < 64 {
            assert_eq!(slot.map(Slot::group), Ok(first + full));
            assert_eq!(find(&table, late), Some(late));
            table.remove(slot.unwrap());
        } else {
            assert_eq!((slot, find(&table, late)), (Err(TableFull), None));
        }
        check_invariants(&table);
    }
}

/// A doubling that began as late as can be is over before the groups that are
/// split last are full.
#[test]
fn a_doubling_that_begins_late_is_over_soon() {
    let mut table = Table::beginning_with(64, 5_000, KEY).unwrap();
    let (homes, slots) = (table.homes.count(), table.homes.count() * SLOTS);
    for i in 0.. {
        if table.len() < slots * 11 / 16 {
            // The memory is not there yet.
            let hash = table.hash(&key(i));
            table.insert(hash, Tick(0), Tick(9), || entry(i, Tick(0))).expect("room");
            continue;
        }
        insert(&mut table, i, Tick(0), Tick(9)).expect("room");
        if table.homes.count() > homes && !table.is_doubling() {
            break;
        }
    }
    assert_eq!(table.homes.count(), 2 * homes);
    assert!(table.len() <= slots * 11 / 16 + homes + 1, "{} in {slots}", table.len());
    check_invariants(&table);
}

/// Without memory a table refuses connections when it is full, and keeps those
/// that it has. It goes on when there is memory.
#[test]
fn a_table_waits_for_memory() {
    let first = 17_600;
    let mut table = Table::beginning_with(first, 4 * first * SLOTS * 4 / 5, KEY).unwrap();
    let starve = |table: &Table<Entry4>, starve| {
        table.groups.starve(starve);
        table.entries.starve(starve);
    };
    starve(&table, true);
    let homes = table.homes.count();
    let mut count = 0;
    while insert(&mut table, count, Tick(0), Tick(100)).is_ok() {
        count += 1;
        // Asked for it, and has to hear that there is none.
        while table.len() == homes * SLOTS / 2 && !table.entries.is_short() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    assert!(table.len() > homes * SLOTS * DONE / 16, "{} of {}", table.len(), homes * SLOTS);
    assert_eq!((table.homes.count(), table.is_doubling()), (homes, false));
    starve(&table, false);
    while !table.is_doubling() {
        std::thread::sleep(std::time::Duration::from_millis(1));
        let _ = insert(&mut table, count, Tick(0), Tick(100));
    }
    while table.is_doubling() {
        grow(&mut table);
    }
    assert_eq!(table.homes.count(), 2 * homes);
    insert(&mut table, count + 1, Tick(0), Tick(100)).expect("there is room again");
    assert!((0..count).step_by(101).all(|i| find(&table, i) == Some(i)));
}

/// What comes and goes while a table grows from the smallest size is always
/// found, and nothing else; at every single step of a split group.
#[test]
fn nothing_is_lost_while_a_table_grows() {
    let mut table = Table::beginning_with(64, 20_000, KEY).unwrap();
    let mut there = std::collections::BTreeSet::new();
    let mut random = 1u32;
    let mut next = 0;
    let mut sizes = std::collections::BTreeSet::new();
    while table.homes.count() < table.growth.most || table.is_doubling() {
        for _ in 0..3 {
            insert(&mut table, next, Tick(0), Tick(100)).unwrap();
            there.insert(next);
            next += 1;
        }
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let gone = random % next;
        assert_eq!(find(&table, gone).is_some(), there.remove(&gone));
        if let Some(slot) = table.find(table.hash(&key(gone)), &key(gone)) {
            table.remove(slot);
        }
        if table.is_doubling() && random >> 28 == 0 {
            grow(&mut table);
        }
        sizes.insert(table.homes.count());
        assert!((next - 3..next).all(|i| i == gone || find(&table, i) == Some(i)));
        if next % 601 == 0 {
            assert!((0..next).all(|i| find(&table, i).is_some() == there.contains(&i)));
            check_invariants(&table);
        }
    }
    assert_eq!(table.len(), there.len());
    assert!(sizes.len() > 500, "it grew in small steps");
    check_invariants(&table);
}

/// A table on its way from one size to the next, with this many groups split.
fn doubling(split: usize) -> Table<Entry4> {
    let mut table = Table::beginning_with(64, 5_000, KEY).unwrap();
    for i in 0.. {
        insert(&mut table, i, Tick(0), Tick::from_secs(500)).unwrap();
        if table.is_doubling() && table.homes.count() > 100 {
            break;
        }
    }
    while table.homes.done() < split {
        assert!(grow(&mut table));
    }
    table
}

#[test]
fn the_sweep_asks_about_every_connection_once_while_the_table_grows() {
    for swept_before in [0, 40, 150] {
        for sweeps_a_split in [1, 2, 7] {
            let mut table = doubling(3);
            for _ in 0..swept_before {
                assert_eq!(sweep_group(&mut table, Tick::from_secs(1)), [], "none is due");
            }
            table.deadlines_are_outdated();
            let mut asked = std::collections::HashSet::new();
            let mut sweeps = 0;
            while table.outdated > 0 {
                for slot in sweep_group(&mut table, Tick::from_secs(1)) {
                    asked.insert(table.entry(slot).body().server);
                    table.set_expiry(slot, Tick::from_secs(1), Tick::from_secs(500));
                }
                sweeps += 1;
                if sweeps % sweeps_a_split == 0 && table.is_doubling() {
                    grow(&mut table);
                }
            }
            // Those that had moved behind the cursor have a deadline that has
            // passed: they are asked about in the next round.
            for _ in 0..table.group_count() {
                let due = sweep_group(&mut table, Tick::from_secs(1));
                asked.extend(due.iter().map(|&slot| table.entry(slot).body().server));
            }
            assert_eq!(asked.len(), table.len(), "{swept_before} {sweeps_a_split}");
        }
    }
}

#[test]
fn a_connection_that_moves_keeps_its_deadline() {
    let mut table = doubling(0);
    while table.is_doubling() {
        grow(&mut table);
    }
    let before = sweep_all(&mut table, Tick::from_secs(490), Tick::from_secs(500).0);
    assert_eq!(before, 0);
    let live = table.len();
    assert_eq!(sweep_all(&mut table, Tick::from_secs(500), Tick::from_secs(500).0), live);
    assert!(table.is_empty());
}

#[test]
fn a_listing_misses_no_connection_while_the_table_grows() {
    for groups_a_split in [1, 3, 20] {
        let mut table = doubling(1);
        let mut seen = std::collections::HashSet::new();
        let mut group = 0;
        while group < table.group_count() {
            table.scan(group, |entry| {
                seen.insert(entry.body().server);
            });
            group += 1;
            if group % groups_a_split == 0 && table.is_doubling() {
                grow(&mut table);
            }
        }
        assert_eq!(seen.len(), table.len(), "{groups_a_split}");
    }
}

/// Connections that are not in their home group, and groups that look-ups of
/// all go through.
fn spread(keys: impl Iterator<Item = Key4>) -> (usize, usize) {
    let mut table = Table::new(60_000, HashKey::random()).unwrap();
    let mut slots = Vec::new();
    for key in keys.take(60_000) {
        while table.is_growth_due() && grow(&mut table) {}
        let hash = table.hash(&key);
        assert!(table.find(hash, &key).is_none(), "tuples differ");
        let body = Body::new(0, State::Udp, Tick(0));
        table.insert(hash, Tick(0), Tick(9), || Entry4::new(key, body)).expect("room");
        slots.push(key);
    }
    let probes = slots.iter().map(|key| {
        let hash = table.hash(key);
        table.find(hash, key).expect("it is there").group() - table.home(hash)
    });
    let probes: Vec<_> = probes.collect();
    (probes.iter().filter(|&&probes| probes > 0).count(), probes.iter().sum())
}

fn crc(key: &Key4) -> u32 {
    let Tuple4 { src, dst, src_port, dst_port } = key.tuple();
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&src.to_be_bytes());
    bytes[4..8].copy_from_slice(&dst.to_be_bytes());
    bytes[8..10].copy_from_slice(&src_port.to_be_bytes());
    bytes[10..].copy_from_slice(&dst_port.to_be_bytes());
    crc32c::crc32c(&bytes)
}

/// Client addresses by which tuples with any ports have the same CRC32C: the
/// bits of the address have independent effects on it, so that one can be found
/// for any difference.
fn crc_collisions() -> impl Iterator<Item = Key4> {
    let at = |src, src_port| {
        Key4::new(Protocol::Tcp, Tuple4 { src, dst: 0xc0a8_0164, src_port, dst_port: 80 })
    };
    let zero = crc(&at(0, 0));
    // Gauss: address bits whose effect has a highest bit that no other has.
    let mut basis = [(0u32, 0u32); 32];
    let reduce = |basis: &[(u32, u32); 32], mut effect: u32, mut src: u32| {
        while effect != 0 {
            let (known, by) = basis[effect.ilog2() as usize];
            if known == 0 {
                break;
            }
            (effect, src) = (effect ^ known, src ^ by);
        }
        (effect, src)
    };
    for bit in 0..32 {
        let (effect, src) = reduce(&basis, crc(&at(1 << bit, 0)) ^ zero, 1 << bit);
        basis[effect.ilog2() as usize] = (effect, src);
    }
    (0..=u16::MAX).map(move |src_port| {
        let (rest, src) = reduce(&basis, crc(&at(0, src_port)) ^ zero, 0);
        assert_eq!(rest, 0);
        at(src, src_port)
    })
}

/// Tuples that are one to CRC32C, or to the ownership hash, lie in the table as
/// any others.
#[test]
fn tuples_made_to_collide_spread_as_others_do() {
    let random = (0..60_000u64).map(|i| {
        let word = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (src, src_port) = ((word >> 32) as u32, i as u16);
        Key4::new(Protocol::Tcp, Tuple4 { src, dst: 0xc0a8_0164, src_port, dst_port: 80 })
    });
    let toeplitz = || {
        (0..60_000u32).map(|i| {
            let (high, src_port) = ((i >> 8) as u16, (i * 40_503) as u16);
            let src = (u32::from(high) << 16) | u32::from(high ^ src_port);
            Key4::new(Protocol::Tcp, Tuple4 { src, dst: 0xc0a8_0164, src_port, dst_port: 80 })
        })
    };
    let shard = crate::shard::Shard::new(0x6d5a, 4, 128);
    let owner = |key: &Key4| {
        let Tuple4 { src, dst, src_port, dst_port } = key.tuple();
        shard.hash(&crate::packet::headers::Addresses::V4 { src, dst }, src_port, dst_port)
    };
    let first = toeplitz().next().unwrap();
    assert!(toeplitz().all(|key| owner(&key) == owner(&first)), "they do collide");
    let first = crc_collisions().next().unwrap();
    assert!(crc_collisions().all(|key| crc(&key) == crc(&first)), "they do collide");

    let (random, crc) = (spread(random), spread(crc_collisions()));
    let toeplitz = spread(toeplitz());
    for (kind, (away, probes)) in [("crc", crc), ("toeplitz", toeplitz)] {
        assert!(away < random.0 * 5 / 4 + 300, "{kind}: {away} away from home, {}", random.0);
        assert!(probes < random.1 * 5 / 4 + 300, "{kind}: {probes} probes, {}", random.1);
    }
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
/// What the sweep asks about in the next group.
fn sweep_group(table: &mut Table<Entry4>, now: Tick) -> Vec<Slot> {
    let mut due = ArrayVec::<_, SLOTS>::new();
    assert_eq!(table.sweep(now, 1, &mut due), 0);
    due.to_vec()
}

/// A step ends when there is no room for another group's connections, and the
/// next one goes on from there.
#[test]
fn a_sweep_stops_where_its_list_is_full() {
    let mut table = Table::new(1000, KEY).unwrap();
    for i in 0..700 {
        insert(&mut table, i, Tick(0), Tick(80)).unwrap();
    }
    let mut seen = std::collections::HashSet::new();
    let mut left = table.group_count();
    let mut steps = 0;
    while left > 0 {
        let mut due = ArrayVec::<_, { 2 * SLOTS }>::new();
        let before = left;
        left = table.sweep(Tick(80), left, &mut due);
        assert!(left < before && (left == 0 || due.remaining_capacity() < SLOTS));
        for slot in due {
            assert!(seen.insert(slot.number()), "each once");
            table.set_expiry(slot, Tick(80), Tick(8000));
        }
        steps += 1;
    }
    assert_eq!(seen.len(), 700);
    assert!((700 / 30..=700 / 15).contains(&steps), "{steps}");
}

fn sweep_all(table: &mut Table<Entry4>, now: Tick, timeout: u32) -> usize {
    let mut looked_at = 0;
    for _ in 0..table.group_count() {
        for slot in sweep_group(table, now) {
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
