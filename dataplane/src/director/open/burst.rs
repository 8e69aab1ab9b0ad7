//! The packets of a burst that have no connection, opened some at a time, in
//! steps, so that the lines of the second entry (NAT, FULLNAT) and of the
//! server are on their way while others are worked on:
//!
//! 1. who gets it, what does it become; ask for the lines: `Core::begin_plain`,
//!    or `Core::prepare` for what is not plain
//! 2. tags of the second entry's group: ask for the slot's line
//! 3. make the entries and forward the packet: `Core::complete_plain`, or
//!    `Core::enter`

use super::super::short::Short;
use super::super::{BURST, Burst, Context, Core, Kind, Staged, Verdict};
use super::Opening;
use super::pair::Pair;
use super::plain::{Begun, Left, Opens, Plain};
use crate::conn::{Entry4, Entry6, Slot, Tables};
use crate::packet::{Family, Frame, Headers};
use crate::service::{Last, LastPlain, Method};

/// Connections that are opened at a time: enough work to wait for memory with.
const AT_ONCE: usize = 16;

/// A packet of a burst.
struct Packet<'b, 'f> {
    stage: &'b mut Staged,
    headers: &'b mut Headers,
    frame: &'b mut Frame<'f>,
    verdict: &'b mut Verdict,
}

impl<'b, 'f> Packet<'b, 'f> {
    fn of(burst: &'b mut Burst<'_, 'f>, index: usize) -> Option<Self> {
        Some(Self {
            stage: burst.staged.get_mut(index)?,
            headers: burst.headers.get_mut(index)?,
            frame: burst.frames.get_mut(index)?,
            verdict: burst.verdicts.get_mut(index)?,
        })
    }
}

/// What is to be made of a packet that is not plain.
#[derive(Default)]
struct Other<'a> {
    opening: Option<Opening<'a>>,
    pair: Option<Pair>,
}

/// Connections that are being opened.
struct Openings<'a> {
    /// Packets of the burst that are still to be begun with, a bit each.
    missed: u64,
    /// How many are begun, of those at once.
    begun: usize,
    /// One of them, or of those before, may be in both directions.
    paired: bool,
    plains: [Plain<'a>; AT_ONCE],
    /// Where `plains` has none.
    others: [Other<'a>; AT_ONCE],
    seen: Seen,
    /// Second entries: what one connection makes may be another's.
    answers: Seen,
    last: Option<Last<'a>>,
    last_plain: LastPlain<'a>,
}

impl Core {
    /// Stage 4: opens connections for the packets of a burst that have none, a
    /// bit each.
    #[inline(never)]
    pub(in crate::director) fn open_missed(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        missed: u64,
        burst: &mut Burst<'_, '_>,
    ) {
        let mut openings = Openings {
            missed,
            begun: 0,
            paired: false,
            plains: [Plain::NONE; AT_ONCE],
            others: [const { Other { opening: None, pair: None } }; AT_ONCE],
            seen: Seen::default(),
            answers: Seen::default(),
            last: None,
            last_plain: LastPlain::default(),
        };
        while openings.missed != 0 {
            self.begin_some(cx, tables, &mut openings, burst);
            if tables.is_full(Family::V4) || tables.is_full(Family::V6) {
                ask_for_victims(cx, tables, &openings, burst.staged);
            }
            if openings.paired {
                ask_for_answers(tables, &mut openings, burst.staged);
            }
            let mut index = 0;
            while let Some(plain) = openings.plains[..openings.begun].get(index) {
                let kind = burst.staged.get(plain.index).map(|stage| stage.kind);
                index += match (plain.to, kind) {
                    (Some(_), Some(Kind::New4)) => {
                        self.finish_plain::<Entry4>(cx, tables, &openings, index, burst)
                    }
                    (Some(_), _) => {
                        self.finish_plain::<Entry6>(cx, tables, &openings, index, burst)
                    }
                    (None, _) => {
                        self.finish_other(cx, tables, &openings, index, burst);
                        1
                    }
                }
            }
        }
    }

    /// Step 1 of as many as are opened at once.
    #[inline(always)]
    fn begin_some<'a>(
        &mut self,
        cx: Context<'a>,
        tables: &mut Tables,
        openings: &mut Openings<'a>,
        burst: &mut Burst<'_, '_>,
    ) {
        openings.begun = 0;
        while openings.begun < AT_ONCE {
            let index = openings.missed.trailing_zeros() as usize;
            let Some(stage) = burst.staged.get(index) else { return };
            if openings.seen.before(stage.hash) && is_repeated(burst.staged, index) {
                // Perhaps the same connection: those before go first, then it
                // may be there.
                if openings.begun > 0 {
                    return;
                }
                openings.missed &= openings.missed - 1;
                self.opened = true;
                let Some(packet) = Packet::of(burst, index) else { return };
                packet.stage.take_the_long_way(packet.headers);
                self.forward_missed(cx, tables, packet);
                continue;
            }
            let begun = match stage.kind {
                Kind::New4 => self.begin_plains::<Entry4>(cx, tables, openings, burst.staged),
                Kind::New6 => self.begin_plains::<Entry6>(cx, tables, openings, burst.staged),
                _ => Some(Begun::Any),
            };
            if let Some(begun) = begun {
                let index = openings.missed.trailing_zeros() as usize;
                let Some(packet) = Packet::of(burst, index) else { return };
                self.begin_other(cx, tables, begun, openings, packet);
            }
        }
    }

    /// Step 1 of the next packets as long as they are plain ones of a family.
    /// What is to be done for the first that needs more.
    #[inline(never)]
    fn begin_plains<'a, E: Opens>(
        &mut self,
        cx: Context<'a>,
        tables: &Tables,
        openings: &mut Openings<'a>,
        staged: &[Staged],
    ) -> Option<Begun<'a>> {
        let Openings { missed, begun, paired, plains, seen, last_plain, .. } = openings;
        for plain in plains.get_mut(*begun..)? {
            let index = missed.trailing_zeros() as usize;
            let stage = staged.get(index).filter(|stage| stage.kind == E::NEW)?;
            if seen.before(stage.hash) && is_repeated(staged, index) {
                return None;
            }
            plain.index = index;
            match self.begin_plain::<E>(cx, tables, stage, last_plain, plain) {
                Begun::Plain => {}
                more => return Some(more),
            }
            seen.add(stage.hash);
            *missed &= *missed - 1;
            *paired |= plain.answer_hash != 0;
            *begun += 1;
        }
        None
    }

    /// Step 1, [`Core::prepare`], of the next packet, which is not plain or needs
    /// more.
    #[inline(never)]
    fn begin_other<'a>(
        &mut self,
        cx: Context<'a>,
        tables: &Tables,
        begun: Begun<'a>,
        openings: &mut Openings<'a>,
        packet: Packet<'_, '_>,
    ) {
        let Packet { stage, headers, frame, verdict } = packet;
        stage.take_the_long_way(headers);
        let index = openings.missed.trailing_zeros() as usize;
        openings.missed &= openings.missed - 1;
        openings.seen.add(stage.hash);
        let at = openings.begun;
        let (Some(plain), Some(other)) = (openings.plains.get_mut(at), openings.others.get_mut(at))
        else {
            return;
        };
        (plain.to, plain.index) = (None, index);
        *other = Other::default();
        let made = (&mut other.opening, &mut other.pair);
        let prepared = match begun {
            Begun::Chosen(service, number) => {
                self.prepare_chosen(cx, tables, service, number, headers, made)
            }
            _ => {
                let last = &mut openings.last;
                let service = cx.snapshot.services.find_after(last, headers, frame.port);
                self.prepare(cx, tables, service, stage.hash, headers, frame, made)
            }
        };
        match prepared {
            Ok(()) => {
                openings.paired |= other.pair.is_some();
                openings.begun += 1;
            }
            Err(decided) => *verdict = decided,
        }
    }

    /// Step 3 of plain packets from one on, as far as the next ones are plain and
    /// of the same family. How many that are, at least one.
    #[inline(never)]
    fn finish_plain<E: Opens>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        openings: &Openings<'_>,
        first: usize,
        burst: &mut Burst<'_, '_>,
    ) -> usize {
        let Burst { frames, verdicts, staged, headers, .. } = burst;
        // All of one length, which need be checked once.
        let count = staged.len().min(headers.len()).min(frames.len()).min(verdicts.len());
        let (staged, headers) = (&mut staged[..count], &mut headers[..count]);
        let (frames, verdicts) = (&mut frames[..count], &mut verdicts[..count]);
        let mut done = 0;
        for plain in openings.plains.iter().take(openings.begun).skip(first) {
            let index = plain.index;
            let Some(stage) = staged.get_mut(index) else { break };
            if plain.to.is_none() || stage.kind != E::NEW {
                break;
            }
            let (frame, verdict) = (&mut frames[index], &mut verdicts[index]);
            done += 1;
            let is_there = self.may_be_there(openings, stage.hash)
                && E::table(tables).find(stage.hash, E::key_in(stage)).is_some();
            let left = if is_there {
                Left::There
            } else {
                match self.complete_plain::<E>(cx, tables, plain, stage, frame) {
                    Ok(port) => {
                        *verdict = Verdict::Send { port };
                        continue;
                    }
                    Err(left) => left,
                }
            };
            let packet = (stage, &mut headers[index], frame);
            *verdict = self.finish_left::<E>(cx, tables, plain, left, packet);
        }
        done.max(1)
    }

    /// Goes on with a plain packet that turns out to need more.
    #[inline(never)]
    fn finish_left<E: Opens>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        plain: &Plain<'_>,
        left: Left,
        (stage, headers, frame): (&mut Staged, &mut Headers, &mut Frame<'_>),
    ) -> Verdict {
        stage.take_the_long_way(headers);
        match (left, cx.snapshot.server(plain.number)) {
            (Left::Made(slot), Some(server)) => {
                self.forward_first::<E>(cx, tables, slot, server, stage.hash, headers, frame)
            }
            (Left::Unmade, Some(server)) => {
                // Perhaps with another port.
                self.opened = true;
                self.complete_as_other::<E>(cx, tables, plain, server, stage, headers, frame)
            }
            (Left::There, _) | (_, None) => {
                plain.withdraw(headers.protocol);
                self.forward_staged::<E>(cx, tables, stage, headers, frame)
            }
        }
    }

    /// Whether the connection of a packet may have been made since stage 2.
    #[inline(always)]
    fn may_be_there(&self, openings: &Openings<'_>, hash: u64) -> bool {
        self.opened || (openings.paired && openings.answers.before(hash))
    }

    /// Step 3 of a packet that is not plain.
    #[inline(never)]
    fn finish_other(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        openings: &Openings<'_>,
        index: usize,
        burst: &mut Burst<'_, '_>,
    ) {
        let (Some(plain), Some(other)) = (openings.plains.get(index), openings.others.get(index))
        else {
            return;
        };
        let (Some(opening), Some(packet)) = (&other.opening, Packet::of(burst, plain.index)) else {
            return;
        };
        let made = (opening, other.pair.as_ref());
        let Packet { stage, headers, frame, verdict } = packet;
        let is_new = !self.may_be_there(openings, stage.hash);
        let stage = &*stage;
        *verdict = match headers.family() {
            Family::V4 => self.complete::<Entry4>(cx, tables, made, is_new, stage, headers, frame),
            Family::V6 => self.complete::<Entry6>(cx, tables, made, is_new, stage, headers, frame),
        };
    }

    /// Forwards a packet by its connection, or a new one.
    #[inline(never)]
    fn forward_missed(&mut self, cx: Context<'_>, tables: &mut Tables, packet: Packet<'_, '_>) {
        let Packet { stage, headers, frame, verdict } = packet;
        *verdict = match headers.family() {
            Family::V4 => self.forward_staged::<Entry4>(cx, tables, stage, headers, frame),
            Family::V6 => self.forward_staged::<Entry6>(cx, tables, stage, headers, frame),
        };
    }

    /// Forwards a packet by its connection, or a new one.
    #[inline(never)]
    fn forward_staged<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        stage: &Staged,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        self.forward::<E>(cx, tables, &<E as Short>::key(stage), stage.hash, headers, frame)
    }

    /// Makes a prepared connection and forwards its first packet.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    fn complete<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        (opening, pair): (&Opening<'_>, Option<&Pair>),
        is_new: bool,
        stage: &Staged,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let (key, hash) = (E::key_in(stage), stage.hash);
        // A packet of the same burst may have been the server's.
        if !is_new && E::table(tables).find(hash, key).is_some() {
            self.withdraw(opening);
            return self.forward_staged::<E>(cx, tables, stage, headers, frame);
        }
        // What comes of it may have another local port than was thought.
        self.opened |= pair.is_some();
        match self.enter::<E>(cx, tables, key, hash, (opening, pair), headers, frame) {
            Ok(slot) => match self.pass_first::<E>(cx, tables, slot, opening, stage, frame) {
                Some(port) => Verdict::Send { port },
                None => {
                    let server = opening.server;
                    self.forward_first::<E>(cx, tables, slot, server, hash, headers, frame)
                }
            },
            Err(decided) => decided,
        }
    }

    /// Forwards the packet that opened a connection the short way. The port's
    /// index; `None`, and nothing is done, for one that needs more.
    #[inline(always)]
    fn pass_first<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        slot: Slot,
        opening: &Opening<'_>,
        stage: &Staged,
        frame: &mut Frame<'_>,
    ) -> Option<u8> {
        let record = cx.snapshot.servers.record(opening.number)?;
        if stage.ip_len > record.short_mtu {
            return None;
        }
        // MSS options are in first packets only.
        if opening.server.mss.is_some() {
            return None;
        }
        let passed = match opening.server.method {
            Method::Dr => E::pass(stage, &record.macs, frame),
            Method::Nat | Method::Fullnat => {
                let entry = E::table(tables).entry(slot);
                entry.body().is_plain_pair()
                    && E::pass_to_server(cx.snapshot, entry, record, stage, frame)
            }
            Method::Tun(_) => false,
        };
        if !passed {
            return None;
        }
        self.assert_own(tables, E::place(slot));
        record.traffic(self.worker).packet(stage.ip_len.into());
        Some(record.port)
    }
}

/// Asks for what connections that find the table full look at.
#[inline(never)]
fn ask_for_victims(cx: Context<'_>, tables: &Tables, openings: &Openings<'_>, staged: &[Staged]) {
    let half_open = cx.snapshot.timeouts.last_half_open(cx.now);
    for plain in &openings.plains[..openings.begun] {
        let Some(stage) = staged.get(plain.index) else { continue };
        let Some(family) = stage.family() else { continue };
        if tables.is_full(family) {
            tables.prefetch_victims(family, stage.hash, cx.now, half_open);
        }
    }
}

/// Step 2: asks for the slots of second entries.
#[inline(never)]
fn ask_for_answers(tables: &Tables, openings: &mut Openings<'_>, staged: &[Staged]) {
    let Openings { plains, others, answers, begun, .. } = openings;
    for (plain, other) in plains[..*begun].iter().zip(others) {
        let (family, hash) = match (plain.to, &other.pair) {
            (Some(_), _) if plain.answer_hash != 0 => {
                let Some(family) = staged.get(plain.index).and_then(Staged::family) else {
                    continue;
                };
                (family, plain.answer_hash)
            }
            (None, Some(pair)) => (pair.to.family(), pair.hash),
            _ => continue,
        };
        answers.add(hash);
        tables.prefetch_entry(family, hash);
    }
}

/// The connections of a burst that were opened, by a few bits of their hashes.
#[derive(Default)]
struct Seen([u64; BURST / 4]);

impl Seen {
    const fn place(hash: u64) -> (usize, u64) {
        ((hash >> 6) as usize % (BURST / 4), 1 << (hash % 64))
    }

    /// Whether a connection with this hash may have been added.
    fn before(&self, hash: u64) -> bool {
        let (word, bit) = Self::place(hash);
        self.0[word] & bit != 0
    }

    fn add(&mut self, hash: u64) {
        let (word, bit) = Self::place(hash);
        self.0[word] |= bit;
    }
}

/// Whether an earlier packet of a burst has the hash of the one at `index`.
#[inline(never)]
fn is_repeated(staged: &[Staged], index: usize) -> bool {
    let (before, rest) = staged.split_at(index);
    rest.first().is_some_and(|stage| before.iter().any(|other| other.hash == stage.hash))
}
