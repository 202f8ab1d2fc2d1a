//! Segments: those that the map names, and those that are still to be stored.

use crate::log::format::{BLOCK, Change, Extent, Kind, LogId};
use std::time::Instant;

/// A segment that the map names, or that is to be stored.
#[derive(Debug, Clone, Default)]
pub struct Segment {
    /// Its place in the log.
    pub id: LogId,
    /// Blocks of its header, once it is stored.
    pub header: u32,
    /// Blocks of its data.
    pub blocks: u32,
    /// How many blocks of the disk are in it.
    pub live: u32,
    /// Of two segments, the later one has the higher number.
    pub order: u64,
    /// Where its data begins in the local file.
    pub local: Option<u64>,
    /// How many requests read it there.
    pub pins: u32,
    /// It is in the store, and so are all before it.
    pub stored: bool,
    /// The latest one that has replaced some of it; of one that never had anything, itself. Once nothing of it is the disk's, this is
    /// where in the log it has died, or after.
    pub death: LogId,
    /// Nothing of it is the disk's, and something else needs it.
    pub kept: bool,
    pub(super) used: bool,
}

/// A segment that is not stored.
#[derive(Debug)]
pub struct Unsent {
    /// Its number in the table.
    pub segment: u32,
    /// In the order in which they count.
    pub extents: Vec<Extent>,
    /// Writes that are under way.
    pub(super) pending: u32,
    /// When it was begun.
    pub(super) begun: Instant,
    /// It gets no more writes.
    pub(super) sealed: bool,
    /// Somebody stores it.
    pub sending: bool,
    /// It is in the store; others before it may not be.
    pub(super) sent: bool,
    /// It is no segment, but a record of this.
    pub record: Option<Change>,
}

impl Unsent {
    /// One that is open, and has nothing.
    pub(super) fn new(segment: u32) -> Self {
        let begun = Instant::now();
        Self {
            segment,
            extents: Vec::new(),
            pending: 0,
            begun,
            sealed: false,
            sending: false,
            sent: false,
            record: None,
        }
    }

    /// Whether it is whole, and nobody stores it yet.
    pub fn is_ready(&self) -> bool {
        self.sealed && self.pending == 0 && !self.sending && !self.sent
    }
}

/// What a write does with the blocks that it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It replaces all of each.
    Whole,
    /// It keeps a part of some, which has been read before: nobody else changes them meanwhile.
    Part,
    /// It puts the same somewhere else.
    Move,
}

/// A write that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writing {
    /// The first block of the disk.
    pub block: u64,
    /// What it does with the blocks.
    pub way: Way,
    /// The segment's number in the table.
    pub segment: u32,
    /// Its place in the log.
    pub id: LogId,
    /// Where the segment's data begins in the local file.
    pub start: u64,
    /// The first block of its data.
    pub place: u32,
    /// How many.
    pub blocks: u32,
}

impl Writing {
    /// Where its data belongs in the local file.
    pub fn offset(&self) -> u64 {
        self.start + u64::from(self.place) * BLOCK
    }
}

/// Adds a part to a segment's, as one with the last if it goes on where that ends.
pub(super) fn add_extent(extents: &mut Vec<Extent>, extent: Extent) {
    if let Some(last) = extents.last_mut() {
        let follows = last.block + u64::from(last.blocks) == extent.block;
        let together = match (last.kind, extent.kind) {
            (Kind::Data, Kind::Data) => last.place + last.blocks == extent.place,
            (Kind::Zero, Kind::Zero) => true,
            _ => false,
        };
        if follows && together && last.blocks.checked_add(extent.blocks).is_some() {
            last.blocks += extent.blocks;
            return;
        }
    }
    extents.push(extent);
}
