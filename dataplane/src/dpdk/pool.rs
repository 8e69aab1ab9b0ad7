//! Pools of mbufs.

use std::ffi::CString;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::eal::{Eal, PoolEntry, Shared};
use super::mbuf::{BURST, HEADROOM, Mbuf, RxBurst};
use super::{check, error_text};

/// The largest cache per thread that DPDK takes (RTE_MEMPOOL_CACHE_MAX_SIZE).
const MAX_CACHE: u32 = 512;
/// Buffers spaced at a multiple of this alias in the L1 cache: all headers
/// compete for a few sets, and touching one costs three times as much.
const ALIAS: u32 = 2048;
/// Private sizes to choose from. One line more or less always mends the spacing.
const PRIVATE_SIZES: [u16; 2] = [0, 64];

/// A pool of mbufs of one size. Clones refer to the same pool.
///
/// A pool lives as long as the [`Eal`]: mbufs carry no reference to it.
///
/// The spacing of the mbufs is never a multiple of 2048 bytes; with
/// [`Pool::DATA_ROOM`] it is 2368.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
    raw: NonNull<dpdk_sys::rvs_mempool>,
    mbufs: u32,
    data_room: u16,
}

// SAFETY: a mempool's ring is made for many producers and consumers, and its
// caches belong to one registered thread each.
unsafe impl Send for Pool {}
// SAFETY: as above; every method goes through the mempool's own functions.
unsafe impl Sync for Pool {}

/// Why a pool could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolError {
    /// The cache is larger than 512, or than two thirds of the pool.
    BadCache {
        /// The cache that was asked for.
        cache: u32,
        /// The largest possible.
        max: u32,
    },
    /// The data room is smaller than the headroom and a minimal frame.
    SmallDataRoom(u16),
    /// DPDK refused.
    Create {
        /// The pool's name.
        name: String,
        /// The memory it needs.
        needed_mb: u64,
        /// The error number.
        errno: i32,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadCache { cache, max } => {
                write!(f, "mbuf cache {cache} is too large; at most {max} here")
            }
            Self::SmallDataRoom(room) => {
                write!(
                    f,
                    "mbuf data room {room} is too small; the headroom alone takes {HEADROOM} bytes"
                )
            }
            Self::Create { name, needed_mb, errno } => write!(
                f,
                "mbuf pool {name} ({needed_mb} MB) cannot be made: {} (error {errno}); \
                 give DPDK more memory or ask for fewer mbufs",
                error_text(*errno)
            ),
        }
    }
}

impl std::error::Error for PoolError {}

impl Pool {
    /// Room for an MTU of 1500 and its neighbours: the headroom and 2048 bytes.
    pub const DATA_ROOM: u16 = HEADROOM + 2048;

    /// Makes a pool of `mbufs`, of which each registered thread may keep `cache`
    /// for itself. `data_room` counts the headroom ([`HEADROOM`]).
    ///
    /// # Errors
    /// When the numbers do not fit each other, the name is taken or too long, or
    /// memory is short.
    pub fn new(
        eal: &Eal,
        name: &str,
        mbufs: u32,
        cache: u32,
        numa_node: Option<u32>,
        data_room: u16,
    ) -> Result<Self, PoolError> {
        // rte_mempool_create wants 1.5 times the cache to fit into the pool.
        let max = (mbufs / 3 * 2).min(MAX_CACHE);
        if cache > max {
            return Err(PoolError::BadCache { cache, max });
        }
        if data_room < HEADROOM + 64 {
            return Err(PoolError::SmallDataRoom(data_room));
        }
        let private = private_size(data_room);
        let needed_mb =
            u64::from(mbufs) * u64::from(spacing(private, data_room)) / (1024 * 1024) + 1;
        let failed = |errno| PoolError::Create { name: name.to_string(), needed_mb, errno };
        let c_name = CString::new(name).map_err(|_| failed(nix::libc::EINVAL))?;

        let shared = Arc::clone(eal.shared());
        let node = shared.numa_node(numa_node);
        let mut raw = std::ptr::null_mut();
        let mut control = shared.control();
        // SAFETY: EAL runs, the name is a C string that DPDK copies, and `raw`
        // is set if the call succeeds.
        let made = unsafe {
            dpdk_sys::rvs_pool_create(
                c_name.as_ptr(),
                mbufs,
                cache,
                private,
                data_room,
                node,
                &mut raw,
            )
        };
        check(made).map_err(failed)?;
        let raw = NonNull::new(raw).ok_or_else(|| failed(nix::libc::ENOMEM))?;
        control.pools.push(PoolEntry { name: name.to_string(), raw, kept: 0 });
        drop(control);
        Ok(Self { shared, raw, mbufs, data_room })
    }

    /// An empty mbuf with [`HEADROOM`] in front, or `None` when the pool is empty.
    #[inline]
    pub fn alloc(&self) -> Option<Mbuf> {
        let mut frame = std::mem::MaybeUninit::uninit();
        // SAFETY: the pool lives, there is room for one frame, and the call fills
        // it when it returns true.
        unsafe {
            dpdk_sys::rvs_alloc(self.raw.as_ptr(), frame.as_mut_ptr(), 1)
                .then(|| Mbuf::from_raw(frame.assume_init()))
        }
    }

    /// Adds `n` empty mbufs to `burst`, or none and returns false: when the pool
    /// has fewer, or the burst less room.
    pub fn alloc_bulk(&self, burst: &mut RxBurst, n: usize) -> bool {
        if n > BURST - burst.len() {
            return false;
        }
        burst.extend_raw(|frames, _room| {
            // SAFETY: there is room for `n` frames, as tested above, and the call
            // fills all of them or returns false.
            let filled = unsafe { dpdk_sys::rvs_alloc(self.raw.as_ptr(), frames, n as u16) };
            if filled { n as u16 } else { 0 }
        }) == n
    }

    /// The mbufs that are not in the pool: with drivers, in rings, in hands.
    ///
    /// Exact when no thread allocates or frees meanwhile.
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { dpdk_sys::rvs_pool_in_use(self.raw.as_ptr()) }
    }

    /// Those in use that a driver did not keep for good when it was closed
    /// (net_af_xdp does): 0 when all went well.
    pub fn missing(&self) -> u32 {
        let control = self.shared.control();
        control.pools.iter().find(|entry| entry.raw == self.raw).map_or(0, PoolEntry::missing)
    }

    /// The number of mbufs.
    pub fn size(&self) -> u32 {
        self.mbufs
    }

    /// Bytes of an mbuf's buffer, the headroom included.
    pub fn data_room(&self) -> u16 {
        self.data_room
    }

    /// Bytes from one mbuf to the next.
    pub fn spacing(&self) -> u32 {
        spacing(private_size(self.data_room), self.data_room)
    }

    pub(super) fn raw(&self) -> *mut dpdk_sys::rvs_mempool {
        self.raw.as_ptr()
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

fn spacing(private: u16, data_room: u16) -> u32 {
    // SAFETY: arithmetic only.
    unsafe { dpdk_sys::rvs_mbuf_spacing(private, data_room) }
}

/// The private size that keeps mbufs from aliasing.
fn private_size(data_room: u16) -> u16 {
    let good = PRIVATE_SIZES.into_iter().find(|&private| spacing(private, data_room) % ALIAS != 0);
    good.unwrap_or(0)
}
