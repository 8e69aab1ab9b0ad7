//! ipvsadm's grammar: from the words of a command line to a typed command.

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::names::{Ports, parse_endpoint, parse_number};
use super::options::{Opt, Set, TunnelKind, Verb};
use super::output::View;
use super::vocabulary::{Forwarding, Parsed, Start};
use super::words::{Word, Words};
use crate::api::{
    ClientAddress, Method, Persistence, Protocol, ServerSpec, ServiceId, ServiceSpec, Timeouts,
    Tunnel, TunnelChecksum,
};
use crate::registry::{MAX_MSS, MIN_MSS};

/// The longest timeout that ipvsadm takes, s: 31 days.
const MAX_TIMEOUT: u32 = 31 * 24 * 3600;

/// The timeout of `-p` without a value, s.
const DEFAULT_PERSISTENCE: u32 = 360;

/// The largest weight or threshold that ipvsadm takes.
const MAX_INT: u32 = i32::MAX as u32;

/// A whole command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `-h`
    Help,
    /// `-v`
    Version,
    /// `-A`
    AddService(ServiceSpec),
    /// `-E`
    EditService(ServiceSpec),
    /// `-D`
    DeleteService(ServiceId),
    /// `-C`
    Flush,
    /// `-a`
    AddServer(ServiceId, ServerSpec),
    /// `-e`
    EditServer(ServiceId, ServerSpec),
    /// `-d`
    DeleteServer(ServiceId, SocketAddr),
    /// `-L`, `-l` or nothing at all
    List(List),
    /// `-Z`
    Zero(Option<ServiceId>),
    /// `-S`
    Save {
        /// `-n`
        numeric: bool,
    },
    /// `-R`
    Restore,
    /// `--set`
    SetTimeouts(Timeouts),
    /// `--start-daemon`
    StartDaemon,
    /// `--stop-daemon`
    StopDaemon,
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The listing.
    pub what: Listing,
    /// `-n`: no names.
    pub numeric: bool,
}

/// The listings of `-L`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// Services and their servers.
    Services {
        /// Only this one.
        service: Option<ServiceId>,
        /// What is shown of each.
        view: View,
        /// Not with `--nosort`.
        sorted: bool,
    },
    /// `-c`
    Connections {
        /// `--persistent-conn`: with columns for persistence engines.
        engines: bool,
    },
    /// `--timeout`
    Timeouts,
    /// `--daemon`
    Daemon,
}

/// A command line that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    /// What is wrong, for people.
    pub message: String,
    /// The exit code that ipvsadm gives for it.
    pub code: u8,
}

impl UsageError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for UsageError {}

/// Parses the words after the program's name. `program` is the name to show in
/// messages, `ports` the names that ports may be given by.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    program: &str,
    ports: &Ports,
) -> Result<Command, UsageError> {
    let mut args = args.into_iter().peekable();
    if args.peek().is_none() {
        return list(&Line::default());
    }
    let mut words = Words::new(args);
    let try_help = || UsageError {
        message: format!("Try `{program} -h' or '{program} --help' for more information."),
        code: 255,
    };
    let first = words.next().map_err(|_| try_help())?.ok_or_else(try_help)?;
    let verb = match Start::of(&first).ok_or_else(try_help)? {
        Start::Help => return Ok(Command::Help),
        Start::Version => return Ok(Command::Version),
        Start::Verb(verb) => verb,
    };
    if matches!(verb, Verb::StartDaemon | Verb::StopDaemon) {
        let which = words.value().map_err(|_| try_help())?;
        check_daemon(verb, &which)?;
    }
    let line = Line::read(verb, &mut words, ports)?;
    line.command(verb)
}

/// RVS has no synchronisation daemon yet, but a wrong word is a wrong word.
fn check_daemon(verb: Verb, which: &str) -> Result<(), UsageError> {
    if matches!(which, "master" | "backup") {
        return Ok(());
    }
    let option = if verb == Verb::StartDaemon { "start-daemon parameter" } else { "start_daemon" };
    Err(UsageError::new(format!("illegal {option} specified")))
}

/// The options of a command line, read but not yet judged as a whole.
#[derive(Debug, Default)]
struct Line {
    set: Set,
    service: Option<ServiceId>,
    scheduler: Option<String>,
    persistence: u32,
    netmask: String,
    engine: Option<String>,
    flags: String,
    local_addresses: Vec<IpAddr>,
    client_address: ClientAddress,
    mss: Option<u16>,
    server: Option<SocketAddr>,
    method: Forwarding,
    weight: u32,
    upper_threshold: u32,
    lower_threshold: u32,
    tunnel_kind: Option<TunnelKind>,
    tunnel_port: u16,
    timeouts: Option<Timeouts>,
}

impl Line {
    /// Reads what follows the command's word.
    fn read(verb: Verb, words: &mut Words, ports: &Ports) -> Result<Self, UsageError> {
        let mut line = Self { weight: 1, ..Self::default() };
        while let Some(word) = words.next()? {
            if Start::of(&word).is_some() {
                let message = format!("invalid option `{}'", words.current());
                return Err(UsageError::new(message));
            }
            line.option(verb, &word, words, ports)?;
        }
        let mut loose = std::mem::take(&mut words.loose).into_iter();
        if verb == Verb::Set {
            line.timeouts = Some(read_timeouts(loose.by_ref().take(3).collect())?);
        }
        match loose.next() {
            None => Ok(line),
            Some(word) => Err(UsageError::new(format!("unexpected argument {word}"))),
        }
    }

    fn option(
        &mut self,
        verb: Verb,
        word: &Word,
        words: &mut Words,
        ports: &Ports,
    ) -> Result<(), UsageError> {
        let Some(option) = Parsed::of(word, verb) else {
            return Err(words.bad("unknown option"));
        };
        let option = match option {
            Parsed::Flag(option) => return self.set.add(option),
            Parsed::Ignored => return Ok(()),
            Parsed::Ipv6 => return self.ipv6(),
            Parsed::Method(method) => {
                self.set.add(Opt::Method)?;
                self.method = method;
                return Ok(());
            }
            Parsed::Service(protocol) => {
                let text = words.value()?;
                self.set.add(Opt::Service)?;
                self.service = Some(service_address(&text, protocol, ports)?);
                return Ok(());
            }
            Parsed::Value(option) => option,
        };
        if option == Opt::Persistent {
            self.set.add(option)?;
            self.persistence = match words.optional_value() {
                Some(text) => timeout(&text, 1)?,
                None => DEFAULT_PERSISTENCE,
            };
            return Ok(());
        }
        let text = words.value()?;
        self.set.add(option)?;
        self.value(option, text, ports)
    }

    /// Takes the value of an option that has one.
    fn value(&mut self, option: Opt, text: String, ports: &Ports) -> Result<(), UsageError> {
        let number = |min, max, what: &str| {
            parse_number(&text, min, max)
                .ok_or_else(|| UsageError::new(format!("illegal {what} specified")))
        };
        match option {
            Opt::Service => self.service = Some(fwmark(&text)?),
            Opt::Scheduler => self.scheduler = Some(text).filter(|name| !name.is_empty()),
            Opt::Netmask => self.netmask = text,
            Opt::Engine => self.engine = Some(text),
            Opt::SchedFlags => self.flags = text,
            Opt::LocalAddress => self.local_addresses = local_addresses(&text)?,
            Opt::ClientAddress => self.client_address = client_address(&text)?,
            Opt::Mss => self.mss = mss(&text)?,
            Opt::RealServer => self.server = Some(self.server_address(&text, ports)?),
            Opt::Weight => self.weight = number(0, MAX_INT, "weight")?,
            Opt::UpperThreshold => self.upper_threshold = number(0, MAX_INT, "u_threshold")?,
            Opt::LowerThreshold => self.lower_threshold = number(0, MAX_INT, "l_threshold")?,
            Opt::TunType => self.tunnel_kind = Some(tunnel_kind(&text)?),
            Opt::TunPort => {
                self.tunnel_port = number(1, u16::MAX.into(), "tunnel port")? as u16;
            }
            // The options of the synchronisation daemon are checked only.
            Opt::SyncId => drop(number(0, 255, "syncid")?),
            Opt::SyncMaxlen => drop(number(1, 65507, "sync-maxlen")?),
            Opt::McastPort => drop(number(1, u16::MAX.into(), "mcast-port")?),
            Opt::McastTtl => drop(number(1, 255, "mcast-ttl")?),
            Opt::McastGroup => check_group(&text)?,
            _ => {}
        }
        Ok(())
    }

    /// `-6`, which only a preceding `-f` gives a meaning.
    fn ipv6(&mut self) -> Result<(), UsageError> {
        match &mut self.service {
            Some(ServiceId::Fwmark { ipv6, .. }) => {
                *ipv6 = true;
                Ok(())
            }
            _ => Err(UsageError::new("-6 used before -f")),
        }
    }

    /// The address of `-r`. A port by name takes the protocol of a service that
    /// precedes it; for a mark it is TCP.
    fn server_address(&self, text: &str, ports: &Ports) -> Result<SocketAddr, UsageError> {
        let protocol = match self.service {
            Some(ServiceId::Address { protocol, .. }) => Some(protocol),
            Some(ServiceId::Fwmark { .. }) => Some(Protocol::Tcp),
            None => None,
        };
        parse_endpoint(text, protocol, ports)
            .ok_or_else(|| UsageError::new("illegal real server address[:port] specified"))
    }

    /// Judges the line as a whole and makes the command of it.
    fn command(self, verb: Verb) -> Result<Command, UsageError> {
        let scheduler = self.scheduler.as_deref().unwrap_or("wlc");
        let flags = scheduler_flags(&self.flags, scheduler)?;
        self.set.check(verb)?;
        // `check` has seen to it that the required ones are there.
        let missing = || UsageError::new("the service or server is missing");
        let service = || self.service.ok_or_else(missing);
        let server = || self.server.ok_or_else(missing);
        Ok(match verb {
            Verb::AddService => Command::AddService(self.service_spec(service()?, flags)?),
            Verb::EditService => Command::EditService(self.service_spec(service()?, flags)?),
            Verb::DeleteService => Command::DeleteService(service()?),
            Verb::Flush => Command::Flush,
            Verb::AddServer => {
                Command::AddServer(service()?, self.server_spec(service()?, server()?)?)
            }
            Verb::EditServer => {
                Command::EditServer(service()?, self.server_spec(service()?, server()?)?)
            }
            Verb::DeleteServer => {
                Command::DeleteServer(service()?, with_port(server()?, service()?))
            }
            Verb::List => return list(&self),
            Verb::Zero => Command::Zero(self.service),
            Verb::Save => Command::Save { numeric: self.set.has(Opt::Numeric) },
            Verb::Restore => Command::Restore,
            Verb::Set => Command::SetTimeouts(self.timeouts.ok_or_else(missing)?),
            Verb::StartDaemon => Command::StartDaemon,
            Verb::StopDaemon => Command::StopDaemon,
        })
    }

    fn service_spec(
        &self,
        id: ServiceId,
        scheduler_flags: Vec<String>,
    ) -> Result<ServiceSpec, UsageError> {
        let persistent = self.set.has(Opt::Persistent);
        let prefix = self.prefix(&id)?;
        let one_packet = self.set.has(Opt::Ops);
        if let ServiceId::Address { protocol, address } = id {
            if address.port() == 0 && !persistent {
                return Err(UsageError::new("Zero port specified for non-persistent service"));
            }
            if one_packet && protocol != Protocol::Udp {
                return Err(UsageError::new(
                    "One-Packet Scheduling is only for UDP virtual services",
                ));
            }
        }
        if self.engine.is_some() && !persistent {
            // The kernel takes it and then never asks the engine.
            return Err(UsageError::new("The 'pe' option needs the 'persistent' option"));
        }
        let engine = self.engine.clone();
        let persistence =
            persistent.then_some(Persistence { timeout: self.persistence, prefix, engine });
        let scheduler = self.scheduler.clone().unwrap_or_else(|| "wlc".to_owned());
        Ok(ServiceSpec {
            id,
            scheduler,
            scheduler_flags,
            persistence,
            one_packet,
            take_up: self.set.has(Opt::TakeUp),
            local_addresses: self.local_addresses.clone(),
            client_address: self.client_address,
            mss: self.mss,
        })
    }

    /// The length of `-M`: a mask in dots for IPv4, a length for IPv6.
    fn prefix(&self, id: &ServiceId) -> Result<u8, UsageError> {
        let ipv6 = match id {
            ServiceId::Address { address, .. } => address.is_ipv6(),
            ServiceId::Fwmark { ipv6, .. } => *ipv6,
        };
        if !self.set.has(Opt::Netmask) {
            return Ok(if ipv6 { 128 } else { 32 });
        }
        if ipv6 {
            let length = parse_number(&self.netmask, 1, 128);
            return length
                .map(|l| l as u8)
                .ok_or_else(|| UsageError::new("illegal ipv6 netmask specified"));
        }
        let mask = self.netmask.parse::<Ipv4Addr>().map(Ipv4Addr::to_bits).ok();
        mask.filter(|m| m.leading_ones() + m.trailing_zeros() >= 32)
            .map(|m| m.leading_ones() as u8)
            .ok_or_else(|| UsageError::new("illegal virtual server persistent mask specified"))
    }

    fn server_spec(&self, id: ServiceId, server: SocketAddr) -> Result<ServerSpec, UsageError> {
        let ipv6 = match id {
            ServiceId::Address { address, .. } => address.is_ipv6(),
            ServiceId::Fwmark { ipv6, .. } => ipv6,
        };
        if ipv6 != server.is_ipv6() && matches!(self.method, Forwarding::Dr | Forwarding::Nat) {
            return Err(UsageError::new(
                "Different address family is allowed only for tunneling servers",
            ));
        }
        Ok(ServerSpec {
            address: self.with_service_port(server, id),
            method: self.method()?,
            weight: self.weight,
            upper_threshold: self.upper_threshold,
            lower_threshold: self.lower_threshold,
        })
    }

    /// A server that gets packets as they are has the service's port, whatever
    /// was typed.
    fn with_service_port(&self, server: SocketAddr, id: ServiceId) -> SocketAddr {
        match (self.method, id) {
            (Forwarding::Dr | Forwarding::Tun, ServiceId::Address { address, .. }) => {
                SocketAddr::new(server.ip(), address.port())
            }
            _ => with_port(server, id),
        }
    }

    fn method(&self) -> Result<Method, UsageError> {
        if self.method != Forwarding::Tun && self.set.has_any(&Set::TUNNEL) {
            return Err(UsageError::new("Tunnel options conflict with forward method"));
        }
        Ok(match self.method {
            Forwarding::Dr => Method::Dr,
            Forwarding::Nat => Method::Nat,
            Forwarding::Fullnat => Method::Fullnat,
            Forwarding::Tun => Method::Tun(self.tunnel()?),
        })
    }

    fn tunnel(&self) -> Result<Tunnel, UsageError> {
        let kind = self.tunnel_kind.unwrap_or(TunnelKind::Ipip);
        self.set.check_tunnel(kind)?;
        let checksum = if self.set.has(Opt::TunCsum) {
            TunnelChecksum::Full
        } else if self.set.has(Opt::TunRemcsum) {
            TunnelChecksum::Remote
        } else {
            TunnelChecksum::None
        };
        Ok(match kind {
            TunnelKind::Ipip => Tunnel::Ipip,
            TunnelKind::Gue => Tunnel::Gue { port: self.tunnel_port, checksum },
            TunnelKind::Gre => Tunnel::Gre { checksum },
        })
    }
}

/// Makes the command of a `-L` line. Where several views are asked for, ipvsadm
/// shows the first of this order.
fn list(line: &Line) -> Result<Command, UsageError> {
    let set = line.set;
    let counters = [Opt::Stats, Opt::Rate, Opt::Thresholds];
    let alone = set.has_any(&[Opt::Timeout, Opt::Daemon]);
    if (alone || set.has(Opt::Connection)) && set.has_any(&counters)
        || alone && set.has(Opt::PersistentConn)
    {
        return Err(UsageError::new("options conflicts in the list command"));
    }
    let view = if set.has(Opt::Stats) {
        View::Stats { exact: set.has(Opt::Exact) }
    } else if set.has(Opt::Rate) {
        View::Rate
    } else if set.has(Opt::Thresholds) {
        View::Thresholds
    } else if set.has(Opt::PersistentConn) {
        View::PersistentConn
    } else if set.has(Opt::TunInfo) {
        View::TunInfo
    } else {
        View::Default
    };
    let what = if set.has(Opt::Connection) {
        Listing::Connections { engines: set.has(Opt::PersistentConn) }
    } else if set.has(Opt::Timeout) {
        Listing::Timeouts
    } else if set.has(Opt::Daemon) {
        Listing::Daemon
    } else {
        let sorted = !set.has(Opt::NoSort);
        Listing::Services { service: line.service, view, sorted }
    };
    Ok(Command::List(List { what, numeric: set.has(Opt::Numeric) }))
}

/// Port 0 of a server stands for the service's; a mark has none.
fn with_port(server: SocketAddr, id: ServiceId) -> SocketAddr {
    match id {
        ServiceId::Address { address, .. } if server.port() == 0 => {
            SocketAddr::new(server.ip(), address.port())
        }
        _ => server,
    }
}

fn service_address(text: &str, protocol: Protocol, ports: &Ports) -> Result<ServiceId, UsageError> {
    parse_endpoint(text, Some(protocol), ports)
        .map(|address| ServiceId::Address { protocol, address })
        .ok_or_else(|| UsageError::new("illegal virtual server address[:port] specified"))
}

fn fwmark(text: &str) -> Result<ServiceId, UsageError> {
    parse_number(text, 1, u32::MAX)
        .map(|mark| ServiceId::Fwmark { mark, ipv6: false })
        .ok_or_else(|| UsageError::new(format!("invalid fwmark value `{text}' specified")))
}

fn timeout(text: &str, min: u32) -> Result<u32, UsageError> {
    parse_number(text, min, MAX_TIMEOUT)
        .ok_or_else(|| UsageError::new(format!("invalid timeout value `{text}' specified")))
}

/// The values of `--set`; 0 keeps the present one.
fn read_timeouts(words: Vec<String>) -> Result<Timeouts, UsageError> {
    let [tcp, tcp_fin, udp] = words.as_slice() else {
        return Err(UsageError::new("--set option requires 3 timeout values"));
    };
    Ok(Timeouts { tcp: timeout(tcp, 0)?, tcp_fin: timeout(tcp_fin, 0)?, udp: timeout(udp, 0)? })
}

fn tunnel_kind(text: &str) -> Result<TunnelKind, UsageError> {
    match text {
        "ipip" => Ok(TunnelKind::Ipip),
        "gue" => Ok(TunnelKind::Gue),
        "gre" => Ok(TunnelKind::Gre),
        _ => Err(UsageError::new("illegal tunnel type specified")),
    }
}

/// The addresses of `--local-address`, between commas.
fn local_addresses(text: &str) -> Result<Vec<IpAddr>, UsageError> {
    text.split(',')
        .map(|address| {
            let message = format!("illegal local address `{address}' specified");
            address.parse().map_err(|_| UsageError::new(message))
        })
        .collect()
}

fn client_address(text: &str) -> Result<ClientAddress, UsageError> {
    match text {
        "none" => Ok(ClientAddress::None),
        "toa" => Ok(ClientAddress::Toa),
        "proxy" => Ok(ClientAddress::Proxy),
        _ => Err(UsageError::new("illegal client-address specified; it is none, toa or proxy")),
    }
}

/// The value of `--mss`; 0 is none.
fn mss(text: &str) -> Result<Option<u16>, UsageError> {
    match parse_number(text, 0, MAX_MSS.into()).map(|mss| mss as u16) {
        Some(0) => Ok(None),
        Some(mss @ MIN_MSS..) => Ok(Some(mss)),
        _ => Err(UsageError::new(format!(
            "illegal mss specified; it is {MIN_MSS} to {MAX_MSS}, or 0 for none"
        ))),
    }
}

fn check_group(text: &str) -> Result<(), UsageError> {
    let (family, multicast) = if text.contains(':') {
        ("IPv6", text.parse::<Ipv6Addr>().is_ok_and(|a| a.is_multicast()))
    } else {
        ("IPv4", text.parse::<Ipv4Addr>().is_ok_and(|a| a.is_multicast()))
    };
    if !multicast {
        return Err(UsageError::new(format!("invalid {family} mcast-group `{text}'")));
    }
    Ok(())
}

/// The flags of a scheduler, in the order of their bits and by the scheduler's
/// own names where it has some.
fn scheduler_flags(text: &str, scheduler: &str) -> Result<Vec<String>, UsageError> {
    const NAMED: [[&str; 2]; 2] = [["sh-fallback", "sh-port"], ["mh-fallback", "mh-port"]];
    let named = NAMED.iter().find(|names| names[0].split('-').next() == Some(scheduler));
    let mut bits = [false; 3];
    for flag in text.split(',').filter(|_| !text.is_empty()) {
        let own = named.and_then(|names| names.iter().position(|n| *n == flag));
        let plain = ["flag-1", "flag-2", "flag-3"].iter().position(|n| *n == flag);
        let Some(bit) = own.or(plain) else {
            let known = NAMED.as_flattened().contains(&flag);
            let what = if known { "incompatible" } else { "invalid" };
            return Err(UsageError::new(format!("{what} scheduler flag `{flag}'")));
        };
        bits[bit] = true;
    }
    let name = |bit: usize| match named.and_then(|names| names.get(bit)) {
        Some(name) => (*name).to_owned(),
        None => format!("flag-{}", bit + 1),
    };
    Ok((0..3).filter(|bit| bits[*bit]).map(name).collect())
}

#[cfg(test)]
#[path = "grammar_tests.rs"]
mod tests;
