mod budget;
mod damage;
mod later;
mod record;
mod simulator;

use super::*;
use crate::abi::SECTOR;
use crate::backend::numbers::Numbers;
use crate::backend::recorder::{Change, ContentMap, Log, Moment, Origin};
use crate::queue::Op;
use crate::request::Flags;
use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Sectors of the disk.
const SIZE: u64 = 4;

/// A log that the simulator goes through, too.
struct Case {
    log: Log,
}

fn change(flags: Flags, sectors: Range<u64>, place: Origin, start: Moment) -> Change {
    let (offset, end) = (sectors.start * SECTOR, sectors.end * SECTOR);
    Change { offset, end, op: Op::Write, flags, place, start }
}

/// A log in which up to eight writes overlap, each with data of its own.
fn case(seed: u64) -> Case {
    let mut numbers = Numbers::new(seed);
    let (mut log, mut open) = (Log::default(), Vec::new());
    let (writes, mut begun) = (1 + numbers.below(8), 0);
    while begun < writes || !open.is_empty() {
        match numbers.below(5) {
            0 | 1 if begun < writes => {
                let sector = numbers.below(SIZE);
                let end = sector + 1 + numbers.below(SIZE - sector);
                let fua = numbers.below(4) == 0;
                open.push((begun, sector..end, fua, log.tick()));
                begun += 1;
            }
            2 | 3 if !open.is_empty() => {
                let (number, range, fua, start) = open.remove(to_usize(numbers.below(open.len() as u64)));
                let flags = if fua { Flags::FUA } else { Flags::NONE };
                let place = Origin::data(number * 100 * SECTOR);
                log.write(&change(flags, range, place, start));
            }
            4 => {
                let start = log.tick();
                log.flush(start);
            }
            _ => {}
        }
    }
    Case { log }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn bounds(model: Model, moments: Range<Moment>, unit: u64) -> Bounds {
    Bounds { model, moments, budget: 1 << 14, unit, seed: 7, sectors: SIZE }
}

/// Each place has data of its own, and what is added is behind all that.
#[derive(Default)]
struct Data(RefCell<Vec<u8>>);

const ADDED: u64 = 1 << 30;

impl LogData for Data {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        match offset.checked_sub(ADDED) {
            None => into[..8].copy_from_slice(&(offset + 1).to_le_bytes()),
            Some(added) => into.copy_from_slice(&self.0.borrow()[to_usize(added)..][..into.len()]),
        }
        Ok(())
    }

    fn add(&self, data: &[u8]) -> io::Result<u64> {
        let mut added = self.0.borrow_mut();
        added.extend_from_slice(data);
        Ok(ADDED + (added.len() - data.len()) as u64)
    }
}

fn all(log: &Log, bounds: Bounds) -> Vec<State> {
    let mut states = States::new(Arc::new(log.clone()), ContentMap::default(), bounds);
    let data = Data::default();
    std::iter::from_fn(|| states.next(&data).unwrap()).collect()
}

fn places(state: &State) -> Vec<Origin> {
    (0..SIZE).map(|sector| state.content.of(sector)).collect()
}

/// Many writes of many sectors, of which only a few states can be tried.
fn large(seed: u64) -> Log {
    let (mut numbers, mut log) = (Numbers::new(seed), Log::default());
    for number in 0..300 {
        let sector = numbers.below(1000) * 8;
        let start = log.tick();
        let flags = if numbers.below(20) == 0 { Flags::FUA } else { Flags::NONE };
        let sectors = sector..sector + 8 * (1 + numbers.below(16));
        log.write(&change(flags, sectors, Origin::data(number * (1 << 20)), start));
        if numbers.below(40) == 0 {
            let start = log.tick();
            log.flush(start);
        }
    }
    log
}

#[test]
fn a_seed_and_a_log_determine_the_states_and_each_can_be_had_again() {
    for model in [Model::Prefix, Model::Writes, Model::Torn, Model::LyingFlush, Model::IgnoredFua] {
        let log = large(1);
        let wanted = Bounds { budget: 500, ..bounds(model, 0..log.now(), 1) };
        let one = all(&log, wanted.clone());
        let other = all(&log, wanted.clone());
        let names =
            |states: &[State]| states.iter().map(|state| (state.cut, state.number)).collect::<Vec<_>>();
        assert_eq!(names(&one), names(&other));
        let least = if model == Model::Prefix { 200 } else { 350 };
        assert!((least..=500).contains(&one.len()), "{model:?}: {}", one.len());
        for state in one.iter().step_by(41) {
            let mut states = States::new(Arc::new(log.clone()), ContentMap::default(), wanted.clone());
            let again = states.replay(state.cut, state.number.unwrap(), &Data::default()).unwrap().unwrap();
            assert_eq!((again.lost.clone(), &again.choice), (state.lost.clone(), &state.choice));
            // Its losses say all about it.
            let built = states.without(state.cut, &state.lost, &Data::default()).unwrap();
            assert_eq!(built.lost, state.lost);
            for sector in 0..10_000 {
                assert_eq!(built.content.of(sector), state.content.of(sector), "{model:?}, sector {sector}");
            }
        }
        let other = all(&log, Bounds { seed: 8, ..wanted });
        assert!(model == Model::Prefix || one.iter().zip(&other).any(|(one, other)| one.lost != other.lost));
    }
}

/// The order and content of states is part of what a seed promises, on every machine.
#[test]
fn the_states_of_a_seed_stay_the_same() {
    let log = large(2);
    let states = all(&log, Bounds { budget: 300, ..bounds(Model::Torn, 0..log.now(), 8) });
    let text = format!(
        "{:?}",
        states.iter().map(|state| (state.cut, state.number, &state.lost)).collect::<Vec<_>>()
    );
    assert_eq!(crate::backend::map_file::checksum(text.bytes()), 1_440_114_737_462_714_325);
}

#[test]
fn a_content_is_tried_again_after_another_mark() {
    let mut log = Log::default();
    let write = |log: &mut Log, data| {
        let start = log.tick();
        log.write(&change(Flags::NONE, 0..1, Origin::data(data * SECTOR), start));
    };
    write(&mut log, 0);
    log.mark("promised".into());
    write(&mut log, 1);
    let states = all(&log, bounds(Model::Torn, 0..log.now(), 1));
    let mark = log.marks()[0].at;
    let found = |marked: bool| {
        let states = states.iter().filter(|state| (state.cut > mark) == marked);
        states.map(|state| state.content.of(0)).collect::<HashSet<_>>()
    };
    let [none, one, two] = [Origin::BASE, Origin::data(0), Origin::data(SECTOR)];
    assert_eq!(found(false), [none, one].into());
    assert_eq!(found(true), [none, one, two].into());
    assert_eq!(states.len(), 5);
}

/// Removing losses from a state makes another state that a disk may have.
#[test]
fn what_is_left_of_the_losses_is_possible_too() {
    for seed in 0..if cfg!(miri) { 2 } else { 40 } {
        let case = case(seed);
        for (model, unit) in [(Model::Torn, 1), (Model::Torn, 2), (Model::Writes, 1), (Model::Prefix, 1)] {
            let wanted = bounds(model, 0..case.log.now(), unit);
            let possible: HashSet<_> = all(&case.log, wanted.clone()).iter().map(places).collect();
            let mut states = States::new(Arc::new(case.log.clone()), ContentMap::default(), wanted.clone());
            let mut numbers = Numbers::new(seed);
            // Also back to earlier moments.
            for state in all(&case.log, wanted).iter().rev().take(100) {
                let mut lost = state.lost.clone();
                lost.retain(|_| numbers.below(2) == 0);
                let less = states.without(state.cut, &lost, &Data::default()).unwrap();
                assert!(possible.contains(&places(&less)), "seed {seed}, {model:?}, unit {unit}");
            }
        }
    }
}

/// A long write has at most a few hundred parts, and a log with long discards is gone through in no time.
#[test]
fn a_discard_of_a_large_disk_is_a_write_like_others() {
    let mut log = Log::default();
    for number in 0..4 {
        let start = log.tick();
        let sectors = number << 21..(number + 1) << 21;
        log.write(&Change { op: Op::Discard, ..change(Flags::NONE, sectors, Origin::ZERO, start) });
    }
    let start = log.tick();
    log.write(&change(Flags::NONE, 5000..5008, Origin::data(0), start));
    let states = all(&log, Bounds { budget: 50, ..bounds(Model::Torn, 0..log.now(), 1) });
    assert_eq!(states.len(), 50);
    assert!(states.iter().any(|state| state.content.of(5003) == Origin::data(3 * SECTOR)));
}

/// Data of which some reads fail.
struct Failing {
    data: Data,
    reads: RefCell<u64>,
}

impl LogData for Failing {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        *self.reads.borrow_mut() += 1;
        if self.reads.borrow().is_multiple_of(3) {
            return Err(io::Error::other("cannot be read"));
        }
        self.data.read(offset, into)
    }

    fn add(&self, data: &[u8]) -> io::Result<u64> {
        self.data.add(data)
    }
}

#[test]
fn an_error_of_the_data_changes_no_later_state() {
    let told = |state: State| (state.cut, state.number, state.lost);
    let mut failed = 0;
    for seed in 0..10 {
        let log = case(seed).log;
        let wanted = Bounds { budget: 100, ..bounds(Model::Torn, 0..log.now(), 1) };
        let expected: Vec<_> = all(&log, wanted.clone()).into_iter().map(told).collect();
        let mut states = States::new(Arc::new(log), ContentMap::default(), wanted);
        let data = Failing { data: Data::default(), reads: RefCell::default() };
        let mut found = Vec::new();
        loop {
            match states.next(&data) {
                Ok(Some(state)) => found.push(told(state)),
                Ok(None) => break,
                Err(_) => failed += 1,
            }
        }
        assert_eq!(found, expected, "seed {seed}");
    }
    assert!(failed > 10, "{failed}");
}

/// The data of a disk that was blank.
#[derive(Default)]
struct OverZeroes(Data);

impl LogData for OverZeroes {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.fill(0);
        if offset == 0 { Ok(()) } else { self.0.read(offset, into) }
    }

    fn add(&self, data: &[u8]) -> io::Result<u64> {
        self.0.add(data)
    }

    fn was_blank(&self) -> bool {
        true
    }
}

#[test]
fn zeroes_on_a_blank_disk_are_no_other_content() {
    let mut log = Log::default();
    let mut write = |op, sectors, place| {
        let start = log.tick();
        log.write(&Change { op, ..change(Flags::NONE, sectors, place, start) });
    };
    // A discard of a part, of a whole disk, and a write of zeroes.
    write(Op::Discard, 0..8, Origin::ZERO);
    write(Op::Discard, 0..1 << 20, Origin::ZERO);
    write(Op::Write, 8..9, Origin::data(0));
    let count = |log: &Log, data: &dyn LogData| {
        let wanted = bounds(Model::Writes, 0..log.now(), 1);
        let mut states = States::new(Arc::new(log.clone()), ContentMap::default(), wanted);
        std::iter::from_fn(|| states.next(data).unwrap()).count()
    };
    assert_eq!(count(&log, &OverZeroes::default()), 1);
    assert!(count(&log, &Data::default()) > 1, "over another disk they are");
    let start = log.tick();
    log.write(&change(Flags::NONE, 9..10, Origin::data(SECTOR), start));
    assert_eq!(count(&log, &OverZeroes::default()), 2);
}
