//! Time as the packet path sees it: a coarse tick, given by the caller.

use std::time::Instant;

/// Ticks in a second.
pub const TICKS_PER_SECOND: u32 = 8;

/// A point in time: eighths of a second since the daemon started. 32 bits last
/// for 17 years. Coarse on purpose: an entry whose tick has not changed since
/// its last packet need not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[repr(transparent)]
pub struct Tick(pub u32);

impl Tick {
    /// The tick `seconds` after the start.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(seconds.saturating_mul(TICKS_PER_SECOND))
    }

    /// The tick that lies `ticks` later.
    #[must_use]
    pub const fn plus(self, ticks: u32) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Milliseconds from `earlier` to here; 0 when `earlier` is later.
    #[must_use]
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) as u64 * 1000 / TICKS_PER_SECOND as u64
    }
}

/// Where ticks come from: one for all threads, so that a tick means the same to
/// each.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock at tick 0.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The present tick. Reads the CPU's counter through the vDSO, without a
    /// system call.
    #[must_use]
    pub fn now(&self) -> Tick {
        let elapsed = self.0.elapsed();
        let fraction = elapsed.subsec_millis() * TICKS_PER_SECOND / 1000;
        Tick(u32::try_from(elapsed.as_secs()).map_or(u32::MAX, |seconds| {
            seconds.saturating_mul(TICKS_PER_SECOND).saturating_add(fraction)
        }))
    }
}
