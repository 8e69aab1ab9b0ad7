//! What observed packets' numbers stand for.

use dataplane::service::ServiceKey;
use dataplane::snapshot::Snapshot;

use super::Registry;
use crate::api::{Method, ServiceId};

impl Registry {
    /// The service of a server, by the number that its connections have; also
    /// of a deleted server, as long as the service exists.
    #[must_use]
    pub fn service_of_server(&self, number: u32) -> Option<ServiceId> {
        self.service_of_key(&self.servers.get(number)?.service)
    }

    /// A service by the name that workers know.
    #[must_use]
    pub fn service_of_key(&self, key: &ServiceKey) -> Option<ServiceId> {
        let place = self.by_key.get(key)?;
        Some(self.services.get(place)?.spec.id)
    }

    /// A server's forwarding method with all that belongs to it.
    #[must_use]
    pub fn full_method(&self, number: u32) -> Option<Method> {
        Some(self.servers.get(number)?.spec.method.clone())
    }

    /// What workers see now: the snapshot made last, under the same epoch.
    #[must_use]
    pub fn last_snapshot(&self) -> Snapshot {
        self.assembled()
    }
}
