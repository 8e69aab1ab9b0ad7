//! The daemon's side of health checks: they follow what clients change, and
//! what they find is acted on between two turns.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use super::{Daemon, hop};
use crate::api::{Request, ServerSpec, ServiceId};
use crate::health::plan::Plan;
use crate::registry::Registry;

/// What requests changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    services: BTreeSet<ServiceId>,
    servers: BTreeSet<(ServiceId, SocketAddr)>,
    /// Any may be.
    all: bool,
}

impl Touched {
    /// Takes note of what a request is about to change, or has changed: a server
    /// that is deleted is there before only, one that is added after.
    pub(super) fn note(&mut self, request: &Request, registry: &Registry) {
        let (service, server) = match request {
            Request::AddService { service } | Request::EditService { service } => {
                self.services.insert(service.id);
                return;
            }
            Request::DeleteService { service } => {
                self.services.insert(*service);
                return;
            }
            Request::Flush {} => {
                self.all = true;
                return;
            }
            Request::AddServer { service, server } | Request::EditServer { service, server } => {
                (service, server.address)
            }
            Request::DeleteServer { service, server } => (service, *server),
            _ => return,
        };
        let server = registry.called(service, server);
        self.servers.extend(server.map(|server| (*service, server)));
    }
}

impl Daemon {
    /// Has servers checked as these plans say, instead of those before. Services
    /// without a plan are not checked.
    pub fn check_health(&mut self, plans: HashMap<ServiceId, Plan>) {
        let network = self.network.as_ref();
        let resolve = |server: &ServerSpec| hop(network, server.address.ip());
        let changed = self.health.configure(plans, &mut self.registry, &resolve);
        // Sorry servers may have gone.
        self.resolving.note_gone();
        self.after_health(changed);
    }

    /// Checks start and stop with what requests added and deleted.
    pub(super) fn health_follows(&mut self) {
        let Touched { services, servers, all } = std::mem::take(&mut self.touched);
        if services.is_empty() && servers.is_empty() && !all {
            return;
        }
        let network = self.network.as_ref();
        let resolve = |server: &ServerSpec| hop(network, server.address.ip());
        let changed = if all {
            self.health.follow_all(&mut self.registry, &resolve)
        } else {
            self.health.follow(&services, &mut self.registry, &resolve)
                | self.health.follow_servers(&servers, &mut self.registry)
        };
        self.after_health(changed);
    }

    /// Acts on what checks found.
    pub(super) fn take_health_changes(&mut self) {
        let changed = self.health.take_changes(&mut self.registry);
        self.after_health(changed);
    }

    fn after_health(&mut self, registry_changed: bool) {
        self.dirty |= registry_changed;
        for server in self.health.new_sorry_servers() {
            self.keep_resolved(server);
        }
        if let Some(network) = &mut self.network {
            network.withdraw(self.health.withdrawn());
        }
    }
}
