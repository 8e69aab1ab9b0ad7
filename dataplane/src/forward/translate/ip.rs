//! Reading an IP header of either family into what both can say, and writing it
//! in either.

use crate::counters::DropReason;
use crate::packet::checksum;

pub(super) const IP4_HEADER: usize = 20;
pub(super) const IP6_HEADER: usize = 40;
pub(super) const FRAGMENT_HEADER: usize = 8;
const FRAGMENT: u8 = 44;
/// As many as the parser follows.
const MAX_EXTENSIONS: usize = 8;

/// What a packet says about the fragment that it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct FragmentField {
    /// In bytes, a multiple of 8.
    pub(super) offset: u16,
    pub(super) more: bool,
    pub(super) id: u32,
}

/// An IP packet in words of both families.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    /// TOS or traffic class.
    pub(super) class: u8,
    /// TTL or hop limit.
    pub(super) ttl: u8,
    pub(super) protocol: u8,
    /// Offset of layer 4, or of a fragment's payload, from the IP header.
    pub(super) l4: usize,
    /// Length of the packet by its header, at least `l4`.
    pub(super) len: usize,
    /// Don't fragment; of an IPv6 packet, false.
    pub(super) df: bool,
    /// IPv4 identification; of an IPv6 packet, 0.
    pub(super) id: u16,
    /// IPv4: only of a fragment. IPv6: of a packet with a fragment header.
    pub(super) fragment: Option<FragmentField>,
}

impl Packet {
    /// Reads an IPv4 header. `None` where it is malformed or not all there.
    pub(super) fn read_ip4(ip: &[u8]) -> Option<Self> {
        let header = ip.first_chunk::<IP4_HEADER>()?;
        let l4 = usize::from(header[0] & 0x0f) * 4;
        let len = usize::from(be16(header, 2));
        if header[0] >> 4 != 4 || l4 < IP4_HEADER || len < l4 || ip.len() < l4 {
            return None;
        }
        let (id, field) = (be16(header, 4), be16(header, 6));
        let fragment = FragmentField {
            offset: (field & 0x1fff) << 3,
            more: field & 0x2000 != 0,
            id: u32::from(id),
        };
        Some(Self {
            class: header[1],
            ttl: header[8],
            protocol: header[9],
            l4,
            len,
            df: field & 0x4000 != 0,
            id,
            fragment: (fragment.offset != 0 || fragment.more).then_some(fragment),
        })
    }

    /// Reads an IPv6 header and the extension headers that IPv4 can do without.
    pub(super) fn read_ip6(ip: &[u8]) -> Result<Self, DropReason> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const DESTINATION: u8 = 60;
        let header = ip.first_chunk::<IP6_HEADER>().ok_or(DropReason::Ip6BadHeader)?;
        if header[0] >> 4 != 6 {
            return Err(DropReason::Ip6BadHeader);
        }
        let mut packet = Self {
            class: header[0] << 4 | header[1] >> 4,
            ttl: header[7],
            protocol: header[6],
            l4: IP6_HEADER,
            len: IP6_HEADER + usize::from(be16(header, 4)),
            df: false,
            id: 0,
            fragment: None,
        };
        for _ in 0..=MAX_EXTENSIONS {
            if !matches!(packet.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
                return Ok(packet);
            }
            let extension = ip.get(packet.l4..).and_then(<[u8]>::first_chunk::<8>);
            let extension = extension.ok_or(DropReason::Ip6BadHeader)?;
            let mut len = (usize::from(extension[1]) + 1) * 8;
            match packet.protocol {
                // Segments left.
                ROUTING if extension[3] != 0 => return Err(DropReason::NoTranslation),
                FRAGMENT => {
                    let field = be16(extension, 2);
                    let [.., a, b, c, d] = *extension;
                    packet.fragment = Some(FragmentField {
                        offset: field & 0xfff8,
                        more: field & 1 != 0,
                        id: u32::from_be_bytes([a, b, c, d]),
                    });
                    len = FRAGMENT_HEADER;
                }
                _ => {}
            }
            packet.protocol = extension[0];
            packet.l4 += len;
            if packet.l4 > packet.len {
                return Err(DropReason::Ip6BadHeader);
            }
            if packet.is_fragment() {
                // What follows is a part of the datagram. An extension header
                // there is none of the protocols that are translated.
                return Ok(packet);
            }
        }
        Err(DropReason::Ip6TooManyHeaders)
    }

    /// Takes one from the TTL.
    pub(super) fn hop(&mut self) -> Result<(), DropReason> {
        if self.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        self.ttl -= 1;
        Ok(())
    }

    /// Whether it is a part of a datagram; a fragment header alone does not
    /// make it one (RFC 6946).
    pub(super) fn is_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset != 0 || fragment.more)
    }

    /// What of its payload is at hand, given the bytes from its IP header on.
    pub(super) fn payload<'a>(&self, ip: &'a [u8]) -> &'a [u8] {
        ip.get(self.l4..self.len.min(ip.len())).unwrap_or_default()
    }

    pub(super) fn payload_len(&self) -> usize {
        self.len - self.l4
    }

    pub(super) fn ip6_header_len(&self) -> usize {
        IP6_HEADER + if self.fragment.is_some() { FRAGMENT_HEADER } else { 0 }
    }

    /// Its length as an IPv6 packet.
    pub(super) fn ip6_len(&self) -> usize {
        self.ip6_header_len() + self.payload_len()
    }

    /// Its length as an IPv4 packet.
    pub(super) fn ip4_len(&self) -> usize {
        IP4_HEADER + self.payload_len()
    }

    /// Writes it with these addresses into `out`, of [`Self::ip6_header_len`]
    /// bytes. The flow label is 0.
    pub(super) fn write_ip6(&self, out: &mut [u8], addresses: &[u8; 32]) {
        let payload_len = self.ip6_len() - IP6_HEADER;
        let next = if self.fragment.is_some() { FRAGMENT } else { self.protocol };
        out[..4].copy_from_slice(&[0x60 | self.class >> 4, self.class << 4, 0, 0]);
        // Longer than this only as the quote of a packet that never was one.
        let payload_len = u16::try_from(payload_len).unwrap_or(u16::MAX);
        out[4..6].copy_from_slice(&payload_len.to_be_bytes());
        out[6] = next;
        out[7] = self.ttl;
        out[8..40].copy_from_slice(addresses);
        if let Some(fragment) = self.fragment {
            let field = fragment.offset | u16::from(fragment.more);
            out[40..42].copy_from_slice(&[self.protocol, 0]);
            out[42..44].copy_from_slice(&field.to_be_bytes());
            out[44..48].copy_from_slice(&fragment.id.to_be_bytes());
        }
    }

    /// Writes it with these addresses into `out`, of [`IP4_HEADER`] bytes.
    pub(super) fn write_ip4(&self, out: &mut [u8], addresses: &[u8; 8]) {
        // Longer than this only as the quote of an IPv6 packet that IPv4 could
        // not have carried.
        let len = u16::try_from(self.ip4_len()).unwrap_or(u16::MAX);
        let mut field = u16::from(self.df) << 14;
        if let Some(fragment) = self.fragment {
            field |= fragment.offset >> 3 | u16::from(fragment.more) << 13;
        }
        out[..2].copy_from_slice(&[0x45, self.class]);
        out[2..4].copy_from_slice(&len.to_be_bytes());
        out[4..6].copy_from_slice(&self.id.to_be_bytes());
        out[6..8].copy_from_slice(&field.to_be_bytes());
        out[8..10].copy_from_slice(&[self.ttl, self.protocol]);
        out[12..20].copy_from_slice(addresses);
        write_ip4_checksum(out);
    }
}

/// Computes the checksum of an IPv4 header.
pub(super) fn write_ip4_checksum(header: &mut [u8]) {
    header[10..12].fill(0);
    let sum = !(checksum::add(0, header) as u16);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Whether IPv4 options let a packet be translated: they are left out, except a
/// source route that is not used up, which forbids it (RFC 7915, section 4.1).
pub(super) fn check_options(mut options: &[u8]) -> Result<(), DropReason> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    loop {
        options = match *options {
            [] | [END, ..] => return Ok(()),
            [NOTHING, ref rest @ ..] => rest,
            // Their third byte points at the next address, counted from 1.
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, len, pointer, ..] if pointer <= len => {
                return Err(DropReason::Ip4SourceRoute);
            }
            [_, len, ..] if len >= 2 => {
                options.get(usize::from(len)..).ok_or(DropReason::Ip4BadOptions)?
            }
            _ => return Err(DropReason::Ip4BadOptions),
        };
    }
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
