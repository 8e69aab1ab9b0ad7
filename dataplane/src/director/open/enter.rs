//! The entries of a new connection.

use super::super::{Context, Core, Verdict, take_up};
use super::pair::{Pair, with_port};
use super::{Opening, sequence_of};
use crate::conn::entry::Body;
use crate::conn::{Entry4, Entry6, Place, Slot, State, TableFull, Tabled, Tables};
use crate::counters::DropReason;
use crate::packet::{Family, Frame, Headers, Protocol};
use crate::scheduler::Scheduler;
use crate::service::{ClientAddress, Local, Method};

impl Core {
    /// Puts a prepared connection into the tables. `Err` is the verdict of its
    /// packet where that fails.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    pub(super) fn enter<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        (opening, pair): (&Opening<'_>, Option<&Pair>),
        headers: &mut Headers,
        frame: &mut Frame<'_>,
    ) -> Result<Slot, Verdict> {
        let made = (opening, pair);
        let reason = match self.insert::<E>(cx, tables, key, hash, made, headers, frame) {
            Ok(slot) => return Ok(slot),
            Err(reason) => reason,
        };
        let stateless = reason == DropReason::TableFull
            && matches!(opening.service.scheduler, Scheduler::Mh(_))
            && !opening.server.method.is_two_sided();
        if stateless {
            // A consistent hash finds the server again without an entry.
            let connections = &opening.server.counts.connections;
            connections.withdraw(opening.state.is_active(), opening.overloads);
            return Err(self.forward_stateless(cx, opening, hash, headers, frame));
        }
        self.withdraw(opening);
        Err(self.drop(reason))
    }

    /// Makes the entries of a prepared connection.
    #[expect(clippy::too_many_arguments)]
    #[inline(always)]
    fn insert<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        key: &E::Key,
        hash: u64,
        (opening, pair): (&Opening<'_>, Option<&Pair>),
        headers: &Headers,
        frame: &Frame<'_>,
    ) -> Result<Slot, DropReason> {
        let &Opening { number, server, template, state, .. } = opening;
        let now = cx.now;
        let body = |local: Option<(Local, u16)>| {
            let mut body = Body::new(number, state, now);
            if let Some(template) = template {
                body.set_template(template.number());
            }
            if let Some((local, port)) = local {
                body.set_local(port, local.number);
            }
            body
        };
        let place = match pair {
            None => {
                let entry = || E::new(*key, body(None));
                self.insert_client::<E>(cx, tables, hash, state, entry)?
            }
            Some(pair) => {
                let settled = self.settle(cx, tables, opening, pair, headers)?;
                let pair = settled.as_ref().unwrap_or(pair);
                let mut body = body(pair.local);
                body.set_client_address(server.client_address);
                let entry = || E::new(*key, body).rewritten(&pair.to);
                let place = self.insert_client::<E>(cx, tables, hash, state, entry)?;
                let twin = self.insert_twin(cx, tables, place, body, pair, headers.protocol)?;
                if server.method == Method::Nat {
                    self.give_hint(cx.snapshot, headers.protocol, &pair.to.reversed());
                }
                if server.client_address != ClientAddress::None {
                    let sequence = sequence_of(headers, frame);
                    tables.body_mut(twin).set_initial_sequence(sequence);
                }
                place
            }
        };
        if take_up::is_middle(opening.service, headers) {
            self.counters.taken_up += 1;
        }
        // With sloppy_tcp or sloppy_sctp it may be an old connection.
        if template.is_some() {
            self.assure(tables, place, state);
        }
        server.counts.scheduled(self.worker);
        Ok(place.slot())
    }

    /// Makes sure that no other connection has the server's entry: FULLNAT
    /// goes on to another port, and that pair is given; NAT cannot.
    fn settle(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        opening: &Opening<'_>,
        pair: &Pair,
        headers: &Headers,
    ) -> Result<Option<Pair>, DropReason> {
        let protocol = headers.protocol;
        let Some(old) = tables.find_hashed(protocol, &pair.to.reversed(), pair.hash) else {
            return Ok(None);
        };
        if tables.body(old).state().is_reusable() {
            self.close(cx, tables, old);
            return Ok(None);
        }
        if pair.local.is_none() {
            // Under NAT two services on one server cannot have one client's
            // port at the same time: replies would not tell them apart.
            return Err(DropReason::NatAmbiguous);
        }
        let server = opening.server;
        let address = with_port(server.address, headers.dst_port);
        let found = self.local_port(cx, tables, opening.service, protocol, address);
        let pair = Pair::new(tables, headers, server, Some(found.ok_or(DropReason::NoLocalPort)?))?;
        if let Some(old) = tables.find_hashed(protocol, &pair.to.reversed(), pair.hash) {
            self.close(cx, tables, old);
        }
        Ok(Some(pair))
    }

    /// Adds the client's entry.
    #[inline(always)]
    fn insert_client<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        hash: u64,
        state: State,
        entry: impl Fn() -> E,
    ) -> Result<Place, DropReason> {
        let expiry = cx.snapshot.timeouts.expiry(state, cx.now);
        // Before: what comes in from here on stays where it is.
        tables.make_room();
        let inserted = match E::table_mut(tables).insert(hash, cx.now, expiry, &entry) {
            Err(TableFull) if self.recycle::<E>(cx, tables, hash, None) => {
                E::table_mut(tables).insert(hash, cx.now, expiry, &entry)
            }
            inserted => inserted,
        };
        inserted.map(E::place).map_err(|TableFull| DropReason::TableFull)
    }

    /// Adds the server's entry to the client's at `client`, whose body is given,
    /// and which goes where there is no room for both.
    fn insert_twin(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        client: Place,
        body: Body,
        pair: &Pair,
        protocol: Protocol,
    ) -> Result<Place, DropReason> {
        let Pair { to, hash, .. } = pair;
        let reply = to.reversed();
        let back = tables.tuple(client).reversed();
        let expiry = cx.snapshot.timeouts.expiry(body.state(), cx.now);
        let mut other = body.for_replies();
        if protocol == Protocol::Udp {
            other.set_template(body.template());
        }
        let insert = |tables: &mut Tables| {
            tables.insert(protocol, &reply, *hash, other, Some(&back), cx.now, expiry)
        };
        let mut twin = insert(tables);
        if twin.is_err() {
            // The second entry must not take the first one's place.
            let keep = Some(client);
            let room = match reply.family() {
                Family::V4 => self.recycle::<Entry4>(cx, tables, *hash, keep),
                Family::V6 => self.recycle::<Entry6>(cx, tables, *hash, keep),
            };
            if room {
                twin = insert(tables);
            }
        }
        let Ok(twin) = twin else {
            tables.remove(client);
            return Err(DropReason::TableFull);
        };
        tables.join(client, twin);
        Ok(twin)
    }
}
