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
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
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
/// The slot's lock was held by another thread of a process that forked, and
/// will never be given back in the child.
const LOST: RawFd = -2;

static SLOTS: [Slot; MOST] = [const { Slot::new() }; MOST];

/// Whether there ever was one, so that all others cost next to nothing.
static USED: AtomicBool = AtomicBool::new(false);

/// Set while a socket is being adopted, one at a time. Not a mutex: the child
/// of a fork has to set it back.
static ADOPTING: AtomicBool = AtomicBool::new(false);

/// A socket that is ours.
struct Slot {
    fd: AtomicI32,
    /// The [`Identity`] of what was put there.
    identity: AtomicU64,
    conversation: Mutex<Conversation>,
}

/// What is known of it.
struct Conversation {
    /// Its netlink port.
    port: u32,
    /// Messages that were not read yet.
    unread: VecDeque<Vec<u8>>,
}

impl Slot {
    const fn new() -> Self {
        let conversation = Mutex::new(Conversation { port: 0, unread: VecDeque::new() });
        Self { fd: AtomicI32::new(FREE), identity: AtomicU64::new(0), conversation }
    }

    fn lock(&self) -> MutexGuard<'_, Conversation> {
        self.conversation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a descriptor is still the socket that was put there.
    fn is(&self, identity: Option<Identity>) -> bool {
        identity.is_some_and(|identity| identity.0 == self.identity.load(Ordering::Acquire))
    }

    /// Whether it can be had: never used, or its descriptor was closed or is
    /// `fd`, which is about to be replaced.
    fn is_available(&self, fd: RawFd) -> bool {
        match self.fd.load(Ordering::Acquire) {
            FREE => true,
            LOST => false,
            used => used == fd || !self.is(Identity::of(used)),
        }
    }

    /// Puts a socket of ours in the place of a descriptor, which is this slot's
    /// from now on.
    fn take(&self, fd: RawFd, port: u32) -> Result<(), Errno> {
        self.fd.store(FREE, Ordering::Release);
        let identity = abi::replace(fd)?;
        *self.lock() = Conversation { port, unread: VecDeque::new() };
        self.identity.store(identity.0, Ordering::Release);
        self.fd.store(fd, Ordering::Release);
        USED.store(true, Ordering::Release);
        Ok(())
    }
}

/// The slot of a descriptor that is ours. A slot may name a descriptor that was
/// closed and is another file's now.
fn find(fd: RawFd) -> Option<&'static Slot> {
    if fd < 0 || !USED.load(Ordering::Acquire) {
        return None;
    }
    let mut named = SLOTS.iter().filter(|slot| slot.fd.load(Ordering::Acquire) == fd).peekable();
    named.peek()?;
    let identity = Identity::of(fd);
    named.find(|slot| slot.is(identity))
}

/// Makes a generic netlink socket ours.
fn adopt(fd: RawFd, port: u32) -> Result<&'static Slot, Errno> {
    while ADOPTING.swap(true, Ordering::Acquire) {
        std::thread::yield_now();
    }
    let slot = SLOTS.iter().find(|slot| slot.is_available(fd)).ok_or(Errno::ENOBUFS);
    let adopted = slot.and_then(|slot| slot.take(fd, port).map(|()| slot));
    ADOPTING.store(false, Ordering::Release);
    adopted
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
        None => {
            abi::watch_forks();
            match adopt(fd, abi::netlink_port(fd)) {
                Ok(slot) => slot,
                Err(errno) => return Some(Err(errno)),
            }
        }
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
    ADOPTING.store(false, Ordering::Release);
    for slot in &SLOTS {
        let fd = slot.fd.load(Ordering::Acquire);
        if fd < 0 || !slot.is(Identity::of(fd)) {
            continue;
        }
        let kept = match slot.conversation.try_lock() {
            Ok(mut guard) => Some((guard.port, std::mem::take(&mut guard.unread))),
            Err(TryLockError::Poisoned(_)) => Some((std::process::id(), VecDeque::new())),
            Err(TryLockError::WouldBlock) => None,
        };
        let Some((port, unread)) = kept else {
            slot.fd.store(LOST, Ordering::Release);
            // Errors show at the next call: the descriptor is not ours then.
            let _ = adopt(fd, std::process::id());
            continue;
        };
        if slot.take(fd, port).is_ok() && !unread.is_empty() {
            // Into an empty socket of our own; it has room.
            let _ = abi::put_mark(fd);
            slot.lock().unread = unread;
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
