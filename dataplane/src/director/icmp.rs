//! ICMP errors: those that the director sends to either side, and those about
//! packets of connections, which it passes on.

use std::net::IpAddr;

use super::rewrite::{ip_options, told};
use super::send::Stop;
use super::{Context, Core, Handed, Source, Verdict};
use crate::conn::{Entry4, Entry6, Place, Tables};
use crate::counters::DropReason;
use crate::forward::proxy;
use crate::forward::translate;
use crate::forward::tun::quoted_inner;
use crate::forward::{decrement_ttl, set_ethernet};
use crate::icmp::{self, Error, Origin, Quoted};
use crate::packet::headers::{Addresses, sctp, tcp};
use crate::packet::{Family, Frame, Headers, Protocol, Tuple};
use crate::punt::PuntKind;
use crate::service::{ClientAddress, Method, PortHop, Server, endpoints};

/// An ICMP error that is passed on.
struct Message<'a> {
    quoted: &'a Quoted,
    /// Its own source and destination.
    outer: Addresses,
}

impl Core {
    /// Tells the sender of a client's packet, in the name of the VIP.
    #[cold]
    pub(super) fn tell_client(
        &mut self,
        cx: Context<'_>,
        error: Error,
        headers: &Headers,
        frame: &Frame<'_>,
    ) {
        let (_, vip) = endpoints(&headers.addresses);
        let packet = frame.bytes().get(usize::from(headers.l3)..).unwrap_or_default();
        self.tell(cx, error, Some(vip), &headers.addresses, packet);
    }

    /// Tells the sender of a server's packet, in the director's own name.
    #[cold]
    pub(super) fn tell_server(
        &mut self,
        cx: Context<'_>,
        error: Error,
        headers: &Headers,
        frame: &Frame<'_>,
    ) {
        let packet = frame.bytes().get(usize::from(headers.l3)..).unwrap_or_default();
        self.tell(cx, error, None, &headers.addresses, packet);
    }

    /// Sends an error about `packet`, whose addresses these are, from `source`
    /// or else from the address of the port that it leaves by.
    fn tell(
        &mut self,
        cx: Context<'_>,
        error: Error,
        source: Option<IpAddr>,
        addresses: &Addresses,
        packet: &[u8],
    ) {
        if !self.icmp.allow(cx.now, error) {
            return;
        }
        let (sender, _) = endpoints(addresses);
        let back = Tuple::of(addresses, 0, 0).reversed();
        let Some((hop, missing)) = self.way(cx, &back) else { return };
        let source = source.or_else(|| cx.snapshot.port_address(hop.port, sender.is_ipv4()));
        let Some(source) = source else { return };
        let origin = Origin { source, id: self.ids.take() as u16, hop: &hop };
        if !icmp::make(error, packet, &origin, &mut self.outbox) {
            return;
        }
        match missing {
            None => self.counters.generated += 1,
            Some(neighbour) => {
                // It counts when it leaves.
                let frame = self.outbox.last();
                let _ = self.pending.keep(cx.now, hop.port, neighbour, frame);
                self.outbox.pop();
            }
        }
    }

    /// An ICMP error: about a packet of a connection, or the kernel's.
    #[cold]
    pub(super) fn icmp_error(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        source: Source,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let quoted = match Quoted::read(frame, headers) {
            Ok(quoted) => quoted,
            Err(reason) => return self.drop(reason),
        };
        if let Some(verdict) = self.about_tunnel(cx, tables, source, &quoted, frame) {
            return verdict;
        }
        let Some(key) = quoted.sender_key() else {
            return self.punt(cx.now, PuntKind::Other);
        };
        let tuple = Tuple::of(&key.addresses, key.src_port, key.dst_port);
        let message = Message { quoted: &quoted, outer: headers.addresses };
        *headers = headers.treated_as(key.protocol, &tuple);
        if source == Source::Port && self.shard.workers() > 1 {
            let worker = self.owner(cx.snapshot, headers, None);
            if worker != self.worker {
                return Verdict::Handoff { worker: worker as u8, handed: Handed::default() };
            }
        }
        let Some(place) = tables.find(key.protocol, &tuple) else {
            if let Some(verdict) = self.elsewhere(cx.snapshot, headers, frame.handed) {
                return verdict;
            }
            return self.about_nothing(cx, tables, &message, headers, frame);
        };
        self.pass_on(cx, tables, place, &message, headers, frame)
    }

    /// An error about a packet that no connection here has sent: of a service,
    /// or of the host's own traffic.
    fn about_nothing(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        message: &Message<'_>,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let Some(service) = cx.snapshot.services.find(headers, frame.port) else {
            return self.punt(cx.now, PuntKind::Other);
        };
        // One-packet services have no connections that an error could be about.
        let takes_up = service.take_up && headers.protocol == Protocol::Tcp;
        if service.one_packet || !(takes_up || cx.snapshot.settings.schedule_icmp) {
            return self.drop(DropReason::IcmpNoConnection);
        }
        // As a SYN would be, or an INIT.
        let mut opening = *headers;
        opening.tcp_flags = match headers.protocol {
            Protocol::Tcp => tcp::SYN,
            Protocol::Udp | Protocol::Sctp => sctp::INIT,
        };
        let place = match super::key(&opening) {
            super::Key::V4(key) => {
                let hash = tables.v4.hash(&key);
                let opened = self.open::<Entry4>(cx, tables, &key, hash, &mut opening, frame);
                opened.map(|(slot, _)| Place::V4(slot))
            }
            super::Key::V6(key) => {
                let hash = tables.v6.hash(&key);
                let opened = self.open::<Entry6>(cx, tables, &key, hash, &mut opening, frame);
                opened.map(|(slot, _)| Place::V6(slot))
            }
        };
        match place {
            Ok(place) => self.pass_on(cx, tables, place, message, headers, frame),
            Err(verdict) => verdict,
        }
    }

    /// Passes an error on to the other side of the connection that it is about.
    fn pass_on(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        place: Place,
        message: &Message<'_>,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let body = *tables.body(place);
        let Some(server) = cx.snapshot.server(body.server) else {
            return self.drop(DropReason::ServerDeleted);
        };
        let bytes = u64::from(headers.ip_len);
        let Some(twin) = tables.twin(place) else {
            // DR and TUN: the server sent what the error is about.
            server.counts.packet(self.worker, bytes);
            return match server.method {
                Method::Tun(encapsulation) => {
                    let flow = tables.hash_of(place);
                    self.send_tun(cx, server, encapsulation, flow, headers, frame)
                }
                _ => self.send_dr(cx, server, headers, frame),
            };
        };
        let Some(to) = self.target(cx, tables, place, server) else {
            return self.drop(DropReason::NoTranslation);
        };
        let hop = if body.is_reply() {
            server.counts.reply(self.worker, bytes);
            self.way(cx, &to)
        } else {
            server.counts.packet(self.worker, bytes);
            match self.server_hop(cx, server, headers, frame) {
                Ok(hop) => Some((hop, None)),
                Err(verdict) => return verdict,
            }
        };
        let Some((hop, missing)) = hop else { return self.drop(DropReason::NoRoute) };
        if body.is_reply() && body.client_address() == ClientAddress::Proxy {
            if let Some(stream) = told(tables, place).filter(|_| headers.protocol == Protocol::Tcp)
            {
                proxy::error_to_client(frame, message.quoted, &stream);
            }
        }
        // An error from the servers' side comes from the VIP, whoever sent it.
        let vip = if body.is_reply() { Some(tables.tuple(twin).destination().0) } else { None };
        match self.rewrite_error(cx, &hop, message, vip, &to, headers, frame) {
            Ok(()) => {
                let before = self.outbox.len();
                self.unless_missing(cx, missing, before, Verdict::Send { port: hop.port }, frame)
            }
            Err(reason) => self.drop(reason),
        }
    }

    /// Gives an error the addresses that its receiver knows.
    #[expect(clippy::too_many_arguments, reason = "all of it is what the error becomes")]
    fn rewrite_error(
        &mut self,
        cx: Context<'_>,
        hop: &PortHop,
        message: &Message<'_>,
        source: Option<IpAddr>,
        to: &Tuple,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<(), DropReason> {
        let source = source.unwrap_or(endpoints(&message.outer).0);
        // What is quoted was sent by the receiver: the reverse of what this
        // direction's packets become.
        let embedded = to.reversed();
        match (headers.family(), embedded) {
            (Family::V4, Tuple::V4(_)) | (Family::V6, Tuple::V6(_)) => {
                // Whatever stops it, nobody is told about an error.
                ip_options(cx, hop, headers, frame).map_err(Stop::reason)?;
                decrement_ttl(frame, headers)?;
                // No error has a reason to be so long; nobody is told of it.
                if headers.ip_len > hop.mtu {
                    return Err(DropReason::TooBig);
                }
                let outer = Tuple::new(source, 0, to.destination().0, 0)
                    .ok_or(DropReason::NoTranslation)?
                    .addresses();
                let (src_port, dst_port) = embedded.ports();
                let embedded = icmp::Tuple {
                    addresses: embedded.addresses(),
                    protocol: headers.protocol,
                    src_port,
                    dst_port,
                };
                headers.addresses = message.outer;
                let rewrite = icmp::Rewrite { outer, embedded };
                icmp::rewrite(frame, headers, message.quoted, &rewrite)?;
            }
            (_, Tuple::V6(embedded)) => {
                let src = match source {
                    IpAddr::V6(source) => source.octets(),
                    IpAddr::V4(_) => embedded.dst,
                };
                translate::icmp4_to_6(frame, headers, src, &embedded, hop.mtu)?;
            }
            (_, Tuple::V4(embedded)) => {
                let src = match source {
                    IpAddr::V4(source) => source.to_bits(),
                    IpAddr::V6(_) => embedded.dst,
                };
                let id = self.ids.take() as u16;
                translate::icmp6_to_4(frame, headers, src, &embedded, hop.mtu, id)?;
            }
        }
        set_ethernet(frame, headers, hop)
    }

    /// An error about a packet of a tunnel to a server: what it says about the
    /// way is learnt, and the client is told. `None` when it is about no tunnel.
    fn about_tunnel(
        &mut self,
        cx: Context<'_>,
        tables: &Tables,
        source: Source,
        quoted: &Quoted,
        frame: &Frame<'_>,
    ) -> Option<Verdict> {
        let inner = quoted.inner(frame)?;
        let tuple = Tuple::of(&inner.tuple.addresses, inner.tuple.src_port, inner.tuple.dst_port);
        let (tunnel, _) = quoted_inner(quoted.packet(frame))?;
        if source == Source::Port && self.shard.workers() > 1 {
            let worker = self.natural_owner(&tuple);
            if worker != self.worker {
                let handed = Handed::default();
                return Some(Verdict::Handoff { worker: worker as u8, handed });
            }
        }
        let place = tables.find(inner.tuple.protocol, &tuple)?;
        let server = cx.snapshot.server(tables.body(place).server)?;
        if !is_tunnel_of(server, &quoted.addresses) {
            return None;
        }
        // ICMPv6 numbers its errors 1 unreachable, 2 too big, 3 time exceeded.
        let error = match (quoted.addresses, quoted.icmp_type, quoted.icmp_code) {
            (Addresses::V4 { .. }, 3, 4) | (Addresses::V6 { .. }, 2, _) => {
                let mtu = server.counts.learn_path_mtu(
                    self.worker,
                    cx.now,
                    quoted.mtu,
                    server.address.is_ipv4(),
                );
                Error::TooBig { mtu: tunnel.inner_mtu(mtu, tuple.family()) }
            }
            (Addresses::V4 { .. }, 11, _) | (Addresses::V6 { .. }, 3, _) => Error::TimeExceeded,
            // In the client's family it is said as it was said here.
            (Addresses::V4 { .. }, 3, code) if tuple.family() == Family::V4 => {
                Error::Unreachable { code }
            }
            (Addresses::V6 { .. }, 1, code) if tuple.family() == Family::V6 => {
                Error::Unreachable { code }
            }
            _ => Error::HostUnreachable,
        };
        let packet = quoted.inner_packet(frame, &inner);
        let (_, vip) = endpoints(&inner.tuple.addresses);
        self.tell(cx, error, Some(vip), &inner.tuple.addresses, packet);
        // The error itself has done its work.
        self.counters.held += 1;
        Some(Verdict::Absorbed)
    }
}

/// Whether packets with these addresses may be those of a tunnel to a server.
fn is_tunnel_of(server: &Server, outer: &Addresses) -> bool {
    let (_, dst) = endpoints(outer);
    matches!(server.method, Method::Tun(_)) && server.address.ip() == dst
}
