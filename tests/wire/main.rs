//! What the director does to frames, row by row: setup, frames in, frames out,
//! byte for byte. The rows say what Linux 6.1 does (recorded on the wire between
//! two hosts); where RVS differs on purpose a row says under which name
//! docs/differences.md has it.
//!
//! Each row is a test: `cargo test -p dataplane --test wire -- nat` runs those
//! whose name has `nat` in it. Every row also checks that the worker's counters
//! add up. The tests `differences` look the names up on that page.

mod bench;
mod dr;
mod every;
mod fragments;
mod fullnat;
mod icmp;
mod literal;
mod method;
mod mss;
mod nat;
mod network;
mod options;
mod packet;
mod policy;
mod setup;
mod tun;

use std::collections::BTreeSet;

use libtest_mimic::{Arguments, Trial};

use crate::bench::Row;

fn main() {
    let tables = [
        ("dr", dr::rows()),
        ("every", every::rows()),
        ("fragments", fragments::rows()),
        ("fullnat", fullnat::rows()),
        ("icmp", icmp::rows()),
        ("literal", literal::rows()),
        ("mss", mss::rows()),
        ("nat", nat::rows()),
        ("options", options::rows()),
        ("policy", policy::rows()),
        ("tun", tun::rows()),
    ];
    let matters: BTreeSet<_> =
        tables.iter().flat_map(|(_, rows)| rows.iter().filter_map(Row::matter)).collect();
    let on_the_page = matters.into_iter().map(|matter| {
        let name = format!("differences: {matter}");
        Trial::test(name, move || is_on_the_page(matter).map_err(Into::into))
    });
    let trials = tables.into_iter().flat_map(|(table, rows)| {
        rows.into_iter().map(move |row| {
            let name = format!("{table}: {}", row.name);
            Trial::test(name, move || row.run().map_err(Into::into))
        })
    });
    let trials = trials.chain(on_the_page).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// What a row says that it differs in is the first cell of a line of a table.
fn is_on_the_page(matter: &str) -> Result<(), String> {
    let page = include_str!("../../docs/differences.md");
    let begin = format!("| {matter} |");
    if page.lines().any(|line| line.starts_with(&begin)) {
        return Ok(());
    }
    Err(format!("docs/differences.md has no line \"{begin}\""))
}
