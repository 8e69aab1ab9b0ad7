//! The rewrites, one file per forwarding method. Each takes a frame whose
//! headers are known, changes its bytes, and leaves it ready to send.

pub mod dr;
pub mod translate;

use crate::counters::DropReason;
use crate::packet::{Family, Frame, Headers, checksum};
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
    let ethertype: u16 = match headers.family() {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    let header = &mut frame.bytes_mut()[..ETHERNET];
    header[..6].copy_from_slice(&hop.dst_mac);
    header[6..12].copy_from_slice(&hop.src_mac);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
}
