//! What other programs may not have of this process.

use std::io;

use nix::libc;

/// Closes all descriptors but standard input and outputs in the programs that
/// this process starts from now on. DPDK opens its files without O_CLOEXEC: a
/// program that outlives the process would keep its memory and its taps.
///
/// # Errors
/// The system's: Linux before 5.11 cannot do it.
pub fn keep_from_programs() -> io::Result<()> {
    let (first, last) = (3u32, u32::MAX);
    // SAFETY: with this flag close_range(2) closes nothing; it sets
    // close-on-exec, on which no owner of a descriptor relies. It takes numbers
    // only, no memory.
    let done =
        unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use super::*;

    #[test]
    fn programs_do_not_get_descriptors() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let pipe = std::fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        let inherited = || {
            let listed = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
            String::from_utf8(listed.stdout).unwrap().contains(pipe.to_str().unwrap())
        };
        assert!(inherited(), "before");
        keep_from_programs().unwrap();
        assert!(!inherited(), "after");
    }
}
