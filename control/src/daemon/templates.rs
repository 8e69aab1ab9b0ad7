//! Persistence templates in the listing of connections, after those of the last
//! worker. All workers share their table, so control reads it by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane::conn::persistence::{TemplateRow, Templates};
use dataplane::time::Tick;

use super::filter;
use super::listing::Wanted;
use crate::api::{Connection, ConnectionCursor, Protocol, Response, ServiceId};
use crate::registry::Registry;

/// The worker of the cursors that lead into the table of templates.
const TEMPLATES: u32 = u32::MAX;
/// Buckets that one request reads at most, 2 MB.
const BUCKETS: usize = 4096;

/// The cursor that begins with the templates.
pub(super) const START: ConnectionCursor =
    ConnectionCursor { worker: TEMPLATES, ipv6: false, group: 0 };

/// Whether a cursor leads into the table of templates.
pub(super) const fn is_here(cursor: &ConnectionCursor) -> bool {
    cursor.worker == TEMPLATES
}

/// A piece of the listing, and where to go on.
pub(super) fn page(
    templates: &Templates,
    registry: &Registry,
    now: Tick,
    cursor: &ConnectionCursor,
    wanted: &Wanted,
) -> Response {
    let Wanted { limit, filter, count, .. } = wanted;
    let (mut rows, mut found) = (Vec::new(), 0);
    let start = usize::try_from(cursor.group).unwrap_or(usize::MAX);
    let end = templates.bucket_count().min(start.saturating_add(BUCKETS));
    let mut bucket = start;
    let room = (*limit).max(Templates::BUCKET_WAYS);
    while bucket < end && rows.len() + Templates::BUCKET_WAYS <= room {
        templates.scan(bucket, |row| {
            let row = connection(row, registry, now);
            let Some(row) = row.filter(|row| filter::passes(filter, row)) else { return };
            found += 1;
            if !count {
                rows.push(row);
            }
        });
        bucket += 1;
    }
    let more = bucket < templates.bucket_count();
    let next = more.then_some(ConnectionCursor { group: bucket as u64, ..START });
    Response::Connections { connections: rows, next, count: count.then_some(found) }
}

/// A template as clients see it. `None` when its service or server has just
/// been forgotten.
fn connection(row: &TemplateRow, registry: &Registry, now: Tick) -> Option<Connection> {
    let (protocol, virtual_address) = match registry.service_of_number(row.key.service())? {
        ServiceId::Address { protocol, address } => (protocol, address),
        // The kernel shows the mark in the place of the address.
        ServiceId::Fwmark { mark, .. } => {
            (Protocol::Tcp, SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(mark)), 0))
        }
    };
    let client = Ipv6Addr::from(row.key.client());
    let client = match client.to_ipv4_mapped() {
        Some(client) => IpAddr::V4(client),
        None => IpAddr::V6(client),
    };
    Some(Connection {
        protocol,
        state: if row.assured { "ASSURED" } else { "NONE" }.into(),
        expires_ms: row.expiry.millis_since(now),
        client: SocketAddr::new(client, 0),
        virtual_address,
        server: registry.server_address(row.server)?,
        worker: 0,
        method: registry.server_method(row.server),
        template: true,
    })
}
