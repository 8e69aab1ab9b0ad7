use super::*;
use crate::api::{Protocol, Reply, Response, ServiceStatus, Stats, Timeouts};
use crate::ipvsadm::output;
use crate::test_server::{TestServer, hello};

/// What a run printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: u8,
    stdout: String,
    stderr: String,
}

fn ran(line: &str, stdin: &str, socket: &Path) -> Ran {
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let streams =
        Streams { stdin: &mut stdin.as_bytes(), stdout: &mut stdout, stderr: &mut stderr };
    let code = run(line.split_whitespace().map(OsString::from), "ipvsadm", socket, streams);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code, stdout: text(stdout), stderr: text(stderr) }
}

/// Runs a line against a daemon that answers with `replies` after the hello.
fn served(line: &str, stdin: &str, replies: Vec<Reply>) -> (Ran, Vec<Request>) {
    let server = TestServer::start(std::iter::once(hello()).chain(replies).collect());
    let ran = ran(line, stdin, server.path());
    (ran, server.requests())
}

fn refuse(code: ErrorCode) -> Reply {
    Err(api::Error::new(code, "what the daemon says"))
}

fn services(services: Vec<ServiceStatus>) -> Reply {
    Ok(Response::Services { services, next: None, table_size: 4096 })
}

fn id(address: &str) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: address.parse().unwrap() }
}

fn status(address: &str) -> ServiceStatus {
    let line = format!("-A -t {address} -s rr");
    let words = line.split_whitespace().map(OsString::from);
    match grammar::parse(words, "ipvsadm", &Ports::default()) {
        Ok(Command::AddService(spec)) => {
            ServiceStatus { spec, stats: Stats::default(), servers: Vec::new() }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn changes_print_nothing() {
    let (ran, requests) = served("-D -t 1.2.3.4:80", "", vec![Ok(Response::Done)]);
    assert_eq!(ran, Ran { code: 0, stdout: String::new(), stderr: String::new() });
    assert_eq!(requests[1..], [Request::DeleteService { service: id("1.2.3.4:80") }]);
}

#[test]
fn refusals_have_the_words_and_codes_of_ipvsadm() {
    let kernel = "Invalid operation.  Possibly wrong module version, address not unicast, \
                  ...\nrvsd: what the daemon says";
    for (line, code, message) in [
        ("-A -t 1.2.3.4:80", ErrorCode::ServiceExists, "Service already exists"),
        (
            "-A -t 1.2.3.4:80 -s foo",
            ErrorCode::NoSuchScheduler,
            "Scheduler or persistence engine not found",
        ),
        ("-D -t 1.2.3.4:80", ErrorCode::NoSuchService, "No such service"),
        ("-a -t 1.2.3.4:80 -r 1.1.1.1", ErrorCode::ServiceNotDefined, "Service not defined"),
        ("-a -t 1.2.3.4:80 -r 1.1.1.1", ErrorCode::ServerExists, "Destination already exists"),
        ("-d -t 1.2.3.4:80 -r 1.1.1.1", ErrorCode::NoSuchServer, "No such destination"),
        ("-a -t 1.2.3.4:80 -r 0.0.0.0", ErrorCode::InvalidArgument, kernel),
        ("-a -t 1.2.3.4:80 -r 1.1.1.1 -m", ErrorCode::Unsupported, "what the daemon says"),
        ("-C", ErrorCode::WorkerStalled, "rvsd: what the daemon says"),
    ] {
        let (ran, _) = served(line, "", vec![refuse(code)]);
        assert_eq!((ran.code, ran.stderr), (255, format!("{message}\n")), "{line}");
    }
    let (ran, _) = served("-Z", "", vec![refuse(ErrorCode::Permission)]);
    assert!(ran.stderr.starts_with("Permission denied (you must be root or in"), "{ran:?}");
}

#[test]
fn listing_an_unknown_service_is_code_1() {
    let (ran, _) = served("-Ln -t 9.9.9.9:1", "", vec![refuse(ErrorCode::NoSuchService)]);
    let stderr = "No such service\n".to_owned();
    assert_eq!(ran, Ran { code: 1, stdout: String::new(), stderr });
}

#[test]
fn the_version_line_is_left_out_for_one_service() {
    let (all, _) = served("-Ln", "", vec![services(vec![status("1.2.3.4:80")])]);
    let (one, requests) =
        served("-Ln -t 1.2.3.4:80", "", vec![services(vec![status("1.2.3.4:80")])]);
    assert_eq!(all.stdout, output::version_line(4096) + &one.stdout);
    assert!(one.stdout.starts_with("Prot LocalAddress"), "{}", one.stdout);
    assert_eq!(
        requests[1],
        Request::ListServices { service: Some(id("1.2.3.4:80")), cursor: None }
    );
}

#[test]
fn services_are_sorted_unless_told_otherwise() {
    let rows = || services(vec![status("1.2.3.9:80"), status("1.2.3.4:80")]);
    let (sorted, _) = served("-Sn", "", vec![rows()]);
    assert_eq!(sorted.stdout, "-A -t 1.2.3.4:80 -s rr\n-A -t 1.2.3.9:80 -s rr\n");
    let (unsorted, _) = served("-Ln --nosort", "", vec![rows()]);
    let addresses: Vec<&str> = unsorted.stdout.lines().skip(3).collect();
    assert_eq!(addresses, ["TCP  1.2.3.9:80 rr", "TCP  1.2.3.4:80 rr"]);
}

#[test]
fn connections_and_timeouts_are_listed() {
    let timeouts = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let (ran, _) = served("-L --timeout", "", vec![Ok(Response::Timeouts { timeouts })]);
    assert_eq!(ran.stdout, "Timeout (tcp tcpfin udp): 900 120 300\n");
    let row = api::Connection {
        protocol: Protocol::Tcp,
        state: "ESTABLISHED".into(),
        expires_ms: 899_999,
        client: "10.0.1.2:34458".parse().unwrap(),
        virtual_address: "10.0.1.102:80".parse().unwrap(),
        server: "10.0.1.11:80".parse().unwrap(),
        worker: 0,
        method: None,
        template: false,
    };
    let page = Response::Connections { connections: vec![row], next: None, count: None };
    let (ran, _) = served("-Lnc", "", vec![Ok(page)]);
    assert_eq!(
        ran.stdout,
        "IPVS connection entries\n\
         pro expire state       source             virtual            destination\n\
         TCP 14:59  ESTABLISHED 10.0.1.2:34458     10.0.1.102:80      10.0.1.11:80\n"
    );
}

#[test]
fn restore_carries_out_each_line() {
    let input = "ipvsadm -A -t 1.2.3.4:80 -s rr\n\n  \n-D -t 1.2.3.4:80\r\n-C";
    let done = || Ok(Response::Done);
    let (ran, requests) = served("-R", input, vec![done(), done(), done()]);
    assert_eq!(ran, Ran { code: 0, stdout: String::new(), stderr: String::new() });
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert_eq!(requests[3], Request::Flush {});
}

#[test]
fn restore_stops_at_the_first_mistake_and_names_its_line() {
    let input = "-C\n-A -t 1.2.3.4:80 -w 3\n-C\n";
    let (ran, requests) = served("-R", input, vec![Ok(Response::Done), Ok(Response::Done)]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            2,
            "Illegal 'weight' option with the 'add-service' command\n\
             Stopped at line 2: -A -t 1.2.3.4:80 -w 3\n"
        )
    );
    assert_eq!(requests[1..], [Request::Flush {}]);
}

#[test]
fn restore_names_refused_lines_and_goes_on() {
    let input = "-D -t 1.2.3.4:80\n-C\n";
    let replies = vec![refuse(ErrorCode::NoSuchService), Ok(Response::Done)];
    let (ran, requests) = served("-R", input, replies);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (
            255,
            "line 1: -D -t 1.2.3.4:80: No such service\n\
             The lines named above are not in force.\n"
        )
    );
    assert_eq!(requests[2], Request::Flush {});
}

#[test]
fn restore_does_not_restore() {
    let (ran, _) = served("-R", "-R\n", vec![]);
    assert_eq!(ran.code, 255);
}

#[test]
fn without_a_daemon_the_code_is_2() {
    let ran = ran("-Ln", "", Path::new("/nonexistent/rvsd.sock"));
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.starts_with("Can't reach rvsd: there is no socket"), "{}", ran.stderr);
}

#[test]
fn help_version_and_mistakes_need_no_daemon() {
    let nowhere = Path::new("/nonexistent/rvsd.sock");
    let version = ran("-v", "", nowhere);
    assert_eq!(version.code, 0);
    assert_eq!(
        version.stdout,
        concat!(
            "rvsadm v",
            env!("CARGO_PKG_VERSION"),
            " (compatible with ipvsadm v1.31 and IPVS v1.2.1)\n"
        )
    );
    let help = ran("-h", "", nowhere);
    assert_eq!(help.code, 0);
    assert!(help.stdout.contains("Usage: ipvsadm COMMAND"), "{}", help.stdout);
    for line in help.stdout.lines() {
        assert!(line.len() <= 80, "{line}");
    }
    assert_eq!(ran("-A", "", nowhere).code, 2);
}

/// Standard output of which the reader has gone.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_closed_standard_output_is_no_mistake() {
    let mut stderr = Vec::new();
    let streams = Streams { stdin: &mut io::empty(), stdout: &mut Closed, stderr: &mut stderr };
    let socket = Path::new("/nonexistent/rvsd.sock");
    assert_eq!(run([OsString::from("-h")], "ipvsadm", socket, streams), 0);
    assert_eq!(stderr, b"");
}
