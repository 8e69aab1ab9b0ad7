use super::*;

const ROUTER4: u32 = 0x0a00_0001;
const ROUTER6: [u8; 16] = REAL6;

/// Type, code, and the four bytes behind the checksum.
type Kind = (u8, u8, u32);

/// An error of a router on the servers' side, to the director.
pub(super) fn message4(kind: u8, code: u8, word: u32, quote: &[u8]) -> Vec<u8> {
    let addresses = Tuple4 { src: ROUTER4, dst: DIP4, ..TO_SERVER4 }.address_bytes();
    Ip4 { field: 0, ..IP4 }.packet(1, &addresses, &message(&[], kind, code, word, quote))
}

/// The same in IPv6.
pub(super) fn message6(kind: u8, code: u8, word: u32, quote: &[u8]) -> Vec<u8> {
    error6(ROUTER6, DIP6, 64, kind, code, word, quote)
}

fn error6(
    src: [u8; 16],
    dst: [u8; 16],
    ttl: u8,
    kind: u8,
    code: u8,
    word: u32,
    quote: &[u8],
) -> Vec<u8> {
    let addresses = [src, dst].concat();
    let pseudo = pseudo(&addresses, 58, 8 + quote.len());
    ip6(0x48, ttl, 58, &addresses, &message(&pseudo, kind, code, word, quote))
}

fn message(pseudo: &[u8], kind: u8, code: u8, word: u32, quote: &[u8]) -> Vec<u8> {
    let mut bytes = [&[kind, code, 0, 0], &word.to_be_bytes()[..], quote].concat();
    let checksum = !sum(&[pseudo, &bytes]);
    bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// An error about what [`FROM_CLIENT6`] became, for the client.
fn to_client6(ip: &[u8], mtu: u16) -> Result<Vec<u8>, DropReason> {
    through(ip, |frame, headers| icmp4_to_6(frame, headers, VIP6, &FROM_CLIENT6, mtu))
        .map(|((), bytes)| bytes)
}

/// An error about what [`FROM_CLIENT4`] became, for the client.
fn to_client4(ip: &[u8], mtu: u16) -> Result<Vec<u8>, DropReason> {
    through(ip, |frame, headers| icmp6_to_4(frame, headers, VIP4, &FROM_CLIENT4, mtu, 0xbeef))
        .map(|((), bytes)| bytes)
}

/// Recorded as the packets in the module above.
#[test]
fn errors_byte_for_byte() {
    let fragmentation_needed = hex("45480049123400004001542b 0a000001 0a00000d 03040d00 00000578
         4548002d0007400009065c20 0a00000d 0a000150
         04011f90 01020304 05060708 50182000 7c600000 474554202f");
    let too_big =
        hex("6480000000493a3f 20010db8000f00000000000000000080 20010db8000c00000000000000000007
         02003159 0000058c
         6480000000190609 20010db8000c00000000000000000007 20010db8000f00000000000000000080
         c7380050 01020304 05060708 50182000 91b10000 474554202f");
    assert_eq!(to_client6(&fragmentation_needed, 1500), Ok(too_big));

    let port_unreachable =
        hex("64800000003d3a40 20010db8000200000000000000000080 20010db800010000000000000000000d
         01042d0a 00000000
         64800000000d1109 20010db800010000000000000000000d 20010db8000200000000000000000080
         04011f90 000d3059 7175657279");
    let to_client = hex("4548003dbeef00003f01cffd c0000250 c6336407 0303e9a6 00000000
         4548002100004000091184f9 c6336407 c0000250 c7380050 000dfbd7 7175657279");
    assert_eq!(to_client4(&port_unreachable, 1500), Ok(to_client));
}

/// RFC 7915, section 4.2, for a quoted packet of 1492 bytes and a
/// next hop's MTU of 1500.
#[test]
fn types_and_codes_to_ipv6() {
    let mut quote = IP4.tuple(Protocol::Tcp, &TO_SERVER4, &[0; 1448]);
    quote.truncate(28);
    let mut quote6 = ip6_tuple(0x48, 64, Protocol::Tcp, &FROM_CLIENT6, &[0; 1448]);
    quote6.truncate(48);
    let translated: &[(Kind, Kind)] = &[
        ((3, 0, 0), (1, 0, 0)),
        ((3, 1, 0), (1, 0, 0)),
        ((3, 2, 0), (4, 1, 6)),
        ((3, 3, 0), (1, 4, 0)),
        ((3, 5, 0), (1, 0, 0)),
        ((3, 6, 0), (1, 0, 0)),
        ((3, 7, 0), (1, 0, 0)),
        ((3, 8, 0), (1, 0, 0)),
        ((3, 9, 0), (1, 1, 0)),
        ((3, 10, 0), (1, 1, 0)),
        ((3, 11, 0), (1, 0, 0)),
        ((3, 12, 0), (1, 0, 0)),
        ((3, 13, 0), (1, 1, 0)),
        ((3, 15, 0), (1, 1, 0)),
        ((3, 4, 1400), (2, 0, 1420)),
        ((3, 4, 1480), (2, 0, 1500)),
        ((3, 4, 9000), (2, 0, 1500)),
        ((3, 4, 576), (2, 0, 1280)),
        // No MTU: the plateau below 1492.
        ((3, 4, 0), (2, 0, 1300)),
        ((11, 0, 0), (3, 0, 0)),
        ((11, 1, 0), (3, 1, 0)),
        ((12, 0, 1 << 24), (4, 0, 1)),
        ((12, 0, 3 << 24), (4, 0, 4)),
        ((12, 2, 8 << 24), (4, 0, 7)),
        ((12, 0, 9 << 24), (4, 0, 6)),
        ((12, 0, 15 << 24), (4, 0, 8)),
        ((12, 0, 19 << 24), (4, 0, 24)),
    ];
    for ((kind, code, word), (kind6, code6, word6)) in translated {
        let expected = error6(VIP6, CLIENT6, 63, *kind6, *code6, *word6, &quote6);
        let result = to_client6(&message4(*kind, *code, *word, &quote), 1500);
        assert_eq!(result, Ok(expected), "{kind} {code} {word:#x}");
    }
    let untranslated: &[Kind] = &[
        (0, 0, 0),
        (3, 14, 0),
        (3, 16, 0),
        (4, 0, 0),
        (5, 1, 0),
        (8, 0, 0),
        (11, 2, 0),
        (12, 1, 0),
        (12, 0, 4 << 24),
        (12, 0, 10 << 24),
        (12, 0, 20 << 24),
    ];
    for (kind, code, word) in untranslated {
        let result = to_client6(&message4(*kind, *code, *word, &quote), 1500);
        assert_eq!(result, Err(DropReason::NoTranslation), "{kind} {code} {word:#x}");
    }
    // A longer packet has a higher plateau.
    quote[2..4].copy_from_slice(&2000u16.to_be_bytes());
    let bytes = to_client6(&message4(3, 4, 0, &quote), 9000).unwrap();
    assert_eq!(bytes[44..48], 1512u32.to_be_bytes());
}

/// RFC 7915, section 5.2.
#[test]
fn types_and_codes_to_ipv4() {
    let mut quote = ip6_tuple(0x48, 64, Protocol::Tcp, &TO_SERVER6, &[0; 1448]);
    quote.truncate(48);
    let mut quote4 = Ip4 { id: 0, ..IP4 }.tuple(Protocol::Tcp, &FROM_CLIENT4, &[0; 1448]);
    quote4.truncate(28);
    let translated: &[(Kind, Kind)] = &[
        ((1, 0, 0), (3, 1, 0)),
        ((1, 1, 0), (3, 10, 0)),
        ((1, 2, 0), (3, 1, 0)),
        ((1, 3, 0), (3, 1, 0)),
        ((1, 4, 0), (3, 3, 0)),
        ((2, 0, 1400), (3, 4, 1380)),
        ((2, 0, 9000), (3, 4, 1500)),
        ((2, 0, u32::MAX), (3, 4, 1500)),
        ((2, 0, 10), (3, 4, 68)),
        ((3, 0, 0), (11, 0, 0)),
        ((3, 1, 0), (11, 1, 0)),
        ((4, 1, 6), (3, 2, 0)),
        ((4, 0, 0), (12, 0, 0)),
        ((4, 0, 1), (12, 0, 1 << 24)),
        ((4, 0, 5), (12, 0, 2 << 24)),
        ((4, 0, 6), (12, 0, 9 << 24)),
        ((4, 0, 7), (12, 0, 8 << 24)),
        ((4, 0, 23), (12, 0, 12 << 24)),
        ((4, 0, 39), (12, 0, 16 << 24)),
    ];
    for ((kind, code, word), (kind4, code4, word4)) in translated {
        let packet = Ip4 { id: 0xbeef, field: 0, ttl: 63, ..IP4 };
        let addresses = Tuple4 { src: VIP4, dst: CLIENT4, ..FROM_CLIENT4 }.address_bytes();
        let expected = packet.packet(1, &addresses, &message(&[], *kind4, *code4, *word4, &quote4));
        let result = to_client4(&message6(*kind, *code, *word, &quote), 1500);
        assert_eq!(result, Ok(expected), "{kind} {code} {word:#x}");
    }
    let untranslated: &[Kind] = &[
        (0, 0, 0),
        (1, 5, 0),
        (3, 2, 0),
        (4, 0, 2),
        (4, 0, 40),
        (4, 0, 256),
        (4, 2, 0),
        (5, 0, 0),
        (128, 0, 0),
        (135, 0, 0),
    ];
    for (kind, code, word) in untranslated {
        let result = to_client4(&message6(*kind, *code, *word, &quote), 1500);
        assert_eq!(result, Err(DropReason::NoTranslation), "{kind} {code} {word:#x}");
    }
}

/// The quoted checksum is again what the sender wrote, wherever the quote ends.
#[test]
fn quotes_are_translated_as_far_as_they_go() {
    for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
        let four = IP4.tuple(protocol, &TO_SERVER4, &[5; 30]);
        let six = ip6_tuple(0x48, 64, protocol, &FROM_CLIENT6, &[5; 30]);
        let complete = four.len() - 20;
        for len in 8..=complete {
            let result = to_client6(&message4(3, 3, 0, &four[..20 + len]), 1500).unwrap();
            let mut expected = six[..40 + len].to_vec();
            // Half a checksum is left alone.
            let at = match protocol {
                Protocol::Tcp => 16..18,
                Protocol::Udp => 6..8,
                Protocol::Sctp => 8..12,
            };
            if len < at.end && len > at.start {
                expected[40 + at.start..].copy_from_slice(&four[20 + at.start..20 + len]);
            }
            assert_eq!(result, error6(VIP6, CLIENT6, 63, 1, 4, 0, &expected), "{protocol:?} {len}");
        }
        for len in 0..8 {
            let result = to_client6(&message4(3, 3, 0, &four[..20 + len]), 1500);
            assert_eq!(result, Err(DropReason::IcmpBad), "{len}");
        }
        // Padding of the quote is no part of it.
        let padded = [&four[..], &[0; 90]].concat();
        let result = to_client6(&message4(3, 3, 0, &padded), 1500);
        assert_eq!(result, Ok(error6(VIP6, CLIENT6, 63, 1, 4, 0, &six)));
    }
    // A UDP packet without a checksum was sent so.
    let mut four = IP4.tuple(Protocol::Udp, &TO_SERVER4, b"");
    four[26..28].fill(0);
    assert_eq!(to_client6(&message4(3, 3, 0, &four), 1500).unwrap()[94..96], [0, 0]);
}

#[test]
fn long_quotes_are_cut_and_extensions_left_out() {
    let four = IP4.tuple(Protocol::Udp, &TO_SERVER4, &[5; 1400]);
    let six = ip6_tuple(0x48, 64, Protocol::Udp, &FROM_CLIENT6, &[5; 1400]);
    let result = to_client6(&message4(3, 3, 0, &four), 1500);
    assert_eq!(result, Ok(error6(VIP6, CLIENT6, 63, 1, 4, 0, &six[..1280 - 48])));

    // 32 words of quote, then an extension.
    let extended = [&four[..128], &[0x20, 0, 1, 2, 0, 4, 1, 1]].concat();
    let result = to_client6(&message4(11, 0, 32 << 16, &extended), 1500);
    assert_eq!(result, Ok(error6(VIP6, CLIENT6, 63, 3, 0, 0, &six[..148])));

    let six = ip6_tuple(0x48, 64, Protocol::Udp, &TO_SERVER6, &[5; 1192]);
    let packet = Ip4 { id: 0xbeef, field: 0, ttl: 63, ..IP4 };
    let four = Ip4 { id: 0, ..IP4 }.tuple(Protocol::Udp, &FROM_CLIENT4, &[5; 1192]);
    let addresses = Tuple4 { src: VIP4, dst: CLIENT4, ..FROM_CLIENT4 }.address_bytes();
    let expected = packet.packet(1, &addresses, &message(&[], 3, 3, 0, &four[..576 - 28]));
    assert_eq!(to_client4(&message6(1, 4, 0, &six), 1500), Ok(expected));

    let extended = [&six[..128], &[0x20, 0, 1, 2, 0, 4, 1, 1]].concat();
    let expected = packet.packet(1, &addresses, &message(&[], 11, 0, 0, &four[..108]));
    assert_eq!(to_client4(&message6(3, 0, 16 << 24, &extended), 1500), Ok(expected));
}

#[test]
fn quoted_fragments_stay_first_fragments() {
    let addresses = TO_SERVER6.address_bytes();
    let layer4 = layer4(Protocol::Udp, &addresses, [4, 1, 0x1f, 0x90], &[5; 56]);
    let header = fragment_header(17, 0, true, 0x1234);
    let six = ip6(0x48, 9, 44, &addresses, &[&header[..], &layer4[..40]].concat());
    let result = to_client4(&message6(1, 4, 0, &six), 1500).unwrap();
    let four = Ip4 { ttl: 9, field: MORE, ..IP4 };
    let udp = Ip4 { ..IP4 }.tuple(Protocol::Udp, &FROM_CLIENT4, &[5; 56]);
    assert_eq!(result[28..], four.packet(17, &FROM_CLIENT4.address_bytes(), &udp[20..60]));
    // A later one has no ports to be somebody's.
    let header = fragment_header(17, 8, true, 0x1234);
    let six = ip6(0x48, 9, 44, &addresses, &[&header[..], &layer4[..40]].concat());
    let result = to_client4(&message6(1, 4, 0, &six), 1500);
    assert_eq!(result, Err(DropReason::NoTranslation));
}

#[test]
fn bad_errors_have_their_reason() {
    let quote = IP4.tuple(Protocol::Tcp, &TO_SERVER4, b"data");
    let good = message4(3, 3, 0, &quote);
    let mut wrong = good.clone();
    wrong[22] ^= 1;
    assert_eq!(to_client6(&wrong, 1500), Err(DropReason::IcmpBad));
    let short = Ip4 { field: 0, ..IP4 }.packet(1, &good[12..20], &good[20..27]);
    assert_eq!(to_client6(&short, 1500), Err(DropReason::IcmpBad));
    let of_gre = IP4.packet(47, &TO_SERVER4.address_bytes(), &[0; 8]);
    assert_eq!(to_client6(&message4(3, 3, 0, &of_gre), 1500), Err(DropReason::NoTranslation));
    let fragment = Ip4 { field: MORE, ..IP4 }.packet(1, &good[12..20], &good[20..]);
    assert_eq!(to_client6(&fragment, 1500), Err(DropReason::NoTranslation));
    let expired = Ip4 { ttl: 1, ..IP4 }.packet(1, &good[12..20], &good[20..]);
    assert_eq!(to_client6(&expired, 1500), Err(DropReason::TtlExpired));
    let mut six = message6(1, 4, 0, &ip6_tuple(0, 9, Protocol::Tcp, &TO_SERVER6, b""));
    six[42] ^= 1;
    assert_eq!(to_client4(&six, 1500), Err(DropReason::IcmpBad));
}

proptest! {
    /// No quote makes it panic, and what comes out is no longer than allowed
    /// and has the right checksum.
    #[test]
    fn any_quote(
        (kind, code, word) in (0u8..14, 0u8..16, any::<u32>()),
        keep in 0usize..100,
        change in any::<(prop::sample::Index, u8)>(),
        garbage in prop::collection::vec(any::<u8>(), 0..1400),
        protocol in protocol(),
        word_is_small in any::<bool>(),
    ) {
        let word = if word_is_small { word % 2048 } else { word };
        let quote = |mut bytes: Vec<u8>| {
            bytes.truncate(keep);
            bytes.extend(&garbage);
            if !bytes.is_empty() {
                let at = change.0.index(bytes.len());
                bytes[at] = change.1;
            }
            bytes
        };
        let four = quote(IP4.tuple(protocol, &TO_SERVER4, &[1; 60]));
        if let Ok(bytes) = to_client6(&message4(kind, code, word, &four), 1500) {
            prop_assert!(bytes.len() <= 1280);
            let pseudo = pseudo(&bytes[8..40], 58, bytes.len() - 40);
            prop_assert_eq!(sum(&[&pseudo, &bytes[40..]]), 0xffff);
        }
        let fragment = [&fragment_header(protocol as u8, 0, true, 1)[..], &[1; 60]].concat();
        for six in [
            quote(ip6_tuple(0, 64, protocol, &TO_SERVER6, &[1; 60])),
            quote(ip6(0, 64, 44, &TO_SERVER6.address_bytes(), &fragment)),
        ] {
            if let Ok(bytes) = to_client4(&message6(kind, code, word, &six), 1500) {
                prop_assert!(bytes.len() <= 576);
                prop_assert_eq!(sum(&[&bytes[..20]]), 0xffff);
                prop_assert_eq!(sum(&[&bytes[20..]]), 0xffff);
            }
        }
    }
}
