//! Target `frame`: any bytes as a received frame, through the parsers.

use std::net::IpAddr;

use dataplane::forward::mss;
use dataplane::fragment::Fragment;
use dataplane::icmp::Quoted;
use dataplane::packet::headers::parse;
use dataplane::packet::{Family, Frame, Headers, Parsed, options};

use crate::packets::{self, ICMP, ICMPV6, Packet, SCTP, TCP, UDP};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Parses a frame. The first byte says how many bytes of it are in another
/// segment.
pub fn run(input: &[u8]) {
    let Some((&more, bytes)) = input.split_first() else { return };
    let mut buffer = bytes.to_vec();
    let len = buffer.len();
    let mut frame = Frame::new(&mut buffer, 0, len, len + usize::from(more), 0);
    let mut headers = Headers::NONE;
    match parse(&frame, MAC, &mut headers) {
        Ok(Parsed::Flow) => flow(&mut frame, &headers),
        Ok(Parsed::IcmpError) => error(&frame, &headers),
        Ok(Parsed::Kernel(_)) | Err(_) => {}
    }
}

fn flow(frame: &mut Frame<'_>, headers: &Headers) {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let end = l3 + usize::from(headers.ip_len);
    assert!(l3 < l4 && l4 <= end && end <= frame.total_len(), "{headers:?}");
    let header_len = match headers.family() {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    assert!(l4 - l3 >= header_len && l4 <= frame.len(), "{headers:?}");
    if headers.fragment {
        let _ = Fragment::parse(frame.bytes(), headers);
        return;
    }
    let ports = [headers.src_port, headers.dst_port].map(u16::to_be_bytes);
    assert_eq!(frame.bytes()[l4..l4 + 4], *ports.as_flattened());
    mss::clamp(frame, headers, 1200);
    if headers.family() == Family::V4 {
        let _ = options::process(&mut frame.bytes_mut()[l3..l4], 0x0a00_0001, 1);
    }
}

fn error(frame: &Frame<'_>, headers: &Headers) {
    let Ok(quoted) = Quoted::read(frame, headers) else { return };
    assert!(quoted.packet(frame).len() <= frame.len());
    let _ = (quoted.tuple(), quoted.sender_key());
    if let Some(inner) = quoted.inner(frame) {
        assert!(quoted.inner_packet(frame, &inner).len() <= frame.len());
    }
}

/// Packets of all protocols, whole and in fragments, ICMP errors, and tags.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let v4 = [[10, 0, 0, 2], [10, 0, 0, 100]].map(IpAddr::from);
    let v6 = ["fd00::2", "fd00::64"].map(|ip| ip.parse::<IpAddr>().expect("an address"));
    for [src, dst] in [v4, v6] {
        for protocol in [TCP, UDP, SCTP] {
            for ip_options in [vec![], vec![7, 7, 4, 0, 0, 0, 0, 0], vec![0x94, 4, 0, 0]] {
                let packet = Packet {
                    addresses: (src, dst),
                    protocol,
                    ports: (1000, 80),
                    flags: 2,
                    tcp_options: vec![2, 4, 5, 0xb4],
                    ip_options,
                    payload: 30,
                };
                let frame = packet.frame(MAC);
                let error = packets::error(MAC, (dst, src), (3, 4), 1280, &frame[14..]);
                let mut tagged = frame.clone();
                tagged.splice(12..12, [0x81, 0, 0, 0]);
                let pieces = packets::fragments(&frame, 16, 7);
                seeds.extend(pieces.into_iter().chain([frame, error, tagged]));
            }
        }
        seeds.push(packets::ip_frame(MAC, (src, dst), ICMP, &[], &[8, 0, 0, 0]));
        seeds.push(packets::ip_frame(MAC, (src, dst), ICMPV6, &[], &[135, 0, 0, 0]));
    }
    seeds.push([&MAC[..], &MAC, &[0x08, 0x06], &[0; 28]].concat());
    for seed in &mut seeds {
        seed.insert(0, 0);
    }
    seeds
}
