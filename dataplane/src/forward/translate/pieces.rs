//! Translated packets that do not fit, cut into fragments (RFC 791, section
//! 2.3; RFC 8200, section 4.5).

use super::ip::{FRAGMENT_HEADER, IP4_HEADER, be16, write_ip4_checksum};
use crate::counters::DropReason;
use crate::outbox::Outbox;
use crate::packet::{Family, Frame, Headers, options};

/// What one piece says about itself.
struct Piece {
    /// Length of IP headers and payload.
    ip_len: usize,
    /// Of its payload in the datagram, bytes.
    offset: usize,
    more: bool,
}

/// Cuts a packet that [`to_ip6`](super::to_ip6) or [`to_ip4`](super::to_ip4)
/// found to go in pieces, or an IPv4 packet without DF, after it has its
/// Ethernet header. The frame becomes the first piece; the others go to the
/// outbox, in order, for `port`. `mtu` is that of the next hop.
///
/// # Errors
/// [`DropReason::TooBig`] when the packet is not all at hand, or is the part of
/// a datagram beyond 65,535 bytes, or the MTU has no room for headers and 8
/// bytes; [`DropReason::TxFull`] when the outbox has no room for all pieces.
/// There are none then.
pub fn cut(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    mtu: u16,
    port: u8,
    outbox: &mut Outbox,
) -> Result<(), DropReason> {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let (ip_len, family) = (usize::from(headers.ip_len), headers.family());
    let header_len = l4 - l3;
    // Each piece but the last is a multiple of 8 bytes long.
    let room = usize::from(mtu).saturating_sub(header_len) & !7;
    let whole = frame.total_len() == frame.len() && frame.len() >= l3 + ip_len;
    if room == 0 || !whole {
        return Err(DropReason::TooBig);
    }
    let bytes = frame.bytes();
    let payload = &bytes[l4..l3 + ip_len];
    let (offset, more) = match family {
        Family::V4 => (be16(bytes, l3 + 6) << 3, bytes[l3 + 6] & 0x20 != 0),
        Family::V6 => (be16(bytes, l4 - 6) & 0xfff8, bytes[l4 - 5] & 1 != 0),
    };
    let offset = usize::from(offset);
    if offset + payload.len() > usize::from(u16::MAX) {
        return Err(DropReason::TooBig);
    }

    let mut pushed = 0;
    for at in (0..payload.len()).step_by(room).skip(1) {
        let part = &payload[at..payload.len().min(at + room)];
        let Some(slot) = outbox.push(port, l4 + part.len()) else {
            for _ in 0..pushed {
                outbox.pop();
            }
            return Err(DropReason::TxFull);
        };
        pushed += 1;
        slot[..l4].copy_from_slice(&bytes[..l4]);
        slot[l4..].copy_from_slice(part);
        if family == Family::V4 {
            options::for_later_fragments(&mut slot[l3 + IP4_HEADER..l4]);
        }
        let more = more || at + part.len() < payload.len();
        let piece = Piece { ip_len: header_len + part.len(), offset: offset + at, more };
        piece.write(&mut slot[l3..l4], family);
    }
    if pushed > 0 {
        let ip_len = header_len + room;
        frame.truncate(l3 + ip_len);
        let piece = Piece { ip_len, offset, more: true };
        piece.write(&mut frame.bytes_mut()[l3..l4], family);
        headers.ip_len = ip_len as u16;
        headers.fragment = true;
        (headers.src_port, headers.dst_port) = (0, 0);
    }
    Ok(())
}

impl Piece {
    /// Changes the IP headers of the whole packet into those of the piece.
    fn write(&self, ip: &mut [u8], family: Family) {
        let (offset, more) = (self.offset as u16, u16::from(self.more));
        match family {
            Family::V4 => {
                ip[2..4].copy_from_slice(&(self.ip_len as u16).to_be_bytes());
                ip[6..8].copy_from_slice(&(offset >> 3 | more << 13).to_be_bytes());
                write_ip4_checksum(ip);
            }
            Family::V6 => {
                let field = ip.len() - FRAGMENT_HEADER + 2;
                ip[4..6].copy_from_slice(&((self.ip_len - 40) as u16).to_be_bytes());
                ip[field..field + 2].copy_from_slice(&(offset | more).to_be_bytes());
            }
        }
    }
}
