//! What the daemon begins with.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dataplane::service::Hop;
use dataplane::snapshot::Port;

use super::difference;
use super::saved::{Loaded, Saved, Service, Services};
use crate::api::Request;
use crate::config::Config;
use crate::ipvsadm::output;
use crate::kernel::OwnedAddress;
use crate::registry::Registry;

/// The services that the daemon begins with: those of the record that the last
/// one left, and what is different in the file since; without a record the
/// file's. The way to their servers is found when it starts.
///
/// # Errors
/// One line for the operator.
pub fn registry(config: &Config, saved: &Saved, ports: Vec<Port>) -> Result<Registry, String> {
    let file = from_file(config);
    if let Some(Loaded { services, changes }) = saved.load() {
        let path = saved.path().display();
        match fill(config, services, &changes, ports.clone()) {
            Ok(mut registry) => {
                // Before the first file was kept none was applied but this one.
                let base = saved.load_applied().unwrap_or_else(|| file.clone());
                log::info!(
                    "services are taken up from {path}, as they were at the end of the last rvsd; of the configuration file, what has changed since it was last read"
                );
                follow(&mut registry, &base, &file);
                return Ok(registry);
            }
            // Of another release, perhaps: no reason not to start.
            Err(error) => log::warn!("{path}: {error}; its services are lost"),
        }
    }
    fill(config, file, &[], ports)
}

/// Carries out what changed in the file. What does not go with the changes at
/// run time must not keep the director from starting.
fn follow(registry: &mut Registry, base: &Services, file: &Services) {
    let (running, _) = registry.saved(0, usize::MAX);
    for change in difference::changes(base, &running, file) {
        let command = output::command(&change).unwrap_or_default();
        match registry.change(&change, &|_| Hop::Unresolved) {
            Some(Err(error)) => log::error!("configuration file: {command}: {error}"),
            _ => log::info!("configuration file: {command}"),
        }
    }
}

/// The rules of marks and the ports on local addresses are the file's in any
/// case.
fn fill(
    config: &Config,
    begin: Services,
    changes: &[Request],
    ports: Vec<Port>,
) -> Result<Registry, String> {
    let workers = config.director.cores.len();
    let mut registry = Registry::new(workers, ports, begin.timeouts)
        .with_settings(begin.settings)
        .with_rules(config.rules.clone())
        .with_local_ports(config.local_ports);
    let services = begin.services.into_iter().flat_map(Service::into_requests);
    for change in services.chain(changes.iter().cloned()) {
        let changed = registry.change(&change, &|_| Hop::Unresolved);
        changed.unwrap_or(Ok(())).map_err(|e| e.to_string())?;
    }
    Ok(registry)
}

/// What the file says of what can be changed at run time.
#[must_use]
pub fn from_file(config: &Config) -> Services {
    let services = config.services.iter().map(|service| Service {
        spec: service.spec.clone(),
        servers: service.servers.clone(),
        drained: Vec::new(),
    });
    Services { timeouts: config.timeouts, settings: config.settings, services: services.collect() }
}

/// The addresses that rvsd puts up: the ports' on their taps, IPv4 VIPs on `lo`
/// as the LVS guides do. IPv6 VIPs go on every tap: Linux answers
/// neighbour solicitations only for addresses of the link that they come by.
#[must_use]
pub fn addresses(config: &Config) -> BTreeSet<OwnedAddress> {
    let mut addresses = BTreeSet::new();
    let mut own = |link: &str, ip, prefix_len| {
        addresses.insert(OwnedAddress { link: link.into(), ip, prefix_len });
    };
    let interfaces = config.interfaces();
    for interface in &interfaces {
        for cidr in interface.addresses {
            own(interface.name, cidr.address, cidr.prefix);
        }
    }
    for &vip in &config.vip.addresses {
        match vip {
            IpAddr::V4(_) => own("lo", vip, 32),
            IpAddr::V6(_) => interfaces.iter().for_each(|tap| own(tap.name, vip, 128)),
        }
    }
    addresses
}
