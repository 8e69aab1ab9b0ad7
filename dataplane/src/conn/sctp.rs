//! The states of an SCTP association, as far as the chunks that pass tell them.
//!
//! The names and timeouts are kernel IPVS's, the rules RFC 9260's. A state says
//! where the server stands in the diagram of section 4 by what was seen last; a
//! server that was asked keeps nothing before it has its cookie back (section
//! 5.1.3), so the steps of a client's set-up have states of their own:
//!
//! | opened by | INIT | INIT ACK | COOKIE ECHO | COOKIE ACK |
//! |---|---|---|---|---|
//! | client | INIT1, repeated INIT | C-SENT | C-REPLIED | ESTABLISHED |
//! | server | C-WAIT | COOKIE | C-ECHOED | ESTABLISHED |
//!
//! A shutdown begins in S-RECEIVED (the client's) or S-SENT (the server's),
//! goes on in S-ACK-SENT and ends in CLOSED. REJECTED is a set-up that the one
//! who was asked refused.
//!
//! - **Set-up** (section 5.1): each chunk leads to its state wherever it may
//!   follow; packets between may have been missed. An INIT begins again. A side
//!   that opened, too, changes nothing by that (5.2.1): the first COOKIE ACK
//!   ends both. An INIT ACK for somebody who has sent the cookie back is
//!   ignored (5.2.3).
//! - **Restart**: an INIT within an association changes nothing (5.2.2), nor
//!   does the COOKIE ECHO, which may be a repeated one (5.2.4). The answer
//!   does: who sends COOKIE ACK has an association, also where a shutdown had
//!   begun.
//! - **Refusal**: an ABORT of the side that was asked (5.1), or its ERROR in
//!   answer to the cookie, which is stale (5.2.6). Any other ERROR changes
//!   nothing (3.3.10).
//! - **Shutdown** (9.2): who sends SHUTDOWN has an association, so one that
//!   comes during the set-up's first half is an old one. Where a SHUTDOWN stood
//!   behind a SACK it was not seen; SHUTDOWN ACK and SHUTDOWN COMPLETE count
//!   without. During a set-up they are about an association that was before
//!   (8.5.1, rule E).
//! - **End**: ABORT (9.1) or SHUTDOWN COMPLETE. Then only an INIT begins anew:
//!   what else comes was under way.
//! - Other chunks, known or not, change nothing. The first one of an association
//!   that was not there (`sloppy_sctp`) is one of an ESTABLISHED one.
//!
//! Under DR and TUN the client's chunks are all there is. The rules are the
//! same, but that a COOKIE ECHO counts for the COOKIE ACK that follows.
//!
//! Verification tags are not looked at: an endpoint may ignore what changed the
//! state here. It is no harm: states decide about timeouts, counts, and whether
//! an INIT is scheduled anew, not about which packets pass.

use super::state::State;
use crate::packet::headers::sctp::{
    ABORT, COOKIE_ACK, COOKIE_ECHO, ERROR, INIT, INIT_ACK, SHUTDOWN, SHUTDOWN_ACK,
    SHUTDOWN_COMPLETE,
};

/// Whose chunk it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The client's, where the server's pass, too (NAT, FULLNAT).
    Client,
    /// The client's, where the server's do not pass (DR, TUN).
    ClientAlone,
    /// The server's.
    Server,
}

/// The state after a chunk of this type.
pub(super) const fn after(state: State, chunk: u8, sender: Sender) -> State {
    use Sender::{Client, ClientAlone, Server};
    use State::{
        None, SctpClosed as Closed, SctpCookie as Cookie, SctpCookieEchoed as CookieEchoed,
        SctpCookieReplied as CookieReplied, SctpCookieSent as CookieSent,
        SctpCookieWait as CookieWait, SctpEstablished as Established, SctpInit as Init,
        SctpInit1 as Init1, SctpRejected as Rejected, SctpShutdownAckSent as ShutdownAckSent,
        SctpShutdownReceived as ShutdownReceived, SctpShutdownSent as ShutdownSent,
    };
    match (chunk, state, sender) {
        (ABORT, Init1 | Init | CookieSent | CookieReplied, Server)
        | (ABORT, CookieWait | Cookie | CookieEchoed, Client | ClientAlone)
        | (ABORT, Rejected, _)
        | (ERROR, CookieReplied, Server)
        | (ERROR, CookieEchoed, Client | ClientAlone) => Rejected,
        (ABORT, ..) => Closed,

        (INIT, None | Rejected | Closed, Client | ClientAlone) => Init1,
        (INIT, Init1 | Init | CookieSent | CookieReplied, Client | ClientAlone) => Init,
        (INIT, None | Rejected | Closed | CookieWait | Cookie | CookieEchoed, Server) => CookieWait,
        (_, Closed, _) => Closed,

        (INIT_ACK, None | Init1 | Init | CookieWait | Cookie, Server) => CookieSent,
        (INIT_ACK, None | Init1 | Init | CookieWait | CookieSent, Client | ClientAlone) => Cookie,

        (COOKIE_ECHO, _, ClientAlone) => Established,
        (
            COOKIE_ECHO,
            None | Init1 | Init | CookieSent | CookieWait | Cookie | Rejected,
            Client | Server,
        ) => match sender {
            Server => CookieEchoed,
            _ => CookieReplied,
        },
        (COOKIE_ACK, Rejected, _) => Rejected,
        (COOKIE_ACK, ..) => Established,

        (SHUTDOWN, None | CookieReplied | CookieEchoed | Established, Server) => ShutdownSent,
        (SHUTDOWN, None | CookieReplied | CookieEchoed | Established, _) => ShutdownReceived,
        (SHUTDOWN_ACK, None | Established | ShutdownSent | ShutdownReceived, _) => ShutdownAckSent,
        (
            SHUTDOWN_COMPLETE,
            None | Established | ShutdownSent | ShutdownReceived | ShutdownAckSent,
            _,
        ) => Closed,

        (_, None, _) => Established,
        _ => state,
    }
}
