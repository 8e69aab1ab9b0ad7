//! The two tables of a worker, one an address family, and connections whose
//! entries lie in either.

use super::entry::{Body, Entry, Entry4, Entry6};
use super::hash::HashKey;
use super::table::{Slot, Table, TableFull};
use crate::forward::nat::Deltas;
use crate::packet::{Family, Key4, Key6, Protocol, Tuple};
use crate::time::Tick;

/// Groups that are split in a step: about 500 ns each when their entries have
/// to come from memory.
const STEPS: usize = 4;

/// Where an entry is. Valid until the entry is removed, or moves as its table
/// grows ([`Tables::insert`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the IPv4 table.
    V4(Slot),
    /// In the IPv6 table.
    V6(Slot),
}

impl Place {
    /// The slot in its table.
    #[must_use]
    pub const fn slot(self) -> Slot {
        match self {
            Self::V4(slot) | Self::V6(slot) => slot,
        }
    }

    /// The family of the table.
    #[must_use]
    pub const fn family(self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }
}

/// A worker's connection tables.
#[derive(Debug)]
pub struct Tables {
    /// Of IPv4 packets.
    pub v4: Table<Entry4>,
    /// Of IPv6 packets.
    pub v6: Table<Entry6>,
    /// Entries that are the second of their connection.
    replies: usize,
}

/// An entry type's own table.
pub trait Tabled: Entry {
    /// The table.
    fn table(tables: &Tables) -> &Table<Self>;
    /// The table, for changing.
    fn table_mut(tables: &mut Tables) -> &mut Table<Self>;
}

impl Tabled for Entry4 {
    #[inline]
    fn table(tables: &Tables) -> &Table<Self> {
        &tables.v4
    }

    #[inline]
    fn table_mut(tables: &mut Tables) -> &mut Table<Self> {
        &mut tables.v4
    }
}

impl Tabled for Entry6 {
    #[inline]
    fn table(tables: &Tables) -> &Table<Self> {
        &tables.v6
    }

    #[inline]
    fn table_mut(tables: &mut Tables) -> &mut Table<Self> {
        &mut tables.v6
    }
}

impl Tables {
    /// Tables for at most `limit` entries each. They begin small and grow.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub fn new(limit: usize, hash_key: HashKey) -> std::io::Result<Self> {
        Ok(Self { v4: Table::new(limit, hash_key)?, v6: Table::new(limit, hash_key)?, replies: 0 })
    }

    /// Makes the pages that the tables begin with, on the NUMA node of the
    /// caller. Otherwise the first packets wait for them.
    pub fn prepare(&self) {
        self.v4.prepare();
        self.v6.prepare();
    }

    /// Lets tables that are between two sizes get on with it, for a few
    /// microseconds at most. Entries move as with [`Tables::insert`].
    pub fn grow(&mut self) {
        for _ in 0..STEPS {
            if self.v4.is_doubling() {
                self.grow_one::<Entry4>();
            }
            if self.v6.is_doubling() {
                self.grow_one::<Entry6>();
            }
        }
    }

    /// Makes room for a connection, before its first entry goes in: it has two
    /// at most. Entries move as with [`Tables::insert`].
    #[inline]
    pub fn make_room(&mut self) {
        self.make_room_in::<Entry4>();
        self.make_room_in::<Entry6>();
    }

    /// The same in one table, where a connection's entries go.
    #[inline(always)]
    pub fn make_room_in<E: Tabled>(&mut self) {
        if E::table(self).is_growth_due() {
            self.grow_as_due::<E>();
        }
    }

    #[inline(never)]
    fn grow_as_due<E: Tabled>(&mut self) {
        for _ in 0..STEPS {
            if !E::table(self).is_growth_due() || !self.grow_one::<E>() {
                break;
            }
        }
    }

    /// Does what is due about a table's growth. Whether it went on.
    #[inline(never)]
    fn grow_one<E: Tabled>(&mut self) -> bool {
        let Some(mut split) = E::table_mut(self).grow() else { return false };
        while let Some(slot) = E::table_mut(self).move_next(&mut split) {
            let place = E::place(slot);
            if let Some(twin) = self.twin(place) {
                self.body_mut(twin).set_twin(twin.family(), place);
            }
        }
        true
    }

    /// Connections, however many entries they have.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.v4.len() + self.v6.len() - self.replies
    }

    /// What does not depend on the family of an entry.
    #[must_use]
    pub fn body(&self, place: Place) -> &Body {
        match place {
            Place::V4(slot) => self.v4.entry(slot).body(),
            Place::V6(slot) => self.v6.entry(slot).body(),
        }
    }

    /// The same, for changing.
    pub fn body_mut(&mut self, place: Place) -> &mut Body {
        match place {
            Place::V4(slot) => self.v4.entry_mut(slot).body_mut(),
            Place::V6(slot) => self.v6.entry_mut(slot).body_mut(),
        }
    }

    /// Addresses and ports of the packets that an entry is found by.
    #[must_use]
    pub fn tuple(&self, place: Place) -> Tuple {
        match place {
            Place::V4(slot) => Tuple::V4(self.v4.entry(slot).key().tuple()),
            Place::V6(slot) => Tuple::V6(self.v6.entry(slot).key().tuple()),
        }
    }

    /// The hash under which an entry is found.
    #[must_use]
    pub fn hash_of(&self, place: Place) -> u64 {
        match place {
            Place::V4(slot) => self.v4.hash(&self.v4.entry(slot).key()),
            Place::V6(slot) => self.v6.hash(&self.v6.entry(slot).key()),
        }
    }

    /// The hash of packets with these addresses and ports.
    #[must_use]
    pub fn hash(&self, protocol: Protocol, tuple: &Tuple) -> u64 {
        match tuple {
            Tuple::V4(tuple) => self.v4.hash(&Key4::new(protocol, *tuple)),
            Tuple::V6(tuple) => self.v6.hash(&Key6::new(protocol, *tuple)),
        }
    }

    /// What the rewrite of an entry's packets makes of their checksums.
    #[must_use]
    #[inline]
    pub fn deltas(&self, place: Place) -> Deltas {
        match place {
            Place::V4(slot) => {
                let entry = self.v4.entry(slot);
                Deltas { ip: entry.ip_delta, l4: entry.body().l4_delta }
            }
            Place::V6(slot) => Deltas { ip: 0, l4: self.v6.entry(slot).body().l4_delta },
        }
    }

    /// First stage of a look-up: asks for the line of the home group.
    pub fn prefetch_group(&self, family: Family, hash: u64) {
        match family {
            Family::V4 => self.v4.prefetch_group(hash),
            Family::V6 => self.v6.prefetch_group(hash),
        };
    }

    /// Second stage: asks for the line of the entry, or of the slot that an
    /// insertion would take.
    pub fn prefetch_entry(&self, family: Family, hash: u64) {
        match family {
            Family::V4 => self.v4.prefetch_found(hash),
            Family::V6 => self.v6.prefetch_found(hash),
        };
    }

    /// Whether a table takes no more entries.
    #[inline]
    #[must_use]
    pub fn is_full(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4.is_full(),
            Family::V6 => self.v6.is_full(),
        }
    }

    /// Asks for the lines that an insertion into a full table looks at to make
    /// room: of entries that expire at the `latest` then.
    pub fn prefetch_victims(&self, family: Family, hash: u64, now: Tick, latest: Tick) {
        match family {
            Family::V4 => self.v4.prefetch_victims(hash, now, latest),
            Family::V6 => self.v6.prefetch_victims(hash, now, latest),
        }
    }

    /// Asks for the lines of an entry and of its group.
    pub fn prefetch(&self, place: Place) {
        match place {
            Place::V4(slot) => self.v4.prefetch_slot(slot),
            Place::V6(slot) => self.v6.prefetch_slot(slot),
        }
    }

    /// Finds the entry of packets with these addresses and ports.
    #[must_use]
    pub fn find(&self, protocol: Protocol, tuple: &Tuple) -> Option<Place> {
        self.find_hashed(protocol, tuple, self.hash(protocol, tuple))
    }

    /// The same with their [`Tables::hash`].
    #[must_use]
    pub fn find_hashed(&self, protocol: Protocol, tuple: &Tuple, hash: u64) -> Option<Place> {
        match tuple {
            Tuple::V4(tuple) => self.v4.find(hash, &Key4::new(protocol, *tuple)).map(Place::V4),
            Tuple::V6(tuple) => self.v6.find(hash, &Key6::new(protocol, *tuple)).map(Place::V6),
        }
    }

    /// Adds an entry, to be looked at by the sweep once `expiry` has passed.
    /// `hash` is [`Tables::hash`] of the tuple, `to` what the packets become.
    ///
    /// A client's entry may first move others as the tables grow: no [`Place`]
    /// or [`Slot`] from before is valid any more. A server's entry
    /// ([`Body::for_replies`]) moves none, so that the client's, which is not
    /// joined with it yet, stays where it was just put.
    ///
    /// # Errors
    /// [`TableFull`].
    #[expect(clippy::too_many_arguments)]
    pub fn insert(
        &mut self,
        protocol: Protocol,
        tuple: &Tuple,
        hash: u64,
        body: Body,
        to: Option<&Tuple>,
        now: Tick,
        expiry: Tick,
    ) -> Result<Place, TableFull> {
        if !body.is_reply() {
            self.make_room();
        }
        let place = match tuple {
            Tuple::V4(tuple) => {
                let key = Key4::new(protocol, *tuple);
                Place::V4(self.v4.insert(hash, now, expiry, || made(Entry4::new(key, body), to))?)
            }
            Tuple::V6(tuple) => {
                let key = Key6::new(protocol, *tuple);
                Place::V6(self.v6.insert(hash, now, expiry, || made(Entry6::new(key, body), to))?)
            }
        };
        self.replies += usize::from(body.is_reply());
        Ok(place)
    }

    /// Adds the server's entry of a connection in both directions of one family,
    /// to the client's that was just put into `client`.
    ///
    /// # Errors
    /// [`TableFull`]; the client's is as it was.
    #[inline(always)]
    pub fn insert_answer<E: Tabled>(
        &mut self,
        client: Slot,
        (key, hash): (&E::Key, u64),
        (body, deltas): (Body, Deltas),
        now: Tick,
        expiry: Tick,
    ) -> Result<Slot, TableFull> {
        let table = E::table_mut(self);
        let to = table.entry(client).key();
        let make = || {
            let mut body = body.for_replies();
            body.set_twin(E::FAMILY, E::place(client));
            E::paired(*key, &to, body, deltas.opposite())
        };
        let slot = table.insert(hash, now, expiry, make)?;
        table.entry_mut(client).body_mut().set_twin(E::FAMILY, E::place(slot));
        self.replies += 1;
        Ok(slot)
    }

    /// Makes two entries one connection.
    pub fn join(&mut self, client: Place, server: Place) {
        self.body_mut(client).set_twin(client.family(), server);
        self.body_mut(server).set_twin(server.family(), client);
    }

    /// The other direction's entry.
    #[must_use]
    pub fn twin(&self, place: Place) -> Option<Place> {
        self.body(place).twin(place.family())
    }

    /// The client's entry of a connection, by either of its entries.
    #[must_use]
    pub fn client(&self, place: Place) -> Place {
        match self.twin(place) {
            Some(twin) if self.body(place).is_reply() => twin,
            _ => place,
        }
    }

    /// Notes when an entry is to be looked at by the sweep.
    pub fn set_expiry(&mut self, place: Place, now: Tick, expiry: Tick) {
        match place {
            Place::V4(slot) => self.v4.set_expiry(slot, now, expiry),
            Place::V6(slot) => self.v6.set_expiry(slot, now, expiry),
        }
    }

    /// Removes a connection, by either of its entries.
    pub fn remove(&mut self, place: Place) {
        if let Some(twin) = self.twin(place) {
            self.remove_entry(twin);
        }
        self.remove_entry(place);
    }

    /// The same by the entry that the sweep found; both are in one table.
    #[inline(always)]
    pub fn remove_swept_pair<E: Tabled>(&mut self, slot: Slot, twin: Slot) {
        let table = E::table_mut(self);
        table.remove_swept(slot);
        table.remove(twin);
        self.replies -= 1;
    }

    fn remove_entry(&mut self, place: Place) {
        self.replies -= usize::from(self.body(place).is_reply());
        match place {
            Place::V4(slot) => self.v4.remove(slot),
            Place::V6(slot) => self.v6.remove(slot),
        }
    }
}

#[inline]
fn made<E: Entry>(entry: E, to: Option<&Tuple>) -> E {
    match to {
        Some(to) => entry.rewritten(to),
        None => entry,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrayvec::ArrayVec;
    use proptest::prelude::*;

    use super::*;
    use crate::conn::State;
    use crate::packet::{Tuple4, Tuple6};

    const NOW: Tick = Tick(80);

    /// Groups of the larger table.
    fn group_count(tables: &Tables) -> usize {
        tables.v4.group_count().max(tables.v6.group_count())
    }

    fn four(n: u32) -> Tuple {
        Tuple::V4(Tuple4 { src: n, dst: 1, src_port: 2, dst_port: 3 })
    }

    fn six(n: u8) -> Tuple {
        Tuple::V6(Tuple6 { src: [n; 16], dst: [1; 16], src_port: 2, dst_port: 3 })
    }

    fn pair(tables: &mut Tables, client: &Tuple, server: &Tuple) -> (Place, Place) {
        let body = Body::new(7, State::SynRecv, NOW);
        let insert = |tables: &mut Tables, tuple, body| {
            let hash = tables.hash(Protocol::Tcp, tuple);
            tables.insert(Protocol::Tcp, tuple, hash, body, None, NOW, NOW.plus(8)).unwrap()
        };
        let one = insert(tables, client, body);
        let other = insert(tables, server, body.for_replies());
        tables.join(one, other);
        (one, other)
    }

    fn connection(number: u32) -> (Tuple, Tuple) {
        let at = |side: u32| {
            let one = number ^ (side << 30);
            match (number + side * (number / 2)) % 2 {
                0 => four(one),
                _ => {
                    let mut src = [side as u8; 16];
                    src[..4].copy_from_slice(&one.to_be_bytes());
                    Tuple::V6(Tuple6 { src, dst: [1; 16], src_port: 2, dst_port: 3 })
                }
            }
        };
        (at(1), at(2))
    }

    /// Every connection is found by both of its tuples, and its entries lead to
    /// each other.
    fn assert_whole(tables: &Tables, number: u32) {
        let (client, server) = connection(number);
        let one = tables.find(Protocol::Tcp, &client).expect("the client's entry");
        let other = tables.find(Protocol::Tcp, &server).expect("the server's entry");
        assert_eq!((tables.twin(one), tables.twin(other)), (Some(other), Some(one)), "{number}");
        assert_eq!(tables.body(one).server, number);
        assert_eq!((tables.client(one), tables.client(other)), (one, one));
    }

    /// Lets the sweep end what is over, as the worker does.
    fn sweep(tables: &mut Tables, now: Tick, there: &mut BTreeSet<u32>) {
        for _ in 0..group_count(tables) {
            let (mut v4, mut v6) = (ArrayVec::<_, 15>::new(), ArrayVec::<_, 15>::new());
            tables.v4.sweep(now, 1, &mut v4);
            for slot in v4 {
                if tables.v4.is_used(slot) {
                    assert!(there.remove(&tables.body(Place::V4(slot)).server));
                    tables.remove(Place::V4(slot));
                }
            }
            tables.v6.sweep(now, 1, &mut v6);
            for slot in v6 {
                if tables.v6.is_used(slot) {
                    assert!(there.remove(&tables.body(Place::V6(slot)).server));
                    tables.remove(Place::V6(slot));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        /// Connections come, go and expire while the tables of both families
        /// grow, by insertions and in between: all that are there are whole,
        /// and there are no others.
        #[test]
        fn connections_stay_whole_while_tables_grow(
            steps in prop::collection::vec((0u8..8, 1u32..120), 10..50),
        ) {
            let limit = 1_500;
            let mut tables = Tables::new(limit, HashKey::new([1, 2, 3])).unwrap();
            let mut there = BTreeSet::new();
            let mut next = 0;
            let groups = group_count(&tables);
            for (step, count) in steps {
                match step {
                    0 => {
                        for number in 0..count {
                            let number = number * 7 % next.max(1);
                            let (client, server) = connection(number);
                            let tuple = if number % 3 == 0 { server } else { client };
                            let found = tables.find(Protocol::Tcp, &tuple);
                            prop_assert_eq!(found.is_some(), there.remove(&number));
                            if let Some(place) = found {
                                tables.remove(place);
                            }
                        }
                    }
                    1 => tables.grow(),
                    2 if count < 10 => sweep(&mut tables, NOW.plus(80 * count), &mut there),
                    _ => {
                        for _ in 0..count {
                            let body = Body::new(next, State::SynRecv, NOW);
                            let (client, server) = connection(next);
                            let expiry = NOW.plus(80 * (next % 8 + 1));
                            let mut insert = |tuple: &Tuple, body| {
                                let hash = tables.hash(Protocol::Tcp, tuple);
                                tables.insert(Protocol::Tcp, tuple, hash, body, None, NOW, expiry)
                            };
                            let Ok(one) = insert(&client, body) else {
                                prop_assert!(tables.v4.len() == limit || tables.v6.len() == limit);
                                break;
                            };
                            let Ok(other) = insert(&server, body.for_replies()) else {
                                prop_assert!(tables.v4.len() == limit || tables.v6.len() == limit);
                                tables.remove(one);
                                break;
                            };
                            tables.join(one, other);
                            there.insert(next);
                            next += 1;
                            assert_whole(&tables, next - 1);
                        }
                    }
                }
                prop_assert_eq!(tables.connections(), there.len());
            }
            there.iter().for_each(|&number| assert_whole(&tables, number));
            prop_assert!(next < 1_200 || group_count(&tables) > groups, "they grew");
        }
    }

    #[test]
    fn either_entry_of_a_connection_leads_to_the_other_and_removes_both() {
        for (client, server) in
            [(four(5), four(6)), (six(5), six(6)), (four(5), six(6)), (six(5), four(6))]
        {
            for by_server in [false, true] {
                let mut tables = Tables::new(100, HashKey::new([1, 2, 3])).unwrap();
                let (one, other) = pair(&mut tables, &client, &server);
                assert_eq!((tables.twin(one), tables.twin(other)), (Some(other), Some(one)));
                assert_eq!((tables.tuple(one), tables.tuple(other)), (client, server));
                assert_eq!(tables.connections(), 1);
                assert_eq!(tables.find(Protocol::Tcp, &server), Some(other));
                tables.remove(if by_server { other } else { one });
                assert_eq!(tables.connections(), 0);
                assert_eq!(tables.v4.len() + tables.v6.len(), 0);
                assert_eq!(tables.find(Protocol::Tcp, &client), None);
            }
        }
    }
}
