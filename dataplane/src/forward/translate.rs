//! FULLNAT between the families: a packet of one family becomes the packet of
//! the other that says the same (RFC 7915, the stateful use of it: addresses
//! and ports are the connection's).
//!
//! Layer 4 stays where it is in the buffer; the IP header in front of it is
//! written anew. Where RFC 7915 leaves a choice:
//!
//! - An IPv4 packet that may be fragmented (DF 0) and does not fit as IPv6 goes
//!   in pieces ([`cut`]) as long as the next hop's MTU, not of 1280 bytes: what
//!   is behind it is told to the sender by ICMP, and sizes up to the MTU need
//!   no pieces.
//! - An IPv4 packet of up to 1260 bytes gets DF 0, a longer one DF 1 (section
//!   5.1). All have the caller's identification, except what came with a
//!   fragment header, whose low 16 bits stay.
//! - IPv6 senders are never told less than 1280 bytes, which they would not
//!   obey (section 6); packets that short go in pieces instead.
//!
//! Hop-by-hop options, destination options and used-up routing headers are left
//! out, as are IPv4 options. What cannot be said in the other family is
//! [`DropReason::NoTranslation`]: a routing header with segments left, an
//! authentication header, a UDP checksum that is missing and cannot be computed
//! (IPv4 fragments) or must not be missing (IPv6), SCTP fragments whose ports
//! change (the CRC is over the whole datagram), and a first fragment that ends
//! before its checksum.

mod icmp;
mod ip;
mod layer4;
mod pieces;

pub use icmp::{icmp4_to_6, icmp6_to_4};
pub use pieces::cut;

use crate::counters::DropReason;
use crate::packet::headers::{Addresses, ETHERNET};
use crate::packet::{Frame, Headers, Tuple4, Tuple6};
use ip::{FragmentField, IP4_HEADER, IP6_HEADER, Packet};
use layer4::Layer4;

/// What every IPv6 link carries (RFC 8200, section 5).
const LOWEST_IP6_MTU: usize = 1280;
/// The longest IPv4 packet that may be fragmented on its way (RFC 7915,
/// section 5.1): what [`LOWEST_IP6_MTU`] becomes.
const LONGEST_WITHOUT_DF: usize = LOWEST_IP6_MTU - (IP6_HEADER - IP4_HEADER);

fn ports(src: u16, dst: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (src.to_be_bytes(), dst.to_be_bytes());
    [a, b, c, d]
}

/// Whether a translated packet can leave as it is.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It fits the MTU.
    Whole,
    /// It does not, and is to go through [`cut`] once it has its Ethernet
    /// header.
    Pieces,
}

/// Why a packet was not translated. Its frame and headers are as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// To be dropped.
    Drop(DropReason),
    /// To be dropped as too big, and the sender to be told.
    TooBig {
        /// What the sender may send, in its own family.
        mtu: u16,
    },
}

impl From<DropReason> for Failure {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Turns an IPv4 packet into an IPv6 packet with these addresses and ports, one
/// less in its hop limit. `mtu` is that of the next hop.
///
/// The headers are then the new ones. The IP packet begins behind room for an
/// untagged Ethernet header, whose content is undefined: `set_ethernet` is next.
///
/// # Errors
/// [`Failure::TooBig`] when it may not be fragmented. Drops:
/// [`DropReason::TtlExpired`], [`DropReason::Ip4BadOptions`],
/// [`DropReason::Ip4SourceRoute`], [`DropReason::NoTranslation`],
/// [`DropReason::NoHeadroom`], [`DropReason::L4Truncated`], and
/// [`DropReason::TooBig`] for one to be cut whose end is in another segment.
pub fn to_ip6(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    to: &Tuple6,
    mtu: u16,
) -> Result<Fit, Failure> {
    let l3 = usize::from(headers.l3);
    let ip = frame.bytes().get(l3..).unwrap_or_default();
    let mut packet = Packet::read_ip4(ip).ok_or(DropReason::Ip4BadHeader)?;
    packet.hop()?;
    ip::check_options(ip.get(IP4_HEADER..packet.l4).unwrap_or_default())?;

    let (mtu, mut fit) = (usize::from(mtu), Fit::Whole);
    if packet.ip6_len() > mtu {
        if packet.df {
            let grown = packet.ip6_header_len() - IP4_HEADER;
            return Err(Failure::TooBig { mtu: mtu.saturating_sub(grown) as u16 });
        }
        if ip.len() < packet.len {
            return Err(DropReason::TooBig.into());
        }
        let whole = FragmentField { offset: 0, more: false, id: u32::from(packet.id) };
        packet.fragment.get_or_insert(whole);
        fit = Fit::Pieces;
    }
    let Ok(ip_len) = u16::try_from(packet.ip6_len()) else {
        return Err(DropReason::TooBig.into());
    };

    let new = to.address_bytes();
    let layer4 = Layer4 {
        packet: &packet,
        bytes: packet.payload(ip),
        old_addresses: &ip[12..20],
        new_addresses: &new,
        new_ports: ports(to.src_port, to.dst_port),
    };
    let edit = layer4.edit()?;
    let l4 = ETHERNET + packet.ip6_header_len();
    place(frame, l3 + packet.l4, l4)?;
    let bytes = frame.bytes_mut();
    packet.write_ip6(&mut bytes[ETHERNET..l4], &new);
    edit.apply(&mut bytes[l4..]);

    headers.addresses = Addresses::V6 { src: to.src, dst: to.dst };
    finish(headers, &packet, (to.src_port, to.dst_port), l4, ip_len);
    Ok(fit)
}

/// Turns an IPv6 packet into an IPv4 packet with these addresses and ports, one
/// less in its TTL, and this identification. `mtu` is that of the next hop.
///
/// The headers are then the new ones. The IP packet begins behind room for an
/// untagged Ethernet header, whose content is undefined: `set_ethernet` is next.
///
/// # Errors
/// [`Failure::TooBig`] when it is longer than what every IPv6 link carries.
/// Drops: [`DropReason::TtlExpired`], [`DropReason::NoTranslation`],
/// [`DropReason::L4Truncated`], and [`DropReason::TooBig`] for one to be cut
/// whose end is in another segment.
pub fn to_ip4(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    to: &Tuple4,
    mtu: u16,
    id: u16,
) -> Result<Fit, Failure> {
    let l3 = usize::from(headers.l3);
    let ip = frame.bytes().get(l3..).unwrap_or_default();
    let mut packet = Packet::read_ip6(ip)?;
    packet.hop()?;

    let (mtu, len, mut fit) = (usize::from(mtu), packet.ip4_len(), Fit::Whole);
    if len > mtu {
        if len > LONGEST_WITHOUT_DF {
            let mtu = (mtu + IP6_HEADER - IP4_HEADER).max(LOWEST_IP6_MTU);
            return Err(Failure::TooBig { mtu: mtu.min(usize::from(u16::MAX)) as u16 });
        }
        if ip.len() < packet.len {
            return Err(DropReason::TooBig.into());
        }
        fit = Fit::Pieces;
    }
    // A packet with a fragment header, atomic or not, may be fragmented again.
    packet.df = packet.fragment.is_none() && len > LONGEST_WITHOUT_DF;
    packet.id = packet.fragment.map_or(id, |fragment| fragment.id as u16);

    let new = to.address_bytes();
    let layer4 = Layer4 {
        packet: &packet,
        bytes: packet.payload(ip),
        old_addresses: &ip[8..40],
        new_addresses: &new,
        new_ports: ports(to.src_port, to.dst_port),
    };
    let edit = layer4.edit()?;
    let l4 = ETHERNET + IP4_HEADER;
    place(frame, l3 + packet.l4, l4)?;
    let bytes = frame.bytes_mut();
    packet.write_ip4(&mut bytes[ETHERNET..l4], &new);
    edit.apply(&mut bytes[l4..]);

    headers.addresses = Addresses::V4 { src: to.src, dst: to.dst };
    finish(headers, &packet, (to.src_port, to.dst_port), l4, len as u16);
    Ok(fit)
}

/// Moves the front of the frame so that what is at `from` is at `to`.
fn place(frame: &mut Frame<'_>, from: usize, to: usize) -> Result<(), DropReason> {
    if from >= to {
        frame.strip_front(from - to);
    } else if !frame.grow_front(to - from) {
        return Err(DropReason::NoHeadroom);
    }
    Ok(())
}

fn finish(headers: &mut Headers, packet: &Packet, ports: (u16, u16), l4: usize, ip_len: u16) {
    (headers.src_port, headers.dst_port) = if headers.fragment { (0, 0) } else { ports };
    headers.fragment = packet.is_fragment();
    headers.l3 = ETHERNET as u16;
    headers.l4 = l4 as u16;
    headers.ip_len = ip_len;
}

#[cfg(test)]
mod tests;
