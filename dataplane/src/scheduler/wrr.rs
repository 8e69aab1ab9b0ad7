//! Weighted round robin, the kernel's: the list is walked round after round;
//! a round takes the servers whose weight reaches its threshold, which falls
//! from the greatest weight in steps of the weights' common divisor.

use super::{Candidate, Candidates, Place, Position};

pub(super) fn choose(position: &Position, candidates: &Candidates) -> Option<u32> {
    let Candidates { list, greatest_weight, divisor } = candidates;
    let (greatest, divisor) = (*greatest_weight, *divisor);
    if greatest == 0 {
        return None;
    }
    position.step(|place| {
        let mut index = place.next as usize;
        let mut threshold = place.weight.min(greatest);
        if threshold == 0 {
            threshold = greatest;
        }
        // The round with the greatest threshold takes a server for sure, so
        // the rest of this round and all thresholds once are enough.
        loop {
            if index >= list.len() {
                index = 0;
                threshold = threshold.saturating_sub(divisor);
                if threshold == 0 {
                    threshold = greatest;
                }
            }
            let Candidate { server, weight } = list[index];
            index += 1;
            if weight >= threshold {
                return Some((Place { next: index as u32, weight: threshold }, server));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::candidates;
    use super::*;

    fn take(position: &Position, weights: &[u32], n: usize) -> Vec<u32> {
        (0..n).filter_map(|_| choose(position, &candidates(weights))).collect()
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
        assert_eq!(choose(&Position::default(), &candidates(&[])), None);
        assert_eq!(choose(&Position::default(), &candidates(&[0, 0])), None);
    }

    #[test]
    fn a_threshold_from_greater_weights_comes_down() {
        let position = Position::default();
        take(&position, &[1_000, 1], 3);
        assert_eq!(take(&position, &[2, 1], 3), [0, 1, 0]);
    }
}
