//! A map that snapshots share. A snapshot is never changed; the next one is made
//! of the same parts but for the one that holds what did change, so that a
//! change costs the control thread a few microseconds however much there is.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Parts of a [`Map`]: one for each value of a byte of the hash.
const SHARDS: usize = 256;

/// Values by key. A copy shares all parts with the original, until one of them
/// changes something in it. To look a key up takes one step more than in a
/// single hash table: a byte of the hash says which part has it.
#[derive(Debug, Clone)]
pub struct Map<K, V> {
    hasher: DefaultHashBuilder,
    shards: Box<[Shard<K, V>; SHARDS]>,
    len: usize,
}

/// A part of a [`Map`].
pub type Shard<K, V> = Arc<HashTable<(K, V)>>;

impl<K, V> Default for Map<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        let shards = Box::new(std::array::from_fn(|_| Arc::clone(&empty)));
        Self { hasher: DefaultHashBuilder::default(), shards, len: 0 }
    }
}

/// Apart from the bits that choose a table's bucket, the lowest, and those that
/// it keeps as a tag, the highest.
const fn shard_of(hash: u64) -> usize {
    (hash >> 32) as u8 as usize
}

impl<K: Hash + Eq, V> Map<K, V> {
    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        let hash = self.hasher.hash_one(key);
        let found = self.shards[shard_of(hash)].find(hash, |(own, _)| own == key);
        found.map(|(_, value)| value)
    }

    /// Whether there is no value.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The part that has, or would have, a key.
    #[must_use]
    pub fn shard(&self, key: &K) -> &Shard<K, V> {
        &self.shards[shard_of(self.hasher.hash_one(key))]
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Map<K, V> {
    /// The value of a key, to be changed; `make` gives it if there is none.
    pub fn entry(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let Self { hasher, shards, len } = self;
        let hash = hasher.hash_one(&key);
        let shard = Arc::make_mut(&mut shards[shard_of(hash)]);
        let place = shard.entry(hash, |(own, _)| *own == key, |(own, _)| hasher.hash_one(own));
        let insert = || {
            *len += 1;
            (key, make())
        };
        &mut place.or_insert_with(insert).into_mut().1
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        let place = self.entry(key, || value.clone());
        *place = value;
    }

    /// Removes a key. Its value, if it had one.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let shard = Arc::make_mut(&mut self.shards[shard_of(hash)]);
        let place = shard.find_entry(hash, |(own, _)| own == key).ok()?;
        self.len -= 1;
        Some(place.remove().0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_know_what_was_put_in() {
        let mut map = Map::default();
        for key in 0..5000 {
            map.insert(key, key + 1);
        }
        map.insert(3, 9);
        *map.entry(4, || 0) += 10;
        *map.entry(7000, || 20) += 1;
        assert_eq!(
            [3, 4, 5, 7000].map(|key| map.get(&key).copied()),
            [Some(9), Some(15), Some(6), Some(21)]
        );
        assert_eq!((map.remove(&5), map.remove(&5), map.get(&5)), (Some(6), None, None));
        assert!(!map.is_empty());
        for key in 0..=7000 {
            map.remove(&key);
        }
        assert!(map.is_empty() && map.get(&3).is_none());
    }

    #[test]
    fn a_change_copies_one_part_of_a_map() {
        let mut before = Map::default();
        for key in 0..5000 {
            before.insert(key, key);
        }
        let mut after = before.clone();
        after.insert(17, 0);
        after.remove(&17);
        after.remove(&99_999);
        let differ = (0..5000).filter(|key| !Arc::ptr_eq(before.shard(key), after.shard(key)));
        let same_shard = (0..5000).filter(|key| Arc::ptr_eq(before.shard(key), before.shard(&17)));
        assert_eq!(differ.collect::<Vec<_>>(), same_shard.collect::<Vec<_>>());
        assert_eq!((before.get(&17), after.get(&17)), (Some(&17), None));
    }

    #[test]
    fn keys_spread_over_the_parts() {
        let mut map = Map::default();
        for key in 0..10_000u32 {
            map.insert(key, ());
        }
        let most = (0..10_000).map(|key| map.shard(&key).len()).max();
        assert!(most < Some(120), "{most:?}");
    }
}
