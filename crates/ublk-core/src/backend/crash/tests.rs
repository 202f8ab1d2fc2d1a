mod later;
mod record;

use super::*;
use crate::abi::SECTOR;
use crate::backend::numbers::Numbers;
use crate::backend::recorder::{Change, ContentMap, Log, Moment, Origin, Write};
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

/// What each unit may contain when the events before a moment have happened, tried out: any of the open writes' parts in it, with
/// those that are certain, and with all earlier ones that overlap it, directly or through others. Garbage is `None`.
fn simulate(case: &Case, moment: Moment, unit: u64, garbage: bool) -> Vec<HashSet<Vec<Option<Origin>>>> {
    (0..SIZE.div_ceil(unit))
        .map(|number| simulate_unit(case, moment, number * unit..((number + 1) * unit).min(SIZE), garbage))
        .collect()
}

fn simulate_unit(
    case: &Case,
    moment: Moment,
    unit: Range<u64>,
    garbage: bool,
) -> HashSet<Vec<Option<Origin>>> {
    // A flush makes durable what was completed before it was started.
    let since = case
        .log
        .flushes()
        .iter()
        .filter(|flush| flush.done < moment)
        .map(|flush| flush.start)
        .max()
        .unwrap_or(0);
    let (mut durable, mut open) = (ContentMap::default(), Vec::new());
    for write in case.log.writes().iter().filter(|write| write.start < moment) {
        let sectors = write.range().start.max(unit.start)..write.range().end.min(unit.end);
        if write.done < since {
            Log::apply(write, &mut durable);
        } else if !sectors.is_empty() {
            open.push((write, sectors));
        }
    }
    // Which of them are connected.
    let mut connected = vec![vec![false; open.len()]; open.len()];
    for one in 0..open.len() {
        for other in 0..open.len() {
            connected[one][other] =
                unit.clone().any(|at| open[one].1.contains(&at) && open[other].1.contains(&at));
        }
    }
    for through in 0..open.len() {
        for one in 0..open.len() {
            for other in 0..open.len() {
                connected[one][other] |= connected[one][through] && connected[through][other];
            }
        }
    }
    let apply = |there: &dyn Fn(usize) -> bool| {
        let mut content = durable.clone();
        for (_, (write, sectors)) in open.iter().enumerate().filter(|(at, _)| there(*at)) {
            content.set(sectors.clone(), write.place.behind(sectors.start - write.sector));
        }
        content
    };
    let newest = apply(&|at| open[at].0.done < moment);
    let mut contents = HashSet::new();
    for there in 0..1_u32 << open.len() {
        let is_there = |at: usize| there & (1 << at) != 0;
        let certain = |at: usize| open[at].0.flags.has(Flags::FUA) && open[at].0.done < moment;
        let missing =
            |at: usize| (0..open.len()).any(|later| connected[at][later] && later > at && is_there(later));
        if (0..open.len()).any(|at| !is_there(at) && (certain(at) || missing(at))) {
            continue;
        }
        let content = apply(&is_there);
        // Of each write in flight: whether garbage is there.
        let in_flight: Vec<_> = (0..open.len()).filter(|at| open[*at].0.done >= moment).collect();
        for torn in 0..if garbage { 1_u32 << in_flight.len() } else { 1 } {
            let torn: Vec<_> =
                (0..in_flight.len()).filter(|at| torn & (1 << at) != 0).map(|at| in_flight[at]).collect();
            let sector = |sector: u64| {
                let near = |at: &usize| {
                    (0..open.len()).any(|other| connected[*at][other] && open[other].1.contains(&sector))
                };
                match torn.iter().any(near) {
                    // All that is connected and in flight is garbage, over the newest of what was complete.
                    true if in_flight.iter().any(|at| open[*at].1.contains(&sector)) => None,
                    true => Some(newest.of(sector)),
                    false => Some(content.of(sector)),
                }
            };
            contents.insert(unit.clone().map(sector).collect());
        }
    }
    contents
}

/// All disks with one of these contents of each unit.
fn combinations(units: &[HashSet<Vec<Option<Origin>>>]) -> HashSet<Vec<Option<Origin>>> {
    units.iter().fold(HashSet::from([Vec::new()]), |all, contents| {
        let with = |before: &Vec<Option<Origin>>| {
            contents.iter().map(|content| [&before[..], content].concat()).collect::<Vec<_>>()
        };
        all.iter().flat_map(with).collect()
    })
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

#[test]
fn torn_states_are_those_of_a_disk_with_a_cache_and_no_others() {
    compare_with_the_simulator(Model::Torn, if cfg!(miri) { 3 } else { 120 });
}

fn compare_with_the_simulator(model: Model, seeds: u64) {
    for seed in 0..seeds {
        let case = case(seed);
        for unit in [1, 2, 4] {
            let (mut expected, mut many) = (HashSet::new(), false);
            for moment in 0..=case.log.now() {
                let possible = simulate(&case, moment, unit, model == Model::Garbage);
                many |= possible.iter().map(HashSet::len).product::<usize>() > 1 << 12;
                expected.extend(combinations(&possible));
            }
            let states = all(&case.log, bounds(model, 0..case.log.now(), unit));
            let found: HashSet<_> = states.iter().map(told).collect();
            assert!(model == Model::Garbage || found.len() == states.len(), "seed {seed}: none comes twice");
            // Too many to try all of them.
            assert!(found.is_subset(&expected), "seed {seed}, unit {unit}");
            assert!(many || found == expected, "seed {seed}, unit {unit}");
        }
    }
}

#[test]
fn a_write_of_a_part_of_a_unit_does_not_depend_on_others_beside_it() {
    let mut log = Log::default();
    for (number, flags) in [(0, Flags::NONE), (1, Flags::FUA)] {
        let start = log.tick();
        log.write(&change(flags, number * 2..number * 2 + 2, Origin::data(number * 2 * SECTOR), start));
    }
    let now = log.now()..log.now();
    let found: HashSet<_> = all(&log, bounds(Model::Torn, now, 4)).iter().map(places).collect();
    let [zero, one, two, three] = [0, 1, 2, 3].map(|sector| Origin::data(sector * SECTOR));
    let base = Origin::BASE;
    assert_eq!(found, [vec![zero, one, two, three], vec![base, base, two, three]].into());
}

#[test]
fn whole_writes_are_any_that_no_flush_has_made_durable() {
    for seed in 0..if cfg!(miri) { 3 } else { 120 } {
        let case = case(seed);
        let writes = case.log.writes();
        let mut expected = HashSet::new();
        let mut first = HashSet::new();
        for moment in 0..=case.log.now() {
            let flushes = case.log.flushes().iter().filter(|flush| flush.done < moment);
            let since = flushes.map(|flush| flush.start).max().unwrap_or(0);
            let started: Vec<_> = writes.iter().filter(|write| write.start < moment).collect();
            for there in 0..1_u32 << started.len() {
                let is_there = |at: usize| there & (1 << at) != 0;
                let certain = |write: &&Write| {
                    write.done < since || (write.flags.has(Flags::FUA) && write.done < moment)
                };
                if (0..started.len()).any(|at| certain(&started[at]) && !is_there(at)) {
                    continue;
                }
                let mut places = ContentMap::default();
                for (_, write) in started.iter().enumerate().filter(|(at, _)| is_there(*at)) {
                    Log::apply(write, &mut places);
                }
                let content: Vec<_> = (0..SIZE).map(|sector| places.of(sector)).collect();
                let doubtful: Vec<_> = (0..started.len()).filter(|at| !certain(&started[*at])).collect();
                let missing = doubtful.iter().position(|at| !is_there(*at)).unwrap_or(doubtful.len());
                if doubtful[missing..].iter().all(|at| !is_there(*at)) {
                    first.insert(content.clone());
                }
                expected.insert(content);
            }
        }
        let found: HashSet<_> =
            all(&case.log, bounds(Model::Writes, 0..case.log.now(), 1)).iter().map(places).collect();
        assert!(found == expected, "seed {seed}");
        let found: HashSet<_> =
            all(&case.log, bounds(Model::Prefix, 0..case.log.now(), 1)).iter().map(places).collect();
        assert!(found == first, "seed {seed}: the first ones up to any");
    }
}

/// What a log that is replayed entry by entry shows: everything that was completed up to some moment.
#[test]
fn each_prefix_of_the_log_is_among_the_states() {
    for seed in 0..if cfg!(miri) { 3 } else { 60 } {
        let case = case(seed);
        let found: HashSet<_> =
            all(&case.log, bounds(Model::Torn, 0..case.log.now(), 1)).iter().map(places).collect();
        let mut replayed = ContentMap::default();
        for write in case.log.writes() {
            Log::apply(write, &mut replayed);
            let now: Vec<_> = (0..SIZE).map(|sector| replayed.of(sector)).collect();
            assert!(found.contains(&now), "seed {seed}");
        }
    }
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
fn a_lying_flush_leaves_everything_in_doubt() {
    let mut log = Log::default();
    for sector in [0, 8] {
        let start = log.tick();
        log.write(&change(Flags::FUA, sector..sector + 8, Origin::data(sector * SECTOR), start));
        let start = log.tick();
        log.flush(start);
    }
    let count = |model| all(&log, bounds(model, log.now()..log.now(), 8)).len();
    assert_eq!((count(Model::Torn), count(Model::LyingFlush)), (1, 4));
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

/// What each sector has: data are their places, garbage is not distinguished.
fn told(state: &State) -> Vec<Option<Origin>> {
    let data = |place: Origin| (place.offset().unwrap_or(0) < ADDED).then_some(place);
    places(state).into_iter().map(data).collect()
}

#[test]
fn a_write_in_flight_may_leave_garbage_and_no_other_does() {
    compare_with_the_simulator(Model::Garbage, if cfg!(miri) { 2 } else { 20 });
}

/// What a naive disk has after all writes of a moment, if the one with that number went elsewhere.
fn replayed(case: &Case, moment: Moment, moved: Option<(usize, u64)>) -> Vec<Origin> {
    let mut disk = vec![Origin::BASE; to_usize(SIZE)];
    for (number, write) in case.log.writes().iter().enumerate().filter(|(_, write)| write.start < moment) {
        let to = moved.filter(|(moved, _)| *moved == number).map_or(write.sector, |(_, to)| to);
        for at in 0..u64::from(write.sectors) {
            disk[to_usize(to + at)] = write.place.behind(at);
        }
    }
    disk
}

#[test]
fn one_write_goes_elsewhere_and_nothing_else_is_wrong() {
    let (mut one, mut all_states) = (0, 0);
    for seed in 0..if cfg!(miri) { 2 } else { 30 } {
        let case = case(seed);
        let (mut expected, log) = (HashSet::new(), &case.log);
        for moment in 0..=log.now() {
            expected.insert(replayed(&case, moment, None));
            let started = log.writes().iter().enumerate().filter(|(_, write)| write.start < moment);
            for (number, write) in started {
                let length = u64::from(write.sectors);
                for to in (0..SIZE / length).map(|place| place * length).filter(|to| *to != write.sector) {
                    expected.insert(replayed(&case, moment, Some((number, to))));
                }
            }
        }
        let states = all(log, Bounds { budget: 100, ..bounds(Model::Misdirected, 0..log.now(), 1) });
        let found: HashSet<_> = states.iter().map(places).collect();
        assert!(found.is_subset(&expected), "seed {seed}");
        one += states.iter().filter(|state| state.lost.len() == 1).count();
        all_states += states.len();
    }
    assert!(one * 10 > all_states * 9, "{one} of {all_states}");
}

#[test]
fn one_bit_is_another_one_and_nothing_else_is_wrong() {
    let case = case(3);
    let data = Data::default();
    let mut states = States::new(
        Arc::new(case.log.clone()),
        ContentMap::default(),
        Bounds { budget: 100, ..bounds(Model::BitRot, 0..case.log.now(), 1) },
    );
    let bits = |place: Origin| {
        let mut bytes = [0; 512];
        let _ = place.offset().map(|offset| data.read(offset, &mut bytes).unwrap());
        bytes
    };
    let mut count = 0;
    while let Some(state) = states.next(&data).unwrap() {
        let newest = replayed(&case, state.cut, None);
        let wrong: u32 = (0..SIZE)
            .map(|sector| (bits(state.content.of(sector)), bits(newest[to_usize(sector)])))
            .map(|(found, right)| {
                found.iter().zip(right).map(|(one, other)| (one ^ other).count_ones()).sum::<u32>()
            })
            .sum();
        assert_eq!(wrong, 1, "{:?}", state.choice);
        let [Lost { how: How::Flipped(_), .. }] = state.lost[..] else { panic!("{:?}", state.lost) };
        count += 1;
    }
    assert_eq!(count, 100);
}

#[test]
fn the_budget_is_used_up_if_there_are_that_many_states() {
    for seed in 0..if cfg!(miri) { 2 } else { 30 } {
        let case = case(seed);
        for model in [Model::Prefix, Model::Writes, Model::Torn] {
            let count =
                |budget| all(&case.log, Bounds { budget, ..bounds(model, 0..case.log.now(), 1) }).len();
            let most = count(1 << 14);
            for budget in [1, 10, most / 2] {
                let found = count(budget as u64);
                assert!(
                    found <= budget && found * 4 >= budget.min(most) * 3,
                    "seed {seed}: {found} of {budget}"
                );
            }
        }
    }
}

/// A log of writes that are each flushed: hardly anything is possible at each moment.
fn of_small_epochs(count: u64) -> Log {
    let mut log = Log::default();
    for number in 0..count {
        let start = log.tick();
        log.write(&change(Flags::NONE, 0..8, Origin::data(number * 8 * SECTOR), start));
        let start = log.tick();
        log.flush(start);
    }
    log
}

#[test]
fn the_states_of_a_long_log_are_from_all_its_parts() {
    let log = of_small_epochs(10_000);
    let states = all(&log, Bounds { budget: 1000, ..bounds(Model::Torn, 0..log.now(), 8) });
    assert_eq!(states.len(), 1000);
    let mut parts = [0; 10];
    for state in &states {
        parts[to_usize(state.cut * 10 / (log.now() + 1))] += 1;
    }
    assert!(parts.iter().all(|part| (50..200).contains(part)), "{parts:?}");
}

#[test]
fn all_moments_of_a_long_log_are_tried_if_the_budget_is_enough() {
    let log = of_small_epochs(300);
    // After each write there is one more content.
    for budget in [301, 1000] {
        assert_eq!(all(&log, Bounds { budget, ..bounds(Model::Torn, 0..log.now(), 8) }).len(), 301);
    }
}

#[test]
fn a_few_of_many_writes_are_missing_whole() {
    let mut log = Log::default();
    for number in 0..64 {
        let start = log.tick();
        log.write(&change(
            Flags::NONE,
            number * 32..number * 32 + 8,
            Origin::data(number * 8 * SECTOR),
            start,
        ));
    }
    let now = log.now()..log.now();
    let states = all(&log, Bounds { budget: 1000, ..bounds(Model::Torn, now, 1) });
    assert_eq!(states.len(), 1000);
    let missing_whole =
        |state: &&State| state.lost.iter().all(|lost| lost.sectors.end - lost.sectors.start == 8);
    for missing in [2, 3, 4, 8, 32, 60, 62] {
        let found = states.iter().filter(missing_whole).filter(|state| state.lost.len() == missing).count();
        assert!(found >= 2, "{missing} are missing in {found}");
    }
    // Also a few parts of them.
    let sectors =
        |state: &State| state.lost.iter().map(|lost| lost.sectors.end - lost.sectors.start).sum::<u64>();
    for missing in [2, 3, 4] {
        let torn = states.iter().filter(|state| !missing_whole(state));
        let found = torn.filter(|state| sectors(state) == missing).count();
        assert!(found >= 2, "{missing} sectors are missing in {found}");
    }
}

#[test]
fn a_damage_that_no_write_can_have_had_is_none() {
    let mut log = Log::default();
    for number in 0..2 {
        let start = log.tick();
        log.write(&change(Flags::NONE, number..number + 1, Origin::data(number * SECTOR), start));
    }
    let lost = |write, sectors, how| [Lost { write, sectors, how }];
    for (model, lost, found) in [
        (Model::BitRot, lost(1, 1..2, How::Flipped(9)), true),
        (Model::BitRot, lost(99_999, 1..2, How::Flipped(9)), false),
        (Model::BitRot, lost(0, 1..2, How::Flipped(9)), false),
        (Model::BitRot, lost(0, 0..1, How::Flipped(9)), true),
        (Model::BitRot, lost(1, 1..2, How::Flipped(4096)), false),
        (Model::Misdirected, lost(1, 1..2, How::Moved(3)), true),
        (Model::Misdirected, lost(99_999, 1..2, How::Moved(3)), false),
        (Model::Misdirected, lost(1, 0..2, How::Moved(3)), false),
        (Model::Misdirected, lost(1, 1..2, How::Moved(SIZE)), false),
        (Model::Misdirected, lost(1, 1..2, How::Moved(u64::MAX)), false),
        (Model::Torn, lost(99_999, 1..2, How::Missing), false),
    ] {
        let mut states =
            States::new(Arc::new(log.clone()), ContentMap::default(), bounds(model, 0..log.now(), 1));
        let state = states.without(log.now(), &lost, &Data::default()).unwrap();
        assert_eq!(state.lost == lost, found, "{model:?} {lost:?}");
    }
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

#[test]
fn a_wrong_bit_is_one_of_the_write_whose_data_is_there() {
    for seed in 0..if cfg!(miri) { 1 } else { 20 } {
        let log = case(seed).log;
        for state in all(&log, Bounds { budget: 50, ..bounds(Model::BitRot, 0..log.now(), 1) }) {
            for Lost { write, sectors, .. } in &state.lost {
                let writes = log.writes().iter().enumerate().filter(|(_, write)| write.start < state.cut);
                let mut over = writes.filter(|(_, write)| write.range().contains(&sectors.start));
                assert_eq!(over.next_back().map(|(number, _)| number), Some(*write), "seed {seed}");
            }
        }
    }
}

#[test]
fn a_damage_that_is_tried_again_takes_no_more_room() {
    let mut log = Log::default();
    let start = log.tick();
    log.write(&change(Flags::NONE, 0..1, Origin::data(0), start));
    let wanted = Bounds { budget: 1000, ..bounds(Model::BitRot, 0..log.now(), 1) };
    let mut states = States::new(Arc::new(log), ContentMap::default(), wanted);
    let (data, mut count) = (Data::default(), 0);
    while states.next(&data).unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 1000);
    assert!(data.0.borrow().len() <= count * 512, "{}", data.0.borrow().len());
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
