//! Up and down with hysteresis: a state changes only after several results in
//! a row that speak against it.

/// Whether a server is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// A state and what speaks against it. No clock, no chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hysteresis {
    rise: u32,
    fall: u32,
    state: State,
    /// Results in a row that speak against the state.
    against: u32,
}

impl Hysteresis {
    /// Begins in a state. `rise` and `fall` are at least 1.
    #[must_use]
    pub fn new(rise: u32, fall: u32, state: State) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), state, against: 0 }
    }

    /// The present state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes a probe's result. The number of results in a row that changed the
    /// state, if it did.
    pub fn take(&mut self, good: bool) -> Option<u32> {
        let (speaks_for, limit, other) = match self.state {
            State::Up => (good, self.fall, State::Down),
            State::Down => (!good, self.rise, State::Up),
        };
        if speaks_for {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < limit {
            return None;
        }
        self.against = 0;
        self.state = other;
        Some(limit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_limit_in_a_row_changes_the_state() {
        let mut hysteresis = Hysteresis::new(2, 3, State::Up);
        let mut shown = String::new();
        for good in [false, false, true, false, false, false, true, false, true, true, false] {
            let change = hysteresis.take(good).map_or(String::new(), |n| n.to_string());
            let state = if hysteresis.state() == State::Up { "u" } else { "d" };
            shown += &format!("{state}{change} ");
        }
        assert_eq!(shown, "u u u u u d3 d d d u2 u ");
    }

    proptest! {
        #[test]
        fn one_lost_probe_changes_nothing(
            (rise, fall) in (1..5u32, 2..6u32),
            history in vec(any::<bool>(), 0..40),
        ) {
            let mut hysteresis = Hysteresis::new(rise, fall, State::Up);
            for good in history {
                hysteresis.take(good);
            }
            // Whatever was before: good, lost, good.
            for _ in 0..rise {
                hysteresis.take(true);
            }
            prop_assert_eq!(hysteresis.state(), State::Up);
            prop_assert_eq!(hysteresis.take(false), None);
            prop_assert_eq!(hysteresis.take(true), None);
            prop_assert_eq!(hysteresis.state(), State::Up);
        }

        /// The state is that of the last run of results that reached its limit.
        #[test]
        fn it_follows_runs_only(
            (rise, fall) in (1..5u32, 1..5u32),
            results in vec(any::<bool>(), 0..60),
        ) {
            let mut hysteresis = Hysteresis::new(rise, fall, State::Up);
            let (mut wanted, mut run, mut last) = (State::Up, 0, true);
            for good in results {
                run = if good == last { run + 1 } else { 1 };
                last = good;
                if good && run >= rise {
                    wanted = State::Up;
                }
                if !good && run >= fall {
                    wanted = State::Down;
                }
                let before = hysteresis.state();
                let changed = hysteresis.take(good);
                prop_assert_eq!(hysteresis.state(), wanted);
                let limit = if good { rise } else { fall };
                prop_assert_eq!(changed, (before != wanted).then_some(limit));
            }
        }
    }
}
