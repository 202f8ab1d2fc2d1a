//! A queue waiting for the thread that will serve it.

use super::binding::Binding;
use super::engine_loop::{Between, Owner};
use super::readiness::Answer;
use super::serving::ServingState;
use crate::backend::Stages;
use crate::claim::Claims;
use crate::error::{Error, ErrorKind, Result};
use crate::io_flusher::IoFlusher;
use crate::queue::{Config, Needs, Queue, TagShare, Waker};
use crate::report::Reporter;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;

/// How many files and claims of a backend to which its disk moves a ring has room for.
const FILES: u16 = 32;

/// A queue, or a thread's share of its tags, that no thread serves yet. The thread that takes it serves it from then on; the
/// device comes alive when every one is taken. One that is dropped fails the start.
pub struct PendingQueue {
    pub(super) char_dev: Arc<OwnedFd>,
    /// The configuration of its queue, without the files, which the taking thread adds.
    pub(super) config: Config,
    pub(super) ready: Answer,
    pub(super) hold: ServedGuard,
}

impl PendingQueue {
    /// Sets the queue up on the calling thread, with what its engine needs, and offers all its tags. The ring keeps the
    /// files open.
    pub fn take(self, mut needs: Needs) -> Result<ServedQueue> {
        let Self { char_dev, mut config, ready, mut hold } = self;
        let opened = IoFlusher::new().and_then(|flusher| {
            // The ring holds the claims until its last operation has ended, even if this process is killed.
            needs.files.extend(hold.claims().descriptors());
            needs.spare_files += FILES;
            if available_parallelism().is_ok_and(|cpus| cpus.get() == 1) {
                config.poll = Duration::ZERO; // the sender of requests needs this CPU
            }
            let mut queue = Queue::open(char_dev, config, needs)?;
            queue.offer_all()?;
            Ok((queue, flusher))
        });
        match opened {
            Ok((queue, flusher)) => {
                hold.start();
                ready.give(Ok(())); // a starter that gave up wakes the queue
                Ok(ServedQueue { queue, hold, _flusher: flusher })
            }
            Err(error) => {
                ready.give(Err(error.clone()));
                Err(error)
            }
        }
    }

    /// Does not take it: `error` is why the device cannot start.
    pub fn decline(self, error: Error) {
        self.ready.give(Err(error));
    }

    /// Makes the driver fail to register the pages of requests with the ring.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn only_by_hand(mut self) -> Self {
        self.config.only_by_hand = true;
        self
    }

    /// The queue's number.
    pub fn index(&self) -> u16 {
        self.config.index
    }

    /// Which tags of the queue are to be served.
    pub fn part(&self) -> TagShare {
        self.config.part
    }

    /// Reports errors that belong to no request to the device's owner.
    pub fn reporter(&self) -> Reporter {
        self.hold.shared.reporter()
    }

    /// The stages of the device's disk.
    pub(super) fn stages(&self) -> Stages {
        self.hold.shared.stages.clone()
    }

    /// Wakes the thread that took it.
    pub fn waker(&self) -> Waker {
        self.config.waker.clone()
    }
}

/// A queue being served by the thread that holds this.
pub struct ServedQueue {
    // Dropped first: the ring, the mapping and this thread's hold on /dev/ublkcN are gone when `hold` tells so.
    queue: Queue,
    hold: ServedGuard,
    /// This thread's, as long as it serves.
    _flusher: IoFlusher,
}

impl ServedQueue {
    /// The queue cannot be served any more: without it the disk would hang, so the whole device is stopped.
    pub fn fail(mut self, error: &Error) {
        self.hold.error = Some(error.clone());
    }

    /// Whether the queue is to be left at once, settled or not. Tested after each wake.
    pub fn given_up(&self) -> bool {
        self.hold.shared.given_up()
    }

    /// Tells the device's owner of something that went wrong; the queue goes on.
    pub fn report(&self, message: String) {
        self.hold.shared.report(self.hold.index, message);
    }

    /// The queue, and its hold beside it.
    pub(super) fn split(&mut self) -> (&mut Queue, &ServedGuard) {
        (&mut self.queue, &self.hold)
    }
}

impl Deref for ServedQueue {
    type Target = Queue;
    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl DerefMut for ServedQueue {
    fn deref_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }
}

/// Counts a queue as running from its start until this is dropped.
pub(super) struct ServedGuard {
    pub shared: Arc<ServingState>,
    pub index: u16,
    pub error: Option<Error>,
    /// Whether it was started.
    pub running: bool,
    /// The claim on the backend's files.
    pub claims: Arc<Mutex<Claims>>,
    /// The next engine, where the queue is to get another one.
    pub binding: Arc<Binding>,
    /// Disconnects when the last hold is gone.
    pub last: SyncSender<()>,
}

impl ServedGuard {
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&mut self) {
        self.running = true;
        self.shared.started();
    }
}

impl Owner for ServedGuard {
    fn given_up(&self) -> bool {
        self.shared.given_up()
    }

    fn failed(&self, message: String) {
        self.shared.report(self.index, message);
    }

    fn between(&self, turn: &mut Between<'_>) {
        self.binding.run(turn);
    }
}

impl Drop for ServedGuard {
    fn drop(&mut self) {
        if std::thread::panicking() && self.error.is_none() {
            self.error = Some(Error::new(ErrorKind::System, "the queue's thread panicked"));
        }
        self.binding.end();
        if self.running {
            self.shared.ended(self.index, self.error.take(), &self.last);
        }
    }
}
