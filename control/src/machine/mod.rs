//! The machine under the daemon: EAL, ports, pools, taps, and the threads that
//! move packets. Brought up in [`Machine::open`] and [`Machine::launch`], taken
//! down in [`Running::stop`], in the opposite order.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::director::{Director, DirectorConfig};
use dataplane::dpdk::kernel_path::{ControlFrame, KernelCounters, KernelPath, TapPort};
use dataplane::dpdk::rings;
use dataplane::dpdk::worker::{Idle, Worker, WorkerPort};
use dataplane::dpdk::{
    Bond, BondMode, Eal, EalConfig, HEADROOM, HugePages, Launched, Member, MemberState, Pool, Port,
    PortConfig, PortError, PortInfo, PortProblem, Recovery, RssConfig, RssState, Tap,
    keep_from_programs,
};
use dataplane::icmp::IcmpLimits;
use dataplane::probes::Probes;
use dataplane::punt::PuntLimits;
use dataplane::shard::{DEFAULT_RETA, Shard};
use dataplane::time::Clock;
use dataplane::update::{ControlEnd, channel};
use nix::net::if_::if_nametoindex;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::api::{self, BondCounters, BondMember, KernelPathCounters, PortCounters, VlanPort};
use crate::config::{self, Bus, Config, Interface};
use crate::daemon::{Instruments, NetworkPort, mac_text};

/// mbufs that a thread keeps for itself, so that it seldom touches the pool.
const POOL_CACHE: u32 = 256;

/// Frames of the control thread's that wait for the kernel path.
const CONTROL_FRAMES: usize = 1024;

/// EAL and the ports, started, and their taps. No thread runs yet.
pub struct Machine {
    ports: Vec<OpenPort>,
    /// VLANs among them, by index.
    network_ports: Vec<NetworkPort>,
    /// By the same index.
    taps: Vec<Tap>,
    shard: Arc<Shard>,
    frames: (SyncSender<ControlFrame>, Receiver<ControlFrame>),
    eal: Eal,
}

struct OpenPort {
    name: String,
    device: String,
    bond: Option<config::BondMode>,
    /// Receive and transmit queues each, one for each worker.
    queues: u16,
    /// The kernel's interfaces of its devices that are taps.
    taps: Vec<String>,
    vlans: Vec<VlanPort>,
    // Before the pool, so that it is closed before the pool is counted.
    port: RefCell<Port>,
    pool: Pool,
}

/// The machine with its threads.
pub struct Running {
    ports: Rc<Vec<OpenPort>>,
    stop: Arc<AtomicBool>,
    workers: Vec<Launched>,
    kernel_path: JoinHandle<()>,
}

/// Why the machine did not start.
#[derive(Debug)]
pub struct OpenError {
    /// One line for the operator.
    pub message: String,
    /// Whether the configuration asks for what the device cannot do.
    pub configuration: bool,
}

impl From<String> for OpenError {
    fn from(message: String) -> Self {
        Self { message, configuration: false }
    }
}

impl From<PortError> for OpenError {
    fn from(error: PortError) -> Self {
        use PortProblem::{DataRoom, Mtu, TooManyQueues, UnequalQueues};
        let configuration = matches!(
            error.problem,
            TooManyQueues { .. } | UnequalQueues(_) | Mtu { .. } | DataRoom { .. }
        );
        Self { message: error.to_string(), configuration }
    }
}

impl Machine {
    /// Starts EAL, the ports and their taps.
    ///
    /// # Errors
    /// What is missing, and whose fault it is.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        keep_off_worker_cores(&config.director.cores);
        let devices: Vec<_> = config.ports.iter().flat_map(|port| names(port.devices())).collect();
        let eal = Eal::init(&EalConfig {
            program: "rvsd",
            memory_mb: config.eal.memory_mb,
            huge: match config.eal.huge_pages {
                config::HugePages::Auto => HugePages::Auto,
                config::HugePages::Never => HugePages::Never,
                config::HugePages::Require => HugePages::Require,
            },
            file_prefix: &config.eal.file_prefix,
            devices: &devices,
            workers: &config.director.cores,
            extra_args: &config.eal.extra_args,
        })
        .map_err(|e| e.to_string())?;
        if eal.allow_captures() {
            log::info!("dpdk-dumpcap and other tools of DPDK can attach");
        }
        let workers = config.director.cores.len();
        let pattern = Shard::full_rank(random_u16());
        let connections = config.director.connections;
        let shard = Shard::new(pattern, workers, DEFAULT_RETA)
            .with_hints(connections as usize, HashKey::random())
            .map_err(|error| {
                format!("hints about {connections} connections of each of {workers} workers: {error}; lower director.connections or add memory")
            })?;
        let shard = Arc::new(shard);
        let mut ports = Vec::new();
        for port in &config.ports {
            ports.push(OpenPort::open(&eal, config, port, &shard)?);
        }
        let mut taps = Vec::new();
        let mut network_ports = Vec::new();
        for Interface { name, device, vlan, mtu, .. } in config.interfaces() {
            let info = ports[usize::from(device)].port.borrow().info().clone();
            taps.push(Tap::create(name, info.mac, mtu).map_err(|e| e.to_string())?);
            let (name, mac, mtu) = (name.to_owned(), info.mac, mtu.min(info.mtu));
            network_ports.push(NetworkPort { name, mac, mtu, device, vlan });
        }
        let frames = sync_channel(CONTROL_FRAMES);
        Ok(Self { ports, network_ports, taps, shard, frames, eal })
    }

    /// The ports as routes lead to them, by index.
    #[must_use]
    pub fn network_ports(&self) -> &[NetworkPort] {
        &self.network_ports
    }

    /// What sends frames of the control thread's by a port, by its index. Those
    /// of before [`Machine::launch`] wait; what is too much is lost.
    #[must_use]
    pub fn sender(&self) -> Box<dyn Fn(u8, Vec<u8>)> {
        let frames = self.frames.0.clone();
        Box::new(move |port, bytes| drop(frames.try_send(ControlFrame { port, bytes })))
    }

    /// Starts the workers and the kernel path. Also the control thread's ends
    /// of the workers' queues, and what it can read off the machine.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn launch(
        self,
        config: &Config,
    ) -> Result<(Running, Vec<ControlEnd>, Instruments), String> {
        let Self { ports, network_ports, taps, shard, frames: (_, frames), eal } = self;
        let clock = Clock::start();
        let tsc_hz = eal.tsc_hz();
        let templates = Templates::new(config.director.templates as usize, HashKey::random())
            .map_err(|error| {
                let wanted = config.director.templates;
                format!("{wanted} persistence templates: {error}; lower director.templates or add memory")
            })?;
        let templates = Arc::new(templates);
        let (links, workers, kernel_rings) =
            make_workers(config, &ports, &network_ports, &shard, &templates, clock)?;
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(KernelCounters::default());
        let probes = Arc::<Probes>::default();
        let kernel_path = KernelPath {
            taps: taps
                .into_iter()
                .zip(&network_ports)
                .map(|(tap, &NetworkPort { device, vlan, mtu, .. })| {
                    TapPort::new(tap, ports[usize::from(device)].pool.clone(), vlan, mtu)
                })
                .collect(),
            rings: kernel_rings,
            control: frames,
            counters: Arc::clone(&counters),
            probes: Arc::clone(&probes),
        };
        let running = Running {
            workers: workers
                .into_iter()
                .enumerate()
                .map(|(index, worker)| launch_worker(index, worker, &eal, &stop))
                .collect::<Result<_, _>>()?,
            kernel_path: {
                let stop = Arc::clone(&stop);
                spawn("rvs-kernel".into(), move || kernel_path.run(&stop))?
            },
            ports: Rc::new(ports),
            stop,
        };
        // Health checks may run some.
        if let Err(error) = keep_from_programs() {
            log::warn!("programs that check servers inherit DPDK's files: {error}");
        }
        let ports = Rc::clone(&running.ports);
        let recovering = Rc::clone(&running.ports);
        let instruments = Instruments {
            cores: config.director.cores.clone(),
            ports: Box::new(move || ports.iter().map(OpenPort::counters).collect()),
            recover: Box::new(move || {
                recovering.iter().filter(|port| port.recover()).map(|p| p.name.clone()).collect()
            }),
            kernel_path: Box::new(move || read(&counters)),
            connections: config.director.connections,
            clock,
            shard,
            templates,
            tsc_hz,
            probes,
        };
        Ok((running, links, instruments))
    }
}

impl Running {
    /// Stops the threads and the ports, and says whether all went well and
    /// every mbuf came back.
    #[must_use]
    pub fn stop(self) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        let mut fine = true;
        for worker in self.workers {
            fine &= worker.join();
        }
        fine &= self.kernel_path.join().is_ok();
        // The control thread's instruments, the other holder, are gone by now.
        let Ok(ports) = Rc::try_unwrap(self.ports) else { return false };
        let mut pools = Vec::new();
        for OpenPort { name, port, pool, .. } in ports {
            if let Err(error) = port.into_inner().stop() {
                log::warn!("{error}");
                fine = false;
            }
            pools.push((name, pool));
        }
        // All ports are closed now: one's transmit queues may have held mbufs
        // that came in by another.
        let mut in_use = 0;
        for (name, pool) in pools {
            let missing = pool.missing();
            if missing > 0 {
                log::warn!("port {name}: {missing} mbufs did not come back");
            } else if pool.in_use() > 0 {
                log::info!("port {name}: its driver kept {} mbufs of its queues", pool.in_use());
            }
            in_use += missing;
        }
        log::info!("stopped; mbufs in use: {in_use}");
        fine && in_use == 0
    }
}

impl OpenPort {
    fn open(
        eal: &Eal,
        config: &Config,
        wanted: &config::Port,
        shard: &Shard,
    ) -> Result<Self, OpenError> {
        let pool = Pool::new(
            eal,
            &format!("mbufs-{}", wanted.name),
            config.eal.mbufs,
            POOL_CACHE,
            numa_node(wanted),
            data_room(wanted.mtu),
        )
        .map_err(|e| e.to_string())?;
        let queues = config.director.cores.len() as u16;
        let rss = RssConfig {
            key: shard.rss_key(),
            reta: shard.reta().iter().map(|&worker| u16::from(worker)).collect(),
        };
        let bond = wanted.bond.as_ref().map(|wanted_bond| bond(wanted_bond, numa_node(wanted)));
        let port_config = PortConfig {
            name: &wanted.name,
            bond: bond.as_ref(),
            rx_queues: queues,
            tx_queues: queues,
            rx_descriptors: wanted.rx_descriptors,
            tx_descriptors: wanted.tx_descriptors,
            mtu: wanted.mtu,
            tagged: !wanted.vlans.is_empty(),
            rss: (queues > 1).then_some(&rss),
        };
        let device = names(wanted.devices()).join(" ");
        let mut port = Port::open(&wanted.device.to_string(), &port_config, &pool)?;
        port.start()?;
        let PortInfo { driver, mac, .. } = port.info();
        let spread = match port.rss() {
            RssState::Programmed { .. } => "packets arrive on their owner's queue",
            RssState::Fixed => "packets are handed to their owner in software",
            RssState::None => "one queue",
        };
        log::info!(
            port = wanted.name, driver = driver.as_str();
            "port {}: {device}, driver {driver}, MAC {}, {spread}",
            wanted.name,
            mac_text(*mac)
        );
        let vlan =
            |vlan: &config::Vlan| VlanPort { name: vlan.name.clone(), id: vlan.id, mtu: vlan.mtu };
        let vlans = wanted.vlans.iter().map(vlan).collect();
        let taps = wanted.devices().iter().filter_map(tap_of).collect();
        let (name, port) = (wanted.name.clone(), RefCell::new(port));
        let bond = wanted.bond.as_ref().map(|bond| bond.mode);
        Ok(Self { name, device, bond, queues, taps, vlans, port, pool })
    }

    /// Does what the driver asks for. Whether the port works again after a reset.
    fn recover(&self) -> bool {
        let name = &self.name;
        let mut works = false;
        for recovery in self.port.borrow_mut().recover() {
            match recovery {
                Recovery::Reset => {
                    log::warn!(port = name; "port {name}: its driver asked for a reset; it was reset and goes on");
                    works = true;
                }
                Recovery::Failed(error) => log::error!(port = name; "{error}"),
                Recovery::Removed => log::error!(
                    port = name;
                    "port {name}: its device {} was removed; packets by it are dropped (tx_full), other ports go on; put it back, bind it to its driver (rvs-bind-nic) and restart rvsd",
                    self.device
                ),
                Recovery::MemberRemoved(member) => log::error!(
                    port = name;
                    "port {name}: member {member} was removed; the bond goes on with the others; put it back, bind it to its driver (rvs-bind-nic) and restart rvsd"
                ),
            }
        }
        works
    }

    fn counters(&self) -> PortCounters {
        let port = self.port.borrow();
        let stats = port.stats().unwrap_or_default();
        let bond = self.bond.map(|mode| BondCounters {
            mode: mode.name().to_owned(),
            members: port.members().into_iter().map(member).collect(),
        });
        PortCounters {
            name: self.name.clone(),
            device: self.device.clone(),
            mac: mac_text(port.info().mac),
            link_known: self.taps.iter().all(|tap| if_nametoindex(tap.as_str()).is_ok()),
            link_up: port.link().is_ok_and(|link| link.up),
            queues: self.queues,
            max_queues: port.info().max_queues,
            rx_packets: stats.rx_packets,
            rx_bytes: stats.rx_bytes,
            rx_missed: stats.rx_missed + stats.rx_no_mbuf,
            rx_errors: stats.rx_errors,
            tx_packets: stats.tx_packets,
            tx_bytes: stats.tx_bytes,
            tx_errors: stats.tx_errors,
            mbufs_in_use: self.pool.in_use(),
            mbufs: self.pool.size(),
            bond,
            vlans: self.vlans.clone(),
        }
    }
}

type Parts = (Vec<ControlEnd>, Vec<Worker>, rings::KernelRings);

fn make_workers(
    config: &Config,
    ports: &[OpenPort],
    network_ports: &[NetworkPort],
    shard: &Arc<Shard>,
    templates: &Arc<Templates>,
    clock: Clock,
) -> Result<Parts, String> {
    let hash_key = HashKey::random();
    let (worker_rings, kernel_rings) = rings::connect(config.director.cores.len());
    let mut links = Vec::new();
    let mut workers = Vec::new();
    let mut huge = true;
    for (index, rings) in worker_rings.into_iter().enumerate() {
        let (control_end, link) = channel();
        let director = DirectorConfig {
            worker: index,
            shard: Arc::clone(shard),
            connections: config.director.connections as usize,
            hash_key,
            punt_limits: PuntLimits {
                neighbour: config.punt.neighbour,
                routing: config.punt.routing,
                tcp: config.punt.tcp,
                other: config.punt.other,
            },
            icmp_limits: IcmpLimits::default(),
            templates: Arc::clone(templates),
            random: std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), index) as u32,
        };
        let director = Director::new(director, link).map_err(|error| {
            format!(
                "connection tables of {} connections: {error}; lower director.connections or add memory",
                config.director.connections
            )
        })?;
        huge &= director.uses_huge_pages();
        links.push(control_end);
        workers.push(Worker {
            director,
            ports: worker_ports(ports, index as u16)?,
            devices: network_ports.iter().map(|port| port.device).collect(),
            rings,
            idle: match config.director.poll {
                config::Poll::Busy => Idle::Busy,
                config::Poll::Adaptive => Idle::Adaptive,
            },
            clock,
        });
    }
    let pages = if huge { "huge" } else { "ordinary" };
    let connections = config.director.connections;
    log::info!("tables of {connections} connections a worker and family, in {pages} pages");
    Ok((links, workers, kernel_rings))
}

fn worker_ports(ports: &[OpenPort], queue: u16) -> Result<Vec<WorkerPort>, String> {
    let part = |open: &OpenPort| {
        let port = open.port.borrow();
        Ok(WorkerPort {
            rx: port.rx_queue(queue)?,
            tx: port.tx_queue(queue)?,
            pool: open.pool.clone(),
            trust_rss: matches!(port.rss(), RssState::Programmed { .. }),
        })
    };
    ports.iter().map(part).collect::<Result<_, PortError>>().map_err(|error| error.to_string())
}

fn launch_worker(
    index: usize,
    worker: Worker,
    eal: &Eal,
    stop: &Arc<AtomicBool>,
) -> Result<Launched, String> {
    let stop = Arc::clone(stop);
    let launched = eal.launch(index, &format!("rvs-worker-{index}"), move || worker.run(&stop));
    launched.map_err(|error| format!("worker {index}: {error}"))
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new().name(name).spawn(body).map_err(|e| format!("new thread: {e}"))
}

/// The control thread and the kernel path, which inherits this, leave the
/// workers' cores to the workers where there are others.
fn keep_off_worker_cores(workers: &[u32]) {
    let Ok(online) = config::online_cores() else { return };
    let workers: BTreeSet<_> = workers.iter().copied().collect();
    let mut others = CpuSet::new();
    let mut any = false;
    for &core in online.difference(&workers) {
        any |= others.set(core as usize).is_ok();
    }
    if any {
        // A restriction from outside may forbid it; then nothing is lost.
        let _ = sched_setaffinity(Pid::from_raw(0), &others);
    }
}

fn names(devices: &[config::Device]) -> Vec<String> {
    devices.iter().map(ToString::to_string).collect()
}

fn bond(bond: &config::Bond, numa_node: Option<u32>) -> Bond {
    let mode = match bond.mode {
        config::BondMode::ActiveBackup => BondMode::ActiveBackup,
        config::BondMode::BalanceXor => BondMode::BalanceXor,
        config::BondMode::Lacp => BondMode::Lacp,
    };
    Bond { mode, members: names(&bond.members), numa_node }
}

fn member(member: Member) -> BondMember {
    let state = match member.state {
        MemberState::Active => api::MemberState::Active,
        MemberState::Backup => api::MemberState::Backup,
        MemberState::Waiting => api::MemberState::Waiting,
        MemberState::Down => api::MemberState::Down,
        MemberState::Removed => api::MemberState::Removed,
    };
    BondMember { device: member.device, state }
}

/// The kernel's interface of a device that is a tap, by which its driver knows
/// the link.
fn tap_of(device: &config::Device) -> Option<String> {
    let arguments = device.arguments.as_deref().filter(|_| device.name.starts_with("net_tap"))?;
    let names = arguments.split(',').filter_map(|argument| argument.strip_prefix("iface="));
    names.map(str::to_owned).next_back()
}

/// The NUMA node of a port's NIC, or of the first member of a bond that has one,
/// so that its mbufs lie beside it.
fn numa_node(port: &config::Port) -> Option<u32> {
    let nics = port.devices().iter().filter(|device| device.bus == Bus::Pci);
    let node = |nic: &config::Device| {
        let path = format!("/sys/bus/pci/devices/{}/numa_node", nic.name);
        // -1, for a machine with one node, is no number here.
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    nics.map(node).find_map(|node| node)
}

/// Room for a frame of the MTU with its Ethernet header and VLAN tags. Beyond the
/// usual MTU in whole KiB, as many drivers round what they are given down to, so
/// that a frame lies in one buffer.
fn data_room(mtu: u16) -> u16 {
    let frame = (mtu + 64).next_multiple_of(1024);
    (HEADROOM + frame).max(Pool::DATA_ROOM)
}

fn read(counters: &KernelCounters) -> KernelPathCounters {
    let value = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    KernelPathCounters {
        to_kernel: value(&counters.to_kernel),
        to_kernel_failed: value(&counters.to_kernel_failed),
        from_kernel: value(&counters.from_kernel),
        from_kernel_dropped: value(&counters.from_kernel_dropped),
    }
}

fn random_u16() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0) as u16
}
