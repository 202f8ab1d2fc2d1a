//! Maps of bounded caches: evictions, power failures, and what a kill leaves.

use super::*;

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

/// In a process of its own: the kernel joins neighbouring mappings, and would count those of other tests.
#[test]
#[cfg(not(miri))]
fn a_map_takes_memory_for_what_is_present_alone() {
    const ALONE: &str = "UBLK_TS_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = std::thread::current().name().unwrap().to_owned();
        let mut test = std::process::Command::new(std::env::current_exe().unwrap());
        let output = test.args(["--exact", &name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
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
