//! The older interface of IPVS, options of a raw IPv4 socket. Programs without
//! netlink use it, and others when netlink failed. It is refused: it must not
//! reach an IPVS that the kernel may have, and says less than netlink.

use std::ffi::c_int;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

/// `IP_VS_BASE_CTL`; the names of both directions are within 64 from there.
const FIRST: c_int = 64 + 1024 + 64;
const LAST: c_int = FIRST + 63;

/// Whether an option is one of IPVS.
pub(crate) fn is_ours(level: c_int, name: c_int) -> bool {
    level == libc::IPPROTO_IP && (FIRST..=LAST).contains(&name)
}

/// The latest failure to reach `rvsd`, 0 for none.
static UNREACHED: AtomicI32 = AtomicI32::new(0);

/// Notes whether `rvsd` could be reached.
pub(crate) fn note(reached: Result<(), Errno>) {
    UNREACHED.store(reached.err().map_or(0, |errno| errno as i32), Ordering::Relaxed);
}

/// Why it is refused. Programs try it when netlink has failed, and then tell
/// this error instead of that: so it is the same one if `rvsd` could not be
/// reached.
pub(crate) fn refusal() -> Errno {
    match UNREACHED.load(Ordering::Relaxed) {
        0 => Errno::ENOPROTOOPT,
        errno => Errno::from_raw(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_ipvs_are_refused_and_no_others() {
        for (level, name, ours) in
            [(0, 1152, true), (0, 1215, true), (0, 1151, false), (0, 1216, false), (1, 1153, false)]
        {
            assert_eq!(is_ours(level, name), ours, "{level} {name}");
        }
    }
}
