//! What a worker counts. Every packet that enters a worker leaves it in exactly
//! one way, and the counters say so:
//!
//! `rx + taken_over + injected + generated
//!  = tx + punted + handed_off + held + sum(drops)`
//!
//! A worker counts in plain integers ([`Counters`]) and publishes them once per
//! loop ([`Published`]), so that a reader always sees a set for which the
//! equation holds.

use std::sync::atomic::{AtomicU64, Ordering, fence};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a packet was dropped. The names are part of the interface:
        /// `rvsadm show drops`, metrics and docs/drops.md use them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in listings and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its Ethernet header.
    EthShort = "eth_short",
    /// Unicast to a MAC address that is not the port's.
    EthOtherHost = "eth_other_host",
    /// Tagged with a VLAN that the port does not carry.
    VlanUnknown = "vlan_unknown",
    /// IPv4 packet longer than the frame that brought it.
    Ip4Truncated = "ip4_truncated",
    /// IPv4 version, header length or total length impossible.
    Ip4BadHeader = "ip4_bad_header",
    /// IPv4 header checksum wrong.
    Ip4BadChecksum = "ip4_bad_checksum",
    /// Source address that cannot be a host's: loopback, multicast, 0/8, 240/4.
    IpMartian = "ip_martian",
    /// IPv6 packet longer than the frame that brought it.
    Ip6Truncated = "ip6_truncated",
    /// IPv6 version wrong, or an extension header that ends past the packet.
    Ip6BadHeader = "ip6_bad_header",
    /// More IPv6 extension headers than RVS follows.
    Ip6TooManyHeaders = "ip6_too_many_headers",
    /// No room for the TCP or UDP header.
    L4Truncated = "l4_truncated",
    /// IPv4 options that end past the header or contradict themselves.
    Ip4BadOptions = "ip4_bad_options",
    /// IPv4 packet that asks to be routed by its source.
    Ip4SourceRoute = "ip4_source_route",
    /// Fragment whose datagram's first fragment never came.
    FragmentTimeout = "fragment_timeout",
    /// Fragment of a datagram for which the fragment table had no room.
    FragmentTableFull = "fragment_table_full",
    /// Fragment whose datagram's first fragment left no connection.
    FragmentNoConnection = "fragment_no_connection",
    /// ICMP error that is too short, or whose checksum is wrong.
    IcmpBad = "icmp_bad",
    /// ICMP error about a packet that no connection sent.
    IcmpNoConnection = "icmp_no_connection",
    /// TTL or hop limit used up.
    TtlExpired = "ttl_expired",
    /// TCP RST to a virtual service without a connection.
    TcpRstNoConnection = "tcp_rst_no_connection",
    /// Packet of a NAT server without a connection, while `nat_icmp_send` is
    /// set.
    NatNoConnection = "nat_no_connection",
    /// New NAT connection, but another service's connection from the same
    /// client and port to the same server would get the replies.
    NatAmbiguous = "nat_ambiguous",
    /// New connection of a persistent service, but the table of templates is
    /// full.
    TemplatesFull = "templates_full",
    /// New connection of a persistent service, while other workers changed the
    /// template.
    TemplateBusy = "template_busy",
    /// The port has no address of the family that a tunnel needs.
    NoSource = "no_source",
    /// New FULLNAT connection, but no local address has a port left for it.
    NoLocalPort = "no_local_port",
    /// No way to say in the server's address family what the packet says.
    NoTranslation = "no_translation",
    /// The buffer has no room for the headers to be added.
    NoHeadroom = "no_headroom",
    /// New connection, but no server with a weight.
    NoServer = "no_server",
    /// No route to the server through any port.
    NoRoute = "no_route",
    /// The server's or gateway's MAC address is not known (yet).
    NoNextHop = "no_next_hop",
    /// Packet of a connection whose server was deleted.
    ServerDeleted = "server_deleted",
    /// Longer than the MTU of the port it would leave by.
    TooBig = "too_big",
    /// New connection, but the table is full.
    TableFull = "table_full",
    /// The ring to the worker that owns the connection was full.
    HandoffFull = "handoff_full",
    /// The port's transmit queue was full.
    TxFull = "tx_full",
    /// ARP or neighbour discovery beyond `punt.neighbour`.
    PuntLimitedNeighbour = "punt_limited_neighbour",
    /// VRRP, OSPF, BGP or BFD beyond `punt.routing`.
    PuntLimitedRouting = "punt_limited_routing",
    /// TCP to the host beyond `punt.tcp`.
    PuntLimitedTcp = "punt_limited_tcp",
    /// Other packets to the host beyond `punt.other`.
    PuntLimitedOther = "punt_limited_other",
    /// The ring to the kernel path was full.
    PuntFull = "punt_full",
}

/// A worker's own counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// Packets from receive queues.
    pub rx: u64,
    /// Packets that other workers handed over.
    pub taken_over: u64,
    /// Packets from the kernel.
    pub injected: u64,
    /// Packets that the director made: ICMP errors, fragments of packets too
    /// long, fragments that were held.
    pub generated: u64,
    /// Packets given to a transmit queue.
    pub tx: u64,
    /// Packets given to the kernel path.
    pub punted: u64,
    /// Packets given to the worker that owns them.
    pub handed_off: u64,
    /// Packets taken in whose bytes go on as others: fragments that are held,
    /// packets sent in fragments, ICMP errors about tunnels.
    pub held: u64,
    /// Packets dropped, by [`DropReason`].
    pub drops: [u64; DropReason::ALL.len()],
    /// Connections in the tables now.
    pub connections: u64,
    /// Connections that aged out so far.
    pub expired: u64,
    /// Half-open connections that made room for others in a full table.
    pub recycled: u64,
    /// Packets forwarded without a connection because the table was full (mh).
    pub stateless: u64,
    /// Connections that were taken up in their middle (`take_up`).
    pub taken_up: u64,
    /// Places taken in the IPv4 and in the IPv6 connection table: a connection
    /// under NAT or FULLNAT has two.
    pub entries: [u64; 2],
    /// Ticks of the time stamp counter spent on rounds that had packets.
    pub busy_cycles: u64,
    /// Those rounds.
    pub busy_rounds: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self::from_words([0; WORDS])
    }
}

impl Counters {
    /// Counts a dropped packet.
    pub fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    /// Counts dropped packets.
    pub fn drop_many(&mut self, reason: DropReason, packets: u64) {
        self.drops[reason as usize] += packets;
    }

    /// Packets dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Whether every packet that came has gone one way: the equation of this
    /// module. True whenever no packet is in the worker's hands.
    #[must_use]
    pub fn balanced(&self) -> bool {
        self.rx + self.taken_over + self.injected + self.generated
            == self.tx + self.punted + self.handed_off + self.held + self.drops.iter().sum::<u64>()
    }

    /// All but the drops.
    const fn fixed(&self) -> [u64; FIXED] {
        [
            self.rx,
            self.taken_over,
            self.injected,
            self.generated,
            self.tx,
            self.punted,
            self.handed_off,
            self.held,
            self.connections,
            self.expired,
            self.recycled,
            self.stateless,
            self.taken_up,
            self.entries[0],
            self.entries[1],
            self.busy_cycles,
            self.busy_rounds,
        ]
    }

    fn from_words(words: [u64; WORDS]) -> Self {
        let [rx, taken_over, injected, generated, rest @ ..] = words;
        let [tx, punted, handed_off, held, rest @ ..] = rest;
        let [connections, expired, recycled, stateless, rest @ ..] = rest;
        let [taken_up, entries4, entries6, busy_cycles, busy_rounds, drops @ ..] = rest;
        Self {
            rx,
            taken_over,
            injected,
            generated,
            tx,
            punted,
            handed_off,
            held,
            drops,
            connections,
            expired,
            recycled,
            stateless,
            taken_up,
            entries: [entries4, entries6],
            busy_cycles,
            busy_rounds,
        }
    }
}

const FIXED: usize = 17;
const WORDS: usize = FIXED + DropReason::ALL.len();

/// A worker's counters as other threads read them: a sequence lock with one
/// writer. The writer never waits; a reader retries when it was overtaken.
#[derive(Debug)]
pub struct Published {
    /// Odd while the writer is at it.
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl Default for Published {
    fn default() -> Self {
        Self { sequence: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
    }
}

impl Published {
    /// Publishes a set. To be called by the one worker that owns it.
    pub fn publish(&self, counters: &Counters) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        // Orders the odd sequence before the words for a reader's fence.
        fence(Ordering::Release);
        let (fixed, drops) = self.words.split_at(FIXED);
        for (shared, word) in fixed.iter().zip(counters.fixed()) {
            shared.store(word, Ordering::Relaxed);
        }
        for (shared, word) in drops.iter().zip(&counters.drops) {
            shared.store(*word, Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    /// How many times a set was published: the loops of a worker, which go on
    /// without packets.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed) / 2
    }

    /// The set published last.
    #[must_use]
    pub fn read(&self) -> Counters {
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            let words = std::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before % 2 == 0 && self.sequence.load(Ordering::Relaxed) == before {
                return Counters::from_words(words);
            }
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<_> =
            DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }

    #[test]
    fn what_is_published_is_read() {
        let published = Published::default();
        let mut counters = Counters {
            rx: 5,
            tx: 3,
            connections: 7,
            entries: [8, 6],
            busy_cycles: 1000,
            busy_rounds: 20,
            ..Default::default()
        };
        counters.drop_many(DropReason::PuntFull, 2);
        assert_eq!(published.rounds(), 0);
        published.publish(&counters);
        assert_eq!(published.rounds(), 1);
        assert_eq!(published.read(), counters);
        assert!(counters.balanced());
        counters.rx += 1;
        assert!(!counters.balanced());
    }

    /// A reader beside a busy writer only ever sees sets that add up.
    #[test]
    fn readers_never_see_half_a_set() {
        let published = Published::default();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut counters = Counters::default();
                for _ in 0..200_000 {
                    counters.rx += 2;
                    counters.tx += 1;
                    counters.drop(DropReason::PuntFull);
                    published.publish(&counters);
                }
            });
            while !writer.is_finished() {
                assert!(published.read().balanced());
            }
        });
        assert_eq!(published.read().rx, 400_000);
    }
}
