//! Part *process*: packets of connections that are open.

use crate::bed::frames::{ACK, Side};
use crate::bed::runner::{Job, family_name, protocol_name};
use crate::bed::{Bed, Family, Harness, Method, Protocol, Setup};
use crate::report::{Report, Row, short};
use crate::scale::Scale;

const PART: &str = "process";

/// The rows of the part: setups, and the flow counts of each.
fn setups(scale: &Scale) -> Vec<(Setup, Vec<usize>)> {
    let mut all = Vec::new();
    for &family in &scale.families {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for &method in &scale.methods {
                let flows = match (family, protocol) {
                    _ if !scale.quick => scale.flows.clone(),
                    (Family::V4, Protocol::Tcp) => scale.flows.clone(),
                    // Quick: the other packets with one number of flows.
                    _ => {
                        scale.flows.iter().rev().take(2).next_back().copied().into_iter().collect()
                    }
                };
                if scale.quick && family == Family::V6 && protocol == Protocol::Udp {
                    continue;
                }
                let setup =
                    Setup { servers: scale.servers, ..Setup::new(method, family, protocol) };
                all.push((setup, flows));
            }
        }
    }
    all
}

/// Bursts that are measured, and where buffers come from.
fn ways(scale: &Scale) -> &'static [(usize, Harness)] {
    const FULL: [(usize, Harness); 3] =
        [(64, Harness::Recirculate), (32, Harness::Recirculate), (64, Harness::Alloc)];
    if scale.quick { &FULL[..1] } else { &FULL }
}

pub(crate) fn run(scale: &Scale, report: &mut Report) -> Result<(), String> {
    for (setup, flows) in setups(scale) {
        for flows in flows {
            if let Err(error) = one(scale, report, setup, flows) {
                report.failure(PART, setup.method.name(), &error)?;
            }
        }
    }
    Ok(())
}

fn one(scale: &Scale, report: &mut Report, setup: Setup, flows: usize) -> Result<(), String> {
    let Setup { method, family, protocol, .. } = setup;
    let (family, protocol) = (family_name(family), protocol_name(protocol));
    let title = format!("{} {family} {protocol}", method.name());
    let count = short(Some(flows as u64));
    report.doing(&format!("{title}: opening {count} connections"));
    let mut bed = Bed::new(setup, flows)?;
    bed.open_all()?;
    let sides = [(Side::ToServer, ""), (Side::of_servers(method), " to client")];
    for &(side, direction) in &sides[..method.entries()] {
        for &(burst, harness) in ways(scale) {
            report.doing(&format!("{title}{direction}: {count} flows, burst {burst}"));
            let frames = bed.frames(side, ACK);
            let job = Job { packets: scale.packets, burst, harness, process: true };
            let samples = bed.rounds(&frames, job, scale.rounds)?;
            let direction = match (method.is_two_sided(), direction) {
                (true, "") => " to server",
                (_, direction) => direction,
            };
            let row = Row {
                family: Some(family.into()),
                protocol: Some(protocol.into()),
                servers: Some(setup.servers),
                flows: Some(flows as u64),
                burst: Some(burst as u64),
                workers: Some(1),
                harness: Some(harness.name().into()),
                ..Row::new(PART, format!("{}{direction}", method.name()))
            };
            report.row(&row.measured(&samples))?;
        }
    }
    Ok(())
}

/// The harness alone, as rows of their own: what every other row has had taken
/// off.
pub(crate) fn harness(scale: &Scale, report: &mut Report) -> Result<(), String> {
    for family in [Family::V4, Family::V6] {
        let setup = Setup { servers: 1, ..Setup::new(Method::Dr, family, Protocol::Tcp) };
        for &(burst, harness) in ways(scale) {
            let mut bed = Bed::new(setup, 1000)?;
            let frames = bed.frames(Side::ToServer, ACK);
            let job = Job { packets: scale.packets, burst, harness, process: false };
            let samples = bed.rounds(&frames, job, scale.rounds)?;
            let row = Row {
                family: Some(family_name(family).into()),
                protocol: Some("TCP".into()),
                flows: Some(1000),
                burst: Some(burst as u64),
                workers: Some(1),
                harness: Some(harness.name().into()),
                ..Row::new(PART, "none")
            };
            // The difference of two runs without the director is the error of
            // all differences.
            report.row(&Row { mpps: None, ..row.measured(&samples) })?;
        }
    }
    Ok(())
}
