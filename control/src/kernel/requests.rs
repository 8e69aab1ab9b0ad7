//! What rvsd asks of the kernel, each request acknowledged before the call
//! returns, or failed after a second.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use nix::errno::Errno;

use super::decode;
use super::event::{Address, Event, NeighbourState};
use super::netlink::{
    Fault, NetlinkError, answer_code, messages, open_socket, receive, send, wait_readable,
};

/// How long the kernel may take. It answers in microseconds, but can be held
/// up by whoever has the lock of the network configuration.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest datagram of an answer or a dump.
const DATAGRAM: usize = 64 * 1024;

/// Whether an address was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It is there now.
    Added,
    /// It was there before.
    AlreadyThere,
}

/// Whether an address was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It is gone now.
    Deleted,
    /// It, or its link, was not there.
    NotThere,
}

/// A neighbour entry as the kernel reports it when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelNeighbour {
    /// Its state.
    pub state: NeighbourState,
    /// The kernel keeps it resolved by itself (NTF_EXT_MANAGED).
    pub managed: bool,
}

/// The socket for requests.
pub struct Requests {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Requests {
    /// Opens the socket, in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let (socket, _) = open_socket()?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM], sequence: 0 })
    }

    /// Adds an address to a link. An IPv6 address is usable at once: no
    /// duplicate address detection. One of IPv6 for a single host is deprecated
    /// (RFC 4862, section 5.5.4): it receives, but is no source of the host's
    /// own packets while the link has another.
    pub fn add_address(
        &mut self,
        link: u32,
        ip: IpAddr,
        prefix_len: u8,
    ) -> Result<Added, NetlinkError> {
        let operation = format!("add address {ip}/{prefix_len} to link {link}");
        let mut message = address_message(link, ip, prefix_len);
        if ip.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            if prefix_len == 128 {
                let mut life = CacheInfo::default();
                (life.ifa_preferred, life.ifa_valid) = (0, u32::MAX);
                message.attributes.push(AddressAttribute::CacheInfo(life));
            }
        }
        let request = RouteNetlinkMessage::NewAddress(message);
        match self.change(&operation, NLM_F_CREATE | NLM_F_EXCL, request) {
            Ok(()) => Ok(Added::Added),
            Err(error) if error.fault == Fault::Errno(Errno::EEXIST) => Ok(Added::AlreadyThere),
            Err(error) => Err(error),
        }
    }

    /// Deletes an address from a link.
    pub fn delete_address(
        &mut self,
        link: u32,
        ip: IpAddr,
        prefix_len: u8,
    ) -> Result<Deleted, NetlinkError> {
        let operation = format!("delete address {ip}/{prefix_len} from link {link}");
        let message = address_message(link, ip, prefix_len);
        let request = RouteNetlinkMessage::DelAddress(message);
        match self.change(&operation, 0, request).map_err(|error| (error.fault, error)) {
            Ok(()) => Ok(Deleted::Deleted),
            Err((Fault::Errno(Errno::EADDRNOTAVAIL | Errno::ENODEV | Errno::ENXIO), _)) => {
                Ok(Deleted::NotThere)
            }
            Err((_, error)) => Err(error),
        }
    }

    /// All addresses of the machine, as of now.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        let mut addresses = Vec::new();
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.transact("list addresses", NLM_F_DUMP, request, &mut |message| {
            let payload = message.payload();
            let event = decode::event(message.message_type(), message.flags(), payload);
            if let Ok(Some(Event::Address(address))) = event {
                addresses.push(address);
            }
        })?;
        Ok(addresses)
    }

    /// Switches a link on.
    pub fn set_link_up(&mut self, link: u32) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = link;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(&format!("set link {link} up"), 0, RouteNetlinkMessage::SetLink(message))
    }

    /// What the kernel has for a neighbour, as of now.
    pub fn neighbour(
        &mut self,
        link: u32,
        ip: IpAddr,
    ) -> Result<Option<KernelNeighbour>, NetlinkError> {
        let operation = format!("look up neighbour {ip} on link {link}");
        let request = RouteNetlinkMessage::GetNeighbour(neighbour_message(link, ip));
        let mut found = None;
        let result = self.transact(&operation, NLM_F_ACK, request, &mut |message| {
            if message.message_type() != decode::RTM_NEWNEIGH {
                return;
            }
            if let Ok(Some((entry, managed))) = decode::neighbour(message.payload()) {
                found = Some(KernelNeighbour { state: entry.state, managed });
            }
        });
        match result {
            Ok(()) => Ok(found),
            Err(error) if error.fault == Fault::Errno(Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the kernel to keep a neighbour resolved for good
    /// (NTF_EXT_MANAGED, Linux 5.16). Kernels before that accept it and do
    /// nothing: [`Requests::neighbour`] tells.
    ///
    /// It would turn a permanent entry into an ordinary one: look first.
    pub fn manage_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let mut message = neighbour_message(link, ip);
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        let operation = format!("keep neighbour {ip} on link {link} resolved");
        let request = RouteNetlinkMessage::NewNeighbour(message);
        self.change(&operation, NLM_F_CREATE | NLM_F_REPLACE, request)
    }

    /// Takes [`Requests::manage_neighbour`] back. The entry stays, as an
    /// ordinary one that ages, since other traffic may be using it.
    pub fn release_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<Deleted, NetlinkError> {
        let operation = format!("release neighbour {ip} on link {link}");
        let request = RouteNetlinkMessage::NewNeighbour(used_neighbour(link, ip));
        match self.change(&operation, NLM_F_REPLACE, request).map_err(|error| (error.fault, error))
        {
            Ok(()) => Ok(Deleted::Deleted),
            Err((Fault::Errno(Errno::ENOENT | Errno::ENODEV), _)) => Ok(Deleted::NotThere),
            Err((_, error)) => Err(error),
        }
    }

    /// Makes the kernel resolve a neighbour now, as if a packet were sent to
    /// it (NTF_USE); it asks on the wire only if the entry is not fresh.
    pub fn use_neighbour(&mut self, link: u32, ip: IpAddr) -> Result<(), NetlinkError> {
        let operation = format!("resolve neighbour {ip} on link {link}");
        let request = RouteNetlinkMessage::NewNeighbour(used_neighbour(link, ip));
        self.change(&operation, NLM_F_CREATE | NLM_F_REPLACE, request)
    }

    fn change(
        &mut self,
        operation: &str,
        flags: u16,
        request: RouteNetlinkMessage,
    ) -> Result<(), NetlinkError> {
        self.transact(operation, NLM_F_ACK | flags, request, &mut |_| {})
    }

    /// Sends a request and shows `visit` what comes until the end: the
    /// acknowledgement, or the end of a dump. What is left of an earlier
    /// request that timed out is passed over.
    fn transact(
        &mut self,
        operation: &str,
        flags: u16,
        request: RouteNetlinkMessage,
        visit: &mut dyn FnMut(&NetlinkBuffer<&[u8]>),
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let deadline = Instant::now() + PATIENCE;
        send(&self.socket, NLM_F_REQUEST | flags, self.sequence, request)
            .map_err(|error| NetlinkError::io(operation, &error))?;
        loop {
            let length = match receive(&self.socket, &mut self.buffer) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) if Instant::now() < deadline => {
                    wait_readable(&self.socket, deadline)?;
                    continue;
                }
                Err(Errno::EAGAIN) => return Err(NetlinkError::timeout(operation)),
                Err(errno) => return Err(NetlinkError::errno(operation, errno)),
            };
            for message in messages(&self.buffer[..length]) {
                if message.sequence_number() != self.sequence {
                    continue;
                }
                if matches!(message.message_type(), NLMSG_DONE | NLMSG_ERROR) {
                    return answer_code(message.payload())
                        .map_err(|errno| NetlinkError::errno(operation, errno));
                }
                visit(&message);
            }
        }
    }
}

fn address_message(link: u32, ip: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(ip);
    message.header.prefix_len = prefix_len;
    message.header.index = link;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn neighbour_message(link: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = link;
    message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
    message
}

fn used_neighbour(link: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = neighbour_message(link, ip);
    message.header.flags = NeighbourFlags::Use;
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
