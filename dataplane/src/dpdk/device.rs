//! An open ethdev port, and who has which of its queues.

use std::sync::{Arc, Mutex};

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

/// An open port. It is stopped and closed when the `Port` and all its queues are
/// gone; its mbufs' pool, and with it EAL, lives until then.
pub(super) struct Device {
    id: u16,
    pool: Pool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    started: bool,
    rx_taken: Vec<bool>,
    tx_taken: Vec<bool>,
}

impl State {
    fn taken(&mut self, direction: Direction) -> &mut Vec<bool> {
        match direction {
            Direction::Rx => &mut self.rx_taken,
            Direction::Tx => &mut self.tx_taken,
        }
    }
}

/// Why a queue cannot be had.
pub(super) enum Refusal {
    NotStarted,
    NoSuchQueue,
    Taken,
}

impl Device {
    /// Takes the port for this process's use, unless it is open already.
    pub(super) fn open(id: u16, pool: &Pool) -> Option<Arc<Self>> {
        let mut control = pool.shared().control();
        if control.ports.contains(&id) {
            return None;
        }
        control.ports.push(id);
        drop(control);
        Some(Arc::new(Self { id, pool: pool.clone(), state: Mutex::default() }))
    }

    pub(super) fn shared(&self) -> &Shared {
        self.pool.shared()
    }

    pub(super) fn set_queues(&self, rx: u16, tx: u16) {
        let mut state = lock(&self.state);
        state.rx_taken = vec![false; usize::from(rx)];
        state.tx_taken = vec![false; usize::from(tx)];
    }

    pub(super) fn start(&self) -> Result<(), i32> {
        let mut state = lock(&self.state);
        if state.started {
            return Ok(());
        }
        // SAFETY: the port is open and configured; no queue is in use, since
        // claims are made on a started port only.
        check(unsafe { dpdk_sys::rvs_port_start(self.id) })?;
        state.started = true;
        Ok(())
    }

    /// Stops the port, or says how many queues are still in use.
    pub(super) fn stop(&self) -> Result<Result<(), i32>, usize> {
        let mut state = lock(&self.state);
        let in_use = state.rx_taken.iter().chain(&state.tx_taken).filter(|&&taken| taken).count();
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
        let taken =
            state.taken(direction).get_mut(usize::from(queue)).ok_or(Refusal::NoSuchQueue)?;
        if std::mem::replace(taken, true) {
            return Err(Refusal::Taken);
        }
        Ok(Claim { port: self.id, queue, direction, device: Arc::clone(self) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut control = self.pool.shared().control();
        if lock(&self.state).started {
            // SAFETY: no claim is left, since each holds the device.
            if let Err(errno) = check(unsafe { dpdk_sys::rvs_port_stop(self.id) }) {
                log::warn!("port {}: the driver did not stop (error {errno})", self.id);
            }
        }
        // SAFETY: the port is stopped, and this is its only owner.
        if let Err(errno) = check(unsafe { dpdk_sys::rvs_port_close(self.id) }) {
            log::warn!("port {}: the driver did not close (error {errno})", self.id);
        }
        control.ports.retain(|&port| port != self.id);
    }
}

/// The right to use one queue of a started port.
pub(super) struct Claim {
    port: u16,
    queue: u16,
    direction: Direction,
    device: Arc<Device>,
}

impl Claim {
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
        if let Some(taken) = state.taken(self.direction).get_mut(usize::from(self.queue)) {
            *taken = false;
        }
    }
}
