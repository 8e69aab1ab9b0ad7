//! What a worker lets through to the kernel, by kind, so that a flood of one
//! kind cannot starve another.

use crate::counters::DropReason;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Kinds of packets for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PuntKind {
    /// ARP and IPv6 neighbour discovery.
    Neighbour,
    /// What keeps the director reachable: VRRP, OSPF, BGP, BFD. Losing a second
    /// of it moves the traffic elsewhere, or nowhere.
    Routing,
    /// TCP to the host: ssh, and TCP that a service does not take.
    Tcp,
    /// Everything else: ICMP, UDP to the host.
    Other,
}

impl PuntKind {
    /// The drop reason of a packet beyond the kind's limit.
    #[must_use]
    pub const fn limited(self) -> DropReason {
        match self {
            Self::Neighbour => DropReason::PuntLimitedNeighbour,
            Self::Routing => DropReason::PuntLimitedRouting,
            Self::Tcp => DropReason::PuntLimitedTcp,
            Self::Other => DropReason::PuntLimitedOther,
        }
    }
}

/// Limits of one worker, packets per second; each at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PuntLimits {
    /// For [`PuntKind::Neighbour`].
    pub neighbour: u32,
    /// For [`PuntKind::Routing`].
    pub routing: u32,
    /// For [`PuntKind::Tcp`].
    pub tcp: u32,
    /// For [`PuntKind::Other`].
    pub other: u32,
}

impl Default for PuntLimits {
    fn default() -> Self {
        Self { neighbour: 2_000, routing: 10_000, tcp: 20_000, other: 10_000 }
    }
}

/// Token buckets, one a kind, that hold a quarter of a second's packets and one.
#[derive(Debug, Clone)]
pub struct PuntLimiter {
    rates: [u32; 4],
    /// In packets times `TICKS_PER_SECOND`, so that a rate below one packet a
    /// tick is kept exactly.
    tokens: [u32; 4],
    filled: Tick,
}

impl PuntLimiter {
    /// A limiter with full buckets.
    #[must_use]
    pub fn new(limits: PuntLimits) -> Self {
        let PuntLimits { neighbour, routing, tcp, other } = limits;
        let rates = [neighbour, routing, tcp, other].map(|r| r.clamp(1, 1 << 24));
        Self { rates, tokens: rates.map(Self::capacity), filled: Tick(0) }
    }

    /// One packet's worth on top, so that no fraction is lost at the brim.
    const fn capacity(rate: u32) -> u32 {
        rate * 2 + TICKS_PER_SECOND
    }

    /// Takes a token for a packet of `kind`; false when there is none.
    pub fn allow(&mut self, now: Tick, kind: PuntKind) -> bool {
        if now > self.filled {
            self.fill(now);
        }
        let tokens = &mut self.tokens[kind as usize];
        if *tokens < TICKS_PER_SECOND {
            return false;
        }
        *tokens -= TICKS_PER_SECOND;
        true
    }

    fn fill(&mut self, now: Tick) {
        let ticks = now.0 - self.filled.0;
        for (tokens, &rate) in self.tokens.iter_mut().zip(&self.rates) {
            *tokens = tokens.saturating_add(rate.saturating_mul(ticks)).min(Self::capacity(rate));
        }
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(limiter: &mut PuntLimiter, now: Tick, kind: PuntKind, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(limiter.allow(now, kind))).sum()
    }

    #[test]
    fn a_flood_of_one_kind_leaves_the_others_alone() {
        let mut limiter =
            PuntLimiter::new(PuntLimits { neighbour: 100, routing: 100, tcp: 100, other: 100 });
        assert_eq!(allowed(&mut limiter, Tick(0), PuntKind::Tcp, 10_000), 26);
        assert!(limiter.allow(Tick(0), PuntKind::Neighbour));
        assert!(limiter.allow(Tick(0), PuntKind::Other));
    }

    #[test]
    fn the_rate_holds_over_time_also_below_one_a_tick() {
        for rate in [1, 3, 100, 20_000] {
            let limits = PuntLimits { neighbour: rate, routing: 1, tcp: 1, other: 1 };
            let mut limiter = PuntLimiter::new(limits);
            allowed(&mut limiter, Tick(0), PuntKind::Neighbour, rate * 2 + 1);
            let passed: u32 = (1..=10 * TICKS_PER_SECOND)
                .map(|t| allowed(&mut limiter, Tick(t), PuntKind::Neighbour, rate * 2))
                .sum();
            assert_eq!(passed, rate * 10, "rate {rate}");
        }
    }
}
