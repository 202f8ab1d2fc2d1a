//! The log: which ranges were written since the last save. It is in the page cache, and survives a kill of the server.
//!
//! New entries go to one half while a save takes those of the other into the tables. An entry is 8 bytes: 40 bits say at
//! which sector it begins, 24 how many sectors it has. Zeroes end a half.
//!
//! Entries that are left behind the end, by a server that was killed while it cleared a half, do no harm if they come to
//! count again: the tables name their ranges already, and a range that is present stays so until a reset cuts the whole
//! log. Those that a power failure left are all wiped: they may name data that was lost.

use super::format::{HALF, Layout, SECTOR};
use super::medium::Medium;
use crate::number::to_usize;
use std::io;
use std::ops::Range;

/// The most sectors of an entry.
const MOST: u64 = (1 << 24) - 1;
/// Entries that are read at once.
const AT_ONCE: u64 = 64 << 10;

/// The positions in both halves.
#[derive(Debug, Default)]
pub struct Log {
    /// The half that takes new entries.
    active: usize,
    /// The number of entries of each.
    counts: [u64; 2],
    /// The last entry of the active half, in sectors: the next range may extend it.
    last: Option<Range<u64>>,
    /// Entries that are being written.
    bytes: Vec<u8>,
}

impl Log {
    /// As a server left it.
    pub fn found<M: Medium>(medium: &M, layout: Layout) -> io::Result<Self> {
        let mut counts = [0; 2];
        for (half, count) in counts.iter_mut().enumerate() {
            each(medium, layout, half, HALF, |_| *count += 1)?;
        }
        // A save was under way if there are entries in both.
        let active = usize::from(counts[0] != 0 && counts[1] < HALF);
        Ok(Self { active, counts, last: None, bytes: Vec::new() })
    }

    /// The entries of both.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Those of the half that takes new ones.
    pub fn fresh(&self) -> u64 {
        self.counts[self.active]
    }

    /// The number of entries of each half.
    pub fn counts(&self) -> [u64; 2] {
        self.counts
    }

    /// Appends ranges of sectors. If it fails, for instance for lack of room, none counts for this server.
    pub fn add<M: Medium>(
        &mut self,
        medium: &M,
        layout: Layout,
        ranges: impl Iterator<Item = Range<u64>>,
    ) -> io::Result<()> {
        let (mut count, mut last) = (self.counts[self.active], self.last.clone());
        let mut first = count;
        self.bytes.clear();
        for sectors in ranges {
            let mut rest = sectors;
            if let Some(before) = last.clone().filter(|last| last.end == rest.start && count > 0) {
                let all = before.start..rest.end.min(before.start + MOST);
                rest.start = all.end;
                // The last entry is longer now.
                first = first.min(count - 1);
                self.bytes.truncate(to_usize((count - 1 - first) * 8));
                self.put(&all);
                last = Some(all);
            }
            while rest.start < rest.end {
                if count == HALF {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                let part = rest.start..rest.end.min(rest.start + MOST);
                self.put(&part);
                count += 1;
                rest.start = part.end;
                last = Some(part);
            }
        }
        medium.write(&self.bytes, layout.log(self.active).start + first * 8)?;
        (self.counts[self.active], self.last) = (count, last);
        Ok(())
    }

    fn put(&mut self, sectors: &Range<u64>) {
        let entry = sectors.start << 24 | (sectors.end - sectors.start);
        self.bytes.extend_from_slice(&entry.to_le_bytes());
    }

    /// The half whose entries a save has begun with, if it did not end.
    pub fn left(&self) -> Option<usize> {
        let other = 1 - self.active;
        (self.counts[other] != 0).then_some(other)
    }

    /// The half with the last entries, if there are any: new ones go to the other from here on, which is empty.
    pub fn freeze(&mut self) -> Option<usize> {
        let half = self.active;
        if self.counts[half] == 0 || self.left().is_some() {
            return None;
        }
        (self.active, self.last) = (1 - half, None);
        Some(half)
    }

    /// The tables have a frozen half's entries durably. Returns how many there were.
    pub fn thawed(&mut self, half: usize) -> u64 {
        std::mem::take(&mut self.counts[half])
    }
}

/// Calls `found` with each range of a half, in bytes, of up to `count` entries.
pub fn each<M: Medium>(
    medium: &M,
    layout: Layout,
    half: usize,
    count: u64,
    mut found: impl FnMut(Range<u64>),
) -> io::Result<()> {
    let (mut bytes, mut at, first) = (Vec::new(), 0, layout.log(half).start);
    while at < count {
        let here = first + at * 8;
        let data = match medium.data(here..first + count * 8)? {
            Some(data) if data.start == here => data,
            _ => return Ok(()), // a hole: nothing was ever written there
        };
        let now = AT_ONCE.min((data.end - here).div_ceil(8));
        bytes.resize(to_usize(now) * 8, 0);
        medium.read(&mut bytes, here)?;
        for entry in bytes.chunks_exact(8) {
            let entry = entry.try_into().map_or(0, u64::from_le_bytes);
            if entry == 0 {
                return Ok(());
            }
            let start = (entry >> 24) * SECTOR;
            found(start..start + (entry & MOST) * SECTOR);
        }
        at += now;
    }
    Ok(())
}

/// Clears both halves, whatever they have: a power failure leaves any part of the entries, also some behind a gap.
pub fn wipe<M: Medium>(medium: &M, layout: Layout) -> io::Result<()> {
    let zeroes = vec![0; to_usize(AT_ONCE * 8)];
    for half in [0, 1] {
        let Range { start: mut at, end } = layout.log(half);
        while let Some(data) = medium.data(at..end)? {
            let now = (data.end - data.start).min(AT_ONCE * 8);
            medium.write(&zeroes[..to_usize(now)], data.start)?;
            at = data.start + now;
            if at == end {
                break;
            }
        }
    }
    Ok(())
}

/// Clears a half that had that many entries, the last ones first, so that none is left behind a cleared one.
pub fn clear<M: Medium>(medium: &M, layout: Layout, half: usize, count: u64) -> io::Result<()> {
    let zeroes = vec![0; to_usize(AT_ONCE.min(count) * 8)];
    let mut rest = count;
    while rest > 0 {
        let now = rest.min(AT_ONCE);
        rest -= now;
        medium.write(&zeroes[..to_usize(now) * 8], layout.log(half).start + rest * 8)?;
    }
    Ok(())
}
