//! Health checks as clients and workers see them.

use std::collections::{BTreeSet, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use control::api::{ErrorCode, HealthCheck, Request, Response, ServerSpec};
use control::client::Client;
use control::commands::{self, Command};
use control::health::plan::{Check, Kind, OnFailure, Plan, Via};
use control::health::state::State;

use crate::Test;
use crate::bench::{
    Bench, Directory, SYN, VIP, client_address, connections, eventually, id, refusal, server,
    service, tcp,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a failing server gets no connection until it is good again", failing),
    ("checks begin and end with servers", with_servers),
    ("a reload changes the checks that differ and leaves the others alone", reloaded),
];

fn checked_every(millis: u64) -> Check {
    Check {
        kind: Kind::Tcp,
        port: None,
        via: Via::Server,
        interval: Duration::from_millis(millis),
        timeout: Duration::from_secs(10),
        rise: 2,
        fall: 2,
        jitter: 10,
        initial: State::Up,
        on_failure: OnFailure::Weight0,
    }
}

/// A bench whose daemon checks the servers of VIP.
fn bench(check: Check, sorry_server: Option<ServerSpec>) -> Bench {
    let plan = Plan { check: Some(check), sorry_server, ..Plan::default() };
    let bench = Bench::with_health(1, HashMap::from([(id(VIP), plan)]));
    let service = service(VIP, "rr");
    bench.client().change(&Request::AddService { service }).unwrap();
    bench
}

fn add(client: &mut Client, address: SocketAddr) {
    let server = server(&address.to_string(), 1);
    client.change(&Request::AddServer { service: id(VIP), server }).unwrap();
}

/// Servers of new connections, by the ports that VIP's port stands for.
fn chosen(bench: &Bench, client: &mut Client, round: u16) -> BTreeSet<SocketAddr> {
    let clients = (round * 10..round * 10 + 4).map(client_address);
    bench.receive(clients.clone().map(|client| tcp(client, VIP, SYN)));
    let clients: Vec<SocketAddr> = clients.map(Into::into).collect();
    let (listed, _) = connections(client);
    listed.iter().filter(|c| clients.contains(&c.client)).map(|c| c.server).collect()
}

fn health(client: &mut Client) -> Vec<HealthCheck> {
    client.health().unwrap()
}

fn failing() {
    // Direct routing has servers on the service's port; they are probed on
    // another, where nobody needs to be root.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sorry: SocketAddr = "192.168.1.39:80".parse().unwrap();
    let check = Check { port: Some(port), ..checked_every(20) };
    let bench = bench(check, Some(server("192.168.1.39:80", 1)));
    let mut client = bench.client();
    let [good, bad]: [SocketAddr; 2] = ["127.0.0.1:80", "127.0.0.2:80"].map(|a| a.parse().unwrap());
    add(&mut client, good);
    add(&mut client, bad);
    eventually("the server where nothing listens is down", || {
        health(&mut client).iter().any(|check| check.server == bad && !check.up)
    });
    let listed = |bench: &Bench| bench.adm_ok("-Ln");
    eventually("its weight is 0", || {
        listed(&bench).contains("127.0.0.2:80                 Route   0")
    });
    assert_eq!(chosen(&bench, &mut client, 1), [good].into());
    assert!(bench.adm_ok("-Sn").contains("-r 127.0.0.2:80 -g -w 1"), "{}", bench.adm_ok("-Sn"));

    eventually("the sorry server is in", || listed(&bench).contains("192.168.1.39:80"));
    assert_eq!(chosen(&bench, &mut client, 2), [sorry].into());
    let delete = Request::DeleteServer { service: id(VIP), server: sorry };
    assert_eq!(refusal(&mut client, &delete), ErrorCode::InvalidArgument);

    let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    eventually("the sorry server is out", || !listed(&bench).contains("192.168.1.39:80"));
    assert_eq!(chosen(&bench, &mut client, 3), [good].into());
    let Response::HealthChanges { changes, withdrawn } =
        client.call(&Request::HealthChanges {}).unwrap()
    else {
        panic!("another response");
    };
    let shown: Vec<_> = changes.iter().map(|change| (change.server, change.up)).collect();
    assert_eq!(shown, [(good, true), (good, false), (bad, false)]);
    assert!(withdrawn.is_empty());
}

fn with_servers() {
    let bench = bench(checked_every(3_600_000), None);
    let mut client = bench.client();
    let other = service("192.168.1.101:80", "rr");
    client.change(&Request::AddService { service: other.clone() }).unwrap();
    let server_of_other = server("10.0.0.1:80", 1);
    client.change(&Request::AddServer { service: other.id, server: server_of_other }).unwrap();
    assert_eq!(health(&mut client), []);
    for n in 1..=1_500u16 {
        let address = format!("127.1.{}.{}:80", n / 250, 1 + n % 250);
        add(&mut client, address.parse().unwrap());
    }
    let checks = health(&mut client);
    assert_eq!(checks.len(), 1_500, "in two pages");
    assert!(checks.iter().all(|check| check.up && check.service == id(VIP)));
    let deleted = checks[700].server;
    client.change(&Request::DeleteServer { service: id(VIP), server: deleted }).unwrap();
    let left: Vec<_> = health(&mut client).iter().map(|check| check.server).collect();
    assert_eq!(left.len(), 1_499);
    assert!(!left.contains(&deleted));
    client.change(&Request::DeleteService { service: id(VIP) }).unwrap();
    assert_eq!(health(&mut client), []);
    let service = service(VIP, "rr");
    client.change(&Request::AddService { service }).unwrap();
    add(&mut client, deleted);
    assert_eq!(health(&mut client).len(), 1);
    client.change(&Request::Flush {}).unwrap();
    assert_eq!(health(&mut client), []);
}

/// Two services with a server each: the first with this section, the second with
/// a check that finds it good.
fn file(section: &str) -> String {
    format!(
        r#"
[director]
cores = [1]
[[port]]
name = "lan"
device = "0000:01:00.0"
[[service]]
protocol = "tcp"
address = "{VIP}"
{section}
[[service.server]]
address = "192.168.1.31"
weight = 5
[[service]]
protocol = "tcp"
address = "192.168.1.101:80"
[service.health]
kind = "command"
command = ["/bin/true"]
interval_ms = 100
[[service.server]]
address = "192.168.1.32"
"#
    )
}

fn reloaded() {
    let section = |program: &str, more: &str| {
        format!(
            "[service.health]\nkind = \"command\"\ncommand = [\"/bin/{program}\"]\ninterval_ms = 100\n{more}\n"
        )
    };
    let directory = Directory::new();
    let path = directory.0.join("rvsd.toml");
    std::fs::write(&path, file(&section("true", ""))).unwrap();
    let bench = Bench::with_file(directory);
    let mut client = bench.client();
    let reload = |section: &str| {
        std::fs::write(&path, file(section)).unwrap();
        let mut out = Vec::new();
        let command = Command::Reload { dry_run: false, exact: false, json: false };
        commands::run(&bench.socket, &command, &mut out).map_err(|e| e.to_string()).unwrap();
        String::from_utf8(out).unwrap()
    };
    let of = |client: &mut Client, vip: &str| {
        health(client).into_iter().find(|check| check.service == id(vip))
    };
    let other = |client: &mut Client| of(client, "192.168.1.101:80").unwrap();
    let mut weight = {
        let mut client = bench.client();
        move || {
            let mut services = client.services(Some(id(VIP))).unwrap().services;
            services.remove(0).servers.first().map(|server| server.spec.weight)
        }
    };
    eventually("both have been probed", || health(&mut client).iter().all(|c| c.probes > 2));
    let before = other(&mut client);

    // Another program: the check begins anew, from up, and finds it down.
    let said = reload(&section("false", "fall = 2"));
    assert_eq!(said, "health: the file's checks of 2 services in the place of 2\n");
    assert!(of(&mut client, VIP).unwrap().probes <= before.probes, "it began anew");
    assert_eq!(weight(), Some(5));
    eventually("the server is down", || of(&mut client, VIP).is_some_and(|check| !check.up));
    eventually("its weight is 0", || weight() == Some(0));

    // A check that changes begins anew in the state in which it is.
    reload(&section("false", "fall = 9"));
    assert!(!of(&mut client, VIP).unwrap().up);
    assert_eq!(weight(), Some(0));
    // What becomes of a failing server may change while it fails.
    reload(&section("false", "fall = 9\non_failure = \"remove\""));
    assert_eq!(weight(), None);
    // A sorry server comes with the reload, since none is left, and goes.
    reload(
        &(section("false", "fall = 9") + "[service.sorry_server]\naddress = \"192.168.1.39\"\n"),
    );
    let servers = bench.adm_ok(&format!("-Ln -t {VIP}"));
    assert!(servers.contains("192.168.1.39:80              Route   1"), "{servers}");
    reload(&section("false", "fall = 9"));
    assert!(!bench.adm_ok(&format!("-Ln -t {VIP}")).contains("192.168.1.39"));
    assert_eq!(weight(), Some(0));
    // Without a check it has the weight of the file.
    let said = reload("");
    assert_eq!(said, "health: the file's checks of 1 services in the place of 2\n");
    assert_eq!(weight(), Some(5));
    assert_eq!(health(&mut client).len(), 1);
    // And with one again it is taken for what the check says.
    reload(&section("true", "initial = \"down\"\nrise = 1"));
    eventually("the server is up", || weight() == Some(5));

    // The other service's check went on all the while.
    let after = other(&mut client);
    assert!(after.since_ms >= before.since_ms, "{after:?} after {before:?}");
    assert!(after.probes > before.probes && after.up, "{after:?} after {before:?}");
}
