//! Which servers' connections changed: what lets schedulers that compare loads
//! look at those only.

use std::sync::atomic::{AtomicU64, Ordering};

/// Changes that are remembered; who was away for more looks at all servers.
const PLACES: usize = 1024;

/// The servers of one service whose connection counts changed, in the order of
/// the changes. All workers write, and each reads at its own pace.
#[derive(Debug)]
pub struct Changes {
    /// Changes so far.
    head: AtomicU64,
    /// The number of a change, modulo 2^32, in the upper half, its server in
    /// the lower.
    places: Box<[AtomicU64]>,
    /// Grows when thresholds are set, which no worker does.
    thresholds: AtomicU64,
    /// There is one worker.
    single: bool,
}

/// What a reader has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    changes: u64,
    thresholds: u64,
}

impl Seen {
    /// So many changes, and so many of thresholds.
    #[must_use]
    pub const fn new(changes: u64, thresholds: u64) -> Self {
        Self { changes, thresholds }
    }

    /// Changes seen.
    #[must_use]
    pub const fn changes(self) -> u64 {
        self.changes
    }

    /// Changes of thresholds seen.
    #[must_use]
    pub const fn thresholds(self) -> u64 {
        self.thresholds
    }
}

impl Changes {
    /// None, of servers that so many workers use.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            head: AtomicU64::new(0),
            // No place is that of the first change, whose number is 0.
            places: (0..PLACES).map(|_| AtomicU64::new(u64::MAX)).collect(),
            thresholds: AtomicU64::new(0),
            single: workers == 1,
        }
    }

    /// Notes that a server's counts changed.
    #[inline]
    pub fn add(&self, server: u32) {
        let number = if self.single {
            self.head.load(Ordering::Relaxed)
        } else {
            self.head.fetch_add(1, Ordering::AcqRel)
        };
        let place = &self.places[number as usize % PLACES];
        place.store((number << 32) | u64::from(server), Ordering::Release);
        if self.single {
            self.head.store(number + 1, Ordering::Release);
        }
    }

    /// Notes that a server's thresholds changed.
    pub fn thresholds_changed(&self) {
        self.thresholds.fetch_add(1, Ordering::Release);
    }

    /// What has been so far.
    #[must_use]
    pub fn now(&self) -> Seen {
        let thresholds = self.thresholds.load(Ordering::Acquire);
        Seen { changes: self.head.load(Ordering::Acquire), thresholds }
    }

    /// Shows the servers that changed since, and says what has been seen then.
    /// `None` when there were too many: then everything may have changed.
    #[inline]
    pub fn since(&self, seen: Seen, mut show: impl FnMut(u32)) -> Option<Seen> {
        let Seen { changes, thresholds } = self.now();
        if thresholds != seen.thresholds || changes.wrapping_sub(seen.changes) > PLACES as u64 {
            return None;
        }
        for number in seen.changes..changes {
            let place = self.places[number as usize % PLACES].load(Ordering::Acquire);
            if (place >> 32) as u32 != number as u32 {
                // Not written yet, by a worker that is just about to; or
                // overwritten, which the next look will find.
                return Some(Seen { changes: number, thresholds });
            }
            show(place as u32);
        }
        Some(Seen { changes, thresholds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(changes: &Changes, seen: &mut Seen) -> Option<Vec<u32>> {
        let mut servers = Vec::new();
        *seen = changes.since(*seen, |server| servers.push(server))?;
        Some(servers)
    }

    #[test]
    fn a_reader_is_shown_each_change_once() {
        for workers in [1, 2] {
            let changes = Changes::new(workers);
            let mut seen = changes.now();
            assert_eq!(since(&changes, &mut seen), Some(vec![]));
            [7, 0, 7].iter().for_each(|&server| changes.add(server));
            assert_eq!(since(&changes, &mut seen), Some(vec![7, 0, 7]));
            (0..PLACES as u32).for_each(|server| changes.add(server));
            assert_eq!(since(&changes, &mut seen), Some((0..PLACES as u32).collect()));
            (0..=PLACES as u32).for_each(|server| changes.add(server));
            assert_eq!(since(&changes, &mut seen), None, "one was overwritten");
            seen = changes.now();
            changes.thresholds_changed();
            assert_eq!(since(&changes, &mut seen), None);
        }
    }

    #[test]
    fn a_change_that_is_being_noted_is_shown_later() {
        let changes = Changes::new(2);
        let mut seen = changes.now();
        changes.add(1);
        // What another worker has done of the next one.
        changes.head.fetch_add(1, Ordering::AcqRel);
        assert_eq!(since(&changes, &mut seen), Some(vec![1]));
        changes.places[1].store((1 << 32) | 2, Ordering::Release);
        assert_eq!(since(&changes, &mut seen), Some(vec![2]));
    }

    /// Four workers note, one reads: it misses none, or knows that it did.
    #[test]
    fn no_change_is_lost_among_workers() {
        const EACH: u32 = 20_000;
        let changes = Changes::new(4);
        let mut seen = changes.now();
        let mut last = [0; 4];
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let changes = &changes;
                scope.spawn(move || (1..=EACH).for_each(|i| changes.add(worker * 1_000_000 + i)));
            }
            while seen.changes < u64::from(4 * EACH) {
                let shown = changes.since(seen, |server| {
                    let (worker, i) = ((server / 1_000_000) as usize, server % 1_000_000);
                    assert!(i > last[worker], "each worker's in order, once");
                    last[worker] = i;
                });
                // Away for too long: begin anew.
                seen = shown.unwrap_or_else(|| changes.now());
            }
        });
        assert_eq!(seen.changes, u64::from(4 * EACH));
    }
}
