//! The connection table: layout, states, ageing.
//!
//! One [`table::Table`] per worker and address family, touched by that worker
//! alone; [`tables`] are a worker's two. [`memory`] owns the raw memory and is
//! the one module of the packet logic with `unsafe`; [`entry`] says what an
//! entry holds; [`state`] has the states, TCP's state machine and the timeouts;
//! `sctp` the states of SCTP by RFC 9260; [`hash`] the keyed table hash;
//! [`ageing`] the pace of the sweep. [`persistence`] is the one table that
//! workers share.

pub mod ageing;
pub mod entry;
pub mod hash;
#[allow(unsafe_code, reason = "owns the table memory")]
pub mod memory;
pub mod persistence;
mod sctp;
pub mod state;
pub mod table;
pub mod tables;

pub use entry::{Entry, Entry4, Entry6};
pub use hash::HashKey;
pub use state::{State, Timeouts};
pub use table::{Slot, Table, TableFull};
pub use tables::{Place, Tabled, Tables};
