//! The client's address in a PROXY protocol header (version 2, binary, as the
//! specification of HAProxy has it), in front of the client's first byte of
//! TCP.
//!
//! # The two numberings
//!
//! The server's view of the client's bytes is ahead by the header's length,
//! `H`. With `F` for the number of the client's first byte (that of its SYN
//! plus one):
//!
//! | from the client, number | to the server |
//! |---|---|
//! | SYN | unchanged, data in it cut off: the client sends them again |
//! | below `F` (a keepalive) | unchanged |
//! | `F`, not RST | the header in front of what the segment carries, which may be nothing |
//! | `F`, RST | unchanged |
//! | above `F` | number plus `H` |
//!
//! | from the server, acknowledging | to the client |
//! |---|---|
//! | with SYN | unchanged |
//! | at most `F` | unchanged |
//! | a part of the header | `F` |
//! | `F + H` or more | number minus `H`; the header has arrived |
//!
//! Nothing is remembered but that the header has arrived (according to a segment
//! whose checksum is right: an error in transit must not end it). Until then every
//! segment that begins with `F` carries it, so what the client sends again
//! because nothing was acknowledged brings the header again, too. From then on
//! `H` is added and taken away whatever the number, which also keeps streams
//! right whose numbers come round to `F` after 4 GiB. (Before, fewer bytes are
//! on their way than a window, and numbers compare.) An acknowledgement that
//! was overtaken then says less than `F`: the client has had a later one.
//!
//! SACK blocks move with the numbers. A block with a part of the header is left
//! out, and so is one that follows it directly while the header is missing: in
//! the client's view that begins where its own acknowledgement stands.
//!
//! ICMP errors quote what the server was sent, by the server's numbers:
//! [`error_to_client`] takes `H` from those above `F`, without which the client
//! would take the error for forged.
//!
//! # Length
//!
//! A segment to which the header would make more than the MTU goes by itself,
//! and the header in a segment of its own. Both wait for the end of the burst,
//! in no particular order. A client that is told an MSS that is lower by `H`
//! (as [`mss::lower`](super::mss::lower) does) never needs this; the window of
//! the server's SYN counts the header, too, but 52 bytes more or less are in no
//! window that hosts announce. An ICMP error that says that the segment with
//! the header was too long tells the client an MTU that is lower by `H`.
//!
//! # Order
//!
//! [`to_server`] comes after the addresses and the TTL are rewritten and before
//! the Ethernet header is, so that the segment of its own has them;
//! [`to_client`] at any time. Checksums change by differences, that of the
//! header's own segment included: one that came wrong leaves wrong.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::{adjust_tcp, l4_mut, make_room, set_ethernet, set_ip_len, tcp_header_len, tcp_options};
use crate::counters::DropReason;
use crate::icmp::Quoted;
use crate::outbox::Outbox;
use crate::packet::headers::{Addresses, tcp};
use crate::packet::{Family, Frame, Headers, Protocol, checksum};
use crate::service::PortHop;

const LEN4: u16 = 28;
const LEN6: u16 = 52;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const ETHERNET: usize = 14;
/// The urgent pointer counts.
const URG: u8 = 0x20;

/// A connection whose server wants the header.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// The sequence number of the client's SYN.
    pub isn: u32,
    /// Whether the server has acknowledged the header.
    pub acked: bool,
    /// The client.
    pub client: SocketAddr,
    /// The virtual service that it talks to.
    pub vip: SocketAddr,
}

impl Stream {
    /// The header's length: 28 bytes for IPv4, 52 for IPv6.
    #[must_use]
    pub fn header_len(&self) -> u16 {
        if self.client.is_ipv4() && self.vip.is_ipv4() { LEN4 } else { LEN6 }
    }

    /// The number of the client's first byte.
    fn first(&self) -> u32 {
        self.isn.wrapping_add(1)
    }

    /// The header, at the beginning of the bytes.
    fn header(&self) -> [u8; LEN6 as usize] {
        const VERSION_AND_COMMAND: u8 = 0x21;
        let mut bytes = [0; LEN6 as usize];
        bytes[..12].copy_from_slice(&SIGNATURE);
        bytes[12] = VERSION_AND_COMMAND;
        bytes[14..16].copy_from_slice(&(self.header_len() - 16).to_be_bytes());
        let ports = match (self.client.ip(), self.vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                bytes[13] = 0x11;
                bytes[16..20].copy_from_slice(&client.octets());
                bytes[20..24].copy_from_slice(&vip.octets());
                &mut bytes[24..28]
            }
            (client, vip) => {
                bytes[13] = 0x21;
                bytes[16..32].copy_from_slice(&octets6(client));
                bytes[32..48].copy_from_slice(&octets6(vip));
                &mut bytes[48..52]
            }
        };
        ports[..2].copy_from_slice(&self.client.port().to_be_bytes());
        ports[2..].copy_from_slice(&self.vip.port().to_be_bytes());
        bytes
    }
}

fn octets6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Readies a client's segment for a server that wants the header. To be called
/// with every segment of the client, fragments but the first excepted.
/// `headers` has the new length afterwards. A header that goes by itself is put
/// into `outbox`, ready to be sent.
///
/// # Errors
/// - [`DropReason::L4Truncated`]: a data offset within the fixed header or
///   beyond the packet or its first segment
/// - [`DropReason::NoTranslation`]: a fragment that would need the header, or a
///   SYN with data in fragments or segments
/// - [`DropReason::NoHeadroom`]: no room for the header in the buffer
/// - [`DropReason::TooBig`]: the header needs a segment of its own, but fits
///   not even there, or the packet is not all at hand
/// - [`DropReason::TxFull`]: no room for it in `outbox`
pub fn to_server(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    stream: &Stream,
    hop: &PortHop,
    outbox: &mut Outbox,
) -> Result<(), DropReason> {
    let l4 = l4_mut(frame, headers)?;
    let flags = l4[13];
    if flags & tcp::SYN != 0 {
        return cut_payload(frame, headers);
    }
    // Of a stream at its beginning: never so far apart that the sign misleads.
    let position = read(l4, 4).wrapping_sub(stream.first()) as i32;
    if stream.acked || position > 0 {
        shift(l4, stream.header_len());
        return Ok(());
    }
    if position < 0 || flags & tcp::RST != 0 {
        return Ok(());
    }
    if headers.fragment {
        return Err(DropReason::NoTranslation);
    }
    let tcp_len = tcp_header_len(l4)?;
    let header = &stream.header()[..usize::from(stream.header_len())];
    if u32::from(headers.ip_len) + u32::from(stream.header_len()) > u32::from(hop.mtu) {
        send_apart(frame, headers, tcp_len, header, hop, outbox)?;
        shift(l4_mut(frame, headers)?, stream.header_len());
        return Ok(());
    }
    prepend(frame, headers, tcp_len, header)
}

/// Turns the acknowledgements of a server's segment into the client's numbers.
/// To be called with every segment of the server, fragments but the first
/// excepted. Returns whether the header has been acknowledged, now or before:
/// [`Stream::acked`] from now on.
///
/// # Errors
/// [`DropReason::L4Truncated`] for a data offset within the fixed header or
/// beyond the packet or its first segment.
pub fn to_client(
    frame: &mut Frame<'_>,
    headers: &Headers,
    stream: &Stream,
) -> Result<bool, DropReason> {
    let l4 = l4_mut(frame, headers)?;
    if l4[13] & (tcp::ACK | tcp::SYN) != tcp::ACK {
        return Ok(stream.acked);
    }
    let tcp_len = tcp_header_len(l4)?;
    let header_len = u32::from(stream.header_len());
    let ack = read(l4, 8);
    let position = ack.wrapping_sub(stream.first()) as i32;
    let acked = stream.acked || (position >= header_len as i32 && !is_wrong(frame, headers));
    let l4 = l4_mut(frame, headers)?;
    if acked {
        write(l4, 8, ack.wrapping_sub(header_len));
    } else if position > 0 {
        write(l4, 8, stream.first());
    }
    if tcp_len > 20 {
        shift_sack(&mut l4[..tcp_len], acked, stream.first(), header_len);
    }
    Ok(acked)
}

/// Turns an ICMP error about a segment that the server was sent into one about
/// the segment that the client sent. To be called before the error's addresses
/// are rewritten; its checksum is fixed, the quoted one is not. An error that
/// quotes less than the number stays as it is.
pub fn error_to_client(frame: &mut Frame<'_>, quoted: &Quoted, stream: &Stream) {
    let Some(message) = frame.bytes_mut().get_mut(usize::from(quoted.icmp)..) else { return };
    let (tcp, end) = (quoted.l4 - quoted.icmp, quoted.end - quoted.icmp);
    let number = usize::from(tcp) + 4..usize::from(tcp) + 8;
    if number.end > usize::from(end) || number.end > message.len() {
        return;
    }
    let header_len = stream.header_len();
    let seq = read(message, number.start);
    let position = seq.wrapping_sub(stream.first()) as i32;
    if stream.acked || position > 0 {
        let shorter = seq.wrapping_sub(header_len.into());
        let before = shorter.wrapping_sub(stream.first()) as i32;
        // Within the header there is nothing of the client's.
        let own = if stream.acked || before >= 0 { shorter } else { stream.first() };
        write_in_error(message, number, &own.to_be_bytes());
    } else if position == 0 {
        if let Some(field) = mtu_field(quoted) {
            let mtu = u16::from_be_bytes([message[field.start], message[field.start + 1]]);
            if mtu > header_len {
                write_in_error(message, field, &(mtu - header_len).to_be_bytes());
            }
        }
    }
}

/// Where in an ICMP message the MTU is, of which the lower 16 bits count.
fn mtu_field(quoted: &Quoted) -> Option<Range<usize>> {
    let too_big = match quoted.addresses {
        Addresses::V4 { .. } => (quoted.icmp_type, quoted.icmp_code) == (3, 4),
        Addresses::V6 { .. } => quoted.icmp_type == 2,
    };
    too_big.then_some(6..8)
}

/// Writes words of an ICMP message and adjusts its checksum.
fn write_in_error(message: &mut [u8], place: Range<usize>, new: &[u8]) {
    let difference = checksum::replace(0, &message[place.clone()], new);
    message[place].copy_from_slice(new);
    let sum = u16::from_be_bytes([message[2], message[3]]);
    message[2..4].copy_from_slice(&checksum::after(sum, difference).to_be_bytes());
}

/// Whether a TCP segment's checksum says that it is not what was sent. False
/// where its bytes are not all at hand.
fn is_wrong(frame: &Frame<'_>, headers: &Headers) -> bool {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let packet = frame.bytes().get(l3..l3 + usize::from(headers.ip_len));
    let Some(packet) = packet.filter(|_| !headers.fragment) else { return false };
    let (ip, tcp) = packet.split_at(l4 - l3);
    let addresses = match headers.family() {
        Family::V4 => &ip[12..20],
        Family::V6 => &ip[8..40],
    };
    let pseudo = checksum::pseudo_header(addresses, Protocol::Tcp as u8, tcp.len() as u16);
    checksum::add(pseudo, tcp) != 0xffff
}

/// Takes the header's length from SACK blocks (RFC 2018, section 3), and leaves
/// out those that say nothing of the client's bytes.
fn shift_sack(tcp_header: &mut [u8], acked: bool, first: u32, header_len: u32) {
    const SACK: u8 = 5;
    const NOP: u8 = 1;
    let mut old = [0; 40];
    let options = &mut tcp_header[20..];
    let old = &mut old[..options.len()];
    old.copy_from_slice(options);
    let mut found = false;
    tcp_options(old, |kind, at, len| {
        if kind != SACK || len % 8 != 2 {
            return;
        }
        found = true;
        let mut kept = at + 2;
        for block in (at + 2..at + len).step_by(8) {
            let (left, right) = (read(old, block), read(old, block + 4));
            let position = left.wrapping_sub(first);
            if position < header_len || (position == header_len && !acked) {
                continue;
            }
            options[kept..kept + 4].copy_from_slice(&left.wrapping_sub(header_len).to_be_bytes());
            options[kept + 4..kept + 8]
                .copy_from_slice(&right.wrapping_sub(header_len).to_be_bytes());
            kept += 8;
        }
        options[at + 1] = (kept - at) as u8;
        let rest = if kept == at + 2 { at } else { kept };
        options[rest..at + len].fill(NOP);
    });
    if found {
        let difference = checksum::replace(0, old, options);
        adjust_tcp(tcp_header, difference);
    }
}

/// Cuts the data off a SYN.
fn cut_payload(frame: &mut Frame<'_>, headers: &mut Headers) -> Result<(), DropReason> {
    let packet_end = usize::from(headers.l3) + usize::from(headers.ip_len);
    if headers.fragment || packet_end > frame.len() {
        return Err(DropReason::NoTranslation);
    }
    let l4 = l4_mut(frame, headers)?;
    let payload = &l4[tcp_header_len(l4)?..];
    if payload.is_empty() {
        return Ok(());
    }
    let shorter = payload.len() as u16;
    let difference = checksum::replace(0, payload, &[]);
    let difference = checksum::replace(difference, &shorter.to_be_bytes(), &[]);
    adjust_tcp(l4, difference);
    set_ip_len(frame, headers, headers.ip_len - shorter);
    Ok(())
}

/// Puts the header in front of a segment's payload.
fn prepend(
    frame: &mut Frame<'_>,
    headers: &mut Headers,
    tcp_len: usize,
    header: &[u8],
) -> Result<(), DropReason> {
    let len = header.len() as u16;
    let at = usize::from(headers.l4) + tcp_len;
    if !make_room(frame, headers, at, len) {
        return Err(DropReason::NoHeadroom);
    }
    let l4 = &mut frame.bytes_mut()[usize::from(headers.l4)..];
    l4[tcp_len..tcp_len + header.len()].copy_from_slice(header);
    // The pseudo header has the length.
    let longer = checksum::replace(0, &[], &len.to_be_bytes());
    adjust_tcp(l4, checksum::replace(longer, &[], header));
    if l4[13] & URG != 0 {
        // It counts from the segment's number.
        let old = [l4[18], l4[19]];
        let urgent = u16::from_be_bytes(old).saturating_add(len).to_be_bytes();
        l4[18..20].copy_from_slice(&urgent);
        adjust_tcp(l4, checksum::replace(0, &old, &urgent));
    }
    Ok(())
}

/// Sends the header in a segment like this one, whose payload it takes the
/// place of.
fn send_apart(
    frame: &Frame<'_>,
    headers: &Headers,
    tcp_len: usize,
    header: &[u8],
    hop: &PortHop,
    outbox: &mut Outbox,
) -> Result<(), DropReason> {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let payload_at = l4 + tcp_len;
    let packet_end = l3 + usize::from(headers.ip_len);
    let ip_len = payload_at - l3 + header.len();
    let at_hand = frame.bytes().get(payload_at..packet_end);
    let Some(payload) = at_hand.filter(|_| ip_len <= usize::from(hop.mtu)) else {
        return Err(DropReason::TooBig);
    };
    let total = ETHERNET + ip_len;
    let slot = outbox.push(hop.port, total).ok_or(DropReason::TxFull)?;
    slot[ETHERNET..total - header.len()].copy_from_slice(&frame.bytes()[l3..payload_at]);
    slot[total - header.len()..].copy_from_slice(header);
    let mut apart = Frame::new(slot, 0, total, total, hop.port);
    let l4 = l4 - l3 + ETHERNET;
    let mut its_headers = Headers { l3: ETHERNET as u16, l4: l4 as u16, ..*headers };
    set_ip_len(&mut apart, &mut its_headers, ip_len as u16);
    let tcp = &mut apart.bytes_mut()[l4..];
    let flags = [tcp[12], tcp[13]];
    tcp[13] &= !(tcp::FIN | URG);
    let difference = checksum::replace(0, &flags, &tcp[12..14]);
    let difference = checksum::replace(difference, payload, header);
    let (old_len, new_len) = (payload.len() as u16, header.len() as u16);
    let difference = checksum::replace(difference, &old_len.to_be_bytes(), &new_len.to_be_bytes());
    adjust_tcp(tcp, difference);
    set_ethernet(&mut apart, &its_headers, hop);
    Ok(())
}

/// Adds to the number of a segment's first byte.
fn shift(l4: &mut [u8], by: u16) {
    let seq = read(l4, 4);
    write(l4, 4, seq.wrapping_add(u32::from(by)));
}

fn read(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Writes a number of a TCP header, and adjusts the checksum.
fn write(l4: &mut [u8], at: usize, number: u32) {
    let number = number.to_be_bytes();
    let difference = checksum::replace(0, &l4[at..at + 4], &number);
    l4[at..at + 4].copy_from_slice(&number);
    adjust_tcp(l4, difference);
}

#[cfg(test)]
mod tests;
