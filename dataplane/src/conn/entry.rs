//! What a connection's entry holds: fixed 64-byte layouts, one cache line, that
//! name servers by stable number and never by pointer.
//!
//! A connection has one entry, found by its client's packets. One whose
//! server's packets pass the director too (NAT, FULLNAT) has two, which know
//! each other: the second is found by the server's packets. Each direction
//! touches its own entry alone, unless the state changes.

use bytemuck::Zeroable;

use super::hash::HashKey;
use super::state::State;
use super::table::Slot;
use super::tables::Place;
use crate::forward::nat::{self, Deltas};
use crate::packet::{Family, Key4, Key6, Tuple, checksum};
use crate::service::ClientAddress;
use crate::time::Tick;

/// An entry of a connection table. Implemented by [`Entry4`] and [`Entry6`].
pub trait Entry: Zeroable + Copy {
    /// What finds it: addresses, ports and protocol of the packets.
    type Key: Copy + Eq + std::fmt::Debug;

    /// The family of the packets.
    const FAMILY: Family;

    /// The entry's key.
    fn key(&self) -> Self::Key;

    /// Addresses and ports of the packets.
    fn tuple(key: &Self::Key) -> Tuple;

    /// The table hash of a key.
    fn hash(key: &Self::Key, with: &HashKey) -> u64;

    /// What does not depend on the family.
    fn body(&self) -> &Body;

    /// The same, for changing.
    fn body_mut(&mut self) -> &mut Body;

    /// A new entry.
    fn new(key: Self::Key, body: Body) -> Self;

    /// The same, of a connection whose packets become this. Translation to the
    /// other family computes its own.
    fn rewritten(self, to: &Tuple) -> Self;

    /// What the rewrite makes of the checksums of packets with this key, which
    /// are answered by packets with the other.
    fn deltas(key: &Self::Key, answer: &Self::Key) -> Deltas;

    /// A new entry of a connection in both directions of one family: found by
    /// packets with this key, which become what packets with the other answer.
    fn paired(key: Self::Key, answer: &Self::Key, body: Body, deltas: Deltas) -> Self;

    /// Where an entry of this kind is.
    fn place(slot: Slot) -> Place;
}

/// The part of an entry that both families share.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C)]
pub struct Body {
    /// The real server's number in the snapshot.
    pub server: u32,
    /// Tick of the last packet of this direction.
    last: u32,
    /// Slot of the other direction's entry plus one; 0 is none.
    twin: u32,
    /// Of the client's entry: the number of the persistence template's slot, 0
    /// is none. Of the server's: that of the template that its next packet
    /// assures.
    template: u32,
    /// Of the client's entry: the local port (upper half) and the number of the
    /// local address (FULLNAT). Of the server's entry: where the server is told
    /// the client's address (PROXY, TOA) the client's initial sequence number,
    /// else the number of the way to the client, 0 while none is known.
    detail: u32,
    /// Difference that the rewrite makes to the TCP or UDP checksum.
    pub l4_delta: u16,
    /// [`State`] as a number.
    state: u8,
    flags: u8,
}

/// The entry is found by the server's packets.
const REPLY: u8 = 1;
/// The twin is of the other family.
const MIXED: u8 = 2;
/// The server has acknowledged the PROXY header.
const PROXY_ACKED: u8 = 4;
/// The server is told the client's address by a TCP option.
const TOA: u8 = 8;
/// It is told by a PROXY header.
const PROXY: u8 = 16;
/// The state is one that most packets leave as it is.
const STEADY: u8 = 32;
/// There is a twin.
const TWIN: u8 = 64;

/// The flag of a state.
const fn steady(state: State) -> u8 {
    if matches!(state, State::Established | State::Udp) { STEADY } else { 0 }
}

impl Body {
    /// The body of a connection to `server`, first seen now.
    #[must_use]
    pub const fn new(server: u32, state: State, now: Tick) -> Self {
        Self {
            server,
            last: now.0,
            twin: 0,
            template: 0,
            detail: 0,
            l4_delta: 0,
            state: state as u8,
            flags: steady(state),
        }
    }

    /// The body of the same connection for its server's packets.
    #[must_use]
    pub const fn for_replies(mut self) -> Self {
        self.flags |= REPLY;
        self.template = 0;
        self.detail = 0;
        self
    }

    /// Whether packets that leave its state as it is
    /// ([`State::keeps_established`]) may go the short way: the state is
    /// ESTABLISHED or UDP, nothing is told the server of the client, and both
    /// sides are of one family.
    #[must_use]
    #[inline(always)]
    pub const fn is_short(&self) -> bool {
        self.flags & (STEADY | MIXED | TOA | PROXY) == STEADY
    }

    /// Whether its client's packets need nothing but other addresses and ports:
    /// nothing is told the server of the client, and both sides are of one
    /// family.
    #[must_use]
    #[inline]
    pub const fn is_plain_pair(&self) -> bool {
        self.flags & (MIXED | TOA | PROXY) == 0 && self.has_twin()
    }

    /// [`Body::is_short`] of a connection with one entry.
    #[must_use]
    #[inline(always)]
    pub const fn is_short_alone(&self) -> bool {
        self.flags & (STEADY | MIXED | TOA | PROXY | TWIN | REPLY) == STEADY
    }

    /// Whether the entry is found by the server's packets.
    #[must_use]
    #[inline]
    pub const fn is_reply(&self) -> bool {
        self.flags & REPLY != 0
    }

    /// The connection's state.
    #[must_use]
    #[inline]
    pub const fn state(&self) -> State {
        State::from_u8(self.state)
    }

    /// [`State::is_half_open`] of the state, as it lies there.
    #[must_use]
    #[inline]
    pub const fn is_half_open(&self) -> bool {
        State::HALF_OPEN >> (self.state & 31) & 1 != 0
    }

    /// Changes the state.
    pub const fn set_state(&mut self, state: State) {
        self.state = state as u8;
        self.flags = self.flags & !STEADY | steady(state);
    }

    /// When the last packet of this direction came.
    #[must_use]
    #[inline]
    pub const fn last(&self) -> Tick {
        Tick(self.last)
    }

    /// Notes a packet.
    pub const fn set_last(&mut self, now: Tick) {
        self.last = now.0;
    }

    /// Whether there is an entry of the other direction.
    #[must_use]
    #[inline(always)]
    pub const fn has_twin(&self) -> bool {
        self.twin != 0
    }

    /// Where the other direction's entry is; `family` is that of this one.
    #[must_use]
    #[inline]
    pub const fn twin(&self, family: Family) -> Option<Place> {
        if self.twin == 0 {
            return None;
        }
        let slot = Slot::from_number(self.twin - 1);
        Some(match (family, self.flags & MIXED != 0) {
            (Family::V4, false) | (Family::V6, true) => Place::V4(slot),
            (Family::V6, false) | (Family::V4, true) => Place::V6(slot),
        })
    }

    /// Notes where the other direction's entry is.
    pub const fn set_twin(&mut self, family: Family, twin: Place) {
        let (slot, mixed) = match (family, twin) {
            (Family::V4, Place::V4(slot)) | (Family::V6, Place::V6(slot)) => (slot, 0),
            (Family::V4, Place::V6(slot)) | (Family::V6, Place::V4(slot)) => (slot, MIXED),
        };
        self.twin = slot.number() + 1;
        self.flags = (self.flags & !MIXED) | mixed | TWIN;
    }

    /// The number of the persistence template's slot that the connection was
    /// opened by, or in the server's entry that of the one to be assured; 0 is
    /// none.
    #[must_use]
    pub const fn template(&self) -> u32 {
        self.template
    }

    /// Notes the template.
    pub const fn set_template(&mut self, slot: u32) {
        self.template = slot;
    }

    /// The local port, and the number of the local address, of the client's
    /// entry of a FULLNAT connection.
    #[must_use]
    pub const fn local(&self) -> (u16, u16) {
        ((self.detail >> 16) as u16, self.detail as u16)
    }

    /// Notes the local port and the number of the local address.
    pub const fn set_local(&mut self, port: u16, number: u16) {
        self.detail = ((port as u32) << 16) | number as u32;
    }

    /// The number that the director gave the way to the client, in the server's
    /// entry of a connection whose server is not told the client's address; 0 is
    /// none.
    #[must_use]
    #[inline(always)]
    pub const fn way(&self) -> u32 {
        self.detail
    }

    /// Notes the number of the way to the client.
    pub const fn set_way(&mut self, number: u32) {
        self.detail = number;
    }

    /// The client's initial sequence number, in the server's entry.
    #[must_use]
    pub const fn initial_sequence(&self) -> u32 {
        self.detail
    }

    /// Notes the client's initial sequence number, of a stream whose PROXY
    /// header is still to be acknowledged.
    pub const fn set_initial_sequence(&mut self, sequence: u32) {
        self.detail = sequence;
        self.flags &= !PROXY_ACKED;
    }

    /// How the server of this connection is told the client's address.
    #[must_use]
    #[inline]
    pub const fn client_address(&self) -> ClientAddress {
        match self.flags & (TOA | PROXY) {
            0 => ClientAddress::None,
            TOA => ClientAddress::Toa,
            _ => ClientAddress::Proxy,
        }
    }

    /// Notes how the server is told the client's address.
    pub const fn set_client_address(&mut self, how: ClientAddress) {
        let bits = match how {
            ClientAddress::None => 0,
            ClientAddress::Toa => TOA,
            ClientAddress::Proxy => PROXY,
        };
        self.flags = (self.flags & !(TOA | PROXY)) | bits;
    }

    /// Whether the server has acknowledged the PROXY header.
    #[must_use]
    pub const fn proxy_acked(&self) -> bool {
        self.flags & PROXY_ACKED != 0
    }

    /// Notes that it has.
    pub const fn set_proxy_acked(&mut self) {
        self.flags |= PROXY_ACKED;
    }
}

/// An IPv4 entry.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub struct Entry4 {
    key: Key4,
    body: Body,
    /// What NAT and FULLNAT make of addresses and ports, in the same family: as
    /// they stand in the packet.
    pub to: Key4,
    /// Difference that this makes to the IPv4 header checksum.
    pub ip_delta: u16,
    /// The same with one less of TTL, as [`checksum::bytes_after_bytes`] takes it.
    pub hop_delta: u16,
    reserved: [u16; 2],
}

impl Entry for Entry4 {
    type Key = Key4;
    const FAMILY: Family = Family::V4;

    #[inline]
    fn key(&self) -> Key4 {
        self.key
    }

    fn tuple(key: &Key4) -> Tuple {
        Tuple::V4(key.tuple())
    }

    #[inline]
    fn hash(key: &Key4, with: &HashKey) -> u64 {
        let [addresses, rest] = key.words();
        with.hash2(addresses, rest)
    }

    #[inline]
    fn body(&self) -> &Body {
        &self.body
    }

    #[inline]
    fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    fn new(key: Key4, body: Body) -> Self {
        Self { key, body, to: Key4::zeroed(), ip_delta: 0, hop_delta: 0, reserved: [0; 2] }
    }

    #[inline]
    fn rewritten(self, to: &Tuple) -> Self {
        let Tuple::V4(to) = *to else { return self };
        let Deltas { ip, l4: l4_delta } = nat::delta4(&self.key.tuple(), &to);
        let body = Body { l4_delta, ..self.body };
        let to = self.key.with(to);
        Self { to, ip_delta: ip, hop_delta: hop_delta(ip), body, ..self }
    }

    #[inline(always)]
    fn deltas(key: &Key4, answer: &Key4) -> Deltas {
        nat::delta4(&key.tuple(), &answer.tuple().reversed())
    }

    #[inline(always)]
    fn paired(key: Key4, answer: &Key4, body: Body, deltas: Deltas) -> Self {
        let body = Body { l4_delta: deltas.l4, ..body };
        let (to, ip_delta) = (answer.reversed(), deltas.ip);
        Self { key, body, to, ip_delta, hop_delta: hop_delta(ip_delta), reserved: [0; 2] }
    }

    #[inline]
    fn place(slot: Slot) -> Place {
        Place::V4(slot)
    }
}

/// [`Entry4::hop_delta`]: the word of TTL and protocol falls by 0x0100 (RFC 1624,
/// section 3).
#[inline(always)]
fn hop_delta(ip_delta: u16) -> u16 {
    checksum::fold(u64::from(ip_delta) + u64::from(!0x0100_u16)).to_be()
}

/// An IPv6 entry. What NAT and FULLNAT make of the addresses comes from the
/// server's record, or from the twin.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub struct Entry6 {
    key: Key6,
    body: Body,
}

impl Entry for Entry6 {
    type Key = Key6;
    const FAMILY: Family = Family::V6;

    #[inline]
    fn key(&self) -> Key6 {
        self.key
    }

    fn tuple(key: &Key6) -> Tuple {
        Tuple::V6(key.tuple())
    }

    #[inline]
    fn hash(key: &Key6, with: &HashKey) -> u64 {
        with.hash5(key.words())
    }

    #[inline]
    fn body(&self) -> &Body {
        &self.body
    }

    #[inline]
    fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    fn new(key: Key6, body: Body) -> Self {
        Self { key, body }
    }

    #[inline]
    fn rewritten(self, to: &Tuple) -> Self {
        let Tuple::V6(to) = to else { return self };
        let l4_delta = nat::delta6(&self.key.tuple(), to);
        Self { body: Body { l4_delta, ..self.body }, ..self }
    }

    #[inline]
    fn deltas(key: &Key6, answer: &Key6) -> Deltas {
        Deltas { ip: 0, l4: nat::delta6(&key.tuple(), &answer.tuple().reversed()) }
    }

    #[inline(always)]
    fn paired(key: Key6, _: &Key6, body: Body, deltas: Deltas) -> Self {
        Self { key, body: Body { l4_delta: deltas.l4, ..body } }
    }

    #[inline]
    fn place(slot: Slot) -> Place {
        Place::V6(slot)
    }
}

const _: () = assert!(size_of::<Entry4>() == 64 && size_of::<Entry6>() == 64);
const _: () = assert!(size_of::<Body>() == 24);
