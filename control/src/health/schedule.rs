//! When probes are due.
//!
//! Checks that began together would stay together: thousands of probes at one
//! moment, and nothing until the next. So the first one comes at a random time
//! within an interval, and each further one a random bit early, by the jitter.
//! None comes late by it: `fall` probes are over within `fall` intervals and a
//! timeout.

use std::time::{Duration, Instant};

/// Time to the first probe. `random` is anything.
pub(super) fn first(interval: Duration, random: u64) -> Duration {
    share(interval, random)
}

/// When the next probe is due after one that was due at `due` and is over at
/// `now`. `jitter` is in percent. One that is overdue is due at once, and those
/// that were missed altogether are left out.
pub(super) fn next(
    due: Instant,
    interval: Duration,
    jitter: u32,
    random: u64,
    now: Instant,
) -> Instant {
    let early = share(interval * jitter.min(100) / 100, random);
    (due + interval - early).max(now)
}

/// A random part of a time.
fn share(time: Duration, random: u64) -> Duration {
    // 2^32 steps are as good as any number of them.
    let nanos = (time.as_nanos() * u128::from(random >> 32)) >> 32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_jitter_it_is_the_interval() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(next(start, second, 0, u64::MAX, start), start + second);
        let late = start + second * 5;
        assert_eq!(next(start, second, 0, 0, late), late);
    }

    #[test]
    fn the_first_probes_spread_over_an_interval() {
        let second = Duration::from_secs(1);
        assert_eq!(first(second, 0), Duration::ZERO);
        assert_eq!(first(second, 1 << 63), second / 2);
        assert!(first(second, u64::MAX) < second);
    }

    proptest! {
        #[test]
        fn the_jitter_is_early_and_bounded(
            millis in 100..10_000u64, jitter in 0..=50u32, random in any::<u64>(), took in 0..20_000u64,
        ) {
            let (start, interval) = (Instant::now(), Duration::from_millis(millis));
            let now = start + Duration::from_millis(took);
            let due = next(start, interval, jitter, random, now);
            prop_assert!(due >= now);
            if due > now {
                prop_assert!(due <= start + interval);
                prop_assert!(due >= start + interval * (100 - jitter) / 100);
            }
        }
    }
}
