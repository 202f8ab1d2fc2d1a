//! Logs that are written by hand.

use super::super::format::Superblock;
use super::super::import::RecordedLog;
use super::{byte, recorder};
use crate::backend::crash::LogData;
use crate::backend::recorder::{Mark, Origin, Recorder};
use crate::number::to_usize;
use crate::request::{Flags, Op};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use tempfile::tempdir;

/// No data.
const NONE: &[u8] = b"";

/// A log by hand, with sectors of that size.
fn by_hand(path: &Path, sector_size: u32, count: u64, entries: &[([u64; 4], &[u8])]) -> File {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    let mut bytes = Superblock { entries: count, sector_size }.to_bytes().to_vec();
    let each = to_usize(sector_size.into());
    bytes.resize(each, 0);
    for (words, more) in entries {
        let end = bytes.len() + each;
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        let (here, behind) = more.split_at(if words[2] == 8 { more.len() } else { 0 });
        bytes.extend(here);
        bytes.resize(end, 0);
        bytes.extend(behind);
    }
    file.write_all_at(&bytes, 0).unwrap();
    file
}

fn opened(path: &Path) -> Result<RecordedLog, String> {
    RecordedLog::open(path).map_err(|error| error.to_string())
}

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn a_log_with_larger_sectors_and_all_kinds_of_entries_is_read() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let data = [7; 4096];
    let entries: [([u64; 4], &[u8]); 6] = [
        ([1, 1, 0, 0], &data),
        // The kernel logs some flushes with a place.
        ([9, 0, 1, 0], b""),
        // A flush and FUA with data, and with the mark of a file system.
        ([0, 1, 1 | 2 | 16, 0], &data),
        ([2, 1, 4, 0], b""),
        ([0, 0, 8, 5], b"paid\xff"),
        // It is not counted: behind the log is what was there before.
        ([u64::MAX; 4], b""),
    ];
    by_hand(&path, 4096, 5, &entries);
    let recorded = RecordedLog::open(&path).unwrap();
    assert_eq!(recorded.disk_size().unwrap(), 1 << 20);
    let recorder = recorder(1 << 20);
    recorder.replay(&recorded).unwrap();
    let log = recorder.log();
    let [first, second, third] = log.writes() else { panic!("{:?}", log.writes()) };
    assert_eq!((first.range(), first.op, first.flags), (8..16, Op::Write, Flags::NONE));
    assert_eq!((second.range(), second.flags), (0..8, Flags::FUA | Flags::META));
    assert_eq!((third.range(), third.op), (16..24, Op::Discard));
    let [flush, before_data] = log.flushes() else { panic!("{:?}", log.flushes()) };
    assert!(flush.start > first.done && before_data.start > flush.done && before_data.done < second.start);
    assert_eq!(log.marks(), [Mark { at: third.done + 1, name: "paid\u{fffd}".into() }]);
    assert_eq!(byte(&recorder, second.place.behind(7)), Some(7));
    // It goes on from there.
    let place = Origin::data(recorder.add(&data).unwrap());
    assert!(place.offset() > second.place.behind(7).offset());
}

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn what_is_wrong_with_a_log_is_told_in_one_line() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let data = [1; 512];
    type Entry<'a> = ([u64; 4], &'a [u8]);
    let good: Entry = ([0, 1, 0, 0], &data);
    let cases: [(u32, u64, Entry, &str); 16] = [
        (512, 3, good, "is truncated: it ends within entry 1 of 3"),
        (512, u64::MAX, good, "is truncated: it ends within entry 1 of 18446744073709551615"),
        (0, 1, good, "has sectors of 0 bytes"),
        (256, 1, good, "has sectors of 256 bytes"),
        (513, 1, good, "has sectors of 513 bytes"),
        (1 << 24, 1, good, "has sectors of 16777216 bytes"),
        (512, 1, ([0; 4], b""), "entry 0 is empty"),
        (512, 1, ([0, 0, 2, 0], b""), "entry 0 is empty"),
        (512, 1, ([0, 1, 32, 0], &data), "entry 0 has unknown flags (0x20)"),
        (512, 1, ([0, 1, 8, 1], &data), "entry 0 is no valid mark"),
        (512, 1, ([0, 0, 8, 481], b""), "entry 0 is no valid mark"),
        (512, 1, ([0, 0, 8, u64::MAX], b""), "entry 0 is no valid mark"),
        (512, 1, ([u64::MAX, 1, 0, 0], &data), "entry 0 is beyond the end of any disk"),
        (4096, 1, ([1 << 61, 1, 4, 0], b""), "entry 0 is beyond the end of any disk"),
        (512, 1, ([0, 1 << 32, 4, 0], b""), "entry 0 is longer than any request"),
        (512, 1, ([0, 1 << 31, 0, 0], &data), "is truncated: it ends within entry 0 of 1"),
    ];
    for (sector_size, count, entry, expected) in cases {
        if sector_size == 0 {
            by_hand(&path, 512, count, &[entry]).write_all_at(&[0; 4], 24).unwrap();
        } else {
            by_hand(&path, sector_size, count, &[entry]);
        }
        let found = opened(&path).err().unwrap();
        assert!(found.contains(expected) && !found.contains('\n'), "{found}");
    }
    let wrong_bytes = [(0, "is no log of dm-log-writes"), (8, "has version 257 of the format")];
    for (at, expected) in wrong_bytes {
        by_hand(&path, 512, 1, &[good]).write_all_at(&[1], at + 1).unwrap();
        assert!(opened(&path).err().unwrap().contains(expected));
    }
    fs::write(&path, b"short").unwrap();
    assert!(opened(&path).err().unwrap().contains("is no log"));
    assert!(opened(dir.path()).err().unwrap().contains("is neither a file nor a block device"));
    assert!(opened(&dir.path().join("none")).err().unwrap().contains("No such file"));
}

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn a_log_that_does_not_fit_is_refused() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let refused =
        |recorder: &Recorder| recorder.replay(&RecordedLog::open(&path).unwrap()).unwrap_err().to_string();
    let data = vec![1; 2 << 20];
    by_hand(&path, 512, 1, &[([2047, 2, 4, 0], b"")]);
    let found = refused(&recorder(1 << 20));
    assert!(found.contains("entry 0 of") && found.contains("beyond the end of the disk"), "{found}");
    by_hand(&path, 512, 1, &[([0, 4096, 0, 0], &data)]);
    assert!(refused(&recorder(2 << 20)).contains("more data than may be recorded"));
    // Discards take up no room in the log, and much time.
    by_hand(&path, 512, 5, &[([0, 1 << 21, 4, 0], NONE); 5]);
    let found = refused(&recorder(1 << 30));
    assert!(found.contains("entry 4 exceeds the 4294967296 bytes that may be cleared in all"), "{found}");
    by_hand(&path, 512, 4, &[([0, u64::from(u32::MAX) - 7, 4, 0], NONE); 4]);
    let recorded = RecordedLog::open(&path).unwrap();
    let found = recorded.disk_size().unwrap_err().to_string();
    assert!(found.contains("beyond") && found.contains("give the disk's size"), "{found}");
}

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn data_behind_a_hole_is_found() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let file = by_hand(&path, 512, 1, &[([0, 1024, 0, 0], b"")]);
    file.set_len(1024 + (1024 << 9)).unwrap();
    file.write_all_at(&[5; 512], 1024 + 700 * 512).unwrap();
    let recorder = recorder(1 << 20);
    recorder.replay(&RecordedLog::open(&path).unwrap()).unwrap();
    let place = recorder.log().writes()[0].place;
    for (sector, expected) in [(0, 0), (699, 0), (700, 5), (701, 0), (1023, 0)] {
        assert_eq!(byte(&recorder, place.behind(sector)), Some(expected), "{sector}");
    }
}
