//! Listings of connections: one at a time over all clients, each a bounded
//! piece of work for one worker.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use dataplane::packet::{self, Tuple4, Tuple6};
use dataplane::time::Tick;
use dataplane::update::{ConnectionKey, ConnectionRow};

use super::workers::{Listed, Workers};
use super::{Instruments, templates};
use crate::api::{self, Connection, ConnectionCursor, Error, ErrorCode, Protocol, Reply, Response};
use crate::registry::Registry;
use crate::server::ClientId;

/// Listings that clients wait for.
#[derive(Debug, Default)]
pub(super) struct Listings {
    queue: VecDeque<Wanted>,
    current: Option<(ClientId, u32)>,
}

#[derive(Debug)]
struct Wanted {
    client: ClientId,
    cursor: ConnectionCursor,
    limit: usize,
}

impl Listings {
    /// Whether no client waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.current.is_none()
    }

    /// Queues a listing. A client has one request under way, so the queue is no
    /// longer than the list of clients.
    pub(super) fn ask(
        &mut self,
        client: ClientId,
        cursor: Option<ConnectionCursor>,
        limit: usize,
    ) -> Result<(), Error> {
        if !(1..=api::MAX_ROWS).contains(&limit) {
            let message = format!("limit {limit} is not 1 to {}", api::MAX_ROWS);
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        let start = ConnectionCursor { worker: 0, ipv6: false, group: 0 };
        self.queue.push_back(Wanted { client, cursor: cursor.unwrap_or(start), limit });
        Ok(())
    }

    /// Moves on. A reply, when a listing has come to its end.
    pub(super) fn advance(
        &mut self,
        workers: &mut Workers,
        registry: &Registry,
        instruments: &Instruments,
        now: Instant,
    ) -> Option<(ClientId, Reply)> {
        let clock = &instruments.clock;
        let listed = workers.collect(now);
        if let Some((client, worker)) = self.current {
            let reply = match listed? {
                Listed::Rows(dump, next) => {
                    let rows = dump.rows.iter();
                    let now = clock.now();
                    let connections =
                        rows.filter_map(|row| connection(row, worker, registry, now)).collect();
                    Ok(Response::Connections { connections, next })
                }
                Listed::Stalled => {
                    Err(Error::new(ErrorCode::WorkerStalled, "the worker does not answer"))
                }
            };
            self.current = None;
            return Some((client, reply));
        }
        let Wanted { client, cursor, limit } = self.queue.pop_front()?;
        if templates::is_here(&cursor) {
            let (connections, next) =
                templates::page(&instruments.templates, registry, clock.now(), &cursor, limit);
            return Some((client, Ok(Response::Connections { connections, next })));
        }
        if workers.list(cursor, limit, now) {
            self.current = Some((client, cursor.worker));
            return None;
        }
        let message = format!("there is no worker {}", cursor.worker);
        Some((client, Err(Error::new(ErrorCode::InvalidArgument, message))))
    }
}

/// A row as clients see it. `None` for a server that has just been forgotten.
fn connection(
    row: &ConnectionRow,
    worker: u32,
    registry: &Registry,
    now: Tick,
) -> Option<Connection> {
    let (protocol, client, virtual_address) = match row.key {
        ConnectionKey::V4(key) => {
            let address = |ip: u32, port| SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port);
            {
                let Tuple4 { src, dst, src_port, dst_port } = key.tuple();
                (key.protocol(), address(src, src_port), address(dst, dst_port))
            }
        }
        ConnectionKey::V6(key) => {
            let address =
                |ip: [u8; 16], port| SocketAddr::new(IpAddr::V6(Ipv6Addr::from(ip)), port);
            {
                let Tuple6 { src, dst, src_port, dst_port } = key.tuple();
                (key.protocol(), address(src, src_port), address(dst, dst_port))
            }
        }
    };
    let mut server = registry.server_address(row.server)?;
    if server.port() == 0 {
        server.set_port(virtual_address.port());
    }
    Some(Connection {
        protocol: match packet::Protocol::from_number(protocol)? {
            packet::Protocol::Tcp => Protocol::Tcp,
            packet::Protocol::Udp => Protocol::Udp,
            packet::Protocol::Sctp => Protocol::Sctp,
        },
        state: row.state.name().into(),
        expires_ms: row.expiry.millis_since(now),
        client,
        virtual_address,
        server,
        worker,
    })
}
