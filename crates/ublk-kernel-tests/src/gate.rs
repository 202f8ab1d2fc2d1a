//! Holds requests at the server until the test lets them through.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use ublk_core::backend::{Io, Piece, Site, Slot, Step};
use ublk_core::queue::Op;

/// The backend's only file is an eventfd; a request that waits is a read of it in the ring.
pub struct Gate {
    counter: EventFd,
    waiting: AtomicUsize,
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Arc<Self> {
        let counter = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_SEMAPHORE).unwrap();
        Arc::new(Self { counter, waiting: AtomicUsize::new(0) })
    }

    /// Its file's slot, for an engine that is made.
    pub fn slot(&self, site: &mut Site) -> Slot {
        site.file(self.counter.as_fd())
    }

    /// Makes the request wait; its engine is resumed with 8. Costs the first 8 bytes of its data.
    pub fn wait(&self, slot: Slot, io: &mut Io<'_>) -> Step {
        let piece = Piece { op: Op::Read, offset: u64::MAX, ..io.request.what.piece() };
        let step = io.read_file(slot, &piece, 0);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        step
    }

    /// How many have come to it so far.
    pub fn arrived(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Lets this number through.
    pub fn open(&self, number: usize) {
        self.counter.write(number as u64).unwrap();
    }
}
