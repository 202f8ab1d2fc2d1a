//! Goes through the states of a log.

use super::bounds::{Bounds, Model};
use super::choose::{Choice, Choices, Grain, prefix};
use super::content::{Contents, LogData};
use super::doubt::{Doubt, Open, Unit, Walk};
use super::plan::Plan;
use crate::abi::SECTOR;
use crate::backend::numbers::{Numbers, mixed};
use crate::backend::recorder::{ContentMap, Log, Moment, Origin};
use crate::number::to_usize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// How many choices are made for each state that is wanted: some have a content that was tried already.
const SPARE: u64 = 4;

/// How many different sectors of garbage there are.
const GARBAGE: u64 = 256;

/// What is wrong with a part of a write, compared with the newest content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The number of the write in the log.
    pub write: usize,
    /// The sectors of it that are missing.
    pub sectors: Range<u64>,
    /// What is there instead.
    pub how: How,
}

/// What is there in the place of a part of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// What was there before.
    Missing,
    /// Garbage.
    Garbage,
    /// What was there before; and the part is at this sector.
    Moved(u64),
    /// The part with another value of this bit.
    Flipped(u32),
}

/// What the disk may have after a cut.
#[derive(Debug, Clone)]
pub struct State {
    /// When the power failed: all events before that have happened.
    pub cut: Moment,
    /// Its number among the choices at that moment; `None`: it was made from what it lacks.
    pub number: Option<u64>,
    /// Tells what it is a state of: the writes and flushes until then, the model and the seed. Another record has another number.
    pub record: u32,
    /// What is there.
    pub choice: Choice,
    /// The content.
    pub content: ContentMap,
    /// What is missing, in the order of the log.
    pub lost: Vec<Lost>,
}

/// See the [module](self).
pub struct States {
    log: Arc<Log>,
    before: ContentMap,
    walk: Walk,
    bounds: Bounds,
    /// The moments at which the power fails.
    plan: Option<Plan>,
    /// Those of this round that are left, and how many states of each are tried.
    cuts: std::vec::IntoIter<(Moment, u64)>,
    /// Those where more choices are left than were tried: once all moments were tried, they get what is left of the budget.
    begun: BTreeMap<Moment, Option<Choices>>,
    /// These have got it.
    last: bool,
    /// The choices at the present one of these.
    choices: Option<(Moment, Choices)>,
    /// How many more states of it are wanted, and how many more choices are made for that.
    wanted: u64,
    tries: u64,
    at: Doubt,
    contents: Contents,
    /// The number of the durable content.
    durable: u64,
    /// Where the log's data has garbage, once that is needed.
    garbage: Option<u64>,
    /// Where it has a copy of the sector at a place with another value of a bit: a damage that is tried again takes no more room.
    flipped: HashMap<(u64, u32), Origin>,
    /// What was tried: the number of the content, and how many marks were set.
    tried: HashSet<(u64, usize)>,
}

impl States {
    /// Of a disk that had the content `before` when the log began.
    pub fn new(log: Arc<Log>, before: ContentMap, bounds: Bounds) -> Self {
        Self {
            walk: Walk::new(log.clone(), before.clone(), bounds.model.promises()),
            log,
            before,
            wanted: bounds.budget,
            bounds,
            plan: None,
            cuts: Vec::new().into_iter(),
            begun: BTreeMap::new(),
            last: false,
            choices: None,
            tries: 0,
            at: Doubt::default(),
            contents: Contents::default(),
            durable: 0,
            garbage: None,
            flipped: HashMap::new(),
            tried: HashSet::new(),
        }
    }

    /// The log that they are of.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Which ones they are.
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Whether the log says what happened until a moment. What it forgot when the power was switched on is not known.
    pub fn covers(&self, moment: Moment) -> bool {
        (self.log.beginning_at()..=self.log.now()).contains(&moment)
    }

    /// The next state that was not tried yet with the same content and marks; `None`: there is none, or the budget is used up.
    /// After an error, the same one is tried again.
    pub fn next(&mut self, data: &dyn LogData) -> io::Result<Option<State>> {
        loop {
            if let Some((moment, mut choices)) = self.choices.take() {
                if self.wanted == 0 || self.tries == 0 {
                    self.begun.insert(moment, Some(choices));
                    continue;
                }
                self.choices = Some((moment, choices.clone()));
                self.go_to(moment, data)?;
                let number = choices.number();
                let Some(choice) = choices.next(&self.at) else {
                    self.choices = None;
                    continue;
                };
                let state = self.state(Some(number), choice, data)?;
                let is_new = self.is_new(&state, data)?;
                self.choices = Some((moment, choices));
                self.tries -= 1;
                if is_new {
                    self.wanted -= 1;
                    return Ok(Some(state));
                }
                continue;
            }
            let Some((moment, share)) = self.cuts.as_slice().first().copied() else {
                if !self.plan_round() {
                    return Ok(None);
                }
                continue;
            };
            if self.wanted + share > 0 {
                self.go_to(moment, data)?;
            }
            self.cuts.next();
            // What the last one did not use up is for this one.
            self.wanted += share;
            let begun = self.begun.remove(&moment).flatten();
            if self.wanted == 0 {
                self.begun.insert(moment, begun);
                continue;
            }
            let choices = begun.unwrap_or_else(|| self.bounds.choices(&self.at));
            let most = self.bounds.budget.saturating_mul(SPARE).saturating_sub(choices.number());
            self.tries = self.wanted.saturating_mul(SPARE).min(most);
            self.choices = Some((moment, choices));
        }
    }

    /// What the last moments did not use up of the budget is for others. Whether there are any.
    fn plan_round(&mut self) -> bool {
        let Self { log, bounds, begun, .. } = self;
        let budget = std::mem::take(&mut self.wanted);
        if budget == 0 || self.last {
            return false;
        }
        let plan = self.plan.get_or_insert_with(|| Plan::new(log, bounds));
        let mut cuts = plan.round(budget, |moments| {
            let mut walk = Walk::new(log.clone(), ContentMap::default(), bounds.model.promises());
            let possible = |moment: &Moment| {
                walk.to(*moment);
                bounds.possible(&walk)
            };
            moments.iter().map(possible).collect()
        });
        if cuts.is_empty() {
            let left = |choices: &Option<Choices>| choices.as_ref().map_or(u64::MAX, Choices::left);
            cuts = begun.iter().map(|(moment, choices)| (*moment, left(choices))).collect();
            let again: Vec<_> = begun.keys().map(|moment| (*moment, 0)).collect();
            cuts = plan.shares(budget, cuts);
            // What the last ones leave, too.
            cuts.extend(again);
            self.last = true;
        }
        self.cuts = cuts.into_iter();
        !self.cuts.as_slice().is_empty()
    }

    fn is_new(&mut self, state: &State, data: &dyn LogData) -> io::Result<bool> {
        let change = self.contents.change(self.walk.durable(), &state.content, data)?;
        // With another promise, the same content may be a wrong one.
        let marks = self.log.marks().partition_point(|mark| mark.at < state.cut);
        Ok(self.tried.insert((self.durable.wrapping_add(change), marks)))
    }

    /// The state with that number at a moment.
    pub fn replay(&mut self, moment: Moment, number: u64, data: &dyn LogData) -> io::Result<Option<State>> {
        if !self.covers(moment) || number >= self.bounds.budget.saturating_mul(SPARE) {
            return Ok(None);
        }
        self.go_to(moment, data)?;
        let mut choices = self.bounds.choices(&self.at);
        while choices.number() < number {
            if choices.next(&self.at).is_none() {
                return Ok(None);
            }
        }
        let choice = choices.next(&self.at);
        choice.map(|choice| self.state(Some(number), choice, data)).transpose()
    }

    /// The state at a moment that lacks only this: for finding out which losses matter. What a disk cannot lack alone, such as
    /// the older of two changes of a unit, is there.
    pub fn without(&mut self, moment: Moment, lost: &[Lost], data: &dyn LogData) -> io::Result<State> {
        self.go_to(moment.min(self.log.now()), data)?;
        let Doubt { open, units, .. } = &self.at;
        let mut by_write: HashMap<usize, Vec<&Range<u64>>> = HashMap::new();
        for lost in lost {
            by_write.entry(lost.write).or_default().push(&lost.sectors);
        }
        let is_lost = |open: &Open, part: Range<u64>| {
            let overlaps = |range: &&Range<u64>| range.start < part.end && part.start < range.end;
            !open.certain && by_write.get(&open.number).is_some_and(|ranges| ranges.iter().any(overlaps))
        };
        let there = open.iter().map(|open| !is_lost(open, open.write.range()));
        let choice = match self.bounds.model.grain() {
            Grain::Units => {
                let here = |lost: &&Lost, unit: &Unit| {
                    lost.sectors.start < unit.sectors.end && unit.sectors.start < lost.sectors.end
                };
                let garbage: Vec<_> = lost.iter().filter(|lost| lost.how == How::Garbage).collect();
                let garbage = |unit: &Unit| unit.garbage && garbage.iter().any(|lost| here(lost, unit));
                let there = |at: &usize, unit: &Unit| !is_lost(&open[*at], unit.part(&open[*at].write));
                let applied = units.iter().map(|unit| {
                    if garbage(unit) {
                        return unit.as_garbage();
                    }
                    let last = unit.versions.iter().rposition(|at| there(at, unit));
                    last.map_or(0, |at| at + 1).max(unit.least)
                });
                Choice::Units(applied.collect())
            }
            Grain::Writes => Choice::Writes(there.collect()),
            Grain::Prefixes => {
                let there: Vec<_> = there.collect();
                let doubtful = there.iter().zip(open).filter(|(_, open)| !open.certain);
                prefix(&self.at, doubtful.rev().take_while(|(there, _)| !**there).count() as u64)
            }
            Grain::Moved | Grain::Flipped => {
                self.damage(lost).unwrap_or_else(|| Choice::Writes(vec![true; open.len()]))
            }
        };
        self.state(None, choice, data)
    }

    /// The writes that were started at a moment or later, before the next mark, in order: what each of them is as a loss, and the
    /// moment after its start. So a state at that moment that lacks it is the newest content before it.
    pub fn later(&self, moment: Moment) -> Vec<(Moment, Lost)> {
        let next = self.log.marks().iter().map(|mark| mark.at).find(|at| *at >= moment);
        let end = self.bounds.moments.end.min(next.unwrap_or(Moment::MAX));
        let writes = self.log.writes().iter().enumerate();
        let mut later: Vec<_> = writes
            .filter(|(_, write)| (moment..end).contains(&write.start))
            .map(|(number, write)| {
                (write.start + 1, Lost { write: number, sectors: write.range(), how: How::Missing })
            })
            .collect();
        later.sort_unstable_by_key(|(cut, _)| *cut);
        later
    }

    /// The one damage that is the only loss, if a write so far can be damaged like that.
    fn damage(&self, lost: &[Lost]) -> Option<Choice> {
        let [Lost { write: number, sectors, how }] = lost else { return None };
        let (_, write) = self.at.all.iter().find(|(at, _)| at == number)?;
        let range = write.range();
        match how {
            How::Moved(to) => {
                let end = to.checked_add(u64::from(write.sectors))?;
                (*sectors == range && end <= self.at.sectors).then_some(Choice::Moved(*number, *to))
            }
            How::Flipped(bit) => {
                let fits =
                    sectors.start.checked_add(1) == Some(sectors.end) && range.contains(&sectors.start);
                let newest = self.at.newest(sectors.start) == Some(*number);
                (fits && newest && u64::from(*bit) < SECTOR * 8).then_some(Choice::Flipped(
                    *number,
                    sectors.start,
                    *bit,
                ))
            }
            How::Missing | How::Garbage => None,
        }
    }

    fn go_to(&mut self, moment: Moment, data: &dyn LogData) -> io::Result<()> {
        if moment < self.walk.at() {
            self.go_back();
        } else if moment == self.at.moment {
            return Ok(());
        }
        let before = self.walk.durable().clone();
        self.walk.to(moment);
        match self.contents.change(&before, self.walk.durable(), data) {
            Ok(change) => {
                self.durable = self.durable.wrapping_add(change);
                self.at = self.bounds.doubt(&self.walk);
                Ok(())
            }
            // The walk is ahead of the rest.
            Err(error) => {
                self.go_back();
                Err(error)
            }
        }
    }

    /// To the beginning of the log.
    fn go_back(&mut self) {
        self.walk = Walk::new(self.log.clone(), self.before.clone(), self.bounds.model.promises());
        self.durable = 0;
        self.at = Doubt::default();
    }

    fn state(&mut self, number: Option<u64>, choice: Choice, data: &dyn LogData) -> io::Result<State> {
        let garbage = match &choice {
            Choice::Units(_) if self.bounds.model == Model::Garbage => self.garbage(data)?,
            _ => 0,
        };
        let Doubt { moment, open, units, .. } = &self.at;
        let mut content = self.walk.durable().clone();
        let mut lost = Vec::new();
        match &choice {
            Choice::Writes(there) => {
                for (open, there) in open.iter().zip(there) {
                    if *there {
                        Log::apply(&open.write, &mut content);
                    } else {
                        let (write, sectors) = (open.number, open.write.range());
                        lost.push(Lost { write, sectors, how: How::Missing });
                    }
                }
            }
            Choice::Units(applied) => {
                for (unit, applied) in units.iter().zip(applied) {
                    // What is before it cannot be seen, and is not lost.
                    let whole =
                        |at: &usize| open[*at].complete && unit.part(&open[*at].write) == unit.sectors;
                    let there = &unit.versions[..unit.versions.len().min(*applied)];
                    let first = there.iter().rposition(whole).unwrap_or(0);
                    for (order, at) in unit.versions.iter().enumerate().skip(first) {
                        let Open { number, write, complete, .. } = &open[*at];
                        let sectors = unit.part(write);
                        let garbage_here = *applied == unit.as_garbage() && !complete;
                        if order < *applied && !garbage_here {
                            content.set(sectors.clone(), write.place.behind(sectors.start - write.sector));
                            continue;
                        }
                        let how = if garbage_here { How::Garbage } else { How::Missing };
                        for sector in sectors.clone().filter(|_| garbage_here) {
                            let which = mixed(sector ^ mixed(*number as u64)) % GARBAGE;
                            content.set(sector..sector + 1, Origin::data(garbage + which * SECTOR));
                        }
                        lost.push(Lost { write: *number, sectors, how });
                    }
                }
                lost.sort_by_key(|lost| (lost.write, lost.sectors.start));
                lost.dedup_by(|next, lost| {
                    let follows = (lost.write, lost.how) == (next.write, next.how)
                        && lost.sectors.end == next.sectors.start;
                    if follows {
                        lost.sectors.end = next.sectors.end;
                    }
                    follows
                });
            }
            Choice::Moved(number, to) => {
                content = self.before.clone();
                for at in self.walk.all() {
                    let write = self.log.writes()[at];
                    if at == *number {
                        content.set(*to..to + u64::from(write.sectors), write.place);
                        lost.push(Lost { write: at, sectors: write.range(), how: How::Moved(*to) });
                    } else {
                        Log::apply(&write, &mut content);
                    }
                }
            }
            Choice::Flipped(number, sector, bit) => {
                open.iter().for_each(|open| Log::apply(&open.write, &mut content));
                // A later discard may have taken its place.
                if let Some(offset) = content.of(*sector).offset() {
                    let flipped = match self.flipped.entry((offset, *bit)) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(new) => {
                            let mut copy = [0; to_usize(SECTOR)];
                            data.read(offset, &mut copy)?;
                            copy[to_usize(u64::from(*bit) / 8)] ^= 1 << (bit % 8);
                            *new.insert(Origin::data(data.add(&copy)?))
                        }
                    };
                    content.set(*sector..sector + 1, flipped);
                    let how = How::Flipped(*bit);
                    lost.push(Lost { write: *number, sectors: *sector..sector + 1, how });
                }
            }
        }
        Ok(State { cut: *moment, number, record: self.bounds.record(&self.walk), choice, content, lost })
    }

    /// Sectors of garbage, the same for all states of a log.
    fn garbage(&mut self, data: &dyn LogData) -> io::Result<u64> {
        if let Some(garbage) = self.garbage {
            return Ok(garbage);
        }
        let mut numbers = Numbers::new(GARBAGE);
        let bytes: Vec<u8> = (0..GARBAGE * SECTOR / 8).flat_map(|_| numbers.next().to_le_bytes()).collect();
        let garbage = data.add(&bytes)?;
        self.garbage = Some(garbage);
        Ok(garbage)
    }
}
