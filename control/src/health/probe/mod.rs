//! Probes: each asks one server once, and says in words why it is not good.

mod command;
mod http;
mod ping;
mod tls;
mod udp;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::plan::{Check, Kind};
use crate::api::ServiceId;
pub(super) use tls::Configs;

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) service: ServiceId,
    /// The server as the service has it.
    pub(super) server: SocketAddr,
}

/// Good, or why not.
pub(super) type Outcome = Result<(), String>;

/// Probes a server. Never takes longer than the check's timeout.
pub(super) async fn probe(check: &Check, target: &Target, configs: &Configs) -> Outcome {
    let deadline = Deadline { at: Instant::now() + check.timeout, timeout: check.timeout };
    let mut server = target.server;
    if let Some(port) = check.port {
        server.set_port(port);
    }
    if check.kind.has_port() && server.port() == 0 {
        return Err("the server has no port of its own; give the check one (port)".into());
    }
    match &check.kind {
        Kind::Tcp => connect(server, deadline).await.map(drop),
        Kind::Http(http) => http::probe(http, server, configs, deadline).await,
        Kind::Udp(udp) => udp::probe(udp, server, deadline).await,
        Kind::Ping => ping::probe(server.ip(), deadline).await,
        Kind::Command(argv) => command::probe(argv, target, deadline).await,
    }
}

async fn connect(server: SocketAddr, deadline: Deadline) -> Result<TcpStream, String> {
    let connected = async { TcpStream::connect(server).await.map_err(|e| plain(&e)) };
    deadline.bound("no connection", connected).await
}

/// The end of a probe.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    /// The time there was, for people.
    timeout: Duration,
}

impl Deadline {
    /// Waits no longer for a step of a probe; `missing` is what there is not.
    async fn bound<T>(
        self,
        missing: &str,
        step: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        match tokio::time::timeout_at(self.at.into(), step).await {
            Ok(result) => result,
            Err(_) => Err(format!("{missing} within {} ms", self.timeout.as_millis())),
        }
    }
}

/// The system's message without "(os error N)".
fn plain(error: &io::Error) -> String {
    let message = error.to_string();
    message.split(" (os error").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
