//! Draining: a server takes no new connections, in all services that have it,
//! and gets its weights back later.

use std::net::{IpAddr, SocketAddr};

use super::{Registry, Resolve, ServiceEntry};
use crate::api::{Error, ErrorCode, ServerSpec, ServiceId};

/// The servers that are meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    pub(super) server: IpAddr,
    pub(super) port: Option<u16>,
    pub(super) service: Option<ServiceId>,
}

impl Registry {
    /// Gives servers weight 0 and remembers what they had.
    ///
    /// # Errors
    /// When no service has any of them.
    pub(super) fn drain(&mut self, meant: &Drain, resolve: Resolve<'_>) -> Result<(), Error> {
        let servers = self.meant(meant);
        if servers.is_empty() {
            let message = format!("no service has the server {}", meant.name());
            return Err(Error::new(ErrorCode::NoSuchServer, message));
        }
        for (service, number) in servers {
            let spec = self.server(number).spec.clone();
            // A second time there is nothing new to remember.
            if spec.weight > 0 {
                let weight = spec.weight;
                self.edit_server(&service, ServerSpec { weight: 0, ..spec }, resolve)?;
                self.drained.insert(number, weight);
            }
        }
        Ok(())
    }

    /// Gives drained servers their weights again.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn undrain(&mut self, meant: &Drain, resolve: Resolve<'_>) -> Result<(), Error> {
        let mut servers = self.meant(meant);
        servers.retain(|(_, number)| self.drained.contains_key(number));
        if servers.is_empty() {
            let message =
                format!("the server {} is not drained; give it a weight with -e", meant.name());
            return Err(Error::new(ErrorCode::NoSuchServer, message));
        }
        for (service, number) in servers {
            let weight = self.drained[&number];
            let spec = self.server(number).spec.clone();
            // Which forgets that it was drained.
            self.edit_server(&service, ServerSpec { weight, ..spec }, resolve)?;
        }
        Ok(())
    }

    /// The drained servers of a service with the weights that they had, oldest
    /// first.
    pub(super) fn drained_of(&self, entry: &ServiceEntry) -> Vec<(SocketAddr, u32)> {
        if self.drained.is_empty() {
            return Vec::new();
        }
        let weight =
            |&number: &u32| Some((self.server(number).spec.address, *self.drained.get(&number)?));
        entry.servers.iter().filter_map(weight).collect()
    }

    fn meant(&self, meant: &Drain) -> Vec<(ServiceId, u32)> {
        let is_meant = |address: SocketAddr| {
            address.ip() == meant.server && meant.port.is_none_or(|port| port == address.port())
        };
        let services = self
            .services
            .values()
            .filter(|entry| meant.service.is_none_or(|service| service == entry.spec.id));
        services
            .flat_map(|entry| entry.servers.iter().map(|&number| (entry.spec.id, number)))
            .filter(|&(_, number)| {
                let server = self.server(number);
                // A sorry server is there when no other is: nobody may change it.
                !server.sorry && is_meant(server.spec.address)
            })
            .collect()
    }
}

impl Drain {
    fn name(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.server, port).to_string(),
            None => self.server.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane::service::Hop;

    use super::*;
    use crate::api::{Method, Protocol, Request, ServiceSpec, Timeouts};

    const SERVER: [u8; 4] = [10, 0, 1, 1];

    fn id(port: u16) -> ServiceId {
        ServiceId::Address { protocol: Protocol::Tcp, address: ([10, 0, 0, 1], port).into() }
    }

    fn spec(port: u16, weight: u32) -> ServerSpec {
        ServerSpec {
            address: (SERVER, port).into(),
            method: Method::Nat,
            weight,
            upper_threshold: 9,
            lower_threshold: 3,
        }
    }

    fn registry() -> Registry {
        let mut registry = Registry::new(1, vec![], Timeouts { tcp: 9, tcp_fin: 9, udp: 9 });
        for port in [80, 81, 82] {
            registry.add_service(ServiceSpec::new(id(port), "wrr")).unwrap();
            let server = spec(8000 + port % 2, u32::from(port));
            registry.add_server(&id(port), server, &|_| Hop::NoRoute).unwrap();
        }
        registry
    }

    fn carry_out(registry: &mut Registry, request: &Request) -> Result<(), Error> {
        registry.change(request, &|_| Hop::NoRoute).unwrap()
    }

    fn weights(registry: &Registry) -> Vec<u32> {
        let (saved, _) = registry.saved(0, usize::MAX);
        saved.services.iter().map(|service| service.servers[0].weight).collect()
    }

    fn requests(port: Option<u16>, service: Option<ServiceId>) -> [Request; 2] {
        let server = SERVER.into();
        [Request::Drain { server, port, service }, Request::Undrain { server, port, service }]
    }

    #[test]
    fn a_server_is_drained_wherever_it_is_and_comes_back_as_it_was() {
        let mut registry = registry();
        let [drain, undrain] = requests(None, None);
        carry_out(&mut registry, &drain).unwrap();
        // A second time changes nothing of what is remembered.
        carry_out(&mut registry, &drain).unwrap();
        assert_eq!(weights(&registry), [0, 0, 0]);
        let (saved, _) = registry.saved(0, usize::MAX);
        assert_eq!(saved.services[2].servers, [spec(8000, 0)]);
        assert_eq!(saved.services[2].drained, [((SERVER, 8000).into(), 82)]);
        carry_out(&mut registry, &undrain).unwrap();
        assert_eq!(weights(&registry), [80, 81, 82]);
        assert_eq!(registry.saved(0, usize::MAX).0.services[2].drained, []);
        let error = carry_out(&mut registry, &undrain).unwrap_err();
        assert_eq!(error.code, ErrorCode::NoSuchServer);
        assert_eq!(error.message, "the server 10.0.1.1 is not drained; give it a weight with -e");
    }

    #[test]
    fn a_port_or_service_narrows_it_down() {
        let mut registry = registry();
        let [drain, _] = requests(Some(8001), None);
        carry_out(&mut registry, &drain).unwrap();
        assert_eq!(weights(&registry), [80, 0, 82]);
        let [drain, _] = requests(None, Some(id(82)));
        carry_out(&mut registry, &drain).unwrap();
        assert_eq!(weights(&registry), [80, 0, 0]);
        let [_, undrain] = requests(Some(8001), None);
        carry_out(&mut registry, &undrain).unwrap();
        assert_eq!(weights(&registry), [80, 81, 0]);
        let [drain, _] = requests(Some(9), None);
        let error = carry_out(&mut registry, &drain).unwrap_err();
        assert_eq!(error.message, "no service has the server 10.0.1.1:9");
    }

    #[test]
    fn a_weight_that_is_given_or_a_deletion_ends_it() {
        let mut registry = registry();
        let [drain, undrain] = requests(None, None);
        carry_out(&mut registry, &drain).unwrap();
        registry.edit_server(&id(80), spec(8000, 7), &|_| Hop::NoRoute).unwrap();
        registry.delete_server(&id(81), (SERVER, 8001).into()).unwrap();
        registry.add_server(&id(81), spec(8001, 0), &|_| Hop::NoRoute).unwrap();
        carry_out(&mut registry, &undrain).unwrap();
        assert_eq!(weights(&registry), [7, 0, 82]);
    }
}
