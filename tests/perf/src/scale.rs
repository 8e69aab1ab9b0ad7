//! How much is run.

use crate::bed::{Family, Method};

/// Rounds, packets and flows.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Fewer rows, and fewer packets a row.
    pub(crate) quick: bool,
    /// For tests: no program but this one is started.
    pub(crate) smoke: bool,
    /// Measured rounds, of which the median counts.
    pub(crate) rounds: usize,
    /// Packets of a round.
    pub(crate) packets: usize,
    /// Flow counts of the rows of the part process.
    pub(crate) flows: Vec<usize>,
    /// Live connections of the parts connect, update and operators.
    pub(crate) live: usize,
    /// Real servers of a service, where a row does not say another number.
    pub(crate) servers: u32,
    /// Methods and families of the rows of the parts process and connect.
    pub(crate) methods: Vec<Method>,
    pub(crate) families: Vec<Family>,
    /// Services of the part update, with ten servers each.
    pub(crate) services: u32,
    /// Calls of the part operators, and its listings of all connections.
    pub(crate) calls: usize,
    pub(crate) listings: usize,
    /// How long the parts that measure for a time do, seconds.
    pub(crate) seconds: f64,
}

impl Scale {
    pub(crate) fn full() -> Self {
        Self {
            quick: false,
            smoke: false,
            rounds: 5,
            packets: 2_000_000,
            flows: vec![1, 1_000, 64_000, 1_000_000, 10_000_000],
            live: 1_000_000,
            servers: 1000,
            methods: Method::ALL.to_vec(),
            families: vec![Family::V4, Family::V6],
            services: 10_000,
            calls: 1_000,
            listings: 100,
            seconds: 5.0,
        }
    }

    pub(crate) fn quick() -> Self {
        Self {
            quick: true,
            rounds: 3,
            packets: 500_000,
            flows: vec![1_000, 64_000, 1_000_000],
            calls: 200,
            listings: 2,
            seconds: 1.0,
            ..Self::full()
        }
    }

    /// Enough to see that every row is there; the figures mean nothing.
    pub(crate) fn smoke() -> Self {
        Self {
            smoke: true,
            rounds: 1,
            packets: 1280,
            flows: vec![50, 100],
            live: 500,
            servers: 10,
            services: 20,
            calls: 8,
            listings: 1,
            seconds: 0.02,
            ..Self::quick()
        }
    }
}
