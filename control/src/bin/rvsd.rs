//! `rvsd`, the director's daemon.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use control::commandline::DaemonArguments;
use control::config::{self, Config};
use control::daemon::saved::Saved;
use control::daemon::{Daemon, Lock, Network, NetworkPort, begin};
use control::doctor::{Host, devices};
use control::logging;
use control::machine::{Machine, OpenError};
use control::server::Access;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Exit code for a bad configuration file, or one that asks for what the machine
/// does not have: trying again does not help. Nothing was started.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let arguments = DaemonArguments::parse();
    let config = match read_config(&arguments) {
        Ok(config) => config,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(BAD_CONFIG);
        }
    };
    if arguments.check {
        let Config { director, ports, services, .. } = &config;
        let (file, cores) = (arguments.config.display(), director.cores.len());
        println!("{file}: ok: {cores} workers, {} ports, {} services", ports.len(), services.len());
        return ExitCode::SUCCESS;
    }
    logging::init();
    for remark in devices::remarks(&Host::this(), &config) {
        log::warn!("{}: {}; mend it with: {}", remark.what, remark.why, remark.mend);
    }
    match run(&config, &arguments.config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(OpenError { message, configuration }) => {
            log::error!("{message}");
            if configuration { ExitCode::from(BAD_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn read_config(arguments: &DaemonArguments) -> Result<Config, String> {
    let online = config::online_cores().map_err(|e| format!("online cores: {e}"))?;
    Config::from_file(&arguments.config, &online).map_err(|e| e.to_string())
}

/// Runs until a signal. Whether everything came down as it should.
fn run(config: &Config, file: &Path) -> Result<bool, OpenError> {
    // First: another rvsd of this box is also what has the NICs.
    let _lock = Lock::take(&config.director.run_dir)?;
    // DPDK would say less.
    if let Some(obstacle) = devices::obstacle(&Host::this(), config) {
        let (message, configuration) = (obstacle.to_string(), obstacle.configuration);
        return Err(OpenError { message, configuration });
    }
    let access = Access::new(config.control.group.as_deref(), config.control.anyone_may_look)?;
    Daemon::block_signals();
    raise_descriptor_limit();

    let machine = Machine::open(config)?;
    let ports = machine.network_ports();
    let run_dir = &config.director.run_dir;
    let mut network = Network::start(ports.to_vec(), &begin::addresses(config), run_dir)?;
    network.announce_by(machine.sender());
    let ports = ports.iter().map(NetworkPort::to_port).collect();
    let saved = match &config.director.state_dir {
        Some(state_dir) => Saved::lasting(state_dir)?,
        None => Saved::new(run_dir),
    };
    let registry = begin::registry(config, &saved, ports)?;
    if !registry.local_addresses().is_empty() {
        check_local_ports(config.local_ports);
    }
    let (running, links, instruments) = machine.launch(config)?;
    let socket = &config.control.socket;
    let ended = Daemon::new(socket, access, registry, links, saved, Some(network), instruments)
        .and_then(|mut daemon| {
            let online = config::online_cores().map_err(|e| format!("online cores: {e}"))?;
            daemon.follow_file(file, online, config.clone());
            daemon.check_health(config.health());
            config.metrics.map(|metrics| daemon.serve_metrics(metrics)).transpose()?;
            daemon.run().map_err(|e| format!("event loop: {e}"))
        });
    if let Ok(signal) = &ended {
        log::info!("{signal}: stopping");
    }
    let fine = running.stop();
    Ok(ended.map(|_| fine)?)
}

/// Warns of ports that both FULLNAT and the kernel give to connections: replies
/// to the director's own would be taken for FULLNAT's on a local address.
fn check_local_ports((first, last): (u16, u16)) {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let Ok(range) = std::fs::read_to_string(path) else { return };
    let mut range = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(from)), Some(Ok(to))) = (range.next(), range.next()) else { return };
    if first <= to && from <= last {
        log::warn!(
            "fullnat.ports {first}-{last} and the kernel's own {from}-{to} (net.ipv4.ip_local_port_range) have ports in common: change one of them"
        );
    }
}

/// Each client of the control socket takes a descriptor.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
