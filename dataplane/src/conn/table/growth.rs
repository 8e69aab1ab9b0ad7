//! How a table grows: in place, from one size to twice that, by splitting its
//! groups one after another.
//!
//! A split moves the connections of one group whose hash says so to a new group
//! behind the last; the others stay. It is done by insertions, one for every
//! few, so that the table has doubled before it is full however fast
//! connections come; and by housekeeping, some in every round. Look-ups,
//! removals and the sweep need not know of it.
//!
//! Loads at which things happen, in sixteenths of the slots:
//!
//! ```text
//!  6  the memory for the next doubling is asked for
//!  8  doubling begins, or later, when that is there
//! 11  doubling begins in any case, unless the machine has no memory
//! 12  it is to be done
//! ```
//!
//! The last groups to be split are the fullest: the later it is done, the longer
//! the chains of full groups among them (`MAX_PROBES`).
//!
//! Without memory the table fills up: then it refuses connections, as at its
//! limit, until there is some.

use super::{Due, Entry, MAX_PROBES, NEAR_GROUPS, SLOTS, Slot, TAIL, Table};
use crate::conn::memory::prefetch_l2;

/// Sixteenths of the slots.
const ASK: usize = 6;
const BEGIN: usize = 8;
const LATE: usize = 11;
pub(super) const DONE: usize = 12;

/// What a table does about its growth.
#[derive(Debug)]
pub(super) struct Growth {
    /// The most homes that it can have.
    pub(super) most: usize,
    phase: Phase,
    /// Connections from which on insertions have something to do about it.
    due: usize,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// It has room.
    Settled,
    /// It waits for memory.
    Asked,
    /// It doubles: since it had `began` connections, one split for `every` more.
    Doubling { began: usize, every: usize },
}

impl Growth {
    pub(super) fn new(most: usize) -> Self {
        Self { most, phase: Phase::Settled, due: usize::MAX }
    }
}

/// A group whose connections are being split.
#[derive(Debug)]
pub(in crate::conn) struct Split {
    /// The home that they had, and the one that some of them get.
    pub(super) from: usize,
    pub(super) to: usize,
    /// The slots that move, of each group from `from` on.
    moving: [u16; MAX_PROBES],
    /// The group that is the next to be looked at, from `from` on.
    at: usize,
}

impl<E: Entry> Table<E> {
    /// Whether the next insertion should split groups first.
    #[inline]
    pub(in crate::conn) fn is_growth_due(&self) -> bool {
        self.live >= self.growth.due
    }

    /// Whether the table is between two sizes.
    #[must_use]
    pub fn is_doubling(&self) -> bool {
        matches!(self.growth.phase, Phase::Doubling { .. })
    }

    /// Does what is due about growth. A split is for the caller to carry out
    /// with [`Table::move_next`], until there is no more.
    pub(in crate::conn) fn grow(&mut self) -> Option<Split> {
        match self.growth.phase {
            Phase::Settled => {
                let groups = 2 * self.homes.count() + TAIL;
                self.groups.ask(groups);
                self.entries.ask(groups * SLOTS);
                self.growth.phase = Phase::Asked;
                self.growth.due = self.load(BEGIN);
                None
            }
            Phase::Asked => {
                let groups = 2 * self.homes.count() + TAIL;
                let can_wait = self.live < self.load(LATE);
                if !(self.groups.extend(groups, can_wait)
                    && self.entries.extend(groups * SLOTS, can_wait))
                {
                    self.growth.due = (self.live + SLOTS).min(self.load(LATE));
                    return None;
                }
                let room = self.load(DONE).saturating_sub(self.live);
                let every = (room / self.homes.count()).max(1);
                self.growth.phase = Phase::Doubling { began: self.live, every };
                self.homes.double();
                self.split()
            }
            Phase::Doubling { .. } => self.split(),
        }
    }

    /// Begins to split the next group. `None` when its connections find no
    /// room: it is tried again with the next insertion.
    fn split(&mut self) -> Option<Split> {
        let (from, to) = self.homes.split();
        let mut split = Split { from, to, moving: [0; MAX_PROBES], at: 0 };
        let mut count = 0;
        for (moving, group) in split.moving.iter_mut().zip(from..) {
            let control = self.groups[group];
            for slot in (Due { group, slots: control.used() }) {
                let hash = self.hash(&self.entries[slot.0 as usize].key());
                if self.home(hash) == to {
                    *moving |= 1 << slot.index();
                    count += 1;
                    self.prefetch_twin(slot);
                }
            }
            if control.overflow() == 0 {
                break;
            }
        }
        if !self.has_room(to, count) {
            self.homes.unsplit();
            return None;
        }
        if self.outdated > 0 {
            // One group more to ask.
            self.outdated += 1;
        }
        self.splits_on();
        self.prefetch_split(from + 1, to + 1);
        Some(split)
    }

    /// The other entry of the connection is to hear of the move.
    fn prefetch_twin(&self, slot: Slot) {
        let twin = self.entries[slot.0 as usize].body().twin(E::FAMILY);
        if let Some(twin) = twin.filter(|twin| twin.family() == E::FAMILY) {
            prefetch_l2(&self.entries[twin.slot().0 as usize]);
        }
    }

    /// Asks for what the next split is about.
    fn prefetch_split(&self, from: usize, to: usize) {
        for entry in &self.entries[from * SLOTS..(from + 1) * SLOTS] {
            prefetch_l2(entry);
        }
        for entry in &self.entries[to * SLOTS..to * SLOTS + SLOTS / 2] {
            prefetch_l2(entry);
        }
    }

    /// Whether so many connections with one home find room there.
    fn has_room(&self, home: usize, count: u32) -> bool {
        let mut room = 0;
        for group in &self.groups[home..home + MAX_PROBES] {
            room += group.free().count_ones();
            if room >= count {
                return true;
            }
            if u32::from(group.overflow()) + count > u32::from(u8::MAX) {
                return false;
            }
        }
        false
    }

    /// Notes when the next split is due, or the end of the doubling.
    fn splits_on(&mut self) {
        if !self.homes.is_doubling() {
            self.settle();
        } else if let Phase::Doubling { began, every } = self.growth.phase {
            self.growth.due = began + self.homes.done() * every;
        }
    }

    /// The table has the size that it keeps for now.
    pub(super) fn settle(&mut self) {
        let groups = self.homes.count();
        self.near = groups <= NEAR_GROUPS;
        self.growth.phase = Phase::Settled;
        self.growth.due = if groups < self.growth.most { self.load(ASK) } else { usize::MAX };
    }

    /// Connections at so many sixteenths of the slots.
    fn load(&self, sixteenths: usize) -> usize {
        self.homes.count() * SLOTS * sixteenths / 16
    }

    /// Moves the next connection of a split, if there is one left. Where it is
    /// now: the other entry of the connection has to hear of it before anything
    /// else happens.
    pub(in crate::conn) fn move_next(&mut self, split: &mut Split) -> Option<Slot> {
        let moving = loop {
            match split.moving.get_mut(split.at)? {
                0 => split.at += 1,
                moving => break moving,
            }
        };
        let old = Slot::of(split.from + split.at, moving.trailing_zeros() as usize);
        *moving &= *moving - 1;
        let entry = self.entries[old.0 as usize];
        let hash = self.hash(&entry.key());
        // There is: `split` has looked, and nothing was inserted since.
        let (group, index) = self.free_slot(split.to)?;
        let new = self.occupy(hash, split.to, group, index);
        self.entries[new.0 as usize] = entry;
        // The sweep may have passed here, but not there: while it asks about
        // every connection, it asks about this one once more.
        self.groups[group].deadlines[index] = match self.outdated {
            0 => self.groups[old.group()].deadlines[old.index()],
            _ => self.swept,
        };
        self.vacate(split.from, old);
        Some(new)
    }
}
