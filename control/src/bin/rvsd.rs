//! `rvsd`, the director's daemon.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::config::{self, Config};
use control::daemon::saved::Saved;
use control::daemon::{Daemon, Lock, Network, NetworkPort, begin};
use control::kernel::OwnedAddress;
use control::machine::Machine;
use control::server::Access;
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
    let network = Network::start(ports.to_vec(), &addresses(config), run_dir)?;
    let ports = ports.iter().map(NetworkPort::to_port).collect();
    let saved = Saved::new(run_dir);
    let registry = begin::registry(config, &saved, ports)?;
    if !registry.local_addresses().is_empty() {
        check_local_ports(config.local_ports);
    }
    let (running, links, instruments) = machine.launch(config)?;
    let socket = &config.control.socket;
    let ended = Daemon::new(socket, access, registry, links, saved, Some(network), instruments)
        .and_then(|mut daemon| {
            daemon.check_health(config.health());
            daemon.run().map_err(|e| format!("event loop: {e}"))
        });
    if let Ok(signal) = &ended {
        log::info!("{signal}: stopping");
    }
    let fine = running.stop();
    ended.map(|_| fine)
}

/// The addresses that rvsd puts up: the ports' on their taps, IPv4 VIPs on `lo`
/// as the LVS guides do. IPv6 VIPs go on every tap: Linux answers
/// neighbour solicitations only for addresses of the link that they come by.
fn addresses(config: &Config) -> BTreeSet<OwnedAddress> {
    let mut addresses = BTreeSet::new();
    let mut own = |link: &str, ip, prefix_len| {
        addresses.insert(OwnedAddress { link: link.into(), ip, prefix_len });
    };
    let interfaces = config.interfaces();
    for interface in &interfaces {
        for cidr in interface.addresses {
            own(interface.name, cidr.address, cidr.prefix);
        }
    }
    for &vip in &config.vip.addresses {
        match vip {
            IpAddr::V4(_) => own("lo", vip, 32),
            IpAddr::V6(_) => interfaces.iter().for_each(|tap| own(tap.name, vip, 128)),
        }
    }
    addresses
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
