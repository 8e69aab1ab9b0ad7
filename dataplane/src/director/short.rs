//! What the short way does to a packet's bytes: a plain one
//! ([`parse_plain`](crate::packet::headers::parse_plain)) whose headers lie
//! where they always do. What each function refuses it leaves as it was, for
//! the long way (`send`, `rewrite`), which does the same to all packets.

use super::Context;
use crate::conn::{Entry, Entry4, Entry6, Key4, Key6, Place, Slot, Tabled, Tables};
use crate::fib::Way;
use crate::packet::headers::{Addresses, ETHERNET};
use crate::packet::{Frame, Headers, Protocol, Tuple4, Tuple6, checksum};
use crate::service::Record;

/// Offset of layer 4 in a plain IPv4 frame, and in an IPv6 one.
const L4_4: usize = ETHERNET + 20;
const L4_6: usize = ETHERNET + 40;

/// What the short way does differently by family.
pub(super) trait Short: Tabled {
    /// The key of a packet's entry; `None` for one of the other family.
    fn key_of(headers: &Headers) -> Option<Self::Key>;

    /// Passes a packet on: MAC addresses, TTL, and nothing behind its end.
    /// False, and nothing done, where that would use up the TTL.
    fn pass(headers: &Headers, macs: &[u8; 12], frame: &mut Frame<'_>) -> bool;

    /// Passes a client's packet on under NAT and FULLNAT. As [`Short::pass`].
    fn pass_to_server(
        cx: Context<'_>,
        tables: &Tables,
        slot: Slot,
        record: &Record,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> bool;

    /// Passes a server's packet on under NAT and FULLNAT: the port's index.
    fn pass_to_client(
        cx: Context<'_>,
        tables: &Tables,
        slot: Slot,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> Option<u8>;
}

impl Short for Entry4 {
    #[inline(always)]
    fn key_of(headers: &Headers) -> Option<Key4> {
        let Headers { addresses, protocol, src_port, dst_port, .. } = *headers;
        let Addresses::V4 { src, dst } = addresses else { return None };
        Some(Key4::new(protocol, Tuple4 { src, dst, src_port, dst_port }))
    }

    #[inline(always)]
    fn pass(headers: &Headers, macs: &[u8; 12], frame: &mut Frame<'_>) -> bool {
        let Some(start) = frame.bytes_mut().first_chunk_mut::<L4_4>() else { return false };
        if !begin4(start, macs, 0) {
            return false;
        }
        frame.truncate(ETHERNET + usize::from(headers.ip_len));
        true
    }

    #[inline(always)]
    fn pass_to_server(
        _: Context<'_>,
        tables: &Tables,
        slot: Slot,
        record: &Record,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> bool {
        readdress4(&record.macs, tables.v4.entry(slot), headers, frame)
    }

    #[inline(always)]
    fn pass_to_client(
        cx: Context<'_>,
        tables: &Tables,
        slot: Slot,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> Option<u8> {
        let entry = tables.v4.entry(slot);
        let (port, macs) = way(cx.snapshot.fib.lookup4(entry.to.dst), headers)?;
        readdress4(&macs, entry, headers, frame).then_some(port)
    }
}

impl Short for Entry6 {
    #[inline(always)]
    fn key_of(headers: &Headers) -> Option<Key6> {
        let Headers { addresses, protocol, src_port, dst_port, .. } = *headers;
        let Addresses::V6 { src, dst } = addresses else { return None };
        Some(Key6::new(protocol, Tuple6 { src, dst, src_port, dst_port }))
    }

    #[inline(always)]
    fn pass(headers: &Headers, macs: &[u8; 12], frame: &mut Frame<'_>) -> bool {
        let Some(start) = frame.bytes_mut().first_chunk_mut::<L4_6>() else { return false };
        if !begin6(start, macs) {
            return false;
        }
        frame.truncate(ETHERNET + usize::from(headers.ip_len));
        true
    }

    #[inline(always)]
    fn pass_to_server(
        cx: Context<'_>,
        tables: &Tables,
        slot: Slot,
        record: &Record,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> bool {
        let body = tables.v6.entry(slot).body();
        let Addresses::V6 { src, .. } = headers.addresses else { return false };
        let dst_port = if record.rport == 0 { headers.dst_port } else { record.rport };
        let (src, src_port) = match body.local() {
            // NAT, which has no local port.
            (0, _) => (src, headers.src_port),
            (port, number) => match cx.snapshot.locals.get(usize::from(number)) {
                Some(std::net::IpAddr::V6(local)) => (local.octets(), port),
                _ => return false,
            },
        };
        let to = Tuple6 { src, dst: record.address, src_port, dst_port };
        readdress6(&record.macs, &to, body.l4_delta, headers, frame)
    }

    #[inline(always)]
    fn pass_to_client(
        cx: Context<'_>,
        tables: &Tables,
        slot: Slot,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> Option<u8> {
        let body = tables.v6.entry(slot).body();
        let Some(Place::V6(client)) = body.twin(Entry6::FAMILY) else { return None };
        let Tuple6 { src, dst, src_port, dst_port } = tables.v6.entry(client).key().tuple;
        let to = Tuple6 { src: dst, dst: src, src_port: dst_port, dst_port: src_port };
        let (port, macs) = way(cx.snapshot.fib.lookup6(&to.dst), headers)?;
        readdress6(&macs, &to, body.l4_delta, headers, frame).then_some(port)
    }
}

/// Port and MAC addresses of a way on which the packet fits.
#[inline(always)]
fn way(way: Way, headers: &Headers) -> Option<(u8, [u8; 12])> {
    let Way::Port(hop) = way else { return None };
    if hop.vlan != 0 || headers.ip_len > hop.mtu {
        return None;
    }
    let mut macs = [0; 12];
    macs[..6].copy_from_slice(&hop.dst_mac);
    macs[6..].copy_from_slice(&hop.src_mac);
    Some((hop.port, macs))
}

/// Writes the MAC addresses, takes one from the TTL, and makes the IPv4
/// checksum follow that and a change of addresses.
#[inline(always)]
fn begin4(start: &mut [u8; L4_4], macs: &[u8; 12], difference: u16) -> bool {
    let ttl = start[ETHERNET + 8];
    if ttl <= 1 {
        return false;
    }
    start[..12].copy_from_slice(macs);
    start[ETHERNET + 8] = ttl - 1;
    let sum = u16::from_be_bytes([start[ETHERNET + 10], start[ETHERNET + 11]]);
    let mut sum = checksum::after_ttl_decrement(sum);
    if difference != 0 {
        sum = checksum::after(sum, difference.into());
    }
    start[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Writes the MAC addresses and takes one from the hop limit.
#[inline(always)]
fn begin6(start: &mut [u8; L4_6], macs: &[u8; 12]) -> bool {
    let limit = start[ETHERNET + 7];
    if limit <= 1 {
        return false;
    }
    start[..12].copy_from_slice(macs);
    start[ETHERNET + 7] = limit - 1;
    true
}

#[inline(always)]
fn readdress4(macs: &[u8; 12], entry: &Entry4, headers: &Headers, frame: &mut Frame<'_>) -> bool {
    let Tuple4 { src, dst, src_port, dst_port } = entry.to;
    let Some((start, l4)) = frame.bytes_mut().split_first_chunk_mut::<L4_4>() else {
        return false;
    };
    let Some(sum) = sum_mut(l4, headers.protocol) else { return false };
    let new = after(*sum, entry.body().l4_delta, headers.protocol);
    if !begin4(start, macs, entry.ip_delta) {
        return false;
    }
    *sum = new;
    let addresses = (u64::from(src) << 32) | u64::from(dst);
    start[ETHERNET + 12..].copy_from_slice(&addresses.to_be_bytes());
    set_ports(l4, src_port, dst_port);
    frame.truncate(ETHERNET + usize::from(headers.ip_len));
    true
}

#[inline(always)]
fn readdress6(
    macs: &[u8; 12],
    to: &Tuple6,
    delta: u16,
    headers: &Headers,
    frame: &mut Frame<'_>,
) -> bool {
    let Some((start, l4)) = frame.bytes_mut().split_first_chunk_mut::<L4_6>() else {
        return false;
    };
    let Some(sum) = sum_mut(l4, headers.protocol) else { return false };
    let new = after(*sum, delta, headers.protocol);
    if !begin6(start, macs) {
        return false;
    }
    *sum = new;
    start[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&to.src);
    start[ETHERNET + 24..].copy_from_slice(&to.dst);
    set_ports(l4, to.src_port, to.dst_port);
    frame.truncate(ETHERNET + usize::from(headers.ip_len));
    true
}

/// The checksum of a TCP or UDP header. `None` where there is none: of UDP it
/// is to be computed, which is not done on the short way.
#[inline(always)]
fn sum_mut(l4: &mut [u8], protocol: Protocol) -> Option<&mut [u8; 2]> {
    match protocol {
        Protocol::Tcp => l4.first_chunk_mut::<20>()?[16..].first_chunk_mut(),
        Protocol::Udp => {
            l4.first_chunk_mut::<8>()?[6..].first_chunk_mut().filter(|s| **s != [0; 2])
        }
        Protocol::Sctp => None,
    }
}

/// The checksum after a difference, as it is stored. 0 would say of UDP that
/// there is none.
#[inline(always)]
fn after(sum: [u8; 2], difference: u16, protocol: Protocol) -> [u8; 2] {
    let sum = checksum::after(u16::from_be_bytes(sum), difference.into());
    let sum = if sum == 0 && protocol == Protocol::Udp { 0xffff } else { sum };
    sum.to_be_bytes()
}

#[inline(always)]
fn set_ports(l4: &mut [u8], src: u16, dst: u16) {
    let ports = (u32::from(src) << 16) | u32::from(dst);
    if let Some(start) = l4.first_chunk_mut::<4>() {
        *start = ports.to_be_bytes();
    }
}
