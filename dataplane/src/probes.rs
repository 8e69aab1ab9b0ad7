//! Health checks that go to the VIP, as clients' packets go.
//!
//! The director has the VIP itself, so no socket of its kernel can reach the
//! VIP of a server. The socket of such a check is connected to the server's own
//! address, and the kernel path puts the VIP in its place on the wire:
//!
//! ```text
//! the kernel's   director:P -> server:80        server:80 -> director:P
//! the wire's     director:P -> VIP:80              VIP:80 -> director:P
//! ```
//!
//! Under direct routing that is all: the kernel has resolved the server's MAC
//! address, which is where a client's packet would go. Under a tunnel the packet
//! is wrapped as a client's would be. The server answers from the VIP to the
//! director, without the tunnel.
//!
//! Packets are found by protocol and the director's port, which is the check's
//! own, and changed only where addresses and the other port are the check's.
//! Only the kernel path's thread and that of the checks come here: no worker.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::forward::tun::{self, Ids, Path, Sent, Tunnel};
use crate::outbox::Outbox;
use crate::packet::headers::{Addresses, Parsed, parse};
use crate::packet::{Frame, Headers, Protocol, checksum};
use crate::service::{Encapsulation, PortHop};

/// How long packets are changed after the end of a check: the kernel still
/// closes the connection.
const LINGER: Duration = Duration::from_secs(10);

/// Offsets of the checksum in TCP and UDP headers.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Which packets are a check's, and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The director's port, of this check alone.
    pub local_port: u16,
    /// What the socket is connected to. The port is the VIP's, too.
    pub server: SocketAddr,
    /// What stands for the server's address on the wire; of its family.
    pub vip: IpAddr,
    /// The tunnel to the server, if there is one.
    pub tunnel: Option<Encapsulation>,
}

type Key = (Protocol, u16);

/// The checks under way.
#[derive(Debug, Default)]
pub struct Probes {
    /// How many routes there are, so that without any nobody takes the lock.
    count: AtomicUsize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// With the time at which a check that is over is forgotten.
    routes: HashMap<Key, (Route, Option<Instant>)>,
    /// Those that are over, in their order.
    over: VecDeque<(Instant, Key)>,
}

/// A check under way. It is over when this is dropped.
#[derive(Debug)]
pub struct Probe {
    probes: Arc<Probes>,
    key: Key,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is no check's, and as it was.
    Untouched,
    /// It was changed.
    Changed,
    /// It does not fit into its tunnel.
    TooLong,
}

/// The port by which packets leave, and what tunnels need.
#[derive(Debug)]
pub struct Leaving {
    /// The port's MTU.
    pub mtu: u16,
    /// Ids for outer packets.
    pub ids: Ids,
    /// For fragments, of which there are none.
    pub outbox: Outbox,
}

impl Probes {
    /// Has a check's packets changed from now on.
    #[must_use]
    pub fn begin(self: &Arc<Self>, route: Route, now: Instant) -> Probe {
        let key = (route.protocol, route.local_port);
        let mut known = self.lock();
        known.forget(now);
        known.routes.insert(key, (route, None));
        self.count.store(known.routes.len(), Ordering::Release);
        Probe { probes: Arc::clone(self), key }
    }

    fn end(&self, key: Key, now: Instant) {
        let mut known = self.lock();
        let until = now + LINGER;
        if let Some((_, end)) = known.routes.get_mut(&key) {
            *end = Some(until);
            known.over.push_back((until, key));
        }
        known.forget(now);
        self.count.store(known.routes.len(), Ordering::Release);
    }

    /// A packet from the kernel. It needs headroom where there may be a tunnel.
    pub fn outgoing(&self, frame: &mut Frame<'_>, leaving: &mut Leaving) -> Outcome {
        let Some(headers) = self.headers(frame) else { return Outcome::Untouched };
        let (source, destination) = addresses(&headers);
        let Some(route) = self.route(headers.protocol, headers.src_port) else {
            return Outcome::Untouched;
        };
        if SocketAddr::new(destination, headers.dst_port) != route.server {
            return Outcome::Untouched;
        }
        replace(frame.bytes_mut(), &headers, Side::Destination, route.vip);
        let Some(encapsulation) = route.tunnel else { return Outcome::Changed };
        let Some(tunnel) = Tunnel::new(encapsulation, source, destination) else {
            return Outcome::TooLong;
        };
        let bytes = frame.bytes();
        let hop = PortHop {
            port: frame.port,
            vlan: 0,
            src_mac: mac(&bytes[6..12]),
            dst_mac: mac(&bytes[..6]),
            mtu: leaving.mtu,
        };
        let flow = u32::from(headers.src_port) << 16;
        let path = Path { tunnel: &tunnel, hop: &hop, mtu: leaving.mtu, pmtu_disc: true, flow };
        match tun::forward(frame, &headers, &path, &mut leaving.ids, &mut leaving.outbox) {
            Ok(Sent::Whole) => Outcome::Changed,
            Ok(Sent::Fragments) | Err(_) => {
                leaving.outbox.clear();
                Outcome::TooLong
            }
        }
    }

    /// A packet for the kernel.
    pub fn incoming(&self, frame: &mut Frame<'_>) -> Outcome {
        let Some(headers) = self.headers(frame) else { return Outcome::Untouched };
        let Some(route) = self.route(headers.protocol, headers.dst_port) else {
            return Outcome::Untouched;
        };
        if (addresses(&headers).0, headers.src_port) != (route.vip, route.server.port()) {
            return Outcome::Untouched;
        }
        replace(frame.bytes_mut(), &headers, Side::Source, route.server.ip());
        Outcome::Changed
    }

    /// The headers of a packet that may be a check's.
    fn headers(&self, frame: &Frame<'_>) -> Option<Headers> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        // To whom it is does not matter here.
        let to = mac(frame.bytes().get(..6)?);
        let mut headers = Headers::NONE;
        let flow = parse(frame, to, &mut headers) == Ok(Parsed::Flow);
        let known = matches!(headers.protocol, Protocol::Tcp | Protocol::Udp);
        (flow && known && !headers.fragment).then_some(headers)
    }

    fn route(&self, protocol: Protocol, port: u16) -> Option<Route> {
        self.lock().routes.get(&(protocol, port)).map(|(route, _)| *route)
    }

    /// Who panics does so outside of this lock.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Forgets what is long over, unless its port has a new check.
    fn forget(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.over.front().filter(|(until, _)| *until <= now) {
            self.over.pop_front();
            if self.routes.get(&key).is_some_and(|(_, end)| *end == Some(until)) {
                self.routes.remove(&key);
            }
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.probes.end(self.key, Instant::now());
    }
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Puts an address of the packet's family in the place of one, and corrects the
/// checksums by it.
fn replace(bytes: &mut [u8], headers: &Headers, side: Side, new: IpAddr) {
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    let destination = matches!(side, Side::Destination);
    let difference = match new {
        IpAddr::V4(new) => {
            let at = l3 + if destination { 16 } else { 12 };
            let difference = put(&mut bytes[at..at + 4], &new.octets());
            correct(bytes, l3 + 10, difference);
            difference
        }
        IpAddr::V6(new) => {
            let at = l3 + if destination { 24 } else { 8 };
            put(&mut bytes[at..at + 16], &new.octets())
        }
    };
    if headers.protocol == Protocol::Tcp {
        correct(bytes, l4 + TCP_CHECKSUM, difference);
        return;
    }
    let at = l4 + UDP_CHECKSUM;
    // 0 says that there is none, and all ones is as good (RFC 768).
    if bytes[at..at + 2] != [0, 0] {
        correct(bytes, at, difference);
        if bytes[at..at + 2] == [0, 0] {
            bytes[at..at + 2].fill(0xff);
        }
    }
}

fn put(place: &mut [u8], new: &[u8]) -> u32 {
    let difference = checksum::replace(0, place, new);
    place.copy_from_slice(new);
    difference
}

fn correct(bytes: &mut [u8], at: usize, difference: u32) {
    let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    bytes[at..at + 2].copy_from_slice(&checksum::after(old, difference).to_be_bytes());
}

fn addresses(headers: &Headers) -> (IpAddr, IpAddr) {
    match headers.addresses {
        Addresses::V4 { src, dst } => (IpAddr::V4(src.into()), IpAddr::V4(dst.into())),
        Addresses::V6 { src, dst } => (IpAddr::V6(src.into()), IpAddr::V6(dst.into())),
    }
}

fn mac(bytes: &[u8]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(bytes);
    mac
}

#[cfg(test)]
mod tests;
