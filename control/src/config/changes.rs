//! What becomes of a file that is read again while rvsd runs: which of its keys
//! can be followed, and which need another start.

use super::{Config, Director, Eal, Port, Punt, Vlan};

/// A file that was read again, against the configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The configuration in force after it: the new file's as far as it can be
    /// followed, otherwise the old one's.
    pub config: Config,
    /// Keys that differ and cannot be followed, as the file has them.
    pub restart: Vec<String>,
}

/// Names the fields that differ between two structures of one type.
macro_rules! differing {
    ($list:expr, $section:literal, $old:expr, $new:expr, [$($field:ident),*]) => {
        $(if $old.$field != $new.$field {
            $list.push(format!("{}.{}", $section, stringify!($field)));
        })*
    };
}

impl Config {
    /// What becomes of this configuration when the file says `new`.
    ///
    /// Services, timeouts, settings, the ports of FULLNAT and all addresses can
    /// be followed, and so can marks. Ports are numbered, so with other ports or
    /// VLANs their addresses and the marks wait for the start, too.
    #[must_use]
    pub fn changed_to(&self, new: Self) -> Changed {
        let mut restart = Vec::new();
        director(&self.director, &new.director, &mut restart);
        let (old, now) = (&self.control, &new.control);
        differing!(restart, "control", old, now, [socket, group, anyone_may_look]);
        eal(&self.eal, &new.eal, &mut restart);
        punt(&self.punt, &new.punt, &mut restart);
        let mut ports = new.ports;
        let mut rules = new.rules;
        if names(&self.ports) == names(&ports) {
            for (index, (old, new)) in self.ports.iter().zip(&mut ports).enumerate() {
                follow_port(old, new, index, &mut restart);
            }
        } else {
            restart.push("port".to_owned());
            ports.clone_from(&self.ports);
            if rules != self.rules {
                restart.push("fwmark".to_owned());
                rules.clone_from(&self.rules);
            }
        }
        let config = Self {
            director: self.director.clone(),
            control: self.control.clone(),
            eal: self.eal.clone(),
            punt: self.punt,
            ports,
            rules,
            ..new
        };
        Changed { config, restart }
    }
}

fn director(old: &Director, new: &Director, restart: &mut Vec<String>) {
    let fields = restart;
    differing!(
        fields,
        "director",
        old,
        new,
        [cores, poll, connections, templates, run_dir, state_dir]
    );
}

fn eal(old: &Eal, new: &Eal, restart: &mut Vec<String>) {
    differing!(restart, "eal", old, new, [huge_pages, memory_mb, file_prefix, mbufs, extra_args]);
}

fn punt(old: &Punt, new: &Punt, restart: &mut Vec<String>) {
    differing!(restart, "punt", old, new, [neighbour, routing, tcp, other]);
}

/// What ports and VLANs are numbered by.
fn names(ports: &[Port]) -> Vec<(&str, Vec<(&str, u16)>)> {
    ports.iter().map(|port| (port.name.as_str(), vlan_names(port))).collect()
}

fn vlan_names(port: &Port) -> Vec<(&str, u16)> {
    port.vlans.iter().map(|vlan| (vlan.name.as_str(), vlan.id)).collect()
}

/// Takes out of a port's new form all but its addresses.
fn follow_port(old: &Port, new: &mut Port, index: usize, restart: &mut Vec<String>) {
    let mut differs = Vec::new();
    differing!(differs, "", old, new, [device, bond, mtu, rx_descriptors, tx_descriptors]);
    restart.extend(differs.iter().map(|key| format!("port[{index}]{key}")));
    for (number, (old, new)) in old.vlans.iter().zip(&mut new.vlans).enumerate() {
        if old.mtu != new.mtu {
            restart.push(format!("port[{index}].vlan[{number}].mtu"));
        }
        *new = Vlan { addresses: std::mem::take(&mut new.addresses), ..old.clone() };
    }
    *new = Port {
        addresses: std::mem::take(&mut new.addresses),
        vlans: std::mem::take(&mut new.vlans),
        ..old.clone()
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const FILE: &str = r#"
[director]
cores = [1]
[[port]]
name = "lan"
device = "0000:01:00.0"
addresses = ["10.0.0.1/24"]
[[port.vlan]]
id = 7
[timeouts]
tcp = 100
[[fwmark]]
mark = 1
port = "lan.7"
[[service]]
protocol = "tcp"
address = "10.0.0.9:80"
"#;

    fn read(text: &str) -> Config {
        Config::parse("f", text, &BTreeSet::from([1, 2])).unwrap()
    }

    fn edited(edits: &[(&str, &str)]) -> Changed {
        let mut text = FILE.to_owned();
        for (old, new) in edits {
            assert!(text.contains(old), "{old}");
            text = text.replace(old, new);
        }
        read(FILE).changed_to(read(&text))
    }

    #[test]
    fn what_can_be_followed_is_and_asks_for_no_restart() {
        let edits = [
            ("10.0.0.1/24", "10.0.0.2/24"),
            ("id = 7", "id = 7\naddresses = [\"10.1.0.1/24\"]"),
            ("tcp = 100", "tcp = 200"),
            ("mark = 1", "mark = 2"),
            (
                "[timeouts]",
                "[fullnat]\nports = \"2000-9999\"\n[vip]\naddresses = [\"10.0.0.9\"]\n[timeouts]",
            ),
            ("address = \"10.0.0.9:80\"", "address = \"10.0.0.9:81\""),
        ];
        let Changed { config, restart } = edited(&edits);
        assert_eq!(restart, [""; 0]);
        let mut text = FILE.to_owned();
        edits.iter().for_each(|(old, new)| text = text.replace(old, new));
        assert_eq!(config, read(&text));
    }

    #[test]
    fn what_cannot_is_named_and_stays() {
        let Changed { config, restart } = edited(&[
            (
                "cores = [1]",
                "cores = [2]\nconnections = 2000\nstate_dir = \"/x\"\n[eal]\nmbufs = 20000\n[punt]\ntcp = 5\n[control]\nanyone_may_look = true",
            ),
            ("10.0.0.1/24\"]", "10.0.0.2/24\"]\nmtu = 1400"),
            ("id = 7", "id = 7\nmtu = 1300"),
        ]);
        assert_eq!(
            restart,
            [
                "director.cores",
                "director.connections",
                "director.state_dir",
                "control.anyone_may_look",
                "eal.mbufs",
                "punt.tcp",
                "port[0].mtu",
                "port[0].vlan[0].mtu",
            ]
        );
        let mut expected = read(FILE);
        expected.ports[0].addresses =
            read(&FILE.replace("0.1/24", "0.2/24")).ports[0].addresses.clone();
        assert_eq!(config, expected);
    }

    #[test]
    fn with_other_ports_marks_and_addresses_wait() {
        let Changed { config, restart } = edited(&[
            ("id = 7", "id = 7\n[[port.vlan]]\nid = 5"),
            ("mark = 1", "mark = 2"),
            ("10.0.0.1/24", "10.0.0.2/24"),
            ("tcp = 100", "tcp = 200"),
        ]);
        assert_eq!(restart, ["port", "fwmark"]);
        let expected = Config { timeouts: config.timeouts, ..read(FILE) };
        assert_eq!((config.timeouts.tcp, &config), (200, &expected));
    }
}
