//! Options of services beside the scheduler: what they may be, and the form in
//! which workers read them.

use std::collections::HashSet;

use dataplane::packet::Family;
use dataplane::scheduler::Scheduler;
use dataplane::service::{self, ServiceKey};
use dataplane::time::TICKS_PER_SECOND;

use super::validate::{MAX_TIMEOUT, check_unicast, invalid, unsupported};
use crate::api::{ClientAddress, Error, ErrorCode, Persistence, Protocol, ServiceId, ServiceSpec};

/// Smallest MSS to clamp to, bytes: less no stack accepts (Linux's TCP_MIN_MSS).
pub const MIN_MSS: u16 = 88;
/// Largest, bytes: an IPv4 packet of 65,535 without its headers.
pub const MAX_MSS: u16 = 65_495;

/// Checks all of them.
pub(super) fn check(spec: &ServiceSpec, key: &ServiceKey) -> Result<(), Error> {
    match &spec.persistence {
        Some(persistence) => check_persistence(persistence, key)?,
        None => {
            if matches!(key, ServiceKey::Address { vport: 0, .. }) {
                return Err(invalid("port 0 is for persistent services only"));
            }
        }
    }
    let protocol = match spec.id {
        ServiceId::Address { protocol, .. } => Some(protocol),
        ServiceId::Fwmark { .. } => None,
    };
    if spec.one_packet && !matches!(protocol, None | Some(Protocol::Udp)) {
        return Err(invalid("one-packet scheduling is for UDP and firewall marks only"));
    }
    if spec.take_up {
        check_take_up(spec, protocol)?;
    }
    if spec.client_address != ClientAddress::None && protocol != Some(Protocol::Tcp) {
        return Err(invalid("only TCP services can tell servers the client's address"));
    }
    match spec.mss {
        None | Some(0) => {}
        Some(_) if !matches!(protocol, None | Some(Protocol::Tcp)) => {
            return Err(invalid("only TCP has an MSS"));
        }
        Some(MIN_MSS..=MAX_MSS) => {}
        Some(mss) => {
            return Err(invalid(format!("MSS {mss} is not {MIN_MSS} to {MAX_MSS}, or 0 for none")));
        }
    }
    let mut seen = HashSet::new();
    for &address in &spec.local_addresses {
        check_unicast(address)?;
        if !seen.insert(address) {
            return Err(invalid(format!("local address {address} is given twice")));
        }
    }
    Ok(())
}

/// Only what every director finds by itself can be taken up.
fn check_take_up(spec: &ServiceSpec, protocol: Option<Protocol>) -> Result<(), Error> {
    if !matches!(protocol, None | Some(Protocol::Tcp)) {
        return Err(invalid("only TCP connections can be taken up (--take-up)"));
    }
    if !matches!(Scheduler::from_name(&spec.scheduler), None | Some(Scheduler::Mh(_))) {
        return Err(invalid(
            "connections are taken up (--take-up) under the scheduler mh only, by which every \
             director finds the same server",
        ));
    }
    if spec.persistence.is_some() {
        return Err(invalid(
            "connections cannot be taken up (--take-up) in a persistent service: other directors \
             know nothing of its templates",
        ));
    }
    Ok(())
}

fn check_persistence(persistence: &Persistence, key: &ServiceKey) -> Result<(), Error> {
    let Persistence { timeout, prefix, engine } = persistence;
    match engine.as_deref() {
        None => {}
        Some("sip") => {
            return Err(unsupported("persistence engines (sip) are not supported"));
        }
        Some(_) => {
            let message = "Scheduler or persistence engine not found";
            return Err(Error::new(ErrorCode::NoSuchScheduler, message));
        }
    }
    if !(1..=MAX_TIMEOUT).contains(timeout) {
        let message = format!("persistence {timeout} is not 1 to {MAX_TIMEOUT} s");
        return Err(invalid(message));
    }
    // The kernel takes an empty mask for IPv4, which makes all clients one.
    let range = match key.family() {
        Family::V4 => 0..=32,
        Family::V6 => 1..=128,
    };
    if !range.contains(prefix) {
        let (least, most) = (range.start(), range.end());
        return Err(invalid(format!("persistence prefix {prefix} is not {least} to {most}")));
    }
    Ok(())
}

/// Puts them into a service, but for the local addresses, which have numbers.
pub(super) fn publish(service: &mut service::Service, spec: &ServiceSpec) {
    let persistence = spec.persistence.as_ref();
    service.persistence = persistence.map(|Persistence { timeout, prefix, .. }| {
        service::Persistence { timeout: timeout * TICKS_PER_SECOND, prefix: *prefix }
    });
    service.one_packet = spec.one_packet;
    service.take_up = spec.take_up;
}
