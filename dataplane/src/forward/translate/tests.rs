use proptest::prelude::{any, prop, prop_oneof, proptest};
use proptest::strategy::{Just, Strategy};
use proptest::{prop_assert, prop_assert_eq};

use super::*;
use crate::forward::set_ethernet;
use crate::outbox::Outbox;
use crate::packet::Protocol;
use crate::packet::headers::{Parsed, parse};
use crate::service::PortHop;

mod icmp;
mod pieces;

const HOP: PortHop = PortHop {
    port: 3,
    dst_mac: [2, 0, 0, 0, 0, 2],
    src_mac: [2, 0, 0, 0, 0, 1],
    mtu: 1500,
    vlan: 0,
};
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const HEADROOM: usize = 128;
/// Of a datagram with its first bytes.
const MORE: u16 = 0x2000;
const DF: u16 = 0x4000;

const CLIENT4: u32 = 0xc633_6407;
const VIP4: u32 = 0xc000_0250;
const DIP4: u32 = 0x0a00_000d;
const REAL4: u32 = 0x0a00_0150;
const CLIENT6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const VIP6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 0xf, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];
const DIP6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xd];
const REAL6: [u8; 16] = [0x20, 1, 0x0d, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80];

/// What the client sends, and what the server gets.
const FROM_CLIENT4: Tuple4 = Tuple4 { src: CLIENT4, dst: VIP4, src_port: 51_000, dst_port: 80 };
const TO_SERVER6: Tuple6 = Tuple6 { src: DIP6, dst: REAL6, src_port: 1025, dst_port: 8080 };
const FROM_CLIENT6: Tuple6 = Tuple6 { src: CLIENT6, dst: VIP6, src_port: 51_000, dst_port: 80 };
const TO_SERVER4: Tuple4 = Tuple4 { src: DIP4, dst: REAL4, src_port: 1025, dst_port: 8080 };

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A packet's Ethernet frame.
fn framed(ip: &[u8], dst_mac: [u8; 6], src_mac: [u8; 6]) -> Vec<u8> {
    let ethertype = if ip.first().is_some_and(|b| b >> 4 == 4) { [8, 0] } else { [0x86, 0xdd] };
    [&dst_mac, &src_mac, &ethertype[..], ip].concat()
}

/// Receives the IP packet, lets `change` work on its frame, and returns what is
/// then sent, without Ethernet header. A failure must have changed nothing.
fn through<T, E>(
    ip: &[u8],
    change: impl FnOnce(&mut Frame<'_>, &mut Headers) -> Result<T, E>,
) -> Result<(T, Vec<u8>), E> {
    let mut buffer = vec![0xaa; HEADROOM];
    buffer.extend(framed(ip, MAC, [2; 6]));
    let len = buffer.len() - HEADROOM;
    let before = buffer[HEADROOM..].to_vec();
    let mut frame = Frame::new(&mut buffer, HEADROOM, len, len, 0);
    let mut headers = Headers { l3: 14, ..Headers::NONE };
    let _ = parse(&frame, MAC, &mut headers);
    let headers_before = headers;
    match change(&mut frame, &mut headers) {
        Ok(value) => {
            set_ethernet(&mut frame, &headers, &HOP).unwrap();
            let sent = frame.bytes();
            assert_eq!(sent[..14], framed(&sent[14..], HOP.dst_mac, HOP.src_mac)[..14]);
            Ok((value, sent[14..].to_vec()))
        }
        Err(error) => {
            assert_eq!(frame.bytes(), before);
            assert_eq!(headers, headers_before);
            Err(error)
        }
    }
}

/// As [`through`], and what is sent parses as the headers say.
fn checked(
    ip: &[u8],
    translate: impl FnOnce(&mut Frame<'_>, &mut Headers) -> Result<Fit, Failure>,
) -> Result<(Fit, Vec<u8>), Failure> {
    let mut told = Headers::NONE;
    let (fit, sent) = through(ip, |frame, headers| {
        let fit = translate(frame, headers)?;
        told = *headers;
        Ok::<_, Failure>(fit)
    })?;
    let mut bytes = framed(&sent, MAC, [2; 6]);
    let len = bytes.len();
    let mut parsed = Headers::NONE;
    let result = parse(&Frame::new(&mut bytes, 0, len, len, 0), MAC, &mut parsed);
    assert_eq!((result, told), (Ok(Parsed::Flow), parsed));
    Ok((fit, sent))
}

fn to6(ip: &[u8], to: &Tuple6, mtu: u16) -> Result<(Fit, Vec<u8>), Failure> {
    checked(ip, |frame, headers| to_ip6(frame, headers, to, mtu))
}

fn to4(ip: &[u8], to: &Tuple4, mtu: u16, id: u16) -> Result<(Fit, Vec<u8>), Failure> {
    checked(ip, |frame, headers| to_ip4(frame, headers, to, mtu, id))
}

// An independent way to the same packets: everything is computed in full.

fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let word = |pair: &[u8]| u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0));
    let mut total: u64 = bytes.chunks(2).map(word).sum();
    while total > 0xffff {
        total = total % 0x1_0000 + total / 0x1_0000;
    }
    total as u16
}

fn crc32c_by_bits(bytes: &[u8]) -> u32 {
    let mut register = !0u32;
    for byte in bytes {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            register = register >> 1 ^ if register & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !register
}

fn pseudo(addresses: &[u8], protocol: u8, len: usize) -> Vec<u8> {
    [addresses, &(len as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat()
}

/// A layer 4 packet of 24 (TCP), 8 (UDP) or 12 (SCTP) bytes and the data.
fn layer4(protocol: Protocol, addresses: &[u8], ports: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut bytes = ports.to_vec();
    match protocol {
        Protocol::Tcp => {
            bytes.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x60, 0x18, 0x20, 0, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
        }
        Protocol::Udp => bytes.extend([0, 8 + data.len() as u8, 0, 0]),
        Protocol::Sctp => bytes.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0]),
    }
    if protocol == Protocol::Udp {
        bytes[4..6].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
    }
    bytes.extend(data);
    let checksum = !sum(&[&pseudo(addresses, protocol as u8, bytes.len()), &bytes]);
    match protocol {
        Protocol::Tcp => bytes[16..18].copy_from_slice(&checksum.to_be_bytes()),
        Protocol::Udp if checksum == 0 => bytes[6..8].fill(0xff),
        Protocol::Udp => bytes[6..8].copy_from_slice(&checksum.to_be_bytes()),
        Protocol::Sctp => {
            let crc = crc32c_by_bits(&bytes);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
    }
    bytes
}

/// Whether a checksum is right; without one, it is in IPv4 only.
fn is_right(protocol: Protocol, addresses: &[u8], bytes: &[u8]) -> bool {
    match protocol {
        Protocol::Udp if bytes[6..8] == [0, 0] => addresses.len() == 8,
        Protocol::Tcp | Protocol::Udp => {
            sum(&[&pseudo(addresses, protocol as u8, bytes.len()), bytes]) == 0xffff
        }
        Protocol::Sctp => {
            let cleared = [&bytes[..8], &[0; 4], &bytes[12..]].concat();
            crc32c_by_bits(&cleared).to_le_bytes() == bytes[8..12]
        }
    }
}

struct Ip4<'a> {
    class: u8,
    id: u16,
    /// Flags, and the offset in units of 8 bytes.
    field: u16,
    ttl: u8,
    options: &'a [u8],
}

const IP4: Ip4<'_> = Ip4 { class: 0x48, id: 0x1234, field: DF, ttl: 64, options: &[] };

impl Ip4<'_> {
    fn packet(&self, protocol: u8, addresses: &[u8], payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header_len / 4) as u8, self.class];
        bytes.extend(((header_len + payload.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.field.to_be_bytes());
        bytes.extend([self.ttl, protocol, 0, 0]);
        bytes.extend(addresses);
        bytes.extend(self.options);
        let checksum = !sum(&[&bytes]);
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    fn tuple(&self, protocol: Protocol, tuple: &Tuple4, data: &[u8]) -> Vec<u8> {
        let ports = ports(tuple.src_port, tuple.dst_port);
        let payload = layer4(protocol, &tuple.address_bytes(), ports, data);
        self.packet(protocol as u8, &tuple.address_bytes(), &payload)
    }
}

/// Extension headers are part of the payload here.
fn ip6(class: u8, hop_limit: u8, next: u8, addresses: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60 | class >> 4, class << 4, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, hop_limit]);
    bytes.extend(addresses);
    bytes.extend(payload);
    bytes
}

fn ip6_tuple(class: u8, hop_limit: u8, protocol: Protocol, tuple: &Tuple6, data: &[u8]) -> Vec<u8> {
    let ports = ports(tuple.src_port, tuple.dst_port);
    let payload = layer4(protocol, &tuple.address_bytes(), ports, data);
    ip6(class, hop_limit, protocol as u8, &tuple.address_bytes(), &payload)
}

fn fragment_header(next: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
    let field = offset | u16::from(more);
    [&[next, 0], &field.to_be_bytes()[..], &id.to_be_bytes()].concat()
}

/// Recorded from a script that computes everything in full; Wireshark finds all
/// checksums right.
#[test]
fn packets_of_each_protocol_byte_for_byte() {
    let to_six = [
        (
            "tcp",
            "4548002d1234400040063bc4 c6336407 c0000250
             c7380050 01020304 05060708 50182000 013a0000 474554202f",
            "648000000019063f 20010db800010000000000000000000d 20010db8000200000000000000000080
             04011f90 01020304 05060708 50182000 35bb0000 474554202f",
        ),
        (
            "udp",
            "454800211234400040113bc5 c6336407 c0000250 c7380050 000dfbd7 7175657279",
            "64800000000d113f 20010db800010000000000000000000d 20010db8000200000000000000000080
             04011f90 000d3059 7175657279",
        ),
        (
            "sctp",
            "454800301234400040843b43 c6336407 c0000250
             c7380050 deadbeef 696f9ebf 00030010 000000010002000300000004",
            "64800000001c843f 20010db800010000000000000000000d 20010db8000200000000000000000080
             04011f90 deadbeef fa315c5f 00030010 000000010002000300000004",
        ),
    ];
    for (what, received, sent) in to_six {
        let result = to6(&hex(received), &TO_SERVER6, 1500);
        assert_eq!(result, Ok((Fit::Whole, hex(sent))), "{what} to IPv6");
    }
    let to_four = [
        (
            "tcp",
            "648abcde00190640 20010db8000c00000000000000000007 20010db8000f00000000000000000080
             c7380050 01020304 05060708 50182000 91b10000 474554202f",
            "4548002dbeef00003f06a737 0a00000d 0a000150
             04011f90 01020304 05060708 50182000 7c600000 474554202f",
        ),
        (
            "udp",
            "648abcde000d1140 20010db8000c00000000000000000007 20010db8000f00000000000000000080
             c7380050 000d8c4f 7175657279",
            "45480021beef00003f11a738 0a00000d 0a000150 04011f90 000d76fe 7175657279",
        ),
        (
            "sctp",
            "648abcde001c8440 20010db8000c00000000000000000007 20010db8000f00000000000000000080
             c7380050 deadbeef 696f9ebf 00030010 000000010002000300000004",
            "45480030beef00003f84a6b6 0a00000d 0a000150
             04011f90 deadbeef fa315c5f 00030010 000000010002000300000004",
        ),
    ];
    for (what, received, sent) in to_four {
        let result = to4(&hex(received), &TO_SERVER4, 1500, 0xbeef);
        assert_eq!(result, Ok((Fit::Whole, hex(sent))), "{what} to IPv4");
    }
}

#[test]
fn options_extensions_and_padding_are_left_out() {
    let plain = ip6_tuple(0x48, 63, Protocol::Tcp, &TO_SERVER6, b"data");
    // Nothing, a timestamp, a loose source route that is used up, the end.
    let options = [1, 68, 8, 5, 0, 0, 0, 0, 0, 131, 7, 8, 1, 2, 3, 4, 0, 9, 9, 9];
    let packet = Ip4 { options: &options, ..IP4 };
    let mut bytes = packet.tuple(Protocol::Tcp, &FROM_CLIENT4, b"data");
    assert_eq!(to6(&bytes, &TO_SERVER6, 1500), Ok((Fit::Whole, plain.clone())));
    bytes.extend([0; 9]);
    assert_eq!(to6(&bytes, &TO_SERVER6, 1500), Ok((Fit::Whole, plain)));

    let payload = layer4(
        Protocol::Udp,
        &FROM_CLIENT6.address_bytes(),
        ports(FROM_CLIENT6.src_port, FROM_CLIENT6.dst_port),
        b"data",
    );
    // Hop-by-hop, destination options of 16 bytes, routing without segments left.
    let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
    chain.extend([43, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    chain.extend([17, 0, 4, 0, 0, 0, 0, 0]);
    let bytes = ip6(0x48, 64, 0, &FROM_CLIENT6.address_bytes(), &[&chain[..], &payload].concat());
    let plain = Ip4 { field: 0, ttl: 63, ..IP4 }.tuple(Protocol::Udp, &TO_SERVER4, b"data");
    assert_eq!(to4(&bytes, &TO_SERVER4, 1500, 0x1234), Ok((Fit::Whole, plain)));
    // An atomic fragment keeps its identification.
    let atomic = [&fragment_header(17, 0, false, 0xabcd_1234)[..], &payload].concat();
    let bytes = ip6(0x48, 64, 44, &FROM_CLIENT6.address_bytes(), &atomic);
    let plain = Ip4 { field: 0, ttl: 63, ..IP4 }.tuple(Protocol::Udp, &TO_SERVER4, b"data");
    assert_eq!(to4(&bytes, &TO_SERVER4, 1500, 7), Ok((Fit::Whole, plain)));
}

#[test]
fn what_cannot_be_translated_has_its_reason() {
    let drop = |reason| Err(Failure::Drop(reason));
    let tcp = |packet: Ip4<'_>| packet.tuple(Protocol::Tcp, &FROM_CLIENT4, b"data");
    for ttl in [0, 1] {
        let bytes = tcp(Ip4 { ttl, ..IP4 });
        assert_eq!(to6(&bytes, &TO_SERVER6, 1500), drop(DropReason::TtlExpired));
        let bytes = ip6_tuple(0, ttl, Protocol::Tcp, &FROM_CLIENT6, b"data");
        assert_eq!(to4(&bytes, &TO_SERVER4, 1500, 1), drop(DropReason::TtlExpired));
    }
    let options: [(&[u8], _); 5] = [
        (&[131, 7, 4, 1, 2, 3, 4, 0], DropReason::Ip4SourceRoute),
        (&[1, 137, 7, 7, 1, 2, 3, 4], DropReason::Ip4SourceRoute),
        (&[7, 1, 4, 0], DropReason::Ip4BadOptions),
        (&[7, 5, 4, 0], DropReason::Ip4BadOptions),
        (&[1, 1, 1, 7], DropReason::Ip4BadOptions),
    ];
    for (options, reason) in options {
        let bytes = tcp(Ip4 { options, ..IP4 });
        assert_eq!(to6(&bytes, &TO_SERVER6, 1500), drop(reason), "{options:?}");
    }
    let payload = layer4(Protocol::Tcp, &FROM_CLIENT6.address_bytes(), [0, 1, 0, 2], b"data");
    let extensions: [(u8, &[u8]); 2] = [
        // Routing with a segment left; authentication.
        (43, &[6, 2, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (51, &[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (next, extension) in extensions {
        let bytes = [extension, &payload].concat();
        let bytes = ip6(0, 64, next, &FROM_CLIENT6.address_bytes(), &bytes);
        let result = to4(&bytes, &TO_SERVER4, 1500, 1);
        assert_eq!(result, drop(DropReason::NoTranslation), "{next}");
    }
    let mut frame = framed(&tcp(IP4), MAC, [2; 6]);
    let len = frame.len();
    let mut frame = Frame::new(&mut frame, 0, len, len, 0);
    let mut headers = Headers::NONE;
    assert_eq!(parse(&frame, MAC, &mut headers), Ok(Parsed::Flow));
    let result = to_ip6(&mut frame, &mut headers, &TO_SERVER6, 1500);
    assert_eq!(result, Err(Failure::Drop(DropReason::NoHeadroom)));
}

#[test]
fn a_udp_checksum_is_there_in_ipv6() {
    for data in [&b""[..], b"x", b"xy", b"xyz"] {
        let mut bytes = IP4.tuple(Protocol::Udp, &FROM_CLIENT4, data);
        bytes[26..28].fill(0);
        let with = ip6_tuple(0x48, 63, Protocol::Udp, &TO_SERVER6, data);
        assert_eq!(to6(&bytes, &TO_SERVER6, 1500), Ok((Fit::Whole, with)));
    }
    // Without one where there must be one, or where it cannot be computed.
    let mut bytes = ip6_tuple(0, 64, Protocol::Udp, &FROM_CLIENT6, b"data");
    bytes[46..48].fill(0);
    let no_translation = Err(Failure::Drop(DropReason::NoTranslation));
    assert_eq!(to4(&bytes, &TO_SERVER4, 1500, 1), no_translation);
    for (field, len) in [(MORE, 12), (0, 7), (0, 13)] {
        let mut bytes = Ip4 { field, ..IP4 }.tuple(Protocol::Udp, &FROM_CLIENT4, b"data");
        bytes[24..28].copy_from_slice(&[0, len, 0, 0]);
        assert_eq!(to6(&bytes, &TO_SERVER6, 1500), no_translation, "{field:#x} {len}");
    }
}

/// SCTP has no "no checksum": 0 is wrong by as much afterwards, both ways.
#[test]
fn a_crc_of_0_is_changed_as_any_other() {
    let mut bytes = IP4.tuple(Protocol::Sctp, &FROM_CLIENT4, b"data");
    let mut expected = ip6_tuple(0x48, 63, Protocol::Sctp, &TO_SERVER6, b"data");
    for (at, byte) in (48..52).zip(&bytes[28..32]) {
        expected[at] ^= byte;
    }
    assert_ne!(expected[48..52], [0; 4]);
    bytes[28..32].fill(0);
    let (fit, six) = to6(&bytes, &TO_SERVER6, 1500).unwrap();
    assert_eq!((fit, &six), (Fit::Whole, &expected));
    let (_, four) = to4(&six, &FROM_CLIENT4, 1500, 1).unwrap();
    assert_eq!(four[28..32], [0; 4]);
}

/// Every checksum that UDP can carry passes both translations, 0 never appears,
/// and right stays right.
#[test]
fn udp_checksums_go_all_the_way_round() {
    for word in (0..=u16::MAX).step_by(7).chain(65_000..=u16::MAX) {
        let bytes = IP4.tuple(Protocol::Udp, &FROM_CLIENT4, &word.to_be_bytes());
        let (_, six) = to6(&bytes, &TO_SERVER6, 1500).unwrap();
        assert_ne!(six[46..48], [0, 0]);
        assert!(is_right(Protocol::Udp, &TO_SERVER6.address_bytes(), &six[40..]), "{word:#x}");
        let (_, four) = to4(&six, &FROM_CLIENT4, 1500, 1).unwrap();
        assert_eq!(four[20..], bytes[20..], "{word:#x}");
    }
}

#[test]
fn the_sender_is_told_what_fits() {
    let data = [0; 2000];
    let four = |len: usize, field| {
        Ip4 { field, ..IP4 }.tuple(Protocol::Udp, &FROM_CLIENT4, &data[..len - 28])
    };
    assert_eq!(to6(&four(1480, DF), &TO_SERVER6, 1500).unwrap().1.len(), 1500);
    let too_big = |mtu| Err(Failure::TooBig { mtu });
    assert_eq!(to6(&four(1481, DF), &TO_SERVER6, 1500), too_big(1480));
    assert_eq!(to6(&four(1473, DF | MORE), &TO_SERVER6, 1500), too_big(1472));

    let six = |len: usize| ip6_tuple(0, 64, Protocol::Udp, &FROM_CLIENT6, &data[..len - 48]);
    let (fit, bytes) = to4(&six(1520), &TO_SERVER4, 1500, 7).unwrap();
    assert_eq!((fit, bytes.len()), (Fit::Whole, 1500));
    assert_eq!(to4(&six(1521), &TO_SERVER4, 1500, 7), too_big(1520));
    // Don't-fragment, and the identification, by length.
    assert_eq!(bytes[4..8], [0, 7, 0x40, 0]);
    assert_eq!(to4(&six(1281), &TO_SERVER4, 1500, 7).unwrap().1[4..8], [0, 7, 0x40, 0]);
    assert_eq!(to4(&six(1280), &TO_SERVER4, 1500, 7).unwrap().1[4..8], [0, 7, 0, 0]);
    // Less than 1280 is never asked for.
    assert_eq!(to4(&six(1281), &TO_SERVER4, 1000, 7), too_big(1280));
    assert_eq!(to4(&six(1280), &TO_SERVER4, 1000, 7).unwrap().0, Fit::Pieces);
}

/// A frame whose end lies in another segment: headers are translated, but what
/// needs all bytes is not done.
#[test]
fn packets_in_segments() {
    let data = [9; 1400];
    let run = |protocol, field, mtu, clear: bool| {
        let mut bytes = Ip4 { field, ..IP4 }.tuple(protocol, &FROM_CLIENT4, &data);
        if clear {
            bytes[26..28].fill(0);
        }
        let mut buffer = [vec![0; HEADROOM], framed(&bytes, MAC, [2; 6])].concat();
        let total = buffer.len() - HEADROOM;
        let mut frame = Frame::new(&mut buffer, HEADROOM, 200, total, 0);
        let mut headers = Headers::NONE;
        assert_eq!(parse(&frame, MAC, &mut headers), Ok(Parsed::Flow));
        let fit = to_ip6(&mut frame, &mut headers, &TO_SERVER6, mtu)?;
        assert_eq!(frame.total_len(), 14 + usize::from(headers.ip_len));
        Ok((fit, frame.bytes()[14..].to_vec()))
    };
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let six = ip6_tuple(0x48, 63, protocol, &TO_SERVER6, &data);
        let (fit, bytes) = run(protocol, DF, 1500, false).unwrap();
        assert_eq!((fit, &bytes[..]), (Fit::Whole, &six[..206]), "{protocol:?}");
    }
    let drop = |reason| Err(Failure::Drop(reason));
    assert_eq!(run(Protocol::Udp, DF, 1500, true), drop(DropReason::NoTranslation));
    assert_eq!(run(Protocol::Udp, 0, 1400, false), drop(DropReason::TooBig));
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)]
}

proptest! {
    /// There and back is the identity on payload, ports, and TOS, and a
    /// checksum is as right or wrong as before at each step.
    #[test]
    fn there_and_back(
        protocol in protocol(),
        addresses in any::<(u32, u32, [u8; 16], [u8; 16])>(),
        port_numbers in any::<(u16, u16, u16, u16)>(),
        (class, ttl) in (any::<u8>(), 3u8..),
        data in prop::collection::vec(any::<u8>(), 0..200),
        error in prop_oneof![Just(0u16), any::<u16>()],
    ) {
        let (src, dst, mut src6, dst6) = addresses;
        src6[0] = 0x20;
        let src = src & 0x1fff_ffff | 0x4000_0000;
        let (src_port, dst_port, src_port6, dst_port6) = port_numbers;
        let four = Tuple4 { src, dst, src_port, dst_port };
        let six = Tuple6 { src: src6, dst: dst6, src_port: src_port6, dst_port: dst_port6 };

        let packet = Ip4 { class, ttl, ..IP4 };
        let mut bytes = packet.tuple(protocol, &four, &data);
        let at = 20 + match protocol { Protocol::Tcp => 16, Protocol::Udp => 6, Protocol::Sctp => 8 };
        let wrong = u16::from_be_bytes([bytes[at], bytes[at + 1]]) ^ error;
        bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        let good = is_right(protocol, &four.address_bytes(), &bytes[20..]);
        let unchecked = protocol == Protocol::Udp && wrong == 0;

        let (_, there) = to6(&bytes, &six, 1500).unwrap();
        prop_assert_eq!(&there[..4], [0x60 | class >> 4, class << 4, 0, 0]);
        prop_assert_eq!(there[7], ttl - 1);
        prop_assert_eq!(is_right(protocol, &six.address_bytes(), &there[40..]), good);
        let (_, back) = to4(&there, &four, 1500, 0x1234).unwrap();
        prop_assert_eq!(is_right(protocol, &four.address_bytes(), &back[20..]), good);
        let expected = Ip4 { class, ttl: ttl - 2, field: 0, ..IP4 };
        let mut payload = bytes[20..].to_vec();
        if unchecked {
            // It has one now.
            payload[6..8].copy_from_slice(&back[26..28]);
        } else if back[at..at + 2] != bytes[at..at + 2] {
            // The same number in one's complement, as 0 or as 0xffff.
            let zero = |b: &[u8]| b == [0, 0] || b == [0xff, 0xff];
            prop_assert!(zero(&back[at..at + 2]) && zero(&bytes[at..at + 2]));
            payload[at - 20..at - 18].copy_from_slice(&back[at..at + 2]);
        }
        prop_assert_eq!(back, expected.packet(protocol as u8, &four.address_bytes(), &payload));
    }

    /// The contract: no bytes make it panic, also with good beginnings, whether
    /// they were parsed or not.
    #[test]
    fn never_panics(
        start in 0usize..5,
        keep in 0usize..120,
        change in any::<(prop::sample::Index, u8)>(),
        garbage in prop::collection::vec(any::<u8>(), 0..80),
        mtu in any::<u16>(),
        l3 in prop_oneof![Just(14u16), any::<u16>()],
    ) {
        let fragment = [&fragment_header(6, 0, true, 5)[..], &[0; 40]].concat();
        let inner4 = IP4.tuple(Protocol::Tcp, &TO_SERVER4, b"data");
        let inner6 = ip6_tuple(0, 9, Protocol::Udp, &TO_SERVER6, b"data");
        let mut bytes = [
            IP4.tuple(Protocol::Udp, &FROM_CLIENT4, b"data"),
            ip6_tuple(0, 9, Protocol::Sctp, &FROM_CLIENT6, b"data"),
            ip6(0, 9, 44, &FROM_CLIENT6.address_bytes(), &fragment),
            icmp::message4(3, 3, 0, &inner4),
            icmp::message6(1, 4, 0, &inner6),
        ][start].clone();
        bytes.truncate(keep);
        bytes.extend(garbage);
        if !bytes.is_empty() {
            let at = change.0.index(bytes.len());
            bytes[at] = change.1;
        }
        let mut outbox = Outbox::default();
        let run = |work: &mut dyn FnMut(&mut Frame<'_>, &mut Headers)| {
            let mut buffer = [vec![0; HEADROOM], framed(&bytes, MAC, [2; 6])].concat();
            let len = buffer.len() - HEADROOM;
            let mut frame = Frame::new(&mut buffer, HEADROOM, len, len, 0);
            let mut headers = Headers::NONE;
            if !matches!(parse(&frame, MAC, &mut headers), Ok(Parsed::Flow)) {
                headers = Headers { l3, ..Headers::NONE };
            }
            work(&mut frame, &mut headers);
        };
        run(&mut |frame, headers| {
            if to_ip6(frame, headers, &TO_SERVER6, mtu) == Ok(Fit::Pieces) {
                let _ = cut(frame, headers, mtu, 0, &mut outbox);
            }
        });
        run(&mut |frame, headers| {
            if to_ip4(frame, headers, &TO_SERVER4, mtu, 1) == Ok(Fit::Pieces) {
                let _ = cut(frame, headers, mtu, 0, &mut outbox);
            }
        });
        run(&mut |frame, headers| {
            let _ = icmp4_to_6(frame, headers, VIP6, &FROM_CLIENT6, mtu);
        });
        run(&mut |frame, headers| {
            let _ = icmp6_to_4(frame, headers, VIP4, &FROM_CLIENT4, mtu, 1);
        });
    }
}
