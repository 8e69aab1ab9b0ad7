//! Outer packets that are too long for their way, in pieces (RFC 791, section
//! 3.2; RFC 8200, section 4.5).

use super::{Ids, Path, ip_header_len, write_ip4_checksum};
use crate::counters::DropReason;
use crate::outbox::Outbox;
use crate::packet::Family;

/// Pieces begin at multiples of this many bytes.
const UNIT: usize = 8;
const FRAGMENT_HEADER: usize = 8;
/// Next header value of a fragment header.
pub(super) const FRAGMENT: u8 = 44;

/// Puts the pieces of a frame, which holds a whole outer packet without DF,
/// into the outbox. They are as long as the MTU allows, but for the last.
///
/// # Errors
/// [`DropReason::TooBig`] for an MTU that holds no piece; [`DropReason::TxFull`]
/// when the outbox has no room for all pieces: then none is in it.
pub(super) fn fragment(
    frame: &[u8],
    path: &Path<'_>,
    ids: &mut Ids,
    outbox: &mut Outbox,
) -> Result<(), DropReason> {
    let family = path.tunnel.family();
    let fragment_header = match family {
        Family::V4 => 0,
        Family::V6 => FRAGMENT_HEADER,
    };
    let ip_header = ip_header_len(family);
    let ethernet = path.hop.ethernet_len();
    let (front, payload) = frame.split_at(ethernet + ip_header);
    let room = usize::from(path.mtu).saturating_sub(ip_header + fragment_header);
    let size = room / UNIT * UNIT;
    if size == 0 {
        return Err(DropReason::TooBig);
    }
    // An IPv4 packet has its id already.
    let id = if family == Family::V6 { ids.take() } else { 0 };
    for (index, piece) in payload.chunks(size).enumerate() {
        let header_len = front.len() + fragment_header;
        let Some(out) = outbox.push(path.hop.port, header_len + piece.len()) else {
            for _ in 0..index {
                outbox.pop();
            }
            return Err(DropReason::TxFull);
        };
        let (header, body) = out.split_at_mut(header_len);
        header[..front.len()].copy_from_slice(front);
        body.copy_from_slice(piece);
        let ip = &mut header[ethernet..];
        let offset = index * size;
        let more = offset + piece.len() < payload.len();
        match family {
            Family::V4 => mark4(ip, piece.len(), offset, more),
            Family::V6 => mark6(ip, piece.len(), offset, more, id),
        }
    }
    Ok(())
}

/// Makes the header of the whole that of a piece.
fn mark4(ip: &mut [u8], len: usize, offset: usize, more: bool) {
    let total = (ip.len() + len) as u16;
    let place = (offset / UNIT) as u16 | u16::from(more) << 13;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[6..8].copy_from_slice(&place.to_be_bytes());
    ip[10..12].fill(0);
    write_ip4_checksum(ip);
}

/// Makes the header of the whole that of a piece, and writes the fragment
/// header behind it.
fn mark6(ip: &mut [u8], len: usize, offset: usize, more: bool, id: u32) {
    let (ip, header) = ip.split_at_mut(ip_header_len(Family::V6));
    let payload = (FRAGMENT_HEADER + len) as u16;
    // The offset's unit leaves the three low bits to the flags.
    let place = offset as u16 | u16::from(more);
    header[0] = ip[6];
    header[1] = 0;
    header[2..4].copy_from_slice(&place.to_be_bytes());
    header[4..].copy_from_slice(&id.to_be_bytes());
    ip[4..6].copy_from_slice(&payload.to_be_bytes());
    ip[6] = FRAGMENT;
}
