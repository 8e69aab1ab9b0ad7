//! Packets of the tests: written and read byte by byte, without the code under
//! test.

use std::net::{IpAddr, SocketAddr};

use dataplane::packet::{Mac, Protocol};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP or UDP packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) protocol: Protocol,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    /// The flags of TCP; 0 otherwise.
    pub(crate) flags: u8,
    pub(crate) ttl: u8,
    pub(crate) payload: Vec<u8>,
}

/// What a frame that leaves the director holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) packet: Packet,
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    /// Source and destination of the tunnel that it is in.
    pub(crate) outer: Option<(IpAddr, IpAddr)>,
    /// Whether its TCP or UDP checksum is right.
    pub(crate) checksum_good: bool,
}

impl Packet {
    pub(crate) fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        Self { protocol: Protocol::Tcp, src, dst, flags, ttl: 64, payload: Vec::new() }
    }

    pub(crate) fn with_payload(mut self, payload: Vec<u8>) -> Self {
        self.payload = payload;
        self
    }

    /// The packet that answers, of the same protocol.
    pub(crate) fn answer(&self, flags: u8) -> Self {
        let (src, dst) = (self.dst, self.src);
        Self { src, dst, flags, ttl: 64, payload: Vec::new(), ..*self }
    }

    /// Length of the IP packet, which is what statistics count.
    pub(crate) fn ip_len(&self) -> u64 {
        (ip_header_len(self.src.ip()) + self.l4().len()) as u64
    }

    /// The frame that carries it, with right checksums.
    pub(crate) fn frame(&self, from: Mac, to: Mac) -> Vec<u8> {
        frame(from, to, self.src.ip(), self.dst.ip(), self.protocol as u8, self.ttl, &self.summed())
    }

    /// The TCP or UDP header and payload, with their checksum.
    pub(crate) fn summed(&self) -> Vec<u8> {
        let mut l4 = self.l4();
        let at = checksum_offset(self.protocol);
        let sum = l4_sum(self.src.ip(), self.dst.ip(), self.protocol as u8, &l4);
        // RFC 768: a computed 0 is sent as ffff.
        let sum = if sum == 0 && self.protocol == Protocol::Udp { 0xffff } else { sum };
        l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        l4
    }

    /// The same with a checksum of 0.
    fn l4(&self) -> Vec<u8> {
        let mut l4 = Vec::new();
        l4.extend(self.src.port().to_be_bytes());
        l4.extend(self.dst.port().to_be_bytes());
        if self.protocol == Protocol::Tcp {
            l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, self.flags, 0x20, 0, 0, 0, 0, 0]);
        } else {
            l4.extend((8 + self.payload.len() as u16).to_be_bytes());
            l4.extend([0, 0]);
        }
        l4.extend(&self.payload);
        l4
    }
}

/// Where the checksum stands in the header.
pub(crate) fn checksum_offset(protocol: Protocol) -> usize {
    if protocol == Protocol::Tcp { 16 } else { 6 }
}

fn ip_header_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 20 } else { 40 }
}

/// An Ethernet frame around an IP packet around `l4`.
pub(crate) fn frame(
    from: Mac,
    to: Mac,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ttl: u8,
    l4: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::from(to);
    bytes.extend(from);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            bytes.extend([0x08, 0x00]);
            let mut ip = vec![0x45, 0];
            ip.extend((20 + l4.len() as u16).to_be_bytes());
            ip.extend([0x12, 0x34, 0, 0, ttl, protocol, 0, 0]);
            ip.extend(src.octets());
            ip.extend(dst.octets());
            seal_ip4(&mut ip);
            bytes.extend(ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((l4.len() as u16).to_be_bytes());
            bytes.extend([protocol, ttl]);
            bytes.extend(src.octets());
            bytes.extend(dst.octets());
        }
        _ => panic!("addresses of two families"),
    }
    bytes.extend(l4);
    bytes
}

/// Sets the checksum of an IPv4 header.
pub(crate) fn seal_ip4(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !fold(add(0, &header[..20]));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The checksum of a TCP, UDP or ICMPv6 packet with its field as it is: with 0
/// in it what belongs there, with the right one in it 0.
pub(crate) fn l4_sum(src: IpAddr, dst: IpAddr, protocol: u8, l4: &[u8]) -> u16 {
    let mut sum = u64::from(protocol) + l4.len() as u64;
    for address in [src, dst] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    !fold(add(sum, l4))
}

/// The sum of 16-bit words, an odd byte padded with 0 (RFC 1071).
pub(crate) fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(sum, |sum, word| {
        sum + u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
    })
}

pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An IP packet as it is read.
pub(crate) struct Ip<'a> {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ttl: u8,
    pub(crate) body: &'a [u8],
}

impl<'a> Ip<'a> {
    /// Reads a packet without options and extension headers, whose length is
    /// that of `bytes` and whose header checksum is right.
    pub(crate) fn read(bytes: &'a [u8]) -> Self {
        let at = |i: usize| u16::from_be_bytes([bytes[i], bytes[i + 1]]);
        if bytes[0] >> 4 == 4 {
            assert_eq!(bytes[0], 0x45, "no options");
            assert_eq!(usize::from(at(2)), bytes.len(), "the IPv4 length");
            assert_eq!(fold(add(0, &bytes[..20])), 0xffff, "the IPv4 header checksum");
            let address = |i: usize| -> [u8; 4] { bytes[i..i + 4].try_into().unwrap() };
            Self {
                src: address(12).into(),
                dst: address(16).into(),
                protocol: bytes[9],
                ttl: bytes[8],
                body: &bytes[20..],
            }
        } else {
            assert_eq!(usize::from(at(4)) + 40, bytes.len(), "the IPv6 length");
            let address = |i: usize| -> [u8; 16] { bytes[i..i + 16].try_into().unwrap() };
            Self {
                src: address(8).into(),
                dst: address(24).into(),
                protocol: bytes[6],
                ttl: bytes[7],
                body: &bytes[40..],
            }
        }
    }
}

impl Seen {
    /// Reads a frame that carries TCP or UDP, in IPIP where that is around it.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        const IPIP: [u8; 2] = [4, 41];
        let mut ip = Ip::read(&bytes[14..]);
        let mut outer = None;
        if IPIP.contains(&ip.protocol) {
            outer = Some((ip.src, ip.dst));
            ip = Ip::read(ip.body);
        }
        let protocol = Protocol::from_number(ip.protocol).expect("TCP or UDP");
        let l4 = ip.body;
        let port = |i: usize| u16::from_be_bytes([l4[i], l4[i + 1]]);
        let (flags, header) = match protocol {
            Protocol::Tcp => (l4[13], usize::from(l4[12] >> 4) * 4),
            _ => (0, 8),
        };
        let packet = Packet {
            protocol,
            src: SocketAddr::new(ip.src, port(0)),
            dst: SocketAddr::new(ip.dst, port(2)),
            flags,
            ttl: ip.ttl,
            payload: l4[header..].to_vec(),
        };
        let checksum_good = l4_sum(ip.src, ip.dst, ip.protocol, l4) == 0;
        let mac = |i: usize| bytes[i..i + 6].try_into().unwrap();
        Self { packet, to: mac(0), from: mac(6), outer, checksum_good }
    }
}

/// The fragments of an IP packet with `l4`, each with at most `size` bytes of
/// it, a multiple of 8.
pub(crate) fn fragments(
    (from, to): (Mac, Mac),
    (src, dst): (IpAddr, IpAddr),
    protocol: Protocol,
    id: u16,
    l4: &[u8],
    size: usize,
) -> Vec<Vec<u8>> {
    let count = l4.len().div_ceil(size);
    let piece = |(number, part): (usize, &[u8])| {
        let offset = (number * size) as u16;
        let more = u16::from(number + 1 < count);
        if src.is_ipv4() {
            let mut bytes = frame(from, to, src, dst, protocol as u8, 64, part);
            bytes[18..20].copy_from_slice(&id.to_be_bytes());
            bytes[20..22].copy_from_slice(&((more << 13) | (offset / 8)).to_be_bytes());
            seal_ip4(&mut bytes[14..34]);
            bytes
        } else {
            let mut body = vec![protocol as u8, 0];
            body.extend((offset | more).to_be_bytes());
            body.extend(u32::from(id).to_be_bytes());
            body.extend(part);
            frame(from, to, src, dst, 44, 64, &body)
        }
    };
    l4.chunks(size).enumerate().map(piece).collect()
}

/// What a router says about a packet that it could not pass on, being too long:
/// the frame, to the sender of what is quoted.
pub(crate) fn too_big(from: Mac, to: Mac, router: IpAddr, about: &[u8]) -> Vec<u8> {
    const MTU: [u8; 2] = 1400_u16.to_be_bytes();
    let quoted = Ip::read(&about[14..]);
    let (mut body, protocol) = match router {
        IpAddr::V4(_) => (vec![3, 4, 0, 0, 0, 0, MTU[0], MTU[1]], 1),
        IpAddr::V6(_) => (vec![2, 0, 0, 0, 0, 0, MTU[0], MTU[1]], 58),
    };
    let most = if router.is_ipv4() { 28 } else { 400 };
    body.extend(about[14..].iter().take(most));
    let sum = match router {
        IpAddr::V4(_) => !fold(add(0, &body)),
        IpAddr::V6(_) => l4_sum(router, quoted.src, protocol, &body),
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    frame(from, to, router, quoted.src, protocol, 64, &body)
}
