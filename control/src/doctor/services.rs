//! Services and servers as the director has them.

use std::collections::BTreeSet;

use super::{Finding, Host, network};
use crate::api::{NextHop, ServiceId, ServiceStatus};

pub(super) fn check(services: &[ServiceStatus], hops: &[NextHop]) -> Vec<Finding> {
    let host = Host::this();
    let mut findings: Vec<_> = services.iter().flat_map(of_service).collect();
    let mut seen = BTreeSet::new();
    for hop in hops {
        if seen.insert(hop.server.ip()) {
            findings.extend(of_hop(hop));
        }
    }
    let methods = services.iter().flat_map(|service| &service.servers);
    let mut tunnels = BTreeSet::new();
    for server in methods {
        let address = server.spec.address;
        let hop = hops.iter().find(|hop| hop.server == address);
        let Some(port) = hop.and_then(|hop| hop.port.as_deref()) else { continue };
        if tunnels.insert(address.ip()) {
            findings.extend(network::tunnel(
                &host,
                &address.ip().to_string(),
                &server.spec.method,
                port,
            ));
        }
    }
    findings
}

fn name(id: &ServiceId) -> String {
    match id {
        ServiceId::Address { protocol, address } => {
            format!("{protocol:?} {address}").to_uppercase()
        }
        ServiceId::Fwmark { mark, .. } => format!("FWM {mark}"),
    }
}

fn of_service(service: &ServiceStatus) -> Option<Finding> {
    let name = name(&service.spec.id);
    let servers = &service.servers;
    let found = |what: String| Finding::warning("services", what);
    let refused = "new connections are refused with ICMP (drop reason no_server)";
    if servers.is_empty() {
        return Some(
            found(format!("{name} has no server")).because(refused).mend("rvsadm -a ... -r SERVER"),
        );
    }
    if servers.iter().all(|server| server.spec.weight == 0) {
        return Some(
            found(format!("{name}: all {} servers have weight 0", servers.len()))
                .because(refused)
                .mend("rvsadm -e ... -r SERVER -w 1; if health checks took them out: rvsadm show health"),
        );
    }
    let full: Vec<_> = servers
        .iter()
        .filter(|server| {
            let connections = u64::from(server.active) + u64::from(server.inactive);
            let upper = server.spec.upper_threshold;
            upper > 0 && connections >= u64::from(upper)
        })
        .map(|server| server.spec.address.to_string())
        .collect();
    if full.is_empty() {
        return None;
    }
    let what = format!("{name}: at their upper threshold: {}", full.join(", "));
    let all = full.len() == servers.iter().filter(|server| server.spec.weight > 0).count();
    let why = if all { refused } else { "they get no new connections until some have ended" };
    Some(found(what).because(why).mend("rvsadm -e ... -r SERVER -x LARGER, or more servers"))
}

fn of_hop(hop: &NextHop) -> Option<Finding> {
    let server = hop.server.ip();
    let Some(port) = &hop.port else {
        return Some(
            Finding::error("servers", format!("{server}: no route through a port of RVS"))
                .because("its packets are dropped (no_route)")
                .mend(format!("ip route get {server}: it must name a port's tap; ip route add {server} ... dev PORT")),
        );
    };
    if hop.mac.is_some() {
        return None;
    }
    let neighbour = hop.neighbour.unwrap_or(server);
    Some(
        Finding::error("servers", format!("{server}: {neighbour} does not answer on {port}"))
            .because("its packets are dropped (no_next_hop)")
            .mend(format!(
                "is it up, and in this VLAN? ping {neighbour}; ip neighbour show dev {port}"
            )),
    )
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::lines;
    use super::*;
    use crate::api::{Method, Protocol, ServerSpec, ServerStatus, ServiceSpec};

    fn server(address: &str, weight: u32, threshold: u32, active: u32) -> ServerStatus {
        let spec = ServerSpec {
            address: address.parse().unwrap(),
            method: Method::Dr,
            weight,
            upper_threshold: threshold,
            lower_threshold: 0,
        };
        ServerStatus {
            spec,
            active,
            inactive: 1,
            persistent: 0,
            stats: Default::default(),
            health: None,
        }
    }

    fn said(servers: Vec<ServerStatus>) -> String {
        let address = "192.168.1.100:80".parse().unwrap();
        let id = ServiceId::Address { protocol: Protocol::Tcp, address };
        let spec = ServiceSpec::new(id, "rr");
        let status = ServiceStatus { spec, stats: Default::default(), servers };
        lines(&check(&[status], &[]))
    }

    #[test]
    fn services_that_nobody_serves_are_told() {
        let good = || server("10.0.0.1:80", 1, 0, 5);
        assert_eq!(said(vec![good()]), "");
        assert!(said(vec![]).starts_with("Warning services: TCP 192.168.1.100:80 has no server |"));
        let none = || server("10.0.0.2:80", 0, 0, 0);
        assert!(said(vec![none(), none()]).contains("all 2 servers have weight 0"));
        assert_eq!(said(vec![none(), good()]), "");
        let full = server("10.0.0.3:80", 1, 6, 5);
        assert!(said(vec![full, good()]).contains("at their upper threshold: 10.0.0.3:80 |"));
        assert_eq!(said(vec![server("10.0.0.3:80", 1, 7, 5)]), "");
    }

    #[test]
    fn servers_that_cannot_be_reached_are_named_once() {
        let hop = |server: &str, port: Option<&str>, mac: Option<&str>| NextHop {
            service: ServiceId::Fwmark { mark: 1, ipv6: false },
            server: server.parse().unwrap(),
            port: port.map(Into::into),
            neighbour: port.map(|_| "10.0.0.254".parse().unwrap()),
            mac: mac.map(Into::into),
        };
        let hops = [
            hop("10.0.0.1:80", None, None),
            hop("10.0.0.1:81", None, None),
            hop("10.0.0.2:80", Some("lan"), None),
            hop("10.0.0.3:80", Some("lan"), Some("00:50:00:00:01:00")),
        ];
        let said = lines(&check(&[], &hops));
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.contains("Error servers: 10.0.0.1: no route through a port of RVS"), "{said}");
        assert!(said.contains("10.0.0.2: 10.0.0.254 does not answer on lan"), "{said}");
    }
}
