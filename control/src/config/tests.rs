//! The example file and the documentation against the reader, and files that
//! are right. What is wrong is in `tests/config_errors.rs`.

use std::time::Duration;

use super::*;
use crate::api::{ClientAddress, Method, Persistence, Protocol, ServiceId, Tunnel, TunnelChecksum};
use crate::settings;

const EXAMPLE: &str = include_str!("../../../configs/rvsd.toml");
const EXAMPLES: [&str; 5] = [
    EXAMPLE,
    include_str!("../../../configs/nat.toml"),
    include_str!("../../../configs/tun.toml"),
    include_str!("../../../configs/fullnat.toml"),
    include_str!("../../../configs/health.toml"),
];
const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");
const SHORTEST: &str = "director.cores = [1]\n[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\n";

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse("rvsd.toml", text, &(0..8).collect())
}

/// Keys that stand for sections; a server's check has the keys of its service's.
const SECTIONS_IN_SECTIONS: [&str; 5] = [
    "port.vlan",
    "service.server",
    "service.health",
    "service.sorry_server",
    "service.server.health",
];

/// Dotted paths of all keys, without indices.
fn keys() -> Vec<String> {
    let sections: [(&str, &[&str]); 16] = [
        ("director", &sections::DIRECTOR),
        ("control", &sections::CONTROL),
        ("metrics", &sections::METRICS),
        ("eal", &sections::EAL),
        ("punt", &sections::PUNT),
        ("timeouts", &sections::TIMEOUTS),
        ("settings", &settings::NAMES),
        ("port", &sections::PORT),
        ("port.vlan", &sections::VLAN),
        ("vip", &sections::VIP),
        ("fullnat", &sections::FULLNAT),
        ("fwmark", &marks::FWMARK),
        ("service", &services::SERVICE),
        ("service.health", &health::HEALTH),
        ("service.sorry_server", &servers::SORRY_SERVER),
        ("service.server", &servers::SERVER),
    ];
    sections
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
        .filter(|key| !SECTIONS_IN_SECTIONS.contains(&key.as_str()))
        .collect()
}

/// The rows of the documentation's tables: key, default and example.
fn documented() -> Vec<(&'static str, &'static str, &'static str)> {
    let rows = DOCUMENTATION.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        (cells[0].trim_matches('`'), cells[3].trim_matches('`'), cells[4].trim_matches('`'))
    })
    .collect()
}

/// A file that gives one key a value, and whatever else is required.
fn file_with(key: &str, value: &str) -> String {
    let port = |line: &str, name: &str, device: &str| {
        format!("director.cores = [1]\n[[port]]\n{line}\n{name}\n{device}\n")
    };
    let (name, device) = ("name = \"lan\"", "device = \"net_null0\"");
    let (section, leaf) = key.rsplit_once('.').unwrap();
    let line = format!("{leaf} = {value}");
    let server = |protocol: &str, address: &str, scheduler: &str, server: &str| {
        format!(
            "{SHORTEST}[[service]]\n{protocol}\n{address}\n{scheduler}\n[[service.server]]\n{server}\n"
        )
    };
    let (tcp, vip, rr) =
        ("protocol = \"tcp\"", "address = \"192.168.1.100:80\"", "scheduler = \"rr\"");
    let (rip, tun) = ("address = \"192.168.1.31\"", "method = \"tun\"");
    let service = |lines: &[&str]| format!("{SHORTEST}[[service]]\n{}\n", lines.join("\n"));
    match key {
        "director.cores" => format!("{key} = {value}\n[[port]]\n{name}\n{device}\n"),
        "port.name" => port("", &line, device),
        "port.device" => port("", name, &line),
        "port.vlan.id" => format!("{SHORTEST}[[port.vlan]]\n{line}\n"),
        _ if section == "port.vlan" => format!("{SHORTEST}[[port.vlan]]\nid = 10\n{line}\n"),
        "service.protocol" => server(&line, vip, rr, rip),
        "service.address" => server(tcp, &line, rr, &rip.replace("192.168.1.31", "fd00::31")),
        "service.scheduler" => server(tcp, vip, &line, rip),
        "service.scheduler_flags" => server(tcp, vip, &format!("scheduler = \"sh\"\n{line}"), rip),
        "service.server.address" => server(tcp, vip, rr, &line),
        "service.server.lower_threshold" => {
            server(tcp, vip, rr, &format!("{rip}\nupper_threshold = 100000\n{line}"))
        }
        "service.fwmark" => service(&[&line]),
        "service.family" => service(&["fwmark = 7", &line]),
        "service.persistence_prefix" => service(&[tcp, vip, "persistence = 360", &line]),
        "service.one_packet" => service(&["protocol = \"udp\"", vip, &line]),
        "service.take_up" => service(&[tcp, vip, "scheduler = \"mh\"", &line]),
        "service.server.tunnel" => server(tcp, vip, rr, &format!("{rip}\n{tun}\n{line}")),
        "service.server.tunnel_port" => {
            server(tcp, vip, rr, &format!("{rip}\n{tun}\ntunnel = \"gue\"\n{line}"))
        }
        "service.server.tunnel_checksum" => {
            server(tcp, vip, rr, &format!("{rip}\n{tun}\ntunnel = \"gre\"\n{line}"))
        }
        "service.withdraw_vip" => {
            format!("vip.addresses = [\"192.168.1.100\"]\n{}", service(&[tcp, vip, &line]))
        }
        "service.health.command" | "service.health.kind" => {
            let command = if leaf == "kind" { "" } else { "kind = \"command\"\n" };
            format!("{}[service.health]\n{command}{line}\n", service(&[tcp, vip]))
        }
        _ if section == "service.health" => {
            let kind = match leaf {
                "method" | "path" | "host" | "status" | "body" | "body_regex" => "http",
                "ca" => "https\"\nverify = true # \"",
                "sni" | "verify" => "https",
                "send" | "send_hex" | "expect" | "expect_hex" => "udp",
                _ => "tcp",
            };
            format!("{}[service.health]\nkind = \"{kind}\"\n{line}\n", service(&[tcp, vip]))
        }
        "service.sorry_server.address" => {
            format!("{}[service.sorry_server]\n{line}\n", service(&[tcp, vip]))
        }
        _ if section == "service.sorry_server" => {
            let before = match leaf {
                "method" => rip.to_owned(),
                "tunnel_port" => format!("{rip}\n{tun}\ntunnel = \"gue\""),
                "tunnel_checksum" => format!("{rip}\n{tun}\ntunnel = \"gre\""),
                _ => format!("{rip}\n{tun}"),
            };
            format!("{}[service.sorry_server]\n{before}\n{line}\n", service(&[tcp, vip]))
        }
        "fwmark.mark" => format!("{SHORTEST}[[fwmark]]\n{line}\n{tcp}\n"),
        "fwmark.protocol" => format!("{SHORTEST}[[fwmark]]\nmark = 7\n{line}\n"),
        "metrics.max_rows" => {
            format!("{SHORTEST}[metrics]\nlisten = \"127.0.0.1:9105\"\n{line}\n")
        }
        _ if section == "fwmark" => format!("{SHORTEST}[[fwmark]]\nmark = 7\n{tcp}\n{line}\n"),
        _ if section == "service" => service(&[tcp, vip, &line]),
        _ if section == "port" => port(&line, name, device),
        _ if section == "service.server" => server(tcp, vip, rr, &format!("{rip}\n{line}")),
        _ => format!("{key} = {value}\n{SHORTEST}"),
    }
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = parse(EXAMPLE).unwrap();
    let shortest = parse(SHORTEST).unwrap();
    assert_eq!(example.director, shortest.director);
    assert_eq!(example.control, shortest.control);
    assert_eq!(example.eal, shortest.eal);
    assert_eq!(example.punt, shortest.punt);
    assert_eq!(example.timeouts, shortest.timeouts);
    let (port, default) = (&example.ports[0], &shortest.ports[0]);
    assert_eq!(port.mtu, default.mtu);
    assert_eq!(port.rx_descriptors, default.rx_descriptors);
    assert_eq!(port.tx_descriptors, default.tx_descriptors);
    let servers = &example.services[0].servers;
    assert_eq!(servers[0].method, servers[1].method);
    assert_eq!(servers[0].weight, servers[1].weight);
    assert_eq!(example.settings, shortest.settings);
    for key in keys() {
        let (_, leaf) = key.rsplit_once('.').unwrap();
        let shown = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{leaf} = "));
        let mut lines = EXAMPLES.iter().flat_map(|text| text.lines());
        assert!(lines.any(shown), "no file in configs/ shows {key}");
    }
}

#[test]
fn the_documentation_has_every_key() {
    let documented: Vec<&str> = documented().iter().map(|(key, _, _)| *key).collect();
    assert_eq!(documented, keys());
}

#[test]
fn the_documented_defaults_are_in_force() {
    for (key, default, _) in documented() {
        if default == "-" || default == "none" {
            continue;
        }
        let given = file_with(key, default);
        let (_, leaf) = key.rsplit_once('.').unwrap();
        let left_out: String = given
            .lines()
            .filter(|line| *line != format!("{key} = {default}"))
            .filter(|line| *line != format!("{leaf} = {default}"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_ne!(given, left_out, "{key}");
        assert_eq!(parse(&given).unwrap(), parse(&left_out).unwrap(), "{key} = {default}");
    }
}

#[test]
fn the_documented_examples_are_read() {
    for (key, default, example) in documented() {
        let read = |value: &str| {
            parse(&file_with(key, value)).unwrap_or_else(|e| panic!("{key} = {value}: {e}"))
        };
        let config = read(example);
        if default != "-" && default != "none" && default != example {
            assert_ne!(config, read(default), "{key} = {example} changes nothing");
        }
    }
}

#[test]
fn the_documented_files_are_read() {
    let mut blocks = DOCUMENTATION.split("```toml\n").skip(1);
    let mut block = || blocks.next().unwrap().split("```").next().unwrap();
    let (shortest, services) = (block(), block());
    assert_eq!(parse(shortest).unwrap().ports.len(), 1);
    let config = parse(&format!("{shortest}{services}")).unwrap();
    assert_eq!(config.services[0].servers.len(), 2);
    let vlans = DOCUMENTATION.split("```toml\n").find(|block| block.starts_with("[[port.vlan]]"));
    let vlans = vlans.unwrap().split("```").next().unwrap();
    assert_eq!(parse(&format!("{shortest}{vlans}")).unwrap().interfaces().len(), 3);
    let error = parse("[director]\ncores = [1]\n\n\n\n[[port]]\nname = \"lan\"\n").unwrap_err();
    assert!(DOCUMENTATION.contains(&format!("```\n{error}\n```")), "{error}");
}

#[test]
fn the_example_is_understood() {
    let config = parse(EXAMPLE).unwrap();
    assert_eq!(config.director.cores, [1]);
    assert_eq!(config.director.poll, Poll::Busy);
    assert_eq!(config.control.socket, Path::new("/run/rvs/rvsd.sock"));
    let port = &config.ports[0];
    assert_eq!((port.name.as_str(), port.device.bus), ("lan", Bus::Pci));
    let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.168.1.21/24", "fd00:1::21/64"]);
    assert_eq!(config.vip.addresses[1], "fd00:1::100".parse::<IpAddr>().unwrap());
    let service = &config.services[1];
    assert_eq!(
        service.spec.id,
        ServiceId::Address {
            protocol: Protocol::Tcp,
            address: "[fd00:1::100]:80".parse().unwrap()
        }
    );
    assert_eq!(service.spec.scheduler, "rr");
    let server = &service.servers[1];
    assert_eq!(server.address, "[fd00:1::32]:80".parse().unwrap());
    assert_eq!((&server.method, server.weight), (&Method::Dr, 1));
}

/// A list of servers of the example files, shortly.
fn servers(config: &Config, service: usize) -> Vec<(String, &Method)> {
    let servers = config.services[service].servers.iter();
    servers.map(|server| (server.address.to_string(), &server.method)).collect()
}

#[test]
fn the_examples_of_methods_are_understood() {
    use dataplane::packet::Protocol as Packet;
    let [_, nat, tun, fullnat, _] = EXAMPLES.map(|text| parse(text).unwrap());
    assert_eq!(
        servers(&nat, 0),
        [("10.0.0.31:8080".into(), &Method::Nat), ("10.0.0.32:8080".into(), &Method::Nat)]
    );
    assert!(nat.services[1].spec.one_packet);
    let marked = &nat.services[2].spec;
    assert_eq!(marked.id, ServiceId::Fwmark { mark: 1, ipv6: false });
    let persistence = Persistence { timeout: 360, prefix: 24, engine: None };
    assert_eq!(marked.persistence, Some(persistence));
    assert_eq!(servers(&nat, 2)[0].0, "10.0.0.31:0");
    let rule = MarkRule {
        mark: 1,
        protocol: Some(Packet::Tcp),
        source: Some(("0.0.0.0".parse().unwrap(), 0)),
        destination: Some(("192.168.1.101".parse().unwrap(), 32)),
        ports: Some((80, 80)),
        ingress: Some(0),
    };
    let second = MarkRule { source: None, ports: Some((443, 443)), ingress: None, ..rule };
    assert_eq!(nat.rules, [rule, second]);

    let (full, none) = (TunnelChecksum::Full, TunnelChecksum::None);
    assert_eq!(
        servers(&tun, 0),
        [
            ("192.168.2.31:80".into(), &Method::Tun(Tunnel::Ipip)),
            ("192.168.2.32:80".into(), &Method::Tun(Tunnel::Gue { port: 6080, checksum: full })),
            ("[fd00:2::33]:80".into(), &Method::Tun(Tunnel::Gre { checksum: none })),
        ]
    );
    let address = "192.168.1.100:0".parse().unwrap();
    assert_eq!(tun.services[1].spec.id, ServiceId::Address { protocol: Protocol::Sctp, address });

    let spec = &fullnat.services[0].spec;
    assert_eq!(spec.local_addresses.len(), 2);
    assert_eq!((spec.client_address, spec.mss), (ClientAddress::Proxy, Some(1432)));
    assert_eq!(servers(&fullnat, 0)[0], ("10.0.0.31:8080".into(), &Method::Fullnat));
    assert_eq!(servers(&fullnat, 1), [("10.0.0.31:80".into(), &Method::Fullnat)]);
    assert_eq!(fullnat.local_ports, (1024, 32_767));
}

#[test]
fn checks_are_understood() {
    use crate::health::plan::{Body, Check, Http, Kind, OnFailure, Tls, Udp, Via};
    use crate::health::state::State;
    let config = parse(EXAMPLES[4]).unwrap();
    let plan = |index: usize| config.services[index].health.clone();
    let web = plan(0);
    let http = Http {
        tls: None,
        method: "GET".into(),
        path: "/health".into(),
        host: Some("www.example.com".into()),
        status: vec![200..=299, 401..=401],
        body: Some(Body::Contains("ready".into())),
    };
    let default = Check {
        kind: Kind::Http(http.clone()),
        port: None,
        via: Via::Server,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        rise: 2,
        fall: 3,
        jitter: 10,
        initial: State::Up,
        on_failure: OnFailure::Weight0,
    };
    assert_eq!(web.check, Some(default.clone()));
    let own = Check {
        kind: Kind::Http(Http { path: "/old/health".into(), ..http }),
        port: Some(8080),
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        ..default.clone()
    };
    let server = |ip: &str| format!("{ip}:80").parse().unwrap();
    assert_eq!(web.servers[&server("192.168.1.32")], Some(own));
    assert_eq!(web.servers[&server("192.168.1.33")], None);
    assert_eq!(web.check_of(&server("192.168.1.31")), Some(&default));
    assert_eq!(web.check_of(&server("192.168.1.33")), None);
    let sorry = web.sorry_server.unwrap();
    assert_eq!(
        (sorry.address, sorry.method, sorry.weight),
        (server("192.168.1.39"), Method::Dr, 1)
    );

    let Plan { check: Some(https), withdraw_vip: true, .. } = plan(1) else { panic!() };
    assert_eq!((https.initial, https.on_failure), (State::Down, OnFailure::Remove));
    let Kind::Http(Http { tls: Some(tls), .. }) = https.kind else { panic!() };
    let (sni, ca) = (Some("www.example.com".into()), Some("/etc/rvs/ca.pem".into()));
    assert_eq!(tls, Tls { sni, verify: true, ca });
    let question = b"\xca\xfe\x01\0\0\x01\0\0\0\0\0\0\0\0\x02\0\x01".to_vec();
    let udp = Udp { send: question, expect: Some(vec![0xca, 0xfe]) };
    assert_eq!(plan(2).check.unwrap().kind, Kind::Udp(udp));
    let argv = ["/usr/local/lib/rvs/check-backend", "--quick"].map(str::to_owned);
    assert_eq!(plan(3).check.unwrap().kind, Kind::Command(argv.into()));
    assert_eq!(config.health().len(), 4);
}

/// A server's check has of the service's what it does not say itself; what is
/// for another kind only, it has not.
#[test]
fn a_servers_check_completes_itself_from_the_service() {
    use crate::health::plan::{Body, Http, Kind};
    let text = |own: &str| {
        format!(
            "{SHORTEST}[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1:80\"\n\
             [service.health]\nkind = \"http\"\npath = \"/a\"\nport = 81\nbody = \"ok\"\nfall = 9\n\
             [[service.server]]\naddress = \"10.0.0.2\"\n[service.server.health]\n{own}\n"
        )
    };
    let check = |own: &str| {
        let plan = parse(&text(own)).unwrap().services[0].health.clone();
        plan.servers.into_values().next().unwrap().unwrap()
    };
    let https = check("kind = \"https\"");
    assert_eq!((https.fall, https.port), (9, None));
    let Kind::Http(Http { path, body, tls: Some(_), .. }) = https.kind else { panic!() };
    assert_eq!((path.as_str(), body), ("/", None));
    let http = check("body_regex = \"x\"\nfall = 1");
    assert_eq!((http.fall, http.port), (1, Some(81)));
    let Kind::Http(Http { path, body: Some(Body::Matches(_)), .. }) = http.kind else { panic!() };
    assert_eq!(path, "/a");
}

/// Whatever a file may say, the daemon starts with.
#[test]
fn the_registry_takes_what_the_file_says() {
    use crate::daemon::begin;
    use crate::daemon::saved::Saved;
    for text in EXAMPLES {
        let config = parse(text).unwrap();
        let saved = Saved::new(Path::new("/nonexistent"));
        let registry = begin::registry(&config, &saved, Vec::new()).unwrap();
        let listed = registry.statuses(None, usize::MAX).0;
        let count = |services: usize, servers: usize| (services, servers);
        assert_eq!(
            count(listed.len(), listed.iter().map(|s| s.servers.len()).sum()),
            count(config.services.len(), config.services.iter().map(|s| s.servers.len()).sum())
        );
    }
}

#[test]
fn settings_are_numbers_or_booleans() {
    let text = format!(
        "settings.sloppy_tcp = true\nsettings.pmtu_disc = false\nsettings.conn_reuse_mode = 2\n{SHORTEST}"
    );
    let settings = parse(&text).unwrap().settings;
    let wanted =
        Settings { sloppy_tcp: 1, pmtu_disc: 0, conn_reuse_mode: 2, ..Settings::default() };
    assert_eq!(settings, wanted);
}

/// First the ports, then the VLANs by id and port, as workers look them up.
#[test]
fn vlans_come_behind_all_ports() {
    let vlan = |id| format!("[[port.vlan]]\nid = {id}\n");
    let text = format!(
        "{SHORTEST}mtu = 9000\n{}{}mtu = 1500\naddresses = [\"10.0.10.1/24\"]\n\
         [[port]]\nname = \"wan\"\ndevice = \"net_null1\"\n{}name = \"up\"\n\
         [[fwmark]]\nmark = 1\nport = \"lan.10\"\n",
        vlan(20),
        vlan(10),
        vlan(10),
    );
    let config = parse(&text).unwrap();
    let interfaces = config.interfaces();
    let shown: Vec<_> = interfaces.iter().map(|i| (i.name, i.device, i.vlan, i.mtu)).collect();
    let expected = [
        ("lan", 0, None, 9000),
        ("wan", 1, None, 1500),
        ("lan.10", 0, Some(10), 1500),
        ("up", 1, Some(10), 1500),
        ("lan.20", 0, Some(20), 9000),
    ];
    assert_eq!(shown, expected);
    assert_eq!(interfaces[2].addresses[0].to_string(), "10.0.10.1/24");
    assert_eq!(config.rules[0].ingress, Some(2));
}

#[test]
fn the_socket_follows_the_run_dir() {
    let config = parse(&format!("director.run_dir = \"/tmp/a\"\n{SHORTEST}")).unwrap();
    assert_eq!(config.control.socket, Path::new("/tmp/a/rvsd.sock"));
}

#[test]
fn what_may_repeat_is_read() {
    let text = format!(
        "{SHORTEST}addresses = [\"fe80::1/64\"]\n\
         [[port]]\nname = \"wan\"\ndevice = \"net_null1\"\naddresses = [\"fe80::1/64\"]\n\
         [[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.1:53\"\nscheduler = \"rr\"\n\
         server = [{{ address = \"10.0.0.2:53\", weight = 0 }}, {{ address = \"10.0.0.3\" }}]\n\
         [[service]]\nprotocol = \"udp\"\naddress = \"10.0.0.1:53\"\nscheduler = \"wrr\"\n\
         [[service.server]]\naddress = \"10.0.0.2\"\nweight = 0xffff\n"
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.ports.len(), 2);
    let [tcp, udp] = config.services.as_slice() else { panic!("{:?}", config.services) };
    assert_eq!(tcp.servers[0].address, udp.servers[0].address);
    assert_eq!((tcp.servers[0].weight, udp.servers[0].weight), (0, 65_535));
}

/// How long that takes, `benches/registry.rs` tells.
#[test]
fn a_hundred_thousand_servers_are_read() {
    let mut text = SHORTEST.to_owned();
    for service in 0..100 {
        text.push_str("[[service]]\nprotocol = \"tcp\"\nscheduler = \"wrr\"\n");
        text.push_str(&format!("address = \"192.0.2.1:{}\"\n", 1 + service));
        for server in 0..1000 {
            let (high, low) = (server / 250, server % 250);
            text.push_str("[[service.server]]\n");
            text.push_str(&format!("address = \"10.{service}.{high}.{}\"\nweight = 3\n", 1 + low));
        }
    }
    let config = parse(&text).unwrap();
    assert_eq!(config.services.iter().map(|s| s.servers.len()).sum::<usize>(), 100_000);
}
