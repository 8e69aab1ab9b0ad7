//! The preload library `librvs_ipvs.so`: lets programs that drive the kernel's
//! IPVS, such as Debian's `ipvsadm` and `keepalived`, drive `rvsd` instead.
//!
//! `abi` stands in for functions of libc. Requests of the generic netlink
//! family `IPVS` go to `sockets`, which keeps what a program has not read yet;
//! `director` carries them out over the control API: `operation` says what a
//! request asks for, `status` how the answer looks, in the numbers of `terms`,
//! `family` and `netlink`. `files` writes the files of `/proc/net`. Everything
//! else passes through. docs/keepalived.md tells how it is used.
//!
//! It lives in other people's programs: it starts no thread, keeps no
//! connection, and holds no lock while it waits for `rvsd`.

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod abi;
mod director;
mod family;
mod files;
mod kernel;
mod netlink;
mod operation;
mod sockets;
mod sockopt;
mod status;
mod terms;
