//! The way of a burst while somebody observes packets: those that may match go
//! through [`Director::process`]'s stages one at a time, the very same stages,
//! and what they did is found out by looking before and after: at the bytes,
//! the tables, the counters and the outbox.

use std::time::Instant;

use super::{Director, Source, Verdict};
use crate::conn::persistence::TemplateKey;
use crate::conn::{Place, Tables};
use crate::counters::DropReason;
use crate::icmp::Quoted;
use crate::observe::{
    Chosen, Filter, Length, MADE, MAX_OBSERVERS, Made, Observer, Record, Seen, Sight, Target,
};
use crate::packet::headers::{Addresses, Parsed, parse, vlan_id};
use crate::packet::{Frame, Headers, Protocol, Tuple, Tuple4, Tuple6};
use crate::punt::PuntKind;
use crate::service::{Service, endpoints};
use crate::snapshot::Snapshot;
use crate::time::Tick;
use crate::update::Reply;

/// Servers of a service among which the one is found that took a packet which
/// left no connection.
const COUNTED: usize = 1024;

/// Those who observe a worker's packets, and memory to work with.
#[derive(Debug)]
pub(super) struct Observers {
    #[expect(clippy::vec_box, reason = "they come and go in boxes: no allocation here")]
    all: Vec<Box<Observer>>,
    /// Packets to each server of a service so far.
    counts: Vec<u64>,
}

impl Default for Observers {
    fn default() -> Self {
        Self { all: Vec::with_capacity(MAX_OBSERVERS), counts: Vec::with_capacity(COUNTED) }
    }
}

impl Observers {
    /// Whether there is none.
    #[inline(always)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// One more; or given back, where there are too many.
    pub(super) fn add(&mut self, observer: Box<Observer>) -> Option<Box<Observer>> {
        if self.all.len() == MAX_OBSERVERS {
            return Some(observer);
        }
        self.all.push(observer);
        None
    }
}

/// What is known of a packet before it is forwarded.
struct Look {
    port: u8,
    vlan: Option<u16>,
    seen: Seen,
    protocol: Option<Protocol>,
    tuple: Option<Tuple>,
    flags: u8,
}

/// The same of where it goes.
struct Before {
    sight: Option<Sight>,
    /// Connections that this worker gave the connection's server so far.
    scheduled: u64,
    connections: usize,
    target: Option<Target>,
    made: usize,
    pending: usize,
}

impl Director {
    /// Gives back the observers whose observation has ended.
    #[cold]
    pub(super) fn end_observations(&mut self, now: Tick) {
        let all = &mut self.observers.all;
        while let Some(index) = all.iter().position(|observer| observer.watch.has_ended(now)) {
            self.core.link.reply(Reply::Observed(all.swap_remove(index)));
        }
    }

    /// [`Director::process`] with observers.
    #[cold]
    #[inline(never)]
    pub(super) fn process_observed(
        &mut self,
        now: Tick,
        source: Source,
        frames: &mut [Frame<'_>],
        verdicts: &mut [Verdict],
    ) {
        // No allocation: empty ones have none.
        let empty = Observers { all: Vec::new(), counts: Vec::new() };
        let mut observers = std::mem::replace(&mut self.observers, empty);
        let mut from = 0;
        for index in 0..frames.len() {
            let look = look(&self.snapshot, &frames[index]);
            let mut wanted = [false; MAX_OBSERVERS];
            for (observer, wanted) in observers.all.iter_mut().zip(&mut wanted) {
                *wanted = may_match(&self.snapshot, &observer.filter, &look)
                    && !observer.watch.has_ended(now)
                    && observer.looks_at(now);
                if *wanted {
                    observer.keep(frames[index].bytes());
                }
            }
            if wanted == [false; MAX_OBSERVERS] {
                continue;
            }
            self.process_all(now, source, &mut frames[from..index], &mut verdicts[from..index]);
            let (frame, verdict) = (&mut frames[index], &mut verdicts[index]);
            self.process_one(now, source, frame, verdict, &look, &mut observers, wanted);
            from = index + 1;
        }
        self.process_all(now, source, &mut frames[from..], &mut verdicts[from..]);
        self.observers = observers;
    }

    /// Forwards one packet, and tells those who want to know.
    #[expect(clippy::too_many_arguments)]
    fn process_one(
        &mut self,
        now: Tick,
        source: Source,
        frame: &mut Frame<'_>,
        verdict: &mut Verdict,
        look: &Look,
        observers: &mut Observers,
        wanted: [bool; MAX_OBSERVERS],
    ) {
        let at = Instant::now();
        let (device, handed) = (frame.port, frame.handed);
        let came = Length { whole: frame.total_len() as u32, kept: 0 };
        let before = self.before(now, look, &mut observers.counts);
        self.headers[0] = Headers::NONE;
        let one = (std::slice::from_mut(frame), std::slice::from_mut(verdict));
        self.process_all(now, source, one.0, one.1);
        // Fragments learn their ports on the way.
        let headers = self.headers[0];
        let (mut protocol, mut tuple) = (look.protocol, look.tuple);
        if look.seen == Seen::Fragment && headers != Headers::NONE {
            (protocol, tuple) = (Some(headers.protocol), Some(headers.tuple()));
        }
        let after = protocol.zip(tuple).and_then(|(p, t)| sight(&self.tables, p, &t));
        let made = self.core.outbox.frames().skip(before.made);
        let mut record = Record {
            at,
            worker: self.core.worker as u8,
            source,
            device,
            port: look.port,
            vlan: look.vlan,
            handed,
            seen: look.seen,
            protocol,
            tuple,
            flags: look.flags,
            target: before.target,
            before: before.sight,
            after,
            opened: self.has_opened(look.seen, &before, after),
            server: None,
            verdict: *verdict,
            waits: self.core.pending.len() > before.pending,
            came,
            left: Length { whole: frame.total_len() as u32, kept: 0 },
            made: [None; MADE],
            made_count: made.clone().count() as u16,
        };
        for (place, (to, bytes)) in record.made.iter_mut().zip(made.clone()) {
            *place = Some(Made { to, len: Length { whole: bytes.len() as u32, kept: 0 } });
        }
        let number = after.or(before.sight).map(|sight| sight.server);
        let number = number.or_else(|| self.took(record.target.as_ref(), &observers.counts));
        record.server = number.and_then(|number| chosen(&self.snapshot, number));
        for (observer, _) in observers.all.iter_mut().zip(wanted).filter(|(_, wanted)| *wanted) {
            if observer.filter.matches(&record) {
                observer.note(now, record, frame.bytes(), made.clone().map(|(_, bytes)| bytes));
            }
        }
    }

    fn before(&self, now: Tick, look: &Look, counts: &mut Vec<u64>) -> Before {
        let flow = look.protocol.zip(look.tuple);
        let sight = flow.and_then(|(protocol, tuple)| sight(&self.tables, protocol, &tuple));
        let server = sight.and_then(|sight| self.snapshot.server(sight.server));
        let service = match (sight, flow, look.seen) {
            (None, Some(flow), Seen::Flow | Seen::Fragment | Seen::IcmpError) => {
                service(&self.snapshot, flow, look.port)
            }
            _ => None,
        };
        counts.clear();
        if let Some(service) = service {
            let some = service.candidates.iter().take(COUNTED);
            counts.extend(some.map(|c| c.counts.packets_by(self.core.worker)));
        }
        Before {
            sight,
            scheduled: server.map_or(0, |server| server.counts.scheduled_by(self.core.worker)),
            connections: self.tables.connections(),
            target: service.map(|service| self.target(now, service, look)),
            made: self.core.outbox.len(),
            pending: self.core.pending.len(),
        }
    }

    fn target(&self, now: Tick, service: &Service, look: &Look) -> Target {
        let template = service.persistence.zip(look.tuple).and_then(|(persistence, tuple)| {
            let addresses = tuple.addresses();
            let key = TemplateKey::of(service.number, &addresses, persistence.prefix);
            self.core.templates.peek(now, &key).map(|template| template.server)
        });
        Target {
            key: service.key,
            scheduler: service.scheduler,
            one_packet: service.one_packet,
            is_persistent: service.persistence.is_some(),
            template,
        }
    }

    /// Whether a packet opened the connection that it now has.
    fn has_opened(&self, seen: Seen, before: &Before, after: Option<Sight>) -> bool {
        let Some(after) = after else { return false };
        match before.sight {
            // Of a fragment it is not known before.
            None if seen == Seen::Fragment => self.tables.connections() > before.connections,
            None => true,
            Some(old) if old.server != after.server => true,
            // The old one was over, and the new one has the same server.
            Some(_) => self.snapshot.server(after.server).is_some_and(|server| {
                server.counts.scheduled_by(self.core.worker) != before.scheduled
            }),
        }
    }

    /// The server that took a packet which left no connection.
    fn took(&self, target: Option<&Target>, counts: &[u64]) -> Option<u32> {
        let service = self.snapshot.services.get(&target?.key)?;
        let mut both = service.candidates.iter().zip(counts);
        let took = both.find(|(c, before)| c.counts.packets_by(self.core.worker) != **before);
        took.map(|(candidate, _)| candidate.server)
    }
}

/// Reads a frame without deciding anything.
fn look(snapshot: &Snapshot, frame: &Frame<'_>) -> Look {
    let bytes = frame.bytes();
    let vlan = vlan_id(bytes);
    let port = vlan.map_or(Some(frame.port), |id| snapshot.vlan_port(frame.port, id));
    let known = port.and_then(|port| snapshot.ports.get(usize::from(port)));
    let mut headers = Headers::NONE;
    let parsed = known.map(|port| parse(frame, port.mac, &mut headers));
    let mut look = Look {
        port: port.unwrap_or(frame.port),
        vlan: vlan.filter(|&id| id != 0),
        seen: Seen::Kernel(PuntKind::Other),
        protocol: None,
        tuple: None,
        flags: 0,
    };
    match parsed {
        Some(Ok(Parsed::Flow)) => {
            look.seen = if headers.fragment { Seen::Fragment } else { Seen::Flow };
            look.protocol = Some(headers.protocol);
            look.flags = headers.tcp_flags;
            let (source, destination) = match (headers.fragment, frame.handed.ports) {
                (true, Some(ports)) => ports,
                _ => (headers.src_port, headers.dst_port),
            };
            look.tuple = Some(Tuple::of(&headers.addresses, source, destination));
            return look;
        }
        Some(Ok(Parsed::IcmpError)) => {
            look.seen = Seen::IcmpError;
            let quoted = Quoted::read(frame, &headers).ok();
            if let Some(key) = quoted.and_then(|quoted| quoted.sender_key()) {
                look.protocol = Some(key.protocol);
                look.tuple = Some(Tuple::of(&key.addresses, key.src_port, key.dst_port));
                return look;
            }
        }
        Some(Ok(Parsed::Kernel(kind))) => look.seen = Seen::Kernel(kind),
        Some(Err(reason)) => look.seen = Seen::Malformed(reason),
        None if vlan.is_some() => {
            look.seen = Seen::Malformed(DropReason::VlanUnknown);
        }
        None => {}
    }
    (look.protocol, look.tuple) = guess(bytes);
    look
}

/// What stands where addresses and ports should be, in a frame that is not one
/// of a service's packets, or not a good one.
fn guess(bytes: &[u8]) -> (Option<Protocol>, Option<Tuple>) {
    const VLAN: u16 = 0x8100;
    let be16 = |at: usize| {
        let two = bytes.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*two))
    };
    let (ethertype, l3) = match be16(12) {
        Some(VLAN) => (be16(16), 18),
        other => (other, 14),
    };
    let ip = bytes.get(l3..).unwrap_or_default();
    let (protocol, l4, addresses) =
        match (ethertype, ip.first_chunk::<40>(), ip.first_chunk::<20>()) {
            (Some(0x0800), _, Some(fixed)) => {
                let word = |at: usize| {
                    u32::from_be_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]])
                };
                let l4 = l3 + usize::from(fixed[0] & 15).max(5) * 4;
                (fixed[9], l4, Addresses::V4 { src: word(12), dst: word(16) })
            }
            (Some(0x86dd), Some(fixed), _) => {
                let (mut src, mut dst) = ([0; 16], [0; 16]);
                src.copy_from_slice(&fixed[8..24]);
                dst.copy_from_slice(&fixed[24..]);
                (fixed[6], l3 + 40, Addresses::V6 { src, dst })
            }
            _ => return (None, None),
        };
    let protocol = Protocol::from_number(protocol);
    let ports = protocol.and_then(|_| Some((be16(l4)?, be16(l4 + 2)?)));
    let (src_port, dst_port) = ports.unwrap_or((0, 0));
    (
        protocol,
        Some(match addresses {
            Addresses::V4 { src, dst } => Tuple::V4(Tuple4 { src, dst, src_port, dst_port }),
            Addresses::V6 { src, dst } => Tuple::V6(Tuple6 { src, dst, src_port, dst_port }),
        }),
    )
}

fn may_match(snapshot: &Snapshot, filter: &Filter, look: &Look) -> bool {
    let tuple = look.tuple.as_ref();
    let kinds = tuple.map_or((false, false, false), |tuple| {
        let (source, destination) = endpoints(&tuple.addresses());
        (
            snapshot.locals.contains(&destination),
            snapshot.nat_sources.has_address(source),
            snapshot.services.may_have(destination),
        )
    });
    filter.may_match(look.protocol, tuple, kinds)
}

fn service(snapshot: &Snapshot, flow: (Protocol, Tuple), port: u8) -> Option<&Service> {
    let (protocol, tuple) = flow;
    let headers = Headers::NONE.treated_as(protocol, &tuple);
    snapshot.services.find(&headers, port)
}

fn sight(tables: &Tables, protocol: Protocol, tuple: &Tuple) -> Option<Sight> {
    let place: Place = tables.find(protocol, tuple)?;
    let client = tables.client(place);
    let body = tables.body(place);
    Some(Sight {
        client: tables.tuple(client),
        is_reply: body.is_reply(),
        server: body.server,
        state: body.state(),
        is_persistent: tables.body(client).template() != 0,
        is_pair: body.has_twin(),
    })
}

fn chosen(snapshot: &Snapshot, number: u32) -> Option<Chosen> {
    let server = snapshot.server(number)?;
    Some(Chosen {
        number,
        address: server.address,
        method: server.method,
        hop: server.hop,
        weight: server.weight,
        deleted: server.deleted,
    })
}
