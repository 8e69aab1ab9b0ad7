//! A daemon in a process of its own, that is killed, stopped, started again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::api::{Request, VERSION};
use control::client::{Client, ClientError};
use control::daemon::{Daemon, Lock};
use control::server::Access;
use dataplane::time::Clock;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;
use crate::bench::{Directory, Raw, VIP, daemon, service, start_workers};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a killed daemon's socket and lock are taken over", killed),
    ("a signal ends the daemon and its socket", stopped),
    ("a second daemon says who holds the lock", second),
    ("without descriptors clients wait and are not forgotten", few_descriptors),
    ("a socket that is in use, or no socket, is left alone", taken_socket),
];

/// The run directory of a child; names it as such.
const VARIABLE: &str = "RVS_TEST_RUN_DIR";
/// Most descriptors that a child may have, if it is to have few.
const DESCRIPTORS: &str = "RVS_TEST_DESCRIPTORS";

pub(crate) fn is_child() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// What `rvsd` does around its ports, until a signal.
pub(crate) fn child() {
    let directory = std::env::var_os(VARIABLE).expect("a child has it");
    let directory = Path::new(&directory);
    if let Ok(most) = std::env::var(DESCRIPTORS) {
        let most = most.parse().expect("a number");
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("less than before");
    }
    match serve(directory) {
        Ok(signal) => println!("{signal}"),
        Err(error) => println!("{error}"),
    }
}

fn serve(directory: &Path) -> Result<Signal, String> {
    let _lock = Lock::take(directory)?;
    Daemon::block_signals();
    let clock = Clock::start();
    let (links, _workers) = start_workers(1, clock);
    let mut daemon = daemon(&directory.join("rvsd.sock"), Access::default(), links, clock)?;
    println!("ready");
    daemon.run().map_err(|error| error.to_string())
}

/// A child, and what it says.
pub(crate) struct Process {
    pub(crate) child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Process {
    fn start(directory: &Directory) -> Self {
        Self::start_with(directory, 4096)
    }

    fn start_with(directory: &Directory, descriptors: u32) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(VARIABLE, &directory.0)
            .env(DESCRIPTORS, descriptors.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    pub(crate) fn ready(directory: &Directory) -> Self {
        let mut process = Self::start(directory);
        assert_eq!(process.line(), "ready");
        process
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn killed() {
    let directory = Directory::new();
    let socket = directory.0.join("rvsd.sock");
    let mut process = Process::ready(&directory);
    let mut client = Client::connect(&socket).unwrap();
    client.change(&Request::AddService { service: service(VIP, "rr") }).unwrap();
    process.signal(Signal::SIGKILL);
    process.child.wait().unwrap();
    // Its clients are told.
    let error = client.timeouts().unwrap_err();
    assert!(matches!(error, ClientError::Closed), "{error}");
    // The file stays; who comes then hears what is the matter.
    assert!(socket.exists());
    let error = Client::connect(&socket).unwrap_err().to_string();
    assert!(error.starts_with("Can't reach rvsd: nothing listens on "), "{error}");

    let _again = Process::ready(&directory);
    let mut client = Client::connect(&socket).unwrap();
    client.change(&Request::AddService { service: service(VIP, "rr") }).unwrap();
}

fn stopped() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = Directory::new();
        let mut process = Process::ready(&directory);
        // Also with clients in the middle of something.
        let socket = directory.0.join("rvsd.sock");
        let _idle = Client::connect(&socket).unwrap();
        let start = Instant::now();
        process.signal(signal);
        assert_eq!(process.line(), signal.as_str());
        assert!(process.child.wait().unwrap().success());
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        assert!(!socket.exists());
    }
}

fn second() {
    let directory = Directory::new();
    let first = Process::ready(&directory);
    let mut second = Process::start(&directory);
    let said = second.line();
    let holder = format!("rvsd with process id {} holds ", first.child.id());
    assert!(said.starts_with(&holder), "{said}");
    assert!(said.contains("rvsd.lock; stop it first"), "{said}");
    second.child.wait().unwrap();
    // The first is not disturbed.
    Client::connect(&directory.0.join("rvsd.sock")).unwrap();
}

fn few_descriptors() {
    let directory = Directory::new();
    let socket = directory.0.join("rvsd.sock");
    let mut process = Process::start_with(&directory, 24);
    assert_eq!(process.line(), "ready");
    let mut clients: Vec<_> = (0..30).map(|_| Raw::at(&socket)).collect();
    for raw in &mut clients {
        raw.send(&Request::Hello { version: VERSION });
    }
    // Some are, however long that takes; who is not at once then, waits.
    let patience = |n: usize| if n < 5 { 15_000 } else { 300 };
    let is_next =
        |(n, raw): (usize, &mut Raw)| matches!(raw.some(patience(n)), Ok(1..)).then_some(());
    let greeted = clients.iter_mut().enumerate().map_while(is_next).count();
    assert!((5..25).contains(&greeted), "{greeted}");
    // When others go, those that wait are served without doing anything. A file
    // that had to wait, too, may take one of the places.
    clients.drain(..5);
    for raw in &mut clients[greeted - 5..greeted - 1] {
        let read = raw.some(15_000);
        let ended = process.child.try_wait().unwrap();
        assert!(matches!(read, Ok(1..)), "of {greeted}: {read:?}; the daemon: {ended:?}");
    }
}

fn taken_socket() {
    let refused = |socket: &Path| {
        let clock = Clock::start();
        let (links, _workers) = start_workers(1, clock);
        daemon(socket, Access::default(), links, clock).err().expect("a refusal")
    };
    // Another daemon's, with a run directory of its own.
    let directory = Directory::new();
    let _first = Process::ready(&directory);
    let socket = directory.0.join("rvsd.sock");
    let error = refused(&socket);
    assert!(
        error.ends_with(
            "another process listens there; stop it, or set control.socket to another path"
        ),
        "{error}"
    );
    Client::connect(&socket).unwrap();
    // A path that was mistyped.
    let file = directory.0.join("precious");
    std::fs::write(&file, "data").unwrap();
    let error = refused(&file);
    assert!(error.ends_with("this is not a socket; set control.socket to another path"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "data");
    let error = refused(&directory.0.join("nowhere/rvsd.sock"));
    assert!(error.contains("nowhere/rvsd.sock: cannot listen: No such file"), "{error}");
    assert!(error.contains("control.socket needs a directory that exists"), "{error}");
}
