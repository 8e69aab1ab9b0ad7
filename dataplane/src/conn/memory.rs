//! The memory of connection tables: the one module of the packet logic with
//! `unsafe`.
//!
//! A [`Region`] is a zeroed array that comes straight from the kernel, from
//! huge pages where there are any, so that its pages cost nothing until they
//! are used and a random access seldom misses the TLB. The rest are hints and
//! comparisons that the packet path wants done by the CPU's own instructions.

use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytemuck::Zeroable;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Size of the huge pages that tables are made of.
const HUGE_PAGE: usize = 2 << 20;

/// A zeroed array of fixed length in memory of its own.
#[derive(Debug)]
pub struct Region<T: Zeroable + Copy> {
    start: NonNull<T>,
    len: usize,
    mapped: NonZeroUsize,
    huge: bool,
}

// SAFETY: a Region owns its memory exclusively, as a Box<[T]> does; nothing
// about it belongs to the thread that made it.
unsafe impl<T: Zeroable + Copy + Send> Send for Region<T> {}

impl<T: Zeroable + Copy> Region<T> {
    /// An array of `len` zeroed elements.
    ///
    /// # Errors
    /// The kernel's, when there is no address space or memory left.
    pub fn new(len: usize) -> std::io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096, "mappings are page aligned") };
        let bytes = len
            .checked_mul(size_of::<T>())
            .and_then(|b| b.checked_next_multiple_of(HUGE_PAGE))
            .filter(|&b| isize::try_from(b).is_ok())
            .ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mapped = NonZeroUsize::new(bytes.max(HUGE_PAGE)).expect("at least one page");
        let (start, huge) = match map(mapped, MapFlags::MAP_HUGETLB) {
            Ok(start) => (start, true),
            Err(_) => (map(mapped, MapFlags::empty())?, false),
        };
        if !huge {
            // SAFETY: the range was mapped above and nothing refers to it yet.
            // Advice only: without transparent huge pages all works the same.
            let _ = unsafe { madvise(start, mapped.get(), MmapAdvise::MADV_HUGEPAGE) };
        }
        Ok(Self { start: start.cast(), len, mapped, huge })
    }

    /// Whether the memory is of reserved huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.huge
    }
}

fn map(bytes: NonZeroUsize, flags: MapFlags) -> nix::Result<NonNull<std::ffi::c_void>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = flags | MapFlags::MAP_PRIVATE;
    // SAFETY: an anonymous mapping without a fixed address overlays nothing.
    unsafe { mmap_anonymous(None, bytes, protection, flags) }
}

impl<T: Zeroable + Copy> Drop for Region<T> {
    fn drop(&mut self) {
        // SAFETY: the range is this Region's own mapping, and with the Region
        // gone no reference into it is left. Elements are Copy, so none has a
        // destructor to run.
        let _ = unsafe { munmap(self.start.cast(), self.mapped.get()) };
    }
}

impl<T: Zeroable + Copy> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is page aligned, `len` elements lie within the
        // mapping, which began as zeroes: a valid T by Zeroable.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zeroable + Copy> DerefMut for Region<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in deref, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// Asks for the cache line of `value` in the second-level cache. The first
/// level is too small for a burst's worth of table lines, and fetching into it
/// limits the lines in flight (docs/datapath.md).
#[inline(always)]
pub fn prefetch_l2<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch is a hint without architectural effect, and the
        // address is a live reference's.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(value).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks for the cache line of `value` in the first-level cache.
#[inline(always)]
pub fn prefetch_l1<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: as in prefetch_l2.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// A bit for each of 16 bytes that equals `wanted`, the first byte lowest.
#[inline(always)]
#[must_use]
pub fn equal_bytes(bytes: &[u8; 16], wanted: u8) -> u16 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
        };
        // SAFETY: SSE2 is part of x86_64, and the load reads exactly the 16
        // bytes of the reference, at any alignment.
        unsafe {
            let loaded = _mm_loadu_si128(bytes.as_ptr().cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(loaded, _mm_set1_epi8(wanted as i8))) as u16
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    bytes.iter().enumerate().fold(0, |bits, (i, &b)| bits | u16::from(b == wanted) << i)
}

/// A bit for each of 16 times that `now` has reached, the first lowest. Times
/// wrap; one is ahead of another by up to 127.
#[inline(always)]
#[must_use]
pub fn passed_bytes(times: &[u8; 16], now: u8) -> u16 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8, _mm_sub_epi8};
        // SAFETY: SSE2 is part of x86_64, and the load reads exactly the 16
        // bytes of the reference, at any alignment.
        unsafe {
            let loaded = _mm_loadu_si128(times.as_ptr().cast());
            // A negative difference is a time still ahead.
            !_mm_movemask_epi8(_mm_sub_epi8(_mm_set1_epi8(now as i8), loaded)) as u16
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    times
        .iter()
        .enumerate()
        .fold(0, |bits, (i, &t)| bits | u16::from(now.wrapping_sub(t) < 128) << i)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zeroed_and_keeps_what_is_written() {
        let mut region = Region::<u64>::new(1 << 20).unwrap();
        assert_eq!(region.len(), 1 << 20);
        assert!(region.iter().step_by(4096).all(|&word| word == 0));
        let last = region.len() - 1;
        region[last] = 7;
        assert_eq!(region[last], 7);
    }

    #[test]
    fn an_impossible_size_is_an_error() {
        assert!(Region::<u64>::new(usize::MAX / 4).is_err());
        assert!(Region::<u64>::new(1 << 57).is_err());
    }

    #[test]
    fn equal_bytes_agrees_with_the_definition() {
        let bytes: [u8; 16] = std::array::from_fn(|i| (i % 5) as u8 * 63);
        for wanted in 0..=255 {
            let expected =
                bytes.iter().enumerate().fold(0, |m, (i, &b)| m | u16::from(b == wanted) << i);
            assert_eq!(equal_bytes(&bytes, wanted), expected);
        }
    }

    #[test]
    fn passed_bytes_agrees_with_the_definition() {
        for now in 0..=255u8 {
            for first in (0..=255u8).step_by(16) {
                let times: [u8; 16] = std::array::from_fn(|i| first + i as u8);
                let expected = times
                    .iter()
                    .enumerate()
                    .fold(0, |m, (i, &t)| m | u16::from(now.wrapping_sub(t) < 128) << i);
                assert_eq!(passed_bytes(&times, now), expected);
            }
        }
    }
}
