use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::packet::Mac;
use crate::packet::headers::{Parsed, parse};

const MAC: Mac = [0, 0x50, 0, 0, 4, 0];
const HOP: PortHop = PortHop {
    port: 3,
    dst_mac: [2, 0, 0, 0, 2, 11],
    src_mac: [2, 0, 0, 0, 1, 1],
    // Path::mtu counts.
    mtu: 1,
    vlan: 0,
};
const ROOM: usize = 128;
const GUE: Encapsulation = gue(GueChecksum::None);
const GRE_SUM: Encapsulation = Encapsulation::Gre { checksum: true };
const KINDS: [Encapsulation; 6] = [
    Encapsulation::Ipip,
    GUE,
    gue(GueChecksum::Full),
    gue(GueChecksum::Remote),
    Encapsulation::Gre { checksum: false },
    GRE_SUM,
];

/// UDP "hello" from a client to a VIP with TTL 64. IPv4: TOS 0xbb (ECN CE), id
/// 0x1234, DF. IPv6: class 0xb9 (ECT(1)), flow label 0xabcde.
const HELLO4: &str = "45bb0021123440004011a41cc0a8010cc0a8016404d20035000d333a68656c6c6f";
const HELLO6: &str = "6b9abcde000d1140fd010000000000000000000000000012\
                      fd01000000000000000000000000010004d20035000dbbe568656c6c6f";

const fn gue(checksum: GueChecksum) -> Encapsulation {
    Encapsulation::Gue { port: 6080, checksum }
}

fn tunnel(family: Family, encapsulation: Encapsulation) -> Tunnel {
    let (source, destination) = match family {
        Family::V4 => ("10.0.1.1", "10.0.2.11"),
        Family::V6 => ("fd02::1", "fd02::11"),
    };
    Tunnel::new(encapsulation, source.parse().unwrap(), destination.parse().unwrap()).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |i| u8::from_str_radix(&text[i..i + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// The frame that brings an IP packet.
fn framed(ip: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if ip[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&MAC[..], &[0, 0x50, 0, 0, 3, 0], &ethertype, ip].concat()
}

/// An IPv4 packet with a good checksum.
fn ip4(tos: u8, df: bool, ttl: u8, len: usize) -> Vec<u8> {
    let mut ip = hex(HELLO4);
    ip.resize(len, 0x5a);
    (ip[1], ip[6], ip[8]) = (tos, u8::from(df) << 6, ttl);
    ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    ip[10..12].fill(0);
    write_ip4_checksum(&mut ip[..20]);
    ip
}

fn ip6(len: usize) -> Vec<u8> {
    let mut ip = hex(HELLO6);
    ip.resize(len, 0x5a);
    ip[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
    ip
}

/// What came of a frame: the result, the frame afterwards, the outbox.
struct Outcome {
    result: Result<Sent, Refused>,
    frame: Vec<u8>,
    outbox: Outbox,
}

impl Outcome {
    fn pieces(&self) -> Vec<Vec<u8>> {
        assert!(self.outbox.frames().all(|(to, _)| to == crate::outbox::To::Port(HOP.port)));
        self.outbox.frames().map(|(_, frame)| frame.to_vec()).collect()
    }
}

fn send(ip: &[u8], tunnel: &Tunnel, mtu: u16) -> Outcome {
    send_frame(&framed(ip), tunnel, mtu, true)
}

fn send_frame(frame: &[u8], tunnel: &Tunnel, mtu: u16, pmtu_disc: bool) -> Outcome {
    send_first(frame, frame.len(), tunnel, mtu, pmtu_disc)
}

/// Sends a frame of which the first `at_hand` bytes are in the buffer.
fn send_first(bytes: &[u8], at_hand: usize, tunnel: &Tunnel, mtu: u16, pmtu_disc: bool) -> Outcome {
    let mut buffer = [&[0xee; ROOM], &bytes[..at_hand]].concat();
    let mut frame = Frame::new(&mut buffer, ROOM, at_hand, bytes.len(), 0);
    let mut headers = Headers::NONE;
    assert_eq!(parse(&frame, MAC, &mut headers), Ok(Parsed::Flow));
    let path = Path { tunnel, hop: &HOP, mtu, pmtu_disc, flow: 1 << 31 };
    let mut outbox = Outbox::default();
    // Its memory was used before.
    while let Some(slot) = outbox.push(0, 1600) {
        slot.fill(0xee);
    }
    outbox.clear();
    // Worker 1 of 3: steps of 4.
    let mut ids = Ids::new(1, 3, 0x00ab_cd00);
    let result = forward(&mut frame, &headers, &path, &mut ids, &mut outbox);
    Outcome { result, frame: frame.bytes().to_vec(), outbox }
}

fn sum_is_good(bytes: &[u8], pseudo: u32) -> bool {
    plain_sum(bytes, pseudo) == 0xffff
}

/// A sum of its own, byte by byte.
fn plain_sum(bytes: &[u8], start: u32) -> u64 {
    let mut sum = u64::from(start);
    for (i, byte) in bytes.iter().enumerate() {
        sum += u64::from(*byte) << if i % 2 == 0 { 8 } else { 0 };
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// Every encapsulation and pair of families, to the byte. The expected headers
/// were computed by a program that has nothing in common with this one.
#[test]
fn headers_to_the_byte() {
    const REST: &str = "3ffd020000000000000000000000000001fd020000000000000000000000000011";
    let rows: [(Family, &str, Encapsulation, &str); 24] = [
        (Family::V4, HELLO4, KINDS[0], "45ba0035000040003f0424000a0001010a00020b"),
        (
            Family::V4,
            HELLO4,
            KINDS[1],
            "45ba0041000040003f1123e70a0001010a00020bb72317c0002d000000040000",
        ),
        (
            Family::V4,
            HELLO4,
            KINDS[2],
            "45ba0041000040003f1123e70a0001010a00020bb72317c0002d9d8000040000",
        ),
        (
            Family::V4,
            HELLO4,
            KINDS[3],
            "45ba0041000040003f1123e70a0001010a00020bb72317c0002d9d8000040000",
        ),
        (Family::V4, HELLO4, KINDS[4], "45ba0039000040003f2f23d10a0001010a00020b00000800"),
        (Family::V4, HELLO4, KINDS[5], "45ba003d000040003f2f23cd0a0001010a00020b80000800fbde0000"),
        (Family::V4, HELLO6, KINDS[0], "45b90049cd0100003f2996c60a0001010a00020b"),
        (
            Family::V4,
            HELLO6,
            KINDS[1],
            "45b90055cd0100003f1196d20a0001010a00020bb72317c00041000000290000",
        ),
        (
            Family::V4,
            HELLO6,
            KINDS[2],
            "45b90055cd0100003f1196d20a0001010a00020bb72317c00041dfac00290000",
        ),
        (
            Family::V4,
            HELLO6,
            KINDS[3],
            "45b90055cd0100003f1196d20a0001010a00020bb72317c00041dfac00290000",
        ),
        (Family::V4, HELLO6, KINDS[4], "45b9004dcd0100003f2f96bc0a0001010a00020b000086dd"),
        (Family::V4, HELLO6, KINDS[5], "45b90051cd0100003f2f96b80a0001010a00020b800086ddbf7a0000"),
        (Family::V6, HELLO4, KINDS[0], "6ba00000002104{}"),
        (Family::V6, HELLO4, KINDS[1], "6ba00000002d11{}b72317c0002d000000040000"),
        (Family::V6, HELLO4, KINDS[2], "6ba00000002d11{}b72317c0002dba7400040000"),
        (Family::V6, HELLO4, KINDS[3], "6ba00000002d11{}b72317c0002dba7400040000"),
        (Family::V6, HELLO4, KINDS[4], "6ba0000000252f{}00000800"),
        (Family::V6, HELLO4, KINDS[5], "6ba0000000292f{}80000800fbde0000"),
        (Family::V6, HELLO6, KINDS[0], "6b900000003529{}"),
        (Family::V6, HELLO6, KINDS[1], "6b900000004111{}b72317c00041000000290000"),
        (Family::V6, HELLO6, KINDS[2], "6b900000004111{}b72317c00041fca000290000"),
        (Family::V6, HELLO6, KINDS[3], "6b900000004111{}b72317c00041fca000290000"),
        (Family::V6, HELLO6, KINDS[4], "6b90000000392f{}000086dd"),
        (Family::V6, HELLO6, KINDS[5], "6b900000003d2f{}800086ddbf7a0000"),
    ];
    for (family, inner, kind, outer) in rows {
        let tunnel = tunnel(family, kind);
        let mut inner = hex(inner);
        let outer = hex(&outer.replace("{}", REST));
        assert_eq!(outer.len(), usize::from(tunnel.overhead()));
        let got = send(&inner, &tunnel, 1500);
        assert_eq!(got.result, Ok(Sent::Whole));
        // What the decrement changes.
        if inner[0] >> 4 == 4 {
            (inner[8], inner[10]) = (63, 0xa5);
        } else {
            inner[7] = 63;
        }
        let ethertype: &[u8] = if family == Family::V4 { &[8, 0] } else { &[0x86, 0xdd] };
        let expected = [&HOP.dst_mac, &HOP.src_mac, ethertype, &outer, &inner].concat();
        assert_eq!(got.frame, expected, "{family:?} {kind:?} {}", inner[0] >> 4);
    }
}

#[test]
fn the_overhead_of_each_encapsulation() {
    let of = |family| KINDS.map(|kind| tunnel(family, kind).overhead());
    assert_eq!(of(Family::V4), [20, 32, 32, 32, 24, 28]);
    assert_eq!(of(Family::V6), [40, 52, 52, 52, 44, 48]);
}

#[test]
fn both_ends_are_of_one_family() {
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    assert_eq!(Tunnel::new(GUE, v4, v6), None);
    assert_eq!(Tunnel::new(GUE, v6, v4), None);
}

#[test]
fn congestion_experienced_is_not_copied() {
    for (inner, outer) in [(0, 0), (1, 1), (2, 2), (3, 2), (0xb8, 0xb8), (0xff, 0xfe)] {
        let got = send(&ip4(inner, true, 64, 60), &tunnel(Family::V4, GUE), 1500);
        assert_eq!((got.frame[15], got.frame[14 + 33]), (outer, inner));
    }
}

/// TTL 0 and 1: dropped although the packet is too long as well.
#[test]
fn ttl_comes_before_the_mtu() {
    for (ttl, mtu, expected) in [
        (0, 100, Err(Refused::Drop(DropReason::TtlExpired))),
        (1, 100, Err(Refused::Drop(DropReason::TtlExpired))),
        (2, 100, Err(Refused::TooBig { mtu: 80 })),
        (2, 1500, Ok(Sent::Whole)),
    ] {
        let got = send(&ip4(0, true, ttl, 500), &tunnel(Family::V4, KINDS[0]), mtu);
        assert_eq!(got.result, expected, "TTL {ttl}");
    }
    let got = send(&ip4(0, true, 2, 500), &tunnel(Family::V4, KINDS[0]), 1500);
    assert_eq!((got.frame[14 + 8], got.frame[34 + 8]), (1, 1));
}

#[test]
fn df_and_id_of_the_outer_header() {
    let flags = |frame: &[u8]| (frame[20], [frame[18], frame[19]]);
    let tunnel = tunnel(Family::V4, KINDS[0]);
    for (df, pmtu_disc, expected) in [
        (true, true, (0x40, [0, 0])),
        (false, true, (0, [0xcd, 0x01])),
        (true, false, (0, [0xcd, 0x01])),
        (false, false, (0, [0xcd, 0x01])),
    ] {
        let frame = framed(&ip4(0, df, 64, 60));
        let got = send_frame(&frame, &tunnel, 1500, pmtu_disc);
        assert_eq!(flags(&got.frame), expected, "DF {df}, pmtu_disc {pmtu_disc}");
        assert_eq!(got.frame[14 + 26], u8::from(df) << 6, "the inner DF");
    }
    // An inner fragment's offset is not copied.
    let mut ip = ip4(0, false, 64, 60);
    ip[6] = 0x20;
    ip[7] = 5;
    ip[10..12].fill(0);
    write_ip4_checksum(&mut ip[..20]);
    let got = send(&ip, &tunnel, 1500);
    assert_eq!(flags(&got.frame), (0, [0xcd, 0x01]));
    assert_eq!(got.frame[14 + 26..14 + 28], [0x20, 5]);
}

#[test]
fn workers_never_give_out_the_same_id() {
    let workers = 3;
    let mut seen = vec![None; 1 << 16];
    for worker in 0..workers {
        let mut ids = Ids::new(worker, workers, 0xffff_ff03);
        for _ in 0..20_000 {
            let id = ids.take() as u16;
            assert!(seen[usize::from(id)].is_none_or(|other| other == worker));
            seen[usize::from(id)] = Some(worker);
        }
    }
    let mut only = Ids::new(0, 1, 7);
    assert_eq!((only.take(), only.take()), (7, 8));
}

#[test]
fn flows_have_ports_of_the_kernels_range() {
    assert_eq!(flow_port(0), 32_768);
    assert_eq!(flow_port(u32::MAX), 60_998);
    // A hash with a period of 16 bits, as the ownership hash is, gives them all.
    let mut ports: Vec<u16> = (0..=u16::MAX).map(|h| flow_port(u32::from(h) * 0x10001)).collect();
    ports.dedup();
    assert_eq!(ports.len(), 28_231);
}

/// The longest packet that fits, and one byte more, for each encapsulation.
#[test]
fn too_big_tells_what_fits() {
    let told4 = [1480, 1468, 1468, 1468, 1476, 1472];
    for (family, less) in [(Family::V4, 0), (Family::V6, 20)] {
        for (kind, told) in KINDS.into_iter().zip(told4.map(|told| told - less)) {
            let tunnel = tunnel(family, kind);
            for make in [|len| ip4(0, true, 64, len), ip6] {
                let ip = make(usize::from(told));
                let fits = send(&ip, &tunnel, 1500);
                assert_eq!(fits.result, Ok(Sent::Whole));
                assert_eq!(fits.frame.len(), 1514);

                let ip = make(usize::from(told) + 1);
                let mut expected = framed(&ip);
                let got = send(&ip, &tunnel, 1500);
                assert_eq!(got.result, Err(Refused::TooBig { mtu: told }), "{family:?} {kind:?}");
                // To be quoted: the packet after the decrement.
                match ip[0] >> 4 {
                    4 => {
                        let sum =
                            checksum::after_ttl_decrement(u16::from_be_bytes([ip[10], ip[11]]));
                        expected[22] = 63;
                        expected[24..26].copy_from_slice(&sum.to_be_bytes());
                    }
                    _ => expected[21] = 63,
                }
                assert_eq!(got.frame, expected);
                assert!(got.outbox.is_empty());
            }
        }
    }
}

/// 1,280 bytes go through for IPv6 however small the MTU is, and 68 for IPv4.
#[test]
fn the_least_mtus_always_pass() {
    let v4 = tunnel(Family::V4, KINDS[0]);
    let got = send(&ip6(1280), &v4, 1299);
    assert_eq!((got.result, got.pieces().len()), (Ok(Sent::Fragments), 2));
    assert_eq!(send(&ip6(1281), &v4, 1299).result, Err(Refused::TooBig { mtu: 1280 }));
    let v6 = tunnel(Family::V6, KINDS[0]);
    assert_eq!(send(&ip6(1280), &v6, 1280).result, Ok(Sent::Fragments));
    let got = send(&ip4(0, true, 64, 68), &v4, 80);
    assert_eq!(got.result, Ok(Sent::Fragments));
    let piece = &got.pieces()[0];
    assert_eq!(piece[18..22], [0xcd, 1, 0x20, 0], "an id, and no DF");
    // No room for even eight bytes.
    assert_eq!(
        send(&ip4(0, false, 64, 68), &v4, 27).result,
        Err(Refused::Drop(DropReason::TooBig))
    );
}

/// Two fragments over IPv4, by their headers.
#[test]
fn fragments_over_ip4() {
    let got = send(&ip4(0x10, false, 64, 1500), &tunnel(Family::V4, GUE), 1500);
    assert_eq!(got.result, Ok(Sent::Fragments));
    let pieces = got.pieces();
    // 1,532 bytes: 1,512 behind the header, 1,480 of them in the first.
    let expected =
        ["451005dccd0120003f1171f40a0001010a00020b", "45100034cd0100b93f1196e30a0001010a00020b"];
    for (piece, header) in pieces.iter().zip(expected) {
        assert_eq!(piece[14..34], hex(header));
    }
    assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [1514, 66]);
}

/// Two fragments over IPv6: next header and id are in a header of their own.
#[test]
fn fragments_over_ip6() {
    let got = send(&ip4(0, false, 64, 1500), &tunnel(Family::V6, KINDS[0]), 1500);
    assert_eq!(got.result, Ok(Sent::Fragments));
    let pieces = got.pieces();
    let expected = ["6000000005b02c3f", "60000000003c2c3f"].map(hex);
    let fragment = ["0400000100abcd01", "040005a800abcd01"].map(hex);
    for ((piece, header), fragment) in pieces.iter().zip(expected).zip(fragment) {
        assert_eq!((&piece[14..22], &piece[54..62]), (&header[..], &fragment[..]));
    }
    assert_eq!(pieces.len(), 2);
}

/// `pmtu_disc=0`: IPv4 is fragmented though it has DF, IPv6 is told.
#[test]
fn without_pmtu_discovery() {
    for family in [Family::V4, Family::V6] {
        let tunnel = tunnel(family, KINDS[0]);
        let got = send_frame(&framed(&ip4(0, true, 64, 1500)), &tunnel, 1500, false);
        assert_eq!((got.result, got.pieces().len()), (Ok(Sent::Fragments), 2));
        let told = 1500 - tunnel.overhead();
        let got = send_frame(&framed(&ip6(1500)), &tunnel, 1500, false);
        assert_eq!(got.result, Err(Refused::TooBig { mtu: told }));
    }
}

#[test]
fn fragments_are_all_sent_or_none() {
    let tunnel = tunnel(Family::V4, KINDS[0]);
    let ip = ip4(0, false, 64, 1500);
    let mut buffer = [vec![0; ROOM], framed(&ip)].concat();
    let len = buffer.len() - ROOM;
    let mut frame = Frame::new(&mut buffer, ROOM, len, len, 0);
    let mut headers = Headers::NONE;
    parse(&frame, MAC, &mut headers).unwrap();
    let path = Path { tunnel: &tunnel, hop: &HOP, mtu: 600, pmtu_disc: true, flow: 0 };
    let mut outbox = Outbox::default();
    // 256 places, three pieces.
    for _ in 0..254 {
        outbox.push(0, 1).unwrap()[0] = 7;
    }
    let result = forward(&mut frame, &headers, &path, &mut Ids::new(0, 1, 0), &mut outbox);
    assert_eq!(result, Err(Refused::Drop(DropReason::TxFull)));
    assert_eq!(outbox.frames().count(), 254);
    assert!(outbox.frames().all(|frame| frame == (crate::outbox::To::Port(0), &[7][..])));
}

#[test]
fn padding_is_cut() {
    // An IP packet of 33 bytes in a frame of 60.
    let mut frame = framed(&hex(HELLO4));
    frame.resize(60, 0xcc);
    for kind in KINDS {
        let tunnel = tunnel(Family::V4, kind);
        let got = send_frame(&frame, &tunnel, 1500, true);
        assert_eq!(got.frame, send(&hex(HELLO4), &tunnel, 1500).frame);
        assert_eq!(got.frame.len(), 14 + usize::from(tunnel.overhead()) + 33);
    }
}

#[test]
fn a_priority_tag_goes() {
    let plain = framed(&hex(HELLO4));
    let tagged = [&plain[..12], &[0x81, 0, 0xe0, 0], &plain[12..]].concat();
    let tunnel = tunnel(Family::V6, GRE_SUM);
    let got = send_frame(&tagged, &tunnel, 1500, true);
    assert_eq!(got.result, Ok(Sent::Whole));
    assert_eq!(got.frame, send_frame(&plain, &tunnel, 1500, true).frame);
}

#[test]
fn headroom_is_needed() {
    let tunnel = tunnel(Family::V6, GUE);
    for (room, expected) in [(51, Err(DropReason::NoHeadroom.into())), (52, Ok(Sent::Whole))] {
        let mut buffer = [vec![0; room], framed(&hex(HELLO4))].concat();
        let len = buffer.len() - room;
        let mut frame = Frame::new(&mut buffer, room, len, len, 0);
        let mut headers = Headers::NONE;
        parse(&frame, MAC, &mut headers).unwrap();
        let path = Path { tunnel: &tunnel, hop: &HOP, mtu: 1500, pmtu_disc: true, flow: 0 };
        let mut outbox = Outbox::default();
        let result = forward(&mut frame, &headers, &path, &mut Ids::new(0, 1, 0), &mut outbox);
        assert_eq!(result, expected);
    }
}

/// Of a packet in several buffers only the headers are needed, unless its
/// payload is summed or it is fragmented.
#[test]
fn packets_in_segments() {
    let ip = ip4(0, false, 64, 1400);
    let frame = framed(&ip);
    for kind in KINDS {
        let tunnel = tunnel(Family::V4, kind);
        let got = send_first(&frame, 200, &tunnel, 1500, true);
        if tunnel.sums_payload() {
            assert_eq!(got.result, Err(Refused::Drop(DropReason::TooBig)), "{kind:?}");
        } else {
            assert_eq!(got.result, Ok(Sent::Whole), "{kind:?}");
            let whole = send(&ip, &tunnel, 1500).frame;
            assert_eq!(got.frame, whole[..200 + usize::from(tunnel.overhead())]);
        }
        let got = send_first(&frame, 200, &tunnel, 1400, true);
        assert_eq!(got.result, Err(Refused::Drop(DropReason::TooBig)));
    }
}

/// All ones in place of a UDP checksum that comes out as 0.
#[test]
fn a_udp_checksum_is_never_zero() {
    let mut ip = ip4(0, true, 64, 60);
    let tunnel = tunnel(Family::V4, gue(GueChecksum::Full));
    let first = send(&ip, &tunnel, 1500).frame;
    let sum = [first[40], first[41]];
    assert_ne!(sum, [0xff, 0xff]);
    // The last word takes up what the checksum is.
    let last = u64::from(u16::from_be_bytes([ip[58], ip[59]]));
    let last = checksum::fold(last + u64::from(u16::from_be_bytes(sum)));
    ip[58..60].copy_from_slice(&last.to_be_bytes());
    let frame = send(&ip, &tunnel, 1500).frame;
    assert_eq!(frame[40..42], [0xff, 0xff]);
}

#[test]
fn quoted_packets_are_found_again() {
    for family in [Family::V4, Family::V6] {
        for kind in KINDS {
            let tunnel = tunnel(family, kind);
            for inner in [HELLO4, HELLO6] {
                let sent = send(&hex(inner), &tunnel, 1500).frame;
                let outer = &sent[14..];
                let at = usize::from(tunnel.overhead());
                let seen = match kind {
                    Encapsulation::Gue { checksum: GueChecksum::Remote, .. } => {
                        Tunnel { encapsulation: gue(GueChecksum::Full), ..tunnel }
                    }
                    _ => tunnel,
                };
                assert_eq!(quoted_inner(outer), Some((seen, at)));
                assert_eq!(quoted_inner(&outer[..=at]), Some((seen, at)));
                for len in 0..=at {
                    assert_eq!(quoted_inner(&outer[..len]), None, "{len} bytes");
                }
            }
        }
    }
}

#[test]
fn of_fragments_the_first_is_found() {
    for (family, at) in [(Family::V4, 20 + 12), (Family::V6, 40 + 8 + 12)] {
        let tunnel = tunnel(family, GUE);
        let pieces = send(&ip4(0, false, 64, 1500), &tunnel, 1500).pieces();
        assert_eq!(quoted_inner(&pieces[0][14..]), Some((tunnel, at)));
        assert_eq!(quoted_inner(&pieces[1][14..]), None);
    }
}

#[test]
fn what_is_no_tunnel_of_ours_is_not_found() {
    let sent = |kind| send(&hex(HELLO4), &tunnel(Family::V4, kind), 1500).frame[14..].to_vec();
    // Position, value, and what it makes of the packet.
    let rows = [
        (KINDS[0], 0, 0x55, "version 5"),
        (KINDS[0], 0, 0x44, "a header of 16 bytes"),
        (KINDS[0], 9, 6, "TCP"),
        (KINDS[0], 20, 0x65, "another inner version"),
        (GUE, 28, 1, "GUE with options"),
        (GUE, 28, 0x40, "GUE, variant 1"),
        (GUE, 29, 6, "TCP in GUE"),
        (GUE, 30, 1, "GUE with flags"),
        (KINDS[4], 20, 0x20, "GRE with a key"),
        (KINDS[4], 21, 1, "PPTP's GRE"),
        (KINDS[4], 22, 0x65, "Ethernet in GRE"),
    ];
    for (kind, at, value, what) in rows {
        let mut outer = sent(kind);
        assert!(quoted_inner(&outer).is_some());
        outer[at] = value;
        assert_eq!(quoted_inner(&outer), None, "{what}");
    }
    // Options of the outer header are passed over.
    let mut outer = sent(KINDS[0]);
    outer[0] = 0x46;
    outer.splice(20..20, [1; 4]);
    assert_eq!(quoted_inner(&outer).unwrap().1, 24);
}

/// What the server finds: the outer packet put together from what was sent, its
/// checksums verified, and unwrapped.
fn received(got: &Outcome, tunnel: &Tunnel, mtu: u16) -> Vec<u8> {
    let sent = match got.result.unwrap() {
        Sent::Whole => vec![got.frame.clone()],
        Sent::Fragments => got.pieces(),
    };
    let last = sent.len() - 1;
    let mut payload = Vec::new();
    let mut protocol = 0;
    let mut id = None;
    for (i, frame) in sent.iter().enumerate() {
        let ip = &frame[14..];
        assert!(ip.len() <= usize::from(mtu));
        let (len, number, more, offset, this, body) = match ip[0] >> 4 {
            4 => {
                assert!(sum_is_good(&ip[..20], 0));
                let place = u16::from_be_bytes([ip[6], ip[7]]);
                let len = u16::from_be_bytes([ip[2], ip[3]]);
                let id = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
                (len, ip[9], place & 0x2000 != 0, place << 3, id, &ip[20..])
            }
            _ => {
                let len = 40 + u16::from_be_bytes([ip[4], ip[5]]);
                if last == 0 {
                    (len, ip[6], false, 0, 0, &ip[40..])
                } else {
                    assert_eq!((ip[6], ip[41]), (44, 0));
                    let place = u16::from_be_bytes([ip[42], ip[43]]);
                    let id = u32::from_be_bytes([ip[44], ip[45], ip[46], ip[47]]);
                    (len, ip[40], place & 1 != 0, place & 0xfff8, id, &ip[48..])
                }
            }
        };
        assert_eq!(usize::from(len), ip.len());
        assert_eq!(usize::from(offset), payload.len());
        assert_eq!(more, i != last);
        assert_eq!(*id.get_or_insert(this), this);
        payload.extend_from_slice(body);
        protocol = number;
    }
    match tunnel.encapsulation {
        Encapsulation::Ipip => payload,
        Encapsulation::Gue { checksum, .. } => {
            assert_eq!(protocol, 17);
            assert_eq!(usize::from(u16::from_be_bytes([payload[4], payload[5]])), payload.len());
            if checksum == GueChecksum::None {
                assert_eq!(payload[6..8], [0, 0]);
            } else {
                let addresses = match tunnel.family() {
                    Family::V4 => &sent[0][26..34],
                    Family::V6 => &sent[0][22..54],
                };
                let pseudo = plain_sum(addresses, 17 + payload.len() as u32) as u32;
                assert!(sum_is_good(&payload, pseudo));
            }
            payload[12..].to_vec()
        }
        Encapsulation::Gre { checksum } => {
            assert_eq!(protocol, 47);
            assert!(!checksum || sum_is_good(&payload, 0));
            payload[if checksum { 8 } else { 4 }..].to_vec()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The server gets the client's packet with a TTL less by one, whatever the
    /// way: nothing else is changed.
    #[test]
    fn unwrapping_gives_the_packet(
        v6 in any::<bool>(),
        outer6 in any::<bool>(),
        kind in 0..KINDS.len(),
        body in prop::collection::vec(any::<u8>(), 0..3000),
        (tos, ttl, df, pmtu_disc) in (any::<u8>(), 2..=u8::MAX, any::<bool>(), any::<bool>()),
        mtu in 576..4000_u16,
        padding in 0..20_usize,
    ) {
        let tunnel = tunnel(if outer6 { Family::V6 } else { Family::V4 }, KINDS[kind]);
        let family = if v6 { Family::V6 } else { Family::V4 };
        let mut ip = if v6 { ip6(48 + body.len()) } else { ip4(tos, df, ttl, 28 + body.len()) };
        let at = ip.len() - body.len();
        ip[at..].copy_from_slice(&body);
        if v6 {
            ip[7] = ttl;
        }
        let mut frame = framed(&ip);
        frame.resize(frame.len() + padding, 0xcc);
        let got = send_frame(&frame, &tunnel, mtu, pmtu_disc);

        let told = tunnel.inner_mtu(mtu, family);
        let told_only = v6 || (df && pmtu_disc);
        if told_only && ip.len() > usize::from(told) {
            prop_assert_eq!(got.result, Err(Refused::TooBig { mtu: told }));
        } else {
            let mut inner = received(&got, &tunnel, mtu);
            // Back to what the client sent.
            if v6 {
                inner[7] += 1;
            } else {
                prop_assert!(sum_is_good(&inner[..20], 0));
                inner[8] += 1;
                inner[10..12].copy_from_slice(&ip[10..12]);
            }
            prop_assert_eq!(inner, ip);
        }
    }

    #[test]
    fn no_quoted_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), first in 0..4) {
        if let Some(byte) = bytes.first_mut() {
            *byte = [0x45, 0x60, 0x4f, 0x40][first as usize];
        }
        if let Some((_, at)) = quoted_inner(&bytes) {
            prop_assert!(at < bytes.len());
        }
    }
}
