#![allow(clippy::unwrap_used, reason = "tests")]

use super::map::{Map, Medium};
use super::{Mirror, SideInfo};
use crate::backend::testing::Bench;
use crate::backend::{
    Backend, Below, Completion, Engine, File, Io, Memory, Piece, Properties, Readable, Site, Step, Storage,
};
use crate::claim::Place;
use crate::error::Result;
use crate::queue::{CopyMode, Descriptor, Op, Outcome};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SIZE: u64 = 8 << 20;
const PART: u64 = 1 << 20;

/// A disk whose writes, or reads, fail while it is told so.
struct Failing {
    disk: Arc<dyn Backend>,
    writes: AtomicBool,
    reads: AtomicBool,
}

impl Failing {
    fn new(disk: Arc<dyn Backend>) -> Arc<Self> {
        Arc::new(Self { disk, writes: AtomicBool::new(false), reads: AtomicBool::new(false) })
    }
}

impl Backend for Failing {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }
    fn copy_modes(&self) -> Vec<CopyMode> {
        vec![CopyMode::Copy]
    }
    fn places(&self) -> Vec<Place<'_>> {
        self.disk.places()
    }
    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let below = site.below(self.disk.clone())?;
        Ok(Box::new(FailingEngine { disk: self, below }))
    }
}

struct FailingEngine {
    disk: Arc<Failing>,
    below: Below,
}

impl Engine for FailingEngine {
    fn start(&mut self, io: &mut Io<'_>, piece: Piece) -> Step {
        match piece.op {
            Op::Write if self.disk.writes.load(SeqCst) => Step::Done(Err(libc::ENOSPC)),
            Op::Read if self.disk.reads.load(SeqCst) => Step::Done(Err(libc::EIO)),
            _ => self.below.pass(io, piece),
        }
    }
    fn resume(&mut self, io: &mut Io<'_>, completion: Completion) -> Step {
        self.below.pass_on(io, completion)
    }
}

fn answer(bench: &mut Bench, what: Descriptor) -> Outcome {
    if let Some(outcome) = bench.start(0, what) {
        bench.turn(); // as a queue does between requests, though none waits: a resync asks it for answers
        return outcome;
    }
    loop {
        if let Some((_, outcome)) = bench.turn().pop() {
            return outcome;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn write(bench: &mut Bench, offset: u64, byte: u8, length: usize) -> Outcome {
    bench.buffer(0)[..length].fill(byte);
    answer(bench, Descriptor::new(Op::Write, offset, length as u64))
}

/// Serves until something is so.
fn until(bench: &mut Bench, what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        bench.turn();
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn all_current(mirror: &Mirror) -> bool {
    mirror.sides().iter().all(|side: &SideInfo| side.current)
}

fn bytes(disk: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    disk.load(0, &mut bytes).unwrap();
    bytes
}

/// The same numbers in every run.
fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_side_is_filled_while_the_disk_is_written_and_all_end_with_the_same_bytes() {
    for seed in 1..6 {
        let sides = [0, 1, 2].map(|_| Arc::new(Memory::new(SIZE).unwrap()));
        let mut number = numbers(seed);
        for at in (0..SIZE).step_by(4096) {
            sides[0].store(at, &[number(256) as u8; 4096]).unwrap();
        }
        let mut model = bytes(&sides[0]);
        let disks = sides.iter().map(|side| side.clone() as Arc<dyn Backend>).collect();
        let mirror = Arc::new(Mirror::new(disks, None, false).unwrap());
        let mut bench = Bench::new(mirror.clone(), 4, 64 << 10);
        let (mut writes, began) = (0, Instant::now());
        while writes < 200 || !all_current(&mirror) {
            assert!(began.elapsed() < Duration::from_secs(60), "seed {seed}: {:?}", mirror.sides());
            let length = ((1 + number(16)) * 4096) as usize;
            let offset = number(SIZE / 4096 - 16) * 4096;
            let byte = number(256) as u8;
            assert_eq!(write(&mut bench, offset, byte, length), Ok(length as u32));
            model[offset as usize..offset as usize + length].fill(byte);
            let outcome = answer(&mut bench, Descriptor::new(Op::Read, offset, 4096));
            assert_eq!((outcome, bench.buffer(0)[0]), (Ok(4096), byte));
            writes += 1;
        }
        drop(bench);
        for side in &sides {
            assert!(bytes(side) == model, "seed {seed}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_side_that_fails_is_dropped_and_gets_what_it_missed() {
    let memories = [0, 1].map(|_| Arc::new(Memory::new(SIZE).unwrap()));
    let second = Failing::new(memories[1].clone());
    let mirror = Arc::new(Mirror::new(vec![memories[0].clone(), second.clone()], None, false).unwrap());
    let mut bench = Bench::new(mirror.clone(), 4, 64 << 10);
    until(&mut bench, "they are equal", || all_current(&mirror));
    second.writes.store(true, SeqCst);
    assert_eq!(write(&mut bench, 0, 7, 4096), Ok(4096));
    assert_eq!(mirror.sides().iter().map(|side| side.current).collect::<Vec<_>>(), [true, false]);
    assert_eq!(write(&mut bench, PART, 8, 4096), Ok(4096));
    assert_eq!(memories[1].byte(0), 0);
    second.writes.store(false, SeqCst);
    std::thread::scope(|scope| {
        let resync = scope.spawn(|| mirror.resync(None, &|| false));
        until(&mut bench, "it is brought back", || resync.is_finished());
        resync.join().unwrap().unwrap();
    });
    assert!(all_current(&mirror));
    assert!(bytes(&memories[0]) == bytes(&memories[1]));
    // The last one that has all is never dropped.
    second.writes.store(true, SeqCst);
    assert_eq!(write(&mut bench, 0, 9, 4096), Ok(4096));
    assert!(mirror.resync(None, &|| true).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn what_a_side_cannot_read_comes_from_another() {
    let memories = [0, 1].map(|_| Arc::new(Memory::new(SIZE).unwrap()));
    memories[0].store(0, &[5; 4096]).unwrap();
    let first = Failing::new(memories[0].clone());
    let mirror = Arc::new(Mirror::new(vec![first.clone(), memories[1].clone()], None, false).unwrap());
    let mut bench = Bench::new(mirror.clone(), 4, 64 << 10);
    until(&mut bench, "they are equal", || all_current(&mirror));
    first.reads.store(true, SeqCst);
    for _ in 0..3 {
        let outcome = answer(&mut bench, Descriptor::new(Op::Read, 0, 4096));
        assert_eq!((outcome, bench.buffer(0)[0]), (Ok(4096), 5));
    }
    assert!(all_current(&mirror), "a few errors do not cost it");
    for _ in 0..20 {
        assert_eq!(answer(&mut bench, Descriptor::new(Op::Read, 0, 4096)), Ok(4096));
    }
    until(&mut bench, "it is dropped", || !mirror.sides()[0].current);
}

/// Files of a mirror in a directory, as they are at a moment: what a kill leaves.
fn killed(dir: &Path) {
    let (copy, away) = (dir.with_extension("copy"), dir.with_extension("away"));
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    std::fs::rename(dir, &away).unwrap();
    std::fs::rename(&copy, dir).unwrap();
}

/// Whether the map in that directory names both sides as current: a side is current a moment before.
fn is_noted(dir: &Path) -> bool {
    let names = [dir.join("a"), dir.join("b")].map(|path| path.to_string_lossy().into_owned());
    let map = Box::new(std::fs::File::open(dir.join("map")).unwrap());
    Map::load(map, "map", SIZE, &names).is_ok_and(|map| map.header().current == 3)
}

fn open(dir: &Path) -> Result<Arc<Mirror>> {
    let side =
        |name: &str| -> Arc<dyn Backend> { Arc::new(File::open(&dir.join(name), false, false).unwrap()) };
    Mirror::new(vec![side("a"), side("b")], Some(&dir.join("map")), false).map(Arc::new)
}

fn mirror_in(dir: &Path) -> Arc<Mirror> {
    std::fs::create_dir(dir).unwrap();
    for name in ["a", "b"] {
        std::fs::File::create(dir.join(name)).unwrap().set_len(SIZE).unwrap();
    }
    open(dir).unwrap()
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn after_a_kill_only_what_was_written_lately_is_copied() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("mirror");
    let mirror = mirror_in(&dir);
    let mut bench = Bench::new(mirror.clone(), 4, 64 << 10);
    until(&mut bench, "they are equal", || all_current(&mirror) && is_noted(&dir));
    assert_eq!(write(&mut bench, 3 * PART, 7, 4096), Ok(4096));
    killed(&dir);
    drop((bench, mirror));
    // As if the write had not come to one side. The other part is none that was written: only a look shows that it is not copied.
    let b = std::fs::File::options().write(true).open(dir.join("b")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&b, &[1; 4096], 3 * PART).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&b, &[2; 4096], 5 * PART).unwrap();
    let mirror = open(&dir).unwrap();
    let mut bench = Bench::new(mirror.clone(), 4, 64 << 10);
    until(&mut bench, "they are equal", || all_current(&mirror));
    let b = std::fs::read(dir.join("b")).unwrap();
    assert_eq!((b[3 << 20], b[5 << 20]), (7, 2));
    // A server that ends leaves nothing to be copied.
    drop(bench);
    mirror.close().unwrap();
    let map = std::fs::File::open(dir.join("map")).unwrap();
    let names = [dir.join("a"), dir.join("b")].map(|path| path.to_string_lossy().into_owned());
    let map = Map::load(Box::new(map), "map", SIZE, &names).unwrap();
    assert_eq!((map.bits.count(), map.header().current), (0, 3));
}

#[test]
#[cfg_attr(miri, ignore = "needs io_uring")]
fn a_side_that_was_dropped_is_not_read_by_the_next_server() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("mirror");
    drop(mirror_in(&dir));
    let first = Failing::new(Arc::new(File::open(&dir.join("a"), false, false).unwrap()));
    let second = Arc::new(File::open(&dir.join("b"), false, false).unwrap());
    let mirror = Mirror::new(vec![first.clone(), second], Some(&dir.join("map")), false);
    let mirror = Arc::new(mirror.unwrap());
    let mut bench = Bench::new(mirror.clone(), 4, 64 << 10);
    until(&mut bench, "they are equal", || all_current(&mirror) && is_noted(&dir));
    first.writes.store(true, SeqCst);
    assert_eq!(write(&mut bench, PART, 7, 4096), Ok(4096));
    killed(&dir);
    drop((bench, mirror));
    let mirror = open(&dir).unwrap();
    let mut bench = Bench::new(mirror.clone(), 4, 64 << 10);
    assert!(!mirror.sides()[0].current || std::fs::read(dir.join("a")).unwrap()[1 << 20] == 7);
    let outcome = answer(&mut bench, Descriptor::new(Op::Read, PART, 4096));
    assert_eq!((outcome, bench.buffer(0)[0]), (Ok(4096), 7));
    until(&mut bench, "it is filled", || all_current(&mirror));
    assert_eq!(std::fs::read(dir.join("a")).unwrap()[1 << 20], 7);
}

#[test]
fn what_does_not_fit_is_refused_in_a_line() {
    let memory = |size| -> Arc<dyn Backend> { Arc::new(Memory::new(size).unwrap()) };
    let refused = |disks, map: Option<&Path>| Mirror::new(disks, map, false).err().unwrap().message;
    assert_eq!(refused(vec![memory(SIZE)], None), "a mirror of 1 disks is not possible");
    assert_eq!(
        refused(vec![memory(SIZE), memory(PART)], None),
        "the mirror's disks have different sizes: 8388608 bytes, and 1048576 for number 2"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    let file = || -> Arc<dyn Backend> { Arc::new(File::open(&path, false, false).unwrap()) };
    assert_eq!(
        refused(vec![memory(SIZE), file()], None),
        "a mirror of disks that outlive their server needs a map"
    );
    assert!(
        refused(vec![file(), file()], None).starts_with("disks 1 and 2 of the mirror have the same bytes")
    );
}

/// A medium that loses power: what was not synced is there or not, sector by sector.
#[derive(Clone, Default)]
struct Fragile(Arc<Mutex<Content>>);

#[derive(Default)]
struct Content {
    durable: BTreeMap<u64, [u8; 512]>,
    /// In their order.
    pending: Vec<(u64, [u8; 512])>,
    length: u64,
    /// How many operations are left before the power fails.
    left: Option<usize>,
}

impl Content {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Medium for Fragile {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let content = self.0.lock().unwrap();
        for (index, sector) in bytes.chunks_mut(512).enumerate() {
            let number = at / 512 + index as u64;
            let pending = content.pending.iter().rev().find(|(at, _)| *at == number).map(|(_, data)| data);
            let data = pending.or(content.durable.get(&number)).copied().unwrap_or([0; 512]);
            sector.copy_from_slice(&data[..sector.len()]);
        }
        Ok(())
    }
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.step()?;
        for (index, sector) in bytes.chunks(512).enumerate() {
            content.pending.push((at / 512 + index as u64, sector.try_into().unwrap()));
        }
        content.length = content.length.max(at + bytes.len() as u64);
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.step()?;
        let pending = std::mem::take(&mut content.pending);
        content.durable.extend(pending);
        Ok(())
    }
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().length)
    }
    fn set_length(&self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap().length = length;
        Ok(())
    }
}

impl Fragile {
    /// What is there after the power has failed: of what was not synced, what `survives` says.
    fn after_power_failure(&self, mut survives: impl FnMut() -> bool) -> Self {
        let content = self.0.lock().unwrap();
        let mut durable = content.durable.clone();
        durable.extend(content.pending.iter().filter(|_| survives()).copied());
        Self(Arc::new(Mutex::new(Content { durable, length: content.length, ..Content::default() })))
    }
}

/// What a map promised before the power failed, whatever was lost: at every operation of the medium.
#[test]
fn a_map_keeps_its_promises_over_power_failures_at_every_step() {
    let names = ["a".to_owned(), "b".to_owned()];
    let size = 5000 * PART; // more than one sector of bits
    for steps in 0..60 {
        for seed in 1..5 {
            let (medium, mut number) = (Fragile::default(), numbers(seed * 7919 + steps));
            medium.0.lock().unwrap().left = Some(steps as usize);
            // What must be there: the bits that were set and not cleared, and which sides may be current.
            let (mut promised, mut sides) = (Vec::new(), None);
            let mut run = || -> Result<()> {
                let mut map = Map::load(Box::new(medium.clone()), "map", size, &names)?;
                sides = Some(vec![1, 3]);
                map.set_sides(3, 0)?;
                sides = Some(vec![3]);
                for _ in 0..4 {
                    let part = number(5000);
                    map.set(&[part..part + 1, 10..12])?;
                    promised.extend([part, 10, 11]);
                    let part = promised[number(promised.len() as u64) as usize];
                    let kept = crate::backend::bits::Bits::new(4096).unwrap();
                    promised.iter().filter(|bit| **bit != part).for_each(|bit| kept.set(*bit));
                    promised.retain(|bit| *bit != part); // from here on it may be gone
                    map.keep(&kept)?;
                }
                sides = Some(vec![1, 3]);
                map.set_sides(1, 0)?;
                sides = Some(vec![1]);
                Ok(())
            };
            let _ = run();
            let left = medium.after_power_failure(|| number(2) == 0);
            let found = Map::load(Box::new(left), "map", size, &names).unwrap();
            for bit in promised {
                assert!(found.bits.has(bit), "step {steps}, seed {seed}: part {bit} is forgotten");
            }
            let current = found.header().current;
            let allowed = sides.unwrap_or_else(|| vec![1]);
            assert!(allowed.contains(&current), "step {steps}, seed {seed}: {current} is current");
        }
    }
}

#[test]
fn a_map_of_other_disks_is_refused_and_so_is_a_damaged_one() {
    let (medium, names) = (Fragile::default(), ["a".to_owned(), "b".to_owned()]);
    drop(Map::load(Box::new(medium.clone()), "map", SIZE, &names).unwrap());
    let other = ["b".to_owned(), "a".to_owned()];
    let refused = |size, names: &[String]| {
        Map::load(Box::new(medium.clone()), "map", size, names).err().unwrap().message
    };
    assert_eq!(refused(SIZE, &other), "the map map is of a mirror of other disks, or in another order");
    assert_eq!(refused(2 * SIZE, &names), "the map map is of a mirror of other disks, or in another order");
    medium.write(&[7; 512], 0).unwrap();
    medium.write(&[7; 512], 4096).unwrap();
    assert_eq!(refused(SIZE, &names), "map is no map of a mirror, or damaged");
}
