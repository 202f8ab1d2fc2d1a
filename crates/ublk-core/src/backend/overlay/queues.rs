//! The queues that serve an overlay, as its other threads see them: each takes part in what is done to the disk on its own
//! thread, between two requests.

use super::index::Layer;
use super::upper::MOST_LAYERS;
use crate::backend::{Completer, Files, Slot, Token};
use crate::error::{Error, ErrorKind, Result};
use std::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a queue that does not answer is looked after.
const PAUSE: Duration = Duration::from_millis(50);

/// What a queue's engine has in common with other threads. Only its own thread changes the counts, so they need no atomic
/// addition.
pub struct Seat {
    completer: Completer,
    /// Calls that are served.
    calls: AtomicU32,
    /// Of these, changes of the disk, by layer: the one that is written, and the one below it.
    changes: [AtomicU32; 2],
    /// Where the ring has the files of layers that were added.
    slots: Mutex<[Option<Slot>; MOST_LAYERS]>,
    /// Calls that wait until the disk is no longer held.
    held: Mutex<Vec<Token>>,
    gone: AtomicBool,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn count(counter: &AtomicU32, change: fn(u32, u32) -> u32) {
    counter.store(change(counter.load(Relaxed), 1), Relaxed);
}

impl Seat {
    /// The engine begins to serve a call that has to wait.
    #[inline]
    pub fn waits(&self) {
        count(&self.calls, u32::wrapping_add);
    }

    /// It was answered.
    #[inline]
    pub fn answered(&self) {
        count(&self.calls, u32::wrapping_sub);
    }

    /// The engine begins to change a layer.
    #[inline]
    pub fn changes(&self, layer: Layer) {
        count(&self.changes[usize::from(layer % 2)], u32::wrapping_add);
    }

    /// It has changed it, or failed.
    #[inline]
    pub fn changed(&self, layer: Layer) {
        count(&self.changes[usize::from(layer % 2)], u32::wrapping_sub);
    }

    /// Whether it changes that layer. On the queue's thread.
    pub fn is_changing(&self, layer: Layer) -> bool {
        self.changes[usize::from(layer % 2)].load(Relaxed) > 0
    }

    /// Whether it serves calls. On the queue's thread.
    pub fn is_busy(&self) -> bool {
        self.calls.load(Relaxed) > 0
    }

    /// Where the file of a layer that was added is.
    pub fn slot(&self, layer: Layer) -> Option<Slot> {
        locked(&self.slots)[usize::from(layer) - 1]
    }

    /// The ring has that file.
    pub fn put(&self, layer: Layer, slot: Slot) {
        locked(&self.slots)[usize::from(layer) - 1] = Some(slot);
    }
}

/// See the [module](self).
#[derive(Default)]
pub struct Queues {
    seats: Mutex<Vec<Arc<Seat>>>,
    hold: AtomicBool,
}

impl Queues {
    /// A queue begins to serve the disk.
    pub fn join(&self, completer: Completer) -> Arc<Seat> {
        let seat = Arc::new(Seat {
            completer,
            calls: AtomicU32::new(0),
            changes: Default::default(),
            slots: Mutex::default(),
            held: Mutex::default(),
            gone: AtomicBool::new(false),
        });
        locked(&self.seats).push(seat.clone());
        seat
    }

    /// It serves the disk no more.
    pub fn leave(&self, seat: &Arc<Seat>) {
        seat.gone.store(true, Release);
        locked(&self.seats).retain(|other| !Arc::ptr_eq(other, seat));
    }

    /// Has each queue do something on its thread, without waiting for its requests. What the queues answer; one that ends
    /// meanwhile does not.
    pub fn each<T: Send + 'static>(
        &self,
        patience: Duration,
        task: impl Fn(&Seat, &mut Files<'_>) -> T + Send + Sync + 'static,
    ) -> Result<Vec<T>> {
        let (task, until) = (Arc::new(task), Instant::now() + patience);
        let ask = |seat: &Arc<Seat>| {
            let (task, its) = (task.clone(), seat.clone());
            (seat.clone(), seat.completer.ask(move |files| task(&its, files)))
        };
        let asked: Vec<_> = locked(&self.seats).iter().map(ask).collect();
        let mut answers = Vec::new();
        for (seat, answer) in asked {
            loop {
                match answer.recv_timeout(PAUSE) {
                    Ok(answer) => answers.push(answer),
                    Err(RecvTimeoutError::Timeout) if !seat.gone.load(Acquire) => {
                        if Instant::now() < until {
                            continue;
                        }
                        return Err(Error::new(ErrorKind::Timeout, "a queue of the disk does not answer")
                            .hint("its thread is stuck, or stopped"));
                    }
                    Err(_) => {}
                }
                break;
            }
        }
        Ok(answers)
    }

    /// Waits until `done` on each queue, which is asked on its thread. `false`: that took too long.
    pub fn wait(&self, patience: Duration, done: fn(&Seat, Layer) -> bool, layer: Layer) -> Result<bool> {
        let (until, mut pause) = (Instant::now() + patience, Duration::from_micros(200));
        while !self.each(patience, move |seat, _| done(seat, layer))?.into_iter().all(|done| done) {
            if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(PAUSE);
        }
        Ok(true)
    }

    /// Calls that come from here on wait.
    pub fn hold(&self) {
        self.hold.store(true, Release);
    }

    /// Whether they do.
    #[inline]
    pub fn holds(&self) -> bool {
        self.hold.load(Acquire)
    }

    /// Makes a call wait. `false`: it need not any more.
    pub fn keep_waiting(&self, seat: &Seat, token: Token) -> bool {
        let mut held = locked(&seat.held);
        let holds = self.holds();
        if holds {
            held.push(token);
        }
        holds
    }

    /// They go on.
    pub fn go_on(&self) {
        self.hold.store(false, Release);
        for seat in locked(&self.seats).iter() {
            let held = std::mem::take(&mut *locked(&seat.held));
            held.into_iter().for_each(|token| seat.completer.complete(token, 0));
        }
    }
}
