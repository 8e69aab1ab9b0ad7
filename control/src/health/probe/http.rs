//! An HTTP/1.1 request, with or without TLS.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::udp::contains;
use super::{Configs, Deadline, Outcome, To, connect, tls};
use crate::health::plan::{Body, Http};

/// As much of a body is read as decides.
const LONGEST_BODY: usize = 64 * 1024;

/// Asks the server and compares its answer.
pub(super) async fn probe(
    http: &Http,
    to: To<'_>,
    configs: &Configs,
    deadline: Deadline,
) -> Outcome {
    let (stream, _probe) = connect(to, deadline).await?;
    let server = to.called();
    let Some(tls) = &http.tls else { return exchange(http, server, stream, deadline).await };
    let stream = tls::handshake(tls, http.host.as_deref(), server, stream, configs);
    let stream = deadline.bound("no TLS handshake", stream).await?;
    exchange(http, server, stream, deadline).await
}

async fn exchange(
    http: &Http,
    server: SocketAddr,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    deadline: Deadline,
) -> Outcome {
    let request = request(http, server)?;
    let opened = async { http1::handshake(TokioIo::new(stream)).await.map_err(|e| said(&e)) };
    let (sender, connection) = deadline.bound("no HTTP", opened).await?;
    // The connection moves the bytes; what becomes of it, the exchange hears.
    let connection = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        outcome = ask(http, sender, request, deadline) => outcome,
        outcome = connection => outcome,
    }
}

async fn ask(
    http: &Http,
    mut sender: SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    deadline: Deadline,
) -> Outcome {
    let response = async { sender.send_request(request).await.map_err(|e| said(&e)) };
    let response = deadline.bound("no HTTP answer", response).await?;
    let status = response.status().as_u16();
    if !http.status.iter().any(|range| range.contains(&status)) {
        return Err(format!("HTTP {status}, expected {}", ranges(&http.status)));
    }
    let Some(wanted) = &http.body else { return Ok(()) };
    let body = deadline.bound("no complete body", read(response)).await?;
    match wanted {
        Body::Contains(text) if contains(&body, text.as_bytes()) => Ok(()),
        Body::Matches(pattern) if pattern.0.is_match(&String::from_utf8_lossy(&body)) => Ok(()),
        Body::Contains(text) => Err(format!("HTTP {status}, the body does not have {text:?}")),
        Body::Matches(pattern) => {
            Err(format!("HTTP {status}, the body does not match {:?}", pattern.0.as_str()))
        }
    }
}

fn request(http: &Http, server: SocketAddr) -> Result<Request<Empty<Bytes>>, String> {
    let host = http.host.clone().unwrap_or_else(|| {
        let usual = if http.tls.is_some() { 443 } else { 80 };
        match server {
            SocketAddr::V4(v4) if v4.port() == usual => v4.ip().to_string(),
            SocketAddr::V6(v6) if v6.port() == usual => format!("[{}]", v6.ip()),
            other => other.to_string(),
        }
    });
    Request::builder()
        .method(http.method.as_str())
        .uri(http.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, "rvsd")
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|e| e.to_string())
}

async fn read(response: Response<Incoming>) -> Result<Vec<u8>, String> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|e| said(&e))?.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() >= LONGEST_BODY {
            bytes.truncate(LONGEST_BODY);
            break;
        }
    }
    Ok(bytes)
}

/// What the operator can make something of.
fn said(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "the server closed the connection without an answer".into();
    }
    if error.is_parse() {
        return "the answer is not HTTP/1.1".into();
    }
    let source = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
    let message = format!("{error}{source}");
    message.split(" (os error").next().unwrap_or_default().to_owned()
}

fn ranges(ranges: &[RangeInclusive<u16>]) -> String {
    let shown = ranges.iter().map(|range| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
