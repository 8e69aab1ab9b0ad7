//! Which worker owns a connection: one function, computed by NICs in hardware
//! and by workers in software, with the same result.
//!
//! `owner(tuple) = reta[toeplitz(key, tuple) mod |reta|]` with a key of one
//! 16-bit pattern repeated. Such a key makes the hash symmetric, and makes it
//! depend only on the XOR of the tuple's 16-bit words: with the pattern rotated
//! left by `i` for the i-th bit of that word (the first bit being the highest),
//! the XOR of the rotations of the set bits is both halves of the hash.
//!
//! The hash is linear and anyone can compute which tuples share a value, so it
//! serves to spread work only, never to place connections in a table. The
//! pattern is random, so that nobody outside can aim at one worker.

mod hints;

use std::net::IpAddr;
use std::sync::Arc;

use self::hints::Hints;
use crate::conn::HashKey;
use crate::packet::headers::Addresses;
use crate::packet::{Protocol, Tuple};

/// Length of the key given to NICs, bytes: enough for two IPv6 addresses and
/// ports, and what the largest of today's NICs take.
pub const RSS_KEY_LEN: usize = 52;

/// Entries of the redirection table where no NIC says otherwise.
pub const DEFAULT_RETA: usize = 128;

/// The ownership function.
#[derive(Debug, Clone)]
pub struct Shard {
    pattern: u16,
    /// The contribution of the high and of the low byte of the XORed words.
    high: [u16; 256],
    low: [u16; 256],
    reta: Vec<u8>,
    workers: usize,
    /// None for one worker.
    hints: Option<Arc<Hints>>,
}

impl Shard {
    /// Ownership among `workers` (1 to 256) with a redirection table of
    /// `reta_len` entries, a power of two.
    ///
    /// `pattern` should have an odd number of bits: only then do the 65,536
    /// values of the XORed word give as many hashes ([`Shard::full_rank`]).
    ///
    /// # Panics
    /// When an argument is out of range: both come from the daemon's own
    /// start-up, never from outside.
    #[must_use]
    pub fn new(pattern: u16, workers: usize, reta_len: usize) -> Self {
        assert!((1..=256).contains(&workers) && reta_len.is_power_of_two());
        let contribution = |word: u16| {
            (0..16)
                .filter(|bit| word & (0x8000 >> bit) != 0)
                .fold(0, |hash, bit| hash ^ pattern.rotate_left(bit))
        };
        Self {
            pattern,
            high: std::array::from_fn(|byte| contribution((byte as u16) << 8)),
            low: std::array::from_fn(|byte| contribution(byte as u16)),
            reta: (0..reta_len).map(|i| (i % workers) as u8).collect(),
            workers,
            hints: None,
        }
    }

    /// The same with hints about the owners of replies of NAT servers that
    /// services share, as many as there are entries in tables of `connections`,
    /// of two families and all workers. Without hints the workers that may own
    /// a reply are asked in turn.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn with_hints(self, connections: usize, key: HashKey) -> std::io::Result<Self> {
        let hints = match self.workers {
            1 => None,
            workers => {
                let count = connections.saturating_mul(2 * workers);
                Some(Arc::new(Hints::new(count, key)?))
            }
        };
        Ok(Self { hints, ..self })
    }

    /// The same without them: nothing that is given reaches other workers.
    #[must_use]
    pub fn without_hints(&self) -> Self {
        Self { hints: None, ..self.clone() }
    }

    /// Makes a random number a pattern of full rank. The rotations of a pattern
    /// are independent over GF(2) exactly when it has an odd number of bits
    /// (its polynomial is prime to x^16 + 1 = (x + 1)^16). Bit 1 is set, so that
    /// the lowest bit of a port decides about the hash's lowest: FULLNAT looks
    /// for a worker's own port among those that follow one another.
    #[must_use]
    pub const fn full_rank(random: u16) -> u16 {
        let random = random | 2;
        if random.count_ones() % 2 == 1 { random } else { random ^ 1 }
    }

    /// The key for NICs.
    #[must_use]
    pub fn rss_key(&self) -> [u8; RSS_KEY_LEN] {
        let pattern = self.pattern.to_be_bytes();
        std::array::from_fn(|i| pattern[i % 2])
    }

    /// The redirection table for NICs: the worker's index for each entry.
    #[must_use]
    pub fn reta(&self) -> &[u8] {
        &self.reta
    }

    /// Number of workers.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// The Toeplitz hash of addresses and ports.
    #[must_use]
    #[inline]
    pub fn hash(&self, addresses: &Addresses, src_port: u16, dst_port: u16) -> u32 {
        let word = match addresses {
            Addresses::V4 { src, dst } => xor_words(u64::from(src ^ dst)),
            Addresses::V6 { src, dst } => {
                let both = u128::from_be_bytes(*src) ^ u128::from_be_bytes(*dst);
                xor_words((both >> 64) as u64 ^ both as u64)
            }
        } ^ src_port
            ^ dst_port;
        self.hash_of(word)
    }

    /// The same of the XOR of the 16-bit words of addresses and ports.
    #[must_use]
    #[inline(always)]
    pub(crate) fn hash_of(&self, word: u16) -> u32 {
        let half = self.high[usize::from(word >> 8)] ^ self.low[usize::from(word & 0xff)];
        (u32::from(half) << 16) | u32::from(half)
    }

    /// What the hashes of packets to a service and of their answers from a
    /// NAT server differ by: the answer's is the other one XOR this, whoever
    /// the client is.
    #[must_use]
    pub fn constant(&self, vip: IpAddr, vport: u16, server: IpAddr, port: u16) -> u32 {
        let addresses = match (vip, server) {
            (IpAddr::V4(vip), IpAddr::V4(server)) => {
                Addresses::V4 { src: vip.to_bits(), dst: server.to_bits() }
            }
            (IpAddr::V6(vip), IpAddr::V6(server)) => {
                Addresses::V6 { src: vip.octets(), dst: server.octets() }
            }
            // NAT does not change the family.
            _ => return 0,
        };
        self.hash(&addresses, vport, port)
    }

    /// The worker that owns a packet, if one said so ([`Shard::give_hint`]).
    #[must_use]
    pub(crate) fn hint(&self, protocol: Protocol, packet: &Tuple) -> Option<usize> {
        self.hints.as_ref()?.get(protocol, packet).map(usize::from)
    }

    /// Tells the other workers that such packets are `worker`'s.
    pub(crate) fn give_hint(&self, protocol: Protocol, packet: &Tuple, worker: usize) {
        if let Some(hints) = &self.hints {
            hints.put(protocol, packet, worker as u8);
        }
    }

    /// The worker that owns what has this hash.
    #[must_use]
    #[inline]
    pub fn owner(&self, hash: u32) -> usize {
        usize::from(self.reta[hash as usize & (self.reta.len() - 1)])
    }
}

/// The XOR of the four 16-bit words of a number.
#[inline]
const fn xor_words(value: u64) -> u16 {
    let value = value ^ (value >> 32);
    (value ^ (value >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Toeplitz by its definition: for each set bit of the input, the 32 bits
    /// of the key that begin there.
    fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
        let mut hash = 0;
        for (i, byte) in input.iter().enumerate() {
            for bit in 0..8 {
                if byte & (0x80 >> bit) != 0 {
                    let window = (0..5).fold(0u64, |w, n| (w << 8) | u64::from(key[i + n]));
                    hash ^= (window >> (8 - bit)) as u32;
                }
            }
        }
        hash
    }

    #[test]
    fn is_the_toeplitz_hash_of_its_own_key() {
        for pattern in [0x6d5a, Shard::full_rank(0x1234), 0x8000, 1] {
            let shard = Shard::new(pattern, 2, 128);
            let (src, dst) = (0xc0a8_010c_u32, 0xc0a8_0164_u32);
            let (sport, dport) = (51_234_u16, 80_u16);
            let mut input = Vec::new();
            input.extend(src.to_be_bytes());
            input.extend(dst.to_be_bytes());
            input.extend(sport.to_be_bytes());
            input.extend(dport.to_be_bytes());
            let addresses = Addresses::V4 { src, dst };
            assert_eq!(shard.hash(&addresses, sport, dport), toeplitz(&shard.rss_key(), &input));

            let (src, dst) = ([0xfd; 16], std::array::from_fn(|i| i as u8));
            let mut input = Vec::new();
            input.extend(src);
            input.extend(dst);
            input.extend(sport.to_be_bytes());
            input.extend(dport.to_be_bytes());
            let addresses = Addresses::V6 { src, dst };
            assert_eq!(shard.hash(&addresses, sport, dport), toeplitz(&shard.rss_key(), &input));
        }
    }

    #[test]
    fn both_directions_have_one_owner() {
        let shard = Shard::new(0x6d5a, 3, 128);
        let there = Addresses::V4 { src: 0x0a00_0001, dst: 0x0a00_0002 };
        let back = Addresses::V4 { src: 0x0a00_0002, dst: 0x0a00_0001 };
        assert_eq!(shard.hash(&there, 1000, 80), shard.hash(&back, 80, 1000));
    }

    #[test]
    fn a_constant_leads_from_an_answer_to_its_question() {
        let shard = Shard::new(0x6d5a, 4, 128);
        let [vip, server]: [IpAddr; 2] = ["192.168.1.100", "10.0.0.31"].map(|a| a.parse().unwrap());
        let constant = shard.constant(vip, 80, server, 8080);
        for client in 0..1000u32 {
            let port = (client * 7) as u16;
            let there = Addresses::V4 { src: client << 8, dst: 0xc0a8_0164 };
            let back = Addresses::V4 { src: 0x0a00_001f, dst: client << 8 };
            assert_eq!(shard.hash(&back, 8080, port) ^ constant, shard.hash(&there, port, 80));
        }
    }

    #[test]
    fn full_rank_patterns_reach_every_hash() {
        for random in [0, 0x6d5a, 0xffff, 0x1234] {
            let shard = Shard::new(Shard::full_rank(random), 1, 128);
            let nowhere = Addresses::V4 { src: 0, dst: 0 };
            let hashes: std::collections::HashSet<_> =
                (0..=u16::MAX).map(|port| shard.hash(&nowhere, port, 0)).collect();
            assert_eq!(hashes.len(), 65_536);
        }
    }

    #[test]
    fn ports_in_a_row_do_not_all_have_one_owner() {
        let nowhere = Addresses::V4 { src: 0, dst: 0 };
        for random in 0..=u16::MAX {
            let pattern = Shard::full_rank(random);
            assert_eq!(pattern.count_ones() % 2, 1);
            // Two workers, whose table tells apart by the lowest bit.
            let bit = |port: u16| {
                (0..16)
                    .filter(|i| port & (0x8000 >> i) != 0)
                    .fold(0, |h, i| h ^ pattern.rotate_left(i))
                    & 1
            };
            assert_ne!(bit(1024), bit(1025), "{random:#x}");
        }
        let shard = Shard::new(Shard::full_rank(0), 2, 128);
        assert_ne!(
            shard.owner(shard.hash(&nowhere, 1024, 0)),
            shard.owner(shard.hash(&nowhere, 1025, 0))
        );
    }

    #[test]
    fn ports_spread_over_the_workers() {
        let shard = Shard::new(0x6d5a, 4, 128);
        let mut share = [0; 4];
        let addresses = Addresses::V4 { src: 0xc0a8_010c, dst: 0xc0a8_0164 };
        for port in 32_768..=60_999 {
            share[shard.owner(shard.hash(&addresses, port, 80))] += 1;
        }
        assert!(share.iter().all(|&n| (6_000..8_200).contains(&n)), "{share:?}");
    }
}
