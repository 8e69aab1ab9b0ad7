//! Who gets a new connection, if anyone: what the packet's protocol allows,
//! scheduler, persistence template.

use super::super::ageing::count_template;
use super::super::{Context, Core, Verdict, punt_kind};
use crate::conn::persistence::{Refused, TemplateKey, TemplateSlot};
use crate::counters::DropReason;
use crate::icmp;
use crate::packet::headers::{sctp, tcp};
use crate::packet::{Frame, Headers, Protocol};
use crate::punt::PuntKind;
use crate::scheduler::{Request, Scheduler};
use crate::service::{Persistence, Service, endpoints};

impl Core {
    /// A packet that no service has: the host's, or one that it routes; or, of
    /// a NAT server, one whose connection is gone.
    pub(super) fn unserved(
        &mut self,
        cx: Context<'_>,
        headers: &Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
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
    pub(super) fn may_open(
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
    pub(super) fn may_be_stateless(&self, cx: Context<'_>, service: &Service) -> bool {
        matches!(service.scheduler, Scheduler::Mh(_))
            && (service.take_up || cx.now < self.stateless_until)
    }

    /// Chooses a server, by the client's template where the service has those;
    /// otherwise by `number`, if there is one.
    #[inline(always)]
    pub(super) fn choose(
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
