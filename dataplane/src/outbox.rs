//! Packets that the director makes itself: ICMP errors, the pieces of a packet
//! that is too long for its way, fragments that were held back. The worker
//! copies them into buffers of its own after each burst.

/// Packets that fit.
const SLOTS: usize = 256;
/// Longest frame, bytes: what a port with jumbo frames sends.
pub const MAX_FRAME: usize = 9_728;

/// A bounded queue of frames, in memory that is allocated once.
#[derive(Debug)]
pub struct Outbox {
    memory: Box<[u8]>,
    /// Port and length of each waiting frame, in order.
    waiting: Vec<(u8, usize)>,
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
        if self.waiting.len() == SLOTS || len > MAX_FRAME {
            return None;
        }
        let start = self.waiting.len() * MAX_FRAME;
        self.waiting.push((port, len));
        Some(&mut self.memory[start..start + len])
    }

    /// Takes back the frame pushed last.
    pub fn pop(&mut self) {
        self.waiting.pop();
    }

    /// The waiting frames with their ports, in order.
    pub fn frames(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let slots = self.memory.chunks_exact(MAX_FRAME);
        self.waiting.iter().zip(slots).map(|(&(port, len), slot)| (port, &slot[..len]))
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
        assert_eq!(frames, [(1, &b"one"[..]), (0, &b"three"[..])]);
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
