//! The packet logic of RVS, and the DPDK adapter that drives it.

#[cfg(feature = "dpdk")]
pub mod dpdk;
