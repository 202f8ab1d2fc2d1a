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
mod tests {
    use super::super::chunks::{Claim, Use, Waiter};
    use super::super::map::{Found, Identity, faults};
    use super::*;
    use crate::backend::{Backend, Engine, Memory, Properties, Site};
    use crate::claim::Place;
    use std::collections::HashSet;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};

    const CHUNK: u64 = 4096;
    const CHUNKS: u64 = 256;
    /// The first chunk of the map's second page.
    const FAR: u64 = 1 << 15;

    /// A storage that remembers which chunks take up space, and can refuse to free it.
    #[derive(Default)]
    struct Medium {
        stored: Mutex<HashMap<u64, u8>>,
        stuck: AtomicBool,
        /// The same for some chunks.
        bad: Mutex<HashSet<u64>>,
        most: Mutex<usize>,
        /// What happens while it frees space for the first time.
        meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    }

    impl Medium {
        fn used(&self) -> usize {
            self.stored.lock().unwrap().len()
        }
    }

    impl Backend for Medium {
        fn properties(&self) -> Properties {
            Properties::new(CHUNKS * CHUNK)
        }

        fn places(&self) -> Vec<Place<'_>> {
            Vec::new()
        }

        fn engine(self: Arc<Self>, _site: &mut Site) -> Result<Box<dyn Engine>> {
            unimplemented!("nobody asks")
        }
    }

    impl Storage for Medium {
        fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let mut stored = self.stored.lock().unwrap();
            for (chunk, data) in (offset / CHUNK..).zip(data.chunks(CHUNK as usize)) {
                stored.insert(chunk, data[0]);
            }
            let mut most = self.most.lock().unwrap();
            *most = most.max(stored.len());
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }

        fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
            if let Some(happen) = self.meanwhile.lock().unwrap().take() {
                happen();
            }
            let range = offset / CHUNK..(offset + length) / CHUNK;
            if self.stuck.load(SeqCst) || self.bad.lock().unwrap().iter().any(|bad| range.contains(bad)) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            let mut stored = self.stored.lock().unwrap();
            stored.retain(|chunk, _| !range.contains(chunk));
            Ok(())
        }
    }

    /// A cache of 40 chunks, 30 of which may be dirty.
    fn bounded() -> (Arc<Chunks>, Medium) {
        let map = Map::volatile_bounded(CHUNKS * CHUNK, CHUNK).unwrap();
        let mut room = Room::new(1 << 30, CHUNK, CHUNKS, 0).unwrap();
        (room.most, room.most_dirty) = (40, 30);
        (Arc::new(Chunks::new(map, Some(room))), Medium::default())
    }

    /// The same for a disk whose map has two pages in a file.
    fn bounded_in_file(dir: &tempfile::TempDir) -> (Arc<Chunks>, Medium) {
        let identity = Identity { size: 2 * FAR * CHUNK, chunk: CHUNK, name: String::new() };
        let map = Map::open_bounded(&dir.path().join("map"), &identity, Found::New).unwrap();
        let room = Room { most: 40, most_dirty: 30, ..Room::new(1 << 30, CHUNK, 2 * FAR, 0).unwrap() };
        (Arc::new(Chunks::new(map, Some(room))), Medium::default())
    }

    fn fetch(chunks: &Arc<Chunks>, medium: &dyn Storage, chunk: u64) {
        let (sender, told) = channel();
        let plan = chunks.plan(chunk * CHUNK, CHUNK, Use::Read, &Waiter::Thread(sender));
        if let Plan::Wait { .. } = plan {
            chunks.make_room(medium, chunk..chunk + 1).unwrap();
            medium.store(chunk * CHUNK, &[chunk as u8; CHUNK as usize]).unwrap();
            chunks.complete(&[chunk], false, chunks.epoch()).unwrap();
            assert_eq!(told.recv().unwrap(), 0);
        }
    }

    fn write(chunks: &Arc<Chunks>, medium: &dyn Storage, chunk: u64) -> std::result::Result<Claim, Plan> {
        let (sender, _told) = channel();
        loop {
            match chunks.plan(chunk * CHUNK, CHUNK, Use::Overwrite, &Waiter::Thread(sender.clone())) {
                Plan::Go(claim) => return Ok(claim),
                Plan::Evict(count) => chunks.evict_for(medium, count).unwrap(),
                plan => return Err(plan),
            }
        }
    }

    #[test]
    fn the_bound_holds_while_all_of_the_disk_is_read() {
        let (chunks, medium) = bounded();
        for round in 0..3 {
            (0..CHUNKS).for_each(|chunk| fetch(&chunks, &medium, chunk * 7 % CHUNKS));
            assert_eq!(chunks.state().used, medium.used() as u64, "round {round}");
        }
        assert!(*medium.most.lock().unwrap() <= 40 && chunks.map.count() > 30);
        let [.., evicted] = chunks.counters.now();
        assert!(evicted >= (3 * CHUNKS - 256) * CHUNK - 40 * CHUNK);
    }

    #[test]
    fn a_chunk_that_was_used_stays_longer_than_one_that_was_not() {
        let (chunks, medium) = bounded();
        (0..40).for_each(|chunk| fetch(&chunks, &medium, chunk));
        chunks.evict_for(&medium, 2).unwrap(); // clears what fetching has set
        let room = chunks.room.as_ref().unwrap();
        let used: Vec<_> = (0..40).filter(|chunk| chunks.map.has(*chunk)).take(5).collect();
        used.iter().for_each(|chunk| room.pins.touch(*chunk));
        chunks.evict_for(&medium, 20).unwrap();
        assert!(used.iter().all(|chunk| chunks.map.has(*chunk)), "{used:?}");
    }

    #[test]
    fn pinned_and_dirty_chunks_are_not_evicted() {
        let (chunks, medium) = bounded();
        (0..10).for_each(|chunk| {
            write(&chunks, &medium, chunk).ok().unwrap().fulfil().unwrap();
            medium.store(chunk * CHUNK, &[9; CHUNK as usize]).unwrap();
        });
        (10..40).for_each(|chunk| fetch(&chunks, &medium, chunk));
        let room = chunks.room.as_ref().unwrap();
        room.pins.pin(12..14);
        (40..CHUNKS).for_each(|chunk| fetch(&chunks, &medium, chunk));
        assert!((0..10).all(|chunk| chunks.map.has(chunk)) && chunks.map.has_all(12..14));
        assert!((0..10).all(|chunk| medium.stored.lock().unwrap().get(&chunk) == Some(&9)));
        room.pins.unpin(12..14);
        (14..CHUNKS).for_each(|chunk| fetch(&chunks, &medium, chunk));
        assert!(!chunks.map.has(12) && !chunks.map.has(13));
    }

    #[test]
    fn written_chunks_beyond_their_share_are_refused_and_reads_go_on() {
        let (chunks, medium) = bounded();
        (0..30).for_each(|chunk| write(&chunks, &medium, chunk).ok().unwrap().fulfil().unwrap());
        assert!(matches!(write(&chunks, &medium, 30), Err(Plan::Full)));
        write(&chunks, &medium, 3).ok().unwrap(); // again
        (100..200).for_each(|chunk| fetch(&chunks, &medium, chunk));
        assert!(matches!(write(&chunks, &medium, 199), Err(Plan::Full)), "a clean chunk that becomes dirty");
        assert_eq!((chunks.state().dirty, chunks.map.count_dirty()), (30, Some(30)));
    }

    #[test]
    fn a_write_that_is_refused_does_not_mark_its_chunk_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let (chunks, medium) = bounded_in_file(&dir);
        fetch(&chunks, &medium, 100);
        (0..30).for_each(|chunk| write(&chunks, &medium, chunk).ok().unwrap().fulfil().unwrap());
        assert!(matches!(write(&chunks, &medium, 100), Err(Plan::Full)));
        chunks.failed(&io::Error::from_raw_os_error(libc::EIO));
        assert!(chunks.map.is_lost(3) && !chunks.map.is_lost(100));
        fetch(&chunks, &medium, 100);
        assert!(chunks.map.has(100), "it can be fetched again");
    }

    #[test]
    fn what_a_failed_write_left_is_freed_before_anything_is_evicted() {
        let (chunks, medium) = bounded();
        drop(write(&chunks, &medium, 5).ok().unwrap());
        assert!(!chunks.map.has(5) && !chunks.map.is_dirty(5));
        {
            let state = chunks.state();
            assert_eq!((state.used, state.dirty, state.leftover.contains_key(&5)), (1, 0, true));
        }
        (10..49).for_each(|chunk| fetch(&chunks, &medium, chunk));
        assert_eq!(chunks.counters.now()[3], 0);
        fetch(&chunks, &medium, 5); // in the same space
        let state = chunks.state();
        assert_eq!((state.used, state.leftover.len()), (40, 0));
    }

    #[test]
    fn space_that_cannot_be_freed_counts_and_nothing_is_read_from_it() {
        let (chunks, medium) = bounded();
        (0..40).for_each(|chunk| fetch(&chunks, &medium, chunk));
        medium.stuck.store(true, SeqCst);
        assert!(chunks.make_room(&medium, 50..51).is_err());
        assert_eq!(chunks.state().used, 40);
        assert!(chunks.state().leftover.keys().all(|chunk| !chunks.map.has(*chunk)));
        medium.stuck.store(false, SeqCst);
        (100..CHUNKS).for_each(|chunk| fetch(&chunks, &medium, chunk));
        assert!(*medium.most.lock().unwrap() <= 40);
        assert_eq!(chunks.state().used, medium.used() as u64);
    }

    #[test]
    fn a_chunk_whose_space_cannot_be_freed_costs_no_other_chunk() {
        let (chunks, medium) = bounded();
        (0..40).for_each(|chunk| fetch(&chunks, &medium, chunk));
        medium.bad.lock().unwrap().insert(7);
        let failed = (40..CHUNKS).filter(|&chunk| {
            let made = chunks.make_room(&medium, chunk..chunk + 1);
            if made.is_ok() {
                medium.store(chunk * CHUNK, &[1; CHUNK as usize]).unwrap();
                chunks.complete(&[chunk], false, chunks.epoch()).unwrap();
            }
            made.is_err()
        });
        assert!(failed.count() <= 1, "the one that finds out");
        assert!(*medium.most.lock().unwrap() <= 40 && !chunks.map.has(7));
        {
            let state = chunks.state();
            assert_eq!((state.used, state.leftover.len()), (medium.used() as u64, 1));
        }
        medium.bad.lock().unwrap().clear();
        chunks.evict_for(&medium, 1).unwrap();
        assert!(chunks.state().leftover.is_empty(), "it is tried again");
        assert_eq!(chunks.state().used, medium.used() as u64);
    }

    #[test]
    fn a_chunk_whose_space_cannot_be_freed_is_no_error_while_others_are_in_use() {
        let (chunks, medium) = bounded();
        let room = chunks.room.as_ref().unwrap();
        (0..40).for_each(|chunk| fetch(&chunks, &medium, chunk));
        medium.bad.lock().unwrap().insert(7);
        (0..40).filter(|chunk| *chunk != 7).for_each(|chunk| room.pins.pin(chunk..chunk + 1));
        assert!(chunks.evict(room, &medium, 1).is_err());
        assert_eq!(chunks.evict(room, &medium, 1).unwrap(), Evicted::InUse);
        assert_eq!(chunks.state().used, 40);
    }

    #[test]
    fn chunks_far_apart_are_evicted_without_writing_the_map_between_them() {
        let dir = tempfile::tempdir().unwrap();
        let (chunks, medium) = bounded_in_file(&dir);
        [1, FAR + 1].into_iter().for_each(|chunk| fetch(&chunks, &medium, chunk));
        chunks.evict_for(&medium, 20).unwrap(); // nothing yet
        faults::expect(&[]);
        chunks.evict_for(&medium, 40).unwrap();
        assert_eq!((chunks.state().used, medium.used(), faults::written()), (0, 0, 16));
    }

    /// A chunk that is evicted just then is neither present nor missing.
    #[test]
    fn a_chunk_that_could_not_be_evicted_stays_missing_if_its_data_was_lost_meanwhile() {
        for loses in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let (chunks, medium) = bounded_in_file(&dir);
            [1, FAR + 1].into_iter().for_each(|chunk| fetch(&chunks, &medium, chunk));
            if loses {
                let chunks = chunks.clone();
                let loss = move || chunks.failed(&io::Error::from_raw_os_error(libc::EIO));
                *medium.meanwhile.lock().unwrap() = Some(Box::new(loss));
            }
            // The second page cannot be written. The file is as before.
            faults::expect(&[None, Some(3)]);
            let room = chunks.room.as_ref().unwrap();
            [1, FAR + 1].into_iter().for_each(|chunk| assert!(room.pins.was_used(chunk)));
            assert_eq!(chunks.evict(room, &medium, 2).unwrap(), Evicted::Some);
            assert!(!chunks.map.has(1) && chunks.map.has(FAR + 1) != loses);
            let state = chunks.state();
            assert_eq!((state.used, state.leftover.contains_key(&(FAR + 1))), (1, loses));
        }
    }

    #[test]
    fn a_discard_of_what_is_missing_takes_no_space() {
        let (chunks, _medium) = bounded();
        let (sender, _told) = channel();
        let plan = chunks.plan(0, CHUNKS * CHUNK, Use::Discard, &Waiter::Thread(sender));
        assert!(matches!(plan, Plan::Go(_)) && chunks.state().used == 0);
    }

    /// Readers never find a hole in a chunk that they have pinned and found present.
    #[test]
    fn readers_and_the_clock_see_each_other() {
        let (chunks, storage) = (bounded().0, Arc::new(Memory::new(CHUNKS * CHUNK).unwrap()));
        let ended = AtomicBool::new(false);
        let rounds = if cfg!(miri) { 60 } else { 20_000 };
        std::thread::scope(|scope| {
            for reader in 0..3_u64 {
                let (chunks, storage, ended) = (&chunks, &storage, &ended);
                scope.spawn(move || {
                    let mut state = 0x9e37_79b9_7f4a_7c15_u64 + reader;
                    let (mut hits, pins) = (0, &chunks.room.as_ref().unwrap().pins);
                    while !ended.load(SeqCst) {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let chunk = (state >> 33) % CHUNKS;
                        pins.pin(chunk..chunk + 1);
                        if chunks.map.settled_all(chunk..chunk + 1) {
                            hits += 1;
                            for _ in 0..20 {
                                assert_eq!(storage.byte(chunk * CHUNK + 17), chunk as u8 | 1, "a hole");
                            }
                        }
                        pins.unpin(chunk..chunk + 1);
                    }
                    assert!(hits > 0);
                });
            }
            for round in 0..rounds {
                let chunk = round * 31 % CHUNKS;
                let (sender, told) = channel();
                let plan = chunks.plan(chunk * CHUNK, CHUNK, Use::Read, &Waiter::Thread(sender));
                if let Plan::Wait { .. } = plan {
                    chunks.make_room(&*storage, chunk..chunk + 1).unwrap();
                    storage.store(chunk * CHUNK, &[chunk as u8 | 1; CHUNK as usize]).unwrap();
                    chunks.complete(&[chunk], false, 0).unwrap();
                    told.recv().unwrap();
                }
            }
            ended.store(true, SeqCst);
        });
    }
}
