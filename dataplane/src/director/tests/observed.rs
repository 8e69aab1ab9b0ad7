//! Packets that are observed, and packets that are only thought of.

use std::time::Instant;

use super::short::bench_of;
use super::*;
use crate::director::rehearsal::{Inquiry, Rehearsal, Rehearsed};
use crate::observe::{End, Filter, Observed, Record, Seen, Watch, Wish, observer};
use crate::service::{Encapsulation, Persistence};

const EVER: Tick = Tick(u32::MAX);
const IPIP: Method = Method::Tun(Encapsulation::Ipip);
const METHODS: [Method; 4] = [Method::Dr, Method::Nat, Method::Fullnat, IPIP];

impl Bench {
    fn observe(&mut self, wish: Wish, packets: u64) -> (Arc<Watch>, Observed) {
        let watch = Watch::new(packets, EVER);
        let (observer, observed) = observer(&watch, &wish);
        self.control.send(Update::Observe(Box::new(observer))).unwrap();
        self.director.housekeeping(NOON);
        (watch, observed)
    }

    /// What an inquiry about a packet is answered.
    fn inquire(&mut self, flows: Vec<(Protocol, Tuple)>) -> Inquiry {
        self.control.send(Update::Inquire(Box::new(Inquiry::new(1, flows)))).unwrap();
        self.director.housekeeping(NOON);
        let Some(Reply::Told(inquiry)) = self.control.receive() else { panic!("an answer") };
        *inquiry
    }

    fn rehearse(&mut self, packet: &[u8], protocol: Protocol, tuple: Tuple) -> Rehearsed {
        let mut flows = vec![(protocol, tuple)];
        loop {
            let inquiry = self.inquire(flows.clone());
            let core = &self.director.core;
            let rehearsal = Rehearsal {
                snapshot: &self.director.snapshot,
                shard: &core.shard,
                templates: &core.templates,
                now: NOON,
                worker: 0,
                source: Source::Port,
                handed: Handed::default(),
                port: 0,
                frame: packet,
            };
            let rehearsed = rehearsal.run(&inquiry).unwrap();
            match rehearsed.reply.filter(|reply| !flows.contains(reply)) {
                Some(reply) => flows.push(reply),
                None => return rehearsed,
            }
        }
    }
}

fn all() -> Wish {
    Wish { filter: Filter::default(), snaplen: 2000, rate: 1000 }
}

fn next(observed: &mut Observed) -> Option<(Record, Vec<u8>)> {
    observed.next(Instant::now())
}

fn records(observed: &mut Observed) -> Vec<Record> {
    std::iter::from_fn(|| next(observed)).map(|(record, _)| record).collect()
}

fn flow(cport: u16) -> Tuple {
    Tuple::new(CIP.into(), cport, VIP.into(), 80).unwrap()
}

/// A life of a connection, and packets that meet something else.
fn scene() -> Vec<Vec<u8>> {
    let mut packets: Vec<_> = ["S", "A", "A", "FA", "A"].map(|flags| tcp4(5000, flags)).into();
    packets.extend([udp4(5000, 80), tcp4(5001, "R"), tcp4(5001, "A"), udp4(5000, 81)]);
    let mut last_hop = tcp4(5000, "A");
    last_hop[22] = 1;
    packets.push(last_hop);
    packets.push(tcp6(5000));
    packets.push(vec![0; 10]);
    packets
}

#[test]
fn observed_packets_fare_as_others_do() {
    for method in METHODS {
        let (mut plain, mut watched) = (bench_of(method, None), bench_of(method, None));
        let (_, mut observed) = watched.observe(all(), 1000);
        for packet in scene() {
            let unobserved = plain.send(NOON, &packet);
            let (verdict, left) = watched.send(NOON, &packet);
            assert_eq!((verdict, &left), (unobserved.0, &unobserved.1), "{method:?}");
            let (record, bytes) = next(&mut observed).expect("a record");
            assert_eq!(record.verdict, verdict);
            let (came, rest) = bytes.split_at(packet.len());
            assert_eq!((came, &rest[..left.len()]), (&packet[..], &left[..]), "{method:?}");
        }
        for number in 0..2 {
            let counts = |bench: &Bench| bench.snapshot.server(number).unwrap().counts.totals();
            assert_eq!(counts(&plain), counts(&watched), "{method:?}");
        }
        let counters = |bench: &mut Bench| bench.director.counters_mut().clone();
        assert_eq!(counters(&mut plain), counters(&mut watched), "{method:?}");
    }
}

/// A burst in which some packets are observed leaves as it would otherwise.
#[test]
fn a_burst_keeps_its_order() {
    let mut outcomes = Vec::new();
    for observed in [false, true] {
        let mut bench = bench_of(Method::Nat, None);
        let client = Some(End { address: CIP.into(), port: Some(5001) });
        let wish = Wish { filter: Filter { client, ..Filter::default() }, ..all() };
        let mut watch = observed.then(|| bench.observe(wish, 1000));
        let order = [(5000, "S"), (5001, "S"), (5000, "A"), (5001, "A"), (5002, "R"), (5001, "FA")];
        let mut buffers: Vec<_> = order.map(|(port, flags)| tcp4(port, flags)).into();
        let mut frames: Vec<_> = buffers
            .iter_mut()
            .map(|buffer| {
                let len = buffer.len();
                Frame::new(buffer, 0, len, len, 0)
            })
            .collect();
        let mut verdicts = [Verdict::Punt; 6];
        bench.director.process(NOON, Source::Port, &mut frames, &mut verdicts);
        outcomes.push((verdicts, buffers));
        if let Some((_, observed)) = &mut watch {
            let states = records(observed).into_iter().map(|r| {
                let name = |sight: crate::observe::Sight| sight.state.name();
                (r.opened, r.before.map(name), r.after.map(name))
            });
            let syn = Some("SYN_RECV");
            assert_eq!(
                states.collect::<Vec<_>>(),
                [
                    (true, None, syn),
                    (false, syn, Some("ESTABLISHED")),
                    (false, Some("ESTABLISHED"), Some("CLOSE_WAIT")),
                ]
            );
        }
    }
    assert_eq!(outcomes[0], outcomes[1]);
}

#[test]
fn a_record_tells_what_was_decided() {
    let mut bench = bench_of(Method::Fullnat, None);
    let (_, mut observed) = bench.observe(all(), 1000);
    bench.send(NOON, &tcp4(5000, "S"));
    let (record, _) = next(&mut observed).unwrap();
    assert_eq!((record.seen, record.protocol), (Seen::Flow, Some(Protocol::Tcp)));
    assert_eq!((record.tuple, record.flags), (Some(flow(5000)), tcp::SYN));
    let target = record.target.unwrap();
    assert_eq!((target.scheduler, target.is_persistent), (Scheduler::Rr, false));
    let after = record.after.unwrap();
    assert_eq!((record.opened, after.client, after.is_pair), (true, flow(5000), true));
    let server = record.server.unwrap();
    assert_eq!((server.number, server.method), (0, Method::Fullnat));
    // The server's answer is told of by its connection.
    let mut answer = Vec::new();
    PacketBuilder::ethernet2(SERVER_MAC[0], PORT_MAC)
        .ipv4([192, 168, 1, 31], [192, 168, 1, 21], 64)
        .tcp(80, 1024, 1, 1000)
        .write(&mut answer, b"")
        .unwrap();
    bench.send(NOON, &answer);
    let (record, _) = next(&mut observed).unwrap();
    let sight = record.after.unwrap();
    assert_eq!((sight.is_reply, sight.client, record.target), (true, flow(5000), None));
    assert_eq!(record.verdict, Verdict::Drop(DropReason::NoRoute), "nobody said where clients are");
}

#[test]
fn drops_are_told_with_their_reasons() {
    let bad = |at: usize, value: u8| {
        let mut packet = tcp4(5000, "S");
        packet[at] = value;
        packet
    };
    let mut to_tag = tcp4(5000, "S");
    to_tag.splice(12..12, [0x81, 0, 0, 7]);
    let kinds: Vec<(Vec<u8>, DropReason)> = vec![
        (vec![0; 13], DropReason::EthShort),
        (bad(0, 2), DropReason::EthOtherHost),
        (to_tag, DropReason::VlanUnknown),
        (tcp4(5000, "S")[..33].to_vec(), DropReason::Ip4Truncated),
        (bad(14, 0x65), DropReason::Ip4BadHeader),
        (bad(24, 0), DropReason::Ip4BadChecksum),
        (tcp6(5000)[..50].to_vec(), DropReason::Ip6Truncated),
        (tcp4(5000, "R"), DropReason::TcpRstNoConnection),
        (tcp4(5000, "S"), DropReason::NoServer),
    ];
    let mut bench = bench_of(Method::Dr, None);
    let mut none = (*service(Protocol::Tcp, VIP.into(), [0, 0])).clone();
    none.candidates = candidates(Scheduler::Rr, [0, 0]);
    bench.snapshot.services = Services::new([Arc::new(none)], Arc::default());
    bench.publish();
    let filter = Filter { drops: true, ..Filter::default() };
    let (_, mut observed) = bench.observe(Wish { filter, ..all() }, 1000);
    bench.send(NOON, &udp4(5000, 81));
    for (packet, reason) in kinds {
        let before = bench.director.counters_mut().dropped(reason);
        bench.send(NOON, &packet);
        let told: Vec<_> = records(&mut observed).iter().map(|record| record.verdict).collect();
        assert_eq!(told, [Verdict::Drop(reason)]);
        assert_eq!(bench.director.counters_mut().dropped(reason), before + 1);
    }
}

#[test]
fn filters_take_what_belongs_to_a_connection() {
    let mut bench = bench_of(Method::Nat, None);
    let end = |address: [u8; 4], port| Some(End { address: address.into(), port });
    let filters = [
        (Filter { client: end(CIP, Some(5000)), ..Filter::default() }, [true, true, false]),
        (Filter { vip: end(VIP, None), ..Filter::default() }, [true, true, true]),
        (Filter { vip: end(VIP, Some(81)), ..Filter::default() }, [false, false, false]),
        (
            Filter { server: end([192, 168, 1, 31], Some(80)), ..Filter::default() },
            [true, true, false],
        ),
        (
            Filter { server: end([192, 168, 1, 32], None), ..Filter::default() },
            [false, false, false],
        ),
        (Filter { protocol: Some(Protocol::Udp), ..Filter::default() }, [false, false, true]),
    ];
    let mut nat = crate::service::NatSources::new();
    let source = crate::service::NatSource::Of(VIP.into(), 80);
    nat.add(Protocol::Tcp, SocketAddr::from(([192, 168, 1, 31], 80)), source);
    bench.snapshot.nat_sources = Arc::new(nat);
    bench.publish();
    let mut answer = Vec::new();
    PacketBuilder::ethernet2(SERVER_MAC[0], PORT_MAC)
        .ipv4([192, 168, 1, 31], CIP, 64)
        .tcp(80, 5000, 1, 1000)
        .write(&mut answer, b"")
        .unwrap();
    let mut lost = udp4(6000, 80);
    lost[22] = 0;
    for (filter, wanted) in filters {
        let (watch, mut observed) = bench.observe(Wish { filter, ..all() }, 1000);
        let mut seen = [false; 3];
        for (packet, seen) in [tcp4(5000, "S"), answer.clone(), lost.clone()].iter().zip(&mut seen)
        {
            bench.send(NOON, packet);
            *seen = !records(&mut observed).is_empty();
        }
        assert_eq!(seen, wanted, "{filter:?}");
        watch.end();
        bench.director.housekeeping(NOON);
        assert!(matches!(bench.control.receive(), Some(Reply::Observed(_))));
    }
}

#[test]
fn an_observation_ends_by_itself_and_is_given_back() {
    let mut bench = bench_of(Method::Dr, None);
    assert!(bench.director.observers.is_empty());
    let (watch, mut observed) = bench.observe(all(), 2);
    for _ in 0..5 {
        bench.send(NOON, &tcp4(5000, "S"));
    }
    assert_eq!(records(&mut observed).len(), 2);
    assert!(watch.is_complete() && watch.left_out() == 0);
    bench.director.housekeeping(NOON);
    assert!(bench.director.observers.is_empty());
    assert!(matches!(bench.control.receive(), Some(Reply::Observed(_))));
    // At its time.
    let watch = Watch::new(1000, NOON.plus(8));
    let (observer, _observed) = observer(&watch, &all());
    bench.control.send(Update::Observe(Box::new(observer))).unwrap();
    bench.director.housekeeping(NOON.plus(7));
    assert!(!bench.director.observers.is_empty());
    bench.director.housekeeping(NOON.plus(8));
    assert!(bench.director.observers.is_empty());
}

/// A client that does not read, and one that wants more than its rate: what
/// finds no room is counted, and packets go on.
#[test]
fn what_finds_no_room_is_counted() {
    let mut bench = bench_of(Method::Dr, None);
    let (watch, mut observed) = bench.observe(Wish { rate: 100_000, ..all() }, u64::MAX);
    for _ in 0..1500 {
        assert_eq!(bench.send(NOON, &tcp4(5000, "S")).0, Verdict::Send { port: 0 });
    }
    let noted = records(&mut observed).len() as u64;
    assert_eq!((noted, watch.left_out()), (1024, 1500 - 1024));
    bench.send(NOON, &tcp4(5000, "S"));
    assert_eq!(records(&mut observed).len(), 1);
    let (watch, mut observed) = bench.observe(Wish { rate: 7, ..all() }, u64::MAX);
    for _ in 0..20 {
        bench.send(NOON, &tcp4(5000, "S"));
    }
    assert_eq!((records(&mut observed).len(), watch.left_out()), (7, 13));
}

#[test]
fn more_observers_than_there_may_be_are_given_back() {
    let mut bench = bench_of(Method::Dr, None);
    let mut all_observed = Vec::new();
    for _ in 0..crate::observe::MAX_OBSERVERS {
        all_observed.push(bench.observe(all(), 10));
        assert!(bench.control.receive().is_none());
    }
    let _one_more = bench.observe(all(), 10);
    assert!(matches!(bench.control.receive(), Some(Reply::Observed(_))));
    bench.send(NOON, &tcp4(5000, "S"));
    for (_, observed) in &mut all_observed {
        assert_eq!(records(observed).len(), 1);
    }
}

#[test]
fn a_short_snaplen_keeps_the_first_bytes() {
    let mut bench = bench_of(Method::Dr, None);
    let (_, mut observed) = bench.observe(Wish { snaplen: 20, ..all() }, 10);
    let packet = tcp4(5000, "S");
    let (_, left) = bench.send(NOON, &packet);
    let (record, bytes) = next(&mut observed).unwrap();
    assert_eq!(bytes, [&packet[..20], &left[..20]].concat());
    assert_eq!((record.came.whole, record.left.whole), (54, 54));
}

/// What is rehearsed is what happens then, and until then nothing has changed.
#[test]
fn a_rehearsal_says_what_will_happen_and_changes_nothing() {
    for method in METHODS {
        let mut bench = bench_of(method, None);
        bench.snapshot.services = Services::new(bench_services(&bench, [1, 1]), Arc::default());
        bench.change_server(1, |server| server.method = method);
        for cport in [5000, 5001, 5000, 5002] {
            let packet = tcp4(cport, "S");
            bench.director.housekeeping(NOON);
            let before = bench.director.counters_mut().clone();
            for _ in 0..3 {
                let thought = bench.rehearse(&packet, Protocol::Tcp, flow(cport));
                let again = bench.rehearse(&packet, Protocol::Tcp, flow(cport));
                assert_eq!(thought.bytes, again.bytes, "{method:?}");
            }
            let thought = bench.rehearse(&packet, Protocol::Tcp, flow(cport));
            assert_eq!(*bench.director.counters_mut(), before);
            let opened = bench.director.tables.connections();
            // Packet ids of tunnels are at random.
            bench.director.core.ids = Ids::new(0, 1, 0);
            let (verdict, left) = bench.send(NOON, &packet);
            assert_eq!(thought.record.verdict, verdict, "{method:?} {cport}");
            assert_eq!(thought.bytes[packet.len()..], left, "{method:?} {cport}");
            let is_new = bench.director.tables.connections() > opened;
            assert_eq!(thought.record.opened, is_new, "{method:?} {cport}");
        }
    }
}

fn bench_services(bench: &Bench, weights: [u32; 2]) -> Vec<Arc<Service>> {
    let services = bench.snapshot.services.by_key();
    let keys = [Protocol::Tcp, Protocol::Udp].map(|protocol| ServiceKey::Address {
        protocol,
        vip: VIP.into(),
        vport: 80,
    });
    keys.iter()
        .map(|key| {
            let mut service = (**services.get(key).unwrap()).clone();
            service.candidates = candidates(Scheduler::Rr, weights);
            Arc::new(service)
        })
        .collect()
}

/// Two services on one server under NAT: the other's connection is known to the
/// worker only.
#[test]
fn a_rehearsal_sees_what_is_in_the_way() {
    let mut bench = bench_of(Method::Nat, None);
    let mut other = (*service(Protocol::Tcp, VIP.into(), [1, 0])).clone();
    other.key = ServiceKey::Address { protocol: Protocol::Tcp, vip: VIP.into(), vport: 81 };
    let mut services = bench_services(&bench, [1, 0]);
    services.push(Arc::new(other));
    bench.snapshot.services = Services::new(services, Arc::default());
    bench.publish();
    bench.send(NOON, &tcp4(5000, "S"));
    let mut packet = tcp4(5000, "S");
    packet[37] = 81;
    let tuple = Tuple::new(CIP.into(), 5000, VIP.into(), 81).unwrap();
    let thought = bench.rehearse(&packet, Protocol::Tcp, tuple);
    assert_eq!(thought.record.verdict, Verdict::Drop(DropReason::NatAmbiguous));
    assert_eq!(bench.send(NOON, &packet).0, thought.record.verdict);
}

#[test]
fn a_rehearsal_goes_by_the_clients_template() {
    let mut bench = bench_of(Method::Dr, None);
    let services = bench_services(&bench, [1, 1]).into_iter().map(|service| {
        let persistence = Some(Persistence { timeout: 800, prefix: 32 });
        Arc::new(Service { persistence, ..(*service).clone() })
    });
    bench.snapshot.services = Services::new(services, Arc::default());
    bench.publish();
    let thought = bench.rehearse(&tcp4(5000, "S"), Protocol::Tcp, flow(5000));
    assert_eq!(thought.record.target.unwrap().template, None);
    let first = bench.server_of(NOON, &tcp4(5000, "S"));
    for cport in [5001, 5002, 5003] {
        let thought = bench.rehearse(&tcp4(cport, "S"), Protocol::Tcp, flow(cport));
        let target = thought.record.target.unwrap();
        assert_eq!((target.is_persistent, target.template), (true, Some(first as u32)));
        assert_eq!(thought.record.server.unwrap().number, first as u32);
    }
}

#[test]
fn a_rehearsal_knows_a_full_table_and_spent_limits() {
    let mut bench = bench_of(Method::Dr, None);
    for cport in 0..100 {
        bench.send(NOON, &tcp4(5000 + cport, "S"));
        bench.send(NOON, &tcp4(5000 + cport, "A"));
    }
    let thought = bench.rehearse(&tcp4(6000, "S"), Protocol::Tcp, flow(6000));
    assert_eq!(thought.record.verdict, Verdict::Drop(DropReason::TableFull));
    assert_eq!(bench.send(NOON, &tcp4(6000, "S")).0, thought.record.verdict);
    let known = bench.rehearse(&tcp4(5007, "A"), Protocol::Tcp, flow(5007));
    assert_eq!(known.record.verdict, Verdict::Send { port: 0 });
    bench.director.core.punt = PuntLimiter::new(PuntLimits { tcp: 1, ..PuntLimits::default() });
    let elsewhere = Tuple::new(CIP.into(), 5000, VIP.into(), 99).unwrap();
    let mut packet = tcp4(5000, "S");
    packet[37] = 99;
    while bench.send(NOON, &packet).0 == Verdict::Punt {
        // The limit's tokens are being spent.
    }
    let thought = bench.rehearse(&packet, Protocol::Tcp, elsewhere);
    assert_eq!(thought.record.verdict, Verdict::Drop(DropReason::PuntLimitedTcp));
}
