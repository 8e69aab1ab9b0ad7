//! A daemon for tests: it answers each request with the next prepared reply.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::api::{self, Reply, Request, Response};
use crate::frame;

/// The usual answer to a hello.
pub fn hello() -> Reply {
    let daemon = "0.1.0".into();
    Ok(Response::Hello { version: api::VERSION, daemon, may_change: true })
}

/// Serves one connection on a socket in a directory of its own.
pub struct TestServer {
    directory: Directory,
    path: PathBuf,
    requests: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
}

/// A directory that is removed with all that is in it.
pub struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl TestServer {
    /// Listens, and answers the n-th request with the n-th reply.
    pub fn start(replies: Vec<Reply>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory =
            std::env::temp_dir().join(format!("rvs-client-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("rvsd.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let thread = std::thread::spawn(move || {
            if let Ok((stream, _)) = listener.accept() {
                serve(stream, replies, &seen);
            }
        });
        Self { directory: Directory(directory), path, requests, thread: Some(thread) }
    }

    /// Its socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Stops listening but leaves the socket's file.
    pub fn stop(mut self) -> Directory {
        let _ = UnixStream::connect(&self.path);
        self.thread.take().unwrap().join().unwrap();
        self.directory
    }
}

fn serve(mut stream: UnixStream, replies: Vec<Reply>, seen: &Mutex<Vec<Request>>) {
    for reply in replies {
        let Ok(Some(json)) = frame::read(&mut stream, api::MAX_REQUEST) else {
            return;
        };
        seen.lock().unwrap().push(serde_json::from_slice(&json).unwrap());
        frame::write(&mut stream, &reply, api::MAX_REPLY).unwrap();
    }
}
