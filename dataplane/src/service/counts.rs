//! What is counted of a server: traffic by each worker, connections over all.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::utils::CachePadded;

use super::Changes;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Counters of a server.
#[derive(Debug)]
pub struct ServerCounts {
    /// Its connections.
    pub connections: CachePadded<ConnectionCounts>,
    /// One per worker, by index.
    traffic: Arc<[CachePadded<Traffic>]>,
}

/// How many connections a server has, exact over all workers, and whether they
/// are too many: shared, and touched when a connection opens, closes or changes
/// its state only.
///
/// A server is overloaded from its upper threshold on, until it is below the
/// lower one or, where that is 0, below three quarters of the upper one. The
/// flag keeps what happened in between; workers that open and close at the same
/// time may leave it wrong there, but never below the lower or above the upper
/// threshold, where the counts alone decide.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Active connections in the upper half, inactive ones in the lower.
    counts: AtomicU64,
    /// Only one worker counts: it needs no atomic addition, which would wait
    /// for all of its stores before.
    single: bool,
    /// The upper threshold in the upper half, the lower one in the lower.
    thresholds: AtomicU64,
    overloaded: AtomicBool,
    /// Persistence templates.
    templates: AtomicU32,
    /// Who wants to hear of changes, and the number by which the server is
    /// known there.
    changes: OnceLock<(Arc<Changes>, u32)>,
}

/// What one worker forwarded to a server. The counters are written by that
/// worker alone, so an addition is a plain load and store.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    connections: AtomicU64,
    in_packets: AtomicU64,
    in_bytes: AtomicU64,
    out_packets: AtomicU64,
    out_bytes: AtomicU64,
    /// What was learnt of the path MTU to the server (tunnels): bytes in the
    /// upper half, the tick at which it is forgotten in the lower. 0 is nothing.
    /// The worker that learns it tells all.
    path_mtu: AtomicU64,
}

impl Traffic {
    /// Counts a packet of a client.
    #[inline(always)]
    pub(crate) fn packet(&self, bytes: u64) {
        add(&self.in_packets, 1);
        add(&self.in_bytes, bytes);
    }

    /// Counts a connection that the worker schedules.
    #[inline(always)]
    pub(crate) fn scheduled(&self) {
        add(&self.connections, 1);
    }

    /// Counts a packet of the server.
    #[inline(always)]
    pub(crate) fn reply(&self, bytes: u64) {
        add(&self.out_packets, 1);
        add(&self.out_bytes, bytes);
    }

    /// The path MTU to the server as far as it was learnt, bytes.
    #[inline(always)]
    pub(crate) fn path_mtu(&self, now: Tick) -> Option<u16> {
        let learnt = self.path_mtu.load(Ordering::Relaxed);
        (learnt != 0 && now.0 < learnt as u32).then_some((learnt >> 32) as u16)
    }
}

/// Totals of a server's traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TrafficTotals {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Their IP lengths, bytes.
    pub in_bytes: u64,
    /// Packets from the server that passed the director (NAT, FULLNAT).
    pub out_packets: u64,
    /// Their IP lengths, bytes.
    pub out_bytes: u64,
}

impl ServerCounts {
    /// Counters at zero for so many workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self {
            connections: CachePadded::new(ConnectionCounts {
                single: workers == 1,
                ..ConnectionCounts::default()
            }),
            traffic: (0..workers).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Counters of their own with the same connections, thresholds and path
    /// MTUs, whose traffic begins at zero.
    #[must_use]
    pub fn copied(&self) -> Self {
        let (own, copy) = (&self.connections, Self::new(self.workers()));
        let connections = ConnectionCounts {
            counts: AtomicU64::new(own.counts.load(Ordering::Relaxed)),
            single: own.single,
            thresholds: AtomicU64::new(own.thresholds.load(Ordering::Relaxed)),
            overloaded: AtomicBool::new(own.overloaded.load(Ordering::Relaxed)),
            templates: AtomicU32::new(own.templates()),
            changes: OnceLock::new(),
        };
        for (from, to) in self.traffic.iter().zip(copy.traffic.iter()) {
            to.path_mtu.store(from.path_mtu.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        Self { connections: CachePadded::new(connections), ..copy }
    }

    /// The workers that count.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.traffic.len()
    }

    /// By worker.
    pub(super) fn traffic(&self) -> &Arc<[CachePadded<Traffic>]> {
        &self.traffic
    }

    /// Counts a packet of the server that `worker` forwards.
    #[inline]
    pub fn reply(&self, worker: usize, bytes: u64) {
        self.traffic[worker].reply(bytes);
    }

    /// Counts a packet of a client that `worker` forwards.
    #[inline]
    pub fn packet(&self, worker: usize, bytes: u64) {
        self.traffic[worker].packet(bytes);
    }

    /// The path MTU to the server as far as it was learnt, bytes.
    #[must_use]
    #[inline]
    pub fn path_mtu(&self, worker: usize, now: Tick) -> Option<u16> {
        self.traffic[worker].path_mtu(now)
    }

    /// Takes note of what a router says about the path MTU to the server, and
    /// gives what is believed of it. Less than the kernel believes
    /// (`net.ipv4.route.min_pmtu`; the least of IPv6) is taken for that: a
    /// forged error would otherwise multiply packets. It is forgotten after
    /// `net.ipv4.route.mtu_expires`, ten minutes.
    pub fn learn_path_mtu(&self, worker: usize, now: Tick, mtu: u32, ipv4: bool) -> u16 {
        const LEAST: (u32, u32) = (552, 1280);
        const SECONDS: u32 = 600;
        let least = if ipv4 { LEAST.0 } else { LEAST.1 };
        let mtu = mtu.clamp(least, u16::MAX.into());
        // As in the kernel, it only ever gets less before it is forgotten.
        let mtu = self.path_mtu(worker, now).map_or(mtu, |known| mtu.min(known.into()));
        let until = now.plus(SECONDS * TICKS_PER_SECOND);
        for traffic in self.traffic.iter() {
            let learnt = (u64::from(mtu) << 32) | u64::from(until.0);
            traffic.path_mtu.store(learnt, Ordering::Relaxed);
        }
        mtu as u16
    }

    /// Counts a connection that `worker` schedules.
    pub fn scheduled(&self, worker: usize) {
        self.traffic[worker].scheduled();
    }

    /// Connections that `worker` has scheduled.
    #[must_use]
    pub fn scheduled_by(&self, worker: usize) -> u64 {
        self.traffic[worker].connections.load(Ordering::Relaxed)
    }

    /// Packets of clients that `worker` has forwarded.
    #[must_use]
    pub fn packets_by(&self, worker: usize) -> u64 {
        self.traffic[worker].in_packets.load(Ordering::Relaxed)
    }

    /// The totals over all workers.
    #[must_use]
    pub fn totals(&self) -> TrafficTotals {
        self.traffic.iter().fold(TrafficTotals::default(), |sum, t| TrafficTotals {
            connections: sum.connections + t.connections.load(Ordering::Relaxed),
            in_packets: sum.in_packets + t.in_packets.load(Ordering::Relaxed),
            in_bytes: sum.in_bytes + t.in_bytes.load(Ordering::Relaxed),
            out_packets: sum.out_packets + t.out_packets.load(Ordering::Relaxed),
            out_bytes: sum.out_bytes + t.out_bytes.load(Ordering::Relaxed),
        })
    }
}

#[inline]
fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

impl ConnectionCounts {
    /// A connection begins, active or not. Whether the server is overloaded
    /// since.
    #[inline]
    pub fn open(&self, active: bool) -> bool {
        let overloads = self.judge(self.add(one(active)));
        self.changed();
        overloads
    }

    /// A connection that was counted did not come about; `overloads` is what
    /// [`ConnectionCounts::open`] said.
    pub fn withdraw(&self, active: bool, overloads: bool) {
        if overloads {
            self.overloaded.store(false, Ordering::Relaxed);
        }
        self.close(active);
    }

    /// A connection ends.
    #[inline]
    pub fn close(&self, active: bool) {
        self.judge(self.add(one(active).wrapping_neg()));
        self.changed();
    }

    /// A connection changes its kind.
    pub fn change(&self, from_active: bool, to_active: bool) {
        if from_active != to_active {
            self.add(one(to_active).wrapping_sub(one(from_active)));
            self.changed();
        }
    }

    /// Has changes told from now on, of the server with this number. `false`
    /// when they are told elsewhere.
    pub fn tell_changes(&self, changes: &Arc<Changes>, server: u32) -> bool {
        let (told, number) = self.changes.get_or_init(|| (Arc::clone(changes), server));
        Arc::ptr_eq(told, changes) && *number == server
    }

    /// Where changes are told.
    #[must_use]
    pub fn changes(&self) -> Option<&Arc<Changes>> {
        self.changes.get().map(|(changes, _)| changes)
    }

    #[inline]
    fn changed(&self) {
        if let Some((changes, server)) = self.changes.get() {
            changes.add(*server);
        }
    }

    /// Adds to the counts, modulo 2^64, and says what they are then.
    #[inline]
    fn add(&self, difference: u64) -> u64 {
        if self.single {
            let counts = self.counts.load(Ordering::Relaxed).wrapping_add(difference);
            self.counts.store(counts, Ordering::Relaxed);
            return counts;
        }
        self.counts.fetch_add(difference, Ordering::Relaxed).wrapping_add(difference)
    }

    /// A persistence template names the server.
    pub fn add_template(&self) {
        self.templates.fetch_add(1, Ordering::Relaxed);
    }

    /// It does no longer.
    pub fn remove_template(&self) {
        self.templates.fetch_sub(1, Ordering::Relaxed);
    }

    /// Persistence templates that name the server.
    #[must_use]
    pub fn templates(&self) -> u32 {
        self.templates.load(Ordering::Relaxed)
    }

    /// Active and inactive connections.
    #[must_use]
    pub fn read(&self) -> (u32, u32) {
        halves(self.counts.load(Ordering::Relaxed))
    }

    /// Sets how many connections are too many, active and inactive ones
    /// together; an upper threshold of 0 is no limit. More room ends an
    /// overload, as in the kernel.
    pub fn set_thresholds(&self, upper: u32, lower: u32) {
        let new = (u64::from(upper) << 32) | u64::from(lower);
        let (old_upper, _) = halves(self.thresholds.swap(new, Ordering::Relaxed));
        if upper == 0 || upper > old_upper {
            self.overloaded.store(false, Ordering::Relaxed);
        }
        self.judge(self.counts.load(Ordering::Relaxed));
        if let Some((changes, _)) = self.changes.get() {
            changes.thresholds_changed();
        }
    }

    /// Whether the server is to get no more connections.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        match self.verdict(self.counts.load(Ordering::Relaxed)) {
            Some(overloaded) => overloaded,
            None => self.overloaded.load(Ordering::Relaxed),
        }
    }

    /// Keeps what the counts say, for when they will be between the thresholds.
    /// Whether the server became overloaded by that.
    #[inline]
    fn judge(&self, counts: u64) -> bool {
        match self.verdict(counts) {
            Some(overloaded) if self.overloaded.load(Ordering::Relaxed) != overloaded => {
                self.overloaded.store(overloaded, Ordering::Relaxed);
                overloaded
            }
            _ => false,
        }
    }

    /// Whether so many connections are too many. `None` between the thresholds.
    #[inline]
    fn verdict(&self, counts: u64) -> Option<bool> {
        let (upper, lower) = halves(self.thresholds.load(Ordering::Relaxed));
        // Most servers have none.
        if upper == 0 {
            return Some(false);
        }
        let (active, inactive) = halves(counts);
        let total = u64::from(active) + u64::from(inactive);
        if total >= u64::from(upper) {
            return Some(true);
        }
        let is_below = match lower {
            0 => total * 4 < u64::from(upper) * 3,
            lower => total < u64::from(lower),
        };
        is_below.then_some(false)
    }
}

/// One connection in [`ConnectionCounts::counts`].
const fn one(active: bool) -> u64 {
    if active { 1 << 32 } else { 1 }
}

const fn halves(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_over_all_workers() {
        let counts = ServerCounts::new(2);
        counts.packet(0, 60);
        counts.packet(1, 40);
        counts.scheduled(1);
        counts.reply(1, 1500);
        let totals = TrafficTotals {
            connections: 1,
            in_packets: 2,
            in_bytes: 100,
            out_packets: 1,
            out_bytes: 1500,
        };
        assert_eq!(counts.totals(), totals);
    }

    #[test]
    fn a_path_mtu_gets_less_until_it_is_forgotten() {
        let counts = ServerCounts::new(2);
        let learn = |now, mtu| counts.learn_path_mtu(1, Tick(now), mtu, true);
        assert_eq!([learn(8, 1400), learn(9, 65_535), learn(10, 1300)], [1400, 1400, 1300]);
        assert_eq!([0, 1].map(|w| counts.path_mtu(w, Tick(11))), [Some(1300); 2], "all know it");
        assert_eq!(learn(10 + 600 * TICKS_PER_SECOND, 1450), 1450);
    }

    #[test]
    fn changing_kind_moves_a_connection() {
        let counts = ConnectionCounts::default();
        counts.open(true);
        counts.open(false);
        counts.change(true, false);
        counts.change(false, false);
        assert_eq!(counts.read(), (0, 2));
        counts.close(false);
        assert_eq!(counts.read(), (0, 1));
    }

    fn set_total(counts: &ConnectionCounts, total: u32) {
        loop {
            let (active, inactive) = counts.read();
            match (active + inactive).cmp(&total) {
                std::cmp::Ordering::Less => drop(counts.open(total % 2 == 0)),
                std::cmp::Ordering::Equal => return,
                std::cmp::Ordering::Greater => counts.close(active > 0),
            }
        }
    }

    #[test]
    fn a_server_is_overloaded_from_the_upper_to_the_lower_threshold() {
        let counts = ConnectionCounts::default();
        set_total(&counts, 1_000);
        assert!(!counts.is_overloaded(), "there is no threshold");
        set_total(&counts, 0);
        // Below the lower one, or below 3/4 of 10, which is 7.5, or of 8, 6.
        for (upper, lower, last) in [(10, 4, 4), (10, 0, 8), (8, 0, 6), (5, 5, 5), (1, 0, 1)] {
            counts.set_thresholds(upper, lower);
            for total in 0..upper {
                set_total(&counts, total);
                assert!(!counts.is_overloaded(), "{total} of {upper}, {lower} on the way up");
            }
            for total in (last..=upper + 2).rev() {
                set_total(&counts, upper.max(total));
                set_total(&counts, total);
                assert!(counts.is_overloaded(), "{total} of {upper}, {lower} on the way down");
            }
            set_total(&counts, last - 1);
            assert!(!counts.is_overloaded(), "{upper}, {lower}");
            set_total(&counts, last.min(upper - 1));
            assert!(!counts.is_overloaded(), "{upper}, {lower} on the way up again");
            set_total(&counts, 0);
        }
    }

    #[test]
    fn a_change_of_kind_is_no_new_connection() {
        let counts = ConnectionCounts::default();
        counts.set_thresholds(3, 1);
        counts.open(true);
        counts.open(true);
        counts.change(true, false);
        assert_eq!((counts.read(), counts.is_overloaded()), ((1, 1), false));
        counts.open(true);
        counts.change(true, false);
        assert_eq!((counts.read(), counts.is_overloaded()), ((1, 2), true));
    }

    #[test]
    fn a_connection_that_is_withdrawn_leaves_nothing() {
        for counts in
            [ConnectionCounts::default(), ConnectionCounts { single: true, ..Default::default() }]
        {
            counts.set_thresholds(5, 2);
            let opened = [true, false, true, false, true].map(|active| counts.open(active));
            assert_eq!(opened, [false, false, false, false, true]);
            counts.withdraw(true, true);
            assert_eq!((counts.read(), counts.is_overloaded()), ((2, 2), false));
            // An overload from before stays.
            counts.open(true);
            counts.close(true);
            let overloads = counts.open(false);
            counts.withdraw(false, overloads);
            assert_eq!((counts.read(), counts.is_overloaded()), ((2, 2), true));
        }
    }

    #[test]
    fn new_thresholds_apply_at_once() {
        let counts = ConnectionCounts::default();
        set_total(&counts, 9);
        counts.set_thresholds(9, 5);
        assert!(counts.is_overloaded());
        counts.set_thresholds(10, 5);
        assert!(!counts.is_overloaded(), "more room");
        counts.open(true);
        assert!(counts.is_overloaded());
        counts.close(true);
        counts.set_thresholds(10, 6);
        assert!(counts.is_overloaded(), "no more room than before");
        counts.set_thresholds(0, 0);
        assert!(!counts.is_overloaded());
        counts.set_thresholds(20, 0);
        assert!(!counts.is_overloaded(), "the overload before is forgotten");
    }

    #[test]
    fn counts_are_exact_over_several_workers() {
        let counts = ConnectionCounts::default();
        counts.set_thresholds(50, 10);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for i in 0..5_000 {
                        counts.open(true);
                        counts.open(false);
                        counts.change(true, false);
                        if i >= 3 {
                            counts.close(false);
                            counts.close(false);
                        }
                    }
                });
            }
        });
        assert_eq!(counts.read(), (0, 24));
        set_total(&counts, 9);
        assert!(!counts.is_overloaded());
        set_total(&counts, 50);
        assert!(counts.is_overloaded());
    }
}
