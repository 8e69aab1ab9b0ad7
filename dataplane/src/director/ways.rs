//! The ways to clients that a worker found lately, by number.
//!
//! To look a route up takes up to 100 ns, and a server's every packet would. So
//! the server's entry keeps the number of the way ([`Body::way`]), good until
//! routes or neighbours change.
//!
//! [`Body::way`]: crate::conn::Body::way

use crate::fib::Way;

/// Ways that are known at a time. There are as many as next hops: gateways, and
/// clients on a port's own network.
const WAYS: usize = 256;
/// Numbers have 24 bits for the generation; ways beyond the last have none.
const LAST: u32 = (1 << 24) - 1;

/// A way by a port without a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop {
    /// As a frame begins.
    pub(super) macs: [u8; 12],
    /// Longest IP packet, bytes. 0 where there is no hop.
    pub(super) mtu: u16,
    /// The port's index.
    pub(super) port: u8,
}

impl Hop {
    const NONE: Self = Self { macs: [0; 12], mtu: 0, port: 0 };

    /// `None` where the short way does not do.
    pub(super) fn new(way: Way) -> Option<Self> {
        let Way::Port(hop) = way else { return None };
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&hop.dst_mac);
        macs[6..].copy_from_slice(&hop.src_mac);
        (hop.vlan == 0).then_some(Self { macs, mtu: hop.mtu, port: hop.port })
    }
}

/// The ways, each in the one place that its address has.
#[derive(Debug)]
pub(super) struct Ways {
    hops: Box<[Hop; WAYS]>,
    /// Above 0. Numbers of earlier ones mean nothing.
    generation: u32,
}

impl Default for Ways {
    fn default() -> Self {
        Self { hops: Box::new([Hop::NONE; WAYS]), generation: 1 }
    }
}

impl Ways {
    /// The way with this number, while it is good.
    #[inline(always)]
    pub(super) fn get(&self, number: u32) -> Option<&Hop> {
        (number >> 8 == self.generation).then(|| &self.hops[(number & 0xff) as usize])
    }

    /// The number of a way; 0 where another one has its place.
    pub(super) fn number(&mut self, hop: &Hop) -> u32 {
        let [a, b, c, d, e, f, ..] = hop.macs;
        let mac = u64::from_be_bytes([0, hop.port, a, b, c, d, e, f]);
        let place = (mac.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
        let known = &mut self.hops[place];
        if known.mtu == 0 {
            *known = *hop;
        }
        let is_known = *known == *hop && self.generation <= LAST;
        if is_known { self.generation << 8 | place as u32 } else { 0 }
    }

    /// Routes or neighbours are others now.
    pub(super) fn forget(&mut self) {
        self.hops.fill(Hop::NONE);
        // Beyond the last there are no numbers, rather than some that were
        // another way's.
        self.generation = (self.generation + 1).min(LAST + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::PortHop;

    fn hop(end: u8, mtu: u16) -> Hop {
        let (dst_mac, src_mac) = ([2, 0, 0, 0, 0, end], [4; 6]);
        Hop::new(Way::Port(PortHop { port: 3, dst_mac, src_mac, mtu, vlan: 0 })).unwrap()
    }

    #[test]
    fn a_number_is_good_until_ways_change() {
        let mut ways = Ways::default();
        assert_eq!(ways.get(0), None);
        let number = ways.number(&hop(1, 1500));
        assert_eq!(ways.number(&hop(1, 1500)), number);
        assert_eq!(ways.get(number), Some(&hop(1, 1500)));
        // The place is taken: this one is looked up each time.
        assert_eq!(ways.number(&hop(1, 1400)), 0);
        ways.forget();
        assert_eq!(ways.get(number), None);
        let other = ways.number(&hop(1, 1400));
        assert_eq!((ways.get(number), ways.get(other)), (None, Some(&hop(1, 1400))));
    }

    #[test]
    fn no_number_comes_twice() {
        let mut ways = Ways { generation: LAST, ..Ways::default() };
        let number = ways.number(&hop(1, 1500));
        assert_eq!(ways.get(number), Some(&hop(1, 1500)));
        for _ in 0..2 {
            ways.forget();
            assert_eq!(
                (ways.number(&hop(1, 1500)), ways.get(number), ways.get(0)),
                (0, None, None)
            );
        }
    }

    #[test]
    fn a_vlan_or_no_neighbour_is_no_way() {
        assert_eq!(Hop::new(Way::NoRoute), None);
        let vlan = PortHop { port: 0, dst_mac: [2; 6], src_mac: [4; 6], mtu: 1500, vlan: 7 };
        assert_eq!(Hop::new(Way::Port(vlan)), None);
    }
}
