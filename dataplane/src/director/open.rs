//! The first packet of a connection: service, scheduler, template, local port,
//! entries.

use std::net::{IpAddr, SocketAddr};

use super::ageing::count_template;
use super::{Context, Core, Verdict, punt_kind};
use crate::conn::entry::Body;
use crate::conn::persistence::{Refused, TemplateKey, TemplateSlot};
use crate::conn::{Entry, Entry4, Entry6, Place, Slot, State, TableFull, Tabled, Tables};
use crate::counters::DropReason;
use crate::forward::nat;
use crate::fragment::Fragment;
use crate::icmp;
use crate::packet::headers::{Addresses, sctp, tcp};
use crate::packet::{Family, Frame, Headers, Protocol, Tuple};
use crate::punt::PuntKind;
use crate::scheduler::{Request, Scheduler};
use crate::service::{ClientAddress, Local, Method, Server, Service, endpoints};
use crate::snapshot::LocalPorts;

/// Ports that are looked up in the table at most when a FULLNAT connection
/// looks for a free one: some microseconds.
const PORT_PROBES: usize = 128;

/// A connection to be made.
struct Opening<'a> {
    service: &'a Service,
    number: u32,
    server: &'a Server,
    template: Option<TemplateSlot>,
}

impl Core {
    /// Opens a connection for a packet that has none. `Err` is the verdict
    /// where there is nothing to open, or the packet leaves no connection.
    #[cold]
    pub(super) fn open<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<Slot, Verdict> {
        if let Some(verdict) = self.elsewhere(cx.snapshot, headers, frame.handed) {
            return Err(verdict);
        }
        let Some(service) = cx.snapshot.services.find(headers, frame.port) else {
            return Err(self.unserved(cx, headers, frame));
        };
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
        let opening = Opening { service, number, server, template };
        if one_packet {
            return Err(self.forward_once(cx, &opening, hash, headers, frame));
        }
        if !opens {
            return Err(match server.method {
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
        match self.insert::<E>(cx, tables, key, &opening, headers, frame) {
            Ok(slot) => Ok(slot),
            // A consistent hash finds the server again without an entry.
            Err(DropReason::TableFull)
                if matches!(service.scheduler, Scheduler::Mh(_))
                    && !server.method.is_two_sided() =>
            {
                Err(self.forward_stateless(cx, &opening, hash, headers, frame))
            }
            Err(reason) => {
                if let Some(template) = template {
                    self.templates.close(template);
                }
                Err(self.drop(reason))
            }
        }
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
    /// while the table was full, and that the scheduler finds again.
    fn may_be_stateless(&self, cx: Context<'_>, service: &Service) -> bool {
        matches!(service.scheduler, Scheduler::Mh(_)) && cx.now < self.stateless_until
    }

    /// Chooses a server, by the client's template where the service has those;
    /// otherwise by `number`, if there is one.
    fn choose(
        &mut self,
        cx: Context<'_>,
        service: &Service,
        headers: &Headers,
        number: Option<u64>,
    ) -> Result<(u32, Option<TemplateSlot>), DropReason> {
        let (client, destination) = endpoints(&headers.addresses);
        let request = Request { client, client_port: headers.src_port, destination, now: cx.now };
        let Service { scheduler, state, candidates, .. } = service;
        let choose = || match number {
            Some(number) => scheduler.choose_by_number(state, candidates, &request, number),
            None => scheduler.choose(state, candidates, &request),
        };
        let Some(persistence) = service.persistence else {
            return choose().map(|number| (number, None)).ok_or(DropReason::NoServer);
        };
        let key = match headers.addresses {
            Addresses::V4 { src, .. } => {
                let host = 32 - u32::from(persistence.prefix.min(32));
                let mask = u32::MAX.checked_shl(host).unwrap_or(0);
                TemplateKey::v4(service.number, src, mask)
            }
            Addresses::V6 { src, .. } => TemplateKey::v6(service.number, src, persistence.prefix),
        };
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

    /// Puts a new connection into the tables.
    fn insert<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        opening: &Opening<'_>,
        headers: &Headers,
        frame: &Frame<'_>,
    ) -> Result<Slot, DropReason> {
        let &Opening { service, number, server, template } = opening;
        let state = State::None.after_client_packet(server.method.is_two_sided(), headers);
        let mut body = Body::new(number, state, cx.now);
        if let Some(template) = template {
            body.set_template(template.number());
        }
        let client = E::tuple(key);
        let protocol = headers.protocol;
        let place = match server.method {
            Method::Dr | Method::Tun(_) => {
                self.insert_entry::<E>(cx, tables, protocol, &client, body, None)?
            }
            Method::Nat | Method::Fullnat => {
                let local = match server.method {
                    Method::Fullnat => {
                        let address = with_port(server.address, headers.dst_port);
                        let found = self.local_port(cx, tables, service, protocol, address);
                        let (local, port) = found.ok_or(DropReason::NoLocalPort)?;
                        body.set_local(port, local.number);
                        Some((local.address, port))
                    }
                    _ => None,
                };
                body.set_client_address(server.client_address);
                let to = to_server(&client, local, server.address, headers.dst_port)
                    .ok_or(DropReason::NoTranslation)?;
                let place = self.insert_pair::<E>(cx, tables, protocol, (&client, &to), body)?;
                if server.method == Method::Nat {
                    self.give_hint(cx.snapshot, protocol, &to.reversed());
                }
                if server.client_address != ClientAddress::None {
                    if let Some(twin) = tables.twin(place) {
                        let sequence = sequence_of(headers, frame);
                        tables.body_mut(twin).set_initial_sequence(sequence);
                    }
                }
                place
            }
        };
        // With sloppy_tcp or sloppy_sctp it may be an old connection.
        self.assure(tables, place, state);
        server.counts.connections.open(state.is_active());
        server.counts.scheduled(self.worker);
        Ok(place.slot())
    }

    /// Adds the entries of both directions. `tuples` are the client's packet's
    /// and what it becomes.
    fn insert_pair<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        protocol: Protocol,
        (from, to): (&Tuple, &Tuple),
        body: Body,
    ) -> Result<Place, DropReason> {
        let reply = to.reversed();
        if let Some(old) = tables.find(protocol, &reply) {
            // Under NAT two services on one server cannot have one client's
            // port at the same time: replies would not tell them apart.
            if !tables.body(old).state().is_reusable() {
                return Err(DropReason::NatAmbiguous);
            }
            self.close(cx, tables, old);
        }
        let client = self.insert_entry::<E>(cx, tables, protocol, from, body, None)?;
        // Nothing counts the connection yet: the second entry must not take
        // the first one's place.
        let keep = Some(client);
        let mut other = body.for_replies();
        if protocol == Protocol::Udp {
            other.set_template(body.template());
        }
        let server = match reply.family() {
            Family::V4 => self.insert_entry::<Entry4>(cx, tables, protocol, &reply, other, keep),
            Family::V6 => self.insert_entry::<Entry6>(cx, tables, protocol, &reply, other, keep),
        };
        let server = match server {
            Ok(server) => server,
            Err(reason) => {
                tables.remove(client);
                return Err(reason);
            }
        };
        tables.join(client, server);
        set_rewrite(tables, client, from, to);
        set_rewrite(tables, server, &reply, &from.reversed());
        Ok(client)
    }

    /// Adds an entry, if need be in the place of a half-open connection other
    /// than the one at `keep`.
    fn insert_entry<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        protocol: Protocol,
        tuple: &Tuple,
        body: Body,
        keep: Option<Place>,
    ) -> Result<Place, DropReason> {
        let expiry = cx.snapshot.timeouts.expiry(body.state(), cx.now);
        match tables.insert(protocol, tuple, body, cx.now, expiry) {
            Ok(place) => Ok(place),
            Err(TableFull) => {
                let hash = tables.hash(protocol, tuple);
                if !self.recycle::<E>(cx, tables, hash, keep) {
                    return Err(DropReason::TableFull);
                }
                tables
                    .insert(protocol, tuple, body, cx.now, expiry)
                    .map_err(|TableFull| DropReason::TableFull)
            }
        }
    }

    /// Finds a local address and port for a FULLNAT connection, such that the
    /// server's packets are this worker's own, and that no other connection to
    /// this server has it. The search goes on where the last one ended, so that
    /// a port rests as long as possible before it is used again.
    fn local_port(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        service: &Service,
        protocol: Protocol,
        server: SocketAddr,
    ) -> Option<(Local, u16)> {
        let LocalPorts(first, last) = cx.snapshot.local_ports;
        let ports = u32::from(last.saturating_sub(first)) + 1;
        let locals = service.locals_of(server.is_ipv4());
        let count = u32::try_from(locals.len()).ok().filter(|&count| count > 0)?;
        let all = ports.saturating_mul(count);
        let mut probes = 0;
        for _ in 0..all.min(PORT_PROBES as u32 * self.shard.workers() as u32 * 2) {
            let index = self.next_local % all;
            self.next_local = self.next_local.wrapping_add(1);
            let local = *locals.get((index % count) as usize)?;
            let port = first + (index / count) as u16;
            let reply = reply_tuple(server, local.address, port)?;
            if self.shard.workers() > 1 && self.natural_owner(&reply) != self.worker {
                continue;
            }
            let taken = tables.find(protocol, &reply);
            if taken.is_none_or(|place| tables.body(place).state().is_reusable()) {
                return Some((local, port));
            }
            probes += 1;
            if probes == PORT_PROBES {
                break;
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

/// Notes in an entry what its packets become.
fn set_rewrite(tables: &mut Tables, place: Place, from: &Tuple, to: &Tuple) {
    match (place, from, to) {
        (Place::V4(slot), Tuple::V4(from), Tuple::V4(to)) => {
            let deltas = nat::delta4(from, to);
            let entry = tables.v4.entry_mut(slot);
            entry.to = *to;
            entry.ip_delta = deltas.ip;
            entry.body_mut().l4_delta = deltas.l4;
        }
        (Place::V6(slot), Tuple::V6(from), Tuple::V6(to)) => {
            tables.v6.entry_mut(slot).body_mut().l4_delta = nat::delta6(from, to);
        }
        // Translation computes its own.
        _ => {}
    }
}
