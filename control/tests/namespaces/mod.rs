//! Tests against a real kernel, each in two network namespaces of its own:
//! `here`, where rvsd would run, and `there`, the other end of a cable. `ip`
//! sets the scene.
//!
//! Needs root. Without it every test is reported as ignored, with the reason.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::{Arguments, Failed, Trial};
use nix::sched::{CloneFlags, setns, unshare};

/// A name and what it runs.
pub(crate) type Test = (&'static str, fn(&Scene));

/// Runs the tests and ends the process.
pub(crate) fn run(tests: &[Test]) -> ! {
    let arguments = Arguments::from_args();
    let obstacle = obstacle();
    let trial = |&(name, test): &Test| match &obstacle {
        None => Trial::test(name, move || in_namespaces(test)),
        Some(reason) => {
            let error = reason.clone();
            let name = format!("{name} (skipped: {reason})");
            Trial::test(name, move || Err(error.into())).with_ignored_flag(true)
        }
    };
    if let Some(reason) = &obstacle {
        println!("skipped: {} tests: {reason}", tests.len());
    }
    libtest_mimic::run(&arguments, tests.iter().map(trial).collect()).exit()
}

/// Why the tests cannot run here.
fn obstacle() -> Option<String> {
    if let Err(error) = Command::new("ip").arg("-V").output() {
        return Some(format!("cannot run ip ({error}); install iproute2"));
    }
    let tried = std::thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET)).join();
    match tried.expect("the thread returns") {
        Ok(()) => None,
        Err(errno) => Some(format!("cannot make a network namespace ({errno}); run as root")),
    }
}

/// A thread of its own, since it changes namespaces; both are gone with it.
fn in_namespaces(test: fn(&Scene)) -> Result<(), Failed> {
    let thread = std::thread::spawn(move || {
        let scene = Scene::new();
        test(&scene);
    });
    thread.join().map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("panicked").into()
    })
}

/// `lan` here (192.0.2.1/24, 2001:db8::1/64, MAC 00:50:00:00:03:00) is wired to
/// `far` there (192.0.2.2, 2001:db8::2, MAC 00:50:00:00:01:00).
pub(crate) struct Scene {
    here: File,
    there: File,
}

pub(crate) const FAR_MAC: [u8; 6] = [0, 0x50, 0, 0, 1, 0];

impl Scene {
    fn new() -> Self {
        let namespace = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
            File::open("/proc/thread-self/ns/net").expect("the namespace's file")
        };
        let scene = Self { there: namespace(), here: namespace() };
        let there = format!("/proc/{}/fd/{}", std::process::id(), scene.there.as_raw_fd());
        // Else the routes of link-local addresses come seconds later, when DAD
        // ends, in the middle of what a test counts.
        for key in ["accept_dad", "dad_transmits"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/default/{key}"), "0").expect(key);
        }
        ip("link set lo up");
        ip("link add lan address 00:50:00:00:03:00 type veth peer name far");
        ip(&format!("link set far netns {there}"));
        scene.there("link set far address 00:50:00:00:01:00 up");
        scene.there("addr add 192.0.2.2/24 dev far");
        scene.there("addr add 2001:db8::2/64 dev far nodad");
        ip("addr add 192.0.2.1/24 dev lan");
        ip("addr add 2001:db8::1/64 dev lan nodad");
        ip("link set lan up");
        scene
    }

    pub(crate) fn there(&self, command: &str) {
        setns(&self.there, CloneFlags::CLONE_NEWNET).expect("the other namespace");
        ip(command);
        setns(&self.here, CloneFlags::CLONE_NEWNET).expect("the first namespace");
    }
}

pub(crate) fn ip(command: &str) -> String {
    let output = ip_output(command);
    output.unwrap_or_else(|error| panic!("ip {command}: {error}"))
}

pub(crate) fn ip_output(command: &str) -> Result<String, String> {
    let output = Command::new("ip").args(command.split(' ')).output().expect("ip runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A second cable, for more than one way out.
pub(crate) fn second_cable(scene: &Scene) {
    ip("link add wan type veth peer name wanfar");
    let there = format!("/proc/{}/fd/{}", std::process::id(), scene.there.as_raw_fd());
    ip(&format!("link set wanfar netns {there}"));
    scene.there("link set wanfar up");
    ip("addr add 198.51.100.1/24 dev wan");
    ip("addr add 2001:db8:ffff::1/64 dev wan nodad");
    ip("link set wan up");
}

pub(crate) fn run_dir(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("hk-{name}-{}", std::process::id()));
    fs::create_dir_all(&path).expect("a run directory");
    path
}
