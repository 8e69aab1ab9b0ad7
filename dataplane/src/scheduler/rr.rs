//! Round robin: each server in turn, whatever its weight; one that takes no
//! connections is passed over.

use super::position::{Place, Position};
use super::{Candidate, Candidates};
use crate::conn::memory::prefetch_l1;

/// How far ahead the counts of a server are asked for that has its turn soon.
const AHEAD: usize = 4;

#[inline]
pub(super) fn choose<'a>(position: &Position, candidates: &'a Candidates) -> Option<&'a Candidate> {
    let list = &candidates.list[..];
    if let Some(soon) = list.get(position.next() + AHEAD) {
        prefetch_l1(&soon.counts.connections);
    }
    position.step(candidates.single, |place| {
        let index = match list.get(place.next as usize) {
            Some(next) if next.is_available() => place.next as usize,
            _ => walk(list, place.next as usize)?,
        };
        Some((Place { next: index as u32 + 1, ..place }, &list[index]))
    })
}

/// The first server that takes connections, from one on, and then from the
/// beginning.
fn walk(list: &[Candidate], from: usize) -> Option<usize> {
    let (behind, ahead) = list.split_at(from.min(list.len()));
    match ahead.iter().position(Candidate::is_available) {
        Some(offset) => Some(behind.len() + offset),
        None => behind.iter().position(Candidate::is_available),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Scheduler;
    use super::super::tests::{counted, open_to};
    use super::*;

    fn candidates(weights: &[u32]) -> Vec<Candidate> {
        counted(&weights.iter().map(|&weight| (weight, 0, 0)).collect::<Vec<_>>())
    }

    fn of(list: &[Candidate]) -> Candidates {
        Candidates::new(Scheduler::Rr, list.to_vec())
    }

    fn take(position: &Position, list: &[Candidate], n: usize) -> Vec<u32> {
        let candidates = of(list);
        (0..n).filter_map(|_| choose(position, &candidates)).map(|c| c.server).collect()
    }

    #[test]
    fn takes_turns_and_passes_over_weight_0() {
        let position = Position::default();
        let servers = candidates(&[1, 0, 9, 1]);
        assert_eq!(take(&position, &servers, 7), [0, 2, 3, 0, 2, 3, 0]);
    }

    #[test]
    fn an_overloaded_server_is_passed_over_until_it_has_room() {
        let position = Position::default();
        let servers = candidates(&[1, 1, 1]);
        servers[1].counts.connections.set_thresholds(1, 0);
        open_to(&servers[1]);
        assert_eq!(take(&position, &servers, 4), [0, 2, 0, 2]);
        servers[1].counts.connections.close(true);
        assert_eq!(take(&position, &servers, 3), [0, 1, 2]);
    }

    #[test]
    fn no_weight_no_server() {
        let position = Position::default();
        assert!(choose(&position, &of(&[])).is_none());
        assert!(choose(&position, &of(&candidates(&[0, 0]))).is_none());
        // The round is where it was.
        assert_eq!(take(&position, &candidates(&[1, 1]), 1), [0]);
    }

    #[test]
    fn an_added_server_does_not_repeat_a_turn() {
        let position = Position::default();
        let both = candidates(&[1, 1]);
        assert_eq!(take(&position, &both[1..], 1), [1]);
        position.server_added();
        assert_eq!(take(&position, &both, 3), [0, 1, 0]);
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
        assert_eq!(take(&position, &candidates(&[1, 1]), 1), [0]);
    }
}
