//! Which states are wanted, and of which disk.

use super::choose::{ALL, Choices, Grain};
use super::doubt::{Doubt, Promises, Walk};
use crate::backend::numbers::mixed;
use crate::backend::recorder::Moment;
use crate::number::to_usize;
use std::ops::Range;

/// What a disk does with writes when the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Model {
    /// It has the first writes that were not made durable, up to any.
    Prefix,
    /// It has any of them.
    Writes,
    /// It has any units of them.
    Torn,
    /// The same, but those of a write in flight may hold anything: the disk does not write units whole.
    Garbage,
    /// As torn, but a flush makes nothing durable: no disk may do this.
    LyingFlush,
    /// As torn, but a write with FUA is durable only after a flush: no disk may do this.
    IgnoredFua,
    /// It has all writes, but one of them elsewhere: no disk may do this.
    Misdirected,
    /// It has all writes, but a bit of one of them is another one: no disk may do this.
    BitRot,
}

impl Model {
    pub(super) fn promises(self) -> Promises {
        Promises {
            flush: self != Self::LyingFlush,
            fua: !matches!(self, Self::IgnoredFua | Self::LyingFlush),
        }
    }

    pub(super) fn grain(self) -> Grain {
        match self {
            Self::Prefix => Grain::Prefixes,
            Self::Writes => Grain::Writes,
            Self::Torn | Self::Garbage | Self::LyingFlush | Self::IgnoredFua => Grain::Units,
            Self::Misdirected => Grain::Moved,
            Self::BitRot => Grain::Flipped,
        }
    }
}

/// Which states are wanted.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// What the disk does.
    pub model: Model,
    /// The power fails at one of these moments. The end is one, too.
    pub moments: Range<Moment>,
    /// At most this number of states.
    pub budget: u64,
    /// What is never torn, in sectors.
    pub unit: u64,
    /// Determines what is drawn.
    pub seed: u64,
    /// The size of the disk, in sectors.
    pub sectors: u64,
}

impl Bounds {
    /// What is in doubt where the walk is.
    pub(super) fn doubt(&self, walk: &Walk) -> Doubt {
        let open: Vec<_> = walk.open().collect();
        let (mut units, mut all) = (Vec::new(), Vec::new());
        match self.model.grain() {
            Grain::Units => units = super::doubt::units(&open, self.unit, self.model == Model::Garbage),
            Grain::Moved | Grain::Flipped => {
                all.extend(walk.all().map(|number| (number, walk.log().writes()[number])));
            }
            Grain::Prefixes | Grain::Writes => {}
        }
        Doubt { moment: walk.at(), open, units, all, sectors: self.sectors }
    }

    pub(super) fn choices(&self, doubt: &Doubt) -> Choices {
        Choices::new(self.model.grain(), doubt, mixed(self.seed ^ mixed(doubt.moment)))
    }

    /// How many states are possible where the walk is; `None`: more than are all tried.
    pub(super) fn possible(&self, walk: &Walk) -> Option<u64> {
        // Each unit or write in doubt is there or not.
        let most = to_usize(ALL.ilog2().into());
        let too_many = match self.model.grain() {
            Grain::Prefixes => false,
            Grain::Moved | Grain::Flipped => true,
            Grain::Writes => walk.open().filter(|open| !open.certain).nth(most).is_some(),
            Grain::Units => walk.has_more_units(most, self.unit),
        };
        if too_many { None } else { self.choices(&self.doubt(walk)).total() }
    }

    /// Tells what the states where the walk is are of: the same writes and flushes until then, model, unit and seed give the same
    /// number.
    pub(super) fn record(&self, walk: &Walk) -> u32 {
        let options = [self.model as u64, self.unit, self.seed];
        let all = |number: u64, option| mixed(mixed(number).wrapping_add(option));
        // Each bit depends on everything.
        (options.into_iter().fold(walk.record(), all) >> 32) as u32
    }
}
