//! A blocking client of the control API.

use std::fmt;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};

use crate::api::{
    self, ConnectionCursor, ConnectionFilter, HealthCheck, NextHop, Reply, Request, Response,
    ServiceId, ServiceOrigin, ServiceStatus, Timeouts,
};
use crate::frame::{self, FrameError};

/// Where rvsd listens unless it is told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/rvs/rvsd.sock";

/// The environment variable that names another socket.
pub const SOCKET_VARIABLE: &str = "RVS_SOCKET";

/// The longest silence of the daemon that a client bears.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The socket to use: the one of the environment, or the default.
#[must_use]
pub fn socket_path() -> PathBuf {
    match std::env::var_os(SOCKET_VARIABLE) {
        Some(path) if !path.is_empty() => path.into(),
        _ => DEFAULT_SOCKET.into(),
    }
}

/// A connection to rvsd, past the hello.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    /// The longest silence to bear.
    patience: Duration,
    daemon: String,
    may_change: bool,
}

/// All services, put together from as many replies as it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// The rows, in the daemon's order.
    pub services: Vec<ServiceStatus>,
    /// Most connections that the tables of all workers hold together.
    pub table_size: u64,
}

impl Client {
    /// Connects to the daemon that listens on `path` and says hello.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        Self::connect_within(path, TIMEOUT)
    }

    /// The same, bearing at most `patience` of silence, now and later.
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Self, ClientError> {
        let stream = dial(path, patience).map_err(|error| refused(path, patience, error))?;
        let mut client = Self { stream, patience, daemon: String::new(), may_change: false };
        match client.call(&Request::Hello { version: api::VERSION }) {
            Ok(Response::Hello { version: api::VERSION, daemon, may_change }) => {
                client.daemon = daemon;
                client.may_change = may_change;
                Ok(client)
            }
            Ok(other) => Err(unexpected(&other)),
            Err(ClientError::Api(error)) => Err(ClientError::Refused(error)),
            Err(error) => Err(error),
        }
    }

    /// The daemon's package version.
    #[must_use]
    pub fn daemon(&self) -> &str {
        &self.daemon
    }

    /// Whether the daemon lets this client change things.
    #[must_use]
    pub fn may_change(&self) -> bool {
        self.may_change
    }

    /// Sends a request and waits for the answer to it. After any error but
    /// [`ClientError::Api`] the connection is closed: an answer that comes late
    /// must not be taken for the answer to the next request.
    pub fn call(&mut self, request: &Request) -> Result<Response, ClientError> {
        match self.exchange(request) {
            Ok(reply) => reply.map_err(ClientError::Api),
            Err(mut error) => {
                if let ClientError::TimedOut { after } = &mut error {
                    *after = self.patience;
                }
                // Best effort: the peer may have closed it already.
                let _ = self.stream.shutdown(Shutdown::Both);
                Err(error)
            }
        }
    }

    /// Makes a change that has no other answer than that it is done.
    pub fn change(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.call(request)? {
            Response::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists one service, or all of them.
    pub fn services(&mut self, service: Option<ServiceId>) -> Result<Services, ClientError> {
        let mut all = Services { services: Vec::new(), table_size: 0 };
        let mut cursor = None;
        loop {
            match self.call(&Request::ListServices { service, cursor })? {
                Response::Services { services, next, table_size } => {
                    all.services.extend(services);
                    all.table_size = table_size;
                    cursor = next;
                }
                other => return Err(unexpected(&other)),
            }
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Most connections that the tables of all workers hold together, without
    /// listing all services for it.
    pub fn table_size(&mut self) -> Result<u64, ClientError> {
        match self.call(&Request::ListServices { service: None, cursor: Some(0) })? {
            Response::Services { table_size, .. } => Ok(table_size),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads the settings.
    pub fn settings(&mut self) -> Result<api::Settings, ClientError> {
        match self.call(&Request::Settings {})? {
            Response::Settings { settings, .. } => Ok(settings),
            other => Err(unexpected(&other)),
        }
    }

    /// Lists the way to every server.
    pub fn next_hops(&mut self) -> Result<Vec<NextHop>, ClientError> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            match self.call(&Request::NextHops { cursor })? {
                Response::NextHops { next_hops, next } => {
                    all.extend(next_hops);
                    cursor = next;
                }
                other => return Err(unexpected(&other)),
            }
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Lists the requests that make all as it is.
    pub fn save(&mut self) -> Result<Vec<Request>, ClientError> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            match self.call(&Request::Save { cursor })? {
                Response::Saved { requests, next } => {
                    all.extend(requests);
                    cursor = next;
                }
                other => return Err(unexpected(&other)),
            }
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Lists where services come from.
    pub fn origins(&mut self) -> Result<Vec<ServiceOrigin>, ClientError> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            match self.call(&Request::Origins { cursor })? {
                Response::Origins { services, next } => {
                    all.extend(services);
                    cursor = next;
                }
                other => return Err(unexpected(&other)),
            }
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Lists the health checks.
    pub fn health(&mut self) -> Result<Vec<HealthCheck>, ClientError> {
        let mut all = Vec::new();
        let mut cursor = None;
        loop {
            match self.call(&Request::Health { cursor })? {
                Response::Health { checks, next } => {
                    all.extend(checks);
                    cursor = next;
                }
                other => return Err(unexpected(&other)),
            }
            if cursor.is_none() {
                return Ok(all);
            }
        }
    }

    /// Lists the connections page by page: `page` sees each one as it comes, so
    /// that a large table is never held as a whole.
    pub fn connections<E: From<ClientError>>(
        &mut self,
        mut page: impl FnMut(Vec<api::Connection>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut cursor = None;
        loop {
            let (connections, next) = self.connections_page(cursor, api::MAX_ROWS, None)?;
            page(connections)?;
            cursor = next;
            if cursor.is_none() {
                return Ok(());
            }
        }
    }

    /// Lists some connections from a cursor on; and where to go on.
    pub fn connections_page(
        &mut self,
        cursor: Option<ConnectionCursor>,
        limit: usize,
        filter: Option<&ConnectionFilter>,
    ) -> Result<(Vec<api::Connection>, Option<ConnectionCursor>), ClientError> {
        let filter = filter.cloned().map(Box::new);
        match self.call(&Request::ListConnections { cursor, limit, filter, count: false })? {
            Response::Connections { connections, next, .. } => Ok((connections, next)),
            other => Err(unexpected(&other)),
        }
    }

    /// Counts the connections that a filter lets pass, without listing them.
    pub fn count_connections(&mut self, filter: &ConnectionFilter) -> Result<u64, ClientError> {
        let (mut cursor, mut total) = (None, 0);
        loop {
            let request = Request::ListConnections {
                cursor,
                limit: api::MAX_ROWS,
                filter: Some(Box::new(filter.clone())),
                count: true,
            };
            match self.call(&request)? {
                Response::Connections { count: Some(count), next, .. } => {
                    total += count;
                    cursor = next;
                }
                other => return Err(unexpected(&other)),
            }
            if cursor.is_none() {
                return Ok(total);
            }
        }
    }

    /// Reads the timeouts in force.
    pub fn timeouts(&mut self) -> Result<Timeouts, ClientError> {
        match self.call(&Request::Timeouts {})? {
            Response::Timeouts { timeouts } => Ok(timeouts),
            other => Err(unexpected(&other)),
        }
    }

    fn exchange(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let most = if self.may_change { api::MAX_RESTORE } else { api::MAX_REQUEST };
        frame::write(&mut Quiet(&self.stream), request, most)?;
        let json = frame::read(&mut self.stream, api::MAX_REPLY)?.ok_or(ClientError::Closed)?;
        serde_json::from_slice(&json).map_err(|error| ClientError::BadReply(error.to_string()))
    }
}

/// Connects, waiting no longer than `patience`: `connect` blocks while the
/// backlog of a daemon that hangs is full (unix(7)), bounded by `SO_SNDTIMEO`.
fn dial(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    loop {
        match socket::connect(stream.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(stream),
        }
    }
}

/// Writes without SIGPIPE, which would end the program that the preload library
/// is in when the daemon goes away. Rust's own programs ignore the signal.
struct Quiet<'a>(&'a UnixStream);

impl Write for Quiet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(socket::send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why the daemon could not be asked, or what it refused.
#[derive(Debug)]
pub enum ClientError {
    /// Nothing listens on the socket.
    NotRunning {
        /// The socket.
        path: PathBuf,
        /// Whether the socket's file is there at all.
        exists: bool,
    },
    /// The socket's permissions keep this user out.
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// The group that may use it, where it can be read.
        group: Option<String>,
    },
    /// Another failure to connect.
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The daemon does not want to talk: it speaks another version of the
    /// protocol, or is busy with other clients.
    Refused(api::Error),
    /// The daemon did not answer in time.
    TimedOut {
        /// How long it had.
        after: Duration,
    },
    /// The daemon closed the connection.
    Closed,
    /// The daemon's answer makes no sense.
    BadReply(String),
    /// The request is too long, or the connection broke.
    Frame(FrameError),
    /// The daemon's own answer; the connection stays usable.
    Api(api::Error),
}

impl ClientError {
    /// Whether there never was a conversation with the daemon.
    #[must_use]
    pub fn unreachable(&self) -> bool {
        matches!(
            self,
            Self::NotRunning { .. }
                | Self::NotAllowed { .. }
                | Self::Connect { .. }
                | Self::Refused(_)
        )
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { path, exists } => {
                let path = path.display();
                let seen = if *exists { "nothing listens on" } else { "there is no socket" };
                write!(
                    f,
                    "Can't reach rvsd: {seen} {path}.\nStart rvsd, or set {SOCKET_VARIABLE} to \
                     the socket of its configuration."
                )
            }
            Self::NotAllowed { path, group } => {
                let path = path.display();
                let group = group.as_deref().unwrap_or("of the socket");
                write!(
                    f,
                    "Can't reach rvsd: permission denied on {path}.\nBecome root or a member of \
                     the group {group}."
                )
            }
            Self::Connect { path, error } => {
                write!(f, "Can't reach rvsd on {}: {error}.", path.display())
            }
            Self::Refused(error) => write!(f, "rvsd refuses to talk: {error}."),
            Self::TimedOut { after } => write!(
                f,
                "rvsd did not answer within {} s; its log tells what it is doing.",
                after.as_secs()
            ),
            Self::Closed => f.write_str(
                "rvsd closed the connection; it may be stopping. Its log tells the reason.",
            ),
            Self::BadReply(what) => write!(
                f,
                "rvsd's answer makes no sense ({what}). Is it of the same release as this program?"
            ),
            Self::Frame(error) => write!(f, "The connection to rvsd failed: {error}."),
            Self::Api(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<FrameError> for ClientError {
    fn from(error: FrameError) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, WouldBlock};
        match error {
            FrameError::Truncated => Self::Closed,
            FrameError::Io(error) => match error.kind() {
                // A blocking socket reports its own timeout as WouldBlock.
                WouldBlock | TimedOut => Self::TimedOut { after: TIMEOUT },
                BrokenPipe | ConnectionReset => Self::Closed,
                _ => Self::Frame(FrameError::Io(error)),
            },
            other => Self::Frame(other),
        }
    }
}

fn unexpected(response: &Response) -> ClientError {
    // The variant's name says enough; a listing may be megabytes.
    let shown = format!("{response:?}");
    let name = shown.split([' ', '{']).next().unwrap_or_default();
    ClientError::BadReply(format!("a response of the wrong kind, {name}"))
}

fn refused(path: &Path, patience: Duration, error: io::Error) -> ClientError {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => ClientError::NotRunning { path, exists: false },
        io::ErrorKind::ConnectionRefused => ClientError::NotRunning { path, exists: true },
        io::ErrorKind::PermissionDenied => {
            let group = socket_group(&path);
            ClientError::NotAllowed { path, group }
        }
        io::ErrorKind::WouldBlock => ClientError::TimedOut { after: patience },
        _ => ClientError::Connect { path, error },
    }
}

/// The name of the group that owns the socket.
fn socket_group(path: &Path) -> Option<String> {
    let gid = nix::unistd::Gid::from_raw(std::fs::metadata(path).ok()?.gid());
    Some(nix::unistd::Group::from_gid(gid).ok()??.name)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread::JoinHandle;

    use super::*;
    use crate::api::ErrorCode;
    use crate::test_server::{TestServer, hello};

    #[test]
    fn connect_says_hello_and_learns_about_the_daemon() {
        let server = TestServer::start(vec![hello()]);
        let client = Client::connect(server.path()).unwrap();
        assert_eq!(client.daemon(), "0.1.0");
        assert!(client.may_change());
        assert_eq!(server.requests(), [Request::Hello { version: api::VERSION }]);
    }

    #[test]
    fn a_daemon_that_does_not_want_to_talk_is_unreachable() {
        for code in [ErrorCode::Version, ErrorCode::Busy] {
            let server = TestServer::start(vec![Err(api::Error::new(code, "no, since"))]);
            let error = Client::connect(server.path()).unwrap_err();
            assert_eq!(error.to_string(), "rvsd refuses to talk: no, since.");
            assert!(error.unreachable());
        }
    }

    #[test]
    fn an_api_error_leaves_the_connection_usable() {
        let refusal = api::Error::new(ErrorCode::NoSuchService, "no such service");
        let server = TestServer::start(vec![hello(), Err(refusal.clone()), Ok(Response::Done)]);
        let mut client = Client::connect(server.path()).unwrap();
        let error = client.change(&Request::Flush {}).unwrap_err();
        assert!(matches!(error, ClientError::Api(e) if e == refusal));
        client.change(&Request::Flush {}).unwrap();
    }

    #[test]
    fn services_follow_the_cursor() {
        let page = |next| Ok(Response::Services { services: Vec::new(), next, table_size: 7 });
        let server = TestServer::start(vec![hello(), page(Some(3)), page(None)]);
        let mut client = Client::connect(server.path()).unwrap();
        assert_eq!(client.services(None).unwrap().table_size, 7);
        assert_eq!(
            server.requests()[1..],
            [
                Request::ListServices { service: None, cursor: None },
                Request::ListServices { service: None, cursor: Some(3) },
            ]
        );
    }

    #[test]
    fn the_table_size_needs_no_listing() {
        let reply = Ok(Response::Services { services: Vec::new(), next: None, table_size: 7 });
        let server = TestServer::start(vec![hello(), reply]);
        let mut client = Client::connect(server.path()).unwrap();
        assert_eq!(client.table_size().unwrap(), 7);
        let request = Request::ListServices { service: None, cursor: Some(0) };
        assert_eq!(server.requests()[1], request);
    }

    #[test]
    fn next_hops_follow_the_cursor() {
        let page = |next| Ok(Response::NextHops { next_hops: Vec::new(), next });
        let server = TestServer::start(vec![hello(), page(Some(3)), page(None)]);
        let mut client = Client::connect(server.path()).unwrap();
        assert_eq!(client.next_hops().unwrap(), []);
        assert_eq!(server.requests()[2], Request::NextHops { cursor: Some(3) });
    }

    #[test]
    fn connections_follow_the_cursor() {
        let cursor = ConnectionCursor { worker: 1, ipv6: false, group: 64 };
        let page = |next| Ok(Response::Connections { connections: Vec::new(), next, count: None });
        let server = TestServer::start(vec![hello(), page(Some(cursor)), page(None)]);
        let mut client = Client::connect(server.path()).unwrap();
        let mut pages = 0;
        let counted: Result<(), ClientError> = client.connections(|_| {
            pages += 1;
            Ok(())
        });
        counted.unwrap();
        assert_eq!(pages, 2);
        let limit = api::MAX_ROWS;
        let (cursor, filter, count) = (Some(cursor), None, false);
        let request = Request::ListConnections { cursor, limit, filter, count };
        assert_eq!(server.requests()[2], request);
    }

    #[test]
    fn a_wrong_kind_of_answer_is_an_error() {
        let server = TestServer::start(vec![hello(), Ok(Response::Done)]);
        let mut client = Client::connect(server.path()).unwrap();
        let error = client.services(None).unwrap_err().to_string();
        assert!(error.contains("a response of the wrong kind, Done"), "{error}");
    }

    #[test]
    fn a_missing_socket_says_that_rvsd_is_not_running() {
        let error = Client::connect(Path::new("/nonexistent/rvsd.sock")).unwrap_err().to_string();
        assert_eq!(
            error,
            "Can't reach rvsd: there is no socket /nonexistent/rvsd.sock.\nStart rvsd, or set \
             RVS_SOCKET to the socket of its configuration."
        );
    }

    #[test]
    fn a_dead_socket_says_that_nothing_listens() {
        let server = TestServer::start(vec![]);
        let path = server.path().to_owned();
        let _directory = server.stop();
        let error = Client::connect(&path).unwrap_err().to_string();
        assert!(error.starts_with("Can't reach rvsd: nothing listens on /"), "{error}");
    }

    #[test]
    fn a_daemon_that_hangs_is_an_error() {
        let directory = std::env::temp_dir().join(format!("rvs-hangs-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("rvsd.sock");
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        // Room for one client that is never accepted; the next one cannot even
        // connect.
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let patience = Duration::from_millis(20);
        let silent = Client::connect_within(&path, patience).unwrap_err();
        assert!(matches!(silent, ClientError::TimedOut { after } if after == patience));
        let _kept: Vec<_> = std::iter::from_fn(|| dial(&path, patience).ok()).take(9).collect();
        let full = Client::connect_within(&path, patience).unwrap_err();
        assert!(matches!(full, ClientError::TimedOut { after } if after == patience), "{full:?}");
        std::fs::remove_dir_all(directory).unwrap();
    }

    /// Runs one raw answer, after which the server closes the connection.
    fn answer_raw(bytes: &'static [u8]) -> ClientError {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server: JoinHandle<()> = std::thread::spawn(move || {
            frame::read(&mut theirs, api::MAX_REQUEST).unwrap().unwrap();
            theirs.write_all(bytes).unwrap();
        });
        let patience = TIMEOUT;
        let mut client = Client { stream: ours, patience, daemon: String::new(), may_change: true };
        let error = client.call(&Request::Flush {}).unwrap_err();
        server.join().unwrap();
        let again = client.call(&Request::Flush {}).unwrap_err();
        assert!(matches!(again, ClientError::Closed), "after {error:?}: {again:?}");
        error
    }

    #[test]
    fn a_broken_answer_closes_the_connection() {
        assert!(matches!(answer_raw(b""), ClientError::Closed));
        assert!(matches!(answer_raw(b"\0\0\0\x09{"), ClientError::Closed));
        assert!(matches!(answer_raw(b"\0\0\0\x02{}"), ClientError::BadReply(_)));
        assert!(matches!(
            answer_raw(b"\xff\xff\xff\xff"),
            ClientError::Frame(FrameError::TooLong { .. })
        ));
    }
}
