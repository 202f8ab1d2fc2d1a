use super::format::{BOOT, PLACE};
use super::*;
use crate::error::{ErrorKind, Result};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

fn identity() -> Identity {
    Identity { size: 100 << 20, chunk: 4096, name: "image 1".into() }
}

/// A map that a disk is served with.
fn open(path: &Path, identity: &Identity, found: Found) -> Result<Map> {
    Map::open(path, identity, found).inspect(Map::begin)
}

/// The same for a bounded cache.
fn open_bounded(path: &Path, identity: &Identity, found: Found) -> Result<Map> {
    Map::open_bounded(path, identity, found).inspect(Map::begin)
}

struct Place(std::path::PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("ublk-map-{}-{name}", std::process::id())))
    }

    fn open(&self) -> Result<Map> {
        open(&self.0, &identity(), Found::Empty)
    }

    /// As if the machine had been booted again.
    fn reboot(&self) {
        let file = OpenOptions::new().write(true).open(&self.0).unwrap();
        file.write_all_at(&[b'x'; 36], BOOT.start as u64).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The same steps as a fetch and a save.
fn add(map: &Map, chunks: &[u64]) {
    map.file(chunks).unwrap();
    map.set(chunks, false);
}

fn save(map: &Map, sync: impl FnOnce() -> io::Result<()>) -> io::Result<bool> {
    map.save(sync, |publish| {
        publish();
        Ok(())
    })
}

#[test]
fn a_process_is_outlived_by_all_and_a_boot_by_what_was_saved() {
    let place = Place::new("lives");
    let map = place.open().unwrap();
    save(&map, || Ok(())).unwrap();
    assert!(!map.unsaved());
    add(&map, &[1, 20_000]);
    assert!(map.unsaved() && map.has_all(1..2) && !map.settled_all(1..2));
    save(&map, || {
        add(&map, &[2]); // too late for this save
        Ok(())
    })
    .unwrap();
    assert!(map.unsaved() && map.settled_all(1..2) && !map.settled_all(2..3));
    drop(map);
    let map = place.open().unwrap();
    assert!(map.has(1) && map.has(2) && map.has(20_000) && !map.has(3));
    assert!(map.unsaved() && !map.settled_all(1..3));
    drop(map);
    place.reboot();
    let map = place.open().unwrap();
    assert!(map.has(1) && !map.has(2) && map.has(20_000));
    assert!(!map.unsaved() && map.settled_all(1..2));
}

#[test]
fn a_save_whose_data_is_not_durable_saves_nothing() {
    let place = Place::new("sync");
    let map = place.open().unwrap();
    add(&map, &[5]);
    assert!(save(&map, || Err(io::Error::other("no"))).is_err());
    assert!(map.unsaved(), "or a flush would succeed before the failure is recorded");
    drop(map);
    place.reboot();
    assert!(!place.open().unwrap().has(5));
}

#[test]
fn the_map_of_another_disk_is_refused_and_so_is_a_second_user() {
    let place = Place::new("other");
    let map = place.open().unwrap();
    assert!(place.open().err().unwrap().message.contains("in use"));
    drop(map);
    for other in [
        Identity { size: 99 << 20, ..identity() },
        Identity { chunk: 8192, ..identity() },
        Identity { name: "image 2".into(), ..identity() },
    ] {
        assert!(open(&place.0, &other, Found::Used).err().unwrap().message.contains("another disk"));
    }
    std::fs::write(&place.0, vec![7; 20_000]).unwrap();
    assert!(place.open().err().unwrap().message.contains("not a map of ublk-ts"));
    assert!(!open(&place.0, &identity(), Found::New).unwrap().has(0));
}

#[test]
fn a_map_that_says_nothing_is_refused_for_a_cache_that_holds_data() {
    let place = Place::new("blank");
    for bytes in [vec![], vec![0; 30_000]] {
        std::fs::write(&place.0, bytes).unwrap();
        let refused = open(&place.0, &identity(), Found::Used).err().unwrap();
        assert!(refused.message.contains("is empty, but its cache is not"), "{refused}");
        assert!(!place.open().unwrap().has(0), "nothing is lost without it where there is nothing");
    }
    std::fs::remove_file(&place.0).unwrap();
    assert!(open(&place.0, &identity(), Found::Used).is_err());
}

/// Any user can make one that takes years to read.
#[test]
fn a_long_file_of_zeroes_is_no_map_and_not_read_to_its_end() {
    let place = Place::new("long");
    File::create(&place.0).unwrap().set_len(1 << 30).unwrap();
    let refused = place.open().err().unwrap();
    assert!(refused.message.contains("not a map of ublk-ts"), "{refused}");
}

#[test]
fn a_map_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("mode");
    // SAFETY: changes the umask of this process. Other tests do not depend on it.
    let before = unsafe { libc::umask(0) };
    let map = place.open().unwrap();
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    assert_eq!(std::fs::metadata(&place.0).unwrap().permissions().mode() & 0o777, 0o600);
    drop(map);
}

#[test]
fn a_map_that_is_cut_short_in_use_is_whole_again_after_the_next_save() {
    for length in [0, 100, 4096, 6000] {
        let place = Place::new("cut");
        let map = place.open().unwrap();
        add(&map, &[1, 20_000]);
        save(&map, || Ok(())).unwrap();
        add(&map, &[2]);
        OpenOptions::new().write(true).open(&place.0).unwrap().set_len(length).unwrap();
        assert!(map.has(1) && map.has(2) && map.has(20_000));
        add(&map, &[3]);
        assert!(save(&map, || Ok(())).unwrap(), "it is reported");
        assert!(!save(&map, || Ok(())).unwrap(), "once");
        drop(map);
        let map = place.open().unwrap();
        assert!([1, 2, 3, 20_000].iter().all(|chunk| map.has(*chunk)));
        drop(map);
        place.reboot();
        let map = place.open().unwrap();
        assert!([1, 2, 3, 20_000].iter().all(|chunk| map.has(*chunk)));
    }
}

#[test]
fn live_is_trusted_only_where_it_was_written() {
    let place = Place::new("place");
    let map = place.open().unwrap();
    add(&map, &[1]);
    save(&map, || Ok(())).unwrap();
    add(&map, &[2]);
    drop(map);
    let stamp = |bytes: [u8; 8]| {
        let file = OpenOptions::new().write(true).open(&place.0).unwrap();
        file.write_all_at(&bytes, PLACE.start as u64).unwrap();
    };
    stamp([0; 8]); // from a version without mount numbers
    assert!(place.open().unwrap().has(2));
    stamp(*b"replaced");
    let map = place.open().unwrap();
    assert!(map.has(1) && !map.has(2));
}

/// A file with arbitrary changes is refused, or gives a map that marks no chunk beyond those in the file.
fn fuzz(bounded: bool, mut use_it: impl FnMut(Map)) {
    let place = Place::new(&format!("fuzz-{bounded}"));
    let open = |found| match bounded {
        false => open(&place.0, &identity(), found),
        true => open_bounded(&place.0, &identity(), found),
    };
    let map = open(Found::Empty).unwrap();
    add(&map, &[1, 2, 20_000]);
    save(&map, || Ok(())).unwrap();
    drop(map);
    let good = std::fs::read(&place.0).unwrap();
    let rounds = std::env::var("UBLK_TS_FUZZ").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3000);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let (mut refused, mut opened) = (0, 0);
    for round in 0..rounds {
        let mut bytes = good.clone();
        match next(9) {
            0 => bytes.truncate(next(good.len())),
            1 => bytes.extend((0..next(9000)).map(|_| 0)),
            2 => bytes = (0..next(20_000)).map(|_| next(256) as u8).collect(),
            3 => bytes[16..24].copy_from_slice(&(next(5) as u64).to_le_bytes()),
            4 | 5 => (0..1 + next(40)).for_each(|_| bytes[PAGE + next(good.len() - PAGE)] = next(256) as u8),
            6 => bytes[BOOT.start + next(PLACE.end - BOOT.start)] ^= 1 + next(255) as u8,
            _ => (0..1 + next(40)).for_each(|_| {
                let at = if next(2) == 0 { next(PAGE) } else { next(good.len()) };
                bytes[at] = next(256) as u8;
            }),
        }
        std::fs::write(&place.0, &bytes).unwrap();
        let found = [Found::Empty, Found::Used][next(2)];
        match open(found) {
            Ok(map) => {
                opened += 1;
                let blank = bytes.iter().all(|byte| *byte == 0);
                assert!(blank || bytes.len() == good.len(), "round {round}: {} bytes", bytes.len());
                let tables = if bounded { 3 } else { 2 };
                for chunk in 0..identity().size / identity().chunk {
                    let bit = |table: usize| {
                        let at = PAGE + table * (good.len() - PAGE) / tables + chunk as usize / 8;
                        bytes.get(at).is_some_and(|byte| byte & (1 << (chunk % 8)) != 0)
                    };
                    assert!(!map.has(chunk) || bit(0) || bit(1), "round {round}: chunk {chunk}");
                    assert!(bounded || map.has(chunk) || !bit(0), "round {round}: chunk {chunk} was saved");
                }
                let chunks = identity().size / identity().chunk;
                assert!(map.next(chunks).is_none() && map.count_dirty().is_none_or(|dirty| dirty <= chunks));
                map.file(&[7]).unwrap();
                map.set(&[7], true);
                save(&map, || Ok(())).unwrap();
                use_it(map);
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind, ErrorKind::Backend, "{error}");
                assert!(!error.message.contains('\n') && error.message.contains("the map "), "{error}");
                assert_eq!(std::fs::read(&place.0).unwrap(), bytes, "a refused file is left unchanged");
            }
        }
    }
    assert!(refused > rounds / 10 && opened > rounds / 10, "{refused} refused, {opened} opened");
}

#[test]
fn any_bytes_are_a_map_or_refused() {
    fuzz(false, drop);
}

/// And its cache can be served within its bound.
#[test]
fn any_bytes_are_a_bounded_map_or_refused() {
    use crate::backend::Memory;
    use crate::backend::lazy::{chunks::Chunks, room::Room};
    let (storage, mut evicted) = (Memory::new(identity().size).unwrap(), 0);
    fuzz(true, |map| {
        let room = Room { most: 40, most_dirty: 30, ..Room::new(1 << 30, 4096, 25_600, 0).unwrap() };
        let chunks = Chunks::new(map, Some(room));
        if chunks.fit(&storage).is_ok() && chunks.evict_for(&storage, 20).is_ok() {
            evicted += 1;
        }
    });
    assert!(evicted > 0);
}

/// A bounded map with these chunks fetched and saved; 2 was written and saved then, 3 is written after the save.
fn bounded(place: &Place) -> Map {
    let map = open_bounded(&place.0, &identity(), Found::Empty).unwrap();
    add(&map, &[1, 2, 3, 20_000]);
    map.mark_dirty(&[2]).unwrap();
    save(&map, || Ok(())).unwrap();
    map.mark_dirty(&[3]).unwrap();
    map
}

fn present(map: &Map) -> Vec<u64> {
    (0..identity().size / identity().chunk).filter(|chunk| map.has(*chunk)).collect()
}

fn evict(map: &Map, chunk: u64) {
    map.withdraw(chunk);
    map.unfile(&[chunk]).unwrap();
}

/// A part of the table was written when an eviction failed: of chunk 1, and of 5, which was missing and has no data.
#[test]
fn an_eviction_that_failed_has_changed_nothing_in_the_file() {
    for refetched in [false, true] {
        let place = Place::new(&format!("unfiled-{refetched}"));
        let map = bounded(&place);
        let saved = map.withdraw(1);
        faults::expect(&[Some(1)]);
        assert!(map.unfile(&[1, 5]).unwrap_err().unchanged);
        map.restore(1, saved);
        if refetched {
            add(&map, &[6]);
        }
        map.mark_dirty(&[1]).unwrap(); // for a client's write, which is answered
        drop(map); // killed
        let map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
        assert!(map.has(1) && map.is_dirty(1), "a client wrote to it");
        assert!(!map.has(5) && map.has(6) == refetched, "a hole");
    }
}

#[test]
fn an_eviction_that_cannot_be_undone_says_so() {
    let place = Place::new("unknown");
    let map = bounded(&place);
    map.withdraw(1);
    faults::expect(&[Some(1), Some(0)]);
    assert!(!map.unfile(&[1, 5]).unwrap_err().unchanged);
    add(&map, &[6]);
    drop(map);
    assert_eq!(present(&open_bounded(&place.0, &identity(), Found::Used).unwrap()), [2, 3, 6, 20_000]);
}

/// The kernel's word on the mapping that an address lies in: how much of it takes memory, in KiB.
#[cfg(not(miri))]
fn resident(address: usize) -> u64 {
    let (mut inside, all) = (false, std::fs::read_to_string("/proc/self/smaps").unwrap());
    for line in all.lines() {
        let first = line.split_whitespace().next().unwrap();
        if let Some((from, to)) = first.split_once('-') {
            let parse = |text| usize::from_str_radix(text, 16);
            inside = matches!((parse(from), parse(to)), (Ok(from), Ok(to)) if (from..to).contains(&address));
        } else if inside && first == "Anonymous:" {
            return line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
    }
    panic!("it is mapped")
}

#[test]
#[cfg(not(miri))]
fn a_map_takes_memory_for_what_is_present_alone() {
    let place = Place::new("memory");
    let identity = Identity { size: 1 << 39, ..identity() };
    let map = open_bounded(&place.0, &identity, Found::New).unwrap();
    let length = Map::length_of(&identity, true);
    assert_eq!((map.length(), std::fs::metadata(&place.0).unwrap().len()), (length, length));
    add(&map, &[1]);
    let taken = resident(std::ptr::from_ref(map.live.word(0)).addr());
    assert!((4..12 << 10).contains(&taken), "{taken} KiB, and each table has 16 MiB");
}

#[test]
fn what_was_evicted_is_missing_after_a_kill_and_what_was_written_stays_dirty() {
    let place = Place::new("evicted");
    let map = bounded(&place);
    evict(&map, 20_000);
    assert!(!map.has(20_000) && !map.settled_all(20_000..20_001));
    drop(map);
    let map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
    assert_eq!(present(&map), [1, 2, 3]);
    assert_eq!([1, 2, 3].map(|chunk| map.is_dirty(chunk)), [false, true, true]);
}

#[test]
fn after_a_power_failure_only_written_chunks_of_a_bounded_cache_count() {
    let place = Place::new("power");
    let map = bounded(&place);
    evict(&map, 1);
    drop(map);
    place.reboot();
    // The write to 3 was not flushed. The chunk may have a part of it, so it is fetched again.
    let map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
    assert_eq!(present(&map), [2]);
    assert!(map.is_dirty(2) && !map.is_dirty(3));
    drop(map);
    // Another failure right after that changes nothing.
    place.reboot();
    assert_eq!(present(&open_bounded(&place.0, &identity(), Found::Used).unwrap()), [2]);
}

/// Each page of the file on the medium is the one of any moment since the last sync: the kernel writes pages back in any
/// order.
#[test]
fn a_power_failure_shows_no_hole_whichever_pages_reached_the_medium() {
    let table = {
        let place = Place::new("pages");
        drop(bounded(&place));
        (std::fs::metadata(&place.0).unwrap().len() as usize - PAGE) / 3
    };
    for older in 0..8 {
        for closed in [false, true] {
            let place = Place::new(&format!("pages-{older}-{closed}"));
            let mut map = bounded(&place);
            save(&map, || Ok(())).unwrap();
            if closed {
                map.seal().unwrap();
                drop(map);
                map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
            }
            let synced = std::fs::read(&place.0).unwrap();
            // Its data is a hole now, and is so still if the client's first write to it has not reached the medium.
            evict(&map, 1);
            map.mark_dirty(&[1]).unwrap();
            add(&map, &[1]);
            drop(map);
            let mut medium = std::fs::read(&place.0).unwrap();
            for number in (0..3).filter(|number| older & 1 << number != 0) {
                let at = PAGE + number * table;
                medium[at..at + table].copy_from_slice(&synced[at..at + table]);
            }
            std::fs::write(&place.0, medium).unwrap();
            place.reboot();
            let map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
            assert_eq!(present(&map), [2, 3], "{older:03b} {closed}");
        }
    }
}

#[test]
fn a_bounded_cache_that_was_closed_counts_whole_after_a_boot_and_once() {
    let place = Place::new("sealed");
    let map = bounded(&place);
    map.seal().unwrap();
    drop(map);
    place.reboot();
    assert!(
        present(&open_bounded(&place.0, &identity(), Found::Used).unwrap()) == [2],
        "a map with something to save is not sealed"
    );
    let other = Place::new("sealed-2");
    let map = bounded(&other);
    save(&map, || Ok(())).unwrap();
    map.seal().unwrap();
    drop(map);
    other.reboot();
    let map = open_bounded(&other.0, &identity(), Found::Used).unwrap();
    assert_eq!(present(&map), [1, 2, 3, 20_000]);
    assert!(map.settled_all(1..4) && !map.unsaved());
    drop(map);
    other.reboot();
    assert_eq!(present(&open_bounded(&other.0, &identity(), Found::Used).unwrap()), [2, 3]);
}

#[test]
fn what_a_killed_process_wrote_survives_a_boot_once_the_next_one_has_flushed() {
    let place = Place::new("marks");
    drop(bounded(&place));
    let map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
    assert!(map.unsaved() && map.is_dirty(3));
    save(&map, || Ok(())).unwrap();
    drop(map);
    place.reboot();
    let map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
    assert!(map.has(3) && map.is_dirty(3));
}

#[test]
fn maps_with_and_without_a_bound_are_not_taken_for_each_other() {
    let (one, other) = (Place::new("bound-1"), Place::new("bound-2"));
    drop(bounded(&one));
    drop(other.open().unwrap());
    let refused = open(&one.0, &identity(), Found::Used).err().unwrap();
    assert!(refused.message.contains("is of a bounded cache"), "{refused}");
    let refused = open_bounded(&other.0, &identity(), Found::Used).err().unwrap();
    assert!(refused.message.contains("was made without a bound"), "{refused}");
    let identity = Identity { name: "image 2".into(), ..identity() };
    let refused = open_bounded(&one.0, &identity, Found::Used).err().unwrap();
    assert!(refused.message.contains("another disk"), "{refused}");
}

#[test]
fn a_bounded_map_that_is_cut_short_is_whole_again_after_the_next_save() {
    let place = Place::new("bounded-cut");
    let map = bounded(&place);
    OpenOptions::new().write(true).open(&place.0).unwrap().set_len(5000).unwrap();
    assert!(save(&map, || Ok(())).unwrap());
    drop(map);
    place.reboot();
    let map = open_bounded(&place.0, &identity(), Found::Used).unwrap();
    assert_eq!(present(&map), [2, 3]);
}

/// A client that finds a chunk marked by another writes to it without a lock, and may flush then.
#[test]
fn a_flush_makes_a_write_durable_whoever_has_marked_its_chunk() {
    use std::sync::atomic::AtomicU64;
    const CHUNKS: u64 = if cfg!(miri) { 20 } else { 20_000 };
    let place = Place::new("flushed");
    let map = open_bounded(&place.0, &identity(), Found::Empty).unwrap();
    add(&map, &(0..CHUNKS).collect::<Vec<_>>());
    save(&map, || Ok(())).unwrap();
    let (file, flushed, lost) = (File::open(&place.0).unwrap(), AtomicU64::new(0), AtomicU64::new(0));
    let is_saved = |chunk: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, PAGE as u64 + chunk / 8).unwrap();
        byte[0] & 1 << (chunk % 8) != 0
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while flushed.load(SeqCst) < CHUNKS {
                save(&map, || Ok(())).unwrap();
            }
        });
        scope.spawn(|| {
            for chunk in 0..CHUNKS {
                while !map.is_dirty(chunk) {
                    std::hint::spin_loop();
                }
                // Nothing to save: it has to be in the file already.
                if !map.unsaved() && !is_saved(chunk) {
                    lost.fetch_add(1, SeqCst);
                }
                flushed.store(chunk + 1, SeqCst);
            }
        });
        for chunk in 0..CHUNKS {
            map.mark_dirty(&[chunk]).unwrap();
            while flushed.load(SeqCst) <= chunk {
                std::hint::spin_loop();
            }
        }
    });
    assert_eq!(lost.into_inner(), 0);
}
