//! The terms of IPVS for what the control API says otherwise: flags of
//! services, masks, forwarding methods, tunnels (`linux/ip_vs.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control_api::api::{Method, Persistence, Protocol, ServiceId, ServiceSpec};
use control_api::api::{Tunnel, TunnelChecksum};
use nix::errno::Errno;

pub(crate) const AF_INET: u16 = 2;
pub(crate) const AF_INET6: u16 = 10;

const PERSISTENT: u32 = 0x1;
/// Set in every listed service: it is in the table.
const HASHED: u32 = 0x2;
const ONE_PACKET: u32 = 0x4;
/// The first of the schedulers' three flags.
const SCHEDULER_FLAG: u32 = 0x8;

const MASQ: u32 = 0;
const TUNNEL: u32 = 2;
const ROUTE: u32 = 3;
/// The bits of a server's flags that are its forwarding method.
const METHOD: u32 = 0x7;

const IPIP: u8 = 0;
const GUE: u8 = 1;
const GRE: u8 = 2;
const CHECKSUM: u16 = 0x1;
const REMOTE_CHECKSUM: u16 = 0x2;

/// The number of a protocol.
pub(crate) fn protocol_number(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The protocol of a number.
pub(crate) fn protocol(number: u16) -> Result<Protocol, Errno> {
    match number {
        6 => Ok(Protocol::Tcp),
        17 => Ok(Protocol::Udp),
        132 => Ok(Protocol::Sctp),
        _ => Err(Errno::EINVAL),
    }
}

/// The address family of what an id names.
pub(crate) fn family_of(id: &ServiceId) -> u16 {
    let ipv6 = match id {
        ServiceId::Address { address, .. } => address.is_ipv6(),
        ServiceId::Fwmark { ipv6, .. } => *ipv6,
    };
    if ipv6 { AF_INET6 } else { AF_INET }
}

/// An address in the form of the kernel's union: an IPv4 address fills the
/// first four of the sixteen bytes.
pub(crate) fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address out of that form.
pub(crate) fn address(family: u16, bytes: Option<&[u8]>) -> Result<IpAddr, Errno> {
    let bytes = bytes.ok_or(Errno::EINVAL)?;
    match family {
        AF_INET => {
            let octets = bytes.first_chunk::<4>().ok_or(Errno::EINVAL)?;
            Ok(Ipv4Addr::from(*octets).into())
        }
        AF_INET6 => {
            let octets = bytes.first_chunk::<16>().ok_or(Errno::EINVAL)?;
            Ok(Ipv6Addr::from(*octets).into())
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// What netlink says of a service beside its name and scheduler.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// The new values of the flags that `mask` names.
    pub(crate) flags: u32,
    pub(crate) mask: u32,
    /// Of persistence, s.
    pub(crate) timeout: u32,
    /// For IPv4 in network byte order; for IPv6 the length of a prefix.
    pub(crate) netmask: u32,
    pub(crate) engine: Option<String>,
}

impl Options {
    /// Those of a service.
    pub(crate) fn of(spec: &ServiceSpec) -> Self {
        let mut flags = HASHED;
        if spec.one_packet {
            flags |= ONE_PACKET;
        }
        for bit in 0..3 {
            if spec.scheduler_flags.contains(&flag_name(&spec.scheduler, bit)) {
                flags |= SCHEDULER_FLAG << bit;
            }
        }
        let ipv6 = family_of(&spec.id) == AF_INET6;
        let Some(persistence) = &spec.persistence else {
            let netmask = if ipv6 { 128 } else { u32::MAX };
            return Self { flags, mask: u32::MAX, netmask, ..Self::default() };
        };
        let prefix = u32::from(persistence.prefix);
        let ones = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
        Self {
            flags: flags | PERSISTENT,
            mask: u32::MAX,
            timeout: persistence.timeout,
            netmask: if ipv6 { prefix } else { ones.to_be() },
            engine: persistence.engine.clone(),
        }
    }

    /// Puts them into a service, whose other flags stay.
    pub(crate) fn put(&self, spec: &mut ServiceSpec) -> Result<(), Errno> {
        let flags = (Self::of(spec).flags & !self.mask) | (self.flags & self.mask);
        spec.one_packet = flags & ONE_PACKET != 0;
        let scheduler = &spec.scheduler;
        spec.scheduler_flags = (0..3)
            .filter(|bit| flags & (SCHEDULER_FLAG << bit) != 0)
            .map(|bit| flag_name(scheduler, bit))
            .collect();
        let engine = self.engine.clone().filter(|name| !name.is_empty());
        spec.persistence = if flags & PERSISTENT != 0 {
            let prefix = self.prefix(family_of(&spec.id) == AF_INET6)?;
            Some(Persistence { timeout: self.timeout, prefix, engine })
        } else if engine.is_some() {
            return Err(Errno::EINVAL);
        } else {
            None
        };
        Ok(())
    }

    /// The length of the prefix that the mask stands for.
    fn prefix(&self, ipv6: bool) -> Result<u8, Errno> {
        let prefix = if ipv6 {
            self.netmask
        } else {
            let mask = u32::from_be(self.netmask);
            if mask.leading_ones() + mask.trailing_zeros() < 32 {
                return Err(Errno::EINVAL);
            }
            mask.leading_ones()
        };
        u8::try_from(prefix).map_err(|_| Errno::EINVAL)
    }
}

/// The name of a scheduler's flag, 0 to 2: its own where it has one.
fn flag_name(scheduler: &str, bit: usize) -> String {
    match (scheduler, bit) {
        ("sh" | "mh", 0) => format!("{scheduler}-fallback"),
        ("sh" | "mh", 1) => format!("{scheduler}-port"),
        _ => format!("flag-{}", bit + 1),
    }
}

/// A server's forwarding as netlink says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Forwarding {
    /// The method, with flags that mean nothing here.
    pub(crate) method: u32,
    pub(crate) tunnel: u8,
    /// Of GUE.
    pub(crate) tunnel_port: u16,
    pub(crate) tunnel_flags: u16,
}

impl Forwarding {
    /// That of a server. IPVS has no FULLNAT; `Masq` comes nearest.
    pub(crate) fn of(method: &Method) -> Self {
        let tunnel = match method {
            Method::Nat | Method::Fullnat => return Self { method: MASQ, ..Self::default() },
            Method::Dr => return Self { method: ROUTE, ..Self::default() },
            Method::Tun(tunnel) => tunnel,
        };
        let (tunnel, tunnel_port, checksum) = match tunnel {
            Tunnel::Ipip => (IPIP, 0, TunnelChecksum::None),
            Tunnel::Gue { port, checksum } => (GUE, *port, *checksum),
            Tunnel::Gre { checksum } => (GRE, 0, *checksum),
        };
        let tunnel_flags = match checksum {
            TunnelChecksum::None => 0,
            TunnelChecksum::Full => CHECKSUM,
            TunnelChecksum::Remote => REMOTE_CHECKSUM,
        };
        Self { method: TUNNEL, tunnel, tunnel_port, tunnel_flags }
    }

    /// Whether it is the method that also stands for FULLNAT.
    pub(crate) fn is_masq(self) -> bool {
        self.method & METHOD == MASQ
    }

    /// The method that it says.
    pub(crate) fn method(self) -> Result<Method, Errno> {
        match self.method & METHOD {
            MASQ => return Ok(Method::Nat),
            ROUTE => return Ok(Method::Dr),
            TUNNEL => {}
            _ => return Err(Errno::EOPNOTSUPP),
        }
        let checksum = match self.tunnel_flags {
            0 => TunnelChecksum::None,
            CHECKSUM => TunnelChecksum::Full,
            REMOTE_CHECKSUM => TunnelChecksum::Remote,
            _ => return Err(Errno::EINVAL),
        };
        Ok(Method::Tun(match self.tunnel {
            IPIP => Tunnel::Ipip,
            GUE => Tunnel::Gue { port: self.tunnel_port, checksum },
            GRE => Tunnel::Gre { checksum },
            _ => return Err(Errno::EINVAL),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(address: &str, scheduler: &str, flags: &[&str]) -> ServiceSpec {
        let address = address.parse().unwrap();
        let id = ServiceId::Address { protocol: Protocol::Tcp, address };
        let scheduler_flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        ServiceSpec { scheduler_flags, ..ServiceSpec::new(id, scheduler) }
    }

    fn persistent(mut spec: ServiceSpec, timeout: u32, prefix: u8) -> ServiceSpec {
        spec.persistence = Some(Persistence { timeout, prefix, engine: None });
        spec
    }

    #[test]
    fn options_are_the_kernels_numbers_both_ways() {
        let v4 = "10.0.0.1:80";
        let v6 = "[fd01::1]:80";
        let one_packet = ServiceSpec { one_packet: true, ..service(v4, "rr", &[]) };
        for (spec, flags, timeout, netmask) in [
            (service(v4, "rr", &[]), 0x2, 0, u32::MAX),
            (service(v6, "rr", &[]), 0x2, 0, 128),
            (service(v4, "sh", &["sh-fallback", "sh-port"]), 0x1a, 0, u32::MAX),
            (service(v4, "mh", &["mh-port"]), 0x12, 0, u32::MAX),
            (service(v4, "lc", &["flag-1", "flag-3"]), 0x2a, 0, u32::MAX),
            (one_packet, 0x6, 0, u32::MAX),
            (persistent(service(v4, "rr", &[]), 60, 24), 0x3, 60, 0x00ff_ffff_u32.to_le()),
            (persistent(service(v4, "rr", &[]), 60, 0), 0x3, 60, 0),
            (persistent(service(v6, "rr", &[]), 30, 64), 0x3, 30, 64),
        ] {
            let options = Options::of(&spec);
            let expected = Options { flags, mask: u32::MAX, timeout, netmask, engine: None };
            assert_eq!(options, expected, "{spec:?}");
            let mut back = ServiceSpec::new(spec.id, spec.scheduler.clone());
            options.put(&mut back).unwrap();
            assert_eq!(back, spec);
        }
    }

    #[test]
    fn flags_outside_of_the_mask_stay() {
        let mut spec = service("10.0.0.1:80", "sh", &["sh-port"]);
        Options { flags: 0x8, mask: 0x8, ..Options::default() }.put(&mut spec).unwrap();
        assert_eq!(spec.scheduler_flags, ["sh-fallback", "sh-port"]);
    }

    #[test]
    fn what_the_api_cannot_say_is_refused() {
        let mut spec = service("10.0.0.1:80", "rr", &[]);
        let odd = Options { flags: 1, mask: 1, timeout: 9, netmask: 0xff00_ff00, engine: None };
        assert_eq!(odd.put(&mut spec), Err(Errno::EINVAL));
        let engine = Options { engine: Some("sip".into()), ..Options::default() };
        assert_eq!(engine.put(&mut spec), Err(Errno::EINVAL));
        assert_eq!(protocol(1), Err(Errno::EINVAL));
        assert_eq!(address(1, Some(&[0; 16])), Err(Errno::EAFNOSUPPORT));
        assert_eq!(address(AF_INET6, Some(&[0; 15])), Err(Errno::EINVAL));
        let tunnel = |tunnel, tunnel_flags| {
            Forwarding { method: TUNNEL, tunnel, tunnel_flags, tunnel_port: 0 }.method()
        };
        assert_eq!(tunnel(3, 0), Err(Errno::EINVAL));
        assert_eq!(tunnel(GRE, 3), Err(Errno::EINVAL));
        // Local and bypass.
        for method in [1, 4] {
            let odd = Forwarding { method, ..Forwarding::default() };
            assert_eq!(odd.method(), Err(Errno::EOPNOTSUPP));
        }
    }

    #[test]
    fn methods_are_the_kernels_numbers_both_ways() {
        let gue = |port, checksum| Method::Tun(Tunnel::Gue { port, checksum });
        for (method, numbers) in [
            (Method::Nat, (0, 0, 0, 0)),
            (Method::Dr, (3, 0, 0, 0)),
            (Method::Tun(Tunnel::Ipip), (2, 0, 0, 0)),
            (gue(6080, TunnelChecksum::None), (2, 1, 6080, 0)),
            (gue(6080, TunnelChecksum::Full), (2, 1, 6080, 1)),
            (gue(6080, TunnelChecksum::Remote), (2, 1, 6080, 2)),
            (Method::Tun(Tunnel::Gre { checksum: TunnelChecksum::Full }), (2, 2, 0, 1)),
        ] {
            let f = Forwarding::of(&method);
            assert_eq!((f.method, f.tunnel, f.tunnel_port, f.tunnel_flags), numbers);
            assert_eq!(f.method(), Ok(method));
        }
        assert!(Forwarding::of(&Method::Fullnat).is_masq());
    }
}
