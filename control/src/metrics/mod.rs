//! Metrics for Prometheus and what else reads OpenMetrics, over HTTP.
//!
//! A thread of its own serves them (`http`). For each page it asks the control
//! thread for one `Piece` after the other, each a bounded piece of work
//! between those for other clients, and writes the text itself (`page`). The
//! control thread never waits for it, and workers do not know of it: they
//! publish their counters in any case.

mod families;
mod http;
mod latency;
mod page;
mod text;

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::thread::JoinHandle;

use dataplane::counters::Counters;
use tokio::sync::oneshot;

use crate::api::{KernelPathCounters, PortCounters, ServiceId, ServiceStatus};
use crate::health::Checkup;
pub use families::{FAMILIES, Family, Kind};
pub use latency::Latency;

/// Services and servers in one piece, about: what the control thread copies in
/// a fraction of a millisecond.
pub(crate) const PIECE_ROWS: usize = 256;

/// Where metrics are served, and how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Address and port of the HTTP server.
    pub listen: SocketAddr,
    /// Most services and servers together that have metrics of their own.
    pub max_rows: u32,
}

/// A question to the control thread.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) question: Question,
    pub(crate) reply: oneshot::Sender<Piece>,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// All but services and servers.
    General,
    /// Services from a cursor on.
    Services(Option<u64>),
}

/// An answer of the control thread.
#[derive(Debug)]
pub(crate) enum Piece {
    /// To [`Question::General`].
    General(Box<General>),
    /// To [`Question::Services`].
    Services(Services),
}

/// What there is of once only, or a few times.
#[derive(Debug, Default)]
pub(crate) struct General {
    /// The core of each worker, and what it counted.
    pub(crate) workers: Vec<(u32, Counters)>,
    pub(crate) ports: Vec<PortCounters>,
    pub(crate) kernel_path: KernelPathCounters,
    /// Services, and servers of all of them.
    pub(crate) sizes: (usize, usize),
    /// Places of each connection table.
    pub(crate) table_capacity: u32,
    pub(crate) template_places: usize,
    /// Ticks of the workers' counter of cycles in a second.
    pub(crate) tsc_hz: u64,
    pub(crate) updates: Updates,
    /// Workers that do not run the newest snapshot.
    pub(crate) behind: usize,
    /// VIPs that health checks have taken down.
    pub(crate) withdrawn: usize,
}

/// How changes came into force.
#[derive(Debug, Clone, Default)]
pub(crate) struct Updates {
    pub(crate) latency: Latency,
    pub(crate) stalled: u64,
}

/// Some services.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) rows: Vec<ServiceStatus>,
    /// Servers among them to which there is no way at present.
    pub(crate) unresolved: HashSet<SocketAddr>,
    /// What checks of each service's servers have found, for services that have
    /// any, in the order of the rows.
    pub(crate) checked: Vec<(ServiceId, Vec<Checkup>)>,
    /// Where to go on.
    pub(crate) next: Option<u64>,
}

/// The serving thread. It ends when this is dropped.
pub(crate) struct Exporter {
    questions: mpsc::Receiver<Asked>,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Exporter {
    /// Begins to serve, at the address that is returned. `wake` is called whenever there is a question to answer.
    ///
    /// # Errors
    /// One line for the operator: the address cannot be had.
    pub(crate) fn start(
        config: MetricsConfig,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<(Self, SocketAddr), String> {
        let listen = config.listen;
        let failed = |error: std::io::Error| format!("metrics.listen {listen}: {error}");
        let listener = TcpListener::bind(listen).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(failed)?;
        let (ask, questions) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let server = http::Server::new(ask, Box::new(wake), config.max_rows as usize);
        let address = listener.local_addr().map_err(failed)?;
        let thread = std::thread::Builder::new()
            .name("rvs-metrics".into())
            .spawn(move || runtime.block_on(server.run(listener, stopped)))
            .map_err(failed)?;
        log::info!("metrics: http://{address}/metrics");
        Ok((Self { questions, stop: Some(stop), thread: Some(thread) }, address))
    }

    /// The next question that somebody still waits for.
    pub(crate) fn question(&self) -> Option<Asked> {
        self.questions.try_iter().find(|asked| !asked.reply.is_closed())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
