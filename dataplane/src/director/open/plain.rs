//! The first packet of most connections: a SYN or the first of UDP, plain, of a
//! service that asks for no more than a turn of its scheduler, to a server that
//! is told nothing of the client.
//!
//! What is done is the same as for any other, with fewer questions: such a
//! packet's headers are never put together, its server is the record alone, and
//! its connection is ESTABLISHED's forerunner or UDP. Where more turns out to be
//! needed, it goes on as any other from there.

use std::net::{IpAddr, SocketAddr};

use super::super::short::Short;
use super::super::{Context, Core, Kind, Staged, Verdict};
use super::Opening;
use super::pair::Pair;
use crate::conn::entry::Body;
use crate::conn::memory::prefetch_l1;
use crate::conn::{Entry4, Entry6, Slot, State, TableFull, Tables};
use crate::counters::DropReason;
use crate::packet::headers::tcp;
use crate::packet::{Frame, Headers, Key4, Key6, Protocol, Tuple, Tuple4, Tuple6};
use crate::scheduler::{Request, Scheduler};
use crate::service::{First, LastPlain, Local, Record, Server, Service, ShortMethod};
use crate::time::Tick;

/// A connection to be made for a plain packet. Its server counts it already.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    /// `None`: the packet is not one of these.
    pub(super) to: Option<(&'a Service, &'a Record)>,
    /// Which of the burst's.
    pub(super) index: usize,
    /// The server's.
    pub(super) number: u32,
    overloads: bool,
    /// The second entry's key, in as many words as it has, and its hash. The
    /// hash of none is 0, whose tag would be 0.
    answer: [u64; 5],
    pub(super) answer_hash: u64,
    /// Under FULLNAT.
    local: Option<(Local, u16)>,
}

impl Plain<'_> {
    pub(super) const NONE: Self = Self {
        to: None,
        index: 0,
        number: 0,
        overloads: false,
        answer: [0; 5],
        answer_hash: 0,
        local: None,
    };

    /// Takes back what was counted for a connection that is not made.
    pub(super) fn withdraw(&self, protocol: Protocol) {
        if let Some((_, record)) = self.to {
            let state = first_state(protocol == Protocol::Tcp);
            record.connections().withdraw(state.is_active(), self.overloads);
        }
    }
}

/// What is to be done for a packet.
pub(super) enum Begun<'a> {
    /// It is noted.
    Plain,
    /// More, to a server that is chosen.
    Chosen(&'a Service, u32),
    /// More.
    Any,
}

/// What is left to be done for a packet that turns out not to be one of these.
pub(super) enum Left {
    /// All but to forward it: the connection is made.
    Made(Slot),
    /// All: another connection is in the way of this one's second entry, or
    /// there is no room.
    Unmade,
    /// It has a connection.
    There,
}

/// What opening does differently by family.
pub(super) trait Opens: Short {
    /// What stage 2 says of such packets.
    const NEW: Kind;

    fn protocol(key: &Self::Key) -> u8;

    /// See [`Key4::destination`].
    fn destination(key: &Self::Key) -> [u64; 3];

    /// The key of the packets by which a server answers: those from its port or,
    /// where it has none, from the packet's, to the client or to a local address
    /// and port.
    fn answer(key: &Self::Key, record: &Record, local: Option<(IpAddr, u16)>) -> Option<Self::Key>;

    /// The server as an address, for packets with this key.
    fn server(key: &Self::Key, record: &Record) -> SocketAddr;

    fn to_words(key: &Self::Key) -> [u64; 5];

    fn of_words(words: &[u64; 5]) -> Self::Key;
}

impl Opens for Entry4 {
    const NEW: Kind = Kind::New4;

    #[inline(always)]
    fn protocol(key: &Key4) -> u8 {
        key.protocol()
    }

    #[inline(always)]
    fn destination(key: &Key4) -> [u64; 3] {
        key.destination()
    }

    #[inline(always)]
    fn answer(key: &Key4, record: &Record, local: Option<(IpAddr, u16)>) -> Option<Key4> {
        let Tuple4 { src, src_port, dst_port, .. } = key.tuple();
        let (dst, to_port) = match local {
            None => (src, src_port),
            Some((IpAddr::V4(local), port)) => (local.to_bits(), port),
            Some((IpAddr::V6(_), _)) => return None,
        };
        let [a, b, c, d, ..] = record.address;
        let tuple = Tuple4 {
            src: u32::from_be_bytes([a, b, c, d]),
            dst,
            src_port: record.port_for(dst_port),
            dst_port: to_port,
        };
        Some(key.with(tuple))
    }

    #[inline(always)]
    fn server(key: &Key4, record: &Record) -> SocketAddr {
        let [a, b, c, d, ..] = record.address;
        SocketAddr::from(([a, b, c, d], record.port_for(key.tuple().dst_port)))
    }

    #[inline(always)]
    fn to_words(key: &Key4) -> [u64; 5] {
        let [a, b] = key.words();
        [a, b, 0, 0, 0]
    }

    #[inline(always)]
    fn of_words(&[a, b, ..]: &[u64; 5]) -> Key4 {
        bytemuck::must_cast([a, b])
    }
}

impl Opens for Entry6 {
    const NEW: Kind = Kind::New6;

    #[inline(always)]
    fn protocol(key: &Key6) -> u8 {
        key.protocol()
    }

    #[inline(always)]
    fn destination(key: &Key6) -> [u64; 3] {
        key.destination()
    }

    #[inline(always)]
    fn answer(key: &Key6, record: &Record, local: Option<(IpAddr, u16)>) -> Option<Key6> {
        let Tuple6 { src, src_port, dst_port, .. } = key.tuple();
        let (dst, to_port) = match local {
            None => (src, src_port),
            Some((IpAddr::V6(local), port)) => (local.octets(), port),
            Some((IpAddr::V4(_), _)) => return None,
        };
        let src_port = record.port_for(dst_port);
        Some(key.with(Tuple6 { src: record.address, dst, src_port, dst_port: to_port }))
    }

    #[inline(always)]
    fn server(key: &Key6, record: &Record) -> SocketAddr {
        SocketAddr::from((record.address, record.port_for(key.tuple().dst_port)))
    }

    #[inline(always)]
    fn to_words(key: &Key6) -> [u64; 5] {
        key.words()
    }

    #[inline(always)]
    fn of_words(words: &[u64; 5]) -> Key6 {
        bytemuck::must_cast(*words)
    }
}

/// The state that a plain first packet leaves its connection in, whichever side
/// passes: [`State::after_client_packet`] of a SYN, or of UDP.
#[inline(always)]
const fn first_state(is_tcp: bool) -> State {
    if is_tcp { State::SynRecv } else { State::Udp }
}

const TCP: u8 = Protocol::Tcp as u8;

impl Core {
    /// Finds out what is to be done for a plain packet that has no connection,
    /// and asks for the lines that it takes.
    #[inline(always)]
    pub(super) fn begin_plain<'a, E: Opens>(
        &mut self,
        cx: Context<'a>,
        tables: &Tables,
        stage: &Staged,
        last: &mut LastPlain<'a>,
        plain: &mut Plain<'a>,
    ) -> Begun<'a> {
        let key = E::key_in(stage);
        let is_tcp = E::protocol(key) == TCP;
        if is_tcp && stage.tcp_flags & (tcp::SYN | tcp::RST) != tcp::SYN {
            return Begun::Any;
        }
        let of = || {
            let tuple = E::tuple(key);
            let (vip, port) = tuple.destination();
            (if is_tcp { Protocol::Tcp } else { Protocol::Udp }, vip, port)
        };
        let found = cx.snapshot.services.find_plain(last, E::destination(key), of);
        let Some(service) = found else { return Begun::Any };
        if self.shard.workers() > 1 && self.may_be_answer(cx, &E::tuple(key)) {
            return Begun::Any;
        }
        let Service { scheduler, state, candidates, .. } = service;
        if let Some(soon) = scheduler.soon(state, candidates, 8) {
            cx.snapshot.servers.prefetch(soon);
        }
        let number = if let Scheduler::Rr = scheduler {
            Scheduler::Rr.choose_for_any(state, candidates, self.worker)
        } else {
            self.choose_plain(cx, service, &E::tuple(key))
        };
        // Without, it is told so.
        let Some(number) = number else { return Begun::Any };
        let Some(record) = cx.snapshot.servers.record(number) else {
            return Begun::Chosen(service, number);
        };
        plain.answer_hash = 0;
        plain.local = None;
        match record.first {
            First::Alone => {}
            First::Nat(family) if family == E::FAMILY => {
                if !self.begin_answer::<E>(tables, key, record, plain) {
                    return Begun::Chosen(service, number);
                }
            }
            First::Fullnat(family) if family == E::FAMILY => {
                plain.local = self.first_port(cx, service, E::server(key, record));
                if plain.local.is_none() || !self.begin_answer::<E>(tables, key, record, plain) {
                    return Begun::Chosen(service, number);
                }
            }
            First::Any | First::Nat(_) | First::Fullnat(_) => {
                return Begun::Chosen(service, number);
            }
        }
        // Counted from here on, so that the next packet's choice knows of it.
        plain.overloads = record.connections().open(first_state(is_tcp).is_active());
        prefetch_l1(record.traffic(self.worker));
        plain.number = number;
        plain.to = Some((service, record));
        Begun::Plain
    }

    /// Chooses a server by any other scheduler.
    #[inline(never)]
    fn choose_plain(&self, cx: Context<'_>, service: &Service, tuple: &Tuple) -> Option<u32> {
        let Service { scheduler, state, candidates, .. } = service;
        let ((client, client_port), (destination, _)) = (tuple.source(), tuple.destination());
        let worker = self.worker;
        let request = Request { client, client_port, destination, now: cx.now, worker };
        scheduler.choose(state, candidates, &request)
    }

    /// Whether a packet may be a NAT server's, of another worker's connection.
    #[inline(never)]
    fn may_be_answer(&self, cx: Context<'_>, tuple: &Tuple) -> bool {
        cx.snapshot.nat_sources.may_have(&tuple.addresses())
    }

    /// Notes by which packets the server will answer.
    #[inline(always)]
    fn begin_answer<E: Opens>(
        &self,
        tables: &Tables,
        key: &E::Key,
        record: &Record,
        plain: &mut Plain<'_>,
    ) -> bool {
        let local = plain.local.map(|(local, port)| (local.address, port));
        let Some(answer) = E::answer(key, record, local) else { return false };
        plain.answer = E::to_words(&answer);
        plain.answer_hash = E::table(tables).hash(&answer);
        E::table(tables).prefetch_group(plain.answer_hash);
        true
    }

    /// Makes the connection of a plain packet and forwards it: the port's index,
    /// or what is left to be done.
    #[inline(always)]
    pub(super) fn complete_plain<E: Opens>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        plain: &Plain<'_>,
        stage: &Staged,
        frame: &mut Frame<'_>,
    ) -> Result<u8, Left> {
        let Some((_, record)) = plain.to else { return Err(Left::Unmade) };
        let (key, hash) = (E::key_in(stage), stage.hash);
        let is_tcp = E::protocol(key) == TCP;
        let state = first_state(is_tcp);
        let expiry = cx.snapshot.timeouts.expiry(state, cx.now);
        let mut body = Body::new(plain.number, state, cx.now);
        let slot = if plain.answer_hash == 0 {
            tables.make_room_in::<E>();
            let entry = || E::new(*key, body);
            match E::table_mut(tables).insert(hash, cx.now, expiry, entry) {
                Ok(slot) => slot,
                Err(TableFull) => {
                    let another = self.insert_for_another::<E>(cx, tables, key, hash, body, expiry);
                    another.ok_or(Left::Unmade)?
                }
            }
        } else {
            let answer = E::of_words(&plain.answer);
            if E::table(tables).find(plain.answer_hash, &answer).is_some() {
                return Err(Left::Unmade);
            }
            if let Some((local, port)) = plain.local {
                body.set_local(port, local.number);
            }
            let deltas = E::deltas(key, &answer);
            tables.make_room_in::<E>();
            let entry = || E::paired(*key, &answer, body, deltas);
            let table = E::table_mut(tables);
            let slot =
                table.insert(hash, cx.now, expiry, entry).map_err(|TableFull| Left::Unmade)?;
            let other = (&answer, plain.answer_hash);
            let made = tables.insert_answer::<E>(slot, other, (body, deltas), cx.now, expiry);
            if let Err(TableFull) = made {
                E::table_mut(tables).remove(slot);
                return Err(Left::Unmade);
            }
            if self.shard.workers() > 1 && plain.local.is_none() {
                let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
                self.give_hint(cx.snapshot, protocol, &E::tuple(&answer));
            }
            slot
        };
        self.assert_own(tables, E::place(slot));
        let traffic = record.traffic(self.worker);
        traffic.scheduled();
        let passed = stage.ip_len <= record.short_mtu
            && if plain.answer_hash != 0 {
                E::pass_to_server(cx.snapshot, E::table(tables).entry(slot), record, stage, frame)
            } else {
                record.method == ShortMethod::Dr && E::pass(stage, &record.macs, frame)
            };
        if !passed {
            return Err(Left::Made(slot));
        }
        traffic.packet(stage.ip_len.into());
        Ok(record.port)
    }

    /// Adds an entry in the place of a half-open connection's, if there is one.
    #[inline(never)]
    fn insert_for_another<E: Opens>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        body: Body,
        expiry: Tick,
    ) -> Option<Slot> {
        if !self.recycle::<E>(cx, tables, hash, None) {
            return None;
        }
        E::table_mut(tables).insert(hash, cx.now, expiry, || E::new(*key, body)).ok()
    }

    /// Makes the connection of a plain packet as any other's, and forwards it.
    #[expect(clippy::too_many_arguments)]
    #[inline(never)]
    pub(super) fn complete_as_other<E: Opens>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        plain: &Plain<'_>,
        server: &Server,
        stage: &Staged,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let &Plain { number, overloads, local, answer, answer_hash: hash, .. } = plain;
        let Some((service, _)) = plain.to else { return self.drop(DropReason::NoServer) };
        let state = first_state(headers.protocol == Protocol::Tcp);
        let opening = Opening { service, number, server, template: None, state, overloads };
        let to = E::tuple(&E::of_words(&answer)).reversed();
        let pair = (hash != 0).then_some(Pair { local, to, hash });
        let (key, hash) = (E::key_in(stage), stage.hash);
        match self.enter::<E>(cx, tables, key, hash, (&opening, pair.as_ref()), headers, frame) {
            Ok(slot) => self.forward_first::<E>(cx, tables, slot, server, hash, headers, frame),
            Err(decided) => decided,
        }
    }
}
