//! Recognizes states that have the same content, whatever writes it came from.

use crate::abi::SECTOR;
use crate::backend::numbers::mixed;
use crate::backend::recorder::{ContentMap, Leaf, Origin, is_of_zeroes};
use crate::number::to_usize;
use std::io;

/// The data of a log.
pub trait LogData {
    /// Fills a buffer from an offset on.
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Adds whole sectors, which no write had, and gives their offset.
    fn add(&self, data: &[u8]) -> io::Result<u64>;

    /// The disk was all zeroes before the first write.
    fn was_blank(&self) -> bool {
        false
    }
}

/// The number of a sector of zeroes.
const ZEROES: u64 = 1;

/// What sectors contain, as numbers.
#[derive(Default)]
pub struct Contents {
    /// Of each sector of the log's data; 0: it was not read yet.
    known: Vec<u64>,
}

impl Contents {
    /// By how much the number of the disk's content grows, modulo 2^64, from one content to another that was copied from it.
    pub fn change(&mut self, before: &ContentMap, after: &ContentMap, data: &dyn LogData) -> io::Result<u64> {
        let mut sum: u64 = 0;
        for (first, new, old) in after.changed_since(before) {
            sum = sum.wrapping_add(self.of(first, new, data)?);
            if let Some(old) = old {
                sum = sum.wrapping_sub(self.of(first, old, data)?);
            }
        }
        Ok(sum)
    }

    /// What the sectors of a leaf add to the number of the disk's content. Those in the base add nothing, and neither do zeroes
    /// if the base has nothing else.
    fn of(&mut self, first: u64, leaf: &Leaf, data: &dyn LogData) -> io::Result<u64> {
        let blank = data.was_blank();
        if is_of_zeroes(leaf) {
            return Ok(if blank { 0 } else { mixed(!first) });
        }
        let mut sum: u64 = 0;
        for (sector, place) in (first..).zip(leaf.places()).filter(|(_, place)| *place != Origin::BASE) {
            let content = self.sector(place, data)?;
            if blank && content == ZEROES {
                continue;
            }
            sum = sum.wrapping_add(mixed(mixed(content).wrapping_add(sector.wrapping_mul(2) + 1)));
        }
        Ok(sum)
    }

    fn sector(&mut self, place: Origin, data: &dyn LogData) -> io::Result<u64> {
        let Some(offset) = place.offset() else { return Ok(ZEROES) };
        let at = to_usize(offset / SECTOR);
        if at >= self.known.len() {
            self.known.resize(at + 1, 0);
        }
        if self.known[at] == 0 {
            let mut sector = [0; to_usize(SECTOR)];
            data.read(offset, &mut sector)?;
            self.known[at] = digest(&sector);
        }
        Ok(self.known[at])
    }
}

/// The number of a sector's content, never 0.
fn digest(data: &[u8]) -> u64 {
    if data.iter().all(|byte| *byte == 0) {
        return ZEROES;
    }
    let digest = data.chunks_exact(8).fold(1, |digest, word| {
        let word = u64::from_le_bytes(word.try_into().unwrap_or([0; 8]));
        (digest ^ mixed(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    });
    digest.max(ZEROES + 1)
}
