//! What a request is refused with.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A typed failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// What kind, for programs.
    pub code: ErrorCode,
    /// What and why, in one line, for people.
    pub message: String,
}

impl Error {
    /// An error of `code` that says `message`.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The kinds of failure. The first group mirrors the kernel's answers to
/// `ipvsadm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// `-A` of a service that exists (the kernel's EEXIST).
    ServiceExists,
    /// `-E`, `-D`, `-L`, `-Z` of a service that does not exist (ESRCH).
    NoSuchService,
    /// A server command for a service that does not exist (ESRCH).
    ServiceNotDefined,
    /// `-a` of a server that exists (EEXIST).
    ServerExists,
    /// `-e`, `-d` of a server that does not exist (ENOENT).
    NoSuchServer,
    /// A scheduler or persistence engine that does not exist (ENOENT).
    NoSuchScheduler,
    /// A value out of range, a server address that is not unicast (EINVAL).
    InvalidArgument,
    /// Known to IPVS, but not built into this version of RVS.
    Unsupported,
    /// No memory or no free id for one more.
    NoSpace,
    /// The client may look but not change.
    Permission,
    /// The configuration file is wrong, or what is different in it does not go
    /// with what was changed at run time. Nothing was carried out.
    BadConfiguration,
    /// Not JSON, not a known request, or no hello first. After a frame whose
    /// JSON is wrong the connection stays usable.
    BadRequest,
    /// A hello with another version; the connection is closed.
    Version,
    /// A frame longer than [`MAX_REQUEST`](super::MAX_REQUEST), or
    /// [`MAX_RESTORE`](super::MAX_RESTORE); the connection is closed.
    TooLong,
    /// A frame that was begun but not finished in time; the connection is
    /// closed.
    TimedOut,
    /// Too many clients; the connection is closed.
    Busy,
    /// As many observations as there may be at a time are there already.
    TooManyObservations,
    /// This client has no such observation, or it was ended.
    NoSuchObservation,
    /// A worker did not take the change up in time. It is in force as soon as
    /// the worker runs again.
    WorkerStalled,
}
