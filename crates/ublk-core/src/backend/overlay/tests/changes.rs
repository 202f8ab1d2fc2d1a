//! What was changed since a snapshot, against a set of blocks.

use super::snapshots::{queues, snapshot};
use super::*;
use crate::backend::Changes;
use std::collections::BTreeSet;

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
