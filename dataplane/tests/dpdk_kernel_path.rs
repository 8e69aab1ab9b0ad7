//! The kernel path against a real kernel: packets both ways, and a tap that
//! someone removes.

mod common;

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use dataplane::dpdk::kernel_path::{ControlFrame, KernelCounters, KernelPath, TapPort};
use dataplane::dpdk::rings::{Parcel, WorkerRings, connect};
use dataplane::dpdk::{Eal, EalConfig, HugePages, Pool, Tap};
use nix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    common::in_own_namespace("a_removed_tap_is_survived_at_rest", a_removed_tap_is_survived_at_rest)
}

fn a_removed_tap_is_survived_at_rest() {
    let config = EalConfig {
        program: "dpdk_kernel_path",
        memory_mb: 64,
        huge: HugePages::Auto,
        file_prefix: "rvstestkernel",
        devices: &[],
        workers: &[],
        extra_args: &[],
    };
    let eal = Eal::init(&config).unwrap();
    let pool = Pool::new(&eal, "taps", 4095, 256, None, Pool::DATA_ROOM).unwrap();
    let (mut workers, kernel) = connect(1);
    let mut worker = workers.remove(0);
    let taps = ["hv-stays", "hv-goes"]
        .map(|name| Tap::create(name, [2, 0, 0, 0, 0x98, name.len() as u8], 1500).unwrap())
        .map(|tap| TapPort::new(tap, pool.clone(), None, 1500));
    ip("addr add 10.97.0.1/24 dev hv-stays");
    let counters = Arc::new(KernelCounters::default());
    let (send, frames) = sync_channel(4);
    let path = KernelPath {
        taps: taps.into(),
        rings: kernel,
        control: frames,
        counters: Arc::clone(&counters),
        probes: Arc::default(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let thread = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            path.run(&stop);
            clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap()
        }
    });

    asks_and_is_answered(&pool, &mut worker);
    what_control_sends_leaves(&send, &mut worker);
    ip("link del hv-goes");
    // To a tap that is gone: counted, and the others go on.
    let mut mbuf = pool.alloc().unwrap();
    assert!(mbuf.append(&[0; 60]));
    worker.punt.push(Parcel::new(mbuf, 1)).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(counters.to_kernel_failed.load(Ordering::Relaxed), 1);
    asks_and_is_answered(&pool, &mut worker);

    stop.store(true, Ordering::Relaxed);
    let used = Duration::from(thread.join().unwrap());
    println!("CPU time of the kernel path: {used:?}");
    assert!(used < Duration::from_millis(500), "it spins: {used:?}");
    drop(worker);
    assert_eq!(pool.in_use(), 0);
}

/// A frame of the control thread's leaves by its port; for a port that is not
/// there it goes nowhere.
fn what_control_sends_leaves(send: &SyncSender<ControlFrame>, worker: &mut WorkerRings) {
    while worker.inject.pop().is_ok() {}
    for port in [9, 1] {
        send.send(ControlFrame { port, bytes: vec![port; 60] }).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(2);
    let found = loop {
        // The kernel's own (IPv6) come the same way.
        match worker.inject.pop() {
            Ok(parcel) if parcel.mbuf.data() == [1; 60] => break Some(parcel.port),
            Ok(parcel) if parcel.mbuf.data() == [9; 60] => panic!("sent by {}", parcel.port),
            _ if Instant::now() > until => break None,
            _ => {}
        }
    };
    assert_eq!(found, Some(1));
}

/// An ARP question into the tap, the kernel's answer out of it.
fn asks_and_is_answered(pool: &Pool, worker: &mut WorkerRings) {
    while worker.inject.pop().is_ok() {}
    let question = [
        [0xff; 6].as_slice(),
        &[2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
        &[2, 0, 0, 0, 0, 7, 10, 97, 0, 7],
        &[0, 0, 0, 0, 0, 0, 10, 97, 0, 1],
    ]
    .concat();
    let mut mbuf = pool.alloc().unwrap();
    assert!(mbuf.append(&question));
    worker.punt.push(Parcel::new(mbuf, 0)).unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        let Ok(Parcel { mbuf, port, .. }) = worker.inject.pop() else { continue };
        let data = mbuf.data();
        if port == 0 && data.len() >= 42 && data[12..14] == [8, 6] && data[20..22] == [0, 2] {
            return;
        }
    }
    panic!("the kernel did not answer ARP on the tap");
}

fn ip(args: &str) {
    let status = Command::new("ip").args(args.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {args}");
}
