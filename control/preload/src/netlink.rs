//! Netlink messages and attributes as bytes (netlink(7), `linux/netlink.h`).
//! Numbers are in the host's byte order; what is not is said to be.

use nix::errno::Errno;

/// Bytes of a message's header.
pub(crate) const HEADER: usize = 16;

/// Message kinds.
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

/// Message flags.
pub(crate) const NLM_F_MULTI: u16 = 0x2;
pub(crate) const NLM_F_ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub(crate) const NLM_F_DUMP: u16 = 0x300;
/// An acknowledgement that quotes the header only.
const NLM_F_CAPPED: u16 = 0x100;

/// The bits of an attribute's kind; the others are flags (nested, byte order).
const KIND: u16 = 0x3fff;

/// A message's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes of the message, this header included.
    pub(crate) length: usize,
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    /// Port of the sender; of the receiver in what the kernel sends.
    pub(crate) port: u32,
}

impl Header {
    /// The header that `bytes` begin with; `None` when it makes no sense.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        let header = Self {
            length: number(bytes, 0)?.try_into().ok()?,
            kind: short(bytes, 4)?,
            flags: short(bytes, 6)?,
            sequence: number(bytes, 8)?,
            port: number(bytes, 12)?,
        };
        (header.length >= HEADER && header.length <= bytes.len()).then_some(header)
    }
}

/// The messages that `bytes` are made of, as far as they make sense.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let header = Header::of(bytes)?;
        let message = &bytes[..header.length];
        bytes = bytes.get(aligned(header.length)..).unwrap_or_default();
        Some((header, message))
    })
}

/// The attributes of kinds 0 to `N - 1`; the last one of a kind counts.
pub(crate) fn attributes<const N: usize>(mut bytes: &[u8]) -> [Option<&[u8]>; N] {
    let mut found = [None; N];
    while let (Some(length), Some(kind)) = (short(bytes, 0), short(bytes, 2)) {
        let Some(value) = bytes.get(4..usize::from(length)) else {
            break;
        };
        if let Some(place) = found.get_mut(usize::from(kind & KIND)) {
            *place = Some(value);
        }
        bytes = bytes.get(aligned(usize::from(length))..).unwrap_or_default();
    }
    found
}

/// A number of an attribute that must be there.
pub(crate) fn u8_of(value: Option<&[u8]>) -> Result<u8, Errno> {
    value.and_then(|v| v.first().copied()).ok_or(Errno::EINVAL)
}

/// The same, of two bytes.
pub(crate) fn u16_of(value: Option<&[u8]>) -> Result<u16, Errno> {
    value.and_then(|v| short(v, 0)).ok_or(Errno::EINVAL)
}

/// The same, of two bytes in network byte order: a port.
pub(crate) fn port_of(value: Option<&[u8]>) -> Result<u16, Errno> {
    u16_of(value).map(u16::from_be)
}

/// The same, of four bytes.
pub(crate) fn u32_of(value: Option<&[u8]>) -> Result<u32, Errno> {
    value.and_then(|v| number(v, 0)).ok_or(Errno::EINVAL)
}

/// Text that ends with a zero byte or with the attribute.
pub(crate) fn text_of(value: &[u8]) -> Result<&str, Errno> {
    let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
    std::str::from_utf8(text).map_err(|_| Errno::EINVAL)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Messages and attributes begin at multiples of four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A message that is being written.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// Begins one.
    pub(crate) fn new(kind: u16, flags: u16, sequence: u32, port: u32) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend(port.to_ne_bytes());
        Self(bytes)
    }

    /// Appends bytes that are no attribute.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        self.0.resize(aligned(self.0.len()), 0);
    }

    /// Appends an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        // Only texts vary in length, and those are names.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.raw(&value[..usize::from(length) - 4]);
    }

    /// Appends a number of one byte.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    /// Appends a number of two bytes.
    pub(crate) fn u16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Appends a port, in network byte order.
    pub(crate) fn port(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_be_bytes());
    }

    /// Appends a number of four bytes.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Appends a number of eight bytes.
    pub(crate) fn u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Appends text with its zero byte.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// Appends an attribute that is made of attributes.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.put(kind, &[]);
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// The finished message.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// The kernel's answer to a request that failed, which quotes it, or that has
/// no other answer (`error` is `None`), which quotes its header.
pub(crate) fn acknowledgement(request: &[u8], port: u32, error: Option<Errno>) -> Vec<u8> {
    let sequence = Header::of(request).map_or(0, |header| header.sequence);
    let (flags, quoted) = match error {
        Some(_) => (0, request),
        None => (NLM_F_CAPPED, &request[..HEADER.min(request.len())]),
    };
    let mut message = Message::new(NLMSG_ERROR, flags, sequence, port);
    message.raw(&(-error.map_or(0, |errno| errno as i32)).to_ne_bytes());
    message.raw(quoted);
    message.finish()
}

/// The end of a dump.
pub(crate) fn done(sequence: u32, port: u32) -> Vec<u8> {
    let mut message = Message::new(NLMSG_DONE, NLM_F_MULTI, sequence, port);
    message.raw(&[0; 4]);
    message.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut message = Message::new(0x20, NLM_F_ACK, 7, 9);
        message.raw(&[1, 1, 0, 0]);
        message.u32(1, 0x0102_0304);
        message.nest(2, |m| {
            m.text(1, "wlc");
            m.port(2, 80);
            m.u8(3, 5);
        });
        let bytes = message.finish();
        assert_eq!(bytes.len(), 16 + 4 + 8 + 4 + 8 + 8 + 8);
        let header = Header { length: 56, kind: 0x20, flags: NLM_F_ACK, sequence: 7, port: 9 };
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!(all, [(header, &bytes[..])]);
        let [none, first, second] = attributes(&bytes[20..]);
        assert_eq!((none, u32_of(first)), (None, Ok(0x0102_0304)));
        let [_, name, port, byte] = attributes(second.unwrap());
        assert_eq!(text_of(name.unwrap()), Ok("wlc"));
        assert_eq!(port, Some(&[0, 80][..]));
        assert_eq!((port_of(port), u8_of(byte)), (Ok(80), Ok(5)));
    }

    #[test]
    fn flags_of_an_attribute_are_not_its_kind() {
        let [_, found] = attributes(&[8, 0, 1, 0x80, 1, 2, 3, 4]);
        assert_eq!(found, Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn nonsense_ends_what_is_read() {
        for bytes in
            [&[][..], &[3, 0, 1, 0], &[8, 0, 1, 0, 1, 2, 3], &[0, 0, 1, 0, 0, 0, 0, 0], &[8]]
        {
            assert_eq!(attributes::<4>(bytes), [None; 4], "{bytes:?}");
            assert_eq!(messages(bytes).count(), 0, "{bytes:?}");
        }
        let mut long = Message::new(0x20, 0, 7, 9).finish();
        long[0] = 17;
        assert_eq!(messages(&long).count(), 0);
        assert_eq!(u32_of(Some(&[1, 2, 3])), Err(Errno::EINVAL));
        assert_eq!(u8_of(None), Err(Errno::EINVAL));
        assert_eq!(text_of(&[0xff]), Err(Errno::EINVAL));
    }

    /// As recorded from Linux 6.1 for `ipvsadm -A` of a service that exists.
    #[test]
    fn errors_quote_the_request_and_acknowledgements_its_header() {
        let mut request = Message::new(0x20, 5, 7, 9);
        request.raw(&[1, 1, 0, 0]);
        request.u32(1, 6);
        let request = request.finish();
        let error = acknowledgement(&request, 9, Some(Errno::EEXIST));
        assert_eq!(error[..8], [48, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(error[16..20], (-17i32).to_ne_bytes());
        assert_eq!(error[20..], request);
        let ack = acknowledgement(&request, 9, None);
        assert_eq!(ack[..8], [36, 0, 0, 0, 2, 0, 0, 1]);
        assert_eq!(ack[8..20], [7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(ack[20..], request[..16]);
        assert_eq!(done(7, 9), [20, 0, 0, 0, 3, 0, 2, 0, 7, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
    }
}
