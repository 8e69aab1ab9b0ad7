//! What clients change of servers.

use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::service::{ClientAddress, Hop, Method, Server, ServerCounts, ServiceKey};

use super::rates::Meter;
use super::validate::check_server;
use super::{Registry, Resolve, ServerEntry, ServiceEntry, Standing, methods};
use crate::api::{Error, ErrorCode, ServerSpec, ServiceId, ServiceSpec};

impl Registry {
    /// Adds a server to a service, from the trash when it is there.
    ///
    /// # Errors
    /// When there is no such service, the server exists, or it asks for
    /// something impossible or unsupported.
    pub fn add_server(
        &mut self,
        service: &ServiceId,
        spec: ServerSpec,
        resolve: Resolve<'_>,
    ) -> Result<(), Error> {
        let place = self.place(service, ErrorCode::ServiceNotDefined)?;
        let number = self.take_in(place, spec, resolve)?;
        let entry = self.services.get_mut(&place).expect("found above");
        entry.servers.push(number);
        entry.published.state.server_added();
        self.show_service(place);
        Ok(())
    }

    /// Makes a server for a service, or takes it out of the trash.
    pub(super) fn take_in(
        &mut self,
        place: u64,
        spec: ServerSpec,
        resolve: Resolve<'_>,
    ) -> Result<u32, Error> {
        let entry = &self.services[&place];
        let key = entry.published.key;
        let service = Arc::clone(&entry.spec);
        let spec = check_server(&service, &key, spec)?;
        let address = spec.address;
        if self.by_address.contains_key(&(place, address)) {
            return Err(Error::new(ErrorCode::ServerExists, "Destination already exists"));
        }
        let hop = resolve(&spec);
        let number = match self.recover(&key, spec.address) {
            Some(number) => {
                let server = self.servers.get_mut(number).expect("trash is in its slot");
                server.deleted = None;
                server.spec = spec;
                if server.place != place {
                    // Another service of that name: it counts from here, as in
                    // the kernel.
                    server.place = place;
                    server.meter.zero(server.published.counts.totals());
                }
                server.republish(|published| {
                    published.hop = hop;
                    published.deleted = false;
                });
                number
            }
            None => self.new_server(key, place, spec, hop)?,
        };
        self.show_server(number, &service);
        self.by_address.insert((place, address), number);
        if hop == Hop::Unresolved {
            self.fresh.insert(number, 0);
        }
        Ok(number)
    }

    pub(super) fn new_server(
        &mut self,
        key: ServiceKey,
        place: u64,
        spec: ServerSpec,
        hop: Hop,
    ) -> Result<u32, Error> {
        let published = Arc::new(Server {
            address: spec.address,
            method: Method::Dr,
            hop,
            weight: spec.weight,
            deleted: false,
            client_address: ClientAddress::None,
            mss: None,
            counts: Arc::new(ServerCounts::new(self.workers)),
        });
        let meter = Meter::default();
        let (deleted, was_nat) = (None, false);
        let entry = ServerEntry {
            service: key,
            place,
            spec,
            meter,
            deleted,
            was_nat,
            standing: Standing::Unchecked,
            sorry: false,
            published,
        };
        self.servers
            .insert(entry)
            .ok_or_else(|| Error::new(ErrorCode::NoSpace, "no server number is free"))
    }

    /// Changes everything of a server but its address.
    ///
    /// # Errors
    /// When there is no such service or server, or the new form is impossible.
    pub fn edit_server(
        &mut self,
        service: &ServiceId,
        spec: ServerSpec,
        resolve: Resolve<'_>,
    ) -> Result<(), Error> {
        let place = self.place(service, ErrorCode::ServiceNotDefined)?;
        let entry = &self.services[&place];
        let service = Arc::clone(&entry.spec);
        let spec = check_server(&service, &entry.published.key, spec)?;
        let number = self.by_address.get(&(place, spec.address)).copied();
        let number = number.ok_or_else(no_such_server)?;
        self.refuse_sorry_server(number)?;
        let server = self.servers.get_mut(number).expect("a service's server is in its slot");
        let hop = resolve(&spec);
        if spec.weight > 0 {
            self.drained.remove(&number);
        }
        server.spec = spec;
        server.republish(|published| published.hop = hop);
        self.show_server(number, &service);
        self.show_service(place);
        Ok(())
    }

    /// Deletes a server; it goes to the trash.
    ///
    /// # Errors
    /// When there is no such service or server.
    pub fn delete_server(&mut self, service: &ServiceId, address: SocketAddr) -> Result<(), Error> {
        let place = self.place(service, ErrorCode::ServiceNotDefined)?;
        let entry = &self.services[&place];
        let number = self.server_called(place, entry, address).ok_or_else(no_such_server)?;
        self.refuse_sorry_server(number)?;
        let index = entry.servers.iter().position(|&own| own == number);
        let index = index.expect("a service knows its servers");
        if !self.server(number).is_out() {
            entry.published.state.server_removed(self.candidate_index(entry, index));
        }
        let entry = self.services.get_mut(&place).expect("found above");
        entry.servers.remove(index);
        self.show_service(place);
        self.by_address.remove(&(place, self.server(number).spec.address));
        self.discard(number);
        Ok(())
    }

    /// The server that an address stands for in a command: that with its port,
    /// 0 standing for the service's, or one whose port says nothing: it has the
    /// service's.
    pub(super) fn server_called(
        &self,
        place: u64,
        entry: &ServiceEntry,
        address: SocketAddr,
    ) -> Option<u32> {
        let key = &entry.published.key;
        let with = |port| {
            let address = SocketAddr::new(address.ip(), port);
            self.by_address.get(&(place, address)).copied()
        };
        let port = if address.port() == 0 { key.vport() } else { address.port() };
        with(port).or_else(|| {
            let own = with(key.vport())?;
            methods::goes_by_address(key, &self.server(own).spec.method).then_some(own)
        })
    }
}

impl ServerEntry {
    /// Has workers see its present form under that of its service. Thresholds
    /// are in force at once: they are no part of the snapshot.
    pub(super) fn publish(&mut self, service: &ServiceSpec) {
        let mut server = (*self.published).clone();
        methods::publish(&mut server, service, &self.service, &self.spec);
        server.weight = self.weight();
        self.published = Arc::new(server);
        let ServerSpec { upper_threshold, lower_threshold, .. } = self.spec;
        self.published.counts.connections.set_thresholds(upper_threshold, lower_threshold);
        self.was_nat |= self.published.method == Method::Nat;
    }

    /// Where its replies come from if it is or was a NAT server.
    pub(super) fn nat_source(&self) -> Option<SocketAddr> {
        self.was_nat.then_some(self.published.address)
    }

    pub(super) fn republish(&mut self, change: impl FnOnce(&mut Server)) {
        let mut server = (*self.published).clone();
        change(&mut server);
        self.published = Arc::new(server);
    }
}

fn no_such_server() -> Error {
    Error::new(ErrorCode::NoSuchServer, "No such destination")
}
