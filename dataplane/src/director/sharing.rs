//! Sharing out what a device gives any worker, ahead of the stages.
//!
//! Where a device does not spread packets as their owners are spread, half of a
//! burst or more is others', in no order. Decided packet by packet among the
//! stages, that breaks up what they do in a row, and no branch on it is
//! predicted. So a worker first sorts: [`Sharing::owner`] says whose each packet
//! is, it goes to the end of its owner's queue, be that the worker's own, and
//! what was read of it goes along ([`Reading`]).

use super::short::Short;
use super::{Core, Director, Reading};
use crate::conn::{Entry4, Entry6, Tables};
use crate::packet::headers::{Mac48, Plain, plain_family};
use crate::packet::{Family, Frame, Headers};
use crate::snapshot::Snapshot;

/// Tells whose the packets are that come in by a device.
#[derive(Debug)]
pub struct Sharing<'a> {
    core: &'a Core,
    tables: &'a Tables,
    snapshot: &'a Snapshot,
    mac: Mac48,
}

impl Director {
    /// For packets that came in by a device. `None` while somebody observes
    /// packets: the stages tell whose each is, too, and show it.
    #[must_use]
    #[inline]
    pub fn sharing(&self, device: u8) -> Option<Sharing<'_>> {
        let Self { core, tables, snapshot, observers, .. } = self;
        if !observers.is_empty() {
            return None;
        }
        let mac = snapshot.ports.get(usize::from(device))?.mac.into();
        Some(Sharing { core, tables, snapshot, mac })
    }
}

impl Sharing<'_> {
    /// The worker to ask first for a packet, and what was read of it. One that
    /// is not plain is this worker's until the stages find out.
    #[must_use]
    #[inline(always)]
    pub fn owner(&self, frame: &Frame<'_>) -> (u8, Reading) {
        let owner = match plain_family(frame.bytes(), self.mac) {
            Some(Family::V4) => self.read::<Entry4>(frame),
            Some(Family::V6) => self.read::<Entry6>(frame),
            None => None,
        };
        let (owner, read) = owner.unwrap_or((self.core.worker, Reading::default()));
        (owner as u8, read)
    }

    #[inline(always)]
    fn read<E: Short>(&self, frame: &Frame<'_>) -> Option<(usize, Reading)>
    where
        Headers: From<Plain<E::Key>>,
    {
        let plain = E::plain(frame)?;
        let Plain { key, tcp_flags, ip_len } = plain;
        let hash = E::table(self.tables).hash(&key);
        let owner = self.core.plain_owner(self.snapshot, frame, &plain, E::owner_words(&key));
        Some((owner, Reading { hash, ip_len, tcp_flags, family: E::READ }))
    }
}
