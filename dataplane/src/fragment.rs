//! Fragments, forwarded without being put together.
//!
//! Only a datagram's first fragment (offset 0) has ports. All fragments of a
//! datagram come to the worker that owns its two addresses; that worker learns
//! the ports from the first one and tells every other fragment its ports.
//! Fragments that come before the first are held: copied, and let go when the
//! first one comes.
//!
//! Nothing here grows, and nothing is ever refused for want of room: what is
//! new takes the place of what is oldest. A datagram's fragments follow each
//! other within milliseconds, so that a flood harms one only if it brings as
//! many datagrams as the table has room for between two of its fragments.
//! Refusing would let anyone who fills the table once keep everybody out until
//! its entries time out. Ports are found by a keyed hash, so nobody outside can
//! aim at one part of the table.
//!
//! What ports count when several first fragments come under one id: a first
//! fragment always goes by its own, so that what is decided about ports (which
//! service, which access list) is decided about those that it carries; later
//! fragments go by the last first one that came. That is what a sender needs
//! who uses its 16-bit ids again within the timeout (2,200 datagrams a second).

use crate::conn::HashKey;
use crate::counters::DropReason;
use crate::packet::headers::{Addresses, chunk_type};
use crate::packet::{Frame, Headers, Protocol};
use crate::time::{TICKS_PER_SECOND, Tick};

/// Datagrams that a worker knows the ports of, usually: 256 KiB.
pub const DATAGRAMS: usize = 4_096;
/// Fragments that a worker holds at most: 512 KiB.
pub const HELD: usize = 256;
/// Longest frame that is held, bytes: all of those from networks without jumbo
/// frames.
pub const HELD_FRAME: usize = 2_048;

/// How long ports are known after the first fragment, as long as Linux waits
/// for a datagram (`ipfrag_time`, `ip6frag_time`).
const KNOWN_TICKS_4: u32 = 30 * TICKS_PER_SECOND;
const KNOWN_TICKS_6: u32 = 60 * TICKS_PER_SECOND;
/// How long a fragment is held. Fragments overtake each other by milliseconds,
/// on paths of different lengths by some hundred; a first fragment that comes
/// later than this was not overtaken but lost. Shorter than the kernel's 30 s,
/// because held fragments take the place of others.
const HELD_TICKS: u32 = TICKS_PER_SECOND;
/// Datagrams among which a new one takes the place of the oldest.
const WAYS: usize = 8;
/// Held fragments that one call of [`Fragments::expire`] looks at.
const EXPIRE_STEP: usize = 64;

/// What the fragments of one datagram have in common (RFC 791, section 3.2;
/// RFC 8200, section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FragmentKey {
    /// Source and destination.
    pub addresses: Addresses,
    /// The protocol.
    pub protocol: Protocol,
    /// The identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
}

impl FragmentKey {
    fn hash(&self, with: &HashKey) -> u64 {
        let rest = (u64::from(self.protocol as u8) << 32) | u64::from(self.id);
        match &self.addresses {
            Addresses::V4 { src, dst } => {
                with.hash2((u64::from(*src) << 32) | u64::from(*dst), rest)
            }
            Addresses::V6 { src, dst } => {
                let (src, dst) = (u128::from_ne_bytes(*src), u128::from_ne_bytes(*dst));
                let halves = |a: u128| [(a >> 64) as u64, a as u64];
                let ([a, b], [c, d]) = (halves(src), halves(dst));
                with.hash5([a, b, c, d, rest])
            }
        }
    }

    const fn known_ticks(&self) -> u32 {
        match self.addresses {
            Addresses::V4 { .. } => KNOWN_TICKS_4,
            Addresses::V6 { .. } => KNOWN_TICKS_6,
        }
    }
}

/// The ports of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Source port.
    pub src: u16,
    /// Destination port.
    pub dst: u16,
}

/// A fragment as its headers tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The datagram that it is of.
    pub key: FragmentKey,
    /// What only the first fragment tells.
    pub first: Option<First>,
}

/// What the first fragment tells about its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct First {
    /// The ports.
    pub ports: Ports,
    /// As [`Headers::tcp_flags`].
    pub tcp_flags: u8,
}

impl Fragment {
    /// Reads the fragmentation fields, and in the first fragment the ports, of
    /// a frame with these `headers`, which say that it is a fragment.
    ///
    /// # Errors
    /// [`DropReason::L4Truncated`] when the first fragment does not hold the
    /// whole TCP, UDP or SCTP header (without TCP options), of which forwarding
    /// reads and writes the checksum. No stack sends such; RFC 1858, section 3
    /// advises to drop them.
    pub fn parse(bytes: &[u8], headers: &Headers) -> Result<Self, DropReason> {
        let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
        let (id, offset) = match headers.addresses {
            Addresses::V4 { .. } => {
                let [a, b, c, d] = chunk(bytes, l3 + 4)?;
                (u32::from_be_bytes([0, 0, a, b]), u16::from_be_bytes([c, d]) & 0x1fff)
            }
            // Parsing stops at the fragment header, so it is what the payload
            // follows, whatever other extension headers come before it.
            Addresses::V6 { .. } => {
                let [_, _, offset_high, offset_low, id @ ..] =
                    chunk::<8>(bytes, l4.saturating_sub(8))?;
                (u32::from_be_bytes(id), u16::from_be_bytes([offset_high, offset_low]) & 0xfff8)
            }
        };
        let key = FragmentKey { addresses: headers.addresses, protocol: headers.protocol, id };
        if offset != 0 {
            return Ok(Self { key, first: None });
        }
        let header_len = headers.protocol.header_len();
        let end = bytes.len().min(l3 + usize::from(headers.ip_len));
        let header = bytes.get(l4..end).filter(|payload| payload.len() >= header_len);
        let header = header.ok_or(DropReason::L4Truncated)?;
        let ports = Ports {
            src: u16::from_be_bytes([header[0], header[1]]),
            dst: u16::from_be_bytes([header[2], header[3]]),
        };
        let tcp_flags = match headers.protocol {
            Protocol::Tcp => header[13],
            Protocol::Udp => 0,
            Protocol::Sctp => chunk_type(header),
        };
        Ok(Self { key, first: Some(First { ports, tcp_flags }) })
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], DropReason> {
    let found = bytes.get(at..).and_then(<[u8]>::first_chunk);
    found.copied().ok_or(DropReason::L4Truncated)
}

/// What is to happen to a fragment that is not its datagram's first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// Forward it as a packet with these ports.
    Known(Ports),
    /// It was copied and is held: forget the frame.
    Held,
    /// It cannot be held, being longer than [`HELD_FRAME`] or in several
    /// segments: drop it ([`DropReason::FragmentTableFull`]).
    TooLong,
}

/// Held fragments that were lost, to be counted as dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Their first fragment did not come ([`DropReason::FragmentTimeout`]).
    pub timed_out: u64,
    /// Newer ones took their place ([`DropReason::FragmentTableFull`]).
    pub displaced: u64,
}

/// The datagrams of which one worker knows the ports or holds fragments.
#[derive(Debug)]
pub struct Fragments {
    hash_key: HashKey,
    /// Sets of [`WAYS`], chosen by the hash.
    datagrams: Box<[Datagram]>,
    held: Held,
    /// Datagrams so far, wrapping: says which is older.
    count: u32,
    displaced: u64,
}

#[derive(Debug, Clone, Copy)]
struct Datagram {
    key: FragmentKey,
    state: State,
    /// [`Fragments::count`] when it began.
    born: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No datagram.
    Free,
    /// The first fragment came.
    Known { ports: Ports, until: Tick },
    /// It did not yet: the fragments held, in the order in which they came.
    Holding { oldest: u32, newest: u32 },
}

impl Datagram {
    const FREE: Self = Self {
        key: FragmentKey {
            addresses: Addresses::V4 { src: 0, dst: 0 },
            protocol: Protocol::Tcp,
            id: 0,
        },
        state: State::Free,
        born: 0,
    };

    /// Whether a new datagram may take the place without any loss.
    fn is_over(&self, now: Tick) -> bool {
        match self.state {
            State::Free => true,
            State::Known { until, .. } => until <= now,
            State::Holding { .. } => false,
        }
    }
}

const _: () = assert!(size_of::<Datagram>() <= 64);

impl Fragments {
    /// Room for the ports of so many datagrams, rounded up to sets of 8 (at
    /// least one), and for so many held fragments (at least one).
    #[must_use]
    pub fn new(datagrams: usize, held: usize, hash_key: HashKey) -> Self {
        let sets = datagrams.div_ceil(WAYS).max(1);
        Self {
            hash_key,
            datagrams: vec![Datagram::FREE; sets * WAYS].into_boxed_slice(),
            held: Held::new(held.max(1)),
            count: 0,
            displaced: 0,
        }
    }

    /// Learns the ports of a datagram from its first fragment. `release` gets
    /// the fragments that were held for it, each with the port that it came by,
    /// in the order in which they came.
    pub fn learn(
        &mut self,
        now: Tick,
        key: &FragmentKey,
        ports: Ports,
        mut release: impl FnMut(&[u8], u8),
    ) {
        let index = self.find(key).unwrap_or_else(|| self.claim(now, key));
        let datagram = &mut self.datagrams[index];
        let known = State::Known { ports, until: now.plus(key.known_ticks()) };
        let before = std::mem::replace(&mut datagram.state, known);
        // A datagram under an id that was used before is new.
        self.count = self.count.wrapping_add(1);
        datagram.born = self.count;
        if let State::Holding { oldest, .. } = before {
            self.held.take_chain(oldest, |bytes, port| release(bytes, port));
        }
    }

    /// Says what is to happen to a fragment that is not the first, and holds it
    /// where its ports are not known.
    pub fn later(&mut self, now: Tick, key: &FragmentKey, frame: &Frame<'_>) -> Later {
        if let Some(index) = self.find(key) {
            match self.datagrams[index].state {
                State::Known { ports, until } if now < until => return Later::Known(ports),
                State::Known { .. } => self.datagrams[index].state = State::Free,
                State::Free | State::Holding { .. } => {}
            }
        }
        if frame.len() > HELD_FRAME || frame.total_len() != frame.len() {
            return Later::TooLong;
        }
        if self.held.is_full() {
            self.drop_oldest();
            self.displaced += 1;
        }
        let index = self.find(key).unwrap_or_else(|| self.claim(now, key));
        let slot = self.held.push(index, now.plus(HELD_TICKS), frame);
        let state = &mut self.datagrams[index].state;
        *state = match *state {
            State::Holding { oldest, newest } => {
                self.held.slots[newest as usize].next_of_datagram = slot;
                State::Holding { oldest, newest: slot }
            }
            State::Free | State::Known { .. } => State::Holding { oldest: slot, newest: slot },
        };
        Later::Held
    }

    /// Drops held fragments whose time is up, at most 64 in a call, and says
    /// how many were lost since the last call.
    pub fn expire(&mut self, now: Tick) -> Lost {
        let mut timed_out = 0;
        while timed_out < EXPIRE_STEP as u64 && self.held.oldest_until().is_some_and(|t| t <= now) {
            self.drop_oldest();
            timed_out += 1;
        }
        Lost { timed_out, displaced: std::mem::take(&mut self.displaced) }
    }

    /// How many fragments are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.count
    }

    /// The indices at which a datagram may be.
    fn set(&self, key: &FragmentKey) -> std::ops::Range<usize> {
        let sets = (self.datagrams.len() / WAYS) as u64;
        // The hash's upper half as a fraction of the number of sets.
        let set = (((key.hash(&self.hash_key) >> 32) * sets) >> 32) as usize;
        set * WAYS..(set + 1) * WAYS
    }

    fn find(&self, key: &FragmentKey) -> Option<usize> {
        self.set(key).find(|&index| {
            let datagram = &self.datagrams[index];
            datagram.state != State::Free && datagram.key == *key
        })
    }

    /// A place for a datagram that has none, without a state yet: a free one,
    /// else the oldest's, whose held fragments are lost.
    fn claim(&mut self, now: Tick, key: &FragmentKey) -> usize {
        let set = self.set(key);
        let age = |index: usize| match &self.datagrams[index] {
            datagram if datagram.is_over(now) => u64::MAX,
            datagram => u64::from(self.count.wrapping_sub(datagram.born)),
        };
        let index = set.clone().max_by_key(|&index| age(index)).unwrap_or(set.start);
        if let State::Holding { oldest, .. } = self.datagrams[index].state {
            self.displaced += self.held.take_chain(oldest, |_, _| {});
        }
        self.count = self.count.wrapping_add(1);
        self.datagrams[index] = Datagram { key: *key, state: State::Free, born: self.count };
        index
    }

    /// Drops the fragment that is held longest. It is its datagram's oldest,
    /// too; a datagram of which no other is held is forgotten.
    fn drop_oldest(&mut self) {
        let Some((index, next)) = self.held.take_oldest() else { return };
        let state = &mut self.datagrams[index].state;
        *state = match *state {
            State::Holding { newest, .. } if next != NONE => {
                State::Holding { oldest: next, newest }
            }
            _ => State::Free,
        };
    }
}

/// No slot.
const NONE: u32 = u32::MAX;

/// The held fragments: frames in memory that is allocated once, on one list in
/// the order in which they came, and on one for each datagram.
#[derive(Debug)]
struct Held {
    memory: Box<[u8]>,
    slots: Box<[HeldSlot]>,
    count: usize,
    oldest: u32,
    newest: u32,
    /// Slots not in use, chained by `next`.
    free: u32,
}

#[derive(Debug, Clone, Copy)]
struct HeldSlot {
    /// When its time is up. All are held equally long, so the list of all is
    /// in this order, too.
    until: Tick,
    /// Index of its datagram.
    datagram: u32,
    previous: u32,
    next: u32,
    next_of_datagram: u32,
    len: u16,
    port: u8,
}

impl Held {
    fn new(slots: usize) -> Self {
        let slot = |index: usize| HeldSlot {
            until: Tick(0),
            datagram: 0,
            previous: NONE,
            next: if index + 1 < slots { index as u32 + 1 } else { NONE },
            next_of_datagram: NONE,
            len: 0,
            port: 0,
        };
        Self {
            memory: vec![0; slots * HELD_FRAME].into_boxed_slice(),
            slots: (0..slots).map(slot).collect(),
            count: 0,
            oldest: NONE,
            newest: NONE,
            free: 0,
        }
    }

    fn is_full(&self) -> bool {
        self.free == NONE
    }

    fn oldest_until(&self) -> Option<Tick> {
        self.slots.get(self.oldest as usize).map(|slot| slot.until)
    }

    /// Copies a frame of at most [`HELD_FRAME`] bytes into a free slot, of
    /// which there is one.
    fn push(&mut self, datagram: usize, until: Tick, frame: &Frame<'_>) -> u32 {
        let index = self.free;
        let start = index as usize * HELD_FRAME;
        self.memory[start..start + frame.len()].copy_from_slice(frame.bytes());
        let slot = &mut self.slots[index as usize];
        self.free = slot.next;
        *slot = HeldSlot {
            until,
            datagram: datagram as u32,
            previous: self.newest,
            next: NONE,
            next_of_datagram: NONE,
            len: frame.len() as u16,
            port: frame.port,
        };
        match self.slots.get_mut(self.newest as usize) {
            Some(newest) => newest.next = index,
            None => self.oldest = index,
        }
        self.newest = index;
        self.count += 1;
        index
    }

    /// Takes out the oldest: its datagram's index, and the datagram's next
    /// fragment.
    fn take_oldest(&mut self) -> Option<(usize, u32)> {
        let slot = *self.slots.get(self.oldest as usize)?;
        self.free(self.oldest);
        Some((slot.datagram as usize, slot.next_of_datagram))
    }

    /// Takes out all fragments of a datagram from its `oldest` on; how many
    /// there were.
    fn take_chain(&mut self, oldest: u32, mut each: impl FnMut(&[u8], u8)) -> u64 {
        let mut taken = 0;
        let mut index = oldest;
        while let Some(&HeldSlot { len, port, next_of_datagram, .. }) =
            self.slots.get(index as usize)
        {
            let start = index as usize * HELD_FRAME;
            each(&self.memory[start..start + usize::from(len)], port);
            self.free(index);
            taken += 1;
            index = next_of_datagram;
        }
        taken
    }

    /// Takes a slot out of the list of all.
    fn free(&mut self, index: u32) {
        let HeldSlot { previous, next, .. } = self.slots[index as usize];
        match self.slots.get_mut(previous as usize) {
            Some(slot) => slot.next = next,
            None => self.oldest = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(slot) => slot.previous = previous,
            None => self.newest = previous,
        }
        self.slots[index as usize].next = self.free;
        self.free = index;
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests;
