//! Counters of one queue: written by its thread, read by any thread.

use super::histogram::{Histogram, Histograms};
use crate::error::{Error, Result};
use crate::request::{Descriptor, Op};
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
pub struct QueueCounters {
    /// By operation, as [`index_of`] numbers them.
    ops: [OpCounters; OPS],
    /// The same.
    service: Histograms,
    /// Requests taken from the driver.
    pub taken: Counter,
    /// Iterations of the loop: `io_uring_enter` calls, except those of polling.
    pub turns: Counter,
}

impl QueueCounters {
    /// All zero.
    pub fn new() -> Result<Self> {
        let service = Histograms::new(OPS).map_err(|error| Error::system("cannot map counters", &error))?;
        Ok(Self { ops: Default::default(), service, taken: Counter::default(), turns: Counter::default() })
    }

    /// Resets the requests that an earlier run of the queue left unanswered. Only for the queue's own thread.
    pub fn restart(&self) {
        self.taken.0.store(self.answered(), Relaxed);
    }

    /// Counts a request that is answered with `result` after this number of ticks. Only for the queue's own thread.
    #[inline]
    pub(super) fn count(&self, what: &Descriptor, result: i32, ticks: u64) {
        let counters = self.of(what.op);
        counters.ops.add(1);
        match u64::try_from(result) {
            Err(_) => counters.errors.add(1),
            Ok(done) => {
                let has_data = matches!(what.op, Op::Read | Op::Write);
                counters.bytes.add(if has_data { done } else { what.length });
            }
        }
        self.service_of(what.op).record(ticks);
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
        &self.ops[index_of(op)]
    }

    /// The service times of the requests of one operation, including failed ones: from the turn of the queue in which a request
    /// arrived to the one in which its answer was sent. In ticks of the [`clock`](super::clock()).
    pub fn service_of(&self, op: Op) -> &Histogram {
        self.service.get(index_of(op))
    }
}

const OPS: usize = 6;

/// The last is for what was not advertised.
fn index_of(op: Op) -> usize {
    match op {
        Op::Read => 0,
        Op::Write => 1,
        Op::Flush => 2,
        Op::Discard => 3,
        Op::WriteZeroes => 4,
        Op::Other(_) => 5,
    }
}
