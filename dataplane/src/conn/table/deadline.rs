//! When a connection may be over at the earliest, in a byte.
//!
//! ```text
//! near   second                modulo 128, lowest bit 0
//! far    unit of 16 seconds    modulo 128, lowest bit 1
//! ```
//!
//! The upper seven bits are the time, rounded down. Times compare as signed
//! differences: one is ahead of another by up to 63 units, which is a minute of
//! the near ones and a quarter of an hour of the far ones. A connection whose
//! far deadline has passed is given a near one, so that most are looked at once
//! or twice when they end, by a sweep that comes by every second, and not at
//! each pass of the last 16 seconds.

use crate::conn::memory::passed_bytes;
use crate::time::{TICKS_PER_SECOND, Tick};

/// Ticks in the two units.
const NEAR: u32 = TICKS_PER_SECOND;
const FAR: u32 = 16 * TICKS_PER_SECOND;
/// How far ahead a deadline can be, in its units.
const AHEAD: u32 = 63;

/// The deadline for an expiry: never later than that. A connection that lives
/// longer than can be said is looked at before, and given another one.
pub(super) fn deadline(now: Tick, expiry: Tick) -> u8 {
    if expiry.0 / NEAR <= now.0 / NEAR + AHEAD {
        near(expiry)
    } else {
        far(Tick(expiry.0.min(now.0.saturating_add(AHEAD * FAR))))
    }
}

/// A time in seconds.
#[inline]
pub(super) fn near(time: Tick) -> u8 {
    ((time.0 / NEAR) << 1) as u8
}

/// A time in units of 16 seconds.
#[inline]
fn far(time: Tick) -> u8 {
    (((time.0 / FAR) << 1) | 1) as u8
}

/// A bit for each of the deadlines that has come, the first lowest.
#[inline]
pub(super) fn passed(deadlines: &[u8; 16], now: Tick) -> u16 {
    passed_bytes(deadlines, near(now), far(now))
}

/// A bit for each of the deadlines that are not later than `latest`, or not
/// much: where that is half a minute ahead, all near ones. To compare them would
/// leave out what the sweep should have found a while ago.
pub(super) fn passed_by(deadlines: &[u8; 16], now: Tick, latest: Tick) -> u16 {
    let latest = Tick(latest.0.min(now.0.saturating_add(AHEAD * FAR)));
    let passed = passed(deadlines, latest);
    let all_near = latest.0 / NEAR > now.0 / NEAR + AHEAD / 2;
    if all_near { passed | !far_ones(deadlines) } else { passed }
}

/// A bit for each far deadline.
#[inline]
fn far_ones(deadlines: &[u8; 16]) -> u16 {
    // The lowest bit of each of eight bytes, moved next to each other.
    let bits = |word: u64| {
        let ones = word & 0x0101_0101_0101_0101;
        (ones.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u16
    };
    let [low, high]: [[u8; 8]; 2] = bytemuck::must_cast(*deadlines);
    bits(u64::from_le_bytes(low)) | bits(u64::from_le_bytes(high)) << 8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a deadline set at `set` for `expiry` has come at `now`, in every
    /// place.
    fn has_come(set: u32, expiry: u32, now: u32) -> bool {
        let byte = deadline(Tick(set), Tick(expiry));
        let all = passed(&[byte; 16], Tick(now));
        assert!(all == 0 || all == 0xffff);
        all != 0
    }

    #[test]
    fn a_deadline_comes_when_the_connection_may_be_over() {
        for set in [0, 1, 1000, 8 * 127, 8 * 128 - 1, 5_000_000] {
            for ahead in [0, 1, 7, 8, 100, 8 * 63 - 1, 8 * 63, 8 * 64, 8 * 65, 8 * 300, 8 * 900] {
                let expiry = set + ahead;
                assert!(has_come(set, expiry, expiry), "{set} + {ahead}: at the end");
                let unit = if ahead < 8 * 63 { 8 } else { 128 };
                let early = expiry.saturating_sub(unit).max(set);
                let never = ahead >= unit;
                assert!(!never || !has_come(set, expiry, early), "{set} + {ahead}: no sooner");
                for late in [1, 8, 8 * 60] {
                    assert!(has_come(set, expiry, expiry + late), "{set} + {ahead} + {late}");
                }
            }
        }
    }

    #[test]
    fn one_that_lives_longer_is_looked_at_in_between() {
        let year = 8 * 365 * 86_400;
        assert!(!has_come(80, 80 + year, 80) && !has_come(80, 80 + year, 80 + 8 * 900));
        assert!(has_come(80, 80 + year, 80 + 8 * 16 * 64));
        assert!(has_come(u32::MAX - 9, u32::MAX, u32::MAX), "at the end of time");
    }

    #[test]
    fn near_and_far_ones_lie_side_by_side() {
        let now = Tick(80_000);
        let mut deadlines = [0; 16];
        for (i, byte) in deadlines.iter_mut().enumerate() {
            let far = i % 3 == 0;
            let ahead = if far { 8 * 100 * (i as u32 + 1) } else { 8 * (i as u32) };
            *byte = deadline(now, now.plus(ahead));
            assert_eq!(*byte & 1 == 1, far, "{i}");
        }
        let far: u16 = (0..16).filter(|i| i % 3 == 0).map(|i| 1 << i).sum();
        assert_eq!(far_ones(&deadlines), far);
        assert_eq!(passed(&deadlines, now), 0);
        let nine: u16 = (0..10).filter(|i| i % 3 != 0).map(|i| 1 << i).sum();
        assert_eq!(passed(&deadlines, now.plus(8 * 9)), nine);
        assert_eq!(passed_by(&deadlines, now, now.plus(8 * 9)), nine);
        assert_eq!(passed_by(&deadlines, now, now.plus(8 * 60)), !far);
        assert_eq!(passed_by(&deadlines, now, now.plus(8 * 420)), !far | 0b1001);
        assert_eq!(passed_by(&deadlines, now, Tick(u32::MAX)), u16::MAX);
    }
}
