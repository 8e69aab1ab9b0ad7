//! lblc and lblcr: a destination keeps its server (lblc) or its servers
//! (lblcr), which then have its contents in their caches, until they have more
//! to do than they should while others have little.
//!
//! What is kept is a cache of fixed size that all workers share, of atomics
//! alone. Two workers that write one entry at once may mix two destinations'
//! servers: what comes out is still a server of the service, since numbers are
//! looked up among the candidates, and next time it is corrected as usual.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Candidate, Request, least};
use crate::conn::HashKey;
use crate::time::Tick;

/// Destinations that are kept, as many as the kernel aims at.
const ENTRIES: usize = 16_384;

/// Entries that a destination may be in.
const WAYS: usize = 8;

/// Servers that a destination may have.
const SERVERS: usize = 12;

/// Life of an entry that is not used, and the time after which lblcr takes a
/// server away from a destination: the kernel's `lblc_expiration` and
/// `lblcr_expiration`.
const EXPIRATION: u32 = Tick::from_secs(24 * 3600).0;

/// Which servers destinations have.
#[derive(Debug)]
pub(super) struct Cache {
    key: HashKey,
    entries: Box<[Entry]>,
}

/// The servers of a destination: a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry {
    /// A hash of the destination stands for it; 0: empty.
    destination: AtomicU64,
    /// Tick of the last use.
    used: AtomicU32,
    /// Tick of the last change of the servers.
    changed: AtomicU32,
    /// Numbers of servers, 1 added; 0: none.
    servers: [AtomicU32; SERVERS],
}

/// The server of a destination.
pub(super) fn lblc<'a>(
    cache: &Cache,
    list: &'a [Candidate],
    request: &Request,
) -> Option<&'a Candidate> {
    let hash = cache.hash(request.destination);
    if let Some(entry) = cache.find(hash, request.now) {
        let kept = list.iter().find(|c| entry.has(c.server));
        if let Some(kept) = kept.filter(|c| c.is_available() && !is_crowded(c, list)) {
            return Some(kept);
        }
    }
    let chosen = least::wlc_among(list)?;
    cache.keep(hash, chosen.server, request.now);
    Some(chosen)
}

/// The least loaded server of a destination; one more joins them when it is
/// crowded, and the most loaded one leaves them after a day without change.
pub(super) fn lblcr<'a>(
    cache: &Cache,
    list: &'a [Candidate],
    request: &Request,
) -> Option<&'a Candidate> {
    let now = request.now;
    let hash = cache.hash(request.destination);
    let Some(entry) = cache.find(hash, now) else {
        let chosen = least::wlc_among(list)?;
        cache.keep(hash, chosen.server, now);
        return Some(chosen);
    };
    let kept = || list.iter().filter(|c| entry.has(c.server));
    let chosen = least::wlc_among(kept());
    if entry.changed_before(now) && kept().nth(1).is_some() {
        if let Some(most) = most_loaded(kept()) {
            entry.remove(most.server, now);
        }
    }
    if let Some(chosen) = chosen.filter(|c| !is_crowded(c, list)) {
        return Some(chosen);
    }
    let joining = least::wlc_among(list)?;
    if !entry.has(joining.server) {
        entry.add(joining.server, list, now);
    }
    Some(joining)
}

/// Whether a server has more active connections than its weight while another
/// has less than half of its own.
fn is_crowded(candidate: &Candidate, list: &[Candidate]) -> bool {
    candidate.active() > u64::from(candidate.weight)
        && list.iter().any(|c| c.active() * 2 < u64::from(c.weight))
}

/// The server with the most load for its weight, the first among equals.
fn most_loaded<'a>(list: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    let load = |c: &Candidate| (c.load(), c.weight);
    list.filter(|c| c.weight > 0)
        .reduce(|most, c| if least::is_less(load(most), load(c)) { c } else { most })
}

impl Cache {
    pub(super) fn new() -> Self {
        Self { key: HashKey::random(), entries: (0..ENTRIES).map(|_| Entry::default()).collect() }
    }

    /// One of its own that keeps the same.
    pub(super) fn copied(&self) -> Self {
        let number = |number: &AtomicU32| AtomicU32::new(number.load(Ordering::Relaxed));
        let entry = |entry: &Entry| Entry {
            destination: AtomicU64::new(entry.destination.load(Ordering::Relaxed)),
            used: number(&entry.used),
            changed: number(&entry.changed),
            servers: std::array::from_fn(|place| number(&entry.servers[place])),
        };
        Self { key: self.key, entries: self.entries.iter().map(entry).collect() }
    }

    fn hash(&self, destination: IpAddr) -> u64 {
        let bits = match destination {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        self.key.hash2((bits >> 64) as u64, bits as u64).max(1)
    }

    /// The entries that a destination may be in.
    fn ways(&self, hash: u64) -> &[Entry] {
        let first = hash as usize % (ENTRIES / WAYS) * WAYS;
        &self.entries[first..first + WAYS]
    }

    /// The entry of a destination, which is so used.
    fn find(&self, hash: u64, now: Tick) -> Option<&Entry> {
        let entry = self.ways(hash).iter().find(|e| e.is_of(hash))?;
        if is_past(&entry.used, now) {
            return None;
        }
        if entry.used.load(Ordering::Relaxed) != now.0 {
            entry.used.store(now.0, Ordering::Relaxed);
        }
        Some(entry)
    }

    /// Gives a destination one server. When there is no room, the entry that
    /// was not used for the longest time makes some.
    fn keep(&self, hash: u64, server: u32, now: Tick) {
        let rank = |entry: &&Entry| {
            let empty = entry.is_of(0);
            (!entry.is_of(hash), !empty, entry.used.load(Ordering::Relaxed))
        };
        let Some(entry) = self.ways(hash).iter().min_by_key(rank) else { return };
        entry.destination.store(0, Ordering::Relaxed);
        for (place, number) in entry.servers.iter().enumerate() {
            number.store(if place == 0 { server.wrapping_add(1) } else { 0 }, Ordering::Relaxed);
        }
        entry.used.store(now.0, Ordering::Relaxed);
        entry.changed.store(now.0, Ordering::Relaxed);
        entry.destination.store(hash, Ordering::Relaxed);
    }
}

impl Entry {
    fn is_of(&self, hash: u64) -> bool {
        self.destination.load(Ordering::Relaxed) == hash
    }

    fn has(&self, server: u32) -> bool {
        self.place(server.wrapping_add(1)).is_some()
    }

    /// The place of a number as it is kept.
    fn place(&self, number: u32) -> Option<&AtomicU32> {
        self.servers.iter().find(|n| n.load(Ordering::Relaxed) == number)
    }

    fn changed_before(&self, now: Tick) -> bool {
        is_past(&self.changed, now)
    }

    /// Adds a server, into a free place, one of a server that is gone, or else
    /// that of the most loaded.
    fn add(&self, server: u32, list: &[Candidate], now: Tick) {
        let is_gone = |number: &&AtomicU32| {
            let number = number.load(Ordering::Relaxed);
            !list.iter().any(|c| c.server.wrapping_add(1) == number)
        };
        let most = || most_loaded(list.iter().filter(|c| self.has(c.server)));
        let place = self
            .servers
            .iter()
            .find(is_gone)
            .or_else(|| self.place(most()?.server.wrapping_add(1)));
        if let Some(place) = place {
            place.store(server.wrapping_add(1), Ordering::Relaxed);
            self.changed.store(now.0, Ordering::Relaxed);
        }
    }

    fn remove(&self, server: u32, now: Tick) {
        if let Some(place) = self.place(server.wrapping_add(1)) {
            place.store(0, Ordering::Relaxed);
            self.changed.store(now.0, Ordering::Relaxed);
        }
    }
}

/// Whether a tick lies a day back.
fn is_past(tick: &AtomicU32, now: Tick) -> bool {
    now.0.saturating_sub(tick.load(Ordering::Relaxed)) >= EXPIRATION
}

#[cfg(test)]
mod tests {
    use super::super::tests::{counted, from, open_to};
    use super::*;

    const NOON: Tick = Tick::from_secs(1_000_000);

    fn to(last: u8, now: Tick) -> Request {
        Request { destination: IpAddr::from([10, 0, 0, last]), now, ..from([1, 2, 3, 4], 5) }
    }

    fn servers(cache: &Cache, last: u8) -> Vec<u32> {
        let hash = cache.hash(to(last, NOON).destination);
        let entry = cache.ways(hash).iter().find(|e| e.is_of(hash)).unwrap();
        let numbers = entry.servers.iter().map(|n| n.load(Ordering::Relaxed));
        numbers.filter(|&n| n != 0).map(|n| n - 1).collect()
    }

    #[test]
    fn lblc_keeps_a_destination_with_its_server() {
        let (cache, list) = (Cache::new(), counted(&[(10, 0, 0), (10, 0, 0)]));
        let pick = |last| lblc(&cache, &list, &to(last, NOON)).map(open_to).unwrap();
        // Each new destination goes to the server with the least, and stays.
        assert_eq!([1, 1, 1, 2, 2, 1, 2].map(pick), [0, 0, 0, 1, 1, 0, 1]);
    }

    #[test]
    fn lblc_leaves_a_crowded_server() {
        let (cache, list) = (Cache::new(), counted(&[(2, 0, 0), (4, 1, 0)]));
        let pick = || lblc(&cache, &list, &to(1, NOON)).map(open_to).unwrap();
        // 2 active are not more than the weight 2, 3 are; the other has 1,
        // less than half of 4.
        assert_eq!([pick(), pick(), pick(), pick()], [0, 0, 0, 1]);
        assert_eq!(servers(&cache, 1), [1]);
        // Crowded, but nobody has little to do.
        list[0].counts.connections.set_thresholds(0, 0);
        for _ in 0..8 {
            assert_eq!(pick(), 1);
        }
    }

    #[test]
    fn lblc_leaves_a_server_that_takes_none() {
        let (cache, mut list) = (Cache::new(), counted(&[(1, 0, 0), (1, 9, 0)]));
        assert_eq!(lblc(&cache, &list, &to(1, NOON)).unwrap().server, 0);
        list[0].counts.connections.set_thresholds(1, 0);
        open_to(&list[0]);
        assert_eq!(lblc(&cache, &list, &to(1, NOON)).unwrap().server, 1);
        list[1].weight = 0;
        assert!(lblc(&cache, &list, &to(1, NOON)).is_none());
        // A server that is gone.
        list.remove(1);
        list[0].counts.connections.set_thresholds(0, 0);
        assert_eq!(lblc(&cache, &list, &to(1, NOON)).unwrap().server, 0);
    }

    #[test]
    fn an_entry_that_is_not_used_for_a_day_is_forgotten() {
        let (cache, list) = (Cache::new(), counted(&[(9, 0, 0), (9, 0, 0)]));
        let pick = |now| lblc(&cache, &list, &to(1, now)).unwrap().server;
        assert_eq!(pick(NOON), 0);
        open_to(&list[0]);
        let day = EXPIRATION;
        assert_eq!(pick(NOON.plus(day - 1)), 0);
        assert_eq!(pick(NOON.plus(2 * day - 2)), 0);
        assert_eq!(pick(NOON.plus(3 * day - 2)), 1);
    }

    #[test]
    fn lblcr_adds_servers_to_a_destination() {
        let (cache, list) = (Cache::new(), counted(&[(2, 0, 0), (4, 1, 0), (0, 0, 0)]));
        let pick = || lblcr(&cache, &list, &to(1, NOON)).map(open_to).unwrap();
        assert_eq!([pick(), pick(), pick(), pick()], [0, 0, 0, 1]);
        assert_eq!(servers(&cache, 1), [0, 1]);
        // 3/2 2/4: the less loaded of the two.
        assert_eq!(pick(), 1);
    }

    #[test]
    fn lblcr_takes_the_most_loaded_away_after_a_day() {
        let (cache, list) = (Cache::new(), counted(&[(2, 0, 0), (4, 1, 0)]));
        let pick = |now| lblcr(&cache, &list, &to(1, now)).map(open_to).unwrap();
        for _ in 0..4 {
            pick(NOON);
        }
        assert_eq!(servers(&cache, 1), [0, 1]);
        let (half, day) = (NOON.plus(EXPIRATION / 2), NOON.plus(EXPIRATION));
        pick(half);
        assert_eq!(servers(&cache, 1), [0, 1]);
        pick(day);
        assert_eq!(servers(&cache, 1), [1]);
        // The last one stays.
        pick(day.plus(EXPIRATION / 2));
        pick(day.plus(EXPIRATION));
        assert_eq!(servers(&cache, 1), [1]);
    }

    #[test]
    fn lblcr_has_room_for_servers_that_come_and_go() {
        let cache = Cache::new();
        let now = NOON;
        for number in 0..40 {
            let mut list = counted(&[(1, 0, 0)]);
            list[0].server = number;
            assert_eq!(lblcr(&cache, &list, &to(1, now)).unwrap().server, number);
        }
        // All servers crowded in turn: the set stays within its places.
        let cache = Cache::new();
        let list = counted(&[(2, 0, 0); 20]);
        for _ in 0..60 {
            let picked = lblcr(&cache, &list, &to(1, now)).unwrap();
            for _ in 0..3 {
                open_to(picked);
            }
        }
        assert_eq!(servers(&cache, 1).len(), SERVERS);
        assert!(lblcr(&cache, &[], &to(1, now)).is_none());
    }

    /// A flood of destinations costs no memory and finds servers.
    #[test]
    fn the_cache_is_bounded() {
        let (cache, list) = (Cache::new(), counted(&[(1, 0, 0), (1, 0, 0)]));
        for i in 0..40_000u32 {
            let request = Request { destination: IpAddr::from(i.to_be_bytes()), ..to(0, NOON) };
            assert!(lblc(&cache, &list, &request).is_some());
        }
        let used = cache.entries.iter().filter(|e| !e.is_of(0)).count();
        assert!(used > ENTRIES * 9 / 10 && used <= ENTRIES, "{used}");
        // The one used last is still there: the oldest makes room.
        let last = cache.hash(IpAddr::from(39_999u32.to_be_bytes()));
        assert!(cache.find(last, NOON).is_some());
        assert_eq!(size_of::<Entry>(), 64);
    }

    /// Workers that use one cache at once: whatever they mix up, the answer is
    /// a server that takes connections.
    #[test]
    fn workers_share_a_cache() {
        let (cache, list) = (Cache::new(), counted(&[(4, 0, 0), (4, 0, 0), (0, 0, 0)]));
        std::thread::scope(|scope| {
            for worker in 0..4u8 {
                let (cache, list) = (&cache, &list);
                scope.spawn(move || {
                    for i in 0..5_000u32 {
                        let request = to((i % 7) as u8, NOON.plus(i * EXPIRATION / 50));
                        let choose = if worker % 2 == 0 { lblc } else { lblcr };
                        let chosen = choose(cache, list, &request).unwrap();
                        assert!(chosen.server < 2);
                        chosen.counts.connections.open(true);
                        if i % 2 == 0 {
                            chosen.counts.connections.close(true);
                        }
                    }
                });
            }
        });
    }
}
