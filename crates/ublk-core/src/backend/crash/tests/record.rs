//! What a state says of the record that it is of.

use super::{Data, bounds, change};
use crate::backend::crash::{Bounds, Model, State, States};
use crate::backend::recorder::{ContentMap, Log, Moment, Origin};
use crate::request::Flags;
use std::sync::Arc;

/// Writes to these sectors, and a flush after the first; the next one is in flight.
fn log(sectors: [u64; 3], flags: Flags) -> Log {
    let mut log = Log::default();
    for (number, sector) in sectors.into_iter().enumerate() {
        let start = log.tick();
        let flags = if number == 1 { flags } else { Flags::NONE };
        let change = change(flags, sector..sector + 1, Origin::data(number as u64 * 512), start);
        if number == 2 {
            log.in_flight(&change);
        } else {
            log.write(&change);
        }
        if number == 0 {
            let start = log.tick();
            log.flush(start);
        }
    }
    log
}

fn state(log: &Log, moment: Moment, bounds: Bounds) -> State {
    let mut states = States::new(Arc::new(log.clone()), ContentMap::default(), bounds);
    states.replay(moment, 0, &Data::default()).unwrap().unwrap()
}

#[test]
fn what_comes_after_a_moment_does_not_change_the_record_of_its_states() {
    let whole = log([0, 1, 2], Flags::NONE);
    let wanted = bounds(Model::Torn, 0..whole.now(), 1);
    let mut longer = Log::default();
    for (sector, flush) in [(0, true), (1, false)] {
        let start = longer.tick();
        longer.write(&change(Flags::NONE, sector..sector + 1, Origin::data(sector * 512), start));
        if flush {
            let start = longer.tick();
            longer.flush(start);
        }
    }
    // Answered here.
    let start = longer.tick();
    let now = longer.now();
    longer.write(&change(Flags::NONE, 2..3, Origin::data(1024), start));
    longer.mark("more".into());
    for moment in 0..=now {
        let (one, other) = (state(&whole, moment, wanted.clone()), state(&longer, moment, wanted.clone()));
        assert_eq!(one.record, other.record, "moment {moment}");
        let mut states = States::new(Arc::new(whole.clone()), ContentMap::default(), wanted.clone());
        assert_eq!(states.without(moment, &one.lost, &Data::default()).unwrap().record, one.record);
    }
}

#[test]
fn a_state_of_another_record_or_of_other_options_is_recognized() {
    let first = log([0, 1, 2], Flags::NONE);
    let wanted = bounds(Model::Torn, 0..first.now(), 1);
    let record = |log: &Log, bounds: Bounds| state(log, first.now(), bounds).record;
    let mut records = vec![record(&first, wanted.clone())];
    for sectors in [[3, 1, 2], [1, 0, 2], [0, 1, 3]] {
        records.push(record(&log(sectors, Flags::NONE), wanted.clone()));
    }
    records.push(record(&log([0, 1, 2], Flags::FUA), wanted.clone()));
    records.push(record(&first, Bounds { seed: wanted.seed + 1, ..wanted.clone() }));
    records.push(record(&first, Bounds { unit: 8, ..wanted.clone() }));
    records.push(record(&first, Bounds { model: Model::Writes, ..wanted.clone() }));
    let count = records.len();
    records.sort_unstable();
    records.dedup();
    assert_eq!(records.len(), count);
}
