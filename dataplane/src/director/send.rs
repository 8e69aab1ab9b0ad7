//! The way of a packet whose connection is known: by its forwarding method to
//! the server, or back to the client; and what becomes of it if there is none.

use std::net::IpAddr;

use super::rewrite::{clamp, has_tcp_header, ip_options, pass, restart, told};
use super::{Context, Core, Verdict, punt_kind};
use crate::conn::{Place, Slot, Tabled, Tables};
use crate::counters::DropReason;
use crate::fib::Way;
use crate::forward::mss;
use crate::forward::nat::{self, Deltas};
use crate::forward::proxy;
use crate::forward::translate;
use crate::forward::tun::{self, Path, Refused, Sent, Tunnel};
use crate::icmp;
use crate::packet::options::OptionError;
use crate::packet::{Family, Frame, Headers, Tuple};
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
        let mtu =
            server.counts.path_mtu(self.worker, cx.now).map_or(hop.mtu, |mtu| mtu.min(hop.mtu));
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
                return Some(Tuple::V4(tables.v4.entry(slot).to.tuple()));
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
