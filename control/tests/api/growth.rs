//! A daemon in which much comes and goes stays as large as it is.

use std::fs;

use control::api::{Request, ServiceId};
use control::client::Client;

use crate::Test;
use crate::bench::{Directory, Raw, connections, encoded, id, server, service};
use crate::restart::Process;

pub(crate) const TESTS: &[(&str, Test)] =
    &[("what comes and goes leaves nothing in memory or on disk", comes_and_goes)];

/// Until all that grows to its size once has: queues, tables, the allocator's
/// arenas.
const WARM_UP: u32 = 300;
const CYCLES: u32 = 600;
/// Less than what cycles leave that leave their services. Allocators take some
/// hundred: a run of 4,500 cycles grew by 470 KB until the 900th and by 120 after.
const GROWTH_KB: u64 = 700;

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
    assert_eq!(descriptors_of(pid), descriptors, "descriptors");
    assert!(client.services(None).unwrap().services.is_empty());
}

/// A service of its own with its servers, looked at and taken away; a client that
/// stays away, and one that talks nonsense.
fn cycle(client: &mut Client, socket: &std::path::Path, n: u32) {
    let address = format!("10.{}.{}.1:80", n / 250, n % 250);
    let id: ServiceId = id(&address);
    let mut change = |request: Request| client.change(&request).unwrap();
    change(Request::AddService { service: service(&address, ["rr", "wlc", "sh"][n as usize % 3]) });
    let servers = [1, 2, 3].map(|host| format!("10.{}.{}.{host}:80", 100 + n / 250, n % 250));
    for address in &servers {
        change(Request::AddServer { service: id, server: server(address, 1) });
    }
    change(Request::EditServer { service: id, server: server(&servers[0], 7) });
    change(Request::DeleteServer { service: id, server: servers[1].parse().unwrap() });
    assert_eq!(client.services(Some(id)).unwrap().services[0].servers.len(), 2);
    assert!(connections(client).0.is_empty());
    assert_eq!(client.next_hops().unwrap().len(), 2);
    let mut raw = Raw::at(socket);
    std::io::Write::write_all(&mut raw.0, &encoded(&Request::Timeouts {})).unwrap();
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
