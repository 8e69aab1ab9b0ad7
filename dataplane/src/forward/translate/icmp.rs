//! ICMP errors between the families (RFC 7915, sections 4.2, 4.3, 5.2, 5.3).
//!
//! An error goes to who sent the packet that it quotes, so the quoted packet's
//! source is where the translated error goes. Of the quote the IP header is
//! translated (its TTL stays: it travels no further), and of layer 4 what is
//! there; the checksum becomes again what the sender wrote. Extensions behind
//! the quote (RFC 4884) are left out. A message is cut to what every path
//! carries: 1280 bytes in IPv6 (RFC 4443, section 2.4), 576 in IPv4 (RFC 1812,
//! section 4.3.2.3).

use super::ip::{self, IP4_HEADER, IP6_HEADER, Packet};
use super::layer4::{Edit, Layer4};
use super::{ETHERNET, LOWEST_IP6_MTU, Tuple4, Tuple6, place, ports};
use crate::counters::DropReason;
use crate::packet::headers::Addresses;
use crate::packet::{Frame, Headers, Protocol, checksum};

const ICMP4: u8 = 1;
const ICMP6: u8 = 58;
/// Type, code, checksum, and four bytes that differ.
const ICMP_HEADER: usize = 8;
/// What a quote holds of layer 4 at least.
const QUOTED: usize = 8;
/// The longest ICMPv4 error.
const LONGEST_ICMP4: usize = 576;
/// The smallest MTU in IPv4 (RFC 791, section 3.2).
const LOWEST_IP4_MTU: u32 = 68;

/// An ICMP error in its frame.
struct Error<'a> {
    outer: Packet,
    /// Type, code, checksum and the next four bytes.
    header: [u8; ICMP_HEADER],
    /// The quoted packet's headers, from its own start.
    inner: Packet,
    /// The quoted packet, from its IP header on.
    quote: &'a [u8],
    /// Where what is quoted of its layer 4 begins in the frame.
    layer4_at: usize,
}

/// Turns an ICMPv4 error into the ICMPv6 error that says the same.
///
/// `headers.l3` says where the IP packet is; the other headers need not be
/// known, and afterwards tell addresses, offset and length of the new packet.
/// `src` is the new source address, `quoted` what the quoted packet has in
/// IPv6, `mtu` that of the next hop. The frame's Ethernet header is then
/// undefined, as after [`to_ip6`](super::to_ip6).
///
/// # Errors
/// [`DropReason::NoTranslation`] for what is no error or has no counterpart,
/// [`DropReason::IcmpBad`], [`DropReason::TtlExpired`],
/// [`DropReason::NoHeadroom`]. Frame and headers are as they were.
pub fn icmp4_to_6(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    src: [u8; 16],
    quoted: &Tuple6,
    mtu: u16,
) -> Result<(), DropReason> {
    let error = Error::read_icmp4(frame, usize::from(headers.l3))?;
    let header = error.header6(u32::from(mtu)).ok_or(DropReason::NoTranslation)?;
    let new = quoted.address_bytes();
    let edit = error.edit(&error.quote[12..20], &new, ports(quoted.src_port, quoted.dst_port));

    let quote_at = ETHERNET + IP6_HEADER + ICMP_HEADER;
    let l4 = quote_at + error.inner.ip6_header_len();
    let tail = error.quoted_layer4().len().min(ETHERNET + LOWEST_IP6_MTU - l4);
    let Error { mut outer, inner, layer4_at, .. } = error;
    let ip_len = l4 + tail - ETHERNET;
    (outer.protocol, outer.l4, outer.len) = (ICMP6, IP6_HEADER, ip_len);
    let mut addresses = [0; 32];
    addresses[..16].copy_from_slice(&src);
    addresses[16..].copy_from_slice(&quoted.src);

    place(frame, layer4_at, l4)?;
    frame.truncate(l4 + tail);
    let bytes = frame.bytes_mut();
    let icmp_at = ETHERNET + IP6_HEADER;
    edit.apply(&mut bytes[l4..]);
    inner.write_ip6(&mut bytes[quote_at..l4], &new);
    bytes[icmp_at..quote_at].copy_from_slice(&header);
    outer.write_ip6(&mut bytes[ETHERNET..icmp_at], &addresses);
    let pseudo = u32::from(ICMP6) + (ip_len - IP6_HEADER) as u32;
    write_checksum(&mut bytes[icmp_at..], checksum::add(pseudo, &addresses));

    headers.addresses = Addresses::V6 { src, dst: quoted.src };
    finish(headers, icmp_at, ip_len);
    Ok(())
}

/// Turns an ICMPv6 error into the ICMPv4 error that says the same, with the
/// identification `id`. As [`icmp4_to_6`] otherwise.
///
/// # Errors
/// As [`icmp4_to_6`].
pub fn icmp6_to_4(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    src: u32,
    quoted: &Tuple4,
    mtu: u16,
    id: u16,
) -> Result<(), DropReason> {
    let error = Error::read_icmp6(frame, usize::from(headers.l3))?;
    let header = error.header4(u32::from(mtu)).ok_or(DropReason::NoTranslation)?;
    let new = quoted.address_bytes();
    let edit = error.edit(&error.quote[8..40], &new, ports(quoted.src_port, quoted.dst_port));

    let quote_at = ETHERNET + IP4_HEADER + ICMP_HEADER;
    let l4 = quote_at + IP4_HEADER;
    let tail = error.quoted_layer4().len().min(ETHERNET + LONGEST_ICMP4 - l4);
    let Error { mut outer, mut inner, layer4_at, .. } = error;
    let ip_len = l4 + tail - ETHERNET;
    (outer.protocol, outer.l4, outer.len, outer.id) = (ICMP4, IP4_HEADER, ip_len, id);
    outer.fragment = None;
    // What its sender wrote as identification and DF was lost on the way to
    // IPv6, except for fragments. With DF, a smaller MTU is to the point.
    inner.id = inner.fragment.map_or(0, |fragment| fragment.id as u16);
    inner.df = inner.fragment.is_none();
    let mut addresses = [0; 8];
    addresses[..4].copy_from_slice(&src.to_be_bytes());
    addresses[4..].copy_from_slice(&quoted.src.to_be_bytes());

    place(frame, layer4_at, l4)?;
    frame.truncate(l4 + tail);
    let bytes = frame.bytes_mut();
    let icmp_at = ETHERNET + IP4_HEADER;
    edit.apply(&mut bytes[l4..]);
    inner.write_ip4(&mut bytes[quote_at..l4], &new);
    bytes[icmp_at..quote_at].copy_from_slice(&header);
    outer.write_ip4(&mut bytes[ETHERNET..icmp_at], &addresses);
    write_checksum(&mut bytes[icmp_at..], 0);

    headers.addresses = Addresses::V4 { src, dst: quoted.src };
    finish(headers, icmp_at, ip_len);
    Ok(())
}

impl<'a> Error<'a> {
    fn read_icmp4(frame: &'a Frame<'_>, l3: usize) -> Result<Self, DropReason> {
        let ip = frame.bytes().get(l3..).unwrap_or_default();
        let outer = Packet::read_ip4(ip).ok_or(DropReason::Ip4BadHeader)?;
        ip::check_options(ip.get(IP4_HEADER..outer.l4).unwrap_or_default())?;
        // The length of the quote in words, where extensions follow it.
        Self::read(frame, l3, outer, (ICMP4, 0), |header| match header[0] {
            3 | 11 | 12 => usize::from(header[5]) * 4,
            _ => 0,
        })
    }

    fn read_icmp6(frame: &'a Frame<'_>, l3: usize) -> Result<Self, DropReason> {
        let ip = frame.bytes().get(l3..).unwrap_or_default();
        let outer = Packet::read_ip6(ip)?;
        let pseudo = checksum::add(u32::from(ICMP6), &ip[8..40]) + outer.payload_len() as u32;
        Self::read(frame, l3, outer, (ICMP6, pseudo), |header| match header[0] {
            1 | 3 => usize::from(header[4]) * 8,
            _ => 0,
        })
    }

    /// Reads the message behind the IP header, of this protocol and with this
    /// sum over the pseudo header. `quote_len` tells the length of the quote
    /// from the ICMP header, or 0.
    fn read(
        frame: &'a Frame<'_>,
        l3: usize,
        mut outer: Packet,
        (protocol, pseudo): (u8, u32),
        quote_len: impl FnOnce(&[u8; ICMP_HEADER]) -> usize,
    ) -> Result<Self, DropReason> {
        // One that came in segments could not be cut.
        let whole = frame.total_len() == frame.len() && !outer.is_fragment();
        if outer.protocol != protocol || !whole {
            return Err(DropReason::NoTranslation);
        }
        outer.hop()?;
        let icmp_at = l3 + outer.l4;
        let message = frame.bytes().get(icmp_at..l3 + outer.len).unwrap_or_default();
        let Some((header, mut quote)) = message.split_first_chunk::<ICMP_HEADER>() else {
            return Err(DropReason::IcmpBad);
        };
        if checksum::fold(u64::from(checksum::add(pseudo, message))) != 0xffff {
            return Err(DropReason::IcmpBad);
        }
        let is_error = if protocol == ICMP4 {
            matches!(header[0], 3 | 11 | 12)
        } else {
            matches!(header[0], 1..=4)
        };
        if !is_error {
            return Err(DropReason::NoTranslation);
        }
        match quote_len(header) {
            0 => {}
            len => quote = &quote[..len.min(quote.len())],
        }
        let inner = if protocol == ICMP4 {
            Packet::read_ip4(quote).ok_or(DropReason::IcmpBad)?
        } else {
            Packet::read_ip6(quote).map_err(|reason| match reason {
                DropReason::NoTranslation => reason,
                _ => DropReason::IcmpBad,
            })?
        };
        let later = inner.fragment.is_some_and(|fragment| fragment.offset != 0);
        if later || Protocol::from_number(inner.protocol).is_none() {
            return Err(DropReason::NoTranslation);
        }
        if inner.payload(quote).len() < QUOTED {
            return Err(DropReason::IcmpBad);
        }
        let layer4_at = icmp_at + ICMP_HEADER + inner.l4;
        Ok(Self { outer, header: *header, inner, quote, layer4_at })
    }

    fn quoted_layer4(&self) -> &'a [u8] {
        self.inner.payload(self.quote)
    }

    fn edit(&self, old_addresses: &[u8], new_addresses: &[u8], new_ports: [u8; 4]) -> Edit {
        Layer4 {
            packet: &self.inner,
            bytes: self.quoted_layer4(),
            old_addresses,
            new_addresses,
            new_ports,
        }
        .edit_of_quote()
    }

    /// The ICMPv6 header of an ICMPv4 error (RFC 7915, section 4.2), with the
    /// checksum 0.
    fn header6(&self, next_hop_mtu: u32) -> Option<[u8; ICMP_HEADER]> {
        const NO_ROUTE: (u8, u8) = (1, 0);
        const PROHIBITED: (u8, u8) = (1, 1);
        let [kind, code, _, _, pointer, _, mtu @ ..] = self.header;
        let mut word = 0;
        let (kind, code) = match (kind, code) {
            (3, 0 | 1 | 5..=8 | 11 | 12) => NO_ROUTE,
            (3, 9 | 10 | 13 | 15) => PROHIBITED,
            // The protocol is unknown: the next header field is at fault.
            (3, 2) => {
                word = 6;
                (4, 1)
            }
            (3, 3) => (1, 4),
            (3, 4) => {
                word = self.mtu6(u32::from(u16::from_be_bytes(mtu)), next_hop_mtu);
                (2, 0)
            }
            (11, 0 | 1) => (3, code),
            (12, 0 | 2) => {
                word = pointer6(pointer)?;
                (4, 0)
            }
            _ => return None,
        };
        Some(icmp_header(kind, code, word))
    }

    /// The MTU for an IPv6 sender, given that of an ICMPv4 error. A router that
    /// names none (0) leaves the next plateau below the packet's length to try
    /// (RFC 1191, section 7).
    fn mtu6(&self, reported: u32, next_hop_mtu: u32) -> u32 {
        const PLATEAUS: [u32; 7] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_280];
        const GROWN: u32 = (IP6_HEADER - IP4_HEADER) as u32;
        let lowest = LOWEST_IP6_MTU as u32;
        let ip4 = match reported {
            0 => PLATEAUS.into_iter().find(|&mtu| mtu < self.inner.len as u32).unwrap_or(lowest),
            mtu => mtu,
        };
        (ip4 + GROWN).min(next_hop_mtu).max(lowest)
    }

    /// The ICMPv4 header of an ICMPv6 error (RFC 7915, section 5.2), with the
    /// checksum 0.
    fn header4(&self, next_hop_mtu: u32) -> Option<[u8; ICMP_HEADER]> {
        const SHRUNK: u32 = (IP6_HEADER - IP4_HEADER) as u32;
        let [kind, code, _, _, word @ ..] = self.header;
        let given = u32::from_be_bytes(word);
        let mut word = 0;
        let (kind, code) = match (kind, code) {
            (1, 0 | 2 | 3) => (3, 1),
            (1, 1) => (3, 10),
            (1, 4) => (3, 3),
            (2, _) => {
                let highest = next_hop_mtu.min(u32::from(u16::MAX)).max(LOWEST_IP4_MTU);
                word = given.saturating_sub(SHRUNK).clamp(LOWEST_IP4_MTU, highest);
                (3, 4)
            }
            (3, 0 | 1) => (11, code),
            (4, 0) => {
                word = pointer4(given)? << 24;
                (12, 0)
            }
            (4, 1) => (3, 2),
            _ => return None,
        };
        Some(icmp_header(kind, code, word))
    }
}

/// The byte of an IPv6 header that means what this one of an IPv4 header does
/// (RFC 7915, section 4.2).
const fn pointer6(pointer: u8) -> Option<u32> {
    match pointer {
        0 | 1 => Some(pointer as u32),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    }
}

/// The byte of an IPv4 header that means what this one of an IPv6 header does
/// (RFC 7915, section 5.2).
const fn pointer4(pointer: u32) -> Option<u32> {
    match pointer {
        0 | 1 => Some(pointer),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}

fn icmp_header(kind: u8, code: u8, word: u32) -> [u8; ICMP_HEADER] {
    let [a, b, c, d] = word.to_be_bytes();
    [kind, code, 0, 0, a, b, c, d]
}

/// Fills in the checksum of a message that has 0 there.
fn write_checksum(message: &mut [u8], pseudo: u32) {
    let sum = !(checksum::add(pseudo, message) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}

fn finish(headers: &mut Headers, icmp_at: usize, ip_len: usize) {
    headers.l3 = ETHERNET as u16;
    headers.l4 = icmp_at as u16;
    headers.ip_len = ip_len as u16;
}
