//! Packets that the director makes itself: ICMP errors, the pieces of a packet
//! that is too long for its way, fragments that were held back. The worker
//! copies them into buffers of its own after each burst.

use crate::director::Handed;

/// Packets that fit.
const SLOTS: usize = 256;
/// Longest frame, bytes: what a port with jumbo frames sends.
pub const MAX_FRAME: usize = 9_728;

/// Whereto a waiting frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Out by this port.
    Port(u8),
    /// To the kernel, as come in by this port.
    Kernel(u8),
    /// To the worker that owns it.
    Worker {
        /// The worker's index.
        worker: u8,
        /// The port that it came in by.
        port: u8,
        /// What that worker is to know.
        handed: Handed,
    },
}

/// A bounded queue of frames, in memory that is allocated once.
#[derive(Debug)]
pub struct Outbox {
    memory: Box<[u8]>,
    /// Destination and length of each waiting frame, in order.
    waiting: Vec<(To, usize)>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            memory: vec![0; SLOTS * MAX_FRAME].into_boxed_slice(),
            waiting: Vec::with_capacity(SLOTS),
        }
    }
}

impl Outbox {
    /// Room for a frame of `len` bytes that is to leave by `port`, to be filled
    /// in at once. `None` when there is no room left, or the frame is longer
    /// than [`MAX_FRAME`].
    pub fn push(&mut self, port: u8, len: usize) -> Option<&mut [u8]> {
        self.push_to(To::Port(port), len)
    }

    /// The same for a frame that goes elsewhere.
    pub fn push_to(&mut self, to: To, len: usize) -> Option<&mut [u8]> {
        if self.waiting.len() == SLOTS || len > MAX_FRAME {
            return None;
        }
        let start = self.waiting.len() * MAX_FRAME;
        self.waiting.push((to, len));
        Some(&mut self.memory[start..start + len])
    }

    /// The frames from the one of this index on, in order.
    pub fn since(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        self.frames().skip(index).map(|(_, frame)| frame)
    }

    /// Takes back the frames from the one of this index on.
    pub fn truncate(&mut self, index: usize) {
        self.waiting.truncate(index);
    }

    /// The frame pushed last.
    #[must_use]
    pub fn last(&self) -> &[u8] {
        self.frames().last().map_or(&[], |(_, frame)| frame)
    }

    /// Takes back the frame pushed last.
    pub fn pop(&mut self) {
        self.waiting.pop();
    }

    /// The waiting frames with their destinations, in order.
    pub fn frames(&self) -> impl Iterator<Item = (To, &[u8])> + Clone {
        let slots = self.memory.chunks_exact(MAX_FRAME);
        self.waiting.iter().zip(slots).map(|(&(to, len), slot)| (to, &slot[..len]))
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets them all: they were sent.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut outbox = Outbox::default();
        outbox.push(1, 3).unwrap().copy_from_slice(b"one");
        outbox.push(0, 5).unwrap().copy_from_slice(b"three");
        outbox.push(0, 2).unwrap().copy_from_slice(b"no");
        outbox.pop();
        let frames: Vec<_> = outbox.frames().collect();
        assert_eq!(frames, [(To::Port(1), &b"one"[..]), (To::Port(0), &b"three"[..])]);
        outbox.clear();
        assert!(outbox.is_empty());
    }

    #[test]
    fn it_is_bounded() {
        let mut outbox = Outbox::default();
        assert!(outbox.push(0, MAX_FRAME + 1).is_none());
        for _ in 0..SLOTS {
            assert!(outbox.push(0, MAX_FRAME).is_some());
        }
        assert!(outbox.push(0, 1).is_none());
    }
}
