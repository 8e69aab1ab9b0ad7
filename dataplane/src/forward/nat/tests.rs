use etherparse::{Ipv4Header, PacketBuilder};
use proptest::prelude::*;

use super::*;
use crate::forward::testing::{HEADROOM, MAC, PEER_MAC, Segment, edit, headers_of, verifies};
use crate::packet::Family;
use crate::packet::headers::Addresses;

const CIP: [u8; 4] = [192, 168, 1, 12];
const VIP: [u8; 4] = [192, 168, 1, 100];
const RIP: [u8; 4] = [10, 0, 2, 31];
const CIP6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];
const VIP6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
const RIP6: [u8; 16] = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x31];

fn tuple4(src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Tuple4 {
    let (src_port, dst_port) = (src.1, dst.1);
    Tuple4 { src: u32::from_be_bytes(src.0), dst: u32::from_be_bytes(dst.0), src_port, dst_port }
}

fn tuple6(src: ([u8; 16], u16), dst: ([u8; 16], u16)) -> Tuple6 {
    Tuple6 { src: src.0, dst: dst.0, src_port: src.1, dst_port: dst.1 }
}

fn to4(bytes: &[u8], to: &Tuple4) -> (Vec<u8>, Result<(), DropReason>) {
    edit(bytes, |frame, headers| {
        let Addresses::V4 { src, dst } = headers.addresses else { panic!("IPv6") };
        let from = Tuple4 { src, dst, src_port: headers.src_port, dst_port: headers.dst_port };
        rewrite4(frame, headers, to, delta4(&from, to))
    })
}

fn to6(bytes: &[u8], to: &Tuple6) -> (Vec<u8>, Result<(), DropReason>) {
    edit(bytes, |frame, headers| {
        let Addresses::V6 { src, dst } = headers.addresses else { panic!("IPv4") };
        let from = Tuple6 { src, dst, src_port: headers.src_port, dst_port: headers.dst_port };
        rewrite6(frame, headers, to, delta6(&from, to))
    })
}

fn udp4(src: ([u8; 4], u16), dst: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ip = PacketBuilder::ethernet2(PEER_MAC, MAC).ipv4(src.0, dst.0, 64);
    ip.udp(src.1, dst.1).write(&mut bytes, payload).unwrap();
    bytes
}

fn udp6(src: ([u8; 16], u16), dst: ([u8; 16], u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let ip = PacketBuilder::ethernet2(PEER_MAC, MAC).ipv6(src.0, dst.0, 64);
    ip.udp(src.1, dst.1).write(&mut bytes, payload).unwrap();
    bytes
}

/// An SCTP packet with the right CRC.
fn sctp4(src: ([u8; 4], u16), dst: ([u8; 4], u16), chunks: &[u8]) -> Vec<u8> {
    let mut sctp = ports(src.1, dst.1).to_vec();
    sctp.extend_from_slice(&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0]);
    sctp.extend_from_slice(chunks);
    let crc = crc32c::crc32c(&sctp);
    sctp[8..12].copy_from_slice(&crc.to_le_bytes());
    let mut bytes = Vec::new();
    let ip = PacketBuilder::ethernet2(PEER_MAC, MAC).ipv4(src.0, dst.0, 64);
    ip.write(&mut bytes, etherparse::IpNumber::SCTP, &sctp).unwrap();
    bytes
}

/// NAT's request and reply, and both sides at once: the bytes are those that a
/// host would have built.
#[test]
fn tcp_becomes_what_a_host_would_have_sent() {
    let segment = Segment { seq: 7, ack: 9, payload: b"GET / HTTP/1.1", ..Segment::ACK };
    for (from, to) in [
        (((CIP, 51_000), (VIP, 80)), ((CIP, 51_000), (RIP, 8080))),
        (((RIP, 8080), (CIP, 51_000)), ((VIP, 80), (CIP, 51_000))),
        (((CIP, 51_000), (VIP, 80)), (([10, 0, 2, 1], 1025), (RIP, 8080))),
        (((CIP, 51_000), (VIP, 80)), ((CIP, 51_000), (VIP, 80))),
    ] {
        let (bytes, result) = to4(&segment.bytes4(from.0, from.1), &tuple4(to.0, to.1));
        assert_eq!(result, Ok(()));
        assert_eq!(bytes, segment.bytes4(to.0, to.1), "{to:?}");
    }
    let from = segment.bytes6((CIP6, 51_000), (VIP6, 80));
    let (bytes, result) = to6(&from, &tuple6((CIP6, 51_000), (RIP6, 8080)));
    assert_eq!(result, Ok(()));
    assert_eq!(bytes, segment.bytes6((CIP6, 51_000), (RIP6, 8080)));
}

#[test]
fn udp_becomes_what_a_host_would_have_sent() {
    let (bytes, result) =
        to4(&udp4((CIP, 5353), (VIP, 53), b"odd"), &tuple4((CIP, 5353), (RIP, 5300)));
    assert_eq!(result, Ok(()));
    assert_eq!(bytes, udp4((CIP, 5353), (RIP, 5300), b"odd"));
    let (bytes, result) =
        to6(&udp6((CIP6, 5353), (VIP6, 53), b"odd"), &tuple6((CIP6, 5353), (RIP6, 5300)));
    assert_eq!(result, Ok(()));
    assert_eq!(bytes, udp6((CIP6, 5353), (RIP6, 5300), b"odd"));
}

#[test]
fn sctp_gets_the_crc_of_its_new_ports() {
    let (bytes, result) =
        to4(&sctp4((CIP, 3868), (VIP, 99), b"chunks"), &tuple4((CIP, 3868), (RIP, 3868)));
    assert_eq!(result, Ok(()));
    assert_eq!(bytes, sctp4((CIP, 3868), (RIP, 3868), b"chunks"));
}

/// Through all ports the checksum takes every value: TCP's leaves as 0, UDP's
/// as 0xffff, and all verify.
#[test]
fn the_ends_of_the_checksums_range_verify() {
    let tcp = Segment { payload: b"odd", ..Segment::ACK }.bytes4((CIP, 1), (VIP, 80));
    let udp = udp4((CIP, 1), (VIP, 80), b"odd");
    let l4_of_udp6 = 14 + 40 + 6;
    let udp6 = udp6((CIP6, 1), (VIP6, 80), b"odd");
    let (mut tcp_zero, mut udp_ones, mut udp6_ones) = (0, 0, 0);
    for port in 0..=u16::MAX {
        let to = tuple4((CIP, port), (RIP, 80));
        let (bytes, _) = to4(&tcp, &to);
        tcp_zero += u32::from(bytes[50..52] == [0, 0]);
        assert!(verifies(&bytes) && bytes[50..52] != [0xff, 0xff], "TCP, port {port}");
        let (bytes, _) = to4(&udp, &to);
        udp_ones += u32::from(bytes[40..42] == [0xff, 0xff]);
        assert!(verifies(&bytes), "UDP, port {port}");
        let (bytes, _) = to6(&udp6, &tuple6((CIP6, port), (RIP6, 80)));
        udp6_ones += u32::from(bytes[l4_of_udp6..][..2] == [0xff, 0xff]);
        assert!(verifies(&bytes), "UDP over IPv6, port {port}");
    }
    // Ports 0 and 0xffff add the same, so that one of the sums may come twice.
    assert!((1..=2).contains(&tcp_zero), "{tcp_zero}");
    assert!((1..=2).contains(&udp_ones), "{udp_ones}");
    assert!((1..=2).contains(&udp6_ones), "{udp6_ones}");
}

/// As the kernel does, over IPv4 and IPv6.
#[test]
fn a_missing_checksum_is_filled_in() {
    let mut bytes = udp4((CIP, 5353), (VIP, 53), b"odd");
    bytes[40..42].fill(0);
    let (bytes, _) = to4(&bytes, &tuple4((CIP, 5353), (RIP, 53)));
    assert_eq!(bytes, udp4((CIP, 5353), (RIP, 53), b"odd"));

    let mut bytes = udp6((CIP6, 5353), (VIP6, 53), b"odd");
    bytes[60..62].fill(0);
    let (bytes, _) = to6(&bytes, &tuple6((CIP6, 5353), (RIP6, 53)));
    assert_eq!(bytes, udp6((CIP6, 5353), (RIP6, 53), b"odd"));
}

/// 0 is a CRC: right where it was right, wrong by as much where it was wrong.
#[test]
fn a_crc_of_0_is_changed_as_any_other() {
    let stored = |bytes: &[u8]| u32::from_le_bytes(*bytes[42..].first_chunk().unwrap());
    let good = sctp4((CIP, 99), (VIP, 99), b"chunks");
    let mut zero = good.clone();
    zero[42..46].fill(0);
    let mut expected = sctp4((CIP, 99), (RIP, 100), b"chunks");
    let crc = stored(&expected) ^ stored(&good);
    expected[42..46].copy_from_slice(&crc.to_le_bytes());
    let (bytes, result) = to4(&zero, &tuple4((CIP, 99), (RIP, 100)));
    assert_eq!((&bytes, result), (&expected, Ok(())));
    assert!(!verifies(&bytes));

    // The last four bytes are such that 0 is right.
    let good = sctp4((CIP, 99), (VIP, 99), b"CRC \x06\xd7\xc2\x93");
    assert_eq!(stored(&good), 0);
    let (bytes, _) = to4(&good, &tuple4((CIP, 99), (RIP, 100)));
    assert!(verifies(&bytes) && stored(&bytes) != 0);
    let (back, _) = to4(&bytes, &tuple4((CIP, 99), (VIP, 99)));
    assert_eq!(back, good);
}

/// A sum that would be computed as 0 says 0xffff instead.
#[test]
fn a_filled_in_checksum_is_never_zero() {
    let to = tuple4((CIP, 5353), (RIP, 53));
    let right = udp4((CIP, 5353), (RIP, 53), &[0, 0]);
    // The payload takes up what is missing.
    let payload = [right[40], right[41]];
    let mut bytes = udp4((CIP, 5353), (VIP, 53), &payload);
    bytes[40..42].fill(0);
    let (bytes, _) = to4(&bytes, &to);
    assert_eq!(bytes[40..42], [0xff, 0xff]);
    assert!(verifies(&bytes));
}

#[test]
fn a_missing_checksum_stays_so_where_it_cannot_be_computed() {
    let mut bytes = udp4((CIP, 5353), (VIP, 53), b"payload!");
    bytes[40..42].fill(0);
    let to = tuple4((CIP, 5353), (RIP, 53));
    // A UDP length beyond the packet, and one within the header.
    for len in [0x0011_u16, 0x0007] {
        let mut bytes = bytes.clone();
        bytes[38..40].copy_from_slice(&len.to_be_bytes());
        assert_eq!(to4(&bytes, &to).0[40..42], [0, 0], "UDP length {len}");
    }
    // A first fragment, and a packet that goes on in another segment.
    let mut headers = headers_of(&bytes);
    let mut buffer = bytes.clone();
    let mut frame = Frame::new(&mut buffer, 0, 44, bytes.len(), 0);
    rewrite4(&mut frame, &headers, &to, Deltas { ip: 0, l4: 0 }).unwrap();
    assert_eq!(frame.bytes()[40..42], [0, 0]);
    headers.fragment = true;
    let len = bytes.len();
    let mut frame = Frame::new(&mut bytes, 0, len, len, 0);
    rewrite4(&mut frame, &headers, &to, Deltas { ip: 0, l4: 0 }).unwrap();
    assert_eq!(frame.bytes()[40..42], [0, 0]);
}

/// Cuts a packet into two fragments as a router would, at `at` bytes of its
/// payload.
fn fragments(bytes: &[u8], at: usize) -> [Vec<u8>; 2] {
    let payload = &bytes[34..];
    let piece = |payload: &[u8], more: bool, offset: usize| {
        let (mut ip, _) = Ipv4Header::from_slice(&bytes[14..]).unwrap();
        ip.more_fragments = more;
        ip.fragment_offset = etherparse::IpFragOffset::try_new((offset / 8) as u16).unwrap();
        ip.total_len = 20 + payload.len() as u16;
        ip.header_checksum = ip.calc_header_checksum();
        [&bytes[..14], &ip.to_bytes(), payload].concat()
    };
    [piece(&payload[..at], true, 0), piece(&payload[at..], false, at)]
}

/// The fragments of the rewritten datagram are the rewritten fragments.
#[test]
fn fragments_are_those_of_the_rewritten_datagram() {
    let payload: Vec<u8> = (0..47).collect();
    let to = tuple4((CIP, 5353), (RIP, 5300));
    let from = tuple4((CIP, 5353), (VIP, 53));
    let deltas = delta4(&from, &to);
    let pieces = fragments(&udp4((CIP, 5353), (VIP, 53), &payload), 24);
    let expected = fragments(&udp4((CIP, 5353), (RIP, 5300), &payload), 24);
    let (first, result) = edit(&pieces[0], |frame, headers| {
        assert!(headers.fragment);
        rewrite4(frame, headers, &to, deltas)
    });
    assert_eq!((first, result), (expected[0].clone(), Ok(())));
    let (later, ()) = edit(&pieces[1], |frame, headers| {
        rewrite_later_fragment4(frame, headers, &to, deltas);
    });
    assert_eq!(later, expected[1]);

    let mut later = udp6((CIP6, 1), (VIP6, 2), b"");
    let headers = headers_of(&later);
    let len = later.len();
    let mut frame = Frame::new(&mut later, 0, len, len, 0);
    rewrite_later_fragment6(&mut frame, &headers, &tuple6((CIP6, 7), (RIP6, 8)));
    assert_eq!(later[22..54], [CIP6, RIP6].concat());
    assert_eq!(later[54..58], [0, 1, 0, 2], "what would be ports is payload");
}

#[test]
fn fragments_that_cannot_be_rewritten_are_left_alone() {
    let tcp = Segment { payload: b"payload", ..Segment::ACK }.bytes4((CIP, 1), (VIP, 80));
    let [tiny, _] = fragments(&tcp, 16);
    let to = tuple4((CIP, 1), (RIP, 8080));
    let deltas = Deltas { ip: 1, l4: 1 };
    // Padding does not count as the header's missing part.
    let padded = [&tiny[..], &[0; 10]].concat();
    for tiny in [tiny, padded] {
        let (bytes, result) = edit(&tiny, |frame, headers| rewrite4(frame, headers, &to, deltas));
        assert_eq!((bytes, result), (tiny, Err(DropReason::L4Truncated)));
    }

    let sctp = sctp4((CIP, 1), (VIP, 80), b"a chunk of data.");
    let [first, _] = fragments(&sctp, 16);
    let (bytes, result) = edit(&first, |frame, headers| rewrite4(frame, headers, &to, deltas));
    assert_eq!((bytes, result), (first.clone(), Err(DropReason::NoTranslation)));
    // Addresses are not in the CRC.
    let to = tuple4((CIP, 1), (RIP, 80));
    let deltas = delta4(&tuple4((CIP, 1), (VIP, 80)), &to);
    let (bytes, result) = edit(&first, |frame, headers| rewrite4(frame, headers, &to, deltas));
    let expected = fragments(&sctp4((CIP, 1), (RIP, 80), b"a chunk of data."), 16);
    assert_eq!((&bytes, result), (&expected[0], Ok(())));
}

/// Headers are all that is read of TCP and SCTP, whatever lies in the next
/// segment.
#[test]
fn packets_in_segments_are_rewritten_by_their_headers() {
    let to = tuple4((CIP, 1), (RIP, 8080));
    let payload = [7; 100];
    for (from, expected) in [
        (
            Segment { payload: &payload, ..Segment::ACK }.bytes4((CIP, 1), (VIP, 80)),
            Segment { payload: &payload, ..Segment::ACK }.bytes4((CIP, 1), (RIP, 8080)),
        ),
        (sctp4((CIP, 1), (VIP, 80), &payload), sctp4((CIP, 1), (RIP, 8080), &payload)),
    ] {
        let headers = headers_of(&from);
        let deltas = delta4(&tuple4((CIP, 1), (VIP, 80)), &to);
        let mut first = vec![0; HEADROOM];
        first.extend_from_slice(&from[..60]);
        let mut frame = Frame::new(&mut first, HEADROOM, 60, from.len(), 0);
        assert_eq!(rewrite4(&mut frame, &headers, &to, deltas), Ok(()));
        assert_eq!(frame.bytes(), &expected[..60]);
    }
}

/// Words at which one's complement sums turn.
fn word() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(0xffff), Just(1), Just(0xfffe), any::<u16>()]
}

/// An address whose first 16 bits are unsuspicious.
fn address6() -> impl Strategy<Value = [u8; 16]> {
    proptest::collection::vec(word(), 7).prop_map(|words| {
        let mut bytes = [0x20; 16];
        for (to, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    })
}

fn tuple() -> impl Strategy<Value = Tuple6> {
    (address6(), address6(), word(), word()).prop_map(|(src, dst, src_port, dst_port)| Tuple6 {
        src,
        dst,
        src_port,
        dst_port,
    })
}

/// A tuple of IPv4 with as varied words.
fn shorter(tuple: &Tuple6) -> Tuple4 {
    let address = |a: &[u8; 16]| u32::from_be_bytes([10, a[3], a[4], a[5]]);
    let Tuple6 { src, dst, src_port, dst_port } = tuple;
    Tuple4 { src: address(src), dst: address(dst), src_port: *src_port, dst_port: *dst_port }
}

/// A packet with these addresses and payload, and its checksum off by `error`.
fn packet(
    family: Family,
    protocol: Protocol,
    tuple: &Tuple6,
    payload: &[u8],
    error: u16,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let segment = Segment { seq: 5, ack: 6, payload, ..Segment::ACK };
    let short = shorter(tuple);
    let src4 = (short.src.to_be_bytes(), tuple.src_port);
    let dst4 = (short.dst.to_be_bytes(), tuple.dst_port);
    let (src6, dst6) = ((tuple.src, tuple.src_port), (tuple.dst, tuple.dst_port));
    match (family, protocol) {
        (Family::V4, Protocol::Tcp) => bytes = segment.bytes4(src4, dst4),
        (Family::V6, Protocol::Tcp) => bytes = segment.bytes6(src6, dst6),
        (Family::V4, Protocol::Udp) => bytes = udp4(src4, dst4, payload),
        (Family::V6, Protocol::Udp) => bytes = udp6(src6, dst6, payload),
        (Family::V4, Protocol::Sctp) => bytes = sctp4(src4, dst4, payload),
        (Family::V6, Protocol::Sctp) => {
            let sctp = &sctp4(src4, dst4, payload)[34..];
            let ip = PacketBuilder::ethernet2(PEER_MAC, MAC).ipv6(src6.0, dst6.0, 64);
            ip.write(&mut bytes, etherparse::IpNumber::SCTP, sctp).unwrap();
        }
    }
    let headers = headers_of(&bytes);
    let at = usize::from(headers.l4)
        + match protocol {
            Protocol::Tcp => 16,
            Protocol::Udp => 6,
            Protocol::Sctp => 8,
        };
    let sum = u16::from_be_bytes([bytes[at], bytes[at + 1]]) ^ error;
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn rewritten(bytes: &[u8], to: &Tuple6) -> Vec<u8> {
    let (bytes, result) = match headers_of(bytes).family() {
        Family::V4 => to4(bytes, &shorter(to)),
        Family::V6 => to6(bytes, to),
    };
    assert_eq!(result, Ok(()));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// What packets one way need says what those the other way need, to the bit.
    #[test]
    fn differences_have_an_opposite(from in tuple(), to in tuple()) {
        let six = |from: &Tuple6, to: &Tuple6| Deltas { ip: 0xffff, l4: delta6(from, to) };
        prop_assert_eq!(six(&from, &to).opposite(), six(&to.reversed(), &from.reversed()));
        prop_assert_eq!(six(&from, &from).opposite().l4, 0xffff);
        let (from, to) = (shorter(&from), shorter(&to));
        prop_assert_eq!(
            delta4(&from, &to).opposite(),
            delta4(&to.reversed(), &from.reversed())
        );
    }

    /// Checksums verify afterwards if and only if they did before, nothing but
    /// addresses, ports and checksums changes, and the way back leads back.
    #[test]
    fn rewriting_keeps_right_right_and_wrong_wrong(
        v6: bool,
        protocol in prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)],
        from in tuple(),
        to in tuple(),
        payload in proptest::collection::vec(any::<u8>(), 0..40),
        error in prop_oneof![Just(0), word()],
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        let before = packet(family, protocol, &from, &payload, error);
        let headers = headers_of(&before);
        let at = usize::from(headers.l4) + 6;
        let none = protocol == Protocol::Udp && before[at..at + 2] == [0, 0];
        let there = rewritten(&before, &to);
        // headers_of fails where the IPv4 header's checksum is wrong.
        let told = headers_of(&there);
        prop_assert_eq!((told.src_port, told.dst_port), (to.src_port, to.dst_port));
        prop_assert_eq!(verifies(&there), verifies(&before) || none);
        let right = packet(family, protocol, &to, &payload, 0);
        let checksums = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let (at, len) = match protocol {
                Protocol::Tcp => (16, 2),
                Protocol::Udp => (6, 2),
                Protocol::Sctp => (8, 4),
            };
            bytes[usize::from(headers.l4) + at..][..len].fill(0);
            bytes
        };
        prop_assert_eq!(checksums(&there), checksums(&right));
        if !none {
            let back = rewritten(&there, &from);
            prop_assert_eq!(checksums(&back), checksums(&before));
            prop_assert_eq!(verifies(&back), verifies(&before));
        }
    }
}
