//! Turns `[service.health]` and `[service.server.health]` into checks.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;
use regex::Regex;
use tokio_rustls::rustls::pki_types::ServerName;

use super::read::{Item, Result, Table};
use crate::api::{Method, ServerSpec, ServiceId};
use crate::health::plan::{Body, Check, Http, Kind, OnFailure, Pattern, Tls, Udp, Via};
use crate::health::state::State;

pub(super) const HEALTH: [&str; 24] = [
    "kind",
    "port",
    "via",
    "interval_ms",
    "timeout_ms",
    "rise",
    "fall",
    "jitter",
    "initial",
    "on_failure",
    "method",
    "path",
    "host",
    "status",
    "body",
    "body_regex",
    "sni",
    "verify",
    "ca",
    "send",
    "send_hex",
    "expect",
    "expect_hex",
    "command",
];

/// Keys that mean something for some kinds only, with these.
const OF_KINDS: [(&[&str], &[Name]); 5] = [
    (&["port", "via"], &[Name::Tcp, Name::Http, Name::Https, Name::Udp]),
    (&["method", "path", "host", "status", "body", "body_regex"], &[Name::Http, Name::Https]),
    (&["sni", "verify", "ca"], &[Name::Https]),
    (&["send", "send_hex", "expect", "expect_hex"], &[Name::Udp]),
    (&["command"], &[Name::Command]),
];

/// Keys of which one or the other is given.
const PAIRS: [(&str, &str); 3] =
    [("body", "body_regex"), ("send", "send_hex"), ("expect", "expect_hex")];

/// The longest payload: a UDP datagram over IPv4.
const LONGEST_PAYLOAD: usize = 65_507;
/// The longest payload of a check by the VIP: with a tunnel around it the datagram
/// fits into what all links of IPv6 carry, and is never a fragment.
const LONGEST_BY_VIP: usize = 1_152;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Tcp,
    Http,
    Https,
    Udp,
    Ping,
    Command,
    None,
}

const NAMES: [(&str, Name); 7] = [
    ("tcp", Name::Tcp),
    ("http", Name::Http),
    ("https", Name::Https),
    ("udp", Name::Udp),
    ("ping", Name::Ping),
    ("command", Name::Command),
    ("none", Name::None),
];

/// The keys of a check: those of a server, and of its service where it has
/// none.
struct Keys<'t> {
    own: &'t Table<'t>,
    /// The service's, for a server.
    base: Option<&'t Table<'t>>,
    kind: Name,
    /// Whether what concerns the kind only is taken from the service, too.
    same_kind: bool,
}

/// The check of a service's servers. Each server's own port has to do where the
/// check has none.
pub(super) fn of_service(table: &Table<'_>) -> Result<Check> {
    let kind = kind(table, &NAMES[..6])?;
    check(&Keys { own: table, base: None, kind, same_kind: false })
}

/// The check of one server; `None` when it is not to be checked.
pub(super) fn of_server(table: &Table<'_>, base: Option<&Table<'_>>) -> Result<Option<Check>> {
    let base_kind = base.map(|base| kind(base, &NAMES[..6])).transpose()?;
    let kind = match (table.item("kind"), base_kind) {
        (None, Some(kind)) => kind,
        _ => kind(table, &NAMES)?,
    };
    if kind == Name::None {
        let others = HEALTH.iter().filter(|key| **key != "kind");
        if let Some(item) = others.filter_map(|key| table.item(key)).next() {
            return Err(item.error("is given beside kind = \"none\"; leave it out"));
        }
        return Ok(None);
    }
    let same_kind = base_kind == Some(kind);
    check(&Keys { own: table, base, kind, same_kind }).map(Some)
}

/// Refuses a check that servers of the service cannot have. `table` is where the
/// check is.
pub(super) fn suits<'s>(
    table: &Table<'_>,
    check: &Check,
    service: &ServiceId,
    servers: impl Iterator<Item = &'s ServerSpec> + Clone,
) -> Result<()> {
    let portless = servers.clone().any(|server| server.address.port() == 0);
    if check.kind.has_port() && check.port.is_none() && portless {
        let give = "the port to probe, as servers of this service have none of their own";
        return Err(table.missing("port", give));
    }
    if check.via == Via::Server {
        return Ok(());
    }
    let message = match service {
        ServiceId::Fwmark { .. } => {
            "\"vip\" is for services with an address; leave it out, or give \"server\""
        }
        ServiceId::Address { address, .. } => {
            let get_it = |method: &Method| matches!(method, Method::Dr | Method::Tun(_));
            let mut servers = servers.filter(|server| get_it(&server.method));
            if servers.all(|server| server.address.is_ipv4() == address.is_ipv4()) {
                return Ok(());
            }
            "\"vip\" is for servers of the VIP's address family; give \"server\""
        }
    };
    Err(table.error("via", message))
}

fn kind(table: &Table<'_>, names: &[(&str, Name)]) -> Result<Name> {
    let give: Vec<String> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    table.required("kind", &give.join(" or "))?.choice(names)
}

fn check(keys: &Keys<'_>) -> Result<Check> {
    keys.refuse_those_of_other_kinds()?;
    let interval = keys.table("interval_ms").integer("interval_ms", 5_000, 100..=3_600_000)?;
    let timeout =
        keys.table("timeout_ms").integer("timeout_ms", 2_000.min(interval), 10..=600_000)?;
    if timeout > interval {
        return Err(keys.table("timeout_ms").error("timeout_ms", format!(
            "{timeout} is greater than interval_ms {interval}; give an integer from 10 to {interval}"
        )));
    }
    let initial = [("up", State::Up), ("down", State::Down)];
    let via = [("server", Via::Server), ("vip", Via::Vip)];
    let on_failure = [("weight0", OnFailure::Weight0), ("remove", OnFailure::Remove)];
    let port = keys.item("port").map(|item| item.integer(1..=65_535)).transpose()?;
    let via = keys.item("via").map_or(Ok(Via::Server), |item| item.choice(&via))?;
    let kind = keys.read_kind()?;
    if let (Via::Vip, Kind::Udp(udp)) = (via, &kind) {
        keys.fits_the_vip(udp)?;
    }
    Ok(Check {
        kind,
        port,
        via,
        interval: Duration::from_millis(interval),
        timeout: Duration::from_millis(timeout),
        rise: keys.table("rise").integer("rise", 2, 1..=100)?,
        fall: keys.table("fall").integer("fall", 3, 1..=100)?,
        jitter: keys.table("jitter").integer("jitter", 10, 0..=50)?,
        initial: keys.item("initial").map_or(Ok(State::Up), |item| item.choice(&initial))?,
        on_failure: keys
            .item("on_failure")
            .map_or(Ok(OnFailure::Weight0), |item| item.choice(&on_failure))?,
    })
}

impl<'t> Keys<'t> {
    /// The table that says something about a key.
    fn table(&self, key: &str) -> &'t Table<'t> {
        let general = !OF_KINDS.iter().any(|(keys, _)| keys.contains(&key));
        let given = |key: &str| self.own.item(key).is_some();
        let other = PAIRS.iter().find_map(|&(a, b)| match key {
            _ if key == a => Some(b),
            _ if key == b => Some(a),
            _ => None,
        });
        match self.base {
            Some(base)
                if (general || self.same_kind) && !given(key) && !other.is_some_and(given) =>
            {
                base
            }
            _ => self.own,
        }
    }

    fn item(&self, key: &str) -> Option<Item<'t>> {
        self.table(key).item(key)
    }

    fn refuse_those_of_other_kinds(&self) -> Result<()> {
        for (keys, kinds) in OF_KINDS {
            let Some(item) = keys.iter().find_map(|key| self.own.item(key)) else { continue };
            if !kinds.contains(&self.kind) {
                let names = NAMES.iter().filter(|(_, name)| kinds.contains(name));
                let names: Vec<_> = names.map(|(name, _)| format!("\"{name}\"")).collect();
                let names = names.join(" or ");
                return Err(item.error(format!("is for checks of kind {names}; leave it out")));
            }
        }
        for (one, other) in PAIRS {
            if let (Some(_), Some(item)) = (self.own.item(one), self.own.item(other)) {
                return Err(item.error(format!("stands beside {one}; give one or the other")));
            }
        }
        Ok(())
    }

    /// By the VIP, an ICMP error is about an address that the check's socket does
    /// not know, and fragments have no ports to know them by.
    fn fits_the_vip(&self, udp: &Udp) -> Result<()> {
        if udp.expect.is_none() {
            let give = "the bytes of the answer, which a check with via = \"vip\" needs";
            return Err(self.own.missing("expect", give));
        }
        if udp.send.len() > LONGEST_BY_VIP {
            let length = udp.send.len();
            return Err(self.table("via").error(
                "via",
                format!("\"vip\" takes at most {LONGEST_BY_VIP} bytes to send, not {length}; send less, or give \"server\""),
            ));
        }
        Ok(())
    }

    fn read_kind(&self) -> Result<Kind> {
        Ok(match self.kind {
            Name::Tcp => Kind::Tcp,
            Name::Http => Kind::Http(self.http(None)?),
            Name::Https => Kind::Http(self.http(Some(self.tls()?))?),
            Name::Udp => Kind::Udp(self.udp()?),
            Name::Ping => Kind::Ping,
            Name::Command | Name::None => Kind::Command(self.command()?),
        })
    }

    fn http(&self, tls: Option<Tls>) -> Result<Http> {
        let text = |key, give, parse: fn(&str) -> std::result::Result<String, String>| {
            self.item(key).map(|item| item.parsed(give, parse)).transpose()
        };
        let method = text("method", "an HTTP method such as \"GET\" or \"HEAD\"", method)?;
        let path = text("path", "a path such as \"/health?full=1\"", path)?;
        let host = text("host", "a host with or without a port such as \"www.example.com\"", host)?;
        let method = method.unwrap_or_else(|| "GET".to_owned());
        let body = self.body()?;
        if let (Some(item), "HEAD") = (self.item("body").or(self.item("body_regex")), &*method) {
            return Err(item.error("is given, but answers to HEAD have no body; leave it out"));
        }
        let path = path.unwrap_or_else(|| "/".to_owned());
        Ok(Http { tls, method, path, host, status: self.status()?, body })
    }

    fn status(&self) -> Result<Vec<RangeInclusive<u16>>> {
        let give = "codes and ranges from 100 to 599 such as [\"200-299\", 401]";
        let items = self.table("status").items("status", give)?;
        if items.is_empty() {
            return match self.item("status") {
                Some(item) => Err(item.error(format!("is empty; give {give}"))),
                None => Ok(vec![200..=299]),
            };
        }
        let one = |item: &Item<'_>| {
            if item.is_integer() {
                let code = item.integer(100..=599)?;
                return Ok(code..=code);
            }
            let give = "a code or range from 100 to 599 such as \"200-299\"";
            item.parsed(give, codes)
        };
        items.iter().map(one).collect()
    }

    fn body(&self) -> Result<Option<Body>> {
        if let Some(item) = self.item("body") {
            let give = "a text that the body has to have such as \"ready\"";
            let text = item.parsed(give, not_empty)?;
            return Ok(Some(Body::Contains(text)));
        }
        let Some(item) = self.item("body_regex") else { return Ok(None) };
        item.parsed("a regular expression such as 'state: (ready|ok)'", |text| {
            // The compiler of expressions draws its errors over several lines.
            let regex = Regex::new(text).map_err(|e| {
                let message = e.to_string();
                let last = message.lines().last().unwrap_or_default();
                format!("is not a regular expression ({})", last.trim_start_matches("error: "))
            })?;
            Ok(Some(Body::Matches(Pattern(regex))))
        })
    }

    fn tls(&self) -> Result<Tls> {
        let sni = self.item("sni").map(|item| {
            item.parsed("a name such as \"www.example.com\"", |text| {
                ServerName::try_from(text).map_err(|_| "is not a name of a host".to_owned())?;
                Ok(text.to_owned())
            })
        });
        let verify = self.table("verify").boolean("verify", false)?;
        let ca = self.item("ca").map(|item| {
            if !verify {
                return Err(item.error("means nothing without verify = true; give that, too"));
            }
            item.parsed("the absolute path of a PEM file such as \"/etc/rvs/ca.pem\"", absolute)
        });
        Ok(Tls { sni: sni.transpose()?, verify, ca: ca.transpose()? })
    }

    fn udp(&self) -> Result<Udp> {
        let send = self.payload("send", "send_hex")?.unwrap_or_default();
        Ok(Udp { send, expect: self.payload("expect", "expect_hex")? })
    }

    /// Bytes as a text, or in hexadecimal digits.
    fn payload(&self, text: &str, digits: &str) -> Result<Option<Vec<u8>>> {
        let fits = |bytes: Vec<u8>| match bytes.len() {
            0 => Err("is empty".to_owned()),
            1..=LONGEST_PAYLOAD => Ok(bytes),
            length => Err(format!("has {length} bytes")),
        };
        let size = format!("1 to {LONGEST_PAYLOAD} bytes");
        if let Some(item) = self.item(text) {
            let give = format!("{size} such as \"PING\"");
            return item.parsed(&give, |text| fits(text.as_bytes().to_vec())).map(Some);
        }
        let Some(item) = self.item(digits) else { return Ok(None) };
        let give = format!("{size} in hexadecimal digits such as \"00ff\"");
        item.parsed(&give, |text| hexadecimal(text).and_then(fits)).map(Some)
    }

    fn command(&self) -> Result<Vec<String>> {
        let give = "a program and its arguments such as [\"/usr/local/bin/check\", \"-v\"]";
        self.table("command").required("command", give)?;
        let items = self.table("command").items("command", give)?;
        let mut argv = Vec::new();
        for (index, item) in items.iter().enumerate() {
            argv.push(match index {
                0 => item.parsed("an absolute path such as \"/usr/local/bin/check\"", |text| {
                    absolute(text)?;
                    Ok(text.to_owned())
                })?,
                _ => item.parsed("an argument without NUL", |text| match text.contains('\0') {
                    true => Err("has a NUL".to_owned()),
                    false => Ok(text.to_owned()),
                })?,
            });
        }
        if argv.is_empty() {
            return Err(self.table("command").error("command", format!("is empty; give {give}")));
        }
        Ok(argv)
    }
}

type Parsed<T> = std::result::Result<T, String>;

fn method(text: &str) -> Parsed<String> {
    hyper::Method::from_bytes(text.as_bytes()).map_err(|_| "is not a method".to_owned())?;
    Ok(text.to_owned())
}

fn path(text: &str) -> Parsed<String> {
    if !text.starts_with('/') {
        return Err("does not begin with /".to_owned());
    }
    text.parse::<PathAndQuery>()
        .map_err(|_| "has characters that a path cannot have".to_owned())?;
    Ok(text.to_owned())
}

fn host(text: &str) -> Parsed<String> {
    let bad = text.is_empty() || text.contains(char::is_whitespace);
    if bad || HeaderValue::from_str(text).is_err() {
        return Err("is not a host".to_owned());
    }
    Ok(text.to_owned())
}

fn codes(text: &str) -> Parsed<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| match text.parse::<u16>() {
        Ok(code @ 100..=599) => Ok(code),
        _ => Err("is not a range of codes".to_owned()),
    };
    let (first, last) = (code(first)?, code(last)?);
    if first > last {
        return Err("ends before it begins".to_owned());
    }
    Ok(first..=last)
}

fn not_empty(text: &str) -> Parsed<String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(text.to_owned())
}

fn absolute(text: &str) -> Parsed<PathBuf> {
    if !Path::new(text).is_absolute() || text.chars().any(char::is_control) {
        return Err("is not an absolute path".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn hexadecimal(text: &str) -> Parsed<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    match digits {
        Some(digits) if digits.len() % 2 == 0 => {
            Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err("is not an even number of hexadecimal digits".to_owned()),
    }
}
