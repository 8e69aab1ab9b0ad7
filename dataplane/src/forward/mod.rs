//! The rewrites, one file per forwarding method. Each takes a frame whose
//! headers are known, changes its bytes, and leaves it ready to send.

pub mod dr;
pub mod mss;
pub mod tun;
pub mod nat;
pub mod translate;

use crate::counters::DropReason;
use crate::packet::{Family, Frame, Headers, Protocol, checksum};
use crate::service::PortHop;

const ETHERNET: usize = 14;

/// Takes one from the TTL or hop limit, and fixes the IPv4 header checksum.
///
/// # Errors
/// [`DropReason::TtlExpired`] when nothing would be left.
fn decrement_ttl(frame: &mut Frame<'_>, headers: &Headers) -> Result<(), DropReason> {
    let ip = &mut frame.bytes_mut()[usize::from(headers.l3)..];
    let ttl = match headers.family() {
        Family::V4 => &mut ip[8],
        Family::V6 => &mut ip[7],
    };
    if *ttl <= 1 {
        return Err(DropReason::TtlExpired);
    }
    *ttl -= 1;
    if headers.family() == Family::V4 {
        let checksum = checksum::after_ttl_decrement(u16::from_be_bytes([ip[10], ip[11]]));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    Ok(())
}

/// Gives the frame an untagged Ethernet header for its next hop, and cuts what
/// follows the IP packet (padding of short frames), as the kernel does.
fn set_ethernet(frame: &mut Frame<'_>, headers: &Headers, hop: &PortHop) {
    let l3 = usize::from(headers.l3);
    // A priority tag goes: the header moves up to the IP packet.
    frame.strip_front(l3 - ETHERNET);
    frame.truncate(ETHERNET + usize::from(headers.ip_len));
    write_ethernet(&mut frame.bytes_mut()[..ETHERNET], headers.family(), hop);
}

/// Writes an untagged Ethernet header of 14 bytes.
fn write_ethernet(header: &mut [u8], family: Family, hop: &PortHop) {
    let ethertype: u16 = match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    header[..6].copy_from_slice(&hop.dst_mac);
    header[6..12].copy_from_slice(&hop.src_mac);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
}

/// The layer 4 bytes at hand, from a header that is all there.
///
/// # Errors
/// [`DropReason::L4Truncated`] for a first fragment that ends within it: the
/// parser does not look into fragments.
#[inline]
fn l4_mut<'a>(frame: &'a mut Frame<'_>, headers: &Headers) -> Result<&'a mut [u8], DropReason> {
    let end = usize::from(headers.l3) + usize::from(headers.ip_len);
    let end = end.min(frame.len());
    let l4 = frame.bytes_mut().get_mut(usize::from(headers.l4)..end);
    let needed = match headers.protocol {
        Protocol::Tcp => 20,
        Protocol::Udp => 8,
        Protocol::Sctp => 12,
    };
    l4.filter(|l4| l4.len() >= needed).ok_or(DropReason::L4Truncated)
}

#[cfg(test)]
mod testing;
