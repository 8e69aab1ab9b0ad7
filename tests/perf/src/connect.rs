//! Part *connect*: new TCP connections, from the SYN to the forwarded packet,
//! and their end by the sweep.

use dataplane::director::BURST;

use crate::bed::buffers::{HEADROOM, Ring};
use crate::bed::flows::scattered;
use crate::bed::frames::{Frames, SYN, Side};
use crate::bed::runner::{SimulatedClock, burst, family_name, not_sent};
use crate::bed::{Bed, Family, Method, Protocol, Setup};
use crate::measure::{Sample, Watch};
use crate::report::{Report, Row};
use crate::scale::Scale;

const PART: &str = "connect";
/// Life of a connection whose client sends no more than a SYN, ticks: 60 s, and
/// what the sweep takes to find it.
const LIFE: usize = 8 * 62;

pub(crate) fn run(scale: &Scale, report: &mut Report) -> Result<(), String> {
    for &family in &scale.families {
        for (method, scheduler, servers) in [
            (Method::Dr, "rr", 1000),
            (Method::Dr, "wlc", 10),
            (Method::Dr, "wlc", 1000),
            (Method::Dr, "mh", 10),
            (Method::Dr, "mh", 1000),
            (Method::Nat, "rr", 1000),
            (Method::Fullnat, "rr", 1000),
        ] {
            let matters = match family {
                Family::V4 => servers == 1000,
                Family::V6 => method == Method::Dr && scheduler == "rr",
            };
            if (scale.quick && !matters) || !scale.methods.contains(&method) {
                continue;
            }
            // The registry builds mh's table anew for each of its servers.
            let most = if scale.quick && scheduler == "mh" { 100 } else { scale.servers };
            let servers = most.min(servers);
            let setup = Setup { scheduler, servers, ..Setup::new(method, family, Protocol::Tcp) };
            if let Err(error) = one(scale, report, setup) {
                report.failure(PART, method.name(), &error)?;
            }
        }
    }
    for method in [Method::Dr, Method::Nat] {
        if (scale.quick && method == Method::Nat)
            || !scale.methods.contains(&method)
            || !scale.families.contains(&Family::V4)
        {
            continue;
        }
        let setup =
            Setup { servers: scale.servers, ..Setup::new(method, Family::V4, Protocol::Tcp) };
        if let Err(error) = flood(scale, report, setup) {
            report.failure(PART, &flood_name(method), &error)?;
        }
    }
    Ok(())
}

fn flood_name(method: Method) -> String {
    format!("{}, flood into a full table", method.name())
}

/// SYNs that come faster than their connections end: each takes the place of
/// another half-open one.
fn flood(scale: &Scale, report: &mut Report, setup: Setup) -> Result<(), String> {
    let title = flood_name(setup.method);
    report.doing(&format!("connect: {title}: filling the table"));
    let bed = Bed::with_room(setup, scale.live)?;
    // Ten times what would end in time.
    let mut opener = Opener::of(bed, scale.live / LIFE * 10);
    opener.run(scale.live / 10 * 15, true)?;
    report.doing(&format!("connect: {title}"));
    let before = opener.bed.director.counters_mut().recycled;
    let packets = scale.packets.min(scale.live);
    let mut samples = Vec::new();
    for _ in 0..scale.rounds {
        let harness = opener.run(packets, false)?;
        samples.push((opener.run(packets, true)?, harness));
    }
    let all: u64 = samples.iter().map(|(all, _)| all.packets).sum();
    let recycled = opener.bed.director.counters_mut().recycled - before;
    let row = Row {
        family: Some(family_name(setup.family).into()),
        protocol: Some("TCP".into()),
        scheduler: Some(setup.scheduler.into()),
        servers: Some(setup.servers),
        flows: Some(scale.live as u64),
        burst: Some(BURST as u64),
        workers: Some(1),
        harness: Some("recirculate".into()),
        ..Row::new(PART, title)
    };
    let share = 100.0 * recycled as f64 / all as f64;
    report.row(&row.measured(&samples).with_note(format!("{share:.0}% took another's place")))
}

fn one(scale: &Scale, report: &mut Report, setup: Setup) -> Result<(), String> {
    let Setup { method, family, scheduler, servers, .. } = setup;
    let title = format!("{} {scheduler} {servers} servers", method.name());
    report.doing(&format!("connect: {title}: filling the table"));
    let mut opener = Opener::new(setup, scale.live)?;
    // Until as many end as open.
    opener.run(scale.live / 10 * 11, true)?;
    report.doing(&format!("connect: {title}"));
    let packets = scale.packets.min(scale.live);
    let mut samples = Vec::new();
    for _ in 0..scale.rounds {
        let harness = opener.run(packets, false)?;
        samples.push((opener.run(packets, true)?, harness));
    }
    let live = opener.bed.connections();
    let row = Row {
        family: Some(family_name(family).into()),
        protocol: Some("TCP".into()),
        scheduler: Some(scheduler.into()),
        servers: Some(servers),
        flows: Some(scale.live as u64),
        burst: Some(BURST as u64),
        workers: Some(1),
        harness: Some("recirculate".into()),
        ..Row::new(PART, method.name())
    };
    let note = format!("{servers} servers, {:.2}M live", live as f64 / 1e6);
    report.row(&row.measured(&samples).with_note(note))
}

/// Opens connections, each by a SYN of another client, while as many end.
struct Opener {
    bed: Bed,
    frames: Frames,
    ring: Ring,
    next: u32,
    /// Connections that open in a tick.
    per_tick: usize,
    this_tick: usize,
    /// Unlike packets of open connections, which the bed's own clock goes by.
    now: SimulatedClock,
}

impl Opener {
    /// With so many connections at a time.
    fn new(setup: Setup, live: usize) -> Result<Self, String> {
        // Room for those that the sweep has not found yet.
        Ok(Self::of(Bed::with_room(setup, live + live / 4)?, live / LIFE))
    }

    /// With so many in a tick.
    fn of(bed: Bed, per_tick: usize) -> Self {
        let frames = bed.frames(Side::ToServer, SYN);
        Self {
            bed,
            frames,
            ring: Ring::new(),
            next: 0,
            per_tick: per_tick.max(1),
            this_tick: 0,
            now: SimulatedClock::new(),
        }
    }

    fn run(&mut self, packets: usize, process: bool) -> Result<Sample, String> {
        let Self { bed, frames, ring, next, now, .. } = self;
        let mut refused = None;
        let watch = Watch::start();
        for _ in 0..packets.div_ceil(BURST) {
            let buffers = ring.take(BURST);
            for buffer in buffers.iter_mut() {
                frames.write(&mut buffer.0[HEADROOM..], &scattered(*next));
                *next = next.wrapping_add(1);
            }
            let director = process.then_some(&mut bed.director);
            burst(director, now, buffers.iter_mut(), frames.len(), &mut refused);
            if process {
                self.this_tick += BURST;
                while self.this_tick >= self.per_tick {
                    self.this_tick -= self.per_tick;
                    now.tick();
                }
            }
        }
        let sample = watch.stop(packets.div_ceil(BURST) * BURST);
        refused.map_or(Ok(sample), |verdict| Err(not_sent(verdict, [&mut bed.director])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_end_as_fast_as_they_open() {
        for method in [Method::Dr, Method::Fullnat] {
            let setup = Setup { servers: 5, ..Setup::new(method, Family::V4, Protocol::Tcp) };
            let mut opener = Opener::new(setup, 10_000).unwrap();
            opener.run(30_000, true).unwrap();
            let live = opener.bed.connections();
            assert!((9_500..=11_500).contains(&live), "{method:?}: {live}");
        }
    }
}
