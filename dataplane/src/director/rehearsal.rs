//! What would happen to a packet now: a director made for this one packet
//! forwards it, with copies of all that counts or takes turns, and with what the
//! owner has in its tables about it. So the decisions are those of
//! [`Director::process`], and nothing that forwarding uses is changed.
//!
//! The worker only answers an [`Inquiry`]. All else is done by whoever asks, who
//! may take their time.

use std::sync::Arc;
use std::time::Instant;

use super::{Director, DirectorConfig, Handed, Source, Verdict};
use crate::conn::entry::Body;
use crate::conn::persistence::{TemplateKey, Templates};
use crate::conn::{HashKey, State, Tables};
use crate::icmp::IcmpLimits;
use crate::observe::{self, Filter, MAX_SNAPLEN, Record, Watch, Wish};
use crate::packet::{Family, Frame, Headers, Protocol, Tuple, Tuple4, Tuple6};
use crate::punt::{PuntLimiter, PuntLimits};
use crate::scheduler::Candidate;
use crate::service::{Server, ServerCounts};
use crate::shard::Shard;
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::update;

/// Entries that the director of a rehearsal has room for.
const ROOM: usize = 256;
/// Room for the headers of a tunnel.
const HEADROOM: usize = 128;

/// What a worker is asked about connections.
#[derive(Debug)]
pub struct Inquiry {
    /// Control's name for it.
    pub ticket: u64,
    /// Addresses and ports of packets.
    pub flows: Vec<(Protocol, Tuple)>,
    /// The connections that such packets find. Control makes room for as many.
    pub found: Vec<Known>,
    /// The rest that a decision depends on.
    pub standing: Option<Standing>,
}

impl Inquiry {
    /// One about these packets.
    #[must_use]
    pub fn new(ticket: u64, flows: Vec<(Protocol, Tuple)>) -> Self {
        let found = Vec::with_capacity(flows.len());
        Self { ticket, flows, found, standing: None }
    }
}

/// A connection as it is in a worker's tables.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    protocol: Protocol,
    client: Tuple,
    body: Body,
    reply: Option<(Tuple, Body)>,
}

impl Known {
    /// Addresses and ports of its client's packets.
    #[must_use]
    pub const fn client(&self) -> &Tuple {
        &self.client
    }

    /// The server's number.
    #[must_use]
    pub const fn server(&self) -> u32 {
        self.body.server
    }

    /// Its state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.body.state()
    }

    /// The tick of the last packet in either direction.
    #[must_use]
    pub fn last(&self) -> Tick {
        self.reply.map_or(self.body.last(), |(_, reply)| reply.last().max(self.body.last()))
    }

    /// Whether it was opened by a persistence template.
    #[must_use]
    pub const fn is_persistent(&self) -> bool {
        self.body.template() != 0
    }
}

/// What else of a worker a decision depends on.
#[derive(Debug, Clone)]
pub struct Standing {
    punt: PuntLimiter,
    next_local: u32,
    stateless_until: Tick,
    /// Whether the IPv4 and the IPv6 table hold what they may.
    full: [bool; 2],
}

impl Standing {
    /// Whether the table of a family has no room.
    #[must_use]
    pub const fn is_full(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.full[0],
            Family::V6 => self.full[1],
        }
    }
}

impl Director {
    /// Answers an inquiry.
    pub(super) fn tell(&self, inquiry: &mut Inquiry) {
        for (protocol, tuple) in &inquiry.flows {
            let Some(place) = self.tables.find(*protocol, tuple) else { continue };
            let client = self.tables.client(place);
            let reply = self.tables.twin(client);
            let known = Known {
                protocol: *protocol,
                client: self.tables.tuple(client),
                body: *self.tables.body(client),
                reply: reply.map(|reply| (self.tables.tuple(reply), *self.tables.body(reply))),
            };
            if inquiry.found.len() < inquiry.found.capacity() {
                inquiry.found.push(known);
            }
        }
        inquiry.standing = Some(Standing {
            punt: self.core.punt.clone(),
            next_local: self.core.next_local,
            stateless_until: self.core.stateless_until,
            full: [self.tables.v4.is_at_limit(), self.tables.v6.is_at_limit()],
        });
    }
}

/// A packet and where it would be.
#[derive(Debug, Clone, Copy)]
pub struct Rehearsal<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// Ownership among all workers.
    pub shard: &'a Shard,
    /// All templates.
    pub templates: &'a Templates,
    /// The present.
    pub now: Tick,
    /// The worker that has the packet.
    pub worker: usize,
    /// Whence.
    pub source: Source,
    /// What was said when it was handed over.
    pub handed: Handed,
    /// The port that it came in by.
    pub port: u8,
    /// The packet.
    pub frame: &'a [u8],
}

/// What would become of it.
#[derive(Debug)]
pub struct Rehearsed {
    /// The same as of a packet that was observed.
    pub record: Record,
    /// The bytes that belong to it.
    pub bytes: Vec<u8>,
    /// What its server's packets look like, of a connection that it opens: a
    /// connection that has these already would be in the way, so the worker is
    /// to be asked about it, too.
    pub reply: Option<(Protocol, Tuple)>,
}

impl Rehearsal<'_> {
    /// Forwards the packet. `inquiry` is what the worker said about it. `None`
    /// when there is not enough memory.
    #[must_use]
    pub fn run(&self, inquiry: &Inquiry) -> Option<Rehearsed> {
        let (_control, link) = update::channel();
        let hash_key = HashKey::random();
        let config = DirectorConfig {
            worker: self.worker,
            shard: Arc::new(self.shard.without_hints()),
            connections: ROOM,
            hash_key,
            punt_limits: PuntLimits::default(),
            icmp_limits: IcmpLimits::default(),
            templates: Arc::new(Templates::new(ROOM, hash_key).ok()?),
            random: 0,
        };
        let mut director = Director::new(config, link).ok()?;
        let flow = inquiry.flows.first().copied();
        director.snapshot = Arc::new(self.copied(flow, inquiry));
        self.put_template(&director, flow);
        if let Some(standing) = &inquiry.standing {
            director.core.punt = standing.punt.clone();
            director.core.next_local = standing.next_local;
            director.core.stateless_until = standing.stateless_until;
            for known in &inquiry.found {
                self.put(&mut director.tables, known);
            }
            self.fill(&mut director.tables, standing);
        }
        let watch = Watch::new(1, Tick(u32::MAX));
        let wish = Wish { filter: Filter::default(), snaplen: MAX_SNAPLEN, rate: 1 };
        let (observer, mut observed) = observe::observer(&watch, &wish);
        // There is room: it is the first.
        let _ = director.observers.add(Box::new(observer));
        let mut buffer = vec![0; HEADROOM + self.frame.len() + HEADROOM];
        buffer[HEADROOM..][..self.frame.len()].copy_from_slice(self.frame);
        let (len, port) = (self.frame.len(), self.port);
        let mut frames = [Frame::new(&mut buffer, HEADROOM, len, len, port)];
        frames[0].handed = self.handed;
        let mut verdicts = [Verdict::Punt];
        director.process(self.now, self.source, &mut frames, &mut verdicts);
        let (record, bytes) = observed.next(Instant::now())?;
        let reply = record.after.filter(|_| record.opened).and_then(|sight| {
            let protocol = record.protocol?;
            let client = director.tables.find(protocol, &sight.client)?;
            Some((protocol, director.tables.tuple(director.tables.twin(client)?)))
        });
        Some(Rehearsed { record, bytes, reply })
    }

    /// The snapshot, with counters and turns of its own where the packet comes
    /// by.
    fn copied(&self, flow: Option<(Protocol, Tuple)>, inquiry: &Inquiry) -> Snapshot {
        let mut snapshot = self.snapshot.clone();
        let own = |number: u32| {
            let server = self.snapshot.server(number)?;
            let counts: Arc<ServerCounts> = Arc::new(server.counts.copied());
            let server = Server { counts: Arc::clone(&counts), ..(**server).clone() };
            Some((counts, server))
        };
        for known in &inquiry.found {
            if let Some((_, server)) = own(known.server()) {
                snapshot.servers.set(known.server(), Some(Arc::new(server)));
            }
        }
        let Some(service) = flow.and_then(|(protocol, tuple)| {
            let headers = Headers::NONE.treated_as(protocol, &tuple);
            self.snapshot.services.find(&headers, self.port)
        }) else {
            return snapshot;
        };
        let mut list = Vec::new();
        for candidate in service.candidates.iter() {
            let Some((counts, server)) = own(candidate.server) else { continue };
            snapshot.servers.set(candidate.server, Some(Arc::new(server)));
            list.push(Candidate { counts, ..candidate.clone() });
        }
        let mut service = service.clone();
        service.candidates = service.candidates.followed_by(service.scheduler, list);
        service.state = Arc::new(service.state.copied());
        snapshot.services.put(Arc::new(service));
        snapshot
    }

    /// Puts the client's template into the director's own table.
    fn put_template(&self, director: &Director, flow: Option<(Protocol, Tuple)>) {
        let Some((protocol, tuple)) = flow else { return };
        let headers = Headers::NONE.treated_as(protocol, &tuple);
        let Some(service) = self.snapshot.services.find(&headers, self.port) else { return };
        let Some(persistence) = service.persistence else { return };
        let key = TemplateKey::of(service.number, &tuple.addresses(), persistence.prefix);
        let Some(template) = self.templates.peek(self.now, &key) else { return };
        let (timeout, server) = (persistence.timeout, template.server);
        let templates = &director.core.templates;
        let ignored = |_, _| {};
        let _ = templates.open(self.now, &key, timeout, |_| true, || Some(server), ignored);
    }

    /// Puts a connection into the director's tables.
    fn put(&self, tables: &mut Tables, known: &Known) {
        let Known { protocol, client, body, reply } = known;
        if tables.find(*protocol, client).is_some() {
            return;
        }
        let expiry = |state| self.snapshot.timeouts.expiry(state, self.now);
        let plain = |mut body: Body| {
            // Templates are others here.
            body.set_template(0);
            body
        };
        let to = reply.map(|(reply, _)| reply.reversed());
        let hash = tables.hash(*protocol, client);
        let (now, until) = (self.now, expiry(body.state()));
        let entry = tables.insert(*protocol, client, hash, plain(*body), to.as_ref(), now, until);
        let (Ok(entry), Some((reply, body))) = (entry, reply) else { return };
        let (hash, back) = (tables.hash(*protocol, reply), client.reversed());
        let twin = tables.insert(*protocol, reply, hash, plain(*body), Some(&back), now, until);
        if let Ok(twin) = twin {
            tables.join(entry, twin);
        }
    }

    /// Fills the tables that are full at the worker, with connections that are
    /// nobody's.
    fn fill(&self, tables: &mut Tables, standing: &Standing) {
        let until = self.snapshot.timeouts.expiry(State::Established, self.now);
        for family in [Family::V4, Family::V6] {
            let mut number = 0u32;
            while standing.is_full(family) {
                number += 1;
                let (src_port, dst_port) = (0, 0);
                let tuple = match family {
                    Family::V4 => Tuple::V4(Tuple4 { src: number, dst: 0, src_port, dst_port }),
                    Family::V6 => {
                        let mut src = [0; 16];
                        src[..4].copy_from_slice(&number.to_be_bytes());
                        Tuple::V6(Tuple6 { src, dst: [0; 16], src_port, dst_port })
                    }
                };
                let hash = tables.hash(Protocol::Tcp, &tuple);
                let body = Body::new(u32::MAX, State::Established, self.now);
                let inserted =
                    tables.insert(Protocol::Tcp, &tuple, hash, body, None, self.now, until);
                if inserted.is_err() {
                    break;
                }
            }
        }
    }
}
