//! The first packet of a connection: service, scheduler, template, local port,
//! entries.
//!
//! Packets of a burst that have no connection are opened some at a time, in
//! steps, so that the lines of the second entry (NAT, FULLNAT) and of the
//! server are on their way while others are worked on:
//!
//! 1. [`Core::prepare`]: who gets it, what does it become; ask for the lines
//! 2. tags of the second entry's group: ask for the slot's line
//! 3. [`Core::insert`], and forward it

use std::net::{IpAddr, SocketAddr};

use super::ageing::count_template;
use super::short::Short;
use super::take_up;
use super::{BURST, Burst, Context, Core, Staged, Verdict, punt_kind};
use crate::conn::entry::Body;
use crate::conn::memory::prefetch_l1;
use crate::conn::persistence::{Refused, TemplateKey, TemplateSlot};
use crate::conn::{Entry4, Entry6, Place, Slot, State, TableFull, Tabled, Tables};
use crate::counters::DropReason;
use crate::fragment::Fragment;
use crate::icmp;
use crate::packet::headers::{sctp, tcp};
use crate::packet::{Family, Frame, Headers, Protocol, Tuple, Tuple4};
use crate::punt::PuntKind;
use crate::scheduler::{Request, Scheduler};
use crate::service::{ClientAddress, Local, Method, Persistence, Server, Service, endpoints};
use crate::shard::Shard;
use crate::snapshot::LocalPorts;

/// Ports that are looked up in the table at most when a FULLNAT connection
/// looks for a free one: some microseconds.
const PORT_PROBES: usize = 128;

/// Connections that are opened at a time: enough work to wait for memory with.
const AT_ONCE: usize = 16;

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

/// What is known of a connection in both directions before it is made.
#[derive(Clone, Copy)]
struct Pair {
    /// The local address and port (FULLNAT), which may turn out to be taken.
    local: Option<(Local, u16)>,
    /// What the client's packets become. The server's are the reverse of it.
    to: Tuple,
    /// The table hash of the server's.
    hash: u64,
}

impl Core {
    /// Stage 4: opens connections for the packets of a burst that have none, a
    /// bit each.
    #[inline(never)]
    pub(super) fn open_missed(
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
    /// has no connection. `Err` is the verdict where there is nothing to open, or the packet leaves no
    /// connection. What is found out is written where it stays, the pair for a
    /// connection in both directions.
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
        let opening =
            prepared.insert(Opening { service, number, server, template, state, overloads: false });
        if one_packet {
            return Err(self.forward_once(cx, opening, hash, headers, frame));
        }
        if !opens {
            return Err(match server.method {
                Method::Dr | Method::Tun(_) if service.take_up => {
                    self.forward_once(cx, opening, hash, headers, frame)
                }
                Method::Dr | Method::Tun(_) => {
                    self.forward_stateless(cx, opening, hash, headers, frame)
                }
                Method::Nat | Method::Fullnat => {
                    if let Some(template) = template {
                        self.templates.close(template);
                    }
                    self.punt(cx.now, punt_kind(headers))
                }
            });
        }
        // Counted from here on, so that the next packet's choice knows of it.
        opening.overloads = server.counts.connections.open(state.is_active());
        if two_sided {
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

    /// What a connection in both directions will be.
    fn pair(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        opening: &Opening<'_>,
        headers: &Headers,
    ) -> Result<Pair, DropReason> {
        let Opening { server, service, .. } = opening;
        let local = match server.method {
            Method::Fullnat => {
                let address = with_port(server.address, headers.dst_port);
                let mut budget = PortBudget::new(&self.shard);
                let next = self.next_port(cx, service, address, &mut budget);
                Some(next.ok_or(DropReason::NoLocalPort)?)
            }
            _ => None,
        };
        Pair::new(tables, headers, server, local)
    }

    /// Takes back what was counted for a connection that is not made.
    fn withdraw(&self, opening: &Opening<'_>) {
        let connections = &opening.server.counts.connections;
        connections.withdraw(opening.state.is_active(), opening.overloads);
        if let Some(template) = opening.template {
            self.templates.close(template);
        }
    }

    /// Puts a prepared connection into the tables. `Err` is the verdict of its
    /// packet where that fails.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    fn enter<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        (opening, pair): (&Opening<'_>, Option<&Pair>),
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<Slot, Verdict> {
        let made = (opening, pair);
        let reason = match self.insert::<E>(cx, tables, key, hash, made, headers, frame) {
            Ok(slot) => return Ok(slot),
            Err(reason) => reason,
        };
        let stateless = reason == DropReason::TableFull
            && matches!(opening.service.scheduler, Scheduler::Mh(_))
            && !opening.server.method.is_two_sided();
        if stateless {
            // A consistent hash finds the server again without an entry.
            let connections = &opening.server.counts.connections;
            connections.withdraw(opening.state.is_active(), opening.overloads);
            return Err(self.forward_stateless(cx, opening, hash, headers, frame));
        }
        self.withdraw(opening);
        Err(self.drop(reason))
    }

    /// A packet that no service has: the host's, or one that it routes; or, of
    /// a NAT server, one whose connection is gone.
    fn unserved(&mut self, cx: Context<'_>, headers: &Headers, frame: &mut Frame<'_>) -> Verdict {
        if cx.snapshot.settings.nat_icmp_send && !is_reset(headers) {
            let (src, _) = endpoints(&headers.addresses);
            let mut of = cx.snapshot.nat_sources.of(headers.protocol, src, headers.src_port);
            let is_reply = of.next().is_some();
            if is_reply {
                self.tell_server(cx, icmp::Error::PortUnreachable, headers, frame);
                return self.drop(DropReason::NatNoConnection);
            }
        }
        self.punt(cx.now, punt_kind(headers))
    }

    /// Whether a packet may open a connection, by its protocol. `Ok(false)`: it
    /// does not, but may be of one that has no entry.
    fn may_open(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        headers: &Headers,
    ) -> Result<bool, Verdict> {
        let settings = &cx.snapshot.settings;
        match headers.protocol {
            Protocol::Tcp if service.take_up => self.may_take_up(cx, headers),
            Protocol::Tcp if self.may_be_stateless(cx, service) => {
                Ok(headers.tcp_flags & (tcp::SYN | tcp::RST) == tcp::SYN)
            }
            Protocol::Tcp if headers.tcp_flags & tcp::RST != 0 => {
                Err(self.drop(DropReason::TcpRstNoConnection))
            }
            // The VIP is the kernel's, and its stack answers with RST.
            Protocol::Tcp if headers.tcp_flags & tcp::SYN == 0 && !settings.sloppy_tcp => {
                Err(self.punt(cx.now, PuntKind::Tcp))
            }
            Protocol::Sctp if headers.tcp_flags != sctp::INIT && !settings.sloppy_sctp => {
                Err(self.punt(cx.now, PuntKind::Other))
            }
            _ => Ok(true),
        }
    }

    /// Whether packets without a connection may belong to one that was opened
    /// while the table was full, or elsewhere, and that the scheduler finds again.
    fn may_be_stateless(&self, cx: Context<'_>, service: &Service) -> bool {
        matches!(service.scheduler, Scheduler::Mh(_))
            && (service.take_up || cx.now < self.stateless_until)
    }

    /// Chooses a server, by the client's template where the service has those;
    /// otherwise by `number`, if there is one.
    #[inline(always)]
    fn choose(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        headers: &Headers,
        number: Option<u64>,
    ) -> Result<(u32, Option<TemplateSlot>), DropReason> {
        let Service { scheduler, state, candidates, .. } = service;
        if number.is_none() && service.persistence.is_none() && !scheduler.goes_by_request() {
            let chosen = scheduler.choose_for_any(state, candidates, self.worker);
            return chosen.map(|number| (number, None)).ok_or(DropReason::NoServer);
        }
        self.choose_by_request(cx, service, headers, number)
    }

    /// The same where it matters who asks.
    #[inline(never)]
    fn choose_by_request(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        headers: &Headers,
        number: Option<u64>,
    ) -> Result<(u32, Option<TemplateSlot>), DropReason> {
        let Self { worker, .. } = *self;
        let Service { scheduler, state, candidates, .. } = service;
        let (client, destination) = endpoints(&headers.addresses);
        let client_port = headers.src_port;
        let request = Request { client, client_port, destination, now: cx.now, worker };
        let choose = || match number {
            Some(number) => scheduler.choose_by_number(state, candidates, &request, number),
            None => scheduler.choose(state, candidates, &request),
        };
        let Some(persistence) = service.persistence else {
            return choose().map(|number| (number, None)).ok_or(DropReason::NoServer);
        };
        self.choose_by_template(cx, service, persistence, headers, choose)
    }

    /// Chooses a server by the client's template, or makes one.
    #[inline(never)]
    fn choose_by_template(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        persistence: Persistence,
        headers: &Headers,
        choose: impl FnOnce() -> Option<u32>,
    ) -> Result<(u32, Option<TemplateSlot>), DropReason> {
        let key = TemplateKey::of(service.number, &headers.addresses, persistence.prefix);
        let quiescent = cx.snapshot.settings.expire_quiescent_template;
        let still_ok = |number| {
            cx.snapshot
                .server(number)
                .is_some_and(|server| !(server.deleted || (quiescent && server.weight == 0)))
        };
        let counted = |server, change| count_template(cx, server, change);
        let opened =
            self.templates.open(cx.now, &key, persistence.timeout, still_ok, choose, counted);
        match opened {
            Ok((slot, number)) => Ok((number, Some(slot))),
            Err(Refused::NoServer) => Err(DropReason::NoServer),
            Err(Refused::Full) => Err(DropReason::TemplatesFull),
            Err(Refused::Busy) => Err(DropReason::TemplateBusy),
        }
    }

    /// Makes the entries of a prepared connection.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    fn insert<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        (opening, pair): (&Opening<'_>, Option<&Pair>),
        headers: &Headers,
        frame: &Frame<'_>,
    ) -> Result<Slot, DropReason> {
        let &Opening { number, server, template, state, .. } = opening;
        let now = cx.now;
        let body = |local: Option<(Local, u16)>| {
            let mut body = Body::new(number, state, now);
            if let Some(template) = template {
                body.set_template(template.number());
            }
            if let Some((local, port)) = local {
                body.set_local(port, local.number);
            }
            body
        };
        let place = match pair {
            None => {
                let entry = || E::new(*key, body(None));
                self.insert_client::<E>(cx, tables, hash, state, entry)?
            }
            Some(pair) => {
                let settled = self.settle(cx, tables, opening, pair, headers)?;
                let pair = settled.as_ref().unwrap_or(pair);
                let mut body = body(pair.local);
                body.set_client_address(server.client_address);
                let entry = || E::new(*key, body).rewritten(&pair.to);
                let place = self.insert_client::<E>(cx, tables, hash, state, entry)?;
                let twin = self.insert_twin(cx, tables, place, body, pair, headers.protocol)?;
                if server.method == Method::Nat {
                    self.give_hint(cx.snapshot, headers.protocol, &pair.to.reversed());
                }
                if server.client_address != ClientAddress::None {
                    let sequence = sequence_of(headers, frame);
                    tables.body_mut(twin).set_initial_sequence(sequence);
                }
                place
            }
        };
        if take_up::is_middle(opening.service, headers) {
            self.counters.taken_up += 1;
        }
        // With sloppy_tcp or sloppy_sctp it may be an old connection.
        if template.is_some() {
            self.assure(tables, place, state);
        }
        server.counts.scheduled(self.worker);
        Ok(place.slot())
    }

    /// Makes sure that no other connection has the server's entry: FULLNAT
    /// goes on to another port, and that pair is given; NAT cannot.
    fn settle(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        opening: &Opening<'_>,
        pair: &Pair,
        headers: &Headers,
    ) -> Result<Option<Pair>, DropReason> {
        let protocol = headers.protocol;
        let Some(old) = tables.find_hashed(protocol, &pair.to.reversed(), pair.hash) else {
            return Ok(None);
        };
        if tables.body(old).state().is_reusable() {
            self.close(cx, tables, old);
            return Ok(None);
        }
        if pair.local.is_none() {
            // Under NAT two services on one server cannot have one client's
            // port at the same time: replies would not tell them apart.
            return Err(DropReason::NatAmbiguous);
        }
        let server = opening.server;
        let address = with_port(server.address, headers.dst_port);
        let found = self.local_port(cx, tables, opening.service, protocol, address);
        let pair = Pair::new(tables, headers, server, Some(found.ok_or(DropReason::NoLocalPort)?))?;
        if let Some(old) = tables.find_hashed(protocol, &pair.to.reversed(), pair.hash) {
            self.close(cx, tables, old);
        }
        Ok(Some(pair))
    }

    /// Adds the client's entry.
    #[inline(always)]
    fn insert_client<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        hash: u64,
        state: State,
        entry: impl Fn() -> E,
    ) -> Result<Place, DropReason> {
        let expiry = cx.snapshot.timeouts.expiry(state, cx.now);
        // Before: what comes in from here on stays where it is.
        tables.make_room();
        let inserted = match E::table_mut(tables).insert(hash, cx.now, expiry, &entry) {
            Err(TableFull) if self.recycle::<E>(cx, tables, hash, None) => {
                E::table_mut(tables).insert(hash, cx.now, expiry, &entry)
            }
            inserted => inserted,
        };
        inserted.map(E::place).map_err(|TableFull| DropReason::TableFull)
    }

    /// Adds the server's entry to the client's at `client`, whose body is given,
    /// and which goes where there is no room for both.
    fn insert_twin(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        client: Place,
        body: Body,
        pair: &Pair,
        protocol: Protocol,
    ) -> Result<Place, DropReason> {
        let Pair { to, hash, .. } = pair;
        let reply = to.reversed();
        let back = tables.tuple(client).reversed();
        let expiry = cx.snapshot.timeouts.expiry(body.state(), cx.now);
        let mut other = body.for_replies();
        if protocol == Protocol::Udp {
            other.set_template(body.template());
        }
        let insert = |tables: &mut Tables| {
            tables.insert(protocol, &reply, *hash, other, Some(&back), cx.now, expiry)
        };
        let mut twin = insert(tables);
        if twin.is_err() {
            // The second entry must not take the first one's place.
            let keep = Some(client);
            let room = match reply.family() {
                Family::V4 => self.recycle::<Entry4>(cx, tables, *hash, keep),
                Family::V6 => self.recycle::<Entry6>(cx, tables, *hash, keep),
            };
            if room {
                twin = insert(tables);
            }
        }
        let Ok(twin) = twin else {
            tables.remove(client);
            return Err(DropReason::TableFull);
        };
        tables.join(client, twin);
        Ok(twin)
    }

    /// Finds a local address and port for a FULLNAT connection, such that the
    /// server's packets are this worker's own, and that no other connection to
    /// this server has it.
    fn local_port(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        service: &Service,
        protocol: Protocol,
        server: SocketAddr,
    ) -> Option<(Local, u16)> {
        let mut budget = PortBudget::new(&self.shard);
        for _ in 0..PORT_PROBES {
            let (local, port) = self.next_port(cx, service, server, &mut budget)?;
            let taken = tables.find(protocol, &reply_tuple(server, local.address, port)?);
            if taken.is_none_or(|place| tables.body(place).state().is_reusable()) {
                return Some((local, port));
            }
        }
        None
    }

    /// The next local address and port such that the server's packets are this
    /// worker's own. The search goes on where the last one ended, so that a
    /// port rests as long as possible before it is used again.
    fn next_port(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        server: SocketAddr,
        budget: &mut PortBudget,
    ) -> Option<(Local, u16)> {
        let LocalPorts(first, last) = cx.snapshot.local_ports;
        let ports = u32::from(last.saturating_sub(first)) + 1;
        let locals = service.locals_of(server.is_ipv4());
        let count = u32::try_from(locals.len()).ok().filter(|&count| count > 0)?;
        let all = ports.saturating_mul(count);
        while budget.0 > 0 {
            budget.0 -= 1;
            let index = self.next_local % all;
            self.next_local = self.next_local.wrapping_add(1);
            let local = *locals.get((index % count) as usize)?;
            let port = first + (index / count) as u16;
            let reply = reply_tuple(server, local.address, port)?;
            if self.shard.workers() == 1 || self.natural_owner(&reply) == self.worker {
                return Some((local, port));
            }
        }
        None
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

/// How many ports a search for a free one may look at.
struct PortBudget(u32);

impl PortBudget {
    fn new(shard: &Shard) -> Self {
        Self(PORT_PROBES as u32 * shard.workers() as u32 * 2)
    }
}

impl Pair {
    fn new(
        tables: &Tables,
        headers: &Headers,
        server: &Server,
        local: Option<(Local, u16)>,
    ) -> Result<Self, DropReason> {
        let from = local.map(|(local, port)| (local.address, port));
        let to = to_server(&headers.tuple(), from, server.address, headers.dst_port)
            .ok_or(DropReason::NoTranslation)?;
        Ok(Self { local, to, hash: tables.hash(headers.protocol, &to.reversed()) })
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

/// Whether a packet only says that there is no connection: nobody need be told
/// so. TCP's RST, and ABORT of SCTP (RFC 9260, section 3.3.7).
const fn is_reset(headers: &Headers) -> bool {
    const ABORT: u8 = 6;
    match headers.protocol {
        Protocol::Tcp => headers.tcp_flags & tcp::RST != 0,
        Protocol::Sctp => headers.tcp_flags == ABORT,
        Protocol::Udp => false,
    }
}

/// The address with a port of its own, or the packet's.
const fn with_port(server: SocketAddr, port: u16) -> SocketAddr {
    if server.port() == 0 { SocketAddr::new(server.ip(), port) } else { server }
}

/// What a client's packet becomes on its way to the server: from the local
/// address (FULLNAT) or from where it came. `None` when that would be of two
/// families.
pub(super) fn to_server(
    from: &Tuple,
    local: Option<(IpAddr, u16)>,
    server: SocketAddr,
    vport: u16,
) -> Option<Tuple> {
    if let (&Tuple::V4(from), None, SocketAddr::V4(server)) = (from, local, server) {
        let dst_port = if server.port() == 0 { vport } else { server.port() };
        return Some(Tuple::V4(Tuple4 { dst: server.ip().to_bits(), dst_port, ..from }));
    }
    let (client, client_port) = from.source();
    let (src, src_port) = local.unwrap_or((client, client_port));
    let server = with_port(server, vport);
    Tuple::new(src, src_port, server.ip(), server.port())
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

/// The tuple of a server's packets to a local address.
fn reply_tuple(server: SocketAddr, local: IpAddr, port: u16) -> Option<Tuple> {
    Tuple::new(server.ip(), server.port(), local, port)
}
