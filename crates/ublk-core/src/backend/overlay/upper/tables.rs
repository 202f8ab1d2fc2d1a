//! The tables: which sectors count after a power failure. Their bits are only ever set, until a reset cuts everything.

use super::format::{self, BLOCK, Layout, PAGE, PER_BLOCK, SECTOR};
use super::medium::Medium;
use crate::number::to_usize;
use std::io;
use std::ops::Range;

/// How much of a table is read at once.
const AT_ONCE: u64 = 256 << 10;

/// A page of a table that is being changed.
struct Page<'a, M> {
    medium: &'a M,
    /// Where it is, once there is one.
    at: Option<u64>,
    bytes: format::Page,
    changed: bool,
}

impl<'a, M: Medium> Page<'a, M> {
    fn of(medium: &'a M) -> Self {
        Self { medium, at: None, bytes: [0; to_usize(PAGE)], changed: false }
    }

    /// Sets bits of a byte of the file.
    fn set(&mut self, byte: u64, bits: u8) -> io::Result<()> {
        let page = byte / PAGE * PAGE;
        if self.at != Some(page) {
            self.put()?;
            self.medium.read(&mut self.bytes, page)?;
            self.at = Some(page);
        }
        let byte = &mut self.bytes[to_usize(byte - page)];
        self.changed |= *byte | bits != *byte;
        *byte |= bits;
        Ok(())
    }

    fn put(&mut self) -> io::Result<()> {
        if let Some(at) = self.at.filter(|_| self.changed) {
            self.medium.write(&self.bytes, at)?;
        }
        self.changed = false;
        Ok(())
    }
}

/// Adds ranges of bytes to the tables.
pub fn add<M: Medium>(medium: &M, layout: Layout, ranges: &mut [Range<u64>]) -> io::Result<()> {
    ranges.sort_unstable_by_key(|range| range.start); // each page is read and written once
    let (mut whole, mut partial) = (Page::of(medium), Page::of(medium));
    for range in &*ranges {
        let range = range.start..range.end.min(layout.capacity);
        let (first, end) = (range.start / SECTOR, range.end / SECTOR);
        let mut sector = first;
        while sector < end {
            let block = sector / PER_BLOCK;
            let until = end.min((block + 1) * PER_BLOCK);
            if until - sector < PER_BLOCK {
                let mask = mask(sector % PER_BLOCK, until - sector);
                partial.set(layout.partial().start + block, mask)?;
                sector = until;
                continue;
            }
            // As many blocks as share a byte.
            let blocks = (end / PER_BLOCK).min((block / 8 + 1) * 8) - block;
            whole.set(layout.whole().start + block / 8, mask(block % 8, blocks))?;
            sector = (block + blocks) * PER_BLOCK;
        }
    }
    whole.put()?;
    partial.put()
}

/// `count` bits from bit `first` on.
fn mask(first: u64, count: u64) -> u8 {
    let ones = if count >= 8 { u8::MAX } else { (1 << count) - 1 };
    ones << first
}

/// Calls `found` with each range of bytes that the tables name, within the first `size` bytes of the disk.
pub fn each<M: Medium>(
    medium: &M,
    layout: Layout,
    size: u64,
    found: &mut dyn FnMut(Range<u64>),
) -> io::Result<()> {
    let bytes_for = |unit: u64| size.div_ceil(unit);
    let tables = [
        (layout.whole().start..layout.whole().start + bytes_for(BLOCK * 8), BLOCK),
        (layout.partial().start..layout.partial().start + bytes_for(BLOCK), SECTOR),
    ];
    for (table, unit) in tables {
        let mut runs = Runs { unit, size, found, run: 0..0 };
        each_byte_of(medium, table, &mut runs)?;
        runs.end();
    }
    Ok(())
}

fn each_byte_of<M: Medium>(medium: &M, table: Range<u64>, runs: &mut Runs<'_>) -> io::Result<()> {
    let (mut at, mut bytes) = (table.start, Vec::new());
    let mut data = at..at;
    while at < table.end {
        // Each question may look at all data up to the next hole.
        if at == data.end {
            data = match medium.data(at..table.end)? {
                Some(data) => data,
                None => return Ok(()),
            };
            at = data.start;
        }
        let now = AT_ONCE.min(data.end - at);
        bytes.resize(to_usize(now), 0);
        medium.read(&mut bytes, at)?;
        for (word, eight) in (at - table.start..).step_by(8).zip(bytes.chunks(8)) {
            if eight.iter().any(|byte| *byte != 0) {
                (word..).zip(eight).for_each(|(byte, bits)| runs.add(byte * 8, *bits));
            }
        }
        at += now;
    }
    Ok(())
}

/// Joins bits to runs.
struct Runs<'a> {
    /// The bytes of the disk that a bit stands for.
    unit: u64,
    size: u64,
    found: &'a mut dyn FnMut(Range<u64>),
    run: Range<u64>,
}

impl Runs<'_> {
    /// The bits of a byte of the table, of which `first` is the lowest.
    fn add(&mut self, first: u64, mut bits: u8) {
        let mut at = first;
        while bits != 0 {
            let none = bits.trailing_zeros();
            at += u64::from(none);
            bits = bits.checked_shr(none).unwrap_or(0);
            let count = bits.trailing_ones();
            let end = at + u64::from(count);
            if at == self.run.end && !self.run.is_empty() {
                self.run.end = end;
            } else {
                self.end();
                self.run = at..end;
            }
            at = end;
            bits = bits.checked_shr(count).unwrap_or(0);
        }
    }

    fn end(&mut self) {
        let run = self.run.start * self.unit..(self.run.end * self.unit).min(self.size);
        if !run.is_empty() {
            (self.found)(run);
        }
        self.run = 0..0;
    }
}
