//! What is noted of segments that are not stored, and taken up by the next server.

use super::State;
use super::segment::{Unsent, add_extent};
use crate::log::format::{BLOCK, Extent, Kind, MOST_BLOCKS, MOST_EXTENTS};
use crate::log::notes::Noted;

impl State {
    /// Takes up a segment that an earlier server wrote to the local file and did not store: it is stored now, as the next one.
    ///
    /// What was only moved there is left out: it is still in the segment that it came from, which no stored map has done without.
    /// So it has no more parts than it had then.
    pub fn restore(&mut self, start: u64, noted: &[Extent]) -> bool {
        let mut extents = Vec::new();
        for extent in noted.iter().filter(|extent| !matches!(extent.kind, Kind::Moved { .. })) {
            add_extent(&mut extents, *extent);
        }
        if extents.is_empty() {
            return true;
        }
        let end = |extent: &Extent| {
            if extent.kind == Kind::Zero { Some(0) } else { extent.place.checked_add(extent.blocks) }
        };
        let blocks = extents.iter().map(end).max().flatten().unwrap_or(u32::MAX);
        if extents.len() > MOST_EXTENTS || blocks > MOST_BLOCKS {
            return false;
        }
        let id = self.next;
        let number = self.add(id, 0, blocks, false);
        if !self.ring.restore(number, start..start + u64::from(blocks) * BLOCK) {
            self.remove(number);
            return false;
        }
        self.next = id.next();
        self.segments[number as usize].local = Some(start);
        extents.iter().for_each(|extent| self.apply(number, extent));
        self.unsent.push_back(Unsent { extents, sealed: true, ..Unsent::new(number) });
        true
    }

    /// What is not in the store, as notes.
    pub fn unstored(&self) -> Vec<Noted> {
        let noted = |unsent: &Unsent| {
            let segment = &self.segments[unsent.segment as usize];
            let (sequence, start) = (segment.id.sequence, segment.local.unwrap_or_default());
            Noted { sequence, start, extents: unsent.extents.clone() }
        };
        self.unsent.iter().filter(|unsent| !unsent.extents.is_empty()).map(noted).collect()
    }
}
