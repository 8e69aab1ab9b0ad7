//! `rvsd`, the director's daemon.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::api::Request;
use control::config::{self, Config};
use control::daemon::saved::{Loaded, Saved, Service, Services};
use control::daemon::{Daemon, Lock, Network};
use control::kernel::OwnedAddress;
use control::machine::Machine;
use control::registry::Registry;
use control::server::Access;
use dataplane::service::Hop;
use dataplane::snapshot::Port;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The layer-4 load balancer's daemon: forwards packets between DPDK ports.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Configuration file.
    #[arg(short, long, default_value = "/etc/rvs/rvsd.toml")]
    config: PathBuf,
    /// Check the configuration file and exit: 0 when it is good, 2 when not.
    #[arg(long)]
    check: bool,
}

/// Exit code for a bad configuration file; nothing was started.
const BAD_CONFIG: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match run(&config) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            log::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn read_config(arguments: &Arguments) -> Result<Config, String> {
    let online = config::online_cores().map_err(|e| format!("online cores: {e}"))?;
    Config::from_file(&arguments.config, &online).map_err(|e| e.to_string())
}

/// Runs until a signal. Whether everything came down as it should.
fn run(config: &Config) -> Result<bool, String> {
    let _lock = Lock::take(&config.director.run_dir)?;
    let access = Access::new(config.control.group.as_deref(), config.control.anyone_may_look)?;
    Daemon::block_signals();
    raise_descriptor_limit();

    let machine = Machine::open(config)?;
    let ports = machine.network_ports();
    let run_dir = &config.director.run_dir;
    let network = Network::start(ports.clone(), &addresses(config), run_dir)?;
    let ports = ports.into_iter().map(|port| Port::new(port.mac, port.mtu)).collect();
    let saved = Saved::new(run_dir);
    let registry = registry(config, &saved, ports)?;
    let (running, links, instruments) = machine.launch(config)?;
    let socket = &config.control.socket;
    let ended = Daemon::new(socket, access, registry, links, saved, Some(network), instruments)
        .and_then(|mut daemon| daemon.run().map_err(|e| format!("event loop: {e}")));
    if let Ok(signal) = &ended {
        log::info!("{signal}: stopping");
    }
    let fine = running.stop();
    ended.map(|_| fine)
}

/// The addresses that rvsd puts up: the ports' on their taps, IPv4 VIPs on `lo`
/// as the LVS guides do. IPv6 VIPs go on every port's tap: Linux answers
/// neighbour solicitations only for addresses of the link that they come by.
fn addresses(config: &Config) -> BTreeSet<OwnedAddress> {
    let mut addresses = BTreeSet::new();
    let mut own = |link: &str, ip, prefix_len| {
        addresses.insert(OwnedAddress { link: link.into(), ip, prefix_len });
    };
    for port in &config.ports {
        for cidr in &port.addresses {
            own(&port.name, cidr.address, cidr.prefix);
        }
    }
    for &vip in &config.vip.addresses {
        match vip {
            IpAddr::V4(_) => own("lo", vip, 32),
            IpAddr::V6(_) => config.ports.iter().for_each(|port| own(&port.name, vip, 128)),
        }
    }
    addresses
}

/// The services that the daemon begins with: those of a daemon that was killed,
/// otherwise the file's. The way to their servers is found when it starts.
fn registry(config: &Config, saved: &Saved, ports: Vec<Port>) -> Result<Registry, String> {
    if let Some(Loaded { services, changes }) = saved.load() {
        let path = saved.path().display();
        match fill(config, services, &changes, ports.clone()) {
            Ok(registry) => {
                log::warn!(
                    "the last rvsd did not stop cleanly: its services are taken up from {path}, those of the configuration file are not read; to begin with the file's, stop rvsd and start it again"
                );
                return Ok(registry);
            }
            // Of another release, perhaps: no reason not to start.
            Err(error) => log::warn!("{path}: {error}; its services are lost"),
        }
    }
    fill(config, from_file(config), &[], ports)
}

fn fill(
    config: &Config,
    begin: Services,
    changes: &[Request],
    ports: Vec<Port>,
) -> Result<Registry, String> {
    let workers = config.director.cores.len();
    let mut registry = Registry::new(workers, ports, begin.timeouts);
    for Service { spec, servers } in begin.services {
        let id = spec.id;
        registry.add_service(spec).map_err(|e| e.to_string())?;
        for server in servers {
            registry.add_server(&id, server, &|_| Hop::Unresolved).map_err(|e| e.to_string())?;
        }
    }
    for change in changes {
        let changed = registry.change(change, &|_| Hop::Unresolved);
        changed.unwrap_or(Ok(())).map_err(|e| e.to_string())?;
    }
    Ok(registry)
}

fn from_file(config: &Config) -> Services {
    let services = config
        .services
        .iter()
        .map(|service| Service { spec: service.spec.clone(), servers: service.servers.clone() });
    let settings = control::api::Settings::default();
    Services { timeouts: config.timeouts, settings, services: services.collect() }
}

/// Each client of the control socket takes a descriptor.
fn raise_descriptor_limit() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
}
