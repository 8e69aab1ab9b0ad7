//! Packets as pure code over byte slices.
//!
//! The contract of this module: no function panics for any bytes. A function
//! that takes an offset into a frame takes it from [`headers::parse`], which
//! checked it against the frame's length, and the frame is not made shorter in
//! between.

pub mod checksum;
pub mod frame;
pub mod headers;
pub mod key;
pub mod options;
pub mod tuple;

pub use frame::Frame;
pub use headers::{Family, Headers, Parsed, Protocol};
pub use key::{Key4, Key6};
pub use tuple::{Tuple, Tuple4, Tuple6};

/// A MAC address in wire order.
pub type Mac = [u8; 6];
