//! Addresses and ports as people write and read them: numbers, or names of
//! hosts and of /etc/services.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::api::Protocol;

/// The longest that a whole listing may spend on names of hosts.
const LOOKUP_BUDGET: Duration = Duration::from_secs(3);

/// The names of ports, as in /etc/services.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    by_name: HashMap<(String, Protocol), u16>,
    by_port: HashMap<(u16, Protocol), String>,
}

impl Ports {
    /// The names of this machine; none when it has no /etc/services.
    #[must_use]
    pub fn system() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/services").unwrap_or_default())
    }

    /// Reads the format of services(5). Lines that do not fit it are skipped,
    /// and the first line about a port or a name counts, as in libc.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut ports = Self::default();
        for line in text.lines() {
            ports.parse_line(line.split('#').next().unwrap_or_default());
        }
        ports
    }

    /// The port that a name stands for.
    #[must_use]
    pub fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        self.by_name.get(&(name.to_owned(), protocol)).copied()
    }

    /// The name of a port.
    #[must_use]
    pub fn name(&self, port: u16, protocol: Protocol) -> Option<&str> {
        self.by_port.get(&(port, protocol)).map(String::as_str)
    }

    fn parse_line(&mut self, line: &str) -> Option<()> {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        let (port, protocol) = fields.next()?.split_once('/')?;
        let port = port.parse().ok()?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return None,
        };
        self.by_port.entry((port, protocol)).or_insert_with(|| name.to_owned());
        for name in std::iter::once(name).chain(fields) {
            self.by_name.entry((name.to_owned(), protocol)).or_insert(port);
        }
        Some(())
    }
}

/// Parses `host`, `host:port`, `IPv6` or `[IPv6]:port`. The port is a number or
/// a name of `protocol`, and 0 when it is missing; the host may be a name of an
/// IPv4 address.
#[must_use]
pub fn parse_endpoint(text: &str, protocol: Option<Protocol>, ports: &Ports) -> Option<SocketAddr> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once("]:")?;
        // A zone (`%eth0`) would get lost: services have none.
        if host.contains('%') {
            return None;
        }
        let literal = host.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        let address = literal.or_else(|| look_up(host, IpAddr::is_ipv6))?;
        return Some(SocketAddr::new(address, parse_port(port, protocol, ports)?));
    }
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        return Some(SocketAddr::new(address.into(), 0));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, parse_port(port, protocol, ports)?),
        None => (text, 0),
    };
    if host.is_empty() {
        return None;
    }
    let literal = host.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let address = literal.or_else(|| look_up(host, IpAddr::is_ipv4))?;
    Some(SocketAddr::new(address, port))
}

/// Parses a decimal number as C's `strtol` does: blanks and a plus sign may
/// precede it.
#[must_use]
pub fn parse_number(text: &str, min: u32, max: u32) -> Option<u32> {
    let text = text.trim_start();
    let digits = text.strip_prefix('+').unwrap_or(text);
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok().filter(|n| (min..=max).contains(n))
}

fn parse_port(text: &str, protocol: Option<Protocol>, ports: &Ports) -> Option<u16> {
    if let Some(number) = parse_number(text, 0, u16::MAX.into()) {
        return u16::try_from(number).ok();
    }
    ports.port(text, protocol?)
}

/// The first address of a host that `wanted` accepts.
fn look_up(host: &str, wanted: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let host = host.to_owned();
    within(LOOKUP_BUDGET, move || {
        let addresses = (host.as_str(), 0).to_socket_addrs().ok()?;
        addresses.map(|a| a.ip()).find(wanted)
    })
    .flatten()
}

/// Runs a call into libc's resolver, which has no timeout of its own. A call
/// that takes too long is abandoned; its thread ends with the process.
fn within<T: Send + 'static>(
    limit: Duration,
    call: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(call()));
    receiver.recv_timeout(limit).ok()
}

/// Writes addresses and ports for a listing.
#[derive(Debug)]
pub struct Names {
    /// `None` where everything is to be numeric.
    ports: Option<Ports>,
    hosts: HashMap<IpAddr, Option<String>>,
    /// When to stop looking up hosts.
    deadline: Option<Instant>,
}

impl Names {
    /// Numbers only (`-n`).
    #[must_use]
    pub fn numeric() -> Self {
        Self { ports: None, hosts: HashMap::new(), deadline: None }
    }

    /// Names of hosts and ports, and numbers where there is no name, or where
    /// the resolver takes too long to tell.
    #[must_use]
    pub fn resolved(ports: Ports) -> Self {
        Self { ports: Some(ports), hosts: HashMap::new(), deadline: None }
    }

    /// `address:port`, or `[address]:port` for IPv6. Ports have names only in
    /// the context of a protocol.
    pub fn endpoint(&mut self, endpoint: SocketAddr, protocol: Option<Protocol>) -> String {
        if self.ports.is_none() {
            return numeric(&endpoint.ip().to_string(), endpoint);
        }
        let host = self.host(endpoint.ip());
        let named = self.ports.as_ref().zip(protocol);
        match named.and_then(|(ports, protocol)| ports.name(endpoint.port(), protocol)) {
            Some(port) if endpoint.is_ipv6() => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => numeric(&host, endpoint),
        }
    }

    fn host(&mut self, address: IpAddr) -> String {
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + LOOKUP_BUDGET);
        let name = self.hosts.entry(address).or_insert_with(|| {
            let left = deadline.checked_duration_since(Instant::now())?;
            within(left, move || dns_lookup::lookup_addr(&address).ok()).flatten()
        });
        name.clone().unwrap_or_else(|| address.to_string())
    }
}

fn numeric(host: &str, endpoint: SocketAddr) -> String {
    match endpoint {
        SocketAddr::V4(_) => format!("{host}:{}", endpoint.port()),
        SocketAddr::V6(_) => format!("[{host}]:{}", endpoint.port()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use Protocol::{Sctp, Tcp, Udp};

    impl Names {
        /// Names of ports, but none of hosts.
        pub(in crate::ipvsadm) fn of_ports(ports: Ports) -> Self {
            let past = Instant::now() - Duration::from_millis(1);
            Self { deadline: Some(past), ..Self::resolved(ports) }
        }

        /// Gives a host a name.
        pub(in crate::ipvsadm) fn know(&mut self, address: &str, name: &str) {
            self.hosts.insert(address.parse().unwrap(), Some(name.to_owned()));
        }
    }

    /// The few names that the tests of this module and its neighbours use.
    pub(in crate::ipvsadm) fn ports() -> Ports {
        Ports::parse(
            "# a comment\n\
             http\t\t80/tcp\t\twww\t\t# WorldWideWeb HTTP\n\
             domain\t\t53/tcp\n\
             domain\t\t53/udp\n\
             sip\t\t5060/tcp\n\
             sip\t\t5060/udp\n\
             www-again\t80/tcp\n\
             broken\n\
             broken\tx/tcp\n\
             other\t5/ddp\n",
        )
    }

    #[test]
    fn ports_have_names_by_protocol() {
        let ports = ports();
        assert_eq!(ports.name(80, Tcp), Some("http"));
        assert_eq!(ports.name(80, Udp), None);
        assert_eq!(ports.name(53, Sctp), None);
        assert_eq!(ports.port("www", Tcp), Some(80));
        assert_eq!(ports.port("www-again", Tcp), Some(80));
        assert_eq!(ports.port("www", Udp), None);
    }

    #[test]
    fn endpoints_parse_as_in_ipvsadm() {
        for (text, expected) in [
            ("1.2.3.4:80", Some("1.2.3.4:80")),
            ("1.2.3.4", Some("1.2.3.4:0")),
            ("1.2.3.4:0", Some("1.2.3.4:0")),
            ("1.2.3.4:080", Some("1.2.3.4:80")),
            ("1.2.3.4:+80", Some("1.2.3.4:80")),
            ("1.2.3.4: 80", Some("1.2.3.4:80")),
            ("1.2.3.4:65535", Some("1.2.3.4:65535")),
            ("1.2.3.4:http", Some("1.2.3.4:80")),
            // Old spellings of inet_aton(3), through the resolver.
            ("1.2.3:80", Some("1.2.0.3:80")),
            ("0x01020304:80", Some("1.2.3.4:80")),
            ("fd00::1", Some("[fd00::1]:0")),
            ("fd00::1:80", Some("[fd00::1:80]:0")),
            ("[fd00::1]:80", Some("[fd00::1]:80")),
            ("[::1]:http", Some("[::1]:80")),
            ("", None),
            (":80", None),
            ("1.2.3.4:", None),
            ("1.2.3.4:65536", None),
            ("1.2.3.4:-1", None),
            ("1.2.3.4:0x50", None),
            ("1.2.3.4:nosuch", None),
            ("1.2.3.4:80:90", None),
            ("[fd00::1]", None),
            ("[fd00::1]:", None),
            ("[fd00::1]80", None),
            ("[fd00::1:80", None),
            ("[fe80::1%lo]:80", None),
            ("[1.2.3.4]:80", None),
        ] {
            let parsed = parse_endpoint(text, Some(Tcp), &ports());
            assert_eq!(parsed, expected.map(|e| e.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn names_of_ports_need_a_protocol() {
        assert_eq!(parse_endpoint("1.2.3.4:http", None, &ports()), None);
    }

    #[test]
    fn numbers_parse_as_in_c() {
        for (text, expected) in
            [("3", Some(3)), ("010", Some(10)), (" 3", Some(3)), ("+3", Some(3)), ("9", Some(9))]
        {
            assert_eq!(parse_number(text, 3, 10), expected, "{text:?}");
        }
        for text in ["", "x", "3x", "3 ", "0x10", "-3", "2", "11", "4294967299"] {
            assert_eq!(parse_number(text, 3, 10), None, "{text:?}");
        }
    }

    #[test]
    fn listings_show_names_or_numbers() {
        let v4 = "192.0.2.1:80".parse().unwrap();
        let v6 = "[2001:db8::1]:53".parse().unwrap();
        let mut names = Names::numeric();
        assert_eq!(names.endpoint(v4, Some(Tcp)), "192.0.2.1:80");
        assert_eq!(names.endpoint(v6, Some(Udp)), "[2001:db8::1]:53");

        let mut names = Names::resolved(ports());
        names.hosts.insert(v4.ip(), Some("vip".into()));
        names.hosts.insert(v6.ip(), None);
        assert_eq!(names.endpoint(v4, Some(Tcp)), "vip:http");
        assert_eq!(names.endpoint(v4, None), "vip:80");
        assert_eq!(names.endpoint(v6, Some(Udp)), "[2001:db8::1]:domain");
    }

    #[test]
    fn after_the_deadline_hosts_are_numeric() {
        let mut names = Names::of_ports(ports());
        assert_eq!(names.endpoint("127.0.0.1:80".parse().unwrap(), Some(Tcp)), "127.0.0.1:http");
    }

    #[test]
    fn a_slow_call_is_abandoned() {
        let slow = || std::thread::sleep(Duration::from_secs(60));
        assert_eq!(within(Duration::from_millis(1), slow), None);
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }
}
