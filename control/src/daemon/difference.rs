//! What has to be done so that a changed file is in force.
//!
//! Three states meet: the *base*, what the file said when it was last applied;
//! what *runs*; and what is *wanted*, the file as it is now. What is in the file
//! as it was is left alone, however it was changed at run time; what is
//! different in it is made as it says. Each service (without its servers), each
//! server, each timeout and each setting is judged by itself.

use std::collections::HashMap;
use std::net::SocketAddr;

use dataplane::service::Hop;

use super::saved::{Service, Services};
use crate::api::{
    Error, ErrorCode, Method, Origin, Request, ServerOrigin, ServerSpec, ServiceId, ServiceOrigin,
    Settings, Timeouts,
};
use crate::ipvsadm::output;
use crate::registry::Registry;

type Index<'a> = HashMap<ServiceId, &'a Service>;

/// The requests that lead from what runs to what is wanted, in an order in which
/// they can be carried out. With what runs as the base it becomes exactly that.
pub(super) fn changes(base: &Services, running: &Services, wanted: &Services) -> Vec<Request> {
    let mut changes = Vec::new();
    changes.extend(timeouts(base.timeouts, running.timeouts, wanted.timeouts));
    changes.extend(settings(base.settings, running.settings, wanted.settings));
    let (old, now, new) = (index(base), index(running), index(wanted));
    let removed = base.services.iter().map(|service| service.spec.id);
    let removed = removed.filter(|id| !new.contains_key(id) && now.contains_key(id));
    changes.extend(removed.map(|service| Request::DeleteService { service }));
    for service in &wanted.services {
        let id = service.spec.id;
        let base = old.get(&id).copied();
        if base == Some(service) {
            continue;
        }
        match now.get(&id) {
            None => changes.extend(service.clone().into_requests()),
            Some(running) => edit(base, running, service, &mut changes),
        }
    }
    changes
}

fn index(services: &Services) -> Index<'_> {
    services.services.iter().map(|service| (service.spec.id, service)).collect()
}

fn timeouts(base: Timeouts, running: Timeouts, wanted: Timeouts) -> Option<Request> {
    // 0 keeps what runs.
    let change = |base, running, wanted| {
        if wanted != base && wanted != running { wanted } else { 0 }
    };
    let timeouts = Timeouts {
        tcp: change(base.tcp, running.tcp, wanted.tcp),
        tcp_fin: change(base.tcp_fin, running.tcp_fin, wanted.tcp_fin),
        udp: change(base.udp, running.udp, wanted.udp),
    };
    let none = Timeouts { tcp: 0, tcp_fin: 0, udp: 0 };
    (timeouts != none).then_some(Request::SetTimeouts { timeouts })
}

fn settings(base: Settings, running: Settings, wanted: Settings) -> Vec<Request> {
    let rows = base.rows().zip(running.rows()).zip(wanted.rows());
    let changed =
        rows.filter(|(((_, base), (_, running)), (_, wanted))| wanted != base && wanted != running);
    changed.map(|(_, (name, value))| Request::SetSetting { name: name.to_owned(), value }).collect()
}

/// A service that runs. Its own options may rest on its servers' methods and
/// they on its options (FULLNAT needs local addresses): those that become
/// FULLNAT servers do so after it has changed, all others before.
fn edit(base: Option<&Service>, running: &Service, wanted: &Service, changes: &mut Vec<Request>) {
    let service = wanted.spec.id;
    let old = servers(base);
    let now = servers(Some(running));
    let new = servers(Some(wanted));
    let base_servers = base.map(|service| service.servers.as_slice()).unwrap_or_default();
    let gone = base_servers.iter().map(|server| server.address);
    let gone = gone.filter(|address| !new.contains_key(address) && now.contains_key(address));
    changes.extend(gone.map(|server| Request::DeleteServer { service, server }));

    let changed: Vec<_> = wanted
        .servers
        .iter()
        .filter(|&server| {
            let address = &server.address;
            old.get(address) != Some(&server) && now.get(address) != Some(&server)
        })
        .collect();
    let (there, missing): (Vec<_>, Vec<_>) =
        changed.into_iter().partition(|server| now.contains_key(&server.address));
    let (after, before): (Vec<_>, Vec<_>) =
        there.into_iter().partition(|server| server.method == Method::Fullnat);
    let edit = |server: &ServerSpec| Request::EditServer { service, server: server.clone() };
    changes.extend(before.into_iter().map(edit));
    if base.is_none_or(|base| base.spec != wanted.spec) && running.spec != wanted.spec {
        changes.push(Request::EditService { service: wanted.spec.clone() });
    }
    changes.extend(after.into_iter().map(edit));
    let add = |server: &ServerSpec| Request::AddServer { service, server: server.clone() };
    changes.extend(missing.into_iter().map(add));
}

fn servers(service: Option<&Service>) -> HashMap<SocketAddr, &ServerSpec> {
    let servers = service.map(|service| service.servers.as_slice()).unwrap_or_default();
    servers.iter().map(|server| (server.address, server)).collect()
}

/// Carries requests out on a copy of the services that they concern, so that
/// none is carried out when one cannot be.
///
/// # Errors
/// About the first that cannot be, with the command.
pub(super) fn rehearse(running: &Services, changes: &[Request]) -> Result<(), Error> {
    let now = index(running);
    let mut copy = Registry::new(1, Vec::new(), running.timeouts);
    let mut copied = std::collections::HashSet::new();
    for change in changes {
        if let Some(id) = service_of(change).filter(|id| copied.insert(*id)) {
            let service = now.get(&id).copied().cloned();
            for request in service.into_iter().flat_map(Service::into_requests) {
                carry_out(&mut copy, &request)?;
            }
        }
        carry_out(&mut copy, change).map_err(|error| {
            let command = output::command(change).unwrap_or_default();
            Error::new(error.code, format!("{command}: {error}"))
        })?;
    }
    Ok(())
}

/// What requests make of timeouts and settings that run, and of no services.
///
/// # Errors
/// About the first that cannot be carried out, with its number, counted from 1.
pub(super) fn outcome(running: &Services, requests: &[Request]) -> Result<Services, Error> {
    let mut copy = Registry::new(1, Vec::new(), running.timeouts).with_settings(running.settings);
    for (index, request) in requests.iter().enumerate() {
        carry_out(&mut copy, request)
            .map_err(|error| Error::new(error.code, format!("request {}: {error}", index + 1)))?;
    }
    Ok(copy.saved(0, usize::MAX).0)
}

fn carry_out(registry: &mut Registry, request: &Request) -> Result<(), Error> {
    registry.change(request, &|_| Hop::NoRoute).unwrap_or_else(|| {
        let message = "only what changes services, servers, timeouts and settings can be restored";
        Err(Error::new(ErrorCode::BadRequest, message))
    })
}

fn service_of(change: &Request) -> Option<ServiceId> {
    match change {
        Request::AddService { service } | Request::EditService { service } => Some(service.id),
        Request::DeleteService { service }
        | Request::AddServer { service, .. }
        | Request::EditServer { service, .. }
        | Request::DeleteServer { service, .. } => Some(*service),
        _ => None,
    }
}

/// Where services come from that run, in their order.
pub(super) struct Origins<'a>(Index<'a>);

impl<'a> Origins<'a> {
    /// `base` is what the file said when it was last applied.
    pub(super) fn new(base: &'a Services) -> Self {
        Self(index(base))
    }

    /// Where a service comes from; its servers are listed newest first.
    pub(super) fn of(&self, running: &Service) -> ServiceOrigin {
        let base = self.0.get(&running.spec.id).copied();
        let old = servers(base);
        let origin = |server: &ServerSpec| match old.get(&server.address) {
            None => Origin::Runtime,
            Some(&base) if base == server => Origin::File,
            Some(_) => Origin::Changed,
        };
        let servers = running.servers.iter().rev();
        let servers: Vec<_> = servers
            .map(|server| ServerOrigin { server: server.address, origin: origin(server) })
            .collect();
        let origin = match base {
            None => Origin::Runtime,
            Some(base)
                if base.spec == running.spec
                    && base.servers.len() == servers.len()
                    && servers.iter().all(|server| server.origin == Origin::File) =>
            {
                Origin::File
            }
            Some(_) => Origin::Changed,
        };
        ServiceOrigin { service: running.spec.id, origin, servers }
    }
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
