//! The addresses that rvsd itself put on links (VIPs on `lo` and on taps, the
//! ports' addresses on their taps), so that it removes those and no others.
//!
//! An address is written to a record on disk before the kernel is asked to add
//! it: a daemon that is killed leaves a record of everything it may have left
//! behind, and the next start adopts what is still wanted and removes the
//! rest. An address that was there before is the operator's: it is used,
//! never recorded and never removed.
//!
//! A VIP must not become the source of the director's own packets. IPv6 would
//! choose it, whose 128 bits match best, so it is added as deprecated
//! ([`Requests::add_address`]). IPv4 takes the first address of the link, and
//! one of `lo` only where the link has none.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};

use super::event::Address;
use super::netlink::{Fault, NetlinkError};
use super::requests::{Added, Requests};

const FILE: &str = "owned.json";
const VERSION: u32 = 1;

/// An address on a link, by the name of the link: its index changes when a tap
/// is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnedAddress {
    /// Name of the link.
    pub link: String,
    /// The address.
    pub ip: IpAddr,
    /// Length of its prefix: 32 or 128 for a VIP.
    pub prefix_len: u8,
}

impl fmt::Display for OwnedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} on {}", self.ip, self.prefix_len, self.link)
    }
}

/// Why addresses could not be brought into the wanted state.
#[derive(Debug)]
pub enum OwnedError {
    /// The record could not be read or written.
    File(PathBuf, io::Error),
    /// The record is not one.
    Record(PathBuf, String),
    /// A link has no such name.
    NoLink(OwnedAddress),
    /// The kernel refused.
    Kernel(OwnedAddress, NetlinkError),
    /// The kernel could not be asked what is there.
    List(NetlinkError),
}

impl fmt::Display for OwnedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Record(path, what) => write!(
                f,
                "{}: not a record of rvsd's addresses: {what}; remove the file, and with `ip addr \
                 del` any address that it names and nobody needs",
                path.display()
            ),
            Self::NoLink(address) => write!(f, "address {address}: there is no such link"),
            Self::Kernel(address, error) => {
                write!(f, "address {address}: {error}")?;
                if address.ip.is_ipv6() && error.fault == Fault::Errno(Errno::EACCES) {
                    f.write_str("; IPv6 is disabled there: `sysctl -w net.ipv6.conf.default.disable_ipv6=0`")?;
                }
                Ok(())
            }
            Self::List(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OwnedError {}

/// The addresses that are rvsd's.
#[derive(Debug)]
pub struct OwnedAddresses {
    path: PathBuf,
    owned: BTreeSet<OwnedAddress>,
}

/// The record on disk.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    addresses: BTreeSet<OwnedAddress>,
}

impl OwnedAddresses {
    /// Reads the record of an earlier run, if there is one. Touches no address.
    pub fn open(run_dir: &Path) -> Result<Self, OwnedError> {
        let path = run_dir.join(FILE);
        let owned = match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|what| OwnedError::Record(path.clone(), what))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(OwnedError::File(path, error)),
        };
        Ok(Self { path, owned })
    }

    /// Brings the kernel into line with `wanted`, in this order: removes what
    /// is owned and no longer wanted, then adds what is wanted and missing.
    /// For the start, for every change, and with an empty set for the stop.
    ///
    /// One address that fails does not keep the others back: all failures come
    /// back together, and the next call tries again.
    pub fn sync(
        &mut self,
        wanted: &BTreeSet<OwnedAddress>,
        requests: &mut Requests,
    ) -> Result<(), Vec<OwnedError>> {
        let mut errors = Vec::new();
        for address in self.owned.difference(wanted).cloned().collect::<Vec<_>>() {
            match delete(&address, requests) {
                Ok(()) => drop(self.owned.remove(&address)),
                Err(error) => errors.push(error),
            }
        }
        if let Err(error) = self.add_missing(wanted, requests, &mut errors) {
            errors.push(error);
        }
        if let Err(error) = self.write() {
            errors.push(error);
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Whether rvsd added this address, and so will remove it.
    pub fn owns(&self, address: &OwnedAddress) -> bool {
        self.owned.contains(address)
    }

    /// The addresses that rvsd added.
    pub fn iter(&self) -> impl Iterator<Item = &OwnedAddress> {
        self.owned.iter()
    }

    /// The kernel itself is asked what is there: the mirror may lag behind.
    fn add_missing(
        &mut self,
        wanted: &BTreeSet<OwnedAddress>,
        requests: &mut Requests,
        errors: &mut Vec<OwnedError>,
    ) -> Result<(), OwnedError> {
        let present: HashSet<Address> =
            requests.addresses().map_err(OwnedError::List)?.into_iter().collect();
        let mut missing = Vec::new();
        for address in wanted {
            match link_index(address) {
                Ok(link) if !is_present(&present, link, address) => missing.push((link, address)),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let before = self.owned.clone();
        self.owned.extend(missing.iter().map(|(_, address)| (*address).clone()));
        if let Err(error) = self.write() {
            self.owned = before;
            return Err(error);
        }
        for (link, address) in missing {
            match requests.add_address(link, address.ip, address.prefix_len) {
                Ok(Added::Added) => {}
                // Somebody else was faster, unless it was ours all along.
                Ok(Added::AlreadyThere) if before.contains(address) => {}
                Ok(Added::AlreadyThere) => drop(self.owned.remove(address)),
                Err(error) => {
                    self.owned.remove(address);
                    errors.push(OwnedError::Kernel(address.clone(), error));
                }
            }
        }
        Ok(())
    }

    /// Writes a new file and renames it over the old one, so that a kill at
    /// any moment leaves one of the two whole.
    fn write(&self) -> Result<(), OwnedError> {
        self.try_write().map_err(|error| OwnedError::File(self.path.clone(), error))
    }

    fn try_write(&self) -> io::Result<()> {
        let record = Record { version: VERSION, addresses: self.owned.clone() };
        let bytes = serde_json::to_vec(&record)?;
        if fs::read(&self.path).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        File::open(directory)?.sync_all()
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeSet<OwnedAddress>, String> {
    let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if record.version != VERSION {
        return Err(format!("version {}, this rvsd knows {VERSION}", record.version));
    }
    Ok(record.addresses)
}

/// A link that is gone has taken its addresses along.
fn delete(address: &OwnedAddress, requests: &mut Requests) -> Result<(), OwnedError> {
    let Ok(link) = link_index(address) else { return Ok(()) };
    let deleted = requests.delete_address(link, address.ip, address.prefix_len);
    deleted.map(|_| ()).map_err(|error| OwnedError::Kernel(address.clone(), error))
}

fn link_index(address: &OwnedAddress) -> Result<u32, OwnedError> {
    if_nametoindex(address.link.as_str()).map_err(|errno| match errno {
        Errno::ENODEV | Errno::ENXIO => OwnedError::NoLink(address.clone()),
        errno => OwnedError::Kernel(
            address.clone(),
            NetlinkError::errno(&format!("look up link {}", address.link), errno),
        ),
    })
}

/// IPv6 allows an address once per link, whatever its prefix length.
fn is_present(present: &HashSet<Address>, link: u32, address: &OwnedAddress) -> bool {
    let OwnedAddress { ip, prefix_len, .. } = *address;
    match ip {
        IpAddr::V4(_) => present.contains(&Address { link, ip, prefix_len }),
        IpAddr::V6(_) => present.iter().any(|there| there.link == link && there.ip == ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hk-owned-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a directory for the test");
        path
    }

    #[test]
    fn the_record_survives_and_is_replaced_whole() {
        let run_dir = directory("record");
        let vip = OwnedAddress {
            link: "lo".to_owned(),
            ip: "192.168.1.100".parse().unwrap(),
            prefix_len: 32,
        };
        let mut first = OwnedAddresses::open(&run_dir).unwrap();
        assert_eq!(first.iter().count(), 0);
        first.owned.insert(vip.clone());
        first.write().unwrap();
        let second = OwnedAddresses::open(&run_dir).unwrap();
        assert!(second.owns(&vip));
        let names: Vec<_> =
            fs::read_dir(&run_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [FILE]);
        fs::remove_dir_all(&run_dir).unwrap();
    }

    #[test]
    fn a_foreign_file_is_refused_with_its_name() {
        let run_dir = directory("refused");
        for content in ["", "{}", r#"{"version":2,"addresses":[]}"#, r#"{"version":1,"a":[]}"#] {
            fs::write(run_dir.join(FILE), content).unwrap();
            let error = OwnedAddresses::open(&run_dir).unwrap_err();
            assert!(matches!(error, OwnedError::Record(..)), "{content:?}: {error}");
            assert!(error.to_string().contains(FILE), "{error}");
        }
        fs::remove_dir_all(&run_dir).unwrap();
    }
}
