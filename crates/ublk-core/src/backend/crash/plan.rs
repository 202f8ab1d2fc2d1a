//! At which moments the power fails, and how many states of each are tried.

use super::numbers::mixed;
use super::states::Bounds;
use crate::backend::recorder::{Log, Moment};
use crate::request::Flags;
use std::collections::HashSet;
use std::ops::Range;

/// Rather fewer moments than fewer states of each.
const EACH: u64 = 8;

/// The moments at which the power may fail, in order: after each event but those that change nothing, such as the start of a
/// flush.
fn moments(log: &Log, within: &Range<Moment>) -> Vec<Moment> {
    let writes = log.writes().iter().flat_map(|write| [write.start + 1, write.done + 1]);
    let flushes = log.flushes().iter().map(|flush| flush.done + 1);
    let marks = log.marks().iter().map(|mark| mark.at + 1);
    let ends = [within.start, within.end];
    let mut all: Vec<_> = writes.chain(flushes).chain(marks).chain(ends).collect();
    all.retain(|moment| within.contains(moment) || *moment == within.end);
    all.sort_unstable();
    all.dedup();
    all
}

/// Those at which most is possible: the last ones before something becomes certain, or is promised.
fn fullest(log: &Log, moments: &[Moment]) -> HashSet<Moment> {
    let durable = log.writes().iter().filter(|write| write.flags.has(Flags::FUA)).map(|write| write.done);
    let flushes = log.flushes().iter().map(|flush| flush.done);
    let marks = log.marks().iter().map(|mark| mark.at);
    let events = durable.chain(flushes).chain(marks).chain([Moment::MAX]);
    let last = |event| moments[..moments.partition_point(|moment| *moment <= event)].last();
    events.filter_map(last).copied().collect()
}

/// How many states of each moment are tried, so that all together keep to the budget: as many of each, unless it has
/// fewer; and of some moments only, where there are more than that. The others come last: they get what is left over. `possible`: how many a moment has; `None`: more than are all tried.
pub fn plan(
    log: &Log,
    bounds: &Bounds,
    possible: &mut dyn FnMut(Moment) -> Option<u64>,
) -> Vec<(Moment, u64)> {
    let mut all = moments(log, &bounds.moments);
    let most = usize::try_from((bounds.budget / EACH).max(1)).unwrap_or(usize::MAX);
    let mut others = Vec::new();
    if all.len() > most {
        let fullest = fullest(log, &all);
        all.sort_by_key(|moment| (!fullest.contains(moment), mixed(bounds.seed ^ mixed(*moment))));
        others = all.split_off(most);
        all.sort_unstable();
        others.sort_unstable();
    }
    let possible: Vec<_> = all.iter().map(|moment| possible(*moment).unwrap_or(u64::MAX)).collect();
    let (mut left, mut shares) = (bounds.budget, vec![0; all.len()]);
    // The moments with the fewest states first: what they leave is for the others.
    let mut order: Vec<_> = (0..all.len()).collect();
    order.sort_by_key(|at| (possible[*at], mixed(bounds.seed ^ all[*at])));
    for (done, at) in order.iter().enumerate() {
        let each = left.div_ceil((order.len() - done) as u64);
        shares[*at] = possible[*at].min(each).min(left);
        left -= shares[*at];
    }
    let rest = others.into_iter().zip(std::iter::once(left).chain(std::iter::repeat(0)));
    all.into_iter().zip(shares).chain(rest).collect()
}
