//! Packets that are observed, and packets that are only thought of.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use control::api::{
    ErrorCode, MAX_OBSERVATIONS, ObserveEnd, ObserveFilter, ObservedPacket, PacketSpec,
    PacketVerdict, Protocol, Request, Response,
};
use control::client::Client;
use control::observe::frames;

use crate::Test;
use crate::bench::{ACK, Bench, RS2, SYN, VIP, client_address, counters, eventually, refusal, tcp};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("packets are observed in their order, to the end", observed),
    ("an observation has begun when it is answered", begun),
    ("explain says what then happens, and changes nothing", explained),
    ("what cannot be observed or explained is refused", refused),
    ("observations are few, and each is its client's own", limited),
    ("rvsadm trace, capture and explain", program),
];

fn start(client: &mut Client, filter: ObserveFilter, count: u64) -> u64 {
    let request = Request::ObserveStart { filter, count, snaplen: 2000, rate: 1000, seconds: 60 };
    match client.call(&request).unwrap() {
        Response::Observing { id } => id,
        other => panic!("{other:?}"),
    }
}

fn next(client: &mut Client, id: u64) -> (Vec<ObservedPacket>, Option<ObserveEnd>) {
    match client.call(&Request::ObserveNext { id }).unwrap() {
        Response::Observed { packets, left_out: 0, passed_by: 0, ended } => (packets, ended),
        other => panic!("{other:?}"),
    }
}

fn packet(source: &str, destination: &str) -> PacketSpec {
    PacketSpec {
        protocol: Protocol::Tcp,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        port: None,
        flags: None,
        ttl: None,
        length: None,
    }
}

fn observed() {
    let bench = Bench::with_guide(1);
    let mut client = bench.client();
    let filter = ObserveFilter {
        client: Some((*client_address(1).ip()).into()),
        client_port: Some(client_address(1).port()),
        protocol: Some(Protocol::Tcp),
        ..ObserveFilter::default()
    };
    let id = start(&mut client, filter, 3);
    let (one, other) = (client_address(1), client_address(2));
    let frames = [tcp(one, VIP, SYN), tcp(other, VIP, SYN), tcp(one, VIP, ACK), tcp(one, VIP, ACK)];
    bench.receive(frames.clone());
    let mut packets = Vec::new();
    let mut ended = None;
    eventually("the end of the observation", || {
        let (more, end) = next(&mut client, id);
        packets.extend(more);
        ended = end;
        ended.is_some()
    });
    assert_eq!(ended, Some(ObserveEnd::Count));
    assert_eq!(packets.iter().map(|p| p.number).collect::<Vec<_>>(), [1, 2, 3]);
    let states = packets.iter().map(|p| {
        let connection = p.connection.as_ref().unwrap();
        (connection.opened, connection.state_after.as_deref().unwrap())
    });
    let states: Vec<_> = states.collect();
    assert_eq!(states, [(true, "SYN_RECV"), (false, "ESTABLISHED"), (false, "ESTABLISHED")]);
    assert_eq!(packets[0].before.bytes, frames::hex(&frames[0]));
    assert_eq!(packets[0].choice.as_ref().unwrap().scheduler, "rr");
    assert!(packets.windows(2).all(|two| two[0].time_us <= two[1].time_us));
    // No route leads anywhere here.
    let no_route = PacketVerdict::Dropped { reason: "no_route".into() };
    assert!(packets.iter().all(|p| p.verdict == no_route && p.after.is_none()));
    assert_eq!(refusal(&mut client, &Request::ObserveNext { id }), ErrorCode::NoSuchObservation);
}

fn begun() {
    let bench = Bench::with_guide(2);
    let mut client = bench.client();
    bench.workers[1].hold();
    let answered = AtomicBool::new(false);
    let id = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let id = start(&mut client, ObserveFilter::default(), 9);
            answered.store(true, Ordering::Relaxed);
            id
        });
        std::thread::sleep(Duration::from_millis(100));
        assert!(!answered.load(Ordering::Relaxed), "before a worker observes");
        bench.workers[1].release();
        asking.join().unwrap()
    });
    // Each worker gets it, and one of them owns its connection.
    bench.receive([tcp(client_address(1), VIP, SYN)]);
    let mut seen = 0;
    eventually("a packet of each worker", || {
        seen += next(&mut client, id).0.len();
        seen == 2
    });
}

fn explained() {
    for workers in [1, 3] {
        let bench = Bench::with_guide(workers);
        let mut client = bench.client();
        for n in 1..6 {
            let from = client_address(n);
            let request = Request::Explain { packet: packet(&from.to_string(), VIP) };
            let before = counters(&mut client);
            let services = bench.adm_ok("-Ln --stats");
            let mut thought = || match client.call(&request).unwrap() {
                Response::Explained { explanation } => *explanation,
                other => panic!("{other:?}"),
            };
            let explanation = thought();
            assert_eq!(thought(), explanation, "the same turn twice");
            assert_eq!(counters(&mut client), before);
            assert_eq!(bench.adm_ok("-Ln --stats"), services);

            let id = start(&mut client, ObserveFilter::default(), 100);
            let frame = frames::from_hex(&explanation.packet.before.bytes).unwrap();
            bench.receive([frame]);
            let mut packets = Vec::new();
            eventually("the owner's part", || {
                packets.extend(next(&mut client, id).0);
                packets.iter().any(|p: &ObservedPacket| p.connection.is_some())
            });
            client.call(&Request::ObserveStop { id }).unwrap();
            let mut traced =
                packets.into_iter().find(|packet| packet.connection.is_some()).unwrap();
            // The bench shows each frame to every worker, so none is handed over.
            let thought = explanation.packet;
            (traced.number, traced.time_us) = (thought.number, thought.time_us);
            traced.handed_over = thought.handed_over;
            assert_eq!(traced, thought, "{workers} workers, client {n}");
        }
    }
}

fn refused() {
    let bench = Bench::with_guide(1);
    let mut client = bench.client();
    let start = |count, snaplen, rate, seconds, filter| Request::ObserveStart {
        filter,
        count,
        snaplen,
        rate,
        seconds,
    };
    let port_alone = ObserveFilter { vip_port: Some(80), ..ObserveFilter::default() };
    let none = ObserveFilter::default();
    let explain = |packet| Request::Explain { packet };
    let from = "1.2.3.4:5000";
    let requests = [
        start(0, 100, 100, 100, none),
        start(1, 9729, 100, 100, none),
        start(1, 100, 0, 100, none),
        start(1, 100, 100_001, 100, none),
        start(1, 100, 100, 0, none),
        start(1, 100, 100, 86_401, none),
        start(1, 100, 100, 100, port_alone),
        explain(packet(from, "[fd00::1]:80")),
        explain(PacketSpec { length: Some(39), ..packet(from, VIP) }),
        explain(PacketSpec { flags: Some("X".into()), ..packet(from, VIP) }),
        explain(PacketSpec { port: Some("none".into()), ..packet(from, VIP) }),
    ];
    for request in requests {
        assert_eq!(refusal(&mut client, &request), ErrorCode::InvalidArgument, "{request:?}");
    }
    assert!(Request::ObserveNext { id: 1 }.changes(), "it shows what is in packets");
    assert!(!explain(packet(from, VIP)).changes());
}

fn limited() {
    let bench = Bench::with_guide(2);
    let mut client = bench.client();
    let filter = ObserveFilter::default();
    let ids: Vec<_> = (0..MAX_OBSERVATIONS).map(|_| start(&mut client, filter, 9)).collect();
    let one_more =
        Request::ObserveStart { filter, count: 9, snaplen: 2000, rate: 1000, seconds: 60 };
    assert_eq!(refusal(&mut client, &one_more), ErrorCode::TooManyObservations);
    let mut other = bench.client();
    let theirs = Request::ObserveNext { id: ids[0] };
    assert_eq!(refusal(&mut other, &theirs), ErrorCode::NoSuchObservation);
    // Again and again: workers give back what has ended.
    let mut last = ids[0];
    for _ in 0..20 {
        let stopped = client.call(&Request::ObserveStop { id: last }).unwrap();
        let Response::Observed { ended, .. } = stopped else { panic!("{stopped:?}") };
        assert_eq!(ended, Some(ObserveEnd::Stopped));
        last = start(&mut client, filter, 9);
    }
}

fn program() {
    let bench = Bench::with_guide(1);
    let run = |words: &[&str]| {
        let program = std::process::Command::new(env!("CARGO_BIN_EXE_rvsadm"))
            .arg("--socket")
            .arg(&bench.socket)
            .args(words)
            .output()
            .unwrap();
        assert!(
            program.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&program.stderr)
        );
        program.stdout
    };
    let from = client_address(1).to_string();
    let text = String::from_utf8(run(&["explain", "TCP", &from, VIP])).unwrap();
    for line in [
        format!("is          TCP {from} > {VIP}, TTL 64 [S]"),
        format!("service     TCP {VIP}"),
        format!("server      {RS2}, by rr"),
        "method      Route (DR)".into(),
        "verdict     dropped: no_route".into(),
        "to do ".into(),
    ] {
        assert!(text.contains(&line), "no {line:?} in:\n{text}");
    }
    let frame = tcp(client_address(1), VIP, SYN);
    let observe = |words: &[&str]| {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Until the program has seen its packet.
                while !done.load(Ordering::Relaxed) {
                    bench.receive([frame.clone()]);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let output = run(words);
            done.store(true, Ordering::Relaxed);
            output
        })
    };
    let text = String::from_utf8(observe(&["trace", "--vip", VIP, "--count", "1"])).unwrap();
    assert!(text.contains("dropped: no_route"), "{text}");
    let file = observe(&["capture", "-w", "-", "--client", &from, "--drops", "--count", "1"]);
    assert_eq!(file[..4], [0x0a, 0x0d, 0x0d, 0x0a], "a section header");
    let contains = |text: &[u8]| file.windows(text.len()).any(|window| window == text);
    assert!(contains(b"; Route (DR); ") && contains(b"dropped: no_route"), "a comment");
    assert!(contains(&frame), "the packet itself");
}
