//! What can go wrong with a port, in an operator's words.

use std::fmt;

use super::args::is_pci_address;
use super::device::Direction;
use super::error_text;

/// A problem with one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortError {
    /// The operator's name of the port.
    pub port: String,
    /// What is wrong.
    pub problem: PortProblem,
}

/// What can be wrong with a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortProblem {
    /// DPDK found no such device.
    NoDevice {
        /// The device's name, without arguments.
        device: String,
        /// What DPDK complained of while it started.
        said: String,
    },
    /// The device is open already.
    AlreadyOpen(String),
    /// The device has fewer queues.
    TooManyQueues {
        /// The kind of queue.
        direction: Direction,
        /// As configured.
        wanted: u16,
        /// As the device has.
        offered: u16,
    },
    /// The driver wants as many receive as transmit queues.
    UnequalQueues(&'static str),
    /// The device cannot have this MTU.
    Mtu {
        /// As configured.
        wanted: u16,
        /// The smallest.
        min: u16,
        /// The largest.
        max: u16,
    },
    /// A frame of this MTU does not fit into an mbuf of the pool.
    DataRoom {
        /// The MTU.
        mtu: u16,
        /// The data room that it takes.
        needed: u32,
        /// The pool's.
        room: u16,
    },
    /// A bond does not take this device as its member.
    Member(String),
    /// The redirection table is empty, or names a queue that is not there.
    BadReta,
    /// The port is not started.
    NotStarted,
    /// There is no such queue.
    NoSuchQueue(Direction, u16),
    /// The queue belongs to somebody else.
    QueueTaken(Direction, u16),
    /// The port cannot be stopped while this many queues are in use.
    QueuesInUse(usize),
    /// A worker is in the port for longer than it should be.
    Busy,
    /// After a reset the device spreads packets over queues in another way.
    OtherRss,
    /// After a reset the device has this MAC address instead of its own.
    OtherMac([u8; 6]),
    /// The device is gone, or could not be reset.
    Gone,
    /// DPDK refused a step.
    Failed {
        /// What was tried.
        step: &'static str,
        /// The error number.
        errno: i32,
    },
}

impl fmt::Display for PortError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}: {}", self.port, self.problem)
    }
}

impl std::error::Error for PortError {}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rx => "receive",
            Self::Tx => "transmit",
        })
    }
}

impl fmt::Display for PortProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice { device, said } => {
                write!(f, "DPDK has no device {device}; {}", device_remedy(device))?;
                if said.is_empty() { Ok(()) } else { write!(f, "; it said while starting: {said}") }
            }
            Self::AlreadyOpen(device) => write!(f, "device {device} belongs to another port"),
            Self::TooManyQueues { direction, wanted, offered } => {
                write!(
                    f,
                    "{wanted} workers need as many {direction} queues, and the device has {offered}; give director.cores {offered} of its cores, or use another NIC"
                )
            }
            Self::UnequalQueues(driver) => {
                write!(f, "{driver} needs as many receive as transmit queues")
            }
            Self::Mtu { wanted, min, max } => {
                write!(f, "mtu {wanted} is not possible here; {min} to {max} are")
            }
            Self::DataRoom { mtu, needed, room } => {
                write!(
                    f,
                    "mtu {mtu} needs mbufs with a data room of {needed} bytes, the pool's have {room}"
                )
            }
            Self::Member(device) => write!(
                f,
                "the bond does not take {device} as a member; the driver's own messages are in the log"
            ),
            Self::BadReta => {
                write!(f, "the redirection table must name existing receive queues only")
            }
            Self::NotStarted => write!(f, "it is not started"),
            Self::NoSuchQueue(direction, queue) => write!(f, "it has no {direction} queue {queue}"),
            Self::QueueTaken(direction, queue) => {
                write!(f, "{direction} queue {queue} is already in use")
            }
            Self::QueuesInUse(count) => {
                write!(f, "it cannot stop, {count} of its queues are in use")
            }
            Self::Busy => {
                write!(f, "it waits for its reset or removal, since a worker does not leave it")
            }
            Self::OtherRss => {
                write!(
                    f,
                    "since its reset, the device spreads packets in another way; restart rvsd"
                )
            }
            Self::OtherMac([a, b, c, d, e, g]) => {
                write!(
                    f,
                    "since its reset, the device's MAC address is \
                     {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}; restart rvsd"
                )
            }
            Self::Gone => write!(f, "its device is gone; put it back and restart rvsd"),
            Self::Failed { step, errno } => {
                write!(
                    f,
                    "{step} failed: {} (error {errno}); the driver's own messages are in the log",
                    error_text(*errno)
                )
            }
        }
    }
}

/// What a device takes that DPDK could not find or make.
fn device_remedy(device: &str) -> &'static str {
    if is_pci_address(device) {
        "a NIC must be bound to vfio-pci (`rvs-bind-nic status` shows it), and no other process may have it"
    } else if device.starts_with("net_tap") {
        "it takes root or CAP_NET_ADMIN, and no interface may have the name in iface= yet (`ip link` shows it)"
    } else if device.starts_with("net_af_packet") {
        "it takes root or CAP_NET_RAW, and the interface in iface= must exist (`ip link` shows it)"
    } else if device.starts_with("net_bonding") {
        "DPDK's driver of bonds, librte_net_bond, must be installed"
    } else {
        "its arguments in port.device may be wrong"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mends_it_is_said() {
        let said = |problem| PortError { port: "lan".into(), problem }.to_string();
        assert_eq!(
            said(PortProblem::TooManyQueues { direction: Direction::Rx, wanted: 4, offered: 2 }),
            "port lan: 4 workers need as many receive queues, and the device has 2; give director.cores 2 of its cores, or use another NIC"
        );
        assert_eq!(
            said(PortProblem::OtherMac([0x52, 0x54, 0, 0, 0x0a, 1])),
            "port lan: since its reset, the device's MAC address is 52:54:00:00:0a:01; restart rvsd"
        );
    }

    #[test]
    fn a_missing_device_comes_with_what_it_takes() {
        for (device, remedy) in [
            ("0000:01:00.0", "no other process may have it"),
            ("net_tap0", "CAP_NET_ADMIN"),
            ("net_af_packet0", "must exist"),
            ("net_bonding0", "librte_net_bond"),
            ("net_ring0", "port.device"),
        ] {
            let problem =
                PortProblem::NoDevice { device: device.into(), said: "nothing good".into() };
            let text = PortError { port: "lan".into(), problem }.to_string();
            assert!(
                text.starts_with(&format!("port lan: DPDK has no device {device}; ")),
                "{text}"
            );
            assert!(text.contains(remedy) && text.ends_with("nothing good"), "{text}");
        }
    }
}
