//! Services on disk, so that a daemon that was killed comes back with them.
//!
//! The record is kept up with each change before the change is answered, and
//! removed by a clean stop. A start that finds one follows an unclean end, and
//! takes up the services as they were then, whether they came from the
//! configuration file or from `ipvsadm`. A start that finds none takes those of
//! the configuration file, as a kernel director begins empty after a reboot.
//!
//! It is a text file: the first line is the state at some time, each further
//! line a request that has changed it since. So a change costs a line, however
//! many services there are; the state is written anew when the lines have grown
//! longer than it. A last line that a kill cut short is left out.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::api::{Request, ServerSpec, ServiceSpec, Settings, Timeouts};

const FILE: &str = "services.json";
const VERSION: u32 = 1;
/// Lines of requests that are left to grow in any case, bytes.
const ROOM: usize = 64 * 1024;
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
}

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
    /// The record of this daemon, once it is begun; `None` after a failure.
    file: Option<File>,
    /// Lengths of the first line and of the others.
    state_len: usize,
    changes_len: usize,
    /// Since when the record could not be kept, which was said.
    failed: Option<Instant>,
}

impl Saved {
    /// The record of a run directory, whether there is one or not.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        let path = run_dir.join(FILE);
        Self { path, file: None, state_len: 0, changes_len: 0, failed: None }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a daemon left behind that was killed. A record that cannot be read
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

    /// Keeps the record up with changes. `state` is what they have led to.
    pub(super) fn keep_up(
        &mut self,
        changes: &[Request],
        now: Instant,
        state: impl FnOnce() -> Services,
    ) {
        let result = match &mut self.file {
            Some(_) if changes.is_empty() => return,
            Some(file) if self.changes_len <= self.state_len.max(ROOM) => {
                append(file, changes).map(|len| self.changes_len += len)
            }
            None if self.failed.is_some_and(|failed| now < failed + RETRY) => return,
            _ => self.begin(state()),
        };
        match result {
            Ok(()) => self.failed = None,
            Err(error) => {
                if self.failed.is_none() {
                    let path = self.path.display();
                    log::error!("{path}: {error}; changes would not survive a crash");
                }
                (self.file, self.failed) = (None, Some(now));
            }
        }
    }

    /// Begins the record anew, whole or not at all. Not synced: it is to outlive
    /// the process, not the machine, and the run directory is usually in memory.
    fn begin(&mut self, state: Services) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        let mut line = serde_json::to_vec(&Record { version: VERSION, state })?;
        line.push(b'\n');
        let mut file = File::create(&new)?;
        file.write_all(&line)?;
        fs::rename(&new, &self.path)?;
        (self.file, self.state_len, self.changes_len) = (Some(file), line.len(), 0);
        Ok(())
    }

    /// Removes the record: the end is a clean one.
    pub(super) fn remove(&self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::warn!("{}: {error}; remove it by hand", self.path.display());
            }
            _ => {}
        }
    }
}

fn append(file: &mut File, changes: &[Request]) -> io::Result<usize> {
    let mut lines = Vec::new();
    for change in changes {
        serde_json::to_writer(&mut lines, change)?;
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    Ok(lines.len())
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
    use super::*;

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
        saved.keep_up(&[], now, || state(3));
        assert_eq!(saved.load(), Some(Loaded { services: state(3), changes: vec![] }));
        saved.keep_up(&[change(4), change(5)], now, || panic!("a line is enough"));
        saved.keep_up(&[change(6)], now, || panic!("a line is enough"));
        let changes = vec![change(4), change(5), change(6)];
        assert_eq!(saved.load(), Some(Loaded { services: state(3), changes }));
        saved.remove();
        assert_eq!(saved.load(), None);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn it_does_not_grow_without_end() {
        let dir = directory("grow");
        let now = Instant::now();
        let mut saved = Saved::new(&dir);
        for udp in 0..10_000 {
            saved.keep_up(&[change(udp)], now, || state(udp));
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
        saved.keep_up(&[], now, || state(3));
        saved.keep_up(&[change(4), change(5)], now, || state(5));
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
        saved.keep_up(&[], now, || state(3));
        fs::create_dir(dir.join("missing")).unwrap();
        saved.keep_up(&[change(4)], now, || panic!("too soon"));
        saved.keep_up(&[], now + RETRY, || state(4));
        assert_eq!(saved.load(), Some(Loaded { services: state(4), changes: vec![] }));
        fs::remove_dir_all(&dir).unwrap();
    }
}
