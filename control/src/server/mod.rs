//! The control socket: accepts clients, reads their requests, writes replies.
//!
//! Runs inside the control thread's event loop and never blocks. Requests come
//! out of [`ApiServer::next_request`], one client after the other; a client has
//! at most one under way, and its reply goes in by [`ApiServer::reply`] when it
//! is ready.

mod access;
mod client;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use crate::api::{self, Error, ErrorCode, Reply, Request};
pub use access::Access;
use client::{Client, Pumped};

/// Most clients at a time.
const MAX_CLIENTS: usize = 1024;
/// Most of them that may look only: anyone may be among these, and must not
/// lock out those who may change things.
const MAX_LOOKERS: usize = 512;
/// Pause after a client could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Names a client until it goes; names are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(usize);

#[cfg(test)]
impl ClientId {
    /// One for tests.
    pub(crate) const fn test(number: usize) -> Self {
        Self(number)
    }
}

/// The control socket and its clients.
#[derive(Debug)]
pub struct ApiServer {
    listener: UnixListener,
    path: PathBuf,
    access: Access,
    clients: HashMap<ClientId, Client<UnixStream>>,
    /// Those of the clients that may look only.
    lookers: usize,
    /// When to try again after the system had no room for another client.
    accept_again: Option<Instant>,
    /// Clients that may have something to do.
    ready: VecDeque<ClientId>,
    queued: HashSet<ClientId>,
    /// Tokens from here on are clients.
    next: usize,
    poll: Registry,
}

impl ApiServer {
    /// Listens at `path`, as `token` of the event loop; clients get the tokens
    /// above it. A socket file left behind by a daemon that died is replaced;
    /// anything else at the path is left alone.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn bind(
        path: &Path,
        access: Access,
        poll: &Registry,
        token: Token,
    ) -> Result<Self, String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            format!("control socket {}: {what}: {error}", path.display())
        };
        remove_stale(path).map_err(|e| failed("cannot replace", &e))?;
        let mut listener = UnixListener::bind(path).map_err(|e| {
            failed("cannot listen", &e)
                + "; control.socket needs a directory that exists and that rvsd may write"
        })?;
        access.apply(path).map_err(|e| failed("cannot set its group and mode", &e))?;
        let poll = poll.try_clone().map_err(|e| failed("cannot watch", &e))?;
        poll.register(&mut listener, token, Interest::READABLE)
            .map_err(|e| failed("cannot watch", &e))?;
        Ok(Self {
            listener,
            path: path.to_path_buf(),
            access,
            clients: HashMap::new(),
            lookers: 0,
            accept_again: None,
            ready: VecDeque::new(),
            queued: HashSet::new(),
            next: token.0 + 1,
            poll,
        })
    }

    /// Takes new clients; to be called when the listener's token is ready.
    pub fn accept(&mut self) {
        let failed_before = self.accept_again.take().is_some();
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    if !failed_before {
                        log::warn!("control socket: cannot take a client: {error}; trying again");
                    }
                    // Out of descriptors: no event will tell when there are.
                    self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn welcome(&mut self, mut stream: UnixStream) {
        let may_change = self.access.may_change(&stream);
        if self.clients.len() >= MAX_CLIENTS || (!may_change && self.lookers >= MAX_LOOKERS) {
            let message =
                format!("{} clients are connected already; try again", self.clients.len());
            let reply: Reply = Err(Error::new(ErrorCode::Busy, message));
            if let Ok(frame) = crate::frame::encode(&reply, api::MAX_REPLY) {
                // A new socket has room for a line; if not, closing says it.
                let _ = io::Write::write(&mut stream, &frame);
            }
            return;
        }
        let id = ClientId(self.next);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.register(&mut stream, Token(id.0), interest) {
            log::warn!("control socket: cannot watch a client: {error}");
            return;
        }
        self.next += 1;
        self.lookers += usize::from(!may_change);
        self.clients.insert(id, Client::new(stream, may_change));
        self.wake(id);
    }

    /// Notes that a token of the event loop is ready, if it is a client's.
    pub fn ready(&mut self, token: Token) {
        let id = ClientId(token.0);
        if self.clients.contains_key(&id) {
            self.wake(id);
        }
    }

    fn wake(&mut self, id: ClientId) {
        if self.queued.insert(id) {
            self.ready.push_back(id);
        }
    }

    /// Whether [`ApiServer::next_request`] left something to do, and should be
    /// called again after a look at what else there is.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next request of any client, and who asked. Each client that is ready
    /// gets one turn at most.
    pub fn next_request(&mut self, now: Instant) -> Option<(ClientId, Request)> {
        for _ in 0..self.ready.len() {
            let id = self.ready.pop_front()?;
            self.queued.remove(&id);
            let Some(client) = self.clients.get_mut(&id) else { continue };
            match client.pump(now) {
                Pumped::Idle => {}
                Pumped::More => self.wake(id),
                Pumped::Request(request) => return Some((id, request)),
                Pumped::Close => self.close(id),
            }
        }
        None
    }

    /// Answers a client's request. Without effect when the client has gone.
    pub fn reply(&mut self, id: ClientId, reply: &Reply) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.reply(reply);
        self.wake(id);
    }

    /// Ends conversations that are stuck. To be called some times a second.
    pub fn expire(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept();
        }
        let late: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, client)| client.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            if let Some(client) = self.clients.get_mut(&id) {
                client.expire();
            }
            self.wake(id);
        }
    }

    fn close(&mut self, id: ClientId) {
        if let Some(mut client) = self.clients.remove(&id) {
            self.lookers -= usize::from(!client.may_change);
            // Closing the descriptor ends the watch as well.
            let _ = self.poll.deregister(&mut client.stream);
        }
    }
}

/// Removes a socket that nobody listens on. The lock of the run directory does
/// not say so: another daemon may have another one and the same socket.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => {
            return Err(io::Error::other(
                "this is not a socket; set control.socket to another path",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    // Does not block, and a listener that is busy refuses otherwise.
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::Error::other(
            "another process listens there; stop it, or set control.socket to another path",
        )),
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
