//! What is to be checked and how: the `health` sections of the configuration.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use super::state::State;
use crate::api::ServerSpec;

/// What a service's health sections say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The check of servers that have none of their own, also of those that
    /// are added at run time.
    pub check: Option<Check>,
    /// Servers with a check of their own, or with none.
    pub servers: HashMap<SocketAddr, Option<Check>>,
    /// Takes connections while no server does.
    pub sorry_server: Option<ServerSpec>,
    /// The vip is taken off the director while no server takes connections.
    pub withdraw_vip: bool,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The check of a server.
    #[must_use]
    pub fn check_of(&self, server: &SocketAddr) -> Option<&Check> {
        self.servers.get(server).unwrap_or(&self.check).as_ref()
    }
}

/// How a server is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What a probe does.
    pub kind: Kind,
    /// The port that is probed, when it is not the server's.
    pub port: Option<u16>,
    /// The address that is probed.
    pub via: Via,
    /// From the start of one probe to that of the next.
    pub interval: Duration,
    /// A probe must have succeeded by then; at most `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a failing server back.
    pub rise: u32,
    /// Failures in a row that make a server a failing one.
    pub fall: u32,
    /// By how much of an interval a probe may come early, percent, 0 to 50.
    pub jitter: u32,
    /// What a server is taken for before its first probe.
    pub initial: State,
    /// What becomes of a failing server.
    pub on_failure: OnFailure,
}

/// The address that is probed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Via {
    /// The server's own.
    #[default]
    Server,
    /// The VIP at the server, where its packets keep that: under direct routing
    /// and through a tunnel. The server's own under NAT and FULLNAT.
    Vip,
}

/// What becomes of a failing server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// It takes no new connections; the present ones go on.
    Weight0,
    /// It is as deleted, and its connections are as those of a deleted server.
    Remove,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Opens a TCP connection and closes it.
    Tcp,
    /// Asks an HTTP/1.1 server, with TLS for https.
    Http(Http),
    /// Sends a datagram.
    Udp(Udp),
    /// Sends an ICMP echo request.
    Ping,
    /// Runs a program: its absolute path and its arguments.
    Command(Vec<String>),
}

impl Kind {
    /// The name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(Http { tls: None, .. }) => "http",
            Self::Http(_) => "https",
            Self::Udp(_) => "udp",
            Self::Ping => "ping",
            Self::Command(_) => "command",
        }
    }

    /// Whether a probe needs a port.
    #[must_use]
    pub fn has_port(&self) -> bool {
        !matches!(self, Self::Ping | Self::Command(_))
    }
}

/// An HTTP request and what its answer must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// With TLS when present.
    pub tls: Option<Tls>,
    /// The method, a token.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The Host header; address and port of the server when absent.
    pub host: Option<String>,
    /// Status codes that are good.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body must have within its first 64 KiB.
    pub body: Option<Body>,
}

/// TLS of an HTTP probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The name to ask for and, with `verify`, to find in the certificate; the
    /// host, or the address, when absent.
    pub sni: Option<String>,
    /// Whether a certificate must be valid.
    pub verify: bool,
    /// A PEM file of roots; the system's when absent.
    pub ca: Option<PathBuf>,
}

/// What a body must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// This text.
    Contains(String),
    /// A match of this expression.
    Matches(Pattern),
}

/// A regular expression, which equals another of the same text.
#[derive(Debug, Clone)]
pub struct Pattern(pub Regex);

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for Pattern {}

/// A datagram and what its answer must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Udp {
    /// What is sent.
    pub send: Vec<u8>,
    /// What an answer must have. Without it there need not be one, but no ICMP
    /// unreachable may come.
    pub expect: Option<Vec<u8>>,
}
