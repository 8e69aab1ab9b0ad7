//! Clocks and cores.
//!
//! The figure is the CPU time of the thread: on a machine that does other
//! things too, a wall clock says what those cost. How much of the CPU the
//! thread got is said beside it, since what runs in between also takes caches.

use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// CPU time of the calling thread since it began.
pub(crate) fn thread_time() -> Duration {
    // The clock exists on every Linux.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
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
