mod by_hand;
mod hostile;

use super::import::RecordedLog;
use crate::abi::SECTOR;
use crate::backend::Memory;
use crate::backend::crash::{Bounds, LogData, Model, State, States};
use crate::backend::numbers::Numbers;
use crate::backend::recorder::{Change, Log, Origin, Recorder, Write};
use crate::error::ErrorKind;
use crate::number::to_usize;
use crate::request::{Flags, Op};
use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
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
    assert!(RecordedLog::open(&path).is_ok());
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
