use std::collections::{BTreeMap, BTreeSet, HashSet};

use dataplane::counters::Counters;
use openmetrics_parser::openmetrics::parse_openmetrics;
use openmetrics_parser::{MetricNumber, OpenMetricsValue};

use super::super::families::{FAMILIES, Family, Kind};
use super::super::{Latency, Updates};
use super::*;
use crate::api::{KernelPathCounters, Method, Protocol, ServerSpec, ServiceId, ServiceSpec};

fn id(number: u8) -> ServiceId {
    let address = ([10, 0, 0, number], 80).into();
    ServiceId::Address { protocol: Protocol::Tcp, address }
}

fn checkup(server: &str, up: bool) -> Checkup {
    Checkup { server: server.parse().unwrap(), up, good: 7, failed: 2 }
}

fn service(number: u8, servers: u8) -> ServiceStatus {
    let id = id(number);
    let server = |host| ServerStatus {
        spec: ServerSpec {
            address: ([10, 1, number, host], 8080).into(),
            method: Method::Nat,
            weight: 3,
            upper_threshold: 0,
            lower_threshold: 0,
        },
        active: 4,
        inactive: 5,
        persistent: 6,
        stats: stats(u64::from(host)),
        health: None,
    };
    ServiceStatus {
        spec: ServiceSpec::new(id, "rr"),
        stats: stats(9),
        servers: (1..=servers).map(server).collect(),
    }
}

fn stats(connections: u64) -> Stats {
    Stats {
        connections,
        in_packets: 20,
        out_packets: 30,
        in_bytes: 40,
        out_bytes: u64::from(u32::MAX),
        ..Stats::default()
    }
}

fn general() -> General {
    let mut counters = Counters { rx: 7, tx: 8, entries: [3, 1], ..Counters::default() };
    counters.busy_cycles = 5_000_000_000;
    counters.drop_many(DropReason::NoRoute, 2);
    let port = PortCounters {
        name: "lan".into(),
        device: "net_tap0".into(),
        mac: "00:50:00:00:04:00".into(),
        link_up: true,
        link_known: true,
        queues: 1,
        max_queues: 16,
        rx_packets: 1,
        rx_bytes: 2,
        rx_missed: 3,
        rx_errors: 4,
        tx_packets: 5,
        tx_bytes: 6,
        tx_errors: 7,
        mbufs_in_use: 8,
        mbufs: 100,
        bond: None,
        vlans: Vec::new(),
    };
    let mut latency = Latency::default();
    latency.observe(Duration::from_micros(300));
    General {
        workers: vec![(4, counters), (5, Counters::default())],
        ports: vec![port],
        kernel_path: KernelPathCounters::default(),
        sizes: (2, 3),
        table_capacity: 1024,
        template_places: 70,
        tsc_hz: 2_000_000_000,
        updates: Updates { latency, stalled: 1 },
        behind: 0,
        withdrawn: 4,
    }
}

fn page(max_rows: usize) -> String {
    let own = Own {
        uptime: Duration::from_millis(1500),
        started: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        max_rows,
        requests: Requests { served: 1, failed: 2, refused: 3 },
    };
    let services = Services {
        rows: vec![service(1, 2), service(2, 1)],
        unresolved: HashSet::from([([10, 1, 1, 2], 8080).into()]),
        checked: vec![
            (id(1), vec![checkup("10.1.1.1:8080", true), checkup("10.1.1.9:8080", false)]),
            (id(2), vec![checkup("10.1.2.1:8080", true)]),
        ],
        next: None,
    };
    write(&own, &general(), &services)
}

/// The values of a page, by name and labels, as a parser of the format reads
/// them.
fn parsed(page: &str) -> BTreeMap<String, f64> {
    let exposition = parse_openmetrics(page).unwrap();
    let number = |number: &MetricNumber| number.as_f64();
    let mut values = BTreeMap::new();
    for (name, family) in &exposition.families {
        let names = family.get_label_names();
        let known = FAMILIES.iter().find(|known| known.name == name).unwrap();
        for sample in family.iter_samples() {
            let set = sample.get_labelset().unwrap();
            let given: BTreeMap<_, _> =
                names.iter().map(String::as_str).zip(set.iter_values()).collect();
            assert_eq!(given.len(), known.labels.len(), "{name}");
            let pairs = known.labels.iter().map(|label| format!("{label}={}", given[label]));
            let pairs: Vec<_> = pairs.collect();
            let value = match &sample.value {
                OpenMetricsValue::Counter(counter) => number(&counter.value),
                OpenMetricsValue::Gauge(value) => number(value),
                OpenMetricsValue::Histogram(histogram) => histogram.count.unwrap() as f64,
                OpenMetricsValue::Info => 1.0,
                other => panic!("{name}: {other:?}"),
            };
            values.insert(format!("{name} {}", pairs.join(" ")), value);
        }
    }
    values
}

#[test]
fn a_parser_reads_what_was_counted() {
    let values = parsed(&page(100));
    for (name, value) in [
        ("rvs_build version=0.1.0", 1.0),
        ("rvs_start_time_seconds ", 1_700_000_000.0),
        ("rvs_uptime_seconds ", 1.5),
        ("rvs_services ", 2.0),
        ("rvs_servers ", 3.0),
        ("rvs_metrics_left_out what=servers", 0.0),
        ("rvs_metrics_requests result=failed", 2.0),
        ("rvs_service_servers service=TCP 10.0.0.1:80", 2.0),
        ("rvs_service_connections service=TCP 10.0.0.2:80", 9.0),
        ("rvs_service_packets service=TCP 10.0.0.2:80 direction=out", 30.0),
        ("rvs_service_bytes service=TCP 10.0.0.2:80 direction=in", 40.0),
        ("rvs_server_weight service=TCP 10.0.0.1:80 server=10.1.1.1:8080", 3.0),
        ("rvs_server_resolved service=TCP 10.0.0.1:80 server=10.1.1.1:8080", 1.0),
        ("rvs_server_resolved service=TCP 10.0.0.1:80 server=10.1.1.2:8080", 0.0),
        ("rvs_server_up service=TCP 10.0.0.1:80 server=10.1.1.1:8080", 1.0),
        ("rvs_server_up service=TCP 10.0.0.1:80 server=10.1.1.9:8080", 0.0),
        ("rvs_server_probes service=TCP 10.0.0.2:80 server=10.1.2.1:8080 result=good", 7.0),
        ("rvs_server_probes service=TCP 10.0.0.1:80 server=10.1.1.9:8080 result=failed", 2.0),
        ("rvs_vips_withdrawn ", 4.0),
        ("rvs_server_connections service=TCP 10.0.0.1:80 server=10.1.1.2:8080", 2.0),
        ("rvs_server_active_connections service=TCP 10.0.0.2:80 server=10.1.2.1:8080", 4.0),
        ("rvs_server_inactive_connections service=TCP 10.0.0.2:80 server=10.1.2.1:8080", 5.0),
        ("rvs_server_templates service=TCP 10.0.0.2:80 server=10.1.2.1:8080", 6.0),
        ("rvs_server_packets service=TCP 10.0.0.2:80 server=10.1.2.1:8080 direction=in", 20.0),
        (
            "rvs_server_bytes service=TCP 10.0.0.2:80 server=10.1.2.1:8080 direction=out",
            4_294_967_295.0,
        ),
        ("rvs_worker_core worker=1", 5.0),
        ("rvs_worker_in_packets worker=0 source=port", 7.0),
        ("rvs_worker_out_packets worker=0 to=port", 8.0),
        ("rvs_worker_dropped_packets worker=0 reason=no_route", 2.0),
        ("rvs_worker_table_entries worker=0 family=ipv6", 1.0),
        ("rvs_worker_table_capacity worker=1 family=ipv4", 1024.0),
        ("rvs_worker_busy_seconds worker=0", 2.5),
        ("rvs_worker_busy_cycles worker=0", 5e9),
        ("rvs_template_places ", 70.0),
        ("rvs_port_link_up port=lan", 1.0),
        ("rvs_port_errors port=lan direction=out", 7.0),
        ("rvs_port_missed_packets port=lan", 3.0),
        ("rvs_port_mbufs_free port=lan", 92.0),
        ("rvs_kernel_path_packets direction=to result=lost", 0.0),
        ("rvs_update_duration_seconds ", 1.0),
        ("rvs_updates_stalled ", 1.0),
    ] {
        assert_eq!(values.get(name), Some(&value), "{name} of {values:#?}");
    }
}

#[test]
fn every_family_is_on_the_page_once_and_in_order() {
    let page = page(100);
    let begun = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let begun: Vec<_> = begun.map(str::to_owned).collect();
    let known: BTreeSet<_> =
        FAMILIES.iter().map(|family| format!("{} {}", family.name, family.kind.name())).collect();
    assert_eq!(begun.iter().cloned().collect::<BTreeSet<_>>(), known);
    assert_eq!(begun.len(), known.len());
    assert!(page.ends_with("\n# EOF\n"));
}

#[test]
fn services_beyond_the_limit_are_left_out_and_counted() {
    // The first service with its two servers takes 3 rows, the second 2.
    for (max_rows, services, servers) in
        [(5, 0.0, 0.0), (4, 1.0, 1.0), (2, 2.0, 3.0), (0, 2.0, 3.0)]
    {
        let values = parsed(&page(max_rows));
        assert_eq!(values["rvs_metrics_left_out what=services"], services, "{max_rows}");
        assert_eq!(values["rvs_metrics_left_out what=servers"], servers, "{max_rows}");
        assert_eq!(values["rvs_servers "], 3.0);
        let shown = |start| values.keys().filter(|name| name.starts_with(start)).count() as f64;
        assert_eq!(shown("rvs_server_weight"), 3.0 - servers);
        assert_eq!(shown("rvs_server_up"), 3.0 - servers);
    }
}

/// A file of the documentation.
fn documentation(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The row of docs/metrics.md about a family.
fn row(family: &Family) -> String {
    let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(", ") };
    format!("| `{}` | {} | {labels} | {} |", family.full_name(), family.kind.name(), family.help)
}

#[test]
fn the_documentation_has_all_metrics_and_no_others() {
    let page = documentation("metrics.md");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `rvs_")).collect();
    let wanted: Vec<_> = FAMILIES.iter().map(row).collect();
    assert_eq!(rows, wanted, "docs/metrics.md should have:\n{}", wanted.join("\n"));
}

/// The names of metrics in a text: words that begin with `rvs_`.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("rvs_")).collect()
}

/// The names that queries may use.
fn queryable() -> BTreeSet<String> {
    let of = |family: &Family| {
        let name = family.full_name();
        match family.kind {
            Kind::Histogram => {
                ["_bucket", "_sum", "_count"].map(|suffix| name.clone() + suffix).to_vec()
            }
            _ => vec![name],
        }
    };
    FAMILIES.iter().flat_map(of).collect()
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let json = documentation("grafana/rvs.json");
    let dashboard: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut expressions = Vec::new();
    collect_expressions(&dashboard, &mut expressions);
    assert!(expressions.len() >= 15, "{expressions:?}");
    let known = queryable();
    let labels: BTreeSet<&str> = FAMILIES
        .iter()
        .flat_map(|family| family.labels)
        .copied()
        .chain(["le", "instance"])
        .collect();
    for expression in &expressions {
        let names = names(expression);
        assert!(!names.is_empty(), "{expression}");
        assert!(names.iter().all(|&name| known.contains(name)), "{expression}");
        for grouping in expression.split("by (").skip(1) {
            let by = grouping.split(')').next().unwrap().split(',').map(str::trim);
            by.for_each(|label| assert!(labels.contains(label), "{label} in {expression}"));
        }
    }
}

fn collect_expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if ["expr", "definition"].contains(&name.as_str()) => {
                        found.push(text.to_owned());
                    }
                    _ => collect_expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(items) => {
            items.iter().for_each(|item| collect_expressions(item, found));
        }
        _ => {}
    }
}

/// The queries that docs/metrics.md proposes.
#[test]
fn the_queries_of_the_documentation_ask_for_metrics_that_exist() {
    let page = documentation("metrics.md");
    let queries: Vec<_> = page.split("```promql\n").skip(1).collect();
    assert!(!queries.is_empty());
    let known = queryable();
    for query in queries {
        let query = query.split("```").next().unwrap();
        for name in names(query) {
            assert!(known.contains(name), "{name} in {query}");
        }
    }
}
