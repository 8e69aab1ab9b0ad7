//! The daemon's side of health checks: they follow what clients change, and
//! what they find is acted on between two turns.

use std::collections::{BTreeSet, HashMap};

use super::{Daemon, hop};
use crate::api::{Request, ServerSpec, ServiceId};
use crate::health::plan::Plan;

/// Services whose servers requests changed.
#[derive(Debug, Default)]
pub(super) struct Touched {
    services: BTreeSet<ServiceId>,
    /// Any may be.
    all: bool,
}

impl Touched {
    /// What a request changes.
    pub(super) fn by(request: &Request) -> Self {
        let mut touched = Self::default();
        match request {
            Request::AddService { service } | Request::EditService { service } => {
                touched.services.insert(service.id);
            }
            Request::DeleteService { service }
            | Request::AddServer { service, .. }
            | Request::EditServer { service, .. }
            | Request::DeleteServer { service, .. } => {
                touched.services.insert(*service);
            }
            Request::Flush {} => touched.all = true,
            _ => {}
        }
        touched
    }

    pub(super) fn add(&mut self, other: Self) {
        self.services.extend(other.services);
        self.all |= other.all;
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
        let Touched { services, all } = std::mem::take(&mut self.touched);
        if services.is_empty() && !all {
            return;
        }
        let network = self.network.as_ref();
        let resolve = |server: &ServerSpec| hop(network, server.address.ip());
        let changed = if all {
            self.health.follow_all(&mut self.registry, &resolve)
        } else {
            self.health.follow(&services, &mut self.registry, &resolve)
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
