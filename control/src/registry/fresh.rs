//! New servers whose neighbour is not resolved yet, and the ways to all.

use std::net::{IpAddr, SocketAddr};

use dataplane::service::Hop;

use super::{Registry, Resolve};
use crate::api::{ErrorCode, ServiceId};

/// Full seconds that a new server is given to be resolved.
const GRACE_SECONDS: u8 = 1;

impl Registry {
    /// Whether a server is new and waits for its neighbour to be resolved.
    #[must_use]
    pub fn is_fresh(&self, service: &ServiceId, address: SocketAddr) -> bool {
        if self.fresh.is_empty() {
            return false;
        }
        let Ok(place) = self.place(service, ErrorCode::NoSuchService) else { return false };
        let entry = &self.services[&place];
        let server = self.server_called(entry, address);
        server.is_some_and(|(_, number)| self.fresh.contains_key(&number))
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

    pub(super) fn settle(&mut self, numbers: &[u32]) {
        for number in numbers {
            self.fresh.remove(number);
            let place = self.by_key[&self.server(*number).service];
            self.republish(place);
        }
    }

    /// Finds the way to every server anew. The servers whose way changed.
    pub fn resolve_all(&mut self, resolve: Resolve<'_>) -> Vec<(IpAddr, Hop)> {
        let mut changed = Vec::new();
        for server in self.servers.iter_mut() {
            let hop = resolve(&server.spec);
            if hop != server.published.hop {
                server.republish(|published| published.hop = hop);
                changed.push((server.spec.address.ip(), hop));
            }
        }
        let ready = |number: &u32| self.server(*number).published.hop != Hop::Unresolved;
        let ready: Vec<_> = self.fresh.keys().copied().filter(ready).collect();
        self.settle(&ready);
        changed
    }
}
