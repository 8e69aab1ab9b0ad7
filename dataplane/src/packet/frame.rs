//! A received packet as a view of the buffer that holds it.

use crate::director::{Handed, Reading};

/// A packet: a buffer with the packet's bytes somewhere inside, so that headers
/// can grow at the front and padding can go at the end without copying.
///
/// A packet may be longer than the buffer (`total_len > len`) when the driver
/// spread it over several segments; the buffer then holds its first bytes,
/// which include all headers that forwarding reads.
#[derive(Debug)]
pub struct Frame<'a> {
    buffer: &'a mut [u8],
    /// Narrow, so that no sum of two can overflow: both make the range that
    /// every look at the bytes is checked for.
    start: u32,
    len: u32,
    total_len: u32,
    /// Index of the port that it came from. The worker knows the device's; the
    /// director puts a VLAN's in its place.
    pub port: u8,
    /// The Toeplitz hash that the NIC computed, where it did.
    pub rss_hash: Option<u32>,
    /// Whether the NIC verified the IPv4 header checksum.
    pub ip_checksum_good: bool,
    /// What the worker said that handed it over, if one did.
    pub handed: Handed,
    /// What was read of it before, if anything. The director fills it in of a
    /// packet that another worker is to get.
    pub read: Reading,
}

const _: () = assert!(size_of::<Frame<'_>>() == 64);

impl<'a> Frame<'a> {
    /// The packet at `start..start + len` of `buffer`, of `total_len` bytes in
    /// all.
    ///
    /// A range outside the buffer is cut to it.
    #[must_use]
    #[inline]
    pub fn new(buffer: &'a mut [u8], start: usize, len: usize, total_len: usize, port: u8) -> Self {
        let start = start.min(buffer.len());
        let len = len.min(buffer.len() - start);
        let total_len = total_len.max(len);
        Self {
            buffer,
            start: start as u32,
            len: len as u32,
            total_len: total_len as u32,
            port,
            rss_hash: None,
            ip_checksum_good: false,
            handed: Handed::default(),
            read: Reading::default(),
        }
    }

    /// The bytes at hand: the packet, or its first segment.
    #[must_use]
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..self.start as usize + self.len as usize]
    }

    /// The bytes at hand, for rewriting.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize..self.start as usize + self.len as usize]
    }

    /// Where the packet begins in the buffer.
    #[must_use]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// How many bytes of it are in the buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The length of the whole packet.
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.total_len as usize
    }

    /// Makes room for `count` bytes in front of the packet. Their content is
    /// whatever was in the buffer. False, and nothing changed, where the buffer
    /// has not so many bytes of headroom.
    #[must_use]
    pub fn grow_front(&mut self, count: usize) -> bool {
        if count > self.start() {
            return false;
        }
        self.start -= count as u32;
        self.len += count as u32;
        self.total_len += count as u32;
        true
    }

    /// Makes room for `count` bytes in front of a packet of one segment, and cuts
    /// it to `total_len` bytes with them. Its first bytes then; `None`, and
    /// nothing changed, for a packet that is shorter, and without so many bytes of
    /// headroom.
    #[must_use]
    #[inline(always)]
    pub fn wrap<const N: usize>(&mut self, count: usize, total_len: usize) -> Option<&mut [u8; N]> {
        let start = self.start().checked_sub(count)?;
        if self.total_len != self.len || !(N..=self.len() + count).contains(&total_len) {
            return None;
        }
        let front = self.buffer.get_mut(start..)?.first_chunk_mut()?;
        self.start = start as u32;
        (self.len, self.total_len) = (total_len as u32, total_len as u32);
        Some(front)
    }

    /// Makes room for `count` bytes behind the packet. False, and nothing
    /// changed, where the buffer has not so many bytes of tailroom, or the
    /// packet goes on in another segment.
    #[must_use]
    pub fn grow_back(&mut self, count: usize) -> bool {
        if self.total_len != self.len || count > self.buffer.len() - self.start() - self.len() {
            return false;
        }
        self.len += count as u32;
        self.total_len += count as u32;
        true
    }

    /// Removes `count` bytes at the front (at most all at hand).
    pub fn strip_front(&mut self, count: usize) {
        let count = count.min(self.len());
        self.start += count as u32;
        self.len -= count as u32;
        self.total_len -= count as u32;
    }

    /// Cuts the packet to `total_len` bytes. Does nothing where that would not
    /// shorten it, or where the cut lies in a later segment than the first:
    /// trailing bytes of such a packet are harmless padding.
    #[inline(always)]
    pub fn truncate(&mut self, total_len: usize) {
        if total_len >= self.len() || self.total_len != self.len {
            return;
        }
        self.len = total_len as u32;
        self.total_len = total_len as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripping_and_cutting_move_only_the_view() {
        let mut buffer = [0, 1, 2, 3, 4, 5, 6, 7];
        let mut frame = Frame::new(&mut buffer, 2, 5, 5, 0);
        frame.strip_front(1);
        frame.truncate(3);
        assert_eq!(frame.bytes(), [3, 4, 5]);
        assert_eq!((frame.start(), frame.len(), frame.total_len()), (3, 3, 3));
    }

    #[test]
    fn growing_takes_what_the_buffer_has_and_no_more() {
        let mut buffer = [0, 1, 2, 3, 4, 5];
        let mut frame = Frame::new(&mut buffer, 2, 2, 2, 0);
        assert!(!frame.grow_front(3) && !frame.grow_back(3));
        assert!(frame.grow_front(2) && frame.grow_back(1));
        assert_eq!(frame.bytes(), [0, 1, 2, 3, 4]);
        assert_eq!((frame.start(), frame.total_len()), (0, 5));
        let mut frame = Frame::new(&mut buffer, 0, 4, 9, 0);
        assert!(!frame.grow_back(1), "the packet's end is in another segment");
    }

    #[test]
    fn a_wrapped_packet_is_as_long_as_asked_for() {
        let mut buffer = [0, 1, 2, 3, 4, 5, 6, 7];
        let seen = |frame: &Frame<'_>| (frame.start(), frame.len(), frame.total_len());
        let mut frame = Frame::new(&mut buffer, 2, 4, 4, 0);
        // No headroom; longer than it is; shorter than what is to be written.
        for (count, total_len) in [(3, 4), (2, 7), (2, 2)] {
            assert_eq!(frame.wrap::<3>(count, total_len), None);
            assert_eq!(seen(&frame), (2, 4, 4), "{count} {total_len}");
        }
        assert_eq!(frame.wrap(2, 5), Some(&mut [0, 1, 2]));
        assert_eq!((seen(&frame), frame.bytes()), ((0, 5, 5), &[0, 1, 2, 3, 4][..]));
        let mut frame = Frame::new(&mut buffer, 2, 4, 9, 0);
        assert_eq!(frame.wrap::<3>(1, 5), None, "it goes on in another segment");
        assert_eq!(seen(&frame), (2, 4, 9));
    }

    #[test]
    fn a_frame_never_reaches_outside_its_buffer() {
        let mut buffer = [0; 4];
        let mut frame = Frame::new(&mut buffer, 3, 9, 9, 0);
        assert_eq!(frame.len(), 1);
        frame.strip_front(7);
        assert!(frame.is_empty());
    }

    #[test]
    fn a_packet_in_segments_is_not_cut() {
        let mut buffer = [0; 8];
        let mut frame = Frame::new(&mut buffer, 0, 8, 20, 0);
        frame.truncate(4);
        assert_eq!((frame.len(), frame.total_len()), (8, 20));
    }
}
