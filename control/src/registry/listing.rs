//! What clients are shown of services and servers.

use std::net::SocketAddr;

use dataplane::service::Hop;

use super::{Registry, ServerEntry, ServiceEntry, Standing};
use crate::api::{
    Error, ErrorCode, MethodName, ServerHealth, ServerSpec, ServerStatus, ServiceId, ServiceSpec,
    ServiceStatus, Stats,
};

/// A server in use: its service, itself, how its packets leave.
pub type ServerRow<'a> = (&'a ServiceSpec, &'a ServerSpec, Hop);

impl Registry {
    /// The servers in use, with the service they belong to and how their
    /// packets leave, in the order of the listing.
    pub fn servers(&self) -> impl Iterator<Item = ServerRow<'_>> {
        self.services.values().rev().flat_map(|service| self.servers_in(service))
    }

    /// The same from a cursor on, whole services until `rows` are reached; and
    /// the cursor to go on with.
    #[must_use]
    pub fn servers_from(
        &self,
        cursor: Option<u64>,
        rows: usize,
    ) -> (Vec<ServerRow<'_>>, Option<u64>) {
        let mut page = Vec::new();
        for (&place, service) in self.services.range(..=cursor.unwrap_or(u64::MAX)).rev() {
            if page.len() + service.servers.len() > rows && !page.is_empty() {
                return (page, Some(place));
            }
            page.extend(self.servers_in(service));
        }
        (page, None)
    }

    fn servers_in<'a>(&'a self, service: &'a ServiceEntry) -> impl Iterator<Item = ServerRow<'a>> {
        service.servers.iter().rev().map(|&number| {
            let server = self.server(number);
            (&*service.spec, &server.spec, server.published.hop)
        })
    }

    /// Where a server gets its packets, by the number that its connections
    /// have; also of a deleted one. Port 0: on the port that clients used.
    #[must_use]
    pub fn server_address(&self, number: u32) -> Option<SocketAddr> {
        Some(self.servers.get(number)?.published.address)
    }

    /// How packets reach a server, by its number.
    #[must_use]
    pub fn server_method(&self, number: u32) -> Option<MethodName> {
        Some(MethodName::from(&self.servers.get(number)?.spec.method))
    }

    /// All servers with their numbers and where they get packets, also deleted
    /// ones that have connections.
    pub fn numbered_servers(&self) -> impl Iterator<Item = (u32, SocketAddr, &ServerSpec)> {
        (0..self.servers.end()).filter_map(|number| {
            let server = self.servers.get(number)?;
            Some((number, server.published.address, &server.spec))
        })
    }

    /// The service that persistence templates know by this number.
    #[must_use]
    pub fn service_of_number(&self, number: u32) -> Option<ServiceId> {
        Some(self.services.get(&u64::from(number))?.spec.id)
    }

    /// The status of one service.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn service_status(&self, id: &ServiceId) -> Result<ServiceStatus, Error> {
        let place = self.place(id, ErrorCode::NoSuchService)?;
        Ok(self.status(&self.services[&place]))
    }

    /// Statuses of services from a cursor on, newest first, until `rows` rows
    /// (services and servers) are reached; and the cursor to go on with.
    #[must_use]
    pub fn statuses(&self, cursor: Option<u64>, rows: usize) -> (Vec<ServiceStatus>, Option<u64>) {
        let mut statuses = Vec::new();
        let mut used = 0;
        let from = cursor.unwrap_or(u64::MAX);
        for (&place, entry) in self.services.range(..=from).rev() {
            used += 1 + entry.servers.len();
            if used > rows && !statuses.is_empty() {
                return (statuses, Some(place));
            }
            statuses.push(self.status(entry));
        }
        (statuses, None)
    }

    /// How many services there are, and servers of theirs.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.services.len(), self.by_address.len())
    }

    fn status(&self, entry: &ServiceEntry) -> ServiceStatus {
        let servers = entry.servers.iter().rev().map(|&number| self.server(number));
        let servers = servers.filter(|server| !server.is_out()).map(|server| {
            let (active, inactive) = server.published.counts.connections.read();
            let persistent = server.published.counts.connections.templates();
            let stats = server.meter.stats(server.published.counts.totals());
            let spec = ServerSpec { weight: server.weight(), ..server.spec.clone() };
            let health = server.health();
            ServerStatus { spec, active, inactive, persistent, stats, health }
        });
        ServiceStatus {
            spec: (*entry.spec).clone(),
            stats: self.stats(entry),
            servers: servers.collect(),
        }
    }

    fn stats(&self, entry: &ServiceEntry) -> Stats {
        entry.meter.stats(self.totals(entry.published.key, entry))
    }
}

impl ServerEntry {
    fn health(&self) -> Option<ServerHealth> {
        let (standing, sorry_server) = (self.standing, self.sorry);
        (standing != Standing::Unchecked || sorry_server).then_some(ServerHealth {
            up: matches!(standing, Standing::Up | Standing::Unchecked),
            configured_weight: self.spec.weight,
            sorry_server,
        })
    }
}
