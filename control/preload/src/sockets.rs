//! The netlink sockets that speak to us instead of the kernel.
//!
//! Such a socket's descriptor is replaced by a Unix datagram socket that is
//! connected to itself. What the program has to read is kept here; while there
//! is something, one datagram (the mark) lies in that socket, so that `poll`,
//! `select` and `epoll` say what they should.
//!
//! A descriptor may be closed, or replaced, behind our back. It is ours only
//! as long as it is the very socket that was put there: same device, same
//! inode.

use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use nix::errno::Errno;

use crate::abi::{self, Identity};
use crate::director;
use crate::family;
use crate::kernel;
use crate::netlink::{Header, NLM_F_MULTI, NLMSG_DONE, messages};

/// Most sockets of a process that are ours at a time; programs have one or two.
const MOST: usize = 64;

/// No descriptor.
const FREE: RawFd = -1;
/// A descriptor that is being replaced, or was when a fork left the slot behind.
const BUSY: RawFd = -2;

static SLOTS: [Slot; MOST] = [const { Slot::new() }; MOST];

/// Whether there ever was one, so that all others cost next to nothing.
static USED: AtomicBool = AtomicBool::new(false);

/// A socket that is ours.
struct Slot {
    fd: AtomicI32,
    conversation: Mutex<Conversation>,
}

/// What is known of it.
struct Conversation {
    identity: Identity,
    /// Its netlink port.
    port: u32,
    /// Messages that were not read yet.
    unread: VecDeque<Vec<u8>>,
}

impl Slot {
    const fn new() -> Self {
        let identity = Identity::NONE;
        let conversation = Conversation { identity, port: 0, unread: VecDeque::new() };
        Self { fd: AtomicI32::new(FREE), conversation: Mutex::new(conversation) }
    }

    fn lock(&self) -> MutexGuard<'_, Conversation> {
        self.conversation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of a descriptor that is ours.
fn find(fd: RawFd) -> Option<&'static Slot> {
    if fd < 0 || !USED.load(Ordering::Acquire) {
        return None;
    }
    let slot = SLOTS.iter().find(|slot| slot.fd.load(Ordering::Acquire) == fd)?;
    if Identity::of(fd) == Some(slot.lock().identity) {
        return Some(slot);
    }
    // Closed meanwhile; the number is another file's now.
    let _ = slot.fd.compare_exchange(fd, FREE, Ordering::AcqRel, Ordering::Acquire);
    None
}

/// A slot for a descriptor: a free one, or one whose descriptor was closed. It
/// is busy until it gets its descriptor.
fn claim(fd: RawFd) -> Option<&'static Slot> {
    let stale = |slot: &Slot| match slot.fd.load(Ordering::Acquire) {
        FREE => Some(FREE),
        BUSY => None,
        used if used == fd || Identity::of(used) != Some(slot.lock().identity) => Some(used),
        _ => None,
    };
    SLOTS.iter().find(|slot| {
        stale(slot).is_some_and(|old| {
            slot.fd.compare_exchange(old, BUSY, Ordering::AcqRel, Ordering::Acquire).is_ok()
        })
    })
}

/// Takes over what a program sends if it is ours: because the socket is
/// already, or because this is the first request for us on a generic netlink
/// socket. `head` is what it begins with, a request as a rule, `bytes` the
/// whole. `None` when it is the kernel's.
pub(crate) fn send(
    fd: RawFd,
    head: &[u8],
    bytes: impl FnOnce() -> Vec<u8>,
) -> Option<Result<usize, Errno>> {
    let slot = match find(fd) {
        Some(slot) => slot,
        None if !family::is_ours(head) || !abi::is_generic_netlink(fd) => return None,
        None => match adopt(fd) {
            Ok(slot) => slot,
            Err(errno) => return Some(Err(errno)),
        },
    };
    let bytes = bytes();
    let port = slot.lock().port;
    for (_, message) in messages(&bytes) {
        // Without the lock: rvsd may take seconds.
        let answers = if family::is_ours(message) {
            director::ours().answer(message, port)
        } else {
            kernel::answer(message, port)
        };
        let mut conversation = slot.lock();
        if conversation.unread.is_empty() && !answers.is_empty() {
            if let Err(errno) = abi::put_mark(fd) {
                return Some(Err(errno));
            }
        }
        conversation.unread.extend(answers);
    }
    Some(Ok(bytes.len()))
}

/// Makes a generic netlink socket ours.
fn adopt(fd: RawFd) -> Result<&'static Slot, Errno> {
    abi::watch_forks();
    let port = abi::netlink_port(fd);
    let slot = claim(fd).ok_or(Errno::ENOBUFS)?;
    let mut conversation = slot.lock();
    match abi::replace(fd) {
        Ok(identity) => {
            *conversation = Conversation { identity, port, unread: VecDeque::new() };
            slot.fd.store(fd, Ordering::Release);
            USED.store(true, Ordering::Release);
            Ok(slot)
        }
        Err(errno) => {
            slot.fd.store(FREE, Ordering::Release);
            Err(errno)
        }
    }
}

/// The netlink port of a descriptor that is ours.
pub(crate) fn port(fd: RawFd) -> Option<u32> {
    find(fd).map(|slot| slot.lock().port)
}

/// The datagram that is next on a descriptor of ours, for a reader with `room`
/// bytes, which stays where it is when the reader only peeks. `None` when the
/// descriptor is not ours; EAGAIN when nothing is there: answers are there as
/// soon as the request is sent, so waiting would be for ever.
pub(crate) fn receive(fd: RawFd, room: usize, peek: bool) -> Option<Result<Vec<u8>, Errno>> {
    let slot = find(fd)?;
    let mut conversation = slot.lock();
    let count = datagram(&conversation.unread, room);
    if count == 0 {
        return Some(Err(Errno::EAGAIN));
    }
    if peek {
        let parts = conversation.unread.iter().take(count);
        return Some(Ok(parts.flatten().copied().collect()));
    }
    let bytes = conversation.unread.drain(..count).flatten().collect();
    if conversation.unread.is_empty() {
        conversation.unread.shrink_to_fit();
        abi::take_mark(fd);
    }
    Some(Ok(bytes))
}

/// How many messages the next datagram has: as many parts of a dump as the
/// reader has room for, otherwise one. The end of a dump travels alone.
fn datagram(unread: &VecDeque<Vec<u8>>, room: usize) -> usize {
    /// The kernel's own limit.
    const LONGEST: usize = 32 * 1024;
    let part = |message: &Vec<u8>| {
        Header::of(message).is_some_and(|h| h.flags & NLM_F_MULTI != 0 && h.kind != NLMSG_DONE)
    };
    if !unread.front().is_some_and(part) {
        return unread.len().min(1);
    }
    let mut length = 0;
    let fitting = unread.iter().take_while(|message| {
        length += message.len();
        part(message) && length <= room.min(LONGEST)
    });
    fitting.count().max(1)
}

/// Gives the child of a fork sockets of its own: the mark of one side must not
/// be read by the other. The child keeps a copy of what was unread, unless
/// another thread of the parent was at it in that moment.
pub(crate) fn after_fork() {
    for slot in &SLOTS {
        let fd = slot.fd.load(Ordering::Acquire);
        if fd < 0 {
            continue;
        }
        let mut conversation = match slot.conversation.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                slot.fd.store(BUSY, Ordering::Release);
                continue;
            }
        };
        if Identity::of(fd) != Some(conversation.identity) {
            slot.fd.store(FREE, Ordering::Release);
            continue;
        }
        match abi::replace(fd) {
            Ok(identity) => conversation.identity = identity,
            Err(_) => slot.fd.store(FREE, Ordering::Release),
        }
        if !conversation.unread.is_empty() {
            // Into an empty socket of our own; it has room.
            let _ = abi::put_mark(fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Message, NLMSG_ERROR, done};

    fn part(length: usize) -> Vec<u8> {
        let mut message = Message::new(0x3ff, NLM_F_MULTI, 7, 9);
        message.raw(&vec![0; length - 16]);
        message.finish()
    }

    #[test]
    fn a_dump_fills_the_room_of_its_reader() {
        let mut unread: VecDeque<_> = std::iter::repeat_with(|| part(300)).take(200).collect();
        unread.push_back(done(7, 9));
        for (room, messages) in
            [(0, 1), (299, 1), (599, 1), (600, 2), (16_384, 54), (32_768, 109), (1 << 20, 109)]
        {
            assert_eq!(datagram(&unread, room), messages, "{room} bytes");
        }
        unread.drain(..198);
        assert_eq!(datagram(&unread, 16_384), 2, "the end travels alone");
        unread.drain(..2);
        assert_eq!(datagram(&unread, 16_384), 1);
        unread.clear();
        assert_eq!(datagram(&unread, 16_384), 0);
    }

    #[test]
    fn answers_that_are_no_dump_travel_alone() {
        let single = || Message::new(NLMSG_ERROR, 0, 7, 9).finish();
        let unread = VecDeque::from([single(), single()]);
        assert_eq!(datagram(&unread, 16_384), 1);
    }
}
