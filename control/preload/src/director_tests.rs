//! Bytes of requests in, bytes of answers out, with a daemon of prepared
//! replies behind.

use control_api::api::{
    Protocol, Reply, Response, ServerStatus, ServiceStatus, Stats, Timeouts, Tunnel,
};
use control_api::test_server::{TestServer, hello};

use super::*;
use crate::family::{answer, command};
use crate::netlink::{Message, NLMSG_DONE, NLMSG_ERROR};
use crate::terms::AF_INET;

const PORT: u32 = 9;

/// The answers to a request, and what the daemon was asked after the hello.
fn asked(request: Message, replies: Vec<Reply>) -> (Vec<Vec<u8>>, Vec<Request>) {
    let server = TestServer::start(std::iter::once(hello()).chain(replies).collect());
    let director = at(server.path());
    let answers = director.answer(&request.finish(), PORT);
    (answers, server.requests()[1..].to_vec())
}

pub(crate) fn at(path: &std::path::Path) -> Director {
    Director { socket: path.to_owned(), patience: Duration::from_secs(30) }
}

/// What an answer is: its kind, and the errno that it carries.
fn kind(answer: &[u8]) -> (u16, i32) {
    let header = Header::of(answer).unwrap();
    assert_eq!((header.sequence, header.port), (7, PORT));
    let errno = match header.kind {
        NLMSG_ERROR => -i32::from_ne_bytes(answer[16..20].try_into().unwrap()),
        _ => 0,
    };
    (header.kind, errno)
}

fn kinds(answers: &[Vec<u8>]) -> Vec<(u16, i32)> {
    answers.iter().map(|answer| kind(answer)).collect()
}

const ACKNOWLEDGED: (u16, i32) = (NLMSG_ERROR, 0);
const OURS: (u16, i32) = (family::FAMILY, 0);

fn vip() -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: "10.0.0.1:80".parse().unwrap() }
}

fn put_vip(message: &mut Message, more: impl FnOnce(&mut Message)) {
    message.nest(1, |m| {
        m.u16(1, AF_INET);
        m.u16(2, 6);
        m.put(3, &[10, 0, 0, 1]);
        m.port(4, 80);
        more(m);
    });
}

/// A command about 10.0.0.1:80.
fn about_vip(command: u8) -> Message {
    let mut message = answer(command, 5, 7, PORT);
    put_vip(&mut message, |_| ());
    message
}

/// A command about its server 10.0.0.2:80.
fn about_server(command: u8, method: u32, weight: u32) -> Message {
    let mut message = about_vip(command);
    message.nest(2, |m| {
        m.put(1, &[10, 0, 0, 2]);
        m.port(2, 80);
        m.u32(3, method);
        m.u32(4, weight);
        m.u32(5, 100);
        m.u32(6, 50);
    });
    message
}

fn about_scheduler(command: u8, scheduler: &str) -> Message {
    let mut message = answer(command, 5, 7, PORT);
    put_vip(&mut message, |m| {
        m.text(6, scheduler);
        m.put(7, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        m.u32(8, 0);
        m.u32(9, u32::MAX);
    });
    message
}

fn server_spec(method: Method, weight: u32) -> ServerSpec {
    ServerSpec {
        address: "10.0.0.2:80".parse().unwrap(),
        method,
        weight,
        upper_threshold: 100,
        lower_threshold: 50,
    }
}

fn listed(spec: ServiceSpec, servers: Vec<ServerSpec>) -> Reply {
    let status = |spec| ServerStatus {
        spec,
        active: 0,
        inactive: 0,
        persistent: 0,
        stats: Stats::default(),
        health: None,
    };
    let servers = servers.into_iter().map(status).collect();
    let services = vec![ServiceStatus { spec, stats: Stats::default(), servers }];
    Ok(Response::Services { services, next: None, table_size: 4096 })
}

fn refused(code: ErrorCode) -> Reply {
    Err(Error::new(code, "what the daemon says"))
}

#[test]
fn changes_are_acknowledged() {
    let done = || vec![Ok(Response::Done)];
    let service = ServiceSpec::new(vip(), "wrr");
    for (request, expected) in [
        (about_scheduler(command::NEW_SERVICE, "wrr"), Request::AddService { service }),
        (about_vip(command::DEL_SERVICE), Request::DeleteService { service: vip() }),
        (about_vip(command::ZERO), Request::Zero { service: Some(vip()) }),
        (answer(command::ZERO, 5, 7, PORT), Request::Zero { service: None }),
        (answer(command::FLUSH, 5, 7, PORT), Request::Flush {}),
        (
            about_server(command::NEW_DEST, 3, 2),
            Request::AddServer { service: vip(), server: server_spec(Method::Dr, 2) },
        ),
        (
            about_server(command::SET_DEST, 2, 2),
            Request::EditServer {
                service: vip(),
                server: server_spec(Method::Tun(Tunnel::Ipip), 2),
            },
        ),
        (
            about_server(command::DEL_DEST, 0, 2),
            Request::DeleteServer { service: vip(), server: "10.0.0.2:80".parse().unwrap() },
        ),
    ] {
        let (answers, requests) = asked(request, done());
        assert_eq!(kinds(&answers), [ACKNOWLEDGED], "{expected:?}");
        assert_eq!(requests, [expected]);
    }
    let (silent, _) = asked(answer(command::FLUSH, 1, 7, PORT), done());
    assert_eq!(silent, [] as [Vec<u8>; 0], "nobody asked for an acknowledgement");
}

#[test]
fn refusals_are_the_kernels_errors() {
    for (code, errno) in [
        (ErrorCode::ServiceExists, Errno::EEXIST),
        (ErrorCode::ServerExists, Errno::EEXIST),
        (ErrorCode::NoSuchService, Errno::ESRCH),
        (ErrorCode::ServiceNotDefined, Errno::ESRCH),
        (ErrorCode::NoSuchServer, Errno::ENOENT),
        (ErrorCode::NoSuchScheduler, Errno::ENOENT),
        (ErrorCode::InvalidArgument, Errno::EINVAL),
        (ErrorCode::Unsupported, Errno::EPROTONOSUPPORT),
        (ErrorCode::NoSpace, Errno::ENOMEM),
        (ErrorCode::Permission, Errno::EPERM),
        (ErrorCode::WorkerStalled, Errno::EBUSY),
    ] {
        let (answers, _) = asked(about_vip(command::DEL_SERVICE), vec![refused(code)]);
        assert_eq!(kinds(&answers), [(NLMSG_ERROR, errno as i32)], "{code:?}");
        assert_eq!(answers[0][20..], about_vip(command::DEL_SERVICE).finish());
    }
}

#[test]
fn a_director_that_is_away_or_silent_is_an_error_at_once() {
    let away = at(std::path::Path::new("/nonexistent/rvsd.sock"));
    let request = about_vip(command::DEL_SERVICE).finish();
    assert_eq!(kinds(&away.answer(&request, PORT)), [(NLMSG_ERROR, Errno::ENODEV as i32)]);
    let mut question = Message::new(family::NLCTRL, 5, 7, PORT);
    question.raw(&[3, 1, 0, 0]);
    question.text(2, "IPVS");
    let question = question.finish();
    assert_eq!(kinds(&away.answer(&question, PORT)), [(NLMSG_ERROR, Errno::ENODEV as i32)]);

    let directory = std::env::temp_dir().join(format!("rvs-silent-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("rvsd.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let silent = Director { patience: Duration::from_millis(50), ..at(&path) };
    assert_eq!(kinds(&silent.answer(&request, PORT)), [(NLMSG_ERROR, Errno::EBUSY as i32)]);
    std::fs::remove_dir_all(directory).unwrap();

    let there = TestServer::start(vec![hello()]);
    let answers = at(there.path()).answer(&question, PORT);
    assert_eq!(kinds(&answers), [(family::NLCTRL, 0), ACKNOWLEDGED]);
}

#[test]
fn listings_are_dumps_that_end() {
    let server = server_spec(Method::Dr, 1);
    let reply = || listed(ServiceSpec::new(vip(), "wrr"), vec![server.clone(), server.clone()]);
    let done = (NLMSG_DONE, 0);
    let all = answer(command::GET_SERVICE, 0x301, 7, PORT);
    let (answers, requests) = asked(all, vec![reply()]);
    assert_eq!(kinds(&answers), [OURS, done]);
    assert_eq!(Header::of(&answers[0]).unwrap().flags, NLM_F_MULTI);
    assert_eq!(requests, [Request::ListServices { service: None, cursor: None }]);

    let servers = || {
        let mut message = answer(command::GET_DEST, 0x301, 7, PORT);
        put_vip(&mut message, |_| ());
        message
    };
    let (answers, requests) = asked(servers(), vec![reply()]);
    assert_eq!(kinds(&answers), [OURS, OURS, done]);
    assert_eq!(requests, [Request::ListServices { service: Some(vip()), cursor: None }]);
    let (answers, _) = asked(servers(), vec![refused(ErrorCode::NoSuchService)]);
    assert_eq!(kinds(&answers), [done]);
    let (answers, _) = asked(answer(command::GET_DAEMON, 0x301, 7, PORT), vec![]);
    assert_eq!(kinds(&answers), [done]);
}

#[test]
fn single_things_are_answered_and_acknowledged() {
    let (answers, _) = asked(
        about_vip(command::GET_SERVICE),
        vec![listed(ServiceSpec::new(vip(), "wrr"), vec![])],
    );
    assert_eq!(kinds(&answers), [OURS, ACKNOWLEDGED]);
    assert_eq!(Header::of(&answers[0]).unwrap().flags, 0);
    let info = answer(command::GET_INFO, 5, 7, PORT);
    let (answers, requests) = asked(info, vec![listed(ServiceSpec::new(vip(), "wrr"), vec![])]);
    assert_eq!(kinds(&answers), [OURS, ACKNOWLEDGED]);
    assert_eq!(answers[0][answers[0].len() - 4..], 4096u32.to_ne_bytes());
    assert_eq!(requests, [Request::ListServices { service: None, cursor: Some(0) }]);
    let timeouts = Timeouts { tcp: 1, tcp_fin: 2, udp: 3 };
    let config = answer(command::GET_CONFIG, 1, 7, PORT);
    let (answers, _) = asked(config, vec![Ok(Response::Timeouts { timeouts })]);
    assert_eq!(kinds(&answers), [OURS]);
}

#[test]
fn synchronisation_is_refused() {
    for (command, errno) in
        [(command::NEW_DAEMON, Errno::EPROTONOSUPPORT), (command::DEL_DAEMON, Errno::ESRCH)]
    {
        let mut request = answer(command, 5, 7, PORT);
        request.nest(3, |m| m.u32(1, 1));
        // Without asking anybody.
        let nowhere = at(std::path::Path::new("/nonexistent/rvsd.sock"));
        let answers = nowhere.answer(&request.finish(), PORT);
        assert_eq!(kinds(&answers), [(NLMSG_ERROR, errno as i32)]);
    }
}

/// A service with options that netlink has no words for.
fn with_local_address() -> ServiceSpec {
    let mut spec = ServiceSpec::new(vip(), "sh");
    spec.scheduler_flags = vec!["sh-port".into()];
    spec.take_up = true;
    spec.local_addresses = vec!["10.0.0.9".parse().unwrap()];
    spec.mss = Some(1400);
    spec
}

#[test]
fn what_netlink_cannot_say_survives_an_edit() {
    let (answers, requests) = asked(
        about_scheduler(command::SET_SERVICE, "wrr"),
        vec![listed(with_local_address(), vec![]), Ok(Response::Done)],
    );
    assert_eq!(kinds(&answers), [ACKNOWLEDGED]);
    let service =
        ServiceSpec { scheduler: "wrr".into(), scheduler_flags: vec![], ..with_local_address() };
    assert_eq!(requests[1], Request::EditService { service });
}

#[test]
fn masq_stands_for_fullnat_where_that_is_meant() {
    let plain = || ServiceSpec::new(vip(), "wrr");
    let fullnat = || vec![server_spec(Method::Fullnat, 1)];
    let nat = || vec![server_spec(Method::Nat, 1)];
    let new = |method| Request::AddServer { service: vip(), server: server_spec(method, 2) };
    let edit = |method| Request::EditServer { service: vip(), server: server_spec(method, 2) };
    for (command, spec, servers, expected) in [
        (command::NEW_DEST, plain(), vec![], new(Method::Nat)),
        (command::NEW_DEST, with_local_address(), vec![], new(Method::Fullnat)),
        (command::SET_DEST, with_local_address(), fullnat(), edit(Method::Fullnat)),
        (command::SET_DEST, with_local_address(), nat(), edit(Method::Nat)),
    ] {
        let replies = vec![listed(spec, servers), Ok(Response::Done)];
        let (answers, requests) = asked(about_server(command, 0, 2), replies);
        assert_eq!(kinds(&answers), [ACKNOWLEDGED]);
        assert_eq!(requests[1], expected);
    }
}
