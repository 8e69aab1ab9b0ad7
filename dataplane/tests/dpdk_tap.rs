//! A net_tap port and a kernel-path tap against a real kernel: a neighbour pings
//! an address that this test answers for, frame by frame.

mod common;

use std::io::IoSlice;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use dataplane::dpdk::{
    Eal, EalConfig, HugePages, Mbuf, Pool, Port, PortConfig, RxBurst, RxQueue, Tap, TxBuffer,
};
use nix::errno::Errno;

const WIRE: &str = "hdwire0";
const PEER: &str = "hd-peer";
const US: [u8; 4] = [10, 99, 0, 1];
const PINGS: usize = 3;

fn main() -> ExitCode {
    common::in_own_namespace(
        "neighbour_is_answered_over_a_tap_port",
        neighbour_is_answered_over_a_tap_port,
    )
}

fn neighbour_is_answered_over_a_tap_port() {
    let devices = [format!("net_tap0,iface={WIRE}")];
    let config = EalConfig {
        program: "dpdk_tap",
        memory_mb: 64,
        huge: HugePages::Auto,
        file_prefix: "rvstesttap",
        devices: &devices,
        workers: &[],
        extra_args: &[],
    };
    let eal = Eal::init(&config).unwrap();
    let pool = Pool::new(&eal, "tap", 4095, 256, None, Pool::DATA_ROOM).unwrap();
    let peer = Namespace::new();
    let port_config = PortConfig {
        name: "lan",
        bond: None,
        rx_queues: 1,
        tx_queues: 1,
        rx_descriptors: 256,
        tx_descriptors: 256,
        mtu: 1500,
        tagged: false,
        rss: None,
    };
    let mut port = Port::open(&devices[0], &port_config, &pool).unwrap();
    port.start().unwrap();
    println!("{:?} {:?} rss {:?}", port.info(), port.link().unwrap(), port.rss());
    let mac = port.info().mac;
    ip(&format!("link set {WIRE} netns {PEER}"));
    ip(&format!("-n {PEER} addr add 10.99.0.2/24 dev {WIRE}"));
    ip(&format!("-n {PEER} link set {WIRE} up"));
    // The kernel's end of the wire has the same MAC, as net_tap makes it, and a
    // host does not talk to its own address.
    ip(&format!("-n {PEER} link set {WIRE} address 02:00:00:00:99:02"));

    let mut rx = port.rx_queue(0).unwrap();
    let mut tx = port.tx_queue(0).unwrap();
    let at_rest = pool.in_use();
    let ping = ping();
    answer(&mut rx, &mut tx, mac);
    let output = ping.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}");
    assert!(text.contains(" 0% packet loss"), "{text}");
    println!("{:?}; mbufs in use at rest {at_rest}, now {}", port.stats(), pool.in_use());
    assert_eq!(pool.in_use(), at_rest);

    kernel_tap(&pool);
    drop((rx, tx));
    port.stop().unwrap();
    drop(port);
    println!("mbufs in use after closing: {}", pool.in_use());
    assert_eq!(pool.in_use(), 0);
    drop(peer);
}

/// Answers ARP and ICMP echo for `US` until the pings have been answered.
fn answer(rx: &mut RxQueue, tx: &mut TxBuffer, mac: [u8; 6]) {
    let until = Instant::now() + Duration::from_secs(10);
    let mut burst = RxBurst::new();
    let mut echoes = 0;
    while echoes < PINGS && Instant::now() < until {
        rx.rx(&mut burst);
        for mut mbuf in burst.drain() {
            echoes += usize::from(is_echo(mbuf.data()));
            if reply(mbuf.data_mut(), mac) {
                tx.push(mbuf);
            }
        }
        let result = tx.flush();
        assert_eq!(result.dropped, 0);
    }
}

fn is_echo(frame: &[u8]) -> bool {
    frame.len() > 42
        && frame[12..14] == [8, 0]
        && frame[23] == 1
        && frame[30..34] == US
        && frame[34] == 8
}

/// Turns a question into its answer, in place.
fn reply(frame: &mut [u8], mac: [u8; 6]) -> bool {
    let arp = frame.len() >= 42
        && frame[12..14] == [8, 6]
        && frame[20..22] == [0, 1]
        && frame[38..42] == US;
    if !arp && !is_echo(frame) {
        return false;
    }
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&mac);
    if arp {
        frame[21] = 2;
        frame.copy_within(22..32, 32);
        frame[22..28].copy_from_slice(&mac);
        frame[28..32].copy_from_slice(&US);
        return true;
    }
    frame.copy_within(26..30, 30);
    let (src, dst) = ([10, 99, 0, 1], [10, 99, 0, 2]);
    frame[26..30].copy_from_slice(&src);
    frame[30..34].copy_from_slice(&dst);
    // Echo request 8 becomes reply 0: the one's complement sum loses 0x0800, and
    // the checksum, its complement, gains it (RFC 1624).
    frame[34] = 0;
    let sum = u32::from(u16::from_be_bytes([frame[36], frame[37]])) + 0x0800;
    let sum = (sum & 0xffff) + (sum >> 16);
    frame[36..38].copy_from_slice(&(sum as u16).to_be_bytes());
    true
}

/// The kernel answers ARP on the tap for its own address, and the tap refuses
/// what it should.
fn kernel_tap(pool: &Pool) {
    let mac = [2, 0, 0, 0, 0x99, 1];
    let tap = Tap::create("hdlan", mac, 1400).unwrap();
    let link = ip("link show dev hdlan");
    assert!(
        link.contains("mtu 1400") && link.contains("02:00:00:00:99:01") && link.contains("UP"),
        "{link}"
    );
    assert_eq!(tap.index().to_string(), link.split(':').next().unwrap());
    let taken = Tap::create("hdlan", mac, 1500).err().unwrap();
    assert_eq!(taken.errno, Errno::EBUSY);
    println!("{taken}");
    println!("{}", Tap::create("hdlan2", [1, 0, 0, 0, 0, 0], 1500).err().unwrap());

    ip("addr add 10.98.0.1/24 dev hdlan");
    let question = [
        [0xff; 6].as_slice(),
        &[2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &[2, 0, 0, 0, 0, 7, 10, 98, 0, 7],
        &[0, 0, 0, 0, 0, 0, 10, 98, 0, 1],
    ];
    tap.send_vectored(&question.map(IoSlice::new)).unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let mut mbuf = pool.alloc().unwrap();
        let Some(len) = tap.recv(mbuf.tail_mut()).unwrap() else { continue };
        mbuf.set_range(mbuf.start(), len as u16);
        if is_arp_reply(&mbuf) {
            assert_eq!(mbuf.data()[22..28], mac);
            return;
        }
    }
    panic!("the kernel did not answer ARP on the tap");
}

fn is_arp_reply(mbuf: &Mbuf) -> bool {
    mbuf.len() >= 42 && mbuf.data()[12..14] == [8, 6] && mbuf.data()[20..22] == [0, 2]
}

fn ping() -> Child {
    let count = PINGS.to_string();
    let args =
        ["netns", "exec", PEER, "ping", "-n", "-i", "0.2", "-W", "2", "-c", &count, "10.99.0.1"];
    Command::new("ip").args(args).stdout(Stdio::piped()).spawn().unwrap()
}

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The neighbour's namespace, removed also when the test fails.
struct Namespace;

impl Namespace {
    fn new() -> Self {
        ip(&format!("netns add {PEER}"));
        Self
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", PEER]).status();
    }
}
