//! The hash that places connections in the table.
//!
//! Keyed and non-linear: two rounds of a 64×64→128-bit multiplication whose
//! halves are folded together. With a random key, tuples that collide cannot
//! be computed from outside, which they could be for the ownership hash
//! ([`crate::shard`], linear) or for a CRC (whose collisions do not depend on
//! the seed).

/// The key of a table's hash, random per start.
#[derive(Clone, Copy)]
pub struct HashKey([u64; 3]);

impl std::fmt::Debug for HashKey {
    /// The key stays secret, also in logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

impl HashKey {
    /// A key from random numbers.
    #[must_use]
    pub const fn new(random: [u64; 3]) -> Self {
        Self(random)
    }

    /// A key from the system's random numbers.
    #[must_use]
    pub fn random() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // RandomState is the standard library's access to the system's random
        // numbers; each instance hashes differently.
        Self(std::array::from_fn(|i| RandomState::new().hash_one(i)))
    }

    /// Hashes two words.
    #[must_use]
    #[inline]
    pub const fn hash2(&self, a: u64, b: u64) -> u64 {
        let [k0, k1, k2] = self.0;
        fold(fold(a ^ k0, b ^ k1) ^ k2, MULTIPLIER)
    }

    /// Hashes five words.
    #[must_use]
    #[inline]
    pub const fn hash5(&self, words: [u64; 5]) -> u64 {
        let [k0, k1, k2] = self.0;
        let [a, b, c, d, e] = words;
        let addresses = fold(a ^ k0, b ^ k1) ^ fold(c ^ k1.rotate_left(17), d ^ k2);
        fold(fold(addresses ^ k2, e ^ k0.rotate_left(29)) ^ k1, MULTIPLIER)
    }
}

/// An odd number with bits of all weights (the golden ratio times 2^64).
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sequential tuples, as one client's connections are, fill 4,096 buckets
    /// evenly: chi square within six deviations of its mean, in the bits that
    /// choose the group, in those by which tables grow and in the tag.
    #[test]
    fn sequential_tuples_spread_evenly() {
        let key = HashKey::random();
        for shift in [0, 20, 32, 44, 52] {
            let mut buckets = [0u32; 4096];
            let n = 400_000u64;
            for i in 0..n {
                let hash = key.hash2(0xc0a8_010c_c0a8_0164, (i << 16) | 80);
                buckets[((hash >> shift) & 4095) as usize] += 1;
            }
            let expected = n as f64 / 4096.0;
            let chi: f64 =
                buckets.iter().map(|&b| (f64::from(b) - expected).powi(2) / expected).sum();
            let deviation = (2.0 * 4095.0f64).sqrt();
            assert!((chi - 4095.0).abs() < 6.0 * deviation, "shift {shift}: chi {chi}");
        }
    }

    #[test]
    fn every_word_and_the_key_matter() {
        let (one, other) = (HashKey::new([1, 2, 3]), HashKey::new([1, 2, 4]));
        let words = [5, 6, 7, 8, 9];
        assert_ne!(one.hash5(words), other.hash5(words));
        for i in 0..5 {
            let mut changed = words;
            changed[i] ^= 1;
            assert_ne!(one.hash5(words), one.hash5(changed), "word {i}");
        }
        assert_ne!(one.hash2(1, 2), one.hash2(2, 1));
    }
}
