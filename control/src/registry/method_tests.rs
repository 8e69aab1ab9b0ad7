//! Forwarding methods, options and kinds of services as workers get them.

use dataplane::packet::{self, Family};
use dataplane::service::{self, ClientAddress, Encapsulation, GueChecksum, Local, NatSource};
use dataplane::snapshot::Snapshot;
use dataplane::time::TICKS_PER_SECOND;

use super::tests::{NO_ROUTE, RS1, VIP, code, id, open, registry, server, service};
use super::*;
use crate::api::{self, Method, Persistence, Protocol, Tunnel, TunnelChecksum};

const OTHER: &str = "192.168.1.33:8080";

fn with(method: Method, address: &str) -> ServerSpec {
    ServerSpec { method, ..server(address, 1) }
}

fn persistent(id: ServiceId) -> ServiceSpec {
    let persistence = Some(Persistence { timeout: 360, prefix: 24, engine: None });
    ServiceSpec { persistence, ..ServiceSpec::new(id, "rr") }
}

fn mark(mark: u32, ipv6: bool) -> ServiceId {
    ServiceId::Fwmark { mark, ipv6 }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn locals(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|a| ip(a)).collect()
}

/// The newest server of a service as workers have it.
fn newest(registry: &mut Registry, id: &ServiceId) -> Server {
    let number =
        registry.services[&registry.by_key[&key_of(id).unwrap()]].servers.last().copied().unwrap();
    (**registry.snapshot().server(number).unwrap()).clone()
}

fn published(registry: &mut Registry, id: &ServiceId) -> Service {
    let snapshot = registry.snapshot();
    (**snapshot.services.get(&key_of(id).unwrap()).unwrap()).clone()
}

#[test]
fn every_method_reaches_the_workers_with_its_port() {
    use service::Method as Published;
    let gue = |checksum| Method::Tun(Tunnel::Gue { port: 6080, checksum });
    let gre = |checksum| Method::Tun(Tunnel::Gre { checksum });
    let sent_gue = |checksum| Published::Tun(Encapsulation::Gue { port: 6080, checksum });
    let sent_gre = |checksum| Published::Tun(Encapsulation::Gre { checksum });
    let spec = ServiceSpec { local_addresses: locals(&["10.0.0.1"]), ..service(VIP, "rr") };
    for (method, given, sent, port) in [
        (Method::Dr, OTHER, Published::Dr, 80),
        (Method::Nat, OTHER, Published::Nat, 8080),
        (Method::Nat, "192.168.1.33:0", Published::Nat, 80),
        (Method::Fullnat, OTHER, Published::Fullnat, 8080),
        (Method::Tun(Tunnel::Ipip), OTHER, Published::Tun(Encapsulation::Ipip), 80),
        (gue(TunnelChecksum::None), OTHER, sent_gue(GueChecksum::None), 80),
        (gue(TunnelChecksum::Full), OTHER, sent_gue(GueChecksum::Full), 80),
        (gue(TunnelChecksum::Remote), OTHER, sent_gue(GueChecksum::Remote), 80),
        (gre(TunnelChecksum::None), OTHER, sent_gre(false), 80),
        (gre(TunnelChecksum::Full), "[fd00::33]:8080", sent_gre(true), 80),
    ] {
        let mut registry = registry();
        registry.edit_service(spec.clone()).unwrap();
        registry.add_server(&id(VIP), with(method.clone(), given), NO_ROUTE).unwrap();
        let server = newest(&mut registry, &id(VIP));
        assert_eq!((server.method, server.address.port()), (sent, port), "{method:?}");
        let listed = &registry.service_status(&id(VIP)).unwrap().servers[0].spec;
        assert_eq!((&listed.method, listed.address), (&method, server.address));
    }
}

#[test]
fn impossible_methods_are_refused() {
    let mut registry = registry();
    let remote = Method::Tun(Tunnel::Gre { checksum: TunnelChecksum::Remote });
    let no_port = Method::Tun(Tunnel::Gue { port: 0, checksum: TunnelChecksum::None });
    for (method, address) in [
        (Method::Dr, "[fd00::33]:80"),
        (Method::Nat, "[fd00::33]:80"),
        (remote, OTHER),
        (no_port, OTHER),
        (Method::Fullnat, OTHER),
    ] {
        let add = registry.add_server(&id(VIP), with(method.clone(), address), NO_ROUTE);
        assert_eq!(code(add), ErrorCode::InvalidArgument, "{method:?}");
    }
    // FULLNAT needs an address of the server's own family.
    let spec = ServiceSpec { local_addresses: locals(&["fd00::1"]), ..service(VIP, "rr") };
    registry.edit_service(spec.clone()).unwrap();
    let refused = registry.add_server(&id(VIP), with(Method::Fullnat, OTHER), NO_ROUTE);
    assert_eq!(
        refused.unwrap_err().message,
        "FullNat server 192.168.1.33 needs an IPv4 local address of its service: edit the service with --local-address"
    );
    registry.add_server(&id(VIP), with(Method::Fullnat, "[fd00::33]:80"), NO_ROUTE).unwrap();
    // And keeps it.
    let without = registry.edit_service(service(VIP, "rr"));
    assert_eq!(code(without), ErrorCode::InvalidArgument);
    let number = registry.snapshot().locals.len();
    assert_eq!((number, published(&mut registry, &id(VIP)).locals.len()), (1, 1));
}

#[test]
fn the_port_names_a_server_only_where_it_means_something() {
    let mut registry = registry();
    registry.add_server(&id(VIP), with(Method::Nat, OTHER), NO_ROUTE).unwrap();
    registry.add_server(&id(VIP), with(Method::Nat, "192.168.1.33:8081"), NO_ROUTE).unwrap();
    let again = registry.add_server(&id(VIP), with(Method::Nat, OTHER), NO_ROUTE);
    assert_eq!(code(again), ErrorCode::ServerExists);
    // The service's port, which 0 stands for, is none of the two.
    for address in ["192.168.1.33:0", "192.168.1.33:80", "192.168.1.33:8082"] {
        let delete = registry.delete_server(&id(VIP), address.parse().unwrap());
        assert_eq!(code(delete), ErrorCode::NoSuchServer, "{address}");
    }
    registry.delete_server(&id(VIP), OTHER.parse().unwrap()).unwrap();
    assert_eq!(registry.service_status(&id(VIP)).unwrap().servers.len(), 3);
    // A DR server is found by its address.
    registry.delete_server(&id(VIP), "192.168.1.31:8080".parse().unwrap()).unwrap();
    assert_eq!(registry.service_status(&id(VIP)).unwrap().servers.len(), 2);
}

#[test]
fn an_edit_changes_the_method_at_once() {
    let mut registry = registry();
    open(&registry.snapshot(), 0);
    registry.edit_server(&id(VIP), with(Method::Nat, RS1), NO_ROUTE).unwrap();
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.server(0).unwrap().method, service::Method::Nat);
    assert!(!snapshot.nat_sources.is_empty());
    assert_eq!(registry.service_status(&id(VIP)).unwrap().servers[1].active, 1);
    registry.edit_server(&id(VIP), with(Method::Dr, RS1), NO_ROUTE).unwrap();
    // Connections from before keep their method, and their replies come still.
    assert!(!registry.snapshot().nat_sources.is_empty());
    // From the trash, too.
    registry.delete_server(&id(VIP), RS1.parse().unwrap()).unwrap();
    registry.add_server(&id(VIP), with(Method::Tun(Tunnel::Ipip), RS1), NO_ROUTE).unwrap();
    let sent = service::Method::Tun(Encapsulation::Ipip);
    assert_eq!(registry.snapshot().server(0).unwrap().method, sent);
}

#[test]
fn options_reach_the_workers_and_an_edit_resets_them() {
    let mut registry = registry();
    let spec = ServiceSpec {
        local_addresses: locals(&["10.0.0.1", "fd00::1"]),
        client_address: api::ClientAddress::Toa,
        mss: Some(1400),
        ..persistent(id(VIP))
    };
    registry.edit_service(spec).unwrap();
    registry.add_server(&id(VIP), with(Method::Fullnat, OTHER), NO_ROUTE).unwrap();
    let sent = published(&mut registry, &id(VIP));
    let timeout = 360 * TICKS_PER_SECOND;
    assert_eq!(sent.persistence, Some(service::Persistence { timeout, prefix: 24 }));
    let wanted =
        [Local { number: 0, address: ip("10.0.0.1") }, Local { number: 1, address: ip("fd00::1") }];
    assert_eq!(sent.locals[..], wanted);
    let fullnat = newest(&mut registry, &id(VIP));
    assert_eq!(fullnat.client_address, ClientAddress::Toa);
    assert_eq!(fullnat.mss, Some(1400));
    let dr = (**registry.snapshot().server(0).unwrap()).clone();
    assert_eq!((dr.client_address, dr.mss), (ClientAddress::None, Some(1400)));

    let fewer = ServiceSpec { local_addresses: locals(&["10.0.0.1"]), ..service(VIP, "rr") };
    registry.edit_service(fewer).unwrap();
    let sent = published(&mut registry, &id(VIP));
    assert_eq!((sent.persistence, &sent.locals[..]), (None, &wanted[..1]));
    let fullnat = newest(&mut registry, &id(VIP));
    assert_eq!((fullnat.client_address, fullnat.mss), (ClientAddress::None, None));
    // The number of an address outlives its use.
    assert_eq!(registry.local_addresses(), [ip("10.0.0.1")].into());
    assert_eq!(registry.snapshot().locals[..], locals(&["10.0.0.1", "fd00::1"]));
    registry.delete_service(&id(VIP)).unwrap();
    assert!(registry.local_addresses().is_empty());
    let again = ServiceSpec { local_addresses: locals(&["fd00::1"]), ..service(VIP, "rr") };
    registry.add_service(again).unwrap();
    assert_eq!(published(&mut registry, &id(VIP)).locals[..], wanted[1..]);
}

#[test]
fn impossible_options_are_refused() {
    let udp = ServiceId::Address { protocol: Protocol::Udp, address: VIP.parse().unwrap() };
    let sctp = ServiceId::Address { protocol: Protocol::Sctp, address: VIP.parse().unwrap() };
    let tcp = || service(VIP, "rr");
    let prefix = |id, prefix| ServiceSpec {
        persistence: Some(Persistence { timeout: 1, prefix, engine: None }),
        ..ServiceSpec::new(id, "rr")
    };
    let timeout = |timeout| ServiceSpec {
        persistence: Some(Persistence { timeout, prefix: 32, engine: None }),
        ..tcp()
    };
    for (spec, message) in [
        (service("1.1.1.1:0", "rr"), "port 0 is for persistent services only"),
        (
            ServiceSpec { one_packet: true, ..tcp() },
            "one-packet scheduling is for UDP and firewall marks only",
        ),
        (
            ServiceSpec { one_packet: true, ..ServiceSpec::new(sctp, "rr") },
            "one-packet scheduling is for UDP and firewall marks only",
        ),
        (
            ServiceSpec {
                client_address: api::ClientAddress::Proxy,
                ..ServiceSpec::new(udp, "rr")
            },
            "only TCP services can tell servers the client's address",
        ),
        (ServiceSpec { mss: Some(1400), ..ServiceSpec::new(udp, "rr") }, "only TCP has an MSS"),
        (
            ServiceSpec { take_up: true, ..ServiceSpec::new(udp, "mh") },
            "only TCP connections can be taken up (--take-up)",
        ),
        (
            ServiceSpec { take_up: true, ..tcp() },
            "connections are taken up (--take-up) under the scheduler mh only, by which every \
             director finds the same server",
        ),
        (
            ServiceSpec { take_up: true, scheduler: "mh".into(), ..timeout(60) },
            "connections cannot be taken up (--take-up) in a persistent service: other directors \
             know nothing of its templates",
        ),
        (ServiceSpec { mss: Some(87), ..tcp() }, "MSS 87 is not 88 to 65495, or 0 for none"),
        (
            ServiceSpec { local_addresses: locals(&["224.0.0.1"]), ..tcp() },
            "224.0.0.1 is not a unicast address",
        ),
        (
            ServiceSpec { local_addresses: locals(&["10.0.0.1", "10.0.0.1"]), ..tcp() },
            "local address 10.0.0.1 is given twice",
        ),
        (prefix(udp, 33), "persistence prefix 33 is not 0 to 32"),
        (prefix(mark(1, true), 0), "persistence prefix 0 is not 1 to 128"),
        (timeout(0), "persistence 0 is not 1 to 2678400 s"),
        (timeout(2_678_401), "persistence 2678401 is not 1 to 2678400 s"),
        (ServiceSpec::new(mark(0, false), "rr"), "mark 0 is that of packets without a mark"),
    ] {
        let mut registry = Registry::new(1, vec![], Timeouts { tcp: 1, tcp_fin: 1, udp: 1 });
        let error = registry.add_service(spec.clone()).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (ErrorCode::InvalidArgument, message));
        assert_eq!(registry.statuses(None, 9).0.len(), 0, "{spec:?}");
    }
    let engine = |name: &str| ServiceSpec {
        persistence: Some(Persistence { timeout: 1, prefix: 32, engine: Some(name.into()) }),
        ..ServiceSpec::new(udp, "rr")
    };
    let mut registry = registry();
    assert_eq!(code(registry.add_service(engine("sip"))), ErrorCode::Unsupported);
    assert_eq!(code(registry.add_service(engine("pip"))), ErrorCode::NoSuchScheduler);
    let ops = ServiceSpec {
        one_packet: true,
        local_addresses: locals(&["10.0.0.1"]),
        ..ServiceSpec::new(udp, "rr")
    };
    registry.add_service(ops).unwrap();
    assert!(published(&mut registry, &udp).one_packet);
    let add = registry.add_server(&udp, with(Method::Fullnat, OTHER), NO_ROUTE);
    assert_eq!(code(add), ErrorCode::InvalidArgument);
}

#[test]
fn connections_of_servers_that_answer_past_the_director_are_taken_up() {
    let taken_up = || ServiceSpec {
        take_up: true,
        local_addresses: locals(&["10.0.0.1"]),
        ..service(VIP, "mh")
    };
    let message = "a service that takes connections up (--take-up) has servers under Route (-g) \
                   and Tunnel (-i): what others send needs an entry of the director that opened \
                   the connection";
    let mut registry = registry();
    registry.flush();
    registry.add_service(taken_up()).unwrap();
    for method in [Method::Nat, Method::Fullnat] {
        let refused = registry.add_server(&id(VIP), with(method.clone(), OTHER), NO_ROUTE);
        assert_eq!(refused.unwrap_err().message, message);
        let plain = ServiceSpec { take_up: false, ..taken_up() };
        registry.edit_service(plain.clone()).unwrap();
        assert!(!published(&mut registry, &id(VIP)).take_up);
        registry.add_server(&id(VIP), with(method.clone(), OTHER), NO_ROUTE).unwrap();
        assert_eq!(registry.edit_service(taken_up()).unwrap_err().message, message);
        registry.flush();
        registry.add_service(taken_up()).unwrap();
    }
    registry.add_server(&id(VIP), with(Method::Dr, OTHER), NO_ROUTE).unwrap();
    registry
        .add_server(&id(VIP), with(Method::Tun(Tunnel::Ipip), "[fd00::1]:80"), NO_ROUTE)
        .unwrap();
    assert!(published(&mut registry, &id(VIP)).take_up);
    let marked = ServiceSpec { take_up: true, ..ServiceSpec::new(mark(7, false), "mh") };
    registry.add_service(marked).unwrap();
}

#[test]
fn services_of_marks_and_of_every_port_leave_ports_alone() {
    let mut registry = registry();
    let (plain, wide) = (mark(7, false), id("192.168.1.100:0"));
    registry.add_service(ServiceSpec::new(plain, "rr")).unwrap();
    registry.add_service(persistent(wide)).unwrap();
    registry.add_service(ServiceSpec::new(mark(7, true), "rr")).unwrap();
    let key = ServiceKey::Fwmark { mark: 7, family: Family::V4 };
    assert_eq!(published(&mut registry, &plain).key, key);
    for (id, method, given, sent) in [
        (plain, Method::Nat, "10.0.0.9:0", 0),
        (plain, Method::Nat, "10.0.0.9:8080", 8080),
        (plain, Method::Dr, "10.0.0.9:81", 81),
        (wide, Method::Nat, "10.0.0.9:0", 0),
        (wide, Method::Nat, "10.0.0.9:8080", 0),
        (wide, Method::Dr, "10.0.0.10:81", 0),
    ] {
        registry.add_server(&id, with(method, given), NO_ROUTE).unwrap();
        assert_eq!(newest(&mut registry, &id).address.port(), sent, "{given}");
    }
    // What is listed is what names the server.
    let listed = registry.service_status(&wide).unwrap();
    let ports: Vec<_> = listed.servers.iter().map(|s| s.spec.address.port()).collect();
    assert_eq!(ports, [0, 8080, 0]);
    // With persistence a mark's templates stand for all ports.
    registry.edit_service(persistent(plain)).unwrap();
    assert_eq!(newest(&mut registry, &plain).address.port(), 0);
}

#[test]
fn replies_of_nat_servers_are_known_by_their_source() {
    let mut registry = registry();
    let sctp = ServiceId::Address { protocol: Protocol::Sctp, address: VIP.parse().unwrap() };
    registry.add_service(ServiceSpec::new(sctp, "rr")).unwrap();
    registry.add_service(persistent(id("192.168.1.101:0"))).unwrap();
    registry.add_service(ServiceSpec::new(mark(7, false), "rr")).unwrap();
    let nat = |address: &str| with(Method::Nat, address);
    registry.add_server(&id(VIP), nat(OTHER), NO_ROUTE).unwrap();
    registry.add_server(&sctp, nat(OTHER), NO_ROUTE).unwrap();
    registry.add_server(&id("192.168.1.101:0"), nat("10.0.0.9:0"), NO_ROUTE).unwrap();
    registry.add_server(&mark(7, false), nat("10.0.0.8:0"), NO_ROUTE).unwrap();
    let snapshot = registry.snapshot();
    let of = |snapshot: &Snapshot, protocol, address: &str| -> Vec<NatSource> {
        let address: SocketAddr = address.parse().unwrap();
        snapshot.nat_sources.of(protocol, address.ip(), address.port()).collect()
    };
    use packet::Protocol::{Sctp, Tcp, Udp};
    let vip = NatSource::Of(ip("192.168.1.100"), 80);
    assert_eq!(of(&snapshot, Tcp, OTHER), [vip]);
    assert_eq!(of(&snapshot, Sctp, OTHER), [vip]);
    assert_eq!(of(&snapshot, Udp, OTHER), []);
    assert_eq!(of(&snapshot, Tcp, RS1), [], "direct routing");
    let any = NatSource::Of(ip("192.168.1.101"), 0);
    assert_eq!(of(&snapshot, Tcp, "10.0.0.9:12345"), [any]);
    for protocol in [Tcp, Udp, Sctp] {
        assert_eq!(of(&snapshot, protocol, "10.0.0.8:53"), [NatSource::Marked]);
    }
    // What does not concern them keeps the same map.
    registry.add_server(&id(VIP), server("192.168.1.34:80", 1), NO_ROUTE).unwrap();
    registry.edit_server(&mark(7, false), nat("10.0.0.8:0"), NO_ROUTE).unwrap();
    assert!(Arc::ptr_eq(&registry.snapshot().nat_sources, &snapshot.nat_sources));
    // A deleted server's replies are translated until it is forgotten.
    let number = registry.services[&registry.by_key[&key_of(&id(VIP)).unwrap()]].servers[0];
    let counts = open(&snapshot, number);
    registry.delete_service(&id(VIP)).unwrap();
    assert_eq!(of(&registry.snapshot(), Tcp, OTHER), [vip]);
    counts.connections.close(true);
    assert!(registry.empty_trash(u64::MAX));
    assert_eq!(of(&registry.snapshot(), Tcp, OTHER), []);
}

#[test]
fn what_the_file_alone_says_reaches_the_workers() {
    let rule = MarkRule {
        mark: 7,
        protocol: Some(packet::Protocol::Udp),
        source: None,
        destination: None,
        ports: None,
        ingress: None,
    };
    let timeouts = Timeouts { tcp: 1, tcp_fin: 1, udp: 1 };
    let mut registry = Registry::new(1, vec![], timeouts);
    assert_eq!(registry.snapshot().local_ports, LocalPorts(1024, 32_767));
    assert!(!registry.snapshot().services.may_have(ip("10.0.0.1")));
    let settings = Settings { sloppy_tcp: 1, ..Settings::default() };
    let mut registry = Registry::new(1, vec![], timeouts)
        .with_rules(vec![rule])
        .with_local_ports((2048, 4095))
        .with_settings(settings);
    let set = Request::SetSetting { name: "pmtu_disc".into(), value: 0 };
    registry.change(&set, NO_ROUTE).unwrap().unwrap();
    let wrong = Request::SetSetting { name: "pmtu_disc".into(), value: 2 };
    assert_eq!(code(registry.change(&wrong, NO_ROUTE).unwrap()), ErrorCode::InvalidArgument);
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.local_ports, LocalPorts(2048, 4095));
    assert!(snapshot.services.may_have(ip("10.0.0.1")), "a rule may match");
    assert!(snapshot.settings.sloppy_tcp && !snapshot.settings.pmtu_disc);
    assert_eq!(registry.saved(0, 9).0.settings, registry.settings());
}
