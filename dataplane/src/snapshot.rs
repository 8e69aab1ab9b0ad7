//! The configuration as workers read it: immutable, shared, replaced whole.

use std::sync::Arc;

use crate::conn::Timeouts;
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
}
