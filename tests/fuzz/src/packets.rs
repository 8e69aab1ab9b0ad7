//! Well-formed packets, and whether their checksums are right: code of its own,
//! since that of the data path is what is judged.

use std::net::IpAddr;

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP of IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;
/// The UDP port of tunnels.
pub const GUE_PORT: u16 = 6080;

/// What a packet is made of.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Source and destination, of one family.
    pub addresses: (IpAddr, IpAddr),
    /// [`TCP`], [`UDP`] or [`SCTP`].
    pub protocol: u8,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// The flags of TCP; the type of the first chunk of SCTP.
    pub flags: u8,
    /// TCP options, a multiple of 4 bytes.
    pub tcp_options: Vec<u8>,
    /// IPv4 options, a multiple of 4 bytes; of IPv6, the same in a hop-by-hop
    /// header.
    pub ip_options: Vec<u8>,
    /// Payload bytes.
    pub payload: usize,
}

impl Packet {
    /// The frame to a port with this MAC.
    #[must_use]
    pub fn frame(&self, mac: [u8; 6]) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(self.ports.0.to_be_bytes());
        l4.extend(self.ports.1.to_be_bytes());
        match self.protocol {
            TCP => {
                let words = 5 + self.tcp_options.len() / 4;
                l4.extend([0, 0, 0x10, 0, 0, 0, 0x20, 0]);
                l4.extend([(words as u8) << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
                l4.extend(&self.tcp_options);
            }
            UDP => {
                l4.extend(((8 + self.payload) as u16).to_be_bytes());
                l4.extend([0, 0]);
            }
            _ => l4.extend([0, 0, 0, 1, 0, 0, 0, 0, self.flags, 0, 0, 4]),
        }
        l4.extend((0..self.payload).map(|i| i as u8));
        let mut frame = ip_frame(mac, self.addresses, self.protocol, &self.ip_options, &l4);
        fix(&mut frame);
        frame
    }
}

/// A frame with an IP packet of this content; its checksums are to be set.
#[must_use]
pub fn ip_frame(
    mac: [u8; 6],
    addresses: (IpAddr, IpAddr),
    protocol: u8,
    options: &[u8],
    content: &[u8],
) -> Vec<u8> {
    let mut frame = mac.to_vec();
    frame.extend([2, 0, 0, 0, 9, 9]);
    match addresses {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = 20 + options.len();
            let len = (header + content.len()) as u16;
            frame.extend([0x08, 0, 0x40 | (header / 4) as u8, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
            frame.extend(options);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            // A hop-by-hop header of 8, 16, ... bytes.
            let extension =
                if options.is_empty() { 0 } else { (options.len() + 2).div_ceil(8) * 8 };
            let next = if extension == 0 { protocol } else { 0 };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(((extension + content.len()) as u16).to_be_bytes());
            frame.extend([next, 64]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
            if extension > 0 {
                let start = frame.len();
                frame.extend([protocol, (extension / 8 - 1) as u8]);
                frame.extend(options);
                frame.resize(start + extension, 0);
            }
        }
        _ => unreachable!("the callers' addresses are of one family"),
    }
    frame.extend(content);
    frame
}

/// Where things are in a frame with an unfragmented IP packet.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// Offset of the IP header.
    pub l3: usize,
    /// Whether it is IPv6.
    pub v6: bool,
    /// Of layer 4.
    pub protocol: u8,
    /// Offset of layer 4.
    pub l4: usize,
    /// Where the IP packet ends.
    pub end: usize,
}

/// The layout of a frame; `None` of what is no whole IP packet, or a fragment.
#[must_use]
pub fn layout(bytes: &[u8]) -> Option<Layout> {
    let l3 = ETHERNET;
    let ip = bytes.get(l3..)?;
    let word = |at: usize| Some(usize::from(u16::from_be_bytes([*ip.get(at)?, *ip.get(at + 1)?])));
    let (v6, protocol, l4, end) = match (bytes[12], bytes[13]) {
        (0x08, 0) => {
            let header = usize::from(ip.first()? & 0xf) * 4;
            if word(6)? & 0x3fff != 0 || header < 20 {
                return None;
            }
            (false, *ip.get(9)?, l3 + header, l3 + word(2)?)
        }
        (0x86, 0xdd) => {
            let (mut next, mut at) = (*ip.get(6)?, 40);
            while matches!(next, 0 | 43 | 60) {
                (next, at) = (*ip.get(at)?, at + (usize::from(*ip.get(at + 1)?) + 1) * 8);
            }
            if next == 44 {
                return None;
            }
            (true, next, l3 + at, l3 + 40 + word(4)?)
        }
        _ => return None,
    };
    (l4 <= end && end <= bytes.len()).then_some(Layout { l3, v6, protocol, l4, end })
}

/// Sets the checksums of an unfragmented IP packet, of layer 4 too.
pub fn fix(bytes: &mut [u8]) {
    let Some(layout) = layout(bytes) else { return };
    if !layout.v6 {
        let header = &mut bytes[layout.l3..layout.l4];
        header[10..12].fill(0);
        let sum = !sum(0, header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if let Some((at, checksum)) = layer4(bytes, layout) {
        bytes[at..at + checksum.len()].copy_from_slice(&checksum);
    }
}

/// Whether the checksums of an unfragmented IP packet are right. True of
/// packets that have none.
#[must_use]
pub fn is_good(bytes: &[u8]) -> bool {
    let Some(layout) = layout(bytes) else { return true };
    if !layout.v6 && !header_is_good(&bytes[layout.l3..layout.l4]) {
        return false;
    }
    match layer4(bytes, layout) {
        None => true,
        Some((at, checksum)) => {
            let there = &bytes[at..at + checksum.len()];
            // No checksum: of UDP over IPv4 and, over IPv6, in tunnels (RFC 6935).
            let may_be_none =
                !layout.v6 || bytes[layout.l4 + 2..layout.l4 + 4] == GUE_PORT.to_be_bytes();
            let none = layout.protocol == UDP && may_be_none && there == [0, 0];
            // 0 and 0xffff are one number.
            none || there == checksum || (checksum == [0, 0] && there == [0xff, 0xff])
        }
    }
}

/// Whether the checksum of an IPv4 header is right.
#[must_use]
pub fn header_is_good(header: &[u8]) -> bool {
    sum(0, header) == 0xffff
}

/// Where the layer 4 checksum is, and what it should be.
fn layer4(bytes: &[u8], layout: Layout) -> Option<(usize, Vec<u8>)> {
    let Layout { l3, v6, protocol, l4, end } = layout;
    let offset = match protocol {
        TCP => 16,
        UDP => 6,
        ICMP if !v6 => 2,
        ICMPV6 if v6 => 2,
        SCTP => 8,
        _ => return None,
    };
    let size = if protocol == SCTP { 4 } else { 2 };
    let mut content = bytes[l4..end].to_vec();
    content.get_mut(offset..offset + size)?.fill(0);
    if protocol == SCTP {
        return Some((l4 + offset, crc32c::crc32c(&content).to_le_bytes().to_vec()));
    }
    let pseudo = match (protocol, v6) {
        (ICMP, _) => 0,
        (_, false) => sum(0, &bytes[l3 + 12..l3 + 20]),
        (_, true) => sum(0, &bytes[l3 + 8..l3 + 40]),
    };
    let pseudo = if protocol == ICMP {
        0
    } else {
        sum(sum(pseudo, &(content.len() as u32).to_be_bytes()), &[0, protocol])
    };
    let mut checksum = !sum(pseudo, &content);
    if checksum == 0 && protocol == UDP {
        checksum = 0xffff;
    }
    Some((l4 + offset, checksum.to_be_bytes().to_vec()))
}

/// The ones' complement sum (RFC 1071) of bytes, begun with another sum.
fn sum(begin: u16, bytes: &[u8]) -> u16 {
    let mut sum = u64::from(begin);
    for word in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The fragments of a frame's IP packet, cut after `first` bytes of what may be
/// cut, a multiple of 8. An IPv6 packet gets a fragment header after its fixed
/// one.
#[must_use]
pub fn fragments(bytes: &[u8], first: usize, id: u16) -> Vec<Vec<u8>> {
    let Some(Layout { l3, v6, l4, end, .. }) = layout(bytes) else { return Vec::new() };
    let start = if v6 { l3 + 40 } else { l4 };
    let cut = (start + first / 8 * 8).min(end);
    let mut pieces = Vec::new();
    for (from, to, more) in [(start, cut, true), (cut, end, false)] {
        let mut piece = bytes[..start].to_vec();
        let offset = (from - start) as u16;
        if v6 {
            let next = std::mem::replace(&mut piece[l3 + 6], 44);
            piece.extend([next, 0]);
            piece.extend((offset | u16::from(more)).to_be_bytes());
            piece.extend([0, 0]);
            piece.extend(id.to_be_bytes());
            piece[l3 + 4..l3 + 6].copy_from_slice(&((8 + to - from) as u16).to_be_bytes());
        } else {
            let len = (start - l3 + to - from) as u16;
            piece[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
            piece[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
            let flags = (offset / 8) | if more { 0x2000 } else { 0 };
            piece[l3 + 6..l3 + 8].copy_from_slice(&flags.to_be_bytes());
            piece[l3 + 10..l3 + 12].fill(0);
            let sum = !sum(0, &piece[l3..start]);
            piece[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
        }
        piece.extend(&bytes[from..to]);
        pieces.push(piece);
    }
    pieces
}

/// An ICMP error about an IP packet. `kind` is type and code, `rest` the lower
/// half of the header's second word.
#[must_use]
pub fn error(
    mac: [u8; 6],
    addresses: (IpAddr, IpAddr),
    kind: (u8, u8),
    rest: u16,
    packet: &[u8],
) -> Vec<u8> {
    let protocol = if addresses.0.is_ipv4() { ICMP } else { ICMPV6 };
    let mut content = vec![kind.0, kind.1, 0, 0, 0, 0];
    content.extend(rest.to_be_bytes());
    content.extend(packet);
    let mut frame = ip_frame(mac, addresses, protocol, &[], &content);
    fix(&mut frame);
    frame
}
