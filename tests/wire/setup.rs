//! What rows are set up on: services, servers, ports and routes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use dataplane::fib::{Fib, NextHop, RoutesBuilder};
use dataplane::packet::{Family, Protocol};
use dataplane::scheduler::{self, Candidate, Candidates, Scheduler};
use dataplane::service::{
    ClientAddress, Hop, Local, MarkRule, Method, NatSource, NatSources, Persistence, PortHop,
    Server, ServerCounts, Service, ServiceKey, Services,
};
use dataplane::snapshot::{LocalPorts, Port, Settings, Snapshot};

use crate::network::{FAMILIES, PORT_MACS, ROUTER_MAC, V6, local, own, rip, server_mac, vip};

const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// A server of every service of a row.
#[derive(Clone)]
pub(crate) struct Target {
    /// 1 or 2: its addresses.
    pub(crate) number: u8,
    /// 0: the packet keeps its own.
    pub(crate) port: u16,
    pub(crate) weight: u32,
    pub(crate) deleted: bool,
    /// How it is reached where not by port 1, resolved.
    pub(crate) hop: Option<Hop>,
    pub(crate) thresholds: (u32, u32),
}

/// What a row is set up on: a service for each protocol on the VIP's port 80.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) family: Family,
    /// Of the servers.
    pub(crate) servers: Family,
    pub(crate) method: Method,
    /// In the order in which they are walked.
    pub(crate) targets: Vec<Target>,
    pub(crate) vports: Vec<u16>,
    /// A service by mark instead.
    pub(crate) mark: Option<MarkRule>,
    pub(crate) scheduler: Scheduler,
    pub(crate) persistence: Option<Persistence>,
    pub(crate) one_packet: bool,
    pub(crate) take_up: bool,
    pub(crate) client_address: ClientAddress,
    pub(crate) mss: Option<u16>,
    pub(crate) settings: Settings,
    /// Of port 0 and port 1.
    pub(crate) mtu: [u16; 2],
    /// Where clients are, if not behind the router.
    pub(crate) to_client: Option<NextHop>,
    /// Whether the router's MAC address is known.
    pub(crate) router_known: bool,
    pub(crate) addresses: bool,
    pub(crate) local_ports: LocalPorts,
    pub(crate) workers: usize,
    /// Server and client are both at port 0.
    pub(crate) one_arm: bool,
}

impl Setup {
    /// Server 1 for clients of a family, by a method.
    pub(crate) fn new(method: Method, family: Family) -> Self {
        Self {
            family,
            servers: family,
            method,
            targets: vec![Target::new(1)],
            vports: vec![80],
            mark: None,
            scheduler: Scheduler::Rr,
            persistence: None,
            one_packet: false,
            take_up: false,
            client_address: ClientAddress::None,
            mss: None,
            settings: Settings::default(),
            mtu: [1500, 1500],
            to_client: None,
            router_known: true,
            addresses: true,
            local_ports: LocalPorts::default(),
            workers: 1,
            one_arm: false,
        }
    }

    /// The same, changed.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The port that servers are at.
    pub(crate) fn server_port(&self) -> u8 {
        u8::from(!self.one_arm)
    }

    fn hop(&self, target: &Target) -> Hop {
        let port = self.server_port();
        target.hop.unwrap_or(Hop::Port(PortHop {
            vlan: 0,
            port,
            dst_mac: server_mac(target.number),
            src_mac: PORT_MACS[usize::from(port)],
            mtu: self.mtu[usize::from(port)],
        }))
    }

    fn address(&self, target: &Target) -> SocketAddr {
        SocketAddr::new(rip(self.servers, target.number).ip(), target.port)
    }

    fn keys(&self) -> Vec<ServiceKey> {
        if let Some(rule) = self.mark {
            return vec![ServiceKey::Fwmark { mark: rule.mark, family: self.family }];
        }
        let vip = vip(self.family).ip();
        let of = |vport| PROTOCOLS.map(|protocol| ServiceKey::Address { protocol, vip, vport });
        self.vports.iter().flat_map(|&vport| of(vport)).collect()
    }

    /// The configuration that the director gets.
    pub(crate) fn snapshot(&self, kept: &Kept) -> Snapshot {
        let servers = self.targets.iter().map(|target| {
            let server = Server {
                address: self.address(target),
                method: self.method,
                hop: self.hop(target),
                weight: target.weight,
                deleted: target.deleted,
                client_address: self.client_address,
                mss: self.mss,
                counts: Arc::clone(&kept.counts[usize::from(target.number)]),
            };
            server.counts.connections.set_thresholds(target.thresholds.0, target.thresholds.1);
            (target.number, Arc::new(server))
        });
        let mut by_number = vec![None; 3];
        for (number, server) in servers {
            by_number[usize::from(number)] = Some(server);
        }
        let locals = FAMILIES.map(|f| local(f).ip());
        let own_ports = |index: u8| {
            let mut port = Port::new(PORT_MACS[usize::from(index)], self.mtu[usize::from(index)]);
            if self.addresses {
                for address in FAMILIES.map(|f| own(f, index)) {
                    match address {
                        IpAddr::V4(address) => port.address4 = Some(address.to_bits()),
                        IpAddr::V6(address) => port.address6 = Some(address.octets()),
                    }
                }
            }
            port
        };
        Snapshot {
            epoch: kept.epoch,
            services: self.services(kept),
            servers: by_number.into_iter().collect(),
            ports: vec![own_ports(0), own_ports(1)],
            fib: Arc::new(self.fib()),
            nat_sources: Arc::new(self.nat_sources()),
            locals: Arc::new(locals),
            local_ports: self.local_ports,
            settings: self.settings,
            ..Default::default()
        }
    }

    fn services(&self, kept: &Kept) -> Services {
        let candidates =
            self.targets.iter().filter(|target| !target.deleted).map(|target| Candidate {
                server: target.number.into(),
                address: self.address(target),
                weight: target.weight,
                fresh: false,
                counts: Arc::clone(&kept.counts[usize::from(target.number)]),
            });
        let candidates = Candidates::new(self.scheduler, candidates.collect());
        let locals = FAMILIES.map(|f| Local { number: u16::from(f == V6), address: local(f).ip() });
        let service = |(key, number)| {
            Arc::new(Service {
                key,
                number,
                scheduler: self.scheduler,
                state: Arc::clone(&kept.state),
                candidates: candidates.clone(),
                persistence: self.persistence,
                one_packet: self.one_packet,
                take_up: self.take_up,
                locals: Arc::new(locals),
            })
        };
        let rules = self.mark.into_iter().collect();
        Services::new(self.keys().into_iter().zip(0..).map(service), rules)
    }

    fn nat_sources(&self) -> NatSources {
        let mut sources = NatSources::new();
        if self.method != Method::Nat {
            return sources;
        }
        for target in &self.targets {
            for (protocol, vport) in
                PROTOCOLS.into_iter().flat_map(|p| self.vports.iter().map(move |&v| (p, v)))
            {
                let source = match self.mark {
                    Some(_) => NatSource::Marked,
                    None => NatSource::Of(vip(self.family).ip(), vport),
                };
                sources.add(protocol, self.address(target), source);
            }
        }
        sources
    }

    /// Everything is behind the router at port 0 but for the servers' network.
    fn fib(&self) -> Fib {
        let by = |port: u8, gateway| NextHop::Port {
            vlan: 0,
            port,
            src_mac: PORT_MACS[usize::from(port)],
            gateway,
            mtu: self.mtu[usize::from(port)],
        };
        let gateway = IpAddr::from([192, 0, 2, 254]);
        let far = self.to_client.unwrap_or(by(0, Some(gateway)));
        let mut routes = RoutesBuilder::default();
        let bits6 = |net: u128| (0x2001_0db8_0000 + net) << 80;
        routes.add4(0, far);
        routes.add4(0x0a00_0000, by(self.server_port(), None));
        routes.add4(0x0a00_0100, far);
        routes.add6(0, far);
        routes.add6(bits6(2), by(self.server_port(), None));
        routes.add6(bits6(3), far);
        let mut neighbours = Vec::new();
        if self.router_known {
            neighbours.push(((0, gateway), ROUTER_MAC));
        }
        for target in &self.targets {
            for family in FAMILIES {
                let key = (self.server_port(), rip(family, target.number).ip());
                neighbours.push((key, server_mac(target.number)));
            }
        }
        Fib::new(Arc::new(routes.build()), Arc::new(neighbours.into_iter().collect()))
    }
}

impl Target {
    pub(crate) const fn new(number: u8) -> Self {
        Self { number, port: 80, weight: 1, deleted: false, hop: None, thresholds: (0, 0) }
    }
}

/// What lives on when the configuration changes.
pub(crate) struct Kept {
    pub(crate) counts: [Arc<ServerCounts>; 3],
    pub(crate) state: Arc<scheduler::State>,
    pub(crate) epoch: u64,
}
