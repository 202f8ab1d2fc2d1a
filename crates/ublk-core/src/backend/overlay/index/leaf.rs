//! The values of some blocks next to each other, in little memory.

use super::{LEAF, MIXED, MOST_ENTRIES};
use std::ops::Range;

/// The values of 4096 blocks: layers, or [`MIXED`].
pub enum Leaf {
    /// All have the same.
    Whole(u8),
    /// By block, in their order; the others have 0.
    Sparse(Vec<(u16, u8)>),
    Dense(Box<[u8; LEAF]>),
}

impl Leaf {
    /// The value of a block, and how many blocks before `end` have it from there on.
    pub fn same(&self, block: usize, end: usize) -> (u8, u64) {
        let (value, until) = match self {
            Self::Whole(value) => (*value, end),
            Self::Sparse(entries) => {
                let at = entries.partition_point(|(entry, _)| usize::from(*entry) < block);
                let next = |at: usize| entries.get(at).map_or(end, |(entry, _)| usize::from(*entry)).min(end);
                match entries.get(at) {
                    Some((entry, value)) if usize::from(*entry) == block => {
                        let same = (at..)
                            .zip(block..end)
                            .take_while(|(at, block)| entries.get(*at) == Some(&(entry_of(*block), *value)));
                        (*value, block + same.count())
                    }
                    _ => (0, next(at)),
                }
            }
            Self::Dense(values) => {
                let value = values[block];
                let same = values[block..end].iter().position(|other| *other != value);
                (value, same.map_or(end, |count| block + count))
            }
        };
        (value, (until - block) as u64)
    }

    pub fn set(&mut self, block: usize, value: u8) {
        self.fill(block..block + 1, value);
    }

    pub fn fill(&mut self, blocks: Range<usize>, value: u8) {
        if blocks.len() == LEAF {
            *self = Self::Whole(value);
            return;
        }
        if let Self::Whole(0) = self {
            *self = Self::Sparse(Vec::new());
        }
        if let Self::Sparse(entries) = self {
            let place = |block: usize| entries.partition_point(|(entry, _)| usize::from(*entry) < block);
            let (from, to) = (place(blocks.start), place(blocks.end));
            if entries.len() - (to - from) + blocks.len() <= MOST_ENTRIES {
                entries.splice(from..to, blocks.map(|block| (entry_of(block), value)));
                return;
            }
        }
        self.dense()[blocks].fill(value);
    }

    fn dense(&mut self) -> &mut [u8; LEAF] {
        let values = match self {
            Self::Dense(values) => return values,
            Self::Whole(value) => Box::new([*value; LEAF]),
            Self::Sparse(entries) => {
                let mut values = Box::new([0; LEAF]);
                entries.iter().for_each(|(entry, value)| values[usize::from(*entry)] = *value);
                values
            }
        };
        *self = Self::Dense(values);
        self.dense()
    }

    /// Changes the value of each block.
    pub fn change(&mut self, change: impl Fn(u8) -> u8) {
        match self {
            Self::Whole(value) => *value = change(*value),
            Self::Sparse(entries) => {
                entries.retain_mut(|(_, value)| {
                    *value = change(*value);
                    *value != 0
                });
                if entries.is_empty() {
                    *self = Self::Whole(0);
                }
            }
            Self::Dense(values) => values.iter_mut().for_each(|value| *value = change(*value)),
        }
        self.shorten();
    }

    /// Frees what it does not need: a disk that is written from its beginning to its end needs nothing for each block.
    pub fn shorten(&mut self) {
        if let Self::Dense(values) = self
            && values[0] == values[LEAF - 1]
            && values[0] != MIXED
            && values.iter().all(|value| *value == values[0])
        {
            *self = Self::Whole(values[0]);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "below the number of blocks in a leaf")]
fn entry_of(block: usize) -> u16 {
    block as u16
}
