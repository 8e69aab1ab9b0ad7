//! Other people's programs under the library: Debian's ipvsadm against what it
//! printed on a kernel, and a program of netlink that forks and threads.
//!
//! The lab has the test with keepalived (`tests/lab/t-keepalived.sh`).

#[allow(dead_code, reason = "the tests of the API use the rest")]
#[path = "../../../tests/api/bench.rs"]
mod bench;
mod fake;
mod listings;
mod netlink;
mod session;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bench::Ran;
use libtest_mimic::{Arguments, Failed, Trial};

/// A test, and the program that it needs.
type Row = (&'static str, &'static str, fn());

fn main() {
    let rows = [listings::TESTS, session::TESTS, netlink::TESTS].concat();
    let trials = rows.into_iter().map(|(name, program, test)| match missing(program) {
        None => Trial::test(name, move || run(test)),
        Some(reason) => {
            println!("skipped: {name}: {reason}");
            let name = format!("{name} (skipped: {reason})");
            Trial::test(name, move || Err(reason.into())).with_ignored_flag(true)
        }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

/// Turns a panic into a failure with its message.
fn run(test: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(test).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").into()
    })
}

fn missing(program: &str) -> Option<String> {
    let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|directory| Path::new(directory).join(program).exists());
    (!found).then(|| format!("needs {program} (apt-get install {program})"))
}

/// The library that was built with this test.
fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().join("librvs_ipvs.so");
    assert!(path.exists(), "no {}", path.display());
    path
}

/// A command that drives the daemon on `socket`.
fn preloaded(program: &str, socket: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LD_PRELOAD", library()).env("RVS_SOCKET", socket);
    command
}

/// Runs a line of Debian's ipvsadm.
fn debian(line: &str, stdin: &str, socket: &Path) -> Ran {
    let mut command = preloaded("ipvsadm", socket);
    command.args(line.split_whitespace());
    ran(command, stdin)
}

/// Runs a line of rvsadm in its role as ipvsadm.
fn ours(line: &str, stdin: &str, socket: &Path) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let streams = control::ipvsadm::Streams {
        stdin: &mut stdin.as_bytes(),
        stdout: &mut stdout,
        stderr: &mut stderr,
    };
    let words = line.split_whitespace().map(Into::into);
    let code = control::ipvsadm::run(words, "ipvsadm", socket, streams);
    Ran { code, stdout: text(stdout), stderr: text(stderr) }
}

fn ran(mut command: Command, stdin: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let stdin = stdin.to_owned();
    let writer = std::thread::spawn(move || {
        // Who reads nothing has closed it.
        let _ = std::io::Write::write_all(&mut input, stdin.as_bytes());
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    Ran {
        code: code.unwrap_or_else(|| panic!("ended by a signal: {}", output.status)),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}
