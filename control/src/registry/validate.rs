//! What services and servers may be: the kernel's rules, and what this version
//! of RVS does not have yet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane::packet;
use dataplane::scheduler::Scheduler;
use dataplane::service::ServiceKey;

use super::{methods, options};
use crate::api::{Error, ErrorCode, Protocol, ServerSpec, ServiceId, ServiceSpec};

/// The longest timeout that ipvsadm accepts, s: 31 days.
pub(super) const MAX_TIMEOUT: u32 = 31 * 24 * 3600;

/// The key that packets to a service have.
pub(super) fn key_of(id: &ServiceId) -> Result<ServiceKey, Error> {
    Ok(match *id {
        ServiceId::Address { protocol, address } => ServiceKey::Address {
            protocol: protocol_of(protocol),
            vip: address.ip(),
            vport: address.port(),
        },
        ServiceId::Fwmark { mark: 0, .. } => {
            return Err(invalid("mark 0 is that of packets without a mark"));
        }
        ServiceId::Fwmark { mark, ipv6 } => {
            let family = if ipv6 { packet::Family::V6 } else { packet::Family::V4 };
            ServiceKey::Fwmark { mark, family }
        }
    })
}

/// A protocol as workers know it.
pub(crate) fn protocol_of(protocol: Protocol) -> packet::Protocol {
    match protocol {
        Protocol::Tcp => packet::Protocol::Tcp,
        Protocol::Udp => packet::Protocol::Udp,
        Protocol::Sctp => packet::Protocol::Sctp,
    }
}

/// Checks a service.
pub(super) fn check_service(spec: &ServiceSpec) -> Result<(ServiceKey, Scheduler), Error> {
    let key = key_of(&spec.id)?;
    if let ServiceId::Address { address, .. } = spec.id {
        check_scope(address)?;
        check_unicast(address.ip())?;
    }
    options::check(spec, &key)?;
    Ok((key, scheduler(&spec.scheduler, &spec.scheduler_flags)?))
}

fn scheduler(name: &str, flags: &[String]) -> Result<Scheduler, Error> {
    let plain = Scheduler::from_name(name).ok_or_else(|| {
        Error::new(ErrorCode::NoSuchScheduler, "Scheduler or persistence engine not found")
    })?;
    flags.iter().try_fold(plain, |scheduler, flag| {
        let missing = || invalid(format!("scheduler {name} has no flag {flag}"));
        scheduler.with_flag(flag).ok_or_else(missing)
    })
}

/// Checks a server of a service, and gives it the port that it will have.
pub(super) fn check_server(
    service: &ServiceSpec,
    key: &ServiceKey,
    mut spec: ServerSpec,
) -> Result<ServerSpec, Error> {
    methods::check(service, key, &spec)?;
    // The kernel's ERANGE: also of a lower threshold without an upper one.
    if spec.lower_threshold > spec.upper_threshold {
        let (lower, upper) = (spec.lower_threshold, spec.upper_threshold);
        return Err(invalid(format!(
            "the lower threshold {lower} is greater than the upper threshold {upper}"
        )));
    }
    check_unicast(spec.address.ip())?;
    check_scope(spec.address)?;
    if spec.weight > 65_535 {
        return Err(invalid(format!("weight {} is not 0 to 65535", spec.weight)));
    }
    spec.address.set_port(methods::port(key, &spec.method, spec.address.port()));
    Ok(spec)
}

pub(super) fn check_timeout(name: &str, seconds: u32) -> Result<(), Error> {
    if seconds > MAX_TIMEOUT {
        return Err(invalid(format!("timeout {name} {seconds} is not 0 to {MAX_TIMEOUT} s")));
    }
    Ok(())
}

/// Refuses an IPv6 address with a scope (`fe80::1%2`): the next hop is found by
/// the address alone, and two scopes would be two servers on one address.
fn check_scope(address: SocketAddr) -> Result<(), Error> {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            Err(invalid(format!("{address} has a scope, which RVS does not support")))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_unicast(address: IpAddr) -> Result<(), Error> {
    let unicast = match address {
        IpAddr::V4(a) => !a.is_unspecified() && !a.is_multicast() && a != Ipv4Addr::BROADCAST,
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast(),
    };
    if unicast { Ok(()) } else { Err(invalid(format!("{address} is not a unicast address"))) }
}

pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

pub(super) fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unsupported, message)
}
