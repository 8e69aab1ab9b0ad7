//! Malformed configuration files, and the one line that each of them gets.

use std::collections::BTreeSet;

use control::config::Config;

/// Lines 1 to 5 of most files; each row's own text begins in line 6.
const BASE: &str = r#"[director]
cores = [1]
[[port]]
name = "lan"
device = "0000:01:00.0"
"#;

/// Lines 6 to 9 of the files about servers, which begin in line 10.
const SERVICE: &str = r#"[[service]]
protocol = "tcp"
address = "10.0.0.100:80"
scheduler = "rr"
"#;

const GIVE_DEVICE: &str =
    r#"give a PCI address such as "0000:01:00.0" or a DPDK vdev such as "net_tap0,iface=wire0""#;
const GIVE_NAME: &str = r#"give a name of 1 to 15 letters, digits, "-", "_" or "." such as "lan""#;
const GIVE_CIDR: &str =
    r#"give a host's address with its prefix length such as "192.168.1.21/24" or "fd00:1::21/64""#;
const GIVE_VIP: &str = r#"give an address without prefix length that others can reach such as "192.168.1.100" or "fd00:1::100""#;
const GIVE_SERVICE: &str = r#"give the virtual address and a port from 1 to 65535 such as "192.168.1.100:80" or "[fd00:1::100]:80""#;
const GIVE_SERVER: &str = r#"give the server's address such as "192.168.1.31" or "fd00:1::31""#;
const GIVE_SCHEDULER: &str = r#"give one of "rr", "wrr", "lc", "wlc", "sed", "nq", "dh", "sh", "mh", "fo", "ovf", "lblc", "lblcr", "twos""#;

fn online() -> BTreeSet<u32> {
    BTreeSet::from([0, 1, 2, 3, 6])
}

fn refusal(text: &str) -> String {
    match Config::parse("rvsd.toml", text, &online()) {
        Ok(_) => panic!("read without an error:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// Each row: a text, and what is said about `before` with that text after it.
/// `$` in the latter stands for `give`.
fn check(before: &str, give: &str, rows: &[(&str, &str)]) {
    for (text, said) in rows {
        let text = format!("{before}{text}");
        let line = refusal(&text);
        assert_eq!(line, format!("rvsd.toml:{}", said.replace('$', give)), "of:\n{text}");
        assert_eq!(line.lines().count(), 1);
    }
}

#[test]
fn health() {
    let kinds = r#"give "tcp" or "http" or "https" or "udp" or "ping" or "command""#;
    check(
        &format!("{BASE}{SERVICE}[service.health]\n"),
        kinds,
        &[
            ("", "10: service[0].health.kind: missing; $"),
            ("kind = \"TCP\"", "11: service[0].health.kind: \"TCP\" is unknown; $"),
            ("kind = \"none\"", "11: service[0].health.kind: \"none\" is unknown; $"),
            (
                "kind = \"tcp\"\nintervall_ms = 5",
                "12: service[0].health.intervall_ms: unknown key; did you mean \"interval_ms\"?; allowed are kind, port, via, interval_ms, timeout_ms, rise, fall, jitter, initial, on_failure, method, path, host, status, body, body_regex, sni, verify, ca, send, send_hex, expect, expect_hex, command",
            ),
            (
                "kind = \"tcp\"\ninterval_ms = 99",
                "12: service[0].health.interval_ms: 99 is out of range; give an integer from 100 to 3600000",
            ),
            (
                "kind = \"tcp\"\ntimeout_ms = 5001",
                "12: service[0].health.timeout_ms: 5001 is greater than interval_ms 5000; give an integer from 10 to 5000",
            ),
            (
                "kind = \"tcp\"\nfall = 0",
                "12: service[0].health.fall: 0 is out of range; give an integer from 1 to 100",
            ),
            (
                "kind = \"tcp\"\njitter = 51",
                "12: service[0].health.jitter: 51 is out of range; give an integer from 0 to 50",
            ),
            (
                "kind = \"tcp\"\non_failure = \"drop\"",
                "12: service[0].health.on_failure: \"drop\" is unknown; give \"weight0\" or \"remove\"",
            ),
            (
                "kind = \"tcp\"\npath = \"/\"",
                "12: service[0].health.path: is for checks of kind \"http\" or \"https\"; leave it out",
            ),
            (
                "kind = \"ping\"\nport = 80",
                "12: service[0].health.port: is for checks of kind \"tcp\" or \"http\" or \"https\" or \"udp\"; leave it out",
            ),
            (
                "kind = \"ping\"\nvia = \"vip\"",
                "12: service[0].health.via: is for checks of kind \"tcp\" or \"http\" or \"https\" or \"udp\"; leave it out",
            ),
            (
                "kind = \"tcp\"\nvia = \"VIP\"",
                "12: service[0].health.via: \"VIP\" is unknown; give \"server\" or \"vip\"",
            ),
            (
                "kind = \"udp\"\nvia = \"vip\"",
                "10: service[0].health.expect: missing; give the bytes of the answer, which a check with via = \"vip\" needs",
            ),
            (
                &format!(
                    "kind = \"udp\"\nvia = \"vip\"\nexpect = \"x\"\nsend = \"{}\"",
                    "x".repeat(1_153)
                ),
                "12: service[0].health.via: \"vip\" takes at most 1152 bytes to send, not 1153; send less, or give \"server\"",
            ),
            (
                "kind = \"http\"\npath = \"health\"",
                "12: service[0].health.path: \"health\" does not begin with /; give a path such as \"/health?full=1\"",
            ),
            (
                "kind = \"http\"\nmethod = \"G T\"",
                "12: service[0].health.method: \"G T\" is not a method; give an HTTP method such as \"GET\" or \"HEAD\"",
            ),
            (
                "kind = \"http\"\nstatus = [\"299-200\"]",
                "12: service[0].health.status[0]: \"299-200\" ends before it begins; give a code or range from 100 to 599 such as \"200-299\"",
            ),
            (
                "kind = \"http\"\nstatus = [200, 99]",
                "12: service[0].health.status[1]: 99 is out of range; give an integer from 100 to 599",
            ),
            (
                "kind = \"http\"\nbody = \"a\"\nbody_regex = \"b\"",
                "13: service[0].health.body_regex: stands beside body; give one or the other",
            ),
            (
                "kind = \"http\"\nbody_regex = \"(a\"",
                "12: service[0].health.body_regex: \"(a\" is not a regular expression (unclosed group); give a regular expression such as 'state: (ready|ok)'",
            ),
            (
                "kind = \"http\"\nmethod = \"HEAD\"\nbody = \"a\"",
                "13: service[0].health.body: is given, but answers to HEAD have no body; leave it out",
            ),
            (
                "kind = \"https\"\nca = \"/a.pem\"",
                "12: service[0].health.ca: means nothing without verify = true; give that, too",
            ),
            (
                "kind = \"https\"\nsni = \"a b\"",
                "12: service[0].health.sni: \"a b\" is not a name of a host; give a name such as \"www.example.com\"",
            ),
            (
                "kind = \"udp\"\nsend_hex = \"0\"",
                "12: service[0].health.send_hex: \"0\" is not an even number of hexadecimal digits; give 1 to 65507 bytes in hexadecimal digits such as \"00ff\"",
            ),
            (
                "kind = \"command\"",
                "10: service[0].health.command: missing; give a program and its arguments such as [\"/usr/local/bin/check\", \"-v\"]",
            ),
            (
                "kind = \"command\"\ncommand = [\"check\"]",
                "12: service[0].health.command[0]: \"check\" is not an absolute path; give an absolute path such as \"/usr/local/bin/check\"",
            ),
        ],
    );
}

#[test]
fn health_of_servers_and_sorry_servers() {
    check(
        &format!("{BASE}{SERVICE}"),
        GIVE_SERVER,
        &[
            (
                "withdraw_vip = true",
                "10: service[0].withdraw_vip: rvsd takes down only what it put up; give 10.0.0.100 in vip.addresses",
            ),
            ("[service.sorry_server]\n", "10: service[0].sorry_server.address: missing; $"),
            (
                "[[service.server]]\naddress = \"fd00::2\"\nmethod = \"tun\"\n[service.server.health]\nkind = \"tcp\"\nvia = \"vip\"",
                "15: service[0].server[0].health.via: \"vip\" is for servers of the VIP's address family; give \"server\"",
            ),
            (
                "[service.sorry_server]\naddress = \"10.0.0.100\"",
                "11: service[0].sorry_server.address: 10.0.0.100 is the director's own; $",
            ),
            (
                "server = [{ address = \"10.0.0.2\" }]\n[service.sorry_server]\naddress = \"10.0.0.2\"",
                "12: service[0].sorry_server.address: 10.0.0.2:80 is a server of the service already; give another one",
            ),
            (
                "[service.sorry_server]\naddress = \"10.0.0.2\"\nweight = 2",
                "12: service[0].sorry_server.weight: unknown key; allowed are address, method, tunnel, tunnel_port, tunnel_checksum",
            ),
            (
                "[[service.server]]\naddress = \"10.0.0.2\"\n[service.server.health]\nport = 1",
                "12: service[0].server[0].health.kind: missing; give \"tcp\" or \"http\" or \"https\" or \"udp\" or \"ping\" or \"command\" or \"none\"",
            ),
            (
                "[[service.server]]\naddress = \"10.0.0.2\"\n[service.server.health]\nkind = \"none\"\nport = 1",
                "14: service[0].server[0].health.port: is given beside kind = \"none\"; leave it out",
            ),
        ],
    );
    let marked =
        format!("{BASE}[[service]]\nfwmark = 1\nserver = [{{ address = \"10.0.0.2\" }}]\n");
    check(
        &marked,
        "",
        &[
            (
                "health = { kind = \"tcp\" }",
                "9: service[0].health.port: missing; give the port to probe, as servers of this service have none of their own",
            ),
            (
                "health = { kind = \"tcp\", port = 80, via = \"vip\" }",
                "9: service[0].health.via: \"vip\" is for services with an address; leave it out, or give \"server\"",
            ),
            (
                "withdraw_vip = true",
                "9: service[0].withdraw_vip: is for services with an address; leave it out",
            ),
        ],
    );
}

#[test]
fn syntax() {
    check(
        BASE,
        "the file must be TOML (https://toml.io)",
        &[
            ("mtu 1500", "6: syntax: key with no value, expected `=`, in \"mtu 1500\"; $"),
            (
                "mtu =",
                "6: syntax: the value is missing, or a string without quotes, in \"mtu =\"; $",
            ),
            (
                "x = yes",
                "6: syntax: the value is missing, or a string without quotes, in \"x = yes\"; $",
            ),
            ("mtu = = 3", "6: syntax: extra `=`, in \"mtu = = 3\"; $"),
            ("x = 10.0.0.1", "6: syntax: invalid float, in \"x = 10.0.0.1\"; $"),
            ("x = 012", "6: syntax: unexpected leading zero, in \"x = 012\"; $"),
            (
                "x = [1, 2\ny = 3",
                "7: syntax: missing comma between array elements, expected `,`, in \"y = 3\"; $",
            ),
            (
                "x = {a = 1,",
                "6: syntax: unclosed inline table, expected `}`, in \"x = {a = 1,\"; $",
            ),
            ("[vip", "6: syntax: unclosed table, expected `]`, in \"[vip\"; $"),
            (
                "[[port]\nname = \"x\"",
                "6: syntax: unclosed array table, expected `]`, in \"[[port]\"; $",
            ),
            ("x = \"abc", "6: syntax: invalid basic string, expected `\"`, in \"x = \"abc\"; $"),
            ("mtu = 1500\n\nmtu = 1501", "8: syntax: mtu is given twice; keep one of them"),
            ("[director]\n", "6: syntax: director is given twice; keep one of them"),
        ],
    );
}

#[test]
fn sections_and_keys() {
    let sections = "director, control, metrics, eal, punt, timeouts, settings, port, vip, fullnat, fwmark, service";
    check(
        BASE,
        sections,
        &[
            (
                "[services]",
                "6: services: unknown section; did you mean \"service\"?; allowed are $",
            ),
            ("[nat]", "6: nat: unknown section; allowed are $"),
            ("[\"a\\nb\"]", "6: \"a\\nb\": unknown section; allowed are $"),
            (
                "[[director.x]]",
                "6: director.x: unknown key; allowed are cores, poll, connections, templates, run_dir, state_dir",
            ),
            (
                "[eal]\nmembory_mb = 3",
                "7: eal.membory_mb: unknown key; did you mean \"memory_mb\"?; allowed are huge_pages, memory_mb, file_prefix, mbufs, extra_args",
            ),
            (
                "devcie = \"\"",
                "6: port[0].devcie: unknown key; did you mean \"device\"?; allowed are name, device, mtu, rx_descriptors, tx_descriptors, addresses, vlan",
            ),
            ("[[eal]]\nmbufs = 1", "6: eal: is an array; write it as [eal]"),
            ("[service]\nprotocol = \"tcp\"", "6: service: is a table; write it as [[service]]"),
            ("[[service.server]]", "6: service: is a table; write it as [[service]]"),
        ],
    );
    check(
        "",
        sections,
        &[
            ("", "1: director.cores: missing; give the cores of the workers such as [1]"),
            ("director = 3", "1: director: is an integer; write it as [director]"),
            ("port = [3]\ndirector.cores = [1]", "1: port[0]: is an integer; write it as [[port]]"),
            (
                "\n[director]\ncores = [1]",
                "1: port: missing; give a section [[port]] with a name and a device",
            ),
            ("cores = [1]", "1: cores: unknown section; allowed are $"),
        ],
    );
}

#[test]
fn director() {
    let cores = "the cores of the workers such as [1]";
    check(
        "[director]\n",
        cores,
        &[
            ("poll = \"busy\"", "1: director.cores: missing; give $"),
            ("cores = []", "2: director.cores: is empty; give $"),
            ("cores = 1", "2: director.cores: is an integer; give $"),
            (
                "cores = [\"1\"]",
                "2: director.cores[0]: is a string; give an integer from 0 to 1023",
            ),
            (
                "cores = [1,\n -1]",
                "3: director.cores[1]: -1 is out of range; give an integer from 0 to 1023",
            ),
            (
                "cores = [1024]",
                "2: director.cores[0]: 1024 is out of range; give an integer from 0 to 1023",
            ),
            (
                "cores = [1, 5]",
                "2: director.cores[1]: core 5 is not online here; give one of this machine's: 0-3,6",
            ),
            (
                "cores = [\n1,\n2,\n1]",
                "5: director.cores[2]: core 1 is already given in line 3; give each core once, or poll = \"adaptive\"",
            ),
            (
                "cores = [1]\npoll = \"sleepy\"",
                "3: director.poll: \"sleepy\" is unknown; give \"busy\" or \"adaptive\"",
            ),
            (
                "cores = [1]\npoll = true",
                "3: director.poll: is a boolean; give \"busy\" or \"adaptive\"",
            ),
            (
                "cores = [1]\nconnections = 1000",
                "3: director.connections: 1000 is out of range; give an integer from 1024 to 200000000",
            ),
            (
                "cores = [1]\nconnections = 1e6",
                "3: director.connections: is a float; give an integer from 1024 to 200000000",
            ),
            (
                "cores = [1]\nconnections = 0xffffffffffffffffffffffffffffffffffff",
                "3: director.connections: 0xffffffffffffffffffffffffffffffffffff is out of range; give an integer from 1024 to 200000000",
            ),
            (
                "cores = [1]\nrun_dir = \"run\"",
                "3: director.run_dir: \"run\" is not an absolute path; give an absolute path such as \"/run/rvs\"",
            ),
            (
                "cores = [1]\nstate_dir = \"lib\"",
                "3: director.state_dir: \"lib\" is not an absolute path; give an absolute path such as \"/var/lib/rvs\"",
            ),
            (
                "cores = [1]\nrun_dir = \"/a\\nb\"",
                "3: director.run_dir: \"/a\\nb\" has control characters; give an absolute path such as \"/run/rvs\"",
            ),
        ],
    );
    let many: Vec<String> = (0..128).map(|core| core.to_string()).collect();
    let text = format!("[director]\ncores = [{}]", many.join(","));
    assert_eq!(refusal(&text), "rvsd.toml:2: director.cores: has 128 cores; give at most 127");
}

#[test]
fn control_and_eal() {
    let socket = "give an absolute path of at most 107 bytes such as \"/run/rvs/rvsd.sock\"";
    let name = "has characters other than letters, digits, \"-\", \"_\" and \".\"";
    check(
        BASE,
        name,
        &[
            (
                "[control]\ngroup = \"a:b\"",
                "7: control.group: \"a:b\" $; give the name of a group such as \"rvs\"",
            ),
            (
                "[control]\ngroup = \"\"",
                "7: control.group: \"\" has 0 bytes instead of 1 to 32; give the name of a group such as \"rvs\"",
            ),
            (
                "[control]\nanyone_may_look = \"yes\"",
                "7: control.anyone_may_look: is a string; give true or false",
            ),
            (
                "[metrics]\nlisten = \"9105\"",
                "7: metrics.listen: \"9105\" is not an address with a port; give an address and a port such as \"127.0.0.1:9105\"",
            ),
            (
                "[metrics]\nlisten = \"[::1]:0\"",
                "7: metrics.listen: \"[::1]:0\" has port 0; give an address and a port such as \"127.0.0.1:9105\"",
            ),
            (
                "[metrics]\nmax_rows = 10",
                "6: metrics.listen: missing; give an address and a port such as \"127.0.0.1:9105\"",
            ),
            (
                "[metrics]\nlisten = \"127.0.0.1:9105\"\nmax_rows = 1000001",
                "8: metrics.max_rows: 1000001 is out of range; give an integer from 0 to 1000000",
            ),
            (
                "[eal]\nhuge_pages = \"always\"",
                "7: eal.huge_pages: \"always\" is unknown; give \"auto\" or \"never\" or \"require\"",
            ),
            (
                "[eal]\nmemory_mb = 63",
                "7: eal.memory_mb: 63 is out of range; give an integer from 64 to 1048576",
            ),
            (
                "[eal]\nfile_prefix = \"../x\"",
                "7: eal.file_prefix: \"../x\" $; give a name such as \"rvs\"",
            ),
            (
                "[eal]\nmbufs = 1023",
                "7: eal.mbufs: 1023 is out of range; give an integer from 1024 to 4194304",
            ),
            (
                "[eal]\nmbufs = 2048",
                "7: eal.mbufs: 2048 are too few for port lan, whose queues hold 2048 (1024 + 1024 descriptors on each of 1 cores); give 2560 or more, or fewer descriptors",
            ),
            (
                "[eal]\nextra_args = \"-v\"",
                "7: eal.extra_args: is a string; give EAL arguments such as [\"--log-level=8\"]",
            ),
            (
                "[eal]\nextra_args = [\"-v\", 3]",
                "7: eal.extra_args[1]: is an integer; give an EAL argument such as \"--log-level=8\"",
            ),
            (
                "[eal]\nextra_args = [\"a\\u0000\"]",
                "7: eal.extra_args[0]: \"a\\u{0}\" has control characters; give an EAL argument such as \"--log-level=8\"",
            ),
            (
                "[punt]\ntcp = 0",
                "7: punt.tcp: 0 is out of range; give an integer from 1 to 10000000",
            ),
            (
                "[timeouts]\ntcp = 2678401",
                "7: timeouts.tcp: 2678401 is out of range; give an integer from 1 to 2678400",
            ),
            (
                "[timeouts]\nudp = 0",
                "7: timeouts.udp: 0 is out of range; give an integer from 1 to 2678400",
            ),
            (
                "[timeouts]\nudp = 10:00:00",
                "7: timeouts.udp: is a date or time; give an integer from 1 to 2678400",
            ),
        ],
    );
    let long = "x".repeat(100);
    check(
        BASE,
        socket,
        &[
            (
                "[control]\nsocket = \"rvsd.sock\"",
                "7: control.socket: \"rvsd.sock\" is not an absolute path; $",
            ),
            (
                &format!("[control]\nsocket = \"/run/xx/{long}\""),
                &format!("7: control.socket: \"/run/xx/{long}\" is too long with its 108 bytes; $"),
            ),
        ],
    );
    let text = format!("director.run_dir = \"/{long}\"\ndirector.cores = [1]");
    assert_eq!(
        refusal(&text),
        format!(
            "rvsd.toml:1: control.socket: missing, and run_dir is too long to hold it; {socket}"
        )
    );
}

#[test]
fn port_names_and_devices() {
    let one = "[director]\ncores = [1]\n[[port]]\n";
    check(
        one,
        GIVE_NAME,
        &[
            ("device = \"net_null0\"", "3: port[0].name: missing; $"),
            ("name = \"\"", "4: port[0].name: \"\" is empty; $"),
            (
                "name = \"sixteen-bytes-xx\"",
                "4: port[0].name: \"sixteen-bytes-xx\" is too long with its 16 bytes; $",
            ),
            (
                "name = \"a/b\"",
                "4: port[0].name: \"a/b\" has characters that an interface's name cannot have; $",
            ),
            (
                "name = \"lan%d\"",
                "4: port[0].name: \"lan%d\" has characters that an interface's name cannot have; $",
            ),
            ("name = \"lo\"", "4: port[0].name: \"lo\" is not free for an interface; $"),
        ],
    );
    check(
        one,
        GIVE_DEVICE,
        &[
            ("name = \"lan\"", "3: port[0].device: missing; $"),
            ("name = \"lan\"\ndevice = 3", "5: port[0].device: is an integer; $"),
            (
                "name = \"lan\"\ndevice = \"eth0\"",
                "5: port[0].device: \"eth0\" is neither a PCI address nor a vdev; $",
            ),
            (
                "name = \"lan\"\ndevice = \"0000:01:00.8\"",
                "5: port[0].device: \"0000:01:00.8\" is neither a PCI address nor a vdev; $",
            ),
            (
                "name = \"lan\"\ndevice = \"net_tap0, iface=x\"",
                "5: port[0].device: \"net_tap0, iface=x\" has characters other than printable ASCII; $",
            ),
            (
                "name = \"lan\"\ndevice = \"net_tap0,\"",
                "5: port[0].device: \"net_tap0,\" has an empty argument; $",
            ),
        ],
    );
    check(
        BASE,
        "",
        &[
            (
                "[[port]]\nname = \"lan\"\ndevice = \"net_null0\"",
                "7: port[1].name: \"lan\" is already given in line 4; give each port its own name",
            ),
            (
                "[[port]]\nname = \"wan\"\ndevice = \"01:00.0,x=1\"",
                "8: port[1].device: \"0000:01:00.0\" is already given in line 5; give each port its own device",
            ),
            ("mtu = 575", "6: port[0].mtu: 575 is out of range; give an integer from 576 to 9600"),
            (
                "mtu = 9601",
                "6: port[0].mtu: 9601 is out of range; give an integer from 576 to 9600",
            ),
            ("mtu = \"1500\"", "6: port[0].mtu: is a string; give an integer from 576 to 9600"),
            (
                "mtu = 1279\naddresses = [\"fd00::1/64\"]",
                "6: port[0].mtu: 1279 is too small for the port's IPv6 address; give an integer from 1280 to 9600",
            ),
            (
                "rx_descriptors = 0",
                "6: port[0].rx_descriptors: 0 is out of range; give an integer from 64 to 32768",
            ),
            (
                "tx_descriptors = 65536",
                "6: port[0].tx_descriptors: 65536 is out of range; give an integer from 64 to 32768",
            ),
        ],
    );
    let ports: String =
        (0..33).map(|i| format!("[[port]]\nname = \"p{i}\"\ndevice = \"net_null{i}\"\n")).collect();
    let text = format!("[director]\ncores = [1]\n{ports}");
    assert_eq!(refusal(&text), "rvsd.toml:3: port: has 33 ports; give at most 32");
}

#[test]
fn vlans() {
    let vlan = "[[port.vlan]]\n";
    check(
        BASE,
        "an integer from 1 to 4094",
        &[
            (vlan, "6: port[0].vlan[0].id: missing; give the VLAN's id, $"),
            ("vlan = 3", "6: port[0].vlan: is an integer; write it as [[port.vlan]]"),
            ("[port.vlan]\nid = 1", "6: port[0].vlan: is a table; write it as [[port.vlan]]"),
            ("[[port.vlan]]\nid = 0", "7: port[0].vlan[0].id: 0 is out of range; give $"),
            ("[[port.vlan]]\nid = 4095", "7: port[0].vlan[0].id: 4095 is out of range; give $"),
            ("[[port.vlan]]\nid = \"10\"", "7: port[0].vlan[0].id: is a string; give $"),
            (
                "[[port.vlan]]\nid = 10\ndevice = \"02:00.0\"",
                "8: port[0].vlan[0].device: unknown key; allowed are name, id, mtu, addresses",
            ),
            (
                "[[port.vlan]]\nid = 10\n[[port.vlan]]\nid = 10\nname = \"x\"",
                "9: port[0].vlan[1].id: VLAN 10 is already given in line 7; give each VLAN of a port once",
            ),
            (
                "[[port.vlan]]\nid = 10\nname = \"lan\"",
                "8: port[0].vlan[0].name: \"lan\" is already given in line 4; give each port its own name",
            ),
            (
                "[[port.vlan]]\nid = 9\nname = \"lan.10\"\n[[port.vlan]]\nid = 10",
                "10: port[0].vlan[1].id: \"lan.10\" is already given in line 8; give the VLAN another name",
            ),
            (
                "[[port.vlan]]\nid = 10\nmtu = 1501",
                "8: port[0].vlan[0].mtu: 1501 is out of range; give an integer from 576 to 1500",
            ),
            (
                "[[port.vlan]]\nid = 10\nmtu = 1279\naddresses = [\"fd00::1/64\"]",
                "8: port[0].vlan[0].mtu: 1279 is too small for the port's IPv6 address; give an integer from 1280 to 1500",
            ),
            (
                "addresses = [\"10.0.0.1/24\"]\n[[port.vlan]]\nid = 10\naddresses = [\"10.0.0.1/24\"]",
                "9: port[0].vlan[0].addresses[0]: 10.0.0.1 is already given in line 6; give an address to one port only",
            ),
            (
                "[[port.vlan]]\nid = 10\nmtu = 1279\n[vip]\naddresses = [\"fd00::100\"]",
                "10: vip.addresses[0]: an IPv6 address needs an MTU of 1280, and port lan.10 has 1279; give every port at least 1280",
            ),
        ],
    );
    let long = BASE.replace("lan", "fourteen-chars");
    check(
        &long,
        GIVE_NAME,
        &[(
            "[[port.vlan]]\nid = 10",
            "6: port[0].vlan[0].name: missing, and \"fourteen-chars.10\" is too long with its 17 bytes; $",
        )],
    );
    let many: String = (1..=255).map(|id| format!("[[port.vlan]]\nid = {id}\n")).collect();
    assert_eq!(
        refusal(&format!("{BASE}{many}")),
        "rvsd.toml:3: port: has 256 ports and VLANs; give at most 255 of both together"
    );
}

#[test]
fn addresses_of_ports() {
    let addresses = |list: &str| format!("{BASE}addresses = {list}\n");
    for (address, why) in [
        ("10.0.0.256/8", "is not an IP address"),
        ("lan/24", "is not an IP address"),
        ("10.0.0.1", "has no prefix length"),
        ("router", "is not an IP address with a prefix length"),
        ("10.0.0.1/33", "has a prefix length outside of 1 to 32"),
        ("10.0.0.1/0", "has a prefix length outside of 1 to 32"),
        ("10.0.0.1/255.0.0.0", "has a prefix length outside of 1 to 32"),
        ("fd00::1/129", "has a prefix length outside of 1 to 128"),
        ("0.0.0.0/8", "is in 0.0.0.0/8, which names no host"),
        ("224.0.0.1/8", "is a multicast address"),
        ("ff02::1/64", "is a multicast address"),
        ("255.255.255.255/32", "is the broadcast address"),
        ("127.0.0.1/8", "is a loopback address"),
        ("::/64", "is the unspecified address"),
        ("::ffff:10.0.0.1/128", "is an IPv4 address in IPv6 form"),
        ("10.0.0.255/24", "has a host part of only zeros or ones, which names no single host"),
        ("fd00:1::/64", "has a host part of only zeros or ones, which names no single host"),
    ] {
        assert_eq!(
            refusal(&addresses(&format!("[\"10.9.9.9/24\", \"{address}\"]"))),
            format!("rvsd.toml:6: port[0].addresses[1]: \"{address}\" {why}; {GIVE_CIDR}")
        );
    }
    check(
        &addresses("[\"10.0.0.1/24\"]"),
        GIVE_CIDR,
        &[
            (
                "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.1/16\"]",
                "10: port[1].addresses[0]: 10.0.0.1 is already given in line 6; give an address to one port only",
            ),
            (
                "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = \"10.0.0.2/24\"",
                "10: port[1].addresses: is a string; give addresses such as [\"192.168.1.21/24\"]",
            ),
            (
                "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\naddresses = [[]]",
                "10: port[1].addresses[0]: is an array; $",
            ),
        ],
    );
    assert_eq!(
        refusal(&addresses("[\"fe80::1/64\", \"fe80::1/64\"]")),
        "rvsd.toml:6: port[0].addresses[1]: fe80::1 is already given in line 6; give each address once"
    );
}

#[test]
fn virtual_addresses() {
    check(
        &format!("{BASE}mtu = 1279\n[vip]\n"),
        "",
        &[(
            "addresses = [\"10.0.0.100\", \"fd00::100\"]",
            "8: vip.addresses[1]: an IPv6 address needs an MTU of 1280, and port lan has 1279; give every port at least 1280",
        )],
    );
    check(
        &format!("{BASE}addresses = [\"10.0.0.1/24\"]\n[vip]\n"),
        GIVE_VIP,
        &[
            (
                "addresses = [\"10.0.0.100/32\"]",
                "8: vip.addresses[0]: \"10.0.0.100/32\" has a prefix length; $",
            ),
            ("addresses = [\"www\"]", "8: vip.addresses[0]: \"www\" is not an IP address; $"),
            (
                "addresses = [\"fe80::1\"]",
                "8: vip.addresses[0]: \"fe80::1\" is a link-local address; $",
            ),
            (
                "addresses = [\"239.1.1.1\"]",
                "8: vip.addresses[0]: \"239.1.1.1\" is a multicast address; $",
            ),
            ("addresses = [10]", "8: vip.addresses[0]: is an integer; $"),
            (
                "addresses = [\"10.0.0.9\",\n\"10.0.0.9\"]",
                "9: vip.addresses[1]: 10.0.0.9 is already given in line 8; give each address once",
            ),
            (
                "addresses = [\"fd00::9\", \"fd00:0::9\"]",
                "8: vip.addresses[1]: fd00::9 is already given in line 8; give each address once",
            ),
            (
                "addresses = [\"10.0.0.1\"]",
                "8: vip.addresses[0]: 10.0.0.1 is already given in line 6; give each address once",
            ),
            (
                "address = \"10.0.0.9\"",
                "8: vip.address: unknown key; did you mean \"addresses\"?; allowed are addresses",
            ),
        ],
    );
}

#[test]
fn services() {
    check(
        &format!("{BASE}[[service]]\n"),
        GIVE_SERVICE,
        &[
            (
                "address = \"10.0.0.100:80\"",
                "6: service[0].protocol: missing; give \"tcp\" or \"udp\" or \"sctp\", or fwmark",
            ),
            (
                "protocol = \"icmp\"",
                "7: service[0].protocol: \"icmp\" is unknown; give \"tcp\" or \"udp\" or \"sctp\"",
            ),
            ("protocol = \"tcp\"", "6: service[0].address: missing; $"),
            (
                "protocol = \"tcp\"\naddress = \"10.0.0.100\"",
                "8: service[0].address: \"10.0.0.100\" has no port; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"10.0.0.100:0\"",
                "8: service[0].address: \"10.0.0.100:0\" has port 0; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"10.0.0.100:65536\"",
                "8: service[0].address: \"10.0.0.100:65536\" has a port above 65535; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"[fd00::1]:http\"",
                "8: service[0].address: \"[fd00::1]:http\" has a port that is not a number; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"www:80\"",
                "8: service[0].address: \"www:80\" is not an IP address; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"fd00::100:80\"",
                "8: service[0].address: \"fd00::100:80\" has no port; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"[fd00::1%2]:80\"",
                "8: service[0].address: \"[fd00::1%2]:80\" has a scope; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"0.0.0.0:80\"",
                "8: service[0].address: \"0.0.0.0:80\" is in 0.0.0.0/8, which names no host; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"255.255.255.255:80\"",
                "8: service[0].address: \"255.255.255.255:80\" is the broadcast address; $",
            ),
            (
                "protocol = \"tcp\"\naddress = \"[ff02::1]:80\"",
                "8: service[0].address: \"[ff02::1]:80\" is a multicast address; $",
            ),
            ("protocol = \"tcp\"\naddress = 80", "8: service[0].address: is an integer; $"),
        ],
    );
    check(
        &format!("{BASE}[[service]]\nprotocol = \"udp\"\naddress = \"10.0.0.100:80\"\n"),
        GIVE_SCHEDULER,
        &[
            ("scheduler = \"wlcx\"", "9: service[0].scheduler: \"wlcx\" is not a scheduler; $"),
            ("scheduler = 1", "9: service[0].scheduler: is an integer; $"),
        ],
    );
    check(
        &format!("{BASE}[[service]]\nprotocol = \"udp\"\naddress = \"10.0.0.100:80\"\n"),
        "",
        &[
            (
                "scheduler = \"sh\"\nscheduler_flags = [\"sh-port\", \"mh-port\"]",
                "10: service[0].scheduler_flags[1]: \"mh-port\" is not a flag of sh; give \"sh-fallback\" or \"sh-port\"",
            ),
            (
                "scheduler_flags = [\"flag-1\"]",
                "9: service[0].scheduler_flags[0]: \"flag-1\" is not a flag of wlc; give none, as wlc has no flags",
            ),
            (
                "scheduler_flags = \"sh-port\"",
                "9: service[0].scheduler_flags: is a string; give a list of flags such as [\"sh-port\"]",
            ),
        ],
    );
    check(
        &format!("{BASE}{SERVICE}"),
        "",
        &[(
            "[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.0.100:80\"\nscheduler = \"wrr\"",
            "12: service[1].address: tcp 10.0.0.100:80 is already given in line 8; put all its servers under one [[service]]",
        )],
    );
}

#[test]
fn servers() {
    check(
        &format!("{BASE}{SERVICE}[[service.server]]\n"),
        GIVE_SERVER,
        &[
            ("weight = 1", "10: service[0].server[0].address: missing; $"),
            (
                "address = \"rs1\"",
                "11: service[0].server[0].address: \"rs1\" is not an IP address; $",
            ),
            (
                "address = \"fd00::31\"",
                "11: service[0].server[0].address: fd00::31 is not IPv4 as its service; give an IPv4 address",
            ),
            (
                "address = \"10.0.0.31:0\"",
                "11: service[0].server[0].address: \"10.0.0.31:0\" has port 0; $",
            ),
            (
                "address = \"10.0.0.31:8080\"",
                "11: service[0].server[0].address: has another port than its service; give none, or 80",
            ),
            (
                "address = \"224.0.0.31\"",
                "11: service[0].server[0].address: \"224.0.0.31\" is a multicast address; $",
            ),
            (
                "address = \"10.0.0.100\"",
                "11: service[0].server[0].address: 10.0.0.100 is the director's own; $",
            ),
            (
                "address = \"10.0.0.31\"\nweight = 65536",
                "12: service[0].server[0].weight: 65536 is out of range; give an integer from 0 to 65535",
            ),
            (
                "address = \"10.0.0.31\"\nweight = -1",
                "12: service[0].server[0].weight: -1 is out of range; give an integer from 0 to 65535",
            ),
            (
                "address = \"10.0.0.31\"\nupper_threshold = 4294967296",
                "12: service[0].server[0].upper_threshold: 4294967296 is out of range; give an integer from 0 to 4294967295",
            ),
            (
                "address = \"10.0.0.31\"\nupper_threshold = 10\nlower_threshold = 11",
                "13: service[0].server[0].lower_threshold: 11 is greater than upper_threshold 10; give an integer from 0 to 10",
            ),
            (
                "address = \"10.0.0.31\"\nmethod = \"masq\"",
                "12: service[0].server[0].method: \"masq\" is unknown; give \"dr\" or \"nat\" or \"tun\" or \"fullnat\"",
            ),
            (
                "address = \"10.0.0.31\"\nwieght = 3",
                "12: service[0].server[0].wieght: unknown key; did you mean \"weight\"?; allowed are address, method, tunnel, tunnel_port, tunnel_checksum, weight, upper_threshold, lower_threshold, health",
            ),
            (
                "address = \"10.0.0.31\"\n[[service.server]]\naddress = \"10.0.0.31:80\"",
                "13: service[0].server[1].address: 10.0.0.31:80 is already given in line 11; give each server of a service once",
            ),
            (
                "address = \"10.0.0.31\"\n[vip]\naddresses = [\"10.0.0.31\"]",
                "11: service[0].server[0].address: 10.0.0.31 is the director's own; $",
            ),
        ],
    );
    check(
        &format!("{BASE}{SERVICE}"),
        "",
        &[
            (
                "server = \"10.0.0.31\"",
                "10: service[0].server: is a string; write it as [[service.server]]",
            ),
            (
                "[service.server]\naddress = \"10.0.0.31\"",
                "10: service[0].server: is a table; write it as [[service.server]]",
            ),
        ],
    );
    let second = SERVICE.replace("10.0.0.100:80", "[fd00::100]:80");
    let text = format!("{BASE}{SERVICE}{second}[[service.server]]\naddress = \"10.0.0.31\"");
    assert_eq!(
        refusal(&text),
        "rvsd.toml:15: service[1].server[0].address: 10.0.0.31 is not IPv6 as its service; give an IPv6 address"
    );
}

#[test]
fn kinds_and_options_of_services() {
    let udp = "protocol = \"udp\"\naddress = \"10.0.0.100:80\"\n";
    let tcp = "protocol = \"tcp\"\naddress = \"10.0.0.100:80\"\n";
    let rows = [
        (
            "fwmark = 0",
            "7: service[0].fwmark: 0 is out of range; give an integer from 1 to 4294967295",
        ),
        (
            "fwmark = 1\nprotocol = \"tcp\"",
            "8: service[0].protocol: stands beside fwmark; give one or the other",
        ),
        (
            "fwmark = 1\nfamily = \"v6\"",
            "8: service[0].family: \"v6\" is unknown; give \"ipv4\" or \"ipv6\"",
        ),
        (
            "fwmark = 1\n[[service]]\nfwmark = 1\nfamily = \"ipv6\"\n[[service]]\nfwmark = 1",
            "12: service[2].fwmark: mark 1 for IPv4 is already given in line 7; put all its servers under one [[service]]",
        ),
    ];
    check(&format!("{BASE}[[service]]\n"), "", &rows);
    let rows = [
        (
            "family = \"ipv4\"",
            "9: service[0].family: is for fwmark services; others have the address's, leave it out",
        ),
        (
            "persistence = 0",
            "9: service[0].persistence: 0 is out of range; give an integer from 1 to 2678400",
        ),
        (
            "persistence = 360\npersistence_prefix = 33",
            "10: service[0].persistence_prefix: 33 is out of range; give an integer from 0 to 32",
        ),
        (
            "persistence_prefix = 24",
            "9: service[0].persistence_prefix: means nothing without persistence; give that, too",
        ),
        (
            "client_address = \"toa\"",
            "9: service[0].client_address: is for TCP services; leave it out",
        ),
        (
            "scheduler = \"mh\"\ntake_up = true",
            "10: service[0].take_up: is for TCP and fwmark services; leave it out",
        ),
        ("mss = 1400", "9: service[0].mss: is for TCP and fwmark services; leave it out"),
        ("mss = 87", "9: service[0].mss: 87 is out of range; give an integer from 88 to 65495"),
        (
            "local_addresses = \"10.0.0.1\"",
            "9: service[0].local_addresses: is a string; give addresses such as [\"192.168.1.22\"]",
        ),
        (
            "local_addresses = [\"10.0.0.1/24\"]",
            "9: service[0].local_addresses[0]: \"10.0.0.1/24\" has a prefix length; give an address of the director that servers can answer to such as \"192.168.1.22\" or \"fd00:1::22\"",
        ),
        (
            "local_addresses = [\"10.0.0.1\", \"10.0.0.1\"]",
            "9: service[0].local_addresses[1]: 10.0.0.1 is already given in line 9; give each address once",
        ),
    ];
    check(&format!("{BASE}[[service]]\n{udp}"), "", &rows);
    let rows = [
        (
            "one_packet = true",
            "9: service[0].one_packet: is for UDP and fwmark services; leave it out",
        ),
        (
            "client_address = \"option\"",
            "9: service[0].client_address: \"option\" is unknown; give \"none\" or \"toa\" or \"proxy\"",
        ),
        (
            "take_up = true",
            "9: service[0].take_up: needs a scheduler by which every director finds the same server; give scheduler = \"mh\", or leave it out",
        ),
        (
            "scheduler = \"sh\"\ntake_up = true",
            "10: service[0].take_up: needs a scheduler by which every director finds the same server; give scheduler = \"mh\", or leave it out",
        ),
        (
            "scheduler = \"mh\"\npersistence = 60\ntake_up = true",
            "11: service[0].take_up: other directors know nothing of this one's persistence; leave one of the two out",
        ),
        ("take_up = \"mh\"", "9: service[0].take_up: is a string; give true or false"),
        (
            "scheduler = \"mh\"\ntake_up = true\n[[service.server]]\naddress = \"10.0.0.31\"\nmethod = \"nat\"",
            "13: service[0].server[0].method: a service with take_up has servers that answer past the director; give \"dr\" or \"tun\"",
        ),
        (
            "scheduler = \"mh\"\ntake_up = true\nlocal_addresses = [\"10.0.0.22\"]\n[[service.server]]\naddress = \"10.0.0.31\"\nmethod = \"fullnat\"",
            "14: service[0].server[0].method: a service with take_up has servers that answer past the director; give \"dr\" or \"tun\"",
        ),
    ];
    check(&format!("{BASE}[[service]]\n{tcp}"), "", &rows);
}

#[test]
fn methods_of_servers() {
    let server = format!("{BASE}{SERVICE}[[service.server]]\naddress = \"10.0.0.31\"\n");
    let rows = [
        (
            "tunnel = \"gre\"",
            "12: service[0].server[0].tunnel: is for servers with method = \"tun\"; leave it out",
        ),
        (
            "method = \"tun\"\ntunnel = \"vxlan\"",
            "13: service[0].server[0].tunnel: \"vxlan\" is unknown; give \"ipip\" or \"gue\" or \"gre\"",
        ),
        (
            "method = \"tun\"\ntunnel_port = 6080",
            "13: service[0].server[0].tunnel_port: is for servers with tunnel = \"gue\"; leave it out",
        ),
        (
            "method = \"tun\"\ntunnel = \"gue\"",
            "10: service[0].server[0].tunnel_port: missing; give the server's UDP port such as 6080",
        ),
        (
            "method = \"tun\"\ntunnel_checksum = \"full\"",
            "13: service[0].server[0].tunnel_checksum: \"full\" is unknown; give \"none\"",
        ),
        (
            "method = \"tun\"\ntunnel = \"gre\"\ntunnel_checksum = \"remote\"",
            "14: service[0].server[0].tunnel_checksum: \"remote\" is unknown; give \"none\" or \"full\"",
        ),
        (
            "method = \"fullnat\"",
            "12: service[0].server[0].method: \"fullnat\" needs an IPv4 address to come from; give the service one in local_addresses",
        ),
    ];
    check(&server, "", &rows);
    let local = SERVICE.to_owned() + "local_addresses = [\"10.0.0.22\"]\n[[service.server]]\n";
    let rows = [
        (
            "address = \"fd00::31\"\nmethod = \"fullnat\"",
            "13: service[0].server[0].method: \"fullnat\" needs an IPv6 address to come from; give the service one in local_addresses",
        ),
        (
            "address = \"10.0.0.22\"\nmethod = \"fullnat\"",
            "12: service[0].server[0].address: 10.0.0.22 is the director's own; give the server's address such as \"192.168.1.31\" or \"fd00:1::31\"",
        ),
        (
            "address = \"10.0.0.31:81\"\nmethod = \"tun\"",
            "12: service[0].server[0].address: has another port than its service; give none, or 80",
        ),
        (
            "address = \"10.0.0.31:81\"\nmethod = \"nat\"\n[[service.server]]\naddress = \"10.0.0.31:81\"\nmethod = \"fullnat\"",
            "15: service[0].server[1].address: 10.0.0.31:81 is already given in line 12; give each server of a service once",
        ),
    ];
    check(&format!("{BASE}{local}"), "", &rows);
    let many = "[[service]]\nfwmark = 1\npersistence = 9\n[[service.server]]\n";
    let rows = [
        (
            "address = \"10.0.0.31:81\"\nmethod = \"nat\"",
            "10: service[0].server[0].address: has a port, but packets keep theirs; give none",
        ),
        (
            "address = \"fd00::31\"",
            "10: service[0].server[0].address: fd00::31 is not IPv4 as its service; give an IPv4 address",
        ),
    ];
    check(&format!("{BASE}{many}"), "", &rows);
}

#[test]
fn rules_of_marks() {
    let network = "a network or an address such as \"10.0.0.0/8\" or \"fd00:1::100\"";
    let rows = [
        ("", "6: fwmark[0].mark: missing; give the mark of a fwmark service such as 1"),
        ("mark = 0", "7: fwmark[0].mark: 0 is out of range; give an integer from 1 to 4294967295"),
        (
            "mark = 1",
            "7: fwmark[0].mark: would be that of every packet; give at least one of protocol, source, destination, ports and port",
        ),
        (
            "mark = 1\nprotocol = \"icmp\"",
            "8: fwmark[0].protocol: \"icmp\" is unknown; give \"tcp\" or \"udp\" or \"sctp\"",
        ),
        (
            "mark = 1\nsource = \"10.0.0.1/8\"",
            "8: fwmark[0].source: \"10.0.0.1/8\" has ones behind its prefix; give $",
        ),
        (
            "mark = 1\nsource = \"fd00::/129\"",
            "8: fwmark[0].source: \"fd00::/129\" has a prefix length outside of 0 to 128; give $",
        ),
        (
            "mark = 1\nsource = \"10.0.0.0/+8\"",
            "8: fwmark[0].source: \"10.0.0.0/+8\" has a prefix length outside of 0 to 32; give $",
        ),
        (
            "mark = 1\ndestination = \"www\"",
            "8: fwmark[0].destination: \"www\" is not an IP address; give $",
        ),
        (
            "mark = 1\nsource = \"10.0.0.0/8\"\ndestination = \"fd00::1\"",
            "9: fwmark[0].destination: is of another family than source; give both of one family",
        ),
        (
            "mark = 1\nports = \"90-80\"",
            "8: fwmark[0].ports: \"90-80\" ends before it begins; give a port or a range such as \"80\" or \"8000-8999\"",
        ),
        (
            "mark = 1\nports = \"http\"",
            "8: fwmark[0].ports: \"http\" is not a port or a range of ports; give a port or a range such as \"80\" or \"8000-8999\"",
        ),
        (
            "mark = 1\nport = \"wan\"",
            "8: fwmark[0].port: \"wan\" is no [[port]] and no VLAN; give the name of a port: \"lan\"",
        ),
    ];
    check(&format!("{BASE}[[fwmark]]\n"), network, &rows);
}

#[test]
fn settings_and_local_ports() {
    let rows = [
        (
            "[settings]\nsloppy_tcp = 2",
            "7: settings.sloppy_tcp: 2 is out of range; give an integer from 0 to 1",
        ),
        (
            "[settings]\nconn_reuse_mode = true",
            "7: settings.conn_reuse_mode: is a boolean; give an integer from 0 to 2",
        ),
        (
            "[settings]\nsloppy_tpc = 1",
            "7: settings.sloppy_tpc: unknown key; did you mean \"sloppy_tcp\"?; allowed are expire_nodest_conn, expire_quiescent_template, conn_reuse_mode, sloppy_tcp, sloppy_sctp, nat_icmp_send, schedule_icmp, pmtu_disc",
        ),
        (
            "[fullnat]\nports = \"0-9999\"",
            "7: fullnat.ports: \"0-9999\" begins with port 0; give $",
        ),
        (
            "[fullnat]\nports = \"1024-2046\"",
            "7: fullnat.ports: \"1024-2046\" has 1023 ports; give $",
        ),
        (
            "[fullnat]\nports = \"1024-65536\"",
            "7: fullnat.ports: \"1024-65536\" is not a port or a range of ports; give $",
        ),
        ("[fullnat]\nports = 1024", "7: fullnat.ports: is an integer; give $"),
    ];
    check(BASE, "a range of at least 1024 ports such as \"1024-32767\"", &rows);
}

#[test]
fn hostile_texts_get_one_short_line() {
    for text in [
        format!("{} = 1", "k".repeat(1_000_000)),
        format!("[director]\npoll = \"{}\"\ncores = [1]", "v".repeat(1_000_000)),
        format!("[director]\ncores = [{}]", "9".repeat(1_000_000)),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("{}x = 1", "a.".repeat(100_000)),
        "\u{0}".to_owned(),
        "[director]\r\ncores = [1]\r\n\r\n[[port]]\r\nname = \"a\\r\\nb\u{2028}\"".to_owned(),
    ] {
        let line = refusal(&text);
        assert!(line.starts_with("rvsd.toml:") && line.len() < 800, "{} bytes", line.len());
        assert!(!line.contains(['\n', '\r', '\u{2028}']), "{line:?}");
    }
}
