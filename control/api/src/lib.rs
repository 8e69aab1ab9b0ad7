//! The control API of RVS: [`api`] (requests, responses and errors) in
//! [`frame`]s, and a blocking [`client`].
//!
//! A package of its own, so that what talks to `rvsd` from inside another
//! program (the preload library) links nothing else of RVS. `control` shows
//! the modules as its own.

#![forbid(unsafe_code)]

pub mod api;
pub mod client;
pub mod frame;
pub mod settings;
#[cfg(any(test, feature = "test-server"))]
pub mod test_server;
