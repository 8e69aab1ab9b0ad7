//! An open ethdev port, and who has which of its queues.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::bond::take_out;
use super::check;
use super::eal::{Shared, lock};
use super::pool::Pool;

/// The two kinds of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Receive queues.
    Rx,
    /// Transmit queues.
    Tx,
}

/// Rest between looks at whether the users of a port have left it.
const NAP: Duration = Duration::from_micros(50);

/// An open port. It is stopped and closed when the `Port` and all its queues are
/// gone; its mbufs' pool, and with it EAL, lives until then.
pub(super) struct Device {
    id: u16,
    /// The ports that it is a bond of: configured, started and stopped by it.
    members: Vec<u16>,
    pool: Pool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    started: bool,
    /// The ports among it and its members that were closed before their time.
    closed: Vec<u16>,
    /// By queue: the gates of those that are taken.
    rx: Vec<Option<Arc<Gate>>>,
    tx: Vec<Option<Arc<Gate>>>,
    /// mbufs that its driver keeps for good when it is closed, at most.
    keeps: u32,
}

impl State {
    fn queues(&mut self, direction: Direction) -> &mut Vec<Option<Arc<Gate>>> {
        match direction {
            Direction::Rx => &mut self.rx,
            Direction::Tx => &mut self.tx,
        }
    }

    fn gates(&self) -> impl Iterator<Item = &Gate> {
        self.rx.iter().chain(&self.tx).flatten().map(Arc::as_ref)
    }
}

/// Why a queue cannot be had.
pub(super) enum Refusal {
    NotStarted,
    NoSuchQueue,
    Taken,
}

/// Keeps the one user of a queue out of a port that is being reset, or is gone.
/// Each queue has its own, so that passing it shares nothing with other users.
#[derive(Default)]
struct Gate(AtomicU8);

/// The queue may be used: its port is started.
const OPEN: u8 = 0;
/// Its user is asked to leave.
const CLOSING: u8 = 1;
/// Its user has left, and stays out until the gate is open.
const CLOSED: u8 = 2;

impl Gate {
    /// Whether the user may call the driver now. One that finds the gate closing
    /// says by this that it is out of it.
    #[inline(always)]
    fn passes(&self) -> bool {
        // Acquire: what was done to the port while the gate was closed comes first.
        self.0.load(Ordering::Acquire) == OPEN || self.leave()
    }

    #[cold]
    fn leave(&self) -> bool {
        // Release: the user's last call of the driver comes before.
        let _ = self.0.compare_exchange(CLOSING, CLOSED, Ordering::Release, Ordering::Relaxed);
        false
    }

    fn close(&self) {
        let _ = self.0.compare_exchange(OPEN, CLOSING, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire) == CLOSED
    }

    fn open(&self) {
        self.0.store(OPEN, Ordering::Release);
    }
}

impl Device {
    /// Takes the port, and those that it is a bond of, for this process's use,
    /// unless one is open already.
    pub(super) fn open(id: u16, members: Vec<u16>, pool: &Pool) -> Option<Arc<Self>> {
        let mut control = pool.shared().control();
        if members.iter().chain([&id]).any(|port| control.ports.contains(port)) {
            return None;
        }
        control.ports.push(id);
        control.ports.extend(&members);
        drop(control);
        Some(Arc::new(Self { id, members, pool: pool.clone(), state: Mutex::default() }))
    }

    /// DPDK's number of the port.
    pub(super) fn id(&self) -> u16 {
        self.id
    }

    pub(super) fn shared(&self) -> &Shared {
        self.pool.shared()
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The ports that this one is a bond of.
    pub(super) fn members(&self) -> &[u16] {
        &self.members
    }

    /// What was configured: the numbers of queues, and how many mbufs the driver
    /// keeps for good when it is closed, at most.
    pub(super) fn set_queues(&self, rx: u16, tx: u16, keeps: u32) {
        let mut state = lock(&self.state);
        // At a reset, those that are taken stay so.
        state.rx.resize(usize::from(rx), None);
        state.tx.resize(usize::from(tx), None);
        state.keeps = keeps;
    }

    pub(super) fn start(&self) -> Result<(), i32> {
        let mut state = lock(&self.state);
        if state.started {
            return Ok(());
        }
        // SAFETY: the port is open and configured; no queue is in use, since
        // claims are made on a started port only, and the gates of those from
        // before a reset are closed.
        check(unsafe { dpdk_sys::rvs_port_start(self.id) })?;
        state.started = true;
        Ok(())
    }

    /// Stops the port, or says how many queues are still in use.
    pub(super) fn stop(&self) -> Result<Result<(), i32>, usize> {
        let mut state = lock(&self.state);
        let in_use = state.gates().filter(|gate| !gate.is_closed()).count();
        if in_use > 0 {
            return Err(in_use);
        }
        if !state.started {
            return Ok(Ok(()));
        }
        state.started = false;
        // SAFETY: the port is started, and nobody uses its queues.
        Ok(check(unsafe { dpdk_sys::rvs_port_stop(self.id) }))
    }

    /// Has all users leave the port, and waits for them. False, and all as
    /// before, when one has not left by then.
    pub(super) fn clear(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        lock(&self.state).gates().for_each(Gate::close);
        loop {
            let state = lock(&self.state);
            if state.gates().all(Gate::is_closed) {
                return true;
            }
            if Instant::now() > until {
                state.gates().for_each(Gate::open);
                return false;
            }
            drop(state);
            std::thread::sleep(NAP);
        }
    }

    /// Lets the users in again.
    pub(super) fn let_in(&self) {
        let state = lock(&self.state);
        if state.started {
            state.gates().for_each(Gate::open);
        }
    }

    /// Has the drivers' events noted.
    pub(super) fn watch(&self) {
        for &port in self.members.iter().chain([&self.id]) {
            // SAFETY: the port is open. One that cannot be watched works all the
            // same.
            if let Err(errno) = check(unsafe { dpdk_sys::rvs_port_watch(port) }) {
                log::warn!("port {port}: its events are not followed (error {errno})");
            }
        }
    }

    /// Closes a stopped port for good, whose users have left, and gives its
    /// device and those of its members back to the system.
    pub(super) fn give_back(&self) {
        self.close(true);
    }

    /// The same for a member of a bond, whose users have left, too.
    pub(super) fn give_back_member(&self, member: u16) -> Result<(), i32> {
        let _control = self.pool.shared().control();
        // A bond lets its members go started, and then they cannot be closed. A
        // driver whose device is gone may refuse, which changes nothing.
        // SAFETY: the port is open, and workers keep off it.
        let _ = unsafe { dpdk_sys::rvs_port_stop(member) };
        take_out(self.id, member)?;
        close_port(member, true);
        lock(&self.state).closed.push(member);
        Ok(())
    }

    fn close(&self, give_back: bool) {
        let mut control = self.pool.shared().control();
        let mut state = lock(&self.state);
        // A bond lets go of its members first.
        for &port in std::iter::once(&self.id).chain(&self.members) {
            if !state.closed.contains(&port) {
                close_port(port, give_back);
                state.closed.push(port);
            }
        }
        let keeps = std::mem::take(&mut state.keeps);
        control.leave_with_driver(self.pool.raw(), keeps);
        control.ports.retain(|port| *port != self.id && !self.members.contains(port));
    }

    /// Takes one queue for one user.
    pub(super) fn claim(
        self: &Arc<Self>,
        direction: Direction,
        queue: u16,
    ) -> Result<Claim, Refusal> {
        let mut state = lock(&self.state);
        if !state.started {
            return Err(Refusal::NotStarted);
        }
        let place =
            state.queues(direction).get_mut(usize::from(queue)).ok_or(Refusal::NoSuchQueue)?;
        if place.is_some() {
            return Err(Refusal::Taken);
        }
        let gate = Arc::clone(place.insert(Arc::default()));
        Ok(Claim { port: self.id, queue, direction, gate, device: Arc::clone(self) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if lock(&self.state).started {
            let _control = self.pool.shared().control();
            // SAFETY: no claim is left, since each holds the device.
            if let Err(errno) = check(unsafe { dpdk_sys::rvs_port_stop(self.id) }) {
                log::warn!("port {}: the driver did not stop (error {errno})", self.id);
            }
        }
        self.close(false);
    }
}

/// Closes a stopped port that has no user; its owner does so once.
pub(super) fn close_port(port: u16, give_back: bool) {
    // SAFETY: the port is open.
    let device = unsafe {
        dpdk_sys::rvs_port_unwatch(port);
        dpdk_sys::rvs_port_device(port)
    };
    // SAFETY: the port is stopped, or the bond that it was in stopped it.
    if let Err(errno) = check(unsafe { dpdk_sys::rvs_port_close(port) }) {
        log::warn!("port {port}: the driver did not close (error {errno})");
    }
    if give_back && !device.is_null() {
        // SAFETY: the device belongs to its bus until now, and its only port is
        // closed.
        if let Err(errno) = check(unsafe { dpdk_sys::rvs_device_remove(device) }) {
            log::warn!("port {port}: its device is not given back (error {errno}); restart rvsd");
        }
    }
}

/// The right to use one queue of a port, while [`Claim::passes`].
pub(super) struct Claim {
    port: u16,
    queue: u16,
    direction: Direction,
    gate: Arc<Gate>,
    device: Arc<Device>,
}

impl Claim {
    /// Whether the driver may be called now. To be asked before each call: no
    /// means that the port may be gone.
    #[inline(always)]
    pub(super) fn passes(&self) -> bool {
        self.gate.passes()
    }

    #[inline]
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    #[inline]
    pub(super) fn queue(&self) -> u16 {
        self.queue
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = lock(&self.device.state);
        if let Some(place) = state.queues(self.direction).get_mut(usize::from(self.queue)) {
            *place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_closes_when_its_user_has_left() {
        let gate = Gate::default();
        assert!(gate.passes() && !gate.is_closed());
        gate.close();
        assert!(!gate.is_closed(), "the user may be in the driver");
        assert!(!gate.passes());
        assert!(gate.is_closed());
        gate.close();
        assert!(gate.is_closed() && !gate.passes(), "it stays out");
        gate.open();
        assert!(gate.passes());
        // Opened in vain: nobody had left.
        gate.close();
        gate.open();
        assert!(gate.passes() && !gate.is_closed());
    }
}
