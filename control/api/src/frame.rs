//! The framing of the control API: four bytes of length, big endian, then that
//! many bytes of JSON. Shared by the client and the server.

use std::fmt;
use std::io::{self, Read, Write};

use serde::Serialize;

/// Bytes of the length in front of every message.
pub const HEADER: usize = 4;

/// Why a frame could not be made, read or written.
#[derive(Debug)]
pub enum FrameError {
    /// The message is longer than the receiver accepts.
    TooLong {
        /// Its length, in bytes without the header.
        length: usize,
        /// The longest that is accepted.
        max: usize,
    },
    /// The stream ended inside a frame.
    Truncated,
    /// The message has no JSON form.
    Json(serde_json::Error),
    /// The stream failed or timed out.
    Io(io::Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { length, max } => {
                write!(f, "a message of {length} bytes is longer than the {max} allowed")
            }
            Self::Truncated => f.write_str("the connection ended in the middle of a message"),
            Self::Json(error) => write!(f, "the message cannot be written as JSON: {error}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FrameError {}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A whole frame, header included, that carries `message` as JSON of at most
/// `max` bytes.
pub fn encode(message: &impl Serialize, max: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Json)?;
    let length = frame.len() - HEADER;
    let too_long = FrameError::TooLong { length, max };
    if length > max {
        return Err(too_long);
    }
    let header = u32::try_from(length).map_err(|_| too_long)?.to_be_bytes();
    frame[..HEADER].copy_from_slice(&header);
    Ok(frame)
}

/// The JSON of the frame that `bytes` begin with, or `None` while it is not
/// complete. The frame occupies `HEADER` bytes more than its JSON. A length
/// above `max` is an error as soon as the header is there.
pub fn decode(bytes: &[u8], max: usize) -> Result<Option<&[u8]>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = payload_length(*header, max)?;
    Ok(rest.get(..length))
}

/// Writes `message` as one frame, blocking.
pub fn write(
    stream: &mut impl Write,
    message: &impl Serialize,
    max: usize,
) -> Result<(), FrameError> {
    stream.write_all(&encode(message, max)?)?;
    stream.flush()?;
    Ok(())
}

/// Reads the JSON of one frame, blocking. `None` when the stream ends before a
/// frame begins. Memory grows with the bytes that arrive, not with the length
/// that the header promises.
pub fn read(stream: &mut impl Read, max: usize) -> Result<Option<Vec<u8>>, FrameError> {
    let mut header = Vec::with_capacity(HEADER);
    stream.by_ref().take(HEADER as u64).read_to_end(&mut header)?;
    if header.is_empty() {
        return Ok(None);
    }
    let header = <[u8; HEADER]>::try_from(header).map_err(|_| FrameError::Truncated)?;
    let length = payload_length(header, max)?;
    let mut payload = Vec::new();
    stream.by_ref().take(length as u64).read_to_end(&mut payload)?;
    if payload.len() < length {
        return Err(FrameError::Truncated);
    }
    Ok(Some(payload))
}

fn payload_length(header: [u8; HEADER], max: usize) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(header) as usize;
    if length > max {
        return Err(FrameError::TooLong { length, max });
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_the_length_and_the_json() {
        assert_eq!(encode(&[1, 2], 100).unwrap(), b"\0\0\0\x05[1,2]");
    }

    #[test]
    fn a_message_over_the_limit_is_not_encoded() {
        assert!(encode(&"12345678", 10).is_ok());
        let error = encode(&"123456789", 10).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { length: 11, max: 10 }), "{error}");
    }

    #[test]
    fn decode_waits_for_the_whole_frame() {
        let frame = b"\0\0\0\x02{}rest";
        for end in 0..6 {
            assert_eq!(decode(&frame[..end], 10).unwrap(), None, "{end} bytes");
        }
        for end in 6..=frame.len() {
            assert_eq!(decode(&frame[..end], 10).unwrap(), Some(&b"{}"[..]), "{end} bytes");
        }
    }

    #[test]
    fn decode_refuses_a_long_frame_by_its_header_alone() {
        assert!(matches!(
            decode(b"\xff\xff\xff\xff", 10),
            Err(FrameError::TooLong { length: 0xffff_ffff, max: 10 })
        ));
        assert_eq!(decode(b"\0\0\0\x0a", 10).unwrap(), None);
    }

    #[test]
    fn frames_are_read_one_by_one_until_the_stream_ends() {
        let mut stream = &b"\0\0\0\x02{}\0\0\0\0"[..];
        assert_eq!(read(&mut stream, 10).unwrap().unwrap(), b"{}");
        assert_eq!(read(&mut stream, 10).unwrap().unwrap(), b"");
        assert!(read(&mut stream, 10).unwrap().is_none());
    }

    #[test]
    fn a_stream_that_ends_inside_a_frame_is_truncated() {
        for bytes in [&b"\0"[..], b"\0\0\0", b"\0\0\0\x02", b"\0\0\0\x02{"] {
            assert!(matches!(read(&mut &bytes[..], 10), Err(FrameError::Truncated)), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut stream = Vec::new();
        write(&mut stream, &"über", 100).unwrap();
        assert_eq!(read(&mut &stream[..], 100).unwrap().unwrap(), "\"über\"".as_bytes());
    }
}
