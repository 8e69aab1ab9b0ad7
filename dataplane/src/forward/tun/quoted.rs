//! The way back: which of the director's own packets an ICMP error is about.

use super::fragment::FRAGMENT;
use super::{Encapsulation, GRE, GueChecksum, IP_IN_IP, IP6_IN_IP, Tunnel, UDP, UDP_HEADER};
use crate::packet::headers::Addresses;

/// Finds the client's packet in one that [`forward`](super::forward) sent, or
/// in the first fragment of it: the tunnel, and the offset in `outer` at which
/// the inner IP header begins. `outer` is what an ICMP error quotes, from the
/// outer IP header on; it may end anywhere, but the inner header's first byte is
/// there and has the right version. Checksums are not verified.
///
/// Headers that the director never writes (GUE with options, GRE with a key)
/// are no tunnel's. Whether a server has the tunnel is for the caller to check:
/// a UDP packet to any port can look like GUE. Of its checksum, only whether
/// there is one can be seen: [`GueChecksum::Full`] where it may be remote.
#[must_use]
pub fn quoted_inner(outer: &[u8]) -> Option<(Tunnel, usize)> {
    let (addresses, protocol, at) = match outer.first()? >> 4 {
        4 => outer_ip4(outer)?,
        6 => outer_ip6(outer)?,
        _ => return None,
    };
    let payload = outer.get(at..)?;
    let (encapsulation, header, protocol) = tunnel_header(protocol, payload)?;
    let version = payload.get(header)? >> 4;
    match (protocol, version) {
        (IP_IN_IP, 4) | (IP6_IN_IP, 6) => {
            Some((Tunnel { encapsulation, outer: addresses }, at + header))
        }
        _ => None,
    }
}

/// Addresses, protocol, and where the payload begins.
fn outer_ip4(outer: &[u8]) -> Option<(Addresses, u8, usize)> {
    let header = outer.first_chunk::<20>()?;
    let len = usize::from(header[0] & 0x0f) * 4;
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if len < 20 || offset != 0 {
        return None;
    }
    let src = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
    let dst = u32::from_be_bytes([header[16], header[17], header[18], header[19]]);
    Some((Addresses::V4 { src, dst }, header[9], len))
}

/// The same for IPv6, of whose extension headers the director writes only that
/// of fragments.
fn outer_ip6(outer: &[u8]) -> Option<(Addresses, u8, usize)> {
    let (header, rest) = outer.split_first_chunk::<40>()?;
    let mut src = [0; 16];
    let mut dst = [0; 16];
    src.copy_from_slice(&header[8..24]);
    dst.copy_from_slice(&header[24..]);
    let addresses = Addresses::V6 { src, dst };
    if header[6] != FRAGMENT {
        return Some((addresses, header[6], 40));
    }
    let fragment = rest.first_chunk::<8>()?;
    let offset = u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8;
    (offset == 0).then_some((addresses, fragment[0], 48))
}

/// The encapsulation, the length of its header, and the protocol number of what
/// follows.
fn tunnel_header(protocol: u8, payload: &[u8]) -> Option<(Encapsulation, usize, u8)> {
    match protocol {
        IP_IN_IP | IP6_IN_IP => Some((Encapsulation::Ipip, 0, protocol)),
        UDP => {
            let (udp, rest) = payload.split_first_chunk::<UDP_HEADER>()?;
            let &[0, protocol, 0, 0] = rest.first_chunk::<4>()? else { return None };
            let port = u16::from_be_bytes([udp[2], udp[3]]);
            let checksum = if udp[6..] == [0, 0] { GueChecksum::None } else { GueChecksum::Full };
            Some((Encapsulation::Gue { port, checksum }, UDP_HEADER + 4, protocol))
        }
        GRE => {
            let &[flags, 0, high, low] = payload.first_chunk::<4>()? else { return None };
            let protocol = match u16::from_be_bytes([high, low]) {
                0x0800 => IP_IN_IP,
                0x86dd => IP6_IN_IP,
                _ => return None,
            };
            match flags {
                0 => Some((Encapsulation::Gre { checksum: false }, 4, protocol)),
                0x80 => Some((Encapsulation::Gre { checksum: true }, 8, protocol)),
                _ => None,
            }
        }
        _ => None,
    }
}
