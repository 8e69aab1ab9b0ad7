use super::*;
use crate::forward::testing::{HEADROOM, MAC, PEER_MAC, Segment, edit, headers_of, verifies};

mod stream;

const CLIENT: ([u8; 4], u16) = ([192, 168, 1, 12], 51_000);
const VIP: ([u8; 4], u16) = ([192, 168, 1, 100], 80);
/// What the server sees: FULLNAT's local address, and its own.
const LOCAL: ([u8; 4], u16) = ([10, 0, 2, 1], 1025);
const SERVER: ([u8; 4], u16) = ([10, 0, 2, 31], 8080);
/// The client's first byte has the number 0.
const ISN: u32 = u32::MAX;
const HEADER4: [u8; 28] = [
    0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11, 0x00, 0x0c,
    192, 168, 1, 12, 192, 168, 1, 100, 0xc7, 0x38, 0x00, 0x50,
];

fn stream4(acked: bool) -> Stream {
    Stream { isn: ISN, acked, client: CLIENT.into(), vip: VIP.into() }
}

fn hop(mtu: u16) -> PortHop {
    PortHop { port: 3, dst_mac: MAC, src_mac: PEER_MAC, mtu }
}

struct Sent {
    bytes: Vec<u8>,
    result: Result<(), DropReason>,
    /// What waits in the outbox.
    apart: Vec<(u8, Vec<u8>)>,
}

fn server_bound(bytes: &[u8], stream: &Stream, mtu: u16) -> Sent {
    let mut outbox = Outbox::default();
    let (bytes, (result, told)) = edit(bytes, |frame, headers| {
        (to_server(frame, headers, stream, &hop(mtu), &mut outbox), *headers)
    });
    let len = told.ip_len;
    assert_eq!(headers_of(&bytes).ip_len, len);
    let apart = outbox
        .frames()
        .map(|(to, bytes)| match to {
            crate::outbox::To::Port(port) => (port, bytes.to_vec()),
            other => panic!("to {other:?}"),
        })
        .collect();
    Sent { bytes, result, apart }
}

fn client_bound(bytes: &[u8], stream: &Stream) -> (Vec<u8>, Result<bool, DropReason>) {
    edit(bytes, |frame, headers| to_client(frame, headers, stream))
}

fn segment(seq: u32, payload: &[u8]) -> Segment<'_> {
    Segment { seq, ack: 900, payload, ..Segment::ACK }
}

fn to_the_server(segment: &Segment<'_>) -> Vec<u8> {
    segment.bytes4(LOCAL, SERVER)
}

#[test]
fn the_header_is_that_of_the_specification() {
    let header = stream4(false);
    assert_eq!(header.header()[..usize::from(header.header_len())], HEADER4);
    let six = Stream {
        client: "[fd01::12]:51000".parse().unwrap(),
        vip: "[fd01::100]:80".parse().unwrap(),
        ..stream4(false)
    };
    let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24".to_vec();
    expected.extend_from_slice(&[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12]);
    expected.extend_from_slice(&[0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    expected.extend_from_slice(&[0xc7, 0x38, 0, 80]);
    assert_eq!(six.header()[..], expected);
    assert_eq!(six.header_len(), 52);
    // Never met: client and service are of one family. Said in IPv6's words.
    let mixed = Stream { client: CLIENT.into(), ..six };
    assert_eq!(mixed.header()[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 12]);
}

/// The bytes are those that a host would have sent with the header.
#[test]
fn what_begins_with_the_first_byte_carries_the_header() {
    for payload in [&b""[..], b"odd"] {
        for fin in [false, true] {
            let with = [&HEADER4, payload].concat();
            let before = to_the_server(&Segment { fin, ..segment(0, payload) });
            let sent = server_bound(&before, &stream4(false), 1500);
            assert_eq!(sent.result, Ok(()));
            assert_eq!(sent.bytes, to_the_server(&Segment { fin, ..segment(0, &with) }));
            assert!(sent.apart.is_empty());
        }
    }
    let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let six = Stream {
        client: "[fd01::12]:51000".parse().unwrap(),
        vip: "[fd01::100]:80".parse().unwrap(),
        ..stream4(false)
    };
    let (src, dst) = (([0xfd; 16], 1), ([0xfe; 16], 2));
    let build =
        |payload: &[u8]| Segment { options: &timestamps, ..segment(0, payload) }.bytes6(src, dst);
    let sent = server_bound(&build(b"odd"), &six, 1500);
    assert_eq!(sent.bytes, build(&[&six.header(), &b"odd"[..]].concat()));
}

/// Rows: acknowledged, number, RST, the number at the server.
#[test]
fn other_segments_are_shifted_or_left_alone() {
    for (acked, seq, rst, expected) in [
        (false, ISN, false, ISN),
        (false, 1, false, 29),
        (false, 0x7fff_ffff, false, 0x7fff_ffff + 28),
        (false, 0, true, 0),
        (false, 1, true, 29),
        (true, 0, false, 28),
        (true, 0, true, 28),
        (true, ISN, false, 27),
        (true, 0x9000_0000, false, 0x9000_0000 + 28),
        (true, u32::MAX - 3, false, 24),
    ] {
        let build = |seq| {
            let mut bytes = to_the_server(&segment(seq, b"odd"));
            if rst {
                bytes[47] |= tcp::RST;
                let sum = u16::from_be_bytes([bytes[50], bytes[51]]);
                let sum = checksum::after(sum, checksum::replace(0, &[], &[0, tcp::RST]));
                bytes[50..52].copy_from_slice(&sum.to_be_bytes());
            }
            bytes
        };
        let sent = server_bound(&build(seq), &stream4(acked), 1500);
        assert_eq!(sent.result, Ok(()));
        assert_eq!(sent.bytes, build(expected), "{acked} {seq:#x} {rst}");
        assert!(sent.apart.is_empty());
    }
}

#[test]
fn data_in_a_syn_is_cut_off() {
    let options = [2, 4, 5, 180];
    let build = |payload: &[u8]| {
        to_the_server(&Segment { syn: true, ack: 0, options: &options, ..segment(ISN, payload) })
    };
    for payload in [&b""[..], b"odd", b"even"] {
        let before = build(payload);
        let sent = server_bound(&before, &stream4(false), 1500);
        assert_eq!(sent.result, Ok(()));
        assert_eq!(sent.bytes[..58], build(b""));
        assert_eq!(headers_of(&sent.bytes).ip_len, 44);
    }
    let before = build(b"odd");
    let mut headers = headers_of(&before);
    let mut buffer = before.clone();
    let mut frame = Frame::new(&mut buffer, 0, 60, before.len(), 0);
    let result =
        to_server(&mut frame, &mut headers, &stream4(false), &hop(1500), &mut Outbox::default());
    assert_eq!((result, buffer), (Err(DropReason::NoTranslation), before));
}

#[test]
fn a_header_that_does_not_fit_goes_by_itself() {
    let options = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let build = |seq, payload: &[u8], fin| {
        to_the_server(&Segment { fin, options: &options, ..segment(seq, payload) })
    };
    let payload = [7; 101];
    let len = 20 + 32 + 101;
    let fits = server_bound(&build(0, &payload, true), &stream4(false), len + 28);
    assert_eq!(fits.bytes, build(0, &[&HEADER4[..], &payload].concat(), true));
    assert!(fits.apart.is_empty());
    let before = build(0, &payload, true);
    let sent = server_bound(&before, &stream4(false), len + 27);
    assert_eq!(sent.result, Ok(()));
    assert_eq!(sent.bytes, build(28, &payload, true));
    let mut apart = build(0, &HEADER4, false);
    apart[..12].copy_from_slice(&[MAC, PEER_MAC].concat());
    assert_eq!(sent.apart, [(3, apart)]);

    let (src, dst) = (([0xfd; 16], 1), ([0xfe; 16], 2));
    let sent = server_bound(&segment(0, &payload).bytes6(src, dst), &stream4(false), 170);
    assert_eq!(sent.bytes, segment(28, &payload).bytes6(src, dst));
    let mut apart = segment(0, &HEADER4).bytes6(src, dst);
    apart[..12].copy_from_slice(&[MAC, PEER_MAC].concat());
    assert_eq!(sent.apart, [(3, apart)]);
}

/// No right segment is made of a wrong one, whose numbers may be what is wrong.
#[test]
fn a_wrong_checksum_stays_wrong() {
    for (seq, payload, mtu) in [(0, &b"odd"[..], 1500), (1, b"odd", 1500), (0, &[1; 80], 120)] {
        let mut before = to_the_server(&segment(seq, payload));
        before[43] ^= 1;
        let sent = server_bound(&before, &stream4(false), mtu);
        assert_eq!((sent.result, verifies(&sent.bytes)), (Ok(()), false));
        assert_eq!(sent.apart.len(), usize::from(mtu == 120));
        assert!(sent.apart.iter().all(|(_, bytes)| !verifies(bytes)));
    }
}

#[test]
fn the_urgent_pointer_counts_the_header() {
    let build = |payload: &[u8], urgent: u16| {
        let mut bytes = to_the_server(&segment(0, payload));
        bytes[47] |= URG;
        bytes[52..54].copy_from_slice(&urgent.to_be_bytes());
        let added = checksum::replace(0, &[], &[0, URG]);
        let added = checksum::replace(added, &[], &urgent.to_be_bytes());
        let sum = checksum::after(u16::from_be_bytes([bytes[50], bytes[51]]), added);
        bytes[50..52].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    let sent = server_bound(&build(b"now", 2), &stream4(false), 1500);
    assert_eq!(sent.bytes, build(&[&HEADER4[..], b"now"].concat(), 30));
    assert!(verifies(&sent.bytes));
    // A header by itself has nothing urgent.
    let sent = server_bound(&build(b"now", 2), &stream4(false), 43 + 27);
    assert_eq!(sent.apart[0].1[47], tcp::ACK);
    assert!(verifies(&sent.apart[0].1) && verifies(&sent.bytes));
    let sent = server_bound(&build(b"now", 0xfff0), &stream4(false), 1500);
    assert_eq!(sent.bytes, build(&[&HEADER4[..], b"now"].concat(), 0xffff));
}

#[test]
fn what_cannot_be_done_is_dropped_as_it_was() {
    let before = to_the_server(&segment(0, &[7; 100]));
    let len = before.len();
    let run = |bytes: &[u8], start, len, fragment, mtu, outbox: &mut Outbox| {
        let mut headers = Headers { fragment, ..headers_of(&before) };
        let mut buffer = vec![0; start];
        buffer.extend_from_slice(bytes);
        let mut frame = Frame::new(&mut buffer, start, len, bytes.len(), 0);
        let result = to_server(&mut frame, &mut headers, &stream4(false), &hop(mtu), outbox);
        assert_eq!(buffer[start..], *bytes);
        assert_eq!(headers, Headers { fragment, ..headers_of(&before) });
        result
    };
    let outbox = &mut Outbox::default();
    assert_eq!(run(&before, 27, len, false, 1500, outbox), Err(DropReason::NoHeadroom));
    assert_eq!(run(&before, HEADROOM, len, true, 1500, outbox), Err(DropReason::NoTranslation));
    assert_eq!(run(&before, HEADROOM, 100, false, 150, outbox), Err(DropReason::TooBig));
    assert_eq!(run(&before, HEADROOM, len, false, 67, outbox), Err(DropReason::TooBig));
    let mut bad = before.clone();
    bad[46] = 0x40;
    assert_eq!(run(&bad, HEADROOM, len, false, 1500, outbox), Err(DropReason::L4Truncated));
    assert!(outbox.is_empty());
    while outbox.push(0, 60).is_some() {}
    assert_eq!(run(&before, HEADROOM, len, false, 150, outbox), Err(DropReason::TxFull));
}

fn reply(ack: u32, syn: bool) -> Vec<u8> {
    Segment { syn, ack, payload: b"reply", ..segment(5000, b"") }.bytes4(SERVER, LOCAL)
}

/// Rows: acknowledged before, SYN, number, the number at the client,
/// acknowledged afterwards.
#[test]
fn acknowledgements_leave_the_header_out() {
    for (before, syn, ack, expected, after) in [
        (false, true, 0, 0, false),
        (false, false, 0, 0, false),
        (false, false, ISN, ISN, false),
        (false, false, 1, 0, false),
        (false, false, 27, 0, false),
        (false, false, 28, 0, true),
        (false, false, 29, 1, true),
        (true, false, 1000, 972, true),
        (true, false, 0x9000_0000, 0x9000_0000 - 28, true),
        // After 4 GiB, or overtaken.
        (true, false, 5, 5_u32.wrapping_sub(28), true),
    ] {
        let (bytes, result) = client_bound(&reply(ack, syn), &stream4(before));
        assert_eq!((bytes, result), (reply(expected, syn), Ok(after)), "{before} {syn} {ack:#x}");
    }
    // What answers a SYN, however late it comes.
    let late = Stream { isn: 99, ..stream4(true) };
    assert_eq!(client_bound(&reply(100, true), &late), (reply(100, true), Ok(true)));
    // Without the flag the field means nothing.
    let mut bytes = reply(40, false);
    bytes[47] = tcp::RST;
    assert_eq!(client_bound(&bytes, &stream4(false)), (bytes.clone(), Ok(false)));
}

/// An acknowledgement that nobody sent does not end the header. What is not all
/// at hand is believed.
#[test]
fn a_damaged_acknowledgement_is_not_believed() {
    for (src, dst) in [(SERVER, LOCAL), (LOCAL, SERVER)] {
        let mut bytes = segment(5000, b"reply").bytes4(src, dst);
        bytes[42..46].copy_from_slice(&40_u32.to_be_bytes());
        let (after, result) = client_bound(&bytes, &stream4(false));
        assert_eq!((result, verifies(&after)), (Ok(false), false));
    }
    let six =
        Segment { ack: 28, ..segment(5000, b"reply") }.bytes6(([0xfd; 16], 1), ([0xfe; 16], 2));
    assert_eq!(client_bound(&six, &stream4(false)).1, Ok(true));
    let damaged = [&six[..six.len() - 1], &[0]].concat();
    assert_eq!(client_bound(&damaged, &stream4(false)).1, Ok(false));
    let headers = headers_of(&damaged);
    let mut buffer = damaged.clone();
    let mut frame = Frame::new(&mut buffer, 0, 76, damaged.len(), 0);
    assert_eq!(to_client(&mut frame, &headers, &stream4(false)), Ok(true));
}

/// A SACK option of these blocks, then what fills it up.
fn sack(blocks: &[(u32, u32)], nops: usize) -> Vec<u8> {
    let mut option = vec![1, 5, 2 + 8 * blocks.len() as u8];
    for (left, right) in blocks {
        option.extend_from_slice(&left.to_be_bytes());
        option.extend_from_slice(&right.to_be_bytes());
    }
    option.resize(option.len() + nops, 1);
    option
}

#[test]
fn sack_blocks_move_with_the_numbers() {
    let build = |ack, options: &[u8]| {
        Segment { ack, options, ..segment(5000, b"odd") }.bytes4(SERVER, LOCAL)
    };
    // Rows: acknowledged before, number and blocks, and what the client gets.
    let all = sack(&[(128, 228), (328, 428)], 1);
    let moved = sack(&[(100, 200), (300, 400)], 1);
    let (bytes, _) = client_bound(&build(78, &all), &stream4(true));
    assert_eq!(bytes, build(50, &moved));
    let (bytes, _) = client_bound(&build(78, &all), &stream4(false));
    assert_eq!(bytes, build(50, &moved));
    // A duplicate of the header alone, or with data.
    let duplicate = sack(&[(0, 28), (128, 228)], 1);
    let (bytes, _) = client_bound(&build(78, &duplicate), &stream4(true));
    assert_eq!(bytes, build(50, &sack(&[(100, 200)], 9)));
    let (bytes, _) = client_bound(&build(78, &sack(&[(0, 50)], 1)), &stream4(true));
    assert_eq!(bytes, build(50, &[1; 12]));
    // The header is missing, what follows it is not: the client sends it again.
    let ahead = sack(&[(28, 128), (228, 328)], 1);
    let (bytes, result) = client_bound(&build(0, &ahead), &stream4(false));
    assert_eq!((bytes, result), (build(0, &sack(&[(200, 300)], 9)), Ok(false)));
    let (bytes, result) = client_bound(&build(28, &ahead), &stream4(false));
    assert_eq!((bytes, result), (build(0, &sack(&[(0, 100), (200, 300)], 1)), Ok(true)));
    // Not a SACK option, or a malformed one.
    for other in [[1, 1, 4, 2], [5, 4, 0, 0], [1, 1, 5, 9], [0, 5, 2, 0]] {
        let (bytes, _) = client_bound(&build(128, &other), &stream4(true));
        assert_eq!(bytes, build(100, &other));
    }
    let mut bytes = build(128, &[]);
    bytes[46] = 0xf0;
    let expected = (bytes.clone(), Err(DropReason::L4Truncated));
    assert_eq!(client_bound(&bytes, &stream4(true)), expected);
}

/// An error of the server's side about a segment to the server with this
/// number, of which so many bytes of TCP are quoted.
fn error(kind: u8, code: u8, mtu: u16, seq: u32, quoted_tcp: usize) -> Vec<u8> {
    let quoted = to_the_server(&segment(seq, b"the beginning"));
    let mut message = vec![kind, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend(&quoted[14..34 + quoted_tcp]);
    let sum = !(checksum::add(0, &message) as u16);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = Vec::new();
    etherparse::PacketBuilder::ethernet2(PEER_MAC, MAC)
        .ipv4(SERVER.0, LOCAL.0, 64)
        .write(&mut bytes, etherparse::IpNumber::ICMP, &message)
        .unwrap();
    bytes
}

/// Rows: acknowledged, MTU told, number quoted; MTU and number for the client.
#[test]
fn errors_quote_the_clients_numbers() {
    for (acked, kind, mtu, seq, expected_mtu, expected) in [
        (false, (3, 4), 1400, ISN, 1400, ISN),
        // The segment with the header: what is too long is not all the
        // client's.
        (false, (3, 4), 1400, 0, 1372, 0),
        (false, (3, 4), 20, 0, 20, 0),
        (false, (3, 1), 1400, 0, 1400, 0),
        (false, (3, 4), 1400, 5, 1400, 0),
        (false, (3, 4), 1400, 28, 1400, 0),
        (false, (3, 1), 0, 1028, 0, 1000),
        (true, (3, 4), 1400, 1028, 1400, 1000),
        (true, (3, 4), 1400, 5, 1400, 5_u32.wrapping_sub(28)),
    ] {
        let mut bytes = error(kind.0, kind.1, mtu, seq, 8);
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, len, 0);
        let mut headers = Headers::NONE;
        crate::packet::headers::parse(&frame, MAC, &mut headers).unwrap();
        let quoted = Quoted::read(&frame, &headers).unwrap();
        error_to_client(&mut frame, &quoted, &stream4(acked));
        let mut wanted = error(kind.0, kind.1, expected_mtu, expected, 8);
        // The quoted checksum stays: it is not among the bytes.
        assert_eq!(bytes.len(), wanted.len());
        // 0 and 0xffff mean the same.
        for sum in [&mut bytes, &mut wanted] {
            if sum[36..38] == [0xff, 0xff] {
                sum[36..38].fill(0);
            }
        }
        assert_eq!(bytes, wanted, "{acked} {kind:?} {mtu} {seq:#x}");
    }
}

#[test]
fn an_error_that_quotes_no_number_stays() {
    for quoted_tcp in [4, 7] {
        let mut bytes = error(3, 1, 0, 1028, quoted_tcp);
        let before = bytes.clone();
        let len = bytes.len();
        let mut frame = Frame::new(&mut bytes, 0, len, len, 0);
        let mut headers = Headers::NONE;
        crate::packet::headers::parse(&frame, MAC, &mut headers).unwrap();
        let quoted = Quoted::read(&frame, &headers).unwrap();
        error_to_client(&mut frame, &quoted, &stream4(true));
        assert_eq!(bytes, before);
    }
}
