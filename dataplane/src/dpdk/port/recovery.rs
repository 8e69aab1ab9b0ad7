//! Resets and removals that a port's driver asks for, while workers are in it.

use std::time::{Duration, Instant};

use dpdk_sys::{RVS_EVENT_REMOVE, RVS_EVENT_RESET};
use nix::libc::ENOTSUP;

use super::setup::{limits_of_bond, set_up};
use super::{Port, RssState, failed, read_info};
use crate::dpdk::args::device_name;
use crate::dpdk::capabilities::plan;
use crate::dpdk::check;
use crate::dpdk::port_error::{PortError, PortProblem};

/// How long workers may take to leave a port. They do after a round, which is
/// microseconds, or half a millisecond when they sleep.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long they go on if one did not, before they are to leave it again.
const RESPITE: Duration = Duration::from_secs(2);

/// What became of a port whose driver reported something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It was reset, and works again.
    Reset,
    /// It could not be reset, and carries nothing.
    Failed(PortError),
    /// Its device, or the last of a bond, is gone, and the port carries nothing.
    Removed,
    /// The device of this member is gone, and the bond goes on without it.
    MemberRemoved(String),
}

/// The time after an attempt to have workers leave a port, in which those who
/// did go on.
#[derive(Debug, Default)]
pub(super) struct Respite(Option<Instant>);

impl Respite {
    /// Whether workers are left alone now.
    fn lasts(&self, now: Instant) -> bool {
        self.0.is_some_and(|until| now < until)
    }

    /// Begins, because a worker did not leave. Whether that is to be said: once,
    /// until one attempt succeeds.
    fn begin(&mut self, now: Instant) -> bool {
        self.0.replace(now + RESPITE).is_none()
    }

    /// All workers left.
    fn end(&mut self) {
        self.0 = None;
    }
}

/// What others were told of a device, and rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// The tap has it, and neighbours know it.
    mac: [u8; 6],
    /// The queues that are out know whether to believe in its hashes.
    rss: RssState,
}

impl Told {
    /// Whether it is still so, `now` being after a reset.
    fn holds(&self, now: &Self) -> Result<(), PortProblem> {
        if now.mac != self.mac {
            return Err(PortProblem::OtherMac(now.mac));
        }
        if now.rss != self.rss {
            return Err(PortProblem::OtherRss);
        }
        Ok(())
    }
}

impl Port {
    /// Does what the driver asked for since the last call: resets the port, or
    /// lets go of a device that is gone. Workers keep off the port meanwhile, and
    /// what they send by it is refused. To be called often: mostly it looks at
    /// some numbers only.
    pub fn recover(&mut self) -> Vec<Recovery> {
        if self.respite.lasts(Instant::now()) {
            return Vec::new();
        }
        let ids = self.device.members().iter().copied().chain([self.info.id]);
        let reported = ids.map(|id| (id, events(id))).filter(|&(_, events)| events != 0);
        let reported: Vec<_> = reported.collect();
        let mut all = Vec::new();
        if reported.is_empty() || !self.works {
            return all;
        }
        if !self.device.clear(PATIENCE) {
            // Once more later. Until then those who left it go on.
            reported.iter().for_each(|&(id, events)| note(id, events));
            if self.respite.begin(Instant::now()) {
                all.push(Recovery::Failed(self.error(PortProblem::Busy)));
            }
            return all;
        }
        self.respite.end();
        for (id, events) in reported {
            let gone = events & RVS_EVENT_REMOVE != 0;
            let member = self.device.members().iter().position(|&member| member == id);
            if !self.works || member.is_some_and(|index| self.removed[index]) {
                continue;
            }
            all.push(match member {
                Some(index) if gone => self.remove_member(index, id),
                // net_bonding has no way to reset one: all of it is set up anew.
                Some(_) => self.reset(Some(id)),
                None if gone => self.remove(),
                None => self.reset(None),
            });
        }
        if self.works {
            self.device.let_in();
        }
        all
    }

    /// Has the driver of the device, or of one of its members, report an event, as
    /// when it asks for a reset, or the device goes. For tests.
    pub fn raise(&self, member: Option<usize>, removal: bool) {
        let event = if removal { RVS_EVENT_REMOVE } else { RVS_EVENT_RESET };
        let id = member.and_then(|index| self.device.members().get(index));
        // SAFETY: the port is open.
        let _ = unsafe { dpdk_sys::rvs_port_raise(*id.unwrap_or(&self.info.id), event) };
    }

    /// Resets the port, or one of its members and with it the bond.
    fn reset(&mut self, member: Option<u16>) -> Recovery {
        match self.try_reset(member) {
            Ok(()) => Recovery::Reset,
            Err(problem) => {
                self.works = false;
                Recovery::Failed(self.error(problem))
            }
        }
    }

    fn try_reset(&mut self, member: Option<u16>) -> Result<(), PortProblem> {
        self.stop().map_err(|error| error.problem)?;
        let id = self.info.id;
        // SAFETY: the port is stopped, and workers keep off it.
        match check(unsafe { dpdk_sys::rvs_port_reset(member.unwrap_or(id)) }) {
            // A driver without such a function has all done by a new start.
            Ok(()) | Err(ENOTSUP) => {}
            Err(errno) => return Err(PortProblem::Failed { step: "resetting", errno }),
        }
        let config = self.settings.config();
        let mut limits = read_info(id).map_err(failed("reading the device's limits"))?;
        if !self.removed.is_empty() {
            let members = self.device.members().iter().zip(&self.removed);
            let left: Vec<_> = members.filter(|(_, gone)| !**gone).map(|(id, _)| *id).collect();
            limits = limits_of_bond(&left, &limits)?;
        }
        let plan = plan(&config, &limits, self.settings.is_pci);
        let rss = set_up(&self.device, id, &config, &plan, &limits)?;
        let before = std::mem::replace(&mut self.rss, rss);
        self.start().map_err(|error| error.problem)?;
        let after = read_info(id).map_err(failed("reading the device's limits"))?;
        let told = Told { mac: self.info.mac, rss: before.state };
        told.holds(&Told { mac: after.mac, rss: self.rss.state }).inspect_err(|_| {
            let _ = self.stop();
        })?;
        Ok(())
    }

    /// Lets go of the device, so that the system can take it.
    fn remove(&mut self) -> Recovery {
        self.works = false;
        // A driver whose device is gone may fail, which changes nothing.
        let _ = self.stop();
        self.device.give_back();
        Recovery::Removed
    }

    /// Takes a member whose device goes out of the bond, which goes with the last.
    fn remove_member(&mut self, index: usize, member: u16) -> Recovery {
        self.removed[index] = true;
        if self.removed.iter().all(|&removed| removed) {
            return self.remove();
        }
        if let Err(errno) = self.device.give_back_member(member) {
            self.works = false;
            let problem = PortProblem::Failed { step: "taking out a member", errno };
            return Recovery::Failed(self.error(problem));
        }
        let device = self.settings.bond.as_ref().and_then(|bond| bond.members.get(index));
        Recovery::MemberRemoved(device.map_or("", |device| device_name(device)).to_owned())
    }
}

/// What was reported of a port since the last call.
fn events(id: u16) -> u32 {
    // SAFETY: the shim checks the number.
    unsafe { dpdk_sys::rvs_port_events(id) }
}

/// Has it reported once more.
fn note(id: u16, events: u32) {
    // SAFETY: the shim checks the number.
    unsafe { dpdk_sys::rvs_port_note(id, events) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_that_stay_have_a_respite() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut respite = Respite::default();
        assert!(!respite.lasts(start));
        assert!(respite.begin(start), "it is said");
        assert!(respite.lasts(start) && respite.lasts(after(1_999)));
        assert!(!respite.lasts(after(2_000)));
        assert!(!respite.begin(after(2_200)), "and not again");
        assert!(respite.lasts(after(4_199)) && !respite.lasts(after(4_200)));
        respite.end();
        assert!(!respite.lasts(after(4_000)));
        assert!(respite.begin(after(9_000)), "until workers left in between");
    }

    #[test]
    fn a_reset_device_is_what_was_told_of_it() {
        let programmed = RssState::Programmed { reta_size: 128 };
        let told = Told { mac: [2, 0, 0, 0, 0, 1], rss: programmed };
        assert_eq!(told.holds(&told), Ok(()));
        let other = [2, 0, 0, 0, 0, 2];
        let mac = Told { mac: other, ..told };
        assert_eq!(told.holds(&mac), Err(PortProblem::OtherMac(other)));
        let rss = Told { rss: RssState::Fixed, ..told };
        assert_eq!(told.holds(&rss), Err(PortProblem::OtherRss));
        let size = Told { rss: RssState::Programmed { reta_size: 64 }, ..told };
        assert_eq!(told.holds(&size), Err(PortProblem::OtherRss));
        // The address is said first: it takes more than a restart of rvsd to mend.
        assert_eq!(told.holds(&Told { mac: other, ..rss }), Err(PortProblem::OtherMac(other)));
    }
}
