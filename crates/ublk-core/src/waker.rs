//! Waking a thread that sleeps in its ring, or in a poll, from another.

use crate::error::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Makes a ring that polls its descriptor return from a sleeping enter. May be used from any thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A waker without a listener yet.
    pub fn new() -> Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(|fd| Self(Arc::new(fd)))
            .map_err(|errno| Error::system("cannot make an eventfd", &errno.into()))
    }

    /// Wakes the listener, now or at its next wait.
    pub fn wake(&self) {
        // Can only fail when the counter is full: then it is awake already.
        let _ = self.0.write(1);
    }

    /// Forgets earlier wakes.
    pub fn clear(&self) {
        let _ = self.0.read();
    }

    /// Waits until it is woken, at most for `limit`, and clears it. For a thread without a ring to wait in.
    pub fn wait(&self, limit: Duration) {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        // What interrupts it is as good as a wake: the caller looks and comes back.
        let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], limit);
        self.clear();
    }

    /// The descriptor to poll.
    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
