//! New servers whose neighbour is not resolved yet, and the ways to all.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use dataplane::service::Hop;

use super::{Registry, Resolve, ServerEntry};
use crate::api::{ErrorCode, ServiceId};

/// Full seconds that a new server is given to be resolved.
const GRACE_SECONDS: u8 = 1;
/// New servers whose ways are looked up at a time.
const MOST_FRESH: usize = 256;

impl Registry {
    /// Whether a server is new and waits for its neighbour to be resolved, or for
    /// the snapshot in which it is.
    #[must_use]
    pub fn is_fresh(&self, service: &ServiceId, address: SocketAddr) -> bool {
        if self.fresh.is_empty() && !self.is_behind() {
            return false;
        }
        let Ok(place) = self.place(service, ErrorCode::NoSuchService) else { return false };
        let entry = &self.services[&place];
        let server = self.server_called(place, entry, address);
        server.is_some_and(|number| self.fresh.contains_key(&number))
            || self.view.is_settling(place)
    }

    /// Lets new servers take connections that have waited long enough. To be
    /// called every second. Whether there were any.
    pub fn end_grace(&mut self) -> bool {
        let mut over = Vec::new();
        for (&number, seconds) in &mut self.fresh {
            if *seconds >= GRACE_SECONDS {
                over.push(number);
            }
            *seconds += 1;
        }
        self.settle(&over);
        !over.is_empty()
    }

    fn settle(&mut self, numbers: &[u32]) {
        for number in numbers {
            self.fresh.remove(number);
            let place = self.server(*number).place;
            self.view.settle(place);
        }
    }

    /// Finds the way to the servers of these numbers anew. The servers whose
    /// way changed.
    pub fn resolve(&mut self, numbers: Range<u32>, resolve: Resolve<'_>) -> Vec<(IpAddr, Hop)> {
        let end = numbers.end.min(self.servers.end());
        self.resolve_each(numbers.start..end, resolve)
    }

    /// The same for new servers; those that are left when there are many wait
    /// for their turn among all.
    pub fn resolve_fresh(&mut self, resolve: Resolve<'_>) -> Vec<(IpAddr, Hop)> {
        let numbers: Vec<_> = self.fresh.keys().copied().take(MOST_FRESH).collect();
        self.resolve_each(numbers, resolve)
    }

    fn resolve_each(
        &mut self,
        numbers: impl IntoIterator<Item = u32>,
        resolve: Resolve<'_>,
    ) -> Vec<(IpAddr, Hop)> {
        let mut changed = Vec::new();
        for number in numbers {
            let Some(server) = self.servers.get_mut(number) else { continue };
            let hop = resolve(&server.spec);
            if hop != server.published.hop {
                server.republish(|published| published.hop = hop);
                changed.push((server.spec.address.ip(), hop));
                self.view.touch_server(number);
            }
            if hop != Hop::Unresolved && self.fresh.contains_key(&number) {
                self.settle(&[number]);
            }
        }
        changed
    }

    /// The addresses of servers in use, of these numbers, also of those that are
    /// out for a while.
    pub fn addresses(&self, numbers: Range<u32>) -> impl Iterator<Item = IpAddr> {
        let end = numbers.end.min(self.servers.end());
        let servers = (numbers.start..end).filter_map(|number| self.servers.get(number));
        let in_use = |server: &&ServerEntry| server.is_out() || !server.published.deleted;
        servers.filter(in_use).map(|server| server.spec.address.ip())
    }

    /// The number after the last one in use.
    #[must_use]
    pub fn end_of_numbers(&self) -> u32 {
        self.servers.end()
    }
}
