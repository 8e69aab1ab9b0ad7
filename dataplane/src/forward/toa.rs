//! The client's address in a TCP option, for servers that see FULLNAT's local
//! address as the sender: TOA, kind 254, as the kernel modules of that name
//! read it.
//!
//! ```text
//! IPv4 client: 254 |  8 | port, 2 bytes | address, 4 bytes
//! IPv6 client: 254 | 20 | port, 2 bytes | address, 16 bytes
//! ```
//!
//! The modules look at the segment that completes the handshake on the server.
//! So the option goes into every segment that may be it: the client's SYN and
//! what begins with its first byte (the third packet of the handshake, and the
//! first data, which completes it when that packet was lost). It stands before
//! the other options, so that it is the one that is found. Where it would not
//! fit (40 bytes of options, the MTU, the buffer) the segment goes without.
//!
//! A server trusts the option, so the client's own are overwritten with NOPs in
//! all its segments, those without the director's included.

use std::net::{IpAddr, SocketAddr};

use super::{adjust_tcp, l4_mut, make_room, tcp_header_len, tcp_options};
use crate::counters::DropReason;
use crate::packet::headers::tcp;
use crate::packet::{Frame, Headers, checksum};

const KIND: u8 = 254;
const LEN4: u8 = 8;
const LEN6: u8 = 20;
const NOP: u8 = 1;
/// Longest TCP header: the data offset has four bits.
const MAX_HEADER: usize = 60;
/// The part of the header in front of the options.
const FIXED: usize = 20;

/// Tells the server of a client's TCP segment who the client is, if the segment
/// is one of those that do and `mtu` (of the IP packet, bytes) leaves room. To
/// be called with every segment of a client, fragments but the first excepted,
/// before or after its addresses are rewritten, but before the Ethernet header
/// is. `isn` is the sequence number of the client's SYN. Returns whether the
/// option was inserted; `headers` then has the new length.
///
/// # Errors
/// [`DropReason::L4Truncated`] for a data offset within the fixed header or
/// beyond the packet or its first segment: the client's options cannot be told.
pub fn insert(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    isn: u32,
    client: SocketAddr,
    mtu: u16,
) -> Result<bool, DropReason> {
    let l4 = l4_mut(frame, headers)?;
    let header_len = tcp_header_len(l4)?;
    blank(&mut l4[..header_len]);
    let (bytes, len) = option(client);
    let fits = header_len + usize::from(len) <= MAX_HEADER
        && u32::from(headers.ip_len) + u32::from(len) <= u32::from(mtu);
    if headers.fragment || !carries(l4, isn) || !fits {
        return Ok(false);
    }
    let at = usize::from(headers.l4) + FIXED;
    if !make_room(frame, headers, at, u16::from(len)) {
        return Ok(false);
    }
    let option = &bytes[..usize::from(len)];
    let l4 = &mut frame.bytes_mut()[usize::from(headers.l4)..];
    l4[FIXED..FIXED + option.len()].copy_from_slice(option);
    let offset = [l4[12], l4[13]];
    l4[12] += (len / 4) << 4;
    // The pseudo header has the length.
    let longer = checksum::replace(0, &[], &[0, len]);
    let difference = checksum::replace(longer, &offset, &l4[12..14]);
    let difference = checksum::replace(difference, &[], option);
    adjust_tcp(l4, difference);
    Ok(true)
}

/// Whether a segment may be the one that completes the handshake.
fn carries(l4: &[u8], isn: u32) -> bool {
    let seq = u32::from_be_bytes([l4[4], l4[5], l4[6], l4[7]]);
    let flags = l4[13];
    flags & tcp::RST == 0 && (flags & tcp::SYN != 0 || seq == isn.wrapping_add(1))
}

/// The option and its length.
fn option(client: SocketAddr) -> ([u8; LEN6 as usize], u8) {
    let mut bytes = [0; LEN6 as usize];
    bytes[0] = KIND;
    bytes[2..4].copy_from_slice(&client.port().to_be_bytes());
    let len = match client.ip() {
        IpAddr::V4(address) => {
            bytes[4..8].copy_from_slice(&address.octets());
            LEN4
        }
        IpAddr::V6(address) => {
            bytes[4..].copy_from_slice(&address.octets());
            LEN6
        }
    };
    bytes[1] = len;
    (bytes, len)
}

/// Overwrites options that a server would take for the director's.
fn blank(header: &mut [u8]) {
    let mut old = [0; MAX_HEADER - FIXED];
    let options = &mut header[FIXED..];
    let old = &mut old[..options.len()];
    old.copy_from_slice(options);
    let mut found = false;
    tcp_options(old, |kind, at, len| {
        if kind == KIND && (len == usize::from(LEN4) || len == usize::from(LEN6)) {
            options[at..at + len].fill(NOP);
            found = true;
        }
    });
    if found {
        let difference = checksum::replace(0, old, options);
        adjust_tcp(header, difference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::testing::{MAC, PEER_MAC, Segment, edit, headers_of, verifies};
    use crate::packet::{Frame, Headers};

    const CLIENT: ([u8; 4], u16) = ([192, 168, 1, 12], 51_000);
    const LOCAL: ([u8; 4], u16) = ([10, 0, 2, 1], 1025);
    const SERVER: ([u8; 4], u16) = ([10, 0, 2, 31], 80);
    const ISN: u32 = 0xffff_ffff;
    /// As Linux sends them with a SYN: 20 bytes.
    const SYN_OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
    const OPTION4: [u8; 8] = [254, 8, 0xc7, 0x38, 192, 168, 1, 12];

    fn client4() -> SocketAddr {
        SocketAddr::from(CLIENT)
    }

    fn client6() -> SocketAddr {
        "[fd01::12]:51000".parse().unwrap()
    }

    fn option6() -> Vec<u8> {
        let address = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12];
        [&[254, 20, 0xc7, 0x38][..], &address].concat()
    }

    fn run(bytes: &[u8], client: SocketAddr, mtu: u16) -> (Vec<u8>, Result<bool, DropReason>) {
        let before = headers_of(bytes);
        let (bytes, (result, headers)) =
            edit(bytes, |frame, headers| (insert(frame, headers, ISN, client, mtu), *headers));
        let added = if result == Ok(true) { headers.ip_len - before.ip_len } else { 0 };
        assert_eq!(headers, Headers { ip_len: before.ip_len + added, ..before });
        (bytes, result)
    }

    fn first<'a>(options: &'a [u8], payload: &'a [u8]) -> Segment<'a> {
        Segment { seq: 0, ack: 77, options, payload, ..Segment::ACK }
    }

    /// The bytes are those that a host would have sent with the option.
    #[test]
    fn segments_of_the_handshake_carry_the_address() {
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        for payload in [&b""[..], b"odd"] {
            let (bytes, result) =
                run(&first(&timestamps, payload).bytes4(LOCAL, SERVER), client4(), 1500);
            let options = [&OPTION4[..], &timestamps].concat();
            assert_eq!(result, Ok(true));
            assert_eq!(bytes, first(&options, payload).bytes4(LOCAL, SERVER));
        }
        fn syn(options: &[u8]) -> Segment<'_> {
            Segment { seq: ISN, syn: true, options, ..Segment::ACK }
        }
        for (client, option) in [(client4(), OPTION4.to_vec()), (client6(), option6())] {
            let (bytes, result) = run(&syn(&SYN_OPTIONS).bytes4(LOCAL, SERVER), client, 1500);
            let options = [&option[..], &SYN_OPTIONS].concat();
            assert_eq!((bytes, result), (syn(&options).bytes4(LOCAL, SERVER), Ok(true)));
        }
        let (src, dst) = (([0xfd; 16], 1), ([0xfe; 16], 2));
        let (bytes, result) = run(&first(&[], b"data").bytes6(src, dst), client6(), 1500);
        assert_eq!((bytes, result), (first(&option6(), b"data").bytes6(src, dst), Ok(true)));
    }

    #[test]
    fn other_segments_do_not() {
        let later = Segment { seq: 1, ack: 77, payload: b"data", ..Segment::ACK };
        let mut reset = first(&[], b"").bytes4(LOCAL, SERVER);
        reset[47] |= tcp::RST;
        for bytes in [later.bytes4(LOCAL, SERVER), reset] {
            assert_eq!(run(&bytes, client4(), 1500), (bytes.clone(), Ok(false)));
        }
    }

    #[test]
    fn it_goes_only_where_it_fits() {
        let nops = [NOP; 40];
        for (options, client, fits) in [
            (32, client4(), true),
            (36, client4(), false),
            (20, client6(), true),
            (24, client6(), false),
        ] {
            let bytes = first(&nops[..options], b"data").bytes4(LOCAL, SERVER);
            let (after, result) = run(&bytes, client, 1500);
            assert_eq!(result, Ok(fits), "{options} bytes of options, {client}");
            assert!(verifies(&after));
            assert_eq!(after == bytes, !fits);
        }
        let bytes = first(&[], b"data").bytes4(LOCAL, SERVER);
        assert_eq!(run(&bytes, client4(), 44 + 7).1, Ok(false));
        assert_eq!(run(&bytes, client4(), 44 + 8).1, Ok(true));

        let mut tight = bytes.clone();
        let len = tight.len();
        let mut headers = headers_of(&bytes);
        let mut frame = Frame::new(&mut tight, 0, len, len, 0);
        assert_eq!(insert(&mut frame, &mut headers, ISN, client4(), 1500), Ok(false));
        assert_eq!((tight, headers), (bytes.clone(), headers_of(&bytes)), "no headroom");
    }

    /// Whether the director's own is there or not, the client's is not.
    #[test]
    fn the_clients_own_option_is_blanked() {
        // Options of another kind or length are others' business.
        let others = [254, 3, 9, 253, 8, 1, 2, 3, 4, 5, 6];
        let forged = [&[1, 254, 8, 0, 80, 10, 9, 8, 7][..], &others].concat();
        let blanked = [&[1; 9][..], &others].concat();
        fn later(options: &[u8]) -> Segment<'_> {
            Segment { seq: 1000, ack: 77, options, payload: b"odd", ..Segment::ACK }
        }
        let (bytes, result) = run(&later(&forged).bytes4(LOCAL, SERVER), client4(), 1500);
        assert_eq!((bytes, result), (later(&blanked).bytes4(LOCAL, SERVER), Ok(false)));
        let (bytes, _) = run(&first(&forged, b"").bytes4(LOCAL, SERVER), client4(), 1500);
        let options = [&OPTION4[..], &blanked].concat();
        assert_eq!(bytes, first(&options, b"").bytes4(LOCAL, SERVER));
        let forged6 = [&option6()[..], &[1; 20]].concat();
        let (bytes, _) = run(&first(&forged6, b"").bytes4(LOCAL, SERVER), client6(), 1500);
        assert_eq!(bytes, first(&[1; 40], b"").bytes4(LOCAL, SERVER));
    }

    /// What a fragment would grow by, the offsets of the others do not know.
    #[test]
    fn a_first_fragment_goes_without_but_is_blanked() {
        let fragment = |options: &[u8]| {
            let mut bytes = first(options, b"payload!").bytes4(LOCAL, SERVER);
            bytes[20] = 0x20;
            // The flag "don't fragment" goes, "more fragments" comes.
            let sum = u16::from_be_bytes([bytes[24], bytes[25]]);
            let difference = checksum::replace(0, &[0x40], &[0x20]);
            bytes[24..26].copy_from_slice(&checksum::after(sum, difference).to_be_bytes());
            bytes
        };
        let (bytes, result) = run(&fragment(&OPTION4), client4(), 1500);
        assert_eq!((bytes, result), (fragment(&[1; 8]), Ok(false)));
    }

    #[test]
    fn ip_options_stay_where_they_are() {
        let segment = |tcp_options: &[u8]| {
            let mut ip =
                etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, LOCAL.0, SERVER.0)
                    .unwrap();
            ip.options = [0x94, 4, 0, 0].into();
            let mut bytes = Vec::new();
            etherparse::PacketBuilder::ethernet2(PEER_MAC, MAC)
                .ip(etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
                .tcp(LOCAL.1, SERVER.1, 0, 8192)
                .ack(77)
                .options_raw(tcp_options)
                .unwrap()
                .write(&mut bytes, b"data")
                .unwrap();
            bytes
        };
        let (bytes, result) = run(&segment(&[]), client4(), 1500);
        assert_eq!((bytes, result), (segment(&OPTION4), Ok(true)));
    }

    #[test]
    fn options_that_cannot_be_told_are_not_forwarded() {
        for offset in [0x40, 0xf0] {
            let mut bytes = first(&[], b"data").bytes4(LOCAL, SERVER);
            bytes[46] = offset;
            assert_eq!(run(&bytes, client4(), 1500), (bytes.clone(), Err(DropReason::L4Truncated)));
        }
        // Malformed options end the reading; the director's is in front of them.
        for malformed in [[8, 0, 254, 8], [5, 250, 1, 1], [1, 1, 1, 254], [0, 254, 8, 1]] {
            let bytes = first(&malformed, b"").bytes4(LOCAL, SERVER);
            let (bytes, result) = run(&bytes, client4(), 1500);
            let options = [&OPTION4[..], &malformed].concat();
            assert_eq!((bytes, result), (first(&options, b"").bytes4(LOCAL, SERVER), Ok(true)));
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        let mut bytes = first(&SYN_OPTIONS, b"data").bytes4(LOCAL, SERVER);
        bytes[50] ^= 0x10;
        let (bytes, result) = run(&bytes, client4(), 1500);
        assert_eq!((result, verifies(&bytes)), (Ok(true), false));
    }
}
