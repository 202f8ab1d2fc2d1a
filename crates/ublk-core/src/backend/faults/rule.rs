//! What goes wrong: which requests a rule concerns, and what it does to them.

use super::delay::{Delay, Pace};
use crate::backend::numbers::{fraction, mixed};
use crate::queue::{Errno, Flags, Op, Piece};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// What a rule does to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// It fails, and the disk below does not get it.
    Fail(Errno),
    /// Of writes and write-zeroes: those that would make it more than this number of bytes fail with ENOSPC.
    Full(u64),
    /// It is served later.
    Delay {
        /// By how much.
        time: Delay,
        /// Whether the delays of requests come one after the other, as with a single moving head. Otherwise each request
        /// has its own.
        in_turn: bool,
    },
    /// Of reads and writes: this number of bytes a second.
    Rate(Limit),
    /// This number of requests a second. One that comes alone does not wait.
    Requests(Limit),
    /// It waits until the disk is [thawed](super::Faults::thaw).
    Hang,
    /// A write, flush, discard or write-zeroes is answered, and not done.
    Lose,
    /// A write goes to a place that is this number of bytes further on, and its own place stays as it was. Beyond the end of
    /// the disk follows its beginning.
    Misdirect(u64),
    /// Of a write with more bytes, only these first bytes are written.
    Tear(u64),
    /// One bit of what is read or written is another.
    Corrupt,
}

/// How much passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// In a second. Not 0.
    pub per_second: u64,
    /// How much of it can be saved up while less is asked for. It is there at the beginning.
    pub burst: u64,
}

impl Limit {
    /// How long this amount takes, in nanoseconds.
    fn takes(&self, amount: u64) -> u64 {
        let nanos = u128::from(amount) * 1_000_000_000 / u128::from(self.per_second.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

impl Effect {
    /// Whether it can be had for such a request.
    fn suits(&self, piece: &Piece) -> bool {
        let writes = piece.op == Op::Write;
        match self {
            Self::Fail(_) | Self::Delay { .. } | Self::Requests(_) | Self::Hang => true,
            Self::Full(_) => writes || piece.op == Op::WriteZeroes,
            Self::Rate(_) | Self::Corrupt => piece.op.has_data(),
            Self::Lose => piece.op != Op::Read,
            Self::Misdirect(_) => writes,
            Self::Tear(bytes) => writes && piece.length > *bytes,
        }
    }

    /// Whether it looks at the data of requests.
    pub fn changes_data(&self) -> bool {
        *self == Self::Corrupt
    }
}

/// Kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ops(u8);

impl Ops {
    /// All.
    pub const ALL: Self = Self(0xff);
    /// None.
    pub const NONE: Self = Self(0);

    /// These and one more.
    #[must_use]
    pub const fn and(self, op: Op) -> Self {
        Self(self.0 | Self::bit(op))
    }

    /// Whether it is one of them.
    pub const fn has(self, op: Op) -> bool {
        self.0 & Self::bit(op) != 0
    }

    const fn bit(op: Op) -> u8 {
        match op {
            Op::Read => 1,
            Op::Write => 2,
            Op::Flush => 4,
            Op::Discard => 8,
            Op::WriteZeroes => 16,
            Op::Other(_) => 32,
        }
    }
}

/// A rule: what is done to which requests. The rule considers the requests of these kinds, in this range, and so on; of these it
/// is applied to those that `after`, `nth`, `every`, `probability` and `times` leave.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The kinds of requests.
    pub ops: Ops,
    /// The bytes of the disk: requests that have at least one of them. A flush has none, and is considered in any case.
    pub range: Range<u64>,
    /// Only those that a file system marked as its own structures, or only others.
    pub meta: Option<bool>,
    /// Only those that begin where the one before ended, or only others. Flushes, which have no place, are neither.
    pub sequential: Option<bool>,
    /// This number of requests is left alone first.
    pub after: u64,
    /// Only to this one: 1 is the first.
    pub nth: Option<u64>,
    /// Only to each of this number: 2 is every other one.
    pub every: Option<u64>,
    /// How likely it is for each, from 0 to 1.
    pub probability: Option<f64>,
    /// Not more often than this.
    pub times: Option<u64>,
    /// What it does.
    pub effect: Effect,
}

impl Rule {
    /// For all requests to which this can be done.
    pub const fn new(effect: Effect) -> Self {
        Self {
            ops: Ops::ALL,
            range: 0..u64::MAX,
            meta: None,
            sequential: None,
            after: 0,
            nth: None,
            every: None,
            probability: None,
            times: None,
            effect,
        }
    }

    fn concerns(&self, piece: &Piece) -> bool {
        let within = piece.op == Op::Flush
            || piece.offset < self.range.end && self.range.start < piece.offset.saturating_add(piece.length);
        self.ops.has(piece.op)
            && within
            && self.meta.is_none_or(|meta| meta == piece.flags.has(Flags::META))
            && self.effect.suits(piece)
    }
}

/// How often a rule came into question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// How many requests it considered.
    pub considered: u64,
    /// To how many it was applied.
    pub applied: u64,
}

/// A rule in use.
#[derive(Debug)]
pub struct Active {
    rule: Rule,
    /// Determines what is drawn.
    seed: u64,
    considered: AtomicU64,
    applied: AtomicU64,
    /// Where the last request that it considered ended.
    end: AtomicU64,
    /// Bytes that were written.
    written: AtomicU64,
    pace: Pace,
}

impl Active {
    /// The rule has not been applied yet.
    pub fn new(rule: Rule, seed: u64) -> Self {
        Self {
            rule,
            seed,
            considered: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            end: AtomicU64::new(0),
            written: AtomicU64::new(0),
            pace: Pace::default(),
        }
    }

    /// How often it came into question.
    pub fn tally(&self) -> Tally {
        Tally { considered: self.considered.load(Relaxed), applied: self.applied.load(Relaxed) }
    }

    /// What is done to a request, and a number that is drawn for it.
    pub fn hits(&self, piece: &Piece) -> Option<(Effect, u64)> {
        let Rule { sequential, after, nth, every, probability, times, effect, .. } = &self.rule;
        if !self.rule.concerns(piece) {
            return None;
        }
        if let Some(wanted) = sequential {
            if piece.op == Op::Flush {
                return None;
            }
            let before = self.end.swap(piece.offset.saturating_add(piece.length), Relaxed);
            if (before == piece.offset) != *wanted {
                return None;
            }
        }
        let number = self.considered.fetch_add(1, Relaxed) + 1;
        let count = number.checked_sub(*after).filter(|count| *count > 0)?;
        let drawn = mixed(self.seed ^ mixed(number));
        let hit = nth.is_none_or(|nth| count == nth)
            && every.is_none_or(|every| count.is_multiple_of(every.max(1)))
            && probability.is_none_or(|likely| fraction(drawn) < likely);
        if !hit || self.has_room(piece) {
            return None;
        }
        let once_more = |applied: u64| times.is_none_or(|times| applied < times).then_some(applied + 1);
        self.applied.fetch_update(Relaxed, Relaxed, once_more).ok()?;
        Some((*effect, mixed(drawn)))
    }

    /// Whether a write is within what the rule lets be written.
    fn has_room(&self, piece: &Piece) -> bool {
        let Effect::Full(room) = self.rule.effect else { return false };
        let fits = |written: u64| written.checked_add(piece.length).filter(|written| *written <= room);
        self.written.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }

    /// When a request goes on to which the rule is applied and that comes at this time, in nanoseconds; `None` if the rule has
    /// nothing to do with time.
    pub fn goes_on(&self, now: u64, piece: &Piece, drawn: u64) -> Option<u64> {
        let (limit, amount, ahead) = match self.rule.effect {
            Effect::Delay { time, in_turn } => {
                let takes = nanos(time.drawn(drawn));
                return Some(if in_turn {
                    self.pace.passes(now, takes, 0)
                } else {
                    now.saturating_add(takes)
                });
            }
            // The data takes its time; a request does so only for the next one.
            Effect::Rate(limit) => (limit, piece.length, limit.burst),
            Effect::Requests(limit) => (limit, 1, limit.burst.saturating_add(1)),
            _ => return None,
        };
        Some(self.pace.passes(now, limit.takes(amount), limit.takes(ahead)))
    }

    /// Whether it looks at the data of requests.
    pub fn changes_data(&self) -> bool {
        self.rule.effect.changes_data()
    }

    /// Whether it makes requests wait for a time.
    pub fn takes_time(&self) -> bool {
        matches!(self.rule.effect, Effect::Delay { .. } | Effect::Rate(_) | Effect::Requests(_))
    }
}

/// A time of at most some centuries.
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(offset: u64) -> Piece {
        Piece { op: Op::Write, flags: Flags::NONE, offset, length: 4096, at: 0, scatter: None }
    }

    #[test]
    fn a_flush_between_two_writes_leaves_them_sequential() {
        let sequential = Rule { sequential: Some(true), ..Rule::new(Effect::Fail(libc::EIO)) };
        let active = Active::new(sequential.clone(), 0);
        let flush = Piece { op: Op::Flush, length: 0, ..write(0) };
        let pieces = [write(8192), flush, write(12288), flush, write(0)];
        let hits = |active: &Active| pieces.map(|piece| active.hits(&piece).is_some());
        assert_eq!(hits(&active), [false, false, true, false, false]);
        assert_eq!(active.tally().considered, 1);
        let others = Active::new(Rule { sequential: Some(false), ..sequential }, 0);
        assert_eq!(hits(&others), [true, false, false, false, true]);
    }

    /// Which of a number of equal requests the rule is applied to.
    fn hits(rule: Rule, count: usize) -> Vec<usize> {
        let active = Active::new(rule, 5);
        (1..=count).filter(|_| active.hits(&write(0)).is_some()).collect()
    }

    #[test]
    fn a_rule_is_applied_to_those_that_it_names() {
        let rule = Rule::new(Effect::Fail(libc::EIO));
        assert_eq!(hits(rule.clone(), 3), [1, 2, 3]);
        assert_eq!(hits(Rule { nth: Some(3), ..rule.clone() }, 10), [3]);
        assert_eq!(hits(Rule { every: Some(4), after: 1, ..rule.clone() }, 10), [5, 9]);
        assert_eq!(hits(Rule { times: Some(2), after: 3, ..rule.clone() }, 10), [4, 5]);
        let likely = Rule { probability: Some(0.3), ..rule };
        let some = hits(likely.clone(), 1000);
        assert!((250..350).contains(&some.len()), "{}", some.len());
        assert_eq!(some, hits(likely.clone(), 1000), "the seed determines them");
        let other = Active::new(likely, 6);
        assert!((1..=1000).filter(|_| other.hits(&write(0)).is_some()).ne(some), "another seed, others");
    }

    #[test]
    fn a_rule_considers_the_requests_of_its_kinds_in_its_range() {
        let rule = Rule::new(Effect::Fail(libc::EIO));
        let here = Active::new(
            Rule { range: 4096..8192, ops: Ops::NONE.and(Op::Write).and(Op::Flush), ..rule.clone() },
            0,
        );
        assert!(here.hits(&write(0)).is_none() && here.hits(&write(8192)).is_none());
        assert!(here.hits(&write(7680)).is_some());
        assert!(here.hits(&Piece { op: Op::Read, ..write(4096) }).is_none());
        assert!(here.hits(&Piece { op: Op::Flush, length: 0, ..write(0) }).is_some());
        assert_eq!(here.tally(), Tally { considered: 2, applied: 2 });

        let meta = Active::new(Rule { meta: Some(true), ..rule.clone() }, 0);
        assert!(meta.hits(&write(0)).is_none());
        assert!(meta.hits(&Piece { flags: Flags::META, ..write(0) }).is_some());

        let jumps = Active::new(Rule { sequential: Some(false), ..rule }, 0);
        let hit: Vec<_> =
            [8192, 12288, 4096, 8192, 8192].map(|offset| jumps.hits(&write(offset)).is_some()).into();
        assert_eq!(hit, [true, false, true, false, true]);
    }

    #[test]
    fn a_rule_leaves_alone_what_its_effect_does_not_suit() {
        let is = |effect, op, length| {
            Active::new(Rule::new(effect), 0).hits(&Piece { op, length, ..write(0) }).is_some()
        };
        let ops = [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes];
        let limit = Limit { per_second: 1, burst: 0 };
        for (effect, suits) in [
            (Effect::Fail(5), [true; 5]),
            (Effect::Hang, [true; 5]),
            (Effect::Requests(limit), [true; 5]),
            (Effect::Rate(limit), [true, true, false, false, false]),
            (Effect::Corrupt, [true, true, false, false, false]),
            (Effect::Lose, [false, true, true, true, true]),
            (Effect::Misdirect(512), [false, true, false, false, false]),
            (Effect::Tear(512), [false, true, false, false, false]),
            (Effect::Full(0), [false, true, false, false, true]),
        ] {
            assert_eq!(ops.map(|op| is(effect, op, 1024)), suits, "{effect:?}");
        }
        assert!(!is(Effect::Tear(512), Op::Write, 512), "nothing is missing");
    }

    #[test]
    fn a_full_disk_takes_what_there_is_room_for() {
        let full = Active::new(Rule::new(Effect::Full(10_000)), 0);
        assert!(full.hits(&write(0)).is_none() && full.hits(&write(0)).is_none());
        assert!(full.hits(&write(0)).is_some());
        assert!(full.hits(&Piece { length: 1024, ..write(0) }).is_none(), "there is room for less");
        assert!(full.hits(&Piece { length: 1024, ..write(0) }).is_some());
        assert_eq!(full.tally(), Tally { considered: 5, applied: 2 });
    }

    #[test]
    fn limits_are_kept() {
        let limit = Limit { per_second: 1 << 20, burst: 0 };
        let rate = Active::new(Rule::new(Effect::Rate(limit)), 0);
        let second = 1_000_000_000;
        assert_eq!(rate.goes_on(0, &write(0), 0), Some(second / 256));
        assert_eq!(rate.goes_on(0, &write(0), 0), Some(second / 128));
        let burst = Limit { per_second: 100, burst: 50 };
        let requests = Active::new(Rule::new(Effect::Requests(burst)), 0);
        let passed = (0..200).map(|_| requests.goes_on(second, &write(0), 0));
        assert_eq!(passed.filter(|passes| *passes == Some(second)).count(), 51);
        assert_eq!(requests.goes_on(second, &write(0), 0), Some(second + second * 150 / 100));
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let effect = prop_oneof![
            Just(Effect::Fail(5)),
            Just(Effect::Lose),
            Just(Effect::Corrupt),
            (0..20_000_u64).prop_map(Effect::Full),
            (1..5000_u64).prop_map(|micros| {
                let time = Delay::Uniform(Duration::ZERO, Duration::from_micros(micros));
                Effect::Delay { time, in_turn: false }
            }),
        ];
        let counts = (0..4_u64, prop::option::of(1..9_u64), prop::option::of(1..5_u64));
        let more = (prop::option::of(0.0..1.0), prop::option::of(0..9_u64), prop::option::of(any::<bool>()));
        (effect, counts, more, 0..64_u64, 1..64_u64).prop_map(
            |(effect, (after, nth, every), (probability, times, sequential), from, blocks)| Rule {
                range: from * 512..(from + blocks) * 512,
                sequential,
                after,
                nth,
                every,
                probability,
                times,
                ..Rule::new(effect)
            },
        )
    }

    fn piece() -> impl Strategy<Value = Piece> {
        let op = prop_oneof![Just(Op::Read), Just(Op::Write), Just(Op::Flush), Just(Op::Discard)];
        (op, 0..64_u64, 1..9_u64).prop_map(|(op, from, blocks)| Piece {
            op,
            length: if op == Op::Flush { 0 } else { blocks * 512 },
            ..write(from * 512)
        })
    }

    proptest! {
        #[test]
        fn rules_seed_and_requests_determine_all_that_happens(
            rule in rule(),
            seed in any::<u64>(),
            pieces in prop::collection::vec(piece(), 1..100),
        ) {
            let [one, other] = [0, 1].map(|_| Active::new(rule.clone(), seed));
            let mut applied = 0;
            for piece in &pieces {
                let hit = one.hits(piece);
                prop_assert_eq!(hit, other.hits(piece));
                let at = |active: &Active| hit.and_then(|(_, drawn)| active.goes_on(0, piece, drawn));
                prop_assert_eq!(at(&one), at(&other));
                applied += u64::from(hit.is_some());
            }
            prop_assert_eq!(one.tally().applied, applied);
            prop_assert!(rule.times.is_none_or(|times| applied <= times));
        }
    }
}
