//! What a request of the family `IPVS` asks for.

use std::net::SocketAddr;

use control_api::api::{ServiceId, Timeouts};
use nix::errno::Errno;

use crate::family::{COMMAND_HEADER, command};
use crate::netlink::{HEADER, Header, NLM_F_DUMP, attributes, port_of, text_of};
use crate::netlink::{u8_of, u16_of, u32_of};
use crate::terms::{self, AF_INET, AF_INET6, Forwarding, Options};

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    AddService(Service),
    EditService(Service),
    DeleteService(ServiceId),
    Service(ServiceId),
    Services,
    AddServer(ServiceId, Server),
    EditServer(ServiceId, Server),
    DeleteServer(ServiceId, SocketAddr),
    Servers(ServiceId),
    StartDaemon,
    StopDaemon,
    Daemons,
    SetTimeouts(Timeouts),
    Timeouts,
    Info,
    Zero(Option<ServiceId>),
    Flush,
}

/// A service in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) id: ServiceId,
    pub(crate) scheduler: String,
    pub(crate) options: Options,
}

/// A server in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) forwarding: Forwarding,
    pub(crate) weight: u32,
    pub(crate) upper_threshold: u32,
    pub(crate) lower_threshold: u32,
}

impl Operation {
    /// The operation of a message of the family, with the errors that the
    /// kernel gives for messages that lack something.
    pub(crate) fn of(message: &[u8]) -> Result<Self, Errno> {
        let header = Header::of(message).ok_or(Errno::EINVAL)?;
        let body = message.get(HEADER + COMMAND_HEADER..header.length).ok_or(Errno::EINVAL)?;
        let dump = header.flags & NLM_F_DUMP == NLM_F_DUMP;
        let [_, service, server, daemon, tcp, tcp_fin, udp] = attributes(body);
        let named = || id_of(service.ok_or(Errno::EINVAL)?);
        Ok(match (message[HEADER], dump) {
            (command::NEW_SERVICE, _) => Self::AddService(service_of(service)?),
            (command::SET_SERVICE, _) => Self::EditService(service_of(service)?),
            (command::DEL_SERVICE, _) => Self::DeleteService(named()?),
            (command::GET_SERVICE, true) => Self::Services,
            (command::GET_SERVICE, false) => Self::Service(named()?),
            (command::NEW_DEST, _) => {
                let id = named()?;
                Self::AddServer(id, server_of(&id, server)?)
            }
            (command::SET_DEST, _) => {
                let id = named()?;
                Self::EditServer(id, server_of(&id, server)?)
            }
            (command::DEL_DEST, _) => {
                let id = named()?;
                Self::DeleteServer(id, address_of(&id, server)?)
            }
            (command::GET_DEST, true) => Self::Servers(named()?),
            (command::NEW_DAEMON, _) => daemon.map(|_| Self::StartDaemon).ok_or(Errno::EINVAL)?,
            (command::DEL_DAEMON, _) => daemon.map(|_| Self::StopDaemon).ok_or(Errno::EINVAL)?,
            (command::GET_DAEMON, true) => Self::Daemons,
            (command::SET_CONFIG, _) => {
                let seconds = |value: Option<&[u8]>| value.map_or(Ok(0), |v| u32_of(Some(v)));
                let (tcp, tcp_fin, udp) = (seconds(tcp)?, seconds(tcp_fin)?, seconds(udp)?);
                Self::SetTimeouts(Timeouts { tcp, tcp_fin, udp })
            }
            (command::GET_CONFIG, _) => Self::Timeouts,
            (command::GET_INFO, _) => Self::Info,
            (command::ZERO, _) => Self::Zero(service.map(id_of).transpose()?),
            (command::FLUSH, _) => Self::Flush,
            _ => return Err(Errno::EOPNOTSUPP),
        })
    }
}

/// Attributes of a service (`IPVS_SVC_ATTR_...`).
type ServiceAttributes<'a> = [Option<&'a [u8]>; 12];

/// The name in the attributes of a service.
fn id_of(service: &[u8]) -> Result<ServiceId, Errno> {
    let [_, family, protocol, address, port, mark, ..]: ServiceAttributes<'_> = attributes(service);
    let family = u16_of(family)?;
    if !matches!(family, AF_INET | AF_INET6) {
        return Err(Errno::EAFNOSUPPORT);
    }
    if mark.is_some() {
        return Ok(ServiceId::Fwmark { mark: u32_of(mark)?, ipv6: family == AF_INET6 });
    }
    let protocol = terms::protocol(u16_of(protocol)?)?;
    let address = SocketAddr::new(terms::address(family, address)?, port_of(port)?);
    Ok(ServiceId::Address { protocol, address })
}

fn service_of(service: Option<&[u8]>) -> Result<Service, Errno> {
    let service = service.ok_or(Errno::EINVAL)?;
    let [_, _, _, _, _, _, scheduler, flags, timeout, netmask, _, engine]: ServiceAttributes<'_> =
        attributes(service);
    let scheduler = text_of(scheduler.ok_or(Errno::EINVAL)?)?.to_owned();
    let options = Options {
        flags: u32_of(flags)?,
        mask: u32_of(flags.and_then(|value| value.get(4..)))?,
        timeout: u32_of(timeout)?,
        netmask: u32_of(netmask)?,
        engine: engine.map(text_of).transpose()?.map(str::to_owned),
    };
    Ok(Service { id: id_of(service)?, scheduler, options })
}

/// Attributes of a server (`IPVS_DEST_ATTR_...`).
type ServerAttributes<'a> = [Option<&'a [u8]>; 16];

/// The address in the attributes of a server, of the service's family unless
/// they say another.
fn address_of(id: &ServiceId, server: Option<&[u8]>) -> Result<SocketAddr, Errno> {
    let server: ServerAttributes<'_> = attributes(server.ok_or(Errno::EINVAL)?);
    let family = match server[11] {
        None => terms::family_of(id),
        given => u16_of(given)?,
    };
    Ok(SocketAddr::new(terms::address(family, server[1])?, port_of(server[2])?))
}

fn server_of(id: &ServiceId, server: Option<&[u8]>) -> Result<Server, Errno> {
    let address = address_of(id, server)?;
    let server: ServerAttributes<'_> = attributes(server.unwrap_or_default());
    let forwarding = Forwarding {
        method: u32_of(server[3])?,
        tunnel: server[13].map_or(Ok(0), |value| u8_of(Some(value)))?,
        tunnel_port: server[14].map_or(Ok(0), |value| port_of(Some(value)))?,
        tunnel_flags: server[15].map_or(Ok(0), |value| u16_of(Some(value)))?,
    };
    Ok(Server {
        address,
        forwarding,
        weight: u32_of(server[4])?,
        upper_threshold: u32_of(server[5])?,
        lower_threshold: u32_of(server[6])?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::answer;
    use crate::netlink::Message;
    use control_api::api::Protocol;

    /// A request with what `fill` puts into it.
    fn request(command: u8, flags: u16, fill: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = answer(command, flags, 7, 9);
        fill(&mut message);
        message.finish()
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits = text.split_whitespace().collect::<String>();
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn http() -> ServiceId {
        let address = "10.0.1.102:80".parse().unwrap();
        ServiceId::Address { protocol: Protocol::Tcp, address }
    }

    /// What ipvsadm 1.31 sends for
    /// `-A -t 10.0.1.102:80 -s sh -p 60 -M 255.255.255.0 -b sh-port` and
    /// `-a -t 10.0.1.102:80 -r 10.0.1.11 -i --tun-type gue --tun-port 6080
    /// --tun-csum -x 100 -y 50`.
    #[test]
    fn requests_of_ipvsadm_are_understood() {
        let body = hex(
            "54000180 0600010002000000 0600020006000000 140003000a000166000000000000000000000000
             0600040000500000 0700060073680000 0c00070011000000ffffffff 080008003c000000
             08000900ffffff00",
        );
        let message = request(command::NEW_SERVICE, 5, |m| m.raw(&body));
        let options = Options {
            flags: 0x11,
            mask: u32::MAX,
            timeout: 60,
            netmask: u32::from_ne_bytes([255, 255, 255, 0]),
            engine: None,
        };
        let service = Service { id: http(), scheduler: "sh".into(), options };
        assert_eq!(Operation::of(&message), Ok(Operation::AddService(service)));

        let body = hex(
            "54000180 0600010002000000 0600020006000000 140003000a000166000000000000000000000000
             0600040000500000 0500060000000000 0c00070000000000ffffffff 0800080000000000
             08000900ffffffff
             60000280 06000b0002000000 140001000a00010b000000000000000000000000 0600020000500000
             0800030002000000 0800040001000000 05000d0001000000 06000e0017c00000
             06000f0001000000 0800050064000000 0800060032000000",
        );
        let message = request(command::NEW_DEST, 5, |m| m.raw(&body));
        let server = Server {
            address: "10.0.1.11:80".parse().unwrap(),
            forwarding: Forwarding { method: 2, tunnel: 1, tunnel_port: 6080, tunnel_flags: 1 },
            weight: 1,
            upper_threshold: 100,
            lower_threshold: 50,
        };
        assert_eq!(Operation::of(&message), Ok(Operation::AddServer(http(), server)));
    }

    fn put_http(message: &mut Message) {
        message.nest(1, |m| {
            m.u16(1, AF_INET);
            m.u16(2, 6);
            m.put(3, &[10, 0, 1, 102]);
            m.port(4, 80);
        });
    }

    fn put_mark(message: &mut Message) {
        message.nest(1, |m| {
            m.u16(1, AF_INET6);
            m.u32(5, 8);
        });
    }

    #[test]
    fn a_server_is_understood() {
        let message = request(command::NEW_DEST, 5, |m| {
            put_http(m);
            m.nest(2, |m| {
                m.put(1, &[0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11]);
                m.port(2, 8080);
                m.u16(11, AF_INET6);
                m.u32(3, 2);
                m.u32(4, 5);
                m.u32(5, 100);
                m.u32(6, 50);
                m.u8(13, 1);
                m.port(14, 6080);
                m.u16(15, 2);
            });
        });
        let server = Server {
            address: "[fd02::11]:8080".parse().unwrap(),
            forwarding: Forwarding { method: 2, tunnel: 1, tunnel_port: 6080, tunnel_flags: 2 },
            weight: 5,
            upper_threshold: 100,
            lower_threshold: 50,
        };
        assert_eq!(Operation::of(&message), Ok(Operation::AddServer(http(), server)));
    }

    #[test]
    fn a_server_is_of_the_family_of_its_service() {
        let message = request(command::DEL_DEST, 5, |m| {
            put_mark(m);
            m.nest(2, |m| {
                m.put(1, &[0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11]);
                m.port(2, 0);
            });
        });
        let mark = ServiceId::Fwmark { mark: 8, ipv6: true };
        let address = "[fd02::11]:0".parse().unwrap();
        assert_eq!(Operation::of(&message), Ok(Operation::DeleteServer(mark, address)));
    }

    #[test]
    fn commands_with_little_or_nothing() {
        let mark = ServiceId::Fwmark { mark: 8, ipv6: true };
        let timeouts = Timeouts { tcp: 900, tcp_fin: 0, udp: 300 };
        let put_timeouts = |m: &mut Message| {
            m.u32(4, 900);
            m.u32(6, 300);
        };
        let daemon = |m: &mut Message| m.nest(3, |m| m.u32(1, 1));
        for (message, expected) in [
            (request(command::DEL_SERVICE, 5, put_mark), Operation::DeleteService(mark)),
            (request(command::GET_SERVICE, 5, put_mark), Operation::Service(mark)),
            (request(command::GET_SERVICE, 0x301, |_| ()), Operation::Services),
            (request(command::GET_DEST, 0x301, put_mark), Operation::Servers(mark)),
            (request(command::NEW_DAEMON, 5, daemon), Operation::StartDaemon),
            (request(command::DEL_DAEMON, 5, daemon), Operation::StopDaemon),
            (request(command::GET_DAEMON, 0x301, |_| ()), Operation::Daemons),
            (request(command::SET_CONFIG, 5, put_timeouts), Operation::SetTimeouts(timeouts)),
            (request(command::GET_CONFIG, 5, |_| ()), Operation::Timeouts),
            (request(command::GET_INFO, 5, |_| ()), Operation::Info),
            (request(command::ZERO, 5, put_mark), Operation::Zero(Some(mark))),
            (request(command::ZERO, 5, |_| ()), Operation::Zero(None)),
            (request(command::FLUSH, 5, |_| ()), Operation::Flush),
        ] {
            assert_eq!(Operation::of(&message), Ok(expected));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_the_kernels_error() {
        let odd_family = |m: &mut Message| m.nest(1, |m| m.u16(1, 1));
        for (message, errno) in [
            (request(command::NEW_SERVICE, 5, put_http), Errno::EINVAL),
            (request(command::NEW_SERVICE, 5, |_| ()), Errno::EINVAL),
            (request(command::NEW_DEST, 5, put_http), Errno::EINVAL),
            (request(command::DEL_DEST, 5, |_| ()), Errno::EINVAL),
            (request(command::DEL_SERVICE, 5, odd_family), Errno::EAFNOSUPPORT),
            (request(command::NEW_DAEMON, 5, |_| ()), Errno::EINVAL),
            (request(command::GET_DEST, 5, put_http), Errno::EOPNOTSUPP),
            (request(99, 5, |_| ()), Errno::EOPNOTSUPP),
            (request(1, 5, |_| ())[..18].to_vec(), Errno::EINVAL),
        ] {
            assert_eq!(Operation::of(&message), Err(errno));
        }
    }

    /// No input makes it panic.
    #[test]
    fn broken_requests_are_errors_or_something_else() {
        let whole = request(command::NEW_DEST, 5, |m| {
            put_http(m);
            m.nest(2, |m| m.u32(1, 1));
        });
        for at in 0..whole.len() {
            for byte in [0, 1, 4, 0x7f, 0xff] {
                let mut broken = whole.clone();
                broken[at] = byte;
                let _ = Operation::of(&broken);
                let _ = Operation::of(&broken[..at]);
            }
        }
    }
}
