//! What an overlay has of what was written to it when its server, or a sync, fails.

use super::*;

#[test]
fn a_flush_and_a_durable_write_save_what_was_noted() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let overlay = Arc::new(Overlay::in_file(open(&base), &dir.path().join("upper"), None, false).unwrap());
    let unsaved = || overlay.layers.written().kept.as_ref().unwrap().upper.unsaved();
    let mut bench = Bench::new(overlay.clone(), 1, MAX_IO);
    assert!(!unsaved());
    write(&mut bench, 0, 8, 1).unwrap();
    assert!(unsaved());
    assert_eq!(serve(&mut bench, Descriptor::new(Op::Flush, 0, 0)), Ok(0));
    assert!(!unsaved());
    // A rewrite notes nothing.
    write(&mut bench, 0, 8, 2).unwrap();
    assert!(!unsaved());
    let durable = Descriptor { flags: Flags::FUA, ..Descriptor::new(Op::Write, 8 * SECTOR, 8 * SECTOR) };
    assert_eq!(serve(&mut bench, durable), Ok(4096));
    assert!(!unsaved());
    // A closed disk has saved as well.
    write(&mut bench, 16, 8, 3).unwrap();
    assert!(unsaved());
    overlay.close().unwrap();
    assert!(!unsaved());
}

#[test]
fn a_write_counts_only_when_its_data_is_there_and_before_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let before = std::fs::read(&base).unwrap();
    for data_is_there in [false, true] {
        let (overlay, waiting) = waiting_overlay(&dir);
        let mut bench = Bench::new(overlay.clone(), 1, MAX_IO);
        bench.buffer(0)[..4096].fill(0xab);
        assert_eq!(bench.start(0, Descriptor::new(Op::Write, 8 * SECTOR, 4096)), None);
        assert!(
            !overlay.layers.written().kept.as_ref().unwrap().upper.unsaved(),
            "it is noted before its data is there"
        );
        assert!(!overlay.index.has(8 * SECTOR..9 * SECTOR, FIRST), "it is marked before its data is there");
        if data_is_there {
            go_on(&waiting, 0);
            assert_eq!(outcome(&mut bench), Ok(4096));
        }
        // The server is killed, and another one goes on.
        drop((bench, overlay));
        let next = Overlay::in_file(open(&base), &dir.path().join("upper"), None, false).unwrap();
        let found = read(&mut Bench::new(Arc::new(next), 1, MAX_IO), 8, 8);
        if data_is_there {
            assert_eq!(found, [0xab; 4096], "an answered write is lost");
        } else {
            assert_eq!(found, before[4096..8192]);
        }
    }
}

#[test]
fn all_writes_of_a_turn_are_noted() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let (overlay, waiting) = waiting_overlay(&dir);
    let mut bench = Bench::new(overlay.clone(), 8, MAX_IO);
    // One after another, before the first, apart, and a part of a block.
    let ranges = [(8, 8), (16, 8), (0, 8), (40, 3), (43, 1), (56, 8), (55, 1), (24, 2)];
    for (tag, (sector, sectors)) in (0..).zip(ranges) {
        bench.buffer(tag)[..4096].fill(tag as u8 + 1);
        let write = Descriptor::new(Op::Write, sector * SECTOR, sectors * SECTOR);
        assert_eq!(bench.start(tag, write), None);
    }
    for _ in ranges {
        go_on(&waiting, 0);
    }
    let mut answered = 0;
    while answered < ranges.len() {
        let answers = bench.turn();
        assert!(answers.iter().all(|(_, outcome)| outcome.is_ok()), "{answers:?}");
        answered += answers.len();
    }
    // The server is killed.
    drop((bench, overlay));
    let next = Overlay::in_file(open(&base), &dir.path().join("upper"), None, false).unwrap();
    let mut bench = Bench::new(Arc::new(next), 1, MAX_IO);
    for sector in 0..64 {
        let written = (1..).zip(ranges).find(|(_, (from, count))| (*from..from + count).contains(&sector));
        let expected = written.map_or(pattern(sector), |(fill, _)| fill);
        assert_eq!(read(&mut bench, sector, 1), [expected; 512], "sector {sector}");
    }
}

#[test]
fn after_a_failed_flush_nothing_more_counts_as_saved() {
    let dir = tempfile::tempdir().unwrap();
    let base = base_file(&dir, 64);
    let flush = Descriptor::new(Op::Flush, 0, 0);
    let durable = Descriptor { flags: Flags::FUA, ..Descriptor::new(Op::Write, 8 * SECTOR, 4096) };
    for (what, errno, fails) in [
        (flush, libc::EIO, true),
        (durable, libc::EIO, true),
        // That fails for itself only.
        (durable, libc::ENOSPC, false),
        (durable, libc::EFAULT, false),
    ] {
        let _ = std::fs::remove_file(dir.path().join("upper"));
        let (overlay, waiting) = waiting_overlay(&dir);
        let mut bench = Bench::new(overlay.clone(), 1, MAX_IO);
        assert_eq!(bench.start(0, what), None);
        go_on(&waiting, -errno);
        assert_eq!(outcome(&mut bench), Err(errno));
        bench.buffer(0)[..4096].fill(1);
        assert_eq!(bench.start(0, Descriptor::new(Op::Write, 0, 4096)), None);
        go_on(&waiting, 0);
        // It would be lost without a word.
        assert_eq!(outcome(&mut bench), if fails { Err(libc::EIO) } else { Ok(4096) });
        assert_eq!(bench.start(0, flush), None, "{what:?}, {errno}");
        assert_eq!(outcome(&mut bench).is_err(), fails, "{what:?}, {errno}");
        drop((bench, overlay));
        let next = Overlay::in_file(open(&base), &dir.path().join("upper"), None, false).unwrap();
        let found = read(&mut Bench::new(Arc::new(next), 1, MAX_IO), 0, 8);
        assert_eq!(found == [1; 4096], !fails, "{what:?}, {errno}");
    }
}

/// It could not know what is lost.
#[test]
fn a_disk_whose_upper_has_lost_data_is_not_left_to_another_server() {
    let dir = tempfile::tempdir().unwrap();
    let (base, path) = (base_file(&dir, 64), dir.path().join("upper"));
    let first = Overlay::in_file(open(&base), &path, None, false).unwrap();
    first.layers.written().kept.as_ref().unwrap().upper.poison();
    first.let_go();
    assert!(refused(Overlay::in_file(open(&base), &path, None, false)).contains("is in use"));
    first.take_back(first.properties().size).unwrap();
    assert!(first.close().is_err());
}
