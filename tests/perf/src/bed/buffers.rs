//! Buffers for packets, as far apart as a port's mbufs are.

use arrayvec::ArrayVec;
use dataplane::director::BURST;

/// Distance of the mbufs of a port with an MTU of 1500, bytes: no multiple of
/// 2,048, so that headers do not fall into the same cache sets.
const SPACING: usize = 2368;
/// Room in front of a packet, bytes; DPDK's default.
pub(crate) const HEADROOM: usize = 128;
/// As many as a busy port has in flight.
const COUNT: usize = 2048;

const _: () = assert!(SPACING % 64 == 0 && COUNT % BURST == 0);

/// One buffer.
#[repr(align(64))]
#[derive(Clone)]
pub(crate) struct Buffer(pub(crate) [u8; SPACING]);

impl Buffer {
    const EMPTY: Self = Self([0; SPACING]);
}

/// Buffers in a row that are used one after the other, over and over, as
/// packets of a ring that goes round.
pub(crate) struct Ring {
    buffers: Vec<Buffer>,
    next: usize,
}

impl Ring {
    /// Bursts until it has gone round.
    pub(crate) const BURSTS: usize = COUNT / BURST;

    pub(crate) fn new() -> Self {
        Self { buffers: vec![Buffer::EMPTY; COUNT], next: 0 }
    }

    /// The next buffers. `burst` divides [`BURST`].
    #[inline]
    pub(crate) fn take(&mut self, burst: usize) -> &mut [Buffer] {
        if self.next + burst > COUNT {
            self.next = 0;
        }
        let first = self.next;
        self.next += burst;
        &mut self.buffers[first..first + burst]
    }
}

/// Buffers that are taken and given back, the last one first, as those of a
/// mempool's cache. A packet that goes to another worker takes its buffer along.
#[allow(clippy::vec_box, reason = "a buffer stays where it is when it changes hands")]
pub(crate) struct Pool(Vec<Box<Buffer>>);

impl Pool {
    pub(crate) fn new() -> Self {
        Self(vec![Box::new(Buffer::EMPTY); COUNT])
    }

    /// Takes so many, fewer when there are no more, into an empty burst.
    #[inline]
    pub(crate) fn take(&mut self, count: usize, taken: &mut ArrayVec<Box<Buffer>, BURST>) {
        let rest = self.0.len() - count.min(self.0.len());
        taken.extend(self.0.drain(rest..));
    }

    #[inline]
    pub(crate) fn give(&mut self, buffer: Box<Buffer>) {
        self.0.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_goes_round() {
        let mut ring = Ring::new();
        let mut address = |burst| ring.take(burst).as_ptr() as usize;
        let first = address(64);
        assert_eq!(address(64) - first, 64 * SPACING);
        let round: Vec<_> = (2..COUNT / 64).map(|_| address(64)).collect();
        assert!(round.iter().all(|&a| a > first));
        assert_eq!(address(64), first);
    }

    #[test]
    fn a_pool_runs_empty_and_takes_back() {
        let mut pool = Pool::new();
        let take = |pool: &mut Pool| {
            let mut taken = ArrayVec::new();
            pool.take(64, &mut taken);
            taken
        };
        let mut taken: Vec<_> = (0..COUNT / 64).flat_map(|_| take(&mut pool)).collect();
        assert_eq!((taken.len(), take(&mut pool).len()), (COUNT, 0));
        pool.give(taken.pop().unwrap());
        assert_eq!(take(&mut pool).len(), 1);
    }
}
