//! ICMP and ICMPv6 errors (RFC 792, RFC 4443): those that the director sends
//! ([`make`]), how many of them ([`IcmpLimiter`]), and those about packets of
//! connections, which it reads ([`Quoted`]) and passes on ([`rewrite`]).
//!
//! Other ICMP is the kernel's: echo, neighbour discovery, redirects, and the
//! IPv4 errors that kernel IPVS does not relay either.

mod limit;
mod make;
mod packet;
mod quoted;
mod relay;
#[cfg(test)]
mod tests;

pub use limit::{IcmpLimiter, IcmpLimits};
pub use make::{Error, Origin, make};
pub use packet::Tuple;
pub use quoted::{Inner, Quoted};
pub use relay::{Rewrite, rewrite};

/// The protocol number of ICMP.
const ICMP: u8 = 1;
/// The protocol number of ICMPv6.
const ICMPV6: u8 = 58;
/// Length of the part of an ICMP error that is in front of the quoted packet.
const HEADER: usize = 8;

/// The part of the pseudo-header of an ICMPv6 checksum that addresses have no
/// part in (RFC 8200, section 8.1).
fn pseudo_header(message_len: usize) -> u32 {
    message_len as u32 + u32::from(ICMPV6)
}
