//! `capture`: packets before and after, into a file for Wireshark.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::Failure;
use super::observe::{Which, observe, remarks};
use crate::client::Client;
use crate::observe::capture::Capture;

pub(super) fn capture(
    client: &mut Client,
    which: &Which,
    file: &Path,
    count: u64,
    snaplen: u32,
    stdout: &mut dyn Write,
) -> Result<(), Failure> {
    if file == Path::new("-") {
        return write(client, which, count, snaplen, stdout);
    }
    let failed = |error| Failure::Other(format!("{}: {error}", file.display()));
    let mut file = BufWriter::new(File::create(file).map_err(failed)?);
    write(client, which, count, snaplen, &mut file)
}

fn write(
    client: &mut Client,
    which: &Which,
    count: u64,
    snaplen: u32,
    to: &mut dyn Write,
) -> Result<(), Failure> {
    let mut capture = Capture::new(to, snaplen)?;
    let sum = observe(client, which, count, snaplen, |packets| {
        for packet in packets {
            capture.write(packet)?;
        }
        Ok(capture.flush()?)
    })?;
    capture.finish(sum.left_out + sum.passed_by)?;
    eprintln!("{}", remarks(&sum));
    Ok(())
}
