//! Packets of flows, as they come from a wire: the smallest frames, with a
//! right IPv4 header checksum.

use dataplane::packet::checksum;

use super::flows::Flow;
use super::setup::{MAC, ROUTER_MAC};
use super::{CLIENTS, Family, LOCALS, Method, PORT, Protocol, SERVERS, VIPS};

/// TCP flags.
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// The longest frame that is written: Ethernet, IPv6 and TCP, in whole lines.
const ROOM: usize = 128;
/// The shortest frame without its checksum.
const SHORTEST: usize = 60;
const ETHERNET: usize = 14;

/// Who sends to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// A client to a service.
    ToServer,
    /// A NAT server to a client.
    NatToClient,
    /// A FULLNAT server to a local address.
    FullnatToClient,
}

impl Side {
    /// What a method's servers send.
    pub(crate) const fn of_servers(method: Method) -> Self {
        match method {
            Method::Fullnat => Self::FullnatToClient,
            _ => Self::NatToClient,
        }
    }
}

/// Writes the packets of flows.
#[derive(Debug, Clone)]
pub(crate) struct Frames {
    family: Family,
    side: Side,
    len: usize,
    template: [u8; ROOM],
    /// Of the IPv4 header without addresses.
    sum: u64,
}

impl Frames {
    /// Those of one direction; `flags` are TCP's.
    pub(crate) fn new(family: Family, protocol: Protocol, side: Side, flags: u8) -> Self {
        let mut template = [0; ROOM];
        template[..6].copy_from_slice(&MAC);
        template[6..12].copy_from_slice(&ROUTER_MAC);
        let (number, l4_len) = match protocol {
            Protocol::Udp => (17, 8),
            _ => (6, 20),
        };
        let (l4, ip_len) = match family {
            Family::V4 => {
                let ip_len = 20 + l4_len;
                template[12] = 0x08;
                template[14] = 0x45;
                template[17] = ip_len as u8;
                // A hop has been counted already, and DF is set.
                template[20] = 0x40;
                template[22..24].copy_from_slice(&[63, number]);
                (ETHERNET + 20, ip_len)
            }
            Family::V6 => {
                template[12..14].copy_from_slice(&[0x86, 0xdd]);
                template[14] = 0x60;
                template[19..22].copy_from_slice(&[l4_len as u8, number, 63]);
                let [src, dst] = match side {
                    Side::ToServer => [CLIENTS, VIPS],
                    Side::NatToClient => [SERVERS, CLIENTS],
                    Side::FullnatToClient => [SERVERS, LOCALS],
                };
                template[22..38].copy_from_slice(&src.v6.to_be_bytes());
                template[38..54].copy_from_slice(&dst.v6.to_be_bytes());
                (ETHERNET + 40, 40 + l4_len)
            }
        };
        if protocol == Protocol::Udp {
            // Length, and a checksum that is there; whether it is right is the
            // server's business.
            template[l4 + 4..l4 + 8].copy_from_slice(&[0, 8, 0x12, 0x34]);
        } else {
            template[l4 + 12] = 0x50;
            template[l4 + 13] = flags;
            template[l4 + 14..l4 + 18].copy_from_slice(&[0xff, 0xff, 0x12, 0x34]);
        }
        let words = template[ETHERNET..ETHERNET + 20].chunks_exact(2);
        let sum = words.map(|w| u64::from(u16::from_be_bytes([w[0], w[1]]))).sum();
        Self { family, side, len: (ETHERNET + ip_len).max(SHORTEST), template, sum }
    }

    /// Length of the frames, bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Writes a flow's packet. `bytes` has room for `ROOM`.
    #[inline]
    pub(crate) fn write(&self, bytes: &mut [u8], flow: &Flow) {
        let (src, dst, src_port, dst_port) = match self.side {
            Side::ToServer => {
                let vip = VIPS.v4 + u32::from(flow.service);
                (CLIENTS.v4 + flow.client, vip, flow.client_port, PORT)
            }
            Side::NatToClient => {
                let server = SERVERS.v4 + u32::from(flow.server);
                (server, CLIENTS.v4 + flow.client, PORT, flow.client_port)
            }
            Side::FullnatToClient => {
                let server = SERVERS.v4 + u32::from(flow.server);
                (server, LOCALS.v4 + u32::from(flow.local), PORT, flow.local_port)
            }
        };
        let ports = (u32::from(src_port) << 16) | u32::from(dst_port);
        match self.family {
            Family::V4 => {
                let bytes = &mut bytes[..64];
                bytes.copy_from_slice(&self.template[..64]);
                let words = |n: u32| u64::from(n >> 16) + u64::from(n & 0xffff);
                let sum = !checksum::fold(self.sum + words(src) + words(dst));
                bytes[24..26].copy_from_slice(&sum.to_be_bytes());
                bytes[26..30].copy_from_slice(&src.to_be_bytes());
                bytes[30..34].copy_from_slice(&dst.to_be_bytes());
                bytes[34..38].copy_from_slice(&ports.to_be_bytes());
            }
            Family::V6 => {
                let bytes = &mut bytes[..80];
                bytes.copy_from_slice(&self.template[..80]);
                bytes[34..38].copy_from_slice(&src.to_be_bytes());
                bytes[50..54].copy_from_slice(&dst.to_be_bytes());
                bytes[54..58].copy_from_slice(&ports.to_be_bytes());
            }
        }
    }

    /// Notes in a flow what the director made of its first packet, under NAT
    /// and FULLNAT.
    pub(crate) fn learn(&self, bytes: &[u8], flow: &mut Flow) {
        let (src, dst, ports) = match self.family {
            Family::V4 => (26, 30, 34),
            Family::V6 => (34, 50, 54),
        };
        let number = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        flow.server = number(dst).wrapping_sub(SERVERS.v4) as u16;
        flow.local = number(src).wrapping_sub(LOCALS.v4) as u16;
        flow.local_port = (number(ports) >> 16) as u16;
    }
}

#[cfg(test)]
mod tests {
    use dataplane::packet::{Frame, Headers, Parsed, headers};

    use super::*;

    #[test]
    fn the_director_takes_them_for_what_they_are() {
        let flow =
            Flow { client: 5, client_port: 2000, service: 3, server: 7, local: 1, local_port: 9 };
        for family in [Family::V4, Family::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for (side, ports) in [
                    (Side::ToServer, (2000, 80)),
                    (Side::NatToClient, (80, 2000)),
                    (Side::FullnatToClient, (80, 9)),
                ] {
                    let frames = Frames::new(family, protocol, side, ACK);
                    let mut buffer = [0; 256];
                    frames.write(&mut buffer[64..], &flow);
                    let frame = Frame::new(&mut buffer, 64, frames.len(), frames.len(), 0);
                    let mut parsed = Headers::NONE;
                    let kind = headers::parse(&frame, MAC, &mut parsed);
                    assert!(matches!(kind, Ok(Parsed::Flow)), "{family:?} {protocol:?}");
                    assert_eq!((parsed.family(), parsed.protocol), (family, protocol));
                    assert_eq!((parsed.src_port, parsed.dst_port), ports);
                }
            }
        }
    }

    #[test]
    fn what_was_rewritten_is_learnt() {
        let sent = Flow { client: 5, client_port: 2000, server: 7, local: 1, ..Flow::default() };
        for family in [Family::V4, Family::V6] {
            // What goes to a server under FULLNAT is its answer, turned round.
            let flow = Flow { local_port: 4321, ..sent };
            let mut bytes = [0; ROOM];
            Frames::new(family, Protocol::Tcp, Side::FullnatToClient, ACK).write(&mut bytes, &flow);
            let (a, b, len) = if family == Family::V4 { (26, 30, 4) } else { (22, 38, 16) };
            for i in 0..len {
                bytes.swap(a + i, b + i);
            }
            let ports = b + len;
            bytes.swap(ports, ports + 2);
            bytes.swap(ports + 1, ports + 3);
            let mut learnt = Flow { client: 5, client_port: 2000, ..Flow::default() };
            Frames::new(family, Protocol::Tcp, Side::ToServer, SYN).learn(&bytes, &mut learnt);
            assert_eq!(learnt, flow);
        }
    }
}
