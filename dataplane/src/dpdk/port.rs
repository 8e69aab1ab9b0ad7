//! Ports: opened by device string, configured, started and stopped, and what is
//! known of them.

use std::cell::Cell;
use std::ffi::CString;
use std::marker::PhantomData;
use std::sync::Arc;

use dpdk_sys::{RVS_FRAME_RSS, RVS_RSS_KEY_MAX, rvs_link, rvs_port_info, rvs_port_stats};

use super::args::{device_name, full_name, is_pci_address};
use super::bond::{Bond, BondMode, InUse, Member, MemberState, agreed, look};
use super::capabilities::{check_limits, driver, plan};
use super::device::{Device, Direction, Refusal};
use super::pool::Pool;
use super::port_error::{PortError, PortProblem};
use super::queue::{RxQueue, TxBuffer};
use super::{check, error_text};
use setup::{make_bond, set_up};

mod recovery;
mod setup;

use recovery::Respite;

pub use recovery::Recovery;

/// The longest RSS key of the NICs in use (i40e, ice). Others take the first 40
/// bytes, which is all the same for a key with a period of 16 bits.
pub const RSS_KEY_LEN: usize = RVS_RSS_KEY_MAX as usize;

/// How the device is to spread frames over queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RssConfig {
    /// The Toeplitz key.
    pub key: [u8; RSS_KEY_LEN],
    /// The redirection table: `reta[hash % reta.len()]` is the receive queue. A
    /// device with a larger table gets it repeated; choose 128 or a smaller power
    /// of two, so that it fits the common ones.
    pub reta: Vec<u16>,
}

/// What a port is to be.
#[derive(Debug, Clone)]
pub struct PortConfig<'a> {
    /// The operator's name of the port, for messages.
    pub name: &'a str,
    /// Its members, where the device is a bond.
    pub bond: Option<&'a Bond>,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
    /// Descriptors per receive queue; moved into the device's limits.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue; moved into the device's limits.
    pub tx_descriptors: u16,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
    /// Whether packets of that size may come with a VLAN tag.
    pub tagged: bool,
    /// How frames are spread over the receive queues, where the device takes it.
    pub rss: Option<&'a RssConfig>,
}

/// How the device spreads frames over its receive queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RssState {
    /// By the configured key and table, for TCP and UDP over IPv4 and IPv6.
    Programmed {
        /// The device's table size.
        reta_size: u16,
    },
    /// By a rule of its own.
    Fixed,
    /// There is one queue, and the device does not hash as configured.
    None,
}

/// What is known of an open port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// DPDK's number of the port.
    pub id: u16,
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// The MTU in effect, of untagged frames.
    pub mtu: u16,
    /// The driver's name, such as `net_tap`.
    pub driver: String,
    /// The NUMA node of the device, where it has one.
    pub numa_node: Option<u32>,
    /// The workers that it has receive and transmit queues for.
    pub max_queues: u16,
}

/// The state of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether there is one.
    pub up: bool,
    /// Its speed, where the driver knows.
    pub speed_mbps: Option<u32>,
    /// Whether it is full duplex.
    pub full_duplex: bool,
}

/// Counters of the driver, since the port was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames lost because the receive queues were full.
    pub rx_missed: u64,
    /// Frames that arrived broken.
    pub rx_errors: u64,
    /// Frames lost because the pool was empty.
    pub rx_no_mbuf: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
}

/// An open port.
///
/// A started port hands out each of its queues once; as long as one is out, it
/// is stopped only while its user keeps off. Dropping the port closes the device,
/// after the last queue.
pub struct Port {
    device: Arc<Device>,
    settings: Settings,
    info: PortInfo,
    rss: Rss,
    /// By member of a bond: its device is gone.
    removed: Vec<bool>,
    /// Whether the port works: it is not gone, and no reset failed.
    works: bool,
    respite: Respite,
    /// ethdev's control functions are not made for two threads at a time.
    _not_sync: PhantomData<Cell<()>>,
}

/// A [`PortConfig`] to keep, for resets.
struct Settings {
    name: String,
    is_pci: bool,
    bond: Option<Bond>,
    rx_queues: u16,
    tx_queues: u16,
    rx_descriptors: u16,
    tx_descriptors: u16,
    mtu: u16,
    tagged: bool,
    rss: Option<RssConfig>,
}

impl Settings {
    fn new(config: &PortConfig<'_>, is_pci: bool) -> Self {
        let PortConfig { rx_queues, tx_queues, rx_descriptors, tx_descriptors, .. } = *config;
        let PortConfig { mtu, tagged, .. } = *config;
        let (name, bond, rss) = (config.name.to_owned(), config.bond.cloned(), config.rss.cloned());
        Self {
            name,
            is_pci,
            bond,
            rx_queues,
            tx_queues,
            rx_descriptors,
            tx_descriptors,
            mtu,
            tagged,
            rss,
        }
    }

    fn config(&self) -> PortConfig<'_> {
        let Self { rx_queues, tx_queues, rx_descriptors, tx_descriptors, .. } = *self;
        PortConfig {
            name: &self.name,
            bond: self.bond.as_ref(),
            rx_queues,
            tx_queues,
            rx_descriptors,
            tx_descriptors,
            mtu: self.mtu,
            tagged: self.tagged,
            rss: self.rss.as_ref(),
        }
    }
}

/// What was arranged about RSS while configuring.
struct Rss {
    state: RssState,
    /// The device's whole table, to be written after each start.
    reta: Option<Vec<u16>>,
}

impl Port {
    /// Opens and configures the port of a device that [`super::Eal::init`] was
    /// given, by the same string. Frames are received into mbufs of `pool`.
    ///
    /// # Errors
    /// Names what the device or the pool cannot do.
    pub fn open(device: &str, config: &PortConfig<'_>, pool: &Pool) -> Result<Self, PortError> {
        let name = config.name.to_string();
        Self::try_open(device, config, pool).map_err(|problem| PortError { port: name, problem })
    }

    fn try_open(device: &str, config: &PortConfig<'_>, pool: &Pool) -> Result<Self, PortProblem> {
        let (opened, limits) = match config.bond {
            Some(bond) => make_bond(device, bond, config, pool)?,
            None => {
                let id = find(device).ok_or_else(|| no_device(device, pool))?;
                let limits = read_info(id).map_err(failed("reading the device's limits"))?;
                check_limits(config, &limits, pool.data_room())?;
                let taken = || PortProblem::AlreadyOpen(device_name(device).to_string());
                (Device::open(id, Vec::new(), pool).ok_or_else(taken)?, limits)
            }
        };
        let id = opened.id();
        let first = config.bond.and_then(|bond| bond.members.first());
        let is_pci = is_pci_address(device_name(first.map_or(device, |first| first)));
        let plan = plan(config, &limits, is_pci);
        for lack in &plan.lacks {
            log::info!(port = config.name; "port {}: {lack}", config.name);
        }
        let rss = set_up(&opened, id, config, &plan, &limits)?;
        opened.watch();

        let now = read_info(id).map_err(failed("reading the device's state"))?;
        let info = PortInfo {
            id,
            mac: now.mac,
            mtu: now.mtu.min(config.mtu),
            driver: driver(&now),
            numa_node: u32::try_from(now.numa_node).ok(),
            max_queues: limits.max_rx_queues.min(limits.max_tx_queues),
        };
        Ok(Self {
            removed: vec![false; opened.members().len()],
            works: true,
            respite: Respite::default(),
            device: opened,
            settings: Settings::new(config, is_pci),
            info,
            rss,
            _not_sync: PhantomData,
        })
    }

    /// Starts the port: it receives all multicast, and is promiscuous only where
    /// the driver has no such mode. Does nothing on a started port.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn start(&mut self) -> Result<(), PortError> {
        let control = self.device.shared().control();
        self.device
            .start()
            .map_err(|errno| self.error(PortProblem::Failed { step: "starting", errno }))?;
        drop(control);
        self.set_filter();
        if let Some(reta) = &self.rss.reta {
            // SAFETY: the port is open; the table has as many entries as named.
            let set = check(unsafe {
                dpdk_sys::rvs_port_set_reta(self.info.id, reta.as_ptr(), reta.len() as u16)
            });
            if let Err(errno) = set {
                log::warn!(
                    "port {}: the device refuses its redirection table ({})",
                    self.settings.name,
                    error_text(errno)
                );
                self.rss = Rss { state: RssState::Fixed, reta: None };
            }
        }
        Ok(())
    }

    /// Stops the port. Does nothing on a stopped one.
    ///
    /// # Errors
    /// While queues are in use, or when the driver refuses.
    pub fn stop(&mut self) -> Result<(), PortError> {
        let _control = self.device.shared().control();
        match self.device.stop() {
            Err(in_use) => Err(self.error(PortProblem::QueuesInUse(in_use))),
            Ok(stopped) => {
                stopped.map_err(|errno| self.error(PortProblem::Failed { step: "stopping", errno }))
            }
        }
    }

    /// Hands out a receive queue of the started port.
    ///
    /// # Errors
    /// When it is not there, or somebody has it.
    pub fn rx_queue(&self, queue: u16) -> Result<RxQueue, PortError> {
        let claim = self
            .device
            .claim(Direction::Rx, queue)
            .map_err(|why| self.refused(why, Direction::Rx, queue))?;
        // A hash by another key than ours says nothing about the owner.
        let programmed = matches!(self.rss.state, RssState::Programmed { .. });
        let flags = if programmed { u16::MAX } else { !(RVS_FRAME_RSS as u16) };
        Ok(RxQueue::new(claim, flags))
    }

    /// Hands out a transmit queue of the started port, with its buffer.
    ///
    /// # Errors
    /// When it is not there, or somebody has it.
    pub fn tx_queue(&self, queue: u16) -> Result<TxBuffer, PortError> {
        let claim = self
            .device
            .claim(Direction::Tx, queue)
            .map_err(|why| self.refused(why, Direction::Tx, queue))?;
        let lacp = self.settings.bond.as_ref().is_some_and(|bond| bond.mode == BondMode::Lacp);
        Ok(TxBuffer::new(claim, lacp && queue == 0))
    }

    /// What is known of the port.
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// How frames are spread over the receive queues; final after the start.
    pub fn rss(&self) -> RssState {
        self.rss.state
    }

    /// The link, as it is now.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn link(&self) -> Result<Link, PortError> {
        if !self.works {
            return Ok(Link { up: false, speed_mbps: None, full_duplex: false });
        }
        link(self.info.id)
            .map_err(|errno| self.error(PortProblem::Failed { step: "reading the link", errno }))
    }

    /// The members of a bond, in the order of the configuration. To be called now
    /// and then: a bond that missed the change of a link is told.
    pub fn members(&self) -> Vec<Member> {
        let Some(bond) = &self.settings.bond else { return Vec::new() };
        let ids = self.device.members().iter().zip(&self.removed);
        ids.zip(&bond.members)
            .map(|((&id, &removed), device)| {
                let removed = removed || !self.works;
                let state = if removed { MemberState::Removed } else { self.member(bond, id) };
                Member { device: device_name(device).to_owned(), state }
            })
            .collect()
    }

    fn member(&self, bond: &Bond, id: u16) -> MemberState {
        let up = link(id).is_ok_and(|link| link.up);
        let Ok(mut in_use) = InUse::of(self.info.id) else {
            // A version of net_bonding that does not tell.
            return if up { MemberState::Active } else { MemberState::Down };
        };
        if !in_use.knows(id, up) {
            look(id);
            in_use = InUse::of(self.info.id).unwrap_or(in_use);
        }
        let agreed = bond.mode == BondMode::Lacp && agreed(self.info.id, id);
        in_use.state(bond.mode, id, up, agreed)
    }

    /// The driver's counters.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn stats(&self) -> Result<PortStats, PortError> {
        if !self.works {
            return Err(self.error(PortProblem::Gone));
        }
        let mut stats = rvs_port_stats::default();
        // SAFETY: the port is open; the call fills in `stats`.
        check(unsafe { rvs_port_stats(self.info.id, &mut stats) }).map_err(|errno| {
            self.error(PortProblem::Failed { step: "reading the counters", errno })
        })?;
        Ok(PortStats {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            rx_no_mbuf: stats.rx_no_mbuf,
            tx_errors: stats.tx_errors,
        })
    }

    /// Neighbour discovery asks at multicast addresses made from the wanted one
    /// (RFC 4861 section 2.3), so all multicast must arrive.
    fn set_filter(&self) {
        let id = self.info.id;
        // SAFETY: the port is open.
        let multicast = check(unsafe { dpdk_sys::rvs_port_set_allmulticast(id) });
        // SAFETY: the port is open.
        let promiscuous =
            check(unsafe { dpdk_sys::rvs_port_set_promiscuous(id, multicast.is_err()) });
        if multicast.is_err() && promiscuous.is_err() {
            log::info!(
                "port {}: {} filters no addresses, or cannot be told to: frames for other machines may arrive, and workers drop them",
                self.settings.name,
                self.info.driver
            );
        }
    }

    fn error(&self, problem: PortProblem) -> PortError {
        PortError { port: self.settings.name.clone(), problem }
    }

    fn refused(&self, why: Refusal, direction: Direction, queue: u16) -> PortError {
        self.error(match why {
            Refusal::NotStarted => PortProblem::NotStarted,
            Refusal::NoSuchQueue => PortProblem::NoSuchQueue(direction, queue),
            Refusal::Taken => PortProblem::QueueTaken(direction, queue),
        })
    }
}

fn no_device(device: &str, pool: &Pool) -> PortProblem {
    PortProblem::NoDevice {
        device: device_name(device).to_string(),
        said: pool.shared().said().to_string(),
    }
}

fn failed(step: &'static str) -> impl Fn(i32) -> PortProblem {
    move |errno| PortProblem::Failed { step, errno }
}

fn link(id: u16) -> Result<Link, i32> {
    let mut link = rvs_link { speed_mbps: 0, up: false, full_duplex: false };
    // SAFETY: ethdev checks the number; the call fills in `link`.
    check(unsafe { dpdk_sys::rvs_port_link(id, &mut link) })?;
    let speed_mbps = Some(link.speed_mbps).filter(|&speed| speed != 0 && speed != u32::MAX);
    Ok(Link { up: link.up, speed_mbps, full_duplex: link.full_duplex })
}

/// DPDK names a PCI port by its full address.
fn find(device: &str) -> Option<u16> {
    let c_name = CString::new(full_name(device)).ok()?;
    let mut id = 0;
    // SAFETY: a C string goes in, and a number comes out; `Pool` arguments of the
    // callers show that EAL runs.
    check(unsafe { dpdk_sys::rvs_port_find(c_name.as_ptr(), &mut id) }).ok().map(|()| id)
}

fn read_info(id: u16) -> Result<rvs_port_info, i32> {
    let mut info = rvs_port_info::default();
    // SAFETY: ethdev checks the number; the call fills in `info`.
    check(unsafe { rvs_port_info(id, &mut info) }).map(|()| info)
}
