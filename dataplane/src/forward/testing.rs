//! What the tests of several methods share: packets, and checks that do not use
//! the code under test.

use etherparse::PacketBuilder;

use crate::packet::headers::parse;
use crate::packet::{Family, Frame, Headers, Parsed, Protocol};

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(super) const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// In front of a packet in its buffer.
pub(super) const HEADROOM: usize = 128;

/// Runs `edit` on a packet in a buffer with room in front, and returns what
/// became of the packet.
pub(super) fn edit<R>(
    bytes: &[u8],
    edit: impl FnOnce(&mut Frame<'_>, &mut Headers) -> R,
) -> (Vec<u8>, R) {
    let mut buffer = vec![0xaa; HEADROOM];
    buffer.extend_from_slice(bytes);
    let mut frame = Frame::new(&mut buffer, HEADROOM, bytes.len(), bytes.len(), 0);
    let mut headers = parsed(&mut frame);
    let result = edit(&mut frame, &mut headers);
    (frame.bytes().to_vec(), result)
}

pub(super) fn parsed(frame: &mut Frame<'_>) -> Headers {
    let mut headers = Headers::NONE;
    assert_eq!(parse(frame, MAC, &mut headers), Ok(Parsed::Flow));
    headers
}

/// The headers of a whole packet; panics when the parser refuses it, which it
/// does for a wrong IPv4 header checksum.
pub(super) fn headers_of(bytes: &[u8]) -> Headers {
    edit(bytes, |_, headers| *headers).1
}

/// Whether the layer 4 checksum of a whole packet is right. A UDP checksum of 0
/// is not.
pub(super) fn verifies(bytes: &[u8]) -> bool {
    let headers = headers_of(bytes);
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let end = l3 + usize::from(headers.ip_len);
    if headers.protocol == Protocol::Sctp {
        let mut packet = bytes[l4..end].to_vec();
        packet[8..12].fill(0);
        return bytes[l4 + 8..l4 + 12] == crc32c::crc32c(&packet).to_le_bytes();
    }
    if headers.protocol == Protocol::Udp && bytes[l4 + 6..l4 + 8] == [0, 0] {
        return false;
    }
    let addresses = match headers.family() {
        Family::V4 => l3 + 12..l3 + 20,
        Family::V6 => l3 + 8..l3 + 40,
    };
    let mut words = bytes[addresses].to_vec();
    words.extend_from_slice(&((end - l4) as u32).to_be_bytes());
    words.extend_from_slice(&[0, headers.protocol as u8]);
    words.extend_from_slice(&bytes[l4..end]);
    if words.len() % 2 == 1 {
        words.push(0);
    }
    let sum: u64 =
        words.chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    // Never 0: the protocol is in it.
    sum % 0xffff == 0
}

/// A TCP segment over IPv4 as etherparse builds it, with these options.
pub(super) struct Segment<'a> {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) options: &'a [u8],
    pub(super) payload: &'a [u8],
}

impl Segment<'_> {
    pub(super) const ACK: Self =
        Self { seq: 0, ack: 0, syn: false, fin: false, options: &[], payload: &[] };

    pub(super) fn bytes4(&self, src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Vec<u8> {
        self.finish(PacketBuilder::ethernet2(PEER_MAC, MAC).ipv4(src.0, dst.0, 64), src.1, dst.1)
    }

    pub(super) fn bytes6(&self, src: ([u8; 16], u16), dst: ([u8; 16], u16)) -> Vec<u8> {
        self.finish(PacketBuilder::ethernet2(PEER_MAC, MAC).ipv6(src.0, dst.0, 64), src.1, dst.1)
    }

    fn finish(
        &self,
        ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>,
        src_port: u16,
        dst_port: u16,
    ) -> Vec<u8> {
        let mut tcp = ip.tcp(src_port, dst_port, self.seq, 8192);
        if self.syn {
            tcp = tcp.syn();
        }
        if self.fin {
            tcp = tcp.fin();
        }
        // A client's first SYN acknowledges nothing.
        if !self.syn || self.ack != 0 {
            tcp = tcp.ack(self.ack);
        }
        let mut bytes = Vec::new();
        let tcp = tcp.options_raw(self.options).unwrap();
        tcp.write(&mut bytes, self.payload).unwrap();
        bytes
    }
}
