//! Which worker owns a packet.
//!
//! A client's packets have the owner that the hash of their addresses and ports
//! says. A NAT server's packets have another hash, but which one is known from
//! the service: that of the client's packets and theirs differ by a constant.
//! Where a server's address and port belong to several services, there are
//! several candidates, asked one after the other; the last one is the owner by
//! the packet's own hash, who may open a connection.

use super::{Core, Handed, Verdict};
use crate::packet::{Headers, Tuple};
use crate::service::{NatSource, endpoints};
use crate::snapshot::Snapshot;

impl Core {
    /// The worker to ask first. `nic` is the hash that the NIC computed.
    #[inline]
    pub(super) fn owner(&self, snapshot: &Snapshot, headers: &Headers, nic: Option<u32>) -> usize {
        if snapshot.nat_sources.may_have(&headers.addresses) {
            if let Some(worker) = self.candidate(snapshot, headers, 0) {
                return worker;
            }
        }
        let own = || self.shard.hash(&headers.addresses, headers.src_port, headers.dst_port);
        self.shard.owner(nic.unwrap_or_else(own))
    }

    /// The next worker to ask for a packet whose connection is not in this
    /// worker's table.
    #[cold]
    pub(super) fn elsewhere(
        &self,
        snapshot: &Snapshot,
        headers: &Headers,
        handed: Handed,
    ) -> Option<Verdict> {
        if self.shard.workers() == 1 || snapshot.nat_sources.is_empty() {
            return None;
        }
        let mut index = handed.candidate;
        loop {
            index = index.checked_add(1)?;
            let worker = self.candidate(snapshot, headers, usize::from(index))?;
            if worker != self.worker {
                let handed = Handed { candidate: index, ..handed };
                return Some(Verdict::Handoff { worker: worker as u8, handed });
            }
        }
    }

    /// Of the workers that may own a packet the one of this index, in the order
    /// in which they are asked: each once, however many services say so, so
    /// that no packet travels longer than once round. `None` where the hash
    /// alone says who does.
    fn candidate(&self, snapshot: &Snapshot, headers: &Headers, index: usize) -> Option<usize> {
        let Headers { protocol, src_port, dst_port, .. } = *headers;
        let (src, _) = endpoints(&headers.addresses);
        let mut sources = snapshot.nat_sources.of(protocol, src, src_port).peekable();
        sources.peek()?;
        let workers = self.shard.workers();
        let hash = self.shard.hash(&headers.addresses, src_port, dst_port);
        let natural = self.shard.owner(hash);
        let mut asked = Asked::default();
        let mut left = index;
        let mut is_next = |worker| {
            if !asked.add(worker) {
                return false;
            }
            left = left.wrapping_sub(1);
            left == usize::MAX
        };
        for source in sources {
            let found = match source {
                NatSource::Of(vip, vport) => {
                    let vport = if vport == 0 { src_port } else { vport };
                    let constant = self.shard.constant(vip, vport, src, src_port);
                    Some(self.shard.owner(hash ^ constant)).filter(|&worker| is_next(worker))
                }
                // To any address: every worker may have it.
                NatSource::Marked => (0..workers).find(|&worker| is_next(worker)),
            };
            if found.is_some() {
                return found;
            }
        }
        // Who may open a connection is the last, if need be once more.
        (left == 0).then_some(natural)
    }

    /// The owner of packets with these addresses and ports by their own hash.
    pub(super) fn natural_owner(&self, tuple: &Tuple) -> usize {
        let (src_port, dst_port) = tuple.ports();
        self.shard.owner(self.shard.hash(&tuple.addresses(), src_port, dst_port))
    }
}

/// The workers that were asked.
#[derive(Default)]
struct Asked([u64; 4]);

impl Asked {
    /// Adds a worker; whether it is new.
    fn add(&mut self, worker: usize) -> bool {
        let bit = 1 << (worker % 64);
        let Some(word) = self.0.get_mut(worker / 64) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}
