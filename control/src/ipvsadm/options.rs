//! Which options go with which command: ipvsadm checks them in the order of
//! [`Opt`], so that the first offence in this order is the one it names.

use super::grammar::UsageError;

/// The options, in the order in which ipvsadm checks them; then those that only
/// RVS has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opt {
    Numeric,
    Connection,
    Service,
    Scheduler,
    Persistent,
    Netmask,
    RealServer,
    Method,
    Weight,
    UpperThreshold,
    LowerThreshold,
    McastInterface,
    Timeout,
    Daemon,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    NoSort,
    SyncId,
    Exact,
    Ops,
    Engine,
    SchedFlags,
    McastGroup,
    McastPort,
    McastTtl,
    SyncMaxlen,
    TunInfo,
    TunType,
    TunPort,
    TunNocsum,
    TunCsum,
    TunRemcsum,
    LocalAddress,
    ClientAddress,
    Mss,
    TakeUp,
}

use Opt::{
    ClientAddress, Connection, Daemon, Engine, Exact, LocalAddress, LowerThreshold, McastGroup,
    McastInterface, McastPort, McastTtl, Method, Mss, Netmask, NoSort, Numeric, Ops, Persistent,
    PersistentConn, Rate, RealServer, SchedFlags, Scheduler, Service, Stats, SyncId, SyncMaxlen,
    TakeUp, Thresholds, Timeout, TunCsum, TunInfo, TunNocsum, TunPort, TunRemcsum, TunType,
    UpperThreshold, Weight,
};

impl Opt {
    const ALL: [Self; 38] = [
        Numeric,
        Connection,
        Service,
        Scheduler,
        Persistent,
        Netmask,
        RealServer,
        Method,
        Weight,
        UpperThreshold,
        LowerThreshold,
        McastInterface,
        Timeout,
        Daemon,
        Stats,
        Rate,
        Thresholds,
        PersistentConn,
        NoSort,
        SyncId,
        Exact,
        Ops,
        Engine,
        SchedFlags,
        McastGroup,
        McastPort,
        McastTtl,
        SyncMaxlen,
        TunInfo,
        TunType,
        TunPort,
        TunNocsum,
        TunCsum,
        TunRemcsum,
        LocalAddress,
        ClientAddress,
        Mss,
        TakeUp,
    ];

    const fn name(self) -> &'static str {
        match self {
            Numeric => "numeric",
            Connection => "connection",
            Service => "service-address",
            Scheduler => "scheduler",
            Persistent => "persistent",
            Netmask => "netmask",
            RealServer => "real-server",
            Method => "forwarding-method",
            Weight => "weight",
            UpperThreshold => "u-threshold",
            LowerThreshold => "l-threshold",
            McastInterface => "mcast-interface",
            Timeout => "timeout",
            Daemon => "daemon",
            Stats => "stats",
            Rate => "rate",
            Thresholds => "thresholds",
            PersistentConn => "persistent-conn",
            NoSort => "nosort",
            SyncId => "syncid",
            Exact => "exact",
            Ops => "ops",
            Engine => "pe",
            SchedFlags => "sched-flags",
            McastGroup => "mcast-group",
            McastPort => "mcast-port",
            McastTtl => "mcast-ttl",
            SyncMaxlen => "sync-maxlen",
            TunInfo => "tun-info",
            TunType => "tun-type",
            TunPort => "tun-port",
            TunNocsum => "tun-nocsum",
            TunCsum => "tun-csum",
            TunRemcsum => "tun-remcsum",
            LocalAddress => "local-address",
            ClientAddress => "client-address",
            Mss => "mss",
            TakeUp => "take-up",
        }
    }
}

/// The commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    AddService,
    EditService,
    DeleteService,
    Flush,
    List,
    AddServer,
    EditServer,
    DeleteServer,
    Set,
    StartDaemon,
    StopDaemon,
    Restore,
    Save,
    Zero,
}

impl Verb {
    const fn rules(self) -> Rules {
        match self {
            Self::AddService => Rules { name: "add-service", ..SERVICE },
            Self::EditService => Rules { name: "edit-service", ..SERVICE },
            Self::DeleteService => {
                Rules { name: "delete-service", required: &[Service], ..NOTHING }
            }
            Self::Flush => Rules { name: "flush", ..NOTHING },
            Self::List => LIST,
            Self::AddServer => Rules { name: "add-server", ..SERVER },
            Self::EditServer => Rules { name: "edit-server", ..SERVER },
            Self::DeleteServer => {
                Rules { name: "delete-server", required: &[Service, RealServer], ..NOTHING }
            }
            Self::Set => Rules { name: "set", ..NOTHING },
            Self::StartDaemon => Rules {
                name: "start-daemon",
                allowed: &[McastInterface, SyncId, McastGroup, McastPort, McastTtl, SyncMaxlen],
                ..NOTHING
            },
            Self::StopDaemon => Rules { name: "stop-daemon", allowed: &[SyncId], ..NOTHING },
            Self::Restore => Rules { name: "restore", ..NOTHING },
            Self::Save => Rules { name: "save", allowed: &[Numeric], ..NOTHING },
            Self::Zero => Rules { name: "zero", allowed: &[Service], ..NOTHING },
        }
    }
}

/// What may, must and must not stand together.
struct Rules {
    name: &'static str,
    required: &'static [Opt],
    allowed: &'static [Opt],
    /// At most one of these.
    exclusive: &'static [Opt],
}

const NOTHING: Rules = Rules { name: "", required: &[], allowed: &[], exclusive: &[] };

const SERVICE: Rules = Rules {
    required: &[Service],
    allowed: &[
        Scheduler,
        Persistent,
        Netmask,
        Ops,
        Engine,
        SchedFlags,
        LocalAddress,
        ClientAddress,
        Mss,
        TakeUp,
    ],
    ..NOTHING
};

const SERVER: Rules = Rules {
    required: &[Service, RealServer],
    allowed: &[
        Method,
        Weight,
        UpperThreshold,
        LowerThreshold,
        TunType,
        TunPort,
        TunNocsum,
        TunCsum,
        TunRemcsum,
    ],
    ..NOTHING
};

const LIST: Rules = Rules {
    name: "list",
    allowed: &[Numeric, Stats, Rate, Thresholds, PersistentConn, NoSort, SyncId, Exact, TunInfo],
    exclusive: &[Connection, Service, Timeout, Daemon],
    ..NOTHING
};

const IPIP: Rules = Rules { name: "ipip", allowed: &[TunType], ..NOTHING };

const GUE: Rules = Rules {
    name: "gue",
    required: &[TunPort],
    allowed: &[TunType],
    exclusive: &[TunNocsum, TunCsum, TunRemcsum],
};

const GRE: Rules =
    Rules { name: "gre", allowed: &[TunType], exclusive: &[TunNocsum, TunCsum], ..NOTHING };

/// `--tun-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TunnelKind {
    Ipip,
    Gue,
    Gre,
}

/// The options that a command line has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    /// Every tunnel option.
    pub(super) const TUNNEL: [Opt; 5] = [TunType, TunPort, TunNocsum, TunCsum, TunRemcsum];

    pub(super) fn has(self, option: Opt) -> bool {
        self.0 & (1 << option as u32) != 0
    }

    pub(super) fn has_any(self, options: &[Opt]) -> bool {
        options.iter().any(|o| self.has(*o))
    }

    pub(super) fn add(&mut self, option: Opt) -> Result<(), UsageError> {
        if self.has(option) {
            return Err(UsageError::new(format!("multiple '{}' options specified", option.name())));
        }
        self.0 |= 1 << option as u32;
        Ok(())
    }

    /// Checks the options of a command.
    pub(super) fn check(self, verb: Verb) -> Result<(), UsageError> {
        self.check_rules(&Opt::ALL, &verb.rules(), "command")
    }

    /// Checks the tunnel options of a tunnelled server.
    pub(super) fn check_tunnel(self, kind: TunnelKind) -> Result<(), UsageError> {
        let rules = match kind {
            TunnelKind::Ipip => IPIP,
            TunnelKind::Gue => GUE,
            TunnelKind::Gre => GRE,
        };
        self.check_rules(&Self::TUNNEL, &rules, "tunnel type")
    }

    fn check_rules(self, options: &[Opt], rules: &Rules, kind: &str) -> Result<(), UsageError> {
        let mut chosen: Option<Opt> = None;
        for &option in options {
            let (name, rule) = (option.name(), rules.name);
            if rules.required.contains(&option) {
                if !self.has(option) {
                    return Err(UsageError::new(format!(
                        "You need to supply the '{name}' option for the '{rule}' {kind}"
                    )));
                }
                continue;
            }
            if !self.has(option) || rules.allowed.contains(&option) {
                continue;
            }
            if !rules.exclusive.contains(&option) {
                return Err(UsageError::new(format!(
                    "Illegal '{name}' option with the '{rule}' {kind}"
                )));
            }
            if let Some(earlier) = chosen {
                let earlier = earlier.name();
                return Err(UsageError::new(format!(
                    "The option '{name}' conflicts with the '{earlier}' option in the '{rule}' \
                     {kind}"
                )));
            }
            chosen = Some(option);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_stands_at_its_own_place() {
        for (place, option) in Opt::ALL.iter().enumerate() {
            assert_eq!(*option as usize, place, "{option:?}");
        }
    }
}
