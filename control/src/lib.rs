//! The control side of RVS.
pub mod api;
pub mod kernel;
