//! What workers noted of packets, in the form of the control API.

use std::net::SocketAddr;

use dataplane::director::{Source, Verdict};
use dataplane::observe::{Length, Record, Seen, Sight};
use dataplane::outbox::To;
use dataplane::packet;
use dataplane::punt::PuntKind;
use dataplane::service;

use super::frames;
use crate::api::{
    AbsorbedWhy, Choice, FrameSeen, MadeFrame, Method, ObservedConnection, ObservedPacket,
    PacketKind, PacketVerdict, Protocol, Tunnel,
};
use crate::registry::Registry;

/// What numbers stand for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Names<'a> {
    /// Services and servers.
    pub(crate) registry: &'a Registry,
    /// Names of ports by index; those missing have none.
    pub(crate) ports: &'a [String],
}

impl Names<'_> {
    pub(crate) fn port(&self, index: u8) -> String {
        let name = self.ports.get(usize::from(index)).cloned();
        name.unwrap_or_else(|| format!("port {index}"))
    }

    fn server(&self, number: u32) -> Option<SocketAddr> {
        self.registry.server_address(number)
    }
}

/// A record with the bytes that belong to it. Number, time and the worker that
/// handed the packet over are the caller's to know.
pub(crate) fn packet(record: &Record, bytes: &[u8], names: &Names<'_>) -> ObservedPacket {
    let sight = record.after.or(record.before);
    let server = record.server.map(|server| {
        let mut address = server.address;
        if address.port() == 0 {
            let vport = sight.map(|sight| sight.client).or(record.tuple).map(|t| t.ports().1);
            address.set_port(vport.unwrap_or(0));
        }
        address
    });
    let method = record.server.and_then(|server| method(record, server.method, names));
    let tunnel = match &method {
        Some(Method::Tun(tunnel)) => Some(tunnel.clone()),
        _ => None,
    };
    let mut rest = bytes;
    let mut take = |len: Length, tunnel: Option<&Tunnel>| {
        let (piece, left) = rest.split_at(usize::from(len.kept).min(rest.len()));
        rest = left;
        frames::seen(piece, len.whole, tunnel)
    };
    let is_to_server = !sight.is_some_and(|sight| sight.is_reply);
    let tunnel = tunnel.as_ref().filter(|_| is_to_server);
    let before = take(record.came, None);
    let after = take(record.left, tunnel);
    let made = record.made.iter().flatten().map(|made| {
        let (To::Port(port) | To::Kernel(port) | To::Worker { port, .. }) = made.to;
        let sent = matches!(made.to, To::Port(_));
        // An ICMP error to the client is in no tunnel.
        let absorbed = record.verdict == Verdict::Absorbed;
        let frame = take(made.len, tunnel.filter(|_| absorbed));
        MadeFrame { port: names.port(port), sent, frame }
    });
    let made = made.collect();
    ObservedPacket {
        number: 0,
        time_us: 0,
        worker: record.worker.into(),
        port: names.port(record.port),
        vlan: record.vlan,
        handed_over: record.source == Source::Handoff,
        handed_over_by: None,
        kind: kind(record.seen),
        protocol: record.protocol.map(protocol),
        flags: flags(record),
        service: service_of(record, names),
        connection: sight.map(|sight| connection(record, &sight)),
        choice: record.target.map(|target| Choice {
            scheduler: target.scheduler.name().into(),
            template: target.template.and_then(|number| names.server(number)),
            persistent: target.is_persistent,
            one_packet: target.one_packet,
        }),
        server,
        method,
        verdict: verdict(record, names),
        after: after_of(record, &before, after),
        before,
        made,
        made_count: record.made_count.into(),
    }
}

/// What is shown of a packet as it left.
fn after_of(record: &Record, before: &FrameSeen, after: FrameSeen) -> Option<FrameSeen> {
    let shown = match record.verdict {
        Verdict::Send { .. } => true,
        Verdict::Absorbed => record.waits,
        Verdict::Punt | Verdict::Handoff { .. } | Verdict::Drop(_) => false,
    };
    (shown && after != *before).then_some(after)
}

fn kind(seen: Seen) -> PacketKind {
    match seen {
        Seen::Flow => PacketKind::Flow,
        Seen::Fragment => PacketKind::Fragment,
        Seen::IcmpError => PacketKind::IcmpError,
        Seen::Kernel(PuntKind::Neighbour) => PacketKind::Neighbour,
        Seen::Kernel(PuntKind::Routing) => PacketKind::Routing,
        Seen::Kernel(PuntKind::Tcp | PuntKind::Other) => PacketKind::Other,
        Seen::Malformed(_) => PacketKind::Malformed,
    }
}

pub(crate) fn protocol(protocol: packet::Protocol) -> Protocol {
    match protocol {
        packet::Protocol::Tcp => Protocol::Tcp,
        packet::Protocol::Udp => Protocol::Udp,
        packet::Protocol::Sctp => Protocol::Sctp,
    }
}

fn flags(record: &Record) -> Option<String> {
    let is_tcp = record.protocol == Some(packet::Protocol::Tcp) && record.seen == Seen::Flow;
    is_tcp.then(|| {
        let letters = "FSRPAU".chars().enumerate();
        letters.filter(|(bit, _)| record.flags & 1 << bit != 0).map(|(_, c)| c).collect()
    })
}

fn service_of(record: &Record, names: &Names<'_>) -> Option<crate::api::ServiceId> {
    let of_connection = record.after.or(record.before).map(|sight| sight.server);
    of_connection
        .and_then(|number| names.registry.service_of_server(number))
        .or_else(|| names.registry.service_of_key(&record.target?.key))
}

fn connection(record: &Record, sight: &Sight) -> ObservedConnection {
    let end = |(address, port)| SocketAddr::new(address, port);
    let name = |sight: Sight| sight.state.name().to_owned();
    ObservedConnection {
        opened: record.opened,
        reply: sight.is_reply,
        client: end(sight.client.source()),
        virtual_address: end(sight.client.destination()),
        state_before: record.before.filter(|_| !record.opened).map(name),
        state_after: record.after.map(name),
        persistent: sight.is_persistent,
    }
}

/// The server's method now, unless the connection has two directions and the
/// server was given another since.
fn method(record: &Record, now: service::Method, names: &Names<'_>) -> Option<Method> {
    let sight = record.after.or(record.before);
    let spec = names.registry.full_method(record.server?.number)?;
    match sight {
        Some(sight) if sight.is_pair && !now.is_two_sided() => Some(Method::Nat),
        _ => Some(spec),
    }
}

fn verdict(record: &Record, names: &Names<'_>) -> PacketVerdict {
    match record.verdict {
        Verdict::Send { port } => PacketVerdict::Sent { port: names.port(port) },
        Verdict::Punt => PacketVerdict::Punted,
        Verdict::Handoff { worker, .. } => PacketVerdict::HandedOver { to: worker.into() },
        Verdict::Absorbed => PacketVerdict::Absorbed {
            why: if record.waits {
                AbsorbedWhy::WaitsForNeighbour
            } else if record.made_count > 0 {
                AbsorbedWhy::SentAsOthers
            } else {
                AbsorbedWhy::WaitsForFirstFragment
            },
        },
        Verdict::Drop(reason) => PacketVerdict::Dropped { reason: reason.name().into() },
    }
}
