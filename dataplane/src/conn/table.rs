//! The connection table: groups of 15 tags beside lines of 15 entries.
//!
//! ```text
//! groups    [tag x15 | overflow | deadline x15 | spare]     32 bytes a group
//! entries   [entry x15]                                     64 bytes an entry
//! ```
//!
//! - The hash chooses a connection's home group (`Homes`), its highest byte
//!   (never 0) is the tag; tag 0 marks a free slot.
//! - A full group sends an insertion on to the next one and counts it in
//!   `overflow`. A look-up ends at the first group whose overflow is 0, so a
//!   miss usually costs one line. Removing a connection takes the counts back:
//!   no tombstones, no pointers.
//! - Beside each tag lies a deadline (`deadline`): the second at which the
//!   connection may be over at the earliest, of one far ahead a coarser one. It
//!   is written when the entry's tick changes. The sweep compares deadlines of
//!   a whole group at once and touches an entry only when its deadline has
//!   passed; the entry decides.
//!
//! A hit touches the group's line and the entry's line, nothing else. The table
//! begins small and doubles in place, a group at a time (`growth`), until at
//! its limit it is 71 % full.

use arrayvec::ArrayVec;
use bytemuck::Zeroable;

use super::entry::Entry;
use super::hash::HashKey;
use super::memory::{Region, equal_bytes, prefetch_l2};
use crate::time::Tick;

mod deadline;
mod growth;
mod homes;

use deadline::{deadline, near, passed};
use growth::Growth;
use homes::Homes;

/// Slots in a group.
const SLOTS: usize = 15;
/// The bits of a match mask that are slots; the 16th byte is the overflow.
const SLOT_BITS: u16 = 0x7fff;
/// Where in a hash the tag is.
const TAG_SHIFT: u32 = 56;
/// Groups that a look-up or insertion goes through at most; past this the table
/// counts as full for the tuple, and another connection may have to go. At 80 %
/// load an insertion past the fourth is already rare, but tables are large: of 23
/// that took twenty million entries and doubled at 75 to 82 % load, one refused
/// six with 32. The chance falls with the power of this number.
const MAX_PROBES: usize = 64;
/// Groups behind its home group in which an entry is looked for ahead of time:
/// nearly all are there.
const NEXT_GROUPS: usize = 3;
/// Groups behind the last home, for what overflows there.
const TAIL: usize = MAX_PROBES - 1;
/// Groups of a new table, up to twice as many, if its limit wants more: 65,000
/// slots in 4 MB. Tests see tables grow, so debug builds begin as small as
/// possible: a group's entries must be nearer than its other half's.
const FIRST_GROUPS: usize = if cfg!(debug_assertions) { MAX_PROBES } else { 4370 };
/// Groups of a table whose lines had better go to the first-level cache: a
/// megabyte with the entries.
const NEAR_GROUPS: usize = 1024;
/// Groups that a sweep looks at by their entries at most: 20 µs of cache misses.
/// In debug builds a smallest table that has doubled, for tests that compare
/// step by step.
const OUTDATED_STEP: usize = if cfg!(debug_assertions) { 256 } else { 64 };
/// Groups in which a full table looks for a connection to give up: 60 entries.
const VICTIM_GROUPS: usize = 4;
/// The most homes that a table can have: slots are numbered below 2^31.
const MAX_GROUPS: usize = (u32::MAX / 4) as usize / SLOTS;

#[derive(Debug, Clone, Copy, Zeroable)]
#[repr(C, align(32))]
struct Group {
    /// 15 tags, and in the last byte the overflow count: loaded as one vector.
    tags: [u8; 16],
    /// 15 deadlines and a spare byte.
    deadlines: [u8; 16],
}

const _: () = assert!(size_of::<Group>() == 32);

impl Group {
    fn matches(&self, tag: u8) -> u16 {
        equal_bytes(&self.tags, tag) & SLOT_BITS
    }

    fn free(&self) -> u16 {
        self.matches(0)
    }

    fn used(&self) -> u16 {
        !self.free() & SLOT_BITS
    }

    fn overflow(&self) -> u8 {
        self.tags[SLOTS]
    }

    /// The used slots whose deadline has passed.
    #[inline]
    fn due(&self, now: Tick) -> u16 {
        passed(&self.deadlines, now) & !self.free() & SLOT_BITS
    }

    /// The used slots whose deadline is not later than `latest`, or not much.
    fn due_by(&self, now: Tick, latest: Tick) -> u16 {
        deadline::passed_by(&self.deadlines, now, latest) & !self.free() & SLOT_BITS
    }
}

/// Where an entry is. Valid until the entry is removed, or moves as its table
/// grows: see [`Tables::insert`](super::Tables::insert).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u32);

impl Slot {
    fn of(group: usize, slot: usize) -> Self {
        Self((group * SLOTS + slot) as u32)
    }

    /// Its number, below 2^31.
    #[must_use]
    pub(super) const fn number(self) -> u32 {
        self.0
    }

    /// The slot with this number.
    #[must_use]
    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }

    fn group(self) -> usize {
        self.0 as usize / SLOTS
    }

    fn index(self) -> usize {
        self.0 as usize % SLOTS
    }
}

/// A new connection found no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFull;

/// A connection table of one worker and family.
#[derive(Debug)]
pub struct Table<E: Entry> {
    groups: Region<Group>,
    entries: Region<E>,
    homes: Homes,
    hash_key: HashKey,
    /// Whether prefetches go to the first-level cache.
    near: bool,
    growth: Growth,
    live: usize,
    limit: usize,
    /// The group that the sweep looks at next; behind the last it begins anew.
    cursor: usize,
    /// Groups whose deadlines the sweep does not go by, because timeouts
    /// changed since they were written.
    outdated: usize,
    /// The time of the last sweep, as a deadline.
    swept: u8,
}

/// Some slots of a group.
#[derive(Debug, Clone, Copy)]
struct Due {
    group: usize,
    slots: u16,
}

impl Iterator for Due {
    type Item = Slot;

    #[inline]
    fn next(&mut self) -> Option<Slot> {
        if self.slots == 0 {
            return None;
        }
        let slot = self.slots.trailing_zeros() as usize;
        self.slots &= self.slots - 1;
        Some(Slot::of(self.group, slot))
    }
}

impl<E: Entry> Table<E> {
    /// A table for at most `limit` connections (at least 1).
    ///
    /// # Errors
    /// When there is not enough memory, or the limit is beyond 2^31.
    pub fn new(limit: usize, hash_key: HashKey) -> std::io::Result<Self> {
        Self::beginning_with(FIRST_GROUPS, limit, hash_key)
    }

    /// The same, with at least so many groups at first.
    fn beginning_with(first: usize, limit: usize, hash_key: HashKey) -> std::io::Result<Self> {
        let limit = limit.max(1);
        // 71 % load, and room for a probe to spread in the smallest table. At
        // 80 % one packet in twelve finds its entry beyond the home group, and
        // one in a table of a million costs a tenth more.
        let wanted = limit.saturating_add(limit / 5 * 2).div_ceil(SLOTS) + 1;
        if wanted > MAX_GROUPS {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        let (homes, most) = Homes::new(first, wanted);
        let mut table = Self {
            groups: Region::new(most + TAIL)?,
            entries: Region::new((most + TAIL) * SLOTS)?,
            homes,
            hash_key,
            near: false,
            growth: Growth::new(most),
            live: 0,
            limit,
            cursor: 0,
            outdated: 0,
            swept: 0,
        };
        table.settle();
        Ok(table)
    }

    /// Makes the pages that the table begins with, on the caller's NUMA node.
    pub fn prepare(&self) {
        self.groups.prepare();
        self.entries.prepare();
    }

    /// Connections in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Whether it holds as many as it may.
    #[must_use]
    pub fn is_at_limit(&self) -> bool {
        self.live >= self.limit
    }

    /// Whether the entries lie in reserved huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.entries.is_huge()
    }

    /// Number of groups, the unit of [`Table::sweep`] and [`Table::scan`]. It
    /// grows with the table; entries that move go to groups further on.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.homes.count() + TAIL
    }

    /// The hash of a key in this table. Its highest byte is not 0.
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &E::Key) -> u64 {
        let hash = E::hash(key, &self.hash_key);
        if hash >> TAG_SHIFT == 0 { with_a_tag(hash) } else { hash }
    }

    #[inline]
    fn home(&self, hash: u64) -> usize {
        self.homes.of(hash)
    }

    #[inline]
    fn tag(hash: u64) -> u8 {
        (hash >> TAG_SHIFT) as u8
    }

    /// First stage of a look-up: asks for the home group's line, and gives the
    /// group's number.
    #[inline(always)]
    pub fn prefetch_group(&self, hash: u64) -> u32 {
        let home = self.home(hash);
        self.groups.prefetch(home, self.near);
        home as u32
    }

    /// Second stage: asks for the line of the entry whose tag matches in the home
    /// group, and gives its slot: most likely the one, which [`Table::at`]
    /// tells. `None` where the tags leave it open, for [`Table::prefetch_rest`].
    #[must_use]
    #[inline(always)]
    pub fn prefetch_entry(&self, home: u32, hash: u64) -> Option<Slot> {
        let group = home as usize;
        let matches = u32::from(self.groups[group].matches(Self::tag(hash)));
        // One bit, no more.
        if matches & matches.wrapping_sub(1) != 0 || matches == 0 {
            return None;
        }
        let slot = Slot::of(group, matches.trailing_zeros() as usize);
        self.entries.prefetch(slot.0 as usize, self.near);
        Some(slot)
    }

    /// The second stage of the others: asks for the lines of all entries whose
    /// tag matches, and gives the first one's slot; where there is none, for
    /// that of the slot that an insertion would take, and for the group in which
    /// the search goes on. `None` when it ends here: the connection is not in
    /// the table.
    #[must_use]
    #[inline(always)]
    pub fn prefetch_rest(&self, home: u32, hash: u64) -> Option<Slot> {
        let group = home as usize;
        let control = &self.groups[group];
        let matches = control.matches(Self::tag(hash));
        if matches | u16::from(control.overflow()) == 0 {
            let free = control.free().trailing_zeros() as usize;
            self.entries.prefetch(group * SLOTS + free, self.near);
            return None;
        }
        let slots = match matches {
            0 => control.free() & control.free().wrapping_neg(),
            matches => matches,
        };
        for slot in (Due { group, slots }) {
            self.entries.prefetch(slot.0 as usize, self.near);
        }
        if control.overflow() != 0 {
            // Two groups lie in a line.
            self.groups.prefetch(group + 1, self.near);
            self.groups.prefetch(group + NEXT_GROUPS, self.near);
        }
        Some(Slot::of(group, (slots | 1 << (SLOTS - 1)).trailing_zeros() as usize))
    }

    /// The third stage of those: asks for the line of the entry whose tag
    /// matches in the groups behind the home group, if any does.
    #[inline(never)]
    pub fn prefetch_beyond(&self, home: u32, hash: u64) {
        let (home, tag) = (home as usize, Self::tag(hash));
        if self.groups[home].matches(tag) != 0 {
            return;
        }
        for group in home..home + NEXT_GROUPS {
            if self.groups[group].overflow() == 0 {
                return;
            }
            let slots = self.groups[group + 1].matches(tag);
            for slot in (Due { group: group + 1, slots }) {
                self.entries.prefetch(slot.0 as usize, self.near);
            }
            if slots != 0 {
                return;
            }
        }
    }

    /// Asks for the line of an entry whose slot is known.
    #[inline(always)]
    pub fn prefetch_at(&self, slot: Slot) {
        self.entries.prefetch(slot.0 as usize, self.near);
    }

    /// The first two stages at once, for what is a stage ahead anyway.
    #[inline]
    pub fn prefetch_found(&self, hash: u64) -> Option<Slot> {
        let home = self.home(hash) as u32;
        self.prefetch_entry(home, hash).or_else(|| self.prefetch_rest(home, hash))
    }

    /// Whether it takes no more connections.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.live >= self.limit
    }

    /// Asks for the lines of the entries that [`Table::victim`] looks at first.
    #[inline(never)]
    pub fn prefetch_victims(&self, hash: u64, now: Tick, latest: Tick) {
        let group = self.home(hash);
        for slot in (Due { group, slots: self.groups[group].due_by(now, latest) }) {
            prefetch_l2(self.entry(slot));
        }
    }

    /// The entry in this slot, if it is this connection's. Free slots have a key
    /// that no packet has, so that none that was removed or moved is found.
    #[must_use]
    #[inline(always)]
    pub fn at(&self, slot: Slot, key: &E::Key) -> Option<&E> {
        Some(&self.entries[slot.0 as usize]).filter(|entry| entry.key() == *key)
    }

    /// Asks for the lines of an entry and of its group.
    #[inline]
    pub fn prefetch_slot(&self, slot: Slot) {
        prefetch_l2(&self.entries[slot.0 as usize]);
        prefetch_l2(&self.groups[slot.group()]);
    }

    /// Finds a connection; `hash` is [`Table::hash`] of its key.
    #[must_use]
    #[inline]
    pub fn find(&self, hash: u64, key: &E::Key) -> Option<Slot> {
        let (home, tag) = (self.home(hash), Self::tag(hash));
        match self.find_in(home, tag, key) {
            None if self.groups[home].overflow() != 0 => self.find_beyond(home, tag, key),
            found => found,
        }
    }

    /// Finds a connection that is not in its home group.
    #[cold]
    fn find_beyond(&self, home: usize, tag: u8, key: &E::Key) -> Option<Slot> {
        for group in home + 1..home + MAX_PROBES {
            let found = self.find_in(group, tag, key);
            if found.is_some() || self.groups[group].overflow() == 0 {
                return found;
            }
        }
        None
    }

    #[inline(always)]
    fn find_in(&self, group: usize, tag: u8, key: &E::Key) -> Option<Slot> {
        let slots = self.groups[group].matches(tag);
        (Due { group, slots }).find(|slot| self.entries[slot.0 as usize].key() == *key)
    }

    /// Adds a connection that is not in the table, to be looked at by the
    /// sweep once `expiry` has passed. The entry is made where it stays: a copy
    /// of something just written would wait for the writes. Moves nothing; that
    /// what is due about growth happens before is the caller's part
    /// ([`Tables::make_room`](super::Tables::make_room)).
    ///
    /// # Errors
    /// [`TableFull`] at the limit, or when no group in reach has a free slot.
    #[inline(always)]
    pub fn insert(
        &mut self,
        hash: u64,
        now: Tick,
        expiry: Tick,
        entry: impl FnOnce() -> E,
    ) -> Result<Slot, TableFull> {
        let slot = self.take_slot(hash, now, expiry)?;
        self.entries[slot.0 as usize] = entry();
        Ok(slot)
    }

    #[inline(always)]
    fn take_slot(&mut self, hash: u64, now: Tick, expiry: Tick) -> Result<Slot, TableFull> {
        if self.is_full() {
            return Err(TableFull);
        }
        let home = self.home(hash);
        let control = &mut self.groups[home];
        let free = control.free();
        if free == 0 {
            return self.take_slot_beyond(hash, home, now, expiry);
        }
        let slot = free.trailing_zeros() as usize;
        control.tags[slot] = Self::tag(hash);
        control.deadlines[slot] = deadline(now, expiry);
        self.live += 1;
        Ok(Slot::of(home, slot))
    }

    /// The same where the home group is full.
    #[inline(never)]
    fn take_slot_beyond(
        &mut self,
        hash: u64,
        home: usize,
        now: Tick,
        expiry: Tick,
    ) -> Result<Slot, TableFull> {
        let (group, slot) = self.free_slot(home).ok_or(TableFull)?;
        let at = self.occupy(hash, home, group, slot);
        self.groups[group].deadlines[slot] = deadline(now, expiry);
        self.live += 1;
        Ok(at)
    }

    /// Marks a slot as used, by an entry with this hash and home.
    fn occupy(&mut self, hash: u64, home: usize, group: usize, slot: usize) -> Slot {
        for passed in &mut self.groups[home..group] {
            passed.tags[SLOTS] += 1;
        }
        self.groups[group].tags[slot] = Self::tag(hash);
        Slot::of(group, slot)
    }

    /// Marks a slot as free whose entry has this home.
    fn vacate(&mut self, home: usize, slot: Slot) {
        let group = slot.group();
        for passed in &mut self.groups[home..group] {
            passed.tags[SLOTS] -= 1;
        }
        self.groups[group].tags[slot.index()] = 0;
        // What `at` relies on.
        self.entries[slot.0 as usize] = E::zeroed();
    }

    /// The first free slot from `home` on, unless a full group on the way can
    /// not count one more passer-by.
    fn free_slot(&self, home: usize) -> Option<(usize, usize)> {
        for group in home..home + MAX_PROBES {
            let free = self.groups[group].free();
            if free != 0 {
                return Some((group, free.trailing_zeros() as usize));
            }
            if self.groups[group].overflow() == u8::MAX {
                return None;
            }
        }
        None
    }

    /// Removes a connection.
    #[inline]
    pub fn remove(&mut self, slot: Slot) {
        let group = slot.group();
        // Where nobody was sent on from the group before, it is at home. That
        // group is only asked where it lies in the same line.
        let home = if group % 2 == 1 && self.groups[group - 1].overflow() == 0 {
            group
        } else {
            self.home(self.hash(&self.entries[slot.0 as usize].key()))
        };
        self.vacate(home, slot);
        self.live -= 1;
    }

    /// [`Table::remove`] for the sweep, which has the lines of the groups before:
    /// where nobody was sent on from the last one, the entry is at home, and its
    /// hash need not be known.
    #[inline(always)]
    pub fn remove_swept(&mut self, slot: Slot) {
        let group = slot.group();
        if group > 0 && self.groups[group - 1].overflow() != 0 {
            return self.remove(slot);
        }
        self.groups[group].tags[slot.index()] = 0;
        // What `at` relies on.
        self.entries[slot.0 as usize] = E::zeroed();
        self.live -= 1;
    }

    /// The entry in a slot.
    #[must_use]
    #[inline]
    pub fn entry(&self, slot: Slot) -> &E {
        &self.entries[slot.0 as usize]
    }

    /// The entry in a slot, for changing.
    #[inline]
    pub fn entry_mut(&mut self, slot: Slot) -> &mut E {
        &mut self.entries[slot.0 as usize]
    }

    /// Notes when a connection expires unless another packet comes.
    pub fn set_expiry(&mut self, slot: Slot, now: Tick, expiry: Tick) {
        self.groups[slot.group()].deadlines[slot.index()] = deadline(now, expiry);
    }

    /// Goes through the next groups, and names in `due` the connections whose
    /// deadline has passed, asking for their entries: they may be over, and the
    /// caller decides. It removes each, or gives it a new deadline
    /// ([`Table::set_expiry`]). How many of `groups` are left when there is no
    /// room for another group's in `due`. Over [`Table::group_count`] groups it
    /// has seen every entry.
    #[inline]
    pub fn sweep<const N: usize>(
        &mut self,
        now: Tick,
        mut groups: usize,
        due: &mut ArrayVec<Slot, N>,
    ) -> usize {
        let count = self.group_count();
        self.swept = near(now);
        while groups > 0 && due.remaining_capacity() >= SLOTS {
            if self.cursor >= count {
                self.cursor = 0;
            }
            let step = groups.min(count - self.cursor);
            let mut done = 0;
            for control in &self.groups[self.cursor..self.cursor + step] {
                let group = self.cursor + done;
                let slots = if done < self.outdated { control.used() } else { control.due(now) };
                done += 1;
                if slots == 0 {
                    continue;
                }
                for slot in (Due { group, slots }) {
                    self.entries.prefetch(slot.0 as usize, self.near);
                    due.push(slot);
                }
                if due.remaining_capacity() < SLOTS {
                    break;
                }
            }
            self.outdated -= self.outdated.min(done);
            groups -= done;
            self.cursor += done;
        }
        groups
    }

    /// Of so many groups that are to be swept in a step, those that there is
    /// time for.
    #[must_use]
    pub fn sweep_step(&self, groups: usize) -> usize {
        if self.outdated > 0 { groups.min(OUTDATED_STEP) } else { groups }
    }

    /// Whether there is an entry in a slot.
    #[must_use]
    pub fn is_used(&self, slot: Slot) -> bool {
        self.groups[slot.group()].tags[slot.index()] != 0
    }

    /// An entry near the home of `hash` that can make room for it: of those
    /// that expire at the `latest` then, as things are now, the one that `rank`
    /// gives the lowest number in the first group that has any.
    #[must_use]
    pub fn victim(
        &self,
        hash: u64,
        (now, latest): (Tick, Tick),
        mut rank: impl FnMut(Slot, &E) -> Option<u32>,
    ) -> Option<Slot> {
        let home = self.home(hash);
        for group in home..home + VICTIM_GROUPS {
            let mut best: Option<(u32, Slot)> = None;
            for slot in (Due { group, slots: self.groups[group].due_by(now, latest) }) {
                if let Some(rank) = rank(slot, self.entry(slot)) {
                    if best.is_none_or(|(lowest, _)| rank < lowest) {
                        best = Some((rank, slot));
                    }
                }
            }
            if let Some((_, slot)) = best {
                return Some(slot);
            }
        }
        None
    }

    /// Has the sweep ask about every connection once, whatever its deadline:
    /// timeouts changed.
    pub fn deadlines_are_outdated(&mut self) {
        self.outdated = self.group_count();
    }

    /// Shows the entries of one group.
    pub fn scan(&self, group: usize, mut show: impl FnMut(&E)) {
        let Some(control) = self.groups.get(group) else { return };
        let mut used = control.used();
        while used != 0 {
            let slot = used.trailing_zeros() as usize;
            used &= used - 1;
            show(&self.entries[group * SLOTS + slot]);
        }
    }

    /// Slots in a group: the most that [`Table::scan`] shows.
    pub const GROUP_SLOTS: usize = SLOTS;
}

/// A hash whose tag would say that there is no connection: one in 256.
#[cold]
fn with_a_tag(hash: u64) -> u64 {
    hash | 1 << TAG_SHIFT
}

#[cfg(test)]
mod tests;
