//! The configuration as workers read it: immutable, shared, replaced whole.

use std::net::IpAddr;
use std::sync::Arc;

use crate::conn::Timeouts;
use crate::fib::Fib;
use crate::packet::Mac;
use crate::service::{NatSources, Server, Services};

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
    /// Where packets of NAT servers come from.
    pub nat_sources: Arc<NatSources>,
    /// Local addresses of FULLNAT by number, the number that connections keep.
    pub locals: Arc<[IpAddr]>,
    /// The kernel's sysctls of the same names.
    pub settings: Settings,
}

/// What the kernel has as `net.ipv4.vs.*`, with the same names and defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Connections to a deleted server are removed at once.
    pub expire_nodest_conn: bool,
    /// A persistence template is not used while its server has weight 0.
    pub expire_quiescent_template: bool,
    /// Whether a SYN on a connection in TIME_WAIT or CLOSE is scheduled anew:
    /// 0 never; 1 and 2 always.
    pub conn_reuse_mode: u8,
    /// Whether any packet but RST opens a TCP connection, or only a SYN.
    pub sloppy_tcp: bool,
    /// The same for SCTP: any packet, or only INIT.
    pub sloppy_sctp: bool,
    /// Whether a NAT server whose packet has no connection is told so by ICMP.
    pub nat_icmp_send: bool,
    /// Whether ICMP errors about packets of no connection are scheduled.
    pub schedule_icmp: bool,
    /// Whether tunnels copy DF, and packets too big for them are answered.
    pub pmtu_disc: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            expire_nodest_conn: false,
            expire_quiescent_template: false,
            conn_reuse_mode: 1,
            sloppy_tcp: false,
            sloppy_sctp: false,
            nat_icmp_send: false,
            schedule_icmp: false,
            pmtu_disc: true,
        }
    }
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
