//! What the metrics thread gets from the control thread.

use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::conn::persistence::Templates;
use dataplane::service::Hop;

use super::Daemon;
use crate::metrics::{
    Asked, Exporter, General, MetricsConfig, PIECE_ROWS, Piece, Question, Services, Updates,
};

/// Metrics, as the control thread has them.
#[derive(Default)]
pub(super) struct Metrics {
    exporter: Option<Exporter>,
    pub(super) updates: Updates,
}

impl Daemon {
    /// Serves metrics from now on, at the address that is returned: port 0 in
    /// the configuration is any free one.
    ///
    /// # Errors
    /// One line for the operator.
    pub fn serve_metrics(&mut self, config: MetricsConfig) -> Result<SocketAddr, String> {
        let waker = Arc::clone(&self.waker);
        // Fails when it has been woken often enough already.
        let (exporter, address) = Exporter::start(config, move || drop(waker.wake()))?;
        self.metrics.exporter = Some(exporter);
        Ok(address)
    }

    /// Answers the metrics thread, which asks for one piece at a time.
    pub(super) fn answer_metrics(&self) {
        let asked = self.metrics.exporter.as_ref().and_then(Exporter::question);
        let Some(Asked { question, reply }) = asked else { return };
        let piece = match question {
            Question::General => Piece::General(Box::new(self.general())),
            Question::Services(cursor) => Piece::Services(self.some_services(cursor)),
        };
        // Fails when it has waited for too long.
        let _ = reply.send(piece);
    }

    fn general(&self) -> General {
        let cores = self.instruments.cores.iter().copied();
        General {
            workers: cores.zip(self.workers.counters()).collect(),
            ports: (self.instruments.ports)(),
            kernel_path: (self.instruments.kernel_path)(),
            sizes: self.registry.sizes(),
            table_capacity: self.instruments.connections,
            template_places: self.instruments.templates.bucket_count() * Templates::BUCKET_WAYS,
            tsc_hz: self.instruments.tsc_hz,
            updates: self.metrics.updates.clone(),
            behind: self.workers.behind(self.epoch).len(),
            withdrawn: self.health.withdrawn().len(),
        }
    }

    fn some_services(&self, cursor: Option<u64>) -> Services {
        let (rows, next) = self.registry.statuses(cursor, PIECE_ROWS);
        let (ways, _) = self.registry.servers_from(cursor, PIECE_ROWS);
        let unresolved = ways.into_iter().filter_map(|(_, server, hop)| {
            matches!(hop, Hop::Unresolved | Hop::NoRoute).then_some(server.address)
        });
        let checked = rows.iter().map(|row| (row.spec.id, self.health.checkups(&row.spec.id)));
        let checked = checked.filter(|(_, found)| !found.is_empty()).collect();
        Services { rows, unresolved: unresolved.collect(), checked, next }
    }
}
