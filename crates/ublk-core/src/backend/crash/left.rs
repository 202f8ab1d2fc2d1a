//! Chooses one of the states after a cut, as a disk has only one of them.

use super::content::LogData;
use super::states::States;
use crate::backend::numbers::{Numbers, mixed};
use crate::backend::recorder::{ContentMap, Moment};
use std::io;

/// The content of one of the `states` of a moment, each as likely as the others. Something is lost in it, unless nothing can be
/// lost. `seed` and the moment determine which one it is.
pub fn left(
    states: &mut States,
    moment: Moment,
    seed: u64,
    data: &dyn LogData,
) -> io::Result<Option<ContentMap>> {
    let mut numbers = Numbers::new(mixed(seed) ^ mixed(!moment));
    let (mut chosen, mut lossy) = (None, 0);
    while let Some(state) = states.next(data)? {
        if state.lost.is_empty() {
            chosen = chosen.or(Some(state.content));
            continue;
        }
        lossy += 1;
        // The next one takes the place of those before it with the chance that gives all of them the same.
        if numbers.below(lossy) == 0 {
            chosen = Some(state.content);
        }
    }
    Ok(chosen)
}
