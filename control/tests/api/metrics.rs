//! Metrics over HTTP, from a daemon that forwards.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control::api::Request;

use crate::Test;
use crate::bench::{
    Bench, MAX_ROWS, RS1, RS2, VIP, client_address, eventually, id, server, service,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("metrics count what is forwarded", counted),
    ("metrics leave out what exceeds the limit", bounded),
    ("slow scrapers keep neither scrapers nor changes waiting for ever", slow_clients),
    ("metrics are refused when asked for wrongly", refused),
];

/// Status line and headers, and the body, of a request in full.
fn exchange(at: SocketAddr, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

fn get(at: SocketAddr, path: &str) -> (String, String) {
    exchange(at, &format!("GET {path} HTTP/1.1\r\nHost: rvs\r\n\r\n"))
}

/// Values by name with labels.
fn scrape(at: SocketAddr) -> HashMap<String, f64> {
    let (head, body) = get(at, "/metrics");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(openmetrics_parser::openmetrics::parse_openmetrics(&body).is_ok(), "{body}");
    let samples = body.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| line.rsplit_once(' ').unwrap());
    samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// A page is shared for a second: tries until it says so.
fn comes_to(bench: &Bench, name: &str, value: f64) {
    eventually(&format!("{name} {value}"), || scrape(bench.metrics).get(name) == Some(&value));
}

fn counted() {
    let bench = Bench::with_guide(2);
    let before = scrape(bench.metrics);
    assert_eq!(before["rvs_services"], 1.0);
    assert_eq!(before["rvs_servers"], 2.0);
    // The service and its two servers, each in force in both workers.
    assert_eq!(before["rvs_update_duration_seconds_count"], 3.0);
    assert!(before["rvs_update_duration_seconds_sum"] > 0.0);
    assert_eq!(before["rvs_workers_behind"], 0.0);
    let service = format!("service=\"TCP {VIP}\"");
    for server in [RS1, RS2] {
        assert_eq!(before[&format!("rvs_server_weight{{{service},server=\"{server}\"}}")], 1.0);
        // This daemon has no network.
        assert_eq!(before[&format!("rvs_server_resolved{{{service},server=\"{server}\"}}")], 0.0);
    }
    bench.connect((0..4).map(client_address), VIP);
    comes_to(&bench, &format!("rvs_service_connections_total{{{service}}}"), 4.0);
    let after = scrape(bench.metrics);
    // 40 bytes of IP and TCP for each SYN and ACK.
    assert_eq!(after[&format!("rvs_service_packets_total{{{service},direction=\"in\"}}")], 8.0);
    assert_eq!(after[&format!("rvs_service_bytes_total{{{service},direction=\"in\"}}")], 320.0);
    let sum = |start: &str| -> f64 {
        after.iter().filter(|(name, _)| name.starts_with(start)).map(|(_, value)| value).sum()
    };
    assert_eq!(sum("rvs_server_connections_total"), 4.0);
    assert_eq!(sum("rvs_worker_connections{"), 4.0);
    assert_eq!(sum("rvs_worker_table_entries"), 4.0);
    let (got, went) = (sum("rvs_worker_in_packets_total"), sum("rvs_worker_out_packets_total"));
    assert_eq!(got, went + sum("rvs_worker_dropped_packets_total"));
    assert!(sum("rvs_worker_dropped_packets_total") >= 8.0, "no_route");
}

fn bounded() {
    let bench = Bench::start(1);
    let mut client = bench.client();
    let services = MAX_ROWS / 2 + 5;
    for n in 0..services {
        let vip = format!("10.0.{}.{}:80", n / 250, n % 250 + 1);
        client.change(&Request::AddService { service: service(&vip, "rr") }).unwrap();
        let server = server(RS1, 1);
        client.change(&Request::AddServer { service: id(&vip), server }).unwrap();
    }
    let values = scrape(bench.metrics);
    let shown = |start: &str| values.keys().filter(|name| name.starts_with(start)).count();
    assert_eq!(shown("rvs_service_connections_total{"), MAX_ROWS as usize / 2);
    assert_eq!(shown("rvs_server_weight{"), MAX_ROWS as usize / 2);
    assert_eq!(values["rvs_metrics_left_out{what=\"services\"}"], 5.0);
    assert_eq!(values["rvs_metrics_left_out{what=\"servers\"}"], 5.0);
    assert_eq!(values["rvs_services"], f64::from(services));
}

/// Clients that say nothing hold places for five seconds at most, and who asks
/// meanwhile waits for one; the control socket is not touched. If it were, 48
/// changes, each behind such clients, would take minutes.
fn slow_clients() {
    let bench = Bench::with_guide(1);
    let silent = || TcpStream::connect(bench.metrics).unwrap();
    let mut client = bench.client();
    let changed = AtomicBool::new(false);
    let mut silent = std::thread::scope(|scope| {
        // All places are taken, all the time.
        let crowd = scope.spawn(|| {
            let mut crowd: Vec<_> = (0..40).map(|_| silent()).collect();
            crowd[0].write_all(b"GET /metrics HTT").unwrap();
            while !changed.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                crowd.push(silent());
            }
            crowd
        });
        let start = Instant::now();
        for weight in 2..50 {
            let server = server(RS1, weight);
            client.change(&Request::EditServer { service: id(VIP), server }).unwrap();
        }
        let took = start.elapsed();
        changed.store(true, Ordering::Relaxed);
        assert!(took < Duration::from_secs(60), "changes waited for scrapers: {took:?}");
        crowd.join().unwrap()
    });
    silent.truncate(20);
    assert_eq!(scrape(bench.metrics)["rvs_services"], 1.0);
    // The first has been let go by now.
    silent[0].set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let end = silent[0].read_to_end(&mut Vec::new());
    let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
    assert!(end.as_ref().map_or_else(is_reset, |_| true), "{end:?}");
}

fn refused() {
    let bench = Bench::start(1);
    let (head, body) = get(bench.metrics, "/");
    assert!(head.starts_with("http/1.1 404 "), "{head}");
    assert_eq!(body, "metrics are at /metrics\n");
    let (head, _) =
        exchange(bench.metrics, "POST /metrics HTTP/1.1\r\nHost: rvs\r\nContent-Length: 0\r\n\r\n");
    assert!(head.starts_with("http/1.1 405 "), "{head}");
    assert!(head.contains("allow: get, head"), "{head}");
    let (head, body) = exchange(bench.metrics, "HEAD /metrics HTTP/1.1\r\nHost: rvs\r\n\r\n");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    assert_eq!(body, "");
    let long = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\n\r\n", "x".repeat(60_000));
    let mut stream = TcpStream::connect(bench.metrics).unwrap();
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    comes_to(&bench, "rvs_metrics_requests_total{result=\"refused\"}", 2.0);
}
