//! Observations: a client says which packets it wants to see, the workers note
//! them, and the client takes them when it likes. One that does not come for
//! them for a while has its observation ended, so nothing is left behind by
//! clients that go away.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataplane::director::{Source, Verdict};
use dataplane::observe::{self, End, Filter, MAX_RATE, MAX_SNAPLEN, Observed, Record, Watch, Wish};
use dataplane::time::{Clock, TICKS_PER_SECOND};

use super::workers::Workers;
use super::{Daemon, Outcome};
use crate::api::{
    Error, ErrorCode, MAX_OBSERVATIONS, MAX_OBSERVED, ObserveEnd, ObserveFilter, ObservedPacket,
    Reply, Request, Response,
};
use crate::observe::thought;
use crate::observe::told::{self, Names};
use crate::server::ClientId;

/// A client that has not asked for so long is gone, or does not read.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a worker has in its hands as an observation ends is noted by then.
const LAST_RECORDS: Duration = Duration::from_millis(20);
/// Bytes of packets that one answer brings, about: twice as many characters.
const ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// Longest observation, s.
const MAX_SECONDS: u32 = 86_400;
/// Packets on their way between workers that are remembered.
const HANDED_OVER: usize = 4096;

/// The observations that there are.
#[derive(Debug, Default)]
pub(super) struct Observations {
    all: Vec<Observation>,
    last_id: u64,
}

#[derive(Debug)]
struct Observation {
    id: u64,
    client: ClientId,
    watch: std::sync::Arc<Watch>,
    /// One of each worker.
    parts: Vec<Observed>,
    /// When the client last asked.
    asked: Instant,
    /// Since when it has ended.
    ended: Option<Instant>,
    stopped: bool,
    numbers: Numbers,
    /// One moment by both clocks.
    moment: (Instant, SystemTime),
}

/// The numbers of packets.
#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    /// By worker that is to get it and a hash of the packet: number and worker
    /// that had it.
    handed_over: HashMap<(u8, u64), VecDeque<(u64, u8)>>,
    state: RandomState,
    waiting: usize,
}

impl Numbers {
    /// A packet's number and, of one that was handed over, the worker that did.
    fn of(&mut self, record: &Record, bytes: &[u8]) -> (u64, Option<u8>) {
        let came = bytes.get(..usize::from(record.came.kept)).unwrap_or_default();
        let hash = self.state.hash_one((came, record.came.whole));
        let mut before = None;
        if record.source == Source::Handoff {
            if let Some(parts) = self.handed_over.get_mut(&(record.worker, hash)) {
                before = parts.pop_front();
                self.waiting -= usize::from(before.is_some());
                if parts.is_empty() {
                    self.handed_over.remove(&(record.worker, hash));
                }
            }
        }
        let number = before.map_or_else(
            || {
                self.last += 1;
                self.last
            },
            |(number, _)| number,
        );
        if let Verdict::Handoff { worker, .. } = record.verdict {
            if self.waiting >= HANDED_OVER {
                // Their other parts never came.
                self.handed_over.clear();
                self.waiting = 0;
            }
            let parts = self.handed_over.entry((worker, hash)).or_default();
            parts.push_back((number, record.worker));
            self.waiting += 1;
        }
        (number, before.map(|(_, worker)| worker))
    }
}

impl Observations {
    /// Ends those whose clients do not come for them. To be called some times a
    /// second.
    pub(super) fn expire(&mut self, now: Instant) {
        self.all.retain(|observation| {
            let stays = now.saturating_duration_since(observation.asked) < PATIENCE;
            if !stays {
                log::info!(observation = observation.id; "observation {} is over: its client did not ask for {} s", observation.id, PATIENCE.as_secs());
                observation.watch.end();
            }
            stays
        });
    }

    fn start(
        &mut self,
        client: ClientId,
        order: &Order,
        workers: &mut Workers,
        clock: &Clock,
    ) -> Reply {
        if self.all.len() == MAX_OBSERVATIONS {
            let message = format!("{MAX_OBSERVATIONS} observations are there already; stop one");
            return Err(Error::new(ErrorCode::TooManyObservations, message));
        }
        let until = clock.now().plus(order.seconds * TICKS_PER_SECOND);
        let watch = Watch::new(order.count, until);
        let (observers, parts): (Vec<_>, _) =
            (0..workers.count()).map(|_| observe::observer(&watch, &order.wish)).unzip();
        if !workers.observe(observers) {
            watch.end();
            let message = "a worker does not answer; nothing is observed";
            return Err(Error::new(ErrorCode::WorkerStalled, message));
        }
        self.last_id += 1;
        let id = self.last_id;
        let now = Instant::now();
        self.all.push(Observation {
            id,
            client,
            watch,
            parts,
            asked: now,
            ended: None,
            stopped: false,
            numbers: Numbers::default(),
            moment: (now, SystemTime::now()),
        });
        Ok(Response::Observing { id })
    }

    fn next(
        &mut self,
        client: ClientId,
        id: u64,
        stop: bool,
        clock: &Clock,
        names: &Names<'_>,
    ) -> Reply {
        let found = self.all.iter().position(|o| o.id == id && o.client == client);
        let Some(index) = found else {
            let message = format!("you have no observation {id}; it may have ended");
            return Err(Error::new(ErrorCode::NoSuchObservation, message));
        };
        let observation = &mut self.all[index];
        let now = Instant::now();
        observation.asked = now;
        if stop {
            observation.watch.end();
            observation.stopped = true;
        }
        if observation.watch.has_ended(clock.now()) {
            observation.ended.get_or_insert(now);
        }
        let settled = observation.ended.is_some_and(|ended| now - ended >= LAST_RECORDS);
        let (packets, more) = observation.take(now, names);
        let ended = (stop || (settled && !more)).then(|| observation.why());
        let watch = &observation.watch;
        let (left_out, passed_by) = (watch.left_out(), watch.passed_by());
        if ended.is_some() {
            self.all.swap_remove(index);
        }
        Ok(Response::Observed { packets, left_out, passed_by, ended })
    }
}

impl Observation {
    /// The records up to a moment, in their order, as many as an answer brings;
    /// whether there are more.
    fn take(&mut self, latest: Instant, names: &Names<'_>) -> (Vec<ObservedPacket>, bool) {
        let mut packets = Vec::new();
        let mut size = 0;
        loop {
            let first = self.parts.iter_mut().filter_map(|part| Some((part.at(latest)?, part)));
            let Some((_, part)) = first.min_by_key(|&(at, _)| at) else {
                return (packets, false);
            };
            if packets.len() == MAX_OBSERVED || size >= ANSWER_BYTES {
                return (packets, true);
            }
            let Some((record, bytes)) = part.next(latest) else { return (packets, false) };
            size += bytes.len();
            let (number, by) = self.numbers.of(&record, &bytes);
            let mut packet = told::packet(&record, &bytes, names);
            packet.number = number;
            packet.handed_over_by = by.map(u32::from);
            let (instant, time) = self.moment;
            let time = time + record.at.saturating_duration_since(instant);
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            packet.time_us = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
            packets.push(packet);
        }
    }

    fn why(&self) -> ObserveEnd {
        if self.watch.is_complete() {
            ObserveEnd::Count
        } else if self.stopped {
            ObserveEnd::Stopped
        } else {
            ObserveEnd::Time
        }
    }
}

/// What a client wants to see, checked.
#[derive(Debug)]
struct Order {
    wish: Wish,
    count: u64,
    seconds: u32,
}

impl Order {
    fn new(
        filter: &ObserveFilter,
        count: u64,
        snaplen: u32,
        rate: u32,
        seconds: u32,
    ) -> Result<Self, Error> {
        let check = |what: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let message = format!("{what} {value} is not {least} to {most}");
            Err(Error::new(ErrorCode::InvalidArgument, message))
        };
        check("count", count, 1, u64::MAX)?;
        check("snaplen", snaplen.into(), 0, MAX_SNAPLEN as u64)?;
        check("rate", rate.into(), 1, MAX_RATE.into())?;
        check("seconds", seconds.into(), 1, MAX_SECONDS.into())?;
        let end = |what: &str, address: Option<std::net::IpAddr>, port: Option<u16>| match address {
            Some(address) => Ok(Some(End { address, port })),
            None if port.is_none() => Ok(None),
            None => {
                let message = format!("{what}_port without {what}");
                Err(Error::new(ErrorCode::InvalidArgument, message))
            }
        };
        let wish = Wish {
            filter: Filter {
                client: end("client", filter.client, filter.client_port)?,
                vip: end("vip", filter.vip, filter.vip_port)?,
                server: end("server", filter.server, filter.server_port)?,
                protocol: filter.protocol.map(thought::protocol),
                drops: filter.drops,
            },
            snaplen: snaplen as usize,
            rate,
        };
        Ok(Self { wish, count, seconds })
    }
}

impl Daemon {
    /// Answers the requests that are about observations; `None` to others.
    ///
    /// A beginning is answered when all workers observe: they get a snapshot
    /// behind the observer, and run it, so they have taken up the observer.
    pub(super) fn observe(&mut self, client: ClientId, request: &Request) -> Option<Outcome> {
        let clock = &self.instruments.clock;
        Some(Outcome::Answer(match *request {
            Request::ObserveStart { ref filter, count, snaplen, rate, seconds } => {
                let order = Order::new(filter, count, snaplen, rate, seconds);
                let begun = order.and_then(|order| {
                    self.observations.start(client, &order, &mut self.workers, clock)
                });
                match begun {
                    Ok(response) => return Some(Outcome::Begun(response)),
                    refused => refused,
                }
            }
            Request::ObserveNext { id } | Request::ObserveStop { id } => {
                let stop = matches!(request, Request::ObserveStop { .. });
                let ports = self.port_names();
                let names = Names { registry: &self.registry, ports: &ports };
                self.observations.next(client, id, stop, &self.instruments.clock, &names)
            }
            _ => return None,
        }))
    }

    /// The ports' names, by index.
    pub(super) fn port_names(&self) -> Vec<String> {
        self.network.as_ref().map_or_else(Vec::new, super::Network::port_names)
    }
}

#[cfg(test)]
mod tests {
    use dataplane::update::{Reply, Update, channel};

    use super::*;

    fn order() -> Order {
        Order::new(&ObserveFilter::default(), 5, 100, 100, 60).unwrap()
    }

    #[test]
    fn an_observation_whose_client_does_not_come_ends() {
        let (control, mut link) = channel();
        let mut workers = Workers::new(vec![control]);
        let mut observations = Observations::default();
        let clock = Clock::start();
        let client = ClientId::test(1);
        let Ok(Response::Observing { id }) =
            observations.start(client, &order(), &mut workers, &clock)
        else {
            panic!("it begins")
        };
        let Some(Update::Observe(observer)) = link.receive() else { panic!("an observer") };
        let now = Instant::now();
        observations.expire(now + PATIENCE - Duration::from_secs(1));
        assert!(!observer.watch.has_ended(clock.now()) && observations.all.len() == 1);
        observations.expire(now + PATIENCE);
        assert!(observer.watch.has_ended(clock.now()));
        link.reply(Reply::Observed(observer));
        assert!(workers.collect(now).is_none());
        let registry = crate::registry::Registry::new(
            1,
            Vec::new(),
            crate::api::Timeouts { tcp: 900, tcp_fin: 120, udp: 300 },
        );
        let names = Names { registry: &registry, ports: &[] };
        let reply = observations.next(client, id, false, &clock, &names);
        assert_eq!(reply.unwrap_err().code, ErrorCode::NoSuchObservation);
    }

    #[test]
    fn a_worker_that_takes_nothing_lets_none_begin() {
        let (control, link) = channel();
        let mut workers = Workers::new(vec![control]);
        // The worker never looks at its queue.
        for _ in 0..64 {
            workers.inquire(0, dataplane::director::rehearsal::Inquiry::new(0, Vec::new()));
        }
        let mut observations = Observations::default();
        let started =
            observations.start(ClientId::test(1), &order(), &mut workers, &Clock::start());
        assert_eq!(started.unwrap_err().code, ErrorCode::WorkerStalled);
        assert!(observations.all.is_empty());
        drop(link);
    }
}
