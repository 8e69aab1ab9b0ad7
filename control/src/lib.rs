//! The control side of RVS.
pub mod api;
pub mod config;
pub mod kernel;
pub mod registry;
