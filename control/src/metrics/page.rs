//! What is on the page.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dataplane::counters::DropReason;

use super::families as f;
use super::text::Page;
use super::{General, Services};
use crate::api::{PortCounters, ServerStatus, ServiceStatus, Stats};
use crate::health::Checkup;
use crate::show::service_name;

/// What the serving thread itself knows.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) uptime: Duration,
    pub(super) started: SystemTime,
    /// Most services and servers together.
    pub(super) max_rows: usize,
    pub(super) requests: Requests,
}

/// Requests for metrics before this one.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) served: u64,
    pub(super) failed: u64,
    pub(super) refused: u64,
}

/// Writes the page. Services beyond `max_rows`, each with its servers, are left
/// out.
pub(super) fn write(own: &Own, general: &General, services: &Services) -> String {
    let mut page = Page::default();
    about(&mut page, own);
    let rows = within(services, own.max_rows);
    totals(&mut page, own, general, rows);
    let names: Vec<String> = rows.iter().map(|row| service_name(&row.spec.id)).collect();
    let rows: Vec<Row<'_>> = names.iter().map(String::as_str).zip(rows).collect();
    of_services(&mut page, &rows);
    of_checks(&mut page, &rows, services);
    of_servers(&mut page, &rows, services);
    of_workers(&mut page, general);
    of_ports(&mut page, general);
    of_updates(&mut page, general);
    page.finish()
}

/// A service with its name.
type Row<'a> = (&'a str, &'a ServiceStatus);

/// The services that fit, servers included, also those that are removed while
/// they fail.
fn within(services: &Services, most: usize) -> &[ServiceStatus] {
    let checked: HashMap<_, _> =
        services.checked.iter().map(|(id, found)| (*id, found.len())).collect();
    let mut rows = 0;
    let fit = services.rows.iter().take_while(|service| {
        let checked = checked.get(&service.spec.id).copied().unwrap_or(0);
        rows += 1 + service.servers.len().max(checked);
        rows <= most
    });
    &services.rows[..fit.count()]
}

fn about(page: &mut Page, own: &Own) {
    page.family(&f::BUILD).add(&[&env!("CARGO_PKG_VERSION")], 1);
    let started = own.started.duration_since(UNIX_EPOCH).unwrap_or_default();
    page.family(&f::START_TIME).add(&[], started.as_secs_f64());
    page.family(&f::UPTIME).add(&[], own.uptime.as_secs_f64());
}

fn totals(page: &mut Page, own: &Own, general: &General, shown: &[ServiceStatus]) {
    let (services, servers) = general.sizes;
    page.family(&f::SERVICES).add(&[], services);
    page.family(&f::SERVERS).add(&[], servers);
    let shown_servers: usize = shown.iter().map(|service| service.servers.len()).sum();
    let mut left_out = page.family(&f::LEFT_OUT);
    left_out.add(&[&"services"], services.saturating_sub(shown.len()));
    left_out.add(&[&"servers"], servers.saturating_sub(shown_servers));
    page.family(&f::VIPS_WITHDRAWN).add(&[], general.withdrawn);
    let Requests { served, failed, refused } = own.requests;
    let mut requests = page.family(&f::SCRAPES);
    for (result, count) in [("served", served), ("failed", failed), ("refused", refused)] {
        requests.add(&[&result], count);
    }
}

fn of_services(page: &mut Page, rows: &[Row<'_>]) {
    let mut servers = page.family(&f::SERVICE_SERVERS);
    rows.iter().for_each(|(name, row)| servers.add(&[name], row.servers.len()));
    let mut connections = page.family(&f::SERVICE_CONNECTIONS);
    rows.iter().for_each(|(name, row)| connections.add(&[name], row.stats.connections));
    for (family, both) in [(f::SERVICE_PACKETS, packets as Both), (f::SERVICE_BYTES, bytes)] {
        let mut samples = page.family(&family);
        for (name, row) in rows {
            for (direction, count) in both(&row.stats) {
                samples.add(&[name, &direction], count);
            }
        }
    }
}

/// Of the services on the page. A server that is removed while it fails has no
/// row of its own.
fn of_checks(page: &mut Page, rows: &[Row<'_>], services: &Services) {
    let names: HashMap<_, _> = rows.iter().map(|(name, row)| (row.spec.id, *name)).collect();
    let checked: Vec<(&str, &Checkup)> = services
        .checked
        .iter()
        .filter_map(|(id, found)| names.get(id).map(|name| (*name, found)))
        .flat_map(|(name, found)| found.iter().map(move |checkup| (name, checkup)))
        .collect();
    let mut up = page.family(&f::SERVER_UP);
    checked.iter().for_each(|(name, found)| up.add(&[name, &found.server], u64::from(found.up)));
    let mut probes = page.family(&f::SERVER_PROBES);
    for (name, &Checkup { server, good, failed, .. }) in checked {
        probes.add(&[&name, &server, &"good"], good);
        probes.add(&[&name, &server, &"failed"], failed);
    }
}

fn of_servers(page: &mut Page, rows: &[Row<'_>], services: &Services) {
    type Value<'a> = &'a dyn Fn(&ServerStatus) -> u64;
    let resolved =
        |server: &ServerStatus| u64::from(!services.unresolved.contains(&server.spec.address));
    let values: [(f::Family, Value<'_>); 6] = [
        (f::SERVER_WEIGHT, &|server| server.spec.weight.into()),
        (f::SERVER_RESOLVED, &resolved),
        (f::SERVER_CONNECTIONS, &|server| server.stats.connections),
        (f::SERVER_ACTIVE, &|server| server.active.into()),
        (f::SERVER_INACTIVE, &|server| server.inactive.into()),
        (f::SERVER_TEMPLATES, &|server| server.persistent.into()),
    ];
    for (family, value) in values {
        let mut samples = page.family(&family);
        for (name, server) in servers(rows) {
            samples.add(&[&name, &server.spec.address], value(server));
        }
    }
    for (family, both) in [(f::SERVER_PACKETS, packets as Both), (f::SERVER_BYTES, bytes)] {
        let mut samples = page.family(&family);
        for (name, server) in servers(rows) {
            for (direction, count) in both(&server.stats) {
                samples.add(&[&name, &server.spec.address, &direction], count);
            }
        }
    }
}

fn servers<'a>(rows: &'a [Row<'a>]) -> impl Iterator<Item = (&'a str, &'a ServerStatus)> {
    rows.iter().flat_map(|(name, row)| row.servers.iter().map(move |server| (*name, server)))
}

/// Counts by direction.
type Both = fn(&Stats) -> [(&'static str, u64); 2];

fn packets(stats: &Stats) -> [(&'static str, u64); 2] {
    [("in", stats.in_packets), ("out", stats.out_packets)]
}

fn bytes(stats: &Stats) -> [(&'static str, u64); 2] {
    [("in", stats.in_bytes), ("out", stats.out_bytes)]
}

fn of_workers(page: &mut Page, general: &General) {
    let workers = || general.workers.iter().enumerate();
    let mut cores = page.family(&f::WORKER_CORE);
    workers().for_each(|(worker, (core, _))| cores.add(&[&worker], core));
    let mut samples = page.family(&f::WORKER_IN);
    for (worker, (_, counters)) in workers() {
        samples.add(&[&worker, &"port"], counters.rx);
        samples.add(&[&worker, &"worker"], counters.taken_over);
        samples.add(&[&worker, &"kernel"], counters.injected);
        samples.add(&[&worker, &"director"], counters.generated);
    }
    let mut samples = page.family(&f::WORKER_OUT);
    for (worker, (_, counters)) in workers() {
        samples.add(&[&worker, &"port"], counters.tx);
        samples.add(&[&worker, &"worker"], counters.handed_off);
        samples.add(&[&worker, &"kernel"], counters.punted);
        samples.add(&[&worker, &"held"], counters.held);
    }
    let mut samples = page.family(&f::WORKER_DROPPED);
    for (worker, (_, counters)) in workers() {
        for &reason in DropReason::ALL {
            samples.add(&[&worker, &reason.name()], counters.dropped(reason));
        }
    }
    let mut samples = page.family(&f::WORKER_CONNECTIONS);
    workers().for_each(|(worker, (_, counters))| samples.add(&[&worker], counters.connections));
    let mut samples = page.family(&f::WORKER_ENTRIES);
    for (worker, (_, counters)) in workers() {
        for (family, entries) in ["ipv4", "ipv6"].iter().zip(counters.entries) {
            samples.add(&[&worker, family], entries);
        }
    }
    let mut samples = page.family(&f::WORKER_CAPACITY);
    for (worker, _) in workers() {
        for family in ["ipv4", "ipv6"] {
            samples.add(&[&worker, &family], general.table_capacity);
        }
    }
    let mut samples = page.family(&f::WORKER_EXPIRED);
    workers().for_each(|(worker, (_, counters))| samples.add(&[&worker], counters.expired));
    let mut samples = page.family(&f::WORKER_RECYCLED);
    workers().for_each(|(worker, (_, counters))| samples.add(&[&worker], counters.recycled));
    let mut samples = page.family(&f::WORKER_STATELESS);
    workers().for_each(|(worker, (_, counters))| samples.add(&[&worker], counters.stateless));
    let mut samples = page.family(&f::WORKER_TAKEN_UP);
    workers().for_each(|(worker, (_, counters))| samples.add(&[&worker], counters.taken_up));
    let mut samples = page.family(&f::WORKER_BUSY);
    for (worker, (_, counters)) in workers() {
        samples.add(&[&worker], counters.busy_cycles as f64 / general.tsc_hz.max(1) as f64);
    }
    let mut samples = page.family(&f::WORKER_CYCLES);
    workers().for_each(|(worker, (_, counters))| samples.add(&[&worker], counters.busy_cycles));
    page.family(&f::TEMPLATES).add(&[], general.template_places);
}

fn of_ports(page: &mut Page, general: &General) {
    type Value = fn(&PortCounters) -> u64;
    type Both = fn(&PortCounters) -> [(&'static str, u64); 2];
    let mut value = |family: f::Family, value: Value| {
        let mut samples = page.family(&family);
        general.ports.iter().for_each(|port| samples.add(&[&port.name], value(port)));
    };
    value(f::PORT_UP, |port| port.link_up.into());
    value(f::PORT_MISSED, |port| port.rx_missed);
    value(f::MBUFS_USED, |port| port.mbufs_in_use.into());
    value(f::MBUFS_FREE, |port| port.mbufs.saturating_sub(port.mbufs_in_use).into());
    let both: [(f::Family, Both); 3] = [
        (f::PORT_PACKETS, |port| [("in", port.rx_packets), ("out", port.tx_packets)]),
        (f::PORT_BYTES, |port| [("in", port.rx_bytes), ("out", port.tx_bytes)]),
        (f::PORT_ERRORS, |port| [("in", port.rx_errors), ("out", port.tx_errors)]),
    ];
    for (family, both) in both {
        let mut samples = page.family(&family);
        for port in &general.ports {
            for (direction, count) in both(port) {
                samples.add(&[&port.name, &direction], count);
            }
        }
    }
    let path = &general.kernel_path;
    let mut samples = page.family(&f::KERNEL_PATH);
    samples.add(&[&"to", &"passed"], path.to_kernel);
    samples.add(&[&"to", &"lost"], path.to_kernel_failed);
    samples.add(&[&"from", &"passed"], path.from_kernel);
    samples.add(&[&"from", &"lost"], path.from_kernel_dropped);
}

fn of_updates(page: &mut Page, general: &General) {
    page.family(&f::UPDATE).add_histogram(&general.updates.latency);
    page.family(&f::STALLED).add(&[], general.updates.stalled);
    page.family(&f::BEHIND).add(&[], general.behind);
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
