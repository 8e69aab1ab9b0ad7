//! The receive and transmit queues of a port, each owned by one thread.

use arrayvec::ArrayVec;

use super::device::Claim;
use super::mbuf::{BURST, Mbuf, RxBurst, as_frames, empty};

/// One receive queue. It keeps its port running, and goes back to it when dropped.
/// While the port is reset, or when it is gone, nothing arrives.
pub struct RxQueue {
    claim: Claim,
    /// The flags of received frames that mean what RVS takes them for.
    flags: u16,
}

impl RxQueue {
    pub(super) fn new(claim: Claim, flags: u16) -> Self {
        Self { claim, flags }
    }

    /// Adds what has arrived to the burst, up to its free room, and returns how
    /// many frames that were.
    #[inline]
    pub fn rx(&mut self, burst: &mut RxBurst) -> usize {
        if !self.claim.passes() {
            return 0;
        }
        let (port, queue) = (self.claim.port(), self.claim.queue());
        burst.extend_raw(|frames, room| {
            // SAFETY: the claim passes, so the port is started and stays so until
            // it is asked again, and this is the queue's only user; there is room
            // for `room` frames, and the driver hands over mbufs that it no longer
            // refers to.
            unsafe { dpdk_sys::rvs_rx_burst(port, queue, frames, room, self.flags) }
        })
    }

    /// The number of the port that the queue belongs to.
    pub fn port_id(&self) -> u16 {
        self.claim.port()
    }
}

/// What became of the frames of a [`TxBuffer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TxResult {
    /// Handed to the driver.
    pub sent: u32,
    /// Freed, because the transmit queue was full or the driver refused them.
    pub dropped: u32,
}

impl TxResult {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.dropped += other.dropped;
    }
}

/// One transmit queue, with the frames that wait for the end of the burst. It
/// keeps its port running, and goes back to it when dropped; frames that were
/// not flushed are freed then. While the port is reset, or when it is gone, what
/// is sent counts as refused.
pub struct TxBuffer {
    /// The driver is to be called also when nothing waits.
    always: bool,
    waiting: ArrayVec<Mbuf, BURST>,
    /// Of the flushes that `push` had to make.
    early: TxResult,
    claim: Claim,
}

impl TxBuffer {
    /// `always` has each flush call the driver: a bond with LACP sends its own
    /// frames then, at least every 100 ms.
    pub(super) fn new(claim: Claim, always: bool) -> Self {
        Self { always, waiting: ArrayVec::new(), early: TxResult::default(), claim }
    }

    /// Adds a frame, and sends those that wait when [`BURST`] of them do.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) {
        self.waiting.push(mbuf);
        if self.waiting.is_full() {
            let result = self.send();
            self.early.add(result);
        }
    }

    /// Sends all of a burst, after what waits, and leaves it empty. Spares the
    /// copy that `push` makes.
    #[inline]
    pub fn send_all(&mut self, burst: &mut RxBurst) {
        if !self.waiting.is_empty() {
            let result = self.send();
            self.early.add(result);
        }
        self.early.add(send(&self.claim, burst.mbufs_mut()));
    }

    /// Sends what waits; what the driver does not take is freed. The result
    /// covers every frame pushed since the last flush.
    #[inline]
    pub fn flush(&mut self) -> TxResult {
        let mut result = std::mem::take(&mut self.early);
        // Also without frames the gate is asked, or who closes it waits in vain.
        if !self.waiting.is_empty() || self.always || !self.claim.passes() {
            result.add(self.send());
        }
        result
    }

    /// The number of frames that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The number of the port that the queue belongs to.
    pub fn port_id(&self) -> u16 {
        self.claim.port()
    }

    fn send(&mut self) -> TxResult {
        send(&self.claim, &mut self.waiting)
    }
}

fn send(claim: &Claim, mbufs: &mut ArrayVec<Mbuf, BURST>) -> TxResult {
    let all = mbufs.len();
    if !claim.passes() {
        mbufs.clear();
        return TxResult { sent: 0, dropped: all as u32 };
    }
    let (port, queue) = (claim.port(), claim.queue());
    // SAFETY: the claim passes, so the port is started and stays so until it is
    // asked again, and this is the queue's only user; the frames are owned by
    // `mbufs`.
    let sent = unsafe { dpdk_sys::rvs_tx_burst(port, queue, as_frames(mbufs), all as u16) };
    let sent = usize::from(sent).min(all);
    // The driver owns those that it took.
    empty(mbufs, sent);
    TxResult { sent: sent as u32, dropped: (all - sent) as u32 }
}
