//! Waking a thread that sleeps in its ring, or in a poll, from another.

use crate::error::{Error, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// Makes a ring that polls its descriptor return from a sleeping enter. May be used from any thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    eventfd: EventFd,
    /// Is woken too.
    bell: Mutex<Option<Waker>>,
}

impl Waker {
    /// A waker without a listener yet.
    pub fn new() -> Result<Self> {
        EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map(|eventfd| Self(Arc::new(Inner { eventfd, bell: Mutex::default() })))
            .map_err(|errno| Error::system("cannot make an eventfd", &errno.into()))
    }

    /// Wakes the listener, now or at its next wait.
    pub fn wake(&self) {
        // Can only fail when the counter is full: then it is awake already.
        let _ = self.0.eventfd.write(1);
        if let Some(bell) = &*self.bell() {
            bell.wake();
        }
    }

    /// Wakes `bell` too from now on, for a listener that sleeps elsewhere until its ring signals that bell. The kernel signals
    /// no eventfd while it handles another one: the ring would ring the bell only after an RCU grace period, some 10 ms later.
    pub(crate) fn wakes_too(&self, bell: Option<Waker>) {
        *self.bell() = bell;
    }

    /// The same, which does not keep it.
    pub(crate) fn downgrade(&self) -> WeakWaker {
        WeakWaker(Arc::downgrade(&self.0))
    }

    fn bell(&self) -> MutexGuard<'_, Option<Waker>> {
        self.0.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets earlier wakes.
    pub fn clear(&self) {
        let _ = self.0.eventfd.read();
    }

    /// Waits until it is woken, at most for `limit`, and clears it. For a thread without a ring to wait in.
    pub fn wait(&self, limit: Duration) {
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        // What interrupts it is as good as a wake: the caller looks and comes back.
        let _ = poll(&mut [PollFd::new(self.0.eventfd.as_fd(), PollFlags::POLLIN)], limit);
        self.clear();
    }

    /// The descriptor to poll.
    pub fn fd(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }
}

/// A waker that others keep, or nobody any more.
#[derive(Debug)]
pub(crate) struct WeakWaker(Weak<Inner>);

impl WeakWaker {
    /// The waker, if it is still there.
    pub fn upgrade(&self) -> Option<Waker> {
        self.0.upgrade().map(Waker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_woken(waker: &Waker) -> bool {
        poll(&mut [PollFd::new(waker.0.eventfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs eventfds")]
    fn a_waker_wakes_its_bell_before_it_returns_until_it_has_none() {
        let (waker, bell) = (Waker::new().unwrap(), Waker::new().unwrap());
        waker.wakes_too(Some(bell.clone()));
        waker.clone().wake();
        assert!(is_woken(&waker) && is_woken(&bell));
        waker.clear();
        bell.clear();
        waker.wakes_too(None);
        waker.wake();
        assert!(is_woken(&waker) && !is_woken(&bell));
    }
}
