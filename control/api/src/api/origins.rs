//! Where services and servers come from.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ServiceId;

/// Where something comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The configuration file, and it is as the file says.
    File,
    /// The configuration file, but it was changed at run time. Of a service: it
    /// or any of its servers, one of which may have come or gone.
    Changed,
    /// It was added at run time; the file says nothing of it.
    Runtime,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::File => "file",
            Self::Changed => "changed",
            Self::Runtime => "runtime",
        })
    }
}

/// Where a service and its servers come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOrigin {
    /// The service.
    pub service: ServiceId,
    /// Where it comes from.
    pub origin: Origin,
    /// Its servers, newest first.
    pub servers: Vec<ServerOrigin>,
}

/// Where a server comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerOrigin {
    /// The server.
    pub server: SocketAddr,
    /// Where it comes from.
    pub origin: Origin,
}
