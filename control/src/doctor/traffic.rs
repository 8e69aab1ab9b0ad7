//! Counters: links that are down, and drops that grow while one looks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Finding;
use crate::api::{KernelPathCounters, PortCounters, Request, Response, WorkerCounters};
use crate::client::{Client, ClientError};
use crate::config::{Bus, Config};

/// How long counters are watched.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// What docs/drops.md says of each reason: the doctor's words are the page's.
const DROPS: &str = include_str!("../../../docs/drops.md");

/// The counters at a time.
pub(super) struct Counters {
    workers: Vec<WorkerCounters>,
    ports: Vec<PortCounters>,
    kernel_path: KernelPathCounters,
}

impl Counters {
    /// Names of the taps.
    pub(super) fn taps(&self) -> impl Iterator<Item = &str> {
        self.ports.iter().flat_map(|port| {
            let vlans = port.vlans.iter().map(|vlan| vlan.name.as_str());
            std::iter::once(port.name.as_str()).chain(vlans)
        })
    }

    fn drops(&self) -> BTreeMap<&str, u64> {
        let mut drops = BTreeMap::new();
        for drop in self.workers.iter().flat_map(|worker| &worker.drops) {
            *drops.entry(drop.reason.as_str()).or_default() += drop.count;
        }
        drops
    }
}

pub(super) fn counters(client: &mut Client) -> Result<Counters, ClientError> {
    match client.call(&Request::Counters {})? {
        Response::Counters { workers, ports, kernel_path, .. } => {
            Ok(Counters { workers, ports, kernel_path })
        }
        other => Err(ClientError::BadReply(format!("counters were asked for, {other:?} came"))),
    }
}

pub(super) fn ports(counters: &Counters) -> Vec<Finding> {
    let down = counters.ports.iter().filter(|port| port.link_known && !port.link_up);
    down.map(|port| {
        Finding::error("links", format!("port {} ({}) has no link", port.name, port.device))
            .because("nothing comes or goes by it")
            .mend("look at the cable, the transceiver, and the switch's port")
    })
    .collect()
}

/// Devices that have fewer queues than the file has workers: rvsd runs with
/// another file than it is to be started with.
pub(super) fn queues(counters: &Counters, config: &Config) -> Vec<Finding> {
    let workers = config.director.cores.len();
    let wanted = |port: &&PortCounters| {
        config.ports.iter().any(|wanted| {
            let devices: Vec<_> = wanted.devices().iter().map(ToString::to_string).collect();
            // What virtual devices have is in the file, too (`devices::check`).
            let nics = wanted.devices().iter().any(|device| device.bus == Bus::Pci);
            nics && wanted.name == port.name && devices.join(" ") == port.device
        })
    };
    // 0 is of a version that does not tell.
    let few = |port: &&PortCounters| (1..workers).contains(&port.max_queues.into());
    let few = counters.ports.iter().filter(wanted).filter(few);
    few.map(|PortCounters { name, device, max_queues, .. }| {
        let what = format!(
            "port {name}: {workers} workers need as many queues, and {device} has {max_queues}"
        );
        Finding::error("NICs", what)
            .because("rvsd does not start with this file when it is restarted")
            .mend(format!("give director.cores {max_queues} of its cores, or use another NIC"))
    })
    .collect()
}

/// What grew in [`PERIOD`].
pub(super) fn growth(before: &Counters, after: &Counters) -> Vec<Finding> {
    let mut findings = Vec::new();
    let old = before.drops();
    for (reason, count) in after.drops() {
        let grown = count.saturating_sub(old.get(reason).copied().unwrap_or(0));
        if grown > 0 {
            findings.push(of_reason(reason, grown));
        }
    }
    for (old, port) in before.ports.iter().zip(&after.ports) {
        let missed = port.rx_missed.saturating_sub(old.rx_missed);
        if missed > 0 {
            findings.push(
                Finding::warning("drops", format!("port {}: {missed} packets a second missed", port.name))
                    .because("the NIC had no descriptor or buffer for them: a worker is too slow or was interrupted")
                    .mend("rvsadm show workers; isolate the cores, add cores, raise port.rx_descriptors and eal.mbufs"),
            );
        }
    }
    let path = &after.kernel_path;
    let failed = path.to_kernel_failed.saturating_sub(before.kernel_path.to_kernel_failed);
    if failed > 0 {
        findings.push(
            Finding::warning("drops", format!("taps did not take {failed} packets a second"))
                .because("the kernel does not see them: ARP, ssh and BGP suffer")
                .mend(
                    "ip link show: is a tap down? A flood to the director itself: tcpdump -i PORT",
                ),
        );
    }
    findings
}

fn of_reason(reason: &str, grown: u64) -> Finding {
    let what = format!("{grown} packets a second dropped: {reason}");
    let Some(advice) = advice(reason) else { return Finding::warning("drops", what) };
    // What the page says to leave alone is no reason to alarm.
    let finding = if advice.remedy.starts_with("Nothing") {
        Finding::note("drops", what)
    } else {
        Finding::warning("drops", what)
    };
    finding.because(format!("{} {}", advice.meaning, advice.cause)).mend(advice.remedy)
}

/// A row of the page.
struct Advice {
    meaning: &'static str,
    cause: &'static str,
    remedy: &'static str,
}

fn advice(reason: &str) -> Option<Advice> {
    let row = DROPS.lines().find(|line| line.starts_with(&format!("| `{reason}` |")))?;
    let mut cells = row.trim_matches('|').split('|').map(str::trim).skip(1);
    Some(Advice { meaning: cells.next()?, cause: cells.next()?, remedy: cells.next()? })
}

#[cfg(test)]
mod tests {
    use dataplane::counters::DropReason;

    use super::super::host::tests::lines;
    use super::*;
    use crate::api::Drop;

    fn counters(drops: &[(&str, u64)], missed: u64) -> Counters {
        let drops = drops.iter().map(|&(reason, count)| Drop { reason: reason.into(), count });
        let worker: WorkerCounters = serde_json::from_value(serde_json::json!({
            "core": 1, "rx": 0, "taken_over": 0, "injected": 0, "generated": 0, "tx": 0,
            "punted": 0, "handed_off": 0, "held": 0, "drops": [], "connections": 0,
            "expired": 0, "recycled": 0, "stateless": 0,
        }))
        .unwrap();
        let port: PortCounters = serde_json::from_value(serde_json::json!({
            "name": "lan", "device": "0000:01:00.0", "mac": "", "link_up": false, "rx_packets": 0,
            "rx_bytes": 0, "rx_missed": missed, "rx_errors": 0, "tx_packets": 0, "tx_bytes": 0,
            "tx_errors": 0, "mbufs_in_use": 0, "mbufs": 0,
        }))
        .unwrap();
        Counters {
            workers: vec![WorkerCounters { drops: drops.collect(), ..worker }],
            ports: vec![port],
            kernel_path: KernelPathCounters::default(),
        }
    }

    #[test]
    fn more_workers_than_the_running_nic_has_queues() {
        use super::super::host::tests::config;
        let said = |max_queues: u16, cores: &str, device: &str| {
            let mut counters = counters(&[], 0);
            counters.ports[0].max_queues = max_queues;
            let port = format!("device = \"{device}\"");
            lines(&queues(&counters, &config(&format!("cores = [{cores}]"), &port)))
        };
        assert_eq!(
            said(2, "1, 2, 3", "0000:01:00.0"),
            "Error NICs: port lan: 3 workers need as many queues, and 0000:01:00.0 has 2 | give director.cores 2 of its cores, or use another NIC\n"
        );
        assert_eq!(said(2, "1, 2", "0000:01:00.0"), "");
        assert_eq!(said(0, "1, 2", "0000:01:00.0"), "", "it does not tell");
        assert_eq!(said(1, "1, 2", "0000:02:00.0"), "", "the file has another NIC");
    }

    #[test]
    fn drops_that_grow_come_with_what_the_page_says() {
        let before = counters(&[("no_server", 5), ("ip_martian", 1), ("tx_full", 9)], 3);
        let after = counters(&[("no_server", 12), ("ip_martian", 2), ("tx_full", 9)], 7);
        let said = lines(&growth(&before, &after));
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(
            said.contains(
                "Warning drops: 7 packets a second dropped: no_server | `rvsadm -Ln`; add a server"
            ),
            "{said}"
        );
        assert!(
            said.contains("Note drops: 1 packets a second dropped: ip_martian | Nothing"),
            "{said}"
        );
        assert!(said.contains("Warning drops: port lan: 4 packets a second missed"), "{said}");
        assert!(growth(&after, &after).is_empty());
    }

    #[test]
    fn each_reason_is_on_the_page() {
        for reason in DropReason::ALL {
            let advice = advice(reason.name()).unwrap_or_else(|| panic!("{}", reason.name()));
            assert!(!advice.meaning.is_empty() && !advice.remedy.is_empty(), "{}", reason.name());
        }
    }

    #[test]
    fn a_link_that_is_down_is_told() {
        let said = lines(&ports(&counters(&[], 0)));
        assert!(said.starts_with("Error links: port lan (0000:01:00.0) has no link"), "{said}");
        let mut unknown = counters(&[], 0);
        unknown.ports[0].link_known = false;
        assert!(ports(&unknown).is_empty());
    }
}
