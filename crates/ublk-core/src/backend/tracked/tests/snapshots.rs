//! Disks over a base: their snapshots are checkpoints, and what was changed since is known after a restart.

use super::load::{SIZE, THREADS, all_of, is_of_one_instant, value_of, write_on};
use super::*;
use crate::backend::{Concat, File as FileDisk, Overlay, Sink};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;

/// The parts of a diff.
#[derive(Default)]
struct Parts(Vec<(u64, Vec<u8>)>);

impl Parts {
    fn applied_to(&self, copy: &[u8]) -> Vec<u8> {
        let mut copy = copy.to_vec();
        for (offset, data) in &self.0 {
            copy[*offset as usize..][..data.len()].copy_from_slice(data);
        }
        copy
    }
}

impl Sink for Parts {
    fn begin(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.push((offset, data.to_vec()));
        Ok(())
    }

    fn aside(&self) -> io::Result<File> {
        tempfile::tempfile()
    }
}

fn base(dir: &Path) -> Arc<FileDisk> {
    let path = dir.join("base");
    if !path.exists() {
        std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
    }
    Arc::new(FileDisk::open(&path, true, false).unwrap())
}

fn overlay(dir: &Path, name: &str, read_only: bool) -> Arc<Overlay> {
    Arc::new(Overlay::in_file(base(dir), &dir.join(name), None, read_only).unwrap())
}

fn tracked_overlay(dir: &Path) -> Arc<Tracked> {
    Arc::new(Tracked::open(overlay(dir, "upper", false), &dir.join("map"), false).unwrap())
}

/// Does something with a disk while a queue serves it.
fn beside<T: Send>(bench: &mut Bench, what: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let asked = scope.spawn(what);
        while !asked.is_finished() {
            bench.turn();
            thread::yield_now();
        }
        asked.join().unwrap()
    })
}

fn write(bench: &mut Bench, offset: u64) {
    let mut done = bench.start(0, Descriptor::new(Op::Write, offset, BLOCK)).is_some();
    while !done {
        done = !bench.turn().is_empty();
    }
}

/// A snapshot that was made while queues wrote, the tick before, and a diff since.
struct Made {
    name: String,
    asked: u64,
    diff: Parts,
}

#[test]
fn a_snapshot_is_a_checkpoint_at_one_instant_for_all_queues_while_they_write() {
    let dir = tempfile::tempdir().unwrap();
    let disk = tracked_overlay(dir.path());
    let (clock, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    let (mut made, mut writes, mut orders) = (Vec::new(), Vec::new(), Vec::new());
    thread::scope(|scope| {
        let writers: Vec<_> = (0..THREADS)
            .map(|region| {
                let (disk, clock, stop) = (disk.clone(), &clock, &stop);
                scope.spawn(move || write_on(disk, region, clock, stop))
            })
            .collect();
        for number in 0..10 {
            let now = clock.load(SeqCst);
            while clock.load(SeqCst) < now + 150 {
                thread::sleep(Duration::from_millis(1));
            }
            let (name, asked) = (format!("s{number}"), clock.fetch_add(1, SeqCst));
            // The checkpoint comes first: otherwise changes between them would be in neither.
            let (is_there, layers) = (AtomicBool::new(false), AtomicUsize::new(0));
            let at_now = || {
                is_there.store(names(&disk).contains(&name), SeqCst);
                layers.store(disk.layers().len(), SeqCst);
            };
            Backend::snapshot(disk.clone(), &name, &at_now).unwrap();
            orders.push((is_there.into_inner(), layers.into_inner(), disk.layers().len()));
            made.push(Made { name, asked, diff: Parts::default() });
            // Of an earlier one, while the writes of the snapshot's instant may still be in flight.
            let at = made.len() / 2;
            let (since, mut diff) = (made[at].name.clone(), Parts::default());
            disk.diff(Some(&since), &mut diff, &|| false).unwrap();
            made[at].diff = diff;
        }
        stop.store(true, SeqCst);
        writes.extend(writers.into_iter().map(|writer| writer.join().unwrap()));
    });
    assert!(orders.into_iter().eq((1..=10).map(|layers| (true, layers, layers + 1))));
    let empty = vec![0; SIZE as usize];
    let mut bench = Bench::new(disk.clone(), 1, 1 << 16);
    let last = all_of(&mut bench);
    for Made { name, asked, diff } in made {
        let snapshot = overlay(dir.path(), &format!("upper.{name}"), true);
        let content = all_of(&mut Bench::new(snapshot, 1, 1 << 16));
        is_of_one_instant(&content, &empty, &writes);
        let changed: BTreeSet<_> = ranges(&disk, &name)
            .into_iter()
            .flat_map(|range| range.start / BLOCK..range.end / BLOCK)
            .collect();
        for block in 0..SIZE / BLOCK {
            let differs = value_of(&content, block) != value_of(&last, block);
            assert!(!differs || changed.contains(&block), "block {block} was changed since {name}");
            let mut later = writes.iter().flatten().filter(|write| write.ended > asked);
            let written = later.any(|write| write.blocks.contains(&block));
            assert!(written || !changed.contains(&block), "block {block} was not changed since {name}");
        }
        if !diff.0.is_empty() {
            is_of_one_instant(&diff.applied_to(&content), &empty, &writes);
        }
        let mut diff = Parts::default();
        beside(&mut bench, || disk.diff(Some(&name), &mut diff, &|| false)).unwrap();
        assert!(diff.applied_to(&content) == last);
    }
}

#[test]
fn what_was_changed_on_an_overlay_is_known_after_a_restart_and_a_hand_over() {
    let dir = tempfile::tempdir().unwrap();
    let served = |closes: bool, work: &dyn Fn(&mut Bench, &Arc<Tracked>)| {
        let disk = tracked_overlay(dir.path());
        let mut bench = Bench::new(disk.clone(), 4, 1 << 16);
        work(&mut bench, &disk);
        drop(bench);
        if closes {
            disk.close().unwrap();
        } else {
            disk.let_go(); // and nothing is saved
        }
    };
    let snapshot = |bench: &mut Bench, disk: &Arc<Tracked>, name: &str| {
        beside(bench, || Backend::snapshot(disk.clone(), name, &|| {})).unwrap();
    };
    served(true, &|bench, disk| {
        write(bench, 0);
        snapshot(bench, disk, "a");
        write(bench, 8 * BLOCK);
    });
    served(false, &|bench, disk| {
        assert_eq!(ranges(disk, "a"), [8 * BLOCK..9 * BLOCK]);
        write(bench, 16 * BLOCK);
    });
    served(true, &|bench, disk| {
        assert_eq!(ranges(disk, "a"), [8 * BLOCK..9 * BLOCK, 16 * BLOCK..17 * BLOCK]);
        snapshot(bench, disk, "b");
    });
    served(false, &|bench, disk| {
        assert_eq!(ranges(disk, "b"), []);
        // Nothing was written since it was served.
        let _ = bench;
    });
    // Without its map.
    let other = overlay(dir.path(), "upper", false);
    let mut bench = Bench::new(other.clone(), 1, 1 << 16);
    write(&mut bench, 24 * BLOCK);
    drop(bench);
    other.close().unwrap();
    served(true, &|bench, disk| {
        assert_eq!(known(disk), [false, false]);
        snapshot(bench, disk, "c");
    });
    // Its storage has lost data after its last request.
    let upper = std::fs::OpenOptions::new().write(true).open(dir.path().join("upper")).unwrap();
    upper.write_at(&4_u64.to_le_bytes(), 112).unwrap();
    served(true, &|_, disk| assert_eq!(known(disk), [false; 3]));
}

fn known(disk: &Tracked) -> Vec<bool> {
    disk.checkpoints().unwrap().iter().map(|checkpoint| checkpoint.known).collect()
}

#[test]
fn what_was_changed_on_a_disk_of_which_a_part_is_in_memory_is_not_known_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("data"), vec![0; MIB as usize]).unwrap();
    let open = || {
        let file = Arc::new(FileDisk::open(&dir.path().join("data"), false, false).unwrap());
        let both: Vec<Arc<dyn Backend>> = vec![file, Arc::new(Memory::new(MIB).unwrap())];
        let disk = Arc::new(Concat::new(both).unwrap());
        Arc::new(Tracked::open(disk, &dir.path().join("map"), false).unwrap())
    };
    let disk = open();
    for _ in 0..2 {
        let mut bench = Bench::new(disk.clone(), 1, 1 << 16);
        write(&mut bench, MIB);
        assert!(known(&disk).iter().all(|known| *known), "it is the same memory");
        disk.checkpoint(&format!("{}", known(&disk).len())).unwrap();
    }
    disk.close().unwrap();
    let disk = open();
    let _bench = Bench::new(disk.clone(), 1, 1 << 16);
    assert_eq!(known(&disk), [false; 2]);
}

/// What a disk does to make a snapshot.
type Make = Box<dyn Fn(&dyn Fn()) -> Result<()> + Send + Sync>;

/// A disk whose snapshots are only made up.
struct Snapped(Make);

impl Backend for Snapped {
    fn properties(&self) -> Properties {
        Properties::new(MIB)
    }

    fn places(&self) -> Vec<Place<'_>> {
        Vec::new()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        Arc::new(Memory::new(MIB)?).engine(site)
    }

    fn snapshot(self: Arc<Self>, _: &str, now: &dyn Fn()) -> Result<()> {
        self.0(now)
    }
}

fn snapped(map: &Path, make: Make) -> Arc<Tracked> {
    Arc::new(Tracked::open(Arc::new(Snapped(make)), map, false).unwrap())
}

fn names(disk: &Tracked) -> Vec<String> {
    disk.checkpoints().unwrap().into_iter().map(|checkpoint| checkpoint.name).collect()
}

#[test]
fn a_snapshot_that_fails_leaves_no_checkpoint_and_one_whose_name_is_taken_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let map = dir.path().join("map");
    let disk = snapped(&map, Box::new(|_| Err(Error::new(ErrorKind::Backend, "no room"))));
    let bench = Bench::new(disk.clone(), 1, 1 << 16);
    disk.checkpoint("monday").unwrap();
    let snapshot = |name: &str| Backend::snapshot(disk.clone(), name, &|| {}).unwrap_err().to_string();
    assert_eq!(snapshot("tuesday"), "no room");
    assert!(snapshot("monday").starts_with("there is a checkpoint monday already; "));
    disk.checkpoint("wednesday").unwrap();
    assert_eq!(names(&disk), ["monday", "wednesday"]);
    drop(bench);
    let _bench = Bench::new(disk.clone(), 1, 1 << 16);
    assert_eq!(names(&disk), ["monday", "wednesday"]);
    assert_eq!(known(&disk), [true, true]);
}

#[test]
fn a_server_that_is_killed_during_a_snapshot_leaves_both_or_a_checkpoint_that_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let [map, before, after] = ["map", "before", "after"].map(|name| dir.path().join(name));
    let disk = {
        let (from, before, after) = (map.clone(), before.clone(), after.clone());
        let make = move |now: &dyn Fn()| {
            std::fs::copy(&from, &before).unwrap();
            now();
            std::fs::copy(&from, &after).unwrap();
            Ok(())
        };
        snapped(&map, Box::new(make))
    };
    let _bench = Bench::new(disk.clone(), 1, 1 << 16);
    disk.checkpoint("one").unwrap();
    let (calls, called) = (disk.clone(), AtomicUsize::new(0));
    Backend::snapshot(disk.clone(), "two", &|| {
        assert_eq!(names(&calls), ["one", "two"]);
        called.fetch_add(1, SeqCst);
    })
    .unwrap();
    assert_eq!((known(&disk), called.load(SeqCst)), (vec![true, true], 1));
    for left in [before, after] {
        let next = snapped(&left, Box::new(|_| Ok(())));
        let _bench = Bench::new(next.clone(), 1, 1 << 16);
        assert_eq!((names(&next), known(&next)), (vec!["one".into(), "two".into()], vec![false, false]));
    }
}

#[test]
fn a_checkpoint_waits_for_the_snapshot_that_is_being_made() {
    let dir = tempfile::tempdir().unwrap();
    let (begin, begun) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel();
    let goes_on = Mutex::new(goes_on);
    let make = move |now: &dyn Fn()| {
        begin.send(()).unwrap();
        goes_on.lock().unwrap().recv().unwrap();
        now();
        Ok(())
    };
    let disk = snapped(&dir.path().join("map"), Box::new(make));
    let _bench = Bench::new(disk.clone(), 1, 1 << 16);
    disk.checkpoint("first").unwrap();
    thread::scope(|scope| {
        let snapshot = scope.spawn(|| Backend::snapshot(disk.clone(), "snapshot", &|| {}));
        begun.recv().unwrap();
        let checkpoint = scope.spawn(|| disk.checkpoint("checkpoint"));
        thread::sleep(Duration::from_millis(50));
        assert!(!checkpoint.is_finished());
        // Nobody else waits.
        assert_eq!((names(&disk), ranges(&disk, "first")), (vec!["first".into()], vec![]));
        go_on.send(()).unwrap();
        snapshot.join().unwrap().unwrap();
        checkpoint.join().unwrap().unwrap();
    });
    assert_eq!(names(&disk), ["first", "snapshot", "checkpoint"]);
}
