//! The ports' devices: whether they are there, whose they are, where they are.

use std::fmt;

use super::{Finding, Host};
use crate::config::{Bus, Config, Device, Port};

const PCI: &str = "/sys/bus/pci/devices";
/// Drivers of the kernel that DPDK works beside.
const SHARED: [&str; 3] = ["mlx4_core", "mlx5_core", "mana"];
/// Drivers through which DPDK has a NIC to itself.
const GIVEN: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Queues that net_tap has at most (RTE_PMD_TAP_MAX_QUEUES).
const TAP_QUEUES: usize = 16;

/// Why rvsd cannot have a port's device, and what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The port's name.
    pub port: String,
    /// What is wrong.
    pub what: String,
    /// What mends it.
    pub mend: String,
    /// Whether it is the configuration that is wrong.
    pub configuration: bool,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}: {}; {}", self.port, self.what, self.mend)
    }
}

/// The first port whose device rvsd cannot have, before DPDK tries and says less.
#[must_use]
pub fn obstacle(host: &Host, config: &Config) -> Option<Obstacle> {
    obstacles(host, config).next().or_else(|| taken(host, config))
}

/// The first NIC that another process has, such as an rvsd with another run
/// directory: vfio-pci refuses a second one, uio_pci_generic does not.
fn taken(host: &Host, config: &Config) -> Option<Obstacle> {
    let mut nics = devices(config).filter(|(_, device)| device.bus == Bus::Pci);
    nics.find_map(|(port, device)| {
        let folder = format!("{PCI}/{}", device.name);
        let group = host.link(&format!("{folder}/iommu_group"));
        let mut files: Vec<_> =
            group.into_iter().map(|group| format!("/dev/vfio/{group}")).collect();
        let uio = host.names(&format!("{folder}/uio"));
        files.extend(uio.into_iter().map(|uio| format!("/dev/{uio}")));
        let user = files.iter().find_map(|file| host.user_of(file))?;
        let (port, what) = (port.name.clone(), format!("{} is in use by {user}", device.name));
        let mend = "stop it first (an rvsd: `systemctl stop rvsd`), or give another NIC".into();
        Some(Obstacle { port, what, mend, configuration: false })
    })
}

/// What is in the way of each device: of a port, or of a member of a bond.
fn obstacles<'a>(host: &'a Host, config: &'a Config) -> impl Iterator<Item = Obstacle> + 'a {
    let devices = devices(config);
    devices.filter_map(move |(port, device)| obstacle_of(host, config, port, device))
}

fn devices(config: &Config) -> impl Iterator<Item = (&Port, &Device)> {
    config.ports.iter().flat_map(|port| port.devices().iter().map(move |device| (port, device)))
}

fn obstacle_of(host: &Host, config: &Config, port: &Port, device: &Device) -> Option<Obstacle> {
    let found = |what: String, mend: String, configuration| {
        Some(Obstacle { port: port.name.clone(), what, mend, configuration })
    };
    let name = &device.name;
    if device.bus == Bus::Vdev {
        let (most, mend) = queues(device)?;
        let workers = config.director.cores.len();
        if workers > most {
            let what = format!("{workers} workers need as many queues, and {device} has {most}");
            return found(what, mend, true);
        }
        return None;
    }
    let folder = format!("{PCI}/{name}");
    if !host.exists(&folder) {
        let what = format!("there is no PCI device {name}");
        return found(what, "`rvs-bind-nic status` lists the NICs".into(), true);
    }
    if !host.text(&format!("{folder}/class")).is_some_and(|class| class.starts_with("0x02")) {
        let what = format!("PCI device {name} is no network controller");
        return found(what, "`rvs-bind-nic status` lists the NICs".into(), true);
    }
    let bind = format!("give it to DPDK with `rvs-bind-nic bind {name}`");
    let Some(driver) = host.link(&format!("{folder}/driver")) else {
        return found(format!("{name} has no driver"), bind, false);
    };
    if SHARED.contains(&driver.as_str()) {
        return None;
    }
    if !GIVEN.contains(&driver.as_str()) {
        let interfaces = host.names(&format!("{folder}/net")).join(", ");
        let interfaces =
            if interfaces.is_empty() { String::new() } else { format!(" as {interfaces}") };
        let what = format!("{name} is in use by the kernel's driver {driver}{interfaces}");
        return found(what, bind, false);
    }
    if driver == "vfio-pci" {
        return vfio(host, name, &folder)
            .and_then(|(what, mend)| found(format!("{name}: {what}"), mend, false));
    }
    None
}

/// What keeps this process from a device of vfio-pci.
fn vfio(host: &Host, name: &str, folder: &str) -> Option<(String, String)> {
    let Some(group) = host.link(&format!("{folder}/iommu_group")) else {
        let unsafe_mode = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
        if host.text(unsafe_mode).as_deref() == Some("Y") {
            return None;
        }
        let mend = format!(
            "switch on VT-d or AMD-Vi in the BIOS and add `intel_iommu=on iommu=pt` to the kernel's command line, or `rvs-bind-nic --driver uio_pci_generic bind {name}`"
        );
        return Some(("it is behind no IOMMU, which vfio-pci needs".into(), mend));
    };
    let device = format!("/dev/vfio/{group}");
    if host.may_use(&device) {
        return None;
    }
    let mend = format!("run rvsd as root, or give its user {device}");
    Some((format!("{device} cannot be opened by this user"), mend))
}

/// The queues that a virtual device has at most, and how it gets more.
fn queues(device: &Device) -> Option<(usize, String)> {
    let argument = |key: &str| {
        let arguments = device.arguments.as_deref().unwrap_or_default();
        let value = arguments.split(',').find_map(|argument| argument.strip_prefix(key));
        value.and_then(|value| value.parse().ok()).unwrap_or(1)
    };
    let add = |argument: &str| format!("add {argument}=WORKERS to port.device, or use fewer cores");
    if device.name.starts_with("net_tap") {
        return Some((TAP_QUEUES, "use fewer cores in director.cores".into()));
    }
    if device.name.starts_with("net_af_packet") {
        return Some((argument("qpairs="), add("qpairs")));
    }
    if device.name.starts_with("net_af_xdp") {
        return Some((argument("queue_count="), add("queue_count")));
    }
    None
}

pub(super) fn check(host: &Host, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Obstacle { port, what, mend, .. } in obstacles(host, config) {
        findings.push(
            Finding::error("NICs", format!("port {port}: {what}"))
                .because("rvsd does not start")
                .mend(mend),
        );
    }
    findings.extend(remarks(host, config));
    findings
}

/// What does not keep the NICs from working, but is not as it should be.
#[must_use]
pub fn remarks(host: &Host, config: &Config) -> Vec<Finding> {
    let pci = devices(config).filter(|(_, device)| device.bus == Bus::Pci);
    pci.flat_map(|(port, device)| place(host, config, port, device)).collect()
}

/// Where a NIC is, and what protects memory from it.
fn place(host: &Host, config: &Config, port: &Port, device: &Device) -> Vec<Finding> {
    let name = &device.name;
    let mut findings = Vec::new();
    if host.link(&format!("{PCI}/{name}/driver")).is_some_and(|driver| driver.contains("uio")) {
        findings.push(
            Finding::warning(
                "NICs",
                format!("port {}: {name} is bound without an IOMMU", port.name),
            )
            .because("a NIC or driver gone wrong can write anywhere in memory")
            .mend(format!("switch the IOMMU on in the BIOS, then: rvs-bind-nic bind {name}")),
        );
    }
    let node = host.number(&format!("{PCI}/{name}/numa_node")).filter(|&node| node >= 0);
    let Some(node) = node else { return findings };
    let cores = host.cores(&format!("/sys/devices/system/node/node{node}/cpulist"));
    let far: Vec<_> = config
        .director
        .cores
        .iter()
        .filter(|core| !cores.contains(core))
        .map(u32::to_string)
        .collect();
    if !cores.is_empty() && !far.is_empty() {
        findings.push(
            Finding::warning(
                "NUMA",
                format!(
                    "port {}: {name} is on node {node}, cores {} are not",
                    port.name,
                    far.join(", ")
                ),
            )
            .because("each packet crosses from one socket to the other")
            .mend(format!(
                "rvs-isolate-cores --node {node} --workers {} propose",
                config.director.cores.len()
            )),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{Tree, config, lines};
    use super::*;

    const NIC: &str = "/sys/bus/pci/devices/0000:01:00.0";

    fn machine(name: &str, driver: &str) -> Tree {
        let tree = Tree::new(name);
        tree.put(&format!("{NIC}/class"), "0x020000")
            .put(&format!("{NIC}/numa_node"), "-1")
            .link(&format!("{NIC}/driver"), &format!("../../drivers/{driver}"));
        tree
    }

    fn said(tree: &Tree, device: &str) -> Option<String> {
        let config = config("cores = [1]", &format!("device = \"{device}\""));
        obstacle(&tree.host(), &config).map(|obstacle| {
            assert_eq!(obstacle.to_string().lines().count(), 1);
            format!("{} {obstacle}", obstacle.configuration)
        })
    }

    #[test]
    fn a_wrong_address_is_the_configuration_s_fault() {
        let tree = machine("address", "vfio-pci");
        assert_eq!(
            said(&tree, "0000:09:00.0").as_deref(),
            Some(
                "true port lan: there is no PCI device 0000:09:00.0; `rvs-bind-nic status` lists the NICs"
            )
        );
        tree.put(&format!("{NIC}/class"), "0x060400");
        let bridge = said(&tree, "01:00.0").unwrap();
        assert!(
            bridge.starts_with("true port lan: PCI device 0000:01:00.0 is no network"),
            "{bridge}"
        );
    }

    #[test]
    fn a_nic_of_the_kernel_is_named_with_the_command() {
        let tree = machine("kernel", "e1000e");
        tree.put(&format!("{NIC}/net/eth1/mtu"), "1500");
        assert_eq!(
            said(&tree, "0000:01:00.0").as_deref(),
            Some(
                "false port lan: 0000:01:00.0 is in use by the kernel's driver e1000e as eth1; give it to DPDK with `rvs-bind-nic bind 0000:01:00.0`"
            )
        );
        assert_eq!(said(&machine("shared", "mlx5_core"), "0000:01:00.0"), None);
        let none = Tree::new("driverless");
        none.put(&format!("{NIC}/class"), "0x020000");
        assert!(said(&none, "0000:01:00.0").unwrap().contains("has no driver"));
    }

    #[test]
    fn members_of_a_bond_are_looked_at_as_ports_are() {
        let tree = machine("bond", "vfio-pci");
        tree.link(&format!("{NIC}/iommu_group"), "../../../../kernel/iommu_groups/7")
            .put("/dev/vfio/7", "")
            .put("/sys/bus/pci/devices/0000:02:00.0/class", "0x020000")
            .link("/sys/bus/pci/devices/0000:02:00.0/driver", "../../drivers/ice");
        let bond = "[port.bond]\nmembers = [\"01:00.0\", \"02:00.0\"]\nmode = \"802.3ad\"";
        let config = config("cores = [1]", bond);
        let said = obstacle(&tree.host(), &config).unwrap().to_string();
        assert_eq!(
            said,
            "port lan: 0000:02:00.0 is in use by the kernel's driver ice; give it to DPDK with `rvs-bind-nic bind 0000:02:00.0`"
        );
        tree.put("/sys/bus/pci/devices/0000:02:00.0/numa_node", "1")
            .put("/sys/devices/system/node/node1/cpulist", "4-7");
        let findings = lines(&check(&tree.host(), &config));
        assert!(
            findings.contains("port lan: 0000:02:00.0 is on node 1, cores 1 are not"),
            "{findings}"
        );
        let two = "cores = [1, 2]";
        let bond = "[port.bond]\nmembers = [\"net_tap0\", \"net_af_packet0,iface=a\"]\nmode = \"balance-xor\"";
        let host = Tree::new("bond-queues");
        let queues = obstacle(&host.host(), &super::super::host::tests::config(two, bond)).unwrap();
        assert!(queues.what.ends_with("and net_af_packet0,iface=a has 1"), "{queues}");
    }

    #[test]
    fn vfio_needs_an_iommu_and_permission() {
        let tree = machine("vfio", "vfio-pci");
        assert_eq!(
            said(&tree, "0000:01:00.0").as_deref(),
            Some(
                "false port lan: 0000:01:00.0: it is behind no IOMMU, which vfio-pci needs; switch on VT-d or AMD-Vi in the BIOS and add `intel_iommu=on iommu=pt` to the kernel's command line, or `rvs-bind-nic --driver uio_pci_generic bind 0000:01:00.0`"
            )
        );
        tree.put("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y");
        assert_eq!(said(&tree, "0000:01:00.0"), None);
        tree.link(&format!("{NIC}/iommu_group"), "../../../../kernel/iommu_groups/7");
        let denied = said(&tree, "0000:01:00.0").unwrap();
        assert!(denied.contains("/dev/vfio/7 cannot be opened"), "{denied}");
        tree.put("/dev/vfio/7", "");
        assert_eq!(said(&tree, "0000:01:00.0"), None);
    }

    #[test]
    fn a_nic_of_another_process_is_named_with_it() {
        let tree = machine("taken", "vfio-pci");
        tree.link(&format!("{NIC}/iommu_group"), "../../../../kernel/iommu_groups/7")
            .put("/dev/vfio/7", "")
            .put("/proc/4711/comm", "rvsd");
        tree.link("/proc/4711/fd/3", "/dev/vfio/17").link("/proc/4711/fd/4", "socket:[7]");
        assert_eq!(said(&tree, "0000:01:00.0"), None);
        tree.link("/proc/4711/fd/9", "/dev/vfio/7");
        let wanted = Some(
            "false port lan: 0000:01:00.0 is in use by process 4711 (rvsd); stop it first (an rvsd: `systemctl stop rvsd`), or give another NIC",
        );
        assert_eq!(said(&tree, "0000:01:00.0").as_deref(), wanted);
        // To the doctor it is as it should be.
        let config = config("cores = [1]", "device = \"0000:01:00.0\"");
        assert_eq!(lines(&check(&tree.host(), &config)), "");

        let tree = machine("taken-uio", "uio_pci_generic");
        tree.put(&format!("{NIC}/uio/uio0/name"), "uio_pci_generic")
            .put("/proc/4711/comm", "rvsd")
            .link("/proc/4711/fd/9", "/dev/uio0");
        assert_eq!(said(&tree, "0000:01:00.0").as_deref(), wanted);
    }

    #[test]
    fn virtual_devices_have_so_many_queues() {
        let host = Tree::new("queues");
        let said = |cores: usize, device: &str| {
            let cores = vec!["1"; cores].join(", ");
            let director = format!("cores = [{cores}]\npoll = \"adaptive\"");
            obstacle(&host.host(), &config(&director, &format!("device = \"{device}\"")))
        };
        assert_eq!(said(16, "net_tap0,iface=wire0"), None);
        let many = said(17, "net_tap0,iface=wire0").unwrap();
        assert!(
            many.configuration && many.what.contains("17 workers need as many queues"),
            "{many}"
        );
        assert_eq!(said(2, "net_af_packet0,iface=eth1,qpairs=2"), None);
        let more = said(2, "net_af_packet0,iface=eth1").unwrap();
        assert!(more.mend.contains("qpairs=WORKERS"), "{more}");
        assert!(said(2, "net_af_xdp0,iface=eth1,queue_count=1").is_some());
        assert_eq!(said(40, "net_null0"), None);
    }

    #[test]
    fn distance_and_missing_protection_are_warnings() {
        let tree = machine("numa", "uio_pci_generic");
        tree.put(&format!("{NIC}/numa_node"), "1")
            .put("/sys/devices/system/node/node1/cpulist", "4-7");
        let config = config("cores = [3, 4]", "device = \"0000:01:00.0\"");
        assert_eq!(
            lines(&check(&tree.host(), &config)),
            "Warning NICs: port lan: 0000:01:00.0 is bound without an IOMMU | switch the IOMMU on in the BIOS, then: rvs-bind-nic bind 0000:01:00.0\n\
             Warning NUMA: port lan: 0000:01:00.0 is on node 1, cores 3 are not | rvs-isolate-cores --node 1 --workers 2 propose\n"
        );
    }
}
