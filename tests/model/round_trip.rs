//! There and back: what a server answers comes to the client as if the client
//! had been answered by whom it asked, for every method whose replies pass the
//! director.
//!
//! The server here is a mirror: it sends back each byte of TCP or UDP that it
//! got, with addresses and ports exchanged. That leaves the sum that the
//! checksum is about as it was, so a checksum that was right must be right at
//! each stage, and one that was wrong must stay wrong by as much.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use dataplane::counters::DropReason;
use dataplane::packet::Protocol;
use dataplane::scheduler::Scheduler;
use dataplane::service::Method;
use dataplane::time::Tick;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::alongside;
use crate::packet::{Ip, Packet, SYN, checksum_offset, frame, l4_sum, seal_ip4};
use crate::world::{End, PORT_MAC, ROUTER_MAC, Size, World, ip, key, server_mac, socket};

const NOW: Tick = Tick::from_secs(1000);
/// Virtual address, method, server.
const SERVICES: [(&str, Method, &str); 6] = [
    ("10.0.1.100:80", Method::Nat, "10.0.2.1:8080"),
    ("[fd00:1::100]:80", Method::Nat, "[fd00:2::1]:8080"),
    ("10.0.1.100:81", Method::Fullnat, "10.0.2.2:8081"),
    ("[fd00:1::100]:81", Method::Fullnat, "[fd00:2::2]:8081"),
    ("10.0.1.100:82", Method::Fullnat, "[fd00:2::3]:82"),
    ("[fd00:1::100]:82", Method::Fullnat, "10.0.2.3:82"),
];

#[derive(Debug, Clone)]
struct Case {
    service: usize,
    protocol: Protocol,
    client: u64,
    port: u16,
    /// Random content of the TCP header.
    header: [u8; 16],
    options: Vec<u8>,
    payload: Vec<u8>,
    checksum: Checksum,
    ttl: u8,
    tos: u8,
    id: u16,
    dont_fragment: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checksum {
    Right,
    /// Whatever this is.
    Is(u16),
}

fn cases() -> impl Strategy<Value = Case> {
    let checksum = prop_oneof![
        3 => Just(Checksum::Right),
        1 => Just(Checksum::Is(0)),
        1 => Just(Checksum::Is(0xffff)),
        2 => any::<u16>().prop_map(Checksum::Is),
    ];
    let bytes = |longest| proptest::collection::vec(any::<u8>(), 0..longest);
    let l4 = (any::<[u8; 16]>(), bytes(40), bytes(600), checksum);
    let ip = (2_u8..=255, any::<u8>(), any::<u16>(), any::<bool>());
    let flow = (0..SERVICES.len(), any::<bool>(), any::<u64>(), 1_u16..);
    (flow, l4, ip).prop_map(|(flow, l4, ip)| {
        let (service, is_tcp, client, port) = flow;
        let (header, mut options, payload, checksum) = l4;
        let (ttl, tos, id, dont_fragment) = ip;
        options.truncate(options.len() / 4 * 4);
        let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
        // So that it comes back with a TTL, too.
        let ttl = ttl.max(4);
        Case {
            service,
            protocol,
            client,
            port,
            header,
            options,
            payload,
            checksum,
            ttl,
            tos,
            id,
            dont_fragment,
        }
    })
}

impl Case {
    fn client(&self, vip: IpAddr) -> SocketAddr {
        let bytes = self.client.to_be_bytes();
        let address = match vip {
            IpAddr::V4(_) => IpAddr::from([11, bytes[0], bytes[1], bytes[2]]),
            IpAddr::V6(_) => {
                let mut address = [0x20; 16];
                address[8..].copy_from_slice(&bytes);
                address.into()
            }
        };
        SocketAddr::new(address, self.port)
    }

    /// The TCP or UDP part of the client's packet.
    fn l4(&self, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(src.port().to_be_bytes());
        l4.extend(dst.port().to_be_bytes());
        match self.protocol {
            Protocol::Tcp => {
                l4.extend(self.header);
                l4[12] = ((5 + self.options.len() / 4) << 4) as u8;
                l4.extend(&self.options);
            }
            _ => l4.extend([(8_u16 + self.payload.len() as u16).to_be_bytes(), [0; 2]].concat()),
        }
        l4.extend(&self.payload);
        let at = checksum_offset(self.protocol);
        l4[at..at + 2].fill(0);
        let right = l4_sum(src.ip(), dst.ip(), self.protocol as u8, &l4);
        let sum = match self.checksum {
            Checksum::Right if right == 0 => 0xffff,
            Checksum::Right => right,
            Checksum::Is(sum) => sum,
        };
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        l4
    }

    /// The client's frame.
    fn frame(&self, src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
        let (l4, protocol) = (self.l4(src, dst), self.protocol as u8);
        let mut bytes = frame(ROUTER_MAC, PORT_MAC[0], src.ip(), dst.ip(), protocol, self.ttl, &l4);
        if src.is_ipv4() {
            bytes[15] = self.tos;
            bytes[18..20].copy_from_slice(&self.id.to_be_bytes());
            bytes[20] = if self.dont_fragment { 0x40 } else { 0 };
            seal_ip4(&mut bytes[14..34]);
        }
        bytes
    }
}

/// What the sum of a packet is off by, 0 where the checksum is right.
fn error_of(ip: &Ip<'_>) -> u16 {
    let error = l4_sum(ip.src, ip.dst, ip.protocol, ip.body);
    // Two forms of the same number.
    if error == 0xffff { 0 } else { error }
}

/// TCP or UDP with its ports and checksum cut out.
fn without_ports(protocol: Protocol, l4: &[u8]) -> Vec<u8> {
    let mut rest = l4.to_vec();
    rest[..4].fill(0);
    rest[checksum_offset(protocol)..][..2].fill(0);
    rest
}

fn ports(l4: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([l4[0], l4[1]]), u16::from_be_bytes([l4[2], l4[3]]))
}

fn world() -> World {
    let size = Size { workers: 1, connections: 4000, hints: 0, templates: 1 };
    let mut world = World::new(size, &["10.0.3.1", "fd00:3::1"].map(ip));
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (vip, method, server) in SERVICES {
            let key = key(protocol, vip);
            world.add_service(key, Scheduler::Rr, None, false);
            world.add_server(&key, socket(server), method, 1);
        }
    }
    world.publish(NOW);
    world
}

fn there_and_back(world: &mut World, case: &Case) {
    let (vip, method, server) = SERVICES[case.service];
    let (vip, server) = (socket(vip), socket(server));
    let client = case.client(vip.ip());
    if case.protocol == Protocol::Tcp {
        world.client_sends(NOW, 0, &Packet::tcp(client, vip, SYN)).sent();
    }
    let asked = case.frame(client, vip);
    let before = Ip::read(&asked[14..]);
    let has_none = case.protocol == Protocol::Udp && case.checksum == Checksum::Is(0);

    // To the server.
    let outcome = world.deliver(NOW, 0, None, 0, &asked);
    if has_none && client.is_ipv6() && server.is_ipv4() {
        // An error in IPv6 (RFC 8200, section 8.1) would become a choice.
        assert_eq!(outcome.end, End::Dropped(DropReason::NoTranslation));
        return;
    }
    let received = outcome.sent();
    let there = Ip::read(&received[14..]);
    assert_eq!((there.dst, ports(there.body).1), (server.ip(), server.port()));
    let from = SocketAddr::new(there.src, ports(there.body).0);
    if method == Method::Nat {
        assert_eq!(from, client);
    } else {
        assert!(["10.0.3.1", "fd00:3::1"].map(ip).contains(&from.ip()));
    }
    assert_eq!(there.ttl, case.ttl - 1);
    // UDP without a checksum gets one, as under the kernel's NAT.
    let error = if has_none { 0 } else { error_of(&before) };
    assert_eq!(error_of(&there), error, "to the server: {case:?}");
    let rest = without_ports(case.protocol, before.body);
    assert_eq!(without_ports(case.protocol, there.body), rest);
    if there.src.is_ipv4() && client.is_ipv4() {
        assert_eq!(received[15..21], asked[15..21], "TOS, length, id and DF");
    }

    // And back, mirrored.
    let mut l4 = there.body.to_vec();
    l4[..4].rotate_left(2);
    let mac = server_mac(server.ip());
    let protocol = case.protocol as u8;
    let answer = frame(mac, PORT_MAC[1], there.dst, there.src, protocol, there.ttl, &l4);
    let outcome = world.deliver(NOW, 0, None, 1, &answer);
    let back = Ip::read(&outcome.sent()[14..]);
    assert_eq!((back.src, back.dst), (vip.ip(), client.ip()));
    assert_eq!(ports(back.body), (vip.port(), client.port()));
    assert_eq!(back.ttl, case.ttl - 2);
    assert_eq!(error_of(&back), error, "to the client: {case:?}");
    assert_eq!(without_ports(case.protocol, back.body), rest);
    if case.protocol == Protocol::Udp {
        assert_ne!(back.body[6..8], [0, 0], "0 would mean that there is no checksum");
    }
}

#[test]
fn there_and_back_is_the_identity() {
    let _quiet = alongside();
    let (world, count) = (RefCell::new(world()), RefCell::new(0));
    let config = ProptestConfig {
        cases: if cfg!(debug_assertions) { 1500 } else { 20_000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let run = TestRunner::new(config).run(&cases(), |case| {
        // A table for all of them would be large.
        let mut world = world.borrow_mut();
        *count.borrow_mut() += 1;
        if *count.borrow() % 1500 == 0 {
            *world = self::world();
        }
        there_and_back(&mut world, &case);
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
}
