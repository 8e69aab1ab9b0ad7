//! What the stages of [`Director::process`](super::Director::process) pass on:
//! a burst, what is known of each packet, and what becomes of it.

use super::short::Short;
use crate::conn::Slot;
use crate::counters::DropReason;
use crate::packet::headers::Plain;
use crate::packet::{Family, Frame, Headers, Key4, Key6};
use crate::snapshot::Snapshot;
use crate::time::Tick;

/// Most packets in a burst.
pub const BURST: usize = 64;

/// What becomes of a packet. Drops are already counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it as it now is.
    Send {
        /// The port's index. A VLAN's is not that of its device.
        port: u8,
    },
    /// Give it to the kernel, as if it had come in by its port
    /// ([`Frame::port`]).
    Punt,
    /// Give it to the worker that owns its connection.
    Handoff {
        /// The worker's index.
        worker: u8,
        /// What that worker is to know.
        handed: Handed,
    },
    /// Free it: its bytes live on in the outbox or in the fragment table, and
    /// are counted there.
    Absorbed,
    /// Free it.
    Drop(DropReason),
}

/// What a worker tells another with a packet that it hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handed {
    /// Where the packet may have several owners: the place of the next one, in
    /// the order in which they are asked. 0 until one was asked in vain.
    pub candidate: u16,
    /// Of a fragment: the ports of its datagram, source and destination.
    pub ports: Option<(u16, u16)>,
}

/// What was read of a plain packet when its owner was looked for: the owner
/// does not read it again. Of other packets nothing ([`Reading::default`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Of the packet's key, in any worker's table of its family.
    pub(super) hash: u64,
    /// Length of the IP packet.
    pub(super) ip_len: u16,
    /// As [`Plain::tcp_flags`].
    pub(super) tcp_flags: u8,
    /// [`IPV4`] or [`IPV6`]; 0 where nothing was read.
    pub(super) family: u8,
}

pub(super) const IPV4: u8 = 4;
pub(super) const IPV6: u8 = 6;

/// Whence a burst came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A port's receive queue. Packets may belong to other workers.
    Port,
    /// Another worker, which found that this one owns the packets.
    Handoff,
}

/// What is the same for all packets of a burst.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) now: Tick,
    pub(super) snapshot: &'a Snapshot,
}

/// A burst on its way through the stages.
pub(super) struct Burst<'b, 'f> {
    pub(super) source: Source,
    pub(super) frames: &'b mut [Frame<'f>],
    pub(super) verdicts: &'b mut [Verdict],
    pub(super) staged: &'b mut [Staged],
    /// Of packets that go the long way. Others' are in `staged`.
    pub(super) headers: &'b mut [Headers],
}

/// A packet between two stages: one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Staged {
    /// Of the packet's key, in its family's table.
    pub(super) hash: u64,
    /// The key, of a packet on the short way. That of IPv4 has two words.
    pub(super) key: [u64; 5],
    /// Where its entry is, most likely.
    pub(super) slot: Slot,
    /// Its home group, as it was at the end of stage 1: where the table has
    /// grown since, the look-up finds the right one.
    pub(super) home: u32,
    pub(super) kind: Kind,
    pub(super) tcp_flags: u8,
    /// Length of the IP packet; [`NOT_PLAIN`] of one that is too uncommon for
    /// the short way, as an option or a VLAN tag makes it.
    pub(super) ip_len: u16,
}

/// Longer than what fits through any port.
pub(super) const NOT_PLAIN: u16 = u16::MAX;

const _: () = assert!(size_of::<Staged>() == 64);

/// What stage 1 makes of a packet.
/// The first three of a family stand together: one comparison tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Plain IPv4, for which the short way may do.
    Short4,
    /// Plain IPv4 that may open a connection.
    First4,
    /// IPv4 that may belong to a connection of this worker.
    Flow4,
    /// As `Short4`, of IPv6.
    Short6,
    /// As `First4`, of IPv6.
    First6,
    /// As `Flow4`, of IPv6.
    Flow6,
    /// Of no connection, as stage 2 found out.
    New,
    /// The same of plain IPv4, whose headers are not put together.
    New4,
    /// The same of IPv6.
    New6,
    /// An ICMP error about a packet that may.
    IcmpError,
    /// It is decided.
    Decided,
}

impl Kind {
    /// Whether packets of this kind may have an entry in the table of a family.
    #[inline(always)]
    pub(super) fn is_flow_of<E: Short>(self) -> bool {
        (E::SHORT as u8..E::SHORT as u8 + 3).contains(&(self as u8))
    }
}

impl Staged {
    pub(super) const NONE: Self = Self {
        hash: 0,
        key: [0; 5],
        slot: Slot::from_number(0),
        home: 0,
        kind: Kind::Decided,
        tcp_flags: 0,
        ip_len: 0,
    };

    #[inline(always)]
    pub(super) fn set_key4(&mut self, key: Key4) {
        [self.key[0], self.key[1]] = key.words();
    }

    #[inline(always)]
    pub(super) fn key4(&self) -> Key4 {
        bytemuck::must_cast([self.key[0], self.key[1]])
    }

    #[inline(always)]
    pub(super) fn key6(&self) -> Key6 {
        bytemuck::must_cast(self.key)
    }

    /// The family of its connection; `None` where only its headers tell.
    pub(super) const fn family(&self) -> Option<Family> {
        match self.kind {
            Kind::Short4 | Kind::First4 | Kind::New4 | Kind::Flow4 => Some(Family::V4),
            Kind::Short6 | Kind::First6 | Kind::New6 | Kind::Flow6 => Some(Family::V6),
            Kind::New | Kind::IcmpError | Kind::Decided => None,
        }
    }

    /// The headers of a plain packet.
    pub(super) fn headers(&self, family: Family) -> Headers {
        let Self { tcp_flags, ip_len, .. } = *self;
        match family {
            Family::V4 => Plain { key: self.key4(), tcp_flags, ip_len }.into(),
            Family::V6 => Plain { key: self.key6(), tcp_flags, ip_len }.into(),
        }
    }

    /// Goes the long way instead of the short one.
    #[inline(never)]
    pub(super) fn take_the_long_way(&mut self, headers: &mut Headers) {
        let (family, long) = match self.kind {
            Kind::Short4 | Kind::First4 | Kind::New4 => (Family::V4, Kind::Flow4),
            Kind::Short6 | Kind::First6 | Kind::New6 => (Family::V6, Kind::Flow6),
            _ => return,
        };
        *headers = self.headers(family);
        self.kind = long;
    }
}
