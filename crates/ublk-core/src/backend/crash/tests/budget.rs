//! Which states are tried if there are more than the budget.

use super::{all, bounds, case, change, to_usize};
use crate::abi::SECTOR;
use crate::backend::crash::{Bounds, Model, State};
use crate::backend::recorder::{Log, Origin};
use crate::request::Flags;

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
