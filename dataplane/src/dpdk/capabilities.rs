//! What a device can do, and what is made of it: what it lacks is done in
//! software, and told once with what that costs.

use std::ffi::CStr;

use dpdk_sys::rvs_port_info;

use super::device::Direction;
use super::mbuf::HEADROOM;
use super::port::{PortConfig, RSS_KEY_LEN, RssConfig};
use super::port_error::PortProblem;
use crate::packet::headers::VLAN_TAG;

/// Room for the Ethernet header and two VLAN tags, where a driver asks for less.
const MIN_OVERHEAD: u32 = 14 + 2 * 4;
/// What ethdev counts of every frame beside the MTU.
const ETHERNET_AND_CRC: u32 = 14 + 4;
/// The largest MTU whose frames, with CRC and two tags, lie in one buffer of every
/// NIC. Beyond it some drivers round the buffers of a pool down, to a KiB or a
/// power of two, and spread a frame over several.
const ONE_BUFFER_MTU: u16 = 2048 - 26;

/// What is asked of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// How frames are spread over queues.
    pub(super) spread: Spread,
    /// It checks IPv4 header checksums.
    pub(super) ipv4_checksum: bool,
    /// It is to send packets of several buffers.
    pub(super) multi_segments: bool,
    /// By how many bytes its MTU is larger than the port's.
    pub(super) tag: u16,
    /// What it lacks, and what that means.
    pub(super) lacks: Vec<String>,
}

/// How frames are spread over receive queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Spread {
    /// By our key and this table, which is the device's whole one.
    Ours(Vec<u16>),
    /// By an RSS hash of the device's own.
    Own,
    /// By a rule of the device's own, or to one queue.
    None,
}

/// What a device with these limits is to do for a port.
pub(super) fn plan(config: &PortConfig<'_>, limits: &rvs_port_info, is_pci: bool) -> Plan {
    let name = driver(limits);
    let several = config.rx_queues > 1;
    let mut lacks = Vec::new();
    let spread = match config.rss.map(|rss| device_reta(rss, limits)) {
        Some(Ok(reta)) => Spread::Ours(reta),
        without => {
            if let Some(Err(why)) = without.filter(|_| several) {
                lacks.push(format!(
                    "{name} {why}: packets come to any worker, and are handed to their own in software"
                ));
            }
            if several && limits.rss { Spread::Own } else { Spread::None }
        }
    };
    let ipv4_checksum = checks_ipv4(limits);
    if !ipv4_checksum {
        lacks.push(format!(
            "{name} checks no IPv4 header checksums: workers do, some nanoseconds a packet"
        ));
    }
    let jumbo = config.mtu > ONE_BUFFER_MTU;
    if jumbo && !limits.multi_segments {
        lacks.push(format!(
            "{name} sends no packets of several buffers: if it receives such at MTU {}, they are lost; an mtu of at most {ONE_BUFFER_MTU} is safe",
            config.mtu
        ));
    }
    let wanted = tag_wanted(config, limits, is_pci);
    let tag = wanted.min(limits.max_mtu.saturating_sub(config.mtu));
    if tag < wanted {
        lacks.push(format!(
            "{name} takes no frames of {} bytes and a VLAN tag: in VLANs, the largest packets are lost; lower port.mtu to {}",
            config.mtu,
            limits.max_mtu.saturating_sub(wanted)
        ));
    }
    Plan { spread, ipv4_checksum, multi_segments: jumbo && limits.multi_segments, tag, lacks }
}

/// What the operator asks for and the device cannot have is refused.
pub(super) fn check_limits(
    config: &PortConfig<'_>,
    limits: &rvs_port_info,
    data_room: u16,
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
    // No scattered frames are asked for: what arrives lies in one segment.
    let needed =
        u32::from(HEADROOM) + u32::from(config.mtu) + limits.frame_overhead.max(MIN_OVERHEAD);
    if needed > u32::from(data_room) {
        return Err(PortProblem::DataRoom { mtu: config.mtu, needed, room: data_room });
    }
    let bad = |rss: &RssConfig| {
        rss.reta.is_empty() || rss.reta.iter().any(|&queue| queue >= config.rx_queues)
    };
    if config.rss.is_some_and(bad) {
        return Err(PortProblem::BadReta);
    }
    Ok(())
}

/// What a bond can do: no more than each of its members. What net_bonding says of
/// queues, RSS and checksums does that already, of MTUs and segments not always.
pub(super) fn of_bond(bond: &rvs_port_info, members: &[rvs_port_info]) -> rvs_port_info {
    let mut all = *bond;
    for member in members {
        all.max_rx_queues = all.max_rx_queues.min(member.max_rx_queues);
        all.max_tx_queues = all.max_tx_queues.min(member.max_tx_queues);
        all.min_mtu = all.min_mtu.max(member.min_mtu);
        all.max_mtu = all.max_mtu.min(member.max_mtu);
        all.frame_overhead = all.frame_overhead.max(member.frame_overhead);
        all.rss &= member.rss;
        all.rss_ports &= member.rss_ports;
        all.ipv4_checksum &= checks_ipv4(member);
        all.multi_segments &= member.multi_segments;
    }
    all
}

/// net_tap offers it and then sums up whole packets in software.
fn checks_ipv4(limits: &rvs_port_info) -> bool {
    limits.ipv4_checksum && driver(limits) != "net_tap"
}

/// The name of the device's driver, such as `net_tap`.
pub(super) fn driver(info: &rvs_port_info) -> String {
    // SAFETY: the shim closes the array with a zero, and others leave it as zeros.
    unsafe { CStr::from_ptr(info.driver.as_ptr()) }.to_string_lossy().into_owned()
}

/// What the device's MTU has to be larger, bytes, so that packets of the port's
/// MTU come through with a tag: ethdev has drivers make frame sizes of MTUs, and
/// some leave out the tag. Virtual devices stand on interfaces of the kernel,
/// which takes a tag into account by itself.
fn tag_wanted(config: &PortConfig<'_>, limits: &rvs_port_info, is_pci: bool) -> u16 {
    let counted = limits.frame_overhead >= ETHERNET_AND_CRC + VLAN_TAG as u32;
    if config.tagged && is_pci && !counted { VLAN_TAG as u16 } else { 0 }
}

/// The device's redirection table, if the device can do what we want: hash over
/// ports for all four kinds of packets, with a key of ours, and a table whose
/// size is a multiple of ours (so that `hash % size % ours == hash % ours`).
fn device_reta(rss: &RssConfig, limits: &rvs_port_info) -> Result<Vec<u16>, String> {
    let (size, ours) = (usize::from(limits.reta_size), rss.reta.len());
    let key_len = usize::from(limits.hash_key_size);
    if !limits.rss_ports {
        return Err("hashes TCP and UDP not by addresses and ports".into());
    }
    if key_len == 0 {
        return Err("takes no RSS key".into());
    }
    if key_len > RSS_KEY_LEN {
        return Err(format!(
            "wants an RSS key of {key_len} bytes, of which there are {RSS_KEY_LEN}"
        ));
    }
    if size == 0 {
        return Err("has no RSS redirection table".into());
    }
    if size % ours != 0 {
        return Err(format!(
            "has an RSS redirection table of {size} entries, no multiple of {ours}"
        ));
    }
    Ok(rss.reta.iter().copied().cycle().take(size).collect())
}

/// mbufs of a queue that a driver keeps for good when it is closed, at most.
///
/// net_af_xdp (seen in DPDK 22.11) closes its sockets with the mbufs that it gave
/// the kernel: 2,048 to receive into, those that wait to be sent, and 2,048 at
/// most that were. The kernel then has no use for them, and nobody gives them
/// back.
pub(super) fn keeps(info: &rvs_port_info, tx_descriptors: u16) -> u32 {
    if driver(info) == "net_af_xdp" { 2 * 2048 + u32::from(tx_descriptors) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSS: RssConfig = RssConfig { key: [0; RSS_KEY_LEN], reta: Vec::new() };

    fn rss() -> RssConfig {
        RssConfig { reta: vec![0, 1, 1, 0], ..RSS }
    }

    fn config(rss: Option<&RssConfig>) -> PortConfig<'_> {
        let queues = if rss.is_some() { 2 } else { 1 };
        PortConfig {
            name: "lan",
            bond: None,
            rx_queues: queues,
            tx_queues: queues,
            rx_descriptors: 64,
            tx_descriptors: 64,
            mtu: 1500,
            tagged: false,
            rss,
        }
    }

    /// A NIC that lacks nothing.
    fn nic() -> rvs_port_info {
        let mut nic = rvs_port_info {
            max_rx_queues: 16,
            max_tx_queues: 16,
            min_mtu: 68,
            max_mtu: 9710,
            frame_overhead: 26,
            reta_size: 8,
            hash_key_size: 40,
            rss: true,
            rss_ports: true,
            ipv4_checksum: true,
            multi_segments: true,
            ..rvs_port_info::default()
        };
        name(&mut nic, "net_ice");
        nic
    }

    fn name(info: &mut rvs_port_info, name: &str) {
        info.driver = [0; 64];
        for (to, from) in info.driver.iter_mut().zip(name.bytes()) {
            *to = from as _;
        }
    }

    #[test]
    fn a_nic_that_lacks_nothing_does_all() {
        let rss = rss();
        let config = PortConfig { mtu: 9000, tagged: true, ..config(Some(&rss)) };
        let plan = plan(&config, &nic(), true);
        assert_eq!(
            plan,
            Plan {
                spread: Spread::Ours(vec![0, 1, 1, 0, 0, 1, 1, 0]),
                ipv4_checksum: true,
                multi_segments: true,
                tag: 0,
                lacks: vec![],
            }
        );
    }

    #[test]
    fn workers_spread_packets_where_the_device_cannot() {
        let rss = rss();
        for (lacking, why) in [
            (rvs_port_info { reta_size: 6, ..nic() }, "of 6 entries, no multiple of 4"),
            (rvs_port_info { reta_size: 2, ..nic() }, "of 2 entries, no multiple of 4"),
            (rvs_port_info { reta_size: 0, ..nic() }, "has no RSS redirection table"),
            (rvs_port_info { hash_key_size: 0, ..nic() }, "takes no RSS key"),
            (rvs_port_info { hash_key_size: 60, ..nic() }, "wants an RSS key of 60 bytes"),
            (rvs_port_info { rss_ports: false, ..nic() }, "not by addresses and ports"),
        ] {
            let plan = plan(&config(Some(&rss)), &lacking, true);
            assert_eq!(plan.spread, Spread::Own, "{why}");
            let [line] = &plan.lacks[..] else { panic!("{why}: {:?}", plan.lacks) };
            assert!(line.starts_with("net_ice ") && line.contains(why), "{line}");
            assert!(line.ends_with("handed to their own in software"), "{line}");
        }
        let none = rvs_port_info { rss: false, rss_ports: false, ..nic() };
        assert_eq!(plan(&config(Some(&rss)), &none, true).spread, Spread::None);
        // With one queue there is nothing to spread, and nothing to say.
        let one = plan(&config(None), &rvs_port_info { reta_size: 0, ..nic() }, true);
        assert_eq!((one.spread, one.lacks), (Spread::None, vec![]));
    }

    #[test]
    fn workers_check_checksums_where_the_device_does_not() {
        let without = rvs_port_info { ipv4_checksum: false, ..nic() };
        let plan_of = |limits: &rvs_port_info| plan(&config(None), limits, true);
        let plan = plan_of(&without);
        assert!(!plan.ipv4_checksum);
        assert_eq!(
            plan.lacks,
            ["net_ice checks no IPv4 header checksums: workers do, some nanoseconds a packet"]
        );
        // net_tap says that it does.
        let mut tap = nic();
        name(&mut tap, "net_tap");
        let plan = plan_of(&tap);
        assert!(!plan.ipv4_checksum && plan.lacks[0].starts_with("net_tap checks no"));
    }

    #[test]
    fn jumbo_frames_may_leave_in_several_buffers() {
        let plan_of = |mtu: u16, multi_segments: bool| {
            let limits = rvs_port_info { multi_segments, ..nic() };
            plan(&PortConfig { mtu, ..config(None) }, &limits, true)
        };
        assert!(plan_of(2023, true).multi_segments);
        assert!(!plan_of(2022, true).multi_segments, "it costs the fastest way to send");
        assert_eq!(plan_of(2022, false).lacks, Vec::<String>::new());
        let without = plan_of(9000, false);
        assert!(!without.multi_segments);
        assert!(without.lacks[0].contains("at MTU 9000, they are lost; an mtu of at most 2022"));
    }

    #[test]
    fn makes_room_for_a_tag_where_the_driver_does_not() {
        for (tagged, frame_overhead, max_mtu, is_pci, more, lacks) in [
            (true, 18, 9000, true, 4, 0),
            (false, 18, 9000, true, 0, 0),
            (true, 22, 9000, true, 0, 0),
            (true, 26, 9000, true, 0, 0),
            (true, 18, 9000, false, 0, 0),
            // It takes what it has.
            (true, 18, 1502, true, 2, 1),
            (true, 18, 1500, true, 0, 1),
        ] {
            let limits = rvs_port_info { frame_overhead, max_mtu, ..nic() };
            let plan = plan(&PortConfig { tagged, ..config(None) }, &limits, is_pci);
            assert_eq!((plan.tag, plan.lacks.len()), (more, lacks), "{frame_overhead} {max_mtu}");
        }
        let limits = rvs_port_info { frame_overhead: 18, max_mtu: 1500, ..nic() };
        let plan = plan(&PortConfig { tagged: true, ..config(None) }, &limits, true);
        assert!(plan.lacks[0].ends_with("lower port.mtu to 1496"), "{:?}", plan.lacks);
    }

    #[test]
    fn only_af_xdp_keeps_buffers() {
        let mut xdp = nic();
        name(&mut xdp, "net_af_xdp");
        assert_eq!((keeps(&xdp, 1024), keeps(&nic(), 1024)), (5120, 0));
    }

    #[test]
    fn refuses_what_cannot_be_replaced() {
        let rss = rss();
        let check = |limits: &rvs_port_info| check_limits(&config(Some(&rss)), limits, 2176);
        assert_eq!(check(&nic()), Ok(()));
        let (wanted, offered) = (2, 1);
        assert_eq!(
            check(&rvs_port_info { max_tx_queues: 1, ..nic() }),
            Err(PortProblem::TooManyQueues { direction: Direction::Tx, wanted, offered })
        );
        assert_eq!(
            check(&rvs_port_info { max_mtu: 1400, ..nic() }),
            Err(PortProblem::Mtu { wanted: 1500, min: 68, max: 1400 })
        );
    }

    #[test]
    fn a_bond_can_do_what_all_of_its_members_can() {
        let bond = rvs_port_info { max_mtu: u16::MAX, min_mtu: 0, frame_overhead: 18, ..nic() };
        let one = rvs_port_info { max_rx_queues: 4, ipv4_checksum: false, ..nic() };
        let other = rvs_port_info { max_mtu: 1504, frame_overhead: 30, ..nic() };
        let other = rvs_port_info { multi_segments: false, rss_ports: false, ..other };
        let all = of_bond(&bond, &[one, other]);
        assert_eq!((all.max_rx_queues, all.max_tx_queues), (4, 16));
        assert_eq!((all.min_mtu, all.max_mtu, all.frame_overhead), (68, 1504, 30));
        assert_eq!((all.rss, all.rss_ports), (true, false));
        assert_eq!((all.ipv4_checksum, all.multi_segments), (false, false));
        let mut tap = nic();
        name(&mut tap, "net_tap");
        assert!(of_bond(&bond, &[nic()]).ipv4_checksum);
        assert!(!of_bond(&bond, &[nic(), tap]).ipv4_checksum);
    }
}
