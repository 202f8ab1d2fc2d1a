#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges may have one")]

mod diffs;
mod load;
mod snapshots;

use super::file::Medium;
use super::*;
use crate::backend::Memory;
use crate::backend::map_file::Stamp;
use crate::backend::testing::Bench;
use crate::queue::{Descriptor, Op};
use crate::report::Reporter;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const MIB: u64 = 1 << 20;
const ATOM: usize = 512;

/// A file that loses what was not synced when the power fails, in any order and in parts of 512 bytes.
#[derive(Clone)]
struct Loose {
    cached: Vec<u8>,
    durable: Vec<u8>,
    /// Atoms that were written since the last sync: each version may be on the medium.
    versions: BTreeMap<usize, Vec<Vec<u8>>>,
}

struct Simulated {
    state: Mutex<Loose>,
    /// Calls that have an effect before the process is dead.
    alive: AtomicUsize,
    boot: u8,
}

impl Simulated {
    fn new(loose: Loose, alive: usize, boot: u8) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(loose), alive: AtomicUsize::new(alive), boot })
    }

    fn state(&self) -> MutexGuard<'_, Loose> {
        self.state.lock().unwrap()
    }

    fn dead(&self) -> bool {
        self.alive.load(SeqCst) == 0
    }

    fn step(&self) -> io::Result<()> {
        let lived = self.alive.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        lived.map(drop).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))
    }

    fn after_power_failure(&self, mut choose: impl FnMut(usize) -> usize) -> Loose {
        let state = self.state();
        let mut left = state.durable.clone();
        for (at, versions) in &state.versions {
            let chosen = choose(versions.len() + 1);
            if let Some(bytes) = chosen.checked_sub(1).map(|version| &versions[version]) {
                let end = at * ATOM + bytes.len();
                left.resize(left.len().max(end), 0);
                left[at * ATOM..end].copy_from_slice(bytes);
            }
        }
        Loose { cached: left.clone(), durable: left, versions: BTreeMap::new() }
    }
}

impl Medium for Simulated {
    fn read(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let state = self.state();
        let part = state.cached.get(at as usize..at as usize + bytes.len());
        bytes.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        assert!((at as usize).is_multiple_of(ATOM) || bytes.len() > ATOM);
        let (mut at, mut rest) = (at as usize, bytes);
        while !rest.is_empty() {
            self.step()?;
            let mut state = self.state();
            let count = rest.len().min(ATOM - at % ATOM);
            let end = (at + count).next_multiple_of(ATOM);
            let length = state.cached.len().max(end);
            state.cached.resize(length, 0);
            state.cached[at..at + count].copy_from_slice(&rest[..count]);
            let atom = at / ATOM;
            let content = state.cached[atom * ATOM..atom * ATOM + ATOM].to_vec();
            state.versions.entry(atom).or_default().push(content);
            (at, rest) = (at + count, &rest[count..]);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.step()?;
        let mut state = self.state();
        state.durable = state.cached.clone();
        state.versions.clear();
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.state().cached.len() as u64)
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.step()?;
        let mut state = self.state();
        state.cached.resize(length as usize, 0);
        // A length is no content: one that is lost refuses the map, and loses no change.
        state.durable.resize(length as usize, 0);
        state.versions.retain(|at, _| at * ATOM < length as usize);
        Ok(())
    }

    fn stamp(&self) -> io::Result<Stamp> {
        Ok(Stamp { boot: [self.boot; 36], place: 1 })
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % most
    }
}

/// A disk of 64 MiB: what each block holds, and what it held at checkpoints.
#[derive(Clone, Default)]
struct Model {
    blocks: BTreeMap<u64, u64>,
    durable: BTreeMap<u64, u64>,
    checkpoints: BTreeMap<String, BTreeMap<u64, u64>>,
    writes: u64,
}

impl Model {
    fn changed_since(&self, name: &str) -> BTreeSet<u64> {
        let then = &self.checkpoints[name];
        let all: BTreeSet<_> = then.keys().chain(self.blocks.keys()).copied().collect();
        all.into_iter().filter(|block| then.get(block) != self.blocks.get(block)).collect()
    }
}

/// Whether some of the ends in this history were clean, and their maps known.
fn history(seed: u64) -> bool {
    let mut random = Random(seed);
    let (mut model, mut known_after_end) = (Model::default(), false);
    let mut medium = Loose { cached: Vec::new(), durable: Vec::new(), versions: BTreeMap::new() };
    let (mut boot, mut content) = (1, 0);
    for round in 0..8 {
        let alive = if random.below(3) == 0 { usize::MAX } else { 1 + random.below(900) };
        let file = Simulated::new(medium.clone(), alive, boot);
        let map = ChangeMap::new(file.clone(), Path::new("/nowhere/map"));
        let found = Found { size: 64 * MIB, content, read_only: false };
        let session = Session::begin(map, &found, Reporter::new(|_| {}));
        let mut open: BTreeSet<String> = BTreeSet::new(); // checkpoints of which nobody said yet whether they are there
        let mut clean = false;
        if let Ok(session) = session {
            for (name, _) in model.checkpoints.clone() {
                let changed = session.changed(&name, 0, usize::MAX).unwrap();
                known_after_end |= changed.known;
                for block in model.changed_since(&name) {
                    let at = block * BLOCK;
                    let named = changed.ranges.iter().any(|range| range.contains(&at));
                    assert!(named, "seed {seed}, round {round}: block {block} was changed since {name}");
                }
            }
            for step in 0..random.below(12) {
                match random.below(6) {
                    0 => {
                        let name = format!("{round}-{step}");
                        match session.checkpoint(&name) {
                            Ok(()) => {
                                model.checkpoints.insert(name, model.blocks.clone());
                            }
                            Err(_) => break,
                        }
                    }
                    1 if !model.checkpoints.is_empty() => {
                        let at = random.below(model.checkpoints.len());
                        let name = model.checkpoints.keys().nth(at).unwrap().clone();
                        match session.remove(&name) {
                            Ok(()) => drop(model.checkpoints.remove(&name)),
                            Err(_) => {
                                open.insert(name);
                                break;
                            }
                        }
                    }
                    _ => {
                        let (block, count) = (random.below(16_000) as u64, 1 + random.below(200) as u64);
                        session.newest().mark(block * BLOCK + 512, count * BLOCK - 1024);
                        for block in block..block + count {
                            model.writes += 1;
                            model.blocks.insert(block, model.writes);
                        }
                        content += 1;
                    }
                }
                if file.dead() {
                    break;
                }
            }
            if !file.dead() && random.below(3) > 0 {
                let left = session.end(|| Ok(content));
                if let Some(left) = left
                    && random.below(2) == 0
                {
                    model.durable = model.blocks.clone();
                    let _ = ChangeMap::new(file.clone(), Path::new("/nowhere/map")).seal(&left);
                }
                clean = true;
            }
        }
        open.iter().for_each(|name| drop(model.checkpoints.remove(name)));
        let _ = clean;
        if random.below(2) == 0 {
            medium = file.state().clone(); // the process was killed, or has ended
        } else {
            medium = file.after_power_failure(|versions| random.below(versions));
            boot += 1;
            // Whatever was not flushed may be as it was. The file system may keep the time of the change all the same.
            for (block, written) in model.blocks.clone() {
                if random.below(2) == 0 && model.durable.get(&block) != Some(&written) {
                    match model.durable.get(&block) {
                        Some(durable) => drop(model.blocks.insert(block, *durable)),
                        None => drop(model.blocks.remove(&block)),
                    }
                }
            }
        }
    }
    known_after_end
}

#[test]
fn no_changed_block_is_missed_in_whatever_state_a_crash_leaves_the_map() {
    let rounds = if cfg!(miri) { 2 } else { 150 };
    let known = (0..rounds).filter(|seed| history(*seed)).count();
    assert!(
        cfg!(miri) || known > rounds as usize / 4,
        "{known} histories had changes that are known after an end"
    );
}

fn disk(path: &Path, size: u64) -> Arc<Tracked> {
    Arc::new(Tracked::open(Arc::new(Memory::new(size).unwrap()), path, false).unwrap())
}

fn ranges(disk: &Tracked, since: &str) -> Vec<Range<u64>> {
    let changed = disk.changed(since, 0, usize::MAX).unwrap();
    assert!(changed.known);
    changed.ranges
}

#[test]
fn what_is_written_is_named_since_each_earlier_checkpoint_and_no_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir.path().join("map"), 4 * MIB);
    let mut bench = Bench::new(disk.clone(), 4, 1 << 20);
    let mut write = |op, offset, length| {
        assert!(bench.start(0, Descriptor::new(op, offset, length)).unwrap().is_ok());
    };
    write(Op::Write, 0, 4096);
    disk.checkpoint("one").unwrap();
    assert_eq!(ranges(&disk, "one"), []);
    write(Op::Write, 8192 + 512, 512);
    write(Op::Discard, MIB, MIB);
    disk.checkpoint("two").unwrap();
    write(Op::WriteZeroes, 4095 * 512, 1024);
    write(Op::Read, 3 * MIB, MIB);
    assert_eq!(ranges(&disk, "two"), [2 * MIB - 4096..2 * MIB + 4096]);
    assert_eq!(ranges(&disk, "one"), [8192..12288, MIB..2 * MIB + 4096]);
    let first = disk.changed("one", 0, 1).unwrap();
    assert_eq!((first.ranges, first.next), (vec![8192..12288], Some(MIB)));
    let rest = disk.changed("one", MIB, 1).unwrap();
    assert_eq!((rest.ranges, rest.next), (vec![MIB..2 * MIB + 4096], None));

    disk.remove_checkpoint("two").unwrap();
    assert_eq!(ranges(&disk, "one"), [8192..12288, MIB..2 * MIB + 4096]);
    write(Op::Write, 0, 512);
    assert_eq!(ranges(&disk, "one")[0], 0..4096);
    assert_eq!(disk.changed("two", 0, 1).unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_write_in_flight_at_a_checkpoint_counts_as_changed_since() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::write(&data, vec![0; MIB as usize]).unwrap();
    let file = crate::backend::File::open(&data, false, false).unwrap();
    let disk = Arc::new(Tracked::open(Arc::new(file), &dir.path().join("map"), false).unwrap());
    let mut bench = Bench::new(disk.clone(), 4, 1 << 16);
    assert_eq!(bench.start(1, Descriptor::new(Op::Write, 65536, 4096)), None);
    disk.checkpoint("now").unwrap();
    disk.checkpoint("later").unwrap();
    while bench.turn().is_empty() {}
    assert_eq!(ranges(&disk, "now"), [65536..69632]);
    assert_eq!(ranges(&disk, "later"), [65536..69632]);
    // A queue that is left with a request in flight.
    assert_eq!(bench.start(1, Descriptor::new(Op::Write, 0, 4096)), None);
    disk.checkpoint("last").unwrap();
    drop(bench);
    let again = Bench::new(disk.clone(), 4, 1 << 16);
    assert_eq!(ranges(&disk, "last"), [0..4096]);
    drop(again);
}

#[test]
fn checkpoints_are_there_after_an_end_and_unknown_if_the_disk_was_changed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (data, map) = (dir.path().join("data"), dir.path().join("map"));
    std::fs::write(&data, vec![0; MIB as usize]).unwrap();
    let open = || {
        let file = crate::backend::File::open(&data, false, false).unwrap();
        Arc::new(Tracked::open(Arc::new(file), &map, false).unwrap())
    };
    let served = |work: &dyn Fn(&mut Bench, &Tracked)| {
        let disk = open();
        let mut bench = Bench::new(disk.clone(), 4, 1 << 16);
        work(&mut bench, &disk);
        drop(bench);
        disk.close().unwrap();
    };
    let write = |bench: &mut Bench, offset| {
        assert_eq!(bench.start(0, Descriptor::new(Op::Write, offset, 4096)), None);
        while bench.turn().is_empty() {}
    };
    served(&|bench, disk| {
        disk.checkpoint("a").unwrap();
        write(bench, 8192);
        disk.checkpoint("b").unwrap();
    });
    served(&|bench, disk| {
        assert_eq!(ranges(disk, "a"), [8192..12288]);
        write(bench, 0);
        disk.checkpoint("c").unwrap();
    });
    served(&|_, disk| {
        assert_eq!((ranges(disk, "a"), ranges(disk, "b")), (vec![0..4096, 8192..12288], vec![0..4096]));
        assert_eq!(disk.checkpoints().unwrap().len(), 3);
        assert!(ranges(disk, "c").is_empty());
    });
    std::thread::sleep(Duration::from_millis(20)); // the clock of file systems is coarse
    std::fs::OpenOptions::new().write(true).open(&data).unwrap().write_at(b"x", 5).unwrap();
    served(&|_, disk| {
        let changed = disk.changed("c", 0, 9).unwrap();
        assert_eq!((changed.known, changed.ranges), (false, vec![0..MIB]));
        disk.checkpoint("d").unwrap();
        assert!(ranges(disk, "d").is_empty());
        let known: Vec<_> = disk.checkpoints().unwrap().iter().map(|point| point.known).collect();
        assert_eq!(known, [false, false, false, true]);
    });
}

#[test]
fn what_is_added_to_a_disk_counts_as_changed() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir.path().join("map"), 4 * MIB);
    let mut bench = Bench::new(disk.clone(), 4, 1 << 16);
    disk.checkpoint("small").unwrap();
    disk.resize(4 * MIB, 512 * MIB).unwrap();
    assert!(bench.start(0, Descriptor::new(Op::Write, 0, 4096)).unwrap().is_ok());
    assert_eq!(ranges(&disk, "small"), [0..4096, 4 * MIB..512 * MIB]);
    disk.checkpoint("large").unwrap();
    assert!(bench.start(0, Descriptor::new(Op::Write, 511 * MIB, 4096)).unwrap().is_ok());
    disk.remove_checkpoint("large").unwrap();
    assert!(bench.start(0, Descriptor::new(Op::Write, 510 * MIB, 4096)).unwrap().is_ok());
    disk.resize(512 * MIB, 2 * MIB).unwrap();
    assert_eq!(ranges(&disk, "small"), [0..4096]);
    drop(bench);
    let bench = Bench::new(disk.clone(), 4, 1 << 16);
    assert_eq!(ranges(&disk, "small"), [0..4096]);
    disk.resize(2 * MIB, 3 * MIB).unwrap();
    assert_eq!(ranges(&disk, "small"), [0..4096, 2 * MIB..3 * MIB]);
    drop(bench);
}

#[test]
fn a_map_that_does_not_fit_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("map");
    drop(Bench::new(disk(&map, 4 * MIB), 4, 1 << 16));
    let whole = std::fs::read(&map).unwrap();
    let refused = |bytes: &[u8], size, what: &str| {
        std::fs::write(&map, bytes).unwrap();
        let disk = Arc::new(Memory::new(size).unwrap());
        let error = Tracked::open(disk, &map, false).err().unwrap().to_string();
        assert!(error.contains(what) && !error.contains('\n'), "{error}");
        assert_eq!(std::fs::read(&map).unwrap(), bytes);
    };
    refused(&whole, 8 * MIB, "is of a disk of 4194304 bytes, and this one has 8388608");
    refused(&whole[..100], 4 * MIB, "was truncated");
    refused(&whole[..8192], 4 * MIB, "was truncated");
    refused(b"something else that is longer than a header, or is not", 4 * MIB, "was truncated");
    refused(&[7; 8192], 4 * MIB, "is no change map");
    let mut newer = whole.clone();
    newer[16] = 2;
    refused(&newer, 4 * MIB, "has version 2, and this ublk-ts knows version 1");
}

#[test]
fn names_that_are_taken_wrong_or_too_many_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let disk = disk(&dir.path().join("map"), MIB);
    assert_eq!(disk.checkpoint("early").unwrap_err().kind, ErrorKind::Closed);
    let bench = Bench::new(disk.clone(), 1, 1 << 16);
    let refused = |name: &str| disk.checkpoint(name).unwrap_err().kind;
    assert_eq!([refused(""), refused("a\nb"), refused(&"x".repeat(256))], [ErrorKind::Invalid; 3]);
    for number in 0..128 {
        disk.checkpoint(&format!("{number}{}", "ü".repeat(125))).unwrap();
    }
    assert_eq!(refused("more"), ErrorKind::Limit);
    assert_eq!(refused(&format!("7{}", "ü".repeat(125))), ErrorKind::Exists);
    drop(bench);
    let bench = Bench::new(disk.clone(), 1, 1 << 16);
    assert_eq!(disk.checkpoints().unwrap().len(), 128);
    drop(bench);
    let read_only =
        Arc::new(Tracked::open(Arc::new(Memory::new(MIB).unwrap()), &dir.path().join("map"), true).unwrap());
    let _bench = Bench::new(read_only.clone(), 1, 1 << 16);
    assert_eq!(read_only.checkpoint("x").unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(read_only.checkpoints().unwrap().len(), 128);
}
