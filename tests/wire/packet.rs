//! Packets as rows of the tables write them: fields that are stated, and bytes
//! that are computed from the whole each time. Nothing here is the code under
//! test: lengths and checksums are this file's own arithmetic.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// IP protocol numbers.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IP6_FRAGMENT: u8 = 44;
const GRE: u8 = 47;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;

/// An IP packet. What a field does not say in the packet's family is not
/// written.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// TOS or traffic class.
    tos: u8,
    pub(crate) ttl: u8,
    /// IPv4.
    id: u16,
    df: bool,
    options: Vec<u8>,
    header_sum: Sum,
    /// IPv6.
    flow_label: u32,
    /// Number and bytes, the first of which, the next header, is filled in.
    extensions: Vec<(u8, Vec<u8>)>,
    /// Which bytes of layer 4 it has, where not all, and the id of IPv6's
    /// fragment header.
    piece: Option<(Range<usize>, u32)>,
    pub(crate) layer4: Layer4,
    /// What follows the IP packet in its frame.
    trailer: Vec<u8>,
    /// A VLAN tag.
    tag: Option<u16>,
}

/// What an IP packet carries.
#[derive(Debug, Clone)]
pub(crate) struct Layer4 {
    kind: Kind,
    src_port: u16,
    dst_port: u16,
    payload: Vec<u8>,
    sum: Sum,
}

#[derive(Debug, Clone)]
enum Kind {
    Tcp {
        seq: u32,
        ack: u32,
        flags: u8,
        options: Vec<u8>,
    },
    Udp,
    Sctp,
    Icmp {
        header: [u8; 8],
    },
    /// GUE, whose source port is any of the range that flows get.
    Gue,
    Raw(u8),
}

/// A checksum.
#[derive(Debug, Clone, Copy)]
enum Sum {
    Right,
    /// Wrong by a one's complement difference of 16 bits (SCTP: by an XOR).
    Wrong(u32),
    Literal(u16),
}

/// The flags of a TCP segment from letters: S, A, F, R, P.
fn flags(letters: &str) -> u8 {
    letters.chars().fold(0, |bits, letter| {
        bits | match letter {
            'F' => 1,
            'S' => 2,
            'R' => 4,
            'P' => 8,
            'A' => 16,
            other => panic!("no flag {other}"),
        }
    })
}

fn packet(src: IpAddr, dst: IpAddr, layer4: Layer4) -> Packet {
    Packet {
        src,
        dst,
        tos: 0x28,
        ttl: 64,
        id: 0x2a2a,
        df: true,
        options: Vec::new(),
        header_sum: Sum::Right,
        flow_label: 0x1_2345,
        extensions: Vec::new(),
        piece: None,
        layer4,
        trailer: Vec::new(),
        tag: None,
    }
}

fn between(src: SocketAddr, dst: SocketAddr, kind: Kind, payload: &[u8]) -> Packet {
    let (src_port, dst_port) = (src.port(), dst.port());
    let payload = payload.to_vec();
    let layer4 = Layer4 { kind, src_port, dst_port, payload, sum: Sum::Right };
    packet(src.ip(), dst.ip(), layer4)
}

/// A TCP segment with these flags.
pub(crate) fn tcp(src: SocketAddr, dst: SocketAddr, letters: &str) -> Packet {
    let ack = if letters.contains('A') { 5001 } else { 0 };
    let kind = Kind::Tcp { seq: 1000, ack, flags: flags(letters), options: Vec::new() };
    between(src, dst, kind, b"")
}

/// A UDP datagram of 5 bytes.
pub(crate) fn udp(src: SocketAddr, dst: SocketAddr) -> Packet {
    between(src, dst, Kind::Udp, b"hello")
}

/// An SCTP packet with one chunk of this type.
pub(crate) fn sctp(src: SocketAddr, dst: SocketAddr, chunk: u8) -> Packet {
    between(
        src,
        dst,
        Kind::Sctp,
        &[chunk, 0, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3, 4, 5, 6],
    )
}

/// An ICMP message: type and code of its family, the second word, the body.
pub(crate) fn icmp(
    (src, dst): (IpAddr, IpAddr),
    (kind, code): (u8, u8),
    word: u32,
    body: &[u8],
) -> Packet {
    let [a, b, c, d] = word.to_be_bytes();
    let kind = Kind::Icmp { header: [kind, code, 0, 0, a, b, c, d] };
    let payload = body.to_vec();
    let layer4 = Layer4 { kind, src_port: 0, dst_port: 0, payload, sum: Sum::Right };
    packet(src, dst, layer4)
}

impl Packet {
    pub(crate) fn from(mut self, src: SocketAddr) -> Self {
        (self.src, self.layer4.src_port) = (src.ip(), src.port());
        self
    }

    pub(crate) fn to(mut self, dst: SocketAddr) -> Self {
        (self.dst, self.layer4.dst_port) = (dst.ip(), dst.port());
        self
    }

    /// Another destination, layer 4 as it is.
    pub(crate) fn at_address(self, dst: IpAddr) -> Self {
        Self { dst, ..self }
    }

    pub(crate) fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    /// After one more router.
    pub(crate) fn hop(self) -> Self {
        let ttl = self.ttl - 1;
        self.ttl(ttl)
    }

    pub(crate) fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    pub(crate) fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    /// Sets the flow label.
    pub(crate) fn label(self, flow_label: u32) -> Self {
        Self { flow_label, ..self }
    }

    pub(crate) fn df(self, df: bool) -> Self {
        Self { df, ..self }
    }

    pub(crate) fn has_df(&self) -> bool {
        self.src.is_ipv4() && self.df
    }

    pub(crate) fn ip_options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    /// Puts an IPv6 extension header behind those that are there.
    pub(crate) fn extension(mut self, number: u8, bytes: &[u8]) -> Self {
        self.extensions.push((number, bytes.to_vec()));
        self
    }

    pub(crate) fn without_extensions(self) -> Self {
        Self { extensions: Vec::new(), ..self }
    }

    /// An IPv4 header checksum that is wrong.
    pub(crate) fn bad_header_sum(self) -> Self {
        Self { header_sum: Sum::Wrong(0x1000), ..self }
    }

    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.layer4.payload = payload.to_vec();
        self
    }

    /// Makes the IP packet this long, by a payload of counting bytes.
    pub(crate) fn ip_len(mut self, len: usize) -> Self {
        self.layer4.payload.clear();
        let count = len - self.ip().len();
        self.layer4.payload = (0..count).map(|i| i as u8).collect();
        self
    }

    pub(crate) fn take_payload(self) -> Vec<u8> {
        self.layer4.payload
    }

    pub(crate) fn seq(mut self, number: u32) -> Self {
        if let Kind::Tcp { seq, .. } = &mut self.layer4.kind {
            *seq = number;
        }
        self
    }

    pub(crate) fn ack(mut self, number: u32) -> Self {
        if let Kind::Tcp { ack, .. } = &mut self.layer4.kind {
            *ack = number;
        }
        self
    }

    pub(crate) fn tcp_options(mut self, bytes: &[u8]) -> Self {
        if let Kind::Tcp { options, .. } = &mut self.layer4.kind {
            *options = bytes.to_vec();
        }
        self
    }

    /// A layer 4 checksum that is wrong by so much.
    pub(crate) fn sum_wrong_by(mut self, error: u16) -> Self {
        self.layer4.sum = Sum::Wrong(error.into());
        self
    }

    /// SCTP with a CRC that is wrong by as much as 0 would be for `other`.
    pub(crate) fn crc_as_wrong_as_0_is_for(mut self, other: &Self) -> Self {
        let mut bytes = other.layer4();
        bytes[8..12].fill(0);
        self.layer4.sum = Sum::Wrong(crc32c(&bytes));
        self
    }

    pub(crate) fn sum(mut self, sum: u16) -> Self {
        self.layer4.sum = Sum::Literal(sum);
        self
    }

    /// Its checksum field holds what `other`'s does, be it right here or not.
    pub(crate) fn with_sum_of(self, other: &Self) -> Self {
        let at = match other.layer4.kind {
            Kind::Tcp { .. } => 16,
            Kind::Udp => 6,
            _ => return self,
        };
        let layer4 = other.layer4();
        self.sum(u16::from_be_bytes([layer4[at], layer4[at + 1]]))
    }

    /// Chooses the last two bytes of the payload so that the checksum comes out
    /// as 0 (UDP: as all ones).
    pub(crate) fn sum_of_zero(mut self) -> Self {
        let at = self.layer4.payload.len() - 2;
        assert!(at % 2 == 0, "an even payload");
        self.layer4.payload[at..].fill(0);
        let right = !add(add(self.pseudo(self.protocol()), &self.header()), &self.layer4.payload);
        self.layer4.payload[at..].copy_from_slice(&right.to_be_bytes());
        self
    }

    fn is_udp(&self) -> bool {
        matches!(self.layer4.kind, Kind::Udp | Kind::Gue)
    }

    /// The frame has these bytes behind the IP packet.
    pub(crate) fn trailer(self, bytes: &[u8]) -> Self {
        Self { trailer: bytes.to_vec(), ..self }
    }

    pub(crate) fn tag(self, tag: u16) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// The first fragment of a datagram of which this is not all.
    pub(crate) fn with_more(mut self, id: u32) -> Self {
        let len = self.layer4.payload.len();
        self.layer4.payload.push(0);
        Self { piece: Some((0..len, id)), df: false, ..self }
    }

    /// The packet in fragments whose payloads have these lengths, and one with
    /// the rest.
    pub(crate) fn fragments(&self, lengths: &[usize], id: u32) -> Vec<Self> {
        let mut at = 0;
        let rest = self.layer4().len() - lengths.iter().sum::<usize>();
        let pieces = lengths.iter().copied().chain([rest]).map(|len| {
            let piece = Some((at..at + len, id));
            at += len;
            Self { piece, df: false, id: id as u16, ..self.clone() }
        });
        pieces.collect()
    }

    /// An IPv6 packet with a fragment header that is a whole datagram.
    pub(crate) fn atomic(self, id: u32) -> Self {
        let piece = Some((0..self.layer4().len(), id));
        Self { piece, ..self }
    }

    /// The IP packet's first bytes, as ICMP quotes them: up to so many of what
    /// follows the IP header.
    pub(crate) fn quote(&self, layer4: usize) -> Vec<u8> {
        let mut bytes = self.ip();
        bytes.truncate(bytes.len() - self.piece().len() + layer4);
        bytes
    }

    /// This packet in an IP packet from one to the other.
    pub(crate) fn in_ip(&self, src: IpAddr, dst: IpAddr) -> Self {
        self.inside(src, dst, raw(self.number(), &self.ip()))
    }

    /// The same with a GRE header.
    pub(crate) fn in_gre(&self, src: IpAddr, dst: IpAddr, with_sum: bool) -> Self {
        let ethertype = if self.src.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        let mut bytes = vec![u8::from(with_sum) << 7, 0, ethertype[0], ethertype[1]];
        if with_sum {
            bytes.extend([0; 4]);
        }
        bytes.extend(self.ip());
        if with_sum {
            let sum = !add(0, &bytes);
            bytes[4..6].copy_from_slice(&sum.to_be_bytes());
        }
        self.inside(src, dst, raw(GRE, &bytes))
    }

    /// The same with UDP and GUE, from any of the ports that flows get.
    pub(crate) fn in_gue(&self, src: IpAddr, dst: SocketAddr, with_sum: bool) -> Self {
        let payload = [&[0, self.number(), 0, 0][..], &self.ip()].concat();
        let sum = if with_sum { Sum::Right } else { Sum::Literal(0) };
        let layer4 = Layer4 { kind: Kind::Gue, src_port: 0, dst_port: dst.port(), payload, sum };
        self.inside(src, dst.ip(), layer4)
    }

    /// This IP header in front of other bytes.
    pub(crate) fn raw(self, protocol: u8, bytes: &[u8]) -> Self {
        Self { layer4: raw(protocol, bytes), ..self }
    }

    /// Its IPv4 identification.
    pub(crate) fn own_id(&self) -> u16 {
        self.id
    }

    fn number(&self) -> u8 {
        if self.src.is_ipv4() { 4 } else { 41 }
    }

    /// What an outer header takes from the inner one is the row's to say.
    fn inside(&self, src: IpAddr, dst: IpAddr, layer4: Layer4) -> Self {
        let new = packet(src, dst, layer4);
        Self { tos: self.tos, ttl: self.ttl, df: self.df, id: 0, flow_label: 0, ..new }
    }

    fn protocol(&self) -> u8 {
        match self.layer4.kind {
            Kind::Tcp { .. } => TCP,
            Kind::Udp | Kind::Gue => UDP,
            Kind::Sctp => SCTP,
            Kind::Icmp { .. } if self.src.is_ipv4() => ICMP,
            Kind::Icmp { .. } => ICMPV6,
            Kind::Raw(protocol) => protocol,
        }
    }

    /// Layer 4's header with a checksum of 0.
    fn header(&self) -> Vec<u8> {
        let l4 = &self.layer4;
        let mut bytes = [l4.src_port.to_be_bytes(), l4.dst_port.to_be_bytes()].concat();
        match &l4.kind {
            Kind::Tcp { seq, ack, flags, options } => {
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([(5 + options.len() as u8 / 4) << 4, *flags, 0xfa, 0xf0, 0, 0, 0, 0]);
                bytes.extend(options);
            }
            Kind::Udp | Kind::Gue => {
                bytes.extend((8 + l4.payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
            }
            Kind::Sctp => bytes.extend([0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0]),
            Kind::Icmp { header } => bytes = header.to_vec(),
            Kind::Raw(_) => bytes.clear(),
        }
        bytes
    }

    /// The sum of the pseudo header (RFC 9293, section 3.1; RFC 8200, section
    /// 8.1).
    fn pseudo(&self, protocol: u8) -> u16 {
        let len = self.header().len() + self.layer4.payload.len();
        let sum = add(0, &[0, protocol]);
        let sum = add(sum, &(len as u16).to_be_bytes());
        add(add(sum, &octets(self.src)), &octets(self.dst))
    }

    /// Layer 4's header and payload.
    pub(crate) fn layer4(&self) -> Vec<u8> {
        let l4 = &self.layer4;
        let mut bytes = self.header();
        bytes.extend(&l4.payload);
        let (at, pseudo) = match l4.kind {
            Kind::Tcp { .. } => (16, self.pseudo(TCP)),
            Kind::Udp | Kind::Gue => (6, self.pseudo(UDP)),
            Kind::Icmp { .. } if self.src.is_ipv4() => (2, 0),
            Kind::Icmp { .. } => (2, self.pseudo(ICMPV6)),
            Kind::Sctp => {
                let error = if let Sum::Wrong(error) = l4.sum { error } else { 0 };
                let crc = match l4.sum {
                    Sum::Literal(sum) => u32::from(sum),
                    _ => crc32c(&bytes) ^ error,
                };
                bytes[8..12].copy_from_slice(&crc.to_le_bytes());
                return bytes;
            }
            Kind::Raw(_) => return bytes,
        };
        let sum = match (l4.sum, !add(pseudo, &bytes)) {
            (Sum::Literal(sum), _) => sum,
            (Sum::Wrong(error), right) => add(right, &(error as u16).to_be_bytes()),
            // 0 says that there is none (RFC 768).
            (Sum::Right, 0) if self.is_udp() => 0xffff,
            (Sum::Right, right) => right,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// What of layer 4 it has.
    fn piece(&self) -> Vec<u8> {
        let whole = self.layer4();
        match &self.piece {
            Some((piece, _)) => whole[piece.clone()].to_vec(),
            None => whole,
        }
    }

    /// The offset of its layer 4, and whether more follows.
    fn place(&self) -> (u16, bool) {
        let whole = self.layer4().len();
        self.piece.as_ref().map_or((0, false), |(p, _)| (p.start as u16, p.end < whole))
    }

    /// The IP packet.
    pub(crate) fn ip(&self) -> Vec<u8> {
        let layer4 = self.piece();
        let mut bytes = if self.src.is_ipv4() {
            self.header4(layer4.len())
        } else {
            self.header6(layer4.len())
        };
        bytes.extend(layer4);
        bytes
    }

    fn header4(&self, payload: usize) -> Vec<u8> {
        let len = 20 + self.options.len();
        let (offset, more) = self.place();
        let place = (offset / 8) | (u16::from(more) << 13) | (u16::from(self.df) << 14);
        let mut bytes = vec![0x40 + (len / 4) as u8, self.tos];
        bytes.extend(((len + payload) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(place.to_be_bytes());
        bytes.extend([self.ttl, self.protocol(), 0, 0]);
        bytes.extend(octets(self.src));
        bytes.extend(octets(self.dst));
        bytes.extend(&self.options);
        let right = !add(0, &bytes);
        let sum = match self.header_sum {
            Sum::Wrong(error) => add(right, &error.to_be_bytes()),
            _ => right,
        };
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn header6(&self, payload: usize) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        if let Some((_, id)) = self.piece {
            let (offset, more) = self.place();
            let place = (offset | u16::from(more)).to_be_bytes();
            let id = id.to_be_bytes();
            chain.push((IP6_FRAGMENT, [&[0, 0][..], &place, &id].concat()));
        }
        let numbers: Vec<_> = chain.iter().map(|(n, _)| *n).chain([self.protocol()]).collect();
        for ((_, bytes), next) in chain.iter_mut().zip(&numbers[1..]) {
            bytes[0] = *next;
        }
        let chain: Vec<u8> = chain.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let first = (6 << 28) | (u32::from(self.tos) << 20) | self.flow_label;
        let mut bytes = first.to_be_bytes().to_vec();
        bytes.extend(((chain.len() + payload) as u16).to_be_bytes());
        bytes.extend([numbers[0], self.ttl]);
        bytes.extend(octets(self.src));
        bytes.extend(octets(self.dst));
        bytes.extend(chain);
        bytes
    }

    /// The frame with these MAC addresses.
    pub(crate) fn frame(&self, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
        let mut bytes = [dst, src].concat();
        if let Some(tag) = self.tag {
            bytes.extend([0x81, 0]);
            bytes.extend(tag.to_be_bytes());
        }
        bytes.extend(if self.src.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        bytes.extend(self.ip());
        bytes.extend(&self.trailer);
        bytes
    }

    /// Takes the source port of GUE from an untagged frame that was sent. False
    /// where that is none of those that flows get.
    pub(crate) fn take_flow_port(&mut self, sent: &[u8]) -> bool {
        let Kind::Gue = self.layer4.kind else { return true };
        if self.place().0 > 0 {
            return true;
        }
        let at = 14 + self.ip().len() - self.piece().len();
        let Some(&[high, low]) = sent.get(at..at + 2) else { return false };
        self.layer4.src_port = u16::from_be_bytes([high, low]);
        (32_768..60_999).contains(&self.layer4.src_port)
    }

    /// The source port of GUE: that of the flow, which is seen when it sends
    /// first.
    pub(crate) fn flow_port(&mut self, flow: &mut Option<u16>) -> Option<u16> {
        let Kind::Gue = self.layer4.kind else { return None };
        if self.place().0 > 0 {
            self.layer4.src_port = flow.unwrap_or_default();
        }
        Some(self.layer4.src_port)
    }
}

/// An ICMP error that the director makes: type and code of either family.
pub(crate) type Error = ((u8, u8), (u8, u8));

pub(crate) const NO_PORT: Error = ((3, 3), (1, 4));
pub(crate) const NO_HOST: Error = ((3, 1), (1, 3));
pub(crate) const TTL_OVER: Error = ((11, 0), (3, 0));
pub(crate) const TOO_BIG: Error = ((3, 4), (2, 0));
pub(crate) const BAD_HEADER: Error = ((12, 0), (4, 0));

/// An ICMP error that the director makes about `packet`, its first since the
/// start.
pub(crate) fn told(from: IpAddr, error: Error, word: u32, packet: &Packet) -> Packet {
    let (code, most, tos) = match from {
        IpAddr::V4(_) => (error.0, 576 - 28, 0xc0),
        IpAddr::V6(_) => (error.1, 1280 - 48, 0),
    };
    let mut quote = packet.ip();
    quote.truncate(most);
    let made = icmp((from, packet.src), code, word, &quote);
    Packet { tos, id: 1000, df: false, flow_label: 0, ..made }
}

fn raw(protocol: u8, bytes: &[u8]) -> Layer4 {
    let payload = bytes.to_vec();
    Layer4 { kind: Kind::Raw(protocol), src_port: 0, dst_port: 0, payload, sum: Sum::Right }
}

pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// One's complement sum, folded, of a sum and of big-endian words (RFC 1071).
fn add(sum: u16, bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).fold(sum, |sum, pair| {
        let sum = u32::from(sum) + word(pair);
        (sum & 0xffff) as u16 + (sum >> 16) as u16
    })
}

/// CRC32c (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ 0x82f6_3b78 }
        })
    })
}
