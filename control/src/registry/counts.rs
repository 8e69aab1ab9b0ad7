//! What services and servers counted: zeroing, rates, totals.

use std::collections::HashMap;
use std::time::Duration;

use dataplane::service::{ServiceKey, TrafficTotals};

use super::{PERIOD_SECONDS, Registry, ServiceEntry, rates};
use crate::api::{Error, ErrorCode, ServiceId};

/// Services or servers whose rates are advanced at a time: the counters of each
/// are lines that workers write, and a client may be waiting.
const SLICE: usize = 256;

/// How far the rates have been advanced in this period.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rating {
    /// Slices of the period, and those that are done.
    slices: usize,
    slice: usize,
    /// The first service that is not, by place, and server, by number.
    service: u64,
    server: u32,
}

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

    /// Advances the rates of some services and servers, those of all once in
    /// [`PERIOD_SECONDS`]. The time until the next are
    /// due.
    pub fn estimate_rates(&mut self) -> Duration {
        let Rating { slice, service, .. } = self.rating;
        let count = self.services.len().max(self.servers.end() as usize);
        let slices = if slice == 0 { count.div_ceil(SLICE).max(1) } else { self.rating.slices };
        let last = slice + 1 == slices;
        // What was added during the period comes with the last.
        let services = if last { usize::MAX } else { self.services.len().div_ceil(slices) };
        let servers = if last { u32::MAX } else { self.servers.end().div_ceil(slices as u32) };

        let mut next = Rating { slices, slice: slice + 1, ..self.rating };
        let due = self.services.range(service..).take(services);
        let totals: Vec<_> =
            due.map(|(&place, entry)| (place, self.totals(entry.published.key, entry))).collect();
        for (place, totals) in totals {
            let entry = self.services.get_mut(&place).expect("found above");
            entry.meter.estimate(totals);
            next.service = place + 1;
        }
        next.server = next.server.saturating_add(servers).min(self.servers.end());
        for number in self.rating.server..next.server {
            if let Some(server) = self.servers.get_mut(number) {
                server.meter.estimate(server.published.counts.totals());
            }
        }
        self.rating = if last { Rating::default() } else { next };
        Duration::from_secs(PERIOD_SECONDS) / slices as u32
    }

    /// All that was ever counted for a service of this name.
    pub(super) fn totals(&self, key: ServiceKey, entry: &ServiceEntry) -> TrafficTotals {
        let trash = self.trash.get(&key).into_iter().flat_map(HashMap::values);
        entry.servers.iter().chain(trash).fold(entry.retired, |sum, &number| {
            rates::sum(sum, self.server(number).published.counts.totals())
        })
    }
}
