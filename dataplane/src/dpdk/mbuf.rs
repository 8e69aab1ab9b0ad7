//! Owned mbufs, one by one and in bursts.

use std::fmt;
use std::marker::PhantomData;

use arrayvec::ArrayVec;
use dpdk_sys::{RVS_BURST, RVS_FRAME_IP_BAD, RVS_FRAME_IP_GOOD, RVS_FRAME_RSS, RVS_HEADROOM};
use dpdk_sys::{rvs_frame, rvs_mbuf, rvs_segment};

use crate::conn::memory::prefetch_to_write;

/// The most frames of a burst.
pub const BURST: usize = RVS_BURST as usize;
/// Free bytes in front of a frame that was just received or allocated.
pub const HEADROOM: u16 = RVS_HEADROOM as u16;

/// What the NIC found out about the IPv4 header's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpChecksum {
    /// Nothing: it has to be verified.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
}

/// An mbuf, owned: it goes back to its pool when dropped.
///
/// The frame lies at `start()..start() + len()` of the first segment's
/// `buffer()`. Both are kept here, beside the pointer, and reach the mbuf itself
/// only when it is sent: moving or resizing a frame touches no memory of DPDK.
///
/// Sending or freeing takes the mbuf by value, so it cannot happen twice:
///
/// ```compile_fail,E0382
/// # fn example(mbuf: dataplane::dpdk::Mbuf, queue: &mut dataplane::dpdk::TxBuffer) {
/// queue.push(mbuf);
/// drop(mbuf);
/// # }
/// ```
// Invariants: `frame.mbuf` is the first segment of an mbuf chain that nobody
// else refers to; `frame.buf` points to its `frame.buf_len` bytes; `data_off +
// data_len <= buf_len`; `data_len <= pkt_len`.
#[repr(transparent)]
pub struct Mbuf {
    frame: rvs_frame,
}

// SAFETY: an mbuf belongs to no thread, and its pool takes it back from any.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes ownership of a frame that the shim filled.
    pub(super) fn from_raw(frame: rvs_frame) -> Self {
        Self { frame }
    }

    /// The first segment's whole buffer: headroom, frame and tailroom.
    #[inline]
    pub fn buffer(&self) -> &[u8] {
        // SAFETY: `buf` points to `buf_len` initialised bytes (EAL's memory is
        // mapped zeroed), and nobody writes them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.frame.buf, usize::from(self.frame.buf_len)) }
    }

    /// The first segment's whole buffer, writable.
    #[inline]
    pub fn buffer_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `buffer`; the mbuf is referred to by `self` only.
        unsafe { std::slice::from_raw_parts_mut(self.frame.buf, usize::from(self.frame.buf_len)) }
    }

    /// Where the frame starts in the buffer; also the size of the headroom.
    #[inline]
    pub fn start(&self) -> u16 {
        self.frame.data_off
    }

    /// Bytes of the frame in the first segment.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "an empty frame has no meaning of its own")]
    pub fn len(&self) -> u16 {
        self.frame.data_len
    }

    /// Bytes of the frame over all segments.
    #[inline]
    pub fn total_len(&self) -> u32 {
        self.frame.pkt_len
    }

    /// Free bytes behind the frame in the first segment.
    #[inline]
    pub fn tailroom(&self) -> u16 {
        self.frame.buf_len - self.frame.data_off - self.frame.data_len
    }

    /// Moves and resizes the frame within the first segment's buffer. The bytes
    /// stay where they are; `total_len` changes by as much as `len`.
    ///
    /// # Panics
    /// If the frame would not lie in the buffer.
    #[inline]
    pub fn set_range(&mut self, start: u16, len: u16) {
        let end = u32::from(start) + u32::from(len);
        assert!(end <= u32::from(self.frame.buf_len), "frame {start}+{len} lies outside its mbuf");
        self.frame.pkt_len = self.frame.pkt_len - u32::from(self.frame.data_len) + u32::from(len);
        self.frame.data_off = start;
        self.frame.data_len = len;
    }

    /// The frame's bytes in the first segment.
    #[inline]
    pub fn data(&self) -> &[u8] {
        let start = usize::from(self.frame.data_off);
        &self.buffer()[start..start + usize::from(self.frame.data_len)]
    }

    /// The frame's bytes in the first segment, writable.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        let start = usize::from(self.frame.data_off);
        let end = start + usize::from(self.frame.data_len);
        &mut self.buffer_mut()[start..end]
    }

    /// Asks for the memory that forwarding touches: the frame's first line, and
    /// the mbuf's own, which sending writes.
    #[inline]
    pub fn prefetch(&self) {
        if let Some(first) = self.data().first() {
            prefetch_to_write(first);
        }
        // SAFETY: the pointer is not null, and Rust knows the type as one without
        // bytes: the reference is an address.
        prefetch_to_write(unsafe { &*self.frame.mbuf });
    }

    /// The tailroom: what is written here becomes part of the frame by
    /// [`Mbuf::set_range`].
    #[inline]
    pub fn tail_mut(&mut self) -> &mut [u8] {
        let end = usize::from(self.frame.data_off) + usize::from(self.frame.data_len);
        &mut self.buffer_mut()[end..]
    }

    /// Adds bytes behind the frame; false, and nothing added, if the first
    /// segment has no room for them.
    pub fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.tail_mut().get_mut(..bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.set_range(self.start(), self.len() + bytes.len() as u16);
        true
    }

    /// The NIC's hash of the frame, if it was told to hash as RVS does.
    ///
    /// It covers both ports of TCP and UDP, and only the addresses of fragments
    /// and of other protocols.
    #[inline]
    pub fn rss_hash(&self) -> Option<u32> {
        self.has(RVS_FRAME_RSS).then_some(self.frame.rss_hash)
    }

    /// What the NIC says of the IPv4 header's checksum.
    #[inline]
    pub fn ip_checksum(&self) -> IpChecksum {
        if self.has(RVS_FRAME_IP_GOOD) {
            return IpChecksum::Good;
        }
        if self.has(RVS_FRAME_IP_BAD) { IpChecksum::Bad } else { IpChecksum::Unknown }
    }

    /// The frame's bytes, segment by segment. Most frames have one.
    pub fn segments(&self) -> Segments<'_> {
        Segments { first: Some(self.data()), mbuf: self.frame.mbuf, _borrow: PhantomData }
    }

    #[inline]
    fn has(&self, flag: u32) -> bool {
        u32::from(self.frame.flags) & flag != 0
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: `self` owns the mbuf and is not used again.
        unsafe { dpdk_sys::rvs_free(self.frame.mbuf) };
    }
}

impl fmt::Debug for Mbuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Mbuf");
        out.field("start", &self.start())
            .field("len", &self.len())
            .field("total_len", &self.total_len());
        out.finish_non_exhaustive()
    }
}

/// The segments of a frame; see [`Mbuf::segments`].
pub struct Segments<'a> {
    first: Option<&'a [u8]>,
    mbuf: *const rvs_mbuf,
    _borrow: PhantomData<&'a Mbuf>,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.mbuf.is_null() {
            return None;
        }
        let mut segment = rvs_segment { data: std::ptr::null(), len: 0 };
        // SAFETY: `mbuf` is a segment of the chain that the borrowed `Mbuf` owns.
        self.mbuf = unsafe { dpdk_sys::rvs_next_segment(self.mbuf, &mut segment) };
        if self.mbuf.is_null() {
            return None;
        }
        // SAFETY: the shim filled in the segment's bytes, which belong to the
        // borrowed `Mbuf`; no safe function writes to them.
        Some(unsafe { std::slice::from_raw_parts(segment.data, usize::from(segment.len)) })
    }
}

/// Up to [`BURST`] mbufs: received, taken out of a ring, or allocated.
///
/// A worker fills it, works on all frames at once through
/// [`iter_mut`](Self::iter_mut) (each item lends its own buffer), and takes each
/// mbuf out exactly once with [`drain`](Self::drain):
///
/// ```no_run
/// # use dataplane::dpdk::{RxBurst, RxQueue, TxBuffer};
/// # fn example(rx: &mut RxQueue, tx: &mut TxBuffer, burst: &mut RxBurst) {
/// rx.rx(burst);
/// let frames: Vec<&mut [u8]> = burst.iter_mut().map(|mbuf| mbuf.buffer_mut()).collect();
/// # drop(frames);
/// for mut mbuf in burst.drain() {
///     mbuf.set_range(mbuf.start(), 60);
///     tx.push(mbuf);
/// }
/// tx.flush();
/// # }
/// ```
///
/// It also serves to free many mbufs at the price of one call: push them, then
/// [`clear`](Self::clear).
#[derive(Default)]
pub struct RxBurst {
    mbufs: ArrayVec<Mbuf, BURST>,
}

impl RxBurst {
    /// An empty burst.
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of mbufs.
    #[inline]
    pub fn len(&self) -> usize {
        self.mbufs.len()
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.mbufs.is_empty()
    }

    /// Whether there is room for none.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.mbufs.is_full()
    }

    /// Adds one, or gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        self.mbufs.try_push(mbuf).map_err(arrayvec::CapacityError::element)
    }

    /// The mbufs.
    #[inline]
    pub fn as_slice(&self) -> &[Mbuf] {
        &self.mbufs
    }

    /// The mbufs, one after the other.
    #[inline]
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Mbuf> {
        self.mbufs.iter_mut()
    }

    /// Takes all mbufs out, in order. Those that the iterator did not reach when
    /// it is dropped are freed.
    #[inline]
    pub fn drain(&mut self) -> arrayvec::Drain<'_, Mbuf, BURST> {
        self.mbufs.drain(..)
    }

    /// Frees all mbufs in one call.
    pub fn clear(&mut self) {
        empty(&mut self.mbufs, 0);
    }

    /// The array itself, for who sends all of it.
    #[inline]
    pub(super) fn mbufs_mut(&mut self) -> &mut ArrayVec<Mbuf, BURST> {
        &mut self.mbufs
    }

    /// Lets `fill` write frames into the free room, and counts what it wrote.
    /// `fill` gets the room's address and size, and returns the number of frames
    /// that it filled from the start, each with an mbuf that nobody else owns.
    #[inline]
    pub(super) fn extend_raw(&mut self, fill: impl FnOnce(*mut rvs_frame, u16) -> u16) -> usize {
        let len = self.mbufs.len();
        let room = BURST - len;
        // SAFETY: `len <= BURST`, so the address lies in the array or at its end.
        let spare = unsafe { self.mbufs.as_mut_ptr().add(len) };
        // `Mbuf` is transparent over `rvs_frame`.
        let filled = usize::from(fill(spare.cast(), room as u16)).min(room);
        // SAFETY: `fill` wrote that many frames behind the first `len`.
        unsafe { self.mbufs.set_len(len + filled) };
        filled
    }
}

impl Drop for RxBurst {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Empties the array: forgets the first `forgotten` mbufs, which someone else
/// owns now, and frees the rest in one call.
#[inline]
pub(super) fn empty(mbufs: &mut ArrayVec<Mbuf, BURST>, forgotten: usize) {
    let len = mbufs.len();
    // SAFETY: 0 is a valid length; the mbufs are no longer the array's.
    unsafe { mbufs.set_len(0) };
    if forgotten >= len {
        return;
    }
    // SAFETY: the first `len` elements are mbufs that nothing owns any more, and
    // `forgotten < len`.
    unsafe {
        dpdk_sys::rvs_free_bulk(mbufs.as_ptr().add(forgotten).cast(), (len - forgotten) as u16);
    }
}

/// The mbufs as the shim takes them.
#[inline]
pub(super) fn as_frames(mbufs: &[Mbuf]) -> *const rvs_frame {
    mbufs.as_ptr().cast()
}
