//! What was done to a recorded disk, in the order in which it was done.
//!
//! A clock counts the starts and completions of requests, and the marks, so that each has a moment of its own: two requests
//! overlap in time exactly if neither was completed before the other was started.

use super::content_map::{ContentMap, Origin};
use crate::abi::SECTOR;
use crate::pages;
use crate::request::{Flags, Op};
use std::ops::Range;

/// A moment: how many events came before.
pub type Moment = u64;

/// When a write is completed that was in flight at the end: at no moment, however late. So it is in doubt at each moment after its
/// start. There is one moment more, so that this one has a next one, too.
pub const NEVER: Moment = Moment::MAX - 1;

/// A write, discard or write-zeroes that was answered, or whose data was complete when the power failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    /// The first sector of the disk, of 512 bytes.
    pub sector: u64,
    /// How many of them.
    pub sectors: u32,
    /// Which of the three it is.
    pub op: Op,
    /// How it was asked for.
    pub flags: Flags,
    /// Where its data is.
    pub place: Origin,
    /// When it was started.
    pub start: Moment,
    /// When it was completed, or [`NEVER`].
    pub done: Moment,
}

impl Write {
    /// Its sectors of the disk.
    pub fn range(&self) -> Range<u64> {
        self.sector..self.sector + u64::from(self.sectors)
    }
}

/// A write, discard or write-zeroes that is not logged yet.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// The first byte of the disk.
    pub offset: u64,
    /// Behind the last one.
    pub end: u64,
    /// Which of the three it is.
    pub op: Op,
    /// How it was asked for.
    pub flags: Flags,
    /// Where its data is.
    pub place: Origin,
    /// When it was started.
    pub start: Moment,
}

impl Change {
    /// How much it changes.
    pub fn length(&self) -> u64 {
        self.end - self.offset
    }
}

/// A request that was answered without an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// When.
    pub at: Moment,
    /// A write, discard, write-zeroes or flush.
    pub op: Op,
    /// How it was asked for.
    pub flags: Flags,
    /// Its sectors of the disk; none of a flush.
    pub sectors: Range<u64>,
}

/// A flush that was answered without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flush {
    /// When it was started: it makes durable what was completed before.
    pub start: Moment,
    /// When it was completed.
    pub done: Moment,
}

/// A name that a test has given to a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// When it was set.
    pub at: Moment,
    /// Its name; several may have the same.
    pub name: String,
}

/// In steps of so many bytes the list of writes gets its memory.
const LEAST: usize = 16 << 10;
const MOST: usize = 1 << 20;

/// See the [module](self).
#[derive(Clone, Default)]
pub struct Log {
    /// In the order of their completions.
    writes: Vec<Write>,
    /// There is memory for so many of them.
    expected: usize,
    flushes: Vec<Flush>,
    marks: Vec<Mark>,
    now: Moment,
    began: Moment,
}

impl Log {
    /// An empty one whose clock goes on.
    pub fn beginning(now: Moment) -> Self {
        Self { now, began: now, ..Self::default() }
    }

    /// An event.
    pub fn tick(&mut self) -> Moment {
        let now = self.now;
        self.now += 1;
        now
    }

    /// When it began.
    pub fn beginning_at(&self) -> Moment {
        self.began
    }

    /// The present moment: all events so far are earlier.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// A change is completed now.
    pub fn write(&mut self, change: &Change) -> Write {
        let done = self.tick();
        self.add(change, done)
    }

    /// A change is in flight at the end. No other is completed later.
    pub fn in_flight(&mut self, change: &Change) {
        self.add(change, NEVER);
    }

    fn add(&mut self, change: &Change, done: Moment) -> Write {
        let Change { offset, op, flags, place, start, .. } = *change;
        // Requests with more sectors do not exist.
        let sectors = u32::try_from(change.length() / SECTOR).unwrap_or(u32::MAX);
        let write = Write { sector: offset / SECTOR, sectors, op, flags, place, start, done };
        if self.writes.len() >= self.expected {
            self.expect();
        }
        self.writes.push(write);
        write
    }

    /// Gets memory for further writes: about as much as there is, but not too much at once.
    #[cold]
    fn expect(&mut self) {
        let count = self.writes.len().clamp(LEAST / size_of::<Write>(), MOST / size_of::<Write>());
        self.writes.reserve(count);
        pages::expect(&mut self.writes.spare_capacity_mut()[..count]);
        self.expected = self.writes.len() + count;
    }

    /// A flush that was started at a moment is completed now.
    pub fn flush(&mut self, start: Moment) {
        let done = self.tick();
        self.flushes.push(Flush { start, done });
    }

    /// Sets a mark.
    pub fn mark(&mut self, name: String) {
        let at = self.tick();
        self.marks.push(Mark { at, name });
    }

    /// The first requests that were completed at a moment or later, in order.
    pub fn completed_since(&self, from: Moment, most: usize) -> Vec<Completed> {
        let writes = &self.writes[self.writes.partition_point(|write| write.done < from)..];
        let flushes = &self.flushes[self.flushes.partition_point(|flush| flush.done < from)..];
        let writes = writes.iter().take(most).map(|write| Completed {
            at: write.done,
            op: write.op,
            flags: write.flags,
            sectors: write.range(),
        });
        let flushes = flushes.iter().take(most).map(|flush| Completed {
            at: flush.done,
            op: Op::Flush,
            flags: Flags::NONE,
            sectors: 0..0,
        });
        let mut all: Vec<_> = writes.chain(flushes).collect();
        all.sort_unstable_by_key(|completed| completed.at);
        all.truncate(most);
        all
    }

    /// All writes, in the order of their completions.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// All flushes, in the order of their completions.
    pub fn flushes(&self) -> &[Flush] {
        &self.flushes
    }

    /// All marks, in order.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// Applies a write to a map of the disk.
    pub fn apply(write: &Write, to: &mut ContentMap) {
        to.set(write.range(), write.place);
    }
}
