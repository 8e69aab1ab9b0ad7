//! A packet that nobody sent, for which it is to be said what would happen.

use std::net::{IpAddr, SocketAddr};

use dataplane::packet::{self, Mac, Tuple};
use etherparse::{IpNumber, PacketBuilder};

use crate::api::{Error, ErrorCode, PacketSpec, Protocol};

/// The source of its frame: an address that no device has.
const SENDER: Mac = [0x02, 0, 0, 0, 0, 0];
/// TTL where nothing is said.
const TTL: u8 = 64;
/// Header of TCP, of UDP, of SCTP with a chunk INIT without parameters.
const HEADERS: [usize; 3] = [20, 8, 12 + 20];

/// The packet's bytes, sent to `port_mac`.
pub(crate) fn frame(spec: &PacketSpec, port_mac: Mac) -> Result<Vec<u8>, Error> {
    let refuse = |message: String| Error::new(ErrorCode::InvalidArgument, message);
    let (number, header, layer4) = match spec.protocol {
        Protocol::Tcp => (IpNumber::TCP, HEADERS[0], tcp(spec).map_err(refuse)?),
        Protocol::Udp => (IpNumber::UDP, HEADERS[1], Vec::new()),
        Protocol::Sctp => (IpNumber::SCTP, HEADERS[2], sctp(spec)),
    };
    let ip_header = if spec.source.is_ipv4() { 20 } else { 40 };
    let least = ip_header + header;
    let length = spec.length.map_or(least, usize::from);
    let Some(payload) = length.checked_sub(least) else {
        return Err(refuse(format!("length {length} is less than the headers: {least} bytes")));
    };
    let payload = vec![0; payload];
    let ttl = spec.ttl.unwrap_or(TTL);
    let ethernet = PacketBuilder::ethernet2(SENDER, port_mac);
    let ip = match (spec.source, spec.destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            ethernet.ipv4(source.ip().octets(), destination.ip().octets(), ttl)
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            ethernet.ipv6(source.ip().octets(), destination.ip().octets(), ttl)
        }
        _ => return Err(refuse("source and destination are of different families".into())),
    };
    let (from, to) = (spec.source.port(), spec.destination.port());
    let mut bytes = Vec::new();
    let written = match spec.protocol {
        Protocol::Udp => ip.udp(from, to).write(&mut bytes, &payload),
        _ => ip.write(&mut bytes, number, &[layer4, payload].concat()),
    };
    written.map_err(|error| refuse(format!("length {length}: {error}")))?;
    if spec.protocol == Protocol::Tcp {
        set_tcp_checksum(&mut bytes, 14 + ip_header, spec);
    }
    Ok(bytes)
}

/// A TCP header without a checksum.
fn tcp(spec: &PacketSpec) -> Result<Vec<u8>, String> {
    let mut flags = 0;
    for letter in spec.flags.as_deref().unwrap_or("S").chars() {
        flags |= match letter.to_ascii_uppercase() {
            'F' => 0x01,
            'S' => 0x02,
            'R' => 0x04,
            'P' => 0x08,
            'A' => 0x10,
            'U' => 0x20,
            other => return Err(format!("{other:?} is no flag of TCP: F, S, R, P, A, U")),
        };
    }
    let mut header = vec![0; HEADERS[0]];
    header[..2].copy_from_slice(&spec.source.port().to_be_bytes());
    header[2..4].copy_from_slice(&spec.destination.port().to_be_bytes());
    (header[12], header[13]) = (5 << 4, flags);
    header[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    Ok(header)
}

fn set_tcp_checksum(bytes: &mut [u8], at: usize, spec: &PacketSpec) {
    let Some(segment) = bytes.get(at..) else { return };
    let Ok(slice) = etherparse::TcpSlice::from_slice(segment) else { return };
    let sum = match (spec.source.ip(), spec.destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            slice.calc_checksum_ipv4(source.octets(), destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            slice.calc_checksum_ipv6(source.octets(), destination.octets())
        }
        _ => return,
    };
    if let (Ok(sum), Some(place)) = (sum, bytes.get_mut(at + 16..at + 18)) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

/// An SCTP packet with a chunk INIT (RFC 9260, section 3.3.2). Its checksum is
/// left out: the director does not look at it.
fn sctp(spec: &PacketSpec) -> Vec<u8> {
    let mut packet = vec![0; HEADERS[2]];
    packet[..2].copy_from_slice(&spec.source.port().to_be_bytes());
    packet[2..4].copy_from_slice(&spec.destination.port().to_be_bytes());
    packet[12..16].copy_from_slice(&[1, 0, 0, 20]);
    packet
}

/// The protocol as workers have it.
pub(crate) const fn protocol(protocol: Protocol) -> packet::Protocol {
    match protocol {
        Protocol::Tcp => packet::Protocol::Tcp,
        Protocol::Udp => packet::Protocol::Udp,
        Protocol::Sctp => packet::Protocol::Sctp,
    }
}

/// Addresses and ports of the packet.
pub(crate) fn tuple(spec: &PacketSpec) -> Option<Tuple> {
    let PacketSpec { source, destination, .. } = spec;
    Tuple::new(source.ip(), source.port(), destination.ip(), destination.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::frames;

    fn spec(protocol: Protocol, source: &str, destination: &str) -> PacketSpec {
        PacketSpec {
            protocol,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            port: None,
            flags: None,
            ttl: None,
            length: None,
        }
    }

    #[test]
    fn packets_are_what_was_asked_for() {
        for (protocol, ends, length) in [
            (Protocol::Tcp, ("1.2.3.4:5000", "192.168.1.100:80"), 40),
            (Protocol::Udp, ("1.2.3.4:5000", "192.168.1.100:80"), 28),
            (Protocol::Sctp, ("1.2.3.4:5000", "192.168.1.100:80"), 52),
            (Protocol::Tcp, ("[fd00::1]:5000", "[fd00::2]:80"), 60),
        ] {
            let mut spec = spec(protocol, ends.0, ends.1);
            let bytes = frame(&spec, [4; 6]).unwrap();
            assert_eq!(bytes.len(), 14 + length, "{protocol:?}");
            let ip = frames::seen(&bytes, 0, None).ip.unwrap();
            assert_eq!((ip.source.as_str(), ip.destination.as_str()), ends);
            assert_eq!(ip.ttl, 64);
            (spec.length, spec.ttl) = (Some(1500), Some(1));
            let bytes = frame(&spec, [4; 6]).unwrap();
            assert_eq!(bytes.len(), 1514);
            assert_eq!(frames::seen(&bytes, 0, None).ip.unwrap().ttl, 1);
            spec.length = Some(length as u16 - 1);
            assert_eq!(frame(&spec, [4; 6]).unwrap_err().code, ErrorCode::InvalidArgument);
        }
    }

    #[test]
    fn flags_are_letters_and_nothing_else() {
        let mut spec = spec(Protocol::Tcp, "1.2.3.4:5000", "1.2.3.5:80");
        assert_eq!(frame(&spec, [4; 6]).unwrap()[47], 0x02);
        spec.flags = Some("fA".into());
        assert_eq!(frame(&spec, [4; 6]).unwrap()[47], 0x11);
        spec.flags = Some("X".into());
        assert!(frame(&spec, [4; 6]).is_err());
        let mixed = PacketSpec { destination: "[::1]:80".parse().unwrap(), flags: None, ..spec };
        assert!(frame(&mixed, [4; 6]).is_err());
    }
}
