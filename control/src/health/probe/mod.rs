//! Probes: each asks one server once, and says in words why it is not good.

mod command;
mod http;
mod ping;
mod tls;
mod udp;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::packet::Protocol;
use dataplane::probes::{Probe, Probes, Route};
use dataplane::service::Encapsulation;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use super::plan::{Check, Kind, Via};
use crate::api::ServiceId;
pub(super) use tls::Configs;

/// Payload of a segment of a probe to the VIP: with any tunnel around it, it fits
/// into what all links of IPv6 carry.
const SEGMENT: u32 = 1_140;

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) service: ServiceId,
    /// The server as the service has it.
    pub(super) server: SocketAddr,
    /// How its clients' packets get there with the VIP; `None` where they get its
    /// own address.
    pub(super) by_vip: Option<ByVip>,
}

/// How a server gets packets to the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ByVip {
    /// By direct routing.
    Plain,
    /// In a tunnel.
    Tunnel(Encapsulation),
}

/// What all probes share.
#[derive(Debug, Default)]
pub(super) struct Means {
    /// For TLS.
    pub(super) configs: Configs,
    /// Those to the VIP that are under way.
    pub(super) probes: Arc<Probes>,
}

/// Where a probe goes.
#[derive(Clone, Copy)]
struct To<'a> {
    /// The server.
    server: SocketAddr,
    /// Where it goes to the VIP.
    vip: Option<(IpAddr, ByVip)>,
    probes: &'a Arc<Probes>,
}

/// Good, or why not.
pub(super) type Outcome = Result<(), String>;

/// Probes a server. Never takes longer than the check's timeout.
pub(super) async fn probe(check: &Check, target: &Target, means: &Means) -> Outcome {
    let deadline = Deadline { at: Instant::now() + check.timeout, timeout: check.timeout };
    let mut server = target.server;
    if let Some(port) = check.port {
        server.set_port(port);
    }
    if check.kind.has_port() && server.port() == 0 {
        return Err("the server has no port of its own; give the check one (port)".into());
    }
    let vip = match (check.via, target.by_vip, target.service) {
        (Via::Vip, Some(by), ServiceId::Address { address, .. }) => Some((address.ip(), by)),
        _ => None,
    };
    if vip.is_some_and(|(vip, _)| vip.is_ipv4() != server.is_ipv4()) {
        return Err(
            "it is of another address family than the VIP; check it by via = \"server\"".into()
        );
    }
    let to = To { server, vip, probes: &means.probes };
    match &check.kind {
        Kind::Tcp => connect(to, deadline).await.map(drop),
        Kind::Http(http) => http::probe(http, to, &means.configs, deadline).await,
        Kind::Udp(udp) => udp::probe(udp, to, deadline).await,
        Kind::Ping => ping::probe(server.ip(), deadline).await,
        Kind::Command(argv) => command::probe(argv, target, deadline).await,
    }
}

/// A connection. Where it is to the VIP, it is so for as long as the second is
/// kept.
async fn connect(to: To<'_>, deadline: Deadline) -> Result<(TcpStream, Option<Probe>), String> {
    let (socket, probe) = tcp_socket(to).map_err(|e| plain(&e))?;
    let connected = async { socket.connect(to.server).await.map_err(|e| plain(&e)) };
    Ok((deadline.bound("no connection", connected).await?, probe))
}

fn tcp_socket(to: To<'_>) -> io::Result<(TcpSocket, Option<Probe>)> {
    let socket = if to.server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if to.vip.is_none() {
        return Ok((socket, None));
    }
    SockRef::from(&socket).set_tcp_mss(SEGMENT)?;
    socket.bind(SocketAddr::new(any_of(to.server), 0))?;
    let probe = to.begin(Protocol::Tcp, socket.local_addr()?.port());
    Ok((socket, probe))
}

/// The unspecified address of the server's family.
fn any_of(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

impl To<'_> {
    /// What the server is called by in a request.
    fn called(&self) -> SocketAddr {
        SocketAddr::new(self.vip.map_or(self.server.ip(), |(vip, _)| vip), self.server.port())
    }

    /// Has the packets of a socket, which is bound to a port and not connected
    /// yet, go to the VIP.
    fn begin(&self, protocol: Protocol, local_port: u16) -> Option<Probe> {
        let (vip, by) = self.vip?;
        let tunnel = match by {
            ByVip::Plain => None,
            ByVip::Tunnel(encapsulation) => Some(encapsulation),
        };
        let route = Route { protocol, local_port, server: self.server, vip, tunnel };
        Some(self.probes.begin(route, Instant::now()))
    }
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
