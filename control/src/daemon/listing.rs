//! Listings of connections: one at a time over all clients, each a bounded
//! piece of work for one worker.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use dataplane::packet::{self, Tuple4, Tuple6};
use dataplane::time::Tick;
use dataplane::update::{ConnectionKey, ConnectionRow};

use super::workers::{Listed, Workers};
use super::{Instruments, filter, templates};
use crate::api::{
    self, Connection, ConnectionCursor, ConnectionFilter, Error, ErrorCode, Protocol, Reply,
    Response,
};
use crate::registry::Registry;
use crate::server::ClientId;

/// Listings that clients wait for.
#[derive(Debug, Default)]
pub(super) struct Listings {
    queue: VecDeque<Wanted>,
    current: Option<Wanted>,
}

/// A page that a client wants.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) client: ClientId,
    pub(super) cursor: Option<ConnectionCursor>,
    pub(super) limit: usize,
    pub(super) filter: ConnectionFilter,
    /// Only count.
    pub(super) count: bool,
}

impl Listings {
    /// Whether no client waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.current.is_none()
    }

    /// Queues a listing. A client has one request under way, so the queue is no
    /// longer than the list of clients.
    pub(super) fn ask(&mut self, wanted: Wanted) -> Result<(), Error> {
        if !(1..=api::MAX_ROWS).contains(&wanted.limit) {
            let message = format!("limit {} is not 1 to {}", wanted.limit, api::MAX_ROWS);
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        filter::check(&wanted.filter)?;
        self.queue.push_back(wanted);
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
        if let Some(Wanted { client, cursor, filter, count, .. }) = &self.current {
            let client = *client;
            let worker = cursor.map_or(0, |cursor| cursor.worker);
            let reply = match listed? {
                Listed::Rows(dump, next) => {
                    let rows = dump.rows.iter();
                    let now = clock.now();
                    let connections =
                        rows.filter_map(|row| connection(row, worker, registry, now)).collect();
                    let next = next.and_then(|next| skip(filter, workers.count(), next));
                    let count = count.then_some(dump.found);
                    Ok(Response::Connections { connections, next, count })
                }
                Listed::Stalled => {
                    Err(Error::new(ErrorCode::WorkerStalled, "the worker does not answer"))
                }
            };
            self.current = None;
            return Some((client, reply));
        }
        let mut wanted = self.queue.pop_front()?;
        let client = wanted.client;
        let start = ConnectionCursor { worker: 0, ipv6: false, group: 0 };
        let from = wanted.cursor.unwrap_or(start);
        let Some(cursor) = skip(&wanted.filter, workers.count(), from) else {
            let count = wanted.count.then_some(0);
            let connections = Vec::new();
            return Some((client, Ok(Response::Connections { connections, next: None, count })));
        };
        if templates::is_here(&cursor) {
            let templates = &instruments.templates;
            return Some((
                client,
                Ok(templates::page(templates, registry, clock.now(), &cursor, &wanted)),
            ));
        }
        wanted.cursor = Some(cursor);
        let filter = filter::for_workers(&wanted.filter, registry);
        if workers.list(cursor, wanted.limit, filter, wanted.count, now) {
            self.current = Some(wanted);
            return None;
        }
        let message = format!("there is no worker {}", cursor.worker);
        Some((client, Err(Error::new(ErrorCode::InvalidArgument, message))))
    }
}

/// Where a listing goes on from a place, if not there: tables in which it can
/// find nothing are passed over.
fn skip(
    filter: &ConnectionFilter,
    workers: usize,
    from: ConnectionCursor,
) -> Option<ConnectionCursor> {
    let sides = || [filter.client, filter.virtual_address].into_iter().flatten();
    let family_is =
        |ipv6| sides().filter_map(|side| side.network).all(|(ip, _)| ip.is_ipv6() == ipv6);
    let mut cursor = from;
    while !templates::is_here(&cursor) {
        let ConnectionCursor { worker, ipv6, .. } = cursor;
        let useless = filter.templates == Some(true)
            || filter.worker.is_some_and(|wanted| wanted != worker)
            || !family_is(ipv6);
        // One that does not exist is for the caller to refuse.
        if !useless || worker as usize >= workers {
            return Some(cursor);
        }
        cursor = match (ipv6, worker as usize + 1 < workers) {
            (false, _) => ConnectionCursor { worker, ipv6: true, group: 0 },
            (true, true) => ConnectionCursor { worker: worker + 1, ipv6: false, group: 0 },
            (true, false) => templates::START,
        };
    }
    (filter.templates != Some(false) && filter.worker.is_none()).then_some(cursor)
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
        method: registry.server_method(row.server),
        template: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(worker: u32, ipv6: bool, group: u64) -> ConnectionCursor {
        ConnectionCursor { worker, ipv6, group }
    }

    #[test]
    fn tables_without_a_chance_are_passed_over() {
        let all = ConnectionFilter::default();
        assert_eq!(skip(&all, 2, at(0, false, 7)), Some(at(0, false, 7)));
        assert_eq!(skip(&all, 2, templates::START), Some(templates::START));
        let second = ConnectionFilter { worker: Some(1), ..all.clone() };
        assert_eq!(skip(&second, 2, at(0, false, 0)), Some(at(1, false, 0)));
        assert_eq!(skip(&second, 2, at(1, true, 5)), Some(at(1, true, 5)));
        assert_eq!(skip(&second, 2, templates::START), None);
        assert_eq!(skip(&second, 1, at(0, false, 0)), None);
        let six = ConnectionFilter { client: "fd00::/64".parse().ok(), ..all.clone() };
        assert_eq!(skip(&six, 2, at(0, false, 0)), Some(at(0, true, 0)));
        assert_eq!(skip(&six, 2, at(1, true, 3)), Some(at(1, true, 3)));
        let port = ConnectionFilter { client: ":80".parse().ok(), ..all.clone() };
        assert_eq!(skip(&port, 2, at(0, false, 0)), Some(at(0, false, 0)));
        let only = ConnectionFilter { templates: Some(true), ..all.clone() };
        assert_eq!(skip(&only, 2, at(0, false, 0)), Some(templates::START));
        let none = ConnectionFilter { templates: Some(false), ..all };
        assert_eq!(skip(&none, 2, templates::START), None);
    }
}
