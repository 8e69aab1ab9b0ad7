//! The adapter to DPDK: safe types over `dpdk-sys`.
//!
//! Apart from the table memory (`conn::memory`), this module and `dpdk-sys` are
//! the only places with `unsafe`. What the types carry, so that their callers
//! need not think of it:
//!
//! - [`Eal`] is the one EAL of the process. Pools, ports, queues and running
//!   workers keep it alive; its memory is unmapped after the last of them, and
//!   only if every mbuf is back in its pool.
//! - [`Mbuf`] owns one mbuf: it is sent, moved to another thread, or freed, once.
//! - [`RxQueue`] and [`TxBuffer`] own one queue of a [`Port`]: no two threads can
//!   use the same queue, and a port cannot be stopped under them.

mod args;
mod bond;
mod capabilities;
mod descriptors;
mod device;
mod eal;
mod hugepages;
pub mod kernel_path;
mod mbuf;
mod pool;
mod port;
mod port_error;
mod queue;
pub mod rings;
mod tap;
pub mod worker;

pub use bond::{Bond, BondMode, Member, MemberState};
pub use descriptors::keep_from_programs;
pub use device::Direction;
pub use eal::{Eal, EalConfig, EalError, HugePages, Launched, tsc};
pub use mbuf::{BURST, HEADROOM, IpChecksum, Mbuf, RxBurst, Segments};
pub use pool::{Pool, PoolError};
pub use port::{
    Link, Port, PortConfig, PortInfo, PortStats, RSS_KEY_LEN, Recovery, RssConfig, RssState,
};
pub use port_error::{PortError, PortProblem};
pub use queue::{RxQueue, TxBuffer, TxResult};
pub use tap::{Tap, TapError};

/// The text of a DPDK or system error number.
fn error_text(errno: i32) -> String {
    // SAFETY: rte_strerror accepts any number and returns a C string that stays
    // valid at least until this thread's next call of it.
    let text = unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rvs_strerror(errno)) };
    text.to_string_lossy().into_owned()
}

/// Turns the shim's 0 or -errno into a `Result` of the positive errno.
fn check(ret: i32) -> Result<(), i32> {
    if ret == 0 { Ok(()) } else { Err(-ret) }
}
