//! Keeps a bounded cache within its bound: a clock goes over the chunks, and evicts those that were not used since its last
//! round. Dirty chunks and those that a request is using stay.

use super::chunks::{Chunks, Plan, State};
use super::map::Map;
use super::room::Room;
use crate::backend::Storage;
use crate::error::{Error, ErrorKind, Hint, Remedy, Result};
use crate::number::to_usize;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// How many chunks are evicted together, so that the map is written less often.
const BATCH: u64 = 32;

/// How often the clock goes round before it gives up: from the middle to the end, then once to find out what was used.
const ROUNDS: u32 = 3;

/// The pause before chunks that were all in use are looked at again.
const PAUSE: Duration = Duration::from_micros(200);

/// What came of an attempt to evict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Evicted {
    Some,
    /// None: requests are using those that could be.
    InUse,
    /// None: what could be is being fetched.
    Fetched,
    /// None can be.
    None,
}

impl Chunks {
    /// Makes a cache fit that an earlier process has used: removes data of chunks that are not present, which a killed process has left, and
    /// evicts what is too much by now.
    pub fn fit(&self, storage: &dyn Storage) -> Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        let failed = |error: io::Error| {
            Error::system("cannot free space in the cache", &error)
                .kind(ErrorKind::Backend)
                .hint("a bounded cache needs a file system that can punch holes, such as ext4, XFS or tmpfs")
        };
        let mut from = 0;
        while from < self.count() {
            let next = self.map.next(from).unwrap_or(self.count());
            if next > from {
                let (offset, length) = self.bytes(&(from..next));
                storage.punch(offset, length).map_err(failed)?;
            }
            from = next + 1;
        }
        let (used, dirty) = {
            let state = self.state();
            (state.used, state.dirty)
        };
        if dirty > room.most_dirty {
            let bytes = dirty * self.map.chunk();
            return Err(Error::new(
                ErrorKind::Backend,
                format!("the cache holds {bytes} bytes of written data, which do not fit into its bound"),
            )
            .hint(
                Hint::from("make it at least twice as large")
                    .by(Remedy::CacheBound)
                    .and(": written data is never evicted"),
            ));
        }
        if used > room.most { self.evict_for(storage, 0).map_err(failed) } else { Ok(()) }
    }

    /// Reserves room for what a request overwrites, and marks what it writes to as dirty.
    pub(super) fn reserve_dirty(
        &self,
        room: &Room,
        state: &mut State,
        claim: &[u64],
        dirty: &[u64],
    ) -> std::result::Result<(), Plan> {
        if dirty.is_empty() && claim.is_empty() {
            return Ok(());
        }
        if state.dirty + dirty.len() as u64 > room.most_dirty {
            return Err(Plan::Full);
        }
        let new = claim.iter().filter(|chunk| !self.map.has(**chunk) && !state.leftover.contains_key(chunk));
        let new = new.count() as u64;
        if state.used + new > room.most {
            return Err(Plan::Evict(new));
        }
        self.map.mark_dirty(dirty).map_err(|error| {
            if let Some(path) = self.map.path() {
                self.report(format!("cannot write the map {}: {error}", path.display()));
            }
            Plan::Failed(error.raw_os_error().unwrap_or(libc::EIO))
        })?;
        state.dirty += dirty.len() as u64;
        state.used += new;
        claim.iter().for_each(|chunk| {
            state.leftover.remove(chunk);
        });
        Ok(())
    }

    /// Reserves room for busy chunks that are about to be stored. May block, on the filler's thread. Fails with `EAGAIN` as
    /// [`evict_for`](Self::evict_for) does.
    pub fn make_room(&self, storage: &dyn Storage, chunks: std::ops::Range<u64>) -> io::Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        self.state().arrived.extend(chunks.clone());
        let made = self.make_room_in(room, storage, &chunks);
        if made.as_ref().err().and_then(io::Error::raw_os_error) != Some(libc::EAGAIN) {
            let mut state = self.state();
            chunks.for_each(|chunk| {
                state.arrived.remove(&chunk);
            });
        }
        made
    }

    fn make_room_in(
        &self,
        room: &Room,
        storage: &dyn Storage,
        chunks: &std::ops::Range<u64>,
    ) -> io::Result<()> {
        loop {
            let mut state = self.state();
            let new = chunks.clone().filter(|chunk| !state.leftover.contains_key(chunk)).count() as u64;
            if state.used + new <= room.most {
                state.used += new;
                chunks.clone().for_each(|chunk| {
                    state.leftover.remove(&chunk);
                });
                return Ok(());
            }
            drop(state);
            self.evict_for(storage, new)?;
        }
    }

    /// Evicts chunks until this number fits in. May block, on the filler's thread. Fails with `EAGAIN` if that has to wait
    /// for chunks to be fetched, which take up the space already: the filler stores those.
    pub fn evict_for(&self, storage: &dyn Storage, count: u64) -> io::Result<()> {
        let Some(room) = &self.room else { return Ok(()) };
        loop {
            let over = (self.state().used + count).saturating_sub(room.most);
            if over == 0 {
                return Ok(());
            }
            match self.evict(room, storage, over.max(BATCH.min(room.most / 16)))? {
                Evicted::Some => {}
                // A queue that was given up does not let go of its chunks.
                Evicted::InUse if self.closing.load(SeqCst) => {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                Evicted::InUse => std::thread::sleep(PAUSE), // the storage finishes them without this thread
                Evicted::Fetched => return Err(io::Error::from_raw_os_error(libc::EAGAIN)),
                Evicted::None => return Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            }
        }
    }

    /// See the map's order. Succeeds if it freed anything.
    fn evict(&self, room: &Room, storage: &dyn Storage, count: u64) -> io::Result<Evicted> {
        let mut state = self.state();
        let mut leftover = state.idle_leftovers(false);
        let (victims, in_use) =
            self.withdraw(room, &mut state, to_usize(count).saturating_sub(leftover.len()));
        let hopeful = !leftover.is_empty() || !victims.is_empty();
        // What could not be freed before comes last, but one of that is tried each time: it may be possible again.
        let mut again = state.idle_leftovers(true);
        again.sort_unstable_by_key(|chunk| chunk.wrapping_sub(state.hand));
        if leftover.len() + victims.len() >= to_usize(count) {
            again.truncate(1);
        }
        leftover.extend(again);
        let otherwise = match in_use {
            true => Evicted::InUse,
            false if state.awaits_leftovers() => Evicted::Fetched,
            false => Evicted::None,
        };
        if leftover.is_empty() && victims.is_empty() {
            return Ok(otherwise);
        }
        let mut chunks: Vec<_> = victims.keys().copied().chain(leftover).collect();
        chunks.sort_unstable();
        state.busy.extend(chunks.iter().map(|chunk| (*chunk, Vec::new())));
        let epoch = self.epoch();
        drop(state);

        let freed = self.free_space(storage, &chunks);

        let mut state = self.state();
        let intact = self.epoch() == epoch;
        for chunk in freed.unchanged {
            match victims.get(&chunk) {
                // Data that was not durable when the storage has lost some may be gone. `forget` did not see the chunk,
                // which was missing then.
                Some(saved) if *saved || intact => self.map.restore(chunk, *saved),
                _ => drop(state.leftover.insert(chunk, true)),
            }
        }
        state.leftover.extend(freed.stuck.into_iter().map(|chunk| (chunk, true)));
        state.used -= freed.done.len() as u64;
        freed.done.iter().for_each(|chunk| {
            state.leftover.remove(chunk);
        });
        let evicted = freed.done.iter().filter(|chunk| victims.contains_key(chunk)).count() as u64;
        self.counters.evicted(evicted * self.map.chunk());
        let waiters = Self::end_busy(&mut state, chunks);
        drop(state);
        waiters.into_iter().for_each(|waiter| waiter.tell(0));
        match freed.error {
            Some(error) if freed.done.is_empty() && (hopeful || otherwise == Evicted::None) => Err(error),
            Some(_) if freed.done.is_empty() => Ok(otherwise),
            _ => Ok(Evicted::Some),
        }
    }

    /// Lets the clock go on until up to `count` chunks are missing in memory. Those with whether they were saved, and whether
    /// requests are using others.
    fn withdraw(&self, room: &Room, state: &mut State, count: usize) -> (HashMap<u64, bool>, bool) {
        let (mut victims, mut in_use, mut rounds) = (HashMap::new(), false, 0);
        while victims.len() < count && rounds < ROUNDS {
            let Some(chunk) = self.map.next(state.hand) else {
                state.hand = 0;
                rounds += 1;
                continue;
            };
            state.hand = chunk + 1;
            if self.map.is_dirty(chunk) || state.busy.contains_key(&chunk) {
                continue;
            }
            in_use = true;
            if !room.pins.is_pinned(chunk) && !room.pins.was_used(chunk) {
                let saved = self.map.withdraw(chunk);
                if room.pins.is_pinned(chunk) {
                    // A request that pinned it since has found it present, or waits for the lock to look again.
                    self.map.restore(chunk, saved);
                } else {
                    victims.insert(chunk, saved);
                }
            }
        }
        (victims, in_use)
    }

    /// Frees the space of sorted chunks that are missing in memory. What fails for some of them is no reason to keep the
    /// others.
    fn free_space(&self, storage: &dyn Storage, chunks: &[u64]) -> Freed {
        let mut freed = Freed::default();
        for page in Map::by_page(chunks) {
            if let Err(failed) = self.map.unfile(page) {
                freed.error.get_or_insert(failed.error);
                (if failed.unchanged { &mut freed.unchanged } else { &mut freed.stuck }).extend(page);
                continue;
            }
            for run in runs(page) {
                let (offset, length) = self.bytes(&run);
                match storage.punch(offset, length) {
                    Ok(()) => freed.done.extend(run),
                    Err(error) => {
                        freed.error.get_or_insert(error);
                        freed.stuck.extend(run);
                    }
                }
            }
        }
        freed
    }
}

/// What became of chunks whose space was to be freed.
#[derive(Default)]
struct Freed {
    done: Vec<u64>,
    /// Their data is there, and nothing has changed in the map's file.
    unchanged: Vec<u64>,
    /// They take up space, with or without data, and have to stay missing.
    stuck: Vec<u64>,
    /// The first one.
    error: Option<io::Error>,
}

/// Sorted chunks as ranges.
fn runs(chunks: &[u64]) -> impl Iterator<Item = std::ops::Range<u64>> {
    chunks.chunk_by(|one, next| one + 1 == *next).filter_map(|run| Some(*run.first()?..run.last()? + 1))
}

#[cfg(test)]
mod tests;
