//! The configuration file of `rvsd`.
//!
//! A file is read as a whole or refused as a whole, with one line that says
//! where, what is wrong and what is allowed. What a value means to the machine
//! is checked where the file alone, and the set of cores, can tell; whether a
//! device or group exists is found out when it is used.
//!
//! `docs/configuration.md` describes the keys to operators.

mod address;
mod changes;
mod cores;
mod health;
mod marks;
mod read;
mod sections;
mod servers;
mod services;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dataplane::service::MarkRule;

use crate::api::{ServerSpec, ServiceId, ServiceSpec, Settings, Timeouts};
use crate::health::plan::Plan;
use crate::metrics::MetricsConfig;
pub use address::{Bus, Cidr, Device};
pub use changes::Changed;
pub use cores::online_cores;
pub(crate) use cores::{parse as core_list, show as show_cores};
pub use read::Error;

/// The longest file that is read, in bytes.
pub const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// Most ports and members of bonds: DPDK's RTE_MAX_ETHPORTS.
pub const MAX_PORTS: usize = 32;

/// Most members of a bond: what the links of one switch group are.
pub const MAX_MEMBERS: usize = 8;

/// Most ports and VLANs together: workers know them by an index of one byte.
pub const MAX_INTERFACES: usize = 255;

/// Most cores: DPDK's RTE_MAX_LCORE of 128, less EAL's main thread.
pub const MAX_CORES: usize = 127;

/// Everything that the file says, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[director]`.
    pub director: Director,
    /// `[control]`.
    pub control: Control,
    /// `[metrics]`; none are served when the section is not there.
    pub metrics: Option<MetricsConfig>,
    /// `[eal]`.
    pub eal: Eal,
    /// `[punt]`.
    pub punt: Punt,
    /// `[timeouts]`: 900, 120 and 300 s by default.
    pub timeouts: Timeouts,
    /// `[settings]`: the kernel's defaults where not given.
    pub settings: Settings,
    /// `[[port]]`, at least one, in the order of the file. Names, devices and
    /// addresses are unique.
    pub ports: Vec<Port>,
    /// `[vip]`.
    pub vip: Vip,
    /// `[fullnat]`: first and last port on local addresses; at least 1,024.
    pub local_ports: (u16, u16),
    /// `[[fwmark]]`, in the order of the file.
    pub rules: Vec<MarkRule>,
    /// `[[service]]`, in the order of the file. Protocol and address, or mark
    /// and family, are unique.
    pub services: Vec<Service>,
}

/// The workers and what they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Director {
    /// The core of each worker: at least one, each once, all online.
    pub cores: Vec<u32>,
    /// What a worker does without packets.
    pub poll: Poll,
    /// Most connections of one worker, per address family; 1,000,000 by
    /// default.
    pub connections: u32,
    /// Persistence templates of all workers together; 1,000,000 by default.
    pub templates: u32,
    /// Absolute path of the directory of the lock, the record of owned
    /// addresses and, by default, the socket; `/run/rvs` by default.
    pub run_dir: PathBuf,
    /// Absolute path of the directory of the record of services, which then
    /// outlives a clean stop and a reboot.
    pub state_dir: Option<PathBuf>,
}

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Poll {
    /// Polls on: lowest latency, its core is always at 100 %. The default.
    Busy,
    /// Sleeps when idle.
    Adaptive,
}

/// The control socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Absolute path, at most 107 bytes; `rvsd.sock` in
    /// [`Director::run_dir`] by default.
    pub socket: PathBuf,
    /// The socket's group, whose members may change things as root may. Not
    /// checked for existence.
    pub group: Option<String>,
    /// Whether everybody may read listings and counters; no by default.
    pub anyone_may_look: bool,
}

/// What EAL is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eal {
    /// Whether DPDK's memory is of huge pages.
    pub huge_pages: HugePages,
    /// DPDK's memory in MiB; 512 by default.
    pub memory_mb: u32,
    /// EAL's `--file-prefix`; `rvs` by default.
    pub file_prefix: String,
    /// mbufs of each port's pool; 16,384 by default. More than the descriptors
    /// of all queues of any port.
    pub mbufs: u32,
    /// Further EAL arguments, after rvsd's own.
    pub extra_args: Vec<String>,
}

/// Whether to use huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HugePages {
    /// When there are any. The default.
    Auto,
    /// Not even when there are.
    Never,
    /// Without them rvsd does not start.
    Require,
}

/// Limits of what one worker gives to the kernel, packets per second by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Punt {
    /// ARP and neighbour discovery; 2,000 by default.
    pub neighbour: u32,
    /// VRRP, OSPF, BGP and BFD; 10,000 by default.
    pub routing: u32,
    /// TCP to the host; 20,000 by default.
    pub tcp: u32,
    /// Everything else; 10,000 by default.
    pub other: u32,
}

/// A DPDK port and its tap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Name of the port and of its tap.
    pub name: String,
    /// The device that EAL opens, or makes of the members of a bond.
    pub device: Device,
    /// `[port.bond]`, where it is a bond.
    pub bond: Option<Bond>,
    /// Largest IP packet in bytes, 576 to 9,600; 1,500 by default. At least
    /// 1,280 when the port has an IPv6 address.
    pub mtu: u16,
    /// Descriptors of each receive queue; 1,024 by default.
    pub rx_descriptors: u16,
    /// Descriptors of each transmit queue; 1,024 by default.
    pub tx_descriptors: u16,
    /// Addresses to put on the tap.
    pub addresses: Vec<Cidr>,
    /// `[[port.vlan]]`, in the order of the file.
    pub vlans: Vec<Vlan>,
}

impl Port {
    /// The devices that carry its packets: the members of a bond, or the one.
    #[must_use]
    pub fn devices(&self) -> &[Device] {
        self.bond.as_ref().map_or(std::slice::from_ref(&self.device), |bond| &bond.members)
    }
}

/// Several devices that are one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bond {
    /// How they are used.
    pub mode: BondMode,
    /// The devices, two at least; the first is the first to be used.
    pub members: Vec<Device>,
}

/// How a bond uses its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BondMode {
    /// One at a time.
    ActiveBackup,
    /// All, by addresses and ports.
    BalanceXor,
    /// All that the switch agrees on (LACP), by addresses and ports.
    Lacp,
}

impl BondMode {
    /// The name in the configuration, which is the kernel's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ActiveBackup => "active-backup",
            Self::BalanceXor => "balance-xor",
            Self::Lacp => "802.3ad",
        }
    }
}

/// A VLAN on a port, with a tap of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// Name of its tap; the port's, a dot and the id by default.
    pub name: String,
    /// Its id, 1 to 4,094; once on a port.
    pub id: u16,
    /// Largest IP packet in bytes, at most the port's, which is the default.
    pub mtu: u16,
    /// Addresses to put on its tap.
    pub addresses: Vec<Cidr>,
}

/// What has a tap: a port, or a VLAN on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface<'a> {
    /// Name of the tap.
    pub name: &'a str,
    /// Index of the port in [`Config::ports`].
    pub device: u8,
    /// The VLAN's id.
    pub vlan: Option<u16>,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Addresses to put on the tap.
    pub addresses: &'a [Cidr],
}

/// The interfaces of ports, in the order of `dataplane::snapshot::Port::place`:
/// first all ports, then the VLANs by id and port. The index among them is what
/// packets' ports are known by.
fn interfaces(ports: &[Port]) -> Vec<Interface<'_>> {
    let mut interfaces = Vec::new();
    for (device, port) in (0..).zip(ports) {
        let Port { name, mtu, addresses, .. } = port;
        interfaces.push(Interface { name, device, vlan: None, mtu: *mtu, addresses });
        interfaces.extend(port.vlans.iter().map(|vlan| {
            let Vlan { name, id, mtu, addresses } = vlan;
            Interface { name, device, vlan: Some(*id), mtu: *mtu, addresses }
        }));
    }
    interfaces.sort_by_key(|interface| (interface.vlan, interface.device));
    interfaces
}

/// The addresses that rvsd owns while it runs: IPv4 ones on `lo` as /32, IPv6
/// ones on the tap of every port and VLAN as /128.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Vip {
    /// Unique, and not on a port.
    pub addresses: Vec<IpAddr>,
}

/// A virtual service and its servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The service.
    pub spec: ServiceSpec,
    /// Its servers in the order of the file, each once; the port is filled in.
    pub servers: Vec<ServerSpec>,
    /// How they are checked, and what becomes of the service without them.
    pub health: Plan,
}

impl Config {
    /// Reads a file. `online` is the set of cores that workers can run on, in
    /// rvsd that of [`online_cores`].
    ///
    /// # Errors
    /// One line about the first thing that is wrong.
    pub fn from_file(path: &Path, online: &BTreeSet<u32>) -> Result<Self, Error> {
        let name = path.display().to_string();
        let bytes = read_bounded(path).map_err(|error| Error::of_file(&name, remedy(&error)))?;
        if bytes.len() as u64 > MAX_SIZE {
            return Err(Error::of_file(
                &name,
                "is larger than 16 MiB, the most that is read; add the services with rvsadm instead",
            ));
        }
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let (valid, rest) = bytes.split_at(error.valid_up_to());
            let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
            let byte = rest.first().copied().unwrap_or_default();
            let what = format!("byte 0x{byte:02x} is not UTF-8; save the file as UTF-8");
            Error::of_file(&format!("{name}:{line}"), what)
        })?;
        Self::parse(&name, text, online)
    }

    /// All that has a tap, by index.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface<'_>> {
        interfaces(&self.ports)
    }

    /// The plans of all services that have one, for
    /// [`Daemon::check_health`](crate::daemon::Daemon::check_health).
    #[must_use]
    pub fn health(&self) -> HashMap<ServiceId, Plan> {
        let services = self.services.iter().filter(|service| !service.health.is_empty());
        services.map(|service| (service.spec.id, service.health.clone())).collect()
    }

    /// Reads a text; `file` is what the errors call it.
    ///
    /// # Errors
    /// One line about the first thing that is wrong.
    pub fn parse(file: &str, text: &str, online: &BTreeSet<u32>) -> Result<Self, Error> {
        sections::config(read::Source { file, text }, online)
    }
}

impl Default for Eal {
    fn default() -> Self {
        Self {
            huge_pages: HugePages::Auto,
            memory_mb: 512,
            file_prefix: "rvs".to_owned(),
            mbufs: 16_384,
            extra_args: Vec::new(),
        }
    }
}

impl Default for Punt {
    fn default() -> Self {
        Self { neighbour: 2_000, routing: 10_000, tcp: 20_000, other: 10_000 }
    }
}

/// The file's bytes, at most one more than [`MAX_SIZE`]: what is larger, a
/// device say, is not read to its end.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn remedy(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "check the path, or start from configs/rvsd.toml",
        io::ErrorKind::PermissionDenied => "run as root, or make the file readable",
        io::ErrorKind::IsADirectory => "give the path of a file",
        _ => "check the file and its file system",
    };
    // The kernel's message without "(os error N)".
    let message = error.to_string();
    let message = message.split(" (os error").next().unwrap_or_default();
    format!("cannot be read: {message}; {remedy}")
}
