//! A packet inside of an ICMP error, or to be put into one: of the rest, as
//! much may be missing as the sender saw fit.

use crate::packet::headers::{
    Addresses, FRAGMENT, MAX_EXTENSIONS, Protocol, extension_len, is_extension,
};

/// Addresses, ports and protocol of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuple {
    /// Source and destination.
    pub addresses: Addresses,
    /// The protocol.
    pub protocol: Protocol,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl Tuple {
    /// The tuple of packets of the other direction.
    #[must_use]
    pub const fn reversed(self) -> Self {
        let addresses = match self.addresses {
            Addresses::V4 { src, dst } => Addresses::V4 { src: dst, dst: src },
            Addresses::V6 { src, dst } => Addresses::V6 { src: dst, dst: src },
        };
        Self { addresses, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }
}

/// An IP packet's headers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub addresses: Addresses,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether it is a fragment other than the first.
    pub later_fragment: bool,
    /// Offset of what follows the IP headers. It may be where the bytes end.
    pub l4: usize,
    /// Length that the packet says to have. Not compared with anything: some
    /// hosts quote it wrongly.
    pub len: usize,
    /// The ports, or what is in their place, if they are there.
    pub ports: Option<(u16, u16)>,
}

impl Packet {
    /// Reads a packet of which `bytes` are the first. `None` when the IP
    /// headers make no sense or are not all there.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut packet = match bytes.first()? >> 4 {
            4 => Self::read4(bytes)?,
            6 => Self::read6(bytes)?,
            _ => return None,
        };
        packet.ports = match bytes.get(packet.l4..)? {
            [a, b, c, d, ..] if !packet.later_fragment => {
                Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
            }
            _ => None,
        };
        Some(packet)
    }

    fn read4(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<20>()?;
        let l4 = usize::from(header[0] & 0x0f) * 4;
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let src = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
        let dst = u32::from_be_bytes([header[16], header[17], header[18], header[19]]);
        (l4 >= 20 && bytes.len() >= l4).then_some(Self {
            addresses: Addresses::V4 { src, dst },
            protocol: header[9],
            later_fragment: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
            l4,
            len,
            ports: None,
        })
    }

    fn read6(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<40>()?;
        let (mut src, mut dst) = ([0; 16], [0; 16]);
        src.copy_from_slice(&header[8..24]);
        dst.copy_from_slice(&header[24..40]);
        let mut packet = Self {
            addresses: Addresses::V6 { src, dst },
            protocol: header[6],
            later_fragment: false,
            l4: 40,
            len: 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
            ports: None,
        };
        for _ in 0..=MAX_EXTENSIONS {
            // What a later fragment carries is no header.
            if packet.later_fragment || !is_extension(packet.protocol) {
                return (bytes.len() >= packet.l4).then_some(packet);
            }
            let header = bytes.get(packet.l4..)?.first_chunk::<8>()?;
            packet.later_fragment = packet.protocol == FRAGMENT
                && u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0;
            packet.l4 += extension_len(packet.protocol, header);
            packet.protocol = header[0];
        }
        None
    }

    /// Its tuple, where it has ports and a protocol that services have.
    pub(super) fn tuple(&self) -> Option<Tuple> {
        let protocol = Protocol::from_number(self.protocol)?;
        let (src_port, dst_port) = self.ports?;
        Some(Tuple { addresses: self.addresses, protocol, src_port, dst_port })
    }
}
