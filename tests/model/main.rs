//! The director as a whole, in process.
//!
//! - [`model`]: random packets, time and edits, compared step by step with the
//!   slow and obvious [`reference`]
//! - [`workers`]: several workers do what one does
//! - [`ownership`]: where many connections' packets go
//! - [`flood`]: SYNs of spoofed addresses beside real connections
//! - [`round_trip`]: what comes back to a client
//!
//! They stand on [`world`], directors with a fabric between them and their
//! configuration, on [`packet`], packets written and read by hand, on [`nic`],
//! which spreads them over workers, and on [`random`].

mod flood;
mod model;
mod nic;
mod ownership;
mod packet;
mod random;
mod reference;
mod round_trip;
mod workers;
mod world;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Held by tests while they run: floods measure the memory of the process, and
/// run alone.
static RUNNING: RwLock<()> = RwLock::new(());

fn alongside() -> RwLockReadGuard<'static, ()> {
    RUNNING.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    RUNNING.write().unwrap_or_else(PoisonError::into_inner)
}
