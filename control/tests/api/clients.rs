//! Clients that are idle, slow, hostile, or not allowed.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use control::api::{self, ErrorCode, Request, Response};
use control::client::Client;
use control::server::Access;

use crate::Test;
use crate::bench::{Bench, RS1, Raw, VIP, encoded, id, list_all, server, service};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("1,000 idle clients keep nobody from being answered", idle_clients),
    ("clients that never read keep nobody from being answered", never_reads),
    ("garbage is answered or cut off", garbage),
    ("mutated frames break nothing", mutations),
    ("half a frame is cut off after half a second", half_a_frame),
    ("frames of the maximum size are taken", longest_frames),
    ("requests end to end in one write are answered in order", pipeline),
    ("a flood of requests keeps nobody from being answered", flood),
    ("a flood of refused frames keeps nobody from being answered", refused_flood),
    ("a flood does not hurry the rates", rates_under_flood),
    ("another version is refused", version),
    ("a client that leaves is forgotten", leaving),
    ("too many clients are told so", too_many),
    ("the socket's mode follows the configuration", socket_mode),
];

pub(crate) const AS_ROOT: &[(&str, Test)] = &[
    ("another user may look, if allowed, not change", other_user),
    ("another user's crowd does not lock root out", crowd_of_lookers),
];

/// The socket that a crowd goes to; names a process as one.
const CROWD: &str = "RVS_TEST_CROWD";

pub(crate) fn is_crowd() -> bool {
    std::env::var_os(CROWD).is_some()
}

/// Connects as often as it can, says how often that was, and stays.
pub(crate) fn crowd() {
    let socket = std::env::var_os(CROWD).expect("a crowd has it");
    let connect = |_| Client::connect(socket.as_ref()).ok();
    let clients: Vec<_> = (0..1100).map_while(connect).collect();
    println!("{}", clients.len());
    let _ = std::io::stdin().read(&mut [0]);
}

pub(crate) fn obstacle() -> Option<&'static str> {
    (!nix::unistd::Uid::effective().is_root()).then_some("takes on another user; run as root")
}

/// How long a client is to wait at most: by far longer than any answer takes, even
/// on a machine with much else to do, and shorter than a flood without end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client that waits no longer than that.
fn patient(bench: &Bench) -> Client {
    Client::connect_within(&bench.socket, PATIENCE).unwrap()
}

/// Calls one after the other are all answered, whatever others do meanwhile.
fn is_answered(client: &mut Client) {
    for call in 0..20 {
        assert_eq!(client.timeouts().map(|t| t.tcp).ok(), Some(900), "call {call}");
    }
}

fn idle_clients() {
    let bench = Bench::with_guide(2);
    let mut idle: Vec<_> = (0..1000).map(|_| bench.client()).collect();
    let mut client = patient(&bench);
    is_answered(&mut client);
    client.change(&Request::EditServer { service: id(VIP), server: server(RS1, 9) }).unwrap();
    // They are not given up while idle, and are answered when they wake.
    std::thread::sleep(Duration::from_millis(1000));
    for client in &mut idle {
        assert_eq!(client.timeouts().unwrap().tcp, 900);
    }
}

/// Fills a daemon so that its listing takes more than a socket's buffer.
fn fill(bench: &Bench) {
    let mut client = bench.client();
    for port in 1..=40 {
        let address = format!("192.168.1.100:{port}");
        client.change(&Request::AddService { service: service(&address, "rr") }).unwrap();
        for n in 1..=20 {
            let server = server(&format!("192.168.2.{n}:0"), 1);
            client.change(&Request::AddServer { service: id(&address), server }).unwrap();
        }
    }
}

fn never_reads() {
    let bench = Bench::start(1);
    fill(&bench);
    let mut deaf: Vec<_> = (0..20).map(|_| Raw::greeted(&bench)).collect();
    for raw in &mut deaf {
        for _ in 0..50 {
            raw.send(&Request::ListServices { service: None, cursor: None });
        }
    }
    let mut client = patient(&bench);
    is_answered(&mut client);
    client.change(&Request::Flush {}).unwrap();
    // They are given up after a while; what was sent by then can be read.
    std::thread::sleep(Duration::from_secs(10));
    for raw in &mut deaf {
        let mut rest = Vec::new();
        let ended = raw.0.read_to_end(&mut rest);
        assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
    }
}

/// The frame of some text.
fn framed(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn garbage() {
    let bench = Bench::start(1);
    let mut other = bench.client();
    let closes: [(&str, Vec<u8>, ErrorCode); 6] = [
        ("a web browser", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), ErrorCode::TooLong),
        ("the greatest length", vec![0xff; 4], ErrorCode::TooLong),
        (
            "one byte too long",
            (api::MAX_REQUEST as u32 + 1).to_be_bytes().into(),
            ErrorCode::TooLong,
        ),
        ("no JSON", framed(b"\x00\x01\xfe\xff"), ErrorCode::BadRequest),
        ("an empty frame", framed(b""), ErrorCode::BadRequest),
        ("no hello", encoded(&Request::Timeouts {}), ErrorCode::BadRequest),
    ];
    for (what, bytes, code) in closes {
        let mut raw = Raw::silent(&bench);
        raw.0.write_all(&bytes).unwrap();
        assert_eq!(raw.error(), code, "{what}");
        assert!(raw.is_closed(), "{what}");
        other.timeouts().unwrap();
    }
    // After the hello a mistake in a frame is only answered.
    let mut raw = Raw::greeted(&bench);
    let deep = [vec![b'['; 20_000], vec![b']'; 20_000]].concat();
    for text in [
        &b"{"[..],
        b"null",
        b"[]",
        b"{\"op\":\"nonsense\"}",
        b"{\"op\":\"flush\",\"service\":{\"address\":{\"protocol\":\"tcp\",\"address\":\"1.2.3.4:80\"}}}",
        b"{\"op\":\"timeouts\",\"surprise\":1}",
        b"{\"op\":\"delete_service\"}",
        b"{\"op\":\"list_services\",\"cursor\":-1}",
        b"{\"op\":\"list_connections\",\"limit\":1e99}",
        b"{\"op\":\"delete_service\",\"service\":{\"address\":{\"protocol\":\"tcp\",\"address\":\"1.2.3.4:99999\"}}}",
        b"{\"op\":\"delete_service\",\"service\":{\"address\":{\"protocol\":\"tcp\",\"address\":\"1.2.3.4:80\",\"port\":81}}}",
        &deep,
        b"\"\xc3\x28\"",
    ] {
        raw.0.write_all(&framed(text)).unwrap();
        assert_eq!(raw.error(), ErrorCode::BadRequest, "{}", String::from_utf8_lossy(text));
    }
    raw.send(&Request::Timeouts {});
    assert!(matches!(raw.reply(), Some(Ok(Response::Timeouts { .. }))));
    other.timeouts().unwrap();
}

/// Frames of every kind of request with a few bytes changed. Each is answered,
/// or ends the conversation; nothing else.
fn mutations() {
    let bench = Bench::with_guide(2);
    let address = id(VIP);
    let cursor = Some(api::ConnectionCursor { worker: 1, ipv6: false, group: 9 });
    let requests = [
        Request::ListServices { service: Some(address), cursor: Some(1) },
        Request::AddService { service: service("192.168.1.9:9", "wrr") },
        Request::AddServer { service: address, server: server("192.168.1.33:80", 9) },
        Request::EditServer { service: address, server: server(RS1, 65_535) },
        Request::DeleteServer { service: address, server: server(RS1, 1).address },
        Request::Zero { service: Some(address) },
        Request::SetTimeouts { timeouts: api::Timeouts { tcp: 9, tcp_fin: 9, udp: 9 } },
        Request::ListConnections { cursor, limit: 9, filter: None, count: false },
        Request::NextHops { cursor: Some(9) },
    ];
    // xorshift: the same numbers in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as usize % below
    };
    let mut other = bench.client();
    let mut raw = Raw::greeted(&bench);
    let (mut carried_out, mut refused) = (0, 0);
    for n in 0..5_000 {
        let mut json = encoded(&requests[n % requests.len()]).split_off(4);
        for _ in 0..random(4) {
            let at = random(json.len());
            match random(4) {
                0 => json[at] = random(256) as u8,
                1 => json[at] = b"0123456789\"{}[]:,-.eE"[random(21)],
                2 => json.insert(at, json[at]),
                _ => drop(json.remove(at)),
            }
        }
        raw.0.write_all(&framed(&json)).unwrap();
        match raw.reply().expect("an answer") {
            Ok(_) => carried_out += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(carried_out > 500 && refused > 500, "{carried_out} carried out, {refused} refused");
    other.timeouts().unwrap();
    other.change(&Request::Flush {}).unwrap();
}

fn half_a_frame() {
    let bench = Bench::start(1);
    let whole = encoded(&Request::Flush {});
    let dribble = |raw: &mut Raw, part: &[u8]| {
        // A byte every 50 ms does not put it off.
        for byte in part {
            if raw.0.write_all(&[*byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    for part in [&whole[..1], &whole[..4], &whole[..whole.len() - 1]] {
        let mut raw = Raw::greeted(&bench);
        let start = Instant::now();
        raw.0.write_all(part).unwrap();
        assert_eq!(raw.error(), ErrorCode::TimedOut);
        assert!(raw.is_closed());
        assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
    }
    // However many more come, one at a time.
    let mut raw = Raw::greeted(&bench);
    std::thread::scope(|scope| {
        let mut writer = Raw(raw.0.try_clone().unwrap());
        let bytes = [&framed(&[b' '; 4096])[..4], &[b' '; 4095]].concat();
        scope.spawn(move || dribble(&mut writer, &bytes));
        assert_eq!(raw.error(), ErrorCode::TimedOut);
    });
    // A frame cut off by the client's end is no request.
    let mut raw = Raw::greeted(&bench);
    raw.0.write_all(&whole[..whole.len() - 1]).unwrap();
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(raw.is_closed());
}

/// A request may be as long as [`api::MAX_REQUEST`]; one of that length from many
/// clients at a time, in pieces, is answered like any other.
fn longest_frames() {
    let bench = Bench::with_guide(1);
    let longest = |request: &Request| {
        let mut json = encoded(request).split_off(4);
        json.resize(api::MAX_REQUEST, b' ');
        framed(&json)
    };
    let edit = Request::EditServer { service: id(VIP), server: server(RS1, 77) };
    let frames = [longest(&Request::Timeouts {}), longest(&edit), longest(&Request::Timeouts {})];
    std::thread::scope(|scope| {
        for _ in 0..16 {
            let mut raw = Raw::greeted(&bench);
            let frames = &frames;
            scope.spawn(move || {
                for frame in frames {
                    frame.chunks(10_000).for_each(|piece| raw.0.write_all(piece).unwrap());
                }
                assert!(matches!(raw.reply(), Some(Ok(Response::Timeouts { .. }))));
                assert_eq!(raw.reply(), Some(Ok(Response::Done)));
                assert!(matches!(raw.reply(), Some(Ok(Response::Timeouts { .. }))));
            });
        }
        is_answered(&mut patient(&bench));
    });
    let servers = &bench.client().services(None).unwrap().services[0].servers;
    assert_eq!(servers[1].spec.weight, 77);
}

fn pipeline() {
    let bench = Bench::start(2);
    let mut raw = Raw::greeted(&bench);
    let mut bytes = Vec::new();
    for port in 1..=200 {
        let address = format!("192.168.1.100:{port}");
        bytes.extend(encoded(&Request::AddService { service: service(&address, "rr") }));
        bytes.extend(encoded(&Request::ListServices { service: Some(id(&address)), cursor: None }));
    }
    raw.0.write_all(&bytes).unwrap();
    // The client's end of sending does not take back what it asked.
    raw.0.shutdown(std::net::Shutdown::Write).unwrap();
    for port in 1..=200 {
        assert_eq!(raw.reply(), Some(Ok(Response::Done)));
        let Some(Ok(Response::Services { services, .. })) = raw.reply() else { panic!("services") };
        assert_eq!(services[0].spec.id, id(&format!("192.168.1.100:{port}")));
    }
    assert!(raw.is_closed());
}

/// Has a client send these frames over and over, reading all answers, while
/// `measure` runs.
fn flooding<R>(bench: &Bench, frames: &[u8], measure: impl FnOnce() -> R) -> R {
    let stream = Raw::greeted(bench).0;
    // Without a limit, reads go on after a signal.
    stream.set_read_timeout(None).unwrap();
    let (mut reader, mut writer) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
    let burst = frames.repeat(1 + 16_384 / frames.len());
    let total = &AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(move || while writer.write_all(&burst).is_ok() {});
        let answered = scope.spawn(move || {
            let mut answers = vec![0; 1 << 20];
            while let Ok(n @ 1..) = reader.read(&mut answers) {
                total.fetch_add(n, Ordering::Relaxed);
            }
        });
        std::thread::sleep(Duration::from_millis(50));
        let result = measure();
        // It is not cut off, and answered all the while.
        let so_far = total.load(Ordering::Relaxed);
        let more = || total.load(Ordering::Relaxed) > so_far + 1_000;
        crate::bench::eventually("the flood is answered, too", more);
        assert!(!answered.is_finished(), "the flood was cut off");
        stream.shutdown(std::net::Shutdown::Both).unwrap();
        result
    })
}

fn flood() {
    let bench = Bench::start(2);
    fill(&bench);
    let mut client = patient(&bench);
    assert_eq!(client.next_hops().unwrap().len(), 800);
    let some = server("192.168.2.1:0", 1);
    for request in [
        Request::Timeouts {},
        Request::Counters {},
        Request::NextHops { cursor: None },
        Request::ListServices { service: None, cursor: None },
        Request::ListConnections { cursor: None, limit: api::MAX_ROWS, filter: None, count: false },
        Request::EditServer { service: id("192.168.1.100:1"), server: some },
        Request::DeleteService { service: id("192.168.1.99:1") },
    ] {
        flooding(&bench, &encoded(&request), || is_answered(&mut client));
    }
}

/// Frames that are answered without being carried out.
fn refused_flood() {
    let bench = Bench::start(1);
    let mut client = patient(&bench);
    let bad = framed(b"{}");
    for frames in [encoded(&Request::Hello { version: api::VERSION }), bad] {
        flooding(&bench, &frames, || is_answered(&mut client));
    }
}

/// Rates are averages over two seconds, however busy the daemon is.
fn rates_under_flood() {
    let bench = Bench::with_guide(1);
    bench.connect((0..400).map(crate::bench::client_address), VIP);
    let rates = || bench.client().services(None).unwrap().services[0].stats.connection_rate;
    crate::bench::eventually("the first estimate", || rates() > 0);
    let before = rates();
    // The averages that follow each other, every two seconds.
    let averages = [50, 37, 28, 21, 16, 12, 9];
    assert!(averages.contains(&before), "{before}");
    let start = Instant::now();
    let timeouts = encoded(&Request::Timeouts {});
    let after = flooding(&bench, &timeouts, || {
        std::thread::sleep(Duration::from_millis(1000));
        rates()
    });
    // No more estimates than there was time for.
    let most = 1 + start.elapsed().as_secs() as usize / 2;
    let since = averages.iter().skip_while(|&&average| average != before).take(most + 1);
    assert!(since.clone().any(|&average| average == after), "{after} of {since:?} after {before}");
}

fn version() {
    let bench = Bench::start(1);
    for version in [0, api::VERSION + 1, u32::MAX] {
        let mut raw = Raw::silent(&bench);
        raw.send(&Request::Hello { version });
        let error = raw.reply().unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::Version);
        assert!(error.message.contains(&format!("version {version} ")), "{error}");
        assert!(error.message.ends_with("install the same release of both"), "{error}");
        assert!(raw.is_closed());
    }
}

fn leaving() {
    let bench = Bench::with_guide(2);
    // In the middle of every kind of request, many more than may be connected.
    for n in 0..1500 {
        let mut raw = Raw::greeted(&bench);
        match n % 4 {
            0 => {}
            1 => raw.send(&list_all(10)),
            2 => raw.send(&Request::EditServer { service: id(VIP), server: server(RS1, n) }),
            _ => raw.0.write_all(&[0, 0]).unwrap(),
        }
    }
    let mut client = patient(&bench);
    is_answered(&mut client);
    let servers = &client.services(None).unwrap().services[0].servers;
    assert_eq!(servers[1].spec.weight, 1498);
}

fn too_many() {
    let bench = Bench::start(1);
    let mut crowd: Vec<_> = (0..1024).map(|_| Raw::greeted(&bench)).collect();
    let mut raw = Raw::silent(&bench);
    assert_eq!(raw.error(), ErrorCode::Busy);
    assert!(raw.is_closed());
    // One leaves, one may come.
    crowd.pop();
    crate::bench::eventually("a place is free", || Client::connect(&bench.socket).is_ok());
}

fn socket_mode() {
    let mode = |access| {
        let bench = Bench::with_access(1, access);
        let metadata = std::fs::metadata(&bench.socket).unwrap();
        (metadata.permissions().mode() & 0o7777, metadata.gid())
    };
    let own = nix::unistd::getegid();
    assert_eq!(mode(Access::default()).0, 0o660);
    assert_eq!(mode(Access { group: Some(own), anyone_may_look: false }), (0o660, own.as_raw()));
    assert_eq!(mode(Access { group: None, anyone_may_look: true }).0, 0o666);
}

/// Some user and group without rights.
const NOBODY: u32 = 65_534;

fn other_user() {
    use nix::unistd::Gid;
    let run = |bench: &Bench, gid: u32, line: &str| {
        let program = bench.directory.0.join("rvsadm");
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_rvsadm"), &program).unwrap();
        }
        // Command::uid drops the supplementary groups, as it is called by root.
        let output = Command::new(program)
            .args(line.split_whitespace())
            .env("RVS_SOCKET", &bench.socket)
            .uid(NOBODY)
            .gid(gid)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let add = "-A -t 192.168.1.100:80 -s rr";

    let closed = Bench::start(1);
    let (code, message) = run(&closed, NOBODY, "-Ln");
    assert_eq!(code, 2);
    assert!(message.starts_with("Can't reach rvsd: permission denied on "), "{message}");

    let open = Bench::with_access(1, Access { group: None, anyone_may_look: true });
    assert_eq!(run(&open, NOBODY, "-Ln"), (0, String::new()));
    let (code, message) = run(&open, NOBODY, add);
    assert_eq!(code, 255);
    assert!(
        message.starts_with("Permission denied (you must be root or in the group"),
        "{message}"
    );
    for line in ["-C", "-Z", "--set 1 1 1", "-d -t 1.2.3.4:80 -r 1.2.3.4"] {
        assert_eq!(run(&open, NOBODY, line).0, 255, "{line}");
    }
    for line in [
        "set sloppy_tcp 1",
        "drain 192.168.1.31",
        "undrain 192.168.1.31",
        "reload",
        "reload --dry-run",
        "set log debug",
    ] {
        let (code, message) = run(&open, NOBODY, line);
        assert_eq!(code, 1, "{line}: {message}");
        assert!(message.contains("you may look but not change"), "{line}: {message}");
    }
    assert!(open.client().services(None).unwrap().services.is_empty());

    // A member of the group may, also when others may look.
    let group = 54_321;
    for anyone_may_look in [false, true] {
        let access = Access { group: Some(Gid::from_raw(group)), anyone_may_look };
        let bench = Bench::with_access(1, access);
        assert_eq!(run(&bench, group, add), (0, String::new()));
        assert_eq!(bench.client().services(None).unwrap().services.len(), 1);
    }
}

fn crowd_of_lookers() {
    let bench = Bench::with_access(1, Access { group: None, anyone_may_look: true });
    let program = bench.directory.0.join("crowd");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut crowd = Command::new(program)
        .env(CROWD, &bench.socket)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut size = String::new();
    BufReader::new(crowd.stdout.take().unwrap()).read_line(&mut size).unwrap();
    assert_eq!(size.trim(), "512");
    bench.client().change(&Request::Flush {}).unwrap();
    drop(crowd.stdin.take());
    assert!(crowd.wait().unwrap().success());
}
