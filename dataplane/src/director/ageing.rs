//! The end of connections: those whose time has come, those that a packet
//! shows to be over, those that make room.

use arrayvec::ArrayVec;

use super::{Context, Core, Director};
use crate::conn::entry::Body;
use crate::conn::memory::prefetch_l1;
use crate::conn::persistence::{Change, TemplateSlot};
use crate::conn::{Entry4, Entry6, Place, Slot, State, Tabled, Tables};
use crate::counters::DropReason;
use crate::time::Tick;

/// Connections that the sweep asks memory for before it looks at them: as many
/// as open in a burst, and some that turn out not to be over.
const DUE_AT_ONCE: usize = 128;

impl Director {
    /// Looks at the next groups of the tables, fragments and templates.
    pub(super) fn age(&mut self, now: Tick) {
        let Self { snapshot, tables, fragments, core, sweep, .. } = self;
        let cx = Context { now, snapshot };
        tables.grow();
        let mut v4 = sweep.v4.groups(now, tables.v4.group_count());
        let mut v6 = sweep.v6.groups(now, tables.v6.group_count());
        // Many directors have one family.
        if tables.v4.is_empty() {
            v4 = 0;
        }
        if tables.v6.is_empty() {
            v6 = 0;
        }
        // All workers sweep all templates.
        let buckets = sweep.templates.groups(now, core.templates.bucket_count());
        if v4 | v6 | buckets == 0 {
            return;
        }
        core.sweep::<Entry4>(cx, tables, v4);
        core.sweep::<Entry6>(cx, tables, v6);
        let lost = fragments.expire(now);
        for (reason, count) in [
            (DropReason::FragmentTimeout, lost.timed_out),
            (DropReason::FragmentTableFull, lost.displaced),
        ] {
            // They were taken in, and leave now.
            core.counters.generated += count;
            core.counters.drop_many(reason, count);
        }
        core.templates.sweep(now, buckets, |server, change| {
            count_template(cx, server, change);
        });
    }
}

impl Core {
    /// Looks at connections in the next groups of a table whose deadline has
    /// passed, some at a time, so that they are on their way from memory while
    /// others are found.
    fn sweep<E: Tabled>(&mut self, cx: Context<'_>, tables: &mut Tables, groups: usize) {
        let mut left = E::table(tables).sweep_step(groups);
        while left > 0 {
            let mut due = ArrayVec::<Slot, DUE_AT_ONCE>::new();
            left = E::table_mut(tables).sweep(cx.now, left, &mut due);
            self.judge_all::<E>(cx, tables, &due);
        }
    }

    #[inline(never)]
    fn judge_all<E: Tabled>(&mut self, cx: Context<'_>, tables: &mut Tables, due: &[Slot]) {
        for &slot in due {
            let body = E::table(tables).entry(slot).body();
            if let Some(twin) = body.twin(E::FAMILY) {
                tables.prefetch(twin);
            }
            if let Some(record) = cx.snapshot.servers.record(body.server) {
                prefetch_l1(record.connections());
            }
        }
        for &slot in due {
            // The one before may have been the other entry of its connection.
            if E::table(tables).is_used(slot) {
                match E::table(tables).entry(slot).body().twin(E::FAMILY) {
                    None => self.judge_alone::<E>(cx, tables, slot),
                    Some(twin) if twin.family() == E::FAMILY => {
                        self.judge_pair::<E>(cx, tables, slot, twin.slot());
                    }
                    Some(_) => self.judge(cx, tables, E::place(slot)),
                }
            }
        }
    }

    /// [`Core::judge`] of a connection with one entry.
    #[inline(always)]
    fn judge_alone<E: Tabled>(&mut self, cx: Context<'_>, tables: &mut Tables, slot: Slot) {
        let body = E::table(tables).entry(slot).body();
        let expiry = cx.snapshot.timeouts.expiry(body.state(), body.last());
        if expiry > cx.now && !self.has_lost_server(cx, body) {
            E::table_mut(tables).set_expiry(slot, cx.now, expiry);
            return;
        }
        self.uncount(cx, body);
        E::table_mut(tables).remove_swept(slot);
        self.counters.expired += 1;
    }

    /// [`Core::judge`] of a connection with two entries in one table.
    #[inline(never)]
    fn judge_pair<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        slot: Slot,
        twin: Slot,
    ) {
        let [own, other] = [slot, twin].map(|slot| E::table(tables).entry(slot).body());
        let expiry = cx.snapshot.timeouts.expiry(own.state(), own.last().max(other.last()));
        if expiry > cx.now && !self.has_lost_server(cx, own) {
            E::table_mut(tables).set_expiry(slot, cx.now, expiry);
            return;
        }
        self.uncount(cx, if own.is_reply() { other } else { own });
        tables.remove_swept_pair::<E>(slot, twin);
        self.counters.expired += 1;
    }

    /// Removes a connection whose time has come, or notes when it will.
    fn judge(&mut self, cx: Context<'_>, tables: &mut Tables, place: Place) {
        let body = *tables.body(place);
        let last = match tables.twin(place) {
            Some(twin) => body.last().max(tables.body(twin).last()),
            None => body.last(),
        };
        let expiry = cx.snapshot.timeouts.expiry(body.state(), last);
        if expiry <= cx.now || self.has_lost_server(cx, &body) {
            self.close(cx, tables, place);
            self.counters.expired += 1;
        } else {
            tables.set_expiry(place, cx.now, expiry);
        }
    }

    /// Whether the connection's server is deleted, and that ends it.
    fn has_lost_server(&self, cx: Context<'_>, body: &Body) -> bool {
        cx.snapshot.settings.expire_nodest_conn
            && cx.snapshot.server(body.server).is_none_or(|server| server.deleted)
    }

    /// Whether a packet ends the connection that it belongs to, so that it is
    /// treated as one without. `opens` says that it is a SYN or INIT.
    #[cold]
    pub(super) fn is_outlived(&self, cx: Context<'_>, body: &Body, opens: bool) -> bool {
        let settings = &cx.snapshot.settings;
        if body.is_reply() {
            return false;
        }
        if self.has_lost_server(cx, body) {
            return true;
        }
        if !opens || settings.conn_reuse_mode == 0 {
            return false;
        }
        // A drained server keeps its connections, but with expire_nodest_conn
        // not its clients' new ones.
        let drained = || cx.snapshot.server(body.server).is_some_and(|server| server.weight == 0);
        body.state().is_reusable() || (settings.expire_nodest_conn && drained())
    }

    /// Ends a connection, by either of its entries.
    pub(super) fn close(&mut self, cx: Context<'_>, tables: &mut Tables, place: Place) {
        let client = tables.client(place);
        self.uncount(cx, tables.body(client));
        tables.remove(client);
    }

    /// Takes a connection that ends, by its client's entry, off its server's
    /// and its template's count.
    #[inline(always)]
    fn uncount(&self, cx: Context<'_>, body: &Body) {
        if let Some(record) = cx.snapshot.servers.record(body.server) {
            record.connections().close(body.state().is_active());
        }
        if let Some(slot) = TemplateSlot::from_number(body.template()) {
            self.templates.close(slot);
        }
    }

    /// Makes room in a full table for an entry with this hash: the oldest
    /// half-open connection nearby goes, but not the one at `keep`. Whether
    /// there was one.
    #[cold]
    pub(super) fn recycle<E: Tabled>(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        hash: u64,
        keep: Option<Place>,
    ) -> bool {
        let rank = |slot, entry: &E| {
            let body = entry.body();
            let may_go = body.is_half_open() && keep != Some(E::place(slot));
            may_go.then(|| body.last().0)
        };
        let latest = cx.snapshot.timeouts.last_half_open(cx.now);
        let victim = E::table(tables).victim(hash, (cx.now, latest), rank);
        let Some(slot) = victim else { return false };
        self.close(cx, tables, E::place(slot));
        self.counters.recycled += 1;
        true
    }

    /// A connection through a template is established: the template is worth
    /// keeping.
    pub(super) fn assure(&self, tables: &Tables, place: Place, new: State) {
        if new.is_established() {
            let template = tables.body(tables.client(place)).template();
            if let Some(slot) = TemplateSlot::from_number(template) {
                self.templates.assure(slot);
            }
        }
    }

    /// The same for UDP, which has no state that would say so: its template is
    /// assured by the server's first packet, as in the kernel. (So it never is
    /// under direct routing and tunnels, where that is not seen.)
    #[cold]
    pub(super) fn assure_by_reply(&self, body: &mut Body) {
        if let Some(slot) = TemplateSlot::from_number(body.template()) {
            self.templates.assure(slot);
            body.set_template(0);
        }
    }
}

/// Counts the templates of a server.
pub(super) fn count_template(cx: Context<'_>, server: u32, change: Change) {
    if let Some(server) = cx.snapshot.server(server) {
        match change {
            Change::Added => server.counts.connections.add_template(),
            Change::Removed => server.counts.connections.remove_template(),
        }
    }
}
