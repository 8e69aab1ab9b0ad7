//! The command line of `rvsadm`, apart from ipvsadm's: every command of RVS's
//! own, and what each of them runs. And that of `rvsd`, whose man page is made
//! with the others.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind as Wrong;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::client;
use crate::commands::{self, Failure, generate, set};
use crate::doctor::Doctor;
use crate::preload;
use crate::show;
use crate::top;

/// The command line of RVS. Options of ipvsadm (`rvsadm -h`) are accepted as
/// they are.
#[derive(Debug, Parser)]
#[command(name = "rvsadm", version, about)]
pub struct CommandLine {
    /// The socket of rvsd
    #[arg(long, global = true, env = client::SOCKET_VARIABLE, value_name = "PATH",
        default_value = client::DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Change(commands::Command),
    Set(set::Set),
    Show(show::Show),
    Top(top::Top),
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
    /// Print completions for a shell
    ///
    /// For example: rvsadm completions bash >/etc/bash_completion.d/rvsadm
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write man pages of rvsadm, its commands, rvsd and its configuration
    #[command(hide = true)]
    Man {
        /// The directory, which is made if it is not there
        directory: PathBuf,
    },
}

/// The grammar of rvsadm, for what is made out of it.
#[must_use]
pub fn grammar() -> clap::Command {
    CommandLine::command()
}

/// The layer-4 load balancer's daemon: forwards packets between DPDK ports
#[derive(Debug, Parser)]
#[command(name = "rvsd", version)]
pub struct DaemonArguments {
    /// Configuration file
    #[arg(short, long, default_value = "/etc/rvs/rvsd.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Check the configuration file and exit: 0 when it is good, 2 when not
    #[arg(long)]
    pub check: bool,
}

impl CommandLine {
    /// Carries the command out; errors are printed. What the program exits with.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let Self { socket, command } = self;
        let mut stdout = io::stdout().lock();
        let done = match command {
            Command::Change(command) => commands::run(&socket, &command, &mut stdout),
            Command::Set(set) => set.run(&socket),
            Command::Show(show) => show.run(&socket, show::stdout_width(), &mut stdout),
            Command::Top(top) => top.run(&socket, &mut stdout),
            Command::Doctor(doctor) => return doctor.run(&socket, &mut stdout),
            Command::Completions { shell } => {
                generate::completions(grammar(), shell, &mut stdout).map_err(Failure::from)
            }
            Command::Man { directory } => {
                let daemon = DaemonArguments::command().name("rvsd");
                generate::man_pages(grammar(), daemon, &directory)
                    .map_err(|error| Failure::Other(format!("{}: {error}", directory.display())))
            }
            Command::Run { command } => {
                let error = preload::run(&socket, &command);
                eprintln!("{error}");
                return ExitCode::from(error.code());
            }
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            // The reader of a pipe has seen enough.
            Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => {
                ExitCode::SUCCESS
            }
            Err(Failure::Usage(what)) => {
                CommandLine::command().error(Wrong::ValueValidation, what + "\n").exit()
            }
            Err(failure) => {
                eprintln!("{failure}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
