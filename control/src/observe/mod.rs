//! Packets as people see them: what workers noted of one, or would, as the
//! control API shows it (`told`), a frame's headers ([`frames`]), a packet that is
//! only thought of (`thought`), and all of that in words ([`words`], `drops`) or
//! in a file for Wireshark ([`capture`]).

pub mod capture;
pub(crate) mod drops;
pub mod frames;
pub(crate) mod thought;
pub(crate) mod told;
pub mod words;
