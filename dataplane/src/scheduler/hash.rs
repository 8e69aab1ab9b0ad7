//! dh and sh: 256 buckets, each with one server, and an address that says
//! which. A client whose bucket's server takes no connections is refused; with
//! `sh-fallback` the next bucket that has another is taken.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Candidate, Candidates, HashFlags, Request};

const BUCKETS: usize = 256;

/// Knuth's multiplier, the kernel's: 2^32 divided by the golden ratio.
const MULTIPLIER: u32 = 2_654_435_761;

/// dh's buckets: the servers in turn, whatever their weights.
pub(super) fn in_turn(list: &[Candidate]) -> Arc<[u32]> {
    fill(list, |_| 1)
}

/// sh's buckets: as many of them in a row as a server's weight. One of weight
/// 0 has a single one, as in the kernel.
pub(super) fn by_weight(list: &[Candidate]) -> Arc<[u32]> {
    fill(list, |c| c.weight.max(1) as usize)
}

fn fill(list: &[Candidate], in_a_row: impl Fn(&Candidate) -> usize) -> Arc<[u32]> {
    let indices = list.iter().zip(0u32..).filter(|(c, _)| !c.fresh);
    let round = indices.flat_map(|(c, index)| std::iter::repeat_n(index, in_a_row(c)));
    let round: Vec<u32> = round.take(BUCKETS).collect();
    round.iter().copied().cycle().take(BUCKETS).collect()
}

/// The server for a destination.
pub(super) fn dh<'a>(candidates: &'a Candidates, request: &Request) -> Option<&'a Candidate> {
    candidates.at(bucket(request.destination, 0)).filter(|c| c.is_available())
}

/// The server for a client.
pub(super) fn sh<'a>(
    flags: HashFlags,
    candidates: &'a Candidates,
    request: &Request,
) -> Option<&'a Candidate> {
    let home = bucket(request.client, flags.port_of(request));
    let found = candidates.at(home).filter(|c| c.is_available());
    if found.is_some() || !flags.fallback {
        return found;
    }
    // The kernel adds the distance from bucket 0 to the hash, so the search
    // begins at twice the client's bucket.
    (0..BUCKETS)
        .filter_map(|offset| candidates.at((2 * home + offset) % BUCKETS))
        .find(|c| c.is_available())
}

fn bucket(address: IpAddr, port: u16) -> usize {
    let folded = fold(address).wrapping_add(u32::from(port));
    folded.wrapping_mul(MULTIPLIER) as usize % BUCKETS
}

/// An address as 32 bits: of an IPv6 one its four words, one over the other.
fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{counted, from};
    use super::super::{Scheduler, State};
    use super::*;

    const PLAIN: HashFlags = HashFlags { fallback: false, port: false };

    fn candidates(scheduler: Scheduler, weights: &[u32]) -> Candidates {
        let list: Vec<_> = weights.iter().map(|&weight| (weight, 0, 0)).collect();
        Candidates::new(scheduler, counted(&list))
    }

    fn choose(scheduler: Scheduler, candidates: &Candidates, request: &Request) -> Option<u32> {
        scheduler.choose(&State::new(scheduler), candidates, request)
    }

    /// By hand: 192.168.1.12 is 0xc0a8010c; times 0x9e3779b1 modulo 256 is
    /// 0x0c * 0xb1 mod 256 = 12 * 177 mod 256 = 2124 mod 256 = 76.
    #[test]
    fn buckets_are_the_kernels() {
        assert_eq!(bucket("192.168.1.12".parse().unwrap(), 0), 76);
        // (12 + 5000) mod 256 = 148; 148 * 177 mod 256 = 84.
        assert_eq!(bucket("192.168.1.12".parse().unwrap(), 5000), 84);
        // 0xfd000001 ^ 0 ^ 0 ^ 0x12 ends in 0x13: 19 * 177 mod 256 = 35.
        assert_eq!(bucket("fd00:1::12".parse().unwrap(), 0), 35);
        // All four words matter: 1 ^ 2 ^ 4 ^ 8 = 15; 15 * 177 mod 256 = 95.
        assert_eq!(bucket("0:1:0:2:0:4:0:8".parse().unwrap(), 0), 95);
        // Port and address may exceed 32 bits together: 4294967295 + 1 is 0.
        assert_eq!(bucket("255.255.255.255".parse().unwrap(), 1), 0);
    }

    #[test]
    fn sh_fills_buckets_by_weight_and_dh_in_turn() {
        let weights = [2, 0, 3];
        let sh = candidates(Scheduler::Sh(PLAIN), &weights);
        assert_eq!(sh.table[..8], [0, 0, 1, 2, 2, 2, 0, 0]);
        assert_eq!(sh.table.len(), BUCKETS);
        let dh = candidates(Scheduler::Dh, &weights);
        assert_eq!(dh.table[..4], [0, 1, 2, 0]);
        // A weight beyond the table takes it whole.
        assert!(candidates(Scheduler::Sh(PLAIN), &[65_535, 1]).table.iter().all(|&i| i == 0));
    }

    #[test]
    fn a_fresh_server_has_no_bucket() {
        let mut list = counted(&[(0, 0, 0), (1, 0, 0)]);
        list[0].fresh = true;
        for scheduler in [Scheduler::Dh, Scheduler::Sh(PLAIN)] {
            assert!(Candidates::new(scheduler, list.clone()).table.iter().all(|&i| i == 1));
            let alone = Candidates::new(scheduler, list[..1].to_vec());
            assert_eq!(choose(scheduler, &alone, &from([10, 0, 0, 1], 1)), None);
        }
    }

    #[test]
    fn sh_refuses_clients_of_a_server_that_takes_none() {
        let sh = candidates(Scheduler::Sh(PLAIN), &[1, 1, 0]);
        // 76 mod 3 = 1; the last byte 1 is bucket 177: 0; 2 is bucket 98: 2.
        let picks =
            [12, 1, 2].map(|last| choose(Scheduler::Sh(PLAIN), &sh, &from([192, 168, 1, last], 7)));
        assert_eq!(picks, [Some(1), Some(0), None]);
        sh.list[1].counts.connections.set_thresholds(1, 0);
        sh.list[1].counts.connections.open(true);
        let overloaded = choose(Scheduler::Sh(PLAIN), &sh, &from([192, 168, 1, 12], 7));
        assert_eq!(overloaded, None);
        assert_eq!(choose(Scheduler::Sh(PLAIN), &Candidates::default(), &from([1; 4], 1)), None);
    }

    #[test]
    fn sh_falls_back_to_the_next_bucket() {
        let scheduler = Scheduler::Sh(HashFlags { fallback: true, port: false });
        let sh = candidates(scheduler, &[1, 1, 0]);
        // Bucket 98 has server 2; from 196 on, 196 mod 3 = 1.
        assert_eq!(choose(scheduler, &sh, &from([192, 168, 1, 2], 7)), Some(1));
        sh.list[1].counts.connections.set_thresholds(1, 0);
        sh.list[1].counts.connections.open(true);
        // 197 has server 2, too, and 198 server 0.
        assert_eq!(choose(scheduler, &sh, &from([192, 168, 1, 2], 7)), Some(0));
        let none = candidates(scheduler, &[0, 0]);
        assert_eq!(choose(scheduler, &none, &from([192, 168, 1, 2], 7)), None);
    }

    #[test]
    fn sh_port_tells_connections_of_a_client_apart() {
        let scheduler = Scheduler::Sh(HashFlags { fallback: false, port: true });
        let weights = [1; 4];
        let with_port = candidates(scheduler, &weights);
        let picks = |scheduler| {
            [1, 2, 3, 4].map(|port| choose(scheduler, &with_port, &from([192, 168, 1, 12], port)))
        };
        // 177 is 1 modulo 4: bucket modulo 4 is (12 + port) modulo 4.
        assert_eq!(picks(scheduler), [Some(1), Some(2), Some(3), Some(0)]);
        assert_eq!(picks(Scheduler::Sh(PLAIN)), [Some(0); 4]);
    }

    #[test]
    fn dh_looks_at_the_destination() {
        let dh = candidates(Scheduler::Dh, &[1, 9, 0]);
        let to = |last: u8| Request {
            destination: IpAddr::from([192, 168, 1, last]),
            ..from([10, 0, 0, last], 1)
        };
        let picks = [12, 1, 2].map(|last| choose(Scheduler::Dh, &dh, &to(last)));
        assert_eq!(picks, [Some(1), Some(0), None]);
    }
}
