//! Answers to requests that change nothing that workers run.

use dataplane::service::Hop;

use super::listing::Wanted;
use super::{Daemon, Outcome, Reload};
use crate::api::{Error, ErrorCode, NextHop, Request, Response, WorkerCounters};
use crate::logging;
use crate::server::ClientId;

impl Daemon {
    /// Requests that change nothing that workers run.
    pub(super) fn answer(&mut self, client: ClientId, request: Request) -> Outcome {
        if let Some(outcome) = self.observe(client, &request) {
            return outcome;
        }
        let reply = match request {
            Request::Explain { packet } => return self.explain(client, &packet),
            Request::Zero { service } => {
                self.registry.zero(service.as_ref()).map(|()| Response::Done)
            }
            Request::ListServices { service: Some(id), .. } => {
                self.registry.service_status(&id).map(|s| self.services(vec![s], None))
            }
            Request::ListServices { service: None, cursor } => {
                let (services, next) = self.registry.statuses(cursor, crate::api::MAX_ROWS);
                Ok(self.services(services, next))
            }
            Request::Timeouts {} => Ok(Response::Timeouts { timeouts: self.registry.timeouts() }),
            Request::Settings {} => Ok(Response::Settings {
                settings: self.registry.settings(),
                log: logging::filter(),
            }),
            Request::SetLog { filter } => logging::set_filter(&filter).map(|()| Response::Done),
            Request::ListConnections { cursor, limit, filter, count } => {
                let filter = filter.map(|filter| *filter).unwrap_or_default();
                match self.listings.ask(Wanted { client, cursor, limit, filter, count }) {
                    Ok(()) => return Outcome::Later,
                    Err(error) => Err(error),
                }
            }
            Request::Counters {} => Ok(self.counters()),
            Request::NextHops { cursor } => Ok(self.next_hops(cursor)),
            Request::Reload { dry_run, exact } => {
                self.ask_for_reload(Reload { client: Some(client), dry_run, exact });
                return Outcome::Later;
            }
            Request::Neighbours { cursor } => {
                let network = self.network.as_ref();
                let (neighbours, next) = network.map_or((Vec::new(), None), |network| {
                    network.neighbours(cursor, crate::api::MAX_ROWS)
                });
                Ok(Response::Neighbours { neighbours, next })
            }
            Request::Routes { cursor } => {
                let network = self.network.as_ref();
                let (routes, next) = network.map_or((Vec::new(), None), |network| {
                    network.routes(cursor, crate::api::MAX_ROWS)
                });
                Ok(Response::Routes { routes, next })
            }
            Request::Restore { requests, dry_run } => {
                return self.restore(&requests, dry_run).into();
            }
            Request::Save { cursor } => Ok(self.saved_state(cursor)),
            Request::Config {} => Ok(self.configuration()),
            Request::Origins { cursor } => Ok(self.origins(cursor)),
            Request::Health { cursor } => {
                let (checks, next) = self.health.checks(cursor, crate::api::MAX_ROWS);
                Ok(Response::Health { checks, next })
            }
            Request::HealthChanges {} => Ok(Response::HealthChanges {
                changes: self.health.changes(),
                withdrawn: self.health.withdrawn().iter().copied().collect(),
            }),
            other => Err(Error::new(ErrorCode::BadRequest, format!("not now: {other:?}"))),
        };
        Outcome::Answer(reply)
    }

    fn services(&self, services: Vec<crate::api::ServiceStatus>, next: Option<u64>) -> Response {
        let table_size = self.workers.count() as u64 * u64::from(self.instruments.connections);
        Response::Services { services, next, table_size }
    }

    fn counters(&self) -> Response {
        let counters = self.workers.counters();
        let workers = counters.iter().zip(&self.instruments.cores);
        Response::Counters {
            workers: workers.map(|(counters, &core)| worker_counters(counters, core)).collect(),
            ports: (self.instruments.ports)(),
            kernel_path: (self.instruments.kernel_path)(),
            tsc_hz: self.instruments.tsc_hz,
            table_places: self.instruments.connections.into(),
        }
    }

    fn next_hops(&self, cursor: Option<u64>) -> Response {
        let (rows, next) = self.registry.servers_from(cursor, crate::api::MAX_ROWS);
        let rows = rows.into_iter().map(|(service, server, hop)| {
            let way = self.network.as_ref().and_then(|n| n.neighbour(server.address.ip()));
            NextHop {
                service: service.id,
                server: server.address,
                port: way.map(|(port, _)| port.to_string()),
                neighbour: way.map(|(_, neighbour)| neighbour),
                mac: match hop {
                    Hop::Port(hop) => Some(mac_text(hop.dst_mac)),
                    _ => None,
                },
            }
        });
        Response::NextHops { next_hops: rows.collect(), next }
    }
}

fn worker_counters(counters: &dataplane::counters::Counters, core: u32) -> WorkerCounters {
    let drops = dataplane::counters::DropReason::ALL.iter().map(|&reason| crate::api::Drop {
        reason: reason.name().into(),
        count: counters.dropped(reason),
    });
    WorkerCounters {
        core,
        rx: counters.rx,
        taken_over: counters.taken_over,
        injected: counters.injected,
        generated: counters.generated,
        tx: counters.tx,
        punted: counters.punted,
        handed_off: counters.handed_off,
        held: counters.held,
        drops: drops.collect(),
        connections: counters.connections,
        expired: counters.expired,
        recycled: counters.recycled,
        stateless: counters.stateless,
        taken_up: counters.taken_up,
        entries: counters.entries,
        busy_cycles: counters.busy_cycles,
        busy_rounds: counters.busy_rounds,
    }
}

/// A MAC address as people write it.
#[must_use]
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
