//! The director as slow and obvious as possible: what kernel IPVS does with
//! connections, by the facts recorded from it, in hash maps. Shares no code
//! with the director but the names of things.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use dataplane::conn::State;
use dataplane::counters::DropReason;
use dataplane::packet::Protocol;
use dataplane::scheduler::Scheduler;
use dataplane::service::{Method, Persistence, ServiceKey};
use dataplane::snapshot::Settings;

use crate::packet::{ACK, FIN, Packet, RST, SYN};

/// Ticks, eighths of a second.
pub(crate) type Time = u32;
pub(crate) const SECOND: Time = 8;

/// What a server is known by.
pub(crate) type Name = (ServiceKey, SocketAddr);
/// What a connection is known by: protocol, client, and whom it talks to.
pub(crate) type Id = (Protocol, SocketAddr, SocketAddr);

/// What is expected of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It goes to this server. `id` where it has a connection.
    ToServer { server: Name, id: Option<Id> },
    /// It goes to the client of this connection.
    ToClient(Id),
    /// It goes to the kernel.
    Punt,
    /// It is dropped.
    Drop(DropReason),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) active: u32,
    pub(crate) inactive: u32,
    pub(crate) templates: u32,
    pub(crate) connections: u64,
    pub(crate) in_packets: u64,
    pub(crate) in_bytes: u64,
    pub(crate) out_packets: u64,
    pub(crate) out_bytes: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) method: Method,
    pub(crate) weight: u32,
    /// Upper and lower.
    pub(crate) thresholds: (u32, u32),
    pub(crate) overloaded: bool,
    pub(crate) deleted: bool,
    pub(crate) counts: Counts,
}

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) scheduler: Scheduler,
    pub(crate) persistence: Option<Persistence>,
    pub(crate) one_packet: bool,
    /// Newest first.
    pub(crate) servers: Vec<SocketAddr>,
    /// rr: whose turn was last.
    last: Option<SocketAddr>,
    /// Tells services apart that had the same name one after the other.
    pub(crate) number: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) server: Name,
    /// The server's when the connection began.
    pub(crate) method: Method,
    pub(crate) state: State,
    pub(crate) last: Time,
    template: Option<(u32, IpAddr)>,
    /// FULLNAT: the director's side of the connection to the server.
    pub(crate) local: Option<SocketAddr>,
    /// The server has said something.
    pub(crate) answered: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) server: Name,
    pub(crate) expiry: Time,
    pub(crate) controlled: u32,
    pub(crate) assured: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Reference {
    pub(crate) settings: Settings,
    /// Seconds.
    pub(crate) timeouts: HashMap<State, u32>,
    pub(crate) services: HashMap<ServiceKey, Service>,
    pub(crate) servers: HashMap<Name, Server>,
    pub(crate) connections: HashMap<Id, Connection>,
    /// By service number and client network.
    pub(crate) templates: HashMap<(u32, IpAddr), Template>,
}

impl Reference {
    pub(crate) fn new() -> Self {
        let timeouts = [
            (State::None, 2),
            (State::Established, 900),
            (State::SynSent, 120),
            (State::SynRecv, 60),
            (State::FinWait, 120),
            (State::TimeWait, 120),
            (State::Close, 10),
            (State::CloseWait, 60),
            (State::LastAck, 30),
            (State::Udp, 300),
        ];
        Self { timeouts: timeouts.into(), ..Self::default() }
    }

    // What an operator does.

    pub(crate) fn add_service(
        &mut self,
        key: ServiceKey,
        number: u32,
        scheduler: Scheduler,
        persistence: Option<Persistence>,
        one_packet: bool,
    ) {
        let servers = Vec::new();
        let service = Service { scheduler, persistence, one_packet, servers, last: None, number };
        self.services.insert(key, service);
    }

    pub(crate) fn delete_service(&mut self, key: &ServiceKey) {
        for address in self.services.remove(key).unwrap().servers {
            self.servers.get_mut(&(*key, address)).unwrap().deleted = true;
        }
    }

    /// A server that was deleted comes back with its counts.
    pub(crate) fn add_server(&mut self, name: Name, method: Method, weight: u32) {
        let new = Server {
            method,
            weight,
            thresholds: (0, 0),
            overloaded: false,
            deleted: false,
            counts: Counts::default(),
        };
        let server = self.servers.entry(name).or_insert(new);
        (server.deleted, server.weight) = (false, weight);
        (server.thresholds, server.overloaded) = ((0, 0), false);
        self.services.get_mut(&name.0).unwrap().servers.insert(0, name.1);
    }

    pub(crate) fn delete_server(&mut self, name: Name) {
        self.servers.get_mut(&name).unwrap().deleted = true;
        let service = self.services.get_mut(&name.0).unwrap();
        let index = service.servers.iter().position(|a| *a == name.1).unwrap();
        service.servers.remove(index);
        // The turn goes on behind the server that was before it.
        if service.last == Some(name.1) {
            service.last = index.checked_sub(1).map(|before| service.servers[before]);
        }
    }

    pub(crate) fn set_thresholds(&mut self, name: Name, upper: u32, lower: u32) {
        let server = self.servers.get_mut(&name).unwrap();
        if upper == 0 || upper > server.thresholds.0 {
            server.overloaded = false;
        }
        server.thresholds = (upper, lower);
        server.judge();
    }

    // What packets do.

    /// A client's packet. A new FULLNAT connection has its local side set by
    /// the caller, who sees which was chosen.
    pub(crate) fn client_sends(&mut self, now: Time, packet: &Packet) -> Expect {
        let id = (packet.protocol, packet.src, packet.dst);
        if let Some(connection) = self.connections.get(&id) {
            let server = &self.servers[&connection.server];
            if self.ends(connection, server, packet) {
                self.end(&id);
            } else if server.deleted {
                return Expect::Drop(DropReason::ServerDeleted);
            } else {
                return self.of_connection(now, id, packet);
            }
        }
        self.first(now, id, packet)
    }

    /// Whether a packet shows that its connection is over.
    fn ends(&self, connection: &Connection, server: &Server, packet: &Packet) -> bool {
        let settings = &self.settings;
        if server.deleted && settings.expire_nodest_conn {
            return true;
        }
        let is_syn = packet.protocol == Protocol::Tcp && packet.flags & (SYN | RST) == SYN;
        let is_closed = matches!(connection.state, State::TimeWait | State::Close);
        let is_drained = server.weight == 0 && settings.expire_nodest_conn;
        is_syn && settings.conn_reuse_mode != 0 && (is_closed || is_drained)
    }

    fn of_connection(&mut self, now: Time, id: Id, packet: &Packet) -> Expect {
        let connection = self.connections.get_mut(&id).unwrap();
        connection.last = now;
        let name = connection.server;
        let server = self.servers.get_mut(&name).unwrap();
        server.counts.in_packets += 1;
        server.counts.in_bytes += packet.ip_len();
        let state = after_client(connection.state, packet, is_two_sided(connection.method));
        self.change_state(&id, state);
        Expect::ToServer { server: name, id: Some(id) }
    }

    /// A packet of no connection.
    fn first(&mut self, now: Time, id: Id, packet: &Packet) -> Expect {
        let ServiceKey::Address { protocol, vip, vport } = key_of(packet) else { unreachable!() };
        let every_port = ServiceKey::Address { protocol, vip, vport: 0 };
        let exact = ServiceKey::Address { protocol, vip, vport };
        let found = [exact, every_port].into_iter().find(|key| self.services.contains_key(key));
        let Some(key) = found else { return Expect::Punt };
        if packet.protocol == Protocol::Tcp {
            if packet.flags & RST != 0 {
                return Expect::Drop(DropReason::TcpRstNoConnection);
            }
            if packet.flags & SYN == 0 && !self.settings.sloppy_tcp {
                return Expect::Punt;
            }
        }
        let Some((name, template)) = self.choose(now, &key, packet.src.ip()) else {
            return Expect::Drop(DropReason::NoServer);
        };
        if self.services[&key].one_packet && packet.protocol == Protocol::Udp {
            let server = self.servers.get_mut(&name).unwrap();
            server.counts.connections += 1;
            server.counts.in_packets += 1;
            server.counts.in_bytes += packet.ip_len();
            return Expect::ToServer { server: name, id: None };
        }
        if self.servers[&name].method == Method::Nat {
            // Another service's connection of this client and port to the same
            // server: replies could not be told apart.
            let to = with_port(name.1, packet.dst.port());
            let same = |(of, c): &(&Id, &Connection)| {
                of.0 == id.0
                    && of.1 == id.1
                    && c.method == Method::Nat
                    && with_port(c.server.1, of.2.port()) == to
            };
            if let Some((other, connection)) = self.connections.iter().find(same) {
                if !matches!(connection.state, State::TimeWait | State::Close) {
                    return Expect::Drop(DropReason::NatAmbiguous);
                }
                let other = *other;
                self.end(&other);
            }
        }
        if let Some(template) = &template {
            self.templates.get_mut(template).unwrap().controlled += 1;
        }
        let method = self.servers[&name].method;
        let (state, local) = (State::None, None);
        let (last, answered) = (now, false);
        let connection =
            Connection { server: name, method, state, last, template, local, answered };
        self.connections.insert(id, connection);
        let server = self.servers.get_mut(&name).unwrap();
        server.counts.connections += 1;
        server.counts.inactive += 1;
        server.judge();
        self.of_connection(now, id, packet)
    }

    /// A server for a new connection, by the client's template where there are
    /// such.
    fn choose(
        &mut self,
        now: Time,
        key: &ServiceKey,
        client: IpAddr,
    ) -> Option<(Name, Option<(u32, IpAddr)>)> {
        let service = &self.services[key];
        let Some(persistence) = service.persistence else {
            return Some((self.schedule(key)?, None));
        };
        let of = (service.number, network(client, persistence.prefix));
        let expiry = now + persistence.timeout;
        if let Some(template) = self.templates.get(&of) {
            let server = &self.servers[&template.server];
            let is_quiet = server.weight == 0 && self.settings.expire_quiescent_template;
            if server.deleted || is_quiet {
                let name = self.schedule(key)?;
                let template = self.templates.get_mut(&of).unwrap();
                let old = std::mem::replace(&mut template.server, name);
                template.assured = false;
                self.servers.get_mut(&old).unwrap().counts.templates -= 1;
                self.servers.get_mut(&name).unwrap().counts.templates += 1;
            }
        } else {
            let server = self.schedule(key)?;
            self.servers.get_mut(&server).unwrap().counts.templates += 1;
            let template = Template { server, expiry, controlled: 0, assured: false };
            self.templates.insert(of, template);
        }
        let template = self.templates.get_mut(&of).unwrap();
        template.expiry = expiry;
        Some((template.server, Some(of)))
    }

    fn schedule(&mut self, key: &ServiceKey) -> Option<Name> {
        let service = &self.services[key];
        let server = |address: &SocketAddr| &self.servers[&(*key, *address)];
        let ready: Vec<_> = service
            .servers
            .iter()
            .copied()
            .filter(|address| server(address).weight > 0 && !server(address).overloaded)
            .collect();
        let load = |a: &SocketAddr| {
            let counts = &server(a).counts;
            u64::from(counts.active) * 256 + u64::from(counts.inactive)
        };
        let weight = |a: &SocketAddr| u64::from(server(a).weight);
        let active = |a: &SocketAddr| u64::from(server(a).counts.active);
        let chosen = match service.scheduler {
            Scheduler::Rr => {
                let begin = match service.last {
                    None => 0,
                    Some(last) => service.servers.iter().position(|a| *a == last).unwrap() + 1,
                };
                let turns = service.servers[begin..].iter().chain(&service.servers[..begin]);
                turns.copied().find(|a| ready.contains(a))
            }
            Scheduler::Lc => first_least(&ready, load, |_| 1),
            Scheduler::Wlc => first_least(&ready, load, weight),
            Scheduler::Sed => first_least(&ready, |a| active(a) + 1, weight),
            Scheduler::Nq => ready
                .iter()
                .copied()
                .find(|a| active(a) == 0)
                .or_else(|| first_least(&ready, |a| active(a) + 1, weight)),
            Scheduler::Fo => first_least(&ready, |a| u64::from(u32::MAX) - weight(a), |_| 1),
            other => panic!("{other:?} has no model"),
        }?;
        self.services.get_mut(key).unwrap().last = Some(chosen);
        Some((*key, chosen))
    }

    /// A server's packet, to a client or to a local address.
    pub(crate) fn server_sends(&mut self, now: Time, packet: &Packet) -> Expect {
        let found = self.connections.iter().find(|(id, connection)| {
            let to = with_port(connection.server.1, id.2.port());
            is_two_sided(connection.method)
                && id.0 == packet.protocol
                && to == packet.src
                && connection.local.unwrap_or(id.1) == packet.dst
        });
        let Some((&id, _)) = found else { return self.unexpected(packet) };
        let connection = self.connections.get_mut(&id).unwrap();
        connection.last = now;
        let (name, template) = (connection.server, connection.template);
        let state = after_server(connection.state, packet);
        let counts = &mut self.servers.get_mut(&name).unwrap().counts;
        counts.out_packets += 1;
        counts.out_bytes += packet.ip_len();
        self.change_state(&id, state);
        // The first answer is what makes a client of UDP a real one. A template
        // that has since got another server waits for an answer of that.
        let connection = self.connections.get_mut(&id).unwrap();
        let first = !std::mem::replace(&mut connection.answered, true);
        if let (true, State::Udp, Some(template)) = (first, state, template) {
            self.templates.get_mut(&template).unwrap().assured = true;
        }
        Expect::ToClient(id)
    }

    /// A server's packet without a connection.
    fn unexpected(&self, packet: &Packet) -> Expect {
        let is_nat = self.servers.iter().any(|((key, address), server)| {
            let ServiceKey::Address { protocol, .. } = key else { return false };
            server.method == Method::Nat
                && *protocol == packet.protocol
                && address.ip() == packet.src.ip()
                && [0, packet.src.port()].contains(&address.port())
        });
        if is_nat && self.settings.nat_icmp_send && packet.flags & RST == 0 {
            return Expect::Drop(DropReason::NatNoConnection);
        }
        Expect::Punt
    }

    fn change_state(&mut self, id: &Id, state: State) {
        let connection = self.connections.get_mut(id).unwrap();
        let server = self.servers.get_mut(&connection.server).unwrap();
        server.count(connection.state, -1);
        server.count(state, 1);
        if state == State::Established && connection.state != state {
            if let Some(template) = &connection.template {
                self.templates.get_mut(template).unwrap().assured = true;
            }
        }
        connection.state = state;
    }

    fn end(&mut self, id: &Id) {
        let connection = self.connections.remove(id).unwrap();
        let server = self.servers.get_mut(&connection.server).unwrap();
        server.count(connection.state, -1);
        server.judge();
        if let Some(template) = connection.template {
            self.templates.get_mut(&template).unwrap().controlled -= 1;
        }
    }

    // What time does.

    pub(crate) fn expiry(&self, connection: &Connection) -> Time {
        connection.last + self.timeouts[&connection.state] * SECOND
    }

    /// Ends what is over. To be called often: a template whose time comes while
    /// there are connections is looked at again a minute later.
    pub(crate) fn pass(&mut self, now: Time) {
        let over = |connection: &Connection| {
            self.expiry(connection) <= now
                || (self.settings.expire_nodest_conn && self.servers[&connection.server].deleted)
        };
        let ended: Vec<_> =
            self.connections.iter().filter(|(_, c)| over(c)).map(|(id, _)| *id).collect();
        for id in ended {
            self.end(&id);
        }
        let servers = &mut self.servers;
        self.templates.retain(|_, template| {
            if template.expiry > now {
                return true;
            }
            if template.controlled > 0 {
                template.expiry = now + 60 * SECOND;
                return true;
            }
            servers.get_mut(&template.server).unwrap().counts.templates -= 1;
            false
        });
    }
}

impl Server {
    fn count(&mut self, state: State, change: i32) {
        let active = matches!(state, State::Established | State::SynSent | State::SynRecv);
        let counts = &mut self.counts;
        let count = if active { &mut counts.active } else { &mut counts.inactive };
        *count = count.checked_add_signed(change).unwrap();
    }

    fn judge(&mut self) {
        let (upper, lower) = self.thresholds;
        let total = self.counts.active + self.counts.inactive;
        if upper > 0 && total >= upper {
            self.overloaded = true;
        } else if upper == 0 || (lower == 0 && total * 4 < upper * 3) || total < lower {
            self.overloaded = false;
        }
    }
}

/// The key of the service on the packet's own port.
pub(crate) fn key_of(packet: &Packet) -> ServiceKey {
    let Packet { protocol, dst, .. } = *packet;
    ServiceKey::Address { protocol, vip: dst.ip(), vport: dst.port() }
}

pub(crate) fn is_two_sided(method: Method) -> bool {
    matches!(method, Method::Nat | Method::Fullnat)
}

/// A server on port 0 gets packets on the port that they were sent to.
pub(crate) fn with_port(server: SocketAddr, port: u16) -> SocketAddr {
    if server.port() == 0 { SocketAddr::new(server.ip(), port) } else { server }
}

/// The first of those with the least load for their weight.
fn first_least(
    servers: &[SocketAddr],
    load: impl Fn(&SocketAddr) -> u64,
    weight: impl Fn(&SocketAddr) -> u64,
) -> Option<SocketAddr> {
    let mut best = *servers.first()?;
    for server in servers {
        if load(server) * weight(&best) < load(&best) * weight(server) {
            best = *server;
        }
    }
    Some(best)
}

/// The network of a client that shares a template.
pub(crate) fn network(client: IpAddr, prefix: u8) -> IpAddr {
    match client {
        IpAddr::V4(client) => {
            let mask = u64::from(u32::MAX) << (32 - u32::from(prefix));
            IpAddr::V4((client.to_bits() & mask as u32).into())
        }
        IpAddr::V6(client) => {
            let kept = client.to_bits() >> (128 - u32::from(prefix)) << (128 - u32::from(prefix));
            IpAddr::V6(kept.into())
        }
    }
}

/// What counts of the flags: one, in this order.
fn event(flags: u8) -> u8 {
    [RST, SYN, FIN, ACK].into_iter().find(|flag| flags & flag != 0).unwrap_or(0)
}

/// The states that `line` gives for each state, in the order
/// None Established SynSent SynRecv FinWait TimeWait Close CloseWait LastAck.
fn by_line(line: &str, state: State) -> State {
    const ORDER: [(State, &str); 9] = [
        (State::None, "NO"),
        (State::Established, "ES"),
        (State::SynSent, "SS"),
        (State::SynRecv, "SR"),
        (State::FinWait, "FW"),
        (State::TimeWait, "TW"),
        (State::Close, "CL"),
        (State::CloseWait, "CW"),
        (State::LastAck, "LA"),
    ];
    let column = ORDER.iter().position(|(of, _)| *of == state).expect("a state of TCP");
    let name = line.split(' ').nth(column).unwrap();
    ORDER.iter().find(|(_, of)| *of == name).unwrap().0
}

fn after_client(state: State, packet: &Packet, two_sided: bool) -> State {
    if packet.protocol == Protocol::Udp {
        return State::Udp;
    }
    let line = match (event(packet.flags), two_sided) {
        //            NO ES SS SR FW TW CL CW LA
        (SYN, _) => "SR ES ES SR SR SR SR SR SR",
        (RST, _) => "CL CL CL SR CL CL CL CL LA",
        (FIN, true) => "CL CW SS TW TW TW CL CW LA",
        (FIN, false) => "CL FW SS TW FW TW CL CW LA",
        (ACK, true) => "ES ES SS ES FW TW CL CW CL",
        (ACK, false) => "ES ES ES ES FW TW CL CW CL",
        _ => return State::Close,
    };
    by_line(line, state)
}

fn after_server(state: State, packet: &Packet) -> State {
    if packet.protocol == Protocol::Udp {
        return State::Udp;
    }
    let line = match event(packet.flags) {
        //       NO ES SS SR FW TW CL CW LA
        SYN => "SS ES SS SR SS SS SS SS SS",
        RST => "CL CL SS CL CL TW CL CL CL",
        FIN => "TW FW SS TW FW TW CL TW LA",
        ACK => "ES ES SS ES FW TW CL CW LA",
        _ => return State::Close,
    };
    by_line(line, state)
}
