//! A program that says by its exit code whether a server is good.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use super::{Deadline, Outcome, Target, plain};
use crate::api::{Protocol, ServiceId};

/// Where programs find others; nothing else of rvsd's environment is theirs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How long a killed program is waited for; after that the runtime reaps it.
const REAP: Duration = Duration::from_millis(200);

/// Runs the program in a process group of its own, all of which is killed when
/// the time is over.
pub(super) async fn probe(argv: &[String], target: &Target, deadline: Deadline) -> Outcome {
    let (program, arguments) = argv.split_first().ok_or("there is no program")?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).envs(environment(target));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/").process_group(0);
    let child = command.spawn().map_err(|e| format!("cannot run {program}: {}", plain(&e)))?;
    let mut group = Group(child);
    let ended = async { group.0.wait().await.map_err(|e| plain(&e)) };
    let outcome = deadline.bound("no exit", ended).await;
    match outcome {
        Ok(status) => verdict(status),
        Err(reason) => {
            group.kill();
            // Killed, it ends at once, unless it hangs in the kernel.
            let _ = tokio::time::timeout(REAP, group.0.wait()).await;
            Err(reason)
        }
    }
}

/// What the program is told: address and port of service and server. Those of a
/// service by mark are empty.
fn environment(target: &Target) -> [(&'static str, String); 5] {
    let (protocol, vip, vport) = match target.service {
        ServiceId::Address { protocol, address } => {
            let protocol = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                Protocol::Sctp => "sctp",
            };
            (protocol, address.ip().to_string(), address.port().to_string())
        }
        ServiceId::Fwmark { .. } => ("", String::new(), String::new()),
    };
    [
        ("RVS_PROTOCOL", protocol.to_owned()),
        ("RVS_VIP", vip),
        ("RVS_VPORT", vport),
        ("RVS_RIP", target.server.ip().to_string()),
        ("RVS_RPORT", target.server.port().to_string()),
    ]
}

fn verdict(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => Err(format!("exit code {code}")),
        (None, signal) => Err(format!("killed by signal {}", signal.unwrap_or_default())),
    }
}

/// A program and whatever it started. Killed when it is dropped before its end:
/// a check that is stopped leaves nothing behind, and the runtime reaps it.
struct Group(Child);

impl Group {
    fn kill(&self) {
        // Without an id it has been waited for, and the number may be another's.
        if let Some(id) = self.0.id() {
            let _ = killpg(Pid::from_raw(id as i32), Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
