//! Part *operators*: forwarding at full speed while operators look and change:
//! calls as `rvsadm` makes them, each over a connection of its own, and listings
//! of all connections.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use control::api::{self, ConnectionCursor, Reply, Response};
use control::frame;
use control::ipvsadm::{self, Streams};
use serde_json::{Value, json};

use crate::bed::flows::random_order;
use crate::bed::{Bed, Family, Method, Protocol, Setup};
use crate::beside::{Stretch, Turns, connected, lost, while_forwarding};
use crate::directory::Directory;
use crate::report::{Report, Row};
use crate::scale::Scale;
use crate::stats::percentile;

const PART: &str = "operators";
const SERVICES: u32 = 100;
const SERVERS_EACH: u32 = 10;
/// Rounds of the loss, for one of other parts.
const ROUNDS: usize = 6;

/// What the client did, in us.
#[derive(Debug, Default)]
struct Times {
    /// From call to exit of each call.
    calls: Vec<f64>,
    /// From asking for a page of connections to the first byte of the answer.
    pages: Vec<f64>,
    /// Of each whole listing.
    listings: Vec<f64>,
    /// Connections in the last one.
    rows: usize,
}

pub(crate) fn run(scale: &Scale, cores: &[usize], report: &mut Report) -> Result<(), String> {
    let &[first, .., last] = cores else {
        let reason =
            "needs two cores, one for the worker and one for control; this process may use one";
        return report.row(&Row::skipped(PART, "calls while forwarding", reason));
    };
    report.doing(&format!("operators: {} connections", scale.live));
    let outcome = measure(scale, report, [first, last]);
    outcome.or_else(|error| report.failure(PART, "calls while forwarding", &error))
}

fn measure(scale: &Scale, report: &mut Report, cores: [usize; 2]) -> Result<(), String> {
    let setup = Setup {
        services: SERVICES,
        servers: SERVERS_EACH,
        ..Setup::new(Method::Dr, Family::V4, Protocol::Tcp)
    };
    let directory = Directory::new("operators")?;
    let mut registry = setup.registry()?;
    let mut bed = Bed::with_registry(setup, &mut registry, scale.live)?;
    // Connections to one half of the services, changes to the other.
    bed.flows = random_order(scale.live, SERVICES / 2);
    bed.open_all()?;
    let (calls, listings) = (scale.calls, scale.listings);
    let client = |socket: &Path, turns: &Turns| work(&setup, socket, turns, calls, listings);
    let (rounds, times) =
        while_forwarding(bed, registry, directory.path(), cores, client, |forwarder, turns| {
            let time = Duration::from_secs_f64(scale.seconds / 2.0);
            let mut rounds = Vec::new();
            while !turns.done() {
                if rounds.len() < ROUNDS * scale.rounds {
                    report.doing(&format!("operators: round {}", rounds.len() + 1));
                    rounds.push(forwarder.both(turns, time)?);
                } else {
                    // The loss is known by now; what is left need not wait.
                    report.doing("operators: the other listings");
                    forwarder.busy(turns, time)?;
                }
            }
            Ok(rounds)
        })?;
    say(report, scale, &rounds, times)
}

fn say(
    report: &mut Report,
    scale: &Scale,
    rounds: &[(Stretch, Stretch)],
    times: Times,
) -> Result<(), String> {
    if times.rows < scale.live {
        return Err(format!("a listing had {} of {} connections", times.rows, scale.live));
    }
    let all =
        |row| Row { rounds: Some(rounds.len() as u64), flows: Some(scale.live as u64), ..row };
    let (lost, share) = lost(rounds);
    let row = Row { cpu_share: Some(share), ..Row::value(PART, "rate lost", lost, "%") };
    let (calls, listings) = (times.calls.len(), times.listings.len());
    report.row(&all(row).with_note(format!("{calls} calls, {listings} listings")))?;
    for (what, mut times) in [
        ("a call", times.calls),
        ("a page of connections, to its first byte", times.pages),
        ("all connections, with the transfer", times.listings),
    ] {
        times.sort_by(f64::total_cmp);
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
            let row = Row::value(PART, format!("{what}, {name}"), percentile(&times, share), "us");
            report.row(&all(row))?;
        }
    }
    Ok(())
}

/// Calls and listings in turns, so that both are spread over the run.
fn work(
    setup: &Setup,
    socket: &Path,
    turns: &Turns,
    calls: usize,
    listings: usize,
) -> Result<Times, String> {
    drop(connected(socket)?);
    let mut times = Times::default();
    let wait = || {
        while !turns.busy() && !turns.ended() {
            std::thread::sleep(Duration::from_millis(1));
        }
        !turns.ended()
    };
    while times.calls.len() < calls || times.listings.len() < listings {
        let share = times.calls.len() * listings >= times.listings.len() * calls;
        if times.listings.len() < listings && (share || times.calls.len() == calls) {
            let start = Instant::now();
            times.rows = 0;
            let mut lister = Lister::new(socket)?;
            while wait() && lister.page(&mut times)? {}
            times.listings.push(start.elapsed().as_secs_f64() * 1e6);
        } else if wait() {
            let start = Instant::now();
            call(setup, socket, times.calls.len() as u32)?;
            times.calls.push(start.elapsed().as_secs_f64() * 1e6);
        }
        if turns.ended() {
            return Err("the worker stopped before the client".into());
        }
    }
    Ok(times)
}

/// A call as the program makes it, in turn one that lists all, one that lists a
/// service, one that changes a server and one that asks for timeouts.
fn call(setup: &Setup, socket: &Path, number: u32) -> Result<(), String> {
    let service = SERVICES / 2 + number % (SERVICES / 2);
    let api::ServiceId::Address { address, .. } = setup.service_id(service) else {
        return Err("a service without an address".into());
    };
    let line = match number % 4 {
        0 => "-Ln".to_owned(),
        1 => format!("-Ln --stats -t {address}"),
        2 => {
            let server = setup.server(service, 0, 1).address;
            format!("-e -t {address} -r {server} -g -w {}", 1 + number % 100)
        }
        _ => "-L --timeout".to_owned(),
    };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let streams = Streams { stdin: &mut &b""[..], stdout: &mut out, stderr: &mut errors };
    let words = line.split_whitespace().map(OsString::from);
    match ipvsadm::run(words, "rvsadm", socket, streams) {
        0 => Ok(()),
        code => Err(format!("{line}: exit code {code}: {}", String::from_utf8_lossy(&errors))),
    }
}

/// A listing of all connections under way.
struct Lister {
    stream: UnixStream,
    cursor: Option<ConnectionCursor>,
}

impl Lister {
    fn new(socket: &Path) -> Result<Self, String> {
        let stream = UnixStream::connect(socket).map_err(|e| e.to_string())?;
        let mut lister = Self { stream, cursor: None };
        lister.ask(&json!({ "op": "hello", "version": api::VERSION }))?;
        Ok(lister)
    }

    /// One more page. Whether there are others.
    fn page(&mut self, times: &mut Times) -> Result<bool, String> {
        let limit = api::MAX_ROWS;
        let request = json!({ "op": "list_connections", "cursor": self.cursor, "limit": limit });
        let (response, first_byte) = self.ask(&request)?;
        let Response::Connections { connections, next, .. } = response else {
            return Err("another answer than connections".into());
        };
        times.pages.push(first_byte.as_secs_f64() * 1e6);
        times.rows += connections.len();
        self.cursor = next;
        Ok(next.is_some())
    }

    /// An answer, and how long its first byte took.
    fn ask(&mut self, request: &Value) -> Result<(Response, Duration), String> {
        let failed = |error: std::io::Error| format!("the daemon: {error}");
        let bytes = frame::encode(request, api::MAX_REQUEST).map_err(|e| e.to_string())?;
        let start = Instant::now();
        self.stream.write_all(&bytes).map_err(failed)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(failed)?;
        let first_byte = start.elapsed();
        let mut json = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut json).map_err(failed)?;
        let reply: Reply = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
        Ok((reply.map_err(|error| error.to_string())?, first_byte))
    }
}
