//! Turns `[[service]]` and `[[service.server]]` into the API's types.

use std::net::{IpAddr, SocketAddr};

use dataplane::scheduler::Scheduler;

use super::read::{Item, Result, Table, quoted};
use super::sections::Unique;
use super::{Service, address};
use crate::api::{Method, Protocol, ServerSpec, ServiceId, ServiceSpec};

pub(super) const SERVICE: [&str; 5] =
    ["protocol", "address", "scheduler", "scheduler_flags", "server"];
pub(super) const SERVER: [&str; 5] =
    ["address", "method", "weight", "upper_threshold", "lower_threshold"];

pub(super) fn services(root: &Table<'_>, owned: &Unique<IpAddr>) -> Result<Vec<Service>> {
    let tables = root.sections("service", &SERVICE)?;
    let mut seen = Unique::default();
    let mut services = Vec::with_capacity(tables.len());
    for table in &tables {
        let (protocol, address) = identity(table, &mut seen)?;
        let scheduler = scheduler(table)?;
        let spec = ServiceSpec {
            id: ServiceId::Address { protocol, address },
            scheduler: scheduler.name().to_owned(),
            scheduler_flags: scheduler_flags(table, scheduler)?,
            persistence: None,
            one_packet: false,
            local_addresses: Vec::new(),
            client_address: crate::api::ClientAddress::None,
            mss: None,
        };
        services.push(Service { spec, servers: servers(table, address, owned)? });
    }
    Ok(services)
}

type Identity = (Protocol, SocketAddr);

fn identity(table: &Table<'_>, seen: &mut Unique<Identity>) -> Result<Identity> {
    let choices = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = table.required("protocol", "\"tcp\" or \"udp\"")?.choice(&choices)?;
    let give = "the virtual address and a port from 1 to 65535 such as \"192.168.1.100:80\" or \
                \"[fd00:1::100]:80\"";
    let item = table.required("address", give)?;
    let address = item.parsed(give, address::endpoint)?;
    let name = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let give = "put all its servers under one [[service]]";
    seen.insert(&item, (protocol, address), format_args!("{name} {address}"), give)?;
    Ok((protocol, address))
}

/// The scheduler; ipvsadm's default where there is none.
fn scheduler(table: &Table<'_>) -> Result<Scheduler> {
    let Some(item) = table.item("scheduler") else {
        return Ok(Scheduler::Wlc);
    };
    let give = Scheduler::ALL.map(|scheduler| quoted(scheduler.name())).join(", ");
    item.parsed(&format!("one of {give}"), |text| {
        Scheduler::from_name(text).ok_or_else(|| "is not a scheduler".to_owned())
    })
}

fn scheduler_flags(table: &Table<'_>, scheduler: Scheduler) -> Result<Vec<String>> {
    let name = scheduler.name();
    let give = match scheduler {
        Scheduler::Sh(_) | Scheduler::Mh(_) => format!("\"{name}-fallback\" or \"{name}-port\""),
        _ => format!("none, as {name} has no flags"),
    };
    let items = table.items("scheduler_flags", "a list of flags such as [\"sh-port\"]")?;
    let flag = |item: &Item<'_>| {
        item.parsed(&give, |text| match scheduler.with_flag(text) {
            // flag-1 and its like say nothing to a reader of the file.
            Some(_) if !text.starts_with("flag-") => Ok(text.to_owned()),
            _ => Err(format!("is not a flag of {name}")),
        })
    };
    items.iter().map(flag).collect()
}

fn servers(
    service: &Table<'_>,
    virtual_address: SocketAddr,
    owned: &Unique<IpAddr>,
) -> Result<Vec<ServerSpec>> {
    let tables = service.sections("server", &SERVER)?;
    let mut seen = Unique::default();
    let mut servers = Vec::with_capacity(tables.len());
    for table in &tables {
        let (item, address) = server_address(table, virtual_address, owned)?;
        seen.insert(&item, address, address, "give each server of a service once")?;
        let (upper_threshold, lower_threshold) = thresholds(table)?;
        servers.push(ServerSpec {
            address,
            method: method(table)?,
            weight: table.integer("weight", 1, 0..=65_535)?,
            upper_threshold,
            lower_threshold,
        });
    }
    Ok(servers)
}

fn server_address<'t>(
    table: &'t Table<'t>,
    service: SocketAddr,
    owned: &Unique<IpAddr>,
) -> Result<(Item<'t>, SocketAddr)> {
    let give = "the server's address such as \"192.168.1.31\" or \"fd00:1::31\"";
    let item = table.required("address", give)?;
    let (address, port) = item.parsed(give, address::address_and_port)?;
    if address.is_ipv4() != service.is_ipv4() {
        let family = if service.is_ipv4() { "IPv4" } else { "IPv6" };
        let message = format!("{address} is not {family} as its service; give an {family} address");
        return Err(item.error(message));
    }
    // Direct routing leaves the ports alone.
    if port.is_some_and(|port| port != service.port()) {
        let message =
            format!("has another port than its service; give none, or {}", service.port());
        return Err(item.error(message));
    }
    if address == service.ip() || owned.contains(&address) {
        return Err(item.error(format!("{address} is the director's own; give {give}")));
    }
    Ok((item, SocketAddr::new(address, service.port())))
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

fn method(table: &Table<'_>) -> Result<Method> {
    let Some(item) = table.item("method") else {
        return Ok(Method::Dr);
    };
    item.parsed("\"dr\"", |text| match text {
        "dr" => Ok(Method::Dr),
        _ => Err("is not a method of this version".to_owned()),
    })
}
