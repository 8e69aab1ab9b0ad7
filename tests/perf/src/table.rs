//! Part *table*: how long a burst takes while a table grows, what connections
//! then take of memory, and whether tuples can be chosen that cost more.

use std::time::Duration;

use dataplane::director::BURST;

use crate::bed::buffers::{HEADROOM, Ring};
use crate::bed::flows::{Flow, Random, random_order, scattered};
use crate::bed::frames::{ACK, Frames, SYN, Side};
use crate::bed::runner::{Job, SimulatedClock, burst, family_name, not_sent};
use crate::bed::{Bed, CLIENTS, Family, Harness, Method, PORT, Protocol, Setup, VIPS};
use crate::measure::{Interruptions, Watch, pin};
use crate::memory::resident;
use crate::report::{Report, Row};
use crate::scale::Scale;
use crate::stats::percentile;

const PART: &str = "table";
/// Connections that open with each burst; its other packets are of those that
/// are there.
const OPENINGS: usize = 8;
/// A burst that took so much longer by the clock was interrupted.
const INTERRUPTED: Duration = Duration::from_micros(5);
/// What no burst is to take longer than.
const SLOW: Duration = Duration::from_micros(50);
/// The bits of a CRC in which tuples collide: those of a table of 16 million.
const CRC_BITS: u32 = 24;
/// Bits of a client's number and port that can be chosen.
const FREE_BITS: u32 = 28 + 16;

/// The measured core is the last one.
pub(crate) fn run(scale: &Scale, cores: &[usize], report: &mut Report) -> Result<(), String> {
    for method in [Method::Dr, Method::Nat] {
        if scale.quick && method == Method::Nat {
            continue;
        }
        if let Err(error) = growth(scale, cores, report, method) {
            report.failure(PART, &format!("{}, growth", method.name()), &error)?;
        }
    }
    collisions(scale, report)
}

/// Opens connections until there are ten times as many, under load.
fn growth(
    scale: &Scale,
    cores: &[usize],
    report: &mut Report,
    method: Method,
) -> Result<(), String> {
    let (from, to) = (scale.live, 10 * scale.live);
    report.doing(&format!("table: {} grows to {to} connections", method.name()));
    let setup = Setup { servers: scale.servers, ..Setup::new(method, Family::V4, Protocol::Tcp) };
    // The thread that makes pages inherits the core: another one, where there is.
    cores.first().copied().into_iter().for_each(pin);
    let grower = Grower::new(setup, to);
    cores.last().copied().into_iter().for_each(pin);
    let mut grower = grower?;
    let before = resident()?;
    // As a worker does before its first burst.
    grower.bed.director.prepare();
    let mut random = Random(7);
    while grower.opened < from {
        grower.burst(BURST, &mut random)?;
    }
    let mut bursts = Vec::with_capacity((to - from) / OPENINGS);
    while grower.opened < to {
        bursts.push(grower.burst(OPENINGS, &mut random)?);
    }
    let live = grower.bed.connections();
    // A few sequences of ports come about twice.
    if (live as usize) < to - to / 1000 {
        return Err(format!("{live} connections of {to}"));
    }
    let bytes = resident()?.saturating_sub(before) as f64;
    let mut steady = Vec::with_capacity(bursts.len());
    while steady.len() < bursts.len() {
        steady.push(grower.burst(0, &mut random)?);
    }
    say_bursts(report, &format!("{}, burst while it grows", method.name()), to, &bursts)?;
    say_bursts(report, &format!("{}, burst without growth", method.name()), to, &steady)?;
    let row = Row {
        flows: Some(to as u64),
        family: Some(family_name(Family::V4).into()),
        ..Row::value(PART, method.name(), bytes / live as f64, "bytes a connection")
    };
    report.row(&row.with_note(format!(
        "{:.0} MiB after growth, with what the table of the other family begins with",
        bytes / 1_048_576.0
    )))
}

/// Percentiles of the bursts that nobody interrupted, and what happened in those
/// that were slow.
fn say_bursts(
    report: &mut Report,
    title: &str,
    flows: usize,
    bursts: &[Timed],
) -> Result<(), String> {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let mut quiet: Vec<_> =
        bursts.iter().filter(|burst| !burst.was_interrupted()).map(|burst| us(burst.cpu)).collect();
    quiet.sort_by(f64::total_cmp);
    let longest =
        |time: fn(&Timed) -> Duration| us(bursts.iter().map(time).max().unwrap_or_default());
    let slow = || bursts.iter().filter(|burst| burst.cpu > SLOW);
    let faulted = slow().filter(|burst| burst.during.faults > 0).count();
    let switched =
        slow().filter(|burst| burst.during.faults == 0 && burst.during.switches > 0).count();
    let note = format!(
        "{} of {} bursts were not interrupted; of all the longest {:.0} us of CPU, {:.0} us by the clock; {} took above {} us: in {faulted} the worker faulted a page, in {switched} it was scheduled out, in {} nothing that a process can see",
        quiet.len(),
        bursts.len(),
        longest(|burst| burst.cpu),
        longest(|burst| burst.wall),
        slow().count(),
        SLOW.as_micros(),
        slow().count() - faulted - switched,
    );
    for (name, share) in [("p50", 0.5), ("p99.9", 0.999), ("longest", 1.0)] {
        let row = Row {
            flows: Some(flows as u64),
            burst: Some(BURST as u64),
            family: Some(family_name(Family::V4).into()),
            ..Row::value(PART, format!("{title}, {name}"), percentile(&quiet, share), "us")
        };
        report.row(&if share < 1.0 { row } else { row.with_note(note.clone()) })?;
    }
    Ok(())
}

/// What a burst took.
struct Timed {
    cpu: Duration,
    wall: Duration,
    during: Interruptions,
}

impl Timed {
    fn was_interrupted(&self) -> bool {
        self.wall.saturating_sub(self.cpu) >= INTERRUPTED
    }
}

/// Opens connections in order, among packets of those that are open.
struct Grower {
    bed: Bed,
    syn: Frames,
    ack: Frames,
    ring: Ring,
    opened: usize,
    clock: SimulatedClock,
}

impl Grower {
    fn new(setup: Setup, to: usize) -> Result<Self, String> {
        let mut bed = Bed::unprepared(setup, to)?;
        bed.warm_up();
        let (syn, ack) = (bed.frames(Side::ToServer, SYN), bed.frames(Side::ToServer, ACK));
        Ok(Self { bed, syn, ack, ring: Ring::new(), opened: 0, clock: SimulatedClock::new() })
    }

    /// What a burst takes that opens so many connections.
    fn burst(&mut self, openings: usize, random: &mut Random) -> Result<Timed, String> {
        let buffers = self.ring.take(BURST);
        for (i, buffer) in buffers.iter_mut().enumerate() {
            let (frames, number) = match i < openings {
                true => (&self.syn, self.opened + i),
                false => (&self.ack, random.below(self.opened)),
            };
            frames.write(&mut buffer.0[HEADROOM..], &scattered(number as u32));
        }
        self.opened += openings;
        let mut refused = None;
        let (director, clock) = (&mut self.bed.director, &mut self.clock);
        let before = Interruptions::so_far();
        let watch = Watch::start();
        burst(Some(director), clock, buffers.iter_mut(), self.syn.len(), &mut refused);
        let sample = watch.stop(BURST);
        let during = Interruptions::so_far().since(before);
        let timed = Timed { cpu: sample.cpu, wall: sample.wall, during };
        refused.map_or(Ok(timed), |verdict| Err(not_sent(verdict, [director])))
    }
}

/// What packets of chosen tuples cost, beside random ones.
fn collisions(scale: &Scale, report: &mut Report) -> Result<(), String> {
    let count = scale.live.min(1 << (FREE_BITS - CRC_BITS));
    let mut random = None;
    for (name, flows) in [
        ("tuples in random order", random_order(count, 1)),
        ("tuples that collide under CRC32C", same_crc(count)),
        ("tuples that collide under the ownership hash", same_owner(count)),
    ] {
        report.doing(&format!("table: {name}"));
        match cost(scale, flows) {
            Ok(row) => {
                let net = row.net_ns.unwrap_or_default();
                let to = *random.get_or_insert(net);
                let row = Row { method: name.into(), ratio: Some(net / to), ..row };
                report.row(&row.with_note("ratio: to random ones"))?;
            }
            Err(error) => report.failure(PART, name, &error)?,
        }
    }
    Ok(())
}

fn cost(scale: &Scale, flows: Vec<Flow>) -> Result<Row, String> {
    let setup =
        Setup { servers: scale.servers, ..Setup::new(Method::Dr, Family::V4, Protocol::Tcp) };
    let count = flows.len();
    let mut bed = Bed::with_room(setup, count)?;
    bed.flows = flows;
    bed.open_all()?;
    let frames = bed.frames(Side::ToServer, ACK);
    let harness = Harness::Recirculate;
    let job = Job { packets: scale.packets, burst: BURST, harness, process: true };
    let samples = bed.rounds(&frames, job, scale.rounds)?;
    let row = Row {
        family: Some(family_name(Family::V4).into()),
        protocol: Some("TCP".into()),
        flows: Some(count as u64),
        burst: Some(BURST as u64),
        workers: Some(1),
        harness: Some(harness.name().into()),
        ..Row::new(PART, "")
    };
    Ok(row.measured(&samples))
}

/// The flow whose client's number and port are these bits.
fn flow(bits: u64) -> Flow {
    Flow { client: (bits >> 16) as u32, client_port: bits as u16, ..Flow::default() }
}

/// The CRC32C of a flow's addresses and ports.
fn crc(flow: &Flow) -> u32 {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&(CLIENTS.v4 + flow.client).to_be_bytes());
    bytes[4..8].copy_from_slice(&VIPS.v4.to_be_bytes());
    bytes[8..10].copy_from_slice(&flow.client_port.to_be_bytes());
    bytes[10..].copy_from_slice(&PORT.to_be_bytes());
    crc32c::crc32c(&bytes)
}

/// Flows with the same lower bits of their CRC: it is linear, so a base of the
/// changes that leave these bits alone gives them all.
fn same_crc(count: usize) -> Vec<Flow> {
    let mask = (1u32 << CRC_BITS) - 1;
    let zero = crc(&flow(0));
    let mut pivots: Vec<(u32, u64)> = Vec::new();
    let mut base = Vec::new();
    for bit in 0..FREE_BITS {
        let mut bits = 1u64 << bit;
        let mut change = (crc(&flow(bits)) ^ zero) & mask;
        for &(pivot, of) in &pivots {
            if change & (1 << pivot.ilog2()) != 0 {
                change ^= pivot;
                bits ^= of;
            }
        }
        if change == 0 {
            base.push(bits);
        } else {
            pivots.push((change, bits));
        }
    }
    let combine = |number: usize| {
        let chosen = base.iter().enumerate().filter(|(i, _)| number >> i & 1 != 0);
        flow(chosen.fold(0, |bits, (_, of)| bits ^ of))
    };
    (0..count).map(combine).collect()
}

/// Flows whose 16-bit words have the same sum without carry, which is all that
/// the ownership hash goes by.
fn same_owner(count: usize) -> Vec<Flow> {
    (0..count as u32)
        .map(|client| {
            let client_port = (client >> 16) as u16 ^ client as u16;
            Flow { client, client_port, ..Flow::default() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn chosen_flows_collide_and_differ() {
        let count = 5000;
        let flows = same_crc(count);
        let mask = (1 << CRC_BITS) - 1;
        let crcs: BTreeSet<_> = flows.iter().map(|flow| crc(flow) & mask).collect();
        assert_eq!(crcs.len(), 1);
        let owners = same_owner(count);
        let sum = |flow: &Flow| (flow.client >> 16) as u16 ^ flow.client as u16 ^ flow.client_port;
        assert!(owners.iter().all(|flow| sum(flow) == 0));
        for flows in [flows, owners] {
            let all: BTreeSet<_> = flows.iter().map(|f| (f.client, f.client_port)).collect();
            assert_eq!(all.len(), count);
        }
    }

    #[test]
    fn a_table_grows_under_load() {
        for method in [Method::Dr, Method::Nat] {
            let setup = Setup { servers: 5, ..Setup::new(method, Family::V4, Protocol::Tcp) };
            let mut grower = Grower::new(setup, 5_000).unwrap();
            let mut random = Random(1);
            grower.burst(BURST, &mut random).unwrap();
            while grower.opened < 5_000 {
                grower.burst(OPENINGS, &mut random).unwrap();
            }
            assert_eq!(grower.bed.connections(), grower.opened as u64);
        }
    }
}
