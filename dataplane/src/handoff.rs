//! The rings that packets travel on between workers: one producer and one
//! consumer each, and none is ever waited for.
//!
//! Both ends work a burst at a time. What one core writes and another reads,
//! the positions in the ring above all, moves between their caches each time;
//! so the sender collects packets and shows them to the receiver together.

use arrayvec::ArrayVec;

use crate::director::BURST;

/// Packets that a ring holds. A worker that is scheduled out for a millisecond
/// at a million packets a second misses none.
pub const CAPACITY: usize = 1024;

/// A new ring's ends.
#[must_use]
pub fn ring<T>() -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = rtrb::RingBuffer::new(CAPACITY);
    let sender = Sender { ring: Some(producer), waiting: ArrayVec::new(), early: Sent::default() };
    (sender, Receiver { ring: consumer })
}

/// What became of the packets of a [`Sender`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// In the ring.
    pub sent: u64,
    /// Dropped, because the ring was full.
    pub refused: u64,
}

/// A ring's producing end, with the packets that wait for the end of the burst;
/// or, without a ring, the place of a worker's own packets among the others'
/// ([`Sender::to_self`]).
#[derive(Debug)]
pub struct Sender<T> {
    ring: Option<rtrb::Producer<T>>,
    waiting: ArrayVec<T, BURST>,
    /// Of the flushes that `push` had to make.
    early: Sent,
}

impl<T> Sender<T> {
    /// Where a worker puts its own packets when it shares out a burst, as it puts
    /// others': to sort without a branch is what makes that cheap.
    #[must_use]
    pub fn to_self() -> Self {
        Self { ring: None, waiting: ArrayVec::new(), early: Sent::default() }
    }

    /// Whether there is another worker at the other end.
    #[must_use]
    pub fn is_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// Takes out what waits, a burst at most: a worker's own packets.
    #[inline]
    pub fn own(&mut self) -> arrayvec::Drain<'_, T, BURST> {
        self.waiting.drain(..)
    }

    /// Adds a packet, which the receiver sees after the next flush, or when
    /// [`BURST`] of them wait.
    #[inline]
    pub fn push(&mut self, packet: T) {
        self.waiting.push(packet);
        if self.waiting.is_full() && self.is_ring() {
            let Sent { sent, refused } = self.send();
            self.early.sent += sent;
            self.early.refused += refused;
        }
    }

    /// Shows the receiver what waits; what the ring has no room for is dropped.
    /// The result covers every packet pushed since the last flush.
    #[inline]
    pub fn flush(&mut self) -> Sent {
        let mut result = std::mem::take(&mut self.early);
        if !self.waiting.is_empty() {
            let Sent { sent, refused } = self.send();
            result.sent += sent;
            result.refused += refused;
        }
        result
    }

    /// How many packets the ring has room for besides those that wait.
    #[must_use]
    pub fn room(&self) -> usize {
        let free = self.ring.as_ref().map_or(BURST, rtrb::Producer::slots);
        free.saturating_sub(self.waiting.len())
    }

    fn send(&mut self) -> Sent {
        let Some(ring) = &mut self.ring else { return Sent::default() };
        let all = self.waiting.len();
        // Looks at the receiver's position only when the last one seen will
        // not do.
        let room = match ring.write_chunk_uninit(all) {
            Ok(_) => all,
            Err(rtrb::chunks::ChunkError::TooFewSlots(room)) => room,
        };
        let sent = ring.write_chunk_uninit(room).map_or(0, |chunk| {
            // Publishes once.
            chunk.fill_from_iter(self.waiting.drain(..room))
        });
        self.waiting.clear();
        Sent { sent: sent as u64, refused: (all - sent) as u64 }
    }
}

/// A ring's consuming end.
#[derive(Debug)]
pub struct Receiver<T> {
    ring: rtrb::Consumer<T>,
}

impl<T> Receiver<T> {
    /// Shows those that the next [`Receiver::take`] gives out and that are there
    /// already, up to `most`, for their memory to be asked for.
    #[inline]
    pub fn look_ahead(&mut self, most: usize, look: impl FnMut(&T)) {
        let count = self.ring.slots().min(most);
        if count == 0 {
            return;
        }
        if let Ok(chunk) = self.ring.read_chunk(count) {
            // Not committed: they stay.
            let (one, other) = chunk.as_slices();
            one.iter().chain(other).for_each(look);
        }
    }

    /// Takes out what is there, up to `most` packets, gives each to `to`, in
    /// order, and returns how many there were.
    #[inline]
    pub fn take(&mut self, most: usize, to: impl FnMut(T)) -> usize {
        let count = self.ring.slots().min(most);
        if count == 0 {
            return 0;
        }
        self.ring.read_chunk(count).map_or(0, |chunk| {
            chunk.into_iter().for_each(to);
            count
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken<T>(receiver: &mut Receiver<T>, most: usize) -> Vec<T> {
        let mut packets = Vec::new();
        let count = receiver.take(most, |packet| packets.push(packet));
        assert_eq!(count, packets.len());
        packets
    }

    #[test]
    fn packets_are_seen_after_a_flush_and_in_order() {
        let (mut sender, mut receiver) = ring();
        (0..5).for_each(|n| sender.push(n));
        assert_eq!(taken(&mut receiver, 64), []);
        assert_eq!(sender.flush(), Sent { sent: 5, refused: 0 });
        assert_eq!(taken(&mut receiver, 2), [0, 1]);
        assert_eq!(taken(&mut receiver, 64), [2, 3, 4]);
        assert_eq!(sender.flush(), Sent::default());
    }

    #[test]
    fn a_look_ahead_takes_nothing() {
        let (mut sender, mut receiver) = ring();
        // Round the ring's end.
        (0..CAPACITY).for_each(|n| sender.push(n));
        sender.flush();
        assert_eq!(taken(&mut receiver, CAPACITY - 2).len(), CAPACITY - 2);
        (CAPACITY..CAPACITY + 3).for_each(|n| sender.push(n));
        sender.flush();
        let mut seen = Vec::new();
        receiver.look_ahead(4, |&n| seen.push(n));
        assert_eq!(seen, [CAPACITY - 2, CAPACITY - 1, CAPACITY, CAPACITY + 1]);
        assert_eq!(taken(&mut receiver, 64), [&seen[..], &[CAPACITY + 2]].concat());
        receiver.look_ahead(4, |_| panic!("there are none"));
    }

    #[test]
    fn a_full_burst_does_not_wait_for_the_flush() {
        let (mut sender, mut receiver) = ring();
        (0..BURST + 3).for_each(|n| sender.push(n));
        assert_eq!(taken(&mut receiver, 100).len(), BURST);
        assert_eq!(sender.flush(), Sent { sent: BURST as u64 + 3, refused: 0 });
        assert_eq!(taken(&mut receiver, 100), [BURST, BURST + 1, BURST + 2]);
    }

    #[test]
    fn own_packets_stay_until_they_are_taken() {
        let mut own = Sender::to_self();
        (0..BURST).for_each(|n| own.push(n));
        assert_eq!((own.flush(), own.room(), own.is_ring()), (Sent::default(), 0, false));
        assert!(own.own().eq(0..BURST));
        assert_eq!(own.room(), BURST);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let packet = std::rc::Rc::new(());
        let (mut sender, mut receiver) = ring();
        for _ in 0..CAPACITY + BURST + 7 {
            sender.push(packet.clone());
        }
        assert_eq!(sender.room(), 0);
        let refused = BURST as u64 + 7;
        assert_eq!(sender.flush(), Sent { sent: CAPACITY as u64, refused });
        assert_eq!(std::rc::Rc::strong_count(&packet), 1 + CAPACITY);
        // Round the ring's end, partly free.
        assert_eq!(taken(&mut receiver, 10).len(), 10);
        (0..11).for_each(|_| sender.push(packet.clone()));
        assert_eq!(sender.flush(), Sent { sent: 10, refused: 1 });
        assert_eq!(taken(&mut receiver, CAPACITY).len(), CAPACITY);
        assert_eq!(std::rc::Rc::strong_count(&packet), 1);
    }
}
