//! How fast tables are swept for connections that are over.

use crate::time::{TICKS_PER_SECOND, Tick};

/// The pace at which a director sweeps each of its tables.
#[derive(Debug, Default)]
pub struct SweepPaces {
    /// Connections of IPv4 packets.
    pub v4: SweepPace,
    /// Of IPv6 packets.
    pub v6: SweepPace,
    /// Persistence templates.
    pub templates: SweepPace,
}

/// How fast the sweep goes: once through the table a second, in small steps.
#[derive(Debug, Default)]
pub struct SweepPace {
    last: Tick,
    due: usize,
}

impl SweepPace {
    /// Groups to look at in this loop, for a table of `total`.
    pub fn groups(&mut self, now: Tick, total: usize) -> usize {
        if now > self.last {
            let ticks = (now.0 - self.last.0) as usize;
            let share = total.div_ceil(TICKS_PER_SECOND as usize);
            // Never more than one round behind, however long the loop slept.
            self.due = (self.due + share.saturating_mul(ticks)).min(total);
            self.last = now;
        }
        // A step is short, but long enough for a loop that mostly sleeps
        // (some thousand loops a second) to keep up.
        let step = self.due.min((total >> 9).max(128));
        self.due -= step;
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loops in a second, and what they sweep of a table of so many groups.
    fn swept_in_a_second(loops: u32, total: usize) -> usize {
        let mut pace = SweepPace::default();
        let tick = |i: u32| Tick(8000 + i * TICKS_PER_SECOND / loops);
        pace.groups(tick(0), total);
        (1..=loops).map(|i| pace.groups(tick(i), total)).sum()
    }

    #[test]
    fn a_table_is_swept_once_a_second_however_often_the_worker_looks() {
        for total in [1, 100, 10_000, 1_000_000] {
            for loops in [2_000, 100_000] {
                let swept = swept_in_a_second(loops, total);
                assert!((total..=2 * total + 8).contains(&swept), "{total} {loops}: {swept}");
            }
        }
    }

    #[test]
    fn a_step_is_short() {
        let step = |total| SweepPace::default().groups(Tick(u32::MAX), total);
        assert_eq!((step(10), step(10_000), step(1_000_000)), (10, 128, 1953));
    }
}
