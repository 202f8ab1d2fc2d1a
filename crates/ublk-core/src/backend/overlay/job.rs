//! What is done to an overlay in the background: one thing at a time, for as long as the disk is served.

use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How often a pause looks whether it is over.
const LOOK: Duration = Duration::from_millis(50);

/// How far a flatten has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlattenProgress {
    /// Up to where the upper has all of the disk, in bytes.
    pub done: u64,
    /// Of the disk, in bytes.
    pub size: u64,
}

/// See the [module](self).
#[derive(Default)]
pub struct Job {
    running: Mutex<()>,
    /// The disk is not served any more.
    ended: AtomicBool,
    ending: (Mutex<()>, Condvar),
    /// Of the present one. A size of 0: there is none.
    done: AtomicU64,
    size: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Job {
    /// Nothing else begins until the guard is dropped.
    pub fn begin(&self) -> Result<MutexGuard<'_, ()>> {
        let guard = match self.running.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(guard)) => guard.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(ErrorKind::Busy, "the disk is being flattened")
                    .hint("wait until that has ended, or end it: what was copied stays"));
            }
        };
        Ok(guard)
    }

    /// Whether it has to end.
    pub fn has_ended(&self) -> bool {
        self.ended.load(SeqCst)
    }

    /// The disk is served again.
    pub fn go_on(&self) {
        self.ended.store(false, SeqCst);
    }

    /// The disk is not served any more: what is under way ends soon.
    pub fn stop(&self) {
        self.ended.store(true, SeqCst);
        drop(locked(&self.ending.0));
        self.ending.1.notify_all();
    }

    /// The same, and waits for that.
    pub fn end(&self) {
        self.stop();
        drop(locked(&self.running));
    }

    /// Pauses, unless it `has_ended` or is given up.
    pub fn pause(&self, duration: Duration, given_up: &dyn Fn() -> bool) {
        let until = Instant::now() + duration;
        let mut ending = locked(&self.ending.0);
        while !self.has_ended() && !given_up() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.ending.1.wait_timeout(ending, left.min(LOOK));
            ending = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// It has come so far, of that.
    pub fn is_at(&self, done: u64, size: u64) {
        self.done.store(done, SeqCst);
        self.size.store(size, SeqCst);
    }

    /// How far it has come, if there is one.
    pub fn progress(&self) -> Option<FlattenProgress> {
        let (size, done) = (self.size.load(SeqCst), self.done.load(SeqCst));
        (size > 0).then_some(FlattenProgress { done: done.min(size), size })
    }
}
