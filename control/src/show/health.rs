//! Health checks as people read them.

use std::net::IpAddr;
use std::time::Duration;

use super::service_name;
use super::table::row;
use crate::api::{HealthChange, HealthCheck};
use crate::health::duration;

/// A line for each service, and two or three for each of its servers. Checks
/// come in the order in which they began; here services stay together.
pub(super) fn checks(checks: &[HealthCheck]) -> String {
    let mut services: Vec<(_, Vec<&HealthCheck>)> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for check in checks {
        let place = *places.entry(check.service).or_insert_with(|| {
            services.push((check.service, Vec::new()));
            services.len() - 1
        });
        services[place].1.push(check);
    }
    if services.is_empty() {
        return "No server is checked.\n".to_owned();
    }
    let mut text = String::new();
    for (service, checks) in services {
        row(&mut text, format_args!("{}\n", service_name(&service)));
        checks.into_iter().for_each(|check| server(&mut text, check));
    }
    text
}

fn server(text: &mut String, check: &HealthCheck) {
    let HealthCheck { server, kind, probes, failures, in_a_row, .. } = check;
    let state = match (check.up, check.on_failure.as_str()) {
        (true, _) => "up",
        (false, "remove") => "DOWN, removed,",
        (false, _) => "DOWN, weight 0,",
    };
    let since = millis(check.since_ms);
    row(text, format_args!("  -> {server}\n       {state} for {since}; {kind}: "));
    let Some(last) = &check.last else {
        text.push_str("not probed yet\n");
        return;
    };
    let (ago, took) = (millis(last.ago_ms), last.took_us as f64 / 1000.0);
    row(text, format_args!("{probes} probes, {failures} failed\n"));
    match &last.failure {
        None => row(text, format_args!("       {ago} ago: good after {took:.1} ms\n")),
        Some(reason) => {
            row(text, format_args!("       {ago} ago: {reason} ({in_a_row} in a row)\n"));
        }
    }
}

/// A line or two for each change.
pub(super) fn changes(changes: &[HealthChange], withdrawn: &[IpAddr]) -> String {
    let mut text = String::new();
    for vip in withdrawn {
        row(&mut text, format_args!("vip {vip} is withdrawn\n"));
    }
    for change in changes {
        let (now, before) = if change.up { ("up", "down") } else { ("DOWN", "up") };
        let (ago, lasted) = (millis(change.ago_ms), millis(change.lasted_ms));
        let (service, server) = (service_name(&change.service), change.server);
        row(
            &mut text,
            format_args!("{ago} ago: {service}\n  -> {server} {now}, was {before} for {lasted}\n"),
        );
        if let Some(reason) = &change.failure {
            row(&mut text, format_args!("       {reason} ({} in a row)\n", change.in_a_row));
        }
    }
    if text.is_empty() {
        return "No server has changed.\n".to_owned();
    }
    text
}

fn millis(millis: u64) -> String {
    duration(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{HealthProbe, Protocol, ServiceId};

    fn check(service: &str, server: &str, up: bool, last: Option<HealthProbe>) -> HealthCheck {
        let address = service.parse().unwrap();
        HealthCheck {
            service: ServiceId::Address { protocol: Protocol::Tcp, address },
            server: server.parse().unwrap(),
            kind: "http".into(),
            up,
            since_ms: 7_620_000,
            on_failure: "remove".into(),
            in_a_row: 4,
            probes: 1524,
            failures: 4,
            last,
        }
    }

    #[test]
    fn servers_stand_under_their_service() {
        let good = || Some(HealthProbe { ago_ms: 850, took_us: 1_234, failure: None });
        let failure = Some("HTTP 503, expected 200-299".to_owned());
        let bad = Some(HealthProbe { ago_ms: 2_000, took_us: 99, failure });
        let rows = [
            check("192.168.1.100:80", "192.168.1.31:80", true, good()),
            check("[fd00:1::100]:80", "[fd00:1::31]:80", true, None),
            check("192.168.1.100:80", "192.168.1.32:80", false, bad),
        ];
        let expected = "\
TCP 192.168.1.100:80
  -> 192.168.1.31:80
       up for 2 h 7 min; http: 1524 probes, 4 failed
       850 ms ago: good after 1.2 ms
  -> 192.168.1.32:80
       DOWN, removed, for 2 h 7 min; http: 1524 probes, 4 failed
       2 s ago: HTTP 503, expected 200-299 (4 in a row)
TCP [fd00:1::100]:80
  -> [fd00:1::31]:80
       up for 2 h 7 min; http: not probed yet
";
        assert_eq!(checks(&rows), expected);
        assert_eq!(checks(&[]), "No server is checked.\n");
    }

    #[test]
    fn changes_say_why() {
        let address = "192.168.1.100:80".parse().unwrap();
        let change = |up, failure: Option<&str>| HealthChange {
            ago_ms: 61_000,
            service: ServiceId::Address { protocol: Protocol::Tcp, address },
            server: "192.168.1.31:80".parse().unwrap(),
            up,
            in_a_row: 3,
            lasted_ms: 5_000,
            failure: failure.map(str::to_owned),
        };
        let rows = [change(true, None), change(false, Some("Connection refused"))];
        let expected = "\
vip 192.168.1.100 is withdrawn
1 min 1 s ago: TCP 192.168.1.100:80
  -> 192.168.1.31:80 up, was down for 5 s
1 min 1 s ago: TCP 192.168.1.100:80
  -> 192.168.1.31:80 DOWN, was up for 5 s
       Connection refused (3 in a row)
";
        assert_eq!(changes(&rows, &["192.168.1.100".parse().unwrap()]), expected);
        assert_eq!(changes(&[], &[]), "No server has changed.\n");
    }
}
