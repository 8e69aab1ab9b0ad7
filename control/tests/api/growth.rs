//! A daemon in which much comes and goes stays as large as it is.

use std::fs;
use std::io::Write;
use std::path::Path;

use control::api::{Request, ServiceId, VERSION};
use control::client::Client;

use crate::Test;
use crate::bench::{Directory, Raw, connections, encoded, id, server, service};
use crate::restart::Process;

pub(crate) const TESTS: &[(&str, Test)] =
    &[("what comes and goes leaves nothing in memory or on disk", comes_and_goes)];

/// Until all that grows to its size once has: queues, tables, the allocator's
/// arenas.
const WARM_UP: u32 = 100;
const CYCLES: u32 = 200;
/// Servers of a cycle's service.
const SERVERS: u32 = 20;
/// What allocators may take, far less than cycles leave that leave their servers:
/// at half a KB each, [`CYCLES`] times [`SERVERS`] make 2,000.
const GROWTH_KB: u64 = 1_500;

fn comes_and_goes() {
    let directory = Directory::new();
    let process = Process::ready(&directory);
    let socket = directory.0.join("rvsd.sock");
    let mut client = Client::connect(&socket).unwrap();
    let pid = process.child.id();
    (0..WARM_UP).for_each(|n| cycle(&mut client, &socket, n));
    let (memory, disk) = (resident_kb(pid), on_disk(&directory));
    let descriptors = descriptors_of(pid);
    (WARM_UP..WARM_UP + CYCLES).for_each(|n| cycle(&mut client, &socket, n));
    let (later, disk_later) = (resident_kb(pid), on_disk(&directory));
    assert!(later < memory + GROWTH_KB, "{memory} KB, {CYCLES} cycles later {later} KB");
    // The record of changes is written anew when it is longer than what there is.
    assert!(disk_later < disk + 200_000, "{disk} bytes, {CYCLES} cycles later {disk_later} bytes");
    // One more or less: the last client may be on its way out, here or above.
    let now = descriptors_of(pid);
    assert!(now <= descriptors + 1, "{descriptors} descriptors, {CYCLES} cycles later {now}");
    assert!(client.services(None).unwrap().services.is_empty());
}

/// A service of its own with its servers, looked at and taken away; and a client
/// that talks nonsense.
fn cycle(client: &mut Client, socket: &Path, n: u32) {
    let address = format!("10.{}.{}.1:80", n / 250, n % 250);
    let id: ServiceId = id(&address);
    let servers: Vec<_> =
        (1..=SERVERS).map(|host| format!("10.{}.{}.{host}:80", 100 + n / 250, n % 250)).collect();
    let add = |address: &String| Request::AddServer { service: id, server: server(address, 1) };
    let mut requests = vec![Request::AddService { service: service(&address, "wlc") }];
    requests.extend(servers.iter().map(add));
    requests.push(Request::EditServer { service: id, server: server(&servers[0], 7) });
    let server = servers[1].parse().unwrap();
    requests.push(Request::DeleteServer { service: id, server });
    let mut raw = Raw::at(socket);
    raw.send(&Request::Hello { version: VERSION });
    raw.0.write_all(&requests.iter().flat_map(encoded).collect::<Vec<_>>()).unwrap();
    (0..=requests.len()).for_each(|_| assert!(raw.reply().unwrap().is_ok()));
    let left = SERVERS as usize - 1;
    assert_eq!(client.services(Some(id)).unwrap().services[0].servers.len(), left);
    assert!(connections(client).0.is_empty());
    assert_eq!(client.next_hops().unwrap().len(), left);
    let mut raw = Raw::at(socket);
    raw.send(&Request::Timeouts {});
    assert!(raw.reply().unwrap().is_err());
    client.change(&Request::DeleteService { service: id }).unwrap();
}

fn resident_kb(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn descriptors_of(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn on_disk(directory: &Directory) -> u64 {
    let entries = fs::read_dir(&directory.0).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}
