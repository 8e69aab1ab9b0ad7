//! The configuration as workers read it: immutable, shared, replaced whole.

use std::net::IpAddr;
use std::sync::Arc;

use crate::conn::Timeouts;
use crate::fib::Fib;
use crate::packet::Mac;
use crate::service::{NatSources, Server, Servers, Services};
use crate::time::Tick;

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
    pub servers: Servers,
    /// The ports, by index, in the order of [`Port::place`]: first the devices
    /// (a device's index among them is its own), then the VLANs on them.
    pub ports: Vec<Port>,
    /// The way to any address.
    pub fib: Arc<Fib>,
    /// Life of connections by state.
    pub timeouts: Timeouts,
    /// Where packets of NAT servers come from.
    pub nat_sources: Arc<NatSources>,
    /// Local addresses of FULLNAT by number, the number that connections keep.
    pub locals: Arc<[IpAddr]>,
    /// First and last local port of FULLNAT.
    pub local_ports: LocalPorts,
    /// The kernel's sysctls of the same names.
    pub settings: Settings,
    /// What the clock of the day said at tick 0, milliseconds since midnight
    /// UT: the timestamps of IPv4 options.
    pub day: u32,
}

/// First and last local port of FULLNAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalPorts(pub u16, pub u16);

impl Default for LocalPorts {
    /// Below those that the kernel gives its own connections
    /// (`net.ipv4.ip_local_port_range`).
    fn default() -> Self {
        Self(1024, 32_767)
    }
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
    /// The port of the frames with this VLAN id that come in by the device of
    /// `port`. The id 0 is a mere priority tag (IEEE 802.1Q).
    #[must_use]
    #[inline(never)]
    pub fn vlan_port(&self, port: u8, id: u16) -> Option<u8> {
        let device = self.ports.get(usize::from(port))?.device;
        if id == 0 {
            return Some(device);
        }
        let found = self.ports.binary_search_by_key(&(Some(id), device), Port::place).ok()?;
        u8::try_from(found).ok()
    }

    /// The director's own address on a port.
    #[must_use]
    pub fn port_address(&self, port: u8, ipv4: bool) -> Option<IpAddr> {
        let port = self.ports.get(usize::from(port))?;
        if ipv4 {
            port.address4.map(|address| IpAddr::V4(address.into()))
        } else {
            port.address6.map(|address| IpAddr::V6(address.into()))
        }
    }

    /// Milliseconds since midnight UT.
    #[must_use]
    pub fn milliseconds_of_day(&self, now: Tick) -> u32 {
        const DAY: u64 = 24 * 3600 * 1000;
        let now = now.millis_since(Tick(0)) + u64::from(self.day);
        (now % DAY) as u32
    }

    /// A server by number.
    #[must_use]
    #[inline]
    pub fn server(&self, number: u32) -> Option<&Arc<Server>> {
        self.servers.get(number)
    }
}

/// A port as packets see it: a device, or a VLAN on one.
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
    /// Index of the device whose queues carry it: its own, unless it is a VLAN.
    pub device: u8,
    /// Its VLAN id, 1 to 4094.
    pub vlan: Option<u16>,
}

impl Port {
    /// The port of the device with the index 0, without addresses.
    #[must_use]
    pub const fn new(mac: Mac, mtu: u16) -> Self {
        Self { mac, address4: None, address6: None, mtu, device: 0, vlan: None }
    }

    /// The VLAN id of its frames, 0 for none.
    #[must_use]
    #[inline]
    pub fn vlan_id(&self) -> u16 {
        self.vlan.unwrap_or(0)
    }

    /// What ports are sorted by: VLAN id, then device.
    #[must_use]
    pub const fn place(&self) -> (Option<u16>, u8) {
        (self.vlan, self.device)
    }
}
