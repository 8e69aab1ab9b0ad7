//! The words of ipvsadm's language: which letter and which long name stands for
//! what.

use super::options::{Opt, Verb};
use super::words::Word;
use crate::api::Protocol;

/// What the first option may be.
pub(super) enum Start {
    Help,
    Version,
    Verb(Verb),
}

impl Start {
    pub(super) fn of(word: &Word) -> Option<Self> {
        let verb = match word {
            Word::Short('h') => return Some(Self::Help),
            Word::Short('v') => return Some(Self::Version),
            Word::Short('A') => Verb::AddService,
            Word::Short('E') => Verb::EditService,
            Word::Short('D') => Verb::DeleteService,
            Word::Short('C') => Verb::Flush,
            Word::Short('a') => Verb::AddServer,
            Word::Short('e') => Verb::EditServer,
            Word::Short('d') => Verb::DeleteServer,
            Word::Short('L' | 'l') => Verb::List,
            Word::Short('Z') => Verb::Zero,
            Word::Short('S') => Verb::Save,
            Word::Short('R') => Verb::Restore,
            Word::Short(_) => return None,
            Word::Long(name) => return Self::of_long(name),
        };
        Some(Self::Verb(verb))
    }

    fn of_long(name: &str) -> Option<Self> {
        let verb = match name {
            "help" => return Some(Self::Help),
            "version" => return Some(Self::Version),
            "add-service" => Verb::AddService,
            "edit-service" => Verb::EditService,
            "delete-service" => Verb::DeleteService,
            "clear" => Verb::Flush,
            "add-server" => Verb::AddServer,
            "edit-server" => Verb::EditServer,
            "delete-server" => Verb::DeleteServer,
            "list" => Verb::List,
            "zero" => Verb::Zero,
            "save" => Verb::Save,
            "restore" => Verb::Restore,
            "set" => Verb::Set,
            "start-daemon" => Verb::StartDaemon,
            "stop-daemon" => Verb::StopDaemon,
            _ => return None,
        };
        Some(Self::Verb(verb))
    }
}

/// The forwarding method before the tunnel options are known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Forwarding {
    #[default]
    Dr,
    Nat,
    Tun,
    Fullnat,
}

/// What an option is, before its value is read.
pub(super) enum Parsed {
    /// Without a value.
    Flag(Opt),
    /// With a value.
    Value(Opt),
    /// An address of a service.
    Service(Protocol),
    Method(Forwarding),
    Ipv6,
    /// `--sort`, which does nothing.
    Ignored,
}

impl Parsed {
    /// The option that a word is in the context of a command.
    pub(super) fn of(word: &Word, verb: Verb) -> Option<Self> {
        Some(match word {
            Word::Short('t') => Self::Service(Protocol::Tcp),
            Word::Short('u') => Self::Service(Protocol::Udp),
            Word::Short('f') => Self::Value(Opt::Service),
            Word::Short('6') => Self::Ipv6,
            Word::Short('s') => Self::Value(Opt::Scheduler),
            Word::Short('p') => Self::Value(Opt::Persistent),
            Word::Short('M') => Self::Value(Opt::Netmask),
            Word::Short('o') => Self::Flag(Opt::Ops),
            // Scheduler flags mean nothing for a server, which leaves the
            // letter to FULLNAT there.
            Word::Short('b') if matches!(verb, Verb::AddServer | Verb::EditServer) => {
                Self::Method(Forwarding::Fullnat)
            }
            Word::Short('b') => Self::Value(Opt::SchedFlags),
            Word::Short('r') => Self::Value(Opt::RealServer),
            Word::Short('g') => Self::Method(Forwarding::Dr),
            Word::Short('i') => Self::Method(Forwarding::Tun),
            Word::Short('m') => Self::Method(Forwarding::Nat),
            Word::Short('w') => Self::Value(Opt::Weight),
            Word::Short('x') => Self::Value(Opt::UpperThreshold),
            Word::Short('y') => Self::Value(Opt::LowerThreshold),
            Word::Short('n') => Self::Flag(Opt::Numeric),
            Word::Short('c') => Self::Flag(Opt::Connection),
            Word::Short('X') => Self::Flag(Opt::Exact),
            Word::Short(_) => return None,
            Word::Long(name) => return Self::of_long(name),
        })
    }

    fn of_long(name: &str) -> Option<Self> {
        Some(match name {
            "tcp-service" => Self::Service(Protocol::Tcp),
            "udp-service" => Self::Service(Protocol::Udp),
            "sctp-service" => Self::Service(Protocol::Sctp),
            "fwmark-service" => Self::Value(Opt::Service),
            "ipv6" => Self::Ipv6,
            "scheduler" => Self::Value(Opt::Scheduler),
            "persistent" => Self::Value(Opt::Persistent),
            "netmask" => Self::Value(Opt::Netmask),
            "ops" => Self::Flag(Opt::Ops),
            "pe" => Self::Value(Opt::Engine),
            "sched-flags" => Self::Value(Opt::SchedFlags),
            "local-address" => Self::Value(Opt::LocalAddress),
            "client-address" => Self::Value(Opt::ClientAddress),
            "mss" => Self::Value(Opt::Mss),
            "take-up" => Self::Flag(Opt::TakeUp),
            "real-server" => Self::Value(Opt::RealServer),
            "gatewaying" => Self::Method(Forwarding::Dr),
            "ipip" => Self::Method(Forwarding::Tun),
            "masquerading" => Self::Method(Forwarding::Nat),
            "fullnat" => Self::Method(Forwarding::Fullnat),
            "weight" => Self::Value(Opt::Weight),
            "u-threshold" => Self::Value(Opt::UpperThreshold),
            "l-threshold" => Self::Value(Opt::LowerThreshold),
            "tun-type" => Self::Value(Opt::TunType),
            "tun-port" => Self::Value(Opt::TunPort),
            "tun-nocsum" => Self::Flag(Opt::TunNocsum),
            "tun-csum" => Self::Flag(Opt::TunCsum),
            "tun-remcsum" => Self::Flag(Opt::TunRemcsum),
            "numeric" => Self::Flag(Opt::Numeric),
            "connection" => Self::Flag(Opt::Connection),
            "timeout" => Self::Flag(Opt::Timeout),
            "daemon" => Self::Flag(Opt::Daemon),
            "stats" => Self::Flag(Opt::Stats),
            "rate" => Self::Flag(Opt::Rate),
            "exact" => Self::Flag(Opt::Exact),
            "thresholds" => Self::Flag(Opt::Thresholds),
            "persistent-conn" => Self::Flag(Opt::PersistentConn),
            "tun-info" => Self::Flag(Opt::TunInfo),
            "nosort" => Self::Flag(Opt::NoSort),
            "sort" => Self::Ignored,
            "syncid" => Self::Value(Opt::SyncId),
            "sync-maxlen" => Self::Value(Opt::SyncMaxlen),
            "mcast-interface" => Self::Value(Opt::McastInterface),
            "mcast-group" => Self::Value(Opt::McastGroup),
            "mcast-port" => Self::Value(Opt::McastPort),
            "mcast-ttl" => Self::Value(Opt::McastTtl),
            _ => return None,
        })
    }
}
