//! Filters of listings: what clients ask for, as workers understand it.

use std::net::SocketAddr;

use dataplane::conn::State;
use dataplane::packet;
use dataplane::update::{Filter, Servers, Side};

use crate::api::{
    self, Connection, ConnectionFilter, Error, ErrorCode, MethodName, Protocol, ServerSpec,
};
use crate::registry::Registry;

/// The numbers that states have.
const STATES: u8 = 23;

/// What a worker goes by.
pub(super) fn for_workers(filter: &ConnectionFilter, registry: &Registry) -> Filter {
    let side = |side: Option<api::Side>| {
        side.map_or_else(Side::default, |side| Side { network: side.network, port: side.port })
    };
    Filter {
        protocol: filter.protocol.map(|protocol| {
            (match protocol {
                Protocol::Tcp => packet::Protocol::Tcp,
                Protocol::Udp => packet::Protocol::Udp,
                Protocol::Sctp => packet::Protocol::Sctp,
            }) as u8
        }),
        client: side(filter.client),
        virtual_address: side(filter.virtual_address),
        states: (!filter.states.is_empty()).then(|| states(&filter.states)),
        servers: servers(filter, registry),
    }
}

fn states(names: &[String]) -> u32 {
    let meant = |state: &State| names.iter().any(|name| name == state.name());
    let all = (0..STATES).map(State::from_u8);
    all.filter(meant).fold(0, |bits, state| bits | Filter::bit_of(state))
}

/// Names of templates' states in listings.
const TEMPLATE_STATES: [&str; 2] = ["ASSURED", "NONE"];

/// Refuses what would find nothing whatever there is.
pub(super) fn check(filter: &ConnectionFilter) -> Result<(), Error> {
    let known = |name: &str| {
        TEMPLATE_STATES.contains(&name) || (0..STATES).any(|n| State::from_u8(n).name() == name)
    };
    match filter.states.iter().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => {
            let mut names: Vec<_> = (0..STATES).map(|n| State::from_u8(n).name()).collect();
            names.dedup();
            let names = names.join(", ");
            let message = format!("there is no state {name:?}; there are {names}, ASSURED");
            Err(Error::new(ErrorCode::InvalidArgument, message))
        }
    }
}

fn servers(filter: &ConnectionFilter, registry: &Registry) -> Option<Servers> {
    if filter.server.is_none() && filter.method.is_none() {
        return None;
    }
    let mut servers = Servers::new(filter.server.and_then(|side| side.port));
    for (number, address, spec) in registry.numbered_servers() {
        if !method_is(filter.method, spec) {
            continue;
        }
        match filter.server {
            Some(side) if address.port() == 0 => {
                if side.has_ip(address.ip()) {
                    servers.add_without_port(number);
                }
            }
            Some(side) if !side.has(address) => {}
            _ => servers.add(number),
        }
    }
    Some(servers)
}

fn method_is(method: Option<MethodName>, spec: &ServerSpec) -> bool {
    method.is_none_or(|method| method == MethodName::from(&spec.method))
}

/// The same for rows that no worker lists.
pub(super) fn passes(filter: &ConnectionFilter, row: &Connection) -> bool {
    let side = |side: Option<api::Side>, address: SocketAddr| side.is_none_or(|s| s.has(address));
    filter.protocol.is_none_or(|protocol| protocol == row.protocol)
        && side(filter.client, row.client)
        && side(filter.virtual_address, row.virtual_address)
        && side(filter.server, row.server)
        && (filter.states.is_empty() || filter.states.contains(&row.state))
        && filter.method.is_none_or(|method| Some(method) == row.method)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_both_protocols_go_by_one_name() {
        let bits = states(&["ESTABLISHED".into()]);
        assert_eq!(
            bits,
            Filter::bit_of(State::Established) | Filter::bit_of(State::SctpEstablished)
        );
        let filter =
            |name: &str| ConnectionFilter { states: vec![name.into()], ..Default::default() };
        assert!(check(&filter("TIME_WAIT")).is_ok() && check(&filter("ASSURED")).is_ok());
        let error = check(&filter("time_wait")).unwrap_err();
        assert!(error.message.contains("TIME_WAIT, CLOSE, CLOSE_WAIT"), "{error}");
        // The last number is a state's, and the next one is none's.
        assert_eq!(State::from_u8(STATES - 1), State::SctpClosed);
        assert_eq!(State::from_u8(STATES), State::Close);
    }
}
