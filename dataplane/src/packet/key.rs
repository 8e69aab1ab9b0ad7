//! What a packet says about the connection that it belongs to.
//!
//! Keys are words of a packet as they stand there, whatever the CPU's byte
//! order: they are compared and hashed for every packet, and taken apart for
//! few.

use bytemuck::{Pod, Zeroable};

use super::{Protocol, Tuple4, Tuple6};

/// Addresses, ports and protocol of an IPv4 packet: the key of its connection's
/// entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable, Pod)]
#[repr(transparent)]
pub struct Key4([u64; 2]);

/// The same of an IPv6 packet.
#[derive(Debug, Clone, Copy, Eq, Zeroable, Pod)]
#[repr(transparent)]
pub struct Key6([u64; 5]);

impl PartialEq for Key6 {
    /// All words at once: a comparison of arrays calls `bcmp`.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let ([a, b, c, d, e], [f, g, h, i, j]) = (self.0, other.0);
        (a ^ f) | (b ^ g) | (c ^ h) | (d ^ i) | (e ^ j) == 0
    }
}

impl Key4 {
    /// A key.
    #[must_use]
    #[inline]
    pub fn new(protocol: Protocol, tuple: Tuple4) -> Self {
        let Tuple4 { src, dst, src_port, dst_port } = tuple;
        let addresses = (u64::from(src) << 32) | u64::from(dst);
        Self::of_packet(protocol as u8, addresses.to_be_bytes(), ports(src_port, dst_port))
    }

    /// The key that a packet has with these addresses and ports.
    #[must_use]
    #[inline(always)]
    pub(crate) fn of_packet(protocol: u8, addresses: [u8; 8], ports: [u8; 4]) -> Self {
        Self([u64::from_ne_bytes(addresses), last_word(protocol, ports)])
    }

    /// Its words.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u64; 2] {
        self.0
    }

    /// The IP protocol number.
    #[must_use]
    #[inline]
    pub const fn protocol(&self) -> u8 {
        protocol(self.0[1])
    }

    /// The key of packets of the same protocol with these addresses and ports.
    #[must_use]
    #[inline(always)]
    pub(crate) fn with(&self, tuple: Tuple4) -> Self {
        let Tuple4 { src, dst, src_port, dst_port } = tuple;
        let addresses = (u64::from(src) << 32) | u64::from(dst);
        Self::of_packet(self.protocol(), addresses.to_be_bytes(), ports(src_port, dst_port))
    }

    /// The key of packets of the same protocol the other way.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn reversed(&self) -> Self {
        let [addresses, last] = self.0;
        let ports = (last as u32).rotate_left(16) as u64;
        Self([addresses.rotate_left(32), last & !PORTS | ports])
    }

    /// Addresses and ports as they stand in a packet.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn bytes(&self) -> ([u8; 8], [u8; 4]) {
        (self.0[0].to_ne_bytes(), (self.0[1] as u32).to_ne_bytes())
    }

    /// Numbers that all packets to an address and port have, and no others.
    #[must_use]
    #[inline(always)]
    pub(crate) fn destination(&self) -> [u64; 3] {
        let [.., a, b, c, d] = self.0[0].to_ne_bytes();
        [u32::from_ne_bytes([a, b, c, d]).into(), 0, to_port(self.0[1])]
    }

    /// What the ownership hash is made of: the XOR of the 16-bit words of
    /// addresses and ports.
    #[must_use]
    #[inline(always)]
    pub(crate) const fn xor(&self) -> u16 {
        xor_words(self.0[0] ^ self.0[1] & PORTS)
    }

    /// The source address.
    #[must_use]
    #[inline(always)]
    pub(crate) fn source(&self) -> u32 {
        (u64::from_be_bytes(self.0[0].to_ne_bytes()) >> 32) as u32
    }

    /// Addresses and ports.
    #[must_use]
    #[inline]
    pub fn tuple(&self) -> Tuple4 {
        let addresses = u64::from_be_bytes(self.0[0].to_ne_bytes());
        let (src, dst) = ((addresses >> 32) as u32, addresses as u32);
        let (src_port, dst_port) = ports_of(self.0[1]);
        Tuple4 { src, dst, src_port, dst_port }
    }
}

impl Key6 {
    /// A key.
    #[must_use]
    #[inline]
    pub fn new(protocol: Protocol, tuple: Tuple6) -> Self {
        let Tuple6 { src, dst, src_port, dst_port } = tuple;
        let mut addresses = [0; 32];
        addresses[..16].copy_from_slice(&src);
        addresses[16..].copy_from_slice(&dst);
        Self::of_packet(protocol as u8, addresses, ports(src_port, dst_port))
    }

    /// The key that a packet has with these addresses and ports.
    #[must_use]
    #[inline(always)]
    pub(crate) fn of_packet(protocol: u8, addresses: [u8; 32], ports: [u8; 4]) -> Self {
        let [a, b, c, d]: [u64; 4] = bytemuck::must_cast(addresses);
        Self([a, b, c, d, last_word(protocol, ports)])
    }

    /// Its words.
    #[must_use]
    #[inline(always)]
    pub const fn words(&self) -> [u64; 5] {
        self.0
    }

    /// The IP protocol number.
    #[must_use]
    #[inline]
    pub const fn protocol(&self) -> u8 {
        protocol(self.0[4])
    }

    /// The key of packets of the same protocol with these addresses and ports.
    #[must_use]
    #[inline(always)]
    pub(crate) fn with(&self, tuple: Tuple6) -> Self {
        let Tuple6 { src, dst, src_port, dst_port } = tuple;
        let [a, b, c, d]: [u64; 4] = bytemuck::must_cast([src, dst]);
        Self([a, b, c, d, last_word(self.protocol(), ports(src_port, dst_port))])
    }

    /// [`Key4::destination`] of IPv6.
    #[must_use]
    #[inline(always)]
    pub(crate) fn destination(&self) -> [u64; 3] {
        [self.0[2], self.0[3], to_port(self.0[4]) | 1 << 63]
    }

    /// As [`Key4::xor`].
    #[must_use]
    #[inline(always)]
    pub(crate) const fn xor(&self) -> u16 {
        let [a, b, c, d, last] = self.0;
        xor_words(a ^ b ^ c ^ d ^ last & PORTS)
    }

    /// The last four bytes of the source address.
    #[must_use]
    #[inline(always)]
    pub(crate) fn source_end(&self) -> u32 {
        u64::from_be_bytes(self.0[1].to_ne_bytes()) as u32
    }

    /// Addresses and ports.
    #[must_use]
    #[inline]
    pub fn tuple(&self) -> Tuple6 {
        let [a, b, c, d, last] = self.0;
        let (src_port, dst_port) = ports_of(last);
        let [src, dst] = bytemuck::must_cast::<[u64; 4], [[u8; 16]; 2]>([a, b, c, d]);
        Tuple6 { src, dst, src_port, dst_port }
    }
}

fn ports(src: u16, dst: u16) -> [u8; 4] {
    (u32::from(src) << 16 | u32::from(dst)).to_be_bytes()
}

#[inline(always)]
const fn last_word(protocol: u8, ports: [u8; 4]) -> u64 {
    (protocol as u64) << 32 | u32::from_ne_bytes(ports) as u64
}

/// Protocol and destination port in one number.
#[inline(always)]
const fn to_port(last_word: u64) -> u64 {
    let [.., a, b] = (last_word as u32).to_ne_bytes();
    (last_word >> 32) << 16 | u16::from_ne_bytes([a, b]) as u64
}

/// The ports in a last word.
const PORTS: u64 = 0xffff_ffff;

/// The XOR of the 16-bit words that these are, as in a packet.
#[inline(always)]
const fn xor_words(words: u64) -> u16 {
    let words = words ^ words >> 32;
    u16::from_be_bytes(((words ^ words >> 16) as u16).to_ne_bytes())
}

#[inline]
const fn protocol(last_word: u64) -> u8 {
    (last_word >> 32) as u8
}

#[inline]
const fn ports_of(last_word: u64) -> (u16, u16) {
    let ports = u32::from_be_bytes((last_word as u32).to_ne_bytes());
    ((ports >> 16) as u16, ports as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_bytes_of_packets() {
        let tuple =
            Tuple4 { src: 0x0a01_0203, dst: 0xc0a8_0164, src_port: 0x1234, dst_port: 0x5678 };
        let key = Key4::new(Protocol::Udp, tuple);
        let bytes = [10, 1, 2, 3, 192, 168, 1, 100];
        assert_eq!(key, Key4::of_packet(17, bytes, [0x12, 0x34, 0x56, 0x78]));
        assert_eq!((key.tuple(), key.protocol()), (tuple, 17));
        assert_eq!(key.xor(), 0x0a01 ^ 0x0203 ^ 0xc0a8 ^ 0x0164 ^ 0x1234 ^ 0x5678);
        assert_eq!(key.source(), 0x0a01_0203);

        let (src, dst) = ([0xfd; 16], std::array::from_fn(|i| i as u8));
        let tuple = Tuple6 { src, dst, src_port: 0x1234, dst_port: 0x5678 };
        let key = Key6::new(Protocol::Tcp, tuple);
        let bytes = std::array::from_fn(|i| if i < 16 { 0xfd } else { i as u8 - 16 });
        assert_eq!(key, Key6::of_packet(6, bytes, [0x12, 0x34, 0x56, 0x78]));
        assert_eq!((key.tuple(), key.protocol()), (tuple, 6));
        let words = (0..8).map(|i| (2 * i) << 8 | (2 * i + 1)).fold(0, |a: u16, b| a ^ b);
        assert_eq!((key.xor(), key.source_end()), (words ^ 0x1234 ^ 0x5678, 0xfdfd_fdfd));
    }

    #[test]
    fn packets_to_one_address_and_port_have_its_destination() {
        let four = Tuple4 { src: 1, dst: 0xc0a8_0164, src_port: 5000, dst_port: 80 };
        let six = Tuple6 { src: [1; 16], dst: [2; 16], src_port: 5000, dst_port: 80 };
        let of4 = |protocol, tuple| Key4::new(protocol, tuple).destination();
        let of6 = |protocol, tuple| Key6::new(protocol, tuple).destination();
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(of4(tcp, four), of4(tcp, Tuple4 { src: 9, src_port: 9, ..four }));
        assert_eq!(of6(tcp, six), of6(tcp, Tuple6 { src: [9; 16], src_port: 9, ..six }));
        let mut last = six.dst;
        last[15] = 9;
        // The same bytes in front as the IPv4 one.
        let mut like4 = [0; 16];
        like4[..4].copy_from_slice(&four.dst.to_be_bytes());
        let all = [
            of4(tcp, four),
            of4(udp, four),
            of4(tcp, Tuple4 { dst: 9, ..four }),
            of4(tcp, Tuple4 { dst_port: 81, ..four }),
            of6(tcp, six),
            of6(udp, six),
            of6(tcp, Tuple6 { dst: last, ..six }),
            of6(tcp, Tuple6 { dst_port: 81, ..six }),
            of6(tcp, Tuple6 { dst: like4, ..six }),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[..i].contains(one), "{i}");
        }
    }

    #[test]
    fn a_key_with_another_tuple_is_that_tuples() {
        let four = Tuple4 { src: 1, dst: 2, src_port: 3, dst_port: 4 };
        let six = Tuple6 { src: [1; 16], dst: [2; 16], src_port: 3, dst_port: 4 };
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let one = Key4::new(protocol, four).with(four.reversed());
            assert_eq!(one, Key4::new(protocol, four.reversed()));
            assert_eq!(one, Key4::new(protocol, four).reversed());
            assert_eq!(one.bytes(), ([0, 0, 0, 2, 0, 0, 0, 1], [0, 4, 0, 3]));
            let one = Key6::new(protocol, six).with(six.reversed());
            assert_eq!(one, Key6::new(protocol, six.reversed()));
        }
    }
}
