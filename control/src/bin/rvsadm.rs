//! `rvsadm`: ipvsadm's command line for RVS, and some commands of its own.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use control::client;
use control::commandline::CommandLine;
use control::ipvsadm::{self, Streams};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let program = Path::new(&called).file_name().and_then(OsStr::to_str).unwrap_or("rvsadm");
    let args: Vec<OsString> = args.collect();
    if program == "ipvsadm" || is_ipvsadm(args.first()) {
        let code = ipvsadm::run(
            args,
            program,
            &client::socket_path(),
            Streams {
                stdin: &mut io::stdin().lock(),
                stdout: &mut io::BufWriter::new(io::stdout().lock()),
                stderr: &mut io::stderr().lock(),
            },
        );
        return ExitCode::from(code);
    }
    CommandLine::parse().run()
}

/// Whether a command line is ipvsadm's: nothing, or an option first.
fn is_ipvsadm(first: Option<&OsString>) -> bool {
    let Some(first) = first else {
        return true;
    };
    let first = first.to_string_lossy();
    first.starts_with('-') && first != "--socket" && !first.starts_with("--socket=")
}
