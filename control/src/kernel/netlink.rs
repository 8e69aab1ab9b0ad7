//! The socket that hears of every change: it joins the kernel's groups first,
//! then reads all tables, so that nothing falls between the two.
//!
//! One socket does both, and the kernel queues the parts of a dump and the
//! changes in between in order; a change is applied again where the dump
//! already had it. When the socket's buffer overflows (ENOBUFS) messages are
//! lost, and all tables are read anew.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, parse_i32,
};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::decode;
use super::mirror::Mirror;

/// A datagram of a dump is at most 32 KiB; notifications are smaller.
const DATAGRAM: usize = 64 * 1024;
/// Bytes that may queue up before the kernel drops messages: some 50,000
/// route changes.
const QUEUE: usize = 8 * 1024 * 1024;
/// Datagrams that one call of [`Monitor::read`] takes: some 4,000 routes, about
/// 5 ms, so that a dump of a million does not keep the API waiting.
const BUDGET: usize = 8;

// Multicast groups, linux/rtnetlink.h: links, neighbours, IPv4 addresses and
// routes, IPv6 addresses and routes, next-hop objects.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];

/// A request to the kernel that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetlinkError {
    /// What was asked, for example `add address 10.0.0.1/32 to link 1`.
    pub operation: String,
    /// What happened.
    pub fault: Fault,
}

/// How a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel or the socket refused.
    Errno(Errno),
    /// No answer in time.
    Timeout,
}

impl NetlinkError {
    pub(super) fn errno(operation: &str, errno: Errno) -> Self {
        Self { operation: operation.to_owned(), fault: Fault::Errno(errno) }
    }

    pub(super) fn io(operation: &str, error: &io::Error) -> Self {
        Self::errno(operation, Errno::from_raw(error.raw_os_error().unwrap_or(0)))
    }

    pub(super) fn timeout(operation: &str) -> Self {
        Self { operation: operation.to_owned(), fault: Fault::Timeout }
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.operation)?;
        match self.fault {
            Fault::Errno(Errno::EPERM) => {
                f.write_str("EPERM: not permitted; run as root or with CAP_NET_ADMIN")
            }
            Fault::Errno(errno) => write!(f, "{errno}"),
            Fault::Timeout => f.write_str("the kernel did not answer in time"),
        }
    }
}

impl std::error::Error for NetlinkError {}

/// Whether [`Monitor::read`] has emptied the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing left to read: wait for the socket.
    Idle,
    /// There may be more: call again soon, the socket may not wake you.
    More,
}

/// What has happened on the socket so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MonitorStats {
    /// How often messages were lost because the queue was full.
    pub overruns: u64,
    /// How often all tables were read.
    pub dumps: u64,
    /// Messages that could not be decoded, and were left out.
    pub undecoded: u64,
}

/// Hears of the kernel's changes and feeds a [`Mirror`].
pub struct Monitor {
    socket: Socket,
    /// Its netlink address, which marks the parts of its own dumps.
    port: u32,
    buffer: Vec<u8>,
    sequence: u32,
    /// The running dump: which of [`STAGES`] it is at.
    stage: Option<usize>,
    dump_wanted: bool,
    stats: MonitorStats,
}

impl Monitor {
    /// Joins the groups. The mirror is filled by the following reads.
    pub fn open() -> Result<Self, NetlinkError> {
        let (socket, port) = open_socket()?;
        grow_queue(&socket, QUEUE);
        for group in GROUPS {
            let joined = socket.add_membership(group);
            joined
                .map_err(|error| NetlinkError::io("subscribe to the kernel's changes", &error))?;
        }
        Ok(Self {
            socket,
            port,
            buffer: vec![0; DATAGRAM],
            sequence: 0,
            stage: None,
            dump_wanted: true,
            stats: MonitorStats::default(),
        })
    }

    /// Reads until the mirror holds all tables, for the start of the daemon.
    pub fn fill(&mut self, mirror: &mut Mirror, timeout: Duration) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + timeout;
        loop {
            let progress = self.read(mirror)?;
            if self.stats.dumps > 0 && self.stage.is_none() && !self.dump_wanted {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(NetlinkError::timeout("read links, addresses and routes"));
            }
            if progress == Progress::Idle {
                wait_readable(&self.socket, deadline)?;
            }
        }
    }

    /// Takes what is there, without waiting, and applies it to `mirror`. Lost
    /// messages are no error: they lead to a new dump. After an error the
    /// monitor is of no more use; open another.
    pub fn read(&mut self, mirror: &mut Mirror) -> Result<Progress, NetlinkError> {
        for _ in 0..BUDGET {
            if self.stage.is_none() && self.dump_wanted {
                self.begin_dump(mirror)?;
            }
            match receive(&self.socket, &mut self.buffer) {
                Ok(length) => self.datagram(length, mirror)?,
                Err(Errno::EAGAIN) => return Ok(Progress::Idle),
                Err(Errno::EINTR) => {}
                // Either way something is missing.
                Err(Errno::ENOBUFS | Errno::EMSGSIZE) => {
                    self.stats.overruns += 1;
                    self.dump_wanted = true;
                }
                Err(errno) => return Err(NetlinkError::errno("read the kernel's changes", errno)),
            }
            self.dump_wanted |= mirror.take_stale();
        }
        Ok(Progress::More)
    }

    /// What has happened so far.
    pub fn stats(&self) -> MonitorStats {
        self.stats
    }

    fn begin_dump(&mut self, mirror: &mut Mirror) -> Result<(), NetlinkError> {
        self.dump_wanted = false;
        mirror.begin_dump();
        self.start_stage(0)
    }

    fn start_stage(&mut self, stage: usize) -> Result<(), NetlinkError> {
        self.sequence += 1;
        self.stage = Some(stage);
        let (name, request) = STAGES[stage];
        send(&self.socket, NLM_F_REQUEST | NLM_F_DUMP, self.sequence, request())
            .map_err(|error| NetlinkError::io(&format!("list {name}"), &error))
    }

    fn datagram(&mut self, length: usize, mirror: &mut Mirror) -> Result<(), NetlinkError> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut result = Ok(());
        for message in messages(&buffer[..length]) {
            result = self.message(&message, mirror);
            if result.is_err() {
                break;
            }
        }
        self.buffer = buffer;
        result
    }

    fn message(
        &mut self,
        message: &NetlinkBuffer<&[u8]>,
        mirror: &mut Mirror,
    ) -> Result<(), NetlinkError> {
        // Changes carry the sequence number of whoever made them, but never
        // the port of this socket, which makes no changes.
        let ours = message.port_number() == self.port;
        match message.message_type() {
            NLMSG_DONE | NLMSG_ERROR => return self.stage_done(message.payload(), mirror),
            _ if message.flags() & NLM_F_DUMP_INTR != 0 && ours => self.dump_wanted = true,
            _ => {}
        }
        match decode::event(message.message_type(), message.flags(), message.payload()) {
            Ok(Some(event)) if ours => mirror.apply_dumped(&event),
            Ok(Some(event)) => mirror.apply(&event),
            Ok(None) => {}
            Err(error) => {
                self.stats.undecoded += 1;
                log::debug!(
                    "a kernel message of type {} is left out: {error}",
                    message.message_type()
                );
            }
        }
        Ok(())
    }

    fn stage_done(&mut self, payload: &[u8], mirror: &mut Mirror) -> Result<(), NetlinkError> {
        let Some(stage) = self.stage else { return Ok(()) };
        match answer_code(payload) {
            // A kernel without IPv6 has no such tables.
            Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT) => {}
            Err(errno) => {
                return Err(NetlinkError::errno(&format!("list {}", STAGES[stage].0), errno));
            }
        }
        if stage + 1 < STAGES.len() {
            return self.start_stage(stage + 1);
        }
        self.stage = None;
        self.stats.dumps += 1;
        mirror.finish_dump();
        Ok(())
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What is listed, and the request for it.
type Stage = (&'static str, fn() -> RouteNetlinkMessage);

/// The parts of a dump, one after the other: a socket can run only one.
const STAGES: [Stage; 5] = [
    ("links", || RouteNetlinkMessage::GetLink(LinkMessage::default())),
    ("addresses", || RouteNetlinkMessage::GetAddress(AddressMessage::default())),
    ("IPv4 routes", || routes_of(AddressFamily::Inet)),
    ("IPv6 routes", || routes_of(AddressFamily::Inet6)),
    ("neighbours", || RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default())),
];

fn routes_of(family: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    RouteNetlinkMessage::GetRoute(message)
}

/// A non-blocking socket that talks to the kernel, and its netlink address.
pub(super) fn open_socket() -> Result<(Socket, u32), NetlinkError> {
    let open = || {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let address = socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok((socket, address.port_number()))
    };
    open().map_err(|error| NetlinkError::io("open a netlink socket", &error))
}

/// Root may pass the limit of net.core.rmem_max; others get what it allows,
/// and overruns more often.
fn grow_queue(socket: &Socket, bytes: usize) {
    if setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &bytes).is_err() {
        let _ = setsockopt(&socket.as_fd(), sockopt::RcvBuf, &bytes);
    }
}

pub(super) fn send(
    socket: &Socket,
    flags: u16,
    sequence: u32,
    request: RouteNetlinkMessage,
) -> io::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).map(|_| ())
}

/// Length of the next datagram; EMSGSIZE if `buffer` was too short for it.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let length = nix::sys::socket::recv(socket.as_raw_fd(), buffer, flags)?;
    if length > buffer.len() { Err(Errno::EMSGSIZE) } else { Ok(length) }
}

/// Waits until something can be received, or until `deadline`.
pub(super) fn wait_readable(socket: &Socket, deadline: Instant) -> Result<(), NetlinkError> {
    let left = deadline.saturating_duration_since(Instant::now());
    // Rounded up, so that a wait for less than a millisecond does not spin.
    let millis = left.as_millis().saturating_add(1);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(NetlinkError::errno("wait for the kernel's answer", errno)),
    }
}

/// The messages of a datagram, each aligned to four bytes.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(datagram).ok()?;
        let length = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
        Some(message)
    })
}

/// The result in an NLMSG_ERROR or NLMSG_DONE: 0 or a negative errno. An empty
/// NLMSG_DONE is a success.
pub(super) fn answer_code(payload: &[u8]) -> Result<(), Errno> {
    let code = payload.get(..4).and_then(|code| parse_i32(code).ok()).unwrap_or(0);
    if code == 0 { Ok(()) } else { Err(Errno::from_raw(code.wrapping_neg())) }
}
