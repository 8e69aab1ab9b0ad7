//! Connection states, the TCP state machine, and timeouts. SCTP's state machine
//! is in `conn/sctp.rs`.

use super::sctp::{self, Sender};
use crate::packet::headers::tcp;
use crate::packet::{Headers, Protocol};
use crate::time::{TICKS_PER_SECOND, Tick};

/// The state of a connection, with the names that ipvsadm shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// TCP, nothing seen yet.
    None,
    /// TCP, both sides agreed.
    Established,
    /// TCP, the server opened.
    SynSent,
    /// TCP, the client's SYN was seen.
    SynRecv,
    /// TCP, one side has finished.
    FinWait,
    /// TCP, both sides have finished.
    TimeWait,
    /// TCP, reset or out of order.
    Close,
    /// TCP, the client has finished first.
    CloseWait,
    /// TCP, the last acknowledgement is due.
    LastAck,
    /// UDP.
    Udp,
    /// SCTP, the client opened.
    SctpInit1,
    /// SCTP, the client sent INIT again.
    SctpInit,
    /// SCTP, the client opened, and the server sent its cookie.
    SctpCookieSent,
    /// SCTP, the client opened, and sent the cookie back.
    SctpCookieReplied,
    /// SCTP, the server opened.
    SctpCookieWait,
    /// SCTP, the server opened, and the client sent its cookie.
    SctpCookie,
    /// SCTP, the server opened, and sent the cookie back.
    SctpCookieEchoed,
    /// SCTP, both sides agreed.
    SctpEstablished,
    /// SCTP, the server has finished first.
    SctpShutdownSent,
    /// SCTP, the client has finished first.
    SctpShutdownReceived,
    /// SCTP, the other side has finished, too.
    SctpShutdownAckSent,
    /// SCTP, who was asked to open refused.
    SctpRejected,
    /// SCTP, both have finished, or one has aborted.
    SctpClosed,
}

const STATES: usize = 23;

impl State {
    /// The state with this number, as an entry stores it. A number that no
    /// state has reads as `Close`, whose connections go soonest.
    #[must_use]
    pub const fn from_u8(number: u8) -> Self {
        const BY_NUMBER: [State; STATES] = [
            State::None,
            State::Established,
            State::SynSent,
            State::SynRecv,
            State::FinWait,
            State::TimeWait,
            State::Close,
            State::CloseWait,
            State::LastAck,
            State::Udp,
            State::SctpInit1,
            State::SctpInit,
            State::SctpCookieSent,
            State::SctpCookieReplied,
            State::SctpCookieWait,
            State::SctpCookie,
            State::SctpCookieEchoed,
            State::SctpEstablished,
            State::SctpShutdownSent,
            State::SctpShutdownReceived,
            State::SctpShutdownAckSent,
            State::SctpRejected,
            State::SctpClosed,
        ];
        if (number as usize) < STATES { BY_NUMBER[number as usize] } else { State::Close }
    }

    /// The name in `ipvsadm -Lc`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Established | Self::SctpEstablished => "ESTABLISHED",
            Self::SynSent => "SYN_SENT",
            Self::SynRecv => "SYN_RECV",
            Self::FinWait => "FIN_WAIT",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::Udp => "UDP",
            Self::SctpInit1 => "INIT1",
            Self::SctpInit => "INIT",
            Self::SctpCookieSent => "C-SENT",
            Self::SctpCookieReplied => "C-REPLIED",
            Self::SctpCookieWait => "C-WAIT",
            Self::SctpCookie => "COOKIE",
            Self::SctpCookieEchoed => "C-ECHOED",
            Self::SctpShutdownSent => "S-SENT",
            Self::SctpShutdownReceived => "S-RECEIVED",
            Self::SctpShutdownAckSent => "S-ACK-SENT",
            Self::SctpRejected => "REJECTED",
            Self::SctpClosed => "CLOSED",
        }
    }

    /// Whether it is a state of SCTP alone.
    #[must_use]
    pub const fn is_sctp(self) -> bool {
        self as u8 >= Self::SctpInit1 as u8
    }

    /// Whether it counts as ActiveConn; all others are InActConn.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Established | Self::SynSent | Self::SynRecv | Self::SctpEstablished)
    }

    /// Whether it says that client and server have agreed: what makes a
    /// persistence template worth keeping.
    #[must_use]
    pub const fn is_established(self) -> bool {
        matches!(self, Self::Established | Self::SctpEstablished)
    }

    /// A bit for the number of each state that is half-open.
    pub(super) const HALF_OPEN: u32 = {
        let (mut bits, mut number) = (0, 0);
        while number < STATES as u8 {
            bits |= (Self::from_u8(number).is_half_open() as u32) << number;
            number += 1;
        }
        bits
    };

    /// Whether the client has not yet answered: what a flood of SYNs or INITs
    /// leaves behind, and what makes room first when a table is full.
    #[must_use]
    pub const fn is_half_open(self) -> bool {
        match self {
            Self::None | Self::SynSent | Self::SynRecv => true,
            _ => self.is_sctp() && (self as u8) < Self::SctpEstablished as u8,
        }
    }

    /// Whether a SYN or INIT on the same tuple begins a new connection, which
    /// is scheduled anew (`conn_reuse_mode=1`, the kernel's default).
    #[must_use]
    pub const fn is_reusable(self) -> bool {
        matches!(self, Self::TimeWait | Self::Close | Self::SctpClosed)
    }

    /// The state after a TCP packet from the client, where both sides' packets
    /// pass the director (NAT, FULLNAT). As in the kernel but for packets with
    /// none of the four flags, which it takes for a breach of the protocol too.
    #[must_use]
    pub const fn after_client(self, flags: u8) -> Self {
        use State::*;
        if flags & (tcp::RST | tcp::SYN) != 0 {
            return self.after_client_only(flags);
        }
        if flags & tcp::FIN != 0 {
            return match self {
                None => Close,
                Established => CloseWait,
                SynRecv | FinWait => TimeWait,
                other => other,
            };
        }
        if flags & tcp::ACK != 0 {
            return match self {
                None | SynRecv => Established,
                LastAck => Close,
                other => other,
            };
        }
        Close
    }

    /// The state after a TCP packet from the server.
    #[must_use]
    pub const fn after_server(self, flags: u8) -> Self {
        use State::*;
        if flags & tcp::RST != 0 {
            return match self {
                TimeWait => TimeWait,
                SynSent => SynSent,
                _ => Close,
            };
        }
        if flags & tcp::SYN != 0 {
            return match self {
                Established => Established,
                SynRecv => SynRecv,
                _ => SynSent,
            };
        }
        if flags & tcp::FIN != 0 {
            return match self {
                None | SynRecv | CloseWait => TimeWait,
                Established => FinWait,
                other => other,
            };
        }
        if flags & tcp::ACK != 0 {
            return match self {
                None | SynRecv => Established,
                other => other,
            };
        }
        Close
    }

    /// Whether a TCP packet leaves an established connection as it is, whichever
    /// side it comes from.
    #[must_use]
    #[inline(always)]
    pub const fn keeps_established(tcp_flags: u8) -> bool {
        tcp_flags & (tcp::FIN | tcp::SYN | tcp::RST | tcp::ACK) == tcp::ACK
    }

    /// The state after a packet from the client; `two_sided` where the server's
    /// packets pass the director as well.
    #[must_use]
    #[inline(always)]
    pub fn after_client_packet(self, two_sided: bool, headers: &Headers) -> Self {
        match headers.protocol {
            Protocol::Udp => Self::Udp,
            _ if headers.later_fragment => self,
            Protocol::Tcp if two_sided => self.after_client(headers.tcp_flags),
            Protocol::Tcp => self.after_client_only(headers.tcp_flags),
            Protocol::Sctp if two_sided => sctp::after(self, headers.tcp_flags, Sender::Client),
            Protocol::Sctp => sctp::after(self, headers.tcp_flags, Sender::ClientAlone),
        }
    }

    /// The state after a packet from the server.
    #[must_use]
    #[inline]
    pub fn after_server_packet(self, headers: &Headers) -> Self {
        match headers.protocol {
            Protocol::Udp => Self::Udp,
            _ if headers.later_fragment => self,
            Protocol::Tcp => self.after_server(headers.tcp_flags),
            Protocol::Sctp => sctp::after(self, headers.tcp_flags, Sender::Server),
        }
    }

    /// The state after a TCP packet from the client, where the server's
    /// packets do not pass the director (DR, TUN).
    ///
    /// RST counts before SYN, SYN before FIN, FIN before ACK, as the kernel
    /// weighs them; a packet with none of the four ends in CLOSE.
    #[must_use]
    pub const fn after_client_only(self, flags: u8) -> Self {
        use State::*;
        if flags & tcp::RST != 0 {
            return match self {
                SynRecv => SynRecv,
                LastAck => LastAck,
                _ => Close,
            };
        }
        if flags & tcp::SYN != 0 {
            return match self {
                Established | SynSent => Established,
                _ => SynRecv,
            };
        }
        if flags & tcp::FIN != 0 {
            return match self {
                None => Close,
                Established => FinWait,
                SynRecv => TimeWait,
                other => other,
            };
        }
        if flags & tcp::ACK != 0 {
            return match self {
                None | SynSent | SynRecv => Established,
                LastAck => Close,
                other => other,
            };
        }
        Close
    }
}

/// How long a connection lives in each state without a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts([u32; STATES]);

impl Default for Timeouts {
    /// The kernel's. Those of SCTP are a little more than its retransmissions
    /// take: 3 s after the first INIT, 60 s later on (RTO.Initial of RFC 4960
    /// and RTO.Max).
    fn default() -> Self {
        let mut timeouts = Self([0; STATES]);
        for (state, seconds) in [
            (State::None, 2),
            (State::Established, 900),
            (State::SynSent, 120),
            (State::SynRecv, 60),
            (State::FinWait, 120),
            (State::TimeWait, 120),
            (State::Close, 10),
            (State::CloseWait, 60),
            (State::LastAck, 30),
            (State::Udp, 300),
            (State::SctpInit1, 4),
            (State::SctpInit, 61),
            (State::SctpCookieSent, 61),
            (State::SctpCookieReplied, 61),
            (State::SctpCookieWait, 61),
            (State::SctpCookie, 61),
            (State::SctpCookieEchoed, 61),
            (State::SctpEstablished, 900),
            (State::SctpShutdownSent, 61),
            (State::SctpShutdownReceived, 61),
            (State::SctpShutdownAckSent, 61),
            (State::SctpRejected, 4),
            (State::SctpClosed, 61),
        ] {
            timeouts.set(state, seconds);
        }
        timeouts
    }
}

impl Timeouts {
    /// Sets the timeout of a state, s.
    pub fn set(&mut self, state: State, seconds: u32) {
        self.0[state as usize] = seconds.saturating_mul(TICKS_PER_SECOND);
    }

    /// When the last of the connections that are half-open now will be over,
    /// unless they become others.
    #[must_use]
    pub fn last_half_open(&self, now: Tick) -> Tick {
        let states = (0..STATES as u8).map(State::from_u8).filter(|state| state.is_half_open());
        now.plus(states.map(|state| self.ticks(state)).max().unwrap_or(0))
    }

    /// The timeout of a state, ticks.
    #[must_use]
    #[inline]
    pub const fn ticks(&self, state: State) -> u32 {
        self.0[state as usize]
    }

    /// When a connection in `state` that was last seen at `last` is over.
    #[must_use]
    #[inline]
    pub const fn expiry(&self, state: State, last: Tick) -> Tick {
        last.plus(self.ticks(state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tcp::{ACK, FIN, RST, SYN};

    fn run(flags: &[u8]) -> State {
        flags.iter().fold(State::None, |state, &f| state.after_client_only(f))
    }

    /// The lives of connections under DR, as recorded from the kernel.
    #[test]
    fn client_only_lives() {
        assert_eq!(run(&[SYN]), State::SynRecv);
        assert_eq!(run(&[SYN, ACK]), State::Established);
        assert_eq!(run(&[SYN, ACK, ACK]), State::Established);
        assert_eq!(run(&[SYN, ACK, FIN | ACK]), State::FinWait);
        assert_eq!(run(&[SYN, ACK, FIN | ACK, ACK]), State::FinWait);
        assert_eq!(run(&[SYN, ACK, RST]), State::Close);
        assert_eq!(run(&[SYN, ACK, RST | ACK]), State::Close);
        assert_eq!(run(&[SYN, RST]), State::SynRecv);
        assert_eq!(run(&[SYN, FIN | ACK]), State::TimeWait);
        assert_eq!(run(&[SYN, ACK, SYN]), State::Established);
        assert_eq!(run(&[SYN, ACK, FIN | ACK, SYN]), State::SynRecv);
        assert_eq!(run(&[SYN, ACK, 0]), State::Close);
    }

    /// Lives under NAT: `c` a packet of the client, `s` one of the server, with
    /// the kernel's states after each.
    #[test]
    fn two_sided_lives() {
        use State::*;
        for (packets, states) in [
            ("cS sSA cA", &[SynRecv, SynRecv, Established][..]),
            (
                "cS sSA cA cFA sA sFA cA",
                &[SynRecv, SynRecv, Established, CloseWait, CloseWait, TimeWait, TimeWait],
            ),
            (
                "cS sSA cA sFA cA cFA sA",
                &[SynRecv, SynRecv, Established, FinWait, FinWait, TimeWait, TimeWait],
            ),
            ("cS sSA cA cR", &[SynRecv, SynRecv, Established, Close]),
            ("cS sSA cA sR", &[SynRecv, SynRecv, Established, Close]),
            ("cS sRA", &[SynRecv, Close]),
            ("cS sSA sSA", &[SynRecv, SynRecv, SynRecv]),
        ] {
            let mut state = None;
            let after: Vec<_> = packets
                .split(' ')
                .map(|packet| {
                    let (side, letters) = packet.split_at(1);
                    let flags = letters.bytes().fold(0, |bits, letter| {
                        bits | match letter {
                            b'S' => SYN,
                            b'A' => ACK,
                            b'F' => FIN,
                            _ => RST,
                        }
                    });
                    state = match side {
                        "c" => state.after_client(flags),
                        _ => state.after_server(flags),
                    };
                    state
                })
                .collect();
            assert_eq!(after, states, "{packets}");
        }
    }

    #[test]
    fn what_keeps_the_state_keeps_it_from_either_side() {
        for tcp_flags in 0..=255 {
            let after = |protocol, state: State| {
                let headers = Headers { protocol, tcp_flags, ..Headers::NONE };
                [
                    state.after_client_packet(false, &headers),
                    state.after_client_packet(true, &headers),
                    state.after_server_packet(&headers),
                ]
            };
            if State::keeps_established(tcp_flags) {
                let states = after(Protocol::Tcp, State::Established);
                assert_eq!(states, [State::Established; 3], "{tcp_flags:#x}");
            }
            assert_eq!(after(Protocol::Udp, State::Udp), [State::Udp; 3]);
        }
        assert!(State::keeps_established(ACK | 8) && !State::keeps_established(ACK | FIN));
    }

    #[test]
    fn what_counts_as_active() {
        let active: Vec<_> =
            (0..STATES as u8).map(State::from_u8).filter(|s| s.is_active()).collect();
        use State::*;
        assert_eq!(active, [Established, SynSent, SynRecv, SctpEstablished]);
    }

    #[test]
    fn what_makes_room_and_what_begins_anew() {
        let names = |is: fn(State) -> bool| {
            let states = (0..STATES as u8).map(State::from_u8).filter(|&state| is(state));
            states.map(State::name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            names(State::is_half_open),
            "NONE SYN_SENT SYN_RECV INIT1 INIT C-SENT C-REPLIED C-WAIT COOKIE C-ECHOED"
        );
        assert_eq!(names(State::is_reusable), "TIME_WAIT CLOSE CLOSED");
        assert_eq!(names(State::is_established), "ESTABLISHED ESTABLISHED");
    }

    #[test]
    fn numbers_name_their_states_and_others_close() {
        for number in 0..STATES as u8 {
            assert_eq!(State::from_u8(number) as u8, number);
        }
        assert_eq!(State::from_u8(255), State::Close);
    }

    #[test]
    fn timeouts_are_the_kernels() {
        let timeouts = Timeouts::default();
        assert_eq!(timeouts.ticks(State::Established), 900 * TICKS_PER_SECOND);
        assert_eq!(timeouts.ticks(State::SynRecv), 60 * TICKS_PER_SECOND);
        assert_eq!(timeouts.expiry(State::Close, Tick::from_secs(5)), Tick::from_secs(15));
        let sctp = (0..STATES as u8).map(State::from_u8).filter(|state| state.is_sctp());
        let seconds: Vec<_> = sctp.map(|s| timeouts.ticks(s) / TICKS_PER_SECOND).collect();
        assert_eq!(seconds, [4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61]);
    }
}
