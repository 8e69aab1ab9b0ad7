//! The packet logic of RVS, and the DPDK adapter that drives it.
//!
//! Read from the top: [`director`] is the whole path of a packet in one file,
//! and the only place where the order of its steps is decided. It stands on
//!
//! - [`packet`]: frames, header parsing, checksum arithmetic: pure code over
//!   bytes
//! - [`shard`]: which worker owns a connection
//! - [`conn`]: the connection table, its entries, states and ageing
//! - [`service`], [`scheduler`]: virtual services, real servers, and the choice
//!   among them
//! - [`forward`]: the rewrites, one file per forwarding method
//! - [`fragment`]: which ports a fragment belongs to
//! - [`handoff`]: the rings between workers
//! - [`outbox`]: packets that the director makes itself
//! - [`fib`]: the way to any address; [`pending`]: packets that wait for its
//!   last piece
//! - [`icmp`]: ICMP errors, those that it makes and those that it passes on
//! - [`snapshot`], [`update`]: the configuration that workers read, and how a
//!   new one reaches them; [`shared`]: a map of which they share what did not
//!   change
//! - [`observe`]: what is noted of packets that somebody wants to see
//! - [`counters`], [`punt`]: what a worker counts, and what it lets through to
//!   the kernel
//! - [`probes`]: health checks that go to the VIP; no worker's matter
//!
//! Nothing in these modules knows DPDK, the time of day or threads: a frame is
//! a byte slice, the time is an argument. `dpdk` (feature `dpdk`) is the one
//! module that turns mbufs into frames and verdicts into transmissions.
//!
//! Packet-path rules: no allocation, lock, system call, shared write or
//! formatting per packet. Nothing here panics on any input from the wire.

#![deny(unsafe_code)]

pub mod conn;
pub mod counters;
pub mod director;
#[cfg(feature = "dpdk")]
#[allow(unsafe_code, reason = "the adapter to DPDK")]
pub mod dpdk;
pub mod fib;
pub mod forward;
pub mod fragment;
pub mod handoff;
pub mod icmp;
pub mod observe;
pub mod outbox;
pub mod packet;
pub mod pending;
pub mod probes;
pub mod punt;
pub mod scheduler;
pub mod service;
pub mod shard;
pub mod shared;
pub mod snapshot;
pub mod time;
pub mod update;
