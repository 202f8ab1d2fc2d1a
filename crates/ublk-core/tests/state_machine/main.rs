//! The tag state machine against a simulated driver, in orders that no human writes down.
//!
//! A failure prints the shortest run that shows it, and is kept in `proptest-regressions/` to be run again.
//! `PROPTEST_RNG_SEED=n` makes a whole run repeatable, `PROPTEST_CASES=n` makes it longer.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)] // tests say what is wrong by panicking

mod batch;
mod driver;
mod link;
mod per_io;
mod steps;
mod world;

use batch::Batch;
use driver::Recovery;
use link::Link;
use per_io::PerIo;
use proptest::prelude::*;
use steps::{End, Step, steps};
use ublk_core::testing::tags::{Delivery, Tags, Violation};
use world::World;

fn cases(number: u32) -> ProptestConfig {
    // The environment's word counts more.
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return ProptestConfig::default();
    }
    ProptestConfig { cases: number, ..ProptestConfig::default() }
}

/// No tag is committed twice, none is lost, none is committed by a stranger, and all are settled at the end: the driver
/// panics at the first three, the world at the rest.
fn the_books_agree<L: Link>(depth: u16, steps: &[Step], end: End) {
    let mut world = World::<L>::new(depth);
    steps.iter().for_each(|step| world.step(step));
    world.end(end);
}

/// Short answers, aborts, refusals and dead servers cost nobody a request when requests are sent again.
fn everything_is_served<L: Link>(depth: u16, steps: Vec<Step>) {
    let mut world = World::<L>::new(depth);
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

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Served), Just(End::Stopped), Just(End::Died)]
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn whatever_happens_in_whatever_order_the_books_agree(depth in 1..=8u16, steps in steps(), end in end()) {
        the_books_agree::<PerIo>(depth, &steps, end);
    }

    #[test]
    fn whatever_happens_to_batches_the_books_agree(depth in 1..=8u16, steps in steps(), end in end()) {
        the_books_agree::<Batch>(depth, &steps, end);
    }

    #[test]
    fn a_server_that_answers_everything_serves_everything(depth in 1..=8u16, steps in steps()) {
        everything_is_served::<PerIo>(depth, steps);
    }

    #[test]
    fn a_server_that_answers_everything_in_batches_serves_everything(depth in 1..=8u16, steps in steps()) {
        everything_is_served::<Batch>(depth, steps);
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
