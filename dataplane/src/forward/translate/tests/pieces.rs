use super::*;

#[test]
fn fragments_keep_their_place() {
    let whole = layer4(Protocol::Udp, &FROM_CLIENT4.address_bytes(), [0xc7, 0x38, 0, 80], &[7; 40]);
    let new = layer4(Protocol::Udp, &TO_SERVER6.address_bytes(), [4, 1, 0x1f, 0x90], &[7; 40]);
    let to = TO_SERVER6.address_bytes();
    for (range, offset, more) in [(0..16, 0, true), (16..32, 16, true), (32..48, 32, false)] {
        let field = offset >> 3 | if more { MORE } else { 0 };
        let packet = Ip4 { field, ..IP4 };
        let bytes = packet.packet(17, &FROM_CLIENT4.address_bytes(), &whole[range.clone()]);
        let header = fragment_header(17, offset, more, 0x1234);
        let six = ip6(0x48, 63, 44, &to, &[&header[..], &new[range.clone()]].concat());
        assert_eq!(to6(&bytes, &TO_SERVER6, 1500), Ok((Fit::Whole, six.clone())), "{offset}");

        // And back, where only the TTL tells.
        let back = Ip4 { ttl: 62, ..packet };
        let four = back.packet(17, &FROM_CLIENT4.address_bytes(), &whole[range]);
        assert_eq!(to4(&six, &FROM_CLIENT4, 1500, 9), Ok((Fit::Whole, four)), "{offset}");
    }
}

#[test]
fn first_fragments_without_a_checksum_to_adjust_are_dropped() {
    let no_translation = Err(Failure::Drop(DropReason::NoTranslation));
    let first = |protocol: Protocol, to: &Tuple6| {
        let bytes = Ip4 { field: MORE, ..IP4 }.tuple(protocol, &FROM_CLIENT4, &[0; 12]);
        to6(&bytes, to, 1500)
    };
    assert_eq!(first(Protocol::Sctp, &TO_SERVER6), no_translation);
    // A CRC that need not change need not be computed.
    let same_ports = Tuple6 { src_port: 51_000, dst_port: 80, ..TO_SERVER6 };
    assert!(first(Protocol::Sctp, &same_ports).is_ok());
    assert!(first(Protocol::Tcp, &TO_SERVER6).is_ok());

    let addresses = FROM_CLIENT4.address_bytes();
    let bytes = Ip4 { field: MORE, ..IP4 }.packet(6, &addresses, &[0; 16]);
    assert_eq!(to6(&bytes, &TO_SERVER6, 1500), no_translation);
}

/// Translates and cuts; all pieces, without Ethernet headers.
fn pieces(
    ip: &[u8],
    mtu: u16,
    translate: impl FnOnce(&mut Frame<'_>, &mut Headers) -> Result<Fit, Failure>,
) -> Vec<Vec<u8>> {
    let mut outbox = Outbox::default();
    let ((), first) = through(ip, |frame, headers| {
        assert_eq!(translate(frame, headers)?, Fit::Pieces);
        set_ethernet(frame, headers, &HOP).unwrap();
        cut(frame, headers, mtu, HOP.port, &mut outbox).map_err(Failure::from)
    })
    .unwrap();
    let mut all = vec![first];
    for (port, frame) in outbox.frames() {
        assert_eq!(port, crate::outbox::To::Port(HOP.port));
        assert_eq!(frame[..14], framed(&frame[14..], HOP.dst_mac, HOP.src_mac)[..14]);
        all.push(frame[14..].to_vec());
    }
    all
}

#[test]
fn an_ipv4_packet_that_may_be_fragmented_goes_in_pieces() {
    let data: Vec<u8> = (0..1472).map(|i| (i * 7) as u8).collect();
    let bytes = Ip4 { field: 0, ..IP4 }.tuple(Protocol::Udp, &FROM_CLIENT4, &data);
    let to6 =
        |frame: &mut Frame<'_>, headers: &mut Headers| to_ip6(frame, headers, &TO_SERVER6, 1300);
    let new = layer4(Protocol::Udp, &TO_SERVER6.address_bytes(), [4, 1, 0x1f, 0x90], &data);
    // 1480 bytes in units of 8 that leave room for 48: 1248.
    let expected: Vec<_> = [(0..1248, 0, true), (1248..1480, 1248, false)]
        .into_iter()
        .map(|(range, offset, more)| {
            let header = fragment_header(17, offset, more, 0x1234);
            ip6(0x48, 63, 44, &TO_SERVER6.address_bytes(), &[&header[..], &new[range]].concat())
        })
        .collect();
    assert_eq!(pieces(&bytes, 1300, to6), expected);

    // The second of three fragments, in its turn.
    let packet = Ip4 { field: 0x10 | MORE, ..IP4 };
    let bytes = packet.packet(17, &FROM_CLIENT4.address_bytes(), &data[..1400]);
    let expected: Vec<_> = [(0..1248, 0x80), (1248..1400, 0x80 + 1248)]
        .into_iter()
        .map(|(range, offset)| {
            let header = fragment_header(17, offset, true, 0x1234);
            ip6(0x48, 63, 44, &TO_SERVER6.address_bytes(), &[&header[..], &data[range]].concat())
        })
        .collect();
    assert_eq!(pieces(&bytes, 1300, to6), expected);
}

#[test]
fn an_ipv6_packet_that_must_fit_goes_in_pieces() {
    let data: Vec<u8> = (0..1192).map(|i| (i * 7) as u8).collect();
    let bytes = ip6_tuple(0x48, 64, Protocol::Udp, &FROM_CLIENT6, &data);
    let new = layer4(Protocol::Udp, &TO_SERVER4.address_bytes(), [4, 1, 0x1f, 0x90], &data);
    let expected: Vec<_> = [(0..552, 0), (552..1104, 69), (1104..1200, 138)]
        .into_iter()
        .map(|(range, offset)| {
            let field = offset | if offset < 138 { MORE } else { 0 };
            let packet = Ip4 { field, ttl: 63, ..IP4 };
            packet.packet(17, &TO_SERVER4.address_bytes(), &new[range])
        })
        .collect();
    let to4 = |frame: &mut Frame<'_>, headers: &mut Headers| {
        to_ip4(frame, headers, &TO_SERVER4, 576, 0x1234)
    };
    assert_eq!(pieces(&bytes, 576, to4), expected);
}

#[test]
fn cutting_fails_without_leaving_anything() {
    let attempt = |mtu, payload: usize, offset, outbox: &mut Outbox| {
        let header = fragment_header(17, offset, false, 1);
        let data = vec![0; payload];
        let bytes = ip6(0, 9, 44, &TO_SERVER6.address_bytes(), &[&header[..], &data].concat());
        through(&bytes, |frame, headers| cut(frame, headers, mtu, 0, outbox)).map(|_| ())
    };
    let mut outbox = Outbox::default();
    assert_eq!(attempt(55, 100, 8, &mut outbox), Err(DropReason::TooBig));
    assert_eq!(attempt(0, 100, 8, &mut outbox), Err(DropReason::TooBig));
    assert_eq!(attempt(1280, 2000, 65_000, &mut outbox), Err(DropReason::TooBig));
    assert!(outbox.is_empty());
    while outbox.push(0, 1).is_some() {}
    outbox.pop();
    assert_eq!(attempt(1280, 4000, 8, &mut outbox), Err(DropReason::TxFull));
    assert!(outbox.push(0, 1).is_some(), "its piece was taken back");
}
