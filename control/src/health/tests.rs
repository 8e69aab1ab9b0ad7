//! Checks, the registry that follows them, and what clients see of both.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use dataplane::service::Hop;
use socket2::{Domain, Socket, Type};

use super::plan::{Http, Kind, Via};
use super::*;
use crate::api::{Method, Protocol, ServerSpec, ServiceSpec, Timeouts};
use crate::ipvsadm::names::Names;
use crate::ipvsadm::output;

const RESOLVE: Resolve<'static> = &|_| Hop::Local;

fn service(address: &str) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: address.parse().unwrap() }
}

fn server(address: SocketAddr, weight: u32) -> ServerSpec {
    let method = Method::Nat;
    ServerSpec { address, method, weight, upper_threshold: 0, lower_threshold: 0 }
}

fn registry(services: &[ServiceId]) -> Registry {
    let mut registry = Registry::new(1, Vec::new(), Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
    for id in services {
        registry.add_service(ServiceSpec::new(*id, "wrr")).unwrap();
    }
    registry
}

fn check() -> Check {
    Check {
        kind: Kind::Tcp,
        port: None,
        via: Via::Server,
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(10),
        rise: 2,
        fall: 2,
        jitter: 0,
        initial: State::Up,
        on_failure: OnFailure::Weight0,
    }
}

/// A listener, and its address.
fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Listens there again. What was accepted may be in TIME_WAIT.
fn listen_again(address: SocketAddr) -> TcpListener {
    // std sets SO_REUSEADDR.
    TcpListener::bind(address).unwrap()
}

/// Health with a registry, as the daemon has them.
struct Director {
    health: Health,
    registry: Registry,
    woken: mpsc::Receiver<()>,
}

impl Director {
    fn new(registry: Registry) -> Self {
        let (sender, woken) = mpsc::channel();
        let health =
            Health::new(Arc::new(move || sender.send(()).unwrap_or_default()), Arc::default());
        Self { health, registry, woken }
    }

    fn configure(&mut self, plans: impl IntoIterator<Item = (ServiceId, Plan)>) -> bool {
        self.health.configure(plans.into_iter().collect(), &mut self.registry, RESOLVE)
    }

    /// Waits for the next change, which the registry then follows.
    fn next_change(&mut self) {
        self.woken.recv_timeout(Duration::from_secs(60)).expect("a change");
        self.health.take_changes(&mut self.registry);
    }

    /// What `-Ln` and `-Sn` show of servers.
    fn listed(&self) -> (Vec<(String, u32)>, Vec<String>) {
        let statuses = self.registry.statuses(None, usize::MAX).0;
        let servers = statuses.iter().flat_map(|status| &status.servers);
        let listed = servers.map(|s| (s.spec.address.to_string(), s.spec.weight)).collect();
        let saved = output::save(&statuses, &mut Names::numeric());
        let saved = saved.lines().filter(|line| line.starts_with("-a"));
        (listed, saved.map(|line| line.rsplit_once("-r ").unwrap().1.to_owned()).collect())
    }

    /// The connections of each server in one round of the scheduler.
    fn shares(&mut self, id: &ServiceId) -> Vec<(SocketAddr, u32)> {
        self.registry.shares(id)
    }
}

#[test]
fn a_failing_server_has_weight_0_and_keeps_the_one_it_was_given() {
    let id = service("192.0.2.100:80");
    let mut director = Director::new(registry(&[id]));
    let ((first, a), (_second, b)) = (listen(), listen());
    for (address, weight) in [(a, 3), (b, 5)] {
        director.registry.add_server(&id, server(address, weight), RESOLVE).unwrap();
    }
    director.configure([(id, Plan { check: Some(check()), ..Plan::default() })]);
    let rows = |weight: u32| vec![(b.to_string(), 5), (a.to_string(), weight)];
    let saved = vec![format!("{b} -m -w 5"), format!("{a} -m -w 3")];
    assert_eq!(director.listed(), (rows(3), saved.clone()));

    drop(first);
    director.next_change();
    assert_eq!(director.listed(), (rows(0), saved.clone()));
    assert_eq!(director.shares(&id), [(b, 5)]);
    let status = director.registry.service_status(&id).unwrap();
    let health = status.servers[1].health.unwrap();
    assert_eq!((health.up, health.configured_weight, health.sorry_server), (false, 3, false));
    assert!(status.servers[0].health.unwrap().up);
    let kept: Vec<_> = director.registry.saved(0, usize::MAX).0.services[0]
        .servers
        .iter()
        .map(|s| s.weight)
        .collect();
    assert_eq!(kept, [3, 5], "what survives a crash");

    // An operator's new weight counts when the server is back.
    director.registry.edit_server(&id, server(a, 7), RESOLVE).unwrap();
    assert_eq!(director.listed().0, rows(0));
    let _first = listen_again(a);
    director.next_change();
    assert_eq!(director.listed().0, rows(7));
    let changes = director.health.changes();
    let shown: Vec<_> = changes.iter().map(|c| (c.server, c.up, c.in_a_row)).collect();
    assert_eq!(shown, [(a, true, 2), (a, false, 2)]);
    assert_eq!(changes[1].failure.as_deref(), Some("Connection refused"));
    assert_eq!(changes[0].failure, None);
}

#[test]
fn a_removed_server_comes_back() {
    let id = service("192.0.2.100:80");
    let mut director = Director::new(registry(&[id]));
    let ((first, a), (_second, b)) = (listen(), listen());
    for address in [a, b] {
        director.registry.add_server(&id, server(address, 1), RESOLVE).unwrap();
    }
    let check = Check { on_failure: OnFailure::Remove, ..check() };
    director.configure([(id, Plan { check: Some(check), ..Plan::default() })]);
    drop(first);
    director.next_change();
    assert_eq!(director.listed().0, [(b.to_string(), 1)]);
    assert_eq!(director.shares(&id), [(b, 1)]);
    assert_eq!(director.registry.saved(0, usize::MAX).0.services[0].servers.len(), 2);
    let (checks, _) = director.health.checks(None, 10);
    let row = checks.iter().find(|check| check.server == a).unwrap();
    assert_eq!((row.up, row.kind.as_str(), row.on_failure.as_str()), (false, "tcp", "remove"));
    assert_eq!(row.last.as_ref().unwrap().failure.as_deref(), Some("Connection refused"));
    let _first = listen_again(a);
    director.next_change();
    assert_eq!(director.shares(&id), both(a, b));

    // One that is out can be deleted, and its check ends with it.
    director.registry.delete_server(&id, b).unwrap();
    director.health.follow([&id], &mut director.registry, RESOLVE);
    assert_eq!(director.health.checks(None, 10).0.len(), 1);
}

#[test]
fn a_sorry_server_stands_in_and_a_vip_is_withdrawn() {
    let (id, other) = (service("192.0.2.100:80"), service("192.0.2.100:443"));
    let mut director = Director::new(registry(&[id, other]));
    let ((first, a), (second, b)) = (listen(), listen());
    director.registry.add_server(&id, server(a, 2), RESOLVE).unwrap();
    director.registry.add_server(&other, server(b, 2), RESOLVE).unwrap();
    let sorry: SocketAddr = "192.0.2.9:80".parse().unwrap();
    let plan = Plan {
        check: Some(Check { on_failure: OnFailure::Remove, ..check() }),
        sorry_server: Some(server(sorry, 1)),
        withdraw_vip: true,
        ..Plan::default()
    };
    let plain = Plan { sorry_server: None, ..plan.clone() };
    director.configure([(id, plan), (other, plain)]);
    assert_eq!(director.shares(&id), [(a, 2)]);
    assert!(director.health.withdrawn().is_empty());
    let message = director.registry.add_server(&id, server(sorry, 1), RESOLVE).unwrap_err();
    assert_eq!(message.code, crate::api::ErrorCode::ServerExists);

    drop(first);
    director.next_change();
    assert_eq!(director.shares(&id), [(sorry, 1)]);
    assert_eq!(director.listed().0, [(b.to_string(), 2), (sorry.to_string(), 1)]);
    assert_eq!(
        director.listed().1,
        [format!("{b} -m -w 2")],
        "a restore must not make it a server"
    );
    assert!(director.registry.delete_server(&id, sorry).is_err());
    assert!(director.health.withdrawn().is_empty(), "the other service still has its server");

    drop(second);
    director.next_change();
    assert_eq!(director.health.withdrawn().iter().collect::<Vec<_>>(), [&id_address(&id)]);
    assert_eq!(director.registry.saved(0, usize::MAX).0.services[0].servers, [server(a, 2)]);

    // A server by hand, too, sends the sorry server home.
    let (_third, c) = listen();
    director.registry.add_server(&id, server(c, 1), RESOLVE).unwrap();
    director.health.follow([&id], &mut director.registry, RESOLVE);
    assert_eq!(director.shares(&id), [(c, 1)]);
    assert!(director.health.withdrawn().is_empty());
    director.registry.delete_server(&id, c).unwrap();
    director.health.follow([&id], &mut director.registry, RESOLVE);
    assert_eq!(director.health.withdrawn().len(), 1);

    let _first = listen_again(a);
    director.next_change();
    assert_eq!(director.shares(&id), [(a, 2)]);
    assert!(director.health.withdrawn().is_empty());
    // Without services nothing is left to withdraw.
    director.registry.flush();
    director.health.follow_all(&mut director.registry, RESOLVE);
    assert!(director.health.checks(None, 10).0.is_empty());
    assert!(director.health.withdrawn().is_empty());
}

/// Both with weight 1, in the order of their addresses.
fn both(a: SocketAddr, b: SocketAddr) -> [(SocketAddr, u32); 2] {
    [(a.min(b), 1), (a.max(b), 1)]
}

fn id_address(id: &ServiceId) -> IpAddr {
    match id {
        ServiceId::Address { address, .. } => address.ip(),
        ServiceId::Fwmark { .. } => panic!("no address"),
    }
}

/// Which checks run, by id and server.
fn running(health: &Health) -> Vec<(u64, SocketAddr)> {
    health.checks.iter().map(|(&id, checked)| (id, checked.target.server)).collect()
}

#[test]
fn only_what_differs_begins_anew() {
    let (id, other) = (service("192.0.2.100:80"), service("192.0.2.101:80"));
    let mut director = Director::new(registry(&[id, other]));
    // Nothing listens there, and no probe comes in this test.
    let [a, b, c] = ["192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"].map(|a| a.parse().unwrap());
    for address in [a, b] {
        director.registry.add_server(&id, server(address, 1), RESOLVE).unwrap();
    }
    director.registry.add_server(&other, server(c, 1), RESOLVE).unwrap();
    let slow = Check { interval: Duration::from_secs(3_600), ..check() };
    let down = Check { initial: State::Down, ..slow.clone() };
    let plan = Plan { check: Some(slow.clone()), ..Plan::default() };
    assert!(director.configure([(id, plan.clone())]), "it is news that they are up");
    assert_eq!(running(&director.health), [(0, b), (1, a)]);
    assert!(!director.configure([(id, plan.clone())]));
    assert_eq!(running(&director.health), [(0, b), (1, a)]);

    // One of its own for a server, one for a service more.
    let own = Plan { servers: [(a, Some(down.clone()))].into(), ..plan.clone() };
    let plans = [(id, own.clone()), (other, Plan { check: Some(down.clone()), ..Plan::default() })];
    assert!(director.configure(plans.clone()));
    assert_eq!(running(&director.health), [(0, b), (2, a), (3, c)]);
    // What ran goes on as it stood; what is new stands as the check says.
    assert_eq!(director.shares(&id), both(a, b));
    assert_eq!(director.shares(&other), []);

    // A server's exception, a service's end.
    let none = Plan { servers: [(a, None)].into(), ..plan };
    director.configure([(id, none)]);
    assert_eq!(running(&director.health), [(0, b)]);
    assert_eq!(director.shares(&other), [(c, 1)], "unchecked, it has its weight again");

    // Servers that come at run time are checked as the service says.
    director.configure(plans);
    director.registry.delete_server(&other, c).unwrap();
    director.registry.add_server(&other, server(c, 4), RESOLVE).unwrap();
    director.health.follow([&other], &mut director.registry, RESOLVE);
    assert_eq!(director.shares(&other), []);
    assert_eq!(director.health.checks(None, 2).1, Some(running(&director.health)[2].0));
}

/// A check by the VIP begins anew when packets get to its server in another way,
/// and no other check does.
#[test]
fn a_check_by_the_vip_follows_the_method() {
    use crate::api::Tunnel;
    use dataplane::service::Encapsulation;
    let id = service("192.0.2.100:80");
    let address: SocketAddr = "192.0.2.1:80".parse().unwrap();
    let with = |method, weight| ServerSpec { method, ..server(address, weight) };
    for via in [Via::Vip, Via::Server] {
        let mut director = Director::new(registry(&[id]));
        director.registry.add_server(&id, with(Method::Dr, 1), RESOLVE).unwrap();
        let slow = Check { interval: Duration::from_secs(3_600), via, ..check() };
        director.configure([(id, Plan { check: Some(slow), ..Plan::default() })]);
        let ways = [
            (with(Method::Dr, 5), 0, Some(ByVip::Plain)),
            (with(Method::Tun(Tunnel::Ipip), 5), 1, Some(ByVip::Tunnel(Encapsulation::Ipip))),
            (with(Method::Nat, 5), 2, None),
        ];
        for (spec, number, by_vip) in ways {
            director.registry.edit_server(&id, spec, RESOLVE).unwrap();
            director.health.follow_servers([&(id, address)], &mut director.registry);
            let (&running, checked) = director.health.checks.iter().next().unwrap();
            let wanted = if via == Via::Vip { (number, by_vip) } else { (0, None) };
            assert_eq!((running, checked.target.by_vip), wanted, "{via:?}");
        }
    }
}

#[test]
fn thousands_of_servers_are_all_probed() {
    const SERVERS: u32 = 5_000;
    // Bursts of probes would find the queue of an ordinary listener full, and
    // wait for the second SYN.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(4_096).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let accepted = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    std::thread::spawn(move || {
        for _stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let ids: Vec<_> = (0..50).map(|n| service(&format!("192.0.2.{n}:80"))).collect();
    let mut director = Director::new(registry(&ids));
    for n in 0..SERVERS {
        // All of 127.0.0.0/8 is this machine; only one address of it listens.
        let ip = std::net::Ipv4Addr::from(0x7f00_0001 + if n % 2 == 0 { 0 } else { n });
        let id = &ids[(n / 100) as usize];
        let own = 10_000 + (n % 100) as u16;
        director.registry.add_server(id, server((ip, own).into(), 1), RESOLVE).unwrap();
    }
    let check = Check {
        port: Some(address.port()),
        interval: Duration::from_millis(1_500),
        fall: 1,
        ..check()
    };
    let plan = Plan { check: Some(check), ..Plan::default() };
    director.configure(ids.iter().map(|id| (*id, plan.clone())));
    let all = |health: &Health| health.checks(None, usize::MAX).0;
    while all(&director.health).iter().any(|check| check.probes == 0) {
        std::thread::sleep(Duration::from_millis(100));
        director.health.take_changes(&mut director.registry);
    }
    let checks = all(&director.health);
    assert_eq!(checks.len(), SERVERS as usize);
    for check in checks {
        let listens = check.server.ip() == address.ip();
        assert_eq!(check.up, listens, "{check:?}");
        assert_eq!(check.failures, if listens { 0 } else { check.probes }, "{check:?}");
    }
    assert!(accepted.load(Ordering::Relaxed) >= SERVERS as usize / 2);
}

/// A server that takes connections and never answers keeps nobody waiting.
#[test]
fn a_hanging_server_delays_no_other_check() {
    let id = service("192.0.2.100:80");
    let mut director = Director::new(registry(&[id]));
    let ((_hangs, a), (good, b)) = (listen(), listen());
    for address in [a, b] {
        director.registry.add_server(&id, server(address, 1), RESOLVE).unwrap();
    }
    let http = Http {
        tls: None,
        method: "GET".into(),
        path: "/".into(),
        host: None,
        status: vec![200..=299],
        body: None,
    };
    let hour = Duration::from_secs(3_600);
    let hangs =
        Check { kind: Kind::Http(http), timeout: hour, interval: check().interval, ..check() };
    let servers = [(a, Some(hangs))].into();
    director.configure([(id, Plan { check: Some(check()), servers, ..Plan::default() })]);
    drop(good);
    director.next_change();
    assert_eq!(director.shares(&id), [(a, 1)]);
    // Dropping ends the thread, although a probe is under way.
    drop(director);
}
