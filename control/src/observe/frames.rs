//! What is in a frame's headers.

use std::fmt::Display;
use std::net::IpAddr;

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice, VlanSlice};

use crate::api::{FrameSeen, IpSeen, OuterSeen, Tunnel};
use crate::daemon::mac_text;

/// Reads the first bytes of a frame of so many, sent to a server through a
/// tunnel if one is given.
#[must_use]
pub fn seen(bytes: &[u8], length: u32, tunnel: Option<&Tunnel>) -> FrameSeen {
    let mut seen = FrameSeen { length, bytes: hex(bytes), ..FrameSeen::default() };
    let Ok(packet) = LaxSlicedPacket::from_ethernet(bytes) else { return seen };
    if let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link {
        seen.source_mac = Some(mac_text(ethernet.source()));
        seen.destination_mac = Some(mac_text(ethernet.destination()));
    }
    if let Some(VlanSlice::SingleVlan(tag)) = &packet.vlan {
        seen.vlan = Some(tag.vlan_identifier().value());
    }
    let inner = tunnel.and_then(|tunnel| unwrap(&packet, tunnel));
    match inner {
        Some((outer, inner)) => {
            seen.outer = Some(outer);
            seen.ip = LaxSlicedPacket::from_ip(inner).ok().and_then(|packet| ip(&packet));
        }
        None => seen.ip = ip(&packet),
    }
    seen
}

/// A frame's bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The bytes that [`hex`] wrote. `None` where it did not.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Source, destination, TTL and protocol of an IP header.
fn header(packet: &LaxSlicedPacket<'_>) -> Option<(IpAddr, IpAddr, u8, IpNumber)> {
    match packet.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
                header.ttl(),
                ip.payload_ip_number(),
            ))
        }
        LaxNetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((
                header.source_addr().into(),
                header.destination_addr().into(),
                header.hop_limit(),
                ip.payload().ip_number,
            ))
        }
        LaxNetSlice::Arp(_) => None,
    }
}

fn ip(packet: &LaxSlicedPacket<'_>) -> Option<IpSeen> {
    let (source, destination, ttl, number) = header(packet)?;
    let payload = packet.ip_payload()?;
    let has_ports = matches!(number, IpNumber::TCP | IpNumber::UDP | IpNumber::SCTP);
    // The ports may be there where the rest of the header is not.
    let is_first = !payload.fragmented || matches!(packet.transport, Some(TransportSlice::Udp(_)));
    let ports = match payload.payload {
        [a, b, c, d, ..] if has_ports && is_first => {
            Some((u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])))
        }
        _ => None,
    };
    let end = |address: IpAddr, port: Option<u16>| match (address, port) {
        (address, None) => address.to_string(),
        (address, Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
    };
    let protocol = match number {
        IpNumber::TCP => "tcp".into(),
        IpNumber::UDP => "udp".into(),
        IpNumber::SCTP => "sctp".into(),
        IpNumber::ICMP => "icmp".into(),
        IpNumber::IPV6_ICMP => "icmpv6".into(),
        IpNumber(other) => name(&other),
    };
    Some(IpSeen {
        source: end(source, ports.map(|ports| ports.0)),
        destination: end(destination, ports.map(|ports| ports.1)),
        ttl,
        protocol,
    })
}

fn name(number: &impl Display) -> String {
    format!("IP protocol {number}")
}

/// The outer headers of a tunnel's packet, and the packet in it.
fn unwrap<'a>(packet: &LaxSlicedPacket<'a>, tunnel: &Tunnel) -> Option<(OuterSeen, &'a [u8])> {
    const GRE_CHECKSUM: u8 = 0x80;
    const UDP_AND_GUE: usize = 8 + 4;
    let (source, destination, ttl, _) = header(packet)?;
    let payload = packet.ip_payload()?.payload;
    let (kind, inner) = match tunnel {
        Tunnel::Ipip => ("ipip", payload),
        Tunnel::Gre { .. } => {
            let with_checksum = payload.first()? & GRE_CHECKSUM != 0;
            ("gre", payload.get(if with_checksum { 8 } else { 4 }..)?)
        }
        Tunnel::Gue { .. } => ("gue", payload.get(UDP_AND_GUE..)?),
    };
    Some((OuterSeen { kind: kind.into(), source, destination, ttl }, inner))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const MACS: ([u8; 6], [u8; 6]) = ([0, 0x50, 0, 0, 3, 0], [0, 0x50, 0, 0, 4, 0]);

    fn udp() -> Vec<u8> {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1);
        builder
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 63)
            .udp(5000, 80)
            .write(&mut bytes, b"x")
            .unwrap();
        bytes
    }

    #[test]
    fn a_plain_frame_has_its_ends_and_macs() {
        let seen = seen(&udp(), 60, None);
        let ip = seen.ip.unwrap();
        assert_eq!((ip.source.as_str(), ip.destination.as_str()), ("10.0.0.1:5000", "10.0.0.2:80"));
        assert_eq!((ip.ttl, ip.protocol.as_str(), seen.length), (63, "udp", 60));
        assert_eq!(seen.source_mac.as_deref(), Some("00:50:00:00:03:00"));
        assert_eq!((seen.outer, seen.vlan), (None, None));
    }

    #[test]
    fn a_tunnel_is_looked_into() {
        let inner = udp().split_off(14);
        let wrap = |number, between: &[u8]| {
            let mut bytes = Vec::new();
            let builder = PacketBuilder::ethernet2(MACS.0, MACS.1);
            let payload = [between, &inner].concat();
            let builder = builder.ipv4([10, 0, 0, 254], [10, 0, 1, 31], 64);
            builder.write(&mut bytes, number, &payload).unwrap();
            bytes
        };
        let gue = Tunnel::Gue { port: 6080, checksum: crate::api::TunnelChecksum::None };
        let gre = Tunnel::Gre { checksum: crate::api::TunnelChecksum::None };
        let kinds: [(_, &[u8], _, _); 4] = [
            (IpNumber(4), &[], Tunnel::Ipip, "ipip"),
            (IpNumber(47), &[0, 0, 8, 0], gre.clone(), "gre"),
            (IpNumber(47), &[0x80, 0, 8, 0, 1, 2, 0, 0], gre, "gre"),
            (IpNumber(17), &[1, 2, 0x17, 0xc0, 0, 50, 0, 0, 0, 4, 0, 0], gue, "gue"),
        ];
        for (number, between, tunnel, kind) in kinds {
            let bytes = wrap(number, between);
            let seen = seen(&bytes, bytes.len() as u32, Some(&tunnel));
            let outer = seen.outer.unwrap();
            assert_eq!((outer.kind.as_str(), outer.ttl), (kind, 64));
            assert_eq!(outer.destination.to_string(), "10.0.1.31");
            assert_eq!(seen.ip.unwrap().source, "10.0.0.1:5000", "{kind}");
        }
    }

    #[test]
    fn half_a_frame_is_read_as_far_as_it_goes() {
        for length in 0..udp().len() {
            let seen = seen(&udp()[..length], 60, Some(&Tunnel::Ipip));
            assert_eq!(from_hex(&seen.bytes).unwrap(), udp()[..length]);
        }
        let cut = seen(&udp()[..38], 60, None).ip.unwrap();
        assert_eq!(cut.destination, "10.0.0.2:80");
        assert_eq!((from_hex("0g"), from_hex("012")), (None, None));
    }
}
