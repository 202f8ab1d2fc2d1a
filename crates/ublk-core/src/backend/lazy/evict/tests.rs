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
        unreachable!("these tests make no engine")
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
