//! `trace`: what packets met, in words.

use std::io::Write;

use super::observe::{Which, observe, remarks};
use super::{Failure, json_line};
use crate::client::Client;
use crate::observe::words;

/// Bytes of each packet that are read: all headers, also of tunnels.
const SNAPLEN: u32 = 192;

pub(super) fn trace(
    client: &mut Client,
    which: &Which,
    count: u64,
    json: bool,
    stdout: &mut dyn Write,
) -> Result<(), Failure> {
    let mut next = 1;
    let sum = observe(client, which, count, SNAPLEN, |packets| {
        for packet in packets {
            if json {
                stdout.write_all(json_line(packet)?.as_bytes())?;
            } else {
                let gap = if next > 1 { "\n" } else { "" };
                stdout.write_all(format!("{gap}{}", words::trace(packet)).as_bytes())?;
            }
            next += 1;
        }
        Ok(stdout.flush()?)
    })?;
    // Not among the packets: for whoever reads along.
    eprintln!("{}", remarks(&sum));
    Ok(())
}
