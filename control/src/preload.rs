//! `rvsadm run`: another program under the preload library, which makes rvsd
//! out of what the program takes for the kernel's IPVS.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::client::SOCKET_VARIABLE;

/// The library's file.
pub const LIBRARY: &str = "librvs_ipvs.so";

/// The environment variable that names another file.
pub const LIBRARY_VARIABLE: &str = "RVS_PRELOAD";

/// Where the dynamic linker is told of libraries (ld.so(8)).
const LD_PRELOAD: &str = "LD_PRELOAD";

/// Why a program was not run.
#[derive(Debug)]
pub enum RunError {
    /// The library is at none of these places.
    NoLibrary(Vec<PathBuf>),
    /// The library's path has a blank or a colon, between which the dynamic
    /// linker separates.
    Unspeakable(PathBuf),
    /// The socket's path cannot be made absolute.
    Socket(PathBuf, io::Error),
    /// The program cannot be run.
    Program(OsString, io::Error),
}

impl RunError {
    /// The exit code that env(1) has for it.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Program(_, error) if error.kind() == io::ErrorKind::NotFound => 127,
            Self::Program(..) => 126,
            _ => 125,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLibrary(places) => {
                write!(f, "Can't find {LIBRARY}. It is not at")?;
                for (n, place) in places.iter().enumerate() {
                    let separator = if n == 0 { " " } else { ", " };
                    write!(f, "{separator}{}", place.display())?;
                }
                write!(f, ".\nInstall it there, or set {LIBRARY_VARIABLE} to its path.")
            }
            Self::Unspeakable(path) => write!(
                f,
                "The path {} has a blank or a colon, which {LD_PRELOAD} cannot carry.\nInstall \
                 {LIBRARY} elsewhere, or set {LIBRARY_VARIABLE} to another path.",
                path.display()
            ),
            Self::Socket(path, error) => {
                write!(f, "Can't make {} an absolute path: {error}", path.display())
            }
            Self::Program(program, error) => {
                write!(f, "Can't run {}: {error}", program.to_string_lossy())
            }
        }
    }
}

impl std::error::Error for RunError {}

/// Runs a program, `command` being its name and arguments, in the place of this
/// process. Returns only when that fails.
pub fn run(socket: &Path, command: &[OsString]) -> RunError {
    match prepare(socket, command) {
        Ok(mut prepared) => {
            let error = prepared.exec();
            RunError::Program(prepared.get_program().to_owned(), error)
        }
        Err(error) => error,
    }
}

fn prepare(socket: &Path, command: &[OsString]) -> Result<Command, RunError> {
    let library = library(std::env::var_os(LIBRARY_VARIABLE), std::env::current_exe().ok())?;
    // A daemon changes its directory.
    let absolute =
        std::path::absolute(socket).map_err(|error| RunError::Socket(socket.to_owned(), error))?;
    let (program, arguments) =
        command.split_first().map_or((OsStr::new(""), &[][..]), |(p, a)| (p.as_os_str(), a));
    let mut prepared = Command::new(program);
    prepared.args(arguments);
    prepared.env(SOCKET_VARIABLE, absolute);
    prepared.env(LD_PRELOAD, preload(library, std::env::var_os(LD_PRELOAD)));
    Ok(prepared)
}

/// The library: the file that `named` names, or one that is installed with the
/// program `own`: beside it, or in `../lib/rvs`.
fn library(named: Option<OsString>, own: Option<PathBuf>) -> Result<PathBuf, RunError> {
    let places = match named.filter(|path| !path.is_empty()) {
        Some(path) => vec![PathBuf::from(path)],
        None => {
            let directory = own.as_deref().and_then(Path::parent).unwrap_or(Path::new("/usr/bin"));
            let up = directory.parent().unwrap_or(directory);
            vec![directory.join(LIBRARY), up.join("lib/rvs").join(LIBRARY)]
        }
    };
    let found = places.iter().find(|path| path.is_file());
    // The dynamic linker looks for a name without a slash elsewhere.
    let path = match found.and_then(|path| std::path::absolute(path).ok()) {
        Some(path) => path,
        None => return Err(RunError::NoLibrary(places)),
    };
    if path.as_os_str().as_bytes().iter().any(|byte| b" \t\n:".contains(byte)) {
        return Err(RunError::Unspeakable(path));
    }
    Ok(path)
}

/// The library in front of what is preloaded already.
fn preload(library: PathBuf, present: Option<OsString>) -> OsString {
    let mut list = library.into_os_string();
    if let Some(present) = present.filter(|present| !present.is_empty()) {
        list.push(":");
        list.push(present);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("rvs-preload-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(path.join("lib/rvs")).unwrap();
            std::fs::create_dir_all(path.join("bin")).unwrap();
            Self(path)
        }

        fn file(&self, name: &str) -> PathBuf {
            let path = self.0.join(name);
            std::fs::write(&path, "").unwrap();
            path
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_library_is_named_beside_the_program_or_in_lib() {
        let directory = Directory::new("places");
        let own = || Some(directory.0.join("bin/rvsadm"));
        let missing = library(None, own()).unwrap_err();
        assert_eq!(missing.code(), 125);
        let bin = directory.0.join("bin").join(LIBRARY);
        let lib = directory.0.join("lib/rvs").join(LIBRARY);
        assert_eq!(
            missing.to_string(),
            format!(
                "Can't find librvs_ipvs.so. It is not at {}, {}.\nInstall it there, or set \
                 RVS_PRELOAD to its path.",
                bin.display(),
                lib.display()
            )
        );
        directory.file("lib/rvs/librvs_ipvs.so");
        assert_eq!(library(None, own()).unwrap(), lib);
        directory.file("bin/librvs_ipvs.so");
        assert_eq!(library(None, own()).unwrap(), bin);
        let other = directory.file("other.so");
        assert_eq!(library(Some(other.clone().into()), own()).unwrap(), other);
        assert_eq!(library(Some("".into()), own()).unwrap(), bin);
        let gone = directory.0.join("gone.so");
        assert!(matches!(
            library(Some(gone.clone().into()), own()),
            Err(RunError::NoLibrary(places)) if places == [gone]
        ));
    }

    #[test]
    fn a_path_that_ld_so_would_split_is_refused() {
        let directory = Directory::new("a:b");
        let path = directory.file("x.so");
        let error = library(Some(path.into()), None).unwrap_err();
        assert!(matches!(error, RunError::Unspeakable(_)), "{error}");
    }

    #[test]
    fn what_was_preloaded_stays() {
        assert_eq!(preload("/a.so".into(), None), "/a.so");
        assert_eq!(preload("/a.so".into(), Some("".into())), "/a.so");
        assert_eq!(preload("/a.so".into(), Some("/b.so".into())), "/a.so:/b.so");
    }

    #[test]
    fn exit_codes_are_those_of_env() {
        let program = |kind: io::ErrorKind| RunError::Program("x".into(), kind.into()).code();
        assert_eq!(program(io::ErrorKind::NotFound), 127);
        assert_eq!(program(io::ErrorKind::PermissionDenied), 126);
    }
}
