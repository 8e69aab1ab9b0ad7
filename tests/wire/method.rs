//! Every method in every combination of families, and what becomes of a packet
//! under it: the rows that all methods share are written once.

use std::net::SocketAddr;

use dataplane::packet::Family;
use dataplane::service::{Encapsulation, GueChecksum, Method};

use crate::network::{FAMILIES, V4, V6, client, local, own, rip, vip};
use crate::packet::Packet;
use crate::setup::Setup;

/// The GUE port.
pub(crate) const GUE: u16 = 6080;
/// What tunnels are made of, with their overhead on top of an IP header.
const TUNNELS: [(&str, Encapsulation, usize); 6] = [
    ("ipip", Encapsulation::Ipip, 0),
    ("gue", Encapsulation::Gue { port: GUE, checksum: GueChecksum::None }, 12),
    ("gue csum", Encapsulation::Gue { port: GUE, checksum: GueChecksum::Full }, 12),
    ("gue remcsum", Encapsulation::Gue { port: GUE, checksum: GueChecksum::Remote }, 12),
    ("gre", Encapsulation::Gre { checksum: false }, 4),
    ("gre csum", Encapsulation::Gre { checksum: true }, 8),
];

/// A method in a combination of families.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) setup: Setup,
    /// Bytes that packets grow by.
    pub(crate) overhead: usize,
}

/// All methods. Port mapping is a method of its own here.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, method, client, servers, overhead| {
        let setup = Setup::new(method, client).with(|s| s.servers = servers);
        let name = format!("{name} {client:?}->{servers:?}");
        cases.push(Case { name, setup, overhead });
    };
    for family in FAMILIES {
        add("dr", Method::Dr, family, family, 0);
        add("nat", Method::Nat, family, family, 0);
        add("nat 80->8080", Method::Nat, family, family, 0);
        for servers in FAMILIES {
            add("fullnat", Method::Fullnat, family, servers, 0);
            add("fullnat 80->8080", Method::Fullnat, family, servers, 0);
            let outer = header(servers);
            for (name, encapsulation, more) in TUNNELS {
                add(name, Method::Tun(encapsulation), family, servers, outer + more);
            }
        }
    }
    for case in &mut cases {
        if case.name.contains("8080") {
            case.setup.targets[0].port = 8080;
        }
        if case.translates() && case.setup.family == V4 {
            case.overhead = 20;
        }
    }
    cases
}

/// Length of an IP header.
pub(crate) fn header(family: Family) -> usize {
    match family {
        V4 => 20,
        V6 => 40,
    }
}

impl Case {
    /// Whether packets become those of the other family.
    pub(crate) fn translates(&self) -> bool {
        self.setup.method == Method::Fullnat && self.setup.servers != self.setup.family
    }

    /// Whether replies pass the director.
    pub(crate) fn is_two_sided(&self) -> bool {
        matches!(self.setup.method, Method::Nat | Method::Fullnat)
    }

    pub(crate) fn tunnel(&self) -> Option<Encapsulation> {
        match self.setup.method {
            Method::Tun(encapsulation) => Some(encapsulation),
            _ => None,
        }
    }

    /// The longest packet from the client that fits an MTU of 1500.
    pub(crate) fn room(&self) -> usize {
        let shrinks = self.translates() && self.setup.family == V6;
        1500 - self.overhead + if shrinks { 20 } else { 0 }
    }

    /// The longest packet from the server that fits an MTU of 1500 towards the
    /// client.
    pub(crate) fn room_back(&self) -> usize {
        match (self.setup.servers, self.setup.family) {
            (V4, V6) => 1480,
            (V6, V4) => 1520,
            _ => 1500,
        }
    }

    /// How many ids of the director's own a client's packet takes.
    pub(crate) fn ids_of(&self, packet: &Packet) -> u16 {
        let outer_has_id = match self.setup.method {
            Method::Tun(_) => !packet.has_df(),
            Method::Fullnat => self.translates(),
            _ => false,
        };
        u16::from(outer_has_id && self.setup.servers == V4)
    }

    /// A client's packet as the server's layer 4 sees it.
    pub(crate) fn seen(&self, make: fn(SocketAddr, SocketAddr) -> Packet) -> Packet {
        match self.setup.method {
            Method::Dr | Method::Tun(_) => make(client(self.setup.family), vip(self.setup.family)),
            Method::Nat | Method::Fullnat => make(self.peer(), self.server()),
        }
    }

    /// What the client sent that the server's layer 4 sees so.
    pub(crate) fn sent(&self, seen: Packet) -> Packet {
        seen.from(client(self.setup.family)).to(vip(self.setup.family))
    }

    /// The server as its packets say it.
    pub(crate) fn server(&self) -> SocketAddr {
        let mut server = rip(self.setup.servers, 1);
        server.set_port(self.setup.targets[0].port);
        server
    }

    /// Whom the server answers.
    pub(crate) fn peer(&self) -> SocketAddr {
        match self.setup.method {
            Method::Fullnat => local(self.setup.servers),
            _ => client(self.setup.family),
        }
    }

    /// What the server gets of a client's packet, the director's `nth` with an
    /// id of its own.
    pub(crate) fn forward(&self, packet: Packet, nth: u16) -> Packet {
        let servers = self.setup.servers;
        let source = own(servers, 1);
        match self.setup.method {
            Method::Dr => packet.hop(),
            Method::Nat => packet.hop().to(self.server()),
            Method::Fullnat if self.translates() => {
                let len = packet.ip().len();
                let packet = packet.hop().from(self.peer()).to(self.server()).label(0);
                // RFC 7915, section 5.1; ids of IPv4 are the director's.
                if servers == V4 { packet.df(len > 1280).id(1000 + nth) } else { packet }
            }
            Method::Fullnat => packet.hop().from(self.peer()).to(self.server()),
            Method::Tun(encapsulation) => {
                let (inner, df) = (packet.hop(), self.setup.settings.pmtu_disc);
                let df = df && inner.has_df();
                let outer = match encapsulation {
                    Encapsulation::Ipip => inner.in_ip(source, rip(servers, 1).ip()),
                    Encapsulation::Gue { checksum, .. } => {
                        let mut server = rip(servers, 1);
                        server.set_port(GUE);
                        inner.in_gue(source, server, checksum != GueChecksum::None)
                    }
                    Encapsulation::Gre { checksum } => {
                        inner.in_gre(source, rip(servers, 1).ip(), checksum)
                    }
                };
                if df { outer.df(true).id(0) } else { outer.df(false).id(1000 + nth) }
            }
        }
    }

    /// What the client gets of a server's packet to its peer.
    pub(crate) fn back(&self, packet: Packet, nth: u16) -> Packet {
        let len = packet.ip().len();
        let packet = packet.hop().from(vip(self.setup.family)).to(client(self.setup.family));
        if !self.translates() {
            return packet;
        }
        let packet = packet.label(0);
        if self.setup.family == V4 { packet.df(len > 1280).id(1000 + nth) } else { packet }
    }
}
