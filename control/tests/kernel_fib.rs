//! The way to any address, from a real kernel's tables to what a worker reads;
//! see `namespaces`.

mod namespaces;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::api::{KernelPathCounters, Timeouts};
use control::daemon::saved::Saved;
use control::daemon::{Daemon, Instruments, Network, NetworkPort};
use control::registry::Registry;
use control::server::Access;
use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::fib::{Fib, Way};
use dataplane::shard::Shard;
use dataplane::snapshot::{Port, Snapshot};
use dataplane::time::{Clock, Tick};
use dataplane::update::{self, Missing, Reply, Update, WorkerEnd};
use namespaces::{FAR_MAC, Scene, Test, addr, ip, run_dir, second_cable};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TESTS: [Test; 5] = [
    ("the fib follows routes, neighbours and addresses", follows_the_kernel),
    ("a missing neighbour is found, and found again", missing_is_found),
    ("gateways are resolved before a packet needs them", gateways_are_kept),
    ("what somebody else manages is left alone", managed_is_left_alone),
    ("a worker that misses a neighbour gets a snapshot with it", round_trip),
];

fn main() {
    // For the daemon that one of them ends by a signal.
    Daemon::block_signals();
    namespaces::run(&TESTS);
}

const LAN_MAC: [u8; 6] = [0, 0x50, 0, 0, 3, 0];
const WAN_MAC: [u8; 6] = [0, 0x50, 0, 0, 3, 1];

/// Removed at the end.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn network(directory: &Directory) -> Network {
    let ports = vec![
        NetworkPort { name: "lan".into(), mac: LAN_MAC, mtu: 1500, device: 0, vlan: None },
        NetworkPort { name: "wan".into(), mac: WAN_MAC, mtu: 1500, device: 1, vlan: None },
    ];
    Network::start(ports, &BTreeSet::new(), &directory.0).unwrap()
}

/// What workers would have.
struct Bench {
    // Before its directory, into which it writes at its end.
    network: Network,
    _directory: Directory,
    fib: Arc<Fib>,
    ports: Vec<Port>,
}

impl Bench {
    fn new(name: &str) -> Self {
        let directory = Directory(run_dir(name));
        let mut network = network(&directory);
        let (fib, ports) = network.changed_ways().unwrap();
        Self { network, _directory: directory, fib, ports }
    }

    fn way(&mut self, destination: &str) -> String {
        while self.network.read() {}
        if let Some((fib, ports)) = self.network.changed_ways() {
            (self.fib, self.ports) = (fib, ports);
        }
        way(&self.fib, destination)
    }

    /// Waits until an address has this way, at most so long.
    fn until(&mut self, destination: &str, expected: &str, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            let way = self.way(destination);
            if way == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{destination}: {way}, not {expected}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn report(&mut self, neighbour: &str) {
        let missing = Missing { port: 0, neighbour: addr(neighbour) };
        self.network.report_missing(missing, Instant::now());
    }
}

/// `lan 02` for the port and the last two bytes of the neighbour's MAC address.
fn way(fib: &Fib, destination: &str) -> String {
    let way = match addr(destination) {
        IpAddr::V4(ip) => fib.lookup4(ip.to_bits()),
        IpAddr::V6(ip) => fib.lookup6(&ip.octets()),
    };
    let name = |port| ["lan", "wan"][usize::from(port)];
    match way {
        Way::Port(hop) => {
            assert_eq!(hop.src_mac, [LAN_MAC, WAN_MAC][usize::from(hop.port)]);
            let [.., a, b] = hop.dst_mac;
            format!("{} {a:02x}{b:02x} {}", name(hop.port), hop.mtu)
        }
        Way::Unresolved { port, neighbour } => format!("{} ?{neighbour}", name(port)),
        Way::NoRoute => "none".into(),
        Way::Local => "local".into(),
    }
}

fn follows_the_kernel(scene: &Scene) {
    second_cable(scene);
    let mut bench = Bench::new("fib-follows");
    // A link that is no port's.
    ip("link add other type veth peer name otherfar");
    ip("link set other up");
    ip("link set otherfar up");
    let rows = [
        ("route add default via 198.51.100.9", "8.8.8.8", "wan ?198.51.100.9"),
        ("neigh add 198.51.100.9 lladdr 02:00:00:00:01:09 dev wan", "8.8.8.8", "wan 0109 1500"),
        ("route add 10.0.0.0/8 via 192.0.2.9 mtu 1300", "10.1.1.1", "lan ?192.0.2.9"),
        ("neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev lan", "10.1.1.1", "lan 0009 1300"),
        ("neigh change 192.0.2.9 lladdr 02:00:00:00:00:0a dev lan", "10.1.1.1", "lan 000a 1300"),
        ("route add 10.1.1.1/32 dev wan", "10.1.1.1", "wan ?10.1.1.1"),
        ("route add blackhole 10.2.0.0/16", "10.2.255.255", "none"),
        ("route add 10.3.0.0/16 dev other", "10.3.0.1", "none"),
        ("addr add 10.4.0.1/32 dev lo", "10.4.0.1", "local"),
        ("route del 10.1.1.1/32", "10.1.1.1", "lan 000a 1300"),
        ("route add 10.5.0.0/16 via inet6 2001:db8::9 dev lan", "10.5.0.1", "lan ?2001:db8::9"),
        ("neigh add 192.0.2.77 lladdr 02:00:00:00:00:77 dev lan", "192.0.2.77", "lan 0077 1500"),
        ("neigh del 192.0.2.77 dev lan", "192.0.2.77", "lan ?192.0.2.77"),
        ("-6 route add default via 2001:db8::9", "2a00::1", "lan ?2001:db8::9"),
        ("neigh add 2001:db8::9 lladdr 02:00:00:00:06:09 dev lan", "2a00::1", "lan 0609 1500"),
        ("-6 route add 2001:db8:1::/48 dev wan", "2001:db8:1::5", "wan ?2001:db8:1::5"),
        ("-6 route add unreachable 2001:db8:1:2::/64", "2001:db8:1:2::5", "none"),
        ("addr add 2001:db8:1::7/128 dev lo nodad", "2001:db8:1::7", "local"),
        ("link set wan down", "8.8.8.8", "none"),
    ];
    for (command, destination, expected) in rows {
        ip(command);
        assert_eq!(bench.way(destination), expected, "{destination} after ip {command}");
    }
    for (destination, expected) in [
        ("10.5.0.1", "lan 0609 1500"),
        ("192.0.2.1", "local"),
        ("192.0.2.255", "none"),
        ("255.255.255.255", "none"),
        ("224.0.0.1", "none"),
        ("127.0.0.1", "local"),
        ("fe80::1", "none"),
        ("ff02::1", "none"),
    ] {
        assert_eq!(bench.way(destination), expected, "{destination}");
    }

    let lan = |bench: &mut Bench| {
        bench.way("192.0.2.1");
        let Port { mac, address4, address6, mtu, .. } = bench.ports[0];
        assert_eq!(mac, LAN_MAC);
        (address4.map(|ip| IpAddr::from(ip.to_be_bytes())), address6.map(IpAddr::from), mtu)
    };
    assert_eq!(lan(&mut bench), (Some(addr("192.0.2.1")), Some(addr("2001:db8::1")), 1500));
    ip("addr add 203.0.113.50/24 dev lan");
    assert_eq!(lan(&mut bench).0, Some(addr("192.0.2.1")));
    ip("addr del 192.0.2.1/24 dev lan");
    ip("addr add 2001:db8::5/64 dev lan nodad");
    ip("addr del 2001:db8::1/64 dev lan");
    ip("link set lan mtu 1400");
    let expected = (Some(addr("203.0.113.50")), Some(addr("2001:db8::5")), 1400);
    assert_eq!(lan(&mut bench), expected);
    ip("addr del 203.0.113.50/24 dev lan");
    assert_eq!(lan(&mut bench).0, None);
}

/// As `way` has it, of the other end of the cable.
const FAR: &str = "lan 0100 1500";
const SOON: Duration = Duration::from_secs(1);

fn missing_is_found(_: &Scene) {
    assert_eq!(FAR_MAC[4..], [1, 0]);
    let mut bench = Bench::new("fib-missing");
    for host in ["192.0.2.2", "2001:db8::2"] {
        assert_eq!(bench.way(host), format!("lan ?{host}"), "before anybody asks");
        bench.report(host);
        bench.until(host, FAR, Duration::from_secs(5));
    }
    // The kernel lets go of what it does not see used.
    std::thread::sleep(SOON);
    for (host, flush) in [("192.0.2.2", "neigh"), ("2001:db8::2", "-6 neigh")] {
        ip(&format!("{flush} flush dev lan"));
        bench.until(host, &format!("lan ?{host}"), SOON);
        bench.report(host);
        bench.until(host, FAR, SOON);
    }
    // Nobody answers there, which is no reason to forget the others.
    bench.report("192.0.2.99");
    bench.network.refresh(Instant::now());
    assert_eq!(bench.way("192.0.2.99"), "lan ?192.0.2.99");
    assert_eq!(bench.way("192.0.2.2"), FAR);
    // What has grown stale is confirmed without another report.
    ip("neigh replace 192.0.2.2 lladdr 00:50:00:00:01:00 dev lan nud stale");
    while bench.network.read() {}
    bench.network.refresh(Instant::now());
    let shown = ip("neigh show 192.0.2.2 dev lan");
    assert!(["DELAY", "PROBE", "REACHABLE"].iter().any(|s| shown.contains(s)), "{shown}");
}

fn gateways_are_kept(_: &Scene) {
    ip("route add default via 192.0.2.2");
    ip("-6 route add default via 2001:db8::2");
    let mut bench = Bench::new("fib-gateways");
    bench.network.keep_only(HashSet::new());
    bench.until("8.8.8.8", FAR, Duration::from_secs(5));
    bench.until("2a00::1", FAR, Duration::from_secs(5));
}

fn managed_is_left_alone(_: &Scene) {
    let mut bench = Bench::new("fib-managed");
    // Nobody answers, so that a worker would report it.
    ip("neigh add 192.0.2.98 dev lan managed");
    ip("neigh add 192.0.2.97 lladdr 02:00:00:00:00:97 dev lan nud permanent");
    bench.report("192.0.2.98");
    bench.report("192.0.2.97");
    let shown = ip("neigh show dev lan");
    let line = |ip: &str| shown.lines().find(|line| line.starts_with(ip)).unwrap().to_owned();
    assert!(line("192.0.2.98").contains("managed"), "{shown}");
    assert!(line("192.0.2.97").contains("PERMANENT"), "{shown}");
}

/// Takes the snapshots that control sends, as a worker does.
fn latest(link: &mut WorkerEnd, running: &mut Arc<Snapshot>) {
    while let Some(update) = link.receive() {
        let Update::Snapshot(snapshot) = update else { panic!("{update:?}") };
        link.running(snapshot.epoch);
        link.reply(Reply::Retired(std::mem::replace(running, snapshot)));
    }
}

/// Ends the daemon, also when the worker finds something wrong.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = kill(Pid::this(), Signal::SIGTERM);
    }
}

fn round_trip(_: &Scene) {
    let directory = Directory(run_dir("fib-daemon"));
    let (control, mut link) = update::channel();
    let instruments = Instruments {
        cores: vec![0],
        ports: Box::new(Vec::new),
        recover: Box::new(Vec::new),
        kernel_path: Box::new(KernelPathCounters::default),
        connections: 1,
        clock: Clock::start(),
        shard: Arc::new(Shard::new(0x6d5a, 1, 128)),
        templates: Arc::new(Templates::new(1, HashKey::new([1, 2, 3])).unwrap()),
        tsc_hz: 1_000_000_000,
        probes: Arc::default(),
    };
    let registry = Registry::new(1, Vec::new(), Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
    let network = Some(network(&directory));
    let socket = directory.0.join("rvsd.sock");
    let saved = Saved::new(&directory.0);
    let mut daemon = Daemon::new(
        &socket,
        Access::default(),
        registry,
        vec![control],
        saved,
        network,
        instruments,
    )
    .unwrap();
    // Beside the daemon, which stays in the namespace's thread.
    let worker = std::thread::spawn(move || {
        let _ending = Ending;
        let mut snapshot = Arc::default();
        latest(&mut link, &mut snapshot);
        let port = snapshot.ports[0];
        assert_eq!((port.mac, port.address4, port.mtu), (LAN_MAC, Some(0xc000_0201), 1500));
        let start = Instant::now();
        while way(&snapshot.fib, "192.0.2.2") != FAR {
            assert!(start.elapsed() < SOON, "{}", way(&snapshot.fib, "192.0.2.2"));
            link.missing(Tick(start.elapsed().as_millis() as u32 / 125), 0, addr("192.0.2.2"));
            std::thread::sleep(Duration::from_millis(1));
            latest(&mut link, &mut snapshot);
        }
    });
    assert_eq!(daemon.run().unwrap(), Signal::SIGTERM);
    worker.join().unwrap();
}
