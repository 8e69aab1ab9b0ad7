//! One daemon per run directory.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

const FILE: &str = "rvsd.lock";

/// The lock of a run directory. The kernel frees it with the process, whatever
/// ends it.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not read")] Flock<File>);

impl Lock {
    /// Takes the lock, and makes the run directory if it is not there.
    ///
    /// # Errors
    /// One line for the operator: who holds it, or what the system said.
    pub fn take(run_dir: &Path) -> Result<Self, String> {
        let path = run_dir.join(FILE);
        let failed = |path: &Path, error: std::io::Error| {
            format!(
                "{}: {error}; run rvsd as root, or set director.run_dir to a directory that it may write",
                path.display()
            )
        };
        fs::create_dir_all(run_dir).map_err(|error| failed(run_dir, error))?;
        let failed = |error| failed(&path, error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // For people, and for the message below; the lock is the flock.
                file.set_len(0).map_err(failed)?;
                file.rewind().map_err(failed)?;
                writeln!(file, "{}", std::process::id()).map_err(failed)?;
                Ok(Self(file))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another rvsd".to_string(),
                    pid => format!("rvsd with process id {pid}"),
                };
                let path = path.display();
                Err(format!(
                    "{holder} holds {path}; stop it first, or give this one another director.run_dir"
                ))
            }
            Err((_, error)) => Err(failed(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let dir = std::env::temp_dir().join(format!("rvs-lock-{}", std::process::id()));
        let first = Lock::take(&dir).unwrap();
        let error = Lock::take(&dir).unwrap_err();
        assert!(error.contains(&format!("process id {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn an_impossible_directory_is_named_with_what_to_do() {
        let error = Lock::take(Path::new("/proc/rvs/run")).unwrap_err();
        assert!(error.starts_with("/proc/rvs/run: "), "{error}");
        assert!(error.contains("director.run_dir"), "{error}");
    }
}
