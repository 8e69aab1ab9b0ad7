//! Turns `[[service.server]]` into the API's type.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::address;
use super::health::{self, HEALTH};
use super::read::{Item, Result, Table};
use super::sections::Unique;
use crate::api::{Method, ServerSpec, ServiceId, ServiceSpec, Tunnel, TunnelChecksum};
use crate::health::plan::Check;

/// Servers with a check of their own, or with none.
pub(super) type Checks = HashMap<SocketAddr, Option<Check>>;

pub(super) const SERVER: [&str; 9] = [
    "address",
    "method",
    "tunnel",
    "tunnel_port",
    "tunnel_checksum",
    "weight",
    "upper_threshold",
    "lower_threshold",
    "health",
];

pub(super) const SORRY_SERVER: [&str; 5] =
    ["address", "method", "tunnel", "tunnel_port", "tunnel_checksum"];

const ADDRESS: &str = "the server's address such as \"192.168.1.31\" or \"fd00:1::31\"";

pub(super) fn servers(
    section: &Table<'_>,
    service: &ServiceSpec,
    owned: &Unique<IpAddr>,
    check: Option<&Table<'_>>,
) -> Result<(Vec<ServerSpec>, Checks)> {
    let tables = section.sections("server", &SERVER)?;
    let mut seen = Unique::default();
    let mut servers = Vec::with_capacity(tables.len());
    let mut checks = Checks::new();
    for table in &tables {
        let method = method(table)?;
        let (item, address) = server_address(table, service, &method, owned)?;
        seen.insert(&item, address, address, "give each server of a service once")?;
        let (upper_threshold, lower_threshold) = thresholds(table)?;
        servers.push(ServerSpec {
            address,
            method,
            weight: table.integer("weight", 1, 0..=65_535)?,
            upper_threshold,
            lower_threshold,
        });
        if table.item("health").is_some() {
            let own = table.section("health", &HEALTH)?;
            let check = health::of_server(&own, check)?;
            if let Some(check) = &check {
                health::suits(&own, check, &service.id, servers.last().into_iter())?;
            }
            checks.insert(address, check);
        }
    }
    Ok((servers, checks))
}

/// The server that takes connections while none of `servers` does.
pub(super) fn sorry_server(
    table: &Table<'_>,
    service: &ServiceSpec,
    owned: &Unique<IpAddr>,
    servers: &[ServerSpec],
) -> Result<ServerSpec> {
    let method = method(table)?;
    let (item, address) = server_address(table, service, &method, owned)?;
    if servers.iter().any(|server| server.address == address) {
        let message = format!("{address} is a server of the service already; give another one");
        return Err(item.error(message));
    }
    Ok(ServerSpec { address, method, weight: 1, upper_threshold: 0, lower_threshold: 0 })
}

/// The upper and the lower threshold.
fn thresholds(table: &Table<'_>) -> Result<(u32, u32)> {
    let upper = table.integer("upper_threshold", 0, 0..=u32::MAX)?;
    let lower = table.integer("lower_threshold", 0, 0..=u32::MAX)?;
    match table.item("lower_threshold") {
        Some(item) if lower > upper => Err(item.error(format!(
            "{lower} is greater than upper_threshold {upper}; give an integer from 0 to {upper}"
        ))),
        _ => Ok((upper, lower)),
    }
}

/// What is given as a method, before the keys of tunnels are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Dr,
    Nat,
    Tun,
    Fullnat,
}

fn method(table: &Table<'_>) -> Result<Method> {
    let names =
        [("dr", Name::Dr), ("nat", Name::Nat), ("tun", Name::Tun), ("fullnat", Name::Fullnat)];
    let name = table.item("method").map_or(Ok(Name::Dr), |item| item.choice(&names))?;
    if name == Name::Tun {
        return tunnel(table).map(Method::Tun);
    }
    for key in ["tunnel", "tunnel_port", "tunnel_checksum"] {
        if let Some(item) = table.item(key) {
            return Err(item.error("is for servers with method = \"tun\"; leave it out"));
        }
    }
    Ok(match name {
        Name::Nat => Method::Nat,
        Name::Fullnat => Method::Fullnat,
        Name::Dr | Name::Tun => Method::Dr,
    })
}

fn tunnel(table: &Table<'_>) -> Result<Tunnel> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Ipip,
        Gue,
        Gre,
    }
    let kinds = [("ipip", Kind::Ipip), ("gue", Kind::Gue), ("gre", Kind::Gre)];
    let kind = table.item("tunnel").map_or(Ok(Kind::Ipip), |item| item.choice(&kinds))?;
    if kind != Kind::Gue {
        if let Some(item) = table.item("tunnel_port") {
            return Err(item.error("is for servers with tunnel = \"gue\"; leave it out"));
        }
    }
    let (none, full) = (("none", TunnelChecksum::None), ("full", TunnelChecksum::Full));
    let checksum = |choices: &[(&str, TunnelChecksum)]| {
        let item = table.item("tunnel_checksum");
        item.map_or(Ok(TunnelChecksum::None), |item| item.choice(choices))
    };
    Ok(match kind {
        Kind::Ipip => {
            checksum(&[none])?;
            Tunnel::Ipip
        }
        Kind::Gre => Tunnel::Gre { checksum: checksum(&[none, full])? },
        Kind::Gue => Tunnel::Gue {
            port: table
                .required("tunnel_port", "the server's UDP port such as 6080")?
                .integer(1..=65_535)?,
            checksum: checksum(&[none, full, ("remote", TunnelChecksum::Remote)])?,
        },
    })
}

fn server_address<'t>(
    table: &'t Table<'t>,
    service: &ServiceSpec,
    method: &Method,
    owned: &Unique<IpAddr>,
) -> Result<(Item<'t>, SocketAddr)> {
    let item = table.required("address", ADDRESS)?;
    let (address, port) = item.parsed(ADDRESS, address::address_and_port)?;
    check_method(table, &item, address, service, method)?;
    let port = server_port(&item, port, service, method)?;
    let virtual_address = match service.id {
        ServiceId::Address { address, .. } => Some(address.ip()),
        ServiceId::Fwmark { .. } => None,
    };
    let local = service.local_addresses.contains(&address);
    if virtual_address == Some(address) || local || owned.contains(&address) {
        return Err(item.error(format!("{address} is the director's own; give {ADDRESS}")));
    }
    Ok((item, SocketAddr::new(address, port)))
}

fn check_method(
    table: &Table<'_>,
    item: &Item<'_>,
    address: IpAddr,
    service: &ServiceSpec,
    method: &Method,
) -> Result<()> {
    let family = |ipv4| if ipv4 { "IPv4" } else { "IPv6" };
    if service.take_up && matches!(method, Method::Nat | Method::Fullnat) {
        let message = "a service with take_up has servers that answer past the director; give \
                       \"dr\" or \"tun\"";
        return Err(table.error("method", message));
    }
    match method {
        Method::Dr | Method::Nat => {
            let ipv4 = match service.id {
                ServiceId::Address { address, .. } => address.is_ipv4(),
                ServiceId::Fwmark { ipv6, .. } => !ipv6,
            };
            if address.is_ipv4() == ipv4 {
                return Ok(());
            }
            let family = family(ipv4);
            Err(item.error(format!(
                "{address} is not {family} as its service; give an {family} address"
            )))
        }
        Method::Tun(_) => Ok(()),
        Method::Fullnat => {
            let mut locals = service.local_addresses.iter();
            if locals.any(|local| local.is_ipv4() == address.is_ipv4()) {
                return Ok(());
            }
            let family = family(address.is_ipv4());
            Err(table.error("method", format!(
                "\"fullnat\" needs an {family} address to come from; give the service one in local_addresses"
            )))
        }
    }
}

/// The port that the server is named by. One that would not be used is refused.
fn server_port(
    item: &Item<'_>,
    given: Option<u16>,
    service: &ServiceSpec,
    method: &Method,
) -> Result<u16> {
    let own = match service.id {
        ServiceId::Address { address, .. } => address.port(),
        ServiceId::Fwmark { .. } => 0,
    };
    let Some(given) = given else { return Ok(own) };
    let rewrites = matches!(method, Method::Nat | Method::Fullnat);
    let many = own == 0 && (service.persistence.is_some() || !rewrites);
    if many {
        return Err(item.error("has a port, but packets keep theirs; give none"));
    }
    if !rewrites && given != own {
        let message = format!("has another port than its service; give none, or {own}");
        return Err(item.error(message));
    }
    Ok(given)
}
