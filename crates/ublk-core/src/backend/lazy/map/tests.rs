mod bounded;

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
