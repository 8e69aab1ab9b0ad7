//! The files of `/proc/net` that IPVS has, in the kernel's forms.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use control_api::api::{Connection, Protocol, ServiceId, ServiceStatus, Stats};
use control_api::client::{Client, ClientError};
use nix::errno::Errno;

use crate::director::{Director, told};
use crate::terms::{Forwarding, Options};

/// A file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum File {
    Services,
    Connections,
    /// Connections with where they come from.
    Synchronised,
    Stats,
}

impl File {
    /// The file of a path.
    pub(crate) fn of(path: &OsStr) -> Option<Self> {
        let name = Path::new(path)
            .strip_prefix("/proc/net")
            .or_else(|_| Path::new(path).strip_prefix("/proc/self/net"))
            .ok()?;
        match name.to_str()? {
            "ip_vs" => Some(Self::Services),
            "ip_vs_conn" => Some(Self::Connections),
            "ip_vs_conn_sync" => Some(Self::Synchronised),
            "ip_vs_stats" => Some(Self::Stats),
            _ => None,
        }
    }

    /// Writes what it contains now.
    pub(crate) fn write(self, director: &Director, out: &mut impl Write) -> Result<(), Errno> {
        let mut client = director.connect()?;
        let result = match self {
            Self::Services => services(&mut client, out),
            Self::Connections => connections(&mut client, out, CONNECTIONS, ""),
            Self::Synchronised => connections(&mut client, out, SYNCHRONISED, "LOCAL  "),
            Self::Stats => stats(&mut client, out),
        };
        result.map_err(|error| match error {
            Failed::Client(error) => told(&error),
            Failed::Output(errno) => errno,
        })
    }
}

enum Failed {
    Client(ClientError),
    Output(Errno),
}

impl From<ClientError> for Failed {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

const CONNECTIONS: &str =
    "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n";
const SYNCHRONISED: &str =
    "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n";

/// Writes connections page by page, as there may be millions.
fn connections(
    client: &mut Client,
    out: &mut impl Write,
    title: &str,
    origin: &str,
) -> Result<(), Failed> {
    out.write_all(title.as_bytes())?;
    client.connections(|page| {
        let mut text = String::new();
        for connection in &page {
            line(&mut text, connection, origin);
        }
        Ok(out.write_all(text.as_bytes())?)
    })
}

fn line(text: &mut String, connection: &Connection, origin: &str) {
    let protocol = protocol(connection.protocol);
    let [client, vip, server] =
        [connection.client, connection.virtual_address, connection.server].map(spaced);
    let (state, seconds) = (&connection.state, connection.expires_ms / 1000);
    // Writing to a string does not fail.
    let _ =
        writeln!(text, "{protocol:<3} {client} {vip} {server} {state:<11} {origin}{seconds:>7}");
}

/// Address and port in hexadecimal, as in rows of connections.
fn spaced(address: SocketAddr) -> String {
    format!("{} {:04X}", plain(address.ip()), address.port())
}

/// An address in hexadecimal; of IPv6 in lower case, in groups.
fn plain(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08X}", address.to_bits()),
        IpAddr::V6(address) => {
            let groups: Vec<String> =
                address.segments().iter().map(|group| format!("{group:04x}")).collect();
            groups.join(":")
        }
    }
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// Jiffies in a second, in which the kernel writes timeouts here (Debian's HZ).
const HZ: u32 = 250;

fn services(client: &mut Client, out: &mut impl Write) -> Result<(), Failed> {
    let listed = client.services(None)?;
    let mut text = format!(
        "IP Virtual Server version 1.2.1 (size={})\nProt LocalAddress:Port Scheduler Flags\n  \
         -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n",
        listed.table_size
    );
    for service in &listed.services {
        text.push_str(&paragraph(service));
    }
    Ok(out.write_all(text.as_bytes())?)
}

/// A service and its servers.
fn paragraph(service: &ServiceStatus) -> String {
    let spec = &service.spec;
    let scheduler = &spec.scheduler;
    let ops = if spec.one_packet { "ops " } else { "" };
    let mut text = match spec.id {
        ServiceId::Address { protocol: number, address } => {
            let name = protocol(number);
            let flags = if address.is_ipv6() { String::new() } else { format!("{ops} ") };
            format!("{name}  {} {scheduler} {flags}", joined(address))
        }
        ServiceId::Fwmark { mark, .. } => format!("FWM  {mark:08X} {scheduler} {ops}"),
    };
    // Writing to a string does not fail.
    if spec.persistence.is_some() {
        let options = Options::of(spec);
        let jiffies = u64::from(options.timeout) * u64::from(HZ);
        let _ = write!(text, "persistent {jiffies} {:08X}", u32::from_be(options.netmask));
    }
    text.push('\n');
    for server in &service.servers {
        let address = joined(server.spec.address);
        let method = match Forwarding::of(&server.spec.method).method {
            0 => "Masq",
            2 => "Tunnel",
            _ => "Route",
        };
        let (weight, active, inactive) = (server.spec.weight, server.active, server.inactive);
        let _ = writeln!(
            text,
            "  -> {address}      {method:<7} {weight:<6} {active:<10} {inactive:<10}"
        );
    }
    text
}

/// Address and port in hexadecimal, as in rows of services.
fn joined(address: SocketAddr) -> String {
    match address.ip() {
        ip @ IpAddr::V4(_) => format!("{}:{:04X}", plain(ip), address.port()),
        ip @ IpAddr::V6(_) => format!("[{}]:{:04X}", plain(ip), address.port()),
    }
}

/// The sum of all services.
fn stats(client: &mut Client, out: &mut impl Write) -> Result<(), Failed> {
    let listed = client.services(None)?;
    let sum = |field: fn(&Stats) -> u64| -> u64 {
        listed.services.iter().map(|service| field(&service.stats)).fold(0, u64::wrapping_add)
    };
    let mut text = String::from(
        "   Total Incoming Outgoing         Incoming         Outgoing\n   \
         Conns  Packets  Packets            Bytes            Bytes\n",
    );
    let row = |values: [u64; 5]| {
        let [connections, in_packets, out_packets, in_bytes, out_bytes] = values;
        format!(
            "{connections:>8X} {in_packets:>8X} {out_packets:>8X} {in_bytes:>16X} \
             {out_bytes:>16X}\n"
        )
    };
    text.push_str(&row([
        sum(|s| s.connections),
        sum(|s| s.in_packets),
        sum(|s| s.out_packets),
        sum(|s| s.in_bytes),
        sum(|s| s.out_bytes),
    ]));
    text.push_str("\n Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n");
    text.push_str(&row([
        sum(|s| s.connection_rate),
        sum(|s| s.in_packet_rate),
        sum(|s| s.out_packet_rate),
        sum(|s| s.in_byte_rate),
        sum(|s| s.out_byte_rate),
    ]));
    Ok(out.write_all(text.as_bytes())?)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
