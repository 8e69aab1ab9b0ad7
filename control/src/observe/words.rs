//! An observed packet in words: a line for each stage that it passed.

use std::fmt::Write;

use super::drops;
use crate::api::{
    AbsorbedWhy, Explanation, FrameSeen, Method, ObservedConnection, ObservedPacket, PacketKind,
    PacketVerdict, Protocol, ServiceId, Tunnel,
};

/// Width of the first column.
const COLUMN: usize = 12;

/// A packet that was observed.
#[must_use]
pub fn trace(packet: &ObservedPacket) -> String {
    let mut text = Lines::default();
    let time = clock(packet.time_us);
    let again = if packet.handed_over { ", continued" } else { "" };
    text.0.push_str(&format!("#{}{again}  {time}  worker {}\n", packet.number, packet.worker));
    arrival(packet, &mut text);
    stages(packet, &mut text);
    text.0
}

/// What would happen to a packet.
#[must_use]
pub fn explanation(explanation: &Explanation) -> String {
    let Explanation { packet, way, notes } = explanation;
    let mut text = Lines::default();
    text.line("arrives", &format!("port {}", packet.port));
    stages(packet, &mut text);
    if let Some(way) = way {
        let mut words = match (&way.port, way.neighbour) {
            (Some(port), Some(neighbour)) => format!("port {port}, next hop {neighbour}"),
            (Some(port), None) => format!("port {port}"),
            (None, _) => "no route through a port: see `ip route get`".into(),
        };
        match (&way.mac, &way.port) {
            (Some(mac), _) => words.push_str(&format!(" at {mac}")),
            (None, Some(_)) => words.push_str(", whose MAC address is not known"),
            (None, None) => {}
        }
        if let Some(mtu) = way.mtu {
            words.push_str(&format!(", MTU {mtu}"));
        }
        text.line("way", &words);
    }
    notes.iter().for_each(|note| text.line("note", note));
    text.0
}

/// A packet in one line: its service, its server, or why it was dropped.
#[must_use]
pub fn comment(packet: &ObservedPacket) -> String {
    let mut words = vec![format!("#{}", packet.number)];
    words.extend(packet.service.as_ref().map(|id| format!("service {}", service(id))));
    words.extend(packet.server.map(|server| format!("server {server}")));
    words.extend(packet.method.as_ref().map(|method| method_name(method).to_owned()));
    words.extend(packet.connection.as_ref().map(state));
    words.push(verdict(packet));
    words.push(format!("worker {}", packet.worker));
    words.join("; ")
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, words: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "  {name:COLUMN$}{words}");
    }
}

fn arrival(packet: &ObservedPacket, text: &mut Lines) {
    let mut words = match (packet.handed_over, packet.handed_over_by) {
        (false, _) => format!("port {}, queue {}", packet.port, packet.worker),
        (true, Some(worker)) => format!("handed over by worker {worker}, port {}", packet.port),
        (true, None) => format!("handed over by another worker, port {}", packet.port),
    };
    if let Some(vlan) = packet.vlan {
        words.push_str(&format!(", VLAN {vlan}"));
    }
    words.push_str(&format!(", {} bytes", packet.before.length));
    if let FrameSeen { source_mac: Some(from), destination_mac: Some(to), .. } = &packet.before {
        words.push_str(&format!(", {from} > {to}"));
    }
    text.line("arrived", &words);
}

fn stages(packet: &ObservedPacket, text: &mut Lines) {
    text.line("is", &what(packet));
    if let Some(id) = &packet.service {
        text.line("service", &service(id));
    }
    if let Some(connection) = &packet.connection {
        text.line("connection", &found(connection));
    }
    let opened = packet.connection.as_ref().is_none_or(|connection| connection.opened);
    if let Some(choice) = packet.choice.as_ref().filter(|_| opened && packet.server.is_some()) {
        let server = packet.server.map_or_else(String::new, |server| server.to_string());
        let words = match choice.template {
            Some(template) if Some(template) == packet.server => {
                format!("{server}, by the client's persistence template")
            }
            Some(template) => format!(
                "{server}, by {}; the client's persistence template named {template}",
                choice.scheduler
            ),
            None if choice.persistent => {
                format!("{server}, by {}, with a new persistence template", choice.scheduler)
            }
            None if choice.one_packet => {
                format!("{server}, by {}, for this packet alone", choice.scheduler)
            }
            None => format!("{server}, by {}", choice.scheduler),
        };
        text.line("server", &words);
    } else if let Some(server) = packet.server {
        text.line("server", &server.to_string());
    }
    if let Some(method) = &packet.method {
        text.line("method", method_name(method));
    }
    if let Some(after) = &packet.after {
        rewrite(&packet.before, after, text);
    }
    for made in &packet.made {
        let to = if made.sent { "sent by port" } else { "given on, as come in by port" };
        text.line("made", &format!("{}, {to} {}", frame(&made.frame), made.port));
    }
    let more = packet.made_count as usize - packet.made.len().min(packet.made_count as usize);
    if more > 0 {
        text.line("made", &format!("{more} more"));
    }
    text.line("verdict", &verdict(packet));
    if let PacketVerdict::Dropped { reason } = &packet.verdict {
        if let Some((meaning, remedy)) = drops::explained(reason) {
            text.line("", &meaning);
            text.line("to do", &remedy);
        }
    }
}

fn what(packet: &ObservedPacket) -> String {
    let ends = frame(&packet.before);
    let protocol = packet.protocol.map_or("", name);
    match packet.kind {
        PacketKind::Flow => {
            let flags =
                packet.flags.as_ref().map_or_else(String::new, |flags| format!(" [{flags}]"));
            format!("{ends}{flags}")
        }
        PacketKind::Fragment => format!("{ends}, a fragment"),
        PacketKind::IcmpError if protocol.is_empty() => format!("{ends}, an ICMP error"),
        PacketKind::IcmpError => format!("{ends}, an ICMP error about a {protocol} packet"),
        PacketKind::Neighbour => format!("{ends}, ARP or neighbour discovery"),
        PacketKind::Routing => format!("{ends}, a routing protocol's"),
        PacketKind::Other => format!("{ends}, for no service"),
        PacketKind::Malformed => format!("{ends}, not a good packet to this host"),
    }
}

fn frame(frame: &FrameSeen) -> String {
    let Some(ip) = &frame.ip else {
        return format!("a frame of {} bytes", frame.length);
    };
    let inner = format!(
        "{} {} > {}, TTL {}",
        ip.protocol.to_uppercase(),
        ip.source,
        ip.destination,
        ip.ttl
    );
    match &frame.outer {
        None => inner,
        Some(outer) => format!(
            "{} {} > {}, TTL {}, around {inner}",
            outer.kind.to_uppercase(),
            outer.source,
            outer.destination,
            outer.ttl
        ),
    }
}

fn found(connection: &ObservedConnection) -> String {
    let ObservedConnection { opened, reply, client, virtual_address, .. } = connection;
    let how = match (opened, reply) {
        (true, _) => "new",
        (false, true) => "found, by its server's packet",
        (false, false) => "found",
    };
    let persistent = if connection.persistent { ", persistent" } else { "" };
    format!("{how}: {client} > {virtual_address}{persistent}; {}", state(connection))
}

fn state(connection: &ObservedConnection) -> String {
    match (&connection.state_before, &connection.state_after) {
        (Some(before), Some(after)) if before == after => after.clone(),
        (Some(before), Some(after)) => format!("{before} -> {after}"),
        (Some(before), None) => format!("{before}, ended"),
        (None, Some(after)) => after.clone(),
        (None, None) => "ended".into(),
    }
}

fn rewrite(before: &FrameSeen, after: &FrameSeen, text: &mut Lines) {
    let mut change = |name: &str, old: Option<&str>, new: Option<&str>| {
        if old != new {
            text.line(name, &format!("{} -> {}", old.unwrap_or("none"), new.unwrap_or("none")));
        }
    };
    change("  MAC to", before.destination_mac.as_deref(), after.destination_mac.as_deref());
    change("  MAC from", before.source_mac.as_deref(), after.source_mac.as_deref());
    let vlan = |frame: &FrameSeen| frame.vlan.map(|vlan| vlan.to_string());
    change("  VLAN", vlan(before).as_deref(), vlan(after).as_deref());
    let (old, new) = (before.ip.as_ref(), after.ip.as_ref());
    change("  source", old.map(|ip| &*ip.source), new.map(|ip| &*ip.source));
    change("  to", old.map(|ip| &*ip.destination), new.map(|ip| &*ip.destination));
    let ttl = |ip: Option<&crate::api::IpSeen>| ip.map(|ip| ip.ttl.to_string());
    change("  TTL", ttl(old).as_deref(), ttl(new).as_deref());
    if let Some(outer) = &after.outer {
        let words =
            format!("{} {} > {}, TTL {}", outer.kind, outer.source, outer.destination, outer.ttl);
        text.line("  around it", &words);
    }
    if before.length != after.length {
        text.line("  length", &format!("{} -> {}", before.length, after.length));
    }
}

fn verdict(packet: &ObservedPacket) -> String {
    match &packet.verdict {
        PacketVerdict::Sent { port } => format!("sent by port {port}"),
        PacketVerdict::Punted => "punted: the kernel gets it".into(),
        PacketVerdict::HandedOver { to } => format!("handed over to worker {to}, which owns it"),
        PacketVerdict::Absorbed { why } => match why {
            AbsorbedWhy::WaitsForNeighbour => {
                "waits for its next hop's MAC address, a second at most".into()
            }
            AbsorbedWhy::WaitsForFirstFragment => "waits for its datagram's first fragment".into(),
            AbsorbedWhy::SentAsOthers => "sent as other packets".into(),
        },
        PacketVerdict::Dropped { reason } => format!("dropped: {reason}"),
    }
}

/// A service as ipvsadm's listings name it.
fn service(id: &ServiceId) -> String {
    match id {
        ServiceId::Address { protocol, address } => format!("{} {address}", name(*protocol)),
        ServiceId::Fwmark { mark, ipv6: false } => format!("FWM {mark}"),
        ServiceId::Fwmark { mark, ipv6: true } => format!("FWM {mark} IPv6"),
    }
}

const fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

const fn method_name(method: &Method) -> &'static str {
    match method {
        Method::Dr => "Route (DR)",
        Method::Nat => "Masq (NAT)",
        Method::Tun(Tunnel::Ipip) => "Tunnel (IPIP)",
        Method::Tun(Tunnel::Gre { .. }) => "Tunnel (GRE)",
        Method::Tun(Tunnel::Gue { .. }) => "Tunnel (GUE)",
        Method::Fullnat => "FullNat",
    }
}

/// The time of day, UTC.
fn clock(time_us: u64) -> String {
    let (seconds, us) = (time_us / 1_000_000, time_us % 1_000_000);
    let (h, m, s) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{h:02}:{m:02}:{s:02}.{us:06}")
}
