//! Stage 1: what is it, is it ours, and where would its connection be?
//!
//! Plain packets first, in a loop that calls nothing, so that all it needs is in
//! registers; then the others (`rare`), a bit for each.

use super::burst::{Burst, Context, IPV4, IPV6, Kind, Reading, Source, Staged};
use super::short::Short;
use super::{Core, Verdict};
use crate::conn::{Entry4, Entry6, State, Tables};
use crate::fragment::Fragments;
use crate::packet::headers::{Mac48, Plain, may_be_plain, plain_family};
use crate::packet::{Family, Frame, Headers};

impl Core {
    /// Stage 1 of a burst that came as it is.
    #[inline(always)]
    pub(super) fn read(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        fragments: &mut Fragments,
        burst: &mut Burst<'_, '_>,
    ) {
        let hands_over = burst.source == Source::Port && self.shard.workers() > 1;
        let rest = if hands_over {
            self.read_plain::<true>(cx, tables, burst)
        } else {
            self.read_plain::<false>(cx, tables, burst)
        };
        if rest != 0 {
            self.read_rest(cx, tables, fragments, burst, rest, hands_over);
        }
    }

    /// Those that are plain, and to whom they go where they may be another
    /// worker's. A bit for each of the rest.
    #[inline(never)]
    fn read_plain<const HANDS_OVER: bool>(
        &self,
        cx: Context<'_>,
        tables: &Tables,
        burst: &mut Burst<'_, '_>,
    ) -> u64 {
        let (mut rest, mut index) = (0, 0);
        // Most bursts come by one port, and most are of one family.
        let mut known = (0, self.mac(cx, 0));
        while let Some(frame) = burst.frames.get(index) {
            if frame.port != known.0 {
                known = (frame.port, self.mac(cx, frame.port));
            }
            let count = match plain_family(frame.bytes(), known.1) {
                Some(Family::V4) => {
                    self.read_run::<Entry4, HANDS_OVER>(cx, tables, known, burst, index)
                }
                Some(Family::V6) => {
                    self.read_run::<Entry6, HANDS_OVER>(cx, tables, known, burst, index)
                }
                None => 0,
            };
            if count == 0 {
                rest |= 1 << index;
            }
            index += count.max(1);
        }
        rest
    }

    /// The address that frames are to which come by a port.
    fn mac(&self, cx: Context<'_>, port: u8) -> Mac48 {
        let port = cx.snapshot.ports.get(usize::from(port));
        port.map_or(Mac48::NONE, |port| port.mac.into())
    }

    /// Reads packets from `first` on, as far as the next ones are plain, of this
    /// family, and came by this port. How many that are.
    #[inline(never)]
    fn read_run<E: Short, const HANDS_OVER: bool>(
        &self,
        cx: Context<'_>,
        tables: &Tables,
        (port, mac): (u8, Mac48),
        burst: &mut Burst<'_, '_>,
        first: usize,
    ) -> usize
    where
        Headers: From<Plain<E::Key>>,
    {
        let Burst { frames, verdicts, staged, .. } = burst;
        let all = staged[first..].iter_mut().zip(&mut frames[first..]);
        let mut count = 0;
        for ((stage, frame), verdict) in all.zip(&mut verdicts[first..]) {
            if frame.port != port || !may_be_plain(frame.bytes(), mac, E::FAMILY) {
                break;
            }
            let read = self.stage::<E, HANDS_OVER>(cx, tables, stage, frame, verdict);
            if read.is_none() {
                break;
            }
            count += 1;
        }
        count
    }

    /// Reads a packet that is plain. `None` for others.
    #[inline(always)]
    fn stage<E: Short, const HANDS_OVER: bool>(
        &self,
        cx: Context<'_>,
        tables: &Tables,
        stage: &mut Staged,
        frame: &mut Frame<'_>,
        verdict: &mut Verdict,
    ) -> Option<()>
    where
        Headers: From<Plain<E::Key>>,
    {
        let plain = E::plain(frame)?;
        let Plain { key, tcp_flags, ip_len } = plain;
        note::<E>(stage, key, tcp_flags, ip_len);
        let hash = E::table(tables).hash(&key);
        if HANDS_OVER {
            let owner = self.plain_owner(cx.snapshot, frame, &plain, E::owner_words(&key));
            if let Some(handoff) = self.unless_own(owner) {
                (stage.kind, *verdict) = (Kind::Decided, handoff);
                frame.read = Reading { hash, ip_len, tcp_flags, family: E::READ };
                return Some(());
            }
        }
        stage.hash = hash;
        stage.home = E::table(tables).prefetch_group(hash);
        Some(())
    }

    /// Stage 1 of a burst whose plain packets were read before, by this worker
    /// ([`Sharing`](super::Sharing)) or the one that handed them over: they are this
    /// worker's, and what is left to do is to ask for their groups' lines. Others
    /// go the long way.
    #[inline(never)]
    pub(super) fn read_on(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        fragments: &mut Fragments,
        burst: &mut Burst<'_, '_>,
    ) {
        let mut rest = 0;
        for (index, (stage, frame)) in burst.staged.iter_mut().zip(&*burst.frames).enumerate() {
            // Those that went round between workers are not for the short way,
            // which renews no hints.
            let read = match frame.read.family {
                _ if frame.handed.candidate != 0 => None,
                IPV4 => stage_read::<Entry4>(tables, stage, frame),
                IPV6 => stage_read::<Entry6>(tables, stage, frame),
                _ => None,
            };
            if read.is_none() {
                rest |= 1 << index;
            }
        }
        if rest != 0 {
            let hands_over = burst.source == Source::Port;
            self.read_rest(cx, tables, fragments, burst, rest, hands_over);
        }
    }

    /// Stage 1 of the packets, a bit each, that are not plain.
    #[inline(never)]
    fn read_rest(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        fragments: &mut Fragments,
        burst: &mut Burst<'_, '_>,
        mut rest: u64,
        hands_over: bool,
    ) {
        while let Some(stage) = burst.staged.get_mut(rest.trailing_zeros() as usize) {
            let index = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            let (frame, headers) = (&mut burst.frames[index], &mut burst.headers[index]);
            let verdict = &mut burst.verdicts[index];
            self.read_rare(cx, tables, fragments, frame, headers, stage, verdict);
            if hands_over {
                self.hand_over(cx, frame, headers, stage, verdict);
            }
        }
    }
}

/// Stages a packet that was read before. `None` where it is too short for that.
#[inline(always)]
fn stage_read<E: Short>(tables: &Tables, stage: &mut Staged, frame: &Frame<'_>) -> Option<()> {
    let key = E::key_of(frame.bytes())?;
    let Reading { hash, ip_len, tcp_flags, .. } = frame.read;
    debug_assert_eq!(hash, E::table(tables).hash(&key), "workers share the key");
    note::<E>(stage, key, tcp_flags, ip_len);
    stage.hash = hash;
    stage.home = E::table(tables).prefetch_group(hash);
    Some(())
}

/// Notes what was read of a plain packet: before its key is hashed, which takes
/// registers.
#[inline(always)]
fn note<E: Short>(stage: &mut Staged, key: E::Key, tcp_flags: u8, ip_len: u16) {
    E::set_key(stage, key);
    (stage.ip_len, stage.tcp_flags) = (ip_len, tcp_flags);
    let is_short = State::keeps_established(tcp_flags);
    stage.kind = if is_short { E::SHORT } else { E::FIRST };
}

/// A fragment may have opened a connection, and the table have grown for it. Then
/// other packets have other home groups.
#[inline(never)]
pub(super) fn ask_again(tables: &Tables, staged: &mut [Staged]) {
    for stage in staged {
        stage.home = match stage.family() {
            Some(Family::V4) => tables.v4.prefetch_group(stage.hash),
            Some(Family::V6) => tables.v6.prefetch_group(stage.hash),
            None => continue,
        };
    }
}
