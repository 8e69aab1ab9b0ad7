//! Neighbours that packets needed and workers did not find: clients on a
//! port's own network, above all. The kernel is asked for them when a worker
//! reports them, and confirms them for some time after the last report.
//!
//! Workers report only what they lack, so nobody knows whether a neighbour that
//! was found is still used. One that is forgotten here stays in the kernel's
//! table until the kernel makes room, and is reported again after that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::event::NeighbourState;
use super::kept::ask;
use super::mirror::Mirror;
use super::netlink::NetlinkError;
use super::requests::Requests;

/// Index of the link, address.
type Key = (u32, IpAddr);

/// Most neighbours that are remembered. Beyond it the quarter that matters
/// least makes room: those without an answer, then those reported longest ago.
const MOST: usize = 4096;
/// A neighbour is not asked for more often: the kernel itself needs a second
/// from one of its three questions to the next.
const RETRY: Duration = Duration::from_secs(1);
/// How long after its last report a neighbour is kept confirmed.
const KEEP: Duration = Duration::from_secs(300);
/// The same where there is no answer: packets that still want it report it.
const KEEP_UNANSWERED: Duration = Duration::from_secs(10);
/// Neighbours that one [`MissingNeighbours::refresh`] confirms at most. Each
/// is due about every 40 seconds, so this is enough for all.
const CONFIRMED: usize = 256;

/// What workers reported as missing.
#[derive(Debug, Default)]
pub struct MissingNeighbours {
    entries: HashMap<Key, Wanted>,
    /// The first request that failed in this second.
    error: Option<NetlinkError>,
}

#[derive(Debug)]
struct Wanted {
    reported: Instant,
    asked: Option<Instant>,
    /// The log has it.
    said: bool,
}

impl MissingNeighbours {
    /// A worker needs this neighbour.
    pub fn report(
        &mut self,
        link: u32,
        ip: IpAddr,
        now: Instant,
        mirror: &Mirror,
        requests: &mut Requests,
    ) {
        if self.note((link, ip), now, mirror) {
            self.ask((link, ip), requests);
        }
    }

    /// To be called every second: confirms what would grow stale, forgets what
    /// is not reported any more, and logs a line about what does not answer.
    pub fn refresh(&mut self, now: Instant, mirror: &Mirror, requests: &mut Requests) {
        self.entries.retain(|key, wanted| {
            let keep = if is_found(mirror, *key) { KEEP } else { KEEP_UNANSWERED };
            now.saturating_duration_since(wanted.reported) <= keep
        });
        let stale = |key: &Key| mirror.neighbour_state(key.0, key.1) == Some(NeighbourState::Stale);
        let due: Vec<Key> = self.entries.keys().copied().filter(stale).take(CONFIRMED).collect();
        for key in due {
            self.ask(key, requests);
        }
        self.log(mirror);
    }

    /// How many neighbours are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the kernel is to be asked.
    fn note(&mut self, key: Key, now: Instant, mirror: &Mirror) -> bool {
        if self.entries.len() >= MOST && !self.entries.contains_key(&key) {
            self.make_room(mirror);
        }
        let new = Wanted { reported: now, asked: None, said: false };
        let wanted = self.entries.entry(key).or_insert(new);
        wanted.reported = now;
        let lately = wanted.asked.is_some_and(|asked| now.saturating_duration_since(asked) < RETRY);
        // The worker may have had a snapshot older than the answer.
        if lately || is_found(mirror, key) {
            return false;
        }
        wanted.asked = Some(now);
        true
    }

    fn make_room(&mut self, mirror: &Mirror) {
        let mut order: Vec<_> = self
            .entries
            .iter()
            .map(|(key, wanted)| (is_found(mirror, *key), wanted.reported, *key))
            .collect();
        order.sort_unstable();
        for (_, _, key) in order.into_iter().take(MOST / 4) {
            self.entries.remove(&key);
        }
    }

    /// What is permanent, or what somebody has the kernel manage, is left alone.
    fn ask(&mut self, key: Key, requests: &mut Requests) {
        if let Err(error) = ask(key, false, requests) {
            self.error.get_or_insert(error);
        }
    }

    fn log(&mut self, mirror: &Mirror) {
        if let Some(error) = self.error.take() {
            log::warn!("{error}; packets to it are dropped until it can be asked for");
            return;
        }
        let mut failed = self.entries.iter_mut().filter(|((link, ip), wanted)| {
            !wanted.said && mirror.neighbour_state(*link, *ip) == Some(NeighbourState::Failed)
        });
        let Some(((link, ip), wanted)) = failed.next() else { return };
        wanted.said = true;
        let name = mirror.link(*link).map_or("?", |link| &link.name);
        let more = failed.map(|(_, wanted)| wanted.said = true).count();
        log::info!(
            neighbour:% = ip, port = name, more;
            "neighbour {ip} on {name} does not answer, packets to it are dropped; {more} more like it"
        );
    }
}

fn is_found(mirror: &Mirror, (link, ip): Key) -> bool {
    mirror.neighbour(link, ip).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::{Event, Neighbour};

    fn host(n: usize) -> Key {
        (2, IpAddr::from((0x0a00_0000 + n as u32).to_be_bytes()))
    }

    fn with(found: &[Key]) -> Mirror {
        let mut mirror = Mirror::new();
        for &(link, ip) in found {
            let state = NeighbourState::Reachable;
            mirror.apply(&Event::Neighbour(Neighbour { link, ip, mac: Some([2; 6]), state }));
        }
        mirror
    }

    #[test]
    fn the_kernel_is_asked_once_a_second_while_there_is_no_answer() {
        let mut missing = MissingNeighbours::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let (none, found) = (with(&[]), with(&[host(1)]));
        assert!(missing.note(host(1), at(0), &none));
        assert!(!missing.note(host(1), at(999), &none), "asked for already");
        assert!(missing.note(host(2), at(999), &none), "another");
        assert!(missing.note(host(1), at(1000), &none), "again");
        assert!(!missing.note(host(1), at(9000), &found), "the worker is behind");
        assert!(missing.note(host(1), at(9001), &none), "lost again");
    }

    #[test]
    fn what_is_not_reported_is_forgotten_after_a_while() {
        let mut missing = MissingNeighbours::default();
        let mut requests = Requests::open().unwrap();
        let mirror = with(&[host(1)]);
        let start = Instant::now();
        let [answers, silent] = [host(1), host(2)];
        missing.note(answers, start, &mirror);
        missing.note(silent, start, &mirror);
        for (seconds, expected) in [(10, 2), (11, 1), (300, 1), (301, 0)] {
            missing.refresh(start + Duration::from_secs(seconds), &mirror, &mut requests);
            assert_eq!(missing.len(), expected, "after {seconds} s");
        }
    }

    #[test]
    fn a_flood_makes_room_among_those_without_an_answer() {
        let mut missing = MissingNeighbours::default();
        let mirror = with(&[host(0)]);
        let start = Instant::now();
        for n in 0..=MOST {
            missing.note(host(n), start + Duration::from_millis(n as u64), &mirror);
        }
        assert_eq!(missing.len(), MOST - MOST / 4 + 1);
        let remembered = |n: usize| missing.entries.contains_key(&host(n));
        assert!(remembered(0), "it answers, though it was reported first");
        assert!(!remembered(1) && !remembered(MOST / 4));
        assert!(remembered(MOST / 4 + 1) && remembered(MOST));
    }
}
