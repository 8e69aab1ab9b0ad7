//! Where rr and wrr are in their round.

use std::sync::atomic::{AtomicU64, Ordering};

/// The index of the server to look at next and, for wrr, the weight that a
/// server needs at present.
#[derive(Debug, Default)]
pub(super) struct Position(AtomicU64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// May equal the number of servers: the round begins anew.
    pub(super) next: u32,
    /// 0: not begun.
    pub(super) weight: u32,
}

impl Position {
    /// One of its own that is the same now.
    pub(super) fn copied(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }

    /// A server was put in front of the others. The round goes on where it
    /// was; one that had not begun begins with the new server.
    pub(super) fn server_added(&self) {
        self.step(false, |place| {
            let next = if place.next == 0 { 0 } else { place.next + 1 };
            Some((Place { next, ..place }, ()))
        });
    }

    /// The server at `index` was taken out.
    pub(super) fn server_removed(&self, index: usize) {
        self.step(false, |place| {
            let next = place.next - u32::from((index as u64) < u64::from(place.next));
            Some((Place { next, ..place }, ()))
        });
    }

    /// The index of the server to look at next.
    #[inline]
    pub(super) fn next(&self) -> usize {
        (self.0.load(Ordering::Relaxed) >> 32) as usize
    }

    /// Moves on atomically: `f` may run several times. `None` from it leaves
    /// the position alone.
    ///
    /// A `single` worker that steps needs no compare-and-swap, which would wait
    /// for all of its stores before. A server that control adds or removes in
    /// just that moment is then not reckoned with: one has its turn twice, or
    /// late, as when connections open before the worker has the new list.
    #[inline]
    pub(super) fn step<R>(
        &self,
        single: bool,
        mut f: impl FnMut(Place) -> Option<(Place, R)>,
    ) -> Option<R> {
        let mut current = self.0.load(Ordering::Relaxed);
        loop {
            let place = Place { next: (current >> 32) as u32, weight: current as u32 };
            let (Place { next, weight }, result) = f(place)?;
            let new = (u64::from(next) << 32) | u64::from(weight);
            if single {
                self.0.store(new, Ordering::Relaxed);
                return Some(result);
            }
            let swap =
                self.0.compare_exchange_weak(current, new, Ordering::Relaxed, Ordering::Relaxed);
            match swap {
                Ok(_) => return Some(result),
                Err(actual) => current = actual,
            }
        }
    }
}
