//! Which layer has each sector of an overlay, in memory: as much as was written, whatever the size of the disk.
//!
//! The unit is a block of 4 KiB, with one byte for its layer. A block whose sectors are in different layers is *mixed*, and
//! has a byte for each sector in a table beside. Blocks are in *leaves* of 16 MiB, and leaves in shards with a lock each:
//! looking a request up costs the lock of one shard, held for reading, and no allocation.

mod leaf;

use crate::abi::SECTOR;
use crate::number::to_usize;
use leaf::Leaf;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The number of a layer. 0: the base, or nothing.
pub type Layer = u8;

/// The most layers over a base.
pub const MOST_LAYERS: Layer = 250;

/// Stands for a mixed block.
const MIXED: u8 = 255;

/// Sectors in a block.
const SECTORS: usize = 8;
const BLOCK: u64 = SECTORS as u64;
/// Blocks in a leaf.
const LEAF: usize = 4096;
/// Sectors in a leaf.
const LEAF_SECTORS: u64 = BLOCK * LEAF as u64;
/// A leaf with more entries has a byte for each block.
const MOST_ENTRIES: usize = 512;

const SHARDS: usize = 64;

/// See the [module](self).
pub struct Index {
    shards: Box<[RwLock<Shard>]>,
}

impl Index {
    /// Everything is in the base.
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }

    /// The layer that has the first sector of a range, and how many bytes of the range from there on are in that layer, too.
    /// Offset and length are whole sectors.
    #[inline]
    pub fn find(&self, offset: u64, length: u64) -> (Layer, u64) {
        let (start, end) = (offset / SECTOR, (offset + length) / SECTOR);
        let (mut at, mut layer) = (start, None);
        while at < end {
            let number = at / LEAF_SECTORS;
            let stop = end.min((number + 1) * LEAF_SECTORS);
            let (found, until) = self.read(number).run(number, at, stop);
            if *layer.get_or_insert(found) != found {
                break;
            }
            at = until;
            if until < stop {
                break;
            }
        }
        (layer.unwrap_or(0), (at - start) * SECTOR)
    }

    /// Whether all of a range is in this layer or in a later one.
    #[inline]
    pub fn has(&self, range: Range<u64>, layer: Layer) -> bool {
        let mut at = range.start;
        while at < range.end {
            let (found, run) = self.find(at, range.end - at);
            if found < layer {
                return false;
            }
            at += run;
        }
        true
    }

    /// The layer has this range now, unless a later one does: a write that ends after the next layer was begun does not hide
    /// what is written there. The range consists of whole sectors.
    pub fn mark(&self, range: Range<u64>, layer: Layer) {
        assert!(layer <= MOST_LAYERS, "there is no such layer");
        let (mut at, end) = (range.start / SECTOR, range.end / SECTOR);
        while at < end {
            let number = at / LEAF_SECTORS;
            let stop = end.min((number + 1) * LEAF_SECTORS);
            self.write(number).raise(number, at..stop, layer);
            at = stop;
        }
    }

    /// What is in layers below that one is in the base. Others look and mark meanwhile.
    pub fn forget_below(&self, layer: Layer) {
        for shard in &self.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).forget_below(layer);
        }
    }

    /// Everything is in the base again. Nobody looks meanwhile.
    pub fn clear(&self) {
        for shard in &self.shards {
            *shard.write().unwrap_or_else(PoisonError::into_inner) = Shard::default();
        }
    }

    fn read(&self, leaf: u64) -> RwLockReadGuard<'_, Shard> {
        // A panic while it was written to left a leaf as it was before or after a block was marked.
        self.shards[shard(leaf)].read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, leaf: u64) -> RwLockWriteGuard<'_, Shard> {
        self.shards[shard(leaf)].write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Neighbours are in different shards.
#[expect(clippy::cast_possible_truncation, reason = "below the number of shards")]
fn shard(leaf: u64) -> usize {
    (leaf % SHARDS as u64) as usize
}

/// Spreads numbers of leaves and blocks, which nobody chooses to collide: a disk's size bounds them.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, number: u64) {
        // The table uses the upper and the lower bits.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

type Table<V> = HashMap<u64, V, BuildHasherDefault<Spread>>;

#[derive(Default)]
struct Shard {
    /// By number. All blocks of those that are missing are in the base.
    leaves: Table<Leaf>,
    /// The sectors of mixed blocks, by the block's number on the disk.
    mixed: Table<[Layer; SECTORS]>,
}

impl Shard {
    /// The layer of sector `start` of a leaf, and the end of the run of sectors in it: at most `stop`, in the same leaf.
    fn run(&self, number: u64, start: u64, stop: u64) -> (Layer, u64) {
        let Some(leaf) = self.leaves.get(&number) else { return (0, stop) };
        let (mut at, mut layer) = (start, None);
        while at < stop {
            let block = at / BLOCK;
            let (value, count) = leaf.same(within(block), within((stop - 1) / BLOCK) + 1);
            if value == MIXED {
                let sectors = self.sectors(block);
                for sector in at..stop.min((block + 1) * BLOCK) {
                    let found = sectors[sector_of(sector)];
                    if *layer.get_or_insert(found) != found {
                        return (layer.unwrap_or(found), sector);
                    }
                }
                at = (block + 1) * BLOCK;
            } else {
                if *layer.get_or_insert(value) != value {
                    break;
                }
                at = (block + count) * BLOCK;
            }
        }
        (layer.unwrap_or(0), at.min(stop))
    }

    fn sectors(&self, block: u64) -> [Layer; SECTORS] {
        self.mixed.get(&block).copied().unwrap_or_default() // each mixed block has an entry
    }

    fn forget_below(&mut self, layer: Layer) {
        let kept = |value: Layer| if value < layer { 0 } else { value };
        let Self { leaves, mixed } = self;
        mixed.retain(|block, sectors| {
            *sectors = sectors.map(kept);
            let uniform = sectors.iter().all(|value| *value == sectors[0]);
            if uniform && let Some(leaf) = leaves.get_mut(&(block / LEAF as u64)) {
                leaf.set(within(*block), sectors[0]);
            }
            !uniform
        });
        leaves.retain(|_, leaf| {
            leaf.change(|value| if value == MIXED { MIXED } else { kept(value) });
            !matches!(leaf, Leaf::Whole(0))
        });
    }

    /// Raises sectors of one leaf to a layer.
    fn raise(&mut self, number: u64, sectors: Range<u64>, layer: Layer) {
        let (first, end) = (sectors.start.next_multiple_of(BLOCK), sectors.end / BLOCK * BLOCK);
        if first > end || sectors.start < first {
            self.raise_part(number, sectors.start..sectors.end.min(first), layer);
        }
        if first < end {
            self.raise_blocks(number, first / BLOCK..end / BLOCK, layer);
        }
        if first <= end && end < sectors.end {
            self.raise_part(number, end..sectors.end, layer);
        }
    }

    /// Raises some sectors of one block.
    fn raise_part(&mut self, number: u64, sectors: Range<u64>, layer: Layer) {
        let block = sectors.start / BLOCK;
        let leaf = self.leaves.entry(number).or_insert(Leaf::Whole(0));
        let before = leaf.same(within(block), within(block) + 1).0;
        let mut all = if before == MIXED {
            self.mixed.get(&block).copied().unwrap_or_default()
        } else {
            [before; SECTORS]
        };
        for sector in sectors {
            let value = &mut all[sector_of(sector)];
            *value = layer.max(*value);
        }
        let uniform = all.iter().all(|value| *value == all[0]);
        let after = if uniform { all[0] } else { MIXED };
        if uniform {
            self.mixed.remove(&block);
        } else {
            self.mixed.insert(block, all);
        }
        if after != before {
            leaf.set(within(block), after);
        }
    }

    /// Raises whole blocks of one leaf.
    fn raise_blocks(&mut self, number: u64, blocks: Range<u64>, layer: Layer) {
        let range = within(blocks.start)..within(blocks.end - 1) + 1;
        let leaf = self.leaves.entry(number).or_insert(Leaf::Whole(0));
        let (mut at, mut block) = (range.start, blocks.start);
        // Mixed blocks and later layers are few: what lies between them is marked at once.
        while at < range.end {
            let (value, count) = leaf.same(at, range.end);
            let next = block + count;
            if value == MIXED {
                for block in block..next {
                    let sectors = self.mixed.entry(block).or_default();
                    sectors.iter_mut().for_each(|value| *value = layer.max(*value));
                    let (first, uniform) = (sectors[0], sectors.iter().all(|value| *value == sectors[0]));
                    if uniform {
                        self.mixed.remove(&block);
                        leaf.set(within(block), first);
                    }
                }
            } else if value < layer {
                leaf.fill(at..at + to_usize(count), layer);
            }
            (at, block) = (within(next - 1) + 1, next);
        }
        leaf.shorten();
    }
}

/// A block's place in its leaf.
#[expect(clippy::cast_possible_truncation, reason = "below the number of blocks in a leaf")]
fn within(block: u64) -> usize {
    (block % LEAF as u64) as usize
}

/// A sector's place in its block.
fn sector_of(sector: u64) -> usize {
    to_usize(sector % BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1024;

    impl Index {
        /// Bytes that it takes up, as its tables and vectors say.
        fn bytes(&self) -> usize {
            let table = |capacity: usize, entry: usize| capacity * 8 / 7 * (entry + 1);
            let leaf = |leaf: &Leaf| match leaf {
                Leaf::Whole(_) => 0,
                Leaf::Sparse(entries) => (entries.capacity() * 4 + 8).next_multiple_of(16).max(32),
                Leaf::Dense(_) => LEAF + 16,
            };
            let shard = |shard: &RwLock<Shard>| {
                let Shard { leaves, mixed } = &*shard.read().unwrap();
                table(leaves.capacity(), size_of::<(u64, Leaf)>())
                    + table(mixed.capacity(), size_of::<(u64, [u8; 8])>())
                    + leaves.values().map(leaf).sum::<usize>()
            };
            self.shards.iter().map(shard).sum()
        }

        fn leaves(&self) -> usize {
            self.shards.iter().map(|shard| shard.read().unwrap().leaves.len()).sum()
        }

        fn runs(&self, end: u64) -> Vec<(Layer, u64)> {
            let (mut at, mut runs) = (0, Vec::new());
            while at < end {
                let (layer, run) = self.find(at, end - at);
                assert!(run > 0);
                runs.push((layer, run));
                at += run;
            }
            runs
        }
    }

    #[test]
    fn nothing_is_marked_at_first() {
        let index = Index::new();
        assert_eq!(index.find(0, 1 << 50), (0, 1 << 50));
        assert!(index.has(0..1 << 40, 0) && !index.has(0..512, 1));
        assert_eq!(index.find(4096, 0), (0, 0));
    }

    #[test]
    fn runs_of_one_layer_are_one_across_blocks_and_leaves() {
        let index = Index::new();
        let leaf = LEAF_SECTORS * SECTOR;
        index.mark(leaf - 8 * KIB..leaf, 1);
        index.mark(leaf..2 * leaf + 4 * KIB, 1);
        let expected = [(0, leaf - 8 * KIB), (1, leaf + 12 * KIB), (0, leaf - 4 * KIB)];
        assert_eq!(index.runs(3 * leaf), expected);
    }

    #[test]
    fn a_block_can_be_in_several_layers() {
        let index = Index::new();
        index.mark(4 * KIB + 512..4 * KIB + 1024, 1);
        index.mark(4 * KIB + 1024..6 * KIB, 2);
        let expected = [(0, 4 * KIB + 512), (1, 512), (2, KIB), (0, 2 * KIB)];
        assert_eq!(index.runs(8 * KIB), expected);
        assert_eq!(index.shards[0].read().unwrap().mixed.len(), 1);
        // All of it in one layer: it is an ordinary block again.
        index.mark(4 * KIB..8 * KIB, 2);
        assert_eq!(index.runs(8 * KIB), [(0, 4 * KIB), (2, 4 * KIB)]);
        assert_eq!(index.shards[0].read().unwrap().mixed.len(), 0);
        // Sector by sector, too.
        for sector in 0..8 {
            index.mark(sector * 512..(sector + 1) * 512, 2);
        }
        assert_eq!(index.runs(8 * KIB), [(2, 8 * KIB)]);
        assert_eq!(index.shards[0].read().unwrap().mixed.len(), 0);
    }

    #[test]
    fn a_late_write_to_an_earlier_layer_hides_nothing() {
        let index = Index::new();
        index.mark(4 * KIB..8 * KIB, 3);
        index.mark(0..12 * KIB, 2);
        assert_eq!(index.runs(12 * KIB), [(2, 4 * KIB), (3, 4 * KIB), (2, 4 * KIB)]);
        assert!(index.has(0..12 * KIB, 2) && !index.has(0..12 * KIB, 3));
    }

    #[test]
    fn a_disk_written_from_end_to_end_takes_up_nothing_for_each_block() {
        let index = Index::new();
        for block in 0..3 * LEAF as u64 {
            index.mark(block * 4096..(block + 1) * 4096, 1);
        }
        assert_eq!(index.leaves(), 3);
        assert!(index.bytes() < 16 << 10, "{}", index.bytes());
    }

    /// 1 GiB in blocks at random places of 1 TiB.
    #[test]
    fn what_it_takes_up_depends_on_what_was_written_and_not_on_the_disk() {
        let (index, mut random) = (Index::new(), 1_u64);
        let writes = if cfg!(miri) { 1 << 8 } else { 1 << 18 };
        for _ in 0..writes {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let block = (random >> 33) % (1 << 28);
            index.mark(block * 4096..(block + 1) * 4096, 1);
        }
        assert!(index.bytes() < 12 << 20, "{}", index.bytes());
    }

    /// Some of these ranges cover leaves, others a few sectors.
    fn marks() -> impl Strategy<Value = Vec<(u64, u64, Layer)>> {
        let length =
            prop_oneof![1_u64..24, 1_u64..200, (0_u64..3).prop_map(|leaves| leaves * LEAF_SECTORS + 8)];
        let start = prop_oneof![
            0_u64..200,
            LEAF_SECTORS - 100..LEAF_SECTORS + 100,
            0..3 * LEAF_SECTORS,
            Just(LEAF_SECTORS)
        ];
        prop::collection::vec((start, length, 0_u8..5), 1..60)
    }

    fn expected(model: &[Layer]) -> Vec<(Layer, u64)> {
        let (mut at, mut expected) = (0, Vec::new());
        while at < model.len() {
            let run = model[at..].iter().take_while(|value| **value == model[at]).count();
            expected.push((model[at], run as u64 * SECTOR));
            at += run;
        }
        expected
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 200 }, ..ProptestConfig::default() })]

        #[test]
        fn each_sector_is_in_the_highest_layer_that_it_was_marked_with(marks in marks()) {
            let index = Index::new();
            let mut model = vec![0; 6 * LEAF_SECTORS as usize];
            for (start, length, layer) in marks {
                index.mark(start * SECTOR..(start + length) * SECTOR, layer);
                for value in &mut model[start as usize..(start + length) as usize] {
                    *value = layer.max(*value);
                }
                // From the place of the mark on, in any part of a run.
                let end = (start + length + 40) as usize;
                let (found, run) = index.find(start * SECTOR, (length + 40) * SECTOR);
                let same = model[start as usize..end].iter().take_while(|value| **value == found).count();
                prop_assert_eq!(run, same as u64 * SECTOR);
                prop_assert!(index.has(start * SECTOR..(start + length) * SECTOR, layer));
            }
            prop_assert_eq!(index.runs(6 * LEAF_SECTORS * SECTOR), expected(&model));
        }

        #[test]
        fn what_is_forgotten_is_in_the_base_and_can_be_marked_again(
            marks in marks(),
            more in marks(),
            layer in 1_u8..5,
        ) {
            let index = Index::new();
            let mut model = vec![0; 6 * LEAF_SECTORS as usize];
            let mark = |model: &mut Vec<Layer>, marks: Vec<(u64, u64, Layer)>| {
                for (start, length, layer) in marks {
                    index.mark(start * SECTOR..(start + length) * SECTOR, layer);
                    let range = &mut model[start as usize..(start + length) as usize];
                    range.iter_mut().for_each(|value| *value = layer.max(*value));
                }
            };
            mark(&mut model, marks);
            index.forget_below(layer);
            model.iter_mut().filter(|value| **value < layer).for_each(|value| *value = 0);
            prop_assert_eq!(index.runs(6 * LEAF_SECTORS * SECTOR), expected(&model));
            mark(&mut model, more);
            prop_assert_eq!(index.runs(6 * LEAF_SECTORS * SECTOR), expected(&model));
            index.forget_below(5);
            prop_assert_eq!(index.leaves(), 0);
        }
    }
}
