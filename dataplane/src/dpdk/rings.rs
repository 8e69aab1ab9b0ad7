//! The lock-free rings that packets travel on between threads: worker to
//! worker, worker to kernel path, kernel path to worker. Each has one producer
//! and one consumer, and none is ever waited for: what does not fit is a
//! counted drop of the sender's.

use super::Mbuf;
use crate::director::{Handed, Reading};
use crate::handoff::{self, CAPACITY};

/// A packet on its way, with the index of the port that it came in by or is to
/// leave by: between workers the device's, which knows no VLANs. One cache line,
/// since it is one that passes from core to core.
#[derive(Debug)]
#[repr(align(64))]
pub struct Parcel {
    /// The packet.
    pub mbuf: Mbuf,
    /// The port's index.
    pub port: u8,
    /// What the worker that owns it is to know.
    pub handed: Handed,
    /// What was read of it.
    pub read: Reading,
}

const _: () = assert!(size_of::<Parcel>() == 64);

impl Parcel {
    /// A packet that needs no explanation.
    #[must_use]
    pub fn new(mbuf: Mbuf, port: u8) -> Self {
        Self { mbuf, port, handed: Handed::default(), read: Reading::default() }
    }
}

/// A ring's producing end.
pub type Sender = rtrb::Producer<Parcel>;
/// A ring's consuming end.
pub type Receiver = rtrb::Consumer<Parcel>;

/// One worker's ends of all rings.
pub struct WorkerRings {
    /// To each worker, by index; the one to itself has no ring.
    pub handoff: Vec<handoff::Sender<Parcel>>,
    /// From the other workers.
    pub taken_over: Vec<handoff::Receiver<Parcel>>,
    /// To the kernel.
    pub punt: Sender,
    /// From the kernel.
    pub inject: Receiver,
}

impl WorkerRings {
    /// Gives a packet to another worker, at the end of the round. False, and the
    /// packet freed, when there is no such worker.
    #[inline]
    pub fn hand_over(&mut self, worker: u8, parcel: Parcel) -> bool {
        match self.handoff.get_mut(usize::from(worker)) {
            Some(ring) if ring.is_ring() => {
                ring.push(parcel);
                true
            }
            _ => false,
        }
    }
}

/// The kernel path's ends.
pub struct KernelRings {
    /// From each worker, by index.
    pub punted: Vec<Receiver>,
    /// To each worker, by index.
    pub inject: Vec<Sender>,
}

/// Connects so many workers with each other and with the kernel path.
#[must_use]
pub fn connect(workers: usize) -> (Vec<WorkerRings>, KernelRings) {
    let ring = || rtrb::RingBuffer::new(CAPACITY);
    let mut kernel = KernelRings { punted: Vec::new(), inject: Vec::new() };
    let mut rings: Vec<_> = (0..workers)
        .map(|_| {
            let (punt, punted) = ring();
            let (inject_in, inject) = ring();
            kernel.punted.push(punted);
            kernel.inject.push(inject_in);
            WorkerRings {
                handoff: (0..workers).map(|_| handoff::Sender::to_self()).collect(),
                taken_over: Vec::new(),
                punt,
                inject,
            }
        })
        .collect();
    for from in 0..workers {
        for to in (0..workers).filter(|&to| to != from) {
            let (sender, receiver) = handoff::ring();
            rings[from].handoff[to] = sender;
            rings[to].taken_over.push(receiver);
        }
    }
    (rings, kernel)
}
