//! Where replies of NAT servers come from.

use dataplane::packet::Protocol;
use dataplane::service::{NatSource, NatSources, ServiceKey};

use super::ServerEntry;

/// The sources of all NAT servers. Deleted ones, and those that now have another
/// method, are among them: replies of their connections are translated still, as
/// in the kernel.
pub(super) fn sources<'a>(servers: impl Iterator<Item = &'a ServerEntry>) -> NatSources {
    let mut sources = NatSources::new();
    for ServerEntry { service, published, was_nat, .. } in servers {
        if !was_nat {
            continue;
        }
        match *service {
            ServiceKey::Address { protocol, vip, vport } => {
                sources.add(protocol, published.address, NatSource::Of(vip, vport));
            }
            ServiceKey::Fwmark { .. } => {
                for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                    sources.add(protocol, published.address, NatSource::Marked);
                }
            }
        }
    }
    sources
}
