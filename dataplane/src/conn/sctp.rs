//! The SCTP state machine: what a director can tell of an association from the
//! chunks that pass it (RFC 9260, section 4; chunk types in section 3.2).
//!
//! States have the names of kernel IPVS and tell the server's view. An
//! association in its normal life goes
//!
//! | | both sides pass (NAT, FULLNAT) | the client's alone (DR, TUN) |
//! |---|---|---|
//! | INIT | INIT1; sent again: INIT | INIT1; sent again: INIT |
//! | INIT-ACK | C-SENT | |
//! | COOKIE-ECHO | C-REPLIED | ESTABLISHED |
//! | COOKIE-ACK | ESTABLISHED | |
//! | SHUTDOWN of the client | S-RECEIVED | S-RECEIVED |
//! | SHUTDOWN-ACK of the server | S-ACK-SENT | |
//! | SHUTDOWN-COMPLETE | CLOSED | CLOSED |
//! | SHUTDOWN of the server | S-SENT | |
//! | SHUTDOWN-ACK of the client | CLOSED | CLOSED |
//! | ABORT | CLOSED; of the server in INIT1: REJECTED | CLOSED |
//!
//! A chunk out of its turn changes nothing, with the exceptions that the kernel
//! makes. Where the server's packets are not seen, the states to which only
//! those lead do not occur: a connection that has one (its server's method was
//! changed) keeps it until the client sets up or ends the association.

use super::State;
use super::State::{
    None, SctpClosed as Closed, SctpCookie as Cookie, SctpCookieEchoed as CookieEchoed,
    SctpCookieReplied as CookieReplied, SctpCookieSent as CookieSent, SctpCookieWait as CookieWait,
    SctpEstablished as Established, SctpInit as Init, SctpInit1 as Init1, SctpRejected as Rejected,
    SctpShutdownAckSent as ShutdownAckSent, SctpShutdownReceived as ShutdownReceived,
    SctpShutdownSent as ShutdownSent,
};
use crate::packet::headers::sctp;

/// The state after a client's packet, where both sides' packets pass the
/// director.
pub(super) const fn after_client(state: State, chunk: u8) -> State {
    match (chunk, state) {
        (sctp::INIT, None) => Init1,
        (sctp::INIT, Init1 | Rejected | Closed) => Init,
        // The server opened the association.
        (sctp::INIT_ACK, None | Init1 | Init) => CookieWait,
        (sctp::INIT_ACK, CookieWait) => Cookie,
        (sctp::COOKIE_ECHO, None | CookieSent) => CookieReplied,
        (sctp::COOKIE_ECHO, Init1) => Init,
        (sctp::COOKIE_ACK, None | CookieEchoed) => Established,
        (sctp::SHUTDOWN, None | Established) => ShutdownReceived,
        (sctp::SHUTDOWN_ACK, None | ShutdownSent | ShutdownAckSent) => Closed,
        (sctp::SHUTDOWN_ACK, Init1) => Init,
        (sctp::SHUTDOWN_COMPLETE, None | Init1 | Init | ShutdownAckSent) => Closed,
        (sctp::ERROR, None | CookieEchoed) => Closed,
        (sctp::ABORT, CookieWait) => Rejected,
        (sctp::ABORT, _) => Closed,
        (chunk, None) if is_traffic(chunk) => Established,
        _ => state,
    }
}

/// The state after a server's packet.
pub(super) const fn after_server(state: State, chunk: u8) -> State {
    // The association is not being set up, or no more.
    let over =
        matches!(state, ShutdownSent | ShutdownReceived | ShutdownAckSent | Rejected | Closed);
    // The server has not sent a cookie, an INIT or anything later.
    let early = matches!(state, None | Init1 | Init | CookieSent);
    match (chunk, state) {
        (sctp::INIT, Established) => Established,
        (sctp::INIT, _) => CookieWait,
        (sctp::INIT_ACK, _) if early => CookieSent,
        (sctp::COOKIE_ECHO, Established) => Established,
        (sctp::COOKIE_ECHO, _) if !over => CookieEchoed,
        (sctp::COOKIE_ACK, _) if !over => Established,
        (sctp::SHUTDOWN, _) if !over => ShutdownSent,
        (sctp::SHUTDOWN_ACK, CookieReplied | ShutdownSent | ShutdownReceived) => ShutdownAckSent,
        (sctp::SHUTDOWN_ACK, _) if early => ShutdownAckSent,
        (sctp::SHUTDOWN_COMPLETE, None) => Closed,
        (sctp::ERROR, CookieReplied) => Closed,
        (sctp::ERROR, _) if early => Closed,
        // It does not want the association.
        (sctp::ABORT, Init1) => Rejected,
        (sctp::ABORT, _) => Closed,
        (chunk, None) if is_traffic(chunk) => Established,
        _ => state,
    }
}

/// The state after a client's packet, where the server's packets do not pass
/// the director.
pub(super) const fn after_client_only(state: State, chunk: u8) -> State {
    let opening = matches!(state, None | Init1 | Init | CookieSent | CookieReplied | CookieWait);
    match (chunk, state) {
        (sctp::INIT, None) => Init1,
        (sctp::INIT, Rejected | Closed) => Init,
        (sctp::INIT, _) if opening => Init,
        // The server opened, and its COOKIE-ECHO is not seen.
        (sctp::INIT_ACK, _) if opening => CookieEchoed,
        (sctp::COOKIE_ECHO, _) if opening => Established,
        (sctp::COOKIE_ACK, None | CookieSent | CookieReplied | Cookie | CookieEchoed) => {
            Established
        }
        (sctp::SHUTDOWN, None | Established) => ShutdownReceived,
        // The server's SHUTDOWN is not seen.
        (sctp::SHUTDOWN_ACK, None | Established | ShutdownSent | ShutdownAckSent) => Closed,
        (sctp::SHUTDOWN_ACK, Init1) => Init,
        (sctp::SHUTDOWN_COMPLETE, ShutdownReceived | ShutdownAckSent) => Closed,
        (sctp::SHUTDOWN_COMPLETE, None | Init1 | Init | CookieSent | CookieReplied) => Closed,
        (sctp::ERROR, None) => Closed,
        (sctp::ABORT, CookieWait) => Rejected,
        (sctp::ABORT, _) => Closed,
        (chunk, None | CookieWait) if is_traffic(chunk) => Established,
        _ => state,
    }
}

/// Whether a chunk belongs to no change of state: DATA, SACK, HEARTBEAT, ECNE,
/// CWR, and all that later documents add. Seen first, with `sloppy_sctp` or
/// after a restart, it tells of an association that is there.
const fn is_traffic(chunk: u8) -> bool {
    !matches!(
        chunk,
        sctp::INIT
            | sctp::INIT_ACK
            | sctp::ABORT
            | sctp::SHUTDOWN
            | sctp::SHUTDOWN_ACK
            | sctp::ERROR
            | sctp::COOKIE_ECHO
            | sctp::COOKIE_ACK
            | sctp::SHUTDOWN_COMPLETE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the states that a life goes through: `c` a chunk of the
    /// client, `s` one of the server; in the first column where both are seen,
    /// in the second where only the client's are.
    #[test]
    fn lives_go_through_the_states_of_the_kernel() {
        let rows = [
            (
                "c:INIT s:INIT-ACK c:COOKIE-ECHO s:COOKIE-ACK c:DATA s:SACK",
                "INIT1 C-SENT C-REPLIED ESTABLISHED ESTABLISHED ESTABLISHED",
                "INIT1 ESTABLISHED ESTABLISHED",
            ),
            ("c:INIT c:INIT c:INIT", "INIT1 INIT INIT", "INIT1 INIT INIT"),
            (
                "c:INIT c:INIT s:INIT-ACK c:COOKIE-ECHO s:COOKIE-ACK",
                "INIT1 INIT C-SENT C-REPLIED ESTABLISHED",
                "INIT1 INIT ESTABLISHED",
            ),
            ("c:INIT s:ABORT", "INIT1 REJECTED", "INIT1"),
            ("c:INIT s:ABORT c:INIT s:INIT-ACK", "INIT1 REJECTED INIT C-SENT", "INIT1 INIT"),
            ("c:INIT c:ABORT c:INIT", "INIT1 CLOSED INIT", "INIT1 CLOSED INIT"),
            // The client ends it.
            (
                "c:DATA c:SHUTDOWN s:SHUTDOWN-ACK c:SHUTDOWN-COMPLETE",
                "ESTABLISHED S-RECEIVED S-ACK-SENT CLOSED",
                "ESTABLISHED S-RECEIVED CLOSED",
            ),
            // The server does.
            (
                "c:DATA s:SHUTDOWN c:SHUTDOWN-ACK s:SHUTDOWN-COMPLETE",
                "ESTABLISHED S-SENT CLOSED CLOSED",
                "ESTABLISHED CLOSED",
            ),
            ("c:DATA s:ABORT", "ESTABLISHED CLOSED", "ESTABLISHED"),
            ("c:DATA c:ABORT", "ESTABLISHED CLOSED", "ESTABLISHED CLOSED"),
            // The server opens.
            (
                "s:INIT c:INIT-ACK s:COOKIE-ECHO c:COOKIE-ACK",
                "C-WAIT COOKIE C-ECHOED ESTABLISHED",
                "C-ECHOED ESTABLISHED",
            ),
            ("s:INIT c:ABORT", "C-WAIT REJECTED", "CLOSED"),
            // Out of turn: an INIT of a client that lost its memory, a cookie
            // too late, an error report amidst of data.
            (
                "c:DATA c:INIT s:INIT-ACK c:COOKIE-ECHO s:COOKIE-ACK c:ERROR s:ERROR",
                "ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED \
                 ESTABLISHED",
                "ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED",
            ),
            (
                "c:INIT s:INIT-ACK c:COOKIE-ECHO s:ERROR",
                "INIT1 C-SENT C-REPLIED CLOSED",
                "INIT1 ESTABLISHED",
            ),
            // What came after is not the association's any more.
            (
                "c:ABORT c:DATA s:DATA c:SHUTDOWN",
                "CLOSED CLOSED CLOSED CLOSED",
                "CLOSED CLOSED CLOSED",
            ),
            // A chunk of a later document: I-DATA (RFC 8260).
            ("c:I-DATA", "ESTABLISHED", "ESTABLISHED"),
        ];
        let number = |chunk| match chunk {
            "DATA" => 0,
            "INIT" => 1,
            "INIT-ACK" => 2,
            "SACK" => 3,
            "ABORT" => 6,
            "SHUTDOWN" => 7,
            "SHUTDOWN-ACK" => 8,
            "ERROR" => 9,
            "COOKIE-ECHO" => 10,
            "COOKIE-ACK" => 11,
            "SHUTDOWN-COMPLETE" => 14,
            "I-DATA" => 64,
            other => panic!("no chunk {other}"),
        };
        for (life, both, client_only) in rows {
            let (mut one, mut two) = (None, None);
            let mut names = (vec![], vec![]);
            for step in life.split(' ') {
                let (side, chunk) = step.split_once(':').unwrap();
                if side == "c" {
                    one = after_client(one, number(chunk));
                    two = after_client_only(two, number(chunk));
                    names.1.push(two.name());
                } else {
                    one = after_server(one, number(chunk));
                }
                names.0.push(one.name());
            }
            assert_eq!(names.0.join(" "), both, "{life}");
            assert_eq!(names.1.join(" "), client_only, "{life}, one side");
        }
    }

    /// No chunk leads from a state of SCTP to one of TCP or UDP, or back to
    /// NONE: what the timeouts, counts and listings go by.
    #[test]
    fn sctp_stays_sctp() {
        let states = (0..=u8::MAX).map(State::from_u8).filter(|state| state.is_sctp());
        let mut seen = 0;
        for state in std::iter::once(None).chain(states) {
            for chunk in 0..=u8::MAX {
                for after in [after_client, after_server, after_client_only] {
                    let new = after(state, chunk);
                    assert!(new.is_sctp(), "{} after {chunk} is {}", state.name(), new.name());
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 14 * 256 * 3);
    }
}
