//! What a connection's entry holds: fixed 64-byte layouts, one cache line, that
//! name servers by stable number and never by pointer.

use bytemuck::Zeroable;

use super::hash::HashKey;
use super::state::State;
use crate::packet::Protocol;
use crate::time::Tick;

/// An entry of a connection table. Implemented by [`Entry4`] and [`Entry6`].
pub trait Entry: Zeroable + Copy {
    /// What finds it: the client's packets' addresses, ports and protocol.
    type Key: Copy + Eq + std::fmt::Debug;

    /// The entry's key.
    fn key(&self) -> Self::Key;

    /// The table hash of a key.
    fn hash(key: &Self::Key, with: &HashKey) -> u64;

    /// What does not depend on the family.
    fn body(&self) -> &Body;

    /// The same, for changing.
    fn body_mut(&mut self) -> &mut Body;

    /// A new connection.
    fn new(key: Self::Key, body: Body) -> Self;
}

/// The part of an entry that both families share.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C)]
pub struct Body {
    /// The real server's number in the snapshot.
    pub server: u32,
    /// Tick of the last packet.
    last: u32,
    /// [`State`] as a number.
    state: u8,
    reserved: [u8; 3],
}

impl Body {
    /// The body of a connection to `server`, first seen now.
    #[must_use]
    pub const fn new(server: u32, state: State, now: Tick) -> Self {
        Self { server, last: now.0, state: state as u8, reserved: [0; 3] }
    }

    /// The connection's state.
    #[must_use]
    #[inline]
    pub const fn state(&self) -> State {
        State::from_u8(self.state)
    }

    /// Changes the state.
    pub const fn set_state(&mut self, state: State) {
        self.state = state as u8;
    }

    /// When the last packet came.
    #[must_use]
    #[inline]
    pub const fn last(&self) -> Tick {
        Tick(self.last)
    }

    /// Notes a packet.
    pub const fn set_last(&mut self, now: Tick) {
        self.last = now.0;
    }
}

/// The key of an IPv4 connection; addresses and ports as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct Key4 {
    /// Client address.
    pub cip: u32,
    /// Virtual address.
    pub vip: u32,
    /// Client port.
    pub cport: u16,
    /// Virtual port.
    pub vport: u16,
    /// IP protocol number. Wider than its byte so that the key has no padding.
    protocol: u32,
}

impl Key4 {
    /// A key.
    #[must_use]
    pub const fn new(protocol: Protocol, cip: u32, cport: u16, vip: u32, vport: u16) -> Self {
        Self { cip, vip, cport, vport, protocol: protocol as u32 }
    }

    /// The IP protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol as u8
    }
}

/// An IPv4 connection.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub struct Entry4 {
    key: Key4,
    body: Body,
    /// Room for the rewrite of NAT and FULLNAT.
    reserved: [u64; 4],
}

impl Entry for Entry4 {
    type Key = Key4;

    #[inline]
    fn key(&self) -> Key4 {
        self.key
    }

    #[inline]
    fn hash(key: &Key4, with: &HashKey) -> u64 {
        let addresses = (u64::from(key.cip) << 32) | u64::from(key.vip);
        let ports = (u64::from(key.cport) << 16) | u64::from(key.vport);
        with.hash2(addresses, ports | (u64::from(key.protocol) << 32))
    }

    fn body(&self) -> &Body {
        &self.body
    }

    fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    fn new(key: Key4, body: Body) -> Self {
        Self { key, body, reserved: [0; 4] }
    }
}

/// The key of an IPv6 connection; addresses in wire order, ports as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Zeroable)]
#[repr(C)]
pub struct Key6 {
    /// Client address.
    pub cip: [u8; 16],
    /// Virtual address.
    pub vip: [u8; 16],
    /// Client port.
    pub cport: u16,
    /// Virtual port.
    pub vport: u16,
    protocol: u32,
}

impl Key6 {
    /// A key.
    #[must_use]
    pub const fn new(
        protocol: Protocol,
        cip: [u8; 16],
        cport: u16,
        vip: [u8; 16],
        vport: u16,
    ) -> Self {
        Self { cip, vip, cport, vport, protocol: protocol as u32 }
    }

    /// The IP protocol number.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol as u8
    }
}

/// An IPv6 connection.
#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub struct Entry6 {
    key: Key6,
    body: Body,
    /// Room for the rewrite of NAT and FULLNAT, whose addresses come from the
    /// server's record.
    reserved: [u32; 3],
}

impl Entry for Entry6 {
    type Key = Key6;

    #[inline]
    fn key(&self) -> Key6 {
        self.key
    }

    #[inline]
    fn hash(key: &Key6, with: &HashKey) -> u64 {
        let [cip_high, cip_low] = halves(&key.cip);
        let [vip_high, vip_low] = halves(&key.vip);
        let ports = (u64::from(key.cport) << 16) | u64::from(key.vport);
        with.hash5([cip_high, cip_low, vip_high, vip_low, ports | (u64::from(key.protocol) << 32)])
    }

    fn body(&self) -> &Body {
        &self.body
    }

    fn body_mut(&mut self) -> &mut Body {
        &mut self.body
    }

    fn new(key: Key6, body: Body) -> Self {
        Self { key, body, reserved: [0; 3] }
    }
}

fn halves(address: &[u8; 16]) -> [u64; 2] {
    let value = u128::from_ne_bytes(*address);
    [(value >> 64) as u64, value as u64]
}

const _: () = assert!(size_of::<Entry4>() == 64 && size_of::<Entry6>() == 64);
