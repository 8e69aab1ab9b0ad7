//! The path of a packet, from the burst it came in to what becomes of it.
//!
//! [`Director::process`] reads top to bottom and is the only place where the
//! order of things is decided. It goes over the burst in stages, so that the
//! memory that a later stage needs is on its way while an earlier one works on
//! the other packets:
//!
//! 1. headers: parse; is it ours; hash; ask for the table's group line
//!    (`Core::read`; of packets that were read before `Core::read_on`)
//! 2. tags: match; ask for the entry's line (`find_entries`)
//! 3. the entry: ask for its server's line (`find_servers`)
//! 4. the rest, packet by packet: look up or open a connection, state,
//!    counters, rewrite, verdict (`Core::forward_all`)
//!
//! Most packets are plain ones of established connections, and go a short way
//! through stages 1 and 4 (`Core::short`, what it does to the bytes in `short`)
//! that does what the long one would. What the stages pass on is in `burst`;
//! `ownership` says whose a packet is, and `sharing` does so ahead of the
//! stages where packets arrive at any worker. The long way has files of its own:
//! `read` is stage 1, `rare` that of what is not plain, `long` finds the connection and its state,
//! `send` is the way out by forwarding method, `rewrite` what that does to the
//! bytes. So has what happens seldom: `open` the first packet of a connection,
//! `take_up` one in the middle of another director's, `icmp` errors made and
//! passed on, `fragments`, `housekeeping` between two bursts, `ageing`,
//! `listing`, `observed`, `rehearsal`.
//!
//! It knows frames and ticks. The worker (`dpdk::worker`), the tests and the
//! benchmarks all drive it the same way.

mod ageing;
mod burst;
mod fragments;
mod housekeeping;
mod icmp;
mod listing;
mod long;
mod observed;
mod open;
mod ownership;
mod rare;
mod read;
pub mod rehearsal;
mod rewrite;
mod send;
mod sharing;
mod short;
mod take_up;
mod ways;

use std::sync::Arc;

pub use self::burst::{BURST, Handed, Reading, Source, Verdict};
use self::burst::{Burst, Context, Kind, NOT_PLAIN, Staged};
use self::observed::Observers;
use self::rare::{Key, key, punt_kind};
use self::read::ask_again;
pub use self::sharing::Sharing;
use self::short::Short;
use self::ways::{Hop, Ways};
use crate::conn::ageing::SweepPaces;
use crate::conn::persistence::Templates;
use crate::conn::{Entry, Entry4, Entry6, HashKey, Place, Slot, Tabled, Tables};
use crate::counters::{Counters, DropReason};
use crate::forward::tun::Ids;
use crate::fragment::Fragments;
use crate::icmp::{IcmpLimiter, IcmpLimits};
use crate::outbox::Outbox;
use crate::packet::{Family, Frame, Headers};
use crate::pending::Pending;
use crate::punt::{PuntKind, PuntLimiter, PuntLimits};
use crate::service::{Record, ShortMethod};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::update::WorkerEnd;
use listing::Listing;

/// Datagrams whose fragments one worker follows, and early fragments that it
/// holds.
const FRAGMENTED: (usize, usize) = (4096, 256);

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
    /// Key of the table hash, the same for all workers: a packet that is handed
    /// over takes its hash along.
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
    ways: Ways,
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
                ways: Ways::default(),
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
        let was_read = burst.frames.first().is_some_and(|frame| frame.read.family != 0);
        if was_read || source == Source::Handoff {
            core.read_on(cx, tables, fragments, burst);
        } else {
            core.read(cx, tables, fragments, burst);
        }
        if core.opened {
            ask_again(tables, burst.staged);
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

    /// The counters, for the parts that only the caller sees: what came in, and
    /// what could be sent, punted and handed over.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.core.counters
    }

    /// Its worker's index.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.core.worker
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
}

/// Stage 2: which entry is it, by its tag?
fn find_entries(tables: &Tables, burst: &mut Burst<'_, '_>) {
    let (mut open, mut index) = (0, 0);
    while let Some(stage) = burst.staged.get(index) {
        let (count, of_these) = if stage.kind.is_flow_of::<Entry4>() {
            find_run::<Entry4>(tables, &mut burst.staged[index..])
        } else if stage.kind.is_flow_of::<Entry6>() {
            find_run::<Entry6>(tables, &mut burst.staged[index..])
        } else {
            (1, 0)
        };
        open |= of_these << index;
        index += count;
    }
    if open != 0 {
        find_rest(tables, burst, open);
    }
}

/// Stage 2 of the first packets of a burst, as far as they are of this family.
/// How many that are, and a bit for each whose tag leaves it open.
#[inline(never)]
fn find_run<E: Short>(tables: &Tables, staged: &mut [Staged]) -> (usize, u64) {
    let mut open = 0;
    for (index, stage) in staged.iter_mut().enumerate() {
        if !stage.kind.is_flow_of::<E>() {
            return (index, open);
        }
        match E::table(tables).prefetch_entry(stage.home, stage.hash) {
            Some(slot) => stage.slot = slot,
            None => open |= 1 << index,
        }
    }
    (staged.len(), open)
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

impl Core {
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
        let key = <E as Short>::key_in(stage);
        let mut slot = stage.slot;
        let entry = match E::table(tables).at(slot, key) {
            Some(entry) => entry,
            None => {
                slot = look_up::<E>(tables, stage.hash, key)?;
                E::table(tables).entry(slot)
            }
        };
        let body = entry.body();
        let record = cx.snapshot.servers.record(body.server)?;
        let last = body.last();
        let mut port = record.port;
        if body.is_short_alone() {
            if !self.pass_alone::<E>(cx, record, stage, frame) {
                return None;
            }
            record.traffic(self.worker).packet(stage.ip_len.into());
        } else if !body.is_short() {
            return None;
        } else if body.is_reply() {
            if body.template() != 0 {
                return None;
            }
            let hop = match self.ways.get(body.way()) {
                Some(hop) => *hop,
                None => self.find_way::<E>(cx, tables, slot)?,
            };
            let entry = E::table(tables).entry(slot);
            let passed = stage.ip_len <= hop.mtu
                && E::pass_to_client(tables, entry, &hop.macs, stage, frame);
            if !passed {
                return None;
            }
            port = hop.port;
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

    /// Passes a packet of a connection with one entry on to the server. False, and
    /// nothing done, where it needs more.
    #[inline(always)]
    fn pass_alone<E: Short>(
        &mut self,
        cx: Context<'_>,
        record: &Record,
        stage: &Staged,
        frame: &mut Frame<'_>,
    ) -> bool {
        stage.ip_len <= record.short_mtu
            && match record.method {
                ShortMethod::Dr => E::pass(stage, &record.macs, frame),
                _ if record.traffic(self.worker).path_mtu(cx.now).is_some() => false,
                ShortMethod::Ipip4 => {
                    short::wrap4::<E>(cx, record, &mut self.ids, stage.ip_len, frame)
                }
                ShortMethod::Ipip6 => short::wrap6::<E>(cx, record, stage.ip_len, frame),
            }
    }

    /// The way to the client of a server's entry, which is noted there. `None`
    /// for those that need the long way.
    #[inline(never)]
    fn find_way<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
    ) -> Option<Hop> {
        let entry = E::table(tables).entry(slot);
        let hop = Hop::new(E::way_to_client(cx.snapshot, tables, entry)?)?;
        let number = self.ways.number(&hop);
        E::table_mut(tables).entry_mut(slot).body_mut().set_way(number);
        Some(hop)
    }

    fn drop(&mut self, reason: DropReason) -> Verdict {
        self.counters.drop(reason);
        Verdict::Drop(reason)
    }

    fn punt(&mut self, now: Tick, kind: PuntKind) -> Verdict {
        if self.punt.allow(now, kind) { Verdict::Punt } else { self.drop(kind.limited()) }
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

#[cfg(test)]
mod tests;
