//! What `trace` and `capture` have in common: which packets, and the
//! conversation about them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Failure, Server};
use crate::api::{
    ObserveEnd, ObserveFilter, ObservedPacket, PacketVerdict, Protocol, Request, Response,
};
use crate::client::{Client, ClientError};

/// Time between two questions for packets.
const PERIOD: Duration = Duration::from_millis(100);

/// Which packets.
#[derive(Debug, Clone, Copy, Args)]
pub struct Which {
    /// Only packets of this client's connections, or from or to it
    #[arg(long, value_name = "IP[:PORT]")]
    client: Option<Server>,
    /// Only packets of connections to this virtual address
    #[arg(long, value_name = "IP[:PORT]")]
    vip: Option<Server>,
    /// Only packets of connections to this real server
    #[arg(long, value_name = "IP[:PORT]")]
    server: Option<Server>,
    /// Only packets of this protocol
    #[arg(long, value_enum)]
    proto: Option<ProtocolName>,
    /// Only packets that are dropped
    #[arg(long)]
    drops: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3600,
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,
    /// Note at most so many packets a second, of each worker; others are counted
    #[arg(long, value_name = "PACKETS", default_value_t = 1000,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
}

/// A protocol that services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProtocolName {
    /// TCP
    #[value(alias = "TCP")]
    Tcp,
    /// UDP
    #[value(alias = "UDP")]
    Udp,
    /// SCTP
    #[value(alias = "SCTP")]
    Sctp,
}

impl ProtocolName {
    pub(super) const fn protocol(self) -> Protocol {
        match self {
            Self::Tcp => Protocol::Tcp,
            Self::Udp => Protocol::Udp,
            Self::Sctp => Protocol::Sctp,
        }
    }
}

impl Which {
    fn filter(&self) -> ObserveFilter {
        let ends = [self.client, self.vip, self.server];
        let [client, vip, server] = ends.map(|end| end.map(|end| end.address));
        let [client_port, vip_port, server_port] = ends.map(|end| end.and_then(|end| end.port));
        let protocol = self.proto.map(ProtocolName::protocol);
        let drops = self.drops;
        ObserveFilter { client, client_port, vip, vip_port, server, server_port, protocol, drops }
    }
}

/// What an observation came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) packets: u64,
    pub(super) left_out: u64,
    pub(super) passed_by: u64,
}

/// Whether the user has asked for the end (Ctrl-C).
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Observes packets until there are no more, or Ctrl-C; `each` gets those that
/// an answer brought, perhaps none.
pub(super) fn observe(
    client: &mut Client,
    which: &Which,
    count: u64,
    snaplen: u32,
    mut each: impl FnMut(&[ObservedPacket]) -> Result<(), Failure>,
) -> Result<Sum, Failure> {
    stop_on_interrupt();
    let Which { rate, timeout: seconds, .. } = *which;
    let request = Request::ObserveStart { filter: which.filter(), count, snaplen, rate, seconds };
    let id = match client.call(&request)? {
        Response::Observing { id } => id,
        _ => return Err(unexpected()),
    };
    eprintln!("observing; Ctrl-C ends it");
    let mut sum = Sum::default();
    loop {
        let request = match INTERRUPTED.load(Ordering::Relaxed) {
            true => Request::ObserveStop { id },
            false => Request::ObserveNext { id },
        };
        let Response::Observed { packets, left_out, passed_by, ended } = client.call(&request)?
        else {
            return Err(unexpected());
        };
        let is_last_part =
            |p: &&ObservedPacket| !matches!(p.verdict, PacketVerdict::HandedOver { .. });
        sum.packets += packets.iter().filter(is_last_part).count() as u64;
        (sum.left_out, sum.passed_by) = (left_out, passed_by);
        if let Err(failure) = each(&packets) {
            if ended.is_none() {
                let _ = client.call(&Request::ObserveStop { id });
            }
            return Err(failure);
        }
        match ended {
            Some(ObserveEnd::Count | ObserveEnd::Time | ObserveEnd::Stopped) => return Ok(sum),
            None if packets.is_empty() => std::thread::sleep(PERIOD),
            None => {}
        }
    }
}

/// Has Ctrl-C, and the end of a pipeline's shell, end the observation in order:
/// what was noted is still taken.
fn stop_on_interrupt() {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    // Fails for signals that do not exist only.
    if signals.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            INTERRUPTED.store(true, Ordering::Relaxed);
            // The next one ends the program as usual.
            let _ = signals.thread_unblock();
        }
    });
}

/// What is to be said about packets that are not shown.
pub(super) fn remarks(sum: &Sum) -> String {
    let Sum { packets, left_out, passed_by } = sum;
    let mut text = format!("{packets} packet{}", if *packets == 1 { "" } else { "s" });
    if *left_out > 0 {
        text.push_str(&format!(
            "; {left_out} more matched and were left out: narrow the filter, or raise --rate"
        ));
    }
    if *passed_by > 0 {
        text.push_str(&format!(
            "; {passed_by} were not looked at, too many might have matched: narrow the filter"
        ));
    }
    text
}

pub(super) fn unexpected() -> Failure {
    ClientError::BadReply("a response of the wrong kind".to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_said() {
        let said = |packets, left_out, passed_by| remarks(&Sum { packets, left_out, passed_by });
        assert_eq!((said(1, 0, 0).as_str(), said(2, 0, 0).as_str()), ("1 packet", "2 packets"));
        assert!(said(2, 7, 0).starts_with("2 packets; 7 more matched and were left out"));
        assert!(said(0, 0, 9).starts_with("0 packets; 9 were not looked at"));
    }
}
