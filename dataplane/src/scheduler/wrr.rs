//! Weighted round robin, the kernel's: the list is walked round after round;
//! a round takes the servers whose weight reaches its threshold, which falls
//! from the greatest weight in steps of the weights' common divisor.

use super::position::{Place, Position};
use super::{Candidate, Candidates};

pub(super) fn choose<'a>(position: &Position, candidates: &'a Candidates) -> Option<&'a Candidate> {
    let Candidates { list, greatest_weight: greatest, divisor, .. } = candidates;
    position.step(candidates.single, |place| {
        let mut threshold = place.weight.min(*greatest);
        if threshold == 0 {
            threshold = *greatest;
        }
        let begun = (place.next as usize).min(list.len());
        let wanted = |c: &Candidate| c.weight >= threshold && c.is_available();
        if let Some(offset) = list[begun..].iter().position(wanted) {
            return Some(step(list, begun + offset, threshold));
        }
        // The next round that takes anyone, without walking those that take
        // nobody: with weights far apart and servers overloaded they are many.
        let (top, heaviest) = heaviest(list)?;
        threshold = match threshold.saturating_sub(*divisor) {
            0 => heaviest,
            below => below.min(heaviest),
        };
        let wanted = |c: &Candidate| c.weight >= threshold && c.is_available();
        // The heaviest is wanted, unless it was overloaded just now.
        Some(step(list, list.iter().position(wanted).unwrap_or(top), threshold))
    })
}

fn step(list: &[Candidate], index: usize, threshold: u32) -> (Place, &Candidate) {
    (Place { next: index as u32 + 1, weight: threshold }, &list[index])
}

/// The index and weight of the heaviest server that takes connections.
fn heaviest(list: &[Candidate]) -> Option<(usize, u32)> {
    let available = list.iter().enumerate().filter(|(_, c)| c.is_available());
    available.map(|(index, c)| (index, c.weight)).max_by_key(|&(_, weight)| weight)
}

#[cfg(test)]
mod tests {
    use super::super::Scheduler;
    use super::super::tests::{counted, open_to};
    use super::*;

    fn candidates(weights: &[u32]) -> Candidates {
        let list: Vec<_> = weights.iter().map(|&weight| (weight, 0, 0)).collect();
        Candidates::new(Scheduler::Wrr, counted(&list))
    }

    fn take_from(position: &Position, candidates: &Candidates, n: usize) -> Vec<u32> {
        (0..n).filter_map(|_| choose(position, candidates)).map(|c| c.server).collect()
    }

    fn take(position: &Position, weights: &[u32], n: usize) -> Vec<u32> {
        take_from(position, &candidates(weights), n)
    }

    /// The kernel's order for servers 1, 2, 3 added with weights 5, 1, 1:
    /// newest first, so rs3, rs2, then rs1 five times (as a cycle).
    #[test]
    fn order_is_the_kernels() {
        let position = Position::default();
        let order = take(&position, &[1, 1, 5], 14);
        assert_eq!(order, [2, 2, 2, 2, 0, 1, 2, 2, 2, 2, 2, 0, 1, 2]);
    }

    #[test]
    fn shares_are_the_weights() {
        for weights in [&[1][..], &[3, 6, 9], &[1, 65_535, 7], &[0, 2, 0, 4], &[10, 10]] {
            let position = Position::default();
            let sum: u32 = weights.iter().sum();
            let mut picks = vec![0; weights.len()];
            for server in take(&position, weights, sum as usize) {
                picks[server as usize] += 1;
            }
            assert_eq!(picks, weights, "{weights:?}");
        }
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(take(&Position::default(), &[4, 4, 4], 4), [0, 1, 2, 0]);
    }

    #[test]
    fn no_weight_no_server() {
        assert_eq!(take(&Position::default(), &[], 1), []);
        assert_eq!(take(&Position::default(), &[0, 0], 1), []);
    }

    #[test]
    fn a_threshold_from_greater_weights_comes_down() {
        let position = Position::default();
        take(&position, &[1_000, 1], 3);
        assert_eq!(take(&position, &[2, 1], 3), [0, 1, 0]);
    }

    /// Weights 6, 2, 4 in rounds of 6, 4, 2, without the first server: rounds
    /// that take nobody are left out, the others are what they were.
    #[test]
    fn an_overloaded_server_leaves_its_turns_to_the_others() {
        let position = Position::default();
        let servers = candidates(&[6, 2, 4]);
        assert_eq!(take_from(&position, &servers, 6), [0, 0, 2, 0, 1, 2]);
        servers.list[0].counts.connections.set_thresholds(1, 0);
        open_to(&servers.list[0]);
        assert_eq!(take_from(&position, &servers, 7), [2, 1, 2, 2, 1, 2, 2]);
        servers.list[0].counts.connections.close(true);
        assert_eq!(take_from(&position, &servers, 6), [0, 1, 2, 0, 0, 2]);
    }

    /// The greatest weight is overloaded and the others are far below: a
    /// choice takes no longer for that.
    #[test]
    fn weights_far_apart_cost_no_walk() {
        let position = Position::default();
        let mut weights = vec![1; 1_000];
        weights[0] = 65_535;
        let servers = candidates(&weights);
        servers.list[0].counts.connections.set_thresholds(1, 0);
        open_to(&servers.list[0]);
        let start = std::time::Instant::now();
        assert_eq!(take_from(&position, &servers, 999), (1..1_000).collect::<Vec<_>>());
        assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
        for candidate in &servers.list[1..] {
            candidate.counts.connections.set_thresholds(1, 0);
            open_to(candidate);
        }
        assert_eq!(take_from(&position, &servers, 1), []);
    }
}
