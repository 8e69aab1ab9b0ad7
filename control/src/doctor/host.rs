//! The machine as its files tell: `/sys` and `/proc`, or a copy for tests.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::config::core_list;

/// A machine.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    /// Addresses of interfaces.
    pub(super) addresses: Vec<Address>,
}

/// An address of an interface that is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) interface: String,
    pub(super) ip: IpAddr,
    /// Bits of the network.
    pub(super) prefix: u8,
}

impl Address {
    /// Whether an address is of the same network.
    pub(super) fn reaches(&self, other: IpAddr) -> bool {
        let shift = |bits: u8| u32::from(bits - self.prefix.min(bits));
        match (self.ip, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let differ = u64::from(a.to_bits() ^ b.to_bits());
                differ >> shift(32) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let differ = a.to_bits() ^ b.to_bits();
                differ.checked_shr(shift(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Host {
    /// The machine that this runs on, in this network namespace.
    #[must_use]
    pub fn this() -> Self {
        let mut addresses = Vec::new();
        for address in getifaddrs().into_iter().flatten() {
            let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| {
                let storage = storage?;
                let v4 = storage.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                v4.or_else(|| storage.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
            };
            if !address.flags.contains(InterfaceFlags::IFF_UP) {
                continue;
            }
            let (Some(own), mask) = (ip(address.address), ip(address.netmask)) else { continue };
            let prefix = match mask {
                Some(IpAddr::V4(mask)) => mask.to_bits().count_ones(),
                Some(IpAddr::V6(mask)) => mask.to_bits().count_ones(),
                None => 128,
            };
            let interface = address.interface_name;
            addresses.push(Address { interface, ip: own, prefix: prefix as u8 });
        }
        Self { root: PathBuf::from("/"), addresses }
    }

    /// A machine whose files are in a folder.
    #[cfg(test)]
    pub(super) fn made_up(root: PathBuf) -> Self {
        Self { root, addresses: Vec::new() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(super) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// A file without the white space at its ends.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    pub(super) fn number(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    /// The cores that a file lists, as `0-3,5`.
    pub(super) fn cores(&self, path: &str) -> BTreeSet<u32> {
        self.text(path).and_then(|list| core_list(&list)).unwrap_or_default()
    }

    /// The names in a folder, in order.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The last part of what a link leads to.
    pub(super) fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// A process that has a file open: its id and name.
    pub(super) fn user_of(&self, file: &str) -> Option<String> {
        let processes = self.names("/proc").into_iter();
        let mut processes = processes.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
        let has = |pid: &String| {
            let folder = format!("/proc/{pid}/fd");
            let target = |fd: &String| fs::read_link(self.path(&format!("{folder}/{fd}"))).ok();
            self.names(&folder).iter().filter_map(target).any(|target| target.as_os_str() == file)
        };
        let pid = processes.find(has)?;
        let name = self.text(&format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(format!("process {pid} ({name})"))
    }

    /// A sysctl of an interface: the larger of its own and that of `all`, as the
    /// kernel takes it.
    pub(super) fn ipv4_setting(&self, interface: &str, name: &str) -> i64 {
        let of = |who: &str| self.number(&format!("/proc/sys/net/ipv4/conf/{who}/{name}"));
        of("all").unwrap_or(0).max(of(interface).unwrap_or(0))
    }

    /// Whether this process may read and write a file.
    pub(super) fn may_use(&self, path: &str) -> bool {
        use nix::unistd::{AccessFlags, access};
        access(&self.path(path), AccessFlags::R_OK | AccessFlags::W_OK).is_ok()
    }
}

/// A folder with a made-up machine, gone at the end of a test.
#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) struct Tree(pub(crate) PathBuf);

    impl Tree {
        pub(crate) fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("rvs-doctor-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            fs::create_dir_all(&root).unwrap();
            Self(root)
        }

        pub(crate) fn put(&self, path: &str, value: &str) -> &Self {
            let path = self.0.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{value}\n")).unwrap();
            self
        }

        pub(crate) fn link(&self, path: &str, target: &str) -> &Self {
            let path = self.0.join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
            self
        }

        pub(crate) fn host(&self) -> Host {
            Host::made_up(self.0.clone())
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A configuration with these lines for `[director]` and `[[port]]`.
    pub(crate) fn config(director: &str, port: &str) -> crate::config::Config {
        let text = format!(
            "[director]\n{director}\n[eal]\nmemory_mb = 512\nmbufs = 262144\n[[port]]\nname = \"lan\"\n{port}\n"
        );
        crate::config::Config::parse("test.toml", &text, &(0..8).collect()).unwrap()
    }

    /// What findings say, one a line.
    pub(crate) fn lines(findings: &[super::super::Finding]) -> String {
        let line = |f: &super::super::Finding| {
            format!("{:?} {}: {} | {}\n", f.severity, f.area, f.what, f.mend)
        };
        findings.iter().map(line).collect()
    }

    #[test]
    fn networks_reach_their_addresses() {
        let address = |ip: &str, prefix| Address {
            interface: "eth0".into(),
            ip: ip.parse().unwrap(),
            prefix,
        };
        let ip = |text: &str| text.parse().unwrap();
        assert!(address("192.168.1.21", 24).reaches(ip("192.168.1.100")));
        assert!(!address("192.168.1.21", 24).reaches(ip("192.168.2.100")));
        assert!(!address("192.168.1.21", 32).reaches(ip("192.168.1.20")));
        assert!(address("192.168.1.21", 0).reaches(ip("1.1.1.1")));
        assert!(address("fd00::1", 64).reaches(ip("fd00::ffff")));
        assert!(address("fd00::1", 0).reaches(ip("2001::")));
        assert!(!address("fd00::1", 64).reaches(ip("192.168.1.1")));
    }
}
