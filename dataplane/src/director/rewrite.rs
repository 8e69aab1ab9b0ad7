//! What becomes of a packet's bytes: other addresses and ports, another family's
//! header, what the server is told, what every router does.

use std::net::SocketAddr;

use super::open::sequence_of;
use super::send::Stop;
use super::{Context, Core, Verdict};
use crate::conn::{Place, State, Tables};
use crate::counters::DropReason;
use crate::forward::nat::{self, Deltas};
use crate::forward::proxy::{self, Stream};
use crate::forward::translate::{self, Fit};
use crate::forward::{self, cut, mss, set_ethernet, toa};
use crate::packet::headers::{Addresses, tcp};
use crate::packet::options;
use crate::packet::{Family, Frame, Headers, Protocol, Tuple};
use crate::service::{ClientAddress, PortHop, Server};

impl Core {
    /// Gives a packet its new addresses and ports, and readies it for its next
    /// hop. `told` is what the server is to be told of the client.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "all of it is what the packet becomes")]
    pub(super) fn rewrite(
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
    pub(super) fn leave(
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
}

/// Whether there is a TCP header in the packet: a later fragment has bytes of
/// its user's in that place.
#[inline]
pub(super) fn has_tcp_header(headers: &Headers) -> bool {
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
pub(super) fn restart(tables: &mut Tables, place: Place, headers: &Headers, frame: &Frame<'_>) {
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
pub(super) fn pass(
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
pub(super) fn clamp(server: &Server, headers: &Headers, frame: &mut Frame<'_>) {
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
