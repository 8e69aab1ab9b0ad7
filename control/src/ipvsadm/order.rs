//! The order of a listing.
//!
//! ipvsadm compares addresses by the sign of a 32-bit difference, which is an
//! order on a circle: 192.168.0.1 comes before 10.0.0.1, and 130.0.0.1 after
//! it. Cutting the circle opposite of the lowest address gives a proper order
//! that agrees with ipvsadm's wherever that one is free of contradictions, and
//! does not depend on the order before.

use std::net::{IpAddr, SocketAddr};

use crate::api::{Protocol, ServiceId, ServiceStatus};

/// Sorts services by mark, family, protocol, address and port, and the servers
/// of each by address and port.
pub(super) fn sort(services: &mut [ServiceStatus]) {
    services.sort_by_key(|s| group(&s.spec.id));
    for group in services.chunk_by_mut(|a, b| group(&a.spec.id) == group(&b.spec.id)) {
        sort_by_address(group, |s| match s.spec.id {
            ServiceId::Address { address, .. } => Some(address),
            ServiceId::Fwmark { .. } => None,
        });
    }
    for service in services {
        sort_by_address(&mut service.servers, |s| Some(s.spec.address));
    }
}

/// What comes before the address: mark, family, protocol.
fn group(id: &ServiceId) -> (u32, bool, u8) {
    match id {
        ServiceId::Fwmark { mark, ipv6 } => (*mark, *ipv6, 0),
        ServiceId::Address { protocol, address } => {
            // The numbers of IANA, which ipvsadm compares.
            let protocol = match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
                Protocol::Sctp => 132,
            };
            (0, address.is_ipv6(), protocol)
        }
    }
}

fn sort_by_address<T>(rows: &mut [T], address: impl Fn(&T) -> Option<SocketAddr>) {
    let addresses = rows.iter().filter_map(&address);
    let Some(centre) = addresses.map(|a| words(a.ip())).min() else {
        return;
    };
    rows.sort_by_key(|row| address(row).map(|a| (around(centre, words(a.ip())), a.port())));
}

/// The address as ipvsadm's 32-bit words; an IPv4 address fills the first.
fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(address) => [address.to_bits(), 0, 0, 0],
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
        }
    }
}

/// The signed distance of each word from the centre's.
fn around(centre: [u32; 4], address: [u32; 4]) -> [i32; 4] {
    std::array::from_fn(|i| address[i].wrapping_sub(centre[i]) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(addresses: &[&str]) -> Vec<String> {
        let mut rows: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        sort_by_address(&mut rows, |a| Some(*a));
        rows.iter().map(ToString::to_string).collect()
    }

    /// Orders that ipvsadm 1.31 printed.
    #[test]
    fn addresses_go_round_the_circle_as_in_ipvsadm() {
        for expected in [
            &["192.168.1.1:80", "10.0.0.1:80", "10.0.0.2:80", "130.0.0.1:443"][..],
            &["192.168.9.1:80", "200.0.0.1:80", "10.9.9.9:80"],
            &["[fd01::12]:53", "10.0.1.8:52", "10.0.1.8:53", "10.0.1.8:54", "10.0.1.11:53"],
            &["[fe80::1]:1", "10.1.1.1:1", "[2001:db8::1]:1", "[2001:db8:1111::7777]:1"],
        ] {
            assert_eq!(sorted(expected), expected);
            let mut turned = expected.to_vec();
            turned.reverse();
            assert_eq!(sorted(&turned), expected, "from the end");
            turned.swap(0, 1);
            assert_eq!(sorted(&turned), expected, "from the middle");
        }
    }
}
