//! `perf`: performance runs of RVS that need no NIC. `scripts/perf` builds and
//! starts it; docs/performance.md says what the rows mean.

#![forbid(unsafe_code)]

mod bed;
mod beside;
mod connect;
mod cores;
mod daemon;
mod directory;
mod latency;
mod machine;
mod measure;
mod memory;
mod operators;
mod process;
mod report;
mod scale;
mod stats;
mod table;
mod update;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use bed::{Family, Method};
use report::Report;
use scale::Scale;

/// Measures RVS on one machine, without a NIC.
#[derive(Parser)]
#[command(name = "scripts/perf", version)]
struct Arguments {
    /// The figures that matter, in less than a minute.
    #[arg(long)]
    quick: bool,
    /// Only these parts (several: --part process,connect).
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// Flow counts of the part process, instead of its own (several: 1000,64000).
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    flows: Vec<u32>,
    /// Only these methods in the parts process and connect (several: dr,nat).
    #[arg(long, value_enum, value_delimiter = ',')]
    method: Vec<Method>,
    /// Only this family in the parts process and connect: 4 or 6.
    #[arg(long, value_parser = family)]
    family: Option<Family>,
    /// Real servers of a service, instead of 1,000.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    servers: Option<u32>,
    /// Writes the rows to this file, one JSON object a line.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Shows beside each row what it was in this file, which --json wrote.
    #[arg(long)]
    compare: Option<PathBuf>,
    /// The core that is measured on; the last one that may be used by default.
    #[arg(long)]
    core: Option<usize>,
    /// A few packets a row, for tests: the figures mean nothing.
    #[arg(long, hide = true)]
    smoke: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What a line of memory costs; also before the part process.
    Machine,
    /// Packets of open connections, by method, family, protocol and flows.
    Process,
    /// New TCP connections, and their end.
    Connect,
    /// One worker and two, and what a handoff costs.
    Workers,
    /// Forwarding while 10,000 services change 100 times a second.
    Update,
    /// Forwarding while rvsadm is called and lists all connections.
    Operators,
    /// rvsd next to dpdk-testpmd, over a virtual device (as root).
    Daemon,
    /// Time from arrival to departure at half the full rate.
    Latency,
    /// Bytes of a connection, time to start.
    Memory,
    /// Growth from one to ten million connections; tuples that collide.
    Table,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} rows could not be measured");
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the parts. How many rows could not be measured.
fn run(arguments: &Arguments) -> Result<usize, String> {
    let mut scale = match (arguments.smoke, arguments.quick) {
        (true, _) => Scale::smoke(),
        (_, true) => Scale::quick(),
        _ => Scale::full(),
    };
    if !arguments.flows.is_empty() {
        scale.flows = arguments.flows.iter().map(|&flows| flows as usize).collect();
    }
    if !arguments.method.is_empty() {
        scale.methods.clone_from(&arguments.method);
    }
    if let Some(family) = arguments.family {
        scale.families = vec![family];
    }
    scale.servers = arguments.servers.unwrap_or(scale.servers);
    let mut report = Report::new(arguments.json.as_deref(), arguments.compare.as_deref())?;
    let mut cores = measure::cores();
    let core = arguments.core.or(cores.last().copied()).unwrap_or(0);
    if !cores.contains(&core) {
        return Err(format!("--core {core}: this process may use {cores:?}"));
    }
    // The measured one last, as the parts that need another one take it.
    cores.retain(|&other| other != core);
    cores.push(core);
    measure::pin(core);
    report.say(&format!("{}, core {core} of {}", cpu_model(), cores.len()))?;
    report.say(&format!(
        "CPU time of a thread; medians of {} rounds; net: the harness's own cost taken off; {} servers\n",
        scale.rounds,
        scale.servers
    ))?;
    let wanted = |part| arguments.part.is_empty() || arguments.part.contains(&part);
    if wanted(Part::Machine) || wanted(Part::Process) {
        machine::run(&scale, &mut report)?;
    }
    if wanted(Part::Process) {
        process::harness(&scale, &mut report)?;
        process::run(&scale, &mut report)?;
    }
    if wanted(Part::Connect) {
        connect::run(&scale, &mut report)?;
    }
    if wanted(Part::Workers) {
        workers::run(&scale, &cores, &mut report)?;
    }
    if wanted(Part::Update) {
        update::run(&scale, &cores, &mut report)?;
        measure::pin(core);
    }
    if wanted(Part::Operators) {
        operators::run(&scale, &cores, &mut report)?;
        measure::pin(core);
    }
    if wanted(Part::Daemon) {
        daemon::run(&scale, &cores, &mut report)?;
    }
    if wanted(Part::Latency) {
        latency::run(&scale, &mut report)?;
    }
    if wanted(Part::Memory) {
        memory::run(&scale, &mut report)?;
    }
    if wanted(Part::Table) {
        table::run(&scale, &cores, &mut report)?;
    }
    Ok(report.failed)
}

fn family(name: &str) -> Result<Family, &'static str> {
    match name {
        "4" => Ok(Family::V4),
        "6" => Ok(Family::V6),
        _ => Err("4 or 6"),
    }
}

fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown CPU".into(), |(_, name)| name.trim().into())
}
