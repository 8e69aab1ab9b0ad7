//! Tells the log of packets that are dropped for what an operator can mend: one
//! line for each reason at once, then one a minute with the count.

use std::time::{Duration, Instant};

use dataplane::counters::{Counters, DropReason};

/// Reasons that are worth a line: something is full, missing or too slow. Of
/// servers that cannot be reached there is a line by name; the others are faults
/// of who sends, which the counters tell.
const REASONS: [DropReason; 16] = [
    DropReason::NoServer,
    DropReason::TableFull,
    DropReason::TemplatesFull,
    DropReason::NoLocalPort,
    DropReason::NatAmbiguous,
    DropReason::NoSource,
    DropReason::NoHeadroom,
    DropReason::FragmentTableFull,
    DropReason::ServerDeleted,
    DropReason::HandoffFull,
    DropReason::TxFull,
    DropReason::PuntFull,
    DropReason::PuntLimitedNeighbour,
    DropReason::PuntLimitedRouting,
    DropReason::PuntLimitedTcp,
    DropReason::PuntLimitedOther,
];
/// Time between two lines about one reason.
const PAUSE: Duration = Duration::from_secs(60);

/// What was said of each reason.
#[derive(Debug, Default)]
pub(super) struct Losses {
    said: [Said; REASONS.len()],
}

#[derive(Debug, Default)]
struct Said {
    /// Packets of which the log knows.
    packets: u64,
    at: Option<Instant>,
}

/// Packets that the log does not know of yet.
#[derive(Debug, PartialEq, Eq)]
struct Loss {
    reason: DropReason,
    packets: u64,
    /// Since the last line about it; `None` for the first.
    since: Option<Duration>,
}

impl Losses {
    /// Logs what is due, of the counters of all workers.
    pub(super) fn say(&mut self, workers: &[Counters], now: Instant) {
        for Loss { reason, packets, since } in self.due(workers, now) {
            let reason = reason.name();
            let since = since.map_or(String::new(), |s| format!(" since {} s", s.as_secs()));
            log::warn!(reason, packets; "{packets} packets dropped{since}: {reason}, see docs/drops.md");
        }
    }

    fn due(&mut self, workers: &[Counters], now: Instant) -> Vec<Loss> {
        let mut due = Vec::new();
        for (&reason, said) in REASONS.iter().zip(&mut self.said) {
            let packets = workers.iter().map(|counters| counters.dropped(reason)).sum();
            let since = said.at.map(|at| now.saturating_duration_since(at));
            if packets == said.packets || since.is_some_and(|since| since < PAUSE) {
                continue;
            }
            due.push(Loss { reason, packets: packets - said.packets, since });
            *said = Said { packets, at: Some(now) };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_line_at_once_and_then_one_a_minute() {
        let mut workers = [Counters::default(), Counters::default()];
        let mut losses = Losses::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(losses.due(&workers, start), []);
        workers[0].drop_many(DropReason::TableFull, 3);
        workers[1].drop_many(DropReason::TableFull, 4);
        workers[1].drop_many(DropReason::EthShort, 9);
        let loss = |reason, packets, since| Loss {
            reason,
            packets,
            since: Option::map(since, Duration::from_secs),
        };
        let first = [loss(DropReason::TableFull, 7, None)];
        assert_eq!(losses.due(&workers, start), first);
        workers[0].drop_many(DropReason::TableFull, 100);
        workers[0].drop_many(DropReason::TxFull, 1);
        assert_eq!(losses.due(&workers, after(1)), [loss(DropReason::TxFull, 1, None)]);
        workers[0].drop_many(DropReason::TableFull, 1);
        assert_eq!(losses.due(&workers, after(59)), []);
        assert_eq!(losses.due(&workers, after(60)), [loss(DropReason::TableFull, 101, Some(60))]);
        assert_eq!(losses.due(&workers, after(200)), []);
    }
}
