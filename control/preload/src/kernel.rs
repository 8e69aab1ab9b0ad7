//! What the kernel has to say to a request on a socket that has become ours: a
//! program may ask the same socket for other families.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};
use nix::sys::time::TimeVal;

use crate::netlink::{
    HEADER, Header, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR, acknowledgement, messages,
};

/// The kernel answers at once.
const PATIENCE: Duration = Duration::from_secs(1);

/// The longest datagram that the kernel sends.
const LONGEST: usize = 32 * 1024;

/// The kernel's answer to one request, as messages to the netlink port `port`.
pub(crate) fn answer(request: &[u8], port: u32) -> Vec<Vec<u8>> {
    exchange(request, port)
        .unwrap_or_else(|errno| vec![acknowledgement(request, port, Some(errno))])
}

fn exchange(request: &[u8], port: u32) -> Result<Vec<Vec<u8>>, Errno> {
    let flags = Header::of(request).ok_or(Errno::EINVAL)?.flags;
    let kind = (AddressFamily::Netlink, SockType::Raw, SockProtocol::NetlinkGeneric);
    let socket = socket::socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, kind.2)?;
    let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
    let fd = socket.as_raw_fd();
    // The sender's port is checked; 0 stands for that of the socket.
    let mut sent = request.to_vec();
    sent[12..HEADER].fill(0);
    socket::sendto(fd, &sent, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let last = |header: &Header| match header.kind {
        NLMSG_DONE | NLMSG_ERROR => true,
        _ => flags & (NLM_F_ACK | NLM_F_DUMP) == 0,
    };
    let mut answers = Vec::new();
    let mut buffer = vec![0; LONGEST];
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let length = socket::recv(fd, &mut buffer, MsgFlags::empty())?;
        let mut complete = false;
        for (header, message) in messages(&buffer[..length]) {
            complete |= last(&header);
            let mut message = message.to_vec();
            message[12..HEADER].copy_from_slice(&port.to_ne_bytes());
            answers.push(message);
        }
        if complete {
            return Ok(answers);
        }
    }
    Err(Errno::ETIMEDOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::NLCTRL;
    use crate::netlink::{Message, attributes, text_of};

    fn question(name: &str, flags: u16) -> Vec<u8> {
        let mut message = Message::new(NLCTRL, 1 | flags, 7, 4711);
        message.raw(&[3, 1, 0, 0]);
        message.text(2, name);
        message.finish()
    }

    #[test]
    fn the_kernel_knows_its_own_families() {
        let answers = answer(&question("nlctrl", NLM_F_ACK), 9);
        let headers: Vec<_> = answers.iter().map(|a| Header::of(a).unwrap()).collect();
        assert_eq!(headers.iter().map(|h| h.kind).collect::<Vec<_>>(), [NLCTRL, NLMSG_ERROR]);
        assert!(headers.iter().all(|h| (h.sequence, h.port) == (7, 9)), "{headers:?}");
        let [_, _, name] = attributes(&answers[0][20..]);
        assert_eq!(text_of(name.unwrap()), Ok("nlctrl"));
        assert_eq!(answer(&question("nlctrl", 0), 9).len(), 1);
    }

    #[test]
    fn a_family_that_does_not_exist_is_an_error() {
        let answers = answer(&question("NO_SUCH", NLM_F_ACK), 9);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][16..20], (-(Errno::ENOENT as i32)).to_ne_bytes());
    }
}
