//! The configuration: two ports, clients beyond port 0, servers beyond port 1,
//! and for each protocol and family a service of every kind.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use dataplane::fib::{Fib, NextHop, RoutesBuilder};
use dataplane::packet::{Family, Protocol};
use dataplane::scheduler::{self, Candidate, Candidates, Scheduler};
use dataplane::service::{
    ClientAddress, Encapsulation, GueChecksum, Hop, Local, MarkRule, Method, NatSource, NatSources,
    Persistence, PortHop, Server, ServerCounts, Service, ServiceKey, Services,
};
use dataplane::snapshot::{LocalPorts, Port, Snapshot};

use crate::packets::GUE_PORT;

pub(super) const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
pub(super) const MTUS: [u16; 2] = [1500, 1400];
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 9, 9];
/// Servers of each service.
const SERVERS: usize = 2;
/// The first of the vports that services have, in the order of [`KINDS`].
const VPORT: u16 = 80;
/// The VIP of services by port, that of services for every port, and one whose
/// packets have a mark.
const VIPS: [u8; 3] = [100, 101, 102];

/// How a kind of service forwards.
struct Kind {
    scheduler: Scheduler,
    method: Method,
    /// Whether its servers are of the other address family.
    crosses: bool,
    client_address: ClientAddress,
    /// Length of the client prefix of persistence.
    persistence: Option<u8>,
    one_packet: bool,
    take_up: bool,
    mss: Option<u16>,
}

const PLAIN: Kind = Kind {
    scheduler: Scheduler::Rr,
    method: Method::Dr,
    crosses: false,
    client_address: ClientAddress::None,
    persistence: None,
    one_packet: false,
    take_up: false,
    mss: None,
};

const KINDS: [Kind; 17] = [
    PLAIN,
    Kind { method: Method::Nat, scheduler: Scheduler::Wlc, ..PLAIN },
    Kind { method: Method::Fullnat, client_address: ClientAddress::Toa, ..PLAIN },
    Kind { method: Method::Fullnat, client_address: ClientAddress::Proxy, ..PLAIN },
    Kind { method: Method::Fullnat, client_address: ClientAddress::Toa, crosses: true, ..PLAIN },
    Kind { method: Method::Fullnat, client_address: ClientAddress::Proxy, crosses: true, ..PLAIN },
    Kind { method: Method::Tun(Encapsulation::Ipip), scheduler: Scheduler::Lblcr, ..PLAIN },
    Kind { method: Method::Tun(Encapsulation::Ipip), crosses: true, mss: Some(1200), ..PLAIN },
    Kind { method: Method::Tun(Encapsulation::Gre { checksum: true }), ..PLAIN },
    Kind { method: Method::Tun(Encapsulation::Gre { checksum: false }), crosses: true, ..PLAIN },
    Kind {
        method: Method::Tun(Encapsulation::Gue { port: GUE_PORT, checksum: GueChecksum::Full }),
        ..PLAIN
    },
    Kind {
        method: Method::Tun(Encapsulation::Gue { port: GUE_PORT, checksum: GueChecksum::None }),
        crosses: true,
        ..PLAIN
    },
    Kind { method: Method::Nat, persistence: Some(24), scheduler: Scheduler::Sed, ..PLAIN },
    Kind { method: Method::Nat, one_packet: true, mss: Some(1000), ..PLAIN },
    Kind { scheduler: MH, persistence: Some(64), ..PLAIN },
    Kind { scheduler: MH, ..PLAIN },
    Kind { scheduler: MH, take_up: true, ..PLAIN },
];
const MH: Scheduler = Scheduler::Mh(scheduler::HashFlags { fallback: true, port: true });

/// A configuration, and what the director is made with.
pub(super) struct World {
    pub(super) snapshot: Snapshot,
    pub(super) workers: usize,
    /// Entries of a table.
    pub(super) entries: usize,
    /// Whether every packet is observed.
    pub(super) observed: bool,
}

impl World {
    /// Bit 0: two workers; bit 1: a very small table; bit 2: every packet is
    /// observed.
    pub(super) fn new(bits: u8) -> Self {
        let workers = 1 + usize::from(bits & 1);
        let entries = if bits & 2 == 0 { 200 } else { 6 };
        Self { snapshot: snapshot(workers), workers, entries, observed: bits & 4 != 0 }
    }
}

/// A client's address and port.
pub(super) fn client(number: u8, v6: bool) -> (IpAddr, u16) {
    (host(0, 2 + number % 4, v6), 1000 + u16::from(number / 4))
}

/// The VIP and vport of a service by number. Numbers beyond the services are
/// ports that none has.
pub(super) fn vip(number: u8, v6: bool) -> (IpAddr, u16) {
    let port = VPORT + u16::from(number & 0x1f);
    (host(0, VIPS[usize::from(number >> 5) % 3], v6), port)
}

/// A router's address on a port, and the sender of a packet that left by it.
pub(super) fn ends(port: u8, packet: &[u8]) -> (IpAddr, IpAddr) {
    match packet {
        [v, ..] if v >> 4 == 6 => {
            let src: [u8; 16] = packet[8..24].try_into().expect("16 bytes of 40");
            (host(port, 254, true), src.into())
        }
        _ => {
            let src: [u8; 4] = packet[12..16].try_into().expect("4 bytes of 20");
            (host(port, 254, false), src.into())
        }
    }
}

/// A host of a port's network.
fn host(port: u8, last: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, port.into(), 0, 0, 0, last.into()).into()
    } else {
        Ipv4Addr::new(10, port, 0, last).into()
    }
}

fn snapshot(workers: usize) -> Snapshot {
    let locals: Arc<[IpAddr]> =
        [(200, false), (201, false), (200, true)].map(|(last, v6)| host(1, last, v6)).into();
    let mut servers = Vec::new();
    let mut services = Vec::new();
    let mut sources = NatSources::new();
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        for v6 in [false, true] {
            for (kind, vport) in KINDS.iter().zip(VPORT..) {
                let vip = host(0, VIPS[0], v6);
                let key = ServiceKey::Address { protocol, vip, vport };
                let list = add_servers(&mut servers, workers, kind, vport, v6);
                if kind.method == Method::Nat {
                    for server in &list {
                        sources.add(protocol, server.address, NatSource::Of(vip, vport));
                    }
                }
                services.push(service(key, services.len(), kind, list, &locals));
            }
            let vip = host(0, VIPS[1], v6);
            let kind = Kind { persistence: Some(32), method: Method::Nat, ..PLAIN };
            let list = add_servers(&mut servers, workers, &kind, 0, v6);
            for server in &list {
                sources.add(protocol, server.address, NatSource::Of(vip, 0));
            }
            let key = ServiceKey::Address { protocol, vip, vport: 0 };
            services.push(service(key, services.len(), &kind, list, &locals));
        }
    }
    for (family, v6) in [(Family::V4, false), (Family::V6, true)] {
        let kind = Kind { method: Method::Nat, ..PLAIN };
        let list = add_servers(&mut servers, workers, &kind, 0, v6);
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            for server in &list {
                sources.add(protocol, server.address, NatSource::Marked);
            }
        }
        let key = ServiceKey::Fwmark { mark: 7, family };
        services.push(service(key, services.len(), &kind, list, &locals));
    }
    let rules: Arc<[MarkRule]> = [(false, 32), (true, 128)]
        .map(|(v6, len)| MarkRule {
            mark: 7,
            protocol: None,
            source: None,
            destination: Some((host(0, VIPS[2], v6), len)),
            ports: None,
            ingress: Some(0),
        })
        .into();
    Snapshot {
        epoch: 1,
        services: Services::new(services.into_iter().map(Arc::new), rules),
        servers: servers.into_iter().map(|server| Some(Arc::new(server))).collect(),
        ports: vec![port(0), port(1)],
        fib: Arc::clone(fib()),
        nat_sources: Arc::new(sources),
        locals,
        local_ports: LocalPorts(1024, 1039),
        ..Snapshot::default()
    }
}

fn port(index: u8) -> Port {
    let (IpAddr::V4(four), IpAddr::V6(six)) = (host(index, 1, false), host(index, 1, true)) else {
        unreachable!("one of each family")
    };
    let mut port = Port::new(MACS[usize::from(index)], MTUS[usize::from(index)]);
    (port.address4, port.address6) = (Some(four.to_bits()), Some(six.octets()));
    port
}

fn add_servers(
    servers: &mut Vec<Server>,
    workers: usize,
    kind: &Kind,
    vport: u16,
    v6: bool,
) -> Vec<Candidate> {
    let begin = servers.len();
    for i in 0..SERVERS {
        let address = host(1, 31 + i as u8, v6 != kind.crosses);
        let port = match kind.method {
            // Two services of NAT share their servers' port.
            Method::Nat if vport > VPORT + 8 => 8080,
            Method::Nat | Method::Fullnat if vport > 0 => 8000 + vport,
            _ => vport,
        };
        servers.push(Server {
            address: SocketAddr::new(address, port),
            hop: Hop::Port(hop(1)),
            method: kind.method,
            weight: 1,
            deleted: false,
            client_address: kind.client_address,
            mss: kind.mss,
            counts: Arc::new(ServerCounts::new(workers)),
        });
    }
    let candidate = |(server, number): (&Server, usize)| Candidate {
        server: number as u32,
        address: server.address,
        weight: server.weight,
        fresh: false,
        counts: Arc::clone(&server.counts),
    };
    servers[begin..].iter().zip(begin..).map(candidate).collect()
}

pub(super) fn hop(port: u8) -> PortHop {
    let (src_mac, mtu) = (MACS[usize::from(port)], MTUS[usize::from(port)]);
    PortHop { port, vlan: 0, dst_mac: NEIGHBOUR, src_mac, mtu }
}

fn service(
    key: ServiceKey,
    number: usize,
    kind: &Kind,
    list: Vec<Candidate>,
    locals: &Arc<[IpAddr]>,
) -> Service {
    let locals = locals.iter().zip(0..).map(|(&address, number)| Local { number, address });
    Service {
        key,
        number: number as u32,
        scheduler: kind.scheduler,
        state: Arc::new(scheduler::State::new(kind.scheduler)),
        candidates: candidates(number, kind.scheduler, list),
        persistence: kind.persistence.map(|prefix| Persistence { timeout: 8 * 100, prefix }),
        one_packet: kind.one_packet,
        take_up: kind.take_up,
        locals: if kind.method == Method::Fullnat { locals.collect() } else { Arc::default() },
    }
}

/// The tables of mh take a while to build, and are the same for every input.
fn candidates(service: usize, scheduler: Scheduler, list: Vec<Candidate>) -> Candidates {
    static BUILT: [OnceLock<Candidates>; 128] = [const { OnceLock::new() }; 128];
    if !matches!(scheduler, Scheduler::Mh(_)) {
        return Candidates::new(scheduler, list);
    }
    let built = BUILT[service].get_or_init(|| Candidates::new(scheduler, list.clone()));
    built.followed_by(scheduler, list)
}

/// Clients' network by port 0, servers' by port 1, the rest by a gateway of
/// port 0; no way to 192.168.0.0/16, and one neighbour in four is not known.
fn fib() -> &'static Arc<Fib> {
    static FIB: OnceLock<Arc<Fib>> = OnceLock::new();
    FIB.get_or_init(|| {
        let to = |port: u8, gateway| {
            let PortHop { src_mac, mtu, .. } = hop(port);
            NextHop::Port { port, vlan: 0, src_mac, gateway, mtu }
        };
        let mut routes = RoutesBuilder::default();
        let gateway = Some(host(0, 254, false));
        for (start, hop) in [
            ([0, 0, 0, 0], to(0, gateway)),
            ([10, 0, 0, 0], to(0, None)),
            ([10, 0, 0, 100], NextHop::Local),
            ([10, 0, 0, 103], to(0, None)),
            ([10, 1, 0, 0], to(1, None)),
            ([10, 2, 0, 0], to(0, gateway)),
            ([192, 168, 0, 0], NextHop::NoRoute),
            ([192, 169, 0, 0], to(0, gateway)),
        ] {
            routes.add4(u32::from_be_bytes(start), hop);
        }
        let network = |port| match host(port, 0, true) {
            IpAddr::V6(ip) => ip.to_bits(),
            IpAddr::V4(_) => unreachable!("asked for IPv6"),
        };
        routes.add6(0, to(0, Some(host(0, 254, true))));
        routes.add6(network(0), to(0, None));
        routes.add6(network(1), to(1, None));
        routes.add6(network(2), to(0, Some(host(0, 254, true))));
        let known = [2, 3, 4, 31, 32, 254].into_iter().flat_map(|last| {
            [(0, false), (0, true), (1, false), (1, true)]
                .map(|(port, v6)| ((port, host(port, last, v6)), NEIGHBOUR))
        });
        Arc::new(Fib::new(Arc::new(routes.build()), Arc::new(known.collect())))
    })
}
