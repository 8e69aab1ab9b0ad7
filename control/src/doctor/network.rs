//! The kernel's network beside RVS: taps, filters, ARP, virtual addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Finding, Host};
use crate::api::{Method, ServiceId, ServiceStatus};
use crate::config::Config;

/// Bytes that the smallest tunnel adds (IPv4 in IPv4).
const LEAST_TUNNEL: i64 = 20;

/// What the configuration says of taps, against what is there.
pub(super) fn check(host: &Host, config: &Config, runs: bool) -> Vec<Finding> {
    let interfaces = config.interfaces();
    let mut findings = Vec::new();
    for tap in &interfaces {
        let folder = format!("/sys/class/net/{}", tap.name);
        if !host.exists(&folder) {
            if runs {
                findings.push(
                    Finding::warning("taps", format!("there is no interface {} here", tap.name))
                        .because(
                            "rvsd runs with another configuration, or in another network namespace",
                        )
                        .mend("ip netns exec NAMESPACE rvsadm doctor"),
                );
            }
            continue;
        }
        if !runs {
            // The tap of a NIC that is still the kernel's, or left behind.
            continue;
        }
        let flags = host.text(&format!("{folder}/flags"));
        let flags =
            flags.and_then(|flags| i64::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
        if flags.is_some_and(|flags| flags & 1 == 0) {
            findings.push(
                Finding::error("taps", format!("{} is down", tap.name))
                    .because("the kernel answers no ARP there, and servers behind it are not found")
                    .mend(format!("ip link set {} up", tap.name)),
            );
        }
        let mtu = host.number(&format!("{folder}/mtu"));
        if let Some(mtu) = mtu.filter(|&mtu| mtu > i64::from(tap.mtu)) {
            findings.push(
                Finding::warning(
                    "MTU",
                    format!("{} has MTU {mtu}, the port {}", tap.name, tap.mtu),
                )
                .because("what the kernel sends there in long packets is dropped")
                .mend(format!("ip link set {} mtu {}", tap.name, tap.mtu)),
            );
        }
        if interfaces.len() > 1 && host.ipv4_setting(tap.name, "rp_filter") == 1 {
            findings.push(
                Finding::warning("reverse path", format!("rp_filter is strict on {}", tap.name))
                    .because("the kernel drops packets to the director itself that come by another port than its answers leave by")
                    .mend(format!("sysctl -w net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{}.rp_filter=2", tap.name)),
            );
        }
    }
    findings
}

/// The virtual addresses of the director's services: on `lo` or a tap, and
/// nowhere else. `taps` are the director's.
pub(super) fn check_virtual(
    host: &Host,
    services: &[ServiceStatus],
    config: Option<&Config>,
    taps: &[&str],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if taps.iter().any(|tap| !host.exists(&format!("/sys/class/net/{tap}"))) {
        // Another namespace: its addresses are not to be seen.
        return findings;
    }
    for vip in virtual_addresses(services, config) {
        let holders: Vec<&str> = host
            .addresses
            .iter()
            .filter(|address| address.ip == vip)
            .map(|address| address.interface.as_str())
            .collect();
        let is_ours = |interface: &&&str| **interface == "lo" || taps.contains(*interface);
        if let Some(other) = holders.iter().find(|holder| !is_ours(holder)) {
            findings.push(
                Finding::error(
                    "virtual address",
                    format!("{vip} is on {other}, which is not RVS's"),
                )
                .because(
                    "clients that reach the kernel by it are answered by the kernel, not balanced",
                )
                .mend(format!("ip address del {vip} dev {other}")),
            );
        } else if holders.is_empty() {
            let (bits, dev) = if vip.is_ipv4() {
                (32, "lo")
            } else {
                (128, taps.first().copied().unwrap_or("lo"))
            };
            findings.push(
                Finding::warning("virtual address", format!("{vip} is on no interface"))
                    .because("nobody answers ARP or neighbour solicitations for it; right only where a router leads to it, or a standby")
                    .mend(format!("ip address add {vip}/{bits} dev {dev}, or vip.addresses")),
            );
        }
        findings.extend(arp_flux(host, vip, taps));
    }
    findings
}

fn virtual_addresses(services: &[ServiceStatus], config: Option<&Config>) -> BTreeSet<IpAddr> {
    let of_service = |service: &ServiceStatus| match service.spec.id {
        ServiceId::Address { address, .. } => Some(address.ip()),
        ServiceId::Fwmark { .. } => None,
    };
    let of_config = config.map(|config| config.vip.addresses.clone()).unwrap_or_default();
    services
        .iter()
        .filter_map(of_service)
        .chain(of_config)
        .filter(|ip| !ip.is_unspecified())
        .collect()
}

/// Linux answers ARP for any address of the machine on any interface: a NIC of
/// the kernel in the virtual address's network draws its packets.
fn arp_flux(host: &Host, vip: IpAddr, taps: &[&str]) -> Option<Finding> {
    if vip.is_ipv6() {
        return None;
    }
    let near = host.addresses.iter().find(|address| {
        let interface = address.interface.as_str();
        interface != "lo" && !taps.contains(&interface) && address.reaches(vip)
    })?;
    let interface = &near.interface;
    if host.ipv4_setting(interface, "arp_ignore") > 0 {
        return None;
    }
    Some(
        Finding::error("ARP", format!("{interface} is in the network of {vip} and answers ARP for it"))
            .because("the kernel answers for all its addresses on all interfaces, so clients come to a NIC that is not RVS's")
            .mend(format!("sysctl -w net.ipv4.conf.{interface}.arp_ignore=1")),
    )
}

/// What a tunnel leaves of the MTU of the way.
pub(super) fn tunnel(host: &Host, server: &str, method: &Method, port: &str) -> Option<Finding> {
    if !matches!(method, Method::Tun(_)) {
        return None;
    }
    let mtu = host.number(&format!("/sys/class/net/{port}/mtu"))?;
    let inner = mtu - LEAST_TUNNEL;
    if inner >= 1500 {
        return None;
    }
    Some(
        Finding::note("MTU", format!("the tunnel to {server} leaves at most {inner} of port {port}'s {mtu} bytes"))
            .because("longer packets of clients are answered with ICMP; where a firewall eats that, uploads hang")
            .mend(format!("MTU {} on the way to the servers, or on each server: ip route change ... advmss {}", 1500 + 60, inner - 40)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::host::Address;
    use super::super::host::tests::{Tree, config, lines};
    use super::*;
    use crate::api::{Protocol, ServiceSpec, Tunnel};

    fn service(vip: &str) -> ServiceStatus {
        let id = ServiceId::Address { protocol: Protocol::Tcp, address: vip.parse().unwrap() };
        ServiceStatus {
            spec: ServiceSpec::new(id, "rr"),
            stats: Default::default(),
            servers: Vec::new(),
        }
    }

    fn machine(name: &str, addresses: &[(&str, &str, u8)]) -> (Tree, Host) {
        let tree = Tree::new(name);
        tree.put("/sys/class/net/lan/flags", "0x1003").put("/sys/class/net/lan/mtu", "1500");
        let mut host = tree.host();
        host.addresses = addresses
            .iter()
            .map(|&(interface, ip, prefix)| Address {
                interface: interface.into(),
                ip: ip.parse().unwrap(),
                prefix,
            })
            .collect();
        (tree, host)
    }

    #[test]
    fn a_virtual_address_belongs_on_lo_or_a_tap() {
        let services = [service("192.168.1.100:80")];
        let said = |addresses: &[(&str, &str, u8)]| {
            let (_tree, host) = machine("vip", addresses);
            lines(&check_virtual(&host, &services, None, &["lan"]))
        };
        assert_eq!(said(&[("lo", "192.168.1.100", 32)]), "");
        assert_eq!(said(&[("lan", "192.168.1.100", 24)]), "");
        assert_eq!(
            said(&[]),
            "Warning virtual address: 192.168.1.100 is on no interface | ip address add 192.168.1.100/32 dev lo, or vip.addresses\n"
        );
        assert_eq!(
            said(&[("lo", "192.168.1.100", 32), ("eth0", "192.168.1.100", 32)]),
            "Error virtual address: 192.168.1.100 is on eth0, which is not RVS's | ip address del 192.168.1.100 dev eth0\n\
             Error ARP: eth0 is in the network of 192.168.1.100 and answers ARP for it | sysctl -w net.ipv4.conf.eth0.arp_ignore=1\n"
        );
    }

    #[test]
    fn a_nic_beside_the_taps_must_not_answer_for_the_address() {
        let services = [service("192.168.1.100:80")];
        let (tree, host) =
            machine("flux", &[("lo", "192.168.1.100", 32), ("eth0", "192.168.1.5", 24)]);
        let said = lines(&check_virtual(&host, &services, None, &["lan"]));
        assert!(said.starts_with("Error ARP: eth0 is in the network of 192.168.1.100"), "{said}");
        tree.put("/proc/sys/net/ipv4/conf/all/arp_ignore", "1");
        assert!(check_virtual(&host, &services, None, &["lan"]).is_empty());
    }

    #[test]
    fn taps_are_up_of_the_right_size_and_not_filtered() {
        let (tree, host) = machine("taps", &[]);
        let one = config("cores = [1]", "device = \"net_tap0\"");
        assert!(check(&host, &one, true).is_empty());
        tree.put("/sys/class/net/lan/flags", "0x1002").put("/sys/class/net/lan/mtu", "9000");
        assert_eq!(
            lines(&check(&host, &one, true)),
            "Error taps: lan is down | ip link set lan up\n\
             Warning MTU: lan has MTU 9000, the port 1500 | ip link set lan mtu 1500\n"
        );
        assert!(check(&host, &one, false).is_empty());
        let two = config(
            "cores = [1]",
            "device = \"net_tap0\"\n[[port]]\nname = \"wan\"\ndevice = \"net_tap1\"",
        );
        tree.put("/sys/class/net/lan/flags", "0x1003")
            .put("/sys/class/net/lan/mtu", "1500")
            .put("/proc/sys/net/ipv4/conf/lan/rp_filter", "1");
        let said = lines(&check(&host, &two, true));
        assert!(said.contains("rp_filter is strict on lan"), "{said}");
        assert!(said.contains("there is no interface wan here"), "{said}");
        tree.put("/proc/sys/net/ipv4/conf/all/rp_filter", "2");
        assert!(!lines(&check(&host, &two, true)).contains("rp_filter"));
    }

    #[test]
    fn a_tunnel_wants_room() {
        let (tree, host) = machine("tunnel", &[]);
        let said = |method: &Method| tunnel(&host, "10.0.0.1", method, "lan").map(|f| f.what);
        assert_eq!(
            said(&Method::Tun(Tunnel::Ipip)).as_deref(),
            Some("the tunnel to 10.0.0.1 leaves at most 1480 of port lan's 1500 bytes")
        );
        assert_eq!(said(&Method::Dr), None);
        tree.put("/sys/class/net/lan/mtu", "1600");
        assert_eq!(said(&Method::Tun(Tunnel::Ipip)), None);
    }
}
