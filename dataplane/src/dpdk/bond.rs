//! Bonds: several devices that are one port, by DPDK's net_bonding.

use std::ffi::CStr;

use super::check;

/// How a bond uses its members. Those of DPDK that keep the packets of a
/// connection in order and need no trick with ARP, which the kernel does here.
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
}

impl Bond {
    /// What EAL is given to make the bond, under this name. `numa_node` is where
    /// most of its members are.
    #[must_use]
    pub fn device(&self, name: &str, numa_node: Option<u32>) -> String {
        // SAFETY: a static C string.
        let key = unsafe { CStr::from_ptr(dpdk_sys::rvs_bond_member_key()) }.to_string_lossy();
        let mut device = format!("{name},mode={}", self.mode.number());
        if self.mode != BondMode::ActiveBackup {
            device += ",xmit_policy=l34";
        }
        if let Some(node) = numa_node {
            device += &format!(",socket_id={node}");
        }
        for member in &self.members {
            device += &format!(",{key}={}", super::args::full_name(member));
        }
        device
    }
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
    fn members_come_by_their_full_names() {
        let members = ["0000:01:00.0,opt=1", "02:00.1", "net_af_packet0,iface=eth1"];
        let members = members.map(str::to_owned).to_vec();
        let bond = Bond { mode: BondMode::ActiveBackup, members };
        let device = bond.device("net_bonding0", None);
        // "slave" before DPDK 23.11.
        assert_eq!(
            device.replace(",slave=", ",member="),
            "net_bonding0,mode=1,member=0000:01:00.0,member=0000:02:00.1,member=net_af_packet0"
        );
        let bond = Bond { mode: BondMode::Lacp, members: vec!["01:00.0".into()] };
        let device = bond.device("net_bonding1", Some(1)).replace(",slave=", ",member=");
        assert_eq!(device, "net_bonding1,mode=4,xmit_policy=l34,socket_id=1,member=0000:01:00.0");
    }

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
