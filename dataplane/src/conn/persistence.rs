//! Persistence templates: which server a client's connections go to.
//!
//! A client's connections are spread over workers by their ports, but go to one
//! server, so this table is the one that workers share. It is touched when a
//! connection to a persistent service opens and closes, never by its packets.
//!
//! ```text
//! bucket    lock | life x7 | way x7        320 bytes, first line: lock and lives
//! life      generation (24 bits) | tag (8) | users (32)
//! ```
//!
//! - A template is in one of two buckets, chosen by the keyed hash; a new one
//!   goes where more is free. At two thirds of load practically every client
//!   finds a place.
//! - `users` is the number of connections that were opened through the template
//!   plus one; 0 is a free way. Whoever opens one more connection adds 1 by a
//!   compare-and-swap from the life under which he read the template. The
//!   generation is another for each template that has the way, so the swap says
//!   that what was read was one template's, and that it is still there.
//! - Templates are made, given another server, and taken out by holders of the
//!   lock only. To make one takes the locks of both buckets, so that two
//!   workers that see a client for the first time make one template.
//! - No worker waits for another: opening a connection through a template that
//!   exists needs no lock, and who needs one tries for some microseconds, then
//!   gives up ([`Refused::Busy`]).
//!
//! A template ends when its timeout has passed since the last connection was
//! opened through it and none is left. As in the kernel, one whose timeout
//! passes while there are connections is looked at again 60 s later.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::hash::HashKey;
use crate::packet::headers::Addresses;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Templates in a bucket.
const WAYS: usize = 7;
/// Attempts to get a lock, a few microseconds in all. A holder needs less than
/// one, and the time in which the scheduler chooses.
const ATTEMPTS: usize = 128;
/// How long a template goes on whose timeout passed while it has connections.
const KEPT_TICKS: u32 = 60 * TICKS_PER_SECOND;

/// What finds a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TemplateKey {
    service: u32,
    client: [u8; 16],
}

impl TemplateKey {
    /// The key for an IPv4 client of a service, whose address counts as far as
    /// `netmask` goes. Addresses as numbers. `service` is a number that means
    /// the same service, of either family, as long as templates name it.
    #[must_use]
    pub const fn v4(service: u32, client: u32, netmask: u32) -> Self {
        let client = (0xffff << 32) | (client & netmask) as u128;
        Self { service, client: client.to_be_bytes() }
    }

    /// The same for an IPv6 client, of whose address the first `prefix_len`
    /// bits count (all where it is 128 or more).
    #[must_use]
    pub const fn v6(service: u32, client: [u8; 16], prefix_len: u8) -> Self {
        let mask = match prefix_len {
            0 => 0,
            1..=127 => u128::MAX << (128 - prefix_len),
            _ => u128::MAX,
        };
        let client = u128::from_be_bytes(client) & mask;
        Self { service, client: client.to_be_bytes() }
    }

    /// The key for the client that a packet with these addresses comes from,
    /// of whose address so many bits count.
    #[must_use]
    pub fn of(service: u32, addresses: &Addresses, prefix: u8) -> Self {
        match *addresses {
            Addresses::V4 { src, .. } => {
                let host = 32 - u32::from(prefix.min(32));
                Self::v4(service, src, u32::MAX.checked_shl(host).unwrap_or(0))
            }
            Addresses::V6 { src, .. } => Self::v6(service, src, prefix),
        }
    }

    /// The service's number.
    #[must_use]
    pub const fn service(&self) -> u32 {
        self.service
    }

    /// The client's network in wire order; IPv4 is mapped (`::ffff:0:0/96`).
    #[must_use]
    pub const fn client(&self) -> [u8; 16] {
        self.client
    }

    const fn client_words(&self) -> [u64; 2] {
        let value = u128::from_ne_bytes(self.client);
        [(value >> 64) as u64, value as u64]
    }
}

/// Where a template is, for a connection to keep. Valid as long as the
/// connection counts, which is from [`Templates::open`] to [`Templates::close`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateSlot(NonZeroU32);

impl TemplateSlot {
    fn of(bucket: usize, way: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add((bucket * WAYS + way) as u32))
    }

    fn index(self) -> (usize, usize) {
        let index = self.0.get() as usize - 1;
        (index / WAYS, index % WAYS)
    }

    /// As a number for a connection's entry, not 0.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0.get()
    }

    /// The slot with this number; `None` for 0.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }
}

/// Why a connection could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Every template that could make room is in use or assured.
    Full,
    /// Other workers were changing templates beside this one. The client's next
    /// attempt finds it free.
    Busy,
    /// The scheduler has no server.
    NoServer,
}

/// How a server's number of templates changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// One more.
    Added,
    /// One less.
    Removed,
}

/// A template in a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TemplateRow {
    /// Service and client.
    pub key: TemplateKey,
    /// The server's number.
    pub server: u32,
    /// Connections that were opened through it and not closed.
    pub controlled: u32,
    /// Whether one of them was ever established: listed as `ASSURED`, else
    /// `NONE`.
    pub assured: bool,
    /// When it ends, or is looked at again where there are connections.
    pub expiry: Tick,
}

/// The templates of all services, shared by all workers.
#[derive(Debug)]
pub struct Templates {
    buckets: Box<[Bucket]>,
    hash_key: HashKey,
    /// The bucket that the sweep looks at next, modulo their number.
    cursor: AtomicUsize,
}

#[derive(Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// 1 while a holder makes or takes out templates.
    lock: AtomicU32,
    lives: [AtomicU64; WAYS],
    ways: [Way; WAYS],
}

#[derive(Debug, Default)]
struct Way {
    client: [AtomicU64; 2],
    service: AtomicU32,
    server: AtomicU32,
    /// A [`Tick`].
    expiry: AtomicU32,
    /// 1 once a connection through it was established.
    assured: AtomicU32,
}

const _: () = assert!(size_of::<Bucket>() == 320);

/// A life as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Life(u64);

impl Life {
    const USERS: u64 = u32::MAX as u64;

    /// That of the next template in the same way, with one connection.
    const fn next(self, tag: u8) -> Self {
        Self(self.over().0 | ((tag as u64) << 32) | 2)
    }

    /// That of the way when it is free again.
    const fn over(self) -> Self {
        Self(((self.0 >> 40) + 1) << 40)
    }

    const fn is_free(self) -> bool {
        self.0 & Self::USERS == 0
    }

    const fn controlled(self) -> u32 {
        (self.0 as u32).saturating_sub(1)
    }

    const fn is_idle(self) -> bool {
        self.0 & Self::USERS == 1
    }

    const fn tag(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Whether the same template has the way.
    const fn is_same_template(self, other: Self) -> bool {
        self.0 >> 32 == other.0 >> 32 && !self.is_free() && !other.is_free()
    }
}

/// Where a key's template may be.
#[derive(Debug, Clone, Copy)]
struct Place {
    tag: u8,
    buckets: [usize; 2],
}

/// A bucket's lock, held until dropped.
struct Lock<'a>(&'a AtomicU32);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}

impl Way {
    fn expiry(&self) -> Tick {
        Tick(self.expiry.load(Ordering::Relaxed))
    }

    fn set_expiry(&self, expiry: Tick) {
        self.expiry.store(expiry.0, Ordering::Relaxed);
    }

    fn is_assured(&self) -> bool {
        self.assured.load(Ordering::Relaxed) != 0
    }

    fn key(&self) -> TemplateKey {
        let [high, low] = [0, 1].map(|i| self.client[i].load(Ordering::Relaxed));
        let client = (u128::from(high) << 64) | u128::from(low);
        let service = self.service.load(Ordering::Relaxed);
        TemplateKey { service, client: client.to_ne_bytes() }
    }
}

impl Bucket {
    fn life(&self, way: usize) -> Life {
        Life(self.lives[way].load(Ordering::Acquire))
    }

    /// The way of a key's template, and its life. Without the lock it may miss
    /// one that is there, or find one that is no more; the life tells.
    fn find(&self, tag: u8, key: &TemplateKey) -> Option<(usize, Life)> {
        (0..WAYS).find_map(|way| {
            let life = self.life(way);
            let found = !life.is_free() && life.tag() == tag && self.ways[way].key() == *key;
            found.then_some((way, life))
        })
    }

    fn try_lock(&self) -> Option<Lock<'_>> {
        let swap = self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        // Made only here: a lock that is dropped unlocks.
        swap.is_ok().then(|| Lock(&self.lock))
    }

    fn lock(&self) -> Option<Lock<'_>> {
        (0..ATTEMPTS).find_map(|_| {
            let lock = self.try_lock();
            if lock.is_none() {
                std::hint::spin_loop();
            }
            lock
        })
    }

    /// Takes out an idle template; its server. With the lock held. `is_over` is
    /// asked once nobody can open connections through it: until then someone
    /// may, and close them, and have changed what the caller saw.
    fn take_out(&self, way: usize, life: Life, is_over: impl Fn(&Way) -> bool) -> Option<u32> {
        let word = &self.lives[way];
        if !life.is_idle() {
            return None;
        }
        word.compare_exchange(life.0, life.over().0, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        if !is_over(&self.ways[way]) {
            word.store(life.0, Ordering::Release);
            return None;
        }
        Some(self.ways[way].server.load(Ordering::Relaxed))
    }

    /// Makes a template with one connection in a free way. With the lock held.
    fn fill(&self, way: usize, tag: u8, key: &TemplateKey, server: u32, expiry: Tick) {
        let Way { client, service, server: servers, assured, .. } = &self.ways[way];
        // Whoever reads one of the words below finds the former life over.
        fence(Ordering::Release);
        for (shared, word) in client.iter().zip(key.client_words()) {
            shared.store(word, Ordering::Relaxed);
        }
        service.store(key.service, Ordering::Relaxed);
        servers.store(server, Ordering::Relaxed);
        assured.store(0, Ordering::Relaxed);
        self.ways[way].set_expiry(expiry);
        self.lives[way].store(self.life(way).next(tag).0, Ordering::Release);
    }

    fn free_ways(&self) -> impl Iterator<Item = usize> {
        (0..WAYS).filter(|&way| self.life(way).is_free())
    }
}

impl Templates {
    /// Room for `capacity` templates, of 69 bytes each, and by chance for some
    /// more. In tables of less than a hundred a few may find none before.
    ///
    /// # Errors
    /// When there is not enough memory, or the capacity is beyond 2^30.
    pub fn new(capacity: usize, hash_key: HashKey) -> std::io::Result<Self> {
        if capacity > 1 << 30 {
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        // Two buckets for the two choices in the smallest table.
        let count = (capacity + capacity / 2).div_ceil(WAYS).max(2);
        let mut buckets = Vec::new();
        buckets.try_reserve_exact(count)?;
        buckets.resize_with(count, Bucket::default);
        Ok(Self { buckets: buckets.into_boxed_slice(), hash_key, cursor: AtomicUsize::new(0) })
    }

    /// Opens a connection through the client's template, which is made if it
    /// does not exist: the slot to [`Templates::close`] it by, and the server
    /// that it goes to. The template then lives for another `timeout` ticks.
    ///
    /// `still_ok` says whether the template's server may have more connections
    /// (a deleted one may not, nor one without weight where
    /// `expire_quiescent_template` is set); where it may not, the template gets
    /// another, and its older connections go on counting. `choose` chooses a
    /// server for a new or changed template. `counted` is told when a server's
    /// number of templates changes. None of the three may use this table.
    ///
    /// # Errors
    /// Why it is refused; nothing is to be closed then.
    pub fn open(
        &self,
        now: Tick,
        key: &TemplateKey,
        timeout: u32,
        still_ok: impl Fn(u32) -> bool,
        choose: impl FnOnce() -> Option<u32>,
        mut counted: impl FnMut(u32, Change),
    ) -> Result<(TemplateSlot, u32), Refused> {
        let place = self.place(key);
        if let Some(opened) = self.open_unlocked(place, now, key, timeout, &still_ok) {
            return Ok(opened);
        }
        let _locks = self.lock(place).ok_or(Refused::Busy)?;
        if let Some((index, way)) = self.find_locked(place, now, key, &mut counted) {
            let (bucket, template) = (&self.buckets[index], &self.buckets[index].ways[way]);
            let mut server = template.server.load(Ordering::Relaxed);
            if !still_ok(server) {
                let chosen = choose().ok_or(Refused::NoServer)?;
                counted(chosen, Change::Added);
                template.server.store(chosen, Ordering::Relaxed);
                template.assured.store(0, Ordering::Relaxed);
                counted(server, Change::Removed);
                server = chosen;
            }
            bucket.lives[way].fetch_add(1, Ordering::AcqRel);
            template.set_expiry(now.plus(timeout));
            return Ok((TemplateSlot::of(index, way), server));
        }
        let (index, way) = self.make_room(place, now, &mut counted)?;
        let server = choose().ok_or(Refused::NoServer)?;
        // Counted before anyone can see it, so that the count is never too low.
        counted(server, Change::Added);
        self.buckets[index].fill(way, place.tag, key, server, now.plus(timeout));
        Ok((TemplateSlot::of(index, way), server))
    }

    /// A client's template, if it has one that is not over, as
    /// [`Templates::open`] would find it. One that is changed at the same time
    /// may be missed.
    #[must_use]
    pub fn peek(&self, now: Tick, key: &TemplateKey) -> Option<TemplateRow> {
        self.place(key).buckets.into_iter().find_map(|bucket| {
            let mut found = None;
            self.scan(bucket, |row| found = found.or((row.key == *key).then_some(*row)));
            found.filter(|row| row.controlled > 0 || row.expiry > now)
        })
    }

    /// A connection that was opened through a template is established. Only
    /// such templates are kept when room is needed, so that a flood of SYNs
    /// does not fill the table for the timeout of its templates.
    pub fn assure(&self, slot: TemplateSlot) {
        let (bucket, way) = slot.index();
        let assured = &self.buckets[bucket].ways[way].assured;
        if assured.load(Ordering::Relaxed) == 0 {
            assured.store(1, Ordering::Relaxed);
        }
    }

    /// A connection ends that [`Templates::open`] opened. Once for each.
    pub fn close(&self, slot: TemplateSlot) {
        let (bucket, way) = slot.index();
        let before = Life(self.buckets[bucket].lives[way].fetch_sub(1, Ordering::AcqRel));
        debug_assert!(before.controlled() > 0, "closed more often than opened");
    }

    /// Looks at the next `buckets` for templates that are over and takes them
    /// out. Any worker may call it; a table needs one round about every second.
    pub fn sweep(&self, now: Tick, buckets: usize, mut counted: impl FnMut(u32, Change)) {
        let buckets = buckets.min(self.buckets.len());
        let start = self.cursor.fetch_add(buckets, Ordering::Relaxed) % self.buckets.len();
        for bucket in self.buckets.iter().cycle().skip(start).take(buckets) {
            let mut lock = None;
            for way in 0..WAYS {
                let (life, expiry) = (bucket.life(way), bucket.ways[way].expiry());
                if life.is_free() || expiry > now {
                    continue;
                }
                if !life.is_idle() {
                    // Unless a connection opens now and sets it anew.
                    let later = now.plus(KEPT_TICKS).0;
                    let word = &bucket.ways[way].expiry;
                    let (set, unset) = (Ordering::Relaxed, Ordering::Relaxed);
                    let _ = word.compare_exchange(expiry.0, later, set, unset);
                    continue;
                }
                lock = lock.or_else(|| bucket.try_lock());
                if lock.is_none() {
                    // The next round will do.
                    break;
                }
                let server = bucket.take_out(way, life, |template| template.expiry() <= now);
                if let Some(server) = server {
                    counted(server, Change::Removed);
                }
            }
        }
    }

    /// The number of buckets, the unit of [`Templates::sweep`] and
    /// [`Templates::scan`].
    #[must_use]
    pub fn bucket_count(&self) -> usize {
        self.buckets.len()
    }

    /// Templates in a bucket: the most that [`Templates::scan`] shows.
    pub const BUCKET_WAYS: usize = WAYS;

    /// Shows the templates of one bucket. One that is changed at the same time
    /// may be left out.
    pub fn scan(&self, bucket: usize, mut show: impl FnMut(&TemplateRow)) {
        let Some(bucket) = self.buckets.get(bucket) else { return };
        for (way, template) in bucket.ways.iter().enumerate() {
            let before = bucket.life(way);
            let mut row = TemplateRow {
                key: template.key(),
                server: template.server.load(Ordering::Relaxed),
                controlled: 0,
                assured: template.is_assured(),
                expiry: template.expiry(),
            };
            fence(Ordering::Acquire);
            let life = bucket.life(way);
            if life.is_same_template(before) {
                row.controlled = life.controlled();
                show(&row);
            }
        }
    }

    fn place(&self, key: &TemplateKey) -> Place {
        let [high, low] = key.client_words();
        let hash = self.hash_key.hash5([high, low, u64::from(key.service), 0, 0]);
        let count = self.buckets.len() as u64;
        // Either half as a fraction of the choices; the second choice is
        // another bucket than the first.
        let first = ((hash >> 32) * count) >> 32;
        let distance = 1 + (((hash & 0xffff_ffff) * (count - 1)) >> 32);
        let second = (first + distance) % count;
        Place { tag: hash as u8, buckets: [first as usize, second as usize] }
    }

    /// The locks of both buckets, always in the same order.
    fn lock(&self, place: Place) -> Option<[Lock<'_>; 2]> {
        let [a, b] = place.buckets;
        let first = self.buckets[a.min(b)].lock()?;
        let second = self.buckets[a.max(b)].lock()?;
        Some([first, second])
    }

    /// The usual case: the template exists, and its server is fine.
    fn open_unlocked(
        &self,
        place: Place,
        now: Tick,
        key: &TemplateKey,
        timeout: u32,
        still_ok: impl Fn(u32) -> bool,
    ) -> Option<(TemplateSlot, u32)> {
        let found = place.buckets.into_iter().find_map(|index| {
            let (way, life) = self.buckets[index].find(place.tag, key)?;
            Some((index, way, life))
        });
        let (index, way, mut life) = found?;
        let template = &self.buckets[index].ways[way];
        let server = template.server.load(Ordering::Relaxed);
        if (life.is_idle() && template.expiry() <= now) || !still_ok(server) {
            return None;
        }
        // Everything was read before the swap that proves it current.
        fence(Ordering::Acquire);
        let word = &self.buckets[index].lives[way];
        for _ in 0..ATTEMPTS {
            let swap =
                word.compare_exchange_weak(life.0, life.0 + 1, Ordering::AcqRel, Ordering::Relaxed);
            match swap.map_err(Life) {
                Ok(_) => {
                    template.set_expiry(now.plus(timeout));
                    return Some((TemplateSlot::of(index, way), server));
                }
                // Another connection opened or closed.
                Err(actual) if actual.is_same_template(life) => life = actual,
                Err(_) => return None,
            }
        }
        None
    }

    /// The key's template, with the locks held. One that is over is taken out.
    fn find_locked(
        &self,
        place: Place,
        now: Tick,
        key: &TemplateKey,
        mut counted: impl FnMut(u32, Change),
    ) -> Option<(usize, usize)> {
        for index in place.buckets {
            let bucket = &self.buckets[index];
            let Some((way, life)) = bucket.find(place.tag, key) else { continue };
            let over = bucket.take_out(way, life, |template| template.expiry() <= now);
            let Some(server) = over else { return Some((index, way)) };
            counted(server, Change::Removed);
            return None;
        }
        None
    }

    /// A free way, with the locks held: in the emptier bucket, else in place of
    /// an idle template that is over or was never assured.
    fn make_room(
        &self,
        place: Place,
        now: Tick,
        mut counted: impl FnMut(u32, Change),
    ) -> Result<(usize, usize), Refused> {
        let [first, second] = place.buckets;
        let free = |index: usize| self.buckets[index].free_ways().count();
        let emptier = if free(second) > free(first) { second } else { first };
        if let Some(way) = self.buckets[emptier].free_ways().next() {
            return Ok((emptier, way));
        }
        let dispensable = |template: &Way| template.expiry() <= now || !template.is_assured();
        let ways = place.buckets.into_iter().flat_map(|i| (0..WAYS).map(move |way| (i, way)));
        let (index, way, life) = ways
            .map(|(i, way)| (i, way, self.buckets[i].life(way)))
            .filter(|&(i, way, life)| life.is_idle() && dispensable(&self.buckets[i].ways[way]))
            .min_by_key(|&(i, way, _)| self.buckets[i].ways[way].expiry())
            .ok_or(Refused::Full)?;
        // In use again at this very moment: as good as busy.
        let server = self.buckets[index].take_out(way, life, dispensable).ok_or(Refused::Busy)?;
        counted(server, Change::Removed);
        Ok((index, way))
    }
}

#[cfg(test)]
mod tests;
