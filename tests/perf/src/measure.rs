//! Clocks and cores.
//!
//! The figure is the CPU time of the thread: on a machine that does other
//! things too, a wall clock says what those cost. How much of the CPU the
//! thread got is said beside it, since what runs in between also takes caches.

use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// CPU time of the calling thread since it began.
pub(crate) fn thread_time() -> Duration {
    // The clock exists on every Linux.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// What happened to the calling thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Interruptions {
    /// Pages that the kernel made or mapped because the thread used them.
    pub(crate) faults: i64,
    /// How often another thread had its core.
    pub(crate) switches: i64,
}

impl Interruptions {
    /// Since the thread began.
    pub(crate) fn so_far() -> Self {
        getrusage(UsageWho::RUSAGE_THREAD).map_or(Self::default(), |usage| Self {
            faults: usage.minor_page_faults() + usage.major_page_faults(),
            switches: usage.voluntary_context_switches() + usage.involuntary_context_switches(),
        })
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self { faults: self.faults - before.faults, switches: self.switches - before.switches }
    }
}

/// What a run took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) packets: u64,
}

impl Sample {
    /// CPU time of a packet, ns.
    pub(crate) fn ns(&self) -> f64 {
        self.cpu.as_nanos() as f64 / self.packets.max(1) as f64
    }

    /// Several samples as one.
    pub(crate) fn sum<'a>(samples: impl IntoIterator<Item = &'a Self>) -> Self {
        samples.into_iter().fold(Self::default(), |sum, sample| Self {
            cpu: sum.cpu + sample.cpu,
            wall: sum.wall + sample.wall,
            packets: sum.packets + sample.packets,
        })
    }

    /// The share of a CPU that the thread got.
    pub(crate) fn cpu_share(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64().max(1e-9)
    }
}

/// A running measurement of the calling thread.
pub(crate) struct Watch {
    cpu: Duration,
    wall: Instant,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { wall: Instant::now(), cpu: thread_time() }
    }

    pub(crate) fn stop(self, packets: usize) -> Sample {
        let cpu = thread_time().saturating_sub(self.cpu);
        Sample { cpu, wall: self.wall.elapsed(), packets: packets as u64 }
    }
}

/// The cores that this process may use.
pub(crate) fn cores() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}

/// Keeps the calling thread on a core. Where that is forbidden it runs on any.
pub(crate) fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fault_and_a_pause_are_seen() {
        let before = Interruptions::so_far();
        // So large that it comes from the kernel, not from what others freed.
        let mut fresh = std::hint::black_box(vec![0u8; 64 << 20]);
        fresh[32 << 20] = 1;
        std::hint::black_box(&mut fresh);
        std::thread::sleep(Duration::from_millis(1));
        let during = Interruptions::so_far().since(before);
        assert!(during.faults > 0 && during.switches > 0, "{during:?}");
    }
}
