//! Fragments. Only a datagram's first fragment has the ports, and its fragments
//! may come in any order and by any worker. All go to the worker that owns the
//! two addresses; it learns the ports, holds what comes too early, and passes
//! each fragment on as a packet with ports to the worker that owns those.

use super::{Context, Core, Handed, Key, Verdict, key, punt_kind};
use crate::conn::{Entry4, Entry6, Tables};
use crate::counters::DropReason;
use crate::fragment::{Fragment, Fragments, Later, Ports};
use crate::outbox::To;
use crate::packet::headers::Parsed;
use crate::packet::{Frame, Headers};
use crate::service::endpoints;

/// Room for a held fragment and the headers that it gets.
const BUFFER: usize = 4096;
/// Of that, in front.
const HEADROOM: usize = 256;

impl Core {
    /// Stage 1 of a fragment: what is to be done with it, in the end as a
    /// packet with ports.
    #[cold]
    pub(super) fn fragment(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        fragments: &mut Fragments,
        frame: &mut Frame<'_>,
        headers: &mut Headers,
    ) -> Verdict {
        let (src, dst) = endpoints(&headers.addresses);
        let snapshot = cx.snapshot;
        let concerns_us = snapshot.services.may_have(dst)
            || snapshot.nat_sources.has_address(src)
            || snapshot.locals.contains(&dst);
        if !concerns_us {
            return self.punt(cx.now, punt_kind(headers));
        }
        let fragment = match Fragment::parse(frame.bytes(), headers) {
            Ok(fragment) => fragment,
            Err(reason) => return self.drop(reason),
        };
        headers.later_fragment = fragment.first.is_none();
        if let Some(first) = fragment.first {
            headers.tcp_flags = first.tcp_flags;
        }
        if let Some((src, dst)) = frame.handed.ports {
            // From the worker that knows the datagram: its connection is ours.
            (headers.src_port, headers.dst_port) = (src, dst);
            return self.forward_now(cx, tables, headers, frame);
        }
        let worker = self.shard.owner(self.shard.hash(&headers.addresses, 0, 0));
        if worker != self.worker {
            let handed = Handed::default();
            return Verdict::Handoff { worker: worker as u8, handed };
        }
        let Some(first) = fragment.first else {
            return match fragments.later(cx.now, &fragment.key, frame) {
                Later::Known(ports) => self.with_ports(cx, tables, ports, headers, frame),
                Later::Held => {
                    self.counters.held += 1;
                    Verdict::Absorbed
                }
                Later::TooLong => self.drop(DropReason::FragmentTableFull),
            };
        };
        let verdict = self.with_ports(cx, tables, first.ports, headers, frame);
        fragments.learn(cx.now, &fragment.key, first.ports, |bytes, port| {
            self.release(cx, tables, bytes, port, first.ports);
        });
        verdict
    }

    /// Forwards a fragment whose ports are known, here or by the worker that
    /// owns its connection.
    fn with_ports(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        ports: Ports,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        (headers.src_port, headers.dst_port) = (ports.src, ports.dst);
        // Also for the next candidate, where the connection is not found here:
        // without the ports it would send the fragment back.
        frame.handed = Handed { ports: Some((ports.src, ports.dst)), candidate: 0 };
        if self.shard.workers() > 1 {
            let worker = self.owner(cx.snapshot, headers, None);
            if worker != self.worker {
                return Verdict::Handoff { worker: worker as u8, handed: frame.handed };
            }
        }
        self.forward_now(cx, tables, headers, frame)
    }

    /// Forwards a fragment that was held, by way of the outbox.
    fn release(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        bytes: &[u8],
        port: u8,
        ports: Ports,
    ) {
        let mut buffer = [0; BUFFER];
        let Some(room) = buffer.get_mut(HEADROOM..HEADROOM + bytes.len()) else { return };
        room.copy_from_slice(bytes);
        let mut frame = Frame::new(&mut buffer, HEADROOM, bytes.len(), bytes.len(), port);
        let mut headers = Headers::NONE;
        // It was counted when it was held, and leaves now.
        self.counters.generated += 1;
        let verdict = match self.classify(cx, &mut frame, &mut headers) {
            Ok(Parsed::Flow) => {
                headers.later_fragment = true;
                self.with_ports(cx, tables, ports, &mut headers, &mut frame)
            }
            Ok(_) => return,
            Err(verdict) => verdict,
        };
        let to = match verdict {
            Verdict::Send { port } => To::Port(port),
            Verdict::Punt => To::Kernel(port),
            Verdict::Handoff { worker, handed } => To::Worker { worker, port, handed },
            Verdict::Absorbed | Verdict::Drop(_) => return,
        };
        let bytes = frame.bytes();
        match self.outbox.push_to(to, bytes.len()) {
            Some(slot) => slot.copy_from_slice(bytes),
            None => {
                self.drop(DropReason::TxFull);
            }
        }
    }

    /// Stage 3 at once.
    fn forward_now(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        match key(headers) {
            Key::V4(key) => {
                let hash = tables.v4.hash(&key);
                self.forward::<Entry4>(cx, tables, &key, hash, headers, frame)
            }
            Key::V6(key) => {
                let hash = tables.v6.hash(&key);
                self.forward::<Entry6>(cx, tables, &key, hash, headers, frame)
            }
        }
    }
}
