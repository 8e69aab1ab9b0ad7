//! Ports: opened by device string, configured once, started and stopped.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::sync::Arc;

use dpdk_sys::{
    RVS_FRAME_RSS, RVS_RSS_KEY_MAX, rvs_link, rvs_port_config, rvs_port_info, rvs_port_stats,
};
use nix::libc::ENOTSUP;

use super::args::{device_name, is_pci_address};
use super::device::{Device, Direction, Refusal};
use super::mbuf::HEADROOM;
use super::pool::Pool;
use super::port_error::{PortError, PortProblem};
use super::queue::{RxQueue, TxBuffer};
use super::{check, error_text};
use crate::packet::headers::VLAN_TAG;

/// The longest RSS key of the NICs in use (i40e, ice). Others take the first 40
/// bytes, which is all the same for a key with a period of 16 bits.
pub const RSS_KEY_LEN: usize = RVS_RSS_KEY_MAX as usize;
/// Room for the Ethernet header and two VLAN tags, where a driver asks for less.
const MIN_OVERHEAD: u32 = 14 + 2 * 4;
/// What ethdev counts of every frame beside the MTU.
const ETHERNET_AND_CRC: u32 = 14 + 4;

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
/// stays started. Dropping the port closes the device, after the last queue.
pub struct Port {
    device: Arc<Device>,
    name: String,
    info: PortInfo,
    rss: Rss,
    /// ethdev's control functions are not made for two threads at a time.
    _not_sync: PhantomData<Cell<()>>,
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
        let id = find(device).ok_or_else(|| no_device(device, pool))?;
        let limits = read_info(id).map_err(failed("reading the device's limits"))?;
        check_limits(config, &limits, pool)?;
        let is_pci = is_pci_address(device_name(device));
        let device = Device::open(id, pool)
            .ok_or_else(|| PortProblem::AlreadyOpen(device_name(device).to_string()))?;

        let control = device.shared().control();
        let tag = tag_in_mtu(config, &limits, is_pci);
        let rss = configure(id, config, tag, &limits).map_err(failed("configuring the device"))?;
        set_up_queues(id, config, pool)?;
        // SAFETY: the port is open, and configured above.
        match check(unsafe { dpdk_sys::rvs_port_set_mtu(id, config.mtu + tag) }) {
            Ok(()) | Err(ENOTSUP) => {}
            Err(errno) => return Err(PortProblem::Failed { step: "setting the MTU", errno }),
        }
        drop(control);
        device.set_queues(config.rx_queues, config.tx_queues);

        let now = read_info(id).map_err(failed("reading the device's state"))?;
        let info = PortInfo {
            id,
            mac: now.mac,
            mtu: now.mtu.min(config.mtu),
            driver: driver(&now),
            numa_node: u32::try_from(now.numa_node).ok(),
        };
        Ok(Self { device, name: config.name.to_string(), info, rss, _not_sync: PhantomData })
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
                    self.name,
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
        Ok(TxBuffer::new(claim))
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
        let mut link = rvs_link { speed_mbps: 0, up: false, full_duplex: false };
        // SAFETY: the port is open; the call fills in `link`.
        check(unsafe { dpdk_sys::rvs_port_link(self.info.id, &mut link) })
            .map_err(|errno| self.error(PortProblem::Failed { step: "reading the link", errno }))?;
        let speed_mbps = Some(link.speed_mbps).filter(|&speed| speed != 0 && speed != u32::MAX);
        Ok(Link { up: link.up, speed_mbps, full_duplex: link.full_duplex })
    }

    /// The driver's counters.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn stats(&self) -> Result<PortStats, PortError> {
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
                "port {}: {} filters no addresses, or cannot be told to",
                self.name,
                self.info.driver
            );
        }
    }

    fn error(&self, problem: PortProblem) -> PortError {
        PortError { port: self.name.clone(), problem }
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

/// DPDK names a PCI port by its full address.
fn find(device: &str) -> Option<u16> {
    let name = device_name(device);
    let short = is_pci_address(name) && name.matches(':').count() == 1;
    let full = if short { format!("0000:{name}") } else { name.to_string() };
    let c_name = CString::new(full).ok()?;
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

fn driver(info: &rvs_port_info) -> String {
    // SAFETY: the shim closes the array with a zero.
    unsafe { CStr::from_ptr(info.driver.as_ptr()) }.to_string_lossy().into_owned()
}

fn check_limits(
    config: &PortConfig<'_>,
    limits: &rvs_port_info,
    pool: &Pool,
) -> Result<(), PortProblem> {
    let queues = [
        (Direction::Rx, config.rx_queues, limits.max_rx_queues),
        (Direction::Tx, config.tx_queues, limits.max_tx_queues),
    ];
    for (direction, wanted, offered) in queues {
        if wanted > offered {
            return Err(PortProblem::TooManyQueues { direction, wanted, offered });
        }
    }
    if driver(limits) == "net_tap" && config.rx_queues != config.tx_queues {
        return Err(PortProblem::UnequalQueues("net_tap"));
    }
    if config.mtu < limits.min_mtu || config.mtu > limits.max_mtu {
        return Err(PortProblem::Mtu {
            wanted: config.mtu,
            min: limits.min_mtu,
            max: limits.max_mtu,
        });
    }
    // No scattered frames: whatever arrives lies in one segment.
    let needed =
        u32::from(HEADROOM) + u32::from(config.mtu) + limits.frame_overhead.max(MIN_OVERHEAD);
    let room = pool.data_room();
    if needed > u32::from(room) {
        return Err(PortProblem::DataRoom { mtu: config.mtu, needed, room });
    }
    let bad = |rss: &RssConfig| {
        rss.reta.is_empty() || rss.reta.iter().any(|&queue| queue >= config.rx_queues)
    };
    if config.rss.is_some_and(bad) {
        return Err(PortProblem::BadReta);
    }
    Ok(())
}

/// What the device's MTU has to be larger, bytes, so that packets of the port's
/// MTU come through with a tag: ethdev has drivers make frame sizes of MTUs, and
/// some leave out the tag. Virtual devices stand on interfaces of the kernel,
/// which takes a tag into account by itself.
fn tag_in_mtu(config: &PortConfig<'_>, limits: &rvs_port_info, is_pci: bool) -> u16 {
    let counted = limits.frame_overhead >= ETHERNET_AND_CRC + VLAN_TAG as u32;
    if !config.tagged || !is_pci || counted {
        return 0;
    }
    (VLAN_TAG as u16).min(limits.max_mtu - config.mtu)
}

/// Configures the device with our RSS where it takes that, else with its own.
/// Its MTU is `tag` bytes larger than the port's.
fn configure(
    id: u16,
    config: &PortConfig<'_>,
    tag: u16,
    limits: &rvs_port_info,
) -> Result<Rss, i32> {
    let mut conf = rvs_port_config {
        rx_queues: config.rx_queues,
        tx_queues: config.tx_queues,
        mtu: config.mtu + tag,
        // net_tap offers it and then sums up whole packets in software.
        ipv4_checksum: limits.ipv4_checksum && driver(limits) != "net_tap",
        rss: false,
        rss_key: std::ptr::null(),
        rss_key_len: 0,
    };
    let several = config.rx_queues > 1;
    if let Some((rss, reta)) = config.rss.and_then(|rss| Some((rss, device_reta(rss, limits)?))) {
        conf.rss = true;
        conf.rss_key = rss.key.as_ptr();
        conf.rss_key_len = limits.hash_key_size;
        // SAFETY: the port is known to ethdev and not started; the key has
        // RSS_KEY_LEN bytes, and `device_reta` saw that the device wants no more.
        if check(unsafe { dpdk_sys::rvs_port_configure(id, &conf) }).is_ok() {
            let state = RssState::Programmed { reta_size: limits.reta_size };
            return Ok(Rss { state, reta: Some(reta) });
        }
        log::warn!(
            "port {}: the device refuses the RSS key; workers hand packets over in software",
            config.name
        );
        conf.rss_key = std::ptr::null();
        conf.rss_key_len = 0;
    }
    conf.rss = several && limits.rss;
    // SAFETY: as above, without a key.
    check(unsafe { dpdk_sys::rvs_port_configure(id, &conf) })?;
    Ok(Rss { state: if several { RssState::Fixed } else { RssState::None }, reta: None })
}

/// The device's redirection table, if the device can do what we want: hash over
/// ports for all four kinds of packets, with a key of ours, and a table whose
/// size is a multiple of ours (so that `hash % size % ours == hash % ours`).
fn device_reta(rss: &RssConfig, limits: &rvs_port_info) -> Option<Vec<u16>> {
    let (size, ours) = (usize::from(limits.reta_size), rss.reta.len());
    let key_len = usize::from(limits.hash_key_size);
    let able = limits.rss_ports && key_len > 0 && key_len <= RSS_KEY_LEN;
    let fits = size > 0 && size % ours == 0;
    (able && fits).then(|| rss.reta.iter().copied().cycle().take(size).collect())
}

fn set_up_queues(id: u16, config: &PortConfig<'_>, pool: &Pool) -> Result<(), PortProblem> {
    let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
    // SAFETY: the port is configured; both numbers are adjusted in place.
    check(unsafe { dpdk_sys::rvs_port_adjust_descriptors(id, &mut rx, &mut tx) })
        .map_err(failed("choosing descriptors"))?;
    if (rx, tx) != (config.rx_descriptors, config.tx_descriptors) {
        log::info!(
            "port {}: {rx} receive and {tx} transmit descriptors, as the device wants",
            config.name
        );
    }
    for queue in 0..config.rx_queues {
        // SAFETY: the port is configured and not started; the pool outlives it,
        // because the device holds a handle.
        check(unsafe { dpdk_sys::rvs_port_rx_queue(id, queue, rx, pool.raw()) })
            .map_err(failed("setting up a receive queue"))?;
    }
    for queue in 0..config.tx_queues {
        // SAFETY: the port is configured and not started.
        check(unsafe { dpdk_sys::rvs_port_tx_queue(id, queue, tx) })
            .map_err(failed("setting up a transmit queue"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(reta_size: u16, hash_key_size: u8) -> rvs_port_info {
        rvs_port_info {
            reta_size,
            hash_key_size,
            rss_ports: true,
            rss: true,
            ..rvs_port_info::default()
        }
    }

    #[test]
    fn makes_room_for_a_tag_where_the_driver_does_not() {
        let config = |tagged| PortConfig {
            name: "lan",
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 64,
            tx_descriptors: 64,
            mtu: 1500,
            tagged,
            rss: None,
        };
        for (tagged, frame_overhead, max_mtu, is_pci, more) in [
            (true, 18, 9000, true, 4),
            (false, 18, 9000, true, 0),
            (true, 22, 9000, true, 0),
            (true, 26, 9000, true, 0),
            (true, 18, 9000, false, 0),
            // It takes what it has.
            (true, 18, 1502, true, 2),
            (true, 18, 1500, true, 0),
        ] {
            let limits = rvs_port_info { frame_overhead, max_mtu, ..rvs_port_info::default() };
            assert_eq!(tag_in_mtu(&config(tagged), &limits, is_pci), more, "{frame_overhead}");
        }
    }

    #[test]
    fn repeats_our_table_in_a_larger_one() {
        let rss = RssConfig { key: [0; RSS_KEY_LEN], reta: vec![0, 1, 1, 0] };
        let reta = device_reta(&rss, &limits(8, 40)).unwrap();
        assert_eq!(reta, [0, 1, 1, 0, 0, 1, 1, 0]);
    }

    #[test]
    fn leaves_devices_alone_that_cannot_hash_as_we_do() {
        let rss = RssConfig { key: [0; RSS_KEY_LEN], reta: vec![0, 1, 1, 0] };
        assert_eq!(device_reta(&rss, &limits(6, 40)), None, "table size is no multiple");
        assert_eq!(device_reta(&rss, &limits(2, 40)), None, "table too small");
        assert_eq!(device_reta(&rss, &limits(0, 40)), None, "no table");
        assert_eq!(device_reta(&rss, &limits(8, 0)), None, "no key");
        assert_eq!(device_reta(&rss, &limits(8, 60)), None, "key too long");
        let addresses_only = rvs_port_info { rss_ports: false, ..limits(8, 40) };
        assert_eq!(device_reta(&rss, &addresses_only), None);
    }
}
