//! What a connection in both directions will be: under FULLNAT by which local
//! address and port.

use std::net::{IpAddr, SocketAddr};

use super::super::{Context, Core};
use super::Opening;
use crate::conn::Tables;
use crate::counters::DropReason;
use crate::packet::{Headers, Protocol, Tuple, Tuple4};
use crate::service::{Local, Method, Server, Service};
use crate::shard::Shard;
use crate::snapshot::LocalPorts;

/// Ports that are looked up in the table at most when a FULLNAT connection
/// looks for a free one: some microseconds.
const PORT_PROBES: usize = 128;

/// What is known of a connection in both directions before it is made.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    /// The local address and port (FULLNAT), which may turn out to be taken.
    pub(super) local: Option<(Local, u16)>,
    /// What the client's packets become. The server's are the reverse of it.
    pub(super) to: Tuple,
    /// The table hash of the server's.
    pub(super) hash: u64,
}

impl Pair {
    pub(super) fn new(
        tables: &Tables,
        headers: &Headers,
        server: &Server,
        local: Option<(Local, u16)>,
    ) -> Result<Self, DropReason> {
        let from = local.map(|(local, port)| (local.address, port));
        let to = to_server(&headers.tuple(), from, server.address, headers.dst_port)
            .ok_or(DropReason::NoTranslation)?;
        Ok(Self { local, to, hash: tables.hash(headers.protocol, &to.reversed()) })
    }
}

impl Core {
    /// What a connection in both directions will be.
    pub(super) fn pair(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        opening: &Opening<'_>,
        headers: &Headers,
    ) -> Result<Pair, DropReason> {
        let Opening { server, service, .. } = opening;
        let local = match server.method {
            Method::Fullnat => {
                let address = with_port(server.address, headers.dst_port);
                let next = self.first_port(cx, service, address);
                Some(next.ok_or(DropReason::NoLocalPort)?)
            }
            _ => None,
        };
        Pair::new(tables, headers, server, local)
    }

    /// Finds a local address and port for a FULLNAT connection, such that the
    /// server's packets are this worker's own, and that no other connection to
    /// this server has it.
    pub(super) fn local_port(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        service: &Service,
        protocol: Protocol,
        server: SocketAddr,
    ) -> Option<(Local, u16)> {
        let mut budget = PortBudget::new(&self.shard);
        for _ in 0..PORT_PROBES {
            let (local, port) = self.next_port(cx, service, server, &mut budget)?;
            let taken = tables.find(protocol, &reply_tuple(server, local.address, port)?);
            if taken.is_none_or(|place| tables.body(place).state().is_reusable()) {
                return Some((local, port));
            }
        }
        None
    }

    /// The first local address and port to try for a FULLNAT connection, which
    /// may turn out to be taken.
    pub(super) fn first_port(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        server: SocketAddr,
    ) -> Option<(Local, u16)> {
        let mut budget = PortBudget::new(&self.shard);
        self.next_port(cx, service, server, &mut budget)
    }

    /// The next local address and port such that the server's packets are this
    /// worker's own. The search goes on where the last one ended, so that a
    /// port rests as long as possible before it is used again.
    fn next_port(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        server: SocketAddr,
        budget: &mut PortBudget,
    ) -> Option<(Local, u16)> {
        let LocalPorts(first, last) = cx.snapshot.local_ports;
        let ports = u32::from(last.saturating_sub(first)) + 1;
        let locals = service.locals_of(server.is_ipv4());
        let count = u32::try_from(locals.len()).ok().filter(|&count| count > 0)?;
        let all = ports.saturating_mul(count);
        while budget.0 > 0 {
            budget.0 -= 1;
            let index = self.next_local % all;
            self.next_local = self.next_local.wrapping_add(1);
            let local = *locals.get((index % count) as usize)?;
            let port = first + (index / count) as u16;
            if self.shard.workers() == 1 {
                return Some((local, port));
            }
            let reply = reply_tuple(server, local.address, port)?;
            if self.natural_owner(&reply) == self.worker {
                return Some((local, port));
            }
        }
        None
    }
}

/// How many ports a search for a free one may look at.
struct PortBudget(u32);

impl PortBudget {
    fn new(shard: &Shard) -> Self {
        Self(PORT_PROBES as u32 * shard.workers() as u32 * 2)
    }
}

/// The address with a port of its own, or the packet's.
pub(super) const fn with_port(server: SocketAddr, port: u16) -> SocketAddr {
    if server.port() == 0 { SocketAddr::new(server.ip(), port) } else { server }
}

/// What a client's packet becomes on its way to the server: from the local
/// address (FULLNAT) or from where it came. `None` when that would be of two
/// families.
pub(in crate::director) fn to_server(
    from: &Tuple,
    local: Option<(IpAddr, u16)>,
    server: SocketAddr,
    vport: u16,
) -> Option<Tuple> {
    if let (&Tuple::V4(from), None, SocketAddr::V4(server)) = (from, local, server) {
        let dst_port = if server.port() == 0 { vport } else { server.port() };
        return Some(Tuple::V4(Tuple4 { dst: server.ip().to_bits(), dst_port, ..from }));
    }
    let (client, client_port) = from.source();
    let (src, src_port) = local.unwrap_or((client, client_port));
    let server = with_port(server, vport);
    Tuple::new(src, src_port, server.ip(), server.port())
}

/// The tuple of a server's packets to a local address.
fn reply_tuple(server: SocketAddr, local: IpAddr, port: u16) -> Option<Tuple> {
    Tuple::new(server.ip(), server.port(), local, port)
}
