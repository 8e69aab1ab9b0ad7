//! TCP MSS clamping: a host that sends no segments longer than fit into a
//! tunnel needs no ICMP to find out. Off unless a service asks for it, but for
//! what the director itself adds to a client's first segment.

use crate::packet::headers::tcp;
use crate::packet::{Frame, Headers, Protocol, checksum};

/// Length of the header without options.
const FIXED: usize = 20;
/// Where the TCP checksum is.
const CHECKSUM: usize = 16;
/// Options are at most 40 bytes, an MSS option is 4.
const MOST_OPTIONS: usize = 10;

/// Lowers the MSS option of a SYN or SYN-ACK to `mss` bytes of TCP payload
/// where it is larger, and fixes the TCP checksum by the difference, so that it
/// is as right or wrong as before. Never raises one, nor adds one. A packet
/// with options that are malformed or not all at hand stays as it is.
pub fn clamp(frame: &mut Frame<'_>, headers: &Headers, mss: u16) {
    edit(frame, headers, |announced| announced.min(mss));
}

/// Lowers the MSS option of a SYN or SYN-ACK by so many bytes, which the
/// director adds to segments. As [`clamp`] otherwise.
pub fn lower(frame: &mut Frame<'_>, headers: &Headers, by: u16) {
    edit(frame, headers, |announced| announced.saturating_sub(by));
}

fn edit(frame: &mut Frame<'_>, headers: &Headers, mss: impl Fn(u16) -> u16) {
    if headers.protocol != Protocol::Tcp || headers.tcp_flags & tcp::SYN == 0 {
        return;
    }
    let end = usize::from(headers.l3) + usize::from(headers.ip_len);
    let bytes = frame.bytes_mut();
    let end = end.min(bytes.len());
    let Some(segment) = bytes.get_mut(usize::from(headers.l4)..end) else { return };
    let Some(&offset) = segment.get(12) else { return };
    let Some(header) = segment.get_mut(..usize::from(offset >> 4) * 4) else { return };
    let Some((values, count)) = find(header) else { return };
    for &at in &values[..count] {
        let old = [header[at], header[at + 1]];
        let new = mss(u16::from_be_bytes(old)).to_be_bytes();
        if new != old {
            header[at..at + 2].copy_from_slice(&new);
            fix_checksum(header, at, old);
        }
    }
}

/// Where in the TCP header the values of MSS options are, and how many. `None`
/// when the options are malformed.
fn find(header: &[u8]) -> Option<([usize; MOST_OPTIONS], usize)> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const MSS: u8 = 2;
    let mut values = [0; MOST_OPTIONS];
    let mut count = 0;
    let mut at = FIXED;
    while let Some(&kind) = header.get(at) {
        if kind == END {
            break;
        }
        if kind == NOTHING {
            at += 1;
            continue;
        }
        let len = usize::from(*header.get(at + 1)?);
        if len < 2 || at + len > header.len() || (kind == MSS && len != 4) {
            return None;
        }
        if kind == MSS {
            values[count] = at + 2;
            count += 1;
        }
        at += len;
    }
    Some((values, count))
}

/// Moves the TCP checksum by the two bytes at `at`, which were `old`.
fn fix_checksum(header: &mut [u8], at: usize, mut old: [u8; 2]) {
    let mut new = [header[at], header[at + 1]];
    if at % 2 != 0 {
        // They lie in two words of the sum, each in the other half.
        old.reverse();
        new.reverse();
    }
    let before = u16::from_be_bytes([header[CHECKSUM], header[CHECKSUM + 1]]);
    let after = checksum::after(before, checksum::replace(0, &old, &new));
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&after.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, TcpHeader, TcpSlice};

    use super::*;
    use crate::packet::Mac;
    use crate::packet::headers::{Parsed, parse};

    const MAC: Mac = [0, 0x50, 0, 0, 4, 0];
    const L4: usize = 34;

    /// A frame with TCP flags and options; the checksum is right.
    fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut tcp = TcpHeader::new(51_000, 80, 1, 64_240);
        (tcp.syn, tcp.ack) = (flags & tcp::SYN != 0, flags & tcp::ACK != 0);
        tcp.set_options_raw(options).unwrap();
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2; 6], MAC)
            .ipv4([192, 168, 1, 12], [192, 168, 1, 100], 64)
            .tcp_header(tcp)
            .write(&mut bytes, b"odd")
            .unwrap();
        bytes
    }

    fn clamped(bytes: &[u8], mss: u16) -> Vec<u8> {
        edited(bytes, |frame, headers| clamp(frame, headers, mss))
    }

    fn edited(bytes: &[u8], edit: impl Fn(&mut Frame<'_>, &Headers)) -> Vec<u8> {
        let mut buffer = bytes.to_vec();
        let len = buffer.len();
        let mut frame = Frame::new(&mut buffer, 0, len, len, 0);
        // The tests change IP headers.
        frame.ip_checksum_good = true;
        let mut headers = Headers::NONE;
        assert_eq!(parse(&frame, MAC, &mut headers), Ok(Parsed::Flow));
        edit(&mut frame, &headers);
        buffer
    }

    fn checksum_is_right(bytes: &[u8]) -> bool {
        let tcp = TcpSlice::from_slice(&bytes[L4..]).unwrap();
        let sum = tcp.calc_checksum_ipv4([192, 168, 1, 12], [192, 168, 1, 100]);
        sum.unwrap() == tcp.checksum()
    }

    /// MSS 1460 becomes 1400, wherever the option is; nothing else changes.
    #[test]
    fn a_larger_mss_is_lowered() {
        let rows: [(&[u8], &[u8]); 4] = [
            (&[2, 4, 5, 0xb4], &[2, 4, 5, 0x78]),
            (&[2, 4, 5, 0xb4, 4, 2, 1, 3, 3, 7, 0, 0], &[2, 4, 5, 0x78, 4, 2, 1, 3, 3, 7, 0, 0]),
            // At an odd place; what follows the end of the list is not read.
            (&[1, 2, 4, 5, 0xb4, 0, 2, 9], &[1, 2, 4, 5, 0x78, 0, 2, 9]),
            (&[2, 4, 5, 0xb4, 2, 4, 0xff, 0xff], &[2, 4, 5, 0x78, 2, 4, 5, 0x78]),
        ];
        for flags in [tcp::SYN, tcp::SYN | tcp::ACK] {
            for (before, after) in rows {
                let got = clamped(&segment(flags, before), 1400);
                assert!(checksum_is_right(&got), "{before:?}");
                assert_eq!(got, segment(flags, after));
            }
        }
    }

    /// By 28 bytes, to no less than nothing.
    #[test]
    fn an_mss_is_lowered_by_what_is_added() {
        for (before, after) in [([5, 0xb4], [5, 0x98]), ([0, 29], [0, 1]), ([0, 27], [0, 0])] {
            let options = |mss: [u8; 2]| segment(tcp::SYN | tcp::ACK, &[2, 4, mss[0], mss[1]]);
            let got = edited(&options(before), |frame, headers| lower(frame, headers, 28));
            assert!(checksum_is_right(&got));
            assert_eq!(got, options(after));
        }
    }

    #[test]
    fn an_mss_is_never_raised_nor_added() {
        for options in [&[2, 4, 5, 0x78][..], &[2, 4, 0, 0], &[1, 1, 4, 2], &[]] {
            let syn = segment(tcp::SYN, options);
            assert_eq!(clamped(&syn, 1400), syn);
        }
    }

    #[test]
    fn only_syns_are_changed() {
        let ack = segment(tcp::ACK, &[2, 4, 5, 0xb4]);
        assert_eq!(clamped(&ack, 1400), ack);
        let mut fragment = segment(tcp::SYN, &[2, 4, 5, 0xb4]);
        // More fragments.
        fragment[20] |= 0x20;
        assert_eq!(clamped(&fragment, 1400), fragment);
        let mut udp = segment(tcp::SYN, &[2, 4, 5, 0xb4]);
        udp[23] = 17;
        assert_eq!(clamped(&udp, 1400), udp);
    }

    #[test]
    fn malformed_options_stay() {
        let rows: [&[u8]; 6] = [
            &[2, 4, 5, 0xb4, 3, 0, 0, 0],
            &[2, 4, 5, 0xb4, 3, 1, 0, 0],
            &[2, 4, 5, 0xb4, 3, 5, 0, 0],
            &[2, 4, 5, 0xb4, 1, 1, 1, 3],
            &[2, 3, 0xff, 1],
            &[1, 1, 2, 4],
        ];
        for options in rows {
            let syn = segment(tcp::SYN, options);
            assert_eq!(clamped(&syn, 1400), syn, "{options:?}");
        }
        // A data offset below the least, and one beyond the packet.
        for offset in [0x40, 0xf0] {
            let mut syn = segment(tcp::SYN, &[2, 4, 5, 0xb4]);
            syn[L4 + 12] = offset;
            assert_eq!(clamped(&syn, 1400), syn);
        }
    }

    /// Through all values of a word beside the option the checksum takes all
    /// of its own: it leaves as 0, never as 0xffff, as everywhere
    /// ([`checksum::after`]).
    #[test]
    fn the_ends_of_the_checksums_range_verify() {
        for options in [[2, 4, 5, 0xb4, 0, 0, 0, 0], [1, 2, 4, 5, 0xb4, 0, 0, 0]] {
            let mut syn = segment(tcp::SYN, &options);
            let mut zeroes = 0;
            for word in 0..=u16::MAX {
                // The window.
                let old = [syn[L4 + 14], syn[L4 + 15]];
                let sum = u16::from_be_bytes([syn[L4 + 16], syn[L4 + 17]]);
                let change = checksum::replace(0, &old, &word.to_be_bytes());
                syn[L4 + 14..L4 + 16].copy_from_slice(&word.to_be_bytes());
                syn[L4 + 16..L4 + 18].copy_from_slice(&checksum::after(sum, change).to_be_bytes());
                let got = clamped(&syn, 1400);
                let stored = [got[L4 + 16], got[L4 + 17]];
                zeroes += u32::from(stored == [0, 0]);
                assert!(stored != [0xff, 0xff], "{word:#x}");
                // Right apart from how 0 is written.
                assert!(stored == [0, 0] || checksum_is_right(&got), "{word:#x}");
            }
            // 0 and 0xffff add the same, so that one of the sums may come twice.
            assert!((1..=2).contains(&zeroes), "{zeroes}");
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong() {
        for wrong in 1..=u8::MAX {
            let mut syn = segment(tcp::SYN, &[1, 2, 4, 5, 0xb4, 0, 0, 0]);
            syn[L4 + 16] ^= wrong;
            assert!(!checksum_is_right(&clamped(&syn, 500)));
        }
    }
}
