//! A diff of a disk that goes on: what its changed blocks held at one instant.
//!
//! 1. It *watches*: whatever a request marks as changed is noted here, too. All changes that were begun before have to end, so
//!    that nothing is overlooked. Then what is in the tables is added: however large the disk, no request waits for that.
//! 2. The *instant*: from here on, changes wait. Each queue is met again. Those that have begun before are noted, and what
//!    begins from now on is not. Only changes of noted blocks go on waiting.
//! 3. When all changes from before the instant have ended, the noted blocks are *copied*. A change waits until its blocks are,
//!    which are copied ahead of all others. So each change is in the diff with all its blocks if it began before the instant,
//!    and with none if it began afterwards.
//!
//! Copied data is [outgoing](Outgoing): requests wait for the disk only, and not for the output. See [`copier`].

use super::BLOCK;
use super::outgoing::Outgoing;
use super::session::Entry;
use crate::backend::bits::Bits;
use crate::backend::{Completer, Token};
use crate::error::{Error, ErrorKind, Result};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Does something of a diff. A panic becomes an error, so that all that waits for the diff is told of its end.
pub fn no_panic(what: impl FnOnce() -> Result<()>) -> Result<()> {
    let failed = |_| Err(Error::new(ErrorKind::System, "the diff panicked: this is a bug"));
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(failed)
}

/// Queues wait for its lock: it is held for moments only, and by no thread that runs behind others.
#[derive(Default)]
pub struct State {
    /// Changes that wait until their blocks are copied.
    pub waiting: Vec<(Range<u64>, Completer, Token)>,
    failure: Option<Error>,
    /// Nothing reads the disk any more.
    apart: bool,
}

/// When it is dropped, nothing reads the disk any more.
pub struct Apart<'a>(&'a Diff);

impl Drop for Apart<'_> {
    fn drop(&mut self) {
        self.0.state().apart = true;
        self.0.happened.notify_all();
    }
}

/// See the [module](self).
pub struct Diff {
    /// Blocks that are not copied yet.
    todo: Bits,
    /// How many blocks are copied together, or not at all: a power of two up to 64.
    unit: u64,
    pub size: u64,
    /// All changes wait.
    holding: AtomicBool,
    /// It has ended: no change waits any more.
    over: AtomicBool,
    state: Mutex<State>,
    pub happened: Condvar,
    pub outgoing: Outgoing,
}

impl Diff {
    /// Of a disk of `size` bytes, of which whole units of `unit` bytes are copied.
    pub fn new(size: u64, unit: u64) -> io::Result<Self> {
        Ok(Self {
            todo: Entry::table(size)?,
            unit: (unit / BLOCK).next_power_of_two().clamp(1, 64),
            size,
            holding: AtomicBool::new(true),
            over: AtomicBool::new(false),
            state: Mutex::default(),
            happened: Condvar::new(),
            outgoing: Outgoing::default(),
        })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The units that blocks are in, up to the end of the disk.
    #[inline]
    fn units(&self, blocks: &Range<u64>) -> Range<u64> {
        let end = blocks.end.next_multiple_of(self.unit).min(self.size.div_ceil(BLOCK));
        (blocks.start / self.unit * self.unit).min(end)..end
    }

    /// Before the instant: a change of these blocks begins.
    pub fn note(&self, blocks: &Range<u64>) {
        self.todo.set_all(self.units(blocks));
    }

    /// Before the instant: the blocks that a table has are noted. All of them without a table.
    pub fn note_table(&self, table: Option<&Bits>) {
        let end = self.size.div_ceil(BLOCK);
        let Some(table) = table else { return self.todo.set_all(0..end) };
        for at in 0..self.todo.words().min(table.words()) {
            let mut bits = table.word(at).load(SeqCst);
            while bits != 0 {
                let first = u64::from(bits.trailing_zeros());
                let ones = u64::from((!(bits >> first)).trailing_zeros()).min(64 - first);
                let from = at as u64 * 64 + first;
                self.todo.set_all(self.units(&(from..from + ones)));
                bits &= (u64::MAX << first).checked_shl(u32::try_from(ones).unwrap_or(64)).unwrap_or(0);
            }
        }
    }

    /// After the instant, when each queue knows of it: only changes of noted blocks wait from here on.
    pub fn release_others(&self) {
        self.holding.store(false, SeqCst);
        self.release(&mut self.state());
    }

    /// After the instant: whether a change of these blocks may begin. Otherwise `wait` names its call, which is told when to
    /// ask again.
    #[inline]
    pub fn admits(&self, blocks: &Range<u64>, wait: impl FnOnce() -> (Completer, Token)) -> bool {
        if self.is_free(blocks) {
            return true;
        }
        let mut state = self.state();
        if self.is_free(blocks) {
            return true;
        }
        let (completer, token) = wait();
        state.waiting.push((blocks.clone(), completer, token));
        self.happened.notify_all();
        false
    }

    fn is_free(&self, blocks: &Range<u64>) -> bool {
        if self.over.load(SeqCst) {
            return true;
        }
        !self.holding.load(SeqCst) && self.todo.next_within(self.units(blocks)).is_none()
    }

    /// Tells the calls that have nothing to wait for any more.
    fn release(&self, state: &mut State) {
        state.waiting.retain(|(blocks, completer, token)| {
            let free = self.is_free(blocks);
            if free {
                completer.complete(*token, 0);
            }
            !free
        });
    }

    /// These blocks are copied.
    pub fn copied(&self, parts: &[Range<u64>]) {
        parts.iter().flat_map(Clone::clone).for_each(|block| self.todo.clear(block));
        self.release(&mut self.state());
    }

    /// Ends it: no change waits any more.
    pub fn end(&self) {
        let mut state = self.state();
        self.over.store(true, SeqCst);
        self.release(&mut state);
        drop(state);
        self.happened.notify_all();
        self.outgoing.complete();
    }

    pub fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Ends it before it is complete.
    pub fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
        self.outgoing.fail();
        self.end();
    }

    pub fn has_failed(&self) -> bool {
        self.state().failure.is_some()
    }

    /// Why it has failed, if it has.
    pub fn failure(&self) -> Option<Error> {
        self.state().failure.take()
    }

    /// From when this is dropped on, nothing reads the disk any more.
    #[must_use]
    pub fn apart_when_dropped(&self) -> Apart<'_> {
        Apart(self)
    }

    /// Ends it before it is complete, and waits until nothing reads the disk any more.
    pub fn abandon(&self, error: Error) {
        self.fail(error);
        let mut state = self.state();
        while !state.apart {
            state = self.happened.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks that are not copied yet, of which changes wait for some: at most `most` ranges, of at most `longest` blocks.
    pub fn wanted(&self, state: &State, most: usize, longest: u64) -> Vec<Range<u64>> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        for (blocks, ..) in &state.waiting {
            let units = self.units(blocks);
            let mut from = units.start;
            while let Some(first) = self.todo.next_within(from..units.end) {
                if parts.len() == most {
                    return parts;
                }
                let part = self.run(first, units.end.min(first + longest));
                from = part.end;
                if !parts.iter().any(|other| part.start < other.end && other.start < part.end) {
                    parts.push(part);
                }
            }
        }
        parts
    }

    /// The next blocks that are not copied yet, from `cursor` on: at most `most` ranges, of at most `longest` blocks.
    pub fn rest(&self, cursor: &mut u64, most: usize, longest: u64) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        while parts.len() < most
            && let Some(first) = self.todo.next(*cursor)
        {
            let part = self.run(first, first + longest);
            *cursor = part.end;
            parts.push(part);
        }
        parts
    }

    /// Adjacent blocks from `first` on that are not copied yet.
    fn run(&self, first: u64, end: u64) -> Range<u64> {
        first
            ..(first + 1..end)
                .find(|block| self.todo.next_within(*block..*block + 1).is_none())
                .unwrap_or(end)
    }
}
