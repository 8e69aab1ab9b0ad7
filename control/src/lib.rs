//! The control side of RVS.
pub mod api;
pub mod client;
pub mod frame;
pub mod ipvsadm;
pub mod show;
#[cfg(test)]
mod test_server;
