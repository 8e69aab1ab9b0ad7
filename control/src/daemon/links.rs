//! Tells the log of ports and members of bonds whose link comes and goes, once
//! each time, and which ports' addresses have to be announced again.

use std::collections::HashMap;

use crate::api::{MemberState, PortCounters};

/// The ports' links as the log knows them, by name. Ports are up at first.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: HashMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    down: bool,
    /// Of the members of a bond; none at the first look.
    members: Vec<(String, MemberState)>,
}

/// What is different since the last time.
#[derive(Debug, PartialEq, Eq)]
enum Change<'a> {
    Up,
    Down,
    /// A member does something else.
    Member(&'a str, MemberState),
}

impl Links {
    /// Logs what is different since the last time. The ports by which addresses
    /// are to be announced again: their link is back, or another member of the
    /// bond carries them, and switches have forgotten or look at the old place.
    pub(super) fn say(&mut self, ports: &[PortCounters]) -> Vec<String> {
        let mut announce = Vec::new();
        for port in ports {
            let name = port.name.as_str();
            let changes = self.changes(port);
            for change in &changes {
                match *change {
                    Change::Up => log::info!(port = name; "port {name}: link up"),
                    Change::Down => log::warn!(
                        port = name;
                        "port {name}: no link; look at the cable, the transceiver, the switch"
                    ),
                    Change::Member(member, state @ (MemberState::Active | MemberState::Backup)) => {
                        log::info!(port = name; "port {name}: member {member}: {}", state.name());
                    }
                    Change::Member(member, MemberState::Waiting) => log::warn!(
                        port = name;
                        "port {name}: member {member}: waiting for the switch to agree on it by LACP; its port must be in an LACP group there, one for all members"
                    ),
                    Change::Member(member, state) => log::warn!(
                        port = name;
                        "port {name}: member {member}: {}; look at the cable, the transceiver, the switch",
                        state.name()
                    ),
                }
            }
            let moved = |change: &Change<'_>| {
                matches!(change, Change::Up | Change::Member(_, MemberState::Active))
            };
            if changes.iter().any(moved) {
                announce.push(name.to_owned());
            }
        }
        announce
    }

    /// What is different about a port since the last time.
    fn changes<'a>(&mut self, port: &'a PortCounters) -> Vec<Change<'a>> {
        let mut changes = Vec::new();
        if !port.link_known {
            return changes;
        }
        let known = self.known.entry(port.name.clone()).or_default();
        if known.down == port.link_up {
            known.down = !port.link_up;
            changes.push(if port.link_up { Change::Up } else { Change::Down });
        }
        let Some(bond) = &port.bond else { return changes };
        let first = known.members.is_empty();
        for member in &bond.members {
            let before = known.members.iter().find(|(device, _)| *device == member.device);
            let differs = before.is_none_or(|&(_, state)| state != member.state);
            // At first, members in order go without saying.
            let bad = !matches!(member.state, MemberState::Active | MemberState::Backup);
            if differs && (bad || !first) {
                changes.push(Change::Member(&member.device, member.state));
            }
        }
        let members = bond.members.iter();
        known.members = members.map(|member| (member.device.clone(), member.state)).collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: &str, link_up: bool) -> PortCounters {
        serde_json::from_value(serde_json::json!({
            "name": "lan", "device": device, "mac": "", "link_up": link_up, "rx_packets": 0,
            "rx_bytes": 0, "rx_missed": 0, "rx_errors": 0, "tx_packets": 0, "tx_bytes": 0,
            "tx_errors": 0, "mbufs_in_use": 0, "mbufs": 0,
        }))
        .unwrap()
    }

    fn bond(states: &[&str]) -> PortCounters {
        let members: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(number, state)| serde_json::json!({"device": format!("0000:0{number}:00.0"), "state": state}))
            .collect();
        let bond = serde_json::json!({"mode": "active-backup", "members": members});
        let up = states.contains(&"active");
        PortCounters { bond: serde_json::from_value(bond).unwrap(), ..port("net_bonding0", up) }
    }

    #[test]
    fn each_change_of_a_link_is_said_once() {
        let mut links = Links::default();
        let mut look = |up| {
            let port = port("0000:01:00.0", up);
            links.changes(&port).iter().map(|change| *change == Change::Up).collect::<Vec<bool>>()
        };
        assert!(look(true).is_empty());
        assert_eq!(look(false), [false]);
        assert!(look(false).is_empty());
        assert_eq!(look(true), [true]);
        assert!(look(true).is_empty());
        // At the first look already.
        assert_eq!(Links::default().changes(&port("0000:01:00.0", false)), [Change::Down]);
        let unknown = PortCounters { link_known: false, ..port("net_tap0,iface=x", false) };
        assert!(Links::default().changes(&unknown).is_empty());
    }

    #[test]
    fn addresses_are_announced_when_a_link_is_back() {
        let mut links = Links::default();
        let mut look = |up| links.say(&[port("0000:01:00.0", up)]);
        assert!(look(true).is_empty());
        assert!(look(false).is_empty());
        assert_eq!(look(true), ["lan"]);
        assert!(look(true).is_empty());
    }

    #[test]
    fn addresses_are_announced_when_another_member_carries_them() {
        let mut links = Links::default();
        let mut look = |states: &[&str]| links.say(&[bond(states)]);
        assert!(look(&["active", "backup"]).is_empty());
        assert_eq!(look(&["down", "active"]), ["lan"]);
        assert!(look(&["backup", "active"]).is_empty(), "back, and not needed");
        assert!(look(&["down", "active"]).is_empty());
        assert!(look(&["down", "down"]).is_empty());
        assert_eq!(look(&["down", "active"]), ["lan"]);
        let mut links = Links::default();
        let first = bond(&["active", "removed"]);
        assert_eq!(
            links.changes(&first),
            [Change::Member("0000:01:00.0", MemberState::Removed)],
            "what is wrong is said at the first look"
        );
    }
}
