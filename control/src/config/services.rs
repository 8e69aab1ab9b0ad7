//! Turns `[[service]]` and `[[service.server]]` into the API's types.

use std::net::IpAddr;

use dataplane::scheduler::Scheduler;

use super::health::{self, HEALTH};
use super::read::{Item, Result, Table, quoted};
use super::sections::Unique;
use super::servers::Checks;
use super::{Service, Vip, address, servers};
use crate::api::{ClientAddress, Persistence, Protocol, ServerSpec, ServiceId, ServiceSpec};
use crate::health::plan::{Check, Plan};
use crate::registry::{MAX_MSS, MIN_MSS};

pub(super) const SERVICE: [&str; 17] = [
    "protocol",
    "address",
    "fwmark",
    "family",
    "scheduler",
    "scheduler_flags",
    "persistence",
    "persistence_prefix",
    "one_packet",
    "take_up",
    "local_addresses",
    "client_address",
    "mss",
    "withdraw_vip",
    "health",
    "sorry_server",
    "server",
];

pub(super) const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];

const LOCAL: &str = "an address of the director that servers can answer to such as \
                     \"192.168.1.22\" or \"fd00:1::22\"";

pub(super) fn services(
    root: &Table<'_>,
    owned: &Unique<IpAddr>,
    vip: &Vip,
) -> Result<Vec<Service>> {
    let tables = root.sections("service", &SERVICE)?;
    let mut seen = Unique::default();
    let mut services = Vec::with_capacity(tables.len());
    for table in &tables {
        let id = identity(table, &mut seen)?;
        let scheduler = scheduler(table)?;
        let spec = ServiceSpec {
            scheduler_flags: scheduler_flags(table, scheduler)?,
            persistence: persistence(table, &id)?,
            one_packet: one_packet(table, &id)?,
            take_up: take_up(table, &id, scheduler)?,
            local_addresses: local_addresses(table)?,
            client_address: client_address(table, &id)?,
            mss: mss(table, &id)?,
            ..ServiceSpec::new(id, scheduler.name())
        };
        let check = section_of(table, "health", &HEALTH)?;
        let (servers, checks) = servers::servers(table, &spec, owned, check.as_ref())?;
        let sorry_server = section_of(table, "sorry_server", &servers::SORRY_SERVER)?;
        let health = Plan {
            check: check
                .as_ref()
                .map(|table| default_check(table, &id, &servers, &checks))
                .transpose()?,
            servers: checks,
            sorry_server: sorry_server
                .map(|table| servers::sorry_server(&table, &spec, owned, &servers))
                .transpose()?,
            withdraw_vip: withdraw_vip(table, &id, vip)?,
        };
        services.push(Service { spec, servers, health });
    }
    Ok(services)
}

/// A section of a service that it need not have.
fn section_of<'t>(table: &'t Table<'t>, key: &str, allowed: &[&str]) -> Result<Option<Table<'t>>> {
    table.item(key).map(|_| table.section(key, allowed)).transpose()
}

fn default_check(
    table: &Table<'_>,
    id: &ServiceId,
    servers: &[ServerSpec],
    own: &Checks,
) -> Result<Check> {
    let check = health::of_service(table)?;
    let servers = servers.iter().filter(|server| !own.contains_key(&server.address));
    health::suits(table, &check, id, servers)?;
    Ok(check)
}

fn withdraw_vip(table: &Table<'_>, id: &ServiceId, vip: &Vip) -> Result<bool> {
    let withdraw = table.boolean("withdraw_vip", false)?;
    match id {
        ServiceId::Fwmark { .. } if withdraw => {
            let message = "is for services with an address; leave it out";
            Err(table.error("withdraw_vip", message))
        }
        ServiceId::Address { address, .. }
            if withdraw && !vip.addresses.contains(&address.ip()) =>
        {
            let ip = address.ip();
            let message =
                format!("rvsd takes down only what it put up; give {ip} in vip.addresses");
            Err(table.error("withdraw_vip", message))
        }
        _ => Ok(withdraw),
    }
}

fn identity(table: &Table<'_>, seen: &mut Unique<ServiceId>) -> Result<ServiceId> {
    if let Some(item) = table.item("fwmark") {
        return fwmark(table, &item, seen);
    }
    if let Some(item) = table.item("family") {
        return Err(item.error("is for fwmark services; others have the address's, leave it out"));
    }
    let protocol = table
        .required("protocol", "\"tcp\" or \"udp\" or \"sctp\", or fwmark")?
        .choice(&PROTOCOLS)?;
    let give = "the virtual address and a port from 1 to 65535 such as \"192.168.1.100:80\" or \
                \"[fd00:1::100]:80\"";
    let item = table.required("address", give)?;
    let persistent = table.item("persistence").is_some();
    let address = item.parsed(give, |text| address::endpoint(text, persistent))?;
    let id = ServiceId::Address { protocol, address };
    let give = "put all its servers under one [[service]]";
    let name = PROTOCOLS.iter().find(|(_, p)| *p == protocol).map_or("", |(name, _)| name);
    seen.insert(&item, id, format_args!("{name} {address}"), give)?;
    Ok(id)
}

fn fwmark(table: &Table<'_>, item: &Item<'_>, seen: &mut Unique<ServiceId>) -> Result<ServiceId> {
    for key in ["protocol", "address"] {
        if let Some(other) = table.item(key) {
            return Err(other.error("stands beside fwmark; give one or the other"));
        }
    }
    let mark = item.integer(1..=u32::MAX)?;
    let families = [("ipv4", false), ("ipv6", true)];
    let ipv6 = table.item("family").map_or(Ok(false), |item| item.choice(&families))?;
    let id = ServiceId::Fwmark { mark, ipv6 };
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    let give = "put all its servers under one [[service]]";
    seen.insert(item, id, format_args!("mark {mark} for {family}"), give)?;
    Ok(id)
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

fn persistence(table: &Table<'_>, id: &ServiceId) -> Result<Option<Persistence>> {
    let prefix = table.item("persistence_prefix");
    let Some(timeout) = table.item("persistence") else {
        return match prefix {
            Some(item) => Err(item.error("means nothing without persistence; give that, too")),
            None => Ok(None),
        };
    };
    let timeout = timeout.integer(1..=31 * 86_400)?;
    let (range, one) = if is_ipv6(id) { (1..=128, 128) } else { (0..=32, 32) };
    let prefix = prefix.map_or(Ok(one), |item| item.integer(range))?;
    Ok(Some(Persistence { timeout, prefix, engine: None }))
}

fn one_packet(table: &Table<'_>, id: &ServiceId) -> Result<bool> {
    let one_packet = table.boolean("one_packet", false)?;
    let tcp_or_sctp =
        matches!(id, ServiceId::Address { protocol: Protocol::Tcp | Protocol::Sctp, .. });
    if one_packet && tcp_or_sctp {
        return Err(table.error("one_packet", "is for UDP and fwmark services; leave it out"));
    }
    Ok(one_packet)
}

fn take_up(table: &Table<'_>, id: &ServiceId, scheduler: Scheduler) -> Result<bool> {
    let take_up = table.boolean("take_up", false)?;
    let not_tcp = matches!(id, ServiceId::Address { protocol: Protocol::Udp | Protocol::Sctp, .. });
    if take_up && not_tcp {
        return Err(table.error("take_up", "is for TCP and fwmark services; leave it out"));
    }
    if take_up && !matches!(scheduler, Scheduler::Mh(_)) {
        let message = "needs a scheduler by which every director finds the same server; \
                       give scheduler = \"mh\", or leave it out";
        return Err(table.error("take_up", message));
    }
    if take_up && table.item("persistence").is_some() {
        let message = "other directors know nothing of this one's persistence; leave one of the \
                       two out";
        return Err(table.error("take_up", message));
    }
    Ok(take_up)
}

fn local_addresses(table: &Table<'_>) -> Result<Vec<IpAddr>> {
    let items = table.items("local_addresses", "addresses such as [\"192.168.1.22\"]")?;
    let mut seen = Unique::default();
    let mut addresses = Vec::with_capacity(items.len());
    for item in &items {
        let address = item.parsed(LOCAL, address::address)?;
        seen.insert(item, address, address, "give each address once")?;
        addresses.push(address);
    }
    Ok(addresses)
}

fn client_address(table: &Table<'_>, id: &ServiceId) -> Result<ClientAddress> {
    let Some(item) = table.item("client_address") else {
        return Ok(ClientAddress::None);
    };
    let how = item.choice(&[
        ("none", ClientAddress::None),
        ("toa", ClientAddress::Toa),
        ("proxy", ClientAddress::Proxy),
    ])?;
    let tcp = matches!(id, ServiceId::Address { protocol: Protocol::Tcp, .. });
    if !how.is_none() && !tcp {
        return Err(item.error("is for TCP services; leave it out"));
    }
    Ok(how)
}

fn mss(table: &Table<'_>, id: &ServiceId) -> Result<Option<u16>> {
    let Some(item) = table.item("mss") else {
        return Ok(None);
    };
    let mss = item.integer(MIN_MSS..=MAX_MSS)?;
    if matches!(id, ServiceId::Address { protocol: Protocol::Udp | Protocol::Sctp, .. }) {
        return Err(item.error("is for TCP and fwmark services; leave it out"));
    }
    Ok(Some(mss))
}

fn is_ipv6(id: &ServiceId) -> bool {
    match id {
        ServiceId::Address { address, .. } => address.is_ipv6(),
        ServiceId::Fwmark { ipv6, .. } => *ipv6,
    }
}
