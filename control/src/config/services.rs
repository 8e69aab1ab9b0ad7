//! Turns `[[service]]` and `[[service.server]]` into the API's types.

use std::net::{IpAddr, SocketAddr};

use dataplane::scheduler::Scheduler;

use super::read::{Item, Result, Table, quoted};
use super::sections::Unique;
use super::{Service, address};
use crate::api::{Method, Protocol, ServerSpec, ServiceId, ServiceSpec};

pub(super) const SERVICE: [&str; 4] = ["protocol", "address", "scheduler", "server"];
pub(super) const SERVER: [&str; 3] = ["address", "method", "weight"];

pub(super) fn services(root: &Table<'_>, owned: &Unique<IpAddr>) -> Result<Vec<Service>> {
    let tables = root.sections("service", &SERVICE)?;
    let mut seen = Unique::default();
    let mut services = Vec::with_capacity(tables.len());
    for table in &tables {
        let (protocol, address) = identity(table, &mut seen)?;
        let spec = ServiceSpec {
            id: ServiceId::Address { protocol, address },
            scheduler: scheduler(table)?,
            scheduler_flags: Vec::new(),
            persistence: None,
            one_packet: false,
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

fn scheduler(table: &Table<'_>) -> Result<String> {
    let give = Scheduler::ALL.map(|scheduler| quoted(scheduler.name())).join(" or ");
    table.required("scheduler", &give)?.parsed(&give, |text| {
        Scheduler::from_name(text)
            .map(|scheduler| scheduler.name().to_owned())
            .ok_or_else(|| "is not a scheduler of this version".to_owned())
    })
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
        servers.push(ServerSpec {
            address,
            method: method(table)?,
            weight: table.integer("weight", 1, 0..=65_535)?,
            upper_threshold: 0,
            lower_threshold: 0,
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

fn method(table: &Table<'_>) -> Result<Method> {
    let Some(item) = table.item("method") else {
        return Ok(Method::Dr);
    };
    item.parsed("\"dr\"", |text| match text {
        "dr" => Ok(Method::Dr),
        _ => Err("is not a method of this version".to_owned()),
    })
}
