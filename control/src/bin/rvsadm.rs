//! `rvsadm`: ipvsadm's command line for RVS, and some commands of its own.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use control::api::Request;
use control::client::{self, Client, ClientError};
use control::commands::{self, Failure};
use control::doctor::Doctor;
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
    #[command(flatten)]
    Change(commands::Command),
    #[command(flatten)]
    Ask(Ask),
    /// Look for what is wrong with the box, the configuration, the director and
    /// the servers, and say which command mends it
    Doctor(Doctor),
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
}

/// Commands with one request and one answer.
#[derive(Subcommand)]
enum Ask {
    /// Change a setting, the kernel's net.ipv4.vs.NAME, or what is logged;
    /// `show settings` lists them
    Set {
        /// Its name, with or without net.ipv4.vs., or "log"
        name: String,
        /// Its value; for "log" a filter such as dataplane=debug,info
        value: String,
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

/// The request of `set`. Ends the program when the value is no number.
fn setting(name: &str, value: String) -> Request {
    if name == "log" {
        return Request::SetLog { filter: value };
    }
    let name = settings::plain_name(name).to_owned();
    match value.parse() {
        Ok(value) => Request::SetSetting { name, value },
        Err(_) => {
            let what = format!("the value of {name} is a number from 0 to 255, not {value:?}\n");
            Native::command().error(clap::error::ErrorKind::ValueValidation, what).exit()
        }
    }
}

fn native(native: Native) -> ExitCode {
    let done = match native.command {
        NativeCommand::Change(command) => {
            commands::run(&native.socket, &command, &mut io::stdout().lock())
        }
        NativeCommand::Run { command } => {
            let error = preload::run(&native.socket, &command);
            eprintln!("{error}");
            return ExitCode::from(error.code());
        }
        NativeCommand::Doctor(doctor) => {
            return doctor.run(&native.socket, &mut io::stdout().lock());
        }
        NativeCommand::Ask(command) => asked(&native.socket, command)
            .map_err(Failure::from)
            .and_then(|text| Ok(io::stdout().lock().write_all(text.as_bytes())?)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has seen enough.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// What a command has to print.
fn asked(socket: &Path, command: Ask) -> Result<String, ClientError> {
    let mut client = Client::connect(socket)?;
    match command {
        Ask::Show { topic, json, all } => show::show(&mut client, topic, json, all),
        Ask::Set { name, value } => {
            client.change(&setting(&name, value))?;
            Ok(String::new())
        }
    }
}
