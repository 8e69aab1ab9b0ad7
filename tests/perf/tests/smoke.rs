//! A run with a few packets a row: every row is there, and none failed. What
//! the figures are does not matter here.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

fn run(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_perf")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn all_rows_are_there() {
    let file = std::env::temp_dir().join(format!("rvs-perf-smoke-{}.json", std::process::id()));
    let path = file.to_str().unwrap();
    let (fine, printed) = run(&["--smoke", "--json", path]);
    assert!(fine, "{printed}");
    let text = std::fs::read_to_string(&file).unwrap();
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: BTreeSet<_> = rows
        .iter()
        .map(|row| format!("{} {}", row["part"], row["method"]).replace('"', ""))
        .collect();
    for name in [
        "machine a random line of 64 KiB, read",
        "machine a random line of 6 MiB, written",
        "process none",
        "process DR",
        "process TUN",
        "process NAT to server",
        "process NAT to client",
        "process FULLNAT to server",
        "process FULLNAT to client",
        "connect DR",
        "connect NAT",
        "connect FULLNAT",
        "connect DR, flood into a full table",
        "table DR, burst while it grows, longest",
        "table DR",
        "table tuples that collide under CRC32C",
        "table tuples that collide under the ownership hash",
        "update 200 servers from a file",
        "daemon rvsd and dpdk-testpmd",
        "latency DR p99.9",
        "latency FULLNAT p50",
        "memory DR",
        "memory start and end of a director",
    ] {
        assert!(names.contains(name), "{name} is missing:\n{printed}");
    }
    // With one core they are there, too, as skipped.
    let workers = names
        .iter()
        .any(|name| name == "workers DR, 2 workers, handoff" || name == "workers 1 and 2 workers");
    let update = names
        .iter()
        .any(|name| name == "update rate lost" || name == "update updates while forwarding");
    let operators = names
        .iter()
        .any(|name| name == "operators rate lost" || name == "operators calls while forwarding");
    assert!(workers && update && operators, "{printed}");
    let measured = rows.iter().filter(|row| row["part"] == "process");
    for row in measured {
        for field in ["family", "protocol", "flows", "burst", "workers", "harness", "rounds"] {
            assert!(!row[field].is_null(), "{field} of {row}");
        }
        for field in ["ns_per_packet", "baseline_ns", "net_ns", "cpu_share"] {
            assert!(row[field].is_f64(), "{field} of {row}");
        }
    }

    let (fine, printed) =
        run(&["--smoke", "--part", "process", "--flows", "100", "--compare", path]);
    assert!(fine && printed.contains(" before "), "{printed}");
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn wrong_arguments_say_what_is_right() {
    let (fine, printed) = run(&["--part", "prozess"]);
    assert!(!fine && printed.contains("process") && printed.contains("memory"), "{printed}");
    let (fine, printed) = run(&["--smoke", "--compare", "/nowhere/x.json"]);
    assert!(!fine && printed.contains("/nowhere/x.json"), "{printed}");
    let (fine, printed) = run(&["--smoke", "--core", "1000"]);
    assert!(!fine && printed.contains("may use"), "{printed}");
}
