//! The packets of a burst that have no connection, opened some at a time, in
//! steps, so that the lines of the second entry (NAT, FULLNAT) and of the
//! server are on their way while others are worked on:
//!
//! 1. `Core::prepare`: who gets it, what does it become; ask for the lines
//! 2. tags of the second entry's group: ask for the slot's line
//! 3. `Core::enter`, and forward it

use super::super::short::Short;
use super::super::{BURST, Burst, Context, Core, Staged, Verdict};
use super::Opening;
use super::pair::Pair;
use crate::conn::{Entry4, Entry6, Slot, Tables};
use crate::packet::{Family, Frame, Headers};
use crate::service::{Method, Server};

/// Connections that are opened at a time: enough work to wait for memory with.
const AT_ONCE: usize = 16;

impl Core {
    /// Stage 4: opens connections for the packets of a burst that have none, a
    /// bit each.
    #[inline(never)]
    pub(in crate::director) fn open_missed(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        mut missed: u64,
        burst: &mut Burst<'_, '_>,
    ) {
        let Burst { frames, verdicts, staged, headers, .. } = burst;
        // All of one length, which need be checked once.
        let count = staged.len().min(headers.len()).min(frames.len()).min(verdicts.len());
        let (staged, headers) = (&mut staged[..count], &mut headers[..count]);
        let (frames, verdicts) = (&mut frames[..count], &mut verdicts[..count]);
        let mut seen = Seen::default();
        let mut last = None;
        let half_open = cx.snapshot.timeouts.last_half_open(cx.now);
        while missed != 0 {
            let mut openings = [const { None }; AT_ONCE];
            let mut pairs = [None; AT_ONCE];
            let mut indices = [0; AT_ONCE];
            let mut begun = 0;
            while missed != 0 && begun < AT_ONCE {
                let index = missed.trailing_zeros() as usize;
                let (Some(stage), Some(headers)) = (staged.get(index), headers.get_mut(index))
                else {
                    return;
                };
                let (Some(frame), Some(verdict)) = (frames.get_mut(index), verdicts.get_mut(index))
                else {
                    return;
                };
                if seen.before(stage.hash) && is_repeated(staged, index) {
                    // Perhaps the same connection: those before go first, then
                    // it may be there.
                    if begun > 0 {
                        break;
                    }
                    missed &= missed - 1;
                    self.opened = true;
                    *verdict = match headers.family() {
                        Family::V4 => {
                            self.forward_staged::<Entry4>(cx, tables, stage, headers, frame)
                        }
                        Family::V6 => {
                            self.forward_staged::<Entry6>(cx, tables, stage, headers, frame)
                        }
                    };
                    continue;
                }
                missed &= missed - 1;
                seen.add(stage.hash);
                let (Some(opening), Some(pair)) = (openings.get_mut(begun), pairs.get_mut(begun))
                else {
                    return;
                };
                let service = cx.snapshot.services.find_after(&mut last, headers, frame.port);
                match self.prepare(cx, tables, service, stage.hash, headers, frame, (opening, pair))
                {
                    Ok(()) => {
                        if tables.is_full(headers.family()) {
                            tables.prefetch_victims(
                                headers.family(),
                                stage.hash,
                                cx.now,
                                half_open,
                            );
                        }
                        if let Some(place) = indices.get_mut(begun) {
                            *place = index;
                        }
                        begun += 1;
                    }
                    Err(decided) => *verdict = decided,
                }
            }
            let openings = openings.get(..begun).unwrap_or_default();
            for pair in pairs.iter().take(begun).flatten() {
                // What one of them makes may be the other's.
                self.opened = true;
                tables.prefetch_entry(pair.to.family(), pair.hash);
            }
            for ((opening, pair), index) in openings.iter().flatten().zip(&pairs).zip(&indices) {
                let made = (opening, pair.as_ref());
                let (Some(stage), Some(headers)) = (staged.get(*index), headers.get_mut(*index))
                else {
                    return;
                };
                let (Some(frame), Some(verdict)) =
                    (frames.get_mut(*index), verdicts.get_mut(*index))
                else {
                    return;
                };
                match headers.family() {
                    Family::V4 => {
                        self.complete::<Entry4>(cx, tables, made, stage, headers, frame, verdict);
                    }
                    Family::V6 => {
                        self.complete::<Entry6>(cx, tables, made, stage, headers, frame, verdict);
                    }
                }
            }
        }
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

    /// Makes a prepared connection and forwards its first packet. The verdict is
    /// written where it stays, for most packets by two bytes.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    fn complete<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        (opening, pair): (&Opening<'_>, Option<&Pair>),
        stage: &Staged,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
        verdict: &mut Verdict,
    ) {
        let (key, hash) = (E::key_in(stage), stage.hash);
        // A packet of the same burst may have been the server's.
        if self.opened && E::table(tables).find(hash, key).is_some() {
            self.withdraw(opening);
            *verdict = self.forward_staged::<E>(cx, tables, stage, headers, frame);
            return;
        }
        match self.enter::<E>(cx, tables, key, hash, (opening, pair), headers, frame) {
            Ok(slot) => match self.pass_first::<E>(cx, tables, slot, opening, stage, frame) {
                Some(port) => *verdict = Verdict::Send { port },
                None => {
                    let server = opening.server;
                    *verdict =
                        self.first_staged::<E>(cx, tables, slot, server, stage, headers, frame);
                }
            },
            Err(decided) => *verdict = decided,
        }
    }

    /// Forwards the packet that opened a connection.
    #[expect(clippy::too_many_arguments)]
    #[inline(never)]
    fn first_staged<E: Short>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        stage: &Staged,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        self.forward_first::<E>(cx, tables, slot, server, stage.hash, headers, frame)
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
