//! Services and servers, as an operator would describe them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use control::api::{
    self, Request, ServerSpec, ServiceId, ServiceSpec, Timeouts, Tunnel as ApiTunnel,
};
use control::registry::Registry;
use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::director::{Director, DirectorConfig};
use dataplane::fib::{Fib, Neighbours, NextHop, RoutesBuilder};
use dataplane::icmp::IcmpLimits;
use dataplane::packet::Mac;
use dataplane::punt::PuntLimits;
use dataplane::service::{Hop, PortHop};
use dataplane::shard::Shard;
use dataplane::snapshot::Port;
use dataplane::update::{ControlEnd, channel};

use super::{Family, LOCALS, OWN, PORT, Protocol, SERVERS, VIPS};

/// The port's MAC address, and that of the router, whom all is behind.
pub(crate) const MAC: Mac = [2, 0, 0, 0, 0, 1];
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 2];
const MTU: u16 = 1500;
/// Local addresses of FULLNAT: ports enough for ten million connections.
pub(crate) const LOCAL_COUNT: u32 = 4;
/// Real servers where nothing else is said.
pub(crate) const SERVER_COUNT: u32 = 1000;
const TIMEOUTS: Timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };

/// A forwarding method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    /// Direct routing.
    Dr,
    /// A tunnel (IPIP).
    Tun,
    /// Network address translation.
    Nat,
    /// The same of both addresses.
    Fullnat,
}

impl Method {
    pub(crate) const ALL: [Self; 4] = [Self::Dr, Self::Tun, Self::Nat, Self::Fullnat];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dr => "DR",
            Self::Tun => "TUN",
            Self::Nat => "NAT",
            Self::Fullnat => "FULLNAT",
        }
    }

    /// Whether the servers' packets pass the director, too.
    pub(crate) const fn is_two_sided(self) -> bool {
        matches!(self, Self::Nat | Self::Fullnat)
    }

    /// Table entries of a connection.
    pub(crate) const fn entries(self) -> usize {
        if self.is_two_sided() { 2 } else { 1 }
    }

    const fn spec(self) -> api::Method {
        match self {
            Self::Dr => api::Method::Dr,
            Self::Tun => api::Method::Tun(ApiTunnel::Ipip),
            Self::Nat => api::Method::Nat,
            Self::Fullnat => api::Method::Fullnat,
        }
    }
}

/// Services that are all alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) method: Method,
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) scheduler: &'static str,
    pub(crate) services: u32,
    /// Of each service.
    pub(crate) servers: u32,
    pub(crate) workers: usize,
}

impl Setup {
    /// One service with [`SERVER_COUNT`] servers, by rr.
    pub(crate) const fn new(method: Method, family: Family, protocol: Protocol) -> Self {
        let (services, servers, workers) = (1, SERVER_COUNT, 1);
        Self { method, family, protocol, scheduler: "rr", services, servers, workers }
    }

    /// The service of this number.
    pub(crate) fn service_id(&self, number: u32) -> ServiceId {
        let protocol = match self.protocol {
            Protocol::Udp => api::Protocol::Udp,
            _ => api::Protocol::Tcp,
        };
        let address = SocketAddr::new(VIPS.address(self.family, number), PORT);
        ServiceId::Address { protocol, address }
    }

    /// A server of a service.
    pub(crate) fn server(&self, service: u32, number: u32, weight: u32) -> ServerSpec {
        let ip = SERVERS.address(self.family, service * self.servers + number);
        ServerSpec {
            address: SocketAddr::new(ip, PORT),
            method: self.method.spec(),
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
        }
    }

    /// The requests that make the services.
    pub(crate) fn requests(&self) -> impl Iterator<Item = Request> {
        let setup = *self;
        (0..setup.services).flat_map(move |number| {
            let id = setup.service_id(number);
            let mut service = ServiceSpec::new(id, setup.scheduler);
            if setup.method == Method::Fullnat {
                let local = |number| LOCALS.address(setup.family, number);
                service.local_addresses = (0..LOCAL_COUNT).map(local).collect();
            }
            let servers = (0..setup.servers).map(move |server| Request::AddServer {
                service: id,
                server: setup.server(number, server, 1),
            });
            std::iter::once(Request::AddService { service }).chain(servers)
        })
    }

    /// A registry that has them, and the ways to all addresses.
    pub(crate) fn registry(&self) -> Result<Registry, String> {
        let mut registry = Registry::new(self.workers, vec![port()], TIMEOUTS);
        registry.set_ways(Arc::new(fib()), vec![port()]);
        for request in self.requests() {
            change(&mut registry, &request)?;
        }
        Ok(registry)
    }

    /// Ownership among the workers.
    pub(crate) fn shard(&self) -> Arc<Shard> {
        Arc::new(Shard::new(Shard::full_rank(0x6d5a), self.workers, 128))
    }
}

/// Has a registry carry out a request that it must not refuse.
pub(crate) fn change(registry: &mut Registry, request: &Request) -> Result<(), String> {
    let done = registry.change(request, &|_| Hop::Port(hop()));
    done.unwrap_or(Ok(())).map_err(|error| format!("the registry refuses {request:?}: {error}"))
}

/// A director with tables for so many entries, and control's end of its link.
pub(crate) fn director(
    worker: usize,
    shard: &Arc<Shard>,
    hash_key: HashKey,
    entries: usize,
) -> Result<(Director, ControlEnd), String> {
    let (control, link) = channel();
    let config = DirectorConfig {
        worker,
        shard: Arc::clone(shard),
        connections: entries.max(1024),
        hash_key,
        punt_limits: PuntLimits::default(),
        icmp_limits: IcmpLimits::default(),
        templates: Arc::new(Templates::new(1, HashKey::random()).map_err(no_memory)?),
        random: 0,
    };
    Ok((Director::new(config, link).map_err(no_memory)?, control))
}

fn no_memory(error: std::io::Error) -> String {
    format!("no memory for the tables: {error}; try fewer --flows")
}

/// The one port: clients and servers are behind its router.
pub(crate) fn port() -> Port {
    let mut port = Port::new(MAC, MTU);
    if let (IpAddr::V4(v4), IpAddr::V6(v6)) =
        (OWN.address(Family::V4, 0), OWN.address(Family::V6, 0))
    {
        (port.address4, port.address6) = (Some(v4.to_bits()), Some(v6.octets()));
    }
    port
}

fn hop() -> PortHop {
    PortHop { port: 0, dst_mac: ROUTER_MAC, src_mac: MAC, mtu: MTU, vlan: 0 }
}

fn fib() -> Fib {
    let gateways: [IpAddr; 2] =
        [Ipv4Addr::new(10, 0, 0, 254).into(), Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 254).into()];
    let by = |gateway| NextHop::Port {
        port: 0,
        src_mac: MAC,
        gateway: Some(gateway),
        mtu: MTU,
        vlan: 0,
    };
    let mut routes = RoutesBuilder::default();
    routes.add4(0, by(gateways[0]));
    routes.add6(0, by(gateways[1]));
    let neighbours: Neighbours = gateways.iter().map(|&g| ((0, g), ROUTER_MAC)).collect();
    Fib::new(Arc::new(routes.build()), Arc::new(neighbours))
}
