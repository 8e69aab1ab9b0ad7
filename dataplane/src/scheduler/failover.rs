//! fo and ovf: the server of the greatest weight that can take it. The first
//! one of the walk wins among equals, as in the kernel.

use super::Candidate;

/// Weighted failover: the greatest weight.
pub(super) fn fo(list: &[Candidate]) -> Option<&Candidate> {
    greatest(list.iter().filter(|c| c.is_available()))
}

/// Overflow: the greatest weight whose active connections do not exceed it.
pub(super) fn ovf(list: &[Candidate]) -> Option<&Candidate> {
    greatest(list.iter().filter(|c| c.is_available() && c.active() <= u64::from(c.weight)))
}

fn greatest<'a>(list: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    list.reduce(|best, c| if c.weight > best.weight { c } else { best })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{counted, open_to};
    use super::*;

    #[test]
    fn fo_stays_with_the_greatest_weight_until_it_is_overloaded() {
        let list = counted(&[(1, 0, 0), (7, 900, 0), (7, 0, 0), (0, 0, 0)]);
        assert_eq!(fo(&list).unwrap().server, 1);
        list[1].counts.connections.set_thresholds(900, 0);
        assert_eq!(fo(&list).unwrap().server, 2);
        list[2].counts.connections.set_thresholds(1, 0);
        open_to(&list[2]);
        assert_eq!(fo(&list).unwrap().server, 0);
        assert!(fo(&counted(&[(0, 0, 0)])).is_none());
    }

    #[test]
    fn ovf_flows_over_beyond_the_weight() {
        // A server takes connections while it has no more than its weight: one
        // beyond it.
        let list = counted(&[(1, 0, 0), (3, 0, 0), (0, 0, 0)]);
        let picks: Vec<u32> = (0..7).filter_map(|_| ovf(&list).map(open_to)).collect();
        assert_eq!(picks, [1, 1, 1, 1, 0, 0]);
        // Inactive connections do not count.
        assert_eq!(ovf(&counted(&[(2, 0, 900), (1, 0, 0)])).unwrap().server, 0);
    }

    #[test]
    fn ovf_passes_over_overloaded_servers() {
        let list = counted(&[(1, 0, 0), (3, 0, 1)]);
        list[1].counts.connections.set_thresholds(1, 0);
        assert_eq!(ovf(&list).unwrap().server, 0);
    }
}
