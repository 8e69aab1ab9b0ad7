//! Who is where. Two ports, as in a two-arm setup; each party has an address of
//! both families.
//!
//! ```text
//! client --- router --- port 0, director, port 1 --- server 1, server 2
//! ```
//!
//! One-arm setups have server and client at port 0.

use std::net::{IpAddr, SocketAddr};

use dataplane::packet::{Family, Mac};

/// Both families, for rows that exist in both.
pub(crate) const FAMILIES: [Family; 2] = [V4, V6];
pub(crate) use Family::{V4, V6};

pub(crate) const PORT_MACS: [Mac; 2] = [[2, 0, 0, 0, 0, 0x10], [2, 0, 0, 0, 0, 0x20]];
/// The router between clients and port 0.
pub(crate) const ROUTER_MAC: Mac = [2, 0, 0, 0, 0, 0x11];

pub(crate) const fn server_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 0, 0x30 + number]
}

fn address(family: Family, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
    match family {
        V4 => v4.into(),
        V6 => v6.into(),
    }
}

fn net6(net: u16, last: u16) -> [u16; 8] {
    [0x2001, 0xdb8, net, 0, 0, 0, 0, last]
}

/// The client, and its port 40000.
pub(crate) fn client(family: Family) -> SocketAddr {
    let address = address(family, [198, 51, 100, 12], net6(0xc, 0x12));
    SocketAddr::new(address, 40_000)
}

/// The VIP, and port 80.
pub(crate) fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(address(family, [192, 0, 2, 100], net6(1, 0x100)), 80)
}

/// Server 1 or 2, and port 80.
pub(crate) fn rip(family: Family, number: u8) -> SocketAddr {
    let last = 0x30 + u16::from(number);
    SocketAddr::new(address(family, [10, 0, 0, 30 + number], net6(2, last)), 80)
}

/// The local address of FULLNAT, and the first port that it gives.
pub(crate) fn local(family: Family) -> SocketAddr {
    SocketAddr::new(address(family, [10, 0, 0, 200], net6(2, 0x200)), 2024)
}

/// The director's own address on a port.
pub(crate) fn own(family: Family, port: u8) -> IpAddr {
    match port {
        0 => address(family, [192, 0, 2, 1], net6(1, 1)),
        _ => address(family, [10, 0, 0, 1], net6(2, 1)),
    }
}

/// A router far away on the client's side (port 0) or on the servers' (port 1).
pub(crate) fn far_router(family: Family, port: u8) -> IpAddr {
    match port {
        0 => address(family, [203, 0, 113, 9], net6(0x71, 9)),
        _ => address(family, [10, 9, 9, 9], net6(0x99, 9)),
    }
}
