//! The bound of a cache: how many chunks fit into it, and which of them requests are using.

use crate::backend::bits::Bits;
use crate::error::{Error, Hint, Remedy, Result};
use crate::mapping::Mapping;
use crate::number::to_usize;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A power of two.
const SLOTS: u64 = 1 << 14;

/// Counts the requests that use each chunk, and remembers which chunks were used lately.
///
/// A request pins its chunks *before* it looks whether they are present, and unpins them when the storage has finished
/// it. Who evicts a chunk marks it as missing *before* it looks for pins. So at least one of the two sees the other:
/// the request finds the chunk missing, or the chunk is found pinned and stays. This takes neither lock nor allocation.
///
/// Chunks share counters, so that these take no more memory for a larger disk: sometimes a chunk stays for a while
/// because another one is used.
pub struct Pins {
    counts: Mapping,
    used: Bits,
}

impl Pins {
    fn new(chunks: u64) -> Result<Self> {
        let failed = |error| Error::system("cannot map memory for the cache's bound", &error);
        let counts = Mapping::anonymous(to_usize(SLOTS) * size_of::<u32>()).map_err(failed)?;
        let used = Bits::new(to_usize(chunks.div_ceil(64)) * 8).map_err(failed)?;
        Ok(Self { counts, used })
    }

    pub fn pin(&self, chunks: Range<u64>) {
        for chunk in chunks {
            self.count(chunk).fetch_add(1, SeqCst);
            self.touch(chunk);
        }
    }

    pub fn unpin(&self, chunks: Range<u64>) {
        for chunk in chunks {
            self.count(chunk).fetch_sub(1, SeqCst);
        }
    }

    pub fn is_pinned(&self, chunk: u64) -> bool {
        self.count(chunk).load(SeqCst) != 0
    }

    /// The chunk is used: it stays for at least one more round of the clock.
    pub fn touch(&self, chunk: u64) {
        if !self.used.has(chunk) {
            self.used.set(chunk);
        }
    }

    /// Whether the chunk was used since this was last asked.
    pub fn was_used(&self, chunk: u64) -> bool {
        let used = self.used.has(chunk);
        if used {
            self.used.clear(chunk);
        }
        used
    }

    fn count(&self, chunk: u64) -> &AtomicU32 {
        let at = (chunk % SLOTS) as usize * size_of::<u32>();
        // SAFETY: within the mapping since it has SLOTS counters, aligned since a mapping starts a page; only ever
        // used as an atomic.
        unsafe { AtomicU32::from_ptr(self.counts.at(at).cast()) }
    }
}

/// See the [module](self).
pub struct Room {
    /// How many chunks the cache holds.
    pub most: u64,
    /// How many of them may be written ones, which stay until the disk is created with another cache.
    pub most_dirty: u64,
    pub pins: Pins,
}

impl Room {
    /// For a cache of `bytes` for a disk of this number of chunks. A file system needs some of that for the list of the file's
    /// parts, and the map takes the rest.
    pub fn new(bytes: u64, chunk: u64, chunks: u64, map: u64) -> Result<Self> {
        let (most, most_dirty) = Self::shares(bytes, chunk, map);
        Ok(Self { most, most_dirty, pins: Pins::new(chunks)? })
    }

    /// How many chunks fit into a cache of `bytes`, and how many of them may be written ones.
    fn shares(bytes: u64, chunk: u64, map: u64) -> (u64, u64) {
        let most = bytes.saturating_sub(bytes / 64 + map) / chunk;
        // What is read needs room too, however much is written.
        (most, most - most.div_ceil(4))
    }

    /// How many chunks one request may touch: all of them have to be there at the same time.
    pub fn most_at_once(&self) -> u64 {
        Self::at_once(self.most, self.most_dirty)
    }

    fn at_once(most: u64, most_dirty: u64) -> u64 {
        (most - most_dirty) / 2
    }

    /// Whether requests of `max_io` bytes fit into a cache of `bytes`.
    pub fn check(bytes: u64, chunk: u64, map: u64, max_io: u32) -> Result<()> {
        let (most, most_dirty) = Self::shares(bytes, chunk, map);
        Self::check_shares(most, most_dirty, chunk, map, max_io)
    }

    /// The same for this one.
    pub fn check_requests(&self, chunk: u64, map: u64, max_io: u32) -> Result<()> {
        Self::check_shares(self.most, self.most_dirty, chunk, map, max_io)
    }

    fn check_shares(most: u64, most_dirty: u64, chunk: u64, map: u64, max_io: u32) -> Result<()> {
        let needed = u64::from(max_io).div_ceil(chunk) + 1;
        if needed <= Self::at_once(most, most_dirty) {
            return Ok(());
        }
        let least = (needed * 8 * chunk + map).div_ceil(63) * 64;
        let hint = Hint::from("make it larger").by(Remedy::CacheBound).and(
            ", or the chunks or the largest request smaller: all that a request reads has to fit in, beside what is written",
        );
        Err(Error::invalid(format!("the bound of the cache is below {least} bytes")).hint(hint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_pinned_until_its_last_user_is_done() {
        let pins = Pins::new(100).unwrap();
        pins.pin(3..5);
        pins.pin(4..6);
        pins.unpin(3..5);
        assert_eq!([3, 4, 5, 6].map(|chunk| pins.is_pinned(chunk)), [false, true, true, false]);
        assert!(pins.was_used(3) && !pins.was_used(3) && !pins.was_used(6));
    }

    #[test]
    fn data_map_and_list_of_parts_fit_into_the_bound() {
        let room = Room::new(64 << 20, 128 << 10, 16384, 16384).unwrap();
        assert_eq!((room.most, room.most_dirty), (503, 377));
        assert!(room.most * (128 << 10) + 16384 <= 63 << 20);
        assert_eq!(Room::new(0, 4096, 1, 12288).unwrap().most, 0);
    }

    #[test]
    fn the_bound_that_an_error_names_suffices() {
        for map in [0, 12_288, 3 << 30] {
            let error = Room::check(20 << 10, 4096, map, 128 << 10).unwrap_err().message;
            let least = error.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap();
            Room::check(least, 4096, map, 128 << 10).unwrap();
        }
    }
}
