//! A worker's loop in process: packets are written into buffers, decided on a
//! burst at a time, and the buffers used again. The same loop without the
//! director is the harness's own cost.

use arrayvec::ArrayVec;
use control::registry::Registry;
use dataplane::conn::HashKey;
use dataplane::director::{BURST, Director, Source, Verdict};
use dataplane::packet::Frame;
use dataplane::time::{TICKS_PER_SECOND, Tick};
use dataplane::update::{ControlEnd, Reply, Update};

use super::buffers::{Buffer, HEADROOM, Pool, Ring};
use super::flows::{self, Flow};
use super::frames::{ACK, Frames, SYN, Side};
use super::setup::{self, Setup};
use super::{Family, Protocol};
use crate::measure::{Sample, Watch};

/// Packets after which the time in the director is a tick further: that of 32
/// million packets a second. So entries are touched and tables swept as at that
/// rate, whatever this machine is doing besides.
const PACKETS_PER_TICK: u32 = 32_000_000 / TICKS_PER_SECOND;

/// Where buffers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harness {
    /// Packets that go round: a ring of a few thousand buffers.
    Recirculate,
    /// Taken from a pool and given back, the last one first.
    Alloc,
}

impl Harness {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Recirculate => "recirculate",
            Self::Alloc => "alloc",
        }
    }
}

/// The time in the director.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    now: Tick,
    packets: u32,
}

impl SimulatedClock {
    pub(crate) const fn new() -> Self {
        Self { now: Tick::from_secs(1000), packets: 0 }
    }

    pub(crate) fn now(&self) -> Tick {
        self.now
    }

    /// A tick passes at once.
    pub(crate) fn tick(&mut self) {
        self.now = self.now.plus(1);
    }

    pub(crate) fn after(&mut self, packets: usize) {
        self.packets += packets as u32;
        if self.packets >= PACKETS_PER_TICK {
            self.packets -= PACKETS_PER_TICK;
            self.tick();
        }
    }
}

/// What is run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) packets: usize,
    pub(crate) burst: usize,
    pub(crate) harness: Harness,
    /// Whether the director decides; without, it is the harness alone.
    pub(crate) process: bool,
}

/// One worker's director, with flows to its services.
pub(crate) struct Bed {
    pub(crate) setup: Setup,
    pub(crate) director: Director,
    pub(crate) clock: SimulatedClock,
    pub(crate) control: ControlEnd,
    pub(crate) flows: Vec<Flow>,
    next: usize,
    ring: Ring,
    pool: Pool,
}

impl Bed {
    /// A director that runs a setup, and so many flows that are not open yet.
    pub(crate) fn new(setup: Setup, flows: usize) -> Result<Self, String> {
        let mut bed = Self::with_room(setup, flows)?;
        bed.flows = flows::random_order(flows, setup.services);
        Ok(bed)
    }

    /// The same with room for so many flows, but without any.
    pub(crate) fn with_room(setup: Setup, flows: usize) -> Result<Self, String> {
        Self::with_registry(setup, &mut setup.registry()?, flows)
    }

    /// The same with what a registry of that setup has.
    pub(crate) fn with_registry(
        setup: Setup,
        registry: &mut Registry,
        flows: usize,
    ) -> Result<Self, String> {
        let bed = Self::made(setup, registry, flows)?;
        // As a worker does before its first burst.
        bed.director.prepare();
        Ok(bed)
    }

    /// As [`Bed::with_room`], but none of the tables' memory is there yet.
    pub(crate) fn unprepared(setup: Setup, flows: usize) -> Result<Self, String> {
        Self::made(setup, &mut setup.registry()?, flows)
    }

    fn made(setup: Setup, registry: &mut Registry, flows: usize) -> Result<Self, String> {
        let entries = flows * setup.method.entries();
        let (director, control) = setup::director(0, &setup.shard(), HashKey::random(), entries)?;
        let mut bed = Self {
            setup,
            director,
            clock: SimulatedClock::new(),
            control,
            flows: Vec::new(),
            next: 0,
            ring: Ring::new(),
            pool: Pool::new(),
        };
        let snapshot = registry.snapshot();
        if bed.control.send(Update::Snapshot(snapshot)).is_err() {
            return Err("the worker's queue is full".into());
        }
        bed.director.housekeeping(bed.clock.now());
        match bed.control.receive() {
            Some(Reply::Retired(_)) => Ok(bed),
            other => Err(format!("the worker does not run its configuration: {other:?}")),
        }
    }

    /// Frames of this bed's flows.
    pub(crate) fn frames(&self, side: Side, flags: u8) -> Frames {
        Frames::new(self.setup.family, self.setup.protocol, side, flags)
    }

    /// Opens all flows: TCP's by the three packets of a handshake as far as
    /// they pass the director, UDP's by one in each direction.
    pub(crate) fn open_all(&mut self) -> Result<(), String> {
        let Setup { method, protocol, .. } = self.setup;
        self.pass(Side::ToServer, SYN, method.is_two_sided())?;
        if method.is_two_sided() {
            self.pass(Side::of_servers(method), SYN | ACK, false)?;
        }
        if protocol != Protocol::Udp {
            self.pass(Side::ToServer, ACK, false)?;
        }
        Ok(())
    }

    /// One packet of each flow.
    fn pass(&mut self, side: Side, flags: u8, learn: bool) -> Result<(), String> {
        let frames = self.frames(side, flags);
        let Self { director, clock, flows, ring, .. } = self;
        let mut refused = None;
        for flows in flows.chunks_mut(BURST) {
            let buffers = &mut ring.take(BURST)[..flows.len()];
            for (buffer, flow) in buffers.iter_mut().zip(flows.iter()) {
                frames.write(&mut buffer.0[HEADROOM..], flow);
            }
            burst(Some(director), clock, buffers.iter_mut(), frames.len(), &mut refused);
            if learn {
                for (buffer, flow) in buffers.iter().zip(flows) {
                    frames.learn(&buffer.0[HEADROOM..], flow);
                }
            }
        }
        refused.map_or(Ok(()), |verdict| Err(not_sent(verdict, [director])))
    }

    /// Runs packets of the flows in turn.
    pub(crate) fn run(&mut self, frames: &Frames, job: Job) -> Result<Sample, String> {
        let Self { director, clock, flows, next, ring, pool, .. } = self;
        let mut refused = None;
        let mut write = |buffer: &mut Buffer| {
            frames.write(&mut buffer.0[HEADROOM..], &flows[*next]);
            *next = if *next + 1 == flows.len() { 0 } else { *next + 1 };
        };
        let mut taken = ArrayVec::new();
        let watch = Watch::start();
        for _ in 0..job.packets / job.burst {
            let director = job.process.then_some(&mut *director);
            match job.harness {
                Harness::Recirculate => {
                    let buffers = ring.take(job.burst);
                    buffers.iter_mut().for_each(&mut write);
                    burst(director, clock, buffers.iter_mut(), frames.len(), &mut refused);
                }
                Harness::Alloc => {
                    pool.take(job.burst, &mut taken);
                    taken.iter_mut().for_each(|buffer| write(buffer));
                    let views = taken.iter_mut().map(|buffer| &mut **buffer);
                    burst(director, clock, views, frames.len(), &mut refused);
                    taken.drain(..).for_each(|buffer| pool.give(buffer));
                }
            }
        }
        let sample = watch.stop(job.packets / job.burst * job.burst);
        refused.map_or(Ok(sample), |verdict| Err(not_sent(verdict, [director])))
    }

    /// The figures of one kind of packets: rounds with and without the director
    /// in turn.
    pub(crate) fn rounds(
        &mut self,
        frames: &Frames,
        job: Job,
        rounds: usize,
    ) -> Result<Vec<(Sample, Sample)>, String> {
        // The first bursts find cold caches and pages that are not there yet.
        self.run(frames, Job { packets: job.packets / 4, ..job })?;
        let mut samples = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let harness = self.run(frames, Job { process: false, ..job })?;
            samples.push((self.run(frames, job)?, harness));
        }
        Ok(samples)
    }

    /// Touches all buffers.
    pub(crate) fn warm_up(&mut self) {
        for _ in 0..Ring::BURSTS {
            for buffer in self.ring.take(BURST) {
                buffer.0.fill(1);
            }
        }
    }

    /// Connections in the tables.
    pub(crate) fn connections(&mut self) -> u64 {
        self.director.counters_mut().connections
    }
}

/// Has written packets decided on, as a worker has: frames of all, a verdict
/// for each, housekeeping. Without a director only the frames are made. What
/// was not sent is noted.
#[inline]
pub(crate) fn burst<'a>(
    director: Option<&mut Director>,
    clock: &mut SimulatedClock,
    buffers: impl Iterator<Item = &'a mut Buffer>,
    len: usize,
    refused: &mut Option<Verdict>,
) {
    // Not collected: that builds them elsewhere and copies 4 KiB.
    let mut frames = ArrayVec::<Frame<'_>, BURST>::new();
    for buffer in buffers {
        frames.push(Frame::new(&mut buffer.0, HEADROOM, len, len, 0));
    }
    let Some(director) = director else {
        std::hint::black_box(&mut frames);
        return;
    };
    let mut verdicts = [Verdict::Punt; BURST];
    let now = clock.now();
    director.process(now, Source::Port, &mut frames, &mut verdicts);
    std::hint::black_box(&mut frames);
    for verdict in &verdicts[..frames.len()] {
        if !matches!(verdict, Verdict::Send { .. }) {
            *refused = Some(*verdict);
        }
    }
    director.housekeeping(now);
    clock.after(frames.len());
}

/// Why a run says nothing: what became of a packet, and whether connections gave
/// others their place in the tables.
pub(crate) fn not_sent<'a>(
    verdict: Verdict,
    directors: impl IntoIterator<Item = &'a mut Director>,
) -> String {
    let recycled: u64 = directors.into_iter().map(|d| d.counters_mut().recycled).sum();
    format!(
        "a packet that should be forwarded ended as {verdict:?} (recycled {recycled}): this figure would mean nothing"
    )
}

/// The family's name in tables.
pub(crate) const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The protocol's name in tables.
pub(crate) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Udp => "UDP",
        _ => "TCP",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bed::Method;

    #[test]
    fn all_flows_open_and_go_on_in_both_directions() {
        for family in [Family::V4, Family::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for method in Method::ALL {
                    let setup = Setup { servers: 3, ..Setup::new(method, family, protocol) };
                    let mut bed = Bed::new(setup, 500).unwrap();
                    bed.open_all().unwrap();
                    assert_eq!(bed.connections(), 500, "{setup:?}");
                    let job =
                        Job { packets: 640, burst: 64, harness: Harness::Alloc, process: true };
                    let sides = [Side::ToServer, Side::of_servers(method)];
                    for &side in &sides[..method.entries()] {
                        bed.run(&bed.frames(side, ACK), job).unwrap();
                    }
                    assert_eq!(bed.connections(), 500, "no packet opened another: {setup:?}");
                }
            }
        }
    }

    #[test]
    fn packets_that_are_not_forwarded_are_an_error() {
        let setup = Setup { servers: 1, ..Setup::new(Method::Dr, Family::V4, Protocol::Tcp) };
        let mut bed = Bed::new(setup, 10).unwrap();
        // No connection, and no SYN.
        let job = Job { packets: 64, burst: 32, harness: Harness::Recirculate, process: true };
        let frames = bed.frames(Side::ToServer, ACK);
        assert!(bed.run(&frames, job).unwrap_err().contains("Punt (recycled 0)"));
        let alone = bed.run(&frames, Job { process: false, ..job });
        assert_eq!(alone.unwrap().packets, 64);
    }

    #[test]
    fn the_clock_ticks_with_packets() {
        let mut clock = SimulatedClock::new();
        let before = clock.now();
        for _ in 0..PACKETS_PER_TICK / 64 {
            clock.after(64);
        }
        assert_eq!(clock.now(), before.plus(1));
    }
}
