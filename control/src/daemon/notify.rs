//! What the service manager is told (sd_notify(3)): that rvsd is ready, reads its
//! file again, stops; and, for its watchdog, that all workers make progress.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Time between two lines for `systemctl status`.
const STATUS_PAUSE: Duration = Duration::from_secs(5);

/// The line to the service manager. Without one nothing is sent.
#[derive(Debug)]
pub(super) struct Notify {
    /// It was told that rvsd is ready.
    ready: bool,
    /// A reload was announced that is not in force yet.
    reloading: bool,
    watchdog: Option<Watchdog>,
    status: String,
    next_status: Option<Instant>,
}

/// When the watchdog is due, and what the workers had done when it was fed last.
#[derive(Debug)]
struct Watchdog {
    period: Duration,
    next: Option<Instant>,
    rounds: Vec<u64>,
    /// Workers without progress, which was said.
    stuck: Vec<usize>,
}

/// What a look at the workers leads to.
#[derive(Debug, PartialEq, Eq)]
enum Feeding {
    NotDue,
    Feed,
    /// These workers have not gone through a loop since the last feeding.
    Stuck(Vec<usize>),
}

impl Notify {
    /// As the environment says: `NOTIFY_SOCKET`, `WATCHDOG_USEC`.
    pub(super) fn of_environment() -> Self {
        let mut usec = 0;
        let watchdog = sd_notify::watchdog_enabled(false, &mut usec).then(|| Watchdog {
            // Half would do; this leaves time to be late.
            period: Duration::from_micros(usec) / 4,
            next: None,
            rounds: Vec::new(),
            stuck: Vec::new(),
        });
        Self { ready: false, reloading: false, watchdog, status: String::new(), next_status: None }
    }

    /// To be called every turn once rvsd is ready: `in_force` when the workers
    /// run the newest snapshot; `rounds` counts the loops of each.
    pub(super) fn keep_up(
        &mut self,
        in_force: bool,
        rounds: impl FnOnce() -> Vec<u64>,
        now: Instant,
    ) {
        if !self.ready || (self.reloading && in_force) {
            (self.ready, self.reloading) = (true, false);
            send(&[NotifyState::Ready]);
        }
        let Some(watchdog) = &mut self.watchdog else { return };
        match watchdog.look(rounds, now) {
            Feeding::NotDue => {}
            Feeding::Feed => {
                send(&[NotifyState::Watchdog]);
                if !watchdog.stuck.is_empty() {
                    log::info!(stuck = "[]"; "all workers make progress again");
                    watchdog.stuck.clear();
                }
            }
            Feeding::Stuck(workers) => {
                // A worker may have been unlucky once: said when it lasts.
                let late = watchdog.next.is_some_and(|next| now > next + watchdog.period);
                if late && workers != watchdog.stuck {
                    log::error!(
                        stuck:? = workers;
                        "workers {workers:?} make no progress: the service manager's watchdog is not fed and will restart rvsd; see what else runs on their cores (top -H)"
                    );
                    watchdog.stuck = workers;
                }
            }
        }
    }

    /// The file is read again; when that is in force, rvsd is ready again.
    pub(super) fn reloading(&mut self) {
        self.reloading = true;
        match NotifyState::monotonic_usec_now() {
            Ok(time) => send(&[NotifyState::Reloading, time]),
            Err(_) => send(&[NotifyState::Reloading]),
        }
    }

    /// A line for people, when it is another one.
    pub(super) fn status(&mut self, status: &str, now: Instant) {
        if self.next_status.is_some_and(|next| now < next) || status == self.status {
            return;
        }
        status.clone_into(&mut self.status);
        self.next_status = Some(now + STATUS_PAUSE);
        send(&[NotifyState::Status(status)]);
    }

    pub(super) fn stopping(&self) {
        send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }
}

impl Watchdog {
    /// Whether to feed: when it is due, and each worker went through its loop
    /// since the last time.
    fn look(&mut self, rounds: impl FnOnce() -> Vec<u64>, now: Instant) -> Feeding {
        if self.next.is_some_and(|next| now < next) {
            return Feeding::NotDue;
        }
        let rounds = rounds();
        let pairs = self.rounds.iter().zip(&rounds).enumerate();
        let stuck: Vec<_> = pairs.filter(|(_, (old, new))| old == new).map(|(i, _)| i).collect();
        if !stuck.is_empty() {
            return Feeding::Stuck(stuck);
        }
        (self.rounds, self.next) = (rounds, Some(now + self.period));
        Feeding::Feed
    }
}

/// A service manager that does not take it changes nothing for packets.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        log::debug!("the service manager cannot be told: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watchdog() -> Watchdog {
        let period = Duration::from_secs(2);
        Watchdog { period, next: None, rounds: Vec::new(), stuck: Vec::new() }
    }

    #[test]
    fn the_watchdog_is_fed_while_every_worker_goes_on() {
        let mut watchdog = watchdog();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watchdog.look(|| vec![0, 0], start), Feeding::Feed);
        assert_eq!(watchdog.look(|| vec![9, 9], at(1)), Feeding::NotDue);
        assert_eq!(watchdog.look(|| vec![9, 9], at(2)), Feeding::Feed);
        assert_eq!(watchdog.look(|| vec![10, 10], at(4)), Feeding::Feed);
    }

    #[test]
    fn one_worker_that_stands_still_starves_the_watchdog() {
        let mut watchdog = watchdog();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(watchdog.look(|| vec![5, 5, 5], start), Feeding::Feed);
        assert_eq!(watchdog.look(|| vec![6, 5, 6], at(2)), Feeding::Stuck(vec![1]));
        // The others' progress since the last feeding counts, not since this look.
        assert_eq!(watchdog.look(|| vec![6, 5, 6], at(3)), Feeding::Stuck(vec![1]));
        assert_eq!(watchdog.look(|| vec![6, 6, 6], at(3)), Feeding::Feed);
        assert_eq!(watchdog.look(|| vec![7, 7, 7], at(4)), Feeding::NotDue);
    }
}
