//! Services on disk, so that a daemon that was killed comes back with them.
//!
//! The record is written after each change and removed by a clean stop. A start
//! that finds one follows an unclean end, and takes up the services as they
//! were then, whether they came from the configuration file or from `ipvsadm`.
//! A start that finds none takes those of the configuration file, as a kernel
//! director begins empty after a reboot.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::api::{ServerSpec, ServiceSpec, Timeouts};

const FILE: &str = "services.json";
const VERSION: u32 = 1;

/// Services with their servers and timeouts, in the order of creation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Services {
    /// The timeouts in force.
    pub timeouts: Timeouts,
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
    /// Not before this.
    next_write: Instant,
    /// The last attempt failed, which was said.
    failed: bool,
}

impl Saved {
    /// The record of a run directory, whether there is one or not.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { path: run_dir.join(FILE), next_write: Instant::now(), failed: false }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a daemon left behind that was killed. A record that cannot be read
    /// is as none, with a warning: it must not keep the director from starting.
    #[must_use]
    pub fn load(&self) -> Option<Services> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::warn!("{}: {error}; its services are lost", self.path.display());
                return None;
            }
        };
        match serde_json::from_slice::<Record>(&text) {
            Ok(record) if record.version == VERSION => Some(record.state),
            Ok(record) => {
                let (path, version) = (self.path.display(), record.version);
                log::warn!("{path}: of version {version}, not {VERSION}; its services are lost");
                None
            }
            Err(error) => {
                log::warn!("{}: {error}; its services are lost", self.path.display());
                None
            }
        }
    }

    /// Whether it is time to write again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_write
    }

    /// Replaces the record, whole or not at all.
    pub(super) fn write(&mut self, state: Services) {
        let begun = Instant::now();
        match self.replace(&Record { version: VERSION, state }) {
            Ok(()) => {
                self.failed = false;
                // At most half the control thread's time goes into it.
                self.next_write = Instant::now() + begun.elapsed();
            }
            Err(error) => {
                if !self.failed {
                    let path = self.path.display();
                    log::error!("{path}: {error}; changes would not survive a crash");
                }
                self.failed = true;
                self.next_write = Instant::now() + Duration::from_secs(1);
            }
        }
    }

    /// Whether the last attempt failed, so that nothing should wait for it.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Not synced: the record is to outlive the process, not the machine, and
    /// the run directory is usually in memory.
    fn replace(&self, record: &Record) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        fs::write(&new, serde_json::to_vec(record)?)?;
        fs::rename(&new, &self.path)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("rvs-saved-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn state() -> Services {
        Services { timeouts: Timeouts { tcp: 1, tcp_fin: 2, udp: 3 }, services: vec![] }
    }

    #[test]
    fn what_is_written_is_loaded_until_it_is_removed() {
        let dir = directory("round");
        let mut saved = Saved::new(&dir);
        assert_eq!(saved.load(), None);
        saved.write(state());
        assert_eq!(Saved::new(&dir).load(), Some(state()));
        saved.remove();
        assert_eq!(saved.load(), None);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_damaged_record_is_none() {
        let dir = directory("damaged");
        for text in ["", "{", "{\"version\":2}", "{\"version\":9,\"state\":null}"] {
            fs::write(dir.join(FILE), text).unwrap();
            assert_eq!(Saved::new(&dir).load(), None, "{text:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_write_that_fails_is_tried_again_later() {
        let mut saved = Saved::new(Path::new("/nonexistent/rvs"));
        saved.write(state());
        assert!(saved.has_failed());
        assert!(!saved.is_due(Instant::now()));
    }
}
