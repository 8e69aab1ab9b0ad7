//! A program of netlink that does what tools may do and ipvsadm does not:
//! polls, peeks, forks, threads, asks the kernel on the same socket.

use crate::bench::Bench;
use crate::{Row, preloaded, ran};

pub(crate) const TESTS: &[Row] = &[("sockets behave as the kernel's", "python3", sockets)];

fn sockets() {
    let bench = Bench::with_guide(1);
    let mut command = preloaded("python3", &bench.socket);
    command.arg("-c").arg(include_str!("sockets.py"));
    let ran = ran(command, "");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    let passed: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(
        passed,
        [
            "poll",
            "peek",
            "kernel",
            "fork",
            "exec",
            "threads",
            "reuse",
            "nonblocking",
            "many",
            "older"
        ]
    );
}
