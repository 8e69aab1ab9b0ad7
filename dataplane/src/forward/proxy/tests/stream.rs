//! A client and a server that talk over a network that loses, repeats and
//! reorders, with the director in between.

use proptest::prelude::*;

use super::*;

/// The longest packet of the path to the server. The client's are not longer,
/// so that some leave no room for the header.
const MTU: u16 = 240;
const CLIENT6: ([u8; 16], u16) = ([0x20; 16], 51_000);
const SERVER6: ([u8; 16], u16) = ([0x21; 16], 8080);

/// Numbers that look random, the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Packets on their way.
#[derive(Default)]
struct Wire(Vec<Vec<u8>>);

impl Wire {
    fn send(&mut self, packet: Vec<u8>, dice: &mut Dice, lossy: bool) {
        if lossy && dice.percent(20) {
            return;
        }
        if lossy && dice.percent(10) {
            self.0.push(packet.clone());
        }
        self.0.push(packet);
    }

    fn take(&mut self, dice: &mut Dice) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return None;
        }
        let next = if dice.percent(30) { dice.below(self.0.len()) } else { 0 };
        Some(self.0.remove(next))
    }
}

/// A TCP segment as its receiver reads it.
struct Read {
    seq: u32,
    ack: u32,
    flags: u8,
    sack: Vec<(u32, u32)>,
    payload: Vec<u8>,
}

fn read_segment(packet: &[u8]) -> Read {
    assert!(verifies(packet));
    let headers = headers_of(packet);
    let end = usize::from(headers.l3 + headers.ip_len);
    let (tcp, payload) =
        etherparse::TcpHeader::from_slice(&packet[headers.l4.into()..end]).unwrap();
    let mut sack = Vec::new();
    for option in tcp.options_iterator() {
        if let etherparse::TcpOptionElement::SelectiveAcknowledgement(first, rest) = option.unwrap()
        {
            sack.push(first);
            sack.extend(rest.into_iter().flatten());
        }
    }
    let (seq, ack) = (tcp.sequence_number, tcp.acknowledgment_number);
    Read { seq, ack, flags: headers.tcp_flags, sack, payload: payload.to_vec() }
}

/// The receiving side of a TCP host.
struct Server {
    isn: u32,
    got: Vec<Option<u8>>,
    fin: Option<usize>,
}

impl Server {
    /// Bytes received without a gap.
    fn prefix(&self) -> usize {
        self.got.iter().position(Option::is_none).unwrap_or(self.got.len())
    }

    /// Takes a segment, and returns the options of the answer: what it has
    /// beyond a gap, or what came twice.
    fn receive(&mut self, segment: &Read) -> Vec<u8> {
        let before = self.prefix();
        let at = segment.seq.wrapping_sub(self.isn.wrapping_add(1)) as i32;
        // Below its first byte is a keepalive: nothing but to be answered.
        let Ok(at) = usize::try_from(at) else { return Vec::new() };
        let end = at + segment.payload.len();
        if self.got.len() < end {
            self.got.resize(end, None);
        }
        for (slot, byte) in self.got[at..end].iter_mut().zip(&segment.payload) {
            assert!(slot.is_none_or(|had| had == *byte), "a byte changed");
            *slot = Some(*byte);
        }
        if segment.flags & tcp::FIN != 0 {
            assert!(self.fin.is_none_or(|fin| fin == end), "the end moved");
            self.fin = Some(end);
        }
        let mut blocks = Vec::new();
        let number = |at: usize| self.isn.wrapping_add(1).wrapping_add(at as u32);
        if at < before && at < end {
            blocks.push((number(at), number(end.min(before))));
        }
        let prefix = self.prefix();
        if let Some(left) = (prefix..self.got.len()).find(|at| self.got[*at].is_some()) {
            let right = (left..self.got.len()).find(|at| self.got[*at].is_none());
            blocks.push((number(left), number(right.unwrap_or(self.got.len()))));
        }
        if blocks.is_empty() { Vec::new() } else { sack(&blocks, 1) }
    }

    fn ack(&self) -> u32 {
        let prefix = self.prefix();
        let fin = usize::from(self.fin == Some(prefix));
        self.isn.wrapping_add(1).wrapping_add((prefix + fin) as u32)
    }
}

struct Client {
    isn: u32,
    data: Vec<u8>,
    /// Acknowledged bytes, the FIN counted as one.
    acked: usize,
}

impl Client {
    /// What it sends next: any piece from the first byte that is not
    /// acknowledged on, cut anew each time.
    fn segment<'a>(&'a self, dice: &mut Dice, options: &'a [u8], room: usize) -> Segment<'a> {
        let first = self.isn.wrapping_add(1);
        let at = if dice.percent(50) {
            self.acked
        } else {
            (self.acked + dice.below(600)).min(self.data.len())
        };
        let at = at.min(self.data.len());
        if dice.percent(5) {
            // A keepalive.
            let seq = first.wrapping_add(at as u32).wrapping_sub(1);
            return Segment { seq, ack: 1, options, ..Segment::ACK };
        }
        let room = room - options.len();
        let len = if dice.percent(40) { room } else { dice.below(room + 1) };
        let len = if dice.percent(15) { 0 } else { len };
        let end = (at + len).min(self.data.len());
        let seq = first.wrapping_add(at as u32);
        let fin = end == self.data.len() && dice.percent(50);
        Segment { seq, ack: 1, fin, options, payload: &self.data[at..end], ..Segment::ACK }
    }

    /// Takes an answer, which must not say more than what the server has.
    fn receive(&mut self, segment: &Read, server: &Server, header_len: usize) {
        let first = self.isn.wrapping_add(1);
        let has = |at: i32| {
            usize::try_from(at).is_ok_and(|at| server.got.get(at + header_len) != Some(&None))
        };
        let ack = segment.ack.wrapping_sub(first) as i32;
        assert!(ack >= -(header_len as i32), "{ack}");
        assert!(ack <= self.data.len() as i32 + 1, "{ack}");
        if ack > 0 {
            let bytes = (ack as usize).min(self.data.len());
            assert!(server.prefix() >= bytes + header_len, "{ack} bytes, but the server has less");
        }
        for (left, right) in &segment.sack {
            let (left, right) = (left.wrapping_sub(first) as i32, right.wrapping_sub(first) as i32);
            assert!(0 <= left && left < right && right <= self.data.len() as i32);
            assert_ne!(left, ack, "what is acknowledged ends where something is missing");
            assert!((left..right).all(has), "{left}..{right}");
        }
        self.acked = self.acked.max(usize::try_from(ack).unwrap_or(0));
    }
}

/// One connection to its end. Returns how many headers went by themselves.
fn run(seed: u64, isn: u32, len: usize, v6: bool) -> usize {
    let dice = &mut Dice(seed);
    let data: Vec<u8> = (0..len).map(|_| dice.below(256) as u8).collect();
    let mut client = Client { isn, data, acked: 0 };
    let mut server = Server { isn, got: Vec::new(), fin: None };
    let mut stream = if v6 {
        Stream { isn, acked: false, client: CLIENT6.into(), vip: SERVER6.into() }
    } else {
        Stream { isn, acked: false, client: CLIENT.into(), vip: VIP.into() }
    };
    let header_len = usize::from(stream.header_len());
    let build = |segment: &Segment<'_>, reply: bool| match (v6, reply) {
        (false, false) => segment.bytes4(LOCAL, SERVER),
        (false, true) => segment.bytes4(SERVER, LOCAL),
        (true, false) => segment.bytes6(CLIENT6, SERVER6),
        (true, true) => segment.bytes6(SERVER6, CLIENT6),
    };
    let room = usize::from(MTU) - if v6 { 60 } else { 40 };
    let (mut there, mut back) = (Wire::default(), Wire::default());
    let mut apart = 0;
    let mut rounds = 0;
    while client.acked <= len {
        rounds += 1;
        assert!(rounds < 20_000, "stuck at {} of {len}", client.acked);
        let lossy = rounds < 2_000;
        let options: &[u8] = if dice.percent(50) { &[1; 12] } else { &[] };
        let packet = build(&client.segment(dice, options, room), false);
        let sent = server_bound(&packet, &stream, MTU);
        assert_eq!(sent.result, Ok(()));
        assert!(headers_of(&sent.bytes).ip_len <= MTU);
        there.send(sent.bytes, dice, lossy);
        for (_, packet) in sent.apart {
            apart += 1;
            assert!(headers_of(&packet).ip_len <= MTU);
            there.send(packet, dice, lossy);
        }
        while dice.percent(60) {
            let Some(packet) = there.take(dice) else { break };
            let options = server.receive(&read_segment(&packet));
            let answer = Segment { seq: 1, ack: server.ack(), options: &options, ..Segment::ACK };
            back.send(build(&answer, true), dice, lossy);
        }
        while dice.percent(60) {
            let Some(packet) = back.take(dice) else { break };
            let (packet, acked) = client_bound(&packet, &stream);
            let acked = acked.unwrap();
            assert!(acked || !stream.acked);
            assert!(!acked || server.prefix() >= header_len);
            stream.acked = acked;
            client.receive(&read_segment(&packet), &server, header_len);
        }
    }
    let got: Vec<u8> = server.got.iter().copied().collect::<Option<_>>().unwrap();
    assert_eq!(got[..header_len], stream.header()[..header_len]);
    assert_eq!(got[header_len..], client.data);
    assert_eq!(server.fin, Some(header_len + len));
    assert!(stream.acked);
    apart
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The server gets the header and then the client's bytes, and the client
    /// is told of its own bytes only.
    #[test]
    fn streams_arrive_behind_their_header(
        seed: u64,
        isn in prop_oneof![any::<u32>(), u32::MAX - 1000..=u32::MAX],
        len in prop_oneof![Just(0), 0..3000_usize],
        v6: bool,
    ) {
        run(seed, isn, len, v6);
    }
}

/// The model does come to segments that leave no room.
#[test]
fn the_model_sends_headers_by_themselves() {
    let apart: usize = (0..8).map(|seed| run(seed, 7, 2000, seed % 2 == 0)).sum();
    assert!(apart > 0);
}
