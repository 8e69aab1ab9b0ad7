//! A worker that forwards at full speed on one core, while a daemon and a client
//! of its socket share another: what the client's work costs the worker.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use control::api::KernelPathCounters;
use control::client::Client;
use control::daemon::saved::Saved;
use control::daemon::{Daemon, Instruments};
use control::registry::Registry;
use control::server::Access;
use dataplane::conn::HashKey;
use dataplane::conn::persistence::Templates;
use dataplane::director::{BURST, Director};
use dataplane::shard::Shard;
use dataplane::time::Clock;
use dataplane::update::Shared;

use crate::bed::Bed;
use crate::bed::buffers::{HEADROOM, Ring};
use crate::bed::flows::Flow;
use crate::bed::frames::{ACK, Frames, Side};
use crate::bed::runner::{SimulatedClock, burst, not_sent};
use crate::measure::{Sample, Watch, pin, thread_time};
use crate::stats::median;

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    busy: AtomicBool,
    ended: AtomicBool,
    done: AtomicBool,
}

impl Turns {
    /// Whether the client is to work now.
    pub(crate) fn busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Whether it is to end.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether the client has nothing left to do.
    pub(crate) fn done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// Starts a daemon whose one worker is the bed's, and a client of its socket, on
/// the first core, and has `drive` forward on the second. What both came to.
pub(crate) fn while_forwarding<R: Send>(
    bed: Bed,
    registry: Registry,
    directory: &Path,
    [control_core, core]: [usize; 2],
    client: impl FnOnce(&Path, &Turns) -> Result<R, String> + Send,
    drive: impl FnOnce(&mut Forwarder, &Turns) -> Result<Vec<(Stretch, Stretch)>, String>,
) -> Result<(Vec<(Stretch, Stretch)>, R), String> {
    let (frames, ring) = (bed.frames(Side::ToServer, ACK), Ring::new());
    let Bed { director, clock, control, flows, .. } = bed;
    let shared = Arc::clone(control.shared());
    let connections = flows.len();
    let mut forwarder = Forwarder { director, clock, flows, frames, ring, next: 0, shared };
    let socket = directory.join("rvsd.sock");
    let (path, saved) = (socket.clone(), Saved::new(directory));
    std::thread::spawn(move || {
        pin(control_core);
        // Registry and daemon live as long as the process.
        let links = vec![control];
        let access = Access::default();
        let daemon =
            Daemon::new(&path, access, registry, links, saved, None, instruments(connections));
        let ended = daemon.and_then(|mut daemon| daemon.run().map_err(|e| e.to_string()));
        if let Err(error) = ended {
            eprintln!("the daemon beside the worker: {error}");
        }
    });
    let turns = Turns::default();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            pin(control_core);
            let result = client(&socket, &turns);
            turns.done.store(true, Ordering::Relaxed);
            result
        });
        pin(core);
        // Until the daemon has published what the worker runs already.
        let first = forwarder.run(Duration::from_millis(200));
        let rounds = first.and_then(|_| drive(&mut forwarder, &turns));
        turns.ended.store(true, Ordering::Relaxed);
        // What the client asked last waits for the worker.
        while !client.is_finished() {
            forwarder.run(Duration::from_millis(1))?;
        }
        let result = client.join().map_err(|_| "the client's thread panicked")??;
        Ok((rounds?, result))
    })
}

/// A client of a daemon that may be about to start.
pub(crate) fn connected(socket: &Path) -> Result<Client, String> {
    let began = Instant::now();
    loop {
        match Client::connect(socket) {
            Ok(client) => return Ok(client),
            Err(error) if began.elapsed() > Duration::from_secs(10) => {
                return Err(format!("the daemon's socket: {error}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// How much less was forwarded in the same CPU time while the client worked, per
/// cent, and the share of a CPU that the worker got.
pub(crate) fn lost(rounds: &[(Stretch, Stretch)]) -> (f64, f64) {
    let samples: Vec<_> = rounds.iter().flat_map(|(a, b)| [a.sample, b.sample]).collect();
    let lost =
        rounds.iter().map(|(quiet, busy)| (1.0 - quiet.sample.ns() / busy.sample.ns()) * 100.0);
    (median(lost), Sample::sum(&samples).cpu_share())
}

fn instruments(flows: usize) -> Instruments {
    let templates = Templates::new(1, HashKey::random());
    Instruments {
        cores: vec![0],
        tsc_hz: 1_000_000_000,
        probes: Arc::default(),
        ports: Box::new(Vec::new),
        recover: Box::new(Vec::new),
        kernel_path: Box::new(KernelPathCounters::default),
        connections: flows as u32,
        clock: Clock::start(),
        templates: Arc::new(templates.expect("memory for one template")),
        shard: Arc::new(Shard::new(0x6d5a, 1, 128)),
    }
}

/// Forwarding for a time.
#[derive(Debug, Default)]
pub(crate) struct Stretch {
    pub(crate) sample: Sample,
    /// The longest time from the end of one burst to that of the next.
    pub(crate) longest: Duration,
    pub(crate) longest_wall: Duration,
    /// Those of the bursts that took up an update.
    pub(crate) with_update: Vec<f64>,
}

/// A worker without ports, and its packets.
pub(crate) struct Forwarder {
    director: Director,
    clock: SimulatedClock,
    flows: Vec<Flow>,
    frames: Frames,
    ring: Ring,
    next: usize,
    shared: Arc<Shared>,
}

impl Forwarder {
    /// Forwards for a time while the client rests, and for one while it works.
    pub(crate) fn both(
        &mut self,
        turns: &Turns,
        time: Duration,
    ) -> Result<(Stretch, Stretch), String> {
        let quiet = self.run(time)?;
        Ok((quiet, self.busy(turns, time)?))
    }

    /// Forwards for a time while the client works.
    pub(crate) fn busy(&mut self, turns: &Turns, time: Duration) -> Result<Stretch, String> {
        turns.busy.store(true, Ordering::Relaxed);
        let busy = self.run(time);
        turns.busy.store(false, Ordering::Relaxed);
        busy
    }

    fn run(&mut self, time: Duration) -> Result<Stretch, String> {
        let mut stretch = Stretch::default();
        let mut refused = None;
        let watch = Watch::start();
        let began = Instant::now();
        let (mut wall, mut cpu, mut packets) = (began, thread_time(), 0);
        let mut epoch = self.shared.epoch();
        while wall.duration_since(began) < time {
            let buffers = self.ring.take(BURST);
            for buffer in buffers.iter_mut() {
                self.frames.write(&mut buffer.0[HEADROOM..], &self.flows[self.next]);
                self.next = if self.next + 1 == self.flows.len() { 0 } else { self.next + 1 };
            }
            let len = self.frames.len();
            let director = Some(&mut self.director);
            burst(director, &mut self.clock, buffers.iter_mut(), len, &mut refused);
            packets += BURST;
            let (now, cpu_now) = (Instant::now(), thread_time());
            stretch.longest = stretch.longest.max(cpu_now.saturating_sub(cpu));
            stretch.longest_wall = stretch.longest_wall.max(now - wall);
            let epoch_now = self.shared.epoch();
            if epoch_now != epoch {
                stretch.with_update.push(cpu_now.saturating_sub(cpu).as_secs_f64() * 1e6);
            }
            (wall, cpu, epoch) = (now, cpu_now, epoch_now);
        }
        stretch.sample = watch.stop(packets);
        refused.map_or(Ok(stretch), |verdict| Err(not_sent(verdict, [&mut self.director])))
    }
}
