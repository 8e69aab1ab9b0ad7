//! Words that filters of several listings share.

use crate::api;

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub(super) const fn api(self) -> api::Protocol {
        match self {
            Self::Tcp => api::Protocol::Tcp,
            Self::Udp => api::Protocol::Udp,
            Self::Sctp => api::Protocol::Sctp,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl From<api::Protocol> for Protocol {
    fn from(protocol: api::Protocol) -> Self {
        match protocol {
            api::Protocol::Tcp => Self::Tcp,
            api::Protocol::Udp => Self::Udp,
            api::Protocol::Sctp => Self::Sctp,
        }
    }
}

/// A forwarding method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Method {
    Dr,
    Nat,
    Tun,
    Fullnat,
}

impl Method {
    pub(super) const fn api(self) -> api::MethodName {
        match self {
            Self::Dr => api::MethodName::Dr,
            Self::Nat => api::MethodName::Nat,
            Self::Tun => api::MethodName::Tun,
            Self::Fullnat => api::MethodName::Fullnat,
        }
    }
}

/// Whether a service is to an address, or of a protocol, that was asked for.
pub(super) fn service_is(
    id: &api::ServiceId,
    vip: Option<api::Side>,
    proto: Option<Protocol>,
) -> bool {
    match id {
        api::ServiceId::Address { protocol, address } => {
            vip.is_none_or(|vip| vip.has(*address))
                && proto.is_none_or(|proto| proto.api() == *protocol)
        }
        api::ServiceId::Fwmark { .. } => vip.is_none() && proto.is_none(),
    }
}
