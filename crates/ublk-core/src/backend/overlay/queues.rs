//! The queues that serve an overlay, as its other threads see them: each takes part in what is done to the disk on its own
//! thread, between two requests.

use super::index::Layer;
use crate::backend::{Completer, Files, Op, Piece, Slot, Token};
use crate::error::{Error, ErrorKind, Result};
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a queue that does not answer is looked after.
const PAUSE: Duration = Duration::from_millis(50);

/// When a change began. There are two at a time.
pub type Era = u8;

/// What a queue's engine has in common with other threads. Only its own thread changes the counts, so they need no atomic
/// addition.
pub struct Seat {
    completer: Completer,
    /// Calls that are served.
    calls: AtomicU32,
    /// Of these, changes of the disk: by the era in which they began, and by layer: the one that is written, and the one
    /// below it.
    changes: [[AtomicU32; 2]; 2],
    /// That of the changes that begin now: 0 or 1.
    era: AtomicU8,
    /// The last [hold of changes](Queues::hold_changes) for which it began an era.
    generation: AtomicU64,
    /// Where the ring has the files of layers that were added.
    slots: Mutex<Vec<Option<Slot>>>,
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

    /// The engine begins to change a layer. Returns the change's era.
    #[inline]
    pub fn changes(&self, layer: Layer) -> Era {
        let era = self.era.load(Relaxed);
        count(&self.changes[usize::from(era)][usize::from(layer % 2)], u32::wrapping_add);
        era
    }

    /// It has changed it, or failed.
    #[inline]
    pub fn changed(&self, layer: Layer, era: Era) {
        count(&self.changes[usize::from(era)][usize::from(layer % 2)], u32::wrapping_sub);
    }

    /// Whether it changes that layer. On the queue's thread.
    pub fn is_changing(&self, layer: Layer) -> bool {
        self.changes.iter().any(|era| era[usize::from(layer % 2)].load(Relaxed) > 0)
    }

    /// Begins an era for that hold of changes, unless it has begun, and says whether all changes from before it have ended. On
    /// the queue's thread.
    fn has_ended_before(&self, generation: u64) -> bool {
        let none = |era: Era| self.changes[usize::from(era)].iter().all(|count| count.load(Relaxed) == 0);
        let mut era = self.era.load(Relaxed);
        if self.generation.load(Relaxed) != generation {
            // A change of the era before the last one would not be told from one of the new era.
            if !none(1 - era) {
                return false;
            }
            era = 1 - era;
            self.era.store(era, Relaxed);
            self.generation.store(generation, Relaxed);
        }
        none(1 - era)
    }

    /// Whether it serves calls. On the queue's thread.
    pub fn is_busy(&self) -> bool {
        self.calls.load(Relaxed) > 0
    }

    /// Where the file of a layer that was added is.
    pub fn slot(&self, layer: Layer) -> Option<Slot> {
        locked(&self.slots).get(usize::from(layer)).copied().flatten()
    }

    /// The ring gets the file of that layer: in the place of one of a layer below `retired`, which nobody reads, if it has one.
    pub fn add(
        &self,
        layer: Layer,
        retired: Layer,
        file: BorrowedFd<'_>,
        files: &mut Files<'_>,
    ) -> Result<()> {
        let mut slots = locked(&self.slots);
        let free = slots.iter().take(retired.into()).position(Option::is_some);
        let slot = match free.and_then(|at| slots[at]) {
            Some(slot) => files.replace(slot, file).map(|()| slot),
            None => files.add(file),
        }?;
        if let Some(free) = free {
            slots[free] = None;
        }
        let length = slots.len().max(usize::from(layer) + 1);
        slots.resize(length, None);
        slots[usize::from(layer)] = Some(slot);
        Ok(())
    }
}

/// See the [module](self).
#[derive(Default)]
pub struct Queues {
    seats: Mutex<Vec<Arc<Seat>>>,
    /// How often changes were held. A number that never comes again: after a hold that took too long, a queue may still be in
    /// the era of any earlier one. It grows with the seats locked.
    generation: AtomicU64,
    /// Some calls wait.
    hold: AtomicBool,
    /// Of these, only changes of [this range](Self::range) do.
    changes_only: AtomicBool,
    range: [AtomicU64; 2],
}

impl Queues {
    /// A queue begins to serve the disk.
    pub fn join(&self, completer: Completer) -> Arc<Seat> {
        let mut seats = locked(&self.seats);
        let seat = Arc::new(Seat {
            completer,
            calls: AtomicU32::new(0),
            changes: Default::default(),
            era: AtomicU8::new(0),
            generation: AtomicU64::new(self.generation.load(Relaxed)),
            slots: Mutex::default(),
            held: Mutex::default(),
            gone: AtomicBool::new(false),
        });
        seats.push(seat.clone());
        seat
    }

    /// Whether no queue serves the disk.
    pub fn are_empty(&self) -> bool {
        locked(&self.seats).is_empty()
    }

    /// It serves the disk no more. Whether no queue does.
    pub fn leave(&self, seat: &Arc<Seat>) -> bool {
        seat.gone.store(true, Release);
        let mut seats = locked(&self.seats);
        seats.retain(|other| !Arc::ptr_eq(other, seat));
        seats.is_empty()
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
    pub fn wait(
        &self,
        patience: Duration,
        done: impl Fn(&Seat) -> bool + Copy + Send + Sync + 'static,
    ) -> Result<bool> {
        let (until, mut pause) = (Instant::now() + patience, Duration::from_micros(200));
        while !self.each(patience, move |seat, _| done(seat))?.into_iter().all(|done| done) {
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
        self.changes_only.store(false, Relaxed);
        self.hold.store(true, Release);
    }

    /// Changes of a range of the disk that come from here on wait, and those that came before are waited for.
    pub fn hold_changes(&self, range: &Range<u64>, patience: Duration) -> Result<()> {
        // A queue that sees one number of this range and one of the last has not begun the new era, so the change that it
        // lets pass is waited for.
        self.range[0].store(range.start, Relaxed);
        self.range[1].store(range.end, Relaxed);
        self.changes_only.store(true, Relaxed);
        self.hold.store(true, Release);
        let generation = {
            let _seats = locked(&self.seats);
            self.generation.fetch_add(1, Relaxed) + 1
        };
        if self.wait(patience, move |seat| seat.has_ended_before(generation))? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Timeout, "the writes in flight do not end")
            .hint("try again when they have: what they wait for is the disk's storage"))
    }

    /// Whether some calls wait.
    #[inline]
    pub fn holds(&self) -> bool {
        self.hold.load(Acquire)
    }

    /// Whether this one is to wait.
    fn holds_back(&self, piece: &Piece) -> bool {
        if !self.holds() || !self.changes_only.load(Relaxed) {
            return self.holds();
        }
        let [start, end] = [0, 1].map(|at: usize| self.range[at].load(Relaxed));
        let changes = matches!(piece.op, Op::Write | Op::WriteZeroes | Op::Discard);
        changes && piece.offset < end && start < piece.offset + piece.length
    }

    /// Makes a call wait. `false`: it need not.
    #[cold]
    pub fn keep_waiting(&self, seat: &Seat, piece: &Piece, token: Token) -> bool {
        if !self.holds_back(piece) {
            return false;
        }
        let mut held = locked(&seat.held);
        let holds = self.holds_back(piece);
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

/// Makes requests wait until it is dropped.
pub struct Hold<'a>(&'a Queues);

impl<'a> Hold<'a> {
    /// From here on.
    pub fn new(queues: &'a Queues) -> Self {
        queues.hold();
        Self(queues)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.go_on();
    }
}
