//! Huge pages: what the configuration needs and what the machine has.

use super::{Finding, Host};
use crate::config::{Config, HugePages};

const SIZES: &str = "/sys/kernel/mm/hugepages";
/// Bytes of a connection in a table (docs/datapath.md, memory), of which there
/// are one for each worker and family.
const CONNECTION_BYTES: u64 = 93;
/// Bytes of a persistence template.
const TEMPLATE_BYTES: u64 = 69;

/// Free huge pages against the need of EAL and the tables, as long as rvsd has
/// not taken them.
pub(super) fn check(host: &Host, config: &Config, runs: bool) -> Vec<Finding> {
    let eal = &config.eal;
    if eal.huge_pages == HugePages::Never {
        let what = "eal.huge_pages is \"never\"";
        return vec![
            Finding::note("huge pages", what)
                .because("ordinary pages make packets slower to handle, and keep dpdk-dumpcap out"),
        ];
    }
    if runs {
        return Vec::new();
    }
    let free_mb = free_mb(host);
    let (eal_mb, tables_mb) = (u64::from(eal.memory_mb), tables_mb(config));
    let needed = eal_mb + tables_mb;
    let have = format!(
        "{free_mb} MB free, {needed} MB needed ({eal_mb} for DPDK, {tables_mb} for tables)"
    );
    let mend = format!("rvs-hugepages set {needed}");
    let mut findings = Vec::new();
    if free_mb < eal_mb && eal.huge_pages == HugePages::Require {
        findings.push(
            Finding::error("huge pages", have)
                .because("rvsd does not start: eal.huge_pages is \"require\"")
                .mend(mend),
        );
    } else if free_mb < needed {
        findings.push(
            Finding::warning("huge pages", have)
                .because("what does not fit lies in ordinary pages, which cost up to twice as much a packet")
                .mend(mend),
        );
    }
    if free_mb >= eal_mb && !is_mounted(host) {
        findings.push(
            Finding::warning("huge pages", "no hugetlbfs is mounted")
                .because("dpdk-dumpcap and other tools cannot attach")
                .mend("mount -t hugetlbfs hugetlbfs /dev/hugepages"),
        );
    }
    findings
}

fn tables_mb(config: &Config) -> u64 {
    let director = &config.director;
    let workers = director.cores.len() as u64;
    let connections = u64::from(director.connections) * CONNECTION_BYTES * 2 * workers;
    (connections + u64::from(director.templates) * TEMPLATE_BYTES).div_ceil(1 << 20)
}

fn free_mb(host: &Host) -> u64 {
    let free = |size: &String| {
        let kb: u64 = size.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |file: &str| host.number(&format!("{SIZES}/{size}/{file}"));
        let pages = number("free_hugepages")? - number("resv_hugepages").unwrap_or(0);
        Some(u64::try_from(pages).ok()? * kb / 1024)
    };
    host.names(SIZES).iter().filter_map(free).sum()
}

fn is_mounted(host: &Host) -> bool {
    let mounts = host.text("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split_whitespace().nth(2) == Some("hugetlbfs"))
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{Tree, config, lines};
    use super::*;

    const DEVICE: &str = "device = \"net_tap0\"";

    fn machine(name: &str, pages: &str) -> Tree {
        let tree = Tree::new(name);
        tree.put(&format!("{SIZES}/hugepages-2048kB/free_hugepages"), pages)
            .put(&format!("{SIZES}/hugepages-2048kB/resv_hugepages"), "1")
            .put("/proc/mounts", "h /dev/hugepages hugetlbfs rw 0 0");
        tree
    }

    #[test]
    fn free_pages_are_compared_with_the_need() {
        // 512 + (1,000,000 x 93 x 2 + 1,000,000 x 69) / 2^20 = 512 + 244.
        let config = config("cores = [1]", DEVICE);
        let tree = machine("memory", "300");
        assert_eq!(
            lines(&check(&tree.host(), &config, false)),
            "Warning huge pages: 598 MB free, 756 MB needed (512 for DPDK, 244 for tables) | rvs-hugepages set 756\n"
        );
        assert!(check(&tree.host(), &config, true).is_empty());
        tree.put(&format!("{SIZES}/hugepages-1048576kB/free_hugepages"), "1");
        assert!(check(&tree.host(), &config, false).is_empty());
    }

    #[test]
    fn required_pages_that_are_missing_are_an_error() {
        let mut config = config("cores = [1]", DEVICE);
        config.eal.huge_pages = HugePages::Require;
        let tree = machine("required", "0");
        let said = lines(&check(&tree.host(), &config, false));
        assert!(said.starts_with("Error huge pages: 0 MB free, 756 MB needed"), "{said}");
        config.eal.huge_pages = HugePages::Never;
        let said = lines(&check(&tree.host(), &config, false));
        assert!(said.starts_with("Note "), "{said}");
    }

    #[test]
    fn a_missing_mount_is_told() {
        let tree = machine("mount", "500");
        tree.put("/proc/mounts", "tmpfs /run tmpfs rw 0 0");
        let said = lines(&check(&tree.host(), &config("cores = [1]", DEVICE), false));
        assert!(said.contains("no hugetlbfs is mounted | mount -t hugetlbfs"), "{said}");
    }
}
