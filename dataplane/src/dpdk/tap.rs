//! The kernel path's tap device: frames to and from the kernel.

use std::fmt;
use std::io::{self, IoSlice};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::libc::{self, c_int, c_ulong, ifreq};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::stat::Mode;

const TUN_DEVICE: &str = "/dev/net/tun";
/// linux/if_tun.h: `TUNSETIFF` fails with EBUSY if the interface exists.
const IFF_TUN_EXCL: libc::c_short = 0x8000_u16 as libc::c_short;

/// A tap interface, there as long as the value is: the kernel removes it with
/// its last file descriptor, however the process ends.
pub struct Tap {
    fd: OwnedFd,
    name: String,
    index: u32,
}

/// Why a tap could not be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapError {
    /// The interface's name.
    pub name: String,
    /// What was tried.
    pub step: &'static str,
    /// How that failed.
    pub errno: Errno,
}

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tap {}: {} failed: {}", self.name, self.step, self.errno.desc())?;
        f.write_str(match (self.step, self.errno) {
            (CREATE, Errno::EBUSY | Errno::EEXIST) => {
                "; an interface of this name exists (`ip link` shows it): remove it, or rename the port"
            }
            (NAME, _) => "; 1 to 15 characters without blanks, slashes, colons and percent signs make a name",
            (_, Errno::EPERM | Errno::EACCES) => "; run as root, or with CAP_NET_ADMIN",
            (OPEN, Errno::ENOENT | Errno::ENODEV) => "; the kernel's tun driver is missing (`modprobe tun`)",
            (MAC, Errno::EADDRNOTAVAIL) => "; it must be a unicast address other than zero",
            _ => "",
        })
    }
}

impl std::error::Error for TapError {}

const NAME: &str = "checking the name";
const OPEN: &str = "opening /dev/net/tun";
const CREATE: &str = "creating the interface";
const MAC: &str = "setting the MAC address";

impl Tap {
    /// Makes a tap interface and brings it up.
    ///
    /// # Errors
    /// When the name is taken or impossible, or the permission is missing.
    pub fn create(name: &str, mac: [u8; 6], mtu: u16) -> Result<Self, TapError> {
        let failed = |step| move |errno| TapError { name: name.to_string(), step, errno };
        let mut request = Request::new(name).ok_or(Errno::EINVAL).map_err(failed(NAME))?;
        let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let fd = open(TUN_DEVICE, flags, Mode::empty()).map_err(failed(OPEN))?;
        let kind = libc::IFF_TAP as libc::c_short | libc::IFF_NO_PI as libc::c_short | IFF_TUN_EXCL;
        request.set_flags(kind);
        request.send(&fd, libc::TUNSETIFF as c_ulong).map_err(failed(CREATE))?;

        let control = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(failed("opening a socket"))?;
        request.set_mac(mac);
        request.send(&control, libc::SIOCSIFHWADDR as c_ulong).map_err(failed(MAC))?;
        request.set_mtu(mtu);
        request.send(&control, libc::SIOCSIFMTU as c_ulong).map_err(failed("setting the MTU"))?;
        request
            .send(&control, libc::SIOCGIFFLAGS as c_ulong)
            .map_err(failed("reading its flags"))?;
        request.set_flags(request.flags() | libc::IFF_UP as libc::c_short);
        request.send(&control, libc::SIOCSIFFLAGS as c_ulong).map_err(failed("bringing it up"))?;
        let index = if_nametoindex(name).map_err(failed("reading its index"))?;
        Ok(Self { fd, name: name.to_string(), index })
    }

    /// The next frame that the kernel sends, or `None` if there is none now. A
    /// frame longer than the buffer is cut off.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match nix::unistd::read(&self.fd, buffer) {
                Ok(len) => return Ok(Some(len)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Hands one frame to the kernel.
    ///
    /// # Errors
    /// `EIO` while the interface is down, `WouldBlock` when the kernel takes no more.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.send_vectored(&[IoSlice::new(frame)])
    }

    /// Hands one frame to the kernel that lies in several pieces.
    ///
    /// # Errors
    /// As [`Tap::send`].
    pub fn send_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match nix::sys::uio::writev(&self.fd, pieces) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index in the kernel.
    pub fn index(&self) -> u32 {
        self.index
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An interface request, as the kernel's ioctls take it (netdevice(7)).
struct Request(ifreq);

impl Request {
    /// For an interface of this name, if that can be one. The kernel would
    /// replace a `%d` by a number.
    fn new(name: &str) -> Option<Self> {
        let forbidden =
            |byte: u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b':' | b'%' | 0);
        let fits = (1..libc::IFNAMSIZ).contains(&name.len());
        if !fits || name == "." || name == ".." || name.bytes().any(forbidden) {
            return None;
        }
        // SAFETY: all of ifreq is integers and arrays of them, or a pointer that
        // may be null.
        let mut request: ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        Some(Self(request))
    }

    fn set_flags(&mut self, flags: libc::c_short) {
        self.0.ifr_ifru.ifru_flags = flags;
    }

    fn flags(&self) -> libc::c_short {
        // SAFETY: every bit pattern is a number.
        unsafe { self.0.ifr_ifru.ifru_flags }
    }

    fn set_mtu(&mut self, mtu: u16) {
        self.0.ifr_ifru.ifru_mtu = c_int::from(mtu);
    }

    fn set_mac(&mut self, mac: [u8; 6]) {
        let mut address = libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: [0; 14] };
        for (to, from) in address.sa_data.iter_mut().zip(mac) {
            *to = from as libc::c_char;
        }
        self.0.ifr_ifru.ifru_hwaddr = address;
    }

    fn send(&mut self, fd: &OwnedFd, number: c_ulong) -> Result<(), Errno> {
        // SAFETY: all the requests used here read and write one ifreq.
        Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), number, &mut self.0) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_impossible_names() {
        for name in ["", "tap%d", "a b", "a/b", "eth0:1", "..", "sixteen-letters-", "a\0b"] {
            let error = Tap::create(name, [2, 0, 0, 0, 0, 1], 1500).err().map(|error| error.step);
            assert_eq!(error, Some(NAME), "{name:?}");
        }
        assert!(Request::new("fifteen-letters").is_some());
    }
}
