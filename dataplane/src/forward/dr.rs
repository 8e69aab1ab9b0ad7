//! Direct routing: the packet goes to the server as it came, at layer 2. The
//! server has the VIP on an interface that answers no ARP, and answers the
//! client without the director.

use super::{decrement_ttl, set_ethernet};
use crate::counters::DropReason;
use crate::packet::{Frame, Headers};
use crate::service::PortHop;

/// Readies a packet for the server's next hop. Changes the MAC addresses, the
/// TTL and the IPv4 header checksum, nothing else.
///
/// # Errors
/// [`DropReason::TtlExpired`]; [`DropReason::TooBig`] when the packet is longer
/// than the outgoing port's MTU; [`DropReason::NoHeadroom`] for a VLAN tag.
pub fn forward(frame: &mut Frame<'_>, headers: &Headers, hop: &PortHop) -> Result<(), DropReason> {
    if headers.ip_len > hop.mtu {
        return Err(DropReason::TooBig);
    }
    decrement_ttl(frame, headers)?;
    set_ethernet(frame, headers, hop)
}
