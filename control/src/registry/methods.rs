//! Forwarding methods: what a server's may be under its service, and the form
//! in which workers read it.

use std::net::{IpAddr, SocketAddr};

use dataplane::packet::Family;
use dataplane::service::{self, Encapsulation, GueChecksum, Server, ServiceKey};

use super::validate::invalid;
use crate::api::{ClientAddress, Error, Method, ServerSpec, ServiceSpec, Tunnel, TunnelChecksum};

/// Checks a server's method against its address and its service.
pub(super) fn check(
    service: &ServiceSpec,
    key: &ServiceKey,
    server: &ServerSpec,
) -> Result<(), Error> {
    let ip = server.address.ip();
    let same_family = ip.is_ipv4() == (key.family() == Family::V4);
    match &server.method {
        Method::Dr | Method::Nat if !same_family => Err(invalid(
            "a server has its service's address family, but with Tunnel (-i) and FullNat (-b)",
        )),
        Method::Tun(Tunnel::Gue { port: 0, .. }) => {
            Err(invalid("a gue tunnel needs the server's UDP port, 1 to 65535 (--tun-port)"))
        }
        Method::Tun(Tunnel::Gre { checksum: TunnelChecksum::Remote }) => {
            Err(invalid("remote checksums are for gue tunnels; a gre tunnel has none or its own"))
        }
        Method::Nat | Method::Fullnat if service.take_up => Err(invalid(
            "a service that takes connections up (--take-up) has servers under Route (-g) and \
             Tunnel (-i): what others send needs an entry of the director that opened the \
             connection",
        )),
        Method::Fullnat => check_fullnat(service, ip),
        Method::Dr | Method::Nat | Method::Tun(_) => Ok(()),
    }
}

fn check_fullnat(service: &ServiceSpec, server: IpAddr) -> Result<(), Error> {
    if service.one_packet {
        return Err(invalid(
            "one-packet scheduling keeps no connections, which FullNat (-b) needs for replies",
        ));
    }
    let of_family = |local: &IpAddr| local.is_ipv4() == server.is_ipv4();
    if service.local_addresses.iter().any(of_family) {
        return Ok(());
    }
    let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
    Err(invalid(format!(
        "FullNat server {server} needs an {family} local address of its service: edit the service with --local-address"
    )))
}

/// The port that names a server under its service. Where packets keep their
/// port it is the service's, as in the kernel; but for a mark, which has none.
pub(super) fn port(key: &ServiceKey, method: &Method, given: u16) -> u16 {
    match (key, method) {
        (ServiceKey::Fwmark { .. }, _) => given,
        (ServiceKey::Address { vport, .. }, Method::Dr | Method::Tun(_)) => *vport,
        (ServiceKey::Address { vport, .. }, Method::Nat | Method::Fullnat) if given == 0 => *vport,
        (ServiceKey::Address { .. }, Method::Nat | Method::Fullnat) => given,
    }
}

/// Whether a server may be called by an address with another port than its
/// own: it never gets packets on one.
pub(super) fn goes_by_address(key: &ServiceKey, method: &Method) -> bool {
    matches!(key, ServiceKey::Address { .. }) && matches!(method, Method::Dr | Method::Tun(_))
}

/// Puts into a server what workers need to know of its and its service's form.
pub(super) fn publish(
    server: &mut Server,
    service: &ServiceSpec,
    key: &ServiceKey,
    spec: &ServerSpec,
) {
    server.address = address(service, key, spec.address);
    server.method = method(&spec.method);
    server.client_address = match (&spec.method, service.client_address) {
        (Method::Fullnat, ClientAddress::Toa) => service::ClientAddress::Toa,
        (Method::Fullnat, ClientAddress::Proxy) => service::ClientAddress::Proxy,
        _ => service::ClientAddress::None,
    };
    server.mss = service.mss.filter(|&mss| mss != 0);
}

/// Where the server gets its packets. Those of a persistent service for many
/// ports keep theirs, whatever port the server was given (as in the kernel:
/// one template stands for all ports).
fn address(service: &ServiceSpec, key: &ServiceKey, mut server: SocketAddr) -> SocketAddr {
    if key.vport() == 0 && service.persistence.is_some() {
        server.set_port(0);
    }
    server
}

/// A method in the form of workers.
pub(super) fn method(method: &Method) -> service::Method {
    match method {
        Method::Dr => service::Method::Dr,
        Method::Nat => service::Method::Nat,
        Method::Fullnat => service::Method::Fullnat,
        Method::Tun(tunnel) => service::Method::Tun(match *tunnel {
            Tunnel::Ipip => Encapsulation::Ipip,
            Tunnel::Gue { port, checksum } => Encapsulation::Gue {
                port,
                checksum: match checksum {
                    TunnelChecksum::None => GueChecksum::None,
                    TunnelChecksum::Full => GueChecksum::Full,
                    TunnelChecksum::Remote => GueChecksum::Remote,
                },
            },
            Tunnel::Gre { checksum } => {
                Encapsulation::Gre { checksum: checksum == TunnelChecksum::Full }
            }
        }),
    }
}
