//! IPv4 options, as a router that forwards the packet treats them (RFC 791,
//! section 3.1; RFC 1812, section 5.2.4): its address goes into a record route,
//! its time into a timestamp, a packet with a source route is refused, and
//! everything else stays as it is. The checks, and the byte that a parameter
//! problem points to, are those of the kernel's forwarding path.

use super::checksum;
use crate::counters::DropReason;

/// Length of the fixed part of the header.
const FIXED: usize = 20;
/// Most bytes of options: what the header length field can say.
const MOST: usize = 40;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const RECORD_ROUTE: u8 = 7;
const TIMESTAMP: u8 = 68;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;
const ROUTER_ALERT: u8 = 148;

/// Why a packet with such options is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionError {
    /// The options make no sense.
    Malformed {
        /// Offset in the IP header of the byte that is wrong, for ICMP
        /// parameter problem (12/0).
        pointer: u8,
    },
    /// The packet asks to be routed by its source.
    SourceRoute,
}

impl OptionError {
    /// The reason to drop the packet.
    #[must_use]
    pub const fn reason(self) -> DropReason {
        match self {
            Self::Malformed { .. } => DropReason::Ip4BadOptions,
            Self::SourceRoute => DropReason::Ip4SourceRoute,
        }
    }
}

/// What the director writes into options.
#[derive(Clone, Copy)]
struct Here {
    address: [u8; 4],
    timestamp: [u8; 4],
}

/// Processes the options of an IPv4 `header` (20 to 60 bytes, options
/// included), and fixes its checksum. Does nothing to a header without options.
///
/// `address` is that of the port that the packet will leave by, as a number;
/// `timestamp_ms` is in milliseconds since midnight UT.
///
/// # Errors
/// Why the packet must not be forwarded. The header is then as it was.
pub fn process(header: &mut [u8], address: u32, timestamp_ms: u32) -> Result<(), OptionError> {
    let len = header.len().saturating_sub(FIXED);
    if len == 0 || len > MOST {
        return Ok(());
    }
    let here = Here { address: address.to_be_bytes(), timestamp: timestamp_ms.to_be_bytes() };
    let mut copy = [0; MOST];
    let options = &mut copy[..len];
    options.copy_from_slice(&header[FIXED..]);
    walk(options, here)?;
    if header[FIXED..] != *options {
        let before = checksum::add(0, &header[FIXED..]);
        let after = checksum::add(0, options);
        let old = u16::from_be_bytes([header[10], header[11]]);
        // RFC 1624, equation 3.
        let sum = u64::from(!old) + u64::from(!(before as u16)) + u64::from(after);
        header[10..12].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
        header[FIXED..].copy_from_slice(options);
    }
    Ok(())
}

/// Makes the options of a packet those of its fragments but the first: what is
/// not to be copied into them (RFC 791, section 3.1) becomes no operations, as
/// in the kernel. Stops at what makes no sense.
pub fn for_later_fragments(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&[kind, ref rest @ ..]) = options.get(at..) {
        let len = match (kind, rest.first()) {
            (END, _) => return,
            (NO_OPERATION, _) => 1,
            (_, Some(&len)) if len >= 2 => usize::from(len),
            _ => return,
        };
        let Some(option) = options.get_mut(at..at + len) else { return };
        if kind & COPIED == 0 {
            option.fill(NO_OPERATION);
        }
        at += len;
    }
}

/// An error that points to the byte at `at` of the options.
const fn malformed(at: usize) -> OptionError {
    OptionError::Malformed { pointer: (FIXED + at) as u8 }
}

fn walk(options: &mut [u8], here: Here) -> Result<(), OptionError> {
    let (mut route, mut time, mut source_route) = (false, false, false);
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        if kind == END {
            // What follows the end is not to be looked at; as the kernel does,
            // nothing is left there.
            options[at..].fill(END);
            break;
        }
        if kind == NO_OPERATION {
            at += 1;
            continue;
        }
        let len = usize::from(options.get(at + 1).copied().unwrap_or(0));
        if len < 2 || len > options.len() - at {
            return Err(malformed(at));
        }
        let option = &mut options[at..at + len];
        let wrong = match kind {
            RECORD_ROUTE => once(&mut route).and_then(|()| record_route(option, here)),
            TIMESTAMP => once(&mut time).and_then(|()| timestamp(option, here)),
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => {
                once(&mut source_route).and_then(|()| pointer(option, 3).map(|_| ()))
            }
            ROUTER_ALERT if len < 4 => Err(1),
            _ => Ok(()),
        };
        wrong.map_err(|byte| malformed(at + byte))?;
        at += len;
    }
    if source_route { Err(OptionError::SourceRoute) } else { Ok(()) }
}

/// Notes that an option is there; one that is there already is wrong from its
/// first byte.
fn once(seen: &mut bool) -> Result<(), usize> {
    if std::mem::replace(seen, true) { Err(0) } else { Ok(()) }
}

/// The pointer of an option that has one, counted from 1, after `fixed` bytes
/// at least. The error, here and below, is the byte of the option that is
/// wrong.
fn pointer(option: &[u8], fixed: usize) -> Result<usize, usize> {
    if option.len() < fixed {
        return Err(1);
    }
    let pointer = usize::from(option[2]);
    if pointer > fixed { Ok(pointer) } else { Err(2) }
}

/// The address goes where the pointer shows, if the option has room left.
fn record_route(option: &mut [u8], here: Here) -> Result<(), usize> {
    let pointer = pointer(option, 3)?;
    if pointer > option.len() {
        return Ok(());
    }
    let room = option.get_mut(pointer - 1..pointer + 3).ok_or(2usize)?;
    room.copy_from_slice(&here.address);
    option[2] += 4;
    Ok(())
}

/// The time goes where the pointer shows: alone, after the address, or after
/// the address that the sender put there if it is the director's. Where there
/// is no room, that is counted.
fn timestamp(option: &mut [u8], here: Here) -> Result<(), usize> {
    const ONLY: u8 = 0;
    const AND_ADDRESS: u8 = 1;
    const PRESPECIFIED: u8 = 3;
    let pointer = pointer(option, 4)?;
    if pointer > option.len() {
        return match option[3] >> 4 {
            15 => Err(3),
            _ => {
                option[3] += 0x10;
                Ok(())
            }
        };
    }
    let (flag, start) = (option[3] & 0x0f, pointer - 1);
    if start + 4 > option.len() {
        return Err(2);
    }
    match flag {
        ONLY => option[start..start + 4].copy_from_slice(&here.timestamp),
        AND_ADDRESS | PRESPECIFIED => {
            let room = option.get_mut(start..start + 8).ok_or(2usize)?;
            if flag == PRESPECIFIED && room[..4] != here.address {
                return Ok(());
            }
            room[..4].copy_from_slice(&here.address);
            room[4..].copy_from_slice(&here.timestamp);
        }
        _ => return Ok(()),
    }
    option[2] += if flag == ONLY { 4 } else { 8 };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: u32 = 0xc0a8_0a01;
    const TIME: u32 = 0x0102_0304;

    /// A header with these options, its checksum right.
    fn header(options: &[u8]) -> Vec<u8> {
        let mut header = vec![0x45, 0, 0, 60, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        header[0] += (options.len() / 4) as u8;
        header.extend(options);
        let checksum = !(checksum::add(0, &header) as u16);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
        header
    }

    #[test]
    fn later_fragments_have_what_is_to_be_copied() {
        let rows: &[(&[u8], &[u8])] = &[
            (&[7, 3, 4, 148, 4, 0, 0, 1], &[1, 1, 1, 148, 4, 0, 0, 1]),
            (&[1, 130, 3, 9, 68, 4, 5, 0, 0, 7, 3, 4], &[1, 130, 3, 9, 1, 1, 1, 1, 0, 7, 3, 4]),
            (&[148, 4, 0, 0, 7, 5, 4, 0], &[148, 4, 0, 0, 7, 5, 4, 0]),
            (&[7, 1, 4, 0], &[7, 1, 4, 0]),
            (&[1, 1, 1, 7], &[1, 1, 1, 7]),
        ];
        for (whole, later) in rows {
            let mut options = whole.to_vec();
            for_later_fragments(&mut options);
            assert_eq!(options, *later, "{whole:?}");
        }
    }

    /// Each row: what the options are, and what becomes of them.
    #[test]
    fn options_are_processed() {
        let rows: &[(&str, &[u8], &[u8])] = &[
            ("none of ours", &[1, 130, 3, 9], &[1, 130, 3, 9]),
            ("after the end", &[1, 0, 7, 9], &[1, 0, 0, 0]),
            ("router alert", &[148, 4, 0, 0], &[148, 4, 0, 0]),
            (
                "record route",
                &[7, 11, 4, 0, 0, 0, 0, 9, 9, 9, 9, 0],
                &[7, 11, 8, 192, 168, 10, 1, 9, 9, 9, 9, 0],
            ),
            ("record route, last place", &[7, 7, 4, 0, 0, 0, 0, 0], &[7, 7, 8, 192, 168, 10, 1, 0]),
            ("record route, full", &[7, 7, 8, 1, 2, 3, 4, 0], &[7, 7, 8, 1, 2, 3, 4, 0]),
            ("time only", &[68, 8, 5, 0, 0, 0, 0, 0], &[68, 8, 9, 0, 1, 2, 3, 4]),
            (
                "time and address",
                &[68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0],
                &[68, 12, 13, 1, 192, 168, 10, 1, 1, 2, 3, 4],
            ),
            (
                "time of this address",
                &[68, 12, 5, 3, 192, 168, 10, 1, 0, 0, 0, 0],
                &[68, 12, 13, 3, 192, 168, 10, 1, 1, 2, 3, 4],
            ),
            (
                "time of another address",
                &[68, 12, 5, 3, 192, 168, 10, 2, 0, 0, 0, 0],
                &[68, 12, 5, 3, 192, 168, 10, 2, 0, 0, 0, 0],
            ),
            ("no room for the time", &[68, 8, 9, 0, 9, 9, 9, 9], &[68, 8, 9, 0x10, 9, 9, 9, 9]),
            ("an unknown flag", &[68, 8, 5, 2, 0, 0, 0, 0], &[68, 8, 5, 2, 0, 0, 0, 0]),
            (
                "two of them",
                &[68, 8, 5, 0, 0, 0, 0, 0, 1, 7, 7, 4, 0, 0, 0, 0],
                &[68, 8, 9, 0, 1, 2, 3, 4, 1, 7, 7, 8, 192, 168, 10, 1],
            ),
        ];
        for (what, before, after) in rows {
            let mut bytes = header(before);
            assert_eq!(process(&mut bytes, ADDRESS, TIME), Ok(()), "{what}");
            assert_eq!(bytes, header(after), "{what}");
        }
    }

    /// The pointer counts from the beginning of the IP header.
    #[test]
    fn what_is_wrong_is_pointed_to() {
        let rows: &[(&str, &[u8], u8)] = &[
            ("no length", &[1, 1, 1, 7], 23),
            ("length 1", &[1, 99, 1, 0], 21),
            ("past the header", &[99, 5, 0, 0], 20),
            ("record route without a pointer", &[7, 2, 1, 1], 21),
            ("record route, pointer 3", &[7, 7, 3, 0, 0, 0, 0, 0], 22),
            ("record route, half an address", &[7, 6, 4, 0, 0, 0, 1, 1], 22),
            ("two record routes", &[7, 3, 4, 1, 7, 3, 4, 0], 24),
            ("time without flags", &[68, 3, 5, 1], 21),
            ("time, pointer 4", &[68, 8, 4, 0, 0, 0, 0, 0], 22),
            ("time, half of it", &[68, 7, 5, 0, 0, 0, 0, 0], 22),
            ("address, no time", &[68, 8, 5, 1, 0, 0, 0, 0], 22),
            ("too many without room", &[68, 4, 5, 0xf0], 23),
            ("two timestamps", &[68, 4, 5, 0, 68, 4, 5, 0], 24),
            ("source route without a pointer", &[131, 2, 1, 1], 21),
            ("source route, pointer 3", &[137, 7, 3, 0, 0, 0, 0, 0], 22),
            ("two source routes", &[131, 3, 4, 137, 3, 4, 1, 1], 23),
            ("router alert too short", &[148, 3, 0, 0], 21),
            ("a good one before", &[7, 7, 4, 0, 0, 0, 0, 99], 27),
        ];
        for (what, options, pointer) in rows {
            let mut bytes = header(options);
            let result = process(&mut bytes, ADDRESS, TIME);
            assert_eq!(result, Err(OptionError::Malformed { pointer: *pointer }), "{what}");
            assert_eq!(result.unwrap_err().reason(), DropReason::Ip4BadOptions);
            assert_eq!(bytes, header(options), "{what}: changed");
        }
    }

    #[test]
    fn source_routes_are_refused() {
        for kind in [131, 137] {
            let mut bytes = header(&[kind, 7, 4, 10, 0, 0, 9, 0]);
            let result = process(&mut bytes, ADDRESS, TIME);
            assert_eq!(result, Err(OptionError::SourceRoute));
            assert_eq!(result.unwrap_err().reason(), DropReason::Ip4SourceRoute);
        }
    }

    proptest::proptest! {
        /// No bytes make it panic, and a checksum is right afterwards if and
        /// only if it was before.
        #[test]
        fn checksums_stay_as_right_or_wrong_as_they_were(
            mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..70),
            kind in 0usize..4,
            wrong in proptest::bool::ANY,
        ) {
            if bytes.len() >= 24 {
                bytes[20] = [RECORD_ROUTE, TIMESTAMP, NO_OPERATION, bytes[20]][kind];
                bytes[21] = bytes[21] % (bytes.len() as u8 - 20) + 1;
                bytes[22] %= 16;
                bytes[10..12].fill(0);
                let right = !(checksum::add(0, &bytes) as u16) ^ u16::from(wrong);
                bytes[10..12].copy_from_slice(&right.to_be_bytes());
            }
            let done = process(&mut bytes, ADDRESS, TIME).is_ok();
            if done && bytes.len() >= 24 {
                proptest::prop_assert_eq!(checksum::add(0, &bytes) == 0xffff, !wrong);
            }
        }
    }
}
