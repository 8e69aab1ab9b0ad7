//! Frames through queues, bursts and buffers over DPDK's own virtual devices.
//! Needs neither root nor huge pages. EAL starts once per process, so all of it
//! is one test.
#![cfg(feature = "dpdk")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::dpdk::{
    BURST, Bond, BondMode, Eal, EalConfig, EalError, HEADROOM, HugePages, IpChecksum, Launched,
    Mbuf, MemberState, Pool, Port, PortConfig, PortProblem, RSS_KEY_LEN, Recovery, RssConfig,
    RssState, RxBurst, RxQueue, TxBuffer, TxResult,
};

const MBUFS: u32 = 2047;

#[test]
fn mbufs_go_round_and_come_back() {
    let devices: Vec<String> = ["net_ring0", "net_af_packet0,iface=rvsnone"]
        .map(str::to_string)
        .into_iter()
        .chain((0..10).map(|number| format!("net_null{number}")))
        .collect();
    let prefix = format!("rvstest{}", std::process::id());
    let config = EalConfig {
        program: "dpdk_ring",
        memory_mb: 64,
        huge: HugePages::Never,
        file_prefix: &prefix,
        devices: &devices,
        workers: &[0, 0],
        extra_args: &[],
    };
    let eal = Eal::init(&config).unwrap();
    assert_eq!(Eal::init(&config).err(), Some(EalError::AlreadyUsed));
    assert!(eal.tsc_hz() > 1_000_000);
    assert!(!eal.has_huge_pages());

    let pool = Pool::new(&eal, "test", MBUFS, 256, Some(0), Pool::DATA_ROOM).unwrap();
    let busy = BusyPort::open(&pool);
    single_mbuf(&pool);
    pool_runs_empty(&pool);
    spacing_never_aliases(&eal);
    ring_port(&eal, &pool);
    null_port(&pool);
    refusals(&pool);
    threads(&eal, &pool);
    assert_eq!((pool.in_use(), pool.missing()), (0, 0));
    resets_and_removal(&eal, &pool);
    bond_loses_members(&eal, &pool);
    bond_with_lacp(&pool);
    bond_with_xor(&eal, &pool);
    bond_of_what_is_not_there(&pool);
    busy.is_reset_later();
    assert_eq!((pool.in_use(), pool.missing()), (0, 0));
    main_thread_affinity_is_kept();
    drop((pool, eal));
    remove_runtime_folder(&prefix);
}

/// EAL leaves it behind, and this prefix is not used again.
fn remove_runtime_folder(prefix: &str) {
    let own = std::env::var("XDG_RUNTIME_DIR").unwrap_or_default();
    for folder in ["/run", &own, "/tmp"].into_iter().filter(|folder| !folder.is_empty()) {
        let _ = std::fs::remove_dir_all(format!("{folder}/dpdk/{prefix}"));
    }
}

fn port_config(name: &str) -> PortConfig<'_> {
    let (rx_queues, tx_queues) = (1, 1);
    PortConfig {
        name,
        bond: None,
        rx_queues,
        tx_queues,
        rx_descriptors: 512,
        tx_descriptors: 512,
        mtu: 1500,
        tagged: false,
        rss: None,
    }
}

fn single_mbuf(pool: &Pool) {
    let mut mbuf = pool.alloc().unwrap();
    assert_eq!(pool.in_use(), 1);
    assert_eq!((mbuf.start(), mbuf.len(), mbuf.total_len()), (HEADROOM, 0, 0));
    assert_eq!(mbuf.buffer().len(), usize::from(pool.data_room()));
    assert_eq!(usize::from(mbuf.tailroom()), mbuf.buffer().len() - usize::from(HEADROOM));

    assert!(mbuf.append(b"hello "));
    assert!(mbuf.append(b"world"));
    assert!(!mbuf.append(&vec![0; usize::from(mbuf.tailroom()) + 1]));
    assert_eq!(mbuf.data(), b"hello world");
    mbuf.tail_mut()[0] = b'!';
    mbuf.set_range(HEADROOM + 6, 6);
    assert_eq!(mbuf.data(), b"world!");
    assert_eq!(mbuf.total_len(), 6);
    assert_eq!(mbuf.segments().collect::<Vec<_>>(), [b"world!"]);
    assert_eq!((mbuf.rss_hash(), mbuf.ip_checksum()), (None, IpChecksum::Unknown));
    drop(mbuf);
    assert_eq!(pool.in_use(), 0);
}

fn pool_runs_empty(pool: &Pool) {
    let mut all = Vec::new();
    while let Some(mbuf) = pool.alloc() {
        all.push(mbuf);
    }
    assert_eq!((all.len() as u32, pool.in_use()), (pool.size(), pool.size()));
    let mut burst = RxBurst::new();
    assert!(!pool.alloc_bulk(&mut burst, 1));
    drop(all);
    assert!(pool.alloc_bulk(&mut burst, BURST));
    assert!(!pool.alloc_bulk(&mut burst, 1), "a full burst takes no more");
    let refused = burst.push(pool.alloc().unwrap());
    assert!(refused.is_err());
    drop(refused);
    assert_eq!(pool.in_use(), BURST as u32);
    burst.clear();
    assert_eq!(pool.in_use(), 0);
}

fn spacing_never_aliases(eal: &Eal) {
    // With the headers, the last one would be 2048 bytes.
    for (number, data_room) in
        [Pool::DATA_ROOM, 4096 + HEADROOM, 9600, 2048 - 192].into_iter().enumerate()
    {
        let pool = Pool::new(eal, &format!("spacing{number}"), 63, 0, None, data_room).unwrap();
        assert_ne!(pool.spacing() % 2048, 0, "{data_room}");
        let mbufs: Vec<Mbuf> = std::iter::from_fn(|| pool.alloc()).collect();
        let mut starts: Vec<usize> =
            mbufs.iter().map(|mbuf| mbuf.buffer().as_ptr() as usize).collect();
        starts.sort_unstable();
        let distances: Vec<usize> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(distances.contains(&(pool.spacing() as usize)), "{data_room}: {distances:?}");
    }
    let error = Pool::new(eal, "spacing0", 63, 0, None, 2048).err().unwrap().to_string();
    assert!(error.contains("spacing0"), "{error}");
    assert!(Pool::new(eal, "cache", 63, 60, None, 2048).is_err());
    assert!(Pool::new(eal, "room", 63, 0, None, HEADROOM).is_err());
}

/// What is sent on a net_ring port arrives on it: the same mbuf, so what arrives
/// shows what was written back to it.
fn ring_port(eal: &Eal, pool: &Pool) {
    let mut port = Port::open("net_ring0", &port_config("ring"), pool).unwrap();
    assert_eq!(port.rx_queue(0).err().unwrap().problem, PortProblem::NotStarted);
    port.start().unwrap();
    assert_eq!(port.rss(), RssState::None);
    assert_eq!(port.info().driver, "net_ring");
    assert!(port.link().unwrap().up);
    let mut rx = port.rx_queue(0).unwrap();
    let mut tx = port.tx_queue(0).unwrap();
    let mut burst = RxBurst::new();

    for number in 0..BURST as u8 {
        let mut mbuf = pool.alloc().unwrap();
        assert!(mbuf.append(&[number; 100]));
        tx.push(mbuf);
    }
    assert_eq!(tx.flush(), TxResult { sent: BURST as u32, dropped: 0 });
    assert_eq!(rx.rx(&mut burst), BURST);
    let buffers: Vec<&mut [u8]> = burst.iter_mut().map(Mbuf::buffer_mut).collect();
    for (number, buffer) in buffers.into_iter().enumerate() {
        assert_eq!(buffer[usize::from(HEADROOM)], number as u8);
        buffer[usize::from(HEADROOM) - 20] = 0xee;
    }

    // Every second one goes on, 20 bytes longer at the front and 50 shorter at
    // the end; the others are dropped.
    for (number, mut mbuf) in burst.drain().enumerate() {
        if number % 2 == 1 {
            continue;
        }
        mbuf.set_range(mbuf.start() - 20, mbuf.len() + 20 - 50);
        tx.push(mbuf);
    }
    assert_eq!(pool.in_use(), BURST as u32 / 2);
    assert_eq!(tx.flush(), TxResult { sent: BURST as u32 / 2, dropped: 0 });
    assert_eq!(rx.rx(&mut burst), BURST / 2);
    for (index, mbuf) in burst.as_slice().iter().enumerate() {
        assert_eq!((mbuf.start(), mbuf.len(), mbuf.total_len()), (HEADROOM - 20, 70, 70));
        assert_eq!((mbuf.data()[0], mbuf.data()[69]), (0xee, 2 * index as u8));
    }
    assert_eq!(rx.rx(&mut burst), 0);
    assert_eq!(burst.len(), BURST / 2, "a receive that finds nothing leaves the others alone");

    drop(burst.drain().next());
    assert_eq!(pool.in_use(), 0, "an unfinished drain frees the rest");
    whole_burst(pool, &mut rx, &mut tx);
    full_ring(eal, pool, &mut rx, &mut tx);
    queues_are_owned(&mut port, rx, tx);
}

/// A burst that is sent as it lies follows what waits, and is counted with it;
/// what the ring has no room for is freed.
fn whole_burst(pool: &Pool, rx: &mut RxQueue, tx: &mut TxBuffer) {
    let mbuf = |number: u8| {
        let mut mbuf = pool.alloc().unwrap();
        assert!(mbuf.append(&[number; 60]));
        mbuf
    };
    let mut burst = RxBurst::new();
    tx.push(mbuf(0));
    tx.push(mbuf(1));
    (2..5).for_each(|number| burst.push(mbuf(number)).unwrap());
    let mut first = burst.drain();
    let mut shorter = first.next().unwrap();
    drop(first);
    assert_eq!(pool.in_use(), 3);
    shorter.set_range(HEADROOM, 50);
    burst.push(shorter).unwrap();
    burst.push(mbuf(5)).unwrap();
    tx.send_all(&mut burst);
    assert!(burst.is_empty() && tx.is_empty());
    assert_eq!(tx.flush(), TxResult { sent: 4, dropped: 0 });
    assert_eq!(rx.rx(&mut burst), 4);
    let seen: Vec<_> = burst.as_slice().iter().map(|m| (m.data()[0], m.len())).collect();
    assert_eq!(seen, [(0, 60), (1, 60), (2, 50), (5, 60)]);
    burst.clear();

    let mut dropped = 0;
    for _ in 0..20 {
        assert!(pool.alloc_bulk(&mut burst, BURST));
        burst.iter_mut().for_each(|mbuf| assert!(mbuf.append(&[9; 60])));
        tx.send_all(&mut burst);
        dropped += tx.flush().dropped;
    }
    assert_eq!(pool.in_use() + dropped, 20 * BURST as u32);
    assert!(dropped > 0);
    while rx.rx(&mut burst) > 0 {
        burst.clear();
    }
    assert_eq!(pool.in_use(), 0);
}

/// The ring behind the port holds 1023; what is beyond comes back as dropped.
fn full_ring(eal: &Eal, pool: &Pool, rx: &mut RxQueue, tx: &mut TxBuffer) {
    for _ in 0..1200 {
        let mut mbuf = pool.alloc().unwrap();
        assert!(mbuf.append(&[7; 60]));
        tx.push(mbuf);
    }
    let TxResult { sent, dropped } = tx.flush();
    assert_eq!(sent + dropped, 1200);
    assert!(dropped > 0);
    assert_eq!(pool.in_use(), sent, "what was not sent is free again");

    let mut burst = RxBurst::new();
    let mut received = 0;
    while rx.rx(&mut burst) > 0 {
        received += burst.len() as u32;
        burst.clear();
    }
    assert_eq!((received, pool.in_use()), (sent, 0));
    assert!(eal.version().starts_with("DPDK"));
}

fn queues_are_owned(port: &mut Port, rx: RxQueue, tx: TxBuffer) {
    assert_eq!(rx.port_id(), port.info().id);
    assert!(port.rx_queue(0).is_err());
    assert!(port.tx_queue(0).is_err());
    assert!(port.tx_queue(1).is_err());
    let error = port.stop().unwrap_err();
    assert_eq!(error.problem, PortProblem::QueuesInUse(2));
    drop((rx, tx));
    port.stop().unwrap();
    assert!(port.rx_queue(0).is_err());
    port.start().unwrap();
    drop(port.rx_queue(0).unwrap());
}

/// net_null receives as much as one asks for, and swallows what is sent.
fn null_port(pool: &Pool) {
    let mut port = Port::open("net_null0,size=64", &port_config("null"), pool).unwrap();
    let again = Port::open("net_null0", &port_config("again"), pool).err().unwrap();
    assert_eq!(again.problem, PortProblem::AlreadyOpen("net_null0".into()));
    port.start().unwrap();
    let mut rx = port.rx_queue(0).unwrap();
    let mut tx = port.tx_queue(0).unwrap();
    let mut burst = RxBurst::new();
    assert!(burst.push(pool.alloc().unwrap()).is_ok());
    assert_eq!(rx.rx(&mut burst), BURST - 1, "the burst's free room");
    burst.drain().for_each(|mbuf| tx.push(mbuf));
    assert_eq!(tx.len(), 0, "a full buffer was sent");
    assert_eq!(tx.flush(), TxResult { sent: BURST as u32, dropped: 0 });
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (BURST as u64 - 1, BURST as u64));

    rx.rx(&mut burst);
    burst.drain().take(3).for_each(|mbuf| tx.push(mbuf));
    assert_eq!(pool.in_use(), 3);
    drop((tx, rx, port));
    assert_eq!(pool.in_use(), 0, "unflushed frames are freed");
}

fn refusals(pool: &Pool) {
    let problem = |device: &str, config: PortConfig<'_>| {
        Port::open(device, &config, pool).err().unwrap().problem
    };
    let config = || port_config("bad");
    assert!(
        matches!(problem("net_none0", config()), PortProblem::NoDevice { device, .. } if device == "net_none0")
    );
    let failed =
        Port::open("net_af_packet0,iface=rvsnone", &config(), pool).err().unwrap().to_string();
    assert!(
        failed.starts_with("port bad: DPDK has no device net_af_packet0; it takes root or CAP_NET_RAW, and the interface in iface= must exist"),
        "{failed}"
    );
    assert_eq!(failed.lines().count(), 1, "{failed}");
    assert!(failed.contains("failed to initialize net_af_packet0"), "{failed}");
    assert!(matches!(
        problem("net_null1", PortConfig { rx_queues: 5000, ..config() }),
        PortProblem::TooManyQueues { wanted: 5000, .. }
    ));
    assert!(matches!(
        problem("net_null1", PortConfig { mtu: 2040, ..config() }),
        PortProblem::DataRoom { mtu: 2040, room: Pool::DATA_ROOM, .. }
    ));
    assert!(matches!(
        problem("net_null1", PortConfig { mtu: 20, ..config() }),
        PortProblem::Mtu { wanted: 20, .. }
    ));
    let rss = RssConfig { key: [0x6d; RSS_KEY_LEN], reta: vec![0, 1] };
    assert_eq!(
        problem("net_null1", PortConfig { rss: Some(&rss), ..config() }),
        PortProblem::BadReta
    );
}

/// Two workers on the two queues of a port that has a redirection table; some
/// mbufs are freed on another thread than the one that received them.
fn threads(eal: &Eal, pool: &Pool) {
    let rss = RssConfig { key: [0x6d; RSS_KEY_LEN], reta: vec![0, 1] };
    let config = PortConfig { rx_queues: 2, tx_queues: 2, rss: Some(&rss), ..port_config("two") };
    let mut port = Port::open("net_null1", &config, pool).unwrap();
    port.start().unwrap();
    // net_null has a table, but says how long its key is only from 23.11 on.
    assert!(matches!(port.rss(), RssState::Fixed | RssState::Programmed { reta_size: 128 }));
    let (to_other, other) = std::sync::mpsc::sync_channel::<Mbuf>(256);
    let workers: Vec<_> = (0..2)
        .map(|number| {
            (port.rx_queue(number).unwrap(), port.tx_queue(number).unwrap(), to_other.clone())
        })
        .enumerate()
        .map(|(number, (mut rx, mut tx, to_other))| {
            let result = Arc::new(AtomicUsize::new(0));
            let sum = Arc::clone(&result);
            let launched = eal.launch(number, &format!("test-{number}"), move || {
                let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
                assert_eq!(name, format!("test-{number}\n"));
                let mut burst = RxBurst::new();
                let mut sent = 0;
                for _ in 0..1000 {
                    rx.rx(&mut burst);
                    for (number, mbuf) in burst.drain().enumerate() {
                        match number % 8 {
                            0 => to_other.send(mbuf).unwrap(),
                            1 => drop(mbuf),
                            _ => tx.push(mbuf),
                        }
                    }
                    sent += tx.flush().sent;
                }
                sum.store(sent as usize, Ordering::Relaxed);
            });
            (launched.unwrap(), result)
        })
        .collect();
    drop(to_other);
    assert_eq!(other.into_iter().count(), 2 * 1000 * BURST / 8);
    for (worker, sent) in workers {
        assert!(worker.join());
        assert_eq!(sent.load(Ordering::Relaxed), 1000 * BURST * 6 / 8);
    }
    assert!(!eal.launch(0, "panics", || panic!("of the test")).unwrap().join());
    assert_eq!(eal.launch(2, "none", || ()).err(), Some(EalError::Thread { errno: 22 }), "EINVAL");
    assert_eq!(pool.in_use(), 0);
    port.stop().unwrap();
}

/// Two workers that receive and send until they are stopped, and what they count.
struct Traffic {
    stop: Arc<AtomicBool>,
    /// Received, sent, refused.
    counts: Arc<[AtomicUsize; 3]>,
    workers: Vec<Launched>,
}

impl Traffic {
    fn start(eal: &Eal, port: &Port) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<[AtomicUsize; 3]>::default());
        let workers = (0..2).map(|number| {
            let (mut rx, mut tx) = (port.rx_queue(number).unwrap(), port.tx_queue(number).unwrap());
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            let body = move || {
                let mut burst = RxBurst::new();
                while !stop.load(Ordering::Relaxed) {
                    let received = rx.rx(&mut burst);
                    tx.send_all(&mut burst);
                    let TxResult { sent, dropped } = tx.flush();
                    let all = [received, sent as usize, dropped as usize];
                    for (counter, count) in counts.iter().zip(all) {
                        counter.fetch_add(count, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_micros(100));
                }
            };
            eal.launch(usize::from(number), "traffic", body).unwrap()
        });
        let workers = workers.collect();
        Self { stop, counts, workers }
    }

    /// Waits until packets are received and sent, or neither.
    fn flows(&self, wanted: bool) -> bool {
        let count = || [0, 1].map(|index: usize| self.counts[index].load(Ordering::Relaxed));
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let before = count();
            thread::sleep(Duration::from_millis(50));
            let after = count();
            if [0, 1].iter().all(|&index: &usize| (after[index] > before[index]) == wanted) {
                return true;
            }
        }
        false
    }

    fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.workers).into_iter().for_each(|worker| assert!(worker.join()));
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Callbacks come as from a driver, while workers are in the port.
fn resets_and_removal(eal: &Eal, pool: &Pool) {
    let config = PortConfig { rx_queues: 2, tx_queues: 2, ..port_config("vf") };
    let mut port = Port::open("net_null2", &config, pool).unwrap();
    port.start().unwrap();
    let traffic = Traffic::start(eal, &port);
    assert!(traffic.flows(true));
    assert_eq!(port.recover(), []);

    for _ in 0..3 {
        port.raise(None, false);
        assert_eq!(port.recover(), [Recovery::Reset]);
        assert!(traffic.flows(true), "after a reset");
        assert_eq!(port.recover(), []);
    }
    assert!(port.link().unwrap().up);

    port.raise(None, true);
    assert_eq!(port.recover(), [Recovery::Removed]);
    assert!(traffic.flows(false), "after the removal");
    assert!(!port.link().unwrap().up);
    assert!(port.stats().unwrap_err().to_string().contains("put it back and restart rvsd"));
    port.raise(None, false);
    assert_eq!(port.recover(), []);
    traffic.stop();
    assert!(Port::open("net_null2", &config, pool).is_err(), "the device is the system's again");
}

/// A port with a worker that does not leave it when a reset is asked for.
struct BusyPort {
    port: Port,
    rx: RxQueue,
}

impl BusyPort {
    fn open(pool: &Pool) -> Self {
        let mut port = Port::open("net_null7", &port_config("busy"), pool).unwrap();
        port.start().unwrap();
        let rx = port.rx_queue(0).unwrap();
        port.raise(None, false);
        let [Recovery::Failed(error)] = &port.recover()[..] else { panic!("nothing was said") };
        assert_eq!(
            error.to_string(),
            "port busy: it waits for its reset or removal, since a worker does not leave it"
        );
        assert!(port.stats().is_ok(), "it works on");
        Self { port, rx }
    }

    /// The worker is asked again after a respite, and leaves.
    fn is_reset_later(mut self) {
        let mut burst = RxBurst::new();
        let until = Instant::now() + Duration::from_secs(20);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    self.rx.rx(&mut burst);
                    burst.clear();
                }
                self.rx.rx(&mut burst)
            });
            let mut recovered = Vec::new();
            while recovered.is_empty() && Instant::now() < until {
                recovered = self.port.recover();
                thread::sleep(Duration::from_millis(1));
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(recovered, [Recovery::Reset]);
            assert_eq!(worker.join().unwrap(), BURST, "it is in again");
        });
    }
}

fn bond(mode: BondMode, members: [u8; 2]) -> Bond {
    let members = members.map(|number| format!("net_null{number}")).to_vec();
    Bond { mode, members, numa_node: None }
}

/// net_bonding looks at its members' links now and then.
fn wait_for_states(port: &Port, wanted: [MemberState; 2]) {
    let states = || port.members().iter().map(|member| member.state).collect::<Vec<_>>();
    let until = Instant::now() + Duration::from_secs(5);
    while states() != wanted && Instant::now() < until {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(states(), wanted);
}

fn bond_loses_members(eal: &Eal, pool: &Pool) {
    use MemberState::{Active, Backup, Removed};
    let bond = bond(BondMode::ActiveBackup, [3, 4]);
    let config =
        PortConfig { bond: Some(&bond), rx_queues: 2, tx_queues: 2, ..port_config("bond") };
    let mut port = Port::open("net_bonding0", &config, pool).unwrap();
    port.start().unwrap();
    let member = Port::open("net_null3", &port_config("member"), pool).err().unwrap();
    assert!(matches!(member.problem, PortProblem::AlreadyOpen(_)), "{member}");
    assert_eq!(port.info().driver, "net_bonding");
    wait_for_states(&port, [Active, Backup]);
    assert_eq!(port.members()[1].device, "net_null4");
    let traffic = Traffic::start(eal, &port);
    assert!(traffic.flows(true));

    port.raise(Some(1), false);
    assert_eq!(port.recover(), [Recovery::Reset]);
    wait_for_states(&port, [Active, Backup]);
    assert!(traffic.flows(true), "after a member's reset");

    port.raise(Some(0), true);
    assert_eq!(port.recover(), [Recovery::MemberRemoved("net_null3".into())]);
    wait_for_states(&port, [Removed, Active]);
    assert!(traffic.flows(true) && port.link().unwrap().up, "by the other member");
    let mac = port.info().mac;
    for _ in 0..2 {
        port.raise(Some(1), false);
        assert_eq!(port.recover(), [Recovery::Reset], "what is left of it");
        wait_for_states(&port, [Removed, Active]);
        assert!(traffic.flows(true), "after the reset of what is left");
    }
    assert_eq!(port.info().mac, mac);

    port.raise(Some(1), true);
    assert_eq!(port.recover(), [Recovery::Removed], "the bond goes with its last member");
    assert!(traffic.flows(false), "without members");
    assert!(!port.link().unwrap().up);
    assert_eq!(port.stats().unwrap_err().problem, PortProblem::Gone);
    assert_eq!(port.members().iter().map(|member| member.state).collect::<Vec<_>>(), [Removed; 2]);
    port.raise(None, false);
    assert_eq!(port.recover(), [], "it is out");
    traffic.stop();
    port.stop().unwrap();
}

/// A bond with LACP calls its driver also when there is nothing to send. Nobody
/// answers here, so it carries nothing, and says what it waits for.
fn bond_with_lacp(pool: &Pool) {
    let bond = bond(BondMode::Lacp, [5, 6]);
    let config = PortConfig { bond: Some(&bond), ..port_config("lacp") };
    let mut port = Port::open("net_bonding1", &config, pool).unwrap();
    port.start().unwrap();
    let mut tx = port.tx_queue(0).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    let sent = |port: &Port| port.stats().unwrap().tx_packets;
    while sent(&port) == 0 && Instant::now() < until {
        assert_eq!(tx.flush(), TxResult::default());
        thread::sleep(Duration::from_millis(1));
    }
    assert!(sent(&port) > 0, "no LACP frames");
    wait_for_states(&port, [MemberState::Waiting; 2]);
    assert!(port.link().unwrap().up);
    tx.push(pool.alloc().unwrap());
    assert_eq!(tx.flush(), TxResult { sent: 0, dropped: 1 });
    drop(tx);
    // Driver and timers of LACP live through a reset.
    port.raise(Some(0), false);
    assert_eq!(port.recover(), [Recovery::Reset]);
    let mut tx = port.tx_queue(0).unwrap();
    let (before, until) = (sent(&port), Instant::now() + Duration::from_secs(5));
    while sent(&port) == before && Instant::now() < until {
        tx.flush();
        thread::sleep(Duration::from_millis(1));
    }
    assert_ne!(sent(&port), before, "no LACP frames after a reset");
    wait_for_states(&port, [MemberState::Waiting; 2]);
    drop(tx);
    port.stop().unwrap();
}

fn bond_with_xor(eal: &Eal, pool: &Pool) {
    let bond = bond(BondMode::BalanceXor, [8, 9]);
    let config = PortConfig { bond: Some(&bond), rx_queues: 2, tx_queues: 2, ..port_config("xor") };
    let mut port = Port::open("net_bonding2", &config, pool).unwrap();
    port.start().unwrap();
    wait_for_states(&port, [MemberState::Active; 2]);
    let traffic = Traffic::start(eal, &port);
    assert!(traffic.flows(true));
    port.raise(Some(0), true);
    assert_eq!(port.recover(), [Recovery::MemberRemoved("net_null8".into())]);
    assert!(traffic.flows(true));
    port.raise(Some(1), false);
    assert_eq!(port.recover(), [Recovery::Reset]);
    assert!(traffic.flows(true));
    traffic.stop();
    port.stop().unwrap();
}

fn bond_of_what_is_not_there(pool: &Pool) {
    let problem = |name: &str, members: [u8; 2]| {
        let bond = bond(BondMode::ActiveBackup, members);
        let config = PortConfig { bond: Some(&bond), ..port_config("none") };
        Port::open(name, &config, pool).err().unwrap().problem
    };
    assert!(
        matches!(problem("net_bonding3", [0, 99]), PortProblem::NoDevice { device, .. } if device == "net_null0"),
        "closed by its port above"
    );
    assert!(
        matches!(problem("net_bonding3", [7, 7]), PortProblem::AlreadyOpen(device) if device == "net_bonding3"),
        "a port has this device"
    );
}

fn main_thread_affinity_is_kept() {
    let affinity = || nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let here = affinity();
    let cores = (0..nix::sched::CpuSet::count()).filter(|&core| here.is_set(core).unwrap()).count();
    assert_eq!(cores, thread::available_parallelism().unwrap().get());
}
