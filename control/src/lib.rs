//! The control side of RVS.
//!
//! `rvsd` is [`config`] (the file), [`daemon`] (the event loop) over
//! [`registry`] (services and servers), [`server`] (the control socket) and
//! [`kernel`] (routes, neighbours, addresses), [`metrics`] over HTTP,
//! [`logging`], and `machine` (ports, workers; feature `dpdk`). `rvsadm` is
//! [`ipvsadm`] (its grammar and output), [`commandline`] with [`commands`],
//! [`show`] and [`doctor`] over [`client`], and [`preload`] for others'
//! programs; what both make of packets that are looked at is [`observe`]'s.
//! Both speak [`api`] in
//! [`frame`]s; these are in a
//! package of their own, `control-api`.

#![forbid(unsafe_code)]

pub mod commandline;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod health;
pub mod ipvsadm;
pub mod kernel;
pub mod logging;
#[cfg(feature = "dpdk")]
pub mod machine;
pub mod metrics;
pub mod observe;
pub mod preload;
pub mod registry;
pub mod server;
pub mod show;
pub mod top;

#[cfg(test)]
use control_api::test_server;
pub use control_api::{api, client, frame, settings};
