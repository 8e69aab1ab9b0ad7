//! Bonds: several devices that are one port, by DPDK's net_bonding.

use std::ffi::CString;

use super::check;

/// How a bond uses its members. Those of DPDK that keep the packets of a
/// connection in order and need no trick with ARP, which the kernel does here.
///
/// The configuration has the same three under its own names, since it is read
/// without DPDK as well, and the control API has [`MemberState`], as its clients
/// know no adapter: `control::machine` converts each once, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BondMode {
    /// One member sends and receives; another when its link is down.
    ActiveBackup,
    /// Each connection by one of the members, by addresses and ports. The switch
    /// has them in a static group.
    BalanceXor,
    /// The same, with those members that the switch agrees on (LACP).
    Lacp,
}

impl BondMode {
    /// DPDK's number of it (`BONDING_MODE_*`).
    fn number(self) -> u8 {
        match self {
            Self::ActiveBackup => 1,
            Self::BalanceXor => 2,
            Self::Lacp => 4,
        }
    }
}

/// A port's members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bond {
    /// How they are used.
    pub mode: BondMode,
    /// Their devices, as EAL was given them. The first one's MAC address is the
    /// bond's, and it is the first to be active.
    pub members: Vec<String>,
    /// The NUMA node where most of them are.
    pub numa_node: Option<u32>,
}

impl Bond {
    /// Makes it, without members, by the name of a device. DPDK's number of it.
    pub(super) fn make(&self, name: &str) -> Result<u16, i32> {
        let name = CString::new(name).map_err(|_| nix::libc::EINVAL)?;
        let node = self.numa_node.and_then(|node| u8::try_from(node).ok()).unwrap_or(0);
        let spread = self.mode != BondMode::ActiveBackup;
        let mut bond = 0;
        // SAFETY: a C string goes in, and a number comes out; EAL runs, as the
        // callers' `Pool` arguments show.
        check(unsafe {
            dpdk_sys::rvs_bond_create(name.as_ptr(), self.mode.number(), spread, node, &mut bond)
        })
        .map(|()| bond)
    }
}

/// Gives a bond a member, neither of which is started.
pub(super) fn add(bond: u16, member: u16) -> Result<(), i32> {
    // SAFETY: net_bonding checks both numbers, and their owner calls.
    check(unsafe { dpdk_sys::rvs_bond_add(bond, member) })
}

/// Has a bond keep its MAC address: otherwise net_bonding looks for it, at each
/// start, at the member that it came from, and does not start without that.
pub(super) fn keep_mac(bond: u16) -> Result<(), i32> {
    // SAFETY: net_bonding checks the number, and the bond's owner calls.
    check(unsafe { dpdk_sys::rvs_bond_keep_mac(bond) })
}

/// Takes a member out of a bond.
pub(super) fn take_out(bond: u16, member: u16) -> Result<(), i32> {
    // SAFETY: net_bonding checks both numbers; workers keep off the bond.
    check(unsafe { dpdk_sys::rvs_bond_remove(bond, member) })
}

/// What a member of a bond does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// Sends and receives.
    Active,
    /// Has a link, and waits until it is needed.
    Backup,
    /// Has a link, but the switch has not agreed on it (LACP).
    Waiting,
    /// Has no link.
    Down,
    /// Its device is gone.
    Removed,
}

/// A member of a bond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its device, as in the configuration.
    pub device: String,
    /// What it does.
    pub state: MemberState,
}

/// The members that a bond uses, and the first of them.
pub(super) struct InUse {
    members: Vec<u16>,
    first: u16,
}

impl InUse {
    /// Asks net_bonding.
    pub(super) fn of(bond: u16) -> Result<Self, i32> {
        let mut members = [0; dpdk_sys::RVS_MEMBERS_MAX as usize];
        let (mut count, mut first) = (0, 0);
        // SAFETY: the array has room for the most that the shim writes.
        check(unsafe {
            dpdk_sys::rvs_bond_active(bond, members.as_mut_ptr(), &mut count, &mut first)
        })?;
        Ok(Self { members: members[..usize::from(count)].to_vec(), first })
    }

    /// Whether the bond knows a member's link as it is.
    ///
    /// It does as soon as the driver tells it, or when it is about to look. A
    /// driver that says that it tells, and does not (net_tap), needs help.
    pub(super) fn knows(&self, member: u16, link_up: bool) -> bool {
        self.members.contains(&member) == link_up
    }

    /// What a member does whose link is up or not. `agreed` is what the switch
    /// says (LACP).
    pub(super) fn state(
        &self,
        mode: BondMode,
        member: u16,
        link_up: bool,
        agreed: bool,
    ) -> MemberState {
        if !link_up || !self.members.contains(&member) {
            return MemberState::Down;
        }
        match mode {
            BondMode::ActiveBackup if member != self.first => MemberState::Backup,
            BondMode::Lacp if !agreed => MemberState::Waiting,
            _ => MemberState::Active,
        }
    }
}

/// Whether the switch has agreed on a member, by LACP.
pub(super) fn agreed(bond: u16, member: u16) -> bool {
    let mut agreed = false;
    // SAFETY: the call fills in `agreed`.
    check(unsafe { dpdk_sys::rvs_bond_agreed(bond, member, &mut agreed) }).is_ok() && agreed
}

/// Has the bond look at a member's link.
pub(super) fn look(member: u16) {
    // SAFETY: ethdev checks the number. The bond has a lock of its own.
    unsafe { dpdk_sys::rvs_bond_look(member) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_s_state_is_what_it_does() {
        let use_of = |members: &[u16], first| InUse { members: members.to_vec(), first };
        let (backup, xor, lacp) = (BondMode::ActiveBackup, BondMode::BalanceXor, BondMode::Lacp);
        let both = use_of(&[1, 2], 2);
        assert_eq!(both.state(backup, 2, true, false), MemberState::Active);
        assert_eq!(both.state(backup, 1, true, false), MemberState::Backup);
        assert_eq!(both.state(backup, 1, false, false), MemberState::Down);
        assert_eq!(both.state(xor, 1, true, false), MemberState::Active);
        assert_eq!(both.state(lacp, 1, true, false), MemberState::Waiting);
        assert_eq!(both.state(lacp, 1, true, true), MemberState::Active);
        let one = use_of(&[1], 1);
        assert_eq!(one.state(xor, 2, true, false), MemberState::Down);
        assert!(one.knows(1, true) && one.knows(2, false));
        assert!(!one.knows(1, false) && !one.knows(2, true));
    }
}
