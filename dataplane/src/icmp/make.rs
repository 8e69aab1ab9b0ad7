//! ICMP errors that the director sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::Packet;
use super::{HEADER, ICMP, ICMPV6, pseudo_header};
use crate::forward::write_ethernet;
use crate::outbox::Outbox;
use crate::packet::headers::Addresses;
use crate::packet::{Family, checksum};
use crate::service::PortHop;

/// Longest IPv4 error (RFC 1812, section 4.3.2.3), bytes.
const MOST_IP4: usize = 576;
/// Longest IPv6 error: the least MTU (RFC 4443, section 2.4), bytes.
const MOST_IP6: usize = 1280;
/// Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
const TOS: u8 = 0xc0;
const TTL: u8 = 64;

/// What the sender of a packet is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// Nobody serves that port: 3/3, ICMPv6 1/4.
    PortUnreachable,
    /// No way to the server: 3/1, ICMPv6 1/3 (address unreachable).
    HostUnreachable,
    /// What a router or the server says about the way to it: type 3, ICMPv6
    /// type 1, of the same family.
    Unreachable {
        /// The code.
        code: u8,
    },
    /// TTL or hop limit used up on the way: 11/0, ICMPv6 3/0.
    TimeExceeded,
    /// Too long for the way: 3/4, ICMPv6 2/0.
    TooBig {
        /// The longest packet that the sender may send, bytes.
        mtu: u16,
    },
    /// A header field makes no sense: 12/0, ICMPv6 4 with `code`.
    ParameterProblem {
        /// Of ICMPv6 (RFC 4443, section 3.4).
        code: u8,
        /// Offset in the packet of the byte that is wrong; at most 255 in
        /// IPv4.
        pointer: u16,
    },
}

impl Error {
    /// Type, code, and the rest of the ICMP header.
    const fn header4(self) -> [u8; HEADER] {
        let (kind, code, rest) = match self {
            Self::PortUnreachable => (3, 3, [0; 4]),
            Self::HostUnreachable => (3, 1, [0; 4]),
            Self::Unreachable { code } => (3, code, [0; 4]),
            Self::TimeExceeded => (11, 0, [0; 4]),
            Self::TooBig { mtu } => (3, 4, (mtu as u32).to_be_bytes()),
            Self::ParameterProblem { pointer, .. } => (12, 0, [pointer as u8, 0, 0, 0]),
        };
        [kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]]
    }

    /// The same of ICMPv6.
    const fn header6(self) -> [u8; HEADER] {
        let (kind, code, rest) = match self {
            Self::PortUnreachable => (1, 4, 0),
            Self::HostUnreachable => (1, 3, 0),
            Self::Unreachable { code } => (1, code, 0),
            Self::TimeExceeded => (3, 0, 0),
            Self::TooBig { mtu } => (2, 0, mtu as u32),
            Self::ParameterProblem { code, pointer } => (4, code, pointer as u32),
        };
        let rest = rest.to_be_bytes();
        [kind, code, 0, 0, rest[0], rest[1], rest[2], rest[3]]
    }
}

/// Whence an error is sent, and by which way.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// Source address, of the quoted packet's family.
    pub source: IpAddr,
    /// IPv4 identification. The kernel clears DF in its errors, and so gives
    /// them one; without DF it should not repeat soon (RFC 6864).
    pub id: u16,
    /// The way to the quoted packet's sender.
    pub hop: &'a PortHop,
}

/// Puts an error about a packet into the outbox, addressed to the packet's
/// source. `quoted` begins with the packet's IP header and holds as much of the
/// packet as there is; what follows its end (padding) is not quoted.
///
/// False when there is no room, when the packet is none, or when nobody must be
/// told about it (RFC 1122, section 3.2.2; RFC 4443, section 2.4): an ICMP
/// error, a fragment other than the first, one from or to what is no host.
#[cold]
pub fn make(error: Error, quoted: &[u8], origin: &Origin<'_>, out: &mut Outbox) -> bool {
    let Some(packet) = Packet::read(quoted) else { return false };
    let quoted = &quoted[..packet.len.min(quoted.len())];
    if quoted.len() < packet.l4 || packet.later_fragment || is_error(&packet, quoted) {
        return false;
    }
    match (packet.addresses, origin.source) {
        (Addresses::V4 { src, dst }, IpAddr::V4(source)) => {
            is_host4(src)
                && !is_group4(dst)
                && make4(error, quoted, source, src, origin, out).is_some()
        }
        (Addresses::V6 { src, dst }, IpAddr::V6(source)) => {
            is_host6(&src)
                && dst[0] != 0xff
                && make6(error, quoted, source, &src, origin, out).is_some()
        }
        _ => false,
    }
}

/// Whether a packet is ICMP that nobody is told about. In IPv4 only the
/// questions and answers are known to be none; in IPv6 the first bit tells,
/// but redirects are excepted by name. One too short to tell is taken for one.
fn is_error(packet: &Packet, bytes: &[u8]) -> bool {
    const REDIRECT: u8 = 137;
    let kind = bytes.get(packet.l4).copied();
    match packet.protocol {
        ICMP => !matches!(kind, Some(0 | 8..=10 | 13..=18)),
        ICMPV6 => !matches!(kind, Some(kind) if kind >= 128 && kind != REDIRECT),
        _ => false,
    }
}

/// Neither "this network", nor loopback, nor multicast, reserved or broadcast.
const fn is_host4(address: u32) -> bool {
    !matches!(address >> 24, 0 | 127 | 224..)
}

/// Multicast, reserved or broadcast. That an address is the broadcast of some
/// network cannot be seen.
const fn is_group4(address: u32) -> bool {
    address >> 24 >= 224
}

/// Neither unspecified, nor loopback, nor multicast, nor IPv4-mapped.
fn is_host6(address: &[u8; 16]) -> bool {
    let value = u128::from_be_bytes(*address);
    value > 1 && address[0] != 0xff && value >> 32 != 0xffff
}

fn make4(
    error: Error,
    quoted: &[u8],
    source: Ipv4Addr,
    destination: u32,
    origin: &Origin<'_>,
    out: &mut Outbox,
) -> Option<()> {
    const IP: usize = 20;
    let room = MOST_IP4.min(usize::from(origin.hop.mtu)).checked_sub(IP + HEADER)?;
    let quoted = &quoted[..quoted.len().min(room)];
    let ip_len = IP + HEADER + quoted.len();
    let ethernet_len = origin.hop.ethernet_len();
    let frame = out.push(origin.hop.port, ethernet_len + ip_len)?;
    let (ethernet, ip) = frame.split_at_mut(ethernet_len);
    let (header, message) = ip.split_at_mut(IP);
    write_ethernet(ethernet, Family::V4, origin.hop);

    header.fill(0);
    header[..2].copy_from_slice(&[0x45, TOS]);
    header[2..4].copy_from_slice(&(ip_len as u16).to_be_bytes());
    header[4..6].copy_from_slice(&origin.id.to_be_bytes());
    header[8..10].copy_from_slice(&[TTL, ICMP]);
    header[12..16].copy_from_slice(&source.octets());
    header[16..].copy_from_slice(&destination.to_be_bytes());
    let sum = checksum::add(0, header);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    write_message(message, error.header4(), quoted, 0);
    Some(())
}

fn make6(
    error: Error,
    quoted: &[u8],
    source: Ipv6Addr,
    destination: &[u8; 16],
    origin: &Origin<'_>,
    out: &mut Outbox,
) -> Option<()> {
    const IP: usize = 40;
    let room = MOST_IP6.min(usize::from(origin.hop.mtu)).checked_sub(IP + HEADER)?;
    let quoted = &quoted[..quoted.len().min(room)];
    let len = HEADER + quoted.len();
    let ethernet_len = origin.hop.ethernet_len();
    let frame = out.push(origin.hop.port, ethernet_len + IP + len)?;
    let (ethernet, ip) = frame.split_at_mut(ethernet_len);
    let (header, message) = ip.split_at_mut(IP);
    write_ethernet(ethernet, Family::V6, origin.hop);

    header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    header[6..8].copy_from_slice(&[ICMPV6, TTL]);
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(destination);
    let pseudo = checksum::add(pseudo_header(len), &header[8..]);
    write_message(message, error.header6(), quoted, pseudo);
    Some(())
}

/// Writes the ICMP message; `sum` is that of what else its checksum covers.
fn write_message(message: &mut [u8], header: [u8; HEADER], quoted: &[u8], sum: u32) {
    message[..HEADER].copy_from_slice(&header);
    message[HEADER..].copy_from_slice(quoted);
    let sum = checksum::add(sum, message);
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}
