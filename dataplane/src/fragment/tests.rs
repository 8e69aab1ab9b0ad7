use proptest::prelude::*;

use super::*;
use crate::packet::headers::{Parsed, parse};

const KEY: HashKey = HashKey::new([0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321, 42]);
const MAC: [u8; 6] = [0, 0x50, 0, 0, 4, 0];
const WEB: Ports = Ports { src: 51_000, dst: 80 };
const DNS: Ports = Ports { src: 5353, dst: 53 };

fn fragments() -> Fragments {
    Fragments::new(DATAGRAMS, HELD, KEY)
}

fn key(id: u32) -> FragmentKey {
    let addresses = Addresses::V4 { src: 0xc0a8_010c, dst: 0xc0a8_0164 };
    FragmentKey { addresses, protocol: Protocol::Udp, id }
}

/// A fragment of a frame of these bytes, by port 3.
fn later(fragments: &mut Fragments, now: Tick, key: &FragmentKey, bytes: &[u8]) -> Later {
    let mut buffer = bytes.to_vec();
    let len = bytes.len();
    fragments.later(now, key, &Frame::new(&mut buffer, 0, len, len, 3))
}

/// What learning the ports lets go.
fn learn(fragments: &mut Fragments, now: Tick, key: &FragmentKey, ports: Ports) -> Vec<Vec<u8>> {
    let mut released = Vec::new();
    fragments.learn(now, key, ports, |bytes, port| {
        assert_eq!(port, 3);
        released.push(bytes.to_vec());
    });
    released
}

/// The lists are those of the datagrams, and lead to every held fragment.
fn check(fragments: &Fragments) {
    let held = &fragments.held;
    let follow = |mut index: u32, next: fn(&HeldSlot) -> u32| {
        let mut list = Vec::new();
        while let Some(slot) = held.slots.get(index as usize) {
            list.push(index);
            index = next(slot);
        }
        list
    };
    let mut all = follow(held.oldest, |slot| slot.next);
    let mut back = follow(held.newest, |slot| slot.previous);
    back.reverse();
    assert_eq!(all, back);
    assert!(
        all.windows(2)
            .all(|w| { held.slots[w[0] as usize].until <= held.slots[w[1] as usize].until })
    );
    assert_eq!(all.len(), held.count);
    assert_eq!(follow(held.free, |slot| slot.next).len(), held.slots.len() - held.count);
    let mut of_datagrams = Vec::new();
    for (index, datagram) in fragments.datagrams.iter().enumerate() {
        if let State::Holding { oldest, newest } = datagram.state {
            let chain = follow(oldest, |slot| slot.next_of_datagram);
            assert_eq!(chain.last(), Some(&newest));
            assert!(chain.iter().all(|&i| held.slots[i as usize].datagram == index as u32));
            of_datagrams.extend(chain);
        }
    }
    all.sort_unstable();
    of_datagrams.sort_unstable();
    assert_eq!(all, of_datagrams);
}

#[test]
fn in_order() {
    let mut fragments = fragments();
    assert!(learn(&mut fragments, Tick(0), &key(1), WEB).is_empty());
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"b"), Later::Known(WEB));
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"c"), Later::Known(WEB));
    assert_eq!(fragments.held(), 0);
}

#[test]
fn out_of_order_and_interleaved() {
    let mut fragments = fragments();
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"1c"), Later::Held);
    assert_eq!(later(&mut fragments, Tick(0), &key(2), b"2b"), Later::Held);
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"1b"), Later::Held);
    assert_eq!(fragments.held(), 3);
    check(&fragments);
    assert_eq!(learn(&mut fragments, Tick(1), &key(1), WEB), [b"1c", b"1b"]);
    check(&fragments);
    assert_eq!(later(&mut fragments, Tick(1), &key(1), b"1d"), Later::Known(WEB));
    assert_eq!(later(&mut fragments, Tick(1), &key(2), b"2c"), Later::Held);
    assert_eq!(learn(&mut fragments, Tick(1), &key(2), DNS), [b"2b", b"2c"]);
    assert_eq!(fragments.expire(Tick(1000)), Lost::default());
}

#[test]
fn every_field_of_the_key_tells_datagrams_apart() {
    let v6 = |src, dst, protocol, id| FragmentKey {
        addresses: Addresses::V6 { src: [src; 16], dst: [dst; 16] },
        protocol,
        id,
    };
    let v4 = |src, dst, protocol, id| FragmentKey {
        addresses: Addresses::V4 { src, dst },
        protocol,
        id,
    };
    let keys = [
        v4(1, 2, Protocol::Udp, 7),
        v4(9, 2, Protocol::Udp, 7),
        v4(1, 9, Protocol::Udp, 7),
        v4(1, 2, Protocol::Tcp, 7),
        v4(1, 2, Protocol::Udp, 8),
        v6(1, 2, Protocol::Udp, 7),
        v6(9, 2, Protocol::Udp, 7),
        v6(1, 9, Protocol::Udp, 7),
        v6(1, 2, Protocol::Tcp, 7),
        v6(1, 2, Protocol::Udp, 0x7000_0007),
    ];
    for known in &keys {
        // In one set, so that nothing but the comparison tells them apart.
        let mut fragments = Fragments::new(1, 16, KEY);
        learn(&mut fragments, Tick(0), known, WEB);
        for other in &keys {
            let expected = if known == other { Later::Known(WEB) } else { Later::Held };
            let mut fragments = copy(&fragments);
            assert_eq!(later(&mut fragments, Tick(0), other, b"x"), expected, "{other:?}");
        }
        let hashes: std::collections::HashSet<_> = keys.iter().map(|k| k.hash(&KEY)).collect();
        assert_eq!(hashes.len(), keys.len());
    }
}

/// A copy without held fragments.
fn copy(fragments: &Fragments) -> Fragments {
    let mut copy = Fragments::new(1, 1, KEY);
    copy.datagrams.copy_from_slice(&fragments.datagrams);
    copy
}

#[test]
fn duplicates_go_the_same_way() {
    let mut fragments = fragments();
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"b"), Later::Held);
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"b"), Later::Held);
    assert_eq!(learn(&mut fragments, Tick(0), &key(1), WEB), [b"b", b"b"]);
    assert!(learn(&mut fragments, Tick(0), &key(1), WEB).is_empty());
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"b"), Later::Known(WEB));
}

/// An id used again, or a game with overlapping fragments.
#[test]
fn later_fragments_go_by_the_last_first_one() {
    let mut fragments = fragments();
    learn(&mut fragments, Tick(0), &key(1), WEB);
    learn(&mut fragments, Tick(200), &key(1), DNS);
    assert_eq!(later(&mut fragments, Tick(200), &key(1), b"b"), Later::Known(DNS));
    // It has its full time from its own first fragment.
    assert_eq!(later(&mut fragments, Tick(439), &key(1), b"b"), Later::Known(DNS));
}

#[test]
fn ports_are_known_for_30_seconds_and_in_ipv6_for_60() {
    let addresses = Addresses::V6 { src: [1; 16], dst: [2; 16] };
    let key6 = FragmentKey { addresses, protocol: Protocol::Udp, id: 1 };
    let born = Tick::from_secs(100);
    for (key, end) in [(key(1), Tick::from_secs(130)), (key6, Tick::from_secs(160))] {
        let mut fragments = fragments();
        learn(&mut fragments, born, &key, WEB);
        let before = Tick(end.0 - 1);
        assert_eq!(later(&mut fragments, before, &key, b"b"), Later::Known(WEB));
        assert_eq!(later(&mut fragments, end, &key, b"b"), Later::Held);
        check(&fragments);
    }
}

#[test]
fn fragments_are_held_for_a_second() {
    let mut fragments = fragments();
    later(&mut fragments, Tick(0), &key(1), b"1b");
    later(&mut fragments, Tick(1), &key(1), b"1c");
    later(&mut fragments, Tick(1), &key(2), b"2b");
    assert_eq!(fragments.expire(Tick(7)), Lost::default());
    assert_eq!(fragments.expire(Tick(8)), Lost { timed_out: 1, displaced: 0 });
    check(&fragments);
    assert_eq!(learn(&mut fragments, Tick(8), &key(1), WEB), [b"1c"]);
    assert_eq!(fragments.expire(Tick(9)), Lost { timed_out: 1, displaced: 0 });
    check(&fragments);
    assert!(learn(&mut fragments, Tick(9), &key(2), DNS).is_empty());
    assert_eq!(fragments.held(), 0);
}

#[test]
fn a_call_of_expire_does_little() {
    let mut fragments = fragments();
    for i in 0..100 {
        later(&mut fragments, Tick(0), &key(i % 9), b"x");
    }
    assert_eq!(fragments.expire(Tick(8)).timed_out, 64);
    check(&fragments);
    assert_eq!(fragments.expire(Tick(8)).timed_out, 36);
    assert_eq!(fragments.expire(Tick(8)).timed_out, 0);
}

#[test]
fn the_fragment_held_longest_makes_room() {
    let mut fragments = Fragments::new(DATAGRAMS, 3, KEY);
    for (id, bytes) in [(1, b"1b"), (2, b"2b"), (1, b"1c"), (2, b"2c"), (2, b"2d")] {
        assert_eq!(later(&mut fragments, Tick(0), &key(id), bytes), Later::Held);
        check(&fragments);
    }
    assert_eq!(fragments.held(), 3);
    assert_eq!(fragments.expire(Tick(0)), Lost { timed_out: 0, displaced: 2 });
    assert_eq!(fragments.expire(Tick(0)), Lost::default());
    assert_eq!(learn(&mut fragments, Tick(0), &key(2), DNS), [b"2c", b"2d"]);
    assert_eq!(learn(&mut fragments, Tick(0), &key(1), WEB), [b"1c"]);
}

/// Room for one fragment only: it makes room for the next of its own datagram.
#[test]
fn a_datagram_takes_its_own_place() {
    let mut fragments = Fragments::new(1, 1, KEY);
    for bytes in [b"b", b"c", b"d"] {
        assert_eq!(later(&mut fragments, Tick(0), &key(1), bytes), Later::Held);
        check(&fragments);
    }
    assert_eq!(learn(&mut fragments, Tick(0), &key(1), DNS), [b"d"]);
    assert_eq!(fragments.expire(Tick(0)).displaced, 2);
}

#[test]
fn the_oldest_datagram_makes_room() {
    let mut fragments = Fragments::new(WAYS, 16, KEY);
    later(&mut fragments, Tick(0), &key(0), b"0b");
    later(&mut fragments, Tick(0), &key(0), b"0c");
    for id in 1..WAYS as u32 {
        learn(&mut fragments, Tick(0), &key(id), WEB);
    }
    // The second oldest is made new by a first fragment of its own.
    learn(&mut fragments, Tick(0), &key(1), DNS);
    learn(&mut fragments, Tick(0), &key(100), WEB);
    check(&fragments);
    assert_eq!(fragments.expire(Tick(0)), Lost { timed_out: 0, displaced: 2 });
    learn(&mut fragments, Tick(0), &key(101), WEB);
    assert_eq!(later(&mut fragments, Tick(0), &key(1), b"b"), Later::Known(DNS));
    assert_eq!(later(&mut fragments, Tick(0), &key(3), b"b"), Later::Known(WEB));
    assert_eq!(later(&mut fragments, Tick(0), &key(2), b"b"), Later::Held);
}

/// One that is over makes room before any that is not.
#[test]
fn what_is_over_makes_room_first() {
    let mut fragments = Fragments::new(WAYS, 1, KEY);
    let old = Tick::from_secs(0);
    for id in 0..WAYS as u32 {
        learn(&mut fragments, if id == 5 { old } else { Tick(8) }, &key(id), WEB);
    }
    let now = Tick::from_secs(30);
    learn(&mut fragments, now, &key(100), DNS);
    for id in (0..WAYS as u32).filter(|&id| id != 5) {
        assert_eq!(later(&mut fragments, now, &key(id), b"b"), Later::Known(WEB));
    }
    assert_eq!(later(&mut fragments, now, &key(100), b"b"), Later::Known(DNS));
}

#[test]
fn a_frame_that_does_not_fit_is_refused_and_harms_nobody() {
    let mut fragments = Fragments::new(WAYS, 1, KEY);
    later(&mut fragments, Tick(0), &key(1), &[7; HELD_FRAME]);
    assert_eq!(later(&mut fragments, Tick(0), &key(2), &[0; HELD_FRAME + 1]), Later::TooLong);
    let mut buffer = [0; 100];
    let segmented = Frame::new(&mut buffer, 0, 100, 200, 3);
    assert_eq!(fragments.later(Tick(0), &key(2), &segmented), Later::TooLong);
    assert_eq!(learn(&mut fragments, Tick(0), &key(1), WEB), [[7; HELD_FRAME]]);
    // Where the ports are known, length does not matter.
    assert_eq!(fragments.later(Tick(0), &key(1), &segmented), Later::Known(WEB));
    assert_eq!(fragments.expire(Tick(0)), Lost::default());
}

/// A million fragments of as many datagrams, first and later ones: memory stays
/// as it was, every held fragment is accounted for, and now and then a good
/// datagram that arrives out of order passes through all of it.
#[test]
fn a_flood_is_bounded_and_good_datagrams_get_through() {
    let mut fragments = fragments();
    let (mut held, mut released, mut lost) = (0u64, 0u64, 0u64);
    let mut random = 0x9e37_79b9_u64;
    let mut good = 0u32;
    let mut frame = [0; 64];
    let frame = Frame::new(&mut frame, 0, 64, 64, 3);
    for i in 0..1_000_000u32 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let now = Tick(i / 4_000);
        let id = (random >> 16) as u32 | 1;
        if random % 4 == 0 {
            fragments.learn(now, &key(id), WEB, |_, _| released += 1);
        } else if fragments.later(now, &key(id), &frame) == Later::Held {
            held += 1;
        }
        // 100 fragments of the flood between one good fragment and the next.
        match i % 1_000 {
            700 => {
                assert_eq!(later(&mut fragments, now, &key(good), b"good"), Later::Held);
                held += 1;
            }
            800 => {
                assert_eq!(learn(&mut fragments, now, &key(good), DNS), [b"good"]);
                released += 1;
            }
            900 => {
                assert_eq!(later(&mut fragments, now, &key(good), b"end"), Later::Known(DNS));
                good += 2;
            }
            _ => {}
        }
        if i % 50_000 == 0 {
            check(&fragments);
        }
        let Lost { timed_out, displaced } = fragments.expire(now);
        lost += timed_out + displaced;
        assert!(fragments.held() <= HELD);
    }
    assert_eq!(good, 2_000);
    assert_eq!(held, released + lost + fragments.held() as u64);
    assert!(lost > 700_000, "{lost}");
    assert_eq!((fragments.datagrams.len(), fragments.held.slots.len()), (DATAGRAMS, HELD));
}

proptest! {
    /// Fragments of several datagrams in any order: each comes out once, with
    /// its datagram's ports, held ones in the order in which they came.
    #[test]
    fn every_fragment_comes_out_once_with_its_ports(
        order in proptest::collection::vec(1u8..8, 1..24)
            .prop_map(|lengths| {
                lengths.iter().zip(0u8..).flat_map(|(&n, d)| (0..n).map(move |f| (d, f))).collect()
            })
            .prop_flat_map(|all: Vec<(u8, u8)>| Just(all).prop_shuffle()),
    ) {
        let mut fragments = fragments();
        let ports = |datagram: u8| Ports { src: 1000 + u16::from(datagram), dst: 53 };
        let mut out = Vec::new();
        for (i, &(datagram, fragment)) in order.iter().enumerate() {
            let (now, key) = (Tick(i as u32 / 32), key(u32::from(datagram)));
            if fragment == 0 {
                out.push((datagram, 0));
                let released = learn(&mut fragments, now, &key, ports(datagram));
                let earlier: Vec<_> = order[..i].iter().filter(|f| f.0 == datagram).collect();
                prop_assert_eq!(released.len(), earlier.len());
                for (bytes, &&(_, fragment)) in released.iter().zip(&earlier) {
                    prop_assert_eq!(&bytes[..], [datagram, fragment]);
                    out.push((datagram, fragment));
                }
            } else {
                match later(&mut fragments, now, &key, &[datagram, fragment]) {
                    Later::Known(known) => {
                        prop_assert_eq!(known, ports(datagram));
                        out.push((datagram, fragment));
                    }
                    what => prop_assert_eq!(what, Later::Held),
                }
            }
            check(&fragments);
        }
        let mut expected = order;
        expected.sort_unstable();
        out.sort_unstable();
        prop_assert_eq!(out, expected);
        prop_assert_eq!(fragments.held(), 0);
    }
}

/// An IPv4 packet for `MAC` with this id, fragment word and payload.
fn packet4(protocol: u8, fragment: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAC.to_vec();
    bytes.extend([0, 0x50, 0, 0, 3, 0, 8, 0]);
    let mut header = vec![0x45 + (options / 4) as u8, 0];
    header.extend(((20 + options + payload.len()) as u16).to_be_bytes());
    header.extend([0xab, 0xcd]);
    header.extend(fragment.to_be_bytes());
    header.extend([64, protocol, 0, 0, 192, 168, 1, 12, 192, 168, 1, 100]);
    header.extend(vec![1; options]);
    let sum = !(crate::packet::checksum::add(0, &header) as u16);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(header);
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet for `MAC` with this chain of extension headers.
fn packet6(first: u8, chain: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = MAC.to_vec();
    bytes.extend([0, 0x50, 0, 0, 3, 0, 0x86, 0xdd, 0x60, 0, 0, 0]);
    bytes.extend(((chain.len() + payload.len()) as u16).to_be_bytes());
    bytes.extend([first, 64]);
    bytes.extend([0xfd; 16]);
    bytes.extend([0xfe; 16]);
    bytes.extend(chain);
    bytes.extend(payload);
    bytes
}

fn read(mut bytes: Vec<u8>) -> Result<Fragment, DropReason> {
    let mut headers = Headers::NONE;
    let len = bytes.len();
    let frame = Frame::new(&mut bytes, 0, len, len, 0);
    assert_eq!(parse(&frame, MAC, &mut headers), Ok(Parsed::Flow));
    assert!(headers.fragment);
    Fragment::parse(frame.bytes(), &headers)
}

/// Ports 51,000 to 80; flags SYN where they are in TCP.
fn transport_header(len: usize) -> Vec<u8> {
    let mut header = vec![0; len];
    header[..4].copy_from_slice(&[0xc7, 0x38, 0, 80]);
    if let Some(flags) = header.get_mut(13) {
        *flags = 2;
    }
    header
}

#[test]
fn reads_ipv4_fragments() {
    let expected = FragmentKey { id: 0xabcd, ..key(0) };
    for options in [0, 8, 40] {
        let first = read(packet4(17, 0x2000, options, &transport_header(8))).unwrap();
        let told = Some(First { ports: WEB, tcp_flags: 0 });
        assert_eq!(first, Fragment { key: expected, first: told });
        // Offset 8, more to come; and the last one, of one byte.
        for (word, len) in [(0x2001, 8), (0x0001, 1), (0x1fff, 0)] {
            let later = read(packet4(17, word, options, &vec![9; len])).unwrap();
            assert_eq!(later, Fragment { key: expected, first: None });
        }
    }
    let syn = read(packet4(6, 0x2000, 0, &transport_header(24))).unwrap();
    assert_eq!(syn.key.protocol, Protocol::Tcp);
    assert_eq!(syn.first, Some(First { ports: WEB, tcp_flags: 2 }));
    let init = [&transport_header(12)[..], &[1, 0, 0, 20]].concat();
    let init = read(packet4(132, 0x2000, 0, &init)).unwrap();
    assert_eq!(init.first, Some(First { ports: WEB, tcp_flags: 1 }));
}

#[test]
fn reads_ipv6_fragments_behind_other_extension_headers() {
    let hop_by_hop = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    // Routing header with no segments left, of 16 bytes.
    let routing = |next: u8| [next, 1, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9];
    // An atomic fragment (RFC 6946) is passed over.
    let atomic = |next: u8| [next, 0, 0, 0, 1, 1, 1, 1];
    let fragment = |word: u16| {
        let [high, low] = word.to_be_bytes();
        [17, 0, high, low, 0x12, 0x34, 0x56, 0x78]
    };
    let before = [
        (44, vec![]),
        (0, hop_by_hop(44).to_vec()),
        (0, [&hop_by_hop(43)[..], &routing(44)[..]].concat()),
        (44, atomic(44).to_vec()),
    ];
    let addresses = Addresses::V6 { src: [0xfd; 16], dst: [0xfe; 16] };
    let key = FragmentKey { addresses, protocol: Protocol::Udp, id: 0x1234_5678 };
    for (first_header, chain) in before {
        let packet = |word, payload: &[u8]| {
            packet6(first_header, &[&chain[..], &fragment(word)[..]].concat(), payload)
        };
        let first = read(packet(1, &transport_header(8))).unwrap();
        let told = Some(First { ports: WEB, tcp_flags: 0 });
        assert_eq!(first, Fragment { key, first: told });
        for word in [0x0009, 0x0008, 0xfff8] {
            let later = read(packet(word, &[7; 3])).unwrap();
            assert_eq!(later, Fragment { key, first: None });
        }
    }
}

#[test]
fn a_first_fragment_without_its_whole_header_is_malformed() {
    for (protocol, needed) in [(6, 20), (17, 8), (132, 12)] {
        let whole = packet4(protocol, 0x2000, 0, &transport_header(needed));
        assert_eq!(read(whole).unwrap().first.map(|f| f.ports), Some(WEB));
        // Ethernet padding does not make it longer.
        let mut short = packet4(protocol, 0x2000, 0, &transport_header(needed - 1));
        short.extend([0; 20]);
        assert_eq!(read(short), Err(DropReason::L4Truncated));
    }
}

proptest! {
    /// No bytes make it panic, not even headers of another packet.
    #[test]
    fn reads_anything(
        bytes in proptest::collection::vec(any::<u8>(), 0..80),
        l3 in 0u16..100,
        l4 in 0u16..200,
        ip_len in any::<u16>(),
        six in any::<bool>(),
    ) {
        let v4 = Addresses::V4 { src: 1, dst: 2 };
        let v6 = Addresses::V6 { src: [1; 16], dst: [2; 16] };
        let addresses = if six { v6 } else { v4 };
        let headers = Headers { addresses, fragment: true, l3, l4, ip_len, ..Headers::NONE };
        if let Ok(fragment) = Fragment::parse(&bytes, &headers) {
            prop_assert_eq!(fragment.key.addresses, addresses);
        }
    }
}
