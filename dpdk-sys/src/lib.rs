//! Raw bindings to the system's DPDK, through a small C shim.
//!
//! `shim.h` is the reference: standard types and `rvs_*` functions only. No
//! logic lives here; `dataplane::dpdk` builds the safe types on top.

#![allow(missing_docs, non_camel_case_types, non_upper_case_globals)]
#![allow(clippy::undocumented_unsafe_blocks, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
