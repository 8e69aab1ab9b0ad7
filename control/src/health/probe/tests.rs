//! Probes against sockets on loopback that answer, refuse, hang and talk
//! nonsense.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use regex::Regex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::api::Protocol;
use crate::health::plan::{Body, Http, OnFailure, Pattern, Tls, Udp, Via};
use crate::health::state::State;

/// For probes that are to succeed, however slow the machine.
const LONG: u64 = 20_000;
/// For those that are to run into it.
const SHORT: u64 = 60;

async fn outcome(kind: Kind, server: SocketAddr, timeout: u64) -> Outcome {
    outcome_via(Via::Server, None, kind, server, timeout).await
}

async fn outcome_via(
    via: Via,
    by_vip: Option<ByVip>,
    kind: Kind,
    server: SocketAddr,
    timeout: u64,
) -> Outcome {
    let check = Check {
        kind,
        port: None,
        via,
        interval: Duration::from_secs(60),
        timeout: Duration::from_millis(timeout),
        rise: 1,
        fall: 1,
        jitter: 0,
        initial: State::Up,
        on_failure: OnFailure::Weight0,
    };
    let address = "192.0.2.100:80".parse().unwrap();
    let service = ServiceId::Address { protocol: Protocol::Tcp, address };
    probe(&check, &Target { service, server, by_vip }, &Means::default()).await
}

fn failure(text: &str) -> Outcome {
    Err(text.to_owned())
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address where nothing listens.
async fn nobody() -> SocketAddr {
    listener().await.1
}

/// Answers every client with these bytes, and tells what it was asked. `None`
/// takes connections and never answers.
async fn server(answer: Option<&'static str>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (listener, address) = listener().await;
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            match answer {
                Some(answer) => drop(sender.send(reply(stream, answer).await)),
                None => held.push(stream),
            }
        }
    });
    (address, asked)
}

/// Reads a request's head, answers, and closes.
async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> String {
    let asked = head(&mut stream).await;
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    asked
}

async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => asked.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&asked).into_owned()
}

fn http() -> Http {
    Http {
        tls: None,
        method: "GET".into(),
        path: "/".into(),
        host: None,
        status: vec![200..=299, 401..=401],
        body: None,
    }
}

/// Without a kernel path between, a probe to the VIP arrives at the server's own
/// address; but it asks for the VIP.
#[tokio::test]
async fn a_probe_to_the_vip_asks_for_the_vip_where_the_server_gets_it() {
    let (address, mut asked) = server(Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    let port = address.port();
    let vip = format!("host: 192.0.2.100:{port}\r\n");
    let own = format!("host: {address}\r\n");
    for (via, by_vip, host) in [
        (Via::Vip, Some(ByVip::Plain), &vip),
        (Via::Vip, None, &own),
        (Via::Server, Some(ByVip::Plain), &own),
    ] {
        let outcome = outcome_via(via, by_vip, Kind::Http(http()), address, LONG).await;
        assert_eq!(outcome, Ok(()));
        let asked = asked.recv().await.unwrap();
        assert!(asked.contains(host), "{via:?} {by_vip:?}: {asked}");
    }
    let ipv6 = "[::1]:80".parse().unwrap();
    let outcome = outcome_via(Via::Vip, Some(ByVip::Plain), Kind::Tcp, ipv6, LONG).await;
    let reason = "it is of another address family than the VIP; check it by via = \"server\"";
    assert_eq!(outcome, failure(reason));
}

#[tokio::test]
async fn tcp_wants_a_connection() {
    let (address, _asked) = server(None).await;
    assert_eq!(outcome(Kind::Tcp, address, LONG).await, Ok(()));
    assert_eq!(outcome(Kind::Tcp, nobody().await, LONG).await, failure("Connection refused"));
    let portless = "127.0.0.1:0".parse().unwrap();
    let said = outcome(Kind::Tcp, portless, LONG).await.unwrap_err();
    assert!(said.contains("(port)"), "{said}");
}

/// A full backlog: SYNs are not answered.
#[tokio::test]
async fn tcp_does_not_wait_for_ever() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    let said = loop {
        match outcome(Kind::Tcp, address, SHORT).await {
            Ok(()) => held.push(TcpStream::connect(address)),
            Err(reason) => break reason,
        }
    };
    assert_eq!(said, "no connection within 60 ms");
}

#[tokio::test]
async fn http_asks_what_it_was_told_to() {
    let (address, mut asked) = server(Some("HTTP/1.1 204 No Content\r\n\r\n")).await;
    let wanted = Http {
        method: "HEAD".into(),
        path: "/health?a=b".into(),
        host: Some("www.example.com".into()),
        ..http()
    };
    assert_eq!(outcome(Kind::Http(wanted), address, LONG).await, Ok(()));
    let asked = asked.recv().await.unwrap().to_lowercase();
    assert!(asked.starts_with("head /health?a=b http/1.1\r\n"), "{asked}");
    assert!(asked.contains("\r\nhost: www.example.com\r\n"), "{asked}");
    assert!(asked.contains("\r\nconnection: close\r\n"), "{asked}");
}

#[tokio::test]
async fn http_goes_by_status_and_body() {
    let contains = |text: &str| Some(Body::Contains(text.into()));
    let matches = |text: &str| Some(Body::Matches(Pattern(Regex::new(text).unwrap())));
    let ready = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nstate: ready";
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n";
    let rows = [
        (ready, None, Ok(())),
        (ready, contains("ready"), Ok(())),
        (ready, matches("^state: (ready|ok)$"), Ok(())),
        (chunked, contains("ready"), Ok(())),
        ("HTTP/1.0 200 OK\r\n\r\nready", contains("ready"), Ok(())),
        ("HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n", None, Ok(())),
        (ready, contains("steady"), failure("HTTP 200, the body does not have \"steady\"")),
        (ready, matches("^ready"), failure("HTTP 200, the body does not match \"^ready\"")),
        (
            "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
            None,
            failure("HTTP 503, expected 200-299, 401"),
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n", None, failure("the answer is not HTTP/1.1")),
        ("", None, failure("the server closed the connection without an answer")),
        (
            "HTTP/1.1 200 OK\r\nContent-Le",
            None,
            failure("the server closed the connection without an answer"),
        ),
    ];
    for (answer, body, wanted) in rows {
        let (address, _asked) = server(Some(answer)).await;
        let kind = Kind::Http(Http { body, ..http() });
        assert_eq!(outcome(kind, address, LONG).await, wanted, "{answer}");
    }
}

#[tokio::test]
async fn http_waits_for_each_step_only_so_long() {
    let (hangs, _asked) = server(None).await;
    let said = outcome(Kind::Http(http()), hangs, SHORT).await;
    assert_eq!(said, failure("no HTTP answer within 60 ms"));
    let tls = Some(Tls { sni: None, verify: false, ca: None });
    let said = outcome(Kind::Http(Http { tls, ..http() }), hangs, SHORT).await;
    assert_eq!(said, failure("no TLS handshake within 60 ms"));

    // A body that never ends.
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nready").await.unwrap();
        std::future::pending::<()>().await;
    });
    let body = Some(Body::Contains("ready".into()));
    let said = outcome(Kind::Http(Http { body, ..http() }), address, SHORT).await;
    assert_eq!(said, failure("no complete body within 60 ms"));
}

#[tokio::test]
async fn a_long_body_is_read_in_part() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = stream.write_all(b"ready").await;
            while stream.write_all(&[b'.'; 4096]).await.is_ok() {}
        }
    });
    for (text, good) in [("ready", true), ("absent", false)] {
        let body = Some(Body::Contains(text.into()));
        let said = outcome(Kind::Http(Http { body, ..http() }), address, LONG).await;
        assert_eq!(said.is_ok(), good, "{said:?}");
    }
}

/// A TLS server with a certificate of its own for these names, and the file of
/// that certificate.
async fn tls_server(names: &[&str]) -> (SocketAddr, PathBuf) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let (listener, address) = listener().await;
    let name = format!("rvs-health-{}-{}.pem", std::process::id(), address.port());
    let file = std::env::temp_dir().join(name);
    fs::write(&file, cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let name = stream.get_ref().1.server_name().unwrap_or("none").to_owned();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len());
            reply(stream, &answer).await;
        }
    });
    (address, file)
}

#[tokio::test]
async fn https_verifies_when_asked_to() {
    let (address, file) = tls_server(&["www.example.com", "127.0.0.1"]).await;
    let ask = |sni: Option<&str>, host: Option<&str>, verify, ca: Option<&PathBuf>, seen: &str| {
        let (sni, host) = (sni.map(str::to_owned), host.map(str::to_owned));
        let tls = Some(Tls { sni, verify, ca: ca.cloned() });
        // The server answers with the name that it was asked for.
        let body = Some(Body::Contains(seen.to_owned()));
        outcome(Kind::Http(Http { tls, host, body, ..http() }), address, LONG)
    };
    let example = Some("www.example.com");
    assert_eq!(ask(None, None, false, None, "none").await, Ok(()));
    assert_eq!(ask(Some("other.test"), None, false, None, "other.test").await, Ok(()));
    assert_eq!(ask(None, example, false, None, "www.example.com").await, Ok(()));
    assert_eq!(ask(None, Some("a.test:8443"), false, None, "a.test").await, Ok(()));
    let ca = Some(&file);
    assert_eq!(ask(example, None, true, ca, "www.example.com").await, Ok(()));
    assert_eq!(ask(None, None, true, ca, "none").await, Ok(()), "the address is in it");
    let said = ask(Some("other.test"), None, true, ca, "other.test").await.unwrap_err();
    assert!(
        said.starts_with("TLS: invalid peer certificate: certificate not valid for name"),
        "{said}"
    );
    // Another server's root.
    let (_, stranger) = tls_server(&["www.example.com"]).await;
    let said = ask(example, None, true, Some(&stranger), "").await.unwrap_err();
    assert!(said.starts_with("TLS: invalid peer certificate: "), "{said}");
    let missing = PathBuf::from("/nonexistent/ca.pem");
    let said = ask(example, None, true, Some(&missing), "").await.unwrap_err();
    assert!(said.starts_with("/nonexistent/ca.pem: "), "{said}");
    for file in [file, stranger] {
        fs::remove_file(file).unwrap();
    }
}

#[tokio::test]
async fn https_to_a_plain_server_fails() {
    let (address, _asked) = server(Some("HTTP/1.1 400 Bad Request\r\n\r\n\r\n\r\n")).await;
    let tls = Some(Tls { sni: None, verify: false, ca: None });
    let said = outcome(Kind::Http(Http { tls, ..http() }), address, SHORT).await.unwrap_err();
    assert!(said.starts_with("TLS: ") || said.starts_with("no TLS"), "{said}");
}

#[tokio::test]
async fn udp_wants_its_answer_or_no_refusal() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let udp = |expect: Option<&str>| {
        let expect = expect.map(|text| text.as_bytes().to_vec());
        Kind::Udp(Udp { send: b"PING".to_vec(), expect })
    };
    // Silence is good when no answer is expected, and only then.
    assert_eq!(outcome(udp(None), address, SHORT).await, Ok(()));
    assert_eq!(outcome(udp(Some("x")), address, SHORT).await, failure("no answer within 60 ms"));
    tokio::spawn(async move {
        let mut buffer = [0; 100];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            let answer = [b"a late one, then ", &buffer[..length]].concat();
            let _ = socket.send_to(b"late", client).await;
            let _ = socket.send_to(&answer, client).await;
        }
    });
    assert_eq!(outcome(udp(Some("then PING")), address, LONG).await, Ok(()));
    let said = outcome(udp(Some("PONG")), address, SHORT).await;
    assert_eq!(said, failure("no answer has the expected bytes"));

    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for expect in [None, Some("PONG")] {
        let said = outcome(udp(expect), nobody, LONG).await;
        assert_eq!(said, failure("ICMP port unreachable"));
    }
}

/// Skips without the right to send echo requests, which a container may lack.
#[tokio::test]
async fn ping_wants_an_echo_reply() {
    for (host, answers) in [("127.0.0.1", true), ("::1", true)] {
        let server = SocketAddr::new(host.parse().unwrap(), 0);
        match outcome(Kind::Ping, server, LONG).await {
            Err(reason) if reason.contains("CAP_NET_RAW") || reason.contains("unreachable") => {
                println!("skipped: {host}: {reason}");
            }
            outcome => assert_eq!(outcome.is_ok(), answers, "{host}: {outcome:?}"),
        }
    }
}

fn shell(script: &str) -> Kind {
    Kind::Command(["/bin/sh", "-c", script].map(str::to_owned).into())
}

#[tokio::test]
async fn a_command_says_it_by_its_exit_code() {
    let server = "192.0.2.1:8080".parse().unwrap();
    let told = "test \"$RVS_PROTOCOL $RVS_VIP $RVS_VPORT $RVS_RIP $RVS_RPORT\" = \
                'tcp 192.0.2.100 80 192.0.2.1 8080' && test -z \"$HOME$CARGO\" && test $PWD = /";
    let rows = [
        (shell(told), Ok(())),
        (shell("exit 3"), failure("exit code 3")),
        (shell("kill -9 $$"), failure("killed by signal 9")),
        (
            Kind::Command(vec!["/nonexistent/check".into()]),
            failure("cannot run /nonexistent/check: No such file or directory"),
        ),
    ];
    for (kind, wanted) in rows {
        assert_eq!(outcome(kind.clone(), server, LONG).await, wanted, "{kind:?}");
    }
}

/// The state of a process, as `ps` shows it; `None` when there is no such one.
fn process(pid: &str) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The pids that a script has written, once there are two.
async fn pids(file: &PathBuf) -> Vec<String> {
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        if text.ends_with("done\n") {
            return text.split_whitespace().take(2).map(str::to_owned).collect();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Neither the program nor what it started outlives its time, or the check, and
/// no zombie is left.
#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_group() {
    let server = "192.0.2.1:8080".parse().unwrap();
    for stopped in [false, true] {
        let name = format!("rvs-health-{}-{stopped}.pids", std::process::id());
        let file = std::env::temp_dir().join(name);
        let script = format!("sleep 600 & echo $$ $! done >{}; wait", file.display());
        let pids = if stopped {
            let task = tokio::spawn(outcome(shell(&script), server, LONG));
            let pids = pids(&file).await;
            task.abort();
            pids
        } else {
            assert_eq!(
                outcome(shell(&script), server, 1_000).await,
                failure("no exit within 1000 ms")
            );
            pids(&file).await
        };
        let [parent, child] = pids.as_slice() else { panic!("{pids:?}") };
        // The orphan is reaped by whoever adopts it.
        while process(child).is_some_and(|state| state != 'Z') || process(parent).is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fs::remove_file(file).unwrap();
    }
}
