//! The tag state machine against a simulated driver, in orders that no human writes down.
//!
//! A failure prints the shortest run that shows it, and is kept in `proptest-regressions/` to be run again.
//! `PROPTEST_RNG_SEED=n` makes a whole run repeatable, `PROPTEST_CASES=n` makes it longer.

#![allow(clippy::unwrap_used)] // tests say what is wrong by panicking

mod driver;
mod world;

use driver::Recovery;
use proptest::prelude::*;
use ublk_core::queue::tags::{Delivery, Tags, Violation};
use world::{End, Step, World, steps};

fn cases(number: u32) -> ProptestConfig {
    // The environment's word counts more.
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return ProptestConfig::default();
    }
    ProptestConfig { cases: number, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(20_000))]

    /// No tag is committed twice, none is lost, none is committed by a stranger, and all are settled at the end:
    /// the driver panics at the first three, the world at the rest.
    #[test]
    fn whatever_happens_in_whatever_order_the_books_agree(
        depth in 1..=8u16,
        steps in steps(),
        end in prop_oneof![Just(End::Served), Just(End::Stopped), Just(End::Died)],
    ) {
        let mut world = World::new(depth);
        steps.iter().for_each(|step| world.step(step));
        world.end(end);
    }

    /// Short answers, aborts, refusals and dead servers cost nobody a request when requests are sent again.
    #[test]
    fn a_server_that_answers_everything_serves_everything(depth in 1..=8u16, steps in steps()) {
        let mut world = World::new(depth);
        for step in steps {
            world.step(&match step {
                Step::Answer(which, Err(_)) => Step::Answer(which, Ok(1)),
                Step::Die(_) => Step::Die(Recovery::Reissue),
                step => step,
            });
        }
        world.end(End::Served);
        assert!(world.all_done());
    }
}

#[test]
fn the_deepest_queue_serves_all_its_tags_at_once() {
    let mut tags = Tags::new(4096);
    (0..4096).for_each(|tag| tags.offer(tag).unwrap());
    let tickets: Vec<_> = (0..4096)
        .map(|tag| match tags.completed(tag, 0) {
            Ok(Delivery::Request(ticket)) => ticket,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!((tags.owned(), tags.offered()), (4096, 0));
    tickets.iter().rev().for_each(|ticket| tags.commit(*ticket).unwrap());
    assert_eq!((tags.owned(), tags.offered()), (0, 4096));
    (0..4096).for_each(|tag| assert_eq!(tags.completed(tag, -libc::ENODEV), Ok(Delivery::Ended)));
    assert!(tags.settled());
    assert_eq!(tags.offer(4096), Err(Violation::NoSuchTag(4096)));
}

/// Found by the properties: generations alone are the same in every queue.
#[test]
fn an_answer_meant_for_another_queue_or_an_earlier_life_is_refused() {
    let request = |tags: &mut Tags| {
        tags.offer(0).unwrap();
        match tags.completed(0, 0) {
            Ok(Delivery::Request(ticket)) => ticket,
            other => panic!("{other:?}"),
        }
    };
    let (mut queue, mut other) = (Tags::new(1), Tags::new(1));
    let (ours, theirs) = (request(&mut queue), request(&mut other));
    assert_eq!(queue.commit(theirs), Err(Violation::NotOwned(theirs)));
    assert!(queue.owns(ours) && !queue.owns(theirs));
    queue.commit(ours).unwrap();
}
