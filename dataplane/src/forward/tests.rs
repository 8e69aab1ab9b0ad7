use proptest::prelude::*;

use super::testing::{MAC, Segment};
use super::{nat, proxy, toa};
use crate::outbox::Outbox;
use crate::packet::headers::parse;
use crate::packet::{Family, Frame, Headers, Parsed, Protocol};
use crate::service::PortHop;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// Nothing panics, whatever the bytes behind the Ethernet header are and
    /// however few of them are at hand.
    #[test]
    fn any_bytes_can_be_rewritten(
        v6: bool,
        changes in proptest::collection::vec((14..90_usize, any::<u8>()), 0..8),
        at_hand in 54..140_usize,
        headroom in prop_oneof![Just(0_usize), Just(128)],
        isn in prop_oneof![Just(6_u32), any::<u32>()],
        acked: bool,
        mtu in prop_oneof![Just(1500_u16), any::<u16>()],
    ) {
        let segment = Segment {
            seq: 7,
            ack: 40,
            options: &[1, 1, 5, 10, 0, 0, 0, 50, 0, 0, 0, 60, 254, 8, 1, 2, 3, 4, 5, 6],
            payload: &[1; 30],
            ..Segment::ACK
        };
        let mut packet = if v6 {
            segment.bytes6(([0x20; 16], 1), ([0x21; 16], 2))
        } else {
            segment.bytes4(([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2))
        };
        for (at, byte) in changes {
            packet[at] = byte;
        }
        let total = packet.len();
        let address = if v6 { "[2020::1]:1" } else { "10.0.0.3:1" }.parse().unwrap();
        let stream = proxy::Stream { isn, acked, client: address, vip: address };
        let hop = PortHop { port: 0, dst_mac: MAC, src_mac: MAC, mtu, vlan: 0 };
        for step in 0..5 {
            let mut buffer = vec![0; headroom];
            buffer.extend_from_slice(&packet);
            let mut frame = Frame::new(&mut buffer, headroom, at_hand.min(total), total, 0);
            frame.ip_checksum_good = true;
            let mut headers = Headers::NONE;
            if parse(&frame, MAC, &mut headers) != Ok(Parsed::Flow) {
                return Ok(());
            }
            let tcp = headers.protocol == Protocol::Tcp;
            match (step, headers.family()) {
                (0, Family::V4) => {
                    let to = crate::packet::Tuple4 { src: 1, dst: 2, src_port: 3, dst_port: 4 };
                    let _ = nat::rewrite4(&mut frame, &headers, &to, nat::delta4(&to, &to));
                }
                (0, Family::V6) => {
                    let to = crate::packet::Tuple6 { src: [1; 16], dst: [2; 16], src_port: 3, dst_port: 4 };
                    let _ = nat::rewrite6(&mut frame, &headers, &to, nat::delta6(&to, &to));
                }
                (1, Family::V4) => {
                    let to = crate::packet::Tuple4 { src: 1, dst: 2, src_port: 3, dst_port: 4 };
                    nat::rewrite_later_fragment4(&mut frame, &headers, &to, nat::delta4(&to, &to));
                }
                (2, _) if tcp => {
                    let _ = toa::insert(&mut frame, &mut headers, isn, address, mtu);
                }
                (3, _) if tcp => {
                    let outbox = &mut Outbox::default();
                    let _ = proxy::to_server(&mut frame, &mut headers, &stream, &hop, outbox);
                }
                (4, _) if tcp => {
                    let _ = proxy::to_client(&mut frame, &headers, &stream);
                }
                _ => {}
            }
            // What is left is a packet that fits its frame.
            let end = usize::from(headers.l3) + usize::from(headers.ip_len);
            prop_assert!(end <= frame.total_len());
            prop_assert!(usize::from(headers.l4) <= end);
        }
    }
}
