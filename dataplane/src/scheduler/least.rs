//! lc, wlc, sed and nq: the server with the least to do. The first one of the
//! walk wins among equals, as in the kernel.
//!
//! Counts are live: a connection that any worker opened a moment ago counts.
//! Two workers that choose in the same instant may still choose the same
//! server.

use super::Candidate;

/// Least connections, whatever the weight.
pub(super) fn lc(list: &[Candidate]) -> Option<&Candidate> {
    least(list, Candidate::load, |_| 1)
}

/// Weighted least connections.
pub(super) fn wlc(list: &[Candidate]) -> Option<&Candidate> {
    wlc_among(list)
}

/// The same among some of the servers.
pub(super) fn wlc_among<'a>(
    some: impl IntoIterator<Item = &'a Candidate>,
) -> Option<&'a Candidate> {
    least(some, Candidate::load, |c| c.weight)
}

/// Shortest expected delay: the load that the server would have with this
/// connection. Inactive connections do not count.
pub(super) fn sed(list: &[Candidate]) -> Option<&Candidate> {
    least(list, |c| c.active() + 1, |c| c.weight)
}

/// Never queue: the first idle server; shortest expected delay when none is.
pub(super) fn nq(list: &[Candidate]) -> Option<&Candidate> {
    list.iter().find(|c| c.is_available() && c.active() == 0).or_else(|| sed(list))
}

/// The available server with the least load for its weight.
fn least<'a>(
    list: impl IntoIterator<Item = &'a Candidate>,
    load: impl Fn(&Candidate) -> u64,
    weight: impl Fn(&Candidate) -> u32,
) -> Option<&'a Candidate> {
    let mut least: Option<(u64, &Candidate)> = None;
    for candidate in list.into_iter().filter(|c| c.is_available()) {
        let load_here = load(candidate);
        let is_less = least
            .is_none_or(|best| is_less((load_here, weight(candidate)), (best.0, weight(best.1))));
        if is_less {
            least = Some((load_here, candidate));
        }
    }
    least.map(|(_, candidate)| candidate)
}

/// Whether the first (load, weight) has less load for its weight.
pub(super) fn is_less(one: (u64, u32), other: (u64, u32)) -> bool {
    u128::from(one.0) * u128::from(other.1) < u128::from(other.0) * u128::from(one.1)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{counted, open_to};
    use super::*;

    /// The servers that `n` connections go to, which all stay.
    fn take(
        choose: impl Fn(&[Candidate]) -> Option<&Candidate>,
        list: &[Candidate],
        n: usize,
    ) -> Vec<u32> {
        (0..n).filter_map(|_| choose(list).map(open_to)).collect()
    }

    #[test]
    fn lc_counts_an_active_connection_as_256() {
        let list = counted(&[(1, 1, 0), (1, 0, 255), (1, 0, 256)]);
        assert_eq!(lc(&list).unwrap().server, 1);
        // 256 against 255 + 256: the first of the two least.
        let list = counted(&[(1, 1, 0), (1, 0, 256), (1, 0, 257)]);
        assert_eq!(lc(&list).unwrap().server, 0);
    }

    #[test]
    fn lc_passes_over_weights_but_not_over_weight_0() {
        assert_eq!(take(lc, &counted(&[(1, 0, 0), (9, 0, 0), (0, 0, 0)]), 4), [0, 1, 0, 1]);
    }

    /// By hand: loads / weights after each choice, first of equals.
    #[test]
    fn wlc_weighs_connections() {
        let list = counted(&[(1, 0, 0), (3, 0, 0), (0, 0, 0)]);
        // 0/1 0/3 -> 0; 1/1 0/3 -> 1; 1/1 1/3 -> 1; 1/1 2/3 -> 1; 1/1 3/3 -> 0 ...
        assert_eq!(take(wlc, &list, 8), [0, 1, 1, 1, 0, 1, 1, 1]);
    }

    #[test]
    fn sed_looks_at_what_will_be() {
        // 1/1 1/3 -> 1; 1/1 2/3 -> 1; 1/1 3/3 -> 0; 2/1 3/3 -> 1; 2/1 4/3 -> 1 ...
        assert_eq!(take(sed, &counted(&[(1, 0, 0), (3, 0, 0)]), 6), [1, 1, 0, 1, 1, 1]);
        // Inactive connections do not count.
        assert_eq!(sed(&counted(&[(1, 0, 500), (1, 1, 0)])).unwrap().server, 0);
    }

    #[test]
    fn nq_takes_idle_servers_first() {
        // Idle ones in order of the walk, then as sed:
        // 2/1 2/3 -> 1; 2/1 3/3 -> 1; 2/1 4/3 -> 1; 2/1 5/3 -> 1; 2/1 6/3 -> 0.
        let list = counted(&[(1, 0, 0), (3, 0, 0), (0, 0, 0)]);
        assert_eq!(take(nq, &list, 7), [0, 1, 1, 1, 1, 1, 0]);
        // Idle is without active connections.
        assert_eq!(nq(&counted(&[(1, 1, 0), (1, 0, 9)])).unwrap().server, 1);
    }

    #[test]
    fn overloaded_servers_are_passed_over() {
        for choose in [lc, wlc, sed, nq] {
            let list = counted(&[(9, 0, 0), (1, 5, 0), (1, 6, 0)]);
            list[0].counts.connections.set_thresholds(1, 0);
            list[0].counts.connections.open(false);
            assert_eq!(choose(&list).unwrap().server, 1);
            list[1].counts.connections.set_thresholds(5, 0);
            assert_eq!(choose(&list).unwrap().server, 2);
            list[2].counts.connections.set_thresholds(1, 0);
            assert!(choose(&list).is_none());
        }
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let huge = (u64::from(u32::MAX) * 257, u32::MAX);
        assert!(!is_less(huge, huge));
        assert!(is_less((huge.0 - 1, u32::MAX), huge));
    }
}
