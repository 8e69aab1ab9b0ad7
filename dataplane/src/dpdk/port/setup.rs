//! A port's device and queues are configured, when it is opened and after a reset.

use std::sync::Arc;

use dpdk_sys::{rvs_port_config, rvs_port_info};
use nix::libc::ENOTSUP;

use super::{PortConfig, Rss, RssState, failed, find, no_device, read_info};
use crate::dpdk::args::device_name;
use crate::dpdk::bond::{Bond, add, keep_mac};
use crate::dpdk::capabilities::{Plan, Spread, check_limits, keeps, of_bond};
use crate::dpdk::check;
use crate::dpdk::device::{Device, close_port};
use crate::dpdk::pool::Pool;
use crate::dpdk::port_error::PortProblem;

/// Makes a bond and gives it its members. What it can do with them.
pub(super) fn make_bond(
    device: &str,
    bond: &Bond,
    config: &PortConfig<'_>,
    pool: &Pool,
) -> Result<(Arc<Device>, rvs_port_info), PortProblem> {
    let members = bond.members.iter();
    let members: Vec<u16> = members
        .map(|member| find(member).ok_or_else(|| no_device(member, pool)))
        .collect::<Result<_, _>>()?;
    let taken = || PortProblem::AlreadyOpen(device_name(device).to_string());
    if find(device).is_some() {
        return Err(taken());
    }
    let id = bond.make(device_name(device)).map_err(|errno| match errno {
        ENOTSUP => no_device(device, pool),
        errno => PortProblem::Failed { step: "making the bond", errno },
    })?;
    let opened = Device::open(id, members, pool).ok_or_else(|| {
        close_port(id, true);
        taken()
    })?;
    let control = opened.shared().control();
    for (&member, name) in opened.members().iter().zip(&bond.members) {
        add(id, member).map_err(|_| PortProblem::Member(device_name(name).to_string()))?;
    }
    keep_mac(id).map_err(failed("giving the bond its MAC address"))?;
    drop(control);
    let limits = read_info(id).map_err(failed("reading the bond's limits"))?;
    let limits = limits_of_bond(opened.members(), &limits)?;
    check_limits(config, &limits, pool.data_room())?;
    Ok((opened, limits))
}

/// What a bond can do whose members are these.
pub(super) fn limits_of_bond(
    members: &[u16],
    bond: &rvs_port_info,
) -> Result<rvs_port_info, PortProblem> {
    let members = members.iter().map(|&member| read_info(member));
    let members: Vec<_> =
        members.collect::<Result<_, _>>().map_err(failed("reading a member's limits"))?;
    Ok(of_bond(bond, &members))
}

/// Configures the device and its queues.
pub(super) fn set_up(
    device: &Device,
    id: u16,
    config: &PortConfig<'_>,
    plan: &Plan,
    limits: &rvs_port_info,
) -> Result<Rss, PortProblem> {
    let _control = device.shared().control();
    let rss = configure(id, config, plan, limits).map_err(failed("configuring the device"))?;
    let tx_descriptors = set_up_queues(id, config, device.pool())?;
    // net_bonding configures its members when it starts, with the MTU from above.
    if config.bond.is_none() {
        // SAFETY: the port is open, and configured above.
        match check(unsafe { dpdk_sys::rvs_port_set_mtu(id, config.mtu + plan.tag) }) {
            Ok(()) | Err(ENOTSUP) => {}
            Err(errno) => return Err(PortProblem::Failed { step: "setting the MTU", errno }),
        }
    }
    let queues = u32::from(config.rx_queues);
    let members = if config.bond.is_some() { device.members() } else { &[id][..] };
    let members = members.iter().filter_map(|&member| read_info(member).ok());
    let kept = members.map(|info| keeps(&info, tx_descriptors) * queues).sum();
    device.set_queues(config.rx_queues, config.tx_queues, kept);
    Ok(rss)
}

/// Configures the device with our RSS where it takes that, else with its own.
fn configure(
    id: u16,
    config: &PortConfig<'_>,
    plan: &Plan,
    limits: &rvs_port_info,
) -> Result<Rss, i32> {
    let mut conf = rvs_port_config {
        rx_queues: config.rx_queues,
        tx_queues: config.tx_queues,
        mtu: config.mtu + plan.tag,
        ipv4_checksum: plan.ipv4_checksum,
        multi_segments: plan.multi_segments,
        rss: false,
        rss_key: std::ptr::null(),
        rss_key_len: 0,
    };
    let several = config.rx_queues > 1;
    if let (Spread::Ours(reta), Some(rss)) = (&plan.spread, config.rss) {
        conf.rss = true;
        conf.rss_key = rss.key.as_ptr();
        conf.rss_key_len = limits.hash_key_size;
        // SAFETY: the port is known to ethdev and not started; the key has
        // RSS_KEY_LEN bytes, and the plan saw that the device wants no more.
        if check(unsafe { dpdk_sys::rvs_port_configure(id, &conf) }).is_ok() {
            let state = RssState::Programmed { reta_size: limits.reta_size };
            return Ok(Rss { state, reta: Some(reta.clone()) });
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

/// Sets up all queues. The descriptors of a transmit queue.
fn set_up_queues(id: u16, config: &PortConfig<'_>, pool: &Pool) -> Result<u16, PortProblem> {
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
    Ok(tx)
}
