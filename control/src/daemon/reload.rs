//! The configuration file read again, a saved state restored, and what tells
//! where services come from.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use super::difference::{self, Origins};
use super::saved::{Service, Services};
use super::{Daemon, Outcome, begin, hop};
use crate::api::{Error, ErrorCode, MAX_ROWS, Request, Response, ServerSpec};
use crate::config::{Changed, Config};
use crate::ipvsadm::output;
use crate::kernel::OwnedAddress;
use crate::server::ClientId;

/// Changes of one reload that the log names.
const LOGGED: usize = 100;

/// The configuration file.
#[derive(Debug)]
pub(super) struct Followed {
    path: PathBuf,
    /// The cores that its workers may be on.
    online: BTreeSet<u32>,
    /// What of it is in force.
    config: Config,
    /// What it says of services, timeouts and settings, to tell what was changed
    /// otherwise.
    base: Services,
    /// Keys that were found changed, but need another start.
    restart: Vec<String>,
    /// The base has not been kept on disk yet.
    unsaved: bool,
}

/// What a reload or restore came to.
pub(super) enum Done {
    Nothing(Response),
    Changes(Response),
}

impl From<Result<Done, Error>> for Outcome {
    fn from(result: Result<Done, Error>) -> Self {
        match result {
            Ok(Done::Changes(response)) => Self::Reloaded(response),
            Ok(Done::Nothing(response)) => Self::Answer(Ok(response)),
            Err(error) => Self::Answer(Err(error)),
        }
    }
}

/// A reload that somebody wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reload {
    /// Who asked; a signal if nobody did.
    pub(super) client: Option<ClientId>,
    /// Only tells what there is to do.
    pub(super) dry_run: bool,
    /// Also undoes what was changed at run time.
    pub(super) exact: bool,
}

impl Reload {
    /// SIGHUP.
    pub(super) const fn on_signal() -> Self {
        Self { client: None, dry_run: false, exact: false }
    }
}

/// Reloads under way, one at a time: a thread of its own reads the file, which
/// takes by far the longest where there are thousands of services.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    reading: Option<(Reload, mpsc::Receiver<Result<Config, String>>)>,
    waiting: VecDeque<Reload>,
}

/// What is to be done about a file or a saved state.
struct Plan {
    changes: Vec<Request>,
    /// The changes and all else that there is to do, for people.
    lines: Vec<String>,
}

impl Daemon {
    /// Names the configuration file and what was read of it at the start.
    /// Reloads read it again.
    pub fn follow_file(&mut self, path: &Path, online: BTreeSet<u32>, config: Config) {
        self.file = Some(Followed {
            path: path.to_owned(),
            online,
            base: begin::from_file(&config),
            config,
            restart: Vec::new(),
            unsaved: true,
        });
        self.keep_applied();
    }

    /// Keeps what the file said on disk once what it led to is in the record.
    pub(super) fn keep_applied(&mut self) {
        let Some(file) = &mut self.file else { return };
        if std::mem::take(&mut file.unsaved) {
            self.saved.keep_applied(file.base.clone());
        }
    }

    /// Has the file read again, after those who asked before.
    pub(super) fn ask_for_reload(&mut self, reload: Reload) {
        self.reloads.waiting.push_back(reload);
        self.read_file_for_next();
    }

    /// Carries out a reload whose file has been read, and begins the next one.
    pub(super) fn go_on_reloading(&mut self, now: Instant) {
        let Some((reload, file)) = &self.reloads.reading else { return };
        let read = match file.try_recv() {
            Ok(read) => read,
            Err(mpsc::TryRecvError::Empty) => return,
            Err(mpsc::TryRecvError::Disconnected) => {
                Err("the thread that was to read the file is gone; try again".to_owned())
            }
        };
        let reload = *reload;
        self.reloads.reading = None;
        let bad = |message| Error::new(ErrorCode::BadConfiguration, message);
        let done = read.map_err(bad).and_then(|new| self.reload(new, reload.dry_run, reload.exact));
        self.end_reload(reload.client, done, now);
        self.read_file_for_next();
    }

    /// Starts the thread for the reload that is next, unless one is under way.
    fn read_file_for_next(&mut self) {
        while self.reloads.reading.is_none() {
            let Some(reload) = self.reloads.waiting.pop_front() else { return };
            match self.read_file() {
                Ok(file) => self.reloads.reading = Some((reload, file)),
                Err(error) => self.end_reload(reload.client, Err(error), Instant::now()),
            }
        }
    }

    fn read_file(&self) -> Result<mpsc::Receiver<Result<Config, String>>, Error> {
        let Some(file) = &self.file else {
            let message = "this rvsd was started without a configuration file";
            return Err(Error::new(ErrorCode::Unsupported, message));
        };
        let (path, online) = (file.path.clone(), file.online.clone());
        let waker = Arc::clone(&self.waker);
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name("rvs-reload".into()).spawn(move || {
            // Without a receiver the daemon is about to end.
            let _ = sender.send(Config::from_file(&path, &online).map_err(|e| e.to_string()));
            // Fails when it has been woken often enough already.
            drop(waker.wake());
        });
        let failed = |e| Error::new(ErrorCode::Busy, format!("no thread to read the file: {e}"));
        thread.map(|_| receiver).map_err(failed)
    }

    /// Tells who asked for a reload, or the log, what it came to.
    fn end_reload(&mut self, client: Option<ClientId>, done: Result<Done, Error>, now: Instant) {
        match (client, done) {
            (Some(client), Ok(Done::Changes(response))) => {
                self.answer_in_force(client, None, true, response, now);
            }
            (Some(client), Ok(Done::Nothing(response))) => self.api.reply(client, &Ok(response)),
            (Some(client), Err(error)) => self.api.reply(client, &Err(error)),
            (None, Ok(Done::Nothing(_))) => log::info!("reload: nothing is different"),
            (None, Ok(Done::Changes(response))) => {
                self.dirty = true;
                if let Response::Difference { changes, .. } = response {
                    log::info!("reload: {} changes carried out", changes.len());
                }
            }
            (None, Err(error)) => log::error!("reload: nothing was changed: {error}"),
        }
    }

    /// Carries out what is different in a file that was read again; with `exact`
    /// also undoes what was changed at run time.
    fn reload(&mut self, new: Config, dry_run: bool, exact: bool) -> Result<Done, Error> {
        let Some(file) = &self.file else {
            return Err(Error::new(ErrorCode::Unsupported, "there is no file"));
        };
        let bad = |message: String| Error::new(ErrorCode::BadConfiguration, message);
        let Changed { config, restart } = file.config.changed_to(new);
        let wanted = begin::from_file(&config);
        let running = self.registry.saved(0, usize::MAX).0;
        let base = if exact { &running } else { &file.base };
        let changes = difference::changes(base, &running, &wanted);
        difference::rehearse(&running, &changes).map_err(|error| {
            bad(format!(
                "{}: does not go with what was changed at run time, nothing was done: {error}; change it with rvsadm, or reload with --exact",
                file.path.display()
            ))
        })?;
        let mut plan = Plan::new(changes);
        plan.lines.extend(other_lines(&file.config, &config));
        let response =
            Response::Difference { changes: plan.lines.clone(), restart: restart.clone() };
        if dry_run {
            return Ok(Done::Nothing(response));
        }
        self.notify.reloading();
        self.carry_out_plan(plan.changes)?;
        self.take_over(config, wanted, restart);
        log_lines("reload", &plan.lines);
        Ok(if plan.lines.is_empty() { Done::Nothing(response) } else { Done::Changes(response) })
    }

    /// Takes over what of a file is not services: all that hangs on
    /// [`Config`] and can change while rvsd runs is told here.
    fn take_over(&mut self, config: Config, base: Services, restart: Vec<String>) {
        let Some(file) = &mut self.file else { return };
        if config.rules != file.config.rules {
            self.registry.set_rules(config.rules.clone());
        }
        self.registry.set_local_ports(config.local_ports);
        if let Some(network) = &mut self.network {
            network.own(&begin::addresses(&config));
            // A local address may be one of those, or was.
            self.resolving.locals_changed = true;
        }
        if !restart.is_empty() {
            log::warn!("reload: needs a restart of rvsd: {}", restart.join(", "));
        }
        let checks = config.health();
        let checks = (checks != file.config.health()).then_some(checks);
        (file.config, file.base, file.restart, file.unsaved) = (config, base, restart, true);
        if let Some(checks) = checks {
            self.check_health(checks);
        }
    }

    /// Makes all of services, timeouts and settings what requests make of none.
    pub(super) fn restore(&mut self, requests: &[Request], dry_run: bool) -> Result<Done, Error> {
        let running = self.registry.saved(0, usize::MAX).0;
        let wanted = difference::outcome(&running, requests)?;
        let changes = difference::changes(&running, &running, &wanted);
        difference::rehearse(&running, &changes)?;
        let plan = Plan::new(changes);
        let response = Response::Difference { changes: plan.lines.clone(), restart: Vec::new() };
        if dry_run || plan.changes.is_empty() {
            return Ok(Done::Nothing(response));
        }
        self.carry_out_plan(plan.changes)?;
        log_lines("restore", &plan.lines);
        Ok(Done::Changes(response))
    }

    /// Carries out what was rehearsed. Only numbers for servers and local
    /// addresses can still run out.
    fn carry_out_plan(&mut self, changes: Vec<Request>) -> Result<(), Error> {
        for (done, change) in changes.into_iter().enumerate() {
            let network = self.network.as_ref();
            let resolve = |server: &ServerSpec| hop(network, server.address.ip());
            if let Some(Err(error)) = self.registry.change(&change, &resolve) {
                self.dirty |= done > 0;
                let command = output::command(&change).unwrap_or_default();
                let message = format!("after {done} changes: {command}: {error}");
                return Err(Error::new(error.code, message));
            }
            self.note(change);
        }
        Ok(())
    }

    /// A part of what makes all as it is: first timeouts and settings, then
    /// services.
    pub(super) fn saved_state(&self, cursor: Option<u64>) -> Response {
        let (part, next) = self.registry.saved(cursor.unwrap_or(0), MAX_ROWS);
        let mut requests = Vec::new();
        if cursor.is_none() {
            requests.push(Request::SetTimeouts { timeouts: part.timeouts });
            let set = |(name, value): (&str, u8)| Request::SetSetting { name: name.into(), value };
            requests.extend(part.settings.rows().map(set));
        }
        requests.extend(part.services.into_iter().flat_map(Service::into_requests));
        Response::Saved { requests, next }
    }

    /// What of the file is in force, and what is not as it says.
    pub(super) fn configuration(&self) -> Response {
        let Some(file) = &self.file else {
            return Response::Config { file: None, changes: Vec::new(), restart: Vec::new() };
        };
        let running = self.registry.saved(0, usize::MAX).0;
        let changes = difference::changes(&file.base, &file.base, &running);
        Response::Config {
            file: Some(file.path.display().to_string()),
            changes: Plan::new(changes).lines,
            restart: file.restart.clone(),
        }
    }

    /// Where services come from.
    pub(super) fn origins(&self, cursor: Option<u64>) -> Response {
        let nothing = Services {
            timeouts: self.registry.timeouts(),
            settings: self.registry.settings(),
            services: Vec::new(),
        };
        let origins = Origins::new(self.file.as_ref().map_or(&nothing, |file| &file.base));
        let (services, next) = self.registry.described(cursor, MAX_ROWS);
        Response::Origins { services: services.iter().map(|s| origins.of(s)).collect(), next }
    }
}

impl Plan {
    fn new(changes: Vec<Request>) -> Self {
        let lines = changes.iter().filter_map(output::command).collect();
        Self { changes, lines }
    }
}

/// What is different beside services, timeouts and settings.
fn other_lines(old: &Config, new: &Config) -> Vec<String> {
    let mut lines = Vec::new();
    if old.rules != new.rules {
        let (old, new) = (old.rules.len(), new.rules.len());
        lines.push(format!("fwmark: the file's {new} rules in the place of {old}"));
    }
    if old.local_ports != new.local_ports {
        let (first, last) = new.local_ports;
        lines.push(format!("fullnat.ports {first}-{last}"));
    }
    let (checks, before) = (new.health(), old.health());
    if checks != before {
        let (now, before) = (checks.len(), before.len());
        lines.push(format!("health: the file's checks of {now} services in the place of {before}"));
    }
    let (old, new) = (begin::addresses(old), begin::addresses(new));
    let line = |what: &str, OwnedAddress { link, ip, prefix_len }: &OwnedAddress| {
        format!("address {what} {ip}/{prefix_len} dev {link}")
    };
    lines.extend(old.difference(&new).map(|address| line("del", address)));
    lines.extend(new.difference(&old).map(|address| line("add", address)));
    lines
}

fn log_lines(what: &str, lines: &[String]) {
    for line in lines.iter().take(LOGGED) {
        log::info!("{what}: {}", line.escape_debug());
    }
    if lines.len() > LOGGED {
        log::info!("{what}: and {} more", lines.len() - LOGGED);
    }
}
