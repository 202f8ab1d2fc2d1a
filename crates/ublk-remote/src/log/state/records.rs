//! What is known of the volume beside its blocks: its size, its snapshots, and what they and earlier states keep in the store.

use super::segment::Unsent;
use super::{Refused, State};
use crate::log::format::{BLOCK, Change, Extent, Kept, Kind, LogId, Record};

impl State {
    /// Puts a record at the end of the log; it is stored as a segment is. Returns its place, and its order. If it does not, it may
    /// [wait](Self::wait_for).
    pub fn record(&mut self, change: Change) -> Result<(LogId, u64), Refused> {
        if let Some(errno) = self.stopped {
            return Err(Refused::Stopped(errno));
        }
        // What was begun comes before.
        self.seal();
        self.seal_empty();
        if matches!(change, Change::Size { .. }) && !self.is_settled() {
            // As with zeroes: a write that is under way before would count here when it is done, and not in the log.
            return Err(Refused::Unsettled);
        }
        let id = self.next;
        self.next = id.next();
        let number = self.add(id, Record::BLOCKS, 0, false);
        self.take_record(number, &change);
        self.unsent.push_back(Unsent { sealed: true, record: Some(change), ..Unsent::new(number) });
        Ok((id, self.segments[number as usize].order))
    }

    /// A record of the log counts.
    pub fn take_record(&mut self, number: u32, change: &Change) {
        let id = self.segments[number as usize].id;
        self.snapshots.apply(id, change);
        if let Change::Size { size } = change {
            self.set_blocks(number, size / BLOCK);
        }
    }

    /// A segment that is open and will have nothing, since its writes have failed, is stored as it is.
    fn seal_empty(&mut self) {
        if let Some(open) = self.unsent.back_mut().filter(|open| !open.sealed) {
            open.sealed = true;
            let length = u64::from(self.segments[open.segment as usize].blocks) * BLOCK;
            self.ring.end(open.segment, length);
        }
    }

    /// The disk has this number of blocks from here on; what lies behind them is gone.
    fn set_blocks(&mut self, number: u32, blocks: u64) {
        let mut from = blocks;
        while from < self.blocks {
            let count = u32::try_from(self.blocks - from).unwrap_or(u32::MAX);
            self.apply(number, &Extent { block: from, blocks: count, place: 0, kind: Kind::Zero });
            from += u64::from(count);
        }
        self.blocks = blocks;
        self.map.resize(blocks);
    }

    /// An object that the disk has nothing of, and that something else may need.
    pub fn keep(&mut self, kept: &Kept) {
        let number = self.add(kept.listed.id, kept.listed.header, kept.listed.blocks, true);
        let segment = &mut self.segments[number as usize];
        (segment.death, segment.kept) = (kept.death, true);
    }

    /// A segment that the disk has nothing of stays all the same.
    pub fn keep_dead(&mut self, number: u32) {
        self.segments[number as usize].kept = true;
    }

    /// Whether a segment is one of this volume, and not of one whose clone it is.
    pub fn is_own(&self, id: LogId) -> bool {
        id >= self.begin
    }

    /// Whether moving the rest out of a segment would free its space.
    pub fn is_freed_by_moves(&self, id: LogId) -> bool {
        self.is_own(id) && !self.snapshots.hold(id)
    }
}
