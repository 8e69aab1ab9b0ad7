//! A daemon with workers, in threads of this process, and ways to talk to it.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use control::api::{
    self, Connection, ErrorCode, KernelPathCounters, Method, Protocol, Reply, Request, Response,
    ServerSpec, ServiceId, ServiceSpec, Timeouts, WorkerCounters,
};
use control::client::{Client, ClientError};
use control::config::Config;
use control::daemon::saved::Saved;
use control::daemon::{Daemon, Instruments, begin};
use control::frame;
use control::health::plan::Plan;
use control::ipvsadm::{self, Streams};
use control::metrics::MetricsConfig;
use control::registry::Registry;
use control::server::Access;
use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::counters::Counters;
use dataplane::director::{Director, DirectorConfig, Source, Verdict};
use dataplane::icmp::IcmpLimits;
use dataplane::packet::Frame;
use dataplane::punt::PuntLimits;
use dataplane::service::Hop;
use dataplane::shard::Shard;
use dataplane::snapshot::Port;
use dataplane::time::Clock;
use dataplane::update::{self, ControlEnd, WorkerEnd};
use etherparse::PacketBuilder;

const PORT_MAC: [u8; 6] = [0, 0x50, 0, 0, 4, 0];
const CLIENT_MAC: [u8; 6] = [0, 0x50, 0, 0, 3, 0];

/// Connections that each worker's tables hold.
pub(crate) const CONNECTIONS: u32 = 32_768;
/// Services and servers that have metrics.
pub(crate) const MAX_ROWS: u32 = 700;
pub(crate) const VIP: &str = "192.168.1.100:80";
pub(crate) const RS1: &str = "192.168.1.31:80";
pub(crate) const RS2: &str = "192.168.1.32:80";

/// A directory that is removed with all that is in it.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rvs-api-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running daemon. Its thread ends with the process, its workers' with this.
pub(crate) struct Bench {
    pub(crate) socket: PathBuf,
    pub(crate) workers: Vec<Worker>,
    /// Where metrics are served.
    pub(crate) metrics: SocketAddr,
    pub(crate) directory: Directory,
}

/// A handle on a worker's thread.
pub(crate) struct Worker {
    held: Arc<Held>,
    stop: Arc<AtomicBool>,
    frames: Sender<Vec<u8>>,
}

/// A worker that does nothing: it is stuck in one burst.
#[derive(Default)]
struct Held {
    /// Whether it is to be.
    wanted: AtomicBool,
    /// Whether it is.
    so: AtomicBool,
}

impl Worker {
    /// From here on it does nothing.
    pub(crate) fn hold(&self) {
        self.held.wanted.store(true, Ordering::Release);
        while !self.held.so.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    pub(crate) fn release(&self) {
        self.held.wanted.store(false, Ordering::Release);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Bench {
    pub(crate) fn start(workers: usize) -> Self {
        Self::with_access(workers, Access::default())
    }

    pub(crate) fn with_access(workers: usize, access: Access) -> Self {
        Self::launch(workers, Directory::new(), move |socket, links, clock| {
            daemon(socket, access, links, clock).unwrap()
        })
    }

    /// With a daemon that checks services.
    pub(crate) fn with_health(workers: usize, plans: HashMap<ServiceId, Plan>) -> Self {
        Self::launch(workers, Directory::new(), move |socket, links, clock| {
            let mut daemon = daemon(socket, Access::default(), links, clock).unwrap();
            daemon.check_health(plans);
            daemon
        })
    }

    /// A daemon with one worker that goes by the file `rvsd.toml` in a directory,
    /// and by the record there if there is one.
    pub(crate) fn with_file(directory: Directory) -> Self {
        Self::launch(1, directory, |socket, links, clock| {
            let directory = socket.parent().unwrap();
            let (file, online) = (directory.join("rvsd.toml"), BTreeSet::from([1, 2]));
            let config = Config::from_file(&file, &online).unwrap();
            let saved = Saved::new(directory);
            let mut registry = begin::registry(&config, &saved, vec![port()]).unwrap();
            // As servers are that were added here: not waiting for a neighbour.
            registry.resolve(0..registry.end_of_numbers(), &|_| Hop::NoRoute);
            let instruments = instruments(links.len(), clock);
            let access = Access::default();
            let mut daemon =
                Daemon::new(socket, access, registry, links, saved, None, instruments).unwrap();
            daemon.check_health(config.health());
            daemon.follow_file(&file, online, config);
            daemon
        })
    }

    fn launch(
        workers: usize,
        directory: Directory,
        daemon: impl FnOnce(&Path, Vec<ControlEnd>, Clock) -> Daemon + Send + 'static,
    ) -> Self {
        let socket = directory.0.join("rvsd.sock");
        let clock = Clock::start();
        let (links, workers) = start_workers(workers, clock);
        let path = socket.clone();
        let (ready, is_ready) = channel();
        std::thread::spawn(move || {
            let mut daemon = daemon(&path, links, clock);
            let metrics = MetricsConfig { listen: ([127, 0, 0, 1], 0).into(), max_rows: MAX_ROWS };
            ready.send(daemon.serve_metrics(metrics).unwrap()).unwrap();
            daemon.run().unwrap();
        });
        let metrics = is_ready.recv().unwrap();
        Self { socket, workers, metrics, directory }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket).unwrap()
    }

    /// A daemon with the service of the LVS guide and its two servers.
    pub(crate) fn with_guide(workers: usize) -> Self {
        let bench = Self::start(workers);
        let mut client = bench.client();
        client.change(&Request::AddService { service: service(VIP, "rr") }).unwrap();
        for address in [RS1, RS2] {
            let server = server(address, 1);
            client.change(&Request::AddServer { service: id(VIP), server }).unwrap();
        }
        bench
    }

    /// Runs a line as `ipvsadm` would.
    pub(crate) fn adm(&self, line: &str) -> Ran {
        self.adm_with(line, "")
    }

    pub(crate) fn adm_with(&self, line: &str, stdin: &str) -> Ran {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let streams =
            Streams { stdin: &mut stdin.as_bytes(), stdout: &mut stdout, stderr: &mut stderr };
        let words = line.split_whitespace().map(OsString::from);
        let code = ipvsadm::run(words, "ipvsadm", &self.socket, streams);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran { code, stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs a line that has to succeed. What it printed.
    pub(crate) fn adm_ok(&self, line: &str) -> String {
        let ran = self.adm(line);
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{line}");
        ran.stdout
    }

    /// Shows a frame to every worker; the one that owns it forwards it. Returns
    /// when all have seen all frames.
    pub(crate) fn receive(&self, frames: impl IntoIterator<Item = Vec<u8>>) {
        let mut client = self.client();
        let before = received(&counters(&mut client));
        let mut count = 0;
        for frame in frames {
            count += 1;
            for worker in &self.workers {
                worker.frames.send(frame.clone()).unwrap();
            }
        }
        let expected = before + count * self.workers.len() as u64;
        eventually("the frames are seen", || received(&counters(&mut client)) == expected);
    }

    /// A TCP connection's frames: a SYN, an ACK.
    pub(crate) fn connect(&self, clients: impl IntoIterator<Item = SocketAddrV4>, vip: &str) {
        let frames = clients.into_iter().flat_map(|c| [tcp(c, vip, SYN), tcp(c, vip, ACK)]);
        self.receive(frames);
    }
}

fn received(workers: &[WorkerCounters]) -> u64 {
    workers.iter().map(WorkerCounters::received).sum()
}

pub(crate) fn counters(client: &mut Client) -> Vec<WorkerCounters> {
    match client.call(&Request::Counters {}).unwrap() {
        Response::Counters { workers, .. } => workers,
        other => panic!("{other:?}"),
    }
}

/// All connections, and the rows of the longest page.
pub(crate) fn connections(client: &mut Client) -> (Vec<Connection>, usize) {
    let (mut all, mut longest) = (Vec::new(), 0);
    let listed: Result<(), ClientError> = client.connections(|page| {
        longest = longest.max(page.len());
        all.extend(page);
        Ok(())
    });
    listed.unwrap();
    (all, longest)
}

pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Directors without ports in threads of their own.
pub(crate) fn start_workers(count: usize, clock: Clock) -> (Vec<ControlEnd>, Vec<Worker>) {
    let shard = Arc::new(Shard::new(0x6d5a, count, 128));
    let start = |worker| {
        let (control, link) = update::channel();
        let (frames, received) = channel();
        let (held, stop) = (Arc::<Held>::default(), Arc::<AtomicBool>::default());
        let handle = Worker { held: Arc::clone(&held), stop: Arc::clone(&stop), frames };
        let director = director(worker, &shard, link);
        std::thread::spawn(move || work(director, clock, &received, &held, &stop));
        (control, handle)
    };
    (0..count).map(start).unzip()
}

fn director(worker: usize, shard: &Arc<Shard>, link: WorkerEnd) -> Director {
    let config = DirectorConfig {
        worker,
        shard: Arc::clone(shard),
        connections: CONNECTIONS as usize,
        hash_key: HashKey::new([1, 2, 3]),
        punt_limits: PuntLimits::default(),
        icmp_limits: IcmpLimits::default(),
        templates: Arc::new(Templates::new(1000, HashKey::new([1, 2, 3])).unwrap()),
        random: 0,
    };
    Director::new(config, link).unwrap()
}

/// A worker's loop as `dpdk::worker` has it, with a queue for a port.
fn work(
    mut director: Director,
    clock: Clock,
    frames: &Receiver<Vec<u8>>,
    held: &Held,
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::Relaxed) {
        let is_held = held.wanted.load(Ordering::Acquire);
        held.so.store(is_held, Ordering::Release);
        if !is_held {
            let now = clock.now();
            for mut bytes in frames.try_iter().take(64) {
                let length = bytes.len();
                let mut frame = [Frame::new(&mut bytes, 0, length, length, 0)];
                let mut verdict = [Verdict::Punt];
                director.process(now, Source::Port, &mut frame, &mut verdict);
                count(director.counters_mut(), verdict[0]);
            }
            director.housekeeping(now);
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn count(counters: &mut Counters, verdict: Verdict) {
    counters.rx += 1;
    match verdict {
        Verdict::Send { .. } => counters.tx += 1,
        Verdict::Punt => counters.punted += 1,
        Verdict::Handoff { .. } => counters.handed_off += 1,
        Verdict::Absorbed | Verdict::Drop(_) => {}
    }
}

/// A daemon without a network: no server has a route.
pub(crate) fn daemon(
    socket: &Path,
    access: Access,
    links: Vec<ControlEnd>,
    clock: Clock,
) -> Result<Daemon, String> {
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let registry = Registry::new(links.len(), vec![port()], timeouts);
    let instruments = instruments(links.len(), clock);
    let saved = Saved::new(socket.parent().unwrap());
    Daemon::new(socket, access, registry, links, saved, None, instruments)
}

fn port() -> Port {
    Port::new(PORT_MAC, 1500)
}

fn instruments(workers: usize, clock: Clock) -> Instruments {
    Instruments {
        cores: (0..workers as u32).collect(),
        ports: Box::new(Vec::new),
        recover: Box::new(Vec::new),
        kernel_path: Box::new(KernelPathCounters::default),
        connections: CONNECTIONS,
        clock,
        shard: Arc::new(Shard::new(0x6d5a, workers, 128)),
        templates: Arc::new(Templates::new(1000, HashKey::new([1, 2, 3])).unwrap()),
        tsc_hz: 1_000_000_000,
        probes: Arc::default(),
    }
}

/// What a run printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn id(address: &str) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: address.parse().unwrap() }
}

pub(crate) fn service(address: &str, scheduler: &str) -> ServiceSpec {
    ServiceSpec::new(id(address), scheduler)
}

pub(crate) fn server(address: &str, weight: u32) -> ServerSpec {
    ServerSpec {
        address: address.parse().unwrap(),
        method: Method::Dr,
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

pub(crate) const SYN: u8 = 2;
pub(crate) const ACK: u8 = 16;
pub(crate) const FIN: u8 = 1 | ACK;

/// The n-th of many clients.
pub(crate) fn client_address(n: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 12), 1024 + n)
}

/// A TCP frame with these flags.
pub(crate) fn tcp(client: SocketAddrV4, vip: &str, flags: u8) -> Vec<u8> {
    let vip: SocketAddrV4 = vip.parse().unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ipv4(client.ip().octets(), vip.ip().octets(), 64)
        .tcp(client.port(), vip.port(), 1, 1000)
        .write(&mut bytes, b"")
        .unwrap();
    bytes[47] = flags;
    bytes
}

/// The refusal that a request gets.
pub(crate) fn refusal(client: &mut Client, request: &Request) -> ErrorCode {
    match client.call(request) {
        Err(ClientError::Api(error)) => error.code,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A client that speaks bytes.
pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    /// Connects, and says hello.
    pub(crate) fn greeted(bench: &Bench) -> Self {
        let mut raw = Self::silent(bench);
        raw.send(&Request::Hello { version: api::VERSION });
        assert!(matches!(raw.reply(), Some(Ok(Response::Hello { .. }))));
        raw
    }

    pub(crate) fn silent(bench: &Bench) -> Self {
        Self::at(&bench.socket)
    }

    pub(crate) fn at(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Self(stream)
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.0.write_all(&encoded(request)).unwrap();
    }

    /// The next reply; `None` when the daemon has closed the connection.
    pub(crate) fn reply(&mut self) -> Option<Reply> {
        let json = frame::read(&mut self.0, api::MAX_REPLY).unwrap()?;
        Some(serde_json::from_slice(&json).unwrap())
    }

    /// The code of the next reply, which is an error.
    pub(crate) fn error(&mut self) -> ErrorCode {
        self.reply().expect("a reply").expect_err("a refusal").code
    }

    /// Whether the daemon has closed the connection: nothing more comes.
    pub(crate) fn is_closed(&mut self) -> bool {
        matches!(self.some(15_000), Ok(0))
    }

    /// Up to 256 of the bytes that come within `wait` ms.
    ///
    /// A read with a time limit is not restarted after a signal, and since
    /// health checks by commands are part of this process SIGCHLD has a handler.
    pub(crate) fn some(&mut self, wait: u64) -> io::Result<usize> {
        self.0.set_read_timeout(Some(Duration::from_millis(wait))).unwrap();
        loop {
            match self.0.read(&mut [0; 256]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

pub(crate) fn encoded(request: &Request) -> Vec<u8> {
    frame::encode(request, api::MAX_REQUEST).unwrap()
}

/// A page of all connections.
pub(crate) fn list_all(limit: usize) -> Request {
    Request::ListConnections { cursor: None, limit, filter: None, count: false }
}
