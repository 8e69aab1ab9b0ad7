//! Health checks and what they found.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::ServiceId;

/// A check and its last result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The service.
    pub service: ServiceId,
    /// The server.
    pub server: SocketAddr,
    /// What a probe does: `tcp`, `http`, `https`, `udp`, `ping`, `command`.
    pub kind: String,
    /// Whether the server is good.
    pub up: bool,
    /// How long it has been, or since the check began, ms.
    pub since_ms: u64,
    /// What becomes of it when it is not: `weight0` or `remove`.
    pub on_failure: String,
    /// Results in a row like the last one.
    pub in_a_row: u32,
    /// Probes since the check began.
    pub probes: u64,
    /// Those that failed.
    pub failures: u64,
    /// The last probe; absent before the first.
    pub last: Option<HealthProbe>,
}

/// A probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthProbe {
    /// How long ago it was over, ms.
    pub ago_ms: u64,
    /// How long it took, us.
    pub took_us: u64,
    /// Why it failed; absent when it did not.
    pub failure: Option<String>,
}

/// A server that became good or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthChange {
    /// How long ago, ms.
    pub ago_ms: u64,
    /// The service.
    pub service: ServiceId,
    /// The server.
    pub server: SocketAddr,
    /// Whether it is good since.
    pub up: bool,
    /// Results in a row that made the change.
    pub in_a_row: u32,
    /// How long it had been as it was before, ms.
    pub lasted_ms: u64,
    /// Why the last probe failed; absent when it did not.
    pub failure: Option<String>,
}
