//! What is in a diff, and what is not.

use super::*;

#[test]
fn a_diff_is_of_one_instant_for_all_queues_while_they_write() {
    let dir = tempfile::tempdir().unwrap();
    for (at, (kind, below)) in kinds(dir.path()).into_iter().enumerate() {
        let disk = Arc::new(Tracked::open(below, &dir.path().join(format!("map{at}")), false).unwrap());
        let (clock, stop) = (AtomicU64::new(1), AtomicBool::new(false));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|region| {
                    let (disk, clock, stop) = (disk.clone(), &clock, &stop);
                    scope.spawn(move || write_on(disk, region, clock, stop))
                })
                .collect();
            while clock.load(SeqCst) < 200 {
                thread::sleep(Duration::from_millis(1));
            }
            disk.checkpoint("a").unwrap();
            let mut copies = Vec::new();
            // One after the other: of everything, then of what changed; in blocks, in units, and with an output that is slow.
            let mut base = Copy::of(vec![0xff; SIZE as usize]);
            disk.diff(None, &mut base, &|| false).unwrap();
            let base = base.disk;
            for (unit, pause) in [(BLOCK, 0), (65536, 0), (BLOCK, 5)] {
                let now = clock.load(SeqCst);
                while clock.load(SeqCst) < now + 100 {
                    thread::sleep(Duration::from_millis(1));
                }
                let mut copy = Copy::of(base.clone());
                (copy.unit, copy.pause) = (unit, Duration::from_millis(pause));
                disk.diff(Some("a"), &mut copy, &|| false).unwrap();
                assert!(copy.parts.iter().all(|part| (part.end - part.start).is_multiple_of(unit)));
                copies.push(copy.disk);
            }
            stop.store(true, SeqCst);
            let writes: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            println!("{kind}: {} writes", writes.iter().map(Vec::len).sum::<usize>());
            let empty = vec![0; SIZE as usize];
            is_of_one_instant(&base, &empty, &writes);
            copies.iter().for_each(|copy| is_of_one_instant(copy, &empty, &writes));
            is_what_the_disk_has(&disk, base);
        });
    }
}

/// A diff of a disk that nobody writes to.
fn is_what_the_disk_has(disk: &Arc<Tracked>, base: Vec<u8>) {
    let mut bench = Bench::new(disk.clone(), 1, 1 << 16); // the disk is served
    let mut last = Copy::of(base);
    thread::scope(|scope| {
        let diff = scope.spawn(|| disk.diff(Some("a"), &mut last, &|| false));
        while !diff.is_finished() {
            bench.turn();
            thread::yield_now();
        }
        diff.join().unwrap().unwrap();
    });
    assert!(last.disk == all_of(&mut bench));
}

#[test]
fn a_write_in_flight_at_the_checkpoint_and_at_the_instant_is_in_the_diff() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, waiting) = waiting_disk(Arc::new(Memory::new(4 * MIB).unwrap()), dir.path());
    let mut bench = Bench::new(disk.clone(), 2, 1 << 16);
    bench.buffer(0)[..8192].fill(7);
    assert!(bench.start(0, Descriptor::new(Op::Write, MIB, 8192)).is_none());
    disk.checkpoint("a").unwrap();
    let mut copy = Copy::of(vec![0; 4 << 20]);
    thread::scope(|scope| {
        let diff = scope.spawn(|| disk.diff(Some("a"), &mut copy, &|| false));
        turn_for(&mut bench, Duration::from_millis(200));
        while !diff.is_finished() {
            let_all_go(&waiting);
            bench.turn();
        }
        diff.join().unwrap().unwrap();
    });
    assert_eq!(copy.parts, [MIB..MIB + 8192]);
    assert!(copy.disk[1 << 20..][..8192].iter().all(|byte| *byte == 7));
}

#[test]
fn an_overlay_is_flattened_while_a_diff_waits() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    std::fs::write(&base, vec![5; 4 << 20]).unwrap();
    let base = Arc::new(FileDisk::open(&base, true, false).unwrap());
    let overlay = Arc::new(Overlay::in_file(base, &dir.path().join("upper"), None, false).unwrap());
    let (disk, waiting) = waiting_disk(overlay.clone(), dir.path());
    let mut bench = Bench::new(disk.clone(), 2, 1 << 17);
    assert_eq!(overlay.max_io(), 1 << 17);
    assert!(bench.start(0, Descriptor::new(Op::Write, MIB, 8192)).is_none());
    let mut copy = Copy::of(vec![0; 4 << 20]);
    thread::scope(|scope| {
        let diff = scope.spawn(|| disk.diff(None, &mut copy, &|| false));
        turn_for(&mut bench, Duration::from_millis(200));
        assert_eq!(overlay.max_io(), 1 << 17, "the diff's reader is no queue of the disk");
        let flatten = scope.spawn(|| overlay.clone().flatten(None, &|| false));
        while !flatten.is_finished() {
            bench.turn();
        }
        while !diff.is_finished() {
            let_all_go(&waiting);
            bench.turn();
        }
        flatten.join().unwrap().unwrap();
        diff.join().unwrap().unwrap();
    });
    assert!(copy.disk[..1 << 20].iter().all(|byte| *byte == 5));
}
