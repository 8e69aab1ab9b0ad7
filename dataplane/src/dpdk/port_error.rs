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
        /// What DPDK said of errors while it started, one message per line.
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
                write!(f, "DPDK has no device {device}")?;
                if is_pci_address(device) {
                    write!(
                        f,
                        "; a NIC must be bound to vfio-pci (`dpdk-devbind.py --status` shows it)"
                    )?;
                }
                if said.is_empty() { Ok(()) } else { write!(f, "; it said while starting: {said}") }
            }
            Self::AlreadyOpen(device) => write!(f, "device {device} belongs to another port"),
            Self::TooManyQueues { direction, wanted, offered } => {
                write!(
                    f,
                    "{wanted} {direction} queues wanted, the device offers {offered}; use fewer workers"
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
