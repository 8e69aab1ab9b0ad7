//! What follows from what checks find.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::plan::{OnFailure, Plan};
use super::runner::Change;
use super::state::State;
use super::{Checked, Health, changes};
use crate::api::{HealthChange, ServiceId};
use crate::registry::{Registry, Resolve, Standing};
use crate::show::service_name;

impl Health {
    /// Has the registry follow what became of servers. Whether that changed it.
    pub fn take_changes(&mut self, registry: &mut Registry) -> bool {
        let mut changed = false;
        let mut services = BTreeSet::new();
        let now = Instant::now();
        while let Some(change) = self.next_change() {
            let Some(checked) = self.checks.get_mut(&change.id) else { continue };
            checked.state = change.state;
            say(checked, &change);
            changed |= stand(checked, registry);
            services.insert(checked.target.service);
            self.changes.add(now, checked.target, change);
        }
        for service in &services {
            say_if_none_is_left(service, registry);
            self.withdraw(registry, Some(service));
        }
        changed
    }

    /// The servers that became good or failed, the last one first.
    #[must_use]
    pub fn changes(&self) -> Vec<HealthChange> {
        self.changes.list(Instant::now())
    }

    /// Finds the vips to withdraw anew: that of one service, or all.
    pub(super) fn withdraw(&mut self, registry: &Registry, service: Option<&ServiceId>) {
        let vips: Vec<IpAddr> = match service {
            Some(ServiceId::Address { address, .. }) => vec![address.ip()],
            Some(ServiceId::Fwmark { .. }) => return,
            None => self.withdrawing.keys().chain(&self.withdrawn).copied().collect(),
        };
        for vip in vips {
            let services = self.withdrawing.get(&vip).into_iter().flatten();
            let takes: Vec<bool> =
                services.filter_map(|service| registry.takes_connections(service)).collect();
            let nobody_takes = !takes.is_empty() && !takes.contains(&true);
            if nobody_takes && self.withdrawn.insert(vip) {
                log::warn!("health: vip {vip} withdrawn: its services have no server left");
            } else if !nobody_takes && self.withdrawn.remove(&vip) {
                log::info!("health: vip {vip} put back");
            }
        }
    }
}

/// Has a server stand as its check says.
pub(super) fn stand(checked: &Checked, registry: &mut Registry) -> bool {
    let standing = match (checked.state, checked.check.on_failure) {
        (State::Up, _) => Standing::Up,
        (State::Down, OnFailure::Weight0) => Standing::Quiet,
        (State::Down, OnFailure::Remove) => Standing::Out,
    };
    registry.set_standing(&checked.target.service, checked.target.server, standing)
}

/// A server is not checked any more.
pub(super) fn unchecked(service: &ServiceId, server: SocketAddr, registry: &mut Registry) -> bool {
    registry.set_standing(service, server, Standing::Unchecked)
}

/// Gives a service the sorry server of its plan.
pub(super) fn sorry_server(
    service: &ServiceId,
    plan: &Plan,
    registry: &mut Registry,
    resolve: Resolve<'_>,
) -> bool {
    let wanted = plan.sorry_server.as_ref();
    registry.set_sorry_server(service, wanted, resolve).unwrap_or_else(|error| {
        let (name, address) = (service_name(service), wanted.map(|server| server.address));
        let address = address.map(|address| format!(" {address}")).unwrap_or_default();
        log::warn!("{name}: no sorry server{address}: {error}");
        false
    })
}

fn say(checked: &Checked, change: &Change) {
    let service = service_name(&checked.target.service);
    let server = checked.target.server;
    let Change { in_a_row, reason, .. } = change;
    let lasted = changes::duration(change.lasted);
    match change.state {
        State::Down => {
            let effect = match checked.check.on_failure {
                OnFailure::Weight0 => "weight 0",
                OnFailure::Remove => "removed",
            };
            log::warn!(
                "health: {service}: server {server} down ({effect}): {reason}; {in_a_row} in a row, was up for {lasted}"
            );
        }
        State::Up => log::info!(
            "health: {service}: server {server} up; {in_a_row} in a row, was down for {lasted}"
        ),
    }
}

fn say_if_none_is_left(service: &ServiceId, registry: &Registry) {
    if registry.takes_connections(service) == Some(false) {
        let service = service_name(service);
        log::error!("health: {service}: no server is left");
    }
}
