//! Counters since the last zeroing, and smoothed rates.
//!
//! The kernel's estimator: every two seconds `average += (rate - average) / 4`,
//! in fixed point, and rounded for display as the kernel rounds.

use dataplane::service::TrafficTotals;

use crate::api::Stats;

/// Time between two estimates, s.
pub const PERIOD_SECONDS: u64 = 2;

/// Binary places of the average of connections and packets.
const COUNT_SHIFT: u32 = 10;
/// Binary places of the average of bytes.
const BYTE_SHIFT: u32 = 5;

/// Turns ever-growing totals into what listings show.
#[derive(Debug, Clone, Default)]
pub(super) struct Meter {
    zero: TrafficTotals,
    last: TrafficTotals,
    /// Averages in fixed point: connections, packets in and out, bytes in and
    /// out.
    averages: [u64; 5],
}

impl Meter {
    /// Counts from these totals on. Rates go back to 0, as the kernel's do.
    pub(super) fn zero(&mut self, totals: TrafficTotals) {
        *self = Self { zero: totals, last: totals, averages: [0; 5] };
    }

    /// Takes the totals at the end of a period.
    pub(super) fn estimate(&mut self, totals: TrafficTotals) {
        let deltas = [
            (totals.connections - self.last.connections) << COUNT_SHIFT,
            (totals.in_packets - self.last.in_packets) << COUNT_SHIFT,
            (totals.out_packets - self.last.out_packets) << COUNT_SHIFT,
            (totals.in_bytes - self.last.in_bytes) << BYTE_SHIFT,
            (totals.out_bytes - self.last.out_bytes) << BYTE_SHIFT,
        ];
        for (average, delta) in self.averages.iter_mut().zip(deltas) {
            let rate = delta / PERIOD_SECONDS;
            // The difference may be negative; the shift rounds it downwards.
            let step = (rate as i64 - *average as i64) >> 2;
            *average = average.wrapping_add_signed(step);
        }
        self.last = totals;
    }

    /// What a listing shows for these totals.
    pub(super) fn stats(&self, totals: TrafficTotals) -> Stats {
        // Half a connection or packet is rounded down, more is rounded up;
        // bytes are cut off.
        let shown = |average| (average + (1 << (COUNT_SHIFT - 1)) - 1) >> COUNT_SHIFT;
        let [connections, in_packets, out_packets, in_bytes, out_bytes] = self.averages;
        Stats {
            connections: totals.connections - self.zero.connections,
            in_packets: totals.in_packets - self.zero.in_packets,
            out_packets: totals.out_packets - self.zero.out_packets,
            in_bytes: totals.in_bytes - self.zero.in_bytes,
            out_bytes: totals.out_bytes - self.zero.out_bytes,
            connection_rate: shown(connections),
            in_packet_rate: shown(in_packets),
            out_packet_rate: shown(out_packets),
            in_byte_rate: in_bytes >> BYTE_SHIFT,
            out_byte_rate: out_bytes >> BYTE_SHIFT,
        }
    }
}

pub(super) fn sum(a: TrafficTotals, b: TrafficTotals) -> TrafficTotals {
    TrafficTotals {
        connections: a.connections + b.connections,
        in_packets: a.in_packets + b.in_packets,
        in_bytes: a.in_bytes + b.in_bytes,
        out_packets: a.out_packets + b.out_packets,
        out_bytes: a.out_bytes + b.out_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 400 connections of one packet of 36 bytes in one period, as recorded
    /// from the kernel.
    #[test]
    fn decays_as_recorded() {
        let totals = TrafficTotals {
            connections: 400,
            in_packets: 400,
            in_bytes: 14_400,
            out_packets: 400,
            out_bytes: 14_400,
        };
        let mut meter = Meter::default();
        let mut rates = Vec::new();
        for _ in 0..7 {
            meter.estimate(totals);
            let stats = meter.stats(totals);
            assert_eq!(stats.connection_rate, stats.in_packet_rate);
            assert_eq!(stats.connection_rate, stats.out_packet_rate);
            assert_eq!(stats.in_byte_rate, stats.out_byte_rate);
            rates.push((stats.connection_rate, stats.in_byte_rate));
        }
        let recorded =
            [(50, 1800), (37, 1350), (28, 1012), (21, 759), (16, 569), (12, 427), (9, 320)];
        assert_eq!(rates, recorded);
    }

    #[test]
    fn zeroing_starts_all_again() {
        let mut meter = Meter::default();
        let totals = TrafficTotals {
            connections: 400,
            in_packets: 800,
            in_bytes: 9_000,
            ..Default::default()
        };
        meter.estimate(totals);
        meter.zero(totals);
        assert_eq!(meter.stats(totals), Stats::default());
        let more = TrafficTotals { connections: 401, ..totals };
        assert_eq!(meter.stats(more).connections, 1);
    }
}
