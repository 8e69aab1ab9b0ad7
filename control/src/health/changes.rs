//! The last changes, for who looks after an incident.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::probe::Target;
use super::runner::Change;
use super::state::State;
use crate::api::HealthChange;

/// Changes that are kept.
const KEPT: usize = 256;

/// The last changes, newest first.
#[derive(Default)]
pub(super) struct Changes(VecDeque<(Instant, Target, Change)>);

impl Changes {
    pub(super) fn add(&mut self, now: Instant, target: Target, change: Change) {
        self.0.truncate(KEPT - 1);
        self.0.push_front((now, target, change));
    }

    pub(super) fn list(&self, now: Instant) -> Vec<HealthChange> {
        let rows = self.0.iter().map(|(at, target, change)| HealthChange {
            ago_ms: now.saturating_duration_since(*at).as_millis() as u64,
            service: target.service,
            server: target.server,
            up: change.state == State::Up,
            in_a_row: change.in_a_row,
            lasted_ms: change.lasted.as_millis() as u64,
            failure: Some(change.reason.clone()).filter(|reason| !reason.is_empty()),
        });
        rows.collect()
    }
}

/// A time as people say it: `850 ms`, `42 s`, `3 min 5 s`, `2 h 7 min`, `9 d 4 h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ServiceId;

    #[test]
    fn the_last_changes_are_kept() {
        let (mut changes, start) = (Changes::default(), Instant::now());
        let service = ServiceId::Fwmark { mark: 1, ipv6: false };
        for id in 0..300u16 {
            let target = Target { service, server: ([10, 0, 0, 1], id).into(), by_vip: None };
            let (state, reason) = match id % 2 {
                0 => (State::Down, "no".to_owned()),
                _ => (State::Up, String::new()),
            };
            let lasted = Duration::from_secs(2);
            changes.add(start, target, Change { id: 0, state, in_a_row: 3, lasted, reason });
        }
        let list = changes.list(start + Duration::from_secs(1));
        assert_eq!(list.len(), KEPT);
        let shown: Vec<_> =
            list.iter().take(2).map(|c| (c.server.port(), c.up, &c.failure)).collect();
        assert_eq!(shown, [(299, true, &None), (298, false, &Some("no".to_owned()))]);
        assert_eq!((list[0].ago_ms, list[0].lasted_ms, list[0].in_a_row), (1_000, 2_000, 3));
    }

    #[test]
    fn times_are_said_shortly() {
        let rows = [
            (850, "850 ms"),
            (42_000, "42 s"),
            (185_000, "3 min 5 s"),
            (7_620_000, "2 h 7 min"),
            (792_000_000, "9 d 4 h"),
        ];
        for (millis, text) in rows {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }
}
