//! Target `api`: what a client of the control socket sends. Frames as they come
//! over the socket; where the bytes are no frame, the rest is read as a request
//! a line, so that mutations reach the registry without hitting a length.

use std::net::IpAddr;
use std::path::Path;

use control::api::{self, Request, ServerSpec, Timeouts};
use control::daemon::saved;
use control::frame;
use control::registry::Registry;
use dataplane::service::{Hop, PortHop};
use dataplane::snapshot::Port;

/// Requests that one input makes at most: mh builds a table for each.
const REQUESTS: usize = 64;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Runs a conversation of these bytes.
pub fn run(input: &[u8]) {
    let mut registry = registry();
    let mut rest = input;
    for _ in 0..REQUESTS {
        match frame::decode(rest, api::MAX_REQUEST) {
            Ok(Some(json)) => {
                rest = &rest[frame::HEADER + json.len()..];
                request(&mut registry, json);
            }
            Ok(None) | Err(_) => break,
        }
    }
    for line in rest.split(|byte| *byte == b'\n').take(REQUESTS) {
        request(&mut registry, line);
    }
    comes_back(&registry);
}

fn registry() -> Registry {
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    Registry::new(2, vec![Port::new(MAC, 1500)], timeouts)
}

/// Servers with an even last byte are reachable.
fn resolve(server: &ServerSpec) -> Hop {
    let last = match server.address.ip() {
        IpAddr::V4(ip) => ip.octets()[3],
        IpAddr::V6(ip) => ip.octets()[15],
    };
    if last % 2 == 1 {
        return Hop::Unresolved;
    }
    Hop::Port(PortHop { port: 0, vlan: 0, dst_mac: MAC, src_mac: MAC, mtu: 1500 })
}

fn request(registry: &mut Registry, json: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(json) else { return };
    let encoded = frame::encode(&request, api::MAX_REPLY).expect("what was read can be written");
    let again = frame::decode(&encoded, api::MAX_REPLY).expect("a frame").expect("a whole one");
    let again: Request = serde_json::from_slice(again).expect("our own JSON");
    assert_eq!(again, request, "a request survives the wire");

    let before = saved(registry);
    match registry.change(&request, &resolve) {
        Some(Ok(())) => {
            assert!(request.changes(), "{request:?} changed something");
            let epoch = registry.snapshot().epoch;
            registry.estimate_rates();
            registry.end_grace();
            registry.empty_trash(epoch);
        }
        Some(Err(error)) => {
            assert!(!error.message.contains('\n'), "one line: {:?}", error.message);
            assert_eq!(saved(registry), before, "{request:?} was refused");
        }
        None => {
            if let Request::Zero { service } = &request {
                let _ = registry.zero(service.as_ref());
            }
        }
    }
}

fn saved(registry: &Registry) -> saved::Services {
    registry.saved(0, usize::MAX).0
}

/// A daemon that was killed takes its services up again, all of them.
fn comes_back(old: &Registry) {
    let saved = saved(old);
    let mut new = registry().with_settings(saved.settings);
    new.set_timeouts(saved.timeouts).expect("timeouts that were in force");
    for request in saved.services.iter().cloned().flat_map(saved::Service::into_requests) {
        let done = new.change(&request, &resolve).expect("a request that changes");
        done.expect("what was there before");
    }
    assert_eq!(new.saved(0, usize::MAX).0, saved);
}

/// The requests of docs/control-api.md, each alone, all as lines, all as frames.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control-api.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let blocks = page.split("```json\n").skip(1).filter_map(|block| block.split("```").next());
    let mut seeds: Vec<Vec<u8>> =
        blocks.filter(|block| block.contains("\"op\"")).map(|block| block.trim().into()).collect();
    let lines = seeds.join(&b'\n');
    let frames = seeds.iter().flat_map(|request| {
        let len = (request.len() as u32).to_be_bytes();
        len.into_iter().chain(request.iter().copied())
    });
    let frames = frames.collect();
    seeds.extend([lines, frames]);
    seeds
}
