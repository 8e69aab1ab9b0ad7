//! Whether another machine answers ARP for a virtual address: the pitfall of
//! direct routing and tunnels, whose servers have the address as well.
//! `arping` of iputils asks, in the namespace of the taps.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use super::{Finding, Host};
use crate::api::{Method, NextHop, ServiceId, ServiceStatus};

/// Most questions, an address on a tap each; they take two seconds together.
const MOST: usize = 64;

pub(super) fn arp(
    host: &Host,
    services: &[ServiceStatus],
    taps: &[&str],
    hops: &[NextHop],
) -> Vec<Finding> {
    let vips = shared_addresses(services);
    let near = |tap: &str, vip: Ipv4Addr| {
        let mut addresses = host.addresses.iter();
        addresses.any(|a| a.interface == tap && a.prefix < 32 && a.reaches(IpAddr::V4(vip)))
    };
    let questions: Vec<_> = vips
        .iter()
        .flat_map(|&vip| taps.iter().filter(move |tap| near(tap, vip)).map(move |&tap| (tap, vip)))
        .take(MOST)
        .collect();
    let asked: Vec<_> = questions.iter().map(|&(tap, vip)| ask(tap, vip)).collect();
    let mut findings = Vec::new();
    for ((tap, vip), child) in questions.into_iter().zip(asked) {
        let answer = child.and_then(std::process::Child::wait_with_output);
        match answer {
            Ok(output) => {
                for mac in macs(&String::from_utf8_lossy(&output.stdout)) {
                    findings.push(answered(vip, tap, &mac, hops));
                }
            }
            Err(error) => {
                findings.push(
                    Finding::note("ARP", format!("who answers for virtual addresses was not asked: arping: {error}"))
                        .because("a server with direct routing or a tunnel that answers ARP takes all clients to itself")
                        .mend(format!("apt-get install iputils-arping; as root: arping -c 2 -I {tap} {vip}")),
                );
                break;
            }
        }
    }
    findings
}

/// IPv4 addresses of services with servers that have the address, too.
fn shared_addresses(services: &[ServiceStatus]) -> BTreeSet<Ipv4Addr> {
    let shared = services.iter().filter(|service| {
        let mut servers = service.servers.iter();
        servers.any(|server| matches!(server.spec.method, Method::Dr | Method::Tun(_)))
    });
    shared
        .filter_map(|service| match service.spec.id {
            ServiceId::Address { address, .. } => match address.ip() {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            },
            ServiceId::Fwmark { .. } => None,
        })
        .collect()
}

fn ask(tap: &str, vip: Ipv4Addr) -> std::io::Result<std::process::Child> {
    Command::new("arping")
        .args(["-c", "2", "-w", "2", "-I", tap, &vip.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Who answered: `Unicast reply from 192.168.1.100 [00:50:00:00:01:00]  0.7ms`.
fn macs(output: &str) -> BTreeSet<String> {
    let replies = output.lines().filter(|line| line.contains("reply from"));
    replies
        .filter_map(|line| Some(line.split_once('[')?.1.split_once(']')?.0.to_lowercase()))
        .collect()
}

fn answered(vip: Ipv4Addr, tap: &str, mac: &str, hops: &[NextHop]) -> Finding {
    let is_it = |hop: &&NextHop| {
        hop.mac.as_deref().is_some_and(|known| known.eq_ignore_ascii_case(mac))
            && hop.neighbour == Some(hop.server.ip())
            && hop.server.is_ipv4()
    };
    match hops.iter().find(is_it) {
        Some(hop) => {
            let server = hop.server.ip();
            Finding::error("ARP", format!("server {server} ({mac}) answers ARP for {vip} on {tap}"))
                .because("clients that hear it go to that server alone, past the director")
                .mend(format!(
                    "on {server}: sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2, and {vip} on lo"
                ))
        }
        None => Finding::warning("ARP", format!("{mac} answers ARP for {vip} on {tap}"))
            .because("two machines have the address: right only while a standby takes over")
            .mend(format!(
                "find {mac} in the switch's MAC table; take {vip} off there, or set arp_ignore=1"
            )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::lines;
    use super::*;

    #[test]
    fn who_answers_is_named_by_server_where_known() {
        let output = "ARPING 192.168.1.100 from 192.168.1.21 lan\n\
                      Unicast reply from 192.168.1.100 [00:50:00:00:0A:00]  0.713ms\n\
                      Unicast reply from 192.168.1.100 [02:00:00:00:00:01]  0.9ms\n\
                      Sent 2 probes (1 broadcast(s))\nReceived 2 response(s)\n";
        let hop = NextHop {
            service: ServiceId::Fwmark { mark: 1, ipv6: false },
            server: "192.168.1.31:80".parse().unwrap(),
            port: Some("lan".into()),
            neighbour: Some("192.168.1.31".parse().unwrap()),
            mac: Some("00:50:00:00:0a:00".into()),
        };
        let vip = Ipv4Addr::new(192, 168, 1, 100);
        let found: Vec<_> = macs(output)
            .iter()
            .map(|mac| answered(vip, "lan", mac, std::slice::from_ref(&hop)))
            .collect();
        let said = lines(&found);
        assert!(said.starts_with("Error ARP: server 192.168.1.31 (00:50:00:00:0a:00) answers ARP for 192.168.1.100 on lan | on 192.168.1.31: sysctl"), "{said}");
        assert!(said.contains("Warning ARP: 02:00:00:00:00:01 answers ARP"), "{said}");
        assert!(macs("Sent 2 probes (2 broadcast(s))\nReceived 0 response(s)\n").is_empty());
    }
}
