//! Round robin: each server in turn, whatever its weight; weight 0 is passed
//! over.

use super::{Candidate, Place, Position};

pub(super) fn choose(position: &Position, candidates: &[Candidate]) -> Option<u32> {
    position.step(|place| {
        let (behind, ahead) = candidates.split_at((place.next as usize).min(candidates.len()));
        let wanted = |c: &Candidate| c.weight > 0;
        let index = match ahead.iter().position(wanted) {
            Some(offset) => behind.len() + offset,
            None => behind.iter().position(wanted)?,
        };
        let next = Place { next: index as u32 + 1, ..place };
        Some((next, candidates[index].server))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        super::super::candidates(weights).list
    }

    fn take(position: &Position, candidates: &[Candidate], n: usize) -> Vec<u32> {
        (0..n).filter_map(|_| choose(position, candidates)).collect()
    }

    #[test]
    fn takes_turns_and_passes_over_weight_0() {
        let position = Position::default();
        let servers = candidates(&[1, 0, 9, 1]);
        assert_eq!(take(&position, &servers, 7), [0, 2, 3, 0, 2, 3, 0]);
    }

    #[test]
    fn no_weight_no_server() {
        let position = Position::default();
        assert_eq!(choose(&position, &[]), None);
        assert_eq!(choose(&position, &candidates(&[0, 0])), None);
        // The round is where it was.
        assert_eq!(choose(&position, &candidates(&[1, 1])), Some(0));
    }

    #[test]
    fn an_added_server_does_not_repeat_a_turn() {
        let position = Position::default();
        let old = Candidate { server: 7, weight: 1 };
        assert_eq!(choose(&position, &[old]), Some(7));
        position.server_added();
        let both = [Candidate { server: 8, weight: 1 }, old];
        assert_eq!(take(&position, &both, 3), [8, 7, 8]);
    }

    #[test]
    fn a_removed_server_does_not_skip_a_turn() {
        let position = Position::default();
        let mut servers = candidates(&[1, 1, 1, 1]);
        assert_eq!(take(&position, &servers, 2), [0, 1]);
        servers.remove(0);
        position.server_removed(0);
        assert_eq!(take(&position, &servers, 3), [2, 3, 1]);
        servers.remove(2);
        position.server_removed(2);
        assert_eq!(take(&position, &servers, 2), [2, 1]);
    }

    #[test]
    fn a_position_beyond_a_shorter_list_wraps() {
        let position = Position::default();
        take(&position, &candidates(&[1; 9]), 9);
        assert_eq!(choose(&position, &candidates(&[1, 1])), Some(0));
    }
}
