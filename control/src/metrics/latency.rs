//! How long changes took.

use std::time::Duration;

/// Upper bounds of the buckets, in microseconds and as the exposition writes
/// them in seconds. A worker takes up a change within its round; a sleeping one
/// within half a millisecond; one that has not after two seconds is stalled.
const BOUNDS: [(u64, &str); 14] = [
    (50, "0.00005"),
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1.0"),
    (2_500_000, "2.5"),
];

/// A histogram of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// By bucket, the last one without a bound.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Latency {
    /// Counts a duration.
    pub fn observe(&mut self, took: Duration) {
        let bucket = BOUNDS.iter().position(|&(most, _)| took <= Duration::from_micros(most));
        self.counts[bucket.unwrap_or(BOUNDS.len())] += 1;
        self.sum += took;
    }

    /// The bounds with what was observed between each and the one before.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let bounds = BOUNDS.iter().map(|&(_, text)| text).chain(["+Inf"]);
        bounds.zip(self.counts)
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_the_bounds_are_their_values() {
        for (micros, text) in BOUNDS {
            let seconds: f64 = text.parse().unwrap();
            assert_eq!((seconds * 1e6).round() as u64, micros);
        }
        assert!(BOUNDS.is_sorted());
    }
}
