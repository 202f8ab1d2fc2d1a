//! Chooses the entries that explain a state.

use super::{Entry, Judge, LeftOut, Loss, Standing, Wanted};
use crate::backend::recorder::{Log, Moment};
use std::cmp::Reverse;
use std::collections::HashSet;

/// Entries within so many moments of a lost write are its neighbours: it mostly matters what was kept although it came later.
const NEAR: Moment = 16;

/// Of flushes and marks, so many of the last ones say what was promised.
const PROMISES: usize = 100;

/// Which entries are named first. A loss is a fault because of what else is there, so the writes that are lost come
/// first, then what happened around them, then what had been promised; after that what might have been lost, and the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Wanted,
    Lost,
    Neighbour,
    Promise,
    Open,
    Rest,
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Write(usize),
    Flush(usize),
    Mark(usize),
}

/// Entries that are named, and those between them.
pub struct Chosen {
    pub entries: Vec<Entry>,
    pub left_out: Vec<LeftOut>,
}

/// At most `wanted.most` entries: those with the first ranks, of the last of these the newest.
pub fn choose(log: &Log, judge: &Judge, wanted: Wanted) -> Chosen {
    let first: HashSet<_> = wanted.first.iter().copied().collect();
    let is_lost = |number: &usize| first.contains(number) || judge.lost(*number) > 0;
    let mut lost: Vec<_> = judge
        .writes(log)
        .filter(|(number, _)| is_lost(number))
        .flat_map(|(_, write)| [write.start, write.done])
        .collect();
    lost.sort_unstable();
    let near = |start: Moment, done: Moment| {
        let from = start.saturating_sub(NEAR);
        lost.get(lost.partition_point(|at| *at < from)).is_some_and(|at| *at <= done.saturating_add(NEAR))
    };
    let rank = |which: Which, start: Moment, done: Moment| match which {
        Which::Write(number) if first.contains(&number) => Rank::Wanted,
        Which::Write(number) if judge.lost(number) > 0 => Rank::Lost,
        _ if near(start, done) => Rank::Neighbour,
        Which::Write(number) => match judge.standing(&log.writes()[number]) {
            Standing::Volatile | Standing::InFlight => Rank::Open,
            Standing::Flushed | Standing::Forced => Rank::Rest,
        },
        Which::Flush(_) | Which::Mark(_) => Rank::Rest,
    };
    let flushes = log.flushes().partition_point(|flush| flush.start < judge.cut);
    let marks = log.marks().partition_point(|mark| mark.at < judge.cut);
    let writes = judge.writes(log).map(|(number, write)| (Which::Write(number), write.start, write.done));
    let flushed = log.flushes()[..flushes].iter().enumerate();
    let flushed = flushed.map(|(at, flush)| (Which::Flush(at), flush.start, flush.done));
    let marked = log.marks()[..marks].iter().enumerate();
    let marked = marked.map(|(at, mark)| (Which::Mark(at), mark.at, mark.at));
    let mut all: Vec<_> = writes
        .chain(flushed)
        .chain(marked)
        .map(|(which, start, done)| {
            let rank = rank(which, start, done);
            let promise = match which {
                Which::Write(_) => false,
                Which::Flush(at) => at + PROMISES >= flushes,
                Which::Mark(at) => at + PROMISES >= marks,
            };
            (if promise { rank.min(Rank::Promise) } else { rank }, Reverse(start), which)
        })
        .collect();
    let rest = if all.len() > wanted.most {
        all.select_nth_unstable_by_key(wanted.most, |(rank, start, _)| (*rank, *start));
        all.split_off(wanted.most)
    } else {
        Vec::new()
    };
    let mut entries: Vec<_> = all.iter().map(|(_, _, which)| entry(log, judge, *which)).collect();
    entries.sort_by_key(Entry::start);
    Chosen {
        left_out: left_out(log, judge, &entries, rest.iter().map(|(_, start, which)| (start.0, *which))),
        entries,
    }
}

fn entry(log: &Log, judge: &Judge, which: Which) -> Entry {
    match which {
        Which::Write(number) => {
            let write = log.writes()[number];
            let (standing, loss) = (judge.standing(&write), judge.loss(number, &write));
            Entry::Write { number, write, standing, loss, lost: judge.lost(number) }
        }
        Which::Flush(at) => {
            let flush = log.flushes()[at];
            Entry::Flush { start: flush.start, answered: flush.done < judge.cut }
        }
        Which::Mark(at) => Entry::Mark(log.marks()[at].clone()),
    }
}

/// What lies between named entries, which are in order.
fn left_out(
    log: &Log,
    judge: &Judge,
    named: &[Entry],
    rest: impl Iterator<Item = (Moment, Which)>,
) -> Vec<LeftOut> {
    let mut gaps = vec![LeftOut { from: Moment::MAX, ..LeftOut::default() }; named.len() + 1];
    for (start, which) in rest {
        let gap = &mut gaps[named.partition_point(|entry| entry.start() < start)];
        gap.from = gap.from.min(start);
        match which {
            Which::Write(number) => {
                let write = &log.writes()[number];
                gap.all.add(write);
                if judge.loss(number, write) != Loss::None {
                    gap.lost.add(write);
                }
            }
            Which::Flush(_) => gap.flushes += 1,
            Which::Mark(_) => gap.marks += 1,
        }
    }
    gaps.retain(|gap| gap.from != Moment::MAX);
    gaps
}
