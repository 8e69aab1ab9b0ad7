//! `rvsadm`: ipvsadm's command line for RVS, and some commands of its own.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use control::api::Request;
use control::client::{self, Client};
use control::ipvsadm::{self, Streams};
use control::preload;
use control::settings;
use control::show::{self, Topic};

/// The command line of RVS. Options of ipvsadm (`rvsadm -h`) are accepted as
/// they are.
#[derive(Parser)]
#[command(name = "rvsadm", version, about)]
struct Native {
    /// The socket of rvsd
    #[arg(long, global = true, env = client::SOCKET_VARIABLE, value_name = "PATH",
        default_value = client::DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: NativeCommand,
}

#[derive(Subcommand)]
enum NativeCommand {
    /// Change a setting, the kernel's net.ipv4.vs.NAME; `show settings` lists
    /// them
    Set {
        /// Its name, with or without net.ipv4.vs.
        name: String,
        /// Its value
        value: u8,
    },
    /// Run a program that drives the kernel's IPVS, such as Debian's ipvsadm
    /// and keepalived, and let it drive rvsd instead
    Run {
        /// The program and its arguments
        #[arg(
            required = true,
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "COMMAND"
        )]
        command: Vec<OsString>,
    },
    /// Show RVS's own counters and state
    Show {
        /// What to show
        #[arg(value_enum)]
        topic: Topic,
        /// In the form of the control API
        #[arg(long)]
        json: bool,
        /// With drop reasons that never occurred
        #[arg(long)]
        all: bool,
    },
}

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
    native(Native::parse())
}

/// Whether a command line is ipvsadm's: nothing, or an option first.
fn is_ipvsadm(first: Option<&OsString>) -> bool {
    let Some(first) = first else {
        return true;
    };
    let first = first.to_string_lossy();
    first.starts_with('-') && first != "--socket" && !first.starts_with("--socket=")
}

fn native(native: Native) -> ExitCode {
    let done = match native.command {
        NativeCommand::Run { command } => {
            let error = preload::run(&native.socket, &command);
            eprintln!("{error}");
            return ExitCode::from(error.code());
        }
        NativeCommand::Show { topic, json, all } => Client::connect(&native.socket)
            .and_then(|mut client| show::show(&mut client, topic, json, all)),
        NativeCommand::Set { name, value } => {
            Client::connect(&native.socket).and_then(|mut client| {
                let name = settings::plain_name(&name).to_owned();
                client.change(&Request::SetSetting { name, value })?;
                Ok(String::new())
            })
        }
    };
    let text = match done {
        Ok(text) => text,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("Can't write the output: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
