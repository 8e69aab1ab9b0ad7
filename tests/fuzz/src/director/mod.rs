//! Target `director`: a small configuration with every method, family and
//! protocol, and a program of steps read from the input: packets of clients,
//! answers to what the director sent, ICMP errors about it, fragments, damaged
//! and random bytes, time, edits. One or two workers are driven as
//! `dpdk::worker` drives them, handovers included. What must hold:
//!
//! - no panic, no overflow (the build has debug assertions)
//! - the counters' equation, after every burst
//! - the tables' size, and as many connections as the servers count
//! - what is sent fits its port, has the port's MAC address, and right checksums
//!   where those of what came in were right
//! - no packet is handed on for ever
//! - after a long time without packets nothing is left

mod seeds;
mod workers;
mod world;

use dataplane::director::BURST;
use dataplane::service::Method;
use dataplane::snapshot::Settings;

use crate::Input;
use crate::packets::{self, Packet, SCTP, TCP, UDP, error, fragments};
pub use seeds::seeds;
use workers::{Arrival, Workers};
use world::{World, client, vip};

/// Steps of one program; more only make an input slow.
const STEPS: usize = 400;

/// The steps of a program, by the number that names each: the byte of an input
/// modulo their count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// protocol and options, client, service, flags, payload: a packet of a
    /// client to a service.
    Client,
    /// index, flags: the answer to a packet that the director sent.
    Answer,
    /// index, type, code, mtu (2), length: an ICMP error about such a packet.
    IcmpError,
    /// port, length, bytes: any frame.
    Raw,
    /// offset, value, repair: damages the last frame of the burst, and, where
    /// `repair` is odd, makes its checksums right again.
    Damage,
    /// cut, id, order: the last frame of the burst in two fragments.
    Fragment,
    /// index: a packet that came in before, once more.
    Again,
    /// bytes: the last frame of the burst goes on in another segment.
    Segments,
    /// headroom: little room in front of the last frame.
    Headroom,
    /// worker: has the burst processed.
    Burst,
    /// ticks (2): time passes.
    Time,
    /// server, what, value: edits a server.
    Server,
    /// settings.
    Settings,
    /// Ends a listing of all connections, and counts them.
    List,
}

impl Step {
    pub(crate) const ALL: [Self; 14] = [
        Self::Client,
        Self::Answer,
        Self::IcmpError,
        Self::Raw,
        Self::Damage,
        Self::Fragment,
        Self::Again,
        Self::Segments,
        Self::Headroom,
        Self::Burst,
        Self::Time,
        Self::Server,
        Self::Settings,
        Self::List,
    ];
}

/// Runs a program.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let mut run = Run { workers: Workers::new(World::new(input.byte())), burst: Vec::new() };
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(&mut input);
    }
    run.process(0);
    run.workers.list();
    run.workers.wait_for_the_end();
}

struct Run {
    workers: Workers,
    burst: Vec<Arrival>,
}

impl Run {
    fn step(&mut self, input: &mut Input<'_>) {
        match Step::ALL[usize::from(input.byte()) % Step::ALL.len()] {
            Step::Client => self.client(input),
            Step::Answer => self.answer(input),
            Step::IcmpError => self.icmp_error(input),
            Step::Raw => {
                let port = input.byte() % 2;
                let len = input.byte();
                self.arrive(Arrival::new(port, input.take(len.into()).to_vec(), false));
            }
            Step::Damage => self.damage(input),
            Step::Fragment => self.fragment(input),
            Step::Again => {
                let before = self.workers.received(input.byte().into()).cloned();
                self.burst.extend(before);
            }
            Step::Segments => {
                let more = usize::from(input.byte()) * 8;
                if let Some(arrival) = self.burst.last_mut() {
                    let len = arrival.bytes.len();
                    arrival.bytes.truncate(len.saturating_sub(more).max(128));
                    arrival.total_len = len;
                    arrival.good &= arrival.bytes.len() == len;
                }
            }
            Step::Headroom => {
                let headroom = input.byte() % 130;
                if let Some(arrival) = self.burst.last_mut() {
                    arrival.headroom = headroom.into();
                }
            }
            Step::Burst => self.process(input.byte()),
            Step::Time => {
                self.process(0);
                self.workers.pass_time(u32::from(input.word() % 4096));
            }
            Step::Server => {
                self.process(0);
                let (number, what) = (usize::from(input.byte()), input.byte());
                self.workers.edit_server(number, what, input.byte());
            }
            Step::Settings => {
                self.process(0);
                self.workers.set(settings(input.byte()));
            }
            Step::List => self.workers.list(),
        }
        if self.burst.len() >= BURST {
            self.process(0);
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        self.burst.push(arrival);
    }

    fn process(&mut self, worker: u8) {
        self.workers.receive(worker.into(), &mut self.burst);
    }

    fn client(&mut self, input: &mut Input<'_>) {
        let [how, who, service, flags, payload] = std::array::from_fn(|_| input.byte());
        let v6 = how & 4 != 0;
        let (address, port) = client(who, v6);
        let (vip, vport) = vip(service, v6);
        let options =
            |there: u8, options: &[u8]| if there != 0 { options.to_vec() } else { vec![] };
        let packet = Packet {
            addresses: (address, vip),
            protocol: [TCP, UDP, SCTP, TCP][usize::from(how & 3)],
            ports: (port, vport),
            flags,
            tcp_options: options(how & 8, &[2, 4, 5, 0xb4, 1, 1, 4, 2]),
            // Record route, with room for one; padding in IPv6.
            ip_options: options(
                how & 16,
                if v6 { &[1, 4, 0, 0, 0, 0] } else { &[7, 7, 4, 0, 0, 0, 0, 0] },
            ),
            payload: usize::from(payload) * 8,
        };
        let port = how >> 7;
        self.arrive(Arrival::new(port, packet.frame(self.workers.mac(port)), true));
    }

    /// The packet that the next hop sends back: ends swapped. Answers of
    /// FULLNAT and NAT come by the port that the request left by.
    fn answer(&mut self, input: &mut Input<'_>) {
        let (index, flags) = (input.byte(), input.byte());
        let Some((port, mut bytes)) = self.workers.sent(index.into()).cloned() else { return };
        let Some(layout) = packets::layout(&bytes) else { return };
        let packets::Layout { l3, v6, l4, protocol, .. } = layout;
        bytes.copy_within(6..12, 0);
        let (src, dst, len) = if v6 { (l3 + 8, l3 + 24, 16) } else { (l3 + 12, l3 + 16, 4) };
        swap(&mut bytes, src, dst, len);
        if matches!(protocol, TCP | UDP | SCTP) && l4 + 14 <= bytes.len() {
            swap(&mut bytes, l4, l4 + 2, 2);
            if protocol == TCP {
                // What was received is acknowledged.
                swap(&mut bytes, l4 + 4, l4 + 8, 4);
                bytes[l4 + 13] = flags;
            }
        }
        bytes[l3 + if v6 { 7 } else { 8 }] = 64;
        packets::fix(&mut bytes);
        self.arrive(Arrival::new(port, bytes, true));
    }

    fn icmp_error(&mut self, input: &mut Input<'_>) {
        let (index, kind) = (input.byte(), (input.byte() % 16, input.byte() % 16));
        let (mtu, len) = (input.word(), usize::from(input.byte()) * 4);
        let Some((port, bytes)) = self.workers.sent(index.into()).cloned() else { return };
        let Some(layout) = packets::layout(&bytes) else { return };
        let packet = &bytes[layout.l3..layout.end];
        let (router, sender) = world::ends(port, packet);
        let packet = &packet[..len.min(packet.len())];
        let mac = self.workers.mac(port);
        let bytes = error(mac, (router, sender), kind, mtu, packet);
        self.arrive(Arrival::new(port, bytes, false));
    }

    fn damage(&mut self, input: &mut Input<'_>) {
        let (offset, value, repair) = (usize::from(input.byte()), input.byte(), input.byte());
        let Some(arrival) = self.burst.last_mut() else { return };
        if let Some(byte) = arrival.bytes.get_mut(offset) {
            *byte = value;
        }
        if repair % 2 == 1 {
            packets::fix(&mut arrival.bytes);
        }
        arrival.good = false;
    }

    fn fragment(&mut self, input: &mut Input<'_>) {
        let (cut, id, order) = (input.byte(), input.byte(), input.byte());
        let Some(whole) = self.burst.last() else { return };
        let port = whole.port;
        let mut pieces = fragments(&whole.bytes, usize::from(cut) * 8, id.into());
        if order % 2 == 1 {
            pieces.reverse();
        }
        if !pieces.is_empty() {
            self.burst.pop();
        }
        for piece in pieces {
            self.arrive(Arrival::new(port, piece, false));
        }
    }
}

fn swap(bytes: &mut [u8], a: usize, b: usize, len: usize) {
    for i in 0..len {
        bytes.swap(a + i, b + i);
    }
}

fn settings(bits: u8) -> Settings {
    let bit = |n: u8| bits & (1 << n) != 0;
    Settings {
        expire_nodest_conn: bit(0),
        expire_quiescent_template: bit(1),
        conn_reuse_mode: u8::from(bit(2)),
        sloppy_tcp: bit(3),
        sloppy_sctp: bit(4),
        nat_icmp_send: bit(5),
        schedule_icmp: bit(6),
        pmtu_disc: !bit(7),
    }
}

/// The methods that an edit gives a server, by number.
fn is_two_sided(method: Method) -> bool {
    matches!(method, Method::Nat | Method::Fullnat)
}
