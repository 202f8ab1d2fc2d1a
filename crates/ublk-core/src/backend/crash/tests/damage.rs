//! The illegal models: what no disk may do.

use super::{Case, Data, SIZE, all, bounds, case, change, places, to_usize};
use crate::abi::SECTOR;
use crate::backend::crash::{Bounds, How, LogData, Lost, Model, States};
use crate::backend::recorder::{ContentMap, Log, Moment, Origin};
use crate::request::Flags;
use std::collections::HashSet;
use std::sync::Arc;

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
