//! What may be on a disk after a power cut: what is certain, and what is in doubt.
//!
//! A write is *certain* if it was completed before a flush was started that was completed before the cut, or if it had FUA and
//! was completed before the cut. All others that were started before the cut are in doubt: the disk has them whole, in
//! part, or not at all. The part of a write in one *unit* of the disk is there or not.
//!
//! Where several writes overlap in a unit, the disk applies them in the order of their completions: if one of them is there,
//! so is what the ones before it changed. So there are as many possible contents as writes in doubt, and one more. Writes of
//! different sectors of a unit, with none that overlaps both, do not depend on each other: a disk may write either one alone.
//!
//! A long write has few places at which it is torn ([`TEARS`]): the units between two of them are there together or not.

use crate::backend::numbers::mixed;
use crate::backend::recorder::{ContentMap, Log, Moment, NEVER, Write};
use crate::request::{Flags, Op};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// What a disk promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promises {
    /// A flush makes durable what was written before.
    pub flush: bool,
    /// A write with FUA is durable when it is completed.
    pub fua: bool,
}

/// A write that was started before the cut, and not made durable by a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Its number in the log.
    pub number: usize,
    /// The same one.
    pub write: Write,
    /// It was completed before the cut.
    pub complete: bool,
    /// It is there nevertheless, because of FUA.
    pub certain: bool,
}

/// Neighbouring sectors that overlapping open writes have changed: in one unit of the disk, or in several of them which are there
/// together or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its sectors: no open write goes on beyond them within the unit of the disk.
    pub sectors: Range<u64>,
    /// The open writes that change it, by their position among these, in the order in which they apply.
    pub versions: Vec<usize>,
    /// How many of them are certain to have been applied.
    pub least: usize,
    /// It may hold anything: one of them was in flight, and the disk does not write units whole.
    pub garbage: bool,
}

impl Unit {
    /// How many contents are possible.
    pub fn contents(&self) -> usize {
        self.versions.len() - self.least + 1 + usize::from(self.garbage)
    }

    /// What stands for garbage in the place of how many versions were applied.
    pub fn as_garbage(&self) -> usize {
        self.versions.len() + 1
    }

    /// The content with a number: 0 is the newest one.
    pub fn content(&self, number: usize) -> usize {
        let versions = self.versions.len();
        if number > versions - self.least { self.as_garbage() } else { versions - number }
    }

    /// The sectors of a write in it.
    pub fn part(&self, write: &Write) -> Range<u64> {
        let range = write.range();
        range.start.max(self.sectors.start)..range.end.min(self.sectors.end)
    }
}

/// A write of more units than this is not torn at each of them, but at this number of places.
pub const TEARS: u64 = 256;

/// What is in doubt at a moment.
#[derive(Debug, Default)]
pub struct Doubt {
    /// When.
    pub moment: Moment,
    /// The writes in doubt, and those that are there because of FUA, in the order in which they apply.
    pub open: Vec<Open>,
    /// The units that they change, in the order of the disk; empty if writes are not torn.
    pub units: Vec<Unit>,
    /// All writes so far with their numbers in the log, for those models that damage any of them.
    pub all: Vec<(usize, Write)>,
    /// The size of the disk.
    pub sectors: u64,
}

impl Doubt {
    /// The number of the write whose data a sector has if all writes are there. Only for models that need [`all`](Self::all).
    pub fn newest(&self, sector: u64) -> Option<usize> {
        let has = |(_, write): &&(usize, Write)| write.range().contains(&sector);
        self.all.iter().rev().find(has).map(|(number, _)| *number)
    }
}

/// Goes through the moments of a log.
pub struct Walk {
    log: Arc<Log>,
    promises: Promises,
    /// What a flush has made durable.
    durable: ContentMap,
    /// How many writes are in it.
    flushed: usize,
    /// When the last flush was started that counts.
    since: Moment,
    /// How many flushes were completed.
    flushes: usize,
    /// How many writes were completed.
    completed: usize,
    /// All writes, in the order of their starts.
    by_start: Vec<usize>,
    /// How many were started.
    started: usize,
    /// Those that were started and not completed, in the order of their completions.
    in_flight: Vec<usize>,
    at: Moment,
    /// The sum of the numbers of the writes and flushes that were completed.
    sum: u64,
}

impl Walk {
    /// From the beginning of a log, whose disk had that content.
    pub fn new(log: Arc<Log>, before: ContentMap, promises: Promises) -> Self {
        let mut by_start: Vec<_> = (0..log.writes().len()).collect();
        by_start.sort_by_key(|number| log.writes()[*number].start);
        Self {
            log,
            promises,
            durable: before,
            flushed: 0,
            since: 0,
            flushes: 0,
            completed: 0,
            by_start,
            started: 0,
            in_flight: Vec::new(),
            at: 0,
            sum: 0,
        }
    }

    /// Goes on to a moment: all events before it have happened.
    ///
    /// # Panics
    /// If that moment is earlier than the last one.
    pub fn to(&mut self, moment: Moment) {
        assert!(moment >= self.at, "time goes forwards");
        self.at = moment;
        let log = self.log.clone();
        let writes = log.writes();
        while let Some(flush) = log.flushes().get(self.flushes).filter(|flush| flush.done < moment) {
            if self.promises.flush {
                self.since = self.since.max(flush.start);
            }
            self.sum = self.sum.wrapping_add(number_of([0, flush.start, flush.done, 0, 0, 0]));
            self.flushes += 1;
        }
        while let Some(write) = writes.get(self.flushed).filter(|write| write.done < self.since) {
            Log::apply(write, &mut self.durable);
            self.flushed += 1;
        }
        while let Some(write) = writes.get(self.completed).filter(|write| write.done < moment) {
            self.sum = self.sum.wrapping_add(number_of_write(write, write.done));
            self.completed += 1;
        }
        while let Some(number) = self.by_start.get(self.started)
            && writes[*number].start < moment
        {
            self.in_flight.push(*number);
            self.started += 1;
        }
        self.in_flight.retain(|number| writes[*number].done >= moment);
        self.in_flight.sort_unstable();
    }

    /// The present moment.
    pub fn at(&self) -> Moment {
        self.at
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A number that tells what happened until now, without the data, from anything else that may have.
    pub fn record(&self) -> u64 {
        let writes = self.in_flight.iter().map(|number| &self.log.writes()[*number]);
        writes.fold(self.sum, |sum, write| sum.wrapping_add(number_of_write(write, NEVER)))
    }

    /// What is durable because of a flush.
    pub fn durable(&self) -> &ContentMap {
        &self.durable
    }

    /// All other writes, in the order in which they apply.
    pub fn open(&self) -> impl DoubleEndedIterator<Item = Open> {
        let writes = self.log.writes();
        let complete = (self.flushed..self.completed).map(|number| {
            let write = writes[number];
            let certain = self.promises.fua && write.flags.has(Flags::FUA);
            Open { number, write, complete: true, certain }
        });
        let in_flight = self.in_flight.iter().map(|number| Open {
            number: *number,
            write: writes[*number],
            complete: false,
            certain: false,
        });
        complete.chain(in_flight)
    }

    /// All writes so far, in the order in which they apply.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = usize> {
        (0..self.completed).chain(self.in_flight.iter().copied())
    }

    /// Whether more units than `most` have more than one possible content. Fast where many have.
    pub fn has_more_units(&self, most: usize, unit: u64) -> bool {
        let (mut certain, mut seen) = (Vec::<Range<u64>>::new(), BTreeSet::new());
        for open in self.open().rev() {
            let touched = touched(&open.write, unit);
            if open.certain {
                certain.push(touched);
                continue;
            }
            for number in touched {
                let doubtful = !certain.iter().any(|units| units.contains(&number)) && seen.insert(number);
                if doubtful && seen.len() > most {
                    return true;
                }
            }
        }
        false
    }
}

fn number_of_write(write: &Write, done: Moment) -> u64 {
    // In a log of dm-log-writes, zeroes are written like other data.
    let op = if write.op == Op::Discard { 2 } else { 1 };
    let fua = u64::from(write.flags.has(Flags::FUA));
    number_of([op, write.start, done, write.sector, write.sectors.into(), fua])
}

fn number_of(event: [u64; 6]) -> u64 {
    event.into_iter().fold(0, |number, field| mixed(mixed(number).wrapping_add(field)))
}

/// The units that a write changes.
fn touched(write: &Write, unit: u64) -> Range<u64> {
    write.range().start / unit..write.range().end.div_ceil(unit)
}

/// The units that open writes change, in the order of the disk. `unit`: sectors in one. `garbage`: those of writes in flight may hold
/// anything.
pub fn units(open: &[Open], unit: u64, garbage: bool) -> Vec<Unit> {
    let mut bounds: Vec<u64> = Vec::new();
    for Open { write, .. } in open {
        let units = touched(write, unit);
        let count = units.end - units.start;
        let parts = count.clamp(1, TEARS);
        bounds.extend((0..=parts).map(|part| units.start + count * part / parts));
    }
    bounds.sort_unstable();
    bounds.dedup();
    let mut parts = vec![Vec::new(); bounds.len().saturating_sub(1)];
    for (position, Open { write, .. }) in open.iter().enumerate() {
        let touched = touched(write, unit);
        let first = bounds.partition_point(|bound| *bound < touched.start);
        let last = bounds.partition_point(|bound| *bound < touched.end);
        parts[first..last].iter_mut().for_each(|part| part.push(position));
    }
    let mut units = Vec::new();
    for (ends, writes) in bounds.windows(2).zip(parts) {
        units.extend(overlapping(open, &writes, ends[0] * unit..ends[1] * unit, garbage));
    }
    units
}

/// Some of the open writes within these sectors, apart where they do not overlap.
fn overlapping(open: &[Open], writes: &[usize], within: Range<u64>, garbage: bool) -> Vec<Unit> {
    let part = |at: usize| {
        let range = open[at].write.range();
        range.start.max(within.start)..range.end.min(within.end)
    };
    let mut ranges: Vec<_> = writes.iter().map(|at| part(*at)).collect();
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let overlaps = next.start < range.end;
        if overlaps {
            range.end = range.end.max(next.end);
        }
        overlaps
    });
    let unit = |sectors| Unit { sectors, versions: Vec::new(), least: 0, garbage: false };
    let mut units: Vec<_> = ranges.into_iter().map(unit).collect();
    for at in writes {
        let start = part(*at).start;
        let Some(here) = units.iter_mut().find(|unit| unit.sectors.contains(&start)) else { continue };
        here.versions.push(*at);
        here.garbage |= garbage && !open[*at].complete;
        if open[*at].certain {
            here.least = here.versions.len();
        }
    }
    units
}
