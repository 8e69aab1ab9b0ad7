//! Tests that need root and a network namespace to themselves: they make it, and
//! say so where they cannot.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use nix::sched::{CloneFlags, unshare};

/// Runs a test in a namespace of its own; ignored, with the reason, where there
/// can be none. To be called first thing in `main`: threads inherit the
/// namespace of the one that starts them.
pub(crate) fn in_own_namespace(name: &str, test: fn()) -> ExitCode {
    let obstacle = unshare(CloneFlags::CLONE_NEWNET).err();
    if let Some(errno) = obstacle {
        println!("skipped: {name}: cannot make a network namespace ({errno}); run as root");
    }
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    let trials = vec![trial.with_ignored_flag(obstacle.is_some())];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
