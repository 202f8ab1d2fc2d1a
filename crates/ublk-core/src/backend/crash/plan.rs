//! At which moments the power fails, and how many states of each are tried.

use super::bounds::Bounds;
use crate::backend::numbers::mixed;
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

/// Spreads a budget over the moments, in rounds: a round takes as many moments as its budget is enough for, wherever in the log
/// they are. What its states do not use up, because some have a content that was tried already, is the budget of the next round.
pub struct Plan {
    /// The moments that are left: those that find most first, otherwise in an order that the seed determines.
    left: std::vec::IntoIter<Moment>,
    /// The least number of moments in the next round. It grows, so that there are few rounds.
    least: usize,
    seed: u64,
}

impl Plan {
    /// For the moments within bounds.
    pub fn new(log: &Log, bounds: &Bounds) -> Self {
        let mut left = moments(log, &bounds.moments);
        let (fullest, seed) = (fullest(log, &left), bounds.seed);
        left.sort_by_cached_key(|moment| (!fullest.contains(moment), mixed(seed ^ mixed(*moment))));
        Self { left: left.into_iter(), least: 1, seed }
    }

    /// The next moments, in order, and how many states of each are tried. None: there are no others. `possible`: how many states
    /// each of some moments has, which are in order; `None`: more than are all tried.
    pub fn round(
        &mut self,
        budget: u64,
        mut possible: impl FnMut(&[Moment]) -> Vec<Option<u64>>,
    ) -> Vec<(Moment, u64)> {
        let mut taken = Vec::new();
        let (mut wanted, mut more) =
            (budget, self.least.max(budget.div_ceil(EACH).try_into().unwrap_or(usize::MAX)));
        while (wanted > 0 || taken.len() < self.least) && !self.left.as_slice().is_empty() {
            let left = self.left.as_slice();
            let next = &left[..more.min(left.len())];
            let mut order: Vec<_> = (0..next.len()).collect();
            order.sort_by_key(|at| next[*at]);
            let sorted: Vec<_> = order.iter().map(|at| next[*at]).collect();
            let mut counts = vec![0; next.len()];
            for (at, count) in order.into_iter().zip(possible(&sorted)) {
                counts[at] = count.unwrap_or(u64::MAX);
            }
            for count in counts {
                if wanted == 0 && taken.len() >= self.least {
                    break;
                }
                wanted = wanted.saturating_sub(count.min(EACH));
                taken.extend(self.left.next().map(|moment| (moment, count)));
            }
            more = more.saturating_mul(2);
        }
        self.least = self.least.saturating_mul(2);
        self.shares(budget, taken)
    }

    /// Spreads a budget over moments with a number of possible states each: as many of each, unless it has fewer.
    pub fn shares(&self, budget: u64, mut moments: Vec<(Moment, u64)>) -> Vec<(Moment, u64)> {
        // The moments with the fewest states first: what they leave is for the others.
        moments.sort_by_key(|(moment, possible)| (*possible, mixed(self.seed ^ *moment)));
        let (mut left, mut count) = (budget, moments.len() as u64);
        for (_, share) in &mut moments {
            *share = (*share).min(left.div_ceil(count));
            left -= *share;
            count -= 1;
        }
        moments.sort_unstable();
        moments
    }
}
