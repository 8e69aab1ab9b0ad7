//! Fragments: which server, which connection.

use super::*;

pub(super) const TCP: etherparse::IpNumber = etherparse::IpNumber::TCP;
const UDP: etherparse::IpNumber = etherparse::IpNumber::UDP;
const SCTP: etherparse::IpNumber = etherparse::IpNumber::SCTP;

/// A fragment of an IPv4 datagram of the client to the VIP; `at` in units of 8
/// bytes.
fn fragment(protocol: etherparse::IpNumber, id: u16, at: u16, payload: &[u8]) -> Vec<u8> {
    let mut header =
        etherparse::Ipv4Header::new(payload.len() as u16, 64, protocol, CIP, VIP).unwrap();
    header.identification = id;
    header.more_fragments = at == 0;
    header.fragment_offset = etherparse::IpFragOffset::try_new(at).unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, PORT_MAC)
        .ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
        .write(&mut bytes, protocol, payload)
        .unwrap();
    bytes
}

/// The beginning of a datagram from `cport`, with flags or chunk as its
/// protocol has them.
pub(super) fn first(protocol: etherparse::IpNumber, id: u16, cport: u16, flags: u8) -> Vec<u8> {
    let mut payload = [0; 24];
    payload[..2].copy_from_slice(&cport.to_be_bytes());
    payload[2..4].copy_from_slice(&80u16.to_be_bytes());
    payload[if protocol == SCTP { 12 } else { 13 }] = flags;
    payload[15] = if protocol == SCTP { 12 } else { 0 };
    fragment(protocol, id, 0, &payload)
}

pub(super) fn later(protocol: etherparse::IpNumber, id: u16, at: u16) -> Vec<u8> {
    fragment(protocol, id, at, &[9; 16])
}

impl Bench {
    /// Changes the service of a protocol on VIP:80.
    pub(super) fn change_service(&mut self, protocol: Protocol, change: impl FnOnce(&mut Service)) {
        let mut changed = service(protocol, VIP.into(), [1, 1]);
        change(Arc::get_mut(&mut changed).unwrap());
        self.snapshot.services = Services::new([changed], Arc::default());
        self.publish();
    }

    fn dropped(&mut self, reason: DropReason) -> u64 {
        self.director.counters_mut().dropped(reason)
    }
}

#[test]
fn fragments_follow_their_first_to_one_connection() {
    let mut bench = Bench::new(1, 100);
    for (id, protocol, flags) in [(1, UDP, 0), (2, TCP, tcp::SYN), (3, SCTP, sctp::INIT)] {
        let server = bench.server_of(NOON, &first(protocol, id, 5000, flags));
        for at in [3, 5] {
            assert_eq!(bench.server_of(NOON, &later(protocol, id, at)), server);
        }
    }
    assert_eq!(bench.director.tables.connections(), 3);
    // The later ones have changed no state: they have neither flags nor chunks.
    let states: Vec<_> = [tcp4(5000, "S"), sctp4(5000, INIT)]
        .iter()
        .map(|packet| {
            let mut buffer = packet.clone();
            let len = buffer.len();
            let mut headers = Headers::NONE;
            parse(&Frame::new(&mut buffer, 0, len, len, 0), PORT_MAC, &mut headers).unwrap();
            let tables = &bench.director.tables;
            tables.body(tables.find(headers.protocol, &headers.tuple()).unwrap()).state()
        })
        .collect();
    assert_eq!(states, [State::SynRecv, State::SctpInit1]);
}

/// A fragment opens its connection in stage 1, and the table may grow for it:
/// packets before it in the burst still find theirs.
#[test]
fn a_table_that_grows_for_a_fragment_loses_nobody() {
    let mut bench = Bench::new(1, 20_000);
    for port in 1000..5000_u16 {
        bench.server_of(NOON, &first(UDP, port, port, 0));
        let mut packets: Vec<_> =
            (0..16).map(|n| tcp4(port.saturating_sub(n * 201).max(1000), "A")).collect();
        packets.push(first(UDP, port, port.wrapping_add(20_000), 0));
        bench.server_of(NOON, &tcp4(port, "S"));
        let mut frames: Vec<_> = packets
            .iter_mut()
            .map(|packet| {
                let len = packet.len();
                Frame::new(packet, 0, len, len, 0)
            })
            .collect();
        let mut verdicts = [Verdict::Punt; 17];
        bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
        assert_eq!(verdicts, [Verdict::Send { port: 0 }; 17], "{port}");
    }
}

/// What the first fragment of a datagram may not do, the others may not either:
/// they have no flags, and no sign that they begin something.
#[test]
fn later_fragments_open_no_connection() {
    let mut bench = Bench::new(1, 100);
    for (protocol, refused) in [
        (TCP, Verdict::Punt),
        (SCTP, Verdict::Punt),
        (UDP, Verdict::Drop(DropReason::FragmentNoConnection)),
    ] {
        // The connection of the first one is over when the second comes: its
        // server is gone for good.
        let opening = if protocol == TCP { tcp::SYN } else { sctp::INIT };
        bench.server_of(NOON, &first(protocol, 7, 5000, opening));
        bench.snapshot.settings.expire_nodest_conn = true;
        for number in [0, 1] {
            bench.change_server(number, |server| server.deleted = true);
        }
        assert_eq!(bench.send(NOON, &later(protocol, 7, 3)).0, refused, "{protocol:?}");
        bench.snapshot.settings.expire_nodest_conn = false;
        for number in [0, 1] {
            bench.change_server(number, |server| server.deleted = false);
        }
        assert_eq!(bench.send(NOON, &later(protocol, 7, 5)).0, refused, "{protocol:?}");
        assert_eq!(bench.director.tables.connections(), 0);
    }
    assert_eq!(bench.director.outbox().len(), 0, "nobody is told");
}

#[test]
fn not_even_with_sloppy_tcp() {
    let mut bench = Bench::new(1, 100);
    bench.snapshot.settings.sloppy_tcp = true;
    bench.snapshot.settings.sloppy_sctp = true;
    bench.publish();
    for (protocol, flags) in [(TCP, tcp::RST), (SCTP, 0)] {
        bench.set_weights([0, 0]);
        assert!(matches!(bench.send(NOON, &first(protocol, 7, 5000, flags)).0, Verdict::Drop(_)));
        bench.set_weights([1, 1]);
        let (verdict, _) = bench.send(NOON, &later(protocol, 7, 3));
        assert_eq!(verdict, Verdict::Drop(DropReason::FragmentNoConnection));
    }
    assert_eq!(bench.director.tables.connections(), 0);
    assert_eq!(bench.dropped(DropReason::FragmentNoConnection), 2);
}

/// Whole datagrams of a one-packet service are scheduled one by one; those in
/// fragments, too, but all fragments of one together.
#[test]
fn the_fragments_of_a_one_packet_service_s_datagram_stay_together() {
    let mut bench = Bench::new(1, 100);
    bench.change_service(Protocol::Udp, |service| service.one_packet = true);
    let mut servers = [0; 2];
    for id in 100..120 {
        let server = bench.server_of(NOON, &first(UDP, id, 5000, 0));
        servers[server] += 1;
        // As rr goes on with other packets in between.
        bench.server_of(NOON, &udp4(6000, 80));
        assert_eq!(bench.server_of(NOON, &later(UDP, id, 3)), server);
        bench.server_of(NOON, &udp4(6000, 80));
        bench.server_of(NOON, &udp4(6000, 80));
        assert_eq!(bench.server_of(NOON, &later(UDP, id, 5)), server);
    }
    assert_eq!(servers, [10, 10], "ids in a row");
    assert_eq!(bench.director.tables.connections(), 0);
}

/// A consistent hash finds the server in a full table, for each fragment.
#[test]
fn without_a_connection_mh_forwards_all_fragments() {
    let mut bench = Bench::new(1, 1);
    bench.change_service(Protocol::Udp, |service| {
        let scheduler = Scheduler::Mh(scheduler::HashFlags { fallback: false, port: true });
        service.scheduler = scheduler;
        service.candidates = candidates(scheduler, [1, 1]);
    });
    bench.server_of(NOON, &udp4(6000, 80));
    for id in 0..8 {
        let server = bench.server_of(NOON, &first(UDP, id, 5000 + id, 0));
        assert_eq!(bench.server_of(NOON, &later(UDP, id, 3)), server);
    }
    assert_eq!(bench.director.counters_mut().stateless, 16);
    assert_eq!(bench.director.tables.connections(), 1);
}
