//! Services, servers and the rest as the kernel lists them over netlink, the
//! attributes in its order.

use control_api::api::{ServerStatus, ServiceId, ServiceStatus, Stats, Timeouts};

use crate::family::{answer, command};
use crate::netlink::Message;
use crate::terms::{self, Forwarding, Options};

/// The release of IPVS that the kernel has said it is for twenty years: 1.2.1.
pub(crate) const IPVS_VERSION: u32 = 0x01_02_01;

/// A service. `flags` are the message's, as for all of them.
pub(crate) fn service(service: &ServiceStatus, flags: u16, to: To) -> Vec<u8> {
    let mut message = answer(command::NEW_SERVICE, flags, to.sequence, to.port);
    let spec = &service.spec;
    let options = Options::of(spec);
    message.nest(1, |m| {
        m.u16(1, terms::family_of(&spec.id));
        match spec.id {
            ServiceId::Address { protocol, address } => {
                m.u16(2, terms::protocol_number(protocol));
                m.put(3, &terms::address_bytes(address.ip()));
                m.port(4, address.port());
            }
            ServiceId::Fwmark { mark, .. } => m.u32(5, mark),
        }
        m.text(6, &spec.scheduler);
        if let Some(engine) = &options.engine {
            m.text(11, engine);
        }
        let flags = [options.flags.to_ne_bytes(), options.mask.to_ne_bytes()];
        m.put(7, flags.as_flattened());
        m.u32(8, options.timeout);
        m.u32(9, options.netmask);
        counters(m, &service.stats);
    });
    message.finish()
}

/// A server.
pub(crate) fn server(server: &ServerStatus, flags: u16, to: To) -> Vec<u8> {
    let mut message = answer(command::NEW_DEST, flags, to.sequence, to.port);
    let spec = &server.spec;
    let forwarding = Forwarding::of(&spec.method);
    message.nest(2, |m| {
        m.put(1, &terms::address_bytes(spec.address.ip()));
        m.port(2, spec.address.port());
        m.u32(3, forwarding.method);
        m.u32(4, spec.weight);
        m.u8(13, forwarding.tunnel);
        m.port(14, forwarding.tunnel_port);
        m.u16(15, forwarding.tunnel_flags);
        m.u32(5, spec.upper_threshold);
        m.u32(6, spec.lower_threshold);
        m.u32(7, server.active);
        m.u32(8, server.inactive);
        m.u32(9, server.persistent);
        m.u16(11, if spec.address.is_ipv6() { terms::AF_INET6 } else { terms::AF_INET });
        counters(m, &server.stats);
    });
    message.finish()
}

/// Counters and rates: in the old form, where all but the bytes have 32 bits
/// and wrap, and in the new one.
fn counters(message: &mut Message, stats: &Stats) {
    let rates = [
        stats.connection_rate,
        stats.in_packet_rate,
        stats.out_packet_rate,
        stats.in_byte_rate,
        stats.out_byte_rate,
    ];
    message.nest(10, |m| {
        m.u32(1, stats.connections as u32);
        m.u32(2, stats.in_packets as u32);
        m.u32(3, stats.out_packets as u32);
        m.u64(4, stats.in_bytes);
        m.u64(5, stats.out_bytes);
        for (kind, rate) in (6..).zip(rates) {
            m.u32(kind, rate as u32);
        }
    });
    message.nest(12, |m| {
        let counts = [
            stats.connections,
            stats.in_packets,
            stats.out_packets,
            stats.in_bytes,
            stats.out_bytes,
        ];
        for (kind, value) in (1..).zip(counts.into_iter().chain(rates)) {
            m.u64(kind, value);
        }
    });
}

/// Timeouts.
pub(crate) fn timeouts(timeouts: &Timeouts, to: To) -> Vec<u8> {
    let mut message = answer(command::SET_CONFIG, 0, to.sequence, to.port);
    message.u32(4, timeouts.tcp);
    message.u32(5, timeouts.tcp_fin);
    message.u32(6, timeouts.udp);
    message.finish()
}

/// The version of IPVS and the size of the connection table.
pub(crate) fn info(table_size: u64, to: To) -> Vec<u8> {
    let mut message = answer(command::SET_INFO, 0, to.sequence, to.port);
    message.u32(1, IPVS_VERSION);
    message.u32(2, u32::try_from(table_size).unwrap_or(u32::MAX));
    message.finish()
}

/// Whose request it is that is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct To {
    pub(crate) sequence: u32,
    pub(crate) port: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::FAMILY;
    use crate::netlink::NLM_F_MULTI;
    use control_api::api::{Method, Persistence, Protocol, ServerSpec, ServiceSpec};
    use control_api::api::{Tunnel, TunnelChecksum};

    const TO: To = To { sequence: 0x6b02_0113, port: 9 };

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn zeros(bytes: usize) -> String {
        "00".repeat(bytes)
    }

    /// Counters of a service or server that has none, as recorded.
    fn no_counters() -> String {
        let small: String = (1..=10)
            .map(|kind| match kind {
                4 | 5 => format!("0c00{kind:02x}00{}", zeros(8)),
                _ => format!("0800{kind:02x}00{}", zeros(4)),
            })
            .collect();
        let large: String = (1..=10).map(|kind| format!("0c00{kind:02x}00{}", zeros(8))).collect();
        format!("5c000a00{small}7c000c00{large}")
    }

    fn header(length: u16, flags: u16) -> String {
        let header = [length, 0, FAMILY, flags];
        let bytes: Vec<u8> = header.iter().flat_map(|n| n.to_ne_bytes()).collect();
        hex(&bytes) + "1301026b09000000"
    }

    /// As recorded from Linux 6.1 for `-A -t 10.0.0.1:80 -s rr -p 60`.
    #[test]
    fn a_service_is_listed_as_the_kernel_does() {
        let address = "10.0.0.1:80".parse().unwrap();
        let id = ServiceId::Address { protocol: Protocol::Tcp, address };
        let persistence = Some(Persistence { timeout: 60, prefix: 32, engine: None });
        let spec = ServiceSpec { persistence, ..ServiceSpec::new(id, "rr") };
        let status = ServiceStatus { spec, stats: Stats::default(), servers: Vec::new() };
        let expected = header(320, NLM_F_MULTI)
            + "01010000"
            + "2c01010006000100020000000600020006000000140003000a000001"
            + &zeros(12)
            + "0600040000500000"
            + "0700060072720000"
            + "0c00070003000000ffffffff"
            + "080008003c000000"
            + "08000900ffffffff"
            + &no_counters();
        assert_eq!(hex(&service(&status, NLM_F_MULTI, TO)), expected);
    }

    /// As recorded for `-A -f 7 -s rr`, with an engine.
    #[test]
    fn a_mark_is_listed_by_its_number() {
        let id = ServiceId::Fwmark { mark: 7, ipv6: false };
        let persistence = Some(Persistence { timeout: 60, prefix: 24, engine: Some("sip".into()) });
        let spec = ServiceSpec { persistence, ..ServiceSpec::new(id, "rr") };
        let status = ServiceStatus { spec, stats: Stats::default(), servers: Vec::new() };
        let expected = header(300, 0)
            + "01010000"
            + "180101000600010002000000"
            + "0800050007000000"
            + "0700060072720000"
            + "08000b0073697000"
            + "0c00070003000000ffffffff"
            + "080008003c000000"
            + "08000900ffffff00"
            + &no_counters();
        assert_eq!(hex(&service(&status, 0, TO)), expected);
    }

    fn listed(method: Method) -> ServerStatus {
        ServerStatus {
            spec: ServerSpec {
                address: "10.0.0.2:80".parse().unwrap(),
                method,
                weight: 1,
                upper_threshold: 0,
                lower_threshold: 0,
            },
            active: 0,
            inactive: 0,
            persistent: 0,
            stats: Stats::default(),
            health: None,
        }
    }

    /// As recorded for `-a -r 10.0.0.2:80 -m -w 1`.
    #[test]
    fn a_server_is_listed_as_the_kernel_does() {
        let expected = header(356, NLM_F_MULTI)
            + "05010000"
            + "50010200140001000a000002"
            + &zeros(12)
            + "0600020000500000"
            + "0800030000000000"
            + "0800040001000000"
            + "05000d000000000006000e000000000006000f0000000000"
            + "08000500000000000800060000000000"
            + "080007000000000008000800000000000800090000000000"
            + "06000b0002000000"
            + &no_counters();
        assert_eq!(hex(&server(&listed(Method::Nat), NLM_F_MULTI, TO)), expected);
        // FULLNAT looks the same to those who cannot know it.
        assert_eq!(hex(&server(&listed(Method::Fullnat), NLM_F_MULTI, TO)), expected);
    }

    #[test]
    fn numbers_are_where_they_belong() {
        let mut status =
            listed(Method::Tun(Tunnel::Gue { port: 6080, checksum: TunnelChecksum::Full }));
        status.spec.upper_threshold = 0x51;
        status.spec.lower_threshold = 0x61;
        status.active = 0x71;
        status.inactive = 0x81;
        status.persistent = 0x91;
        status.stats = Stats {
            connections: 0x1_0000_0001,
            in_packets: 2,
            out_packets: 3,
            in_bytes: 0x4_0000_0000,
            out_bytes: 5,
            connection_rate: 6,
            in_packet_rate: 7,
            out_packet_rate: 8,
            in_byte_rate: 9,
            out_byte_rate: 10,
        };
        let listed = hex(&server(&status, 0, TO));
        for attribute in [
            "0800030002000000",
            "05000d0001000000",
            "06000e0017c00000",
            "06000f0001000000",
            "0800050051000000",
            "0800060061000000",
            "0800070071000000",
            "0800080081000000",
            "0800090091000000",
            // Old counters, then new ones.
            "5c000a000800010001000000080002000200000008000300030000000c0004000000000004000000",
            "0c00050005000000000000000800060006000000",
            "7c000c000c00010001000000010000000c000200",
            "0c00040000000000040000000c00050005000000000000000c0006000600000000000000",
            "0c000a000a00000000000000",
        ] {
            assert!(listed.contains(attribute), "{attribute} in {listed}");
        }
    }

    /// As recorded for `-L --timeout` and `-Ln`.
    #[test]
    fn timeouts_and_the_version_are_the_kernels() {
        let values = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
        assert_eq!(
            hex(&timeouts(&values, TO)),
            header(44, 0) + "0c01000008000400840300000800050078000000080006002c010000"
        );
        assert_eq!(
            hex(&info(4096, TO)),
            header(36, 0) + "0e010000080001000102010008000200" + "00100000"
        );
    }
}
