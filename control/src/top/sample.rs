//! What rvsd says of itself at a moment, and what lies between two of them.

use std::time::Instant;

use crate::api::{
    KernelPathCounters, MethodName, PortCounters, Request, Response, ServiceStatus, WorkerCounters,
};
use crate::client::{Client, ClientError};
use crate::show::service_name;

/// All counters at a moment.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// rvsd's release.
    pub(super) daemon: String,
    pub(super) services: Vec<ServiceStatus>,
    pub(super) workers: Vec<WorkerCounters>,
    pub(super) ports: Vec<PortCounters>,
    pub(super) kernel_path: KernelPathCounters,
    pub(super) tsc_hz: u64,
    pub(super) table_places: u64,
}

impl Sample {
    pub(super) fn take(client: &mut Client) -> Result<Self, ClientError> {
        let daemon = client.daemon().to_owned();
        let services = client.services(None)?.services;
        match client.call(&Request::Counters {})? {
            Response::Counters { workers, ports, kernel_path, tsc_hz, table_places } => Ok(Self {
                at: Instant::now(),
                daemon,
                services,
                workers,
                ports,
                kernel_path,
                tsc_hz,
                table_places,
            }),
            _ => Err(ClientError::BadReply("a response of the wrong kind".to_owned())),
        }
    }
}

/// A page of `top`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum View {
    Services,
    Servers,
    Workers,
    Ports,
    Drops,
}

impl View {
    pub(super) const ALL: [Self; 5] =
        [Self::Services, Self::Servers, Self::Workers, Self::Ports, Self::Drops];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Servers => "servers",
            Self::Workers => "workers",
            Self::Ports => "ports",
            Self::Drops => "drops",
        }
    }

    /// The titles of the columns, the most important first. The first is the
    /// name.
    pub(super) const fn titles(self) -> &'static [&'static str] {
        match self {
            Self::Services => &[
                "SERVICE",
                "CONN/S",
                "IN PKT/S",
                "OUT PKT/S",
                "ACTIVE",
                "INACT",
                "IN B/S",
                "OUT B/S",
                "SERVERS",
                "SCHED",
            ],
            Self::Servers => &[
                "SERVER",
                "CONN/S",
                "IN PKT/S",
                "OUT PKT/S",
                "ACTIVE",
                "INACT",
                "WEIGHT",
                "SERVICE",
                "METHOD",
                "IN B/S",
                "OUT B/S",
            ],
            Self::Workers => &[
                "WORKER",
                "BUSY",
                "CYC/PKT",
                "PKT/LOOP",
                "RX/S",
                "TX/S",
                "DROPS/S",
                "CONNS",
                "TABLE 4",
                "TABLE 6",
                "HANDED/S",
                "PUNTED/S",
                "EXPIRED/S",
                "RECYCLED/S",
            ],
            Self::Ports => &[
                "PORT", "RX PKT/S", "TX PKT/S", "RX B/S", "TX B/S", "MISSED/S", "LINK", "ERRORS/S",
                "MBUFS",
            ],
            Self::Drops => &["REASON", "DROPS/S", "TOTAL"],
        }
    }
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// A count, or a rate: 1/s.
    Number(f64),
    /// A share, 0 to 1.
    Share(f64),
}

impl Value {
    /// For people: three digits and a letter.
    pub(super) fn short(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Share(share) => format!("{:.1} %", share * 100.0),
            Self::Number(number) => {
                let (mut number, mut unit) = (*number, "");
                for larger in ["k", "M", "G", "T"] {
                    if number < 999.5 {
                        break;
                    }
                    (number, unit) = (number / 1000.0, larger);
                }
                match (unit, number) {
                    ("", n) if n.fract() == 0.0 || n >= 99.95 => format!("{n:.0}"),
                    (_, n) if n < 9.995 => format!("{n:.2}{unit}"),
                    (_, n) if n < 99.95 => format!("{n:.1}{unit}"),
                    (_, n) => format!("{n:.0}{unit}"),
                }
            }
        }
    }

    /// For programs: whole numbers, shares in percent.
    pub(super) fn plain(&self) -> String {
        match self {
            Self::Text(text) => text.replace(' ', "_"),
            Self::Share(share) => format!("{:.1}", share * 100.0),
            Self::Number(number) => format!("{number:.0}"),
        }
    }

    pub(super) fn compare(&self, other: &Self) -> std::cmp::Ordering {
        match (self, other) {
            (Self::Number(a) | Self::Share(a), Self::Number(b) | Self::Share(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            (Self::Text(_), _) => std::cmp::Ordering::Less,
            _ => std::cmp::Ordering::Greater,
        }
    }
}

/// Rates between two samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Between<'a> {
    before: Option<&'a Sample>,
    now: &'a Sample,
    seconds: f64,
}

impl<'a> Between<'a> {
    /// Without an earlier sample all rates are 0.
    pub(super) fn new(before: Option<&'a Sample>, now: &'a Sample) -> Self {
        let seconds = before.map_or(0.0, |before| (now.at - before.at).as_secs_f64());
        Self { before, now, seconds }
    }

    /// Per second. A counter that went back began anew: then what it has.
    fn rate(&self, before: Option<u64>, now: u64) -> f64 {
        match before {
            Some(before) if self.seconds > 0.0 => {
                (if now >= before { now - before } else { now }) as f64 / self.seconds
            }
            _ => 0.0,
        }
    }

    /// The cells of a view, a row for each.
    pub(super) fn rows(&self, view: View) -> Vec<Vec<Value>> {
        match view {
            View::Services => self.services(),
            View::Servers => self.servers(),
            View::Workers => self.workers(),
            View::Ports => self.ports(),
            View::Drops => self.drops(),
        }
    }

    fn services(&self) -> Vec<Vec<Value>> {
        let before: std::collections::HashMap<_, _> = self
            .before
            .iter()
            .flat_map(|before| &before.services)
            .map(|service| (service.spec.id, service.stats))
            .collect();
        let row = |service: &ServiceStatus| {
            let (old, new) = (before.get(&service.spec.id), service.stats);
            let rate = |count: fn(&crate::api::Stats) -> u64| {
                Value::Number(self.rate(old.map(count), count(&new)))
            };
            let sum = |count: fn(&crate::api::ServerStatus) -> u32| {
                Value::Number(service.servers.iter().map(|s| f64::from(count(s))).sum())
            };
            vec![
                Value::Text(service_name(&service.spec.id)),
                rate(|stats| stats.connections),
                rate(|stats| stats.in_packets),
                rate(|stats| stats.out_packets),
                sum(|server| server.active),
                sum(|server| server.inactive),
                rate(|stats| stats.in_bytes),
                rate(|stats| stats.out_bytes),
                Value::Number(service.servers.len() as f64),
                Value::Text(service.spec.scheduler.clone()),
            ]
        };
        self.now.services.iter().map(row).collect()
    }

    fn servers(&self) -> Vec<Vec<Value>> {
        let before: std::collections::HashMap<_, _> = self
            .before
            .iter()
            .flat_map(|before| &before.services)
            .flat_map(|service| {
                let id = service.spec.id;
                service.servers.iter().map(move |s| ((id, s.spec.address), s.stats))
            })
            .collect();
        let mut rows = Vec::new();
        for service in &self.now.services {
            let id = service.spec.id;
            for server in &service.servers {
                let (old, new) = (before.get(&(id, server.spec.address)), server.stats);
                let rate = |count: fn(&crate::api::Stats) -> u64| {
                    Value::Number(self.rate(old.map(count), count(&new)))
                };
                rows.push(vec![
                    Value::Text(server.spec.address.to_string()),
                    rate(|stats| stats.connections),
                    rate(|stats| stats.in_packets),
                    rate(|stats| stats.out_packets),
                    Value::Number(server.active.into()),
                    Value::Number(server.inactive.into()),
                    Value::Number(server.spec.weight.into()),
                    Value::Text(service_name(&id)),
                    Value::Text(MethodName::from(&server.spec.method).name().to_owned()),
                    rate(|stats| stats.in_bytes),
                    rate(|stats| stats.out_bytes),
                ]);
            }
        }
        rows
    }

    fn workers(&self) -> Vec<Vec<Value>> {
        let row = |(number, worker): (usize, &WorkerCounters)| {
            let old = self.before.and_then(|before| before.workers.get(number));
            let difference = |count: fn(&WorkerCounters) -> u64| {
                self.rate(old.map(count), count(worker)) * self.seconds
            };
            let rate = |count: fn(&WorkerCounters) -> u64| {
                Value::Number(self.rate(old.map(count), count(worker)))
            };
            let ratio = |a: f64, b: f64| if b > 0.0 { a / b } else { 0.0 };
            let (cycles, rounds) = (difference(|w| w.busy_cycles), difference(|w| w.busy_rounds));
            let packets = difference(|w| w.rx + w.taken_over + w.injected);
            let all = self.seconds * self.now.tsc_hz as f64;
            let filled = |n: usize| {
                Value::Share(ratio(worker.entries[n] as f64, self.now.table_places as f64))
            };
            vec![
                Value::Text(format!("{number} on core {}", worker.core)),
                Value::Share(ratio(cycles, all).min(1.0)),
                Value::Number(ratio(cycles, packets).round()),
                Value::Number(ratio(packets, rounds)),
                rate(|w| w.rx),
                rate(|w| w.tx),
                rate(WorkerCounters::dropped),
                Value::Number(worker.connections as f64),
                filled(0),
                filled(1),
                rate(|w| w.handed_off),
                rate(|w| w.punted),
                rate(|w| w.expired),
                rate(|w| w.recycled),
            ]
        };
        self.now.workers.iter().enumerate().map(row).collect()
    }

    fn ports(&self) -> Vec<Vec<Value>> {
        let row = |port: &PortCounters| {
            let old = self.before.and_then(|b| b.ports.iter().find(|old| old.name == port.name));
            let rate = |count: fn(&PortCounters) -> u64| {
                Value::Number(self.rate(old.map(count), count(port)))
            };
            let used = f64::from(port.mbufs_in_use) / f64::from(port.mbufs.max(1));
            vec![
                Value::Text(port.name.clone()),
                rate(|port| port.rx_packets),
                rate(|port| port.tx_packets),
                rate(|port| port.rx_bytes),
                rate(|port| port.tx_bytes),
                rate(|port| port.rx_missed),
                Value::Text(if port.link_up { "up" } else { "down" }.to_owned()),
                rate(|port| port.rx_errors + port.tx_errors),
                Value::Share(used),
            ]
        };
        let mut rows: Vec<_> = self.now.ports.iter().map(row).collect();
        let path = |name: &str, count: fn(&KernelPathCounters) -> (u64, u64, u64)| {
            let old = self.before.map(|before| count(&before.kernel_path));
            let (rx, tx, lost) = count(&self.now.kernel_path);
            let none = || Value::Number(0.0);
            vec![
                Value::Text(name.to_owned()),
                Value::Number(self.rate(old.map(|old| old.0), rx)),
                Value::Number(self.rate(old.map(|old| old.1), tx)),
                none(),
                none(),
                Value::Number(self.rate(old.map(|old| old.2), lost)),
                Value::Text("-".to_owned()),
                none(),
                Value::Share(0.0),
            ]
        };
        rows.push(path("kernel path", |path| {
            (path.from_kernel, path.to_kernel, path.from_kernel_dropped + path.to_kernel_failed)
        }));
        rows
    }

    fn drops(&self) -> Vec<Vec<Value>> {
        let mut rows: Vec<Vec<Value>> = Vec::new();
        let totals = |sample: &Sample| {
            let mut totals: Vec<(String, u64)> = Vec::new();
            for drop in sample.workers.iter().flat_map(|worker| &worker.drops) {
                match totals.iter_mut().find(|(reason, _)| *reason == drop.reason) {
                    Some((_, count)) => *count += drop.count,
                    None => totals.push((drop.reason.clone(), drop.count)),
                }
            }
            totals
        };
        let before = self.before.map(totals);
        for (reason, count) in totals(self.now) {
            if count == 0 {
                continue;
            }
            let old = before.as_ref().and_then(|b| b.iter().find(|(name, _)| *name == reason));
            let rate = self.rate(old.map(|(_, count)| *count), count);
            rows.push(vec![Value::Text(reason), Value::Number(rate), Value::Number(count as f64)]);
        }
        rows
    }

    /// The line over all views: packets in, out and dropped a second,
    /// connections, new ones a second, the busiest worker's share.
    pub(super) fn summary(&self) -> String {
        let number = |value: &Value| match value {
            Value::Number(number) | Value::Share(number) => *number,
            Value::Text(_) => 0.0,
        };
        let workers = self.workers();
        let sum = |column: usize| workers.iter().map(|row| number(&row[column])).sum::<f64>();
        let busiest = workers.iter().map(|row| number(&row[1])).fold(0.0, f64::max);
        let opened: f64 = self.services().iter().map(|row| number(&row[1])).sum();
        let short = |value: f64| Value::Number(value).short();
        format!(
            "in {}/s  out {}/s  drops {}/s  connections {} (+{}/s)  busiest {}",
            short(sum(4)),
            short(sum(5)),
            short(sum(6)),
            short(sum(7)),
            short(opened),
            Value::Share(busiest).short()
        )
    }
}
