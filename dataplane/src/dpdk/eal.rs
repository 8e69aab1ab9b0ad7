//! DPDK's environment: started once, ended when nothing uses it any more.

use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::args::{arguments, cores};
use super::hugepages::{Available, Memory, reserve_command};
use super::{check, error_text};

/// The target under which EAL's and the drivers' own messages are logged.
const LOG_TARGET: &str = "dpdk";

/// Whether EAL may, must or must not use huge pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Use them when enough are free, else go on without and warn.
    #[default]
    Auto,
    /// Never use them.
    Never,
    /// Refuse to start without them.
    Require,
}

/// What EAL is started with.
#[derive(Debug, Clone)]
pub struct EalConfig<'a> {
    /// The program's name in EAL's messages.
    pub program: &'a str,
    /// Memory for pools, rings and drivers.
    pub memory_mb: u32,
    /// The use of huge pages.
    pub huge: HugePages,
    /// Names the runtime files; two running processes need two prefixes.
    pub file_prefix: &'a str,
    /// PCI addresses (`0000:01:00.0`) and virtual devices
    /// (`net_tap0,iface=wire0`). No other PCI device is touched.
    pub devices: &'a [String],
    /// The core of each worker, see [`Eal::launch`]; at most 127.
    pub workers: &'a [u32],
    /// Further EAL options, after all others.
    pub extra_args: &'a [String],
}

/// Why EAL did not start, or did not take a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EalError {
    /// EAL was started before in this process.
    AlreadyUsed,
    /// Neither a PCI address nor a virtual device.
    BadDevice(String),
    /// An argument contains a zero byte.
    ZeroByte(String),
    /// Huge pages are required and too few are free.
    NoHugePages {
        /// Memory that the configuration asks for.
        needed_mb: u32,
        /// Memory in free huge pages.
        free_mb: u64,
    },
    /// EAL itself refused.
    Init {
        /// The error number.
        errno: i32,
        /// What EAL complained of.
        said: String,
    },
    /// A worker's thread is not there, or busy.
    Thread {
        /// The error number.
        errno: i32,
    },
}

impl fmt::Display for EalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyUsed => write!(f, "EAL can be started once per process, and was already"),
            Self::BadDevice(device) => write!(
                f,
                "device \"{device}\" is neither a PCI address (0000:01:00.0) nor a virtual device \
                 (net_tap0,iface=wire0)"
            ),
            Self::ZeroByte(argument) => write!(f, "EAL argument {argument:?} contains a zero byte"),
            Self::NoHugePages { needed_mb, free_mb } => write!(
                f,
                "huge pages for {needed_mb} MB are required and {free_mb} MB are free; reserve them with {}",
                reserve_command(*needed_mb)
            ),
            Self::Init { errno, said } => {
                write!(
                    f,
                    "DPDK did not start: {} (error {errno}){}",
                    error_text(*errno),
                    init_hint(*errno)
                )?;
                if said.is_empty() { Ok(()) } else { write!(f, "; it said: {said}") }
            }
            Self::Thread { errno } => write!(
                f,
                "DPDK has no idle thread for a worker: {} (error {errno}); restart rvsd",
                error_text(*errno)
            ),
        }
    }
}

impl std::error::Error for EalError {}

fn init_hint(errno: i32) -> &'static str {
    match errno {
        nix::libc::EACCES | nix::libc::EPERM => {
            "; run as root, and set eal.file_prefix to another name if another DPDK process has this one"
        }
        nix::libc::ENODEV => "; check port.device: DPDK has no driver of such a name",
        nix::libc::EINVAL => "; check eal.extra_args and the arguments in port.device",
        nix::libc::ENOMEM => "; give it more memory, or reserve more huge pages",
        _ => "",
    }
}

/// The EAL of this process. Clones refer to the same one.
///
/// The last of the clones, pools, ports and worker threads to go ends it.
#[derive(Clone)]
pub struct Eal {
    shared: Arc<Shared>,
}

/// What everything that uses EAL's memory keeps alive.
pub(super) struct Shared {
    main: ThreadId,
    huge: bool,
    /// Whether tools can attach: the memory lies in files.
    attachable: bool,
    /// The complaints of the start: a device that fails does not keep EAL from it.
    said: String,
    control: Mutex<Control>,
}

/// What was made of EAL's memory. Its lock is held over every call that changes
/// EAL's or ethdev's global lists, which DPDK leaves to the caller.
#[derive(Default)]
pub(super) struct Control {
    /// Every pool ever made.
    pub(super) pools: Vec<PoolEntry>,
    /// The numbers of the ports that are open.
    pub(super) ports: Vec<u16>,
}

/// A pool, for the count at the end.
pub(super) struct PoolEntry {
    pub(super) name: String,
    pub(super) raw: NonNull<dpdk_sys::rvs_mempool>,
    /// mbufs at most that drivers have kept for good, see
    /// [`Control::leave_with_driver`].
    pub(super) kept: u32,
}

impl PoolEntry {
    /// The mbufs that somebody still has who might use them.
    pub(super) fn missing(&self) -> u32 {
        // SAFETY: pools live until `Shared` is dropped, which frees them last.
        let in_use = unsafe { dpdk_sys::rvs_pool_in_use(self.raw.as_ptr()) };
        in_use.saturating_sub(self.kept)
    }
}

impl Control {
    /// Says that a driver, now closed, may have kept so many mbufs of a pool for
    /// good: neither it nor a device has a use for them any more.
    pub(super) fn leave_with_driver(&mut self, pool: *mut dpdk_sys::rvs_mempool, mbufs: u32) {
        for entry in self.pools.iter_mut().filter(|entry| entry.raw.as_ptr() == pool) {
            entry.kept += mbufs;
        }
    }
}

// SAFETY: a mempool may be used from any thread; the pointer stays valid until
// `Shared` is dropped, because nothing else frees a pool.
unsafe impl Send for PoolEntry {}

impl Eal {
    /// Starts EAL. The calling thread becomes its main thread, and may still run
    /// on every core that it could before.
    ///
    /// # Errors
    /// Says what is missing and what to do; after [`EalError::Init`] the process
    /// cannot try again.
    pub fn init(config: &EalConfig<'_>) -> Result<Self, EalError> {
        static STARTED: AtomicBool = AtomicBool::new(false);

        let memory = memory(config)?;
        let affinity = sched_getaffinity(Pid::from_raw(0)).ok();
        let own = cores(affinity.as_ref());
        let workers: Vec<_> =
            config.workers.iter().map(|&core| cores_of_worker(core as usize, &own)).collect();
        if let Some(affinity) = affinity {
            let _ = sched_setaffinity(Pid::from_raw(0), &affinity);
        }
        let args = c_args(arguments(config, memory, &own, &workers)?)?;
        if STARTED.swap(true, Ordering::SeqCst) {
            return Err(EalError::AlreadyUsed);
        }

        // Drivers may keep pointers into the arguments for the life of the
        // process, and getopt reorders the array.
        let args: &'static mut [*mut c_char] = args
            .into_iter()
            .map(CString::into_raw)
            .chain([std::ptr::null_mut()])
            .collect::<Vec<_>>()
            .leak();
        let count = i32::try_from(args.len() - 1).unwrap_or(i32::MAX);
        *lock(&SAID) = Some(String::new());
        // SAFETY: `log_message` may be called from any thread, at any time.
        unsafe { dpdk_sys::rvs_log_to(Some(log_message)) };
        // SAFETY: `args` holds `count` C strings and a closing null, all of them
        // writable and alive for the rest of the process; `STARTED` makes this
        // the only call.
        let started = check(unsafe { dpdk_sys::rvs_eal_init(count, args.as_mut_ptr()) });
        if let Some(affinity) = affinity {
            let _ = sched_setaffinity(Pid::from_raw(0), &affinity);
        }
        let said = lock(&SAID).take().unwrap_or_default();
        if let Err(errno) = started {
            return Err(EalError::Init { errno, said });
        }

        let huge = memory != Memory::Ordinary;
        let attachable = memory == Memory::Mounted;
        let main = thread::current().id();
        let shared = Shared { main, huge, attachable, said, control: Mutex::default() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Runs `body` on the thread that EAL made for the worker of this index, on
    /// its core, with mbuf caches of its own.
    ///
    /// Workers are EAL's own threads, since from the first foreign one that is
    /// registered on, no DPDK tool (`dpdk-dumpcap`, `dpdk-proc-info`) can attach
    /// to the process.
    ///
    /// # Errors
    /// When there is no such thread, or it is busy.
    pub fn launch(
        &self,
        worker: usize,
        name: &str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<Launched, EalError> {
        let name = CString::new(name).unwrap_or_default();
        let body: Box<Box<Body>> = Box::new(Box::new(move || {
            // Fails for names that are too long, which costs nothing else.
            let _ = nix::sys::prctl::set_name(&name);
            body();
        }));
        // 0 is the main thread.
        let lcore = u32::try_from(worker + 1).unwrap_or(u32::MAX);
        let body = Box::into_raw(body);
        // SAFETY: EAL runs; `run_body` gets a pointer from `Box::into_raw` that
        // nobody else has once the launch succeeded.
        let launched = unsafe { dpdk_sys::rvs_lcore_launch(lcore, Some(run_body), body.cast()) };
        if let Err(errno) = check(launched) {
            // SAFETY: the launch failed, so the pointer is still ours alone.
            drop(unsafe { Box::from_raw(body) });
            return Err(EalError::Thread { errno });
        }
        Ok(Launched { lcore, _shared: Arc::clone(&self.shared) })
    }

    /// Lets `dpdk-dumpcap` and `dpdk-pdump` capture, where tools can attach:
    /// with huge pages in a mounted file system. Whether they can.
    pub fn allow_captures(&self) -> bool {
        // SAFETY: EAL runs.
        self.shared.attachable && check(unsafe { dpdk_sys::rvs_pdump_init() }).is_ok()
    }

    /// Whether EAL's memory lies in huge pages.
    pub fn has_huge_pages(&self) -> bool {
        self.shared.huge
    }

    /// The version of the DPDK that runs, such as `DPDK 22.11.11`.
    pub fn version(&self) -> String {
        // SAFETY: rte_version returns a static C string.
        unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rvs_version()) }.to_string_lossy().into_owned()
    }

    /// Ticks of [`tsc`] per second, as EAL measured them.
    pub fn tsc_hz(&self) -> u64 {
        // SAFETY: EAL runs.
        unsafe { dpdk_sys::rvs_tsc_hz() }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
    /// The lock around what changes EAL's global lists.
    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    /// What DPDK complained of while it started.
    pub(super) fn said(&self) -> &str {
        &self.said
    }

    /// The NUMA node to ask memory of: without huge pages EAL has one heap.
    pub(super) fn numa_node(&self, wanted: Option<u32>) -> i32 {
        wanted.filter(|_| self.huge).and_then(|node| i32::try_from(node).ok()).unwrap_or(-1)
    }
}

impl Drop for Shared {
    /// Ends EAL if that is certain to unmap no mbuf that is still in use.
    ///
    /// The counts are exact here: no pool handle, queue or running worker is
    /// left, since each keeps `Shared` alive, so nobody can take an mbuf, and
    /// only foreign threads can give one back, straight into the pool's
    /// ring. The main thread has a cache too, hence the test for it.
    fn drop(&mut self) {
        if thread::current().id() != self.main {
            log::warn!(
                "DPDK is left to the end of the process: its last user was not the main thread"
            );
            return;
        }
        let mut clean = true;
        for pool in &self.control().pools {
            let missing = pool.missing();
            if missing > 0 {
                clean = false;
                log::error!(
                    "pool {}: {missing} mbufs were never given back; DPDK's memory stays mapped",
                    pool.name
                );
            }
        }
        if !clean {
            return;
        }
        for pool in self.control().pools.drain(..) {
            // SAFETY: the pool is complete, and no handle of it is left. Freeing
            // it gives its huge pages back to the system.
            unsafe { dpdk_sys::rvs_pool_free(pool.raw.as_ptr()) };
        }
        // SAFETY: no mbuf, pool, port or thread refers to EAL's memory, as shown
        // above.
        unsafe { dpdk_sys::rvs_eal_cleanup() };
    }
}

/// What an EAL thread runs.
type Body = dyn FnOnce() + Send;

/// Runs what [`Eal::launch`] was given. 0, or 1 when it panicked.
unsafe extern "C" fn run_body(body: *mut c_void) -> i32 {
    // SAFETY: `Eal::launch` made the pointer with `Box::into_raw` and gave it
    // away.
    let body = unsafe { Box::from_raw(body.cast::<Box<Body>>()) };
    i32::from(catch_unwind(AssertUnwindSafe(body)).is_err())
}

/// What runs on an EAL thread. Dropping it waits for the end.
pub struct Launched {
    lcore: u32,
    _shared: Arc<Shared>,
}

impl Launched {
    /// Waits for the end. Whether there was no panic.
    #[must_use]
    pub fn join(self) -> bool {
        self.wait() == 0
    }

    fn wait(&self) -> i32 {
        // SAFETY: EAL runs, because `_shared` holds it, and has this thread.
        unsafe { dpdk_sys::rvs_lcore_wait(self.lcore) }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.wait();
    }
}

/// The cores of a worker's thread: its own, or those of the main thread where it
/// may not run there, since EAL ends the process over that. Changes the calling
/// thread's affinity.
fn cores_of_worker(core: usize, otherwise: &[usize]) -> Vec<usize> {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() && sched_setaffinity(Pid::from_raw(0), &set).is_ok() {
        return vec![core];
    }
    log::warn!("worker on core {core}: cannot be pinned; it runs on other cores");
    otherwise.to_vec()
}

/// The time stamp counter. Cheap, and the same on all cores.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: reads a CPU register.
    unsafe { dpdk_sys::rvs_tsc() }
}

/// Decides where the memory comes from, and says what going without costs.
fn memory(config: &EalConfig<'_>) -> Result<Memory, EalError> {
    if config.huge == HugePages::Never {
        return Ok(Memory::Ordinary);
    }
    let available = Available::of_machine(config.file_prefix);
    let memory = available.choose(config.memory_mb);
    if memory != Memory::Ordinary {
        return Ok(memory);
    }
    let (needed_mb, free_mb) = (config.memory_mb, available.free_mb());
    if config.huge == HugePages::Require {
        return Err(EalError::NoHugePages { needed_mb, free_mb });
    }
    log::warn!(
        "{needed_mb} MB wanted in huge pages, {free_mb} MB free: going on with ordinary pages, which makes packets \
         slower to handle and keeps tools such as dpdk-pdump out; {} and a restart mend it",
        reserve_command(needed_mb)
    );
    Ok(memory)
}

fn c_args(args: Vec<String>) -> Result<Vec<CString>, EalError> {
    args.into_iter()
        .map(|arg| CString::new(arg.clone()).map_err(|_| EalError::ZeroByte(arg)))
        .collect()
}

/// The errors and warnings that EAL reports while it starts, in one line: drivers
/// tell the cause as a warning (net_tap does).
static SAID: Mutex<Option<String>> = Mutex::new(None);
/// Beyond this many bytes, what EAL says while starting is not kept.
const SAID_MAX: usize = 1000;

/// Receives what EAL and the drivers log.
unsafe extern "C" fn log_message(level: u32, text: *const c_char, len: usize) {
    // SAFETY: the shim passes the bytes that stdio hands it, alive for the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), len) };
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        // RTE_LOG_EMERG is 1 and RTE_LOG_ERR 4, then warning, notice, info, debug.
        let level = match level {
            0..=4 => log::Level::Error,
            5 => log::Level::Warn,
            6 | 7 => log::Level::Info,
            _ => log::Level::Debug,
        };
        log::log!(target: LOG_TARGET, level, "{line}");
        keep(level, line);
    }
}

fn keep(level: log::Level, line: &str) {
    let mut said = lock(&SAID);
    let Some(said) = said.as_mut() else { return };
    if level > log::Level::Warn || said.len() + line.len() > SAID_MAX {
        return;
    }
    if !said.is_empty() {
        said.push_str("; ");
    }
    said.push_str(line);
}

/// A panic while holding one of these locks leaves nothing half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_start_says_what_to_do_in_one_line() {
        *lock(&SAID) = Some(String::new());
        keep(log::Level::Info, "hello");
        keep(log::Level::Warn, "no permission");
        keep(log::Level::Error, "no device");
        let said = lock(&SAID).take().unwrap_or_default();
        assert_eq!(said, "no permission; no device");
        for (errno, remedy) in [
            (nix::libc::EPERM, "eal.file_prefix"),
            (nix::libc::ENODEV, "port.device"),
            (nix::libc::EINVAL, "eal.extra_args"),
            (nix::libc::ENOMEM, "memory"),
        ] {
            let text = EalError::Init { errno, said: said.clone() }.to_string();
            assert!(text.contains(remedy) && text.ends_with(&said), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}
