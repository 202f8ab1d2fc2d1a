//! Holds requests at the server until the test lets them through.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use ublk_core::Result;
use ublk_core::backend::Step;
use ublk_core::queue::{Io, Slot};

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

    /// For [`Backend::files`](ublk_core::backend::Backend::files).
    pub fn file(&self) -> BorrowedFd<'_> {
        self.counter.as_fd()
    }

    /// Makes the request wait; its engine is resumed with 8. Costs the first 8 bytes of its data.
    pub fn wait(&self, io: &mut Io<'_>) -> Result<Step> {
        io.read_file(Slot(1), 0, u64::MAX)?;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Ok(Step::Pending)
    }

    /// How many have come to it so far.
    pub fn arrived(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Lets so many through.
    pub fn open(&self, number: usize) {
        self.counter.write(number as u64).unwrap();
    }
}
