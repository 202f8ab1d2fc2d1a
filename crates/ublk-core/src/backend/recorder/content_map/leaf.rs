//! The places of neighbouring sectors. What is written is most often whole blocks, of which one place says all.

use super::Origin;
use crate::number::to_usize;
use std::ops::Range;

/// Sectors in a leaf.
pub const LEAF: u64 = EACH as u64;
const EACH: usize = 128;
/// Sectors in a block.
const BLOCK: u64 = 8;
const BLOCKS: usize = EACH / 8;

/// See the [module](self).
#[derive(Debug, Clone)]
pub enum Leaf {
    /// The place of each block's first sector: the others follow there.
    Blocks([Origin; BLOCKS]),
    /// The place of each sector.
    Sectors(Box<[Origin; EACH]>),
}

impl Leaf {
    /// All sectors are in the base, or zeroes.
    pub fn of_all(place: Origin) -> Self {
        Self::Blocks([place; BLOCKS])
    }

    /// The place of a sector of the leaf.
    pub fn of(&self, sector: u64) -> Origin {
        match self {
            Self::Blocks(blocks) => blocks[to_usize(sector / BLOCK)].behind(sector % BLOCK),
            Self::Sectors(sectors) => sectors[to_usize(sector)],
        }
    }

    /// The places of all sectors, in order.
    pub fn places(&self) -> impl Iterator<Item = Origin> + '_ {
        (0..LEAF).map(|sector| self.of(sector))
    }

    /// Some of its sectors are at a place now, one behind the other.
    pub fn set(&mut self, sectors: Range<u64>, place: Origin) {
        let whole = sectors.start.is_multiple_of(BLOCK) && sectors.end.is_multiple_of(BLOCK);
        if let Self::Blocks(blocks) = self {
            if whole {
                for block in sectors.start / BLOCK..sectors.end / BLOCK {
                    blocks[to_usize(block)] = place.behind(block * BLOCK - sectors.start);
                }
                return;
            }
            let mut each = Box::new([Origin::BASE; EACH]);
            each.iter_mut().zip(self.places()).for_each(|(sector, place)| *sector = place);
            *self = Self::Sectors(each);
        }
        if let Self::Sectors(each) = self {
            for sector in sectors.clone() {
                each[to_usize(sector)] = place.behind(sector - sectors.start);
            }
        }
    }

    /// How many bytes of memory it takes up.
    pub fn bytes(&self) -> usize {
        let more = if let Self::Sectors(each) = self { size_of_val(&**each) } else { 0 };
        size_of::<Self>() + more
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Origin> {
        prop_oneof![
            Just(Origin::BASE),
            Just(Origin::ZERO),
            (0_u64..1 << 20).prop_map(|sector| Origin::data(sector * 512)),
        ]
    }

    proptest! {
        #[test]
        fn a_leaf_has_what_was_set_last(
            sets in prop::collection::vec((0..LEAF, 1..40_u64, place(), any::<bool>()), 1..12),
        ) {
            let (mut leaf, mut expected) = (Leaf::of_all(Origin::BASE), [Origin::BASE; EACH]);
            for (start, length, place, whole) in sets {
                let (start, length) =
                    if whole { (start / BLOCK * BLOCK, length.next_multiple_of(BLOCK)) } else { (start, length) };
                let sectors = start..(start + length).min(LEAF);
                leaf.set(sectors.clone(), place);
                for sector in sectors.clone() {
                    expected[to_usize(sector)] = place.behind(sector - sectors.start);
                }
                prop_assert!(leaf.places().eq(expected));
            }
        }
    }

    #[test]
    fn whole_blocks_take_up_an_eighth() {
        let mut leaf = Leaf::of_all(Origin::BASE);
        leaf.set(8..32, Origin::data(0));
        let blocks = leaf.bytes();
        leaf.set(9..10, Origin::ZERO);
        assert!(blocks * 7 < leaf.bytes(), "{blocks} of {}", leaf.bytes());
        assert_eq!(
            [8, 9, 10, 31].map(|sector| leaf.of(sector).offset()),
            [Some(0), None, Some(1024), Some(23 * 512)]
        );
    }
}
