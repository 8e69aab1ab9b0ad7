//! The kernel path: the thread between the workers' rings and the taps. What
//! the workers punt goes into the tap of the port that it came by; what the
//! kernel sends into a tap leaves by the port. VLANs have taps of their own, in
//! which frames have no tag: it is taken off and put on here. Health checks that
//! go to the VIP are made so here, too ([`Probes`]).
//!
//! What the control thread itself has to say to a segment ([`ControlFrame`])
//! takes the same way out.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::rings::{KernelRings, Parcel};
use super::{BURST, HEADROOM, Mbuf, Pool, Tap};
use crate::forward::tun::Ids;
use crate::outbox::Outbox;
use crate::packet::Frame;
use crate::packet::headers::{ETHERTYPE_VLAN, VLAN_TAG, vlan_id};
use crate::probes::{Leaving, Outcome, Probes};

/// How long the thread stays awake after the last packet: an answer to what
/// was just punted, or the next packet of a transfer, is likely soon.
const AWAKE: Duration = Duration::from_millis(2);
/// Its rest between two looks while awake.
const NAP: Duration = Duration::from_micros(50);
/// Rest between two attempts to read a tap that fails.
const RETRY: Duration = Duration::from_secs(1);
/// Length of the addresses in front of a VLAN tag.
const MACS: usize = 12;
/// Longest frame that a tap gives, with room for a VLAN tag.
const MAX_FRAME: usize = 65_535;

/// What the kernel path counts, for other threads to read.
#[derive(Debug, Default)]
pub struct KernelCounters {
    /// Packets written into a tap.
    pub to_kernel: AtomicU64,
    /// Packets that a tap did not take.
    pub to_kernel_failed: AtomicU64,
    /// Packets read from a tap, or of the control thread's, given to a worker.
    pub from_kernel: AtomicU64,
    /// Such packets that found no mbuf, no room in a ring, or did not fit into the
    /// tunnel of a health check.
    pub from_kernel_dropped: AtomicU64,
}

/// A frame of the control thread's.
#[derive(Debug)]
pub struct ControlFrame {
    /// Index of the port to send it by.
    pub port: u8,
    /// From the Ethernet header on, without VLAN tag.
    pub bytes: Vec<u8>,
}

/// A tap and the pool that its packets are copied into.
pub struct TapPort {
    /// The tap.
    pub tap: Tap,
    /// The device's pool.
    pub pool: Pool,
    /// The tag of what leaves, where the port is a VLAN.
    vlan: Option<u16>,
    /// Longest IP packet that leaves, bytes.
    mtu: u16,
    /// While reading fails: when to try again.
    retry: Option<Instant>,
}

impl TapPort {
    /// A tap, the pool of its device, and VLAN id and MTU of its port.
    #[must_use]
    pub fn new(tap: Tap, pool: Pool, vlan: Option<u16>, mtu: u16) -> Self {
        Self { tap, pool, vlan, mtu, retry: None }
    }

    /// A copy of a frame of the kernel as it is to leave.
    fn outgoing(&self, frame: &[u8]) -> Option<Mbuf> {
        let mut mbuf = self.pool.alloc()?;
        let copied = match (self.vlan, frame.split_at_checked(MACS)) {
            (Some(id), Some((macs, rest))) => {
                mbuf.append(macs) && mbuf.append(&tag(id)) && mbuf.append(rest)
            }
            _ => mbuf.append(frame),
        };
        copied.then_some(mbuf)
    }

    /// The next frame that the kernel sends, if there is one. A tap that fails
    /// was most likely removed by someone; that is said once.
    fn recv(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.retry.is_some_and(|retry| Instant::now() < retry) {
            return None;
        }
        match self.tap.recv(buffer) {
            Ok(len) => {
                self.retry = None;
                len
            }
            Err(error) => {
                if self.retry.is_none() {
                    log::error!(
                        "tap {}: {error}; the port has lost its kernel interface: if that was \
                         removed (`ip link`), restart rvsd",
                        self.tap.name()
                    );
                }
                self.retry = Some(Instant::now() + RETRY);
                None
            }
        }
    }
}

/// The kernel path, ready to run.
pub struct KernelPath {
    /// By the ports' index.
    pub taps: Vec<TapPort>,
    /// Its rings.
    pub rings: KernelRings,
    /// What the control thread sends.
    pub control: Receiver<ControlFrame>,
    /// Its counters.
    pub counters: Arc<KernelCounters>,
    /// Health checks that go to the VIP.
    pub probes: Arc<Probes>,
}

impl KernelPath {
    /// Runs on the calling thread until `stop`. The taps go when it returns.
    pub fn run(mut self, stop: &AtomicBool) {
        let mut last_packet = Instant::now();
        // With room for a tunnel in front.
        let mut buffer = vec![0; usize::from(HEADROOM) + MAX_FRAME];
        // A single stream of ids: packets of the kernel have DF, which needs none.
        let ids = Ids::new(0, 1, 0);
        let mut leaving = Leaving { mtu: 0, ids, outbox: Outbox::default() };
        while !stop.load(Ordering::Relaxed) {
            let packets =
                self.deliver() + self.collect(&mut buffer, &mut leaving) + self.announce();
            let now = Instant::now();
            if packets > 0 {
                last_packet = now;
            } else if now - last_packet < AWAKE {
                std::thread::sleep(NAP);
            } else {
                self.wait();
            }
        }
    }

    /// Waits for a tap, or a millisecond: workers do not wake this thread,
    /// which would be a system call of theirs.
    fn wait(&self) {
        // One that fails would end every wait at once.
        let working = self.taps.iter().filter(|t| t.retry.is_none());
        let mut fds: Vec<_> =
            working.map(|t| PollFd::new(t.tap.as_fd(), PollFlags::POLLIN)).collect();
        // An error or signal only means looking sooner.
        let _ = poll(&mut fds, PollTimeout::from(1_u8));
    }

    /// Writes what was punted into the taps, a burst of each worker.
    fn deliver(&mut self) -> usize {
        let mut packets = 0;
        for ring in &mut self.rings.punted {
            for _ in 0..BURST {
                let Ok(Parcel { mut mbuf, port, .. }) = ring.pop() else { break };
                packets += 1;
                let (start, len) = (usize::from(mbuf.start()), usize::from(mbuf.len()));
                let total_len = mbuf.total_len() as usize;
                let mut frame = Frame::new(mbuf.buffer_mut(), start, len, total_len, port);
                self.probes.incoming(&mut frame);
                let counter = match write(&self.taps[usize::from(port)].tap, &mbuf) {
                    Ok(()) => &self.counters.to_kernel,
                    Err(_) => &self.counters.to_kernel_failed,
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
        packets
    }

    /// Gives what the kernel sends to workers, a burst of each tap. A port's
    /// packets all go by one worker, so they stay in order.
    fn collect(&mut self, buffer: &mut [u8], leaving: &mut Leaving) -> usize {
        let mut packets = 0;
        let start = usize::from(HEADROOM);
        for index in 0..self.taps.len() {
            leaving.mtu = self.taps[index].mtu;
            for _ in 0..BURST {
                let Some(len) = self.taps[index].recv(&mut buffer[start..]) else { break };
                packets += 1;
                let mut frame = Frame::new(buffer, start, len, len, index as u8);
                match self.probes.outgoing(&mut frame, leaving) {
                    Outcome::Untouched | Outcome::Changed => self.inject(index, frame.bytes()),
                    Outcome::TooLong => {
                        self.counters.from_kernel_dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        packets
    }

    /// Gives what the control thread sends to workers, at most a burst.
    fn announce(&mut self) -> usize {
        let frames: ArrayVec<_, BURST> = self.control.try_iter().take(BURST).collect();
        for ControlFrame { port, bytes } in &frames {
            if usize::from(*port) < self.taps.len() {
                self.inject(usize::from(*port), bytes);
            }
        }
        frames.len()
    }

    /// Has a worker send a frame by a port.
    fn inject(&mut self, port: usize, frame: &[u8]) {
        let workers = self.rings.inject.len();
        let ring = &mut self.rings.inject[port % workers];
        let mbuf = self.taps[port].outgoing(frame);
        let sent = mbuf.is_some_and(|mbuf| ring.push(Parcel::new(mbuf, port as u8)).is_ok());
        let counter =
            if sent { &self.counters.from_kernel } else { &self.counters.from_kernel_dropped };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a packet, whose bytes may lie in several segments, as one frame
/// without VLAN tag.
fn write(tap: &Tap, mbuf: &Mbuf) -> io::Result<()> {
    if mbuf.total_len() == u32::from(mbuf.len()) {
        return write_untagged(tap, mbuf.data());
    }
    let frame: Vec<u8> = mbuf.segments().flatten().copied().collect();
    write_untagged(tap, &frame)
}

fn write_untagged(tap: &Tap, frame: &[u8]) -> io::Result<()> {
    match (vlan_id(frame), frame.get(MACS + VLAN_TAG..)) {
        (Some(_), Some(rest)) => {
            tap.send_vectored(&[IoSlice::new(&frame[..MACS]), IoSlice::new(rest)])
        }
        _ => tap.send(frame),
    }
}

/// A tag of priority 0.
fn tag(id: u16) -> [u8; VLAN_TAG] {
    let ([a, b], [c, d]) = (ETHERTYPE_VLAN.to_be_bytes(), id.to_be_bytes());
    [a, b, c, d]
}
