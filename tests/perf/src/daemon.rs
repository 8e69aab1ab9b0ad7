//! Part *daemon*: rvsd as it is installed, over a virtual device, next to
//! `dpdk-testpmd` over the same device.
//!
//! All programs run at the same time, and all but one are stopped (SIGSTOP) in
//! turn: so each round compares them on the same machine in the same second.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use control::api::{Request, Response};
use control::client::Client;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use crate::bed::flows::random_order;
use crate::bed::frames::{ACK, Frames, Side};
use crate::bed::setup::SERVER_COUNT;
use crate::bed::{Family, Protocol, SERVERS, VIPS};
use crate::directory::Directory;
use crate::measure::Sample;
use crate::report::{Report, Row};
use crate::scale::Scale;

const PART: &str = "daemon";
/// The MAC address of the first net_pcap device of a process.
const PCAP_MAC: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0x00];
/// Each program's memory, MiB: mbufs for the largest file and for the queues.
const MEMORY: u32 = 1024;
const MBUFS: u32 = 131_072;
const MODES: [&str; 3] = ["io", "macswap", "csum"];
/// How long a program may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(scale: &Scale, cores: &[usize], report: &mut Report) -> Result<(), String> {
    let obstacle = obstacle(scale, cores);
    if let Some(reason) = obstacle {
        return report.row(&Row::skipped(PART, "rvsd and dpdk-testpmd", reason));
    }
    // Children inherit the network namespace of the thread that starts them.
    let done = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| format!("cannot make a network namespace: {error}"))?;
            for &flows in if scale.quick { &[1_000, 64_000][..1] } else { &[1_000, 64_000][..] } {
                report.doing(&format!("daemon: {flows} flows over net_pcap"));
                compare(scale, report, cores, Some(flows))?;
            }
            if scale.quick {
                return Ok(());
            }
            report.doing("daemon: testpmd over net_ring");
            compare(scale, report, cores, None)
        });
        thread.join().unwrap_or_else(|_| Err("its thread panicked".into()))
    });
    done.or_else(|error| report.failure(PART, "rvsd and dpdk-testpmd", &error))
}

/// Why the part cannot run.
fn obstacle(scale: &Scale, cores: &[usize]) -> Option<String> {
    if scale.smoke {
        return Some("--smoke".into());
    }
    if cores.len() < 2 {
        return Some("needs two cores; this process may use one".into());
    }
    if !geteuid().is_root() {
        return Some("needs root, for a network namespace with rvsd's tap".into());
    }
    let testpmd = Command::new("dpdk-testpmd").arg("--version").output();
    if testpmd.is_err() {
        return Some("needs dpdk-testpmd: apt-get install dpdk".into());
    }
    let rvsd = rvsd();
    (!rvsd.exists()).then(|| {
        let path = rvsd.display();
        format!("{path} does not exist: apt-get install libdpdk-dev, then cargo build --release --bin rvsd, or set RVSD")
    })
}

/// The daemon that is measured: of the same build, unless `RVSD` names another.
fn rvsd() -> PathBuf {
    std::env::var_os("RVSD").map(PathBuf::from).unwrap_or_else(|| {
        let own = std::env::current_exe().unwrap_or_default();
        own.with_file_name("rvsd")
    })
}

/// A program that is measured.
struct Program {
    name: String,
    child: Child,
    kind: Kind,
    /// The thread that forwards.
    thread: PathBuf,
    rounds: Vec<Sample>,
}

enum Kind {
    Rvsd(Box<Client>),
    Testpmd(ChildStdin, BufReader<ChildStdout>),
}

/// rvsd and testpmd over net_pcap with so many flows, or testpmd alone over
/// net_ring.
fn compare(
    scale: &Scale,
    report: &mut Report,
    cores: &[usize],
    flows: Option<usize>,
) -> Result<(), String> {
    let directory = Directory::new("daemon")?;
    let (core, other) = (cores[cores.len() - 1], cores[0]);
    let mut programs = Vec::new();
    let device = match flows {
        Some(flows) => {
            let file = directory.path().join("flows.pcap");
            std::fs::write(&file, pcap(flows)).map_err(|e| format!("{}: {e}", file.display()))?;
            let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
            programs.push(Program::rvsd(directory.path(), &device, core)?);
            device
        }
        None => "net_ring0".into(),
    };
    for mode in MODES {
        programs.push(Program::testpmd(mode, &device, [other, core], flows.is_none())?);
    }
    let turn = Duration::from_secs_f64(scale.seconds / 5.0);
    // The first round opens the connections.
    for round in 0..=scale.rounds {
        report.doing(&format!("daemon: {device}: round {round} of {}", scale.rounds));
        for program in &mut programs {
            let sample = program.turn(turn)?;
            if round > 0 {
                program.rounds.push(sample);
            }
        }
    }
    rows(report, &programs, flows)
}

fn rows(report: &mut Report, programs: &[Program], flows: Option<usize>) -> Result<(), String> {
    let ns = |program: &Program| crate::stats::median(program.rounds.iter().map(Sample::ns));
    let reference = programs.iter().find(|p| p.name == "testpmd macswap").map(ns);
    for program in programs {
        let harness = if flows.is_some() { "net_pcap" } else { "net_ring" };
        let cost = ns(program);
        let mut row = Row {
            flows: flows.map(|flows| flows as u64),
            burst: Some(64),
            workers: Some(1),
            harness: Some(harness.into()),
            ns_per_packet: Some(cost),
            mpps: Some(1000.0 / cost.max(0.1)),
            rounds: Some(program.rounds.len() as u64),
            cpu_share: Some(Sample::sum(&program.rounds).cpu_share()),
            ..Row::new(PART, program.name.clone())
        };
        if let (Kind::Rvsd(_), Some(reference)) = (&program.kind, reference) {
            (row.baseline_ns, row.net_ns) = (Some(reference), Some(cost - reference));
            row.ratio = Some(cost / reference.max(0.1));
            row.note = Some("of testpmd macswap, which stands as the harness".into());
        }
        report.row(&row)?;
    }
    Ok(())
}

impl Program {
    /// rvsd with a service of a thousand servers behind a router.
    fn rvsd(directory: &Path, device: &str, core: usize) -> Result<Self, String> {
        let file = directory.join("rvsd.toml");
        std::fs::write(&file, config(directory, device, core))
            .map_err(|e| format!("{}: {e}", file.display()))?;
        let log = directory.join("rvsd.log");
        let errors = std::fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
        let mut command = bound();
        command.arg(rvsd()).arg("--config").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(errors).spawn().map_err(|e| format!("rvsd: {e}"))?;
        let mut child = Guard(Some(child));
        let client = until("rvsd does not answer", || {
            if let Ok(Some(status)) = child.get().try_wait() {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                return Err(format!("rvsd ended ({status}): {}", text.trim()));
            }
            Ok(Client::connect(&directory.join("rvsd.sock")).ok())
        })?;
        // The tap is there: the router, and the way to the servers.
        ip("neigh replace 10.0.0.254 lladdr 02:00:00:00:00:02 nud permanent dev perf0")?;
        ip("route replace 10.64.0.0/16 via 10.0.0.254")?;
        let thread = thread_of(child.get().id(), "worker-0")?;
        let kind = Kind::Rvsd(Box::new(client));
        Self::new("rvsd DR", child, kind, thread)
    }

    /// testpmd in a forwarding mode, on its main core and its forwarding one.
    fn testpmd(
        mode: &str,
        device: &str,
        [main, core]: [usize; 2],
        inject: bool,
    ) -> Result<Self, String> {
        let mut command = bound();
        // Into a pipe it would write 4 KiB at a time.
        command.args(["stdbuf", "-oL", "dpdk-testpmd"]);
        command.args(["--no-pci", "--no-telemetry", "--log-level=notice"]);
        command.arg(format!("--file-prefix=rvs-perf-{}-{mode}", std::process::id()));
        command.arg("-l").arg(format!("{main},{core}")).arg(format!("--main-lcore={main}"));
        if !huge_pages() {
            command.args(["--no-huge", "-m", &MEMORY.to_string()]);
        } else {
            command.arg("--in-memory");
        }
        command.args(["--vdev", device, "--", "-i", "--burst=64", "--no-mlockall"]);
        command.arg(format!("--forward-mode={mode}")).arg(format!("--total-num-mbufs={MBUFS}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().map_err(|e| format!("dpdk-testpmd: {e}"))?;
        let mut child = Guard(Some(child));
        let pipes = (child.get().stdin.take(), child.get().stdout.take());
        let (Some(mut stdin), Some(stdout)) = pipes else {
            return Err("dpdk-testpmd has no pipes".into());
        };
        let mut stdout = BufReader::new(stdout);
        let start = if inject { "start tx_first 8\n" } else { "start\n" };
        stdin.write_all(start.as_bytes()).map_err(|e| format!("dpdk-testpmd: {e}"))?;
        received(&mut stdin, &mut stdout)?;
        let thread = thread_of(child.get().id(), &format!("worker-{core}"))?;
        Self::new(&format!("testpmd {mode}"), child, Kind::Testpmd(stdin, stdout), thread)
    }

    /// A program that runs, and is to wait for its turn.
    fn new(name: &str, mut child: Guard, kind: Kind, thread: PathBuf) -> Result<Self, String> {
        let child = child.0.take().ok_or("no child")?;
        let program = Self { name: name.into(), child, kind, thread, rounds: Vec::new() };
        program.signal(Signal::SIGSTOP)?;
        Ok(program)
    }

    /// Runs it for a time: its forwarding thread's CPU time and packets.
    fn turn(&mut self, time: Duration) -> Result<Sample, String> {
        self.signal(Signal::SIGCONT)?;
        let began = Instant::now();
        let (packets, cpu) = (self.packets()?, self.cpu()?);
        std::thread::sleep(time);
        let (more, later) = (self.packets()?, self.cpu()?);
        let wall = began.elapsed();
        self.signal(Signal::SIGSTOP)?;
        let packets = more - packets;
        if packets == 0 {
            let drops = self.drops();
            return Err(format!("{} forwards nothing{drops}", self.name));
        }
        Ok(Sample { cpu: later.saturating_sub(cpu), wall, packets })
    }

    /// Packets forwarded so far.
    fn packets(&mut self) -> Result<u64, String> {
        match &mut self.kind {
            Kind::Rvsd(client) => match client.call(&Request::Counters {}) {
                Ok(Response::Counters { workers, .. }) => Ok(workers.iter().map(|w| w.tx).sum()),
                Ok(other) => Err(format!("rvsd answers {other:?}")),
                Err(error) => Err(format!("rvsd: {error}")),
            },
            Kind::Testpmd(stdin, stdout) => received(stdin, stdout),
        }
    }

    /// What rvsd dropped, for a message.
    fn drops(&mut self) -> String {
        match &mut self.kind {
            Kind::Rvsd(client) => format!(": {:?}", client.call(&Request::Counters {})),
            Kind::Testpmd(..) => String::new(),
        }
    }

    /// CPU time of the forwarding thread.
    fn cpu(&self) -> Result<Duration, String> {
        let path = self.thread.join("schedstat");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", self.name))?;
        let ns = text.split_whitespace().next().and_then(|word| word.parse().ok());
        ns.map(Duration::from_nanos).ok_or_else(|| format!("{}: {text}", path.display()))
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, signal).map_err(|error| format!("{}: {error}", self.name))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGCONT);
        end(&mut self.child);
    }
}

/// A child that ends with this, until it is taken out.
struct Guard(Option<Child>);

impl Guard {
    fn get(&mut self) -> &mut Child {
        self.0.as_mut().expect("taken out at the end only")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

/// A command, to be added, whose process ends with the thread that starts it,
/// however that one ends.
fn bound() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command
}

/// Asks a child to end, and makes it after two seconds.
fn end(child: &mut Child) {
    let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Tries until it gives something.
fn until<T>(
    what: &str,
    mut attempt: impl FnMut() -> Result<Option<T>, String>,
) -> Result<T, String> {
    let began = Instant::now();
    loop {
        match attempt()? {
            Some(result) => return Ok(result),
            None if began.elapsed() > PATIENCE => {
                return Err(format!("{what} within {} s", PATIENCE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Packets that testpmd's port received.
fn received(stdin: &mut ChildStdin, stdout: &mut BufReader<ChildStdout>) -> Result<u64, String> {
    let failed = |error: std::io::Error| format!("dpdk-testpmd: {error}");
    stdin.write_all(b"show port stats 0\n").map_err(failed)?;
    let mut line = String::new();
    loop {
        line.clear();
        if stdout.read_line(&mut line).map_err(failed)? == 0 {
            return Err("dpdk-testpmd ended; try it by hand to see why".into());
        }
        if let Some(count) = rx_packets(&line) {
            return Ok(count);
        }
    }
}

/// The figure in a line of testpmd's `show port stats`.
fn rx_packets(line: &str) -> Option<u64> {
    line.trim().strip_prefix("RX-packets:")?.split_whitespace().next()?.parse().ok()
}

/// The directory in /proc of a process's thread whose name ends so: EAL's is
/// lcore-worker-1 or rte-worker-1, by its release.
fn thread_of(pid: u32, name: &str) -> Result<PathBuf, String> {
    until(&format!("process {pid} has no thread {name}"), || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
        let mut paths = tasks.flatten().map(|task| task.path());
        Ok(paths.find(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim().ends_with(name))
        }))
    })
}

fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let why = String::from_utf8_lossy(&output.stderr);
    let refused = || format!("ip {arguments}: {}", why.trim());
    output.status.success().then_some(()).ok_or_else(refused)
}

/// Whether there are huge pages, as rvsd finds out.
fn huge_pages() -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.and_then(|count| count.trim().parse().ok()).is_some_and(|count: u64| count > 0)
}

/// rvsd's configuration: its directory holds the socket.
fn config(directory: &Path, device: &str, core: usize) -> String {
    let run_dir = directory.display();
    let pid = std::process::id();
    let vip = VIPS.address(Family::V4, 0);
    let mut text = format!(
        r#"[director]
cores = [{core}]
connections = 131072
templates = 1024
run_dir = "{run_dir}"
[eal]
memory_mb = {MEMORY}
mbufs = {MBUFS}
file_prefix = "rvs-perf-{pid}"
[settings]
sloppy_tcp = 1
[[port]]
name = "perf0"
device = "{device}"
addresses = ["10.0.0.1/24"]
[[service]]
protocol = "tcp"
address = "{vip}:80"
scheduler = "rr"
"#
    );
    for number in 0..SERVER_COUNT {
        let rip = SERVERS.address(Family::V4, number);
        text += &format!("[[service.server]]\naddress = \"{rip}\"\nmethod = \"dr\"\n");
    }
    text
}

/// A pcap file with a packet of each flow.
fn pcap(flows: usize) -> Vec<u8> {
    const MAGIC: u32 = 0xa1b2_c3d4;
    const ETHERNET: u32 = 1;
    let frames = Frames::new(Family::V4, Protocol::Tcp, Side::ToServer, ACK);
    let len = frames.len() as u32;
    let mut file = Vec::new();
    // Version 2.4, no time zone, whole packets.
    for word in [MAGIC, 2 | 4 << 16, 0, 0, 65_535, ETHERNET] {
        file.extend(word.to_le_bytes());
    }
    for flow in random_order(flows, 1) {
        for word in [0, 0, len, len] {
            file.extend(word.to_le_bytes());
        }
        let mut bytes = [0; 128];
        frames.write(&mut bytes, &flow);
        bytes[..6].copy_from_slice(&PCAP_MAC);
        file.extend(&bytes[..frames.len()]);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn testpmds_figures_are_read() {
        let line = "  RX-packets: 123456     RX-missed: 0          RX-bytes:  7407360";
        assert_eq!(rx_packets(line), Some(123_456));
        assert_eq!(rx_packets("  TX-packets: 1"), None);
    }

    #[test]
    fn a_file_has_a_packet_of_each_flow() {
        let file = pcap(10);
        assert_eq!(file.len(), 24 + 10 * (16 + 60));
        assert_eq!(file[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(file[40..46], PCAP_MAC);
    }

    #[test]
    fn rvsd_takes_the_configuration() {
        let directory = Directory::new("config-test").unwrap();
        let file = directory.path().join("rvsd.toml");
        let device = "net_pcap0,rx_pcap=/tmp/flows.pcap,infinite_rx=1";
        std::fs::write(&file, config(directory.path(), device, 0)).unwrap();
        let config = control::config::Config::from_file(&file, &[0].into()).unwrap();
        assert_eq!(config.services[0].servers.len(), SERVER_COUNT as usize);
        assert_eq!(config.ports[0].device.to_string(), device);
    }
}
