//! The memory of connection tables: the one module of the packet logic with
//! `unsafe`.
//!
//! A [`Region`] is a zeroed array that comes straight from the kernel, from
//! huge pages where there are any, so that a random access seldom misses the
//! TLB. Its address space is there from the start, its pages are taken as the
//! table grows: a thread, `rvs-memory`, has them made, since to zero a huge page
//! takes longer than a burst may wait, and the array is as long as its memory is
//! ready. The rest are hints and comparisons that the packet path wants done by
//! the CPU's own instructions.

use std::ffi::{c_int, c_ulong, c_void};
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytemuck::Zeroable;
use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Size of the huge pages that tables are made of.
const HUGE_PAGE: usize = 2 << 20;

/// What a region has from the start ([`Region::prepare`]): tables up to this
/// size never wait for the thread. 400,000 connections.
const FIRST: usize = 32 << 20;

/// How often the thread looks whether memory is asked for. A table asks an
/// eighth of its size ahead, and has 260,000 slots at least when it first does.
const LOOK: Duration = Duration::from_millis(2);

/// A zeroed array in memory of its own, which can become longer up to a limit,
/// where it lies.
#[derive(Debug)]
pub struct Region<T: Zeroable + Copy> {
    start: NonNull<T>,
    /// Elements that there are.
    len: usize,
    /// Elements that there can be.
    most: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: a Region owns its memory exclusively, as a Box<[T]> does; nothing
// about it belongs to the thread that made it. (The thread that prepares pages
// holds the mapping, and neither reads nor writes it.)
unsafe impl<T: Zeroable + Copy + Send> Send for Region<T> {}

impl<T: Zeroable + Copy> Region<T> {
    /// An array of zeroed elements that can have `most` of them, and begins with
    /// as many of these as fit 32 MB.
    ///
    /// # Errors
    /// The kernel's, when there is no address space, memory or thread left.
    pub fn new(most: usize) -> std::io::Result<Self> {
        const { assert!(align_of::<T>() <= 4096, "mappings are page aligned") };
        let bytes = most
            .checked_mul(size_of::<T>())
            .and_then(|b| b.checked_next_multiple_of(HUGE_PAGE))
            .filter(|&b| isize::try_from(b).is_ok())
            .ok_or(std::io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping::new(NonZeroUsize::new(bytes).unwrap_or(ONE_PAGE))?;
        let mapping = Arc::new(mapping);
        if bytes > FIRST {
            prepare_ahead(&mapping)?;
        }
        let len = most.min(FIRST / size_of::<T>());
        Ok(Self { start: mapping.start.cast(), len, most, mapping })
    }

    /// Whether the memory is of reserved huge pages.
    #[must_use]
    pub fn is_huge(&self) -> bool {
        self.mapping.huge
    }

    /// Makes the pages that it begins with, for the thread that calls: on its
    /// NUMA node. Otherwise each is made when it is first used.
    pub fn prepare(&self) {
        // Advice: without it, the first access to each page makes it.
        let _ = self.mapping.populate(0, FIRST.min(self.mapping.bytes.get()));
    }

    /// Has the thread make the pages of the first `len` elements, on the NUMA
    /// node of the caller.
    pub fn ask(&self, len: usize) {
        // SAFETY: it takes no arguments; glibc answers without the kernel.
        let cpu = unsafe { libc::sched_getcpu() };
        self.mapping.cpu.store(u32::try_from(cpu).unwrap_or(0), Ordering::Relaxed);
        self.mapping.wanted.store(self.bytes(len), Ordering::Release);
    }

    /// Makes the array `len` elements long, or as long as it can be, if it is
    /// not. False while the memory that was asked for is not ready. Where it
    /// cannot wait, the thread's being late is no reason: the pages are made as
    /// they are used. That there is no memory is one: to use it would end the
    /// process.
    #[must_use]
    pub fn extend(&mut self, len: usize, can_wait: bool) -> bool {
        let len = len.min(self.most);
        let is_ready = self.mapping.ready.load(Ordering::Acquire) >= self.bytes(len);
        if is_ready || !(can_wait || self.mapping.short.load(Ordering::Relaxed)) {
            self.len = self.len.max(len);
        }
        self.len >= len
    }

    /// Has the thread find no memory, or all.
    #[cfg(test)]
    pub fn starve(&self, starve: bool) {
        self.mapping.starved.store(starve, Ordering::Relaxed);
    }

    /// Whether the machine had no memory for what was asked for last.
    #[cfg(test)]
    pub fn is_short(&self) -> bool {
        self.mapping.short.load(Ordering::Relaxed)
    }

    /// Asks for the cache line of an element, which need not exist, in the
    /// second-level cache, or in the first.
    #[inline(always)]
    pub fn prefetch(&self, index: usize, near: bool) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
            let line = self.start.as_ptr().wrapping_add(index).cast_const().cast();
            // SAFETY: a prefetch is a hint without architectural effect, at any
            // address.
            unsafe {
                if near {
                    _mm_prefetch::<_MM_HINT_T0>(line);
                } else {
                    _mm_prefetch::<_MM_HINT_T1>(line);
                }
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (index, near);
    }

    /// The bytes that the first `len` elements take, at most all.
    fn bytes(&self, len: usize) -> usize {
        len.saturating_mul(size_of::<T>()).min(self.mapping.bytes.get())
    }
}

impl<T: Zeroable + Copy> Deref for Region<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is page aligned, `len` elements lie within the
        // mapping, which began as zeroes (a valid T by Zeroable) and lives as
        // long as `self.mapping`.
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

const ONE_PAGE: NonZeroUsize = NonZeroUsize::new(HUGE_PAGE).expect("not zero");

/// A range of memory, unmapped when nobody holds it any more.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
    huge: bool,
    /// Bytes from the start that the table wants made, and the CPU that it
    /// wants them near.
    wanted: AtomicUsize,
    cpu: AtomicU32,
    /// Bytes from the start that are made.
    ready: AtomicUsize,
    /// The machine had no memory for more.
    short: AtomicBool,
    #[cfg(test)]
    starved: AtomicBool,
}

// SAFETY: the address is only handed to the kernel here, in calls that any
// thread may make; the rest are atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: NonZeroUsize) -> std::io::Result<Self> {
        let (start, huge) = match map(bytes, MapFlags::MAP_HUGETLB) {
            Ok(start) => (start, true),
            Err(_) => (map(bytes, MapFlags::empty())?, false),
        };
        if !huge {
            // SAFETY: the range was mapped above and nothing refers to it yet.
            // Advice only: without transparent huge pages all works the same.
            let _ = unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_HUGEPAGE) };
        }
        Ok(Self {
            start,
            bytes,
            huge,
            wanted: AtomicUsize::new(0),
            cpu: AtomicU32::new(0),
            ready: AtomicUsize::new(FIRST),
            short: AtomicBool::new(false),
            #[cfg(test)]
            starved: AtomicBool::new(false),
        })
    }

    /// Makes pages, without changing what is in them.
    fn populate(&self, from: usize, to: usize) -> nix::Result<()> {
        debug_assert!(from <= to && to <= self.bytes.get());
        // SAFETY: `from` and `to` are within the mapping (wanted() and FIRST
        // are limited to its length, and the callers begin at 0 or at a former
        // end), which is mapped as long as `self` lives. The advice leaves
        // every byte as it is.
        match unsafe {
            madvise(self.start.byte_add(from), to - from, MmapAdvise::MADV_POPULATE_WRITE)
        } {
            // Linux before 5.14: the first access to each page makes it.
            Err(Errno::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// Makes what is asked for, in pieces: the kernel holds a lock of the
    /// process over each.
    fn go_on(&self) {
        let wanted = self.wanted.load(Ordering::Acquire);
        let mut ready = self.ready.load(Ordering::Relaxed);
        if ready >= wanted {
            return;
        }
        if let Some(node) = node_of(self.cpu.load(Ordering::Relaxed)) {
            prefer_node(node);
        }
        while ready < wanted {
            let end = (ready + HUGE_PAGE).min(self.bytes.get());
            let result = self.populate(ready, end);
            #[cfg(test)]
            let result = match self.starved.load(Ordering::Relaxed) {
                true => Err(Errno::ENOMEM),
                false => result,
            };
            // Without memory it is tried again in a while.
            self.short.store(result.is_err(), Ordering::Relaxed);
            if result.is_err() {
                return;
            }
            ready = end;
            self.ready.store(ready, Ordering::Release);
        }
    }

    fn is_complete(&self) -> bool {
        self.ready.load(Ordering::Relaxed) >= self.bytes.get()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this Mapping's own, and with the Mapping gone no
        // Region that could refer into it is left. Elements are Copy, so none
        // has a destructor to run.
        let _ = unsafe { munmap(self.start, self.bytes.get()) };
    }
}

fn map(bytes: NonZeroUsize, flags: MapFlags) -> nix::Result<NonNull<c_void>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let flags = flags | MapFlags::MAP_PRIVATE;
    // SAFETY: an anonymous mapping without a fixed address overlays nothing.
    unsafe { mmap_anonymous(None, bytes, protection, flags) }
}

/// The mappings that may ask for pages, and whether the thread runs.
struct Ahead {
    mappings: Vec<Weak<Mapping>>,
    runs: bool,
}

static AHEAD: Mutex<Ahead> = Mutex::new(Ahead { mappings: Vec::new(), runs: false });

/// Has the thread look after a mapping. One thread serves all tables of the
/// process; it inherits the caller's cores, and ends when all pages are made.
fn prepare_ahead(mapping: &Arc<Mapping>) -> std::io::Result<()> {
    let mut ahead = AHEAD.lock().unwrap_or_else(PoisonError::into_inner);
    ahead.mappings.push(Arc::downgrade(mapping));
    if !ahead.runs {
        std::thread::Builder::new().name("rvs-memory".to_owned()).spawn(make_pages)?;
        ahead.runs = true;
    }
    Ok(())
}

fn make_pages() {
    loop {
        std::thread::sleep(LOOK);
        let mut ahead = AHEAD.lock().unwrap_or_else(PoisonError::into_inner);
        ahead.mappings.retain(|m| m.upgrade().is_some_and(|m| !m.is_complete()));
        if ahead.mappings.is_empty() {
            ahead.runs = false;
            return;
        }
        let mappings = ahead.mappings.clone();
        drop(ahead);
        for mapping in mappings.iter().filter_map(Weak::upgrade) {
            mapping.go_on();
        }
    }
}

/// The NUMA node of a CPU.
fn node_of(cpu: u32) -> Option<u32> {
    let entries = std::fs::read_dir(format!("/sys/devices/system/cpu/cpu{cpu}")).ok()?;
    entries
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

/// Has the calling thread's new pages come from a NUMA node, if it has any.
fn prefer_node(node: u32) {
    const MPOL_PREFERRED: c_int = 1;
    let Some(mask) = c_ulong::from(1u8).checked_shl(node) else { return };
    // SAFETY: set_mempolicy(2) reads one word of the mask, here a live
    // variable, and changes nothing but the policy of this thread. The kernel
    // looks at one bit less than the number given.
    let _ = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            MPOL_PREFERRED,
            &raw const mask,
            c_ulong::from(c_ulong::BITS) + 1,
        )
    };
}

/// Asks for the cache line of `value` in the second-level cache. More lines can
/// be on their way there than to the first level (docs/datapath.md).
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

/// Asks for the cache line of `value` for writing: from the core that has it,
/// and from all others at once.
#[inline(always)]
pub fn prefetch_to_write<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint without architectural effect; CPUs without
    // this one, the first of 64 bits, take it for a no-op.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]",
            in(reg) std::ptr::from_ref(value),
            options(nostack, preserves_flags, readonly)
        );
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

/// A bit for each of 16 times that is reached, the first lowest: those whose
/// lowest bit is 0 by `even`, the others by `odd`, which has it too. Times wrap;
/// one is ahead of another by up to 127.
#[inline(always)]
#[must_use]
pub fn passed_bytes(times: &[u8; 16], even: u8, odd: u8) -> u16 {
    debug_assert!(even & 1 == 0 && odd & 1 == 1);
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{
            _mm_and_si128, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
            _mm_sub_epi8, _mm_xor_si128,
        };
        // SAFETY: SSE2 is part of x86_64, and the load reads exactly the 16
        // bytes of the reference, at any alignment.
        unsafe {
            let loaded = _mm_loadu_si128(times.as_ptr().cast());
            let one = _mm_set1_epi8(1);
            let is_odd = _mm_cmpeq_epi8(_mm_and_si128(loaded, one), one);
            let other = _mm_and_si128(is_odd, _mm_set1_epi8((even ^ odd) as i8));
            let now = _mm_xor_si128(_mm_set1_epi8(even as i8), other);
            // A negative difference is a time still ahead.
            !_mm_movemask_epi8(_mm_sub_epi8(now, loaded)) as u16
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    times.iter().enumerate().fold(0, |bits, (i, &t)| {
        let now = if t & 1 == 0 { even } else { odd };
        bits | u16::from(now.wrapping_sub(t) < 128) << i
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_zeroed_and_keeps_what_is_written() {
        let mut region = Region::<u64>::new(1 << 20).unwrap();
        assert_eq!(region.len(), 1 << 20);
        assert!(region.extend(2 << 20, true), "there are no more than it can have");
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
    fn it_becomes_longer_when_its_pages_are_made() {
        let first = FIRST / 8;
        let mut region = Region::<u64>::new(8 * first).unwrap();
        assert!(region.extend(first, true) && !region.extend(first + 1, true));
        assert_eq!(region.len(), first);
        region.ask(2 * first);
        while !region.extend(2 * first, true) {
            std::thread::sleep(LOOK);
        }
        assert!(!region.extend(3 * first, true));
        assert_eq!(region.len(), 2 * first);
        assert!(region.iter().step_by(512).all(|&word| word == 0));
        let mut resident = vec![0u8; 2 * FIRST / 4096];
        // SAFETY: one byte is written for each page of the range, which is the
        // region's own.
        let result = unsafe {
            libc::mincore(region.start.as_ptr().cast(), 2 * FIRST, resident.as_mut_ptr())
        };
        assert_eq!(result, 0);
        assert!(resident[FIRST / 4096..].iter().all(|&page| page & 1 == 1));
        // What cannot wait goes on without, unless there is no memory.
        region.starve(true);
        region.ask(4 * first);
        while !region.is_short() {
            std::thread::sleep(LOOK);
        }
        assert!(!region.extend(4 * first, false));
        region.starve(false);
        while region.is_short() {
            std::thread::sleep(LOOK);
        }
        assert!(region.extend(5 * first, false), "nobody asked for it");
        assert_eq!(region.len(), 5 * first);
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
        for even in (0..=255u8).step_by(2) {
            let odd = even.wrapping_mul(7) | 1;
            for first in (0..=255u8).step_by(16) {
                let times: [u8; 16] = std::array::from_fn(|i| first + i as u8);
                let expected = times.iter().enumerate().fold(0, |m, (i, &t)| {
                    let now = if t % 2 == 0 { even } else { odd };
                    m | u16::from(now.wrapping_sub(t) < 128) << i
                });
                assert_eq!(passed_bytes(&times, even, odd), expected);
            }
        }
    }
}
