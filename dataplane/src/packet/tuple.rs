//! Addresses and ports of a packet, as forwarding rewrites them.

use std::net::IpAddr;

use bytemuck::{Pod, Zeroable};

use super::Family;
use super::headers::Addresses;

/// Addresses and ports of an IPv4 packet, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable, Pod)]
#[repr(C)]
pub struct Tuple4 {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// Addresses and ports of an IPv6 packet; addresses in wire order, ports as
/// numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable, Pod)]
#[repr(C)]
pub struct Tuple6 {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl Tuple4 {
    /// Those of the packets that answer.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        let Self { src, dst, src_port, dst_port } = self;
        Self { src: dst, dst: src, src_port: dst_port, dst_port: src_port }
    }

    /// Both addresses as they stand in an IPv4 header.
    #[must_use]
    #[inline]
    pub fn address_bytes(&self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&self.src.to_be_bytes());
        bytes[4..].copy_from_slice(&self.dst.to_be_bytes());
        bytes
    }
}

impl Tuple6 {
    /// Those of the packets that answer.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        let Self { src, dst, src_port, dst_port } = self;
        Self { src: dst, dst: src, src_port: dst_port, dst_port: src_port }
    }

    /// Both addresses as they stand in an IPv6 header.
    #[must_use]
    #[inline]
    pub fn address_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.src);
        bytes[16..].copy_from_slice(&self.dst);
        bytes
    }
}

/// Addresses and ports of a packet of either family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tuple {
    /// IPv4.
    V4(Tuple4),
    /// IPv6.
    V6(Tuple6),
}

impl Tuple {
    /// A tuple of two addresses and ports. `None` when the addresses are of two
    /// families.
    #[must_use]
    pub const fn new(src: IpAddr, src_port: u16, dst: IpAddr, dst_port: u16) -> Option<Self> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = (src.to_bits(), dst.to_bits());
                Some(Self::V4(Tuple4 { src, dst, src_port, dst_port }))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (src, dst) = (src.octets(), dst.octets());
                Some(Self::V6(Tuple6 { src, dst, src_port, dst_port }))
            }
            _ => None,
        }
    }

    /// The tuple of a packet.
    #[must_use]
    pub const fn of(addresses: &Addresses, src_port: u16, dst_port: u16) -> Self {
        match *addresses {
            Addresses::V4 { src, dst } => Self::V4(Tuple4 { src, dst, src_port, dst_port }),
            Addresses::V6 { src, dst } => Self::V6(Tuple6 { src, dst, src_port, dst_port }),
        }
    }

    /// Source and destination address.
    #[must_use]
    pub const fn addresses(&self) -> Addresses {
        match *self {
            Self::V4(Tuple4 { src, dst, .. }) => Addresses::V4 { src, dst },
            Self::V6(Tuple6 { src, dst, .. }) => Addresses::V6 { src, dst },
        }
    }

    /// Source and destination port.
    #[must_use]
    pub const fn ports(&self) -> (u16, u16) {
        match self {
            Self::V4(tuple) => (tuple.src_port, tuple.dst_port),
            Self::V6(tuple) => (tuple.src_port, tuple.dst_port),
        }
    }

    /// Source address and port.
    #[must_use]
    pub fn source(&self) -> (IpAddr, u16) {
        match self {
            Self::V4(tuple) => (IpAddr::V4(tuple.src.into()), tuple.src_port),
            Self::V6(tuple) => (IpAddr::V6(tuple.src.into()), tuple.src_port),
        }
    }

    /// Destination address and port.
    #[must_use]
    pub fn destination(&self) -> (IpAddr, u16) {
        self.reversed().source()
    }

    /// The family.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// The tuple of the packets that answer.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::V4(tuple) => Self::V4(tuple.reversed()),
            Self::V6(tuple) => Self::V6(tuple.reversed()),
        }
    }
}
