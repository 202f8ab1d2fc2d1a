//! Logs that are anything but logs.

use super::super::format::{Entry, HEADER, Superblock};
use super::super::import::RecordedLog;
use super::{Overlaps, SIZE, export, recorded, recorder};
use crate::abi::SECTOR;
use crate::backend::crash::{Bounds, Model};
use crate::backend::numbers::Numbers;
use crate::backend::recorder::{Moment, Write};
use crate::number::to_usize;
use crate::request::{Flags, Op};
use proptest::prelude::*;
use std::fs;
use std::ops::Range;
use tempfile::tempdir;

proptest! {
    #[test]
    fn an_entry_is_read_as_it_was_written(
        (start, length) in (0..1_u64 << 54, 1..1_u64 << 32),
        discard: bool, fua: bool, meta: bool, flushed: bool, mark in 0..480_usize, kind in 0..3,
    ) {
        let flag = |is_set, flag| if is_set { flag } else { Flags::NONE };
        let entry = match kind {
            0 => Entry::Flush,
            1 => Entry::Mark { length: mark },
            _ => Entry::Change {
                sectors: start..start + length,
                op: if discard { Op::Discard } else { Op::Write },
                flags: flag(fua, Flags::FUA) | flag(meta, Flags::META),
                flushed,
            },
        };
        prop_assert_eq!(Entry::read(&entry.to_bytes(), 512), Ok(entry));
    }

    #[test]
    fn whatever_the_bytes_are_an_entry_makes_sense(bytes: [u8; HEADER], small: bool, bits in 9..24_u32) {
        let mut bytes = bytes;
        if small {
            // Numbers of a few bits get further.
            bytes.chunks_mut(8).for_each(|word| word[2..].fill(0));
        }
        let _ = Superblock::read(&bytes);
        if let Ok(Entry::Change { sectors, .. }) = Entry::read(&bytes, 1 << bits) {
            prop_assert!(!sectors.is_empty() && sectors.end <= u64::MAX / SECTOR);
            prop_assert!(sectors.end - sectors.start <= u32::MAX.into());
        }
    }
}

/// Puts wrong bytes where numbers are, or makes it shorter.
fn spoil(log: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut spoilt = log.to_vec();
    for _ in 0..=numbers.below(3) {
        let sector = numbers.below(log.len() as u64 / SECTOR) * SECTOR;
        let at = to_usize(sector + numbers.below(HEADER as u64));
        spoilt[at] = match numbers.below(3) {
            0 => 0,
            1 => spoilt[at] ^ (1 << numbers.below(8)),
            _ => u8::try_from(numbers.below(256)).unwrap(),
        };
    }
    if numbers.below(4) == 0 {
        spoilt.truncate(to_usize(numbers.below(log.len() as u64)));
    }
    spoilt
}

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn a_spoilt_log_is_refused_or_gives_states() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let (mut refused, mut used) = (0, 0);
    let rounds = std::env::var("UBLK_TS_FUZZ_ROUNDS").map_or(1000, |rounds| rounds.parse().unwrap());
    for seed in 0..rounds {
        let mut numbers = Numbers::new(seed);
        export(&recorded(seed % 40, Overlaps::Writes), &path);
        let log = fs::read(&path).unwrap();
        fs::write(&path, spoil(&log, &mut numbers)).unwrap();
        let recorder = recorder(SIZE * SECTOR);
        let done = RecordedLog::open(&path).and_then(|recorded| {
            let _ = recorded.disk_size();
            recorder.replay(&recorded)
        });
        fs::remove_file(&path).unwrap();
        match done {
            Ok(()) => {
                used += 1;
                let end = |write: &Write| write.range().end;
                assert!(recorder.log().writes().iter().all(|write| end(write) <= SIZE), "seed {seed}");
                let moments: Range<Moment> = recorder.between(None, None).unwrap();
                let bounds = Bounds { model: Model::Torn, moments, budget: 4, unit: 1, seed, sectors: SIZE };
                let mut states = recorder.states(bounds)();
                while states.next(&recorder).unwrap().is_some() {}
            }
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    assert!(refused > rounds / 10 && used > rounds / 10, "{refused} refused, {used} used");
}
