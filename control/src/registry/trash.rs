//! Deleted servers stay in the *trash* while connections to them exist: their
//! numbers, counters and connections come back when the server is added again
//! (as with the kernel), and no number is given out twice.

use std::collections::HashMap;
use std::net::SocketAddr;

use dataplane::service::ServiceKey;

use super::{Registry, Standing, rates};

impl Registry {
    /// Puts a server into the trash.
    pub(super) fn discard(&mut self, number: u32) {
        self.fresh.remove(&number);
        self.drained.remove(&number);
        let server = self.servers.get_mut(number).expect("a service's server is in its slot");
        (server.standing, server.sorry) = (Standing::Unchecked, false);
        server.republish(|published| published.deleted = true);
        self.view.touch_server(number);
        self.trash.entry(server.service).or_default().insert(server.spec.address, number);
    }

    /// Takes a server out of the trash.
    pub(super) fn recover(&mut self, service: &ServiceKey, address: SocketAddr) -> Option<u32> {
        let servers = self.trash.get_mut(service)?;
        let number = servers.remove(&address)?;
        if servers.is_empty() {
            self.trash.remove(service);
        }
        Some(number)
    }

    /// Forgets deleted servers without connections. `running` is the oldest
    /// epoch that any worker runs: no worker that has heard of the deletion
    /// opens another connection. Whether any was forgotten; the next snapshot
    /// is without them.
    pub fn empty_trash(&mut self, running: u64) -> bool {
        let gone: Vec<_> = self
            .trash
            .values()
            .flat_map(HashMap::values)
            .copied()
            .filter(|&number| {
                let server = self.server(number);
                server.deleted.is_some_and(|epoch| epoch <= running)
                    && server.published.counts.connections.read() == (0, 0)
                    && server.published.counts.connections.templates() == 0
            })
            .collect();
        for &number in &gone {
            let server = self.servers.remove(number).expect("trash is in its slot");
            self.view.nat_source(&server.service, server.nat_source(), None);
            self.view.touch_server(number);
            self.recover(&server.service, server.spec.address);
            if let Some(place) = self.by_key.get(&server.service) {
                let service = self.services.get_mut(place).expect("a place has a service");
                service.retired = rates::sum(service.retired, server.published.counts.totals());
            }
        }
        !gone.is_empty()
    }
}
