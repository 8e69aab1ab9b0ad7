//! What would happen to a packet now. The owner is asked what it has about the
//! packet, then the packet is forwarded by a director of its own, here; so the
//! answer is what the workers' own code does, and nothing is changed.

use std::net::IpAddr;
use std::time::Instant;

use dataplane::director::rehearsal::{Inquiry, Known, Rehearsal, Rehearsed};
use dataplane::director::{Handed, Source, Verdict};
use dataplane::packet::{Protocol, Tuple};
use dataplane::service::Hop;

use super::workers::PATIENCE;
use super::{Daemon, Outcome, hop, mac_text};
use crate::api::{
    Error, ErrorCode, Explanation, ObservedPacket, PacketSpec, PacketVerdict, Reply, Response,
    WayOut,
};
use crate::observe::thought;
use crate::observe::told::{self, Names};
use crate::server::ClientId;

/// Times that workers are asked about one packet: each that may own it, and
/// about connections that may be in the way.
const ROUNDS: usize = 300;
/// Explanations at a time.
const AT_ONCE: usize = 16;

/// Explanations under way.
#[derive(Debug, Default)]
pub(super) struct Explanations {
    all: Vec<Thought>,
    last_ticket: u64,
}

/// A packet that is thought of.
#[derive(Debug)]
struct Thought {
    client: ClientId,
    ticket: u64,
    since: Instant,
    rounds: usize,
    port: u8,
    frame: Vec<u8>,
    worker: usize,
    source: Source,
    handed: Handed,
    flows: Vec<(Protocol, Tuple)>,
}

impl Explanations {
    /// Whether workers are asked.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

/// What the next step is.
enum Next {
    /// The worker is to be asked again, or another.
    Ask(Thought),
    Answer(Reply),
}

impl Daemon {
    /// Begins to find out about a packet.
    pub(super) fn explain(&mut self, client: ClientId, spec: &PacketSpec) -> Outcome {
        match self.think_of(client, spec) {
            Ok(()) => Outcome::Later,
            Err(error) => Outcome::Answer(Err(error)),
        }
    }

    fn think_of(&mut self, client: ClientId, spec: &PacketSpec) -> Result<(), Error> {
        if self.explanations.all.len() == AT_ONCE {
            let message = format!("{AT_ONCE} packets are being explained; try again");
            return Err(Error::new(ErrorCode::TooManyObservations, message));
        }
        let refuse = |message: String| Error::new(ErrorCode::InvalidArgument, message);
        let tuple = thought::tuple(spec)
            .ok_or_else(|| refuse("source and destination are of different families".into()))?;
        let ports = self.registry.last_snapshot().ports;
        let port = self.ingress(spec)?;
        let mac = ports.get(usize::from(port)).map_or([0; 6], |port| port.mac);
        self.explanations.last_ticket += 1;
        let thought = Thought {
            client,
            ticket: self.explanations.last_ticket,
            since: Instant::now(),
            rounds: 0,
            port,
            frame: thought::frame(spec, mac)?,
            worker: 0,
            source: Source::Port,
            handed: Handed::default(),
            flows: vec![(thought::protocol(spec.protocol), tuple)],
        };
        self.ask(thought);
        Ok(())
    }

    /// The port that the packet comes in by: the one named, or that of the way
    /// back to its source.
    fn ingress(&self, spec: &PacketSpec) -> Result<u8, Error> {
        let names = self.port_names();
        let index = |name: &str| names.iter().position(|own| own == name);
        let found = match &spec.port {
            Some(name) => Some(index(name).ok_or_else(|| {
                let all = names.join(", ");
                let message = format!("there is no port {name:?}; there are: {all}");
                Error::new(ErrorCode::InvalidArgument, message)
            })?),
            None => self
                .network
                .as_ref()
                .and_then(|network| network.neighbour(spec.source.ip()))
                .and_then(|(name, _)| index(name)),
        };
        Ok(found.and_then(|index| u8::try_from(index).ok()).unwrap_or(0))
    }

    fn ask(&mut self, thought: Thought) {
        // One that takes no inquiry does not answer, and is given up as such.
        let inquiry = Inquiry::new(thought.ticket, thought.flows.clone());
        let _ = self.workers.inquire(thought.worker, inquiry);
        self.explanations.all.push(thought);
    }

    /// Goes on with explanations whose workers have answered.
    pub(super) fn go_on_explaining(&mut self, now: Instant) {
        while let Some(inquiry) = self.workers.told() {
            let ticket = |thought: &Thought| thought.ticket == inquiry.ticket;
            let Some(index) = self.explanations.all.iter().position(ticket) else { continue };
            let thought = self.explanations.all.swap_remove(index);
            let client = thought.client;
            match self.decide(thought, &inquiry) {
                Next::Ask(thought) => self.ask(thought),
                Next::Answer(reply) => self.api.reply(client, &reply),
            }
        }
        let late = |thought: &Thought| now.saturating_duration_since(thought.since) > PATIENCE;
        while let Some(index) = self.explanations.all.iter().position(late) {
            let thought = self.explanations.all.swap_remove(index);
            let message = format!("worker {} does not answer", thought.worker);
            let error = Error::new(ErrorCode::WorkerStalled, message);
            self.api.reply(thought.client, &Err(error));
        }
    }

    fn decide(&self, mut thought: Thought, inquiry: &Inquiry) -> Next {
        let snapshot = self.registry.last_snapshot();
        let rehearsal = Rehearsal {
            snapshot: &snapshot,
            shard: &self.instruments.shard,
            templates: &self.instruments.templates,
            now: self.instruments.clock.now(),
            worker: thought.worker,
            source: thought.source,
            handed: thought.handed,
            port: thought.port,
            frame: &thought.frame,
        };
        let Some(rehearsed) = rehearsal.run(inquiry) else {
            let message = "there is not enough memory to think of a packet";
            return Next::Answer(Err(Error::new(ErrorCode::NoSpace, message)));
        };
        thought.rounds += 1;
        if thought.rounds < ROUNDS {
            if let Verdict::Handoff { worker, handed } = rehearsed.record.verdict {
                thought.worker = usize::from(worker);
                (thought.source, thought.handed) = (Source::Handoff, handed);
                thought.flows.truncate(1);
                return Next::Ask(thought);
            }
            if let Some(reply) = rehearsed.reply.filter(|reply| !thought.flows.contains(reply)) {
                thought.flows.push(reply);
                return Next::Ask(thought);
            }
        }
        let explanation = self.explanation(&rehearsed, inquiry);
        Next::Answer(Ok(Response::Explained { explanation: Box::new(explanation) }))
    }

    fn explanation(&self, rehearsed: &Rehearsed, inquiry: &Inquiry) -> Explanation {
        let ports = self.port_names();
        let names = Names { registry: &self.registry, ports: &ports };
        let mut packet = told::packet(&rehearsed.record, &rehearsed.bytes, &names);
        let known = known(rehearsed, inquiry);
        if let (Some(connection), Some(known)) = (&mut packet.connection, known) {
            // Its template is not in the director of the rehearsal.
            connection.persistent = known.is_persistent();
        }
        let way = self.way_out(&packet, rehearsed, &names);
        let notes = self.notes(&packet, rehearsed, inquiry, known);
        Explanation { packet, way, notes }
    }

    /// How the packet leaves, or would if what is missing were there.
    fn way_out(
        &self,
        packet: &ObservedPacket,
        rehearsed: &Rehearsed,
        names: &Names<'_>,
    ) -> Option<WayOut> {
        let connection = packet.connection.as_ref();
        let is_reply = connection.is_some_and(|connection| connection.reply);
        let to: IpAddr = match connection {
            Some(connection) if is_reply => connection.client.ip(),
            _ => packet.server?.ip(),
        };
        let hop = match rehearsed.record.server {
            Some(server) if !is_reply => server.hop,
            _ => hop(self.network.as_ref(), to),
        };
        let neighbour = self.network.as_ref().and_then(|network| network.neighbour(to));
        let mut way = WayOut {
            port: neighbour.map(|(port, _)| port.to_owned()),
            neighbour: neighbour.map(|(_, neighbour)| neighbour),
            mac: None,
            mtu: None,
        };
        if let Hop::Port(hop) = hop {
            way.port = Some(names.port(hop.port));
            (way.mac, way.mtu) = (Some(mac_text(hop.dst_mac)), Some(hop.mtu));
        }
        Some(way)
    }

    fn notes(
        &self,
        packet: &ObservedPacket,
        rehearsed: &Rehearsed,
        inquiry: &Inquiry,
        known: Option<&Known>,
    ) -> Vec<String> {
        let mut notes = Vec::new();
        let workers = self.workers.count();
        if workers > 1 {
            notes.push(format!("worker {} of {workers} owns it", packet.worker));
        }
        if let Some(known) = known.filter(|_| !rehearsed.record.opened) {
            let timeouts = self.registry.last_snapshot().timeouts;
            let now = self.instruments.clock.now();
            let left = timeouts.expiry(known.state(), known.last()).millis_since(now) / 1000;
            notes.push(format!("without a packet its connection ends in {left} s"));
        }
        if rehearsed.record.opened {
            notes.push("nothing was changed: the scheduler's turn is still to come".into());
        }
        let family = rehearsed.record.tuple.map(|tuple| tuple.family());
        let is_full = |family| inquiry.standing.as_ref().is_some_and(|s| s.is_full(family));
        if packet.connection.is_none() && family.is_some_and(is_full) {
            notes.push(
                "the worker's table is full: a new connection opens only if a half-open one makes room"
                    .into(),
            );
        }
        if packet.verdict == PacketVerdict::Punted && packet.connection.is_none() {
            notes.push(match (&packet.service, &packet.choice) {
                (Some(_), _) | (_, Some(_)) => {
                    "the service takes no such packet without a connection: the kernel answers it"
                        .into()
                }
                _ => "no service has its address, port and protocol: the kernel gets it".into(),
            });
        }
        notes
    }
}

/// The connection that the packet finds.
fn known<'a>(rehearsed: &Rehearsed, inquiry: &'a Inquiry) -> Option<&'a Known> {
    let client = rehearsed.record.before?.client;
    inquiry.found.iter().find(|known| *known.client() == client)
}
