//! What services and servers counted: zeroing, rates, totals.

use std::collections::HashMap;

use dataplane::service::{ServiceKey, TrafficTotals};

use super::{Registry, ServiceEntry, rates};
use crate::api::{Error, ErrorCode, ServiceId};

impl Registry {
    /// Sets the counters of a service and its servers to zero, or of all.
    ///
    /// # Errors
    /// When the one named does not exist.
    pub fn zero(&mut self, service: Option<&ServiceId>) -> Result<(), Error> {
        let places: Vec<_> = match service {
            Some(id) => vec![self.place(id, ErrorCode::NoSuchService)?],
            None => self.services.keys().copied().collect(),
        };
        for place in places {
            let entry = &self.services[&place];
            let totals = self.totals(entry.published.key, entry);
            let entry = self.services.get_mut(&place).expect("listed above");
            entry.meter.zero(totals);
            for &number in &entry.servers {
                let server = self.servers.get_mut(number).expect("in its slot");
                server.meter.zero(server.published.counts.totals());
            }
        }
        Ok(())
    }

    /// Advances the rates. To be called every [`PERIOD_SECONDS`](super::PERIOD_SECONDS).
    pub fn estimate_rates(&mut self) {
        let totals: Vec<_> =
            self.services.values().map(|entry| self.totals(entry.published.key, entry)).collect();
        for (entry, totals) in self.services.values_mut().zip(totals) {
            entry.meter.estimate(totals);
        }
        for server in self.servers.iter_mut() {
            server.meter.estimate(server.published.counts.totals());
        }
    }

    /// All that was ever counted for a service of this name.
    pub(super) fn totals(&self, key: ServiceKey, entry: &ServiceEntry) -> TrafficTotals {
        let trash = self.trash.get(&key).into_iter().flat_map(HashMap::values);
        entry.servers.iter().chain(trash).fold(entry.retired, |sum, &number| {
            rates::sum(sum, self.server(number).published.counts.totals())
        })
    }
}
