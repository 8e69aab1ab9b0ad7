//! Every metric that there is: name, type, labels, meaning. `docs/metrics.md`
//! and the dashboard are checked against this list.

/// The type of a metric, as OpenMetrics has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until `rvsd` starts again or the counters are zeroed.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations up to bounds.
    Histogram,
    /// Says something in its labels.
    Info,
}

impl Kind {
    /// The name in the exposition and in the documentation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    /// What the names of single values have after the family's.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Counter => "_total",
            Self::Gauge | Self::Histogram => "",
            Self::Info => "_info",
        }
    }
}

/// A metric family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Without the suffix of its type.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// Names of the labels, in their order.
    pub labels: &'static [&'static str],
    /// What it tells, in one line.
    pub help: &'static str,
}

impl Family {
    /// The name that queries use: with `_total` for a counter, `_info` for an
    /// info. A histogram has `_bucket`, `_sum` and `_count` after this.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}{}", self.name, self.kind.suffix())
    }

    /// The unit, which the name ends with where there is one. It may be left
    /// out, and some parsers do not expect it of histograms.
    pub(super) fn unit(&self) -> Option<&'static str> {
        if self.kind == Kind::Histogram {
            return None;
        }
        ["seconds", "bytes"].into_iter().find(|unit| self.name.ends_with(unit))
    }
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Family = Family {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All families, in the order of the exposition.
        pub const FAMILIES: &[Family] = &[$($id),*];
    };
}

families! {
    BUILD = Info "rvs_build" ["version"] "The release that runs.";
    START_TIME = Gauge "rvs_start_time_seconds" [] "When rvsd started, Unix time.";
    UPTIME = Gauge "rvs_uptime_seconds" [] "How long rvsd has been running.";

    SERVICES = Gauge "rvs_services" [] "Virtual services.";
    SERVERS = Gauge "rvs_servers" [] "Real servers of all services.";
    LEFT_OUT = Gauge "rvs_metrics_left_out" ["what"] "Services or servers that this page leaves out because of metrics.max_rows.";
    SCRAPES = Counter "rvs_metrics_requests" ["result"] "Requests for metrics, by what became of them: served, failed (rvsd was too slow), refused (no such page or method).";

    VIPS_WITHDRAWN = Gauge "rvs_vips_withdrawn" [] "VIPs that health checks have taken off the director (withdraw_vip).";

    SERVICE_SERVERS = Gauge "rvs_service_servers" ["service"] "Servers of the service.";
    SERVICE_CONNECTIONS = Counter "rvs_service_connections" ["service"] "Connections scheduled.";
    SERVICE_PACKETS = Counter "rvs_service_packets" ["service", "direction"] "Packets: in from clients, out from servers where replies pass the director (NAT, FULLNAT).";
    SERVICE_BYTES = Counter "rvs_service_bytes" ["service", "direction"] "Their IP lengths.";

    SERVER_WEIGHT = Gauge "rvs_server_weight" ["service", "server"] "Weight in force; 0 takes no new connections.";
    SERVER_UP = Gauge "rvs_server_up" ["service", "server"] "1 while health checks of rvsd find the server good, 0 while not, also when it is removed for that; only servers that are checked.";
    SERVER_PROBES = Counter "rvs_server_probes" ["service", "server", "result"] "Probes of the server by rvsd: good or failed.";
    SERVER_RESOLVED = Gauge "rvs_server_resolved" ["service", "server"] "1 when the way to the server is known up to the MAC address, or it is the director itself; 0 when its packets are dropped (no_route, no_next_hop).";
    SERVER_CONNECTIONS = Counter "rvs_server_connections" ["service", "server"] "Connections scheduled.";
    SERVER_ACTIVE = Gauge "rvs_server_active_connections" ["service", "server"] "Connections in an active state, ActiveConn of ipvsadm.";
    SERVER_INACTIVE = Gauge "rvs_server_inactive_connections" ["service", "server"] "Other connections, InActConn of ipvsadm.";
    SERVER_TEMPLATES = Gauge "rvs_server_templates" ["service", "server"] "Persistence templates.";
    SERVER_PACKETS = Counter "rvs_server_packets" ["service", "server", "direction"] "Packets: in to the server, out from it where replies pass the director (NAT, FULLNAT).";
    SERVER_BYTES = Counter "rvs_server_bytes" ["service", "server", "direction"] "Their IP lengths.";

    WORKER_CORE = Gauge "rvs_worker_core" ["worker"] "The core of the worker.";
    WORKER_IN = Counter "rvs_worker_in_packets" ["worker", "source"] "Packets that the worker got: from ports, other workers (worker), the kernel, or made itself (director).";
    WORKER_OUT = Counter "rvs_worker_out_packets" ["worker", "to"] "Packets that went on: to ports, other workers (worker), the kernel, or as others (held).";
    WORKER_DROPPED = Counter "rvs_worker_dropped_packets" ["worker", "reason"] "Packets dropped; docs/drops.md tells what the reasons mean.";
    WORKER_CONNECTIONS = Gauge "rvs_worker_connections" ["worker"] "Connections in the worker's tables.";
    WORKER_ENTRIES = Gauge "rvs_worker_table_entries" ["worker", "family"] "Places taken in a connection table; under NAT and FULLNAT a connection has two.";
    WORKER_CAPACITY = Gauge "rvs_worker_table_capacity" ["worker", "family"] "Places of a connection table (director.connections).";
    WORKER_EXPIRED = Counter "rvs_worker_expired_connections" ["worker"] "Connections that aged out.";
    WORKER_RECYCLED = Counter "rvs_worker_recycled_connections" ["worker"] "Half-open connections that made room for others in a full table.";
    WORKER_STATELESS = Counter "rvs_worker_stateless_packets" ["worker"] "Packets forwarded without a connection because the table was full (mh).";
    WORKER_TAKEN_UP = Counter "rvs_worker_taken_up_connections" ["worker"] "Connections taken up in their middle (take_up of services).";
    WORKER_BUSY = Counter "rvs_worker_busy_seconds" ["worker"] "Time spent on rounds that had packets; its rate is the busy share.";
    WORKER_CYCLES = Counter "rvs_worker_busy_cycles" ["worker"] "The same in ticks of the time stamp counter; divided by packets, the cycles that one takes.";
    TEMPLATES = Gauge "rvs_template_places" [] "Places of the table of persistence templates, half as many again as director.templates.";

    PORT_UP = Gauge "rvs_port_link_up" ["port"] "1 when the link is up.";
    PORT_PACKETS = Counter "rvs_port_packets" ["port", "direction"] "Packets received (in) and sent (out), as the device counts them.";
    PORT_BYTES = Counter "rvs_port_bytes" ["port", "direction"] "Their lengths, as the device counts them.";
    PORT_ERRORS = Counter "rvs_port_errors" ["port", "direction"] "Packets received or sent in error.";
    PORT_MISSED = Counter "rvs_port_missed_packets" ["port"] "Packets that the device had no descriptor or no mbuf for.";
    MBUFS_USED = Gauge "rvs_port_mbufs_used" ["port"] "mbufs of the port's pool that are in use.";
    MBUFS_FREE = Gauge "rvs_port_mbufs_free" ["port"] "mbufs of the port's pool that are free.";

    KERNEL_PATH = Counter "rvs_kernel_path_packets" ["direction", "result"] "Packets between workers and taps, to or from the kernel: passed or lost.";

    UPDATE = Histogram "rvs_update_duration_seconds" [] "Time from a request that changes something to its being in force in all workers.";
    STALLED = Counter "rvs_updates_stalled" [] "Changes that some worker had not taken up after two seconds.";
    BEHIND = Gauge "rvs_workers_behind" [] "Workers that do not run the newest configuration yet; more than 0 for seconds means that one is stalled.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_regular() {
        let names: HashSet<_> = FAMILIES.iter().map(|family| family.name).collect();
        assert_eq!(names.len(), FAMILIES.len());
        for family in FAMILIES {
            let name = family.name;
            assert!(name.starts_with("rvs_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            for reserved in ["_total", "_info", "_bucket", "_sum", "_count", "_created"] {
                assert!(!name.ends_with(reserved), "{name}");
            }
            assert!(family.help.ends_with('.') && !family.help.contains('\n'), "{name}");
        }
    }
}
