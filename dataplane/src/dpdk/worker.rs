//! A worker: the loop that moves packets between queues and rings, and has the
//! [`Director`] decide what becomes of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;

use super::rings::{Parcel, WorkerRings};
use super::{BURST, Eal, EalError, IpChecksum, Mbuf, Pool, RxBurst, RxQueue, TxBuffer};
use crate::counters::{Counters, DropReason};
use crate::director::{self, Director, Handed, Source, Verdict};
use crate::outbox::To;
use crate::packet::Frame;
use crate::time::{Clock, Tick};

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Looks again at once: the lowest latency, the core at 100 %.
    Busy,
    /// Sleeps, longer the longer nothing comes.
    Adaptive,
}

/// Empty rounds before an adaptive worker begins to sleep.
const EMPTY_ROUNDS: u32 = 256;
/// Its shortest and longest sleep.
const SLEEP: (Duration, Duration) = (Duration::from_micros(10), Duration::from_micros(500));

const _: () = assert!(BURST <= director::BURST, "the director takes a whole burst");

/// Whence a burst came.
enum From<'a> {
    /// The port.
    Port,
    /// Another worker, which says this about each packet.
    Worker(&'a [Handed]),
}

/// One worker's part of a device.
pub struct WorkerPort {
    /// Its receive queue.
    pub rx: RxQueue,
    /// Its transmit queue.
    pub tx: TxBuffer,
    /// The port's pool, for what the director itself sends.
    pub pool: Pool,
    /// Whether the hashes that the NIC reports are the ownership hash.
    pub trust_rss: bool,
}

/// A worker, ready to run.
pub struct Worker {
    /// The packet logic.
    pub director: Director,
    /// Its queues, by the devices' index.
    pub ports: Vec<WorkerPort>,
    /// By the ports' index, VLANs among them: the index of the device.
    pub devices: Vec<u8>,
    /// Its rings.
    pub rings: WorkerRings,
    /// What it does when there is nothing to do.
    pub idle: Idle,
    /// The time that all workers share.
    pub clock: Clock,
    /// The core that it runs on.
    pub core: usize,
}

impl Worker {
    /// Runs on the calling thread, pinned to the worker's core, until `stop`.
    /// The queues go back to their ports when it returns.
    ///
    /// # Errors
    /// When EAL does not take the thread.
    pub fn run(mut self, eal: &Eal, stop: &AtomicBool) -> Result<(), EalError> {
        // Before registering: EAL notes the thread's core for its caches.
        if !core_affinity::set_for_current(core_affinity::CoreId { id: self.core }) {
            log::warn!("worker on core {}: cannot be pinned; it runs on any core", self.core);
        }
        let _registered = eal.register_thread()?;
        self.director.prepare();
        let mut burst = RxBurst::new();
        let mut pause = Pause::new(self.idle);
        while !stop.load(Ordering::Relaxed) {
            let packets = self.round(&mut burst);
            pause.after(packets);
        }
        Ok(())
    }

    /// One round over everything that may have packets. How many there were.
    fn round(&mut self, burst: &mut RxBurst) -> usize {
        let now = self.clock.now();
        let mut packets = 0;
        for port in 0..self.ports.len() {
            let received = self.ports[port].rx.rx(burst);
            self.director.counters_mut().rx += received as u64;
            packets += received;
            if received > 0 {
                self.forward(now, burst, port as u8, From::Port);
            }
        }
        packets += self.take_over(now, burst);
        packets += self.inject();
        self.flush();
        self.director.housekeeping(now);
        packets
    }

    /// Has a burst of one device decided on, and does what was decided.
    fn forward(&mut self, now: Tick, burst: &mut RxBurst, device: u8, from: From<'_>) {
        let trust_rss = self.ports[usize::from(device)].trust_rss;
        let mut verdicts = [Verdict::Punt; BURST];
        let mut ranges = [(0, 0, 0); BURST];
        let mut frames: ArrayVec<Frame<'_>, BURST> =
            burst.iter_mut().map(|mbuf| view(mbuf, device, trust_rss)).collect();
        let source = match from {
            From::Port => Source::Port,
            From::Worker(handed) => {
                for (frame, handed) in frames.iter_mut().zip(handed) {
                    frame.handed = *handed;
                }
                Source::Handoff
            }
        };
        self.director.process(now, source, &mut frames, &mut verdicts);
        for (range, frame) in ranges.iter_mut().zip(&frames) {
            // Both were u16 when they came, and stay inside the buffer.
            *range = (frame.start() as u16, frame.len() as u16, frame.port);
        }
        drop(frames);
        for (((start, len, port), verdict), mut mbuf) in
            ranges.into_iter().zip(verdicts).zip(burst.drain())
        {
            if (start, len) != (mbuf.start(), mbuf.len()) {
                mbuf.set_range(start, len);
            }
            let counters = self.director.counters_mut();
            match verdict {
                Verdict::Send { port } => {
                    let device = self.devices[usize::from(port)];
                    self.ports[usize::from(device)].tx.push(mbuf);
                }
                Verdict::Punt => {
                    let sent = self.rings.punt.push(Parcel::new(mbuf, port));
                    count(counters, sent.is_ok(), |c| &mut c.punted, DropReason::PuntFull);
                }
                Verdict::Handoff { worker, handed } => {
                    let sent = self.rings.hand_over(worker, Parcel { mbuf, port: device, handed });
                    count(counters, sent, |c| &mut c.handed_off, DropReason::HandoffFull);
                }
                Verdict::Absorbed | Verdict::Drop(_) => {}
            }
        }
        self.send_own();
    }

    /// Forwards what other workers handed over, a burst from each. The packets
    /// of a burst have one device, so a change of it ends the burst early.
    fn take_over(&mut self, now: Tick, burst: &mut RxBurst) -> usize {
        let mut packets = 0;
        for ring in 0..self.rings.taken_over.len() {
            let mut left = BURST;
            while left > 0 {
                let mut handed = ArrayVec::new();
                let ring = &mut self.rings.taken_over[ring];
                let Some(device) = fill(ring, burst, &mut handed, left) else { break };
                let taken = burst.len();
                left -= taken;
                packets += taken;
                self.director.counters_mut().taken_over += taken as u64;
                self.forward(now, burst, device, From::Worker(&handed));
            }
        }
        packets
    }

    /// Sends what the director itself has to send.
    fn send_own(&mut self) {
        let Self { director, ports, devices, rings, .. } = self;
        if director.outbox().is_empty() {
            return;
        }
        let mut dropped =
            [(DropReason::TxFull, 0), (DropReason::PuntFull, 0), (DropReason::HandoffFull, 0)];
        let (mut punted, mut handed_off) = (0, 0);
        for (to, bytes) in director.outbox().frames() {
            let (To::Port(port) | To::Kernel(port) | To::Worker { port, .. }) = to;
            let device = devices[usize::from(port)];
            let port = &mut ports[usize::from(device)];
            let Some(mbuf) =
                port.pool.alloc().and_then(|mut mbuf| mbuf.append(bytes).then_some(mbuf))
            else {
                dropped[0].1 += 1;
                continue;
            };
            match to {
                To::Port(_) => port.tx.push(mbuf),
                To::Kernel(port) => match rings.punt.push(Parcel::new(mbuf, port)) {
                    Ok(()) => punted += 1,
                    Err(_) => dropped[1].1 += 1,
                },
                To::Worker { worker, handed, .. } => {
                    if rings.hand_over(worker, Parcel { mbuf, port: device, handed }) {
                        handed_off += 1;
                    } else {
                        dropped[2].1 += 1;
                    }
                }
            }
        }
        director.outbox().clear();
        let counters = director.counters_mut();
        counters.punted += punted;
        counters.handed_off += handed_off;
        for (reason, count) in dropped {
            counters.drop_many(reason, count);
        }
    }

    /// Sends what the kernel has to send, at most a burst.
    fn inject(&mut self) -> usize {
        let mut packets = 0;
        while packets < BURST {
            let Ok(Parcel { mbuf, port, .. }) = self.rings.inject.pop() else { break };
            packets += 1;
            self.director.counters_mut().injected += 1;
            let device = self.devices[usize::from(port)];
            self.ports[usize::from(device)].tx.push(mbuf);
        }
        packets
    }

    /// Hands what waits to be sent to the drivers.
    fn flush(&mut self) {
        for port in &mut self.ports {
            let result = port.tx.flush();
            let counters = self.director.counters_mut();
            counters.tx += u64::from(result.sent);
            counters.drop_many(DropReason::TxFull, u64::from(result.dropped));
        }
    }
}

/// Moves the next packets of a ring that came by one device into an empty burst,
/// at most `most`. The device, or `None` when there was no packet.
fn fill(
    ring: &mut super::rings::Receiver,
    burst: &mut RxBurst,
    handed: &mut ArrayVec<Handed, BURST>,
    most: usize,
) -> Option<u8> {
    let device = ring.peek().ok()?.port;
    while burst.len() < most && ring.peek().is_ok_and(|parcel| parcel.port == device) {
        let Ok(parcel) = ring.pop() else { break };
        handed.push(parcel.handed);
        // `most` is at most what a burst holds.
        let _ = burst.push(parcel.mbuf);
    }
    Some(device)
}

fn view(mbuf: &mut Mbuf, port: u8, trust_rss: bool) -> Frame<'_> {
    let (start, len) = (usize::from(mbuf.start()), usize::from(mbuf.len()));
    let total_len = mbuf.total_len() as usize;
    let rss_hash = mbuf.rss_hash().filter(|_| trust_rss);
    let ip_checksum_good = mbuf.ip_checksum() == IpChecksum::Good;
    let mut frame = Frame::new(mbuf.buffer_mut(), start, len, total_len, port);
    frame.rss_hash = rss_hash;
    frame.ip_checksum_good = ip_checksum_good;
    frame
}

fn count(
    counters: &mut Counters,
    sent: bool,
    counter: fn(&mut Counters) -> &mut u64,
    otherwise: DropReason,
) {
    if sent {
        *counter(counters) += 1;
    } else {
        counters.drop(otherwise);
    }
}

/// Sleeps between rounds as the worker's idle mode says.
struct Pause {
    idle: Idle,
    empty: u32,
    sleep: Duration,
}

impl Pause {
    fn new(idle: Idle) -> Self {
        Self { idle, empty: 0, sleep: SLEEP.0 }
    }

    fn after(&mut self, packets: usize) {
        if self.idle == Idle::Busy {
            return;
        }
        if packets > 0 {
            (self.empty, self.sleep) = (0, SLEEP.0);
            return;
        }
        self.empty = self.empty.saturating_add(1);
        if self.empty > EMPTY_ROUNDS {
            std::thread::sleep(self.sleep);
            self.sleep = (self.sleep * 2).min(SLEEP.1);
        }
    }
}
