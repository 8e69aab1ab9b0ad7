//! The configuration as workers read it: immutable, shared, replaced whole.

use std::sync::Arc;

use crate::conn::Timeouts;
use crate::fib::Fib;
use crate::packet::Mac;
use crate::service::{Server, Services};

/// Everything that forwarding needs to know. The registry builds one after each
/// change and shares with the last what did not change.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Grows with each snapshot; a worker reports the one it runs.
    pub epoch: u64,
    /// The virtual services.
    pub services: Services,
    /// Servers by number, the number that connections keep. A number is not
    /// used again while any connection has it.
    pub servers: Vec<Option<Arc<Server>>>,
    /// The ports, by index.
    pub ports: Vec<Port>,
    /// The way to any address.
    pub fib: Arc<Fib>,
    /// Life of connections by state.
    pub timeouts: Timeouts,
}

impl Snapshot {
    /// A server by number.
    #[must_use]
    #[inline]
    pub fn server(&self, number: u32) -> Option<&Arc<Server>> {
        self.servers.get(number as usize)?.as_ref()
    }
}

/// A port as packets see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its MAC address.
    pub mac: Mac,
    /// Its primary IPv4 address, as the kernel has it: the source of packets
    /// that the director makes itself.
    pub address4: Option<u32>,
    /// The same for IPv6, a link-local address only where there is no other.
    pub address6: Option<[u8; 16]>,
    /// Longest IP packet, bytes.
    pub mtu: u16,
}

impl Port {
    /// A port without addresses.
    #[must_use]
    pub const fn new(mac: Mac, mtu: u16) -> Self {
        Self { mac, address4: None, address6: None, mtu }
    }
}
