//! How many ICMP errors a worker sends.

use super::Error;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Limits of one worker. The defaults are the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpLimits {
    /// Errors per second, at least 1 (`net.ipv4.icmp_msgs_per_sec`).
    pub rate: u32,
    /// Errors at once (`net.ipv4.icmp_msgs_burst`).
    pub burst: u32,
}

impl Default for IcmpLimits {
    fn default() -> Self {
        Self { rate: 1_000, burst: 50 }
    }
}

/// A token bucket. It holds the burst, or what a tick brings where that is
/// more: filled once a tick, it could not keep up its rate otherwise.
#[derive(Debug)]
pub struct IcmpLimiter {
    rate: u32,
    capacity: u32,
    /// In errors times `TICKS_PER_SECOND`, so that a rate below one error a
    /// tick is kept exactly.
    tokens: u32,
    filled: Tick,
}

impl IcmpLimiter {
    /// A limiter with a full bucket.
    #[must_use]
    pub fn new(limits: IcmpLimits) -> Self {
        let rate = limits.rate.clamp(1, 1 << 24);
        let burst = limits.burst.clamp(1, 1 << 24) * TICKS_PER_SECOND;
        // One error's worth on top, so that no fraction is lost at the brim.
        let capacity = burst.max(rate + TICKS_PER_SECOND - 1);
        Self { rate, capacity, tokens: capacity, filled: Tick(0) }
    }

    /// Takes a token for an error; false when there is none. What path MTU
    /// discovery needs is not limited, as in the kernel: without it,
    /// connections hang.
    pub fn allow(&mut self, now: Tick, error: Error) -> bool {
        if matches!(error, Error::TooBig { .. }) {
            return true;
        }
        if now > self.filled {
            let ticks = now.0 - self.filled.0;
            let more = self.rate.saturating_mul(ticks);
            self.tokens = self.tokens.saturating_add(more).min(self.capacity);
            self.filled = now;
        }
        if self.tokens < TICKS_PER_SECOND {
            return false;
        }
        self.tokens -= TICKS_PER_SECOND;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limiter: &mut IcmpLimiter, now: Tick, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(limiter.allow(now, Error::PortUnreachable))).sum()
    }

    #[test]
    fn the_rate_holds_over_time_whatever_the_burst() {
        for (rate, burst) in [(1, 1), (3, 50), (100, 1), (1_000, 50), (20_000, 50)] {
            let mut limiter = IcmpLimiter::new(IcmpLimits { rate, burst });
            allowed(&mut limiter, Tick(0), rate + burst);
            let passed: u32 = (1..=10 * TICKS_PER_SECOND)
                .map(|t| allowed(&mut limiter, Tick(t), rate + burst))
                .sum();
            // A fraction may be left over from before, or for later.
            assert!(passed.abs_diff(rate * 10) <= 1, "rate {rate}: {passed}");
        }
    }

    #[test]
    fn a_burst_is_bounded_however_long_the_silence() {
        let mut limiter = IcmpLimiter::new(IcmpLimits { rate: 80, burst: 50 });
        for now in [Tick(0), Tick(1_000), Tick(u32::MAX)] {
            assert_eq!(allowed(&mut limiter, now, 1_000), 50);
        }
    }

    #[test]
    fn path_mtu_discovery_is_not_limited() {
        let mut limiter = IcmpLimiter::new(IcmpLimits { rate: 1, burst: 1 });
        assert_eq!(allowed(&mut limiter, Tick(0), 5), 1);
        assert!(limiter.allow(Tick(0), Error::TooBig { mtu: 1480 }));
        assert!(!limiter.allow(Tick(0), Error::TimeExceeded));
    }
}
