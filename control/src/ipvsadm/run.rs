//! Carries a command out: requests to rvsd, listings to standard output,
//! messages to standard error, and the exit code.

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::path::Path;

use super::grammar::{self, Command, List, Listing, UsageError};
use super::help;
use super::names::{Names, Ports};
use super::output::{self, View};
use crate::api::{self, ErrorCode, Request, ServiceId};
use crate::client::{Client, ClientError};

/// What a command reads and writes.
pub struct Streams<'a> {
    /// Where `-R` reads.
    pub stdin: &'a mut dyn BufRead,
    /// Where listings go.
    pub stdout: &'a mut dyn Write,
    /// Where messages go.
    pub stderr: &'a mut dyn Write,
}

/// Runs one command line, `args` being the words after the program's name, and
/// gives the exit code that ipvsadm would.
pub fn run<'a>(
    args: impl IntoIterator<Item = OsString>,
    program: &'a str,
    socket: &'a Path,
    streams: Streams<'a>,
) -> u8 {
    let mut session = Session { program, socket, ports: Ports::system(), client: None, streams };
    let result = session.command_line(args).and_then(|()| Ok(session.streams.stdout.flush()?));
    match result {
        Ok(()) => 0,
        // The reader of a pipe has seen enough.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            // When standard error is closed too, the exit code has to do.
            let _ = writeln!(session.streams.stderr, "{}", failure.message());
            failure.code()
        }
    }
}

/// Why a command failed.
enum Failure {
    Usage(UsageError),
    /// The daemon refused, or could not be asked. The flag tells whether the
    /// command was to list something.
    Client(ClientError, bool),
    /// Not possible in this version.
    Refused(&'static str),
    /// Some lines of `-R` failed; their messages are out already.
    Restore(u8),
    Input(io::Error),
    Output(io::Error),
}

impl Failure {
    fn message(&self) -> String {
        match self {
            Self::Usage(error) => error.message.clone(),
            Self::Client(ClientError::Api(error), _) => api_message(error),
            Self::Client(error, _) => error.to_string(),
            Self::Refused(message) => (*message).to_owned(),
            Self::Restore(_) => "The lines named above are not in force.".to_owned(),
            Self::Input(error) => format!("Can't read standard input: {error}"),
            Self::Output(error) => format!("Can't write the output: {error}"),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage(error) => error.code,
            // ipvsadm gives this where there is no IPVS to talk to.
            Self::Client(error, _) if error.unreachable() => 2,
            Self::Client(_, true) | Self::Output(_) | Self::Input(_) => 1,
            Self::Client(_, false) | Self::Refused(_) => 255,
            Self::Restore(code) => *code,
        }
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Self::Usage(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// For listings; [`Session::command`] marks the failure of a change.
impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error, true)
    }
}

/// ipvsadm's words for the daemon's refusal, and the daemon's own where they
/// say more.
fn api_message(error: &api::Error) -> String {
    let known = match error.code {
        ErrorCode::ServiceExists => "Service already exists",
        ErrorCode::NoSuchService => "No such service",
        ErrorCode::ServiceNotDefined => "Service not defined",
        ErrorCode::ServerExists => "Destination already exists",
        ErrorCode::NoSuchServer => "No such destination",
        ErrorCode::NoSuchScheduler => "Scheduler or persistence engine not found",
        ErrorCode::Unsupported => return error.message.clone(),
        ErrorCode::InvalidArgument => {
            return format!(
                "Invalid operation.  Possibly wrong module version, address not unicast, \
                 ...\nrvsd: {}",
                error.message
            );
        }
        ErrorCode::NoSpace => {
            return format!("Memory allocation problem\nrvsd: {}", error.message);
        }
        ErrorCode::Permission => {
            return format!(
                "Permission denied (you must be root or in the group that rvsd's configuration \
                 names)\nrvsd: {}",
                error.message
            );
        }
        ErrorCode::BadRequest
        | ErrorCode::Version
        | ErrorCode::TooLong
        | ErrorCode::TimedOut
        | ErrorCode::Busy
        | ErrorCode::TooManyObservations
        | ErrorCode::NoSuchObservation
        | ErrorCode::WorkerStalled
        | ErrorCode::BadConfiguration => return format!("rvsd: {}", error.message),
    };
    known.to_owned()
}

/// One run of the program; `-R` carries out many commands in it.
struct Session<'a> {
    program: &'a str,
    socket: &'a Path,
    ports: Ports,
    /// Connected when the first command needs it: `-h` and mistakes do not.
    client: Option<Client>,
    streams: Streams<'a>,
}

impl Session<'_> {
    fn command_line(&mut self, args: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
        match grammar::parse(args, self.program, &self.ports)? {
            Command::Restore => self.restore(),
            command => self.command(command),
        }
    }

    fn command(&mut self, command: Command) -> Result<(), Failure> {
        let request = match command {
            Command::Help => return self.help(),
            Command::Version => return self.print(help::VERSION),
            Command::List(list) => return self.list(&list),
            Command::Save { numeric } => return self.save(numeric),
            Command::Restore => return Err(Failure::Refused("-R cannot stand in its own input")),
            Command::StartDaemon => {
                return Err(Failure::Refused(
                    "Connection synchronisation is not built into this version of RVS",
                ));
            }
            Command::StopDaemon => return Err(Failure::Refused("No daemon is running")),
            Command::AddService(service) => Request::AddService { service },
            Command::EditService(service) => Request::EditService { service },
            Command::DeleteService(service) => Request::DeleteService { service },
            Command::Flush => Request::Flush {},
            Command::AddServer(service, server) => Request::AddServer { service, server },
            Command::EditServer(service, server) => Request::EditServer { service, server },
            Command::DeleteServer(service, server) => Request::DeleteServer { service, server },
            Command::Zero(service) => Request::Zero { service },
            Command::SetTimeouts(timeouts) => Request::SetTimeouts { timeouts },
        };
        let client = self.client()?;
        client.change(&request).map_err(|error| Failure::Client(error, false))
    }

    fn client(&mut self) -> Result<&mut Client, ClientError> {
        match &mut self.client {
            Some(client) => Ok(client),
            none => Ok(none.insert(Client::connect(self.socket)?)),
        }
    }

    fn print(&mut self, text: &str) -> Result<(), Failure> {
        Ok(self.streams.stdout.write_all(text.as_bytes())?)
    }

    fn help(&mut self) -> Result<(), Failure> {
        self.print(help::VERSION)?;
        let text = help::HELP.replace("{program}", self.program);
        self.print(&text)
    }

    fn names(&self, numeric: bool) -> Names {
        if numeric { Names::numeric() } else { Names::resolved(self.ports.clone()) }
    }

    fn list(&mut self, list: &List) -> Result<(), Failure> {
        let mut names = self.names(list.numeric);
        match list.what {
            Listing::Services { service, view, sorted } => {
                self.list_services(service, view, sorted, &mut names)
            }
            Listing::Connections { engines } => self.list_connections(engines, &mut names),
            Listing::Timeouts => {
                let timeouts = self.client()?.timeouts()?;
                self.print(&output::timeouts(&timeouts))
            }
            // Prints nothing, as ipvsadm does while no daemon runs.
            Listing::Daemon => Ok(self.client().map(drop)?),
        }
    }

    fn list_services(
        &mut self,
        service: Option<ServiceId>,
        view: View,
        sorted: bool,
        names: &mut Names,
    ) -> Result<(), Failure> {
        let mut listed = self.client()?.services(service)?;
        if sorted {
            output::sort(&mut listed.services);
        }
        if service.is_none() {
            self.print(&output::version_line(listed.table_size))?;
        }
        self.print(&output::services(&listed.services, view, names))
    }

    fn list_connections(&mut self, engines: bool, names: &mut Names) -> Result<(), Failure> {
        self.client()?;
        self.print(output::connections_title(engines))?;
        let Some(client) = &mut self.client else {
            return Ok(());
        };
        let stdout = &mut self.streams.stdout;
        client.connections(|page| {
            for connection in &page {
                stdout.write_all(output::connection(connection, names).as_bytes())?;
            }
            Ok(())
        })
    }

    fn save(&mut self, numeric: bool) -> Result<(), Failure> {
        let mut names = self.names(numeric);
        let mut listed = self.client()?.services(None)?;
        output::sort(&mut listed.services);
        self.print(&output::save(&listed.services, &mut names))
    }

    /// Carries out the lines of standard input. A line that rvsd refuses is
    /// named and skipped; a line that is no command ends it, as whatever
    /// follows may rest on it.
    fn restore(&mut self) -> Result<(), Failure> {
        let mut worst = 0;
        let mut number = 0;
        while let Some(line) = self.input_line()? {
            number += 1;
            match self.restore_line(&line) {
                Ok(()) => {}
                Err(Failure::Client(error @ ClientError::Api(_), listing)) => {
                    let failure = Failure::Client(error, listing);
                    worst = worst.max(failure.code());
                    let text = line.trim();
                    let message = failure.message();
                    writeln!(self.streams.stderr, "line {number}: {text}: {message}")?;
                }
                Err(Failure::Usage(error)) => {
                    let (text, code) = (line.trim(), error.code);
                    let message = format!("{error}\nStopped at line {number}: {text}");
                    return Err(Failure::Usage(UsageError { message, code }));
                }
                Err(failure) => return Err(failure),
            }
        }
        if worst == 0 { Ok(()) } else { Err(Failure::Restore(worst)) }
    }

    fn input_line(&mut self) -> Result<Option<String>, Failure> {
        let mut line = Vec::new();
        match self.streams.stdin.read_until(b'\n', &mut line) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
            Err(error) => Err(Failure::Input(error)),
        }
    }

    fn restore_line(&mut self, line: &str) -> Result<(), Failure> {
        let mut words = line.split_whitespace().peekable();
        words.next_if_eq(&"ipvsadm");
        if words.peek().is_none() {
            return Ok(());
        }
        let command = grammar::parse(words.map(OsString::from), self.program, &self.ports)?;
        self.command(command)
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
