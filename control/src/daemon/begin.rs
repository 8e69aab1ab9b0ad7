//! What the daemon begins with.

use dataplane::service::Hop;
use dataplane::snapshot::Port;

use super::saved::{Loaded, Saved, Service, Services};
use crate::api::Request;
use crate::config::Config;
use crate::registry::Registry;

/// The services that the daemon begins with: those of a daemon that was killed,
/// otherwise the file's. The way to their servers is found when it starts.
///
/// # Errors
/// One line for the operator.
pub fn registry(config: &Config, saved: &Saved, ports: Vec<Port>) -> Result<Registry, String> {
    if let Some(Loaded { services, changes }) = saved.load() {
        let path = saved.path().display();
        match fill(config, services, &changes, ports.clone()) {
            Ok(registry) => {
                log::warn!(
                    "the last rvsd did not stop cleanly: its services are taken up from {path}, those of the configuration file are not read; to begin with the file's, stop rvsd and start it again"
                );
                return Ok(registry);
            }
            // Of another release, perhaps: no reason not to start.
            Err(error) => log::warn!("{path}: {error}; its services are lost"),
        }
    }
    fill(config, from_file(config), &[], ports)
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
    for Service { spec, servers } in begin.services {
        let id = spec.id;
        registry.add_service(spec).map_err(|e| e.to_string())?;
        for server in servers {
            registry.add_server(&id, server, &|_| Hop::Unresolved).map_err(|e| e.to_string())?;
        }
    }
    for change in changes {
        let changed = registry.change(change, &|_| Hop::Unresolved);
        changed.unwrap_or(Ok(())).map_err(|e| e.to_string())?;
    }
    Ok(registry)
}

fn from_file(config: &Config) -> Services {
    let services = config
        .services
        .iter()
        .map(|service| Service { spec: service.spec.clone(), servers: service.servers.clone() });
    Services { timeouts: config.timeouts, settings: config.settings, services: services.collect() }
}
