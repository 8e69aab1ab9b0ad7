//! The listings, byte for byte as ipvsadm 1.31 prints them: trailing blanks of
//! rows included.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::names::Names;
use super::order;
use crate::api::{
    ClientAddress, Connection, Method, Persistence, Protocol, Request, ServerSpec, ServerStatus,
    ServiceId, ServiceSpec, ServiceStatus, Stats, Timeouts, Tunnel, TunnelChecksum,
};

/// What a listing of services shows of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Method, weight and connections.
    Default,
    /// The same, and the encapsulation (`--tun-info`).
    TunInfo,
    /// Counters (`--stats`).
    Stats {
        /// All digits (`--exact`).
        exact: bool,
    },
    /// Counters per second (`--rate`).
    Rate,
    /// Thresholds of servers (`--thresholds`).
    Thresholds,
    /// Persistence templates of servers (`--persistent-conn`).
    PersistentConn,
}

impl View {
    fn title(self) -> &'static str {
        match self {
            Self::Default => {
                "Prot LocalAddress:Port Scheduler Flags\n  \
                 -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n"
            }
            Self::TunInfo => {
                "Prot LocalAddress:Port Scheduler Flags\n  -> RemoteAddress:Port           \
                 Forward TunnelInfo    Weight ActiveConn InActConn\n"
            }
            Self::Stats { .. } => {
                "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n  \
                 -> RemoteAddress:Port\n"
            }
            Self::Rate => {
                "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n  \
                 -> RemoteAddress:Port\n"
            }
            Self::Thresholds => {
                "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n  \
                 -> RemoteAddress:Port\n"
            }
            Self::PersistentConn => {
                "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n  \
                 -> RemoteAddress:Port\n"
            }
        }
    }
}

/// Puts services, and the servers of each, in ipvsadm's order.
pub fn sort(services: &mut [ServiceStatus]) {
    order::sort(services);
}

/// The line above the listing of all services.
#[must_use]
pub fn version_line(table_size: u64) -> String {
    format!("IP Virtual Server version 1.2.1 (size={table_size})\n")
}

/// A listing of services, in their order.
#[must_use]
pub fn services(services: &[ServiceStatus], view: View, names: &mut Names) -> String {
    let mut text = view.title().to_owned();
    for service in services {
        service_row(&mut text, service, view, names);
        let protocol = protocol_of(&service.spec.id);
        for server in &service.servers {
            server_row(&mut text, server, protocol, view, names);
        }
    }
    text
}

fn service_row(text: &mut String, service: &ServiceStatus, view: View, names: &mut Names) {
    let (protocol, address) = service_name(&service.spec.id, names);
    match view {
        View::Stats { .. } | View::Rate => {
            line(text, format_args!("{protocol:<4} {address:<28}"));
            counters(text, &service.stats, view);
        }
        _ => {
            let flags = service_flags(&service.spec);
            line(text, format_args!("{protocol:<4} {address} {flags}\n"));
        }
    }
}

fn server_row(
    text: &mut String,
    server: &ServerStatus,
    protocol: Option<Protocol>,
    view: View,
    names: &mut Names,
) {
    let ServerStatus { spec, active, inactive, persistent, .. } = server;
    let address = server_name(spec.address, protocol, names);
    let (method, weight) = (method_name(&spec.method), spec.weight);
    line(text, format_args!("  -> {address:<28}"));
    match view {
        View::Default => {
            line(text, format_args!(" {method:<7} {weight:<6} {active:<10} {inactive:<10}\n"));
        }
        View::TunInfo => {
            let tunnel = tunnel_info(&spec.method);
            line(
                text,
                format_args!(" {method:<7} {tunnel:<13} {weight:<6} {active:<10} {inactive:<10}\n"),
            );
        }
        View::Stats { .. } | View::Rate => counters(text, &server.stats, view),
        View::Thresholds => {
            let (upper, lower) = (spec.upper_threshold, spec.lower_threshold);
            line(text, format_args!(" {upper:<10} {lower:<10} {active:<10} {inactive:<10}\n"));
        }
        View::PersistentConn => {
            line(text, format_args!(" {weight:<9} {persistent:<11} {active:<10} {inactive:<10}\n"));
        }
    }
}

/// The five numbers that end a row of `--stats` or `--rate`.
fn counters(text: &mut String, stats: &Stats, view: View) {
    let numbers = match view {
        View::Rate => [
            stats.connection_rate,
            stats.in_packet_rate,
            stats.out_packet_rate,
            stats.in_byte_rate,
            stats.out_byte_rate,
        ],
        _ => [
            stats.connections,
            stats.in_packets,
            stats.out_packets,
            stats.in_bytes,
            stats.out_bytes,
        ],
    };
    for number in numbers {
        match view {
            View::Stats { exact: false } => text.push_str(&rounded(number)),
            _ => line(text, format_args!(" {number:>8}")),
        }
    }
    text.push('\n');
}

/// A number in nine columns, cut to thousands, millions and so on.
fn rounded(number: u64) -> String {
    match number {
        0..100_000_000 => format!("{number:>9}"),
        100_000_000..1_000_000_000 => format!("{:>8}K", number / 1_000),
        1_000_000_000..100_000_000_000 => format!("{:>8}M", number / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", number / 1_000_000_000),
        _ => format!("{:>8}T", number / 1_000_000_000_000),
    }
}

/// The line that `--timeout` prints.
#[must_use]
pub fn timeouts(timeouts: &Timeouts) -> String {
    let Timeouts { tcp, tcp_fin, udp } = timeouts;
    format!("Timeout (tcp tcpfin udp): {tcp} {tcp_fin} {udp}\n")
}

/// The title of a listing of connections.
#[must_use]
pub fn connections_title(with_engines: bool) -> &'static str {
    if with_engines {
        "IPVS connection entries\npro expire state       source             virtual            \
         destination        pe name          pe_data\n"
    } else {
        "IPVS connection entries\npro expire state       source             virtual            \
         destination\n"
    }
}

/// One connection.
#[must_use]
pub fn connection(connection: &Connection, names: &mut Names) -> String {
    let protocol = Some(connection.protocol);
    let seconds = connection.expires_ms / 1000;
    let expires = format!("{:02}:{:02}", seconds / 60, seconds % 60);
    let name = protocol_name(connection.protocol);
    let state = &connection.state;
    let client = names.endpoint(connection.client, protocol);
    let vip = names.endpoint(connection.virtual_address, protocol);
    let server = names.endpoint(connection.server, protocol);
    format!("{name:<3} {expires:<6} {state:<11} {client:<18} {vip:<18} {server}\n")
}

/// The commands that make these services anew (`-S`). Thresholds are not among
/// what ipvsadm saves.
#[must_use]
pub fn save(services: &[ServiceStatus], names: &mut Names) -> String {
    let mut text = String::new();
    for service in services {
        let id = &service.spec.id;
        let name = service_option(id, names);
        line(&mut text, format_args!("-A {name}{}\n", service_options(&service.spec)));
        for ServerStatus { spec, health, .. } in &service.servers {
            // The configuration file has those.
            if health.is_some_and(|health| health.sorry_server) {
                continue;
            }
            // A failing server has its weight again when it is restored.
            let weight = health.map_or(spec.weight, |health| health.configured_weight);
            let spec = &ServerSpec { weight, ..spec.clone() };
            let server = names.endpoint(spec.address, protocol_of(id));
            line(&mut text, format_args!("-a {name} -r {server}{}\n", server_options(spec)));
        }
    }
    text
}

/// The ipvsadm command that asks for the same as a request that changes
/// something, for logs; `None` for one that only reads.
#[must_use]
pub fn command(request: &Request) -> Option<String> {
    let names = &mut Names::numeric();
    Some(match request {
        Request::AddService { service } => {
            format!("-A {}{}", service_option(&service.id, names), service_options(service))
        }
        Request::EditService { service } => {
            format!("-E {}{}", service_option(&service.id, names), service_options(service))
        }
        Request::DeleteService { service } => format!("-D {}", service_option(service, names)),
        Request::Flush {} => "-C".into(),
        Request::AddServer { service, server } => server_command("-a", service, server, names),
        Request::EditServer { service, server } => server_command("-e", service, server, names),
        Request::DeleteServer { service, server } => {
            let server = names.endpoint(*server, protocol_of(service));
            format!("-d {} -r {server}", service_option(service, names))
        }
        Request::Zero { service: None } => "-Z".into(),
        Request::Zero { service: Some(service) } => {
            format!("-Z {}", service_option(service, names))
        }
        Request::SetTimeouts { timeouts: Timeouts { tcp, tcp_fin, udp } } => {
            format!("--set {tcp} {tcp_fin} {udp}")
        }
        Request::SetSetting { name, value } => format!("set {name} {value}"),
        Request::SetLog { filter } => format!("set log {filter}"),
        Request::Drain { server, port, service } => {
            drain_command("drain", *server, *port, *service)
        }
        Request::Undrain { server, port, service } => {
            drain_command("undrain", *server, *port, *service)
        }
        Request::Reload { dry_run: false, exact } => {
            format!("reload{}", if *exact { " --exact" } else { "" })
        }
        Request::Restore { dry_run: false, .. } => "restore".into(),
        Request::Reload { .. }
        | Request::Restore { .. }
        | Request::Save { .. }
        | Request::Config {}
        | Request::Origins { .. }
        | Request::Hello { .. }
        | Request::ListServices { .. }
        | Request::Timeouts {}
        | Request::Settings {}
        | Request::ListConnections { .. }
        | Request::Counters {}
        | Request::NextHops { .. }
        | Request::Neighbours { .. }
        | Request::Routes { .. }
        | Request::Health { .. }
        | Request::HealthChanges {}
        | Request::ObserveStart { .. }
        | Request::ObserveNext { .. }
        | Request::ObserveStop { .. }
        | Request::Explain { .. } => return None,
    })
}

fn server_command(
    command: &str,
    service: &ServiceId,
    server: &ServerSpec,
    names: &mut Names,
) -> String {
    let address = names.endpoint(server.address, protocol_of(service));
    let mut text = format!(
        "{command} {} -r {address}{}",
        service_option(service, names),
        server_options(server)
    );
    if server.upper_threshold != 0 {
        line(&mut text, format_args!(" -x {}", server.upper_threshold));
    }
    if server.lower_threshold != 0 {
        line(&mut text, format_args!(" -y {}", server.lower_threshold));
    }
    text
}

fn drain_command(
    command: &str,
    server: IpAddr,
    port: Option<u16>,
    service: Option<ServiceId>,
) -> String {
    let server = match port {
        Some(port) => SocketAddr::new(server, port).to_string(),
        None => server.to_string(),
    };
    match service {
        Some(service) => {
            format!("{command} {server} {}", service_option(&service, &mut Names::numeric()))
        }
        None => format!("{command} {server}"),
    }
}

fn service_option(id: &ServiceId, names: &mut Names) -> String {
    let (protocol, address) = match id {
        ServiceId::Address { protocol, address } => (*protocol, *address),
        ServiceId::Fwmark { mark, ipv6 } => {
            return format!("-f {mark}{}", if *ipv6 { " -6" } else { "" });
        }
    };
    let option = match protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
    };
    format!("{option} {}", names.endpoint(address, Some(protocol)))
}

fn service_options(spec: &ServiceSpec) -> String {
    let mut text = format!(" -s {}", spec.scheduler);
    if let Some(persistence) = &spec.persistence {
        line(&mut text, format_args!(" -p {}", persistence.timeout));
        if let Some(mask) = mask(persistence, &spec.id) {
            line(&mut text, format_args!(" -M {mask}"));
        }
        if let Some(engine) = &persistence.engine {
            line(&mut text, format_args!(" --pe {engine}"));
        }
    }
    if spec.one_packet {
        text.push_str(" -o");
    }
    if !spec.scheduler_flags.is_empty() {
        line(&mut text, format_args!(" -b {}", spec.scheduler_flags.join(",")));
    }
    if !spec.local_addresses.is_empty() {
        let locals: Vec<_> = spec.local_addresses.iter().map(ToString::to_string).collect();
        line(&mut text, format_args!(" --local-address {}", locals.join(",")));
    }
    match spec.client_address {
        ClientAddress::None => {}
        ClientAddress::Toa => text.push_str(" --client-address toa"),
        ClientAddress::Proxy => text.push_str(" --client-address proxy"),
    }
    if let Some(mss) = spec.mss {
        line(&mut text, format_args!(" --mss {mss}"));
    }
    if spec.take_up {
        text.push_str(" --take-up");
    }
    text
}

fn server_options(spec: &ServerSpec) -> String {
    let (option, tunnel) = match &spec.method {
        Method::Dr => ("-g", None),
        Method::Nat => ("-m", None),
        Method::Fullnat => ("-b", None),
        Method::Tun(tunnel) => ("-i", Some(tunnel)),
    };
    let tunnel = match tunnel {
        None => String::new(),
        Some(Tunnel::Ipip) => " --tun-type ipip".to_owned(),
        Some(Tunnel::Gue { port, checksum }) => {
            format!(" --tun-type gue --tun-port {port} {}", checksum_option(*checksum))
        }
        Some(Tunnel::Gre { checksum }) => {
            format!(" --tun-type gre {}", checksum_option(*checksum))
        }
    };
    format!(" {option} -w {}{tunnel}", spec.weight)
}

fn checksum_option(checksum: TunnelChecksum) -> &'static str {
    match checksum {
        TunnelChecksum::None => "--tun-nocsum",
        TunnelChecksum::Full => "--tun-csum",
        TunnelChecksum::Remote => "--tun-remcsum",
    }
}

/// Scheduler and flags as they follow a service's address.
fn service_flags(spec: &ServiceSpec) -> String {
    let mut text = spec.scheduler.clone();
    if !spec.scheduler_flags.is_empty() {
        line(&mut text, format_args!(" ({})", spec.scheduler_flags.join(",")));
    }
    if let Some(persistence) = &spec.persistence {
        line(&mut text, format_args!(" persistent {}", persistence.timeout));
        if let Some(mask) = mask(persistence, &spec.id) {
            line(&mut text, format_args!(" mask {mask}"));
        }
        if let Some(engine) = &persistence.engine {
            line(&mut text, format_args!(" pe {engine}"));
        }
    }
    if spec.one_packet {
        text.push_str(" ops");
    }
    text
}

/// The mask of the clients that share a template, unless it is one address: in
/// dots for IPv4, a length for IPv6.
fn mask(persistence: &Persistence, id: &ServiceId) -> Option<String> {
    let ipv6 = match id {
        ServiceId::Address { address, .. } => address.is_ipv6(),
        ServiceId::Fwmark { ipv6, .. } => *ipv6,
    };
    match (ipv6, persistence.prefix) {
        (true, 128..) | (false, 32..) => None,
        (true, prefix) => Some(prefix.to_string()),
        (false, prefix) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Some(Ipv4Addr::from_bits(mask).to_string())
        }
    }
}

fn service_name(id: &ServiceId, names: &mut Names) -> (&'static str, String) {
    match id {
        ServiceId::Address { protocol, address } => {
            (protocol_name(*protocol), names.endpoint(*address, Some(*protocol)))
        }
        ServiceId::Fwmark { mark, ipv6: false } => ("FWM", mark.to_string()),
        ServiceId::Fwmark { mark, ipv6: true } => ("FWM", format!("{mark} IPv6")),
    }
}

/// A server's address in a row. ipvsadm cuts names of IPv4 hosts to the width
/// of their column, but not those of IPv6.
fn server_name(address: SocketAddr, protocol: Option<Protocol>, names: &mut Names) -> String {
    let name = names.endpoint(address, protocol);
    match address.ip() {
        IpAddr::V4(_) => name.chars().take(28).collect(),
        IpAddr::V6(_) => name,
    }
}

fn protocol_of(id: &ServiceId) -> Option<Protocol> {
    match id {
        ServiceId::Address { protocol, .. } => Some(*protocol),
        ServiceId::Fwmark { .. } => None,
    }
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn method_name(method: &Method) -> &'static str {
    match method {
        Method::Dr => "Route",
        Method::Nat => "Masq",
        Method::Tun(_) => "Tunnel",
        Method::Fullnat => "FullNat",
    }
}

fn tunnel_info(method: &Method) -> String {
    let flags = |checksum| match checksum {
        TunnelChecksum::None => "-c",
        TunnelChecksum::Full => "+c",
        TunnelChecksum::Remote => "r+c",
    };
    match method {
        Method::Tun(Tunnel::Ipip) => "ipip".to_owned(),
        Method::Tun(Tunnel::Gue { port, checksum }) => format!("gue:{port}:{}", flags(*checksum)),
        Method::Tun(Tunnel::Gre { checksum }) => format!("gre:{}", flags(*checksum)),
        Method::Dr | Method::Nat | Method::Fullnat => "n/a".to_owned(),
    }
}

/// Appends to a string, which cannot fail.
fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(what);
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
