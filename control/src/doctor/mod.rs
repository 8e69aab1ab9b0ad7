//! `rvsadm doctor`: looks at the box, the configuration, the director and the
//! servers, and says what is wrong and which command mends it. A file for each
//! area; none changes anything.

mod cores;
pub mod devices;
mod host;
mod memory;
mod network;
mod probe;
mod report;
mod services;
mod traffic;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::client::{Client, ClientError};
use crate::config::{self, Config};
pub use host::Host;
pub use report::{Finding, Severity};

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The configuration that the box is to fit
    #[arg(long, default_value = "/etc/rvs/rvsd.toml", value_name = "FILE")]
    config: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Without asking the network whether others answer ARP for virtual
    /// addresses, and without waiting for counters to grow
    #[arg(long)]
    quick: bool,
}

impl Doctor {
    /// Looks at everything and prints what it finds. 0 when there is nothing to
    /// mend, 1 when there is.
    #[must_use]
    pub fn run(&self, socket: &Path, out: &mut dyn Write) -> ExitCode {
        let mut findings = self.findings(socket);
        findings.sort_by_key(|finding| finding.severity);
        let text = if self.json { report::json(&findings) } else { report::text(&findings) };
        // Whoever reads has seen enough when the pipe is closed.
        let _ = out.write_all(text.as_bytes());
        let ill = findings.iter().any(|finding| finding.severity != Severity::Note);
        ExitCode::from(u8::from(ill))
    }

    fn findings(&self, socket: &Path) -> Vec<Finding> {
        let host = Host::this();
        let mut findings = Vec::new();
        let config = read_config(&self.config, &mut findings);
        let mut client = match Client::connect(socket) {
            Ok(client) => Some(client),
            Err(error) => {
                findings.push(unreachable(&error));
                None
            }
        };
        if let Some(config) = &config {
            findings.extend(of_box(&host, config, client.is_some()));
        }
        if let Some(client) = &mut client {
            if let Err(error) = self.of_director(client, &host, config.as_ref(), &mut findings) {
                findings.push(Finding::error("director", error.to_string()));
            }
        }
        findings
    }

    fn of_director(
        &self,
        client: &mut Client,
        host: &Host,
        config: Option<&Config>,
        findings: &mut Vec<Finding>,
    ) -> Result<(), ClientError> {
        let services = client.services(None)?.services;
        let hops = client.next_hops()?;
        findings.extend(services::check(&services, &hops));
        let before = traffic::counters(client)?;
        findings.extend(traffic::ports(&before));
        findings.extend(config.into_iter().flat_map(|config| traffic::queues(&before, config)));
        let links: Vec<_> = before.taps().collect();
        findings.extend(network::check_virtual(host, &services, config, &links));
        if !self.quick {
            findings.extend(probe::arp(host, &services, &links, &hops));
            std::thread::sleep(traffic::PERIOD);
            findings.extend(traffic::growth(&before, &traffic::counters(client)?));
        }
        Ok(())
    }
}

/// Without a director the rest can be looked at; one that does not answer is ill.
fn unreachable(error: &ClientError) -> Finding {
    let text = error.to_string();
    let (what, mend) = text.split_once('\n').unwrap_or((&text, ""));
    let finding = if error.unreachable() {
        Finding::note("director", what)
    } else {
        Finding::error("director", what)
    };
    finding.because("services, servers and counters were not looked at").mend(mend)
}

/// The file, when it is there and good.
fn read_config(file: &Path, findings: &mut Vec<Finding>) -> Option<Config> {
    if !file.exists() {
        findings.push(
            Finding::note("configuration", format!("there is no {}", file.display()))
                .because("the box was not compared with what rvsd is to be given")
                .mend("rvs-setup-box NIC..., or name a file with --config"),
        );
        return None;
    }
    let online = config::online_cores().unwrap_or_else(|_| BTreeSet::new());
    match Config::from_file(file, &online) {
        Ok(config) => Some(config),
        Err(error) => {
            findings.push(
                Finding::error("configuration", error.to_string())
                    .because("rvsd does not start with it, and a reload changes nothing")
                    .mend(format!("change that line, then: rvsd --check -c {}", file.display())),
            );
            None
        }
    }
}

/// What the box alone tells; `runs` when rvsd has its memory and NICs already.
fn of_box(host: &Host, config: &Config, runs: bool) -> Vec<Finding> {
    let mut findings = memory::check(host, config, runs);
    findings.extend(devices::check(host, config));
    findings.extend(cores::check(host, config));
    findings.extend(network::check(host, config, runs));
    findings
}
