//! The path of a packet, from the burst it came in to what becomes of it.
//!
//! [`Director::process`] reads top to bottom and is the only place where the
//! order of things is decided. It goes over the burst in stages, so that the
//! memory that a later stage needs is on its way while an earlier one works on
//! the other packets:
//!
//! 1. headers: parse; hash; ask for the table's group line
//! 2. tags: match; ask for the entry's line
//! 3. the rest, packet by packet: look up or open a connection, state,
//!    counters, rewrite, verdict
//!
//! It knows frames and ticks. The worker (`dpdk::worker`), the tests and the
//! benchmarks all drive it the same way.

use std::sync::Arc;

use crate::conn::ageing::SweepPace;
use crate::conn::entry::Body;
use crate::conn::table::Fate;
use crate::conn::{Entry, Entry4, Entry6, HashKey, Key4, Key6, Slot, State, Table};
use crate::counters::{Counters, DropReason};
use crate::forward::dr;
use crate::packet::headers::{Addresses, Parsed, parse, tcp};
use crate::packet::{Family, Frame, Headers, Protocol};
use crate::punt::{PuntKind, PuntLimiter, PuntLimits};
use crate::scheduler::Request;
use crate::service::{Hop, ServiceKey, destination, source};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::update::{ConnectionKey, ConnectionRow, Dump, Reply, Update, WorkerEnd};

/// Most packets in a burst.
pub const BURST: usize = 64;

/// Groups that one round of housekeeping reads at most for a listing, 32 KB in
/// order, and rows after which it stops: a burst waits a few microseconds only.
const DUMP_GROUPS: usize = 1024;
const DUMP_ROWS: usize = 512;
/// Rounds after which a listing is answered as far as it came. A worker that
/// has nothing to do sleeps between rounds, and control takes one that does not
/// answer for stalled.
const DUMP_ROUNDS: usize = 256;

/// What becomes of a packet. Drops are already counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it as it now is.
    Send {
        /// The port's index.
        port: u8,
    },
    /// Give it to the kernel, as if it had come in by its port.
    Punt,
    /// Give it to the worker that owns its connection.
    Handoff {
        /// The worker's index.
        worker: u8,
    },
    /// Free it.
    Drop(DropReason),
}

/// Whence a burst came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A port's receive queue. Packets may belong to other workers.
    Port,
    /// Another worker, which found that this one owns the packets.
    Handoff,
}

/// What a director is made with.
#[derive(Debug)]
pub struct DirectorConfig {
    /// Its worker's index.
    pub worker: usize,
    /// Ownership among all workers.
    pub shard: Arc<Shard>,
    /// Most connections, per address family.
    pub connections: usize,
    /// Key of the table hash.
    pub hash_key: HashKey,
    /// What the kernel is given.
    pub punt_limits: PuntLimits,
}

/// The packet logic of one worker, with all that it owns.
#[derive(Debug)]
pub struct Director {
    table4: Table<Entry4>,
    table6: Table<Entry6>,
    core: Core,
    staged: Box<[Staged; BURST]>,
    link: WorkerEnd,
    /// The listing under way, and the rounds that it took so far.
    dump: Option<(Box<Dump>, usize)>,
    sweep: SweepPace,
}

/// What forwarding a packet needs besides its table.
#[derive(Debug)]
struct Core {
    worker: usize,
    shard: Arc<Shard>,
    snapshot: Arc<Snapshot>,
    counters: Counters,
    punt: PuntLimiter,
}

/// A packet between two stages. Written field by field where it stays: see
/// [`parse`].
#[derive(Debug, Clone, Copy)]
struct Staged {
    decided: Option<Verdict>,
    /// Of the connection's key, in its family's table.
    hash: u64,
    headers: Headers,
}

impl Staged {
    const NONE: Self = Self { decided: None, hash: 0, headers: Headers::NONE };
}

impl Director {
    /// A director without services. It takes its configuration from `link`.
    ///
    /// # Errors
    /// When there is not enough memory for the tables.
    pub fn new(config: DirectorConfig, link: WorkerEnd) -> std::io::Result<Self> {
        let DirectorConfig { worker, shard, connections, hash_key, punt_limits } = config;
        let core = Core {
            worker,
            shard,
            snapshot: Arc::default(),
            counters: Counters::default(),
            punt: PuntLimiter::new(punt_limits),
        };
        Ok(Self {
            table4: Table::new(connections, hash_key)?,
            table6: Table::new(connections, hash_key)?,
            core,
            staged: Box::new([Staged::NONE; BURST]),
            link,
            dump: None,
            sweep: SweepPace::default(),
        })
    }

    /// Decides what becomes of each frame of a burst (at most [`BURST`]) and
    /// rewrites those that are to be sent. `verdicts` has room for as many.
    ///
    /// # Panics
    /// When the burst is too long or `verdicts` too short.
    pub fn process(
        &mut self,
        now: Tick,
        source: Source,
        frames: &mut [Frame<'_>],
        verdicts: &mut [Verdict],
    ) {
        let Self { table4, table6, core, staged, .. } = self;
        let staged = &mut staged[..frames.len()];
        let verdicts = &mut verdicts[..frames.len()];

        // Stage 1: what is it, is it ours, and where would its connection be?
        for (stage, frame) in staged.iter_mut().zip(frames.iter()) {
            stage.decided = core.classify(now, source, frame, &mut stage.headers).err();
            if stage.decided.is_some() {
                continue;
            }
            match key(&stage.headers) {
                Key::V4(key) => {
                    stage.hash = table4.hash(&key);
                    table4.prefetch_group(stage.hash);
                }
                Key::V6(key) => {
                    stage.hash = table6.hash(&key);
                    table6.prefetch_group(stage.hash);
                }
            }
        }

        // Stage 2: which entry is it, by its tag?
        for stage in staged.iter().filter(|stage| stage.decided.is_none()) {
            match stage.headers.family() {
                Family::V4 => table4.prefetch_entry(stage.hash),
                Family::V6 => table6.prefetch_entry(stage.hash),
            }
        }

        // Stage 3: forward it.
        for ((stage, frame), verdict) in staged.iter().zip(frames).zip(verdicts) {
            let Staged { decided, hash, headers } = stage;
            *verdict = match (decided, key(headers)) {
                (Some(verdict), _) => *verdict,
                (None, Key::V4(key)) => core.forward(table4, now, &key, *hash, headers, frame),
                (None, Key::V6(key)) => core.forward(table6, now, &key, *hash, headers, frame),
            };
        }
    }

    /// What is due once a loop: take up a new configuration, age connections,
    /// go on with a listing, publish the counters.
    pub fn housekeeping(&mut self, now: Tick) {
        while let Some(update) = self.link.receive() {
            self.take(update);
        }
        let groups = self.sweep.groups(now, self.table4.group_count());
        if groups > 0 {
            self.core.age(&mut self.table4, now, groups);
            self.core.age(&mut self.table6, now, groups);
        }
        if let Some((dump, rounds)) = self.dump.take() {
            self.go_on_with(dump, rounds + 1);
        }
        self.core.counters.connections = (self.table4.len() + self.table6.len()) as u64;
        self.link.shared().counters.publish(&self.core.counters);
    }

    /// The counters, for the parts that only the caller sees: what came in, and
    /// what could be sent, punted and handed over.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.core.counters
    }

    /// Whether all tables lie in reserved huge pages.
    #[must_use]
    pub fn uses_huge_pages(&self) -> bool {
        self.table4.is_huge() && self.table6.is_huge()
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Snapshot(snapshot) => {
                let epoch = snapshot.epoch;
                let retired = std::mem::replace(&mut self.core.snapshot, snapshot);
                if retired.timeouts != self.core.snapshot.timeouts {
                    self.table4.deadlines_are_outdated();
                    self.table6.deadlines_are_outdated();
                }
                self.link.running(epoch);
                self.link.reply(Reply::Retired(retired));
            }
            Update::Dump(dump) => match self.dump {
                // One listing at a time; control sends the next when it has
                // the last. Answered as it is, it makes control ask again.
                Some(_) => self.link.reply(Reply::Dump(dump)),
                None => self.dump = Some((dump, 0)),
            },
        }
    }

    /// Adds rows to a listing until it is full, finished, or has had its share
    /// of this loop.
    fn go_on_with(&mut self, mut dump: Box<Dump>, rounds: usize) {
        let timeouts = &self.core.snapshot.timeouts;
        let rows = &mut dump.rows;
        let share = rows.len() + DUMP_ROWS;
        let mut full = false;
        for _ in 0..DUMP_GROUPS {
            full = rows.capacity() - rows.len() < Table::<Entry4>::GROUP_SLOTS;
            let groups =
                if dump.ipv6 { self.table6.group_count() } else { self.table4.group_count() };
            dump.finished = dump.group >= groups;
            if full || dump.finished || rows.len() >= share {
                break;
            }
            let mut show = |key, body: &Body| {
                let (server, state) = (body.server, body.state());
                let expiry = timeouts.expiry(state, body.last());
                rows.push(ConnectionRow { key, server, state, expiry });
            };
            if dump.ipv6 {
                self.table6.scan(dump.group, |e| show(ConnectionKey::V6(e.key()), e.body()));
            } else {
                self.table4.scan(dump.group, |e| show(ConnectionKey::V4(e.key()), e.body()));
            }
            dump.group += 1;
        }
        if full || dump.finished || rounds == DUMP_ROUNDS {
            self.link.reply(Reply::Dump(dump));
        } else {
            self.dump = Some((dump, rounds));
        }
    }
}

impl Core {
    /// Stage 1: parses a frame. `Ok` when it may belong to a connection of this
    /// worker, otherwise the verdict.
    #[inline]
    fn classify(
        &mut self,
        now: Tick,
        source: Source,
        frame: &Frame<'_>,
        headers: &mut Headers,
    ) -> Result<(), Verdict> {
        let Some(port) = self.snapshot.ports.get(usize::from(frame.port)) else {
            // Before the first configuration nothing is ours.
            return Err(self.punt(now, PuntKind::Other));
        };
        match parse(frame, port.mac, headers) {
            Ok(Parsed::Flow) => {}
            Ok(Parsed::Kernel(kind)) => return Err(self.punt(now, kind)),
            Err(reason) => return Err(self.drop(reason)),
        }
        if headers.fragment {
            return Err(self.fragment(now, headers));
        }
        if source == Source::Port && self.shard.workers() > 1 {
            // NICs differ in whether they find ports behind options and
            // extension headers, and the connection's other packets have none.
            let hash = frame.rss_hash.filter(|_| headers.is_plain()).unwrap_or_else(|| {
                self.shard.hash(&headers.addresses, headers.src_port, headers.dst_port)
            });
            let worker = self.shard.owner(hash);
            if worker != self.worker {
                return Err(Verdict::Handoff { worker: worker as u8 });
            }
        }
        Ok(())
    }

    /// A fragment has no ports to find its connection by. Those to a service's
    /// address are dropped, others are the host's.
    fn fragment(&mut self, now: Tick, headers: &Headers) -> Verdict {
        if self.snapshot.services.has_address(headers.protocol, &headers.addresses) {
            return self.drop(DropReason::FragmentTableFull);
        }
        self.punt(now, punt_kind(headers))
    }

    /// Stage 3: the packet's connection, or a new one; its state; its counters;
    /// its way to the server.
    #[inline]
    fn forward<E: Entry>(
        &mut self,
        table: &mut Table<E>,
        now: Tick,
        key: &E::Key,
        hash: u64,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let slot = match self.find(table, hash, key, headers) {
            Some(slot) => slot,
            None => match self.open(table, now, key, hash, headers) {
                Ok(slot) => slot,
                Err(verdict) => return verdict,
            },
        };
        let body = table.entry_mut(slot).body_mut();
        let Some(server) = self.snapshot.server(body.server).filter(|s| !s.deleted) else {
            return self.drop(DropReason::ServerDeleted);
        };

        let old = body.state();
        let new = after(old, headers);
        if new != old {
            server.counts.connections.change(old.is_active(), new.is_active());
            body.set_state(new);
        }
        if new != old || body.last() != now {
            body.set_last(now);
            table.set_expiry(slot, now, self.snapshot.timeouts.expiry(new, now));
        }

        server.counts.packet(self.worker, u64::from(headers.ip_len));

        match server.hop {
            Hop::Port(hop) => match dr::forward(frame, headers, &hop) {
                Ok(()) => Verdict::Send { port: hop.port },
                Err(reason) => self.drop(reason),
            },
            Hop::Unresolved => self.drop(DropReason::NoNextHop),
            Hop::NoRoute => self.drop(DropReason::NoRoute),
            Hop::Local => self.punt(now, punt_kind(headers)),
        }
    }

    /// Finds the packet's connection. A SYN to one that is over, but still
    /// there, ends it, so that the new one is scheduled anew (the kernel's
    /// `conn_reuse_mode=1`).
    #[inline]
    fn find<E: Entry>(
        &mut self,
        table: &mut Table<E>,
        hash: u64,
        key: &E::Key,
        headers: &Headers,
    ) -> Option<Slot> {
        let slot = table.find(hash, key)?;
        if headers.tcp_flags & (tcp::SYN | tcp::RST) == tcp::SYN {
            let body = table.entry(slot).body();
            if body.state().is_reusable() {
                self.count_closed(body);
                table.remove(slot);
                return None;
            }
        }
        Some(slot)
    }

    /// Opens a connection for a packet that has none: service, then scheduler,
    /// then an entry. `Err` is the verdict where there is nothing to open.
    #[cold]
    fn open<E: Entry>(
        &mut self,
        table: &mut Table<E>,
        now: Tick,
        key: &E::Key,
        hash: u64,
        headers: &Headers,
    ) -> Result<Slot, Verdict> {
        let service_key = ServiceKey {
            protocol: headers.protocol,
            vip: destination(&headers.addresses),
            vport: headers.dst_port,
        };
        let Some(service) = self.snapshot.services.find(&service_key) else {
            return Err(self.punt(now, punt_kind(headers)));
        };
        if headers.protocol == Protocol::Tcp {
            if headers.tcp_flags & tcp::RST != 0 {
                return Err(self.drop(DropReason::TcpRstNoConnection));
            }
            if headers.tcp_flags & tcp::SYN == 0 {
                // The VIP is the kernel's, and its stack answers with RST.
                return Err(self.punt(now, PuntKind::Tcp));
            }
        }
        let request = Request {
            client: source(&headers.addresses),
            client_port: headers.src_port,
            destination: service_key.vip,
            now,
        };
        let chosen = service.scheduler.choose(&service.state, &service.candidates, &request);
        let Some((number, server)) = chosen.and_then(|n| Some((n, self.snapshot.server(n)?)))
        else {
            return Err(self.drop(DropReason::NoServer));
        };
        // The state after this packet, so that the caller, whose state machine
        // sees it once more (a second SYN changes nothing), has nothing to do.
        let state = after(State::None, headers);
        let entry = E::new(*key, Body::new(number, state, now));
        let expiry = self.snapshot.timeouts.expiry(state, now);
        let Ok(slot) = table.insert(hash, entry, now, expiry) else {
            return Err(self.drop(DropReason::TableFull));
        };
        server.counts.connections.open(state.is_active());
        server.counts.scheduled(self.worker);
        Ok(slot)
    }

    /// Removes the connections of the next groups whose time has come.
    fn age<E: Entry>(&mut self, table: &mut Table<E>, now: Tick, groups: usize) {
        table.sweep(now, groups, |entry| {
            let body = entry.body();
            let expiry = self.snapshot.timeouts.expiry(body.state(), body.last());
            if expiry > now {
                return Fate::Keep(expiry);
            }
            self.count_closed(body);
            self.counters.expired += 1;
            Fate::Remove
        });
    }

    fn count_closed(&self, body: &Body) {
        if let Some(server) = self.snapshot.server(body.server) {
            server.counts.connections.close(body.state().is_active());
        }
    }

    fn drop(&mut self, reason: DropReason) -> Verdict {
        self.counters.drop(reason);
        Verdict::Drop(reason)
    }

    fn punt(&mut self, now: Tick, kind: PuntKind) -> Verdict {
        if self.punt.allow(now, kind) { Verdict::Punt } else { self.drop(kind.limited()) }
    }
}

/// The key of a packet's connection, in either table.
enum Key {
    V4(Key4),
    V6(Key6),
}

#[inline]
fn key(headers: &Headers) -> Key {
    let Headers { protocol, src_port, dst_port, .. } = *headers;
    match headers.addresses {
        Addresses::V4 { src, dst } => Key::V4(Key4::new(protocol, src, src_port, dst, dst_port)),
        Addresses::V6 { src, dst } => Key::V6(Key6::new(protocol, src, src_port, dst, dst_port)),
    }
}

/// The state of a connection after a packet of its client.
#[inline]
const fn after(state: State, headers: &Headers) -> State {
    match headers.protocol {
        Protocol::Tcp => state.after_client_only(headers.tcp_flags),
        Protocol::Udp | Protocol::Sctp => State::Udp,
    }
}

/// The kind of a packet that no service takes.
const fn punt_kind(headers: &Headers) -> PuntKind {
    const BGP: u16 = 179;
    // RFC 5881, section 4, and RFC 5883, section 5.
    const BFD: [u16; 2] = [3784, 4784];
    let Headers { protocol, src_port, dst_port, .. } = *headers;
    match protocol {
        Protocol::Tcp if src_port == BGP || dst_port == BGP => PuntKind::Routing,
        Protocol::Tcp => PuntKind::Tcp,
        Protocol::Udp if dst_port == BFD[0] || dst_port == BFD[1] => PuntKind::Routing,
        Protocol::Udp | Protocol::Sctp => PuntKind::Other,
    }
}

#[cfg(test)]
mod tests;
