//! Part *update*: forwarding at full speed while the configuration of many
//! services is replaced a hundred times a second, through the control socket of
//! a daemon in this process.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use control::api::Request;
use control::config::Config;
use control::daemon::begin;
use control::daemon::saved::Saved;

use crate::bed::flows::random_order;
use crate::bed::setup::{change, port};
use crate::bed::{Bed, Family, Method, Protocol, SERVERS, Setup, VIPS};
use crate::beside::{Stretch, Turns, connected, lost, while_forwarding};
use crate::directory::Directory;
use crate::measure::thread_time;
use crate::report::{Report, Row};
use crate::scale::Scale;
use crate::stats::{median, percentile};

const PART: &str = "update";
/// Servers of a service.
const SERVERS_EACH: u32 = 10;
const FLOWS: usize = 64_000;
/// Changes a second.
const RATE: u32 = 100;

pub(crate) fn run(scale: &Scale, cores: &[usize], report: &mut Report) -> Result<(), String> {
    let setup = Setup {
        services: scale.services,
        servers: SERVERS_EACH,
        ..Setup::new(Method::Dr, Family::V4, Protocol::Tcp)
    };
    let size = format!("{} services of {SERVERS_EACH} servers", scale.services);
    report.doing(&format!("update: {size} from a file"));
    let directory = Directory::new("update")?;
    if let Err(error) = from_file(report, &setup, directory.path()) {
        report.failure(PART, "from a file", &error)?;
    }
    let &[first, .., last] = cores else {
        let reason =
            "needs two cores, one for the worker and one for control; this process may use one";
        return report.row(&Row::skipped(PART, "updates while forwarding", reason));
    };
    report.doing(&format!("update: {size}"));
    if let Err(error) = one_change(scale, report, &setup) {
        report.failure(PART, "a change", &error)?;
    }
    report.doing(&format!("update: {RATE} a second"));
    if let Err(error) = storm(scale, report, &setup, directory.path(), [first, last]) {
        report.failure(PART, "updates while forwarding", &error)?;
    }
    Ok(())
}

/// Time that the configuration needs to be read from a file and set up.
fn from_file(report: &mut Report, setup: &Setup, directory: &Path) -> Result<(), String> {
    let path = directory.join("rvsd.toml");
    std::fs::write(&path, file(setup)).map_err(|e| format!("{}: {e}", path.display()))?;
    let start = thread_time();
    let config = Config::from_file(&path, &BTreeSet::from([0])).map_err(|e| e.to_string())?;
    let mut registry = begin::registry(&config, &Saved::new(directory), vec![port()])?;
    let snapshot = registry.snapshot();
    let took = thread_time().saturating_sub(start).as_secs_f64();
    let wanted = setup.services * setup.servers;
    let servers = snapshot.servers.iter().count();
    if servers != wanted as usize {
        return Err(format!("the snapshot has {servers} servers"));
    }
    let what = format!("{servers} servers from a file");
    report.row(&Row::value(PART, what, took * 1e3, "ms (CPU time)"))
}

/// The configuration file of a setup.
fn file(setup: &Setup) -> String {
    let mut text = String::from(
        "[director]\ncores = [0]\n[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.1/24\"]\n",
    );
    for service in 0..setup.services {
        let vip = VIPS.address(setup.family, service);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "[[service]]\nprotocol = \"tcp\"\naddress = \"{vip}:80\"\nscheduler = \"rr\"\n"
        );
        for server in 0..setup.servers {
            let rip = SERVERS.address(setup.family, service * setup.servers + server);
            let _ = write!(text, "[[service.server]]\naddress = \"{rip}\"\nmethod = \"dr\"\n");
        }
    }
    text
}

/// CPU time of control for a change and the snapshot with it.
fn one_change(scale: &Scale, report: &mut Report, setup: &Setup) -> Result<(), String> {
    let mut registry = setup.registry()?;
    let mut running = registry.snapshot();
    let mut times = Vec::new();
    for weight in 1..=if scale.quick { 21 } else { 101 } {
        let request = edit(setup, weight);
        let start = thread_time();
        change(&mut registry, &request)?;
        // The one before is freed, as when the last worker returns it.
        drop(std::mem::replace(&mut running, registry.snapshot()));
        times.push(thread_time().saturating_sub(start).as_secs_f64() * 1e6);
    }
    let row = Row {
        rounds: Some(times.len() as u64),
        ..Row::value(PART, "a change and its snapshot", median(times), "us of control's CPU time")
    };
    report.row(&row)
}

/// A change of a server that no measured connection has.
fn edit(setup: &Setup, weight: u32) -> Request {
    let service = setup.services - 1;
    let server = setup.server(service, 0, 1 + weight % 100);
    Request::EditServer { service: setup.service_id(service), server }
}

fn storm(
    scale: &Scale,
    report: &mut Report,
    setup: &Setup,
    directory: &Path,
    cores: [usize; 2],
) -> Result<(), String> {
    // Connections to one half of the services, changes to the other.
    let mut registry = setup.registry()?;
    let mut bed = Bed::with_registry(*setup, &mut registry, FLOWS.min(scale.live))?;
    bed.flows = random_order(FLOWS.min(scale.live), (setup.services / 2).max(1));
    bed.open_all()?;
    let client = |socket: &Path, turns: &Turns| change_on_demand(setup, socket, turns);
    let (rounds, times) =
        while_forwarding(bed, registry, directory, cores, client, |forwarder, turns| {
            let mut rounds = Vec::new();
            for round in 0..scale.rounds {
                report.doing(&format!("update: round {} of {}", round + 1, scale.rounds));
                rounds.push(forwarder.both(turns, Duration::from_secs_f64(scale.seconds / 2.0))?);
            }
            Ok(rounds)
        })?;
    say(report, scale, &rounds, times)
}

fn say(
    report: &mut Report,
    scale: &Scale,
    rounds: &[(Stretch, Stretch)],
    mut times: Vec<f64>,
) -> Result<(), String> {
    let all = |row| Row {
        rounds: Some(rounds.len() as u64),
        flows: Some(FLOWS.min(scale.live) as u64),
        ..row
    };
    let (lost, share) = lost(rounds);
    let note =
        format!("{} changes in {:.1} s", times.len(), scale.seconds / 2.0 * rounds.len() as f64);
    let row = Row { cpu_share: Some(share), ..Row::value(PART, "rate lost", lost, "%") };
    report.row(&all(row).with_note(note))?;
    for (name, pick) in
        [("quiet", (|r| &r.0) as fn(&(Stretch, Stretch)) -> &Stretch), ("updated", |r| &r.1)]
    {
        let longest = |gap: fn(&Stretch) -> Duration| {
            median(rounds.iter().map(|round| gap(pick(round)).as_secs_f64() * 1e6))
        };
        let (cpu, wall) = (longest(|s| s.longest), longest(|s| s.longest_wall));
        let row = Row::value(PART, format!("longest gap, {name}"), cpu, "us of CPU time");
        report.row(&all(row).with_note(format!("{wall:.0} us with what else the core did")))?;
    }
    let mut taking: Vec<_> =
        rounds.iter().flat_map(|(_, stormy)| stormy.with_update.iter().copied()).collect();
    taking.sort_by(f64::total_cmp);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
        let name = format!("a burst that takes up an update, {name}");
        report.row(&Row::value(PART, name, percentile(&taking, share), "us of CPU time"))?;
    }
    times.sort_by(f64::total_cmp);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("longest", 1.0)] {
        let name = format!("from call to acknowledgement, {name}");
        report.row(&Row::value(PART, name, percentile(&times, share), "us"))?;
    }
    Ok(())
}

/// Sends changes while it is told to. What each took, us.
fn change_on_demand(setup: &Setup, socket: &Path, turns: &Turns) -> Result<Vec<f64>, String> {
    let mut client = connected(socket)?;
    let pause = Duration::from_secs(1) / RATE;
    let (mut times, mut next) = (Vec::new(), Instant::now());
    while !turns.ended() {
        if !turns.busy() {
            std::thread::sleep(Duration::from_millis(1));
            next = Instant::now();
            continue;
        }
        let start = Instant::now();
        client.change(&edit(setup, times.len() as u32)).map_err(|e| e.to_string())?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        next += pause;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(times)
}
