//! What the short way does to a packet's bytes: a plain one
//! ([`Plain`](crate::packet::headers::Plain)) whose headers lie
//! where they always do. What each function refuses it leaves as it was, for
//! the long way (`send`, `rewrite`), which does the same to all packets.

use super::burst::{Context, IPV4, IPV6, Kind, Staged};
use crate::conn::{Entry, Entry4, Entry6, Place, Tabled, Tables};
use crate::fib::Way;
use crate::forward::tun::Ids;
use crate::packet::headers::{
    ETHERNET, PLAIN4, PLAIN6, Plain, SHORTEST4, key4, key6, plain4, plain6,
};
use crate::packet::{Frame, Key4, Key6, Protocol, Tuple6, checksum};
use crate::service::Record;
use crate::snapshot::Snapshot;

/// What the short way does differently by family.
pub(super) trait Short: Tabled {
    /// What stage 1 says of such packets.
    const SHORT: Kind;

    /// The same of others that are plain.
    const FIRST: Kind;

    /// The family in a [`Reading`](super::Reading).
    const READ: u8;

    /// The number of the family as the protocol of an outer header.
    const IPIP: u8;

    /// Reads a packet of the family, as [`plain_family`] says, if it is plain.
    ///
    /// [`plain_family`]: crate::packet::headers::plain_family
    fn plain(frame: &Frame<'_>) -> Option<Plain<Self::Key>>;

    /// The key of a plain packet.
    fn key_of(bytes: &[u8]) -> Option<Self::Key>;

    /// What [`Core::plain_owner`](super::Core::plain_owner) needs of a key.
    fn owner_words(key: &Self::Key) -> (u16, u32);

    /// Puts the key into a staged packet.
    fn set_key(staged: &mut Staged, key: Self::Key);

    /// The key in a staged packet.
    fn key(staged: &Staged) -> Self::Key;

    /// The same where it lies.
    fn key_in(staged: &Staged) -> &Self::Key;

    /// Passes a packet on: MAC addresses, TTL, and nothing behind its end.
    /// False, and nothing done, where that would use up the TTL.
    fn pass(staged: &Staged, macs: &[u8; 12], frame: &mut Frame<'_>) -> bool;

    /// TOS or traffic class, TTL or hop limit, and DF (IPv4), of a packet.
    fn inner(start: &[u8; PLAIN4]) -> (u8, u8, bool);

    /// Takes one from the TTL of the packet whose IP header this is.
    fn age(ip: &mut [u8; 20]);

    /// Passes a client's packet on under NAT and FULLNAT. As [`Short::pass`].
    fn pass_to_server(
        snapshot: &Snapshot,
        entry: &Self,
        record: &Record,
        staged: &Staged,
        frame: &mut Frame<'_>,
    ) -> bool;

    /// The way to the client of a server's packet.
    fn way_to_client(snapshot: &Snapshot, tables: &Tables, entry: &Self) -> Option<Way>;

    /// Passes a server's packet on under NAT and FULLNAT. As [`Short::pass`].
    fn pass_to_client(
        tables: &Tables,
        entry: &Self,
        macs: &[u8; 12],
        staged: &Staged,
        frame: &mut Frame<'_>,
    ) -> bool;
}

impl Short for Entry4 {
    const SHORT: Kind = Kind::Short4;
    const FIRST: Kind = Kind::First4;
    const READ: u8 = IPV4;
    const IPIP: u8 = 4;

    #[inline(always)]
    fn plain(frame: &Frame<'_>) -> Option<Plain<Key4>> {
        plain4(frame)
    }

    #[inline(always)]
    fn key_of(bytes: &[u8]) -> Option<Key4> {
        key4(bytes)
    }

    #[inline(always)]
    fn owner_words(key: &Key4) -> (u16, u32) {
        (key.xor(), key.source())
    }

    #[inline(always)]
    fn set_key(staged: &mut Staged, key: Key4) {
        staged.set_key4(key);
    }

    #[inline(always)]
    fn key(staged: &Staged) -> Key4 {
        staged.key4()
    }

    #[inline(always)]
    fn key_in(staged: &Staged) -> &Key4 {
        let words = staged.key.first_chunk::<2>();
        bytemuck::must_cast_ref(words.expect("five words begin with two"))
    }

    #[inline(always)]
    fn pass(staged: &Staged, macs: &[u8; 12], frame: &mut Frame<'_>) -> bool {
        let Some(start) = frame.bytes_mut().first_chunk_mut::<PLAIN4>() else { return false };
        if !begin4(start, macs) {
            return false;
        }
        frame.truncate(ETHERNET + usize::from(staged.ip_len));
        true
    }

    #[inline(always)]
    fn inner(start: &[u8; PLAIN4]) -> (u8, u8, bool) {
        (start[ETHERNET + 1], start[ETHERNET + 8], start[ETHERNET + 6] & 0x40 != 0)
    }

    #[inline(always)]
    fn age(ip: &mut [u8; 20]) {
        ip[8] = ip[8].wrapping_sub(1);
        [ip[10], ip[11]] = checksum::bytes_after_ttl_decrement([ip[10], ip[11]]);
    }

    #[inline(never)]
    fn pass_to_server(
        _: &Snapshot,
        entry: &Self,
        record: &Record,
        staged: &Staged,
        frame: &mut Frame<'_>,
    ) -> bool {
        readdress4(&record.macs, entry, staged, frame)
    }

    fn way_to_client(snapshot: &Snapshot, _: &Tables, entry: &Self) -> Option<Way> {
        Some(snapshot.fib.lookup4(entry.to.tuple().dst))
    }

    #[inline(never)]
    fn pass_to_client(
        _: &Tables,
        entry: &Self,
        macs: &[u8; 12],
        staged: &Staged,
        frame: &mut Frame<'_>,
    ) -> bool {
        readdress4(macs, entry, staged, frame)
    }
}

impl Short for Entry6 {
    const SHORT: Kind = Kind::Short6;
    const FIRST: Kind = Kind::First6;
    const READ: u8 = IPV6;
    const IPIP: u8 = 41;

    #[inline(always)]
    fn plain(frame: &Frame<'_>) -> Option<Plain<Key6>> {
        plain6(frame)
    }

    #[inline(always)]
    fn key_of(bytes: &[u8]) -> Option<Key6> {
        key6(bytes)
    }

    #[inline(always)]
    fn owner_words(key: &Key6) -> (u16, u32) {
        (key.xor(), key.source_end())
    }

    #[inline(always)]
    fn set_key(staged: &mut Staged, key: Key6) {
        staged.key = key.words();
    }

    #[inline(always)]
    fn key(staged: &Staged) -> Key6 {
        staged.key6()
    }

    #[inline(always)]
    fn key_in(staged: &Staged) -> &Key6 {
        bytemuck::must_cast_ref(&staged.key)
    }

    #[inline(always)]
    fn pass(staged: &Staged, macs: &[u8; 12], frame: &mut Frame<'_>) -> bool {
        let Some(start) = frame.bytes_mut().first_chunk_mut::<PLAIN6>() else { return false };
        if !begin6(start, macs) {
            return false;
        }
        frame.truncate(ETHERNET + usize::from(staged.ip_len));
        true
    }

    #[inline(always)]
    fn inner(start: &[u8; PLAIN4]) -> (u8, u8, bool) {
        (start[ETHERNET] << 4 | start[ETHERNET + 1] >> 4, start[ETHERNET + 7], false)
    }

    #[inline(always)]
    fn age(ip: &mut [u8; 20]) {
        ip[7] = ip[7].wrapping_sub(1);
    }

    #[inline(never)]
    fn pass_to_server(
        snapshot: &Snapshot,
        entry: &Self,
        record: &Record,
        staged: &Staged,
        frame: &mut Frame<'_>,
    ) -> bool {
        let body = entry.body();
        let from = <Self as Short>::key(staged).tuple();
        let dst_port = if record.rport == 0 { from.dst_port } else { record.rport };
        let (src, src_port) = match body.local() {
            // NAT, which has no local port.
            (0, _) => (from.src, from.src_port),
            (port, number) => match snapshot.locals.get(usize::from(number)) {
                Some(std::net::IpAddr::V6(local)) => (local.octets(), port),
                _ => return false,
            },
        };
        let to = Tuple6 { src, dst: record.address, src_port, dst_port };
        readdress6(&record.macs, &to, body.l4_delta, staged, frame)
    }

    fn way_to_client(snapshot: &Snapshot, tables: &Tables, entry: &Self) -> Option<Way> {
        Some(snapshot.fib.lookup6(&client6(tables, entry)?.src))
    }

    #[inline(never)]
    fn pass_to_client(
        tables: &Tables,
        entry: &Self,
        macs: &[u8; 12],
        staged: &Staged,
        frame: &mut Frame<'_>,
    ) -> bool {
        let Some(client) = client6(tables, entry) else { return false };
        let Tuple6 { src, dst, src_port, dst_port } = client;
        let to = Tuple6 { src: dst, dst: src, src_port: dst_port, dst_port: src_port };
        readdress6(macs, &to, entry.body().l4_delta, staged, frame)
    }
}

/// What the client of a server's entry sends.
#[inline(always)]
fn client6(tables: &Tables, entry: &Entry6) -> Option<Tuple6> {
    let Some(Place::V6(client)) = entry.body().twin(Entry6::FAMILY) else { return None };
    Some(tables.v6.entry(client).key().tuple())
}

/// Wraps a client's packet in an IPv4 header to the server (IPIP). False, and
/// nothing done, where it is not as simple as that.
#[inline(never)]
pub(super) fn wrap4<E: Short>(
    cx: Context<'_>,
    record: &Record,
    ids: &mut Ids,
    ip_len: u16,
    frame: &mut Frame<'_>,
) -> bool {
    let Some(source) = cx.snapshot.ports.get(usize::from(record.port)).and_then(|p| p.address4)
    else {
        return false;
    };
    let Some((tos, ttl, df)) = outer::<E>(frame) else { return false };
    let Some(start) = frame.wrap::<OUTER4>(20, PLAIN4 + usize::from(ip_len)) else { return false };
    let (start, inner) = start.split_at_mut(PLAIN4);
    if let Some(inner) = inner.first_chunk_mut() {
        E::age(inner);
    }
    let [a, b] = (ip_len + 20).to_be_bytes();
    let id_and_flags = if df && cx.snapshot.settings.pmtu_disc {
        [0, 0, 0x40, 0]
    } else {
        let [a, b] = (ids.take() as u16).to_be_bytes();
        [a, b, 0, 0]
    };
    let [c, d, e, f, ..] = record.address;
    // As they stand there: the sum does not depend on the byte order.
    let mut words = [
        u32::from_ne_bytes([0x45, tos, a, b]),
        u32::from_ne_bytes(id_and_flags),
        u32::from_ne_bytes([ttl, E::IPIP, 0, 0]),
        source.to_be(),
        u32::from_ne_bytes([c, d, e, f]),
    ];
    let sum = words.iter().map(|word| u64::from(*word)).sum();
    let [a, b] = (!checksum::fold_doubles(sum)).to_ne_bytes();
    words[2] = u32::from_ne_bytes([ttl, E::IPIP, a, b]);
    start[..12].copy_from_slice(&record.macs);
    start[12..14].copy_from_slice(&[0x08, 0x00]);
    start[ETHERNET..].copy_from_slice(bytemuck::must_cast_ref::<_, [u8; 20]>(&words));
    true
}

/// Wraps a client's packet in an IPv6 header to the server, as [`wrap4`].
#[inline(never)]
pub(super) fn wrap6<E: Short>(
    cx: Context<'_>,
    record: &Record,
    ip_len: u16,
    frame: &mut Frame<'_>,
) -> bool {
    let Some(source) = cx.snapshot.ports.get(usize::from(record.port)).and_then(|p| p.address6)
    else {
        return false;
    };
    let Some((tos, ttl, _)) = outer::<E>(frame) else { return false };
    let Some(start) = frame.wrap::<OUTER6>(40, PLAIN6 + usize::from(ip_len)) else { return false };
    let (start, inner) = start.split_at_mut(PLAIN6);
    if let Some(inner) = inner.first_chunk_mut() {
        E::age(inner);
    }
    start[..12].copy_from_slice(&record.macs);
    start[12..18].copy_from_slice(&[0x86, 0xdd, 0x60 | tos >> 4, tos << 4, 0, 0]);
    start[18..20].copy_from_slice(&ip_len.to_be_bytes());
    start[20..22].copy_from_slice(&[E::IPIP, ttl]);
    start[22..38].copy_from_slice(&source);
    start[38..].copy_from_slice(&record.address);
    true
}

/// The first bytes of a wrapped packet: both Ethernet and IP headers, of the
/// inner one what forwarding touches.
const OUTER4: usize = PLAIN4 + 20;
const OUTER6: usize = PLAIN6 + 20;

/// What an outer header takes from a packet: TOS, the TTL that is left, and DF.
/// `None` for one whose TTL is used up.
#[inline(always)]
fn outer<E: Short>(frame: &Frame<'_>) -> Option<(u8, u8, bool)> {
    let (tos, ttl, df) = E::inner(frame.bytes().first_chunk()?);
    if ttl <= 1 {
        return None;
    }
    // RFC 3168, section 9.1: of "congestion experienced", both bits, the outer
    // one says ECT(0), the upper bit, instead.
    Some((tos & !(tos >> 1 & tos & 1), ttl - 1, df))
}

/// Writes the MAC addresses, takes one from the TTL, and makes the IPv4
/// checksum follow.
#[inline(always)]
fn begin4(start: &mut [u8; PLAIN4], macs: &[u8; 12]) -> bool {
    let ttl = start[ETHERNET + 8];
    if ttl <= 1 {
        return false;
    }
    start[..12].copy_from_slice(macs);
    start[ETHERNET + 8] = ttl - 1;
    let sum = [start[ETHERNET + 10], start[ETHERNET + 11]];
    [start[ETHERNET + 10], start[ETHERNET + 11]] = checksum::bytes_after_ttl_decrement(sum);
    true
}

/// Writes the MAC addresses and takes one from the hop limit.
#[inline(always)]
fn begin6(start: &mut [u8; PLAIN6], macs: &[u8; 12]) -> bool {
    let limit = start[ETHERNET + 7];
    if limit <= 1 {
        return false;
    }
    start[..12].copy_from_slice(macs);
    start[ETHERNET + 7] = limit - 1;
    true
}

#[inline(always)]
fn readdress4(macs: &[u8; 12], entry: &Entry4, staged: &Staged, frame: &mut Frame<'_>) -> bool {
    let (addresses, ports) = entry.to.bytes();
    let Some(start) = frame.bytes_mut().first_chunk_mut::<SHORTEST4>() else { return false };
    let delta = entry.body().l4_delta;
    let ttl = start[ETHERNET + 8];
    if ttl <= 1 {
        return false;
    }
    // Each with offsets of its own, not one that is chosen.
    if staged.key4().protocol() == Protocol::Udp as u8 {
        let sum = [start[PLAIN4 + 6], start[PLAIN4 + 7]];
        // To compute a sum that is not there is not for the short way.
        if sum == [0; 2] {
            return false;
        }
        start[PLAIN4 + 6..PLAIN4 + 8].copy_from_slice(&after(sum, delta, true));
    } else {
        let sum = [start[PLAIN4 + 16], start[PLAIN4 + 17]];
        start[PLAIN4 + 16..PLAIN4 + 18].copy_from_slice(&after(sum, delta, false));
    }
    start[..12].copy_from_slice(macs);
    start[ETHERNET + 8] = ttl - 1;
    let sum = [start[ETHERNET + 10], start[ETHERNET + 11]];
    let sum = checksum::bytes_after_bytes(sum, entry.hop_delta);
    [start[ETHERNET + 10], start[ETHERNET + 11]] = sum;
    start[ETHERNET + 12..PLAIN4].copy_from_slice(&addresses);
    start[PLAIN4..PLAIN4 + 4].copy_from_slice(&ports);
    frame.truncate(ETHERNET + usize::from(staged.ip_len));
    true
}

#[inline(always)]
fn readdress6(
    macs: &[u8; 12],
    to: &Tuple6,
    delta: u16,
    staged: &Staged,
    frame: &mut Frame<'_>,
) -> bool {
    // Each with offsets of its own, not one that is chosen.
    let is_udp = <Entry6 as Short>::key(staged).protocol() == Protocol::Udp as u8;
    let readdressed = if is_udp {
        readdress6_at::<{ PLAIN6 + 8 }, { PLAIN6 + 6 }>(macs, to, delta, is_udp, frame)
    } else {
        readdress6_at::<{ PLAIN6 + 20 }, { PLAIN6 + 16 }>(macs, to, delta, is_udp, frame)
    };
    if readdressed {
        frame.truncate(ETHERNET + usize::from(staged.ip_len));
    }
    readdressed
}

/// [`readdress6`] of a packet whose headers are so long and whose checksum is
/// there.
#[inline(always)]
fn readdress6_at<const HEADERS: usize, const SUM: usize>(
    macs: &[u8; 12],
    to: &Tuple6,
    delta: u16,
    is_udp: bool,
    frame: &mut Frame<'_>,
) -> bool {
    let Some(start) = frame.bytes_mut().first_chunk_mut::<HEADERS>() else { return false };
    let sum = [start[SUM], start[SUM + 1]];
    let limit = start[ETHERNET + 7];
    // To compute a sum that is not there is not for the short way.
    if limit <= 1 || (is_udp && sum == [0; 2]) {
        return false;
    }
    start[SUM..SUM + 2].copy_from_slice(&after(sum, delta, is_udp));
    start[..12].copy_from_slice(macs);
    start[ETHERNET + 7] = limit - 1;
    start[ETHERNET + 8..ETHERNET + 24].copy_from_slice(&to.src);
    start[ETHERNET + 24..PLAIN6].copy_from_slice(&to.dst);
    let ports = (u32::from(to.src_port) << 16) | u32::from(to.dst_port);
    start[PLAIN6..PLAIN6 + 4].copy_from_slice(&ports.to_be_bytes());
    true
}

/// The checksum after a difference, as it is stored. 0 would say of UDP that
/// there is none.
#[inline(always)]
fn after(sum: [u8; 2], difference: u16, is_udp: bool) -> [u8; 2] {
    let sum = checksum::bytes_after(sum, difference);
    if sum == [0; 2] && is_udp { [0xff; 2] } else { sum }
}
