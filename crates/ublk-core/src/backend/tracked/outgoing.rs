//! Data that is copied and not written out yet. No queue locks it, so its output may be slow, and run behind others.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Data in memory, and its place on the disk.
pub struct Copied {
    pub offset: u64,
    pub data: Vec<u8>,
}

/// Data for which there was no memory: in a file, from `at` on.
pub struct Aside {
    pub offset: u64,
    pub at: u64,
    pub length: usize,
}

/// What to write out next.
pub enum Part {
    Here(Copied),
    Aside(Aside),
}

#[derive(Default)]
struct State {
    here: VecDeque<Copied>,
    aside: VecDeque<Aside>,
    /// Some of it is being put aside.
    moving: bool,
    /// No more is added.
    complete: bool,
    failed: bool,
    /// Nothing is written out any more.
    written: bool,
}

/// See the [module](self).
#[derive(Default)]
pub struct Outgoing {
    state: Mutex<State>,
    happened: Condvar,
    /// How many are in memory.
    bytes: AtomicUsize,
}

impl Outgoing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.happened.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes are in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.load(SeqCst)
    }

    /// That many bytes more are in memory, and are added soon.
    pub fn more(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, SeqCst);
    }

    /// Adds what was copied, unless another thread has the lock: it may run behind others, and requests wait for this one. Then
    /// it is left to be tried again.
    pub fn try_add(&self, copied: &mut Vec<Copied>) {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        state.here.extend(copied.drain(..));
        drop(state);
        self.happened.notify_all();
    }

    /// The same, when no request waits any more.
    pub fn add(&self, copied: Vec<Copied>) {
        self.state().here.extend(copied);
        self.happened.notify_all();
    }

    /// That many bytes are not in memory any more.
    pub fn less(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, SeqCst);
    }

    /// What to write out next; waits for it. `None`: that was all, or it has failed.
    pub fn next(&self) -> Option<Part> {
        let mut state = self.state();
        loop {
            if state.failed {
                return None;
            }
            if let Some(copied) = state.here.pop_front() {
                return Some(Part::Here(copied));
            }
            if let Some(aside) = state.aside.pop_front() {
                return Some(Part::Aside(aside));
            }
            if state.complete && !state.moving {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// What is to be put aside; waits until more than `most` bytes are in memory. `None`: nothing waits for memory any more.
    pub fn surplus(&self, most: usize) -> Option<Copied> {
        let mut state = self.state();
        loop {
            if state.failed || state.complete {
                return None;
            }
            // The newest of it, which would be written out last.
            if self.bytes() > most
                && let Some(copied) = state.here.pop_back()
            {
                state.moving = true;
                return Some(copied);
            }
            state = self.wait(state);
        }
    }

    /// The surplus is put aside.
    pub fn is_aside(&self, aside: Aside) {
        self.less(aside.length);
        let mut state = self.state();
        state.aside.push_back(aside);
        state.moving = false;
        self.happened.notify_all();
    }

    /// No more is added.
    pub fn complete(&self) {
        self.state().complete = true;
        self.happened.notify_all();
    }

    /// Nothing more is needed.
    pub fn fail(&self) {
        self.state().failed = true;
        self.happened.notify_all();
    }

    /// Nothing is written out any more.
    pub fn written(&self) {
        self.state().written = true;
        self.happened.notify_all();
    }

    /// Waits until nothing is written out any more, for at most `most`. Whether that is so.
    pub fn wait_until_written(&self, most: Duration) -> bool {
        let state = self.state();
        let wait = self.happened.wait_timeout_while(state, most, |state| !state.written);
        wait.unwrap_or_else(PoisonError::into_inner).0.written
    }
}
