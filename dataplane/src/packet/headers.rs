//! Parsing: from a frame to the few facts that forwarding needs.
//!
//! Ethernet II with at most one VLAN tag (IEEE 802.1Q, not 802.1ad), IPv4 with
//! options, IPv6 with extension headers, TCP and UDP, and ICMP errors, which may
//! be about them. What is neither, or not to one host, is the kernel's; what is malformed
//! is a [`DropReason`]. The checks are the kernel's (`ip_rcv`, `ipv6_rcv`, and
//! what IPVS reads): the UDP length and the TCP data offset are not validated.

use crate::counters::DropReason;
use crate::packet::{Frame, Key4, Key6, Mac, Tuple, Tuple4, Tuple6, checksum};
use crate::punt::PuntKind;

/// Address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The protocols that services have. The value is the IP protocol number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    /// The protocol with this IP protocol number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Length of the part of the header that must be there.
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
            Self::Sctp => 12,
        }
    }
}

/// TCP flag bits of [`Headers::tcp_flags`].
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// SCTP chunk types of [`Headers::tcp_flags`] (RFC 9260, section 3.2) that
/// change an association's state.
pub mod sctp {
    /// User data.
    pub const DATA: u8 = 0;
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// The answer, with a cookie.
    pub const INIT_ACK: u8 = 2;
    /// Ends an association at once, or refuses one.
    pub const ABORT: u8 = 6;
    /// No more data from the sender.
    pub const SHUTDOWN: u8 = 7;
    /// The answer.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// An error report.
    pub const ERROR: u8 = 9;
    /// The cookie, sent back.
    pub const COOKIE_ECHO: u8 = 10;
    /// The cookie was good.
    pub const COOKIE_ACK: u8 = 11;
    /// The end.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
    /// User data with interleaving (RFC 8260, section 2.1).
    pub const I_DATA: u8 = 64;
}

/// Source and destination address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4, as numbers.
    V4 {
        /// Source.
        src: u32,
        /// Destination.
        dst: u32,
    },
    /// IPv6, in wire order.
    V6 {
        /// Source.
        src: [u8; 16],
        /// Destination.
        dst: [u8; 16],
    },
}

/// What forwarding needs of a TCP or UDP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Source and destination.
    pub addresses: Addresses,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Source port; 0 in a fragment.
    pub src_port: u16,
    /// Destination port; 0 in a fragment.
    pub dst_port: u16,
    /// The flag byte of TCP; of SCTP the type of the chunk that tells the
    /// state: the first, or an ABORT that follows a cookie; 0 otherwise.
    pub tcp_flags: u8,
    /// Whether this is a fragment. Ports are then not read, not even in the
    /// first one.
    pub fragment: bool,
    /// Whether it is a fragment without a layer 4 header. Not for parsing to
    /// know: who learns the ports says so.
    pub later_fragment: bool,
    /// Offset of the IP header in the frame.
    pub l3: u16,
    /// Offset of the TCP or UDP header, or of a fragment's payload.
    pub l4: u16,
    /// Length of the IP packet, header included.
    pub ip_len: u16,
}

impl Headers {
    /// Those of no packet, for [`parse`] to fill in.
    pub const NONE: Self = Self {
        addresses: Addresses::V4 { src: 0, dst: 0 },
        protocol: Protocol::Tcp,
        src_port: 0,
        dst_port: 0,
        tcp_flags: 0,
        fragment: false,
        later_fragment: false,
        l3: 0,
        l4: 0,
        ip_len: 0,
    };

    /// Addresses and ports.
    #[must_use]
    pub const fn tuple(&self) -> Tuple {
        Tuple::of(&self.addresses, self.src_port, self.dst_port)
    }

    /// The headers of a packet that is treated as one with this protocol and
    /// tuple: an ICMP error as one of the connection that it is about.
    #[must_use]
    pub const fn treated_as(&self, protocol: Protocol, tuple: &Tuple) -> Self {
        let (src_port, dst_port) = tuple.ports();
        Self {
            addresses: tuple.addresses(),
            protocol,
            src_port,
            dst_port,
            tcp_flags: 0,
            fragment: false,
            later_fragment: false,
            ..*self
        }
    }

    /// Whether layer 4 follows right after the fixed part of the IP header.
    #[must_use]
    #[inline]
    pub fn is_plain(&self) -> bool {
        let fixed = match self.family() {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        self.l4 - self.l3 == fixed
    }

    /// The address family.
    #[must_use]
    pub fn family(&self) -> Family {
        match self.addresses {
            Addresses::V4 { .. } => Family::V4,
            Addresses::V6 { .. } => Family::V6,
        }
    }
}

/// What a well-formed frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// TCP or UDP to one host: possibly a service's. Its headers are filled in.
    Flow,
    /// An ICMP error to one host: possibly about a connection's packet, which
    /// [`Quoted::read`](crate::icmp::Quoted::read) finds. Addresses, offsets and
    /// length are filled in, `l4` being that of the ICMP header; there are no
    /// ports, and the protocol means nothing.
    ///
    /// Those that kernel IPVS relays: of IPv4 destination unreachable and time
    /// exceeded, of IPv6 all that are defined (types 1 to 4). Source quench,
    /// which it relays too, is obsolete (RFC 6633).
    IcmpError,
    /// For the kernel, whatever the services are.
    Kernel(PuntKind),
}

/// Length of an Ethernet header without a tag.
pub(crate) const ETHERNET: usize = 14;
/// What a VLAN tag adds to it.
pub(crate) const VLAN_TAG: usize = 4;
const ETHERTYPE_IP4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_IP6: u16 = 0x86dd;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const OSPF: u8 = 89;
const VRRP: u8 = 112;
/// Extension headers that RVS follows; hosts send at most a few.
pub(crate) const MAX_EXTENSIONS: usize = 8;

/// Parses a frame that came in on a port with the address `port_mac`. The
/// headers go where the caller keeps them: copied out through several results,
/// they would cost as much as the parsing.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn parse(
    frame: &Frame<'_>,
    port_mac: Mac,
    headers: &mut Headers,
) -> Result<Parsed, DropReason> {
    let bytes = frame.bytes();
    let Some((ethernet, _)) = bytes.split_first_chunk::<ETHERNET>() else {
        return Err(DropReason::EthShort);
    };
    let (ethertype, l3) = ethertype(bytes)?;
    if ethernet[0] & 1 != 0 {
        // Group addresses: the kernel knows which it joined.
        return Ok(Parsed::Kernel(group_kind(bytes, ethertype, l3)));
    }
    if ethernet[..6] != port_mac {
        return Err(DropReason::EthOtherHost);
    }
    match ethertype {
        ETHERTYPE_IP4 => parse_ip4(frame, l3, headers),
        ETHERTYPE_IP6 => parse_ip6(frame, l3, headers),
        ETHERTYPE_ARP => Ok(Parsed::Kernel(PuntKind::Neighbour)),
        _ => Ok(Parsed::Kernel(PuntKind::Other)),
    }
}

/// A whole TCP or UDP packet right behind an untagged Ethernet header and an IP
/// header without options or extension headers: what most packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plain<Key> {
    /// Addresses, ports and protocol.
    pub key: Key,
    /// The flag byte of TCP; of UDP ACK, which leaves a connection as it is, too.
    pub tcp_flags: u8,
    /// Length of the IP packet, header included.
    pub ip_len: u16,
}

/// Flags of [`Plain`] as those of [`Headers`].
fn flags(protocol: Protocol, tcp_flags: u8) -> u8 {
    if protocol == Protocol::Udp { 0 } else { tcp_flags }
}

impl From<Plain<Key4>> for Headers {
    #[inline]
    fn from(plain: Plain<Key4>) -> Self {
        let Plain { key, tcp_flags, ip_len } = plain;
        let Tuple4 { src, dst, src_port, dst_port } = key.tuple();
        let protocol = Protocol::from_number(key.protocol()).unwrap_or(Protocol::Tcp);
        let (l3, l4) = (ETHERNET as u16, PLAIN4 as u16);
        let tcp_flags = flags(protocol, tcp_flags);
        let addresses = Addresses::V4 { src, dst };
        Self { addresses, protocol, src_port, dst_port, tcp_flags, l3, l4, ip_len, ..Self::NONE }
    }
}

impl From<Plain<Key6>> for Headers {
    #[inline]
    fn from(plain: Plain<Key6>) -> Self {
        let Plain { key, tcp_flags, ip_len } = plain;
        let Tuple6 { src, dst, src_port, dst_port } = key.tuple();
        let protocol = Protocol::from_number(key.protocol()).unwrap_or(Protocol::Tcp);
        let (l3, l4) = (ETHERNET as u16, PLAIN6 as u16);
        let tcp_flags = flags(protocol, tcp_flags);
        let addresses = Addresses::V6 { src, dst };
        Self { addresses, protocol, src_port, dst_port, tcp_flags, l3, l4, ip_len, ..Self::NONE }
    }
}

/// Offset of layer 4 in a plain IPv4 frame, and in an IPv6 one.
pub(crate) const PLAIN4: usize = ETHERNET + 20;
pub(crate) const PLAIN6: usize = ETHERNET + 40;

/// The shortest plain frames. Such of UDP over IPv4 with less than twelve bytes
/// of payload are padded on Ethernet.
pub(crate) const SHORTEST4: usize = PLAIN4 + 20;
const SHORTEST6: usize = PLAIN6 + 8;

/// Whether [`plain_family`] says this of a frame: in one comparison less.
#[must_use]
#[inline(always)]
pub fn may_be_plain(bytes: &[u8], port_mac: Mac48, family: Family) -> bool {
    let Some(start) = bytes.first_chunk::<SHORTEST4>() else { return false };
    let ethertype = match family {
        Family::V4 => ETHERTYPE_IP4,
        Family::V6 => ETHERTYPE_IP6,
    };
    start.first_chunk().is_some_and(|mac| port_mac.is(mac))
        && start[12..14] == ethertype.to_be_bytes()
}

/// The family of a frame to `port_mac` that may be plain, by its Ethernet
/// header.
#[must_use]
#[inline(always)]
pub fn plain_family(bytes: &[u8], port_mac: Mac48) -> Option<Family> {
    let start = bytes.first_chunk::<SHORTEST4>()?;
    if !port_mac.is(start.first_chunk()?) {
        return None;
    }
    match u16::from_be_bytes([start[12], start[13]]) {
        ETHERTYPE_IP4 => Some(Family::V4),
        ETHERTYPE_IP6 => Some(Family::V6),
        _ => None,
    }
}

/// A MAC address as a number, to be compared at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mac48(u64);

impl Mac48 {
    /// What no frame has.
    pub const NONE: Self = Self(1);

    /// Whether these bytes begin with it. The two behind them are shifted out.
    #[inline(always)]
    fn is(self, start: &[u8; 8]) -> bool {
        u64::from_le_bytes(*start) << 16 == self.0
    }
}

impl From<Mac> for Mac48 {
    fn from([a, b, c, d, e, f]: Mac) -> Self {
        Self(u64::from_le_bytes([0, 0, a, b, c, d, e, f]))
    }
}

/// Reads a plain packet, of which [`plain_family`] said that it may be IPv4.
/// `None` for what is not plain, which [`parse`] tells apart. The checks are
/// those of [`parse`].
#[must_use]
#[inline(always)]
pub fn plain4(frame: &Frame<'_>) -> Option<Plain<Key4>> {
    // Version, header length; MF, the offset and the reserved bit's neighbours.
    const FIXED: u64 = u64::from_ne_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
    const PLAIN: u64 = u64::from_ne_bytes([0x45, 0, 0, 0, 0, 0, 0, 0]);
    let start = frame.bytes().first_chunk::<SHORTEST4>()?;
    if u64::from_ne_bytes(*start[ETHERNET..].first_chunk()?) & FIXED != PLAIN {
        return None;
    }
    if !frame.ip_checksum_good && !checksum::ip4_header_is_good(&start[ETHERNET..PLAIN4]) {
        return None;
    }
    if is_martian4(start[26]) {
        return None;
    }
    let ip_len = u16::from_be_bytes([start[16], start[17]]);
    if ETHERNET + usize::from(ip_len) > frame.total_len() {
        return None;
    }
    let tcp_flags = match start[ETHERNET + 9] {
        6 if ip_len >= 40 => start[PLAIN4 + 13],
        17 if ip_len >= 28 => tcp::ACK,
        _ => return None,
    };
    Some(Plain { key: key4(start)?, tcp_flags, ip_len })
}

/// The key of a plain IPv4 packet.
#[must_use]
#[inline(always)]
pub fn key4(bytes: &[u8]) -> Option<Key4> {
    let start = bytes.first_chunk::<SHORTEST4>()?;
    let (addresses, ports) = (*start[26..].first_chunk()?, *start[PLAIN4..].first_chunk()?);
    Some(Key4::of_packet(start[ETHERNET + 9], addresses, ports))
}

/// The key of a plain IPv6 packet.
#[must_use]
#[inline(always)]
pub fn key6(bytes: &[u8]) -> Option<Key6> {
    let start = bytes.first_chunk::<SHORTEST6>()?;
    let (addresses, ports) = (*start[22..].first_chunk()?, *start[PLAIN6..].first_chunk()?);
    Some(Key6::of_packet(start[ETHERNET + 6], addresses, ports))
}

/// Reads a plain packet, of which [`plain_family`] said that it may be IPv6. As
/// [`plain4`].
#[must_use]
#[inline(always)]
pub fn plain6(frame: &Frame<'_>) -> Option<Plain<Key6>> {
    let bytes = frame.bytes();
    let start = bytes.first_chunk::<SHORTEST6>()?;
    if start[14] >> 4 != 6 {
        return None;
    }
    // A martian begins with zeroes or with 0xff; few others do.
    if start[22..30] == [0; 8] || start[22] == 0xff {
        return None;
    }
    let payload_len = u16::from_be_bytes([start[18], start[19]]);
    if PLAIN6 + usize::from(payload_len) > frame.total_len() {
        return None;
    }
    let tcp_flags = match start[ETHERNET + 6] {
        6 if payload_len >= 20 => bytes.get(..PLAIN6 + 20)?[PLAIN6 + 13],
        17 if payload_len >= 8 => tcp::ACK,
        _ => return None,
    };
    Some(Plain { key: key6(start)?, tcp_flags, ip_len: payload_len.checked_add(40)? })
}

/// The VLAN id of a frame that has a tag.
#[inline]
pub(crate) fn vlan_id(bytes: &[u8]) -> Option<u16> {
    if be16(bytes, 12)? != ETHERTYPE_VLAN {
        return None;
    }
    be16(bytes, ETHERNET).map(|tag| tag & 0x0fff)
}

/// The type of the payload and where it begins. Of a tagged frame, the caller
/// knows by [`vlan_id`] which port it belongs to.
fn ethertype(bytes: &[u8]) -> Result<(u16, usize), DropReason> {
    let outer = be16(bytes, 12).ok_or(DropReason::EthShort)?;
    if outer != ETHERTYPE_VLAN {
        return Ok((outer, ETHERNET));
    }
    let inner = be16(bytes, ETHERNET + 2).ok_or(DropReason::EthShort)?;
    Ok((inner, ETHERNET + VLAN_TAG))
}

/// The kind of a frame to a group address, of which only the fixed part of the
/// IP header is looked at.
fn group_kind(bytes: &[u8], ethertype: u16, l3: usize) -> PuntKind {
    let ip = bytes.get(l3..).unwrap_or_default();
    match (ethertype, ip) {
        (ETHERTYPE_ARP, _) => PuntKind::Neighbour,
        (ETHERTYPE_IP4, [_, _, _, _, _, _, _, _, ttl, protocol, ..]) => ip_kind(*protocol, *ttl),
        (ETHERTYPE_IP6, [_, _, _, _, _, _, ICMPV6, ttl, ..]) => icmp6_kind(bytes, l3 + 40, *ttl),
        (ETHERTYPE_IP6, [_, _, _, _, _, _, protocol, ttl, ..]) => ip_kind(*protocol, *ttl),
        _ => PuntKind::Other,
    }
}

/// What no router passes on: a packet that arrives with it was sent by a
/// neighbour (RFC 5082), so no flood from afar takes the place of such packets.
const NEIGHBOURS_TTL: u8 = 255;

/// The kind of a packet that is neither TCP nor UDP. VRRP is valid with the
/// neighbours' TTL only (RFC 5798, section 5.1.1.3).
const fn ip_kind(protocol: u8, ttl: u8) -> PuntKind {
    match (protocol, ttl) {
        (OSPF, _) | (VRRP, NEIGHBOURS_TTL) => PuntKind::Routing,
        _ => PuntKind::Other,
    }
}

/// Router and neighbour solicitations and advertisements, redirects (types 133
/// to 137, valid with the neighbours' hop limit only: RFC 4861, section 6.1)
/// keep neighbours resolved; the rest is ordinary traffic.
fn icmp6_kind(bytes: &[u8], l4: usize, hop_limit: u8) -> PuntKind {
    match (bytes.get(l4), hop_limit) {
        (Some(133..=137), NEIGHBOURS_TTL) => PuntKind::Neighbour,
        _ => PuntKind::Other,
    }
}

#[inline(always)]
fn parse_ip4(frame: &Frame<'_>, l3: usize, headers: &mut Headers) -> Result<Parsed, DropReason> {
    let bytes = frame.bytes();
    let Some(header) = bytes.get(l3..).and_then(<[u8]>::first_chunk::<20>) else {
        return Err(DropReason::Ip4Truncated);
    };
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let ip_len = u16::from_be_bytes([header[2], header[3]]);
    if header[0] >> 4 != 4 || header_len < 20 || usize::from(ip_len) < header_len {
        return Err(DropReason::Ip4BadHeader);
    }
    let Some(with_options) = bytes.get(l3..l3 + header_len) else {
        return Err(DropReason::Ip4Truncated);
    };
    if l3 + usize::from(ip_len) > frame.total_len() {
        return Err(DropReason::Ip4Truncated);
    }
    if !frame.ip_checksum_good && !checksum::ip4_header_is_good(with_options) {
        return Err(DropReason::Ip4BadChecksum);
    }
    let src = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
    let dst = u32::from_be_bytes([header[16], header[17], header[18], header[19]]);
    if is_martian4((src >> 24) as u8) {
        return Err(DropReason::IpMartian);
    }
    let Some(protocol) = Protocol::from_number(header[9]) else {
        return Ok(other_ip4(bytes, header, l3, l3 + header_len, headers));
    };
    let l4 = l3 + header_len;
    headers.addresses = Addresses::V4 { src, dst };
    headers.protocol = protocol;
    // More-fragments flag and offset; only a whole datagram has both 0.
    headers.fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    headers.l3 = l3 as u16;
    headers.l4 = l4 as u16;
    headers.ip_len = ip_len;
    parse_l4(bytes, usize::from(ip_len) - header_len, headers)
}

/// What an IPv4 packet is that has no protocol of services.
#[cold]
fn other_ip4(
    bytes: &[u8],
    header: &[u8; 20],
    l3: usize,
    l4: usize,
    headers: &mut Headers,
) -> Parsed {
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let group = header[16] >= 224;
    match (header[9], bytes.get(l4)) {
        (ICMP, Some(3 | 11)) if !fragment && !group => {}
        _ => return Parsed::Kernel(ip_kind(header[9], header[8])),
    }
    *headers = Headers {
        addresses: Addresses::V4 {
            src: u32::from_be_bytes([header[12], header[13], header[14], header[15]]),
            dst: u32::from_be_bytes([header[16], header[17], header[18], header[19]]),
        },
        l3: l3 as u16,
        l4: l4 as u16,
        ip_len: u16::from_be_bytes([header[2], header[3]]),
        ..Headers::NONE
    };
    Parsed::IcmpError
}

/// By its first byte: 0/8, 127/8, and everything from 224/4 upwards is no host's
/// address.
#[inline(always)]
const fn is_martian4(first: u8) -> bool {
    MARTIANS4[first as usize]
}

/// A load instead of three comparisons.
static MARTIANS4: [bool; 256] = {
    let mut martians = [false; 256];
    (martians[0], martians[127]) = (true, true);
    let mut first = 224;
    while first < martians.len() {
        martians[first] = true;
        first += 1;
    }
    martians
};

#[inline]
fn parse_ip6(frame: &Frame<'_>, l3: usize, headers: &mut Headers) -> Result<Parsed, DropReason> {
    let bytes = frame.bytes();
    let Some(header) = bytes.get(l3..).and_then(<[u8]>::first_chunk::<40>) else {
        return Err(DropReason::Ip6Truncated);
    };
    if header[0] >> 4 != 6 {
        return Err(DropReason::Ip6BadHeader);
    }
    let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let end = l3 + 40 + payload_len;
    if end > frame.total_len() {
        return Err(DropReason::Ip6Truncated);
    }
    // 65,535 is the most that a length field says; longer ones are jumbograms
    // (RFC 2675), which no port here carries.
    let Ok(ip_len) = u16::try_from(40 + payload_len) else {
        return Err(DropReason::Ip6BadHeader);
    };
    let mut src = [0; 16];
    let mut dst = [0; 16];
    src.copy_from_slice(&header[8..24]);
    dst.copy_from_slice(&header[24..40]);
    if is_martian6(&src) {
        return Err(DropReason::IpMartian);
    }
    let chain = skip_extensions(bytes, header[6], l3 + 40, end)?;
    let Some(protocol) = Protocol::from_number(chain.protocol) else {
        let addresses = Addresses::V6 { src, dst };
        let (l3, l4) = (l3 as u16, chain.l4 as u16);
        let outer = Headers { addresses, l3, l4, ip_len, ..Headers::NONE };
        return Ok(other_ip6(bytes, &chain, header[7], &outer, headers));
    };
    headers.addresses = Addresses::V6 { src, dst };
    headers.protocol = protocol;
    headers.fragment = chain.fragment;
    headers.l3 = l3 as u16;
    headers.l4 = chain.l4 as u16;
    headers.ip_len = ip_len;
    parse_l4(bytes, end - chain.l4, headers)
}

/// What an IPv6 packet is that has no protocol of services; `outer` are its
/// headers.
#[cold]
fn other_ip6(
    bytes: &[u8],
    chain: &Chain,
    hop_limit: u8,
    outer: &Headers,
    headers: &mut Headers,
) -> Parsed {
    if chain.protocol != ICMPV6 || chain.fragment {
        return Parsed::Kernel(ip_kind(chain.protocol, hop_limit));
    }
    let group = matches!(outer.addresses, Addresses::V6 { dst: [0xff, ..], .. });
    match bytes.get(chain.l4) {
        Some(1..=4) if !group => {
            *headers = *outer;
            Parsed::IcmpError
        }
        _ => Parsed::Kernel(icmp6_kind(bytes, chain.l4, hop_limit)),
    }
}

/// Loopback, multicast, and IPv4-mapped addresses, which have no place on a
/// wire (as `ipv6_rcv` has it); `::` is for neighbour discovery, whose packets
/// go to groups.
fn is_martian6(src: &[u8; 16]) -> bool {
    let value = u128::from_be_bytes(*src);
    value <= 1 || src[0] == 0xff || value >> 32 == 0xffff
}

/// What follows the IPv6 extension headers.
struct Chain {
    protocol: u8,
    l4: usize,
    fragment: bool,
}

/// The extension header that says that a packet is a fragment.
pub(crate) const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Whether a next-header number is that of an extension header that RVS
/// follows: hop-by-hop options, routing, fragment, authentication, destination
/// options (RFC 8200, section 4).
#[inline]
pub(crate) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | FRAGMENT | AUTHENTICATION | 60)
}

/// The length of an extension header, of which these are the first bytes.
#[inline]
pub(crate) const fn extension_len(protocol: u8, header: &[u8; 8]) -> usize {
    match protocol {
        FRAGMENT => 8,
        AUTHENTICATION => (header[1] as usize + 2) * 4,
        _ => (header[1] as usize + 1) * 8,
    }
}

/// Walks the extension headers from `at`. A fragment header with offset 0 and
/// no more fragments is a whole datagram (RFC 6946).
fn skip_extensions(
    bytes: &[u8],
    mut protocol: u8,
    mut at: usize,
    end: usize,
) -> Result<Chain, DropReason> {
    for _ in 0..=MAX_EXTENSIONS {
        if !is_extension(protocol) {
            return Ok(Chain { protocol, l4: at, fragment: false });
        }
        let Some(header) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) else {
            return Err(DropReason::Ip6BadHeader);
        };
        let len = extension_len(protocol, header);
        if at + len > end {
            return Err(DropReason::Ip6BadHeader);
        }
        let next = header[0];
        if protocol == FRAGMENT && u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0 {
            return Ok(Chain { protocol: next, l4: at + len, fragment: true });
        }
        protocol = next;
        at += len;
    }
    Err(DropReason::Ip6TooManyHeaders)
}

/// Fills in what the first bytes of `l4_len` behind the IP headers say.
#[inline(always)]
fn parse_l4(bytes: &[u8], l4_len: usize, headers: &mut Headers) -> Result<Parsed, DropReason> {
    (headers.src_port, headers.dst_port, headers.tcp_flags) = (0, 0, 0);
    headers.later_fragment = false;
    if headers.fragment {
        return Ok(Parsed::Flow);
    }
    let needed = headers.protocol.header_len();
    let l4 = usize::from(headers.l4);
    let Some(header) = bytes.get(l4..l4 + needed).filter(|_| l4_len >= needed) else {
        return Err(DropReason::L4Truncated);
    };
    headers.src_port = u16::from_be_bytes([header[0], header[1]]);
    headers.dst_port = u16::from_be_bytes([header[2], header[3]]);
    headers.tcp_flags = match headers.protocol {
        Protocol::Tcp => header[13],
        Protocol::Udp => 0,
        Protocol::Sctp => chunk_type(&bytes[l4..bytes.len().min(l4 + l4_len)]),
    };
    Ok(Parsed::Flow)
}

/// The type of the SCTP chunk that tells the state: ABORT if there is one, else
/// the first chunk. 0 (DATA) when there is none.
///
/// An ABORT may be the last of several chunks (RFC 9260, sections 3.3.7 and
/// 6.10): behind control chunks, but no DATA, INIT, INIT ACK or SHUTDOWN
/// COMPLETE. It is looked for among the first 8, more than any endpoint has
/// reason to put in front of one, up to a length that cannot be.
pub(crate) fn chunk_type(packet: &[u8]) -> u8 {
    const LOOKED_AT: usize = 8;
    const HEADER: u16 = 4;
    let mut chunks = packet.get(Protocol::Sctp.header_len()..).unwrap_or_default();
    let mut first = None;
    for _ in 0..LOOKED_AT {
        let Some(&[chunk, _, high, low]) = chunks.first_chunk() else { break };
        first = first.or(Some(chunk));
        if chunk == sctp::ABORT {
            return chunk;
        }
        let is_bundled_with_abort = !matches!(
            chunk,
            sctp::DATA | sctp::I_DATA | sctp::INIT | sctp::INIT_ACK | sctp::SHUTDOWN_COMPLETE
        );
        // Without the padding that takes the next chunk to a multiple of 4.
        let len = u16::from_be_bytes([high, low]);
        if !is_bundled_with_abort || len < HEADER {
            break;
        }
        chunks = chunks.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
    }
    first.unwrap_or(sctp::DATA)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let word = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([word[0], word[1]]))
}

#[cfg(test)]
mod tests;
