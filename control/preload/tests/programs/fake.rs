//! A daemon that lists what it was given, to as many clients as come.

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::api::{
    self, Connection, Error, ErrorCode, Reply, Request, Response, ServiceStatus, Timeouts,
};
use control::frame;

use crate::bench::Directory;

/// What it lists.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) services: Vec<ServiceStatus>,
    pub(crate) connections: Vec<Connection>,
}

/// The daemon. Its threads end with the process.
pub(crate) struct Fake {
    socket: PathBuf,
    _directory: Directory,
}

impl Fake {
    pub(crate) fn start(state: State) -> Self {
        let directory = Directory::new();
        let socket = directory.0.join("rvsd.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (state, stream) = (Arc::clone(&state), stream.unwrap());
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { socket, _directory: directory }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

fn serve(mut stream: UnixStream, state: &State) {
    while let Ok(Some(json)) = frame::read(&mut stream, api::MAX_REQUEST) {
        let request = serde_json::from_slice(&json).unwrap();
        frame::write(&mut stream, &answer(request, state), api::MAX_REPLY).unwrap();
    }
}

fn answer(request: Request, state: &State) -> Reply {
    let services = |services| Ok(Response::Services { services, next: None, table_size: 4096 });
    match request {
        Request::Hello { .. } => {
            let daemon = "0.1.0".into();
            Ok(Response::Hello { version: api::VERSION, daemon, may_change: true })
        }
        Request::ListServices { service: None, cursor: None } => services(state.services.clone()),
        Request::ListServices { service: None, cursor: Some(_) } => services(Vec::new()),
        Request::ListServices { service: Some(id), .. } => {
            match state.services.iter().find(|service| service.spec.id == id) {
                Some(service) => services(vec![service.clone()]),
                None => Err(Error::new(ErrorCode::NoSuchService, "No such service")),
            }
        }
        Request::ListConnections { .. } => Ok(Response::Connections {
            connections: state.connections.clone(),
            next: None,
            count: None,
        }),
        Request::Timeouts {} => {
            Ok(Response::Timeouts { timeouts: Timeouts { tcp: 900, tcp_fin: 120, udp: 300 } })
        }
        other => Err(Error::new(ErrorCode::Unsupported, format!("{other:?}"))),
    }
}
