//! The path of a packet, from the burst it came in to what becomes of it.
//!
//! [`Director::process`] reads top to bottom and is the only place where the
//! order of things is decided. It goes over the burst in stages, so that the
//! memory that a later stage needs is on its way while an earlier one works on
//! the other packets:
//!
//! 1. headers: parse; is it ours; hash; ask for the table's group line
//!    (`Core::read`)
//! 2. tags: match; ask for the entry's line (`find_entries`)
//! 3. the entry: ask for its server's line (`find_servers`)
//! 4. the rest, packet by packet: look up or open a connection, state,
//!    counters, rewrite, verdict (`Core::forward_all`)
//!
//! Most packets are plain ones of established connections, and go a short way
//! through stages 1 and 4 (`Core::short`, what it does to the bytes in `short`)
//! that does what the long one would. The long way out is in `send`, by
//! forwarding method, and what it does to the bytes in `rewrite`; `ownership`
//! says whose a packet is. What is rare has
//! files of its own: `open` the first packet of a connection, `take_up` one in
//! the middle of another director's, `icmp` errors
//! made and passed on, `fragments`, `ageing`, `listing`, `observed`,
//! `rehearsal`.
//!
//! It knows frames and ticks. The worker (`dpdk::worker`), the tests and the
//! benchmarks all drive it the same way.

mod ageing;
mod fragments;
mod icmp;
mod listing;
mod observed;
mod open;
mod ownership;
pub mod rehearsal;
mod rewrite;
mod send;
mod short;
mod take_up;

use std::sync::Arc;

use self::observed::Observers;
use self::short::Short;
use crate::conn::ageing::SweepPaces;
use crate::conn::persistence::Templates;
use crate::conn::{Entry, Entry4, Entry6, HashKey, Place, Slot, State, Tabled, Tables};
use crate::counters::{Counters, DropReason};
use crate::forward::tun::Ids;
use crate::fragment::Fragments;
use crate::icmp::{IcmpLimiter, IcmpLimits};
use crate::outbox::Outbox;
use crate::packet::headers::{
    Addresses, Mac48, Parsed, Plain, parse, plain_family, plain4, plain6, sctp, tcp, vlan_id,
};
use crate::packet::{Family, Frame, Headers, Key4, Key6, Protocol, Tuple, Tuple4, Tuple6};
use crate::pending::Pending;
use crate::punt::{PuntKind, PuntLimiter, PuntLimits};
use crate::service::{Method, Server, ShortMethod};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::update::{Reply, Update, WorkerEnd};
use listing::Listing;

/// Most packets in a burst.
pub const BURST: usize = 64;

/// Datagrams whose fragments one worker follows, and early fragments that it
/// holds.
const FRAGMENTED: (usize, usize) = (4096, 256);

/// What becomes of a packet. Drops are already counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Send it as it now is.
    Send {
        /// The port's index. A VLAN's is not that of its device.
        port: u8,
    },
    /// Give it to the kernel, as if it had come in by its port
    /// ([`Frame::port`]).
    Punt,
    /// Give it to the worker that owns its connection.
    Handoff {
        /// The worker's index.
        worker: u8,
        /// What that worker is to know.
        handed: Handed,
    },
    /// Free it: its bytes live on in the outbox or in the fragment table, and
    /// are counted there.
    Absorbed,
    /// Free it.
    Drop(DropReason),
}

/// What a worker tells another with a packet that it hands over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handed {
    /// Where the packet may have several owners: the place of the next one, in
    /// the order in which they are asked. 0 until one was asked in vain.
    pub candidate: u16,
    /// Of a fragment: the ports of its datagram, source and destination.
    pub ports: Option<(u16, u16)>,
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
    /// Most entries, per address family. A connection under NAT or FULLNAT has
    /// two, others have one.
    pub connections: usize,
    /// Key of the table hash.
    pub hash_key: HashKey,
    /// What the kernel is given.
    pub punt_limits: PuntLimits,
    /// ICMP errors that it makes.
    pub icmp_limits: IcmpLimits,
    /// Persistence templates, one table for all workers.
    pub templates: Arc<Templates>,
    /// Any number: where local ports and packet ids begin.
    pub random: u32,
}

/// The packet logic of one worker, with all that it owns.
#[derive(Debug)]
pub struct Director {
    snapshot: Arc<Snapshot>,
    tables: Tables,
    fragments: Fragments,
    core: Core,
    staged: Box<[Staged; BURST]>,
    headers: Box<[Headers; BURST]>,
    /// The listing under way.
    listing: Option<Listing>,
    /// Packets that came in up to the last round of housekeeping.
    packets: u64,
    observers: Observers,
    sweep: SweepPaces,
}

/// What forwarding a packet needs besides the tables.
#[derive(Debug)]
struct Core {
    worker: usize,
    shard: Arc<Shard>,
    counters: Counters,
    punt: PuntLimiter,
    icmp: IcmpLimiter,
    outbox: Outbox,
    pending: Pending,
    templates: Arc<Templates>,
    ids: Ids,
    /// Where the search for a local port goes on.
    next_local: u32,
    /// Until when there may be TCP connections that found the table full and
    /// have no entry.
    stateless_until: Tick,
    /// Whether a connection may have opened since stage 1 looked for the home
    /// groups of the burst's packets.
    opened: bool,
    link: WorkerEnd,
    /// See [`Director::foreign_packets`].
    #[cfg(debug_assertions)]
    foreign: u64,
}

/// What is the same for all packets of a burst.
#[derive(Debug, Clone, Copy)]
struct Context<'a> {
    now: Tick,
    snapshot: &'a Snapshot,
}

/// A burst on its way through the stages.
struct Burst<'b, 'f> {
    source: Source,
    frames: &'b mut [Frame<'f>],
    verdicts: &'b mut [Verdict],
    staged: &'b mut [Staged],
    /// Of packets that go the long way. Others' are in `staged`.
    headers: &'b mut [Headers],
}

/// A packet between two stages: one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Staged {
    /// Of the packet's key, in its family's table.
    hash: u64,
    /// The key, of a packet on the short way. That of IPv4 has two words.
    key: [u64; 5],
    /// Where its entry is, most likely.
    slot: Slot,
    /// Its home group, as it was in stage 1: where the table has grown since,
    /// what the next stages ask for is in vain.
    home: u32,
    kind: Kind,
    tcp_flags: u8,
    /// Length of the IP packet; [`NOT_PLAIN`] of one that is too uncommon for
    /// the short way, as an option or a VLAN tag makes it.
    ip_len: u16,
}

/// Longer than what fits through any port.
const NOT_PLAIN: u16 = u16::MAX;

const _: () = assert!(size_of::<Staged>() == 64);

/// What stage 1 makes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Plain IPv4, for which the short way may do.
    Short4,
    /// IPv4 that may belong to a connection of this worker.
    Flow4,
    /// As `Short4`, of IPv6.
    Short6,
    /// As `Flow4`, of IPv6.
    Flow6,
    /// Plain IPv4 that may open a connection.
    First4,
    /// The same of IPv6.
    First6,
    /// Of no connection, as stage 2 found out.
    New,
    /// The same of plain IPv4, whose headers are not put together.
    New4,
    /// The same of IPv6.
    New6,
    /// An ICMP error about a packet that may.
    IcmpError,
    /// It is decided.
    Decided,
}

impl Staged {
    const NONE: Self = Self {
        hash: 0,
        key: [0; 5],
        slot: Slot::from_number(0),
        home: 0,
        kind: Kind::Decided,
        tcp_flags: 0,
        ip_len: 0,
    };

    #[inline(always)]
    fn set_key4(&mut self, key: Key4) {
        [self.key[0], self.key[1]] = key.words();
    }

    #[inline(always)]
    fn key4(&self) -> Key4 {
        bytemuck::must_cast([self.key[0], self.key[1]])
    }

    #[inline(always)]
    fn key6(&self) -> Key6 {
        bytemuck::must_cast(self.key)
    }

    /// Whether its connection would be in the IPv6 table.
    const fn is_v6(&self) -> bool {
        matches!(self.kind, Kind::Short6 | Kind::First6 | Kind::New6 | Kind::Flow6)
    }

    /// The headers of a plain packet.
    fn headers(&self, family: Family) -> Headers {
        let Self { tcp_flags, ip_len, .. } = *self;
        match family {
            Family::V4 => Plain { key: self.key4(), tcp_flags, ip_len }.into(),
            Family::V6 => Plain { key: self.key6(), tcp_flags, ip_len }.into(),
        }
    }

    /// Goes the long way instead of the short one.
    #[inline(never)]
    fn take_the_long_way(&mut self, headers: &mut Headers) {
        let (family, long) = match self.kind {
            Kind::Short4 | Kind::First4 | Kind::New4 => (Family::V4, Kind::Flow4),
            Kind::Short6 | Kind::First6 | Kind::New6 => (Family::V6, Kind::Flow6),
            _ => return,
        };
        *headers = self.headers(family);
        self.kind = long;
    }
}

impl Director {
    /// A director without services. It takes its configuration from `link`.
    ///
    /// # Errors
    /// When there is not enough memory for the tables.
    pub fn new(config: DirectorConfig, link: WorkerEnd) -> std::io::Result<Self> {
        let (datagrams, held) = FRAGMENTED;
        Ok(Self {
            snapshot: Arc::default(),
            tables: Tables::new(config.connections, config.hash_key)?,
            fragments: Fragments::new(datagrams, held, config.hash_key),
            core: Core {
                worker: config.worker,
                ids: Ids::new(config.worker, config.shard.workers(), config.random),
                shard: config.shard,
                counters: Counters::default(),
                punt: PuntLimiter::new(config.punt_limits),
                icmp: IcmpLimiter::new(config.icmp_limits),
                outbox: Outbox::default(),
                pending: Pending::default(),
                templates: config.templates,
                next_local: config.random,
                stateless_until: Tick(0),
                opened: false,
                link,
                #[cfg(debug_assertions)]
                foreign: 0,
            },
            staged: Box::new([Staged::NONE; BURST]),
            headers: Box::new([Headers::NONE; BURST]),
            listing: None,
            packets: 0,
            observers: Observers::default(),
            sweep: SweepPaces::default(),
        })
    }

    /// Decides what becomes of each frame of a burst (at most [`BURST`]) and
    /// rewrites those that are to be sent. `verdicts` has room for as many.
    /// What the director itself has to send is in the outbox afterwards.
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
        if !self.observers.is_empty() {
            return self.process_observed(now, source, frames, verdicts);
        }
        self.process_all(now, source, frames, verdicts);
    }

    /// [`Director::process`] whether anyone observes it or not.
    #[inline(always)]
    fn process_all(
        &mut self,
        now: Tick,
        source: Source,
        frames: &mut [Frame<'_>],
        verdicts: &mut [Verdict],
    ) {
        let Self { snapshot, tables, fragments, core, staged, headers, .. } = self;
        let cx = Context { now, snapshot };
        let burst = &mut Burst {
            source,
            staged: &mut staged[..frames.len()],
            headers: &mut headers[..frames.len()],
            verdicts: &mut verdicts[..frames.len()],
            frames,
        };
        core.opened = false;
        core.read(cx, tables, fragments, burst);
        if source == Source::Handoff {
            leave_hints_to_the_long_way(burst);
        }
        find_entries(tables, burst);
        if !is_all_near(cx, tables) {
            find_servers(cx, tables, burst.staged);
        }
        core.forward_all(cx, tables, burst);
    }

    /// What the director itself has to send since the last burst. To be emptied
    /// by the caller.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.core.outbox
    }

    /// What is due once a loop: take up a new configuration, age connections,
    /// go on with a listing, publish the counters.
    pub fn housekeeping(&mut self, now: Tick) {
        while let Some(update) = self.core.link.receive() {
            self.take(update);
        }
        self.age(now);
        let Counters { rx, taken_over, injected, .. } = self.core.counters;
        let packets = rx + taken_over + injected;
        self.go_on_listing(packets == self.packets);
        self.packets = packets;
        if !self.observers.is_empty() {
            self.end_observations(now);
        }
        self.core.counters.connections = self.tables.connections() as u64;
        self.core.counters.entries = [self.tables.v4.len() as u64, self.tables.v6.len() as u64];
        self.core.link.shared().counters.publish(&self.core.counters);
        // Last: what this puts into the outbox leaves in the next loop, and is
        // not to be published as generated before.
        if !self.core.pending.is_empty() {
            self.core.send_pending(Context { now, snapshot: &self.snapshot });
        }
    }

    /// The counters, for the parts that only the caller sees: what came in, and
    /// what could be sent, punted and handed over.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.core.counters
    }

    /// Packets that found their connection in this worker's table although
    /// another worker owns it: 0, or ownership is broken. Counted in debug
    /// builds only.
    #[cfg(debug_assertions)]
    #[must_use]
    pub fn foreign_packets(&self) -> u64 {
        self.core.foreign
    }

    /// Makes the memory ready that the first connections take. For the thread
    /// that is to run the director, before it does: it takes some milliseconds,
    /// and the memory is to be on that thread's NUMA node.
    pub fn prepare(&self) {
        self.tables.prepare();
    }

    /// Whether all tables lie in reserved huge pages.
    #[must_use]
    pub fn uses_huge_pages(&self) -> bool {
        self.tables.v4.is_huge() && self.tables.v6.is_huge()
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Snapshot(snapshot) => {
                let epoch = snapshot.epoch;
                let retired = std::mem::replace(&mut self.snapshot, snapshot);
                if retired.timeouts != self.snapshot.timeouts
                    || self.snapshot.settings.expire_nodest_conn
                {
                    self.tables.v4.deadlines_are_outdated();
                    self.tables.v6.deadlines_are_outdated();
                }
                self.core.link.running(epoch);
                self.core.link.reply(Reply::Retired(retired));
            }
            Update::Dump(dump) => match self.listing {
                // One listing at a time; control sends the next when it has
                // the last. Answered as it is, it makes control ask again.
                Some(_) => self.core.link.reply(Reply::Dump(dump)),
                None => self.listing = Some(Listing::new(dump)),
            },
            Update::Inquire(mut inquiry) => {
                self.tell(&mut inquiry);
                self.core.link.reply(Reply::Told(inquiry));
            }
            Update::Observe(observer) => {
                if let Some(observer) = self.observers.add(observer) {
                    self.core.link.reply(Reply::Observed(observer));
                }
            }
        }
    }
}

impl Core {
    /// Stage 1: what is it, is it ours, and where would its connection be?
    #[inline(never)]
    fn read(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        fragments: &mut Fragments,
        burst: &mut Burst<'_, '_>,
    ) {
        let Burst { source, frames, verdicts, staged, headers } = burst;
        let hands_over = *source == Source::Port && self.shard.workers() > 1;
        let mac = |port: u8| {
            let port = cx.snapshot.ports.get(usize::from(port));
            port.map_or(Mac48::NONE, |port| port.mac.into())
        };
        // Most bursts come by one port.
        let mut known = (0, mac(0));
        for (i, (stage, frame)) in staged.iter_mut().zip(frames.iter_mut()).enumerate() {
            if frame.port != known.0 {
                known = (frame.port, mac(frame.port));
            }
            match plain_family(frame.bytes(), known.1) {
                Some(Family::V4) => {
                    if let Some(plain) = plain4(frame) {
                        let Plain { key, tcp_flags, ip_len } = plain;
                        if hands_over {
                            let tuple = Tuple::V4(key.tuple());
                            let to = self.plain_elsewhere(cx.snapshot, frame, &plain, &tuple);
                            if let Some(handoff) = to {
                                (stage.kind, verdicts[i]) = (Kind::Decided, handoff);
                                continue;
                            }
                        }
                        stage.hash = tables.v4.hash(&key);
                        stage.home = tables.v4.prefetch_group(stage.hash);
                        stage.set_key4(key);
                        (stage.ip_len, stage.tcp_flags) = (ip_len, tcp_flags);
                        let is_short = is_short(key.protocol(), tcp_flags);
                        stage.kind = if is_short { Kind::Short4 } else { Kind::First4 };
                        continue;
                    }
                }
                Some(Family::V6) => {
                    if let Some(plain) = plain6(frame) {
                        let Plain { key, tcp_flags, ip_len } = plain;
                        if hands_over {
                            let tuple = Tuple::V6(key.tuple());
                            let to = self.plain_elsewhere(cx.snapshot, frame, &plain, &tuple);
                            if let Some(handoff) = to {
                                (stage.kind, verdicts[i]) = (Kind::Decided, handoff);
                                continue;
                            }
                        }
                        stage.hash = tables.v6.hash(&key);
                        stage.home = tables.v6.prefetch_group(stage.hash);
                        stage.key = key.words();
                        (stage.ip_len, stage.tcp_flags) = (ip_len, tcp_flags);
                        let is_short = is_short(key.protocol(), tcp_flags);
                        stage.kind = if is_short { Kind::Short6 } else { Kind::First6 };
                        continue;
                    }
                }
                None => {}
            }
            self.read_rare(cx, tables, fragments, frame, &mut headers[i], stage, &mut verdicts[i]);
            if hands_over && matches!(stage.kind, Kind::Flow4 | Kind::Flow6) {
                self.hand_over(cx, frame, &headers[i], stage, &mut verdicts[i]);
            }
        }
    }

    /// Decides that another worker gets a packet that is not plain, where that
    /// one owns it.
    #[inline(never)]
    fn hand_over(
        &self,
        cx: Context<'_>,
        frame: &Frame<'_>,
        headers: &Headers,
        stage: &mut Staged,
        verdict: &mut Verdict,
    ) {
        // NICs differ in whether they find ports behind options and extension
        // headers, and the connection's other packets have none.
        let nic = frame.rss_hash.filter(|_| headers.is_plain());
        if let Some(handoff) = self.unless_own(self.owner(cx.snapshot, headers, nic)) {
            (stage.kind, *verdict) = (Kind::Decided, handoff);
        }
    }

    /// Stage 1 of a frame that is not plain.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "the whole packet")]
    fn read_rare(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        fragments: &mut Fragments,
        frame: &mut Frame<'_>,
        headers: &mut Headers,
        stage: &mut Staged,
        verdict: &mut Verdict,
    ) {
        stage.kind = Kind::Decided;
        stage.ip_len = NOT_PLAIN;
        match self.classify(cx, frame, headers) {
            Ok(Parsed::Flow) if headers.fragment => {
                *verdict = self.fragment(cx, tables, fragments, frame, headers);
                self.opened = true;
            }
            Ok(Parsed::Flow) => match key(headers) {
                Key::V4(key) => {
                    stage.kind = Kind::Flow4;
                    stage.hash = tables.v4.hash(&key);
                    stage.set_key4(key);
                    stage.home = tables.v4.prefetch_group(stage.hash);
                }
                Key::V6(key) => {
                    stage.kind = Kind::Flow6;
                    stage.hash = tables.v6.hash(&key);
                    stage.key = key.words();
                    stage.home = tables.v6.prefetch_group(stage.hash);
                }
            },
            Ok(_) => stage.kind = Kind::IcmpError,
            Err(decided) => *verdict = decided,
        }
    }

    /// Parses any frame: a flow or an ICMP error. `Err` is the verdict of one
    /// that is no service's.
    fn classify(
        &mut self,
        cx: Context<'_>,
        frame: &mut Frame<'_>,
        headers: &mut Headers,
    ) -> Result<Parsed, Verdict> {
        if let Some(id) = vlan_id(frame.bytes()) {
            match cx.snapshot.vlan_port(frame.port, id) {
                Some(port) => frame.port = port,
                None => return Err(self.drop(DropReason::VlanUnknown)),
            }
        }
        let Some(port) = cx.snapshot.ports.get(usize::from(frame.port)) else {
            // Before the first configuration nothing is ours.
            return Err(self.punt(cx.now, PuntKind::Other));
        };
        match parse(frame, port.mac, headers) {
            Ok(Parsed::Kernel(kind)) => Err(self.punt(cx.now, kind)),
            Ok(parsed) => Ok(parsed),
            Err(reason) => Err(self.drop(reason)),
        }
    }

    /// Stage 4: forwards each packet, most of them the short way.
    fn forward_all(&mut self, cx: Context<'_>, tables: &mut Tables, burst: &mut Burst<'_, '_>) {
        let mut missed = 0u64;
        let mut index = 0;
        loop {
            // Packets are forwarded in their order: those of one connection may
            // go different ways.
            index += match burst.staged.get(index).map(|stage| stage.kind) {
                Some(Kind::Short4) => self.forward_short::<Entry4>(cx, tables, burst, index),
                Some(Kind::Short6) => self.forward_short::<Entry6>(cx, tables, burst, index),
                _ => 0,
            };
            let Burst { source, frames, verdicts, staged, headers } = burst;
            let Some(stage) = staged.get_mut(index) else { break };
            if is_new(tables, stage) {
                missed |= 1 << index;
            } else if stage.kind != Kind::Decided {
                stage.take_the_long_way(&mut headers[index]);
                // An error about a packet may open a connection.
                self.opened |= stage.kind == Kind::IcmpError;
                let (headers, frame) = (&mut headers[index], &mut frames[index]);
                match self.long(cx, *source, tables, stage, headers, frame) {
                    Some(sent) => verdicts[index] = sent,
                    None => missed |= 1 << index,
                }
            }
            index += 1;
        }
        if missed != 0 {
            self.open_missed(cx, tables, missed, burst);
        }
    }

    /// Forwards packets from `first` on, as far as the next ones go the short
    /// way of this family. How many that are.
    #[inline(never)]
    fn forward_short<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        burst: &mut Burst<'_, '_>,
        first: usize,
    ) -> usize {
        let Burst { frames, verdicts, staged, .. } = burst;
        let (staged, frames) = (&staged[first..], &mut frames[first..]);
        let all = staged.iter().zip(frames).zip(&mut verdicts[first..]);
        let mut count = 0;
        for ((stage, frame), verdict) in all {
            if stage.kind != E::SHORT {
                break;
            }
            let Some(port) = self.short::<E>(cx, tables, stage, frame) else { break };
            *verdict = Verdict::Send { port };
            count += 1;
        }
        count
    }

    /// Forwards what most packets are: plain ones of established connections.
    /// The port's index; `None`, and nothing is done, for those that need more.
    #[inline(always)]
    fn short<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        stage: &Staged,
        frame: &mut Frame<'_>,
    ) -> Option<u8> {
        let key = <E as Short>::key(stage);
        let mut slot = stage.slot;
        let entry = match E::table(tables).at(slot, &key) {
            Some(entry) => entry,
            None => {
                slot = look_up::<E>(tables, stage.hash, &key)?;
                E::table(tables).entry(slot)
            }
        };
        let body = entry.body();
        let record = cx.snapshot.servers.record(body.server)?;
        let last = body.last();
        let mut port = record.port;
        if body.is_short_alone() {
            let passed = stage.ip_len <= record.short_mtu
                && match record.method {
                    ShortMethod::Dr => E::pass(stage, &record.macs, frame),
                    _ if record.traffic(self.worker).path_mtu(cx.now).is_some() => false,
                    ShortMethod::Ipip4 => {
                        short::wrap4::<E>(cx, record, &mut self.ids, stage.ip_len, frame)
                    }
                    ShortMethod::Ipip6 => short::wrap6::<E>(cx, record, stage.ip_len, frame),
                };
            if !passed {
                return None;
            }
            record.traffic(self.worker).packet(stage.ip_len.into());
        } else if !body.is_short() {
            return None;
        } else if body.is_reply() {
            if body.template() != 0 {
                return None;
            }
            port = E::pass_to_client(cx.snapshot, tables, entry, stage, frame)?;
            record.traffic(self.worker).reply(stage.ip_len.into());
        } else {
            let passed = stage.ip_len <= record.short_mtu
                && E::pass_to_server(cx.snapshot, entry, record, stage, frame);
            if !passed {
                return None;
            }
            record.traffic(self.worker).packet(stage.ip_len.into());
        }
        if last != cx.now {
            seen::<E>(cx, tables, slot);
        }
        self.assert_own(tables, E::place(slot));
        Some(port)
    }

    /// Forwards any packet but one that has no connection.
    #[inline(never)]
    fn long(
        &mut self,
        cx: Context<'_>,
        source: Source,
        tables: &mut Tables,
        stage: &Staged,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Option<Verdict> {
        match stage.kind {
            Kind::Short4 | Kind::Flow4 | Kind::First4 => {
                let key = stage.key4();
                self.forward_known::<Entry4>(cx, tables, &key, stage.hash, headers, frame)
            }
            Kind::Short6 | Kind::Flow6 | Kind::First6 => {
                let key = stage.key6();
                self.forward_known::<Entry6>(cx, tables, &key, stage.hash, headers, frame)
            }
            Kind::IcmpError | Kind::New | Kind::New4 | Kind::New6 | Kind::Decided => {
                Some(self.icmp_error(cx, tables, source, headers, frame))
            }
        }
    }

    /// Counts a packet that found another worker's connection.
    #[inline(always)]
    fn assert_own(&mut self, _tables: &Tables, _place: Place) {
        #[cfg(debug_assertions)]
        {
            let client = _tables.tuple(_tables.client(_place));
            self.foreign += u64::from(self.natural_owner(&client) != self.worker);
        }
    }

    /// Forwards a packet by its connection, or a new one.
    fn forward<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        if let Some(verdict) = self.forward_known::<E>(cx, tables, key, hash, headers, frame) {
            return verdict;
        }
        match self.open::<E>(cx, tables, key, hash, headers, frame) {
            Ok((slot, server)) => {
                self.forward_first::<E>(cx, tables, slot, server, hash, headers, frame)
            }
            Err(verdict) => verdict,
        }
    }

    /// The packet's connection, and the way of its direction. `None` when there
    /// is no connection.
    #[inline(always)]
    fn forward_known<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Option<Verdict> {
        let slot = self.find::<E>(cx, tables, hash, key, headers)?;
        if frame.handed.candidate != 0 {
            // It went round: the next one is to come here at once.
            self.give_hint(cx.snapshot, headers.protocol, &headers.tuple());
        }
        self.assert_own(tables, E::place(slot));
        let body = E::table(tables).entry(slot).body();
        let Some(server) = cx.snapshot.server(body.server) else {
            return Some(self.drop(DropReason::ServerDeleted));
        };
        if body.is_reply() {
            return Some(self.reply::<E>(cx, tables, slot, server, headers, frame));
        }
        if server.deleted {
            return Some(self.drop(DropReason::ServerDeleted));
        }
        // The connection's own method: the server may have been given another.
        let is_pair = body.twin(E::FAMILY).is_some();
        let old = body.state();
        let new = old.after_client_packet(is_pair, headers);
        self.touch::<E>(cx, tables, slot, server, old, new);
        server.counts.packet(self.worker, u64::from(headers.ip_len));
        Some(match server.method {
            _ if is_pair => self.send_nat::<E>(cx, tables, slot, server, headers, frame),
            Method::Tun(encapsulation) => {
                self.send_tun(cx, server, encapsulation, hash, headers, frame)
            }
            Method::Dr | Method::Nat | Method::Fullnat => self.send_dr(cx, server, headers, frame),
        })
    }

    /// A packet from the server of a connection under NAT or FULLNAT, to its
    /// client. Also of a deleted server: what it still says is passed on.
    #[inline(never)]
    fn reply<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let old = E::table(tables).entry(slot).body().state();
        let new = old.after_server_packet(headers);
        self.touch::<E>(cx, tables, slot, server, old, new);
        if E::table(tables).entry(slot).body().template() != 0 {
            self.assure_by_reply(E::table_mut(tables).entry_mut(slot).body_mut());
        }
        server.counts.reply(self.worker, u64::from(headers.ip_len));
        self.send_reply::<E>(cx, tables, slot, server, headers, frame)
    }

    /// Notes a packet of a connection: its state, where that changed, in both
    /// directions' entries; and, once a tick, when it was.
    #[inline(always)]
    fn touch<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        old: State,
        new: State,
    ) {
        let now = cx.now;
        let table = E::table_mut(tables);
        let body = table.entry_mut(slot).body_mut();
        if new == old && body.last() == now {
            return;
        }
        let expiry = cx.snapshot.timeouts.expiry(new, now);
        body.set_last(now);
        body.set_state(new);
        let twin = body.twin(E::FAMILY);
        table.set_expiry(slot, now, expiry);
        if new != old {
            self.assure(tables, E::place(slot), new);
            server.counts.connections.change(old.is_active(), new.is_active());
            if let Some(twin) = twin {
                tables.body_mut(twin).set_state(new);
                tables.set_expiry(twin, now, expiry);
            }
        }
    }

    /// Finds the packet's connection. One that is over but still there, or
    /// whose server is gone for good, is ended when a packet shows it, so that
    /// the new one is scheduled anew.
    #[inline(always)]
    fn find<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        hash: u64,
        key: &E::Key,
        headers: &Headers,
    ) -> Option<Slot> {
        let slot = E::table(tables).find(hash, key)?;
        let opens = match headers.protocol {
            Protocol::Tcp => headers.tcp_flags & (tcp::SYN | tcp::RST) == tcp::SYN,
            Protocol::Udp => false,
            Protocol::Sctp => headers.tcp_flags == sctp::INIT,
        };
        if opens || cx.snapshot.settings.expire_nodest_conn {
            let body = *E::table(tables).entry(slot).body();
            if self.is_outlived(cx, &body, opens) {
                self.close(cx, tables, E::place(slot));
                return None;
            }
        }
        Some(slot)
    }

    fn drop(&mut self, reason: DropReason) -> Verdict {
        self.counters.drop(reason);
        Verdict::Drop(reason)
    }

    fn punt(&mut self, now: Tick, kind: PuntKind) -> Verdict {
        if self.punt.allow(now, kind) { Verdict::Punt } else { self.drop(kind.limited()) }
    }
}

/// Stage 2: which entry is it, by its tag?
#[inline(never)]
fn find_entries(tables: &Tables, burst: &mut Burst<'_, '_>) {
    let mut open = 0u64;
    for (index, stage) in burst.staged.iter_mut().enumerate() {
        // One after the other: a jump table would be slower.
        let slot = if let Kind::Short4 | Kind::Flow4 | Kind::First4 = stage.kind {
            tables.v4.prefetch_entry(stage.home, stage.hash)
        } else if let Kind::Short6 | Kind::Flow6 | Kind::First6 = stage.kind {
            tables.v6.prefetch_entry(stage.home, stage.hash)
        } else {
            continue;
        };
        match slot {
            Some(slot) => stage.slot = slot,
            None => open |= 1 << index,
        }
    }
    if open != 0 {
        find_rest(tables, burst, open);
    }
}

/// Whether a packet has no connection: as stage 2 found, or of one that may open
/// a connection as a look-up does.
#[inline(always)]
fn is_new(tables: &Tables, stage: &mut Staged) -> bool {
    match stage.kind {
        Kind::New | Kind::New4 | Kind::New6 => return true,
        Kind::First4 if look_up::<Entry4>(tables, stage.hash, &stage.key4()).is_none() => {
            stage.kind = Kind::New4;
        }
        Kind::First6 if look_up::<Entry6>(tables, stage.hash, &stage.key6()).is_none() => {
            stage.kind = Kind::New6;
        }
        _ => return false,
    }
    true
}

/// Stage 2 of packets, a bit each, whose tag several entries have, or none in
/// the home group: one in ten of a full table's, and those without connection.
#[inline(never)]
fn find_rest(tables: &Tables, burst: &mut Burst<'_, '_>, open: u64) {
    let staged = &mut *burst.staged;
    let mut rest = open;
    while let Some(stage) = staged.get_mut(rest.trailing_zeros() as usize) {
        rest &= rest - 1;
        let (found, new) = match stage.kind {
            Kind::Short4 | Kind::First4 => {
                (tables.v4.prefetch_rest(stage.home, stage.hash), Kind::New4)
            }
            Kind::Flow4 => (tables.v4.prefetch_rest(stage.home, stage.hash), Kind::New),
            Kind::Short6 | Kind::First6 => {
                (tables.v6.prefetch_rest(stage.home, stage.hash), Kind::New6)
            }
            _ => (tables.v6.prefetch_rest(stage.home, stage.hash), Kind::New),
        };
        match found {
            Some(slot) => stage.slot = slot,
            None => stage.kind = new,
        }
    }
    rest = open;
    while let Some(stage) = staged.get(rest.trailing_zeros() as usize) {
        rest &= rest - 1;
        match stage.kind {
            Kind::Short4 | Kind::Flow4 | Kind::First4 => {
                tables.v4.prefetch_beyond(stage.home, stage.hash);
            }
            Kind::Short6 | Kind::Flow6 | Kind::First6 => {
                tables.v6.prefetch_beyond(stage.home, stage.hash);
            }
            _ => {}
        }
    }
}

/// Still stage 1: packets that went round between workers are not for the short
/// way, which renews no hints.
fn leave_hints_to_the_long_way(burst: &mut Burst<'_, '_>) {
    let Burst { staged, frames, headers, .. } = burst;
    for ((stage, frame), headers) in staged.iter_mut().zip(frames.iter()).zip(headers.iter_mut()) {
        if frame.handed.candidate > 0 {
            stage.take_the_long_way(headers);
        }
    }
}

/// Whether tables and servers are so small that they stay in the caches next to
/// the core: then stage 3 costs more than it saves.
fn is_all_near(cx: Context<'_>, tables: &Tables) -> bool {
    const GROUPS: usize = 16_384;
    const SERVERS: usize = 4096;
    let groups = tables.v4.group_count() + tables.v6.group_count();
    groups <= GROUPS && cx.snapshot.servers.capacity() <= SERVERS
}

/// Stage 3: which server is it?
#[inline(never)]
fn find_servers(cx: Context<'_>, tables: &Tables, staged: &[Staged]) {
    for stage in staged {
        let body = match stage.kind {
            Kind::Short4 => tables.v4.entry(stage.slot).body(),
            Kind::Short6 => {
                let body = tables.v6.entry(stage.slot).body();
                // The client's address is in its own entry only.
                if let (true, Some(Place::V6(client))) = (body.is_reply(), body.twin(Family::V6)) {
                    tables.v6.prefetch_at(client);
                }
                body
            }
            _ => continue,
        };
        cx.snapshot.servers.prefetch(body.server);
    }
}

/// A look-up where the tag led to another entry, or to none: one packet in
/// twelve of a full table's. Apart, so that the others have all registers.
#[inline(never)]
fn look_up<E: Tabled>(tables: &Tables, hash: u64, key: &E::Key) -> Option<Slot> {
    E::table(tables).find(hash, key)
}

/// Notes that a packet came which leaves the state as it is. Once a tick.
#[inline(never)]
fn seen<E: Tabled>(cx: Context<'_>, tables: &mut Tables, slot: Slot) {
    let table = E::table_mut(tables);
    let body = table.entry_mut(slot).body_mut();
    body.set_last(cx.now);
    let state = body.state();
    table.set_expiry(slot, cx.now, cx.snapshot.timeouts.expiry(state, cx.now));
}

/// Whether a plain packet can leave an established connection as it is.
#[inline(always)]
fn is_short(protocol: u8, tcp_flags: u8) -> bool {
    protocol == Protocol::Udp as u8 || State::keeps_established(tcp_flags)
}

/// The key of a packet's entry, in either table.
enum Key {
    V4(Key4),
    V6(Key6),
}

#[inline]
fn key(headers: &Headers) -> Key {
    let Headers { protocol, src_port, dst_port, .. } = *headers;
    match headers.addresses {
        Addresses::V4 { src, dst } => {
            Key::V4(Key4::new(protocol, Tuple4 { src, dst, src_port, dst_port }))
        }
        Addresses::V6 { src, dst } => {
            Key::V6(Key6::new(protocol, Tuple6 { src, dst, src_port, dst_port }))
        }
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
