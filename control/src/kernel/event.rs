//! What the kernel can tell us, as plain values: the input of the mirror.

use std::net::IpAddr;
use std::sync::Arc;

/// One change of the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new or has changed.
    Link(Link),
    /// The link with this index is gone, and with it all that hung on it.
    LinkGone(u32),
    /// An address is new or has changed.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route is new, or takes the place of another.
    Route(Route, Placement),
    /// A route, or the named next hops of an IPv6 route, is gone.
    RouteGone(Route),
    /// A neighbour is new or has changed.
    Neighbour(Neighbour),
    /// A neighbour entry is gone.
    NeighbourGone {
        /// Index of its link.
        link: u32,
        /// Its address.
        ip: IpAddr,
    },
    /// The next-hop object with this id was replaced or deleted. Routes that
    /// use it may have changed without a message of their own.
    NextHopObject(u32),
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The kernel's index.
    pub index: u32,
    /// The name; it can change while the index stays.
    pub name: Arc<str>,
    /// The Ethernet address, where there is one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Switched on by the administrator (IFF_UP).
    pub up: bool,
    /// The wire is there (IFF_LOWER_UP).
    pub carrier: bool,
}

impl Link {
    /// Whether packets can leave by it.
    pub fn usable(&self) -> bool {
        self.up && self.carrier
    }
}

/// An address of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Index of its link.
    pub link: u32,
    /// The local address (IFA_LOCAL).
    pub ip: IpAddr,
    /// Length of its prefix.
    pub prefix_len: u8,
}

/// Which table a route is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// The kernel's own table of local and broadcast addresses; it wins over
    /// `main` where both have the same prefix.
    Local,
    /// The table that `ip route` shows.
    Main,
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteKind {
    /// Forwards it to a next hop.
    Unicast,
    /// Delivers it to this machine (also anycast).
    Local,
    /// Broadcast or multicast.
    NotUnicast,
    /// Drops it without a word.
    Blackhole,
    /// Answers "unreachable".
    Unreachable,
    /// Answers "prohibited".
    Prohibit,
    /// Ends the search in this table.
    Throw,
    /// Encapsulates it (lwtunnel), which the mirror does not follow.
    Tunnel,
}

impl RouteKind {
    /// Its name in listings.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Local => "local",
            Self::NotUnicast => "broadcast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
            Self::Throw => "throw",
            Self::Tunnel => "tunnel",
        }
    }
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the link that it leaves by.
    pub link: u32,
    /// The gateway, of either family; none where the destination is on the
    /// link itself.
    pub gateway: Option<IpAddr>,
}

/// A route of the `main` or `local` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// First address of the prefix; its family is the route's.
    pub destination: IpAddr,
    /// Length of the prefix.
    pub prefix_len: u8,
    /// Its table.
    pub table: Table,
    /// The priority; the lowest wins.
    pub metric: u32,
    /// What it does.
    pub kind: RouteKind,
    /// The path MTU set on the route, 0 for none.
    pub mtu: u32,
    /// The next hops; several for a multipath route.
    pub hops: Vec<NextHop>,
    /// The preferred source address, whose deletion takes the route along.
    pub source: Option<IpAddr>,
    /// The next-hop object that it refers to.
    pub object: Option<u32>,
}

/// Where a new route goes among those of the same prefix and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Before them: `ip route add` and `prepend`.
    First,
    /// After them: `ip route append`, and the order of a dump.
    Last,
    /// In the place of one: `ip route replace` and `change`.
    Replace,
}

/// A neighbour entry: who answers for an address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of its link.
    pub link: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its Ethernet address, where one is known. It can be a stale one: see
    /// [`Neighbour::usable_mac`].
    pub mac: Option<[u8; 6]>,
    /// Its state.
    pub state: NeighbourState,
}

impl Neighbour {
    /// The Ethernet address, if the kernel itself would send to it now.
    pub fn usable_mac(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.state.usable())
    }
}

/// The kernel's NUD state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeighbourState {
    /// Not looked for yet.
    None,
    /// Being looked for.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, not confirmed lately.
    Stale,
    /// About to be confirmed.
    Delay,
    /// Being confirmed.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution.
    NoArp,
    /// Set by hand.
    Permanent,
}

impl NeighbourState {
    /// The name that `ip neighbour` has, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Incomplete => "incomplete",
            Self::Reachable => "reachable",
            Self::Stale => "stale",
            Self::Delay => "delay",
            Self::Probe => "probe",
            Self::Failed => "failed",
            Self::NoArp => "noarp",
            Self::Permanent => "permanent",
        }
    }

    fn usable(self) -> bool {
        match self {
            Self::Reachable | Self::Stale | Self::Delay | Self::Probe => true,
            Self::NoArp | Self::Permanent => true,
            Self::None | Self::Incomplete | Self::Failed => false,
        }
    }

    /// Whether an administrator or the link set it, so that the kernel never
    /// asks for it on the wire.
    pub fn fixed(self) -> bool {
        matches!(self, Self::NoArp | Self::Permanent)
    }
}
