use super::*;
use crate::abi::SECTOR;
use crate::backend::numbers::Numbers;
use crate::backend::recorder::{Change, ContentMap, Origin};
use crate::backend::{Bounds, LogData, Model, States};
use crate::request::Op;
use std::cell::Cell as Shared;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Sectors of the disk.
const SIZE: u64 = 1 << 20;

fn change(op: Op, flags: Flags, sectors: Range<u64>, start: Moment) -> Change {
    let place = if op == Op::Write { Origin::data(start * 4096) } else { Origin::ZERO };
    Change { offset: sectors.start * SECTOR, end: sectors.end * SECTOR, op, flags, place, start }
}

/// A write that is answered at once.
fn write(log: &mut Log, flags: Flags, sectors: Range<u64>) {
    let start = log.tick();
    log.write(&change(Op::Write, flags, sectors, start));
}

fn flush(log: &mut Log) {
    let start = log.tick();
    log.flush(start);
}

fn lost(write: usize, sectors: Range<u64>) -> Lost {
    Lost { write, sectors, how: How::Missing }
}

fn wanted(first: &[usize], most: usize) -> Wanted<'_> {
    Wanted { first, most, unit: 8, sectors: SIZE }
}

#[test]
fn each_write_has_the_fate_that_flushes_and_the_state_give_it() {
    let mut log = Log::default();
    write(&mut log, Flags::META, 0..8);
    let early = log.tick();
    flush(&mut log);
    log.write(&change(Op::Write, Flags::NONE, 8..16, early));
    log.mark("paid".into());
    write(&mut log, Flags::FUA, 16..24);
    write(&mut log, Flags::NONE, 24..40);
    let discarded = log.tick();
    log.write(&change(Op::Discard, Flags::NONE, 0..SIZE, discarded));
    let late = log.tick();
    let cut = log.now();
    flush(&mut log);
    log.write(&change(Op::WriteZeroes, Flags::NONE, 40..48, late));
    log.mark("after".into());

    let account = Account::new(&log, cut, &[lost(1, 8..16), lost(3, 24..32)], wanted(&[], 100));
    let fates: Vec<_> = account
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::Write { number, standing, loss, lost, .. } => {
                format!("{number} {standing:?} {loss:?} {lost}")
            }
            Entry::Flush { answered, .. } => format!("flush {answered}"),
            Entry::Mark(mark) => mark.name.clone(),
            Entry::LeftOut(_) => "left out".into(),
        })
        .collect();
    let expected = [
        "0 Flushed None 0",
        // It was started before the flush and answered after it.
        "1 Volatile Whole 8",
        "flush true",
        "paid",
        "2 Forced None 0",
        "3 Volatile Part 8",
        "4 Volatile None 0",
        "5 InFlight None 0",
    ];
    assert_eq!(fates, expected);
    assert_eq!((account.flushes, account.marks, account.since), (1, 1, Some(early + 1)));
    let sum = |standing, loss| account.sums.get(&(standing, loss)).copied();
    assert_eq!(sum(Standing::Volatile, Loss::Part), Some(Sum { writes: 1, sectors: 16 }));
    assert_eq!(sum(Standing::Flushed, Loss::None), Some(Sum { writes: 1, sectors: 8 }));
    assert_eq!(sum(Standing::Flushed, Loss::Whole), None);
    assert_eq!(account.sums.values().map(|sum| sum.writes).sum::<u64>(), 6);
    // A flush that came and was not answered makes nothing durable.
    let later = Account::new(&log, cut + 1, &[], wanted(&[], 100));
    assert_eq!(later.since, account.since);
    assert!(matches!(later.entries.last(), Some(Entry::Flush { answered: false, .. })));
}

/// Data of no interest.
#[derive(Default)]
struct Data(Shared<u64>);

impl LogData for Data {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        into.iter_mut().zip(offset.to_le_bytes().iter().cycle()).for_each(|(to, from)| *to = *from);
        Ok(())
    }

    fn add(&self, data: &[u8]) -> io::Result<u64> {
        // Behind the data of all writes, and not far: what is known of sectors is a list.
        Ok((1 << 24) + self.0.replace(self.0.get() + data.len() as u64))
    }
}

/// Writes that overlap in time and place, flushes and marks.
fn random(seed: u64, entries: u64) -> Log {
    let mut numbers = Numbers::new(seed);
    let (mut log, mut begun) = (Log::default(), Vec::new());
    for number in 0..entries {
        let first = numbers.below(64);
        let sectors = first..first + 1 + numbers.below(24);
        let flags = if numbers.below(6) == 0 { Flags::FUA } else { Flags::NONE };
        begun.push(change(Op::Write, flags, sectors, log.tick()));
        while begun.len() > 3 || numbers.below(2) == 0 && !begun.is_empty() {
            let one = usize::try_from(numbers.below(begun.len() as u64)).unwrap();
            log.write(&begun.remove(one));
        }
        match numbers.below(8) {
            0 => flush(&mut log),
            1 => log.mark(number.to_string()),
            _ => {}
        }
    }
    begun.iter().for_each(|change| log.in_flight(change));
    log
}

#[test]
fn a_state_that_a_disk_may_have_lacks_only_what_nothing_made_durable() {
    for (seed, model) in
        (0..40).zip([Model::Torn, Model::Writes, Model::Prefix, Model::Garbage].into_iter().cycle())
    {
        let log = random(seed, 30);
        let moments = 0..log.now();
        let bounds = Bounds { model, moments, budget: 60, unit: 8, seed, sectors: SIZE };
        let mut states = States::new(Arc::new(log), ContentMap::default(), bounds);
        let data = Data::default();
        while let Some(state) = states.next(&data).unwrap() {
            let account = Account::of(states.log(), &state, wanted(&[], usize::MAX));
            let sum = |standing, loss| account.sums.get(&(standing, loss)).copied().unwrap_or_default();
            for durable in [Standing::Flushed, Standing::Forced] {
                for loss in [Loss::Part, Loss::Whole] {
                    assert_eq!(sum(durable, loss), Sum::default(), "{model:?} {state:?}");
                }
            }
            let lossy: HashMap<_, _> = state.lost.iter().map(|lost| (lost.write, ())).collect();
            let told =
                account.sums.iter().filter(|((_, loss), _)| *loss != Loss::None).map(|(_, sum)| sum.writes);
            assert_eq!(told.sum::<u64>(), lossy.len() as u64);
        }
    }
}

#[test]
fn a_disk_that_lies_about_flushes_is_said_to_lack_what_it_had_promised() {
    let mut log = Log::default();
    write(&mut log, Flags::NONE, 0..8);
    flush(&mut log);
    let cut = log.now();
    let bounds =
        Bounds { model: Model::LyingFlush, moments: cut..cut, budget: 10, unit: 8, seed: 0, sectors: SIZE };
    let mut states = States::new(Arc::new(log), ContentMap::default(), bounds);
    let data = Data::default();
    let mut found = 0;
    while let Some(state) = states.next(&data).unwrap() {
        let account = Account::of(states.log(), &state, wanted(&[], 10));
        found += account.sums.get(&(Standing::Flushed, Loss::Whole)).map_or(0, |sum| sum.writes);
    }
    assert_eq!(found, 1);
}

#[test]
fn of_a_long_log_the_losses_are_named_with_their_neighbours_and_all_else_is_counted() {
    let mut log = Log::default();
    for number in 0..100_000 {
        write(&mut log, Flags::NONE, number..number + 1);
        if number % 1000 == 999 {
            flush(&mut log);
            log.mark(number.to_string());
        }
    }
    for number in 0..5000 {
        write(&mut log, Flags::NONE, number..number + 1);
    }
    let cut = log.now();
    let (first, lacking) = ([70_000], [lost(50_000, 50_000..50_001), lost(104_000, 4000..4001)]);
    let account = Account::new(&log, cut, &lacking, wanted(&first, 300));
    let named: Vec<_> = account.entries.iter().filter(|entry| !matches!(entry, Entry::LeftOut(_))).collect();
    assert_eq!(named.len(), 300);
    let numbers: Vec<_> = named
        .iter()
        .filter_map(|entry| match entry {
            Entry::Write { number, .. } => Some(*number),
            _ => None,
        })
        .collect();
    for number in (49_995..50_005).chain(69_995..70_005).chain(103_995..104_005).chain([104_999]) {
        assert!(numbers.contains(&number), "{number}: {numbers:?}");
    }
    assert!(named.iter().any(|entry| matches!(entry, Entry::Mark(mark) if mark.name == "99999")));
    // In order, and nothing is missing.
    assert!(account.entries.is_sorted_by_key(Entry::start));
    let (mut writes, mut flushes, mut marks) = (0, 0, 0);
    for entry in &account.entries {
        match entry {
            Entry::Write { .. } => writes += 1,
            Entry::Flush { .. } => flushes += 1,
            Entry::Mark(_) => marks += 1,
            Entry::LeftOut(left_out) => {
                writes += left_out.all.writes;
                flushes += left_out.flushes;
                marks += left_out.marks;
                assert_eq!(left_out.lost.writes, 0);
            }
        }
    }
    assert_eq!((writes, flushes, marks), (105_000, 100, 100));
    let gaps = account.entries.windows(2);
    let doubled = |pair: &[Entry]| matches!(pair, [Entry::LeftOut(_), Entry::LeftOut(_)]);
    assert!(!gaps.into_iter().any(doubled));

    // More losses than entries that are named: the newest, after those that are wanted.
    let all: Vec<_> = (0..5000).map(|at| lost(100_000 + at, at as u64..at as u64 + 1)).collect();
    let account = Account::new(&log, cut, &all, wanted(&[100_001], 10));
    let lossy: u64 = account
        .entries
        .iter()
        .map(|entry| match entry {
            Entry::LeftOut(left_out) => left_out.lost.writes,
            Entry::Write { number, .. } => {
                assert!(*number == 100_001 || *number > 104_990, "{number}");
                1
            }
            _ => 0,
        })
        .sum();
    assert_eq!((lossy, account.entries.len()), (5000, 12));
}

#[test]
fn a_map_has_all_that_was_written_in_cells_of_the_disk_or_of_the_part_that_was_used() {
    let mut log = Log::default();
    let start = log.tick();
    log.write(&change(Op::Discard, Flags::NONE, 0..SIZE, start));
    write(&mut log, Flags::NONE, 1000..1016);
    flush(&mut log);
    write(&mut log, Flags::NONE, 1008..1024);
    let map = Account::new(&log, log.now(), &[lost(2, 1016..1024)], wanted(&[], 10)).heat;
    // The discard does not count, so that it is a small part of the disk.
    assert_eq!((map.start, map.cell), (1000, 8));
    let cell = |writes, written, open, lost| Cell { writes, written, open, lost };
    assert_eq!(map.cells, [cell(1, 8, 0, 0), cell(2, 16, 8, 0), cell(1, 8, 8, 8)]);

    // A misdirected write is wrong at both places.
    let moved = Lost { write: 1, sectors: 1000..1016, how: How::Moved(SIZE - 16) };
    let map = Account::new(&log, log.now(), &[moved], wanted(&[], 10)).heat;
    assert_eq!((map.start, map.cell, map.cells.len()), (0, 1024, 1024));
    let lost: Vec<_> = (0..).zip(&map.cells).filter(|(_, cell)| cell.lost > 0).map(|(at, _)| at).collect();
    assert_eq!(lost, [0, 1023]);
    assert_eq!(map.cells.iter().map(|cell| cell.written).sum::<u64>(), 32);

    assert!(Account::new(&log, 0, &[], wanted(&[], 10)).heat.cells.is_empty());
    for seed in 0..20 {
        let mut numbers = Numbers::new(seed);
        let (mut log, mut sum) = (Log::default(), 0);
        for _ in 0..50 {
            let first = numbers.below(SIZE);
            let sectors = first..SIZE.min(first + 1 + numbers.below(100_000));
            sum += sectors.end - sectors.start;
            write(&mut log, Flags::NONE, sectors);
        }
        let map = Account::new(&log, log.now(), &[], wanted(&[], 10)).heat;
        assert!(map.cells.len() as u64 <= heat::CELLS);
        assert_eq!(map.cells.iter().map(|cell| cell.written).sum::<u64>(), sum);
    }
}
