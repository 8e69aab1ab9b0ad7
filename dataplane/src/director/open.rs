//! The first packet of a connection: service, scheduler, template, local port,
//! entries.
//!
//! [`Core::prepare`] says what is to be done for any packet without a
//! connection, and [`Core::open`] does it for one alone. `burst` opens those of
//! a burst together; `choose` says who gets a connection, `pair` what one in
//! both directions will be, and `enter` makes the entries. `plain` is a way of
//! its own for what most connections begin with.

mod burst;
mod choose;
mod enter;
mod pair;
mod plain;

pub(super) use self::pair::to_server;

use self::pair::Pair;
use super::{Context, Core, Verdict, punt_kind, take_up};
use crate::conn::memory::prefetch_l1;
use crate::conn::persistence::TemplateSlot;
use crate::conn::{Slot, State, Tabled, Tables};
use crate::counters::DropReason;
use crate::fragment::Fragment;
use crate::icmp;
use crate::packet::{Frame, Headers, Protocol};
use crate::service::{Method, Server, Service};

/// A connection to be made. Its server counts it already.
struct Opening<'a> {
    service: &'a Service,
    number: u32,
    server: &'a Server,
    template: Option<TemplateSlot>,
    state: State,
    /// The server became overloaded by it.
    overloads: bool,
}

impl Core {
    /// Opens a connection for a packet that has none. `Err` is the verdict
    /// where there is nothing to open, or the packet leaves no connection.
    #[cold]
    pub(super) fn open<'a, E: Tabled>(
        &mut self,
        cx: Context<'a>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<(Slot, &'a Server), Verdict> {
        let (mut opening, mut pair) = (None, None);
        let service = cx.snapshot.services.find(headers, frame.port);
        let made = (&mut opening, &mut pair);
        self.prepare(cx, tables, service, hash, headers, frame, made)?;
        let Some(opening) = opening else { return Err(self.drop(DropReason::NoServer)) };
        let made = (&opening, pair.as_ref());
        let slot = self.enter::<E>(cx, tables, key, hash, made, headers, frame)?;
        Ok((slot, opening.server))
    }

    /// Forwards the packet that opened a connection.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    pub(super) fn forward_first<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        self.assert_own(tables, E::place(slot));
        server.counts.packet(self.worker, u64::from(headers.ip_len));
        match server.method {
            Method::Dr => self.send_dr(cx, server, headers, frame),
            Method::Tun(encapsulation) => {
                self.send_tun(cx, server, encapsulation, hash, headers, frame)
            }
            Method::Nat | Method::Fullnat => {
                self.send_nat::<E>(cx, tables, slot, server, headers, frame)
            }
        }
    }

    /// Finds out what is to be done for a packet of a service, or of none, that
    /// has no connection. `Err` is the verdict where there is nothing to open, or
    /// the packet leaves no connection. What is found out is written where it
    /// stays, the pair for a connection in both directions.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    fn prepare<'a>(
        &mut self,
        cx: Context<'a>,
        tables: &Tables,
        service: Option<&'a Service>,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
        (prepared, pair): (&mut Option<Opening<'a>>, &mut Option<Pair>),
    ) -> Result<(), Verdict> {
        if self.shard.workers() > 1 {
            if let Some(verdict) = self.elsewhere(cx.snapshot, headers, frame.handed) {
                return Err(verdict);
            }
        }
        let Some(service) = service else {
            return Err(self.unserved(cx, headers, frame));
        };
        ask_for_next(cx, self.worker, service);
        let opens = self.may_open(cx, service, headers)? && !headers.later_fragment;
        let one_packet = service.one_packet && headers.protocol == Protocol::Udp;
        if headers.later_fragment && !one_packet && !self.may_be_stateless(cx, service) {
            // Its first fragment was refused, or what it opened is over.
            return Err(self.drop(DropReason::FragmentNoConnection));
        }
        let number = match one_packet && headers.fragment {
            true => Some(datagram_number(hash, headers, frame)),
            false => None,
        };
        let (number, template) = match self.choose(cx, service, headers, number) {
            Ok(chosen) => chosen,
            Err(reason) => {
                // While servers are about to come, the client had better try
                // again than hear that there is nothing.
                if reason == DropReason::NoServer && !service.candidates.any_fresh() {
                    self.tell_client(cx, icmp::Error::PortUnreachable, headers, frame);
                }
                return Err(self.drop(reason));
            }
        };
        let Some(server) = cx.snapshot.server(number) else {
            return Err(self.drop(DropReason::NoServer));
        };
        let two_sided = server.method.is_two_sided();
        let state = match take_up::is_middle(service, headers) {
            true => State::SynRecv,
            false => State::None.after_client_packet(two_sided, headers),
        };
        let opening = Opening { service, number, server, template, state, overloads: false };
        if one_packet {
            return Err(self.forward_once(cx, &opening, hash, headers, frame));
        }
        if !opens {
            return Err(match server.method {
                Method::Dr | Method::Tun(_) if service.take_up => {
                    self.forward_once(cx, &opening, hash, headers, frame)
                }
                Method::Dr | Method::Tun(_) => {
                    self.forward_stateless(cx, &opening, hash, headers, frame)
                }
                Method::Nat | Method::Fullnat => {
                    if let Some(template) = template {
                        self.templates.close(template);
                    }
                    self.punt(cx.now, punt_kind(headers))
                }
            });
        }
        self.count(cx, tables, prepared.insert(opening), pair, headers)
    }

    /// Counts a connection that is to be made, and finds out what one in both
    /// directions will be.
    #[inline(always)]
    fn count(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        opening: &mut Opening<'_>,
        pair: &mut Option<Pair>,
        headers: &Headers,
    ) -> Result<(), Verdict> {
        let Opening { server, state, .. } = *opening;
        // Counted from here on, so that the next packet's choice knows of it.
        opening.overloads = server.counts.connections.open(state.is_active());
        if server.method.is_two_sided() {
            match self.pair(cx, tables, opening, headers) {
                Ok(prepared) => {
                    tables.prefetch_group(prepared.to.family(), prepared.hash);
                    *pair = Some(prepared);
                }
                Err(reason) => {
                    self.withdraw(opening);
                    return Err(self.drop(reason));
                }
            }
        }
        Ok(())
    }

    /// [`Core::prepare`] for a plain packet whose server is chosen.
    #[inline(never)]
    fn prepare_chosen<'a>(
        &mut self,
        cx: Context<'a>,
        tables: &Tables,
        service: &'a Service,
        number: u32,
        headers: &Headers,
        (prepared, pair): (&mut Option<Opening<'a>>, &mut Option<Pair>),
    ) -> Result<(), Verdict> {
        let Some(server) = cx.snapshot.server(number) else {
            return Err(self.drop(DropReason::NoServer));
        };
        let state = State::None.after_client_packet(server.method.is_two_sided(), headers);
        let opening = Opening { service, number, server, template: None, state, overloads: false };
        self.count(cx, tables, prepared.insert(opening), pair, headers)
    }

    /// Takes back what was counted for a connection that is not made.
    fn withdraw(&self, opening: &Opening<'_>) {
        let connections = &opening.server.counts.connections;
        connections.withdraw(opening.state.is_active(), opening.overloads);
        if let Some(template) = opening.template {
            self.templates.close(template);
        }
    }

    /// Forwards a packet of a connection for which the table had no room.
    fn forward_stateless(
        &mut self,
        cx: Context<'_>,
        opening: &Opening<'_>,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        self.counters.stateless += 1;
        self.stateless_until = cx.snapshot.timeouts.expiry(State::Established, cx.now);
        self.forward_once(cx, opening, hash, headers, frame)
    }

    /// Forwards a packet that leaves no connection.
    fn forward_once(
        &mut self,
        cx: Context<'_>,
        opening: &Opening<'_>,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        if let Some(template) = opening.template {
            self.templates.close(template);
        }
        let server = opening.server;
        server.counts.scheduled(self.worker);
        server.counts.packet(self.worker, u64::from(headers.ip_len));
        match server.method {
            Method::Dr => self.send_dr(cx, server, headers, frame),
            Method::Tun(encapsulation) => {
                self.send_tun(cx, server, encapsulation, hash, headers, frame)
            }
            Method::Nat | Method::Fullnat => {
                let from = headers.tuple();
                match to_server(&from, None, server.address, headers.dst_port) {
                    Some(to) => self.send_once(cx, server, &from, &to, headers, frame),
                    None => self.drop(DropReason::NoTranslation),
                }
            }
        }
    }
}

/// Asks for what connections need of the servers that have their turn soon: a
/// record first, then what it leads to.
#[inline(always)]
fn ask_for_next(cx: Context<'_>, worker: usize, service: &Service) {
    let Service { scheduler, state, candidates, .. } = service;
    if let Some(number) = scheduler.soon(state, candidates, 8) {
        cx.snapshot.servers.prefetch(number);
    }
    let soon = scheduler.soon(state, candidates, 4);
    let Some(number) = soon else { return };
    if let Some(server) = cx.snapshot.server(number) {
        prefetch_l1(&server.method);
        prefetch_l1(&server.counts);
    }
    if let Some(record) = cx.snapshot.servers.record(number) {
        prefetch_l1(record.traffic(worker));
    }
}

/// A number that all fragments of a datagram have in common, and datagrams that
/// follow each other have not: servers take turns. `hash` is of the addresses
/// and ports.
fn datagram_number(hash: u64, headers: &Headers, frame: &Frame<'_>) -> u64 {
    let id = Fragment::parse(frame.bytes(), headers).map_or(0, |fragment| fragment.key.id);
    hash.wrapping_add(u64::from(id))
}

/// The sequence number of a TCP packet.
pub(super) fn sequence_of(headers: &Headers, frame: &Frame<'_>) -> u32 {
    let bytes = frame.bytes().get(usize::from(headers.l4) + 4..);
    bytes.and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
