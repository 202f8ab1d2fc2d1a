//! The queues of a tracked disk, as its other threads see them.

use crate::backend::Completer;
use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a queue that does not answer is looked after.
const PAUSE: Duration = Duration::from_millis(20);

/// A queue. Only its own thread changes the counts, so they need no atomic addition.
pub struct Seat {
    completer: Completer,
    /// Changes that are under way, by the epoch in which they were begun: the last one, or the one before it.
    changes: [AtomicU32; 2],
    gone: AtomicBool,
}

impl Seat {
    pub fn completer(&self) -> &Completer {
        &self.completer
    }

    /// A change begins.
    #[inline]
    pub fn begins(&self, epoch: u64) {
        self.count(epoch, u32::wrapping_add);
    }

    /// It has ended.
    #[inline]
    pub fn ends(&self, epoch: u64) {
        self.count(epoch, u32::wrapping_sub);
    }

    #[inline]
    fn count(&self, epoch: u64, change: fn(u32, u32) -> u32) {
        let counter = self.of(epoch);
        counter.store(change(counter.load(Relaxed), 1), Relaxed);
    }

    fn of(&self, epoch: u64) -> &AtomicU32 {
        &self.changes[usize::from(epoch % 2 == 1)]
    }
}

/// See the [module](self).
#[derive(Default)]
pub struct Seats(Mutex<Vec<Arc<Seat>>>);

impl Seats {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<Seat>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn join(&self, completer: Completer) -> Arc<Seat> {
        let seat = Arc::new(Seat { completer, changes: Default::default(), gone: AtomicBool::new(false) });
        self.all().push(seat.clone());
        seat
    }

    pub fn leave(&self, seat: &Arc<Seat>) {
        seat.gone.store(true, Release);
        self.all().retain(|other| !Arc::ptr_eq(other, seat));
    }

    /// Waits until each queue was between two requests once, for at most `patience`; calls `meanwhile` now and then. How many
    /// changes of that epoch are under way.
    pub fn meet(
        &self,
        epoch: u64,
        patience: Duration,
        meanwhile: &mut dyn FnMut() -> Result<()>,
    ) -> Result<u32> {
        let until = Instant::now() + patience;
        let ask = |seat: &Arc<Seat>| {
            let its = seat.clone();
            (seat.clone(), seat.completer.ask(move |_| its.of(epoch).load(Relaxed)))
        };
        let asked: Vec<_> = self.all().iter().map(ask).collect();
        let mut changes = 0;
        for (seat, answer) in asked {
            loop {
                match answer.recv_timeout(PAUSE) {
                    Ok(its) => changes += its,
                    Err(RecvTimeoutError::Timeout) if !seat.gone.load(Acquire) => {
                        meanwhile()?;
                        if Instant::now() < until {
                            continue;
                        }
                        return Err(Error::new(ErrorKind::Timeout, "a queue of the disk does not answer")
                            .hint("its thread is stuck, or stopped"));
                    }
                    Err(_) => {} // it has ended
                }
                break;
            }
        }
        Ok(changes)
    }
}
