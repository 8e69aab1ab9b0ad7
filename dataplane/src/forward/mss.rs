//! TCP MSS clamping: a host that sends no segments longer than fit into a
//! tunnel needs no ICMP to find out. Off unless a service asks for it.

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
    if headers.protocol != Protocol::Tcp || headers.fragment || headers.tcp_flags & tcp::SYN == 0 {
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
        if u16::from_be_bytes(old) > mss {
            header[at..at + 2].copy_from_slice(&mss.to_be_bytes());
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
    (header.len() >= FIXED).then_some((values, count))
}

/// RFC 1624, equation 3, for the two bytes at `at` that were `old`. At an odd
/// place they lie in two words of the sum, each in the other half.
fn fix_checksum(header: &mut [u8], at: usize, old: [u8; 2]) {
    let new = [header[at], header[at + 1]];
    let word = |bytes: [u8; 2]| match at % 2 {
        0 => u16::from_be_bytes(bytes),
        _ => u16::from_le_bytes(bytes),
    };
    let before = u16::from_be_bytes([header[CHECKSUM], header[CHECKSUM + 1]]);
    let sum = u64::from(!before) + u64::from(!word(old)) + u64::from(word(new));
    let after = !checksum::fold(sum);
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&after.to_be_bytes());
}
