//! `explain`: what would happen to a packet now.

use std::io::Write;
use std::net::SocketAddr;

use clap::Args;

use super::observe::{ProtocolName, unexpected};
use super::{Failure, json_line};
use crate::api::{PacketSpec, Request, Response};
use crate::client::Client;
use crate::observe::words;

/// The packet.
#[derive(Debug, Clone, Args)]
pub struct Packet {
    /// TCP, UDP or SCTP
    #[arg(value_enum, ignore_case = true, value_name = "PROTOCOL")]
    protocol: ProtocolName,
    /// Where it comes from
    #[arg(value_name = "SOURCE:PORT")]
    source: SocketAddr,
    /// Where it goes to, such as a service
    #[arg(value_name = "DESTINATION:PORT")]
    destination: SocketAddr,
    /// The port that it comes in by, where that matters to the matching of marks
    /// or several lead to its source
    #[arg(long, value_name = "NAME")]
    port: Option<String>,
    /// TCP's flags in letters, such as SA: a SYN when absent
    #[arg(long)]
    flags: Option<String>,
    /// Its TTL or hop limit: 64 when absent
    #[arg(long)]
    ttl: Option<u8>,
    /// Length of the IP packet: that of its headers when absent
    #[arg(long, value_name = "BYTES")]
    length: Option<u16>,
}

pub(super) fn explain(
    client: &mut Client,
    packet: &Packet,
    json: bool,
    stdout: &mut dyn Write,
) -> Result<(), Failure> {
    let Packet { protocol, source, destination, port, flags, ttl, length } = packet.clone();
    let protocol = protocol.protocol();
    let packet = PacketSpec { protocol, source, destination, port, flags, ttl, length };
    let Response::Explained { explanation } = client.call(&Request::Explain { packet })? else {
        return Err(unexpected());
    };
    let text = if json { json_line(&explanation)? } else { words::explanation(&explanation) };
    Ok(stdout.write_all(text.as_bytes())?)
}
