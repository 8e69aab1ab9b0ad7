use dataplane::service::ServerCounts;
use dataplane::snapshot::Snapshot;
use dataplane::{conn, scheduler};

use super::*;
use crate::api::{Method, Protocol, Stats};

pub(super) fn id(address: &str) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: address.parse().unwrap() }
}

pub(super) fn service(address: &str, scheduler: &str) -> ServiceSpec {
    ServiceSpec::new(id(address), scheduler)
}

pub(super) fn server(address: &str, weight: u32) -> ServerSpec {
    ServerSpec {
        address: address.parse().unwrap(),
        method: Method::Dr,
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

pub(super) const NO_ROUTE: Resolve<'static> = &|_| Hop::NoRoute;
pub(super) const VIP: &str = "192.168.1.100:80";
pub(super) const RS1: &str = "192.168.1.31:80";
const RS2: &str = "192.168.1.32:80";

pub(super) fn registry() -> Registry {
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let mut registry = Registry::new(1, vec![], timeouts);
    registry.add_service(service(VIP, "rr")).unwrap();
    registry.add_server(&id(VIP), server(RS1, 1), NO_ROUTE).unwrap();
    registry.add_server(&id(VIP), server(RS2, 2), NO_ROUTE).unwrap();
    registry
}

pub(super) fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorCode {
    result.unwrap_err().code
}

/// Does what a worker would for one connection to server `number`.
pub(super) fn open(snapshot: &Snapshot, number: u32) -> Arc<ServerCounts> {
    let counts = Arc::clone(&snapshot.server(number).unwrap().counts);
    counts.connections.open(true);
    counts.scheduled(0);
    counts.packet(0, 60);
    counts
}

/// The server of a client's new connection.
fn choose(service: &Service) -> Option<u32> {
    let request = scheduler::Request {
        client: "192.168.1.12".parse().unwrap(),
        client_port: 5000,
        destination: IpAddr::from([192, 168, 1, 100]),
        now: dataplane::time::Tick::from_secs(1),
        worker: 0,
    };
    service.scheduler.choose(&service.state, &service.candidates, &request)
}

impl Registry {
    /// How many connections each server gets in one round of `wrr`, by address.
    pub(crate) fn shares(&mut self, id: &ServiceId) -> Vec<(SocketAddr, u32)> {
        let round: u32 =
            self.service_status(id).unwrap().servers.iter().map(|server| server.spec.weight).sum();
        let snapshot = self.snapshot();
        let service = snapshot.services.get(&key_of(id).unwrap()).unwrap();
        let mut shares = BTreeMap::new();
        for number in (0..round).map_while(|_| choose(service)) {
            *shares.entry(snapshot.server(number).unwrap().address).or_default() += 1;
        }
        shares.into_iter().collect()
    }
}

#[test]
fn a_failing_server_keeps_its_weight() {
    let mut registry = registry();
    let rs1: SocketAddr = RS1.parse().unwrap();
    let rs1_again = || server(RS1, 1);
    assert!(!registry.set_standing(&id(VIP), "9.9.9.9:80".parse().unwrap(), Standing::Up));
    for (standing, weight, deleted) in [
        (Standing::Up, 1, false),
        (Standing::Quiet, 0, false),
        (Standing::Out, 0, true),
        (Standing::Unchecked, 1, false),
    ] {
        let before = registry.servers().count();
        assert!(registry.set_standing(&id(VIP), rs1, standing));
        assert!(!registry.set_standing(&id(VIP), rs1, standing), "no news");
        let snapshot = registry.snapshot();
        let server = snapshot.server(0).unwrap();
        assert_eq!((server.address, server.weight, server.deleted), (rs1, weight, deleted));
        // An edit of something else does not bring it back.
        registry.edit_server(&id(VIP), rs1_again(), NO_ROUTE).unwrap();
        let snapshot = registry.snapshot();
        let server = snapshot.server(0).unwrap();
        assert_eq!((server.weight, server.deleted), (weight, deleted));
        assert_eq!(registry.servers().count(), before, "its neighbour stays resolved");
    }
    // Deleted and added again, it has no standing.
    registry.set_standing(&id(VIP), rs1, Standing::Quiet);
    registry.delete_server(&id(VIP), rs1).unwrap();
    registry.add_server(&id(VIP), rs1_again(), NO_ROUTE).unwrap();
    assert_eq!(registry.snapshot().server(0).unwrap().weight, 1);
    // Where every server is quiet or out, none takes connections.
    assert_eq!(registry.takes_connections(&id(VIP)), Some(true));
    registry.set_standing(&id(VIP), rs1, Standing::Quiet);
    registry.set_standing(&id(VIP), RS2.parse().unwrap(), Standing::Out);
    assert_eq!(registry.takes_connections(&id(VIP)), Some(false));
    assert_eq!(registry.takes_connections(&id("9.9.9.9:1")), None);
}

#[test]
fn newest_comes_first_as_in_the_kernel() {
    let mut registry = registry();
    registry.add_service(service("192.168.1.101:80", "wrr")).unwrap();
    let (statuses, next) = registry.statuses(None, 1000);
    assert_eq!(next, None);
    let ids: Vec<_> = statuses.iter().map(|s| s.spec.id).collect();
    assert_eq!(ids, [id("192.168.1.101:80"), id(VIP)]);
    let servers: Vec<_> = statuses[1].servers.iter().map(|s| s.spec.address).collect();
    assert_eq!(servers, [RS2.parse().unwrap(), RS1.parse().unwrap()]);
    let snapshot = registry.snapshot();
    assert!(snapshot.services.get(&key_of(&id(VIP)).unwrap()).is_some());
}

#[test]
fn the_kernels_errors() {
    let mut registry = registry();
    let other = id("9.9.9.9:1");
    assert_eq!(code(registry.add_service(service(VIP, "rr"))), ErrorCode::ServiceExists);
    assert_eq!(code(registry.edit_service(service("9.9.9.9:1", "rr"))), ErrorCode::NoSuchService);
    assert_eq!(code(registry.delete_service(&other)), ErrorCode::NoSuchService);
    assert_eq!(code(registry.zero(Some(&other))), ErrorCode::NoSuchService);
    assert_eq!(code(registry.service_status(&other)), ErrorCode::NoSuchService);
    let add = registry.add_server(&other, server(RS1, 1), NO_ROUTE);
    assert_eq!(code(add), ErrorCode::ServiceNotDefined);
    let add = registry.add_server(&id(VIP), server(RS1, 1), NO_ROUTE);
    assert_eq!(code(add), ErrorCode::ServerExists);
    let edit = registry.edit_server(&id(VIP), server("1.1.1.1:80", 1), NO_ROUTE);
    assert_eq!(code(edit), ErrorCode::NoSuchServer);
    let delete = registry.delete_server(&id(VIP), "1.1.1.1:80".parse().unwrap());
    assert_eq!(code(delete), ErrorCode::NoSuchServer);
    let add = registry.add_service(service("192.168.1.105:80", "foo"));
    assert_eq!(code(add), ErrorCode::NoSuchScheduler);
}

#[test]
fn what_is_impossible() {
    let mut registry = registry();
    for (address, weight, expected) in [
        ("0.0.0.0:80", 1, ErrorCode::InvalidArgument),
        ("224.0.0.1:80", 1, ErrorCode::InvalidArgument),
        ("[fd00::1]:80", 1, ErrorCode::InvalidArgument),
        ("192.168.1.33:80", 65_536, ErrorCode::InvalidArgument),
    ] {
        let add = registry.add_server(&id(VIP), server(address, weight), NO_ROUTE);
        assert_eq!(code(add), expected, "{address}");
    }
    // Nothing of that was applied.
    assert_eq!(registry.statuses(None, 1000).0.len(), 1);
    assert_eq!(registry.servers().count(), 2);
}

#[test]
fn a_dr_server_has_the_services_port() {
    let mut registry = registry();
    registry.add_server(&id(VIP), server("192.168.1.13:8080", 1), NO_ROUTE).unwrap();
    let status = registry.service_status(&id(VIP)).unwrap();
    assert_eq!(status.servers[0].spec.address, "192.168.1.13:80".parse().unwrap());
    // And is found by whatever port.
    registry.delete_server(&id(VIP), "192.168.1.13:0".parse().unwrap()).unwrap();
}

#[test]
fn a_deleted_server_comes_back_with_its_connections() {
    let mut registry = registry();
    let counts = open(&registry.snapshot(), 0);
    registry.delete_server(&id(VIP), RS1.parse().unwrap()).unwrap();
    let snapshot = registry.snapshot();
    assert!(snapshot.server(0).unwrap().deleted);
    assert!(!registry.empty_trash(snapshot.epoch), "a connection has it");

    registry.add_server(&id(VIP), server(RS1, 5), NO_ROUTE).unwrap();
    let snapshot = registry.snapshot();
    assert!(!snapshot.server(0).unwrap().deleted);
    let status = registry.service_status(&id(VIP)).unwrap();
    assert_eq!((status.servers[0].active, status.servers[0].stats.in_packets), (1, 1));
    assert_eq!(status.stats.connections, 1);
    counts.connections.close(true);
    assert!(!registry.empty_trash(u64::MAX), "it is in use");
}

#[test]
fn a_number_is_free_only_when_no_worker_can_use_it() {
    let mut registry = registry();
    let before = registry.snapshot().epoch;
    let counts = open(&registry.snapshot(), 0);
    counts.connections.close(true);
    registry.delete_server(&id(VIP), RS1.parse().unwrap()).unwrap();
    assert!(!registry.empty_trash(u64::MAX), "no snapshot has it deleted yet");
    let deleted = registry.snapshot().epoch;
    assert!(!registry.empty_trash(before), "a worker may still schedule to it");
    assert!(registry.empty_trash(deleted));
    assert!(registry.snapshot().server(0).is_none());
    // What it counted stays with the service.
    assert_eq!(registry.service_status(&id(VIP)).unwrap().stats.connections, 1);
    registry.add_server(&id(VIP), server("192.168.1.33:80", 1), NO_ROUTE).unwrap();
    assert_eq!(registry.server_address(0), Some("192.168.1.33:80".parse().unwrap()));
}

#[test]
fn a_service_made_again_begins_at_zero() {
    let mut registry = registry();
    open(&registry.snapshot(), 0);
    registry.delete_service(&id(VIP)).unwrap();
    registry.add_service(service(VIP, "rr")).unwrap();
    assert_eq!(registry.service_status(&id(VIP)).unwrap().stats, Stats::default());
    registry.add_server(&id(VIP), server(RS1, 1), NO_ROUTE).unwrap();
    let status = registry.service_status(&id(VIP)).unwrap();
    assert_eq!((status.stats.connections, status.servers[0].active), (0, 1));
    assert_eq!(status.servers[0].stats, Stats::default());
}

#[test]
fn flush_deletes_all() {
    let mut registry = registry();
    registry.flush();
    assert_eq!(registry.statuses(None, 1000), (vec![], None));
    let snapshot = registry.snapshot();
    assert!(snapshot.services.get(&key_of(&id(VIP)).unwrap()).is_none());
}

#[test]
fn zero_counts_from_now_on() {
    let mut registry = registry();
    let snapshot = registry.snapshot();
    open(&snapshot, 0);
    registry.zero(Some(&id(VIP))).unwrap();
    let status = registry.service_status(&id(VIP)).unwrap();
    assert_eq!((status.stats, status.servers[1].stats), (Stats::default(), Stats::default()));
    assert_eq!(status.servers[1].active, 1, "connections are no counter");
    open(&snapshot, 0);
    assert_eq!(registry.service_status(&id(VIP)).unwrap().stats.connections, 1);
}

#[test]
fn editing_keeps_the_connections() {
    let mut registry = registry();
    open(&registry.snapshot(), 0);
    registry.edit_server(&id(VIP), server(RS1, 0), NO_ROUTE).unwrap();
    registry.edit_service(service(VIP, "wrr")).unwrap();
    let status = registry.service_status(&id(VIP)).unwrap();
    assert_eq!(status.spec.scheduler, "wrr");
    assert_eq!((status.servers[1].spec.weight, status.servers[1].active), (0, 1));
    let snapshot = registry.snapshot();
    let service = snapshot.services.get(&key_of(&id(VIP)).unwrap()).unwrap();
    for _ in 0..4 {
        assert_eq!(choose(service), Some(1));
    }
}

#[test]
fn listings_go_on_by_cursor() {
    let mut registry = registry();
    for port in 1..=20 {
        registry.add_service(service(&format!("10.0.0.1:{port}"), "rr")).unwrap();
    }
    let mut cursor = None;
    let mut seen = Vec::new();
    loop {
        let (page, next) = registry.statuses(cursor, 4);
        assert!(!page.is_empty() && page.len() <= 4);
        seen.extend(page.into_iter().map(|s| s.spec.id));
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 21);
    assert_eq!((seen[0], seen[20]), (id("10.0.0.1:20"), id(VIP)));
}

#[test]
fn timeouts_keep_what_is_zero_and_reach_the_workers() {
    let mut registry = registry();
    registry.set_timeouts(Timeouts { tcp: 100, tcp_fin: 0, udp: 7 }).unwrap();
    assert_eq!(registry.timeouts(), Timeouts { tcp: 100, tcp_fin: 120, udp: 7 });
    let too_long = Timeouts { tcp: 0, tcp_fin: 0, udp: 2_678_401 };
    assert_eq!(code(registry.set_timeouts(too_long)), ErrorCode::InvalidArgument);
    let timeouts = registry.snapshot().timeouts;
    assert_eq!(timeouts.ticks(conn::State::Udp), 7 * dataplane::time::TICKS_PER_SECOND);
    assert_eq!(timeouts.ticks(conn::State::SynRecv), 60 * dataplane::time::TICKS_PER_SECOND);
}

#[test]
fn only_changed_ways_make_a_new_snapshot_worth_while() {
    let mut registry = registry();
    assert_eq!(registry.resolve(0..9, NO_ROUTE), []);
    let way: Resolve<'_> = &|server: &ServerSpec| {
        if server.address == RS1.parse().unwrap() { Hop::Unresolved } else { Hop::NoRoute }
    };
    let rs1 = RS1.parse::<SocketAddr>().unwrap().ip();
    assert_eq!(registry.resolve(0..9, way), [(rs1, Hop::Unresolved)]);
    assert_eq!(registry.resolve(0..9, way), []);
    assert_eq!(registry.snapshot().server(0).unwrap().hop, Hop::Unresolved);
}

/// Which servers ten connections go to.
fn scheduled(registry: &mut Registry) -> BTreeSet<u32> {
    let snapshot = registry.snapshot();
    let service = snapshot.services.get(&key_of(&id(VIP)).unwrap()).unwrap();
    (0..10).filter_map(|_| choose(service)).collect()
}

#[test]
fn a_new_server_takes_connections_once_its_neighbour_is_known() {
    let mut registry = registry();
    registry.add_server(&id(VIP), server("192.168.1.33:80", 1), &|_| Hop::Unresolved).unwrap();
    assert!(registry.is_fresh(&id(VIP), "192.168.1.33:0".parse().unwrap()));
    assert!(!registry.is_fresh(&id(VIP), RS1.parse().unwrap()));
    assert_eq!(scheduled(&mut registry), [0, 1].into());
    registry.resolve(0..9, &|_| Hop::Local);
    assert!(registry.is_fresh(&id(VIP), "192.168.1.33:80".parse().unwrap()), "for workers");
    assert_eq!(scheduled(&mut registry), [0, 1, 2].into());
    assert!(!registry.is_fresh(&id(VIP), "192.168.1.33:80".parse().unwrap()));
    // Once it was known, losing the neighbour does not take it out.
    registry.resolve(0..9, &|_| Hop::Unresolved);
    assert_eq!(scheduled(&mut registry), [0, 1, 2].into());
}

#[test]
fn a_server_that_is_never_resolved_is_scheduled_as_in_the_kernel() {
    let mut registry = registry();
    registry.add_server(&id(VIP), server("192.168.1.33:80", 1), &|_| Hop::Unresolved).unwrap();
    assert!(!registry.end_grace());
    assert_eq!(scheduled(&mut registry), [0, 1].into());
    assert!(registry.end_grace());
    assert_eq!(scheduled(&mut registry), [0, 1, 2].into());
    assert!(!registry.end_grace());
}

#[test]
fn a_new_server_that_goes_at_once_leaves_nothing_behind() {
    let mut registry = registry();
    let address = "192.168.1.33:80";
    registry.add_server(&id(VIP), server(address, 1), &|_| Hop::Unresolved).unwrap();
    registry.delete_service(&id(VIP)).unwrap();
    assert!(!registry.is_fresh(&id(VIP), address.parse().unwrap()));
    registry.resolve(0..9, &|_| Hop::Local);
}

#[test]
fn a_large_trash_is_emptied() {
    let mut registry = registry();
    for n in 0..400 {
        let address = format!("10.{}.{}.1:80", n / 250, n % 250);
        registry.add_service(service(&address, "rr")).unwrap();
        for last in 1..=10 {
            let server = server(&format!("192.168.1.{last}:80"), 1);
            registry.add_server(&id(&address), server.clone(), NO_ROUTE).unwrap();
            registry.delete_server(&id(&address), server.address).unwrap();
        }
    }
    registry.estimate_rates();
    registry.zero(None).unwrap();
    assert_eq!(registry.statuses(None, usize::MAX).0.len(), 401);
    let epoch = registry.snapshot().epoch;
    assert!(registry.empty_trash(epoch));
    assert!(registry.trash.is_empty());
}

#[test]
fn next_hops_go_on_by_cursor() {
    let mut registry = registry();
    for port in 1..=20 {
        let address = format!("10.0.0.1:{port}");
        registry.add_service(service(&address, "rr")).unwrap();
        for last in 1..=port % 4 {
            let server = server(&format!("192.168.1.{last}:80"), 1);
            registry.add_server(&id(&address), server, NO_ROUTE).unwrap();
        }
    }
    let all: Vec<_> = registry.servers().collect();
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let (page, next) = registry.servers_from(cursor, 5);
        assert!(page.len() <= 5);
        seen.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, all);
    assert_eq!(registry.servers_from(None, 1).0.len(), 3, "a service is not divided");
}

#[test]
fn an_address_with_a_scope_is_refused() {
    let mut registry = registry();
    let vip = "[fd00::100]:80";
    registry.add_service(service(vip, "rr")).unwrap();
    registry.add_server(&id(vip), server("[fe80::1]:80", 1), NO_ROUTE).unwrap();
    let add = registry.add_server(&id(vip), server("[fe80::1%2]:80", 1), NO_ROUTE);
    assert_eq!(code(add), ErrorCode::InvalidArgument);
    let add = registry.add_service(service("[fe80::2%2]:80", "rr"));
    assert_eq!(code(add), ErrorCode::InvalidArgument);
}

#[test]
fn every_scheduler_of_the_kernel_is_there() {
    let mut registry = registry();
    let names = ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf"];
    for name in names.into_iter().chain(["mh", "twos"]) {
        registry.edit_service(service(VIP, name)).unwrap();
        registry.edit_server(&id(VIP), server(RS1, 0), NO_ROUTE).unwrap();
        assert!(scheduled(&mut registry).is_subset(&[1].into()), "{name}");
        registry.edit_server(&id(VIP), server(RS1, 1), NO_ROUTE).unwrap();
        assert!(!scheduled(&mut registry).is_empty(), "{name}");
        assert_eq!(registry.service_status(&id(VIP)).unwrap().spec.scheduler, name);
    }
}

#[test]
fn flags_belong_to_their_scheduler() {
    let mut registry = registry();
    let flagged = |scheduler: &str, flags: &[&str]| ServiceSpec {
        scheduler_flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
        ..service(VIP, scheduler)
    };
    for (scheduler, flag) in [("sh", "mh-port"), ("mh", "sh-fallback"), ("rr", "sh-port")] {
        let edit = registry.edit_service(flagged(scheduler, &[flag]));
        assert_eq!(code(edit), ErrorCode::InvalidArgument, "{scheduler} {flag}");
    }
    registry.edit_service(flagged("rr", &["flag-1", "flag-3"])).unwrap();
    // The client's bucket is 76, which the newer of two servers has; see
    // dataplane's scheduler::hash.
    registry.edit_service(flagged("sh", &[])).unwrap();
    assert_eq!(scheduled(&mut registry), [1].into());
    registry.edit_server(&id(VIP), server(RS2, 0), NO_ROUTE).unwrap();
    assert_eq!(scheduled(&mut registry), [].into());
    registry.edit_service(flagged("sh", &["sh-fallback"])).unwrap();
    assert_eq!(scheduled(&mut registry), [0].into());
}

#[test]
fn mh_keeps_its_table_until_servers_or_weights_change() {
    let mut registry = registry();
    registry.edit_service(service(VIP, "mh")).unwrap();
    let before = scheduled(&mut registry);
    assert_eq!(before.len(), 1);
    // Another service does not touch it, nor do edits that change nothing.
    registry.add_service(service("192.168.1.101:80", "mh")).unwrap();
    registry.edit_server(&id(VIP), server(RS1, 1), NO_ROUTE).unwrap();
    assert_eq!(scheduled(&mut registry), before);
    // Whoever had the client is gone: the other gets it.
    let [number] = *before.iter().copied().collect::<Vec<_>>() else { panic!("{before:?}") };
    let address = registry.server_address(number).unwrap();
    registry.delete_server(&id(VIP), address).unwrap();
    assert_eq!(scheduled(&mut registry), [1 - number].into());
}

#[test]
fn thresholds_are_the_kernels() {
    let mut registry = registry();
    let limited = |address: &str, upper, lower| ServerSpec {
        upper_threshold: upper,
        lower_threshold: lower,
        ..server(address, 1)
    };
    for (upper, lower) in [(1, 2), (0, 1)] {
        let edit = registry.edit_server(&id(VIP), limited(RS1, upper, lower), NO_ROUTE);
        assert_eq!(code(edit), ErrorCode::InvalidArgument, "{upper} {lower}");
        let add = registry.add_server(&id(VIP), limited("192.168.1.33:80", upper, lower), NO_ROUTE);
        assert_eq!(code(add), ErrorCode::InvalidArgument, "{upper} {lower}");
    }
    registry.edit_server(&id(VIP), limited(RS1, 2, 1), NO_ROUTE).unwrap();
    let counts = open(&registry.snapshot(), 0);
    assert_eq!(scheduled(&mut registry), [0, 1].into());
    counts.connections.open(false);
    assert_eq!(scheduled(&mut registry), [1].into());
    counts.connections.close(true);
    assert_eq!(scheduled(&mut registry), [1].into(), "1 is not below the lower threshold");
    // Without a limit; and in the trash and back.
    registry.edit_server(&id(VIP), server(RS1, 1), NO_ROUTE).unwrap();
    assert_eq!(scheduled(&mut registry), [0, 1].into());
    registry.delete_server(&id(VIP), RS1.parse().unwrap()).unwrap();
    registry.add_server(&id(VIP), limited(RS1, 1, 0), NO_ROUTE).unwrap();
    assert_eq!(scheduled(&mut registry), [1].into());
    // A new server with thresholds from the start.
    registry.add_server(&id(VIP), limited("192.168.1.33:80", 1, 1), NO_ROUTE).unwrap();
    assert_eq!(scheduled(&mut registry), [1, 2].into());
    open(&registry.snapshot(), 2);
    assert_eq!(scheduled(&mut registry), [1].into());
    let status = registry.service_status(&id(VIP)).unwrap();
    assert_eq!(
        (status.servers[0].spec.upper_threshold, status.servers[0].spec.lower_threshold),
        (1, 1)
    );
}

/// In the kernel, the neighbour's queue holds the first packets to a new
/// server; here clients of its buckets are served by the others meanwhile.
#[test]
fn a_new_server_of_sh_refuses_nobody() {
    let mut registry = registry();
    registry.edit_service(service(VIP, "sh")).unwrap();
    // Newest first: 76 modulo 4 is 0, the new server's bucket.
    registry.edit_server(&id(VIP), server(RS2, 1), NO_ROUTE).unwrap();
    registry.add_server(&id(VIP), server("192.168.1.33:80", 1), NO_ROUTE).unwrap();
    registry.add_server(&id(VIP), server("192.168.1.34:80", 1), &|_| Hop::Unresolved).unwrap();
    assert_eq!(scheduled(&mut registry).len(), 1);
    registry.resolve(0..9, &|_| Hop::Local);
    assert_eq!(scheduled(&mut registry), [3].into());
}

#[test]
fn snapshots_share_the_ways_until_there_are_others() {
    let mut registry = registry();
    let fib = Arc::new(Fib::default());
    let port = Port { address4: Some(0xc000_0201), ..Port::new([2, 0, 0, 0, 0, 1], 1500) };
    registry.set_ways(Arc::clone(&fib), vec![port]);
    assert!(Arc::ptr_eq(&registry.snapshot().fib, &fib));
    registry.delete_server(&id(VIP), RS1.parse().unwrap()).unwrap();
    let snapshot = registry.snapshot();
    assert!(Arc::ptr_eq(&snapshot.fib, &fib));
    assert_eq!(snapshot.ports, [port]);
}
