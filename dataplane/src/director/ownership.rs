//! Which worker owns a packet.
//!
//! A client's packets have the owner that the hash of their addresses and ports
//! says. A NAT server's packets have another hash, but which one is known from
//! the service: that of the client's packets and theirs differ by a constant.
//!
//! Where a server's address and port belong to several services, or to one by
//! fwmark, there are several candidates. The owner leaves a hint when it opens
//! the connection ([`crate::shard`]), and who it names is asked first. If that
//! is wrong, all are asked in turn; the last one is the owner by the packet's
//! own hash, who may open a connection. An owner that was found so renews the
//! hint.

use std::net::IpAddr;

use super::{Core, Handed, Verdict};
use crate::packet::headers::Plain;
use crate::packet::{Frame, Headers, Protocol, Tuple};
use crate::service::{NatSource, endpoints};
use crate::snapshot::Snapshot;

impl Core {
    /// The worker to ask first. `nic` is the hash that the NIC computed.
    #[inline]
    pub(super) fn owner(&self, snapshot: &Snapshot, headers: &Headers, nic: Option<u32>) -> usize {
        if snapshot.nat_sources.may_have(&headers.addresses) {
            if let Some(worker) = self.server_side_owner(snapshot, headers) {
                return worker;
            }
        }
        let own = || self.shard.hash(&headers.addresses, headers.src_port, headers.dst_port);
        self.shard.owner(nic.unwrap_or_else(own))
    }

    /// The worker to ask first for a plain packet, by its key: the XOR of its
    /// words and the end of the source address. Its headers are put together only
    /// where it may be a reply.
    #[inline(always)]
    pub(super) fn plain_owner<T: Copy>(
        &self,
        snapshot: &Snapshot,
        frame: &Frame<'_>,
        plain: &Plain<T>,
        (xor, source): (u16, u32),
    ) -> usize
    where
        Headers: From<Plain<T>>,
    {
        if snapshot.nat_sources.may_have_end(source) {
            return self.owner_of_reply(snapshot, &(*plain).into(), frame.rss_hash);
        }
        self.shard.owner(frame.rss_hash.unwrap_or_else(|| self.shard.hash_of(xor)))
    }

    /// The verdict on a packet of this worker, if it is another.
    #[inline(always)]
    pub(super) fn unless_own(&self, worker: usize) -> Option<Verdict> {
        let handed = Handed::default();
        (worker != self.worker).then_some(Verdict::Handoff { worker: worker as u8, handed })
    }

    #[inline(never)]
    fn owner_of_reply(&self, snapshot: &Snapshot, headers: &Headers, nic: Option<u32>) -> usize {
        self.owner(snapshot, headers, nic)
    }

    /// The worker to ask first for a packet that comes from where a NAT server's
    /// replies do. `None` for others.
    fn server_side_owner(&self, snapshot: &Snapshot, headers: &Headers) -> Option<usize> {
        let Headers { protocol, src_port, dst_port, .. } = *headers;
        let (src, dst) = endpoints(&headers.addresses);
        let mut sources = snapshot.nat_sources.of(protocol, src, src_port);
        let source = sources.next()?;
        let is_only = sources.next().is_none();
        let hash = self.shard.hash(&headers.addresses, src_port, dst_port);
        if snapshot.locals.contains(&dst) {
            // The server is one of FULLNAT, too.
            return Some(self.shard.owner(hash));
        }
        match source {
            NatSource::Of(vip, vport) if is_only => {
                Some(self.owner_by_constant(hash, (vip, vport), (src, src_port)))
            }
            _ => {
                let hint = self.shard.hint(protocol, &headers.tuple());
                hint.or_else(|| self.candidate(snapshot, headers, 0))
            }
        }
    }

    /// The owner of the connection to a service that a server's packet with this
    /// hash may be a reply of.
    fn owner_by_constant(
        &self,
        hash: u32,
        (vip, vport): (IpAddr, u16),
        (src, src_port): (IpAddr, u16),
    ) -> usize {
        let vport = if vport == 0 { src_port } else { vport };
        self.shard.owner(hash ^ self.shard.constant(vip, vport, src, src_port))
    }

    /// Tells the other workers that packets with these addresses and ports are
    /// this worker's, where they could not know.
    #[cold]
    pub(super) fn give_hint(&self, snapshot: &Snapshot, protocol: Protocol, tuple: &Tuple) {
        let (src, src_port) = tuple.source();
        if self.shard.workers() > 1 && snapshot.nat_sources.is_shared(protocol, src, src_port) {
            self.shard.give_hint(protocol, tuple, self.worker);
        }
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
            let worker = self.candidate(snapshot, headers, usize::from(index))?;
            index = index.checked_add(1)?;
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
                    let worker = self.owner_by_constant(hash, (vip, vport), (src, src_port));
                    Some(worker).filter(|&worker| is_next(worker))
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
