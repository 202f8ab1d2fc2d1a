use super::format::{Entry, HEADER, Superblock};
use super::import::RecordedLog;
use crate::abi::SECTOR;
use crate::backend::Memory;
use crate::backend::crash::{Bounds, LogData, Model, State, States};
use crate::backend::numbers::Numbers;
use crate::backend::recorder::{Change, Log, Mark, Moment, Origin, Recorder, Write};
use crate::error::ErrorKind;
use crate::number::to_usize;
use crate::request::{Flags, Op};
use proptest::prelude::*;
use std::collections::HashSet;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use tempfile::{TempDir, tempdir};

/// Sectors of the disk.
const SIZE: u64 = 4;

fn recorder(size: u64) -> Recorder {
    let (base, data) = (Memory::new(size).unwrap(), Memory::new(1 << 20).unwrap());
    Recorder::new(Arc::new(base), Arc::new(data), 512).unwrap().over_zeroes()
}

/// What requests may do at the same time.
#[derive(Clone, Copy, PartialEq)]
enum Overlaps {
    None,
    Writes,
    All,
}

impl Overlaps {
    /// How many flushes are in flight at most while something else is.
    fn flushes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Writes => 1,
            Self::All => 2,
        }
    }
}

/// A disk that has recorded up to six writes, each with data of its own, flushes and marks.
fn recorded(seed: u64, overlaps: Overlaps) -> Recorder {
    let recorder = recorder(SIZE * SECTOR);
    let mut numbers = Numbers::new(seed);
    let mut below = |limit| numbers.below(limit);
    let (mut log, mut open, mut flushes) = (Log::default(), Vec::<Change>::new(), Vec::new());
    let (writes, mut begun) = (1 + below(6), 0);
    while begun < writes || !open.is_empty() || !flushes.is_empty() {
        let alone = open.is_empty() && flushes.is_empty();
        match below(8) {
            0 | 1 if begun < writes && (alone || overlaps != Overlaps::None) => {
                let sector = below(SIZE);
                let end = sector + 1 + below(SIZE - sector);
                let op = [Op::Write, Op::Write, Op::Discard, Op::WriteZeroes][to_usize(below(4))];
                let place = if op == Op::Write { Origin::data(begun * 8 * SECTOR) } else { Origin::ZERO };
                let mut flags = Flags::NONE;
                if below(4) == 0 {
                    flags = flags | Flags::FUA;
                }
                if below(2) == 0 {
                    flags = flags | Flags::META;
                }
                for at in 0..if op == Op::Write { end - sector } else { 0 } {
                    let content = u8::try_from(1 + begun * 8 + at).unwrap();
                    recorder.data.store((begun * 8 + at) * SECTOR, &[content; 512]).unwrap();
                }
                let (offset, end) = (sector * SECTOR, end * SECTOR);
                open.push(Change { offset, end, op, flags, place, start: log.tick() });
                begun += 1;
            }
            2..=4 if !open.is_empty() => {
                let change = open.swap_remove(to_usize(below(open.len() as u64)));
                log.write(&change);
            }
            5 if alone || flushes.len() < overlaps.flushes() => flushes.push(log.tick()),
            6 if !flushes.is_empty() => {
                let start = flushes.swap_remove(to_usize(below(flushes.len() as u64)));
                log.flush(start);
            }
            7 if log.marks().len() < 3 && (alone || overlaps != Overlaps::None) => {
                let name = format!("mark {}", log.marks().len());
                log.mark(name);
            }
            _ => {}
        }
    }
    recorder.state().log = log;
    recorder.allocate(begun * 8 * SECTOR).unwrap();
    recorder
}

fn export(recorder: &Recorder, path: &Path) {
    let file = File::create_new(path).unwrap();
    let done = recorder.export(&file, path, &|| false).unwrap();
    assert_eq!(done.bytes, fs::metadata(path).unwrap().len());
}

/// Its log again, on another disk.
fn replayed(recorder: &Recorder, dir: &TempDir) -> Recorder {
    let path = dir.path().join("log");
    export(recorder, &path);
    let again = self::recorder(recorder.size);
    again.replay(&RecordedLog::open(&path).unwrap()).unwrap();
    fs::remove_file(path).unwrap();
    again
}

fn states(recorder: &Recorder, model: Model) -> Vec<State> {
    let moments = recorder.between(None, None).unwrap();
    let sectors = recorder.sectors();
    let bounds = Bounds { model, moments, budget: 1 << 16, unit: 1, seed: 3, sectors };
    let mut states: States = recorder.states(bounds)();
    std::iter::from_fn(|| states.next(recorder).unwrap()).collect()
}

/// The first byte of a sector; `None`: garbage.
fn byte(recorder: &Recorder, place: Origin) -> Option<u8> {
    let mut data = [0; 512];
    let _ = place.offset().map(|offset| recorder.read(offset, &mut data).unwrap());
    data.iter().all(|byte| *byte == data[0]).then_some(data[0])
}

/// The marks before a state, and what the disk has in it.
type Seen = (Vec<String>, Vec<Option<u8>>);

fn seen(recorder: &Recorder, state: &State) -> Seen {
    let log = recorder.log();
    let marks = log.marks().iter().take_while(|mark| mark.at < state.cut).map(|mark| mark.name.clone());
    let content = (0..SIZE).map(|sector| byte(recorder, state.content.of(sector)));
    (marks.collect(), content.collect())
}

fn all_seen(recorder: &Recorder, model: Model) -> HashSet<Seen> {
    states(recorder, model).iter().map(|state| seen(recorder, state)).collect()
}

const MODELS: [Model; 4] = [Model::Prefix, Model::Writes, Model::Torn, Model::Garbage];

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn the_states_of_a_log_that_was_read_back_are_states_of_what_was_recorded() {
    let dir = tempdir().unwrap();
    let (mut fewer, mut same) = (0, 0);
    for seed in 0..60 {
        let recorder = recorded(seed, Overlaps::All);
        let again = replayed(&recorder, &dir);
        for model in MODELS {
            let (all, found) = (all_seen(&recorder, model), all_seen(&again, model));
            let other: Vec<_> = found.difference(&all).collect();
            assert!(other.is_empty(), "seed {seed}, {model:?}: {other:?}");
            fewer += u64::from(found.len() < all.len());
            same += u64::from(found.len() == all.len());
        }
    }
    assert!(fewer > 20 && same > 20, "{fewer} {same}");
}

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn without_overlaps_a_log_that_was_read_back_has_the_same_states_with_the_same_numbers() {
    let dir = tempdir().unwrap();
    let told = |recorder: &Recorder, state: &State| {
        (state.cut, state.number, state.lost.clone(), seen(recorder, state))
    };
    for seed in 0..40 {
        let recorder = recorded(seed, Overlaps::None);
        let again = replayed(&recorder, &dir);
        let (log, found) = (recorder.log(), again.log());
        let same = |write: &Write| (write.sector, write.sectors, write.flags, write.start, write.done);
        assert!(log.writes().iter().map(same).eq(found.writes().iter().map(same)), "seed {seed}");
        let ops = |write: &Write| write.op == Op::Discard;
        assert!(log.writes().iter().map(ops).eq(found.writes().iter().map(ops)), "seed {seed}");
        assert_eq!((log.flushes(), log.marks()), (found.flushes(), found.marks()), "seed {seed}");
        for model in MODELS {
            let expected: Vec<_> =
                states(&recorder, model).iter().map(|state| told(&recorder, state)).collect();
            let found: Vec<_> = states(&again, model).iter().map(|state| told(&again, state)).collect();
            let same = found.iter().zip(&expected).take_while(|(one, other)| one == other).count();
            assert!(found == expected, "seed {seed}, {model:?}: {same} of {} are the same", expected.len());
        }
    }
}

/// The writes in the order in which the kernel's target logs them: with FUA when they are completed, others when a flush is that was
/// started after their completion, and those that are left at the end.
fn as_the_kernel_logs(log: &Log) -> Vec<Write> {
    let (mut unflushed, mut logged) = (Vec::new(), Vec::new());
    let mut covered: Vec<Vec<Write>> = vec![Vec::new(); log.flushes().len()];
    for moment in 0..log.now() {
        for (number, flush) in log.flushes().iter().enumerate() {
            if flush.start == moment {
                covered[number].append(&mut unflushed);
            }
            if flush.done == moment {
                logged.append(&mut covered[number]);
            }
        }
        for write in log.writes().iter().filter(|write| write.done == moment) {
            if write.flags.has(Flags::FUA) { &mut logged } else { &mut unflushed }.push(*write);
        }
    }
    logged.append(&mut unflushed);
    logged
}

/// The kernel logs a write with FUA before others that were completed earlier. Where they overlap, what it logs is not what the disk
/// had.
fn is_sound(order: &[Write]) -> bool {
    let overlap = |one: &Write, other: &Write| {
        one.range().start < other.range().end && other.range().start < one.range().end
    };
    order.iter().enumerate().all(|(at, write)| {
        order[at + 1..].iter().all(|later| later.done > write.done || !overlap(write, later))
    })
}

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn each_prefix_of_what_dm_log_writes_would_log_is_among_the_states() {
    let mut tried = 0;
    for seed in 0..150 {
        let recorder = recorded(seed, Overlaps::Writes);
        let order = as_the_kernel_logs(&recorder.log());
        if !is_sound(&order) {
            continue;
        }
        let all: HashSet<_> =
            all_seen(&recorder, Model::Writes).into_iter().map(|(_, content)| content).collect();
        let mut content = vec![Some(0); to_usize(SIZE)];
        for write in order {
            for (at, sector) in write.range().enumerate() {
                content[to_usize(sector)] = byte(&recorder, write.place.behind(at as u64));
            }
            assert!(all.contains(&content), "seed {seed}: {content:?}");
            tried += 1;
        }
    }
    assert!(tried > 200, "{tried}");
}

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
fn zeroes_without_data_take_up_no_space_and_stay_one_entry() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let recorder = recorder(1 << 30);
    let zero = |offset, end| {
        let mut state = recorder.state();
        let start = state.log.tick();
        let op = Op::WriteZeroes;
        state.log.write(&Change { offset, end, op, flags: Flags::NONE, place: Origin::ZERO, start });
    };
    zero(0, 1 << 30);
    zero(512, 1 << 29);
    export(&recorder, &path);
    let file = fs::metadata(&path).unwrap();
    assert_eq!(file.len(), 3 * 512 + (1 << 30) + (1 << 29) - 512);
    assert!(file.blocks() * 512 < 1 << 20, "{} blocks", file.blocks());
    let again = self::recorder(1 << 30);
    again.replay(&RecordedLog::open(&path).unwrap()).unwrap();
    let log = again.log();
    let told: Vec<_> = log.writes().iter().map(|write| (write.range(), write.place)).collect();
    assert_eq!(told, [(0..1 << 21, Origin::ZERO), (1..1 << 20, Origin::ZERO)]);
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

#[test]
#[cfg_attr(miri, ignore = "disks in memory are mapped")]
fn what_no_log_can_hold_is_not_exported() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("log");
    let refused = |recorder: &Recorder, cancelled| {
        let file = File::create(&path).unwrap();
        recorder.export(&file, &path, &|| cancelled).unwrap_err()
    };
    let recorder = recorder(1 << 20);
    recorder.mark(&"x".repeat(479));
    export(&recorder, &path);
    assert!(opened(&path).is_ok());
    assert_eq!(refused(&recorder, true).kind, ErrorKind::Cancelled);
    recorder.mark(&"é".repeat(240));
    let error = refused(&recorder, false);
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.to_string().contains("has more than 479 bytes"), "{error}");
    recorder.cut(Model::Torn, 0).unwrap();
    recorder.restore().unwrap();
    let error = refused(&recorder, false);
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(error.to_string().contains("begins with what a power cut left"), "{error}");
}

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
