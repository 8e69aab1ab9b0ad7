//! The rewrites, one file per forwarding method. Each takes a frame whose
//! headers are known, changes its bytes, and leaves it ready to send.

pub mod dr;
pub mod mss;
pub mod nat;
pub mod proxy;
pub mod toa;
pub mod translate;
pub mod tun;

pub use translate::cut;

use crate::counters::DropReason;
use crate::packet::headers::{ETHERNET, ETHERTYPE_VLAN};
use crate::packet::{Family, Frame, Headers, checksum};
use crate::service::PortHop;

/// Takes one from the TTL or hop limit, and fixes the IPv4 header checksum.
///
/// # Errors
/// [`DropReason::TtlExpired`] when nothing would be left.
#[inline(always)]
pub(crate) fn decrement_ttl(frame: &mut Frame<'_>, headers: &Headers) -> Result<(), DropReason> {
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

/// Gives the frame an Ethernet header for its next hop, with the tag of that
/// VLAN or none, whatever it came with, and cuts what follows the IP packet
/// (padding of short frames), as the kernel does. `headers` still has the old
/// offsets.
///
/// # Errors
/// [`DropReason::NoHeadroom`] where there is no room for a tag.
#[inline(always)]
pub(crate) fn set_ethernet(
    frame: &mut Frame<'_>,
    headers: &Headers,
    hop: &PortHop,
) -> Result<(), DropReason> {
    let l3 = usize::from(headers.l3);
    if hop.vlan != 0 {
        return set_tagged_ethernet(frame, headers, hop);
    }
    frame.strip_front(l3 - ETHERNET);
    frame.truncate(ETHERNET + usize::from(headers.ip_len));
    write_ethernet(&mut frame.bytes_mut()[..ETHERNET], headers.family(), hop);
    Ok(())
}

/// Apart, so that frames without a tag have all lengths fixed.
#[inline(never)]
fn set_tagged_ethernet(
    frame: &mut Frame<'_>,
    headers: &Headers,
    hop: &PortHop,
) -> Result<(), DropReason> {
    let (l3, len) = (usize::from(headers.l3), hop.ethernet_len());
    if l3 >= len {
        frame.strip_front(l3 - len);
    } else if !frame.grow_front(len - l3) {
        return Err(DropReason::NoHeadroom);
    }
    frame.truncate(len + usize::from(headers.ip_len));
    write_ethernet(&mut frame.bytes_mut()[..len], headers.family(), hop);
    Ok(())
}

/// Writes an Ethernet header of [`PortHop::ethernet_len`] bytes. The tag's
/// priority is 0.
#[inline(always)]
pub(crate) fn write_ethernet(header: &mut [u8], family: Family, hop: &PortHop) {
    let ethertype: u16 = match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    header[..6].copy_from_slice(&hop.dst_mac);
    header[6..12].copy_from_slice(&hop.src_mac);
    let mut at = 12;
    if hop.vlan != 0 {
        header[12..14].copy_from_slice(&ETHERTYPE_VLAN.to_be_bytes());
        header[14..16].copy_from_slice(&hop.vlan.to_be_bytes());
        at = 16;
    }
    header[at..at + 2].copy_from_slice(&ethertype.to_be_bytes());
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
    let needed = headers.protocol.header_len();
    l4.filter(|l4| l4.len() >= needed).ok_or(DropReason::L4Truncated)
}

/// The length of a TCP header with its options, which are all in `l4`.
///
/// # Errors
/// [`DropReason::L4Truncated`] where the data offset says otherwise: the parser
/// does not look at it.
fn tcp_header_len(l4: &[u8]) -> Result<usize, DropReason> {
    let len = usize::from(l4[12] >> 4) * 4;
    if len < 20 || len > l4.len() { Err(DropReason::L4Truncated) } else { Ok(len) }
}

/// Calls `found` with the kind, the place and the length of each TCP option but
/// those of one byte, up to the first malformed one.
fn tcp_options(options: &[u8], mut found: impl FnMut(u8, usize, usize)) {
    const END: u8 = 0;
    const NOP: u8 = 1;
    let mut at = 0;
    while at < options.len() && options[at] != END {
        if options[at] == NOP {
            at += 1;
            continue;
        }
        let Some(len) = options.get(at + 1).map(|len| usize::from(*len)) else { return };
        if len < 2 || at + len > options.len() {
            return;
        }
        found(options[at], at, len);
        at += len;
    }
}

/// Changes the checksum of a TCP header by a difference.
fn adjust_tcp(l4: &mut [u8], difference: u32) {
    let sum = u16::from_be_bytes([l4[16], l4[17]]);
    l4[16..18].copy_from_slice(&checksum::after(sum, difference).to_be_bytes());
}

/// Makes room for `count` bytes at the offset `at`, behind the IP header, by
/// moving what is in front of it towards the buffer's beginning: less than what
/// follows. The IP length and the header checksum count them; layer 4's is the
/// caller's. False, and nothing changed, where the buffer has not so many bytes
/// of headroom.
fn make_room(frame: &mut Frame<'_>, headers: &mut Headers, at: usize, count: u16) -> bool {
    let moved = usize::from(count)..usize::from(count) + at;
    if !frame.grow_front(usize::from(count)) {
        return false;
    }
    frame.bytes_mut().copy_within(moved, 0);
    set_ip_len(frame, headers, headers.ip_len + count);
    true
}

/// Gives an IP packet another length.
fn set_ip_len(frame: &mut Frame<'_>, headers: &mut Headers, ip_len: u16) {
    let ip = &mut frame.bytes_mut()[usize::from(headers.l3)..];
    match headers.family() {
        Family::V4 => {
            let difference = checksum::replace(0, &ip[2..4], &ip_len.to_be_bytes());
            ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
            let sum = u16::from_be_bytes([ip[10], ip[11]]);
            ip[10..12].copy_from_slice(&checksum::after(sum, difference).to_be_bytes());
        }
        Family::V6 => ip[4..6].copy_from_slice(&(ip_len - 40).to_be_bytes()),
    }
    headers.ip_len = ip_len;
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
