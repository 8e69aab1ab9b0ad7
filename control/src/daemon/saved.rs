//! Services on disk, so that a daemon that was killed comes back with them.
//!
//! The record is kept up with each change before the change is answered. A start
//! that finds one takes up the services as they were then, whether they came
//! from the configuration file or from `ipvsadm`, and then what is different in
//! the file since it was last applied, as a reload does: that form of the file is
//! kept beside the record. A start that finds none takes the file's services, as
//! a kernel director begins empty after a reboot. A clean stop removes the record
//! from the run directory, and leaves it in a state directory.
//!
//! It is a text file: the first line is the state at some time, each further
//! line a request that has changed it since. So a change costs a line, however
//! many services there are. When the lines have grown longer than what they
//! began with, the record is written anew beside the old one, a piece a turn of
//! the daemon: the first line has no services, the next ones make them. Until
//! that is done the old one is kept up, too. A last line that a kill cut short
//! is left out.
//!
//! Lines are written before the requests are answered: a kill of the process
//! loses nothing that was. They are not synced, which would take milliseconds
//! each: a machine that loses its power may lose the last ones. A record that was
//! written anew is synced before it takes the place of the old one.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::api::{Request, ServerSpec, ServiceId, ServiceSpec, Settings, Timeouts};

const FILE: &str = "services.json";
/// The services of the configuration file as it was last applied.
const APPLIED: &str = "applied.json";
const VERSION: u32 = 1;
/// Lines of requests that are left to grow in any case, bytes.
const ROOM: usize = 64 * 1024;
/// Rows of the state, services and servers, that are written in a turn: half a
/// millisecond's.
pub(super) const ROWS: usize = 512;
/// Time from a failed attempt to the next.
const RETRY: Duration = Duration::from_secs(1);

/// Services with their servers and timeouts, in the order of creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// The timeouts in force.
    pub timeouts: Timeouts,
    /// The settings in force.
    #[serde(default)]
    pub settings: Settings,
    /// Oldest first.
    pub services: Vec<Service>,
}

/// A service and its servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The service.
    pub spec: ServiceSpec,
    /// Oldest first.
    pub servers: Vec<ServerSpec>,
    /// Servers that are drained, with the weights that they had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drained: Vec<(SocketAddr, u32)>,
}

impl Service {
    /// The requests that make it.
    #[must_use]
    pub fn into_requests(self) -> Vec<Request> {
        let service = self.spec.id;
        let mut requests = vec![Request::AddService { service: self.spec }];
        let mut drains = Vec::new();
        for mut server in self.servers {
            let address = server.address;
            if let Some((_, weight)) = self.drained.iter().find(|(own, _)| *own == address) {
                server.weight = *weight;
                let (server, port) = (address.ip(), Some(address.port()));
                drains.push(Request::Drain { server, port, service: Some(service) });
            }
            requests.push(Request::AddServer { service, server });
        }
        requests.extend(drains);
        requests
    }
}

/// Some of the services, and the place of the next one.
pub type Part = (Services, Option<u64>);

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The state at some time.
    pub services: Services,
    /// The requests that changed it since.
    pub changes: Vec<Request>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    state: Services,
}

/// The record in a run directory.
#[derive(Debug)]
pub struct Saved {
    path: PathBuf,
    /// Whether a clean stop leaves it.
    lasting: bool,
    /// The record of this daemon, once it is begun; `None` after a failure.
    file: Option<File>,
    /// Lengths of what it began with and of what was added.
    state_len: usize,
    changes_len: usize,
    /// The record that is to take its place.
    next: Option<Next>,
    /// Since when the record could not be kept, which was said.
    failed: Option<Instant>,
}

/// A record that is being written.
#[derive(Debug)]
struct Next {
    file: File,
    len: usize,
    /// The place of the first service that is not in it yet.
    from: u64,
    /// Those that are in it: requests about others need no line.
    services: HashSet<ServiceId>,
}

impl Saved {
    /// The record of a run directory, whether there is one or not.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        Self {
            path,
            lasting: false,
            file: None,
            state_len: 0,
            changes_len: 0,
            next: None,
            failed: None,
        }
    }

    /// The record of a state directory, which is made if it is not there.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn lasting(state_dir: &Path) -> Result<Self, String> {
        fs::create_dir_all(state_dir)
            .map_err(|e| format!("director.state_dir {}: {e}", state_dir.display()))?;
        Ok(Self { lasting: true, ..Self::new(state_dir) })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a daemon left behind. A record that cannot be read
    /// is as none, with a warning: it must not keep the director from starting.
    #[must_use]
    pub fn load(&self) -> Option<Loaded> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::warn!("{}: {error}; its services are lost", self.path.display());
                return None;
            }
        };
        match parse(&text) {
            Ok(loaded) => Some(loaded),
            Err(error) => {
                log::warn!("{}: {error}; its services are lost", self.path.display());
                None
            }
        }
    }

    /// The services of the configuration file as it was last applied, if that is
    /// known.
    #[must_use]
    pub fn load_applied(&self) -> Option<Services> {
        let text = fs::read_to_string(self.applied_path()).ok()?;
        parse(&text).ok().map(|loaded| loaded.services)
    }

    /// Keeps what the configuration file says as the form that was last applied.
    /// To be called when it is in the record.
    pub(super) fn keep_applied(&self, state: Services) {
        let path = self.applied_path();
        let next = path.with_extension("json.new");
        let written = File::create(&next).and_then(|mut file| {
            write_lines(&mut file, [Record { version: VERSION, state }])?;
            file.sync_data()?;
            fs::rename(&next, &path)
        });
        if let Err(error) = written {
            let path = path.display();
            log::error!(
                "{path}: {error}; after a crash the file would be compared with an older form"
            );
        }
    }

    fn applied_path(&self) -> PathBuf {
        self.path.with_file_name(APPLIED)
    }

    /// Writes the record whole.
    pub(super) fn begin(&mut self, now: Instant, state: impl Fn(u64) -> Part) {
        let mut result = self.begin_next(&state);
        while result.is_ok() && self.next.is_some() {
            result = self.go_on(&state);
        }
        self.conclude(result, now);
    }

    /// Keeps the record up with changes. `state` gives what they have led to, a
    /// part at a time: services from a place on, and the place to go on with.
    pub(super) fn keep_up(
        &mut self,
        changes: &[Request],
        now: Instant,
        state: impl Fn(u64) -> Part,
    ) {
        let result = self.add(changes).and_then(|()| {
            if self.next.is_some() {
                return self.go_on(&state);
            }
            let begin = match self.file {
                Some(_) => self.changes_len > self.state_len.max(ROOM),
                None => self.failed.is_none_or(|failed| now >= failed + RETRY),
            };
            if begin { self.begin_next(&state) } else { Ok(()) }
        });
        self.conclude(result, now);
    }

    /// Whether a record is being written that takes further turns.
    pub(super) fn is_busy(&self) -> bool {
        self.next.is_some()
    }

    fn conclude(&mut self, result: io::Result<()>, now: Instant) {
        match result {
            Ok(()) if self.file.is_some() => self.failed = None,
            Ok(()) => {}
            Err(error) => {
                if self.failed.is_none() {
                    let path = self.path.display();
                    log::error!("{path}: {error}; changes would not survive a crash");
                }
                (self.file, self.next, self.failed) = (None, None, Some(now));
            }
        }
    }

    /// Adds changes to the record, and to the one that is being written as far
    /// as it needs them.
    fn add(&mut self, changes: &[Request]) -> io::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        if let Some(file) = &mut self.file {
            self.changes_len += write_lines(file, changes)?;
        }
        if let Some(Next { file, len, services, .. }) = &mut self.next {
            let needed: Vec<_> = changes.iter().filter(|c| is_needed(services, c)).collect();
            *len += write_lines(file, needed)?;
        }
        Ok(())
    }

    fn begin_next(&mut self, state: impl Fn(u64) -> Part) -> io::Result<()> {
        let mut file = File::create(self.next_path())?;
        let (Services { timeouts, settings, .. }, _) = state(u64::MAX);
        let state = Services { timeouts, settings, services: Vec::new() };
        let len = write_lines(&mut file, [Record { version: VERSION, state }])?;
        self.next = Some(Next { file, len, from: 0, services: HashSet::new() });
        Ok(())
    }

    /// Writes one part more of the next record; with the last one it takes the
    /// place of the present one.
    fn go_on(&mut self, state: impl Fn(u64) -> Part) -> io::Result<()> {
        let Some(next) = &mut self.next else { return Ok(()) };
        let (part, from) = state(next.from);
        let mut requests = Vec::new();
        for service in part.services {
            next.services.insert(service.spec.id);
            requests.extend(service.into_requests());
        }
        next.len += write_lines(&mut next.file, &requests)?;
        if let Some(from) = from {
            next.from = from;
            return Ok(());
        }
        next.file.sync_data()?;
        fs::rename(self.next_path(), &self.path)?;
        if let Some(Next { file, len, .. }) = self.next.take() {
            (self.file, self.state_len, self.changes_len) = (Some(file), len, 0);
        }
        Ok(())
    }

    fn next_path(&self) -> PathBuf {
        self.path.with_extension("json.new")
    }

    /// To be called at a clean end, of which nothing is to be left in a run
    /// directory.
    pub(super) fn end(&self) {
        if self.lasting {
            return;
        }
        let mut paths = vec![self.path.clone(), self.applied_path()];
        paths.extend(self.next.is_some().then(|| self.next_path()));
        for path in paths {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    log::warn!("{}: {error}; remove it by hand", path.display());
                }
                _ => {}
            }
        }
    }
}

/// Whether a record that has these services so far needs a line for a change.
/// What other services became it gets when their turn comes.
fn is_needed(services: &mut HashSet<ServiceId>, change: &Request) -> bool {
    match change {
        Request::AddService { service } | Request::EditService { service } => {
            services.contains(&service.id)
        }
        Request::AddServer { service, .. }
        | Request::EditServer { service, .. }
        | Request::DeleteServer { service, .. } => services.contains(service),
        Request::DeleteService { service } => services.remove(service),
        Request::Flush {} => {
            services.clear();
            true
        }
        _ => true,
    }
}

/// Writes lines at once. Their length.
fn write_lines<T: Serialize>(
    file: &mut File,
    lines: impl IntoIterator<Item = T>,
) -> io::Result<usize> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, &line)?;
        text.push(b'\n');
    }
    file.write_all(&text)?;
    Ok(text.len())
}

fn parse(text: &str) -> Result<Loaded, String> {
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let first = lines.next().ok_or("is empty")?;
    let record: Record = serde_json::from_str(first).map_err(|e| e.to_string())?;
    if record.version != VERSION {
        return Err(format!("is of version {}, not {VERSION}", record.version));
    }
    let changes = lines.map(serde_json::from_str).collect::<Result<_, _>>();
    Ok(Loaded { services: record.state, changes: changes.map_err(|e| e.to_string())? })
}

#[cfg(test)]
mod tests {
    use dataplane::service::Hop;

    use super::*;
    use crate::api::{Method, Protocol};
    use crate::registry::Registry;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("rvs-saved-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn state(udp: u32) -> Services {
        let timeouts = Timeouts { tcp: 1, tcp_fin: 2, udp };
        Services { timeouts, settings: Settings::default(), services: vec![] }
    }

    fn change(udp: u32) -> Request {
        Request::SetTimeouts { timeouts: Timeouts { tcp: 0, tcp_fin: 0, udp } }
    }

    #[test]
    fn what_is_kept_is_loaded_until_it_is_removed() {
        let dir = directory("round");
        let now = Instant::now();
        let mut saved = Saved::new(&dir);
        assert_eq!(saved.load(), None);
        saved.begin(now, |_| (state(3), None));
        assert_eq!(saved.load(), Some(Loaded { services: state(3), changes: vec![] }));
        saved.keep_up(&[change(4), change(5)], now, |_| panic!("a line is enough"));
        saved.keep_up(&[change(6)], now, |_| panic!("a line is enough"));
        let changes = vec![change(4), change(5), change(6)];
        assert_eq!(saved.load(), Some(Loaded { services: state(3), changes }));
        saved.end();
        assert_eq!(saved.load(), None);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = directory("grow");
        let now = Instant::now();
        let mut saved = Saved::new(&dir);
        for udp in 0..10_000 {
            saved.keep_up(&[change(udp)], now, |_| (state(udp), None));
        }
        assert!(fs::metadata(saved.path()).unwrap().len() < 2 * ROOM as u64);
        let Loaded { services, changes } = saved.load().unwrap();
        let last = changes.last().cloned().unwrap_or(change(services.timeouts.udp));
        assert_eq!(last, change(9_999));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_line_that_was_cut_short_is_left_out() {
        let dir = directory("cut");
        let now = Instant::now();
        let mut saved = Saved::new(&dir);
        saved.begin(now, |_| (state(3), None));
        saved.keep_up(&[change(4), change(5)], now, |_| (state(5), None));
        let text = fs::read(saved.path()).unwrap();
        fs::write(saved.path(), &text[..text.len() - 1]).unwrap();
        let loaded = saved.load();
        assert_eq!(loaded, Some(Loaded { services: state(3), changes: vec![change(4)] }));
        fs::remove_dir_all(&dir).unwrap();
    }

    /// One of a release without settings.
    #[test]
    fn what_a_record_does_not_say_is_as_by_default() {
        let dir = directory("older");
        let line =
            r#"{"version":1,"state":{"timeouts":{"tcp":1,"tcp_fin":2,"udp":3},"services":[]}}"#;
        fs::write(dir.join(FILE), format!("{line}\n")).unwrap();
        let loaded = Saved::new(&dir).load();
        assert_eq!(loaded, Some(Loaded { services: state(3), changes: vec![] }));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_damaged_record_is_none() {
        let dir = directory("damaged");
        for text in ["", "\n", "{\n", "{\"version\":2}\n", "{\"version\":9,\"state\":null}\n"] {
            fs::write(dir.join(FILE), text).unwrap();
            assert_eq!(Saved::new(&dir).load(), None, "{text:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn after_a_failure_the_whole_state_is_written_a_second_later() {
        let dir = directory("failure");
        let now = Instant::now();
        let mut saved = Saved::new(&dir.join("missing"));
        saved.begin(now, |_| (state(3), None));
        fs::create_dir(dir.join("missing")).unwrap();
        saved.keep_up(&[change(4)], now, |_| panic!("too soon"));
        saved.keep_up(&[], now + RETRY, |_| (state(4), None));
        assert!(saved.is_busy());
        saved.keep_up(&[], now + RETRY, |_| (state(4), None));
        assert_eq!(saved.load(), Some(Loaded { services: state(4), changes: vec![] }));
        fs::remove_dir_all(&dir).unwrap();
    }

    /// What a start would make of the record.
    fn revived(saved: &Saved) -> Services {
        let Loaded { services, changes } = saved.load().expect("a record");
        let mut registry = Registry::new(1, vec![], services.timeouts);
        for service in services.services {
            for request in service.into_requests() {
                registry.change(&request, &|_| Hop::NoRoute).unwrap().unwrap();
            }
        }
        for change in changes {
            registry.change(&change, &|_| Hop::NoRoute).unwrap().unwrap();
        }
        registry.saved(0, usize::MAX).0
    }

    /// A daemon may be killed at any time: here before and after each piece of
    /// a record that is written anew while all kinds of changes go on.
    #[test]
    fn nothing_is_lost_while_the_record_is_written_anew() {
        let dir = directory("anew");
        let now = Instant::now();
        let service = |n: u16| ServiceId::Address {
            protocol: Protocol::Tcp,
            address: ([10, 0, 0, 1], n).into(),
        };
        let server = |n: u8, weight| ServerSpec {
            address: ([10, 0, 1, n], 80).into(),
            method: Method::Nat,
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
        };
        let add = |n| Request::AddService { service: ServiceSpec::new(service(n), "rr") };
        let mut registry = Registry::new(1, vec![], state(3).timeouts);
        let carry_out = |registry: &mut Registry, requests: &[Request]| {
            for request in requests {
                registry.change(request, &|_| Hop::NoRoute).unwrap().unwrap();
            }
        };
        for n in 1..=40 {
            carry_out(&mut registry, &[add(n)]);
            let servers = [1, 2].map(|host| server(host, 1));
            let servers = servers.map(|server| Request::AddServer { service: service(n), server });
            carry_out(&mut registry, &servers);
        }
        let mut saved = Saved::new(&dir);
        saved.begin(now, |from| registry.saved(from, 4));
        assert_eq!(revived(&saved), registry.saved(0, usize::MAX).0);

        let mut finished = 0;
        for round in 0u16..200 {
            if saved.next.is_none() {
                finished += 1;
                saved.begin_next(|from| registry.saved(from, 4)).unwrap();
            }
            // One that is likely to be in the new record, and one that is not.
            let [early, late] = [1 + round % 7, 35 + round % 5];
            let requests: Vec<_> = [early, late]
                .into_iter()
                .flat_map(|n| match round % 4 {
                    0 => {
                        let server = server(1, u32::from(round));
                        vec![Request::EditServer { service: service(n), server }]
                    }
                    1 => vec![
                        Request::DeleteServer { service: service(n), server: server(2, 1).address },
                        Request::AddServer { service: service(n), server: server(2, 7) },
                    ],
                    2 => {
                        let servers = [1, 2].map(|host| server(host, 5));
                        let add_server =
                            |server| Request::AddServer { service: service(n), server };
                        let mut requests =
                            vec![Request::DeleteService { service: service(n) }, add(n)];
                        requests.extend(servers.map(add_server));
                        requests
                    }
                    _ if n < 30 => vec![change(1 + u32::from(round))],
                    // In services that are in the new record, and in others.
                    _ if round % 8 == 3 => {
                        vec![Request::Drain {
                            server: [10, 0, 1, 2].into(),
                            port: None,
                            service: None,
                        }]
                    }
                    _ => {
                        vec![Request::Undrain {
                            server: [10, 0, 1, 2].into(),
                            port: None,
                            service: None,
                        }]
                    }
                })
                .collect();
            carry_out(&mut registry, &requests);
            saved.keep_up(&requests, now, |from| registry.saved(from, 4));
            assert_eq!(revived(&saved), registry.saved(0, usize::MAX).0, "round {round}");
        }
        assert!(finished > 3, "{finished}");
        // Also with nothing left of what is in the new record.
        saved.begin_next(|from| registry.saved(from, 4)).unwrap();
        saved.keep_up(&[], now, |from| registry.saved(from, 4));
        let requests = [Request::Flush {}, add(5), change(9)];
        carry_out(&mut registry, &requests);
        saved.keep_up(&requests, now, |from| registry.saved(from, 4));
        assert!(!saved.is_busy());
        assert_eq!(revived(&saved), registry.saved(0, usize::MAX).0);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_clean_end_leaves_no_record_behind_but_in_a_state_directory() {
        let dir = directory("end");
        let now = Instant::now();
        let lasting = Saved::lasting(&dir.join("lib")).unwrap();
        for mut saved in [lasting, Saved::new(&dir.join("lib"))] {
            saved.begin(now, |_| (state(3), None));
            saved.keep_applied(state(2));
            saved.end();
            let left = saved.lasting.then_some(state(3));
            assert_eq!(saved.load().map(|loaded| loaded.services), left);
            assert_eq!(saved.load_applied(), saved.lasting.then_some(state(2)));
        }
        fs::remove_dir(dir.join("lib")).unwrap();
        let mut saved = Saved::new(&dir);
        saved.begin(now, |_| (state(3), None));
        saved.begin_next(|_| (state(3), None)).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
        saved.end();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
        fs::remove_dir_all(&dir).unwrap();
    }
}
