//! Where each block of the disk is. A copy shares with the map what neither changes, so that it costs little.

#![expect(clippy::cast_possible_truncation, reason = "counts of blocks within a leaf, or of one change")]

use std::sync::Arc;

/// Blocks of a leaf.
const LEAF: usize = 512;

/// A block in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment's number in the table.
    pub segment: u32,
    /// The block of its data.
    pub block: u32,
}

/// A place, or 0: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Entry(u64);

impl Entry {
    const NONE: Self = Self(0);

    fn new(place: Option<Place>) -> Self {
        place.map_or(Self::NONE, |place| Self((u64::from(place.segment) + 1) << 32 | u64::from(place.block)))
    }

    fn place(self) -> Option<Place> {
        let segment = (self.0 >> 32).checked_sub(1)?;
        #[expect(clippy::cast_possible_truncation, reason = "its halves")]
        Some(Place { segment: segment as u32, block: self.0 as u32 })
    }

    /// The place this number of blocks further.
    fn after(self, blocks: usize) -> Self {
        if self == Self::NONE { self } else { Self(self.0 + blocks as u64) }
    }
}

#[derive(Debug, Clone)]
enum Leaf {
    /// One after the other in one segment; or none at all.
    Run(Entry),
    Each(Box<[Entry; LEAF]>),
}

impl Leaf {
    fn at(&self, block: usize) -> Entry {
        match self {
            Self::Run(first) => first.after(block),
            Self::Each(entries) => entries[block],
        }
    }

    fn each(&mut self) -> &mut [Entry; LEAF] {
        if let Self::Run(first) = *self {
            *self = Self::Each(Box::new(std::array::from_fn(|block| first.after(block))));
        }
        match self {
            Self::Each(entries) => entries,
            Self::Run(_) => unreachable!("it was made one of each"),
        }
    }
}

/// See the [module](self).
#[derive(Debug, Clone)]
pub struct Map {
    leaves: Vec<Option<Arc<Leaf>>>,
}

impl Map {
    /// Of a disk of this number of blocks, with nothing in it.
    pub fn new(blocks: u64) -> Self {
        let leaves = usize::try_from(blocks.div_ceil(LEAF as u64)).unwrap_or(usize::MAX);
        Self { leaves: vec![None; leaves] }
    }

    /// For a disk of this number of blocks. Those that it loses have to read as zeroes already.
    pub fn resize(&mut self, blocks: u64) {
        let leaves = usize::try_from(blocks.div_ceil(LEAF as u64)).unwrap_or(usize::MAX);
        self.leaves.resize(leaves, None);
    }

    fn split(block: u64) -> (usize, usize) {
        let block = usize::try_from(block).unwrap_or(usize::MAX);
        (block / LEAF, block % LEAF)
    }

    fn entry(&self, block: u64) -> Entry {
        let (leaf, at) = Self::split(block);
        match self.leaves.get(leaf) {
            Some(Some(leaf)) => leaf.at(at),
            _ => Entry::NONE,
        }
    }

    /// Where a block is; `None`: it reads as zeroes.
    pub fn get(&self, block: u64) -> Option<Place> {
        self.entry(block).place()
    }

    /// Where a block is, and how many from there on, at most `most`, follow each other there, or are zeroes.
    pub fn run(&self, block: u64, most: u32) -> (Option<Place>, u32) {
        let first = self.entry(block);
        let mut blocks = 1;
        while blocks < most {
            let (leaf, at) = Self::split(block + u64::from(blocks));
            match self.leaves.get(leaf).and_then(Option::as_ref).map(|leaf| &**leaf) {
                None if first == Entry::NONE => blocks += (LEAF - at) as u32,
                Some(Leaf::Run(entry)) if entry.after(at) == first.after(blocks as usize) => {
                    blocks += (LEAF - at) as u32;
                }
                Some(Leaf::Each(entries)) if entries[at] == first.after(blocks as usize) => blocks += 1,
                _ => break,
            }
        }
        (first.place(), blocks.min(most))
    }

    /// Puts blocks at a place, or nowhere: all those whose present place `may` be replaced. `replaced` gets each place that no
    /// longer counts; returns how many blocks were put.
    pub fn set(
        &mut self,
        block: u64,
        blocks: u32,
        place: Option<Place>,
        may: impl Fn(u32, Option<Place>) -> bool,
        mut replaced: impl FnMut(Place),
    ) -> u32 {
        let first = Entry::new(place);
        let (mut done, mut put) = (0_usize, 0);
        while done < blocks as usize {
            let (number, at) = Self::split(block + done as u64);
            let count = (LEAF - at).min(blocks as usize - done);
            let Some(slot) = self.leaves.get_mut(number) else { break };
            if slot.is_none() && first == Entry::NONE {
                done += count;
                continue;
            }
            if slot.is_none() && count == LEAF && may(done as u32, None) {
                *slot = Some(Arc::new(Leaf::Run(first.after(done))));
                (done, put) = (done + count, put + count as u32);
                continue;
            }
            let leaf = Arc::make_mut(slot.get_or_insert_with(|| Arc::new(Leaf::Run(Entry::NONE))));
            let entries = leaf.each();
            let mut same = count == LEAF;
            for (offset, entry) in entries[at..at + count].iter_mut().enumerate() {
                let before = entry.place();
                if !may((done + offset) as u32, before) {
                    same = false;
                    continue;
                }
                if let Some(before) = before {
                    replaced(before);
                }
                *entry = first.after(done + offset);
                put += 1;
            }
            if same {
                *slot = (first != Entry::NONE).then(|| Arc::new(Leaf::Run(first.after(done))));
            }
            done += count;
        }
        put
    }

    /// All that is not zeroes, in ascending order: block, place, count.
    pub fn runs(&self) -> impl Iterator<Item = (u64, Place, u32)> + '_ {
        let end = (self.leaves.len() * LEAF) as u64;
        let mut block = 0;
        std::iter::from_fn(move || {
            loop {
                // An empty leaf costs one look.
                while block % LEAF as u64 == 0
                    && self.leaves.get(Self::split(block).0).is_some_and(Option::is_none)
                {
                    block += LEAF as u64;
                }
                if block >= end {
                    return None;
                }
                let (place, count) =
                    self.run(block, u32::try_from(end - block).unwrap_or(u32::MAX).min(1 << 20));
                let at = block;
                block += u64::from(count);
                if let Some(place) = place {
                    return Some((at, place, count));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: usize = 5 * LEAF - 7;

    #[test]
    fn it_is_as_a_list_of_all_blocks_would_be() {
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let (mut map, mut list) = (Map::new(BLOCKS as u64), vec![None; BLOCKS]);
        let mut copies = Vec::new();
        for turn in 0..2000 {
            let block = random(BLOCKS);
            let most = [1, 8, LEAF, 3 * LEAF][random(4)];
            let (block, blocks) = if random(8) == 0 {
                (block / LEAF * LEAF, LEAF.min(BLOCKS - block / LEAF * LEAF))
            } else {
                (block, 1 + random(most.min(BLOCKS - block)))
            };
            let place =
                (random(4) > 0).then(|| Place { segment: random(50) as u32, block: random(2000) as u32 });
            let spared = random(60) as u32;
            let (mut gone, mut expected, mut count) = (Vec::new(), Vec::new(), 0);
            let may = |before: Option<Place>| before.is_none_or(|before| before.segment != spared);
            for (offset, entry) in list[block..block + blocks].iter_mut().enumerate() {
                if may(*entry) {
                    expected.extend(*entry);
                    *entry = place.map(|place| Place { block: place.block + offset as u32, ..place });
                    count += 1;
                }
            }
            let put = map.set(
                block as u64,
                blocks as u32,
                place,
                |_, before| may(before),
                |place| gone.push(place),
            );
            assert_eq!(gone, expected);
            // Zeroes over zeroes are not counted.
            assert!(place.is_none() || put == count);
            if turn % 500 == 0 {
                copies.push((map.clone(), list.clone()));
            }
        }
        copies.push((map, list));
        for (map, list) in copies {
            let found: Vec<_> = (0..BLOCKS as u64).map(|block| map.get(block)).collect();
            assert_eq!(found, list);
            let mut from_runs = vec![None; BLOCKS];
            for (block, place, count) in map.runs() {
                for offset in 0..count {
                    from_runs[block as usize + offset as usize] =
                        Some(Place { block: place.block + offset, ..place });
                }
            }
            assert_eq!(from_runs, list);
        }
    }
}
