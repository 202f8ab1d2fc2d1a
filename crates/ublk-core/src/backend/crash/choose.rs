//! Which of the possible states after a cut are tried, in which order: all of them where there are few, otherwise those that
//! find most, in between some that a seed draws.

use super::doubt::{Doubt, Open, Unit};
use crate::abi::SECTOR;
use crate::backend::numbers::Numbers;

/// Which of the writes in doubt are there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Choice {
    /// Whole ones: by position among the open writes.
    Writes(Vec<bool>),
    /// By unit: how many of its versions were applied; one more than all: it holds garbage.
    Units(Vec<usize>),
    /// All are there, but this one, by its number in the log, is elsewhere: at this sector.
    Moved(usize, u64),
    /// All are there, but in this sector of this one a bit is another one.
    Flipped(usize, u64, u32),
}

/// Up to this number of states, all are tried.
pub const ALL: u64 = 1 << 12;

/// The number of those that find most, whatever is in doubt.
const LIKELY: u64 = 3;

/// The number of those that find most for each write in doubt.
const KINDS: u64 = 6;

/// Of this number of writes one is damaged.
const LAST: usize = 256;

/// What a choice is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grain {
    /// The first writes, up to any.
    Prefixes,
    /// Any writes.
    Writes,
    /// Any units.
    Units,
    /// All writes, but one of them elsewhere.
    Moved,
    /// All writes, but a bit of one of them is another one.
    Flipped,
}

/// The choices for one moment, in order. They never end where not all are tried: draws go on.
#[derive(Clone)]
pub struct Choices {
    grain: Grain,
    /// How many there are, if all are tried.
    total: Option<u64>,
    /// Before all are tried in turn, this number of those that find most: mostly there is no budget for all.
    first: u64,
    next: u64,
    numbers: Numbers,
}

/// How many states there are; `None`: more than are tried.
fn product(counts: impl Iterator<Item = u64>) -> Option<u64> {
    let mut total: u64 = 1;
    for count in counts {
        total = total.checked_mul(count).filter(|total| *total <= ALL)?;
    }
    Some(total)
}

impl Choices {
    /// For what is in doubt. `seed` determines what is drawn.
    pub fn new(grain: Grain, doubt: &Doubt, seed: u64) -> Self {
        let doubtful = || doubt.open.iter().filter(|open| !open.certain);
        let total = match grain {
            Grain::Prefixes => Some(doubtful().count() as u64 + 1),
            Grain::Writes => product(doubtful().map(|_| 2)),
            Grain::Units => product(doubt.units.iter().map(|unit| unit.contents() as u64)),
            Grain::Moved | Grain::Flipped if doubt.all.is_empty() => Some(0),
            Grain::Moved | Grain::Flipped => None,
        };
        let first = match grain {
            Grain::Writes | Grain::Units => {
                total.unwrap_or(0).min(LIKELY + KINDS * doubtful().count() as u64)
            }
            Grain::Prefixes | Grain::Moved | Grain::Flipped => 0,
        };
        Self { grain, total, first, next: 0, numbers: Numbers::new(seed) }
    }

    /// How many states there are; `None`: without end.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// How many choices are left.
    pub fn left(&self) -> u64 {
        self.total.map_or(u64::MAX, |total| (self.first + total).saturating_sub(self.next))
    }

    /// The number of the next one.
    pub fn number(&self) -> u64 {
        self.next
    }

    /// The next one. `doubt`: the same as at first.
    pub fn next(&mut self, doubt: &Doubt) -> Option<Choice> {
        if self.left() == 0 {
            return None;
        }
        let number = self.next;
        self.next += 1;
        Some(match (self.grain, self.total) {
            (Grain::Prefixes, _) => prefix(doubt, number),
            (Grain::Moved | Grain::Flipped, _) => self.damaged(doubt),
            (_, Some(total)) => match number.checked_sub(self.first) {
                Some(number) => self.numbered(doubt, spread(number, total)),
                None => self.likely(doubt, number).unwrap_or_else(|| self.numbered(doubt, 0)),
            },
            _ => self.likely(doubt, number).unwrap_or_else(|| self.drawn(doubt)),
        })
    }

    /// Whole writes: those that are certain, and those of `there`.
    fn whole(&self, doubt: &Doubt, there: impl Fn(usize, &Open) -> bool) -> Choice {
        let writes = doubt.open.iter().enumerate().map(|(at, open)| open.certain || there(at, open));
        let writes: Vec<_> = writes.collect();
        if self.grain == Grain::Units { in_units(&doubt.units, &writes) } else { Choice::Writes(writes) }
    }

    /// One of all, in the order of their numbers; 0 has everything.
    fn numbered(&self, doubt: &Doubt, number: u64) -> Choice {
        let mut rest = number;
        if self.grain == Grain::Units {
            let applied = doubt.units.iter().map(|unit| {
                let contents = unit.contents() as u64;
                let number = rest % contents;
                rest /= contents;
                unit.content(usize::try_from(number).unwrap_or(0))
            });
            return Choice::Units(applied.collect());
        }
        let there = doubt.open.iter().map(|open| {
            let here = open.certain || rest.is_multiple_of(2);
            rest /= if open.certain { 1 } else { 2 };
            here
        });
        Choice::Writes(there.collect())
    }

    /// One of those that find most; `None`: one is drawn in its place.
    fn likely(&mut self, doubt: &Doubt, number: u64) -> Option<Choice> {
        let Some(number) = number.checked_sub(LIKELY) else {
            return Some(match number {
                0 => self.whole(doubt, |_, _| true),
                1 => self.whole(doubt, |_, open| open.complete),
                _ => self.whole(doubt, |_, _| false),
            });
        };
        let doubtful: Vec<_> = (0..doubt.open.len()).filter(|at| !doubt.open[*at].certain).collect();
        // The last ones first: what comes before a cut was written for the next flush.
        let place = usize::try_from(number / KINDS).ok()?;
        let one = doubtful[doubtful.len().checked_sub(1)?.checked_sub(place)?];
        match number % KINDS {
            0 => Some(self.whole(doubt, |at, _| at != one)),
            1 => Some(self.whole(doubt, |at, _| at == one)),
            2 => Some(self.whole(doubt, |at, _| at < one)),
            kind @ (3 | 4) => self.torn(doubt, one, kind == 3),
            _ => None,
        }
    }

    /// One write in part, its first units or its last ones; all others whole.
    fn torn(&mut self, doubt: &Doubt, write: usize, first: bool) -> Option<Choice> {
        let units = &doubt.units;
        let changed: Vec<_> =
            (0..units.len()).filter(|unit| units[*unit].versions.contains(&write)).collect();
        let places = changed.len().checked_sub(1).filter(|places| *places > 0)?;
        let tear = 1 + usize::try_from(self.numbers.below(places as u64)).unwrap_or(0);
        let Choice::Units(mut applied) = self.whole(doubt, |_, _| true) else { return None };
        let missing = if first { &changed[tear..] } else { &changed[..tear] };
        for unit in missing {
            let Unit { versions, least, .. } = &units[*unit];
            let before = versions.iter().position(|at| *at == write).unwrap_or(0);
            applied[*unit] = before.max(*least);
        }
        // The unit that was being written then.
        let last = changed[if first { tear } else { tear - 1 }];
        if units[last].garbage {
            applied[last] = units[last].as_garbage();
        }
        Some(Choice::Units(applied))
    }

    /// One of the last writes goes elsewhere, or a bit of it is another one.
    fn damaged(&mut self, doubt: &Doubt) -> Choice {
        let last = doubt.all.len().min(LAST);
        let mut below = |limit: u64| self.numbers.below(limit.max(1));
        let at = usize::try_from(below(last as u64)).unwrap_or(0);
        let (number, write) = doubt.all[doubt.all.len() - 1 - at];
        let length = u64::from(write.sectors);
        match self.grain {
            Grain::Moved => {
                // To another multiple of its length, as another write of the same kind would be.
                let places = doubt.sectors / length.max(1);
                let to = below(places) * length;
                let other = if to == write.sector { (to / length + 1) % places.max(1) * length } else { to };
                if other == write.sector {
                    return Choice::Writes(vec![true; doubt.open.len()]);
                }
                Choice::Moved(number, other)
            }
            _ => {
                let bit = u32::try_from(below(SECTOR * 8)).unwrap_or(0);
                let sector = write.sector + below(length);
                // A later write may have taken its place there.
                Choice::Flipped(doubt.newest(sector).unwrap_or(number), sector, bit)
            }
        }
    }

    /// One that is drawn. Of what is in doubt, 1, 2, 4 or any other power of two up to a half is missing on average; or that
    /// is all that is there. Every other one lacks whole writes only.
    fn drawn(&mut self, doubt: &Doubt) -> Choice {
        let whole = self.grain != Grain::Units || self.numbers.below(2) == 0;
        let count = match whole {
            true => doubt.open.iter().filter(|open| !open.certain).count(),
            false => doubt.units.iter().filter(|unit| unit.contents() > 1).count(),
        };
        let count = (count as u64).max(1);
        let (few, most) = (1 << self.numbers.below(count.ilog2().max(1).into()), self.numbers.below(2) == 0);
        let numbers = &mut self.numbers;
        if whole {
            let writes = doubt.open.iter().map(|open| open.certain || (numbers.below(count) >= few) == most);
            let writes: Vec<_> = writes.collect();
            return self.whole(doubt, |at, _| writes[at]);
        }
        let applied = doubt.units.iter().map(|unit| {
            let contents = unit.contents() as u64;
            let other = contents > 1 && numbers.below(count) < few;
            let number = match (other, most) {
                (false, true) => 0,
                (true, true) => 1 + numbers.below(contents - 1),
                (true, false) => numbers.below(contents),
                (false, false) => return unit.least,
            };
            unit.content(usize::try_from(number).unwrap_or(0))
        });
        Choice::Units(applied.collect())
    }
}

/// Another order of the numbers below `total`, so that the first ones are from everywhere; 0 stays the first.
fn spread(number: u64, total: u64) -> u64 {
    // With a step that has no factor in common with the total, each number is met once.
    let has_none = |step: &u64| gcd(*step, total) == 1;
    let step = (total * 5 / 8..total).find(has_none).unwrap_or(1);
    number * step % total
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// The same state in units. What a write changes is there only with what comes before it in the unit.
fn in_units(units: &[Unit], writes: &[bool]) -> Choice {
    let applied =
        |unit: &Unit| unit.versions.iter().rposition(|at| writes[*at]).map_or(0, |at| at + 1).max(unit.least);
    Choice::Units(units.iter().map(applied).collect())
}

/// All writes but the last `missing` ones in doubt.
pub fn prefix(doubt: &Doubt, missing: u64) -> Choice {
    let doubtful = doubt.open.iter().filter(|open| !open.certain).count() as u64;
    let mut left = doubtful.saturating_sub(missing);
    let there = doubt.open.iter().map(|open| {
        let here = open.certain || left > 0;
        left = left.saturating_sub(u64::from(!open.certain));
        here
    });
    Choice::Writes(there.collect())
}
