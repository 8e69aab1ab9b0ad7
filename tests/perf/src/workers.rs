//! Part *workers*: one worker and two, each with a generator of its own, and
//! what it costs when packets arrive at the wrong one.
//!
//! Packets travel between workers as in the daemon: in the same kind of rings,
//! of the same size, with their buffers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use dataplane::conn::HashKey;
use dataplane::conn::memory::prefetch_to_write;
use dataplane::counters::DropReason;
use dataplane::director::{BURST, Director, Handed, Reading, Source, Verdict};
use dataplane::handoff;
use dataplane::packet::Frame;
use dataplane::packet::headers::Addresses;
use dataplane::shard::Shard;
use dataplane::time::Tick;
use dataplane::update::{ControlEnd, Update};

use crate::bed::buffers::{Buffer, HEADROOM, Pool};
use crate::bed::flows::{Flow, random_order};
use crate::bed::frames::{ACK, Frames, SYN, Side};
use crate::bed::runner::not_sent;
use crate::bed::setup::director;
use crate::bed::{CLIENTS, Family, Method, PORT, Protocol, Setup, VIPS};
use crate::measure::{Sample, Watch, pin, thread_time};
use crate::report::{Report, Row};
use crate::scale::Scale;
use crate::stats::median;

const PART: &str = "workers";
const FLOWS: usize = 64_000;
const NOW: Tick = Tick::from_secs(1000);
/// Turns without a packet after which a worker sleeps.
const PATIENCE: u32 = 100;

pub(crate) fn run(scale: &Scale, cores: &[usize], report: &mut Report) -> Result<(), String> {
    let &[first, .., last] = cores else {
        let reason = "needs two cores; this process may use one";
        return report.row(&Row::skipped(PART, "1 and 2 workers", reason));
    };
    let cores = [last, first];
    let flows = FLOWS.min(scale.live);
    let mut one = Team::new(1, scale.servers, flows, false)?;
    let mut apart = Team::new(2, scale.servers, flows, false)?;
    let mut mixed = Team::new(2, scale.servers, flows, true)?;
    let mut rounds = [const { Vec::new() }; 3];
    let mut passed = Vec::new();
    for round in 0..=scale.rounds {
        report.doing(&format!("workers: round {round} of {}", scale.rounds));
        for (team, results) in [&mut one, &mut apart, &mut mixed].into_iter().zip(&mut rounds) {
            let harness = team.run(&cores, scale.packets, Work::Nothing)?;
            let all = team.run(&cores, scale.packets, Work::Forward)?;
            // The first round finds cold caches.
            if round > 0 {
                results.push((all, harness));
            }
        }
        let harness = apart.run(&cores, scale.packets, Work::Nothing)?;
        let all = apart.run(&cores, scale.packets, Work::Pass)?;
        if round > 0 {
            let net = Sample::sum(&all.samples).ns() - Sample::sum(&harness.samples).ns();
            passed.push(net / all.handed_off.max(1e-9));
        }
    }
    pin(last);
    let names = ["1 worker", "2 workers", "2 workers, handoff"];
    let mut single = 0.0;
    let mut nets = [0.0; 3];
    for (index, (name, rounds)) in names.into_iter().zip(&rounds).enumerate() {
        let workers = if index == 0 { 1 } else { 2 };
        let pairs: Vec<_> = rounds
            .iter()
            .map(|(all, harness)| (Sample::sum(&all.samples), Sample::sum(&harness.samples)))
            .collect();
        // Each worker's rate by the CPU time that it had.
        let rates = rounds.iter().map(|(all, harness)| {
            let each = all.samples.iter().zip(&harness.samples);
            each.map(|(all, harness)| 1000.0 / (all.ns() - harness.ns()).max(0.1)).sum::<f64>()
        });
        let rate = median(rates);
        let row = Row {
            family: Some("IPv4".into()),
            protocol: Some("TCP".into()),
            flows: Some(flows as u64),
            burst: Some(BURST as u64),
            workers: Some(workers),
            harness: Some("alloc".into()),
            ..Row::new(PART, format!("DR, {name}"))
        };
        let mut row = Row { mpps: Some(rate), ..row.measured(&pairs) };
        nets[index] = row.net_ns.unwrap_or_default();
        if index == 0 {
            single = rate;
        } else {
            row.ratio = Some(rate / single);
            row.note = Some("as much as 1 worker".into());
        }
        report.row(&row)?;
    }
    let share = median(rounds[2].iter().map(|(all, _)| all.handed_off));
    let cost = (nets[2] - nets[1]) / share.max(1e-9);
    let row = Row::value(PART, "a handoff", cost, "ns a packet handed over");
    report.row(&row.with_note(format!("{:.0} % were", share * 100.0)))?;
    let limit = median(passed);
    let row = Row::value(PART, "a line across cores", limit, "ns a packet handed over");
    report.row(&row.with_note("without a director: what the rings and the caches take of it"))?;
    crate::cores::run(PART, cores, scale.rounds, 10 * scale.packets, report)
}

/// What workers do with their packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// The harness alone.
    Nothing,
    /// Every other packet goes to the other worker, which writes to it.
    Pass,
    /// What directors say.
    Forward,
}

/// A packet on its way to a worker: as large as the daemon's, whose view of a
/// buffer takes 24 bytes more.
#[repr(align(64))]
struct Parcel {
    buffer: Box<Buffer>,
    handed: Handed,
    read: Reading,
}

struct Worker {
    director: Director,
    frames: Frames,
    flows: Vec<Flow>,
    next: usize,
    pool: Pool,
    /// To the other worker, and from it.
    ring: Ends,
    /// Its own packets, when it shares out what it generates.
    own: Option<handoff::Sender<Parcel>>,
    handed_off: u64,
    /// Of [`Work::Pass`]: the next packet goes to the other worker. Also after
    /// bursts of odd length, or the buffers would gather at one worker.
    passes_on: bool,
    refused: Option<Verdict>,
    _control: ControlEnd,
}

/// Workers that own their flows' connections together.
struct Team(Vec<Worker>);

/// What each worker took, and the share of packets that were handed over.
struct Round {
    samples: Vec<Sample>,
    handed_off: f64,
}

impl Team {
    /// `mixed`: flows arrive at any worker, otherwise at the one that owns them.
    fn new(workers: usize, servers: u32, flows: usize, mixed: bool) -> Result<Self, String> {
        let setup = Setup { workers, servers, ..Setup::new(Method::Dr, Family::V4, Protocol::Tcp) };
        let shard = setup.shard();
        let snapshot = setup.registry()?.snapshot();
        let key = HashKey::random();
        let all = random_order(flows, 1);
        let (first, second) = rings(workers);
        let mut team = Vec::new();
        for (index, ring) in (0..workers).zip([first, second]) {
            let (mut director, mut control) = director(index, &shard, key, flows)?;
            director.prepare();
            let sent = control.send(Update::Snapshot(Arc::clone(&snapshot)));
            sent.map_err(|_| "the worker's queue is full")?;
            director.housekeeping(NOW);
            let is_owner = |flow: &Flow| owner(&shard, flow) == index;
            let mut worker = Worker {
                director,
                frames: Frames::new(setup.family, setup.protocol, Side::ToServer, SYN),
                flows: all.iter().copied().filter(is_owner).collect(),
                next: 0,
                pool: Pool::new(),
                ring,
                own: None,
                handed_off: 0,
                passes_on: false,
                refused: None,
                _control: control,
            };
            // All of its connections open; then come the packets measured.
            worker.generate(worker.flows.len(), Work::Forward);
            worker.frames = Frames::new(setup.family, setup.protocol, Side::ToServer, ACK);
            worker.generate(worker.flows.len(), Work::Forward);
            if mixed {
                worker.own = Some(handoff::Sender::to_self());
                worker.flows = all.iter().skip(index).step_by(workers).copied().collect();
            }
            team.push(worker);
        }
        Ok(Self(team))
    }

    /// Has each worker generate so many packets.
    fn run(&mut self, cores: &[usize], packets: usize, work: Work) -> Result<Round, String> {
        let done = AtomicUsize::new(0);
        let workers = self.0.len();
        let samples: Vec<Sample> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .0
                .iter_mut()
                .zip(cores)
                .map(|(worker, &core)| {
                    let done = &done;
                    scope.spawn(move || {
                        pin(core);
                        worker.run(packets, work, done, workers)
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or_default()).collect()
        });
        let handed_off: u64 = self.0.iter_mut().map(|w| std::mem::take(&mut w.handed_off)).sum();
        if let Some(verdict) = self.0.iter().find_map(|worker| worker.refused) {
            return Err(not_sent(verdict, self.0.iter_mut().map(|worker| &mut worker.director)));
        }
        let handed_off = handed_off as f64 / (packets * workers) as f64;
        Ok(Round { samples, handed_off })
    }
}

impl Worker {
    /// Runs until all workers have generated their packets and no packet is on
    /// its way to this one.
    fn run(&mut self, packets: usize, work: Work, done: &AtomicUsize, all: usize) -> Sample {
        let watch = Watch::start();
        let (mut left, mut forwarded, mut idle) = (packets, 0, Idle::default());
        loop {
            let mut busy = 0;
            if let Some((_, from)) = &mut self.ring {
                from.look_ahead(BURST, |parcel| prefetch_to_write(&parcel.buffer.0[HEADROOM]));
            }
            if left > 0 && self.has_room() {
                let count = self.generate(left.min(BURST), work);
                left -= count;
                busy += count;
                forwarded += count;
                if left == 0 {
                    done.fetch_add(1, Ordering::Release);
                }
            }
            // Looked at before the ring: what came last is in it by then.
            let over = done.load(Ordering::Acquire) == all;
            busy += self.take_over(work);
            idle.after(busy);
            if over && busy == 0 {
                break;
            }
        }
        idle.after(1);
        let sample = watch.stop(forwarded);
        Sample { cpu: sample.cpu.saturating_sub(idle.total), ..sample }
    }

    /// Whether all packets of a burst could be handed over.
    fn has_room(&self) -> bool {
        self.ring.as_ref().is_none_or(|(to, _)| to.room() >= BURST)
    }

    /// Packets of the next flows, as from a port. How many there were.
    fn generate(&mut self, count: usize, work: Work) -> usize {
        let mut generated = 0;
        while generated < count {
            let mut buffers = ArrayVec::new();
            self.pool.take(BURST.min(count - generated), &mut buffers);
            if buffers.is_empty() {
                break;
            }
            for buffer in &mut buffers {
                self.frames.write(&mut buffer.0[HEADROOM..], &self.flows[self.next]);
                self.next = if self.next + 1 == self.flows.len() { 0 } else { self.next + 1 };
            }
            generated += buffers.len();
            if work == Work::Forward && self.own.is_some() {
                self.share_out(&mut buffers);
            } else {
                self.forward(&mut buffers, Source::Port, &[], work);
            }
        }
        generated
    }

    /// Sorts a burst by owner, as a worker does whose device does not, and
    /// forwards its own packets.
    fn share_out(&mut self, buffers: &mut ArrayVec<Box<Buffer>, BURST>) {
        let Self { director, frames, ring: Some((to, _)), own: Some(own), .. } = self else {
            return;
        };
        let (len, me) = (frames.len(), director.worker());
        let Some(sharing) = director.sharing(0) else { return };
        let queues = [own, to];
        for mut buffer in buffers.drain(..) {
            let frame = Frame::new(&mut buffer.0, HEADROOM, len, len, 0);
            let (owner, read) = sharing.owner(&frame);
            let parcel = Parcel { buffer, handed: Handed::default(), read };
            queues[usize::from(owner) ^ me].push(parcel);
        }
        let mut known = ArrayVec::<_, BURST>::new();
        for Parcel { buffer, handed, read } in queues[0].own() {
            buffers.push(buffer);
            known.push((handed, read));
        }
        self.forward(buffers, Source::Port, &known, Work::Forward);
    }

    /// Forwards a burst of what the other worker handed over.
    fn take_over(&mut self, work: Work) -> usize {
        let Some((_, from)) = &mut self.ring else { return 0 };
        let mut buffers = ArrayVec::new();
        let mut known = ArrayVec::<_, BURST>::new();
        let count = from.take(BURST, |parcel| {
            prefetch_to_write(&parcel.buffer.0[HEADROOM]);
            buffers.push(parcel.buffer);
            known.push((parcel.handed, parcel.read));
        });
        if count > 0 {
            self.forward(&mut buffers, Source::Handoff, &known, work);
        }
        count
    }

    fn forward(
        &mut self,
        buffers: &mut ArrayVec<Box<Buffer>, BURST>,
        source: Source,
        known: &[(Handed, Reading)],
        work: Work,
    ) {
        let len = self.frames.len();
        let mut verdicts = [Verdict::Send { port: 0 }; BURST];
        let mut frames = ArrayVec::<Frame<'_>, BURST>::new();
        for buffer in buffers.iter_mut() {
            frames.push(Frame::new(&mut buffer.0, HEADROOM, len, len, 0));
        }
        for (frame, known) in frames.iter_mut().zip(known) {
            (frame.handed, frame.read) = *known;
        }
        match (work, source) {
            (Work::Nothing, _) => {}
            (Work::Pass, Source::Port) => {
                for verdict in &mut verdicts[..frames.len()] {
                    if self.passes_on {
                        *verdict = Verdict::Handoff { worker: 0, handed: Handed::default() };
                    }
                    self.passes_on = !self.passes_on;
                }
            }
            (Work::Pass, Source::Handoff) => {
                // As the Ethernet header is written.
                frames.iter_mut().for_each(|frame| frame.bytes_mut()[..12].fill(0));
            }
            (Work::Forward, _) => self.director.process(NOW, source, &mut frames, &mut verdicts),
        }
        std::hint::black_box(&mut frames);
        drop(frames);
        let read = Reading::default();
        for (buffer, verdict) in buffers.drain(..).zip(&verdicts) {
            match (*verdict, &mut self.ring) {
                (Verdict::Send { .. }, _) => self.pool.give(buffer),
                (Verdict::Handoff { handed, .. }, Some((to, _))) => {
                    to.push(Parcel { buffer, handed, read });
                }
                _ => {
                    self.refused = Some(*verdict);
                    self.pool.give(buffer);
                }
            }
        }
        if work != Work::Nothing && source == Source::Port {
            if let Some((to, _)) = &mut self.ring {
                let handoff::Sent { sent, refused } = to.flush();
                self.handed_off += sent;
                if refused > 0 {
                    self.refused = Some(Verdict::Drop(DropReason::HandoffFull));
                }
            }
            self.director.housekeeping(NOW);
        }
    }
}

/// CPU time that passed without a packet: a worker waits for one that the
/// scheduler took off its core. No part of the cost of a packet.
#[derive(Default)]
struct Idle {
    total: Duration,
    since: Option<Duration>,
    turns: u32,
}

impl Idle {
    /// A turn had so many packets.
    fn after(&mut self, packets: usize) {
        if packets > 0 {
            if let Some(since) = self.since.take() {
                self.total += thread_time().saturating_sub(since);
            }
            self.turns = 0;
            return;
        }
        self.since.get_or_insert_with(thread_time);
        self.turns += 1;
        if self.turns > PATIENCE {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

type Ends = Option<(handoff::Sender<Parcel>, handoff::Receiver<Parcel>)>;

/// The ends of two workers' rings; none of a worker alone.
fn rings(workers: usize) -> (Ends, Ends) {
    if workers == 1 {
        return (None, None);
    }
    let (to_second, from_first) = handoff::ring();
    let (to_first, from_second) = handoff::ring();
    (Some((to_second, from_second)), Some((to_first, from_first)))
}

fn owner(shard: &Shard, flow: &Flow) -> usize {
    let (src, dst) = (CLIENTS.v4 + flow.client, VIPS.v4 + u32::from(flow.service));
    shard.owner(shard.hash(&Addresses::V4 { src, dst }, flow.client_port, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_at_the_wrong_worker_are_handed_over() {
        let cores = [0, 0];
        let round = |workers, mixed| {
            Team::new(workers, 3, 600, mixed).unwrap().run(&cores, 5000, Work::Forward).unwrap()
        };
        let packets =
            |round: &Round| round.samples.iter().map(|sample| sample.packets).collect::<Vec<_>>();
        let (one, apart, mixed) = (round(1, false), round(2, false), round(2, true));
        assert_eq!((packets(&one), packets(&apart)), (vec![5000], vec![5000, 5000]));
        assert_eq!((one.handed_off, apart.handed_off), (0.0, 0.0));
        assert!((0.4..0.6).contains(&mixed.handed_off), "{}", mixed.handed_off);
        let mut team = Team::new(2, 3, 600, false).unwrap();
        let passed = team.run(&cores, 5000, Work::Pass).unwrap();
        assert_eq!(passed.handed_off, 0.5);
    }
}
