//! The kernel's side of the world: links, addresses, routes and neighbours,
//! mirrored by rtnetlink, and the few things that rvsd asks of the kernel.
//!
//! Everything here belongs to the control thread; nothing is shared.
//!
//! - [`Monitor`] owns the socket that hears of changes and feeds the
//!   [`Mirror`], the tables in memory that answer "where does this packet go".
//! - [`Requests`] owns a second socket for what is asked and acknowledged, so
//!   that an answer never waits behind a dump of a million routes.
//! - [`OwnedAddresses`] and [`KeptNeighbours`] remember what rvsd added, so
//!   that it removes that and nothing else.
//! - [`Announcements`] say where those addresses are when they come up.
//! - [`MissingNeighbours`] asks the kernel for neighbours that workers report.
//!
//! Only the tables `main` and `local` are followed: policy rules (`ip rule`)
//! and VRFs are not.

mod announce;
mod decode;
mod event;
mod kept;
mod mirror;
mod missing;
mod netlink;
mod owned;
mod requests;
mod routes;

pub use announce::{Announcements, frame as announcement};
pub use event::{
    Address, Event, Link, Neighbour, NeighbourState, NextHop, Placement, Route, RouteKind, Table,
};
pub use kept::KeptNeighbours;
pub use mirror::{Mirror, NoRoute, Path, Resolved};
pub use missing::MissingNeighbours;
pub use netlink::{Fault, Monitor, MonitorStats, NetlinkError, Progress};
pub use owned::{OwnedAddress, OwnedAddresses, OwnedError};
pub use requests::{Added, Deleted, KernelNeighbour, Requests};
pub use routes::ListedRoute;
