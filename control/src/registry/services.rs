//! What clients change of services.

use std::sync::Arc;

use dataplane::scheduler::{self, Candidates};
use dataplane::service::{Service, TrafficTotals};

use super::rates::Meter;
use super::validate::check_service;
use super::{Registry, ServiceEntry, methods, options};
use crate::api::{Error, ErrorCode, ServiceId, ServiceSpec};

impl Registry {
    /// Creates a service.
    ///
    /// # Errors
    /// When it exists, or asks for something impossible or unsupported.
    pub fn add_service(&mut self, spec: ServiceSpec) -> Result<(), Error> {
        let (key, scheduler) = check_service(&spec)?;
        if self.by_key.contains_key(&key) {
            return Err(Error::new(ErrorCode::ServiceExists, "Service already exists"));
        }
        let locals = self.locals.number(&spec.local_addresses)?;
        let place = self.next_place;
        self.next_place += 1;
        let mut published = Service {
            key,
            number: place as u32,
            scheduler,
            state: Arc::new(scheduler::State::new(scheduler)),
            candidates: Candidates::default(),
            persistence: None,
            one_packet: false,
            take_up: false,
            locals,
        };
        options::publish(&mut published, &spec);
        let mut entry = ServiceEntry {
            spec: Arc::new(spec),
            scheduler,
            servers: Vec::new(),
            retired: TrafficTotals::default(),
            meter: Meter::default(),
            published: Arc::new(published),
        };
        // Servers in the trash from an earlier service of this name count on;
        // this service begins at 0.
        entry.meter.zero(self.totals(key, &entry));
        self.services.insert(place, entry);
        self.by_key.insert(key, place);
        self.view.touch_service(place);
        Ok(())
    }

    /// Changes everything of a service but its name and servers.
    ///
    /// # Errors
    /// When it does not exist, or asks for something impossible.
    pub fn edit_service(&mut self, spec: ServiceSpec) -> Result<(), Error> {
        let place = self.place(&spec.id, ErrorCode::NoSuchService)?;
        let (key, scheduler) = check_service(&spec)?;
        for &number in &self.services[&place].servers {
            methods::check(&spec, &key, &self.server(number).spec)?;
        }
        let locals = self.locals.number(&spec.local_addresses)?;
        let entry = self.services.get_mut(&place).expect("a place has a service");
        let mut service = (*entry.published).clone();
        if entry.scheduler != scheduler {
            // Another scheduler begins anew.
            service.state = Arc::new(scheduler::State::new(scheduler));
        }
        service.locals = locals;
        options::publish(&mut service, &spec);
        entry.published = Arc::new(service);
        entry.scheduler = scheduler;
        let spec = Arc::new(spec);
        entry.spec = Arc::clone(&spec);
        for number in entry.servers.clone() {
            self.show_server(number, &spec);
        }
        self.view.touch_service(place);
        Ok(())
    }

    /// Deletes a service; its servers go to the trash.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn delete_service(&mut self, id: &ServiceId) -> Result<(), Error> {
        let place = self.place(id, ErrorCode::NoSuchService)?;
        let entry = self.services.remove(&place).expect("a place has a service");
        let key = entry.published.key;
        self.by_key.remove(&key);
        self.view.remove_service(&key);
        for number in entry.servers {
            self.by_address.remove(&(place, self.server(number).spec.address));
            self.discard(number);
        }
        Ok(())
    }

    /// Deletes all services.
    pub fn flush(&mut self) {
        let ids: Vec<_> = self.services.values().map(|s| s.spec.id).collect();
        for id in ids {
            self.delete_service(&id).expect("a listed service exists");
        }
    }
}
