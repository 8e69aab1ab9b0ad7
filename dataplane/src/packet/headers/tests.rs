use etherparse::{IpFragOffset, IpNumber, Ipv4Extensions, Ipv4Header, PacketBuilder};

use super::*;

const MAC: Mac = [0, 0x50, 0, 0, 4, 0];
const CLIENT_MAC: Mac = [0, 0x50, 0, 0, 3, 0];
const CIP: [u8; 4] = [192, 168, 1, 12];
const VIP: [u8; 4] = [192, 168, 1, 100];

fn parse_bytes(bytes: &[u8]) -> Result<Parsed, DropReason> {
    parse_into(bytes, &mut { Headers::NONE })
}

fn parse_into(bytes: &[u8], headers: &mut Headers) -> Result<Parsed, DropReason> {
    let mut buffer = bytes.to_vec();
    let len = buffer.len();
    parse(&Frame::new(&mut buffer, 0, len, len, 0), MAC, headers)
}

fn tcp4() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, MAC)
        .ipv4(CIP, VIP, 64)
        .tcp(51_000, 80, 1, 1000)
        .syn()
        .write(&mut bytes, b"payload")
        .unwrap();
    bytes
}

fn udp6() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, MAC)
        .ipv6([0xfd; 16], [0xfe; 16], 64)
        .udp(5353, 53)
        .write(&mut bytes, b"x")
        .unwrap();
    bytes
}

fn flow(bytes: &[u8]) -> Headers {
    // What an earlier packet left must not shine through.
    let mut headers = Headers { src_port: 1, dst_port: 2, tcp_flags: 3, ..Headers::NONE };
    assert_eq!(parse_into(bytes, &mut headers), Ok(Parsed::Flow));
    headers
}

fn fix_checksum(bytes: &mut [u8]) {
    let header_len = usize::from(bytes[14] & 15) * 4;
    bytes[24..26].fill(0);
    let sum = !(checksum::add(0, &bytes[14..14 + header_len]) as u16);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn tcp_over_ipv4() {
    let expected = Headers {
        addresses: Addresses::V4 { src: u32::from_be_bytes(CIP), dst: u32::from_be_bytes(VIP) },
        protocol: Protocol::Tcp,
        src_port: 51_000,
        dst_port: 80,
        tcp_flags: tcp::SYN,
        fragment: false,
        later_fragment: false,
        l3: 14,
        l4: 34,
        ip_len: 47,
    };
    assert_eq!(flow(&tcp4()), expected);
}

#[test]
fn udp_over_ipv6() {
    let headers = flow(&udp6());
    assert_eq!(headers.addresses, Addresses::V6 { src: [0xfd; 16], dst: [0xfe; 16] });
    assert_eq!((headers.protocol, headers.src_port, headers.dst_port), (Protocol::Udp, 5353, 53));
    assert_eq!((headers.l3, headers.ip_len, headers.tcp_flags), (14, 49, 0));
}

#[test]
fn ip_options_are_passed_over() {
    let mut bytes = tcp4();
    bytes[14] = 0x47;
    bytes.splice(34..34, [1, 1, 1, 1, 1, 1, 1, 0]);
    bytes[16..18].copy_from_slice(&55u16.to_be_bytes());
    fix_checksum(&mut bytes);
    assert_eq!(flow(&bytes).dst_port, 80);
}

#[test]
fn the_packet_behind_a_tag_is_read() {
    let mut bytes = tcp4();
    assert_eq!(vlan_id(&bytes), None);
    bytes.splice(12..12, [0x81, 0, 0xe1, 7]);
    assert_eq!((vlan_id(&bytes), flow(&bytes).l3), (Some(0x107), 18));
    bytes.truncate(15);
    assert_eq!((vlan_id(&bytes), parse_bytes(&bytes)), (None, Err(DropReason::EthShort)));
}

#[test]
fn what_has_two_tags_is_the_kernels() {
    let mut bytes = tcp4();
    bytes.splice(12..12, [0x81, 0, 0, 7, 0x81, 0, 0, 7]);
    assert_eq!(parse_bytes(&bytes), Ok(Parsed::Kernel(PuntKind::Other)));
    // IEEE 802.1ad.
    bytes[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(vlan_id(&bytes), None);
    assert_eq!(parse_bytes(&bytes), Ok(Parsed::Kernel(PuntKind::Other)));
}

#[test]
fn padding_is_no_part_of_the_packet() {
    let mut bytes = tcp4();
    bytes.extend([0; 20]);
    assert_eq!(flow(&bytes).ip_len, 47);
}

#[test]
fn ipv6_extension_headers_are_passed_over() {
    // Hop-by-hop with 8 bytes, destination options with 16.
    let mut bytes = udp6();
    let mut chain = vec![60, 0, 1, 4, 0, 0, 0, 0];
    chain.extend([17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes[20] = 0;
    bytes.splice(54..54, chain);
    bytes[18..20].copy_from_slice(&33u16.to_be_bytes());
    assert_eq!(flow(&bytes).dst_port, 53);
}

#[test]
fn fragments_are_told_apart() {
    let mut bytes = tcp4();
    bytes[20..22].copy_from_slice(&0x2000u16.to_be_bytes());
    fix_checksum(&mut bytes);
    let first = flow(&bytes);
    assert!(first.fragment);
    assert_eq!((first.src_port, first.dst_port), (0, 0));

    // Don't-fragment alone is no fragment.
    bytes[20..22].copy_from_slice(&0x4000u16.to_be_bytes());
    fix_checksum(&mut bytes);
    assert!(!flow(&bytes).fragment);

    // IPv6: offset 8; and an atomic fragment, which is none.
    for (offset, fragment) in [([0, 8], true), ([0, 1], true), ([0, 0], false), ([0, 6], false)] {
        let mut bytes = udp6();
        bytes[20] = 44;
        bytes.splice(54..54, [17, 0, offset[0], offset[1], 0, 0, 0, 1]);
        bytes[18..20].copy_from_slice(&17u16.to_be_bytes());
        assert_eq!(flow(&bytes).fragment, fragment, "{offset:?}");
    }
}

#[test]
fn a_last_fragment_shorter_than_a_header_is_still_a_fragment() {
    let mut header = Ipv4Header::new(2, 64, IpNumber::UDP, CIP, VIP).unwrap();
    header.fragment_offset = IpFragOffset::try_new(100).unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, MAC)
        .ip(etherparse::IpHeaders::Ipv4(header, Ipv4Extensions::default()))
        .write(&mut bytes, IpNumber::UDP, b"zz")
        .unwrap();
    assert!(flow(&bytes).fragment);
}

/// Each row changes a good packet, and names what that makes it.
#[test]
fn malformed_packets_have_their_reason() {
    type Change = fn(&mut Vec<u8>);
    type Good = fn() -> Vec<u8>;
    let rows: &[(&str, Good, Change, DropReason)] = &[
        ("no ethernet header", tcp4, |b| b.truncate(13), DropReason::EthShort),
        ("another host's", tcp4, |b| b[5] = 9, DropReason::EthOtherHost),
        ("half an IPv4 header", tcp4, |b| b.truncate(30), DropReason::Ip4Truncated),
        ("half a packet", tcp4, |b| b.truncate(50), DropReason::Ip4Truncated),
        ("version 5", tcp4, |b| b[14] = 0x55, DropReason::Ip4BadHeader),
        ("header of 16 bytes", tcp4, |b| b[14] = 0x44, DropReason::Ip4BadHeader),
        ("length below the header's", tcp4, |b| b[17] = 19, DropReason::Ip4BadHeader),
        ("options beyond the length", tcp4, |b| b[14] = 0x4f, DropReason::Ip4BadHeader),
        ("checksum", tcp4, |b| b[24] ^= 1, DropReason::Ip4BadChecksum),
        (
            "from loopback",
            tcp4,
            |b| {
                b[26] = 127;
                fix_checksum(b);
            },
            DropReason::IpMartian,
        ),
        (
            "from a group",
            tcp4,
            |b| {
                b[26] = 224;
                fix_checksum(b);
            },
            DropReason::IpMartian,
        ),
        (
            "no room for TCP",
            tcp4,
            |b| {
                b[17] = 39;
                fix_checksum(b);
            },
            DropReason::L4Truncated,
        ),
        ("half an IPv6 header", udp6, |b| b.truncate(50), DropReason::Ip6Truncated),
        ("half an IPv6 packet", udp6, |b| b.truncate(60), DropReason::Ip6Truncated),
        ("IPv6 of version 4", udp6, |b| b[14] = 0x40, DropReason::Ip6BadHeader),
        ("IPv6 from a group", udp6, |b| b[22] = 0xff, DropReason::IpMartian),
        (
            "IPv6 from loopback",
            udp6,
            |b| {
                b[22..38].fill(0);
                b[37] = 1;
            },
            DropReason::IpMartian,
        ),
        (
            "IPv6 from an IPv4-mapped address",
            udp6,
            |b| {
                b[22..32].fill(0);
                b[32..34].fill(0xff);
            },
            DropReason::IpMartian,
        ),
        ("IPv6 without room for UDP", udp6, |b| b[19] = 7, DropReason::L4Truncated),
        ("extension past the end", udp6, |b| b[20] = 60, DropReason::Ip6BadHeader),
        (
            "endless extensions",
            udp6,
            |b| {
                b[20] = 60;
                b.splice(54..54, [60, 0, 1, 4, 0, 0, 0, 0].repeat(20));
                b[18..20].copy_from_slice(&169u16.to_be_bytes());
            },
            DropReason::Ip6TooManyHeaders,
        ),
    ];
    for (what, good, change, reason) in rows {
        let mut bytes = good();
        change(&mut bytes);
        assert_eq!(parse_bytes(&bytes), Err(*reason), "{what}");
    }
}

#[test]
fn a_checksum_that_the_nic_verified_is_not_computed_again() {
    let mut bytes = tcp4();
    bytes[24] ^= 1;
    let len = bytes.len();
    let mut frame = Frame::new(&mut bytes, 0, len, len, 0);
    frame.ip_checksum_good = true;
    assert!(matches!(parse(&frame, MAC, &mut { Headers::NONE }), Ok(Parsed::Flow)));
}

#[test]
fn what_the_kernel_gets() {
    let mut arp = vec![0xff; 6];
    arp.extend(CLIENT_MAC);
    arp.extend([8, 6, 0, 1]);
    assert_eq!(parse_bytes(&arp), Ok(Parsed::Kernel(PuntKind::Neighbour)));
    arp[..6].copy_from_slice(&MAC);
    assert_eq!(parse_bytes(&arp), Ok(Parsed::Kernel(PuntKind::Neighbour)));

    let mut ping = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, MAC)
        .ipv4(CIP, VIP, 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut ping, b"")
        .unwrap();
    assert_eq!(parse_bytes(&ping), Ok(Parsed::Kernel(PuntKind::Other)));

    let mut solicitation = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, [0x33, 0x33, 0xff, 0, 0, 1])
        .ipv6([0xfe; 16], [0xff; 16], 255)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut solicitation, &[0; 16])
        .unwrap();
    assert_eq!(parse_bytes(&solicitation), Ok(Parsed::Kernel(PuntKind::Neighbour)));
    solicitation[..6].copy_from_slice(&MAC);
    assert_eq!(parse_bytes(&solicitation), Ok(Parsed::Kernel(PuntKind::Neighbour)));

    // From afar, where a flood may come from, it is ordinary traffic.
    solicitation[21] = 254;
    assert_eq!(parse_bytes(&solicitation), Ok(Parsed::Kernel(PuntKind::Other)));

    // A TCP packet to a group is no service's.
    let mut bytes = tcp4();
    bytes[0] = 1;
    assert_eq!(parse_bytes(&bytes), Ok(Parsed::Kernel(PuntKind::Other)));
}

/// What `icmp` reads afterwards is found, whatever an earlier packet left.
#[test]
fn icmp_errors_are_told_apart() {
    let four = |kind: u8, dst: [u8; 4]| {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, MAC)
            .ipv4(CIP, dst, 64)
            .icmpv4_raw(kind, 0, [0; 4])
            .write(&mut bytes, &[0; 28])
            .unwrap();
        bytes
    };
    let six = |kind: u8, dst: [u8; 16]| {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, MAC)
            .ipv6([0xfd; 16], dst, 64)
            .icmpv6_raw(kind, 0, [0; 4])
            .write(&mut bytes, &[0; 48])
            .unwrap();
        bytes
    };
    let error = |bytes: &[u8]| {
        let mut headers = Headers { src_port: 1, tcp_flags: 3, fragment: true, ..Headers::NONE };
        (parse_into(bytes, &mut headers) == Ok(Parsed::IcmpError)).then_some(headers)
    };
    let addresses = Addresses::V4 { src: u32::from_be_bytes(CIP), dst: u32::from_be_bytes(VIP) };
    let headers = Headers { addresses, l3: 14, l4: 34, ip_len: 56, ..Headers::NONE };
    for kind in 0..=u8::MAX {
        let expected = matches!(kind, 3 | 11).then_some(headers);
        assert_eq!(error(&four(kind, VIP)), expected, "{kind}");
    }
    let addresses = Addresses::V6 { src: [0xfd; 16], dst: [0xfe; 16] };
    let headers = Headers { addresses, l3: 14, l4: 54, ip_len: 96, ..Headers::NONE };
    for kind in 0..=u8::MAX {
        let expected = matches!(kind, 1..=4).then_some(headers);
        assert_eq!(error(&six(kind, [0xfe; 16])), expected, "{kind}");
    }

    // To groups, and in fragments, they are the kernel's.
    assert_eq!(error(&four(3, [224, 0, 0, 1])), None);
    assert_eq!(error(&four(3, [255; 4])), None);
    assert_eq!(error(&six(1, [0xff; 16])), None);
    let mut fragment = four(3, VIP);
    fragment[20] = 0x20;
    fix_checksum(&mut fragment);
    assert_eq!(parse_bytes(&fragment), Ok(Parsed::Kernel(PuntKind::Other)));

    // Behind options and extension headers.
    let mut bytes = four(11, VIP);
    bytes[14] = 0x46;
    bytes.splice(34..34, [1, 1, 1, 0]);
    bytes[17] += 4;
    fix_checksum(&mut bytes);
    assert_eq!(error(&bytes).map(|h| h.l4), Some(38));
    let mut bytes = six(2, [0xfe; 16]);
    bytes[20] = 60;
    bytes[19] += 8;
    bytes.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    assert_eq!(error(&bytes).map(|h| h.l4), Some(62));
}

#[test]
fn routing_protocols_have_a_kind_of_their_own() {
    let packet = |mac: Mac, protocol: u8, ttl: u8| {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, mac)
            .ipv4(CIP, [224, 0, 0, 18], ttl)
            .write(&mut bytes, IpNumber(protocol), &[0; 20])
            .unwrap();
        bytes
    };
    let group = [1, 0, 0x5e, 0, 0, 18];
    for mac in [group, MAC] {
        for (protocol, ttl, kind) in [
            (VRRP, 255, PuntKind::Routing),
            (VRRP, 254, PuntKind::Other),
            (OSPF, 1, PuntKind::Routing),
            (1, 255, PuntKind::Other),
        ] {
            let parsed = parse_bytes(&packet(mac, protocol, ttl));
            assert_eq!(parsed, Ok(Parsed::Kernel(kind)), "{mac:?} {protocol} {ttl}");
        }
    }
    for protocol in [VRRP, OSPF] {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2(CLIENT_MAC, [0x33, 0x33, 0, 0, 0, 0x12])
            .ipv6([0xfe; 16], [0xff; 16], 255)
            .write(&mut bytes, IpNumber(protocol), &[0; 20])
            .unwrap();
        assert_eq!(parse_bytes(&bytes), Ok(Parsed::Kernel(PuntKind::Routing)));
    }
    // Cut off anywhere, it is something.
    for len in 14..34 {
        let cut = parse_bytes(&packet(group, VRRP, 255)[..len]);
        assert!(matches!(cut, Ok(Parsed::Kernel(_))), "{len}: {cut:?}");
    }
}

proptest::proptest! {
    /// The contract: no bytes make the parser panic, also with good beginnings.
    #[test]
    fn never_panics(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        start in 0usize..4,
        keep in 0usize..60,
    ) {
        let good = [tcp4(), udp6(), tcp4(), udp6()][start].clone();
        let mut mixed = good[..keep.min(good.len())].to_vec();
        mixed.extend(bytes);
        let _ = parse_bytes(&mixed);
    }
}

/// A chunk with this type and value: length without padding (RFC 9260, section
/// 3.2).
fn chunk(kind: u8, value: &[u8]) -> Vec<u8> {
    let len = 4 + value.len() as u16;
    let mut bytes = [&[kind, 0][..], &len.to_be_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An SCTP packet's common header and these bytes.
fn sctp_packet(chunks: &[u8]) -> Vec<u8> {
    [&[0; 12][..], chunks].concat()
}

/// RFC 9260, section 3.3.7: control chunks in front of an ABORT count, those
/// behind do not; section 6.10: three are never bundled, and DATA never with
/// an ABORT. Section 3.2 has all the types that there are room for.
#[test]
fn an_abort_is_found_behind_the_chunks_that_it_may_be_bundled_with() {
    const ALONE: [u8; 5] = [0, 64, 1, 2, 14];
    for kind in 0..=u8::MAX {
        for value in [&[][..], &[6, 0, 0], &[6, 0, 0, 4, 6]] {
            let expected = if ALONE.contains(&kind) { kind } else { 6 };
            let packet = sctp_packet(&[chunk(kind, value), chunk(6, &[])].concat());
            assert_eq!(chunk_type(&packet), expected, "{kind} {value:?}");
            // Of an association that goes on.
            let packet = sctp_packet(&[chunk(kind, value), chunk(3, &[0; 12])].concat());
            assert_eq!(chunk_type(&packet), kind, "{kind} {value:?}");
            // Not the first one that forbids it.
            let three = [chunk(3, &[0; 12]), chunk(kind, value), chunk(6, &[])].concat();
            let expected = if ALONE.contains(&kind) { 3 } else { 6 };
            assert_eq!(chunk_type(&sctp_packet(&three)), expected, "{kind} {value:?}");
        }
        let packet = sctp_packet(&[chunk(6, &[0, 12, 0, 4]), chunk(kind, &[])].concat());
        assert_eq!(chunk_type(&packet), 6);
    }
}

#[test]
fn an_abort_is_looked_for_among_eight_chunks() {
    for (before, expected) in [(0, 6), (1, 6), (6, 6), (7, 6), (8, 3), (300, 3)] {
        let mut chunks = chunk(3, &[0; 12]).repeat(before);
        chunks.extend(chunk(6, &[]));
        assert_eq!(chunk_type(&sctp_packet(&chunks)), expected, "{before}");
    }
}

#[test]
fn of_chunks_that_are_cut_off_the_type_of_the_first_counts() {
    for (chunks, expected) in [
        (&[][..], 0),
        (&[1, 0, 0], 0),
        (&[1, 0, 0, 20], 1),
        (&[6, 0, 0, 20], 6),
        // A length that cannot be: in the header, or beyond the packet.
        (&[10, 0, 0, 0, 6, 0, 0, 4], 10),
        (&[10, 0, 0, 3, 6, 0, 0, 4], 10),
        (&[10, 0, 0xff, 0xff, 6, 0, 0, 4], 10),
        // The next header is not whole.
        (&[10, 0, 0, 4, 6, 0, 0], 10),
        (&[10, 0, 0, 5, 9, 0, 0], 10),
    ] {
        assert_eq!(chunk_type(&sctp_packet(chunks)), expected, "{chunks:?}");
    }
    for len in 0..12 {
        assert_eq!(chunk_type(&[6; 12][..len]), 0);
    }
}

proptest::proptest! {
    #[test]
    fn chunks_of_any_bytes_have_a_type_that_is_theirs(
        chunks in proptest::collection::vec(0..16_u8, 0..80),
    ) {
        let kind = chunk_type(&sctp_packet(&chunks));
        let first = if chunks.len() < 4 { 0 } else { chunks[0] };
        proptest::prop_assert!(kind == first || (kind == 6 && chunks.contains(&6)));
    }
}

/// Padding of a short frame is no chunk.
#[test]
fn a_chunk_ends_with_its_packet() {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .write(&mut bytes, IpNumber::SCTP, &[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0])
        .unwrap();
    bytes.extend([1, 0, 0, 4]);
    let len = bytes.len();
    let mut headers = Headers::NONE;
    let parsed = parse(&Frame::new(&mut bytes, 0, len, len, 0), [4; 6], &mut headers);
    assert_eq!((parsed, headers.tcp_flags), (Ok(Parsed::Flow), 0));
}

/// What the short parser makes of a frame; `None` where it leaves it.
fn plain(frame: &Frame<'_>) -> Option<Headers> {
    match plain_family(frame.bytes(), MAC.into())? {
        Family::V4 => plain4(frame).map(Headers::from),
        Family::V6 => plain6(frame).map(Headers::from),
    }
}

/// TCP and UDP over both, without options: all that is to be plain.
fn plain_frames() -> [Vec<u8>; 4] {
    let mut tcp6 = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, MAC).ipv6([0xfd; 16], [0xfe; 16], 64);
    builder.tcp(51_000, 80, 1, 1000).ack(7).write(&mut tcp6, b"payload").unwrap();
    let mut udp4 = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, MAC).ipv4(CIP, VIP, 64);
    builder.udp(5353, 53).write(&mut udp4, b"twelve bytes").unwrap();
    [tcp4(), udp4, tcp6, udp6()]
}

#[test]
fn plain_packets_are_found_plain() {
    for mut bytes in plain_frames() {
        let expected = flow(&bytes);
        for padding in [0, 1, 20] {
            bytes.extend(vec![0; padding]);
            let len = bytes.len();
            assert_eq!(plain(&Frame::new(&mut bytes, 0, len, len, 0)), Some(expected));
        }
    }
}

/// Ethernet has no shorter ones, but some virtual devices have.
#[test]
fn a_frame_without_padding_is_not_plain() {
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, MAC).ipv4(CIP, VIP, 64);
    builder.udp(5353, 53).write(&mut bytes, b"eleven byte").unwrap();
    let expected = flow(&bytes);
    for (padding, found) in [(0, None), (1, Some(expected))] {
        bytes.extend(vec![0; padding]);
        let len = bytes.len();
        assert_eq!(plain(&Frame::new(&mut bytes, 0, len, len, 0)), found);
    }
}

/// Whatever byte of a plain frame changes and wherever it is cut: what is still
/// plain is what the parser of all frames reads.
#[test]
fn what_is_plain_is_what_it_is_for_the_parser() {
    let mut taken = 0;
    for good in plain_frames() {
        for at in 0..good.len().min(80) {
            for change in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
                for (cut, checked) in [(0, true), (0, false), (1, true), (at, true)] {
                    let mut bytes = good.clone();
                    bytes[at] ^= change;
                    let total = good.len() - cut.min(1);
                    bytes.truncate(good.len() - cut);
                    let len = bytes.len();
                    let mut frame = Frame::new(&mut bytes, 0, len, total, 0);
                    frame.ip_checksum_good = checked;
                    let Some(found) = plain(&frame) else { continue };
                    let mut headers = Headers::NONE;
                    assert_eq!(parse(&frame, MAC, &mut headers), Ok(Parsed::Flow));
                    assert_eq!(found, headers, "byte {at} ^ {change:#x}, {cut} cut off");
                    taken += 1;
                }
            }
        }
    }
    assert!(taken > 1000, "{taken} were plain");
}

#[test]
fn what_is_not_plain_is_left() {
    let [tcp4, udp4, tcp6, udp6] = plain_frames();
    let with = |frame: &[u8], at: usize, bytes: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    for (mut bytes, what) in [
        (with(&tcp4, 0, &[0xff; 6]), "to a group"),
        (with(&tcp4, 5, &[9]), "to another"),
        (with(&tcp4, 12, &[0x81, 0]), "tagged"),
        (with(&tcp4, 14, &[0x46]), "with options"),
        (with(&tcp4, 20, &[0x20]), "a fragment"),
        (with(&tcp4, 23, &[132]), "SCTP"),
        (with(&tcp4, 23, &[1]), "ICMP"),
        (with(&tcp4, 26, &[127]), "from loopback"),
        (with(&tcp4, 16, &[0xff]), "longer than its frame"),
        (with(&udp4, 16, &[0, 27]), "too short for UDP"),
        (with(&tcp6, 14, &[0x40]), "no IPv6"),
        (with(&tcp6, 20, &[44]), "an IPv6 fragment"),
        (with(&tcp6, 22, &[0xff]), "from a group"),
        (with(&tcp6, 22, &[0; 15]), "from loopback, IPv6"),
        (with(&udp6, 18, &[0xff]), "longer than its frame, IPv6"),
        (with(&tcp6, 18, &[0, 19]), "too short for TCP, IPv6"),
        (udp6[..61].to_vec(), "cut"),
    ] {
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, len, 0);
        frame.ip_checksum_good = true;
        assert_eq!(plain(&frame), None, "{what}");
    }
}
