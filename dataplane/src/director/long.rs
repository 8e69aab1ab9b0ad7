//! The long way of a packet that has a connection: what any packet may need.

use super::{Context, Core, Kind, Source, Staged, Verdict};
use crate::conn::{Entry4, Entry6, Place, Slot, State, Tabled, Tables};
use crate::counters::DropReason;
use crate::packet::headers::{sctp, tcp};
use crate::packet::{Frame, Headers, Protocol};
use crate::service::{Method, Server};

impl Core {
    /// Forwards any packet but one that has no connection.
    #[inline(never)]
    pub(super) fn long(
        &mut self,
        cx: Context<'_>,
        source: Source,
        tables: &mut Tables,
        stage: &Staged,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Option<Verdict> {
        match stage.kind {
            Kind::Short4 | Kind::Flow4 | Kind::First4 => {
                let key = stage.key4();
                self.forward_known::<Entry4>(cx, tables, &key, stage.hash, headers, frame)
            }
            Kind::Short6 | Kind::Flow6 | Kind::First6 => {
                let key = stage.key6();
                self.forward_known::<Entry6>(cx, tables, &key, stage.hash, headers, frame)
            }
            Kind::IcmpError | Kind::New | Kind::New4 | Kind::New6 | Kind::Decided => {
                Some(self.icmp_error(cx, tables, source, headers, frame))
            }
        }
    }

    /// Forwards a packet by its connection, or a new one.
    pub(super) fn forward<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        if let Some(verdict) = self.forward_known::<E>(cx, tables, key, hash, headers, frame) {
            return verdict;
        }
        match self.open::<E>(cx, tables, key, hash, headers, frame) {
            Ok((slot, server)) => {
                self.forward_first::<E>(cx, tables, slot, server, hash, headers, frame)
            }
            Err(verdict) => verdict,
        }
    }

    /// The packet's connection, and the way of its direction. `None` when there
    /// is no connection.
    #[inline(always)]
    pub(super) fn forward_known<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Option<Verdict> {
        let slot = self.find::<E>(cx, tables, hash, key, headers)?;
        if frame.handed.candidate != 0 {
            // It went round: the next one is to come here at once.
            self.give_hint(cx.snapshot, headers.protocol, &headers.tuple());
        }
        self.assert_own(tables, E::place(slot));
        let body = E::table(tables).entry(slot).body();
        let Some(server) = cx.snapshot.server(body.server) else {
            return Some(self.drop(DropReason::ServerDeleted));
        };
        if body.is_reply() {
            return Some(self.reply::<E>(cx, tables, slot, server, headers, frame));
        }
        if server.deleted {
            return Some(self.drop(DropReason::ServerDeleted));
        }
        // The connection's own method: the server may have been given another.
        let is_pair = body.twin(E::FAMILY).is_some();
        let old = body.state();
        let new = old.after_client_packet(is_pair, headers);
        self.touch::<E>(cx, tables, slot, server, old, new);
        server.counts.packet(self.worker, u64::from(headers.ip_len));
        Some(match server.method {
            _ if is_pair => self.send_nat::<E>(cx, tables, slot, server, headers, frame),
            Method::Tun(encapsulation) => {
                self.send_tun(cx, server, encapsulation, hash, headers, frame)
            }
            Method::Dr | Method::Nat | Method::Fullnat => self.send_dr(cx, server, headers, frame),
        })
    }

    /// Finds the packet's connection. One that is over but still there, or
    /// whose server is gone for good, is ended when a packet shows it, so that
    /// the new one is scheduled anew.
    #[inline(always)]
    pub(super) fn find<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        hash: u64,
        key: &E::Key,
        headers: &Headers,
    ) -> Option<Slot> {
        let slot = E::table(tables).find(hash, key)?;
        let opens = match headers.protocol {
            Protocol::Tcp => headers.tcp_flags & (tcp::SYN | tcp::RST) == tcp::SYN,
            Protocol::Udp => false,
            Protocol::Sctp => headers.tcp_flags == sctp::INIT,
        };
        if opens || cx.snapshot.settings.expire_nodest_conn {
            let body = *E::table(tables).entry(slot).body();
            if self.is_outlived(cx, &body, opens) {
                self.close(cx, tables, E::place(slot));
                return None;
            }
        }
        Some(slot)
    }

    /// Notes a packet of a connection: its state, where that changed, in both
    /// directions' entries; and, once a tick, when it was.
    #[inline(always)]
    pub(super) fn touch<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        old: State,
        new: State,
    ) {
        let now = cx.now;
        let table = E::table_mut(tables);
        let body = table.entry_mut(slot).body_mut();
        if new == old && body.last() == now {
            return;
        }
        let expiry = cx.snapshot.timeouts.expiry(new, now);
        body.set_last(now);
        body.set_state(new);
        let twin = body.twin(E::FAMILY);
        table.set_expiry(slot, now, expiry);
        if new != old {
            self.assure(tables, E::place(slot), new);
            server.counts.connections.change(old.is_active(), new.is_active());
            if let Some(twin) = twin {
                tables.body_mut(twin).set_state(new);
                tables.set_expiry(twin, now, expiry);
            }
        }
    }

    /// A packet from the server of a connection under NAT or FULLNAT, to its
    /// client. Also of a deleted server: what it still says is passed on.
    #[inline(never)]
    pub(super) fn reply<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        server: &Server,
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Verdict {
        let old = E::table(tables).entry(slot).body().state();
        let new = old.after_server_packet(headers);
        self.touch::<E>(cx, tables, slot, server, old, new);
        if E::table(tables).entry(slot).body().template() != 0 {
            self.assure_by_reply(E::table_mut(tables).entry_mut(slot).body_mut());
        }
        server.counts.reply(self.worker, u64::from(headers.ip_len));
        self.send_reply::<E>(cx, tables, slot, server, headers, frame)
    }

    /// Counts a packet that found another worker's connection.
    #[inline(always)]
    pub(super) fn assert_own(&mut self, _tables: &Tables, _place: Place) {
        #[cfg(debug_assertions)]
        {
            let client = _tables.tuple(_tables.client(_place));
            self.foreign += u64::from(self.natural_owner(&client) != self.worker);
        }
    }
}
