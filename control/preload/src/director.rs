//! Carries requests out: each one over a connection of its own, so that there
//! is none to find again after `rvsd` was restarted, and none to share between
//! the two sides of a fork.

use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use control_api::api::{Error, ErrorCode, Method, Request, ServerSpec, ServiceId, ServiceSpec};
use control_api::client::{self, Client, ClientError};
use nix::errno::Errno;

use crate::family;
use crate::netlink::{Header, NLM_F_ACK, NLM_F_MULTI, acknowledgement, done};
use crate::operation::{Operation, Server, Service};
use crate::sockopt;
use crate::status::{self, To};

/// The longest silence of `rvsd` to bear. A worker that hangs makes it answer
/// after two seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where `rvsd` is.
#[derive(Debug, Clone)]
pub(crate) struct Director {
    socket: PathBuf,
    patience: Duration,
}

/// The one that the environment names (`RVS_SOCKET`). Read once: a program may
/// change its environment while another of its threads is here.
pub(crate) fn ours() -> &'static Director {
    static DIRECTOR: OnceLock<Director> = OnceLock::new();
    DIRECTOR.get_or_init(|| Director { socket: client::socket_path(), patience: PATIENCE })
}

impl Director {
    /// A connection to it. Whatever the caller makes of the error, standard
    /// error tells about it: what an errno can say is not enough to find the
    /// cause.
    pub(crate) fn connect(&self) -> Result<Client, Errno> {
        let connected = Client::connect_within(&self.socket, self.patience);
        let client = connected.map_err(|error| told(&error));
        sockopt::note(client.as_ref().map(drop).map_err(|errno| *errno));
        client
    }

    /// The messages that answer a request of ours, as the kernel would send
    /// them to the socket with the netlink port `port`.
    pub(crate) fn answer(&self, request: &[u8], port: u32) -> Vec<Vec<u8>> {
        let header = Header::of(request);
        let (sequence, flags) = header.map_or((0, 0), |h| (h.sequence, h.flags));
        let to = To { sequence, port };
        let answer = if family::asks_for_family(request) {
            self.connect().map(|_| Answer::One(family::description(sequence, port)))
        } else {
            Operation::of(request).and_then(|operation| self.carry_out(operation, to))
        };
        let acknowledged = |messages: &mut Vec<Vec<u8>>| {
            if flags & NLM_F_ACK != 0 {
                messages.push(acknowledgement(request, port, None));
            }
        };
        let mut messages = Vec::new();
        match answer {
            Ok(Answer::Done) => acknowledged(&mut messages),
            Ok(Answer::One(message)) => {
                messages.push(message);
                acknowledged(&mut messages);
            }
            Ok(Answer::Dump(listed)) => {
                messages = listed;
                messages.push(done(sequence, port));
            }
            Err(errno) => messages.push(acknowledgement(request, port, Some(errno))),
        }
        messages
    }

    fn carry_out(&self, operation: Operation, to: To) -> Result<Answer, Errno> {
        let mut client = match operation {
            Operation::StartDaemon => {
                say("Connection synchronisation is not built into this version of RVS");
                return Err(UNSUPPORTED);
            }
            Operation::StopDaemon => return Err(Errno::ESRCH),
            _ => self.connect()?,
        };
        list(&mut client, &operation, to)
            .unwrap_or_else(|| change(&mut client, operation).map(|()| Answer::Done))
            .map_err(|error| match error {
                Failed::Client(error) => told(&error),
                Failed::Errno(errno) => errno,
            })
    }
}

/// What comes back for a request.
enum Answer {
    /// Nothing but the acknowledgement.
    Done,
    One(Vec<u8>),
    Dump(Vec<Vec<u8>>),
}

/// Why a request failed.
enum Failed {
    Client(ClientError),
    /// What was asked for has no form in the control API.
    Errno(Errno),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<Errno> for Failed {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

/// Carries out what only reads; `None` for what changes something.
fn list(client: &mut Client, operation: &Operation, to: To) -> Option<Result<Answer, Failed>> {
    let listed = match *operation {
        Operation::Services => client.services(None).map(|listed| {
            let services = listed.services.iter();
            Answer::Dump(services.map(|s| status::service(s, NLM_F_MULTI, to)).collect())
        }),
        Operation::Service(id) => client.services(Some(id)).and_then(|listed| {
            let service = listed.services.first().ok_or_else(no_such_service)?;
            Ok(Answer::One(status::service(service, 0, to)))
        }),
        Operation::Servers(id) => match client.services(Some(id)) {
            // The kernel lists nothing for a service that does not exist.
            Err(error) if is_unknown_service(&error) => Ok(Answer::Dump(Vec::new())),
            other => other.map(|listed| {
                let servers = listed.services.iter().flat_map(|service| &service.servers);
                Answer::Dump(servers.map(|s| status::server(s, NLM_F_MULTI, to)).collect())
            }),
        },
        Operation::Daemons => Ok(Answer::Dump(Vec::new())),
        Operation::Timeouts => {
            client.timeouts().map(|timeouts| Answer::One(status::timeouts(&timeouts, to)))
        }
        Operation::Info => client.table_size().map(|size| Answer::One(status::info(size, to))),
        _ => return None,
    };
    Some(listed.map_err(Failed::Client))
}

/// Carries out what changes something.
fn change(client: &mut Client, operation: Operation) -> Result<(), Failed> {
    let request = match operation {
        Operation::AddService(service) => {
            let spec = ServiceSpec::new(service.id, service.scheduler.clone());
            Request::AddService { service: described(spec, &service)? }
        }
        Operation::EditService(service) => {
            // What netlink cannot say (FULLNAT's options) stays as it is.
            let spec = present(client, service.id)?;
            Request::EditService { service: described(spec, &service)? }
        }
        Operation::DeleteService(service) => Request::DeleteService { service },
        Operation::AddServer(service, server) => {
            Request::AddServer { service, server: new_server(client, service, &server)? }
        }
        Operation::EditServer(service, server) => {
            Request::EditServer { service, server: edited_server(client, service, &server)? }
        }
        Operation::DeleteServer(service, server) => Request::DeleteServer { service, server },
        Operation::SetTimeouts(timeouts) => Request::SetTimeouts { timeouts },
        Operation::Zero(service) => Request::Zero { service },
        Operation::Flush => Request::Flush {},
        // Those that `list` and `carry_out` know.
        _ => return Err(Failed::Errno(Errno::EOPNOTSUPP)),
    };
    Ok(client.change(&request)?)
}

fn present(client: &mut Client, id: ServiceId) -> Result<ServiceSpec, ClientError> {
    let services = client.services(Some(id))?.services;
    services.into_iter().next().map(|service| service.spec).ok_or_else(no_such_service)
}

fn described(mut spec: ServiceSpec, service: &Service) -> Result<ServiceSpec, Errno> {
    let old_name = std::mem::replace(&mut spec.scheduler, service.scheduler.clone());
    if old_name != service.scheduler {
        // Flags are the scheduler's own.
        spec.scheduler_flags.clear();
    }
    service.options.put(&mut spec)?;
    Ok(spec)
}

fn spec_of(server: &Server, method: Method) -> ServerSpec {
    ServerSpec {
        address: server.address,
        method,
        weight: server.weight,
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
    }
}

/// A server to add. In a service that has local addresses for it, which only
/// FULLNAT needs, `Masq` stands for FULLNAT: netlink has no word for that.
fn new_server(
    client: &mut Client,
    service: ServiceId,
    server: &Server,
) -> Result<ServerSpec, Failed> {
    let method = server.forwarding.method()?;
    if !server.forwarding.is_masq() {
        return Ok(spec_of(server, method));
    }
    let service = present(client, service)?;
    let ipv6 = server.address.is_ipv6();
    let fullnat = service.local_addresses.iter().any(|address| address.is_ipv6() == ipv6);
    Ok(spec_of(server, if fullnat { Method::Fullnat } else { method }))
}

/// A server to change. One under FULLNAT, which was listed as `Masq`, remains
/// so when it is to be `Masq`.
fn edited_server(
    client: &mut Client,
    service: ServiceId,
    server: &Server,
) -> Result<ServerSpec, Failed> {
    let method = server.forwarding.method()?;
    if !server.forwarding.is_masq() {
        return Ok(spec_of(server, method));
    }
    let listed = client.services(Some(service))?.services;
    let fullnat = listed.iter().flat_map(|service| &service.servers).any(|present| {
        present.spec.address == server.address && present.spec.method == Method::Fullnat
    });
    Ok(spec_of(server, if fullnat { Method::Fullnat } else { method }))
}

fn no_such_service() -> ClientError {
    ClientError::Api(Error::new(ErrorCode::NoSuchService, "No such service"))
}

fn is_unknown_service(error: &ClientError) -> bool {
    matches!(error, ClientError::Api(error) if error.code == ErrorCode::NoSuchService)
}

/// The errno that stands for an error; where that says too little, standard
/// error gets the words.
pub(crate) fn told(error: &ClientError) -> Errno {
    let errno = errno_of(error);
    let speaks_for_itself = matches!(errno, Errno::EEXIST | Errno::ESRCH | Errno::ENOENT);
    if !speaks_for_itself || !matches!(error, ClientError::Api(_)) {
        let prefix = if matches!(error, ClientError::Api(_)) { "rvsd: " } else { "" };
        say(&format!("{prefix}{error}"));
    }
    errno
}

/// Writes a line to standard error, in one piece. Without one the errno has to
/// do.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// The errno for an error of rvsd, the kernel's where it has that error. Others
/// are of those that libnl does not turn into a mere "failure", for which
/// keepalived says "Permission denied (you must be root)".
fn errno_of(error: &ClientError) -> Errno {
    match error {
        ClientError::NotRunning { .. }
        | ClientError::Closed
        | ClientError::Refused(_)
        | ClientError::BadReply(_)
        | ClientError::Connect { .. }
        | ClientError::Frame(_) => Errno::ENODEV,
        ClientError::NotAllowed { .. } => Errno::EPERM,
        ClientError::TimedOut { .. } => Errno::EBUSY,
        ClientError::Api(error) => match error.code {
            ErrorCode::ServiceExists | ErrorCode::ServerExists => Errno::EEXIST,
            ErrorCode::NoSuchService | ErrorCode::ServiceNotDefined => Errno::ESRCH,
            ErrorCode::NoSuchServer | ErrorCode::NoSuchScheduler => Errno::ENOENT,
            ErrorCode::InvalidArgument => Errno::EINVAL,
            ErrorCode::Unsupported => UNSUPPORTED,
            ErrorCode::NoSpace => Errno::ENOMEM,
            ErrorCode::Permission => Errno::EPERM,
            ErrorCode::Busy | ErrorCode::TooManyObservations | ErrorCode::WorkerStalled => {
                Errno::EBUSY
            }
            ErrorCode::NoSuchObservation => Errno::ENOENT,
            ErrorCode::BadConfiguration
            | ErrorCode::BadRequest
            | ErrorCode::Version
            | ErrorCode::TooLong
            | ErrorCode::TimedOut => Errno::ENODEV,
        },
    }
}

/// Not EOPNOTSUPP, for which the tools have words of their own, about IPv6.
const UNSUPPORTED: Errno = Errno::EPROTONOSUPPORT;

#[cfg(test)]
#[path = "director_tests.rs"]
pub(crate) mod tests;
