//! The kernel mirror against a real kernel; see `namespaces`. `ip` sets the
//! scene and gives the second opinion.

mod namespaces;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use control::daemon::{Network, NetworkPort};
use control::kernel::{
    Added, Deleted, Fault, KeptNeighbours, Mirror, Monitor, NeighbourState, NoRoute, OwnedAddress,
    OwnedAddresses, OwnedError, Requests,
};
use namespaces::{FAR_MAC, Scene, Test, addr, ip, ip_output, run_dir, second_cable};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

const TESTS: [Test; 16] = [
    ("the mirror shows links and addresses", links_and_addresses),
    ("resolve agrees with ip route get", agrees_with_ip_route_get),
    ("routes are followed as they change", follows_changes),
    ("IPv6 multipath is followed hop by hop", follows_ipv6_multipath),
    ("routes that vanish without a message vanish here", silent_losses),
    ("lost messages lead to a new dump", overrun),
    ("a kept neighbour is resolved and released", kept_neighbours),
    ("a kept neighbour comes back after its link was down", kept_after_link_down),
    ("without managed neighbours they are refreshed", kept_without_managed),
    ("a permanent neighbour is left alone", permanent_neighbour),
    ("addresses are added and deleted once", address_requests),
    ("owned addresses: the operator's are not removed", owned_addresses),
    ("owned addresses: a killed daemon's are found", owned_after_kill),
    ("owned addresses: a VIP is no source of the director", vips_are_no_source),
    ("local addresses are put up in their port's network", local_addresses),
    ("refusals name the operation and the error", refusals),
];

fn main() {
    namespaces::run(&TESTS);
}

/// Monitor, mirror and requests, as the control thread has them.
struct Kernel {
    monitor: Monitor,
    mirror: Mirror,
    requests: Requests,
}

impl Kernel {
    fn open() -> Self {
        let mut kernel = Self {
            monitor: Monitor::open().expect("a monitor"),
            mirror: Mirror::new(),
            requests: Requests::open().expect("a request socket"),
        };
        kernel.monitor.fill(&mut kernel.mirror, Duration::from_secs(5)).expect("a full mirror");
        kernel
    }

    fn read(&mut self) {
        while self.monitor.read(&mut self.mirror).expect("a read")
            == control::kernel::Progress::More
        {}
    }

    /// Reads until `done`, at most five seconds.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            self.read();
            if done(self) {
                return;
            }
            assert!(Instant::now() < deadline, "not within five seconds: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn link(&self, name: &str) -> u32 {
        self.mirror.link_by_name(name).unwrap_or_else(|| panic!("no link {name}")).index
    }

    fn way(&mut self, destination: &str) -> String {
        self.read();
        way(&self.mirror, destination)
    }

    fn state(&self, ip: &str) -> Option<NeighbourState> {
        self.mirror.neighbour_state(self.link("lan"), addr(ip))
    }
}

fn way(mirror: &Mirror, destination: &str) -> String {
    match mirror.resolve(addr(destination)) {
        Ok(way) => format!("{} {}", way.link_name, way.neighbour),
        Err(NoRoute::Local) => "local".to_owned(),
        Err(_) => "none".to_owned(),
    }
}

/// The same from `ip route get`.
fn second_opinion(destination: &str) -> String {
    let Ok(text) = ip_output(&format!("route get {destination}")) else { return "none".to_owned() };
    let words: Vec<&str> = text.split_whitespace().collect();
    let after = |word| words.iter().position(|w| *w == word).map(|at| words[at + 1]);
    if ["local", "anycast"].contains(&words[0]) {
        return "local".to_owned();
    }
    if ["broadcast", "unreachable", "blackhole", "prohibit", "multicast"].contains(&words[0]) {
        return "none".to_owned();
    }
    // `via inet6 ADDRESS` where the gateway is of the other family.
    let gateway = match after("via") {
        Some("inet6") => after("inet6"),
        other => other,
    };
    format!("{} {}", after("dev").expect("a device"), gateway.unwrap_or(destination))
}

fn links_and_addresses(_: &Scene) {
    let mut kernel = Kernel::open();
    kernel.until("carrier", |kernel| {
        kernel.mirror.link_by_name("lan").is_some_and(control::kernel::Link::usable)
    });
    let lan = kernel.mirror.link_by_name("lan").unwrap().clone();
    assert_eq!((lan.mac, lan.mtu), (Some([0, 0x50, 0, 0, 3, 0]), 1500));
    let has = |mirror: &Mirror, ip| mirror.addresses().any(|a| a.link == lan.index && a.ip == ip);
    assert!(has(&kernel.mirror, addr("192.0.2.1")) && has(&kernel.mirror, addr("2001:db8::1")));

    ip("link set lan mtu 1400 address 00:50:00:00:03:01");
    ip("addr add 192.0.2.77/24 dev lan");
    ip("link set lan down");
    ip("link set lan name lan0");
    kernel.read();
    let lan0 = kernel.mirror.link(lan.index).unwrap().clone();
    assert_eq!((&*lan0.name, lan0.mtu, lan0.mac.unwrap()[5], lan0.up), ("lan0", 1400, 1, false));
    assert!(has(&kernel.mirror, addr("192.0.2.77")));
    ip("link del lan0");
    kernel.read();
    assert!(kernel.mirror.link(lan.index).is_none());
    assert!(!has(&kernel.mirror, addr("192.0.2.77")));
}

fn agrees_with_ip_route_get(scene: &Scene) {
    second_cable(scene);
    for route in [
        "default via 192.0.2.254 dev lan metric 50",
        "default via 198.51.100.254 dev wan metric 100",
        "10.0.0.0/8 via 198.51.100.9",
        "10.1.0.0/16 via 192.0.2.9 metric 7",
        "10.1.0.0/16 via 198.51.100.9 metric 8",
        "10.1.2.0/24 dev wan",
        "10.1.2.128/25 dev lan mtu 1300",
        "10.1.2.3/32 via 192.0.2.33",
        "10.2.0.0/16 via inet6 2001:db8::99 dev lan",
        "blackhole 10.3.0.0/16",
        "unreachable 10.4.0.0/16",
        "prohibit 10.5.0.0/16",
        "throw 10.6.0.0/16",
        "10.3.3.0/24 via 192.0.2.3",
        "local 10.7.0.0/16 dev lo",
        "10.7.7.0/24 via 192.0.2.7",
        "10.8.0.0/16 dev lan table 77",
        "2001:db8:1::/48 via 2001:db8::9",
        "2001:db8:1:1::/64 dev wan metric 10",
        "2001:db8:1:1::/64 dev lan metric 9",
        "2001:db8:1:1::5/128 via fe80::5 dev wan",
        "blackhole 2001:db8:2::/48",
        "unreachable 2001:db8:3::/48",
        "local 2001:db8:4::/48 dev lo",
        "2001:db8:4:1::/64 dev lan",
        "default via fe80::1 dev lan",
    ] {
        let family = if route.contains("::") && !route.contains("inet6") { "-6 " } else { "" };
        let family = if route.starts_with("default via fe80") { "-6 " } else { family };
        ip(&format!("{family}route add {route}"));
    }
    let mut kernel = Kernel::open();
    let destinations = [
        "8.8.8.8",
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.255",
        "127.0.0.1",
        "127.9.9.9",
        "198.51.100.77",
        "10.200.1.1",
        "10.1.9.9",
        "10.1.2.9",
        "10.1.2.200",
        "10.1.2.3",
        "10.2.1.1",
        "10.3.1.1",
        "10.3.3.3",
        "10.4.1.1",
        "10.5.1.1",
        "10.6.1.1",
        "10.7.1.1",
        "10.7.7.7",
        "10.8.1.1",
        "2001:db8::1",
        "2001:db8::2",
        "2001:db8:1:2::1",
        "2001:db8:1:1::4",
        "2001:db8:1:1::5",
        "2001:db8:2::1",
        "2001:db8:3::1",
        "2001:db8:4::1",
        "2001:db8:4:1::1",
        "2001:db8:ffff::9",
        "2a00::1",
        "::1",
    ];
    for destination in destinations {
        assert_eq!(kernel.way(destination), second_opinion(destination), "{destination}");
    }
    assert_eq!(kernel.mirror.resolve(addr("10.1.2.200")).unwrap().mtu, 1300);
    assert_eq!(kernel.mirror.resolve(addr("10.1.2.9")).unwrap().mtu, 1500);
}

fn follows_changes(scene: &Scene) {
    second_cable(scene);
    let mut kernel = Kernel::open();
    for (command, destinations) in [
        ("route add 10.0.0.0/8 via 192.0.2.2", "10.0.0.5"),
        ("route append 10.0.0.0/8 via 198.51.100.2", "10.0.0.5"),
        ("route prepend 10.0.0.0/8 via 198.51.100.3", "10.0.0.5"),
        ("route replace 10.0.0.0/8 via 192.0.2.4", "10.0.0.5"),
        ("route change 10.0.0.0/8 via 192.0.2.5", "10.0.0.5"),
        ("route del 10.0.0.0/8 via 192.0.2.5", "10.0.0.5"),
        ("route del 10.0.0.0/8", "10.0.0.5"),
        ("route del 10.0.0.0/8", "10.0.0.5"),
        ("route add 10.0.0.0/8 dev wan metric 3", "10.0.0.5"),
        ("route add 10.0.0.0/8 dev lan metric 2", "10.0.0.5"),
        ("route flush 10.0.0.0/8", "10.0.0.5"),
        ("addr add 10.0.0.5/32 dev lo", "10.0.0.5"),
        ("addr del 10.0.0.5/32 dev lo", "10.0.0.5"),
        ("-6 route add 2001:db8:7::/48 via 2001:db8::2", "2001:db8:7::1"),
        ("-6 route replace 2001:db8:7::/48 dev wan", "2001:db8:7::1"),
        ("-6 route add 2001:db8:7::/48 dev lan metric 5", "2001:db8:7::1"),
        ("-6 route del 2001:db8:7::/48 dev lan metric 5", "2001:db8:7::1"),
        ("-6 route del 2001:db8:7::/48", "2001:db8:7::1"),
    ] {
        ip(command);
        assert_eq!(kernel.way(destinations), second_opinion(destinations), "after ip {command}");
    }
    let count = kernel.mirror.route_count();
    assert_eq!(kernel.monitor.stats().dumps, 1, "all by messages");
    assert_eq!(Kernel::open().mirror.route_count(), count, "a fresh dump has as many");

    ip("route add 10.0.0.0/8 nexthop via 192.0.2.2 nexthop via 198.51.100.2");
    let multipath = kernel.way("10.0.0.5");
    assert_eq!(multipath, "lan 192.0.2.2", "always the first");
    // Without carrier, as when the cable is pulled.
    scene.there("link set far down");
    kernel.until("the other hop", |kernel| kernel.way("10.0.0.5") == "wan 198.51.100.2");
    scene.there("link set far up");
    kernel.until("the first hop", |kernel| kernel.way("10.0.0.5") == multipath);
}

fn follows_ipv6_multipath(scene: &Scene) {
    second_cable(scene);
    let mut kernel = Kernel::open();
    let base = kernel.mirror.route_count();
    let to = "2001:db8:7::/48";
    let rows = [
        (format!("add {to} nexthop via 2001:db8::2 nexthop via 2001:db8:ffff::2"), 2),
        (format!("append {to} via 2001:db8::3"), 3),
        (format!("del {to} via 2001:db8::2"), 2),
        (format!("replace {to} nexthop via 2001:db8::4 nexthop via 2001:db8::5"), 2),
        (format!("replace {to} via 2001:db8:ffff::6"), 1),
        (format!("append {to} via 2001:db8:ffff::7"), 2),
        (format!("del {to}"), 0),
    ];
    for (command, hops) in rows {
        ip(&format!("-6 route {command}"));
        kernel.read();
        assert_eq!(kernel.mirror.route_count() - base, hops, "ip -6 route {command}");
        let fresh = Kernel::open().mirror.route_count();
        assert_eq!(fresh, kernel.mirror.route_count(), "a dump after {command}");
        let shown = ip(&format!("-6 route show {to}"));
        let way = kernel.way("2001:db8:7::1");
        let gateway = way.split(' ').next_back().unwrap();
        assert!(hops == 0 || shown.contains(gateway), "{way} is not in {shown}");
    }
}

fn silent_losses(scene: &Scene) {
    second_cable(scene);
    ip("addr add 192.0.2.50/32 dev lo");
    ip("route add 10.1.0.0/16 via 198.51.100.2");
    ip("route add 10.2.0.0/16 via 192.0.2.2 src 192.0.2.50");
    ip("nexthop add id 9 via 192.0.2.2 dev lan");
    ip("route add 10.3.0.0/16 nhid 9");
    let mut kernel = Kernel::open();
    for destination in ["10.1.0.1", "10.2.0.1", "10.3.0.1"] {
        assert_ne!(kernel.way(destination), "none", "{destination}");
    }
    ip("link set wan down");
    ip("link set wan up");
    kernel.until("a route of a link that was down", |kernel| kernel.way("10.1.0.1") == "none");
    ip("addr del 192.0.2.50/32 dev lo");
    kernel.until("a route without its source", |kernel| kernel.way("10.2.0.1") == "none");
    ip("nexthop replace id 9 via 192.0.2.3 dev lan");
    kernel.until("another gateway", |kernel| kernel.way("10.3.0.1") == "lan 192.0.2.3");
    ip("nexthop del id 9");
    kernel.until("a route without its object", |kernel| kernel.way("10.3.0.1") == "none");
    assert_eq!(kernel.monitor.stats().overruns, 0);
}

fn overrun(_: &Scene) {
    let mut kernel = Kernel::open();
    setsockopt(&kernel.monitor, sockopt::RcvBuf, &4096).expect("a small queue");
    let batch: String = (0..2000)
        .map(|n| format!("route add 10.{}.{}.0/24 via 192.0.2.2\n", n / 250, n % 250))
        .collect();
    let file = std::env::temp_dir().join(format!("hk-batch-{}", std::process::id()));
    fs::write(&file, batch).unwrap();
    ip(&format!("-batch {}", file.display()));
    fs::remove_file(&file).unwrap();
    kernel.read();
    assert!(kernel.monitor.stats().overruns > 0, "{:?}", kernel.monitor.stats());
    kernel.until("all routes", |kernel| {
        let mirror = &kernel.mirror;
        (0..2000).all(|n| way(mirror, &format!("10.{}.{}.1", n / 250, n % 250)) == "lan 192.0.2.2")
    });
    assert!(kernel.monitor.stats().dumps > 1);
    assert_eq!(kernel.monitor.stats().undecoded, 0);
}

fn kept(kernel: &Kernel, addresses: &[&str]) -> HashSet<(u32, IpAddr)> {
    addresses.iter().map(|text| (kernel.link("lan"), addr(text))).collect()
}

fn kept_neighbours(_: &Scene) {
    let mut kernel = Kernel::open();
    let lan = kernel.link("lan");
    let wanted = kept(&kernel, &["192.0.2.2", "2001:db8::2", "192.0.2.99"]);
    let mut neighbours = KeptNeighbours::new();
    neighbours.sync(&wanted, &mut kernel.requests);
    assert_eq!(neighbours.len(), 3);
    for ip in ["192.0.2.2", "2001:db8::2"] {
        kernel.until(ip, |kernel| kernel.state(ip) == Some(NeighbourState::Reachable));
        assert_eq!(kernel.mirror.neighbour(lan, addr(ip)), Some(FAR_MAC));
    }
    assert_eq!(kernel.mirror.neighbour(lan, addr("192.0.2.99")), None, "nobody answers");
    assert_eq!(managed(), ["192.0.2.2", "192.0.2.99", "2001:db8::2"]);

    neighbours.sync(&kept(&kernel, &["192.0.2.2"]), &mut kernel.requests);
    assert_eq!(managed(), ["192.0.2.2"]);
    neighbours.sync(&HashSet::new(), &mut kernel.requests);
    assert_eq!((managed(), neighbours.is_empty()), (vec![], true));
}

/// What `ip` shows as managed, sorted.
fn managed() -> Vec<String> {
    let shown = ip("neigh show") + "\n" + &ip("-6 neigh show");
    let lines: BTreeSet<&str> = shown.lines().filter(|line| line.contains(" managed")).collect();
    lines.into_iter().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

fn kept_after_link_down(_: &Scene) {
    let mut kernel = Kernel::open();
    let wanted = kept(&kernel, &["192.0.2.2"]);
    let mut neighbours = KeptNeighbours::new();
    neighbours.sync(&wanted, &mut kernel.requests);
    kernel.until("the neighbour", |kernel| kernel.state("192.0.2.2").is_some());
    ip("link set lan down");
    kernel.until("no neighbour", |kernel| kernel.state("192.0.2.2").is_none());
    neighbours.refresh(&kernel.mirror, &mut kernel.requests);
    ip("link set lan up");
    kernel.until("the neighbour again", |kernel| {
        neighbours.refresh(&kernel.mirror, &mut kernel.requests);
        kernel.state("192.0.2.2") == Some(NeighbourState::Reachable)
    });
    assert_eq!(managed(), ["192.0.2.2"]);
    neighbours.sync(&HashSet::new(), &mut kernel.requests);
    assert_eq!(managed(), [""; 0], "still ours to release");
}

fn kept_without_managed(_: &Scene) {
    let mut kernel = Kernel::open();
    let wanted = kept(&kernel, &["192.0.2.2", "2001:db8::2"]);
    let mut neighbours = KeptNeighbours::without_managed();
    neighbours.sync(&wanted, &mut kernel.requests);
    let resolved = |kernel: &mut Kernel| {
        ["192.0.2.2", "2001:db8::2"]
            .iter()
            .all(|ip| kernel.state(ip) == Some(NeighbourState::Reachable))
    };
    kernel.until("both", resolved);
    assert_eq!(managed(), [""; 0]);
    ip("neigh flush dev lan");
    ip("-6 neigh flush dev lan");
    kernel.until("none", |kernel| kernel.state("192.0.2.2").is_none());
    kernel.until("both again", |kernel| {
        neighbours.refresh(&kernel.mirror, &mut kernel.requests);
        resolved(kernel)
    });
}

fn permanent_neighbour(_: &Scene) {
    ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:09 dev lan nud permanent");
    let mut kernel = Kernel::open();
    let wanted = kept(&kernel, &["192.0.2.2"]);
    let mut neighbours = KeptNeighbours::new();
    neighbours.sync(&wanted, &mut kernel.requests);
    neighbours.refresh(&kernel.mirror, &mut kernel.requests);
    neighbours.sync(&HashSet::new(), &mut kernel.requests);
    let shown = ip("neigh show 192.0.2.2 dev lan");
    assert!(shown.contains("02:00:00:00:00:09") && shown.contains("PERMANENT"), "{shown}");
    let lan = kernel.link("lan");
    assert_eq!(kernel.mirror.neighbour(lan, addr("192.0.2.2")), Some([2, 0, 0, 0, 0, 9]));
}

fn address_requests(_: &Scene) {
    let mut kernel = Kernel::open();
    let lan = kernel.link("lan");
    let requests = &mut kernel.requests;
    for (ip, len) in [(addr("192.0.2.7"), 24), (addr("2001:db8::7"), 64)] {
        assert_eq!(requests.add_address(lan, ip, len), Ok(Added::Added));
        assert_eq!(requests.add_address(lan, ip, len), Ok(Added::AlreadyThere));
        assert!(requests.addresses().unwrap().iter().any(|address| address.ip == ip));
        assert_eq!(requests.delete_address(lan, ip, len), Ok(Deleted::Deleted));
        assert_eq!(requests.delete_address(lan, ip, len), Ok(Deleted::NotThere));
        assert_eq!(requests.delete_address(999, ip, len), Ok(Deleted::NotThere));
    }
    requests.add_address(lan, addr("2001:db8::8"), 128).unwrap();
    let shown = ip("-6 addr show dev lan to 2001:db8::8");
    assert!(shown.contains("nodad") && !shown.contains("tentative"), "{shown}");
    ip("link set lan down");
    requests.set_link_up(lan).unwrap();
    kernel.read();
    assert!(kernel.mirror.link(lan).unwrap().up);
}

fn vip(link: &str, ip: &str) -> OwnedAddress {
    let ip = addr(ip);
    OwnedAddress { link: link.to_owned(), ip, prefix_len: if ip.is_ipv4() { 32 } else { 128 } }
}

fn set(addresses: &[&OwnedAddress]) -> BTreeSet<OwnedAddress> {
    addresses.iter().copied().cloned().collect()
}

fn is_on_lo(address: &OwnedAddress) -> bool {
    let shown = ip("addr show dev lo");
    shown.contains(&format!(" {}/{} ", address.ip, address.prefix_len))
}

fn owned_addresses(_: &Scene) {
    let run_dir = run_dir("owned");
    let mut requests = Requests::open().unwrap();
    let ours = [vip("lo", "203.0.113.1"), vip("lo", "2001:db8:cafe::1")];
    let theirs = vip("lo", "203.0.113.2");
    ip("addr add 203.0.113.2/32 dev lo");
    let wanted = set(&[&ours[0], &ours[1], &theirs]);

    let mut owned = OwnedAddresses::open(&run_dir).unwrap();
    owned.sync(&wanted, &mut requests).unwrap();
    assert!(wanted.iter().all(is_on_lo));
    assert!(owned.owns(&ours[0]) && owned.owns(&ours[1]) && !owned.owns(&theirs));

    // Twice in a row, without anybody reading the monitor in between.
    owned.sync(&set(&[]), &mut requests).unwrap();
    owned.sync(&wanted, &mut requests).unwrap();
    assert!(wanted.iter().all(is_on_lo) && owned.owns(&ours[0]));

    // Deleted by hand: it comes back, and is still ours.
    ip("addr del 203.0.113.1/32 dev lo");
    owned.sync(&wanted, &mut requests).unwrap();
    assert!(is_on_lo(&ours[0]) && owned.owns(&ours[0]));

    let absent = vip("nolink", "203.0.113.3");
    let errors = owned.sync(&set(&[&ours[0], &absent]), &mut requests).unwrap_err();
    assert!(matches!(&errors[..], [OwnedError::NoLink(address)] if *address == absent));
    assert!(is_on_lo(&ours[0]) && !is_on_lo(&ours[1]), "the others are dealt with");

    owned.sync(&set(&[]), &mut requests).unwrap();
    assert!(!is_on_lo(&ours[0]) && is_on_lo(&theirs));
    assert_eq!(OwnedAddresses::open(&run_dir).unwrap().iter().count(), 0);
    fs::remove_dir_all(&run_dir).unwrap();
}

/// The neighbours lie closer to the VIPs than to the port's addresses.
fn vips_are_no_source(_: &Scene) {
    let run_dir = run_dir("source");
    let mut requests = Requests::open().unwrap();
    let mut owned = OwnedAddresses::open(&run_dir).unwrap();
    let port = OwnedAddress { link: "lan".into(), ip: addr("2001:db8:5::1"), prefix_len: 64 };
    let vips = [
        vip("lan", "2001:db8:5::100"),
        vip("lan", "2001:db8::100"),
        vip("lo", "192.0.2.100"),
        vip("lan", "192.0.2.101"),
    ];
    let wanted = vips.iter().chain([&port]).cloned().collect();
    owned.sync(&wanted, &mut requests).unwrap();
    for (neighbour, source) in [
        ("2001:db8::101", "2001:db8::1"),
        ("2001:db8:5::101", "2001:db8:5::1"),
        ("192.0.2.102", "192.0.2.1"),
    ] {
        let way = ip(&format!("route get {neighbour}"));
        assert!(way.contains(&format!(" src {source} ")), "{way}");
    }
    // For good, and answered for.
    let shown = ip("-6 addr show dev lan to 2001:db8::100");
    assert!(shown.contains("deprecated") && shown.contains("valid_lft forever"), "{shown}");
    assert!(ip("route get 2001:db8::100").starts_with("local "));
    owned.sync(&set(&[]), &mut requests).unwrap();
    assert!(ip("-6 addr show dev lan to 2001:db8::100").is_empty());
    fs::remove_dir_all(&run_dir).unwrap();
}

fn local_addresses(_: &Scene) {
    let run_dir = run_dir("locals");
    let mac = [0, 0x50, 0, 0, 3, 0];
    let port = NetworkPort { name: "lan".into(), mac, mtu: 1500 };
    let own = OwnedAddress { link: "lan".into(), ip: addr("198.51.100.1"), prefix_len: 24 };
    ip("addr add 192.0.2.60/32 dev lo");
    let mut network = Network::start(vec![port], &set(&[&own]), &run_dir).unwrap();
    let is_up = |text: &str| ip("addr show").contains(text);
    let mut locals = |addresses: &[&str]| {
        while network.read() {}
        network.own_locals(&addresses.iter().map(|a| addr(a)).collect());
        network.refresh(Instant::now());
    };
    // One was there, and one is in no network.
    let all = ["192.0.2.50", "192.0.2.60", "2001:db8::50", "203.0.113.50"];
    locals(&all);
    for address in ["192.0.2.50/32", "2001:db8::50/128"] {
        assert!(is_up(&format!("{address} ")), "{address}");
    }
    assert!(ip("addr show dev lan").contains("192.0.2.50/32"));
    assert!(!ip("addr show dev lan").contains("192.0.2.60"), "the operator's");
    assert!(!is_up("203.0.113.50"));
    // When its network comes, it does; the others stay though they are local.
    ip("addr add 203.0.113.1/24 dev lan");
    locals(&all);
    assert!(is_up("203.0.113.50/32") && is_up("192.0.2.50/32"));
    locals(&["192.0.2.60", "2001:db8::50"]);
    assert!(!is_up("192.0.2.50") && !is_up("203.0.113.50"));
    assert!(is_up("192.0.2.60") && is_up("2001:db8::50") && is_up("198.51.100.1/24"));
    drop(network);
    assert!(is_up("192.0.2.60") && !is_up("2001:db8::50") && !is_up("198.51.100.1"));
    fs::remove_dir_all(&run_dir).unwrap();
}

fn owned_after_kill(_: &Scene) {
    let run_dir = run_dir("killed");
    let mut requests = Requests::open().unwrap();
    let (stays, goes) = (vip("lo", "203.0.113.1"), vip("lo", "203.0.113.2"));
    let (tap, theirs) = (vip("lan", "203.0.113.3"), vip("lo", "203.0.113.4"));
    {
        let mut killed = OwnedAddresses::open(&run_dir).unwrap();
        killed.sync(&set(&[&stays, &goes, &tap]), &mut requests).unwrap();
    }
    assert!(is_on_lo(&goes), "nothing was cleaned up");
    // Its taps go with the process; meanwhile the operator adds an address.
    ip("link del lan");
    ip("addr add 203.0.113.4/32 dev lo");

    let mut next = OwnedAddresses::open(&run_dir).unwrap();
    let before = ip("addr show dev lo to 203.0.113.1");
    next.sync(&set(&[&stays, &theirs]), &mut requests).unwrap();
    assert_eq!(ip("addr show dev lo to 203.0.113.1"), before);
    assert!(next.owns(&stays) && !is_on_lo(&goes) && !next.owns(&tap) && !next.owns(&theirs));

    // Killed between the record and the address: the next start adds it.
    let record = fs::read_to_string(run_dir.join("owned.json")).unwrap();
    ip("addr del 203.0.113.1/32 dev lo");
    let mut last = OwnedAddresses::open(&run_dir).unwrap();
    last.sync(&set(&[&stays]), &mut requests).unwrap();
    assert_eq!(fs::read_to_string(run_dir.join("owned.json")).unwrap(), record);
    assert!(is_on_lo(&stays));
    last.sync(&set(&[]), &mut requests).unwrap();
    assert!(!is_on_lo(&stays) && is_on_lo(&theirs));
    fs::remove_dir_all(&run_dir).unwrap();
}

fn refusals(_: &Scene) {
    let mut requests = Requests::open().unwrap();
    let error = requests.add_address(999, addr("192.0.2.7"), 32).unwrap_err();
    assert_eq!(error.fault, Fault::Errno(Errno::ENODEV));
    let text = error.to_string();
    assert!(text.starts_with("add address 192.0.2.7/32 to link 999: ENODEV"), "{text}");
    let error = requests.set_link_up(999).unwrap_err().to_string();
    assert!(error.starts_with("set link 999 up: ENODEV"), "{error}");
    assert!(requests.add_address(1, addr("192.0.2.7"), 64).is_err(), "a length beyond 32");
    assert_eq!(requests.neighbour(1, addr("192.0.2.7")), Ok(None));
}
