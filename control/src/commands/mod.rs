//! `rvsadm`'s own commands that change things or show packets: the file read
//! again, states saved and restored, servers drained, packets traced, captured
//! and explained.

mod capture;
mod drain;
mod explain;
pub mod generate;
mod manual;
mod observe;
mod saved;
pub mod set;
mod trace;

use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::Subcommand;

use crate::api::{Request, Response};
use crate::client::{Client, ClientError};
pub use explain::Packet;
pub use observe::{ProtocolName, Which};

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read rvsd's configuration file again and carry out what is different in
    /// it
    ///
    /// What was changed at run time stays, unless the file says something new
    /// about it. Connections and counters of what is the same are not touched.
    /// A file with an error changes nothing. What was done is printed, a line
    /// each, and the keys that need a restart of rvsd. SIGHUP does the same.
    Reload {
        /// Print what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// Make all as the file says: also undo what was changed at run time
        #[arg(long)]
        exact: bool,
        /// In the form of the control API
        #[arg(long)]
        json: bool,
    },
    /// Write all services, servers, timeouts and settings as commands
    Save {
        /// Where to; standard output when absent
        file: Option<PathBuf>,
    },
    /// Make all services, timeouts and settings as they were saved
    ///
    /// Reads what `save`, or `ipvsadm -S`, has written. What is the same already
    /// keeps its connections and counters, what is not in the file is deleted.
    /// All lines are checked first: an error in one changes nothing.
    Restore {
        /// Where from; standard input when absent
        file: Option<PathBuf>,
        /// Print what would be done, and do nothing
        #[arg(long)]
        dry_run: bool,
        /// In the form of the control API
        #[arg(long)]
        json: bool,
    },
    /// Give a real server weight 0 in all services: it gets no new connections
    ///
    /// `undrain` gives it its weights again.
    Drain {
        /// Its address, with a port if only that is meant
        server: Server,
        /// Wait until it has no connection left
        #[arg(long)]
        wait: bool,
        /// Wait no longer, and exit with 1
        #[arg(long, requires = "wait", value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Give a drained server the weights that it had
    Undrain {
        /// Its address, with a port if only that is meant
        server: Server,
    },
    /// Say of packets, as they come, what they met: stages, decisions, rewrite,
    /// verdict
    ///
    /// Needs the permission to change things, since it shows what is in packets.
    /// Of a packet that was handed over from one worker to another, both parts
    /// are told, under one number.
    Trace {
        /// Which packets
        #[command(flatten)]
        which: Which,
        /// End after so many packets
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
        /// A line of JSON for each packet, in the form of the control API
        #[arg(long)]
        json: bool,
    },
    /// Write packets as they came and as they left to a file for Wireshark
    ///
    /// pcapng, with two interfaces for each port and a comment with each packet
    /// that names its service and server, or why it was dropped. Needs the
    /// permission to change things.
    Capture {
        /// The file; "-" is standard output
        #[arg(short = 'w', long = "write", value_name = "FILE")]
        file: PathBuf,
        /// Which packets
        #[command(flatten)]
        which: Which,
        /// End after so many packets
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
        /// Keep so many bytes of each
        #[arg(long, value_name = "BYTES", default_value_t = 9728,
            value_parser = clap::value_parser!(u32).range(0..=9728))]
        snaplen: u32,
    },
    /// Say what would happen to a packet now, without changing anything
    ///
    /// Service, connection, persistence, scheduler and server, method, rewrite,
    /// way out; and what is missing, if it would be dropped.
    Explain {
        /// The packet
        #[command(flatten)]
        packet: Packet,
        /// In the form of the control API
        #[arg(long)]
        json: bool,
    },
}

/// A real server, on one port or on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    address: IpAddr,
    port: Option<u16>,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { address: address.ip(), port: Some(address.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        let address = bare.parse().map_err(|_| {
            "give an address such as 10.0.0.1, 10.0.0.1:80, fd00::1 or [fd00::1]:80".to_owned()
        })?;
        Ok(Self { address, port: None })
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The daemon refused, or could not be asked.
    Client(ClientError),
    /// The output could not be written.
    Output(io::Error),
    /// The command line makes no sense; the exit code is 2.
    Usage(String),
    /// Something else, in words.
    Other(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => error.fmt(f),
            Self::Output(error) => write!(f, "Can't write the output: {error}"),
            Self::Usage(message) | Self::Other(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for Failure {}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Carries a command out.
///
/// # Errors
/// For the operator; the exit code is 1.
pub fn run(socket: &Path, command: &Command, stdout: &mut dyn Write) -> Result<(), Failure> {
    let mut client = Client::connect(socket)?;
    match command {
        Command::Reload { dry_run, exact, json } => {
            let response = client.call(&Request::Reload { dry_run: *dry_run, exact: *exact })?;
            Ok(stdout.write_all(difference(&response, *json)?.as_bytes())?)
        }
        Command::Save { file } => saved::save(&mut client, file.as_deref(), stdout),
        Command::Restore { file, dry_run, json } => {
            let requests = saved::read(&mut client, file.as_deref())?;
            let response = client.call(&Request::Restore { requests, dry_run: *dry_run })?;
            Ok(stdout.write_all(difference(&response, *json)?.as_bytes())?)
        }
        Command::Drain { server, wait, timeout } => {
            let patience = wait.then_some(timeout.map(Duration::from_secs));
            drain::drain(&mut client, *server, patience, stdout)
        }
        Command::Undrain { server: Server { address, port } } => {
            let request = Request::Undrain { server: *address, port: *port, service: None };
            Ok(client.change(&request)?)
        }
        Command::Trace { which, count, json } => {
            trace::trace(&mut client, which, *count, *json, stdout)
        }
        Command::Capture { file, which, count, snaplen } => {
            capture::capture(&mut client, which, file, *count, *snaplen, stdout)
        }
        Command::Explain { packet, json } => explain::explain(&mut client, packet, *json, stdout),
    }
}

/// A value in one line of JSON.
fn json_line(value: &impl serde::Serialize) -> Result<String, ClientError> {
    let text = serde_json::to_string(value);
    Ok(text.map_err(|error| ClientError::BadReply(error.to_string()))? + "\n")
}

/// The text about what was done or would be.
fn difference(response: &Response, json: bool) -> Result<String, ClientError> {
    let Response::Difference { changes, restart } = response else {
        return Err(ClientError::BadReply("a response of the wrong kind".to_owned()));
    };
    if json {
        let text = serde_json::to_string_pretty(response)
            .map_err(|error| ClientError::BadReply(error.to_string()))?;
        return Ok(text + "\n");
    }
    let mut text: String = changes.iter().map(|line| format!("{line}\n")).collect();
    if !restart.is_empty() {
        text.push_str(&format!("needs a restart of rvsd: {}\n", restart.join(", ")));
    }
    if text.is_empty() {
        text.push_str("Nothing is different.\n");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_addresses_with_or_without_a_port() {
        let read = |text: &str| text.parse::<Server>().map(|s| (s.address.to_string(), s.port));
        assert_eq!(read("10.0.0.1"), Ok(("10.0.0.1".into(), None)));
        assert_eq!(read("10.0.0.1:80"), Ok(("10.0.0.1".into(), Some(80))));
        assert_eq!(read("fd00::1"), Ok(("fd00::1".into(), None)));
        assert_eq!(read("[fd00::1]"), Ok(("fd00::1".into(), None)));
        assert_eq!(read("[fd00::1]:80"), Ok(("fd00::1".into(), Some(80))));
        assert!(read("rs1").is_err());
    }

    #[test]
    fn a_difference_is_a_line_for_each_change() {
        let response = |changes: &[&str], restart: &[&str]| {
            let owned = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect();
            Response::Difference { changes: owned(changes), restart: owned(restart) }
        };
        let text = |response| difference(&response, false).unwrap();
        assert_eq!(text(response(&[], &[])), "Nothing is different.\n");
        assert_eq!(
            text(response(&["-C", "set sloppy_tcp 1"], &["director.cores", "port"])),
            "-C\nset sloppy_tcp 1\nneeds a restart of rvsd: director.cores, port\n"
        );
        let json = difference(&response(&["-C"], &[]), true).unwrap();
        assert_eq!(serde_json::from_str::<Response>(&json).unwrap(), response(&["-C"], &[]));
        assert!(difference(&Response::Done, false).is_err());
    }
}
