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
//! - **Set-up** (section 5.1): an INIT begins again. One of the other side, too,
//!   changes nothing (5.2.1): the first COOKIE ACK ends both. An INIT ACK for
//!   somebody who has sent the cookie back is ignored (5.2.3), and so is a
//!   COOKIE ACK for somebody who has not (5.2.5): without the server's word no
//!   association is ESTABLISHED.
//! - **Restart**: an INIT within an association changes nothing (5.2.2), nor
//!   does the COOKIE ECHO, which may be a repeated one. The answer does: who
//!   sends COOKIE ACK has an association, also where a shutdown had begun
//!   (5.2.4, action A).
//! - **Refusal**: an ABORT of the side that was asked (5.1), or its ERROR in
//!   answer to the cookie, which is stale (5.2.6). Any other ERROR changes
//!   nothing (3.3.10).
//! - **Shutdown** (9.2): during a set-up its chunks are about an association
//!   that was before (8.5.1, rule E). A SHUTDOWN behind a SACK is not seen; so
//!   SHUTDOWN ACK and SHUTDOWN COMPLETE count without it.
//! - **End**: ABORT (9.1) or SHUTDOWN COMPLETE. Then only an INIT begins anew:
//!   what else comes was under way.
//! - Other chunks, known or not, change nothing. The first one of an association
//!   that was not there (`sloppy_sctp`) is one of an ESTABLISHED one.
//!
//! Of several chunks in a packet one counts: an ABORT, or else the first
//! (`packet::headers::chunk_type`).
//!
//! Under DR and TUN the client's chunks are all there is. The rules are the
//! same, but that the client's COOKIE ECHO stands for the COOKIE ACK that
//! follows, and its COOKIE ACK for the COOKIE ECHO before.
//!
//! Verification tags are not looked at, as sequence numbers of TCP are not: an
//! endpoint may ignore what changed the state here.

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

        (
            COOKIE_ECHO,
            None | Init1 | Init | CookieSent | CookieWait | Cookie | Rejected,
            Client,
        ) => CookieReplied,
        (
            COOKIE_ECHO,
            None | Init1 | Init | CookieSent | CookieReplied | CookieWait | Cookie | Rejected,
            Server,
        ) => CookieEchoed,
        (COOKIE_ECHO, _, ClientAlone)
        | (COOKIE_ACK, CookieReplied, Server)
        | (COOKIE_ACK, Cookie, ClientAlone)
        | (COOKIE_ACK, CookieEchoed | ShutdownSent | ShutdownReceived | ShutdownAckSent, _) => {
            Established
        }

        (SHUTDOWN, None | Established, Server) => ShutdownSent,
        (SHUTDOWN, None | Established, Client | ClientAlone) => ShutdownReceived,
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

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKS: [(&str, u8); 16] = [
        ("DATA", 0),
        ("INIT", INIT),
        ("INIT-ACK", INIT_ACK),
        ("SACK", 3),
        ("HEARTBEAT", 4),
        ("HEARTBEAT-ACK", 5),
        ("ABORT", ABORT),
        ("SHUTDOWN", SHUTDOWN),
        ("SHUTDOWN-ACK", SHUTDOWN_ACK),
        ("ERROR", ERROR),
        ("COOKIE-ECHO", COOKIE_ECHO),
        ("COOKIE-ACK", COOKIE_ACK),
        ("SHUTDOWN-COMPLETE", SHUTDOWN_COMPLETE),
        // Those of other RFCs, and one of none.
        ("ASCONF", 0xc1),
        ("FORWARD-TSN", 0xc0),
        ("UNKNOWN", 0xff),
    ];

    /// Chunks that neither open nor end.
    const OTHERS: [&str; 8] =
        ["DATA", "SACK", "HEARTBEAT", "HEARTBEAT-ACK", "ERROR", "ASCONF", "FORWARD-TSN", "UNKNOWN"];

    /// A way to each state where both sides pass.
    const WAYS: [(&str, &str); 13] = [
        ("INIT1", "c:INIT"),
        ("INIT", "c:INIT c:INIT"),
        ("C-SENT", "c:INIT s:INIT-ACK"),
        ("C-REPLIED", "c:INIT s:INIT-ACK c:COOKIE-ECHO"),
        ("C-WAIT", "s:INIT"),
        ("COOKIE", "s:INIT c:INIT-ACK"),
        ("C-ECHOED", "s:INIT c:INIT-ACK s:COOKIE-ECHO"),
        ("ESTABLISHED", "c:INIT s:INIT-ACK c:COOKIE-ECHO s:COOKIE-ACK"),
        ("S-SENT", "c:DATA s:SHUTDOWN"),
        ("S-RECEIVED", "c:DATA c:SHUTDOWN"),
        ("S-ACK-SENT", "c:DATA c:SHUTDOWN s:SHUTDOWN-ACK"),
        ("REJECTED", "c:INIT s:ABORT"),
        ("CLOSED", "c:DATA c:ABORT"),
    ];

    /// The state after a packet: `c:` of the client, `s:` of the server, `o:`
    /// of the client where the server's do not pass.
    fn step(state: State, packet: &str) -> State {
        let (side, name) = packet.split_once(':').unwrap();
        let (_, chunk) = CHUNKS.into_iter().find(|chunk| chunk.0 == name).unwrap();
        let sender = match side {
            "c" => Sender::Client,
            "s" => Sender::Server,
            _ => Sender::ClientAlone,
        };
        after(state, chunk, sender)
    }

    fn end(packets: &str) -> State {
        packets.split_whitespace().fold(State::None, step)
    }

    /// Asserts the states after each packet of a life.
    fn assert_life(packets: &str, states: &str) {
        let mut state = State::None;
        let names: Vec<_> = packets
            .split_whitespace()
            .map(|packet| {
                state = step(state, packet);
                state.name()
            })
            .collect();
        assert_eq!(names.join(" "), states, "{packets}");
    }

    #[test]
    fn the_ways_lead_to_all_states() {
        for (state, packets) in WAYS {
            assert_eq!(end(packets).name(), state);
            assert!(end(packets).is_sctp());
        }
    }

    /// Sections 5.1 and 9.2, with data between.
    #[test]
    fn the_client_opens_and_either_side_finishes() {
        let opens = "c:INIT s:INIT-ACK c:COOKIE-ECHO s:COOKIE-ACK c:DATA s:SACK s:DATA c:SACK";
        let states = "INIT1 C-SENT C-REPLIED ESTABLISHED \
                      ESTABLISHED ESTABLISHED ESTABLISHED ESTABLISHED";
        for (finishes, ends) in [
            ("c:SHUTDOWN s:DATA s:SHUTDOWN-ACK c:SHUTDOWN-COMPLETE", "S-RECEIVED S-RECEIVED"),
            ("s:SHUTDOWN c:DATA c:SHUTDOWN-ACK s:SHUTDOWN-COMPLETE", "S-SENT S-SENT"),
        ] {
            assert_life(
                &format!("{opens} {finishes}"),
                &format!("{states} {ends} S-ACK-SENT CLOSED"),
            );
        }
    }

    #[test]
    fn the_server_opens() {
        assert_life(
            "s:INIT s:INIT c:INIT-ACK s:COOKIE-ECHO c:COOKIE-ACK",
            "C-WAIT C-WAIT COOKIE C-ECHOED ESTABLISHED",
        );
    }

    #[test]
    fn the_client_is_all_there_is_to_see() {
        assert_life(
            "o:INIT o:INIT o:COOKIE-ECHO o:DATA o:SHUTDOWN o:SHUTDOWN-COMPLETE o:DATA",
            "INIT1 INIT ESTABLISHED ESTABLISHED S-RECEIVED CLOSED CLOSED",
        );
        // The server finishes first.
        assert_life("o:DATA o:SACK o:SHUTDOWN-ACK", "ESTABLISHED ESTABLISHED S-ACK-SENT");
        // The server opens.
        assert_life("o:INIT-ACK o:COOKIE-ACK", "COOKIE ESTABLISHED");
        // The port is used again before the old association is forgotten.
        assert_life(
            "o:DATA o:SHUTDOWN-ACK o:INIT o:COOKIE-ECHO",
            "ESTABLISHED S-ACK-SENT S-ACK-SENT ESTABLISHED",
        );
        // What the client alone says opens nothing without a cookie.
        assert_life("o:INIT o:COOKIE-ACK o:SHUTDOWN o:SHUTDOWN-ACK", "INIT1 INIT1 INIT1 INIT1");
    }

    /// Section 5.2.1: INITs cross, and either COOKIE ACK may be the first.
    #[test]
    fn both_open() {
        for (packets, states) in [
            (
                "c:INIT s:INIT c:INIT-ACK s:INIT-ACK c:COOKIE-ECHO s:COOKIE-ECHO s:COOKIE-ACK \
                 c:COOKIE-ACK",
                "INIT1 INIT1 COOKIE C-SENT C-REPLIED C-ECHOED ESTABLISHED ESTABLISHED",
            ),
            (
                "s:INIT c:INIT s:INIT-ACK c:INIT-ACK s:COOKIE-ECHO c:COOKIE-ECHO c:COOKIE-ACK \
                 s:COOKIE-ACK",
                "C-WAIT C-WAIT C-SENT COOKIE C-ECHOED C-ECHOED ESTABLISHED ESTABLISHED",
            ),
        ] {
            assert_life(packets, states);
        }
    }

    #[test]
    fn what_is_sent_again_leads_nowhere_else() {
        assert_life(
            "c:INIT c:INIT s:INIT-ACK s:INIT-ACK c:COOKIE-ECHO c:COOKIE-ECHO s:COOKIE-ACK \
             c:COOKIE-ECHO s:COOKIE-ACK s:INIT-ACK",
            "INIT1 INIT C-SENT C-SENT C-REPLIED C-REPLIED ESTABLISHED \
             ESTABLISHED ESTABLISHED ESTABLISHED",
        );
        assert_life(
            "c:DATA c:SHUTDOWN c:SHUTDOWN s:SHUTDOWN-ACK c:SHUTDOWN s:SHUTDOWN-ACK \
             c:SHUTDOWN-COMPLETE s:SHUTDOWN-ACK c:SHUTDOWN-COMPLETE",
            "ESTABLISHED S-RECEIVED S-RECEIVED S-ACK-SENT S-ACK-SENT S-ACK-SENT \
             CLOSED CLOSED CLOSED",
        );
        // The answer to a repeated INIT, after the cookie (5.2.3).
        assert_life(
            "c:INIT s:INIT-ACK c:INIT c:COOKIE-ECHO s:INIT-ACK s:COOKIE-ACK",
            "INIT1 C-SENT INIT C-REPLIED C-REPLIED ESTABLISHED",
        );
    }

    /// Section 9.2, also with both SHUTDOWNs behind a SACK.
    #[test]
    fn both_finish() {
        assert_life(
            "c:DATA c:SHUTDOWN s:SHUTDOWN c:SHUTDOWN-ACK s:SHUTDOWN-ACK s:SHUTDOWN-COMPLETE",
            "ESTABLISHED S-RECEIVED S-RECEIVED S-ACK-SENT S-ACK-SENT CLOSED",
        );
        assert_life(
            "c:DATA c:SACK s:SHUTDOWN-ACK c:SHUTDOWN-COMPLETE",
            "ESTABLISHED ESTABLISHED S-ACK-SENT CLOSED",
        );
        for (state, way) in &WAYS[7..11] {
            for side in ["c", "s", "o"] {
                let packets = format!("{way} {side}:SHUTDOWN-COMPLETE");
                assert_eq!(end(&packets), State::SctpClosed, "{state}");
            }
        }
    }

    /// Section 9.1. Only who was asked refuses.
    #[test]
    fn an_abort_closes_or_refuses() {
        for (state, way) in WAYS {
            for side in ["c", "s", "o"] {
                let expected = match (state, side) {
                    ("INIT1" | "INIT" | "C-SENT" | "C-REPLIED", "s")
                    | ("C-WAIT" | "COOKIE" | "C-ECHOED", "c" | "o")
                    | ("REJECTED", _) => "REJECTED",
                    _ => "CLOSED",
                };
                assert_eq!(end(&format!("{way} {side}:ABORT")).name(), expected, "{state} {side}");
            }
        }
        assert_eq!(end("c:ABORT"), State::SctpClosed);
    }

    /// Section 5.2.6: then the client tries again.
    #[test]
    fn a_stale_cookie_is_refused() {
        assert_life(
            "c:INIT s:INIT-ACK c:COOKIE-ECHO c:ERROR s:ERROR c:COOKIE-ECHO s:ERROR c:INIT",
            "INIT1 C-SENT C-REPLIED C-REPLIED REJECTED C-REPLIED REJECTED INIT1",
        );
        assert_life(
            "s:INIT c:INIT-ACK s:COOKIE-ECHO s:ERROR c:ERROR s:INIT",
            "C-WAIT COOKIE C-ECHOED C-ECHOED REJECTED C-WAIT",
        );
    }

    /// Sections 5.2.2 and 5.2.4: only the answer to the cookie changes a state.
    #[test]
    fn a_restart_within_an_association() {
        for (state, way) in &WAYS[7..11] {
            for restart in ["c:INIT s:INIT-ACK c:COOKIE-ECHO", "s:INIT c:INIT-ACK s:COOKIE-ECHO"] {
                let half = format!("{way} {restart}");
                assert_eq!(end(&half).name(), *state, "{half}");
                let ack = if restart.starts_with('c') { "s:COOKIE-ACK" } else { "c:COOKIE-ACK" };
                assert_eq!(end(&format!("{half} {ack}")), State::SctpEstablished, "{half}");
            }
        }
        // A server that waits for the end does not restart (9.2).
        assert_life(
            "c:DATA s:SHUTDOWN-ACK c:INIT s:SHUTDOWN-ACK c:SHUTDOWN-COMPLETE c:INIT",
            "ESTABLISHED S-ACK-SENT S-ACK-SENT S-ACK-SENT CLOSED INIT1",
        );
    }

    /// Of INITs that crossed, or where packets were missed, in whatever order.
    #[test]
    fn a_chunk_of_the_set_up_leads_to_its_state_from_those_before() {
        for (packet, state, from) in [
            ("c:INIT", "INIT", "INIT1 INIT C-SENT C-REPLIED"),
            ("s:INIT", "C-WAIT", "C-WAIT COOKIE C-ECHOED REJECTED CLOSED"),
            ("s:INIT-ACK", "C-SENT", "INIT1 INIT C-SENT C-WAIT COOKIE"),
            ("c:INIT-ACK", "COOKIE", "INIT1 INIT C-SENT C-WAIT COOKIE"),
            ("c:COOKIE-ECHO", "C-REPLIED", "INIT1 INIT C-SENT C-REPLIED C-WAIT COOKIE REJECTED"),
            (
                "s:COOKIE-ECHO",
                "C-ECHOED",
                "INIT1 INIT C-SENT C-REPLIED C-WAIT COOKIE C-ECHOED REJECTED",
            ),
            (
                "s:COOKIE-ACK",
                "ESTABLISHED",
                "C-REPLIED C-ECHOED ESTABLISHED S-SENT S-RECEIVED S-ACK-SENT",
            ),
            ("c:COOKIE-ACK", "ESTABLISHED", "C-ECHOED ESTABLISHED S-SENT S-RECEIVED S-ACK-SENT"),
        ] {
            let leads =
                WAYS.iter().filter(|(_, way)| end(&format!("{way} {packet}")).name() == state);
            let names: Vec<_> = leads.map(|&(name, _)| name).collect();
            assert_eq!(names.join(" "), from, "{packet}");
        }
    }

    /// During a set-up, these are about an association that was before.
    #[test]
    fn a_set_up_is_not_ended_by_an_old_shutdown() {
        for (state, way) in &WAYS[..7] {
            for chunk in ["SHUTDOWN", "SHUTDOWN-ACK", "SHUTDOWN-COMPLETE"] {
                for side in ["c", "s", "o"] {
                    let packets = format!("{way} {side}:{chunk}");
                    assert_eq!(end(&packets).name(), *state, "{packets}");
                }
            }
        }
    }

    /// Section 5.2.5: whatever the client sends, without the server's COOKIE
    /// ACK, or its COOKIE ECHO, nothing is established.
    #[test]
    fn the_server_has_to_agree() {
        let mut reached = vec![end("c:INIT")];
        let mut done = 0;
        while done < reached.len() {
            for (name, _) in CHUNKS {
                let next = step(reached[done], &format!("c:{name}"));
                if !reached.contains(&next) {
                    reached.push(next);
                }
            }
            done += 1;
        }
        let names: Vec<_> = reached.into_iter().map(State::name).collect();
        assert_eq!(names, ["INIT1", "INIT", "COOKIE", "CLOSED", "C-REPLIED", "REJECTED"]);
    }

    #[test]
    fn after_the_end_only_an_init_begins_anew() {
        for (name, _) in CHUNKS {
            for side in ["c", "s", "o"] {
                let expected = match (name, side) {
                    ("INIT", "s") => "C-WAIT",
                    ("INIT", _) => "INIT1",
                    _ => "CLOSED",
                };
                let packets = format!("c:DATA c:ABORT {side}:{name}");
                assert_eq!(end(&packets).name(), expected, "{packets}");
            }
        }
        assert_life(
            "c:INIT s:ABORT c:DATA s:COOKIE-ACK c:INIT",
            "INIT1 REJECTED REJECTED REJECTED INIT1",
        );
    }

    #[test]
    fn other_chunks_change_nothing() {
        for (state, way) in WAYS {
            for side in ["c", "s", "o"] {
                for chunk in OTHERS {
                    let stale = chunk == "ERROR"
                        && (matches!((state, side), ("C-REPLIED", "s") | ("C-ECHOED", "c" | "o")));
                    let expected = if stale { "REJECTED" } else { state };
                    let packets = format!("{way} {side}:{chunk}");
                    assert_eq!(end(&packets).name(), expected, "{packets}");
                }
            }
        }
    }

    /// `sloppy_sctp`: any chunk may be the first.
    #[test]
    fn an_association_is_taken_up_where_it_is() {
        for (first, client, alone, server) in [
            ("INIT", "INIT1", "INIT1", "C-WAIT"),
            ("INIT-ACK", "COOKIE", "COOKIE", "C-SENT"),
            ("COOKIE-ECHO", "C-REPLIED", "ESTABLISHED", "C-ECHOED"),
            ("COOKIE-ACK", "ESTABLISHED", "ESTABLISHED", "ESTABLISHED"),
            ("SHUTDOWN", "S-RECEIVED", "S-RECEIVED", "S-SENT"),
            ("SHUTDOWN-ACK", "S-ACK-SENT", "S-ACK-SENT", "S-ACK-SENT"),
            ("SHUTDOWN-COMPLETE", "CLOSED", "CLOSED", "CLOSED"),
            ("ABORT", "CLOSED", "CLOSED", "CLOSED"),
        ] {
            for (side, expected) in [("c", client), ("o", alone), ("s", server)] {
                assert_eq!(end(&format!("{side}:{first}")).name(), expected, "{side}:{first}");
            }
        }
        for chunk in OTHERS {
            for side in ["c", "o", "s"] {
                assert_eq!(end(&format!("{side}:{chunk}")), State::SctpEstablished, "{chunk}");
            }
        }
    }

    /// Whatever comes, and in whatever order: a state of SCTP.
    #[test]
    fn no_chunk_leads_out_of_sctp() {
        let states = (0..=u8::MAX).map(State::from_u8).filter(|state| state.is_sctp());
        for state in states.chain([State::None]) {
            for chunk in 0..=u8::MAX {
                for sender in [Sender::Client, Sender::ClientAlone, Sender::Server] {
                    assert!(after(state, chunk, sender).is_sctp(), "{state:?} {chunk} {sender:?}");
                }
            }
        }
    }
}
