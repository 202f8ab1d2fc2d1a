//! Counters of one queue: written by its one thread, read by anybody.

use super::Op;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter with a single writer: a plain add, without a locked instruction.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the queue's own thread may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Makes it at least `n`. Only the queue's own thread may call it.
    #[inline]
    pub fn raise(&self, n: u64) {
        if n > self.0.load(Relaxed) {
            self.0.store(n, Relaxed);
        }
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What was done for one kind of request.
#[derive(Debug, Default)]
pub struct OpCounters {
    /// Requests answered.
    pub ops: Counter,
    /// Bytes read, written, discarded or zeroed with success.
    pub bytes: Counter,
    /// Requests answered with an error.
    pub errors: Counter,
}

/// One queue's counters.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// By operation, as [`QueueCounters::of`] finds them; the last is for what was not advertised.
    ops: [OpCounters; 6],
    /// Requests taken from the driver.
    pub taken: Counter,
    /// `io_uring_enter` calls.
    pub turns: Counter,
}

impl QueueCounters {
    /// Forgets the requests that an earlier life of the queue left unanswered. Only for the queue's own thread.
    pub fn restart(&self) {
        self.taken.0.store(self.answered(), Relaxed);
    }

    fn answered(&self) -> u64 {
        self.ops.iter().map(|counters| counters.ops.get()).sum()
    }

    /// Requests taken and not answered yet, as far as another thread can see.
    pub fn in_flight(&self) -> u64 {
        self.taken.get().saturating_sub(self.answered())
    }

    /// The counters of one operation.
    pub fn of(&self, op: Op) -> &OpCounters {
        &self.ops[match op {
            Op::Read => 0,
            Op::Write => 1,
            Op::Flush => 2,
            Op::Discard => 3,
            Op::WriteZeroes => 4,
            Op::Other(_) => 5,
        }]
    }
}
