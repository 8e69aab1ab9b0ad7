//! A worker: the loop that moves packets between queues and rings, and has the
//! [`Director`] decide what becomes of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;

use super::rings::{Parcel, WorkerRings};
use super::{BURST, IpChecksum, Mbuf, Pool, RxBurst, RxQueue, TxBuffer, tsc};
use crate::counters::{Counters, DropReason};
use crate::director::{self, Director, Handed, Reading, Source, Verdict};
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

/// Packets of a burst that are sent at once if they all leave by one port.
/// Fewer wait, since the driver is called once for all that come in a round.
const WORTH_A_SEND: usize = 16;

const _: () = assert!(BURST <= director::BURST, "the director takes a whole burst");

/// Whence a burst came.
enum From<'a> {
    /// The device of this index.
    Device(u8),
    /// A queue of parcels: of this worker's own packets, which it has sorted, or
    /// another worker's. This is known about each packet.
    Parcels(Source, &'a [Origin]),
}

/// What is known of a packet that was in a parcel.
struct Origin {
    /// The index of the device that it came in by.
    device: u8,
    handed: Handed,
    read: Reading,
}

/// What the director made of a frame, in its buffer.
#[derive(Clone, Copy)]
struct Range {
    start: u16,
    len: u16,
    /// The port that it came in by: a VLAN's where it has one.
    port: u8,
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
}

impl Worker {
    /// Runs on the calling thread, which is one of [`super::Eal::launch`], until
    /// `stop`. The queues go back to their ports when it returns.
    pub fn run(mut self, stop: &AtomicBool) {
        // Memory for the tables, by this thread, on its NUMA node.
        self.director.prepare();
        let mut burst = RxBurst::new();
        let mut pause = Pause::new(self.idle);
        let mut before = tsc();
        while !stop.load(Ordering::Relaxed) {
            let packets = self.round(&mut burst);
            let after = tsc();
            if packets > 0 {
                let counters = self.director.counters_mut();
                counters.busy_cycles =
                    counters.busy_cycles.wrapping_add(after.wrapping_sub(before));
                counters.busy_rounds += 1;
            }
            before = if pause.after(packets) { tsc() } else { after };
        }
    }

    /// One round over everything that may have packets. How many there were.
    fn round(&mut self, burst: &mut RxBurst) -> usize {
        let now = self.clock.now();
        // The sender's core has them in its cache: they are on their way while
        // this worker's own packets are dealt with.
        for ring in &mut self.rings.taken_over {
            ring.look_ahead(BURST, |parcel| parcel.mbuf.prefetch());
        }
        let mut packets = 0;
        for port in 0..self.ports.len() {
            let received = self.ports[port].rx.rx(burst);
            self.director.counters_mut().rx += received as u64;
            packets += received;
            if received > 0 {
                self.receive(now, burst, port as u8);
            }
        }
        packets += self.take_over(now, burst);
        packets += self.inject();
        self.flush();
        self.director.housekeeping(now);
        packets
    }

    /// Deals with what came in by a device. Where that does not spread packets as
    /// their owners are spread, they are sorted by owner first.
    fn receive(&mut self, now: Tick, burst: &mut RxBurst, device: u8) {
        let Self { director, ports, rings, .. } = self;
        let sorts = rings.handoff.len() > 1 && !ports[usize::from(device)].trust_rss;
        let Some(sharing) = director.sharing(device).filter(|_| sorts) else {
            return self.forward(now, burst, From::Device(device));
        };
        for mut mbuf in burst.drain() {
            let (owner, read) = sharing.owner(&view(&mut mbuf, device, false));
            let parcel = Parcel { mbuf, port: device, handed: Handed::default(), read };
            rings.handoff[usize::from(owner)].push(parcel);
        }
        let mut origins = ArrayVec::<Origin, BURST>::new();
        for parcel in rings.handoff[director.worker()].own() {
            unpack(parcel, burst, &mut origins);
        }
        if !burst.is_empty() {
            self.forward(now, burst, From::Parcels(Source::Port, &origins));
        }
    }

    /// Has a burst decided on, and does what was decided. Arrays stay where they
    /// are written: copies of what was just written in small pieces wait for it.
    fn forward(&mut self, now: Tick, burst: &mut RxBurst, from: From<'_>) {
        let mut verdicts = [Verdict::Punt; BURST];
        let mut frames = ArrayVec::<Frame<'_>, BURST>::new();
        let source = match from {
            From::Device(device) => {
                let trust_rss = self.ports[usize::from(device)].trust_rss;
                for mbuf in burst.iter_mut() {
                    frames.push(view(mbuf, device, trust_rss));
                }
                Source::Port
            }
            From::Parcels(source, origins) => {
                for (mbuf, origin) in burst.iter_mut().zip(origins) {
                    let mut frame = view(mbuf, origin.device, false);
                    (frame.handed, frame.read) = (origin.handed, origin.read);
                    frames.push(frame);
                }
                source
            }
        };
        self.director.process(now, source, &mut frames, &mut verdicts);
        let port = only_port(&verdicts[..frames.len()]);
        let mut ranges = ArrayVec::<Range, BURST>::new();
        let mut readings = ArrayVec::<Reading, BURST>::new();
        for frame in &frames {
            // Both were u16 when they came, and stay inside the buffer.
            let (start, len) = (frame.start() as u16, frame.len() as u16);
            ranges.push(Range { start, len, port: frame.port });
        }
        if port.is_none() {
            readings.extend(frames.iter().map(|frame| frame.read));
        }
        drop(frames);
        for (mbuf, range) in burst.iter_mut().zip(&ranges) {
            if (range.start, range.len) != (mbuf.start(), mbuf.len()) {
                mbuf.set_range(range.start, range.len);
            }
        }
        let verdicts = &verdicts[..burst.len()];
        match port {
            Some(port) if burst.len() >= WORTH_A_SEND => {
                let device = self.devices[usize::from(port)];
                self.ports[usize::from(device)].tx.send_all(burst);
            }
            _ => self.carry_out(burst, verdicts, &ranges, &readings, from),
        }
        self.send_own();
    }

    /// Does with each packet of a burst what was decided.
    fn carry_out(
        &mut self,
        burst: &mut RxBurst,
        verdicts: &[Verdict],
        ranges: &[Range],
        readings: &[Reading],
        from: From<'_>,
    ) {
        for ((index, mbuf), verdict) in burst.drain().enumerate().zip(verdicts) {
            match *verdict {
                Verdict::Send { port } => {
                    let device = self.devices[usize::from(port)];
                    self.ports[usize::from(device)].tx.push(mbuf);
                }
                Verdict::Punt => {
                    let sent = self.rings.punt.push(Parcel::new(mbuf, ranges[index].port));
                    let counters = self.director.counters_mut();
                    count(counters, sent.is_ok(), |c| &mut c.punted, DropReason::PuntFull);
                }
                Verdict::Handoff { worker, handed } => {
                    let port = match from {
                        From::Device(device) => device,
                        From::Parcels(_, origins) => origins[index].device,
                    };
                    let read = readings.get(index).copied().unwrap_or_default();
                    self.hand_over(worker, Parcel { mbuf, port, handed, read });
                }
                Verdict::Absorbed | Verdict::Drop(_) => {}
            }
        }
    }

    /// Gives a packet to another worker. It is counted by the flush.
    fn hand_over(&mut self, worker: u8, parcel: Parcel) {
        if !self.rings.hand_over(worker, parcel) {
            self.director.counters_mut().drop(DropReason::HandoffFull);
        }
    }

    /// Forwards what other workers handed over, a burst from each at most, as
    /// many of them together as make a burst.
    fn take_over(&mut self, now: Tick, burst: &mut RxBurst) -> usize {
        let mut packets = 0;
        let mut origins = ArrayVec::<Origin, BURST>::new();
        for ring in 0..self.rings.taken_over.len() {
            let mut most = BURST;
            loop {
                let taken =
                    self.rings.taken_over[ring].take(most.min(BURST - burst.len()), |parcel| {
                        // It may have come since the look ahead.
                        parcel.mbuf.prefetch();
                        unpack(parcel, burst, &mut origins);
                    });
                packets += taken;
                most -= taken;
                if !burst.is_full() {
                    break;
                }
                self.forward(now, burst, From::Parcels(Source::Handoff, &origins));
                origins.clear();
            }
        }
        self.director.counters_mut().taken_over += packets as u64;
        if !burst.is_empty() {
            self.forward(now, burst, From::Parcels(Source::Handoff, &origins));
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
        let mut punted = 0;
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
                    let read = Reading::default();
                    let known =
                        rings.hand_over(worker, Parcel { mbuf, port: device, handed, read });
                    dropped[2].1 += u64::from(!known);
                }
            }
        }
        director.outbox().clear();
        let counters = director.counters_mut();
        counters.punted += punted;
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

    /// Hands what waits to the drivers and to the other workers.
    fn flush(&mut self) {
        for port in &mut self.ports {
            let result = port.tx.flush();
            let counters = self.director.counters_mut();
            counters.tx += u64::from(result.sent);
            counters.drop_many(DropReason::TxFull, u64::from(result.dropped));
        }
        for ring in &mut self.rings.handoff {
            let result = ring.flush();
            let counters = self.director.counters_mut();
            counters.handed_off += result.sent;
            counters.drop_many(DropReason::HandoffFull, result.refused);
        }
    }
}

/// Adds a parcel's packet to a burst, and what is known of it to the list beside.
#[inline(always)]
fn unpack(parcel: Parcel, burst: &mut RxBurst, origins: &mut ArrayVec<Origin, BURST>) {
    let Parcel { mbuf, port: device, handed, read } = parcel;
    // There is room for as many as are taken.
    if burst.push(mbuf).is_ok() {
        origins.push(Origin { device, handed, read });
    }
}

/// The port that all packets of a burst leave by, if there is one.
fn only_port(verdicts: &[Verdict]) -> Option<u8> {
    let &Verdict::Send { port } = verdicts.first()? else { return None };
    verdicts.iter().all(|v| matches!(*v, Verdict::Send { port: p } if p == port)).then_some(port)
}

#[inline(always)]
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

    /// Whether it slept.
    fn after(&mut self, packets: usize) -> bool {
        if self.idle == Idle::Busy {
            return false;
        }
        if packets > 0 {
            (self.empty, self.sleep) = (0, SLEEP.0);
            return false;
        }
        self.empty = self.empty.saturating_add(1);
        if self.empty <= EMPTY_ROUNDS {
            return false;
        }
        std::thread::sleep(self.sleep);
        self.sleep = (self.sleep * 2).min(SLEEP.1);
        true
    }
}
