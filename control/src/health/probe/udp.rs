//! A datagram and its answer.

use std::io;

use dataplane::packet::Protocol;
use dataplane::probes::Probe;
use tokio::net::UdpSocket;

use super::{Deadline, Outcome, To, any_of, plain};
use crate::health::plan::Udp;

/// The longest datagram.
const LONGEST: usize = 65_535;

/// Sends the datagram. Answers that have not what is expected are passed over:
/// a late one to an earlier question may come first.
pub(super) async fn probe(udp: &Udp, to: To<'_>, deadline: Deadline) -> Outcome {
    let (socket, _probe) = open(to).await.map_err(|e| plain(&e))?;
    socket.send(&udp.send).await.map_err(|e| plain(&e))?;
    let Some(expected) = &udp.expect else { return no_refusal(&socket, deadline).await };
    let mut answered = false;
    let answer = async {
        let mut buffer = vec![0; LONGEST];
        loop {
            let length = socket.recv(&mut buffer).await.map_err(|e| refused(&e))?;
            answered = true;
            if contains(&buffer[..length], expected) {
                return Ok(());
            }
        }
    };
    let outcome = deadline.bound("no answer", answer).await;
    match outcome {
        Err(reason) if answered && reason.starts_with("no answer") => {
            Err("no answer has the expected bytes".into())
        }
        outcome => outcome,
    }
}

async fn open(to: To<'_>) -> io::Result<(UdpSocket, Option<Probe>)> {
    let socket = UdpSocket::bind((any_of(to.server), 0)).await?;
    let probe = to.begin(Protocol::Udp, socket.local_addr()?.port());
    socket.connect(to.server).await?;
    Ok((socket, probe))
}

/// Good when no ICMP unreachable comes until the time is over, or anything does
/// come: something listens.
async fn no_refusal(socket: &UdpSocket, deadline: Deadline) -> Outcome {
    let mut byte = [0];
    match tokio::time::timeout_at(deadline.at.into(), socket.recv(&mut byte)).await {
        Ok(Err(error)) => Err(refused(&error)),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// The kernel reports an ICMP unreachable on a connected socket.
fn refused(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return "ICMP port unreachable".into();
    }
    plain(error)
}

/// Whether bytes have others in them.
pub(super) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}
