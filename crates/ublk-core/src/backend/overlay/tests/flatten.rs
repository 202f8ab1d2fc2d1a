//! Flattened disks against arrays of bytes, with writes meanwhile.

use super::snapshots::{beside, queues, snapshot};
use super::*;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

fn flatten(disk: &Arc<Overlay>) -> Result<()> {
    Backend::flatten(disk.clone(), None, &|| false)
}

/// A base that counts its engines' reads, and fails from one of them on.
struct Counting {
    disk: Arc<dyn Backend>,
    left: Arc<AtomicUsize>,
}

impl Backend for Counting {
    fn properties(&self) -> Properties {
        self.disk.properties()
    }

    fn places(&self) -> Vec<Place<'_>> {
        self.disk.places()
    }

    fn engine(self: Arc<Self>, site: &mut Site) -> Result<Box<dyn Engine>> {
        let disk = site.below(self.disk.clone())?;
        Ok(Box::new(CountingEngine { disk, left: self.left.clone() }))
    }
}

struct CountingEngine {
    disk: crate::backend::Below,
    left: Arc<AtomicUsize>,
}

impl Engine for CountingEngine {
    fn start(&mut self, io: &mut crate::queue::Io<'_>, piece: crate::queue::Piece) -> crate::queue::Step {
        if self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_err() {
            return crate::queue::Step::Done(Err(libc::EIO));
        }
        self.disk.pass(io, piece)
    }

    fn resume(
        &mut self,
        io: &mut crate::queue::Io<'_>,
        completion: crate::queue::Completion,
    ) -> crate::queue::Step {
        self.disk.pass_on(io, completion)
    }
}

/// What a disk has, by sectors of one byte each.
pub fn content(bench: &mut Bench, sectors: u64) -> Vec<u8> {
    (0..sectors)
        .step_by(64)
        .flat_map(|sector| read(bench, sector, 64.min(sectors - sector)))
        .step_by(SECTOR as usize)
        .collect()
}

/// A base of several parts, of which some are zeroes.
fn large_base(dir: &tempfile::TempDir, sectors: u64) -> (PathBuf, Vec<u8>) {
    let path = dir.path().join("base");
    let values: Vec<u8> =
        (0..sectors).map(|sector| if sector / 100 % 3 == 1 { 0 } else { pattern(sector) }).collect();
    let bytes: Vec<u8> = values.iter().flat_map(|value| [*value; SECTOR as usize]).collect();
    std::fs::write(&path, bytes).unwrap();
    (path, values)
}

/// Two queues write at random while a third thread flattens: what they write stays, and nothing else changes.
#[test]
fn what_is_written_while_a_disk_is_flattened_stays() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let sectors = 16 << 10; // 8 MiB
    let (base, mut model) = large_base(&dir, sectors);
    let path = dir.path().join("upper");
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    write(&mut benches[0], 1000, 100, 1).unwrap();
    model[1000..1100].fill(1);
    snapshot(&disk, &mut benches, "one").unwrap();
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let mut writes = 0;
    std::thread::scope(|scope| {
        let flattening = scope.spawn(|| flatten(&disk));
        while !flattening.is_finished() {
            let (sector, length, fill) = (next(sectors - 16), 1 + next(16), next(256) as u8);
            let op = [Op::Write, Op::Write, Op::Write, Op::Discard, Op::WriteZeroes][next(5) as usize];
            let range = sector as usize..(sector + length) as usize;
            let bench = next(2) as usize;
            benches[bench].buffer(0)[..(length * SECTOR) as usize].fill(fill);
            let mut outcome = benches[bench].start(0, Descriptor::new(op, sector * SECTOR, length * SECTOR));
            // The other queue is asked for its part in the flatten, too.
            while outcome.is_none() {
                assert!(benches[1 - bench].turn().is_empty());
                outcome = benches[bench].turn().pop().map(|(_, outcome)| outcome);
            }
            assert!(outcome.unwrap().is_ok());
            model[range].fill(if op == Op::Write { fill } else { 0 });
            writes += 1;
        }
        flattening.join().unwrap().unwrap();
    });
    assert!(writes > 10, "{writes} writes");
    assert_eq!(content(&mut benches[0], sectors), model);
    assert_eq!(Backend::layers(&*disk).len(), 1);
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    // Neither the base nor the snapshot is needed.
    std::fs::remove_file(&base).unwrap();
    std::fs::remove_file(dir.path().join("upper.one")).unwrap();
    let nothing = Overlay::nothing_below(&path).unwrap().expect("it stands alone");
    let disk = Arc::new(Overlay::in_file(nothing, &path, None, false).unwrap());
    assert!(disk.places().iter().all(|place| place.path == path));
    assert_eq!(content(&mut Bench::new(disk.clone(), 1, MAX_IO), sectors), model);
    // Its zeroes take up no space.
    let found = std::fs::metadata(&path).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&found);
    let zeroes = model.chunks(8).filter(|block| block.iter().all(|value| *value == 0)).count() as u64;
    assert!(
        blocks < sectors - zeroes * 8 / 2 + 200,
        "{blocks} of {sectors} sectors, {zeroes} blocks of zeroes"
    );
}

/// A write that was begun before a part is copied is waited for, and one that comes while it is copied waits.
#[test]
fn a_write_and_the_copy_of_its_part_wait_for_each_other() {
    let dir = tempfile::tempdir().unwrap();
    base_file(&dir, 64);
    let (disk, waiting) = waiting_overlay(&dir);
    let mut bench = Bench::new(disk.clone(), 3, MAX_IO);
    for tag in [0, 1] {
        bench.buffer(tag)[..4096].fill(tag as u8 + 1);
    }
    let write = |sector: u64| Descriptor::new(Op::Write, sector * SECTOR, 4096);
    assert_eq!(bench.start(0, write(0)), None);
    std::thread::scope(|scope| {
        let flattening = scope.spawn(|| flatten(&disk));
        while !disk.queues.holds() {
            assert!(bench.turn().is_empty());
        }
        assert_eq!(bench.start(1, write(16)), None);
        for _ in 0..100 {
            assert!(bench.turn().is_empty());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!flattening.is_finished());
        assert_eq!(waiting.lock().unwrap().len(), 1, "the second write is held");
        // A read is not.
        assert_eq!(read_with(&mut bench, 2, 32), pattern(32));
        go_on(&waiting, 0);
        assert_eq!(outcome(&mut bench), Ok(4096));
        while waiting.lock().unwrap().is_empty() {
            assert!(bench.turn().is_empty());
        }
        go_on(&waiting, 0);
        assert_eq!(outcome(&mut bench), Ok(4096));
        while !flattening.is_finished() {
            assert!(bench.turn().is_empty());
        }
        flattening.join().unwrap().unwrap();
    });
    for (sector, expected) in [(0, 1), (7, 1), (8, pattern(8)), (16, 2), (23, 2), (24, pattern(24))] {
        assert_eq!(disk.find(sector * SECTOR, SECTOR), (1, SECTOR));
        let mut data = [0; 512];
        disk.layers.written().kept.as_ref().unwrap().upper.read(sector * SECTOR, &mut data).unwrap();
        assert_eq!(data, [expected; 512], "sector {sector}");
    }
}

/// After holds that took too long, the next one still waits for all writes that began before it.
#[test]
fn a_hold_of_changes_waits_for_the_writes_that_began_after_holds_that_timed_out() {
    let dir = tempfile::tempdir().unwrap();
    base_file(&dir, 64);
    let (disk, waiting) = waiting_overlay(&dir);
    let mut bench = Bench::new(disk.clone(), 3, MAX_IO);
    let write = |sector: u64| Descriptor::new(Op::Write, sector * SECTOR, 4096);
    let hold = |bench: &mut Bench, patience| {
        std::thread::scope(|scope| {
            let holding = scope.spawn(|| disk.queues.hold_changes(&(0..64 * SECTOR), patience));
            while !holding.is_finished() {
                assert!(bench.turn().is_empty());
            }
            disk.queues.go_on();
            holding.join().unwrap()
        })
    };
    let short = Duration::from_millis(20);
    let expected = "the writes in flight do not end";
    assert_eq!(bench.start(0, write(0)), None);
    assert_eq!(refused(hold(&mut bench, short)), expected);
    assert_eq!(bench.start(1, write(16)), None);
    assert_eq!(refused(hold(&mut bench, short)), expected);
    assert_eq!(bench.start(2, write(32)), None);
    go_on(&waiting, 0);
    assert_eq!(outcome(&mut bench), Ok(4096));
    assert_eq!(refused(hold(&mut bench, short)), expected, "two writes from before are in flight");
    go_on(&waiting, 0);
    assert_eq!(outcome(&mut bench), Ok(4096));
    assert_eq!(refused(hold(&mut bench, short)), expected, "one write from before is in flight");
    go_on(&waiting, 0);
    assert_eq!(outcome(&mut bench), Ok(4096));
    hold(&mut bench, Duration::from_secs(10)).unwrap();
}

/// Another server throws away what was written, or flattens the disk, before the first one takes it back.
#[test]
fn a_disk_that_is_taken_back_has_what_another_server_has_made_of_it() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, mut model) = large_base(&dir, 256);
    let path = dir.path().join("upper");
    let made = || Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let (first, size) = (made(), 256 * SECTOR);
    let mut benches = queues(&first);
    write(&mut benches[0], 0, 8, 1).unwrap();
    snapshot(&first, &mut benches, "one").unwrap();
    model[..8].fill(1);
    write(&mut benches[0], 4, 100, 2).unwrap();
    beside(&mut benches, || first.let_go());
    {
        let second = made();
        let mut others = queues(&second);
        beside(&mut others, || second.reset()).unwrap();
        beside(&mut others, || second.close()).unwrap();
    }
    first.take_back(size).unwrap();
    assert_eq!(content(&mut benches[0], 256), model);
    // A new write counts, for the next server, too.
    write(&mut benches[0], 4, 8, 3).unwrap();
    model[4..12].fill(3);
    beside(&mut benches, || first.let_go());
    {
        let second = made();
        let mut others = queues(&second);
        assert_eq!(content(&mut others[0], 256), model);
        beside(&mut others, || flatten(&second)).unwrap();
        beside(&mut others, || second.close()).unwrap();
    }
    first.take_back(size).unwrap();
    std::fs::remove_file(&base).unwrap();
    assert_eq!(content(&mut benches[0], 256), model);
    assert_eq!(Backend::layers(&*first).len(), 1);
    beside(&mut benches, || first.close()).unwrap();
    // What is in memory nobody else has.
    let memory = Arc::new(Overlay::in_memory(Arc::new(Memory::new(size).unwrap()), None).unwrap());
    let mut benches = queues(&memory);
    write(&mut benches[0], 0, 8, 5).unwrap();
    beside(&mut benches, || memory.let_go());
    memory.take_back(size).unwrap();
    assert_eq!(read(&mut benches[1], 0, 8), [5; 4096]);
}

/// The first byte of a sector, read with that tag.
fn read_with(bench: &mut Bench, tag: u16, sector: u64) -> u8 {
    let mut done = bench.start(tag, Descriptor::new(Op::Read, sector * SECTOR, SECTOR));
    while done.is_none() {
        done = bench.turn().pop().map(|(_, outcome)| outcome);
    }
    assert_eq!(done, Some(Ok(SECTOR as u32)));
    bench.buffer(tag)[0]
}

/// At any moment the disk has its content, for this server and the next one, and the base is needed until the end.
#[test]
fn a_flatten_that_fails_or_is_killed_loses_nothing_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let sectors = 8 << 10; // 4 MiB
    let (base, mut model) = large_base(&dir, sectors);
    let path = dir.path().join("upper");
    let left = Arc::new(AtomicUsize::new(usize::MAX));
    let made = || {
        let disk = Arc::new(Counting { disk: open(&base), left: left.clone() });
        Arc::new(Overlay::in_file(disk, &path, None, false).unwrap())
    };
    let mut disk = made();
    let mut benches = queues(&disk);
    write(&mut benches[0], 100, 50, 9).unwrap();
    model[100..150].fill(9);
    let mut rounds = 0;
    loop {
        // A request has 64 KiB: this lets little more than a quarter of the base be read.
        left.store(24, SeqCst);
        let flattened = beside(&mut benches, || flatten(&disk));
        left.store(usize::MAX, SeqCst);
        assert_eq!(content(&mut benches[1], sectors), model);
        if flattened.is_ok() {
            break;
        }
        let message = refused(flattened);
        assert_eq!(
            message,
            format!("cannot copy all that lies below the upper {}: I/O error (EIO)", path.display())
        );
        assert!(Overlay::nothing_below(&path).unwrap().is_none(), "the base is still needed");
        let sector = 3000 + rounds * 100;
        write(&mut benches[1], sector, 10, 7).unwrap();
        model[sector as usize..sector as usize + 10].fill(7);
        rounds += 1;
        assert!(rounds < 8, "it does not go on where it was");
        // Killed: nothing is closed.
        drop(benches);
        drop(disk);
        disk = made();
        benches = queues(&disk);
        assert_eq!(content(&mut benches[0], sectors), model);
    }
    assert!(rounds >= 2, "{rounds} rounds");
    assert!(Overlay::nothing_below(&path).unwrap().is_some());
    // The base is not read any more: it fails.
    left.store(0, SeqCst);
    assert_eq!(content(&mut benches[0], sectors), model);
    // Nor is it when the disk is handed over.
    beside(&mut benches, || disk.let_go());
    std::fs::remove_file(&base).unwrap();
    disk.take_back(sectors * SECTOR).unwrap();
    assert_eq!(content(&mut benches[0], sectors), model);
}

#[test]
fn a_flat_disk_has_snapshots_forks_and_sizes_like_any_other() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, model) = large_base(&dir, 256);
    let path = dir.path().join("upper");
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    beside(&mut benches, || flatten(&disk)).unwrap();
    // Once more does nothing.
    beside(&mut benches, || flatten(&disk)).unwrap();
    let message = refused(beside(&mut benches, || disk.reset()));
    assert_eq!(message, "the disk was flattened: it has no base to go back to");
    std::fs::remove_file(&base).unwrap();
    // It was made over no snapshot.
    beside(&mut benches, || disk.let_go());
    let nothing = Arc::new(Nothing { block_size: 512 });
    let message = refused(Overlay::over_snapshot(nothing, &base, &path, None, false));
    assert!(message.ends_with(&format!("was not made over the snapshot {}", base.display())), "{message}");
    disk.take_back(256 * SECTOR).unwrap();
    snapshot(&disk, &mut benches, "flat").unwrap();
    write(&mut benches[0], 0, 8, 3).unwrap();
    beside(&mut benches, || disk.reset()).unwrap();
    assert_eq!(content(&mut benches[0], 256), model);
    // It grows with zeroes, and shrinks.
    disk.resize(256 * SECTOR, 300 * SECTOR).unwrap();
    let grown = [&model[..], &[0; 44]].concat();
    assert_eq!(content(&mut benches[1], 300), grown);
    disk.resize(300 * SECTOR, 100 * SECTOR).unwrap();
    disk.resize(100 * SECTOR, 256 * SECTOR).unwrap();
    let cut = [&model[..100], &[0; 156]].concat();
    assert_eq!(content(&mut benches[0], 256), cut);
    beside(&mut benches, || disk.close()).unwrap();
    drop((benches, disk));
    let (kept, fork) = (dir.path().join("upper.flat"), dir.path().join("fork"));
    let nothing = || Overlay::nothing_below(&kept).unwrap().unwrap();
    let forked = Arc::new(Overlay::over_snapshot(nothing(), &kept, &fork, None, false).unwrap());
    let mut other = queues(&forked);
    assert_eq!(content(&mut other[0], 256), model);
    // The fork is flattened again: it does not need the snapshot then.
    write(&mut other[0], 8, 8, 5).unwrap();
    beside(&mut other, || flatten(&forked)).unwrap();
    beside(&mut other, || forked.close()).unwrap();
    drop((other, forked));
    // Its server goes on with what it was made of, whether the snapshot is still there or not.
    let again =
        |fork: &Path| Overlay::over_snapshot(Arc::new(Nothing { block_size: 512 }), &kept, fork, None, false);
    drop(again(&fork).unwrap());
    std::fs::remove_file(&kept).unwrap();
    let forked = Arc::new(again(&fork).unwrap());
    let mut other = queues(&forked);
    snapshot(&forked, &mut other, "two").unwrap();
    beside(&mut other, || forked.close()).unwrap();
    drop((other, forked));
    let forked = Arc::new(again(&fork).unwrap());
    let mut other = queues(&forked);
    beside(&mut other, || flatten(&forked)).unwrap();
    beside(&mut other, || forked.close()).unwrap();
    drop((other, forked));
    drop(again(&fork).unwrap());
    let forked = Arc::new(
        Overlay::in_file(Overlay::nothing_below(&fork).unwrap().unwrap(), &fork, None, false).unwrap(),
    );
    let mut expected = model;
    expected[8..16].fill(5);
    assert_eq!(content(&mut Bench::new(forked, 1, MAX_IO), 256), expected);
}

#[test]
fn nothing_else_is_done_to_a_disk_that_is_being_flattened_and_a_stop_ends_it() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, model) = large_base(&dir, 4096);
    let path = dir.path().join("upper");
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    let slow = {
        let disk = disk.clone();
        std::thread::spawn(move || Backend::flatten(disk, Some(1 << 16), &|| false))
    };
    while Backend::flattening(&*disk).is_none_or(|progress| progress.done == 0) {
        benches.iter_mut().for_each(|bench| assert!(bench.turn().is_empty()));
    }
    let expected = "the disk is being flattened";
    assert_eq!(refused(snapshot(&disk, &mut benches, "one")), expected);
    assert_eq!(refused(disk.reset()), expected);
    assert_eq!(refused(disk.resize(4096 * SECTOR, 4104 * SECTOR)), expected);
    assert_eq!(refused(flatten(&disk)), expected);
    let began = std::time::Instant::now();
    beside(&mut benches, || disk.close()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(refused(slow.join().unwrap()), "the disk was stopped before it was flat");
    assert_eq!(Backend::flattening(&*disk), None);
    drop((benches, disk));
    let disk = Arc::new(Overlay::in_file(open(&base), &path, None, false).unwrap());
    let mut benches = queues(&disk);
    assert_eq!(content(&mut benches[0], 4096), model);
    let cancelled = Backend::flatten(disk.clone(), None, &|| true);
    assert_eq!(refused(cancelled), "the flatten was cancelled");
    let memory: Arc<dyn Backend> = Arc::new(Overlay::in_memory(open(&base), None).unwrap());
    assert!(refused(memory.flatten(None, &|| false)).contains("is in memory"));
    let plain: Arc<dyn Backend> = Arc::new(Memory::new(512).unwrap());
    assert_eq!(refused(plain.flatten(None, &|| false)), "this disk cannot be flattened");
}
