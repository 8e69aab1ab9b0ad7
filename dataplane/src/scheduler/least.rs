//! lc, wlc, sed and nq: the server with the least to do. The first one of the
//! walk wins among equals, as in the kernel.
//!
//! Counts are live: a connection that any worker opened a moment ago counts.
//! Two workers that choose in the same instant may still choose the same
//! server.

use super::index::quotient;
use super::{Candidate, Candidates};

/// Least connections, whatever the weight.
pub(super) fn lc(candidates: &Candidates, worker: usize) -> Option<&Candidate> {
    among(candidates, worker, Candidate::load, |_| 1)
}

/// Weighted least connections.
pub(super) fn wlc(candidates: &Candidates, worker: usize) -> Option<&Candidate> {
    among(candidates, worker, Candidate::load, |c| c.weight)
}

/// The same among some of the servers.
pub(super) fn wlc_among<'a>(
    some: impl IntoIterator<Item = &'a Candidate>,
) -> Option<&'a Candidate> {
    least(some, Candidate::load, |c| c.weight)
}

/// Shortest expected delay: the load that the server would have with this
/// connection. Inactive connections do not count.
pub(super) fn sed(candidates: &Candidates, worker: usize) -> Option<&Candidate> {
    among(candidates, worker, |c| c.active() + 1, |c| c.weight)
}

/// Never queue: the first idle server, whose load is then less than any that
/// sed knows; shortest expected delay when none is.
pub(super) fn nq(candidates: &Candidates, worker: usize) -> Option<&Candidate> {
    let load = |c: &Candidate| if c.active() == 0 { 0 } else { c.active() + 1 };
    among(candidates, worker, load, |c| c.weight)
}

/// The available server with the least load for its weight, of few servers or
/// of many.
fn among(
    candidates: &Candidates,
    worker: usize,
    load: impl Fn(&Candidate) -> u64,
    weight: impl Fn(&Candidate) -> u32,
) -> Option<&Candidate> {
    match &candidates.index {
        Some(index) => index.least(worker, &candidates.list, |c| {
            c.is_available().then(|| quotient(load(c), weight(c)))
        }),
        None => least(&candidates.list, load, weight),
    }
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
    use super::super::Scheduler;
    use super::super::tests::{counted, open_to};
    use super::*;

    type Choose = fn(&Candidates, usize) -> Option<&Candidate>;

    const ALL: [(Scheduler, Choose); 4] =
        [(Scheduler::Lc, lc), (Scheduler::Wlc, wlc), (Scheduler::Sed, sed), (Scheduler::Nq, nq)];

    /// Servers of which each is looked at.
    fn few(list: &[Candidate]) -> Candidates {
        Candidates { list: list.to_vec(), ..Candidates::default() }
    }

    /// The server that a connection goes to.
    fn number(choose: Choose, list: &[Candidate]) -> Option<u32> {
        choose(&few(list), 0).map(|c| c.server)
    }

    /// The servers that `n` connections go to, which all stay.
    fn take(choose: Choose, list: &[Candidate], n: usize) -> Vec<u32> {
        let candidates = few(list);
        (0..n).filter_map(|_| choose(&candidates, 0).map(open_to)).collect()
    }

    #[test]
    fn lc_counts_an_active_connection_as_256() {
        let list = counted(&[(1, 1, 0), (1, 0, 255), (1, 0, 256)]);
        assert_eq!(number(lc, &list), Some(1));
        // 256 against 255 + 256: the first of the two least.
        let list = counted(&[(1, 1, 0), (1, 0, 256), (1, 0, 257)]);
        assert_eq!(number(lc, &list), Some(0));
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
        assert_eq!(number(sed, &counted(&[(1, 0, 500), (1, 1, 0)])), Some(0));
    }

    #[test]
    fn nq_takes_idle_servers_first() {
        // Idle ones in order of the walk, then as sed:
        // 2/1 2/3 -> 1; 2/1 3/3 -> 1; 2/1 4/3 -> 1; 2/1 5/3 -> 1; 2/1 6/3 -> 0.
        let list = counted(&[(1, 0, 0), (3, 0, 0), (0, 0, 0)]);
        assert_eq!(take(nq, &list, 7), [0, 1, 1, 1, 1, 1, 0]);
        // Idle is without active connections.
        assert_eq!(number(nq, &counted(&[(1, 1, 0), (1, 0, 9)])), Some(1));
    }

    #[test]
    fn overloaded_servers_are_passed_over() {
        for (_, choose) in ALL {
            let list = counted(&[(9, 0, 0), (1, 5, 0), (1, 6, 0)]);
            list[0].counts.connections.set_thresholds(1, 0);
            list[0].counts.connections.open(false);
            assert_eq!(number(choose, &list), Some(1));
            list[1].counts.connections.set_thresholds(5, 0);
            assert_eq!(number(choose, &list), Some(2));
            list[2].counts.connections.set_thresholds(1, 0);
            assert_eq!(number(choose, &list), None);
        }
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let huge = (u64::from(u32::MAX) * 257, u32::MAX);
        assert!(!is_less(huge, huge));
        assert!(is_less((huge.0 - 1, u32::MAX), huge));
    }

    /// With many servers the choice is what a look at each of them says, for
    /// each of two workers, whatever happened since their last one.
    #[test]
    fn many_servers_are_as_few() {
        let mut random = 7u64;
        let mut below = |n: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % n
        };
        for (scheduler, choose) in ALL {
            for servers in [16, 17, 100, 300] {
                let weights: Vec<_> = (0..servers).map(|_| (below(4) as u32, 0, 0)).collect();
                let mut many = Candidates::new(scheduler, counted(&weights));
                let mut busy: Vec<(usize, bool)> = Vec::new();
                for i in 0..2_000 {
                    assert!(many.index.is_some());
                    let server = below(servers) as usize;
                    let connections = &many.list[server].counts.connections;
                    match below(8) {
                        0 => connections.set_thresholds(below(3) as u32, 0),
                        1..=3 if !busy.is_empty() => {
                            let (server, active) =
                                busy.swap_remove(below(busy.len() as u64) as usize);
                            many.list[server].counts.connections.close(active);
                        }
                        4 if !busy.is_empty() => {
                            let (server, active) = busy.last_mut().unwrap();
                            many.list[*server].counts.connections.change(*active, !*active);
                            *active = !*active;
                        }
                        _ => {
                            let active = below(2) == 0;
                            connections.open(active);
                            busy.push((server, active));
                        }
                    }
                    if i % 97 == 0 {
                        // A new configuration, with other weights.
                        let mut list = many.list.clone();
                        list[server].weight = below(4) as u32;
                        many = many.followed_by(scheduler, list);
                    }
                    let worker = below(2) as usize;
                    let chosen = choose(&many, worker).map(|c| c.server);
                    assert_eq!(chosen, number(choose, &many.list), "{scheduler:?} of {servers}");
                }
            }
        }
    }
}
