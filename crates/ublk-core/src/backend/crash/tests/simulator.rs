//! The states of a model against those of a naive simulator, which tries everything.

use super::{ADDED, Case, SIZE, all, bounds, case, change, places};
use crate::abi::SECTOR;
use crate::backend::crash::{Model, State};
use crate::backend::recorder::{ContentMap, Log, Moment, Origin, Write};
use crate::request::Flags;
use std::collections::HashSet;
use std::ops::Range;

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

#[test]
fn a_write_in_flight_may_leave_garbage_and_no_other_does() {
    compare_with_the_simulator(Model::Garbage, if cfg!(miri) { 2 } else { 20 });
}

/// What each sector has: data are their places, garbage is not distinguished.
fn told(state: &State) -> Vec<Option<Origin>> {
    let data = |place: Origin| (place.offset().unwrap_or(0) < ADDED).then_some(place);
    places(state).into_iter().map(data).collect()
}
