//! What services and servers may be: the kernel's rules, and what this version
//! of RVS does not have yet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane::packet;
use dataplane::scheduler::Scheduler;
use dataplane::service::ServiceKey;

use crate::api::{Error, ErrorCode, Method, Protocol, ServerSpec, ServiceId, ServiceSpec};

/// The longest timeout that ipvsadm accepts, s: 31 days.
const MAX_TIMEOUT: u32 = 31 * 24 * 3600;

/// The key that packets to a service have.
pub(super) fn key_of(id: &ServiceId) -> Result<ServiceKey, Error> {
    let ServiceId::Address { protocol, address } = id else {
        return Err(unsupported("firewall marks are not supported yet"));
    };
    let protocol = match protocol {
        Protocol::Tcp => packet::Protocol::Tcp,
        Protocol::Udp => packet::Protocol::Udp,
        Protocol::Sctp => return Err(unsupported("SCTP services are not supported yet")),
    };
    Ok(ServiceKey::Address { protocol, vip: address.ip(), vport: address.port() })
}

/// Checks a service.
pub(super) fn check_service(spec: &ServiceSpec) -> Result<(ServiceKey, Scheduler), Error> {
    let key = key_of(&spec.id)?;
    if spec.persistence.is_some() {
        return Err(unsupported("persistence is not supported yet"));
    }
    if spec.one_packet {
        return Err(unsupported("one-packet scheduling is not supported yet"));
    }
    if let ServiceId::Address { address, .. } = spec.id {
        check_scope(address)?;
    }
    if let ServiceKey::Address { vip, vport, .. } = key {
        if !is_unicast(vip) {
            return Err(invalid(format!("{vip} is not a unicast address")));
        }
        if vport == 0 {
            return Err(invalid("port 0 is for persistent services only"));
        }
    }
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
    service: &ServiceKey,
    mut spec: ServerSpec,
) -> Result<ServerSpec, Error> {
    match spec.method {
        Method::Dr => {}
        Method::Nat => return Err(unsupported("method Masq (-m) is not supported yet; use -g")),
        Method::Tun(_) => {
            return Err(unsupported("method Tunnel (-i) is not supported yet; use -g"));
        }
        Method::Fullnat => return Err(unsupported("method FullNat is not supported yet; use -g")),
    }
    // The kernel's ERANGE: also of a lower threshold without an upper one.
    if spec.lower_threshold > spec.upper_threshold {
        let (lower, upper) = (spec.lower_threshold, spec.upper_threshold);
        return Err(invalid(format!(
            "the lower threshold {lower} is greater than the upper threshold {upper}"
        )));
    }
    if !is_unicast(spec.address.ip()) {
        return Err(invalid(format!("{} is not a unicast address", spec.address.ip())));
    }
    check_scope(spec.address)?;
    if spec.address.is_ipv4() != (service.family() == packet::Family::V4) {
        return Err(invalid("a server has its service's address family"));
    }
    if spec.weight > 65_535 {
        return Err(invalid(format!("weight {} is not 0 to 65535", spec.weight)));
    }
    // The packet keeps its port under DR, so the server's is the service's.
    spec.address.set_port(service.vport());
    Ok(spec)
}

/// The address with the service's port: DR has no other.
pub(super) fn with_port(mut address: SocketAddr, vport: u16) -> SocketAddr {
    address.set_port(vport);
    address
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

fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => !a.is_unspecified() && !a.is_multicast() && a != Ipv4Addr::BROADCAST,
        IpAddr::V6(a) => !a.is_unspecified() && !a.is_multicast(),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::InvalidArgument, message)
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorCode::Unsupported, message)
}
