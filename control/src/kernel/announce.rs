//! Announcing addresses: when one of the director's comes up on a segment, its
//! neighbours may still have the MAC address of the box that had it before. The
//! kernel tells them only about links that come up, not about addresses.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Times that an address is announced: one may be lost (RFC 4861, section
/// 7.2.6, and RFC 5227, section 2.3, ask for two or three).
const TIMES: u8 = 3;
/// Time between two announcements of an address.
const INTERVAL: Duration = Duration::from_secs(1);
/// Announcements sent at once, so that a thousand addresses do not fill the
/// ring to the wire.
const AT_ONCE: usize = 64;

/// Addresses that are being announced.
#[derive(Debug, Default)]
pub struct Announcements {
    /// In the order in which they are due.
    due: VecDeque<Due>,
}

#[derive(Debug)]
struct Due {
    at: Instant,
    port: u8,
    ip: IpAddr,
    left: u8,
}

impl Announcements {
    /// Announces an address on a port, from `now` on.
    pub fn add(&mut self, port: u8, ip: IpAddr, now: Instant) {
        self.due.retain(|due| (due.port, due.ip) != (port, ip));
        self.due.push_front(Due { at: now, port, ip, left: TIMES });
    }

    /// Announces an address no more.
    pub fn remove(&mut self, ip: IpAddr) {
        self.due.retain(|due| due.ip != ip);
    }

    /// The next announcements that are due, and the ports that they leave by.
    pub fn take(&mut self, now: Instant) -> Vec<(u8, IpAddr)> {
        let mut all = Vec::new();
        while all.len() < AT_ONCE {
            match self.due.pop_front() {
                Some(due) if due.at <= now => {
                    all.push((due.port, due.ip));
                    if due.left > 1 {
                        self.due.push_back(Due { at: now + INTERVAL, left: due.left - 1, ..due });
                    }
                }
                Some(due) => {
                    self.due.push_front(due);
                    break;
                }
                None => break,
            }
        }
        all
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.due.front().map(|due| due.at)
    }
}

/// The frame that announces an address at this MAC address to a whole segment.
#[must_use]
pub fn frame(mac: [u8; 6], ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => arp(mac, ip),
        IpAddr::V6(ip) => neighbour_advertisement(mac, ip),
    }
}

/// An ARP announcement: a request by the address for itself (RFC 5227, section
/// 3). Hosts that have an entry of it take over its MAC address.
fn arp(mac: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
    const BROADCAST: [u8; 6] = [0xff; 6];
    // Ethernet, IPv4, their lengths, request.
    const REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 1];
    let ip = ip.octets();
    [&BROADCAST[..], &mac, &[0x08, 0x06], &REQUEST, &mac, &ip, &[0; 6], &ip].concat()
}

/// An unsolicited neighbour advertisement (RFC 4861, section 7.2.6) to all
/// nodes, which overrides what they have.
fn neighbour_advertisement(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const ICMPV6: u8 = 58;
    /// The director forwards, and what it says is new.
    const ROUTER_OVERRIDE: u8 = 0xa0;
    let source = ip.octets();
    let mut icmp = [&[136, 0, 0, 0, ROUTER_OVERRIDE, 0, 0, 0][..], &source, &[2, 1], &mac].concat();
    let len = icmp.len() as u8;
    let pseudo = [&source[..], &ALL_NODES.octets(), &[0, 0, 0, len, 0, 0, 0, ICMPV6]].concat();
    let words = pseudo.chunks_exact(2).chain(icmp.chunks_exact(2));
    let sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, len, ICMPV6, 255];
    [&ALL_NODES_MAC[..], &mac, &[0x86, 0xdd], &header, &source, &ALL_NODES.octets(), &icmp].concat()
}

#[cfg(test)]
mod tests {
    use etherparse::{LinkSlice, NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    const MAC: [u8; 6] = [0, 0x50, 0, 0, 4, 0];

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 168, 1, last).into()
    }

    #[test]
    fn an_arp_announcement_asks_for_itself() {
        let bytes = frame(MAC, v4(100));
        assert_eq!(bytes.len(), 42);
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(LinkSlice::Ethernet2(link)) = &sliced.link else { panic!("{:?}", sliced.link) };
        assert_eq!((link.destination(), link.source()), ([0xff; 6], MAC));
        assert_eq!(u16::from(link.ether_type()), 0x0806);
        let arp = &bytes[14..];
        assert_eq!(arp[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!((&arp[8..14], &arp[14..18]), (&MAC[..], &[192, 168, 1, 100][..]));
        assert_eq!((&arp[18..24], &arp[24..28]), (&[0; 6][..], &[192, 168, 1, 100][..]));
    }

    #[test]
    fn an_advertisement_is_valid_and_overrides() {
        let vip: Ipv6Addr = "fd00:1::100".parse().unwrap();
        let bytes = frame(MAC, vip.into());
        let sliced = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(LinkSlice::Ethernet2(link)) = &sliced.link else { panic!("{:?}", sliced.link) };
        assert_eq!((link.destination(), link.source()), ([0x33, 0x33, 0, 0, 0, 1], MAC));
        let Some(NetSlice::Ipv6(net)) = &sliced.net else { panic!("{:?}", sliced.net) };
        let header = net.header().to_header();
        assert_eq!(Ipv6Addr::from(header.source), vip);
        assert_eq!(Ipv6Addr::from(header.destination), "ff02::1".parse::<Ipv6Addr>().unwrap());
        // What is not 255 is ignored: it may come from afar (section 7.1.2).
        assert_eq!((header.hop_limit, header.payload_length), (255, 32));
        let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
        assert!(icmp.is_checksum_valid(header.source, header.destination));
        assert_eq!((icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8()), (136, 0, [0xa0, 0, 0, 0]));
        assert_eq!(icmp.payload(), [&vip.octets()[..], &[2, 1], &MAC].concat());
    }

    #[test]
    fn each_address_is_announced_three_times_a_second_apart() {
        let start = Instant::now();
        let mut all = Announcements::default();
        all.add(0, v4(100), start);
        all.add(1, v4(101), start);
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(all.take(at(0)), [(1, v4(101)), (0, v4(100))]);
        assert!(all.take(at(999)).is_empty());
        assert_eq!(all.next(), Some(at(1000)));
        // Up once more: from the beginning.
        all.add(0, v4(100), at(999));
        assert_eq!(all.take(at(1000)), [(0, v4(100)), (1, v4(101))]);
        all.remove(v4(101));
        assert_eq!(all.take(at(2000)), [(0, v4(100))]);
        assert_eq!(all.take(at(3000)), [(0, v4(100))]);
        assert_eq!((all.take(at(9000)), all.next()), (vec![], None));
    }

    #[test]
    fn many_are_sent_in_pieces() {
        let start = Instant::now();
        let mut all = Announcements::default();
        (0..100).for_each(|last| all.add(0, v4(last), start));
        assert_eq!(
            (all.take(start).len(), all.take(start).len(), all.take(start).len()),
            (64, 36, 0)
        );
    }
}
