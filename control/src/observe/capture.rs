//! A file of observed packets for Wireshark: pcapng (draft-ietf-opsawg-pcapng),
//! with two interfaces for each port, one for packets as they came in and one
//! for those as they leave, and a comment with each packet.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapError};

use super::{frames, words};
use crate::api::{FrameSeen, ObservedPacket};

/// `if_tsresol` of nanoseconds.
const NANOSECONDS: u8 = 9;

/// Which way a packet goes, as its flags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    In = 1,
    Out = 2,
}

/// A file that is being written.
pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    snaplen: u32,
    /// Numbers of interfaces, in the order in which they were first needed.
    interfaces: HashMap<(String, Direction), u32>,
    last: Duration,
}

impl<W: Write> Capture<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(writer: W, snaplen: u32) -> io::Result<Self> {
        let program = concat!("rvsadm ", env!("CARGO_PKG_VERSION"));
        let header = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(program.into())],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(writer, header).map_err(failure)?;
        Ok(Self { writer, snaplen, interfaces: HashMap::new(), last: Duration::ZERO })
    }

    /// Writes a packet: as it came, as it left, and those made of it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, packet: &ObservedPacket) -> io::Result<()> {
        let comment = words::comment(packet);
        self.last = Duration::from_micros(packet.time_us);
        let came = format!("{comment}; as it came");
        // Of one that was handed over the other worker told how it came.
        if packet.handed_over_by.is_none() {
            self.block(&packet.port, Direction::In, &packet.before, came)?;
        }
        if let Some(after) = &packet.after {
            let port = match &packet.verdict {
                crate::api::PacketVerdict::Sent { port } => port,
                _ => &packet.port,
            };
            self.block(port, Direction::Out, after, format!("{comment}; as it left"))?;
        }
        for made in &packet.made {
            let comment = format!("{comment}; made by the director");
            self.block(&made.port, Direction::Out, &made.frame, comment)?;
        }
        Ok(())
    }

    /// Writes how many packets were left out, and what is still to be written.
    ///
    /// # Errors
    /// When that fails.
    pub fn finish(mut self, left_out: u64) -> io::Result<W> {
        if !self.interfaces.is_empty() {
            let block = InterfaceStatisticsBlock {
                interface_id: 0,
                timestamp: u64::try_from(self.last.as_nanos()).unwrap_or(u64::MAX),
                options: vec![InterfaceStatisticsOption::IsbIfDrop(left_out)],
            };
            self.writer.write_pcapng_block(block).map_err(failure)?;
        }
        self.writer.get_mut().flush()?;
        Ok(self.writer.into_inner())
    }

    /// Hands what was written on to the reader.
    ///
    /// # Errors
    /// When that fails.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    fn block(
        &mut self,
        port: &str,
        direction: Direction,
        frame: &FrameSeen,
        comment: String,
    ) -> io::Result<()> {
        let interface_id = self.interface(port, direction)?;
        let data = frames::from_hex(&frame.bytes).unwrap_or_default();
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: self.last,
            original_len: frame.length,
            data: Cow::Owned(data),
            options: vec![
                EnhancedPacketOption::Comment(comment.into()),
                EnhancedPacketOption::Flags(direction as u32),
            ],
        };
        self.writer.write_pcapng_block(block).map(drop).map_err(failure)
    }

    fn interface(&mut self, port: &str, direction: Direction) -> io::Result<u32> {
        let key = (port.to_owned(), direction);
        if let Some(&number) = self.interfaces.get(&key) {
            return Ok(number);
        }
        let (suffix, what) = match direction {
            Direction::In => ("in", "packets as they came in"),
            Direction::Out => ("out", "packets as they leave"),
        };
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(format!("{port} ({suffix})").into()),
                InterfaceDescriptionOption::IfDescription(format!("port {port}: {what}").into()),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(failure)?;
        let number = self.interfaces.len() as u32;
        self.interfaces.insert(key, number);
        Ok(number)
    }
}

fn failure(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
