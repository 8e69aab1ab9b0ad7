use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::service::ServerCounts;

/// Servers numbered from 0 with these weights, active and inactive connections.
pub(super) fn counted(servers: &[(u32, u32, u32)]) -> Vec<Candidate> {
    let candidate = |(server, &(weight, active, inactive)): (u32, _)| {
        // Some tests choose in several threads.
        let counts = Arc::new(ServerCounts::new(4));
        let kinds = [(true, active), (false, inactive)];
        for kind in kinds.into_iter().flat_map(|(kind, n)| (0..n).map(move |_| kind)) {
            counts.connections.open(kind);
        }
        let address = SocketAddr::from((Ipv4Addr::from(0xc0a9_0001 + server), 80));
        Candidate { server, address, weight, fresh: false, counts }
    };
    (0..).zip(servers).map(candidate).collect()
}

/// Opens an active connection to a server, and gives its number.
pub(super) fn open_to(candidate: &Candidate) -> u32 {
    candidate.counts.connections.open(true);
    candidate.server
}

/// A connection from a client to 192.168.1.100.
pub(super) fn from(client: [u8; 4], client_port: u16) -> Request {
    Request {
        client: client.into(),
        client_port,
        destination: [192, 168, 1, 100].into(),
        now: Tick::from_secs(1_000),
        worker: 0,
    }
}

fn candidates(scheduler: Scheduler, weights: &[u32]) -> Candidates {
    let list: Vec<_> = weights.iter().map(|&weight| (weight, 0, 0)).collect();
    Candidates::new(scheduler, counted(&list))
}

/// With and without flags.
fn all() -> impl Iterator<Item = Scheduler> {
    let flagged =
        |scheduler: Scheduler| ["flag-1", "flag-2"].map(|f| scheduler.with_flag(f).unwrap());
    Scheduler::ALL.into_iter().flat_map(move |s| [s].into_iter().chain(flagged(s)))
}

#[test]
fn names_round_trip() {
    for scheduler in Scheduler::ALL {
        assert_eq!(Scheduler::from_name(scheduler.name()), Some(scheduler));
    }
    assert_eq!(Scheduler::from_name("wlcx"), None);
}

#[test]
fn flags_have_ipvsadms_names() {
    let flags = |fallback, port| HashFlags { fallback, port };
    let with = |name: &str, names: &[&str]| {
        names.iter().try_fold(Scheduler::from_name(name).unwrap(), |s, flag| s.with_flag(flag))
    };
    assert_eq!(with("sh", &["sh-fallback"]), Some(Scheduler::Sh(flags(true, false))));
    assert_eq!(with("sh", &["sh-port"]), Some(Scheduler::Sh(flags(false, true))));
    assert_eq!(with("mh", &["mh-port", "mh-fallback"]), Some(Scheduler::Mh(flags(true, true))));
    assert_eq!(with("mh", &["flag-1"]), Some(Scheduler::Mh(flags(true, false))));
    assert_eq!(with("sh", &["flag-2", "flag-3"]), Some(Scheduler::Sh(flags(false, true))));
    assert_eq!(with("rr", &["flag-1", "flag-2", "flag-3"]), Some(Scheduler::Rr));
    for (name, flag) in [("sh", "mh-port"), ("mh", "sh-fallback"), ("rr", "sh-port"), ("rr", "")] {
        assert_eq!(with(name, &[flag]), None, "{name} {flag}");
    }
}

/// Whatever the scheduler: nobody without weight, nobody overloaded, nobody
/// where there is nobody.
#[test]
fn only_servers_that_take_connections_are_chosen() {
    for scheduler in all() {
        let state = State::new(scheduler);
        let request =
            |i: u8| Request { destination: [10, 0, 0, i].into(), ..from([10, 1, 0, i], 9) };
        let servers = candidates(scheduler, &[0, 3, 5, 2]);
        servers.list[2].counts.connections.set_thresholds(1, 0);
        servers.list[2].counts.connections.open(false);
        let mut chosen = std::collections::BTreeSet::new();
        for i in 0..200 {
            chosen.extend(scheduler.choose(&state, &servers, &request(i)));
        }
        assert!(chosen.contains(&1), "{scheduler:?}: {chosen:?}");
        assert!(chosen.is_subset(&[1, 3].into()), "{scheduler:?}: {chosen:?}");
        for none in [&[][..], &[0, 0]] {
            let servers = candidates(scheduler, none);
            assert_eq!(scheduler.choose(&state, &servers, &request(1)), None, "{scheduler:?}");
        }
    }
}

/// IPv6 clients get a server as well.
#[test]
fn both_families_are_served() {
    for scheduler in all() {
        let request = Request {
            client: "fd00:1::12".parse().unwrap(),
            destination: "fd00:1::100".parse().unwrap(),
            ..from([0; 4], 5000)
        };
        let servers = candidates(scheduler, &[1]);
        assert_eq!(scheduler.choose(&State::new(scheduler), &servers, &request), Some(0));
    }
}

/// What other clients do does not move a client of dh, sh or mh.
#[test]
fn hashed_clients_stay() {
    for name in ["dh", "sh", "mh"] {
        let scheduler = Scheduler::from_name(name).unwrap();
        let servers = candidates(scheduler, &[1, 2, 3]);
        let state = State::new(scheduler);
        let pick = |i: u8| {
            let request = Request { destination: [10, 0, 0, i].into(), ..from([10, 1, 0, i], 9) };
            scheduler.choose(&state, &servers, &request).unwrap()
        };
        let before: Vec<_> = (0..=255).map(pick).collect();
        assert!((0..3).all(|server| before.contains(&server)), "{name}");
        // New ones come and stay, in another order.
        for (i, &server) in (0..=255).zip(&before).rev() {
            open_to(&servers.list[pick(i) as usize]);
            assert_eq!(pick(i), server, "{name}");
        }
    }
}

/// Threads that share a state share out connections exactly.
#[test]
fn shares_are_exact_over_several_workers() {
    for (scheduler, expected) in
        [(Scheduler::Wrr, [12_000, 4_000, 0, 8_000]), (Scheduler::Rr, [8_000, 8_000, 0, 8_000])]
    {
        let picks = picks_of_four(scheduler, &candidates(scheduler, &[3, 1, 0, 2]));
        assert_eq!(picks, expected, "{scheduler:?}");
    }
}

/// Where counts decide, four workers that choose in the same instant may be
/// off by the connections of the other three.
#[test]
fn counted_shares_are_nearly_exact_over_several_workers() {
    for scheduler in [Scheduler::Wlc, Scheduler::Sed, Scheduler::Nq] {
        let picks = picks_of_four(scheduler, &candidates(scheduler, &[3, 1, 0, 2]));
        for (pick, expected) in picks.into_iter().zip([12_000, 4_000, 0, 8_000]) {
            assert!(pick.abs_diff(expected) <= 6, "{scheduler:?}: {picks:?}");
        }
    }
    let picks = picks_of_four(Scheduler::Lc, &candidates(Scheduler::Lc, &[3, 1, 0, 2]));
    for (pick, expected) in picks.into_iter().zip([8_000, 8_000, 0, 8_000]) {
        assert!(pick.abs_diff(expected) <= 6, "lc: {picks:?}");
    }
}

/// What four threads choose that open 6,000 connections each.
fn picks_of_four(scheduler: Scheduler, servers: &Candidates) -> [u32; 4] {
    let state = State::new(scheduler);
    let choose_and_open = || {
        let mut picks = [0u32; 4];
        for _ in 0..6_000 {
            let server = scheduler.choose(&state, servers, &from([10, 0, 0, 1], 1)).unwrap();
            open_to(&servers.list[server as usize]);
            picks[server as usize] += 1;
        }
        picks
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(choose_and_open)).collect();
        workers.into_iter().fold([0; 4], |sum: [u32; 4], worker| {
            let picks = worker.join().unwrap();
            std::array::from_fn(|i| sum[i] + picks[i])
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With connections that stay, and after whole rounds, shares are the
    /// weights: exactly for wrr; for wlc and sed within one connection a
    /// server; rr gives each the same.
    #[test]
    fn long_run_shares_are_the_weights(weights in prop::collection::vec(0u32..20, 1..8)) {
        let sum: u32 = weights.iter().sum();
        prop_assume!(sum > 0);
        const ROUNDS: u32 = 5;
        let live = weights.iter().filter(|&&w| w > 0).count() as u32;
        for scheduler in [Scheduler::Rr, Scheduler::Wrr, Scheduler::Wlc, Scheduler::Sed] {
            let servers = candidates(scheduler, &weights);
            let state = State::new(scheduler);
            let (round, slack) = match scheduler {
                Scheduler::Rr => (live, 0),
                Scheduler::Wrr => (sum, 0),
                _ => (sum, 1),
            };
            for _ in 0..round * ROUNDS {
                let server = scheduler.choose(&state, &servers, &from([10, 0, 0, 1], 1)).unwrap();
                open_to(&servers.list[server as usize]);
            }
            for candidate in &servers.list {
                let share = if scheduler == Scheduler::Rr { candidate.weight.min(1) } else { candidate.weight };
                let off = candidate.active().abs_diff(u64::from(share * ROUNDS));
                prop_assert!(off <= slack, "{:?} {:?}: off by {}", scheduler, weights, off);
            }
        }
    }

    /// No input makes a scheduler panic or choose who is not there.
    #[test]
    fn any_servers_and_clients(
        servers in prop::collection::vec((prop_oneof![0u32..4, Just(65_535)], 0u32..3, 0u32..3, 0u32..4), 0..6),
        client in any::<u128>(),
        port in any::<u16>(),
        now in any::<u32>(),
    ) {
        // mh's table takes long to build in a debug build; it has tests of its own.
        for scheduler in all().filter(|s| !matches!(s, Scheduler::Mh(_))) {
            let list: Vec<_> = servers.iter().map(|&(w, a, i, _)| (w, a, i)).collect();
            let list = counted(&list);
            for (candidate, &(.., upper)) in list.iter().zip(&servers) {
                candidate.counts.connections.set_thresholds(upper, 0);
            }
            let address = std::net::Ipv6Addr::from(client).into();
            let request = Request { client: address, client_port: port, destination: address, now: Tick(now), worker: 0 };
            let candidates = Candidates::new(scheduler, list.clone());
            if let Some(server) = scheduler.choose(&State::new(scheduler), &candidates, &request) {
                prop_assert!(list[server as usize].is_available(), "{:?}", scheduler);
            }
        }
    }
}

/// The fragments of a datagram get one server, whatever else is scheduled in
/// between; datagrams get theirs by the weights, or as their connections would.
#[test]
fn a_number_has_one_server() {
    for scheduler in all() {
        let state = State::new(scheduler);
        let servers = candidates(scheduler, &[0, 1, 3]);
        let mut shares = [0; 3];
        for number in 5..13 {
            let request = from([10, 1, 0, number as u8], 9);
            let choose = || scheduler.choose_by_number(&state, &servers, &request, number);
            let first = choose();
            // Another connection in between.
            let _ = scheduler.choose(&state, &servers, &request);
            assert_eq!(choose(), first, "{scheduler:?}");
            first.into_iter().for_each(|server| shares[server as usize] += 1);
        }
        match scheduler {
            Scheduler::Fo => assert_eq!(shares, [0, 0, 8]),
            Scheduler::Rr | Scheduler::Wlc => assert_eq!(shares, [0, 2, 6]),
            _ => assert_eq!(shares[0], 0),
        }
        let none = candidates(scheduler, &[0, 0]);
        let request = from([10, 1, 0, 1], 9);
        assert_eq!(scheduler.choose_by_number(&state, &none, &request, 7), None);
    }
}
