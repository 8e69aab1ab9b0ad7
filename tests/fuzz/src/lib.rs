//! What is fuzzed: functions that take any bytes and panic where RVS does
//! something that it must never do. libFuzzer drives them (`scripts/fuzz`), and
//! `cargo test` replays their seeds and the inputs that once failed
//! (`regressions/`). docs/fuzzing.md tells how.

#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod director;
pub mod frame;
pub mod packets;

/// A fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line and in paths.
    pub name: &'static str,
    /// Runs one input; panics on a defect.
    pub run: fn(&[u8]),
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "frame", run: frame::run, seeds: frame::seeds },
    Target { name: "director", run: director::run, seeds: director::seeds },
    Target { name: "api", run: api::run, seeds: api::seeds },
    Target { name: "config", run: config::run, seeds: config::seeds },
];

/// Bytes that are read from the front; behind the end there are zeros.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next `count` bytes, or as many as there are.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
