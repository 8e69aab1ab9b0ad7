//! What a change costs the control thread with 10,000 services of 10 servers,
//! and how long such a configuration takes to load, phase by phase. Median and
//! greatest time of the calling thread, in CPU time.
//!
//! `cargo bench -p control --no-default-features --bench registry`

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use control::api::{Request, ServerSpec, ServiceId};
use control::config::Config;
use control::daemon::begin;
use control::daemon::saved::Saved;
use dataplane::service::Hop;
use nix::time::{ClockId, clock_gettime};

const SERVICES: u32 = 10_000;
const SERVERS: u32 = 10;
const ROUNDS: u32 = 200;

fn main() {
    // Directory of no record.
    let saved = Saved::new("/nonexistent".as_ref());
    for (scheduler, method) in [("wlc", "dr"), ("rr", "nat"), ("mh", "dr")] {
        // Without a share of the tables' gigabytes.
        let services = if scheduler == "mh" { SERVICES / 10 } else { SERVICES };
        println!("{scheduler} {method}, {services} services of {SERVERS} servers");
        let text = text(services, scheduler, method);
        println!("  file            {:>9.1} MB", text.len() as f64 / 1e6);
        let (took, config) = time(|| Config::parse("rvsd.toml", &text, &BTreeSet::from([0])));
        line("read", took);
        let config = config.expect("a good file");
        let (took, registry) = time(|| begin::registry(&config, &saved, vec![]));
        line("registry", took);
        let mut registry = registry.expect("a good configuration");
        line("first snapshot", time(|| registry.snapshot()).0);
        let (took, mut last) = time(|| {
            registry.resolve(0..u32::MAX, &|_| Hop::NoRoute);
            registry.snapshot()
        });
        line("ways", took);
        let changes: [(&str, &dyn Fn(u32) -> Request); 5] = [
            ("weight", &|n| edit(&config, n, 2)),
            ("delete a server", &|n| delete(&config, n)),
            ("add it again", &|n| add(&config, n)),
            ("add another", &|n| another(&config, n)),
            ("nothing", &|_| Request::SetSetting { name: "pmtu_disc".into(), value: 1 }),
        ];
        for (name, change) in changes {
            let mut times: Vec<_> = (0..ROUNDS)
                .map(|n| {
                    let request = change(n * 7 % services);
                    time(|| {
                        let done = registry.change(&request, &|_| Hop::NoRoute);
                        done.expect("a change").expect("a good one");
                        let next = registry.snapshot();
                        drop(std::mem::replace(&mut last, next));
                    })
                    .0
                })
                .collect();
            times.sort();
            let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
            println!("  {name:<15} {:>9.1} us, most {:.1} us", us(median), us(most));
        }
        line("rates", time(|| registry.estimate_rates()).0);
        line("state to save", time(|| serde_json::to_vec(&registry.saved(0, usize::MAX).0)).0);
        drop(last);
    }
}

fn line(what: &str, took: Duration) {
    println!("  {what:<15} {:>9.1} ms", us(took) / 1e3);
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn time<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock"));
    let start = now();
    let result = work();
    (now() - start, result)
}

fn text(services: u32, scheduler: &str, method: &str) -> String {
    let mut text =
        "[director]\ncores = [0]\n[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\n".to_owned();
    for service in 0..services {
        let [_, a, b, c] = service.to_be_bytes();
        let _ = write!(
            text,
            "[[service]]\nprotocol = \"tcp\"\naddress = \"10.{a}.{b}.{c}:80\"\nscheduler = \"{scheduler}\"\n"
        );
        for server in 0..SERVERS {
            let [_, a, b, c] = (service * SERVERS + server).to_be_bytes();
            let a = 16 + a;
            let _ = write!(
                text,
                "[[service.server]]\naddress = \"10.{a}.{b}.{c}\"\nmethod = \"{method}\"\nweight = 1\n"
            );
        }
    }
    text
}

/// A server of the n-th service.
fn server(config: &Config, n: u32) -> (ServiceId, ServerSpec) {
    let service = &config.services[n as usize];
    (service.spec.id, service.servers[3].clone())
}

fn edit(config: &Config, n: u32, weight: u32) -> Request {
    let (service, server) = server(config, n);
    Request::EditServer { service, server: ServerSpec { weight, ..server } }
}

fn delete(config: &Config, n: u32) -> Request {
    let (service, server) = server(config, n);
    Request::DeleteServer { service, server: server.address }
}

fn add(config: &Config, n: u32) -> Request {
    let (service, server) = server(config, n);
    Request::AddServer { service, server }
}

fn another(config: &Config, n: u32) -> Request {
    let (service, server) = server(config, n);
    let address = ([11, 0, (n >> 8) as u8, n as u8], server.address.port()).into();
    Request::AddServer { service, server: ServerSpec { address, ..server } }
}
