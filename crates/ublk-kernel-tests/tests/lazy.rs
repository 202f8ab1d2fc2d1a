//! A disk that is filled on demand, and one whose changes are observed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, PoisonError};
use ublk_core::Spec;
use ublk_core::backend::{
    Backend, Change, File as Stored, FileSource, Identity, Lazy, Map, Memory, Observed, Storage,
};
use ublk_core::queue::Op;
use ublk_kernel_tests::system::{Loop, run};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 << 10;
const SIZE: u64 = 16 * MIB;

fn in_memory(image: &Arc<Image>) -> Lazy {
    let map = Map::volatile(SIZE, CHUNK).unwrap();
    Lazy::new(Arc::new(Memory::new(SIZE).unwrap()), map, image.clone()).unwrap()
}

fn in_file(image: &Arc<Image>, dir: &Path, direct: bool) -> Lazy {
    let (storage, found) = Stored::open_or_create(&dir.join("cache"), SIZE, direct).unwrap();
    let identity = Identity { size: SIZE, chunk: CHUNK, name: "image".into() };
    let map = Map::open(&dir.join("map"), &identity, found).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(storage);
    Lazy::new(storage, map, image.clone()).unwrap()
}

/// A small generator of numbers: the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Reads and writes the blocks of 4 KiB whose number leaves `rest` when divided by 4, so that all four share each
/// chunk; or whole chunks, when they are its own.
fn use_share(disk: &File, rest: u64) {
    const BLOCK: u64 = 4096;
    let (mut numbers, mut written) = (Numbers(rest + 1), HashMap::new());
    for round in 0..600u32 {
        let block = numbers.below(SIZE / BLOCK / 4) * 4 + rest;
        let mut data = Aligned::new(BLOCK as usize);
        if numbers.below(3) == 0 {
            data.fill((round % 251) as u8);
            disk.write_all_at(&data, block * BLOCK).unwrap();
            written.insert(block, (round % 251) as u8);
            continue;
        }
        disk.read_exact_at(&mut data, block * BLOCK).unwrap();
        match written.get(&block) {
            Some(byte) => assert!(data.iter().all(|found| found == byte), "block {block}"),
            None => assert_eq!(first_wrong(&data, block * BLOCK), None, "block {block}"),
        }
    }
}

#[test]
fn clients_that_share_chunks_see_the_image_and_their_writes_and_each_chunk_is_fetched_once() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    for kind in ["memory", "file", "direct"] {
        let image = Image::new(CHUNK);
        let spec = Spec { queues: 2, ..Spec::default() };
        let disk = match kind {
            "memory" => Disk::start(&spec, in_memory(&image)),
            "file" => Disk::start(&spec, in_file(&image, dir.path(), false)),
            _ => {
                std::fs::remove_file(dir.path().join("cache")).unwrap();
                Disk::start(&spec, in_file(&image, dir.path(), true))
            }
        };
        std::thread::scope(|scope| {
            for rest in 0..4 {
                let disk = &disk;
                scope.spawn(move || use_share(&disk.open(), rest));
            }
        });
        let fetched = image.fetched();
        assert!(fetched.len() > 100, "{kind}: {}", fetched.len());
        assert!(fetched.values().all(|times| *times == 1), "{kind}: {fetched:?}");
        disk.finish();
    }
}

#[test]
fn what_is_overwritten_or_discarded_whole_is_never_fetched() {
    let _alone = alone();
    let image = Image::new(CHUNK);
    let disk = Disk::start(&Spec::default(), in_memory(&image));
    let file = disk.open();
    file.write_all_at(&Aligned::filled(2 * CHUNK as usize, 7), 4 * CHUNK).unwrap();
    block::discard(&file, 8 * CHUNK, 2 * CHUNK).unwrap();
    block::zero_out(&file, 12 * CHUNK + 4096, 2 * CHUNK).unwrap();
    let mut data = Aligned::new(CHUNK as usize);
    for (chunk, byte) in [(4, 7), (5, 7), (8, 0), (9, 0), (13, 0)] {
        file.read_exact_at(&mut data, chunk * CHUNK).unwrap();
        assert!(data.iter().all(|found| *found == byte), "chunk {chunk}");
    }
    let fetched = image.fetched();
    assert!([4, 5, 8, 9, 13].iter().all(|chunk| !fetched.contains_key(chunk)), "{fetched:?}");
    // The zeroes begin and end within a chunk: the rest of it is the image's.
    assert!([12, 14].iter().all(|chunk| fetched.contains_key(chunk)), "{fetched:?}");
    file.read_exact_at(&mut data, 14 * CHUNK).unwrap();
    assert!(data[..4096].iter().all(|byte| *byte == 0));
    assert_eq!(first_wrong(&data[4096..], 14 * CHUNK + 4096), None);
    drop(file);
    disk.finish();
}

#[test]
fn a_fetch_that_fails_fails_its_readers_and_is_tried_again() {
    let _alone = alone();
    let image = Image::new(CHUNK);
    let disk = Disk::start(&Spec::default(), in_memory(&image));
    let file = disk.open();
    let mut data = Aligned::new(4096);
    image.failures.store(1, SeqCst);
    let error = file.read_exact_at(&mut data, 8 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENODATA));
    file.read_exact_at(&mut data, 8 * MIB).unwrap();
    assert_eq!(first_wrong(&data, 8 * MIB), None);
    image.failures.store(1, SeqCst);
    assert!(file.write_all_at(&Aligned::filled(4096, 1), 9 * MIB).is_err(), "a part of a chunk");
    file.write_all_at(&Aligned::filled(4096, 1), 9 * MIB).unwrap();
    drop(file);
    disk.finish();
}

#[test]
fn a_cache_in_a_file_is_there_for_the_next_device() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(CHUNK);
    for round in 0..3u8 {
        let disk = Disk::start(&Spec::default(), in_file(&image, dir.path(), false));
        let file = disk.open();
        let mut data = Aligned::new(CHUNK as usize);
        file.read_exact_at(&mut data, MIB).unwrap();
        assert_eq!(first_wrong(&data, MIB), None);
        file.read_exact_at(&mut data, 2 * MIB).unwrap();
        assert!(round == 0 || data[..4096].iter().all(|byte| *byte == round));
        file.write_all_at(&Aligned::filled(4096, round + 1), 2 * MIB).unwrap();
        // With and without a flush, which the device's end makes up for.
        if round == 0 {
            file.sync_all().unwrap();
        }
        drop(file);
        disk.finish();
    }
    let fetched = image.fetched();
    assert_eq!(fetched[&(MIB / CHUNK)], 1);
    assert_eq!(fetched[&(2 * MIB / CHUNK)], 1);
}

#[test]
fn a_durable_write_is_on_the_map_when_it_returns() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(CHUNK);
    let disk = Disk::start(&Spec::default(), in_file(&image, dir.path(), false));
    assert_eq!(
        system::read(&format!("/sys/block/ublkb{}/queue/write_cache", disk.device().id())),
        "write back"
    );
    let saved = |chunk: u64| {
        let map = std::fs::read(dir.path().join("map")).unwrap();
        map[4096 + chunk as usize / 8] & (1 << (chunk % 8)) != 0
    };
    let file = disk.open();
    let data = Aligned::filled(CHUNK as usize, 3);
    file.write_all_at(&data, 100 * CHUNK).unwrap();
    assert!(!saved(100), "this write may be lost with the power");
    block::write_durably(&file, &data, 101 * CHUNK).unwrap();
    assert!(saved(101));
    file.write_all_at(&data, 102 * CHUNK).unwrap();
    file.sync_all().unwrap();
    assert!(saved(102));
    drop(file);
    disk.finish();
}

#[test]
fn an_observer_is_told_of_every_change_that_was_made() {
    let _alone = alone();
    let changes: Arc<Mutex<Vec<Change>>> = Arc::default();
    let list = changes.clone();
    let observed = Observed::new(
        Arc::new(Memory::new(SIZE).unwrap()),
        Arc::new(move |change| list.lock().unwrap_or_else(PoisonError::into_inner).push(change)),
    );
    assert_eq!(observed.properties().size, SIZE);
    let disk = Disk::start(&Spec::default(), observed);
    let file = disk.open();
    file.write_all_at(&Aligned::filled(4096, 1), MIB).unwrap();
    file.read_exact_at(&mut Aligned::new(4096), MIB).unwrap();
    block::discard(&file, 2 * MIB, MIB).unwrap();
    block::punch(&file, 4 * MIB, MIB).unwrap();
    let told: Vec<_> = changes
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .map(|change| (change.op, change.offset, change.length))
        .collect();
    assert_eq!(told, [(Op::Write, MIB, 4096), (Op::Discard, 2 * MIB, MIB), (Op::WriteZeroes, 4 * MIB, MIB)]);
    drop(file);
    disk.finish();
}

/// As after a reboot: a file system without a device of its own gets another number, and a block device another node.
#[test]
fn a_source_is_known_again_when_its_device_has_another_number() {
    let _alone = alone();
    let (here, other, nodes) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mount = |dir: &Path| run("mount", &["-t", "tmpfs", "tmpfs", dir.to_str().unwrap()]);
    let unmount = |dir: &Path| run("umount", &[dir.to_str().unwrap()]);
    let identity = |path: &Path| FileSource::open(path).unwrap().identity().to_owned();
    let found = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.dev(), found.ino())
    };
    let path = here.path().join("image");
    let fill = || {
        mount(here.path());
        fs::write(&path, [7; 4096]).unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        (found(&path), identity(&path))
    };
    let before = fill();
    unmount(here.path());
    mount(other.path());
    let after = fill();
    unmount(here.path());
    unmount(other.path());
    assert!(before.0.0 != after.0.0 && before.0.1 == after.0.1, "another device, the same inode");
    assert_eq!(before.1, after.1);

    let (device, node) = (Loop::new(MIB), nodes.path().join("node"));
    let number = fs::metadata(device.path()).unwrap().rdev();
    let make = || {
        let (major, minor) = (libc::major(number).to_string(), libc::minor(number).to_string());
        run("mknod", &[node.to_str().unwrap(), "b", &major, &minor]);
        (found(&node), identity(&node))
    };
    let before = make();
    fs::rename(&node, nodes.path().join("earlier")).unwrap();
    let after = make();
    assert_ne!(before.0, after.0);
    assert_eq!(before.1, after.1);
}
