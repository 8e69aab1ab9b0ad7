//! The HTTP server: a few connections at a time, one request each, none for
//! long, and one page at a time, which all who ask within a second share.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::timeout;

use super::page::{self, Own, Requests};
use super::{Asked, Piece, Question, Services};

/// Most connections at a time; further ones wait to be accepted.
const CONNECTIONS: usize = 16;
/// How long a client may take for its request, and in all.
const REQUEST_TIME: Duration = Duration::from_secs(5);
const CONNECTION_TIME: Duration = Duration::from_secs(30);
/// Most bytes of a request.
const REQUEST_SIZE: usize = 16 * 1024;
/// How long a page is good for.
const FRESH: Duration = Duration::from_secs(1);
/// How long the control thread may take for a piece.
const PIECE_TIME: Duration = Duration::from_secs(5);
/// Rest when a connection cannot be accepted: out of descriptors, say.
const ACCEPT_REST: Duration = Duration::from_millis(100);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// What all connections share.
pub(super) struct Server {
    ask: mpsc::Sender<Asked>,
    wake: Box<dyn Fn() + Send + Sync>,
    max_rows: usize,
    started: (Instant, SystemTime),
    served: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    /// The last page, and when it was made.
    page: Mutex<Option<(Instant, Bytes)>>,
}

impl Server {
    pub(super) fn new(
        ask: mpsc::Sender<Asked>,
        wake: Box<dyn Fn() + Send + Sync>,
        max_rows: usize,
    ) -> Self {
        Self {
            ask,
            wake,
            max_rows,
            started: (Instant::now(), SystemTime::now()),
            served: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            page: Mutex::new(None),
        }
    }

    /// Serves until the other end of `stopped` is gone.
    pub(super) async fn run(self, listener: std::net::TcpListener, stopped: oneshot::Receiver<()>) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                log::error!("metrics are not served: {error}");
                return;
            }
        };
        let server = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let accepting = async move {
            // Never closed, so that there is a place in the end.
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                };
                let server = Arc::clone(&server);
                tokio::spawn(async move {
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(REQUEST_TIME)
                        .max_buf_size(REQUEST_SIZE)
                        .keep_alive(false)
                        .serve_connection(
                            TokioIo::new(stream),
                            service_fn(|request| server.answer(request)),
                        );
                    // Who is too slow, or leaves, has nothing to be told.
                    let _ = timeout(CONNECTION_TIME, connection).await;
                    drop(place);
                });
            }
        };
        tokio::spawn(accepting);
        // An error is the other end's drop. What was spawned ends with the
        // runtime.
        let _ = stopped.await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let readable = matches!(*request.method(), Method::GET | Method::HEAD);
        Ok(match request.uri().path() {
            "/metrics" if readable => match self.page().await {
                Ok(page) => {
                    self.served.fetch_add(1, Ordering::Relaxed);
                    response(StatusCode::OK, OPEN_METRICS, page)
                }
                Err(Slow) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    let text = "rvsd is busy and did not answer in time; try again\n";
                    response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text.into())
                }
            },
            "/metrics" => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let mut refusal = response(status, PLAIN, "only GET and HEAD\n".into());
                refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                refusal
            }
            _ => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                response(StatusCode::NOT_FOUND, PLAIN, "metrics are at /metrics\n".into())
            }
        })
    }

    /// The present page, or one that is not older than a second.
    async fn page(&self) -> Result<Bytes, Slow> {
        let mut last = self.page.lock().await;
        if let Some((made, page)) = &*last {
            if made.elapsed() < FRESH {
                return Ok(page.clone());
            }
        }
        // The old one need not stay in memory while the new one is made.
        *last = None;
        let page = Bytes::from(self.make_page().await?);
        *last = Some((Instant::now(), page.clone()));
        Ok(page)
    }

    async fn make_page(&self) -> Result<String, Slow> {
        let Piece::General(general) = self.ask(Question::General).await? else {
            return Err(Slow);
        };
        let mut all = Services::default();
        let mut rows = 0;
        let mut cursor = None;
        while rows < self.max_rows {
            let Piece::Services(piece) = self.ask(Question::Services(cursor)).await? else {
                return Err(Slow);
            };
            rows += piece.rows.iter().map(|service| 1 + service.servers.len()).sum::<usize>();
            all.rows.extend(piece.rows);
            all.unresolved.extend(piece.unresolved);
            all.checked.extend(piece.checked);
            cursor = piece.next;
            if cursor.is_none() {
                break;
            }
        }
        let own = Own {
            uptime: self.started.0.elapsed(),
            started: self.started.1,
            max_rows: self.max_rows,
            requests: Requests {
                served: self.served.load(Ordering::Relaxed),
                failed: self.failed.load(Ordering::Relaxed),
                refused: self.refused.load(Ordering::Relaxed),
            },
        };
        Ok(page::write(&own, &general, &all))
    }

    /// Has the control thread answer.
    async fn ask(&self, question: Question) -> Result<Piece, Slow> {
        let (reply, answer) = oneshot::channel();
        self.ask.send(Asked { question, reply }).map_err(|_| Slow)?;
        (self.wake)();
        match timeout(PIECE_TIME, answer).await {
            Ok(Ok(piece)) => Ok(piece),
            _ => Err(Slow),
        }
    }
}

/// The control thread did not answer in time, or is about to end.
struct Slow;

fn response(status: StatusCode, content: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let content = HeaderValue::from_static(content);
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}
