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
        if !snapshot.nat_sources.is_empty() {
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

    /// Of all workers that may own a packet the one of this index, in the order
    /// in which they are asked.
    fn candidate(&self, snapshot: &Snapshot, headers: &Headers, index: usize) -> Option<usize> {
        let Headers { protocol, src_port, dst_port, .. } = *headers;
        let (src, _) = endpoints(&headers.addresses);
        let hash = self.shard.hash(&headers.addresses, src_port, dst_port);
        let mut left = index;
        let mut any = false;
        for source in snapshot.nat_sources.of(protocol, src, src_port) {
            any = true;
            let (first, count) = match source {
                NatSource::Of(vip, vport) => {
                    let vport = if vport == 0 { src_port } else { vport };
                    let constant = self.shard.constant(vip, vport, src, src_port);
                    (self.shard.owner(hash ^ constant), 1)
                }
                // To any address: every worker may have it.
                NatSource::Marked => (0, self.shard.workers()),
            };
            if left < count {
                return Some(first + left);
            }
            left -= count;
        }
        (any && left == 0).then(|| self.shard.owner(hash))
    }

    /// The owner of packets with these addresses and ports by their own hash.
    pub(super) fn natural_owner(&self, tuple: &Tuple) -> usize {
        let (src_port, dst_port) = tuple.ports();
        self.shard.owner(self.shard.hash(&tuple.addresses(), src_port, dst_port))
    }
}
