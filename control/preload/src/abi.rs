//! The functions of libc that the library stands in for, and the calls for
//! which there is no safe form. All of the package's `unsafe` is here.
//!
//! The dynamic linker finds these functions before libc's. Each of them either
//! does the library's work or hands its arguments on, unchanged, to the
//! function that it hides ([`Next`]).
//!
//! Assumed of callers everywhere is what the manual pages demand of those of
//! the function itself; "as the caller promises" below means that.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::fs::File as StdFile;
use std::io::{BufWriter, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::{mem, ptr, slice};

use libc::{iovec, msghdr, size_t, sockaddr, sockaddr_nl, socklen_t, ssize_t};
use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};

use crate::director;
use crate::files::File;
use crate::sockets;
use crate::sockopt;

// ------------------------------------------------------------- what is hidden

/// A function that one of ours hides.
struct Next {
    name: &'static CStr,
    address: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self { name, address: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Its address. Found at the first call, without allocation or lock of
    /// ours, as that may be in a signal handler.
    fn address(&self) -> *mut c_void {
        let mut address = self.address.load(Ordering::Relaxed);
        if address.is_null() {
            // SAFETY: the name is a C string.
            address = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            if address.is_null() {
                // A libc without the function that it declares: nothing works.
                std::process::abort();
            }
            self.address.store(address, Ordering::Relaxed);
        }
        address
    }
}

/// Calls the function of the given name and type that ours hides.
macro_rules! next {
    ($name:ident as fn($($type:ty),*) -> $result:ty, $($argument:expr),*) => {{
        static NEXT: Next = Next::new(
            match CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                Ok(name) => name,
                Err(_) => panic!("a name has no zero byte"),
            },
        );
        // SAFETY: the type is that of the function's declaration in libc, and
        // the arguments are those that the caller gave for this very function.
        unsafe {
            let function = mem::transmute::<
                *mut c_void,
                unsafe extern "C" fn($($type),*) -> $result,
            >(NEXT.address());
            function($($argument),*)
        }
    }};
}

/// A function's result in the form of C.
fn given(result: Result<usize, Errno>) -> ssize_t {
    match result {
        Ok(count) => ssize_t::try_from(count).unwrap_or(ssize_t::MAX),
        Err(errno) => {
            errno.set();
            -1
        }
    }
}

// --------------------------------------------------------------------- sending

/// `sendmsg(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sendmsg(
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    if !message.is_null() {
        // SAFETY: as the caller promises, the message, its vector and what
        // that names are valid for the time of the call.
        let result = unsafe {
            let parts = parts_of(&*message);
            let head = parts.first().map_or(&[][..], |part| bytes_at(part.iov_base, part.iov_len));
            let bytes = || parts.iter().flat_map(|p| bytes_at(p.iov_base, p.iov_len)).copied();
            sockets::send(fd, head, || bytes().collect())
        };
        if let Some(result) = result {
            return given(result);
        }
    }
    next!(sendmsg as fn(c_int, *const msghdr, c_int) -> ssize_t, fd, message, flags)
}

/// The segments of a message.
///
/// # Safety
/// The message's vector must be valid for reading.
unsafe fn parts_of(message: &msghdr) -> &[iovec] {
    if message.msg_iov.is_null() {
        return &[];
    }
    // SAFETY: the kernel's form of a vector is a pointer and a count.
    unsafe { slice::from_raw_parts(message.msg_iov, message.msg_iovlen) }
}

/// `sendto(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sendto(
    fd: c_int,
    buffer: *const c_void,
    length: size_t,
    flags: c_int,
    address: *const sockaddr,
    address_length: socklen_t,
) -> ssize_t {
    // SAFETY: as the caller promises.
    let bytes = unsafe { bytes_at(buffer, length) };
    if let Some(result) = sockets::send(fd, bytes, || bytes.to_vec()) {
        return given(result);
    }
    next!(
        sendto as fn(c_int, *const c_void, size_t, c_int, *const sockaddr, socklen_t) -> ssize_t,
        fd,
        buffer,
        length,
        flags,
        address,
        address_length
    )
}

/// `send(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn send(
    fd: c_int,
    buffer: *const c_void,
    length: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as the caller promises.
    let bytes = unsafe { bytes_at(buffer, length) };
    if let Some(result) = sockets::send(fd, bytes, || bytes.to_vec()) {
        return given(result);
    }
    next!(send as fn(c_int, *const c_void, size_t, c_int) -> ssize_t, fd, buffer, length, flags)
}

/// # Safety
/// Unless null, `buffer` must be valid for reading `length` bytes as long as
/// the result lives.
unsafe fn bytes_at<'a>(buffer: *const c_void, length: size_t) -> &'a [u8] {
    if buffer.is_null() {
        return &[];
    }
    // SAFETY: as the caller promises.
    unsafe { slice::from_raw_parts(buffer.cast(), length) }
}

// ------------------------------------------------------------------- receiving

/// `recvmsg(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    if !message.is_null() {
        // SAFETY: as the caller promises.
        let received = unsafe { receive_message(fd, &mut *message, flags) };
        if let Some(result) = received {
            return given(result);
        }
    }
    next!(recvmsg as fn(c_int, *mut msghdr, c_int) -> ssize_t, fd, message, flags)
}

/// # Safety
/// The message's vector and name must be valid for writing.
unsafe fn receive_message(
    fd: c_int,
    message: &mut msghdr,
    flags: c_int,
) -> Option<Result<usize, Errno>> {
    // SAFETY: as the caller promises. The vector is not the message itself,
    // which is written below.
    let vector = unsafe { parts_of(&*ptr::from_ref(message)) };
    let room = vector.iter().map(|part| part.iov_len).sum();
    let datagram = match sockets::receive(fd, room, flags & libc::MSG_PEEK != 0)? {
        Ok(datagram) => datagram,
        Err(errno) => return Some(Err(errno)),
    };
    let mut rest = &datagram[..];
    for part in vector {
        let (now, later) = rest.split_at(rest.len().min(part.iov_len));
        // SAFETY: the segment has room for `iov_len` bytes, and what the
        // program owns does not overlap with our copy.
        unsafe { ptr::copy_nonoverlapping(now.as_ptr(), part.iov_base.cast(), now.len()) };
        rest = later;
    }
    message.msg_flags = if rest.is_empty() { 0 } else { libc::MSG_TRUNC };
    message.msg_controllen = 0;
    if !message.msg_name.is_null() {
        // SAFETY: the name has room for `msg_namelen` bytes.
        unsafe { name_kernel(message.msg_name, &mut message.msg_namelen, 0) };
    }
    let copied = datagram.len() - rest.len();
    Some(Ok(if flags & libc::MSG_TRUNC != 0 { datagram.len() } else { copied }))
}

/// Writes a netlink address: the kernel's when `port` is 0.
///
/// # Safety
/// `address` must be valid for writing `length` bytes.
unsafe fn name_kernel(address: *mut c_void, length: &mut socklen_t, port: u32) {
    // SAFETY: the type is made of numbers, for which zero is a value.
    let mut name: sockaddr_nl = unsafe { mem::zeroed() };
    name.nl_family = libc::AF_NETLINK as u16;
    name.nl_pid = port;
    let whole = size_of::<sockaddr_nl>();
    let room = (*length as usize).min(whole);
    // SAFETY: both have `room` bytes, and ours is on the stack.
    unsafe { ptr::copy_nonoverlapping((&raw const name).cast(), address.cast::<u8>(), room) };
    *length = whole as socklen_t;
}

/// `recvfrom(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn recvfrom(
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
    flags: c_int,
    address: *mut sockaddr,
    address_length: *mut socklen_t,
) -> ssize_t {
    // SAFETY: as the caller promises.
    if let Some(result) = unsafe { receive_bytes(fd, buffer, length, flags) } {
        if result.is_ok() && !address.is_null() && !address_length.is_null() {
            // SAFETY: as the caller promises, the length says what is valid.
            unsafe { name_kernel(address.cast(), &mut *address_length, 0) };
        }
        return given(result);
    }
    next!(
        recvfrom as fn(c_int, *mut c_void, size_t, c_int, *mut sockaddr, *mut socklen_t) -> ssize_t,
        fd,
        buffer,
        length,
        flags,
        address,
        address_length
    )
}

/// `recv(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn recv(
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: as the caller promises.
    if let Some(result) = unsafe { receive_bytes(fd, buffer, length, flags) } {
        return given(result);
    }
    next!(recv as fn(c_int, *mut c_void, size_t, c_int) -> ssize_t, fd, buffer, length, flags)
}

/// # Safety
/// `buffer` must be valid for writing `length` bytes.
unsafe fn receive_bytes(
    fd: c_int,
    buffer: *mut c_void,
    length: size_t,
    flags: c_int,
) -> Option<Result<usize, Errno>> {
    let datagram = match sockets::receive(fd, length, flags & libc::MSG_PEEK != 0)? {
        Ok(datagram) => datagram,
        Err(errno) => return Some(Err(errno)),
    };
    let copied = datagram.len().min(length);
    if copied > 0 {
        // SAFETY: both have `copied` bytes and do not overlap.
        unsafe { ptr::copy_nonoverlapping(datagram.as_ptr(), buffer.cast(), copied) };
    }
    Some(Ok(if flags & libc::MSG_TRUNC != 0 { datagram.len() } else { copied }))
}

/// `getsockname(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getsockname(
    fd: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
) -> c_int {
    if !address.is_null() && !length.is_null() {
        if let Some(port) = sockets::port(fd) {
            // SAFETY: as the caller promises, the length says what is valid.
            unsafe { name_kernel(address.cast(), &mut *length, port) };
            return 0;
        }
    }
    next!(getsockname as fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int, fd, address, length)
}

// ------------------------------------------------- the older interface of IPVS

/// `getsockopt(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    length: *mut socklen_t,
) -> c_int {
    if sockopt::is_ours(level, name) {
        return given(Err(sockopt::refusal())) as c_int;
    }
    next!(
        getsockopt as fn(c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
        fd,
        level,
        name,
        value,
        length
    )
}

/// `setsockopt(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    length: socklen_t,
) -> c_int {
    if sockopt::is_ours(level, name) {
        return given(Err(sockopt::refusal())) as c_int;
    }
    next!(
        setsockopt as fn(c_int, c_int, c_int, *const c_void, socklen_t) -> c_int,
        fd,
        level,
        name,
        value,
        length
    )
}

// ----------------------------------------------------------------------- files

/// `fopen(3)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fopen(path: *const c_char, mode: *const c_char) -> *mut libc::FILE {
    // SAFETY: as the caller promises.
    match unsafe { stream_of(path, mode) } {
        Some(stream) => stream,
        None => next!(fopen as fn(*const c_char, *const c_char) -> *mut libc::FILE, path, mode),
    }
}

/// `fopen(3)` where files may be large.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn fopen64(
    path: *const c_char,
    mode: *const c_char,
) -> *mut libc::FILE {
    // SAFETY: as the caller promises.
    match unsafe { stream_of(path, mode) } {
        Some(stream) => stream,
        None => next!(fopen64 as fn(*const c_char, *const c_char) -> *mut libc::FILE, path, mode),
    }
}

/// A stream of one of our files, null when it cannot be had, or `None` for
/// other files.
///
/// # Safety
/// `path` and `mode` must be C strings.
unsafe fn stream_of(path: *const c_char, mode: *const c_char) -> Option<*mut libc::FILE> {
    // SAFETY: as the caller promises.
    let file = unsafe { file_of(path) }?;
    Some(match content(file) {
        // SAFETY: the descriptor is open and becomes the stream's; `mode` is
        // the caller's C string.
        Ok(file) => unsafe { libc::fdopen(file.into_raw_fd(), mode) },
        Err(errno) => {
            errno.set();
            ptr::null_mut()
        }
    })
}

/// # Safety
/// `path` must be null or a C string.
unsafe fn file_of(path: *const c_char) -> Option<File> {
    if path.is_null() {
        return None;
    }
    // SAFETY: as the caller promises.
    let path = unsafe { CStr::from_ptr(path) };
    File::of(OsStr::from_bytes(path.to_bytes()))
}

/// What one of our files contains now, as a file in memory.
fn content(file: File) -> Result<StdFile, Errno> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"ip_vs".as_ptr(), libc::MFD_CLOEXEC) };
    let fd = Errno::result(fd)?;
    // SAFETY: the descriptor is open and nobody else's.
    let mut memory = unsafe { StdFile::from_raw_fd(fd) };
    let mut out = BufWriter::new(&memory);
    file.write(director::ours(), &mut out)?;
    out.flush().map_err(|_| Errno::ENOSPC)?;
    drop(out);
    memory.rewind().map_err(|_| Errno::EIO)?;
    Ok(memory)
}

/// `open(2)`. C declares it with a variable number of arguments; on Linux an
/// integer is passed alike either way, and the third is not looked at by libc
/// unless the flags demand it.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller promises.
    match unsafe { opened(path, flags) } {
        Some(fd) => fd,
        None => next!(open as fn(*const c_char, c_int, c_uint) -> c_int, path, flags, mode),
    }
}

/// `open(2)` where files may be large.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: as the caller promises.
    match unsafe { opened(path, flags) } {
        Some(fd) => fd,
        None => next!(open64 as fn(*const c_char, c_int, c_uint) -> c_int, path, flags, mode),
    }
}

/// `openat(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    // SAFETY: as the caller promises. Our paths are absolute.
    match unsafe { opened(path, flags) } {
        Some(fd) => fd,
        None => next!(
            openat as fn(c_int, *const c_char, c_int, c_uint) -> c_int,
            directory,
            path,
            flags,
            mode
        ),
    }
}

/// `openat(2)` where files may be large.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat64(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mode: c_uint,
) -> c_int {
    // SAFETY: as the caller promises. Our paths are absolute.
    match unsafe { opened(path, flags) } {
        Some(fd) => fd,
        None => next!(
            openat64 as fn(c_int, *const c_char, c_int, c_uint) -> c_int,
            directory,
            path,
            flags,
            mode
        ),
    }
}

/// A descriptor of one of our files, -1 when it cannot be had, or `None` for
/// other files.
///
/// # Safety
/// `path` must be null or a C string.
unsafe fn opened(path: *const c_char, flags: c_int) -> Option<c_int> {
    // SAFETY: as the caller promises.
    let file = unsafe { file_of(path) }?;
    if flags & libc::O_ACCMODE != libc::O_RDONLY {
        return Some(given(Err(Errno::EACCES)) as c_int);
    }
    Some(match content(file) {
        Ok(file) if flags & libc::O_CLOEXEC != 0 => file.into_raw_fd(),
        Ok(file) => {
            let fd = file.into_raw_fd();
            // SAFETY: the descriptor is open; the call takes a number.
            unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
            fd
        }
        Err(errno) => given(Err(errno)) as c_int,
    })
}

// -------------------------------------------------------------------- modprobe

/// `execv(3)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn execv(
    path: *const c_char,
    arguments: *const *const c_char,
) -> c_int {
    // SAFETY: as the caller promises.
    if unsafe { loads_ipvs(path, arguments) } {
        return given(Err(Errno::ENOENT)) as c_int;
    }
    next!(execv as fn(*const c_char, *const *const c_char) -> c_int, path, arguments)
}

/// `execve(2)`.
///
/// # Safety
/// As for the function of libc.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn execve(
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
) -> c_int {
    // SAFETY: as the caller promises.
    if unsafe { loads_ipvs(path, arguments) } {
        return given(Err(Errno::ENOENT)) as c_int;
    }
    next!(
        execve as fn(*const c_char, *const *const c_char, *const *const c_char) -> c_int,
        path,
        arguments,
        environment
    )
}

/// Whether a program is modprobe and is to load the kernel's IPVS: it must not,
/// as that would take the packets that `rvsd` leaves to the kernel. Allocates
/// nothing, as this runs in children of a fork.
///
/// # Safety
/// `path` must be null or a C string, `arguments` null or an array of C strings
/// that ends with a null.
unsafe fn loads_ipvs(path: *const c_char, arguments: *const *const c_char) -> bool {
    if path.is_null() || arguments.is_null() {
        return false;
    }
    // SAFETY: as the caller promises.
    if !unsafe { CStr::from_ptr(path) }.to_bytes().ends_with(b"/modprobe") {
        return false;
    }
    for place in 0.. {
        // SAFETY: no null came yet, so there is one more element.
        let argument = unsafe { *arguments.add(place) };
        if argument.is_null() {
            break;
        }
        // SAFETY: as the caller promises.
        if unsafe { CStr::from_ptr(argument) }.to_bytes().starts_with(b"ip_vs") {
            return true;
        }
    }
    false
}

// -------------------------------------------------------- what the others need

/// What makes an open socket the one it is: its inode, with the device on top.
/// Inodes of sockets and numbers of devices have 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity(pub(crate) u64);

impl Identity {
    /// That of a descriptor, if it is open.
    pub(crate) fn of(fd: RawFd) -> Option<Self> {
        let mut stat = mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: there is room for the result, which is there when fstat
        // succeeds; the descriptor is only a number to it.
        let stat = unsafe {
            if libc::fstat(fd, stat.as_mut_ptr()) != 0 {
                return None;
            }
            stat.assume_init()
        };
        Some(Self(stat.st_dev.rotate_left(32) ^ stat.st_ino))
    }
}

/// A number that `getsockopt` gives.
fn socket_option(fd: RawFd, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut length = size_of::<c_int>() as socklen_t;
    let (place, room): (*mut c_void, _) = ((&raw mut value).cast(), &raw mut length);
    let result = next!(
        getsockopt as fn(c_int, c_int, c_int, *mut c_void, *mut socklen_t) -> c_int,
        fd,
        libc::SOL_SOCKET,
        name,
        place,
        room
    );
    (result == 0).then_some(value)
}

/// Whether a descriptor is a generic netlink socket.
pub(crate) fn is_generic_netlink(fd: RawFd) -> bool {
    socket_option(fd, libc::SO_DOMAIN) == Some(libc::AF_NETLINK)
        && socket_option(fd, libc::SO_PROTOCOL) == Some(libc::NETLINK_GENERIC)
}

/// The port of a netlink socket; that of a socket which is not bound yet is the
/// process's number, as the kernel would choose.
pub(crate) fn netlink_port(fd: RawFd) -> u32 {
    let mut name = mem::MaybeUninit::<sockaddr_nl>::zeroed();
    let mut length = size_of::<sockaddr_nl>() as socklen_t;
    let (place, room): (*mut sockaddr, _) = (name.as_mut_ptr().cast(), &raw mut length);
    let result =
        next!(getsockname as fn(c_int, *mut sockaddr, *mut socklen_t) -> c_int, fd, place, room);
    // SAFETY: zeroed numbers, which the kernel has overwritten or not.
    let name = unsafe { name.assume_init() };
    if result == 0 && name.nl_pid != 0 { name.nl_pid } else { std::process::id() }
}

/// Puts a Unix socket that is connected to itself in the place of a descriptor,
/// which stays blocking or not and close-on-exec or not.
pub(crate) fn replace(fd: RawFd) -> Result<Identity, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let itself = socket::socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    socket::bind(itself.as_raw_fd(), &UnixAddr::new_unnamed())?;
    let address: UnixAddr = socket::getsockname(itself.as_raw_fd())?;
    socket::connect(itself.as_raw_fd(), &address)?;
    // SAFETY: the calls take numbers; the descriptor that dup3 closes is the
    // program's own, whose place ours takes.
    unsafe {
        let status = Errno::result(libc::fcntl(fd, libc::F_GETFL))?;
        let close = Errno::result(libc::fcntl(fd, libc::F_GETFD))? & libc::FD_CLOEXEC;
        Errno::result(libc::fcntl(itself.as_raw_fd(), libc::F_SETFL, status & libc::O_NONBLOCK))?;
        let flags = if close != 0 { libc::O_CLOEXEC } else { 0 };
        Errno::result(libc::dup3(itself.as_raw_fd(), fd, flags))?;
    }
    Identity::of(fd).ok_or(Errno::EBADF)
}

/// Makes a descriptor of ours readable.
pub(crate) fn put_mark(fd: RawFd) -> Result<(), Errno> {
    let flags = (MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL).bits();
    let byte = [0u8];
    let sent = next!(
        send as fn(c_int, *const c_void, size_t, c_int) -> ssize_t,
        fd,
        byte.as_ptr().cast(),
        byte.len(),
        flags
    );
    Errno::result(sent).map(drop)
}

/// Makes it unreadable again.
pub(crate) fn take_mark(fd: RawFd) {
    let mut byte = [0u8];
    let flags = MsgFlags::MSG_DONTWAIT.bits();
    // It may fail where the program has taken the mark by read(2).
    let _ = next!(
        recv as fn(c_int, *mut c_void, size_t, c_int) -> ssize_t,
        fd,
        byte.as_mut_ptr().cast(),
        byte.len(),
        flags
    );
}

/// Sees to it that children of forks get sockets of their own.
pub(crate) fn watch_forks() {
    extern "C" fn child() {
        sockets::after_fork();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is a function that lives as long as the library,
        // which is never unloaded. It allocates, which glibc allows there: its
        // own handlers have made malloc usable in the child by then.
        unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
}
