//! The neighbours that forwarding needs, kept resolved by the kernel, so that
//! the first packet to a server already finds its Ethernet address.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use nix::errno::Errno;

use super::event::NeighbourState;
use super::mirror::Mirror;
use super::netlink::{Fault, NetlinkError};
use super::requests::Requests;

/// A neighbour: index of the link, address.
type Key = (u32, IpAddr);

/// Keeps the neighbours of servers and gateways resolved.
#[derive(Debug)]
pub struct KeptNeighbours {
    entries: HashMap<Key, Holding>,
    /// Whether to ask for NTF_EXT_MANAGED at all.
    try_managed: bool,
    /// The operator was told that the kernel lacks it.
    told: bool,
}

/// What was done for a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holding {
    /// The kernel was asked to keep it, and will be asked to stop.
    Managed,
    /// Asked for anew by [`KeptNeighbours::refresh`]; nothing to take back.
    Refreshed,
    /// It is permanent, or somebody else has it managed: left alone.
    Foreign,
    /// The request failed, for example because the link is down; tried again.
    Failed,
}

impl Default for KeptNeighbours {
    fn default() -> Self {
        Self::new()
    }
}

impl KeptNeighbours {
    /// Keeps nothing yet.
    pub fn new() -> Self {
        Self { entries: HashMap::new(), try_managed: true, told: false }
    }

    /// For a kernel known to lack managed neighbours (before Linux 5.16).
    pub fn without_managed() -> Self {
        Self { entries: HashMap::new(), try_managed: false, told: true }
    }

    /// Makes `wanted` the set that is kept: releases the others, asks for the
    /// new ones. A request that fails is logged and tried again by
    /// [`KeptNeighbours::refresh`]. An empty set, at a clean stop, takes back
    /// all that was asked.
    pub fn sync(&mut self, wanted: &HashSet<Key>, requests: &mut Requests) {
        let gone: Vec<Key> =
            self.entries.keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in gone {
            let holding = self.entries.remove(&key);
            if holding == Some(Holding::Managed) {
                release(key, requests);
            }
        }
        for key in wanted {
            self.add(*key, requests);
        }
    }

    /// Keeps one more.
    pub fn add(&mut self, key: Key, requests: &mut Requests) {
        if !self.entries.contains_key(&key) {
            self.keep(key, requests);
        }
    }

    /// To be called every second: asks again for entries that are gone (a link
    /// that goes down takes its neighbours along) and for those that failed,
    /// and does by hand what a kernel without managed neighbours does not.
    pub fn refresh(&mut self, mirror: &Mirror, requests: &mut Requests) {
        let due: Vec<(Key, Holding)> = self
            .entries
            .iter()
            .map(|(key, holding)| (*key, *holding))
            .filter(|(key, holding)| is_due(*holding, mirror.neighbour_state(key.0, key.1)))
            .collect();
        for (key, holding) in due {
            if holding == Holding::Refreshed {
                self.resolve_now(key, requests);
            } else {
                self.keep(key, requests);
            }
        }
    }

    /// Whether this neighbour is among those that are kept.
    pub fn keeps(&self, link: u32, ip: IpAddr) -> bool {
        self.entries.contains_key(&(link, ip))
    }

    /// How many neighbours are kept, also those that somebody else provides.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn keep(&mut self, key: Key, requests: &mut Requests) {
        let kept = ask(key, self.try_managed, requests);
        let holding = match kept {
            Ok(holding) => holding,
            Err(error) => {
                self.log_once(key, &error);
                Holding::Failed
            }
        };
        if holding == Holding::Refreshed && !self.told {
            log::warn!("the kernel does not keep neighbours by itself: rvsd asks every second");
            self.told = true;
        }
        // An entry of ours that is still managed is not somebody else's.
        let ours = self.entries.get(&key) == Some(&Holding::Managed);
        let holding = if ours && holding == Holding::Foreign { Holding::Managed } else { holding };
        self.entries.insert(key, holding);
    }

    fn resolve_now(&mut self, key: Key, requests: &mut Requests) {
        if let Err(error) = requests.use_neighbour(key.0, key.1) {
            self.log_once(key, &error);
            self.entries.insert(key, Holding::Failed);
        }
    }

    fn log_once(&self, key: Key, error: &NetlinkError) {
        if self.entries.get(&key) != Some(&Holding::Failed) {
            log::warn!("{error}; it is tried again every second");
        }
    }
}

/// Has the kernel resolve a neighbour, unless that is somebody else's matter:
/// to ask for a managed or permanent one would make it an ordinary one.
pub(super) fn ask(
    key: Key,
    try_managed: bool,
    requests: &mut Requests,
) -> Result<Holding, NetlinkError> {
    let (link, ip) = key;
    let before = requests.neighbour(link, ip)?;
    if before.is_some_and(|entry| entry.managed || entry.state.fixed()) {
        return Ok(Holding::Foreign);
    }
    if try_managed && manage(key, requests)? {
        return Ok(Holding::Managed);
    }
    requests.use_neighbour(link, ip)?;
    Ok(Holding::Refreshed)
}

/// Whether the kernel took it on. One that does not know the flag refuses it
/// or, before Linux 5.16, ignores it.
fn manage(key: Key, requests: &mut Requests) -> Result<bool, NetlinkError> {
    match requests.manage_neighbour(key.0, key.1) {
        Ok(()) => Ok(requests.neighbour(key.0, key.1)?.is_some_and(|entry| entry.managed)),
        Err(NetlinkError { fault: Fault::Errno(Errno::EOPNOTSUPP | Errno::EINVAL), .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// An entry that was made permanent in the meantime is no longer ours to touch.
fn release(key: Key, requests: &mut Requests) {
    let released = requests.neighbour(key.0, key.1).and_then(|entry| match entry {
        Some(entry) if !entry.state.fixed() => requests.release_neighbour(key.0, key.1).map(|_| ()),
        _ => Ok(()),
    });
    if let Err(error) = released {
        log::warn!("{error}");
    }
}

fn is_due(holding: Holding, state: Option<NeighbourState>) -> bool {
    use NeighbourState::{Failed, None as Unasked, Stale};
    match holding {
        Holding::Failed => true,
        Holding::Managed | Holding::Foreign => state.is_none(),
        Holding::Refreshed => matches!(state, None | Some(Unasked | Failed | Stale)),
    }
}
