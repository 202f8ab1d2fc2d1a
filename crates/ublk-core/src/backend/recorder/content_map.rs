//! Where the newest content of each sector is: in the base, or in the log's data.

mod leaf;

pub use leaf::Leaf;

use crate::abi::SECTOR;
use leaf::LEAF;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

/// A leaf of zeroes, which all maps share: a discard of a large disk takes up little memory.
static ZEROES: LazyLock<Arc<Leaf>> = LazyLock::new(|| Arc::new(Leaf::of_all(Origin::ZERO)));

/// Where a sector's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Origin(u64);

impl Origin {
    /// In the base.
    pub const BASE: Self = Self(0);
    /// It is zeroes.
    pub const ZERO: Self = Self(1);

    /// At this offset of the log's data, in bytes.
    pub fn data(offset: u64) -> Self {
        Self(offset / SECTOR + 2)
    }

    /// The offset in the log's data, if it is there.
    pub fn offset(self) -> Option<u64> {
        Some(self.0.checked_sub(2)? * SECTOR)
    }

    /// That of a sector behind one at this place, of the same write.
    #[must_use]
    pub fn behind(self, sectors: u64) -> Self {
        if self.0 < 2 { self } else { Self(self.0 + sectors) }
    }
}

/// Whether it is the one of all maps for zeroes. One that became zeroes in parts may be another.
pub fn is_of_zeroes(leaf: &Leaf) -> bool {
    std::ptr::eq(leaf, &raw const **ZEROES)
}

/// See the [module](self). A copy shares with its original what neither of them has changed since.
#[derive(Debug, Clone, Default)]
pub struct ContentMap {
    leaves: HashMap<u64, Arc<Leaf>>,
}

impl ContentMap {
    /// The place of one sector.
    pub fn of(&self, sector: u64) -> Origin {
        self.leaves.get(&(sector / LEAF)).map_or(Origin::BASE, |leaf| leaf.of(sector % LEAF))
    }

    /// The place of the first byte of a range, and how many bytes from there on follow it there. In whole sectors.
    pub fn find(&self, offset: u64, length: u64) -> (Origin, u64) {
        let (start, end) = (offset / SECTOR, (offset + length) / SECTOR);
        let first = self.of(start);
        let mut at = start + 1;
        while at < end {
            let stop = end.min((at / LEAF + 1) * LEAF);
            let same = match self.leaves.get(&(at / LEAF)) {
                None if first == Origin::BASE => stop - at,
                None => 0,
                Some(leaf) => {
                    let here = (at..stop).take_while(|at| leaf.of(at % LEAF) == first.behind(at - start));
                    here.count() as u64
                }
            };
            at += same;
            if at < stop {
                break;
            }
        }
        (first, (at - start) * SECTOR)
    }

    /// These sectors are at a place now, one behind the other.
    pub fn set(&mut self, sectors: Range<u64>, place: Origin) {
        let mut at = sectors.start;
        while at < sectors.end {
            let stop = sectors.end.min((at / LEAF + 1) * LEAF);
            if place == Origin::ZERO && stop - at == LEAF {
                self.leaves.insert(at / LEAF, ZEROES.clone());
                at = stop;
                continue;
            }
            let leaf = self.leaves.entry(at / LEAF);
            let leaf = leaf.or_insert_with(|| Arc::new(Leaf::of_all(Origin::BASE)));
            let from = at % LEAF;
            Arc::make_mut(leaf).set(from..from + (stop - at), place.behind(at - sectors.start));
            at = stop;
        }
    }

    /// About how many bytes of memory it takes up, without what it shares with others.
    pub fn own_bytes(&self) -> usize {
        let own = self.leaves.values().filter(|leaf| Arc::strong_count(leaf) == 1);
        self.leaves.len() * size_of::<(u64, Arc<Leaf>)>() + own.map(|leaf| leaf.bytes()).sum::<usize>()
    }

    /// The leaves that differ from those of the map that this one was copied from, in no particular order: the first sector of
    /// each, the leaf in this map, and in the other one.
    pub fn changed_since<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (u64, &'a Leaf, Option<&'a Leaf>)> {
        self.leaves.iter().filter_map(|(number, leaf)| {
            let old = before.leaves.get(number);
            let same = old.is_some_and(|old| Arc::ptr_eq(old, leaf));
            (!same).then(|| (number * LEAF, &**leaf, old.map(|old| &**old)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_where_the_place_does_and_copies_are_independent() {
        let mut places = ContentMap::default();
        assert_eq!(places.find(0, 1 << 20), (Origin::BASE, 1 << 20));
        places.set(100..300, Origin::data(4096));
        let before = places.clone();
        places.set(130..131, Origin::ZERO);
        assert_eq!(places.find(0, 1 << 20), (Origin::BASE, 100 * SECTOR));
        assert_eq!(places.find(100 * SECTOR, 1 << 20), (Origin::data(4096), 30 * SECTOR));
        assert_eq!(places.find(130 * SECTOR, 1 << 20), (Origin::ZERO, SECTOR));
        assert_eq!(places.find(131 * SECTOR, 1 << 20), (Origin::data(4096 + 31 * SECTOR), 169 * SECTOR));
        assert_eq!(places.find(300 * SECTOR, 1 << 20), (Origin::BASE, 1 << 20));
        assert_eq!(before.find(100 * SECTOR, 1 << 20), (Origin::data(4096), 200 * SECTOR));
        // The leaves of the sectors 0 to 127, shared, 128 to 255, changed, and 256 to 383, shared.
        let changed = places.leaves[&1].bytes();
        assert_eq!(places.own_bytes(), 3 * 16 + changed);
        let changed: Vec<_> = places.changed_since(&before).map(|(first, ..)| first).collect();
        assert_eq!(changed, [128]);
        places.set(0..1024, Origin::ZERO);
        assert_eq!(places.find(0, 1 << 20), (Origin::ZERO, 1024 * SECTOR));
        places.set(5..6, Origin::data(0));
        assert_eq!(places.find(6 * SECTOR, 1 << 20), (Origin::ZERO, 1018 * SECTOR));
    }
}
