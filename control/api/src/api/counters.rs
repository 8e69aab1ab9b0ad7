//! Counters of workers, ports and the kernel path.

use serde::{Deserialize, Serialize};

/// Counters of one worker. At all times
/// `received() == tx + punted + handed_off + held + dropped()`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerCounters {
    /// The core that it is pinned to.
    pub core: u32,
    /// Packets from its receive queues.
    pub rx: u64,
    /// Packets that other workers handed to it.
    pub taken_over: u64,
    /// Packets from the kernel's taps.
    pub injected: u64,
    /// Packets that the director made: ICMP errors, fragments.
    pub generated: u64,
    /// Packets given to a port's transmit queue.
    pub tx: u64,
    /// Packets given to the kernel.
    pub punted: u64,
    /// Packets handed to the worker that owns their connection.
    pub handed_off: u64,
    /// Packets whose bytes go on as others: held fragments, packets sent in
    /// fragments, ICMP errors about tunnels.
    pub held: u64,
    /// Packets dropped, by reason; reasons that never occurred are present
    /// with 0.
    pub drops: Vec<Drop>,
    /// Connections in its tables, IPv4 and IPv6.
    pub connections: u64,
    /// Connections that aged out.
    pub expired: u64,
    /// Half-open connections that made room for others in a full table.
    pub recycled: u64,
    /// Packets forwarded without a connection because the table was full (mh).
    pub stateless: u64,
    /// Connections taken up in their middle (`take_up` of services).
    #[serde(default)]
    pub taken_up: u64,
    /// Places taken in its IPv4 and in its IPv6 table: a connection under NAT
    /// or FULLNAT has two.
    #[serde(default)]
    pub entries: [u64; 2],
    /// Ticks of the time stamp counter spent on rounds that had packets.
    #[serde(default)]
    pub busy_cycles: u64,
    /// Those rounds.
    #[serde(default)]
    pub busy_rounds: u64,
}

impl WorkerCounters {
    /// All packets that the worker got or made.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.rx + self.taken_over + self.injected + self.generated
    }

    /// All packets that the worker dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.iter().map(|d| d.count).sum()
    }
}

/// A drop counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drop {
    /// The reason's name, stable across versions.
    pub reason: String,
    /// Packets dropped for it.
    pub count: u64,
}

/// Counters of one port, as its driver keeps them, and of its mbuf pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Name of the port and of its tap.
    pub name: String,
    /// The device as given in the configuration.
    pub device: String,
    /// Its MAC address.
    pub mac: String,
    /// Whether the link is up.
    pub link_up: bool,
    /// Whether that can be relied on: a tap's driver loses sight of its link when
    /// the other end is moved to another network namespace.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub link_known: bool,
    /// Receive and transmit queues each, one for each worker.
    #[serde(default)]
    pub queues: u16,
    /// How many the device has of both: the most workers that it serves.
    #[serde(default)]
    pub max_queues: u16,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets that the device had no room for.
    pub rx_missed: u64,
    /// Packets received in error.
    pub rx_errors: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets not sent in error.
    pub tx_errors: u64,
    /// mbufs of the port's pool that are in use. At rest this is what the
    /// device's queues hold.
    pub mbufs_in_use: u32,
    /// mbufs of the pool.
    pub mbufs: u32,
    /// The members of a bond, and how they are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondCounters>,
    /// The VLANs on the port. Its counters are those of all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<VlanPort>,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn is_yes(value: &bool) -> bool {
    *value
}

/// A port of several devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BondCounters {
    /// How they are used: `active-backup`, `balance-xor` or `802.3ad`.
    pub mode: String,
    /// The devices, in the order of the configuration.
    pub members: Vec<BondMember>,
}

/// A device of a bond.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BondMember {
    /// Its PCI address, or name.
    pub device: String,
    /// What it does.
    pub state: MemberState,
}

/// What a device of a bond does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Sends and receives.
    Active,
    /// Has a link, and waits until it is needed.
    Backup,
    /// Has a link, but the switch has not agreed on it (LACP).
    Waiting,
    /// Has no link.
    Down,
    /// Its device is gone.
    Removed,
}

impl MemberState {
    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Backup => "backup",
            Self::Waiting => "waiting",
            Self::Down => "down",
            Self::Removed => "removed",
        }
    }
}

/// A VLAN on a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VlanPort {
    /// Name of its tap.
    pub name: String,
    /// Its id.
    pub id: u16,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// Counters of the kernel path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelPathCounters {
    /// Packets written into a tap.
    pub to_kernel: u64,
    /// Packets that a tap did not take.
    pub to_kernel_failed: u64,
    /// Packets read from a tap and given to a worker.
    pub from_kernel: u64,
    /// Packets read from a tap and dropped: no mbuf, or the worker's ring was
    /// full.
    pub from_kernel_dropped: u64,
}
