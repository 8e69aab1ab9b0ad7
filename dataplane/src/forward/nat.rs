//! Other addresses and ports: what NAT does with one side of a packet and
//! FULLNAT with both, within an address family.
//!
//! # Checksums
//!
//! They verify afterwards if and only if they did before: each changes by a
//! difference that is computed once per connection and direction ([`Deltas`],
//! RFC 1624), so an error stays the error that it was. As in the kernel:
//!
//! - UDP without a checksum (0) gets one, over IPv4 and IPv6. Where the bytes
//!   to be summed are not at hand (a fragment, a packet in several segments, a
//!   UDP length that contradicts the IP length) it stays 0. A checksum that
//!   comes out as 0 leaves as 0xffff.
//! - TCP's may leave as 0.
//! - SCTP's CRC32c covers ports, not addresses. It is changed for new ports
//!   ([`checksum::crc32c_after`]), 0 as any other.
//!
//! # Fragments
//!
//! The first one has the layer 4 header and goes through [`rewrite4`] or
//! [`rewrite6`]; the checksum's difference does not depend on the rest. Later
//! ones have addresses only: [`rewrite_later_fragment4`],
//! [`rewrite_later_fragment6`]. New ports of an SCTP fragment have no right CRC
//! without the whole packet, whose length the first fragment does not tell: it
//! is dropped. (SCTP cuts its messages into packets that fit by itself.)

use bytemuck::Zeroable;

use super::l4_mut;
use crate::counters::DropReason;
use crate::packet::{Frame, Headers, Protocol, Tuple4, Tuple6, checksum};

/// What a rewrite changes of the sums, in one's complement. Those of the
/// opposite direction are other ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct Deltas {
    /// Of the IPv4 header.
    pub ip: u16,
    /// Of TCP or UDP, the pseudo header included. Means nothing for SCTP.
    pub l4: u16,
}

impl Deltas {
    /// Those of packets that answer: what became `to` becomes `from` again. As
    /// computed for them alone, where no difference is all ones, never 0.
    #[must_use]
    #[inline]
    pub const fn opposite(self) -> Self {
        const fn opposite(delta: u16) -> u16 {
            if delta == 0xffff { delta } else { !delta }
        }
        Self { ip: opposite(self.ip), l4: opposite(self.l4) }
    }
}

/// The differences that packets need which come as `from` and leave as `to`.
#[must_use]
#[inline]
pub fn delta4(from: &Tuple4, to: &Tuple4) -> Deltas {
    // Two words at a time, which does not matter to the sum (RFC 1071).
    let difference = |old: u32, new: u32| u64::from(!old) + u64::from(new);
    let ports = |tuple: &Tuple4| u32::from(tuple.src_port) << 16 | u32::from(tuple.dst_port);
    let ip = difference(from.src, to.src) + difference(from.dst, to.dst);
    let l4 = ip + difference(ports(from), ports(to));
    Deltas { ip: checksum::fold_doubles(ip), l4: checksum::fold_doubles(l4) }
}

/// The difference of the layer 4 checksum for packets that come as `from` and
/// leave as `to`.
#[must_use]
pub fn delta6(from: &Tuple6, to: &Tuple6) -> u16 {
    let addresses = checksum::replace(0, &from.address_bytes(), &to.address_bytes());
    let old = ports(from.src_port, from.dst_port);
    checksum::replace(addresses, &old, &ports(to.src_port, to.dst_port)) as u16
}

/// Gives a packet, or a first fragment, new addresses and ports. `headers` says
/// afterwards what the packet was before; only its offsets still hold.
///
/// # Errors
/// [`DropReason::L4Truncated`] for a first fragment without all of the layer 4
/// header, [`DropReason::NoTranslation`] for one of SCTP that needs other
/// ports. Nothing is changed then.
#[inline]
pub fn rewrite4(
    frame: &mut Frame<'_>,
    headers: &Headers,
    to: &Tuple4,
    deltas: Deltas,
) -> Result<(), DropReason> {
    let sum = rewrite_l4(frame, headers, ports(to.src_port, to.dst_port), deltas.l4)?;
    rewrite_later_fragment4(frame, headers, to, deltas);
    if sum == L4Sum::None {
        compute(frame, headers, 12..20);
    }
    Ok(())
}

/// Gives a fragment that is not its datagram's first one new addresses.
#[inline]
pub fn rewrite_later_fragment4(
    frame: &mut Frame<'_>,
    headers: &Headers,
    to: &Tuple4,
    deltas: Deltas,
) {
    let ip = &mut frame.bytes_mut()[usize::from(headers.l3)..];
    ip[12..16].copy_from_slice(&to.src.to_be_bytes());
    ip[16..20].copy_from_slice(&to.dst.to_be_bytes());
    let sum = u16::from_be_bytes([ip[10], ip[11]]);
    ip[10..12].copy_from_slice(&checksum::after(sum, u32::from(deltas.ip)).to_be_bytes());
}

/// Gives a packet, or a first fragment, new addresses and ports, as
/// [`rewrite4`] does. `delta` is from [`delta6`].
///
/// # Errors
/// Those of [`rewrite4`].
#[inline]
pub fn rewrite6(
    frame: &mut Frame<'_>,
    headers: &Headers,
    to: &Tuple6,
    delta: u16,
) -> Result<(), DropReason> {
    let sum = rewrite_l4(frame, headers, ports(to.src_port, to.dst_port), delta)?;
    rewrite_later_fragment6(frame, headers, to);
    if sum == L4Sum::None {
        compute(frame, headers, 8..40);
    }
    Ok(())
}

/// Gives a fragment that is not its datagram's first one new addresses.
#[inline]
pub fn rewrite_later_fragment6(frame: &mut Frame<'_>, headers: &Headers, to: &Tuple6) {
    let ip = &mut frame.bytes_mut()[usize::from(headers.l3)..];
    ip[8..24].copy_from_slice(&to.src);
    ip[24..40].copy_from_slice(&to.dst);
}

/// Both ports as they stand at the beginning of a TCP, UDP or SCTP header.
fn ports(src: u16, dst: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    [a, b, c, d]
}

/// What became of a layer 4 checksum.
#[derive(PartialEq, Eq)]
enum L4Sum {
    /// It follows from what it was.
    Adjusted,
    /// UDP's sender computed none.
    None,
}

/// Writes the ports and adjusts the checksum.
#[inline]
fn rewrite_l4(
    frame: &mut Frame<'_>,
    headers: &Headers,
    ports: [u8; 4],
    delta: u16,
) -> Result<L4Sum, DropReason> {
    let l4 = l4_mut(frame, headers)?;
    let at = match headers.protocol {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Sctp => return rewrite_sctp(l4, headers, ports),
    };
    l4[..4].copy_from_slice(&ports);
    let mut sum = u16::from_be_bytes([l4[at], l4[at + 1]]);
    if headers.protocol == Protocol::Udp && sum == 0 {
        return Ok(L4Sum::None);
    }
    sum = checksum::after(sum, u32::from(delta));
    if headers.protocol == Protocol::Udp && sum == 0 {
        sum = 0xffff;
    }
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(L4Sum::Adjusted)
}

fn rewrite_sctp(l4: &mut [u8], headers: &Headers, ports: [u8; 4]) -> Result<L4Sum, DropReason> {
    let old = [l4[0], l4[1], l4[2], l4[3]];
    if old == ports {
        return Ok(L4Sum::Adjusted);
    }
    if headers.fragment {
        return Err(DropReason::NoTranslation);
    }
    l4[..4].copy_from_slice(&ports);
    let crc = u32::from_le_bytes([l4[8], l4[9], l4[10], l4[11]]);
    let following = usize::from(headers.ip_len - (headers.l4 - headers.l3)) - ports.len();
    let crc = checksum::crc32c_after(crc, old, ports, following);
    l4[8..12].copy_from_slice(&crc.to_le_bytes());
    Ok(L4Sum::Adjusted)
}

/// Computes the checksum of a UDP packet that has none, if its bytes
/// are at hand. `addresses` are the bytes of the IP header that hold them.
#[cold]
fn compute(frame: &mut Frame<'_>, headers: &Headers, addresses: std::ops::Range<usize>) {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let end = l3 + usize::from(headers.ip_len);
    if headers.fragment || end > frame.len() {
        return;
    }
    let (ip, l4) = frame.bytes_mut()[l3..end].split_at_mut(l4 - l3);
    let len = u16::from_be_bytes([l4[4], l4[5]]);
    if len < 8 {
        return;
    }
    let Some(datagram) = l4.get_mut(..usize::from(len)) else { return };
    let pseudo = checksum::pseudo_header(&ip[addresses], Protocol::Udp as u8, len);
    let sum = match !(checksum::add(pseudo, datagram) as u16) {
        0 => 0xffff,
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests;
