use std::sync::Arc;

use dataplane::service::ServiceKey;

use super::*;
use crate::api::{Protocol, ServiceSpec};

fn id(port: u16) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: ([10, 0, 0, 1], port).into() }
}

fn server(host: u8, weight: u32) -> ServerSpec {
    ServerSpec {
        address: ([10, 0, 1, host], 80).into(),
        method: Method::Nat,
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

fn service(port: u16, servers: &[ServerSpec]) -> Service {
    let spec = ServiceSpec::new(id(port), "rr");
    Service { spec, servers: servers.to_vec(), drained: Vec::new() }
}

fn state(services: &[Service]) -> Services {
    Services {
        timeouts: Timeouts { tcp: 900, tcp_fin: 120, udp: 300 },
        settings: Settings::default(),
        services: services.to_vec(),
    }
}

fn lines(base: &Services, running: &Services, wanted: &Services) -> Vec<String> {
    let changes = changes(base, running, wanted);
    rehearse(running, &changes).unwrap();
    changes.iter().filter_map(output::command).collect()
}

#[test]
fn what_is_different_in_the_file_is_done_and_no_more() {
    let base = state(&[
        service(80, &[server(1, 1), server(2, 1), server(3, 1)]),
        service(81, &[server(1, 1)]),
        service(82, &[server(1, 1)]),
    ]);
    let mut wanted = state(&[
        service(80, &[server(1, 3), server(3, 1), server(4, 1)]),
        service(82, &[server(1, 1)]),
        service(83, &[server(9, 1)]),
    ]);
    wanted.services[1].spec.scheduler = "wlc".into();
    wanted.timeouts.udp = 60;
    wanted.settings.sloppy_tcp = 1;
    let expected = [
        "--set 0 0 60",
        "set sloppy_tcp 1",
        "-D -t 10.0.0.1:81",
        "-d -t 10.0.0.1:80 -r 10.0.1.2:80",
        "-e -t 10.0.0.1:80 -r 10.0.1.1:80 -m -w 3",
        "-a -t 10.0.0.1:80 -r 10.0.1.4:80 -m -w 1",
        "-E -t 10.0.0.1:82 -s wlc",
        "-A -t 10.0.0.1:83 -s rr",
        "-a -t 10.0.0.1:83 -r 10.0.1.9:80 -m -w 1",
    ];
    assert_eq!(lines(&base, &base, &wanted), expected);
    assert_eq!(lines(&base, &wanted, &wanted), [""; 0], "it has been done before");
    assert_eq!(lines(&base, &base, &base), [""; 0]);
}

#[test]
fn changes_at_run_time_stay_where_the_file_is_as_it_was() {
    let base = state(&[
        service(80, &[server(1, 1), server(2, 1), server(3, 1)]),
        service(81, &[]),
        service(82, &[]),
    ]);
    // A weight, a server gone and one more, a service gone, changed, one more.
    let mut running =
        state(&[service(80, &[server(1, 9), server(3, 1), server(7, 1)]), service(82, &[])]);
    running.services[1].spec.scheduler = "wlc".into();
    running.services.push(service(90, &[server(1, 1)]));
    running.timeouts.tcp = 50;
    running.settings.pmtu_disc = 0;
    assert_eq!(lines(&base, &running, &base), [""; 0]);

    // The file says something new about one of them each.
    let mut wanted = base.clone();
    wanted.services[0].servers[2].weight = 4;
    assert_eq!(lines(&base, &running, &wanted), ["-e -t 10.0.0.1:80 -r 10.0.1.3:80 -m -w 4"]);
    wanted.services[0].servers[1].weight = 5;
    let again = "-a -t 10.0.0.1:80 -r 10.0.1.2:80 -m -w 5";
    assert_eq!(lines(&base, &running, &wanted)[1], again, "the file has it, so it comes back");
    wanted = base.clone();
    wanted.services[1].spec.scheduler = "sh".into();
    wanted.services.remove(2);
    assert_eq!(lines(&base, &running, &wanted), ["-D -t 10.0.0.1:82", "-A -t 10.0.0.1:81 -s sh"]);
    // The file takes over what came at run time; a server of then stays.
    wanted = base.clone();
    wanted.services.push(service(90, &[server(2, 2)]));
    assert_eq!(lines(&base, &running, &wanted), ["-a -t 10.0.0.1:90 -r 10.0.1.2:80 -m -w 2"]);

    // With what runs as the base it becomes what the file says.
    assert_eq!(
        lines(&running, &running, &base),
        [
            "--set 900 0 0",
            "set pmtu_disc 1",
            "-D -t 10.0.0.1:90",
            "-d -t 10.0.0.1:80 -r 10.0.1.7:80",
            "-e -t 10.0.0.1:80 -r 10.0.1.1:80 -m -w 1",
            "-a -t 10.0.0.1:80 -r 10.0.1.2:80 -m -w 1",
            "-A -t 10.0.0.1:81 -s rr",
            "-E -t 10.0.0.1:82 -s rr",
        ]
    );
}

/// FULLNAT servers need local addresses, so the order matters.
#[test]
fn methods_and_local_addresses_change_together() {
    let with_locals = |locals: &[&str], servers: &[ServerSpec]| {
        let mut service = service(80, servers);
        service.spec.local_addresses = locals.iter().map(|ip| ip.parse().unwrap()).collect();
        state(&[service])
    };
    let full = |mut server: ServerSpec| {
        server.method = Method::Fullnat;
        server
    };
    let mut six = full(server(1, 1));
    six.address = "[fd00::1]:80".parse().unwrap();
    let states = [
        with_locals(&[], &[server(1, 1), server(2, 1)]),
        with_locals(&["10.0.0.8"], &[full(server(1, 1)), server(2, 1)]),
        with_locals(&["fd00::8"], &[server(1, 1), six]),
        with_locals(&["10.0.0.8"], &[full(server(3, 1))]),
    ];
    for from in &states {
        for to in &states {
            let changes = changes(from, from, to);
            rehearse(from, &changes).unwrap();
            let all: Vec<_> = from
                .services
                .iter()
                .flat_map(|service| service.clone().into_requests())
                .chain(changes)
                .collect();
            let mut now = outcome(from, &all).unwrap();
            let mut to = to.clone();
            for service in now.services.iter_mut().chain(&mut to.services) {
                service.servers.sort_by_key(|server| server.address);
            }
            assert_eq!(now, to);
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_is_done() {
    let mut base = state(&[service(80, &[])]);
    base.services[0].spec.local_addresses = vec!["10.0.0.8".parse().unwrap()];
    let mut running = base.clone();
    running.services[0].servers.push(ServerSpec { method: Method::Fullnat, ..server(1, 1) });
    let wanted = state(&[service(80, &[]), service(81, &[])]);
    let error = rehearse(&running, &changes(&base, &running, &wanted)).unwrap_err();
    assert!(
        error.message.starts_with("-E -t 10.0.0.1:80 -s rr: FullNat server 10.0.1.1 needs an"),
        "{error}"
    );
    let error = outcome(&running, &[Request::Flush {}, Request::Timeouts {}]).unwrap_err();
    assert!(error.message.starts_with("request 2: only what changes"), "{error}");
}

#[test]
fn origins_tell_who_said_what() {
    let base = state(&[
        service(80, &[server(1, 1), server(2, 1)]),
        service(81, &[server(1, 1)]),
        service(82, &[server(1, 1), server(2, 1)]),
        service(83, &[]),
    ]);
    let origins = Origins::new(&base);
    let of = |service: &Service| {
        let ServiceOrigin { origin, servers, .. } = origins.of(service);
        (origin, servers.into_iter().map(|server| server.origin).collect::<Vec<_>>())
    };
    use Origin::{Changed, File, Runtime};
    assert_eq!(of(&base.services[0]), (File, vec![File, File]));
    let edited = service(81, &[server(1, 2), server(2, 1)]);
    assert_eq!(of(&edited), (Changed, vec![Runtime, Changed]));
    assert_eq!(of(&service(82, &[server(1, 1)])), (Changed, vec![File]), "one is gone");
    assert_eq!(of(&service(99, &[server(1, 1)])), (Runtime, vec![Runtime]));
    let mut scheduler = service(83, &[]);
    scheduler.spec.scheduler = "wlc".into();
    assert_eq!(of(&scheduler), (Changed, vec![]));
}

/// Ten services of ten thousand: workers get the others as they were.
#[test]
fn a_snapshot_shares_all_that_the_file_did_not_change() {
    const SERVICES: u16 = 10_000;
    let state_of = |weight: &dyn Fn(u16) -> u32| {
        let services = (1..=SERVICES).map(|port| service(port, &[server(1, weight(port))]));
        state(&services.collect::<Vec<_>>())
    };
    let base = state_of(&|_| 1);
    let wanted = state_of(&|port| 1 + u32::from(port % 1000 == 0));
    let mut registry = Registry::new(1, Vec::new(), base.timeouts);
    for request in base.services.iter().flat_map(|service| service.clone().into_requests()) {
        carry_out(&mut registry, &request).unwrap();
    }
    let before = registry.snapshot();
    let running = registry.saved(0, usize::MAX).0;
    let changes = changes(&base, &running, &wanted);
    assert_eq!(changes.len(), 10);
    rehearse(&running, &changes).unwrap();
    for change in &changes {
        carry_out(&mut registry, change).unwrap();
    }
    let after = registry.snapshot();
    assert_eq!(registry.saved(0, usize::MAX).0, wanted);
    let same = |port: u16| {
        let key = ServiceKey::Address {
            protocol: dataplane::packet::Protocol::Tcp,
            vip: [10, 0, 0, 1].into(),
            vport: port,
        };
        Arc::ptr_eq(before.services.get(&key).unwrap(), after.services.get(&key).unwrap())
    };
    let other: Vec<_> = (1..=SERVICES).filter(|&port| !same(port)).collect();
    assert_eq!(other, [1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10_000]);
}
