//! How much was written where on a disk.

use super::{How, Judge, Lost, Standing, Wanted};
use crate::backend::recorder::Log;
use crate::request::Op;
use std::ops::Range;

/// A part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// How many writes it had. A discard is none: a new file system discards the whole disk.
    pub writes: u64,
    /// How many sectors of it were written, each as often as it was.
    pub written: u64,
    /// How many of these were not durable when the power failed.
    pub open: u64,
    /// How many sectors are not as they were written.
    pub lost: u64,
}

/// A disk, or the part of it that was written, in cells of the same size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeatMap {
    /// The first sector of the first cell.
    pub start: u64,
    /// How many sectors a cell has.
    pub cell: u64,
    /// At most [`CELLS`].
    pub cells: Vec<Cell>,
}

/// The most cells of a map.
pub const CELLS: u64 = 1024;

impl HeatMap {
    /// What was written until the cut, and what is lost of it.
    pub(super) fn new(log: &Log, judge: &Judge, lost: &[Lost], wanted: Wanted) -> Self {
        let written = || judge.writes(log).filter(|(_, write)| write.op != Op::Discard);
        let lost = || lost.iter().flat_map(places);
        let ranges = written().map(|(_, write)| write.range()).chain(lost());
        let Some(span) = ranges.reduce(|one, other| one.start.min(other.start)..one.end.max(other.end))
        else {
            return Self::default();
        };
        let mut map = Self::over(span, wanted);
        for (_, write) in written() {
            let open = matches!(judge.standing(write), Standing::Volatile | Standing::InFlight);
            map.each(write.range(), |cell, sectors| {
                cell.writes += 1;
                cell.written += sectors;
                cell.open += if open { sectors } else { 0 };
            });
        }
        for range in lost() {
            map.each(range, |cell, sectors| cell.lost += sectors);
        }
        map
    }

    /// Of the whole disk if half of it or more lies between what was written; of this span otherwise.
    fn over(span: Range<u64>, wanted: Wanted) -> Self {
        let Wanted { unit, sectors, .. } = wanted;
        let all = span.end - span.start >= sectors / 2;
        let span = if all { 0..sectors } else { span };
        let (mut cell, count) =
            (unit.max(1).next_power_of_two(), |cell: u64| span.end.div_ceil(cell) - span.start / cell);
        while count(cell) > CELLS {
            cell *= 2;
        }
        let cells = vec![Cell::default(); usize::try_from(count(cell)).unwrap_or(0)];
        Self { start: span.start / cell * cell, cell, cells }
    }

    /// Calls a function for each cell with sectors of a range, and how many these are.
    fn each(&mut self, range: Range<u64>, mut change: impl FnMut(&mut Cell, u64)) {
        let mut at = range.start;
        while at < range.end {
            let number = (at - self.start) / self.cell;
            let stop = range.end.min(self.start + (number + 1) * self.cell);
            if let Some(cell) = usize::try_from(number).ok().and_then(|number| self.cells.get_mut(number)) {
                change(cell, stop - at);
            }
            at = stop;
        }
    }
}

/// Where the disk is wrong because of a loss: also where a write went that belongs elsewhere.
fn places(lost: &Lost) -> impl Iterator<Item = Range<u64>> {
    let moved = match lost.how {
        How::Moved(to) => Some(to..to + (lost.sectors.end - lost.sectors.start)),
        How::Missing | How::Garbage | How::Flipped(_) => None,
    };
    std::iter::once(lost.sectors.clone()).chain(moved)
}
