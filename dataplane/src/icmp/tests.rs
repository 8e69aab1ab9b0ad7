use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;
use crate::counters::DropReason;
use crate::forward::dr;
use crate::outbox::Outbox;
use crate::packet::headers::Addresses;
use crate::packet::{Frame, Headers, Mac, Protocol, checksum};
use crate::service::PortHop;

const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 9];
const MAC: Mac = [0, 0x50, 0, 0, 4, 0];
const HOP: PortHop = PortHop { port: 1, dst_mac: ROUTER_MAC, src_mac: MAC, mtu: 1500, vlan: 0 };

const CIP: u32 = 0xc0a8_010c;
const VIP: u32 = 0xc0a8_0164;
const RIP: u32 = 0x0a00_0002;
const ROUTER: u32 = 0xac10_0001;

fn address6(last: u16) -> [u8; 16] {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).octets()
}

fn pair4(src: u32, dst: u32) -> Addresses {
    Addresses::V4 { src, dst }
}

fn pair6(src: u16, dst: u16) -> Addresses {
    Addresses::V6 { src: address6(src), dst: address6(dst) }
}

fn tcp(addresses: Addresses, src_port: u16, dst_port: u16) -> Tuple {
    Tuple { addresses, protocol: Protocol::Tcp, src_port, dst_port }
}

/// The IP packet of a TCP segment with `payload`.
fn segment(tuple: &Tuple, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = match tuple.addresses {
        Addresses::V4 { src, dst } => PacketBuilder::ipv4(src.to_be_bytes(), dst.to_be_bytes(), 63),
        Addresses::V6 { src, dst } => PacketBuilder::ipv6(src, dst, 63),
    };
    let builder = builder.tcp(tuple.src_port, tuple.dst_port, 1, 1000).syn();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

/// A frame with an ICMP error, made without the code under test: checksums are
/// computed from the whole.
fn icmp_frame(outer: Addresses, header: [u8; 8], quote: &[u8]) -> Vec<u8> {
    let mut message = header.to_vec();
    message[2..4].fill(0);
    message.extend(quote);
    let mut frame = [MAC, ROUTER_MAC].concat();
    let len = message.len() as u16;
    let mut pseudo = Vec::new();
    match outer {
        Addresses::V4 { src, dst } => {
            frame.extend([8, 0, 0x45, 0xc0]);
            frame.extend((len + 20).to_be_bytes());
            frame.extend([0x12, 0x34, 0, 0, 60, 1, 0, 0]);
            frame.extend([src.to_be_bytes(), dst.to_be_bytes()].concat());
            let sum = !(checksum::add(0, &frame[14..]) as u16);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        Addresses::V6 { src, dst } => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([58, 60]);
            frame.extend([src, dst].concat());
            pseudo = [&src[..], &dst, &[0, 0], &len.to_be_bytes(), &[0, 0, 0, 58]].concat();
        }
    }
    let sum = !(checksum::add(checksum::add(0, &pseudo), &message) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    frame.extend(message);
    frame
}

/// What parsing finds in such a frame.
fn headers(frame: &[u8], addresses: Addresses) -> Headers {
    let l4 = match addresses {
        Addresses::V4 { .. } => 34,
        Addresses::V6 { .. } => 54,
    };
    Headers { addresses, l3: 14, l4, ip_len: frame.len() as u16 - 14, ..Headers::NONE }
}

fn read(bytes: &mut [u8], addresses: Addresses) -> Result<Quoted, DropReason> {
    let headers = headers(bytes, addresses);
    let len = bytes.len();
    Quoted::read(&Frame::new(bytes, 0, len, len, 0), &headers)
}

fn unreachable(outer: Addresses) -> [u8; 8] {
    match outer {
        Addresses::V4 { .. } => [3, 3, 0, 0, 0, 0, 0, 0],
        Addresses::V6 { .. } => [1, 4, 0, 0, 0, 0, 0, 0],
    }
}

fn origin(source: impl Into<IpAddr>) -> Origin<'static> {
    Origin { source: source.into(), id: 0xbeef, hop: &HOP }
}

fn made(error: Error, quoted: &[u8], origin: &Origin<'_>) -> Option<Vec<u8>> {
    let mut out = Outbox::default();
    let said = make(error, quoted, origin, &mut out);
    let frame = out.frames().next().map(|(port, frame)| {
        assert_eq!(port, crate::outbox::To::Port(HOP.port));
        frame.to_vec()
    });
    assert_eq!(said, frame.is_some());
    frame
}

/// The answer to a SYN. tshark 4.0 finds nothing wrong with this frame, nor with
/// the others here that are written down.
#[test]
fn a_port_unreachable_byte_for_byte() {
    let mut syn = segment(&tcp(pair4(CIP, VIP), 51_000, 80), b"");
    syn.extend([0xee; 6]);
    let frame = made(Error::PortUnreachable, &syn, &origin(Ipv4Addr::from(VIP))).unwrap();
    let expected = [
        &[2, 0, 0, 0, 0, 9, 0, 0x50, 0, 0, 4, 0, 8, 0][..],
        &[0x45, 0xc0, 0, 68, 0xbe, 0xef, 0, 0, 64, 1, 0x37, 0x49],
        &[192, 168, 1, 100, 192, 168, 1, 12],
        &[3, 3, 0x80, 0xd8, 0, 0, 0, 0],
        &syn[..40],
    ];
    assert_eq!(frame, expected.concat());
}

#[test]
fn a_packet_too_big_byte_for_byte() {
    let packet = segment(&tcp(pair6(1, 2), 51_000, 80), &[7; 1400]);
    let error = Error::TooBig { mtu: 1460 };
    let frame = made(error, &packet, &origin(Ipv6Addr::from(address6(2)))).unwrap();
    let expected = [
        &[2, 0, 0, 0, 0, 9, 0, 0x50, 0, 0, 4, 0, 0x86, 0xdd][..],
        &[0x60, 0, 0, 0, 0x04, 0xd8, 58, 64],
        &address6(2),
        &address6(1),
        &[2, 0, 0x52, 0xac, 0, 0, 0x05, 0xb4],
        &packet[..1232],
    ];
    assert_eq!(frame[..102], expected.concat()[..102]);
    assert!(frame == expected.concat());
}

/// Types, codes and the rest of the header, and the longest of each family.
#[test]
fn every_error_has_its_type_and_code() {
    let four = segment(&tcp(pair4(CIP, VIP), 51_000, 80), &[0; 1000]);
    let six = segment(&tcp(pair6(1, 2), 51_000, 80), &[0; 1400]);
    let problem = Error::ParameterProblem { code: 1, pointer: 22 };
    for (error, header4, header6) in [
        (Error::PortUnreachable, [3, 3, 0, 0, 0, 0], [1, 4, 0, 0, 0, 0]),
        (Error::HostUnreachable, [3, 1, 0, 0, 0, 0], [1, 3, 0, 0, 0, 0]),
        (Error::TimeExceeded, [11, 0, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]),
        (Error::TooBig { mtu: 1480 }, [3, 4, 0, 0, 5, 0xc8], [2, 0, 0, 0, 5, 0xc8]),
        (problem, [12, 0, 22, 0, 0, 0], [4, 1, 0, 0, 0, 22]),
    ] {
        let outer = pair4(ROUTER, CIP);
        let frame = made(error, &four, &origin(Ipv4Addr::from(ROUTER))).unwrap();
        assert_eq!(frame.len(), 14 + 576);
        let [kind, code, rest @ ..] = header4;
        let [a, b, c, d] = rest;
        let mut expected = icmp_frame(outer, [kind, code, 0, 0, a, b, c, d], &four[..548]);
        assert_eq!(frame[34..], expected.split_off(34));
        assert!(checksum::ip4_header_is_good(&frame[14..34]));

        let outer = pair6(9, 1);
        let frame = made(error, &six, &origin(Ipv6Addr::from(address6(9)))).unwrap();
        assert_eq!(frame.len(), 14 + 1280);
        let [kind, code, rest @ ..] = header6;
        let [a, b, c, d] = rest;
        let mut expected = icmp_frame(outer, [kind, code, 0, 0, a, b, c, d], &six[..1232]);
        assert_eq!(frame[54..], expected.split_off(54));
    }
}

#[test]
fn nobody_is_told_about_what_nobody_must_be_told_about() {
    type Change = fn(&mut Vec<u8>);
    let rows4: &[(&str, Change, bool)] = &[
        ("good", |_| {}, true),
        ("first fragment", |p| p[6] = 0x20, true),
        ("a later fragment", |p| p[7] = 1, false),
        ("from a group", |p| p[12] = 224, false),
        ("from broadcast", |p| p[12..16].fill(255), false),
        ("from nobody", |p| p[12..16].fill(0), false),
        ("from loopback", |p| p[12] = 127, false),
        ("to a group", |p| p[16] = 239, false),
        ("to broadcast", |p| p[16..20].fill(255), false),
        ("echo request", |p| (p[9], p[20]) = (1, 8), true),
        ("unreachable", |p| (p[9], p[20]) = (1, 3), false),
        ("redirect", |p| (p[9], p[20]) = (1, 5), false),
        ("unknown ICMP", |p| (p[9], p[20]) = (1, 42), false),
        ("ICMP without a type", |p| (p[9], p[3]) = (1, 20), false),
        ("no header", |p| p.truncate(19), false),
        ("header past the bytes", |p| p[0] = 0x4f, false),
        ("header past the length", |p| p[3] = 19, false),
        ("no IP", |p| p[0] = 0x55, false),
    ];
    for (what, change, told) in rows4 {
        let mut packet = segment(&tcp(pair4(CIP, VIP), 51_000, 80), b"");
        change(&mut packet);
        let frame = made(Error::PortUnreachable, &packet, &origin(Ipv4Addr::from(VIP)));
        assert_eq!(frame.is_some(), *told, "{what}");
    }
    let rows6: &[(&str, Change, bool)] = &[
        ("good", |_| {}, true),
        ("from a group", |p| p[8] = 0xff, false),
        ("from nobody", |p| p[8..24].fill(0), false),
        ("to a group", |p| p[24] = 0xff, false),
        ("echo request", |p| (p[6], p[40]) = (58, 128), true),
        ("too big", |p| (p[6], p[40]) = (58, 2), false),
        ("redirect", |p| (p[6], p[40]) = (58, 137), false),
        (
            "too big behind options",
            |p| {
                p[6] = 60;
                p.splice(40..40, [58, 0, 1, 4, 0, 0, 0, 0, 2]);
            },
            false,
        ),
        (
            "a later fragment",
            |p| {
                p[6] = 44;
                p.splice(40..40, [6, 0, 0, 8, 0, 0, 0, 0]);
            },
            false,
        ),
        ("half a header", |p| p.truncate(39), false),
    ];
    for (what, change, told) in rows6 {
        let mut packet = segment(&tcp(pair6(1, 2), 51_000, 80), b"");
        change(&mut packet);
        let frame = made(Error::PortUnreachable, &packet, &origin(Ipv6Addr::from(address6(2))));
        assert_eq!(frame.is_some(), *told, "{what}");
    }
    let packet = segment(&tcp(pair4(CIP, VIP), 51_000, 80), b"");
    assert!(made(Error::TimeExceeded, &packet, &origin(Ipv6Addr::LOCALHOST)).is_none());
}

/// The bytes at hand of a packet in segments are quoted.
#[test]
fn a_full_outbox_and_a_packet_cut_short() {
    let packet = segment(&tcp(pair4(CIP, VIP), 51_000, 80), &[0; 100]);
    let from = origin(Ipv4Addr::from(VIP));
    assert_eq!(made(Error::TimeExceeded, &packet[..60], &from).unwrap().len(), 14 + 28 + 60);
    let mut out = Outbox::default();
    while out.push(0, 1).is_some() {}
    assert!(!make(Error::TimeExceeded, &packet, &from, &mut out));
}

/// Rows of a translated connection's errors. The client's side: what the VIP
/// sent was really the server's. The server's side: what it was sent by the
/// client was sent to the VIP.
fn translations() -> [(Addresses, Tuple, Rewrite); 4] {
    let row = |outer, quoted, new_outer, new_quoted| {
        (outer, quoted, Rewrite { outer: new_outer, embedded: new_quoted })
    };
    [
        row(
            pair4(ROUTER, VIP),
            tcp(pair4(VIP, CIP), 80, 51_000),
            pair4(ROUTER, RIP),
            tcp(pair4(RIP, CIP), 8080, 51_000),
        ),
        row(
            pair4(RIP, CIP),
            tcp(pair4(CIP, RIP), 51_000, 8080),
            pair4(VIP, CIP),
            tcp(pair4(CIP, VIP), 51_000, 80),
        ),
        row(pair6(9, 2), tcp(pair6(2, 1), 80, 51_000), pair6(9, 3), tcp(pair6(3, 1), 8080, 51_000)),
        row(pair6(3, 1), tcp(pair6(1, 3), 51_000, 8080), pair6(2, 1), tcp(pair6(1, 2), 51_000, 80)),
    ]
}

/// The quote of the expected error: the IP header as if made so, the rest as it
/// was but for the ports (the quoted TCP checksum is not touched).
fn expected_quote(before: &[u8], to: &Tuple) -> Vec<u8> {
    let ip = if before[0] >> 4 == 4 { 20 } else { 40 };
    let mut quote = segment(to, &[])[..ip].to_vec();
    quote[2..6].copy_from_slice(&before[2..6]);
    if ip == 20 {
        quote[10..12].fill(0);
        let sum = !(checksum::add(0, &quote) as u16);
        quote[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    quote.extend(to.src_port.to_be_bytes());
    quote.extend(to.dst_port.to_be_bytes());
    quote.extend(&before[ip + 4..]);
    quote
}

#[test]
fn errors_of_connections_are_translated_byte_for_byte() {
    for (outer, quoted_tuple, to) in translations() {
        for l4_bytes in [4, 8, 9, 20, 31] {
            let whole = segment(&quoted_tuple, b"hello world");
            let quote = &whole[..whole.len() - 31 + l4_bytes];
            let mut bytes = icmp_frame(outer, unreachable(outer), quote);
            let mut expected =
                icmp_frame(to.outer, unreachable(outer), &expected_quote(quote, &to.embedded));
            // What the forwarding method does besides.
            expected[..6].copy_from_slice(&ROUTER_MAC);
            expected[6..12].copy_from_slice(&MAC);
            if let Addresses::V4 { .. } = outer {
                expected[22] -= 1;
                expected[24..26].fill(0);
                let sum = !(checksum::add(0, &expected[14..34]) as u16);
                expected[24..26].copy_from_slice(&sum.to_be_bytes());
            } else {
                expected[21] -= 1;
            }

            let headers = headers(&bytes, outer);
            let quoted = read(&mut bytes, outer).unwrap();
            assert_eq!(quoted.tuple(), Some(quoted_tuple));
            let len = bytes.len();
            let mut frame = Frame::new(&mut bytes, 0, len, len, 0);
            rewrite(&mut frame, &headers, &quoted, &to).unwrap();
            dr::forward(&mut frame, &headers, &HOP).unwrap();
            assert_eq!(frame.bytes(), expected, "{outer:?}, {l4_bytes}");
        }
    }
}

/// A translation written down: 8 bytes of a SYN-ACK that VIP:80 sent.
#[test]
fn an_error_from_the_clients_side_written_down() {
    let mut bytes = [
        &[0, 0x50, 0, 0, 4, 0, 2, 0, 0, 0, 0, 9, 8, 0][..],
        &[0x45, 0xc0, 0, 56, 0x12, 0x34, 0, 0, 60, 1, 0xfd, 0xb3],
        &[172, 16, 0, 1, 192, 168, 1, 100],
        &[3, 1, 0x35, 0x75, 0, 0, 0, 0],
        &[0x45, 0, 0, 44, 0, 0, 0x40, 0, 62, 6, 0xb9, 0x0b],
        &[192, 168, 1, 100, 192, 168, 1, 12],
        &[0, 80, 0xc7, 0x38, 0, 0, 0, 1],
    ]
    .concat();
    let outer = pair4(ROUTER, VIP);
    let headers = headers(&bytes, outer);
    let quoted = read(&mut bytes, outer).unwrap();
    let key = tcp(pair4(CIP, VIP), 51_000, 80);
    assert_eq!(quoted.sender_key(), Some(key));
    assert_eq!((quoted.icmp_type, quoted.icmp_code, quoted.mtu), (3, 1, 0));
    assert_eq!((quoted.icmp, quoted.ip, quoted.l4, quoted.end), (34, 42, 62, 70));
    let to = Rewrite { outer: pair4(ROUTER, RIP), embedded: tcp(pair4(RIP, CIP), 8080, 51_000) };
    rewrite(&mut Frame::new(&mut bytes, 0, 70, 70, 0), &headers, &quoted, &to).unwrap();
    let expected = [
        &[0, 0x50, 0, 0, 4, 0, 2, 0, 0, 0, 0, 9, 8, 0][..],
        &[0x45, 0xc0, 0, 56, 0x12, 0x34, 0, 0, 60, 1, 0xb5, 0xbe],
        &[172, 16, 0, 1, 10, 0, 0, 2],
        &[3, 1, 0x16, 0x35, 0, 0, 0, 0],
        &[0x45, 0, 0, 44, 0, 0, 0x40, 0, 62, 6, 0x71, 0x16],
        &[10, 0, 0, 2, 192, 168, 1, 12],
        &[0x1f, 0x90, 0xc7, 0x38, 0, 0, 0, 1],
    ];
    assert_eq!(bytes, expected.concat());
}

#[test]
fn a_rewrite_stays_in_its_family() {
    let outer = pair4(ROUTER, VIP);
    let quote = segment(&tcp(pair4(VIP, CIP), 80, 51_000), b"");
    let mut bytes = icmp_frame(outer, unreachable(outer), &quote);
    let before = bytes.clone();
    let headers = headers(&bytes, outer);
    let quoted = read(&mut bytes, outer).unwrap();
    let six = tcp(pair6(2, 1), 80, 51_000);
    let four = tcp(pair4(VIP, CIP), 80, 51_000);
    for (outer, embedded) in [(pair6(1, 2), six), (outer, six), (pair6(1, 2), four)] {
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, len, 0);
        let result = rewrite(&mut frame, &headers, &quoted, &Rewrite { outer, embedded });
        assert_eq!(result, Err(DropReason::NoTranslation));
    }
    assert_eq!(bytes, before);
}

/// Each row changes a good error's quote or checksum.
#[test]
fn what_tells_no_packet_is_bad() {
    let (outer, tuple) = (pair4(ROUTER, VIP), tcp(pair4(VIP, CIP), 80, 51_000));
    let quote = segment(&tuple, b"");
    let make = |quote: &[u8]| icmp_frame(outer, unreachable(outer), quote);
    assert!(read(&mut make(&quote[..24]), outer).is_ok());
    for (what, mut bytes) in [
        ("three bytes of TCP", make(&quote[..23])),
        ("half a header", make(&quote[..19])),
        ("nothing", make(&[])),
        ("an IPv6 packet", make(&segment(&tcp(pair6(1, 2), 80, 51_000), b""))),
        ("half an ICMP header", make(&[])[..41].to_vec()),
    ] {
        assert_eq!(read(&mut bytes, outer), Err(DropReason::IcmpBad), "{what}");
    }
    let mut wrong = make(&quote);
    wrong[36] ^= 1;
    assert_eq!(read(&mut wrong, outer), Err(DropReason::IcmpBad));
    // In a packet in segments nobody could tell.
    let headers = headers(&wrong, outer);
    let frame = Frame::new(&mut wrong, 0, 66, 1000, 0);
    assert_eq!(Quoted::read(&frame, &headers).unwrap().ports, Some((80, 51_000)));

    let outer = pair6(9, 2);
    let quote = segment(&tcp(pair6(2, 1), 80, 51_000), b"");
    let mut bytes = icmp_frame(outer, unreachable(outer), &quote);
    bytes[60] ^= 1;
    assert_eq!(read(&mut bytes, outer), Err(DropReason::IcmpBad));
}

#[test]
fn ports_are_found_behind_options_and_not_in_later_fragments() {
    let outer = pair4(ROUTER, VIP);
    let mut quote = segment(&tcp(pair4(VIP, CIP), 80, 51_000), b"");
    quote[0] = 0x46;
    quote.splice(20..20, [1, 1, 1, 0]);
    let quoted = read(&mut icmp_frame(outer, unreachable(outer), &quote), outer).unwrap();
    assert_eq!((quoted.ports, quoted.l4), (Some((80, 51_000)), 66));
    quote[6..8].copy_from_slice(&[0x20, 0]);
    let quoted = read(&mut icmp_frame(outer, unreachable(outer), &quote), outer).unwrap();
    assert_eq!(quoted.ports, Some((80, 51_000)));
    quote[7] = 9;
    let quoted = read(&mut icmp_frame(outer, unreachable(outer), &quote), outer).unwrap();
    assert_eq!((quoted.ports, quoted.tuple()), (None, None));

    let outer = pair6(9, 2);
    let mut quote = segment(&tcp(pair6(2, 1), 80, 51_000), b"");
    quote[6] = 60;
    quote.splice(40..40, [44, 0, 1, 4, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 7]);
    let quoted = read(&mut icmp_frame(outer, unreachable(outer), &quote), outer).unwrap();
    assert_eq!((quoted.ports, quoted.l4), (Some((80, 51_000)), 62 + 56));
    quote[51] = 8;
    let quoted = read(&mut icmp_frame(outer, unreachable(outer), &quote), outer).unwrap();
    assert_eq!((quoted.ports, quoted.protocol), (None, 6));
}

/// A later fragment's error is translated without its ports.
#[test]
fn what_has_no_ports_keeps_its_bytes() {
    let outer = pair4(ROUTER, VIP);
    let mut quote = segment(&tcp(pair4(VIP, CIP), 80, 51_000), b"");
    quote[7] = 9;
    let mut bytes = icmp_frame(outer, unreachable(outer), &quote[..22]);
    let headers = headers(&bytes, outer);
    let quoted = read(&mut bytes, outer).unwrap();
    let to = Rewrite { outer: pair4(ROUTER, RIP), embedded: tcp(pair4(RIP, CIP), 8080, 51_000) };
    let len = bytes.len();
    rewrite(&mut Frame::new(&mut bytes, 0, len, len, 0), &headers, &quoted, &to).unwrap();
    assert_eq!(bytes[62..], quote[20..22]);
    assert_eq!(checksum::add(0, &bytes[34..]), 0xffff);
}

#[test]
fn the_mtu_is_read() {
    let outer = pair4(ROUTER, VIP);
    let quote = segment(&tcp(pair4(VIP, CIP), 80, 51_000), b"");
    let mut bytes = icmp_frame(outer, [3, 4, 0, 0, 0xff, 0xff, 5, 0xb4], &quote);
    assert_eq!(read(&mut bytes, outer).unwrap().mtu, 1460);
    let outer = pair6(9, 2);
    let quote = segment(&tcp(pair6(2, 1), 80, 51_000), b"");
    let mut bytes = icmp_frame(outer, [2, 0, 0, 0, 0, 1, 5, 0xb4], &quote);
    assert_eq!(read(&mut bytes, outer).unwrap().mtu, 0x0001_05b4);
}

/// Errors about outer packets: what they carried is found, and a new error can
/// be made of it.
#[test]
fn the_inner_packet_of_a_tunnel_is_found() {
    let client4 = tcp(pair4(CIP, VIP), 51_000, 80);
    let client6 = tcp(pair6(1, 2), 51_000, 80);
    let (four, six) = (segment(&client4, b"data"), segment(&client6, b"data"));
    let gue4 = [0xc0, 0, 0x17, 0xc1, 0, 0, 0, 0, 0, 4, 0, 0];
    let gue6 = [0xc0, 0, 0x17, 0xc1, 0, 0, 0, 0, 1, 41, 0, 0, 9, 9, 9, 9];
    type Row<'a> = (&'a str, u8, &'a [u8], &'a [u8], Tuple);
    let rows: &[Row<'_>] = &[
        ("4 in IPIP", 4, &[], &four, client4),
        ("6 in IPIP", 41, &[], &six, client6),
        ("4 in GRE", 47, &[0, 0, 8, 0], &four, client4),
        ("6 in GRE", 47, &[0, 0, 0x86, 0xdd], &six, client6),
        ("4 in GRE, checksum", 47, &[0x80, 0, 8, 0, 1, 2, 0, 0], &four, client4),
        ("6 in GRE, checksum", 47, &[0x80, 0, 0x86, 0xdd, 1, 2, 0, 0], &six, client6),
        ("4 in GUE", 17, &gue4, &four, client4),
        ("6 in GUE with a field", 17, &gue6, &six, client6),
    ];
    for (what, protocol, overhead, inner, tuple) in rows {
        for (outer, ip) in [(pair4(ROUTER, VIP), 20), (pair6(9, 2), 40)] {
            let tunnel = match outer {
                Addresses::V4 { .. } => tcp(pair4(VIP, RIP), 0, 0),
                Addresses::V6 { .. } => tcp(pair6(2, 3), 0, 0),
            };
            let mut quote = segment(&tunnel, b"")[..ip].to_vec();
            quote[if ip == 20 { 9 } else { 6 }] = *protocol;
            let len = (overhead.len() + inner.len()) as u16;
            let (at, len) = if ip == 20 { (2, len + 20) } else { (4, len) };
            quote[at..at + 2].copy_from_slice(&len.to_be_bytes());
            quote.extend(*overhead);
            quote.extend(*inner);
            let quote_len = quote.len();
            // An extension structure, or padding, behind the quoted packet.
            quote.extend([0x20; 8]);
            let mut bytes = icmp_frame(outer, unreachable(outer), &quote);
            let headers = headers(&bytes, outer);
            let total = bytes.len();
            let frame = Frame::new(&mut bytes, 0, total, total, 0);
            let quoted = Quoted::read(&frame, &headers).unwrap();
            let found = quoted.inner(&frame).unwrap();
            assert_eq!(found.tuple, *tuple, "{what}");
            assert_eq!(quoted.inner_packet(&frame, &found), *inner, "{what}");
            assert_eq!(quoted.packet(&frame), &quote[..quote_len], "{what}");
            let source: IpAddr = match tuple.addresses {
                Addresses::V4 { dst, .. } => Ipv4Addr::from(dst).into(),
                Addresses::V6 { dst, .. } => Ipv6Addr::from(dst).into(),
            };
            let error = Error::TooBig { mtu: 1480 };
            let told = made(error, quoted.inner_packet(&frame, &found), &origin(source));
            assert!(told.unwrap().ends_with(inner), "{what}");
        }
    }
}

#[test]
fn an_extension_structure_is_not_quoted_again() {
    let outer = pair4(ROUTER, VIP);
    let quote = segment(&tcp(pair4(VIP, CIP), 80, 51_000), &[0; 200]);
    let mut bytes = icmp_frame(outer, [3, 4, 0, 0, 0, 32, 5, 0], &quote[..200]);
    let quoted = read(&mut bytes, outer).unwrap();
    assert_eq!(quoted.end - quoted.ip, 128);
    let outer = pair6(9, 2);
    let quote = segment(&tcp(pair6(2, 1), 80, 51_000), &[0; 200]);
    let mut bytes = icmp_frame(outer, [3, 0, 0, 0, 17, 0, 0, 0], &quote[..200]);
    let quoted = read(&mut bytes, outer).unwrap();
    assert_eq!(quoted.end - quoted.ip, 136);
}

#[test]
fn no_inner_packet_where_there_is_none() {
    let outer = pair4(ROUTER, VIP);
    let mut quote = segment(&tcp(pair4(VIP, RIP), 0, 0), b"");
    for (protocol, l4) in [
        (4, vec![]),
        (4, vec![0x45; 8]),
        (47, vec![0x20, 0, 8, 0, 0, 0, 0, 0]),
        (47, vec![0, 0, 8]),
        (17, vec![0; 11]),
        (17, vec![0, 1, 2, 3, 0, 0, 0, 0, 0x20, 4, 0, 0]),
        (6, vec![0x45; 40]),
    ] {
        quote[9] = protocol;
        quote.truncate(20);
        quote.extend(&l4);
        let mut bytes = icmp_frame(outer, unreachable(outer), &quote);
        let headers = headers(&bytes, outer);
        let len = bytes.len();
        let frame = Frame::new(&mut bytes, 0, len, len, 0);
        let quoted = Quoted::read(&frame, &headers).unwrap();
        assert_eq!(quoted.inner(&frame), None, "{protocol} {l4:?}");
    }
}

/// An error about a connection's packet, and addresses and ports for it.
fn any_rewrite() -> impl Strategy<Value = (Vec<u8>, Addresses, Rewrite)> {
    let numbers = (any::<[u64; 8]>(), any::<[u16; 4]>(), 4usize..40, any::<bool>());
    numbers.prop_map(|(words, ports, l4_bytes, six)| {
        let address = |i: usize| (u128::from(words[i]) << 64) | u128::from(words[7 - i]);
        let pair = |i: usize| match six {
            true => {
                Addresses::V6 { src: address(i).to_be_bytes(), dst: address(i + 4).to_be_bytes() }
            }
            false => pair4(words[i] as u32, words[i + 4] as u32),
        };
        let outer = pair(0);
        let whole = segment(&tcp(pair(1), ports[0], ports[1]), &[words[0] as u8; 21]);
        let quote = &whole[..whole.len() - 41 + l4_bytes];
        let frame = icmp_frame(outer, unreachable(outer), quote);
        let embedded = tcp(pair(3), ports[2], ports[3]);
        (frame, outer, Rewrite { outer: pair(2), embedded })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// There and back is where it was, and in between all checksums are right.
    #[test]
    fn a_rewrite_and_its_reverse_are_the_identity((frame, outer, to) in any_rewrite()) {
        let mut bytes = frame.clone();
        let mut headers = headers(&bytes, outer);
        let quoted = read(&mut bytes, outer).unwrap();
        let back = Rewrite { outer, embedded: quoted.tuple().unwrap() };
        let len = bytes.len();
        rewrite(&mut Frame::new(&mut bytes, 0, len, len, 0), &headers, &quoted, &to).unwrap();
        let there = read(&mut bytes, to.outer);
        prop_assert_eq!(there.map(|q| q.tuple()), Ok(Some(to.embedded)));
        if let Addresses::V4 { .. } = outer {
            prop_assert!(checksum::ip4_header_is_good(&bytes[14..34]));
            prop_assert!(checksum::ip4_header_is_good(&bytes[42..62]));
        }
        headers.addresses = to.outer;
        rewrite(&mut Frame::new(&mut bytes, 0, len, len, 0), &headers, &quoted, &back).unwrap();
        prop_assert_eq!(bytes, frame);
    }

    /// A checksum that was wrong stays wrong: the message's, and the quoted
    /// header's.
    #[test]
    fn a_wrong_checksum_stays_wrong(
        (mut bytes, outer, to) in any_rewrite(),
        error in 1u16..0xffff,
    ) {
        let headers = headers(&bytes, outer);
        let quoted = read(&mut bytes, outer).unwrap();
        let message = usize::from(quoted.icmp) + 2;
        let mut spoil = |at: usize| {
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            let wrong = checksum::fold(u64::from(old) + u64::from(error));
            bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        };
        spoil(message);
        let len = bytes.len();
        rewrite(&mut Frame::new(&mut bytes, 0, len, len, 0), &headers, &quoted, &to).unwrap();
        prop_assert_eq!(read(&mut bytes, to.outer), Err(DropReason::IcmpBad));
        if let Addresses::V4 { .. } = outer {
            prop_assert!(checksum::ip4_header_is_good(&bytes[42..62]));
        }
    }

    /// No bytes make anything here panic.
    #[test]
    fn nothing_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 54..300),
        version in 0usize..4,
        quoted_version in 0usize..4,
        protocol in 0usize..8,
        cut in 0usize..300,
    ) {
        let six = version & 1 == 1;
        let (outer, l4) = if six { (pair6(9, 2), 54) } else { (pair4(ROUTER, VIP), 34) };
        let protocols = [4, 41, 47, 17, 6, 44, 0, 58];
        let quote_at = l4 + 8;
        if bytes.len() > quote_at + 10 {
            bytes[quote_at] = [0x45, 0x60, 0x46, bytes[quote_at]][quoted_version];
            bytes[quote_at + 9] = protocols[protocol];
            bytes[quote_at + 6] = protocols[protocol];
        }
        let mut headers = headers(&bytes, outer);
        headers.ip_len += 1000;
        let len = bytes.len().min(cut.max(l4));
        let total = bytes.len() + 1000;
        let mut frame = Frame::new(&mut bytes, 0, len, total, 0);
        for source in [IpAddr::V4(Ipv4Addr::from(VIP)), IpAddr::V6(address6(2).into())] {
            made(Error::TimeExceeded, frame.bytes().get(quote_at..).unwrap_or_default(), &origin(source));
        }
        if let Ok(quoted) = Quoted::read(&frame, &headers) {
            if let Some(inner) = quoted.inner(&frame) {
                prop_assert!(!quoted.inner_packet(&frame, &inner).is_empty());
            }
            let to = Rewrite { outer, embedded: tcp(outer, 1, 2) };
            prop_assert_eq!(rewrite(&mut frame, &headers, &quoted, &to), Ok(()));
        }
    }
}
