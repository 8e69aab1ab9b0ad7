//! The last steps of a packet whose way is known: TTL, options, MTU, the
//! rewrite of its forwarding method, the Ethernet header.

use std::net::{IpAddr, SocketAddr};

use super::open::sequence_of;
use super::{Context, Core, Verdict, punt_kind};
use crate::conn::{Place, Slot, State, Tabled, Tables};
use crate::counters::DropReason;
use crate::fib::Way;
use crate::forward::nat::{self, Deltas};
use crate::forward::proxy::{self, Stream};
use crate::forward::translate::{self, Fit};
use crate::forward::tun::{self, Path, Refused, Sent, Tunnel};
use crate::forward::{self, cut, mss, set_ethernet, toa};
use crate::icmp;
use crate::packet::headers::{Addresses, tcp};
use crate::packet::options::{self, OptionError};
use crate::packet::{Family, Frame, Headers, Protocol, Tuple};
use crate::service::{ClientAddress, Encapsulation, Hop, PortHop, Server};
use crate::snapshot::Port;

/// Which side of the director a packet came from: whom it is answered to, and
/// by which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// A client: errors come from the VIP.
    Client,
    /// A server: errors come from the director itself.
    Server,
}

/// Why a packet does not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Drop(DropReason),
    /// Longer than its sender may send.
    TooBig {
        mtu: u16,
    },
    /// An option of the IPv4 header makes no sense from this byte on.
    BadOption {
        pointer: u8,
    },
}

impl Stop {
    /// What it is counted as.
    pub(super) const fn reason(self) -> DropReason {
        match self {
            Self::Drop(reason) => reason,
            Self::TooBig { .. } => DropReason::TooBig,
            Self::BadOption { .. } => DropReason::Ip4BadOptions,
        }
    }
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

impl From<OptionError> for Stop {
    fn from(error: OptionError) -> Self {
        match error {
            OptionError::Malformed { pointer } => Self::BadOption { pointer },
            OptionError::SourceRoute => Self::Drop(error.reason()),
        }
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Drop(reason) => Self::Drop(reason),
            Refused::TooBig { mtu } => Self::TooBig { mtu },
        }
    }
}

impl From<translate::Failure> for Stop {
    fn from(failure: translate::Failure) -> Self {
        match failure {
            translate::Failure::Drop(reason) => Self::Drop(reason),
            translate::Failure::TooBig { mtu } => Self::TooBig { mtu },
        }
    }
}

impl Core {
    /// Direct routing: the packet as it is, to the server's MAC address.
    #[inline(always)]
    pub(super) fn send_dr(
        &mut self,
        cx: Context<'_>,
        server: &Server,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let hop = match self.server_hop(cx, server, headers, frame) {
            Ok(hop) => hop,
            Err(verdict) => return verdict,
        };
        clamp(server, headers, frame);
        let ready = pass(cx, &hop, headers, frame);
        let sent = ready.and_then(|()| self.leave(&hop, headers, frame));
        self.sent(cx, Side::Client, sent, headers, frame)
    }

    /// Tunnelling: the packet inside of another one.
    #[inline(never)]
    pub(super) fn send_tun(
        &mut self,
        cx: Context<'_>,
        server: &Server,
        encapsulation: Encapsulation,
        flow: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let hop = match self.server_hop(cx, server, headers, frame) {
            Ok(hop) => hop,
            Err(verdict) => return verdict,
        };
        let source = cx.snapshot.port_address(hop.port, server.address.is_ipv4());
        let tunnel =
            source.and_then(|source| Tunnel::new(encapsulation, source, server.address.ip()));
        let Some(tunnel) = tunnel else { return self.drop(DropReason::NoSource) };
        clamp(server, headers, frame);
        let mtu = server.counts.path_mtu(cx.now).map_or(hop.mtu, |mtu| mtu.min(hop.mtu));
        let pmtu_disc = cx.snapshot.settings.pmtu_disc;
        let path = Path { tunnel: &tunnel, hop: &hop, mtu, pmtu_disc, flow: (flow >> 32) as u32 };
        let sent = ip_options(cx, &hop, headers, frame).and_then(|()| {
            let before = self.outbox.len();
            match tun::forward(frame, headers, &path, &mut self.ids, &mut self.outbox)? {
                Sent::Whole => Ok(Verdict::Send { port: hop.port }),
                Sent::Fragments => {
                    self.counters.generated += (self.outbox.len() - before) as u64;
                    self.counters.held += 1;
                    Ok(Verdict::Absorbed)
                }
            }
        });
        self.sent(cx, Side::Client, sent, headers, frame)
    }

    /// NAT and FULLNAT, from the client to the server.
    #[inline(never)]
    pub(super) fn send_nat<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let hop = match self.server_hop(cx, server, headers, frame) {
            Ok(hop) => hop,
            Err(verdict) => return verdict,
        };
        let Some(to) = self.target(cx, tables, E::place(slot), server) else {
            return self.drop(DropReason::NoTranslation);
        };
        let deltas = tables.deltas(E::place(slot));
        clamp(server, headers, frame);
        let told = match tables.body(E::place(slot)).client_address() {
            ClientAddress::None => None,
            how => {
                restart(tables, E::place(slot), headers, frame);
                told(tables, E::place(slot)).map(|stream| (how, stream))
            }
        };
        let sent = self.rewrite(cx, &hop, &to, deltas, told.as_ref(), headers, frame);
        self.sent(cx, Side::Client, sent, headers, frame)
    }

    /// NAT and FULLNAT, from the server to the client.
    #[inline(never)]
    pub(super) fn send_reply<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let Some(to) = self.target(cx, tables, E::place(slot), server) else {
            return self.drop(DropReason::NoTranslation);
        };
        let Some((hop, missing)) = self.way(cx, &to) else {
            self.tell_server(cx, icmp::Error::HostUnreachable, headers, frame);
            return self.drop(DropReason::NoRoute);
        };
        let how = tables.body(E::place(slot)).client_address();
        if how == ClientAddress::Proxy && has_tcp_header(headers) {
            if let Some(stream) = told(tables, E::place(slot)) {
                mss::lower(frame, headers, stream.header_len());
                match proxy::to_client(frame, headers, &stream) {
                    Ok(true) => tables.body_mut(E::place(slot)).set_proxy_acked(),
                    Ok(false) => {}
                    Err(reason) => return self.drop(reason),
                }
            }
        }
        let deltas = tables.deltas(E::place(slot));
        clamp(server, headers, frame);
        let before = self.outbox.len();
        let sent = self.rewrite(cx, &hop, &to, deltas, None, headers, frame);
        let verdict = self.sent(cx, Side::Server, sent, headers, frame);
        self.unless_missing(cx, missing, before, verdict, frame)
    }

    /// NAT of a packet that leaves no connection.
    pub(super) fn send_once(
        &mut self,
        cx: Context<'_>,
        server: &Server,
        from: &Tuple,
        to: &Tuple,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let hop = match self.server_hop(cx, server, headers, frame) {
            Ok(hop) => hop,
            Err(verdict) => return verdict,
        };
        let deltas = match (from, to) {
            (Tuple::V4(from), Tuple::V4(to)) => nat::delta4(from, to),
            (Tuple::V6(from), Tuple::V6(to)) => Deltas { ip: 0, l4: nat::delta6(from, to) },
            _ => return self.drop(DropReason::NoTranslation),
        };
        let sent = self.rewrite(cx, &hop, to, deltas, None, headers, frame);
        self.sent(cx, Side::Client, sent, headers, frame)
    }

    /// What a packet of a connection becomes: addresses and ports.
    #[inline]
    pub(super) fn target(
        &self,
        cx: Context<'_>,
        tables: &Tables,
        place: Place,
        server: &Server,
    ) -> Option<Tuple> {
        let body = tables.body(place);
        let twin = body.twin(place.family())?;
        if twin.family() == Family::V4 {
            if let Place::V4(slot) = place {
                return Some(Tuple::V4(tables.v4.entry(slot).to));
            }
        }
        if body.is_reply() {
            return Some(tables.tuple(twin).reversed());
        }
        let from = tables.tuple(place);
        let local = match body.local() {
            // NAT, which has no local port.
            (0, _) => None,
            (port, number) => Some((*cx.snapshot.locals.get(usize::from(number))?, port)),
        };
        super::open::to_server(&from, local, server.address, from.destination().1)
    }

    /// Gives a packet its new addresses and ports, and readies it for its next
    /// hop. `told` is what the server is to be told of the client.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "all of it is what the packet becomes")]
    fn rewrite(
        &mut self,
        cx: Context<'_>,
        hop: &PortHop,
        to: &Tuple,
        deltas: Deltas,
        told: Option<&(ClientAddress, Stream)>,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Stop> {
        match (headers.family(), to) {
            (Family::V4, Tuple::V4(to)) => {
                pass(cx, hop, headers, frame)?;
                if headers.later_fragment {
                    nat::rewrite_later_fragment4(frame, headers, to, deltas);
                } else {
                    nat::rewrite4(frame, headers, to, deltas)?;
                }
                self.tell_address(hop, told, headers, frame)?;
                self.leave(hop, headers, frame)
            }
            (Family::V6, Tuple::V6(to)) => {
                pass(cx, hop, headers, frame)?;
                if headers.later_fragment {
                    nat::rewrite_later_fragment6(frame, headers, to);
                } else {
                    nat::rewrite6(frame, headers, to, deltas.l4)?;
                }
                self.tell_address(hop, told, headers, frame)?;
                self.leave(hop, headers, frame)
            }
            _ => self.translate(hop, to, told, headers, frame),
        }
    }

    /// Gives a packet the header of the other address family.
    #[cold]
    fn translate(
        &mut self,
        hop: &PortHop,
        to: &Tuple,
        told: Option<&(ClientAddress, Stream)>,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Stop> {
        let fit = match to {
            Tuple::V4(to) => {
                let id = self.ids.take() as u16;
                translate::to_ip4(frame, headers, to, hop.mtu, id)?
            }
            Tuple::V6(to) => translate::to_ip6(frame, headers, to, hop.mtu)?,
        };
        self.tell_address(hop, told, headers, frame)?;
        set_ethernet(frame, headers, hop)?;
        if fit == Fit::Pieces {
            self.in_pieces(hop, headers, frame)?;
        }
        Ok(Verdict::Send { port: hop.port })
    }

    /// Tells the server the client's address, where it asked for it.
    #[inline]
    fn tell_address(
        &mut self,
        hop: &PortHop,
        told: Option<&(ClientAddress, Stream)>,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<(), DropReason> {
        let Some((how, stream)) = told.filter(|_| has_tcp_header(headers)) else {
            return Ok(());
        };
        match how {
            ClientAddress::Toa => {
                toa::insert(frame, headers, stream.isn, stream.client, hop.mtu)?;
            }
            ClientAddress::Proxy => {
                let before = self.outbox.len();
                proxy::to_server(frame, headers, stream, hop, &mut self.outbox)?;
                self.counters.generated += (self.outbox.len() - before) as u64;
            }
            ClientAddress::None => {}
        }
        Ok(())
    }

    /// The Ethernet header; and the fragments of what is too long.
    #[inline(always)]
    fn leave(
        &mut self,
        hop: &PortHop,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<Verdict, Stop> {
        set_ethernet(frame, headers, hop)?;
        if headers.ip_len > hop.mtu {
            self.in_pieces(hop, headers, frame)?;
        }
        Ok(Verdict::Send { port: hop.port })
    }

    #[cold]
    fn in_pieces(
        &mut self,
        hop: &PortHop,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<(), DropReason> {
        let before = self.outbox.len();
        let ethernet = hop.ethernet_len() as u16;
        headers.l4 = headers.l4 - headers.l3 + ethernet;
        headers.l3 = ethernet;
        cut(frame, headers, hop.mtu, hop.port, &mut self.outbox)?;
        self.counters.generated += (self.outbox.len() - before) as u64;
        Ok(())
    }

    /// How a server's packets leave; or the verdict where they do not.
    #[inline(always)]
    pub(super) fn server_hop(
        &mut self,
        cx: Context<'_>,
        server: &Server,
        headers: &Headers,
        frame: &Frame<'_>,
    ) -> Result<PortHop, Verdict> {
        match server.hop {
            Hop::Port(hop) => Ok(hop),
            Hop::Unresolved => Err(self.drop(DropReason::NoNextHop)),
            Hop::NoRoute => {
                self.tell_client(cx, icmp::Error::HostUnreachable, headers, frame);
                Err(self.drop(DropReason::NoRoute))
            }
            Hop::Local => Err(self.punt(cx.now, punt_kind(headers))),
        }
    }

    /// How packets with these addresses leave; and the neighbour whose MAC
    /// address they have to wait for, in place of which the hop has zeroes.
    /// Control hears of it. `None` when there is no way.
    #[inline]
    pub(super) fn way(&mut self, cx: Context<'_>, to: &Tuple) -> Option<(PortHop, Option<IpAddr>)> {
        let way = match to {
            Tuple::V4(to) => cx.snapshot.fib.lookup4(to.dst),
            Tuple::V6(to) => cx.snapshot.fib.lookup6(&to.dst),
        };
        match way {
            Way::Port(hop) => Some((hop, None)),
            Way::Unresolved { port, neighbour } => {
                self.link.missing(cx.now, port, neighbour);
                let own = cx.snapshot.ports.get(usize::from(port))?;
                let Port { mac: src_mac, mtu, .. } = *own;
                let hop = PortHop { port, dst_mac: [0; 6], src_mac, mtu, vlan: own.vlan_id() };
                Some((hop, Some(neighbour)))
            }
            Way::NoRoute | Way::Local => None,
        }
    }

    /// Has a packet that is ready to be sent wait for a missing neighbour, and
    /// its further pieces, which are in the outbox since it had `before` frames.
    #[inline]
    pub(super) fn unless_missing(
        &mut self,
        cx: Context<'_>,
        missing: Option<IpAddr>,
        before: usize,
        verdict: Verdict,
        frame: &Frame<'_>,
    ) -> Verdict {
        let (Some(neighbour), Verdict::Send { port }) = (missing, verdict) else {
            return verdict;
        };
        for piece in self.outbox.since(before) {
            // They count when they leave.
            let _ = self.pending.keep(cx.now, port, neighbour, piece);
            self.counters.generated -= 1;
        }
        self.outbox.truncate(before);
        let whole = frame.len() == frame.total_len();
        if whole && self.pending.keep(cx.now, port, neighbour, frame.bytes()) {
            self.counters.held += 1;
            return Verdict::Absorbed;
        }
        self.drop(DropReason::NoNextHop)
    }

    /// Sends what waited for neighbours that are now known.
    #[cold]
    pub(super) fn send_pending(&mut self, cx: Context<'_>) {
        let Self { pending, outbox, counters, .. } = self;
        let too_long = pending.retry(cx.now, cx.snapshot.fib.neighbours(), |port, frame| {
            counters.generated += 1;
            match outbox.push(port, frame.len()) {
                Some(slot) => slot.copy_from_slice(frame),
                None => counters.drop(DropReason::TxFull),
            }
        });
        counters.generated += too_long;
        counters.drop_many(DropReason::NoNextHop, too_long);
    }

    /// The verdict of a packet that was to be sent. Its sender is told what it
    /// can do something about.
    #[inline(always)]
    fn sent(
        &mut self,
        cx: Context<'_>,
        side: Side,
        sent: Result<Verdict, Stop>,
        headers: &Headers,
        frame: &Frame<'_>,
    ) -> Verdict {
        match sent {
            Ok(verdict) => verdict,
            Err(stop) => self.stopped(cx, side, stop, headers, frame),
        }
    }

    #[cold]
    fn stopped(
        &mut self,
        cx: Context<'_>,
        side: Side,
        stop: Stop,
        headers: &Headers,
        frame: &Frame<'_>,
    ) -> Verdict {
        let error = match stop {
            Stop::TooBig { mtu } => Some(icmp::Error::TooBig { mtu }),
            Stop::BadOption { pointer } => {
                Some(icmp::Error::ParameterProblem { code: 0, pointer: pointer.into() })
            }
            Stop::Drop(DropReason::TtlExpired) => Some(icmp::Error::TimeExceeded),
            Stop::Drop(_) => None,
        };
        match (error, side) {
            (Some(error), Side::Client) => self.tell_client(cx, error, headers, frame),
            (Some(error), Side::Server) => self.tell_server(cx, error, headers, frame),
            (None, _) => {}
        }
        self.drop(stop.reason())
    }
}

/// Whether there is a TCP header in the packet: a later fragment has bytes of
/// its user's in that place.
#[inline]
fn has_tcp_header(headers: &Headers) -> bool {
    headers.protocol == Protocol::Tcp && !headers.later_fragment
}

/// What the server of a FULLNAT connection is told, by either of its entries.
#[cold]
pub(super) fn told(tables: &Tables, place: Place) -> Option<Stream> {
    let client = tables.client(place);
    let server = tables.body(tables.twin(client)?);
    let tuple = tables.tuple(client);
    let socket = |(address, port)| SocketAddr::new(address, port);
    Some(Stream {
        isn: server.initial_sequence(),
        acked: server.proxy_acked(),
        client: socket(tuple.source()),
        vip: socket(tuple.destination()),
    })
}

/// Notes the initial sequence number of a client's SYN that begins a handshake
/// on a connection that was there before: another attempt, or a port that is
/// used again.
#[cold]
fn restart(tables: &mut Tables, place: Place, headers: &Headers, frame: &Frame<'_>) {
    let opens = has_tcp_header(headers) && headers.tcp_flags & (tcp::SYN | tcp::RST) == tcp::SYN;
    if !opens || tables.body(place).state() != State::SynRecv {
        return;
    }
    if let Some(twin) = tables.twin(place) {
        let sequence = sequence_of(headers, frame);
        let server = tables.body_mut(twin);
        if server.initial_sequence() != sequence {
            server.set_initial_sequence(sequence);
        }
    }
}

/// What every router does with a packet that it passes on: options, TTL, is
/// it too long.
#[inline(always)]
fn pass(
    cx: Context<'_>,
    hop: &PortHop,
    headers: &Headers,
    frame: &mut Frame<'_>,
) -> Result<(), Stop> {
    ip_options(cx, hop, headers, frame)?;
    forward::decrement_ttl(frame, headers)?;
    if headers.ip_len > hop.mtu && !may_be_cut(headers, frame) {
        return Err(Stop::TooBig { mtu: hop.mtu });
    }
    Ok(())
}

/// Processes the options of an IPv4 packet, as every router on its way.
#[inline(always)]
pub(super) fn ip_options(
    cx: Context<'_>,
    hop: &PortHop,
    headers: &Headers,
    frame: &mut Frame<'_>,
) -> Result<(), Stop> {
    if headers.is_plain() || headers.family() == Family::V6 {
        return Ok(());
    }
    process_options(cx, hop, headers, frame)
}

#[cold]
fn process_options(
    cx: Context<'_>,
    hop: &PortHop,
    headers: &Headers,
    frame: &mut Frame<'_>,
) -> Result<(), Stop> {
    let address = cx.snapshot.ports.get(usize::from(hop.port)).and_then(|p| p.address4);
    let header = usize::from(headers.l3)..usize::from(headers.l4);
    let Some(header) = frame.bytes_mut().get_mut(header) else { return Ok(()) };
    let midnight = cx.snapshot.milliseconds_of_day(cx.now);
    Ok(options::process(header, address.unwrap_or(0), midnight)?)
}

/// Lowers the MSS that a SYN announces, where the service asks for it.
#[inline(always)]
fn clamp(server: &Server, headers: &Headers, frame: &mut Frame<'_>) {
    if let Some(most) = server.mss {
        mss::clamp(frame, headers, most);
    }
}

/// Whether a packet may be sent in fragments: IPv4 without DF.
fn may_be_cut(headers: &Headers, frame: &Frame<'_>) -> bool {
    const DF: u8 = 0x40;
    match headers.addresses {
        Addresses::V4 { .. } => {
            frame.bytes().get(usize::from(headers.l3) + 6).is_some_and(|byte| byte & DF == 0)
        }
        Addresses::V6 { .. } => false,
    }
}
