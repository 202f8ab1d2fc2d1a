//! What was changed since a snapshot, against a set of blocks.

use super::snapshots::{beside, queues, snapshot};
use super::*;
use crate::backend::{Changes, Sink};
use std::collections::BTreeSet;
use std::io;

const BLOCK: u64 = 4096;

fn blocks_since(overlay: &Overlay, since: &str, most: usize) -> BTreeSet<u64> {
    let (mut blocks, mut from) = (BTreeSet::new(), Some(0));
    while let Some(at) = from {
        let changed = overlay.changed(since, at, most).unwrap();
        assert!(changed.known && changed.ranges.len() <= most);
        assert_eq!(changed.size, overlay.properties().size);
        let touch = changed.ranges.windows(2).any(|pair| pair[0].end >= pair[1].start);
        assert!(!touch, "{:?}", changed.ranges);
        for range in changed.ranges {
            assert!(range.start.is_multiple_of(BLOCK), "{range:?}");
            assert!(range.end.is_multiple_of(BLOCK) || range.end == changed.size, "{range:?}");
            blocks.extend(range.start / BLOCK..range.end.div_ceil(BLOCK));
        }
        from = changed.next;
    }
    blocks
}

/// A copy of the disk as it was at a snapshot.
struct Copy {
    disk: Vec<u8>,
    bytes: u64,
    unit: u64,
}

impl Sink for Copy {
    fn begin(&mut self, size: u64) -> io::Result<()> {
        self.disk.resize(size as usize, 0);
        Ok(())
    }

    fn unit(&self) -> u64 {
        self.unit
    }

    fn put(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk[offset as usize..offset as usize + data.len()].copy_from_slice(data);
        self.bytes += data.len() as u64;
        Ok(())
    }

    fn aside(&self) -> io::Result<std::fs::File> {
        tempfile::tempfile()
    }
}

fn diff(overlay: &Overlay, since: Option<&str>, unit: u64, disk: Vec<u8>) -> Result<Copy> {
    let mut copy = Copy { disk, bytes: 0, unit };
    overlay.diff(since, &mut copy, &|| false).map(|()| copy)
}

/// What is written after the last snapshot is not in a diff.
#[test]
fn a_diff_between_snapshots_makes_of_one_the_other() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (base, upper) = (base_file(&dir, 1003), dir.path().join("disk.cow"));
    let overlay = Arc::new(Overlay::in_file(open(&base), &upper, None, false).unwrap());
    let mut benches = queues(&overlay);
    assert_eq!(diff(&overlay, None, BLOCK, vec![]).err().unwrap().kind, ErrorKind::NotFound);
    let mut kept = Vec::new();
    for (name, sector) in [("a", 3), ("b", 500), ("c", 960), ("d", 100)] {
        write(&mut benches[0], sector, 40, sector as u8 | 1).unwrap();
        serve(&mut benches[1], Descriptor::new(Op::Discard, (sector + 10) * SECTOR, 4 * SECTOR)).unwrap();
        snapshot(&overlay, &mut benches, name).unwrap();
        let mut content = Vec::new();
        for sector in (0..1003).step_by(100) {
            content.extend(read(&mut benches[0], sector, (1003 - sector).min(100)));
        }
        kept.push((name, content));
    }
    write(&mut benches[0], 0, 8, 0xaa).unwrap();
    let last = kept.pop().unwrap().1;
    // The last snapshot is sealed when nothing is written to it any more.
    beside(&mut benches, || overlay.finish_seal()).unwrap();
    let error = diff(&overlay, Some("d"), BLOCK, last.clone()).err().unwrap();
    assert_eq!(error.message, "the snapshot d is the last one");
    for unit in [BLOCK, 16 * BLOCK] {
        for (name, content) in &kept {
            let copy = diff(&overlay, Some(name), unit, content.clone()).unwrap();
            assert!(copy.disk == last, "{name}, {unit}");
            assert!(copy.bytes < 1003 * SECTOR, "{name}, {unit}");
        }
        assert!(diff(&overlay, None, unit, vec![0xee; 8]).unwrap().disk == last);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 0 } else { 40 }, ..ProptestConfig::default() })]

    #[test]
    fn the_layers_tell_what_was_changed_since_each_snapshot(
        sectors in 1_u64..3000,
        rounds in prop::collection::vec(
            prop::collection::vec((any::<prop::sample::Index>(), 1_u64..60, any::<bool>()), 0..8),
            1..6,
        ),
        grows in 0_u64..100,
        most in 1_usize..5,
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (base, upper) = (base_file(&dir, sectors), dir.path().join("disk.cow"));
        let open_it = || Arc::new(Overlay::in_file(open(&base), &upper, None, false).unwrap());
        let mut overlay = open_it();
        let mut benches = queues(&overlay);
        // By snapshot: the blocks that were changed since.
        let mut since: Vec<BTreeSet<u64>> = Vec::new();
        for (number, round) in rounds.iter().enumerate() {
            snapshot(&overlay, &mut benches, &format!("s{number}")).unwrap();
            since.push(BTreeSet::new());
            for (at, length, zeroes) in round {
                let sector = at.index(sectors as usize) as u64;
                let length = (*length).min(sectors - sector);
                let op = if *zeroes { Op::Discard } else { Op::Write };
                let what = Descriptor::new(op, sector * SECTOR, length * SECTOR);
                prop_assert!(serve(&mut benches[number % 2], what).is_ok());
                let blocks = sector * SECTOR / BLOCK..((sector + length) * SECTOR).div_ceil(BLOCK);
                since.iter_mut().for_each(|all| all.extend(blocks.clone()));
            }
        }
        if grows > 0 {
            overlay.resize(sectors * SECTOR, (sectors + grows) * SECTOR).unwrap();
            let added = sectors * SECTOR / BLOCK..((sectors + grows) * SECTOR).div_ceil(BLOCK);
            since.iter_mut().for_each(|all| all.extend(added.clone()));
        }
        for again in [false, true] {
            if again {
                drop(benches);
                overlay.close().unwrap();
                drop(overlay);
                overlay = open_it();
                benches = queues(&overlay);
            }
            let names: Vec<_> = overlay.checkpoints().unwrap().into_iter().map(|found| found.name).collect();
            prop_assert_eq!(names, (0..rounds.len()).map(|number| format!("s{number}")).collect::<Vec<_>>());
            for (number, expected) in since.iter().enumerate() {
                prop_assert_eq!(&blocks_since(&overlay, &format!("s{number}"), most), expected);
            }
        }
        let error = overlay.changed("none", 0, 1).unwrap_err();
        prop_assert!(error.message == "there is no snapshot none");
    }
}
