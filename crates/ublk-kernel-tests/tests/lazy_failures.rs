//! Lazy disks whose cache, map or server fails: no wrong byte is ever read, and durable data is kept.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ublk_core::backend::{File as Stored, Found, Identity, Lazy, Map};
use ublk_core::{Bound, Event, Spec, registry};
use ublk_kernel_tests::system::{Loop, Mounted, run};
use ublk_kernel_tests::*;

const MIB: u64 = 1 << 20;
const CHUNK: u64 = 64 << 10;
const SIZE: u64 = 16 * MIB;

fn identity() -> Identity {
    Identity { size: SIZE, chunk: CHUNK, name: "image".into() }
}

fn lazy(image: &Arc<Image>, cache: &Path, map: &Path, found: Option<Found>) -> Lazy {
    let (storage, holds) = Stored::open_or_create(cache, SIZE, false).unwrap();
    let map = Map::open(map, &identity(), found.unwrap_or(holds)).unwrap();
    Lazy::new(Arc::new(storage), map, image.clone()).unwrap()
}

/// Simulates a reboot: the map is of another boot, and the page cache is empty.
fn reboot(map: &Path) {
    OpenOptions::new().write(true).open(map).unwrap().write_all_at(&[b'x'; 36], 64).unwrap();
    drop_caches();
}

fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

fn read(disk: &File, chunk: u64) -> std::io::Result<Aligned> {
    let mut data = Aligned::new(CHUNK as usize);
    disk.read_exact_at(&mut data, chunk * CHUNK).map(|()| data)
}

fn assert_image(disk: &File, chunks: impl IntoIterator<Item = u64>) {
    for chunk in chunks {
        let data = read(disk, chunk).unwrap_or_else(|error| panic!("chunk {chunk}: {error}"));
        assert_eq!(first_wrong(&data, chunk * CHUNK), None, "chunk {chunk}");
    }
}

fn assert_filled(disk: &File, chunk: u64, byte: u8) {
    assert!(read(disk, chunk).unwrap().iter().all(|found| *found == byte), "chunk {chunk}");
}

fn eio(result: std::io::Result<impl Sized>) -> bool {
    result.err().is_some_and(|error| error.raw_os_error() == Some(libc::EIO))
}

/// An ext4 on a device that can refuse writes to a file's data. Writes of metadata succeed.
struct Fragile {
    name: String,
    device: Loop,
    dir: tempfile::TempDir,
    /// In sectors.
    size: u64,
    /// The cache's position, in sectors: from, to.
    data: (u64, u64),
}

impl Fragile {
    fn new(name: &str) -> Self {
        let (device, dir) = (Loop::new(64 * MIB), tempfile::tempdir().unwrap());
        run("mkfs.ext4", &["-q", "-F", "-b", "4096", device.path().to_str().unwrap()]);
        let size = 64 * MIB / 512;
        let mut fragile =
            Self { name: format!("fragile-{name}-{}", std::process::id()), device, dir, size, data: (0, 0) };
        let table = fragile.table(false);
        run("dmsetup", &["create", "--noudevsync", "--noudevrules", &fragile.name, "--table", &table]);
        run("dmsetup", &["mknodes", &fragile.name]);
        run("mount", &[&format!("/dev/mapper/{}", fragile.name), fragile.dir.path().to_str().unwrap()]);
        let cache = File::create(fragile.cache()).unwrap();
        cache.write_all_at(&vec![0; SIZE as usize], 0).unwrap();
        cache.sync_all().unwrap();
        let blocks: Vec<_> = (0..SIZE / 4096).map(|at| block_of(&cache, at as i32)).collect();
        let (first, last) = (*blocks.iter().min().unwrap(), *blocks.iter().max().unwrap());
        assert_eq!(last - first + 1, SIZE / 4096, "the cache lies in one piece");
        fragile.data = (first * 8, (last + 1) * 8);
        fragile
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn map(&self) -> PathBuf {
        self.dir.path().join("cache.map")
    }

    fn table(&self, broken: bool) -> String {
        let (device, (from, to)) = (self.device.path().display(), self.data);
        if !broken {
            return format!("0 {} linear {device} 0", self.size);
        }
        let line = |from: u64, to: u64, kind: &str, rest: &str| {
            format!("{from} {} {kind} {device} {from}{rest}", to - from)
        };
        [
            line(0, from, "linear", ""),
            line(from, to, "flakey", " 0 3600 1 error_writes"),
            line(to, self.size, "linear", ""),
        ]
        .join("\n")
    }

    /// Refuses writes to the cache, or accepts them again.
    fn set_broken(&self, broken: bool) {
        let table = tempfile::NamedTempFile::new().unwrap();
        fs::write(table.path(), self.table(broken)).unwrap();
        run("dmsetup", &["load", &self.name, table.path().to_str().unwrap()]);
        // Without writing dirty pages back.
        run("dmsetup", &["suspend", "--nolockfs", "--noflush", "--noudevsync", &self.name]);
        run("dmsetup", &["resume", "--noudevsync", &self.name]);
    }
}

impl Drop for Fragile {
    fn drop(&mut self) {
        run("umount", &[self.dir.path().to_str().unwrap()]);
        run("dmsetup", &["remove", "--noudevsync", &self.name]);
    }
}

/// FIBMAP: the block on the device that holds a block of a file.
fn block_of(file: &File, block: i32) -> u64 {
    let mut found = block;
    // SAFETY: the request reads and writes one int.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), 1, &raw mut found) }, 0);
    found as u64
}

fn can_break() -> bool {
    let able = Path::new("/dev/mapper/control").exists() && run("dmsetup", &["targets"]).contains("flakey");
    if !able {
        println!("no dm-flakey here");
    }
    able
}

#[test]
fn after_a_failed_sync_nothing_that_was_lost_is_taken_for_present() {
    let _alone = alone();
    if !can_break() {
        return;
    }
    let (fragile, image) = (Fragile::new("sync"), Image::new(CHUNK));
    let disk =
        Disk::start(&Spec::default(), lazy(&image, &fragile.cache(), &fragile.map(), Some(Found::New)));
    let file = disk.open();
    file.write_all_at(&Aligned::filled(CHUNK as usize, 7), 200 * CHUNK).unwrap();
    file.sync_all().unwrap();
    fragile.set_broken(true);
    assert_image(&file, 0..64);
    file.write_all_at(&Aligned::filled(CHUNK as usize, 8), 100 * CHUNK).unwrap();
    file.write_all_at(&Aligned::filled(4096, 8), 10 * CHUNK).unwrap();
    assert!(eio(file.sync_all()), "the flush that finds out");
    fragile.set_broken(false);
    for _ in 0..2 {
        assert!(
            eio(file.sync_all()),
            "nothing that was written is known to be there, and later flushes say so"
        );
        assert!(eio(block::write_durably(&file, &Aligned::filled(4096, 9), 200 * CHUNK)));
        drop_caches();
        assert_image(&file, (0..10).chain(11..64));
        assert!(eio(read(&file, 10)) && eio(read(&file, 100)), "what a client wrote and was lost");
        assert_image(&file, [101]);
    }
    let Event::Error { queue: None, message } = disk.events().wait_for(|_| true) else { panic!("an error") };
    assert!(message.contains("has lost data"), "{message}");
    // A write of the whole chunk makes it present again.
    file.write_all_at(&Aligned::filled(CHUNK as usize, 6), 100 * CHUNK).unwrap();
    assert_filled(&file, 100, 6);
    drop(file);
    disk.device().delete(true, &Bound::standard()).unwrap();
    assert!(
        matches!(&disk.events().all()[..], [_, Event::Error { queue: None, message }] if message.contains("could not be saved")),
        "{:?}",
        disk.events().all()
    );
    for reboots in [false, true] {
        if reboots {
            reboot(&fragile.map());
        }
        let fetched = image.fetched();
        let disk = Disk::start(&Spec::default(), lazy(&image, &fragile.cache(), &fragile.map(), None));
        let file = disk.open();
        assert_image(&file, (0..200).chain(201..256));
        assert!(
            reboots || image.fetched()[&100] == fetched.get(&100).unwrap_or(&0) + 1,
            "fetched, not found"
        );
        // It was saved before; since then a write of 4 KiB to it failed.
        let data = read(&file, 200).unwrap();
        assert!(
            data[..4096].iter().all(|byte| [7, 9].contains(byte))
                && data[4096..].iter().all(|byte| *byte == 7)
        );
        file.sync_all().unwrap();
        drop(file);
        disk.finish();
    }
}

#[test]
fn a_client_that_only_reads_never_finds_what_write_back_has_lost() {
    let _alone = alone();
    if !can_break() {
        return;
    }
    let (fragile, image) = (Fragile::new("read"), Image::new(CHUNK));
    let spec = Spec { queues: cpus().len().min(2) as u32, ..Spec::default() };
    let disk = Disk::start(&spec, lazy(&image, &fragile.cache(), &fragile.map(), Some(Found::New)));
    let file = disk.open();
    fragile.set_broken(true);
    assert_image(&file, 0..64);
    // The kernel writes back by itself, as it would after a while; no process gets the error.
    // SAFETY: takes nothing.
    unsafe { libc::sync() };
    fragile.set_broken(false);
    drop_caches();
    std::thread::scope(|scope| {
        for part in 0..4 {
            let file = &file;
            scope.spawn(move || assert_image(file, (0..64).filter(|chunk| chunk % 4 == part)));
        }
    });
    assert!(image.fetched()[&1] > 1, "it was lost, and fetched again");
    drop(file);
    disk.device().delete(true, &Bound::standard()).unwrap();
    let disk = Disk::start(&spec, lazy(&image, &fragile.cache(), &fragile.map(), None));
    assert_image(&disk.open(), 0..256);
    disk.finish();
}

#[test]
fn a_quiet_cache_is_saved_without_being_asked() {
    let _alone = alone();
    let (dir, image) = (tempfile::tempdir().unwrap(), Image::new(CHUNK));
    let (cache, map) = (dir.path().join("cache"), dir.path().join("map"));
    let disk = Disk::start(&Spec::default(), lazy(&image, &cache, &map, None));
    assert_image(&disk.open(), [3]);
    eventually("the chunk is saved", || fs::read(&map).unwrap()[4096] & 8 != 0);
    disk.finish();
}

#[test]
fn a_map_that_is_cut_short_or_cannot_be_written_costs_at_most_requests() {
    let _alone = alone();
    let (dir, image) = (tempfile::tempdir().unwrap(), Image::new(CHUNK));
    let small = dir.path().join("small");
    fs::create_dir(&small).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=1M", "tmpfs", small.to_str().unwrap()]);
    let (cache, map) = (dir.path().join("cache"), small.join("map"));
    let disk = Disk::start(&Spec::default(), lazy(&image, &cache, &map, None));
    let file = disk.open();
    assert_image(&file, 0..4);
    // As on a copy-on-write file system: the map's allocated blocks cannot be reused, and no others are free.
    let length = fs::metadata(&map).unwrap().len();
    let open = OpenOptions::new().write(true).open(&map).unwrap();
    block::punch(&open, 0, length).unwrap();
    let filler = File::create(small.join("filler")).unwrap();
    let full = (0..).find_map(|at| filler.write_all_at(&[1; 4096], at * 4096).err()).unwrap();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    let error = read(&file, 8).err().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(file.write_all_at(&Aligned::filled(CHUNK as usize, 5), 9 * CHUNK).is_err());
    assert_image(&file, 0..4);
    filler.set_len(0).unwrap();
    assert_image(&file, [8]);
    file.write_all_at(&Aligned::filled(CHUNK as usize, 5), 9 * CHUNK).unwrap();
    for length in [0, 4096, 6000] {
        open.set_len(length).unwrap();
        assert_image(&file, 0..9);
        assert_image(&file, [16 + length / 1000]);
        file.sync_all().unwrap();
    }
    let events = disk.events().all();
    let told = |part: &str| {
        events
            .iter()
            .filter(|event| matches!(event, Event::Error { message, .. } if message.contains(part)))
            .count()
    };
    assert!(told("cannot write the map") >= 2 && told("was truncated") == 3, "{events:?}");
    drop(file);
    disk.device().delete(true, &Bound::standard()).unwrap();
    reboot(&map);
    let fetched = image.fetched();
    let disk = Disk::start(&Spec::default(), lazy(&image, &cache, &map, None));
    assert_image(&disk.open(), (0..9).chain([16, 20, 22]));
    assert_filled(&disk.open(), 9, 5);
    let again = image.fetched().into_iter().filter(|(chunk, times)| fetched.get(chunk) != Some(times));
    assert!(again.into_iter().all(|(chunk, _)| ![8, 16, 20, 22].contains(&chunk)), "all of it was saved");
    disk.finish();
    drop((open, filler));
    run("umount", &[small.to_str().unwrap()]);
}

#[test]
fn what_was_not_saved_is_trusted_only_while_its_file_system_stays_mounted() {
    let _alone = alone();
    let mounted = Mounted::ext4(64 * MIB);
    let path = mounted.join("map");
    let open = |found| Map::open(&path, &identity(), found).unwrap();
    let map = open(Found::New);
    map.begin();
    map.file(&[1]).unwrap();
    drop(map);
    assert!(open(Found::Used).has(1), "a process that was killed");
    let source = mounted.device();
    let other = tempfile::tempdir().unwrap();
    // A further mount, as for containers, does not change it.
    run("mount", &[&source, other.path().to_str().unwrap()]);
    let elsewhere = Map::open(&other.path().join("map"), &identity(), Found::Used).unwrap();
    assert!(elsewhere.has(1));
    drop(elsewhere);
    run("umount", &[other.path().to_str().unwrap()]);
    mounted.unmount();
    run("mount", &[&source, mounted.path().to_str().unwrap()]);
    assert!(!open(Found::Used).has(1), "it was away meanwhile");
}

/// Set in the server's environment: the directory of its cache.
const SERVER: &str = "UBLK_TEST_LAZY_SERVER";

/// Not a test: the server.
#[test]
fn the_server() {
    if let Some(dir) = std::env::var_os(SERVER) {
        let dir = PathBuf::from(dir);
        let image = Image::new(CHUNK);
        let disk = Disk::start(&Spec::default(), lazy(&image, &dir.join("cache"), &dir.join("map"), None));
        println!("\ndevice {}", disk.device().id());
        loop {
            std::thread::park();
        }
    }
}

/// A small pseudo-random generator with a fixed sequence.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

const BLOCK: u64 = 4096;

/// A client's knowledge of a disk: by block, the bytes that it may hold. Other blocks are as in the image.
type Known = HashMap<u64, Vec<Option<u8>>>;

/// Reads, writes and flushes until the server has ended.
fn client(disk: &File, known: &mut Known, numbers: &mut Numbers) {
    for round in 0u32.. {
        let byte = (1 + round % 250) as u8;
        let whole = numbers.below(4) == 0;
        let (at, blocks) = if whole {
            (numbers.below(SIZE / CHUNK) * CHUNK / BLOCK, CHUNK / BLOCK)
        } else {
            (numbers.below(SIZE / BLOCK), 1)
        };
        let length = (blocks * BLOCK) as usize;
        match numbers.below(5) {
            0 if numbers.below(4) == 0 => {
                if disk.sync_all().is_err() {
                    return;
                }
            }
            0 | 1 => {
                let mut data = Aligned::new(length);
                if disk.read_exact_at(&mut data, at * BLOCK).is_err() {
                    return;
                }
                check(&data, at, known);
            }
            _ => {
                for block in at..at + blocks {
                    known.entry(block).or_insert_with(|| vec![None]).push(Some(byte));
                }
                if disk.write_all_at(&Aligned::filled(length, byte), at * BLOCK).is_err() {
                    return; // the block may hold either the old or the new data
                }
                for block in at..at + blocks {
                    known.insert(block, vec![Some(byte)]);
                }
            }
        }
    }
}

fn check(data: &[u8], at: u64, known: &Known) {
    for (block, data) in (at..).zip(data.chunks(BLOCK as usize)) {
        let holds = |what: &Option<u8>| match what {
            Some(byte) => data.iter().all(|found| found == byte),
            None => first_wrong(data, block * BLOCK).is_none(),
        };
        let image = vec![None];
        let may = known.get(&block).unwrap_or(&image);
        assert!(may.iter().any(holds), "block {block} begins with {:?}, not {may:?}", &data[..16]);
    }
}

/// Two servers with one cache, one after the other, and then one that has to have the data that the client knows.
/// UBLK_TS_ROUNDS sets the number of rounds.
#[test]
fn a_server_that_is_killed_at_any_moment_loses_no_write_that_was_answered() {
    let _alone = alone();
    let rounds = std::env::var("UBLK_TS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(3);
    let mut numbers = Numbers(7);
    for round in 0..rounds {
        let dir = tempfile::tempdir().unwrap();
        let mut known = Known::new();
        for life in 0..2 {
            let (mut server, id) = Beside::server(SERVER, dir.path().to_str().unwrap());
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_DIRECT);
            let disk = options.open(format!("/dev/ublkb{id}")).unwrap();
            let (mut seen, mut own) = (std::mem::take(&mut known), Numbers(2 * round + life));
            let work = std::thread::spawn(move || {
                client(&disk, &mut seen, &mut own);
                seen
            });
            std::thread::sleep(Duration::from_millis(50 + numbers.below(400)));
            server.child().kill().unwrap();
            server.end("a killed server");
            known = within("the client", move || work.join().unwrap());
            let _ = registry::delete(id, true, &Bound::standard());
        }
        let image = Image::new(CHUNK);
        let cache = lazy(&image, &dir.path().join("cache"), &dir.path().join("map"), None);
        let disk = Disk::start(&Spec::default(), cache);
        let file = disk.open();
        for chunk in 0..SIZE / CHUNK {
            check(&read(&file, chunk).unwrap(), chunk * CHUNK / BLOCK, &known);
        }
        assert!(known.len() > 10, "{} blocks were written", known.len());
        drop(file);
        disk.finish();
    }
}
