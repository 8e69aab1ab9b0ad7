//! TCP packets of connections that have no entry, in a service that takes them
//! up (`take_up`): another director had them, or this one before it ended. The
//! scheduler finds the server again, as it chooses by the client alone (mh).
//!
//! Whether there is a connection at all, one packet does not tell: anyone can
//! send it. So what is taken up begins as a half-open connection, SYN_RECV, and
//! becomes ESTABLISHED with the client's next packet. A flood of ACKs then costs
//! what a flood of SYNs does, and makes room in a full table in the same way.

use super::{Context, Core, Verdict};
use crate::conn::State;
use crate::packet::headers::tcp;
use crate::packet::{Headers, Protocol};
use crate::punt::PuntKind;
use crate::service::Service;

/// Whether a packet without an entry is one in the middle of a connection that
/// the service takes up.
pub(super) fn is_middle(service: &Service, headers: &Headers) -> bool {
    service.take_up
        && headers.protocol == Protocol::Tcp
        && !headers.later_fragment
        && State::keeps_established(headers.tcp_flags)
}

impl Core {
    /// [`Core::may_open`] for TCP where the service takes connections up.
    ///
    /// A FIN opens, too: its entry is in CLOSE for some seconds, and the ACK that
    /// ends the connection does not open another one.
    pub(super) fn may_take_up(
        &mut self,
        cx: Context<'_>,
        headers: &Headers,
    ) -> Result<bool, Verdict> {
        if headers.later_fragment || headers.tcp_flags & tcp::RST != 0 {
            // For the server to know; there is nothing to remember.
            return Ok(false);
        }
        // All but the first packet of a connection have ACK (RFC 9293, 3.1).
        if headers.tcp_flags & (tcp::SYN | tcp::ACK) == 0 {
            return Err(self.punt(cx.now, PuntKind::Tcp));
        }
        Ok(true)
    }
}
