//! The control thread: one event loop over the control socket, the kernel's
//! news, the workers' replies and the signals. It is the only owner of the
//! registry; nothing in it waits for a client, the kernel or a worker.

mod answers;
pub mod begin;
mod difference;
mod explaining;
mod filter;
mod health;
mod links;
mod listing;
mod lock;
mod losses;
mod network;
mod notify;
mod observing;
mod reload;
mod resolve;
pub mod saved;
mod scrape;
mod tables;
mod templates;
mod ways;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::conn::persistence::Templates;
use dataplane::probes::Probes;
use dataplane::service::Hop;
use dataplane::shard::Shard;
use dataplane::time::Clock;
use dataplane::update::ControlEnd;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::api::{
    Error, ErrorCode, KernelPathCounters, PortCounters, Reply, Request, Response, ServerSpec,
    ServiceId,
};
use crate::health::Health;
use crate::ipvsadm;
use crate::registry::{PERIOD_SECONDS, Registry};
use crate::server::{Access, ApiServer, ClientId};
pub use answers::mac_text;
use explaining::Explanations;
use health::Touched;
use links::Links;
use listing::Listings;
pub use lock::Lock;
use losses::Losses;
pub use network::{Network, NetworkPort, SendFrame};
use notify::Notify;
use observing::Observations;
use reload::{Followed, Reload, Reloads};
use resolve::Resolving;
use saved::Saved;
use scrape::Metrics;
use workers::{PATIENCE, Workers};

const SIGNALS: Token = Token(0);
const KERNEL: Token = Token(1);
/// The threads of health checks, of metrics and of reloads, which share the one
/// waker that a `Poll` can have.
const THREADS: Token = Token(2);
/// The last: clients have the tokens after it.
const SOCKET: Token = Token(3);

/// Time for requests in one turn, so that the kernel's news, the workers and
/// other clients are not kept waiting by busy ones. The last may exceed it.
const REQUESTS_SHARE: Duration = Duration::from_millis(2);
/// A look at all servers' routes is followed by a pause of this many times its
/// own length: a routing daemon may change many routes a second, and a new
/// server's neighbour wants to be known at once.
const RESOLVE_SHARE: u32 = 10;
/// Time for reports of missing neighbours in one turn; what is left waits, as
/// after a look at the routes.
const MISSING_SHARE: Duration = Duration::from_millis(2);
/// How long workers are watched without a rest after a change: one that forwards
/// takes it up between two bursts, sooner than this thread would be back from a
/// rest.
const WATCH: Duration = Duration::from_micros(50);
/// Rest between looks at the workers while a client waits for them.
const WORKER_NAP: Duration = Duration::from_micros(50);
/// How long the answer to a new server waits for its neighbour, so that what
/// the client does next finds the server in service.
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// Servers that are named a second when their ways change.
const MOVED_LINES: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// What the daemon asks of the machine that it runs on.
pub struct Instruments {
    /// The core of each worker, by index.
    pub cores: Vec<u32>,
    /// Reads the ports' counters.
    pub ports: Box<dyn Fn() -> Vec<PortCounters>>,
    /// Does what the ports' drivers ask for. Names the ports that were reset.
    pub recover: Box<dyn Fn() -> Vec<String>>,
    /// Reads the kernel path's counters.
    pub kernel_path: Box<dyn Fn() -> KernelPathCounters>,
    /// Connections that each worker's table of one family holds.
    pub connections: u32,
    /// The workers' clock.
    pub clock: Clock,
    /// Ownership among the workers.
    pub shard: Arc<Shard>,
    /// Persistence templates, which the workers share.
    pub templates: Arc<Templates>,
    /// Ticks a second of the counter that workers measure their work by.
    pub tsc_hz: u64,
    /// Health checks that go to the VIP, which the kernel path changes.
    pub probes: Arc<Probes>,
}

/// The control thread's state.
pub struct Daemon {
    poll: Poll,
    /// Wakes it from other threads.
    waker: Arc<Waker>,
    signals: SignalFd,
    api: ApiServer,
    registry: Registry,
    workers: Workers,
    network: Option<Network>,
    health: Health,
    /// Services that requests changed since checks followed.
    touched: Touched,
    watched: Option<RawFd>,
    /// The registry changed since the last snapshot.
    dirty: bool,
    saved: Saved,
    /// The configuration file, which [`Daemon::follow_file`] names.
    file: Option<Followed>,
    reloads: Reloads,
    /// Requests carried out that are not in the record yet.
    unsaved: Vec<Request>,
    resolving: Resolving,
    next_missing: Instant,
    /// Servers whose way changed, to be said with the next second.
    moved: BTreeMap<IpAddr, Hop>,
    /// The epoch that was published last.
    epoch: u64,
    /// Since when some worker has not run the newest snapshot.
    behind: Option<Instant>,
    /// That has taken too long, which was said.
    stalled: bool,
    /// Clients that wait for the workers to run an epoch.
    waiting: Vec<Waiting>,
    listings: Listings,
    observations: Observations,
    explanations: Explanations,
    instruments: Instruments,
    metrics: Metrics,
    losses: Losses,
    links: Links,
    notify: Notify,
    /// The kernel may have more news than were taken in.
    kernel_has_news: bool,
    next_second: Instant,
    next_rates: Instant,
}

struct Waiting {
    client: ClientId,
    epoch: u64,
    since: Instant,
    /// All workers run it, which was counted.
    in_force: bool,
    /// The server that was added: its neighbour should be known, too.
    settles: Option<(ServiceId, SocketAddr)>,
    /// Its local addresses are to be put up first: a server asks for them as
    /// soon as the first connection comes.
    locals: bool,
    /// What to answer then.
    response: Response,
}

impl Daemon {
    /// Blocks the signals that end the daemon or have it read its file, in this thread and in all that
    /// it starts; [`Daemon::run`] takes them. To be called before any thread is
    /// started.
    pub fn block_signals() {
        // Only fails for signal numbers that do not exist.
        let _ = signals().thread_block();
    }

    /// A daemon with services in `registry`, whose workers hold the other ends
    /// of `links`.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn new(
        socket: &Path,
        access: Access,
        registry: Registry,
        links: Vec<ControlEnd>,
        saved: Saved,
        network: Option<Network>,
        instruments: Instruments,
    ) -> Result<Self, String> {
        let failed = |error: io::Error| format!("event loop: {error}");
        let poll = Poll::new().map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals =
            SignalFd::with_flags(&signals(), flags).map_err(|error| failed(error.into()))?;
        poll.registry()
            .register(&mut SourceFd(&signals.as_raw_fd()), SIGNALS, Interest::READABLE)
            .map_err(failed)?;
        let waker = Arc::new(Waker::new(poll.registry(), THREADS).map_err(failed)?);
        let wake = {
            let waker = Arc::clone(&waker);
            // Fails when it has been woken often enough already.
            Arc::new(move || drop(waker.wake()))
        };
        let health = Health::new(wake, Arc::clone(&instruments.probes));
        let api = ApiServer::bind(socket, access, poll.registry(), SOCKET)?;
        let now = Instant::now();
        let mut daemon = Self {
            poll,
            waker,
            signals,
            api,
            registry,
            workers: Workers::new(links),
            network,
            health,
            touched: Touched::default(),
            watched: None,
            dirty: true,
            saved,
            file: None,
            reloads: Reloads::default(),
            unsaved: Vec::new(),
            resolving: Resolving::new(now),
            next_missing: now,
            moved: BTreeMap::new(),
            epoch: 0,
            behind: None,
            stalled: false,
            waiting: Vec::new(),
            listings: Listings::default(),
            observations: Observations::default(),
            explanations: Explanations::default(),
            instruments,
            metrics: Metrics::default(),
            losses: Losses::default(),
            links: Links::default(),
            notify: Notify::of_environment(),
            kernel_has_news: true,
            next_second: now + SECOND,
            next_rates: now + Duration::from_secs(PERIOD_SECONDS),
        };
        daemon.watch_kernel();
        daemon.resolve_all(now);
        daemon.publish_changes();
        daemon.saved.begin(now, |from| daemon.registry.saved(from, saved::ROWS));
        Ok(daemon)
    }

    /// Runs until a signal says to stop, which it returns.
    ///
    /// # Errors
    /// When the event loop itself fails.
    pub fn run(&mut self) -> io::Result<Signal> {
        let mut events = Events::with_capacity(256);
        let mut ready = false;
        loop {
            if let Some(signal) = self.turn(&mut events)? {
                self.notify.stopping();
                self.saved.end();
                return Ok(signal);
            }
            let in_force = self.workers.running() >= self.epoch;
            if !ready && in_force {
                ready = true;
                log::info!("ready: {} workers forward", self.workers.count());
            }
            if ready {
                self.notify.keep_up(in_force, || self.workers.rounds(), Instant::now());
            }
        }
    }

    /// One turn of the loop: waits for events or the next thing due, then does
    /// what there is to do.
    fn turn(&mut self, events: &mut Events) -> io::Result<Option<Signal>> {
        let timeout = self.until_next_turn();
        if let Err(error) = self.poll.poll(events, Some(timeout)) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        for event in events.iter() {
            match event.token() {
                SIGNALS => match self.signal() {
                    Some(Signal::SIGHUP) => self.ask_for_reload(Reload::on_signal()),
                    Some(signal) => return Ok(Some(signal)),
                    None => {}
                },
                KERNEL => self.kernel_has_news = true,
                // Questions of metrics are answered below, and reloads go on there.
                THREADS => self.take_health_changes(),
                SOCKET => self.api.accept(),
                client => self.api.ready(client),
            }
        }
        self.work(Instant::now());
        Ok(None)
    }

    /// How long the next turn may wait for events. While workers owe something
    /// it naps here, and waits no more.
    fn until_next_turn(&mut self) -> Duration {
        if self.workers.running() >= self.epoch {
            self.behind = None;
        }
        // A worker that is stalled for good is looked at now and then only.
        let busy = !self.waiting.is_empty()
            || !self.listings.is_empty()
            || !self.explanations.is_empty()
            || self.behind.is_some_and(|since| since.elapsed() < PATIENCE);
        let at_work = self.resolving.is_busy() || self.saved.is_busy();
        if self.api.has_more() || self.kernel_has_news || at_work {
            Duration::ZERO
        } else if busy {
            if !self.workers_took_it_up() {
                std::thread::sleep(WORKER_NAP);
            }
            Duration::ZERO
        } else {
            self.next_due().saturating_duration_since(Instant::now())
        }
    }

    /// All that there is to do in a turn, in its order.
    fn work(&mut self, now: Instant) {
        let reset = (self.instruments.recover)();
        self.announce_again(&reset);
        self.read_kernel();
        self.api.expire(now);
        self.go_on_reloading(now);
        self.observations.expire(now);
        self.carry_out_requests(now);
        self.every_second(now);
        if now >= self.next_rates {
            self.next_rates += self.registry.estimate_rates();
        }
        self.ask_for_missing(now);
        self.resolve(now);
        self.health_follows();
        self.publish_changes();
        if let Some((client, reply)) =
            self.listings.advance(&mut self.workers, &self.registry, &self.instruments, now)
        {
            self.api.reply(client, &reply);
        }
        self.go_on_explaining(now);
        self.answer_metrics();
        self.save(now);
        self.acknowledge(now);
        // Replies were queued: write them now rather than after the next event.
        self.carry_out_requests(now);
        self.health_follows();
        self.publish_changes();
    }

    /// Whether all workers run a change whose client has no answer yet. Watches
    /// them for a moment after it was published.
    fn workers_took_it_up(&self) -> bool {
        if self.waiting.iter().all(|waiting| waiting.in_force) {
            return false;
        }
        loop {
            if self.workers.running() >= self.epoch {
                return true;
            }
            if self.behind.is_none_or(|since| since.elapsed() > WATCH) {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    fn next_due(&self) -> Instant {
        let now = Instant::now();
        // Deadlines of clients, and what workers miss, are looked at ten times
        // a second.
        let due = self.next_second.min(self.next_rates).min(now + Duration::from_millis(100));
        self.resolving.due(self.network.as_ref()).map_or(due, |resolve| due.min(resolve))
    }

    fn signal(&mut self) -> Option<Signal> {
        let info = self.signals.read_signal().ok()??;
        Signal::try_from(info.ssi_signo as i32).ok()
    }

    fn carry_out_requests(&mut self, now: Instant) {
        let start = Instant::now();
        while start.elapsed() < REQUESTS_SHARE {
            let Some((client, request)) = self.api.next_request(now) else { return };
            let settles = match &request {
                Request::AddServer { service, server } => Some((*service, server.address)),
                _ => None,
            };
            let locals = match &request {
                Request::AddService { service } | Request::EditService { service } => {
                    !service.local_addresses.is_empty()
                }
                _ => false,
            };
            let (locals, response) = match self.carry_out(client, request) {
                Outcome::Answer(reply) => {
                    self.api.reply(client, &reply);
                    continue;
                }
                Outcome::Later => continue,
                Outcome::Changed => (locals, Response::Done),
                Outcome::Reloaded(response) => (true, response),
                Outcome::Begun(response) => (false, response),
            };
            self.answer_in_force(client, settles, locals, response, now);
        }
    }

    /// Answers a client once all workers run what was changed for it.
    fn answer_in_force(
        &mut self,
        client: ClientId,
        settles: Option<(ServiceId, SocketAddr)>,
        locals: bool,
        response: Response,
        now: Instant,
    ) {
        // The snapshot is made once for all requests of this turn.
        self.dirty = true;
        let (epoch, since, in_force) = (self.epoch + 1, now, false);
        self.waiting.push(Waiting { client, epoch, since, in_force, settles, locals, response });
    }

    fn carry_out(&mut self, client: ClientId, request: Request) -> Outcome {
        // Escaped: a refused name may hold anything.
        let command = ipvsadm::output::command(&request).map(|c| c.escape_debug().to_string());
        let outcome = self.try_to_carry_out(client, request);
        if let Some(command) = command {
            match &outcome {
                Outcome::Answer(Err(error)) => {
                    log::info!(result = "refused"; "refused: {command}: {error}");
                }
                _ => log::info!(result = "done"; "done: {command}"),
            }
        }
        outcome
    }

    fn try_to_carry_out(&mut self, client: ClientId, request: Request) -> Outcome {
        let network = self.network.as_ref();
        let resolve = |server: &ServerSpec| hop(network, server.address.ip());
        self.touched.note(&request, &self.registry);
        match self.registry.change(&request, &resolve) {
            None => self.answer(client, request),
            Some(Err(error)) => Outcome::Answer(Err(error)),
            Some(Ok(())) => {
                self.note(request);
                Outcome::Changed
            }
        }
    }

    /// Takes note of a change that was carried out.
    fn note(&mut self, request: Request) {
        self.resolving.note(&request);
        self.touched.note(&request, &self.registry);
        if let Request::AddServer { server, .. } = &request {
            self.keep_resolved(server.address.ip());
        }
        self.unsaved.push(request);
    }

    /// Has the kernel ask for neighbours that workers miss.
    fn ask_for_missing(&mut self, now: Instant) {
        let Some(network) = &mut self.network else { return };
        if now < self.next_missing {
            return;
        }
        let start = Instant::now();
        while start.elapsed() < MISSING_SHARE {
            let Some(missing) = self.workers.missing() else { break };
            network.report_missing(missing, now);
        }
        self.next_missing = now + start.elapsed() * RESOLVE_SHARE;
    }

    fn publish_changes(&mut self) {
        if !self.dirty {
            return;
        }
        let snapshot = self.registry.snapshot();
        self.epoch = snapshot.epoch;
        self.workers.publish(&snapshot);
        self.behind.get_or_insert_with(Instant::now);
        self.dirty = self.registry.is_behind();
    }

    /// Records what was changed, so that it survives a crash from before it is
    /// answered.
    fn save(&mut self, now: Instant) {
        let state = |from| self.registry.saved(from, saved::ROWS);
        self.saved.keep_up(&self.unsaved, now, state);
        self.unsaved.clear();
        self.keep_applied();
    }

    /// Answers clients whose change every worker runs.
    fn acknowledge(&mut self, now: Instant) {
        let running = self.workers.running();
        let latest = self.epoch;
        let unresolved = self.network.is_some() && self.resolving.locals_changed;
        let updates = &mut self.metrics.updates;
        self.waiting.retain_mut(|waiting| {
            let waited = now - waiting.since;
            if waiting.epoch <= running && !waiting.in_force {
                waiting.in_force = true;
                updates.latency.observe(waiting.since.elapsed());
            }
            // A server that has settled did so in the latest snapshot.
            let unsettled = waiting.settles.is_some_and(|(service, address)| {
                waited < SETTLE_TIME
                    && (running < latest || self.registry.is_fresh(&service, address))
            }) || (waiting.locals && unresolved && waited < SETTLE_TIME);
            let reply: Reply = if waiting.epoch <= running && !unsettled {
                Ok(waiting.response.clone())
            } else if waited > PATIENCE {
                updates.stalled += 1;
                let message = "a worker does not answer; the request comes into force when it does";
                Err(Error::new(ErrorCode::WorkerStalled, message))
            } else {
                return true;
            };
            self.api.reply(waiting.client, &reply);
            false
        });
    }

    fn every_second(&mut self, now: Instant) {
        if now < self.next_second {
            return;
        }
        self.next_second = now + SECOND;
        self.dirty |= self.registry.empty_trash(self.workers.running());
        self.dirty |= self.registry.end_grace();
        self.say_what_moved();
        self.say_who_stalls(now);
        let moved = self.links.say(&(self.instruments.ports)());
        self.announce_again(&moved);
        let counters = self.workers.counters();
        self.losses.say(&counters, now);
        let connections: u64 = counters.iter().map(|worker| worker.connections).sum();
        self.notify.status(&status(&self.registry, self.workers.count(), connections), now);
        let Some(network) = &mut self.network else { return };
        network.refresh(now);
        if network.reopen_if_due(now) {
            self.watch_kernel();
        }
    }

    /// Announces the addresses of these ports, whose neighbours and switches may
    /// have forgotten where they are.
    fn announce_again(&mut self, ports: &[String]) {
        let Some(network) = &mut self.network else { return };
        ports.iter().for_each(|port| network.announce_again(port));
    }

    /// Logs that a worker stopped taking up changes, and that all do again.
    fn say_who_stalls(&mut self, now: Instant) {
        let stalled = self.behind.is_some_and(|since| now - since > PATIENCE);
        if stalled && !self.stalled {
            let workers = self.workers.behind(self.epoch);
            log::error!(
                stalled:? = workers;
                "workers {workers:?} have not taken up changes for {} s; if they do not come back, restart rvsd",
                PATIENCE.as_secs()
            );
        }
        if self.stalled && !stalled {
            log::info!(stalled = "[]"; "all workers take up changes again");
        }
        self.stalled = stalled;
    }

    /// Logs the servers whose way changed in the last second, a few by name.
    fn say_what_moved(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        for (server, hop) in moved.iter().take(MOVED_LINES) {
            match hop {
                Hop::Port(hop) => log::info!(
                    server:%, way = "resolved";
                    "server {server}: MAC {}", mac_text(hop.dst_mac)
                ),
                Hop::Local => log::info!(
                    server:%, way = "local";
                    "server {server}: the director itself"
                ),
                Hop::Unresolved => log::warn!(
                    server:%, way = "no_next_hop";
                    "server {server}: its next hop does not answer; its packets are dropped (no_next_hop)"
                ),
                Hop::NoRoute => log::warn!(
                    server:%, way = "no_route";
                    "server {server}: no route through any port; its packets are dropped (no_route)"
                ),
            }
        }
        if moved.len() > MOVED_LINES {
            log::warn!("and {} more servers: see rvsadm show nexthops", moved.len() - MOVED_LINES);
        }
    }

    /// Takes in a piece of the kernel's news; the rest in the next turns, so
    /// that clients are not kept waiting by a full routing table.
    fn read_kernel(&mut self) {
        if !self.kernel_has_news {
            return;
        }
        let Some(network) = &mut self.network else {
            self.kernel_has_news = false;
            return;
        };
        self.kernel_has_news = network.read();
        if network.descriptor().is_none() {
            self.watched = None;
        }
    }

    /// Has the event loop wake for the kernel's news.
    fn watch_kernel(&mut self) {
        let descriptor = self.network.as_ref().and_then(Network::descriptor);
        if descriptor == self.watched {
            return;
        }
        if let Some(fd) = descriptor {
            let registry = self.poll.registry();
            match registry.register(&mut SourceFd(&fd), KERNEL, Interest::READABLE) {
                Ok(()) => self.watched = descriptor,
                Err(error) => log::error!("kernel routes: cannot be watched: {error}"),
            }
        }
        // What came before the watch gives no event.
        self.kernel_has_news = true;
    }
}

/// What became of a request.
enum Outcome {
    /// Answer it with this.
    Answer(Reply),
    /// Answer it when the workers run the change.
    Changed,
    /// The same, with this.
    Reloaded(Response),
    /// Answer it with this when the workers have taken up what they were sent.
    Begun(Response),
    /// It is answered elsewhere.
    Later,
}

fn hop(network: Option<&Network>, server: IpAddr) -> Hop {
    network.map_or(Hop::NoRoute, |network| network.hop(server))
}

/// The line of `systemctl status`.
fn status(registry: &Registry, workers: usize, connections: u64) -> String {
    let (services, servers) = registry.sizes();
    format!("{workers} workers, {services} services, {servers} servers, {connections} connections")
}

fn signals() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals
}
