//! Addresses and devices as text.
//!
//! The errors of the parsers continue a sentence that begins with the text in
//! quotes: `is ...` or `has ...`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address of an interface with the length of its network's prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The address, host part included.
    pub address: IpAddr,
    /// Prefix length in bits: 1 to 32 for IPv4, 1 to 128 for IPv6.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A device that EAL opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// How EAL finds it.
    pub bus: Bus,
    /// The name by which DPDK knows the port: a PCI address with its domain
    /// and in lower case, such as `0000:01:00.0`, or a vdev's name, such as
    /// `net_tap0`.
    pub name: String,
    /// Driver arguments, e.g. `iface=wire0`; without the comma before them.
    pub arguments: Option<String>,
}

/// Where a [`Device`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// On the PCI bus: EAL's `-a`.
    Pci,
    /// Made by a driver in software: EAL's `--vdev`.
    Vdev,
}

/// The device as EAL's `-a` and `--vdev` take it.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.arguments {
            Some(arguments) => write!(f, ",{arguments}"),
            None => Ok(()),
        }
    }
}

type Parsed<T> = Result<T, String>;

/// `192.168.1.21/24`: an address that an interface can have.
pub(super) fn cidr(text: &str) -> Parsed<Cidr> {
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(match text.parse::<IpAddr>() {
            Ok(_) => "has no prefix length".to_owned(),
            Err(_) => "is not an IP address with a prefix length".to_owned(),
        });
    };
    let address = unicast(ip(address)?)?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    // u8's parser takes a sign.
    let prefix = Some(prefix).filter(|p| p.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(prefix) = prefix.and_then(|p| p.parse::<u8>().ok()).filter(|p| (1..=bits).contains(p))
    else {
        return Err(format!("has a prefix length outside of 1 to {bits}"));
    };
    if names_no_host(address, prefix) {
        return Err("has a host part of only zeros or ones, which names no single host".to_owned());
    }
    Ok(Cidr { address, prefix })
}

/// `192.168.1.100`: an address that routers can deliver to.
pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    if text.contains('/') && cidr(text).is_ok() {
        return Err("has a prefix length".to_owned());
    }
    global(ip(text)?)
}

/// `192.168.1.100:80` or `[fd00:1::100]:80`; port 0 only where it has a
/// meaning.
pub(super) fn endpoint(text: &str, zero: bool) -> Parsed<SocketAddr> {
    match host_and_port(text, zero)? {
        (address, Some(port)) => Ok(SocketAddr::new(address, port)),
        (_, None) => Err("has no port".to_owned()),
    }
}

/// An endpoint whose port may be left out.
pub(super) fn address_and_port(text: &str) -> Parsed<(IpAddr, Option<u16>)> {
    host_and_port(text, false)
}

fn host_and_port(text: &str, zero: bool) -> Parsed<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Ok((global(address)?, None));
    }
    if let Ok(endpoint) = text.parse::<SocketAddr>() {
        if endpoint.port() == 0 && !zero {
            return Err("has port 0".to_owned());
        }
        if matches!(endpoint, SocketAddr::V6(v6) if v6.scope_id() != 0) {
            return Err("has a scope".to_owned());
        }
        return Ok((global(endpoint.ip())?, Some(endpoint.port())));
    }
    let port = text.rsplit_once(':').filter(|(host, _)| is_host(host)).map(|(_, port)| port);
    Err(match port {
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.is_empty() => {
            "has a port above 65535".to_owned()
        }
        Some(_) => "has a port that is not a number".to_owned(),
        None => "is not an IP address".to_owned(),
    })
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Parsed<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (ip(address)?, Some(length)),
        None => (ip(text)?, None),
    };
    let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match length {
        None => bits,
        // u8's parser takes a sign.
        Some(length) => Some(length)
            .filter(|l| l.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|l| l.parse().ok())
            .filter(|prefix| *prefix <= bits)
            .ok_or_else(|| format!("has a prefix length outside of 0 to {bits}"))?,
    };
    let host = match address {
        IpAddr::V4(v4) => v4.to_bits() & u32::MAX.checked_shr(prefix.into()).unwrap_or(0) != 0,
        IpAddr::V6(v6) => v6.to_bits() & u128::MAX.checked_shr(prefix.into()).unwrap_or(0) != 0,
    };
    if host {
        return Err("has ones behind its prefix".to_owned());
    }
    Ok((address, prefix))
}

/// `80`, or `8000-8999`: first and last port.
pub(super) fn ports(text: &str) -> Parsed<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |digits: &str| {
        let digits = Some(digits).filter(|d| d.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|d| d.parse::<u16>().ok())
    };
    let (Some(first), Some(last)) = (port(first), port(last)) else {
        return Err("is not a port or a range of ports".to_owned());
    };
    if first > last {
        return Err("ends before it begins".to_owned());
    }
    Ok((first, last))
}

/// A PCI address or a vdev, each perhaps with driver arguments.
pub(super) fn device(text: &str) -> Parsed<Device> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("has characters other than printable ASCII".to_owned());
    }
    let (name, arguments) = match text.split_once(',') {
        Some((name, arguments)) => (name, Some(arguments.to_owned())),
        None => (text, None),
    };
    if arguments.as_ref().is_some_and(|all| all.split(',').any(str::is_empty)) {
        return Err("has an empty argument".to_owned());
    }
    if let Some(name) = pci_address(name) {
        return Ok(Device { bus: Bus::Pci, name, arguments });
    }
    if name.starts_with("net_bonding") {
        return Err("is a bond, which a section [port.bond] makes instead".to_owned());
    }
    if !name.starts_with("net_") {
        return Err("is neither a PCI address nor a vdev".to_owned());
    }
    // RTE_DEV_NAME_MAX_LEN is 64 with the NUL.
    if name.len() > 63 {
        return Err("has a vdev name longer than 63 bytes".to_owned());
    }
    Ok(Device { bus: Bus::Vdev, name: name.to_owned(), arguments })
}

/// A name that the kernel takes for an interface and that nothing else under
/// `/proc/sys/net` or in `ip`'s grammar has.
pub(super) fn interface_name(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    // IFNAMSIZ is 16 with the NUL.
    if text.len() > 15 {
        return Err(format!("is too long with its {} bytes", text.len()));
    }
    if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)) {
        return Err("has characters that an interface's name cannot have".to_owned());
    }
    if matches!(text, "." | ".." | "lo" | "all" | "default") || text.starts_with('-') {
        return Err("is not free for an interface".to_owned());
    }
    Ok(text.to_owned())
}

fn ip(text: &str) -> Parsed<IpAddr> {
    text.parse().map_err(|_| "is not an IP address".to_owned())
}

/// Refuses addresses that no single host on a network can have.
fn unicast(address: IpAddr) -> Parsed<IpAddr> {
    let why = match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "is in 0.0.0.0/8, which names no host",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "is the broadcast address",
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => "is the unspecified address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4 address in IPv6 form",
        _ if address.is_multicast() => "is a multicast address",
        _ if address.is_loopback() => "is a loopback address",
        _ => return Ok(address),
    };
    Err(why.to_owned())
}

/// Refuses what has no meaning without an interface, too.
fn global(address: IpAddr) -> Parsed<IpAddr> {
    if is_link_local(address) {
        return Err("is a link-local address".to_owned());
    }
    unicast(address)
}

/// Whether it is in fe80::/10, where several links may have the same address.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether the host part is that of the network or of its broadcast, or in
/// IPv6 of its subnet-router anycast address (RFC 4291, 2.6.1). Networks of
/// one or two addresses have neither (RFC 3021, RFC 6164).
fn names_no_host(address: IpAddr, prefix: u8) -> bool {
    match address {
        IpAddr::V4(v4) if prefix < 31 => {
            let mask = u32::MAX >> prefix;
            let host = v4.to_bits() & mask;
            host == 0 || host == mask
        }
        IpAddr::V6(v6) if prefix < 127 => v6.to_bits() & (u128::MAX >> prefix) == 0,
        _ => false,
    }
}

/// Whether it is what stands before the colon and the port.
fn is_host(text: &str) -> bool {
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bracketed {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => text.parse::<Ipv4Addr>().is_ok(),
    }
}

/// `dddd:bb:dd.f` in hexadecimal with its domain, which may be left out.
fn pci_address(text: &str) -> Option<String> {
    let (rest, function) = text.split_once('.')?;
    let mut parts = rest.rsplit(':');
    let device = hex(parts.next()?, 2)?;
    let bus = hex(parts.next()?, 2)?;
    // Domains of VMD and Hyper-V have more than 16 bits.
    let domain = parts.next().map_or(Some(0), |domain| {
        hex(domain, 4).or_else(|| hex(domain, 5)).or_else(|| hex(domain, 8))
    })?;
    let function = hex(function, 1)?;
    // Five bits of device, three of function (PCI Local Bus 3.0, 3.2.2.3.2).
    if parts.next().is_some() || device > 0x1f || function > 7 {
        return None;
    }
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
}

fn hex(digits: &str, length: usize) -> Option<u32> {
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits.len() != length || !all_hex {
        return None;
    }
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_get_one_form() {
        for (text, name) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("0000:AF:1F.7", "0000:af:1f.7"),
            ("10000:01:00.0", "10000:01:00.0"),
        ] {
            assert_eq!(pci_address(text).as_deref(), Some(name), "{text}");
        }
        for text in ["1:0.0", "01:00", "01:20.0", "01:00.8", "00:00:01:00.0", "0000:+1:00.0", ""] {
            assert_eq!(pci_address(text), None, "{text}");
        }
    }

    #[test]
    fn devices_print_as_eal_takes_them() {
        let tap = device("net_tap0,iface=wire0,mac=00:50:00:00:04:00").unwrap();
        assert_eq!((tap.bus, tap.name.as_str()), (Bus::Vdev, "net_tap0"));
        assert_eq!(tap.to_string(), "net_tap0,iface=wire0,mac=00:50:00:00:04:00");
        let nic = device("01:00.0,rxq_cqe_comp_en=0").unwrap();
        assert_eq!(nic.bus, Bus::Pci);
        assert_eq!(nic.to_string(), "0000:01:00.0,rxq_cqe_comp_en=0");
    }

    #[test]
    fn small_networks_use_all_addresses() {
        for text in ["10.0.0.0/31", "10.0.0.255/32", "fd00::/127", "fd00::/128", "fe80::1/64"] {
            let parsed = cidr(text).unwrap();
            assert_eq!(parsed.to_string(), text);
        }
        for text in ["10.0.0.0/24", "10.0.0.255/24", "10.0.0.3/30", "fd00::/64", "10.0.0.1/+24"] {
            assert!(cidr(text).is_err(), "{text}");
        }
    }
}
