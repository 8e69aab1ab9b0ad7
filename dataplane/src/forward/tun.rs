//! Tunnelling: the packet goes to the server whole, inside another one from the
//! director to the server, which unwraps it, has the VIP on an interface of its
//! own, and answers the client without the director.
//!
//! ```text
//! before  Ethernet | IP client -> VIP | TCP ...
//! after   Ethernet | IP director -> server | (UDP, GUE | GRE) | IP client -> VIP | TCP ...
//! ```
//!
//! Of the client's packet nothing changes but the TTL. The outer header takes
//! from it, as the kernel has it: the TTL that is left, the TOS (ECN "congestion
//! experienced" becomes ECT(0), RFC 3168, section 9.1), and DF while `pmtu_disc`
//! is on. The flow label is 0; so is the IPv4 id under DF.
//!
//! A packet that does not fit with its outer headers is refused, and its sender
//! told how much does, when its DF is set or it is IPv6; else the outer packet
//! is sent in fragments. Two cases differ from the kernel, both
//! where less than IPv6's least MTU is left inside a tunnel: the kernel names
//! such an MTU to an IPv6 client, which must not heed it, and drops all packets
//! for a tunnel over IPv6. Here the client is told 1,280, and what
//! is not longer is fragmented outside (RFC 2473, section 7.1; RFC 4213,
//! section 3.2.1).

mod fragment;
mod quoted;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use quoted::quoted_inner;

use crate::service::{Encapsulation, GueChecksum};

use super::{decrement_ttl, write_ethernet};
use crate::counters::DropReason;
use crate::outbox::Outbox;
use crate::packet::headers::Addresses;
use crate::packet::{Family, Frame, Headers, checksum};
use crate::service::PortHop;

/// IP protocol numbers.
const IP_IN_IP: u8 = 4;
const UDP: u8 = 17;
const IP6_IN_IP: u8 = 41;
const GRE: u8 = 47;

const UDP_HEADER: usize = 8;
/// The longest header between the two IP headers: UDP and GUE.
const LONGEST_HEADER: usize = 12;

/// What every IPv4 link carries, bytes (RFC 791, section 3.2).
const LEAST_MTU4: u16 = 68;
/// What every IPv6 link carries, bytes (RFC 8200, section 5).
const LEAST_MTU6: u16 = 1280;

/// UDP source ports of GUE, from the first to before the last: those that a
/// kernel director uses if its `ip_local_port_range` is the default.
const FLOW_PORTS: (u16, u16) = (32_768, 60_999);

/// A tunnel to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// The kind.
    pub encapsulation: Encapsulation,
    /// From the outgoing port's address to the server's.
    pub outer: Addresses,
}

impl Tunnel {
    /// A tunnel from the outgoing port's address, `source`, to the server's.
    /// `None` where these are of two families.
    #[must_use]
    pub fn new(encapsulation: Encapsulation, source: IpAddr, destination: IpAddr) -> Option<Self> {
        let outer = match (source, destination) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Addresses::V4 { src: src.into(), dst: dst.into() }
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                Addresses::V6 { src: src.octets(), dst: dst.octets() }
            }
            _ => return None,
        };
        Some(Self { encapsulation, outer })
    }

    /// Bytes that it adds to a packet.
    #[must_use]
    pub const fn overhead(&self) -> u16 {
        let ip = match self.outer {
            Addresses::V4 { .. } => 20,
            Addresses::V6 { .. } => 40,
        };
        ip + match self.encapsulation {
            Encapsulation::Ipip => 0,
            Encapsulation::Gue { .. } => 12,
            Encapsulation::Gre { checksum: false } => 4,
            Encapsulation::Gre { checksum: true } => 8,
        }
    }

    /// The outer family.
    const fn family(&self) -> Family {
        match self.outer {
            Addresses::V4 { .. } => Family::V4,
            Addresses::V6 { .. } => Family::V6,
        }
    }

    /// Whether the bytes of the inner packet are summed.
    const fn sums_payload(&self) -> bool {
        match self.encapsulation {
            Encapsulation::Ipip => false,
            Encapsulation::Gue { checksum, .. } => !matches!(checksum, GueChecksum::None),
            Encapsulation::Gre { checksum } => checksum,
        }
    }

    /// The longest inner packet that fits into `mtu`: what a client of the
    /// family is told. Not less than every link of the family carries.
    #[must_use]
    pub fn inner_mtu(&self, mtu: u16, client: Family) -> u16 {
        let least = match client {
            Family::V4 => LEAST_MTU4,
            Family::V6 => LEAST_MTU6,
        };
        mtu.saturating_sub(self.overhead()).max(least)
    }
}

/// The way of a packet to its server.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    /// The tunnel.
    pub tunnel: &'a Tunnel,
    /// Port and MAC addresses. The MTU is not read.
    pub hop: &'a PortHop,
    /// Longest outer packet, bytes: the hop's MTU, or what was learnt of the
    /// way behind it if that is less.
    pub mtu: u16,
    /// Whether the outer packet has the inner one's DF (the setting
    /// `pmtu_disc`). If not, it has none, and is fragmented where the inner one
    /// is IPv4 and too long. An IPv6 client is told in either case, as the
    /// kernel does.
    pub pmtu_disc: bool,
    /// A hash that is the same for all packets of a flow. Its upper bits make
    /// the UDP source port of GUE.
    pub flow: u32,
}

/// A worker's ids for outer packets that are or may be fragmented. No two
/// workers give out the same one, so that a server never joins fragments of
/// different packets.
#[derive(Debug)]
pub struct Ids {
    next: u32,
    step: u32,
}

impl Ids {
    /// The ids of one of so many workers (at most 32,768), from a random start.
    #[must_use]
    pub fn new(worker: usize, workers: usize, start: u32) -> Self {
        // A power of two divides the range of ids, so the low bits, which are
        // the worker's number, stay when the ids begin anew.
        let step = workers.clamp(1, 1 << 15).next_power_of_two() as u32;
        Self { next: start & !(step - 1) | worker as u32 & (step - 1), step }
    }

    /// The next one.
    pub fn take(&mut self) -> u32 {
        let id = self.next;
        self.next = id.wrapping_add(self.step);
        id
    }
}

/// How a packet leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The frame is to be sent as it now is.
    Whole,
    /// Its fragments are in the outbox; the frame has done its work.
    Fragments,
}

/// Why a packet does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too long, and its sender is to be told what fits. The frame is as it
    /// came but for the TTL, which is the one to be quoted.
    TooBig {
        /// Longest packet from the client that fits, bytes.
        mtu: u16,
    },
    /// To be dropped.
    Drop(DropReason),
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Wraps a packet and readies it for the next hop on its path.
///
/// # Errors
/// [`Refused::TooBig`]. Drops: [`DropReason::TtlExpired`], the frame as it
/// came; [`DropReason::NoHeadroom`]; [`DropReason::TooBig`] for a packet that
/// is beyond 65,535 bytes with its headers, or spread over several buffers
/// where the whole would have to be summed or fragmented, since only the first
/// is at hand; [`DropReason::TxFull`] when the outbox has no room for all
/// fragments.
pub fn forward(
    frame: &mut Frame<'_>,
    headers: &Headers,
    path: &Path<'_>,
    ids: &mut Ids,
    outbox: &mut Outbox,
) -> Result<Sent, Refused> {
    let tunnel = path.tunnel;
    decrement_ttl(frame, headers)?;
    let inner = Inner::read(frame, headers);
    let told = tunnel.inner_mtu(path.mtu, inner.family);
    let must_not_fragment = inner.family == Family::V6 || (inner.df && path.pmtu_disc);
    if inner.len > told && must_not_fragment {
        return Err(Refused::TooBig { mtu: told });
    }
    let len = inner.len.checked_add(tunnel.overhead()).ok_or(DropReason::TooBig)?;
    let fits = len <= path.mtu;
    let in_segments = frame.total_len() > frame.len();
    if in_segments && (!fits || tunnel.sums_payload()) {
        return Err(DropReason::TooBig.into());
    }

    let ethernet = path.hop.ethernet_len();
    let front = ethernet + usize::from(tunnel.overhead());
    if !frame.grow_front(front - usize::from(headers.l3)) {
        return Err(DropReason::NoHeadroom.into());
    }
    frame.truncate(ethernet + usize::from(len));
    let df = inner.df && path.pmtu_disc && fits;
    wrap(frame.bytes_mut(), &inner, path, df, ids);
    if fits {
        return Ok(Sent::Whole);
    }
    fragment::fragment(frame.bytes(), path, ids, outbox)?;
    Ok(Sent::Fragments)
}

/// What the outer headers take from the inner one.
struct Inner {
    family: Family,
    /// TOS or traffic class.
    tos: u8,
    /// TTL or hop limit, after the decrement.
    ttl: u8,
    /// False for IPv6.
    df: bool,
    /// Of the whole packet, bytes.
    len: u16,
}

impl Inner {
    fn read(frame: &Frame<'_>, headers: &Headers) -> Self {
        let ip = &frame.bytes()[usize::from(headers.l3)..];
        let (tos, ttl, df) = match headers.family() {
            Family::V4 => (ip[1], ip[8], ip[6] & 0x40 != 0),
            Family::V6 => (ip[0] << 4 | ip[1] >> 4, ip[7], false),
        };
        Self { family: headers.family(), tos, ttl, df, len: headers.ip_len }
    }

    fn outer_tos(&self) -> u8 {
        const ECN: u8 = 0b11;
        const CONGESTION_EXPERIENCED: u8 = 0b11;
        const ECT0: u8 = 0b10;
        if self.tos & ECN == CONGESTION_EXPERIENCED { self.tos & !ECN | ECT0 } else { self.tos }
    }
}

/// Writes all headers in front of the inner packet. `bytes` is the frame with
/// room for them.
fn wrap(bytes: &mut [u8], inner: &Inner, path: &Path<'_>, df: bool, ids: &mut Ids) {
    let tunnel = path.tunnel;
    let (ethernet, packet) = bytes.split_at_mut(path.hop.ethernet_len());
    write_ethernet(ethernet, tunnel.family(), path.hop);
    let overhead = usize::from(tunnel.overhead());
    let ip_header = ip_header_len(tunnel.family());
    let len = usize::from(inner.len) + overhead;
    let (ip, payload) = packet.split_at_mut(ip_header);
    let protocol = write_tunnel_header(payload, len - ip_header, inner.family, path);
    match &tunnel.outer {
        Addresses::V4 { src, dst } => {
            ip.fill(0);
            ip[0] = 0x45;
            ip[1] = inner.outer_tos();
            ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            if df {
                ip[6] = 0x40;
            } else {
                ip[4..6].copy_from_slice(&(ids.take() as u16).to_be_bytes());
            }
            ip[8] = inner.ttl;
            ip[9] = protocol;
            ip[12..16].copy_from_slice(&src.to_be_bytes());
            ip[16..20].copy_from_slice(&dst.to_be_bytes());
            write_ip4_checksum(ip);
        }
        Addresses::V6 { src, dst } => {
            let tos = inner.outer_tos();
            ip[..4].copy_from_slice(&[0x60 | tos >> 4, tos << 4, 0, 0]);
            ip[4..6].copy_from_slice(&((len - ip_header) as u16).to_be_bytes());
            ip[6] = protocol;
            ip[7] = inner.ttl;
            ip[8..24].copy_from_slice(src);
            ip[24..40].copy_from_slice(dst);
        }
    }
}

/// Length of an outer IP header: there are no options.
const fn ip_header_len(family: Family) -> usize {
    match family {
        Family::V4 => 20,
        Family::V6 => 40,
    }
}

/// Writes the checksum of an IPv4 header whose checksum field is 0.
fn write_ip4_checksum(header: &mut [u8]) {
    let checksum = !checksum::fold(checksum::add(0, header).into());
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Writes what stands between the IP headers at the beginning of the outer
/// packet's payload, which is `len` bytes long. The protocol number for the
/// outer header.
fn write_tunnel_header(payload: &mut [u8], len: usize, inner: Family, path: &Path<'_>) -> u8 {
    let (protocol, ethertype) = match inner {
        Family::V4 => (IP_IN_IP, 0x0800_u16),
        Family::V6 => (IP6_IN_IP, 0x86dd),
    };
    match path.tunnel.encapsulation {
        Encapsulation::Ipip => protocol,
        Encapsulation::Gue { port, .. } => {
            let header = &mut payload[..LONGEST_HEADER];
            header[..2].copy_from_slice(&flow_port(path.flow).to_be_bytes());
            header[2..4].copy_from_slice(&port.to_be_bytes());
            header[4..6].copy_from_slice(&(len as u16).to_be_bytes());
            header[6..8].fill(0);
            header[UDP_HEADER..].copy_from_slice(&[0, protocol, 0, 0]);
            if path.tunnel.sums_payload() {
                let pseudo = pseudo_header_sum(&path.tunnel.outer, len as u16);
                let sum = checksum::add(pseudo, &payload[..len]);
                // 0 means none, and all ones is as good (RFC 768).
                let checksum = match !checksum::fold(sum.into()) {
                    0 => 0xffff,
                    checksum => checksum,
                };
                payload[6..8].copy_from_slice(&checksum.to_be_bytes());
            }
            UDP
        }
        Encapsulation::Gre { checksum } => {
            payload[..2].copy_from_slice(&[u8::from(checksum) << 7, 0]);
            payload[2..4].copy_from_slice(&ethertype.to_be_bytes());
            if checksum {
                payload[4..8].fill(0);
                let checksum = !checksum::fold(checksum::add(0, &payload[..len]).into());
                payload[4..6].copy_from_slice(&checksum.to_be_bytes());
            }
            GRE
        }
    }
}

/// The sum of what UDP's checksum covers of the IP header (RFC 768; RFC 8200,
/// section 8.1: the same words in another order).
fn pseudo_header_sum(outer: &Addresses, udp_len: u16) -> u32 {
    let sum = u32::from(UDP) + u32::from(udp_len);
    match outer {
        Addresses::V4 { src, dst } => {
            checksum::add(checksum::add(sum, &src.to_be_bytes()), &dst.to_be_bytes())
        }
        Addresses::V6 { src, dst } => checksum::add(checksum::add(sum, src), dst),
    }
}

/// The UDP source port of a flow.
fn flow_port(flow: u32) -> u16 {
    let (first, end) = FLOW_PORTS;
    let ports = u64::from(end - first);
    first + ((u64::from(flow) * ports) >> 32) as u16
}
