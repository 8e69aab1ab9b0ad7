//! Packets that wait for their next hop's MAC address, as they wait in the
//! kernel's neighbour queue: a client that was never heard of before would
//! otherwise lose the first answer to it, and a second with that.
//!
//! Few, small and for a short time: what a flood to addresses that nobody has
//! can take is bounded, and costs a copy.

use std::net::IpAddr;

use crate::fib::Neighbours;
use crate::packet::Mac;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Packets that wait at most.
const SLOTS: usize = 256;
/// Of these for one neighbour, which may be the router of all clients: what
/// comes in the time that asking takes. About what the kernel holds.
const OF_ONE: usize = 64;
/// Longest frame that waits, bytes.
const FRAME: usize = 2048;
/// How long a packet waits. The kernel asks three times, a second apart; who
/// has not answered the first time has most likely gone.
const PATIENCE: u32 = TICKS_PER_SECOND;

/// The waiting packets of a worker, in memory that is allocated once.
#[derive(Debug)]
pub struct Pending {
    memory: Box<[u8]>,
    /// In the order in which they came.
    waiting: Vec<Waiting>,
    free: Vec<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    port: u8,
    neighbour: IpAddr,
    until: Tick,
    slot: u16,
    len: u16,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            memory: vec![0; SLOTS * FRAME].into_boxed_slice(),
            waiting: Vec::with_capacity(SLOTS),
            free: (0..SLOTS as u16).collect(),
        }
    }
}

impl Pending {
    /// Whether none waits.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Keeps a copy of a frame that is ready but for the neighbour's MAC
    /// address, its first six bytes. False when there is no room for it.
    #[must_use]
    pub fn keep(&mut self, now: Tick, port: u8, neighbour: IpAddr, frame: &[u8]) -> bool {
        let same = |w: &&Waiting| (w.port, w.neighbour) == (port, neighbour);
        if frame.len() > FRAME || self.waiting.iter().filter(same).count() >= OF_ONE {
            return false;
        }
        let Some(slot) = self.free.pop() else { return false };
        let start = usize::from(slot) * FRAME;
        self.memory[start..start + frame.len()].copy_from_slice(frame);
        let until = now.plus(PATIENCE);
        self.waiting.push(Waiting { port, neighbour, until, slot, len: frame.len() as u16 });
        true
    }

    /// Lets go of the packets whose neighbour is now known (`send` gets the
    /// port and the frame), and of those that waited too long. How many the
    /// latter are.
    pub fn retry(
        &mut self,
        now: Tick,
        neighbours: &Neighbours,
        mut send: impl FnMut(u8, &[u8]),
    ) -> u64 {
        let Self { memory, waiting, free } = self;
        let mut too_long = 0;
        waiting.retain(|w| {
            let mac: Option<Mac> = neighbours.mac(w.port, w.neighbour);
            if let Some(mac) = mac {
                let start = usize::from(w.slot) * FRAME;
                let frame = &mut memory[start..start + usize::from(w.len)];
                if let Some(first) = frame.first_chunk_mut() {
                    *first = mac;
                }
                send(w.port, frame);
            } else if now < w.until {
                return true;
            } else {
                too_long += 1;
            }
            free.push(w.slot);
            false
        });
        too_long
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(100);

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 168, 1, last])
    }

    fn frame(number: u8) -> Vec<u8> {
        [&[0; 6][..], &[number; 60]].concat()
    }

    fn known(last: &[u8]) -> Neighbours {
        last.iter().map(|&last| ((0, ip(last)), [2, 0, 0, 0, 0, last])).collect()
    }

    fn retry(pending: &mut Pending, now: Tick, neighbours: &Neighbours) -> (Vec<(u8, u8)>, u64) {
        let mut sent = Vec::new();
        let too_long = pending.retry(now, neighbours, |_, frame| sent.push((frame[5], frame[6])));
        (sent, too_long)
    }

    #[test]
    fn packets_leave_in_order_when_their_neighbour_is_known() {
        let mut pending = Pending::default();
        for (last, number) in [(12, 1), (13, 2), (12, 3)] {
            assert!(pending.keep(NOW, 0, ip(last), &frame(number)));
        }
        assert_eq!(retry(&mut pending, NOW, &known(&[])), (vec![], 0));
        assert_eq!(retry(&mut pending, NOW, &known(&[12])), (vec![(12, 1), (12, 3)], 0));
        assert_eq!(retry(&mut pending, NOW, &known(&[13])), (vec![(13, 2)], 0));
        assert!(pending.is_empty());
    }

    #[test]
    fn patience_ends_after_a_second() {
        let mut pending = Pending::default();
        assert!(pending.keep(NOW, 0, ip(12), &frame(1)));
        assert_eq!(retry(&mut pending, Tick(NOW.0 + 7), &known(&[])), (vec![], 0));
        assert_eq!(retry(&mut pending, Tick(NOW.0 + 8), &known(&[])), (vec![], 1));
        assert!(pending.is_empty());
    }

    #[test]
    fn neither_one_neighbour_nor_many_take_more_than_there_is() {
        let mut pending = Pending::default();
        let kept = (0..200).filter(|&n| pending.keep(NOW, 0, ip(1), &frame(n))).count();
        assert_eq!(kept, OF_ONE);
        let kept = (2..=255).filter(|&n| pending.keep(NOW, 0, ip(n), &frame(n))).count();
        assert_eq!(kept, SLOTS - OF_ONE);
        assert!(!Pending::default().keep(NOW, 0, ip(1), &[0; FRAME + 1]));
        // Room that was given back is room again, again and again.
        for _ in 0..3 {
            retry(&mut pending, NOW.plus(8), &known(&[]));
            assert!((0..=255).all(|n| pending.keep(NOW, 0, ip(n), &frame(n))));
        }
    }
}
