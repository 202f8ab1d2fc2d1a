//! The engine in a real ring, over a store in a directory.

use super::clone::CloneOf;
use super::disk::{Durable, LogDisk, Options};
use super::origins::Opener;
use super::reading::At;
use crate::runtime;
use crate::store::{Settings, open};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use ublk_core::backend::{Backend, Errno, Op};
use ublk_core::error::Result;
use ublk_core::queue::Descriptor;
use ublk_core::testing::Bench;

const SIZE: u64 = 32 << 20;
const IO: u32 = 1 << 20;

fn disk(store: &Path, cache: &Path, durable: Durable) -> Arc<LogDisk> {
    opened(store, cache, |options| Options { size: Some(SIZE), durable, ..options }).unwrap()
}

fn opened(store: &Path, cache: &Path, how: impl Fn(Options) -> Options) -> Result<Arc<LogDisk>> {
    let opener: Opener = Arc::new(|url| Ok(open(url, &Settings::default())?));
    let url = format!("file://{}", store.display());
    let options = Options { cache_size: Options::CACHE_SIZES.0, ..Options::new(url, cache.to_owned()) };
    LogDisk::open(opener, how(options), runtime::runtime().unwrap().handle().clone()).map(Arc::new)
}

fn run(bench: &mut Bench, op: Op, offset: u64, length: u64) -> std::result::Result<u32, Errno> {
    if let Some(outcome) = bench.start(0, Descriptor::new(op, offset, length)) {
        return outcome;
    }
    let limit = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some((_, outcome)) = bench.turn().pop() {
            return outcome;
        }
        assert!(Instant::now() < limit, "it hangs");
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn write(bench: &mut Bench, model: &mut [u8], offset: u64, length: u64, byte: u8) {
    bench.buffer(0)[..length as usize].fill(byte);
    assert_eq!(run(bench, Op::Write, offset, length), Ok(length as u32));
    model[offset as usize..][..length as usize].fill(byte);
}

fn check(bench: &mut Bench, model: &[u8]) {
    for offset in (0..SIZE).step_by(IO as usize) {
        bench.buffer(0).fill(0xee);
        assert_eq!(run(bench, Op::Read, offset, IO.into()), Ok(IO));
        let wrong =
            bench.buffer(0).iter().zip(&model[offset as usize..]).position(|(one, other)| one != other);
        assert_eq!(wrong, None, "at {offset}");
    }
}

#[test]
fn what_is_written_is_read_from_here_and_from_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (store, cache) = (dir.path().join("store"), dir.path().join("cache"));
    let mut model = vec![0; SIZE as usize];
    for durable in [Durable::Object, Durable::Local] {
        let disk = disk(&store, &cache, durable);
        disk.check_claimed().unwrap();
        let mut bench = Bench::new(disk.clone(), 4, IO);
        check(&mut bench, &model);
        for turn in 0..60_u64 {
            let length = [4096, 512, 7680, 256 << 10, 9216, IO.into()][(turn % 6) as usize];
            let offset = turn * 7_368_704 % (SIZE - length) / 512 * 512;
            write(&mut bench, &mut model, offset, length, turn as u8 + 1);
            if turn % 10 == 3 {
                assert_eq!(run(&mut bench, Op::Flush, 0, 0), Ok(0));
            }
            if turn % 10 == 7 {
                let op = if turn % 20 == 7 { Op::Discard } else { Op::WriteZeroes };
                let offset = offset / 4096 * 4096;
                let length = (8 << 20).min(SIZE - offset);
                assert_eq!(run(&mut bench, op, offset, length), Ok(length as u32));
                model[offset as usize..][..length as usize].fill(0);
            }
        }
        assert_eq!(run(&mut bench, Op::WriteZeroes, 512, 512), Err(libc::EOPNOTSUPP));
        assert_eq!(run(&mut bench, Op::Read, SIZE, 4096), Err(libc::EIO));
        check(&mut bench, &model);
        drop(bench);
        disk.close().unwrap();
        // From another machine.
        std::fs::remove_dir_all(&cache).unwrap();
    }
    let disk = disk(&store, &cache, Durable::Object);
    let mut bench = Bench::new(disk.clone(), 4, IO);
    check(&mut bench, &model);
    assert!(disk.standing().unwrap().misses > 0);
    let before = disk.standing().unwrap();
    drop(bench);
    disk.close().unwrap();
    drop(disk);
    // What was read stays, as far as there is room.
    let disk = self::disk(&store, &cache, Durable::Object);
    let mut bench = Bench::new(disk.clone(), 4, IO);
    check(&mut bench, &model);
    assert!(disk.standing().unwrap().cached > 0 && disk.standing().unwrap().misses < before.misses);
    drop(bench);
    disk.close().unwrap();
}

#[test]
fn a_disk_that_lets_go_and_takes_back_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (store, cache) = (dir.path().join("store"), dir.path().join("cache"));
    let mut model = vec![0; SIZE as usize];
    let disk = disk(&store, &cache, Durable::Local);
    for turn in 0..5 {
        disk.take_back(SIZE).unwrap();
        disk.check_claimed().unwrap();
        let mut bench = Bench::new(disk.clone(), 4, IO);
        check(&mut bench, &model);
        for part in 0..30 {
            write(&mut bench, &mut model, (part * 5 + turn) * 8192, 8192, (turn * 40 + part) as u8 + 1);
        }
        drop(bench);
        disk.let_go();
    }
    disk.close().unwrap();
}

#[test]
fn writes_of_parts_of_one_block_at_the_same_time_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir.path().join("store"), &dir.path().join("cache"), Durable::Local);
    let mut bench = Bench::new(disk.clone(), 4, IO);
    let mut model = vec![0; 64 << 10];
    let mut going = 0;
    for round in 0..400_u64 {
        for tag in 0..4_u16 {
            // Each tag has sectors of its own, in blocks that all share.
            let sector = round * 5 % 16 * 8 + u64::from(tag) * 2;
            let length = if (round + u64::from(tag)) % 3 == 0 { 1024 } else { 512 };
            let byte = (round * 4 + u64::from(tag)) as u8;
            bench.buffer(tag)[..length].fill(byte);
            model[sector as usize * 512..][..length].fill(byte);
            let what = Descriptor::new(Op::Write, sector * 512, length as u64);
            going += usize::from(bench.start(tag, what).is_none());
        }
        let limit = Instant::now() + Duration::from_secs(30);
        while going > 0 {
            for (_, outcome) in bench.turn() {
                assert!(outcome.is_ok(), "{outcome:?}");
                going -= 1;
            }
            assert!(Instant::now() < limit, "it hangs");
        }
    }
    assert_eq!(run(&mut bench, Op::Read, 0, 64 << 10), Ok(64 << 10));
    assert!(bench.buffer(0)[..64 << 10] == model[..]);
    assert_eq!(run(&mut bench, Op::Read, 1536, 7168), Ok(7168));
    assert!(bench.buffer(0)[..7168] == model[1536..8704]);
    drop(bench);
    disk.close().unwrap();
}

#[test]
fn a_snapshot_a_clone_and_another_size_are_read_through_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (store, mut model) = (path("store"), vec![0; SIZE as usize]);
    let disk = disk(&store, &path("cache"), Durable::Local);
    disk.check_claimed().unwrap();
    let mut bench = Bench::new(disk.clone(), 4, IO);
    for part in 0..20_u64 {
        write(&mut bench, &mut model, part * 1_048_576, IO.into(), part as u8 + 1);
    }
    disk.clone().snapshot("one", &|| {}).unwrap();
    assert!(disk.clone().snapshot("one", &|| {}).is_err_and(|error| error.message.contains("already")));
    assert!(disk.clone().snapshot("a/b", &|| {}).is_err());
    let was = model.clone();
    for part in 0..20_u64 {
        write(&mut bench, &mut model, part * 1_048_576 + 4096, 256 << 10, 0xaa);
    }
    let snapshot = |options| Options { at: Some(At::Snapshot("one".into())), ..options };
    let old = opened(&store, &path("old"), snapshot).unwrap();
    old.check_claimed().unwrap();
    check(&mut Bench::new(old.clone(), 4, IO), &was);
    assert!(old.resize(SIZE, 4096).is_err() && old.clone().snapshot("x", &|| {}).is_err());
    old.close().unwrap();
    let from = CloneOf { url: format!("file://{}", store.display()), snapshot: "one".into() };
    let with = |options| Options { from: Some(from.clone()), ..options };
    let clone = opened(&path("clone"), &path("its"), with).unwrap();
    clone.check_claimed().unwrap();
    let (mut its, mut its_model) = (Bench::new(clone.clone(), 4, IO), was.clone());
    check(&mut its, &was);
    write(&mut its, &mut its_model, 7 << 20, 512, 0xbb);
    check(&mut its, &its_model);
    assert!(disk.remove_snapshot("one").is_err_and(|error| error.message.contains("has a clone")));
    drop(its);
    clone.close().unwrap();
    check(&mut bench, &model);
    let names: Vec<_> = disk.snapshots().unwrap().into_iter().map(|snapshot| snapshot.name).collect();
    assert_eq!(names, ["one"]);
    // What it loses does not come back.
    assert!(disk.resize(SIZE, 1000).is_err());
    disk.resize(SIZE, 8 << 20).unwrap();
    assert_eq!(disk.properties().size, 8 << 20);
    assert_eq!(run(&mut bench, Op::Read, 8 << 20, 4096), Err(libc::EIO));
    disk.resize(8 << 20, SIZE).unwrap();
    model[8 << 20..].fill(0);
    check(&mut bench, &model);
    drop(bench);
    disk.close().unwrap();
    drop(disk);
    let again = opened(&store, &path("another"), |options| options).unwrap();
    assert_eq!(again.properties().size, SIZE);
    again.check_claimed().unwrap();
    check(&mut Bench::new(again.clone(), 4, IO), &model);
    again.close().unwrap();
}
