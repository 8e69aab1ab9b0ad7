//! A worker and the kernel path with a VLAN on a port, against a real kernel.
//! The port is a ring of DPDK: what it sends comes in again.

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::counters::{Counters, DropReason};
use dataplane::director::{Director, DirectorConfig};
use dataplane::dpdk::kernel_path::{ControlFrame, KernelCounters, KernelPath, TapPort};
use dataplane::dpdk::rings::connect;
use dataplane::dpdk::worker::{Idle, Worker, WorkerPort};
use dataplane::dpdk::{Eal, EalConfig, EalError, HugePages, Pool, Port, PortConfig, Tap};
use dataplane::icmp::IcmpLimits;
use dataplane::packet::Protocol;
use dataplane::punt::PuntLimits;
use dataplane::scheduler::{self, Candidate, Candidates, Scheduler};
use dataplane::service::{
    ClientAddress, Hop, Method, PortHop, Server, ServerCounts, Service, ServiceKey, Services,
};
use dataplane::shard::Shard;
use dataplane::snapshot::{self, Snapshot};
use dataplane::time::Clock;
use dataplane::update::{ControlEnd, Update, channel};

const MAC: [u8; 6] = [2, 0, 0, 0, 0x96, 1];
/// Everybody's: what is sent to the server comes back for the kernel.
const SERVER_MAC: [u8; 6] = [0xff; 6];
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 100);
/// The port and its VLAN.
const TAPS: [(&str, Option<u16>); 2] = [("hv-lan", None), ("hv-lan.10", Some(10))];

fn main() -> ExitCode {
    common::in_own_namespace("a_vlan_has_a_tap_of_its_own", a_vlan_has_a_tap_of_its_own)
}

fn a_vlan_has_a_tap_of_its_own() {
    let devices = ["net_ring0".to_owned()];
    let config = EalConfig {
        program: "dpdk_vlan",
        memory_mb: 64,
        huge: HugePages::Auto,
        file_prefix: "rvstestvlan",
        devices: &devices,
        workers: &[0],
        extra_args: &[],
    };
    let eal = Eal::init(&config).unwrap();
    let pool = Pool::new(&eal, "ring", 4095, 256, None, Pool::DATA_ROOM).unwrap();
    let port_config = PortConfig {
        name: "lan",
        rx_queues: 1,
        tx_queues: 1,
        rx_descriptors: 256,
        tx_descriptors: 256,
        mtu: 1500,
        tagged: true,
        rss: None,
    };
    let mut port = Port::open(&devices[0], &port_config, &pool).unwrap();
    port.start().unwrap();
    let (mut workers, kernel_rings) = connect(1);
    let (mut control, director) = director();
    let worker = Worker {
        director,
        ports: vec![WorkerPort {
            rx: port.rx_queue(0).unwrap(),
            tx: port.tx_queue(0).unwrap(),
            pool: pool.clone(),
            trust_rss: false,
        }],
        devices: vec![0, 0],
        rings: workers.remove(0),
        idle: Idle::Adaptive,
        clock: Clock::start(),
    };
    let taps = TAPS.map(|(name, vlan)| {
        ignore_ipv6();
        TapPort::new(Tap::create(name, MAC, 1500).unwrap(), pool.clone(), vlan, 1500)
    });
    let counters = Arc::new(KernelCounters::default());
    let (send, frames) = sync_channel(4);
    let path = KernelPath {
        taps: taps.into(),
        rings: kernel_rings,
        control: frames,
        counters: Arc::clone(&counters),
        probes: Arc::default(),
    };
    assert!(control.send(Update::Snapshot(Arc::new(snapshot()))).is_ok());
    let stop = Arc::new(AtomicBool::new(false));
    let kernel_path = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || path.run(&stop)
    });
    let launched = eal.launch(0, "worker", {
        let stop = Arc::clone(&stop);
        move || worker.run(&stop)
    });
    let launched = launched.unwrap();
    assert_eq!(eal.launch(0, "second", || ()).err(), Some(EalError::Thread { errno: 16 }), "EBUSY");
    wait_for(|| control.shared().epoch() == 1, "the snapshot");

    ip("addr add 10.96.0.1/24 dev hv-lan.10");
    asks_for_a_neighbour(&control);
    what_control_sends_is_tagged(&send, &control);
    is_balanced(&control);
    assert_eq!(received("hv-lan"), 0, "the port's own tap got the VLAN's packets");

    stop.store(true, Ordering::Relaxed);
    kernel_path.join().unwrap();
    assert!(launched.join());
    let seen = control.shared().counters.read();
    assert!(seen.balanced(), "{seen:?}");
    assert_eq!(counters.to_kernel.load(Ordering::Relaxed), seen.punted);
    port.stop().unwrap();
    drop(port);
    assert_eq!(pool.in_use(), 0);
}

/// The kernel's ARP question leaves with the tag and comes in with it: the
/// kernel gets it back, by the VLAN's tap, without the tag.
fn asks_for_a_neighbour(control: &ControlEnd) {
    let socket = UdpSocket::bind("10.96.0.1:0").unwrap();
    socket.send_to(b"hello", "10.96.0.7:9").unwrap();
    wait_for(|| received("hv-lan.10") > 0, "the question on the VLAN's tap");
    // Without the tag, padding or anything else.
    let bytes = statistic("hv-lan.10", "rx_bytes");
    assert_eq!(bytes, 42 * received("hv-lan.10"));
    assert_eq!(read(control).dropped(DropReason::VlanUnknown), 0);
}

/// A frame of the control thread's for the VLAN goes the same way.
fn what_control_sends_is_tagged(send: &SyncSender<ControlFrame>, control: &ControlEnd) {
    let before = statistic("hv-lan.10", "rx_bytes");
    let mut bytes = [&[0xff; 6][..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    bytes.resize(100, 0);
    send.send(ControlFrame { port: 1, bytes }).unwrap();
    let grown = || statistic("hv-lan.10", "rx_bytes") - before;
    // ARP may go on meanwhile, with 42 bytes a packet.
    wait_for(|| grown() % 42 == 100 % 42, "the frame on the VLAN's tap");
    assert_eq!(read(control).dropped(DropReason::VlanUnknown), 0);
}

/// A packet of the kernel to the service, by the VLAN, is sent to the server by
/// the VLAN; here that means that the kernel gets it.
fn is_balanced(control: &ControlEnd) {
    let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
    ip(&format!("neigh replace {VIP} lladdr {mac} dev hv-lan.10"));
    let before = statistic("hv-lan.10", "rx_bytes");
    let socket = UdpSocket::bind("10.96.0.1:0").unwrap();
    socket.send_to(&[7; 1000], (VIP, 80)).unwrap();
    // ARP may go on meanwhile, with 42 bytes a packet.
    let grown = || statistic("hv-lan.10", "rx_bytes") - before;
    wait_for(|| grown() >= 14 + 28 + 1000, "the packet on its way to the server");
    assert_eq!((grown() - (14 + 28 + 1000)) % 42, 0);
    assert_eq!(read(control).connections, 1);
    assert_eq!(read(control).dropped(DropReason::VlanUnknown), 0);
}

fn read(control: &ControlEnd) -> Counters {
    control.shared().counters.read()
}

fn director() -> (ControlEnd, Director) {
    let (control, link) = channel();
    let config = DirectorConfig {
        worker: 0,
        shard: Arc::new(Shard::new(0x6d5a, 1, 128)),
        connections: 1024,
        hash_key: HashKey::random(),
        punt_limits: PuntLimits::default(),
        icmp_limits: IcmpLimits::default(),
        templates: Arc::new(Templates::new(1, HashKey::random()).unwrap()),
        random: 0,
    };
    (control, Director::new(config, link).unwrap())
}

/// A service on the VIP, whose server is in the VLAN.
fn snapshot() -> Snapshot {
    let device = snapshot::Port::new(MAC, 1500);
    let hop = PortHop { port: 1, dst_mac: SERVER_MAC, src_mac: MAC, mtu: 1500, vlan: 10 };
    let server = Server {
        address: SocketAddr::from(([10, 96, 0, 31], 80)),
        hop: Hop::Port(hop),
        method: Method::Dr,
        weight: 1,
        deleted: false,
        client_address: ClientAddress::None,
        mss: None,
        counts: Arc::new(ServerCounts::new(1)),
    };
    let candidate = Candidate {
        server: 0,
        address: server.address,
        weight: 1,
        fresh: false,
        counts: Arc::clone(&server.counts),
    };
    let service = Service {
        key: ServiceKey::Address { protocol: Protocol::Udp, vip: IpAddr::V4(VIP), vport: 80 },
        scheduler: Scheduler::Rr,
        state: Arc::new(scheduler::State::new(Scheduler::Rr)),
        candidates: Candidates::new(Scheduler::Rr, vec![candidate]),
        number: 0,
        persistence: None,
        one_packet: false,
        take_up: false,
        locals: Arc::default(),
    };
    Snapshot {
        epoch: 1,
        services: Services::new([Arc::new(service)], Arc::default()),
        servers: [Some(Arc::new(server))].into_iter().collect(),
        ports: vec![device, snapshot::Port { vlan: Some(10), ..device }],
        ..Default::default()
    }
}

/// Neighbour discovery would talk of its own accord.
fn ignore_ipv6() {
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
}

fn wait_for(mut what: impl FnMut() -> bool, name: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    while !what() {
        assert!(Instant::now() < until, "{name} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn received(link: &str) -> u64 {
    statistic(link, "rx_packets")
}

/// /sys may be that of another namespace.
fn statistic(link: &str, name: &str) -> u64 {
    let output = Command::new("ip").args(["-s", "-j", "link", "show", link]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rx) = text.split_once("\"rx\":{").unwrap_or_else(|| panic!("{text}"));
    let key = format!("\"{}\":", name.trim_start_matches("rx_"));
    let (_, value) = rx.split_once(&key).unwrap_or_else(|| panic!("{text}"));
    value.split([',', '}']).next().unwrap().trim().parse().unwrap()
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {args}");
}
