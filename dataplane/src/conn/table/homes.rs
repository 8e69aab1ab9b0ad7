//! Where in the table a hash has its home: linear hashing whose largest size is
//! any number.

/// The home groups of a table.
///
/// A table of `base << level` groups has the home `low + base * bits`, where
/// `low` is the hash's lower half as a fraction of `base` (no division), and
/// `bits` as many bits of its upper half as the level says. Both are one
/// multiplication by `base`. To double means to look at one bit more: a group's
/// connections then belong to the group itself or to the one `base << level`
/// further on. While that goes on, group by group from the first, homes beyond
/// `count` are still with their other half.
#[derive(Debug, Clone, Copy)]
pub(super) struct Homes {
    base: u64,
    /// The bits of the hash that count: the lower half, and some above.
    mask: u64,
    /// How far apart a group and its new half are.
    half: usize,
    count: usize,
}

/// The most doublings: bits 32 to 55 of a hash. Those above are the tag.
const MAX_LEVEL: u32 = 24;

const LOWER_HALF: u64 = 0xffff_ffff;

impl Homes {
    /// The homes of a table that begins with `first` groups, or up to twice as
    /// many, and doubles until it has `wanted` or a few more. How many these
    /// are is the second value.
    pub(super) fn new(first: usize, wanted: usize) -> (Self, usize) {
        let level = (wanted / first.max(1)).checked_ilog2().unwrap_or(0).min(MAX_LEVEL);
        let base = wanted.div_ceil(1 << level);
        (Self { base: base as u64, mask: LOWER_HALF, half: 0, count: base }, base << level)
    }

    /// The home of a hash, below [`Homes::count`].
    #[inline]
    pub(super) fn of(&self, hash: u64) -> usize {
        let group = (((hash & self.mask) * self.base) >> 32) as usize;
        // A branch, which is free when the table is not doubling.
        if group < self.count { group } else { self.other_half(group) }
    }

    #[cold]
    fn other_half(&self, group: usize) -> usize {
        group - self.half
    }

    /// Homes that there are now.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Goes over to looking at one bit more. Nothing moves until
    /// [`Homes::split`].
    pub(super) fn double(&mut self) {
        self.half = self.count;
        self.mask = 2 * self.mask + 1;
    }

    /// Whether groups are still to be split.
    pub(super) fn is_doubling(&self) -> bool {
        (self.count as u64) < self.base * ((self.mask >> 32) + 1)
    }

    /// Groups that were split since [`Homes::double`].
    pub(super) fn done(&self) -> usize {
        self.count - self.half
    }

    /// Splits the next group: it, and the new home of some of its connections.
    pub(super) fn split(&mut self) -> (usize, usize) {
        let to = self.count;
        self.count += 1;
        (to - self.half, to)
    }

    /// Takes the last [`Homes::split`] back.
    pub(super) fn unsplit(&mut self) {
        self.count -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes() -> impl Iterator<Item = u64> {
        (1..2000u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    #[test]
    fn a_table_has_about_the_size_that_was_asked_for() {
        for (first, wanted) in [(32, 1), (32, 63), (32, 64), (4370, 833_335), (32, 143_165_576)] {
            let (homes, most) = Homes::new(first, wanted);
            let allowed = if wanted < 2 * first { wanted..=wanted } else { first..=2 * first };
            assert!(allowed.contains(&homes.count()), "{first} {wanted}: {homes:?}");
            assert!(most >= wanted && most - wanted <= wanted / first, "{first} {wanted}: {most}");
        }
    }

    #[test]
    fn a_split_moves_to_the_new_home_or_not_at_all() {
        let (mut homes, most) = Homes::new(3, 24);
        while homes.count() < most {
            homes.double();
            while homes.is_doubling() {
                let before = homes;
                let (from, to) = homes.split();
                let mut moved = 0;
                for hash in hashes() {
                    let (old, new) = (before.of(hash), homes.of(hash));
                    assert!(new == old || (old == from && new == to), "{old} {new}");
                    moved += usize::from(new == to);
                }
                assert!(moved > 0 && homes.count() == to + 1);
            }
        }
        assert_eq!(homes.count(), 24);
    }

    #[test]
    fn homes_are_even() {
        let (mut homes, most) = Homes::new(3, 24);
        while homes.count() < most {
            homes.double();
            while homes.is_doubling() {
                homes.split();
            }
        }
        let mut counts = [0u32; 24];
        hashes().for_each(|hash| counts[homes.of(hash)] += 1);
        assert!(counts.iter().all(|count| (50..120).contains(count)), "{counts:?}");
    }
}
