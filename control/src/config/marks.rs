//! Turns `[[fwmark]]` into the rules that give packets their marks.

use std::net::IpAddr;

use dataplane::service::MarkRule;

use super::read::{Result, Table, quoted};
use super::services::PROTOCOLS;
use super::{Port, address};
use crate::registry::protocol_of;

pub(super) const FWMARK: [&str; 6] = ["mark", "protocol", "source", "destination", "ports", "port"];

pub(super) fn rules(root: &Table<'_>, ports: &[Port]) -> Result<Vec<MarkRule>> {
    root.sections("fwmark", &FWMARK)?.iter().map(|table| rule(table, ports)).collect()
}

fn rule(table: &Table<'_>, ports: &[Port]) -> Result<MarkRule> {
    let mark =
        table.required("mark", "the mark of a fwmark service such as 1")?.integer(1..=u32::MAX)?;
    let protocol = table.item("protocol").map(|item| item.choice(&PROTOCOLS)).transpose()?;
    let (source, destination) = (prefix(table, "source")?, prefix(table, "destination")?);
    if let (Some((source, _)), Some((destination, _))) = (source, destination) {
        if source.is_ipv4() != destination.is_ipv4() {
            let message = "is of another family than source; give both of one family";
            return Err(table.error("destination", message));
        }
    }
    let give = "a port or a range such as \"80\" or \"8000-8999\"";
    let numbers = table.item("ports");
    let numbers = numbers.map(|item| item.parsed(give, address::ports)).transpose()?;
    let rule = MarkRule {
        mark,
        protocol: protocol.map(protocol_of),
        source,
        destination,
        ports: numbers,
        ingress: ingress(table, ports)?,
    };
    if (MarkRule { mark, ..MATCHES_ALL }) == rule {
        let give = "at least one of protocol, source, destination, ports and port";
        return Err(table.error("mark", format!("would be that of every packet; give {give}")));
    }
    Ok(rule)
}

const MATCHES_ALL: MarkRule = MarkRule {
    mark: 0,
    protocol: None,
    source: None,
    destination: None,
    ports: None,
    ingress: None,
};

fn prefix(table: &Table<'_>, key: &str) -> Result<Option<(IpAddr, u8)>> {
    let give = "a network or an address such as \"10.0.0.0/8\" or \"fd00:1::100\"";
    table.item(key).map(|item| item.parsed(give, address::network)).transpose()
}

/// The index of the port that packets come in by.
fn ingress(table: &Table<'_>, ports: &[Port]) -> Result<Option<u8>> {
    let names: Vec<_> = ports.iter().map(|port| quoted(&port.name)).collect();
    let give = format!("the name of a port: {}", names.join(" or "));
    let index = |text: &str| {
        let index = ports.iter().position(|port| port.name == text);
        index.map(|index| index as u8).ok_or_else(|| "is no [[port]]".to_owned())
    };
    table.item("port").map(|item| item.parsed(&give, index)).transpose()
}
