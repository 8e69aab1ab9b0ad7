//! Reading ICMP errors: what they say, and about which packet.

use super::packet::{Packet, Tuple};
use super::{HEADER, pseudo_header};
use crate::counters::DropReason;
use crate::packet::headers::{Addresses, Family, Headers, Protocol};
use crate::packet::{Frame, checksum};

/// An ICMP error: what it says, and the packet that it quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quoted {
    /// The ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// The code.
    pub icmp_code: u8,
    /// The MTU of "fragmentation needed" (3/4) and "packet too big" (ICMPv6 2),
    /// as it stands there: 0 from routers older than RFC 1191. 0 in others.
    pub mtu: u32,
    /// Source and destination of the quoted packet, of the same family as the
    /// error's own.
    pub addresses: Addresses,
    /// Its IP protocol number.
    pub protocol: u8,
    /// Its ports (of a protocol without ports, what is in their place). `None`
    /// in fragments other than the first.
    pub ports: Option<(u16, u16)>,
    /// Offset of the ICMP header in the frame.
    pub icmp: u16,
    /// Offset of the quoted packet's IP header in the frame.
    pub ip: u16,
    /// Offset of what follows the quoted packet's IP headers.
    pub l4: u16,
    /// Where in the frame the quoted packet ends, as far as it is there.
    pub end: u16,
}

/// A packet that a quoted tunnel packet carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Offset of its IP header in the frame.
    pub ip: u16,
    /// Its tuple.
    pub tuple: Tuple,
}

impl Quoted {
    /// Reads the ICMP error that a frame is: one for which
    /// [`parse`](crate::packet::headers::parse) said `IcmpError`.
    ///
    /// # Errors
    /// [`DropReason::IcmpBad`] when the checksum is wrong, or when it quotes too
    /// little to tell whose packet it is about: the IP headers, and of a
    /// protocol that services have the ports, must be there.
    #[cold]
    pub fn read(frame: &Frame<'_>, headers: &Headers) -> Result<Self, DropReason> {
        let bytes = frame.bytes();
        let icmp = usize::from(headers.l4);
        let ip_end = usize::from(headers.l3) + usize::from(headers.ip_len);
        let message = bytes.get(icmp..ip_end.min(bytes.len())).ok_or(DropReason::IcmpBad)?;
        let header = message.first_chunk::<HEADER>().ok_or(DropReason::IcmpBad)?;
        // Where the end is in another segment of a long frame, the receiver
        // checks: the rewrite keeps the checksum as right or wrong as it is.
        if ip_end <= bytes.len() && !is_good(message, &headers.addresses) {
            return Err(DropReason::IcmpBad);
        }
        let end = quote_end(header, headers.family(), message.len());
        let packet = Packet::read(&message[HEADER..end]).ok_or(DropReason::IcmpBad)?;
        let same_family = matches!(
            (packet.addresses, headers.addresses),
            (Addresses::V4 { .. }, Addresses::V4 { .. })
                | (Addresses::V6 { .. }, Addresses::V6 { .. })
        );
        let needs_ports =
            Protocol::from_number(packet.protocol).is_some() && !packet.later_fragment;
        if !same_family || (needs_ports && packet.ports.is_none()) {
            return Err(DropReason::IcmpBad);
        }
        let ip = icmp + HEADER;
        Ok(Self {
            icmp_type: header[0],
            icmp_code: header[1],
            mtu: mtu(header, headers.family()),
            addresses: packet.addresses,
            protocol: packet.protocol,
            ports: packet.ports,
            icmp: icmp as u16,
            ip: ip as u16,
            l4: (ip + packet.l4) as u16,
            end: (icmp + end.min(HEADER + packet.len)).min(usize::from(u16::MAX)) as u16,
        })
    }

    /// The quoted packet's tuple, if it has one: that of a packet which the
    /// receiver of the error sent, or in whose name it was sent.
    #[must_use]
    pub fn tuple(&self) -> Option<Tuple> {
        let protocol = Protocol::from_number(self.protocol)?;
        let (src_port, dst_port) = self.ports?;
        Some(Tuple { addresses: self.addresses, protocol, src_port, dst_port })
    }

    /// The tuple of packets of the other direction: of those that the other end
    /// of the connection sends. What vip:vport sent to cip:cport belongs to the
    /// connection whose client's packets go from cip:cport to vip:vport.
    #[must_use]
    pub fn sender_key(&self) -> Option<Tuple> {
        self.tuple().map(Tuple::reversed)
    }

    /// The quoted packet, as much of it as there is.
    #[must_use]
    pub fn packet<'a>(&self, frame: &'a Frame<'_>) -> &'a [u8] {
        frame.bytes().get(usize::from(self.ip)..usize::from(self.end)).unwrap_or_default()
    }

    /// What the quoted packet carried if it was one of a tunnel: IPIP in all
    /// families, GRE with or without checksum, or, over UDP, GUE (whether the
    /// destination port is one of a tunnel is the caller's to know). `None`
    /// when too little of it is quoted to tell its ports.
    #[must_use]
    pub fn inner(&self, frame: &Frame<'_>) -> Option<Inner> {
        const IPIP: u8 = 4;
        const IP6: u8 = 41;
        const GRE: u8 = 47;
        const UDP: u8 = 17;
        if self.protocol != UDP && self.ports.is_none() {
            return None;
        }
        let l4 = frame.bytes().get(usize::from(self.l4)..usize::from(self.end))?;
        let (version, at) = match (self.protocol, l4) {
            (IPIP, _) => (4, 0),
            (IP6, _) => (6, 0),
            (GRE, [0, 0, 0x08, 0x00, ..]) => (4, 4),
            (GRE, [0, 0, 0x86, 0xdd, ..]) => (6, 4),
            (GRE, [0x80, 0, 0x08, 0x00, ..]) => (4, 8),
            (GRE, [0x80, 0, 0x86, 0xdd, ..]) => (6, 8),
            // Version 0, no control message; the length of further fields in
            // words.
            (UDP, [_, _, _, _, _, _, _, _, words @ 0..=0x1f, protocol, ..]) => {
                let version = match *protocol {
                    IPIP => 4,
                    IP6 => 6,
                    _ => return None,
                };
                (version, 12 + usize::from(*words) * 4)
            }
            _ => return None,
        };
        let inner = l4.get(at..)?;
        if inner.first()? >> 4 != version {
            return None;
        }
        let tuple = Packet::read(inner)?.tuple()?;
        Some(Inner { ip: self.l4 + at as u16, tuple })
    }

    /// The bytes of what [`Quoted::inner`] found, to be quoted in turn.
    #[must_use]
    pub fn inner_packet<'a>(&self, frame: &'a Frame<'_>, inner: &Inner) -> &'a [u8] {
        frame.bytes().get(usize::from(inner.ip)..usize::from(self.end)).unwrap_or_default()
    }
}

fn is_good(message: &[u8], addresses: &Addresses) -> bool {
    let sum = match addresses {
        Addresses::V4 { .. } => 0,
        Addresses::V6 { src, dst } => {
            checksum::add(checksum::add(pseudo_header(message.len()), src), dst)
        }
    };
    checksum::add(sum, message) == 0xffff
}

/// Where in a message the quoted packet ends: at its end, or where an extension
/// structure begins, which follows 128 bytes at least (RFC 4884, section 4).
fn quote_end(header: &[u8; HEADER], family: Family, message_len: usize) -> usize {
    let len = match (family, header[0]) {
        (Family::V4, _) => usize::from(header[5]) * 4,
        (Family::V6, 1 | 3) => usize::from(header[4]) * 8,
        (Family::V6, _) => 0,
    };
    if len >= 128 { message_len.min(HEADER + len) } else { message_len }
}

fn mtu(header: &[u8; HEADER], family: Family) -> u32 {
    match (family, header[0], header[1]) {
        (Family::V4, 3, 4) => u32::from(u16::from_be_bytes([header[6], header[7]])),
        (Family::V6, 2, _) => u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
        _ => 0,
    }
}
