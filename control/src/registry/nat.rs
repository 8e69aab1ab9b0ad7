//! Where replies of NAT servers come from.
//!
//! Deleted servers, and those that now have another method, are among them:
//! replies of their connections are translated still, as in the kernel.

use std::net::SocketAddr;

use dataplane::packet::Protocol;
use dataplane::service::{NatSource, NatSources, ServiceKey};

/// Adds a server of a service.
pub(super) fn add(sources: &mut NatSources, service: &ServiceKey, server: SocketAddr) {
    for (protocol, source) in of(service) {
        sources.add(protocol, server, source);
    }
}

/// Takes back what was added once.
pub(super) fn remove(sources: &mut NatSources, service: &ServiceKey, server: SocketAddr) {
    for (protocol, source) in of(service) {
        sources.remove(protocol, server, source);
    }
}

fn of(service: &ServiceKey) -> Vec<(Protocol, NatSource)> {
    match *service {
        ServiceKey::Address { protocol, vip, vport } => vec![(protocol, NatSource::Of(vip, vport))],
        ServiceKey::Fwmark { .. } => [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .map(|protocol| (protocol, NatSource::Marked))
            .to_vec(),
    }
}
