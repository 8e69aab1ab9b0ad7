//! What health checks make of servers. A server keeps the weight that it was
//! given; what workers see is another matter.
//!
//! The sorry server is the oldest of a service's servers. It is as deleted while
//! any other one takes connections.

use std::net::SocketAddr;

use super::{Registry, Resolve, ServerEntry, ServiceEntry, methods};
use crate::api::{Error, ErrorCode, ServerSpec, ServiceId};

/// What a server's checks say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// It has no check.
    #[default]
    Unchecked,
    /// It is good.
    Up,
    /// It takes no new connections, as with weight 0.
    Quiet,
    /// It is as deleted, and comes back when it is good again.
    Out,
}

impl Registry {
    /// The servers of a service but the sorry server, newest first. `None` when
    /// there is no such service.
    #[must_use]
    pub fn servers_of(&self, service: &ServiceId) -> Option<Vec<SocketAddr>> {
        let entry = self.entry(service)?;
        let servers = entry.servers.iter().rev().map(|&number| self.server(number));
        Some(servers.filter(|server| !server.sorry).map(|server| server.spec.address).collect())
    }

    /// Whether a service has a server, which is not the sorry server.
    #[must_use]
    pub fn has_server(&self, service: &ServiceId, server: SocketAddr) -> bool {
        let Ok(place) = self.place(service, ErrorCode::NoSuchService) else { return false };
        self.by_address.get(&(place, server)).is_some_and(|&number| !self.server(number).sorry)
    }

    /// How packets get to a server, as workers know it.
    #[must_use]
    pub fn method_of(
        &self,
        service: &ServiceId,
        server: SocketAddr,
    ) -> Option<dataplane::service::Method> {
        let place = self.place(service, ErrorCode::NoSuchService).ok()?;
        let number = *self.by_address.get(&(place, server))?;
        Some(methods::method(&self.server(number).spec.method))
    }

    /// The address of the server that one stands for in a command.
    #[must_use]
    pub fn called(&self, service: &ServiceId, server: SocketAddr) -> Option<SocketAddr> {
        let place = self.place(service, ErrorCode::NoSuchService).ok()?;
        let number = self.server_called(place, &self.services[&place], server)?;
        Some(self.server(number).spec.address)
    }

    /// Whether any server but the sorry server takes connections. `None` when
    /// there is no such service.
    #[must_use]
    pub fn takes_connections(&self, service: &ServiceId) -> Option<bool> {
        self.entry(service).map(|entry| self.any_takes(entry))
    }

    /// Says how a server stands. Whether that is news.
    pub fn set_standing(
        &mut self,
        service: &ServiceId,
        server: SocketAddr,
        standing: Standing,
    ) -> bool {
        let Ok(place) = self.place(service, ErrorCode::NoSuchService) else { return false };
        let Some(&number) = self.by_address.get(&(place, server)) else { return false };
        let before = self.server(number);
        if before.sorry || before.standing == standing {
            return false;
        }
        if standing == Standing::Out {
            let entry = &self.services[&place];
            if let Some(index) = entry.servers.iter().position(|&own| own == number) {
                entry.published.state.server_removed(self.candidate_index(entry, index));
            }
        }
        self.stand(number, standing);
        self.show_service(place);
        true
    }

    /// Gives a service its sorry server, or takes it. Whether that changed
    /// anything.
    ///
    /// # Errors
    /// When there is no such service, the service has the server already, or it
    /// does not go with the service.
    pub fn set_sorry_server(
        &mut self,
        service: &ServiceId,
        wanted: Option<&ServerSpec>,
        resolve: Resolve<'_>,
    ) -> Result<bool, Error> {
        let place = self.place(service, ErrorCode::NoSuchService)?;
        let old = self.sorry_server(&self.services[&place]);
        if old.map(|number| &self.server(number).spec) == wanted {
            return Ok(false);
        }
        if let Some(number) = old {
            let entry = self.services.get_mut(&place).expect("found above");
            entry.servers.remove(0);
            self.by_address.remove(&(place, self.server(number).spec.address));
            self.view.touch_service(place);
            self.discard(number);
        }
        let Some(spec) = wanted else { return Ok(true) };
        let number = self.take_in(place, spec.clone(), resolve)?;
        self.servers.get_mut(number).expect("just taken in").sorry = true;
        self.services.get_mut(&place).expect("found above").servers.insert(0, number);
        self.show_service(place);
        Ok(true)
    }

    /// Brings the sorry server in when no other takes connections, and out when
    /// one does.
    pub(super) fn switch_sorry_server(&mut self, place: u64) {
        let entry = &self.services[&place];
        let Some(number) = self.sorry_server(entry) else { return };
        let standing = if self.any_takes(entry) { Standing::Out } else { Standing::Unchecked };
        if self.server(number).standing == standing {
            return;
        }
        if standing == Standing::Out {
            entry.published.state.server_removed(self.candidate_index(entry, 0));
        }
        self.stand(number, standing);
    }

    /// Refuses what clients may not do to a sorry server.
    pub(super) fn refuse_sorry_server(&self, number: u32) -> Result<(), Error> {
        if !self.server(number).sorry {
            return Ok(());
        }
        let message = "this is the service's sorry server, which the configuration file says";
        Err(Error::new(ErrorCode::InvalidArgument, message))
    }

    /// The index among the candidates, newest first, of the server at this one.
    pub(super) fn candidate_index(&self, entry: &ServiceEntry, index: usize) -> usize {
        let before = entry.servers.iter().skip(index + 1);
        before.filter(|&&number| !self.server(number).is_out()).count()
    }

    fn entry(&self, service: &ServiceId) -> Option<&ServiceEntry> {
        let place = self.place(service, ErrorCode::NoSuchService).ok()?;
        self.services.get(&place)
    }

    fn any_takes(&self, entry: &ServiceEntry) -> bool {
        let mut servers = entry.servers.iter().map(|&number| self.server(number));
        servers.any(|server| !server.sorry && !server.is_out() && server.weight() > 0)
    }

    fn sorry_server(&self, entry: &ServiceEntry) -> Option<u32> {
        entry.servers.first().copied().filter(|&number| self.server(number).sorry)
    }

    fn stand(&mut self, number: u32, standing: Standing) {
        let server = self.servers.get_mut(number).expect("a service's server is in its slot");
        server.standing = standing;
        // Whoever opened connections to it while it was in may do so again.
        server.deleted = None;
        let (weight, deleted) = (server.weight(), server.is_out());
        server.republish(|published| {
            published.weight = weight;
            published.deleted = deleted;
        });
        self.view.touch_server(number);
    }
}

impl ServerEntry {
    /// The weight that is in force.
    pub(super) fn weight(&self) -> u32 {
        match self.standing {
            Standing::Unchecked | Standing::Up => self.spec.weight,
            Standing::Quiet | Standing::Out => 0,
        }
    }

    /// Whether it is as deleted.
    pub(super) fn is_out(&self) -> bool {
        self.standing == Standing::Out
    }
}
