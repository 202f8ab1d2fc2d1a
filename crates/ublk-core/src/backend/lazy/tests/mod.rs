//! Lazy disks without a kernel: what fills them, and their progress.

mod hand_over;
mod space;

use super::*;
use crate::backend::testing::Bench;
use crate::backend::{File as Stored, Memory};
use crate::queue::{Descriptor, Flags, Op};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::time::{Duration, Instant};

const CHUNK: u64 = 4096;
const SIZE: u64 = 64 << 10;

/// Answers at once, or fails.
#[derive(Default)]
struct At {
    fails: AtomicBool,
    asked: AtomicU32,
}

impl Source for At {
    fn fetch(&self, fill: Fill) {
        self.asked.fetch_add(1, SeqCst);
        if self.fails.load(SeqCst) {
            return fill.fail(libc::ENODATA);
        }
        let data = (fill.offset()..fill.offset() + fill.length()).map(|at| (at / CHUNK) as u8 + 1).collect();
        fill.supply(data).unwrap();
    }
}

fn disk(bounded: Option<u64>) -> (Lazy, Arc<Memory>, Arc<At>) {
    let (storage, source) = (Arc::new(Memory::new(SIZE).unwrap()), Arc::new(At::default()));
    let lazy = match bounded {
        Some(max) => {
            let map = Map::volatile_bounded(SIZE, CHUNK).unwrap();
            Lazy::bounded(storage.clone(), map, source.clone(), max).unwrap()
        }
        None => Lazy::new(storage.clone(), Map::volatile(SIZE, CHUNK).unwrap(), source.clone()).unwrap(),
    };
    (lazy, storage, source)
}

/// As if an engine served it.
fn served(lazy: Lazy) -> Lazy {
    lazy.begin(&lazy.inner()).unwrap();
    lazy
}

fn wait(handle: &Handle, filling: Filling) -> Progress {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let now = handle.progress().unwrap();
        if now.filling == filling {
            return now;
        }
        assert!(Instant::now() < until, "{now:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_prefetch_brings_what_is_missing_of_its_range_once() {
    let (lazy, storage, source) = disk(None);
    let handle = lazy.handle();
    assert!(handle.prefetch(5000, 10_000, &|| false).is_err(), "its files may be another server's");
    let lazy = served(lazy);
    handle.prefetch(5000, 10_000, &|| false).unwrap();
    assert_eq!([1, 2, 3].map(|chunk| storage.byte(chunk * CHUNK)), [2, 3, 4]);
    let asked = source.asked.load(SeqCst);
    handle.prefetch(4096, 8192, &|| false).unwrap();
    let now = handle.progress().unwrap();
    assert_eq!(source.asked.load(SeqCst), asked);
    assert_eq!((now.present, now.fetched, now.fetches), (3 * CHUNK, 3 * CHUNK, asked.into()));
    let shares = [&[0, 255, 255, 255][..], &[0; 12]].concat();
    assert_eq!(handle.shares(CHUNK), Some((shares, None)));
    assert_eq!(handle.shares(CHUNK * 8), Some((vec![95, 0], None)));
    assert!(handle.prefetch(SIZE, 1, &|| false).is_err() && handle.prefetch(u64::MAX, 2, &|| false).is_err());
    source.fails.store(true, SeqCst);
    let error = handle.prefetch(0, SIZE, &|| false).unwrap_err();
    assert_eq!(error.errno, Some(libc::ENODATA));
    assert!(handle.progress().unwrap().failures > 0);
    drop(lazy);
    assert!(handle.progress().is_none() && handle.prefetch(0, 1, &|| false).is_err());
}

#[test]
fn a_fill_brings_all_and_ends_and_takes_as_long_as_its_rate_says() {
    let (lazy, storage, _) = disk(None);
    let began = Instant::now();
    let lazy = lazy.filled(Some(SIZE * 5));
    assert_eq!(lazy.handle().progress().unwrap().filling, Filling::Off);
    let lazy = served(served(lazy)); // two queues
    let now = wait(&lazy.handle(), Filling::Complete);
    assert!(began.elapsed() >= Duration::from_millis(120), "{:?}", began.elapsed());
    assert_eq!((now.present, now.fetched), (SIZE, SIZE));
    assert!((0..SIZE / CHUNK).all(|chunk| storage.byte(chunk * CHUNK) == chunk as u8 + 1));
}

#[test]
fn a_fill_ends_when_a_bounded_cache_is_full_and_evicts_nothing() {
    let (lazy, ..) = disk(Some(41_000));
    let lazy = served(lazy.filled(None));
    let now = wait(&lazy.handle(), Filling::Full);
    assert_eq!(now.evicted, 0);
    assert!(now.present == now.max.unwrap() && now.dirty == Some(0), "{now:?}");
    lazy.handle().prefetch(0, SIZE, &|| false).unwrap();
    let now = lazy.handle().progress().unwrap();
    assert!(now.evicted > 0 && now.present <= now.max.unwrap(), "{now:?}");
}

#[test]
fn a_fill_goes_on_after_its_source_has_failed() {
    let (lazy, _, source) = disk(None);
    source.fails.store(true, SeqCst);
    let lazy = served(lazy.filled(None));
    wait(&lazy.handle(), Filling::Waiting);
    source.fails.store(false, SeqCst);
    wait(&lazy.handle(), Filling::Complete);
    lazy.close().unwrap();
}

#[test]
fn a_fill_that_waits_does_not_keep_its_disk_from_closing() {
    let (lazy, _, source) = disk(None);
    source.fails.store(true, SeqCst);
    let lazy = served(lazy.filled(None));
    wait(&lazy.handle(), Filling::Waiting);
    let began = Instant::now();
    lazy.close().unwrap();
    drop(lazy);
    assert!(began.elapsed() < Duration::from_millis(900));
}

#[test]
fn a_file_is_a_source_as_long_as_nobody_changes_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::write(&path, vec![7; 10_000]).unwrap();
    let source = FileSource::open(&path).unwrap();
    assert_eq!(source.size(), 10_240);
    let identity = source.identity().to_owned();
    assert_eq!(FileSource::open(&path).unwrap().identity(), identity);
    let storage = Arc::new(Memory::new(10_240).unwrap());
    let map = Map::volatile(10_240, CHUNK).unwrap();
    let lazy = served(Lazy::new(storage.clone(), map, Arc::new(source)).unwrap());
    lazy.handle().prefetch(8192, 2048, &|| false).unwrap();
    assert_eq!([8192, 9999, 10_000].map(|at| storage.byte(at)), [7, 7, 0]);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let error = lazy.handle().prefetch(0, 4096, &|| false).unwrap_err();
    assert_eq!(error.errno, Some(libc::ESTALE));
    assert_ne!(FileSource::open(&path).unwrap().identity(), identity);
    let (relative, full) = (Path::new("Cargo.toml"), std::env::current_dir().unwrap().join("Cargo.toml"));
    assert_eq!(FileSource::open(relative).unwrap().identity(), FileSource::open(&full).unwrap().identity());
    fs::write(&path, "").unwrap();
    assert!(FileSource::open(&path).is_err() && FileSource::open(dir.path()).is_err());
}

#[test]
fn closing_a_disk_of_a_file_ends_what_waits_for_its_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    fs::File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let source = FileSource::open(&path).unwrap();
    let map = Map::volatile(1 << 30, CHUNK).unwrap();
    let lazy = served(Lazy::new(Arc::new(Memory::new(1 << 30).unwrap()), map, Arc::new(source)).unwrap());
    let handle = lazy.handle();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| handle.prefetch(0, 1 << 30, &|| false));
        std::thread::sleep(Duration::from_millis(20));
        drop(lazy);
        let _ = waits.join().unwrap(); // it ends, whatever came first
    });
}

#[test]
fn a_cache_that_is_refused_may_hold_written_data_so_no_hint_says_to_remove_it() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (cache, map) = (dir.path().join("cache"), dir.path().join("cache.map"));
    let identity = Identity { size: SIZE, chunk: CHUNK, name: "image".into() };
    let (storage, found) = Stored::open_or_create(&cache, SIZE, false).unwrap();
    drop(Map::open_bounded(&map, &identity, found).unwrap());
    storage.store(0, &[1; 4096]).unwrap();
    let refused = |name: &str, content: Option<&[u8]>| {
        if let Some(content) = content {
            fs::write(&map, content).unwrap();
        }
        let identity = Identity { name: name.into(), ..identity.clone() };
        Map::open_bounded(&map, &identity, Found::Used).err().unwrap().hint.unwrap().to_string()
    };
    let hints = [
        refused("another", None),
        refused("image", Some(&[7; 20_000])),
        refused("image", Some(b"short")),
        refused("image", Some(b"")),
        Stored::open_or_create(&cache, SIZE * 2, false).err().unwrap().hint.unwrap().to_string(),
        crate::backend::MemoryFile::open(&cache, SIZE * 2).err().unwrap().hint.unwrap().to_string(),
    ];
    for hint in &hints {
        assert!(!hint.contains("remove") && hint.contains("another"), "{hint}");
    }
    for hint in &hints[..4] {
        assert!(hint.contains("written data"), "{hint}");
    }
}

/// What a killed process left without a bit in the map takes up no space after the next start.
#[test]
fn a_bounded_cache_is_cleaned_when_it_is_served_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = (dir.path().join("cache"), dir.path().join("map"));
    let identity = Identity { size: 4 << 20, chunk: CHUNK, name: "image".into() };
    let open = |max| {
        let (storage, found) = Stored::open_or_create(&path, 4 << 20, false).unwrap();
        let map = Map::open_bounded(&map, &identity, found).unwrap();
        Lazy::bounded(Arc::new(storage), map, Arc::new(At::default()), max)
    };
    let lazy = served(open(1 << 20).unwrap());
    lazy.handle().prefetch(0, 64 << 10, &|| false).unwrap();
    lazy.inner().storage.store(2 << 20, &vec![1; 1 << 20]).unwrap();
    lazy.close().unwrap();
    drop(lazy);
    let blocks = || {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(&path).unwrap().blocks() * 512
    };
    assert!(blocks() > 1 << 20);
    drop(open(1 << 20).unwrap());
    assert!(blocks() > 1 << 20, "another server may have the file");
    drop(served(open(1 << 20).unwrap()));
    assert!(blocks() <= 80 << 10, "{}", blocks());
    let lazy = served(open(60 << 10).unwrap());
    assert!(lazy.handle().progress().unwrap().present <= 48 << 10, "a smaller bound evicts");
}

/// The user has removed the cache, but not its map, and the server is killed when it has created a new cache.
#[test]
fn a_cache_is_new_until_its_map_is() {
    let dir = tempfile::tempdir().unwrap();
    let (path, map) = (dir.path().join("cache"), dir.path().join("map"));
    let identity = Identity { size: SIZE, chunk: CHUNK, name: "image".into() };
    let of_before = Map::open(&map, &identity, Found::New).unwrap();
    of_before.begin();
    of_before.file(&[0]).unwrap();
    drop(of_before);
    let create = || Stored::open_or_create(&path, SIZE, false).unwrap();
    drop(create());
    assert!(!path.exists(), "no disk was served from it");
    std::mem::forget(create()); // killed
    let (storage, found) = create();
    let map = Map::open(&map, &identity, found).unwrap();
    assert!(!map.has(0), "a hole");
    let lazy = Lazy::new(Arc::new(storage), map, Arc::new(At::default())).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    drop(served(lazy));
    let (storage, found) = create();
    assert_eq!((fs::metadata(&path).unwrap().len(), found), (SIZE, Found::Empty));
    storage.store(0, &[1]).unwrap();
    assert_eq!(create().1, Found::Used);
}

/// What an engine does with a request, without a ring: reads a byte of a chunk, or overwrites the chunk.
fn request(lazy: &Lazy, storage: &Memory, chunk: u64, written: Option<u8>) -> Option<u8> {
    use super::chunks::{Plan, Use, Waiter};
    use crate::backend::Storage;
    let (inner, offset) = (lazy.inner(), chunk * CHUNK);
    let pins = &inner.chunks.room.as_ref().unwrap().pins;
    let (sender, told) = std::sync::mpsc::channel();
    let usage = if written.is_some() { Use::Overwrite } else { Use::Read };
    loop {
        pins.pin(chunk..chunk + 1);
        let settled = inner.chunks.map.settled_all(chunk..chunk + 1);
        let claim = if settled && (written.is_none() || inner.chunks.map.is_dirty(chunk)) {
            None
        } else {
            let plan = inner.chunks.plan(offset, CHUNK, usage, &Waiter::Thread(sender.clone()));
            if !matches!(plan, Plan::Go(_)) {
                pins.unpin(chunk..chunk + 1);
            }
            let times = match plan {
                Plan::Go(claim) => Err(claim),
                Plan::Wait { times, fetch } => {
                    fetch.into_iter().for_each(|range| inner.fetch(range, true));
                    Ok(times)
                }
                Plan::Evict(count) => {
                    let job = Job::Evict(count, Waiter::Thread(sender.clone()));
                    inner.filler.jobs().send(job).unwrap();
                    Ok(1)
                }
                Plan::Full => return None,
                Plan::Lost | Plan::Failed(_) => panic!("nothing was lost"),
            };
            match times {
                Err(claim) => Some(claim),
                Ok(times) => {
                    for _ in 0..times {
                        let result = told.recv_timeout(Duration::from_secs(20)).expect("it is told");
                        assert_eq!(result, 0);
                    }
                    continue;
                }
            }
        };
        let byte = match written {
            Some(byte) => {
                storage.store(offset, &[byte; CHUNK as usize]).unwrap();
                byte
            }
            None => storage.byte(offset),
        };
        pins.unpin(chunk..chunk + 1);
        claim.into_iter().for_each(|claim| claim.fulfil().unwrap());
        return Some(byte);
    }
}

#[test]
fn requests_on_many_threads_all_end_and_see_the_image_and_their_writes() {
    const CHUNKS: u64 = 200;
    let storage = Arc::new(Memory::new(CHUNKS * CHUNK).unwrap());
    let map = Map::volatile_bounded(CHUNKS * CHUNK, CHUNK).unwrap();
    let source = Arc::new(At::default());
    let lazy = Lazy::bounded(storage.clone(), map, source, 41 * CHUNK).unwrap();
    std::thread::scope(|scope| {
        for client in 0..4_u64 {
            let (lazy, storage) = (&lazy, &storage);
            scope.spawn(move || {
                let (mut state, mut mine) = (client + 1, [0_u8; 5]);
                for round in 0..5000_u32 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let draw = state >> 33;
                    if draw.is_multiple_of(4) {
                        // Each client writes to five chunks of its own.
                        let at = (draw / 4 % 5) as usize;
                        let byte = (round % 250) as u8 + 1;
                        mine[at] =
                            request(lazy, storage, client * 5 + at as u64, Some(byte)).expect("it fits in");
                    } else {
                        let chunk = draw / 4 % CHUNKS;
                        let byte = request(lazy, storage, chunk, None);
                        let own = (client * 5..client * 5 + 5).contains(&chunk);
                        match chunk {
                            _ if own && mine[(chunk % 5) as usize] > 0 => {
                                assert_eq!(byte, Some(mine[(chunk % 5) as usize]));
                            }
                            0..20 => {} // another client's
                            _ => assert_eq!(byte, Some(chunk as u8 + 1)),
                        }
                    }
                }
            });
        }
    });
    let now = lazy.handle().progress().unwrap();
    assert!(now.evicted > 0 && now.present <= now.max.unwrap(), "{now:?}");
}

/// A storage that loses data without an error of its own requests and syncs: another queue's sync got that.
struct Doubtful {
    memory: Arc<Memory>,
    loses: AtomicBool,
}

impl Backend for Doubtful {
    fn properties(&self) -> Properties {
        self.memory.properties()
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut crate::backend::Site) -> Result<Box<dyn Engine>> {
        self.memory.clone().engine(site)
    }
}

impl Storage for Doubtful {
    fn store(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.store(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn intact(&self) -> io::Result<()> {
        let lost = self.loses.swap(false, SeqCst);
        if lost { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }
}

#[test]
fn a_flush_fails_although_another_queue_got_the_error_and_has_not_recorded_it() {
    for durable_write in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity { size: SIZE, chunk: CHUNK, name: "image".into() };
        let map = Map::open(&dir.path().join("map"), &identity, Found::New).unwrap();
        let memory = Arc::new(Memory::new(SIZE).unwrap());
        let storage = Arc::new(Doubtful { memory, loses: AtomicBool::new(false) });
        let lazy = Arc::new(Lazy::new(storage.clone(), map, Arc::new(At::default())).unwrap());
        let mut bench = Bench::new(lazy.clone(), 1, 4096);
        let mut ask = |what| {
            let mut outcome = bench.start(0, what);
            while outcome.is_none() {
                outcome = bench.turn().pop().map(|(_, outcome)| outcome);
            }
            outcome.unwrap()
        };
        let write = Descriptor { flags: Flags::FUA, ..Descriptor::new(Op::Write, 0, CHUNK) };
        let flush = Descriptor::new(Op::Flush, 0, 0);
        assert!(ask(write).is_ok() && ask(flush).is_ok() && !lazy.inner().chunks.map.unsaved());
        storage.loses.store(true, SeqCst);
        assert_eq!(ask(if durable_write { write } else { flush }), Err(libc::EIO));
        assert_eq!(ask(flush), Err(libc::EIO), "and so does every later one");
    }
}
