//! A disk that goes wrong where rules say so.

use super::bytes::Bytes;
use super::plan::{Any, Opening, Plan};
use super::{Below, Kind, read};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use ublk_core::backend::{Backend, Delay, Effect, Faults, Limit, Op, Ops, Rule};
use ublk_core::claim::Role;
use ublk_core::error::{Error, Result};

/// See the [module](self).
pub const KIND: Kind = Kind { name: "faults", below: Below::Anything, usual: None, read: read::<Options> };

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    disk: Any,
    rules: Vec<RuleOptions>,
    seed: Bytes,
}

impl Plan for Options {
    fn open(&self, how: &Opening) -> Result<Arc<dyn Backend>> {
        let rules = self.rules.iter().map(Rule::from).collect();
        let faults = Arc::new(Faults::new(self.disk.0.open(how)?, rules, self.seed.0)?);
        how.contents.faults.set(faults.clone()).map_err(|_| {
            Error::invalid("more than one disk of a stack has faults").hint("one is possible")
        })?;
        Ok(faults)
    }

    fn files(&self) -> Vec<(Role, String)> {
        self.disk.0.files()
    }
}

/// Reads a list of rules, as [`Options`] has it.
pub fn read_rules(rules: Value) -> Result<Vec<Rule>> {
    let rules: Vec<RuleOptions> = serde_json::from_value(rules)
        .map_err(|error| Error::invalid(format!("the rules are wrong: {error}")))?;
    Ok(rules.iter().map(Rule::from).collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleOptions {
    /// Default: all.
    ops: Option<Vec<Kinds>>,
    /// First byte of the range. Default: 0.
    from: Option<Bytes>,
    /// The byte behind the range. Default: none.
    to: Option<Bytes>,
    meta: Option<bool>,
    sequential: Option<bool>,
    after: Option<Bytes>,
    nth: Option<Bytes>,
    every: Option<Bytes>,
    probability: Option<f64>,
    times: Option<Bytes>,
    effect: EffectOptions,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "camelCase")]
enum Kinds {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum EffectOptions {
    Fail { errno: u16 },
    Full { bytes: Bytes },
    Delay { time: Times, in_turn: bool },
    Rate { per_second: Bytes, burst: Bytes },
    Requests { per_second: Bytes, burst: Bytes },
    Hang {},
    Lose {},
    Misdirect { bytes: Bytes },
    Tear { bytes: Bytes },
    Corrupt {},
}

/// In nanoseconds.
#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
enum Times {
    Fixed(Bytes),
    Uniform(Bytes, Bytes),
    Normal(Bytes, Bytes),
}

impl From<&RuleOptions> for Rule {
    fn from(options: &RuleOptions) -> Self {
        let number = |number: &Option<Bytes>| number.map(|number| number.0);
        let op = |kind: &Kinds| match kind {
            Kinds::Read => Op::Read,
            Kinds::Write => Op::Write,
            Kinds::Flush => Op::Flush,
            Kinds::Discard => Op::Discard,
            Kinds::WriteZeroes => Op::WriteZeroes,
        };
        let ops = |kinds: &Vec<Kinds>| kinds.iter().map(op).fold(Ops::NONE, Ops::and);
        Self {
            ops: options.ops.as_ref().map_or(Ops::ALL, ops),
            range: number(&options.from).unwrap_or(0)..number(&options.to).unwrap_or(u64::MAX),
            meta: options.meta,
            sequential: options.sequential,
            after: number(&options.after).unwrap_or(0),
            nth: number(&options.nth),
            every: number(&options.every),
            probability: options.probability,
            times: number(&options.times),
            ..Self::new(options.effect.into())
        }
    }
}

impl From<EffectOptions> for Effect {
    fn from(options: EffectOptions) -> Self {
        let limit = |per_second: Bytes, burst: Bytes| Limit { per_second: per_second.0, burst: burst.0 };
        match options {
            EffectOptions::Fail { errno } => Self::Fail(errno.into()),
            EffectOptions::Full { bytes } => Self::Full(bytes.0),
            EffectOptions::Delay { time, in_turn } => Self::Delay { time: time.into(), in_turn },
            EffectOptions::Rate { per_second, burst } => Self::Rate(limit(per_second, burst)),
            EffectOptions::Requests { per_second, burst } => Self::Requests(limit(per_second, burst)),
            EffectOptions::Hang {} => Self::Hang,
            EffectOptions::Lose {} => Self::Lose,
            EffectOptions::Misdirect { bytes } => Self::Misdirect(bytes.0),
            EffectOptions::Tear { bytes } => Self::Tear(bytes.0),
            EffectOptions::Corrupt {} => Self::Corrupt,
        }
    }
}

impl From<Times> for Delay {
    fn from(times: Times) -> Self {
        let nanos = |nanos: Bytes| Duration::from_nanos(nanos.0);
        match times {
            Times::Fixed(time) => Self::Fixed(nanos(time)),
            Times::Uniform(least, most) => Self::Uniform(nanos(least), nanos(most)),
            Times::Normal(mean, deviation) => Self::Normal(nanos(mean), nanos(deviation)),
        }
    }
}
