//! What the director does to frames, row by row: setup, frames in, frames out,
//! byte for byte. The rows say what Linux 6.1 does (recorded on the wire between
//! two hosts); where RVS differs on purpose a row says under which name
//! docs/differences.md has it.
//!
//! Each row is a test: `cargo test -p dataplane --test wire -- nat` runs those
//! whose name has `nat` in it. Every row also checks that the worker's counters
//! add up.

mod bench;
mod dr;
mod every;
mod fragments;
mod fullnat;
mod icmp;
mod literal;
mod method;
mod nat;
mod network;
mod options;
mod packet;
mod policy;
mod setup;
mod tun;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let tables = [
        ("dr", dr::rows()),
        ("every", every::rows()),
        ("fragments", fragments::rows()),
        ("fullnat", fullnat::rows()),
        ("icmp", icmp::rows()),
        ("literal", literal::rows()),
        ("nat", nat::rows()),
        ("options", options::rows()),
        ("policy", policy::rows()),
        ("tun", tun::rows()),
    ];
    let trials = tables.into_iter().flat_map(|(table, rows)| {
        rows.into_iter().map(move |row| {
            let name = format!("{table}: {}", row.name);
            Trial::test(name, move || row.run().map_err(Into::into))
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
