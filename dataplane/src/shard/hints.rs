//! Which worker owns a connection where no constant says so.
//!
//! The reply of a NAT server that several services share may be any of several
//! workers', and nothing in it tells whose. Who opens such a connection leaves
//! a hint for the workers that will receive its replies.
//!
//! Hints are advice: who follows a wrong one finds no connection and asks the
//! candidates in turn. So they are never removed, only replaced, the oldest of
//! a set first, and nothing orders them with other memory. A set that holds
//! hints of no more live connections than it has places gives each of them one
//! after some renewals, whatever stale ones there are; with a single place for
//! each hash, two connections that share it would take it from each other for
//! as long as both have packets.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::conn::HashKey;
use crate::packet::headers::Addresses;
use crate::packet::{Protocol, Tuple};

/// A cache line.
const LINE: usize = 64;
/// Words of a set: a line, of which the first counts what was written.
const WORDS: usize = LINE / size_of::<AtomicU64>();
/// Hints of a set.
const WAYS: usize = WORDS - 1;

/// Most hints: 307 MB.
const MOST: usize = 1 << 25;

/// The bits of a hint that are the worker's; the others are the hash's.
const WORKER: u64 = 0xff;

/// Hints of all workers.
#[derive(Debug)]
pub(super) struct Hints {
    words: Box<[AtomicU64]>,
    /// Where the first set begins, so that each is one line.
    start: usize,
    sets: u64,
    key: HashKey,
}

impl Hints {
    /// Room for so many hints, at most [`MOST`]. Memory is used as they come.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub(super) fn new(count: usize, key: HashKey) -> std::io::Result<Self> {
        let sets = count.clamp(1, MOST).div_ceil(WAYS);
        let words = bytemuck::allocation::try_zeroed_slice_box::<AtomicU64>((sets + 1) * WORDS)
            .map_err(|()| std::io::ErrorKind::OutOfMemory)?;
        let start = words.as_ptr().align_offset(LINE).min(WORDS);
        Ok(Self { words, start, sets: sets as u64, key })
    }

    /// The worker that a packet with these addresses and ports is for. One of
    /// 2^56 packets without a hint gets another's.
    pub(super) fn get(&self, protocol: Protocol, packet: &Tuple) -> Option<u8> {
        let hash = self.hash(protocol, packet);
        let (_, ways) = self.set(hash)?;
        let mut hints = ways.iter().map(|way| way.load(Ordering::Relaxed));
        hints.find(|&hint| is_of(hint, hash)).map(|hint| (hint & WORKER) as u8)
    }

    /// Says that packets with these addresses and ports are for `worker`.
    pub(super) fn put(&self, protocol: Protocol, packet: &Tuple, worker: u8) {
        let hash = self.hash(protocol, packet);
        let Some((written, ways)) = self.set(hash) else { return };
        let hint = (hash & !WORKER) | u64::from(worker);
        let known = ways.iter().find(|way| is_of(way.load(Ordering::Relaxed), hash));
        if let Some(way) = known {
            way.store(hint, Ordering::Relaxed);
            return;
        }
        // Two workers at once may choose the same way: one hint is lost.
        let count = written.load(Ordering::Relaxed);
        written.store(count.wrapping_add(1), Ordering::Relaxed);
        if let Some(way) = ways.get((count % WAYS as u64) as usize) {
            way.store(hint, Ordering::Relaxed);
        }
    }

    /// The set of a hash: how many hints were written there, and the hints.
    fn set(&self, hash: u64) -> Option<(&AtomicU64, &[AtomicU64])> {
        // The worker's bits are the lowest; these are the highest.
        let set = ((hash >> 32) * self.sets) >> 32;
        let start = self.start + set as usize * WORDS;
        self.words.get(start..start + WORDS)?.split_first()
    }

    fn hash(&self, protocol: Protocol, packet: &Tuple) -> u64 {
        let (src, dst) = match packet.addresses() {
            Addresses::V4 { src, dst } => (u128::from(src), u128::from(dst)),
            Addresses::V6 { src, dst } => (u128::from_be_bytes(src), u128::from_be_bytes(dst)),
        };
        let (src_port, dst_port) = packet.ports();
        let rest = ((protocol as u64) << 32) | (u64::from(src_port) << 16) | u64::from(dst_port);
        self.key.hash5([(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64, rest])
    }
}

const fn is_of(hint: u64, hash: u64) -> bool {
    (hint ^ hash) & !WORKER == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 42]);

    /// A reply to one of many clients.
    fn reply(number: u32) -> Tuple {
        Tuple::of(&Addresses::V4 { src: 0x0a00_0001, dst: number }, 80, 5000)
    }

    impl Hints {
        fn of(&self, number: u32) -> Option<u8> {
            self.get(Protocol::Tcp, &reply(number))
        }

        fn say(&self, number: u32, worker: u8) {
            self.put(Protocol::Tcp, &reply(number), worker);
        }
    }

    #[test]
    fn a_hint_is_about_one_protocol_and_all_of_a_tuple() {
        let hints = Hints::new(1000, KEY).unwrap();
        let v4 = |src, dst| Addresses::V4 { src, dst };
        let v6 = |src, dst| Addresses::V6 { src: [src; 16], dst: [dst; 16] };
        for addresses in [v4(1, 2), v6(1, 2)] {
            let tuple = Tuple::of(&addresses, 80, 5000);
            for worker in [0, 255, 3] {
                hints.put(Protocol::Tcp, &tuple, worker);
                assert_eq!(hints.get(Protocol::Tcp, &tuple), Some(worker));
            }
            assert_eq!(hints.get(Protocol::Udp, &tuple), None);
        }
        for (addresses, src_port, dst_port) in [
            (v4(1, 2), 5000, 80),
            (v4(1, 2), 80, 5001),
            (v4(1, 3), 80, 5000),
            (v4(3, 2), 80, 5000),
            (v6(1, 3), 80, 5000),
            (v6(3, 2), 80, 5000),
        ] {
            let other = Tuple::of(&addresses, src_port, dst_port);
            assert_eq!(hints.get(Protocol::Tcp, &other), None, "{other:?}");
        }
    }

    /// The oldest goes; one that is renewed does not take a second place.
    #[test]
    fn a_full_set_forgets_the_oldest() {
        let hints = Hints::new(1, KEY).unwrap();
        for number in 1..=7 {
            hints.say(number, number as u8);
        }
        hints.say(3, 30);
        let expected = [1, 2, 30, 4, 5, 6, 7].map(Some);
        assert_eq!([1, 2, 3, 4, 5, 6, 7].map(|number| hints.of(number)), expected);
        hints.say(8, 8);
        let expected = [None, Some(2), Some(30), Some(4), Some(5), Some(6), Some(7), Some(8)];
        assert_eq!([1, 2, 3, 4, 5, 6, 7, 8].map(|number| hints.of(number)), expected);
    }

    /// However many stale hints there are, those in use get their places.
    #[test]
    fn hints_in_use_come_to_rest_in_a_set_with_room_for_them() {
        for live in 1..=7 {
            let hints = Hints::new(1, KEY).unwrap();
            for number in 0..live {
                hints.say(number, 1);
            }
            // All but one of those in use are the oldest.
            (100..106).for_each(|stale| hints.say(stale, 9));
            for _ in 0..7 {
                for number in 0..live {
                    if hints.of(number).is_none() {
                        hints.say(number, 1);
                    }
                }
            }
            assert!((0..live).all(|number| hints.of(number) == Some(1)), "{live}");
        }
    }

    #[test]
    fn sets_are_lines_and_all_are_used() {
        for count in [1, 7, 8, 1000] {
            let hints = Hints::new(count, KEY).unwrap();
            let mut seen = std::collections::HashSet::new();
            for number in 0..10_000 {
                let hash = hints.hash(Protocol::Tcp, &reply(number));
                let (written, ways) = hints.set(hash).unwrap();
                let address = std::ptr::from_ref(written) as usize;
                assert_eq!((address % LINE, ways.len()), (0, 7));
                seen.insert(address);
            }
            assert_eq!(seen.len(), count.div_ceil(7));
        }
        assert_eq!(Hints::new(usize::MAX, KEY).unwrap().sets, (1_u64 << 25).div_ceil(7));
    }
}
