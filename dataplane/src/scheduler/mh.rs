//! mh: Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4). A table that
//! is a prime long says which server an address has. Every server fills its
//! share of places, in an order of its own that follows from its address
//! alone: so directors with the same servers agree, whatever the order in which
//! these were added, and a server that goes leaves the others' places nearly
//! as they were.
//!
//! The keys are constants on purpose: the mapping is the same on every director
//! and after every restart.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Candidate, Candidates, HashFlags, Request};
use crate::conn::HashKey;

/// Places in the table, a prime; the kernel's has 4093.
pub(super) const SIZE: usize = 65_537;

const CLIENTS: HashKey =
    HashKey::new([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344, 0xa409_3822_299f_31d0]);
const SERVERS: HashKey =
    HashKey::new([0x082e_fa98_ec4e_6c89, 0x4528_21e6_38d0_1377, 0xbe54_66cf_34e9_0c6c]);

/// Places that a server takes in one round at most.
const TURNS: u32 = 16;

/// Hashes that `mh-fallback` tries before it walks the list.
const TRIES: u64 = 32;

/// A server that fills the table.
struct Filler {
    /// Its index in the list.
    index: u32,
    weight: u64,
    /// What it has saved of its weight; a place costs the price.
    credit: u64,
    /// Its next place, and the distance to the one after.
    place: u32,
    skip: u32,
}

/// The table: indices into the list. Empty when no server has a weight.
pub(super) fn table(list: &[Candidate]) -> Arc<[u32]> {
    let mut weighted: Vec<_> = list.iter().zip(0u32..).filter(|(c, _)| c.weight > 0).collect();
    weighted.sort_by_key(|(candidate, _)| candidate.address);
    let Some(price) = price(&weighted) else {
        return Arc::default();
    };
    let mut fillers: Vec<Filler> =
        weighted.into_iter().map(|(c, index)| Filler::new(c, index, price)).collect();

    let mut table = vec![0; SIZE];
    // Apart from the table, as this much stays in the first-level cache.
    let mut taken = [0u64; SIZE.div_ceil(64)];
    let mut left = SIZE;
    loop {
        for filler in &mut fillers {
            filler.credit += filler.weight;
            while filler.credit >= price {
                filler.credit -= price;
                table[filler.take(&mut taken)] = filler.index;
                left -= 1;
                if left == 0 {
                    return table.into();
                }
            }
        }
    }
}

/// What a place costs. A round gives each server its weight, so that on average
/// no more than one place a server is taken in a round, and that by turns. A
/// power of two: it so seldom changes with the servers. `None` without servers.
fn price(weighted: &[(&Candidate, u32)]) -> Option<u64> {
    let greatest = weighted.iter().map(|(c, _)| c.weight).max()?;
    let sum: u64 = weighted.iter().map(|(c, _)| u64::from(c.weight)).sum();
    let average = sum.div_ceil(weighted.len() as u64);
    Some(average.max(u64::from(greatest.div_ceil(TURNS))).next_power_of_two())
}

impl Filler {
    fn new(candidate: &Candidate, index: u32, price: u64) -> Self {
        let hash = hash(&SERVERS, candidate.address.ip(), candidate.address.port(), 0);
        let weight = u64::from(candidate.weight);
        Self {
            index,
            weight,
            // The first round has a place for everyone.
            credit: price.saturating_sub(weight),
            place: (hash as u32) % SIZE as u32,
            skip: (hash >> 32) as u32 % (SIZE as u32 - 1) + 1,
        }
    }

    /// Takes the next of its places that is free. There must be one.
    fn take(&mut self, taken: &mut [u64]) -> usize {
        loop {
            let place = self.place as usize;
            self.place += self.skip;
            if self.place >= SIZE as u32 {
                self.place -= SIZE as u32;
            }
            let bit = 1 << (place % 64);
            if taken[place / 64] & bit == 0 {
                taken[place / 64] |= bit;
                return place;
            }
        }
    }
}

/// The server for a client.
pub(super) fn choose<'a>(
    flags: HashFlags,
    candidates: &'a Candidates,
    request: &Request,
) -> Option<&'a Candidate> {
    let port = flags.port_of(request);
    let hash = |salt| hash(&CLIENTS, request.client, port, salt) as usize;
    let home = hash(0);
    let found = candidates.at(home % SIZE).filter(|c| c.is_available());
    if found.is_some() || !flags.fallback {
        return found;
    }
    // Other places of the same client, then whoever is available: a walk has
    // an end when nearly all are overloaded.
    let other = (1..=TRIES).filter_map(|salt| candidates.at(hash(salt) % SIZE));
    let (ahead, behind) = candidates.list.split_at(home % candidates.list.len().max(1));
    other.chain(behind).chain(ahead).find(|c| c.is_available())
}

fn hash(key: &HashKey, address: IpAddr, port: u16, salt: u64) -> u64 {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    };
    key.hash5([(bits >> 64) as u64, bits as u64, u64::from(port), salt, 0])
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::super::tests::{counted, from};
    use super::super::{Scheduler, State};
    use super::*;

    const PLAIN: HashFlags = HashFlags { fallback: false, port: false };

    fn servers(weights: &[u32]) -> Vec<Candidate> {
        counted(&weights.iter().map(|&weight| (weight, 0, 0)).collect::<Vec<_>>())
    }

    /// Places of each server.
    fn shares(table: &[u32], servers: usize) -> Vec<usize> {
        let mut shares = vec![0; servers];
        for &index in table {
            shares[index as usize] += 1;
        }
        shares
    }

    /// The share of places with another server, those of server `without`
    /// included.
    fn moved(list: &[Candidate], without: usize) -> f64 {
        let before = table(list);
        let mut fewer = list.to_vec();
        fewer.remove(without);
        let after = table(&fewer);
        let changed = before
            .iter()
            .zip(&*after)
            .filter(|&(&b, &a)| list[b as usize].server != fewer[a as usize].server);
        changed.count() as f64 / SIZE as f64
    }

    fn choose_for(flags: HashFlags, candidates: &Candidates, request: &Request) -> Option<u32> {
        let scheduler = Scheduler::Mh(flags);
        scheduler.choose(&State::new(scheduler), candidates, request)
    }

    /// The mapping is part of what a director promises: it must not change with
    /// a version, or all clients change servers with the update.
    #[test]
    fn the_mapping_is_for_ever() {
        let mh = Candidates::new(Scheduler::Mh(PLAIN), servers(&[1, 2, 3, 4, 5]));
        let picks: Vec<_> = (1..=12)
            .map(|last| choose_for(PLAIN, &mh, &from([192, 168, 1, last], 5000)).unwrap())
            .collect();
        assert_eq!(picks, [4, 1, 3, 2, 1, 2, 1, 1, 4, 4, 2, 2]);
        let sum = mh.table.iter().fold(0u64, |sum, &index| {
            sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(index))
        });
        assert_eq!(sum, 7_710_442_945_659_541_057);
    }

    #[test]
    fn shares_are_the_weights() {
        let thousand: Vec<u32> = (0..1000).map(|i| 1 + i % 100).collect();
        for weights in [&[1][..], &[1, 1, 1], &[3, 6, 9, 0], &[1, 65_535], &[100; 64], &thousand] {
            let sum: u32 = weights.iter().sum();
            let shares = shares(&table(&servers(weights)), weights.len());
            for (&weight, &share) in weights.iter().zip(&shares) {
                let exact = SIZE as f64 * f64::from(weight) / f64::from(sum);
                let off = (share as f64 - exact).abs();
                assert!(off <= f64::from(TURNS) + 1.0, "{weight} of {sum}: {share}, not {exact}");
                assert!(weight == 0 || share > 0);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_server_that_goes_moves_little_more_than_its_share(
            weights in prop_oneof![
                (2usize..40).prop_map(|n| vec![1; n]),
                prop::collection::vec(1u32..=4, 2..20),
            ],
            index in any::<prop::sample::Index>(),
        ) {
            let index = index.index(weights.len());
            let share = f64::from(weights[index]) / f64::from(weights.iter().sum::<u32>());
            let moved = moved(&servers(&weights), index);
            prop_assert!(moved >= share - 0.001 && moved <= share + 0.01, "{moved} of {share}");
        }
    }

    #[test]
    fn directors_agree_whatever_the_order_of_their_servers() {
        let list = servers(&[1, 2, 3, 0, 7]);
        let mut reversed = list.clone();
        reversed.reverse();
        let (one, other) = (table(&list), table(&reversed));
        let names = |list: &[Candidate], table: &[u32]| -> Vec<_> {
            table.iter().map(|&index| list[index as usize].address).collect()
        };
        assert_eq!(names(&list, &one), names(&reversed, &other));
    }

    #[test]
    fn clients_are_spread_by_the_weights() {
        let mh = Candidates::new(Scheduler::Mh(PLAIN), servers(&[1, 3]));
        let clients = (0..40_000u32).map(|i| from(Ipv4Addr::from(0x0a00_0000 + i).octets(), 7));
        let first = clients.filter(|r| choose_for(PLAIN, &mh, r) == Some(0)).count();
        // A quarter, within six deviations: sqrt(40,000 * 1/4 * 3/4) = 87.
        assert!((9_480..=10_520).contains(&first), "{first}");
    }

    #[test]
    fn the_port_counts_with_its_flag_only() {
        let mh = Candidates::new(Scheduler::Mh(PLAIN), servers(&[1; 8]));
        let picks = |port| -> std::collections::BTreeSet<_> {
            let flags = HashFlags { fallback: false, port };
            (0..100).map(|p| choose_for(flags, &mh, &from([10, 0, 0, 1], p))).collect()
        };
        assert_eq!((picks(false).len(), picks(true).len()), (1, 8));
    }

    #[test]
    fn without_fallback_an_overloaded_server_refuses() {
        let mh = Candidates::new(Scheduler::Mh(PLAIN), servers(&[1, 1, 0]));
        let request = from([10, 0, 0, 1], 7);
        let home = choose_for(PLAIN, &mh, &request).unwrap();
        mh.list[home as usize].counts.connections.set_thresholds(1, 0);
        mh.list[home as usize].counts.connections.open(true);
        assert_eq!(choose_for(PLAIN, &mh, &request), None);
        let fallback = HashFlags { fallback: true, port: false };
        assert_eq!(choose_for(fallback, &mh, &request), Some(1 - home));
    }

    /// With all but one of many servers overloaded the walk finds it; with all
    /// of them, it ends.
    #[test]
    fn fallback_finds_the_last_server() {
        let mh = Candidates::new(Scheduler::Mh(PLAIN), servers(&[1; 500]));
        let fallback = HashFlags { fallback: true, port: false };
        for candidate in &mh.list {
            candidate.counts.connections.set_thresholds(1, 0);
            candidate.counts.connections.open(true);
        }
        let request = from([10, 0, 0, 1], 7);
        assert_eq!(choose_for(fallback, &mh, &request), None);
        mh.list[321].counts.connections.close(true);
        assert_eq!(choose_for(fallback, &mh, &request), Some(321));
        assert_eq!(choose_for(fallback, &Candidates::default(), &request), None);
    }

    #[test]
    fn the_table_is_built_when_servers_or_weights_change_only() {
        let scheduler = Scheduler::Mh(PLAIN);
        let mut list = servers(&[1, 2]);
        let first = Candidates::new(scheduler, list.clone());
        let same = first.followed_by(scheduler, list.clone());
        assert!(Arc::ptr_eq(&first.table, &same.table));
        list[1].weight = 1;
        let changed = same.followed_by(scheduler, list.clone());
        assert!(!Arc::ptr_eq(&first.table, &changed.table));
        assert_ne!(first.table, changed.table);
        assert!(changed.followed_by(Scheduler::Wlc, list).table.is_empty());
    }

    /// Control builds a table while clients wait for their answer.
    #[test]
    fn a_thousand_servers_take_a_millisecond() {
        let uneven: Vec<u32> = (0..1000).map(|i| if i == 0 { 65_535 } else { 1 }).collect();
        let limit = if cfg!(debug_assertions) { 1_000 } else { 50 };
        for weights in [&[1; 1000][..], &uneven] {
            let list = servers(weights);
            let build = || {
                let start = std::time::Instant::now();
                assert_eq!(table(&list).len(), SIZE);
                start.elapsed()
            };
            let best = (0..9).map(|_| build()).min().unwrap();
            println!("mh: {best:?} for 1,000 servers");
            assert!(best < std::time::Duration::from_millis(limit), "{best:?}");
        }
    }

    #[test]
    fn no_weight_no_server() {
        let mh = Candidates::new(Scheduler::Mh(PLAIN), servers(&[0, 0]));
        assert_eq!(choose_for(PLAIN, &mh, &from([10, 0, 0, 1], 7)), None);
    }
}
