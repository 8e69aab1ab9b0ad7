//! Internet checksum arithmetic (RFC 1071, RFC 1624), and SCTP's CRC32c.
//!
//! The sum is over 16-bit words in one's complement: carries out of the top are
//! added at the bottom. Such a sum does not depend on the byte order in which
//! the words are read, so words are read big endian throughout and a stored
//! checksum is simply one of them.

/// Adds the 16-bit words of `bytes` to a running sum. An odd last byte counts
/// as the high half of a word (RFC 1071, section 1).
#[must_use]
pub fn add(sum: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks_exact(2);
    let mut total = u64::from(sum);
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    for word in words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    u32::from(fold(total))
}

/// Folds the carries into 16 bits.
#[must_use]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Folds a sum of double words, fewer than 65,536 of them: so few that it takes
/// no more than three steps.
#[must_use]
#[inline(always)]
pub fn fold_doubles(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// Whether an IPv4 header, checksum included, sums to all ones (RFC 791).
///
/// All ones and all zeroes read the same in any byte order, so the fixed part
/// is summed in five native words: on every packet, a loop over 16-bit words
/// costs several times as much.
#[must_use]
#[inline(always)]
pub fn ip4_header_is_good(header: &[u8]) -> bool {
    let Some((fixed, options)) = header.split_first_chunk::<20>() else { return false };
    let word = |at| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let pair = |at| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
    let (sum, carry) = pair(0).overflowing_add(pair(8));
    let (sum, carry) = sum.overflowing_add(u64::from(word(16)) + u64::from(carry));
    // Small where there is a carry, so that this is no other.
    let mut sum = sum.wrapping_add(u64::from(carry));
    if !options.is_empty() {
        sum = u64::from(fold(sum)) + u64::from((add(0, options) as u16).to_be());
    }
    // All ones, however wide, is what 0xffff divides: one multiplication. It is
    // not 0, which it would divide, too: a version is in it.
    sum % 0xffff == 0
}

/// The header checksum after the TTL went down by one: the word that holds it
/// fell by 0x0100, so the checksum rises by as much (RFC 1141). The result is
/// 0 rather than 0xffff where both would verify, as the kernel leaves it.
#[must_use]
#[inline(always)]
pub fn after_ttl_decrement(checksum: u16) -> u16 {
    let sum = u32::from(checksum) + 0x0100;
    (sum + u32::from(sum >= 0xffff)) as u16
}

/// The same of a checksum as it is stored. Such sums do not depend on the byte
/// order (RFC 1071, section 2), so the CPU's own will do.
#[must_use]
#[inline(always)]
pub fn bytes_after_ttl_decrement(checksum: [u8; 2]) -> [u8; 2] {
    let sum = u32::from(u16::from_ne_bytes(checksum)) + u32::from(0x0100_u16.to_be());
    ((sum + u32::from(sum >= 0xffff)) as u16).to_ne_bytes()
}

/// Adds to a running difference what replacing `old` by `new` does to a sum:
/// each word of `old` goes, each word of `new` comes (RFC 1624, section 3).
/// Each of them begins at an even offset of what is summed; they may differ in
/// length. Begin with 0; the result is at most 0xffff.
#[must_use]
pub fn replace(difference: u32, old: &[u8], new: &[u8]) -> u32 {
    let gone = !(add(0, old) as u16);
    add(difference + u32::from(gone), new)
}

/// A stored checksum after what it covers changed by `difference` (RFC 1624,
/// equation 3). One that was wrong stays wrong by as much. The result is 0
/// rather than 0xffff where both would verify, as the kernel leaves it; UDP,
/// where 0 means that there is none, is the caller's.
#[must_use]
#[inline]
pub fn after(checksum: u16, difference: u32) -> u16 {
    !fold(u64::from(!checksum) + u64::from(difference))
}

/// The same of a checksum as it is stored, and of a difference of one word. As
/// with [`bytes_after_ttl_decrement`], only the difference is turned round.
#[must_use]
#[inline(always)]
pub fn bytes_after(checksum: [u8; 2], difference: u16) -> [u8; 2] {
    bytes_after_bytes(checksum, difference.to_be())
}

/// The same with the difference turned round already, as it is kept for packets
/// to come.
#[must_use]
#[inline(always)]
pub fn bytes_after_bytes(checksum: [u8; 2], difference: u16) -> [u8; 2] {
    let sum = u32::from(!u16::from_ne_bytes(checksum)) + u32::from(difference);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_ne_bytes()
}

/// The IPv6 and IPv4 pseudo headers' share of a layer 4 checksum (RFC 9293,
/// section 3.1; RFC 8200, section 8.1). `addresses` are source and destination
/// as they stand in the IP header. `l4_len` counts the layer 4 header.
#[must_use]
pub fn pseudo_header(addresses: &[u8], protocol: u8, l4_len: u16) -> u32 {
    add(u32::from(protocol) + u32::from(l4_len), addresses)
}

/// A changed CRC32c of SCTP, whose bytes are stored in the order that is
/// unusual on a wire (RFC 9260, appendix A): the one stored is `crc`, the bytes
/// `old` at the beginning of the packet become `new`, and `following` bytes
/// come after them.
///
/// CRCs are linear: that of the difference, as it is at the packet's end, is
/// the CRCs' difference. So no other byte of the packet is read, and a packet
/// in segments is no harder than others.
///
/// The result is right if and only if `crc` was; a wrong one stays wrong by as
/// much. That goes for 0, too, which is a CRC as any other: SCTP has no value
/// that says that there is none (RFC 9260, section 6.8), and to compute one
/// would make a damaged packet look whole. Packets whose ends have agreed to do
/// without (RFC 9653) arrive with a wrong one where their ports change.
#[must_use]
pub fn crc32c_after(crc: u32, old: [u8; 4], new: [u8; 4], following: usize) -> u32 {
    static ZEROS: [u8; 2048] = [0; 2048];
    // The first value and the final inversion, which both CRCs have in common,
    // cancel out; in front of the zeros they are taken away by inverting.
    let mut difference = !(crc32c::crc32c(&old) ^ crc32c::crc32c(&new));
    let mut left = following;
    while left > 0 {
        let step = left.min(ZEROS.len());
        difference = crc32c::crc32c_append(difference, &ZEROS[..step]);
        left -= step;
    }
    crc ^ !difference
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1624, section 4: where equation 2 leaves 0xffff,
    /// equation 3 leaves 0.
    #[test]
    fn replaces_as_in_the_example_of_the_rfc() {
        let difference = replace(0, &[0x55, 0x55], &[0x32, 0x85]);
        assert_eq!(after(0xdd2f, difference), 0);
        let back = replace(0, &[0x32, 0x85], &[0x55, 0x55]);
        assert_eq!(after(0, back), 0xdd2f);
    }

    #[test]
    fn bytes_may_come_or_go() {
        let mut sum = !(add(0, b"headtail") as u16);
        sum = after(sum, replace(0, b"", b"middle"));
        assert_eq!(sum, !(add(0, b"headmiddletail") as u16));
        sum = after(sum, replace(0, b"middle", b""));
        assert_eq!(sum, !(add(0, b"headtail") as u16));
    }

    /// Against the CRC of the whole, for lengths around the steps' ends.
    #[test]
    fn the_changed_crc_is_the_crc_of_the_changed() {
        for following in [0, 1, 8, 1456, 2047, 2048, 2049, 65_511] {
            let mut packet: Vec<u8> = (0..following + 4).map(|i| (i * 31 + 7) as u8).collect();
            let before = crc32c::crc32c(&packet);
            let old = *packet.first_chunk().unwrap();
            packet[..4].copy_from_slice(&[0xde, 0xad, 0, 1]);
            let after = crc32c_after(before, old, [0xde, 0xad, 0, 1], following);
            assert_eq!(after, crc32c::crc32c(&packet), "{following}");
        }
        assert_eq!(crc32c_after(7, [1, 2, 3, 4], [1, 2, 3, 4], 100), 7);
    }

    /// 0 included, as the stored CRC and as the right one after the change.
    #[test]
    fn a_crc_is_as_right_or_wrong_afterwards_as_before() {
        let (old, new) = (*b"\x13\x88\0\x50", *b"\x13\x88\x1f\x90");
        let right = |ports: [u8; 4]| crc32c::crc32c(&[&ports[..], b"a packet's rest"].concat());
        for stored in [0, 1, right(old), !right(old), right(old) ^ right(new)] {
            let after = crc32c_after(stored, old, new, 15);
            assert_eq!(after ^ right(new), stored ^ right(old), "{stored:#x}");
        }
    }

    #[test]
    fn double_words_fold_as_words_do() {
        let ends = [0, 1, 2, 0xfffe, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_0000, 0xffff_ffff];
        for high in [0, 1, 4, 0xfffe] {
            for low in ends {
                let sum = high << 32 | low;
                assert_eq!(fold_doubles(sum), fold(sum), "{sum:#x}");
            }
        }
    }

    /// The example of RFC 1071, section 3.
    #[test]
    fn sums_the_example_of_the_rfc() {
        assert_eq!(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    /// The header check agrees with the plain sum, options or not.
    #[test]
    fn the_header_check_is_the_sum() {
        let mut header: Vec<u8> = (0..60).map(|i| (i * 37 + 11) as u8).collect();
        for len in [0, 19, 20, 24, 44, 60] {
            for change in 0..=u16::MAX {
                header[10..12].copy_from_slice(&change.to_be_bytes());
                let good = len >= 20 && add(0, &header[..len]) == 0xffff;
                assert_eq!(ip4_header_is_good(&header[..len]), good, "{len}, {change:#x}");
            }
        }
    }

    #[test]
    fn an_odd_byte_is_the_high_half() {
        assert_eq!(add(0, &[0x12, 0x34, 0x56]), 0x1234 + 0x5600);
    }

    /// For every checksum that a header can carry, the header verifies after
    /// the decrement if and only if it did before.
    #[test]
    fn ttl_decrement_keeps_every_checksum_as_right_or_wrong_as_it_was() {
        let mut header =
            [0x45, 0, 0, 0x28, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 168, 1, 12, 192, 168, 1, 100];
        for id in 0..=u16::MAX {
            header[4..6].copy_from_slice(&id.to_be_bytes());
            header[8] = 64;
            header[10..12].fill(0);
            let right = !(add(0, &header) as u16);
            for (checksum, good) in [(right, true), (right ^ 0x0100, false)] {
                header[8] = 64;
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                assert_eq!(ip4_header_is_good(&header), good);
                header[8] = 63;
                header[10..12].copy_from_slice(&after_ttl_decrement(checksum).to_be_bytes());
                assert_eq!(ip4_header_is_good(&header), good, "id {id:#x}, checksum {checksum:#x}");
            }
        }
    }

    #[test]
    fn a_stored_checksum_changes_as_its_number() {
        for sum in (0..=u16::MAX).step_by(13).chain([u16::MAX]) {
            for difference in (0..=u16::MAX).step_by(331).chain([0xff00, 0xfffe, u16::MAX]) {
                let bytes = after(sum, difference.into()).to_be_bytes();
                assert_eq!(bytes_after(sum.to_be_bytes(), difference), bytes);
            }
        }
    }

    #[test]
    fn ttl_decrement_leaves_zero_rather_than_all_ones() {
        for sum in 0..=u16::MAX {
            let bytes = after_ttl_decrement(sum).to_be_bytes();
            assert_eq!(bytes_after_ttl_decrement(sum.to_be_bytes()), bytes);
        }
        assert_eq!(after_ttl_decrement(0xfeff), 0);
        assert_eq!(after_ttl_decrement(0xff00), 1);
    }
}
