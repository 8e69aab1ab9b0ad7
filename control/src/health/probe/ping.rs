//! An ICMP echo request and its reply (RFC 792, RFC 4443).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::{Deadline, Outcome, plain};

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;
/// Type, code, checksum, identifier, sequence number; our own number follows.
const HEADER: usize = 8;
/// What makes a request ours: the kernel replaces the identifier of a datagram
/// socket, and a raw one gets the replies to others.
const MARK: &[u8; 8] = b"rvsdping";

/// Sends one request and waits for its reply.
pub(super) async fn probe(server: IpAddr, deadline: Deadline) -> Outcome {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let socket = open(server).map_err(|e| format!("{}; ping needs CAP_NET_RAW", plain(&e)))?;
    socket.send(&request(server, number)).await.map_err(|e| plain(&e))?;
    let reply = async {
        let mut buffer = [0; 1500];
        loop {
            let length = socket.recv(&mut buffer).await.map_err(|e| plain(&e))?;
            if is_reply(server, &buffer[..length], number) {
                return Ok(());
            }
        }
    };
    deadline.bound("no echo reply", reply).await
}

/// A socket for echo requests to one host: the kernel's own kind, which
/// `net.ipv4.ping_group_range` may keep from rvsd, or a raw one. Either can be
/// sent to and received from as a connected UDP socket can.
fn open(server: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match server {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))
        .or_else(|_| Socket::new(domain, Type::RAW, Some(protocol)))?;
    socket.set_nonblocking(true)?;
    socket.connect(&SocketAddr::new(server, 0).into())?;
    UdpSocket::from_std(socket.into())
}

fn request(server: IpAddr, number: u32) -> Vec<u8> {
    let kind = if server.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST6 };
    let sequence = (number as u16).to_be_bytes();
    let identifier = (std::process::id() as u16).to_be_bytes();
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.into_iter().chain(sequence));
    message.extend_from_slice(MARK);
    message.extend(number.to_be_bytes());
    if server.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    } // The kernel does that of ICMPv6, which has addresses in it.
    message
}

/// The internet checksum (RFC 1071) of a message of even length.
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[w.len() - 1]));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Whether a message is the reply to our request. A raw IPv4 socket delivers
/// the IP header, too.
fn is_reply(server: IpAddr, message: &[u8], number: u32) -> bool {
    let kind = if server.is_ipv4() { ECHO_REPLY } else { ECHO_REPLY6 };
    let icmp = match message.first() {
        Some(first) if server.is_ipv4() && first >> 4 == 4 => {
            message.get(usize::from(first & 0xf) * 4..).unwrap_or_default()
        }
        _ => message,
    };
    let ours = icmp.get(HEADER..).and_then(|data| data.strip_prefix(MARK));
    icmp.first() == Some(&kind) && ours == Some(&number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_the_rfc_has_it() {
        let message = request("192.0.2.1".parse().unwrap(), 0x0001_0203);
        assert_eq!((message[0], message[1], &message[6..8]), (8, 0, &[2, 3][..]));
        // With its checksum, a message adds up to 0.
        assert_eq!(checksum(&message), 0);
        let message = request("2001:db8::1".parse().unwrap(), 7);
        assert_eq!(message[..4], [128, 0, 0, 0]);
        // The example of RFC 1071, section 3.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn only_the_reply_to_this_request_counts() {
        let server = "192.0.2.1".parse().unwrap();
        let mut reply = request(server, 7);
        assert!(!is_reply(server, &reply, 7), "the request itself, seen on loopback");
        reply[0] = ECHO_REPLY;
        assert!(is_reply(server, &reply, 7));
        assert!(!is_reply(server, &reply, 8), "an earlier one");
        let mut with_header = vec![0x45; 20];
        with_header.extend(&reply);
        assert!(is_reply(server, &with_header, 7), "from a raw socket");
        for length in 0..reply.len() {
            assert!(!is_reply(server, &reply[..length], 7));
            assert!(!is_reply(server, &with_header[..length], 7));
        }
    }
}
