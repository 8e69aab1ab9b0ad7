//! The thread that probes: one task for each check, on a runtime of its own.
//! The control thread starts and stops checks and hears of changes; neither
//! waits for the other.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataplane::probes::Probes;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;

use super::plan::{Check, Kind};
use super::probe::{Means, Outcome, Target, probe};
use super::schedule;
use super::state::{Hysteresis, State};

/// Most probes at a time: that many sockets. 5,000 servers that do not answer
/// for 2 s every 5 s take 2,000.
const PROBES: usize = 4_096;
/// Most programs at a time.
const COMMANDS: usize = 64;

/// What the control thread is woken by.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The probing thread.
pub(super) struct Runner {
    handle: Handle,
    shared: Arc<Shared>,
    changes: mpsc::Receiver<Change>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What all checks have in common.
struct Shared {
    probes: Semaphore,
    commands: Semaphore,
    means: Means,
    changes: mpsc::Sender<Change>,
    wake: Wake,
}

/// A check that runs. It stops when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    status: Arc<Mutex<Status>>,
    task: AbortHandle,
}

/// What a check has found so far.
#[derive(Debug, Clone)]
pub(super) struct Status {
    hysteresis: Hysteresis,
    /// When the state changed last, or the check began.
    pub(super) since: Instant,
    /// The last probe.
    pub(super) last: Option<Last>,
    /// Results in a row like the last one.
    pub(super) in_a_row: u32,
    /// All probes, and those that failed.
    pub(super) probes: u64,
    pub(super) failures: u64,
}

/// A probe's result.
#[derive(Debug, Clone)]
pub(super) struct Last {
    pub(super) at: Instant,
    pub(super) took: Duration,
    pub(super) outcome: Outcome,
}

/// A server became good or failed.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// The check.
    pub(super) id: u64,
    pub(super) state: State,
    /// Results in a row that made the change.
    pub(super) in_a_row: u32,
    /// How long it was in the other state.
    pub(super) lasted: Duration,
    /// Why the last probe failed; empty when it did not.
    pub(super) reason: String,
}

impl Runner {
    /// Starts the thread. `wake` is called whenever there is a change to take.
    pub(super) fn start(wake: Wake, probes: Arc<Probes>) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("health checks: {error}");
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (sender, changes) = mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let shared = Arc::new(Shared {
            probes: Semaphore::new(PROBES),
            commands: Semaphore::new(COMMANDS),
            means: Means { probes, ..Means::default() },
            changes: sender,
            wake,
        });
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new()
            .name("rvs-health".into())
            .spawn(move || {
                // An error is the other end's drop.
                let _ = runtime.block_on(stopped);
            })
            .map_err(failed)?;
        Ok(Self { handle, shared, changes, stop: Some(stop), thread: Some(thread) })
    }

    /// Starts a check in a state.
    pub(super) fn check(
        &self,
        id: u64,
        check: Arc<Check>,
        target: Target,
        state: State,
    ) -> Running {
        let status = Arc::new(Mutex::new(Status::new(&check, state)));
        let task = run(id, check, target, Arc::clone(&status), Arc::clone(&self.shared));
        Running { status, task: self.handle.spawn(task).abort_handle() }
    }

    /// A change that was not taken yet.
    pub(super) fn change(&self) -> Option<Change> {
        self.changes.try_recv().ok()
    }

    /// Has what was read from files read again.
    pub(super) fn forget_files(&self) {
        self.shared.means.configs.forget();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Running {
    /// What it has found so far.
    pub(super) fn status(&self) -> Status {
        lock(&self.status).clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One check, for as long as its task lives.
async fn run(
    id: u64,
    check: Arc<Check>,
    target: Target,
    status: Arc<Mutex<Status>>,
    shared: Arc<Shared>,
) {
    let mut due = Instant::now() + schedule::first(check.interval, random());
    loop {
        tokio::time::sleep_until(due.into()).await;
        let (outcome, took) =
            shared.bounded(&check.kind, probe(&check, &target, &shared.means)).await;
        let change = lock(&status).take(id, outcome, Instant::now(), took);
        if let Some(change) = change {
            // Without a receiver the daemon is about to end.
            let _ = shared.changes.send(change);
            (shared.wake)();
        }
        due = schedule::next(due, check.interval, check.jitter, random(), Instant::now());
    }
}

impl Shared {
    /// Runs a probe when there is room for it. Its time begins then.
    async fn bounded(
        &self,
        kind: &Kind,
        probe: impl Future<Output = Outcome>,
    ) -> (Outcome, Duration) {
        let room = if matches!(kind, Kind::Command(_)) { &self.commands } else { &self.probes };
        // Never closed, so that there is a permit in the end.
        let _permit = room.acquire().await;
        let start = Instant::now();
        (probe.await, start.elapsed())
    }
}

impl Status {
    pub(super) fn new(check: &Check, state: State) -> Self {
        Self {
            hysteresis: Hysteresis::new(check.rise, check.fall, state),
            since: Instant::now(),
            last: None,
            in_a_row: 0,
            probes: 0,
            failures: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        self.hysteresis.state()
    }

    /// Takes a result. What it changed.
    fn take(&mut self, id: u64, outcome: Outcome, now: Instant, took: Duration) -> Option<Change> {
        let good = outcome.is_ok();
        let same = self.last.as_ref().is_some_and(|last| last.outcome.is_ok() == good);
        self.in_a_row = if same { self.in_a_row.saturating_add(1) } else { 1 };
        self.probes += 1;
        self.failures += u64::from(!good);
        let reason = outcome.clone().err().unwrap_or_default();
        self.last = Some(Last { at: now, took, outcome });
        let in_a_row = self.hysteresis.take(good)?;
        let lasted = now - self.since;
        self.since = now;
        Some(Change { id, state: self.state(), in_a_row, lasted, reason })
    }
}

/// A task that panics has done so outside of this lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    RandomState::new().hash_one(NEXT.fetch_add(1, Ordering::Relaxed))
}
