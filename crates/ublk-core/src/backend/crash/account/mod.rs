//! What happened to a disk until its power failed, and what became of each write: what a person wants to know of a state.
//!
//! The sums and the map of the disk count everything. Of a long log not all entries are named, but [`choose`](choose::choose)
//! picks those that explain the state; what lies between them is counted.

mod choose;
mod heat;
#[cfg(test)]
mod tests;

pub use heat::{Cell, HeatMap};

use super::states::{How, Lost, State};
use crate::backend::recorder::{Log, Mark, Moment, Write};
use crate::request::Flags;
use choose::{Chosen, choose};
use std::collections::{BTreeMap, HashMap};

/// What a write had been promised when the power failed. This is what every disk has to keep, whatever the model of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It was answered, and then a flush came that was answered, too.
    Flushed,
    /// It had FUA, and was answered. No flush came later.
    Forced,
    /// It was answered, and nothing made it durable.
    Volatile,
    /// It was not answered.
    InFlight,
}

/// How much of a write the state lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Loss {
    /// Nothing: it is there, or something later is in its place.
    None,
    /// A part of it.
    Part,
    /// All of it.
    Whole,
}

/// Some writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// How many.
    pub writes: u64,
    /// Their length together, in sectors.
    pub sectors: u64,
}

impl Sum {
    fn add(&mut self, write: &Write) {
        self.writes += 1;
        self.sectors += u64::from(write.sectors);
    }
}

/// Neighbouring entries that are not named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// The start of the first one.
    pub from: Moment,
    /// All writes.
    pub all: Sum,
    /// Of these, the ones of which something is lost.
    pub lost: Sum,
    /// How many flushes.
    pub flushes: u64,
    /// How many marks.
    pub marks: u64,
}

/// What happened, in the order of the starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A write, discard or write-zeroes.
    Write {
        /// Its number in the log.
        number: usize,
        /// The same one.
        write: Write,
        /// What it had been promised.
        standing: Standing,
        /// How much the state lacks.
        loss: Loss,
        /// The same, in sectors.
        lost: u64,
    },
    /// A flush.
    Flush {
        /// When it came.
        start: Moment,
        /// It was answered before the cut.
        answered: bool,
    },
    /// A mark.
    Mark(Mark),
    /// Those that are not named.
    LeftOut(LeftOut),
}

/// See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// What happened, the earliest first.
    pub entries: Vec<Entry>,
    /// All writes, by what became of them.
    pub sums: BTreeMap<(Standing, Loss), Sum>,
    /// How many flushes were answered.
    pub flushes: u64,
    /// How many marks were set.
    pub marks: u64,
    /// When the last flush came that was answered: what was answered before is durable.
    pub since: Option<Moment>,
    /// What was written where.
    pub heat: HeatMap,
}

/// What is asked of an account.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The numbers of writes that are named before all others, such as those that matter.
    pub first: &'a [usize],
    /// The most entries that are named.
    pub most: usize,
    /// What the disk never tears, in sectors.
    pub unit: u64,
    /// The size of the disk, in sectors.
    pub sectors: u64,
}

impl Account {
    /// Of a state of that log.
    pub fn new(log: &Log, cut: Moment, lost: &[Lost], wanted: Wanted) -> Self {
        let judge = Judge::new(log, cut, lost);
        let Chosen { entries, left_out } = choose(log, &judge, wanted);
        let mut entries: Vec<_> =
            entries.into_iter().chain(left_out.into_iter().map(Entry::LeftOut)).collect();
        entries.sort_by_key(Entry::start);
        let mut sums = BTreeMap::<_, Sum>::new();
        for (number, write) in judge.writes(log) {
            sums.entry((judge.standing(write), judge.loss(number, write))).or_default().add(write);
        }
        Self {
            entries,
            sums,
            flushes: log.flushes().partition_point(|flush| flush.done < cut) as u64,
            marks: log.marks().partition_point(|mark| mark.at < cut) as u64,
            since: judge.since,
            heat: HeatMap::new(log, &judge, lost, wanted),
        }
    }

    /// The account of a [`State`].
    pub fn of(log: &Log, state: &State, wanted: Wanted) -> Self {
        Self::new(log, state.cut, &state.lost, wanted)
    }
}

impl Entry {
    /// When it was started.
    pub fn start(&self) -> Moment {
        match self {
            Self::Write { write, .. } => write.start,
            Self::Flush { start, .. } => *start,
            Self::Mark(mark) => mark.at,
            Self::LeftOut(left_out) => left_out.from,
        }
    }
}

/// Says what became of each write.
struct Judge {
    cut: Moment,
    /// When the last flush came that was answered.
    since: Option<Moment>,
    /// How many sectors of a write are lost.
    lost: HashMap<usize, u64>,
}

impl Judge {
    fn new(log: &Log, cut: Moment, parts: &[Lost]) -> Self {
        let answered = log.flushes().iter().take_while(|flush| flush.done < cut);
        let since = answered.map(|flush| flush.start).max();
        let mut lost = HashMap::new();
        for part in parts {
            *lost.entry(part.write).or_default() += part.sectors.end - part.sectors.start;
        }
        Self { cut, since, lost }
    }

    /// All writes that were started, with their numbers.
    fn writes<'a>(&self, log: &'a Log) -> impl Iterator<Item = (usize, &'a Write)> + use<'a> {
        let cut = self.cut;
        log.writes().iter().enumerate().filter(move |(_, write)| write.start < cut)
    }

    fn standing(&self, write: &Write) -> Standing {
        if write.done >= self.cut {
            Standing::InFlight
        } else if self.since.is_some_and(|since| write.done < since) {
            Standing::Flushed
        } else if write.flags.has(Flags::FUA) {
            Standing::Forced
        } else {
            Standing::Volatile
        }
    }

    /// How many sectors the state lacks of a write.
    fn lost(&self, number: usize) -> u64 {
        self.lost.get(&number).copied().unwrap_or(0)
    }

    fn loss(&self, number: usize, write: &Write) -> Loss {
        match self.lost(number) {
            0 => Loss::None,
            lost if lost < u64::from(write.sectors) => Loss::Part,
            _ => Loss::Whole,
        }
    }
}
