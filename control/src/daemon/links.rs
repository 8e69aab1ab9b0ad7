//! Tells the log of ports whose link comes and goes, once each time.

use std::collections::HashMap;

use crate::api::PortCounters;

/// The ports' links as the log knows them, by name. Ports are up at first.
#[derive(Debug, Default)]
pub(super) struct Links {
    down: HashMap<String, bool>,
}

impl Links {
    /// Logs what is different since the last time.
    pub(super) fn say(&mut self, ports: &[PortCounters]) {
        for (port, up) in self.changes(ports) {
            if up {
                log::info!(port; "port {port}: link up");
            } else {
                log::warn!(port; "port {port}: no link; look at the cable, the transceiver, the switch");
            }
        }
    }

    /// The ports whose link is another than last time, and whether it is up.
    fn changes<'a>(&mut self, ports: &'a [PortCounters]) -> Vec<(&'a str, bool)> {
        let mut changes = Vec::new();
        for port in ports.iter().filter(|port| port.link_is_known()) {
            let down = self.down.entry(port.name.clone()).or_default();
            if *down == port.link_up {
                *down = !port.link_up;
                changes.push((port.name.as_str(), port.link_up));
            }
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_a_link_is_said_once() {
        let port = |device: &str, link_up: bool| -> PortCounters {
            serde_json::from_value(serde_json::json!({
                "name": "lan", "device": device, "mac": "", "link_up": link_up, "rx_packets": 0,
                "rx_bytes": 0, "rx_missed": 0, "rx_errors": 0, "tx_packets": 0, "tx_bytes": 0,
                "tx_errors": 0, "mbufs_in_use": 0, "mbufs": 0,
            }))
            .unwrap()
        };
        let mut links = Links::default();
        let mut look = |up| {
            let ports = [port("0000:01:00.0", up)];
            links.changes(&ports).iter().map(|&(_, up)| up).collect::<Vec<bool>>()
        };
        assert!(look(true).is_empty());
        assert_eq!(look(false), [false]);
        assert!(look(false).is_empty());
        assert_eq!(look(true), [true]);
        assert!(look(true).is_empty());
        // At the first look already.
        assert_eq!(Links::default().changes(&[port("0000:01:00.0", false)]), [("lan", false)]);
        assert!(Links::default().changes(&[port("net_tap0,iface=x", false)]).is_empty());
    }
}
