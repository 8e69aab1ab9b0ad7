//! Passing on ICMP errors about connections whose packets are translated (NAT,
//! FULLNAT): the error's own addresses and those in the packet that it quotes
//! become what its receiver knows.

use super::packet::Tuple;
use super::quoted::Quoted;
use crate::counters::DropReason;
use crate::packet::headers::Addresses;
use crate::packet::{Frame, Headers, checksum};

/// What an error is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewrite {
    /// Its own source and destination.
    pub outer: Addresses,
    /// Addresses and ports of the quoted packet.
    pub embedded: Tuple,
}

/// Rewrites an error in place, and fixes its IP header checksum, the quoted
/// IPv4 header's and that of the message: each is as right or wrong as before
/// (RFC 1624). The quoted TCP or UDP checksum stays as it is, as in the kernel.
/// The TTL and the Ethernet header are the forwarding method's, as for every
/// packet.
///
/// # Errors
/// [`DropReason::NoTranslation`] when the families differ. Nothing has changed
/// then.
#[cold]
pub fn rewrite(
    frame: &mut Frame<'_>,
    headers: &Headers,
    quoted: &Quoted,
    to: &Rewrite,
) -> Result<(), DropReason> {
    let bytes = frame.bytes_mut();
    let icmp = usize::from(quoted.icmp);
    let Some((front, message)) = bytes.split_at_mut_checked(icmp) else {
        return Err(DropReason::IcmpBad);
    };
    let outer = front.get_mut(usize::from(headers.l3)..).ok_or(DropReason::IcmpBad)?;
    // Everything that changes in the message lies between these.
    let start = usize::from(quoted.ip) - icmp;
    let ports = usize::from(quoted.l4) - icmp;
    let end = (ports + 4).min(message.len());
    let packet = message.get_mut(start..end).ok_or(DropReason::IcmpBad)?;
    let before = checksum::add(0, packet);

    let pseudo = match (headers.addresses, to.outer, to.embedded.addresses) {
        (
            Addresses::V4 { .. },
            Addresses::V4 { src, dst },
            Addresses::V4 { src: quoted_src, dst: quoted_dst },
        ) => {
            write4(outer, src, dst)?;
            write4(packet, quoted_src, quoted_dst)?;
            (0, 0)
        }
        (
            Addresses::V6 { .. },
            Addresses::V6 { src, dst },
            Addresses::V6 { src: quoted_src, dst: quoted_dst },
        ) => {
            write6(packet, &quoted_src, &quoted_dst)?;
            write6(outer, &src, &dst)?
        }
        _ => return Err(DropReason::NoTranslation),
    };
    if quoted.ports.is_some() {
        let place = packet.get_mut(ports - start..).and_then(<[u8]>::first_chunk_mut::<4>);
        let place = place.ok_or(DropReason::IcmpBad)?;
        place[..2].copy_from_slice(&to.embedded.src_port.to_be_bytes());
        place[2..].copy_from_slice(&to.embedded.dst_port.to_be_bytes());
    }
    let after = checksum::add(0, packet);
    replace(&mut message[2..4], before + pseudo.0, after + pseudo.1);
    Ok(())
}

/// Replaces the addresses of an IPv4 header and fixes its checksum.
fn write4(header: &mut [u8], src: u32, dst: u32) -> Result<(), DropReason> {
    let header = header.first_chunk_mut::<20>().ok_or(DropReason::IcmpBad)?;
    let before = checksum::add(0, &header[12..]);
    header[12..16].copy_from_slice(&src.to_be_bytes());
    header[16..].copy_from_slice(&dst.to_be_bytes());
    let after = checksum::add(0, &header[12..]);
    replace(&mut header[10..12], before, after);
    Ok(())
}

/// Replaces the addresses of an IPv6 header. Their sums, before and after.
fn write6(header: &mut [u8], src: &[u8; 16], dst: &[u8; 16]) -> Result<(u32, u32), DropReason> {
    let header = header.first_chunk_mut::<40>().ok_or(DropReason::IcmpBad)?;
    let before = checksum::add(0, &header[8..]);
    header[8..24].copy_from_slice(src);
    header[24..].copy_from_slice(dst);
    Ok((before, checksum::add(0, &header[8..])))
}

/// The checksum after words of the sum `before` were replaced by words of the
/// sum `after` (RFC 1624, equation 3).
fn replace(checksum: &mut [u8], before: u32, after: u32) {
    let old = u16::from_be_bytes([checksum[0], checksum[1]]);
    let before = checksum::fold(u64::from(before));
    let sum = u64::from(!old) + u64::from(!before) + u64::from(after);
    checksum.copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
}
