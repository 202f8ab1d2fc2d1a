//! What was not written yet at a moment.

use super::{Data, SIZE, bounds, change};
use crate::backend::crash::{Model, States};
use crate::backend::recorder::{ContentMap, Log, Origin};
use crate::request::Flags;
use std::sync::Arc;

#[test]
fn a_loss_of_the_next_write_is_what_was_there_before_it() {
    let mut log = Log::default();
    let place = |number: u64| Origin::data(number * 512);
    let start = log.tick();
    log.write(&change(Flags::NONE, 0..1, place(0), start));
    log.mark("one".into());
    let (first, second) = (log.tick(), log.tick());
    log.write(&change(Flags::FUA, 1..3, place(2), second));
    log.write(&change(Flags::NONE, 0..2, place(1), first));
    log.mark("two".into());
    let start = log.tick();
    log.write(&change(Flags::NONE, 3..4, place(3), start));
    let now = log.now();
    let mut states = States::new(Arc::new(log), ContentMap::default(), bounds(Model::Torn, 0..now, 1));
    let later = |states: &States, moment| -> Vec<_> {
        states.later(moment).into_iter().map(|(cut, lost)| (cut, lost.write)).collect()
    };
    assert_eq!(later(&states, 0), [(1, 0)]);
    assert_eq!(
        later(&states, first),
        [(first + 1, 2), (second + 1, 1)],
        "until the next mark, as they began"
    );
    assert_eq!(later(&states, second), [(second + 1, 1)]);
    assert_eq!(later(&states, second + 1), []);
    assert_eq!(later(&states, start), [(start + 1, 3)]);
    let data = Data::default();
    for (cut, write) in states.later(first) {
        let without = states.without(cut, std::slice::from_ref(&write), &data).unwrap();
        let before = states.without(cut - 1, &[], &data).unwrap();
        assert_eq!((without.lost.len(), before.lost.len()), (1, 0));
        assert!((0..SIZE).all(|sector| without.content.of(sector) == before.content.of(sector)));
    }
}
