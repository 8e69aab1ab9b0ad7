//! twos: the less loaded of two servers drawn at random by weight.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Candidate;
use super::least::is_less;

/// A source of random numbers that workers share: SplitMix64 (Steele et al.,
/// OOPSLA 2014), whose state is a counter.
#[derive(Debug, Default)]
pub(super) struct Draws(AtomicU64);

impl Draws {
    /// One of its own that goes on with the same numbers.
    pub(super) fn copied(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }

    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub(super) fn choose<'a>(draws: &Draws, list: &'a [Candidate]) -> Option<&'a Candidate> {
    let total = list.iter().filter(|c| c.is_available()).map(|c| u64::from(c.weight)).sum();
    let one = draw(list, below(total, draws.next()))?;
    let other = draw(list, below(total, draws.next()))?;
    let load = |c: &Candidate| (c.load(), c.weight);
    Some(if is_less(load(other), load(one)) { other } else { one })
}

/// A random number that is less than `limit`.
fn below(limit: u64, random: u64) -> u64 {
    ((u128::from(random) * u128::from(limit)) >> 64) as u64
}

/// The server that has a point of all weights in a row; the last one when the
/// weights became fewer since they were added up.
fn draw(list: &[Candidate], mut point: u64) -> Option<&Candidate> {
    let mut last = None;
    for candidate in list.iter().filter(|c| c.is_available()) {
        let weight = u64::from(candidate.weight);
        if point < weight {
            return Some(candidate);
        }
        point -= weight;
        last = Some(candidate);
    }
    last
}

#[cfg(test)]
mod tests {
    use super::super::tests::{counted, open_to};
    use super::*;

    fn picks(list: &[Candidate], n: usize) -> Vec<usize> {
        let draws = Draws::default();
        let mut picks = vec![0; list.len()];
        for _ in 0..n {
            picks[choose(&draws, list).unwrap().server as usize] += 1;
        }
        picks
    }

    #[test]
    fn a_point_belongs_to_a_server_by_weight() {
        let list = counted(&[(2, 0, 0), (0, 0, 0), (3, 0, 0)]);
        let owners: Vec<_> = (0..6).map(|point| draw(&list, point).unwrap().server).collect();
        assert_eq!(owners, [0, 0, 2, 2, 2, 2]);
        assert!(draw(&counted(&[(0, 0, 0)]), 0).is_none());
    }

    /// Without load the first draw stands: shares are the weights. With load
    /// the busier one is taken only when drawn twice: 1/4 of 1/2 : 1/2.
    #[test]
    fn the_less_loaded_of_two_is_taken() {
        let idle = picks(&counted(&[(1, 0, 0), (3, 0, 0)]), 40_000);
        assert!((9_480..=10_520).contains(&idle[0]), "{idle:?}");
        let busy = picks(&counted(&[(1, 1, 0), (1, 0, 1)]), 40_000);
        assert!((9_480..=10_520).contains(&busy[0]), "{busy:?}");
    }

    /// Connections that stay are spread evenly, far closer than by one draw
    /// (whose deviation would be 39).
    #[test]
    fn loads_stay_close() {
        let list = counted(&[(1, 0, 0); 16]);
        let draws = Draws::default();
        for _ in 0..16 * 1_600 {
            open_to(choose(&draws, &list).unwrap());
        }
        for candidate in &list {
            assert!((1_590..=1_610).contains(&candidate.active()), "{}", candidate.active());
        }
    }

    #[test]
    fn weight_0_and_overload_are_passed_over() {
        let list = counted(&[(0, 0, 0), (5, 0, 0), (1, 0, 0)]);
        list[1].counts.connections.set_thresholds(1, 0);
        open_to(&list[1]);
        assert_eq!(picks(&list, 50), [0, 0, 50]);
        list[2].counts.connections.set_thresholds(1, 0);
        open_to(&list[2]);
        assert!(choose(&Draws::default(), &list).is_none());
    }
}
