//! What translation changes at layer 4: the ports, and the checksum over them
//! and over the addresses.
//!
//! A checksum is not computed anew but moved by what changed, so a wrong one
//! stays wrong by as much ([`checksum::after`], [`checksum::crc32c_after`]).
//! Both families' pseudo headers differ in the addresses only, as length and
//! protocol add up to the same; SCTP's CRC32c covers no addresses.

use super::ip::{Packet, be16};
use crate::counters::DropReason;
use crate::packet::{Protocol, checksum};

/// A packet whose layer 4 is to be translated.
pub(super) struct Layer4<'a> {
    pub(super) packet: &'a Packet,
    /// Its payload, as far as it is at hand.
    pub(super) bytes: &'a [u8],
    /// Source and destination as they are, in wire order.
    pub(super) old_addresses: &'a [u8],
    /// As they will be.
    pub(super) new_addresses: &'a [u8],
    /// Source and destination port as they will be.
    pub(super) new_ports: [u8; 4],
}

/// New bytes for layer 4.
pub(super) struct Edit {
    ports: Option<[u8; 4]>,
    checksum: Checksum,
}

enum Checksum {
    Keep,
    Sum {
        at: usize,
        value: u16,
    },
    /// At [`SCTP_CRC`].
    Crc(u32),
}

/// Offsets of the checksums.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const SCTP_CRC: usize = 8;

impl Edit {
    const NOTHING: Self = Self { ports: None, checksum: Checksum::Keep };

    /// Writes it. `bytes` are those that it was made for.
    pub(super) fn apply(&self, bytes: &mut [u8]) {
        if let Some(ports) = self.ports {
            bytes[..4].copy_from_slice(&ports);
        }
        match self.checksum {
            Checksum::Keep => {}
            Checksum::Sum { at, value } => {
                bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
            }
            // RFC 9260, appendix A: the CRC is stored lowest byte first.
            Checksum::Crc(value) => {
                bytes[SCTP_CRC..SCTP_CRC + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

impl Layer4<'_> {
    /// The edit of a packet that goes on. Nothing for later fragments, which
    /// have neither ports nor checksum.
    pub(super) fn edit(&self) -> Result<Edit, DropReason> {
        let protocol =
            Protocol::from_number(self.packet.protocol).ok_or(DropReason::NoTranslation)?;
        if self.packet.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return Ok(Edit::NOTHING);
        }
        let fragment = self.packet.is_fragment();
        let (at, needed) = match protocol {
            Protocol::Tcp => (TCP_CHECKSUM, TCP_CHECKSUM + 2),
            Protocol::Udp => (UDP_CHECKSUM, UDP_CHECKSUM + 2),
            Protocol::Sctp => (SCTP_CRC, SCTP_CRC + 4),
        };
        if self.bytes.len() < needed {
            let cut_by_sender = fragment && self.bytes.len() == self.packet.payload_len();
            return Err(if cut_by_sender {
                DropReason::NoTranslation
            } else {
                DropReason::L4Truncated
            });
        }
        let checksum = match protocol {
            Protocol::Tcp => Checksum::Sum { at, value: self.adjusted(be16(self.bytes, at)) },
            Protocol::Udp => Checksum::Sum { at, value: self.udp_checksum(fragment)? },
            Protocol::Sctp if self.bytes[..4] == self.new_ports => Checksum::Keep,
            Protocol::Sctp if fragment => return Err(DropReason::NoTranslation),
            Protocol::Sctp => Checksum::Crc(self.adjusted_crc()),
        };
        Ok(Edit { ports: Some(self.new_ports), checksum })
    }

    /// The edit of a packet that an ICMP error quotes: as far as the quote
    /// goes. Ports are at hand.
    pub(super) fn edit_of_quote(&self) -> Edit {
        let (checksum, fragment) = (|at| be16(self.bytes, at), self.packet.is_fragment());
        let checksum = match Protocol::from_number(self.packet.protocol) {
            Some(Protocol::Tcp) if self.bytes.len() >= TCP_CHECKSUM + 2 => {
                Checksum::Sum { at: TCP_CHECKSUM, value: self.adjusted(checksum(TCP_CHECKSUM)) }
            }
            Some(Protocol::Udp) if checksum(UDP_CHECKSUM) != 0 => Checksum::Sum {
                at: UDP_CHECKSUM,
                value: never_zero(self.adjusted(checksum(UDP_CHECKSUM))),
            },
            Some(Protocol::Sctp) if self.bytes.len() >= SCTP_CRC + 4 && !fragment => {
                Checksum::Crc(self.adjusted_crc())
            }
            _ => Checksum::Keep,
        };
        Edit { ports: Some(self.new_ports), checksum }
    }

    fn adjusted(&self, checksum: u16) -> u16 {
        let difference = checksum::replace(0, self.old_addresses, self.new_addresses);
        let difference = checksum::replace(difference, &self.bytes[..4], &self.new_ports);
        checksum::after(checksum, difference)
    }

    /// No checksum is a choice in IPv4 and an error in IPv6 (RFC 8200, section
    /// 8.1), so there it must be computed, and from there it must not come.
    fn udp_checksum(&self, fragment: bool) -> Result<u16, DropReason> {
        let old = be16(self.bytes, UDP_CHECKSUM);
        if old != 0 {
            return Ok(never_zero(self.adjusted(old)));
        }
        let len = usize::from(be16(self.bytes, 4));
        let to_ip6 = self.new_addresses.len() == 32;
        // The ports, and the rest, of a datagram of at least a header.
        let datagram = self.bytes.get(..len).filter(|_| len >= 8 && to_ip6 && !fragment);
        let Some((_, rest)) = datagram.and_then(<[u8]>::split_first_chunk::<4>) else {
            return Err(DropReason::NoTranslation);
        };
        let mut sum = checksum::add(Protocol::Udp as u32 + len as u32, self.new_addresses);
        sum = checksum::add(sum, &self.new_ports);
        Ok(never_zero(!(checksum::add(sum, rest) as u16)))
    }

    fn adjusted_crc(&self) -> u32 {
        let stored = u32::from_le_bytes([8, 9, 10, 11].map(|at| self.bytes[at]));
        let old = [0, 1, 2, 3].map(|at| self.bytes[at]);
        checksum::crc32c_after(stored, old, self.new_ports, self.packet.payload_len() - 4)
    }
}

/// 0 and 0xffff are the same number, and 0 means that there is no checksum
/// (RFC 768).
const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}
