//! Where the data of a read is.

use super::{State, Told};
use crate::log::cache::{CHUNK, Key};
use crate::log::format::BLOCK;
use std::ops::Range;

/// Where a part of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nowhere: it reads as zeroes.
    Zero,
    /// In the local file from this byte on; it stays until it is unpinned.
    At(u64, Pin),
    /// In the store only.
    Missing(Key),
}

/// What keeps data in the local file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// A segment.
    Segment(u32),
    /// A slot of the cache.
    Slot(u32),
}

impl State {
    /// Keeps a segment in the local file, if it is there, until it is unpinned. Returns where its data begins.
    pub fn hold(&mut self, number: u32) -> Option<u64> {
        let segment = &mut self.segments[number as usize];
        segment.pins += u32::from(segment.local.is_some());
        segment.local
    }

    /// Where a block is, and how many from there on, at most `most`, are together. What is in the local file is pinned.
    pub fn find(&mut self, block: u64, most: u32) -> (Found, u32) {
        let (place, run) = self.map.run(block, most);
        let Some(place) = place else { return (Found::Zero, run) };
        let segment = &mut self.segments[place.segment as usize];
        if let Some(start) = segment.local {
            segment.pins += 1;
            return (Found::At(start + u64::from(place.block) * BLOCK, Pin::Segment(place.segment)), run);
        }
        let key = Key { segment: place.segment, chunk: place.block / CHUNK };
        let within = place.block % CHUNK;
        let run = run.min(CHUNK - within);
        match self.cache.find(key) {
            None => (Found::Missing(key), run),
            Some(slot) => {
                self.cache.pin(slot);
                let at = self.layout.slot(slot) + u64::from(within) * BLOCK;
                (Found::At(at, Pin::Slot(slot)), run)
            }
        }
    }

    /// The chunks of some blocks that are only in the store.
    pub fn missing(&mut self, blocks: Range<u64>) -> Vec<Key> {
        let (mut block, mut keys) = (blocks.start, Vec::new());
        while block < blocks.end {
            let most = u32::try_from(blocks.end - block).unwrap_or(u32::MAX);
            let (place, run) = self.map.run(block, most);
            block += u64::from(run);
            let Some(place) = place.filter(|place| self.segments[place.segment as usize].local.is_none())
            else {
                continue;
            };
            let chunks = place.block / CHUNK..=(place.block + run - 1) / CHUNK;
            let keys_of = chunks.map(|chunk| Key { segment: place.segment, chunk });
            keys.extend(
                keys_of.filter(|key| !self.fetching.contains_key(key) && self.cache.find(*key).is_none()),
            );
        }
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// What was found is not needed any more.
    pub fn unpin(&mut self, pin: Pin) -> Told {
        let mut told = Told::default();
        match pin {
            Pin::Slot(slot) => self.cache.unpin(slot),
            Pin::Segment(number) => {
                let segment = &mut self.segments[number as usize];
                segment.pins -= 1;
                if segment.pins == 0 && segment.stored && !self.waiting.room.is_empty() {
                    told.all(&mut self.waiting.room, 0);
                }
            }
        }
        told
    }
}
