//! Observing packets: who wants to see which, and what is noted of one.
//!
//! Control gives a worker an [`Observer`], and the worker gives it back when the
//! observation has ended: told so, at its time, or after so many packets. In
//! between the worker puts a [`Record`] of each packet that matches, and the
//! packet's bytes as they came and as they left, into the observer's two rings.
//! It waits for nobody: what finds no room, or is beyond the rate, is counted.
//!
//! A worker without observers pays one comparison a burst. How it looks at
//! packets with one is in `director::observed`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::conn::State;
use crate::counters::DropReason;
use crate::director::{Handed, Source, Verdict};
use crate::outbox::{MAX_FRAME, To};
use crate::packet::{Protocol, Tuple};
use crate::punt::PuntKind;
use crate::scheduler::Scheduler;
use crate::service::{Hop, Method, ServiceKey};
use crate::time::{TICKS_PER_SECOND, Tick};

/// Observers of a worker at a time: those that control allows, and as many that
/// have ended and are still to be given back.
pub const MAX_OBSERVERS: usize = 8;
/// Most bytes of a packet that are kept: any frame's.
pub const MAX_SNAPLEN: usize = MAX_FRAME;
/// Most packets a second, of each worker.
pub const MAX_RATE: u32 = 100_000;
/// Packets of its own making that a record tells of.
pub const MADE: usize = 4;

/// Packets a second that a worker looks at closely for one observer, whether
/// they match or not: each costs some hundred nanoseconds more than usual.
const LOOKED_AT: u32 = 200_000;
/// Records that a worker's ring holds.
const RECORDS: usize = 1024;
/// Bytes of packets that it holds, besides one packet's.
const BYTES: usize = 512 * 1024;

/// Which packets to observe: those that have all that is asked for. A packet of
/// a connection, in either direction, has its client, its virtual address and
/// its server; any other its own two ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// The client.
    pub client: Option<End>,
    /// The virtual address.
    pub vip: Option<End>,
    /// The real server.
    pub server: Option<End>,
    /// The protocol; of an ICMP error that of the packet that it is about.
    pub protocol: Option<Protocol>,
    /// Only packets that are dropped.
    pub drops: bool,
}

/// An address with any port, or with one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The address.
    pub address: IpAddr,
    /// The port; any where there is none.
    pub port: Option<u16>,
}

impl End {
    /// Whether an end of a packet or connection is this one. Port 0 is unknown,
    /// as a fragment's, and may be any.
    #[must_use]
    pub fn is(&self, (address, port): (IpAddr, u16)) -> bool {
        self.address == address && self.port.is_none_or(|own| port == 0 || own == port)
    }

    fn is_one_of(&self, tuple: &Tuple) -> bool {
        self.is(tuple.source()) || self.is(tuple.destination())
    }
}

/// What a packet is, before it is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A whole TCP, UDP or SCTP packet.
    Flow,
    /// A fragment of one.
    Fragment,
    /// An ICMP error.
    IcmpError,
    /// The kernel's, whatever the services are.
    Kernel(PuntKind),
    /// To be dropped.
    Malformed(DropReason),
}

/// A connection as a packet finds it, or leaves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Addresses and ports of its client's packets.
    pub client: Tuple,
    /// Whether the packet is its server's.
    pub is_reply: bool,
    /// The server's number.
    pub server: u32,
    /// Its state.
    pub state: State,
    /// Whether it was opened by a persistence template.
    pub is_persistent: bool,
    /// Whether it is one in both directions (NAT, FULLNAT).
    pub is_pair: bool,
}

/// The service that a packet without a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub key: ServiceKey,
    /// How it chooses.
    pub scheduler: Scheduler,
    /// Whether every packet is scheduled on its own.
    pub one_packet: bool,
    /// Whether it is persistent.
    pub is_persistent: bool,
    /// The server that the client's persistence template names.
    pub template: Option<u32>,
}

/// The server that a packet goes to, or comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Its number.
    pub number: u32,
    /// rip and rport.
    pub address: SocketAddr,
    /// Its method now; a connection in both directions keeps its own.
    pub method: Method,
    /// How its packets leave.
    pub hop: Hop,
    /// Its weight.
    pub weight: u32,
    /// Whether it was deleted.
    pub deleted: bool,
}

/// A packet's length, and how much of it was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Length {
    /// Bytes on the wire, without the checksum of the frame.
    pub whole: u32,
    /// Bytes in the ring.
    pub kept: u16,
}

/// A packet that the director made of, or because of, another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Whereto.
    pub to: To,
    /// Its length.
    pub len: Length,
}

/// What a worker noted of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// When, just before it was looked at.
    pub at: Instant,
    /// The worker.
    pub worker: u8,
    /// Whence it came.
    pub source: Source,
    /// The port that it came in by: the device's.
    pub device: u8,
    /// The same, a VLAN's where it has one.
    pub port: u8,
    /// The VLAN id of its tag.
    pub vlan: Option<u16>,
    /// What the worker said that handed it over.
    pub handed: Handed,
    /// What it is.
    pub seen: Seen,
    /// Its protocol, if it is one that services have; of an ICMP error that of
    /// the packet that it is about.
    pub protocol: Option<Protocol>,
    /// Its addresses and ports as far as they could be read, ports else 0; of
    /// an ICMP error those of the other direction of the packet that it is
    /// about, by which its connection is found.
    pub tuple: Option<Tuple>,
    /// TCP's flags, or the type of SCTP's first chunk.
    pub flags: u8,
    /// The service, of a packet that had no connection before.
    pub target: Option<Target>,
    /// The connection that it found.
    pub before: Option<Sight>,
    /// The connection that it has now.
    pub after: Option<Sight>,
    /// Whether it opened the latter.
    pub opened: bool,
    /// The server.
    pub server: Option<Chosen>,
    /// What became of it.
    pub verdict: Verdict,
    /// It waits for a neighbour's MAC address.
    pub waits: bool,
    /// As it came.
    pub came: Length,
    /// As it is now.
    pub left: Length,
    /// Packets made, the first [`MADE`] of them.
    pub made: [Option<Made>; MADE],
    /// How many were made.
    pub made_count: u16,
}

impl Record {
    /// How many bytes of the ring belong to it: as it came, as it left, and
    /// those of the packets made.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let made: usize = self.made.iter().flatten().map(|made| usize::from(made.len.kept)).sum();
        usize::from(self.came.kept) + usize::from(self.left.kept) + made
    }
}

/// What all parts of an observation share.
#[derive(Debug)]
pub struct Watch {
    /// Packets that it is still to see.
    wanted: AtomicU64,
    /// When it ends by itself.
    until: Tick,
    ended: AtomicBool,
    /// Packets that matched and were beyond the rate, or found no room.
    left_out: AtomicU64,
    /// Packets that were not looked at, so that forwarding goes on.
    passed_by: AtomicU64,
}

impl Watch {
    /// For so many packets, until then.
    #[must_use]
    pub fn new(packets: u64, until: Tick) -> Arc<Self> {
        Arc::new(Self {
            wanted: AtomicU64::new(packets),
            until,
            ended: AtomicBool::new(packets == 0),
            left_out: AtomicU64::new(0),
            passed_by: AtomicU64::new(0),
        })
    }

    /// Ends it. Workers give their parts back soon.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self, now: Tick) -> bool {
        self.ended.load(Ordering::Relaxed) || now >= self.until
    }

    /// Whether it has seen all that it was to.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) == 0
    }

    /// Packets that matched and are in no record.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Packets of which nobody knows whether they matched.
    #[must_use]
    pub fn passed_by(&self) -> u64 {
        self.passed_by.load(Ordering::Relaxed)
    }

    /// Takes one of the packets that are to be seen. False when there is none.
    fn take(&self) -> bool {
        let one_less = |wanted: u64| wanted.checked_sub(1);
        let taken = self.wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if taken.is_ok_and(|before| before > 1) {
            return true;
        }
        self.end();
        taken.is_ok()
    }
}

/// So many a second, in portions of a tick.
#[derive(Debug)]
struct Share {
    rate: u32,
    /// In units of a packet times `TICKS_PER_SECOND`.
    left: u32,
    filled: Tick,
}

impl Share {
    const fn new(rate: u32) -> Self {
        Self { rate, left: Self::most(rate), filled: Tick(0) }
    }

    /// What may come at once: a second's.
    const fn most(rate: u32) -> u32 {
        rate * TICKS_PER_SECOND
    }

    fn take(&mut self, now: Tick) -> bool {
        if now > self.filled {
            let more = self.rate.saturating_mul(now.0 - self.filled.0);
            self.left = self.left.saturating_add(more).min(Self::most(self.rate));
            self.filled = now;
        }
        let taken = self.left.checked_sub(TICKS_PER_SECOND);
        self.left = taken.unwrap_or(self.left);
        taken.is_some()
    }
}

/// What is wanted of each worker.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Which packets.
    pub filter: Filter,
    /// Most bytes of each, at most [`MAX_SNAPLEN`].
    pub snaplen: usize,
    /// Most of them a second, 1 to [`MAX_RATE`].
    pub rate: u32,
}

/// The worker's end of an observation.
#[derive(Debug)]
pub struct Observer {
    /// What it shares.
    pub watch: Arc<Watch>,
    /// Which packets.
    pub filter: Filter,
    records: rtrb::Producer<Record>,
    bytes: rtrb::Producer<u8>,
    rate: Share,
    looks: Share,
    /// The packet as it came.
    came: Box<[u8]>,
    /// How much of it that is.
    kept: usize,
}

/// Control's end.
#[derive(Debug)]
pub struct Observed {
    records: rtrb::Consumer<Record>,
    bytes: rtrb::Consumer<u8>,
}

/// Connects a worker's part of an observation with control.
#[must_use]
pub fn observer(watch: &Arc<Watch>, wish: &Wish) -> (Observer, Observed) {
    let snaplen = wish.snaplen.min(MAX_SNAPLEN);
    let (records, records_out) = rtrb::RingBuffer::new(RECORDS);
    let (bytes, bytes_out) = rtrb::RingBuffer::new(BYTES + (2 + MADE) * snaplen);
    let observer = Observer {
        watch: Arc::clone(watch),
        filter: wish.filter,
        records,
        bytes,
        rate: Share::new(wish.rate.clamp(1, MAX_RATE)),
        looks: Share::new(LOOKED_AT),
        came: vec![0; snaplen].into_boxed_slice(),
        kept: 0,
    };
    (observer, Observed { records: records_out, bytes: bytes_out })
}

impl Observed {
    /// When the next record is of, if it is not of after `latest`.
    #[must_use]
    pub fn at(&self, latest: Instant) -> Option<Instant> {
        self.records.peek().ok().map(|record| record.at).filter(|at| *at <= latest)
    }

    /// The next record with its bytes ([`Record::bytes`]), if it is not of after
    /// `latest`.
    ///
    /// A worker publishes the record of a packet before it hands the packet
    /// over. So who reads all workers' records up to one moment has both parts
    /// of such a packet, or the first.
    pub fn next(&mut self, latest: Instant) -> Option<(Record, Vec<u8>)> {
        let record = *self.records.peek().ok().filter(|record| record.at <= latest)?;
        // Written before the record was.
        let chunk = self.bytes.read_chunk(record.bytes()).ok()?;
        let bytes = chunk.into_iter().collect();
        let _ = self.records.pop();
        Some((record, bytes))
    }
}

impl Observer {
    /// Whether a packet is to be looked at closely. One that might have been is
    /// counted.
    pub(crate) fn looks_at(&mut self, now: Tick) -> bool {
        let looks = self.looks.take(now);
        if !looks {
            self.watch.passed_by.fetch_add(1, Ordering::Relaxed);
        }
        looks
    }

    /// Keeps a packet as it came.
    pub(crate) fn keep(&mut self, bytes: &[u8]) {
        self.kept = bytes.len().min(self.came.len());
        self.came[..self.kept].copy_from_slice(&bytes[..self.kept]);
    }

    /// Puts a record into the rings, with the packet as it was kept, as it is
    /// now, and those that were made. `record` has all but lengths in the ring.
    pub(crate) fn note<'a>(
        &mut self,
        now: Tick,
        mut record: Record,
        left: &[u8],
        made: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        if self.watch.has_ended(now) {
            return;
        }
        let snaplen = self.came.len();
        record.came.kept = self.kept as u16;
        record.left.kept = left.len().min(snaplen) as u16;
        for (made, bytes) in record.made.iter_mut().flatten().zip(made.clone()) {
            made.len.kept = bytes.len().min(snaplen) as u16;
        }
        let room = !self.records.is_full() && self.bytes.slots() >= record.bytes();
        if !room || !self.rate.take(now) {
            self.watch.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // The rest of its way is another worker's to tell, and is what counts.
        if !matches!(record.verdict, Verdict::Handoff { .. }) && !self.watch.take() {
            return;
        }
        let pieces = made.take(MADE).map(|bytes| &bytes[..bytes.len().min(snaplen)]);
        let parts = [&self.came[..self.kept], &left[..usize::from(record.left.kept)]];
        let all = parts.into_iter().chain(pieces).flatten().copied();
        if let Ok(chunk) = self.bytes.write_chunk_uninit(record.bytes()) {
            chunk.fill_from_iter(all);
        }
        // There is room.
        let _ = self.records.push(record);
    }
}

impl Filter {
    /// Whether a record is of a packet that is to be observed.
    pub(crate) fn matches(&self, record: &Record) -> bool {
        if self.drops && !matches!(record.verdict, Verdict::Drop(_)) {
            return false;
        }
        if self.protocol.is_some() && self.protocol != record.protocol {
            return false;
        }
        let connection = record.after.or(record.before).map(|sight| sight.client);
        if let (Some(client), Verdict::Handoff { .. }) = (self.client, record.verdict) {
            // Of a server's packet this worker knows no more than the client.
            return record.tuple.is_some_and(|tuple| client.is_one_of(&tuple));
        }
        let is_end = |end: &End, of_connection: fn(&Tuple) -> (IpAddr, u16)| match connection {
            Some(tuple) => end.is(of_connection(&tuple)),
            None => record.tuple.is_some_and(|tuple| end.is_one_of(&tuple)),
        };
        let is_server = |end: &End| match record.server {
            Some(server) => {
                let vport = connection.map_or(0, |tuple| tuple.destination().1);
                let port = if server.address.port() == 0 { vport } else { server.address.port() };
                end.is((server.address.ip(), port))
            }
            None => record.tuple.is_some_and(|tuple| end.is_one_of(&tuple)),
        };
        self.client.is_none_or(|end| is_end(&end, Tuple::source))
            && self.vip.is_none_or(|end| is_end(&end, Tuple::destination))
            && self.server.is_none_or(|end| is_server(&end))
    }

    /// Whether a packet may turn out to match, by what is in it. `is_local` and
    /// `is_nat` say whether it may be a server's under FULLNAT and under NAT,
    /// `is_vip` whether it may be to a service.
    pub(crate) fn may_match(
        &self,
        protocol: Option<Protocol>,
        tuple: Option<&Tuple>,
        (is_local, is_nat, is_vip): (bool, bool, bool),
    ) -> bool {
        if self.protocol.is_some() && protocol.is_some() && self.protocol != protocol {
            return false;
        }
        let is_end = |end: &End| tuple.is_some_and(|tuple| end.is_one_of(tuple));
        self.client.is_none_or(|end| is_local || is_end(&end))
            && self.vip.is_none_or(|end| is_local || is_nat || is_end(&end))
            && self.server.is_none_or(|end| is_vip || is_end(&end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_second_at_once_and_then_its_rate() {
        let mut share = Share::new(10);
        let taken = |share: &mut Share, now| (0..100).filter(|_| share.take(Tick(now))).count();
        assert_eq!(taken(&mut share, 5), 10);
        assert_eq!(taken(&mut share, 5), 0);
        let later: usize = (6..6 + 2 * TICKS_PER_SECOND).map(|now| taken(&mut share, now)).sum();
        assert_eq!(later, 20);
    }

    #[test]
    fn a_watch_ends_with_its_last_packet_or_at_its_time() {
        let watch = Watch::new(2, Tick(9));
        assert!(watch.take() && !watch.has_ended(Tick(8)) && watch.has_ended(Tick(9)));
        assert!(watch.take() && watch.has_ended(Tick(0)) && watch.is_complete());
        assert!(!watch.take());
        assert!(Watch::new(0, Tick(9)).has_ended(Tick(0)));
    }

    #[test]
    fn an_end_with_a_port_is_that_or_an_unknown_one() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let end = End { address, port: Some(80) };
        assert!(end.is((address, 80)) && end.is((address, 0)) && !end.is((address, 81)));
        assert!(End { address, port: None }.is((address, 81)));
        assert!(!end.is(([10, 0, 0, 2].into(), 80)));
    }
}
