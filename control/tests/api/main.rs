//! The control API end to end, without DPDK: a real [`control::daemon::Daemon`]
//! on a real socket, real directors without ports as its workers, and clients
//! of every kind, from `rvsadm` to hostile ones.
//!
//! One test at a time unless told otherwise: several of them measure how long
//! an answer takes.

mod bench;
mod clients;
mod growth;
mod health;
mod metrics;
mod observe;
mod reload;
mod restart;
mod session;
mod workers;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() {
    if restart::is_child() {
        return restart::child();
    }
    if clients::is_crowd() {
        return clients::crowd();
    }
    // A client's two ends are both in this process.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let tests = [
        session::TESTS,
        workers::TESTS,
        health::TESTS,
        clients::TESTS,
        growth::TESTS,
        metrics::TESTS,
        observe::TESTS,
        reload::TESTS,
        restart::TESTS,
    ]
    .concat();
    let trials = tests.into_iter().map(|(name, test)| Trial::test(name, move || run(test)));
    let skipped = clients::AS_ROOT.iter().map(|&(name, test)| match clients::obstacle() {
        None => Trial::test(name, move || run(test)),
        Some(reason) => {
            println!("skipped: {name}: {reason}");
            let name = format!("{name} (skipped: {reason})");
            Trial::test(name, move || Err(reason.into())).with_ignored_flag(true)
        }
    });
    libtest_mimic::run(&arguments, trials.chain(skipped).collect()).exit();
}

type Test = fn();

/// Turns a panic into a failure with its message.
fn run(test: Test) -> Result<(), Failed> {
    std::panic::catch_unwind(test).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").into()
    })
}
