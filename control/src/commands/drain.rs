//! Draining a server, and waiting until it has no connection left.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Failure, Server};
use crate::api::{Request, ServerStatus, ServiceId, ServiceStatus};
use crate::client::Client;

/// Time between two looks at the connections.
const PERIOD: Duration = Duration::from_millis(500);

/// What a server still has, in all services.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Left {
    services: usize,
    active: u64,
    inactive: u64,
    /// Some service gives it connections.
    in_use: bool,
}

/// Drains a server. With `patience` waits until it has no connection left, for
/// so long at most if it says how long.
pub(super) fn drain(
    client: &mut Client,
    server: Server,
    patience: Option<Option<Duration>>,
    stdout: &mut dyn Write,
) -> Result<(), Failure> {
    let Server { address, port } = server;
    client.change(&Request::Drain { server: address, port, service: None })?;
    let services = client.services(None)?.services;
    let ids: Vec<_> = services
        .iter()
        .filter(|service| meant(service, server).next().is_some())
        .map(|service| service.spec.id)
        .collect();
    let mut left = look(&services, server);
    say(stdout, server, left)?;
    let Some(timeout) = patience else { return Ok(()) };
    let start = Instant::now();
    while left.active + left.inactive > 0 {
        let waited = start.elapsed();
        if timeout.is_some_and(|timeout| waited >= timeout) {
            let count = left.active + left.inactive;
            return Err(Failure::Other(format!(
                "{} still has {count} connections after {} s; it stays drained",
                name(server),
                waited.as_secs()
            )));
        }
        std::thread::sleep(timeout.map_or(PERIOD, |timeout| PERIOD.min(timeout - waited)));
        let now = look(&again(client, &ids)?, server);
        if now.in_use {
            let server = name(server);
            return Err(Failure::Other(format!("{server} was given a weight again meanwhile")));
        }
        if now != left {
            say(stdout, server, now)?;
        }
        left = now;
    }
    Ok(())
}

/// The services that are still there.
fn again(client: &mut Client, ids: &[ServiceId]) -> Result<Vec<ServiceStatus>, Failure> {
    let mut services = Vec::new();
    for &id in ids {
        match client.services(Some(id)) {
            Ok(listed) => services.extend(listed.services),
            // Deleted meanwhile: its connections go nowhere any more.
            Err(crate::client::ClientError::Api(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(services)
}

fn meant(service: &ServiceStatus, server: Server) -> impl Iterator<Item = &ServerStatus> {
    let Server { address, port } = server;
    service.servers.iter().filter(move |status| {
        let own = status.spec.address;
        own.ip() == address && port.is_none_or(|port| port == own.port())
    })
}

fn look(services: &[ServiceStatus], server: Server) -> Left {
    let mut left = Left::default();
    for service in services {
        let mut found = false;
        for status in meant(service, server) {
            found = true;
            left.active += u64::from(status.active);
            left.inactive += u64::from(status.inactive);
            left.in_use |= status.spec.weight > 0;
        }
        left.services += usize::from(found);
    }
    left
}

fn say(stdout: &mut dyn Write, server: Server, left: Left) -> Result<(), Failure> {
    let Left { services, active, inactive, .. } = left;
    writeln!(
        stdout,
        "{}: drained in {services} services, {active} active and {inactive} inactive connections left",
        name(server)
    )?;
    Ok(stdout.flush()?)
}

fn name(server: Server) -> String {
    match server.port {
        Some(port) => SocketAddr::new(server.address, port).to_string(),
        None => server.address.to_string(),
    }
}
